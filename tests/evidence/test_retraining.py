"""The margin of a gate that retrains: what it is measured on, and that it keeps its rate."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from fabricated import evaluate, train

from rim_bench.evidence import retraining
from rim_bench.evidence.gate import decide
from rim_bench.report import gate
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError

N = 600


def trainings(store: Store, seeds: int, spread: float = 0.05, name: str = "rim") -> list[Run]:
    """Retrainings whose true accuracy moves by `spread` (a standard deviation) around 60 %; items differ in
    difficulty.
    """
    rng = random.Random(7)
    hard = [rng.random() for _ in range(N)]
    made = []
    for seed in range(seeds):
        run, true = train(store, name, seed=seed), 0.6 + rng.gauss(0, spread)
        evaluate(run, [h + rng.gauss(0, 0.1) < true for h in hard])
        made.append(run)
    return made


def test_the_margin_keeps_the_rate_by_the_gates_own_rule(tmp_path: Path) -> None:
    runs = trainings(Store(tmp_path), 20)
    (made,) = retraining.retrainings(runs)
    margin, allowance = made.margin(), made.allowance()
    answers = [
        [i.correct for i in sorted(run.read_items("toy-test"), key=lambda i: int(i.id.split("/")[-1]))] for run in runs
    ]

    def red(points: float) -> float:
        pairs = [(a, b) for a in range(20) for b in range(20) if a != b]
        return sum(decide(answers[a], answers[b], points / 100).verdict == "regressed" for a, b in pairs) / len(pairs)

    assert made.red(margin) == pytest.approx(red(margin)) and red(margin) <= 0.05
    assert red(margin - allowance) <= 0.05 < red(margin - allowance - retraining.STEP)
    assert made.red(2) == pytest.approx(red(2)) and made.red(2) > 0.2  # a margin for re-evaluation would cry wolf
    shares = [
        sum(decide(answers[a], answers[b], margin / 100).verdict == "regressed" for b in range(20) if b != a) / 19
        for a in range(20)
    ]
    assert made.worst(margin) == pytest.approx(max(shares)) and max(shares) >= made.red(margin)  # a lucky baseline
    assert made.by_spread() == pytest.approx(margin - allowance, abs=4)
    assert made.margin(0.01) > margin > made.margin(0.3)
    # of margins chosen on ten seeds each and counted on the other ten
    assert made.held_out(allowance=0.0) > 0.05 >= made.held_out()
    assert allowance == 0 or made.held_out(allowance=allowance - retraining.STEP) > 0.05
    found = made.detected(margin)
    assert margin < found < 3 * margin and made.red(margin, shift=found) >= 0.8 > made.red(
        margin, shift=found - retraining.STEP
    )


def test_equal_retrainings_need_the_smallest_margin(tmp_path: Path) -> None:
    runs = []
    for seed in range(20):
        runs.append(train(Store(tmp_path), "cot", seed=seed))
        evaluate(runs[-1], [True] * N)
    (made,) = retraining.retrainings(runs)
    assert (made.margin(), made.red(0.5), made.by_spread()) == (retraining.STEP, 0, 0)


def test_data_comes_back_and_is_checked(tmp_path: Path) -> None:
    (made,) = retraining.retrainings(trainings(Store(tmp_path), 20))
    told = json.loads(json.dumps(made.data(), allow_nan=False))
    assert retraining.of_data(told) == made
    path = tmp_path / "margins.json"
    path.write_text(json.dumps({"schema": 1, "systems": [told]}))
    assert retraining.read(path) == [made] and gate.margins_table([made]).to_markdown().count("\n| ") == 3
    told["retrainings"][3]["correct"] += 1
    with pytest.raises(UsageError, match="do not fit"):
        retraining.of_data(told)
    path.write_text("{}")
    with pytest.raises(UsageError, match="is not what"):
        retraining.read(path)


def test_what_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    runs = trainings(store, 20)
    with pytest.raises(UsageError, match="19 retrainings are too few for a margin: give at least 20"):
        retraining.retrainings(runs[1:])
    with pytest.raises(UsageError, match="no run"):
        retraining.retrainings([])
    twice = train(store, "rim", seed=3, spec={"parent": "another"})
    evaluate(twice, [True] * N)
    with pytest.raises(UsageError, match="seed 3 is there twice"):
        retraining.retrainings([*runs, twice])
    evaluate(runs[4], [True] * N, data_sha256="d" * 64)
    with pytest.raises(UsageError, match="answered other questions"):
        retraining.retrainings(runs)
    other = train(store, "rim", seed=4, spec={"optimizer": {"lr": 0.5}})  # another recipe is another system
    evaluate(other, [True] * N)
    with pytest.raises(UsageError, match="19 retrainings are too few"):
        retraining.retrainings([*runs[:4], *runs[5:], other])


def test_levels_count_as_in_the_gate(tmp_path: Path) -> None:
    """Retrainings that trade one level for the other: the whole set hardly moves, and the gate would go red."""
    rng, runs = random.Random(3), []
    for seed in range(20):
        run, shift = train(Store(tmp_path), "rim", seed=seed), rng.gauss(0, 0.1)
        hard = [k * 0.618 % 1 < 0.6 + (shift if k < 300 else -shift) for k in range(N)]
        evaluate(run, hard, change=lambda k: {"level": f"T={1 + k // 300}"})
        runs.append(run)
    (made,) = retraining.retrainings(runs)
    assert made.margin() > 10 > made.by_spread()
    back = retraining.of_data(json.loads(json.dumps(made.data())))
    assert back == made and back.margin() == made.margin() and len(back.pairs[0].levels) == 2
