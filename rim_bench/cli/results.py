"""The commands that show what is stored: tables, pictures, leaderboards, layouts, and whole studies."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rim_bench.cli.common import (
    Results,
    RunNames,
    Split,
    check_format,
    check_split,
    chosen_runs,
    echo,
    execution_of,
    name_damaged,
    print_as,
    reporter_for,
    with_options,
    write_tables,
)
from rim_bench.cli.run import EXECUTION, print_dry_run, report_failures, runner_of
from rim_bench.data.options import DataOptions
from rim_bench.runs.options import FORMATS, ExecutionOptions, StudyOptions
from rim_bench.util.errors import UsageError, cannot_apply, unknown
from rim_bench.util.files import check_place, write_bytes_atomic
from rim_bench.util.flags import Flag, read_names, read_settings, refuse_unused
from rim_bench.util.text import format_bytes

VOCABULARY = 4096  # of the tokenizer that `show` builds
DATA_VARIABLE = "RIM_BENCH_DATA"
PUBLISHED = Flag("Folder of the published files.", envvar=DATA_VARIABLE)
DEFAULT_TITLE = "Comparison of reasoning methods"


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
    check_format(format_, formats)
    check_split(split)
    check_place("--out", out / "table.md" if write else None)
    chosen, damaged = chosen_runs(runs, out)
    from rim_bench.report.comparison import comparison
    from rim_bench.report.references import shipped

    if references and format_ == "csv":
        raise UsageError(
            "--references has no place in --format csv, which holds measured numbers only: use markdown, latex or "
            "terminal"
        )
    table = comparison(chosen, split=split, damaged=damaged, published=shipped() if references else None)
    if write:
        write_tables(comparison(chosen, split=split, damaged=damaged) if references else table, out)
    print_as(format_, table)


def report(
    runs: RunNames = None,
    to: Annotated[Path, typer.Option("--output", "-o", help="The HTML file.")] = Path("report.html"),
    out: Annotated[Path, typer.Option("--out", help="The results folder.")] = Path("results"),
    split: Split = "test",
    title: Annotated[str, typer.Option("--title", help="What stands above it.")] = DEFAULT_TITLE,
    data: Annotated[
        Path | None,
        typer.Option("--data", help=PUBLISHED.help + " For texts that are not stored.", envvar=DATA_VARIABLE),
    ] = None,
    all_texts: Annotated[
        bool, typer.Option("--all-texts", help="Also texts of sets whose licence does not let them be passed on.")
    ] = False,
) -> None:
    """One HTML file to look at stored runs with: verdicts, pictures, and every question with its answers.

    It needs no server and no network, and is a pure function of what lies in the run folders.
    """
    check_split(split)
    check_place("--output", to)
    if data is not None and not data.is_dir():
        raise UsageError(f"data folder {str(data)!r} {'is not a folder' if data.exists() else 'does not exist'}")
    chosen, damaged = chosen_runs(runs, out)
    name_damaged(damaged)
    from rim_bench.report.page.document import report as page

    command = ["rim-bench", "report", *(runs or []), "--out", str(out), "-o", str(to)]
    command += ["--split", split] if split != "test" else []
    command += ["--title", title] if title != DEFAULT_TITLE else []
    command += ["--all-texts"] if all_texts else []
    options: dict[str, Any] = {"title": title, "split": split, "data": data, "all_texts": all_texts}
    written = page(chosen, damaged=damaged, command=shlex.join(command), **options)
    write_bytes_atomic(to, written)
    echo(f"{to} ({format_bytes(len(written))})")


def seal(
    runs: RunNames = None,
    out: Results = Path("results"),
    again: Annotated[
        bool, typer.Option("--again", help="Also where there is one: take the records as they are now.")
    ] = False,
) -> None:
    """Write the manifest of runs that have none, of an earlier version, or the hashes of stored measurements.

    What is changed or gone later is then named wherever it is read.
    """
    from rim_bench.bench import history
    from rim_bench.storage.run_folder import Store

    store = Store(out)
    chosen = [store.locate(name) for name in runs] if runs else store.folders()
    if not chosen:
        written = history.seal(out, again=again)
        return echo(f"sealed: {len(written)} measurements in {out}")
    sealed, damaged = 0, []
    for run in chosen:
        try:
            if again or not run.sealed:
                changed = run.write_manifest()
                sealed += 1
                if again and changed:
                    echo(f"{run.id}: {', '.join(changed)}")
            else:
                run.verify()
        except UsageError as error:
            damaged.append(f"{run.id}: {error}")
    echo(f"sealed: {sealed} of {len(chosen)} runs; {len(chosen) - sealed - len(damaged)} have their manifest")
    if damaged:
        raise UsageError("; ".join(damaged))


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
    check_place("--to", to)
    if kind != "accuracy" and split != "test":
        raise cannot_apply(f"--split {split}", f"a picture of kind {kind} shows training and what it chose")
    chosen, damaged = chosen_runs(runs, out)
    name_damaged(damaged)
    from rim_bench.report.plots.accuracy import accuracy_plot
    from rim_bench.report.plots.selection import selection_plot, tuning_plot
    from rim_bench.report.plots.training import training_plot

    path = to or out / f"{kind}.svg"
    if kind == "accuracy":
        accuracy_plot(chosen, path, split=split)
    else:
        {"training": training_plot, "selection": selection_plot, "tuning": tuning_plot}[kind](chosen, path)
    echo(str(path))


def leaderboard(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Run ids or folders. Default: all in the results folder.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The results folder.")] = Path("results"),
    split: Annotated[str | None, typer.Option("--split", help="Only evaluations on test or on validation.")] = None,
    format_: Annotated[
        str, typer.Option("--format", "-f", help="terminal, markdown, csv, latex or json.")
    ] = "terminal",
    write: Annotated[
        bool, typer.Option("--write", help="Also write leaderboard.md, .csv, .tex, .json into the folder.")
    ] = False,
    plots: Annotated[
        bool, typer.Option("--plots", help="Also draw curves-flops, -passes, -latency (.svg, .png) there.")
    ] = False,
) -> None:
    """Rankings at equal training budgets and comparisons at equal inference cost, per task, from stored runs alone."""
    check_format(format_, FORMATS)
    if split is not None:
        check_split(split)
    check_place("--out", out / "leaderboard.md" if write or plots else None)
    chosen, damaged = chosen_runs(runs, out)
    from rim_bench.report.leaderboard import leaderboard as rank

    board = rank(chosen, split=split, damaged=damaged)
    written = board.write(out) if write else []
    if plots:
        from rim_bench.report.plots.curves import curve_plots

        drawn, missing = curve_plots(board.contests, out)
        written += drawn
        for line in missing:
            echo(line, err=True)
    print_as(format_, board.table, csv=board.to_csv, json=board.to_json)
    for path in written:
        echo(str(path), err=True)


@with_options(f"file data device strategy processes method_files task_files trust {EXECUTION}", data=PUBLISHED)
def study(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A study file (TOML); its folder receives runs, tables and pictures.")],
    where: StudyOptions,
    way: ExecutionOptions,
) -> None:
    """All runs of a study at all its budgets, their inference curves, and the tables.

    What is done already is not done again.
    """
    from rim_bench.runs.study import check_used
    from rim_bench.runs.study_file import plans_of, read_study, run_study, wanted_sets, write_results

    execution = execution_of(context)
    request = read_study(file, where)
    plans = plans_of(request, elsewhere=way.elsewhere)
    check_used([plan[0].study for plan in plans], sets=wanted_sets(request).any)
    if way.dry_run:
        return print_dry_run(plans, way)
    with reporter_for() as reporter, runner_of(way, plans, reporter, wanted_sets(request)) as runner:
        runs = run_study(request, plans, reporter, runner, execution)
    if code := report_failures(runner):
        echo("tables and pictures are made when every cell has its result", err=True)
        raise typer.Exit(code)
    from rich.console import Console

    from rim_bench.report.leaderboard import leaderboard

    written = write_results(runs, request.out)
    console = Console()
    console.print(leaderboard(runs, split="test").table.to_rich(console.width))
    echo("written: " + ", ".join(map(str, written)))


@with_options("method task data files steps row effort set_")
def show(
    method: Annotated[str, typer.Argument(help="A method's name or .py file.")],
    options: DataOptions,
    task: Annotated[
        str, typer.Option("--task", "-t", help="A task's name or YAML file, see `rim-bench list tasks`.")
    ] = "chain",
    row: Annotated[int, typer.Option("--row", help="Which training row.")] = 0,
    effort: Annotated[int | None, typer.Option("--effort", help="The method's knob at inference.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A method's field: rim.K=4.")] = None,
) -> None:
    """Print a method's layouts on a real example: segments, positions, passes, loss weights, what sees what."""
    if not Path(method).is_file() and len(names := read_names(method)) != 1:
        one = f"`rim-bench show {names[0]}` shows the first" if names else "see `rim-bench list methods`"
        raise UsageError(f"`rim-bench show` takes one method, and {method!r} names {len(names) or 'none'}: {one}")
    echo(explain(method, task, options, read_settings(set_ or []), row, effort))


