"""Planned runs become stored runs: trained, evaluated. Resumable at every point."""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rim_bench.compute.adapters import matched_backbone, matched_shape
from rim_bench.compute.backbones import configuration
from rim_bench.compute.flops import Shape
from rim_bench.compute.training_flops import ROWS, training_cost
from rim_bench.data.datasets import overlap
from rim_bench.data.shortcuts import check_features
from rim_bench.data.task import Task
from rim_bench.engine.backbone import UNTRAINED, Backbone
from rim_bench.engine.devices import fingerprint, peak_memory, pick_device, reset_peak
from rim_bench.engine.distributed import environment as launch_environment
from rim_bench.engine.execution import ALONE, ExecutionContext
from rim_bench.engine.markers import add_markers, train_markers_only
from rim_bench.engine.packing import PackedModel
from rim_bench.engine.pretrained import locate
from rim_bench.engine.trained_model import TrainedModel, build_bridges, load_trained
from rim_bench.engine.trainer import Trainer
from rim_bench.evaluate.evaluation import EvaluationRequest, evaluate_run, evaluated, validation_accuracy
from rim_bench.evidence.split_protocol import held_out
from rim_bench.methods.layout import Layout
from rim_bench.methods.method import Encoded, Example, Method, Stage
from rim_bench.methods.own_methods import Checked, bridges_of, is_own
from rim_bench.methods.schedule import flops_spans, planned_flops
from rim_bench.runs.checkpoints import CheckpointSelector, answered, clean, evaluate_candidates
from rim_bench.runs.planned_run import Plan, PlannedRun, arms, at_choices, trials
from rim_bench.runs.reporting import ANSWER, VALIDATE, watching_answers, watching_training
from rim_bench.runs.study import StudySetting
from rim_bench.runs.trackers import tracked
from rim_bench.runs.tuning import adopt, run_trials, same_training
from rim_bench.storage.records import ProcessesRecord, TrainingRecord, UsedBudgetRecord, ValidationRecord
from rim_bench.storage.run_folder import Run
from rim_bench.storage.selection import BEST, SPLITS
from rim_bench.util.environment import environment
from rim_bench.util.errors import UsageError
from rim_bench.util.files import damage_of
from rim_bench.util.progress import Reporter, Silent, enter_cell, phase

# A whole plan


def run_plan(
    plan: Plan, reporter: Reporter | None = None, *, evaluation: bool = True, execution: ExecutionContext = ALONE
) -> list[Run]:
    """The arms of a plan, trained and evaluated as far as they are not yet.

    Args:
        evaluation: False: train alone; the test split stays closed.

    Raises:
        UsageError: what the user can act on; what is done by then stays.
    """
    reporter = reporter or Silent()
    note_data(plan[0].study, reporter, evaluation=evaluation)
    check_budget(plan)
    if tried := trials(plan):
        for start in {p.parent.id: p.parent for p in tried if p.parent is not None}.values():
            check_start(start, train(start, reporter, execution), reporter)
        plan = at_choices(plan, run_trials(tried, lambda planned: train(planned, reporter, execution), reporter))
    for planned in plan:
        if planned.role == "trial":
            continue
        run = train(planned, reporter, execution)
        if planned.is_start:
            check_start(planned, run, reporter)
        elif evaluation:
            evaluate(planned, reporter, execution)
    return [planned.run for planned in arms(plan)]


def note_data(study: StudySetting, reporter: Reporter, *, evaluation: bool = True) -> None:
    """Notes what there is to say of the data before anything is trained.

    Raises:
        UsageError: too few test questions for the 16-split protocol, or validation rows that choose and are among them.
    """
    train_set, validation_set = study.data
    for note in (*train_set.notes, *validation_set.notes):
        reporter.note(note)
    if study.precision.note is not None:
        reporter.note(study.precision.note)
    if not evaluation:
        return
    examples = evaluation_request(study).dataset().examples
    check_features(study.task, (*train_set.examples, *examples))
    if study.options.checkpoint == SPLITS:
        held_out(len(examples))
    if study.task.form == "choice" and (bad := next((e for e in examples if e.answer not in e.choices), None)):
        raise UsageError(f"task {study.task.name}: {bad.id} offers no choice that is its answer, {bad.answer!r}")
    shared = study.overlap
    if shared.chose and (study.options.checkpoint == BEST or study.options.search is not None):
        rule = "--checkpoint best" if study.options.checkpoint == BEST else "--tune"
        raise UsageError(
            f"{shared.validation_exact} of the {shared.n} test questions stand in the validation set, by which {rule} "
            "chooses: give other validation rows (--file validation=PATH), or leave out the rule"
        )
    if shared.train_exact:
        reporter.note(f"{shared.train_exact} test questions stand in the training set word for word")
    if shared.validation_exact:
        reporter.note(f"{shared.validation_exact} test questions stand in the validation set word for word")


