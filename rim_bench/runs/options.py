"""What a study is asked: the same dataclasses are the command line, the study file and the Python call. No torch."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from rim_bench.data.options import OwnCodeOptions, PlaceOptions
from rim_bench.engine.distributed.environment import check_asked, check_strategy, started
from rim_bench.evaluate.options import StoredRunOptions
from rim_bench.storage.selection import LAST, CheckpointRule, Search, parse_tune
from rim_bench.util.errors import UsageError, check_count, unknown
from rim_bench.util.flags import Flag, read_names, read_pairs, read_settings, read_value, refuse_unused

EXECUTORS = ("local", "submitit", "ray")
BUDGETS = ("examples", "train-flops")
MOST_TOGETHER = 1_000_000  # examples of an optimizer step
DTYPES = ("auto", "float32", "bfloat16")
TRACKERS = ("wandb", "trackio", "tensorboard")
FORMATS = ("terminal", "markdown", "csv", "latex", "json")


def parse_budget(text: str) -> dict[str, int]:
    """`examples=38400` or `train-flops=3e13` as fields of `TrainOptions`.

    Raises:
        UsageError: another kind of budget, or no positive number.
    """
    kind, _, number = text.partition("=")
    if kind not in BUDGETS:
        raise unknown("budget", kind, BUDGETS)
    try:
        value = float(number)
        if not 1 <= value < 1e30 or (kind == "examples" and value % 1):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--budget {text!r} needs a positive {'whole ' * (kind == 'examples')}number, as in {kind}=38400"
        ) from None
    return {kind.replace("-", "_"): int(value)}


def read_seeds(text: str) -> tuple[int, ...]:
    """Whole numbers between commas."""
    try:
        return tuple(map(int, read_names(text)))
    except ValueError:
        raise UsageError(f"--seeds {text!r} must be whole numbers separated by commas, as in 0,1,2") from None


def read_numbers(flag: str, form: str) -> Any:
    """What reads KEY=VALUE several times as a dictionary with numbers."""
    return lambda texts: {key: read_value(value) for key, value in read_pairs(texts, flag, form).items()}


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The backbone. None = the task's recipe.

    Attributes:
        backbone: overrides of the entry's numbers.
        tuning: "full" or "lora".
        dtype: "float32", "bfloat16" or "auto"; None: bfloat16 on a GPU, float32 elsewhere, on every machine alike.
    """

    SUBJECT: ClassVar[str] = "Model"

    model: Annotated[str | None, Flag("Backbone: an entry, a folder, or a hub id. Default: the task's.")] = None
    backbone: Annotated[
        Mapping[str, Any],
        Flag(
            "A number of the backbone: width=64, lora_rank=16.",
            read=read_numbers("--backbone", "KEY=VALUE, as in width=64"),
            many=True,
        ),
    ] = field(default_factory=dict)
    tuning: Annotated[str | None, Flag("full or lora (the default on pretrained weights).")] = None
    dtype: Annotated[
        str | None, Flag("float32, bfloat16, or auto (a probe chooses). Default: float32; on a GPU bfloat16.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """How several processes share the training of a run, and how many there must be."""

    SUBJECT: ClassVar[str] = "Several processes"

    strategy: Annotated[str | None, Flag("Training on several processes: ddp (the default) or fsdp.")] = None
    processes: Annotated[int | None, Flag("How many processes there must be, else nothing is done.")] = None


@dataclass(frozen=True, kw_only=True)
class StudyOptions(PlaceOptions, ProcessOptions, OwnCodeOptions):
    """What stands beside a study file."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ProcessOptions):
    """Methods and their training. None = the task's recipe.

    Attributes:
        budget: `examples=N` or `train-flops=X` as text; it is read into the two fields after it.
        train_flops: a budget in FLOPs, what is inherited included.
        settings: method -> field -> value.
        tune: what to try for every method; a text is read together with `trials`, `tune_share` and `tune_seeds`.
        track: trackers that the step records go to; no part of any specification.
        any_start: the shared start need not have converged: it is as good as another arm's own first stage.
    """

    SUBJECT: ClassVar[str] = "Training"

    methods: Annotated[
        tuple[str, ...], Flag("Names or .py files, separated by commas.", "--methods", "-m", read=read_names)
    ]
    start: Annotated[str | None, Flag("recipe: as published; cot: all methods from one shared CoT run.")] = None
    seeds: Annotated[
        tuple[int, ...], Flag("Training seeds, separated by commas.", "--seeds", "--seed", read=read_seeds, default="0")
    ] = (0,)
    budget: Annotated[str | None, Flag("The same as examples=N, or train-flops=X, inherited cost included.")] = None
    examples: Annotated[int | None, Flag("Training budget of each method, in examples.")] = None
    train_flops: int | None = None
    cot_examples: Annotated[int | None, Flag("Training budget of the shared CoT start.")] = None
    batch_size: Annotated[int | None, Flag("Examples an optimizer step.")] = None
    lr: Annotated[float | None, Flag("One learning rate for all methods instead of the recipe's.")] = None
    settings: Annotated[
        Mapping[str, Mapping[str, Any]], Flag("A method's field: rim.K=4.", "--set", read=read_settings, many=True)
    ] = field(default_factory=dict)
    checkpoint: Annotated[str, Flag("last, best (on validation), or 16-split (RiM's, on test items).")] = LAST
    checkpoint_points: Annotated[int | None, Flag("Looks at validation while it trains; default 8, none for last.")] = (
        None
    )
    tune: Annotated[
        str | Search | None,
        Flag("What to try for every method: rates, lr=1e-5..1e-3, or each method's own search space, space.", read=str),
    ] = None
    trials: Annotated[int | None, Flag("How many rates, log-spaced, default 3; or points of a space, default 8.")] = (
        None
    )
    tune_share: Annotated[float | None, Flag("Share of the budget that a trial gets; default all of it.")] = None
    tune_seeds: Annotated[
        int | None, Flag("Training seeds of a trial, the smallest of --seeds; default 1 for lr, 2 for space.")
    ] = None
    track: Annotated[
        tuple[str, ...], Flag("Also send the records of training to wandb, trackio or tensorboard.", read=read_names)
    ] = ()
    any_start: bool = False

    @property
    def selection(self) -> CheckpointRule:
        """The checkpoint rule of the arms; a shared start keeps the end of its training."""
        return CheckpointRule(self.checkpoint, self.checkpoint_points)

    @property
    def search(self) -> Search | None:
        """What is to be tried for every method; None: nothing is tuned."""
        if isinstance(self.tune, Search):
            return self.tune
        return parse_tune(self.tune, self.trials, self.tune_share, self.tune_seeds)

    @property
    def trial_seeds(self) -> tuple[int, ...]:
        """The training seeds of every trial: the smallest of those asked for."""
        return () if self.search is None else tuple(sorted(self.seeds)[: self.search.seeds])


@dataclass(frozen=True, kw_only=True)
class Options(TrainOptions, ModelOptions, StoredRunOptions):
    """What `rim-bench run` and `train` are asked. None = the task's recipe.

    Raises:
        UsageError: a count under 1, two budgets, a rate that is no positive number, rules and grids that do not fit,
            another number of processes than there are, or a results folder that is a file.
    """

    def __post_init__(self) -> None:
        if self.budget is not None:
            if self.examples is not None:
                raise UsageError("--examples and --budget both give the budget: leave one out")
            for name, value in {**parse_budget(self.budget), "budget": None}.items():
                object.__setattr__(self, name, value)  # read once: the same options again do not have two budgets
        _ = self.selection  # refuses what does not fit
        if isinstance(self.tune, Search):
            refuse_unused(self, "trials tune_share tune_seeds", "what to tune has its points, share and seeds")
        if (search := self.search) is not None and len(self.seeds) < search.seeds:
            raise UsageError(
                f"every trial is to have {search.seeds} training seeds and --seeds gives {len(self.seeds)}: give more "
                "seeds, as in --seeds 0,1"
            )
        if self.dtype is not None and self.dtype not in DTYPES:
            raise unknown("--dtype", self.dtype, DTYPES)
        check_trackers(self.track)
        check_asked(self.processes)
        check_strategy(self.strategy)
        if self.tune is not None and self.lr is not None:
            raise UsageError(
                "--lr gives one learning rate for all methods and --tune looks for each method's own: leave one out"
            )
        if self.examples is not None and self.train_flops is not None:
            raise UsageError("a run has one budget: give it in examples or in training FLOPs, not in both")
        self.check_counts("examples", "cot_examples", "batch_size")
        check_count("--train-flops", self.train_flops, most=10**30)
        check_count("--batch-size", self.batch_size, most=MOST_TOGETHER)
        for seed in self.seeds:
            check_count("seed", seed, 0)
        if self.lr is not None and not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"--lr {self.lr:g} is not a learning rate: give a positive number, such as 0.001")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """How a grid is run: in this process, on an executor, or not at all.

    Raises:
        UsageError: an executor, a number of workers or a format that does not exist, or options that need another one.
    """

    SUBJECT: ClassVar[str] = "Grids and clusters"

    executor: Annotated[str | None, Flag("local, submitit or ray: cells in processes of their own.")] = None
    workers: Annotated[int | None, Flag("Cells at a time; default: one a GPU, else 2; on a cluster no limit.")] = None
    executor_set: Annotated[
        Mapping[str, Any],
        Flag(
            "The cluster's: slurm_partition=gpu, num_cpus=4.",
            read=read_numbers("--executor-set", "KEY=VALUE"),
            many=True,
        ),
    ] = field(default_factory=dict)
    dry_run: Annotated[bool, Flag("Print the grid and what it costs; nothing is trained or stored.")] = False
    flops_per_second: Annotated[
        float | None, Flag("The rate that a dry run tells hours by; a pretrained model's is measured.")
    ] = None
    format: Annotated[str | None, Flag("Of a dry run: terminal, markdown, csv, latex or json.", "--format", "-f")] = (
        None
    )

    @property
    def elsewhere(self) -> bool:
        """Whether runs may compute on other machines, so that this one needs none of what they need."""
        return self.executor in ("submitit", "ray")

    def __post_init__(self) -> None:
        if self.executor is None and (self.workers is not None or self.executor_set):
            flag = "--workers" if self.workers is not None else "--executor-set"
            raise UsageError(f"{flag} is for an executor: give --executor local, submitit or ray too")
        if self.executor is not None and started() > 1:
            raise UsageError(
                f"--executor {self.executor} starts processes of its own, and the launcher started {started()}: leave "
                "out one of the two (torchrun shares the work of each cell, an executor runs several cells at a time)"
            )
        if self.executor is not None:
            check_executor(self.executor, self.workers, self.executor_set)
        rate = self.flops_per_second
        if not self.dry_run and (rate is not None or self.format is not None):
            flag = "--format" if rate is None else "--flops-per-second"
            raise UsageError(f"{flag} is for a dry run: give --dry-run too, or leave it out")
        if self.format is not None and self.format not in FORMATS:
            raise unknown("format", self.format, FORMATS)
        if rate is not None and not 0 < rate < 1e30:
            raise UsageError(f"--flops-per-second {rate:g} is not a rate: give a positive number, such as 2e12")


def check_trackers(names: Sequence[str]) -> None:
    """Refuses trackers before anything is read.

    Raises:
        UsageError: one that there is not, that is not installed, or processes that share a run's training.
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"--track {name} needs {name}, which is not installed: pip install {name}")
    if names and started() > 1:
        raise UsageError("--track is for one process a run, and the launcher started several: leave out one of the two")


def check_executor(name: str, workers: int | None, settings: Mapping[str, Any]) -> None:
    """Refuses what can be refused before anything is read.

    Raises:
        UsageError: another name, a number of workers under 1, settings of the local one, or an extra that is not
            installed.
    """
    if name not in EXECUTORS:
        raise unknown("executor", name, EXECUTORS)
    check_count("--workers", workers, most=100_000)
    if name == "local" and settings:
        raise UsageError(
            f"--executor-set {settings_text(settings)} is for submitit and ray: the local executor has --workers and "
            "nothing else"
        )
    if name != "local":
        load_extra(name)


def load_extra(name: str) -> Any:
    """The module of an executor that is installed beside rim-bench."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(
            f"--executor {name} needs {name}, which is not installed: pip install 'rim-bench[{name}]'"
        ) from None


def settings_text(settings: Mapping[str, Any]) -> str:
    """KEY=VALUE, several of them."""
    return ", ".join(f"{k}={v}" for k, v in settings.items())
