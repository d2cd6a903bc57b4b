"""Studies from Python: options as keywords, stored runs and tables back. `rim_bench` itself hands these on.

The keywords are the fields of `Options` (`rim-bench run`, the keys of a study file) and of `StoredRunOptions`
(`rim-bench eval` and `sweep`). What is stored already is not done again. A bad request raises UsageError with the
sentence that the command line would print.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rim_bench.analysis.options import InterventionOptions
from rim_bench.evaluate.options import StoredRunOptions
from rim_bench.evidence.gate import MIN_N, Gate, check_all
from rim_bench.evidence.two_systems import versus
from rim_bench.report import comparison, gate, interventions, two_systems
from rim_bench.report.leaderboard import Board, leaderboard
from rim_bench.runs import planned_run
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import Plan, PlannedRun
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import unknown
from rim_bench.util.progress import Reporter, Silent
from rim_bench.util.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from rim_bench.analysis.suite import Intervention
    from rim_bench.evaluate.sweep import SweepPoint

Progress = Reporter | bool | None
"""Where progress goes: a reporter, True for bars on a terminal and lines in a notebook, False for nowhere. None: True
where somebody looks, on a terminal or in a notebook.
"""
Chosen = TypeVar("Chosen", Options, StoredRunOptions, InterventionOptions)


@dataclass(frozen=True)
class Results:
    """The runs of one request, trained and evaluated."""

    runs: tuple[Run, ...]

    def table(self) -> Table:
        """The comparison that `rim-bench run` prints."""
        return comparison.comparison(self.runs)

    def leaderboard(self) -> Board:
        """The same runs ranked at equal cost."""
        return leaderboard(self.runs)

    def frame(self) -> pd.DataFrame:
        """The numbers of the table, as fractions."""
        return self.table().frame()


def plan_study(**options: Any) -> Plan:
    """The runs that a request stands for, none of them trained: starts, arms and trials of every seed.

    Needs torch for one question alone, which device there is: `device="cpu"` answers it.
    """
    return planned_run.plan_study(_read(Options, options))


def run(*, progress: Progress = None, **options: Any) -> Results:
    """Train, evaluate and compare methods: `rim-bench run`.

    Args:
        progress: see `Progress`.
        options: fields of `Options`: methods, task, seeds, model, data, examples, quick, out ...
    """
    from rim_bench.runs.study import check_used
    from rim_bench.runs.training import run_plan

    plan = plan_study(**options)
    check_used([plan[0].study])
    with _reporter(progress) as reporter:
        return Results(tuple(run_plan(plan, reporter)))


def train(planned: PlannedRun, *, progress: Progress = None) -> Run:
    """The planned run, trained, and before it the run that it starts from."""
    from rim_bench.runs import training

    with _reporter(progress) as reporter:
        if planned.parent is not None:
            training.train(planned.parent, reporter)
        return training.train(planned, reporter)


def evaluate_run(run: PlannedRun | Run, *, progress: Progress = None, **options: Any) -> Run:
    """The run with one more stored evaluation: `rim-bench eval`.

    Args:
        run: a planned run has the evaluation that goes with its study; a stored one is asked what `options` say.
        options: fields of `StoredRunOptions`: task, split, effort, votes, max_tokens ...
    """
    from rim_bench.evaluate.stored_runs import check_used as check_asked
    from rim_bench.evaluate.stored_runs import evaluate_stored
    from rim_bench.runs import training

    with _reporter(progress) as reporter:
        if isinstance(run, PlannedRun) and not options:
            return training.evaluate(run, reporter)
        stored, asked = run.run if isinstance(run, PlannedRun) else run, _read(StoredRunOptions, options)
        asked.allow()
        check_asked([stored], asked)
        evaluate_stored(stored, asked, reporter)
        return stored


def sweep(
    runs: Sequence[Run], *, knobs: Mapping[str, Sequence[int]] | None = None, progress: Progress = None, **options: Any
) -> list[SweepPoint]:
    """Points of inference curves, each stored: `rim-bench sweep`.

    Args:
        knobs: values by knob, as in {"K": (1, 2, 4), "rim.votes": (3, 5)}; None: a few around each default.
    """
    from rim_bench.evaluate import sweep as curves

    asked = _read(StoredRunOptions, options)
    asked.allow()
    with _reporter(progress) as reporter:
        return curves.sweep(runs, asked, reporter, knobs=knobs)


def compare(
    store: Store,
    first: str,
    second: str,
    baseline: str | None = None,
    *,
    margin: float = 1.0,
    split: str = "test",
    task: str | None = None,
) -> Table:
    """Two systems on the same questions: `rim-bench compare`. `margin` is in points of accuracy."""
    return two_systems.table(versus(store, first, second, baseline, margin=margin, split=split, task=task))


def check_gate(
    runs: Sequence[str],
    store: Store,
    *,
    against: Path | str,
    margin: float,
    min_n: int = MIN_N,
    levels: Sequence[str] = (),
    across: Sequence[str] = (),
    stored: bool = False,
    key: str | None = None,
    repeats: Sequence[str] = (),
    progress: Progress = None,
    **options: Any,
) -> Table:
    """The verdicts of the gate on accuracy: `rim-bench check`. `margin` is in points of accuracy.

    Args:
        across: fields of the recipe that may differ.
        stored: compare stored evaluations instead of evaluating now; `key` names one of them.
        options: fields of `StoredRunOptions`: how the runs are asked.
    """
    asked = Gate(margin, min_n, tuple(levels), key, tuple(across))
    with _reporter(progress) as reporter:
        evaluate = None
        if not stored:
            from rim_bench.evaluate.stored_runs import evaluate_now

            evaluate = functools.partial(evaluate_now, options=_read(StoredRunOptions, options), reporter=reporter)
        return gate.table(check_all(runs, store, Path(against), asked, repeats, evaluate), asked)


def intervene(
    runs: Sequence[Run],
    *,
    also: Sequence[Intervention] = (),
    delta: float = 2.0,
    delta_changed: float = 10.0,
    progress: Progress = None,
    **options: Any,
) -> Table:
    """What interventions on stored runs show, and whether their answers go through their segments: `rim-bench
    intervene`.

    Args:
        also: further interventions than those of the suite, such as `Intervention("zero", "residual stream", 2)`.
        delta: points of accuracy that count as nothing; `delta_changed`: per cent of changed answers.
        options: fields of `InterventionOptions`: task, split, limit, verdict_only ...
    """
    from rim_bench.analysis.roles import intervene as intervene_on

    asked = _read(InterventionOptions, options)
    asked.allow()
    with _reporter(progress) as reporter:
        shares = delta / 100, delta_changed / 100
        families = intervene_on(runs, asked, reporter, also=also, delta=shares[0], delta_changed=shares[1])
        return interventions.table(families)


def _read(kind: type[Chosen], options: Mapping[str, Any]) -> Chosen:
    """The options of keywords; one name may stand for a tuple of it, and a text for a path."""
    fields = {f.name for f in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in fields:
            raise unknown("option", name, fields)
        if name in ("methods", "seeds", "method_files", "task_files", "trust", "track"):
            value = (value,) if isinstance(value, str | int) else tuple(value)
        elif name in ("out", "data") and value is not None:
            value = Path(value)
        values[name] = value
    return kind(**values)


@contextmanager
def _reporter(progress: Progress) -> Iterator[Reporter]:
    if progress is None:
        progress = sys.stderr.isatty() or "ipykernel" in sys.modules
    if progress is True:
        from rim_bench.util.console import RichReporter

        with RichReporter() as reporter:
            yield reporter
    else:
        yield Silent() if progress is False else progress
