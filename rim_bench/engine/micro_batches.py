"""How the rows of one optimizer step are cut into micro-batches:
as little padding as the price of a further pass allows. No torch.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

from rim_bench.methods.layout import Layout

PASS = {"cpu": 48, "cuda": 4096}
"""What starting one forward and backward pass costs, in columns that could be computed in that time.

Fitted on CPU cores, seconds = a + b * columns: a / b is 34 columns at 6 layers of 256, 50 at 4 layers of 128, 75 at 2
layers of 64. A GPU
waits for its launches: a batch that fits in memory is best taken whole there, unless its rows differ a great deal.
"""
WIDE = 256
ENOUGH = {"cpu": 1024}
"""Columns in one pass, at a width of `WIDE` and beyond, with which a CPU's matrix products are at their peak: more only
take memory.

A narrower model gets as many more: its columns are smaller, and so are its products. A GPU is never full.
"""
HELD = 8
"""A further pass keeps a copy of all keys and values so far for its backward:
an eighth of what their columns keep in a layer.
"""


def micro_batches(layouts: Sequence[Layout], most: int, device: str, width: int = WIDE) -> list[list[Layout]]:
    """The rows, sorted by size, cut where the executed columns of all passes and the price of the passes are least
    together.

    The rows of a step stay the step's: their gradients add up to the same sum however they are cut (to rounding;
    dropout draws other masks). Deterministic: the same rows give the same cut, in whatever order they come and at
    whatever speed the machine runs.

    Args:
        layouts: the rows of one optimizer step; at least one.
        most: rows that a micro-batch may have at most.
        device: "cpu", "cuda", ...: what a further pass costs there; other devices are taken as a GPU.
        width: the model's hidden size.
    """
    rows = sorted(layouts, key=lambda row: row.size)
    widths = [_widths(row) for row in rows]
    price, enough = PASS.get(device, PASS["cuda"]), ENOUGH.get(device, math.inf) * max(1.0, WIDE / width)
    best = [0.0] + [math.inf] * len(rows)  # of the first n rows
    cut = [0] * (len(rows) + 1)  # where the last of their micro-batches begins
    for end in range(1, len(rows) + 1):
        widest: list[int] = []
        for start in range(end - 1, max(0, end - most) - 1, -1):
            widest = _wider(widest, widths[start])
            if end - start > 1 and (end - start) * _memory(widest) > enough:
                break
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
    if row.passes == 1:
        return [row.size]
    counts = Counter(row.pass_of)
    return [counts[w] for w in range(row.passes)]


def _memory(widths: list[int]) -> float:
    """What the passes over a row keep for the backward pass, in columns."""
    seen = list(itertools.accumulate(widths))
    return seen[-1] + sum(seen[1:]) / HELD


def _wider(a: list[int], b: list[int]) -> list[int]:
    """Columns of each pass where both run side by side."""
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    return [max(x, y) for x, y in zip(longer, shorter, strict=False)] + longer[len(shorter) :]
