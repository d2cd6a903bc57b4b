"""The gate's verdicts as a table, as JSON and as JUnit XML; and the margins that retrainings give."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree

from rim_bench.evidence.gate import CODES, Check, Gate, GateVerdict, exit_code
from rim_bench.evidence.power import Foresight
from rim_bench.evidence.retraining import RATE, STEP, Retrainings
from rim_bench.evidence.stats import intervals
from rim_bench.util.table import Look, Table
from rim_bench.util.text import format_p

MARGIN_COLUMNS = (
    "system", "retrainings", "accuracy %", "range", "margin", "red", "red, held out", "red, best as baseline",
    "margin by spread", "found at 80 %",
)  # fmt: skip
COLUMNS = ("system", "verdict", "run", "baseline", "n", "difference", "95 % bound", "p", "lost/won", "margin at 80 %")
_COLORS = {"holds": "green", "regressed": "bold red", "underpowered": "yellow"}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LOOK = Look(level=2, strict="all", bullet="", overflow="fold", keep=5)
_PARTS = 8  # levels or sources that are listed


def margins_table(systems: Sequence[Retrainings], rate: float = RATE) -> Table:
    """What margins come out of retrainings with other seeds. `rate`: share of sound retrainings that may go red."""
    rows = []
    for retrained in systems:
        accuracies, margin = [100 * c / retrained.n for c in retrained.correct], retrained.margin(rate)
        mean, spread = intervals.mean(accuracies), intervals.spread(accuracies)
        reds = (retrained.red(margin), retrained.held_out(rate), retrained.worst(margin))
        name, seeds = str(retrained.setting._replace(max_tokens="")), str(len(retrained.seeds))
        level = (f"{mean:.1f} ± {spread:.1f}", f"{min(accuracies):.1f} to {max(accuracies):.1f}", f"{margin:g}")
        ends = (f"{retrained.by_spread(rate):.1f}", f"{retrained.detected(margin):g}")
        rows.append((name, seeds, *level, *(f"{100 * share:.1f} %" for share in reds), *ends))
    q = systems[0].questions
    lead = f"Retrainings with other seeds, {q.n:,} questions of {q.task} ({q.split}), "
    rule = (
        f"Margin: the smallest, in steps of {STEP:g} points, at which at most {100 * rate:g} % of all ordered pairs of "
        "sound retrainings go red by the gate's own rule, and an allowance with which margins that are chosen on half "
        "of the seeds keep that rate on the other half (red, held out; best as baseline: beside the baseline that is "
        "red most often, so store one that was not picked for its accuracy). By spread: t · s · √2. Found: the loss of "
        "the mean accuracy that turns 80 % of retrainings red at that margin."
    )
    lead += f"evaluator version {q.evaluator_version}."
    if whole := [str(r.setting.label) for r in systems if not all(pair.levels for pair in r.pairs)]:
        rule += f" Of {', '.join(whole)} no levels are known: only whole sets go red."
    return Table.of_rows("", MARGIN_COLUMNS, rows, lead=lead, foot=(rule,))


def foreseen(foresight: Foresight | None) -> str:
    """What a gate on this baseline will say of evaluations in which nothing changed; None: no repeat was measured."""
    if foresight is None:
        return (
            "no repeat: how many answers change without a change is not known, and so not what margin holds; "
            "`rim-bench eval RUN --repeat --eval-batch-size 150` measures it"
        )
    f = foresight
    text = f"in a repeat {100 * f.discordance:.2f} % of {f.n:,} answers change between right and wrong"
    if f.smallest is None:
        return f"{text}; `rim-bench power` has no exact rates for so many items"
    smallest = f"{f.smallest:g} points is the smallest margin that holds in 80 % of unchanged evaluations"
    if f.margin is None or f.holds is None or f.underpowered is None:
        return f"{text}: {smallest}"
    holds = f"{text}: at a margin of {f.margin:g} points {100 * f.holds:.0f} % of unchanged evaluations hold"
    if f.margin >= f.smallest:
        return holds
    items = "" if f.items is None else f", and {f.items:,} items hold {f.margin:g}"
    return f"{holds} and {100 * f.underpowered:.0f} % are underpowered (exit code 4): {smallest}{items}"


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
        "regressed where d >= margin and the exact one-sided McNemar p < 0.05, on the whole set, a level or a source; "
        "else holds where d <= 0 or the one-sided 95 % bound of d (Tango's score bound) is under the margin; otherwise "
        "underpowered. p is Holm's, over all that this check tests: half of the error rate is that of the whole sets. "
        "Margin at 80 %: the smallest for which so many items show with 80 % power that nothing changed, at the "
        "discordance seen. Items that share sources are tested by source, too."
    )


def system(check: Check) -> str:
    """What was checked, in short: the first training seed is not named."""
    if check.setting is None:
        return check.name
    seed = check.run.get("seed")
    return str(check.setting._replace(max_tokens="")) + (f", seed {seed}" if seed else "")


def table(checks: Sequence[Check], gate: Gate) -> Table:
    """The verdicts with their numbers and reasons. A difference is run − baseline: a loss has a minus."""
    rows = []
    for check in checks:
        d = check.decision
        cells: tuple[str, ...] = ("-",) * (len(COLUMNS) - 2)
        if d is not None:
            shares = (f"{100 * d.run:.2f} %", f"{100 * d.baseline:.2f} %", f"{d.n:,}")
            points = (f"{-100 * d.difference + 0.0:+.2f}", f"{-100 * d.upper:+.2f}", format_p(d.p))
            margin = "-" if d.smallest_margin is None else f"{100 * d.smallest_margin:.2f}"
            cells = (*shares, *points, f"{d.lost}/{d.won}", margin)
        rows.append((system(check), check.verdict, *cells))
    return Table.of_rows(
        f"rim-bench check: {title(checks)}",
        COLUMNS,
        rows,
        align="ll" + "r" * (len(COLUMNS) - 2),
        styles=[_COLORS.get(check.verdict, "bold magenta") for check in checks],
        notes=[line for check in checks for line in sentences(check)],
        foot=(rule(gate),),
        document=to_data(checks, gate),
        look=_LOOK,
    )


def sentences(check: Check) -> list[str]:
    """The reason, what else differs, and the noise floor; one line each."""
    where = "" if check.questions is None else f" on {check.questions.task}, {check.questions.split} split"
    out = [f"{system(check)}{where}: {check.verdict}: {check.reason}."]
    if check.same_weights is True:
        out.append("The baseline's weights, evaluated again.")
    for kind in ("level", "source"):
        if tested := [part for part in check.parts if part.kind == kind]:
            marks = {True: " (regressed)", False: ""}
            listed = ", ".join(
                f"{part.name} {-100 * part.difference + 0.0:+.2f} of {part.n:,}{marks[part.regressed]}"
                for part in tested[:_PARTS]
            )
            more = f" and {len(tested) - _PARTS} more" if len(tested) > _PARTS else ""
            out.append(f"By {kind}, worst first, in points: {listed}{more}.")
    out += [f"Differs: {note}." for note in check.notes]
    out += [f"Of the baseline: {check.note}."] if check.note else []
    for noise in check.noise:
        how = f" ({noise.how})" if noise.how else ""
        share = f"{noise.changed:,} of {noise.n:,} answers change between right and wrong"
        points = f"{100 * abs(noise.difference):.2f} points"
        out.append(f"Noise floor: the same weights evaluated again{how}: {share}, {points}.")
    return out


def to_data(checks: Sequence[Check], gate: Gate) -> dict[str, Any]:
    """Everything, for JSON; accuracies and differences are fractions, the margin is in points."""
    rows = []
    for c in checks:
        decision = {} if c.decision is None else asdict(c.decision)
        numbers = {k: v for k, v in decision.items() if k not in ("verdict", "reason")}
        rows.append({
            "name": c.name, "verdict": c.verdict, "exit_code": c.code, "reason": c.reason,
            "setting": None if c.setting is None else c.setting._asdict(),
            "questions": None if c.questions is None else c.questions._asdict(),
            "same_weights": c.same_weights, "run": dict(c.run), "baseline": dict(c.baseline), "notes": list(c.notes),
            "parts": [asdict(part) for part in c.parts], "evaluated": "stored" if c.stored else "now",
            "noise": [asdict(n) for n in c.noise], "decision": numbers or None,
        })  # fmt: skip
    asked = {
        "margin_points": gate.margin, "min_n": gate.min_n, "levels": list(gate.levels), "across": list(gate.across),
        "rule": rule(gate),
    }  # fmt: skip
    return {"schema": 1, "verdict": worst(checks), "exit_code": exit_code(checks), **asked, "checks": rows}


def to_junit(checks: Sequence[Check], gate: Gate) -> bytes:
    """JUnit XML, a test case for each run.

    Regressed and underpowered are failures, bad input and not comparable are errors.
    """
    failed = [c for c in checks if c.verdict in ("regressed", "underpowered")]
    broken = [c for c in checks if c.verdict in ("bad input", "not comparable")]
    counts = {"tests": str(len(checks)), "failures": str(len(failed)), "errors": str(len(broken)), "skipped": "0"}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "rim-bench check", **counts})
    for check in checks:
        task = check.questions.task if check.questions else "accuracy"
        name = f"{system(check)}: at most {gate.margin:g} points lower"
        attributes = {"classname": _xml(f"rim-bench.{task}"), "name": _xml(name), "time": "0"}
        case = ElementTree.SubElement(suite, "testcase", attributes)
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
