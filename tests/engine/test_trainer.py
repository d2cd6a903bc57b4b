"""The training loop: shares, data order, rates, accumulation, and that a broken run ends as an unbroken one, bit by
bit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from training_loop import Dying, Killed, losses, new_run, trainer, weights

from rim_bench.baselines.coconut import Coconut
from rim_bench.baselines.cot import ChainOfThought
from rim_bench.baselines.direct import Direct
from rim_bench.baselines.pause import Pause
from rim_bench.engine import trainer as train_module
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.losses import group_counts, tree_loss
from rim_bench.engine.trainer import Outcome, Trainer
from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import Auxiliary, Encoded, Method, Stage
from rim_bench.methods.schedule import TrainingPlan, batches, spans
from rim_bench.models.rim import Rim
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError

# spans


def shares(*given: float) -> list[Stage]:
    return [Stage(f"s{i}", share) for i, share in enumerate(given)]


@pytest.mark.parametrize(
    ("given", "steps", "expected"),
    [
        ((1,), 7, (7,)),
        ((6, 2), 80, (60, 20)),
        ((1, 1, 1), 10, (4, 3, 3)),  # equal remainders: the earlier stage
        ((5, 3, 2), 11, (6, 3, 2)),  # 5.5, 3.3, 2.2: the largest remainder gets the step that is left
        ((2, 3, 5), 11, (2, 3, 6)),
        ((50, 30, 21), 10, (5, 3, 2)),  # 4.95, 2.97, 2.08: two are left
        ((1, 1, 98), 4, (1, 1, 2)),  # at least one each, taken from the longest
        ((98, 1, 1), 3, (1, 1, 1)),
        ((0.001, 1000), 5, (1, 4)),
    ],
)
def test_a_budget_is_divided_by_largest_remainder(
    given: tuple[float, ...], steps: int, expected: tuple[int, ...]
) -> None:
    assert tuple(s.length for s in spans(shares(*given), steps, "recipe")) == expected


def test_spans_are_gapless_and_take_every_step() -> None:
    rng = random.Random(0)
    for _ in range(300):
        stages = shares(*(rng.choice([0.01, 0.5, 1, 3, 13]) for _ in range(rng.randint(1, 7))))
        steps = rng.randint(len(stages), 60)
        got = spans(stages, steps, "recipe")
        assert [s.stage for s in got] == stages and min(s.length for s in got) >= 1
        assert sum(s.length for s in got) == steps and got[0].first == 0
        assert all(b.first == a.first + a.length for a, b in pairwise(got))


def test_a_budget_under_one_step_a_stage_is_refused() -> None:
    with pytest.raises(
        UsageError,
        match=r"4 optimizer steps is too small for 5 stages \(cot, latent 1, latent 2, latent 3, answer only\)",
    ):
        spans(Coconut().stages(), 4, "recipe")
    assert len(spans(Coconut().stages(), 4, "cot")) == 4


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([Stage("a", given_by="cot")], "no stage is left to train: the start 'cot' gives all of them"),
        ([Stage("a", 0.0), Stage("b")], "stage a has a share"),
        ([Stage("a", math.nan)], "not a positive number"),
    ],
)
def test_a_curriculum_that_cannot_be_divided_is_refused(stages: list[Stage], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        spans(stages, 10, "cot")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": 31}, "a budget of 31 examples is less than one step of 32"),
        ({"examples": 0, "batch_size": 0}, "less than one step"),
        ({"examples": 32, "lr": 0.0}, "learning rate 0.0 must be a positive number"),
        ({"examples": 32, "lr": math.nan}, "must be a positive number"),
    ],
)
def test_a_plan_without_a_step_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainingPlan(**options)


# the order of the data


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    order = [i for batch in islice(batches(11, 4, 3), 11) for i in batch]
    epochs = [order[at : at + 11] for at in range(0, 44, 11)]
    assert [sorted(e) for e in epochs] == [list(range(11))] * 4
    assert len({tuple(e) for e in epochs}) == 4
    assert [i for batch in islice(batches(11, 11, 3), 4) for i in batch] == order  # the batch size only cuts it
    assert [i for batch in islice(batches(11, 4, 4), 11) for i in batch] != order
    assert {len(b) for b in islice(batches(3, 8, 0), 5)} == {8}
    with pytest.raises(ValueError, match="no examples"):
        next(batches(0, 4, 0))


@dataclass(frozen=True)
class Spy(Rim):
    """rim, and a list of what was laid out."""

    name: ClassVar[str] = "spy"
    seen: ClassVar[list[tuple[str, str, float]]] = []

    def lay_train(self, example: Encoded, stage: Stage, progress: float, rng: random.Random) -> Layout:
        self.seen.append((example.id, stage.name, progress))
        return super().lay_train(example, stage, progress, rng)


@dataclass(frozen=True)
class PlainSpy(Direct):
    name: ClassVar[str] = "plain spy"
    seen: ClassVar[list[tuple[str, str, float]]] = []

    def lay_train(self, example: Encoded, stage: Stage, progress: float, rng: random.Random) -> Layout:
        self.seen.append((example.id, stage.name, progress))
        return super().lay_train(example, stage, progress, rng)


def test_all_methods_read_the_same_examples_in_the_same_order(tmp_path: Path) -> None:
    plan = TrainingPlan(examples=36, batch_size=4, micro_batch=3, seed=5)
    Spy.seen.clear()
    PlainSpy.seen.clear()
    trainer(new_run(tmp_path, "a"), Spy(epochs_ground=2, epochs_refine=1), plan).run()
    trainer(new_run(tmp_path, "b"), PlainSpy(), plan).run()
    expected = [f"example {i}" for batch in islice(batches(11, 4, 5), 9) for i in batch]
    assert [e for e, _, _ in Spy.seen] == [e for e, _, _ in PlainSpy.seen] == expected
    stages = [s for _, s, _ in Spy.seen[::4]]
    assert stages == ["grounding"] * 6 + ["refinement"] * 3
    assert [p for _, _, p in Spy.seen[::4]] == pytest.approx(
        [k / 6 for k in range(6)] + [0, 1 / 3, 2 / 3]
    )  # each stage's own share


# rates, resets, dropout


@dataclass(frozen=True)
class Staged(Direct):
    """Four stages: the second goes on with the first's optimizer, the third and fourth start afresh."""

    name: ClassVar[str] = "staged"

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage("a", 2, dropout=0.3),
            Stage("b", 2, lr_scale=0.5),
            Stage("c", 4, lr_scale=0.1, reset=True, dropout=0.2),
            Stage("d", 2, reset=True),
        )


