"""What all pictures share: colours, markers, panels, the stamp, and files whose bytes depend on the runs alone."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rim_bench.evidence.rows import ORDER
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError
from rim_bench.util.files import write_bytes_atomic
from rim_bench.util.progress import phase
from rim_bench.util.table import QUICK
from rim_bench.util.text import escape_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, distinct with every common colour blindness; markers tell them apart in grey.
COLORS = ("#000000", "#E69F00", "#0072B2", "#CC79A7", "#D55E00", "#009E73", "#56B4E9", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.")
STYLE: Any = {
    "font.size": 9, "axes.titlesize": 9.5, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "legend.frameon": False, "svg.hashsalt": "rim-bench", "svg.fonttype": "none", "figure.dpi": 100, "savefig.dpi": 110,
    "font.sans-serif": ["DejaVu Sans"],  # an svg repeats the list with every text
}  # fmt: skip
GREY = "#808080"
FLOOR: Any = {"color": GREY, "lw": 1, "ls": ":"}  # of the line of the floor
SUFFIXES = ("png", "svg", "pdf")


@phase("drawing the picture")
def save(figure: Figure, path: Path) -> None:
    """Writes the picture in the format of the suffix, without date or program version."""
    from matplotlib.text import Text

    kind = path.suffix.lower().removeprefix(".")
    drop = {
        "svg": {"Date": None, "Creator": None},
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    }
    for text in figure.findobj(Text):
        if (safe := escape_plot(text.get_text())) != text.get_text():  # the ticks' own formulas come when it is drawn
            text.set_text(safe)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=drop[kind])
    convert = {"png": _few_colors, "svg": _numbered}.get(kind, bytes)
    write_bytes_atomic(path, convert(buffer.getvalue()))


def _numbered(svg: bytes) -> bytes:
    """The picture with its clip paths numbered: matplotlib names them by sizes whose last digits vary."""
    paths = dict.fromkeys(re.findall(rb'<clipPath id="(p[0-9a-f]{10})">', svg))
    names = {name: b"clip%d" % number for number, name in enumerate(paths)}
    return re.sub(rb"\bp[0-9a-f]{10}\b", lambda m: names.get(m[0], m[0]), svg)


def _few_colors(png: bytes) -> bytes:
    """The picture with 64 colours, more than it needs: a third of the bytes."""
    from PIL import Image

    out = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        few = image.convert("RGB").quantize(64, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(out, "png", optimize=True)
    return out.getvalue()


def check_suffix(path: Path) -> None:
    """Raises UsageError for a picture of another format than .svg, .png or .pdf."""
    if path.suffix.lower().removeprefix(".") not in SUFFIXES:
        raise UsageError(f"picture {str(path)!r} has the suffix {path.suffix!r}: allowed are {', '.join(SUFFIXES)}")


def _place(method: str, others: Sequence[str]) -> int:
    return [*ORDER, *sorted(set(others) - set(ORDER))].index(method)


def color_and_marker(method: str, others: Sequence[str]) -> tuple[str, str]:
    """Colour and marker: fixed for the known methods, then by name. No two of 64 methods have both in common."""
    k = _place(method, others)
    return COLORS[k % len(COLORS)], MARKERS[(k + k // len(COLORS)) % len(MARKERS)]


def line_styles(methods: Sequence[str], others: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Colour, marker and dash of a line for each method: several lines of one have its colour and other dashes, and so
    have methods that share a colour.

    `others`: methods that have a colour beside these.
    """
    out: list[dict[str, Any]] = []
    for k, method in enumerate(methods):
        color, marker = color_and_marker(method, [*methods, *others])
        dash = methods[:k].count(method) + _place(method, [*methods, *others]) // len(COLORS)
        out.append({"color": color, "marker": marker, "ls": DASHES[dash % len(DASHES)]})
    return out


def stamp_quick(figure: Figure, quick: bool) -> None:
    """Writes across the figure that it is no result."""
    if quick:
        look: Any = {"fontsize": 26, "color": "#C00000", "alpha": 0.3, "rotation": 18, "zorder": 10}
        figure.text(0.5, 0.5, QUICK, ha="center", va="center", **look)


def seeds_text(seeds: Sequence[int]) -> str:
    """ "seed 0", "seeds 0, 1"; "nothing trained" without any."""
    if not seeds:
        return "nothing trained"
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


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
    methods = {label: runs[0][0].spec.method.name for label, runs in panels.items()}
    labels = sorted(panels, key=lambda label: (rank.get(methods[label], len(ORDER)), label))
    columns = 1 if len(labels) == 1 else 2
    rows = math.ceil(len(labels) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, heights[0] + heights[1] * rows), layout="constrained")
        places = list(figure.subplots(rows, columns, squeeze=False).flat)
        for ax, label in zip(places, labels, strict=False):
            draw(ax, panels[label], color_and_marker(methods[label], list(methods.values()))[0], label)
        for ax in places[len(labels) :]:
            ax.set_axis_off()
        figure.supxlabel(axes[0], fontsize=9)
        figure.supylabel(axes[1], fontsize=9)
        stamp_quick(figure, any(run.spec.quick for runs in panels.values() for run, _ in runs))
        save(figure, path)


def panel_name(run: Run) -> str:
    """Method, start and task of a run."""
    label, start = run.spec.method.title, run.spec.start
    if start not in (None, "recipe") and "(from" not in label:
        label += f" (from {start})"
    return f"{label}, {run.spec.task.name}"
