"""What a run's budget buys and when: stages, positions, learning-rate factors, the order of examples. No torch."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from rim_bench.methods.layout import Layout
from rim_bench.methods.method import Encoded, Method, Stage
from rim_bench.util.errors import UsageError


@dataclass(frozen=True)
class TrainingPlan:
    """How a run trains. A step takes `batch_size` examples, whatever fits in memory at a time.

    The budget is counted in examples, or in training FLOPs (forward and backward, the headline of `train_flops`, with
    what the run inherits from the one it started from). Exactly one of the two is given, but for a method that trains
    nothing (`NO_TRAINING`).
    """

    examples: int = 0
    flops: int = 0
    batch_size: int = 32
    micro_batch: int = 16  # rows in one forward pass; gradients accumulate up to batch_size
    lr: float = 1e-3
    warmup: float = 0.04  # share of the steps since the last optimizer reset
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.98
    clip: float = 1.0
    seed: int = 0
    checkpoints: int = 10  # written in the course of a run

    def __post_init__(self) -> None:
        if self.examples and self.flops:
            raise ValueError("a plan has one budget, in examples or in FLOPs")
        if not (self.batch_size or self.micro_batch or self.examples or self.flops):
            return  # of a run that trains nothing
        if not self.flops and (self.examples < self.batch_size or self.batch_size < 1 or self.micro_batch < 1):
            raise UsageError(
                f"a budget of {self.examples} examples is less than one step of {self.batch_size}: give at least one "
                "step's examples"
            )
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"learning rate {self.lr} must be a positive number")

    @property
    def steps(self) -> int:
        """Optimizer steps of a budget in examples.

        Raises:
            ValueError: a budget in FLOPs, whose steps are known when it is spent.
        """
        if self.flops:
            raise ValueError("how many steps a budget in FLOPs gives is known when it is spent")
        return self.examples // max(1, self.batch_size)


NO_TRAINING = TrainingPlan(batch_size=0, micro_batch=0)
"""The plan of a method that trains nothing: no budget, no steps, no seed."""
SAMPLED = 256  # examples on which a stage is priced


@dataclass(frozen=True, slots=True)
class Span:
    """A stage's part of the budget, [first, first + length), in optimizer steps or in FLOPs."""

    stage: Stage
    first: int
    length: int


def kept_stages(stages: Sequence[Stage], start: str) -> list[Stage]:
    """The stages to train: those that the starting weights already give are skipped.

    Raises:
        UsageError: no stage left, or a share that is not a positive number.
    """
    kept = [s for s in stages if s.given_by is None or s.given_by != start]
    if not kept:
        raise UsageError(f"no stage is left to train: the start {start!r} gives all of them")
    if wrong := [s.name for s in kept if not (math.isfinite(s.share) and s.share > 0)]:
        raise UsageError(f"stage {', '.join(wrong)} has a share of the budget that is not a positive number")
    return kept