def test_rates_resets_and_dropout_follow_the_stages(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    made = trainer(run, Staged(), TrainingPlan(examples=40, batch_size=2, lr=1e-3, warmup=0.5), dropout=0.05)
    dropout, age = [], []

    def look(_: Any) -> None:
        (probability,) = {d.probability for d in made.backbone._dropouts}
        dropout.append(probability)
        age.append({int(state["step"]) for state in made.optimizer.state.values()})

    made.run(look)
    rates = [record["lr"] for record in run.metrics()]
    # half of the steps since the last reset are warm-up: 4 of the 8 of a + b, 4 of c's 8, 2 of d's 4
    assert rates == pytest.approx(
        [0.25e-3, 0.5e-3, 0.75e-3, 1e-3] + [0.5e-3] * 4
        + [0.025e-3, 0.05e-3, 0.075e-3, 0.1e-3, 0.1e-3, 0.1e-3, 0.1e-3, 0.1e-3]
        + [0.5e-3, 1e-3, 1e-3, 1e-3]
    )  # fmt: skip
    assert age == [{k} for k in (*range(1, 9), *range(1, 9), *range(1, 5))]
    assert dropout == pytest.approx([0.35] * 4 + [0.05] * 4 + [0.25] * 8 + [0.05] * 4)
    assert {d.probability for d in made.backbone._dropouts} == {0.05} and not made.backbone.model.training


def test_dropout_is_restored_where_the_last_stage_added_some(tmp_path: Path) -> None:
    made = trainer(new_run(tmp_path), Rim(K=2, refine_dropout=0.4), TrainingPlan(examples=8, batch_size=2))
    made.run()
    assert {d.probability for d in made.backbone._dropouts} == {0.0}


def test_the_published_warm_up_is_four_percent(tmp_path: Path) -> None:
    made = trainer(new_run(tmp_path), Direct(), TrainingPlan(examples=200, batch_size=1, lr=1.0))
    assert [made.schedule.rate(made.spans[0], step, 1) for step in (0, 3, 7, 8, 199)] == pytest.approx(
        [1 / 8, 4 / 8, 1, 1, 1]
    )


# accumulation


def gradients(root: Path, method: Method, micro: int) -> dict[str, Tensor]:
    made = trainer(new_run(root, f"micro {micro}"), method, TrainingPlan(examples=8, batch_size=8, micro_batch=micro))
    made.run()
    return {name: p.grad.clone() for name, p in made.parameters if p.grad is not None}


def gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).abs().max()) for n in a)