def check_budget(plan: Plan) -> None:
    """Refuses, before anything trains, a budget in FLOPs under what is inherited or under a step of every stage.

    The price of a shared start is known before it is trained, since order and layouts are.
    """
    study = plan[0].study
    if study.options.train_flops is None or all(planned.run.trained for planned in plan):
        return
    with phase("pricing the budget"):
        _check_budget(plan, study)


def _check_budget(plan: Plan, study: StudySetting) -> None:
    backbone = Backbone.create(study.backbone, texts=study.texts, pattern=study.task.token_pattern)
    rows = study.data[0].examples
    plain = [backbone.encode_example(e) for e in rows]
    inherited: dict[str | None, int] = {None: 0}
    for planned in (p for p in plan if p.trains):
        examples = planned.method.transform(rows, planned.plan.seed)
        data = plain if examples is rows else [backbone.encode_example(e) for e in examples]
        price = price_of(backbone, planned.method)
        if not planned.is_start:
            flops_spans(planned.method, data, planned.plan, study.start, inherited[planned.spec.parent], price)
        elif planned.run.trained:
            inherited[planned.id] = _trained_flops(planned.run)
        else:
            inherited[planned.id] = planned_flops(planned.method, data, planned.plan, "recipe", price)


def check_start(planned: PlannedRun, run: Run, reporter: Reporter) -> None:
    """Raises UsageError for a shared start that has not converged: what follows from it would mean nothing."""
    options = planned.study.options
    validation = (run.training() or TrainingRecord()).validation or ValidationRecord()
    accuracy, needed = validation.accuracy, planned.study.task.recipe.get("start_accuracy")
    reporter.note(f"shared cot start: {100 * accuracy:.1f} % on validation (n = {validation.n})")
    if needed is not None and accuracy < needed and not (options.quick or options.any_start):
        raise UsageError(
            f"the shared CoT start {run.id} reached {100 * accuracy:.1f} % on validation, under the "
            f"{100 * needed:.0f} % without which what starts from it means nothing: give it more examples "
            "(--cot-examples) or another seed (--seed)"
        )


# One run: training


def train(planned: PlannedRun, reporter: Reporter | None = None, execution: ExecutionContext = ALONE) -> Run:
    """The trained run, from its newest checkpoint if there is one; nothing is done twice. Its parent must be trained.

    Raises:
        UsageError: a run folder, a device or data that do not fit, or training that diverged.
    """
    reporter, study = reporter or Silent(), planned.study
    device = pick_device(study.device)
    enter_cell(planned.id)
    run = study.store.open(planned.spec)
    with run.lock():
        if run.trained:
            reporter.note(f"{planned.label}: trained already ({run.id})")
            run.remove_checkpoints()  # left there by a kill between the two
            clean(run, planned.selection)
            return run
        if run.evaluations() and run.latest_checkpoint() is None:
            raise UsageError(
                f"run {str(run.path)!r} has evaluations but no weights, which would not be the same if it were "
                "trained again: give another results folder (--out), or move the run away"
            )
        if (damaged := run.damaged_checkpoint()) is not None:
            raise UsageError(
                f"checkpoint {str(damaged)!r} is damaged: {damage_of(damaged)}; move it away to start the run afresh"
            )
        if planned.choice is not None and (won := planned.choice.winner_of(planned.plan.seed)) is not None:
            trial = Run(study.store.folder / won.run)
            if same_training(planned.spec, trial.spec):  # of the same seed, budget and all else
                run.write_environment(_environment(device, study.task))
                adopt(run, trial, _tuning_record(planned, trial.id))
                reporter.note(f"{planned.label}: the winning trial {trial.id} is this run")
                return run
        store = _train_weights if planned.trains else _store_untrained
        store(planned, run, device, reporter, execution)
    return run


