"""Executors of the cells of a grid: processes of this machine (concurrent.futures), a queue (submitit), or ray.

None of them is ours; what is here hands out jobs and turns a process that ended without an answer into one that says
so. No torch.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any, ClassVar, Protocol

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


def begin_worker(gpu: str | None) -> None:
    """Makes a worker see its own GPU alone, ignore Ctrl-C, and end when the process that started it does."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (parent := multiprocessing.parent_process()) is not None:

        def end_with_parent() -> None:
            parent.join()
            os._exit(1)  # what is under way goes on from its last checkpoint another time

        threading.Thread(target=end_with_parent, daemon=True).start()


def ended(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None or code >= 0:
        return "its process ended without an answer" + ("" if code is None else f" (exit code {code})")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    cause = ", as a system does that is short of memory" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{cause}"


class _Slot:
    """One worker process at a time, in an executor of its own: if it dies, no other cell's process ends with it."""

    def __init__(self, gpu: str | None) -> None:
        self.gpu = gpu
        self.context = _Context()
        self.pool: ProcessPoolExecutor | None = None

    def submit(self, work: Work, job: Job) -> Future[JobResult]:
        if self.pool is None:
            self.pool = ProcessPoolExecutor(1, mp_context=self.context, initializer=begin_worker, initargs=(self.gpu,))
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
                result = future.result()
            except BrokenExecutor:
                result = died(ended(slot.end()))
            except Exception as error:  # an answer that could not be sent
                result = died(f"{type(error).__name__}: {error}")
            if result.state == "failed":
                slot.end()  # the next attempt begins in a fresh process
            self.free.append(slot)
            out.append((job, result))
        return out

    def close(self) -> None:
        for slot, _ in self.busy.values():
            slot.end(kill=True)
        for slot in self.free:
            slot.end()


# Other machines
class Cluster(ABC):
    """Tasks of another program, which places them on machines; what it does not take is a run that failed.

    Args:
        most: tasks at a time; None: all that there are.
    """

    elsewhere = True
    name: ClassVar[str]

    def __init__(self, most: int | None, together: int) -> None:
        self.most, self.together = most, together
        self.busy: list[tuple[Any, Job]] = []
        self.lost: list[Answer] = []  # what it did not take

    @property
    def room(self) -> int:
        return 1 if self.most is None else self.most - len(self.busy) - len(self.lost)

    def start(self, job: Job) -> None:
        try:
            self.busy.append((self.send(job), job))
        except Exception as error:  # of several kinds: an unknown option, a queue that is gone, a job it cannot send
            self.lost.append((job, died(f"{self.name} could not start it: {self.said(error)}")))

    def wait(self) -> list[Answer]:
        if self.lost:
            out, self.lost = self.lost, []
            return out
        ready = self.ready([task for task, _ in self.busy])
        pairs = [(task, job) for task, job in self.busy if task in ready]
        self.busy = [(task, job) for task, job in self.busy if task not in ready]
        return [(job, self.result(task)) for task, job in pairs]

    @abstractmethod
    def send(self, job: Job) -> Any: ...  # the task made of a job
    @abstractmethod
    def ready(self, tasks: list[Any]) -> list[Any]: ...  # those that have ended; waits for the first
    @abstractmethod
    def result(self, task: Any) -> JobResult: ...  # what an ended task answered, or why it did not

    def said(self, error: Exception) -> str:
        return first_lines(error)

    def refused(self, settings: Mapping[str, Any], error: Exception) -> UsageError:
        """An error of the program about its settings, as one of ours."""
        what = settings_text(settings) or "this machine"
        return UsageError(f"{self.name} does not take {what}: {first_lines(error)}")


class Submitit(Cluster):
    """One job of a cluster's queue per run (Slurm, or submitit's `cluster=local`).

    Args:
        folder: of submitit's files; all machines must see it.

    Raises:
        UsageError: submitit is not installed, or settings that it does not have.
    """

    name = "submitit"

    def __init__(self, folder: Path, workers: int | None, settings: Mapping[str, Any], *, gpu: bool) -> None:
        submitit = load_extra(self.name)
        parameters = {"timeout_min": MINUTES, **({"gpus_per_node": 1} if gpu else {}), "name": "rim-bench", **settings}
        cluster = parameters.pop("cluster", None)
        try:
            self.executor = submitit.AutoExecutor(folder=str(folder), cluster=cluster)
            self.executor.update_parameters(**parameters)
        except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as error:
            raise self.refused(settings, error) from None
        here = self.executor.cluster in ("local", "debug")  # submitit's stand-ins for a queue: this machine
        most = workers or (WORKERS if here else None)
        # an exclusive "user" keeps other users away, not other cells
        alone = workers == 1 or settings.get("slurm_exclusive") is True
        super().__init__(most, most if here and most else 1 if alone else UNKNOWN)

    def send(self, job: Job) -> Any:
        return self.executor.submit(execute, job)

    def ready(self, tasks: list[Any]) -> list[Any]:
        while not (done := [task for task in tasks if task.done()]):
            time.sleep(POLL)
        return done

    def result(self, task: Any) -> JobResult:
        try:
            result: JobResult = task.result()
            return result
        except Exception as error:  # submitit's own, of several kinds: killed, timed out, lost
            return died(f"{first_lines(error, 2)}; its log: {task.paths.stderr}")

    def close(self) -> None:
        for task, _ in self.busy:
            task.cancel(check=False)


class Ray(Cluster):
    """One ray task per run, in a fresh process of a cluster (`address=auto`, RAY_ADDRESS) or of this machine.

    Raises:
        UsageError: ray is not installed, cannot be reached, or settings that it does not have.
    """

    name = "ray"

    def __init__(self, workers: int | None, settings: Mapping[str, Any], *, gpu: bool) -> None:
        self.ray = ray = load_extra(self.name)
        parameters = {**({"num_gpus": 1} if gpu else {}), **settings}
        address = parameters.pop("address", None)
        try:
            self.task = ray.remote(max_retries=0, max_calls=1, **parameters)(execute)
            self.ours = not ray.is_initialized()
            if self.ours:
                ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ValueError, TypeError, ConnectionError, RuntimeError) as error:
            raise self.refused(settings, error) from None
        # several machines, each with some of the cells
        several = bool(address or os.environ.get("RAY_ADDRESS")) and workers != 1
        super().__init__(workers, UNKNOWN if several else workers or os.cpu_count() or 1)

    def send(self, job: Job) -> Any:
        return self.task.remote(job)

    def ready(self, tasks: list[Any]) -> list[Any]:
        done: list[Any] = self.ray.wait(tasks, num_returns=1)[0]
        return done

    def result(self, task: Any) -> JobResult:
        try:
            result: JobResult = self.ray.get(task)
            return result
        except Exception as error:  # ray's own, of many kinds: a worker or a node that died, memory that ran out
            return died(self.said(error))

    def said(self, error: Exception) -> str:
        return f"{type(error).__name__}: {first_lines(error)}"

    def close(self) -> None:
        for task, _ in self.busy:
            self.ray.cancel(task, force=True)
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


def first_lines(error: BaseException, most: int = 1) -> str:
    """The first lines of what an error says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:most]) or type(error).__name__
