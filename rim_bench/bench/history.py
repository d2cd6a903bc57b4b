"""The stored history of measurements: one file each, never changed, and the page that is made of them. No torch."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from rim_bench.bench.record import FIELDS, SCHEMA, undocumented
from rim_bench.bench.report import TITLES, table
from rim_bench.report.plots.scaling import scaling_pictures
from rim_bench.util.errors import UsageError
from rim_bench.util.files import (
    Record,
    fsync,
    is_there,
    json_bytes,
    parse_object,
    read_regular,
    write_bytes_atomic,
    write_json_atomic,
    writing,
)
from rim_bench.util.text import code_markdown, escape_markdown, escape_terminal

FOLDER = Path("results") / "bench"
PAGE = "README.md"
HASH = ".sha256"
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}  # of file systems without links
Warn = Callable[[str], None]


def file_name(record: Record) -> str:
    """Date, commit, machine and what was measured: `20260131T120000Z_0123abc_amd-epyc-9r14_train.json`."""
    machine = record["machine"]
    date = re.sub(r"[-:]", "", str(machine["date"])).removesuffix("+0000") + "Z"
    git = machine["git"]
    commit = "unknown" if git is None else str(git["commit"])[:7] + ("-changed" if git["dirty"] else "")
    name = str(machine["gpu"]["name"] if machine["gpu"] else machine["cpu"]["model"])
    short = "-".join(re.findall(r"[a-z0-9]+", name.lower()))[:40].strip("-") or "machine"
    kind = str(record["measurement"]) + ("" if record["scaling"] is None else "-" + record["scaling"]["vary"])
    return f"{date}_{commit}_{short}_{kind}.json"


def add(record: Record, folder: Path, warn: Warn = lambda text: print(escape_terminal(text), file=sys.stderr)) -> Path:
    """Stores one measurement, and writes the page anew; what is stored already stays as it is.

    Args:
        warn: gets a sentence for each file of the folder that the page leaves out.
    Raises:
        UsageError: a file of that name is there already, or the folder cannot be written.
    """
    path = folder / file_name(record)
    _write_new(path, record)
    write_bytes_atomic(path.with_suffix(HASH), _hash_line(path, json_bytes(record)))  # a kill before it: unsealed
    if record["scaling"] is not None:
        scaling_pictures(record, path.with_suffix(""))
    write_bytes_atomic(folder / PAGE, page(stored(folder, warn)).encode())
    return path


def _write_new(path: Path, record: Record) -> None:
    """Writes a file that is not there yet: two measurements at once do not replace each other.

    It gets its name when it is whole: a killed process leaves no part of it.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
    with writing(path):
        try:
            write_json_atomic(temporary, record)
            try:
                os.link(temporary, path)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                temporary.replace(path)
        except FileExistsError:
            raise UsageError(f"{str(path)!r} is there already: a stored measurement is never replaced") from None
        finally:
            with suppress(OSError):
                temporary.unlink()
        fsync(path.parent)


def _hash_line(path: Path, data: bytes) -> bytes:
    """What the file beside a measurement says of it, as `sha256sum` reads it."""
    return f"{hashlib.sha256(data).hexdigest()}  {path.name}\n".encode()


def seal(folder: Path, *, again: bool = False) -> list[Path]:
    """Writes the hash beside each measurement of a folder that has none, or anew; returns those measurements.

    Raises:
        UsageError: no measurement is there, or one cannot be read.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise UsageError(f"{str(folder)!r} has neither runs nor measurements: name another folder with --out")
    new = [path for path in paths if again or not is_there(path.with_suffix(HASH))]
    for path in new:
        _measurement(path, sealed=False)
    for path in new:
        write_bytes_atomic(path.with_suffix(HASH), _hash_line(path, read_regular(path)))
    return new


def _measurement(path: Path, *, sealed: bool) -> Record:
    """The measurement in a file. Raises UsageError where it is none, or not what the hash beside it says."""
    data = read_regular(path)
    if sealed and _hash_line(path, data) != read_regular(path.with_suffix(HASH)):
        raise UsageError(f"{str(path)!r} is damaged: it does not match {path.with_suffix(HASH).name}")
    record = parse_object(data, repr(str(path)))
    if record.get("schema") != SCHEMA or record.get("measurement") not in TITLES:
        raise UsageError(f"{str(path)!r} is not a measurement that this version of `rim-bench bench` stores")
    if strange := undocumented(record):
        raise UsageError(f"{str(path)!r} is not a measurement of `rim-bench bench`: it has {', '.join(strange[:3])}")
    try:
        _section(path.name, record)  # whether the page can show it
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise UsageError(
            f"{str(path)!r} is not a measurement of `rim-bench bench`: fields are missing ({error})"
        ) from None
    return record


def stored(folder: Path, warn: Warn | None = None) -> list[tuple[str, Record]]:
    """Name and record of every measurement, oldest first.

    Args:
        warn: gets a sentence for each file that is no measurement and is left out; None: the first one is an error.
    Raises:
        UsageError: a file that is no measurement, without `warn`.
    """
    out = []
    unsealed = []
    for path in sorted(folder.glob("*.json")):
        try:
            sealed = is_there(path.with_suffix(HASH))
            out.append((path.name, _measurement(path, sealed=sealed)))
            unsealed += [] if sealed else [path.name]
        except UsageError as error:
            if warn is None:
                raise
            warn(f"left out: {error}")
    if unsealed and warn is not None:
        warn(f"unsealed: no hash vouches for {', '.join(unsealed)}; `rim-bench seal --out {folder}` writes it")
    return sorted(out, key=lambda pair: (str(pair[1]["machine"]["date"]), pair[0]))


def page(measurements: Sequence[tuple[str, Record]]) -> str:
    """The page of a folder: every measurement as a table, newest first, and what the fields of the files mean."""
    lines = [
        "# Measured speed",
        "",
        "Written by `rim-bench bench ... --record` from the files beside it, newest first; `rim-bench bench history` "
        "prints it again.",
        "Each heading's command repeats the measurement on another machine.",
        "",
    ]
    for name, record in reversed(measurements):
        lines += _section(name, record)
    lines += ["## Fields of the files", "", *(f"- `{path}`: {text}" for path, text in FIELDS.items()), ""]
    return "\n".join(lines)


def _section(name: str, record: Record) -> list[str]:
    """The lines of one measurement: heading, command, code and libraries, picture, table."""
    machine, git, scaling = record["machine"], record["machine"]["git"], record["scaling"]
    commit = f"commit {git['commit'][:12]}{' (changed)' if git['dirty'] else ''}" if git else "an installed copy"
    packages = ", ".join(f"{p} {machine['packages'][p]}" for p in ("torch", "transformers") if p in machine["packages"])
    shown = escape_markdown(name).replace("[", "\\[").replace("]", "\\]")  # a lone bracket would end the link
    address = quote(name.removesuffix(".json"))
    picture = [] if scaling is None else [f"![{escape_markdown(scaling['vary'])}]({address}.svg)", ""]
    command = " ".join(["rim-bench", *machine["argv"][1:]])  # however it was started: `python -m rim_bench` is the same
    return [
        f"## {escape_markdown(str(machine['date'])[:16].replace('T', ' '))} UTC, {record['measurement']}",
        "",
        f"[{shown}]({address}.json): {code_markdown(command)}, {escape_markdown(f'{commit}, {packages}')}.",
        "",
        *picture,
        table(record).to_markdown(),
    ]
