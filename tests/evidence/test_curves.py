"""Inference curves from invented stored runs: what they take in, and the arithmetic on them, checked by hand."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
from fabricated import evaluate, train

from rim_bench.evidence.curves import (
    CostCurve,
    InferenceCurve,
    cheapest,
    curves_of,
    front,
    joined,
    same,
    shared_span,
    tracks,
)
from rim_bench.evidence.equal_cost import Field, default_costs, differences
from rim_bench.evidence.pairs import pairs
from rim_bench.evidence.rows import collect, read
from rim_bench.evidence.stats import tests
from rim_bench.storage.run_folder import Run, Store


def first(n: int, solved: int) -> list[bool]:
    return [k < solved for k in range(n)]


def curves(*runs: Run) -> tuple[list[InferenceCurve], list[str]]:
    groups, _ = collect(runs)
    found, _ = read(runs, curve=True)
    return curves_of(groups[0], found)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def rim(store: Store) -> Run:
    """K = 1, 2, 8 beside the default 4: 20, 40, 70, 60 of 100 right at 10, 20, 60, 40 FLOPs, 1, 2, 6 and 4 ms, all in 2
    passes.
    """
    run = train(store, "rim")
    evaluate(run, first(100, 60), flops=40, ms=4)
    for k, flops, solved in ((8, 60, 70), (1, 10, 20), (2, 20, 40)):
        evaluate(run, first(100, solved), flops=flops, ms=flops / 10, knob="K", value=k)
    return run


def track(run: Run, kind: str = "flops") -> CostCurve:
    (curve,) = curves(run)[0]
    made = CostCurve.of(curve, kind, list(curve.row.first.items))
    assert made is not None
    return made


def test_points_are_no_rows_of_the_comparison(rim: Run) -> None:
    (group,), _ = collect([rim])
    assert len(group.rows) == 1 and group.rows[0].accuracy(group.scopes[0].ids).value == 0.6
    found, _ = read([rim], curve=True)
    assert {e.summary.knob.value for e in found} == {1, 2, 8}
    stored = {k for k, v in found[0].items["toy/test/0"].to_json().items() if v not in (None, "", False)}
    assert {"passes", "flops_prefill", "flops_decode"} <= stored
    assert stored <= {"id", "correct", "overlong", "passes", "flops_prefill", "flops_decode"}


def test_a_curve_is_sorted_by_cost_with_the_default_in_it(rim: Run) -> None:
    t = track(rim)
    assert [p.label for p in t.points] == ["K=1", "K=2", "default", "K=8"]
    assert t.costs == (10, 20, 40, 60) and t.default == 40 and t.curve.label == "rim (from cot), by K"
    assert [v.mean() for v in t.solved] == [0.2, 0.4, 0.6, 0.7]
    assert t.points[0].milliseconds("full_ms", t.ids) == 1 and t.points[0].milliseconds("ttft_ms", t.ids) == 0.5


def test_interpolation(rim: Run) -> None:
    t = track(rim)
    reading = t.at(25)  # a quarter of the way from K=2 to the default
    assert reading is not None and reading.label == "rim (from cot), K=2 to default" and not reading.measured
    assert reading.value == pytest.approx(0.75 * 0.4 + 0.25 * 0.6)
    assert reading.solved[0, 50] == pytest.approx(0.25) and reading.solved[0, 30] == 1 and reading.solved[0, 80] == 0
    at = t.at(40.3)  # within 1 % of the default: the default itself
    assert at is not None and at.measured and at.value == 0.6 and at.cost == 40 and at.label == "rim (from cot)"
    milliseconds = track(rim, "latency").at(3)
    assert milliseconds is not None and milliseconds.value == pytest.approx(0.5)


@pytest.mark.parametrize("cost", [9.8, 60.7, 0.1, 1e9])
def test_nothing_is_extrapolated(rim: Run, cost: float) -> None:
    assert track(rim).at(cost) is None


def test_of_equal_costs_the_default_stands(rim: Run) -> None:
    t = track(rim, "passes")  # the knob costs no passes
    assert t.costs == (2,) and t.span is None
    reading = t.at(2)
    assert reading is not None and reading.value == 0.6  # not 0.7, the best


def test_what_an_accuracy_needs(rim: Run) -> None:
    t = track(rim)
    assert t.needed(0.5) == (pytest.approx(30), False)
    assert t.needed(0.65) == (pytest.approx(50), False)
    assert t.needed(0.1) == (10, True) and t.needed(0.71) is None


def test_area_over_log_cost(rim: Run) -> None:
    t = track(rim)

    def y(c: float) -> float:
        return float(np.interp(c, [10, 20, 40, 60], [0.2, 0.4, 0.6, 0.7]))

    for low, high in ((10, 60), (12, 50), (25, 35)):
        logs = np.linspace(math.log(low), math.log(high), 20_001)
        values = [y(math.exp(v)) for v in logs]
        numeric = np.trapezoid(values, logs) / (logs[-1] - logs[0])
        assert t.area(low, high).mean() == pytest.approx(numeric, abs=1e-6)
    assert t.area(10, 20).mean() == pytest.approx(0.02 * 10 / math.log(2))  # ∫ 0.02 c dc/c / log 2


def test_noise_of_a_latency_makes_no_points(store: Store) -> None:
    """Votes run side by side: what they take is the default's time and the noise of measuring it."""
    run = train(store, "cot")
    evaluate(run, first(100, 60), ms=10)
    for k, ms, solved in ((3, 9.4, 70), (5, 10.9, 80), (9, 14.0, 90), (11, 15.0, 95)):
        evaluate(run, first(100, solved), ms=ms, knob="votes", value=k)
    t = track(run, "latency")
    assert [p.label for p in t.points] == ["default", "votes=11"] and t.costs == (
        10,
        15,
    )  # 14 and 15 count as equal: the larger value
    reading = t.at(9.5)
    assert reading is not None and reading.measured and reading.value == 0.6
    assert len(track(run).costs) == 1  # FLOPs: all the same here


