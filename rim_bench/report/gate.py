"""The gate's verdicts as a table, for programs (JSON) and for a CI system (JUnit XML); the margins of retrainings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any
from xml.etree import ElementTree

from rim_bench.evidence.gate import CODES, Check, Decision, Gate, GateVerdict, exit_code
from rim_bench.evidence.retraining import RATE, STEP, Retrainings
from rim_bench.evidence.stats import intervals
from rim_bench.util.table import HTML_ESCAPES, Look, Table
from rim_bench.util.text import format_p

MARGIN_COLUMNS = (
    "system",
    "retrainings",
    "accuracy %",
    "range",
    "margin",
    "red",
    "red, held out",
    "red, best as baseline",
    "margin by spread",
    "found at 80 %",
)


def margin_row(one: Retrainings, rate: float = RATE) -> tuple[str, ...]:
    """The cells under `COLUMNS`."""
    accuracies = [100 * c / one.n for c in one.correct]
    margin = one.margin(rate)
    return (
        str(one.setting._replace(max_tokens="")),
        str(len(one.seeds)),
        f"{intervals.mean(accuracies):.1f} ± {intervals.spread(accuracies):.1f}",
        f"{min(accuracies):.1f} to {max(accuracies):.1f}",
        f"{margin:g}",
        f"{100 * one.red(margin):.1f} %",
        f"{100 * one.held_out(rate):.1f} %",
        f"{100 * one.worst(margin):.1f} %",
        f"{one.by_spread(rate):.1f}",
        f"{one.found(margin):g}",
    )


def margin_rule(rate: float = RATE) -> str:
    """What the columns mean."""
    return (
        f"Margin: the smallest, in steps of {STEP:g} points, at which at most {100 * rate:g} % of all ordered pairs of "
        "sound retrainings "
        "go red by the gate's own rule (held out: chosen on half of the seeds, counted on the other half; best as "
        "baseline: "
        "beside the baseline that is red most often, so store one that was not picked for its accuracy). By spread: t "
        "· s · √2. "
        "Found: the loss of the mean accuracy that turns 80 % of retrainings red at that margin."
    )


def margins_table(recipes: Sequence[Retrainings], rate: float = RATE) -> Table:
    """A row for each recipe; a page says first which questions were answered."""
    q = recipes[0].questions
    lead = (
        f"Retrainings with other seeds, {q.n:,} questions of {q.task} ({q.split}), evaluator version "
        f"{q.evaluator_version}."
    )
    rows = [margin_row(recipe, rate) for recipe in recipes]
    return replace(Table.of_rows("", MARGIN_COLUMNS, rows, foot=[margin_rule(rate)]), lead=lead)


COLUMNS = ("system", "verdict", "difference", "95 % bound", "p", "lost/won", "n", "baseline", "run", "margin at 80 %")
_COLORS = {"holds": "green", "regressed": "bold red", "underpowered": "yellow"}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def worst(checks: Sequence[Check]) -> GateVerdict:
    """The verdict on all runs."""
    code = exit_code(checks)
    return next(v for v, c in CODES.items() if c == code)


def title(checks: Sequence[Check]) -> str:
    """The verdict on all runs, with its exit code."""
    return f"{worst(checks)} (exit code {exit_code(checks)})"


def rule(gate: Gate) -> str:
    """What the verdicts mean, in one paragraph."""
    return (
        f"Margin {gate.margin:g} points, at least {gate.min_n:,} items. d = baseline - run on the same items: "
        "regressed where d >= margin "
        "and the exact one-sided McNemar p < 0.05; holds where d <= 0 or the one-sided 95 % bound of d (Tango's score "
        "bound) is under the "
        "margin; otherwise underpowered. An improvement never fails. Margin at 80 %: the smallest for which so many "
        "items show with 80 % power that nothing changed, at the discordance seen. Items that share sources are tested "
        "by source, too."
    )


def system(check: Check) -> str:
    """What was checked, as short as it can be told: the first training seed is not named."""
    if check.setting is None:
        return check.name
    seed = check.run.get("seed")
    return str(check.setting._replace(max_tokens="")) + (f", seed {seed}" if seed else "")


def cells(check: Check) -> tuple[str, ...]:
    """The cells under `COLUMNS`."""
    d = check.decision
    if d is None:
        return (system(check), check.verdict, *("-",) * (len(COLUMNS) - 2))
    smallest = "-" if d.smallest_margin is None else f"{100 * d.smallest_margin:.2f}"
    shown = (_change(d), f"{-100 * d.upper:+.2f}", format_p(d.p), f"{d.lost}/{d.won}", f"{d.n:,}")
    return (system(check), check.verdict, *shown, f"{100 * d.baseline:.2f} %", f"{100 * d.run:.2f} %", smallest)


def _change(d: Decision) -> str:
    """Run − baseline, as a person reads it: a loss has a minus."""
    return f"{-100 * d.difference + 0.0:+.2f}"


def sentences(check: Check) -> list[str]:
    """The reason, what else differs, and the noise floor; one line each."""
    where = "" if check.questions is None else f" on {check.questions.task}, {check.questions.split} split"
    out = [f"{system(check)}{where}: {check.verdict}: {check.reason}."]
    if check.same_evaluation:
        out.append(
            "The baseline was written from this very evaluation: nothing was evaluated again, and no change can show."
        )
    elif check.same_weights is True:
        out.append("The baseline's weights, evaluated again.")
    out += [f"Differs: {note}." for note in check.notes]
    for noise in check.noise:
        how = f" ({noise.how})" if noise.how else ""
        share = (
            f"{noise.changed:,} of {noise.n:,} answers change between right and wrong, "
            f"{100 * abs(noise.difference):.2f} points"
        )
        out.append(f"Noise floor: the same weights evaluated again{how}: {share}.")
    return out


def table(checks: Sequence[Check], gate: Gate) -> Table:
    """A row for each run, then the reasons and the rule; for a terminal and for the job page of a CI system."""
    look = Look(level=2, rule="---", escapes=HTML_ESCAPES, escape_notes=True, bullet="", overflow="fold", keep=4)
    return Table.of_rows(
        f"rim-bench check: {title(checks)}",
        COLUMNS,
        [cells(check) for check in checks],
        align="ll" + "r" * (len(COLUMNS) - 2),
        styles=[_COLORS.get(check.verdict, "bold magenta") for check in checks],
        notes=[line for check in checks for line in sentences(check)],
        foot=[rule(gate)],
        document=to_data(checks, gate),
        look=look,
    )


def to_data(checks: Sequence[Check], gate: Gate) -> dict[str, Any]:
    """Everything, for JSON; accuracies and differences are fractions, the margin is in points."""
    rows = []
    for c in checks:
        named = {
            "name": c.name,
            "verdict": c.verdict,
            "exit_code": c.code,
            "reason": c.reason,
            "setting": None if c.setting is None else c.setting._asdict(),
            "questions": None if c.questions is None else c.questions._asdict(),
            "same_weights": c.same_weights,
            "run": dict(c.run),
            "baseline": dict(c.baseline),
            "notes": list(c.notes),
            "noise": [asdict(n) for n in c.noise],
        }
        decision = (
            None
            if c.decision is None
            else {k: v for k, v in asdict(c.decision).items() if k not in ("verdict", "reason")}
        )
        rows.append(named | {"decision": decision})
    asked = {"margin_points": gate.margin, "min_n": gate.min_n, "levels": list(gate.levels), "rule": rule(gate)}
    return {"schema": 1, "verdict": worst(checks), "exit_code": exit_code(checks), **asked, "checks": rows}


def to_junit(checks: Sequence[Check], gate: Gate) -> bytes:
    """JUnit XML: a test case for each run; regressed and underpowered are failures, bad input and not comparable
    errors.
    """
    failed = [c for c in checks if c.verdict in ("regressed", "underpowered")]
    broken = [c for c in checks if c.verdict in ("bad input", "not comparable")]
    counts = {"tests": str(len(checks)), "failures": str(len(failed)), "errors": str(len(broken)), "skipped": "0"}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "rim-bench check", **counts})
    for check in checks:
        task = check.questions.task if check.questions else "accuracy"
        name = f"{system(check)}: at most {gate.margin:g} points lower"
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": _xml(f"rim-bench.{task}"), "name": _xml(name), "time": "0"}
        )
        text = _xml("\n".join(sentences(check)))
        if check in failed or check in broken:
            kind = "failure" if check in failed else "error"
            ElementTree.SubElement(case, kind, {"type": check.verdict, "message": _xml(check.reason)}).text = text
        else:
            ElementTree.SubElement(case, "system-out").text = text
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _xml(text: str) -> str:
    """Without the characters that XML cannot hold at all; the others are escaped when it is written."""
    return _NOT_XML.sub("?", text)
