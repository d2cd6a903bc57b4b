"""`rim-bench bench`: what is measured, on what, and where it goes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rim_bench.cli.common import echo, with_options
from rim_bench.runs.options import read_numbers
from rim_bench.util.errors import UsageError, unknown
from rim_bench.util.files import check_place
from rim_bench.util.flags import Flag, read_names, read_settings, refuse_unused
from rim_bench.util.text import escape_terminal

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
    "pretrained": "a pretrained backbone with LoRA, beside peft with Trainer and generate",
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
    "tokens": ("eval", "pretrained"),
}
"""Flag -> the measurements that it belongs to."""
READ_BACKBONE = read_numbers("--backbone", "KEY=VALUE, as in width=64")
FOLDER = Path("results") / "bench"
MODEL = "bench-gpt2"
PRETRAINED = "smollm2-135m"


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is measured, on what, and where it goes."""

    methods: Annotated[
        str | None, Flag(f"Names or .py files, separated by commas. Default: {METHODS}.", "--methods", "-m")
    ] = None
    task: Annotated[
        str | None, Flag("A task; default chain (embedded), for targets gsm8k where --data is given.", "--task", "-t")
    ] = None
    model: Annotated[str | None, Flag("Backbone. Default: the task's; of targets bench-gpt2.")] = None
    sizes: Annotated[str | None, Flag("LAYERSxWIDTHxHEADS, several by commas: one measurement each.")] = None
    against: Annotated[str | None, Flag("train: plain, hf; eval: hf, uncached; memory: plain; or none.")] = None
    data: Annotated[Path | None, Flag("Folder of the published files.", envvar="RIM_BENCH_DATA")] = None
    limit: Annotated[int | None, Flag("Only the first N training rows.")] = None
    batch_size: Annotated[int | None, Flag("Examples an optimizer step, and questions answered together.")] = None
    tokens: Annotated[int | None, Flag("Generated for each question; default 64, on the embedded task 16.")] = None
    settings: Annotated[dict[str, Any], Flag("A method's field: rim.K=4.", "--set", read=read_settings, many=True)] = (
        field(default_factory=dict)
    )
    backbone: Annotated[dict[str, Any], Flag("A number of the backbone: width=64.", read=READ_BACKBONE, many=True)] = (
        field(default_factory=dict)
    )
    device: Annotated[str | None, Flag("cpu, cuda, cuda:1. Default: a GPU if there is one.")] = None
    threads: Annotated[int | None, Flag("Of torch. Default: as the environment has it; 1 for targets and scaling.")] = (
        None
    )
    rounds: Annotated[int, Flag("Interleaved rounds; medians and ranges are over them.")] = 5
    vary: Annotated[str | None, Flag("Of scaling: question-length, K, thoughts, batch or width.")] = None
    values: Annotated[str | None, Flag("Of what is varied, as in 1,2,4,8.")] = None
    only: Annotated[str | None, Flag("Of targets: rows of the table, as in 1,4,6.")] = None
    json: Annotated[Path | None, Flag("Also write the measurement here.")] = None
    record: Annotated[bool, Flag("Also store it in the history, and draw its pictures there.")] = False
    out: Annotated[Path, Flag("Folder of the history.", "--out", "-o")] = FOLDER


@with_options(
    "what methods task model sizes against data limit batch_size tokens settings backbone device threads rounds vary",
    "values only json record out",
)
def bench(
    context: typer.Context,
    options: BenchOptions,
    what: Annotated[str | None, typer.Argument(help=f"{', '.join((*KINDS, SHOWN))}. Default: train and eval.")] = None,
) -> None:
    """Speed, memory and overhead beside plain loops: medians and ranges of interleaved pairs, and the machine's matrix
    peak.
    """
    kinds = SHORT if what is None else (what,)
    if what is not None and what not in (*KINDS, SHOWN):
        raise unknown("measurement", what, (*KINDS, SHOWN))
    from rim_bench.bench.history import PAGE, page, stored
    from rim_bench.data.task import load_task

    if what == SHOWN:
        for parameter in context.command.params:  # what the environment says is for measurements
            name = str(parameter.name)
            source = context.get_parameter_source(name)
            if name not in ("what", "out") and source is not None and source.name == "COMMANDLINE":
                flag = max(parameter.opts, key=len)
                raise UsageError(
                    f"{flag} has no meaning for {SHOWN}, which measures nothing: of all flags it takes --out"
                )
        if not (measurements := stored(options.out, lambda text: echo(text, err=True))):
            raise UsageError(
                f"no measurement is stored in {str(options.out)!r}: `rim-bench bench --record` stores one, --out names "
                "another folder"
            )
        echo(page(measurements), nl=False)
        return
    _check_flags(kinds, options)
    check_place("--json", options.json)
    check_place("--out", options.out / PAGE if options.record else None)
    study = _study_options(kinds, options)
    if load_task(study.task).metadata["source"] == "generator":
        refuse_unused(options, "data", f"{study.task} is generated and reads no file")
    _measure(kinds, study, options)


