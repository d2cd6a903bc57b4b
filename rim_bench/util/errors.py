"""The one exception that reaches a user as a sentence instead of a traceback."""

from __future__ import annotations

import difflib
import errno
import re
import traceback
from collections.abc import Iterable


class UsageError(Exception):
    """Bad input or a condition the user can act on.

    The message is one sentence: what was given, what is allowed, the nearest match.
    The command line prints it and exits with code 2.
    """


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UsageError:
    """The error for a name that is not among `allowed`, with the nearest match where there is one."""
    names = sorted(allowed)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UsageError(f"unknown {kind} {name!r}: allowed are {', '.join(names) or 'none'}{hint}")


OWN_MODULE = "rim_bench_user_"  # how the names of the modules of method files begin


def own_line(error: BaseException) -> str | None:
    """The last line of a method file that an error came through, as `method file FILE, line N`; None where none was."""
    place = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).startswith(OWN_MODULE):
            place = f"method file {frame.f_code.co_filename!r}, line {line}"
    return place


def check_name(kind: str, name: str) -> None:
    """Raises UsageError for a name that is to become part of a folder's and is no plain one."""
    if not isinstance(name, str) or not re.fullmatch("[A-Za-z][A-Za-z0-9._-]*", name):
        raise UsageError(
            f"{kind} {name!r} is not a name: give letters, digits, '_', '-' and '.', and a letter at the beginning"
        )


def sentence(error: BaseException) -> str | None:
    """What an error says to someone who can act on it; None where only we can, and a traceback is due."""
    if isinstance(error, UsageError):
        return str(error)
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = error.filename or "while writing"
            return f"the disk is full ({where}): make room; the same command again goes on from the last checkpoint"
        if error.filename is not None and error.strerror is not None:
            return f"{error.filename}: {error.strerror}"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
        return (
            "the GPU's memory is not enough: give a smaller --eval-batch-size, or a task whose recipe has a smaller "
            "micro_batch"
        )
    if (place := own_line(error)) is not None:
        return f"{place}: {type(error).__name__}: {' '.join(str(error).split())}"
    return None
