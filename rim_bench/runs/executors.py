"""Executors of the cells of a grid: processes of this machine (concurrent.futures), a queue (submitit), or ray.

None of them is ours; what is here hands out jobs and turns a process that ended without an answer into one that says
so. No torch.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any, ClassVar, Protocol

from rim_bench.runs.job import UNKNOWN, Job, JobResult, execute
from rim_bench.runs.options import check_executor, load_extra, settings_text
from rim_bench.runs.slurm_queue import SlurmQueue
from rim_bench.util.errors import UsageError

WORKERS = 2  # of the local one, where there is no GPU
MINUTES = 24 * 60  # a submitit job may take, unless another number is given; its own default is a few minutes
POLL = 0.5  # seconds between two looks for answers
PATIENCE = 10.0  # seconds after which a wait comes back without an answer
HEAD = 20.0  # seconds without an answer of ray's head after which its tasks are lost; after 60, ray ends this process
Answer = tuple[Job, JobResult]
Work = Callable[[Job], JobResult]


class Executor(Protocol):
    """Runs jobs, several at a time. Each that is started comes back from `wait` exactly once."""

    elsewhere: bool  # jobs may run on other machines
    together: int  # jobs that may compute on one machine at a time; UNKNOWN where that is not known

    @property
    def room(self) -> int: ...  # how many more jobs it takes now
    def start(self, job: Job) -> None: ...
    def wait(self) -> list[Answer]: ...  # those that ended since, PATIENCE at most; at least one must be under way
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
        for future in wait_for(self.busy, PATIENCE, return_when=FIRST_COMPLETED).done:
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
    """Tasks of another program, which places them on machines.

    What it does not take is put off while it has others of ours, since it may be full; else it is a run that failed.

    Args:
        most: tasks at a time; None: all that there are.
    """

    elsewhere = True
    name: ClassVar[str]

    def __init__(self, most: int | None, together: int) -> None:
        self.most, self.together = most, together
        self.busy: list[tuple[Any, Job]] = []
        self.lost: list[Answer] = []  # what it did not take
        self.full = False

    @property
    def room(self) -> int:
        if self.full:
            return 0
        return 1 if self.most is None else self.most - len(self.busy) - len(self.lost)

    def start(self, job: Job) -> None:
        try:
            self.busy.append((self.send(job), job))
        except Exception as error:  # of several kinds: an unknown option, a queue that is gone, a job it cannot send
            reason = f"{self.name} could not start it: {self.said(error)}"
            self.full = bool(self.busy)
            self.lost.append((job, JobResult("put off", reason=reason) if self.full else died(reason)))

    def wait(self) -> list[Answer]:
        if self.lost:
            out, self.lost = self.lost, []
            return out
        ready = self.ready([task for task, _ in self.busy])
        self.full = self.full and not ready
        pairs = [(task, job) for task, job in self.busy if task in ready]
        self.busy = [(task, job) for task, job in self.busy if task not in ready]
        return [(job, self.result(task)) for task, job in pairs]

    @abstractmethod
    def send(self, job: Job) -> Any: ...  # the task made of a job
    @abstractmethod
    def ready(self, tasks: list[Any]) -> list[Any]: ...  # those that have ended; waits for the first, PATIENCE at most
    @abstractmethod
    def result(self, task: Any) -> JobResult: ...  # what an ended task answered, or why it did not

    def said(self, error: Exception) -> str:
        return first_lines(error)

    def refused(self, settings: Mapping[str, Any], error: Exception) -> UsageError:
        """An error of the program about its settings, as one of ours."""
        what = settings_text(settings) or "this machine"
        return UsageError(f"{self.name} does not take {what}: {first_lines(error)}")


class Requeued:
    """`execute`, in a job that Slurm begins again after its time limit: it goes on from the run's checkpoint."""

    def __call__(self, job: Job) -> JobResult:
        return execute(job)

    def checkpoint(self, job: Job) -> Any:
        """What submitit asks for before the limit; it begins a job again as often as its `max_num_timeout` says."""
        return load_extra("submitit").helpers.DelayedSubmission(self, job)