def spans(stages: Sequence[Stage], total: int, start: str) -> tuple[Span, ...]:
    """Divide `total` steps (or FLOPs) among the stages by their shares (largest remainder, at least one each).

    The share of a stage that the starting weights already give goes to the others.

    Raises:
        UsageError: fewer steps than stages, no stage left, or a share that is not a positive number.
    """
    kept = kept_stages(stages, start)
    if total < len(kept):
        raise UsageError(
            f"a budget of {total} optimizer steps is too small for {len(kept)} stages "
            f"({', '.join(s.name for s in kept)})"
        )
    shares = [Fraction(s.share) for s in kept]  # exact: a budget in FLOPs has more digits than a float
    exact = [total * share / sum(shares) for share in shares]
    counts = [max(1, math.floor(e)) for e in exact]
    by_remainder = sorted(range(len(kept)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder * 2:
        if sum(counts) < total:
            counts[i] += 1
    while sum(counts) > total:
        counts[counts.index(max(counts))] -= 1
    out, first = [], 0
    for stage, count in zip(kept, counts, strict=True):
        out.append(Span(stage, first, count))
        first += count
    return tuple(out)


@dataclass(frozen=True)
class Schedule:
    """Where in its budget a run is, and what follows from it.

    `at` is what is spent so far, in the unit of the spans.
    """

    spans: tuple[Span, ...]
    warmup: float  # share of the budget since the last optimizer reset

    @property
    def total(self) -> int:
        """The budget."""
        return self.spans[-1].first + self.spans[-1].length

    def span(self, at: int, entered: int | None = None) -> Span:
        """The stage that a step beginning at `at` belongs to; no stage behind the last one `entered` is passed over."""
        index = len([s for s in self.spans if s.first <= at]) - 1
        return self.spans[index if entered is None else min(index, entered + 1)]

    def progress(self, span: Span, at: int) -> float:
        """Share of the stage that is done, in [0, 1)."""
        return min((at - span.first) / span.length, math.nextafter(1.0, 0.0))

    def rate(self, span: Span, at: int, cost: int) -> float:
        """Factor of the learning rate for a step of `cost` that begins at `at`.

        Constant behind a linear warm-up, which starts anew where the optimizer does.
        """
        since = [s for s in self.spans if s.first <= span.first and (s.stage.reset or s.first == 0)][-1]
        length = since.length
        for later in self.spans:  # stages that go on with the same optimizer belong to the same schedule
            if later.first > since.first:
                if later.stage.reset:
                    break
                length += later.length
        warm = max(cost, round(self.warmup * length))
        return span.stage.lr_scale * min(1.0, (at - since.first + cost) / warm)


def lay_out(
    method: Method,
    data: Sequence[Encoded],
    seed: int,
    schedule: Schedule,
    span: Span,
    at: int,
    step: int,
    chosen: Sequence[int],
) -> list[Layout]:
    """The training layouts of one step that begins at `at`; randomness depends on seed, step and example alone."""
    progress = schedule.progress(span, at)
    return [method.lay_train(data[i], span.stage, progress, random.Random(f"layout {seed} {step} {i}")) for i in chosen]


def planned_flops(
    method: Method, data: Sequence[Encoded], plan: TrainingPlan, start: str, price: Callable[[Layout], int]
) -> int:
    """What a budget in examples will cost, before it is spent: the order of examples and their layouts are known."""
    schedule = Schedule(spans(method.stages(), plan.steps, start), plan.warmup)
    total = 0
    for step, chosen in zip(range(plan.steps), batches(len(data), plan.batch_size, plan.seed), strict=False):
        total += sum(map(price, lay_out(method, data, plan.seed, schedule, schedule.span(step), step, step, chosen)))
    return total


def flops_spans(
    method: Method,
    data: Sequence[Encoded],
    plan: TrainingPlan,
    start: str,
    inherited: int,
    price: Callable[[Layout], int],
) -> tuple[Span, ...]:
    """The stages' parts of a budget in FLOPs, of which `inherited` are spent already.

    A stage's share is one of the examples, as in a budget in examples: what it costs is estimated on `SAMPLED` of them,
    spread over the data and over the stage.

    Raises:
        UsageError: less than what is inherited, or a stage whose share does not hold one step.
    """
    stages, own = method.stages(), plan.flops - inherited
    kept = kept_stages(stages, start)
    if own < len(kept):
        raise UsageError(
            f"a budget of {plan.flops:.4g} training FLOPs is spent before {method.name} begins: the weights it starts "
            "from cost "
            f"{inherited:.4g}; give more"
        )
    sample = data[:: max(1, len(data) // SAMPLED)][:SAMPLED]

    def priced(stage: Stage) -> Stage:
        drawn = random.Random(f"price {plan.seed}")
        rows = [method.lay_train(e, stage, k / len(sample), drawn) for k, e in enumerate(sample)]
        return replace(stage, share=stage.share * sum(map(price, rows)) / len(rows))

    out = tuple(
        replace(span, stage=stage) for span, stage in zip(spans(list(map(priced, kept)), own, start), kept, strict=True)
    )
    schedule, chosen = Schedule(out, plan.warmup), next(batches(len(data), plan.batch_size, plan.seed))
    before = 0
    for span in out:
        cost = sum(map(price, lay_out(method, data, plan.seed, schedule, span, span.first, 0, chosen)))
        before, least = cost, max(cost, before)  # the last step of the stage before may reach that far into this one
        if least > span.length:
            raise UsageError(
                f"a budget of {plan.flops:.4g} training FLOPs is too small for {method.name}: stage "
                f"{span.stage.name!r} gets "
                f"{span.length:.4g} of it, and one step costs {least:.4g}"
            )
    return out


def batches(size: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of example indices: a seeded permutation an epoch, the same for every method."""
    if size < 1:
        raise ValueError("no examples to train on")
    pending: list[int] = []
    epoch = 0
    while True:
        while len(pending) < batch_size:
            order = list(range(size))
            random.Random(f"order {seed} {epoch}").shuffle(order)
            pending += order
            epoch += 1
        yield pending[:batch_size]
        pending = pending[batch_size:]
