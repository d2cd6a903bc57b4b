"""Questions that were trained on or that chose are said to be and not ranked; options that cannot apply are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rim_bench.storage.run_folder import Store

Call = Callable[..., tuple[int, str, str]]
TINY = ["--methods", "direct", "--model", "tiny", "--backbone", "width=32", "--backbone", "layers=1", "--device", "cpu"]
QUICK = [*TINY, "--quick", "--examples", "64", "--batch-size", "4", "--max-tokens", "4"]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sixty rows of which twenty are asked: ten of these stand in training, and all validation rows among them."""
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"What is {k} plus {k * k}?", "answer": str(k + k * k)} for k in range(60)]
    parts = {"train": rows[:40], "test": rows[30:50], "validation": rows[40:50], "apart": rows[50:]}
    for name, part in parts.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return [a for name in ("train", "test") for a in ("--file", f"{name}={name}.jsonl")]


def test_overlap_stands_in_every_table_and_out_of_every_ranking(call: Call, files: list[str], tmp_path: Path) -> None:
    code, out, err = call("run", *QUICK, "--task", "json", *files, "--file", "validation=apart.jsonl", "--out", "out")
    assert code == 0 and "10 test questions stand in the training set word for word" in out + err
    said = "10 of 20 questions stand in the training rows"
    for form in ("markdown", "csv", "latex", "terminal"):
        code, table, _ = call("table", "--out", "out", "-f", form)
        flat = " ".join(table.split())
        assert code == 0 and ("overlap" in flat if form == "csv" else said in flat), form
    ((run,), _) = Store(Path("out")).runs()
    ((_, summary),) = run.evaluations().items()
    assert summary.overlap is not None and (summary.overlap.train_exact, summary.overlap.n) == (10, 20)
    code, board, err = call("leaderboard", "--out", "out", "-f", "markdown")
    assert said in " ".join((board + err).split()) and "| direct" not in board.split("Out of the ranking")[0]


def test_validation_that_overlaps_the_test_set_chooses_nothing(call: Call, files: list[str], tmp_path: Path) -> None:
    for rule in (("--checkpoint", "best"), ("--tune", "lr=1e-4..1e-3", "--trials", "2")):
        code, _, err = call(
            "run", *QUICK, "--task", "json", *files, "--file", "validation=validation.jsonl", *rule, "--out", "out"
        )
        assert code == 2 and f"10 of the 20 test questions stand in the validation set, by which {rule[0]}" in err
        assert not Path("out").exists() or Store(Path("out")).runs() == ([], [])


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (("run", "--task", "chain", "--file", "train=nowhere.jsonl"), "--file train=nowhere.jsonl"),
        (("run", "--task", "chain", "--data", "."), "--data"),
        (("run", "--task", "chain", "--start", "recipe", "--cot-examples", "64"), "--cot-examples"),
        (("show", "rim", "--set", "cot.x=1"), "--set cot."),
        (("cost", "--methods", "rim", "--set", "coconut.c=1"), "--set coconut."),
        (("list", "methods", "--long"), "--long"),
        (("leakage", "--task", "chain", "--tasks", "chain", "--data", "."), "--data"),
        (("floors", "chain", "--data", "."), "--data"),
    ],
)
def test_an_option_that_cannot_apply_is_refused(
    arguments: tuple[str, ...], flag: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more = [*QUICK[: len(TINY)], "--quick", "--out", "out"] if arguments[0] == "run" else []
    code, out, err = call(*arguments, *more)
    assert (code, out) == (2, "") and flag in err and err.startswith("error: ") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
