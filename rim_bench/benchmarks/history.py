"""The stored history of measurements: one file each, never changed, and the page that is made of them. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rim_bench.benchmarks.lines import FIELDS, SCHEMA, undocumented
from rim_bench.benchmarks.report import TITLES, to_markdown
from rim_bench.errors import UsageError
from rim_bench.files import Record, read_json, write_bytes_atomic, write_json_atomic, writing

FOLDER = Path("results") / "bench"
PAGE = "README.md"


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


def add(told: Record, folder: Path) -> Path:
    """Stores one measurement, and makes the page anew; what is stored already stays as it is.

    Raises:
        UsageError: a file of that name is there already, or the folder cannot be written.
    """
    path = folder / file_name(told)
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        try:  # the name is taken before it is written: two measurements at once do not replace each other
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except FileExistsError:
            raise UsageError(f"{str(path)!r} is there already: a stored measurement is never replaced") from None
    try:
        write_json_atomic(path, told)
    except BaseException:
        path.unlink()
        raise
    if told["scaling"] is not None:
        from rim_bench.benchmarks.pictures import scaling_pictures

        scaling_pictures(told, path.with_suffix(""))
    write_page(folder)
    return path


def stored(folder: Path) -> list[tuple[str, Record]]:
    """Name and record of every measurement, oldest first.

    Raises:
        UsageError: a file that is no measurement.
    """
    out = []
    for path in sorted(folder.glob("*.json")):
        told = read_json(path)
        if told.get("schema") != SCHEMA or told.get("measurement") not in TITLES:
            raise UsageError(f"{str(path)!r} is not a measurement that this version of `rim-bench bench` stores")
        if strange := undocumented(told):
            raise UsageError(f"{str(path)!r} is not a measurement of `rim-bench bench`: it has {', '.join(strange[:3])}")
        out.append((path.name, told))
    return sorted(out, key=lambda pair: (str(pair[1]["machine"]["date"]), pair[0]))


def page(found: Sequence[tuple[str, Record]]) -> str:
    """The page of a folder: every measurement as a table, newest first, and what the fields of the files mean."""
    lines = [
        "# Measured speed",
        "",
        "Written by `rim-bench bench ... --record` from the files beside it, newest first; `rim-bench bench history` prints it again.",
        "Each heading's command repeats the measurement on another machine.",
        "",
    ]
    for name, told in reversed(found):
        machine = told["machine"]
        lines += [f"## {str(machine['date'])[:16].replace('T', ' ')} UTC, {told['measurement']}", "", *_origin(name, machine), ""]
        if told["scaling"] is not None:
            lines += [f"![{told['scaling']['vary']}]({name.removesuffix('.json')}.svg)", ""]
        lines += [to_markdown(told)]
    lines += ["## Fields of the files", "", *(f"- `{path}`: {text}" for path, text in FIELDS.items()), ""]
    return "\n".join(lines)


def _origin(name: str, machine: Record) -> list[str]:
    git: Any = machine["git"]
    commit = "an installed copy" if git is None else f"commit {git['commit'][:12]}{' (changed)' if git['dirty'] else ''}"
    packages = ", ".join(f"{p} {machine['packages'][p]}" for p in ("torch", "transformers") if p in machine["packages"])
    return [f"[{name}]({name}): `{' '.join(machine['argv'])}`, {commit}, {packages}."]


def write_page(folder: Path) -> Path:
    """Makes the page of a folder anew."""
    write_bytes_atomic(folder / PAGE, page(stored(folder)).encode())
    return folder / PAGE
