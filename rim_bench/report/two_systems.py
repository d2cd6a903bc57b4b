"""A comparison of two systems for a person, a page and a program."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rim_bench.evidence.pairs import ALONE
from rim_bench.evidence.power import PowerLine, PowerPlan
from rim_bench.evidence.stats.intervals import Interval
from rim_bench.evidence.two_systems import SubsetComparison, SystemComparison
from rim_bench.report.notes import changed_notes, cluster_note
from rim_bench.util.files import Record, canonical
from rim_bench.util.table import QUICK, Table
from rim_bench.util.text import format_number, format_p, format_percent

if TYPE_CHECKING:
    from rich.console import RenderableType


def to_data(made: SystemComparison) -> Record:
    """Everything, for JSON; fractions."""
    named = {
        "schema": 1,
        "first": made.first,
        "second": made.second,
        "baseline": made.baseline,
        "ablation": made.ablation,
    }
    sentence = headline(made)
    told = {"headline": sentence if made.allowed else None, "refused": None if made.allowed else sentence}
    readings = {"readings": [_data(r) for r in made.readings], "against": [_data(r) for r in made.against]}
    return named | told | readings | {"notes": notes(made)}


def to_markdown(made: SystemComparison) -> str:
    """For a page."""
    out = [f"## {made.first} against {made.second}", "", headline(made), ""]
    for readings in _by_pair(made):
        c = readings[0].contrast
        out += [f"### {c.first.label} - {c.second.label}", ""]
        rows = [["", *(_items(r) for r in readings)], ["---"] * (len(readings) + 1), *_rows(readings)]
        out += ["| " + " | ".join(row).replace("<", "&lt;") + " |" for row in rows] + [""]
    return "\n".join([*out, *(f"- {n}" for n in notes(made)), ""])


def to_rich(made: SystemComparison) -> RenderableType:
    """For a terminal."""
    from rich.console import Group as Stack
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    for readings in _by_pair(made):
        c = readings[0].contrast
        table = Table(title=Text(f"{c.first.label} - {c.second.label}"), title_justify="left")
        for name in ("", *(_items(r) for r in readings)):
            table.add_column(Text(name))
        for row in _rows(readings):
            table.add_row(*map(Text, row))
        parts.append(table)
    parts.append(Text(headline(made), style="bold" if made.allowed else "bold red"))
    return Stack(*parts, *(Text(f"- {n}") for n in notes(made)))


def headline(made: SystemComparison) -> str:
    """The difference in one sentence, or why it is refused."""
    beside = made.beside_baseline
    gains = [f"{100 * r.contrast.value:+.1f} points, {r.verdict.text()}" for r in beside]
    if made.whole is None:
        texts = [f"{r.contrast.first.label} {gain}" for r, gain in zip(beside, gains, strict=True)]
        return _sentence(made.readings[0]) + (f" Against {made.baseline}: {'; '.join(texts)}." if texts else "")
    arm, gain = made.rows[made.whole].label, gains[made.whole]
    if not made.allowed:
        return (
            f"Refused as a headline: an ablation of one trained model, whose arm {arm} does not beat the separately "
            f"trained {made.baseline} ({gain}). It shows that the model depends on what was taken away, not that this "
            "helps."
        )
    return (
        f"{_sentence(made.readings[0])} An ablation of one trained model; {arm} beats the separately trained "
        f"{made.baseline} ({gain})."
    )


def _sentence(reading: SubsetComparison) -> str:
    """What is said of the difference on its own."""
    first, second, m = reading.contrast.first, reading.contrast.second, reading.margin
    size, points = 100 * reading.contrast.value, f"{100 * m.value:g} point" + ("s" if m.value != 0.01 else "")
    where = "" if reading.scope.name == "all" else f" ({reading.scope.name})"
    if reading.higher is not None:
        other = second if reading.higher is first else first
        text = f"{reading.higher.label} is more accurate than {other.label} by {abs(size):.1f} points{where}"
        text += f" ({ALONE}: not after Holm over the seeds' p)" if reading.verdict.only_alone else ""
    else:
        text = f"{first.label} and {second.label} are {reading.verdict.text()}{where}: {size:+.1f} points"
    if m.equivalent:
        return f"{text}; equivalent within {points}."
    if reading.higher is not None:
        return f"{text}."
    if m.noninferior:
        return f"{text}; {first.label} is not inferior by {points} or more."
    return f"{text}; not shown to be as good within {points}."


def notes(made: SystemComparison) -> list[str]:
    """What a reader must know of the systems, and how the numbers are made."""
    main, seeds = made.readings[0].contrast, [len(r.parts) for r in made.rows[:2]]
    out = [f"{QUICK}: {r.label}" for r in made.rows if r.quick] + [*changed_notes(made.rows)]
    if len({canonical(r.first.spec.get("backbone")) for r in made.rows}) > 1:
        out.append("Other backbones: the difference is not that of the methods alone.")
    if len({r.first.settings.get("dtype") for r in made.rows} | {None}) > 2:
        out.append("Evaluated in other number types.")
    if max(seeds) == 1:
        out.append("One training seed each: it says nothing of retraining, only of these trained models.")
    else:
        out.append(
            f"Seeds: {seeds[0]} and {seeds[1]}; p is over questions, the retraining bound and the margin over seeds, "
            "too."
        )
    if main.clusters is not None:
        out.append(cluster_note(len(main.difference), len(set(main.clusters))))
    drawn = "items" if main.clusters is None else "sources"
    out.append(
        f"Intervals are 95 %; Holm over {made.tests} tests; the bootstrap resamples seeds and {drawn}; detectable is "
        "at 80 % power."
    )
    if main.detectable is None:
        out.append("No item is discordant: nothing can be said of how small a difference would have been found.")
    return out


def _by_pair(made: SystemComparison) -> list[list[SubsetComparison]]:
    """The readings of each pair together: one for each set of items."""
    pairs: dict[tuple[str, str], list[SubsetComparison]] = {}
    for r in (*made.readings, *made.against):
        pairs.setdefault((r.contrast.first.label, r.contrast.second.label), []).append(r)
    return list(pairs.values())


def _items(reading: SubsetComparison) -> str:
    return f"{reading.scope.name}, {len(reading.scope.ids):,} items"


def _rows(readings: Sequence[SubsetComparison]) -> list[list[str]]:
    """A row for each quantity: its name, then its value for each set of items, "-" where there is none."""
    columns = [dict(_lines(r)) for r in readings]
    names = max(columns, key=len)
    return [[name, *(column.get(name, "-") for column in columns)] for name in names]


def _lines(reading: SubsetComparison) -> list[tuple[str, str]]:
    """Names and values for a person; per cent and points."""
    c, m = reading.contrast, reading.margin
    out = []
    for side, accuracy in zip((c.first, c.second), reading.accuracies, strict=True):
        spread = "" if math.isnan(accuracy.sd) else f", sd over {len(side.solved)} seeds {100 * accuracy.sd:.1f}"
        text = f"{100 * accuracy.value:.1f} % {_bounds(accuracy.interval)} (Wilson){spread}"
        out.append((f"accuracy of {side.label}", text))
    out.append(("difference", f"{100 * c.value:+.2f} points {_bounds(c.interval)} (bootstrap)"))
    exact = len(c.first.solved) == len(c.second.solved) == 1
    b, k = c.counts
    out.append(("only the first / only the second" + ("" if exact else " (more often)"), f"{b} / {k}"))
    unit = "questions" if c.clusters is None else "sources"
    test = ("exact McNemar" if c.clusters is None else "exact sign-flip over sources") if exact else f"z over {unit}"
    out.append((f"p ({test})", f"{format_p(c.p)}, Holm {format_p(reading.holm)}"))
    out.append(("smallest detectable difference", "-" if c.detectable is None else f"{100 * c.detectable:.1f} points"))
    if reading.retraining is not None:
        out.append(("retraining bound (t, 95 %)", f"{100 * reading.retraining:.1f} points"))
        out.append(("p over seeds and items (t)", "-" if c.p_seeds is None else format_p(c.p_seeds)))
    if reading.clustered is not None:
        s = reading.clustered
        text = f"{100 * s.se:.2f} points over {s.clusters:,} sources {_bounds(s.interval)} (95 %)"
        out.append(("clustered standard error", text))
    how = (
        ("Tango score" if c.clusters is None else "the wider of Tango score and t over sources")
        if exact
        else "t over seeds and items"
    )
    out.append((f"90 % interval for the margin ({how})", _bounds(m.interval)))
    for name, good, p in (
        ("not inferior", m.noninferior, m.p_noninferior),
        ("equivalent", m.equivalent, m.p_equivalent),
    ):
        text = ("yes" if good else "not shown") + ("" if p is None else f" (p {_p(p)})")
        out.append((f"{name} within {100 * m.value:g} points", text))
    return [*out, ("verdict", reading.verdict.text())]


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _bounds(interval: Interval) -> str:
    return f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _data(reading: SubsetComparison) -> Record:
    c, m = reading.contrast, reading.margin
    sides = []
    for side, accuracy in zip((c.first, c.second), reading.accuracies, strict=True):
        sd = None if math.isnan(accuracy.sd) else accuracy.sd
        told = {
            "label": side.label,
            "seeds": len(side.solved),
            "accuracy": accuracy.value,
            "wilson": list(accuracy.interval),
        }
        sides.append(
            told | {"seed_sd": sd, "runs": list(side.row.runs), "evaluations": [p.key for p in side.row.parts]}
        )
    clusters = reading.clustered
    return {
        "items": reading.scope.name,
        "n": len(reading.scope.ids),
        "systems": sides,
        "difference": c.value,
        "interval": list(c.interval),
        "discordant": list(c.counts),
        "p": c.p,
        "holm": reading.holm,
        "p_seeds": c.p_seeds,
        "detectable": c.detectable,
        "retraining_bound": reading.retraining
        if reading.retraining is None or math.isfinite(reading.retraining)
        else None,
        "clustered_se": None if clusters is None else clusters.se,
        "clusters": None if clusters is None else clusters.clusters,
        "margin": {
            "value": m.value,
            "interval_90": list(m.interval),
            "noninferior": m.noninferior,
            "equivalent": m.equivalent,
            "p_noninferior": m.p_noninferior,
            "p_equivalent": m.p_equivalent,
        },
        "verdict": reading.verdict.text(),
        "higher": None if reading.higher is None else reading.higher.label,
    }


def power_table(plan: PowerPlan) -> Table:
    """What a comparison can show, a line for each discordance."""
    columns: dict[str, Callable[[PowerLine], str]] = {"discordance": lambda line: f"{100 * line.discordance:g} %"}
    if plan.n is not None:
        columns["detectable, points"] = lambda line: format_percent(line.detectable)
    if plan.difference is not None:
        if plan.n is not None:
            columns[f"power at {plan.difference:g} points"] = lambda line: _share(line.power)
            columns["exact test"] = lambda line: _share(line.exact_power)
        columns[f"items for {plan.difference:g} points"] = lambda line: format_number(line.items, 0)
    if plan.margin is not None:
        names = {"false alarm": "false_alarm", "decisive": "clear", "passed": "passed", "caught": "caught"}
        columns |= {f"gate: {name}": _gate_rate(field) for name, field in names.items()}
        columns["caught at twice"] = _gate_rate("caught_twice")
    notes = ["Discordance: share of items that exactly one of the two systems solves."]
    if plan.n is not None:
        notes.append(f"Detectable: smallest true difference that is found with {100 * plan.power:g} % power.")
    if plan.margin is not None:
        notes.append(
            f"Gate: `rim-bench check --margin {plan.margin:g}`, exact. False alarm: regressed though nothing changed. "
            "Decisive: holds where nothing changed. Passed and caught: holds and regressed at a true loss of the "
            "margin; caught at twice the margin."
        )
    head = "McNemar's test" + ("" if plan.n is None else f" on {plan.n:,} items")
    rows = [[cell(line) for cell in columns.values()] for line in plan.lines]
    title, align = f"{head}, two-sided level {plan.alpha:g}", "r" * len(columns)
    return Table.of_rows(title, tuple(columns), rows, align=align, notes=notes, document=plan.data())


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _gate_rate(field: str) -> Callable[[PowerLine], str]:
    return lambda line: "-" if line.gate is None else _share(getattr(line.gate, field))
