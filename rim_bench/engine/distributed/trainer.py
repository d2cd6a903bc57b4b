"""Training on several processes: one optimizer step takes the same rows whatever their number, and gives the same
gradients.

The leader lays a step out, deals its rows (sorted by length) so that every process has as many of every length, and
hands each its share with the loss denominators of the whole batch. Every process computes its share as one module,
which is what DDP and
FSDP hook into: the engine calls embeddings, layers and head, never the model's own `forward`. Both average gradients
over the processes, so a share's loss is multiplied by their number. What is recorded is summed over them.

DDP keeps the whole training state on every process. FSDP shards it by transformer layers, and computes on a copy of the
leader's model; layers are gathered when they are needed, so all processes must run the same passes at the same time:
where a share has fewer, it gets a row whose loss counts nothing (`fill`). The leader's own model is brought up to date
where it is looked at or stored (`Crew.settle`), and
checkpoints hold whole tensors: what N processes began, M go on with.
"""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rim_bench.engine.distributed.workers import WorkerGroup, accelerator
from rim_bench.engine.losses import tree_loss
from rim_bench.engine.optimizer import optimizer_of, trained_parameters
from rim_bench.engine.packing import PackedModel
from rim_bench.methods.layout import Layout
from rim_bench.util.errors import UsageError

if TYPE_CHECKING:
    from rim_bench.engine.backbone import Backbone
    from rim_bench.methods.schedule import TrainingPlan

DDP, FSDP = "ddp", "fsdp"
FILLER = "filler"  # the loss group of rows that are computed for company alone
Rows = list[Layout]


def shard_rows(rows: Sequence[Layout], size: int) -> list[Rows]:
    """Rows as `size` shares of about the same work, dealt by length back and forth:
    0 1 1 0 0 1 …; each is sorted by length.
    """
    shares: list[Rows] = [[] for _ in range(size)]
    for i, row in enumerate(sorted(rows, key=lambda row: row.size)):
        turn, place = divmod(i, size)
        shares[size - 1 - place if turn % 2 else place].append(row)
    return shares


def align_micro_batches(shares: Sequence[Rows], cut: Callable[[Rows], list[Rows]]) -> list[list[Rows]]:
    """Micro-batches of shares, all cut where the longest of them is:
    their rows of one place are of one length, nearly.
    """
    sizes = [len(micro) for micro in cut(max(shares, key=len))]
    ends = list(accumulate(sizes))
    return [
        [micro for end, size in zip(ends, sizes, strict=True) if (micro := share[end - size : end])] for share in shares
    ]


def pad_with_dummy_rows(shares: Sequence[Sequence[Sequence[Layout]]]) -> list[list[Rows]]:
    """The same micro-batches with rows that cost no loss, so that all processes run as many passes, through the same
    bridges.

    Args:
        shares: of each process, its micro-batches.
    """
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
                    micro.append(_silent(row))
    return out


def _bridges(rows: Sequence[Layout]) -> set[str]:
    return {s.bridge for row in rows for s in row.segments if s.bridge is not None}


def _silent(row: Layout) -> Layout:
    return Layout(tuple(replace(s, group=FILLER) if s.weight else s for s in row.segments))


def is_filler(row: Layout) -> bool:
    """Whether a row is computed for company alone."""
    return any(s.group == FILLER for s in row.segments)


