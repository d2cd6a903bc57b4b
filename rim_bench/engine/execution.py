"""What a run shares its work and its machine with. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rim_bench.engine.distributed.workers import WorkerGroup


@dataclass(frozen=True)
class ExecutionContext:
    """The processes that share every training step and every evaluation, and how many runs compute beside each other.

    Args:
        group: this process and its workers; None where it is alone.
        runs_at_a_time: runs that may compute on this machine at the same time, 0 where that is not known: they slow
            each other, and what is timed records it.
    """

    group: WorkerGroup | None = None
    runs_at_a_time: int = 1


ALONE = ExecutionContext()
