"""What several commands share: their options, the runs they name, and the tables they write."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rim_bench.engine.execution import ALONE, ExecutionContext
from rim_bench.util.errors import UsageError, unknown
from rim_bench.util.flags import Flag, FlagField, flag_fields
from rim_bench.util.text import escape_terminal

if TYPE_CHECKING:
    from rim_bench.storage.run_folder import Damaged, Run
    from rim_bench.util.console import RichReporter

EMBEDDED_METHODS = "direct,pause,cot,coconut,rim"
FAULT = 70  # EX_SOFTWARE
OUTPUT = 74  # EX_IOERR
INTERRUPTED = 130
EXIT_CODES = {
    0: "done; of `check`: holds",
    1: "a verdict alone: `check` found a regression, `cost --verify` other FLOPs",
    2: "bad input, or something to act on, such as a full disk or too little memory, in one sentence",
    3: "of `check`: not comparable",
    4: "of `check`: underpowered",
    FAULT: "a fault of rim-bench, with its traceback, or a worker process that died",
    OUTPUT: "standard output could not be written: its device is full, or its reader went away",
    INTERRUPTED: "interrupted (Ctrl-C)",
    143: "ended by SIGTERM, as a shell counts it",
}
"""What the exit codes of all commands mean. Whatever ended a command, the same one again goes on where it stopped."""
Split = Annotated[str, typer.Option("--split", help="test or validation.")]
Results = Annotated[Path, typer.Option("--out", "-o", help="The results folder.")]
RunNames = Annotated[
    list[str] | None, typer.Argument(help="Ids, folders, or rim:seed=0. Default: all in the results folder.")
]


def with_options(*names: str, **changed: Flag) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Marks a command: its parameters that are dataclasses of options are given by flags, one for each of their fields.

    Args:
        names: the command's arguments and flags, in the order of its help and with spaces between them: parameters,
            and fields of the dataclasses.
            A field that is not named has its default, or what the environment says.
        changed: flags that this command shows in another way, by field.
    """

    def marked(function: Callable[..., Any]) -> Callable[..., Any]:
        function.options = " ".join(names).split(), changed  # type: ignore[attr-defined]
        return function

    return marked


def as_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the signature that Typer reads: what `with_options` marked takes values of flags.

    It is made when the command is called: the list of commands needs none of their flags.
    """
    if not hasattr(function, "options"):
        return function
    names, changed = function.options
    hints = typing.get_type_hints(function, include_extras=True)
    own = inspect.signature(function).parameters
    kinds = {name: hints[name] for name in own if is_dataclass(hints[name])}
    fields = {name: flag_fields(kind) for name, kind in kinds.items()}
    flags = {name: field for of_kind in fields.values() for name, field in of_kind.items()}
    flags |= {name: replace(flags[name], flag=flag) for name, flag in changed.items()}

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        arguments = {name: value for name, value in values.items() if name not in flags}
        for name, kind in kinds.items():
            read = {}  # what the command line or the environment says
            for field in (flags[n] for n in fields[name]):
                value = values.get(field.name)
                if value is not None and value != []:
                    read[field.name] = value if field.flag.read is None else field.flag.read(value)
                elif field.kind is bool and os.environ.get(field.flag.envvar or "", "") in ("1", "true"):
                    read[field.name] = True
            arguments[name] = kind(**read)
        return function(**arguments)

    panels = len([n for n in names if n in flags]) > MOST_IN_A_PANEL
    by_hand = {n: own[n].replace(annotation=hints[n], kind=inspect.Parameter.KEYWORD_ONLY) for n in own if n in hints}
    parameters = [
        _parameter(flags[n], panels) if n in flags else by_hand[n]
        for n in (*(n for n in own if n == "context"), *names)
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


MOST_IN_A_PANEL = 20  # flags of a command whose help has one panel; above it there is one a subject
FIRST = ("methods", "task", "model", "data", "out", "seeds", "examples", "budget", "settings", "quick")
"""The flags that help shows first, whatever their subject."""


def _parameter(field: FlagField, panels: bool = False) -> inspect.Parameter:
    """The field as a parameter that Typer reads; with `panels`, in the help's panel of its subject."""
    flag, kind, default = field.flag, field.kind, field.default
    if flag.default is not None or default is MISSING or flag.read is not None:
        default = flag.default
    if flag.many:
        kind = list[str] | None
    elif flag.read is not None or typing.get_origin(kind) is typing.Literal or (kind is str and not default):
        kind, default = (str, default) if default else (str | None, None)
    names = flag.names or ("--" + field.name.replace("_", "-"),)
    panel = field.subject if panels and field.name not in FIRST else None
    option = typer.Option(*names, help=flag.help, envvar=flag.envvar, rich_help_panel=panel)
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


