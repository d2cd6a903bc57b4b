"""The streams and the terminal that a command prints on: nothing is lost to what they cannot hold.

A character that the encoding lacks is spelled out. A reader that went away, or a full device, ends the command with a
code of its own where that was standard output, and not at all where it was standard error.
"""

from __future__ import annotations

import codecs
import io
import os
import select
import shutil
import sys
from typing import Any

NARROWEST, WIDEST = 40, 10_000  # columns of a terminal
SIZES = ("COLUMNS", "LINES", "TERMINAL_WIDTH", "JUPYTER_COLUMNS", "JUPYTER_LINES")  # numbers to rich and Typer
SPELLED = {
    "−": "-", "±": "+-", "×": "x", "·": ".", "…": "...", "≥": ">=", "≤": "<=", "≈": "~", "→": "->", "’": "'", "²": "^2",
    "√": "sqrt ", "Σ": "sum ", "°": "*", "⏎": "\\n", "⟨": "<", "⟩": ">", "–": "-", "“": '"', "”": '"',
    "█": "#",
}  # fmt: skip


class OutputLost(BaseException):
    """Standard output takes no more. No Exception: what catches those is to let the command end."""


class _Standard(io.FileIO):
    """Standard output or standard error. After a write that fails all that follows goes nowhere.

    Args:
        needed: a write that fails raises OutputLost.
    """

    def __init__(self, number: int, needed: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self.needed = needed

    def write(self, data: Any, /) -> int:
        try:
            while (count := super().write(data)) is None:  # of a pipe that its other end made non-blocking
                select.select((), (self,), ())
            return count
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if self.needed:
                raise OutputLost(f"the output could not be written, and is incomplete: {error.strerror}") from None
            return len(data)


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """What is written for characters that the encoding lacks: our signs in ASCII, others by their number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(SPELLED.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking), error.end


def prepare_streams() -> None:
    """Makes this process's standard streams such, unless something else stands in their place already.

    What the caller closed is opened on nothing, before another file gets its number.
    """
    codecs.register_error("rim-bench", _spelled)
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for number, name in ((1, "stdout"), (2, "stderr")):
        before = getattr(sys, name)
        if before is not getattr(sys, f"__{name}__"):
            continue
        encoding = "utf-8" if before is None else before.encoding
        raw = _Standard(number, needed=number == 1)
        by_line = number == 2 or raw.isatty()
        text = io.TextIOWrapper(io.BufferedWriter(raw), encoding, "rim-bench", line_buffering=by_line)
        setattr(sys, name, text)


def prepare_environment() -> None:
    """Mends what the caller's environment says to libraries that stop at a value they do not know.

    The size of the terminal is one at which a table can be read. Pictures go to files, whatever a notebook shows.
    """
    os.environ["MPLBACKEND"] = "agg"
    for name in SIZES:
        if (value := os.environ.get(name)) is not None:
            if value.isascii() and value.isdigit() and int(value[:9]):
                os.environ[name] = str(min(max(int(value[:9]), NARROWEST), WIDEST))
            else:
                del os.environ[name]
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
