"""`rim-bench floors`: what a task gives away, before anyone trains."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rim_bench.data.options import DataOptions
from rim_bench.data.task import load_task
from rim_bench.evidence.stats.intervals import wilson
from rim_bench.report.floors import floors_table
from rim_bench.util.errors import UsageError

Call = Callable[..., tuple[int, str, str]]


def test_sets_levels_and_the_best_of_each() -> None:
    task = load_task("permute")
    table = floors_table(task, task, DataOptions(limit=600), "test")
    floors, brief, whole = table.sections[0].panels
    sets = ["in distribution", "OOD", "T=1", "T=2", "T=3", "T=4", "T=5 (OOD)", "T=6 (OOD)"]
    assert [row[0] for row in floors.rows] == sets and set(brief.columns[1:]) == set(whole.columns[1:]) == {*sets}
    for title in sets:
        of_set = [r for r in table.records if r["set"] == title]
        best = [r for r in of_set if r["floor"]]
        assert len(best) == 1 and best[0]["accuracy"] == max(r["accuracy"] for r in of_set)
        assert (best[0]["ci_low"], best[0]["ci_high"]) == wilson(best[0]["right"], best[0]["n"])
    whole_of = {(r["set"], r["name"]): r["right"] for r in table.records}
    parts = sum(whole_of[f"T={t}", "last permutation"] for t in range(1, 5))
    assert whole_of["in distribution", "last permutation"] == parts


def test_a_control_is_solved_by_its_shortcut() -> None:
    task = load_task("permute_lookup")
    floors = floors_table(task, task, DataOptions(limit=600), "test").sections[0].panels[0]
    assert {row[2].split()[0] for row in floors.rows} == {"100.0"} and {row[3] for row in floors.rows} == {
        "the shortcut 'start'"
    }


def test_a_task_without_training_rows_names_another(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "gsmhardv2.jsonl").write_text(json.dumps({"input": "How many cats?", "target": 3, "code": ""}) + "\n")
    options = DataOptions(data=tmp_path, allow_changed_data=True)
    hard, train = load_task("gsm_hard"), load_task("gsm8k")
    with pytest.raises(UsageError, match="--trained-on gsm8k"):
        floors_table(hard, hard, options, "test")
    (floor,) = floors_table(hard, train, options, "test").sections[0].panels[0].rows
    assert floor[:2] == ("all", "1")


ROWS = [
    {"question": f"How many {word}?", "answer": f"It is {n}.\n#### {n}"} for word, n in [("cats", 3), ("dogs", 4)] * 4
]


def test_the_command_prints_every_format(call: Call) -> None:
    code, out, _ = call("floors", "vote", "--limit", "60", "-f", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and {r["set"] for r in rows} >= {"in distribution", "OOD", "m=1"} and rows[0]["task"] == "vote"
    code, out, _ = call("floors", "vote", "--limit", "60", "-f", "json")
    assert code == 0 and json.loads(out)["records"][0]["trained_on"] == "vote"
    assert call("floors", "vote", "--limit", "60", "--split", "validation")[0] == 0
    assert call("floors", "nobody")[0] == call("floors", "vote", "--split", "x")[0] == 2
