"""Training on several processes: a step takes the same rows whatever their number, and gives the same gradients.

The leader lays a step out, shards its rows so that every process has as many of every length, and sends each its share
with the loss denominators of the whole batch. Every process computes its share as one module, which is what DDP and
FSDP hook into: the engine calls embeddings, layers and head, never the model's own `forward`. Both average gradients
over the processes, so a share's loss is multiplied by their number. What is recorded is summed over them.

DDP keeps the whole training state on every process. FSDP shards it by transformer layers, and computes on a copy of the
leader's model; layers are gathered when they are needed, so all processes must run the same passes at the same time:
where a share has fewer, it gets a row whose loss counts nothing. The leader's own model is brought up to date where it
is looked at or stored (`DistributedTrainer.settle`), and checkpoints hold whole tensors: what N processes began, M go
on with.
"""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rim_bench.engine.distributed.workers import WorkerGroup
from rim_bench.engine.losses import tree_loss
from rim_bench.engine.optimizer import optimizer_of, trained_parameters
from rim_bench.engine.packing import PackedModel
from rim_bench.methods.layout import Layout, Segment
from rim_bench.util.errors import UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from rim_bench.engine.backbone import Backbone
    from rim_bench.methods.schedule import TrainingPlan

FSDP = "fsdp"
DUMMY = "dummy"  # the loss group of rows that only keep the processes on the same passes
TRAINING = "training"  # what a group keeps this process's replica as
Rows = list[Layout]


def shard_rows(rows: Sequence[Layout], size: int) -> list[Rows]:
    """Rows as `size` shares of about the same work, each sorted by length: dealt by length back and forth, 0 1 1 0 …"""
    shares: list[Rows] = [[] for _ in range(size)]
    for i, row in enumerate(sorted(rows, key=lambda row: row.size)):
        turn, place = divmod(i, size)
        shares[size - 1 - place if turn % 2 else place].append(row)
    return shares


def align_micro_batches(shares: Sequence[Rows], cut: Callable[[Rows], list[Rows]]) -> list[list[Rows]]:
    """Micro-batches of shares, all cut where the longest is, so that rows of one place are nearly of one length."""
    sizes = [len(micro) for micro in cut(max(shares, key=len))]
    ends = list(accumulate(sizes))
    return [
        [micro for end, size in zip(ends, sizes, strict=True) if (micro := share[end - size : end])] for share in shares
    ]


def pad_with_dummy_rows(shares: Sequence[Sequence[Sequence[Layout]]]) -> list[list[Rows]]:
    """Each process's micro-batches with dummy rows, so that all run as many passes, through the same bridges."""
    most = max(len(share) for share in shares)
    out = [[list(micro) for micro in share] + [[] for _ in range(most - len(share))] for share in shares]
    for micros in zip(*out, strict=True):
        rows = sorted((row for micro in micros for row in micro), key=lambda row: row.size)
        needed = [max(rows, key=lambda row: row.passes)]
        needed += [
            next(row for row in rows if bridge in _bridges([row]))
            for bridge in sorted(_bridges(rows) - _bridges(needed))
        ]
        for micro in micros:
            for row in needed:
                deep = micro and max(r.passes for r in micro) >= row.passes
                if not deep or not _bridges([row]) <= _bridges(micro):
                    micro.append(Layout(tuple(replace(s, group=DUMMY) if s.weight else s for s in row.segments)))
    return out


def _bridges(rows: Sequence[Layout]) -> set[str]:
    return {s.bridge for row in rows for s in row.segments if s.bridge is not None}


def is_dummy(row: Layout) -> bool:
    """Whether the row only keeps all processes on the same number of passes; its loss counts nothing."""
    return any(s.group == DUMMY for s in row.segments)


class Step(nn.Module):
    """The forward pass and loss of a micro-batch as one module with everything that trains in it."""

    def __init__(self, backbone: Backbone, bridges: nn.ModuleDict) -> None:
        super().__init__()
        self.model, self.bridges = backbone.model, bridges
        self.markers = dict(backbone.parameters_to_train()).get("markers")  # rows that train alone
        self._parts = (backbone, PackedModel(backbone, bridges))

    def replicated(self, group: WorkerGroup) -> Any:
        """DDP around the step."""
        from accelerate.utils import DistributedDataParallelKwargs

        # A bridge, an adapter or markers may have no part in a stage, or in one process's rows. Buffers never change.
        backbone = self._parts[0]
        unused = bool(self.bridges) or self.markers is not None or backbone.spec["tuning"] == "lora"
        options = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=unused)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer torch has another name for the same option
            accelerate = accelerator(group, backbone.device, kwargs_handlers=[options])
            return accelerate.prepare_model(self, device_placement=False)

    def sharded(self, group: WorkerGroup) -> Any:
        """FSDP2 in place: each transformer layer a unit, all the rest (embeddings, norm, head, bridges) the root's."""
        from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        backbone = self._parts[0]
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=list(backbone.causal._no_split_modules),
            cpu_ram_efficient_loading=False,
        )
        accelerate = accelerator(group, backbone.device, fsdp_plugin=plugin)
        accelerate.state.distributed_type = DistributedType.FSDP  # on CPUs accelerate passes its plugin over
        accelerate.state.fsdp_plugin = plugin
        return fsdp2_prepare_model(accelerate, self)

    def forward(self, rows: Rows, counts: Mapping[str, float]) -> tuple[Tensor, dict[str, float]]:
        """As `tree_loss`: the loss of the rows, and each group's share of it."""
        backbone, workspace = self._parts
        with backbone.autocast():
            # an infinite count is none
            return tree_loss(backbone, workspace.forward(rows), counts)  # type: ignore[arg-type]


