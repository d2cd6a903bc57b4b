"""`rim-bench list runs`: what is stored, a line a run, newest last; an id or a selector names each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rim_bench.storage.records import EvaluationRecord, SettingsRecord, TrainingRecord
from rim_bench.storage.run_folder import Damaged, Run
from rim_bench.util.files import Record
from rim_bench.util.table import Look, Table
from rim_bench.util.text import format_flops

COLUMNS = ("id", "method", "accuracy %", "seed", "budget", "task", "start", "model", "when")


def table(runs: Sequence[Run], damaged: Sequence[Damaged]) -> Table:
    """All runs, shared starts and trials too, with the accuracy on their own task's test questions, where stored."""
    ordered = sorted(runs, key=lambda run: (_when(run), run.id))
    records = [_record(run) for run in ordered]
    listed = Table.of_rows(
        "Stored runs",
        COLUMNS,
        [_cells(record) for record in records],
        align="llrrrllll",
        look=Look(level=2),
        foot=[f"{d.path.name} is damaged: {d.reason}" for d in damaged],
        records=records,
    )
    return replace(listed, file="-f csv")  # where the columns are that a terminal has no room for


def _record(run: Run) -> Record:
    spec, training = run.spec, run.training() or TrainingRecord()
    kind, amount = spec.total_budget
    accuracy, n = own_accuracy(run)
    return {
        "method": spec.method.title,
        "role": spec.role,
        "task": spec.task.name,
        "model": spec.backbone.name,
        "seed": spec.seed,
        "budget": kind,
        "budget_amount": amount,
        "start": spec.start,
        "finished": training.steps is not None,
        "validation": None if training.validation is None else training.validation.accuracy,
        "accuracy": accuracy,
        "n": n,
        "when": _when(run),
        "id": run.id,
    }


def _when(run: Run) -> str:
    """The minute in which its training was last started, in UTC; "" where that is not stored."""
    return str((run.read("environment.json") or {}).get("date", ""))[:16].replace("T", " ")


def own_accuracy(run: Run) -> tuple[float | None, int | None]:
    """Share of right answers in distribution, of the evaluation that the run itself made, and of how many questions."""
    for key, evaluation in plain_evaluations(run).items():
        if evaluation.task == run.spec.task.name:
            return accuracy_in_distribution(run, key)
    return None, None


def accuracy_in_distribution(run: Run, key: str) -> tuple[float, int]:
    """Share of right answers to the questions like those trained on, else to all, and of how many questions."""
    items = run.read_items(key)
    inside = [item for item in items if not item.ood] or items
    return sum(item.correct for item in inside) / len(inside), len(inside)


def plain_evaluations(run: Run) -> dict[str, EvaluationRecord]:
    """Its evaluations on test questions at the method's own settings: one greedy answer, in the usual order."""
    return {
        key: e
        for key, e in run.evaluations().items()
        if e.split == "test" and not e.curve and e.effort is None and _is_plain(e.settings or SettingsRecord())
    }


def _is_plain(settings: SettingsRecord) -> bool:
    return settings.votes is None and settings.order is None


def _cells(record: Record) -> list[str]:
    amount, kind = record["budget_amount"], str(record["budget"])
    if amount is None:
        budget = "-"
    else:
        budget = format_flops(amount) + " FLOPs" if "flops" in kind else f"{int(amount):,} examples"
    role = "" if record["role"] == "arm" else f" ({record['role']})"
    accuracy = "-" if record["accuracy"] is None else f"{100 * record['accuracy']:.1f}"
    if not record["finished"]:
        accuracy = "unfinished"
    method, seed = f"{record['method']}{role}", record["seed"]
    cells = [record["id"], method, accuracy, seed, budget, record["task"], record["start"], record["model"]]
    return [*("-" if cell is None else str(cell) for cell in cells), record["when"] or "-"]