def check_format(name: str, formats: Sequence[str]) -> None:
    """Raises UsageError for a format that is none of these."""
    if name not in formats:
        raise unknown("format", name, formats)


def print_as(name: str, table: Any, **others: Callable[[], str]) -> None:
    """Prints a table (`rim_bench.util.table.Table`) as "terminal", "markdown", "csv" or "latex".

    Args:
        others: what writes a format that is not the table's own, or in another way.
    """
    if name == "terminal":
        from rich.console import Console

        console = Console()
        return console.print(table.to_rich(console.width))
    written = {"markdown": table.to_markdown, "csv": table.to_csv, "latex": table.to_latex, **others}[name]()
    echo(written, nl=not written.endswith("\n"))


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Prints a text that may hold names from outside: what a terminal would obey is spelled out."""
    print(escape_terminal(text), end="\n" if nl else "", file=sys.stderr if err else sys.stdout, flush=True)


def check_split(split: str) -> None:
    if split not in (splits := ("test", "validation")):
        raise unknown("split", split, splits)


def chosen_runs(names: Sequence[str] | None, out: Path) -> tuple[list[Run], list[Damaged]]:
    """The named runs, or all arms of the results folder; shared starts and trials are not rows of a comparison.

    Beside them those that cannot be trusted.

    Raises:
        UsageError: no such run, or none at all.
    """
    from rim_bench.storage.run_folder import Store, verified

    store = Store(out)
    if names:
        return verified(named_runs(names, out))
    good, damaged = store.runs()
    arms = [r for r in good if r.spec.role not in ("start", "trial")]
    if not arms and not damaged:
        raise UsageError(
            f"no run is stored in {str(store.folder)!r}: `rim-bench run` makes some, --out names another results folder"
        )
    return arms, damaged


def named_runs(names: Sequence[str], out: Path) -> list[Run]:
    """The runs of ids, folders and selectors, each once."""
    from rim_bench.storage.run_folder import Store

    store = Store(out)
    return list({run.path: run for name in names for run in store.locate_all(name)}.values())


def name_damaged(damaged: Sequence[Damaged]) -> None:
    """A line on the error stream for each run that is left out because it cannot be trusted."""
    for folder in damaged:
        echo(f"{folder.path.name} is left out, for it is damaged: {folder.reason}", err=True)


def write_tables(table: Any, out: Path) -> None:
    """Writes table.md and table.csv of a table (`rim_bench.util.table.Table`) into a results folder."""
    from rim_bench.util.files import write_bytes_atomic

    write_bytes_atomic(out / "table.md", table.to_markdown().encode())
    write_bytes_atomic(out / "table.csv", table.to_csv().encode())


def execution_of(context: typer.Context) -> ExecutionContext:
    """What the process that runs this command shares it with."""
    return context.obj or ALONE


@functools.cache
def display() -> RichReporter:
    """What shows the progress of this command: one, for a terminal has room for one."""
    from rim_bench.util.console import RichReporter

    return RichReporter()


@contextmanager
def reporter_for() -> Iterator[RichReporter]:
    with display() as reporter:
        yield reporter
