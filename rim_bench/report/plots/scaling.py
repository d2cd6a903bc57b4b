"""The picture of a scaling measurement: measured times, and closed-form FLOPs as the line to compare them with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rim_bench.report.plots.style import STYLE, check_suffix, color_and_marker, save
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record
from rim_bench.util.text import machine_label, model_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KNOBS = {
    "question-length": "tokens of the question",
    "K": "memory blocks K",
    "thoughts": "continuous thoughts",
    "batch": "examples in a batch",
    "width": "width of the model",
}
WORKS = {"training": "training, ms for an example of a step", "answer": "answering, ms for a question of a batch"}


def scaling_pictures(record: Record, stem: Path) -> list[Path]:
    """Writes .svg and .png beside a measurement's file, whose path without a suffix is `stem`; returns their paths."""
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("svg", "png")]
    for path in paths:
        scaling_picture(record, path)
    return paths


def scaling_picture(record: Record, path: Path) -> None:
    """A panel for each work. Dots: medians of the rounds and their ranges; lines: FLOPs at the rate of the last dot.

    Raises:
        UsageError: another suffix than .svg, .png or .pdf, a path that cannot be written, or a record without curves.
    """
    check_suffix(path)
    if not record["scaling"] or not record["scaling"]["curves"]:
        raise UsageError("there is nothing to plot: this is no measurement of `rim-bench bench scaling`")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    scaling, setting = record["scaling"], record["setting"]
    vary = str(scaling["vary"])
    works = [w for w in WORKS if any(c["work"] == w for c in scaling["curves"])]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.9 * len(works), 3.7), layout="constrained")
        axes = figure.subplots(1, len(works), squeeze=False)[0]
        for ax, work in zip(axes, works, strict=True):
            _draw(ax, [float(v) for v in scaling["values"]], [c for c in scaling["curves"] if c["work"] == work])
            ax.set_title(WORKS[work], loc="left", pad=8)
            ax.set_xlabel(KNOBS.get(vary, vary))
        axes[0].legend(fontsize=8)
        model = setting["backbone"]["name"] if vary == "width" else model_label(setting)
        busy = " on a BUSY MACHINE" if record["machine"]["busy"] else ""
        heading = (
            f"{setting['task']}{' (generated)' if setting['embedded'] else ''}; {model}; "
            f"{machine_label(record['machine'])}\ndots: measured{busy}, median and range of {record['rounds']} rounds; "
            "lines: closed-form FLOPs at the rate of the last dot"
        )
        figure.suptitle(heading, fontsize=8, color="#404040", x=0.01, ha="left")
        save(figure, path)


def _draw(ax: Axes, values: list[float], curves: list[Record]) -> None:
    """The curves of one work."""
    from matplotlib.ticker import LogLocator

    names = [str(c["method"]) for c in curves]
    doubling = values[-1] / values[0] >= 4
    dots: dict[str, Any] = {"ms": 4.5, "ls": "", "elinewidth": 1, "capsize": 2, "zorder": 3}
    for k, curve in enumerate(curves):
        color, marker = color_and_marker(names[k], names)
        medians = [1000 * s["median"] for s in curve["seconds"]]
        below = [m - 1000 * s["low"] for m, s in zip(medians, curve["seconds"], strict=True)]
        above = [1000 * s["high"] - m for m, s in zip(medians, curve["seconds"], strict=True)]
        beside = k - (len(curves) - 1) / 2  # dots of several methods stand beside each other, around their value
        at = [v * 1.04**beside if doubling else v + 0.01 * beside * values[-1] for v in values]
        ax.errorbar(at, medians, yerr=[below, above], label=names[k], color=color, marker=marker, **dots)
        rate = medians[-1] / curve["flops"][-1]
        ax.plot(values, [rate * f for f in curve["flops"]], color=color, lw=1.1, zorder=2)
    if doubling:
        ax.set_xscale("log", base=2)
    ax.set_xticks(values, [f"{v:g}" for v in values])
    ax.set_xticks([], minor=True)
    ends = [1000 * s[end] for c in curves for s in c["seconds"] for end in ("low", "high")]
    if max(ends) > 10 * min(ends):
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("")
    else:
        ax.set_ylim(bottom=0)
    ax.grid(axis="y", color="#D8D8D8", lw=0.6)
