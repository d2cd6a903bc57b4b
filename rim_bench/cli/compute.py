"""Commands about compute: what a method costs, its inference curves, rankings at equal compute.

`cli.py` takes them in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rim_bench.cli import grid
from rim_bench.util.errors import UsageError, unknown

app = typer.Typer()
COST_METHODS = "direct,pause,cot,coconut,rim"


@app.command()
def cost(
    methods: Annotated[
        str, typer.Option("--method", "--methods", "-m", help="Names or .py files, separated by commas.")
    ] = COST_METHODS,
    model: Annotated[
        str, typer.Option("--model", help="An entry of `rim-bench list models`, a folder or a config.json.")
    ] = "llama-3.2-1b",
    question_tokens: Annotated[int, typer.Option("--question-tokens", help="Tokens of the question.")] = 80,
    chain_tokens: Annotated[int, typer.Option("--chain-tokens", help="Tokens of all reasoning steps together.")] = 60,
    answer_tokens: Annotated[
        int, typer.Option("--answer-tokens", help="Tokens of the answer, its end token included.")
    ] = 4,
    chain_steps: Annotated[int, typer.Option("--chain-steps", help="Reasoning steps, for what training costs.")] = 6,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A method's field: rim.K=4.")] = None,
    kv_dtype: Annotated[
        str, typer.Option("--kv-dtype", help="Number type of the KV cache: bfloat16, float32, float8 ...")
    ] = "bfloat16",
    lora_rank: Annotated[
        int, typer.Option("--lora-rank", help="Unmerged LoRA of this rank; 0 = none, everything trains.")
    ] = 0,
    format_: Annotated[
        str, typer.Option("--format", "-f", help="terminal, markdown, csv, latex or json.")
    ] = "terminal",
    json_: Annotated[Path | None, typer.Option("--json", help="Also write the numbers here.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Count the FLOPs with torch and fvcore too; exit code 1 where they differ.")
    ] = False,
) -> None:
    """What methods cost on a model, without training anything: FLOPs, passes, tokens, KV cache, training."""
    formats = ("terminal", "markdown", "csv", "latex", "json")
    if format_ not in formats:
        raise unknown("format", format_, formats)
    from rim_bench.compute.cost import Lengths, price_list

    names = [m.strip() for m in methods.split(",") if m.strip()]
    lengths = Lengths(question_tokens, chain_tokens, answer_tokens, chain_steps)
    prices = price_list(names, model, lengths, _settings(set_), kv_dtype=kv_dtype, rank=lora_rank)
    data, table, differing = prices.data(), prices.table(), 0
    if verify:
        from rim_bench.engine.flop_counters import count_methods

        counts = count_methods(names, model, lengths, _settings(set_), rank=lora_rank)
        data, table, differing = counts.data(), counts.table(), len(counts.differing)
    if json_ is not None:
        from rim_bench.util.files import write_json_atomic

        write_json_atomic(json_, data)
    if format_ == "json":
        typer.echo(json.dumps(data, indent=2))
    elif format_ == "terminal":
        from rich.console import Console

        console = Console()
        console.print(table.to_rich(console.width))
    else:
        text = {"markdown": table.to_markdown, "csv": table.to_csv, "latex": table.to_latex}[format_]()
        typer.echo(text, nl=not text.endswith("\n"))
    if differing:
        raise typer.Exit(1)


@app.command()
def sweep(
    context: typer.Context,
    runs: Annotated[
        list[str] | None, typer.Argument(help="Run ids or folders. Default: all trained ones in the results folder.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The results folder.")] = Path("results"),
    task: Annotated[str | None, typer.Option("--task", "-t", help="Another task than each run's own.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", envvar="RIM_BENCH_DATA", help="Folder of the published files.")
    ] = None,
    file: Annotated[
        list[str] | None, typer.Option("--file", help="Your own rows: train=PATH, validation=PATH, test=PATH.")
    ] = None,
    steps: Annotated[
        str, typer.Option("--steps", help="Reasoning steps of another, annotated task: equations or prose.")
    ] = "equations",
    limit: Annotated[
        int | None, typer.Option("--limit", help="Only the first N rows. Default: as the run was evaluated.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="test or validation.")] = "test",
    knob: Annotated[
        list[str] | None, typer.Option("--knob", help="Values: K=1,2,4 or votes=3,5 or rim.votes=3 or votes=none.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="Cap of the default evaluation, if the run was given one.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Of the votes' samples; default 0.7.")
    ] = None,
    sample_seed: Annotated[
        int | None, typer.Option("--sample-seed", help="What the samples are drawn from; default 0.")
    ] = None,
    eval_batch_size: Annotated[int, typer.Option("--eval-batch-size", help="Questions decoded together.")] = 64,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1. Default: a GPU if there is one.")
    ] = None,
) -> None:
    """Inference curves: evaluate trained runs at other settings of their own knob.

    What is done already is not done again.
    """
    from rim_bench.cli.common import check_split, chosen_runs, execution_of, reporter_for, run_options

    check_split(split)
    knobs = _knobs(knob)
    given = {
        "data": data,
        "file": file,
        "out": out,
        "steps": steps,
        "limit": limit,
        "max_tokens": max_tokens,
        "device": device,
    }
    options = run_options(
        given | {"methods": "direct", "seeds": "0", "task": task or "", "eval_batch_size": eval_batch_size}
    )
    chosen, damaged = chosen_runs(runs, out)
    from rim_bench.runs.sweep import sweep as turn

    with reporter_for() as reporter:
        for one in damaged:
            reporter.note(f"{one.path.name} is left out: {one.reason}")
        points = turn(
            chosen,
            options,
            reporter,
            knobs=knobs,
            split=split,
            temperature=temperature,
            sample_seed=sample_seed,
            execution=execution_of(context),
        )
    for point in points:
        share = sum(i.correct for i in point.run.read_items(point.key)) / point.summary.n
        setting = "default" if point.name is None else f"{point.name}={point.value}"
        typer.echo(f"{point.run.id}  {point.label}  {setting}  {100 * share:.2f} % of {point.summary.n}")


@app.command()
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
    formats = ("terminal", "markdown", "csv", "latex", "json")
    if format_ not in formats:
        raise unknown("format", format_, formats)
    from rim_bench.cli.common import check_split, chosen_runs

    if split is not None:
        check_split(split)
    chosen, damaged = chosen_runs(runs, out)
    from rim_bench.report.leaderboard import leaderboard as rank

    board = rank(chosen, split=split, damaged=damaged)
    if format_ == "terminal":
        from rich.console import Console

        console = Console()
        console.print(board.table.to_rich(console.width))
    else:
        texts = {
            "markdown": board.table.to_markdown,
            "csv": board.to_csv,
            "latex": board.table.to_latex,
            "json": board.to_json,
        }
        text = texts[format_]()
        typer.echo(text, nl=not text.endswith("\n"))
    made = board.write(out) if write else []
    if plots:
        from rim_bench.report.plots.curves import curve_plots

        drawn, missing = curve_plots(board.contests, out)
        made += drawn
        for line in missing:
            typer.echo(line, err=True)
    for path in made:
        typer.echo(str(path), err=True)


@app.command()
def study(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A study file (TOML); its folder receives runs, tables and pictures.")],
    data: Annotated[
        Path | None, typer.Option("--data", envvar="RIM_BENCH_DATA", help="Folder of the published files.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1. Default: a GPU if there is one.")
    ] = None,
    strategy: grid.Strategy = None,
    processes: grid.Processes = None,
    executor: grid.Executor = None,
    workers: grid.Workers = None,
    executor_set: grid.ExecutorSet = None,
    dry_run: grid.DryRun = False,
    flops_per_second: grid.Rate = None,
    format_: grid.Format = None,
) -> None:
    """All runs of a study at all its budgets, their inference curves, and the tables.

    What is done already is not done again.
    """
    from rim_bench.cli.common import execution_of, reporter_for
    from rim_bench.runs.study_file import plans_of, read_study, run_study, wanted_sets, write_results

    way, execution = grid.way_of(locals()), execution_of(context)
    made = read_study(file, data=data, device=device, strategy=strategy, processes=processes)
    plans = plans_of(made, elsewhere=way.elsewhere)
    if way.dry_run:
        grid.print_dry_run(plans, way)
        return
    with reporter_for() as reporter, way.runner(plans, reporter, wanted_sets(made)) as runner:
        runs = run_study(made, plans, reporter, runner, execution)
    if code := grid.report(runner):
        typer.echo("tables and pictures are made when every cell has its result", err=True)
        raise typer.Exit(code)
    from rich.console import Console

    from rim_bench.report.leaderboard import leaderboard

    written = write_results(runs, made.out)
    console = Console()
    console.print(leaderboard(runs, split="test").table.to_rich(console.width))
    typer.echo("written: " + ", ".join(map(str, written)))


def _knobs(given: list[str] | None) -> dict[str, tuple[int, ...]]:
    """NAME=V1,V2,... as values by name; `none` turns a knob not at all."""
    out: dict[str, tuple[int, ...]] = {}
    for text in given or ():
        name, _, values = text.partition("=")
        try:
            out[name] = () if values == "none" else tuple(int(v) for v in values.split(","))
        except ValueError:
            raise UsageError(f"--knob {text!r} is not NAME=V1,V2,... with whole numbers, as in K=1,2,4") from None
    return out


def _settings(given: list[str] | None) -> dict[str, dict[str, str]]:
    """METHOD.FIELD=VALUE, several of them, by method."""
    out: dict[str, dict[str, str]] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        method, dot, key = name.partition(".")
        if not (equals and value and dot and method and key):
            raise UsageError(f"--set {text!r} is not METHOD.FIELD=VALUE, as in rim.K=4")
        out.setdefault(method, {})[key] = value
    return out
