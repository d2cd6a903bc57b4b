"""icot: which tokens of a chain are left when, and when the optimizer is fresh."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import encoded
from torch import Tensor
from training_loop import Dying, Killed, losses, new_run, trainer, weights

from rim_bench.baselines.cot import ChainOfThought
from rim_bench.baselines.direct import Direct
from rim_bench.baselines.icot import InternalisedChain
from rim_bench.engine.trainer import Trainer
from rim_bench.methods.layout import Layout
from rim_bench.methods.schedule import TrainingPlan

ROW = encoded(5, (3, 4, 2), answer=3)  # a chain of nine tokens
EXACT = InternalisedChain(per_epoch=3, beyond=9, epochs=6, smoothing=math.inf)
REMOVAL, REMOVED = EXACT.stages()


def lay(progress: float, method: InternalisedChain = EXACT, seed: int = 0) -> Layout:
    return method.lay_train(ROW, method.stages()[0], progress, random.Random(seed))


def test_it_begins_as_cot_and_ends_as_direct() -> None:
    assert lay(0.0) == ChainOfThought().lay_train(ROW, REMOVAL, 0.0, random.Random(0))
    at_the_end = EXACT.lay_train(ROW, REMOVED, 0.3, random.Random(0))
    assert at_the_end == Direct().lay_train(ROW, REMOVED, 0.3, random.Random(0))


@pytest.mark.parametrize("side", ["left", "right"])
def test_tokens_go_one_by_one_from_their_side_and_the_others_move_up(side: Any) -> None:
    method = InternalisedChain(per_epoch=3, beyond=9, epochs=6, smoothing=math.inf, side=side)
    for removed in range(10):
        layout = lay((removed + 0.5) / 9, method)
        kept = ROW.chain[removed:] if side == "left" else ROW.chain[: 9 - removed]
        assert tuple(layout.tokens) == (*ROW.question, *kept, *ROW.answer)
        assert list(layout.position) == list(range(layout.size))
        assert [label.target for label in layout.labels] == [*kept, *ROW.answer]


def test_more_than_the_chain_leaves_the_answer_whole() -> None:
    method = InternalisedChain(per_epoch=100, beyond=1000, epochs=20)
    for progress in (0.01, 0.5, 0.999):
        assert tuple(lay(progress, method).tokens) == (*ROW.question, *ROW.answer)


def test_a_row_is_ahead_as_often_as_published() -> None:
    """P(o = 0) = 1 - e^-4 = 0.9817, E[o] = 1 / (e^4 - 1) = 0.0187."""
    method, rng = InternalisedChain(), random.Random(1)
    ahead = [9 - len(method.lay_train(ROW, method.stages()[0], 0.0, rng).tokens) + 8 for _ in range(100_000)]
    assert sum(ahead) / len(ahead) == pytest.approx(0.0187, abs=0.0015)
    assert ahead.count(0) / len(ahead) == pytest.approx(0.9817, abs=0.0015)


def test_published_defaults_are_five_epochs_of_removal() -> None:
    method = InternalisedChain()
    assert [s.share for s in method.stages()] == [39 / 8, 80 - 39 / 8] and not method.writes_steps
    for bad in ({"per_epoch": 0}, {"beyond": 0}, {"smoothing": 0}, {"epochs": 4}):
        with pytest.raises(ValueError, match=r"must be above 0|leaves nothing behind"):
            InternalisedChain(**bad)


PLAN = TrainingPlan(examples=36, batch_size=2, lr=1e-3, seed=3, checkpoints=6)  # 18 steps
SHORT = {"per_epoch": 1, "beyond": 4, "epochs": 6}  # 12 steps of removal in four parts of 3, then 6


def ages(method: InternalisedChain, root: Path) -> list[int]:
    """Steps that the optimizer has made since it was fresh, after every step."""
    made, out = trainer(new_run(root), method, PLAN), []

    def look(_: Any) -> None:
        (age,) = {int(state["step"]) for state in made.optimizer.state.values()}
        out.append(age)

    made.run(look)
    return out


def test_the_optimizer_is_fresh_whenever_more_tokens_go(tmp_path: Path) -> None:
    assert ages(InternalisedChain(**SHORT), tmp_path / "each") == [1, 2, 3] * 4 + [*range(1, 7)]
    assert ages(InternalisedChain(**SHORT, reset="stage"), tmp_path / "stage") == [*range(1, 13), *range(1, 7)]
    assert ages(InternalisedChain(**SHORT, reset="never"), tmp_path / "never") == [*range(1, 19)]


def test_the_rate_goes_on_where_the_optimizer_is_fresh(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    trainer(run, InternalisedChain(**SHORT), TrainingPlan(examples=36, batch_size=2, lr=1.0, warmup=0.5)).run()
    rates = [record["lr"] for record in run.metrics()]
    assert rates == pytest.approx([k / 6 for k in range(1, 7)] + [1.0] * 6 + [k / 3 for k in range(1, 4)] + [1.0] * 3)


def finished(run: Any) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    made = trainer(run, InternalisedChain(**SHORT), PLAN)
    made.run()
    return weights(made), losses(run)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Trainer._resume

    def resume(self: Trainer) -> None:
        real(self)
        self.reset_at = None

    monkeypatch.setattr(Trainer, "_resume", resume)


@pytest.mark.parametrize("sabotage", [None, forget])
def test_a_run_broken_where_tokens_go_ends_as_an_unbroken_one(
    sabotage: Callable[[pytest.MonkeyPatch], None] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, records = finished(new_run(tmp_path, "whole"))
    run = new_run(tmp_path, "broken")
    with pytest.raises(Killed):  # the checkpoint of step 3 is taken up, and with step 4 a further token goes
        trainer(Dying(run, 5, "before"), InternalisedChain(**SHORT), PLAN).run()
    torch.manual_seed(99)
    if sabotage is not None:
        sabotage(monkeypatch)
    got, again = finished(run)
    same = again == records and all(torch.equal(expected[n], got[n]) for n in expected)
    assert same is (sabotage is None)
