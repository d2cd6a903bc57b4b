"""Budgets in training FLOPs: every method ends within a step of one, stages take their shares, and a broken run ends as
an unbroken one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from engine import METHODS, methods_ids
from training_loop import DATA, Dying, Killed, losses, new_run, trainer, weights

from rim_bench.baselines.coconut import Coconut
from rim_bench.baselines.direct import Direct
from rim_bench.compute.training_flops import training_cost
from rim_bench.engine.trainer import Outcome, Trainer
from rim_bench.methods.method import Method
from rim_bench.methods.schedule import Schedule, Span, TrainingPlan, flops_spans, planned_flops
from rim_bench.models.rim import Rim
from rim_bench.runs.options import parse_budget
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError

BUDGET = 250_000_000


def flops_trainer(
    run: Any, method: Method, flops: int = BUDGET, *, start: str = "recipe", inherited: int = 0, **shape: Any
) -> Trainer:
    plan = TrainingPlan(flops=flops, batch_size=4, micro_batch=3, lr=1e-3, seed=3, checkpoints=6)
    made = trainer(run, method, plan, start, **shape)
    return Trainer(made.backbone, method, None, DATA, plan, run, start, inherited)


Trained = Callable[[Method, int], tuple[Trainer, Outcome, Run]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A method trained for `BUDGET`, once."""

    @cache
    def train(method: Method, inherited: int) -> tuple[Trainer, Outcome, Run]:
        run = new_run(tmp_path_factory.mktemp("budget"))
        made = flops_trainer(run, method, inherited=inherited, start="cot" if inherited else "recipe")
        return made, made.run(), run

    return train


@pytest.mark.parametrize("method", METHODS, ids=methods_ids)
@pytest.mark.parametrize("inherited", [0, 60_000_000])
def test_training_ends_within_one_step_of_its_budget(method: Method, inherited: int, trained: Trained) -> None:
    made, outcome, run = trained(method, inherited)
    records = run.metrics()
    assert sum(r["flops"] for r in records) == outcome.flops == made.spent
    over = outcome.flops + inherited - BUDGET
    assert 0 <= over < records[-1]["flops"] == outcome.last_step_flops  # the step before the last did not reach it
    assert outcome.steps == len(records) > 5 and outcome.examples == 4 * outcome.steps


@pytest.mark.parametrize("method", METHODS, ids=methods_ids)
def test_stages_take_their_shares_of_its_examples(method: Method, trained: Trained) -> None:
    _, _, run = trained(method, 0)
    steps = Counter(record["stage"] for record in run.metrics())
    stages, total = method.stages(), steps.total()
    assert list(steps) == [s.name for s in stages]
    for stage in stages:  # to a step at each end, and what the prices of 256 examples say of all
        assert abs(steps[stage.name] - total * stage.share / sum(s.share for s in stages)) <= 2 + 0.03 * total


def test_what_is_spent_is_the_price_of_the_layouts(tmp_path: Path) -> None:
    """Step by step, on both sides of a stage's end, and beside what was executed."""
    run = new_run(tmp_path)
    made = flops_trainer(run, Rim(K=2, epochs_ground=1, epochs_refine=1))
    seen: list[int] = []
    real = made.layouts

    def layouts(*args: Any) -> Any:
        rows = real(*args)
        seen.append(sum(training_cost(made.shape, made.backbone.trains(), row) for row in rows))
        return rows

    made.layouts = layouts  # type: ignore[method-assign]
    made.run()
    assert [r["flops"] for r in run.metrics()] == seen
    assert all(r["flops_executed"] > r["flops"] for r in run.metrics())
    assert (
        made.counters["flops_executed"]
        == sum(r["flops_executed"] for r in run.metrics())
        > made.counters["flops_padding"]
        > 0
    )


@pytest.mark.parametrize("method", [Direct(), Coconut(c=1, latent_stages=2), Rim(K=2)], ids=methods_ids)
def test_the_cost_of_a_budget_in_examples_is_known_before_it_is_spent(method: Method, tmp_path: Path) -> None:
    plan = TrainingPlan(examples=48, batch_size=4, seed=3)
    made = trainer(new_run(tmp_path), method, plan)
    trains = made.backbone.trains()
    assert (
        planned_flops(method, DATA, plan, "recipe", lambda row: training_cost(made.shape, trains, row))
        == made.run().flops
        > 0
    )


