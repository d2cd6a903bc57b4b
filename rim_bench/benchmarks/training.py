"""Training: examples a second in a run's own optimizer steps, beside a plain loop on the same model, rows and optimizer."""

from __future__ import annotations

from collections.abc import Sequence

from rim_bench.benchmarks.arms import Bench
from rim_bench.benchmarks.common import Job, Session, interleave
from rim_bench.benchmarks.lines import Line
from rim_bench.benchmarks.spread import Spread

STEPS = 4  # optimizer steps of each method a round, on rows of an embedded task
PUBLISHED_STEPS = 2  # on longer ones
AGAINST = ("plain",)
NAMES = {"plain": ("plain", "plain {} loop"), "hf": ("Trainer", "HF Trainer, {}")}
"""What stands beside -> the name of its job, and what a table calls it."""


def train_session(bench: Bench, methods: Sequence[str], rounds: int, steps: int = STEPS, against: Sequence[str] = AGAINST) -> Session:
    """Interleaved rounds over all methods; each stands beside its plain loop (cot's for methods without a plain counterpart)."""
    jobs: list[Job] = []
    for k, name in enumerate(methods):
        arm = bench.arm(name)
        pair = [arm.train(steps)]
        pair += [arm.train_plain(steps)] if "plain" in against else []
        pair += [arm.train_hf(steps)] if "hf" in against else []
        jobs += pair if k % 2 else list(reversed(pair))  # what is ours beside ours, so that methods compare too
    return interleave(jobs, rounds, bench.device)


def train_lines(bench: Bench, session: Session, methods: Sequence[str], against: Sequence[str] = AGAINST) -> list[Line]:
    """A line a method."""
    out = []
    for name in methods:
        arm, job = bench.arm(name), f"{name}: train"
        ours = session.rate(job, "examples")
        more = {
            "use_of_peak_executed": session.use(job, "flops_executed"),
            "use_of_peak_without_padding": session.use(job, "flops"),
            "executed_flops_per_second": session.rate(job, "flops_executed"),
            "padding": padding(session, job),
        }
        what = f"{name} ({arm.span.stage.name})" if len(arm.trainer.spans) > 1 else name
        if "plain" in against:
            more["padding_of_plain"] = padding(session, f"{name}: plain")
        for other in against:
            theirs = session.rate(f"{name}: {NAMES[other][0]}", "examples")
            out.append(Line(what, NAMES[other][1].format(arm.against), "examples/s", ours, theirs, ours / theirs, more))
        if not against:
            out.append(Line(what, "nothing", "examples/s", ours, more=more))
    return out


def padding(session: Session, job: str) -> Spread:
    """Share of the executed positions that are padding."""
    real, executed = session.told(job, "tokens"), session.told(job, "executed")
    return Spread(tuple(1 - r / e for r, e in zip(real.values, executed.values, strict=True)))