ONE_STAGE = (
    Direct(),
    ChainOfThought(),
    Pause(N=2),
    Coconut(epochs_cot=0, epochs_latent=0, latent_stages=2),
    Rim(epochs_refine=0),
    Rim(K=3, epochs_ground=0, refine_dropout=0),
)


@pytest.mark.parametrize("method", ONE_STAGE, ids=lambda m: f"{m.name}-{m.stages()[0].name}")
def test_micro_batches_add_up_to_the_whole_batch(tmp_path: Path, method: Method) -> None:
    whole = gradients(tmp_path, method, 8)
    assert max(float(g.abs().max()) for g in whole.values()) > 1e-2
    assert gap(whole, gradients(tmp_path, method, 3)) < 1e-6
    assert gap(whole, gradients(tmp_path, method, 1)) < 1e-6


def test_averaging_micro_batches_would_be_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gradients(tmp_path, ChainOfThought(), 8)

    def naive(model: Backbone, columns: Any, counts: Any) -> tuple[Tensor, dict[str, float]]:
        loss, parts = tree_loss(model, columns, group_counts(columns.layouts))
        return loss * len(columns.layouts) / 8, parts

    monkeypatch.setattr(train_module, "tree_loss", naive)
    assert gap(whole, gradients(tmp_path, ChainOfThought(), 3)) > 1e-3


def test_what_a_step_records_is_the_whole_batch(tmp_path: Path) -> None:
    records = []
    for micro in (8, 3):
        run = new_run(tmp_path, f"micro {micro}")
        outcome = trainer(
            run, Rim(K=2, refine_dropout=0), TrainingPlan(examples=16, batch_size=8, micro_batch=micro)
        ).run()
        records.append(losses(run))
        assert (outcome.steps, outcome.examples, outcome.resumed_from) == (2, 16, 0)
        assert outcome.tokens == sum(r["tokens"] for r in records[-1]) <= outcome.executed
        assert outcome.final_loss == pytest.approx(records[-1][-1]["loss"])
    for whole, split in zip(*records, strict=True):
        for key in ("loss", "grad_norm"):
            assert split[key] == pytest.approx(whole[key], rel=1e-4)
        assert all(split[key] == whole[key] for key in ("step", "stage", "examples", "tokens"))
        assert whole["loss"] == pytest.approx(sum(whole["losses"].values()))
    assert set(records[0][0]["losses"]) == {"readouts"} and set(records[0][1]["losses"]) == {"block 1", "block 2"}


