"""Training: examples a second in a run's own optimizer steps, beside a plain loop on the same model, rows and
optimizer.

Answering: questions a second at a fixed number of generated tokens, beside Hugging Face's `generate` or an uncached
    loop.

Time to the first token, one question at a time: a method over direct, and over what plain forwards of the same lengths
would cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rim_bench.bench.arms import Arm, Bench
from rim_bench.bench.record import Line
from rim_bench.bench.rivals import plain_forward
from rim_bench.bench.session import Job, Session, SessionLog, Spread, interleave
from rim_bench.engine.generate import decode
from rim_bench.util.errors import UsageError

STEPS = 4  # optimizer steps of each method a round, on rows of an embedded task
PUBLISHED_STEPS = 2  # on longer ones
TRAINING_AGAINST = ("plain",)
TRAINING_NAMES = {"plain": ("plain", "plain {} loop"), "hf": ("Trainer", "HF Trainer, {}")}
"""What stands beside -> the name of its job, and what a table calls it."""


def train_session(
    bench: Bench, methods: Sequence[str], rounds: int, steps: int = STEPS, against: Sequence[str] = TRAINING_AGAINST
) -> Session:
    """Interleaved rounds over all methods; each stands beside its plain loop (cot's for methods without a plain
    counterpart).
    """
    jobs: list[Job] = []
    for k, name in enumerate(methods):
        arm = bench.arm(name)
        pair = [arm.train(steps)]
        pair += [arm.train_plain(steps)] if "plain" in against else []
        pair += [arm.train_hf(steps)] if "hf" in against else []
        jobs += pair if k % 2 else list(reversed(pair))  # what is ours beside ours, so that methods compare too
    return interleave(jobs, rounds, bench.device)


def train_lines(
    bench: Bench, session: Session, methods: Sequence[str], against: Sequence[str] = TRAINING_AGAINST
) -> list[Line]:
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
            theirs = session.rate(f"{name}: {TRAINING_NAMES[other][0]}", "examples")
            out.append(
                Line(
                    what, TRAINING_NAMES[other][1].format(arm.against), "examples/s", ours, theirs, ours / theirs, more
                )
            )
        if not against:
            out.append(Line(what, "nothing", "examples/s", ours, more=more))
    return out


def padding(session: Session, job: str) -> Spread:
    """Share of the executed positions that are padding."""
    real, executed = session.told(job, "tokens"), session.told(job, "executed")
    return Spread(tuple(1 - r / e for r, e in zip(real.values, executed.values, strict=True)))


BATCH = 32  # questions answered side by side
TOKENS = 64  # generated for each; a shorter context's methods get fewer
UNCACHED = 2  # questions a round for the uncached loop, which takes seconds each
DECODING_AGAINST = ("hf", "uncached")
DECODING_NAMES = {"hf": ("generate", "HF generate"), "uncached": ("uncached", "uncached, one at a time")}


def answer_session(
    bench: Bench,
    methods: Sequence[str],
    rounds: int,
    against: Sequence[str] = ("hf",),
    *,
    batch: int = BATCH,
    tokens: int = TOKENS,
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


def answer_lines(
    bench: Bench, session: Session, methods: Sequence[str], against: Sequence[str] = ("hf",)
) -> list[Line]:
    """A line for each method and each of what it is compared to."""
    out = []
    for name in methods:
        ours = session.rate(f"{name}: answer", "examples")
        for other in against:
            job, title = DECODING_NAMES[other]
            theirs = session.rate(f"{name}: {job}", "examples")
            out.append(Line(name, title, "examples/s", ours, theirs, ours / theirs))
        if not against:
            out.append(Line(name, "nothing", "examples/s", ours))
    return out


QUESTIONS = 8  # answered one after the other, each a pass of its own, in a round
REFERENCE = "direct"


def first_session(bench: Bench, methods: Sequence[str], rounds: int, questions: int = QUESTIONS) -> Session:
    """Interleaved rounds: for each method its prompts up to the first generated token, and plain forwards of as many
    columns.

    `direct` is measured with every method, beside which it stands; a method of several passes has one plain forward of
    all its columns.
    """
    jobs: list[Job] = []
    for name in dict.fromkeys((REFERENCE, *methods)):
        arm = bench.arm(name)
        jobs += [_first(arm, questions), _forwards(arm, questions)]
    return interleave(jobs, rounds, bench.device)


def _first(arm: Arm, n: int) -> Job:
    def prepare(k: int) -> Callable[[], SessionLog]:
        arm.quiet()
        layouts = arm.prompts(arm.questions(k, n))

        def work() -> SessionLog:
            for layout in layouts:
                decode(arm.trainer.workspace, [layout], max_tokens=1)
            return {"questions": float(len(layouts))}

        return work

    return Job(f"{arm.name}: first token", prepare)


def _forwards(arm: Arm, n: int) -> Job:
    def prepare(k: int) -> Callable[[], SessionLog]:
        arm.quiet()
        lengths = [layout.size for layout in arm.prompts(arm.questions(k, n))]

        def work() -> SessionLog:
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
