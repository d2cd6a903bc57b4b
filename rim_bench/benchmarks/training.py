"""Training: examples a second in a run's own optimizer steps, beside a plain loop on the same model, rows and optimizer."""

from __future__ import annotations

from collections.abc import Sequence

from rim_bench.benchmarks.arms import Bench
from rim_bench.benchmarks.common import Job, Session, interleave
from rim_bench.benchmarks.lines import Line
from rim_bench.benchmarks.spread import Spread

STEPS = 4  # optimizer steps of each method a round
AGAINST = ("plain",)


def train_session(bench: Bench, methods: Sequence[str], rounds: int, steps: int = STEPS, against: Sequence[str] = AGAINST) -> Session:
    """Interleaved rounds over all methods; each stands beside its plain loop (cot's for methods without a plain counterpart)."""
    jobs: list[Job] = []
    for k, name in enumerate(methods):
        pair = [bench.arm(name).train(steps)]
        if "plain" in against:
            pair.append(bench.arm(name).train_plain(steps))
        jobs += pair if k % 2 else list(reversed(pair))  # what is ours beside ours, so that methods compare too
    return interleave(jobs, rounds, bench.device)


def train_lines(bench: Bench, session: Session, methods: Sequence[str], against: Sequence[str] = AGAINST) -> list[Line]:
    """A line a method."""
    out = []
    for name in methods:
        arm, job, plain = bench.arm(name), f"{name}: train", f"{name}: plain"
        ours = session.rate(job, "examples")
        more = {
            "use_of_peak_executed": session.use(job, "flops_executed"),
            "use_of_peak_without_padding": session.use(job, "flops"),
            "executed_flops_per_second": session.rate(job, "flops_executed"),
            "padding": padding(session, job),
        }
        what = f"{name} ({arm.span.stage.name})" if len(arm.trainer.spans) > 1 else name
        if "plain" not in against:
            out.append(Line(what, "nothing", "examples/s", ours, more=more))
            continue
        theirs = session.rate(plain, "examples")
        more["padding_of_plain"] = padding(session, plain)
        out.append(Line(what, f"plain {arm.against} loop", "examples/s", ours, theirs, ours / theirs, more))
    return out


def padding(session: Session, job: str) -> Spread:
    """Share of the executed positions that are padding."""
    real, executed = session.told(job, "tokens"), session.told(job, "executed")
    return Spread(tuple(1 - r / e for r, e in zip(real.values, executed.values, strict=True)))
