"""What several commands share: their options, the runs they name, and the tables they write."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rim_bench.engine.execution import ALONE, ExecutionContext
from rim_bench.util.errors import UsageError, unknown

if TYPE_CHECKING:
    from rim_bench.runs.options import Options
    from rim_bench.storage.run_folder import Damaged, Run

EMBEDDED_METHODS = "direct,pause,cot,coconut,rim"
INTERRUPTED = 130
FAULT = 70  # EX_SOFTWARE
Methods = Annotated[str, typer.Option("--methods", "-m", help="Names or .py files, separated by commas.")]
TaskName = Annotated[str, typer.Option("--task", "-t", help="A task's name or YAML file, see `rim-bench list tasks`.")]
Model = Annotated[
    str | None, typer.Option("--model", help="Backbone: an entry, a folder, or a hub id. Default: the task's.")
]
Data = Annotated[
    Path | None,
    typer.Option("--data", envvar="RIM_BENCH_DATA", help="Folder of the published files instead of the hub."),
]
Files = Annotated[
    list[str] | None, typer.Option("--file", help="Your own rows: train=PATH, validation=PATH, test=PATH.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where runs and tables go.")]
Steps = Annotated[str, typer.Option("--steps", help="Reasoning steps of annotated tasks: equations or prose.")]
Limit = Annotated[int | None, typer.Option("--limit", help="Only the first N rows of each split.")]
Start = Annotated[
    str | None, typer.Option("--start", help="recipe: as published; cot: all methods from one shared CoT run.")
]
Seeds = Annotated[str, typer.Option("--seeds", "--seed", help="Training seeds, separated by commas.")]
Examples = Annotated[int | None, typer.Option("--examples", help="Training budget of each method, in examples.")]
Budget = Annotated[
    str | None, typer.Option("--budget", help="The same as examples=N, or train-flops=X, inherited cost included.")
]
CotExamples = Annotated[int | None, typer.Option("--cot-examples", help="Training budget of the shared CoT start.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Examples an optimizer step.")]
Lr = Annotated[float | None, typer.Option("--lr", help="One learning rate for all methods instead of the recipe's.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="Cap of generated tokens.")]
EvalBatch = Annotated[int, typer.Option("--eval-batch-size", help="Questions decoded together.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A method's field: rim.K=4.")]
BackboneSet = Annotated[
    list[str] | None, typer.Option("--backbone", help="A number of the backbone: width=64, lora_rank=16.")
]
Tuning = Annotated[str | None, typer.Option("--tuning", help="full or lora (the default on pretrained weights).")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1. Default: a GPU if there is one.")]
Quick = Annotated[bool, typer.Option("--quick", help="A plumbing check of a few steps: not a result.")]
Checkpoint = Annotated[
    str, typer.Option("--checkpoint", help="last, best (on validation), or 16-split (RiM's, on test items).")
]
Points = Annotated[
    int | None,
    typer.Option("--checkpoint-points", help="Looks at validation while it trains; default 8, none for last."),
]
Tune = Annotated[str | None, typer.Option("--tune", help="Learning rates to try for every method: lr=1e-5..1e-3.")]
Trials = Annotated[int | None, typer.Option("--trials", help="How many of them, log-spaced; default 3.")]
TuneShare = Annotated[
    float | None, typer.Option("--tune-share", help="Share of the budget that a trial gets; default all of it.")
]
Split = Annotated[str, typer.Option("--split", help="test or validation.")]
Results = Annotated[Path, typer.Option("--out", "-o", help="The results folder.")]
RunNames = Annotated[list[str] | None, typer.Argument(help="Run ids or folders. Default: all in the results folder.")]


# What the commands share
def run_options(values: dict[str, Any]) -> Options:
    """Parsed options as one object; everything that can be refused without data is refused here."""
    from rim_bench.runs.options import Options, parse_budget
    from rim_bench.storage.selection import parse_tune

    if values.get("budget") is not None:
        if values.get("examples") is not None:
            raise UsageError("--examples and --budget both give the budget: leave one out")
        values = values | parse_budget(values["budget"])
    settings: dict[str, dict[str, Any]] = {}
    for given in values.get("set_") or ():
        name, value = parse_pair(given, "--set", "METHOD.FIELD=VALUE, as in rim.K=4")
        method, dot, key = name.partition(".")
        if not dot:
            raise UsageError(f"--set {given!r} is not METHOD.FIELD=VALUE, as in rim.K=4")
        settings.setdefault(method, {})[key] = value
    backbone = dict(
        parse_pair(given, "--backbone", "KEY=VALUE, as in width=64") for given in values.get("backbone") or ()
    )
    files = dict(
        parse_pair(given, "--file", "SPLIT=PATH, as in train=rows.jsonl") for given in values.get("file") or ()
    )
    known: tuple[str, ...] = (
        "task",
        "out",
        "model",
        "data",
        "steps",
        "limit",
        "start",
        "examples",
        "train_flops",
        "cot_examples",
    )
    known += (
        "batch_size",
        "lr",
        "max_tokens",
        "eval_batch_size",
        "tuning",
        "device",
        "quick",
        "checkpoint",
        "checkpoint_points",
    )
    known += ("strategy", "processes")
    same = {k: values[k] for k in known if k in values}
    changed = os.environ.get("RIM_BENCH_ALLOW_CHANGED", "") in ("1", "true")  # for commands without the flag
    if "tune" in values:
        same["tune"] = parse_tune(values["tune"], values["trials"], values["tune_share"])
    return Options(
        methods=tuple(m.strip() for m in values["methods"].split(",") if m.strip()),
        seeds=parse_seeds(values["seeds"]),
        settings=settings,
        backbone={k: parse_number_list(v) for k, v in backbone.items()},
        files=files or None,
        allow_changed_data=values.get("allow_changed_data", changed),
        **same,
    )


def check_split(split: str) -> None:
    if split not in (splits := ("test", "validation")):
        raise unknown("split", split, splits)


def parse_pair(given: str, flag: str, form: str) -> tuple[str, str]:
    key, equals, value = given.partition("=")
    if not equals or not key or not value:
        raise UsageError(f"{flag} {given!r} is not {form}")
    return key, value


def parse_number_list(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def parse_seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(s) for s in text.split(",") if s.strip())
    except ValueError:
        raise UsageError(f"--seeds {text!r} must be whole numbers separated by commas, as in 0,1,2") from None


def chosen_runs(names: Sequence[str] | None, out: Path) -> tuple[list[Run], list[Damaged]]:
    """The named runs, or all arms of the results folder; shared starts and trials are not rows of a comparison.

    Raises:
        UsageError: no such run, or none at all.
    """
    from rim_bench.storage.run_folder import Store

    store = Store(out)
    if names:
        return [store.find(name) for name in names], []
    good, damaged = store.runs()
    arms = [r for r in good if r.spec.role not in ("start", "trial")]
    if not arms and not damaged:
        raise UsageError(
            f"no run is stored in {str(store.folder)!r}: `rim-bench run` makes some, --out names another results folder"
        )
    return arms, damaged


def write_tables(runs: list[Run], damaged: list[Damaged], out: Path, *, print_it: bool, split: str = "test") -> None:
    from rich.console import Console

    from rim_bench.report.comparison import comparison
    from rim_bench.util.files import write_bytes_atomic

    made = comparison(runs, split=split, damaged=damaged)
    write_bytes_atomic(out / "table.md", made.to_markdown().encode())
    write_bytes_atomic(out / "table.csv", made.to_csv().encode())
    if print_it:
        console = Console()
        console.print(made.to_rich(console.width))


def execution_of(context: typer.Context) -> ExecutionContext:
    """What the process that runs this command shares it with."""
    return context.obj or ALONE


@contextmanager
def reporter_for() -> Iterator[Any]:
    from rim_bench.cli.console import RichReporter

    with RichReporter() as reporter:
        yield reporter
