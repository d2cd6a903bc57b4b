"""Pictures of what was chosen: validation accuracy in the course of training with the chosen checkpoint, and over
learning rates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rim_bench.evidence.stats.intervals import wilson
from rim_bench.report.plots.plot import check_suffix, panel_figure, panel_name
from rim_bench.storage.records import TrainingRecord
from rim_bench.storage.run_folder import Run
from rim_bench.storage.selection import SPLITS
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "#808080"


def selection_plot(runs: Iterable[Run], path: Path) -> None:
    """Validation accuracy over optimizer steps with Wilson 95 % intervals, a panel per method and a line per seed, with
    the boundaries of
    its stages; the chosen checkpoint is a star. Saved to `path` (.svg, .png or .pdf).

    Raises:
        UsageError: another suffix, a path that cannot be written, or no run that was looked at while it trained.
    """
    hint = (
        "no run here was looked at while it trained: give `rim-bench run` --checkpoint best, or --checkpoint-points 8"
    )
    panels = _by_panel(runs, "selection", hint)
    _draw(panels, path, _selection_panel, "optimizer step")


def tuning_plot(runs: Iterable[Run], path: Path) -> None:
    """Validation accuracy of every trial over its learning rate with Wilson 95 % intervals, a panel per method; the
    chosen rate is a star.
    Saved to `path` (.svg, .png or .pdf).

    Raises:
        UsageError: another suffix, a path that cannot be written, or no run whose rate was tuned.
    """
    panels = _by_panel(runs, "tuning", "no run here was tuned: give `rim-bench run` --tune lr=1e-5..1e-3")
    _draw(panels, path, _tuning_panel, "learning rate")


Panel = Sequence[tuple[Run, Record]]


def _by_panel(runs: Iterable[Run], field: str, otherwise: str) -> dict[str, list[tuple[Run, Record]]]:
    """The runs whose train.json has the field, by method, start and task."""
    panels: dict[str, list[tuple[Run, Record]]] = {}
    for run in sorted(runs, key=lambda r: (int(r.spec.get("seed", 0)), r.id)):
        if isinstance(told := (run.training() or TrainingRecord()).get(field), dict):
            panels.setdefault(panel_name(run), []).append((run, told))
    if not panels:
        raise UsageError(f"there is nothing to plot: {otherwise}")
    return panels


def _draw(
    panels: dict[str, list[tuple[Run, Record]]], path: Path, draw: Callable[[Axes, Panel, str], None], x: str
) -> None:
    check_suffix(path)

    def fill(ax: Axes, found: Panel, color: str, label: str) -> None:
        draw(ax, found, color)
        ax.set_title(label, loc="left", pad=20)
        ax.grid(color="#E0E0E0", lw=0.5)
        ax.set_ylim(0, 103)

    panel_figure(panels, path, fill, axes=(x, "validation accuracy, % (Wilson 95 %)"), heights=(0.5, 2.3))


def _errors(found: Sequence[Record]) -> list[list[float]]:
    """Distances to both ends of the intervals, in points."""
    bounds = [wilson(round(r["accuracy"] * r["n"]), r["n"]) for r in found]
    low = [100 * max(0.0, r["accuracy"] - b.low) for r, b in zip(found, bounds, strict=True)]
    return [low, [100 * max(0.0, b.high - r["accuracy"]) for r, b in zip(found, bounds, strict=True)]]


def _selection_panel(ax: Axes, found: Panel, color: str) -> None:
    styles: tuple[Any, ...] = ("-", "--", ":", "-.")
    for k, (run, told) in enumerate(found):
        seen = told["seen"]
        xs, ys = [r["step"] for r in seen], [100 * r["accuracy"] for r in seen]
        name = f"seed {run.spec.get('seed', 0)}" + (", chosen on test items" if told["rule"] == SPLITS else "")
        ax.errorbar(
            xs, ys, yerr=_errors(seen), color=color, ls=styles[k % 4], lw=1.2, elinewidth=0.7, capsize=1.5, label=name
        )
        taken = [r for r in seen if r["candidate"]]
        ax.plot([r["step"] for r in taken], [100 * r["accuracy"] for r in taken], "o", color=color, ms=3.5)
        if (chosen := told["chosen"]) is not None:
            at = [chosen["step"]], [100 * chosen["accuracy"]]
            ax.plot(
                *at,
                "*",
                mfc="white",
                mec="black",
                ms=12,
                zorder=5,
                label=f"chosen ({told['rule']})" if k == 0 else None,
            )
    _stages(ax, found[0][0])
    ax.set_xlim(left=0)
    ax.legend(fontsize=7, loc="best")


def _stages(ax: Axes, run: Run) -> None:
    """Boundaries and names of the stages, from the steps of the first run; names of short stages stand at two
    heights.
    """
    records = run.metrics()
    starts = [k for k in range(len(records)) if not k or records[k].get("stage") != records[k - 1].get("stage")]
    height = 0
    for k, at in enumerate(starts):
        step = records[at]["step"]
        if k:
            ax.axvline(step - 0.5, color=GREY, lw=0.8, ls="--")
            near = step - records[starts[k - 1]]["step"] < 0.2 * len(records)
            height = 1 - height if near else 0
        where: Any = {
            "xycoords": ("data", "axes fraction"),
            "xytext": (1, 2 + 8 * height),
            "textcoords": "offset points",
        }
        ax.annotate(str(records[at].get("stage", "")), (step, 1.0), fontsize=7, color="#505050", **where)


def _tuning_panel(ax: Axes, found: Panel, color: str) -> None:
    told = found[0][1]  # the seeds of a row share their trials
    sound = [t for t in told["trials"] if t["accuracy"] is not None]
    ax.errorbar(
        [t["lr"] for t in sound],
        [100 * t["accuracy"] for t in sound],
        yerr=_errors(sound),
        color=color,
        marker="o",
        ms=4,
        lw=1.2,
        elinewidth=0.9,
        capsize=2,
        label=f"trials, seed {told['seed']}",
    )
    if failed := [t["lr"] for t in told["trials"] if t["accuracy"] is None]:
        ax.plot(failed, [0.0] * len(failed), "x", color=GREY, ms=6, label="diverged")
    best = next(t for t in sound if t["lr"] == told["chosen"])
    ax.plot(
        [best["lr"]],
        [100 * best["accuracy"]],
        "*",
        mfc="white",
        mec="black",
        ms=12,
        zorder=5,
        label=f"chosen: {best['lr']:g}",
    )
    ax.set_xscale("log")
    ax.legend(fontsize=7, loc="best")
