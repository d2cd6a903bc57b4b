"""What a dry run says of a grid against what the grid then does: cells, states, FLOPs.

And that saying it leaves nothing behind.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_models import base_folder
from executor_here import Here
from small_runs import Heard, flags, options
from stored import training_of
from study_files import study

from rim_bench.engine.trainer import Trainer
from rim_bench.runs.dry_run import LATER, DryRun, dry_run, measured_rate
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import plan_study
from rim_bench.runs.training import run_plan
from rim_bench.storage.run_folder import Run, Store
from rim_bench.storage.selection import LearningRateGrid
from rim_bench.util.errors import UsageError

Call = Callable[..., tuple[int, str, str]]


def planned(*given: Options) -> DryRun:
    return dry_run([plan_study(one) for one in given])


def stored(out: Path) -> dict[str, int]:
    """Training FLOPs of every run without what it inherited, by id."""
    return {run.id: training_of(run).flops for run in Store(out).runs()[0]}


def test_what_is_planned_is_what_training_then_costs(tmp_path: Path) -> None:
    given = options(
        tmp_path, "direct", "rim", "coconut", start="cot", seeds=(0, 1), examples=24, cot_examples=16, any_start=True
    )
    before = planned(given)
    assert not any(tmp_path.iterdir())
    assert [(p.cell, p.state) for p in before.planned][:3] == [
        ("shared cot start", "new"),
        ("shared cot start, seed 1", "new"),
        ("direct", "new"),
    ]
    assert {p.parent for p in before.planned if p.role == "arm" and p.seed == 1} == {before.planned[1].run}
    run_plan(plan_study(given), Heard(), evaluation=False)
    assert {p.run: p.train_flops for p in before.planned} == stored(tmp_path)
    after = planned(given)
    assert {p.state for p in after.planned if p.role == "arm"} == {"trained"} and {
        p.state for p in after.planned if p.role == "start"
    } == {"done"}
    totals = after.data(None)["totals"]
    assert (
        totals["train_left"] == 0
        and totals["train_flops"] == sum(stored(tmp_path).values())
        and totals["evaluation_left"] > 0
    )


def test_a_budget_in_flops_is_what_is_left_of_it_behind_the_start(tmp_path: Path) -> None:
    both = [
        options(tmp_path, "direct", start="cot", examples=e, train_flops=f, cot_examples=16)
        for e, f in ((16, None), (None, 3 * 10**8))
    ]
    made = planned(*both)
    start, first, second = made.planned  # the start, which both begin from, once
    assert (first.budget, second.budget) == (
        "examples=16",
        "train-flops=3e+08",
    ) and second.train_flops == 3 * 10**8 - start.train_flops
    with pytest.raises(UsageError, match="is spent before direct begins"):
        planned(dataclasses.replace(both[1], train_flops=10))


def test_a_run_that_was_stopped_is_priced_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, whole = options(tmp_path, "direct"), planned(options(tmp_path, "direct")).planned[0].train_flops

    def stop(run: str, step: int) -> None:
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_plan(plan_study(given), Heard(at=stop), evaluation=False)
    (one,) = planned(given).planned
    done = sum(m["flops"] for m in Run(Store(tmp_path).folder / str(one.run)).metrics()[:8])
    assert (one.state, one.train_left, one.train_flops) == (
        "resumable at step 8",
        whole - done,
        whole,
    ) and 0 < done < whole
    trained = planned(given).data(1e6)
    assert trained["totals"]["hours_left"] == pytest.approx((one.train_left + (one.evaluation_flops or 0)) / 1e6 / 3600)


def test_arms_of_learning_rates_are_known_behind_their_trials(tmp_path: Path) -> None:
    given = options(tmp_path, "direct", tune=LearningRateGrid((1e-3, 1e-2)), seeds=(0, 1), examples=16)
    before = planned(given)
    assert [(p.cell, p.role, p.run is None) for p in before.planned] == [
        ("direct, trial lr 0.001", "trial", False),
        ("direct, trial lr 0.01", "trial", False),
        ("direct", "arm", True),
        ("direct, seed 1", "arm", True),
    ]
    assert [p.train_left > 0 for p in before.planned] == [
        True,
        True,
        False,
        True,
    ]  # the first arm is the winning trial itself
    assert LATER in before.table(None).to_markdown()
    runs = run_plan(plan_study(given), Heard(), evaluation=False)
    assert [p.run for p in planned(given).planned if p.role == "arm"] == [run.id for run in runs]


def test_a_damaged_run_is_refused_by_the_dry_run_and_by_the_run(call: Call, tmp_path: Path) -> None:
    small = flags("--limit 20 --examples 64 --max-tokens 4 --start recipe --quick")
    given = ["run", "--methods", "direct,pause", *small, "--out", tmp_path]
    assert call(*given)[0] == 0
    (run,) = (r for r in Store(tmp_path).runs()[0] if r.spec.method.name == "direct")
    for name, damages in (("spec.json", (0.3, 0)), ("train.json", (0.3,))):
        file = run.path / name
        whole = file.read_bytes()
        for share in damages:
            file.write_bytes(whole[: int(share * len(whole))] or b"{}")
            for more in ((), ("--dry-run",), ("--executor", "local")):  # the last one goes on with pause
                code, out, err = call(*given, *more)
                said = " ".join(err.replace("│", " ").split())
                assert code == 2 and "is damaged" in said and "move it away" in said and "Traceback" not in err, (
                    name,
                    more,
                )
                assert ("pause" in out) == (more == ("--executor", "local"))
        file.write_bytes(whole)
    assert call(*given)[0] == 0


def test_nothing_is_trained_fetched_or_written(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trainer, "run", lambda *a: pytest.fail("trained"))
    small = flags("--limit 24 --examples 320 --start recipe --dry-run --methods")
    both = "direct,rim --task chain,permute --format json --out made"
    code, out, _ = call("run", *small, *both.split())
    told: dict[str, Any] = json.loads(out)
    assert code == 0 and [c["cell"] for c in told["cells"]] == [
        "direct, chain",
        "rim, chain",
        "direct, permute",
        "rim, permute",
    ]
    code, out, _ = call("run", *small, "direct", "--flops-per-second", "2e9", "--format", "markdown")
    assert code == 0 and "hours left" in out and "in all: 1" in out and "at 2 GFLOPs/s" in out
    for name, word in (
        ("csv", "cell,role,method"),
        ("latex", r"\begin{tabular}"),
        ("terminal", "nothing was trained or stored"),
    ):
        assert word in call("run", *small, "direct", "--format", name)[1]
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    hub = ["--model", "gpt2", "--limit", "24", "--examples", "320", "--device", "cpu", "--start", "recipe", "--dry-run"]
    code, out, err = call("run", "--methods", "direct", *hub)
    assert (code, out) == (2, "") and "a dry run fetches nothing" in err and "is not stored on this machine" in err
    assert not any(tmp_path.iterdir())


def test_a_study_is_planned_and_run_on_an_engine(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        'methods = ["direct"]\ntask = "chain"\nseeds = [0]\nbudgets = ["examples=160", "train-flops=8e8"]\nstart = '
        '"recipe"\nlimit = 20\n'
    )
    text += 'quick = true\nmax_tokens = 4\neval_tasks = ["chain_gate"]\nbackbone = {width = 32, layers = 1}\n'
    file = study(tmp_path, text)
    code, out, _ = call("study", file, "--dry-run", "--format", "csv", "--device", "cpu")
    assert code == 0 and len(out.splitlines()) == 3 and [p.name for p in tmp_path.iterdir()] == ["study.toml"]
    dying = Here({"direct, train-flops=8e+08": 2})
    monkeypatch.setattr("rim_bench.runs.grid.open_engine", lambda *a, **k: dying)
    code, _, err = call("study", file, "--executor", "local", "--device", "cpu")
    assert code == 70 and "made when every cell has its result" in err and not (tmp_path / "table.md").exists()
    monkeypatch.setattr("rim_bench.runs.grid.open_engine", lambda *a, **k: Here())
    code, out, _ = call("study", file, "--executor", "local", "--device", "cpu")
    assert code == 0 and (tmp_path / "table.md").is_file() and len(Store(tmp_path).runs()[0]) == 2
    for run in Store(tmp_path).runs()[0]:
        assert {s.task for s in run.evaluations().values()} == {"chain", "chain_gate"}


def test_the_rate_of_a_pretrained_model_is_measured(tmp_path: Path) -> None:
    folder = base_folder("tiny", tmp_path / "base", {"max_position_embeddings": 256})
    given = options(tmp_path / "out", "direct", "rim", model=str(folder), backbone={"lora_rank": 4}, lr=1e-3)
    rate = measured_rate([plan_study(given)])
    assert rate is not None and 1e5 < rate < 1e13
    table = planned(given).table(rate, measured=True).to_markdown()
    assert "hours left" in table and "(measured here, on 4 rows)" in table
    assert measured_rate([plan_study(options(tmp_path / "out", "direct"))]) is None
    assert not (tmp_path / "out").exists()
