"""Pictures of inference curves: accuracy over FLOPs, sequential passes and milliseconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rim_bench.evidence import training_budgets
from rim_bench.evidence.curves import COSTS, CostCurve
from rim_bench.evidence.floors import floors_label
from rim_bench.evidence.ranking import RankingGroup
from rim_bench.evidence.rows import Subset, stamp
from rim_bench.report.plots.style import FLOOR, STYLE, check_suffix, line_styles, save, seeds_text, stamp_quick
from rim_bench.util.errors import UsageError
from rim_bench.util.text import format_flops

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES = {"flops": "FLOPs per item", "passes": "sequential passes", "latency": "ms to the full answer (batch 1, mean)"}
_TICKS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8))


def curve_plots(
    contests: Sequence[RankingGroup], folder: Path, suffixes: Iterable[str] = ("svg", "png")
) -> tuple[list[Path], list[str]]:
    """Writes a picture for each cost into a folder; returns the files, and a line for each cost that no run has."""
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
    """Why there is no picture over a cost."""
    apart = (training_budgets.timed_apart(c.evaluations) for c in contests if kind not in c.kinds)
    if text := next(filter(None, apart), None):
        return f"the runs were timed on different machines or settings ({text})"
    return "none of the runs has it stored"


def curve_plot(contests: Sequence[RankingGroup], kind: str, path: Path) -> None:
    """Saves accuracy over one cost ("flops", "passes" or "latency") to `path`, of the contests in which it compares.

    A row of panels for each contest, a panel for each of its sets of questions; a line for each curve, with Wilson 95 %
    intervals on the questions, and a ring around the default settings.

    Raises:
        UsageError: another suffix, a path that cannot be written, or nothing that has this cost.
    """
    check_suffix(path)
    if not (comparable := _shown(contests, kind)):
        raise UsageError(f"there is nothing to plot over {kind}: {_reason(contests, kind)}")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = max(len(c.scopes) for c in comparable)
    # taller where the legend beside the panels is long
    heights = [max(3.2, 0.9 + 0.19 * len(c.curves)) for c in comparable]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * columns + 3.0, sum(heights)), layout="constrained")
        axes = figure.subplots(len(comparable), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
        for contest, line in zip(comparable, axes, strict=True):
            for ax, scope in zip(line, contest.scopes, strict=False):
                _panel(ax, contest, scope, kind)
            for ax in line[len(contest.scopes) :]:
                ax.set_axis_off()
            trained = (r for r in contest.group.rows if not r.untrained)
            seeds = seeds_text(sorted({p.seed for r in trained for p in r.parts}))
            facts = [contest.terms, contest.shared, seeds, stamp(contest.group.rows)]
            line[0].set_title(f"{contest.heading}\n{'; '.join(filter(None, facts))}", loc="left", pad=18)
            _legend(line[len(contest.scopes) - 1])
        stamp_quick(figure, any(c.group.quick for c in comparable))
        save(figure, path)


def _panel(ax: Axes, contest: RankingGroup, scope: Subset, kind: str) -> None:
    tracks = {id(t.curve): t for t in contest.tracks(kind, scope)}
    looks = line_styles([c.row.method for c in contest.curves], [r.method for r in contest.group.rows])
    for curve, look in zip(contest.curves, looks, strict=True):
        if (track := tracks.get(id(curve))) is not None:
            _line(ax, track, scope, {**look, "label": curve.label})
    floors = {s: contest.group.floor(s) for s in contest.scopes}  # one legend is for all panels
    ax.axhline(100 * floors[scope].value, label=floors_label(floors.values()), **FLOOR)
    _cost_axis(ax, kind, [c for t in tracks.values() for c in t.costs])
    ax.set_ylim(0, 103)
    ax.set_xlabel(AXES[kind])
    circles = "; circles: seeds" if any(len(r.parts) > 1 for r in contest.group.rows) else ""
    ax.set_ylabel(f"accuracy, % (Wilson 95 %{circles})")
    text = f"{scope.title}, n = {len(scope.ids):,}"
    ax.text(0, 1.02, text, transform=ax.transAxes, fontsize=8, color="#606060", va="bottom")
    ax.grid(color="#E0E0E0", lw=0.6)


def _line(ax: Axes, track: CostCurve, scope: Subset, look: dict[str, Any]) -> None:
    accuracies = [p.row.accuracy(scope.ids) for p in track.points]
    ys = [100 * a.value for a in accuracies]
    ax.plot(track.costs, ys, ms=4, lw=1.2, zorder=3, **look)
    # one path for all bars
    bars = [v for a in accuracies for v in (100 * a.interval.low, 100 * a.interval.high, math.nan)]
    ax.plot([c for c in track.costs for _ in range(3)], bars, color=look["color"], lw=0.8, zorder=3)
    for point, cost, y in zip(track.points, track.costs, ys, strict=True):
        if len(point.row.parts) > 1:
            seeds = [100 * point.row.of_seed(p).accuracy(scope.ids).value for p in point.row.parts]
            ax.plot([cost] * len(seeds), seeds, "o", mfc="none", mec=look["color"], ms=2.5, mew=0.6, zorder=3)
        if point.default:
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
    from matplotlib.lines import Line2D

    handles, labels = ax.get_legend_handles_labels()
    ring = Line2D([], [], color="#404040", marker="o", mfc="none", ms=8, ls="")
    where: Any = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5), "fontsize": 7.5}
    ax.legend([*handles, ring], [*labels, "default setting"], **where)
