"""What to deploy within a budget: measured settings alone, latent beside text, and what is missing by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fabricated import coin, evaluate, train

from rim_bench.evidence.decision import AnswerBudget, BudgetDecision, decisions
from rim_bench.evidence.ranking import contests
from rim_bench.report import decision as report
from rim_bench.storage.run_folder import Store

Call = Callable[..., tuple[int, str, str]]
EMBEDDED = Path(__file__).resolve().parents[2] / "results" / "embedded"
LATENT = {"change": lambda k: {"latent_positions": 8}}


def study(root: Path, arms: dict[str, float], seeds: int = 6, n: int = 400, **costs: float) -> Store:
    """An evaluated run a method and seed; `costs` are FLOPs by method, else 1e6."""
    store = Store(root)
    for name, share in arms.items():
        for seed in range(seeds):
            more: dict[str, Any] = LATENT if name in ("rim", "coconut", "pause") else {}
            run = train(store, name, seed=seed)
            evaluate(run, coin(share, n, 10 * seed + len(name)), flops=costs.get(name, 1e6), **more)
    return store


def decided(store: Store, budget: AnswerBudget) -> BudgetDecision:
    (decision,) = decisions(contests(store.runs()[0])[0], budget)
    return decision


@pytest.mark.parametrize(
    ("arms", "answer"),
    [
        ({"rim": 0.9, "direct": 0.6, "cot": 0.5}, "yes"),
        ({"rim": 0.5, "direct": 0.8, "coconut": 0.4}, "no"),
        ({"rim": 0.6, "direct": 0.62}, "not shown"),
    ],
)
def test_latent_is_compared_with_the_best_text_arm_over_seeds(
    arms: dict[str, float], answer: str, tmp_path: Path
) -> None:
    decision = decided(study(tmp_path, arms), AnswerBudget("flops", 2e6))
    assert decision.answer == answer and f": {answer} (" in report.sentence(decision)
    best = decision.best("latent"), decision.best("text")
    assert [arm.reading.row.name for arm in best if arm] == ["rim", "direct"]


def test_one_seed_and_arms_that_are_missing_show_nothing(tmp_path: Path) -> None:
    one = decided(study(tmp_path / "one", {"rim": 0.9, "direct": 0.2}, seeds=1), AnswerBudget("flops", 2e6))
    assert one.answer == "not shown" and "one seed" in report.sentence(one)
    dear = decided(study(tmp_path / "dear", {"rim": 0.9, "direct": 0.2}, rim=5e6), AnswerBudget("flops", 2e6))
    assert dear.answer == "not shown" and "no latent arm lies there" in report.sentence(dear)
    (beyond,) = dear.beyond
    assert (beyond.family, beyond.cheapest, beyond.best) == ("latent", 5e6, None)
    weak = decided(study(tmp_path / "weak", {"rim": 0.9, "direct": 0.2}), AnswerBudget("flops", 2e6, least=0.5))
    (beyond,) = weak.beyond
    assert beyond.family == "text" and beyond.best == pytest.approx(0.2, abs=0.05) and weak.best("text") is None


def test_a_setting_counts_where_it_was_measured_and_nowhere_between(tmp_path: Path) -> None:
    """K=1 costs 1e6 and K=8 costs 9e6: at 5e6 nothing is mixed of the two, and K=1 stands."""
    store = study(tmp_path, {"rim": 0.7, "direct": 0.5}, seeds=3, rim=4e6)
    for run in store.runs()[0]:
        if run.spec.method.name == "rim":
            for blocks, share, flops in ((1, 0.3, 1e6), (8, 0.9, 9e6)):
                correct = coin(share, 400, 7 * blocks + run.spec.seed)
                evaluate(run, correct, flops=flops, knob="K", value=blocks, **LATENT)
    for amount, setting in ((1e6, "K=1"), (3.99e6, "K=1"), (4e6, "default"), (8.9e6, "default"), (9e6, "K=8")):
        arm = decided(store, AnswerBudget("flops", amount)).best("latent")
        assert arm is not None and arm.point.label == setting and arm.cost <= amount
    assert decided(store, AnswerBudget("flops", 0.9e6)).arms == ()


def test_the_arms_of_the_embedded_study_are_those_of_the_leaderboards_points(call: Call) -> None:
    """Chosen anew from the stored leaderboard's own points."""
    asked = ("direct@flops=4.7e12", "rim@flops=4.7e12")  # fewer runs, less to read
    code, out, _ = call("decide", *asked, "-o", str(EMBEDDED), "--latency-ms", "3.3", "-f", "json")
    document = json.loads(out)
    records = document["records"] if isinstance(document, dict) else document
    assert code == 0
    for section in json.loads((EMBEDDED / "leaderboard.json").read_text())["sections"][:1]:
        assert section["budget_kind"] == "train-flops"
        for scope in ("in distribution", "OOD"):
            best: dict[str, float] = {}
            for point in (r for r in section["records"] if r["record"] == "point" and r["set"] == scope):
                if point["method"] in ("direct", "rim") and point.get("full_ms", 9.9) <= 3.3:
                    best[point["method"]] = max(best.get(point["method"], 0.0), point["accuracy"])
            mine = {
                r["label"].split(" ")[0]: r["accuracy"]
                for r in records
                if r["record"] == "arm" and r["set"] == scope and r["budget_kind"] == section["budget_kind"]
            }
            assert mine.keys() == best.keys() and mine == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "no budget was given: give one of --flops, --latency-ms and --memory"),
        (("--flops", "1e6", "--memory", "5"), "an answer has one budget"),
        (("--flops", "-1"), "--flops -1 is no budget"),
        (("--latency-ms", "nan"), "--latency-ms nan is no budget"),
        (("--flops", "1e6", "--min-accuracy", "101"), "--min-accuracy 101 is no share"),
        (("--flops", "1e6", "-f", "yaml"), "unknown format 'yaml'"),
    ],
)
def test_what_is_no_budget_is_refused(call: Call, arguments: tuple[str, ...], sentence: str) -> None:
    code, out, err = call("decide", "-o", str(EMBEDDED), *arguments)
    assert (code, out) == (2, "") and sentence in err
