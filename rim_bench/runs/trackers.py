"""The step records of training, sent on to experiment trackers as they are written: wandb, trackio, tensorboard.

accelerate has one interface to them (accelerate.tracking). What is sent is what train.jsonl holds, nothing more; the
tracker is told where a resumed run goes on. Which trackers there are is no part of a run's specification.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError
from rim_bench.util.text import leaves

FOLDER = "trackers"  # below the results folder: what tensorboard and an offline wandb write
PROJECT = "rim-bench"


class TrackedJournal:
    """A run's journal whose step records also go to trackers.

    Args:
        trackers: of accelerate, started.
    """

    def __init__(self, run: Run, trackers: Sequence[Any]) -> None:
        self.run, self.trackers = run, trackers

    def append_metrics(self, record: dict[str, Any]) -> None:
        self.run.append_metrics(record)
        numbers_of_step = step_numbers(record)
        for tracker in self.trackers:
            tracker.log(numbers_of_step, step=int(record["step"]))

    def truncate_metrics(self, step: int) -> None:
        self.run.truncate_metrics(step)

    def checkpoint(self, step: int, needed: int) -> AbstractContextManager[Path]:
        return self.run.checkpoint(step, needed)

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        return self.run.latest_checkpoint()


def step_numbers(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a step record by name, those of nested ones with a slash: `losses/lm`; without the step."""
    flat = {name.replace(".", "/"): value for name, value in leaves(record).items()}
    return {
        name: float(value)
        for name, value in flat.items()
        if name != "step" and isinstance(value, numbers.Real) and not isinstance(value, bool)
    }


@contextmanager
def tracked(run: Run, names: Sequence[str], out: Path) -> Iterator[Run | TrackedJournal]:
    """The journal to train with: the run itself, or one that sends its records to trackers of these names, too.

    Raises:
        UsageError: a tracker that cannot be started.
    """
    if not names:
        yield run
        return
    began = run.latest_checkpoint()
    trackers: list[Any] = []
    try:
        trackers += [_start(name, run, out / FOLDER, 0 if began is None else began[0]) for name in names]
        yield TrackedJournal(run, trackers)
    finally:
        for tracker in trackers:
            tracker.finish()


def _start(name: str, run: Run, folder: Path, done: int) -> Any:
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # of this process alone: accelerate's own log refuses to be written to without
    settings: dict[str, dict[str, Any]] = {
        # what a killed process had written behind its last checkpoint is passed over
        "tensorboard": {"run_name": run.id, "logging_dir": folder / name, "purge_step": done + 1},
        "wandb": {"run_name": PROJECT, "name": run.id, "id": run.id, "resume": "allow", "dir": folder},
        "trackio": {"run_name": PROJECT, "name": run.id, "resume": "allow"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    try:
        tracker = LOGGER_TYPE_TO_CLASS[name](**settings[name])
        tracker.start()
    except Exception as error:  # of any kind: three libraries, two of which look for a server
        reason = " ".join(str(error).split())[:240]
        raise UsageError(
            f"--track {name}: the tracker cannot be started ({type(error).__name__}: {reason}); leave it out, or see "
            "its own documentation for running offline"
        ) from error
    return tracker
