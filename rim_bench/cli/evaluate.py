"""The commands that evaluate trained runs: `eval`, `sweep`, and lm-eval's own command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rim_bench.cli.common import chosen_runs, echo, execution_of, name_damaged, named_runs, reporter_for, with_options
from rim_bench.evaluate.options import EvaluationSets, StoredRunOptions, usual_tokens
from rim_bench.util.errors import UsageError
from rim_bench.util.files import read_regular
from rim_bench.util.flags import Flag


@with_options(
    "runs task data files out steps limit split effort max_tokens votes temperature sample_seed split_passes repeat",
    "eval_batch_size device quick allow_changed_data suites names include_path strict method_files task_files trust",
)
def eval_(
    context: typer.Context,
    runs: Annotated[list[str], typer.Argument(help="Trained runs: ids or folders.")],
    options: StoredRunOptions,
    sets: EvaluationSets,
) -> None:
    """Evaluate trained runs once more: other tasks, another number of blocks, several votes, the validation split."""
    from rim_bench.evaluate.stored_runs import accuracy_text, check_used, evaluate_sets, evaluate_stored, plan_sets

    _ = options.sampling  # refuses what does not fit
    options.allow()
    trained, execution = named_runs(runs, options.out), execution_of(context)
    check_used(trained, options, sets=sets.any)
    with reporter_for() as reporter:
        planned = plan_sets(sets, options, reporter)
        for line in evaluate_sets(trained, planned, options, reporter, execution=execution):
            reporter.note(line)
        for run in trained if options.task or not sets.any else ():
            summary = evaluate_stored(run, options, reporter, execution=execution)
            reporter.note(f"{run.id}: {accuracy_text(run, summary)}")


@with_options(
    "runs out task data files steps limit split knob max_tokens temperature sample_seed eval_batch_size device",
    "method_files task_files trust",
    out=Flag("The results folder.", "--out", "-o"),
    task=Flag("Another task than each run's own.", "--task", "-t"),
    data=Flag("Folder of the published files.", envvar="RIM_BENCH_DATA"),
    steps=Flag("Reasoning steps of another, annotated task: equations or prose."),
    limit=Flag("Only the first N rows. Default: as the run was evaluated."),
    max_tokens=Flag("Cap of the default evaluation, if the run was given one."),
    temperature=Flag("Of the votes' samples; default 0.7."),
)
def sweep(
    context: typer.Context,
    options: StoredRunOptions,
    runs: Annotated[
        list[str] | None, typer.Argument(help="Run ids or folders. Default: all trained ones in the results folder.")
    ] = None,
    knob: Annotated[
        list[str] | None, typer.Option("--knob", help="Values: K=1,2,4 or votes=3,5 or rim.votes=3 or votes=none.")
    ] = None,
) -> None:
    """Inference curves: evaluate trained runs at other settings of their own knob.

    What is done already is not done again.
    """
    options.allow()
    knobs: dict[str, tuple[int, ...]] = {}
    for text in knob or []:
        name, _, values = text.partition("=")
        if name in knobs:
            raise UsageError(f"--knob gives {name} twice: give its values once, separated by commas, as in K=1,2,4")
        try:
            knobs[name] = () if values == "none" else tuple(int(v) for v in values.split(","))  # none: it is not turned
        except ValueError:
            raise UsageError(f"--knob {text!r} is not NAME=V1,V2,... with whole numbers, as in K=1,2,4") from None
    chosen, damaged = chosen_runs(runs, options.out)
    from rim_bench.evaluate.sweep import sweep as evaluate_curves

    name_damaged(damaged)
    with reporter_for() as reporter:
        points = evaluate_curves(chosen, options, reporter, knobs=knobs, execution=execution_of(context))
    for point in points:
        share = sum(i.correct for i in point.run.read_items(point.key)) / point.summary.n
        setting = "default" if point.name is None else f"{point.name}={point.value}"
        echo(f"{point.run.id}  {point.label}  {setting}  {100 * share:.2f} % of {point.summary.n}")


@with_options(
    "run questions file show_blocks effort max_tokens votes temperature sample_seed eval_batch_size data out device",
    "method_files task_files trust",
    out=Flag("The results folder.", "--out", "-o"),
    data=Flag("Folder of the published files.", envvar="RIM_BENCH_DATA"),
    eval_batch_size=Flag("Questions decoded together; default 1, of a file 64."),
)
def ask(
    run: Annotated[str, typer.Argument(help="A trained run: its id or folder.")],
    options: StoredRunOptions,
    questions: Annotated[list[str] | None, typer.Argument(help="The question, or several.")] = None,
    file: Annotated[
        str | None, typer.Option("--file", help="Questions from a file, - for stdin: one a line, or JSON lines.")
    ] = None,
    show_blocks: Annotated[bool, typer.Option("--show-blocks", help="Also the answer behind every block.")] = False,
) -> None:
    """Ask a trained run questions of your own: its answers and what they took. Of a --file they are JSON lines."""
    if (file is None) == (not questions):
        raise UsageError("give a question or --file, not both" if questions else "give a question, or a --file of them")
    asked, batch_size = list(questions or []), 1
    from rim_bench.evaluate import ask as asking

    if file is not None:
        data = sys.stdin.buffer.read() if file == "-" else read_regular(Path(file))
        asked = asking.read_questions(data, "standard input" if file == "-" else repr(file))
        batch_size = options.eval_batch_size
    asking.check_questions(asked)
    options.allow()
    from rim_bench.data.task import task_of
    from rim_bench.engine.devices import pick_device
    from rim_bench.engine.trained_model import load_trained
    from rim_bench.evaluate.predict import Predictor
    from rim_bench.storage.run_folder import Store

    stored = Store(options.out).find(run)
    trained = load_trained(stored, device=pick_device(options.device))
    answerer = Predictor(trained, options.effort, probe=show_blocks, sampling=options.sampling)
    task = task_of(stored.spec.task.name, stored.task_file)
    if (record := asking.unseen_text(trained, asked, options.data)) is not None and record.questions:
        echo(f"{record.questions} of {record.n} questions hold text that this run never saw in training", err=True)
    limit = options.max_tokens or usual_tokens(task, trained.method)
    for reply in asking.ask(answerer, asked, max_tokens=limit, batch_size=batch_size, kind=task.kind):
        echo(asking.reply_line(reply) if file is not None else asking.reply_text(reply))


def lm_eval(context: typer.Context) -> None:
    """lm-eval's own command line, with trained runs as `--model rim-bench --model_args path=RUN` and our tasks
    registered.
    """
    from rim_bench.evaluate.lm_eval_model import lm_eval_main

    lm_eval_main(context.args, execution_of(context))
