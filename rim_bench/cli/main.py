"""The command line. It parses, calls, and prints; imports stay inside the commands so that `--help` needs no torch."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from rim_bench.cli import bench, compute, evidence, grid
from rim_bench.cli import data as data_module
from rim_bench.cli.common import (
    EMBEDDED_METHODS,
    FAULT,
    INTERRUPTED,
    BackboneSet,
    BatchSize,
    Budget,
    Checkpoint,
    CotExamples,
    Data,
    Device,
    EvalBatch,
    Examples,
    Files,
    Limit,
    Lr,
    MaxTokens,
    Methods,
    Model,
    Out,
    Points,
    Quick,
    Results,
    RunNames,
    Seeds,
    Set,
    Split,
    Start,
    Steps,
    TaskName,
    Trials,
    Tune,
    TuneShare,
    Tuning,
    check_split,
    chosen_runs,
    execution_of,
    reporter_for,
    run_options,
    write_tables,
)
from rim_bench.cli.launch import execution_of_command
from rim_bench.util.errors import UsageError, sentence, unknown

app = typer.Typer(
    help="rim-bench: what latent reasoning in language models is worth, measured.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(compute.app)  # without a name: its commands stand beside these
app.add_typer(evidence.app)
app.add_typer(data_module.app)
app.add_typer(bench.app)


@app.command()
def run(
    context: typer.Context,
    methods: Methods = EMBEDDED_METHODS,
    task: Annotated[
        str, typer.Option("--task", "-t", help="Tasks' names or YAML files, separated by commas; see `list tasks`.")
    ] = "chain",
    model: Model = None,
    data: Data = None,
    file: Files = None,
    out: Out = Path("results"),
    steps: Steps = "equations",
    limit: Limit = None,
    start: Start = None,
    seeds: Seeds = "0",
    examples: Examples = None,
    budget: Budget = None,
    cot_examples: CotExamples = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    max_tokens: MaxTokens = None,
    eval_batch_size: EvalBatch = 64,
    set_: Set = None,
    backbone: BackboneSet = None,
    tuning: Tuning = None,
    device: Device = None,
    quick: Quick = False,
    allow_changed_data: data_module.Changed = False,
    checkpoint: Checkpoint = "last",
    checkpoint_points: Points = None,
    tune: Tune = None,
    trials: Trials = None,
    tune_share: TuneShare = None,
    strategy: grid.Strategy = None,
    processes: grid.Processes = None,
    controls: Annotated[
        bool, typer.Option("--controls", help="Also run the controls that these methods need.")
    ] = False,
    suite: data_module.Suites = None,
    eval_tasks: data_module.EvalTasks = None,
    include_path: data_module.IncludePath = None,
    strict_sets: data_module.StrictSets = False,
    executor: grid.Executor = None,
    workers: grid.Workers = None,
    executor_set: grid.ExecutorSet = None,
    dry_run: grid.DryRun = False,
    flops_per_second: grid.Rate = None,
    format_: grid.Format = None,
) -> None:
    """Train, evaluate and compare methods. What is done already is not done again."""
    values = locals()
    way = grid.way_of(values)
    requests = grid.requests_of(values, run_options)
    wanted = data_module.wanted_sets(suite, eval_tasks, include_path, strict_sets)
    runs, runner = grid.run_requests(requests, wanted, controls, way, execution_of(context))
    if runs:
        write_tables(runs, [], out, print_it=True)
        typer.echo(f"runs: {out / 'runs'}/   tables: {out / 'table.md'}, {out / 'table.csv'}")
    raise typer.Exit(grid.report(runner))


@app.command()
def train(
    context: typer.Context,
    methods: Methods = EMBEDDED_METHODS,
    task: TaskName = "chain",
    model: Model = None,
    data: Data = None,
    file: Files = None,
    out: Out = Path("results"),
    steps: Steps = "equations",
    limit: Limit = None,
    start: Start = None,
    seeds: Seeds = "0",
    examples: Examples = None,
    budget: Budget = None,
    cot_examples: CotExamples = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    set_: Set = None,
    backbone: BackboneSet = None,
    tuning: Tuning = None,
    device: Device = None,
    quick: Quick = False,
    allow_changed_data: data_module.Changed = False,
    checkpoint: Checkpoint = "last",
    checkpoint_points: Points = None,
    tune: Tune = None,
    trials: Trials = None,
    tune_share: TuneShare = None,
    strategy: grid.Strategy = None,
    processes: grid.Processes = None,
) -> None:
    """Train methods without evaluating them on the test split; prints each run's folder and validation accuracy."""
    options = run_options(locals())
    from rim_bench.runs.planned_run import plan_study
    from rim_bench.runs.training import run_plan

    plan = plan_study(options)
    with reporter_for() as reporter:
        runs = run_plan(plan, reporter, evaluation=False, execution=execution_of(context))
    for done in runs:
        training = done.training()
        if training is not None and (validation := training.validation) is not None:
            typer.echo(f"{done.path}  validation {100 * validation.accuracy:.1f} % (n = {validation.n})")


