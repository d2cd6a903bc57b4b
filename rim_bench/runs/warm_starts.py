"""Controls that need trained runs: further evaluations of them, and warm starts.

Warm-start controls are `direct` and `pause` from the weights that another arm's first stage makes, at the whole budget
of that arm.

An arm like Coconut begins with a stage of CoT inside its own budget. What it then gains over a direct model that never
saw a chain may be that stage's. So the controls train a CoT model for as many steps as the stage took, and continue
from it with what is left. How good that model is does not matter: the arm had no better one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rim_bench.engine.execution import ALONE, ExecutionContext
from rim_bench.evaluate.stored_runs import evaluate_stored
from rim_bench.evaluate.vocabulary_check import CannotBeAsked
from rim_bench.methods.controls import Control
from rim_bench.methods.registry import method_of
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import Plan, arms
from rim_bench.storage.run_folder import Run
from rim_bench.util.progress import Reporter


def warm_options(plan: Plan, runs: Sequence[Run], controls: Sequence[Control]) -> list[Options]:
    """One request for each warm start among the controls: its methods, its start's examples, the rest of the budget.

    Args:
        runs: the trained arms of `plan`, whose logs say how many steps the stage took.
    """
    study, last = plan[0].study, arms(plan)[-1].plan
    out = []
    for start in dict.fromkeys(c.start for c in controls if c.start is not None):
        steps = 0  # the most of any run, in the stages that such a start would have spared it
        for run in runs:
            spared = {s.name for s in method_of(run.spec.method).stages() if s.given_by == start}
            steps = max(steps, sum(record["stage"] in spared for record in run.metrics()))
        if not steps:
            continue  # the budget was so small that the stage had no step of its own
        methods = tuple(dict.fromkeys(c.method for c in controls if c.start == start))
        settings = {k: v for k, v in study.options.settings.items() if k in methods}
        same = dataclasses.replace(study.options, methods=methods, start=start, settings=settings, any_start=True)
        request = dataclasses.replace(same, cot_examples=steps * last.batch_size)
        if study.options.train_flops is None:
            request = dataclasses.replace(request, examples=last.examples - steps * last.batch_size)
        out.append(request)
    return out


def evaluate_controls(
    runs: Sequence[Run],
    controls: Sequence[Control],
    options: Options,
    reporter: Reporter,
    execution: ExecutionContext = ALONE,
) -> None:
    """The controls that are one more evaluation of a run.

    A run that is never asked the test questions is named, and passed over.
    """
    for control in (c for c in controls if c.evaluation):
        for run in (r for r in runs if r.spec.method.name == control.method):
            try:
                asked = dataclasses.replace(options, effort=control.effort, split_passes=control.split_passes)
                evaluate_stored(run, asked, reporter, execution=execution)
            except CannotBeAsked as error:
                reporter.note(f"control {control.label} was not run: {error}")
