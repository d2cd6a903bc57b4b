"""Sweeps of three small trained runs: which points, once each, resumable, and equal to ordinary evaluations at the same
setting.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rim_bench.cli import main
from rim_bench.data.task import load_task
from rim_bench.engine.trained_model import load_trained
from rim_bench.evaluate import evaluation, latency, sweep
from rim_bench.evaluate.evaluation import EvaluationRequest
from rim_bench.evaluate.options import StoredRunOptions
from rim_bench.evaluate.stored_runs import evaluate_stored, stored_request
from rim_bench.evaluate.sweep import VOTES, SweepPoint, cap_values, effort_values
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import plan_study
from rim_bench.runs.study import study_setting
from rim_bench.runs.training import evaluation_request, run_plan
from rim_bench.storage.records import KnobRecord
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError

ROWS = 24
METHODS = ("direct", "cot", "rim")
TIMES = {"latency_s", "batch_s", "batch_size"}


class Heard:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.done: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def training(self, run: str, progress: Any) -> None: ...
    def evaluating(self, run: str, done: int, total: int) -> None: ...

    def finished(self, run: str) -> None:
        self.done.append(run)


@pytest.fixture(autouse=True, scope="module")
def _light() -> Any:
    before, timed = torch.get_num_threads(), latency.TIMED
    torch.set_num_threads(1)
    latency.TIMED = 2
    yield
    latency.TIMED = timed
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, _light: None) -> Path:
    """A results folder with three arms trained for a moment, evaluated as `rim-bench run` does it, but rim not at
    all.
    """
    backbone = {"width": 32, "layers": 1, "max_positions": 96}
    out = tmp_path_factory.mktemp("sweep") / "results"
    options = Options(
        methods=METHODS,
        task="chain",
        out=out,
        backbone=backbone,
        limit=ROWS,
        start="recipe",
        examples=32 * 60,
        device="cpu",
        quick=True,
    )
    for run in run_plan(plan_study(options), Heard(), evaluation=False):
        if run.spec.method.name != "rim":
            evaluate_stored(run, replace(options, task=""), Heard())
    return out


@pytest.fixture
def out(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "results")
    return tmp_path / "results"


def runs(out: Path) -> list[Run]:
    good, damaged = Store(out).runs()
    assert not damaged
    return sorted(good, key=lambda r: METHODS.index(r.spec.method.name))


def turned(out: Path, heard: Heard | None = None, names: tuple[str, ...] = METHODS, **others: Any) -> list[SweepPoint]:
    drawn = {name: others.pop(name) for name in ("temperature", "sample_seed") if name in others}
    given = StoredRunOptions(out=out, device="cpu", **drawn)
    return sweep.sweep([r for r in runs(out) if r.spec.method.name in names], given, heard or Heard(), **others)


def settings(points: list[SweepPoint], label: str) -> list[tuple[str | None, int | None]]:
    return [(p.name, p.value) for p in points if p.label == label]


def test_values_by_hand() -> None:
    assert effort_values(4) == (0, 1, 2, 6, 8)
    assert effort_values(3) == (0, 1, 2, 5, 6)
    assert effort_values(1) == (0, 2) and effort_values(0) == (1,)
    assert cap_values([10, 20, 30]) == (5, 8, 10, 15, 22)  # 25, 50 and 75 % of 20 and of 30
    assert cap_values([3, 3]) == (1, 2) and cap_values([1, 1]) == ()


def test_every_run_turns_its_own_knob_and_nothing_is_done_twice(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {r.id: set(r.evaluations()) for r in runs(out)}
    heard = Heard()
    points = turned(out, heard)
    assert settings(points, "direct") == [(None, None), *(("votes", k) for k in VOTES)]
    assert settings(points, "rim") == [(None, None), *(("K", k) for k in (0, 1, 2, 6, 8))]
    cot = settings(points, "cot")
    assert cot[:4] == settings(points, "direct") and {name for name, _ in cot[4:]} == {"max_tokens"} and len(cot) > 6
    for run in runs(out):
        mine = [p for p in points if p.run == run]
        stored = run.evaluations()
        assert set(stored) == {p.key for p in mine} and len(stored) == len(mine)
        assert before[run.id] <= {mine[0].key}  # the evaluation of `rim-bench run` is the first point of every curve
        for p in mine:
            expected = None if p.name is None else KnobRecord(name=p.name, value=p.value)
            assert (p.summary.knob, p.summary.curve) == (expected, p.name is not None) and stored[p.key] == p.summary
            assert p.summary.n == ROWS and p.summary.quick
    assert heard.done == [
        "rim",
        *(f"{p.label} {p.name}={p.value}" for p in points if p.name),
    ]  # all default evaluations come first

    def refuse(*_: Any) -> None:
        raise AssertionError("evaluated again")

    monkeypatch.setattr(evaluation, "evaluate", refuse)
    again = Heard()
    assert [(p.run, p.key) for p in turned(out, again)] == [(p.run, p.key) for p in points] and again.done == []
    assert "rim: 5 points of K, 5 there already" in again.notes


def test_the_first_point_is_the_evaluation_that_a_study_makes(out: Path) -> None:
    options = Options(
        methods=METHODS,
        task="chain",
        out=out,
        backbone={"width": 32, "layers": 1, "max_positions": 96},
        limit=ROWS,
        start="recipe",
    )
    study = study_setting(replace(options, examples=32 * 60, device="cpu", quick=True))
    for run in runs(out):
        assert stored_request(run, StoredRunOptions(out=out)).key() == evaluation_request(study).key()
    assert stored_request(runs(out)[0], StoredRunOptions(out=out, limit=3)).limit == 3
    assert (
        stored_request(runs(out)[0], StoredRunOptions(task="gsm8k", out=out)).limit == 20
    )  # another task: quick, as the run is


def test_a_point_is_what_an_ordinary_evaluation_gives(out: Path) -> None:
    """Curve points skip lm-eval, and leave out of the records what is large; what is left is the same to the digit."""
    points = turned(out, names=("cot", "rim"), knobs={"K": [2], "votes": [3], "max_tokens": [7]})
    for p, given in ((points[1], {"votes": 3}), (points[2], {"max_tokens": 7}), (points[4], {"effort": 2})):
        request = EvaluationRequest(load_task("chain"), limit=ROWS, quick=True, **{"max_tokens": 40, **given})
        items, summary = evaluation.evaluate(load_trained(p.run), request)
        found = p.run.read_items(p.key)
        for whole, item in zip((i.to_json() for i in items), (i.to_json() for i in found), strict=True):
            assert item.keys() == whole.keys() - sweep_left_out() - {"blocks"}
            assert {k: v for k, v in item.items() if k not in TIMES} == {k: whole[k] for k in item if k not in TIMES}
        assert summary.settings == p.summary.settings
        assert p.summary.without("items").keys() == summary.without("items").keys()


def sweep_left_out() -> set[str]:
    times = {"latency_s", "batch_s", "batch_size"}
    return {"prompt_hash", "reference", "output", "task", "strict", "lm_eval_strict", "lm_eval_flexible"} | times


def test_points_take_little_room(out: Path) -> None:
    points = turned(out, names=("rim",), knobs={"K": [8]})
    whole, point = (p.summary.stored_items.size for p in points)
    assert point < whole / 2


def test_a_killed_sweep_goes_on(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = evaluation.evaluate, 3

    def dies(*given: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(evaluation, "evaluate", dies)
    with pytest.raises(KeyboardInterrupt):
        turned(out, names=("rim",))
    (run,) = [r for r in runs(out) if r.spec.method.name == "rim"]
    assert [s.knob for s in run.evaluations().values() if s.curve] and len(run.evaluations()) == 3
    monkeypatch.setattr(evaluation, "evaluate", real)
    heard = Heard()
    assert len(turned(out, heard, names=("rim",))) == 6 and heard.done == ["rim K=2", "rim K=6", "rim K=8"]
    assert heard.notes == ["rim: 5 points of K, 2 there already"]


def test_seeds_of_a_method_get_the_same_caps(out: Path, trained: Path) -> None:
    """A cap follows from the answers of all seeds, and a seed that comes later gets the caps of the earlier ones
    too.
    """
    (cot,) = [r for r in runs(out) if r.spec.method.name == "cot"]
    short = Run(
        out / "other" / cot.id
    )  # stands for another seed: the same model with longer answers in its default evaluation
    shutil.copytree(cot.path, short.path)
    ((key, summary),) = short.evaluations().items()
    items = [replace(i, generated_tokens=i.generated_tokens + 9) for i in short.read_items(key)]
    short.write_evaluation(key, items, summary.without("items"))
    given, none = StoredRunOptions(out=out, device="cpu"), {"votes": ()}
    alone = [p.value for p in sweep.sweep([cot], given, Heard(), knobs=none)[1:]]
    assert alone == list(cap_values([i.generated_tokens for i in cot.read_items(key)]))
    points = sweep.sweep([cot, short], given, Heard(), knobs=none)
    one, other = ([p.value for p in points if p.run is run and p.name] for run in (cot, short))
    pooled = cap_values([i.generated_tokens for r in (cot, short) for i in r.read_items(key)])
    assert one == other == sorted({*alone, *pooled}) and set(pooled) != set(alone)


def test_values_can_be_given(out: Path) -> None:
    points = turned(
        out,
        knobs={"K": [6, 4, 3], "votes": [], "rim.votes": [2], "cot.max_tokens": [40, 5]},
        temperature=0.3,
        sample_seed=4,
    )
    assert settings(points, "direct") == [(None, None)]
    assert settings(points, "cot") == [(None, None), ("max_tokens", 5)]  # 40 is its default
    assert settings(points, "rim") == [(None, None), ("K", 3), ("K", 6), ("votes", 2)]
    assert points[-1].summary.settings.to_json().items() >= {"votes": 2, "temperature": 0.3, "sample_seed": 4}.items()


def test_values_that_do_not_fit_are_left_out_with_a_note(out: Path) -> None:
    """96 positions: with 30 blocks of 4 tokens no question fits; what fits no worse than by default stays."""
    heard = Heard()
    points = turned(out, heard, names=("rim",), knobs={"K": [5, 30]})
    assert settings(points, "rim") == [(None, None), ("K", 5)]
    (note,) = [n for n in heard.notes if "left out" in n]
    assert note.startswith(
        f"rim: K = 30 is left out: {ROWS} questions more than at its default would not fit into the model's 96 "
    )


@pytest.mark.parametrize(
    ("knobs", "word"),
    [
        ({"N": [3]}, "unknown knob of these runs 'N'"),
        ({"pause.N": [3]}, "unknown method of these runs 'pause'"),
        ({"direct.K": [3]}, "unknown knob of these runs 'K'"),
        ({"votes": [1]}, "votes: value 1 must be a whole number of at least 2"),
        ({"max_tokens": [0]}, "max_tokens: value 0"),
        ({"K": [-1]}, "K: value -1 must be a whole number of at least 0"),
        ({"K": [1.5]}, "K: value 1.5"),
    ],
)
def test_knobs_that_do_not_fit_are_refused_before_anything_is_done(
    trained: Path, knobs: dict[str, Any], word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        turned(trained, knobs=knobs)
    with pytest.raises(UsageError, match="temperature 0"):
        turned(trained, temperature=0)


def test_untrained_runs_and_starts_are_left_out(out: Path) -> None:
    direct, cot, rim = runs(out)
    shutil.rmtree(cot.path / "model")
    heard = Heard()
    given = StoredRunOptions(out=out, device="cpu")
    points = sweep.sweep([direct, cot], given, heard, knobs={"votes": [2]})
    assert {p.label for p in points} == {"direct"} and f"{cot.id}: not trained, left out" in heard.notes
    rim.__dict__["spec"] = replace(rim.spec, role="start")
    with pytest.raises(UsageError, match="none of these runs is trained"):
        sweep.sweep([cot, rim], given, heard)


# The command line


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[object, str, str]:
    monkeypatch.setattr(sys, "argv", ["rim-bench", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    return (stopped.value.code, *capsys.readouterr())


def test_the_commands(out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    direct, _, rim = runs(out)
    knobs = ("--knob", "K=2,8", "--knob", "votes=2")
    code, told, shown = call(monkeypatch, capsys, "sweep", rim.id, direct.id, "-o", out, "--device", "cpu", *knobs)
    assert code == 0, shown
    lines = [line.split("  ") for line in told.splitlines()]
    assert [(line[0], line[2]) for line in lines] == [
        (rim.id, "default"), (rim.id, "K=2"), (rim.id, "K=8"), (direct.id, "default"), (direct.id, "votes=2")
    ]  # fmt: skip
    assert all(line[3].endswith(f"% of {ROWS}") for line in lines) and "rim K=8" in shown
    drawn = ("--votes", 3, "--temperature", 0.6, "--sample-seed", 2)
    code, _, shown = call(monkeypatch, capsys, "eval", rim.id, "-o", out, "--limit", 4, "--device", "cpu", *drawn)
    assert code == 0, shown
    (summary,) = [s for s in rim.evaluations().values() if s.limit == 4]
    assert (
        summary.settings.to_json().items() >= {"votes": 3, "temperature": 0.6, "sample_seed": 2}.items()
        and not summary.curve
    )


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("eval", "--votes", 0), "votes 0 must be a whole number of at least 1"),
        (("eval", "--votes", 3, "--temperature", 0), "temperature 0.0 must be a number above 0"),
        (("eval", "--temperature", 0.7), "needs votes of at least 2"),
        (("sweep", "--knob", "K=a"), "--knob 'K=a' is not NAME=V1,V2"),
        (("sweep", "--knob", "K"), "--knob 'K' is not NAME=V1,V2"),
        (("sweep", "--knob", "blocks=3"), "unknown knob of these runs 'blocks'"),
        (("sweep", "--split", "train"), "unknown split 'train'"),
        (("sweep", "--temperature", -1), "temperature -1.0"),
    ],
)
def test_the_commands_refuse_in_a_sentence(
    trained: Path,
    arguments: tuple[object, ...],
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (name, *rest) = arguments
    code, _, shown = call(monkeypatch, capsys, name, runs(trained)[0].id, "-o", trained, "--device", "cpu", *rest)
    assert code == 2 and word in shown and len(shown.splitlines()) == 1
