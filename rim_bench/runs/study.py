"""What a request stands for: its options, with the recipe and the data of its task. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rim_bench.compute.backbones import resolve_backbone
from rim_bench.data.datasets import evaluation_data, training_data
from rim_bench.data.leakage import count_overlap
from rim_bench.data.reader import Split
from rim_bench.data.task import Task, load_task
from rim_bench.engine.distributed.environment import check_batch, started
from rim_bench.evaluate.options import LM_EVAL, QUICK_LARGE_ROWS, QUICK_LARGE_TOKENS, QUICK_ROWS, usual_tokens
from rim_bench.methods.controls import Control, UnrunControl, controls_for, matched_settings
from rim_bench.methods.method import Method
from rim_bench.methods.registry import all_methods, load_method
from rim_bench.runs.options import Options
from rim_bench.runs.precision import Precision, choose_precision
from rim_bench.storage.records import OverlapRecord
from rim_bench.storage.run_folder import Store
from rim_bench.util.errors import UsageError, cannot_apply, unknown
from rim_bench.util.flags import refuse_unused
from rim_bench.util.progress import phase

FLOAT32 = Precision("float32")
QUICK_BATCH = 2  # examples an optimizer step of a plumbing check of a pretrained model
STARTS = ("recipe", "cot")


@dataclass(frozen=True)
class StudySetting:
    """What all runs of one request share. It travels to other processes without its rows, which are read again there.

    Attributes:
        start: "recipe", or "cot": every method begins from one shared CoT run.
        backbone: the resolved entry of the catalogue.
        device: as torch names it; another machine's, where that one computes.
        precision: the number type that its runs compute in.
    """

    options: Options
    task: Task
    start: str
    backbone: dict[str, Any]
    device: str
    precision: Precision = FLOAT32

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @property
    def store(self) -> Store:
        """Where its runs lie."""
        return Store(self.options.out)

    @cached_property
    def data(self) -> tuple[Split, Split]:
        """The training and the validation rows; read once."""
        options = self.options
        with phase(f"reading the rows of {self.task.name}"):
            return training_data(
                self.task,
                data=options.data,
                steps=options.steps,
                limit=options.limit,
                files=options.files,
                allow_changed=options.allow_changed_data,
            )

    @property
    def evaluation_limit(self) -> int | None:
        """Questions that its evaluation asks at most."""
        options = self.options
        if options.limit is not None or not options.quick:
            return options.limit
        return QUICK_ROWS if self.origin == "scratch" else QUICK_LARGE_ROWS

    def max_tokens(self, method: Method | None = None) -> int:
        """Tokens of an answer at most, of a method's where that needs more than the recipe gives."""
        if self.options.max_tokens is not None:
            return self.options.max_tokens
        usual = usual_tokens(self.task, method or Method())
        return usual if not self.options.quick or self.origin == "scratch" else min(usual, QUICK_LARGE_TOKENS)

    @cached_property
    def overlap(self) -> OverlapRecord:
        """The test questions that stand among its training and validation rows. Opens the test split."""
        options = self.options
        test = evaluation_data(
            self.task,
            data=options.data,
            steps=options.steps,
            limit=self.evaluation_limit,
            files=options.files,
            allow_changed=options.allow_changed_data,
        )
        return count_overlap(self.task, *self.data, [e.question for e in test.examples])

    @cached_property
    def texts(self) -> list[str]:
        """What a tokenizer from scratch is built on: the training text, nothing else."""
        rows = self.data[0].examples
        return ["\n".join([row.question, *row.steps, f"#### {row.answer}"]) for row in rows]

    def method(self, name: str) -> Method:
        """A method with the task's settings for it, and then the user's."""
        base = load_method(name)
        recipe = dict(self.task.recipe.get("methods", {}).get(base.name, {}))
        return load_method(name, {**recipe, **self.options.settings.get(base.name, {})})

    def check_methods_and_seeds(self) -> None:
        """Refuses methods, settings and seeds that make no study.

        Raises:
            UsageError: no method, one given twice or settings of another one; seeds below 0, twice, or none.
        """
        names, seeds = [self.method(name).name for name in self.options.methods], self.options.seeds
        if not names:
            raise UsageError("no method was given: name at least one, see `rim-bench list methods`")
        if twice := {n for n in names if names.count(n) > 1}:
            raise UsageError(f"method {', '.join(sorted(twice))} was given twice")
        for name in self.options.settings:
            if name not in names:
                raise UsageError(
                    f"--set {name}.…: method {name!r} is not among the methods of this run ({', '.join(names)})"
                )
        if self.task.file_sha256 is not None:  # a shipped recipe names shipped methods, which a test holds
            known, rates = {*all_methods(), *names}, self.task.recipe.get("lr", {})
            named = {
                *self.task.recipe.get("methods", {}),
                *(name for of_origin in rates.values() for name in of_origin),
            }
            for name in sorted(named - known - {"start", "default"}):
                raise unknown(f"method in the recipe of task {self.task.name}", name, known)
        if len(set(seeds)) < len(seeds) or not seeds:
            raise UsageError(f"seeds {list(seeds)} must be distinct, and at least one")

    @property
    def origin(self) -> str:
        """Which of a recipe's numbers are meant, where it has them for both kinds of backbone."""
        return "scratch" if self.backbone["kind"] == "scratch" else "pretrained"

    @property
    def recipe_rates(self) -> dict[str, Any]:
        """The recipe's learning rates for this kind of backbone, by method."""
        rates: dict[str, Any] = self.task.recipe.get("lr", {}).get(self.origin, {})
        return rates

    @property
    def common_lr(self) -> float:
        """The recipe's learning rate for a method that it does not name, which a search space has multiples of."""
        return float(self.recipe_rates.get("default", 1e-3))

    @property
    def recipe_batch_size(self) -> int:
        """The recipe's: one number, or one for each kind of backbone."""
        size = self.task.recipe.get("batch_size", 32)
        return int(size[self.origin] if isinstance(size, dict) else size)

    @property
    def batch_size(self) -> int:
        """Examples an optimizer step.

        Raises:
            UsageError: fewer than there are processes.
        """
        usual = self.recipe_batch_size
        if self.options.quick and self.origin == "pretrained":
            usual = min(usual, max(QUICK_BATCH, started()))
        size = self.options.batch_size or usual
        check_batch(size)
        return size

    def recipe_trials(self, method: Method) -> int | None:
        """Learning rates that the recipe tried for a method; None: not known, or a study that departs from it."""
        options, recipe = self.options, self.task.recipe
        followed = (
            options.lr is None
            and method.name in recipe.get("tuned", recipe.get("lr", {}).get(self.origin, {}))
            and not options.settings.get(method.name)
            and self.batch_size == self.recipe_batch_size
            and self.start == recipe.get("start", "recipe")
            and self.backbone
            == resolve_backbone(str(recipe.get("backbone", "gpt2")), recipe.get("backbone_settings", {}))
        )
        count = recipe.get("tuning_trials")
        return int(count) if followed and count is not None else None

    def controls(self) -> tuple[tuple[Control, ...], tuple[UnrunControl, ...]]:
        """The controls of the compared methods, and those that cannot be run here, with the claims that they test."""
        return controls_for([self.method(name) for name in self.options.methods], self.start, self.backbone)

    def with_controls(self) -> Options:
        """The same request with its controls, but for those that are evaluations or have another start."""
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


