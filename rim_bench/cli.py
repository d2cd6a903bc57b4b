"""The command line. It parses, calls, and prints; imports stay inside the commands so that `--help` needs no torch."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from rim_bench import cli_bench, cli_compute, cli_data, cli_evidence, cli_grid
from rim_bench.errors import UsageError, sentence, unknown
from rim_bench.launch import company

if TYPE_CHECKING:
    from rim_bench.run_options import Options
    from rim_bench.store import Damaged, Run

app = typer.Typer(
    help="rim-bench: what latent reasoning in language models is worth, measured.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(cli_compute.app)  # without a name: its commands stand beside these
app.add_typer(cli_evidence.app)
app.add_typer(cli_data.app)
app.add_typer(cli_bench.app)

EMBEDDED_METHODS = "direct,pause,cot,coconut,rim"
INTERRUPTED = 130
FAULT = 70  # EX_SOFTWARE

Methods = Annotated[str, typer.Option("--methods", "-m", help="Names or .py files, separated by commas.")]
TaskName = Annotated[str, typer.Option("--task", "-t", help="A task's name or YAML file, see `rim-bench list tasks`.")]
Model = Annotated[str | None, typer.Option("--model", help="Backbone: an entry, a folder, or a hub id. Default: the task's.")]
Data = Annotated[Path | None, typer.Option("--data", envvar="RIM_BENCH_DATA", help="Folder of the published files instead of the hub.")]
Files = Annotated[list[str] | None, typer.Option("--file", help="Your own rows: train=PATH, validation=PATH, test=PATH.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where runs and tables go.")]
Steps = Annotated[str, typer.Option("--steps", help="Reasoning steps of annotated tasks: equations or prose.")]
Limit = Annotated[int | None, typer.Option("--limit", help="Only the first N rows of each split.")]
Start = Annotated[str | None, typer.Option("--start", help="recipe: as published; cot: all methods from one shared CoT run.")]
Seeds = Annotated[str, typer.Option("--seeds", "--seed", help="Training seeds, separated by commas.")]
Examples = Annotated[int | None, typer.Option("--examples", help="Training budget of each method, in examples.")]
Budget = Annotated[str | None, typer.Option("--budget", help="The same as examples=N, or train-flops=X, inherited cost included.")]
CotExamples = Annotated[int | None, typer.Option("--cot-examples", help="Training budget of the shared CoT start.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Examples an optimizer step.")]
Lr = Annotated[float | None, typer.Option("--lr", help="One learning rate for all methods instead of the recipe's.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="Cap of generated tokens.")]
EvalBatch = Annotated[int, typer.Option("--eval-batch-size", help="Questions decoded together.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A method's field: rim.K=4.")]
BackboneSet = Annotated[list[str] | None, typer.Option("--backbone", help="A number of the backbone: width=64, lora_rank=16.")]
Tuning = Annotated[str | None, typer.Option("--tuning", help="full or lora (the default on pretrained weights).")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1. Default: a GPU if there is one.")]
Quick = Annotated[bool, typer.Option("--quick", help="A plumbing check of a few steps: not a result.")]
Checkpoint = Annotated[str, typer.Option("--checkpoint", help="last, best (on validation), or 16-split (RiM's, on test items).")]
Points = Annotated[int | None, typer.Option("--checkpoint-points", help="Looks at validation while it trains; default 8, none for last.")]
Tune = Annotated[str | None, typer.Option("--tune", help="Learning rates to try for every method: lr=1e-5..1e-3.")]
Trials = Annotated[int | None, typer.Option("--trials", help="How many of them, log-spaced; default 3.")]
TuneShare = Annotated[float | None, typer.Option("--tune-share", help="Share of the budget that a trial gets; default all of it.")]
Split = Annotated[str, typer.Option("--split", help="test or validation.")]
Results = Annotated[Path, typer.Option("--out", "-o", help="The results folder.")]
RunNames = Annotated[list[str] | None, typer.Argument(help="Run ids or folders. Default: all in the results folder.")]


@app.command()
def run(
    methods: Methods = EMBEDDED_METHODS,
    task: Annotated[str, typer.Option("--task", "-t", help="Tasks' names or YAML files, separated by commas; see `list tasks`.")] = "chain",
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
    allow_changed_data: cli_data.Changed = False,
    checkpoint: Checkpoint = "last",
    checkpoint_points: Points = None,
    tune: Tune = None,
    trials: Trials = None,
    tune_share: TuneShare = None,
    strategy: cli_grid.Strategy = None,
    processes: cli_grid.Processes = None,
    controls: Annotated[bool, typer.Option("--controls", help="Also run the controls that these methods need.")] = False,
    suite: cli_data.Suites = None,
    eval_tasks: cli_data.EvalTasks = None,
    include_path: cli_data.IncludePath = None,
    strict_sets: cli_data.StrictSets = False,
    executor: cli_grid.Executor = None,
    workers: cli_grid.Workers = None,
    executor_set: cli_grid.ExecutorSet = None,
    dry_run: cli_grid.DryRun = False,
    flops_per_second: cli_grid.Rate = None,
    format_: cli_grid.Format = None,
) -> None:
    """Train, evaluate and compare methods. What is done already is not done again."""
    values = locals()
    way = cli_grid.way_of(values)
    requests = cli_grid.requests_of(values, _options)
    wanted = cli_data.wanted_sets(suite, eval_tasks, include_path, strict_sets)
    runs, runner = cli_grid.run_requests(requests, wanted, controls, way)
    if runs:
        _write_tables(runs, [], out, print_it=True)
        typer.echo(f"runs: {out / 'runs'}/   tables: {out / 'table.md'}, {out / 'table.csv'}")
    raise typer.Exit(cli_grid.report(runner))


@app.command()
def train(
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
    allow_changed_data: cli_data.Changed = False,
    checkpoint: Checkpoint = "last",
    checkpoint_points: Points = None,
    tune: Tune = None,
    trials: Trials = None,
    tune_share: TuneShare = None,
    strategy: cli_grid.Strategy = None,
    processes: cli_grid.Processes = None,
) -> None:
    """Train methods without evaluating them on the test split; prints each run's folder and validation accuracy."""
    options = _options(locals())
    from rim_bench.run import Study

    study = Study(options)
    with _reporter() as reporter:
        runs = study.run(reporter, evaluation=False)
    for done in runs:
        training = done.training() or {}
        validation = training["validation"]
        typer.echo(f"{done.path}  validation {100 * validation['accuracy']:.1f} % (n = {validation['n']})")


