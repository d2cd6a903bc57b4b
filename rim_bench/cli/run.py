"""The commands that train: `run` and `train`, and what `run` shares with `study`: executors, dry runs, failures."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rim_bench.cli.common import (
    EMBEDDED_METHODS,
    echo,
    execution_of,
    print_as,
    reporter_for,
    with_options,
    write_tables,
)
from rim_bench.evaluate.options import EvaluationSets
from rim_bench.runs.options import ExecutionOptions, Options
from rim_bench.util.errors import UsageError, unreadable_path
from rim_bench.util.files import check_place
from rim_bench.util.flags import Flag, read_names
from rim_bench.util.text import escape_terminal

if TYPE_CHECKING:
    from rim_bench.engine.execution import ExecutionContext
    from rim_bench.methods.controls import Control, UnrunControl
    from rim_bench.runs.grid import Failure, Runner
    from rim_bench.runs.planned_run import Plan
    from rim_bench.storage.run_folder import Run
    from rim_bench.util.progress import Reporter

TRAINING = "model data files out steps limit start seeds examples budget cot_examples batch_size lr"
MODEL = "settings backbone tuning dtype device quick allow_changed_data"
CHOICES = "checkpoint checkpoint_points tune trials tune_share tune_seeds track strategy processes"
EXECUTION = "executor workers executor_set dry_run flops_per_second format"
METHODS = Flag("Names or .py files, separated by commas.", "--methods", "-m", read=read_names, default=EMBEDDED_METHODS)


@with_options(
    f"methods task {TRAINING} max_tokens eval_batch_size {MODEL} {CHOICES} controls",
    f"suites names include_path strict {EXECUTION}",
    methods=METHODS,
    task=Flag("Tasks' names or YAML files, separated by commas; see `list tasks`.", "--task", "-t", default="chain"),
)
def run(
    context: typer.Context,
    execution: ExecutionOptions,
    options: Options,
    sets: EvaluationSets,
    controls: Annotated[
        bool, typer.Option("--controls", help="Also run the controls that these methods need.")
    ] = False,
) -> None:
    """Train, evaluate and compare methods. What is done already is not done again."""
    if not execution.dry_run:
        check_results(options.out)
    requests = [dataclasses.replace(options, task=name) for name in tasks_of(options.task, bool(options.files))]
    runs, runner = run_requests(requests, sets, controls, execution, execution_of(context))
    if runs:
        from rim_bench.report.comparison import comparison

        table, out = comparison(runs, split="test"), options.out
        write_tables(table, out)
        print_as("terminal", table)
        echo(f"runs: {out / 'runs'}/   tables: {out / 'table.md'}, {out / 'table.csv'}")
    raise typer.Exit(report_failures(runner))


@with_options(
    f"methods task {TRAINING} {MODEL} {CHOICES}",
    methods=METHODS,
    task=Flag("A task's name or YAML file, see `rim-bench list tasks`.", "--task", "-t", default="chain"),
)
def train(context: typer.Context, options: Options) -> None:
    """Train methods without evaluating them on the test split; prints each run's folder and validation accuracy."""
    from rim_bench.runs.forecast import announcement, cells_of
    from rim_bench.runs.planned_run import plan_study
    from rim_bench.runs.study import check_used
    from rim_bench.runs.training import run_plan
    from rim_bench.util.progress import outlook

    check_results(options.out)
    plan = plan_study(options)
    check_used([plan[0].study])
    with reporter_for() as reporter, outlook(lambda: cells_of([plan], evaluation=False)):
        if (coming := announcement([plan], evaluation=False)) is not None:
            reporter.note(coming)
        runs = run_plan(plan, reporter, evaluation=False, execution=execution_of(context))
    for done in runs:
        training = done.training()
        assert training is not None
        if (validation := training.validation) is None:
            echo(f"{done.path}  nothing was trained: the backbone as it is")
            continue
        echo(f"{done.path}  validation {100 * validation.accuracy:.1f} % (n = {validation.n})")


def check_results(out: Path) -> None:
    """Refuses a results folder that could not be one, before anything is read."""
    check_place("--out", out / "table.md")
    if re.search("[\ud800-\udfff]", str(out.absolute())):
        raise UsageError(unreadable_path(out.absolute()))


def tasks_of(text: str, own_files: bool) -> list[str]:
    """Names or files of tasks, separated by commas; a file whose name has a comma is one.

    Raises:
        UsageError: a task twice, or several tasks and one task's own files.
    """
    names = [text] if Path(text).is_file() else list(read_names(text))
    if len(set(names)) < len(names):
        raise UsageError(f"--task {text!r} names a task twice")
    if len(names) > 1 and own_files:
        raise UsageError(
            f"--file gives the rows of one task, and --task {text!r} names {len(names)}: run them one by one"
        )
    return names or [text]


