"""Three measurements of speed, each as a session of jobs and as lines.

Training (examples a second beside a plain loop), answering (questions a second beside HF `generate`), and the time to
the first token over direct's.
"""

from __future__ import annotations

from collections.abc import Sequence

from rim_bench.bench.arms import Bench
from rim_bench.bench.record import Line, Spread
from rim_bench.bench.session import MeasuredJob, Session, interleave
from rim_bench.util.errors import UsageError

STEPS = 4  # optimizer steps of each method a round, on rows of an embedded task
PUBLISHED_STEPS = 2  # on longer ones
BATCH = 32  # questions answered side by side
TOKENS = 64  # generated for each; a shorter context's methods get fewer
UNCACHED = 2  # questions a round for the uncached loop, which takes seconds each
QUESTIONS = 8  # answered up to the first token in a round, one after the other
REFERENCE = "direct"  # what the time to the first token is compared with
TRAINING_NAMES = {"plain": ("plain", "plain {} loop"), "hf": ("Trainer", "HF Trainer, {}")}
DECODING_NAMES = {"hf": ("generate", "HF generate"), "uncached": ("uncached", "uncached, one at a time")}
"""What stands beside -> the name of its job, and what a table calls it."""


def train_session(
    bench: Bench, methods: Sequence[str], rounds: int, steps: int = STEPS, against: Sequence[str] = ("plain",)
) -> Session:
    """Interleaved rounds over all methods, each beside its plain loop (cot's where it has none of its own)."""
    jobs: list[MeasuredJob] = []
    for k, name in enumerate(methods):
        arm = bench.arm(name)
        pair = [arm.train(steps)]
        pair += [arm.train_plain(steps)] if "plain" in against else []
        pair += [arm.train_hf(steps)] if "hf" in against else []
        jobs += pair if k % 2 else list(reversed(pair))  # what is ours beside ours, so that methods compare too
    return interleave(jobs, rounds, bench.device)


def train_lines(
    bench: Bench, session: Session, methods: Sequence[str], against: Sequence[str] = ("plain",)
) -> list[Line]:
    """A line for each method and each of what it is compared to."""
    out = []
    for name in methods:
        arm, job = bench.arm(name), f"{name}: train"
        more = {
            "use_of_peak_executed": session.use(job, "flops_executed"),
            "use_of_peak_without_padding": session.use(job, "flops"),
            "executed_flops_per_second": session.rate(job, "flops_executed"),
            "padding": session.padding(job),
        }
        if "plain" in against:
            more["padding_of_plain"] = session.padding(f"{name}: plain")
        what = f"{name} ({arm.span.stage.name})" if len(arm.trainer.spans) > 1 else name
        beside = {TRAINING_NAMES[other][1].format(arm.against): TRAINING_NAMES[other][0] for other in against}
        out += _rates(session, what, name, "train", beside, more)
    return out


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
    jobs: list[MeasuredJob] = []
    longest = max((e.question for e in bench.data), key=len)
    for k, name in enumerate(methods):
        arm = bench.arm(name)
        need = arm.method.lay_prompt(longest).depth + tokens
        if need > arm.backbone.max_positions:
            raise UsageError(
                f"the longest question needs {need} positions with {name} and {tokens} generated tokens, the model has "
                f"{arm.backbone.max_positions}: give --backbone max_positions={need}"
            )
        group = [arm.answer(batch, tokens)]
        group += [arm.answer_hf(batch, tokens)] if "hf" in against else []
        group += [arm.answer_uncached(UNCACHED, tokens, batch)] if "uncached" in against else []
        jobs += group if k % 2 else list(reversed(group))
    return interleave(jobs, rounds, bench.device)


def answer_lines(session: Session, methods: Sequence[str], against: Sequence[str] = ("hf",)) -> list[Line]:
    """A line for each method and each of what it is compared to."""
    beside = {DECODING_NAMES[other][1]: DECODING_NAMES[other][0] for other in against}
    return [line for name in methods for line in _rates(session, name, name, "answer", beside, {})]


def _rates(
    session: Session, what: str, name: str, job: str, beside: dict[str, str], more: dict[str, Spread]
) -> list[Line]:
    """Examples a second of a method's job beside each of the others, title -> job; alone where there is none."""
    ours = session.rate(f"{name}: {job}")
    if not beside:
        return [Line(what, "nothing", "examples/s", ours, more=more)]
    rates = {title: session.rate(f"{name}: {other}") for title, other in beside.items()}
    return [Line(what, title, "examples/s", ours, theirs, ours / theirs, more) for title, theirs in rates.items()]


def first_session(bench: Bench, methods: Sequence[str], rounds: int, questions: int = QUESTIONS) -> Session:
    """Interleaved rounds: each method's prompts up to the first generated token, and plain forwards of as many columns.

    `direct` is measured with every method; a method of several passes has one plain forward of all its columns.
    """
    arms = [bench.arm(name) for name in dict.fromkeys((REFERENCE, *methods))]
    jobs = [job for arm in arms for job in (arm.first_token(questions), arm.forwards(questions))]
    return interleave(jobs, rounds, bench.device)


def milliseconds(session: Session, job: str) -> Spread:
    """For one question."""
    return (session.seconds(job) / session.counted(job, "questions")).scaled(1000)


def over_plain(session: Session, name: str) -> Spread:
    """The method's time over direct's, divided by the ratio of plain forwards of the same two lengths."""
    ours = session.seconds(f"{name}: first token") / session.seconds(f"{REFERENCE}: first token")
    plain = session.seconds(f"{name}: plain forward") / session.seconds(f"{REFERENCE}: plain forward")
    return ours / plain


def first_lines(session: Session, methods: Sequence[str]) -> list[Line]:
    """A line for each method."""
    out = []
    direct = milliseconds(session, f"{REFERENCE}: first token")
    for name in methods:
        ours = milliseconds(session, f"{name}: first token")
        forward = milliseconds(session, f"{name}: plain forward")
        more = {"over_direct": ours / direct, "plain_forward_ms": forward, "over_plain_forward": ours / forward}
        against = f"{REFERENCE}, over plain forwards of the same lengths"
        out.append(Line(name, against, "ms", ours, direct, over_plain(session, name), more))
    return out
