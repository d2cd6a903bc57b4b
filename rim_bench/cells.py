"""Numbers as the text of a table's cells. Knows nothing of runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rim_bench.stats import Interval

if TYPE_CHECKING:
    from rim_bench.compare import Accuracy


def num(value: float | None, digits: int = 1, scale: float = 1.0) -> str:
    """`value` times `scale` with so many decimals; "-" where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value * scale:,.{digits}f}"


def pct(value: float | None) -> str:
    """A fraction in per cent, one decimal."""
    return num(value, 1, 100)


def flops(value: float | None) -> str:
    """FLOPs with three digits and a unit: "3.1 T"."""
    if value is None or math.isnan(value):
        return "-"
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def memory(value: float | None) -> str:
    """Bytes with three digits and a unit of 1,000: "74.8 MB"."""
    text = flops(value)
    return text if text == "-" else f"{text}B" if " " in text else f"{text} B"


def amount(value: float | None, scale: float = 1.0) -> str:
    """One decimal, and never 0.0 for what is more than nothing."""
    return "<0.1" if value is not None and 0 < value * scale < 0.1 else num(value, 1, scale)


def points(value: float) -> str:
    """A difference of fractions in points, with its sign."""
    return f"{round(100 * value, 1) + 0.0:+.1f}"  # + 0.0: no minus before a zero


def p_value(value: float) -> str:
    """Three decimals, "<0.001" under them."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def interval(bounds: Interval) -> str:
    """Bounds in per cent."""
    return f"[{pct(bounds.low)}, {pct(bounds.high)}]"


def accuracy(a: Accuracy, floor: bool = False) -> str:
    """Value, spread over seeds where there are several, interval, and whether that includes the floor."""
    sd = "" if math.isnan(a.sd) else f" ± {pct(a.sd)}"
    return f"{pct(a.value)}{sd} {interval(a.interval)}" + (" at the floor" if floor else "")
