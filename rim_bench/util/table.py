"""A table of text cells for the terminal, as Markdown, CSV, LaTeX and JSON. Knows nothing of runs or methods."""

from __future__ import annotations

import itertools
import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from rim_bench.util.files import Record
from rim_bench.util.text import escape_csv, escape_html, escape_latex, escape_line, escape_markdown, escape_terminal

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import OverflowMethod, RenderableType

QUICK = "quick: not a result"


@dataclass(frozen=True)
class Panel:
    """One grid of text cells under a caption. The first columns matter most."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    short: bool | None = None  # True: for the terminal only; False: for files only; None: for both
    align: str = ""  # "l" or "r" for each column; "": the first left, the others right
    styles: tuple[str, ...] = ()  # terminal style of each row's second cell, which Markdown sets bold

    @property
    def sides(self) -> str:
        """ "l" or "r" for each column."""
        return self.align or "l" + "r" * (len(self.columns) - 1)


@dataclass(frozen=True)
class Section:
    """Panels and the notes beneath them. The terminal only names a brief one; files have it whole."""

    title: str
    panels: tuple[Panel, ...]
    notes: tuple[str, ...]
    brief: bool = False


@dataclass(frozen=True)
class Look:
    """How a table is set. The defaults are those of a comparison of runs."""

    level: int = 1  # of the Markdown heading
    rule: str = "---"  # between the Markdown header and the rows
    strict: Literal["", "cells", "all"] = ""  # what `escape_markdown` takes strictly: cells, or notes and foot too
    bullet: str = "- "  # before a note in the terminal
    overflow: OverflowMethod | None = None  # how the terminal breaks a word that is too long; None: cells stay whole
    keep: int | None = 2  # columns that stay where the terminal is too narrow for all; None: all do
    centered: bool = False  # the title of a panel in the terminal


SMALL = Look(level=2, rule=" --- ", bullet="", overflow="ellipsis", keep=None)


@dataclass(frozen=True)
class Table:
    """Sections of text cells, and the numbers behind them: `records` under `columns` (fractions, not per cent)."""

    title: str
    quick: bool
    sections: tuple[Section, ...]
    records: tuple[Record, ...]
    columns: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    file: str = "table.md"  # where the columns are that a terminal has no room for
    lead: str = ""  # a paragraph under the Markdown heading
    lead_style: str | None = None  # its terminal style, behind the panels; None: files only
    foot: tuple[str, ...] = ()  # lines at the end
    document: Record | None = None  # what JSON holds where that is more than the records
    look: Look = Look()

    @classmethod
    def of_rows(
        cls,
        title: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        align: str = "",
        styles: Sequence[str] = (),
        lead: str = "",
        notes: Sequence[str] = (),
        foot: Sequence[str] = (),
        records: Sequence[Record] | None = None,
        document: Record | None = None,
        look: Look = SMALL,
    ) -> Table:
        """A table of one panel, whose caption is the title. Without `records`, the cells are the records."""
        panel = Panel("", tuple(columns), tuple(map(tuple, rows)), align=align, styles=tuple(styles))
        if records is None:
            records = [dict(zip(panel.columns, row, strict=True)) for row in panel.rows]
        names = tuple(records[0]) if records else panel.columns
        section = Section("", (panel,), tuple(notes))
        return cls(
            title, False, (section,), tuple(records), names, lead=lead, foot=tuple(foot), document=document, look=look
        )

    @property
    def heading(self) -> str:
        """The title, with the stamp where one is due."""
        return f"{self.title} ({QUICK})" if self.quick else self.title

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
        """Tidy CSV: one line for each record."""
        records = tuple({name: escape_csv(value) for name, value in record.items()} for record in self.records)
        header = [escape_csv(name) for name in self.columns]
        return str(replace(self, records=records).frame().to_csv(index=False, header=header, lineterminator="\n"))

    def to_json(self) -> str:
        """The document, or the records with the title and the notes."""
        notes = [note for section in self.sections for note in section.notes] + list(self.foot)
        records = {"schema": 1, "title": self.heading, "records": list(self.records), "notes": notes}
        return json.dumps(self.document or records | {"left_out": list(self.left_out)}, indent=2)

    def to_markdown(self) -> str:
        """GitHub Markdown."""
        look = self.look

        def row(cells: Sequence[str], bold: int | None = None) -> str:
            texts = [escape_markdown(cell, look.strict != "") for cell in cells]
            return "| " + " | ".join(f"**{text}**" if k == bold else text for k, text in enumerate(texts)) + " |"

        def line(text: str) -> str:
            return escape_markdown(text, look.strict == "all")

        out = [f"{'#' * look.level} {escape_markdown(self.heading)}", ""] if self.title else []
        out += [f"> {QUICK}", ""] if self.quick else []
        out += [escape_markdown(self.lead), ""] if self.lead else []
        for section in self.sections:
            out += [f"## {escape_markdown(section.title)}", ""] if section.title else []
            mark = "" if section.title else "#" * (look.level + 1) + " "
            for panel in (p for p in section.panels if not p.short):
                rules = (look.rule if side == "l" else look.rule.replace("---", "---:") for side in panel.sides)
                out += [mark + escape_markdown(panel.caption), ""] if panel.caption else []
                out += [row(panel.columns), f"|{'|'.join(rules)}|"]
                out += [*(row(cells, 1 if panel.styles else None) for cells in panel.rows), ""]
            if section.notes or not self.foot:
                out += [*(f"- {line(note)}" for note in section.notes), ""]
        if self.left_out:
            out += ["Left out:", "", *(f"- {escape_markdown(text)}" for text in self.left_out), ""]
        return "\n".join([*out, *map(line, self.foot), ""] if self.foot else out)

    def to_latex(self) -> str:
        """One booktabs table for each panel (needs \\usepackage{booktabs})."""
        import pandas as pd

        def cells(row: Sequence[str]) -> list[str]:
            first, *others = map(escape_latex, row)
            if first.startswith(("[", "*")):  # an argument of the \\\\ or \\midrule before it
                first = "{}" + first
            return [first, *others]

        out = [f"% {escape_line(self.heading)}"]
        for section in self.sections:
            for panel in (p for p in section.panels if not p.short):
                caption = (". ".join(filter(None, (section.title, panel.caption))) or self.title) + "."
                caption += f" {QUICK}." if self.quick else ""
                frame = pd.DataFrame(list(map(cells, panel.rows)), columns=cells(panel.columns))
                text = frame.style.hide(axis="index").to_latex(
                    column_format=panel.sides, position_float="centering", hrules=True, caption=escape_latex(caption)
                )
                out.append(text)
            out += [*(f"% {escape_line(note)}" for note in section.notes), ""]
        return "\n".join([*out, *(f"% {escape_line(text)}\n" for text in self.foot)])

    def _repr_html_(self) -> str:
        """What a notebook shows: the panels of the terminal in full width, and the notes."""
        import pandas as pd

        out = [f"<h3>{escape_html(self.heading)}</h3>"]
        for section in self.sections:
            out += [f"<h4>{escape_html(section.title)}</h4>"] if section.title else []
            for panel in (p for p in section.panels if not p.short):
                out += [f"<p><b>{escape_html(panel.caption)}</b></p>"] if panel.caption else []
                rows = [list(map(escape_html, row)) for row in panel.rows]
                frame = pd.DataFrame(rows, columns=list(map(escape_html, panel.columns)))
                with pd.option_context("display.max_colwidth", None):  # else long cells are cut
                    out.append(frame.to_html(index=False, border=0, escape=False))
            out += ["<ul>", *(f"<li>{escape_html(note)}</li>" for note in section.notes), "</ul>"]
        out += [f"<p>left out: {escape_html(text)}</p>" for text in self.left_out]
        return "\n".join([*out, *(f"<p>{escape_html(text)}</p>" for text in self.foot)])

    def __str__(self) -> str:
        """The Markdown text: what `print` shows."""
        return self.to_markdown()

    def to_rich(self, width: int | None = 100) -> RenderableType:
        """For the terminal: fewer columns, the last ones dropped until `width` holds them (None: no limit)."""
        from rich.console import Group
        from rich.text import Text

        titled = any(section.title for section in self.sections)
        parts: list[RenderableType] = [Text(escape_line(self.heading), style="bold")] if titled else []
        lead = [] if self.lead_style is None else [Text(escape_terminal(self.lead), style=self.lead_style)]
        for section in (s for s in self.sections if not s.brief):
            parts += [Text(f"\n{escape_line(section.title)}")] if section.title else []
            parts += [self._rich_panel(p, width) for p in section.panels if p.short is not False]
            parts += [*lead, *(Text(f"{self.look.bullet}{escape_line(note)}") for note in section.notes)]
            lead = []
        if brief := [Text(f"- {escape_line(s.title)}") for s in self.sections if s.brief]:
            parts += [Text(f"\nin full in {self.file}:"), *brief]
        parts += [Text(f"left out: {escape_line(text)}") for text in self.left_out]
        return Group(*parts, *(Text(escape_terminal(text.rstrip()), style="dim") for text in self.foot))

    def _rich_panel(self, panel: Panel, width: int | None) -> RenderableType:
        """The panel with the columns that fit, and how many were left out."""
        from rich.table import Table as RichTable
        from rich.text import Text

        look, names = self.look, list(map(escape_terminal, panel.columns))
        rows = [list(map(escape_terminal, row)) for row in panel.rows]
        if look.overflow is None:  # only the header may break, at spaces
            needed = [max(map(len, (*n.split(), *(row[k] for row in rows)))) for k, n in enumerate(names)]
            names = [textwrap.fill(n, w, break_long_words=False) for n, w in zip(names, needed, strict=True)]
        else:
            needed = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
        shown = len(names)
        if look.keep is not None and width is not None:
            ends = itertools.accumulate(needed, lambda end, w: end + 3 + w, initial=1)
            shown = max(look.keep, sum(end <= width for end in ends) - 1)
        caption = escape_line(panel.caption or self.heading)
        if shown < len(names) and look.overflow is None:
            caption += f" (+{len(names) - shown} in {self.file})"
        justify: Literal["center", "left"] = "center" if look.centered else "left"
        table = RichTable(
            title=Text(caption, style="table.title" if look.centered else "") if caption else None,
            title_justify=justify,
        )
        for name, side in zip(names[:shown], panel.sides[:shown], strict=True):
            table.add_column(
                Text(name),
                justify="left" if side == "l" else "right",
                no_wrap=look.overflow is None,
                overflow=look.overflow or "ellipsis",
            )
        for k, row in enumerate(rows):
            cells = list(map(Text, row[:shown]))
            if panel.styles:
                cells[1].stylize(panel.styles[k])
            table.add_row(*cells)
        return table
