"""Time to the first token, one question at a time: a method over direct, and over what plain forwards of the same lengths would cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rim_bench.benchmarks.arms import Arm, Bench
from rim_bench.benchmarks.common import Job, Session, Told, interleave
from rim_bench.benchmarks.lines import Line
from rim_bench.benchmarks.rivals import plain_forward
from rim_bench.benchmarks.spread import Spread
from rim_bench.generate import decode

QUESTIONS = 8  # answered one after the other, each a pass of its own, in a round
REFERENCE = "direct"


def first_session(bench: Bench, methods: Sequence[str], rounds: int, questions: int = QUESTIONS) -> Session:
    """Interleaved rounds: for each method its prompts up to the first generated token, and plain forwards of as many columns.

    `direct` is measured with every method, beside which it stands; a method of several passes has one plain forward of all its columns.
    """
    jobs: list[Job] = []
    for name in dict.fromkeys((REFERENCE, *methods)):
        arm = bench.arm(name)
        jobs += [_first(arm, questions), _forwards(arm, questions)]
    return interleave(jobs, rounds, bench.device)


def _first(arm: Arm, n: int) -> Job:
    def prepare(k: int) -> Callable[[], Told]:
        arm.quiet()
        layouts = arm.prompts(arm.questions(k, n))

        def work() -> Told:
            for layout in layouts:
                decode(arm.trainer.workspace, [layout], max_tokens=1)
            return {"questions": float(len(layouts))}

        return work

    return Job(f"{arm.name}: first token", prepare)


def _forwards(arm: Arm, n: int) -> Job:
    def prepare(k: int) -> Callable[[], Told]:
        arm.quiet()
        lengths = [layout.size for layout in arm.prompts(arm.questions(k, n))]

        def work() -> Told:
            for length in lengths:
                plain_forward(arm.stock, length)
            return {"questions": float(len(lengths))}

        return work

    return Job(f"{arm.name}: plain forward", prepare)


def milliseconds(session: Session, job: str) -> Spread:
    """For one question."""
    seconds, questions = session.seconds(job), session.told(job, "questions")
    return (seconds / questions).scaled(1000)


def over_plain(session: Session, name: str) -> Spread:
    """The method's time over direct's, divided by the ratio of plain forwards of the same two lengths."""
    ours = session.seconds(f"{name}: first token") / session.seconds(f"{REFERENCE}: first token")
    plain = session.seconds(f"{name}: plain forward") / session.seconds(f"{REFERENCE}: plain forward")
    return ours / plain


def first_lines(session: Session, methods: Sequence[str]) -> list[Line]:
    """A line a method."""
    out = []
    for name in methods:
        ours = milliseconds(session, f"{name}: first token")
        direct = milliseconds(session, f"{REFERENCE}: first token")
        forward = milliseconds(session, f"{name}: plain forward")
        more = {"over_direct": ours / direct, "plain_forward_ms": forward, "over_plain_forward": ours / forward}
        against = f"{REFERENCE}, over plain forwards of the same lengths"
        out.append(Line(name, against, "ms", ours, direct, over_plain(session, name), more))
    return out
