"""Runs named by what they are: one where one is due, all that fit where several may be, a sentence else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rim_bench.report import run_list
from rim_bench.storage.run_folder import Store
from rim_bench.storage.selectors import parse_selector
from rim_bench.util.errors import UsageError

Call = Callable[..., tuple[int, str, str]]
EMBEDDED = Path(__file__).resolve().parents[2] / "results" / "embedded"


@pytest.fixture(scope="module")
def store() -> Store:
    return Store(EMBEDDED)


def seeds(store: Store, name: str) -> list[int]:
    return sorted(run.spec.seed for run in store.locate_all(name))


def test_a_selector_means_the_runs_of_a_method_that_fit_its_conditions(store: Store) -> None:
    assert seeds(store, "rim") == [0, 0, 1, 1, 2, 2] and seeds(store, "rim@flops=4.7e12") == [0, 1, 2]
    assert store.find("rim@flops=4.7e12:seed=1").id == store.find("rim:seed=1,flops=4700000000000").id
    assert seeds(store, "rim:examples=38400,task=chain,start=cot,model=tiny") == [0, 1, 2]
    assert {run.spec.role for run in store.locate_all("cot")} == {"arm"}  # a shared start is no compared run
    assert {run.spec.role for run in store.locate_all("cot:role=start")} == {"start"}


def test_an_id_or_its_beginning_comes_before_a_selector(store: Store) -> None:
    name = store.locate_all("rim:seed=0")[0].id
    assert store.find(name).id == name and store.find(name[:-4]).id == name
    assert store.find(str(EMBEDDED / "runs" / name)).id == name


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("rim", r"run 'rim' is not unique, it means 6: rim-chain-\w+ \(rim: seed=0, flops=none, examples=38400\); "),
        (
            "rim:seed=0",
            r"means 2: rim-chain-\w+ \(rim: flops=none, examples=38400\); rim-chain-\w+ \(rim: flops=4.7e\+12",
        ),
        ("rim-chain", r"run 'rim-chain' is not unique, it means 6: .*seed=2"),
        ("rim:seed=9", "no run fits 'rim:seed=9': those of rim have seed=0 or 1 or 2"),
        ("rima:seed=0", "no run fits 'rima:seed=0': there is none of method 'rima'"),
        ("rim:sed=0", "unknown condition of 'rim:sed=0' 'sed'.*did you mean 'seed'"),
        ("rim:seed", "condition 'seed' of 'rim:seed' has no value"),
        ("rimm", "unknown run 'rimm'"),
    ],
)
def test_what_means_no_run_or_several_is_one_sentence(store: Store, name: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        store.locate(name)


def test_numbers_are_compared_as_numbers_and_names_as_they_are() -> None:
    selector = parse_selector("rim@flops=4.70e12:seed=01")
    assert selector.method == "rim" and dict(selector.conditions) == {"flops": "4.70e12", "seed": "01"}


def test_the_list_has_a_row_a_run_with_the_accuracy_of_its_own_evaluation(store: Store, call: Call) -> None:
    table = run_list.table(*store.runs())
    frame = table.frame().set_index("id")
    assert len(frame) == len(store.folders())
    stored = {row["run_ids"]: row["accuracy"] for row in _rows()}
    arms = frame[frame["role"] == "arm"]
    assert len(arms) == 30 and all(arms["accuracy"][run] == pytest.approx(float(stored[run])) for run in arms.index)
    assert frame["accuracy"][frame["role"] == "start"].isna().all()
    gate = EMBEDDED.parent / "gate"
    code, out, _ = call("list", "runs", "-o", str(gate), "-f", "csv")
    assert code == 0 and out.count("\n") == len(Store(gate).folders()) + 1
    code, _, err = call("list", "methods", "-f", "csv")
    assert code == 2 and "--format cannot apply" in err
    code, _, err = call("list", "runs", "-o", str(EMBEDDED / "nowhere"))
    assert code == 2 and "no run is stored" in err


def _rows() -> list[dict[str, str]]:
    import csv

    with (EMBEDDED / "table.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["set"].startswith("in distribution, seed")]
