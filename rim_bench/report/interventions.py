"""Interventions as a table: what each does, what the segments carry, and the verdict in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rim_bench.evidence.interventions import (
    LEVEL,
    Effect,
    EffectSize,
    Family,
    Mediation,
    RoleVerdict,
    is_control,
    is_positive_control,
)
from rim_bench.storage.interventions import (
    ALL,
    ANSWER_SEES,
    DONOR,
    EVERYTHING,
    KEYS_AND_VALUES,
    MEAN,
    QUESTION,
    RESIDUAL,
    SEGMENTS_SEE,
)
from rim_bench.util.table import Panel, Section, Table

COLUMNS = (
    "intervention", "n", "accuracy %", "loss (points)", "changed %", "donor's %",
    "fall of log-probability", "fall of lead", "p", "p (Holm)",
)  # fmt: skip


def table(families: Sequence[Family]) -> Table:
    """A section a family. Layers one by one stand in the files only."""
    sections = []
    for family in families:
        main = [e for e in family.effects if e.item.layer is None and e.item.segments in (ALL, QUESTION, EVERYTHING)]
        whole = [e for e in family.effects if e.item.layer is None]
        layered = [e for e in family.effects if e.item.layer is not None]
        brief = tuple((_short(e), *_row(e)[1:6], _row(e)[-1]) for e in main)
        panels = [
            Panel("all layers; more in the run's folder", (*COLUMNS[:6], COLUMNS[-1]), brief, short=True),
            Panel("all layers", COLUMNS, tuple(map(_row, whole)), short=False),
        ]
        if layered:
            panels.append(Panel("layer by layer", COLUMNS, tuple(map(_row, layered)), short=False))
        sections.append(Section(heading(family), tuple(panels), tuple(notes(family))))
    records = tuple(_record(family, effect) for family in families for effect in family.effects)
    quick = any(suite.summary.quick for family in families for suite in family.suites)
    foot = [
        "Losses and falls are the model as it is minus the same under the intervention, with 95 % intervals. Changed: "
        "other answers; donor's: those that are the donor's; lead: the log-probability of the model's own answer over "
        "that of the donor's, in nats. p: of no loss of accuracy."
    ]
    if not any(map(is_positive_control, families)):
        foot.append(
            "No positive control: give a trained cot or coconut too, whose answers are known to go through their "
            "segments."
        )
    title = "Interventions between question and answer"
    document = {"schema": 1, "families": [to_data(family) for family in families], "records": list(records)}
    return Table(title, quick, tuple(sections), records, tuple(records[0]), foot=tuple(foot), document=document)


def to_data(family: Family) -> dict[str, Any]:
    """Verdict, mediation and heat maps as plain data: fractions and nats."""
    return {
        "method": family.label,
        "task": family.suites[0].summary.task,
        "set": family.level_set,
        "runs": {suite.run.id: suite.key for suite in family.suites},
        "n": family.n,
        "accuracy": family.accuracy,
        "verdict": asdict(family.verdict),
        "mediation": [asdict(m) for m in family.mediations],
        "cells": [asdict(c) for c in family.cells],
        "notes": notes(family),
    }


def heading(family: Family) -> str:
    """Method, task, set of levels and seeds."""
    summary, seeds = family.suites[0].summary, sorted(suite.run.spec.seed for suite in family.suites)
    effort = "" if summary.effort is None else f", effort {summary.effort}"
    named = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return ", ".join(filter(None, (f"{family.label}{effort}", summary.task_title, family.level_set, named)))


def notes(family: Family) -> list[str]:
    """The verdict, what goes through the segments, and the controls."""
    summary = family.suites[0].summary
    out = [verdict_text(family), *(_mediation_text(m) for m in family.mediations)]
    out.append(
        f"Controls hold: own activations put back change nothing, to the last bit; with everything from the donor the "
        f"answer is the donor's; the order of keys and values does not matter. {family.n:,} questions."
    )
    asked = family.suites[0].asked
    if other := asked.as_evaluated.count("0"):
        out.append(
            f"The answer's mark is given here: {other:,} of {len(asked.ids):,} answers are others than in evaluation."
        )
    if summary.left_out:
        out.append(f"{summary.left_out:,} questions are left out: nothing between question and answer, or too long.")
    return out


def verdict_text(family: Family) -> str:
    """Whether the segments are used, with the numbers that say so."""
    verdict = family.verdict
    measured = {name: family.whole(name) for name in (DONOR, MEAN)}
    shown = " ".join(
        f"With {words} {_percent(measured[name].changed)} % of the answers change and {_points(measured[name].loss)} "
        f"points of {100 * measured[name].clean:.1f} % are lost."
        for name, words in ((DONOR, "another question's segments"), (MEAN, "mean segments"))
    )
    return f"Verdict: {verdict.word}{_scope(verdict)}. {shown} {_reason(verdict)}"


def _scope(verdict: RoleVerdict) -> str:
    return ", on these weights only" if verdict.these_weights_only else f", over {verdict.seeds} seeds"


def _reason(verdict: RoleVerdict) -> str:
    margin = f"{100 * verdict.delta:g} points"
    changed = f"{100 * verdict.delta_changed:g} %"
    worst = max(verdict.p_not_used, key=lambda name: verdict.p_not_used[name])
    p = f"p {_p(verdict.p_not_used[worst])} ({worst})"
    if verdict.word == "not used":
        return f"Less than {margin} and {changed} of the answers are shown, with both: the largest {p}."
    if verdict.word == "used":
        return f"A loss of more than {margin} with the donor's is shown: p {_p(verdict.p_used)}."
    return (
        f"Neither a loss above {margin} (p {_p(verdict.p_used)}) nor less than that and than {changed} of the "
        f"answers (largest {p}) is shown at {LEVEL:g}."
    )


def _mediation_text(mediation: Mediation) -> str:
    points = mediation.outcome == "accuracy"
    shown = [_points(e) if points else _nats(e) for e in (mediation.total, mediation.through, mediation.direct)]
    share = "" if mediation.share is None else f"; share through the segments {_share(mediation.share)}"
    unit = "points" if points else "nats"
    return (
        f"Effect on {'accuracy' if points else 'the lead of the own answer'} ({unit}): another question in all "
        f"{shown[0]}, through the segments {shown[1]}, past them {shown[2]}{share} (n = {mediation.n:,})."
    )


def _short(effect: Effect) -> str:
    """An intervention at all layers in fewer words: nothing of keys and values, where most are made."""
    item = effect.item
    site = {KEYS_AND_VALUES: "", RESIDUAL: ", residual", ANSWER_SEES: " for the answer", SEGMENTS_SEE: " for segments"}
    return f"{item.operation}{site.get(item.site, '')}: {item.segments}" + (" (control)" if is_control(item) else "")


def _row(effect: Effect) -> tuple[str, ...]:
    return (
        effect.item.id + (" (control)" if is_control(effect.item) else ""),
        f"{effect.n:,}",
        f"{100 * effect.accuracy:.1f}",
        _points(effect.loss),
        _percent(effect.changed),
        "-" if effect.to_donor is None else f"{100 * effect.to_donor:.1f}",
        _nats(effect.logprob),
        "-" if effect.lead is None else _nats(effect.lead),
        f"{effect.p:.2g}",
        "-" if effect.p_holm is None else f"{effect.p_holm:.2g}",
    )


def _points(estimate: EffectSize) -> str:
    value, low, high = (round(100 * v, 1) + 0.0 for v in (estimate.value, *estimate.interval))  # no -0.0
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _percent(estimate: EffectSize) -> str:
    low, high = max(0.0, estimate.interval.low), min(1.0, estimate.interval.high)
    return f"{100 * estimate.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _nats(estimate: EffectSize) -> str:
    value, low, high = (round(v, 2) + 0.0 for v in (estimate.value, *estimate.interval))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _p(value: float) -> str:
    return f"= {value:.2g}" if value >= 1e-15 else "< 1e-15"


def _share(estimate: EffectSize) -> str:
    low, high = estimate.interval
    return f"{100 * estimate.value:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def _record(family: Family, effect: Effect) -> dict[str, Any]:
    """The numbers of a row, as fractions and nats."""
    item, out = effect.item, {}
    for name in ("loss", "changed", "logprob", "lead"):
        estimate: EffectSize | None = getattr(effect, name)
        out[name] = None if estimate is None else estimate.value
        out[f"{name}_low"] = None if estimate is None else estimate.interval.low
        out[f"{name}_high"] = None if estimate is None else estimate.interval.high
    return {
        "method": family.label,
        "task": family.suites[0].summary.task,
        "set": family.level_set,
        "seeds": len(family.suites),
        "verdict": family.verdict.word,
        "intervention": item.id,
        "operation": item.operation,
        "site": item.site,
        "layer": item.layer,
        "segments": item.segments,
        "control": is_control(item),
        "n": effect.n,
        "clean": effect.clean,
        "accuracy": effect.accuracy,
        **out,
        "to_donor": effect.to_donor,
        "p": effect.p,
        "p_holm": effect.p_holm,
    }