class TrainerReplica:
    """One process's part of a training run. Every method is called by all processes at the same time.

    Args:
        backbone, bridges: this process's own, the leader's weights in them. Under FSDP they stay whole, and a copy is
            trained.
        optimizer: state of the optimizer, whole; of a fresh one at the beginning.
        randomness: states of the random number generators of every process, or what to draw them from.
    """

    def __init__(
        self,
        group: WorkerGroup,
        backbone: Backbone,
        bridges: nn.ModuleDict,
        plan: TrainingPlan,
        strategy: str,
        optimizer: dict[str, Any],
        randomness: Any,
    ) -> None:
        self.group, self.plan, self.sharded = group, plan, strategy == FSDP
        self.backbone, self.bridges = backbone, bridges
        self.trained = copy.deepcopy((backbone, bridges)) if self.sharded else (backbone, bridges)
        if self.sharded:
            self.trained[0].restore_frozen()  # the shards of a unit are of one type
        step = Step(*self.trained)
        self.module: Any = step.sharded(group) if self.sharded else step.replicated(group)
        self.parameters = trained_parameters(*self.trained)
        self.reset()
        if self.sharded:  # this process's shards of the whole state
            from torch.distributed.tensor import distribute_tensor

            order = [p for parameters in self.optimizer.param_groups for p in parameters["params"]]

            def part(value: Any, like: Any) -> Any:
                fits = isinstance(value, Tensor) and value.shape == like.shape and value.ndim > 0
                return distribute_tensor(value.to(like.device), like.device_mesh, like.placements) if fits else value

            shards = {i: {k: part(v, order[i]) for k, v in s.items()} for i, s in optimizer["state"].items()}
            optimizer = {**optimizer, "state": shards}
        self.optimizer.load_state_dict(optimizer)
        if group.rank and isinstance(randomness, str):  # drawn from a text, for each process its own
            digest = hashlib.sha256(f"{randomness} {group.rank}".encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:7], "big"))
        elif group.rank:  # that of a checkpoint of as many processes
            cpu, cuda = randomness[group.rank]
            torch.set_rng_state(cpu.cpu())  # such states lie on the CPU, whatever they are of
            if cuda is not None and backbone.device.type == "cuda":
                torch.cuda.set_rng_state(cuda.cpu(), backbone.device)

    @staticmethod
    def begin(group: WorkerGroup, *parts: Any) -> None:
        """Makes the replica of this process, which the group keeps."""
        group.kept[TRAINING] = TrainerReplica(group, *parts)

    def reset(self) -> None:
        """A fresh optimizer."""
        self.optimizer = optimizer_of(*self.trained, self.plan)

    def dropout(self, added: float) -> None:
        """The stage's dropout."""
        self.trained[0].set_dropout(added)

    def step(self, micros: Sequence[Rows], counts: Mapping[str, float], lr: float) -> tuple[dict[str, float], float]:
        """One optimizer step: losses by group, and the norm of the gradient.

        Nothing is changed where one of them is not finite.
        """
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        counts = {**counts, DUMMY: math.inf}
        own: Counter[str] = Counter()
        for k, micro in enumerate(micros):
            last = k == len(micros) - 1  # gradients travel after the last micro-batch alone
            if self.sharded:
                self.module.set_requires_gradient_sync(last)
            with nullcontext() if last or self.sharded else self.module.no_sync():
                loss, losses_of_micro = self.module(micro, counts)
                (loss * self.group.size).backward()
            own.update(losses_of_micro)
        names = sorted(set(counts) - {DUMMY})
        losses = dict(zip(names, self.group.sum([own[name] for name in names]), strict=True))
        if not math.isfinite(sum(losses.values())):
            return losses, math.nan
        norm: Any = torch.nn.utils.clip_grad_norm_([p for _, p in self.parameters], self.plan.clip)
        value = float(_whole(norm))
        if math.isfinite(value):
            self.optimizer.step()
        return losses, value

    def step_segments(
        self, micros: list[list[tuple[Segment, ...]]], counts: dict[str, float], lr: float
    ) -> tuple[dict[str, float], float]:
        """`step` on rows that travelled as segments, without what a layout has derived from them."""
        return self.step([[Layout(segments) for segments in micro] for micro in micros], counts, lr)

    def settle(self) -> None:
        """Bring the whole model up to date with the shards."""
        if self.sharded:
            with torch.no_grad():
                for (_, whole), (_, part) in zip(
                    trained_parameters(self.backbone, self.bridges), self.parameters, strict=True
                ):
                    whole.copy_(_whole(part.detach()))

    def state(self) -> tuple[dict[str, Any], list[Any]]:
        """The optimizer's state, whole, and the random states of all processes; the latter at the leader alone."""
        state = self.optimizer.state_dict()
        if self.sharded:
            state = {**state, "state": {i: {k: _whole(v) for k, v in s.items()} for i, s in state["state"].items()}}
        cuda = torch.cuda.get_rng_state(self.backbone.device) if self.backbone.device.type == "cuda" else None
        return state, self.group.gather([torch.get_rng_state(), cuda])


