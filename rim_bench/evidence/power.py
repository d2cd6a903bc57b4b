"""What a paired comparison of two accuracies on n items can show, before anything is trained."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from rim_bench.evidence.stats import tests
from rim_bench.util.errors import UsageError
from rim_bench.util.table import Table

DISCORDANCES = (0.05, 0.1, 0.2, 0.3, 0.4)


@dataclass(frozen=True)
class GateRates:
    """What the accuracy gate does at a margin; probabilities."""

    false_alarm: float  # regressed, though nothing changed
    clear: float  # holds, where nothing changed: it is decisive
    passed: float  # holds, at a true loss of exactly the margin
    caught: float  # regressed, at a true loss of exactly the margin
    caught_twice: float | None  # regressed, at twice the margin; None where the discordance does not allow so much


@dataclass(frozen=True)
class Line:
    """One discordance; fractions. None where n or a difference is missing, or the discordance allows no such
    difference.
    """

    discordance: float
    detectable: float | None
    power: float | None  # by the formula behind `detectable`
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
    lines: tuple[Line, ...]

    def data(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {"schema": 1, **asdict(self)}

    def table(self) -> Table:
        """A row for each discordance."""
        head = f"McNemar's test on {self.n:,} items" if self.n is not None else "McNemar's test"
        notes = ["Discordance: share of items that exactly one of the two systems solves."]
        if self.n is not None:
            notes.append(f"Detectable: smallest true difference that is found with {100 * self.power:g} % power.")
        if self.margin is not None:
            notes.append(
                f"Gate: `rim-bench check --margin {self.margin:g}`, exact. False alarm: regressed though nothing "
                "changed. Decisive: holds where nothing changed. Passed and caught: holds and regressed at a true loss "
                "of the margin; caught at twice the margin."
            )
        columns, data = self._columns(), self.data()
        return Table.of_rows(
            f"{head}, two-sided level {self.alpha:g}",
            tuple(columns),
            [[cell(line) for cell in columns.values()] for line in self.lines],
            align="r" * len(columns),
            notes=notes,
            records=data["lines"],
            document=data,
        )

    def _columns(self) -> dict[str, Any]:
        columns: dict[str, Any] = {"discordance": lambda line: f"{100 * line.discordance:g} %"}
        if self.n is not None:
            columns["detectable, points"] = lambda line: _points(line.detectable)
        if self.difference is not None:
            if self.n is not None:
                columns[f"power at {self.difference:g} points"] = lambda line: _share(line.power)
                columns["exact test"] = lambda line: _share(line.exact_power)
            columns[f"items for {self.difference:g} points"] = lambda line: (
                "-" if line.items is None else f"{line.items:,}"
            )
        if self.margin is not None:
            for name, field in (
                ("false alarm", "false_alarm"),
                ("decisive", "clear"),
                ("passed", "passed"),
                ("caught", "caught"),
            ):
                columns[f"gate: {name}"] = lambda line, field=field: _share(line.gate and getattr(line.gate, field))
            columns["caught at twice"] = lambda line: _share(line.gate and line.gate.caught_twice)
        return columns


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


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
    if discordance is not None and not 0 < discordance <= 1:
        raise UsageError(f"--discordance {discordance:g} must be a share above 0 and up to 1, as in --discordance 0.2")
    for flag, value in (("--difference", difference), ("--margin", margin)):
        if value is not None and not (math.isfinite(value) and 0 < value < 100):
            raise UsageError(f"{flag} {value:g} must lie between 0 and 100: it is in points")
    for flag, value in (("--power", power), ("--alpha", alpha)):
        if not 0 < value < 1:
            raise UsageError(f"{flag} {value:g} must lie between 0 and 1")
    if discordance is not None and difference is not None and difference / 100 > discordance:
        raise UsageError(
            f"a difference of {difference:g} points needs a discordance of at least {difference / 100:g}, not "
            f"{discordance:g}"
        )
    shares = DISCORDANCES if discordance is None else (discordance,)
    size = None if difference is None else difference / 100
    lines = tuple(_line(n, psi, size, power, alpha, None if margin is None else margin / 100) for psi in shares)
    return PowerPlan(n, difference, power, alpha, margin, lines)


def _line(n: int | None, psi: float, size: float | None, power: float, alpha: float, margin: float | None) -> Line:
    detectable = None if n is None else tests.detectable_difference(n, psi, power, alpha)
    found = exact = items = None
    if size is not None and size <= psi:
        items = tests.items_needed(psi, size, power, alpha)
        if n is not None:
            found, exact = tests.power_of(n, psi, size, alpha), _exact(n, psi, size, alpha)
    return Line(
        psi,
        detectable,
        found,
        exact,
        items,
        None if n is None or margin is None or margin > psi else _gate(n, psi, margin),
    )


def _exact(n: int, psi: float, size: float, alpha: float) -> float | None:
    """None where the outcomes are too many to add up, and the formula is exact enough."""
    return tests.exact_power(n, psi, size, alpha) if n <= 20_000 else None


def _gate(n: int, psi: float, margin: float) -> GateRates | None:
    from rim_bench.evidence.gate import operating

    if n > 20_000:
        return None
    none, once = operating(n, psi, 0.0, margin), operating(n, psi, margin, margin)
    twice = operating(n, psi, 2 * margin, margin)["regressed"] if 2 * margin <= psi else None
    return GateRates(none["regressed"], none["holds"], once["holds"], once["regressed"], twice)
