"""Interleaved rounds of timed work on a watched machine: every job once a round, beside the machine's matrix peak."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

from rim_bench.bench.record import Machine, Spread
from rim_bench.engine.precision import BFLOAT16, device_default
from rim_bench.runs.training import gpu_info
from rim_bench.util.environment import environment
from rim_bench.util.errors import UsageError

BUSY_CORES = 0.2  # cores that others keep busy, above which a machine is busy
BUSY_SHARE = 0.95  # share of the timed seconds that the process ran, below which it is
Counts = Mapping[str, float]
"""What a job counted: examples, executed FLOPs, positions; and `seconds`, where not all of its time counts."""


@dataclass(frozen=True, slots=True)
class MeasuredJob:
    """A piece of work. `prepare(k)` makes round `k` ready and is not timed (round 0 warms up); what it returns is."""

    name: str
    prepare: Callable[[int], Callable[[], Counts]]

    def same_every_round(self) -> MeasuredJob:
        """The job on the examples of round 0, in every round."""
        return MeasuredJob(self.name, lambda _: self.prepare(0))


@dataclass(frozen=True, slots=True)
class Timed:
    """One job in one round."""

    seconds: float
    counts: Counts


@dataclass(frozen=True, slots=True)
class Round:
    """All jobs once, and the matrix peak beside them."""

    done: Mapping[str, Timed]
    peak: float  # FLOP/s


@dataclass(slots=True)
class Session:
    """What some jobs took and counted, round by round."""

    rounds: list[Round] = field(default_factory=list)
    cpu_share: float | None = None  # share of the timed seconds that the process ran; None beyond one CPU thread

    def seconds(self, job: str) -> Spread:
        return Spread(tuple(r.done[job].seconds for r in self.rounds))

    def counted(self, job: str, key: str) -> Spread:
        return Spread(tuple(r.done[job].counts[key] for r in self.rounds))

    def rate(self, job: str, key: str = "examples") -> Spread:
        """What `key` counts, per second."""
        return self.counted(job, key) / self.seconds(job)

    @property
    def peak(self) -> Spread:
        """FLOP/s of the matrix product, one a round."""
        return Spread(tuple(r.peak for r in self.rounds))

    def use(self, job: str, key: str) -> Spread:
        """Share of the round's matrix peak at which the job did what `key` counts (FLOPs)."""
        return self.rate(job, key) / self.peak

    def padding(self, job: str) -> Spread:
        """Share of the executed positions that are padding."""
        return Spread(tuple(1 - r for r in (self.counted(job, "tokens") / self.counted(job, "executed")).values))


def check_rounds(rounds: int) -> None:
    """Raises UsageError for fewer than one round."""
    if rounds < 1:
        raise UsageError(f"--rounds {rounds} must be at least 1")