def _store_untrained(
    planned: PlannedRun, run: Run, device: torch.device, reporter: Reporter, execution: ExecutionContext
) -> None:
    """Stores the backbone as it is as the run's model, with what its prompts show; the caller holds the run's lock."""
    study, method = planned.study, planned.method
    with nothing_left_of(run), phase(f"preparing {planned.label}"):
        backbone = _initial(planned, device)
        shown = tuple(method.shown(study.data[0].examples))
        trained = TrainedModel(backbone, method, nn.ModuleDict(), planned.spec, execution, shown)
        if shown:
            check_room(trained, study.data[1].examples)
    run.write_environment(_environment(device, study.task))
    summary = TrainingRecord(
        steps=0,
        examples=0,
        inherited_examples=0,
        flops=0,
        inherited_flops=0,
        flops_executed=0,
        flops_padding=0,
        budget=UsedBudgetRecord(kind="examples", asked=0, used=0, last_step=0),
        tuning_trials=planned.tuning_trials,
        tokens=0,
        executed_tokens=0,
        seconds=0.0,
        parameters=backbone.count(),
        parameters_trained=0,
        device=str(device),
        fingerprints=run.fingerprints(),
    )
    with phase(f"storing {planned.label}"):
        run.finish(trained.save, summary, trained.stored_bytes)
    reporter.finished(planned.label)


def check_room(trained: TrainedModel, questions: Sequence[Example]) -> None:
    """Raises UsageError where shown examples leave one of these questions no room for an answer."""
    backbone, method = trained.backbone, trained.method
    longest = max(questions, key=lambda e: len(trained.question(e.question)))
    answer = len(backbone.encode_example(longest).answer)
    needed = method.lay_prompt(trained.question(longest.question)).depth + answer
    if needed > backbone.max_positions:
        raise UsageError(
            f"{method.name} shows {len(trained.shown)} examples: with question {longest.id!r} and its answer that "
            f"takes {needed:,} positions, and the model has {backbone.max_positions:,}; show fewer"
        )


def _train_weights(
    planned: PlannedRun, run: Run, device: torch.device, reporter: Reporter, execution: ExecutionContext
) -> None:
    """Trains and stores the weights; the caller holds the run's lock."""
    study, method, plan = planned.study, planned.method, planned.plan
    group, strategy = execution.group, study.options.strategy or launch_environment.STRATEGIES[0]
    processes = {} if group is None else {"processes": group.record(device, strategy)}
    with nothing_left_of(run), phase(f"preparing {planned.label}"):
        backbone = _initial(planned, device)
        bridges = build_bridges(method, backbone, plan.seed)
        data = [backbone.encode_example(e) for e in method.transform(study.data[0].examples, plan.seed)]
        trained = TrainedModel(backbone, method, bridges, planned.spec, execution)
        looking = evaluation_request(study, "validation", method=method)
        watcher = CheckpointSelector(run, planned.selection, trained, looking)
        parent = planned.parent
        inherited = 0 if parent is None else _trained_flops(parent.run)
        start = str(planned.spec.start)
        trainer = Trainer(backbone, method, bridges, data, plan, run, start, inherited, watcher, group, strategy)
        check_rows(backbone, data, method, [s.stage for s in trainer.spans], bridges)
    decided = {} if study.precision.asked is None else {"dtype": study.precision.record()}
    run.write_environment(_environment(device, study.task, 1 if group is None else group.size) | processes | decided)
    reset_peak(device)
    with phase(f"training {planned.label}"), tracked(run, study.options.track, study.options.out) as journal:
        trainer.journal = journal
        outcome = trainer.run(watching_training(planned, reporter, device))
    bridges.eval()
    peak = max(watcher.peak, peak_memory(device))  # before validation
    if (validation := watcher.validation) is None:
        with phase(f"answering the validation questions of {planned.label}") as validating:
            accuracy, n = validation_accuracy(trained, looking, watching_answers(VALIDATE, validating.advance))
        validation = ValidationRecord(accuracy=accuracy, n=n)
    train_set, held = study.data
    shown = overlap(train_set.examples, held.examples)
    validation = dataclasses.replace(validation, train_exact=shown or None)
    inherited_examples = 0 if parent is None else parent.plan.steps * parent.plan.batch_size
    if plan.flops:
        kind, asked, used, last_step = "train-flops", plan.flops, outcome.flops + inherited, outcome.last_step_flops
    else:
        kind, asked, last_step = "examples", plan.examples + inherited_examples, plan.batch_size
        used = outcome.examples + inherited_examples
    summary = TrainingRecord(
        steps=outcome.steps,
        examples=outcome.examples,
        inherited_examples=inherited_examples,
        flops=outcome.flops,
        inherited_flops=inherited,
        flops_executed=outcome.flops_executed,
        flops_padding=outcome.flops_padding,
        budget=UsedBudgetRecord(kind=kind, asked=asked, used=used, last_step=last_step),
        **_tuning_record(planned),
        tokens=outcome.tokens,
        executed_tokens=outcome.executed,
        seconds=round(outcome.seconds, 3),
        examples_per_s=round(outcome.examples / outcome.seconds, 3),
        final_loss=outcome.final_loss,
        validation=validation,
        selection=watcher.record(),
        parameters=backbone.count(),
        parameters_trained=backbone.count(training_only=True),
        peak_memory_bytes=peak,
        device=str(device),
        processes=None if group is None else ProcessesRecord.from_json(group.record(device, strategy)),
        fingerprints=run.fingerprints(),
    )
    with phase(f"storing {planned.label}"):
        run.finish(watcher.write, summary, trained.stored_bytes)
    run.remove_checkpoints()
    watcher.clean()
    reporter.finished(planned.label)
    if planned.selection.record() is not None and (chosen := watcher.chosen) is not None:
        what = f"the checkpoint of step {chosen.step:,} of {outcome.steps:,} (stage {chosen.stage!r})"
        accuracy_text = f"{100 * chosen.accuracy:.1f} % on validation (n = {chosen.n}), the best"
        reporter.note(f"{planned.label}: {what}, {accuracy_text}")


