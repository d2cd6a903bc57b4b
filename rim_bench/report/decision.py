"""`rim-bench decide`: arms within a budget for one answer, and one sentence on latent against text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rim_bench.evidence import training_budgets
from rim_bench.evidence.decision import AnswerBudget, ArmWithinBudget, BudgetDecision, BudgetKind, decisions
from rim_bench.evidence.ranking import contests
from rim_bench.evidence.rows import Reason
from rim_bench.report.sections import format_bounds
from rim_bench.storage.run_folder import Run
from rim_bench.util.files import Record
from rim_bench.util.table import Panel, Section, Table
from rim_bench.util.text import format_accuracy, format_bytes, format_flops, format_number, format_points

COLUMNS = (
    "family", "arm", "accuracy %", "answer costs", "training FLOPs", "FLOPs per item", "passes", "TTFT ms", "full ms",
    "full ms p95", "KV cache",
)  # fmt: skip
RECORDS = (
    "task", "split", "budget_kind", "budget_asked", "set", "n", "kind", "amount", "least", "record", "family", "label",
    "setting", "accuracy", "ci_low", "ci_high", "seed_sd", "cost", "training_flops", "tuning_flops", "flops", "passes",
    "ttft_ms", "full_ms", "full_ms_p95", "kv_bytes", "against", "difference", "low", "high", "seeds_needed", "answer",
)  # fmt: skip
NAMES: dict[BudgetKind, str] = {"flops": "FLOPs per item", "latency": "latency", "memory": "KV cache"}


def format_cost(kind: BudgetKind, value: float | None) -> str:
    """An amount in the unit of its budget."""
    if kind == "flops":
        return format_flops(value)
    return format_bytes(value) if kind == "memory" else f"{format_number(value)} ms"


def table(runs: Iterable[Run], budget: AnswerBudget, split: str | None = None) -> Table:
    """The arms of every contest of the stored runs, with the verdict of each as a note.

    Raises:
        UsageError: nothing that can be ranked.
    """
    ranked, left_out = contests(runs, split)
    sections, records = [], []
    for decision in decisions(ranked, budget):
        title = f"{decision.contest.title}, {decision.scope.title}"
        cells = tuple(_cells(arm, decision) for arm in decision.arms)
        panel = Panel(_caption(decision), COLUMNS, cells, align="ll" + "r" * (len(COLUMNS) - 2))
        sections.append(Section(title, (panel,), tuple(_notes(decision))))
        records += list(_records(decision))
    return Table(
        "What to deploy within a budget",
        any(c.group.quick for c in ranked),
        tuple(sections),
        tuple(records),
        RECORDS,
        tuple(item.text() for item in left_out if item.reason is not Reason.DAMAGED),
    )


def sentence(decision: BudgetDecision) -> str:
    """Whether latent beats the best text arm within the budget, with the difference and its interval."""
    equal = f"within {format_cost(decision.budget.kind, decision.budget.amount)} of {NAMES[decision.budget.kind]}"
    latent, text = decision.best("latent"), decision.best("text")
    if latent is None or text is None:
        missing = " and no ".join(f for f, arm in (("latent", latent), ("text", text)) if arm is None)
        return f"Latent beats the best text arm {equal}: not shown, for no {missing} arm lies there."
    if decision.contrast is None:
        return f"Latent beats the best text arm {equal}: not shown, for both are settings of one trained model."
    difference, verdict = decision.contrast
    by = f"{format_points(difference.value)} points {format_bounds(difference.interval)}"
    sides = f"{latent.reading.label} against {text.reading.label}"
    why = verdict.text() if decision.answer != "yes" else f"{latent.reading.label} higher"
    return f"Latent beats the best text arm {equal} by {by}: {decision.answer} ({sides}: {why})."


def _caption(decision: BudgetDecision) -> str:
    budget = decision.budget
    at_least = f", at least {100 * budget.least:g} % right" if budget.least else ""
    where = f"n = {len(decision.scope.ids):,}"
    return f"Within {format_cost(budget.kind, budget.amount)} of {NAMES[budget.kind]}{at_least}, {where}"


def _cells(arm: ArmWithinBudget, decision: BudgetDecision) -> tuple[str, ...]:
    row, ids = arm.point.row, decision.scope.ids
    return (
        arm.family,
        arm.reading.label,
        format_accuracy(arm.accuracy),
        format_cost(decision.budget.kind, arm.cost),
        format_flops(training_budgets.total_flops(row)),
        format_flops(row.flops(ids)),
        format_number(row.cost_mean("passes", ids)),
        format_number(arm.point.milliseconds("ttft_ms", ids)),
        format_number(arm.point.milliseconds("full_ms", ids)),
        format_number(_p95(arm)),
        format_bytes(row.cost_mean("kv_bytes", ids)),
    )


def _p95(arm: ArmWithinBudget) -> float | None:
    """Of the full answer at batch 1, over all timed questions; the mean over seeds."""
    return arm.point.row.part_mean(lambda part: part.summary.time("latency", "full_ms", "p95"))


def _notes(decision: BudgetDecision) -> Iterator[str]:
    kind = decision.budget.kind
    yield sentence(decision)
    for row in decision.beyond:
        if row.cheapest is None:
            why = "has no such cost stored, or settings that were timed on different machines"
        elif row.best is None:
            why = f"has no measured setting within it: the cheapest costs {format_cost(kind, row.cheapest)}"
        else:
            why = f"reaches {100 * row.best:.1f} % within it, under the {100 * decision.budget.least:g} % asked for"
        yield f"{row.row.label} ({row.family}) {why}."
    if swept := decision.unmeasured:
        names = ", ".join(row.label for row in swept)
        yield f"Measured at one setting alone: {names}; `rim-bench sweep` measures others, within the budget or not."
    yield (
        "Latent arms have positions that carry no text (thoughts, memory blocks, pauses); all others are text arms. "
        "Each row stands with its best measured setting within the budget, votes included, chosen on these questions; "
        "p is adjusted over all pairs of a latent and a text arm."
    )


def _records(decision: BudgetDecision) -> Iterator[Record]:
    contest, budget, ids = decision.contest, decision.budget, decision.scope.ids
    facts = contest.group.facts
    base: Record = {
        "task": facts.task, "split": facts.split, "budget_kind": contest.kind, "budget_asked": contest.asked,
        "set": decision.scope.name, "n": len(ids), "kind": budget.kind, "amount": budget.amount, "least": budget.least,
    }  # fmt: skip
    for arm in decision.arms:
        row = arm.point.row
        yield base | {
            "record": "arm", "family": arm.family, "label": arm.reading.row.label, "setting": arm.point.label,
            "accuracy": arm.accuracy.value, "ci_low": arm.accuracy.interval.low,
            "ci_high": arm.accuracy.interval.high,
            "seed_sd": arm.accuracy.sd, "cost": arm.cost, "training_flops": training_budgets.total_flops(row),
            "tuning_flops": training_budgets.tuning_flops(row), "flops": row.flops(ids),
            "passes": row.cost_mean("passes", ids), "ttft_ms": arm.point.milliseconds("ttft_ms", ids),
            "full_ms": arm.point.milliseconds("full_ms", ids), "full_ms_p95": _p95(arm),
            "kv_bytes": row.cost_mean("kv_bytes", ids),
        }  # fmt: skip
    verdict: Record = {"record": "verdict", "answer": decision.answer}
    if decision.contrast is not None:
        difference, judgement = decision.contrast
        verdict |= {
            "label": difference.first.label, "against": difference.second.label, "difference": difference.value,
            "low": difference.interval.low, "high": difference.interval.high, "seeds_needed": judgement.seeds_needed,
        }  # fmt: skip
    yield base | verdict
