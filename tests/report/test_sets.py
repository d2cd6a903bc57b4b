"""Sets side by side, what was left out, and lm-eval's own tasks in the table."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fabricated import coin, evaluate, train

from rim_bench.report.comparison import comparison
from rim_bench.report.leaderboard import leaderboard
from rim_bench.storage.run_folder import NOT_EVALUATED, Run, Store, omitted_lines
from rim_bench.util.errors import UsageError
from rim_bench.util.table import Panel

METHODS = ("direct", "pause", "cot", "coconut", "rim")
SETS = tuple(f"set{k}" for k in range(6))


def ask(run: Run, name: str, p: float, n: int = 60, **told: Any) -> None:
    summary = {
        "task": name,
        "task_title": name,
        "data_sha256": f"{SETS.index(name) + 1:064x}"[::-1],
        "key": f"{name}-test",
    } | told
    evaluate(run, coin(p, n, len(run.id) + SETS.index(name)), **summary)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Five methods, trained on toy; each on it and on six other sets, but rim, which misses the last.

    No test changes them.
    """
    out = []
    store = Store(tmp_path_factory.mktemp("overview"))
    for name in METHODS:
        run = train(store, name)
        evaluate(run, coin(0.5, 80, 1))
        for one in SETS if name != "rim" else SETS[:-1]:
            ask(run, one, 0.4, n=60 + SETS.index(one))
        out.append(run)
    return out


@pytest.fixture
def few(tmp_path: Path) -> Sequence[Run]:
    """Four methods on their own task."""
    out = [train(Store(tmp_path), name) for name in METHODS[:4]]
    for run in out:
        evaluate(run, coin(0.5, 80, 1))
    return out


def cells(grid: Panel) -> list[dict[str, str]]:
    return [dict(zip(grid.columns, row, strict=True)) for row in grid.rows]


def test_rows_are_methods_and_columns_are_sets(runs: list[Run]) -> None:
    made = comparison(runs)
    first = made.sections[0]
    assert first.title.startswith("All sets side by side, tiny") and len(made.sections) == 8
    rows = cells(first.panels[0])
    assert [r["method"] for r in rows] == [f"{m} (from cot)" for m in METHODS]
    heads = list(rows[0])
    assert heads[1] == "Toy sums % (test, n=80, data cccccccc)"  # what was trained on comes first
    assert heads[2:] == [f"{s} % (test, n={60 + k}, data {k + 1}0000000)" for k, s in enumerate(SETS)]
    assert rows[4][heads[-1]] == "-" and rows[3][heads[-1]] != "-"
    for k, s in enumerate((*SETS, "Toy sums")):  # each cell is what the set's own section says
        own = next(x for x in made.sections[1:] if x.title.startswith(f"{s},"))
        column = next(h for h in heads if h.startswith(f"{s} "))
        for row in cells(own.panels[0]):
            assert next(r for r in rows if r["method"] == row["method"])[column] == row["accuracy % (all)"], k


def test_nothing_is_averaged_over_sets(runs: list[Run]) -> None:
    assert len(comparison(runs).sections[0].panels[0].columns) == 1 + 7
    assert not any("mean" in c or "average" in c for c in comparison(runs).sections[0].panels[0].columns)


@pytest.mark.parametrize("width", [100, 120])
def test_the_terminal_shows_every_set_and_leaves_the_rest_to_the_file(runs: list[Run], width: int) -> None:
    from rich.console import Console

    console = Console(width=width, record=True, file=io.StringIO())
    console.print(comparison(runs).to_rich(width))
    text = console.export_text()
    for name in (*SETS, "Toy sums"):
        assert any(line.strip("│ ").startswith(name) for line in text.splitlines())
    assert "in full in table.md:" in text and text.count("Paired with") == 1  # of the task that was trained on


def test_a_set_is_told_from_training(runs: list[Run]) -> None:
    made = comparison(runs)
    assert any(
        n.startswith("Trained on toy") and "another task's questions: set0, set1" in n for n in made.sections[0].notes
    )
    own = next(s for s in made.sections[1:] if s.title.startswith("set0,"))
    toy = next(s for s in made.sections[1:] if s.title.startswith("Toy sums,"))
    assert any(n.startswith("Trained on toy") for n in own.notes) and not any(
        n.startswith("Trained on") for n in toy.notes
    )
    assert own.brief and not toy.brief


def test_limited_and_changed_sets_and_unseen_text_are_marked(tmp_path: Path) -> None:
    run = train(Store(tmp_path), "direct")
    evaluate(run, coin(0.5, 80, 1))
    ask(run, "set0", 0.4, limit=60, data_registered=False, unseen_text={"questions": 3, "n": 60})
    ask(run, "set1", 0.4, unseen_text={"questions": None, "n": 60})
    made = comparison([run])
    heads = made.sections[0].panels[0].columns
    assert "first 60 rows, changed data" in next(h for h in heads if h.startswith("set0")) and not any(
        "changed" in h for h in heads[3:]
    )
    assert made.sections[0].panels[1].rows[1][0] == "set0, first 60 rows, changed data"
    text = made.to_markdown()
    assert (
        "3 of 60 questions hold text its tokenizer never saw" in text and "unseen text could not be looked for" in text
    )


