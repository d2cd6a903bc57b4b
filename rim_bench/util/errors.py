"""The one exception that reaches a user as a sentence instead of a traceback."""

from __future__ import annotations

import ast
import difflib
import errno
import os
import re
import resource
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

LONGEST_VALUE: Final = 300  # characters of a value in a sentence; paths are seldom longer
LONGEST_SENTENCE: Final = 4_000  # with a list of what is allowed
_KEPT: Final = 100  # characters at either end of a value that is longer
_QUOTED: Final = re.compile(rf"""(?<!\w)(['"])((?:(?!\1)[^\\]|\\.){{{LONGEST_VALUE},}}?)\1""", re.DOTALL)
_UNQUOTED: Final = re.compile(rf"\S{{{LONGEST_VALUE + 2},}}")


def shorten(text: str) -> str:
    """A sentence in which every long value is cut in the middle and its length said: `'aa[100,000 characters]aa'`."""
    text = _UNQUOTED.sub(lambda m: _cut(m[0], len(m[0])), _QUOTED.sub(_cut_quoted, text))
    return _cut(text, len(text), LONGEST_SENTENCE // 2) if len(text) > LONGEST_SENTENCE else text


def _cut_quoted(match: re.Match[str]) -> str:
    length = len(match[2])
    with suppress(ValueError, SyntaxError):
        length = len(ast.literal_eval(match[0]))  # of the value, not of its escapes
    return f"{match[1]}{_cut(match[2], length)}{match[1]}" if length > LONGEST_VALUE else match[0]


def _cut(text: str, length: int, kept: int = _KEPT) -> str:
    return f"{text[:kept]}[{length:,} characters]{text[-kept:]}"


class OneSentence(Exception):
    """An error whose message is a sentence for a user. Values in it may come from anywhere: the long ones are cut."""

    def __init__(self, message: str = "") -> None:
        super().__init__(shorten(message))


class UsageError(OneSentence):
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


MOST = 2**63 - 1
"""The largest whole number that torch and the other libraries take."""


def check_count(flag: str, value: int | None, least: int = 1, most: int = MOST) -> None:
    """Raises UsageError for a whole number outside these; None is one that was not given."""
    if value is not None and value < least:
        raise UsageError(f"{flag} {value} is too small: give a whole number of at least {least}")
    if value is not None and value > most:
        raise UsageError(f"{flag} {value} is too large: give at most {most:,}")


def cannot_apply(flag: str, why: str) -> UsageError:
    """The error for an option that was given and would change nothing."""
    return UsageError(f"{flag} cannot apply: {why}; leave it out")


LONGEST_NAME: Final = 100
"""Characters of a name: a run's folder has a method's and a task's, and a file system takes 255 bytes."""


def check_name(kind: str, name: str) -> None:
    """Raises UsageError for a name that is to become part of a folder's and is no plain one."""
    if not isinstance(name, str) or not re.fullmatch("[A-Za-z][A-Za-z0-9._-]*", name):
        raise UsageError(
            f"{kind} {name!r} is not a name: give letters, digits, '_', '-' and '.', and a letter at the beginning"
        )
    if len(name) > LONGEST_NAME:
        raise UsageError(f"{kind} {name!r} has a name of {len(name)} characters: give at most {LONGEST_NAME}")


def sentence(error: BaseException) -> str | None:
    """What an error says to someone who can act on it; None where only we can, and a traceback is due."""
    text = _sentence(error)
    return None if text is None else shorten(text)


def _sentence(error: BaseException) -> str | None:
    if isinstance(error, UsageError):
        return str(error)
    during = next((f" {note}" for note in getattr(error, "__notes__", ()) if note.startswith("while ")), "")
    if lacks_memory(error):
        gpu = type(error).__name__ == "OutOfMemoryError"
        wanted = re.search(r"[Tt](?:ried )?to allocate ([\d.]+ \w+)|Unable to allocate ([\d.]+ \w+)", str(error))
        size = "" if wanted is None else f", {wanted[1] or wanted[2]} more were wanted"
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        within = "" if gpu or limit == resource.RLIM_INFINITY else f" ({limit:,} bytes are allowed, ulimit -v)"
        return (
            f"{'the GPU' if gpu else 'this computer'}'s memory is not enough{during}{size}{within}: give a smaller "
            "--eval-batch-size, or a task whose recipe has a smaller micro_batch; the same command goes on with the run"
        )
    if (line := own_line(error)) is not None:
        return f"{line}: {type(error).__name__}: {' '.join(str(error).split())}"
    if file_refusal(error) in (errno.ENOSPC, errno.EDQUOT):
        where = getattr(error, "filename", None) or "while writing"
        return f"the disk is full ({where}): make room; the same command again goes on from the last checkpoint"
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, UnicodeEncodeError) and re.search("[\ud800-\udfff]", error.object):
        return unreadable_path(error.object)
    if (package := _unimported(error)) is not None:
        text = " ".join(str(error).split())
        values = [f"{name}={value!r}" for name, value in os.environ.items() if value and repr(value) in text]
        hint = f"; the environment has {', '.join(values[:3])}" if values else ""
        return f"{package} cannot be imported ({type(error).__name__}: {text}){hint}"
    return None


def unreadable_path(path: object) -> str:
    """What is to be said of a path with bytes that reach Python as no characters: libraries take no such one."""
    return (
        f"{str(path)!r} has bytes that are no text in this locale, and the libraries that read and write models take "
        "no such path: give another one, or a locale of UTF-8 (LC_ALL=C.UTF-8)"
    )


def _before(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def lacks_memory(error: BaseException) -> bool:
    """Whether memory ran out, the computer's or a GPU's. Torch, which is not imported here, has errors of its own."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or any(words in str(error) for words in ("annot allocate memory", "can't allocate memory"))
    )


def file_refusal(error: BaseException) -> int | None:
    """The number of the system's refusal behind an error while a file was written; None where there is none.

    Safetensors and tokenizers give it as text, and torch hides it behind an error of its own.
    """
    for earlier in _before(error):
        if isinstance(earlier, OSError):
            return earlier.errno
        if match := re.search(r"\(os error (\d+)\)", str(earlier)):
            return int(match[1])
        if "inline_container" not in str(earlier) and "iostream" not in str(earlier):
            return None
    return None


def _unimported(error: BaseException) -> str | None:
    """The package of others at whose import an error was raised; None where it was raised anywhere else."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames]
    after = max((k for k, name in enumerate(names) if name == "rim_bench"), default=-1) + 1
    for frame, name in zip(frames[after:], names[after:], strict=True):
        if frame.f_code.co_name == "<module>":  # a module that is being imported
            return name
    missing = str(error.name).partition(".")[0] if isinstance(error, ImportError) and error.name else "rim_bench"
    return None if missing == "rim_bench" else missing
