"""How the rows of one optimizer step are cut into micro-batches: as little padding as the price of a further pass allows. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rim_bench.layout import Layout

PASS = {"cpu": 48, "cuda": 4096}
"""What starting one forward and backward pass costs, in columns that could be computed in that time.

Fitted on CPU cores, seconds = a + b * columns: a / b is 34 columns at 6 layers of 256, 50 at 4 layers of 128, 75 at 2 layers of 64. A GPU
waits for its launches: a batch that fits in memory is best taken whole there, unless its rows differ a great deal.
"""


def micro_batches(layouts: Sequence[Layout], most: int, device: str) -> list[list[Layout]]:
    """The rows, sorted by size, cut where the executed columns of all passes and the price of the passes are least together.

    The rows of a step stay the step's: their gradients add up to the same sum however they are cut (to rounding; dropout draws other
    masks). Deterministic: the same rows give the same cut, in whatever order they come and at whatever speed the machine runs.

    Args:
        layouts: the rows of one optimizer step; at least one.
        most: rows that a micro-batch may have at most.
        device: "cpu", "cuda", ...: what a further pass costs there; other devices are taken as a GPU.
    """
    rows = sorted(layouts, key=lambda row: row.size)
    widths = [_widths(row) for row in rows]
    price = PASS.get(device, PASS["cuda"])
    best = [0.0] + [float("inf")] * len(rows)  # of the first n rows
    cut = [0] * (len(rows) + 1)  # where the last of their micro-batches begins
    for end in range(1, len(rows) + 1):
        widest: list[int] = []
        for start in range(end - 1, max(0, end - most) - 1, -1):
            widest = _wider(widest, widths[start])
            cost = best[start] + (end - start) * sum(widest) + price * len(widest)
            if cost < best[end]:
                best[end], cut[end] = cost, start
    out: list[list[Layout]] = []
    end = len(rows)
    while end:
        out.append(rows[cut[end] : end])
        end = cut[end]
    return out[::-1]


def _widths(row: Layout) -> list[int]:
    """Columns of each of the row's passes."""
    if row.waves == 1:
        return [row.size]
    counts = Counter(row.wave)
    return [counts[w] for w in range(row.waves)]


def _wider(a: list[int], b: list[int]) -> list[int]:
    """Columns of each pass where both run side by side."""
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    return [max(x, y) for x, y in zip(longer, shorter, strict=False)] + longer[len(shorter) :]