class Submitit(Cluster):
    """One job of a cluster's queue per run (Slurm, or submitit's `cluster=local`), which has the run's id for a name.

    Args:
        folder: of submitit's files; all machines must see it. They are pickles, under numbers that a queue counts up:
            each command has a new folder in it for its own, so that none is loaded that lay there before.
        note: takes lines about the queue.

    Raises:
        UsageError: submitit is not installed, or settings that it does not have.
    """

    name = "submitit"

    def __init__(
        self,
        folder: Path,
        workers: int | None,
        settings: Mapping[str, Any],
        *,
        gpu: bool,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        submitit = load_extra(self.name)
        parameters = {"timeout_min": MINUTES, **({"gpus_per_node": 1} if gpu else {}), **settings}
        cluster = parameters.pop("cluster", None)
        self.folder = folder / secrets.token_hex(8)
        try:
            self.executor = submitit.AutoExecutor(folder=str(self.folder), cluster=cluster)
            self.executor.update_parameters(**parameters)
        except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as error:
            raise self.refused(settings, error) from None
        self.named = "name" in settings
        self.queue = SlurmQueue(note) if self.executor.cluster == "slurm" else None
        here = self.queue is None  # submitit's stand-ins for a queue: this machine
        most = workers or (WORKERS if here else None)
        # an exclusive "user" keeps other users away, not other cells
        alone = workers == 1 or settings.get("slurm_exclusive") is True
        super().__init__(most, most if here and most else 1 if alone else UNKNOWN)

    def send(self, job: Job) -> Any:
        if not self.named:
            self.executor.update_parameters(name=job.run)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.executor.submit(Requeued(), job)

    def ready(self, tasks: list[Any]) -> list[Any]:
        end = time.monotonic() + PATIENCE
        while not (done := self._ended(tasks)) and time.monotonic() < end:
            time.sleep(POLL)
        return done

    def _ended(self, tasks: list[Any]) -> list[Any]:
        if self.queue is None:
            return [task for task in tasks if task.done()]
        folder = tasks[0].paths.folder
        with suppress(OSError):  # not the owner
            folder.chmod(folder.stat().st_mode)  # a shared file system then looks for new files
        ended = self.queue.ended([task.job_id for task in tasks])
        return [task for task in tasks if task.job_id in ended or task.paths.result_pickle.exists()]

    def result(self, task: Any) -> JobResult:
        try:
            if self.queue is not None and not task.paths.result_pickle.exists():
                state, log = self.queue.state(task.job_id), f"; its log: {task.paths.stderr}"
                if state.state == "CANCELLED":  # on purpose: another attempt would be none of ours to make
                    return JobResult("refused", reason=f"its job {task.job_id} was cancelled{log}")
                return died(f"its job {task.job_id} {state.words()}{log}")
            result: JobResult = task.result()
            return result
        except Exception as error:  # submitit's own, of several kinds: killed, timed out, lost
            return died(f"{first_lines(error, 2)}; its log: {task.paths.stderr}")

    def close(self) -> None:
        for task, _ in self.busy:
            task.cancel(check=False)


class Ray(Cluster):
    """One ray task per run, in a fresh process of a cluster (`address=auto`, RAY_ADDRESS) or of this machine.

    Args:
        note: takes lines about the cluster.

    Raises:
        UsageError: ray is not installed, cannot be reached, or settings that it does not have.
    """

    name = "ray"

    def __init__(
        self,
        workers: int | None,
        settings: Mapping[str, Any],
        *,
        gpu: bool,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.ray = ray = load_extra(self.name)
        parameters = {**({"num_gpus": 1} if gpu else {}), **settings}
        address = parameters.pop("address", None)
        try:
            self.task = ray.remote(max_retries=0, max_calls=1, **parameters)(execute)
            self.ours = not ray.is_initialized()
            if self.ours:
                # without an address it would join whatever cluster began here last
                where = address or os.environ.get("RAY_ADDRESS") or "local"
                ray.init(address=where, log_to_driver=False, logging_level="ERROR")
            host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        except (ValueError, TypeError, ConnectionError, RuntimeError) as error:
            raise self.refused(settings, error) from None
        self.head, self.lost_head = (host, int(port)), False
        self.note: Callable[[str], None] | None = note
        self.needs = {"CPU": parameters.get("num_cpus", 1), "GPU": parameters.get("num_gpus", 0)}
        self.no_head = f"the head of the ray cluster ({host}:{port}) does not answer"
        # several machines, each with some of the cells
        several = bool(address or os.environ.get("RAY_ADDRESS")) and workers != 1
        super().__init__(workers, UNKNOWN if several else workers or os.cpu_count() or 1)

    def send(self, job: Job) -> Any:
        if self.lost_head:
            raise ConnectionError(self.no_head)
        return self.task.remote(job)

    def ready(self, tasks: list[Any]) -> list[Any]:
        self.lost_head = not self._head_answers()
        if self.lost_head:
            return tasks
        if self.note is not None:
            alive = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
            if not any(all(has.get(name, 0) >= value for name, value in self.needs.items()) for has in alive):
                self.note(f"no node of the ray cluster has {settings_text(self.needs)}: the cells wait until one joins")
                self.note = None
        done: list[Any] = self.ray.wait(tasks, num_returns=1, timeout=PATIENCE)[0]
        return done

    def _head_answers(self) -> bool:
        end = time.monotonic() + HEAD
        while time.monotonic() < end:
            with suppress(OSError), socket.create_connection(self.head, timeout=POLL):
                return True
            time.sleep(POLL)
        return False

    def result(self, task: Any) -> JobResult:
        if self.lost_head:
            return died(self.no_head)
        try:
            result: JobResult = self.ray.get(task)
            return result
        except Exception as error:  # ray's own, of many kinds: a worker or a node that died, memory that ran out
            return died(self.said(error))

    def said(self, error: Exception) -> str:
        return f"{type(error).__name__}: {first_lines(error)}"

    def close(self) -> None:
        if self.lost_head:
            return  # ray would wait for it
        for task, _ in self.busy:
            self.ray.cancel(task, force=True)
        if self.ours:
            self.ray.shutdown()


# Which one
def open_engine(
    name: str,
    workers: int | None,
    settings: Mapping[str, Any],
    *,
    folder: Path,
    gpu: bool,
    gpus: Sequence[str],
    note: Callable[[str], None] = lambda text: None,
) -> Executor:
    """The engine of that name.

    Args:
        workers: cells at a time. None: one a GPU of this machine or WORKERS (local), all that can begin (submitit,
            ray).
        folder: for the files of submitit.
        gpu: whether cells compute on one.
        gpus: those of this machine to hand out, as CUDA_VISIBLE_DEVICES names them.
        note: takes lines about a queue.
    """
    check_executor(name, workers, settings)
    if name == "submitit":
        return Submitit(folder, workers, settings, gpu=gpu, note=note)
    if name == "ray":
        return Ray(workers, settings, gpu=gpu, note=note)
    return Local(workers or len(gpus) or WORKERS, gpus)


def first_lines(error: BaseException, most: int = 1) -> str:
    """The first lines of what an error says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:most]) or type(error).__name__
