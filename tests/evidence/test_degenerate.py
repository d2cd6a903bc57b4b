"""Flags of degenerate outputs and of a cot that was fed the wrong format."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from fabricated import evaluate, train

from rim_bench.evidence import degenerate
from rim_bench.evidence.pairs import pairs
from rim_bench.evidence.rows import collect
from rim_bench.report import comparison
from rim_bench.storage.run_folder import Run, Store

N = 400
Change = Callable[[int], Mapping[str, Any]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def arm(store: Store, name: str, share: float, change: Change | None = None, *, seed: int = 0, **summary: Any) -> Run:
    run = train(store, name, seed=seed)
    evaluate(run, [k < share * N for k in range(N)], change=change, **summary)
    return run


def told(*runs: Run) -> list[tuple[str, str, str]]:
    (group,) = collect(runs)[0]
    return [(f.row.method, f.scope.name, f.text) for f in degenerate.flags(group, pairs(group))]


def of_last(kind: str, count: int) -> Change:
    return lambda k: {kind: True} if k >= N - count else {}


def test_good_outputs_have_no_flag(store: Store) -> None:
    runs = [arm(store, name, 0.6) for name in ("direct", "cot", "rim")]
    assert told(*runs) == []
    table = comparison.comparison(runs)
    assert not any(g.caption.startswith("Flags") for g in table.sections[0].panels)
    assert {r["flags"] for r in csv.DictReader(io.StringIO(table.to_csv()))} == {""}


@pytest.mark.parametrize("kind", degenerate.KINDS)
def test_rates_above_the_threshold(store: Store, kind: str) -> None:
    allowed = int(degenerate.FAILING * N)
    assert told(arm(store, "rim", 0.5, of_last(kind, allowed))) == []
    run = arm(store, "rim", 0.5, of_last(kind, allowed + 1), seed=1)
    assert told(run) == [("rim", "all", f"{100 * (allowed + 1) / N:.1f} % {kind} outputs (above 2 %)")]
    table = comparison.comparison([run])
    (grid,) = [g for g in table.sections[0].panels if g.caption.startswith("Flags") and not g.short]
    assert grid.rows == (("rim (from cot)", f"{100 * (allowed + 1) / N:.1f} % {kind} outputs (above 2 %)", "all"),)
    assert next(csv.DictReader(io.StringIO(table.to_csv())))["flags"].startswith("2.2 %")


def test_one_collapsed_seed_is_not_hidden_by_the_others(store: Store) -> None:
    runs = [arm(store, "rim", 0.5, seed=s) for s in range(20)] + [
        arm(store, "rim", 0.5, of_last("capped", 100), seed=20)
    ]
    ((_, _, text),) = told(*runs)  # 1.2 % over all seeds
    assert text == "25.0 % capped outputs, in 1 of 21 seeds (above 2 %)"


def test_too_long_questions_do_not_count(store: Store) -> None:
    run = arm(store, "rim", 0.9, lambda k: {"empty": True, "unparseable": True} if k < 100 else {}, overlong=100)
    assert told(run) == []


def test_one_answer_to_nearly_all(store: Store) -> None:
    def answers(share: float) -> Change:
        return lambda k: {"answer": "7" if k < share * N else str(k % 10)}

    assert told(arm(store, "rim", 0.1, answers(0.75))) == []  # and 2.5 % more by chance
    ((_, _, text),) = told(arm(store, "rim", 0.1, answers(0.8), seed=1))
    assert text == "one answer, '7', to 82.0 % of the questions (at or above 80.0 %)"
    always = lambda k: {"answer": "", "empty": True}  # noqa: E731
    assert not any(
        "one answer" in text for _, _, text in told(arm(store, "rim", 0.0, always, seed=2))
    )  # no answer is another flag


def test_one_answer_is_measured_against_the_references(store: Store) -> None:
    """Nine of ten references are '3': a model that gives it to 92 % is no finding, one that gives nothing else is."""

    def skewed(given: float) -> Change:
        return lambda k: {"reference": "3" if k % 10 else "5", "answer": "3" if k < given * N else "5"}

    floor = {"answer": "3", "accuracy": 0.9}
    assert told(arm(store, "rim", 0.9, skewed(0.92), floor=floor)) == []
    assert "one answer, '3', to 100.0 %" in told(arm(store, "rim", 0.9, skewed(1.0), seed=1, floor=floor))[0][2]
    same = lambda k: {"reference": "3", "answer": "3"}  # noqa: E731
    assert told(arm(store, "rim", 1.0, same, seed=2, floor={"answer": "3", "accuracy": 1.0})) == []


def test_the_collapse_of_a_cot(store: Store) -> None:
    """8 % where direct has 16 %: what public code gives on the wrong step format."""
    direct = arm(store, "direct", 0.4)
    ((method, where, text),) = told(direct, arm(store, "cot", 0.3))
    assert (
        (method, where) == ("cot", "all")
        and "data-format fault" in text
        and "10.0 points under direct (from cot)" in text
    )
    assert told(direct, arm(store, "cot", 0.4 - degenerate.COT_GAP + 0.01, seed=1)) == []  # under the gap
    assert told(direct, arm(store, "rim", 0.1, seed=1)) == []  # only a cot shows the chain to its answer
    assert (
        told(arm(store, "direct", 0.12, seed=2), arm(store, "cot", 0.02, seed=2)) == []
    )  # a direct at the floor says nothing


def test_a_gap_that_so_few_questions_do_not_show_is_no_collapse(store: Store) -> None:
    runs = []
    for name, count in (("direct", 14), ("cot", 10)):
        run = train(store, name)
        evaluate(run, [k < count for k in range(40)])
        runs.append(run)
    assert told(*runs) == []  # 10 points, 4 against 0 questions


def test_chains_that_never_end(store: Store) -> None:
    direct = arm(store, "direct", 0.4)
    cot = arm(store, "cot", 0.6, of_last("capped", int(degenerate.COT_FAILING * N)))
    texts = [text for method, _, text in told(direct, cot) if method == "cot"]
    assert (
        len(texts) == 2
        and "data-format fault" in texts[1]
        and "25.0 % capped chains, while direct (from cot) is above" in texts[1]
    )
    few = arm(store, "cot", 0.6, of_last("capped", int(degenerate.COT_FAILING * N) - 1), seed=1)
    assert not any("fault" in text for _, _, text in told(direct, few))


def test_out_of_distribution_a_cot_may_fail(store: Store) -> None:
    """Chains longer than those trained do fail: flagged as outputs, not as a fault of the data."""
    runs = []
    for name, inside in (("direct", 0.5), ("cot", 0.9)):
        run = train(store, name)
        good = [k < inside * 300 for k in range(300)] + [name == "direct" and k < 60 for k in range(100)]
        capped = lambda k, name=name: {"capped": True} if name == "cot" and k >= 300 else {}  # noqa: E731
        evaluate(run, good, ood=100, change=capped)
        runs.append(run)
    assert told(*runs) == [("cot", "OOD", "100.0 % capped outputs (above 2 %)")]
