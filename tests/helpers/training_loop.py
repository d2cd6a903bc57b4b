"""Training loops of a second, and a run that dies in the midst of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from conftest import encoded
from torch import Tensor

from rim_bench.baselines.coconut import Coconut
from rim_bench.baselines.pause import Pause
from rim_bench.compute.backbones import resolve_backbone
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.trainer import Trainer
from rim_bench.methods.method import Method
from rim_bench.methods.schedule import TrainingPlan
from rim_bench.models.rim import Rim
from rim_bench.storage.run_folder import Run, Store

DATA = tuple(
    replace(encoded(3 + i % 4, ((2, 3), (4,), (2, 2, 3), ())[i % 4], shift=7 * i), id=f"example {i}") for i in range(11)
)  # 11 rows: no multiple of a batch, so that batches span epochs
MARKERS = tuple({m.name: m for method in (Pause(), Coconut(), Rim()) for m in method.markers()}.values())


def backbone(family: str = "tiny", **shape: Any) -> Backbone:
    """A fresh model; the same one every time."""
    spec = resolve_backbone(
        family, {"layers": 1, "width": 32, "heads": 4, "vocabulary": 300, "max_positions": 128, **shape}
    )
    return Backbone.create(spec, texts=["some text 1 2 3"], markers=MARKERS, seed=1)


def new_run(root: Path, name: str = "run") -> Run:
    return Store(root).open({"method": {"name": name}, "task": {"name": "none"}})


def trainer(run: Any, method: Method, plan: TrainingPlan, start: str = "recipe", **shape: Any) -> Trainer:
    return Trainer(backbone(**shape), method, None, DATA, plan, run, start)


def weights(trained: Trainer) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trained.parameters}


def losses(run: Run) -> list[dict[str, Any]]:
    """train.jsonl without the clock."""
    return [{k: v for k, v in record.items() if k != "seconds"} for record in run.metrics()]


class Killed(BaseException):
    """Stands for a kill: nothing in between handles it."""


class Dying:
    """A run's journal that dies at a step: before its record, after it, or while its checkpoint is written."""

    def __init__(self, run: Run, step: int, moment: str) -> None:
        self.run, self.step, self.moment = run, step, moment
        self.truncate_metrics, self.latest_checkpoint = run.truncate_metrics, run.latest_checkpoint

    def append_metrics(self, record: dict[str, Any]) -> None:
        if record["step"] == self.step and self.moment == "before":
            raise Killed
        self.run.append_metrics(record)
        if record["step"] == self.step and self.moment == "after":
            raise Killed

    @contextmanager
    def checkpoint(self, step: int, needed: int) -> Iterator[Path]:
        with self.run.checkpoint(step, needed) as folder:
            yield folder
            if step >= self.step and self.moment == "saving":
                raise Killed
