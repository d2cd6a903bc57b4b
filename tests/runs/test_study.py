"""Studies on a very small generated task: shared starts, nothing done twice, and a process that is killed for real."""

from __future__ import annotations

import json
import os
import signal
import time
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rim_bench.data.task import load_task
from rim_bench.engine.trained_model import load_trained
from rim_bench.runs import training as run_module
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import plan_study
from rim_bench.runs.training import run_plan
from rim_bench.storage.records import BudgetRecord
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError
from rim_bench.util.own_files import allow_files
from rim_bench.util.progress import TrainingStep

STEPS = 16  # of each arm; the shared start has 8
SETTINGS = {"coconut": {"c": 1, "latent_stages": 2}, "rim": {"K": 2, "epochs_ground": 1, "epochs_refine": 1}}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The embedded task with a hundred rows and a model of width 32."""
    text = Path(load_task("chain").path).read_text("utf-8").replace("rimbench_chain", "rimbench_small")
    changes = {
        "sizes:": "{train: 100, validation: 4, test: 4}",
        "backbone_settings:": "{layers: 1, width: 32, heads: 2, vocabulary: 300}",
        "start_accuracy:": "0.0",
        "batch_size:": "4",
        "micro_batch:": "2",
        "examples:": str(4 * STEPS),
        "cot_examples:": "32",
    }
    lines = []
    for line in text.split("\n"):
        key = line.strip().split(" ")[0]
        lines.append(f"{line[: len(line) - len(line.lstrip())]}{key} {changes[key]}" if key in changes else line)
    path = tmp_path_factory.mktemp("task") / "small.yaml"
    path.write_text("\n".join(lines), "utf-8")
    return str(path)


@dataclass
class Heard:
    """A reporter that remembers."""

    notes: list[str] = field(default_factory=list)
    steps: list[tuple[str, int]] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def training(self, run: str, progress: TrainingStep) -> None:
        self.steps.append((run, progress.step))

    def evaluating(self, run: str, done: int, total: int) -> None:
        raise AssertionError("nothing is evaluated on the test split here")

    def finished(self, run: str) -> None:
        pass


def options(task: str, out: Path, **changes: Any) -> Options:
    methods = changes.setdefault("methods", ("direct", "coconut", "rim"))
    settings = changes.setdefault("settings", {name: given for name, given in SETTINGS.items() if name in methods})
    return replace(
        Options(methods=methods, task=task, out=out, start="cot", settings=settings, device="cpu"), **changes
    )


def train(given: Options) -> tuple[list[Run], Heard]:
    heard = Heard()
    return run_plan(plan_study(given), heard, evaluation=False), heard


def all_runs(root: Path) -> dict[str, Run]:
    return {path.name: Run(path) for path in sorted((root / "runs").iterdir())}


def start_of(runs: list[Run]) -> Run:
    (parent,) = {run.spec.parent for run in runs}
    return Run(runs[0].path.parent / parent)


def contents(run: Run) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Size and hash of every file of the model, and train.jsonl without the clock."""
    manifest = json.loads((run.model_path() / "manifest.json").read_text())["files"]
    return manifest, [{k: v for k, v in r.items() if k != "seconds"} for r in run.metrics()]


def tables(run: Run) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in load_trained(run).backbone.parameters_to_train()}


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest difference of what both have; rows of markers, which only one may have, are left out."""
    return max(float((a[n][: len(b[n])] - b[n][: len(a[n])]).abs().max()) for n in a.keys() & b.keys())


@pytest.fixture(scope="module")
def study(task: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Run], Heard]:
    """Three arms behind one shared start, unbroken."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("unbroken")
    return out, *train(options(task, out))


