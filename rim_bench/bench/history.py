"""The stored history of measurements: one file each, never changed, and the page that is made of them. No torch."""

from __future__ import annotations

import errno
import os
import re
import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rim_bench.bench.record import FIELDS, SCHEMA, undocumented
from rim_bench.bench.report import TITLES, to_markdown
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record, fsync, read_json, write_bytes_atomic, write_json_atomic, writing

FOLDER = Path("results") / "bench"
PAGE = "README.md"
_NO_LINKS = {
    errno.EPERM,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EMLINK,
}  # what file systems without links say
Tell = Callable[[str], None]


def _warn(text: str) -> None:
    print(text, file=sys.stderr)


def file_name(told: Record) -> str:
    """Date, commit, machine and what was measured: `20260131T120000Z_0123abc_amd-epyc-9r14_train.json`."""
    machine = told["machine"]
    date = re.sub(r"[-:]", "", str(machine["date"])).removesuffix("+0000") + "Z"
    git = machine["git"]
    commit = "unknown" if git is None else str(git["commit"])[:7] + ("-changed" if git["dirty"] else "")
    where = str(machine["gpu"]["name"] if machine["gpu"] else machine["cpu"]["model"])
    short = "-".join(re.findall(r"[a-z0-9]+", where.lower()))[:40].strip("-") or "machine"
    kind = str(told["measurement"])
    return f"{date}_{commit}_{short}_{kind}{'' if told['scaling'] is None else '-' + told['scaling']['vary']}.json"


def add(told: Record, folder: Path, tell: Tell = _warn) -> Path:
    """Stores one measurement, and makes the page anew; what is stored already stays as it is.

    Args:
        tell: is told a sentence for each file of the folder that the page leaves out.
    Raises:
        UsageError: a file of that name is there already, or the folder cannot be written.
    """
    path = folder / file_name(told)
    _write_new(path, told)
    if told["scaling"] is not None:
        from rim_bench.bench.pictures import scaling_pictures

        scaling_pictures(told, path.with_suffix(""))
    write_page(folder, tell)
    return path


def _write_new(path: Path, told: Record) -> None:
    """Writes a file that is not there yet. It has its name when it is whole:
    a process that is killed leaves no part of it behind.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
    with writing(path):
        try:
            write_json_atomic(temporary, told)
            _take_name(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink()
        fsync(path.parent)


def _take_name(temporary: Path, path: Path) -> None:
    """Gives a whole file its name only where nobody has it: two measurements at once do not replace each other."""
    try:
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            temporary.replace(path)
    except FileExistsError:
        raise UsageError(f"{str(path)!r} is there already: a stored measurement is never replaced") from None


def stored(folder: Path, tell: Tell | None = None) -> list[tuple[str, Record]]:
    """Name and record of every measurement, oldest first.

    Args:
        tell: is told a sentence for each file that is no measurement, and the file is left out; without it, the first
            one is an error.
    Raises:
        UsageError: a file that is no measurement, where nobody is told.
    """
    out = []
    for path in sorted(folder.glob("*.json")):
        try:
            out.append((path.name, _read(path)))
        except UsageError as error:
            if tell is None:
                raise
            tell(f"left out: {error}")
    return sorted(out, key=lambda pair: (str(pair[1]["machine"]["date"]), pair[0]))


def _read(path: Path) -> Record:
    """A stored measurement. Raises UsageError where the page could not show it."""
    told = read_json(path)
    if told.get("schema") != SCHEMA or told.get("measurement") not in TITLES:
        raise UsageError(f"{str(path)!r} is not a measurement that this version of `rim-bench bench` stores")
    if strange := undocumented(told):
        raise UsageError(f"{str(path)!r} is not a measurement of `rim-bench bench`: it has {', '.join(strange[:3])}")
    try:
        _section(path.name, told)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UsageError(
            f"{str(path)!r} is not a measurement of `rim-bench bench`: fields are missing ({error})"
        ) from None
    return told


def page(found: Sequence[tuple[str, Record]]) -> str:
    """The page of a folder: every measurement as a table, newest first, and what the fields of the files mean."""
    lines = [
        "# Measured speed",
        "",
        "Written by `rim-bench bench ... --record` from the files beside it, newest first; `rim-bench bench history` "
        "prints it again.",
        "Each heading's command repeats the measurement on another machine.",
        "",
    ]
    for name, told in reversed(found):
        lines += _section(name, told)
    lines += ["## Fields of the files", "", *(f"- `{path}`: {text}" for path, text in FIELDS.items()), ""]
    return "\n".join(lines)


def _section(name: str, told: Record) -> list[str]:
    machine = told["machine"]
    lines = [
        f"## {str(machine['date'])[:16].replace('T', ' ')} UTC, {told['measurement']}",
        "",
        *_origin(name, machine),
        "",
    ]
    if told["scaling"] is not None:
        lines += [f"![{told['scaling']['vary']}]({name.removesuffix('.json')}.svg)", ""]
    return [*lines, to_markdown(told)]


def _origin(name: str, machine: Record) -> list[str]:
    git: Any = machine["git"]
    commit = (
        "an installed copy" if git is None else f"commit {git['commit'][:12]}{' (changed)' if git['dirty'] else ''}"
    )
    packages = ", ".join(f"{p} {machine['packages'][p]}" for p in ("torch", "transformers") if p in machine["packages"])
    command = " ".join(["rim-bench", *machine["argv"][1:]])  # however it was started: `python -m rim_bench` is the same
    return [f"[{name}]({name}): `{command}`, {commit}, {packages}."]


def write_page(folder: Path, tell: Tell = _warn) -> Path:
    """Makes the page of a folder anew, of all files that are measurements; `tell` is told of the others."""
    write_bytes_atomic(folder / PAGE, page(stored(folder, tell)).encode())
    return folder / PAGE
