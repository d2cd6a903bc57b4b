"""Rows of an optimizer step as micro-batches, with as little padding as the price of a pass allows. No torch."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

from rim_bench.methods.layout import Layout

PASS = {"cpu": 48, "cuda": 4096}
"""What starting one forward and backward pass costs, in columns that could be computed in that time.

Fitted on CPU cores, seconds = a + b * columns: a / b is 34 columns at 6 layers of 256, 50 at 4 layers of 128, 75 at 2
layers of 64. A GPU waits for its launches: a batch that fits in memory is best taken whole there, unless its rows
differ a great deal.
"""
WIDE = 256
ENOUGH = {"cpu": 1024}
"""Columns in one pass at which a CPU's matrix products peak, from a width of `WIDE` on: more only take memory.

A narrower model gets as many more: its columns are smaller, and so are its products. A GPU is never full.
"""
HELD = 8  # a further pass keeps all keys and values so far for its backward: an eighth of what their columns keep


def micro_batches(layouts: Sequence[Layout], most: int, device: str, width: int = WIDE) -> list[list[Layout]]:
    """The rows, sorted by size, cut where the executed columns and the price of all passes are least together.

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
    widths = [[row.size] if row.passes == 1 else [n for _, n in sorted(Counter(row.pass_of).items())] for row in rows]
    price, enough = PASS.get(device, PASS["cuda"]), ENOUGH.get(device, math.inf) * max(1.0, WIDE / width)
    best = [0.0] + [math.inf] * len(rows)  # of the first n rows
    cut = [0] * (len(rows) + 1)  # where the last of their micro-batches begins
    for end in range(1, len(rows) + 1):
        widest: list[int] = []
        for start in range(end - 1, max(0, end - most) - 1, -1):
            widest = [max(pair) for pair in itertools.zip_longest(widest, widths[start], fillvalue=0)]
            seen = list(itertools.accumulate(widest))
            kept = seen[-1] + sum(seen[1:]) / HELD  # for the backward pass, in columns of a row
            if end - start > 1 and (end - start) * kept > enough:
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
