"""Pictures of what was chosen on validation data: checkpoints in the course of training, and learning rates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rim_bench.evidence.stats.intervals import wilson
from rim_bench.report.plots.style import DASHES, GREY, check_suffix, panel_figure, panel_name
from rim_bench.storage.records import ChosenRecord, SelectionRecord, TrainingRecord, TuningRecord
from rim_bench.storage.run_folder import Run
from rim_bench.storage.selection import SPLITS
from rim_bench.util.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Part = TypeVar("Part", SelectionRecord, TuningRecord)
STAR: Any = {"mfc": "white", "mec": "black", "ms": 12, "zorder": 5}


def selection_plot(runs: Iterable[Run], path: Path) -> None:
    """Saves validation accuracy over optimizer steps with Wilson 95 % intervals to `path`: a panel per method, a line
    per seed, the boundaries of the stages; the chosen checkpoint is a star.

    Raises:
        UsageError: another suffix, a path that cannot be written, or no run that was looked at while it trained.
    """
    hint = (
        "no run here was looked at while it trained: give `rim-bench run` --checkpoint best, or --checkpoint-points 8"
    )
    _plot(runs, path, lambda t: t.selection, hint, _selection_panel, "optimizer step")


def tuning_plot(runs: Iterable[Run], path: Path) -> None:
    """Saves validation accuracy of every trial over its learning rate with Wilson 95 % intervals to `path`: a panel per
    method; the chosen rate is a star.

    Raises:
        UsageError: another suffix, a path that cannot be written, or no run whose rate was tuned.
    """
    hint = "no run here was tuned: give `rim-bench run` --tune lr=1e-5..1e-3"
    _plot(runs, path, lambda t: t.tuning, hint, _tuning_panel, "learning rate")


def _plot(
    runs: Iterable[Run],
    path: Path,
    pick: Callable[[TrainingRecord], Part | None],
    hint: str,
    draw: Callable[[Axes, Sequence[tuple[Run, Part]], str], None],
    x: str,
) -> None:
    """Draws a part of the training record of the runs that have it, by method, start and task."""
    panels: dict[str, list[tuple[Run, Part]]] = {}
    for run in sorted(runs, key=lambda r: (r.spec.seed, r.id)):
        if (part := pick(run.training() or TrainingRecord())) is not None:
            panels.setdefault(panel_name(run), []).append((run, part))
    if not panels:
        raise UsageError(f"there is nothing to plot: {hint}")
    check_suffix(path)

    def fill(ax: Axes, drawn: Sequence[tuple[Run, Part]], color: str, label: str) -> None:
        draw(ax, drawn, color)
        ax.set_title(label, loc="left", pad=20)
        ax.grid(color="#E0E0E0", lw=0.5)
        ax.set_ylim(0, 103)

    panel_figure(panels, path, fill, axes=(x, "validation accuracy, % (Wilson 95 %)"), heights=(0.5, 2.3))


def _errors(shares: Sequence[tuple[float, int]]) -> list[list[float]]:
    """Distances to both ends of the intervals, in points."""
    bounds = [wilson(round(share * n), n) for share, n in shares]
    low = [100 * max(0.0, share - b.low) for (share, _), b in zip(shares, bounds, strict=True)]
    return [low, [100 * max(0.0, b.high - share) for (share, _), b in zip(shares, bounds, strict=True)]]


def _selection_panel(ax: Axes, drawn: Sequence[tuple[Run, SelectionRecord]], color: str) -> None:
    bars: Any = {"color": color, "lw": 1.2, "elinewidth": 0.7, "capsize": 1.5}
    for k, (run, selection) in enumerate(drawn):
        seen = selection.seen
        shares = [(r.accuracy, r.n) for r in seen]
        xs, ys = [r.step for r in seen], [100 * r.accuracy for r in seen]
        name = f"seed {run.spec.seed}" + (", chosen on test items" if selection.rule == SPLITS else "")
        ax.errorbar(xs, ys, yerr=_errors(shares), ls=DASHES[k % len(DASHES)], label=name, **bars)
        taken = [r for r in seen if r.candidate]
        ax.plot([r.step for r in taken], [100 * r.accuracy for r in taken], "o", color=color, ms=3.5)
        chosen = selection.chosen or ChosenRecord()
        if chosen.step is not None and chosen.accuracy is not None:
            label = f"chosen ({selection.rule})" if k == 0 else None
            ax.plot([chosen.step], [100 * chosen.accuracy], "*", label=label, **STAR)
    _stages(ax, drawn[0][0])
    ax.set_xlim(left=0)
    ax.legend(fontsize=7, loc="best")


def _stages(ax: Axes, run: Run) -> None:
    """Boundaries and names of a run's stages; names of short stages stand at two heights."""
    records = run.metrics()
    starts = [k for k in range(len(records)) if not k or records[k].get("stage") != records[k - 1].get("stage")]
    where: Any = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    height = 0
    for k, at in enumerate(starts):
        step = records[at]["step"]
        if k:
            ax.axvline(step - 0.5, color=GREY, lw=0.8, ls="--")
            near = step - records[starts[k - 1]]["step"] < 0.2 * len(records)
            height = 1 - height if near else 0
        name = str(records[at].get("stage", ""))
        ax.annotate(name, (step, 1.0), xytext=(1, 2 + 8 * height), fontsize=7, color="#505050", **where)


def _tuning_panel(ax: Axes, drawn: Sequence[tuple[Run, TuningRecord]], color: str) -> None:
    tuning = drawn[0][1]  # the seeds of a row share their trials
    sound = [(t.lr, t.accuracy, t.n or 0) for t in tuning.trials if t.accuracy is not None]
    rates, accuracies = [lr for lr, *_ in sound], [100 * share for _, share, _ in sound]
    bars: Any = {"color": color, "marker": "o", "ms": 4, "lw": 1.2, "elinewidth": 0.9, "capsize": 2}
    ax.errorbar(
        rates,
        accuracies,
        yerr=_errors([(share, n) for _, share, n in sound]),
        label=f"trials, seed {', '.join(map(str, tuning.seeds or (tuning.seed,)))}",
        **(bars if tuning.field == "lr" and not tuning.seeds else bars | {"ls": "none"}),  # else no line joins them
    )
    if failed := [t.lr for t in tuning.trials if t.accuracy is None]:
        ax.plot(failed, [0.0] * len(failed), "x", color=GREY, ms=6, label="diverged")
    won = [t.accuracy for t in tuning.trials if t.lr == tuning.chosen and t.values == tuning.values and t.accuracy]
    best = sum(won) / len(won) if won else 0.0
    ax.plot([tuning.chosen], [100 * best], "*", label=f"chosen: {tuning.chosen:g}", **STAR)
    ax.set_xscale("log")
    ax.legend(fontsize=7, loc="best")
