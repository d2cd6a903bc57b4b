"""Which of the processes that one command was started as runs it; the others are its workers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rim_bench.engine.distributed.environment import check_asked, rank, started
from rim_bench.engine.execution import ALONE, ExecutionContext
from rim_bench.util.errors import UsageError

COMMANDS = {"run", "train", "eval", "sweep", "study", "lm-eval", "intervene"}
"""They train or evaluate; others need one process."""


@contextmanager
def execution_of_command(arguments: Sequence[str]) -> Iterator[ExecutionContext | None]:
    """What this process shares the command with; None for a worker, which has done its part by then.

    Raises:
        UsageError: processes that do not find each other, or another number of them than asked for.
    """
    first = rank() == 0 or started() == 1  # a RANK that something left in the environment names no other process
    if not arguments or arguments[0] not in COMMANDS:
        yield ALONE if first else None
        return
    if first:
        check_asked()
    if started() == 1:
        yield ALONE
        return
    if "RANK" not in os.environ:
        raise UsageError(
            f"WORLD_SIZE={started()} in the environment, but no RANK: start with torchrun, or unset WORLD_SIZE"
        )
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP remarks on options that a later stage needs
    from rim_bench.engine.distributed import workers

    group = workers.join()
    if not first:
        workers.work(group)
        yield None
        return
    try:
        yield ExecutionContext(group)
    finally:
        group.close()