@contextmanager
def runner_of(
    way: ExecutionOptions, plans: Sequence[Plan], reporter: Reporter, sets: EvaluationSets
) -> Iterator[Runner | None]:
    """The executor at work; None where this process does everything."""
    if way.executor is None:
        yield None
        return
    from rim_bench.runs.grid import open_runner

    with open_runner(way.executor, way.workers, way.executor_set, plans, reporter, sets=sets) as runner:
        yield runner


def run_requests(
    requests: Sequence[Options],
    wanted: EvaluationSets,
    controls: bool,
    way: ExecutionOptions,
    execution: ExecutionContext,
) -> tuple[list[Run], Runner | None]:
    """The finished runs of `rim-bench run`, and the runner if there was one. Everything is done here but the table."""
    from rim_bench.engine.devices import pick_device
    from rim_bench.evaluate.stored_runs import evaluate_sets, plan_sets
    from rim_bench.runs.forecast import announcement
    from rim_bench.runs.grid import run_plans
    from rim_bench.runs.planned_run import plan_study
    from rim_bench.runs.study import check_used, study_setting
    from rim_bench.runs.warm_starts import evaluate_controls, warm_options

    elsewhere = way.elsewhere
    needed: list[tuple[tuple[Control, ...], tuple[UnrunControl, ...]]] = [((), ())] * len(requests)
    planned = list(requests)
    if controls:
        settings = [study_setting(request, elsewhere=elsewhere) for request in requests]
        needed = [setting.controls() for setting in settings]
        pick_device(requests[0].device)  # some of them are evaluations, which this process makes
        planned = [setting.with_controls() for setting in settings]
    plans = [plan_study(request, elsewhere=elsewhere) for request in planned]
    check_used([plan[0].study for plan in plans], sets=wanted.any, controls=controls)
    if way.dry_run:
        print_dry_run(plans, way)
        return [], None
    runs: list[Run] = []
    with reporter_for() as reporter:
        sets = plan_sets(wanted, requests[0], reporter)
        if (coming := announcement(plans)) is not None:
            reporter.note(coming)
        with runner_of(way, plans, reporter, wanted) as runner:
            arms_of = run_plans(plans, runner, reporter, execution)
            for plan, request, (held, _), arms in zip(plans, requests, needed, arms_of, strict=True):
                evaluate_controls(arms, held, request, reporter, execution)
                warm = [plan_study(o, elsewhere=elsewhere) for o in (warm_options(plan, arms, held) if arms else ())]
                runs += [*arms, *(run for some in run_plans(warm, runner, reporter, execution) for run in some)]
        if runner is None:
            evaluate_sets(runs, sets, requests[0], reporter, turned=False, execution=execution)
        for item in {item.control.label: item for _, left in needed for item in left}.values():
            reporter.note(f"control {item.control.label} was not run: {item.reason}")
    return runs, runner


def report_failures(runner: Runner | None) -> int:
    """The exit code, after saying which cells have no result, and why."""
    if runner is None or not runner.failures:
        return 0
    from rich.console import Console
    from rich.text import Text

    from rim_bench.util.table import SMALL, Table

    failures: list[Failure] = list(runner.failures.values())
    console = Console(stderr=True)
    for failure in (f for f in failures if f.trace):
        console.print(Text(escape_terminal(f"{failure.label} ({failure.run}), the last attempt:\n{failure.trace}")))
    title = "Cells without a result; the same command again goes on with them"
    rows = [(f.label, f.run, f.state, str(f.attempts or "-"), f.reason) for f in failures]
    columns, look = ("cell", "run", "state", "attempts", "reason"), dataclasses.replace(SMALL, overflow="fold")
    console.print(Table.of_rows(title, columns, rows, align="lllll", look=look).to_rich())
    return runner.code


def print_dry_run(plans: Sequence[Plan], way: ExecutionOptions) -> None:
    """A dry run's answer."""
    import json

    from rim_bench.runs.dry_run import dry_run, measured_rate

    priced, rate = dry_run(plans), way.flops_per_second
    measured = rate is None and not way.elsewhere
    if measured:
        rate = measured_rate(plans)
    if way.format == "json":
        return echo(json.dumps(priced.data(rate), indent=2))
    print_as(way.format or "terminal", priced.table(rate, measured=measured))
