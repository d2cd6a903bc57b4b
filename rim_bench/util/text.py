"""Numbers as the text of a table's cells. Knows nothing of runs.

Records as words: backbones, hashes, nested settings. Knows nothing of runs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rim_bench.evidence.rows import Accuracy
import re
from collections.abc import Mapping
from typing import Any


def format_number(value: float | None, digits: int = 1, scale: float = 1.0) -> str:
    """`value` times `scale` with so many decimals; "-" where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value * scale:,.{digits}f}"


def format_percent(value: float | None) -> str:
    """A fraction in per cent, one decimal."""
    return format_number(value, 1, 100)


def format_flops(value: float | None) -> str:
    """FLOPs with three digits and a unit: "3.1 T"."""
    if value is None or math.isnan(value):
        return "-"
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def format_bytes(value: float | None) -> str:
    """Bytes with three digits and a unit of 1,000: "74.8 MB"."""
    text = format_flops(value)
    return text if text == "-" else f"{text}B" if " " in text else f"{text} B"


def format_amount(value: float | None, scale: float = 1.0) -> str:
    """One decimal, and never 0.0 for what is more than nothing."""
    return "<0.1" if value is not None and 0 < value * scale < 0.1 else format_number(value, 1, scale)


def format_points(value: float) -> str:
    """A difference of fractions in points, with its sign."""
    return f"{round(100 * value, 1) + 0.0:+.1f}"  # + 0.0: no minus before a zero


def format_p(value: float) -> str:
    """Three decimals, "<0.001" under them."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def format_interval(low: float, high: float) -> str:
    """Bounds in per cent."""
    return f"[{format_percent(low)}, {format_percent(high)}]"


def format_accuracy(a: Accuracy, floor: bool = False) -> str:
    """Value, spread over seeds where there are several, interval, and whether that includes the floor."""
    sd = "" if math.isnan(a.sd) else f" ± {format_percent(a.sd)}"
    return f"{format_percent(a.value)}{sd} {format_interval(a.interval.low, a.interval.high)}" + (
        " at the floor" if floor else ""
    )


def model_label(setting: Mapping[str, Any]) -> str:
    """The model of a benchmark's setting: name, size, parameters."""
    backbone = setting["backbone"]
    size = f", {backbone['layers']} x {backbone['width']}" if "layers" in backbone else ""
    return f"{backbone['name']}{size} ({setting['parameters'] / 1e6:.1f} M)"


def machine_label(machine: Mapping[str, Any]) -> str:
    """Where a benchmark ran: its GPU, or processor and threads."""
    threads = machine["threads"]
    cpu = f"{machine['cpu']['model']}, {threads} thread{'s' if threads > 1 else ''}"
    return str(machine["gpu"]["name"]) if machine["gpu"] else cpu


def short(value: Any) -> str:
    """A value as text, hashes cut to 12 digits."""
    return str(value)[:12] if re.fullmatch("[0-9a-f]{40,}", str(value)) else str(value)


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {
        k: v
        for name, inner in value.items()
        for k, v in leaves(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key: T=2 before T=10; equal for equal texts only."""
    return tuple((0, int(p), p) if p.isascii() and p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", text) if p)
