"""The leaderboard from small invented runs: who is ranked against whom, ranks as intervals, refusals, formats."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from fabricated import evaluate, study, train
from typer.testing import CliRunner

from rim_bench.cli import app
from rim_bench.contests import Contest, contests, ranking
from rim_bench.errors import UsageError
from rim_bench.leaderboard import Board, leaderboard
from rim_bench.pairing import pairs
from rim_bench.store import Run, Store


def first(n: int, solved: int) -> list[bool]:
    return [k < solved for k in range(n)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def made(store: Store, name: str, solved: int, *, n: int = 500, summary: Any = None, **training: Any) -> Run:
    run = train(store, name, **training)
    evaluate(run, first(n, solved), **(summary or {}))
    return run


def sections(found: list[Contest]) -> list[tuple[str, str, float | None, list[str]]]:
    return [(c.division, c.kind, c.asked, [r.method for r in c.group.rows]) for c in found]


def grid(board: Board, caption: str, section: int = 0) -> list[dict[str, str]]:
    found = next(g for g in board.table.sections[section].grids if caption in g.caption and not g.short)
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


def records(board: Board, kind: str) -> list[dict[str, Any]]:
    return [r for r in board.table.records if r["record"] == kind]


# Who is ranked against whom


def test_divisions(store: Store) -> None:
    runs = [made(store, name, 200) for name in ("direct", "cot", "rim")]
    runs += [made(store, name, 200, flops=None) for name in ("direct", "rim")]
    found, left_out = contests(runs)
    assert not left_out
    assert sections(found) == [("closed", "train-flops", 3.1e12, ["direct", "cot", "rim"]), ("open", "examples", 64_000, ["direct", "rim"])]
    assert found[0].title == "Toy sums, test, tiny: 4 layers: closed division, 3.1 T training FLOPs"
    assert found[1].title.endswith("open division, 64,000 training examples")
    assert [r.label for r in found[0].group.rows] == [f"{m} (from cot, equal FLOPs)" for m in ("direct", "cot", "rim")]
    assert found[0].ending == " (from cot, equal FLOPs)"
    board = leaderboard(runs)
    assert any("not ranked against these" in note for note in board.table.sections[0].notes)
    assert any(note.startswith("Closed division: all rows share training data") for note in board.table.sections[0].notes)


@pytest.mark.parametrize(
    ("other", "second"),
    [
        ({"trials": None}, ("open", ["direct", "cot", "rim"])),
        ({"trials": 20}, ("open", ["direct", "cot", "rim"])),
        ({"spec": {"task": {"name": "toy", "version": 1, "train_sha256": "d" * 64}}}, ("open", ["direct", "cot", "rim"])),
        ({"flops": 6.2e12}, ("closed", ["rim"])),
        ({"used": 3.1e12 + 1.1e9}, ("open", ["rim"])),  # a step is 1e9
    ],
)  # fmt: skip
def test_what_keeps_a_row_out_of_the_closed_division(store: Store, other: dict[str, Any], second: tuple[str, list[str]]) -> None:
    runs = [made(store, "direct", 200), made(store, "cot", 200, used=3.1e12 - 0.9e9), made(store, "rim", 200, **other)]
    found = sections(contests(runs)[0])
    assert found[0][0] == "closed" and found[0][3] == ["direct", "cot"]
    assert (found[1][0], found[1][3]) == second and len(found) == 2


def test_other_budgets_are_never_in_one_section(store: Store) -> None:
    runs = [made(store, "direct", 200, flops=None, examples=e) for e in (1_000, 2_000)]
    runs.append(made(store, "rim", 200, flops=None, examples=1_000 + 25_600, inherited=0))  # the same amount, none of it inherited
    found = contests(runs)[0]
    assert [(c.asked, [r.label for r in c.group.rows]) for c in found] == [
        (26_600, ["direct (from cot, 26,600 examples)", "rim (from cot)"]),
        (27_600, ["direct (from cot, 27,600 examples)"]),
    ]
    text = leaderboard(runs).table.to_markdown()
    assert "One row only: there is nothing to rank it against." in text
    assert "Matched: training examples, 26,600 each, inherited part included; training FLOPs are the same to within 0.5 %." in text


def test_a_missed_budget_stands_alone(store: Store) -> None:
    runs = [made(store, "direct", 200), made(store, "rim", 200, used=3.0e12)]
    found = contests(runs)[0]
    assert [len(c.group.rows) for c in found] == [1, 1]
    assert found[1].title.endswith("open division, 3.1 T training FLOPs, missed by more than one step (96.77 % of 3.1 T)")


def test_runs_older_than_the_flops_count(store: Store) -> None:
    runs = [made(store, "direct", 200, flops=None, older=True), made(store, "rim", 200, flops=None, older=True)]
    assert sections(contests(runs)[0]) == [("open", "examples", 64_000, ["direct", "rim"])]
    board = leaderboard(runs)
    (one, _) = grid(board, "Ranking")
    assert one["training FLOPs"] == "-" and one["budget met"] == "100.00 % of 64,000"
    assert any("training FLOPs were not counted" in note for note in board.table.sections[0].notes)
    assert any("learning-rate trials: direct (from cot) undeclared" in note for note in board.table.sections[0].notes)


def test_other_backbones_are_other_sections(store: Store) -> None:
    runs = [made(store, "direct", 200), made(store, "direct", 200, spec={"backbone": {"name": "gpt2"}})]
    assert len(contests(runs)[0]) == 2


def test_other_settings_than_the_default_are_no_rows(store: Store) -> None:
    run = made(store, "rim", 200)
    evaluate(run, first(500, 300), effort=8, knob=None, key="K8", **{"settings": {}})
    (only,), left_out = contests([run])
    assert len(only.group.rows) == 1 and left_out == [f"{run.id}: its evaluation 'K8' is not at the method's default setting"]


# Ranks


def test_ranks_show_ties(store: Store) -> None:
    solved = {"direct": 200, "pause": 203, "cot": 400, "rim": 100}
    runs = [made(store, name, k) for name, k in solved.items()]
    (contest,), _ = contests(runs)
    places = ranking(contest, contest.scopes[0], pairs(contest.group))
    assert [(p.row.method, p.text) for p in places] == [("cot", "1"), ("direct", "2-3"), ("pause", "2-3"), ("rim", "4")]
    assert [(r["method"], r["rank"]) for r in grid(leaderboard(runs), "Ranking")] == [
        ("cot", "1"), ("direct", "2-3"), ("pause", "2-3"), ("rim", "4"),
    ]  # fmt: skip


def test_overlapping_ranks_need_not_be_equal(store: Store) -> None:
    """a > c is clear, b is tied with both: 1-2, 1-3, 2-3."""
    runs = [made(store, name, k, n=1000) for name, k in (("direct", 513), ("pause", 507), ("cot", 500))]
    (contest,), _ = contests(runs)
    places = ranking(contest, contest.scopes[0], pairs(contest.group))
    assert [(p.row.method, p.text) for p in places] == [("direct", "1-2"), ("pause", "1-3"), ("cot", "2-3")]


def test_seeds_must_agree_for_a_rank(store: Store) -> None:
    runs = [made(store, "direct", k, seed=s) for s, k in enumerate((100, 300, 500))] + [made(store, "rim", 350, seed=s) for s in range(3)]
    (contest,), _ = contests(runs)
    assert {p.text for p in ranking(contest, contest.scopes[0], pairs(contest.group))} == {"1-2"}


def test_ood_is_ranked_by_itself(store: Store) -> None:
    runs = [train(store, name) for name in ("direct", "rim")]
    evaluate(runs[0], [True] * 200 + [False] * 200, ood=200)
    evaluate(runs[1], [False] * 200 + [True] * 200, ood=200)
    board = leaderboard(runs)
    ranks = [{r["method"]: r["rank"] for r in grid(board, f"Ranking at the default settings, {scope}")} for scope in ("in dist", "OOD")]
    assert ranks == [{"direct": "1", "rim": "2"}, {"direct": "2", "rim": "1"}]


# Equal inference cost


def small(store: Store) -> list[Run]:
    rim, direct = train(store, "rim"), train(store, "direct")
    evaluate(rim, first(500, 300), flops=40, ms=4)
    evaluate(rim, first(500, 200), flops=20, ms=2, knob="K", value=2)
    evaluate(direct, first(500, 150), flops=30, ms=5)
    return [rim, direct]


def test_equal_cost_grid(store: Store) -> None:
    board = leaderboard(small(store))
    direct, rim = grid(board, "Accuracy % at equal FLOPs per item")
    assert list(direct) == ["curve", "30 (direct)", "40 (rim)"]
    assert direct["30 (direct)"].startswith("30.0 [") and direct["40 (rim)"] == ""
    assert rim["curve"] == "rim, by K" and rim["30 (direct)"].startswith("50.0 [") and rim["40 (rim)"].startswith("60.0 [")
    slow, _ = grid(board, "Accuracy % at equal latency")
    assert slow["4.0 ms (rim)"] == "" and slow["5.0 ms (direct)"].startswith("30.0")
    (pair,) = grid(board, "Paired differences at equal FLOPs")
    assert (pair["FLOPs per item"], pair["first"], pair["second"]) == ("30", "direct", "rim, K=2 to default")
    assert (pair["difference"], pair["verdict"]) == ("-20.0", "rim, K=2 to default higher")
    passes = grid(board, "Paired differences at equal sequential passes")
    assert [p["difference"] for p in passes] == ["-30.0"]  # both take 2: the default of rim stands, not its best
    assert any("No curve: direct" in note and "rim-bench sweep" in note for note in board.table.sections[0].notes)


def test_points_needs_and_areas(store: Store) -> None:
    runs = small(store)
    evaluate(runs[1], first(500, 250), flops=90, ms=5, passes=2, knob="votes", value=3)
    board = leaderboard(runs)
    points = {r["setting"]: r for r in grid(board, "Every setting measured")}
    assert list(points) == ["direct", "direct, votes=3", "rim", "rim, K=2"]
    assert points["rim"]["on the front"] == "FLOPs, passes, latency" and points["rim, K=2"]["on the front"] == "FLOPs, latency"
    assert points["direct"]["on the front"] == "" and points["direct, votes=3"]["on the front"] == ""
    needed = {r["curve"]: r for r in grid(board, "FLOPs per item needed")}
    assert needed["direct, by votes"] == {"curve": "direct, by votes", "25 %": "at most 30", "50 %": "90", "75 %": "", "90 %": ""}
    assert needed["rim, by K"]["50 %"] == "30"
    areas = grid(board, "Area under the curve")
    assert [list(a)[1:] for a in areas] == [["FLOPs per item, 30 to 40"]] * 2
    (direct, rim) = (r for r in records(board, "area"))
    assert (rim["cost"], rim["cost_high"]) == (30, 40) and rim["ci_low"] < rim["accuracy"] < rim["ci_high"]
    assert 0.5 < rim["accuracy"] < 0.6 and 0.3 < direct["accuracy"] < 0.32


def test_oracle_numbers_do_not_appear(store: Store) -> None:
    run = made(store, "rim", 200)
    items = [i | {"blocks": [{"answer": "1", "correct": True}]} for i in run.read_items("toy-test")]
    run.write_evaluation("toy-test", items, run.evaluation("toy-test") or {})
    board = leaderboard([run])
    text = board.table.to_markdown() + board.to_csv() + board.to_json()
    assert "40.0 [" in text and not any(word in text for word in ("oracle", "any block", "100.0 ["))


def test_runs_beside_the_curve_are_named(store: Store) -> None:
    run = made(store, "rim", 200)
    evaluate(run, first(500, 100), knob="K", value=2, evaluator_version="2")
    evaluate(run, first(20, 10), knob="K", value=1)
    other = store.open({"method": {"name": "cot"}, "task": {"name": "toy"}})
    left_out = leaderboard([run, other]).table.left_out
    assert sum(run.id in line and "no point of a curve" in line for line in left_out) == 2 and f"{other.id}: not evaluated yet" in left_out


# Refusals


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"evaluator_version": "2"}, "evaluator versions of task 'toy': 1: {0}; 2: {1}"),
        ({"task_version": 2}, "task versions of task 'toy': 1: {0}; 2: {1}"),
        ({"split": "validation"}, r"splits of task 'toy' \(--split keeps one\): test: {0}; validation: {1}"),
        ({"data_sha256": "d" * 64}, "data sets of task 'toy': cccccccccccc: {0}; dddddddddddd: {1}"),
    ],
)
def test_mixed_runs_are_refused_by_name(store: Store, other: dict[str, Any], what: str) -> None:
    runs = [made(store, "direct", 200), made(store, "rim", 200, summary=other)]
    with pytest.raises(UsageError, match="one leaderboard cannot mix " + what.format(runs[0].id, runs[1].id)):
        leaderboard(runs)


def test_mixed_item_sets_are_refused(store: Store) -> None:
    runs = [made(store, "direct", 20), made(store, "rim", 20, n=50)]
    with pytest.raises(
        UsageError, match=rf"item sets of task 'toy': 50 items with ids \w+: {runs[1].id}; 500 items with ids \w+: {runs[0].id}"
    ):
        leaderboard(runs)


def test_one_split_can_be_kept(store: Store) -> None:
    runs = [made(store, "direct", 200), made(store, "rim", 200)]
    evaluate(runs[1], first(40, 30), split="validation", key="toy-validation")
    with pytest.raises(UsageError, match="splits"):
        leaderboard(runs)
    assert len(leaderboard(runs, split="test").table.sections) == 1


def test_other_tasks_may_differ(store: Store) -> None:
    runs = [
        made(store, "direct", 200),
        made(store, "direct", 20, n=50, seed=1, summary={"task": "tea", "task_title": "Tea", "evaluator_version": "2"}),
    ]
    assert len(leaderboard(runs).table.sections) == 2


def test_nothing_to_rank(store: Store) -> None:
    with pytest.raises(UsageError, match="nothing to rank"):
        leaderboard([])
    with pytest.raises(UsageError, match="no run is evaluated on validation"):
        leaderboard([made(store, "direct", 20)], split="validation")


@pytest.mark.parametrize("where", [{"spec": {"quick": True}}, {"summary": {"quick": True}}])
def test_quick_is_stamped(store: Store, where: dict[str, Any]) -> None:
    board = leaderboard([made(store, "direct", 20, **where)])
    text = board.table.to_markdown()
    assert text.startswith("# Leaderboard at equal compute (quick: not a result)\n\n> quick: not a result\n")
    assert json.loads(board.to_json())["sections"][0]["stamp"] == "quick: not a result"
    assert {r["stamp"] for r in csv.DictReader(io.StringIO(board.to_csv()))} == {"quick: not a result"}


# Formats


def test_same_runs_same_bytes_in_every_format(tmp_path: Path) -> None:
    runs = study(Store(tmp_path / "a"), seeds=(0, 1), n=60, ood=20)
    one, two = leaderboard(runs), leaderboard([Run(r.path) for r in reversed(runs)])
    one.write(tmp_path / "one")
    two.write(tmp_path / "two")
    names = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert names == ["leaderboard.csv", "leaderboard.json", "leaderboard.md", "leaderboard.tex"]
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in names)
    told = json.loads(one.to_json())
    assert [s["division"] for s in told["sections"]] == ["closed", "open"] and not told["left_out"]
    kinds = {r["record"] for s in told["sections"] for r in s["records"]}
    assert kinds == {"rank", "point", "matched", "difference", "needed", "area"}
    rows = list(csv.DictReader(io.StringIO(one.to_csv())))
    assert len(rows) == sum(len(s["records"]) for s in told["sections"])
    best = next(r for r in rows if r["record"] == "rank" and r["method"] == "cot")
    assert best["run_ids"].split() == [r.id for r in runs if r.spec["method"]["name"] == "cot"][:2] and best["rank_low"] == "1.0"
    latex = one.table.to_latex()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") > 10


def test_the_command(tmp_path: Path) -> None:
    runs = small(Store(tmp_path))
    call = CliRunner().invoke
    for format_, start in {
        "terminal": "Leaderboard",
        "markdown": "# Leaderboard",
        "csv": "section,stamp",
        "latex": "% Lead",
        "json": "{",
    }.items():
        done = call(app, ["leaderboard", "--out", str(tmp_path), "--format", format_], env={"COLUMNS": "120"})
        assert done.exit_code == 0 and done.stdout.startswith(start), done.output
    assert not list(tmp_path.glob("leaderboard.*"))
    done = call(app, ["leaderboard", runs[0].id, "-o", str(tmp_path), "--write", "--plots", "-f", "json"])
    assert done.exit_code == 0 and len(json.loads(done.stdout)["sections"]) == 1
    assert {p.name for p in tmp_path.glob("*.*")} == {
        *(f"leaderboard.{s}" for s in ("md", "csv", "tex", "json")),
        *(f"curves-{k}.{s}" for k in ("flops", "passes", "latency") for s in ("svg", "png")),
    }
    for wrong, told in ((["--format", "html"], "unknown format"), (["--split", "train"], "unknown split"), (["nope"], "unknown run")):
        failed = call(app, ["leaderboard", "-o", str(tmp_path), *wrong])
        assert isinstance(failed.exception, UsageError) and told in str(failed.exception)
