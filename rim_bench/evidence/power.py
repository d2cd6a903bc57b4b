"""What a paired comparison of two accuracies on n items can show, before anything is trained."""

from __future__ import annotations

import bisect
import math
from dataclasses import asdict, dataclass
from typing import Any

from rim_bench.evidence.gate import POWER, operating
from rim_bench.evidence.stats import tests
from rim_bench.util.errors import UsageError
from rim_bench.util.progress import phase

DISCORDANCES = (0.05, 0.1, 0.2, 0.3, 0.4)
MOST = 20_000  # with more items the outcomes are too many to add up, and the formula is exact enough
LEAST = 1e-6  # of a share, a power or a level


@dataclass(frozen=True)
class GateRates:
    """What the accuracy gate does at a margin; probabilities."""

    false_alarm: float  # regressed, though nothing changed
    clear: float  # holds, where nothing changed: it is decisive
    passed: float  # holds, at a true loss of exactly the margin
    caught: float  # regressed, at a true loss of exactly the margin
    caught_twice: float | None  # regressed, at twice the margin; None where the discordance does not allow so much

    @staticmethod
    def of(n: int, discordance: float, margin: float) -> GateRates:
        """By `gate.operating`."""
        unchanged, at_margin = (operating(n, discordance, loss, margin) for loss in (0.0, margin))
        at_twice = operating(n, discordance, 2 * margin, margin) if 2 * margin <= discordance else None
        caught_twice = None if at_twice is None else at_twice["regressed"]
        rates = (unchanged["regressed"], unchanged["holds"], at_margin["holds"], at_margin["regressed"])
        return GateRates(*rates, caught_twice)


@dataclass(frozen=True)
class Foresight:
    """What a gate will say of evaluations in which nothing changed but the answers that change from one to the next."""

    n: int
    discordance: float  # share of the items whose answer changed between right and wrong in a repeat
    margin: float | None  # in points; None: none was named
    holds: float | None  # probability at that margin
    underpowered: float | None  # the same of the other harmless verdict
    smallest: float | None  # margin in points, in steps of 0.1, that n items hold with 80 %
    items: int | None  # that hold that margin with 80 %; None where n does, or none was named

    @staticmethod
    def of(n: int, changed: int, margin: float | None) -> Foresight:
        """From the answers that changed in a repeat; `margin` in points.

        The smallest margin is searched as if more of it always held more often, which is so but for whole items.
        """
        psi = changed / n
        if n > MOST:
            return Foresight(n, psi, margin, None, None, None, None)

        def holds(points: float, items: int = n) -> float:
            return operating(items, psi, 0.0, points / 100)["holds"]

        steps = range(1, 1000)
        smallest = steps[bisect.bisect_left(steps, POWER, key=lambda k: holds(k / 10))] / 10
        if margin is None:
            return Foresight(n, psi, None, None, None, smallest, None)
        items, at_margin = n, operating(n, psi, 0.0, margin / 100)
        while items <= MOST and holds(margin, items) < POWER:
            items = math.ceil(1.05 * items)
        shares = (at_margin["holds"], at_margin["underpowered"])
        return Foresight(n, psi, margin, *shares, smallest, items if n < items <= MOST else None)


@dataclass(frozen=True)
class PowerLine:
    """One discordance; fractions. None where n or a difference is missing, or the discordance allows no such one."""

    discordance: float
    detectable: float | None
    power: float | None  # by the formula of `detectable`
    exact_power: float | None  # of the exact test
    items: int | None
    gate: GateRates | None


@dataclass(frozen=True)
class PowerPlan:
    """The answer to `rim-bench power`; `difference` and `margin` in points."""

    n: int | None
    difference: float | None
    power: float
    alpha: float
    margin: float | None
    lines: tuple[PowerLine, ...]

    def data(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {"schema": 1, **asdict(self)}


@phase("adding up the outcomes")
def plan_power(
    n: int | None,
    discordance: float | None = None,
    difference: float | None = None,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    margin: float | None = None,
) -> PowerPlan:
    """A line for the discordance, or for several where none is given. `difference` and `margin` in points.

    Raises:
        UsageError: numbers that describe no comparison, or neither n nor a difference.
    """
    if n is None and difference is None:
        raise UsageError("give --n for what so many items can show, or --difference for how many items it takes")
    if n is None and margin is not None:
        raise UsageError("--margin needs --n: what the gate does depends on how many items there are")
    if n is not None and not 1 <= n <= 10_000_000:
        raise UsageError(f"--n {n} must lie between 1 and 10,000,000")
    if discordance is not None and not LEAST <= discordance <= 1:
        raise UsageError(f"--discordance {discordance:g} must be a share from {LEAST:g} to 1, as in --discordance 0.2")
    for flag, value in (("--difference", difference), ("--margin", margin)):
        if value is not None and not 100 * LEAST <= value < 100:
            raise UsageError(f"{flag} {value:g} must lie between {100 * LEAST:g} and 100: it is in points")
    for flag, value in (("--power", power), ("--alpha", alpha)):
        if not LEAST <= value <= 1 - LEAST:
            raise UsageError(f"{flag} {value:g} must lie between {LEAST:g} and 1 - {LEAST:g}")
    if discordance is not None and difference is not None and difference / 100 > discordance:
        raise UsageError(
            f"a difference of {difference:g} points needs a discordance of at least {difference / 100:g}, not "
            f"{discordance:g}"
        )
    lines = []
    for psi in DISCORDANCES if discordance is None else (discordance,):
        by_formula = exact = items = gate = None
        detectable = None if n is None else tests.detectable_difference(n, psi, power, alpha)
        if difference is not None and difference / 100 <= psi:
            items = tests.items_needed(psi, difference / 100, power, alpha)
            if n is not None:
                by_formula = tests.power_of(n, psi, difference / 100, alpha)
                exact = tests.exact_power(n, psi, difference / 100, alpha) if n <= MOST else None
        if n is not None and n <= MOST and margin is not None and margin / 100 <= psi:
            gate = GateRates.of(n, psi, margin / 100)
        lines.append(PowerLine(psi, detectable, by_formula, exact, items, gate))
    return PowerPlan(n, difference, power, alpha, margin, tuple(lines))
