"""Where a run's progress goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


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


class Silent:
    """A reporter that says nothing."""

    def note(self, text: str) -> None:
        pass

    def training(self, run: str, progress: TrainingStep) -> None:
        pass

    def evaluating(self, run: str, done: int, total: int) -> None:
        pass

    def finished(self, run: str) -> None:
        pass
