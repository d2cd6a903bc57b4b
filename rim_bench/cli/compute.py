"""The commands about compute: what a method costs, and what a number of questions can show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rim_bench.cli.common import EMBEDDED_METHODS, check_format, echo, print_as
from rim_bench.runs.options import FORMATS
from rim_bench.util.errors import cannot_apply
from rim_bench.util.files import check_place
from rim_bench.util.flags import read_settings


def cost(
    methods: Annotated[
        str, typer.Option("--method", "--methods", "-m", help="Names or .py files, separated by commas.")
    ] = EMBEDDED_METHODS,
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
    check_format(format_, FORMATS)
    check_place("--json", json_)
    from rim_bench.compute.cost import Lengths, price_list
    from rim_bench.methods.registry import load_method

    names = [m.strip() for m in methods.split(",") if m.strip()]
    settings = read_settings(set_ or [])
    known = {load_method(name).name for name in names}
    if unused := [name for name in settings if name not in known]:
        raise cannot_apply(f"--set {unused[0]}.…", f"{', '.join(sorted(known))} are priced")
    lengths = Lengths(question_tokens, chain_tokens, answer_tokens, chain_steps)
    prices = price_list(names, model, lengths, settings, kv_dtype=kv_dtype, rank=lora_rank)
    data, table, differing = prices.data(), prices.table(), 0
    if verify:
        if kv_dtype != "bfloat16":
            raise cannot_apply(f"--kv-dtype {kv_dtype}", "--verify counts FLOPs and no bytes")
        from rim_bench.engine.flop_counters import count_methods

        counts = count_methods(names, model, lengths, settings, rank=lora_rank)
        data, table, differing = counts.data(), counts.table(), len(counts.differing)
    if json_ is not None:
        from rim_bench.util.files import write_json_atomic

        write_json_atomic(json_, data)
    if format_ == "json":
        echo(json.dumps(data, indent=2))
    else:
        print_as(format_, table)
    if differing:
        raise typer.Exit(1)


def power(
    n: Annotated[int | None, typer.Option("--n", help="Items.")] = None,
    discordance: Annotated[
        float | None, typer.Option("--discordance", help="Share of items that exactly one system solves.")
    ] = None,
    difference: Annotated[float | None, typer.Option("--difference", help="A true difference, in points.")] = None,
    power_: Annotated[float, typer.Option("--power", help="Wanted probability of finding it.")] = 0.8,
    alpha: Annotated[float, typer.Option("--alpha", help="Two-sided level of McNemar's test.")] = 0.05,
    margin: Annotated[
        float | None, typer.Option("--margin", help="Also: what `rim-bench check` does at this margin, in points.")
    ] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Also write the numbers here.")] = None,
) -> None:
    """What a paired comparison on n items can show, before anyone trains:
    smallest detectable difference, power, items needed.
    """
    from rich.console import Console

    from rim_bench.evidence.power import plan_power
    from rim_bench.report.two_systems import power_table
    from rim_bench.util.files import write_json_atomic

    check_place("--json", json_)
    plan = plan_power(n, discordance, difference, power=power_, alpha=alpha, margin=margin)
    if json_ is not None:
        write_json_atomic(json_, plan.data())
    Console().print(power_table(plan).to_rich())
