"""Cost against one knob: measured, and in closed form.

The same examples at every value of the knob and in every round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rim_bench.bench.arms import Arm, Bench
from rim_bench.bench.record import Curve, Measured, Scaling
from rim_bench.bench.session import MeasuredJob, Session, interleave
from rim_bench.compute.flops import decode_flops, prefill_flops
from rim_bench.methods.method import Encoded
from rim_bench.runs.options import Options
from rim_bench.util.errors import UsageError, unknown

TOKENS = 16  # generated for each question
POSITIONS = 1024  # of a from-scratch model, where questions are lengthened
Show = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Knob:
    """What is varied: the methods that have it, and the values where none are given."""

    methods: tuple[str, ...]
    values: tuple[int, ...]


_ALL = ("direct", "cot", "coconut", "rim")
KNOBS: Mapping[str, Knob] = {
    "question-length": Knob(_ALL, (16, 32, 64, 128, 256)),
    "K": Knob(("rim",), (1, 2, 4, 8, 16)),
    "thoughts": Knob(("coconut",), (1, 2, 4, 6, 8)),
    "batch": Knob(_ALL, (1, 4, 8, 16, 32, 64)),
    "width": Knob(_ALL, (64, 128, 256, 512)),
}


def parse_values(text: str | None, vary: str) -> tuple[int, ...]:
    """The knob's values: those given, or its own.

    Raises:
        UsageError: an unknown knob, fewer than two values, or values that are no ascending whole numbers of at least 1.
    """
    if vary not in KNOBS:
        raise unknown("knob of scaling", vary, KNOBS)
    if text is None:
        return KNOBS[vary].values
    try:
        values = tuple(int(v) for v in text.split(","))
    except ValueError:
        values = ()
    if len(values) < 2 or list(values) != sorted(set(values)) or values[0] < 1:
        raise UsageError(f"--values {text!r} must be at least two ascending whole numbers of at least 1, as in 1,2,4,8")
    return values


def scaling(options: Options, vary: str, values: Sequence[int], rounds: int, show: Show = lambda _: None) -> Measured:
    """Seconds for one example of a training step and one answered question at each value, and closed-form FLOPs.

    All values and methods are measured in the same interleaved rounds.
    """
    methods = KNOBS[vary].methods
    settings = {k: v for k, v in options.settings.items() if k in methods}
    options = dataclasses.replace(options, methods=methods, settings=settings)
    points: dict[tuple[str, int], Arm] = {}
    jobs: list[MeasuredJob] = []
    for value in values:
        show(f"{vary} = {value}")
        bench = bench_at(options, vary, value)
        if vary == "question-length":
            bench.data = [lengthened(e, value) for e in bench.data]
        for name in methods:
            arm = points[name, value] = bench.arm(name)
            jobs.append(arm.train(1, f"training {name} {value}"))
            jobs.append(arm.answer(arm.batch_size, TOKENS, f"answer {name} {value}"))
    # what differs between two values is the knob alone
    session = interleave([job.same_every_round() for job in jobs], rounds, bench.device)
    curves = [curve(session, points, name, values, work) for work in ("training", "answer") for name in methods]
    measured = Scaling(vary, list(values), curves)
    return Measured(peak=session.peak, cpu_share=session.cpu_share, setting=bench.setting(), scaling=measured)


def bench_at(options: Options, vary: str, value: int) -> Bench:
    """Rows and model at one value of the knob."""
    if vary in ("K", "thoughts"):
        method, fields = ("rim", {"K": value}) if vary == "K" else ("coconut", {"c": 1, "latent_stages": value})
        settings = {**options.settings, method: {**options.settings.get(method, {}), **fields}}
        return Bench(dataclasses.replace(options, settings=settings))
    if vary == "batch":
        return Bench(dataclasses.replace(options, batch_size=value))
    plain = Bench(options)
    spec = plain.study.backbone
    if vary == "width":
        if spec["kind"] != "scratch":
            raise UsageError(
                f"--vary width builds models from scratch, and {spec['name']!r} is pretrained: give --model bench-gpt2"
            )
        heads = max(1, value // 32)
        if value % (2 * heads):
            raise UsageError(f"--values {value}: a width is split into heads of 32, so give multiples of 64")
        return Bench(options, (int(spec["layers"]), value, heads))
    if spec["kind"] != "scratch":
        return plain
    longer = {"max_positions": max(POSITIONS, int(spec["max_positions"]))}
    return Bench(dataclasses.replace(options, backbone={**options.backbone, **longer}))


def lengthened(example: Encoded, tokens: int) -> Encoded:
    """The example with a question of exactly so many tokens: its own, over and over."""
    question = (example.question * (-(-tokens // len(example.question))))[:tokens]
    return dataclasses.replace(example, question=question)


def curve(
    session: Session, points: Mapping[tuple[str, int], Arm], name: str, values: Sequence[int], work: str
) -> Curve:
    """Measured seconds and closed-form FLOPs of one method's work at each value."""
    seconds, flops, rates = [], [], []
    for value in values:
        job, arm = f"{work} {name} {value}", points[name, value]
        each = session.seconds(job) / session.counted(job, "examples")
        cost = session.counted(job, "flops").median / arm.batch_size if work == "training" else answer_flops(arm)
        seconds.append(each)
        flops.append(round(cost))
        rates.append(float(f"{cost / each.median / 1e9:.5g}"))
    return Curve(name, work, seconds, flops, rates)


def answer_flops(arm: Arm) -> float:
    """Closed form of one answered question, mean over those of round 0: prompt and cached steps, no padding."""
    prompts, shape = arm.prompts(arm.questions(0, arm.batch_size)), arm.trainer.shape
    return sum(prefill_flops(shape, row) + decode_flops(shape, row, TOKENS) for row in prompts) / len(prompts)
