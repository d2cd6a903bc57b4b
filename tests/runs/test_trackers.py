"""Step records at experiment trackers: what train.jsonl holds, each step once, resumed runs included."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from small_runs import options, train
from training_loop import Dying, Killed

from rim_bench.runs import training
from rim_bench.runs.trackers import step_numbers, tracked
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")


def scalars(out: Path, run: Run) -> dict[str, dict[int, float]]:
    """What tensorboard itself reads: value by step by name."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(out / "trackers" / "tensorboard" / run.id))
    events.Reload()
    return {name: {e.step: e.value for e in events.Scalars(name)} for name in events.Tags()["scalars"]}


def expected(run: Run) -> dict[str, dict[int, float]]:
    """The same of train.jsonl."""
    out: dict[str, dict[int, float]] = {}
    for record in run.metrics():
        for name, value in step_numbers(record).items():
            out.setdefault(name, {})[record["step"]] = pytest.approx(value, rel=1e-6)
    return out


def test_tensorboard_reads_the_numbers_of_every_step(tmp_path: Path) -> None:
    (run,), _ = train(options(tmp_path, "rim", track=("tensorboard",)))
    told = scalars(tmp_path, run)
    assert told == expected(run) and {"loss", "lr", "flops", "seconds"} <= told.keys()
    (plain,), _ = train(options(tmp_path / "plain", "rim"))
    assert plain.id == run.id and not (tmp_path / "plain" / "trackers").exists()


def test_what_a_killed_process_had_sent_behind_its_checkpoint_is_sent_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = options(tmp_path, "direct", track=("tensorboard",))

    class DyingJournal(Dying):
        def __init__(self, journal: Any) -> None:
            super().__init__(journal, 6, "after")

    real = tracked

    def dying(run: Run, names: Any, out: Path) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def inner() -> Any:
            with real(run, names, out) as journal:
                yield DyingJournal(journal)

        return inner()

    with monkeypatch.context() as patch:
        patch.setattr(training, "tracked", dying)
        with pytest.raises(Killed):
            train(asked)
    (run,), _ = train(asked)
    assert scalars(tmp_path, run) == expected(run) and len(run.metrics()) == 12


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_others_take_it_offline(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec(name) is None or name in sys.modules:  # it reads its environment when it is imported
        pytest.skip(f"{name} is not installed, or was imported before")
    for key, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "TRACKIO_DIR": str(tmp_path / "t")}.items():
        monkeypatch.setenv(key, value)
    (run,), _ = train(options(tmp_path, "direct", track=(name,)))
    assert run.trained
    written = [p for p in tmp_path.rglob("*") if p.is_file() and (p.suffix in (".wandb", ".db", ".sqlite"))]
    assert written and all(p.stat().st_size > 0 for p in written)


def test_a_tracker_that_is_none_or_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"unknown tracker 'tensorbord'.*did you mean 'tensorboard'"):
        options(tmp_path, "direct", track=("tensorbord",))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="--track wandb needs wandb, which is not installed: pip install wandb"):
        options(tmp_path, "direct", track=("wandb",))
