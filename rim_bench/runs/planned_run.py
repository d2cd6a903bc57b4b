"""The runs that a request stands for, before any is trained: method, specification, budget, parent, role.

Imports no torch. The hashes of the training and validation rows are part of every specification, so planning reads
those rows; the test split stays closed.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rim_bench.engine.numerics import numerics_version
from rim_bench.methods.controls import check_trains
from rim_bench.methods.method import Method
from rim_bench.methods.own_methods import check_rows_of
from rim_bench.methods.registry import load_method, method_of
from rim_bench.methods.schedule import NO_TRAINING, TrainingPlan, spans
from rim_bench.methods.search import OF_THE_PLAN, points_to_try
from rim_bench.runs.options import Options
from rim_bench.runs.study import StudySetting, study_setting
from rim_bench.storage.records import RunSpec
from rim_bench.storage.run_folder import Run
from rim_bench.storage.selection import LAST_RULE, CheckpointRule, LearningRateGrid, SpaceSearch
from rim_bench.util.errors import UsageError
from rim_bench.util.own_files import allow, allowed, read_own

if TYPE_CHECKING:
    from rim_bench.runs.tuning import Choice

QUICK_STEPS = 16
Role = Literal["start", "arm", "trial"]


@dataclass(frozen=True)
class PlannedRun:
    """One run to be. It can be sent to another process, which makes the same run of it.

    Attributes:
        study: what it shares with the other runs of its request.
        plan: its training budget, rate, batches and seed.
        parent: the run it starts from; None: the backbone's own weights.
        selection: the rule by which its checkpoint is chosen.
        tuning_trials: rates or points that were tried for its method; None where that is not known.
        values: of a trial, and of an arm that trials chose for: what is tuned, by setting.
        choice: what trials of this request chose, and those trials.
    """

    study: StudySetting
    spec: RunSpec
    plan: TrainingPlan
    parent: PlannedRun | None = None
    role: Role = "arm"
    selection: CheckpointRule = LAST_RULE
    tuning_trials: int | None = None
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    choice: Choice | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # no class of a user's own file

    @cached_property
    def id(self) -> str:
        return self.spec.id

    @cached_property
    def method(self) -> Method:
        """The method that the request named, by its file where it is one's own.

        Raises:
            UsageError: its file is gone, or has changed since the run was planned.
        """
        stored = self.spec.method
        if stored.file is not None and allowed(stored.file_sha256) is None:  # planned in another process
            if (file := read_own(stored.file)).sha256 != stored.file_sha256:
                raise UsageError(f"method file {stored.file!r} has changed since the run was planned: start it again")
            allow(file)
        return method_of(stored)

    @property
    def run(self) -> Run:
        """The run's folder, whether it exists or not."""
        return Run(self.study.store.folder / self.id)

    def check_here(self) -> None:
        """Refuses a run whose rows or method are others in this process than where it was planned.

        Raises:
            UsageError: they are.
        """
        task = self.spec.task
        same = [task.train_sha256, task.validation_sha256] == [rows.sha256 for rows in self.study.data]
        if not same or self.method.settings() != self.spec.method.settings:
            raise UsageError(
                f"run {self.id} is not the same in this process: it needs the same version of rim-bench, the same data "
                "and the same files as the process that started it"
            )

    @property
    def method_given(self) -> str:
        """Its method as the request names it: by its name, or by its file."""
        return self.spec.method.file or self.spec.method.name

    @property
    def is_start(self) -> bool:
        return self.role == "start"

    @property
    def trains(self) -> bool:
        """Whether there is something to train; else the run is the backbone as it is."""
        return self.plan != NO_TRAINING

    @property
    def label(self) -> str:
        text = "shared cot start" if self.is_start else self.spec.method.name
        if self.role == "trial":
            text += ", trial " + " ".join(f"{name} {value:g}" for name, value in self.values.items())
        return f"{text}, seed {self.plan.seed}" if self.plan.seed else text


Plan = tuple[PlannedRun, ...]
"""The runs of one request: seed by seed the shared start and the arms, then the trials."""


