"""The picture of interventions: what the donor's activations cost, layer by segment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rim_bench.evidence.interventions import Cell, Family
from rim_bench.report.interventions import heading
from rim_bench.report.plots.style import STYLE, check_suffix, save, stamp_quick
from rim_bench.storage.interventions import KEYS_AND_VALUES, RESIDUAL
from rim_bench.util.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SITES = {
    KEYS_AND_VALUES: "keys and values that the answer sees",
    RESIDUAL: "residual stream (later layers and segments follow)",
}


def heat_map(family: Family, path: Path) -> None:
    """Saves a picture of two maps, the fall of the lead over the donor's answer and the loss of accuracy, by site.

    A frame marks cells whose bounds, which hold for all cells of a map together, exclude 0.

    Raises:
        UsageError: another suffix, a path that cannot be written, or a suite without single layers and segments.
    """
    check_suffix(path)
    if not family.cells:
        raise UsageError(
            f"{heading(family)}: no map can be drawn, as no single layers and segments were exchanged "
            "(--verdict-only, or one segment)"
        )
    import matplotlib as mpl
    from matplotlib.figure import Figure

    sites = [site for site in SITES if any(c.site == site for c in family.cells)]
    segments = list(dict.fromkeys(c.segment for c in family.cells))
    layers = sorted({c.layer for c in family.cells})
    width, height = 1.8 + 0.62 * len(segments) * len(sites), 1.6 + 2 * (0.34 * len(layers) + 0.75)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(7.6, width), height), layout="constrained")
        places = figure.subplots(2, len(sites), squeeze=False)
        for row, (words, unit) in enumerate((("fall of the lead", "nats"), ("loss of accuracy", "points"))):
            drawn = [[c for c in family.cells if c.site == site] for site in sites]
            values = [_shown(c, row)[0] for cells in drawn for c in cells]
            most = max(1e-9, *map(abs, values))
            for ax, site, cells in zip(places[row], sites, drawn, strict=True):
                image = _panel(ax, cells, segments, layers, row, most)
                ax.set_title(SITES[site] if row == 0 else "", loc="left")
            figure.colorbar(image, ax=list(places[row]), label=f"{words} ({unit})", shrink=0.9)
        figure.suptitle(f"{heading(family)}: another question's activations, layer by segment", fontsize=9.5)
        stamp_quick(figure, any(suite.summary.quick for suite in family.suites))
        save(figure, path)


def _shown(cell: Cell, row: int) -> tuple[float, bool]:
    """The number of a cell, and whether its bounds exclude 0."""
    estimate, scale = (cell.lead, 1.0) if row == 0 else (cell.loss, 100.0)
    low, high = estimate.interval
    return scale * estimate.value, abs(estimate.value) > 1e-6 and (low > 0 or high < 0)


def _panel(ax: Axes, cells: list[Cell], segments: list[str], layers: list[int], row: int, most: float) -> Any:
    """One map; returns what its colours are of."""
    import matplotlib as mpl
    import numpy as np
    from matplotlib.patches import Rectangle

    grid = np.full((len(layers), len(segments)), np.nan)
    colors = mpl.colormaps["RdBu_r"].resampled(17)  # a png keeps few
    image = ax.imshow(grid, cmap=colors, vmin=-most, vmax=most, aspect="auto", origin="lower")
    for cell in cells:
        x, y = segments.index(cell.segment), layers.index(cell.layer)
        value, clear = _shown(cell, row)
        grid[y, x] = value
        color = "white" if abs(value) > 0.6 * most else "black"
        shown = f"{value + 0:.2f}" if row == 0 else f"{value + 0:.1f}"
        ax.text(x, y, shown, ha="center", va="center", fontsize=7, color=color)
        if clear:
            ax.add_patch(Rectangle((x - 0.46, y - 0.42), 0.92, 0.84, fill=False, ec="black", lw=1.2))
    image.set_data(grid)
    ax.set_xticks(range(len(segments)), segments, rotation=45 if len(segments) > 6 else 0, fontsize=7)
    ax.set_yticks(range(len(layers)), [f"layer {layer}" for layer in layers], fontsize=7)
    return image
