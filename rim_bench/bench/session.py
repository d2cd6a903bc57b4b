"""Paired, interleaved rounds: every piece of work once a round, in turns about who goes first, beside the machine's own
matrix peak.

A number that was measured once a round. No torch.

What a measurement ran on, and whether others used it at the same time.
"""

from __future__ import annotations

import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

from rim_bench.runs.planned_run import gpu_info
from rim_bench.util.environment import environment
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record

SessionLog = Mapping[str, float]
"""What a piece of work says about itself: examples, executed FLOPs, positions; and `seconds`, where not all of its time
counts.
"""


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of work. `prepare(k)` makes round `k`'s ready (0 warms up) and is not timed; what it returns is."""

    name: str
    prepare: Callable[[int], Callable[[], SessionLog]]


@dataclass(frozen=True, slots=True)
class Timed:
    """One piece of work in one round."""

    seconds: float
    told: SessionLog

    def per_second(self, key: str) -> float:
        """How much of what it told it did in a second."""
        return self.told[key] / self.seconds


@dataclass(frozen=True, slots=True)
class Round:
    """All pieces of work once, and the matrix peak beside them."""

    done: Mapping[str, Timed]
    peak: float  # FLOP/s


@dataclass(slots=True)
class Session:
    """What some pieces of work took, round by round."""

    rounds: list[Round] = field(default_factory=list)
    cpu_share: float | None = (
        None  # of the timed seconds, that the process ran: under 1 where others use the machine; of one CPU thread
    )

    def rate(self, job: str, key: str) -> Spread:
        """Per second."""
        return Spread(tuple(r.done[job].per_second(key) for r in self.rounds))

    def seconds(self, job: str) -> Spread:
        return Spread(tuple(r.done[job].seconds for r in self.rounds))

    def told(self, job: str, key: str) -> Spread:
        return Spread(tuple(r.done[job].told[key] for r in self.rounds))

    @property
    def peak(self) -> Spread:
        """FLOP/s of the matrix product, one a round."""
        return Spread(tuple(r.peak for r in self.rounds))

    def use(self, job: str, key: str) -> Spread:
        """Share of the round's matrix peak at which the job did what `key` counts (FLOPs)."""
        return self.rate(job, key) / self.peak


def check_rounds(rounds: int) -> None:
    """Raises UsageError for fewer than one round."""
    if rounds < 1:
        raise UsageError(f"--rounds {rounds} must be at least 1")


def interleave(jobs: Sequence[Job], rounds: int, device: torch.device) -> Session:
    """One round to warm up, then `rounds` of them: all jobs in turn, forwards and backwards alternately.

    Neighbours in `jobs` are neighbours in time: put beside each other what is compared. Rubbish is collected before
    each job and not within it; the matrix peak is measured before each job, and a round's is the highest: what use of
    it is made is not flattered.

    Raises:
        UsageError: fewer than one round.
    """
    check_rounds(rounds)
    with settled():
        return _interleave(jobs, rounds, device)


def _interleave(jobs: Sequence[Job], rounds: int, device: torch.device) -> Session:
    session = Session()
    running = wall = 0.0
    for k in range(rounds + 1):
        order = list(jobs) if k % 2 else list(reversed(jobs))
        done: dict[str, Timed] = {}
        peak = 0.0
        for job in order:
            peak = max(peak, matrix_peak(device))
            work = job.prepare(k)
            with collected():
                cpu = time.process_time()
                seconds, told = timed(work, device)
                running += time.process_time() - cpu if k else 0.0
            wall += seconds if k else 0.0
            done[job.name] = Timed(told.get("seconds", seconds), told)
        if k:
            session.rounds.append(Round(done, peak))
    if device.type == "cpu" and torch.get_num_threads() == 1:
        session.cpu_share = min(1.0, running / wall)
    return session