class Step(nn.Module):
    """The forward pass and loss of a micro-batch as one module with everything that trains in it."""

    def __init__(self, backbone: Backbone, bridges: nn.ModuleDict) -> None:
        super().__init__()
        self.model, self.bridges = backbone.model, bridges
        self.markers = next(
            (p for name, p in backbone.parameters_to_train() if name == "markers"), None
        )  # rows that train alone
        self._parts = (backbone, PackedModel(backbone, bridges))

    def forward(self, rows: Rows, counts: Mapping[str, float]) -> tuple[Tensor, dict[str, float]]:
        """As `tree_loss`: the loss of the rows, and each group's share of it."""
        backbone, workspace = self._parts
        with backbone.autocast():
            return tree_loss(backbone, workspace.forward(rows), counts)  # type: ignore[arg-type]  # an infinite count is none


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
        team: WorkerGroup,
        backbone: Backbone,
        bridges: nn.ModuleDict,
        plan: TrainingPlan,
        strategy: str,
        optimizer: dict[str, Any],
        randomness: Any,
    ) -> None:
        self.team, self.plan, self.sharded = team, plan, strategy == FSDP
        self.backbone, self.bridges = backbone, bridges
        self.trained = copy.deepcopy((backbone, bridges)) if self.sharded else (backbone, bridges)
        step = Step(*self.trained)
        self.module: Any = _shard(team, backbone, step) if self.sharded else _replicate(team, backbone, step)
        self.parameters = trained_parameters(*self.trained)
        self.reset()
        self.optimizer.load_state_dict(self._scattered(optimizer))
        if team.rank:
            _restore(randomness, team.rank, backbone.device)

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
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        counts = {**counts, FILLER: math.inf}
        found: Counter[str] = Counter()
        for k, micro in enumerate(micros):
            with self._quiet(last=k == len(micros) - 1):
                loss, groups = self.module(micro, counts)
                (loss * self.team.size).backward()
            found.update(groups)
        names = sorted(set(counts) - {FILLER})
        losses = dict(zip(names, self.team.sum([found[name] for name in names]), strict=True))
        if not math.isfinite(sum(losses.values())):
            return losses, math.nan
        norm: Any = torch.nn.utils.clip_grad_norm_([p for _, p in self.parameters], self.plan.clip)
        value = float(_whole(norm))
        if math.isfinite(value):
            self.optimizer.step()
        return losses, value

    def _quiet(self, *, last: bool) -> AbstractContextManager[Any]:
        """Gradients travel behind the last micro-batch alone."""
        if self.sharded:
            self.module.set_requires_gradient_sync(last)
            return nullcontext()
        return nullcontext() if last else self.module.no_sync()

    def settle(self) -> None:
        """Bring the whole model up to date with the shards."""
        if self.sharded:
            with torch.no_grad():
                for (_, whole), (_, part) in zip(
                    trained_parameters(self.backbone, self.bridges), self.parameters, strict=True
                ):
                    whole.copy_(_whole(part.detach()))

    def state(self) -> tuple[dict[str, Any], list[Any]]:
        """State of the optimizer, whole, and of every process's random number generators; the latter at the leader
        alone.
        """
        found = self.optimizer.state_dict()
        if self.sharded:
            found = {**found, "state": {i: {k: _whole(v) for k, v in s.items()} for i, s in found["state"].items()}}
        cuda = torch.cuda.get_rng_state(self.backbone.device) if self.backbone.device.type == "cuda" else None
        return found, self.team.collect([torch.get_rng_state(), cuda])

    def _scattered(self, state: dict[str, Any]) -> dict[str, Any]:
        """A whole optimizer state as this process's shards of it."""
        if not self.sharded:
            return state
        from torch.distributed.tensor import distribute_tensor

        order = [p for group in self.optimizer.param_groups for p in group["params"]]

        def part(value: Any, like: Any) -> Any:
            fits = isinstance(value, Tensor) and value.shape == like.shape and value.ndim > 0
            return distribute_tensor(value.to(like.device), like.device_mesh, like.placements) if fits else value

        return {**state, "state": {i: {k: part(v, order[i]) for k, v in s.items()} for i, s in state["state"].items()}}


def _whole(value: Any) -> Any:
    """A sharded tensor gathered; anything else as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _replicate(team: WorkerGroup, backbone: Backbone, step: Step) -> Any:
    from accelerate.utils import DistributedDataParallelKwargs

    # A bridge, an adapter or markers may have no part in a stage, or in one process's rows. Buffers never change.
    unused = _may_be_left_out(backbone, step)
    how = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=unused)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer torch has another name for the same option
        return accelerator(team, backbone.device, kwargs_handlers=[how]).prepare_model(step, device_placement=False)


def _may_be_left_out(backbone: Backbone, step: Step) -> bool:
    """Whether some of what trains may have no gradient in a step."""
    return bool(step.bridges) or step.markers is not None or backbone.spec["tuning"] == "lora"


def _shard(team: WorkerGroup, backbone: Backbone, step: Step) -> Any:
    """FSDP2 in place: each transformer layer a unit, all the rest (embeddings, norm, head, bridges) the root's."""
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    names = list(backbone.causal._no_split_modules)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=names,
        cpu_ram_efficient_loading=False,
    )
    made = accelerator(team, backbone.device, fsdp_plugin=plugin)
    made.state.distributed_type = DistributedType.FSDP  # on CPUs accelerate passes its plugin over
    made.state.fsdp_plugin = plugin
    return fsdp2_prepare_model(made, step)