def test_noise_keeps_curves_joined(store: Store) -> None:
    run = train(store, "cot")
    evaluate(run, first(100, 60), ms=10)
    evaluate(run, first(100, 20), ms=5, knob="max_tokens", value=4)
    evaluate(run, first(100, 59), ms=10.6, knob="max_tokens", value=20)  # nothing was cut
    evaluate(run, first(100, 61), ms=9.7, knob="votes", value=3)
    evaluate(run, first(100, 70), ms=20, knob="votes", value=9)
    found, _ = curves(run)
    (one,) = joined(tracks(found, "latency", list(found[0].row.first.items)))
    assert one.costs == (5, 10, 20) and one.span == (5, 20)


def test_costs_count_as_equal_by_kind() -> None:
    assert same("flops", 100, 101) and not same("flops", 100, 102) and not same("passes", 5, 5.1)
    assert same("latency", 10, 11) and same("latency", 11, 10) and not same("latency", 10, 11.2)
    assert same("flops", 0, 0)


def test_narrow_curves_have_no_area(store: Store) -> None:
    runs = [train(store, name) for name in ("direct", "pause", "rim")]
    for run, high in zip(runs, (400.0, 300.0, 120.0), strict=True):
        evaluate(run, first(100, 50), flops=100)
        evaluate(run, first(100, 60), flops=high, knob="votes", value=3)
    found, _ = curves(*runs)
    every = tracks(found, "flops", list(found[0].row.first.items))
    assert [t.span for t in every] == [(100, 400), (100, 300), None]  # 120 is not 1.25 times 100
    assert shared_span(every) == (100, 300) and shared_span(every[1:]) is None


