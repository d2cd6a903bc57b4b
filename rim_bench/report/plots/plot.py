"""Pictures of stored runs. The same runs give the same bytes; matplotlib is imported when a picture is made."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rim_bench.evidence.rows import ORDER, Evaluation, Group, Row, Subset, budget_of, collect, grouped, headings, stamp
from rim_bench.evidence.training_budgets import budget_text
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record, write_bytes_atomic
from rim_bench.util.table import QUICK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with every common colour blindness; markers tell them apart in grey.
_COLORS = ("#000000", "#E69F00", "#0072B2", "#CC79A7", "#D55E00", "#009E73", "#56B4E9", "#7F7F7F")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: Any = {
    "font.size": 9, "axes.titlesize": 9.5, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "legend.frameon": False, "svg.hashsalt": "rim-bench", "svg.fonttype": "none", "figure.dpi": 100, "savefig.dpi": 110,
    "font.sans-serif": ["DejaVu Sans"],  # an svg repeats the list with every text
}  # fmt: skip
_SUFFIXES = ("png", "svg", "pdf")


def save(figure: Figure, path: Path) -> None:
    """Writes the picture in the format of the suffix, without date or program version."""
    kind = path.suffix.lower().removeprefix(".")
    drop = {
        "svg": {"Date": None, "Creator": None},
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    }
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=drop[kind])
    made = buffer.getvalue()
    write_bytes_atomic(path, _few_colors(buffer) if kind == "png" else _numbered(made) if kind == "svg" else made)


def _numbered(svg: bytes) -> bytes:
    """The picture with its clip paths numbered: their names are hashes of sizes, whose last digits the layout solver
    leaves open.
    """
    found = dict.fromkeys(re.findall(rb'<clipPath id="(p[0-9a-f]{10})">', svg))
    names = {name: b"clip%d" % number for number, name in enumerate(found)}
    return re.sub(rb"\bp[0-9a-f]{10}\b", lambda m: names.get(m[0], m[0]), svg)


def _few_colors(png: io.BytesIO) -> bytes:
    """The picture with 64 colours, which these have no more of to speak of: a third of the bytes."""
    from PIL import Image

    out = io.BytesIO()
    with Image.open(png) as image:
        image.convert("RGB").quantize(64, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
            out, "png", optimize=True
        )
    return out.getvalue()


def check_suffix(path: Path) -> None:
    if path.suffix.lower().removeprefix(".") not in _SUFFIXES:
        raise UsageError(f"picture {str(path)!r} has the suffix {path.suffix!r}: allowed are {', '.join(_SUFFIXES)}")


def color_and_marker(method: str, others: Sequence[str]) -> tuple[str, str]:
    """Colour and marker: fixed for the known methods, then by name."""
    names = [*ORDER, *sorted(set(others) - set(ORDER))]
    k = names.index(method)
    return _COLORS[k % len(_COLORS)], _MARKERS[k % len(_MARKERS)]


def stamp_quick(figure: Figure, quick: bool) -> None:
    if quick:
        figure.text(
            0.5, 0.5, QUICK, ha="center", va="center", fontsize=26, color="#C00000", alpha=0.3, rotation=18, zorder=10
        )


def accuracy_plot(runs: Iterable[Run], path: Path, *, split: str | None = None) -> None:
    """Accuracy with Wilson 95 % intervals, saved to `path` (.svg, .png or .pdf): one panel for each set of comparable
    runs, and within it
    for each training budget.

    A task with levels gets a line per method over them, the OOD levels shaded; another one a dot per method.

    Raises:
        UsageError: another suffix, a path that cannot be written, or runs without an evaluation.
    """
    check_suffix(path)
    groups, left_out = collect(runs, split)
    if not groups:
        why = "; ".join(one.text() for one in left_out) or "no run is stored there; `rim-bench run` makes some"
        raise UsageError(f"there is nothing to plot: {why}")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = [
        panel for group, heading in zip(groups, headings(groups), strict=True) for panel in _budgets(group, heading)
    ]
    heights = [3.7 if _levels(g) else 1.3 + 0.34 * len(g.rows) for g, _ in panels]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, sum(heights)), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
        for (group, heading), ax in zip(panels, axes[:, 0], strict=True):
            if _levels(group):
                _level_panel(ax, group)
            else:
                _dot_panel(ax, group)
            ax.set_title(_title(group, heading), loc="left", pad=8)
        stamp_quick(figure, any(g.quick for g in groups))
        save(figure, path)


def _budgets(group: Group, heading: str) -> list[tuple[Group, str]]:
    """The group by training budget, which the headings then say, and the labels no more."""
    by_budget: dict[tuple[str, float], list[Evaluation]] = {}
    for e in (p for r in group.rows for p in r.parts):
        kind, asked = budget_of(e.spec)
        by_budget.setdefault((kind, -1.0 if asked is None else asked), []).append(e)
    if len(by_budget) == 1:
        return [(group, heading)]
    out = []
    for kind, asked in sorted(by_budget):
        (part,) = grouped(by_budget[kind, asked])
        out.append((part, f"{heading}; {budget_text(kind, None if asked < 0 else asked)}"))
    return out


def _levels(group: Group) -> list[Subset]:
    return [s for s in group.scopes if s.level]


def _title(group: Group, heading: str) -> str:
    parts = [p for r in group.rows for p in r.parts]
    starts = sorted({str(p.spec.get("start")) for p in parts} - {"None", "recipe"})
    levels = _levels(group)
    sizes = sorted({len(s.ids) for s in levels}) or [len(parts[0].items)]
    n = f"n = {sizes[0]:,}" if len(sizes) == 1 else f"n = {sizes[0]:,} to {sizes[-1]:,}"
    seeds = sorted({p.seed for p in parts})
    facts = [n + (" per level" if levels else ""), f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"]
    if starts and {r.first.spec.get("start") for r in group.rows} == set(starts):
        facts.insert(0, "all from " + ", ".join(starts))
    facts += [f"first {cut:,} rows only" for cut in sorted({p.cut for p in parts if p.cut is not None})]
    return f"{heading}\n{'; '.join(facts)}" + (f"; {told}" if (told := stamp(group.rows)) else "")


def _name(row: Row, group: Group) -> str:
    """The row's label, without the start where the title says it of all rows."""
    starts = {r.first.spec.get("start") for r in group.rows}
    return row.short_label if len(starts) == 1 and row.words == f"from {next(iter(starts))}" else row.label


