"""The picture of training losses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rim_bench.report.plots.style import GREY, check_suffix, panel_figure, panel_name, seeds_text
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def training_plot(runs: Iterable[Run], path: Path) -> None:
    """Saves the training loss over optimizer steps to `path`: a panel per method, with the boundaries of its stages.

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

    def draw(ax: Axes, logged: list[tuple[Run, list[Record]]], color: str, label: str) -> None:
        for _, records in logged:
            steps, losses = [m["step"] for m in records], [float(m["loss"]) for m in records]
            half = max(1, len(losses) // 80)
            near = [losses[max(0, k - half) : k + half + 1] for k in range(len(losses))]
            ax.plot(steps, losses, color=color, lw=0.5, alpha=0.35)
            ax.plot(steps, [math.fsum(part) / len(part) for part in near], color=color, lw=1.3)
        records = logged[0][1]
        starts = [0, *(k for k in range(1, len(records)) if records[k].get("stage") != records[k - 1].get("stage"))]
        for k in starts:
            step, name = records[k]["step"], str(records[k].get("stage", ""))
            if k:
                ax.axvline(step - 0.5, color=GREY, lw=0.8, ls="--")
            where, offset = ("data", "axes fraction"), "offset points"
            ax.annotate(name, (step, 1.0), (1, 2), where, offset, fontsize=7, color="#505050")
        ax.set_ylim(bottom=0)
        ax.grid(color="#E0E0E0", lw=0.5)
        seeds = seeds_text(sorted({run.spec.seed for run, _ in logged}))
        ax.set_title(f"{label}; {seeds}", loc="left", pad=12)

    panel_figure(panels, path, draw, axes=("optimizer step", "training loss"), heights=(0.4, 2.1))
