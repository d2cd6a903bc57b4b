"""The commands about data: what there is, and what a training set shares with evaluation sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rim_bench.cli.common import check_format, check_split, echo, print_as, with_options
from rim_bench.data.options import DataOptions
from rim_bench.runs.options import FORMATS
from rim_bench.util.errors import UsageError, cannot_apply, unknown
from rim_bench.util.files import check_place
from rim_bench.util.flags import Flag, refuse_unused

if TYPE_CHECKING:
    pass


def list_(
    what: Annotated[str, typer.Argument(help="methods, tasks, suites, models, references or runs.")],
    name: Annotated[str | None, typer.Argument(help="One task or suite, in full.")] = None,
    long: Annotated[bool, typer.Option("--long", "-l", help="Tasks and suites in full.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Of runs: the results folder.")] = None,
    format_: Annotated[
        str | None, typer.Option("--format", "-f", help="Of runs: terminal, markdown, csv, latex or json.")
    ] = None,
) -> None:
    """What there is, one line each; a task's source, licence, size and traps with --long or its name."""
    kinds = ("methods", "tasks", "suites", "models", "references", "runs")
    if what not in kinds:
        raise unknown("list", what, kinds)
    if name is not None and what not in ("tasks", "suites"):
        raise UsageError(f"`rim-bench list {what}` takes no name ({name!r}): it lists one line each")
    if long and what not in ("tasks", "suites"):
        raise cannot_apply("--long", f"{what} have one line each")
    if what == "runs":
        from rim_bench.report import run_list
        from rim_bench.storage.run_folder import Store

        check_format(format_ or "terminal", FORMATS)
        store = Store(out or Path("results"))
        if not (stored := store.runs())[0] and not stored[1]:
            raise UsageError(f"no run is stored in {str(store.folder)!r}: --out names another results folder")
        table = run_list.table(*stored)
        return print_as(format_ or "terminal", table, json=table.to_json)
    if out is not None or format_ is not None:
        raise cannot_apply("--out" if out is not None else "--format", f"{what} are no stored runs")
    if what == "tasks":
        from rim_bench.data.listing import task_lines

        return echo("\n".join(task_lines(name, long=long or name is not None)))
    if what == "suites":
        from rim_bench.data.listing import suite_lines

        return echo("\n".join(suite_lines(name, long=long or name is not None)))
    if what == "methods":
        from rim_bench.methods.registry import all_methods

        lines = {name: cls.summary for name, cls in sorted(all_methods().items())}
    elif what == "references":
        from rim_bench.report.references import listing, shipped

        lines = listing(shipped())
    else:
        from rim_bench.compute.backbones import backbone_names

        lines = backbone_names()
    width = max(map(len, lines))
    echo("\n".join(f"{key.ljust(width)}  {line}" for key, line in lines.items()))


@with_options(
    "task suite eval_tasks data steps limit split ngram allow_changed_data worst text format_ to",
    limit=Flag("Only the first N rows of each set and of training."),
)
def leakage(
    options: DataOptions,
    task: Annotated[str, typer.Option("--task", "-t", help="The task whose training rows are looked for.")] = "gsm8k",
    suite: Annotated[
        list[str] | None, typer.Option("--suite", help="Evaluation sets to look in, see `rim-bench list suites`.")
    ] = None,
    eval_tasks: Annotated[
        list[str] | None, typer.Option("--eval-tasks", help="Further tasks to look in, separated by commas.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="test or validation.")] = "test",
    ngram: Annotated[
        int | None, typer.Option("--ngram", help="Words in a run. Default: GPT-3's rule, 8 to 13 by the set.")
    ] = None,
    worst: Annotated[int, typer.Option("--worst", help="How many of the worst questions of each set to name.")] = 5,
    text: Annotated[bool, typer.Option("--text", help="Show the questions themselves, not their ids alone.")] = False,
    format_: Annotated[
        str, typer.Option("--format", "-f", help="terminal, markdown, csv, latex or json.")
    ] = "terminal",
    to: Annotated[
        Path | None, typer.Option("--to", help="Write it to this file instead: .md, .csv, .tex or .json.")
    ] = None,
) -> None:
    """What a training set shares with evaluation sets: exact, number-masked and n-gram overlap of the questions."""
    formats = {"terminal": "", "markdown": ".md", "csv": ".csv", "latex": ".tex", "json": ".json"}
    if format_ not in formats:
        raise unknown("format", format_, formats)
    if to is not None:
        if to.suffix not in list(formats.values())[1:]:
            raise unknown("file type", to.suffix, list(formats.values())[1:])
        by_suffix = next(name for name, suffix in formats.items() if suffix == to.suffix)
        if format_ not in ("terminal", by_suffix):
            raise cannot_apply(f"--format {format_}", f"{str(to)!r} is written as {by_suffix}")
        format_ = by_suffix
    if text and worst == 0:
        raise cannot_apply("--text", "--worst 0 names no question")
    for flag, value in (("--worst", worst + 1), ("--limit", options.limit), ("--ngram", ngram)):
        if value is not None and value < 1:
            raise UsageError(f"{flag} {value - (flag == '--worst')} is too small")
    from rim_bench.data.leakage import leakage_report
    from rim_bench.data.suites import asked
    from rim_bench.data.task import load_task

    check_split(split)
    check_place("--to", to)
    read = [load_task(name) for name in dict.fromkeys((task, *asked(suite or (), eval_tasks or ())))]
    if all(one.metadata["source"] == "generator" for one in read):
        refuse_unused(options, "data", "all of these tasks are generated and read no file")
    leaks = leakage_report(
        task,
        suite or (),
        eval_tasks or (),
        data=options.data,
        steps=options.steps,
        limit=options.limit,
        split=split,
        ngram=ngram,
        worst=worst,
        allow_changed=options.allow_changed_data,
    )
    for name, reason in leaks.missing.items():
        echo(f"{name} is not compared: {reason}", err=True)
    table = leaks.table(text)
    if to is None:
        return print_as(format_, table, json=lambda: leaks.to_json(text))
    texts = {"markdown": table.to_markdown, "csv": table.to_csv, "latex": table.to_latex}
    written = texts[format_]() if format_ in texts else leaks.to_json(text)
    from rim_bench.util.files import write_bytes_atomic

    write_bytes_atomic(to, written.encode())
    echo(str(to))


@with_options("task trained_on data files steps limit split allow_changed_data format_")
def floors(
    options: DataOptions,
    task: Annotated[str, typer.Argument(help="The task whose questions are asked.")],
    trained_on: Annotated[
        str | None, typer.Option("--trained-on", help="The task whose training rows shortcuts know. Default: the same.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="test or validation.")] = "test",
    format_: Annotated[
        str, typer.Option("--format", "-f", help="terminal, markdown, csv, latex or json.")
    ] = "terminal",
) -> None:
    """What a task gives away without reasoning, by level: the best constant answer, a guess, and shortcuts."""
    check_format(format_, FORMATS)
    check_split(split)
    from rim_bench.data.task import load_task
    from rim_bench.report.floors import floors_table

    asked = load_task(task)
    trained = load_task(trained_on) if trained_on else asked
    if all(one.metadata["source"] == "generator" for one in (asked, trained)):
        refuse_unused(options, "data", f"{asked.name} is generated and reads no file")
    table = floors_table(asked, trained, options, split)
    print_as(format_, table, json=table.to_json)