def test_one_start_is_trained_and_charged_to_every_arm(study: tuple[Path, list[Run], Heard]) -> None:
    out, runs, heard = study
    parent = start_of(runs)
    assert len(all_runs(out)) == 4 and [r.spec.method.name for r in runs] == ["direct", "coconut", "rim"]
    assert [s for name, s in heard.steps if name == "shared cot start"] == list(range(1, 9))  # once
    assert parent.spec.role == "start" and parent.spec.parent is None and parent.trained
    assert parent.spec.budget == BudgetRecord(examples=32, inherited_examples=0)
    for run in runs:
        assert (run.spec.role, run.spec.start) == ("arm", "cot")
        assert run.spec.budget == BudgetRecord(examples=4 * STEPS, inherited_examples=32)
        training = run.training()
        assert training is not None and (training.examples, training.inherited_examples) == (4 * STEPS, 32)
        assert training.validation.n == 12 and not (run.path / "checkpoints").exists()
    assert {r["stage"] for r in runs[1].metrics()} == {"latent 1", "latent 2", "answer only"}  # the start gives stage 0
    assert any(
        note.startswith("shared cot start: ") and note.endswith("on validation (n = 12)") for note in heard.notes
    )


def test_arms_go_on_from_the_weights_of_the_start(study: tuple[Path, list[Run], Heard], task: str) -> None:
    """With a learning rate of almost nothing an arm stays where it started; the start's own rate is not changed by
    --lr.
    """
    out, runs, _ = study
    parent, before = start_of(runs), set(all_runs(out))
    (still,), heard = train(options(task, out, methods=("rim",), lr=1e-12))
    assert still.spec.parent == parent.id and [n for n, _ in heard.steps] == ["rim"] * STEPS
    assert set(all_runs(out)) - before == {still.id}
    assert distance(tables(still), tables(parent)) < 1e-7
    assert distance(tables(runs[2]), tables(parent)) > 1e-3
    (fresh,), _ = train(options(task, out, methods=("rim",), lr=1e-12, start="recipe"))
    assert fresh.spec.parent is None and fresh.spec.budget.inherited_examples == 0
    assert distance(tables(fresh), tables(parent)) > 1e-3


