"""`rim-bench bench`: what is measured, on what, and where it goes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rim_bench.util.errors import UsageError, unknown
from rim_bench.util.flags import read_names, read_settings

if TYPE_CHECKING:
    from rim_bench.runs.options import Options

METHODS = "direct,pause,cot,coconut,rim"
KINDS = {
    "train": "examples/s of a run's own optimizer steps, beside a plain loop",
    "eval": "questions/s at a fixed number of generated tokens, beside HF generate or an uncached loop",
    "ttft": "time to the first token at batch 1, over direct's",
    "memory": "peak of training over what was there before, beside cot's",
    "overhead": "a run with nothing to train, beside bare imports",
    "scaling": "cost against one knob, with the closed form beside it",
    "targets": "the table of targets",
}
SHOWN = "history"  # measures nothing
SHORT = ("train", "eval")  # what is measured where nothing is named
AGAINST = {"train": ("plain", "hf"), "eval": ("hf", "uncached"), "memory": ("plain",)}
DEFAULT = {"train": ("plain",), "eval": ("hf",)}
USERS = {
    "vary": ("scaling",),
    "values": ("scaling",),
    "only": ("targets",),
    "sizes": ("train", "eval", "ttft", "memory"),
    "against": tuple(AGAINST),
    "tokens": ("eval",),
}
"""Flag -> the measurements that it belongs to."""
FOLDER = Path("results") / "bench"
MODEL = "bench-gpt2"
What = Annotated[str | None, typer.Argument(help=f"{', '.join((*KINDS, SHOWN))}. Default: train and eval.")]
Methods = Annotated[
    str | None, typer.Option("--methods", "-m", help=f"Names or .py files, separated by commas. Default: {METHODS}.")
]
TaskName = Annotated[
    str | None,
    typer.Option("--task", "-t", help="A task; default chain (embedded), for targets gsm8k where --data is given."),
]
Model = Annotated[str | None, typer.Option("--model", help="Backbone. Default: the task's; of targets bench-gpt2.")]
Sizes = Annotated[
    str | None, typer.Option("--sizes", help="LAYERSxWIDTHxHEADS, several by commas: one measurement each.")
]
Against = Annotated[
    str | None, typer.Option("--against", help="train: plain, hf; eval: hf, uncached; memory: plain; or none.")
]
Data = Annotated[Path | None, typer.Option("--data", envvar="RIM_BENCH_DATA", help="Folder of the published files.")]
Limit = Annotated[int | None, typer.Option("--limit", help="Only the first N training rows.")]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", help="Examples an optimizer step, and questions answered together.")
]
Tokens = Annotated[
    int | None, typer.Option("--tokens", help="Generated for each question; default 64, on the embedded task 16.")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="A method's field: rim.K=4.")]
BackboneSet = Annotated[list[str] | None, typer.Option("--backbone", help="A number of the backbone: width=64.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1. Default: a GPU if there is one.")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", help="Of torch. Default: as the environment has it; 1 for targets and scaling."),
]
Rounds = Annotated[int, typer.Option("--rounds", help="Interleaved rounds; medians and ranges are over them.")]
Vary = Annotated[str | None, typer.Option("--vary", help="Of scaling: question-length, K, thoughts, batch or width.")]
Values = Annotated[str | None, typer.Option("--values", help="Of what is varied, as in 1,2,4,8.")]
Only = Annotated[str | None, typer.Option("--only", help="Of targets: rows of the table, as in 1,4,6.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the measurement here.")]
Record = Annotated[bool, typer.Option("--record", help="Also store it in the history, and draw its pictures there.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the history.")]


def bench(
    context: typer.Context,
    what: What = None,
    methods: Methods = None,
    task: TaskName = None,
    model: Model = None,
    sizes: Sizes = None,
    against: Against = None,
    data: Data = None,
    limit: Limit = None,
    batch_size: BatchSize = None,
    tokens: Tokens = None,
    set_: Set = None,
    backbone: BackboneSet = None,
    device: Device = None,
    threads: Threads = None,
    rounds: Rounds = 5,
    vary: Vary = None,
    values: Values = None,
    only: Only = None,
    json_: Json = None,
    record: Record = False,
    out: Out = FOLDER,
) -> None:
    """Speed, memory and overhead beside plain loops: medians and ranges of interleaved pairs, and the machine's matrix
    peak.
    """
    kinds = SHORT if what is None else (what,)
    if what is not None and what not in (*KINDS, SHOWN):
        raise unknown("measurement", what, (*KINDS, SHOWN))
    if what == SHOWN:
        _check_shown(context)
        from rim_bench.bench.history import page, stored

        if not (found := stored(out, lambda text: typer.echo(text, err=True))):
            raise UsageError(
                f"no measurement is stored in {str(out)!r}: `rim-bench bench --record` stores one, --out names another "
                "folder"
            )
        typer.echo(page(found), nl=False)
        return
    given = locals()
    _check_flags(kinds, given)
    _check_places(given)
    _measure(kinds, _options(kinds, given), given)


def _check_shown(context: typer.Context) -> None:
    """Refuses flags that showing the history would pass over; what the environment says is for measurements."""
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if name not in ("what", "out") and source is not None and source.name == "COMMANDLINE":
            flag = max(parameter.opts, key=len)
            raise UsageError(f"{flag} has no meaning for {SHOWN}, which measures nothing: of all flags it takes --out")


def _check_flags(kinds: tuple[str, ...], given: dict[str, Any]) -> None:
    """Refuses flags that the measurement would pass over."""
    for name, users in USERS.items():
        if given[name] is not None and not set(kinds) <= set(users):
            flag = f"--{name.rstrip('_').replace('_', '-')} {given[name]}"
            raise UsageError(
                f"{flag} has no meaning for {' and '.join(kinds)}: it belongs to `rim-bench bench {' | '.join(users)}`"
            )
    if "scaling" in kinds and given["vary"] is None:
        raise UsageError("`rim-bench bench scaling` needs --vary: question-length, K, thoughts, batch or width")
    if given["json_"] is not None and len(kinds) * len((given["sizes"] or "x").split(",")) > 1:
        raise UsageError(
            "--json takes one measurement: name one (train, eval, ...) and at most one of --sizes, or store them with "
            "--record"
        )


def _check_places(given: dict[str, Any]) -> None:
    """Refuses what could not be written once something is measured."""
    from rim_bench.bench.history import PAGE

    if given["json_"] is not None:
        _check_place("--json", given["json_"], given["json_"])
    if given["record"]:
        _check_place("--out", given["out"], given["out"] / PAGE)


def _check_place(flag: str, given: Path, path: Path) -> None:
    """Tries a nameless file where `path` would come: in its folder, or in the nearest one above that is there."""
    try:
        if path.is_dir():
            raise UsageError(f"{flag} {str(given)!r} cannot be written: {str(path)!r} is a folder")
        folder = next(p for p in path.absolute().parents if p.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{flag} {str(given)!r} cannot be written: {error.strerror}") from None


def _options(kinds: tuple[str, ...], values: dict[str, Any]) -> Options:
    """What the study behind a measurement is asked."""
    from rim_bench.runs.options import Options, read_numbers

    methods, task = values["methods"], values["task"]
    if kinds in (("targets",), ("scaling",)):
        if methods is not None:
            raise UsageError(
                f"--methods has no meaning for {kinds[0]}: the rows or the knob say which methods are measured"
            )
        methods = "coconut,cot,direct,rim"
        task = task or ("chain" if values["data"] is None else "gsm8k")
    task = task or "chain"
    return Options(
        methods=read_names(methods or METHODS),
        task=task,
        model=values["model"] or _model(kinds, task),
        settings=read_settings(values["set_"] or []),
        backbone=read_numbers("--backbone", "KEY=VALUE, as in width=64")(values["backbone"] or []),
        allow_changed_data=os.environ.get("RIM_BENCH_ALLOW_CHANGED", "") in ("1", "true"),  # it has no flag of its own
        **{name: values[name] for name in ("data", "limit", "batch_size", "device", "out")},
    )


def _model(kinds: tuple[str, ...], task: str) -> str | None:
    """The backbone where none is given: that of the table for targets, and where a task would take one from the hub;
    else the task's.
    """
    from rim_bench.compute.backbones import entries
    from rim_bench.data.task import load_task

    usual = str(load_task(task).recipe.get("backbone", "gpt2"))
    return MODEL if kinds == ("targets",) or "hub" in entries().get(usual, {"hub": usual}) else None


def _measure(kinds: tuple[str, ...], options: Options, values: dict[str, Any]) -> None:
    """Measures, prints and stores."""
    from rich.console import Console

    from rim_bench.bench.history import add
    from rim_bench.bench.measure import Request, measure, parse_against, parse_sizes, use_threads
    from rim_bench.bench.report import table
    from rim_bench.report.plots.scaling import scaling_pictures
    from rim_bench.util.files import write_json_atomic

    console, progress = Console(), Console(stderr=True)
    use_threads(1 if values["threads"] is None and kinds[0] in ("targets", "scaling") else values["threads"])
    sizes = parse_sizes(values["sizes"])
    beside = {kind: parse_against(values["against"], AGAINST.get(kind, ()), DEFAULT.get(kind, ())) for kind in kinds}
    for kind, against in beside.items():
        for size in sizes:
            asked = {name: values[name] for name in ("rounds", "tokens", "vary", "values", "only")}
            request = Request(kind, options, against=against, size=size, **asked)
            told = measure(request, lambda text: progress.print(text, style="dim", highlight=False))
            console.print(table(told).to_rich())
            if values["json_"] is not None:
                write_json_atomic(values["json_"], told)
                if told["scaling"] is not None:
                    scaling_pictures(told, values["json_"].with_suffix(""))
            if values["record"]:
                console.print(f"stored: {add(told, values['out'])}", highlight=False, soft_wrap=True)
