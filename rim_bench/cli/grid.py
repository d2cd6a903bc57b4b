"""Options of the commands that run a grid of cells, and what those commands share:
an engine, a dry run, and the report of failures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rim_bench.engine.distributed.environment import started
from rim_bench.util.errors import UsageError, unknown

if TYPE_CHECKING:
    from rim_bench.engine.execution import ExecutionContext
    from rim_bench.methods.controls import Control, LeftOut
    from rim_bench.runs.grid import Failure, Runner
    from rim_bench.runs.options import Options
    from rim_bench.runs.planned_run import Plan
    from rim_bench.runs.stored_runs import EvaluationSets
    from rim_bench.storage.run_folder import Run
    from rim_bench.util.progress import Reporter

Executor = Annotated[
    str | None, typer.Option("--executor", help="local, submitit or ray: cells in processes of their own.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Cells at a time; default: one a GPU, else 2; on a cluster no limit.")
]
ExecutorSet = Annotated[
    list[str] | None, typer.Option("--executor-set", help="The cluster's: slurm_partition=gpu, num_cpus=4.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the grid and what it costs; nothing is trained or stored.")
]
Rate = Annotated[
    float | None, typer.Option("--flops-per-second", help="A measured rate, for a dry run to tell hours by.")
]
Format = Annotated[
    str | None, typer.Option("--format", "-f", help="Of a dry run: terminal, markdown, csv, latex or json.")
]
Strategy = Annotated[
    str | None, typer.Option("--strategy", help="Training on several processes: ddp (the default) or fsdp.")
]
Processes = Annotated[
    int | None, typer.Option("--processes", help="How many processes there must be, else nothing is done.")
]
FORMATS = ("terminal", "markdown", "csv", "latex", "json")


@dataclass(frozen=True)
class Way:
    """How a grid is run: in this process, on an engine, or not at all."""

    executor: str | None
    workers: int | None
    settings: Mapping[str, Any]
    dry_run: bool
    rate: float | None  # FLOPs a second
    format: str

    @property
    def elsewhere(self) -> bool:
        """Whether cells may run on other machines, so that this one needs none of what they need."""
        return self.executor in ("submitit", "ray")

    @contextmanager
    def runner(self, plans: Sequence[Plan], reporter: Reporter, sets: EvaluationSets) -> Iterator[Runner | None]:
        """The engine at work; None where this process does everything."""
        if self.executor is None:
            yield None
            return
        from rim_bench.runs.grid import open_runner

        with open_runner(self.executor, self.workers, self.settings, plans, reporter, sets=sets) as runner:
            yield runner


def way_of(values: Mapping[str, Any]) -> Way:
    """The options above as one object.

    Raises:
        UsageError: an executor, a number of workers or a format that does not exist, or options that need another one.
    """
    from rim_bench.cli.common import parse_number_list, parse_pair

    executor, workers, dry_run = values["executor"], values["workers"], bool(values["dry_run"])
    settings = {
        k: parse_number_list(v)
        for k, v in (parse_pair(given, "--executor-set", "KEY=VALUE") for given in values["executor_set"] or ())
    }
    if executor is None and (workers is not None or settings):
        given = "--workers" if workers is not None else "--executor-set"
        raise UsageError(f"{given} is for an executor: give --executor local, submitit or ray too")
    if executor is not None and started() > 1:
        raise UsageError(
            f"--executor {executor} starts processes of its own, and the launcher started {started()}: leave out one "
            "of the two "
            "(torchrun shares the work of each cell, an executor runs several cells at a time)"
        )
    if executor is not None:
        from rim_bench.runs.executors import check_engine

        check_engine(executor, workers, settings)
    rate, format_ = values["flops_per_second"], values["format_"]
    if not dry_run and (rate is not None or format_ is not None):
        raise UsageError(
            f"{'--format' if rate is None else '--flops-per-second'} is for a dry run: give --dry-run too, or leave it "
            "out"
        )
    if format_ is not None and format_ not in FORMATS:
        raise unknown("format", format_, FORMATS)
    if rate is not None and not 0 < rate < 1e30:
        raise UsageError(f"--flops-per-second {rate:g} is not a rate: give a positive number, such as 2e12")
    return Way(executor, workers, settings, dry_run, rate, format_ or "terminal")


def tasks_of(given: str, files: Sequence[str] | None) -> list[str]:
    """Names or files of tasks, separated by commas; a file whose name has a comma is one.

    Raises:
        UsageError: a task twice, or several tasks and one task's own files.
    """
    names = [given] if Path(given).is_file() else [part.strip() for part in given.split(",") if part.strip()]
    if len(set(names)) < len(names):
        raise UsageError(f"--task {given!r} names a task twice")
    if len(names) > 1 and files:
        raise UsageError(
            f"--file gives the rows of one task, and --task {given!r} names {len(names)}: run them one by one"
        )
    return names or [given]


def run_requests(
    requests: Sequence[Options], wanted: EvaluationSets, controls: bool, way: Way, execution: ExecutionContext
) -> tuple[list[Run], Runner | None]:
    """Everything that `rim-bench run` does for its tasks but the table; returns the finished runs, and the runner if
    there was one.
    """
    from rim_bench.cli.common import reporter_for
    from rim_bench.engine.devices import pick_device
    from rim_bench.runs.grid import run_plans
    from rim_bench.runs.planned_run import plan_study
    from rim_bench.runs.stored_runs import EvalOptions, evaluate_sets, plan_sets
    from rim_bench.runs.study import study_setting
    from rim_bench.runs.warm_starts import evaluate_controls, warm_options

    elsewhere = way.elsewhere
    needed: list[tuple[tuple[Control, ...], tuple[LeftOut, ...]]] = [((), ())] * len(requests)
    planned = list(requests)
    if controls:
        settings = [study_setting(request, elsewhere=elsewhere) for request in requests]
        needed = [setting.controls() for setting in settings]
        pick_device(requests[0].device)  # some of them are evaluations, which this process makes
        planned = [setting.with_controls() for setting in settings]
    plans = [plan_study(request, elsewhere=elsewhere) for request in planned]
    if way.dry_run:
        print_dry_run(plans, way)
        return [], None
    runs: list[Run] = []
    with reporter_for() as reporter:
        sets = plan_sets(wanted, requests[0], reporter)
        with way.runner(plans, reporter, wanted) as runner:
            arms_of = run_plans(plans, runner, reporter, execution)
            for plan, request, (held, _), arms in zip(plans, requests, needed, arms_of, strict=True):
                evaluate_controls(arms, held, request, reporter, execution)
                warm = [plan_study(o, elsewhere=elsewhere) for o in (warm_options(plan, arms, held) if arms else ())]
                runs += [*arms, *(run for some in run_plans(warm, runner, reporter, execution) for run in some)]
        if runner is None:
            evaluate_sets(runs, sets, requests[0], reporter, EvalOptions(turned=False), execution)
        for item in {item.control.label: item for _, left in needed for item in left}.values():
            reporter.note(f"control {item.control.label} was not run: {item.reason}")
    return runs, runner


def report(runner: Runner | None) -> int:
    """The exit code, after saying which cells have no result, and why."""
    if runner is None or not runner.failures:
        return 0
    from rich.console import Console
    from rich.text import Text

    from rim_bench.util.table import SMALL, Table

    failures: list[Failure] = list(runner.failures.values())
    console = Console(stderr=True)
    for failure in (f for f in failures if f.trace):
        console.print(Text(f"{failure.label} ({failure.run}), the last attempt:\n{failure.trace}"))
    title = "Cells without a result; the same command again goes on with them"
    rows = [(f.label, f.run, f.state, str(f.attempts or "-"), f.reason) for f in failures]
    columns, look = ("cell", "run", "state", "attempts", "reason"), dataclasses.replace(SMALL, overflow="fold")
    console.print(Table.of_rows(title, columns, rows, align="lllll", look=look).to_rich())
    return runner.code


def print_dry_run(plans: Sequence[Plan], way: Way) -> None:
    """A dry run's answer."""
    import json

    from rim_bench.runs.dry_run import dry_run

    made = dry_run(plans)
    if way.format == "json":
        typer.echo(json.dumps(made.data(way.rate), indent=2))
        return
    table = made.table(way.rate)
    if way.format == "terminal":
        from rich.console import Console

        console = Console()
        console.print(table.to_rich(console.width))
    else:
        texts: dict[str, Callable[[], str]] = {
            "markdown": table.to_markdown,
            "csv": table.to_csv,
            "latex": table.to_latex,
        }
        text = texts[way.format]()
        typer.echo(text, nl=not text.endswith("\n"))


def requests_of(values: Mapping[str, Any], options: Callable[[dict[str, Any]], Options]) -> list[Options]:
    """One request for each task that is named; everything else is the same."""
    first, *others = tasks_of(values["task"], values["file"])
    request = options({**values, "task": first})
    return [request, *(dataclasses.replace(request, task=name) for name in others)]