def explain(
    name: str,
    task_name: str,
    options: DataOptions,
    settings: Mapping[str, Mapping[str, Any]],
    row: int,
    effort: int | None,
) -> str:
    """The layouts of every stage and of the prompt, as text. Tokens are those of the task's from-scratch tokenizer.

    Raises:
        UsageError: no such row, or an effort for a method without a knob.
    """
    import random
    from dataclasses import replace

    from rim_bench.data.datasets import training_data
    from rim_bench.data.task import load_task
    from rim_bench.engine.tokenizer import Codec, train_tokenizer
    from rim_bench.methods.method import check_effort
    from rim_bench.methods.own_methods import check_rows_of
    from rim_bench.methods.registry import load_method

    task = load_task(task_name)
    base = load_method(name)
    recipe = task.recipe.get("methods", {}).get(base.name, {})
    method = load_method(name, {**recipe, **settings.get(base.name, {})})
    for other in settings:
        if other != base.name:
            raise cannot_apply(f"--set {other}.…", f"{base.name} is shown")
    if task.metadata["source"] == "generator":
        refuse_unused(options, "data", f"{task.name} is generated and reads no file")
    check_effort(method, effort)
    train, _ = training_data(
        task, data=options.data, steps=options.steps, files=options.files, allow_changed=True
    )  # nothing is measured
    if not 0 <= row < len(train.examples):
        raise UsageError(f"row {row} is not among the {len(train.examples)} training rows")
    check_rows_of(method, train.examples)
    example = method.transform(train.examples, 0)[row]
    texts = ["\n".join([e.question, *e.steps, f"#### {e.answer}"]) for e in train.examples]
    codec = Codec(train_tokenizer(texts, VOCABULARY, task.token_pattern))
    encoded = codec.encode_example(example)

    def piece(token: int) -> str:
        return "⟨end⟩" if token == codec.end else codec.decode((token,))

    fields = ", ".join(f"{k} = {v}" for k, v in method.settings().items()) or "no hyper-parameters"
    parts = [f"{method.name}: {method.summary}\n{fields}\n\nexample {example.id} ({len(example.steps)} steps)"]
    stages = method.stages()
    total = sum(s.share for s in stages)
    if turns := method.conversation(example.question, method.shown(train.examples)):
        encoded = replace(encoded, question=codec.encode_conversation(turns))
        parts.append(
            "nothing is trained; the prompt stands in the chat template of the backbone's tokenizer where it has one, "
            "and below as plain text"
        )
    for stage in stages:
        layout = method.lay_train(encoded, stage, 0.0, random.Random(0))
        parts.append(
            f"training, stage {stage.name!r} ({100 * stage.share / total:.0f} % of the budget, learning rate x "
            f"{stage.lr_scale:g}{', optimizer reset' if stage.reset else ''}), at its start; passes: {layout.passes}\n"
            f"{layout.show(piece)}"
        )
    prompt = method.lay_prompt(encoded.question, effort)
    parts.append(f"prompt; passes before the first generated token: {prompt.passes}\n{prompt.show(piece)}")
    return "\n\n".join(parts)
