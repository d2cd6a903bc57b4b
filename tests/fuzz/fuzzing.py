"""Command lines and calls in this process, and what must hold of every one of them.

The invariant: exit code 0, or a documented one with one sentence; never a traceback, a half-written file, a Python
warning or a text that the terminal would obey. `Campaign` draws cases until its time is up and reports every kind of
failure once, with the case that shows it.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis.strategies import SearchStrategy

from rim_bench.cli import main
from rim_bench.util.errors import UsageError

CODES = {"check": (0, 1, 2, 3, 4), "cost": (0, 1, 2)}
"""Exit codes that a command may have, where they are not 0 and 2."""
codes: Counter[str] = Counter()
"""How often a command had an exit code."""
LONGEST = 40  # seconds of the processor that one command line may take
SENTENCE = 8_000  # characters, beside what was given
LEFTOVER = re.compile(r"\.(new-|.*\.tmp)")  # names of files and folders that were being written
OBEYED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # what a terminal would obey, beside line ends and bars


class Accepted(SystemExit):
    """Raised where training or measuring would begin: whatever was asked had been taken as valid."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__(0)


class TooLong(BaseException):
    """A command line that did not end in time."""


class Broken(AssertionError):
    """The invariant does not hold; the message begins with the kind of failure."""


@dataclass(frozen=True)
class Answer:
    """What a command line did."""

    code: int
    out: str
    err: str
    error: BaseException | None  # what became a traceback
    warned: tuple[str, ...] = ()  # Python's warnings of arithmetic


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raises TooLong when the block takes more than LONGEST seconds."""

    def stop(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)  # of the processor: on a busy machine the clock says little
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def call(arguments: Sequence[str]) -> Answer:
    """Runs a command line in this process, like `python -m rim_bench`; the working folder is the current one."""
    out, err, argv = _stream("strict"), _stream("backslashreplace"), sys.argv
    modules, paths = set(sys.modules), list(sys.path)
    logger = logging.getLogger()
    handlers, logger.handlers = logger.handlers, []  # those of pytest: the command line's own are under test
    sys.argv = ["rim-bench", *arguments]
    code: Any = 0
    error: BaseException | None = None
    warned: list[warnings.WarningMessage] = []
    try:
        with (
            warnings.catch_warnings(record=True) as warned,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            limited(),
        ):
            warnings.simplefilter("default", RuntimeWarning)
            main.main()
    except TooLong as slow:
        code, error = None, slow
    except SystemExit as stopped:
        code, error = stopped.code, stopped.__context__ if stopped.code == main.FAULT else None
    except BaseException as raised:
        code, error = None, raised
    finally:
        sys.argv, sys.path[:], logger.handlers = argv, paths, handlers
        for name in [n for n in sys.modules.keys() - modules if n.startswith("rim_bench_user_")]:
            del sys.modules[name]
    numeric = tuple(str(w.message) for w in warned if issubclass(w.category, RuntimeWarning))
    return Answer(-1 if code is None else code if isinstance(code, int) else 0, *map(_text, (out, err)), error, numeric)


def _stream(errors: str) -> io.TextIOWrapper:
    """A stream like those of a process in UTF-8."""
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=errors, write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    """What was written to it."""
    stream.flush()
    return stream.buffer.getvalue().decode("utf-8", "replace")  # type: ignore[attr-defined]


def holds(arguments: Sequence[str]) -> Answer:
    """What a command line did, after the invariant was checked.

    Raises:
        Broken: it does not hold.
    """
    before = listing()
    answer = call(arguments)
    codes[f"{arguments[0] if arguments[0] in main.COMMANDS else '?'} {answer.code}"] += 1
    if isinstance(answer.error, TooLong):
        raise Broken(f"no end within {LONGEST} s{innermost(answer.error)}") from answer.error
    if answer.error is not None or "Traceback (most recent call last)" in answer.err:
        error = answer.error
        if error is None:
            raise Broken(f"a traceback{last_place(answer.err)}: {answer.err[-2_000:]}")
        raise Broken(f"{type(error).__name__}{innermost(error)}: {str(error)[:300]}") from error
    if answer.code not in CODES.get(arguments[0], (0, 2)):
        raise Broken(f"exit code {answer.code} is not documented: {answer.err[-300:]}")
    if answer.code == 2:
        lines = [line for line in answer.err.splitlines() if "error: " in line]
        if not lines:
            raise Broken(f"exit code 2 without a sentence: {answer.err[-300:]!r}")
        if not 15 < len(lines[-1]) < SENTENCE + 2 * sum(map(len, arguments)):
            raise Broken(f"a sentence of {len(lines[-1])} characters: {lines[-1][:300]}")
    if answer.warned:
        raise Broken(f"a Python warning, {answer.warned[0]}: as a user sees it")
    shown, own = answer.out + answer.err, "".join(arguments) if arguments[0] == "lm-eval" else ""
    for match in OBEYED.finditer(shown):
        if match[0] not in own:  # lm-eval repeats what it was given
            raise Broken(f"a terminal would obey {match[0]!r}: {shown[match.start() - 80 :][:200]!r}")
    for path in sorted(listing() - before):
        if LEFTOVER.match(path.name):
            raise Broken(f"a file is left half-written: {path.name}")
        if path.suffix == ".json" and path.is_file():
            try:
                json.loads(path.read_bytes())
            except ValueError as error:
                raise Broken(f"a written file is no JSON: {path}: {error}") from None
    return answer


def refused(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What a function of the package returns, or the sentence (a UsageError) with which it refuses.

    Raises:
        Broken: it raises anything else, or does not end.
    """
    try:
        with limited():
            return function(*arguments, **named)
    except UsageError as error:
        return error
    except TooLong as error:
        raise Broken(f"no end within {LONGEST} s{innermost(error)}") from error
    except Exception as error:
        raise Broken(f"{type(error).__name__}{innermost(error)}: {str(error)[:300]}") from error


