"""What a command is about to do: its cells, and what each has to train on and to answer."""

from __future__ import annotations

from collections.abc import Sequence

from rim_bench.runs.planned_run import QUICK_STEPS, Plan, PlannedRun
from rim_bench.runs.reporting import ANSWER, TRAIN, VALIDATE
from rim_bench.runs.training import evaluation_request, is_evaluated

LISTED = 8  # cells that are named


def cells_of(plans: Sequence[Plan], *, evaluation: bool = True) -> dict[str, dict[str, int]]:
    """What is left of each run: examples to train on, validation and test questions to answer.

    A budget in FLOPs says no examples before its rows are priced: such a cell counts as its questions alone.
    """
    out: dict[str, dict[str, int]] = {}
    for plan in plans:
        questions = _questions(plan[0], evaluation)
        for planned in plan:
            trained = planned.run.trained
            asks = evaluation and planned.role == "arm" and not (trained and is_evaluated(planned))
            out[planned.id] = {
                TRAIN: 0 if trained or planned.plan.flops else planned.plan.examples,
                VALIDATE: 0 if trained or not planned.trains else questions[0] * max(1, planned.selection.count),
                ANSWER: questions[1] if asks else 0,
            }
    return out


def _questions(planned: PlannedRun, evaluation: bool) -> tuple[int, int]:
    """Validation and test questions of each run of a study."""
    study, limit = planned.study, evaluation_request(planned.study, "validation").limit
    held = len(study.data[1].examples)
    asked = len(evaluation_request(study).dataset().examples) if evaluation else 0
    return held if limit is None else min(held, limit), asked


def announcement(plans: Sequence[Plan], *, evaluation: bool = True) -> str | None:
    """What will happen, as a sentence; None where nothing is left to do."""
    cells = cells_of(plans, evaluation=evaluation)
    left = [planned for plan in plans for planned in plan if any(cells[planned.id].values())]
    if not left:
        return None
    first = left[0]
    names = [planned.label for planned in left]
    named = ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
    study = first.study
    text = f"{len(left)} cell{'s' * (len(left) > 1)} on {study.device} in {study.precision.dtype}: {named}"
    training = next((planned for planned in left if cells[planned.id][TRAIN]), None)
    if training is not None:
        text += f"; {training.plan.examples:,} examples in steps of {training.plan.batch_size}"
    asked = [(max(c[VALIDATE] for c in cells.values()), "validation"), (max(c[ANSWER] for c in cells.values()), "test")]
    asks = " and ".join(f"{n:,} {name}" for n, name in asked if n)
    most = max(study.max_tokens(planned.method) for planned in left)
    text += f"; {asks} questions each, of at most {most} tokens" if asks else ""
    if study.options.quick:
        text += f". Quick: {QUICK_STEPS} steps, and no result"
    return text
