"""The leaderboard from small invented runs: who is ranked against whom, ranks as intervals, refusals, formats."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from fabricated import FIELD, coin, evaluate, study, train
from stored import evaluation_of
from typer.testing import CliRunner

from rim_bench.cli.main import application
from rim_bench.evidence.pairs import pairs
from rim_bench.evidence.ranking import RankingGroup, contests, ranking
from rim_bench.report.comparison import comparison
from rim_bench.report.leaderboard import Board, leaderboard
from rim_bench.report.plots.curves import curve_plots
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError


def first(n: int, solved: int) -> list[bool]:
    return [k < solved for k in range(n)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def made(store: Store, name: str, solved: int, *, n: int = 500, summary: Any = None, **training: Any) -> Run:
    run = train(store, name, **training)
    evaluate(run, first(n, solved), **(summary or {}))
    return run


def sections(found: list[RankingGroup]) -> list[tuple[str, str, float | None, list[str]]]:
    return [(c.division, c.kind, c.asked, [r.method for r in c.group.rows]) for c in found]


def grid(board: Board, caption: str, section: int = 0) -> list[dict[str, str]]:
    found = next(g for g in board.table.sections[section].panels if caption in g.caption and not g.short)
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


def records(board: Board, kind: str) -> list[dict[str, Any]]:
    return [r for r in board.table.records if r["record"] == kind]


# Who is ranked against whom


def test_divisions(store: Store) -> None:
    runs = [made(store, name, 200) for name in ("direct", "cot", "rim")]
    runs += [made(store, name, 200, flops=None) for name in ("direct", "rim")]
    found, left_out = contests(runs)
    assert not left_out
    assert sections(found) == [
        ("closed", "train-flops", 3.1e12, ["direct", "cot", "rim"]),
        ("open", "examples", 64_000, ["direct", "rim"]),
    ]
    assert found[0].title == "Toy sums, test, tiny: 4 layers: closed division, 3.1 T training FLOPs"
    assert found[1].title.endswith("open division, 64,000 training examples")
    assert [r.full_label for r in found[0].group.rows] == [
        f"{m} (from cot, equal FLOPs)" for m in ("direct", "cot", "rim")
    ]
    assert found[0].shared == "from cot, equal FLOPs"
    board = leaderboard(runs)
    assert any("not ranked against these" in note for note in board.table.sections[0].notes)
    assert any(
        note.startswith("Closed division: all rows share training data") for note in board.table.sections[0].notes
    )


@pytest.mark.parametrize(
    ("other", "second"),
    [
        ({"trials": None}, ("open", ["direct", "cot", "rim"])),
        ({"trials": 20}, ("open", ["direct", "cot", "rim"])),
        (
            {"spec": {"task": {"name": "toy", "version": 1, "train_sha256": "d" * 64}}},
            ("open", ["direct", "cot", "rim"]),
        ),
        ({"flops": 6.2e12}, ("closed", ["rim"])),
        ({"used": 3.1e12 + 1.1e9}, ("open", ["rim"])),  # a step is 1e9
    ],
)
def test_what_keeps_a_row_out_of_the_closed_division(
    store: Store, other: dict[str, Any], second: tuple[str, list[str]]
) -> None:
    runs = [made(store, "direct", 200), made(store, "cot", 200, used=3.1e12 - 0.9e9), made(store, "rim", 200, **other)]
    found = sections(contests(runs)[0])
    assert found[0][0] == "closed" and found[0][3] == ["direct", "cot"]
    assert (found[1][0], found[1][3]) == second and len(found) == 2


def test_other_budgets_are_never_in_one_section(store: Store) -> None:
    runs = [made(store, "direct", 200, flops=None, examples=e) for e in (1_000, 2_000)]
    runs.append(
        made(store, "rim", 200, flops=None, examples=1_000 + 25_600, inherited=0)
    )  # the same amount, none of it inherited
    found = contests(runs)[0]
    assert [(c.asked, [r.full_label for r in c.group.rows]) for c in found] == [
        (26_600, ["direct (from cot, 26,600 examples)", "rim (from cot)"]),
        (27_600, ["direct (from cot, 27,600 examples)"]),
    ]
    text = leaderboard(runs).table.to_markdown()
    assert "One row only: there is nothing to rank it against." in text
    assert (
        "Matched: training examples, 26,600 each, inherited part included; training FLOPs are the same to within 0.5 %."
        in text
    )


def test_a_missed_budget_stands_alone(store: Store) -> None:
    runs = [made(store, "direct", 200), made(store, "rim", 200, used=3.0e12)]
    found = contests(runs)[0]
    assert [len(c.group.rows) for c in found] == [1, 1]
    assert found[1].title.endswith(
        "open division, 3.1 T training FLOPs, missed by more than one step (96.77 % of 3.1 T)"
    )


def test_runs_older_than_the_flops_count(store: Store) -> None:
    runs = [made(store, "direct", 200, flops=None, older=True), made(store, "rim", 200, flops=None, older=True)]
    assert sections(contests(runs)[0]) == [("open", "examples", 64_000, ["direct", "rim"])]
    board = leaderboard(runs)
    (one, _) = grid(board, "Ranking")
    assert one["training FLOPs"] == "-" and one["budget met"] == "100.00 % of 64,000"
    assert any("training FLOPs were not counted" in note for note in board.table.sections[0].notes)
    assert any("learning-rate trials: direct undeclared" in note for note in board.table.sections[0].notes)


def test_other_backbones_are_other_sections(store: Store) -> None:
    runs = [made(store, "direct", 200), made(store, "direct", 200, spec={"backbone": {"name": "gpt2"}})]
    assert len(contests(runs)[0]) == 2


def test_other_settings_than_the_default_are_no_rows(store: Store) -> None:
    run = made(store, "rim", 200)
    evaluate(run, first(500, 300), effort=8, knob=None, key="K8", **{"settings": {}})
    (only,), left_out = contests([run])
    assert len(only.group.rows) == 1
    assert [o.text() for o in left_out] == [f"{run.id}: its evaluation 'K8' is not at the method's default setting"]


# Ranks


def test_ranks_show_ties(store: Store) -> None:
    solved = {"direct": 200, "pause": 203, "cot": 400, "rim": 100}
    runs = [made(store, name, k, seed=seed) for name, k in solved.items() for seed in range(4)]
    (contest,), _ = contests(runs)
    places = ranking(contest, contest.scopes[0], pairs(contest.group))
    assert [(p.row.method, p.text) for p in places] == [("cot", "1"), ("direct", "2-3"), ("pause", "2-3"), ("rim", "4")]
    assert [(r["method"], r["rank"]) for r in grid(leaderboard(runs), "Ranking")] == [
        ("cot", "1"), ("direct", "2-3"), ("pause", "2-3"), ("rim", "4"),
    ]  # fmt: skip


def test_overlapping_ranks_need_not_be_equal(store: Store) -> None:
    """a > c is decided, b is undecided with both: 1-2, 1-3, 2-3."""
    solved = {"direct": 513, "pause": 507, "cot": 500}
    runs = [made(store, name, k, n=1000, seed=seed) for name, k in solved.items() for seed in range(8)]
    (contest,), _ = contests(runs)
    places = ranking(contest, contest.scopes[0], pairs(contest.group))
    assert [(p.row.method, p.text) for p in places] == [("direct", "1-2"), ("pause", "1-3"), ("cot", "2-3")]


def test_seeds_must_agree_for_a_rank(store: Store) -> None:
    runs = [made(store, "direct", k, seed=s) for s, k in enumerate((100, 300, 500))] + [
        made(store, "rim", 350, seed=s) for s in range(3)
    ]
    (contest,), _ = contests(runs)
    assert {p.text for p in ranking(contest, contest.scopes[0], pairs(contest.group))} == {"1-2"}


def test_a_pair_that_is_decided_only_by_itself_ranks_nobody(store: Store) -> None:
    """Among many pairs of equally good systems some are under 5 %: direct against rim is, and 10 pairs are tested."""
    shares = {"direct": (240, 255, 270), "rim": (300, 325, 350), "pause": (300, 325, 340), "cot": (305, 330, 345)}
    shares["coconut"] = (300, 328, 342)
    runs = [made(store, name, k, seed=s) for name, three in shares.items() for s, k in enumerate(three)]
    (contest,), _ = contests(runs)
    found = pairs(contest.group)
    (pair,) = [p for p in found if {p.first.method, p.second.method} == {"direct", "rim"}]
    assert pair.higher is None and pair.verdict.undecided and (pair.p_seeds or 1) < 0.05 <= pair.holm
    assert {p.text for p in ranking(contest, contest.scopes[0], found)} == {"1-5"}
    (alone,), _ = contests([r for r in runs if r.spec.method.name in ("direct", "rim")])
    assert [p.text for p in ranking(alone, alone.scopes[0], pairs(alone.group))] == ["1", "2"]


def test_one_seed_ranks_nobody(store: Store) -> None:
    board = leaderboard([made(store, "cot", 400), made(store, "rim", 100)])
    assert {r["rank"] for r in grid(board, "Ranking")} == {"1-2"}
    assert any("One seed ranks nobody" in note for note in board.table.sections[0].notes)


def test_ood_is_ranked_by_itself(store: Store) -> None:
    runs = [train(store, name, seed=seed) for name in ("direct", "rim") for seed in range(4)]
    for run in runs:
        inside = run.spec.method.name == "direct"
        evaluate(run, [inside] * 200 + [not inside] * 200, ood=200)
    board = leaderboard(runs)
    ranks = [
        {r["method"]: r["rank"] for r in grid(board, f"Ranking at the default settings, {scope}")}
        for scope in ("in dist", "OOD")
    ]
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
    assert (
        rim["curve"] == "rim, by K" and rim["30 (direct)"].startswith("50.0 [") and rim["40 (rim)"].startswith("60.0 [")
    )
    slow, _ = grid(board, "Accuracy % at equal latency")
    assert slow["4.0 ms (rim)"] == "" and slow["5.0 ms (direct)"].startswith("30.0")
    (pair,) = grid(board, "Paired differences at equal FLOPs")
    assert (pair["FLOPs per item"], pair["first"], pair["second"]) == ("30", "direct", "rim, K=2 to default")
    assert (pair["difference"], pair["verdict"]) == ("-20.0", "one seed (these weights: rim, K=2 to default higher)")
    passes = grid(board, "Paired differences at equal sequential passes")
    assert [p["difference"] for p in passes] == ["-30.0"]  # both take 2: the default of rim stands, not its best
    assert any("No curve: direct" in note and "rim-bench sweep" in note for note in board.table.sections[0].notes)


def test_a_method_needs_the_least_over_its_curves(store: Store) -> None:
    cot = made(store, "cot", 300, summary={"flops": 100})
    evaluate(cot, first(500, 100), flops=50, knob="max_tokens", value=4)
    evaluate(cot, first(500, 400), flops=40, knob="votes", value=3)
    board = leaderboard([cot])
    (row,) = grid(board, "Least FLOPs per item")
    assert (row["25 %"], row["50 %"], row["75 %"], row["90 %"]) == ("at most 40", "at most 40", "at most 40", "")
    assert [(r["setting"], r["cost"]) for r in records(board, "needed")] == [("by votes", 40)] * 3


def test_narrow_curves_are_named(store: Store) -> None:
    runs = small(store)
    evaluate(runs[1], first(500, 150), flops=33, ms=50, knob="votes", value=3)
    notes = leaderboard(runs).table.sections[0].notes
    assert (
        "Left out of the area over FLOPs per item, largest cost under 1.25 times the smallest: direct, by votes."
        in notes
    )
    assert any(
        n.startswith("No area under the curves over FLOPs per item; sequential passes; latency: too few") for n in notes
    )


def test_temperatures_have_rows_of_their_own(store: Store) -> None:
    run = made(store, "direct", 200)
    for t in (0.7, 1.0):
        evaluate(run, first(500, 250), flops=2e6, knob="votes", value=3, key=f"v{t}", settings={"temperature": t})
    board = leaderboard([run])
    assert [r["setting"] for r in grid(board, "Every setting")] == [
        "direct", "direct, votes=3 (temperature 0.7)", "direct, votes=3 (temperature 1)",
    ]  # fmt: skip
    assert [r["setting"] for r in records(board, "point")] == [
        "default",
        "votes=3 (temperature 0.7)",
        "votes=3 (temperature 1)",
    ]
    assert not records(board, "difference")


def test_the_same_pair_has_the_same_interval_in_table_and_leaderboard(store: Store) -> None:
    runs = [
        made(store, name, 200 + 7 * s + 30 * k, seed=s) for k, name in enumerate(("direct", "rim")) for s in (0, 1, 2)
    ]
    (pair,) = next(g for g in comparison(runs).sections[0].panels if g.caption.startswith("Paired comparisons")).rows
    (difference,) = grid(leaderboard(runs), "Paired differences at equal FLOPs")
    assert difference["95 %"] == pair[7] and difference["p (questions)"] == pair[5]


def test_what_plus_minus_and_brackets_are_is_said(store: Store) -> None:
    text = " ".join(leaderboard(small(store)).table.sections[0].notes)
    for said in (
        "±: standard deviation",
        "Wilson 95 % on the questions in rankings",
        ("bootstrap 95 % over seeds and questions"),
        "the default stands for all",
        "(measured latencies: 10 %)",
        "One seed gives no verdict on a method",
    ):
        assert said in text, said


def test_questions_too_long_do_not_stop_it(store: Store, tmp_path: Path) -> None:
    runs = [made(store, name, 0, n=30, summary={"overlong": 30}) for name in ("direct", "rim")]
    evaluate(runs[1], first(30, 0), knob="K", value=2, overlong=30)
    board = leaderboard(runs)
    assert [r["FLOPs per item"] for r in grid(board, "Ranking")] == ["-", "-"]
    drawn, missing = curve_plots(board.contests, tmp_path, ("svg",))
    assert [p.name for p in drawn] == ["curves-latency.svg"] and len(missing) == 2


def test_points_needs_and_areas(store: Store) -> None:
    runs = small(store)
    evaluate(runs[1], first(500, 250), flops=90, ms=5, passes=2, knob="votes", value=3)
    board = leaderboard(runs)
    points = {r["setting"]: r for r in grid(board, "Every setting measured")}
    assert list(points) == ["direct", "direct, votes=3", "rim", "rim, K=2"]
    assert (
        points["rim"]["on the front"] == "FLOPs, passes, latency"
        and points["rim, K=2"]["on the front"] == "FLOPs, latency"
    )
    assert points["direct"]["on the front"] == "" and points["direct, votes=3"]["on the front"] == ""
    needed = {r["method"]: r for r in grid(board, "Least FLOPs per item")}
    assert needed["direct"] == {"method": "direct", "25 %": "at most 30", "50 %": "90", "75 %": "", "90 %": ""}
    assert needed["rim"]["50 %"] == "30"
    areas = grid(board, "Area under the curve")
    assert [list(a)[1:] for a in areas] == [["FLOPs per item, 30 to 40"]] * 2
    (direct, rim) = (r for r in records(board, "area"))
    assert (rim["cost"], rim["cost_high"]) == (30, 40) and rim["ci_low"] < rim["accuracy"] < rim["ci_high"]
    assert 0.5 < rim["accuracy"] < 0.6 and 0.3 < direct["accuracy"] < 0.32


def test_oracle_numbers_do_not_appear(store: Store) -> None:
    run = made(store, "rim", 200)
    items = [i.to_json() | {"blocks": [{"answer": "1", "correct": True}]} for i in run.read_items("toy-test")]
    run.write_evaluation("toy-test", items, evaluation_of(run, "toy-test"))
    board = leaderboard([run])
    text = board.table.to_markdown() + board.to_csv() + board.to_json()
    assert "40.0 [" in text and not any(word in text for word in ("oracle", "any block", "100.0 ["))


def test_runs_beside_the_curve_are_named(store: Store) -> None:
    run = made(store, "rim", 200)
    evaluate(run, first(500, 100), knob="K", value=2, evaluator_version="2")
    evaluate(run, first(20, 10), knob="K", value=1)
    other = store.open({"method": {"name": "cot"}, "task": {"name": "toy"}})
    left_out = leaderboard([run, other]).table.left_out
    assert (
        sum(run.id in line and "no point of a curve" in line for line in left_out) == 2
        and f"{other.id}: not evaluated yet" in left_out
    )


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
        UsageError, match=rf"item sets of task 'toy': 50 with ids \w+: {runs[1].id}; 500 with ids \w+: {runs[0].id}"
    ):
        leaderboard(runs)


def test_one_split_is_kept(store: Store) -> None:
    runs = [made(store, "direct", 200), made(store, "rim", 200)]
    evaluate(runs[1], first(40, 30), split="validation", key="toy-validation")
    board = leaderboard(runs)
    assert len(board.table.sections) == 1 and "; split test; n = 500" in board.table.sections[0].notes[0]
    assert (
        len(board.table.left_out) == 1 and f"{runs[1].id}: its evaluation 'toy-validation'" in board.table.left_out[0]
    )
    assert "splits validation" in board.table.left_out[0] and not leaderboard(runs, split="test").table.left_out
    evaluate(runs[0], first(40, 20), split="validation", key="toy-validation")
    assert leaderboard(runs).table.records[0]["split"] == "test"
    assert leaderboard(runs, split="validation").table.records[0]["split"] == "validation"


@pytest.mark.parametrize(
    ("other", "n", "kept"),
    [
        ({"evaluator_version": "10"}, 500, "other"),  # 10 is newer than 9
        ({"evaluator_version": "8"}, 500, "first"),
        ({"task_version": 2}, 500, "other"),
        ({"limit": 40}, 40, "first"),
        ({"data_sha256": "d" * 64}, 520, "other"),  # the larger set
    ],
)
def test_of_several_evaluations_the_one_that_all_runs_have_is_kept(
    store: Store, other: dict[str, Any], n: int, kept: str
) -> None:  # fmt: skip
    runs = [
        made(store, "direct", 200, summary={"evaluator_version": "9"}),
        made(store, "rim", 200, summary={"evaluator_version": "9"}),
    ]
    told = {"evaluator_version": "9"} | other
    evaluate(runs[0], first(n, 30), key="other", **told)
    board = leaderboard(runs)
    assert {r["accuracy"] for r in records(board, "rank")} == {0.4} and len(
        board.table.left_out
    ) == 1  # rim has the first only
    assert board.table.left_out[0].startswith(
        f"{runs[0].id}: its evaluation 'other' is beside those that all runs have ("
    )
    evaluate(runs[1], first(n, 30), key="other", **told)
    board = leaderboard(runs)
    assert {round(r["accuracy"], 3) for r in records(board, "rank")} == {0.4 if kept == "first" else round(30 / n, 3)}
    assert len(board.table.left_out) == 2 and ("'other'" in board.table.left_out[0]) == (kept == "first")


def test_no_evaluation_that_all_runs_have(store: Store) -> None:
    runs = [made(store, "direct", 200), made(store, "rim", 200, summary={"evaluator_version": "2", "task_version": 2})]
    evaluate(runs[0], first(500, 200), key="b", evaluator_version="2")
    with pytest.raises(UsageError, match=f"task versions of task 'toy': 1: {runs[0].id}; 2: {runs[1].id}"):
        leaderboard(runs)
    evaluate(runs[0], first(500, 200), key="c", task_version=2)
    with pytest.raises(UsageError, match="cannot mix evaluations of task 'toy': test 1 1 c"):
        leaderboard(runs)


def test_one_evaluation_of_a_run_is_ranked(store: Store) -> None:
    """A model is not ranked against itself; the settings are those that most runs have."""
    runs = [made(store, "direct", 200), made(store, "cot", 200), made(store, "rim", 200)]
    evaluate(runs[2], first(500, 450), settings={"max_tokens": 999}, key="a-longer")
    board = leaderboard(runs)
    assert [r["rank"] for r in grid(board, "Ranking")] == ["1-3"] * 3
    assert board.table.left_out == (
        f"{runs[2].id}: its evaluation 'a-longer' is beside 'toy-test': one evaluation of a run is ranked, with the "
        "settings that most "
        "runs have",
    )


# Latency


def test_latencies_of_different_machines_are_not_compared(store: Store, tmp_path: Path) -> None:
    runs = small(store)
    evaluate(runs[1], first(500, 250), flops=90, ms=2.5, passes=2, knob="votes", value=3)

    def captions() -> list[str]:
        return [g.caption for g in leaderboard(runs).table.sections[0].panels if "latency" in g.caption]

    assert len(captions()) == 2
    one = {"device": "cpu", "host_cpu": "A", "threads": 1, "dtype": "float32"}
    for run, told in ((runs[0], one), (runs[1], one | {"host_cpu": "B", "threads": 2})):
        for key, summary in run.evaluations().items():
            run.write_evaluation(key, run.read_items(key), summary.to_json() | {"runtime": told})
    board = leaderboard(runs)
    text = (
        "Latencies are not comparable: they were taken on different machines or settings (host CPU A, B; threads 1, 2)."
    )
    assert captions() == [] and text in board.table.sections[0].notes
    assert not [r for r in board.table.records if r.get("cost_kind") == "latency" or "latency" in str(r.get("fronts"))]
    assert {r["full_ms"] for r in records(board, "rank")} == {4, 5}  # what was measured stays
    drawn, missing = curve_plots(board.contests, tmp_path, ("svg",))
    assert [p.name for p in drawn] == ["curves-flops.svg", "curves-passes.svg"] and "host CPU A, B" in missing[0]


def test_mixed_precision_is_told(store: Store) -> None:
    runs = [
        made(store, "direct", 200),
        made(store, "rim", 200, summary={"settings": {"dtype": "bfloat16", "device": "cuda"}}),
    ]
    notes = leaderboard(runs).table.sections[0].notes
    assert (
        "Evaluated in different ways (device cpu, cuda; dtype bfloat16, float32): a difference may be due to that."
        in notes
    )
    assert any(note.startswith("Latencies are not comparable") for note in notes)


def test_latency_of_the_set_that_is_compared(store: Store) -> None:
    run = train(store, "rim")
    both = {"median": 5.0, "p95": 5.0, "mean": 5.0}
    items = [[f"toy/test/{k}", 1.0, 2.0 if k < 50 else 8.0] for k in (0, 1, 2, 97, 98, 99)]
    evaluate(
        run, first(100, 60), ood=50, latency={"batch": 1, "n": 6, "ttft_ms": both, "full_ms": both, "items": items}
    )
    board = leaderboard([run])
    assert [r["full_ms"] for r in records(board, "rank")] == [2, 8]
    (note,) = [n for n in board.table.sections[0].notes if n.startswith("Latency:")]
    assert "6 questions timed, of the set that is compared (blank under 3)" in note and "older" not in note


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
    assert {s["data_sha256"] for s in told["sections"]} == {"c" * 64} and {
        s["budget_kind"] for s in told["sections"]
    } == {"train-flops", "examples"}
    assert kinds == {"rank", "point", "matched", "difference", "needed", "area"}
    rows = list(csv.DictReader(io.StringIO(one.to_csv())))
    assert len(rows) == sum(len(s["records"]) + 1 for s in told["sections"])  # 1: what holds for the whole section
    (one_head, *_) = (r for r in rows if r["record"] == "section")
    assert (one_head["section"], one_head["data_sha256"], one_head["task_version"]) == ("1", "c" * 64, "1")
    verdicts = {r["verdict"].split(" (")[0] for r in rows if r["record"] == "difference"}
    assert verdicts <= {"first higher", "second higher", "equivalent", "undecided"}
    best = next(r for r in rows if r["record"] == "rank" and r["method"] == "cot")
    assert best["run_ids"].split() == [r.id for r in runs if r.spec.method.name == "cot"][:2]
    assert best["rank_low"] == "1"
    assert best["seeds"] == "0 1" and rows[-1]["rank_low"] == ""
    latex = one.table.to_latex()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") > 10


def test_it_stays_small(tmp_path: Path) -> None:
    """30 runs with about 6 settings each, on two sets of questions."""
    runs = study(Store(tmp_path), n=60, ood=30)
    for run in runs:
        name, more = run.spec.method.name, 6 - len(run.evaluations())
        for k in range(more):
            knob = {
                "flops": 3e7 * (1 + k),
                "ms": 14 + 3 * k,
                "passes": 4 + k,
                "knob": FIELD.get(name, "votes"),
                "value": 21 + 2 * k,
            }
            evaluate(run, coin(0.5, 90, k), ood=30, **knob)
    assert len(runs) == 30 and all(len(r.evaluations()) >= 6 for r in runs)
    board = leaderboard(runs)
    files = [*board.write(tmp_path), *curve_plots(board.contests, tmp_path)[0]]
    sizes = {p.name: p.stat().st_size for p in files}
    assert sizes["leaderboard.md"] < 150_000 and len(files) == 10
    assert sum(size for name, size in sizes.items() if name not in ("leaderboard.md", "leaderboard.tex")) < 1_200_000


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
        done = call(application(), ["leaderboard", "--out", str(tmp_path), "--format", format_], env={"COLUMNS": "120"})
        assert done.exit_code == 0 and done.stdout.startswith(start), done.output
    assert not list(tmp_path.glob("leaderboard.*"))
    done = call(application(), ["leaderboard", runs[0].id, "-o", str(tmp_path), "--write", "--plots", "-f", "json"])
    assert done.exit_code == 0 and len(json.loads(done.stdout)["sections"]) == 1
    assert {p.name for p in tmp_path.glob("*.*")} == {
        *(f"leaderboard.{s}" for s in ("md", "csv", "tex", "json")),
        *(f"curves-{k}.{s}" for k in ("flops", "passes", "latency") for s in ("svg", "png")),
    }
    for wrong, told in (
        (["--format", "html"], "unknown format"),
        (["--split", "train"], "unknown split"),
        (["nope"], "unknown run"),
    ):
        failed = call(application(), ["leaderboard", "-o", str(tmp_path), *wrong])
        assert isinstance(failed.exception, UsageError) and told in str(failed.exception)
