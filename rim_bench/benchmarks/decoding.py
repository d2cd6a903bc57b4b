"""Answering: questions a second at a fixed number of generated tokens, beside Hugging Face's `generate` or an uncached loop."""

from __future__ import annotations

from collections.abc import Sequence

from rim_bench.benchmarks.arms import Bench
from rim_bench.benchmarks.common import Job, Session, interleave
from rim_bench.benchmarks.lines import Line
from rim_bench.errors import UsageError

BATCH = 32  # questions answered side by side
TOKENS = 64  # generated for each; a shorter context's methods get fewer
UNCACHED = 2  # questions a round for the uncached loop, which takes seconds each
AGAINST = ("hf", "uncached")
NAMES = {"hf": ("generate", "HF generate"), "uncached": ("uncached", "uncached, one at a time")}


def answer_session(
    bench: Bench, methods: Sequence[str], rounds: int, against: Sequence[str] = ("hf",), *, batch: int = BATCH, tokens: int = TOKENS
) -> Session:
    """Interleaved rounds over all methods. Every row generates up to the cap, the end token included.

    Raises:
        UsageError: prompts that leave the model no positions for so many tokens.
    """
    jobs: list[Job] = []
    for k, name in enumerate(methods):
        arm = bench.arm(name)
        check_positions(bench, name, tokens)
        group = [arm.answer(batch, tokens)]
        if "hf" in against:
            group.append(arm.answer_hf(batch, tokens))
        if "uncached" in against:
            group.append(arm.answer_uncached(UNCACHED, tokens, batch))
        jobs += group if k % 2 else list(reversed(group))
    return interleave(jobs, rounds, bench.device)


def check_positions(bench: Bench, name: str, tokens: int) -> None:
    """Refuses questions that the model has no positions for with `tokens` behind them."""
    arm = bench.arm(name)
    longest = max((e.question for e in bench.data), key=len)
    need = arm.method.lay_prompt(longest).depth + tokens
    if need > arm.backbone.max_positions:
        raise UsageError(
            f"the longest question needs {need} positions with {name} and {tokens} generated tokens, the model has "
            f"{arm.backbone.max_positions}: give --backbone max_positions={need}"
        )


def answer_lines(bench: Bench, session: Session, methods: Sequence[str], against: Sequence[str] = ("hf",)) -> list[Line]:
    """A line for each method and each of what it is compared to."""
    out = []
    for name in methods:
        ours = session.rate(f"{name}: answer", "examples")
        for other in against:
            job, title = NAMES[other]
            theirs = session.rate(f"{name}: {job}", "examples")
            out.append(Line(name, title, "examples/s", ours, theirs, ours / theirs))
        if not against:
            out.append(Line(name, "nothing", "examples/s", ours))
    return out
