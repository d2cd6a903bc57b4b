"""The leaderboard: rankings at equal training budgets, comparisons at equal inference cost. A pure function of stored runs: the same
runs give the same bytes. Accuracy is never blended over tasks, and oracle numbers do not appear.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rim_bench.chosen import extra_columns
from rim_bench.contests import Contest, contests
from rim_bench.files import Record, finite, write_bytes_atomic
from rim_bench.leaderboard_sheet import COLUMNS, Sheet
from rim_bench.leaderboard_text import section
from rim_bench.render import Table
from rim_bench.store import Damaged, Run

TITLE = "Leaderboard at equal compute"
_ONCE = (
    "stamp", "task", "task_version", "evaluator_version", "data_sha256", "split", "backbone", "division", "budget_kind", "budget_asked",
)  # fmt: skip


@dataclass(frozen=True)
class Board:
    """A leaderboard as text; `table.records` are its numbers, and `table` writes itself as Markdown, LaTeX and for the terminal."""

    table: Table
    contests: tuple[Contest, ...]

    def to_csv(self) -> str:
        """Tidy CSV: a line for each rank, point, matched accuracy, difference, needed cost and area ("record" says which); each section's
        first line has what is the same for all of its lines."""
        return self.table.to_csv()

    def to_json(self) -> str:
        """Sections with their notes and records, one on a line; a record has the fields that apply to it."""
        by_section: dict[int, list[Record]] = {}
        for record in self.table.records:
            by_section.setdefault(record["section"], []).append(record)
        sections = []
        for number, made in enumerate(self.table.sections, 1):
            head, *found = by_section[number]
            told = {"title": made.title, **{k: head[k] for k in _ONCE}, "notes": list(made.notes)}
            rows = [{k: r[k] for k in self.table.columns if k not in (*_ONCE, "section") and r.get(k) not in (None, "")} for r in found]
            lines = ",\n".join(_json(r) for r in rows)
            sections.append(f'{_json(told, indent=1)[:-2]},\n "records": [\n{lines}\n]}}')
        whole = _json({"schema": 1, "title": self.table.heading, "left_out": list(self.table.left_out)}, indent=1)
        return f'{whole[:-2]},\n "sections": [\n' + ",\n".join(sections) + "\n]}\n"

    def write(self, folder: Path) -> list[Path]:
        """Writes leaderboard.md, .csv, .tex and .json into a folder; each is there whole or not at all.

        Raises:
            UsageError: disk full or not writable.
        """
        texts = {"md": self.table.to_markdown(), "csv": self.to_csv(), "tex": self.table.to_latex(), "json": self.to_json()}
        for suffix, text in texts.items():
            write_bytes_atomic(folder / f"leaderboard.{suffix}", text.encode())
        return [folder / f"leaderboard.{suffix}" for suffix in texts]


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(finite(value), indent=indent, separators=(",", ": " if indent else ":"), ensure_ascii=False, allow_nan=False)


def leaderboard(runs: Iterable[Run], *, split: str | None = None, damaged: Iterable[Damaged] = ()) -> Board:
    """The leaderboard of stored runs. `damaged` (from `Store.runs`) are named under it.

    Raises:
        UsageError: nothing to rank, or runs that must not be in one leaderboard.
    """
    found, left_out = contests(runs, split)
    left_out += [f"{d.path.name}: {d.reason}" for d in damaged]
    sheets = [Sheet(c) for c in found]
    records = tuple({"section": number, **r} for number, s in enumerate(sheets, 1) for r in s.records())
    quick, columns = any(c.group.quick for c in found), (*COLUMNS, *extra_columns(records, ("tuning_flops",)))
    return Board(Table(TITLE, quick, tuple(section(s) for s in sheets), records, columns, tuple(left_out), "leaderboard.md"), tuple(found))