@app.command("eval")
def eval_(
    runs: Annotated[list[str], typer.Argument(help="Trained runs: ids or folders.")],
    task: Annotated[str | None, typer.Option("--task", "-t", help="Another task than the run's own.")] = None,
    data: Data = None,
    file: Files = None,
    out: Out = Path("results"),
    steps: Steps = "equations",
    limit: Limit = None,
    split: Split = "test",
    effort: Annotated[int | None, typer.Option("--effort", help="The method's knob: blocks, thoughts or pauses.")] = None,
    max_tokens: MaxTokens = None,
    votes: Annotated[int, typer.Option("--votes", help="Samples a question, whose most frequent answer counts; 1: one greedy answer.")] = 1,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Of the samples; default 0.7.")] = None,
    sample_seed: Annotated[int | None, typer.Option("--sample-seed", help="What the samples are drawn from; default 0.")] = None,
    split_passes: Annotated[bool, typer.Option("--split-passes", help="Each learned thought in a pass of its own: latency alone.")] = False,
    repeat: Annotated[bool, typer.Option("--repeat", help="Again in another order (and batch size): the gate's noise floor.")] = False,
    eval_batch_size: EvalBatch = 64,
    device: Device = None,
    quick: Quick = False,
    allow_changed_data: cli_data.Changed = False,
    suite: cli_data.Suites = None,
    eval_tasks: cli_data.EvalTasks = None,
    include_path: cli_data.IncludePath = None,
    strict_sets: cli_data.StrictSets = False,
) -> None:
    """Evaluate trained runs once more: other tasks, another number of blocks, several votes, the validation split."""
    _check_split(split)
    wanted = cli_data.wanted_sets(suite, eval_tasks, include_path, strict_sets)
    options = _options(locals() | {"methods": "direct", "seeds": "0", "task": task or ""})
    from rim_bench.sets import How, evaluate_sets, plan_sets
    from rim_bench.store import Store
    from rim_bench.stored import accuracy_text, evaluate_stored
    from rim_bench.votes import sampling_of

    sampling = sampling_of(votes, temperature, sample_seed)
    found = [Store(out).find(name) for name in runs]
    with _reporter() as reporter:
        sets = plan_sets(wanted, options, reporter, split)
        for line in evaluate_sets(found, sets, options, reporter, How(split, effort, sampling, split_passes, repeat)):
            reporter.note(line)
        for one in found if task is not None or not wanted.any else ():
            summary = evaluate_stored(one, options, effort, split, reporter, sampling=sampling, split_passes=split_passes, repeat=repeat)
            reporter.note(f"{one.id}: {accuracy_text(one, summary)}")


