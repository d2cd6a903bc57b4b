"""Pictures of inference curves: accuracy over FLOPs, sequential passes and milliseconds.

The same runs give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rim_bench.evidence import training_budgets
from rim_bench.evidence.curves import COSTS, CostCurve
from rim_bench.evidence.ranking import RankingGroup
from rim_bench.evidence.rows import Subset, stamp
from rim_bench.report.plots.plot import STYLE, check_suffix, color_and_marker, save, stamp_quick
from rim_bench.util.errors import UsageError
from rim_bench.util.text import format_flops

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES = {"flops": "FLOPs per item", "passes": "sequential passes", "latency": "ms to the full answer (batch 1, mean)"}
_DASHES = ("-", "--", ":", "-.")
_TICKS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8))


def curve_plots(
    contests: Sequence[RankingGroup], folder: Path, suffixes: Iterable[str] = ("svg", "png")
) -> tuple[list[Path], list[str]]:
    """Writes curves-flops, curves-passes and curves-latency into a folder; returns the files, and a line for a cost
    that no run has.
    """
    paths, missing = [], []
    for kind in COSTS:
        if not _shown(contests, kind):
            missing.append(f"no picture over {kind}: {_reason(contests, kind)}")
            continue
        for suffix in suffixes:
            paths.append(folder / f"curves-{kind}.{suffix}")
            curve_plot(contests, kind, paths[-1])
    return paths, missing


def _shown(contests: Sequence[RankingGroup], kind: str) -> list[RankingGroup]:
    return [c for c in contests if any(c.tracks(kind, s) for s in c.scopes)]


def _reason(contests: Sequence[RankingGroup], kind: str) -> str:
    apart = [text for c in contests if kind not in c.kinds and (text := training_budgets.timed_apart(c.evaluations))]
    return (
        f"the runs were timed on different machines or settings ({apart[0]})"
        if apart
        else "none of the runs has it stored"
    )


def curve_plot(contests: Sequence[RankingGroup], kind: str, path: Path) -> None:
    """Accuracy over one cost ("flops", "passes" or "latency"), saved to `path` (.svg, .png or .pdf), of the contests in
    which it compares.

    A row of panels for each contest, a panel for each of its sets of questions; a line for each curve, with Wilson 95 %
    intervals on the questions, and a ring around the default settings.

    Raises:
        UsageError: another suffix, a path that cannot be written, or nothing that has this cost.
    """
    check_suffix(path)
    if not (shown_here := _shown(contests, kind)):
        raise UsageError(f"there is nothing to plot over {kind}: {_reason(contests, kind)}")
    contests = shown_here
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = max(len(c.scopes) for c in contests)
    # taller where the legend beside the panels is long
    heights = [max(3.2, 0.9 + 0.19 * len(c.curves)) for c in contests]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * columns + 3.0, sum(heights)), layout="constrained")
        axes = figure.subplots(len(contests), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
        for contest, line in zip(contests, axes, strict=True):
            shown = [(ax, scope) for ax, scope in zip(line, contest.scopes, strict=False)]
            for ax in line[len(shown) :]:
                ax.set_axis_off()
            for ax, scope in shown:
                _panel(ax, contest, scope, kind)
            shown[0][0].set_title(_title(contest), loc="left", pad=18)
            _legend(shown[-1][0])
        stamp_quick(figure, any(c.group.quick for c in contests))
        save(figure, path)


def _title(contest: RankingGroup) -> str:
    seeds = sorted({p.seed for r in contest.group.rows for p in r.parts})
    told = f"; {marks}" if (marks := stamp(contest.group.rows)) else ""
    facts = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}" + told
    rows = f"{contest.shared}; " if contest.shared else ""
    return f"{contest.heading}\n{contest.terms}; {rows}{facts}"


def _panel(ax: Axes, contest: RankingGroup, scope: Subset, kind: str) -> None:
    others = [r.method for r in contest.group.rows]
    found = {id(t.curve): t for t in contest.tracks(kind, scope)}
    seen: dict[str, int] = {}
    for curve in contest.curves:
        color, marker = color_and_marker(curve.row.method, others)
        dash = _DASHES[
            seen.setdefault(curve.row.method, 0) % len(_DASHES)
        ]  # several curves of one method: same colour, other line
        seen[curve.row.method] += 1
        if (track := found.get(id(curve))) is not None:
            _line(ax, track, scope, {"color": color, "marker": marker, "ls": dash, "label": curve.label})
    floor = 100 * contest.group.floor(scope)[1]
    ax.axhline(floor, color="#808080", lw=1, ls=":", label="best constant answer")
    _cost_axis(ax, kind, [c for t in found.values() for c in t.costs])
    ax.set_ylim(0, 103)
    ax.set_xlabel(AXES[kind])
    ax.set_ylabel("accuracy, % (Wilson 95 %)")
    ax.text(
        0,
        1.02,
        f"{scope.title}, n = {len(scope.ids):,}",
        transform=ax.transAxes,
        fontsize=8,
        color="#606060",
        va="bottom",
    )
    ax.grid(color="#E0E0E0", lw=0.6)


def _line(ax: Axes, track: CostCurve, scope: Subset, look: dict[str, Any]) -> None:
    found = [p.row.accuracy(scope.ids) for p in track.points]
    ys = [100 * a.value for a in found]
    ax.plot(track.costs, ys, ms=4, lw=1.2, zorder=3, **look)
    bars = [
        v for a in found for v in (100 * a.interval.low, 100 * a.interval.high, math.nan)
    ]  # one path for all of them
    ax.plot([c for c in track.costs for _ in range(3)], bars, color=look["color"], lw=0.8, zorder=3)
    rings = [(c, y) for p, c, y in zip(track.points, track.costs, ys, strict=True) if p.default]
    for cost, y in rings:
        ax.plot([cost], [y], "o", mfc="none", mec=look["color"], ms=10, mew=1.1, zorder=4)


def _cost_axis(ax: Axes, kind: str, costs: Sequence[float]) -> None:
    """Logarithmic, at least a factor of two wide, with plain numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ax.set_xscale("log")
    low, high = (min(costs), max(costs)) if costs else (1.0, 2.0)
    margin = max(1.15, (2 * low / high) ** 0.5)
    low, high = low / margin, high * margin
    ticks: list[float] = []
    for among in _TICKS:  # as many as fit beside each other
        finer = [t for e in range(-6, 24) for m in among if low <= (t := float(f"{m}e{e}")) <= high]
        ticks = finer if len(finer) <= 6 else ticks
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: format_flops(v) if kind == "flops" else f"{v:g}"))
    ax.set_xlim(low, high)


def _legend(ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    from matplotlib.lines import Line2D

    ring = Line2D([], [], color="#404040", marker="o", mfc="none", ms=8, ls="")
    ax.legend(
        [*handles, ring], [*labels, "default setting"], loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=7.5
    )
