"""One training loop for every method: stages, exact accumulation, checkpoints, resume."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from rim_bench.errors import UsageError
from rim_bench.layout import Layout
from rim_bench.losses import group_counts, tree_loss
from rim_bench.method import Encoded, Method, Stage
from rim_bench.run_options import TrainingStep
from rim_bench.workspace import Workspace

if TYPE_CHECKING:
    from rim_bench.backbone import Backbone


@dataclass(frozen=True)
class Plan:
    """How a run trains. The budget is counted in examples; a step takes `batch_size` of them, whatever fits in memory at a time."""

    examples: int
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
        if self.examples < self.batch_size or self.batch_size < 1 or self.micro_batch < 1:
            raise UsageError(
                f"a budget of {self.examples} examples is less than one step of {self.batch_size}: give at least one step's examples"
            )
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"learning rate {self.lr} must be a positive number")

    @property
    def steps(self) -> int:
        return self.examples // self.batch_size


@dataclass(frozen=True, slots=True)
class Span:
    """A stage's steps, [first, first + steps)."""

    stage: Stage
    first: int
    steps: int


def spans(stages: Sequence[Stage], steps: int, start: str) -> tuple[Span, ...]:
    """Divide `steps` among the stages by their shares (largest remainder, at least one step each).

    Stages that the starting weights already give are skipped and their share goes to the others.

    Raises:
        UsageError: fewer steps than stages, no stage left, or a share that is not a positive number.
    """
    kept = [s for s in stages if s.given_by is None or s.given_by != start]
    if not kept:
        raise UsageError(f"no stage is left to train: the start {start!r} gives all of them")
    if wrong := [s.name for s in kept if not (math.isfinite(s.share) and s.share > 0)]:
        raise UsageError(f"stage {', '.join(wrong)} has a share of the budget that is not a positive number")
    if steps < len(kept):
        raise UsageError(f"a budget of {steps} optimizer steps is too small for {len(kept)} stages ({', '.join(s.name for s in kept)})")
    total = sum(s.share for s in kept)
    exact = [steps * s.share / total for s in kept]
    counts = [max(1, math.floor(e)) for e in exact]
    by_remainder = sorted(range(len(kept)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder * 2:
        if sum(counts) < steps:
            counts[i] += 1
    while sum(counts) > steps:
        counts[counts.index(max(counts))] -= 1
    out, first = [], 0
    for stage, count in zip(kept, counts, strict=True):
        out.append(Span(stage, first, count))
        first += count
    return tuple(out)


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


class Journal(Protocol):
    """Where a run's progress goes: `rim_bench.store.Run` in practice."""

    def append_metrics(self, record: dict[str, Any]) -> None: ...
    def truncate_metrics(self, step: int) -> None: ...
    def checkpoint(self, step: int) -> AbstractContextManager[Path]: ...
    def latest_checkpoint(self) -> tuple[int, Path] | None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What training did. Counts cover the whole run; seconds too, also those before a resume."""

    steps: int
    examples: int
    tokens: int  # real columns that were computed
    executed: int  # columns that were computed, padding included
    seconds: float
    final_loss: float
    resumed_from: int


class Trainer:
    """Trains one method on one backbone. `run` is idempotent: it starts from the newest sound checkpoint."""

    def __init__(
        self,
        backbone: Backbone,
        method: Method,
        bridges: nn.ModuleDict | None,
        data: Sequence[Encoded],
        plan: Plan,
        journal: Journal,
        start: str = "recipe",
    ) -> None:
        self.backbone, self.method, self.data, self.plan, self.journal = backbone, method, data, plan, journal
        self.bridges = bridges if bridges is not None else nn.ModuleDict()
        auxiliary = method.auxiliary(backbone.width)
        if auxiliary is not None:
            raise UsageError(f"{method.name} asks for an auxiliary loss, which this version does not train")
        self.spans = spans(method.stages(), plan.steps, start)
        self.workspace = Workspace(backbone, self.bridges)
        self.parameters = [*backbone.parameters_to_train(), *((f"bridges.{n}", p) for n, p in self.bridges.named_parameters())]
        self.optimizer = self._optimizer()
        self.counters: Counter[str] = Counter()
        self.seconds = 0.0
        self.loss = math.nan

    def _optimizer(self) -> torch.optim.AdamW:
        plan = self.plan
        groups = self.backbone.parameter_groups(plan.weight_decay)
        if extra := list(self.bridges.parameters()):
            groups.append({"params": extra, "weight_decay": plan.weight_decay})
        return torch.optim.AdamW(groups, lr=plan.lr, betas=(plan.beta1, plan.beta2), fused=True)

    def run(self, show: Callable[[TrainingStep], None] | None = None) -> Outcome:
        """Train to the end of the budget.

        Raises:
            UsageError: the loss is not finite; the last good checkpoint stays.
        """
        plan = self.plan
        torch.manual_seed(plan.seed)
        first = self._resume()
        self.journal.truncate_metrics(first)
        order = batches(len(self.data), plan.batch_size, plan.seed)
        every = max(1, plan.steps // max(1, plan.checkpoints))
        rate = _Rate()
        self.backbone.model.train()
        for step, chosen in enumerate(order):
            if step >= plan.steps:
                break
            if step < first:
                continue
            span = next(s for s in self.spans if s.first <= step < s.first + s.steps)
            self._enter(span, step, step == first)
            began = time.perf_counter()
            record = self._step(span, step, chosen)
            took = time.perf_counter() - began
            self.seconds += took
            self.journal.append_metrics({**record, "seconds": round(took, 4)})
            if (step + 1) % every == 0 and step + 1 < plan.steps:
                self._save(step + 1)
            if show is not None:
                speed = rate.add(plan.batch_size, took)
                left = (plan.steps - step - 1) * plan.batch_size / speed
                show(TrainingStep(step + 1, plan.steps, span.stage.name, self.loss, speed, left))
        self.backbone.set_dropout(0.0)
        self.backbone.model.eval()
        done = plan.steps * plan.batch_size
        return Outcome(plan.steps, done, self.counters["tokens"], self.counters["executed"], self.seconds, self.loss, first)

    def _enter(self, span: Span, step: int, resumed: bool) -> None:
        if step == span.first and span.stage.reset and step:
            self.optimizer = self._optimizer()
        if step == span.first or resumed:
            self.backbone.set_dropout(span.stage.dropout)

    def _lr(self, span: Span, step: int) -> float:
        """Constant rate behind a linear warm-up, which starts anew where the optimizer does."""
        since = [s for s in self.spans if s.first <= step and (s.stage.reset or s.first == 0)][-1]
        length = since.steps
        for later in self.spans:  # stages that go on with the same optimizer belong to the same schedule
            if later.first > since.first:
                if later.stage.reset:
                    break
                length += later.steps
        warm = max(1, round(self.plan.warmup * length))
        return self.plan.lr * span.stage.lr_scale * min(1.0, (step - since.first + 1) / warm)

    def layouts(self, span: Span, step: int, chosen: Sequence[int]) -> list[Layout]:
        """The training layouts of one step; randomness depends on seed, step and example alone."""
        progress = (step - span.first) / span.steps
        return [
            self.method.lay_train(self.data[i], span.stage, progress, random.Random(f"layout {self.plan.seed} {step} {i}")) for i in chosen
        ]

    def _step(self, span: Span, step: int, chosen: Sequence[int]) -> dict[str, Any]:
        """One optimizer step: micro-batches of similar length, whose gradients add up to the whole batch's exactly."""
        lr = self._lr(span, step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        layouts = sorted(self.layouts(span, step, chosen), key=lambda row: row.size)
        counts = group_counts(layouts)
        self.optimizer.zero_grad(set_to_none=True)
        parts: Counter[str] = Counter()
        for at in range(0, len(layouts), self.plan.micro_batch):
            micro = layouts[at : at + self.plan.micro_batch]
            with self.backbone.autocast():
                columns = self.workspace.forward(micro)
                loss, groups = tree_loss(self.backbone, columns, counts)
            if not math.isfinite(sum(groups.values())):
                raise self._diverged(span, step)
            loss.backward()  # type: ignore[no-untyped-call]
            parts.update(groups)
            self.counters["executed"] += columns.executed
        norm = float(torch.nn.utils.clip_grad_norm_([p for _, p in self.parameters], self.plan.clip))
        if not math.isfinite(norm):
            raise self._diverged(span, step)
        self.optimizer.step()
        tokens = sum(row.size for row in layouts)
        self.counters["tokens"] += tokens
        self.loss = sum(parts.values())
        return {
            "step": step + 1,
            "stage": span.stage.name,
            "loss": self.loss,
            "losses": dict(parts),
            "lr": lr,
            "examples": (step + 1) * self.plan.batch_size,
            "tokens": tokens,
            "grad_norm": norm,
        }

    def _diverged(self, span: Span, step: int) -> UsageError:
        kept = self.journal.latest_checkpoint()
        last = f"the last good checkpoint (step {kept[0]}) is kept at {kept[1]}" if kept else "no checkpoint had been written yet"
        return UsageError(
            f"the loss or gradient of {self.method.name} is not finite at step {step + 1} (stage {span.stage.name!r}, "
            f"learning rate {self.plan.lr:g}): {last}; a lower learning rate usually helps"
        )

    def _save(self, step: int) -> None:
        state = {
            "step": step,
            "parameters": {name: p.detach() for name, p in self.parameters},
            "optimizer": self.optimizer.state_dict(),
            "counters": dict(self.counters),
            "seconds": self.seconds,
            "loss": self.loss,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        with self.journal.checkpoint(step) as folder:
            torch.save(state, folder / "trainer.pt")

    def _resume(self) -> int:
        """Load the newest sound checkpoint; returns the number of steps that are done."""
        found = self.journal.latest_checkpoint()
        if found is None:
            return 0
        state = torch.load(found[1] / "trainer.pt", map_location="cpu", weights_only=True)
        names = {name for name, _ in self.parameters}
        if names != set(state["parameters"]):
            raise UsageError(f"checkpoint {found[1]} holds other parameters than this run trains: move it away to start afresh")
        with torch.no_grad():
            for name, parameter in self.parameters:
                parameter.copy_(state["parameters"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.counters = Counter(state["counters"])
        self.seconds, self.loss = state["seconds"], state["loss"]
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        return int(state["step"])


class _Rate:
    """Examples per second over the last steps."""

    def __init__(self, window: int = 20) -> None:
        self.window = window
        self.seen: list[tuple[int, float]] = []

    def add(self, examples: int, seconds: float) -> float:
        self.seen = [*self.seen[-self.window + 1 :], (examples, seconds)]
        return sum(e for e, _ in self.seen) / max(1e-9, sum(s for _, s in self.seen))