@pytest.mark.parametrize(("step", "moment"), [(11, "before"), (19, "saving"), (27, "after"), (45, "after")])
def test_a_broken_run_ends_as_an_unbroken_one(step: int, moment: str, tmp_path: Path) -> None:
    method = Coconut(c=1, latent_stages=2, epochs_cot=2, epochs_latent=2, epochs_last=3)
    whole, run = new_run(tmp_path, "whole"), new_run(tmp_path, "broken")
    unbroken = flops_trainer(whole, method, dropout=0.1)
    expected = unbroken.run()
    with pytest.raises(Killed):
        flops_trainer(Dying(run, step, moment), method, dropout=0.1).run()
    torch.manual_seed(99)
    again = flops_trainer(run, method, dropout=0.1)
    outcome = again.run()
    assert 0 < outcome.resumed_from <= step
    assert losses(run) == losses(whole) and (outcome.flops, outcome.steps) == (expected.flops, expected.steps)
    assert all(torch.equal(p, weights(again)[name]) for name, p in weights(unbroken).items())


def test_rate_and_progress_follow_what_is_spent(tmp_path: Path) -> None:
    """4 % of each schedule's budget is warm-up, and progress runs from 0 to 1 in every stage."""
    run = new_run(tmp_path)
    made = flops_trainer(run, Rim(K=2, epochs_ground=1, epochs_refine=1), 1_000_000_000)
    made.run()
    spent, rates = 0, []
    for record in run.metrics():
        span = made.schedule.span(spent)
        warm = max(record["flops"], round(0.04 * span.length))
        scale = span.stage.lr_scale * min(1.0, (spent - span.first + record["flops"]) / warm)
        assert record["lr"] == pytest.approx(1e-3 * scale) and span.stage.name == record["stage"]
        rates.append(record["lr"])
        spent += record["flops"]
    assert rates[0] < max(rates) == 1e-3 and rates[-1] == pytest.approx(2e-4)
    schedule = Schedule((Span(Direct().stages()[0], 0, 40),), 0.25)
    assert [schedule.progress(schedule.spans[0], at) for at in (0, 10, 39)] == [0, 0.25, 39 / 40]
    assert [schedule.rate(schedule.spans[0], at, 4) for at in (0, 4, 8)] == [0.4, 0.8, 1.0]
    assert [schedule.rate(schedule.spans[0], at, 20) for at in (0, 4)] == [
        1.0,
        1.0,
    ]  # a warm-up of less than a step is one step


def test_budgets_that_cannot_be_met_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"a budget of 1e\+06 training FLOPs is too small for direct: stage 'train' gets 1e\+06 of it"
    ):
        flops_trainer(new_run(tmp_path), Direct(), 1_000_000)
    with pytest.raises(UsageError, match="spent before direct begins: the weights it starts from cost 3e"):
        flops_trainer(new_run(tmp_path), Direct(), BUDGET, inherited=300_000_000)
    plan = TrainingPlan(flops=30, batch_size=4)
    price = 10
    with pytest.raises(UsageError, match="stage 'grounding' gets 23 of it, and one step costs 40"):
        flops_spans(Rim(), DATA, plan, "recipe", 0, lambda row: price)
    plan = TrainingPlan(flops=160, batch_size=4)
    assert [s.length for s in flops_spans(Rim(), DATA, plan, "recipe", 0, lambda row: price)] == [120, 40]
    with pytest.raises(ValueError, match="one budget"):
        TrainingPlan(examples=4, flops=4)
    with pytest.raises(ValueError, match="known when it is spent"):
        _ = TrainingPlan(flops=4).steps


@pytest.mark.parametrize(
    ("method", "plan"),
    [(Rim(K=2), TrainingPlan(flops=10**9)), (Direct(), TrainingPlan(flops=10**9))],
    ids=["rim", "direct"],
)
def test_spans_are_gapless(method: Method, plan: TrainingPlan) -> None:
    spans = flops_spans(method, DATA, plan, "recipe", 10**8, lambda row: 1)
    assert spans[0].first == 0 and sum(s.length for s in spans) == 9 * 10**8
    assert all(b.first == a.first + a.length for a, b in pairwise(spans))


def test_budgets_are_read() -> None:
    assert parse_budget("examples=38400") == {"examples": 38400} and parse_budget("train-flops=3e13") == {
        "train_flops": 3 * 10**13
    }
    for wrong, says in (
        ("exampels=3", "did you mean 'examples'|nearest|examples"),
        ("train-flops=", "needs a positive number"),
        ("train-flops=-3", "needs a positive number"),
        ("train-flops=nan", "needs a positive number"),
        ("examples=3.5", "needs a positive whole number"),
        ("", "examples"),
    ):
        with pytest.raises(UsageError, match=says):
            parse_budget(wrong)