def _check_flags(kinds: tuple[str, ...], options: BenchOptions) -> None:
    """Refuses flags that the measurement would pass over."""
    for name, users in USERS.items():
        if (value := getattr(options, name)) is not None and not set(kinds) <= set(users):
            flag = f"--{name} {value}"
            raise UsageError(
                f"{flag} has no meaning for {' and '.join(kinds)}: it belongs to `rim-bench bench {' | '.join(users)}`"
            )
    if "scaling" in kinds and options.vary is None:
        raise UsageError("`rim-bench bench scaling` needs --vary: question-length, K, thoughts, batch or width")
    if options.json is not None and len(kinds) * len((options.sizes or "x").split(",")) > 1:
        raise UsageError(
            "--json takes one measurement: name one (train, eval, ...) and at most one of --sizes, or store them with "
            "--record"
        )


def _study_options(kinds: tuple[str, ...], asked: BenchOptions) -> Options:
    """What the study behind a measurement is asked."""
    from rim_bench.compute.backbones import entries
    from rim_bench.data.task import load_task
    from rim_bench.runs.options import Options

    methods, task = asked.methods, asked.task
    if kinds in (("targets",), ("scaling",), ("pretrained",)):
        if methods is not None:
            raise UsageError(
                f"--methods has no meaning for {kinds[0]}: the rows or the knob say which methods are measured"
            )
        methods = "cot" if kinds == ("pretrained",) else "coconut,cot,direct,rim"
        task = task or ("chain" if asked.data is None and kinds != ("pretrained",) else "gsm8k")
    task = task or "chain"
    model = asked.model or (PRETRAINED if kinds == ("pretrained",) else None)
    if not model:  # the table's for targets and instead of one from the hub, else the task's
        usual = str(load_task(task).recipe.get("backbone", "gpt2"))
        model = MODEL if kinds == ("targets",) or "hub" in entries().get(usual, {"hub": usual}) else None
    return Options(
        methods=read_names(methods or METHODS),
        task=task,
        model=model,
        settings=asked.settings,
        backbone=asked.backbone,
        allow_changed_data=os.environ.get("RIM_BENCH_ALLOW_CHANGED", "") in ("1", "true"),  # it has no flag of its own
        **{name: getattr(asked, name) for name in ("data", "limit", "batch_size", "device", "out")},
    )


def _measure(kinds: tuple[str, ...], study: Options, options: BenchOptions) -> None:
    """Measures, prints and stores."""
    from rich.console import Console
    from rich.text import Text

    from rim_bench.bench.history import add
    from rim_bench.bench.measure import Request, measure, parse_against, parse_sizes, use_threads
    from rim_bench.bench.report import table
    from rim_bench.report.plots.scaling import scaling_pictures
    from rim_bench.util.files import write_json_atomic

    console, progress = Console(), Console(stderr=True)
    use_threads(1 if options.threads is None and kinds[0] in ("targets", "scaling", "pretrained") else options.threads)
    sizes = parse_sizes(options.sizes)
    beside = {kind: parse_against(options.against, AGAINST.get(kind, ()), DEFAULT.get(kind, ())) for kind in kinds}
    for kind, against in beside.items():
        for size in sizes:
            asked = {name: getattr(options, name) for name in ("rounds", "tokens", "vary", "values", "only")}
            request = Request(kind, study, against=against, size=size, **asked)
            measured = measure(request, lambda text: progress.print(Text(escape_terminal(text), style="dim")))
            if options.json is not None:
                write_json_atomic(options.json, measured)
                if measured["scaling"] is not None:
                    scaling_pictures(measured, options.json.with_suffix(""))
            stored = f"stored: {add(measured, options.out)}" if options.record else None
            console.print(table(measured).to_rich())
            if stored is not None:
                console.print(Text(escape_terminal(stored)), soft_wrap=True)
