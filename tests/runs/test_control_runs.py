"""Controls as runs: a study with its controls, what each of them really trains on, and a latency control of a stored
run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fabricated
import pytest
import torch
from small_runs import Heard
from stored import training_of

from rim_bench.baselines.rim_shuffled_steps import RimShuffledSteps
from rim_bench.cli import main
from rim_bench.engine.trainer import Trainer
from rim_bench.evaluate import latency
from rim_bench.evaluate.stored_runs import evaluate_stored
from rim_bench.evidence.rows import read
from rim_bench.methods import controls as control_rules
from rim_bench.methods.method import Example
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import plan_study
from rim_bench.runs.study import study_setting
from rim_bench.runs.training import check_budget, run_plan
from rim_bench.runs.warm_starts import evaluate_controls, warm_options
from rim_bench.storage.records import KnobRecord
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError

SMALL: dict[str, Any] = {
    "task": "chain",
    "backbone": {"width": 32, "layers": 1, "max_positions": 96},
    "limit": 24,
    "quick": True,
    "examples": 160,
    "cot_examples": 32,
    "device": "cpu",
    "eval_batch_size": 24,
}


@pytest.fixture(autouse=True)
def _light() -> Iterator[None]:
    threads, timed = torch.get_num_threads(), latency.TIMED
    torch.set_num_threads(1)
    latency.TIMED = 2
    yield
    latency.TIMED = timed
    torch.set_num_threads(threads)


def asked(tmp_path: Path, *methods: str, **others: Any) -> Options:
    return Options(methods=methods, out=tmp_path / "results", **SMALL | others)


def named(runs: Sequence[Run]) -> dict[str, Run]:
    return {run.spec.method.name: run for run in runs}


def test_a_study_with_its_controls_has_them_at_the_compared_settings(tmp_path: Path) -> None:
    options = asked(
        tmp_path, "rim", "coconut", settings={"rim": {"K": "2"}, "coconut": {"c": "2"}, "rim-no-grounding": {"M": "1"}}
    )
    with pytest.raises(UsageError, match="'rim-no-grounding' is not among the methods"):
        plan_study(options)
    options = asked(tmp_path, "rim", "coconut", settings={"rim": {"K": "2"}, "coconut": {"c": "2"}})
    study = plan_study(study_setting(options).with_controls())
    cells = {cell.method.name: cell.method for cell in study if not cell.is_start}
    assert (
        list(cells)[:2] == ["rim", "coconut"]
        and {"direct", "pause", "rim-as-prompt", "rim-shuffled-steps"} <= cells.keys()
    )
    for name, settings in {
        "rim-no-grounding": {"K": 2, "M": 2},
        "rim-no-refinement": {"K": 3},
        "rim-isolated-blocks": {"K": 2, "blocks": "isolated"},
        "pause-distinct": {"N": 8},
        "pause-curriculum": {"c": 2, "latent_stages": 3},
        "coconut-no-curriculum": {"c": 2, "epochs_latent": 0},
    }.items():
        assert settings.items() <= cells[name].settings().items()
    assert (
        next(c for c in study if c.method.name == "no-thought-curriculum").tuning_trials is None
    )  # a rate that was not tuned
    labels = {c.spec.method.name: c.spec.method.label for c in study}
    assert labels["rim-no-grounding"] == "rim-no-grounding K=2" and labels["rim-no-refinement"] == "rim-no-refinement"


def test_controls_that_mean_nothing_here_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has random weights"):
        plan_study(asked(tmp_path, "rim-as-prompt", start="recipe"))
    with pytest.raises(UsageError, match="trains without one"):
        plan_study(asked(tmp_path, "direct-adapter-matched"))
    assert {item.control.method for item in study_setting(asked(tmp_path, "rim")).controls()[1]} == {
        "direct-adapter-matched",
        "pause-adapter-matched",
    }


def test_what_the_controls_train_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: dict[str, Trainer] = {}
    real = Trainer.__init__

    def heard(self: Trainer, *args: Any, **others: Any) -> None:
        real(self, *args, **others)
        trained[self.method.name] = self

    monkeypatch.setattr(Trainer, "__init__", heard)
    study = plan_study(asked(tmp_path, "rim", "rim-shuffled-steps", "rim-as-prompt"))
    runs = named(run_plan(study, Heard(), evaluation=False))
    own, other = trained["rim"].data, trained["rim-shuffled-steps"].data
    assert [(e.question, e.answer, len(e.steps)) for e in own] == [(e.question, e.answer, len(e.steps)) for e in other]
    moved = RimShuffledSteps().transform(study[0].study.data[0].examples, 0)
    assert (
        [e.steps for e in other]
        == [trained["rim"].backbone.encode_example(e).steps for e in moved]
        != [e.steps for e in own]
    )
    counts = {name: training_of(run).parameters_trained for name, run in runs.items()}
    assert counts["rim-as-prompt"] == 3 * 32 < counts["rim"]
    kept = trained["rim-as-prompt"].backbone  # the shared start's weights, but for the three rows
    start = trained["cot"].backbone
    for name, p in start.model.named_parameters():
        rows = start.vocabulary if "embed" in name else len(p)
        assert torch.equal(p[:rows], kept.model.get_parameter(name)[:rows])


def test_a_budget_in_flops_is_that_of_the_transformed_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counted(self: RimShuffledSteps, examples: Sequence[Example], seed: int) -> Sequence[Example]:
        seen.append(seed)
        return examples

    monkeypatch.setattr(RimShuffledSteps, "transform", counted)
    options = asked(tmp_path, "rim-shuffled-steps", start="recipe", examples=None, train_flops=10**12, seeds=(5,))
    check_budget(plan_study(options))
    assert seen == [5]


def test_split_passes_change_times_and_nothing_else(tmp_path: Path) -> None:
    options = asked(tmp_path, "pause-curriculum", start="recipe", examples=192)
    (run,) = run_plan(plan_study(options), Heard())
    split = evaluate_stored(run, dataclasses.replace(options, split_passes=True), Heard())
    by_knob = {str(s.knob): key for key, s in run.evaluations().items()}
    assert len(by_knob) == 2 and split.knob == KnobRecord(name="passes", value="split")
    plain, later = run.read_items(by_knob["None"]), run.read_items(by_knob[str(split.knob)])
    assert [i.output for i in plain] == [i.output for i in later]
    assert {b.passes - a.passes for a, b in zip(plain, later, strict=True)} == {3}
    assert (
        evaluate_stored(run, dataclasses.replace(options, split_passes=True), Heard()) == split
        and len(run.evaluations()) == 2
    )


def test_a_repeat_answers_the_same_in_another_order_and_is_no_row(tmp_path: Path) -> None:
    options = asked(tmp_path, "rim")
    (run,) = run_plan(plan_study(options), Heard())
    (key,) = run.evaluations()
    for size in (5, 24):
        summary = evaluate_stored(run, dataclasses.replace(options, eval_batch_size=size, repeat=True), Heard())
        assert summary.repeat and summary.settings.order == "shuffled" and summary.settings.batch_size == size
    first, *others = (
        {i.id: (i.output, i.flops_prefill, [b.answer for b in i.blocks]) for i in run.read_items(k)}
        for k in run.evaluations()
    )
    assert len(others) == 2 and all(first == other for other in others)
    assert [e.key for e in read([run])[0]] == [key]


@pytest.mark.parametrize(
    "budget", [{"examples": 640}, {"examples": None, "train_flops": 3_000_000_000}], ids=["examples", "flops"]
)
def test_direct_and_pause_start_from_what_coconuts_own_first_stage_makes(
    tmp_path: Path, budget: dict[str, int | None]
) -> None:
    study = plan_study(asked(tmp_path, "coconut", "rim", start="recipe", cot_examples=None, **budget))
    runs = run_plan(study, Heard(), evaluation=False)
    coconut = named(runs)["coconut"]
    first = sum(record["stage"] == "cot" for record in coconut.metrics())
    (request,) = warm_options(study, runs, study[0].study.controls()[0])
    assert request.methods == ("direct", "pause") and request.start == "cot" and request.cot_examples == 32 * first > 0
    warm = plan_study(request)
    start = next(c for c in warm if c.is_start)
    made = run_plan(warm, Heard(), evaluation=False)
    assert start.plan.steps == first
    for run in made:  # charged with the start, and at the whole budget of the arm
        told, arm = training_of(run), training_of(coconut)
        assert told.budget.asked == arm.budget.asked and told.inherited_examples == 32 * first
        assert abs(told.budget.used - arm.budget.used) < told.budget.last_step + arm.budget.last_step
    assert not warm_options(study, runs, [c for c in study[0].study.controls()[0] if c.start is None])


def test_a_stage_that_has_not_converged_is_a_start_for_its_controls(tmp_path: Path) -> None:
    """A shared start under the task's bar is refused, for it would be everybody's; here it is no worse than what the
    arm itself had.
    """
    study = plan_study(asked(tmp_path, "coconut", start="recipe", cot_examples=None, quick=False, examples=320))
    runs = run_plan(study, Heard(), evaluation=False)
    (request,) = warm_options(study, runs, study[0].study.controls()[0])
    with pytest.raises(UsageError, match="what starts from it means nothing"):
        run_plan(plan_study(dataclasses.replace(request, any_start=False)), Heard(), evaluation=False)
    assert sorted(named(run_plan(plan_study(request), Heard(), evaluation=False))) == ["direct", "pause"]


def test_every_row_is_asked_the_further_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run --controls --eval-tasks`: the runs of warm starts, too, and the tables are written behind all of them."""
    monkeypatch.setattr(control_rules, "CONTROLS", ())
    text = (Path(__file__).parents[2] / "tasks" / "chain.yaml").read_text()
    (tmp_path / "other.yaml").write_text(
        text.replace("rimbench_chain", "rimbench_other").replace("title: chain", "title: other")
    )
    given = (
        "run --methods coconut --start recipe --controls --quick --limit 12 --examples 320 --device cpu --backbone "
        "layers=1"
    )
    more = ["--backbone", "width=32", "--backbone", "max_positions=96"]
    more += ["--eval-tasks", str(tmp_path / "other.yaml"), "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["rim-bench", *given.split(), *more])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    arms = [r for r in Store(tmp_path).runs()[0] if r.spec.role == "arm"]
    assert stopped.value.code == 0 and len(arms) == 5 and {r.spec.start for r in arms} == {"recipe", "cot"}
    assert all({s.task_title for s in run.evaluations().values()} == {"chain", "other"} for run in arms)
    table = (tmp_path / "table.md").read_text()
    assert (
        "direct (from cot)" in table
        and "its gain is not that of the cot weights that its own first stage makes" in table
    )


def test_runs_that_select_on_test_items_have_no_evaluated_controls(tmp_path: Path) -> None:
    """16-split runs answer the test questions in their own way only: that is said, and nothing is stopped by it."""
    run = fabricated.train(
        Store(tmp_path), "rim", spec={"selection": {"rule": "16-split", "splits": 16, "share": 0.2, "seed": 0}}
    )
    heard: list[str] = []
    reporter = Heard()
    reporter.note = heard.append  # type: ignore[method-assign]
    removed = [c for c in control_rules.CONTROLS if c.label == "rim-blocks-removed"]
    evaluate_controls([run], removed, asked(tmp_path, "rim"), reporter)
    assert (
        len(heard) == 1 and heard[0].startswith("control rim-blocks-removed was not run: ") and "16-split" in heard[0]
    )
