"""Who runs the cells of a grid: processes of this machine (concurrent.futures), a cluster's queue (submitit), or ray.

None of them is ours; what is here hands out jobs and turns a process that ended without an answer into one that says
so. No torch.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any, Protocol

from rim_bench.runs.job import UNKNOWN, Job, JobResult, execute
from rim_bench.runs.options import check_executor, load_extra, settings_text
from rim_bench.util.errors import UsageError

WORKERS = 2  # of the local one, where there is no GPU
MINUTES = 24 * 60  # a submitit job may take, unless another number is given; its own default is a few minutes
POLL = 0.5  # seconds between two looks at a queue
Answer = tuple[Job, JobResult]
Work = Callable[[Job], JobResult]


class Executor(Protocol):
    """Runs jobs, several at a time. Each that is started comes back from `wait` exactly once."""

    elsewhere: bool  # jobs may run on other machines
    together: int  # jobs that may compute on one machine at a time; UNKNOWN where that is not known

    @property
    def room(self) -> int: ...  # how many more jobs it takes now
    def start(self, job: Job) -> None: ...
    def wait(self) -> list[Answer]: ...  # blocks until a job has ended; at least one must be under way
    def close(self) -> None: ...  # ends what is still under way


def died(reason: str) -> JobResult:
    """What is said of a process that ended without an answer."""
    return JobResult("failed", reason=reason)


# This machine
class _Context(SpawnContext):
    """Starts processes afresh and remembers the last one, whose end the executor does not tell."""

    started: Any = None

    def Process(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        self.started = super().Process(*args, **kwargs)
        return self.started


def _begin(gpu: str | None) -> None:
    """Makes a worker see its own GPU alone, ignore Ctrl-C, and end when the process that started it does."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)  # what is under way goes on from its last checkpoint another time


