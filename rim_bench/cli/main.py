"""The command line. It parses, calls, and prints; imports stay inside the commands so that `--help` needs no torch."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import typer

import rim_bench
from rim_bench.cli import bench, compute, data, evaluate, evidence, models, results, run, share
from rim_bench.cli.common import EXIT_CODES, FAULT, INTERRUPTED, OUTPUT, as_command, display, echo
from rim_bench.cli.launch import execution_of_command
from rim_bench.cli.streams import OutputLost, prepare_environment, prepare_streams
from rim_bench.util.errors import UsageError, sentence, shorten
from rim_bench.util.progress import phase, watched
from rim_bench.util.text import escape_terminal

COMMANDS: dict[str, Callable[..., Any]] = {
    "run": run.run,
    "train": run.train,
    "eval": evaluate.eval_,
    "ask": evaluate.ask,
    "export": share.export,
    "table": results.table,
    "report": results.report,
    "seal": results.seal,
    "plot": results.plot,
    "show": results.show,
    "lm-eval": evaluate.lm_eval,
    "cost": compute.cost,
    "sweep": evaluate.sweep,
    "leaderboard": results.leaderboard,
    "study": results.study,
    "baseline": evidence.baseline,
    "check": evidence.check,
    "margin": evidence.margin,
    "power": compute.power,
    "compare": evidence.compare,
    "decide": evidence.decide,
    "intervene": evidence.intervene,
    "list": data.list_,
    "models": models.models,
    "leakage": data.leakage,
    "floors": data.floors,
    "bench": bench.bench,
}
"""The commands in the order of `rim-bench --help`."""
OTHERS_OWN = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def application(first: str = "") -> typer.Typer:
    """The command line. Where its first word is a command or `--help`, the other commands have names and texts only."""
    app = typer.Typer(
        help="rim-bench: what latent reasoning in language models is worth, measured.",
        epilog="Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + ".",
        add_completion=first in ("", "--help", "--install-completion", "--show-completion"),
        pretty_exceptions_enable=False,
    )
    for name, function in COMMANDS.items():
        whole = first == name or first not in (*COMMANDS, "--help")
        # Where a docstring wraps is not shown: help has lines of its own, and the list of commands all of the text.
        help_text = " ".join(str(function.__doc__).split())
        options = OTHERS_OWN if name == "lm-eval" else None
        app.command(name, help=help_text, context_settings=options)(as_command(function) if whole else _unasked)
    return app


def _unasked() -> None:
    """Stands for a command that is not called."""


class _Log(logging.StreamHandler):
    """Writes to what `sys.stderr` is at that moment: a progress display replaces it, to keep lines above its bars."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        return escape_terminal(super().format(record))


# What the parser raises: Typer has taken Click in, so the class has no stable address.
_ParserError = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def main() -> None:
    """Entry point: errors a user can act on become one sentence and exit code 2.

    A fault of ours shows its traceback and has a code of its own: 1 is the gate's word for "regressed".
    """
    prepare_streams()
    prepare_environment()
    # else the interpreter looks through all that torch and the others hold before it ends: most of a second
    atexit.register(gc.freeze)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", handlers=[_Log()])
    if "_RIM_BENCH_COMPLETE" in os.environ:  # the shell asks what may come next, or for its own script
        raise SystemExit(application()(prog_name="rim-bench", standalone_mode=True))
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        try:
            code = _command(sys.argv[1:])
        finally:  # what is still in the buffer: a stream that fails has its say before the interpreter's own flush
            sys.stdout.flush()
    except OutputLost as error:
        echo(f"error: {error}", err=True)
        code = OUTPUT
    raise SystemExit(code)


def _command(arguments: Sequence[str]) -> int:
    """The exit code of a command line, whose errors are printed."""
    if arguments == ["--version"]:
        echo(f"rim-bench {rim_bench.__version__}")
        return 0
    try:
        with ExitStack() as stack:
            if arguments[0] != "lm-eval":  # which has bars of its own
                display.cache_clear()
                stack.enter_context(watched(display))
                stack.enter_context(phase(f"working on rim-bench {arguments[0]}"))
            for before, word in pairwise(arguments):
                if not word or (word.startswith("--") and word.endswith("=")):
                    raise UsageError(f"an empty text stands behind {(word or before)!r}: was a variable not set?")
            execution = stack.enter_context(execution_of_command(arguments))
            code = 0 if execution is None else application(arguments[0])(standalone_mode=False, obj=execution)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        parsing: Any = error if isinstance(error, _ParserError) else None
        message = sentence(error) if parsing is None else shorten(parsing.format_message())
        if message is None:
            echo(traceback.format_exc(), err=True, nl=False)
            return FAULT
        echo("error: " + " ".join(line.strip() for line in message.splitlines() if line.strip()), err=True)
        code = 2
    if code == INTERRUPTED:
        echo("\ninterrupted: the same command again goes on where this one stopped", err=True)
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    main()
