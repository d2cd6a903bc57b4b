"""The picture of accuracies with their intervals, over levels or as dots."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rim_bench.evidence.floors import floors_label
from rim_bench.evidence.rows import Evaluation, Group, Row, Subset, collect, grouped, headings, stamp
from rim_bench.evidence.training_budgets import budget_text
from rim_bench.report.plots.style import (
    FLOOR,
    STYLE,
    check_suffix,
    color_and_marker,
    line_styles,
    save,
    seeds_text,
    stamp_quick,
)
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError
from rim_bench.util.text import escape_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def accuracy_plot(runs: Iterable[Run], path: Path, *, split: str | None = None) -> None:
    """Saves accuracy with Wilson 95 % intervals to `path`: a panel for each set of comparable runs and each budget.

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
        kind, asked = e.spec.total_budget
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
    starts = sorted({str(p.spec.start) for p in parts} - {"None", "recipe"})
    levels = _levels(group)
    sizes = sorted({len(s.ids) for s in levels}) or [len(parts[0].items)]
    n = f"n = {sizes[0]:,}" if len(sizes) == 1 else f"n = {sizes[0]:,} to {sizes[-1]:,}"
    seeds = sorted({p.seed for p in parts if not p.spec.untrained})
    facts = [n + (" per level" if levels else ""), seeds_text(seeds)]
    if starts and {r.first.spec.start for r in group.rows} == set(starts):
        facts.insert(0, "all from " + ", ".join(starts))
    facts += [f"first {cut:,} rows only" for cut in sorted({p.cut for p in parts if p.cut is not None})]
    return f"{heading}\n{'; '.join(facts)}" + (f"; {marks}" if (marks := stamp(group.rows)) else "")


def _name(row: Row, group: Group) -> str:
    """The row's label, without the start where the title says it of all rows."""
    starts = {r.first.spec.start for r in group.rows}
    return row.short_label if len(starts) == 1 and row.words == f"from {next(iter(starts))}" else row.label


def _level_panel(ax: Axes, group: Group) -> None:
    levels, count = _levels(group), len(group.rows)
    step = min(0.12, 0.6 / max(1, count))
    first_ood = next((k for k, s in enumerate(levels) if s.ood), None)
    if first_ood is not None:
        ax.axvspan(first_ood - 0.5, len(levels) - 0.5, color="#E8E8E8", lw=0, zorder=0)
        ax.text(len(levels) - 0.55, 103, "out of distribution", ha="right", va="bottom", fontsize=8, color="#606060")
    bars: Any = {"ms": 4.5, "lw": 1.2, "elinewidth": 1, "capsize": 2, "zorder": 3}
    for k, (row, look) in enumerate(zip(group.rows, line_styles([r.method for r in group.rows]), strict=True)):
        xs = [x + (k - (count - 1) / 2) * step for x in range(len(levels))]
        accuracies = [row.accuracy(s.ids) for s in levels]
        below = [100 * (a.value - a.interval.low) for a in accuracies]
        above = [100 * (a.interval.high - a.value) for a in accuracies]
        ys = [100 * a.value for a in accuracies]
        ax.errorbar(xs, ys, yerr=[below, above], label=_name(row, group), **look, **bars)
        if len(row.parts) > 1:  # the seeds by themselves, small and open
            seeds = [100 * row.of_seed(p).accuracy(s.ids).value for p in row.parts for s in levels]
            ax.plot(xs * len(row.parts), seeds, "o", mfc="none", mec=look["color"], ms=2.5, mew=0.6, zorder=4)
    floors = [group.floor(s) for s in levels]
    for k, floor in enumerate(floors):
        label = floors_label(floors) if k == 0 else None
        ax.plot([k - 0.45, k + 0.45], [100 * floor.value] * 2, label=label, **FLOOR)
    ax.set_xticks(range(len(levels)), [escape_plot(s.name) for s in levels])
    ax.set_xlim(-0.5, len(levels) - 0.5)
    ax.set_ylim(0, 103)
    circles = "; circles: seeds" if any(len(r.parts) > 1 for r in group.rows) else ""
    ax.set_ylabel(f"accuracy, % (Wilson 95 %{circles})")
    ax.grid(axis="y", color="#D8D8D8", lw=0.6)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8.5)


def _dot_panel(ax: Axes, group: Group) -> None:
    head, methods = group.scopes[0], [r.method for r in group.rows]
    highest = 0.0
    bars: Any = {"ms": 6, "elinewidth": 1.3, "capsize": 3, "ls": ""}
    beside: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center", "fontsize": 8}
    for k, row in enumerate(group.rows):
        color, marker = color_and_marker(row.method, methods)
        a = row.accuracy(head.ids)
        value, low, high = 100 * a.value, 100 * a.interval.low, 100 * a.interval.high
        highest = max(highest, high)
        ax.errorbar([value], [k], xerr=[[value - low], [high - value]], color=color, marker=marker, **bars)
        ax.annotate(f"{value:.1f} [{low:.1f}, {high:.1f}]", (1.0, k), xytext=(6, 0), **beside)
        if len(row.parts) > 1:  # the seeds by themselves, small and open
            seeds = [100 * row.of_seed(p).accuracy(head.ids).value for p in row.parts]
            ax.plot(seeds, [k + 0.22] * len(seeds), "o", mfc="none", mec=color, ms=3)
    floor = 100 * group.floor(head).value
    ax.axvline(floor, **FLOOR)
    under: Any = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "color": "#606060"}
    ax.annotate(floors_label([group.floor(head)]), (floor, 0), xytext=(3, 3), fontsize=7.5, **under)
    ax.set_yticks(range(len(group.rows)), [escape_plot(_name(r, group)) for r in group.rows])
    ax.set_ylim(len(group.rows) - 0.3, -0.6)
    ax.set_xlim(0, min(100.0, max(1.15 * highest, 1.3 * floor, 1.0)))
    circles = "; open circles: seeds" if any(len(r.parts) > 1 for r in group.rows) else ""
    ax.set_xlabel(f"accuracy, % (Wilson 95 %{circles})")
    ax.grid(axis="x", color="#D8D8D8", lw=0.6)