def test_latency_is_that_of_the_questions_compared(store: Store) -> None:
    run = train(store, "direct")
    pooled = {"median": 1.0, "p95": 1.0, "mean": 99.0}
    items = [[f"toy/test/{k}", 10.0 + k, 20.0 + k] for k in (0, 1, 2, 8, 9)]
    evaluate(
        run, first(10, 5), ood=4, latency={"batch": 1, "n": 5, "ttft_ms": pooled, "full_ms": pooled, "items": items}
    )
    (curve,), _ = curves(run)
    (point,) = curve.points
    inside, outside = [f"toy/test/{k}" for k in range(6)], [f"toy/test/{k}" for k in range(6, 10)]
    assert point.cost("latency", inside) == 21 and point.milliseconds("ttft_ms", inside) == 11 and not point.pooled
    assert (
        point.cost("latency", outside) is None and CostCurve.of(curve, "latency", outside) is None
    )  # two questions are too few
    evaluate(run, first(10, 5), ood=4, latency={"batch": 1, "n": 5, "ttft_ms": pooled, "full_ms": pooled})
    (older,) = curves(Run(run.path))[0][0].points
    assert older.cost("latency", inside) == older.cost("latency", outside) == 99 and older.pooled


def test_what_costs_nothing_is_no_point(store: Store) -> None:
    run = train(store, "rim")
    evaluate(run, first(10, 0), overlong=10)
    evaluate(run, first(10, 5), flops=10, knob="K", value=2)
    evaluate(run, first(10, 5), flops=0, knob="K", value=1)
    assert track(run).costs == (10,)
    ids = list(curves(run)[0][0].row.first.items)
    (curve,) = curves(run)[0]
    assert [p.cost("flops", ids) for p in curve.points if p.default] == [None]
    field_ = field(run)
    assert default_costs(field_.tracks) == [] and differences([field_]) == []


def test_shared_range_and_joined_curves(store: Store) -> None:
    cot, direct = train(store, "cot"), train(store, "direct")
    evaluate(cot, first(100, 90), flops=40)
    evaluate(cot, first(100, 30), flops=10, knob="max_tokens", value=3)
    evaluate(cot, first(100, 95), flops=100, knob="votes", value=3)
    evaluate(direct, first(100, 50), flops=20)
    evaluate(direct, first(100, 52), flops=60, knob="votes", value=3)
    found, left_out = curves(cot, direct)
    assert not left_out and [c.label for c in found] == [
        "direct (from cot), by votes", "cot (from cot), by max_tokens", "cot (from cot), by votes"
    ]  # fmt: skip
    ids = list(found[0].row.first.items)
    every = tracks(found, "flops", ids)
    assert shared_span(every) is None  # 20 to 60, 10 to 40, 40 to 100
    one = joined(every)
    assert [t.costs for t in one] == [(20, 60), (10, 40, 100)] and one[1].curve.label.endswith(
        "by max_tokens, then votes"
    )
    assert shared_span(one) == (20, 60)
    assert shared_span(one[:1]) is None
    assert cheapest(every[1:], 0.5) == (every[1], (20, False)) and cheapest(every, 0.99) is None
    assert cheapest(every[1:], 0.92) == (every[2], (pytest.approx(64), False))  # 40 to 100: 90 to 95


def test_a_point_needs_every_seed(store: Store) -> None:
    runs = [train(store, "rim", seed=s) for s in (0, 1)]
    for s, run in enumerate(runs):
        evaluate(run, first(100, 40 + 20 * s), flops=40)
        evaluate(run, first(100, 30 + 20 * s), flops=20 + 2 * s, knob="K", value=2)
    evaluate(runs[0], first(100, 20), flops=10, knob="K", value=1)
    (curve,), left_out = curves(*runs)
    assert [p.label for p in curve.points] == ["K=2", "default"]
    assert [o.text() for o in left_out] == ["rim (from cot): K=1 is no point of its curve: not evaluated for seed 1"]
    t = tracks([curve], "flops", list(curve.row.first.items))[0]
    assert t.costs == (21, 40) and t.solved[0].shape == (2, 100) and t.solved[0].mean(1).tolist() == [0.3, 0.5]


