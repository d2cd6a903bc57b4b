"""Files of code that somebody gave this process: methods and tasks of one's own, known by their content.

A run folder or a study file may come from anywhere. What it names is never run by its path: it says a hash, and only a
file that was given here (on the command line, or by a call from Python) and has that content is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rim_bench.util.errors import UsageError

FLAGS = {".py": "--method-file", ".yaml": "--task-file", ".yml": "--task-file"}


@dataclass(frozen=True)
class OwnFile:
    """A file as it was read: what runs is what was hashed, whatever happens to the file since."""

    path: Path  # resolved
    source: bytes

    @cached_property
    def sha256(self) -> str:
        """Hash of the content."""
        import hashlib  # here, for `--help` hashes nothing and loads no OpenSSL

        return hashlib.sha256(self.source).hexdigest()


_allowed: dict[str, OwnFile] = {}  # by hash, the one that was given last


def read_own(path: Path | str) -> OwnFile:
    """The file at a path. Raises UsageError where there is none, or it cannot be read."""
    from rim_bench.util.files import read_whole  # hashes, too

    try:
        resolved = Path(path).expanduser().resolve()
        return OwnFile(resolved, read_whole(resolved))
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"file {str(path)!r} cannot be read: {reason}") from None


def allow(file: OwnFile) -> OwnFile:
    """The same file, whose content this process may run from now on."""
    _allowed.pop(file.sha256, None)
    _allowed[file.sha256] = file
    return file


def allowed(sha256: str | None) -> OwnFile | None:
    """The file of that content which this process may run; None where none was given."""
    return None if sha256 is None else _allowed.get(sha256)


def allowed_tasks(name: str) -> list[OwnFile]:
    """The task files of that stem which this process may read, the one that was given last first."""
    return [f for f in reversed(_allowed.values()) if f.path.suffix != ".py" and f.path.stem == name]


def allow_files(paths: Iterable[Path | str], trusted: Iterable[str] = ()) -> None:
    """Lets this process run files of one's own.

    Args:
        paths: Python files that define methods, YAML files of tasks.
        trusted: FILE:SHA256, each: the file is taken only where it has that content.

    Raises:
        UsageError: a file that is missing or of another kind, another content than a hash says, or no such pair.
    """
    for path in paths:
        _check_kind(str(path))
        allow(read_own(path))
    for text in trusted:
        path, colon, digest = text.rpartition(":")
        if not colon or not path or not re.fullmatch("[0-9a-fA-F]{64}", digest):
            raise UsageError(
                f"--trust {text!r} is not FILE:SHA256, a file and the 64 digits of its sha256, as in mine.py:e3b0c442…"
            )
        _check_kind(path)
        file = read_own(path)
        if file.sha256 != digest.lower():
            raise UsageError(
                f"--trust {text!r}: the file's sha256 is {file.sha256}, so it is not the file that you trust"
            )
        allow(file)


def _check_kind(path: str) -> None:
    if Path(path).suffix not in FLAGS:
        raise UsageError(f"{path!r} is no code that a run may need: give a method's .py file or a task's .yaml file")


def refusal(who: str, path: str, sha256: str | None) -> UsageError:
    """The error for a file of code that a run or a study names and that nobody gave.

    Args:
        who: what names it, and as what, as in "run X was trained with the method 'm' of its author".
        sha256: of its content; None where that is not known.
    """
    suffix = Path(path).suffix if Path(path).suffix in FLAGS else ".py"
    hashed = "" if sha256 is None else f" (sha256 {sha256})"
    others = [str(file.path) for file in _allowed.values() if FLAGS[file.path.suffix] == FLAGS[suffix]]
    another = f" (what was given has another content: {', '.join(others)})" if others else ""
    trusting = "" if sha256 is None else f", or after a look at it --trust {path}:{sha256}"
    return UsageError(
        f"{who}, file {path!r}{hashed}: code is never run because a folder names it; give the file yourself with "
        f"{FLAGS[suffix]} FILE{another}{trusting}"
    )
