"""Sentences under a table: each of them once, for comparisons, leaderboards and the comparison of two systems."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rim_bench.evidence import training_budgets
from rim_bench.evidence.pairs import ALONE
from rim_bench.evidence.rows import Evaluation, Row, changed_questions, changed_training
from rim_bench.evidence.stats.clustered import FEW
from rim_bench.util.text import format_flops, format_number


def rule_notes(rows: Iterable[Row]) -> Iterator[str]:
    """What p and "higher" mean for these rows."""
    rows = list(rows)
    single = [r.label for r in rows if len(r.parts) == 1]
    several = len(single) < len(rows)
    yield (
        "p (questions): the error of the questions alone; exact McNemar test between two settings with one seed each, "
        "otherwise z = Σd/√Σd² over the questions' differences d of seed means."
    )
    text = "Higher: Holm p < 0.05 and at least the smallest detectable difference (80 % power)"
    if several:
        yield (
            "p (seeds): the error of the seeds and the questions together, from the t of this pair by itself, "
            "unadjusted."
        )
        text += (
            "; with several seeds also more than t·se, se² = s₁²/S₁ + s₂²/S₂ + var(d)/n with s over the S seeds, t of "
            "Welch and Satterthwaite, each comparison by itself. With 3 seeds only large differences pass. Among many "
            f'pairs of equally good systems some pass so: "{ALONE}" where the seeds\' p does not stay under 0.05 after '
            "Holm over all pairs"
        )
    yield f"{text}. Everything else is tied."
    if single and several:
        yield (
            f"One seed: {', '.join(single)}. Beside a row with several seeds the other's spread over seeds stands for "
            "both."
        )
    if single:
        yield (
            'Between rows with one seed each: one seed says nothing of retraining, "higher" is said of these trained '
            "models alone."
        )


def cluster_note(n: int, clusters: int) -> str:
    """What is done with n questions that come from fewer sources."""
    text = (
        f"The {n:,} questions come from {clusters:,} sources (templates, seed questions) that they share, so they are "
        "not independent: tests, the bootstrap and smallest detectable differences go by source. p: exact sign-flip "
        "test over sources between two settings with one seed each (McNemar's where no source is shared), otherwise "
        "z = ΣD/√ΣD² over sums D by source; detectable: on n / design effect questions"
    )
    return text + (f". Fewer than {FEW} sources: take intervals and z as too narrow." if clusters < FEW else ".")


def changed_notes(rows: Sequence[Row]) -> list[str]:
    """Which questions and training rows are not those that the task registers."""
    notes = []
    if changed_questions(rows):
        notes.append("CHANGED DATA: the questions are not the set that the task registers (--allow-changed-data).")
    if trained := changed_training(rows):
        notes.append(
            "CHANGED DATA: trained on rows that are not the registered ones (--allow-changed-data): "
            f"{', '.join(trained)}."
        )
    return notes


def evaluation_notes(evaluations: Iterable[Evaluation]) -> list[str]:
    """What of their evaluation keeps rows from being compared, and how many questions were too long for a model."""
    evaluations = list(evaluations)
    notes = []
    if apart := training_budgets.evaluated_apart(evaluations):
        notes.append(f"Evaluated in different ways ({apart}): a difference may be due to that.")
    if apart := training_budgets.timed_apart(evaluations):
        notes.append(f"Latencies are not comparable: they were taken on different machines or settings ({apart}).")
    if most := max((sum(bool(i.get("overlong")) for i in e.items.values()) for e in evaluations), default=0):
        notes.append(
            f"Too long for the model: up to {most:,} questions of an evaluation; they count as wrong, and in no mean "
            "cost."
        )
    return notes


def matched(rows: Sequence[Row]) -> str:
    """What was matched in training between rows, and what was not; empty for a single row."""
    if len(rows) < 2:
        return ""
    by_budget: dict[tuple[str, float | None], list[Row]] = {}
    for row in rows:
        first = training_budgets.budgets(row)[0]
        by_budget.setdefault((first.kind, first.asked), []).append(row)
    if len(by_budget) == 1:
        ((kind, asked),) = by_budget
        same = "nothing: no training budget is stated" if asked is None else _same(kind, asked, rows)
        return f"Matched: {same}."
    amounts = ", ".join(
        f"{training_budgets.amount_text(*key)} {training_budgets.UNITS.get(key[0], key[0])}" for key in by_budget
    )
    several = {key: alike for key, alike in by_budget.items() if len(alike) > 1 and key[1] is not None}
    if not several:
        return f"Matched: nothing: the rows' training budgets differ ({amounts})."
    inside = "; ".join(f"{_same(*key, alike)} ({len(alike)} rows)" for key, alike in several.items())
    return (
        f"Matched within rows of one training budget: {inside}. Nothing is matched between rows of different "
        f"budgets ({amounts})."
    )


def _same(kind: str, asked: float | None, rows: Sequence[Row]) -> str:
    """What rows of one budget share, how closely, and what differs for all that."""
    steps_off = [b.steps_off for r in rows for b in training_budgets.budgets(r)]
    missed = [r.label for r in rows if not all(b.met for b in training_budgets.budgets(r))]
    texts = {training_budgets.examples_text(r) for r in rows}
    if kind == training_budgets.FLOPS:
        text = f"training FLOPs, {format_flops(asked)} each, inherited part included"
        known = [steps for steps in steps_off if steps is not None]
        text += f", met within {max(known):.2g} steps" if len(known) == len(steps_off) and max(known) > 0 else ""
        name, amounts = "training examples", [training_budgets.total_examples(r) for r in rows]
    else:
        alike = len(texts) == 1
        text = f"training examples, {next(iter(texts)) if alike else format_number(asked, 0)} each"
        text += "" if alike else ", inherited part included"
        name, amounts = "training FLOPs", [training_budgets.total_flops(r) for r in rows]
    text += f" (not met within one step: {', '.join(missed)})" if missed else ""
    counted = [v for v in amounts if v]
    if len(counted) < len(amounts):
        return f"{text}; {name} were not counted" + (" in all of them" if counted else "")
    factor = max(counted) / min(counted)
    return f"{text}; {name} " + (
        f"differ by a factor of {factor:.3g}" if factor >= 1.005 else "are the same to within 0.5 %"
    )
