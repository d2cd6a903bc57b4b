"""One training loop for every method: stages, exact accumulation, checkpoints, resume."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from rim_bench.compute.training_flops import Trains, executed, executed_cost, padding_cost, training_cost
from rim_bench.engine.checkpoint_state import FILE, read_state
from rim_bench.engine.losses import group_counts, tree_loss
from rim_bench.engine.micro_batches import micro_batches
from rim_bench.engine.optimizer import optimizer_of, trained_parameters
from rim_bench.engine.packing import PackedModel
from rim_bench.methods.layout import Layout
from rim_bench.methods.method import Encoded, Method
from rim_bench.methods.own_methods import auxiliary_of
from rim_bench.methods.schedule import Schedule, Span, TrainingPlan, batches, flops_spans, lay_out, spans
from rim_bench.util.errors import UsageError
from rim_bench.util.progress import TrainingStep

if TYPE_CHECKING:
    from rim_bench.engine.backbone import Backbone
    from rim_bench.engine.distributed.trainer import DistributedTrainer
    from rim_bench.engine.distributed.workers import WorkerGroup


class Journal(Protocol):
    """Where a run's progress goes: `rim_bench.storage.run_folder.Run` in practice."""

    def append_metrics(self, record: dict[str, Any]) -> None: ...
    def truncate_metrics(self, step: int) -> None: ...
    def checkpoint(self, step: int, needed: int) -> AbstractContextManager[Path]: ...
    def latest_checkpoint(self) -> tuple[int, Path] | None: ...


class Watcher(Protocol):
    """Looks at the weights during training and changes nothing: `runs.checkpoints.CheckpointSelector` in practice."""

    @property
    def points(self) -> int: ...  # evenly spaced ones, the last at the end of training
    def resume(self, step: int) -> None: ...  # training goes on after that step: what was seen later is void
    def evaluate(
        self, step: int, stage: str, *, candidate: bool, ends: bool
    ) -> None: ...  # at a point, at the end of a stage, or both
    def prune(self, step: int) -> None: ...  # a checkpoint of that step is stored: training never goes back behind it


class Diverged(UsageError):
    """Training ended because the loss or a gradient was not finite."""


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
    flops: int = 0  # forward and backward of the layouts: the headline
    flops_executed: int = 0  # what a counter would have seen
    flops_padding: int = 0  # the part of it that padding made
    last_step_flops: int = 0  # headline


COUNTED = ("tokens", "executed", "flops", "flops_executed", "flops_padding", "last_step_flops")  # fields of `Outcome`


