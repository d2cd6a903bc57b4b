"""Stored runs as data frames."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated import coin, evaluate, train

from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = train(Store(tmp_path), "rim")
    evaluate(run, coin(0.5, 40, 1))
    return run


def test_items_are_a_row_a_question(run: Run) -> None:
    (key,) = run.evaluations()
    items = run.items()
    assert len(items) == 40 and items.equals(run.items(key))
    assert items["correct"].mean() == pytest.approx(sum(coin(0.5, 40, 1)) / 40)
    assert set(items["id"]) == {item.id for item in run.read_items(key)}


def test_an_evaluation_that_is_not_there_is_named(run: Run) -> None:
    with pytest.raises(UsageError, match="nearby"):
        run.items("nearby")
    bare = train(Store(run.path.parents[1]), "direct")
    with pytest.raises(UsageError, match=r"has 0 evaluations: give the key of one \(none is stored\)"):
        bare.items()


def test_a_store_is_a_row_an_evaluation(run: Run) -> None:
    root = run.path.parents[1]
    train(Store(root), "direct", seed=3)
    frame = Store(str(root)).frame().set_index("method")
    assert list(frame.index) == ["direct", "rim"]
    assert frame.loc["rim", "accuracy"] == pytest.approx(sum(coin(0.5, 40, 1)) / 40)
    assert frame.loc["rim", "n"] == 40 and frame.loc["direct", "seed"] == 3
    assert frame.loc["direct", ["evaluation", "accuracy"]].isna().all()