def listing() -> set[Path]:
    """The files and folders below `made`, where command lines write."""
    return set(Path("made").rglob("*"))


def innermost(error: BaseException) -> str:
    """The last line of the package in an error's traceback, as ` in FILE:FUNCTION`."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "rim_bench" in f.filename or "/tasks/" in f.filename or "/baselines/" in f.filename]
    return "".join(f" in {Path(f.filename).name}:{f.name}" for f in own[-1:])


def last_place(text: str) -> str:
    """The same of a traceback that was printed, with the error's class."""
    places = re.findall(r'File "[^"]*(?:rim_bench|tasks|baselines)/(?:\S*/)?([^"/]+)", line \d+, in (\S+)', text)
    errors = re.findall(r"^([A-Za-z_.]+(?:Error|Exception|Exit))\b", text, flags=re.M)
    return "".join(f" of {name}" for name in errors[-1:]) + "".join(f" in {file}:{name}" for file, name in places[-1:])


@dataclass
class Kind:
    """One kind of failure: how often, and the first case."""

    case: Any
    text: str
    count: int = 1


@dataclass
class Campaign:
    """All cases of one session.

    Attributes:
        seconds: for all tests together.
        seed: of the first round; the same seed gives the same cases in the same order.
        shrink: raise the first failure, so that hypothesis makes it small, instead of collecting every kind.
        given: the one case to run instead, as `--fuzz-case` has it.
    """

    seconds: float
    seed: int
    shrink: bool
    given: str | None
    record: Callable[[str, object], None]
    cases: int = 0

    def run(self, name: str, check: Callable[[Any], None], cases: SearchStrategy[Any], share: float) -> None:
        """Draws cases until this test's share of the time is up; fails with every kind of failure."""
        kinds: dict[str, Kind] = {}
        codes.clear()
        deadline, rounds = time.monotonic() + share * self.seconds, 0

        def one(case: Any) -> None:
            if time.monotonic() > deadline and self.given is None:
                return
            self.cases += 1
            shutil.rmtree("made", ignore_errors=True)
            Path("made").mkdir()
            try:
                check(case)
            except Broken as broken:
                if self.shrink:
                    raise
                key = re.sub(r"0x[0-9a-f]+|\d+|'[^']*'|\"[^\"]*\"", "_", str(broken).splitlines()[0].partition(": ")[0])
                if key in kinds:
                    kinds[key].count += 1
                else:
                    kinds[key] = Kind(case, "".join(traceback.format_exception(broken)[-40:])[-3_000:])

        if self.given is not None:
            one(ast.literal_eval(self.given))
            deadline = 0
        while time.monotonic() < deadline:
            phases = (Phase.generate, Phase.shrink) if self.shrink else (Phase.generate,)
            how = hypothesis.settings(
                max_examples=200, database=None, deadline=None, phases=phases, suppress_health_check=list(HealthCheck)
            )
            hypothesis.seed(self.seed + rounds)(how(hypothesis.given(cases)(one)))()
            rounds += 1
        self.record(f"cases: {name}", self.cases)
        self.record("exit codes", dict(codes))
        if kinds:
            parts = [
                f"{kind.count} x {key}\n{kind.text}\n--fuzz-case {shlex.quote(repr(kind.case))}"
                for key, kind in sorted(kinds.items(), key=lambda entry: -entry[1].count)
            ]
            pytest.fail(f"{len(kinds)} kinds of failure in {self.cases} cases\n\n" + "\n\n".join(parts), False)


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[Path]:
    """The working folder for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)