def interleave(
    jobs: Sequence[MeasuredJob],
    rounds: int,
    device: torch.device,
    dtype: str | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Session:
    """One round to warm up, then `rounds` of them: all jobs in turn, forwards and backwards alternately.

    Neighbours in `jobs` are neighbours in time: put beside each other what is compared. Garbage is collected before
    each job and not within it; the matrix peak is measured before each job, and a round's is the highest, so that the
    use of it is not flattered.

    Args:
        dtype: of the matrix peak; None: the device's usual type.
        clock: of the matrix peak; a job may count `seconds` of its own.

    Raises:
        UsageError: fewer than one round.
    """
    check_rounds(rounds)
    session = Session()
    running = wall = 0.0
    with settled():
        for k in range(rounds + 1):
            done: dict[str, Timed] = {}
            peak = 0.0
            for job in jobs if k % 2 else reversed(jobs):
                peak = max(peak, matrix_peak(device, dtype, clock))
                work = job.prepare(k)
                with collected():
                    cpu = time.process_time()
                    seconds, counts = timed(work, device)
                    running += time.process_time() - cpu if k else 0.0
                wall += seconds if k else 0.0
                done[job.name] = Timed(counts.get("seconds", seconds), counts)
            if k:
                session.rounds.append(Round(done, peak))
    if device.type == "cpu" and torch.get_num_threads() == 1:
        session.cpu_share = min(1.0, running / wall)
    return session


@contextmanager
def settled() -> Iterator[None]:
    """Hides what exists already from the garbage collector: collecting between jobs then costs what they left."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def collected() -> Iterator[None]:
    """Collects garbage before, and not within."""
    gc.collect()
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def timed(work: Callable[[], Counts], device: torch.device) -> tuple[float, Counts]:
    """Seconds of the work, the device's part included, and what it counted."""
    synchronise(device)
    began = time.perf_counter()
    counts = work()
    synchronise(device)
    return time.perf_counter() - began, counts


def synchronise(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_peak(
    device: torch.device, dtype: str | None = None, clock: Callable[[], float] = time.perf_counter, repeats: int = 5
) -> float:
    """FLOP/s of a matrix product in a type (None: float32, bfloat16 on CUDA), best of `repeats`."""
    cuda = device.type == "cuda"
    size = 8192 if cuda else 1024
    low = (dtype or device_default(device.type)) == BFLOAT16
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if low else torch.float32)
    best = 0.0
    for _ in range(repeats):
        began = clock()
        torch.mm(a, a)[0, 0].item()  # waits for the device
        best = max(best, 2 * size**3 / max(1e-9, clock() - began))
    return best


class NoJournal:
    """A trainer's journal that keeps nothing: a measurement leaves no run behind."""

    def append_metrics(self, record: dict[str, Any]) -> None: ...
    def truncate_metrics(self, step: int) -> None: ...
    def latest_checkpoint(self) -> tuple[int, Path] | None:
        return None

    @contextmanager
    def checkpoint(self, step: int, needed: int) -> Iterator[Path]:
        raise AssertionError("a benchmark writes no checkpoint")
        yield Path()


class Watch:
    """Taken before anything is measured; `finish` returns what happened on the machine in between."""

    def __init__(self, device: torch.device, dtype: str | None = None) -> None:
        self.record: dict[str, Any] = environment(gpu=gpu_info(device), argv=without_folders(sys.argv)) | {
            "device": str(device),
            "dtype": dtype or device_default(device.type),
            "threads": torch.get_num_threads(),
            "load_before": load_average(),
        }
        self._began, self._own, self._all = time.perf_counter(), own_cpu_seconds(), all_cpu_seconds()

    def finish(self, cpu_share: float | None) -> Machine:
        """The machine's record: its load, what others did on it, and whether it was busy. `cpu_share`: a session's."""
        wall, own, everything = time.perf_counter() - self._began, own_cpu_seconds() - self._own, all_cpu_seconds()
        others = None
        if everything is not None and self._all is not None:
            others = round(max(0.0, everything - self._all - own) / wall, 3)
        share = None if cpu_share is None else round(cpu_share, 3)
        busy = (others is not None and others > BUSY_CORES) or (share is not None and share < BUSY_SHARE)
        after: dict[str, Any] = {"load_after": load_average(), "cpu_share": share, "others_cores": others, "busy": busy}
        return Machine(**self.record, **after)


def own_cpu_seconds() -> float:
    """CPU seconds of this process and of those that it started and that ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def all_cpu_seconds() -> float | None:
    """CPU seconds of everything on the machine since it started; None where the system does not say."""
    try:
        times = psutil.cpu_times()
    except (OSError, RuntimeError):
        return None
    return float(sum(times)) - sum(getattr(times, k, 0.0) for k in ("idle", "iowait", "guest", "guest_nice"))


def load_average() -> float | None:
    """The system's over the last minute; None where it does not say."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def without_folders(arguments: Sequence[str]) -> Iterator[str]:
    """A command line without the folders of whoever typed it: another reader has others."""
    places = ("--data", "--json", "--out", "-o")
    before = ""
    for word in arguments:
        flag, equals, _ = word.partition("=")
        if before in places:
            yield "DIR"
        else:
            yield f"{flag}=DIR" if equals and flag in places else word
        before = word
