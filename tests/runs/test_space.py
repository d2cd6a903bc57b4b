"""Search spaces: every method declares one, all get as many points, and the arm is what they chose."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest
from small_runs import model, options, train
from stored import training_of

from rim_bench.methods.method import SearchRange
from rim_bench.methods.registry import all_methods, load_method
from rim_bench.methods.search import inner_ranges, points_to_try, quasi_random_points
from rim_bench.report.comparison import comparison
from rim_bench.runs import training as training_module
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import arms, plan_study, starts, trials
from rim_bench.runs.training import run_plan
from rim_bench.storage.run_folder import Store
from rim_bench.storage.selection import LearningRateGrid, SpaceSearch, parse_tune
from rim_bench.util.errors import UsageError
from rim_bench.util.files import canonical

pytestmark = pytest.mark.usefixtures("one_thread")
PLAN = {"lr": 1e-3, "weight_decay": 0.01}


@pytest.mark.parametrize("name", sorted(name for name, cls in all_methods().items() if cls.trains != "nothing"))
def test_every_method_declares_two_to_four_knobs_that_it_has_and_that_hold_its_recipe(name: str) -> None:
    method = load_method(name)
    knobs = method.search_space()
    assert 2 <= len(knobs) <= 4 and knobs[0].name == "lr"
    for knob in knobs:
        own = {"lr": 1.0, "weight_decay": 0.01}.get(knob.name, getattr(method, knob.name, None))
        assert own is not None and knob.low <= own <= knob.high
    for point in points_to_try(method, PLAN, 1e-3, 5):
        settings = {k: v for k, v in point.items() if k not in PLAN}
        assert method.with_settings(settings).stages()  # a method refuses values that it cannot take


def test_points_fill_each_knob_on_its_own_scale() -> None:
    knobs = (SearchRange("a", 0.01, 1), SearchRange("b", 0, 10, "linear"))
    points = quasi_random_points(knobs, 64)
    assert sum(p["a"] < 0.1 for p in points) == pytest.approx(32, abs=3)  # half below the middle of a log scale
    assert sum(p["b"] < 5 for p in points) == pytest.approx(32, abs=3)
    assert all(0.01 <= p["a"] <= 1 and 0 <= p["b"] <= 10 for p in points)
    assert len({(p["a"] < 0.1, p["b"] < 5) for p in points}) == 4 and points == quasi_random_points(knobs, 64)


def test_the_first_point_is_the_recipe_and_an_outer_tenth_is_an_end() -> None:
    rim = load_method("rim")
    first, *others = points_to_try(rim, {"lr": 0.002, "weight_decay": 0.01}, 1e-3, 4)
    assert first == {"lr": 0.002, "refine_lr_scale": 0.2, "epochs_refine": 2.0, "refine_dropout": 0.1}
    assert all(2.5e-4 <= p["lr"] <= 4e-3 for p in others) and len(others) == 3
    low, high = inner_ranges(rim, 1e-3)["refine_dropout"]
    assert (low, high) == pytest.approx((0.02, 0.18))


def rigged(monkeypatch: pytest.MonkeyPatch, shares: dict[tuple[int, int], float]) -> None:
    """Final validation whose accuracy depends on the point, by its place, and the seed."""

    def accuracy(trained: object, request: object, show: object) -> tuple[float, int]:
        spec = trained.spec  # type: ignore[attr-defined]
        place = PLACES.index(spec.optimizer.lr) if spec.optimizer.lr in PLACES else 0
        return shares[place, spec.seed], 20

    monkeypatch.setattr(training_module, "validation_accuracy", accuracy)


PLACES: list[float] = []


def test_the_best_mean_over_seeds_wins_and_its_trials_are_the_arms_of_their_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = options(tmp_path, "rim", tune=SpaceSearch(3), seeds=(0, 1, 2))
    planned = plan_study(asked)
    tried = trials(planned)
    PLACES[:] = [p.plan.lr for p in tried[::2]]
    assert len(tried) == 6 and len(set(PLACES)) == 3 and {p.plan.seed for p in tried} == {0, 1}
    # Seed 0 alone would choose the first point, the mean chooses the second.
    rigged(monkeypatch, {(0, 0): 0.9, (0, 1): 0.1, (1, 0): 0.7, (1, 1): 0.75, (2, 0): 0.6, (2, 1): 0.7, (1, 2): 0.0})
    runs, heard = train(asked)
    won = tried[2]
    assert [r.spec.optimizer.lr for r in runs] == [won.plan.lr] * 3
    assert all(r.spec.method.settings == won.method.settings() for r in runs)
    assert all(r.spec.method.label.endswith(" tuned") for r in runs)
    by_seed = {t.spec.seed: t for t in Store(tmp_path).runs()[0] if t.id in {won.id, tried[3].id}}
    for run in runs[:2]:
        assert training_of(run).tuning.adopted == by_seed[run.spec.seed].id
        assert model(run) == model(by_seed[run.spec.seed])
    record = training_of(runs[2]).tuning
    assert record.adopted is None and record.field == "space" and record.points == 3 and record.seeds == (0, 1)
    assert record.values == pytest.approx(won.values) and record.accuracy == pytest.approx(0.725)
    # Pooled variance: (0.32 + 0.00125 + 0.005) / 3 degrees of freedom; of a difference of two means of two.
    assert record.standard_error == pytest.approx((2 * (0.32 + 0.00125 + 0.005) / 3 / 2) ** 0.5)
    assert record.rivals == 2 and record.flops == sum(
        training_of(r).flops for r in Store(tmp_path).runs()[0] if r.spec.role == "trial"
    )
    assert runs[2].spec.tuned.seeds == (0, 1) and runs[2].spec.tuned.points == 3
    assert any(
        "of 3 points" in note and "2 other points lie within two standard errors" in note for note in heard.notes
    )
    again, heard = train(asked)
    assert [r.id for r in again] == [r.id for r in runs] and not heard.steps
    run_plan(planned, heard)
    text = comparison(runs).to_markdown()
    assert " tuned" in text and "refine_lr_scale" in text and "others within 2 se" in text


def test_what_is_tuned_starts_from_the_same_shared_start(tmp_path: Path) -> None:
    plain = plan_study(options(tmp_path, "direct", "cot", start="cot", seeds=(0, 1)))
    tuned = plan_study(options(tmp_path, "direct", "cot", start="cot", seeds=(0, 1), tune=SpaceSearch(2)))
    assert [p.id for p in starts(tuned)] == [p.id for p in starts(plain)]
    assert {p.spec.parent for p in tuned if not p.is_start} == {p.id for p in starts(plain)}
    assert not {p.id for p in arms(tuned)} & {p.id for p in arms(plain)}


def test_a_trial_of_a_rate_keeps_its_methods_record_as_it_was_written(tmp_path: Path) -> None:
    """6 and not 6.0: the ids of stored trials hang on it."""
    plan = plan_study(options(tmp_path, "coconut", tune=LearningRateGrid((1e-4, 1e-3))))
    (arm,), written = arms(plan), [canonical(p.spec.method.to_json()) for p in plan]
    assert '"epochs_latent":3,' in written[0] and len(written) == 3 and set(written) == {written[plan.index(arm)]}


def test_a_planned_trial_travels_to_another_process(tmp_path: Path) -> None:
    for planned in plan_study(options(tmp_path, "direct", tune=SpaceSearch(2), seeds=(0, 1))):
        again = pickle.loads(pickle.dumps(planned))
        assert again.id == planned.id and again.values == planned.values and again.plan == planned.plan


@pytest.mark.parametrize(
    ("tune", "sentence"),
    [
        (("space=1..2", None, None, None), "each method declares its own space"),
        (("space", 1, None, None), "--trials 1 is too small"),
        (("space", None, 2.0, None), "--tune-share 2 is not a share"),
        (("space", None, None, 1), "needs at least 2 training seeds"),
        ((None, None, None, 2), "give what to tune as well"),
        (("spice", None, None, None), "space"),
    ],
)
def test_what_is_no_search_is_refused(
    tune: tuple[str | None, int | None, float | None, int | None], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse_tune(*tune)


def test_a_search_needs_its_seeds_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 training seeds and --seeds gives 1: give more seeds, as in --seeds 0,1"):
        Options(methods=("direct",), task="chain", tune="space", out=tmp_path)
    grid = Options(methods=("direct",), task="chain", tune="lr=1e-4..1e-3", tune_seeds=2, seeds=(3, 1, 2), out=tmp_path)
    assert grid.trial_seeds == (1, 2)
    assert dataclasses.replace(grid, tune_seeds=None).trial_seeds == (1,)