def check_used(studies: Sequence[StudySetting], *, sets: bool = False, controls: bool = False) -> None:
    """Refuses options that no request has a use for.

    Args:
        studies: of the requests, which have the same options but for the task and the budget.
        sets: further sets are evaluated.
        controls: so are controls, with starts of their own.

    Raises:
        UsageError: one was given.
    """
    options, tasks = studies[0].options, [study.task for study in studies]
    names = ", ".join(dict.fromkeys(task.name for task in tasks))
    if not sets and all(task.metadata["source"] == "generator" for task in tasks):
        refuse_unused(options, "data", f"{names} is generated and reads no file")
    methods = [study.method(name) for study in studies for name in options.methods]
    if not controls and all(method.trains == "nothing" for method in methods):
        why = "none of these methods trains anything"
        if options.train_flops is not None:
            raise cannot_apply(f"--budget train-flops={options.train_flops:.4g}", why)
        unused = "examples cot_examples batch_size lr tune trials tune_share checkpoint checkpoint_points strategy"
        refuse_unused(options, unused, why)
    if not controls and all(study.start == "recipe" for study in studies):
        refuse_unused(options, "cot_examples", "no method starts from a shared CoT run (--start cot)")
    if not (sets or controls or any(task.form == "generate" for task in tasks) or any(m.writes_steps for m in methods)):
        refuse_unused(options, "max_tokens", f"{names} is multiple choice, and none of these methods writes steps")


def study_setting(options: Options, *, elsewhere: bool = False) -> StudySetting:
    """The options with what the task's recipe says where they say nothing. Reads no rows.

    Args:
        elsewhere: another machine computes, so the device need not be one of this machine's.

    Raises:
        UsageError: a task, start, backbone or device that does not exist, methods or seeds that do not fit.
    """
    if options.task.startswith(LM_EVAL):
        from rim_bench.evaluate.lm_eval_rows import converted_task

        options = dataclasses.replace(options, task=str(converted_task(options.task)))
    task = load_task(options.task)
    device = str(options.device)
    if device != "cpu":  # the one question of a plan that torch answers
        from rim_bench.engine.devices import named_device, pick_device

        device = str(named_device(options.device) if elsewhere and options.device else pick_device(options.device))
    start = options.start or str(task.recipe.get("start", "recipe"))
    if start not in STARTS:
        raise unknown("start", start, STARTS)
    StudySetting(options, task, start, {}, device).check_methods_and_seeds()
    name = options.model or str(task.recipe.get("backbone", "gpt2"))
    settings = dict(options.backbone)
    if name == task.recipe.get("backbone"):
        settings = {**task.recipe.get("backbone_settings", {}), **settings}
    if options.tuning is not None:
        settings["tuning"] = options.tuning
    backbone = resolve_backbone(name, settings)
    if backbone["kind"] == "gguf" and name != backbone["name"]:  # a file: whoever trains finds what it is converted to
        from rim_bench.engine.gguf_models import convert

        convert(Path(name).expanduser(), backbone["gguf"])
    precision = choose_precision(options.dtype, device, backbone, Store(options.out), elsewhere=elsewhere)
    return StudySetting(options, task, start, backbone, device, precision)