@app.command()
def table(
    runs: RunNames = None,
    out: Results = Path("results"),
    split: Split = "test",
    format_: Annotated[str, typer.Option("--format", "-f", help="terminal, markdown, csv or latex.")] = "terminal",
    write: Annotated[bool, typer.Option("--write", help="Also write table.md and table.csv into the results folder.")] = False,
    references: Annotated[
        bool, typer.Option("--references", help="Also published values of the same tasks, in a grid of their own.")
    ] = False,
) -> None:
    """The comparison table of stored runs; a pure function of what lies in their folders."""
    formats = ("terminal", "markdown", "csv", "latex")
    if format_ not in formats:
        raise unknown("format", format_, formats)
    _check_split(split)
    chosen, damaged = _chosen(runs, out)
    from rim_bench.references import shipped
    from rim_bench.tables import comparison

    if references and format_ == "csv":
        raise UsageError("--references has no place in --format csv, which holds measured numbers only: use markdown, latex or terminal")
    made = comparison(chosen, split=split, damaged=damaged, published=shipped() if references else None)
    if format_ == "terminal":
        from rich.console import Console

        console = Console()
        console.print(made.to_rich(console.width))
    else:
        text = {"markdown": made.to_markdown, "csv": made.to_csv, "latex": made.to_latex}[format_]()
        typer.echo(text, nl=not text.endswith("\n"))
    if write:
        _write_tables(chosen, damaged, out, print_it=False, split=split)


@app.command()
def plot(
    runs: RunNames = None,
    out: Results = Path("results"),
    kind: Annotated[str, typer.Option("--kind", "-k", help="accuracy, training, selection or tuning.")] = "accuracy",
    to: Annotated[Path | None, typer.Option("--to", help="File, .svg or .png. Default: OUT/<kind>.svg")] = None,
    split: Split = "test",
) -> None:
    """A picture of stored runs: accuracy per level with intervals, the training loss, or what validation chose: checkpoints, rates."""
    kinds = ("accuracy", "training", "selection", "tuning")
    if kind not in kinds:
        raise unknown("kind of plot", kind, kinds)
    _check_split(split)
    chosen, _ = _chosen(runs, out)
    from rim_bench.plot import accuracy_plot, training_plot
    from rim_bench.plot_selection import selection_plot, tuning_plot

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
    options = _options(values)
    from rim_bench.show import explain

    typer.echo(explain(options, row, effort))


