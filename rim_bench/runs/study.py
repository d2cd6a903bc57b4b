"""From what a user asks to stored runs: specifications, shared starts, training, evaluation.

Resumable at every point.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from rim_bench.compute.adapters import matched_backbone
from rim_bench.compute.backbones import resolve_backbone
from rim_bench.compute.flops import Shape
from rim_bench.data.datasets import overlap, training_data
from rim_bench.data.task import Task, load_task
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.devices import named_device, peak_memory, pick_device, reset_peak
from rim_bench.engine.distributed import environment as launch_environment
from rim_bench.engine.execution import ALONE, ExecutionContext
from rim_bench.engine.markers import add_markers, train_markers_only
from rim_bench.engine.pretrained import locate
from rim_bench.engine.trained_model import TrainedModel, build_bridges, load_trained
from rim_bench.engine.trainer import Outcome, Trainer
from rim_bench.evaluate.evaluation import EvaluationRequest, evaluate_run, evaluated, validation_accuracy
from rim_bench.evidence.split_protocol import held_out
from rim_bench.methods.controls import Control, LeftOut, check_trains, controls_for, matched_settings
from rim_bench.methods.method import Method
from rim_bench.methods.registry import load_method
from rim_bench.methods.schedule import TrainingPlan, flops_spans, planned_flops, spans
from rim_bench.runs.checkpoints import CheckpointSelector, answered, clean, evaluate_candidates
from rim_bench.runs.options import QUICK_ROWS, Options
from rim_bench.runs.planned_run import (
    PlannedRun,
    budget_record,
    check_rows,
    gpu_info,
    nothing_left_of,
    price_of,
    training_text,
)
from rim_bench.runs.tuning import Choice, adopt, run_trials, same_training
from rim_bench.storage.records import RunSpec, TrainingRecord, spec_id
from rim_bench.storage.run_folder import Run, Store
from rim_bench.storage.selection import SPLITS
from rim_bench.util.environment import environment
from rim_bench.util.errors import UsageError, unknown
from rim_bench.util.progress import Reporter

STARTS = ("recipe", "cot")
QUICK_STEPS = 16


class Study:
    """The runs of one request, with the data they share.

    `elsewhere`: another machine computes, so the device need not be one of this machine's.

    Raises:
        UsageError: anything in the request that does not fit, before a run starts.
    """

    def __init__(self, options: Options, *, elsewhere: bool = False, execution: ExecutionContext = ALONE) -> None:
        self.options, self.execution = options, execution
        self.task: Task = load_task(options.task)
        self.recipe = self.task.recipe
        self.store = Store(options.out)
        self.device = named_device(options.device) if elsewhere and options.device else pick_device(options.device)
        self.start = self._start()
        self._check_settings()
        self.backbone_spec = self._backbone()
        self.train_set, self.validation_set = training_data(
            self.task,
            data=options.data,
            steps=options.steps,
            limit=options.limit,
            files=options.files,
            allow_changed=options.allow_changed_data,
        )
        self.choices: dict[str, Choice] = {}  # method -> its learning rate, once trials have found it
        self.cells = self._all_cells()
        self.trials = self._trial_cells()

    # what is asked

    def _start(self) -> str:
        start = self.options.start or str(self.recipe.get("start", "recipe"))
        if start not in STARTS:
            raise unknown("start", start, STARTS)
        return start

    def _check_settings(self) -> None:
        names = [self.method(name).name for name in self.options.methods]
        if not names:
            raise UsageError("no method was given: name at least one, see `rim-bench list methods`")
        if twice := {n for n in names if names.count(n) > 1}:
            raise UsageError(f"method {', '.join(sorted(twice))} was given twice")
        for name in self.options.settings:
            if name not in names:
                raise UsageError(
                    f"--set {name}.…: method {name!r} is not among the methods of this run ({', '.join(names)})"
                )
        for seed in self.options.seeds:
            if seed < 0:
                raise UsageError(f"seed {seed} must be 0 or more")
        if len(set(self.options.seeds)) < len(self.options.seeds) or not self.options.seeds:
            raise UsageError(f"seeds {list(self.options.seeds)} must be distinct, and at least one")

    def _backbone(self) -> dict[str, Any]:
        name = self.options.model or str(self.recipe.get("backbone", "gpt2"))
        settings = dict(self.options.backbone)
        if name == self.recipe.get("backbone"):
            settings = {**self.recipe.get("backbone_settings", {}), **settings}
        if self.options.tuning is not None:
            settings["tuning"] = self.options.tuning
        return resolve_backbone(name, settings)

    def method(self, name: str) -> Method:
        """A method with the task's settings for it, and then the user's."""
        base = load_method(name)
        recipe = dict(self.recipe.get("methods", {}).get(base.name, {}))
        return load_method(name, {**recipe, **self.options.settings.get(base.name, {})})

    @property
    def _origin(self) -> str:
        """Which of a recipe's numbers are meant, where it has them for both kinds of backbone."""
        return "scratch" if self.backbone_spec["kind"] == "scratch" else "pretrained"

    @property
    def _batch_size(self) -> int:
        """The recipe's: one number, or one for each kind of backbone."""
        given = self.recipe.get("batch_size", 32)
        return int(given[self._origin] if isinstance(given, dict) else given)

    def _lr(self, method: str, is_start: bool) -> float:
        if self.options.lr is not None and not is_start:  # the shared start stays the same whatever is tried behind it
            return self.options.lr
        if method in self.choices and not is_start:
            return self.choices[method].winner.lr
        table = self.recipe.get("lr", {})
        table = table.get(self._origin, {})
        return float(table.get("start" if is_start else method, table.get("default", 1e-3)))

    def _plan(self, method: str, seed: int, is_start: bool) -> TrainingPlan:
        recipe, options = self.recipe, self.options
        batch_size = options.batch_size or self._batch_size
        launch_environment.check_batch(batch_size)
        shared: dict[str, Any] = {
            "batch_size": batch_size,
            "micro_batch": min(batch_size, int(recipe.get("micro_batch", 32))),
            "lr": self._lr(method, is_start),
            "seed": seed,
        }
        if options.train_flops is not None and not is_start:
            return TrainingPlan(flops=options.train_flops, **shared)
        given = options.cot_examples if is_start else options.examples
        examples = given if given is not None else int(recipe["cot_examples" if is_start else "examples"])
        if options.quick and given is None:
            examples = QUICK_STEPS * batch_size
        return TrainingPlan(examples=examples, **shared)

    def _trials(self, cell: PlannedRun) -> int | None:
        """Learning rates that were tried for this method: by this request, or as the recipe says; None where it does
        not speak of it, or
        was not followed."""
        if self.options.tune is not None and not cell.is_start:
            return len(self.options.tune.rates) if cell.role == "arm" else None
        table = self.recipe.get("lr", {}).get(self._origin, {})
        options, recipe = self.options, self.recipe
        followed = (
            options.lr is None
            and cell.method.name in recipe.get("tuned", table)
            and not options.settings.get(cell.method.name)
            and cell.plan.batch_size == self._batch_size
            and self.start == recipe.get("start", "recipe")
            and self.backbone_spec
            == resolve_backbone(str(recipe.get("backbone", "gpt2")), recipe.get("backbone_settings", {}))
        )
        trials = self.recipe.get("tuning_trials")
        return int(trials) if followed and trials is not None else None

    def controls(self) -> tuple[tuple[Control, ...], tuple[LeftOut, ...]]:
        """The controls of the compared methods, and those that cannot be run here, each with the claim that it
        tests.
        """
        return controls_for([self.method(name) for name in self.options.methods], self.start, self.backbone_spec)

    def with_controls(self) -> Options:
        """The same request with the runs of its controls; evaluations and controls of another start are not runs of
        this study.
        """
        options = self.options
        methods = {m.name: m for m in map(self.method, options.methods)}
        names, settings = list(options.methods), {k: dict(v) for k, v in options.settings.items()}
        for control in self.controls()[0]:
            if control.method in methods or control.start is not None:
                continue
            if control.method not in names:
                names.append(control.method)
            if control.of in methods:
                usual, shared = self.method(control.method), matched_settings(control, methods[control.of])
                changed = {k: v for k, v in shared.items() if getattr(usual, k) != v}
                settings[control.method] = {**changed, **settings.get(control.method, {})}
        return dataclasses.replace(options, methods=tuple(names), settings={k: v for k, v in settings.items() if v})

    # the runs

    def _all_cells(self) -> tuple[PlannedRun, ...]:
        """Starts and arms of every seed; with learning rates to be tuned, the arms' rates are the recipe's until their
        trials are done.
        """
        return tuple(cell for seed in self.options.seeds for cell in self._cells(seed))

    def _trial_cells(self) -> tuple[PlannedRun, ...]:
        """The arms of the smallest seed, each at every rate to try."""
        if (grid := self.options.tune) is None:
            return ()
        out = []
        for arm in (c for c in self.cells if c.role == "arm" and c.plan.seed == min(self.options.seeds)):
            name = next(n for n in self.options.methods if self.method(n).name == arm.method.name)
            for rate in grid.rates:
                whole = (
                    {"flops": int(arm.plan.flops * grid.share)}
                    if arm.plan.flops
                    else {"examples": int(arm.plan.examples * grid.share)}
                )
                plan = dataclasses.replace(arm.plan, lr=rate, **whole)
                if not plan.flops:
                    spans(arm.method.stages(), plan.steps, self.start)
                spec = self._spec(arm.method, plan, arm.parent, name, "trial")
                out.append(PlannedRun(arm.method, spec, plan, arm.parent, "trial", arm.selection))
        return tuple(out)

    def _cells(self, seed: int) -> list[PlannedRun]:
        parent = None
        if self.start == "cot":
            method = load_method("cot")
            plan = self._plan("cot", seed, True)
            parent = PlannedRun(method, self._spec(method, plan, None, "cot", "start"), plan, role="start")
        cells = [] if parent is None else [parent]
        for name in self.options.methods:
            method = self.method(name)
            check_trains(method, self.backbone_spec, self.start)
            plan = self._plan(method.name, seed, False)
            if not plan.flops:  # one in FLOPs is looked at in `check_budget`, when lengths are known
                spans(method.stages(), plan.steps, self.start)  # refuses a budget that the curriculum does not fit into
            cells.append(
                PlannedRun(
                    method, self._spec(method, plan, parent, name), plan, parent, selection=self.options.selection
                )
            )
        return cells

    def _spec(
        self, method: Method, plan: TrainingPlan, parent: PlannedRun | None, name: str, role: str = "arm"
    ) -> dict[str, Any]:
        changed = sorted(self.options.settings.get(method.name, {}))
        label = " ".join([method.name, *(f"{k}={getattr(method, k)}" for k in changed)])
        given: dict[str, Any] = {"name": method.name, "label": label, "settings": method.settings()}
        if name.endswith(".py"):
            given |= {
                "file": str(Path(name).resolve()),
                "file_sha256": hashlib.sha256(Path(name).read_bytes()).hexdigest(),
            }
        optimizer = {
            k: v for k, v in dataclasses.asdict(plan).items() if k not in ("examples", "flops", "seed", "checkpoints")
        }
        chosen: dict[
            str, Any
        ] = {}  # only where something is: other specifications, and so their ids, are what they were
        if role != "start" and (rule := self.options.selection.record()) is not None:
            chosen["selection"] = rule
        if role == "arm" and self.options.tune is not None:
            chosen["tuned"] = self.options.tune.record(min(self.options.seeds))
        return {
            "schema": 1,
            "role": role,
            "method": given,
            "backbone": self.backbone_spec,
            "task": {
                "name": self.task.name,
                "version": self.task.version,
                "train_sha256": self.train_set.sha256,
                "validation_sha256": self.validation_set.sha256,
                "train_rows": len(self.train_set.examples),
                "steps": self.options.steps,
                "limit": self.options.limit,
                **({"registered": False} if self.train_set.registered is False else {}),
            },
            "start": "recipe" if role == "start" else self.start,
            "parent": None if parent is None else spec_id(parent.spec),
            "budget": budget_record(plan, parent),
            "optimizer": {"name": "adamw", **optimizer},
            "seed": plan.seed,
            "dtype": "bfloat16" if self.device.type == "cuda" else "float32",
            "quick": self.options.quick,
            **chosen,
        }

    def request(self, split: str = "test", effort: int | None = None) -> EvaluationRequest:
        """The evaluation that goes with this study."""
        options = self.options
        limit = options.limit if options.limit is not None or not options.quick else QUICK_ROWS
        return EvaluationRequest(
            self.task,
            options.data,
            options.files,
            options.steps,
            limit,
            split,
            effort,
            options.max_tokens or int(self.recipe.get("max_tokens", 128)),
            options.eval_batch_size,
            options.quick,
            device=self.device.type,
            allow_changed=options.allow_changed_data,
        )

    @cached_property
    def texts(self) -> list[str]:
        """What a tokenizer from scratch is built on: the training text, nothing else."""
        return [training_text(e) for e in self.train_set.examples]

    # the work

    def run(self, reporter: Reporter, *, evaluation: bool = True) -> list[Run]:
        """Train and evaluate every cell that is not done yet; returns the runs of the arms."""
        self.warn(reporter, evaluation)
        self.check_budget()
        self._tune(reporter)
        runs = []
        for cell in self.cells:
            run = self.train(cell, reporter)
            if cell.is_start:
                self.check_start(cell, run, reporter)
                continue
            runs.append(run)
            if evaluation:
                self.evaluate(cell, run, reporter)
        return runs

    def _tune(self, reporter: Reporter) -> None:
        """Find every method's learning rate, if that is asked: the arms are known only then."""
        if self.options.tune is None:
            return
        for start in {spec_id(c.parent.spec): c.parent for c in self.trials if c.parent is not None}.values():
            self.check_start(start, self.train(start, reporter), reporter)
        self.choose(run_trials(self, self.trials, self.options.tune, reporter))

    def choose(self, choices: Mapping[str, Choice]) -> None:
        """Take the learning rates that trials have found, by method; the arms are those at these rates from now on."""
        self.choices = dict(choices)
        self.cells = self._all_cells()

    def warn(self, reporter: Reporter, evaluation: bool) -> None:
        """What there is to say of the data before anything is trained."""
        for note in (*self.train_set.notes, *self.validation_set.notes):
            reporter.note(note)
        if not evaluation:  # training alone never opens the test split
            return
        request = self.request()
        examples = request.dataset().examples
        if self.options.checkpoint == SPLITS:
            held_out(len(examples))  # refuses too few questions before anything trains
        if shared := overlap(self.train_set.examples, examples):
            reporter.note(f"{shared} test questions stand in the training set word for word")

    def check_budget(self) -> None:
        """Refuse, before anything trains, a budget in FLOPs that is less than what is inherited or than a step of every
        stage.

        The price of the shared start is known before it is trained: order and layouts are.
        """
        cells = (*self.cells, *self.trials)
        if self.options.train_flops is None or all(self._run(c).trained for c in cells):
            return
        backbone = Backbone.create(self.backbone_spec, texts=self.texts, pattern=self.task.token_pattern)
        plain = [backbone.encode_example(e) for e in self.train_set.examples]
        inherited: dict[str, int] = {}
        for cell in cells:
            examples = cell.method.transform(self.train_set.examples, cell.plan.seed)
            data = plain if examples is self.train_set.examples else [backbone.encode_example(e) for e in examples]
            price = price_of(backbone, cell)
            if cell.is_start:
                trained = self._run(cell).trained
                found = (
                    self._flops(self._run(cell))
                    if trained
                    else planned_flops(cell.method, data, cell.plan, "recipe", price)
                )
                inherited[spec_id(cell.spec)] = found
            else:
                flops_spans(cell.method, data, cell.plan, self.start, inherited.get(str(cell.spec["parent"]), 0), price)

    def _run(self, cell: PlannedRun) -> Run:
        """The cell's run, whether its folder exists or not."""
        return Run(self.store.folder / spec_id(cell.spec))

    def train(self, cell: PlannedRun, reporter: Reporter) -> Run:
        """Train one cell, from its newest checkpoint if there is one; nothing is done twice."""
        run = self.store.open(cell.spec)
        with run.lock():
            if run.trained:
                reporter.note(f"{cell.label}: trained already ({run.id})")
                run.remove_checkpoints()  # left there by a kill between the two
                clean(run, cell.selection)
                return run
            if run.evaluations() and run.latest_checkpoint() is None:
                raise UsageError(
                    f"run {str(run.path)!r} has evaluations but no weights, which would not be the same if it were "
                    "trained again: "
                    "give another results folder (--out), or move the run away"
                )
            if (trial := self._winner(cell)) is not None:
                run.write_environment(
                    environment(gpu=gpu_info(self.device)) | {"torch_threads": torch.get_num_threads()}
                )
                adopt(run, trial, self._tuning(cell, trial.id))
                reporter.note(f"{cell.label}: the winning trial {trial.id} is this run")
                return run
            with nothing_left_of(run):
                backbone = self._initial(cell)
                bridges = build_bridges(cell.method, backbone, cell.plan.seed)
                data = [
                    backbone.encode_example(e) for e in cell.method.transform(self.train_set.examples, cell.plan.seed)
                ]
                start = "recipe" if cell.is_start else self.start
                trained = TrainedModel(backbone, cell.method, bridges, RunSpec.from_json(cell.spec), self.execution)
                watcher = CheckpointSelector(run, cell.selection, trained, self.request("validation"))
                inherited, group, strategy = (
                    self._inherited(cell),
                    self.execution.group,
                    self.options.strategy or launch_environment.STRATEGIES[0],
                )
                trainer = Trainer(
                    backbone, cell.method, bridges, data, cell.plan, run, start, inherited, watcher, group, strategy
                )
                check_rows(backbone, data, cell.method, [s.stage for s in trainer.spans])
            run.write_environment(
                environment(gpu=gpu_info(self.device)) | {"torch_threads": torch.get_num_threads()} | self._processes()
            )
            reset_peak(self.device)
            outcome = trainer.run(lambda p: reporter.training(cell.label, p))
            bridges.eval()
            summary = self._training_summary(cell, trained, outcome, watcher)
            run.finish(watcher.write, summary)
            run.remove_checkpoints()
            watcher.clean()
            reporter.finished(cell.label)
            if cell.selection.record() is not None and (chosen := watcher.chosen) is not None:
                what = f"the checkpoint of step {chosen['step']:,} of {outcome.steps:,} (stage {chosen['stage']!r})"
                reporter.note(
                    f"{cell.label}: {what}, {100 * chosen['accuracy']:.1f} % on validation (n = {chosen['n']}), the "
                    "best"
                )
        return run

    def _processes(self) -> dict[str, Any]:
        """What records say of the processes that train; nothing where there is one."""
        team = self.execution.group
        return (
            {}
            if team is None
            else {"processes": team.record(self.device, self.options.strategy or launch_environment.STRATEGIES[0])}
        )

    def _winner(self, cell: PlannedRun) -> Run | None:
        """The trial that this cell would only repeat: the winner of its method, of the same seed, budget and all
        else.
        """
        if cell.role != "arm" or cell.method.name not in self.choices:
            return None
        winner = self.choices[cell.method.name].winner.run
        trial = next(t for t in self.trials if spec_id(t.spec) == winner)
        return self._run(trial) if same_training(cell.spec, trial.spec) else None

    def _tuning(self, cell: PlannedRun, adopted: str | None = None) -> dict[str, Any]:
        """What train.json says of the learning rate's choice."""
        told: dict[str, Any] = {"tuning_trials": self._trials(cell)}
        if cell.role == "arm" and cell.method.name in self.choices:
            told["tuning"] = self.choices[cell.method.name].record(adopted)
        return told

    def _inherited(self, cell: PlannedRun) -> int:
        """Training FLOPs of the weights that a cell starts from; its parent is trained."""
        if cell.parent is None:
            return 0
        return self._flops(self._run(cell.parent))

    @staticmethod
    def _flops(run: Run) -> int:
        """What a trained run cost, inherited cost included."""
        stored = run.training() or TrainingRecord()
        if "flops" not in stored:
            raise UsageError(
                f"start {str(run.path)!r} was trained before FLOPs were counted: move it away to have it trained again"
            )
        return int(stored["flops"]) + int(stored["inherited_flops"])

    def _initial(self, cell: PlannedRun) -> Backbone:
        """The weights a cell starts from: its parent's, or the backbone's own."""
        seed = cell.plan.seed
        if cell.parent is None:
            backbone = Backbone.create(
                self._backbone_of(cell.method),
                texts=self.texts,
                pattern=self.task.token_pattern,
                markers=cell.method.markers(),
                seed=seed,
                device=self.device,
            )
        else:
            parent = Store(self.options.out).open(cell.parent.spec)
            backbone = Backbone.load(parent.model_path(), device=self.device)
            add_markers(backbone, cell.method.markers(), seed)
        if cell.method.trains == "markers":
            train_markers_only(backbone)
        return backbone

    def _backbone_of(self, method: Method) -> dict[str, Any]:
        """The backbone's record as this method trains it: of another adapter rank, where it has one to match."""
        if method.adapter_of is None:
            return self.backbone_spec
        config = json.loads((locate(self.backbone_spec) / "config.json").read_text("utf-8"))
        return matched_backbone(self.backbone_spec, Shape.of(config), method)

    def _training_summary(
        self, cell: PlannedRun, trained: TrainedModel, outcome: Outcome, watcher: CheckpointSelector
    ) -> dict[str, Any]:
        peak = max(watcher.peak, peak_memory(self.device))  # before validation
        if (validation := watcher.validation) is None:
            accuracy, n = validation_accuracy(trained, self.request("validation"))
            validation = {"n": n, "accuracy": accuracy}
        looked = watcher.record()
        inherited, plan = self._inherited(cell), cell.plan
        inherited_examples = 0 if cell.parent is None else cell.parent.plan.steps * cell.parent.plan.batch_size
        if plan.flops:
            budget = {
                "kind": "train-flops",
                "asked": plan.flops,
                "used": outcome.flops + inherited,
                "last_step": outcome.last_step_flops,
            }
        else:
            asked = plan.examples + inherited_examples
            budget = {
                "kind": "examples",
                "asked": asked,
                "used": outcome.examples + inherited_examples,
                "last_step": plan.batch_size,
            }
        return {
            "steps": outcome.steps,
            "examples": outcome.examples,
            "inherited_examples": inherited_examples,
            "flops": outcome.flops,
            "inherited_flops": inherited,
            "flops_executed": outcome.flops_executed,
            "flops_padding": outcome.flops_padding,
            "budget": budget,
            **self._tuning(cell),
            "tokens": outcome.tokens,
            "executed_tokens": outcome.executed,
            "seconds": round(outcome.seconds, 3),
            "examples_per_s": round(outcome.examples / outcome.seconds, 3),
            "final_loss": outcome.final_loss,
            "validation": validation,
            **({} if looked is None else {"selection": looked}),
            "parameters": trained.backbone.count(),
            "parameters_trained": trained.backbone.count(training_only=True),
            "peak_memory_bytes": peak,
            "device": str(self.device),
            **self._processes(),
        }

    def check_start(self, cell: PlannedRun, run: Run, reporter: Reporter) -> None:
        """Raises UsageError for a start that has not converged:
        what follows from it would mean nothing (METHODS, Common to all).
        """
        training = run.training() or TrainingRecord()
        accuracy, needed = training["validation"]["accuracy"], self.recipe.get("start_accuracy")
        reporter.note(f"shared cot start: {100 * accuracy:.1f} % on validation (n = {training['validation']['n']})")
        if needed is not None and accuracy < needed and not (self.options.quick or self.options.any_start):
            raise UsageError(
                f"the shared CoT start {run.id} reached {100 * accuracy:.1f} % on validation, under the "
                f"{100 * needed:.0f} % without which "
                "what starts from it means nothing: give it more examples (--cot-examples) or another seed (--seed)"
            )

    def evaluated(self, cell: PlannedRun, run: Run) -> bool:
        """Whether the evaluation that goes with this study is stored."""
        return (answered if cell.selection.rule == SPLITS else evaluated)(run, self.request()) is not None

    def evaluate(self, cell: PlannedRun, run: Run, reporter: Reporter) -> None:
        """Evaluate a trained cell, unless that is stored."""
        request = self.request()

        def show(done: int, total: int) -> None:
            reporter.evaluating(cell.label, done, total)

        with run.lock():
            if self.evaluated(cell, run):
                reporter.note(f"{cell.label}: evaluated already")
                return
            if cell.selection.rule == SPLITS:
                evaluate_candidates(run, request, self.device, show, self.execution)
            else:
                evaluate_run(run, load_trained(run, device=self.device, execution=self.execution), request, show)
            reporter.finished(cell.label)
