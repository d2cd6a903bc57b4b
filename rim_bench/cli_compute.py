"""Commands about compute: what a method costs, its inference curves, rankings at equal compute. `cli.py` takes them in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rim_bench.errors import UsageError, unknown

app = typer.Typer()

COST_METHODS = "direct,pause,cot,coconut,rim"



@app.command()
def cost(
    methods: Annotated[str, typer.Option("--method", "--methods", "-m", help="Names or .py files, separated by commas.")] = COST_METHODS,
    model: Annotated[str, typer.Option("--model", help="An entry of `rim-bench list models`, a folder or a config.json.")] = "llama-3.2-1b",
    question_tokens: Annotated[int, typer.Option("--question-tokens", help="Tokens of the question.")] = 80,
    chain_tokens: Annotated[int, typer.Option("--chain-tokens", help="Tokens of all reasoning steps together.")] = 60,
    answer_tokens: Annotated[int, typer.Option("--answer-tokens", help="Tokens of the answer, its end token included.")] = 4,
    chain_steps: Annotated[int, typer.Option("--chain-steps", help="Reasoning steps, for what training costs.")] = 6,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A method's field: rim.K=4.")] = None,
    kv: Annotated[str, typer.Option("--kv", help="Number type of the KV cache: bfloat16, float32, float8 ...")] = "bfloat16",
    lora_rank: Annotated[int, typer.Option("--lora-rank", help="Unmerged LoRA of this rank; 0 = none, everything trains.")] = 0,
    format_: Annotated[str, typer.Option("--format", "-f", help="terminal, markdown, csv, latex or json.")] = "terminal",
    json_: Annotated[Path | None, typer.Option("--json", help="Also write the numbers here.")] = None,
) -> None:
    """What methods cost on a model, without training anything: FLOPs, passes, tokens, KV cache, training."""
    formats = ("terminal", "markdown", "csv", "latex", "json")
    if format_ not in formats:
        raise unknown("format", format_, formats)
    from rim_bench.cost import Lengths, price_list

    names = [m.strip() for m in methods.split(",") if m.strip()]
    lengths = Lengths(question_tokens, chain_tokens, answer_tokens, chain_steps)
    made = price_list(names, model, lengths, _settings(set_), numbers=kv, rank=lora_rank)
    if json_ is not None:
        from rim_bench.files import write_json_atomic

        write_json_atomic(json_, made.data())
    if format_ == "json":
        typer.echo(json.dumps(made.data(), indent=2))
    elif format_ == "terminal":
        from rich.console import Console

        console = Console()
        console.print(made.table().to_rich(console.width))
    else:
        table = made.table()
        text = {"markdown": table.to_markdown, "csv": table.to_csv, "latex": table.to_latex}[format_]()
        typer.echo(text, nl=not text.endswith("\n"))


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