def plan_study(options: Options, *, elsewhere: bool = False) -> Plan:
    """Every run of a request. Where something is to be tuned, the arms have the recipe's until `at_choices`.

    Args:
        elsewhere: another machine computes, so the device need not be one of this machine's.

    Raises:
        UsageError: anything in the request or its data that does not fit.
    """
    study = study_setting(options, elsewhere=elsewhere)
    runs: list[PlannedRun] = []
    untrained = [name for name in options.methods if study.method(name).trains == "nothing"]
    for seed in options.seeds:
        parent = None
        if study.start == "cot" and len(untrained) < len(options.methods):
            parent = _planned(study, "cot", _training_plan(study, "cot", seed, is_start=True), role="start")
            runs.append(parent)
        for name in options.methods:
            method = study.method(name)
            check_trains(method, study.backbone, study.start)
            check_rows_of(method, study.data[0].examples, seed)
            if name in untrained:
                if seed == options.seeds[0]:  # one run, whatever the seeds: there is nothing that they would change
                    method.shown(study.data[0].examples)  # refuses more than there are
                    runs.append(_planned(study, name, NO_TRAINING))
                continue
            plan = _training_plan(study, method.name, seed)
            if not plan.flops:  # one in FLOPs is checked by `training.check_budget`, which knows lengths
                spans(method.stages(), plan.steps, study.start)  # refuses a budget under the curriculum's
            runs.append(_planned(study, name, plan, parent))
    return (*runs, *_trials(study, runs))


def arms(plan: Plan) -> Plan:
    """The runs that are compared."""
    return tuple(p for p in plan if p.role == "arm")


def starts(plan: Plan) -> Plan:
    """The shared starts, by seed."""
    return tuple(p for p in plan if p.role == "start")


def trials(plan: Plan) -> Plan:
    """The trials."""
    return tuple(p for p in plan if p.role == "trial")


def at_choices(plan: Plan, choices: Mapping[str, Choice]) -> Plan:
    """The same runs, the arms with what trials chose, by method."""

    def at_choice(planned: PlannedRun) -> PlannedRun:
        choice = choices.get(planned.spec.method.name)
        if planned.role != "arm" or choice is None:
            return planned
        return dataclasses.replace(at_values(planned, choice.winner.values), choice=choice)

    return tuple(map(at_choice, plan))


def at_values(planned: PlannedRun, values: Mapping[str, float]) -> PlannedRun:
    """The same run with other values of what is tuned, by setting."""
    optimizer: dict[str, Any] = {name: value for name, value in values.items() if name in OF_THE_PLAN}
    settings = {name: value for name, value in values.items() if name not in OF_THE_PLAN}
    method = planned.spec.method
    if settings:  # else they stay as they were written, on which the run's id hangs
        method = dataclasses.replace(method, settings=planned.method.with_settings(settings).settings())
    spec = dataclasses.replace(
        planned.spec, optimizer=dataclasses.replace(planned.spec.optimizer, **optimizer), method=method
    )
    plan = dataclasses.replace(planned.plan, **optimizer)
    return dataclasses.replace(planned, spec=spec, plan=plan, values=dict(values))