@app.command("eval")
def eval_(
    context: typer.Context,
    runs: Annotated[list[str], typer.Argument(help="Trained runs: ids or folders.")],
    task: Annotated[str | None, typer.Option("--task", "-t", help="Another task than the run's own.")] = None,
    data: Data = None,
    file: Files = None,
    out: Out = Path("results"),
    steps: Steps = "equations",
    limit: Limit = None,
    split: Split = "test",
    effort: Annotated[
        int | None, typer.Option("--effort", help="The method's knob: blocks, thoughts or pauses.")
    ] = None,
    max_tokens: MaxTokens = None,
    votes: Annotated[
        int,
        typer.Option("--votes", help="Samples a question, whose most frequent answer counts; 1: one greedy answer."),
    ] = 1,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Of the samples; default 0.7.")] = None,
    sample_seed: Annotated[
        int | None, typer.Option("--sample-seed", help="What the samples are drawn from; default 0.")
    ] = None,
    split_passes: Annotated[
        bool, typer.Option("--split-passes", help="Each learned thought in a pass of its own: latency alone.")
    ] = False,
    repeat: Annotated[
        bool, typer.Option("--repeat", help="Again in another order (and batch size): the gate's noise floor.")
    ] = False,
    eval_batch_size: EvalBatch = 64,
    device: Device = None,
    quick: Quick = False,
    allow_changed_data: data_module.Changed = False,
    suite: data_module.Suites = None,
    eval_tasks: data_module.EvalTasks = None,
    include_path: data_module.IncludePath = None,
    strict_sets: data_module.StrictSets = False,
) -> None:
    """Evaluate trained runs once more: other tasks, another number of blocks, several votes, the validation split."""
    check_split(split)
    wanted = data_module.wanted_sets(suite, eval_tasks, include_path, strict_sets)
    options = run_options(locals() | {"methods": "direct", "seeds": "0", "task": task or ""})
    from rim_bench.evaluate.self_consistency import sampling_of
    from rim_bench.runs.stored_runs import EvalOptions, accuracy_text, evaluate_sets, evaluate_stored, plan_sets
    from rim_bench.storage.run_folder import Store

    sampling, execution = sampling_of(votes, temperature, sample_seed), execution_of(context)
    found = [Store(out).find(name) for name in runs]
    with reporter_for() as reporter:
        sets = plan_sets(wanted, options, reporter, split)
        for line in evaluate_sets(
            found, sets, options, reporter, EvalOptions(split, effort, sampling, split_passes, repeat), execution
        ):
            reporter.note(line)
        for one in found if task is not None or not wanted.any else ():
            summary = evaluate_stored(
                one,
                options,
                effort,
                split,
                reporter,
                sampling=sampling,
                split_passes=split_passes,
                repeat=repeat,
                execution=execution,
            )
            reporter.note(f"{one.id}: {accuracy_text(one, summary)}")


@app.command()
def table(
    runs: RunNames = None,
    out: Results = Path("results"),
    split: Split = "test",
    format_: Annotated[str, typer.Option("--format", "-f", help="terminal, markdown, csv or latex.")] = "terminal",
    write: Annotated[
        bool, typer.Option("--write", help="Also write table.md and table.csv into the results folder.")
    ] = False,
    references: Annotated[
        bool, typer.Option("--references", help="Also published values of the same tasks, in a grid of their own.")
    ] = False,
) -> None:
    """The comparison table of stored runs; a pure function of what lies in their folders."""
    formats = ("terminal", "markdown", "csv", "latex")
    if format_ not in formats:
        raise unknown("format", format_, formats)
    check_split(split)
    chosen, damaged = chosen_runs(runs, out)
    from rim_bench.report.comparison import comparison
    from rim_bench.report.references import shipped

    if references and format_ == "csv":
        raise UsageError(
            "--references has no place in --format csv, which holds measured numbers only: use markdown, latex or "
            "terminal"
        )
    made = comparison(chosen, split=split, damaged=damaged, published=shipped() if references else None)
    if format_ == "terminal":
        from rich.console import Console

        console = Console()
        console.print(made.to_rich(console.width))
    else:
        text = {"markdown": made.to_markdown, "csv": made.to_csv, "latex": made.to_latex}[format_]()
        typer.echo(text, nl=not text.endswith("\n"))
    if write:
        write_tables(chosen, damaged, out, print_it=False, split=split)