@contextmanager
def settled() -> Iterator[None]:
    """With everything that is there already taken out of the collector's sight:
    collecting between jobs is then a matter of their own.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def collected() -> Iterator[None]:
    """Without the collector's own moments: it runs before, and not within."""
    gc.collect()
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def timed(work: Callable[[], SessionLog], device: torch.device) -> tuple[float, SessionLog]:
    """Seconds of the work, the device's part included, and what it tells."""
    synchronise(device)
    began = time.perf_counter()
    told = work()
    synchronise(device)
    return time.perf_counter() - began, told


def synchronise(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_peak(device: torch.device, repeats: int = 5) -> float:
    """FLOP/s of a matrix product in the type that training computes in (float32, bfloat16 on CUDA), best of
    `repeats`.
    """
    cuda = device.type == "cuda"
    size = 8192 if cuda else 1024
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if cuda else torch.float32)
    best = 0.0
    for _ in range(repeats):
        began = time.perf_counter()
        torch.mm(a, a)[0, 0].item()  # waits for the device
        best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


class Nowhere:
    """A journal that keeps nothing: a measurement leaves no run behind."""

    def append_metrics(self, record: dict[str, Any]) -> None: ...
    def truncate_metrics(self, step: int) -> None: ...
    def latest_checkpoint(self) -> tuple[int, Path] | None:
        return None

    @contextmanager
    def checkpoint(self, step: int) -> Iterator[Path]:
        raise AssertionError("a benchmark writes no checkpoint")
        yield Path()


@dataclass(frozen=True, slots=True)
class Spread:
    """A number's values, one a round: a ratio's are the ratios of the pairs."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def __truediv__(self, other: Spread) -> Spread:
        """Pair by pair."""
        return Spread(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def scaled(self, factor: float) -> Spread:
        """All values times a factor."""
        return Spread(tuple(factor * v for v in self.values))

    def data(self) -> dict[str, Any]:
        """As plain data, seven digits."""
        short = [float(f"{v:.7g}") for v in self.values]
        return {"median": statistics.median(short), "low": min(short), "high": max(short), "values": short}


BUSY_CORES = 0.2
BUSY_SHARE = 0.95
_PLACES = ("--data", "--json", "--out", "-o")


class Watch:
    """Taken before anything is measured; `finish` says what happened on the machine in between."""

    def __init__(self, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self.record: Record = environment(gpu=gpu_info(device), argv=_busy_text(sys.argv)) | {
            "device": str(device),
            "dtype": "bfloat16" if cuda else "float32",
            "threads": torch.get_num_threads(),
            "load_before": _load(),
        }
        self._began, self._own, self._all = time.perf_counter(), _own(), _all()

    def finish(self, cpu_share: float | None) -> Record:
        """The machine's record: its load, what others did on it, and a verdict. `cpu_share` as in `common.Session`."""
        wall, own, everybody = time.perf_counter() - self._began, _own() - self._own, _all()
        others = None
        if everybody is not None and self._all is not None:
            others = round(max(0.0, everybody - self._all - own) / wall, 3)
        share = None if cpu_share is None else round(cpu_share, 3)
        busy = (others is not None and others > BUSY_CORES) or (share is not None and share < BUSY_SHARE)
        return self.record | {"load_after": _load(), "cpu_share": share, "others_cores": others, "busy": busy}


def _own() -> float:
    """CPU seconds of this process and of those that it started and that ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _all() -> float | None:
    """CPU seconds of everything on the machine since it started; None where the system does not say."""
    try:
        times = psutil.cpu_times()
    except (OSError, RuntimeError):
        return None
    idle = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle)


def _busy_text(given: Sequence[str]) -> Iterator[str]:
    """The command line without the folders of whoever gave it: another reader has others."""
    before = ""
    for word in given:
        flag, equals, _ = word.partition("=")
        if before in _PLACES:
            yield "DIR"
        else:
            yield f"{flag}=DIR" if equals and flag in _PLACES else word
        before = word


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None