def test_points_on_other_questions_or_settings_are_named(rim: Run) -> None:
    evaluate(rim, first(50, 30), flops=80, knob="K", value=16)
    evaluate(rim, first(100, 30), flops=80, knob="K", value=12, settings={"dtype": "bfloat16"})
    evaluate(
        rim, first(100, 30), flops=80, knob="K", value=11, settings={"batch_size": 8}
    )  # answers do not depend on the batch
    (curve,), left_out = curves(rim)
    assert [p.value for p in curve.points] == [1, 2, 4, 8, 11]
    assert [o.detail.split(" ")[0] for o in left_out] == ["K=12"]  # K=16 is of another group


def test_temperatures_are_curves_of_their_own(store: Store) -> None:
    run = train(store, "direct")
    evaluate(run, first(100, 50))
    for t in (0.7, 1.0):
        evaluate(run, first(100, 55), flops=2e6, knob="votes", value=3, key=f"v{t}", settings={"temperature": t})
    found, left_out = curves(run)
    assert [c.label for c in found] == [
        f"direct (from cot), by votes (temperature {t})" for t in ("0.7", "1")
    ] and not left_out
    assert [p.label for c in found for p in c.points] == [
        "default",
        "votes=3 (temperature 0.7)",
        "default",
        "votes=3 (temperature 1)",
    ]


def test_a_model_is_not_compared_with_itself(store: Store) -> None:
    cot, direct = train(store, "cot"), train(store, "direct")
    evaluate(cot, first(500, 400), flops=100)
    evaluate(cot, first(500, 100), flops=50, knob="max_tokens", value=4)
    evaluate(cot, first(500, 420), flops=40, knob="votes", value=3)
    evaluate(direct, first(500, 300), flops=70)
    found = differences([field(direct, cot)])
    assert {(d.first.row.method, d.second.row.method) for d in found} == {("direct", "cot")} and len(found) == 2


def test_without_a_sweep_the_default_is_a_curve_of_one_point(store: Store) -> None:
    run = train(store, "direct")
    evaluate(run, first(100, 50))
    (curve,), _ = curves(run)
    assert curve.knob is None and curve.label == "direct (from cot)" and len(curve.points) == 1


def test_latency_without_a_mean_is_no_cost(store: Store) -> None:
    run = train(store, "direct")
    evaluate(
        run,
        first(10, 5),
        latency={"batch": 1, "n": 4, "ttft_ms": {"median": 1.0, "p95": 2.0}, "full_ms": {"median": 1.0, "p95": 2.0}},
    )
    (curve,), _ = curves(run)
    assert (
        CostCurve.of(curve, "latency", list(curve.row.first.items)) is None
        and CostCurve.of(curve, "flops", ["toy/test/0"]) is not None
    )


def test_front() -> None:
    points = [(1.0, 0.5), (2.0, 0.5), (2.0, 0.7), (3.0, 0.6), (4.0, 0.9), (1.0, 0.5)]
    assert front(points) == [True, False, True, False, True, True]  # two that are equal do not rule each other out
    assert front([]) == []


def field(*runs: Run, kind: str = "flops") -> Field:
    (group,), _ = collect(runs)
    found = tracks(curves(*runs)[0], kind, group.scopes[0].ids)
    return Field(group, group.scopes[0], tuple(found))


def test_default_costs_that_count_as_equal_share_a_column(store: Store) -> None:
    runs = [train(store, name) for name in ("direct", "pause", "cot", "rim")]
    for run, flops in zip(runs, (100.0, 100.9, 102.0, 200.0), strict=True):
        evaluate(run, first(50, 20), flops=flops)
    costs = default_costs(field(*runs).tracks)
    assert [(c.value, [r.method for r in c.rows]) for c in costs] == [
        (100, ["direct", "pause"]),
        (102, ["cot"]),
        (200, ["rim"]),
    ]


