"""The commands about evidence: baselines, the gate and its margin, interventions, and comparisons of systems."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rim_bench.analysis.options import InterventionOptions
from rim_bench.cli.common import (
    Results,
    RunNames,
    check_format,
    check_split,
    chosen_runs,
    echo,
    execution_of,
    name_damaged,
    named_runs,
    print_as,
    reporter_for,
    with_options,
)
from rim_bench.evaluate.options import StoredRunOptions
from rim_bench.runs.options import FORMATS
from rim_bench.util.errors import UsageError, cannot_apply
from rim_bench.util.files import check_place
from rim_bench.util.flags import Flag
from rim_bench.util.text import escape_json

if TYPE_CHECKING:
    from rim_bench.storage.records import EvaluationRecord, ItemRecord
    from rim_bench.storage.run_folder import Run


def baseline(
    runs: Annotated[list[str], typer.Argument(help="Evaluated runs: ids or folders.")],
    to: Annotated[Path, typer.Option("--output", "-o", help="The baseline file to write.")],
    out: Annotated[Path, typer.Option("--out", help="The results folder.")] = Path("results"),
    split: Annotated[str, typer.Option("--split", help="test or validation.")] = "test",
    task: Annotated[str | None, typer.Option("--task", "-t", help="Where a run is evaluated on several tasks.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Name of an evaluation folder, where several fit.")] = None,
    margin: Annotated[
        float | None, typer.Option("--margin", help="Also: what `check` will say at this margin, in points.")
    ] = None,
    repeat: Annotated[
        list[str] | None,
        typer.Option("--repeat", help="Another evaluation of the same weights (a run folder), for what changes."),
    ] = None,
    note: Annotated[str, typer.Option("--note", help="What every verdict should say of these runs.")] = "",
) -> None:
    """Write the measured answers of runs (right or wrong, item by item, scored again) as a baseline for `check`."""
    from rim_bench.evidence.baseline import choose, rescored, write_baseline
    from rim_bench.evidence.gate import check_margin, noise_of
    from rim_bench.evidence.power import Foresight
    from rim_bench.report.gate import foreseen
    from rim_bench.storage.run_folder import Store

    check_split(split)
    check_place("--output", to)
    if key is not None and (task is not None or split != "test"):
        flag = f"--split {split}" if task is None else f"--task {task}"
        raise cannot_apply(flag, f"--key {key} names the evaluation")
    if margin is not None:
        check_margin(margin, 1)
    store, entries, repeats = Store(out), [], []
    for run in (store.find(name) for name in runs):
        chosen, summary = choose(run, split, task, key)
        if summary.quick or run.spec.quick:
            raise UsageError(
                f"run {run.id!r} is a plumbing check (--quick), not a result: nothing is to be measured against it"
            )
        entry = rescored(run, chosen, summary)
        others = [noise for name in repeat or () for noise in noise_of(entry, store.find(name))]
        repeats.append([*noise_of(entry, run, repeats_only=True), *others])
        entries.append(entry)
    write_baseline(to, entries, note)
    for entry, noises in zip(entries, repeats, strict=True):
        n = entry.questions.n
        echo(f"{entry.setting}  {100 * entry.correct / n:.2f} % of {n:,}  {entry.origin['run']}")
        changed = max((noise.changed for noise in noises), default=None)
        echo(f"  {foreseen(None if changed is None else Foresight.of(n, changed, margin))}")
    echo(f"written: {to}")


@with_options(
    "runs against margin out task data files steps min_n level across stored key repeat eval_batch_size device json_",
    "junit summary method_files task_files trust",
    task=Flag("The file of one's own task, where the baseline is of one.", "--task", "-t"),
    data=Flag("Folder of the published files.", envvar="RIM_BENCH_DATA"),
)
def check(
    context: typer.Context,
    runs: Annotated[list[str], typer.Argument(help="Trained runs: ids or folders.")],
    against: Annotated[Path, typer.Option("--against", help="A file that `rim-bench baseline` wrote.")],
    margin: Annotated[float, typer.Option("--margin", help="Points of accuracy that a run may not lose.")],
    options: StoredRunOptions,
    min_n: Annotated[int | None, typer.Option("--min-n", help="Fewer items are underpowered. Default: 500.")] = None,
    level: Annotated[
        list[str] | None, typer.Option("--level", help="Only the items of this level; may be given several times.")
    ] = None,
    across: Annotated[
        list[str] | None,
        typer.Option("--across", help="A field of the recipe that may differ, as backbone.layers or budget; several."),
    ] = None,
    stored: Annotated[
        bool, typer.Option("--stored", help="Compare stored evaluations, made since, instead of evaluating now.")
    ] = False,
    key: Annotated[
        str | None, typer.Option("--key", help="With --stored: name of an evaluation folder, where several fit.")
    ] = None,
    repeat: Annotated[
        list[str] | None,
        typer.Option("--repeat", help="Another evaluation of the same weights (a run folder): the noise floor."),
    ] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Also write the verdicts here, as JSON.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="The same as JUnit XML.")] = None,
    summary: Annotated[
        Path | None, typer.Option("--summary", help="The same as Markdown, appended to a job page.")
    ] = None,
) -> None:
    """Evaluate runs and gate on accuracy. Exit code 0: holds, 1: regressed, 2: usage or bad input, 3: not comparable,
    4: underpowered; the worst counts.
    """
    from rich.console import Console

    from rim_bench.evidence.gate import MIN_N, Gate, check_all, exit_code
    from rim_bench.report import gate as report
    from rim_bench.storage.run_folder import Store
    from rim_bench.util.files import append_bytes, write_bytes_atomic, write_json_atomic

    for flag, path in (("--json", json_), ("--junit", junit), ("--summary", summary)):
        check_place(flag, path)
    if key is not None and not stored:
        raise cannot_apply(f"--key {key}", "it names a stored evaluation, and runs are evaluated now without --stored")
    options.allow()
    gate = Gate(margin, MIN_N if min_n is None else min_n, tuple(level or ()), key, tuple(across or ()))
    with reporter_for() as reporter:

        def evaluate(run: Run, name: str, asked: Mapping[str, Any]) -> tuple[EvaluationRecord, list[ItemRecord]]:
            from rim_bench.evaluate.stored_runs import evaluate_now  # what is refused needs no torch

            return evaluate_now(run, name, asked, options, reporter, execution_of(context))

        checks = check_all(runs, Store(options.out), against, gate, repeat or (), None if stored else evaluate)
    table = report.table(checks, gate)
    if json_ is not None:
        write_json_atomic(json_, report.to_data(checks, gate))
    if junit is not None:
        write_bytes_atomic(junit, report.to_junit(checks, gate))
    if summary is not None:
        append_bytes(summary, table.to_markdown().encode())
    console = Console()
    console.print(table.to_rich(console.width))
    for verdict in checks:
        if verdict.decision is None:
            echo(f"error: {verdict.reason}", err=True)
    if code := exit_code(checks):
        raise typer.Exit(code)


def margin(
    runs: Annotated[
        list[str],
        typer.Argument(help="Evaluated runs of the same recipe, each with another seed; several recipes at once."),
    ],
    out: Results = Path("results"),
    rate: Annotated[float, typer.Option("--rate", help="Share of sound retrainings that may go red.")] = 0.05,
    split: Annotated[str, typer.Option("--split", help="test or validation.")] = "test",
    task: Annotated[str | None, typer.Option("--task", "-t", help="Where runs are evaluated on several tasks.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Also write everything here, as JSON.")] = None,
    to: Annotated[Path | None, typer.Option("--output", help="Also write the table here, as Markdown.")] = None,
) -> None:
    """The margin of a gate that retrains, from at least 20 retrainings with other seeds."""
    from rich.console import Console

    from rim_bench.evidence import retraining
    from rim_bench.report.gate import margins_table
    from rim_bench.storage.run_folder import Store
    from rim_bench.util.files import write_bytes_atomic, write_json_atomic

    check_split(split)
    check_place("--json", json_)
    check_place("--output", to)
    if not 0 < rate < 0.5:
        raise UsageError(f"--rate {rate:g} must lie above 0 and below 0.5: it is a share, as in --rate 0.05")
    systems = retraining.retrainings([Store(out).find(name) for name in runs], split=split, task=task)
    table = margins_table(systems, rate)
    if json_ is not None:
        write_json_atomic(json_, {"schema": 1, "systems": [retrained.data(rate) for retrained in systems]})
    if to is not None:
        write_bytes_atomic(to, table.to_markdown().encode())
    Console().print(table.to_rich())


def compare(
    first: Annotated[
        str, typer.Argument(help="A run, RUN@K=2 or RUN@KEY for another of its evaluations; seeds separated by commas.")
    ],
    second: Annotated[str, typer.Argument(help="The same; the difference is first - second.")],
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="The separately trained direct, seeds separated by commas.")
    ] = None,
    margin: Annotated[
        float, typer.Option("--margin", help="Points within which two systems count as equivalent.")
    ] = 1.0,
    out: Results = Path("results"),
    split: Annotated[str, typer.Option("--split", help="test or validation.")] = "test",
    task: Annotated[str | None, typer.Option("--task", "-t", help="Where runs are evaluated on several tasks.")] = None,
    format_: Annotated[str, typer.Option("--format", "-f", help="terminal, markdown or json.")] = "terminal",
) -> None:
    """Two systems on the same items: intervals, exact tests, what could have been found, and whether they are as good
    as each other.
    """
    formats = ("terminal", "markdown", "json")
    check_format(format_, formats)
    from rim_bench.evidence.two_systems import versus
    from rim_bench.report import two_systems as report
    from rim_bench.storage.run_folder import Store

    check_split(split)
    compared = versus(Store(out), first, second, baseline, margin=margin, split=split, task=task)
    if format_ == "json":
        echo(escape_json(json.dumps(report.to_data(compared), indent=2, ensure_ascii=False)))
    elif format_ == "markdown":
        echo(report.table(compared).to_markdown(), nl=False)
    else:
        from rich.console import Console

        Console().print(report.table(compared).to_rich())


def decide(
    runs: RunNames = None,
    flops: Annotated[float | None, typer.Option("--flops", help="FLOPs that one answer may cost.")] = None,
    latency: Annotated[
        float | None, typer.Option("--latency-ms", help="Milliseconds to its end, one question at a time.")
    ] = None,
    memory: Annotated[float | None, typer.Option("--memory", help="Bytes of its keys and values.")] = None,
    least: Annotated[
        float | None, typer.Option("--min-accuracy", help="Per cent of right answers below which an arm is no use.")
    ] = None,
    out: Results = Path("results"),
    split: Annotated[str | None, typer.Option("--split", help="Only evaluations on test or on validation.")] = None,
    format_: Annotated[
        str, typer.Option("--format", "-f", help="terminal, markdown, csv, latex or json.")
    ] = "terminal",
) -> None:
    """What to deploy within a budget for one answer: the best latent arm beside the best text arm, from stored runs."""
    check_format(format_, FORMATS)
    if split is not None:
        check_split(split)
    budgets = {"flops": ("--flops", flops), "latency": ("--latency-ms", latency), "memory": ("--memory", memory)}
    asked = {kind: amount for kind, (_, amount) in budgets.items() if amount is not None}
    if len(asked) != 1:
        what = "no budget was given" if not asked else "an answer has one budget"
        raise UsageError(f"{what}: give one of --flops, --latency-ms and --memory")
    ((kind, amount),) = asked.items()
    if not 0 < amount < 1e30:
        raise UsageError(f"{budgets[kind][0]} {amount:g} is no budget: give a positive number")
    if least is not None and not 0 <= least <= 100:
        raise UsageError(f"--min-accuracy {least:g} is no share: give per cent, from 0 to 100")
    chosen, damaged = chosen_runs(runs, out)
    from rim_bench.evidence.decision import AnswerBudget
    from rim_bench.report import decision

    name_damaged(damaged)
    table = decision.table(chosen, AnswerBudget(kind, amount, (least or 0.0) / 100), split)  # type: ignore[arg-type]
    print_as(format_, table, json=table.to_json)


@with_options(
    "runs task data files steps limit split effort max_tokens eval_batch_size device out verdict_only donor_seed delta",
    "delta_changed format_ quick allow_changed_data method_files task_files trust",
    out=Flag("The results folder.", "--out", "-o"),
    task=Flag("Another task than each run's own.", "--task", "-t"),
    eval_batch_size=Flag("Questions computed together."),
)
def intervene(
    context: typer.Context,
    options: InterventionOptions,
    runs: Annotated[list[str], typer.Argument(help="Trained runs: ids or folders; seeds of one method together.")],
    delta: Annotated[float, typer.Option("--delta", help="Points of accuracy that count as nothing.")] = 2.0,
    delta_changed: Annotated[
        float, typer.Option("--delta-changed", help="Per cent of changed answers that count as nothing.")
    ] = 10.0,
    format_: Annotated[
        str, typer.Option("--format", "-f", help="terminal, markdown, csv, latex or json.")
    ] = "terminal",
) -> None:
    """Whether answers go through what stands between question and answer: blocks, thoughts, pauses, written steps.

    Each run's numbers, table and heat maps lie in its folder. What is done already is not done again.
    """
    check_format(format_, FORMATS)
    options.allow()
    from rim_bench.analysis.roles import intervene as intervene_on
    from rim_bench.report import interventions as report

    chosen = named_runs(runs, options.out)
    with reporter_for() as reporter:
        families = intervene_on(
            chosen,
            options,
            reporter,
            delta=delta / 100,
            delta_changed=delta_changed / 100,
            execution=execution_of(context),
        )
    table = report.table(families)
    print_as(format_, table, json=table.to_json)
