"""Parts of a study that know no request: the run to be, its price, and what is refused before it trains."""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from rim_bench.compute.adapters import matched_shape
from rim_bench.compute.training_flops import ROWS, training_cost
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.packing import PackedModel
from rim_bench.methods.layout import Layout
from rim_bench.methods.method import Encoded, Example, Method, Stage
from rim_bench.methods.schedule import TrainingPlan
from rim_bench.storage.run_folder import Run
from rim_bench.storage.selection import LAST_RULE, CheckpointRule
from rim_bench.util.errors import UsageError


@dataclass(frozen=True)
class PlannedRun:
    """One run to be: a method with its specification, and the run it starts from."""

    method: Method
    spec: dict[str, Any]
    plan: TrainingPlan
    parent: PlannedRun | None = None
    role: str = "arm"  # "start", "trial"
    selection: CheckpointRule = LAST_RULE

    @property
    def is_start(self) -> bool:
        return self.role == "start"

    @property
    def label(self) -> str:
        text = "shared cot start" if self.is_start else self.method.name
        text += f", trial lr {self.plan.lr:g}" if self.role == "trial" else ""
        return f"{text}, seed {self.plan.seed}" if self.plan.seed else text


def budget_record(plan: TrainingPlan, parent: PlannedRun | None) -> dict[str, int]:
    """The budget as a specification has it: what is inherited counts into one in FLOPs, and beside one in examples."""
    if plan.flops:
        return {"train_flops": plan.flops}
    inherited = 0 if parent is None else parent.plan.steps * parent.plan.batch_size
    return {"examples": plan.steps * plan.batch_size, "inherited_examples": inherited}


@contextmanager
def nothing_left_of(run: Run) -> Iterator[None]:
    """Removes the folder of a run that is refused before it ever began; one that has begun stays."""
    try:
        yield
    except UsageError:
        if not (run.path / "environment.json").exists():
            shutil.rmtree(run.path, ignore_errors=True)
        raise


def training_text(example: Example) -> str:
    """An example as the text it trains on."""
    return "\n".join([example.question, *example.steps, f"#### {example.answer}"])


def check_rows(backbone: Backbone, data: Sequence[Encoded], method: Method, stages: Sequence[Stage]) -> None:
    """Refuse, before training, rows that the method cannot lay out or that the model has no positions for.

    Rows of equal lengths are tried once; a stage is tried as it begins, when nothing of an example is left out yet.
    """
    shapes = {(len(e.question), tuple(map(len, e.steps)), len(e.answer)): e for e in reversed(data)}
    for stage in stages:
        for example in shapes.values():
            need = method.lay_train(example, stage, 0.0, random.Random(0)).depth
            if need > backbone.max_positions:
                raise UsageError(
                    f"training row {example.id!r} needs {need} positions with {method.name} (stage {stage.name!r}), "
                    "the model has "
                    f"{backbone.max_positions}: use a model with more (for from-scratch ones: --backbone "
                    "max_positions=N)"
                )


def price_of(backbone: Backbone, cell: PlannedRun) -> Callable[[Layout], int]:
    """Training FLOPs of a layout for a cell's method, whose markers and bridges the backbone does not have yet."""
    width, markers = backbone.width, cell.method.markers()
    plain = PackedModel(backbone, cell.method.bridges(width)).shape()
    shape = dataclasses.replace(plain, vocabulary=max(plain.vocabulary, backbone.vocabulary + len(markers)))
    shape = matched_shape(shape, cell.method)
    trains = ROWS if cell.method.trains == "markers" else backbone.trains()
    trains = dataclasses.replace(trains, inputs=trains.inputs or bool(markers))
    return lambda layout: training_cost(shape, trains, layout)


def gpu_info(device: torch.device) -> dict[str, Any] | None:
    """The GPU that is used, as data; None without one."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return {"name": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