# what goes wrong


@dataclass(frozen=True)
class Exploding(Direct):
    """A loss that is not a number in the last 30 % of training."""

    name: ClassVar[str] = "exploding"

    def lay_train(self, example: Encoded, stage: Stage, progress: float, rng: random.Random) -> Layout:
        layout = super().lay_train(example, stage, progress, rng)
        return Layout((layout.segments[0], replace(layout.segments[1], weight=math.nan if progress >= 0.7 else 1.0)))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    plan = TrainingPlan(examples=40, batch_size=2, lr=1e-3, checkpoints=5)  # 20 steps, a checkpoint every 4
    with pytest.raises(
        UsageError, match=r"exploding is not finite at step 15 \(stage 'train', learning rate 0.001\)"
    ) as caught:
        trainer(run, Exploding(), plan).run()
    found = run.latest_checkpoint()
    assert found is not None and found[0] == 12
    assert f"(step 12) is kept at {found[1]}" in str(caught.value) and "\n" not in str(caught.value)
    assert [r["step"] for r in run.metrics()] == list(range(1, 15)) and all(
        math.isfinite(r["loss"]) for r in run.metrics()
    )
    outcome = trainer(run, Direct(), plan).run()  # what is kept is sound: a loss that is finite goes on from it
    assert outcome.resumed_from == 12 and math.isfinite(outcome.final_loss)
    unbroken = new_run(tmp_path, "unbroken")
    trainer(unbroken, Direct(), plan).run()
    assert losses(run) == losses(unbroken)


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(tmp_path: Path) -> None:
    made = trainer(new_run(tmp_path), Direct(), TrainingPlan(examples=4, batch_size=2))
    before = weights(made)
    made.parameters[0][1].register_hook(lambda g: g * math.inf)
    with pytest.raises(
        UsageError, match=r"not finite at step 1 .*: no checkpoint had been written yet; a lower learning rate"
    ):
        made.run()
    assert all(torch.equal(before[n], w) for n, w in weights(made).items())


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    plan = TrainingPlan(examples=8, batch_size=2)
    trainer(run, Direct(), plan, layers=2).run()
    with pytest.raises(UsageError, match="holds other parameters than this run trains; move it away"):
        trainer(run, Direct(), plan).run()


def test_a_method_with_an_auxiliary_loss_is_refused(tmp_path: Path) -> None:
    class Helped(Direct):
        def auxiliary(self, width: int) -> Auxiliary | None:
            return object()  # type: ignore[return-value]

    with pytest.raises(UsageError, match="auxiliary loss"):
        trainer(new_run(tmp_path), Helped(), TrainingPlan(examples=2, batch_size=2))


def test_a_target_that_is_a_marker_is_refused(tmp_path: Path) -> None:
    class Marked(Pause):
        def lay_train(self, example: Encoded, stage: Stage, progress: float, rng: random.Random) -> Layout:
            return Layout(
                (Segment("question", None, example.question), Segment("pauses", "question", ("<pause>",), weight=1.0))
            )

    with pytest.raises(
        ValueError, match="label '<pause>' of loss group 'lm' is not in the vocabulary: markers are inputs only"
    ):
        trainer(new_run(tmp_path), Marked(), TrainingPlan(examples=2, batch_size=2)).run()


# a broken run


BROKEN: dict[str, tuple[Method, dict[str, Any]]] = {
    "coconut": (Coconut(c=1, latent_stages=2, epochs_cot=2, epochs_latent=2, epochs_last=3), {"dropout": 0.1}),
    "rim": (Rim(K=2, epochs_ground=1, epochs_refine=1), {}),  # dropout in its second stage only
    "rim-gpt2": (Rim(K=2, epochs_ground=1, epochs_refine=1), {"family": "tiny-gpt2", "dropout": 0.1}),
}
PLAN = TrainingPlan(
    examples=36, batch_size=2, micro_batch=1, lr=1e-3, seed=3, checkpoints=6
)  # 18 steps, a checkpoint every 3


