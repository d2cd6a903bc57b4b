"""Learning-rate trials and the 16-split protocol on small real runs:
what is stored, charged, shown, and never shown beside the rest.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import Heard, model, options, steps, train
from stored import training_of

from rim_bench.data.task import load_task
from rim_bench.evidence.split_protocol import run_splits, scored_runs
from rim_bench.report.comparison import comparison
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import plan_study, trials
from rim_bench.runs.study_file import read_study
from rim_bench.runs.training import run_plan
from rim_bench.storage.records import GridRecord, spec_id
from rim_bench.storage.run_folder import Run, Store
from rim_bench.storage.selection import LearningRateGrid
from rim_bench.util.errors import UsageError
from rim_bench.util.files import read_json

Call = Callable[..., tuple[int, str, str]]
GRID = LearningRateGrid((1e-4, 1e-3, 1e-2))


pytestmark = pytest.mark.usefixtures("one_thread")


def by_role(out: Path) -> dict[str, list[Run]]:
    """All runs of a results folder, by what they are for; trials by rate."""
    found: dict[str, list[Run]] = {}
    for run in sorted(Store(out).runs()[0], key=lambda r: (r.spec.method.name, r.spec.optimizer.lr, r.spec.seed)):
        found.setdefault(run.spec.role, []).append(run)
    return found


def rigged(monkeypatch: pytest.MonkeyPatch, shares: dict[float, float]) -> None:
    """Final validation whose accuracy depends on the learning rate."""
    from rim_bench.runs import training as run_module

    monkeypatch.setattr(
        run_module, "validation_accuracy", lambda trained, request, show: (shares[trained.spec.optimizer.lr], 20)
    )


# Trials


def test_every_method_gets_the_same_trials_and_the_winner_is_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rigged(monkeypatch, {1e-4: 0.2, 1e-3: 0.6, 1e-2: 0.6})
    given = options(tmp_path, "direct", "rim", tune=GRID, seeds=(0, 1))
    runs, heard = train(given)
    roles = by_role(tmp_path)
    assert [(r.spec.method.name, r.spec.optimizer.lr) for r in roles["trial"]] == [
        (name, rate) for name in ("direct", "rim") for rate in GRID.rates
    ]  # fmt: skip
    assert {r.id for r in roles["arm"]} == {r.id for r in runs} and len(runs) == 4
    assert all(r.spec.seed == 0 and not r.spec.says("tuned") and r.spec.budget.examples == 48 for r in roles["trial"])
    for run in runs:
        training, trials = training_of(run), [t for t in roles["trial"] if t.spec.method == run.spec.method]
        told = training.tuning
        assert run.spec.optimizer.lr == told.chosen == 1e-3  # of equal ones the smallest
        assert training.tuning_trials == len(told.trials) == 3
        assert run.spec.tuned == GridRecord(field="lr", rates=GRID.rates, share=1.0, seed=0)
        assert [(t.run, t.lr, t.accuracy) for t in told.trials] == [
            (t.id, t.spec.optimizer.lr, training_of(t).validation.accuracy) for t in trials
        ]  # fmt: skip
        assert told.flops == sum(training_of(t).flops for t in trials) > training.flops > 0 and not told.edge
        if run.spec.seed == 0:  # nothing was trained twice
            assert told.adopted == trials[1].id and model(run) == model(trials[1]) and steps(run) == steps(trials[1])
        else:
            assert told.adopted is None and model(run) != model(trials[1]) and len(run.metrics()) == 12
    trained = {name for name, _ in heard.steps}
    assert {
        "direct, trial lr 0.01",
        "rim, trial lr 0.0001",
        "direct, seed 1",
        "rim, seed 1",
    } <= trained and not trained & {"direct", "rim"}
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("train.json")}
    again, heard = train(given)
    assert [r.id for r in again] == [r.id for r in runs] and not heard.steps
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("train.json")} == before


def test_a_killed_tuning_goes_on_where_it_was(tmp_path: Path) -> None:
    """SIGKILL in the second trial; what follows is what an unbroken tuning gives, bit by bit."""
    whole, _ = train(options(tmp_path / "whole", "direct", tune=GRID))
    given = options(tmp_path / "broken", "direct", tune=GRID)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # a fork beside other threads: none of them holds anything here
        child = os.fork()
    if child == 0:
        try:
            fatal = Heard(
                at=lambda run, step: (
                    os.kill(os.getpid(), signal.SIGKILL) if run.endswith("lr 0.001") and step == 8 else None
                )
            )
            run_plan(plan_study(given), fatal, evaluation=False)
        finally:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    runs, heard = train(given)
    assert [r.id for r in runs] == [r.id for r in whole] and model(runs[0]) == model(whole[0])
    assert heard.steps[0] == ("direct, trial lr 0.001", 9) and "direct, trial lr 0.0001" not in {
        name for name, _ in heard.steps
    }
    first, second = (training_of(r).tuning for r in (runs[0], whole[0]))
    assert [(t.run, t.accuracy, t.flops) for t in first.trials] == [(t.run, t.accuracy, t.flops) for t in second.trials]


def test_a_rate_at_which_training_diverges_is_a_trial_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rigged(monkeypatch, {1e-3: 0.1})
    (run,), heard = train(options(tmp_path, "direct", tune=LearningRateGrid((1e-3, 1e30))))
    told = training_of(run).tuning
    assert told.chosen == 1e-3 and told.trials[1].accuracy is None and told.trials[1].flops > 0
    assert told.flops == sum(t.flops for t in told.trials)
    assert any("is not finite at step" in n for n in heard.notes) and any("1e+30: diverged" in n for n in heard.notes)
    with pytest.raises(UsageError, match="all learning rates tried for direct diverged"):
        train(options(tmp_path / "all", "direct", tune=LearningRateGrid((1e29, 1e30))))


def test_trials_of_a_part_of_the_budget_are_followed_by_a_run_of_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rigged(monkeypatch, {1e-3: 0.1, 1e-2: 0.3})
    (run,), _ = train(options(tmp_path, "direct", tune=LearningRateGrid((1e-3, 1e-2), 0.5)))
    told = training_of(run).tuning
    assert [t.spec.budget.examples for t in by_role(tmp_path)["trial"]] == [24, 24]
    assert (run.spec.budget.examples, len(run.metrics()), told.adopted, told.share) == (48, 12, None, 0.5)
    assert told.edge and told.chosen == 1e-2


def test_a_recipe_may_have_a_batch_size_for_each_kind_of_backbone(tmp_path: Path) -> None:
    text = load_task("chain").path.read_text()
    (tmp_path / "own.yaml").write_text(
        text.replace("      batch_size: 32\n", "      batch_size: {scratch: 4, pretrained: 16}\n")
    )
    given = Options(methods=("direct", "cot"), task=str(tmp_path / "own.yaml"), out=tmp_path / "out", limit=40)
    study = plan_study(given)
    assert {cell.plan.batch_size for cell in study} == {4}  # the shared start's too
    assert {cell.tuning_trials for cell in study if not cell.is_start} == {3}  # the recipe was followed
    setting = study[0].study
    pretrained = dataclasses.replace(setting, backbone=setting.backbone | {"kind": "path"})
    assert pretrained.batch_size == 16
    other = plan_study(dataclasses.replace(given, batch_size=8))
    assert {cell.plan.batch_size for cell in other} == {8}
    assert {cell.tuning_trials for cell in other} == {None}


def test_what_is_not_tuned_is_what_it_was(tmp_path: Path) -> None:
    plain = plan_study(options(tmp_path, "direct", lr=1e-3))[0].spec.to_json()
    assert not {"tuned", "selection"} & plain.keys()
    tuned = plan_study(options(tmp_path, "direct", tune=GRID))
    assert trials(tuned)[1].spec.to_json() == plain | {"role": "trial"} and spec_id(trials(tuned)[1].spec) != spec_id(
        plain
    )
    assert trials(plan_study(options(tmp_path, "direct"))) == ()
    with pytest.raises(UsageError, match="--lr gives one learning rate for all methods and --tune looks for each"):
        options(tmp_path, "direct", tune=GRID, lr=1e-3)


def test_a_budget_that_trials_cannot_have_is_refused_before_anything_trains(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a budget of 2 examples is less than one step of 4"):
        plan_study(options(tmp_path, "direct", tune=LearningRateGrid((1e-3, 1e-2), 0.05)))
    given = options(tmp_path, "direct", tune=LearningRateGrid((1e-3, 1e-2), 1e-6), examples=None, train_flops=10**9)
    with pytest.raises(UsageError, match="a budget of 1000 training FLOPs is too small for direct"):
        run_plan(plan_study(given), Heard(), evaluation=False)
    assert not by_role(tmp_path)


def test_a_study_file_tunes(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    text = 'methods = ["direct"]\ntask = "chain"\ntune = "lr=1e-4..1e-2"\ntrials = 3\ntune_share = 0.5\n'
    text += 'checkpoint = "best"\ncheckpoint_points = 4\n'
    path.write_text(text, "utf-8")
    (request,) = read_study(path).requests
    assert request.search == LearningRateGrid(GRID.rates, 0.5) and (
        request.selection.rule,
        request.selection.count,
    ) == ("best", 4)
    for change, says in (
        ('tune = "lr=2..1"', "is not lr=LOW"), ("trials = 2", "give what to tune"),
        ("tune_share = true", "tune_share = True is not a number"),
        ('checkpoint = "first"', "unknown checkpoint rule"),
    ):  # fmt: skip
        path.write_text(f'methods = ["direct"]\ntask = "chain"\n{change}\n', "utf-8")
        with pytest.raises(UsageError, match=says):
            read_study(path)


# The command line, with everything in one small study

RUN = (
    "run",
    "-m",
    "direct,rim",
    "--start",
    "recipe",
    "--examples",
    "48",
    "--batch-size",
    "4",
    "--limit",
    "60",
    "--max-tokens",
    "4",
)
SMALL = (
    "--set",
    "rim.K=2",
    *(a for k in ("layers=1", "width=32", "heads=2", "vocabulary=300") for a in ("--backbone", k)),
)


def test_the_command_tunes_and_its_tables_say_so(call: Call, tmp_path: Path) -> None:
    code, _, err = call(
        *RUN,
        *SMALL,
        "--tune",
        "lr=1e-4..1e-2",
        "--trials",
        "2",
        "--checkpoint",
        "best",
        "--checkpoint-points",
        "2",
        "-o",
        tmp_path,
    )
    assert code == 0, err
    assert err.count("of 2 trials (validation accuracy") == 2 and err.count("edge of the grid") == 2
    roles = by_role(tmp_path)
    assert len(roles["trial"]) == 4 and not any(r.evaluations() for r in roles["trial"])  # never on the test split
    table = (tmp_path / "table.md").read_text()
    assert (
        "Tuning: trials chosen between on validation" in table
        and "Checkpoint of rim K=2 (best checkpoint): best of 2 on validation" in table
    )
    assert not any(r.id in table for r in roles["trial"])
    frame = comparison(roles["arm"]).frame()
    for run in roles["arm"]:
        (row, *_) = frame[frame.run_ids == run.id].to_dict("records")
        told = training_of(run).tuning
        assert (row["tuning_trials"], row["tuning_flops"], float(row["tuning_rate"])) == (2, told.flops, told.chosen)
        assert (row["train_flops"], row["checkpoint"]) == (training_of(run).flops, "best")
        assert row["chosen_step"] == str(training_of(run).selection.chosen.step)
    code, board, _ = call("leaderboard", "-o", tmp_path, "-f", "markdown")
    assert code == 0 and "All rows: best checkpoint." in board and "learning-rate trials: direct 2; rim K=2 2." in board
    assert "Training FLOPs of the trials, beside the runs' own: direct" in board
    assert "tuning_flops" in call("leaderboard", "-o", tmp_path, "-f", "csv")[1].splitlines()[0]
    for kind in ("selection", "tuning"):
        assert call("plot", "-k", kind, "-o", tmp_path)[0] == 0
        first = (tmp_path / f"{kind}.svg").read_bytes()
        assert (
            b"chosen" in first
            and call("plot", "-k", kind, "-o", tmp_path)[0] == 0
            and (tmp_path / f"{kind}.svg").read_bytes() == first
        )
    code, _, err = call("eval", roles["trial"][0].id, "-o", tmp_path)
    assert code == 2 and "is not evaluated on test: a learning-rate trial" in err
    code, _, err = call("table", *(r.id for r in roles["trial"]), "-o", tmp_path)
    assert code == 2 and "a learning-rate trial, chosen between on validation: never a row" in err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--checkpoint", "bets"), "unknown checkpoint rule 'bets'.*did you mean 'best'"),
        (("--trials", "3"), "give what to tune as well"),
        (("--tune", "lr=1e-3..1e-2", "--lr", "0.1"), "leave one out"),
        (("--tune", "lr=5"), "is not lr=LOW..HIGH"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(
    given: tuple[str, ...], says: str, call: Call, tmp_path: Path
) -> None:
    code, _, err = call(*RUN, *given, "-o", tmp_path / "out")
    assert code == 2 and len(err.strip().splitlines()) == 1 and not (tmp_path / "out").exists()
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(err)


def test_the_16_split_protocol_stands_apart(call: Call, tmp_path: Path) -> None:
    rule = ("--checkpoint", "16-split", "--checkpoint-points", "3", "-o", tmp_path)
    code, _, err = call(*RUN, *SMALL, *rule)
    assert code == 0, err
    runs = by_role(tmp_path)["arm"]
    found, left_out = scored_runs(runs)
    assert [s.run.id for s in found] == [r.id for r in runs] and not left_out
    for one in found:
        assert not one.run.evaluations()  # nothing that an ordinary table would take for a row
        folder = next((one.run.path / "candidates" / "eval").iterdir())
        assert (folder / "items.jsonl.gz").stat().st_size < 4_000 and len(one.items) == 60
        assert all(len(i.correct) == len(i.answers) == 3 for i in one.items)
        for k, candidate in enumerate(one.summary.candidates):
            assert candidate.accuracy == sum(i.correct[k] == "1" for i in one.items) / 60 and candidate.flops > 0
        weights = [
            read_json(p / "backbone.json")["sha256"] for p in sorted((one.run.path / "candidates").glob("step-*"))
        ]
        assert weights == [c.weights_sha256 for c in one.summary.candidates] and len(set(weights)) == 3
        assert (
            weights[2] == read_json(one.run.model_path() / "backbone.json")["sha256"]
        )  # the model is the last candidate
    table = (tmp_path / "table.md").read_text()
    assert (
        "16-split protocol, selects on test items" in table
        and "split SE" in table
        and "Paired" not in table
        and "Wilson" not in table
    )
    frame = comparison(runs).frame()
    assert set(frame.set) == {
        f"16-split, selects on test items, never ranked ({name})" for name in ("in distribution", "OOD")
    }
    inside = [i for i in found[0].items if not i.ood]
    assert frame.accuracy[0] == pytest.approx(run_splits(inside).accuracy) and frame.split_se[0] == pytest.approx(
        run_splits(inside).split_se
    )
    assert (frame.held_out[0], frame.scored[0]) == (round(0.2 * len(inside)), len(inside) - round(0.2 * len(inside)))
    code, _, err = call("leaderboard", "-o", tmp_path)
    assert code == 2 and "chosen on test items" in err
    code, _, err = call("eval", runs[0].id, "-o", tmp_path)
    assert code == 2 and "is not evaluated on test: its checkpoint is chosen on test items" in err
    assert call("plot", "-k", "selection", "-o", tmp_path)[0] == 0
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.gz")}
    code, _, err = call(*RUN, *SMALL, *rule)
    assert (
        code == 0
        and err.count("evaluated already") == 2
        and {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.gz")} == before
    )
    damage = next((runs[0].path / "candidates").glob("step-*")) / "backbone.json"
    damage.unlink()
    for folder in runs[0].candidate_evaluations.all():
        (runs[0].path / "candidates" / "eval" / folder / "summary.json").unlink()
    code, _, err = call(*RUN, *SMALL, *rule)
    assert code == 2 and "cannot be evaluated: backbone.json is missing" in err
