"""Real runs that take a second: one layer, a dozen steps on forty rows of the embedded task."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import plan_study
from rim_bench.runs.training import run_plan
from rim_bench.storage.run_folder import Run
from rim_bench.util.progress import TrainingStep


@dataclass
class Heard:
    """A reporter that remembers, and may do something at a step."""

    notes: list[str] = field(default_factory=list)
    steps: list[tuple[str, int]] = field(default_factory=list)
    at: Callable[[str, int], None] = lambda run, step: None

    def note(self, text: str) -> None:
        self.notes.append(text)

    def training(self, run: str, progress: TrainingStep) -> None:
        self.steps.append((run, progress.step))
        self.at(run, progress.step)

    def evaluating(self, run: str, done: int, total: int) -> None:
        pass

    def finished(self, run: str) -> None:
        pass


SMALL: dict[str, Any] = {"layers": 1, "width": 32, "heads": 2, "vocabulary": 300, "dropout": 0.1}


def flags(more: str = "") -> list[str]:
    """The command line's flags of the smallest backbone on the CPU, and more of them."""
    return f"--backbone width=32 --backbone layers=1 --device cpu {more}".split()


def options(out: Path, *methods: str, **changes: Any) -> Options:
    """Twelve steps on forty rows of the embedded task, with dropout, so that random states matter."""
    given: dict[str, Any] = {
        "limit": 40,
        "start": "recipe",
        "examples": 48,
        "batch_size": 4,
        "backbone": SMALL,
        "device": "cpu",
    }
    settings = {"rim": {"K": 2, "epochs_ground": 1, "epochs_refine": 1}} if "rim" in methods else {}
    return Options(
        methods=methods, task="chain", out=out, **{**given, "max_tokens": 4, "settings": settings, **changes}
    )


def train(given: Options) -> tuple[list[Run], Heard]:
    heard = Heard()
    return run_plan(plan_study(given), heard, evaluation=False), heard


def model(run: Run) -> dict[str, Any]:
    """Size and hash of every file of the model."""
    files: dict[str, Any] = json.loads((run.model_path() / "manifest.json").read_text())["files"]
    return files


def steps(run: Run) -> list[dict[str, Any]]:
    """train.jsonl without the clock."""
    return [{k: v for k, v in r.items() if k != "seconds"} for r in run.metrics()]


def contents(run: Run) -> tuple[Any, ...]:
    """All of a run that the clock does not change."""
    timed = ("latency", "ttft", "batch_s", "seconds")
    items = [
        [{k: v for k, v in i.to_json().items() if not any(t in k for t in timed)} for i in run.read_items(key)]
        for key in run.evaluations()
    ]
    return run.id, model(run), steps(run), list(run.evaluations()), items
