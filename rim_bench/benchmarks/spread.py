"""A number that was measured once a round. No torch."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """A number's values, one a round: a ratio's are the ratios of the pairs."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def __truediv__(self, other: Spread) -> Spread:
        """Pair by pair."""
        return Spread(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def scaled(self, factor: float) -> Spread:
        """All values times a factor."""
        return Spread(tuple(factor * v for v in self.values))

    def data(self) -> dict[str, Any]:
        """As plain data, seven digits."""
        short = [float(f"{v:.7g}") for v in self.values]
        return {"median": statistics.median(short), "low": min(short), "high": max(short), "values": short}