@app.command("lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def lm_eval(context: typer.Context) -> None:
    """lm-eval's own command line, with trained runs as `--model rim-bench --model_args path=RUN` and our tasks registered."""
    from rim_bench.lm_task import lm_eval_main

    lm_eval_main(context.args)


# What the commands share


def _options(values: dict[str, Any]) -> Options:
    """Parsed options as one object; everything that can be refused without data is refused here."""
    from rim_bench.run_options import Options, parse_budget
    from rim_bench.selection import parse_tune

    if values.get("budget") is not None:
        if values.get("examples") is not None:
            raise UsageError("--examples and --budget both give the budget: leave one out")
        values = values | parse_budget(values["budget"])
    settings: dict[str, dict[str, Any]] = {}
    for given in values.get("set_") or ():
        name, value = _pair(given, "--set", "METHOD.FIELD=VALUE, as in rim.K=4")
        method, dot, key = name.partition(".")
        if not dot:
            raise UsageError(f"--set {given!r} is not METHOD.FIELD=VALUE, as in rim.K=4")
        settings.setdefault(method, {})[key] = value
    backbone = dict(_pair(given, "--backbone", "KEY=VALUE, as in width=64") for given in values.get("backbone") or ())
    files = dict(_pair(given, "--file", "SPLIT=PATH, as in train=rows.jsonl") for given in values.get("file") or ())
    known: tuple[str, ...] = ("task", "out", "model", "data", "steps", "limit", "start", "examples", "train_flops", "cot_examples")
    known += ("batch_size", "lr", "max_tokens", "eval_batch_size", "tuning", "device", "quick", "checkpoint", "checkpoint_points")
    known += ("strategy", "processes")
    same = {k: values[k] for k in known if k in values}
    changed = os.environ.get("RIM_BENCH_ALLOW_CHANGED", "") in ("1", "true")  # for commands without the flag
    if "tune" in values:
        same["tune"] = parse_tune(values["tune"], values["trials"], values["tune_share"])
    return Options(
        methods=tuple(m.strip() for m in values["methods"].split(",") if m.strip()),
        seeds=_seeds(values["seeds"]),
        settings=settings,
        backbone={k: _number(v) for k, v in backbone.items()},
        files=files or None,
        allow_changed_data=values.get("allow_changed_data", changed),
        **same,
    )


def _check_split(split: str) -> None:
    if split not in (splits := ("test", "validation")):
        raise unknown("split", split, splits)


def _pair(given: str, flag: str, form: str) -> tuple[str, str]:
    key, equals, value = given.partition("=")
    if not equals or not key or not value:
        raise UsageError(f"{flag} {given!r} is not {form}")
    return key, value


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(s) for s in text.split(",") if s.strip())
    except ValueError:
        raise UsageError(f"--seeds {text!r} must be whole numbers separated by commas, as in 0,1,2") from None


def _chosen(names: Sequence[str] | None, out: Path) -> tuple[list[Run], list[Damaged]]:
    """The named runs, or all arms of the results folder; shared starts and trials are not rows of a comparison.

    Raises:
        UsageError: no such run, or none at all.
    """
    from rim_bench.store import Store

    store = Store(out)
    if names:
        return [store.find(name) for name in names], []
    good, damaged = store.runs()
    arms = [r for r in good if r.spec.get("role") not in ("start", "trial")]
    if not arms and not damaged:
        raise UsageError(f"no run is stored in {str(store.folder)!r}: `rim-bench run` makes some, --out names another results folder")
    return arms, damaged


def _write_tables(runs: list[Run], damaged: list[Damaged], out: Path, *, print_it: bool, split: str = "test") -> None:
    from rich.console import Console

    from rim_bench.files import write_bytes_atomic
    from rim_bench.tables import comparison

    made = comparison(runs, split=split, damaged=damaged)
    write_bytes_atomic(out / "table.md", made.to_markdown().encode())
    write_bytes_atomic(out / "table.csv", made.to_csv().encode())
    if print_it:
        console = Console()
        console.print(made.to_rich(console.width))


@contextmanager
def _reporter() -> Iterator[Any]:
    from rim_bench.console import RichReporter

    with RichReporter() as reporter:
        yield reporter


class _Log(logging.StreamHandler):
    """Writes to what `sys.stderr` is at that moment: the progress display replaces it, so that lines go above the bars."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


# What the parser raises: Typer has taken Click in, so the class has no stable address.
_ParserError = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def main() -> None:
    """Entry point. A fault of ours shows its traceback and has a code of its own: 1 is the gate's word for "regressed"."""
    atexit.register(gc.freeze)  # else the interpreter looks through all that torch and the others hold before it ends: most of a second
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
        with company(sys.argv[1:]) as leads:
            code = app(standalone_mode=False) if leads else 0
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
