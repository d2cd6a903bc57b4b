"""How many processes one command was started as, and which of them leads. No torch: bad starts are refused at once.

`torchrun --nproc_per_node 2 -m -- rim_bench run …` starts two processes with one command line, whose environments have
RANK, WORLD_SIZE and LOCAL_RANK. The first leads: it alone parses, decides, writes and prints. The others are its
workers (`rim_bench.engine.distributed.workers`).
"""

from __future__ import annotations

import os

from rim_bench.util.errors import UsageError, unknown

ASKED = "RIM_BENCH_PROCESSES"
STRATEGIES = ("ddp", "fsdp")


def _number(name: str, default: int) -> int:
    """A whole number in the environment; raises UsageError for something else."""
    text = os.environ.get(name, "").strip() or str(default)
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise UsageError(
            f"{name}={text} in the environment is not a number of processes: give a whole one, or unset it"
        )
    return int(text)


def started() -> int:
    """Processes that the launcher says it started: WORLD_SIZE, 1 without a launcher."""
    return max(1, _number("WORLD_SIZE", 1))


def rank() -> int:
    """This process's number; the first, 0, leads."""
    return _number("RANK", 0)


def on_this_machine() -> int:
    """How many of the processes run on this machine."""
    return max(1, _number("LOCAL_WORLD_SIZE", started()))


def check_asked(processes: int | None = None) -> None:
    """Refuse another number of processes than the user asks for, in the command or in RIM_BENCH_PROCESSES.

    Some launchers start one where several were asked for and say nothing (`accelerate launch --cpu --num_processes 2`
    does).

    Raises:
        UsageError: another number was started.
    """
    where, asked = ("--processes", processes) if processes is not None else (ASKED, _number(ASKED, 0))
    if (processes is not None or asked) and asked != (real := started()):
        raise UsageError(
            f"{where} asks for {asked} processes, but {real} {'was' if real == 1 else 'were'} started: "
            f"start them with `torchrun --nproc_per_node {max(1, asked)} -m -- rim_bench …`"
        )


def check_strategy(strategy: str | None) -> None:
    """Raises UsageError for an unknown way of training on several processes, or a known one on a single process."""
    if strategy is not None and strategy not in STRATEGIES:
        raise unknown("strategy", strategy, STRATEGIES)
    if strategy is not None and started() == 1:
        raise UsageError(
            f"--strategy {strategy} is for several processes, and one was started: leave it out, or start more with "
            "torchrun"
        )


def check_batch(size: int) -> None:
    """Raises UsageError for a batch that does not hold a row for every process."""
    if size < started():
        raise UsageError(
            f"a batch of {size} examples cannot be shared by {started()} processes: give --batch-size {started()} or "
            "more"
        )