def test_ood_questions_of_a_mixed_set_have_a_column_of_their_own(tmp_path: Path) -> None:
    run = train(Store(tmp_path), "direct")
    evaluate(run, coin(0.5, 80, 1))
    evaluate(
        run,
        [k < 30 or 40 <= k < 45 for k in range(60)],
        ood=20,
        task="set0",
        task_title="set0",
        data_sha256="d" * 64,
        key="s",
    )
    long, short = comparison([run]).sections[0].panels
    assert [h.split(" (")[0] for h in long.columns[2:]] == ["set0, in distribution %", "set0, OOD %"]
    assert "n=40" in long.columns[2] and "n=20" in long.columns[3]
    (row,) = long.rows
    assert row[2].startswith("75.0 ") and row[3].startswith("25.0 ")
    assert [(r[0], r[1], r[2]) for r in short.rows[1:]] == [
        ("set0, in distribution", "75.0", "40"),
        ("set0, OOD", "25.0", "20"),
    ]


def test_one_set_or_separate_runs_have_no_overview(tmp_path: Path) -> None:
    one, other = train(Store(tmp_path), "direct"), train(Store(tmp_path), "rim")
    evaluate(one, coin(0.5, 80, 1))
    assert len(comparison([one]).sections) == 1
    ask(other, "set0", 0.5)
    assert [s.title.split(",")[0] for s in comparison([one, other]).sections] == ["Toy sums", "set0"]
    assert not any(s.brief for s in comparison([one, other]).sections)


def test_the_leaderboard_keeps_sets_apart(runs: list[Run]) -> None:
    board = leaderboard(runs)
    assert len(board.table.sections) == 7 and {r["task"] for r in board.table.records} == {*SETS, "Toy sums"}


def test_what_was_left_out_is_named_until_it_is_evaluated(few: Sequence[Run]) -> None:
    for run in few[:2]:
        run.record_not_evaluated({"svamp": "its file is not there: looked for /a/b", "asdiv": "no hub"}, [])
    few[0].record_not_evaluated({}, ["asdiv"])
    assert {k: v.text() for k, v in few[0].not_evaluated().items()} == {
        "svamp": "its file is not there: looked for /a/b"
    }
    assert few[2].not_evaluated() == {}
    assert not (few[2].path / NOT_EVALUATED).exists()
    lines = omitted_lines(few)
    assert lines == [
        f"asdiv: asked for and not evaluated for {few[1].id}: no hub",
        "svamp: asked for and not evaluated for 2 runs: its file is not there",
    ]
    assert set(lines) <= set(comparison(few).left_out)
    (few[0].path / NOT_EVALUATED).write_text('{"sets": 3}')
    with pytest.raises(UsageError, match="is damaged"):
        few[0].not_evaluated()
    assert f"damaged,,,,,,,,,{few[0].id}," in comparison(few).to_csv()


def test_lm_evals_tasks_stand_apart(few: Sequence[Run]) -> None:
    told: dict[str, Any] = {
        "source": "lm-eval",
        "lm_eval_version": "0.4.13",
        "task": "arc",
        "task_version": "1.0",
        "num_fewshot": 5,
        "split": "test",
        "documents": 2,
        "documents_in_all": 9,
        "evaluated_sha256": "ab" * 32,
        "limit": 2,
        "effort": None,
        "metrics": {"acc,none": 0.5, "word_perplexity,none": 12.25},
        "stderr": {"acc,none": 0.25},
        "notes": ["prompt differs from training in 2 requests"],
    }
    items = [{"id": f"{k}/none"} for k in range(2)]
    before = comparison(few)
    for run, changed in zip(
        few, ({}, {"task_version": "2.0"}, {"evaluated_sha256": "cd" * 32}, {"num_fewshot": 0}), strict=False
    ):
        run.lm_eval_evaluations.write("arc-1", items, told | changed)
    made = comparison(few)
    assert [s.title for s in made.sections[:-1]] == [s.title for s in before.sections]
    ours, theirs = made.records[: len(before.records)], made.records[len(before.records) :]
    assert ours == before.records and "metric" not in before.columns and len(theirs) == 8, (
        "a line for each metric of each run"
    )
    (one,) = [r for r in theirs if r["method"] == "direct" and r["metric"] == "acc,none"]
    assert (one["task"], one["n"], one["metric_value"], one["metric_stderr"]) == ("lm-eval:arc", 2, 0.5, 0.25)
    assert "accuracy" not in one and one["evaluator_version"] == "lm-eval 0.4.13" and one["data_sha256"] == "ab" * 32
    assert "lm-eval:arc" in made.to_csv() and ",metric,metric_value,metric_stderr" in made.to_csv().splitlines()[0]
    (grid,) = made.sections[-1].panels
    assert (
        made.sections[-1].title == "lm-eval tasks" and len(grid.rows) == 4 and len(grid.columns) == 1 + 8
    )  # nothing shares a column
    head = "arc: acc (version 1.0, 5-shot, test, n=2, documents abababab, first 2 documents)"
    (row,) = [r for r in cells(grid) if r["run"].startswith("direct")]
    assert row[head] == "50.0 ± 25.0" and row[head.replace("acc", "word_perplexity")] == "12.250"
    assert sum(v == "-" for v in row.values()) == 6
    assert "neither ranked nor paired" in made.sections[-1].notes[0]
    assert any("prompt differs from training in 2 requests" in n for n in made.sections[-1].notes)