def test_nothing_is_trained_twice(
    study: tuple[Path, list[Run], Heard], task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, runs, _ = study
    before = {p: p.stat().st_mtime_ns for run in all_runs(out).values() for p in run.path.rglob("model/*")}

    def refused(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(run_module, "Trainer", refused)
    again, heard = train(options(task, out, methods=("rim", "direct")))  # in another order, too
    assert [r.id for r in again] == [runs[2].id, runs[0].id]
    assert heard.steps == [] and sum("trained already" in note for note in heard.notes) == 3
    assert {p: p.stat().st_mtime_ns for p in before} == before
    with pytest.raises(AssertionError, match="trained again"):  # another specification is another run
        train(options(task, out, methods=("direct",), lr=0.01))


def test_a_start_under_the_threshold_stops_the_study(task: str, tmp_path: Path) -> None:
    strict = tmp_path / "strict.yaml"
    strict.write_text(Path(task).read_text("utf-8").replace("start_accuracy: 0.0", "start_accuracy: 0.95"), "utf-8")
    given = options(str(strict), tmp_path / "out", methods=("direct",))
    ids = []
    for attempt in range(2):  # the second finds the start there, and stops as well
        heard = Heard()
        with pytest.raises(
            UsageError, match=r"shared CoT start cot-strict-\w+ reached [\d.]+ % on validation, under the 95 %"
        ) as caught:
            run_plan(plan_study(given), heard, evaluation=False)
        assert "\n" not in str(caught.value)
        assert len(heard.steps) == (8 if attempt == 0 else 0)
        (start,) = all_runs(tmp_path / "out").values()
        assert start.spec.role == "start" and start.trained and start.training() is not None
        ids.append(start.id)
    assert ids[0] == ids[1]
    runs, _ = train(replace(given, quick=True))  # a plumbing check goes on
    assert runs[0].trained


def test_a_study_that_diverges_says_so_and_goes_on_from_its_checkpoint(task: str, tmp_path: Path) -> None:
    given = options(task, tmp_path, methods=("direct",), start="recipe", lr=1e30)
    for _ in range(2):
        with pytest.raises(
            UsageError, match=r"of direct is not finite at step 2 .*last good checkpoint \(step 1\) is kept at"
        ):
            train(given)
    (run,) = all_runs(tmp_path).values()
    assert not run.trained and [r["step"] for r in run.metrics()] == [1]


def test_rows_that_do_not_fit_are_refused_before_training(task: str, tmp_path: Path) -> None:
    settings = {"rim": {"M": 40, "K": 1}}  # one block at inference fits, three in the first stage do not
    given = options(
        task, tmp_path, methods=("rim",), start="recipe", settings=settings, backbone={"max_positions": 128}
    )
    with pytest.raises(UsageError, match=r"needs \d+ positions with rim \(stage 'grounding'\), the model has 128"):
        train(given)
    given = options(task, tmp_path, methods=("rim",), start="recipe", settings={"rim": {"max_steps": 2}})
    with pytest.raises(UsageError, match="has 3 steps, rim grounds at most max_steps = 2"):
        train(given)
    assert all_runs(tmp_path) == {}  # nothing is left of a run that never began


OWN = """
from dataclasses import dataclass
from rim_bench.baselines.pause import Pause

@dataclass(frozen=True)
class Mine(Pause):
    name = "mine"
    N: int = 2
"""


def test_a_method_file_that_changed_since_training_is_refused(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "mine.py"
    own.write_text(OWN, "utf-8")
    (run,), _ = train(options(task, tmp_path, methods=(str(own),), start="recipe", settings={}, examples=8))
    assert load_trained(run).method.settings() == {"N": 2}
    own.write_text(OWN.replace("N: int = 2", "N: int = 3"), "utf-8")
    assert load_trained(run).method.settings() == {"N": 2}  # this process still has what was trained
    monkeypatch.setattr("rim_bench.util.own_files._allowed", {})  # as another process, which is given the file as it is
    allow_files([own])
    with pytest.raises(UsageError, match=r"mine\.py' \(sha256 .*what was given has another content"):
        load_trained(run)


class Slow(Heard):
    """Leaves the time to kill it where the test wants to."""

    def training(self, run: str, progress: TrainingStep) -> None:
        time.sleep(1.0 if run == "rim" and progress.step > KILL_AT else 0.0)


KILL_AT = 11


def test_a_killed_process_is_continued_to_the_same_bits(
    study: tuple[Path, list[Run], Heard], task: str, tmp_path: Path
) -> None:
    """kill -9 in rim's second stage, which has dropout; the restart trains the rest of rim and nothing else."""
    _, runs, _ = study
    out = tmp_path / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside other threads: none of them holds anything
        victim = os.fork()
    if victim == 0:
        try:
            run_plan(plan_study(options(task, out)), Slow(), evaluation=False)
        finally:
            os._exit(7)
    records = out / "runs" / runs[2].id / "train.jsonl"
    deadline = time.monotonic() + 120
    while not (records.is_file() and records.read_bytes().count(b"\n") > KILL_AT):
        assert os.waitpid(victim, os.WNOHANG) == (0, 0) and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(int.from_bytes(os.urandom(1), "big") / 5000)  # up to 50 ms: anywhere in what follows the record
    os.kill(victim, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(victim, 0)[1]) == -signal.SIGKILL
    killed = all_runs(out)
    assert set(killed) == {r.id for r in [start_of(runs), *runs]}  # the same specifications in another folder
    assert not killed[runs[2].id].trained and (killed[runs[2].id].path / "checkpoints").is_dir()
    again, heard = train(options(task, out))
    resumed = [step for name, step in heard.steps if name == "rim"]
    assert 8 < resumed[0] <= KILL_AT + 3 and resumed[-1] == STEPS
    assert {name for name, _ in heard.steps} == {"rim"}
    for one, other in zip([start_of(runs), *runs], [start_of(again), *again], strict=True):
        assert contents(one) == contents(other)
