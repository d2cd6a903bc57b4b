"""What the repository stores is what its study files ask for; `helpers/unchanged.py` rebuilds the tables of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from stored import training_of

from rim_bench.evidence import retraining
from rim_bench.report import gate
from rim_bench.runs.study_file import read_study
from rim_bench.storage.run_folder import Run, Store

RESULTS = Path(__file__).parents[2] / "results"
STUDIES = sorted(p.parent for p in RESULTS.glob("**/study.toml"))
studies = pytest.mark.parametrize("study", STUDIES, ids=lambda p: p.relative_to(RESULTS).as_posix())


def arms(study: Path) -> tuple[Run, ...]:
    runs, damaged = Store(study).runs()
    assert not damaged
    return tuple(r for r in runs if r.spec.role != "start")


def test_there_is_a_study() -> None:
    assert STUDIES


@studies
def test_its_runs_are_those_of_its_file(study: Path) -> None:
    made = read_study(study / "study.toml")
    runs = arms(study)
    assert len(runs) == sum(len(r.methods) * len(r.seeds) for r in made.requests)
    for request, swept in zip(made.requests, made.swept, strict=True):
        budget = {"train_flops": request.train_flops} if request.train_flops else {"examples": request.examples}
        mine = [r for r in runs if budget.items() <= r.spec.budget.to_json().items()]
        assert {(r.spec.method.name, r.spec.seed) for r in mine} == {
            (m, s) for m in request.methods for s in request.seeds
        }
        assert all((len(r.evaluations()) > 1) == swept for r in mine)
    for run in runs:  # every budget was met, within a step of it
        budget = training_of(run).budget
        assert 0 <= budget.used - budget.asked < budget.last_step


@studies
def test_it_is_small(study: Path) -> None:
    files = [p for p in study.rglob("*") if p.is_file() and "model" not in p.parts and not p.name.startswith("lock")]
    report = study / "report.html"
    assert sum(p.stat().st_size for p in files if p != report) <= 5_000_000
    assert not report.exists() or report.stat().st_size <= 3_000_000


def test_the_margins_of_retraining_are_those_of_the_stored_retrainings() -> None:
    found = retraining.read(RESULTS / "gate" / "retraining.json")
    assert {one.setting.label for one in found} == {"cot", "coconut", "rim"}
    assert gate.margins_table(found).to_markdown() == (RESULTS / "gate" / "retraining.md").read_text("utf-8")
    for one in found:
        assert len(one.seeds) >= retraining.ENOUGH and one.red(one.margin()) <= retraining.RATE