def _whole(value: Any) -> Any:
    """A sharded tensor gathered; anything else as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def accelerator(group: WorkerGroup, device: torch.device, **options: Any) -> Accelerator:
    """accelerate, on the processes of the group.

    Raises:
        UsageError: it sees another number of them.
    """
    from accelerate import Accelerator

    accelerate = Accelerator(cpu=device.type == "cpu", device_placement=False, **options)
    if accelerate.num_processes != group.size:
        raise UsageError(
            f"{group.size} processes were started, but accelerate works with {accelerate.num_processes}: start them "
            "with torchrun"
        )
    return accelerate


# What the processes of a group run
def _on_replica(group: WorkerGroup, method: Callable[..., Any], *arguments: Any) -> Any:
    """A method of this process's part of the training run."""
    return method(group.kept[TRAINING], *arguments)


@dataclass(frozen=True)
class DistributedStep:
    """What a step of all processes did."""

    losses: dict[str, float]  # by group
    norm: float
    micros: list[Rows]  # of all processes, dummy rows among them


class DistributedTrainer:
    """The leader's hand on a training run that all processes share.

    Args:
        done: steps that are done.
        optimizer: its state, whole.
        others: random states of all processes in the checkpoint; empty where there was none, or one process wrote it.
    """

    def __init__(
        self,
        group: WorkerGroup,
        backbone: Backbone,
        bridges: nn.ModuleDict,
        plan: TrainingPlan,
        strategy: str,
        done: int,
        optimizer: dict[str, Any],
        others: Sequence[Any],
    ) -> None:
        self.group, self.strategy = group, strategy
        randomness = list(others) if len(others) == group.size else f"dropout {plan.seed} {done}"
        group.run(WorkerGroup.forget)
        group.run(TrainerReplica.begin, backbone, bridges, plan, strategy, optimizer, randomness)

    @property
    def replica(self) -> TrainerReplica:
        """The leader's own part."""
        replica: TrainerReplica = self.group.kept[TRAINING]
        return replica

    def step(
        self, rows: Sequence[Layout], cut: Callable[[Rows], list[Rows]], counts: Mapping[str, float], lr: float
    ) -> DistributedStep:
        """One optimizer step; `cut` makes micro-batches of a share, which it leaves sorted by length."""
        dealt = shard_rows(rows, self.group.size)
        shares = (
            pad_with_dummy_rows(align_micro_batches(dealt, cut))
            if self.strategy == FSDP
            else [cut(share) for share in dealt]
        )
        segments = [[[row.segments for row in micro] for micro in share] for share in shares[1:]]
        sent = [(TrainerReplica.step_segments, micros, dict(counts), lr) for micros in segments]
        with self.group.together():
            self.group.send(_on_replica, sent)
            losses, norm = self.replica.step(shares[0], counts, lr)
        return DistributedStep(losses, norm, [micro for share in shares for micro in share])

    def reset(self) -> None:
        """A fresh optimizer everywhere."""
        self.group.run(_on_replica, TrainerReplica.reset)

    def dropout(self, added: float) -> None:
        """The stage's dropout everywhere."""
        self.group.run(_on_replica, TrainerReplica.dropout, added)

    def settle(self) -> None:
        """The leader's model, and every other process's, as it is after the last step."""
        if self.strategy == FSDP:
            self.group.run(_on_replica, TrainerReplica.settle)

    def state(self) -> tuple[dict[str, Any], list[Any]]:
        """For a checkpoint: the optimizer's state, whole, and every process's random state."""
        state: tuple[dict[str, Any], list[Any]] = self.group.run(_on_replica, TrainerReplica.state)
        return state

    def dismiss(self) -> None:
        """The run is over, or broken off."""
        self.group.kept.pop(TRAINING, None)
        if self.group.sound:
            with suppress(UsageError):  # a process that is gone is told of at the next call
                self.group.run(WorkerGroup.forget)


def check_model(backbone: Backbone, strategy: str) -> None:
    """Refuse what cannot be trained on several processes.

    Raises:
        UsageError: markers that train alone, or the CPU beside a GPU, under FSDP.
    """
    if strategy == FSDP and backbone.device.type == "cpu" and torch.cuda.is_available():
        raise UsageError(
            "--strategy fsdp takes the GPU where there is one: leave out --device cpu, or hide it "
            "(CUDA_VISIBLE_DEVICES=)"
        )
    if strategy == FSDP and any(name == "markers" for name, _ in backbone.parameters_to_train()):
        raise UsageError("--strategy fsdp has nothing to shard where only the markers' rows train: use --strategy ddp")