def test_differences_at_equal_cost(store: Store) -> None:
    n = 500
    rim, direct = train(store, "rim"), train(store, "direct")
    evaluate(rim, first(n, 300), flops=40)
    evaluate(rim, first(n, 200), flops=20, knob="K", value=2)
    evaluate(direct, first(n, 150), flops=30)
    found = differences([field(direct, rim)])
    (one,) = found  # at direct's 30: rim halfway, 250 of 500; at rim's 40 direct does not reach
    assert one.cost.value == 30 and one.second.label == "rim (from cot), K=2 to default"
    assert one.value == pytest.approx(0.3 - 0.5) and one.higher is None and one.verdict.here is one.second
    assert one.verdict.text() == "one seed (these weights: rim (from cot), K=2 to default higher)"
    # d is −1 on 50 questions and −1/2 on 100: z = 100/√75
    assert one.p == pytest.approx(math.erfc(100 / math.sqrt(75) / math.sqrt(2))) and one.holm == one.p
    assert one.interval.low < -0.2 < one.interval.high < 0


def test_measured_settings_are_tested_as_in_the_table(store: Store) -> None:
    n = 500
    rim, direct = train(store, "rim"), train(store, "direct")
    evaluate(rim, [6 <= k < 212 for k in range(n)], flops=30)
    evaluate(direct, first(n, 200), flops=30)
    (one,) = differences([field(direct, rim)])
    assert one.p == tests.mcnemar(6, 12) and one.verdict.here is None and one.higher is None
    assert one.detectable == pytest.approx(tests.detectable_difference(n, 18 / n))


def test_small_weights_do_not_count_as_whole_questions(store: Store) -> None:
    """At 102 rim is 0.98 default and 0.02 K=8: 200 questions a little better than direct, 30 much worse.

    Signs would say rim.
    """
    rim, direct = train(store, "rim"), train(store, "direct")
    evaluate(rim, first(1000, 500), flops=100)
    evaluate(rim, [k < 500 or 600 <= k < 800 for k in range(1000)], flops=200, knob="K", value=8)
    evaluate(direct, [k < 500 or k >= 970 for k in range(1000)], flops=102)
    (one,) = differences([field(direct, rim)])
    assert one.value == pytest.approx((30 - 200 * 0.02) / 1000) and tests.mcnemar(30, 200) < 1e-9
    z = 26 / math.sqrt(30 + 200 * 0.02**2)
    assert one.p == pytest.approx(math.erfc(z / math.sqrt(2))) and one.verdict.here is one.first


def test_seeds_of_a_setting_must_agree(store: Store) -> None:
    """The same verdict and interval as in the table for the same pair."""
    runs = []
    for name, shares in (("coconut", (0.793, 0.613, 0.520)), ("rim", (0.437, 0.593, 0.283))):
        for seed, share in enumerate(shares):
            runs.append(train(store, name, seed=seed))
            right = set(random.Random(f"{name} {seed}").sample(range(300), round(share * 300)))
            evaluate(runs[-1], [k in right for k in range(300)], flops=100)
    made = field(*runs)
    (one,), (pair,) = differences([made]), pairs(made.group)
    assert one.verdict.text() == pair.verdict.text() == "undecided (8 seeds would decide)" and one.higher is None
    assert one.holm == pair.holm > 0.05 and one.p == pair.p < 0.001 and one.interval == pair.interval
    assert one.interval.low < 0 < one.interval.high


def test_both_at_the_floor_is_undecided(store: Store) -> None:
    rim, direct = train(store, "rim"), train(store, "direct")
    evaluate(rim, [k % 10 == 0 for k in range(400)], flops=100)  # the references are the last digits, the floor is 10 %
    evaluate(direct, [k % 10 == 1 for k in range(400)], flops=100)
    (one,) = differences([field(direct, rim)])
    assert one.verdict.text() == "undecided (both at the floor)" and one.higher is None
