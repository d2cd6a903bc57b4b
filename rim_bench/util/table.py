"""A table of text cells as Markdown, CSV, LaTeX and for the terminal. Knows nothing of runs or methods."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rim_bench.util.files import Record

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType
from typing import TYPE_CHECKING

_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$",
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """Text cells under a caption. `short` grids are for the terminal, the others for files; None = both.

    First columns matter most.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    short: bool | None = None


@dataclass(frozen=True)
class Section:
    """A group as text: its grids, then the notes beneath them.

    A brief one is named in the terminal, and whole in files.
    """

    title: str
    grids: tuple[Panel, ...]
    notes: tuple[str, ...]
    brief: bool = False


def latex_escape(text: str) -> str:
    """`text` with every character that LaTeX reads as a command spelled out."""
    return "".join(_LATEX.get(c, c) for c in text)


@dataclass(frozen=True)
class Table:
    """A comparison as text; `records` are its numbers, one per row and level (fractions, not per cent), under
    `columns`.
    """

    title: str
    quick: bool
    sections: tuple[Section, ...]
    records: tuple[Record, ...]
    columns: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    file: str = "table.md"  # where the columns are that a terminal has no room for

    @property
    def heading(self) -> str:
        """The title, with the stamp where one is due."""
        return f"{self.title} ({QUICK})" if self.quick else self.title

    def to_markdown(self) -> str:
        """GitHub Markdown."""
        out = [f"# {self.heading}", ""]
        if self.quick:
            out += [f"> {QUICK}", ""]

        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

        for section in self.sections:
            out += [f"## {section.title}", ""]
            for grid in (g for g in section.grids if not g.short):
                rule = "|---|" + "---:|" * (len(grid.columns) - 1)
                out += [grid.caption, "", line(grid.columns), rule, *map(line, grid.rows), ""]
            out += [*(f"- {note}" for note in section.notes), ""]
        if self.left_out:
            out += ["Left out:", "", *(f"- {text}" for text in self.left_out), ""]
        return "\n".join(out)

    def frame(self) -> pd.DataFrame:
        """The records as a pandas frame. A column of whole numbers stays one where some records lack it."""
        import pandas as pd

        frame = pd.DataFrame(list(self.records), columns=list(self.columns))
        for name in self.columns:
            known = [v for r in self.records if (v := r.get(name)) is not None]
            if known and all(isinstance(v, int) and not isinstance(v, bool) for v in known):
                frame[name] = frame[name].astype("Int64")
        return frame

    def to_csv(self) -> str:
        """Tidy CSV: one line per row and set of questions, fractions, bounds, hashes, run ids."""
        return str(self.frame().to_csv(index=False, lineterminator="\n"))

    def to_latex(self) -> str:
        """One booktabs table per grid (needs \\usepackage{booktabs})."""
        out = [f"% {self.heading}"]
        for section in self.sections:
            for grid in (g for g in section.grids if not g.short):
                caption = f"{section.title}. {grid.caption}." + (f" {QUICK}." if self.quick else "")
                body = [" & ".join(map(latex_escape, row)) + r" \\" for row in (grid.columns, *grid.rows)]
                out += [r"\begin{table}", r"\centering", rf"\caption{{{latex_escape(caption)}}}"]
                out += [
                    rf"\begin{{tabular}}{{l{'r' * (len(grid.columns) - 1)}}}",
                    r"\toprule",
                    body[0],
                    r"\midrule",
                    *body[1:],
                ]
                out += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
            out += [*(f"% {note}" for note in section.notes), ""]
        return "\n".join(out)

    def to_rich(self, width: int = 100) -> RenderableType:
        """For the terminal: fewer columns, the last ones dropped until `width` holds them."""
        from rich.console import Group as Stack
        from rich.table import Table as RichTable
        from rich.text import Text

        parts: list[RenderableType] = [Text(self.heading, style="bold")]
        for section in (s for s in self.sections if not s.brief):
            parts.append(Text(f"\n{section.title}"))
            for grid in (g for g in section.grids if g.short is not False):
                keep = _fitting(grid, width)
                more = len(grid.columns) - keep
                table = RichTable(
                    title=Text(grid.caption + (f" (+{more} in {self.file})" if more else "")), title_justify="left"
                )
                for k, name in enumerate(grid.columns[:keep]):
                    header = textwrap.fill(name, _width(grid, k), break_long_words=False)
                    table.add_column(Text(header), justify="left" if k == 0 else "right", no_wrap=True)
                for row in grid.rows:
                    table.add_row(*map(Text, row[:keep]))
                parts.append(table)
            parts += [Text(f"- {note}") for note in section.notes]
        if brief := [Text(f"- {s.title}") for s in self.sections if s.brief]:
            parts += [Text(f"\nin full in {self.file}:"), *brief]
        parts += [Text(f"left out: {text}") for text in self.left_out]
        return Stack(*parts)


def _width(grid: Panel, column: int) -> int:
    """Characters that a column needs: cells are not broken, the header may break at spaces."""
    return max([*map(len, grid.columns[column].split()), *(len(row[column]) for row in grid.rows)])


def _fitting(grid: Panel, width: int) -> int:
    """How many leading columns fit into `width` with their borders; at least two stay."""
    ends = itertools.accumulate((3 + _width(grid, k) for k in range(len(grid.columns))), initial=1)
    return max(2, sum(end <= width for end in ends) - 1)


QUICK = "quick: not a result"
