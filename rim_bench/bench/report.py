"""A stored measurement as a table. A pure function of the record; no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from rim_bench.util.files import Record
from rim_bench.util.table import SMALL, Table
from rim_bench.util.text import format_bytes, format_flops, machine_label, model_label

TITLES = {
    "train": "Training",
    "eval": "Answering",
    "ttft": "Time to the first token",
    "memory": "Memory of training",
    "overhead": "Fixed overhead",
    "scaling": "Scaling",
    "targets": "Targets",
    "pretrained": "A pretrained backbone",
}
LOOK = dataclasses.replace(SMALL, level=3, centered=True)
Show = Callable[[float], str]
Rows = list[tuple[str, ...]]


def table(record: Record) -> Table:
    """The table of one record."""
    kind, setting, scaling = str(record["measurement"]), record["setting"], record["scaling"]
    words = []
    if setting is not None:
        vary = None if scaling is None else scaling["vary"]  # the setting is that of its last value
        words.append(f"{setting['task']}{' (generated)' if setting['embedded'] else ''}")
        words.append(str(setting["backbone"]["name"]) if vary == "width" else model_label(setting))
        words += [] if vary == "batch" else [f"batch {setting['batch_size']}"]
    title = f"{TITLES[kind]}: {'; '.join([*words, machine_label(record['machine'])])}"
    columns, rows = _cells(record)
    numeric = (
        all(cell[:1].isdigit() or cell in ("-", "") or cell.startswith("at ") for cell in cells)
        for cells in zip(*rows, strict=True)
    )
    align = "".join("r" if right else "l" for right in numeric) or "r" * len(columns)
    numbers = [
        {key: value["median"] if isinstance(value, dict) else value for key, value in row.items() if key != "more"}
        for row in (*record["lines"], *record["targets"])
    ]
    foot = [f"{note}  " for note in _notes(record)]  # two spaces: a line break in Markdown
    return Table.of_rows(
        title, columns, rows, align=align, foot=foot, records=numbers or None, document=record, look=LOOK
    )


def spread(values: Record | None, show: Show) -> str:
    """A median with its range; "-" for none."""
    if values is None:
        return "-"
    if len(values["values"]) == 1:
        return show(values["median"])
    low, high = show(values["low"]), show(values["high"])
    low = low.removesuffix(" %") if high.endswith(" %") else low  # the unit once
    return f"{show(values['median'])} ({low}-{high})"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.3g}" if value >= 9.995 else f"{value:.2f}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


_MORE: tuple[tuple[str, str, Show], ...] = (
    ("use_of_peak_executed", "of peak", _share),
    ("padding", "padding", _share),
    ("padding_of_plain", "its padding", _share),
    ("over_direct", "x direct", times),
    ("over_plain_forward", "x plain forward", times),
    ("cpu_ratio", "of CPU seconds", times),
)
"""Key in a line's `more`, its column, and how its median is shown."""


def _cells(record: Record) -> tuple[tuple[str, ...], Rows]:
    """The columns and rows of a measurement of its kind."""
    rows: Rows = []
    if record["targets"]:
        for t in record["targets"]:
            show = _share if t["unit"] == "share" else times
            bar, holds = f"{t['sense']} {show(t['required'])}", "yes" if t["holds"] else "NO"
            rows.append((t["number"], t["what"], t["against"], spread(t["value"], show), bar, holds))
        return ("", "what", "against", "median (range)", "required", "holds"), rows
    if record["measurement"] == "scaling":
        values, vary = record["scaling"]["values"], record["scaling"]["vary"]
        for c in record["scaling"]["curves"]:
            for value, seconds, flops, rate in zip(values, c["seconds"], c["flops"], c["gflops"], strict=True):
                ms = spread(seconds, lambda v: f"{1000 * v:.3g}")
                rows.append((f"{value:g}", c["method"], c["work"], ms, format_flops(flops), f"{rate:.3g}"))
        return (vary, "method", "work", "ms for an example", "FLOPs, closed form", "GFLOP/s"), rows
    lines = record["lines"]
    units = {line["unit"] for line in lines}
    unit = units.pop() if len(units) == 1 else "unit of the row"
    more = [(key, name, text) for key, name, text in _MORE if any(key in line["more"] for line in lines)]
    for line in lines:
        show = format_bytes if line["unit"] == "bytes" else "{:.3g}".format
        medians = [text(line["more"][key]["median"]) if key in line["more"] else "-" for key, _, text in more]
        pair = (line["what"], spread(line["ours"], show), line["against"], spread(line["theirs"], show))
        rows.append((*pair, spread(line["ratio"], times), *medians))
    return ("what", unit, "beside", unit, "ratio of the pairs", *(name for _, name, _ in more)), rows


def _notes(record: Record) -> list[str]:
    setting, machine = record["setting"], record["machine"]
    notes = [
        f"Medians (ranges) of {record['rounds']} interleaved rounds behind one that warms up; a ratio is that of the "
        "pairs of each round."
    ]
    notes += [f"{t['number']}: {t['detail']}." for t in record["targets"] if t["detail"]]
    if record["measurement"] == "pretrained":
        notes += [
            f"{line['what']}: {spread(line['ours'], '{:,.0f}'.format)} {line['unit']}." for line in record["lines"]
        ]
        notes.append("On one thread of a CPU, seconds are the process's own: what others compute is in none of them.")
    if record["peak_gflops"] is not None:
        kind = "bfloat16" if machine["dtype"] == "bfloat16" else "float32"
        peak = spread(record["peak_gflops"], "{:,.0f}".format)
        notes.append(f"Matrix peak (torch.mm, {kind}) in the same rounds: {peak} GFLOP/s.")
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
    return notes
