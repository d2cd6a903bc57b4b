"""What stands in the way of taking a result at its name: a plumbing check, or rows that are not the registered ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rim_bench.compare import QUICK, Row

CHANGED = "changed data"


def changed_questions(rows: Iterable[Row]) -> bool:
    """Whether the questions of an evaluation are not those that their task registers."""
    return any(p.summary.get("data_registered") is False for r in rows for p in r.parts)


def changed_training(rows: Iterable[Row]) -> list[str]:
    """The rows that were trained on data which their task does not register."""
    return sorted({r.label for r in rows for p in r.parts if (p.spec.get("task") or {}).get("registered") is False})


def stamp(rows: Sequence[Row]) -> str:
    """One cell of a CSV: what holds for any of these rows, nothing where all is as registered."""
    told = [QUICK] if any(r.quick for r in rows) else []
    if changed_questions(rows) or changed_training(rows):
        told.append(CHANGED)
    return "; ".join(told)


def changed_notes(rows: Sequence[Row]) -> list[str]:
    """The same in sentences."""
    notes = []
    if changed_questions(rows):
        notes.append("CHANGED DATA: the questions are not the set that the task registers (--allow-changed-data).")
    if trained := changed_training(rows):
        notes.append(f"CHANGED DATA: trained on rows that are not the registered ones (--allow-changed-data): {', '.join(trained)}.")
    return notes
