"""Paired, interleaved rounds: every piece of work once a round, in turns about who goes first, beside the machine's own matrix peak."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rim_bench.benchmarks.spread import Spread
from rim_bench.errors import UsageError

Told = Mapping[str, float]
"""What a piece of work says about itself: examples, executed FLOPs, positions; and `seconds`, where not all of its time counts."""


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of work. `prepare(k)` makes round `k`'s ready (0 warms up) and is not timed; what it returns is."""

    name: str
    prepare: Callable[[int], Callable[[], Told]]


@dataclass(frozen=True, slots=True)
class Timed:
    """One piece of work in one round."""

    seconds: float
    told: Told

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
    cpu_share: float | None = None  # of the timed seconds, that the process ran: under 1 where others use the machine; of one CPU thread

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

    Neighbours in `jobs` are neighbours in time: put beside each other what is compared. Rubbish is collected before each job and not
    within it; the matrix peak is measured before each job, and a round's is the highest: what use of it is made is not flattered.

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
    """With everything that is there already taken out of the collector's sight: collecting between jobs is then a matter of their own."""
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


def timed(work: Callable[[], Told], device: torch.device) -> tuple[float, Told]:
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
    """FLOP/s of a matrix product in the type that training computes in (float32, bfloat16 on CUDA), best of `repeats`."""
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
