"""A stored measurement as tables, for a terminal and for a page. A pure function of the record; no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rim_bench.util.files import Record
from rim_bench.util.text import format_bytes, format_flops

if TYPE_CHECKING:
    from rich.console import RenderableType

TITLES = {
    "train": "Training",
    "eval": "Answering",
    "ttft": "Time to the first token",
    "memory": "Memory of training",
    "overhead": "Fixed overhead",
    "scaling": "Scaling",
    "targets": "Targets",
}


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table: a heading, columns, rows of text, and what to know about it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def sheet(told: Record) -> Sheet:
    """The table of one record."""
    kind = str(told["measurement"])
    made = {"targets": _targets, "scaling": _scaling}.get(kind, _lines)(told)
    return Sheet(f"{TITLES[kind]}{_where(told)}", *made, _notes(told))


def spread(told: Record | None, show: Callable[[float], str]) -> str:
    """A median with its range; "-" for none."""
    if told is None:
        return "-"
    if len(told["values"]) == 1:
        return show(told["median"])
    low, high = show(told["low"]), show(told["high"])
    low = low.removesuffix(" %") if high.endswith(" %") else low  # the unit once
    return f"{show(told['median'])} ({low}-{high})"


def _median(told: Record | None, show: Callable[[float], str]) -> str:
    return "-" if told is None else show(told["median"])


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.3g}" if value >= 9.995 else f"{value:.2f}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _amount(unit: str) -> Callable[[float], str]:
    return format_bytes if unit == "bytes" else lambda value: f"{value:.3g}"


def _where(told: Record) -> str:
    setting, parts = told["setting"], []
    if setting is not None:
        vary = None if told["scaling"] is None else told["scaling"]["vary"]  # the setting is that of its last value
        parts = [f"{setting['task']}{' (generated)' if setting['embedded'] else ''}"]
        parts.append(str(setting["backbone"]["name"]) if vary == "width" else model(setting))
        parts += [] if vary == "batch" else [f"batch {setting['batch_size']}"]
    return ": " + "; ".join([*parts, place(told["machine"])])


def place(machine: Record) -> str:
    """Where it ran, in a few words."""
    threads = machine["threads"]
    cpu = f"{machine['cpu']['model']}, {threads} thread{'s' if threads > 1 else ''}"
    return str(machine["gpu"]["name"]) if machine["gpu"] else cpu


def model(setting: Record) -> str:
    """A setting's model in a few words."""
    backbone = setting["backbone"]
    size = f", {backbone['layers']} x {backbone['width']}" if "layers" in backbone else ""
    return f"{backbone['name']}{size} ({setting['parameters'] / 1e6:.1f} M)"


_WARM = " behind one that warms up"
_ROUNDS = {
    "memory": ", every method in a process of its own",
    "targets": f"{_WARM} (rows 4b, 9 and 10: at most 3, row 8 twice as many)",
}
_MORE: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("use_of_peak_executed", "of peak", _share),
    ("padding", "padding", _share),
    ("padding_of_plain", "its padding", _share),
    ("over_direct", "x direct", times),
    ("over_plain_forward", "x plain forward", times),
    ("cpu_ratio", "of CPU seconds", times),
)


def _lines(told: Record) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    found = told["lines"]
    units = list(dict.fromkeys(line["unit"] for line in found))
    unit = units[0] if len(units) == 1 else "unit of the row"
    more = [(key, name, show) for key, name, show in _MORE if any(key in line["more"] for line in found)]
    rows = []
    for line in found:
        show = _amount(line["unit"])
        row = [
            line["what"],
            spread(line["ours"], show),
            line["against"],
            spread(line["theirs"], show),
            spread(line["ratio"], times),
        ]
        rows.append((*row, *(_median(line["more"].get(key), value) for key, _, value in more)))
    return ("what", unit, "beside", unit, "ratio of the pairs", *(name for _, name, _ in more)), tuple(rows)


def _targets(told: Record) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    rows = []
    for t in told["targets"]:
        show = _share if t["unit"] == "share" else times
        required = f"{t['sense']} {show(t['required'])}"
        rows.append(
            (t["number"], t["what"], t["against"], spread(t["value"], show), required, "yes" if t["holds"] else "NO")
        )
    return ("", "what", "against", "median (range)", "required", "holds"), tuple(rows)


def _scaling(told: Record) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    found = told["scaling"]
    rows = []
    for curve in found["curves"]:
        for value, seconds, flops, rate in zip(
            found["values"], curve["seconds"], curve["flops"], curve["gflops"], strict=True
        ):
            ms = spread(seconds, lambda v: f"{1000 * v:.3g}")
            rows.append((f"{value:g}", curve["method"], curve["work"], ms, format_flops(flops), f"{rate:.3g}"))
    return (found["vary"], "method", "work", "ms for an example", "FLOPs, closed form", "GFLOP/s"), tuple(rows)


def _notes(told: Record) -> tuple[str, ...]:
    setting, machine = told["setting"], told["machine"]
    notes = [
        f"Medians (ranges) of {told['rounds']} interleaved rounds behind one that warms up; a ratio is that of the "
        "pairs of each round."
    ]
    notes += [f"{t['number']}: {t['detail']}." for t in told["targets"] if t["detail"]]
    if told["peak_gflops"] is not None:
        kind = "bfloat16" if machine["dtype"] == "bfloat16" else "float32"
        notes.append(
            f"Matrix peak (torch.mm, {kind}) in the same rounds: {spread(told['peak_gflops'], lambda v: f'{v:,.0f}')} "
            "GFLOP/s."
        )
    if setting is not None and setting["embedded"]:
        notes.append(
            "Rows of an embedded, generated task: short and of one length, so they say nothing of padding on published "
            "data."
        )
    if machine["busy"]:
        share, others = machine["cpu_share"], machine["others_cores"]
        seen = [] if others is None else [f"other processes used {others:.1f} cores"]
        seen += [] if share is None else [f"this one ran {100 * share:.0f} % of the timed seconds"]
        notes.append(
            f"BUSY MACHINE: {', '.join(seen)}; load {machine['load_before']} before, {machine['load_after']} after."
        )
    return tuple(notes)


def to_rich(told: Record) -> RenderableType:
    """For a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    made = sheet(told)
    table = Table(title=made.title)
    for k, name in enumerate(made.columns):
        table.add_column(name, justify="right" if _numeric(made.rows, k) else "left")
    for row in made.rows:
        table.add_row(*map(Text, row))
    return Group(table, *(Text(note, style="dim") for note in made.notes))


def _numeric(rows: Sequence[Sequence[str]], k: int) -> bool:
    return all(row[k][:1].isdigit() or row[k] in ("-", "") or row[k].startswith("at ") for row in rows)


def to_markdown(told: Record) -> str:
    """For a page, a heading first."""
    made = sheet(told)
    lines: list[Any] = [
        made.columns,
        tuple("---:" if _numeric(made.rows, k) else "---" for k in range(len(made.columns))),
        *made.rows,
    ]
    table = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in lines]
    return "\n".join([f"### {made.title}", "", *table, "", *(f"{note}  " for note in made.notes)]) + "\n"
