"""A comparison of two systems, and what one could show before anything is trained: as tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable

from rim_bench.evidence.power import PowerLine, PowerPlan
from rim_bench.evidence.two_systems import SubsetComparison, SystemComparison, replicated
from rim_bench.report.notes import cluster_note, trust_notes
from rim_bench.util.files import Record, canonical
from rim_bench.util.table import QUICK, Look, Panel, Section, Table
from rim_bench.util.text import format_interval, format_number, format_p, format_percent

_LOOK = Look(level=2, rule=" --- ", strict="cells", overflow="ellipsis", keep=None)


def table(compared: SystemComparison) -> Table:
    """A panel for each pair, a row for each quantity, a column for each set; with the headline and the notes."""
    by_pair: dict[tuple[str, str], list[SubsetComparison]] = {}
    for reading in (*compared.readings, *compared.against):
        pair = (reading.contrast.first.label, reading.contrast.second.label)
        by_pair.setdefault(pair, []).append(reading)
    panels = []
    for (first, second), readings in by_pair.items():
        columns = [_quantities(reading) for reading in readings]
        rows = [(name, *(column.get(name, "-") for column in columns)) for name in max(columns, key=len)]
        heads = ("", *(f"{reading.scope.name}, {len(reading.scope.ids):,} items" for reading in readings))
        panels.append(Panel(f"{first} - {second}", heads, tuple(rows), align="l" * len(heads)))
    document = to_data(compared)
    return Table(
        title=f"{compared.first} against {compared.second}",
        quick=False,
        sections=(Section("", tuple(panels), tuple(document["notes"])),),
        records=tuple(document["readings"]),
        columns=tuple(document["readings"][0]),
        lead=headline(compared),
        lead_style="bold" if compared.allowed else "bold red",
        document=document,
        look=_LOOK,
    )


def to_data(compared: SystemComparison) -> Record:
    """Everything, for JSON; fractions."""
    sentence = headline(compared)
    return {
        "schema": 1, "first": compared.first, "second": compared.second, "baseline": compared.baseline,
        "ablation": compared.ablation, "headline": sentence if compared.allowed else None,
        "refused": None if compared.allowed else sentence, "readings": [_data(r) for r in compared.readings],
        "against": [_data(r) for r in compared.against], "notes": notes(compared),
    }  # fmt: skip


def headline(compared: SystemComparison) -> str:
    """The difference in one sentence, or why it is refused."""
    beside = compared.beside_baseline
    gains = [f"{100 * r.contrast.value:+.1f} points, {r.verdict.text()}" for r in beside]
    if compared.whole is None:
        texts = [f"{r.contrast.first.label} {gain}" for r, gain in zip(beside, gains, strict=True)]
        return _sentence(compared.readings[0]) + (f" Against {compared.baseline}: {'; '.join(texts)}." if texts else "")
    arm, gain = compared.rows[compared.whole].label, gains[compared.whole]
    if not compared.allowed:
        return (
            f"Refused as a headline: an ablation of one trained model, whose arm {arm} does not beat the separately "
            f"trained {compared.baseline} ({gain}). It shows that the model depends on what was taken away, not that "
            "this helps."
        )
    return (
        f"{_sentence(compared.readings[0])} An ablation of one trained model; {arm} beats the separately trained "
        f"{compared.baseline} ({gain})."
    )


def _sentence(reading: SubsetComparison) -> str:
    """What is said of the difference on its own."""
    first, second, m = reading.contrast.first, reading.contrast.second, reading.margin
    size, points = 100 * reading.contrast.value, f"{100 * m.value:g} point" + ("s" if m.value != 0.01 else "")
    where = "" if reading.scope.name == "all" else f" ({reading.scope.name})"
    if reading.higher is not None:
        other = second if reading.higher is first else first
        text = f"{reading.higher.label} is more accurate than {other.label} by {abs(size):.1f} points{where}"
    elif reading.verdict.here is not None:
        here = reading.verdict.here
        other = second if here is first else first
        text = f"These weights of {here.label} are more accurate than those of {other.label} by {abs(size):.1f} points"
        text += f"{where}; one seed says nothing of the methods"
    else:
        text = f"{first.label} and {second.label}: {reading.verdict.text()}{where}, {size:+.1f} points"
    if m.equivalent:
        return f"{text}; equivalent within {points}."
    if reading.higher is not None:
        return f"{text}."
    if m.noninferior:
        return f"{text}; {first.label} is not inferior by {points} or more."
    return f"{text}; not shown to be as good within {points}."


def notes(compared: SystemComparison) -> list[str]:
    """What a reader must know of the systems, and how the numbers are compared."""
    main, seeds = compared.readings[0].contrast, [len(r.parts) for r in compared.rows[:2]]
    out = [f"{QUICK}: {r.label}" for r in compared.rows if r.quick] + [*trust_notes(compared.rows)]
    if len({canonical(r.first.spec.backbone) for r in compared.rows}) > 1:
        out.append("Other backbones: the difference is not that of the methods alone.")
    if len({r.first.settings.get("dtype") for r in compared.rows} | {None}) > 2:
        out.append("Evaluated in other number types.")
    if max(seeds) == 1:
        out.append("One training seed each: it says nothing of retraining, only of these trained models.")
    else:
        out.append(
            f"Seeds: {seeds[0]} and {seeds[1]}; verdict, interval, margin and smallest detectable difference count "
            "seeds and questions, paired by seed where both systems have it."
        )
    if replicated(*compared.rows[:2]):
        machines = [
            " or ".join(dict.fromkeys(f.label for p in r.parts for f in p.training.fingerprints)) or "not recorded"
            for r in compared.rows[:2]
        ]
        out.append(
            "Replicates: the same specifications, trained twice. Their difference is what rounding does, as another "
            f"seed would ({machines[0]}; {machines[1]})."
        )
    if main.clusters is not None:
        out.append(cluster_note(len(main.difference), len(set(main.clusters))))
    drawn = "items" if main.clusters is None else "sources"
    out.append(
        f"Intervals are 95 %; Holm over {compared.tests} tests; the bootstrap resamples {drawn}; detectable is at 80 % "
        "power."
    )
    if main.detectable is None:
        out.append("No item is discordant: nothing can be said of how small a difference would have been found.")
    return out


def _quantities(reading: SubsetComparison) -> dict[str, str]:
    """What a person reads, by name; per cent and points."""
    c, m = reading.contrast, reading.margin
    exact = len(c.first.solved) == len(c.second.solved) == 1
    if c.clusters is None:
        test = "exact McNemar" if exact else "z over questions"
        how = "Tango score" if exact else "t over seeds and questions"
    else:
        test = "exact sign-flip over sources" if exact else "z over sources"
        how = "the wider of Tango score and t over sources" if exact else "t over seeds and sources"
    out = {}
    for side, accuracy in zip((c.first, c.second), reading.accuracies, strict=True):
        spread = "" if math.isnan(accuracy.sd) else f", sd over {len(side.solved)} seeds {100 * accuracy.sd:.1f}"
        value = f"{100 * accuracy.value:.1f} % {format_interval(*accuracy.interval)}"
        out[f"accuracy of {side.label}"] = f"{value} (Wilson){spread}"
    drawn = "bootstrap" if c.error is None else "t over seeds and questions"
    out["difference"] = f"{100 * c.value:+.2f} points {format_interval(*c.interval)} ({drawn})"
    only_first, only_second = c.counts
    often = "" if exact else " (more often)"
    out[f"only the first / only the second{often}"] = f"{only_first} / {only_second}"
    adjusted = f", Holm {format_p(reading.holm)}"
    out[f"p ({test})"] = format_p(c.p) + (adjusted if c.p_seeds is None else "")
    out["smallest detectable difference"] = "-" if c.detectable is None else f"{100 * c.detectable:.1f} points"
    if reading.retraining is not None:
        out["retraining bound (t, 95 %)"] = f"{100 * reading.retraining:.1f} points"
        out["p over seeds and questions (t)"] = "-" if c.p_seeds is None else format_p(c.p_seeds) + adjusted
    if (by_source := reading.clustered) is not None:
        error = f"{100 * by_source.se:.2f} points over {by_source.clusters:,} sources"
        out["clustered standard error"] = f"{error} {format_interval(*by_source.interval)} (95 %)"
    out[f"90 % interval for the margin ({how})"] = format_interval(*m.interval)
    claims = (("not inferior", m.noninferior, m.p_noninferior), ("equivalent", m.equivalent, m.p_equivalent))
    for name, shown, p in claims:
        tested = "" if p is None else f" (p {'< 0.001' if p < 0.001 else f'= {p:.3f}'})"
        out[f"{name} within {100 * m.value:g} points"] = ("yes" if shown else "not shown") + tested
    return out | {"verdict": reading.verdict.text()}


def _data(reading: SubsetComparison) -> Record:
    c, m, clusters, bound = reading.contrast, reading.margin, reading.clustered, reading.retraining
    systems = []
    for side, accuracy in zip((c.first, c.second), reading.accuracies, strict=True):
        systems.append({
            "label": side.label, "seeds": len(side.solved), "accuracy": accuracy.value,
            "wilson": list(accuracy.interval), "seed_sd": None if math.isnan(accuracy.sd) else accuracy.sd,
            "runs": list(side.row.runs), "evaluations": [p.key for p in side.row.parts],
        })  # fmt: skip
    margin = {
        "value": m.value, "interval_90": list(m.interval), "noninferior": m.noninferior, "equivalent": m.equivalent,
        "p_noninferior": m.p_noninferior, "p_equivalent": m.p_equivalent,
    }  # fmt: skip
    return {
        "items": reading.scope.name, "n": len(reading.scope.ids), "systems": systems, "difference": c.value,
        "interval": list(c.interval), "discordant": list(c.counts), "p": c.p, "holm": reading.holm,
        "p_seeds": c.p_seeds, "detectable": c.detectable,
        "retraining_bound": None if bound is None or not math.isfinite(bound) else bound,
        "clustered_se": None if clusters is None else clusters.se,
        "clusters": None if clusters is None else clusters.clusters, "margin": margin,
        "verdict": reading.verdict.text(), "higher": None if reading.higher is None else reading.higher.label,
        "higher_weights": None if (here := reading.verdict.here) is None else here.label,
    }  # fmt: skip


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
    data = plan.data()
    return Table.of_rows(title, tuple(columns), rows, align=align, notes=notes, records=data["lines"], document=data)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _gate_rate(field: str) -> Callable[[PowerLine], str]:
    return lambda line: "-" if line.gate is None else _share(getattr(line.gate, field))