@app.command()
def plot(
    runs: RunNames = None,
    out: Results = Path("results"),
    kind: Annotated[str, typer.Option("--kind", "-k", help="accuracy, training, selection or tuning.")] = "accuracy",
    to: Annotated[Path | None, typer.Option("--to", help="File, .svg or .png. Default: OUT/<kind>.svg")] = None,
    split: Split = "test",
) -> None:
    """A picture of stored runs: accuracy per level with intervals, the training loss, or what validation chose:
    checkpoints, rates.
    """
    kinds = ("accuracy", "training", "selection", "tuning")
    if kind not in kinds:
        raise unknown("kind of plot", kind, kinds)
    check_split(split)
    chosen, _ = chosen_runs(runs, out)
    from rim_bench.report.plots.accuracy import accuracy_plot
    from rim_bench.report.plots.selection import selection_plot, tuning_plot
    from rim_bench.report.plots.training import training_plot

    path = to or out / f"{kind}.svg"
    if kind == "accuracy":
        accuracy_plot(chosen, path, split=split)
    else:
        {"training": training_plot, "selection": selection_plot, "tuning": tuning_plot}[kind](chosen, path)
    typer.echo(str(path))


@app.command()
def show(
    method: Annotated[str, typer.Argument(help="A method's name or .py file.")],
    task: TaskName = "chain",
    data: Data = None,
    file: Files = None,
    steps: Steps = "equations",
    row: Annotated[int, typer.Option("--row", help="Which training row.")] = 0,
    effort: Annotated[int | None, typer.Option("--effort", help="The method's knob at inference.")] = None,
    set_: Set = None,
) -> None:
    """Print a method's layouts on a real example: segments, positions, passes, loss weights, what sees what."""
    values = {"methods": method, "seeds": "0", "task": task, "data": data, "file": file, "steps": steps, "set_": set_}
    options = run_options(values)
    from rim_bench.cli.show import explain

    typer.echo(explain(options, row, effort))


@app.command(
    "lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def lm_eval(context: typer.Context) -> None:
    """lm-eval's own command line, with trained runs as `--model rim-bench --model_args path=RUN` and our tasks
    registered.
    """
    from rim_bench.evaluate.lm_eval_model import lm_eval_main

    lm_eval_main(context.args, execution_of(context))


class _Log(logging.StreamHandler):
    """Writes to what `sys.stderr` is at that moment: the progress display replaces it, so that lines go above the
    bars.
    """

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


# What the parser raises: Typer has taken Click in, so the class has no stable address.
_ParserError = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


_GROUPS = (app, compute.app, evidence.app, data_module.app, bench.app)
for command in (command for group in _GROUPS for command in group.registered_commands):
    # Where a docstring wraps is not shown: help has lines of its own, and the list of commands all of the text.
    command.help = " ".join(str(command.callback.__doc__).split())


def main() -> None:
    """Entry point. A fault of ours shows its traceback and has a code of its own:
    1 is the gate's word for "regressed".
    """
    atexit.register(
        gc.freeze
    )  # else the interpreter looks through all that torch and the others hold before it ends: most of a second
    try:
        _main()
    except Exception:
        traceback.print_exc()
        raise SystemExit(FAULT) from None


def _main() -> None:
    """Errors a user can act on become one sentence and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", handlers=[_Log()])
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        with execution_of_command(sys.argv[1:]) as execution:
            code = 0 if execution is None else app(standalone_mode=False, obj=execution)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        message = error.format_message() if isinstance(error, _ParserError) else sentence(error)  # type: ignore[attr-defined]
        if message is None:
            raise
        _fail(message)
    if code == INTERRUPTED:
        typer.echo("\ninterrupted: the same command again goes on where this one stopped", err=True)
    raise SystemExit(code if isinstance(code, int) else 0)


def _fail(message: str) -> NoReturn:
    typer.echo("error: " + " ".join(line.strip() for line in message.splitlines() if line.strip()), err=True)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