def _restore(randomness: Any, rank: int, device: torch.device) -> None:
    """This process's random state: the one of a checkpoint of as many processes, or one of its own drawn from the given
    text.
    """
    if isinstance(randomness, str):
        torch.manual_seed(int.from_bytes(hashlib.sha256(f"{randomness} {rank}".encode()).digest()[:7], "big"))
        return
    cpu, cuda = randomness[rank]
    torch.set_rng_state(cpu.cpu())  # such states lie on the CPU, whatever they are of
    if cuda is not None and device.type == "cuda":
        torch.cuda.set_rng_state(cuda.cpu(), device)


@dataclass(frozen=True)
class Done:
    """What a step of all processes did."""

    losses: dict[str, float]  # by group
    norm: float
    micros: list[Rows]  # of all processes, fillers among them


class DistributedTrainer:
    """The leader's hand on a training run that all processes share.

    Args:
        done: steps that are done.
        optimizer: its state, whole.
        others: random states of all processes in the checkpoint; empty where there was none, or one process wrote it.
    """

    def __init__(
        self,
        team: WorkerGroup,
        backbone: Backbone,
        bridges: nn.ModuleDict,
        plan: TrainingPlan,
        strategy: str,
        done: int,
        optimizer: dict[str, Any],
        others: Sequence[Any],
    ) -> None:
        self.team, self.strategy = team, strategy
        randomness = list(others) if len(others) == team.size else f"dropout {plan.seed} {done}"
        with team.job():
            team.tell_all("train", backbone.device.type)
            team.give((backbone, bridges, plan, strategy, optimizer, randomness))
            self.replica = TrainerReplica(team, backbone, bridges, plan, strategy, optimizer, randomness)
        team.live = backbone

    def step(
        self, rows: Sequence[Layout], cut: Callable[[Rows], list[Rows]], counts: Mapping[str, float], lr: float
    ) -> Done:
        """One optimizer step; `cut` makes micro-batches of a share, which it leaves sorted by length."""
        dealt = shard_rows(rows, self.team.size)
        shares = (
            pad_with_dummy_rows(align_micro_batches(dealt, cut))
            if self.strategy == FSDP
            else [cut(share) for share in dealt]
        )
        with self.team.job():
            self.team.hand_out(
                [("step", [[row.segments for row in micro] for micro in share], dict(counts), lr) for share in shares]
            )
            losses, norm = self.replica.step(shares[0], counts, lr)
        return Done(losses, norm, [micro for share in shares for micro in share])

    def reset(self) -> None:
        """A fresh optimizer everywhere."""
        self.team.tell_all("reset")
        self.replica.reset()

    def dropout(self, added: float) -> None:
        """The stage's dropout everywhere."""
        self.team.tell_all("dropout", added)
        self.replica.dropout(added)

    def settle(self) -> None:
        """The leader's model, and every other process's, as it is after the last step."""
        if self.strategy == FSDP:
            with self.team.job():
                self.team.tell_all("settle")
                self.replica.settle()

    def state(self) -> tuple[dict[str, Any], list[Any]]:
        """For a checkpoint: the optimizer's state, whole, and every process's random state."""
        with self.team.job():
            self.team.tell_all("state")
            return self.replica.state()

    def dismiss(self) -> None:
        """The run is over, or broken off."""
        self.team.live = None
        if self.team.sound:
            with suppress(UsageError):  # who is gone is told of at the next job
                self.team.tell_all("end")


def check(backbone: Backbone, strategy: str) -> None:
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
