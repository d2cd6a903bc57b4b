"""Small trainings that one process or several make, and pairs of processes to make them:
gloo on the CPU, forked with torch loaded.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import encoded
from torch import Tensor, nn

from rim_bench.baselines.coconut import Coconut
from rim_bench.baselines.cot import ChainOfThought
from rim_bench.baselines.rim_as_prompt import RimAsPrompt
from rim_bench.cli.launch import execution_of_command
from rim_bench.compute.backbones import resolve_backbone
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.execution import ALONE, ExecutionContext
from rim_bench.engine.markers import train_markers_only
from rim_bench.engine.trained_model import build_bridges
from rim_bench.engine.trainer import Outcome, Trainer
from rim_bench.evaluate import latency
from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import Encoded, Method, Stage
from rim_bench.methods.schedule import TrainingPlan
from rim_bench.models.rim import Rim
from rim_bench.storage.run_folder import Run, Store

DATA = tuple(
    replace(encoded(3 + i % 4, ((2, 3), (4,), (2, 2, 3), ())[i % 4], shift=7 * i), id=f"example {i}") for i in range(11)
)
TEXTS = ["some text 1 2 3"]
LATER = ("accelerate.utils.fsdp_utils", "torch.distributed.fsdp", "torch.distributed.tensor", "peft", "lm_eval.tasks")
"""Modules that are imported when they are needed: once, before processes are forked."""
SHAPE: dict[str, Any] = {"layers": 2, "width": 32, "heads": 4, "vocabulary": 300, "max_positions": 128}


@dataclass(frozen=True)
class Uneven(Coconut):
    """As many thoughts as the example has steps, through a bridge:
    rows of a batch differ in passes, and some have no thought at all.
    """

    name = "uneven"

    def bridges(self, width: int) -> nn.ModuleDict:
        return nn.ModuleDict({"through": nn.Linear(width, width)})

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("plain", 1, knob=0), Stage("thoughts", 2, reset=True, knob=1))

    def thought_segment(self, thoughts: int) -> Segment:
        return Segment("thoughts", "bot", slots=thoughts, bridge="through")

    def lay_train(self, example: Encoded, stage: Stage, progress: float, rng: Any) -> Layout:
        layout = self.lay_prompt(example.question, len(example.steps) if stage.knob else 0)
        return layout.grow(Segment("answer", "eot", example.answer, weight=1.0, group="short" if stage.knob else "lm"))


@dataclass(frozen=True)
class Case:
    """What is trained."""

    method: Method
    family: str = "tiny"
    base: bool = False  # LoRA on a pretrained base of that family
    dropout: float = 0.0

    def trainer(
        self,
        root: Path,
        name: str,
        plan: TrainingPlan,
        strategy: str = "ddp",
        journal: Callable[[Run], Any] = lambda run: run,
        execution: ExecutionContext = ALONE,
    ) -> Trainer:
        run = Store(root).open({"method": {"name": name}, "task": {"name": "none"}})
        backbone = self.backbone(root)
        bridges = build_bridges(self.method, backbone, 0)
        if self.method.trains == "markers":
            train_markers_only(backbone)
        group = execution.group
        return Trainer(backbone, self.method, bridges, DATA, plan, journal(run), group=group, strategy=strategy)

    def backbone(self, root: Path) -> Backbone:
        markers = self.method.markers()
        if not self.base:
            spec = resolve_backbone(self.family, {**SHAPE, "dropout": self.dropout})
            return Backbone.create(spec, texts=TEXTS, markers=markers, seed=1)
        folder = root / f"base {self.family}"
        if not folder.exists():
            plain = Backbone.create(
                resolve_backbone(self.family, {**SHAPE, "embedding_std": 0.02}), texts=TEXTS, seed=1
            )
            plain.model.save_pretrained(folder)
            plain.tokenizer.save_pretrained(folder)
        return Backbone.create(resolve_backbone(str(folder), {"lora_rank": 4}), markers=markers, seed=1)


CASES = {
    "cot": Case(ChainOfThought(), "tiny-gpt2"),
    "coconut": Case(Coconut(c=1, latent_stages=2, epochs_last=3), "tiny-gpt2"),
    "bridge": Case(Uneven()),
    "lora": Case(Rim(K=2, refine_dropout=0.0), "tiny-gpt2", base=True),
    "markers": Case(RimAsPrompt(K=2, epochs_refine=0)),
    "dropout": Case(Rim(K=2), "tiny-gpt2", dropout=0.2),
}
PLAN = TrainingPlan(
    examples=40, batch_size=5, micro_batch=2, lr=2e-3, checkpoints=2
)  # shares of 3 and 2 rows, of 2 and 1 micro-batches


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainer.parameters}


def fit(root: Path, case: str, name: str, strategy: str = "ddp", plan: TrainingPlan = PLAN, **more: Any) -> Outcome:
    """Train a case and keep its weights beside its journal."""
    made = CASES[case].trainer(root, name, plan, strategy, **more)
    outcome = made.run()
    torch.save(weights(made), root / f"{name}.pt")
    return outcome


# processes


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def nothing() -> None:
    """What most jobs do when their command has ended."""


def _member(
    rank: int, size: int, port: int, job: Callable[..., None], arguments: tuple[Any, ...], after: Callable[[], None]
) -> None:
    torch.set_num_threads(1)
    latency.ROUNDS = 1  # as in the tests' own process
    given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in given.items()}, MASTER_ADDR="127.0.0.1")
    with execution_of_command(["run"]) as execution:
        if execution is not None:
            job(*arguments, execution=execution)
    del execution
    after()


def together(
    job: Callable[..., None],
    *arguments: Any,
    size: int = 2,
    patience: float = 150.0,
    after: Callable[[], None] = nothing,
) -> list[int | None]:
    """Run a function of a test module as several processes would, which it is told of as `execution`; their exit
    codes, the leader's first. None: it had to be killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["crews", "test_distributed", "rim_bench.evaluate.distributed", *LATER])
    port = free_port()
    members = [context.Process(target=_member, args=(rank, size, port, job, arguments, after)) for rank in range(size)]
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # the server that processes are forked from must find what it is to load
        for folder in (Path(__file__).parent, Path(__file__).parents[1] / "engine", Path(__file__).parents[1]):
            patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        for member in members:
            member.start()
    codes: list[int | None] = []
    for member in members:
        member.join(patience)
        codes.append(member.exitcode)
        if member.exitcode is None:
            member.kill()
    return codes


@contextmanager
def as_if_alone() -> Iterator[None]:
    """Nothing of a launcher in the environment."""
    kept = {k: os.environ.pop(k) for k in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE") if k in os.environ}
    yield
    os.environ.update(kept)
