"""What a run is asked, and where its progress goes.

Imports no torch, so that the command line can refuse bad options at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rim_bench.data.rows import Steps
from rim_bench.engine.distributed.environment import check_asked, check_strategy
from rim_bench.storage.selection import LAST, CheckpointRule, LearningRateGrid
from rim_bench.util.errors import UsageError, unknown

BUDGETS = ("examples", "train-flops")
QUICK_ROWS = 20  # questions of a plumbing check


def parse_budget(text: str) -> dict[str, int]:
    """`examples=38400` or `train-flops=3e13` as fields of `Options`.

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


@dataclass(frozen=True)
class Options:
    """What `rim-bench run` and `train` are asked. None = the task's recipe.

    Raises:
        UsageError: a count under 1, a rate that is no positive number, or a results folder that is a file.
    """

    methods: tuple[str, ...]
    task: str
    out: Path = Path("results")
    model: str | None = None
    data: Path | None = None
    files: dict[str, str] | None = None
    steps: Steps = "equations"
    limit: int | None = None
    start: str | None = None
    seeds: tuple[int, ...] = (0,)
    examples: int | None = None
    train_flops: int | None = None  # a budget in FLOPs instead, what is inherited included
    cot_examples: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    max_tokens: int | None = None
    eval_batch_size: int = 64
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # method -> option -> value
    backbone: Mapping[str, Any] = field(default_factory=dict)  # overrides of the backbone's entry
    tuning: str | None = None  # "full" or "lora"
    device: str | None = None
    quick: bool = False
    allow_changed_data: bool = False  # take rows whose hash is not the registered one: results then say so
    checkpoint: str = LAST  # the rule by which a run's checkpoint is chosen
    checkpoint_points: int | None = None  # None: as many as the rule has by default
    tune: LearningRateGrid | None = None  # learning rates to try for every method
    strategy: str | None = None  # how several processes share the training; None: the first of launch.STRATEGIES
    processes: int | None = None  # how many of them there must be
    any_start: bool = False  # the shared start need not have converged: it is as good as another arm's own first stage

    @property
    def selection(self) -> CheckpointRule:
        """The checkpoint rule of the arms; a shared start keeps the end of its training."""
        return CheckpointRule(self.checkpoint, self.checkpoint_points)

    def __post_init__(self) -> None:
        _ = self.selection  # refuses what does not fit
        check_asked(self.processes)
        check_strategy(self.strategy)
        if self.tune is not None and self.lr is not None:
            raise UsageError(
                "--lr gives one learning rate for all methods and --tune looks for each method's own: leave one out"
            )
        if self.examples is not None and self.train_flops is not None:
            raise UsageError("a run has one budget: give it in examples or in training FLOPs, not in both")
        for name in ("limit", "examples", "train_flops", "cot_examples", "batch_size", "max_tokens", "eval_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value} is too small: give a whole number of at least 1")
        if self.lr is not None and not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"--lr {self.lr:g} is not a learning rate: give a positive number, such as 0.001")
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(f"--out {str(self.out)!r} is a file: give a folder, which is made where there is none")