def _level_panel(ax: Axes, group: Group) -> None:
    levels, others = _levels(group), [r.method for r in group.rows]
    step = min(0.12, 0.6 / max(1, len(group.rows)))
    first_ood = next((k for k, s in enumerate(levels) if s.ood), None)
    if first_ood is not None:
        ax.axvspan(first_ood - 0.5, len(levels) - 0.5, color="#E8E8E8", lw=0, zorder=0)
        ax.text(len(levels) - 0.55, 103, "out of distribution", ha="right", va="bottom", fontsize=8, color="#606060")
    seen: dict[str, int] = {}
    for k, row in enumerate(group.rows):
        color, marker = color_and_marker(row.method, others)
        dash = ("-", "--", ":", "-.")[
            seen.setdefault(row.method, 0) % 4
        ]  # several rows of one method: same colour, other line
        seen[row.method] += 1
        xs = [x + (k - (len(group.rows) - 1) / 2) * step for x in range(len(levels))]
        found = [row.accuracy(s.ids) for s in levels]
        ys = [100 * a.value for a in found]
        errors = [[100 * (a.value - a.interval.low) for a in found], [100 * (a.interval.high - a.value) for a in found]]
        ax.errorbar(
            xs,
            ys,
            yerr=errors,
            color=color,
            marker=marker,
            ms=4.5,
            lw=1.2,
            ls=dash,
            elinewidth=1,
            capsize=2,
            label=_name(row, group),
            zorder=3,
        )
    for k, scope in enumerate(levels):
        floor = 100 * group.floor(scope)[1]
        ax.plot(
            [k - 0.45, k + 0.45],
            [floor, floor],
            color="#808080",
            lw=1,
            ls=":",
            label="best constant answer" if k == 0 else None,
        )
    ax.set_xticks(range(len(levels)), [s.name for s in levels])
    ax.set_xlim(-0.5, len(levels) - 0.5)
    ax.set_ylim(0, 103)
    ax.set_ylabel("accuracy, % (Wilson 95 %)")
    ax.grid(axis="y", color="#D8D8D8", lw=0.6)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8.5)


