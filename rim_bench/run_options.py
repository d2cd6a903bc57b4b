"""What a run is asked, and where its progress goes. Imports no torch, so that the command line can refuse bad options at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rim_bench.sources import Steps


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """One optimizer step, for display."""

    step: int
    steps: int
    stage: str
    loss: float
    examples_per_s: float
    seconds_left: float


class Reporter(Protocol):
    """Where progress goes; the command line draws it."""

    def note(self, text: str) -> None: ...
    def training(self, run: str, progress: TrainingStep) -> None: ...
    def evaluating(self, run: str, done: int, total: int) -> None: ...
    def finished(self, run: str) -> None: ...


@dataclass(frozen=True)
class Options:
    """What `rim-bench run` and `train` are asked. None = the task's recipe."""

    methods: tuple[str, ...]
    task: str
    out: Path = Path("results")
    model: str | None = None
    data: Path | None = None
    files: dict[str, str] | None = None
    steps: Steps = "equations"
    limit: int | None = None
    start: str | None = None
    seeds: tuple[int, ...] = (0,)
    examples: int | None = None
    cot_examples: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    max_tokens: int | None = None
    eval_batch_size: int = 64
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # method -> option -> value
    backbone: Mapping[str, Any] = field(default_factory=dict)  # overrides of the backbone's entry
    tuning: str | None = None  # "full" or "lora"
    device: str | None = None
    quick: bool = False