def _tuning_record(planned: PlannedRun, adopted: str | None = None) -> dict[str, Any]:
    """Fields of the training record on what trials chose; `adopted` is the trial whose weights the run has."""
    tried: dict[str, Any] = {"tuning_trials": planned.tuning_trials}
    return tried if planned.choice is None else tried | {"tuning": planned.choice.record(adopted)}


def _trained_flops(run: Run) -> int:
    """What a trained run cost, inherited cost included."""
    stored = run.training() or TrainingRecord()
    if stored.flops is None:
        raise UsageError(
            f"start {str(run.path)!r} was trained before FLOPs were counted: move it away to have it trained again"
        )
    return stored.flops + (stored.inherited_flops or 0)


def _initial(planned: PlannedRun, device: torch.device) -> Backbone:
    """The weights a run starts from: its parent's, or the backbone's own."""
    study, method, seed = planned.study, planned.method, planned.plan.seed
    if planned.parent is None:
        spec = study.backbone
        if method.trains == "nothing":  # not in an adapter's shell, which would cost and change nothing
            spec = {**spec, "tuning": UNTRAINED}
        if method.adapter_of is not None:  # of another adapter rank, to match that method's parameters
            shape = Shape.of(configuration(str(locate(spec))))
            spec = matched_backbone(spec, shape, method)
        pattern = study.task.token_pattern
        backbone = Backbone.create(
            spec,
            texts=study.texts,
            pattern=pattern,
            markers=method.markers(),
            seed=seed,
            device=device,
            dtype=planned.spec.dtype,
        )
    else:
        parent = study.store.open(planned.parent.spec)
        backbone = Backbone.load(parent.model_path(), device=device, dtype=planned.spec.dtype)
        add_markers(backbone, method.markers(), seed)
    if method.trains == "markers":
        train_markers_only(backbone)
    return backbone


@contextmanager
def nothing_left_of(run: Run) -> Iterator[None]:
    """Removes the folder of a run that is refused before it ever began; one that has begun stays."""
    try:
        yield
    except UsageError:
        if not (run.path / "environment.json").exists():
            shutil.rmtree(run.path, ignore_errors=True)
        raise