class Trainer:
    """Trains one method on one backbone. `run` is idempotent: it starts from the newest sound checkpoint.

    Args:
        start: the weights that the backbone comes with, which may spare a stage.
        inherited: FLOPs that these weights cost; they are part of a budget in FLOPs.
        watcher: is shown the weights at its points and at the end of every stage.
        group: the processes that share every step, the way that `strategy` says ("ddp" or "fsdp"); None where this one
            is alone.

    Raises:
        UsageError: a budget that is too small for the stages, or for what is inherited; a strategy that does not fit.
    """

    def __init__(
        self,
        backbone: Backbone,
        method: Method,
        bridges: nn.ModuleDict | None,
        data: Sequence[Encoded],
        plan: TrainingPlan,
        journal: Journal,
        start: str = "recipe",
        inherited: int = 0,
        watcher: Watcher | None = None,
        group: WorkerGroup | None = None,
        strategy: str = "ddp",
    ) -> None:
        self.backbone, self.method, self.data, self.plan, self.journal = backbone, method, data, plan, journal
        self.watcher = watcher
        self.group, self.strategy = group, strategy
        self.distributed: DistributedTrainer | None = None  # while the group trains
        self.others: list[Any] = []  # random states of the processes that wrote the checkpoint
        if group is not None:
            from rim_bench.engine.distributed.trainer import check_model

            check_model(backbone, strategy)
        self.bridges = bridges if bridges is not None else nn.ModuleDict()
        auxiliary = auxiliary_of(method, backbone.width)
        if auxiliary is not None:
            raise UsageError(f"{method.name} asks for an auxiliary loss, which this version does not train")
        self.workspace = PackedModel(backbone, self.bridges)
        self.shape = self.workspace.shape()
        if plan.flops:
            trains = backbone.trains()
            self.spans = flops_spans(
                method, data, plan, start, inherited, lambda row: training_cost(self.shape, trains, row)
            )
        else:
            self.spans = spans(method.stages(), plan.steps, start)
        self.schedule = Schedule(self.spans, plan.warmup)
        self.parameters = trained_parameters(backbone, self.bridges)
        self.optimizer = optimizer_of(backbone, self.bridges, plan)
        self.counters: Counter[str] = Counter()
        self.entered: int | None = None  # the stage that the last step belonged to
        self.reset_at: int | None = None  # `Stage.reset_when` at the last step; None where its stage has none
        self.done = 0  # steps
        self.spent = 0  # of the budget, in its unit
        self.seconds = 0.0
        self.loss = math.nan

    def run(self, show: Callable[[TrainingStep], None] | None = None) -> Outcome:
        """Train to the end of the budget.

        Raises:
            Diverged: the loss is not finite; the last good checkpoint stays.
        """
        plan, total = self.plan, self.schedule.total
        torch.manual_seed(plan.seed)
        self._resume()
        first = self.done
        self.journal.truncate_metrics(first)
        if self.watcher is not None:
            self.watcher.resume(first)
        every = max(1, total // max(1, plan.checkpoints))
        latest: deque[float] = deque(maxlen=20)  # seconds of the latest steps
        self.backbone.model.train()
        try:
            if self.group is not None:
                self._distribute(self.group)
            for chosen in islice(batches(len(self.data), plan.batch_size, plan.seed), first, None):
                if self.spent >= total:
                    break
                began = time.perf_counter()
                record = self.step(chosen)
                took = time.perf_counter() - began
                before = self.spent
                self.seconds += took
                self.done += 1
                self.spent += record["flops"] if plan.flops else 1
                self.journal.append_metrics({**record, "seconds": round(took, 4)})
                self._show_watcher(before)
                if self.spent // every > before // every and self.spent < total:
                    state = self.state()
                    with (
                        self.journal.checkpoint(self.done, tensor_bytes(state)) as folder,
                        (folder / FILE).open("wb") as file,  # torch's own file has no word on why it failed
                    ):
                        torch.save(state, file)
                    del state  # not held while training goes on
                    if self.watcher is not None:
                        self.watcher.prune(self.done)
                if show is not None:
                    latest.append(took)
                    steps = max(self.done, round(self.done * total / self.spent))  # exact for a budget in examples
                    speed = len(latest) * plan.batch_size / max(1e-9, sum(latest))
                    left = (steps - self.done) * plan.batch_size / speed
                    show(TrainingStep(self.done, steps, record["stage"], self.loss, speed, left))
            if self.distributed is not None:
                self.distributed.settle()
        finally:
            if self.distributed is not None:
                self.distributed.dismiss()
                self.distributed = None
        self.backbone.set_dropout(0.0)
        self.backbone.model.eval()
        return Outcome(
            steps=self.done,
            examples=self.done * plan.batch_size,
            seconds=self.seconds,
            final_loss=self.loss,
            resumed_from=first,
            **{name: self.counters[name] for name in COUNTED},
        )

    def _show_watcher(self, before: int) -> None:
        """Show the weights to the watcher, where that is due after a step that began at `before`."""
        if self.watcher is None or self.entered is None or not (points := self.watcher.points):
            return
        total, span = self.schedule.total, self.spans[self.entered]
        candidate = points * self.spent // total > points * before // total  # a last step may overshoot FLOPs
        ends = self.spent >= total or self.schedule.span(self.spent, self.entered) is not span
        if candidate or ends:
            if self.distributed is not None:
                self.distributed.settle()
            self.watcher.evaluate(self.done, span.stage.name, candidate=candidate, ends=ends)

    def layouts(self, span: Span, at: int, step: int, chosen: Sequence[int]) -> list[Layout]:
        """The training layouts of one step that begins at `at`; randomness depends on seed, step and example alone."""
        return lay_out(self.method, self.data, self.plan.seed, self.schedule, span, at, step, chosen)

    def step(self, chosen: Sequence[int]) -> dict[str, Any]:
        """The record of one optimizer step on these examples, where the run is in its budget; `run` goes on from there.

        Its micro-batches hold rows of similar length, and their gradients add up to the whole batch's exactly.

        Raises:
            Diverged: the loss or the gradient is not finite.
        """
        span = self.schedule.span(self.spent, self.entered)
        stage = self.spans.index(span)
        if stage != self.entered:  # a stage begins: its dropout, and a fresh optimizer if it asks for one
            if span.stage.reset and self.entered is not None:
                self._reset_optimizer()
            self.entered, self.reset_at = stage, None
            self.backbone.set_dropout(span.stage.dropout)
            if self.distributed is not None:
                self.distributed.dropout(span.stage.dropout)
        at = None if span.stage.reset_when is None else span.stage.reset_when(self.schedule.progress(span, self.spent))
        if at is not None and self.reset_at is not None and at != self.reset_at:
            self._reset_optimizer()
        self.reset_at = at
        layouts = self.layouts(span, self.spent, self.done, chosen)
        trains = self.backbone.trains()
        cost = sum(training_cost(self.shape, trains, row) for row in layouts)
        lr = self.plan.lr * self.schedule.rate(span, self.spent, cost if self.plan.flops else 1)
        flops_before = self.counters["flops_executed"]
        losses, norm = self._update(layouts, lr, trains)
        if not math.isfinite(norm):
            checkpoint = self.journal.latest_checkpoint()
            last = (
                f"the last good checkpoint (step {checkpoint[0]}) is kept at {checkpoint[1]}"
                if checkpoint
                else "no checkpoint had been written yet"
            )
            raise Diverged(
                f"the loss or gradient of {self.method.name} is not finite at step {self.done + 1} (stage "
                f"{span.stage.name!r}, learning rate {self.plan.lr:g}): {last}; a lower learning rate usually helps"
            )
        tokens = sum(row.size for row in layouts)
        self.counters.update(tokens=tokens, flops=cost)
        self.counters["last_step_flops"] = cost
        self.loss = sum(losses.values())
        return {
            "step": self.done + 1,
            "stage": span.stage.name,
            "loss": _digits(self.loss),
            "losses": {name: _digits(loss) for name, loss in losses.items()},
            "lr": _digits(lr),
            "examples": (self.done + 1) * self.plan.batch_size,
            "tokens": tokens,
            "grad_norm": _digits(norm),
            "flops": cost,
            "flops_executed": self.counters["flops_executed"] - flops_before,
        }

    def _reset_optimizer(self) -> None:
        """A fresh optimizer, in all processes."""
        if self.distributed is not None:
            self.distributed.reset()
        else:
            self.optimizer = optimizer_of(self.backbone, self.bridges, self.plan)

    def _cut(self, rows: Sequence[Layout]) -> list[list[Layout]]:
        """Rows as micro-batches of similar length."""
        return micro_batches(rows, self.plan.micro_batch, self.backbone.device.type, self.backbone.width)

    def _update(self, layouts: list[Layout], lr: float, trains: Trains) -> tuple[dict[str, float], float]:
        """Losses by group, and norm of the gradient, of a step; nothing is changed where one of them is not finite."""
        if self.distributed is not None:  # each process has its share of the rows
            from rim_bench.engine.distributed.trainer import is_dummy

            step = self.distributed.step(layouts, self._cut, group_counts(layouts), lr)
            for micro in step.micros:
                cost = executed_cost(self.shape, trains, micro)
                real = sum(executed_cost(self.shape, trains, [row]) for row in micro if not is_dummy(row))
                self.counters["executed"] += executed(micro).columns
                self.counters["flops_executed"] += cost
                self.counters["flops_padding"] += cost - real
            return step.losses, step.norm
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        counts = group_counts(layouts)
        self.optimizer.zero_grad(set_to_none=True)
        losses: Counter[str] = Counter()
        for micro in self._cut(layouts):
            with self.backbone.autocast():
                batch = self.workspace.forward(micro)
                loss, losses_of_micro = tree_loss(self.backbone, batch, counts)
            if not math.isfinite(sum(losses_of_micro.values())):
                return losses_of_micro, math.nan
            loss.backward()  # type: ignore[no-untyped-call]
            losses.update(losses_of_micro)
            self.counters["executed"] += batch.executed
            self.counters["flops_executed"] += executed_cost(self.shape, trains, micro)
            self.counters["flops_padding"] += padding_cost(self.shape, trains, micro)
        norm = float(torch.nn.utils.clip_grad_norm_([p for _, p in self.parameters], self.plan.clip))
        if math.isfinite(norm):
            self.optimizer.step()
        return dict(losses), norm

    def _distribute(self, group: WorkerGroup) -> None:
        """Hand the run to all processes, as it is now; this one keeps no optimizer of its own."""
        from rim_bench.engine.distributed.trainer import DistributedTrainer

        state = self.optimizer.state_dict()
        self.distributed = DistributedTrainer(
            group, self.backbone, self.bridges, self.plan, self.strategy, self.done, state, self.others
        )
        self.optimizer.state.clear()

    # Checkpoints

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        optimizer, others = self.optimizer.state_dict(), list[Any]()
        if self.distributed is not None:
            self.distributed.settle()
            optimizer, others = self.distributed.state()
        return {
            "step": self.done,
            "parameters": {name: p.detach() for name, p in self.parameters},
            "optimizer": optimizer,
            "counters": dict(self.counters),
            "stage": self.entered,
            "reset_at": self.reset_at,
            "spent": self.spent,
            "seconds": self.seconds,
            "loss": self.loss,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "others": others,
        }

    def _resume(self) -> None:
        """Go on from the newest sound checkpoint, if there is one.

        Raises:
            UsageError: it is not one of this run; nothing is changed then.
        """
        checkpoint = self.journal.latest_checkpoint()
        if checkpoint is None:
            return
        step, folder = checkpoint
        state = read_state(folder, step, self.parameters, self.optimizer, self.schedule, self.plan)
        with torch.no_grad():
            for name, parameter in self.parameters:
                parameter.copy_(state["parameters"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.counters, self.done, self.spent = Counter(state["counters"]), int(state["step"]), state["spent"]
        self.entered, self.reset_at = state["stage"], state.get("reset_at")
        self.backbone.set_dropout(self.spans[state["stage"]].stage.dropout)
        self.seconds, self.loss = state["seconds"], state["loss"]
        self.others = state.get("others", [])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and torch.cuda.device_count() == len(state["cuda_rng"]):
            torch.cuda.set_rng_state_all(state["cuda_rng"])


def tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in nested dictionaries and lists."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(tensor_bytes, inner))


def _digits(value: float) -> float:
    """As many as float32 has: the others are noise, and a third of a record."""
    return float(f"{value:.7g}")