def _dot_panel(ax: Axes, group: Group) -> None:
    head, others = group.scopes[0], [r.method for r in group.rows]
    highest = 0.0
    for k, row in enumerate(group.rows):
        color, marker = color_and_marker(row.method, others)
        a = row.accuracy(head.ids)
        value, low, high = 100 * a.value, 100 * a.interval.low, 100 * a.interval.high
        highest = max(highest, high)
        ax.errorbar(
            [value],
            [k],
            xerr=[[value - low], [high - value]],
            color=color,
            marker=marker,
            ms=6,
            elinewidth=1.3,
            capsize=3,
            ls="",
        )
        text = f"{value:.1f} [{low:.1f}, {high:.1f}]"
        ax.annotate(
            text,
            (1.0, k),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
        if len(row.parts) > 1:  # the seeds by themselves, small and open
            ax.plot(
                [100 * Row("", (p,)).accuracy(head.ids).value for p in row.parts],
                [k + 0.22] * len(row.parts),
                "o",
                mfc="none",
                mec=color,
                ms=3,
            )
    floor = 100 * group.floor(head)[1]
    ax.axvline(floor, color="#808080", lw=1, ls=":")
    ax.annotate(
        "best constant answer",
        (floor, 0),
        xycoords=("data", "axes fraction"),
        xytext=(3, 3),
        textcoords="offset points",
        fontsize=7.5,
        color="#606060",
    )
    ax.set_yticks(range(len(group.rows)), [_name(r, group) for r in group.rows])
    ax.set_ylim(len(group.rows) - 0.3, -0.6)
    ax.set_xlim(0, min(100.0, max(1.15 * highest, 1.3 * floor, 1.0)))
    ax.set_xlabel(
        "accuracy, % (Wilson 95 %" + ("; open circles: seeds)" if any(len(r.parts) > 1 for r in group.rows) else ")")
    )
    ax.grid(axis="x", color="#D8D8D8", lw=0.6)


def training_plot(runs: Iterable[Run], path: Path) -> None:
    """Training loss over optimizer steps, a panel per method, with the boundaries of its stages; saved to `path` (.svg,
    .png, .pdf).

    Thin lines are the steps, thick ones their running mean over a fortieth of the run. Losses of different methods
    cover different tokens and do not compare.

    Raises:
        UsageError: another suffix, a path that cannot be written, or runs without training records.
    """
    check_suffix(path)
    panels: dict[str, list[tuple[Run, list[Record]]]] = {}
    for run in sorted(runs, key=lambda r: r.id):
        records = [m for m in run.metrics() if m.get("loss") is not None]
        if records:
            panels.setdefault(panel_name(run), []).append((run, records))
    if not panels:
        raise UsageError("there is nothing to plot: no training records in the runs given")

    def draw(ax: Axes, found: list[tuple[Run, list[Record]]], color: str, label: str) -> None:
        _loss_panel(ax, found, color)
        seeds = sorted({int(run.spec.get("seed", 0)) for run, _ in found})
        ax.set_title(f"{label}; seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}", loc="left", pad=12)

    panel_figure(panels, path, draw, axes=("optimizer step", "training loss"), heights=(0.4, 2.1))


def panel_figure(
    panels: Mapping[str, list[tuple[Run, Any]]],
    path: Path,
    draw: Callable[[Axes, Any, str, str], None],
    *,
    axes: tuple[str, str],
    heights: tuple[float, float],
) -> None:
    """A panel for each label, in the order of the methods, two beside each other.

    Args:
        panels: label -> runs and what is drawn of them.
        draw: fills a panel: (axes, the label's runs, colour of its method, label).
        axes: what stands along x and along y.
        heights: of the figure without panels, and of a row of them, in inches.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rank = {name: k for k, name in enumerate(ORDER)}
    methods = {label: str(found[0][0].spec["method"]["name"]) for label, found in panels.items()}
    labels = sorted(panels, key=lambda label: (rank.get(methods[label], len(ORDER)), label))
    columns = 1 if len(labels) == 1 else 2
    rows = math.ceil(len(labels) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, heights[0] + heights[1] * rows), layout="constrained")
        for ax, label in _padded(list(figure.subplots(rows, columns, squeeze=False).flat), labels):
            if label is None:
                ax.set_axis_off()
                continue
            draw(ax, panels[label], color_and_marker(methods[label], list(methods.values()))[0], label)
        figure.supxlabel(axes[0], fontsize=9)
        figure.supylabel(axes[1], fontsize=9)
        stamp_quick(figure, any(run.spec.get("quick") for found in panels.values() for run, _ in found))
        save(figure, path)


def panel_name(run: Run) -> str:
    method, start = run.spec["method"], run.spec.get("start")
    label = str(method.get("label") or method["name"])
    if start not in (None, "recipe") and "(from" not in label:
        label += f" (from {start})"
    return f"{label}, {run.spec['task']['name']}"


def _padded(axes: Sequence[Axes], labels: Sequence[str]) -> list[tuple[Axes, str | None]]:
    """Each axes with its label; None for those left over."""
    return [(ax, labels[k] if k < len(labels) else None) for k, ax in enumerate(axes)]


def _loss_panel(ax: Axes, found: Sequence[tuple[Run, list[Record]]], color: str) -> None:
    for _, records in found:
        steps, losses = [m["step"] for m in records], [float(m["loss"]) for m in records]
        half = max(1, len(losses) // 80)
        smooth = [
            math.fsum(losses[max(0, k - half) : k + half + 1]) / len(losses[max(0, k - half) : k + half + 1])
            for k in range(len(losses))
        ]
        ax.plot(steps, losses, color=color, lw=0.5, alpha=0.35)
        ax.plot(steps, smooth, color=color, lw=1.3)
    records = found[0][1]
    starts = [0, *(k for k in range(1, len(records)) if records[k].get("stage") != records[k - 1].get("stage"))]
    for k in starts:
        if k:
            ax.axvline(records[k]["step"] - 0.5, color="#808080", lw=0.8, ls="--")
        text = str(records[k].get("stage", ""))
        ax.annotate(
            text,
            (records[k]["step"], 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(1, 2),
            textcoords="offset points",
            fontsize=7,
            color="#505050",
        )
    ax.set_ylim(bottom=0)
    ax.grid(color="#E0E0E0", lw=0.5)