def check_rows(
    backbone: Backbone, data: Sequence[Encoded], method: Method, stages: Sequence[Stage], bridges: nn.ModuleDict
) -> None:
    """Refuses, before training, rows that the method cannot lay out or that the model has no positions for.

    Rows of equal lengths are tried once; a stage is tried as it begins, when nothing of an example is left out yet.
    """
    shapes = {(len(e.question), tuple(map(len, e.steps)), len(e.answer)): e for e in reversed(data)}
    checked = Checked(method) if is_own(type(method)) else None
    if checked is not None:
        checked.check_layouts(shapes.values())
    for stage in stages:
        for example in shapes.values():
            layout = method.lay_train(example, stage, 0.0, random.Random(0))
            if checked is not None:
                for token in layout.tokens:
                    _ = token is None or backbone.resolve(token)
                if missing := {s.bridge for s in layout.segments if s.bridge is not None} - set(bridges):
                    raise checked.wrong("bridges", f"does not have the module {sorted(missing)[0]!r} of lay_train")
            if (need := layout.depth) > backbone.max_positions:
                longer = int(backbone.causal.config.max_position_embeddings)
                why = f" (of {longer:,}, before its frequencies change)" if longer > backbone.max_positions else ""
                raise UsageError(
                    f"training row {example.id!r} needs {need} positions with {method.name} (stage {stage.name!r}), "
                    f"the model has {backbone.max_positions}{why}: use a model with more (for from-scratch ones: "
                    "--backbone max_positions=N)"
                )


def price_of(backbone: Backbone, method: Method) -> Callable[[Layout], int]:
    """Training FLOPs of a layout for a method whose markers and bridges the backbone does not have yet."""
    markers = method.markers()
    plain = PackedModel(backbone, bridges_of(method, backbone.width)).shape()
    shape = dataclasses.replace(plain, vocabulary=max(plain.vocabulary, backbone.vocabulary + len(markers)))
    shape = matched_shape(shape, method)
    trains = ROWS if method.trains == "markers" else backbone.trains()
    trains = dataclasses.replace(trains, inputs=trains.inputs or bool(markers))
    return lambda layout: training_cost(shape, trains, layout)


def gpu_info(device: torch.device) -> dict[str, Any] | None:
    """The GPU that is used, as data; None without one."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return {"name": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}


def _environment(device: torch.device, task: Task, processes: int = 1) -> dict[str, Any]:
    """Of one start; `processes` train together."""
    own = {} if task.file_sha256 is None else {"task_file": {"path": str(task.path), "sha256": task.file_sha256}}
    how = {"torch_threads": torch.get_num_threads(), "fingerprint": fingerprint(device, processes).to_json()}
    return environment(gpu=gpu_info(device)) | how | own


# One run: evaluation


def evaluation_request(
    study: StudySetting, split: str = "test", effort: int | None = None, method: Method | None = None
) -> EvaluationRequest:
    """The evaluation that goes with a study; `method`: whose answers, where that decides how long they may be."""
    options = study.options
    return EvaluationRequest(
        study.task,
        options.data,
        options.files,
        options.steps,
        study.evaluation_limit,
        split,
        effort,
        study.max_tokens(method),
        options.eval_batch_size,
        options.quick,
        device=torch.device(study.device).type,
        allow_changed=options.allow_changed_data,
    )


def is_evaluated(planned: PlannedRun) -> bool:
    """Whether the evaluation that goes with its study is stored."""
    stored = answered if planned.selection.rule == SPLITS else evaluated
    return stored(planned.run, evaluation_request(planned.study, method=planned.method)) is not None


def evaluate(planned: PlannedRun, reporter: Reporter | None = None, execution: ExecutionContext = ALONE) -> Run:
    """The trained run with the evaluation that goes with its study; what is stored is not done again."""
    reporter, run = reporter or Silent(), planned.run
    request = evaluation_request(planned.study, method=planned.method)
    device, label = pick_device(planned.study.device), planned.label
    enter_cell(planned.id)
    with run.lock():
        if is_evaluated(planned):
            reporter.note(f"{label}: evaluated already")
            return run

        def show(done: int, total: int) -> None:
            reporter.evaluating(label, done, total)

        shown = watching_answers(ANSWER, show)
        if planned.selection.rule == SPLITS:
            evaluate_candidates(run, request, device, planned.study.overlap, shown, execution)
        else:
            trained = load_trained(run, device=device, execution=execution)
            summary = evaluate_run(run, trained, request, shown, {"overlap": planned.study.overlap})
            if (noise := summary.noise) is not None:
                reporter.note(
                    f"{label}: {noise.answers} of {noise.n} answers, and {noise.correct} of their marks, are others in "
                    f"shuffled batches of {noise.batch_size} (the noise floor of {trained.backbone.computes})"
                )
        reporter.finished(label)
    return run