def _trials(study: StudySetting, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The arms of the smallest seeds, each at every rate or point to try."""
    options = study.options
    if (search := options.search) is None:
        return []
    arms_of = {(p.method_given, p.plan.seed): p for p in runs if p.role == "arm"}
    out = []
    for name in (name for name in options.methods if study.method(name).trains != "nothing"):
        method, plan = study.method(name), arms_of[name, options.trial_seeds[0]].plan
        if isinstance(search, LearningRateGrid):
            points: list[dict[str, float]] = [{"lr": rate} for rate in search.rates]
        else:
            recipe = {"lr": plan.lr, "weight_decay": plan.weight_decay}
            points = points_to_try(method, recipe, study.common_lr, search.points)
        share = (
            {"flops": int(plan.flops * search.share)} if plan.flops else {"examples": int(plan.examples * search.share)}
        )
        for values in points:
            for seed in options.trial_seeds:
                arm = arms_of[name, seed]
                part = dataclasses.replace(arm.plan, **share)
                trial = at_values(_planned(study, name, part, arm.parent, "trial"), values)
                if not trial.plan.flops:
                    spans(trial.method.stages(), trial.plan.steps, study.start)
                out.append(trial)
    return out


def _planned(
    study: StudySetting, name: str, plan: TrainingPlan, parent: PlannedRun | None = None, role: Role = "arm"
) -> PlannedRun:
    """A run with its specification; `name` is the method's, or its file."""
    options = study.options
    method = load_method("cot") if role == "start" else study.method(name)
    chosen: dict[str, Any] = {}  # only where something is: other specifications, and so their ids, are what they were
    trains = plan != NO_TRAINING
    if trains and role != "start" and (rule := options.selection.record()) is not None:
        chosen["selection"] = rule
    if trains and role == "arm" and options.search is not None:
        chosen["tuned"] = options.search.record(options.trial_seeds)
    train, validation = study.data
    if not trains:
        budget = {"examples": 0}
    elif plan.flops:
        budget = {"train_flops": plan.flops}  # what is inherited counts into it; into one in examples it does not
    else:
        inherited = 0 if parent is None else parent.plan.steps * parent.plan.batch_size
        budget = {"examples": plan.steps * plan.batch_size, "inherited_examples": inherited}
    not_optimizer = ("examples", "flops", "seed", "checkpoints")
    optimizer = {k: v for k, v in dataclasses.asdict(plan).items() if k not in not_optimizer}
    spec = {
        "schema": 1,
        "role": role,
        "method": _method_record(options, method, name, role),
        "backbone": study.backbone,
        "task": {
            "name": study.task.name,
            "version": study.task.version,
            "train_sha256": train.sha256,
            "validation_sha256": validation.sha256,
            "train_rows": len(train.examples),
            "steps": options.steps,
            "limit": options.limit,
            **({"registered": False} if train.registered is False else {}),
        },
        "start": "recipe" if role == "start" or not trains else study.start,
        "parent": None if parent is None else parent.id,
        "budget": budget,
        **({"optimizer": {"name": "adamw", **optimizer}, "seed": plan.seed} if trains else {}),
        "dtype": study.precision.dtype,
        "quick": options.quick,
        "numerics": numerics_version(study.precision.dtype),
        **chosen,
    }
    selection = LAST_RULE if role == "start" or not trains else options.selection
    tried: int | None
    if not trains:
        tried = 0
    elif options.search is None or role == "start":
        tried = study.recipe_trials(method)
    else:
        tried = options.search.points if role == "arm" else None
    return PlannedRun(study, RunSpec.from_json(spec), plan, parent, role, selection, tried)


def _method_record(options: Options, method: Method, name: str, role: Role) -> dict[str, Any]:
    changed = sorted(options.settings.get(method.name, {}))
    label = " ".join([method.name, *(f"{k}={getattr(method, k)}" for k in changed)])
    if isinstance(options.search, SpaceSearch) and role != "start" and method.trains != "nothing":
        label += " tuned"  # the values stand in its settings; the seeds of a row share them
    record: dict[str, Any] = {"name": method.name, "label": label, "settings": method.settings()}
    if name.endswith(".py"):
        file = Path(name)
        record |= {"file": str(file.resolve()), "file_sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    return record


def _training_plan(study: StudySetting, method: str, seed: int, *, is_start: bool = False) -> TrainingPlan:
    recipe, options, batch_size = study.task.recipe, study.options, study.batch_size
    rate = float(study.recipe_rates.get("start" if is_start else method, study.common_lr))
    if options.lr is not None and not is_start:  # the shared start stays the same whatever is tried after it
        rate = options.lr
    shared: dict[str, Any] = {
        "batch_size": batch_size,
        "micro_batch": min(batch_size, int(recipe.get("micro_batch", 32))),
        "lr": rate,
        "seed": seed,
    }
    if options.train_flops is not None and not is_start:
        return TrainingPlan(flops=options.train_flops, **shared)
    asked = options.cot_examples if is_start else options.examples
    key = "cot_examples" if is_start else "examples"
    if (examples := recipe.get(key) if asked is None else asked) is None:
        raise UsageError(f"the recipe of task {study.task.name} has no {key}: give --{key.replace('_', '-')} N")
    return TrainingPlan(examples=QUICK_STEPS * batch_size if options.quick and asked is None else examples, **shared)
