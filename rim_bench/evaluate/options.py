"""How trained runs are asked questions. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from rim_bench.data.options import DataOptions, OwnCodeOptions
from rim_bench.util.errors import UsageError, check_count, unknown
from rim_bench.util.flags import Flag

if TYPE_CHECKING:
    from rim_bench.data.task import Task
    from rim_bench.engine.generate import Sampling
    from rim_bench.methods.method import Method

LM_EVAL = "lm-eval:"
"""In front of a name: lm-eval's task of that name, where rim-bench has one of its own (`lm-eval:gsm8k`)."""
QUICK_ROWS = 20  # questions of a plumbing check
QUICK_LARGE_ROWS = 6  # of a pretrained model, which is a hundred times larger
QUICK_LARGE_TOKENS = 32  # generated for each, at most
EVALUATED = ("test", "validation")


def usual_tokens(task: Task, method: Method) -> int:
    """Most tokens of an answer where nobody says how many: the recipe's, or what the method needs at least."""
    return max(int(task.recipe.get("max_tokens", 128)), method.room)


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """How questions are answered.

    Attributes:
        effort: the method's compute knob; None: its default.
        max_tokens: of an answer; None: the task's recipe.
        split_passes: each learned thought in a pass of its own.
        repeat: once more in another order.
    """

    SUBJECT: ClassVar[str] = "How it answers"

    split: Annotated[str, Flag("test or validation.")] = "test"
    effort: Annotated[int | None, Flag("The method's knob: blocks, thoughts or pauses.")] = None
    max_tokens: Annotated[int | None, Flag("Cap of generated tokens.")] = None
    votes: Annotated[int, Flag("Samples a question, whose most frequent answer counts; 1: one greedy answer.")] = 1
    temperature: Annotated[float | None, Flag("Of the samples; default 0.7.")] = None
    sample_seed: Annotated[int | None, Flag("What the samples are drawn from; default 0.")] = None
    split_passes: Annotated[bool, Flag("Each learned thought in a pass of its own: latency alone.")] = False
    repeat: Annotated[bool, Flag("Again in another order (and batch size): the gate's noise floor.")] = False
    eval_batch_size: Annotated[int, Flag("Questions decoded together.")] = 64

    @property
    def sampling(self) -> Sampling | None:
        """What is drawn; None: one greedy answer.

        Raises:
            UsageError: values that do not fit, or a temperature or seed for one greedy answer.
        """
        from rim_bench.evaluate.self_consistency import sampling_of

        return sampling_of(self.votes, self.temperature, self.sample_seed)


@dataclass(frozen=True, kw_only=True)
class StoredRunOptions(DataOptions, EvalOptions, OwnCodeOptions):
    """What trained runs are asked: `rim-bench eval` and `sweep`.

    Attributes:
        task: "" is each run's own.

    Raises:
        UsageError: a split that is not evaluated, a count under 1, or a results folder that is a file.
    """

    SUBJECT: ClassVar[str] = "Data and device"

    task: Annotated[str, Flag("Another task than the run's own.", "--task", "-t")] = ""
    out: Annotated[Path, Flag("Where runs and tables go.", "--out", "-o")] = Path("results")
    quick: Annotated[bool, Flag("A plumbing check of a few steps: not a result.")] = False

    def __post_init__(self) -> None:
        if self.split not in EVALUATED:
            raise unknown("split", self.split, EVALUATED)
        self.check_counts("limit", "max_tokens", "eval_batch_size")
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(f"--out {str(self.out)!r} is a file: give a folder, which is made where there is none")

    def check_counts(self, *names: str) -> None:
        """Raises UsageError for a field that is under 1, or over what libraries take."""
        for name in names:
            check_count(f"--{name.replace('_', '-')}", getattr(self, name))


@dataclass(frozen=True)
class EvaluationSets:
    """What is evaluated beside a run's own task.

    Attributes:
        names: rim-bench's tasks, YAML files, or lm-eval's tasks; there may be commas in one.
        include_path: a folder of lm-eval tasks.
        strict: a set that cannot be evaluated is an error.
    """

    SUBJECT: ClassVar[str] = "Further sets"

    suites: Annotated[
        tuple[str, ...],
        Flag("Also evaluate on these sets: see `rim-bench list suites`.", "--suite", read=tuple, many=True),
    ] = ()
    names: Annotated[
        tuple[str, ...],
        Flag("Also on these tasks: ours, a YAML file, or any of lm-eval's.", "--eval-tasks", read=tuple, many=True),
    ] = ()
    include_path: Annotated[Path | None, Flag("Folder of your own lm-eval tasks.")] = None
    strict: Annotated[bool, Flag("Stop where one of these sets cannot be evaluated.", "--strict-sets")] = False

    def __post_init__(self) -> None:
        if not self.any and (self.include_path is not None or self.strict):
            raise UsageError("--include-path and --strict-sets are for --suite and --eval-tasks: give one of those too")

    @property
    def any(self) -> bool:
        """Whether there is anything."""
        return bool(self.suites or self.names)