def ended(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None or code >= 0:
        return "its process ended without an answer" + ("" if code is None else f" (exit code {code})")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"its process was ended by {name}" + (
        ", as a system does that is short of memory" if name == "SIGKILL" else ""
    )


class _Slot:
    """One worker process at a time, in an executor of its own: if it dies, no other cell's process ends with it."""

    def __init__(self, gpu: str | None) -> None:
        self.gpu = gpu
        self.context = _Context()
        self.pool: ProcessPoolExecutor | None = None

    def submit(self, work: Work, job: Job) -> Future[JobResult]:
        if self.pool is None:
            self.pool = ProcessPoolExecutor(1, mp_context=self.context, initializer=_begin, initargs=(self.gpu,))
        try:
            return self.pool.submit(work, job)
        except BrokenExecutor:  # its process ended while it had nothing to do
            self.end()
            return self.submit(work, job)

    def end(self, *, kill: bool = False) -> int | None:
        """Ends the process, which the next job gets anew; returns its exit code."""
        pool, self.pool = self.pool, None
        if pool is None:
            return None
        process = self.context.started
        if kill and process is not None and process.is_alive():
            process.kill()  # run folders bear that at any moment
        pool.shutdown(wait=True, cancel_futures=True)
        code: int | None = None if process is None else process.exitcode
        return code


class Local:
    """Worker processes of this machine, each with one thread pool and one GPU, that take one job after the other.

    Args:
        gpus: as CUDA_VISIBLE_DEVICES names them, handed out in turn; none: workers see what this process sees.
    """

    elsewhere = False

    def __init__(self, workers: int, gpus: Sequence[str] = (), work: Work = execute) -> None:
        self.work = work
        self.free = [_Slot(gpus[i % len(gpus)] if gpus else None) for i in range(workers)]
        self.together = workers
        self.busy: dict[Future[JobResult], tuple[_Slot, Job]] = {}

    @property
    def room(self) -> int:
        return len(self.free)

    def start(self, job: Job) -> None:
        slot = self.free.pop(0)
        self.busy[slot.submit(self.work, job)] = (slot, job)

    def wait(self) -> list[Answer]:
        out: list[Answer] = []
        for future in wait_for(self.busy, return_when=FIRST_COMPLETED).done:
            slot, job = self.busy.pop(future)
            try:
                told = future.result()
            except BrokenExecutor:
                told = died(ended(slot.end()))
            except Exception as error:  # an answer that could not be sent
                told = died(f"{type(error).__name__}: {error}")
            if told.state == "failed":
                slot.end()  # the next attempt begins in a fresh process
            self.free.append(slot)
            out.append((job, told))
        return out

    def close(self) -> None:
        for slot, _ in self.busy.values():
            slot.end(kill=True)
        for slot in self.free:
            slot.end()


# A cluster's queue
class Submitit:
    """One job of a cluster's queue per run (Slurm, or submitit's `cluster=local`).

    Args:
        folder: of submitit's files; all machines must see it.

    Raises:
        UsageError: submitit is not installed, or settings that it does not have.
    """

    elsewhere = True

    def __init__(self, folder: Path, workers: int | None, settings: Mapping[str, Any], *, gpu: bool) -> None:
        submitit = load_extra("submitit")
        given = {"timeout_min": MINUTES, **({"gpus_per_node": 1} if gpu else {}), "name": "rim-bench", **settings}
        cluster = given.pop("cluster", None)
        try:
            self.executor = submitit.AutoExecutor(folder=str(folder), cluster=cluster)
            self.executor.update_parameters(**given)
        except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as error:
            raise UsageError(
                f"submitit does not take {settings_text(settings) or 'this machine'}: {_first(error)}"
            ) from None
        here = self.executor.cluster in ("local", "debug")  # submitit's stand-ins for a queue: this machine
        self.most = workers or (WORKERS if here else None)
        alone = (
            workers == 1 or settings.get("slurm_exclusive") is True
        )  # "user" keeps other users away, not other cells
        self.together = self.most if here and self.most else 1 if alone else UNKNOWN
        self.busy: list[tuple[Any, Job]] = []
        self.lost: list[Answer] = []  # what the queue did not take

    @property
    def room(self) -> int:
        return 1 if self.most is None else self.most - len(self.busy) - len(self.lost)

    def start(self, job: Job) -> None:
        try:
            self.busy.append((self.executor.submit(execute, job), job))
        except (
            Exception
        ) as error:  # of several kinds: an option that the queue does not know, a queue that does not answer
            self.lost.append((job, died(f"submitit could not start it: {_first(error)}")))

    def wait(self) -> list[Answer]:
        if self.lost:
            out, self.lost = self.lost, []
            return out
        while not (ready := [(task, job) for task, job in self.busy if task.done()]):
            time.sleep(POLL)
        self.busy = [pair for pair in self.busy if pair not in ready]
        return [(job, self._answer(task)) for task, job in ready]

    def _answer(self, task: Any) -> JobResult:
        try:
            told: JobResult = task.result()
            return told
        except Exception as error:  # submitit's own, of several kinds: killed, timed out, lost
            return died(f"{_first(error, 2)}; its log: {task.paths.stderr}")

    def close(self) -> None:
        for task, _ in self.busy:
            task.cancel(check=False)


# ray
class Ray:
    """One ray task per run, in a fresh process of a cluster (`address=auto`, RAY_ADDRESS) or of this machine.

    Raises:
        UsageError: ray is not installed, cannot be reached, or settings that it does not have.
    """

    elsewhere = True

    def __init__(self, workers: int | None, settings: Mapping[str, Any], *, gpu: bool) -> None:
        self.ray = ray = load_extra("ray")
        given = {**({"num_gpus": 1} if gpu else {}), **settings}
        address = given.pop("address", None)
        try:
            self.task = ray.remote(max_retries=0, max_calls=1, **given)(execute)
            self.ours = not ray.is_initialized()
            if self.ours:
                ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ValueError, TypeError, ConnectionError, RuntimeError) as error:
            raise UsageError(
                f"ray does not take {settings_text(settings) or 'this machine'}: {_first(error)}"
            ) from None
        self.most = workers
        several = (
            bool(address or os.environ.get("RAY_ADDRESS")) and workers != 1
        )  # machines, each with some of the cells
        self.together = UNKNOWN if several else workers or os.cpu_count() or 1
        self.busy: dict[Any, Job] = {}
        self.lost: list[Answer] = []  # what it did not take

    @property
    def room(self) -> int:
        return 1 if self.most is None else self.most - len(self.busy) - len(self.lost)

    def start(self, job: Job) -> None:
        try:
            self.busy[self.task.remote(job)] = job
        except Exception as error:  # of several kinds: a cluster that is gone, a job that cannot be sent
            self.lost.append((job, died(f"ray could not start it: {type(error).__name__}: {_first(error)}")))

    def wait(self) -> list[Answer]:
        if self.lost:
            out, self.lost = self.lost, []
            return out
        ready, _ = self.ray.wait(list(self.busy), num_returns=1)
        return [(self.busy.pop(reference), self._answer(reference)) for reference in ready]

    def _answer(self, reference: Any) -> JobResult:
        try:
            told: JobResult = self.ray.get(reference)
            return told
        except Exception as error:  # ray's own, of many kinds: a worker or a node that died, memory that ran out
            return died(f"{type(error).__name__}: {_first(error)}")

    def close(self) -> None:
        for reference in self.busy:
            self.ray.cancel(reference, force=True)
        if self.ours:
            self.ray.shutdown()


# Which one
def open_engine(
    name: str, workers: int | None, settings: Mapping[str, Any], *, folder: Path, gpu: bool, gpus: Sequence[str]
) -> Executor:
    """The engine of that name.

    Args:
        workers: cells at a time. None: one a GPU of this machine or WORKERS (local), all that can begin (submitit,
            ray).
        folder: for the files of submitit.
        gpu: whether cells compute on one.
        gpus: those of this machine to hand out, as CUDA_VISIBLE_DEVICES names them.
    """
    check_executor(name, workers, settings)
    if name == "submitit":
        return Submitit(folder, workers, settings, gpu=gpu)
    if name == "ray":
        return Ray(workers, settings, gpu=gpu)
    return Local(workers or len(gpus) or WORKERS, gpus)


def _first(error: BaseException, most: int = 1) -> str:
    """The first lines of what an error says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:most]) or type(error).__name__