def finished(run: Run, name: str) -> tuple[dict[str, Tensor], list[dict[str, Any]], Outcome]:
    method, shape = BROKEN[name]
    made = trainer(run, method, PLAN, **shape)
    outcome = made.run()
    return weights(made), losses(run), outcome


@pytest.fixture(scope="module", params=BROKEN)
def unbroken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    return request.param, finished(new_run(tmp_path_factory.mktemp("unbroken")), request.param)


def broken(root: Path, name: str, step: int, moment: str) -> Run:
    """A run that was killed there."""
    method, shape = BROKEN[name]
    run = new_run(root)
    with pytest.raises(Killed):
        trainer(Dying(run, step, moment), method, PLAN, **shape).run()
    torch.manual_seed(99)  # a new process does not start where the old one was
    return run


@pytest.mark.parametrize(
    ("step", "moment", "resumed"),
    [
        (2, "after", 0),
        (4, "before", 3),
        (10, "after", 9),
        (12, "after", 9),
        (12, "saving", 9),
        (14, "before", 12),
        (18, "after", 15),
    ],
)
def test_a_broken_run_ends_as_an_unbroken_one(
    unbroken: tuple[str, Any], tmp_path: Path, step: int, moment: str, resumed: int
) -> None:
    name, (expected, records, whole) = unbroken
    run = broken(tmp_path, name, step, moment)
    got, again, outcome = finished(run, name)
    assert outcome.resumed_from == resumed
    assert all(torch.equal(expected[n], got[n]) for n in expected) and expected.keys() == got.keys()
    assert again == records and len(records) == 18
    assert (outcome.tokens, outcome.executed, outcome.final_loss) == (whole.tokens, whole.executed, whole.final_loss)


def test_a_run_may_be_broken_twice(unbroken: tuple[str, Any], tmp_path: Path) -> None:
    name, (expected, records, _) = unbroken
    run = broken(tmp_path, name, 5, "after")
    method, shape = BROKEN[name]
    with pytest.raises(Killed):
        trainer(Dying(run, 11, "before"), method, PLAN, **shape).run()
    got, again, outcome = finished(run, name)
    assert outcome.resumed_from == 9 and again == records and all(torch.equal(expected[n], got[n]) for n in expected)


def test_a_damaged_checkpoint_is_passed_over(unbroken: tuple[str, Any], tmp_path: Path) -> None:
    name, (expected, records, _) = unbroken
    run = broken(tmp_path, name, 8, "after")
    found = run.latest_checkpoint()
    assert found is not None
    file = found[1] / "trainer.pt"
    file.write_bytes(file.read_bytes()[:-100])
    got, again, outcome = finished(run, name)
    assert outcome.resumed_from == 0 and again == records and all(torch.equal(expected[n], got[n]) for n in expected)


def forget_rng(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)


def forget_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", lambda self, state: None)


def forget_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Trainer._resume

    def resume(self: Trainer) -> int:
        done = real(self)
        self.backbone.set_dropout(0.0)
        return done

    monkeypatch.setattr(Trainer, "_resume", resume)


@pytest.mark.parametrize("sabotage", [forget_rng, forget_optimizer, forget_dropout])
def test_what_a_resume_must_restore_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sabotage: Callable[..., None]
) -> None:
    """Control of the tests above: a resume that forgets a part of the state ends elsewhere."""
    expected, records, _ = finished(new_run(tmp_path, "unbroken"), "rim")
    run = broken(tmp_path, "rim", 14, "after")  # in the stage with dropout
    sabotage(monkeypatch)
    got, again, outcome = finished(run, "rim")
    assert outcome.resumed_from == 12 and again[:12] == records[:12]
    assert again[12:] != records[12:] and not all(torch.equal(expected[n], got[n]) for n in expected)
