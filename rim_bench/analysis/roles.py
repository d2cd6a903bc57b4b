"""The causal role of what runs compute between question and answer: measured, judged over seeds, and written down."""

from __future__ import annotations

from collections.abc import Sequence

from rim_bench.analysis.interventions import intervene_run
from rim_bench.analysis.options import InterventionOptions
from rim_bench.analysis.suite import Intervention
from rim_bench.engine.execution import ALONE, ExecutionContext
from rim_bench.evidence.interventions import (
    DELTA,
    DELTA_CHANGED,
    Family,
    StoredSuite,
    check_controls,
    families,
    read_suite,
)
from rim_bench.report.interventions import table
from rim_bench.report.plots.heat_maps import heat_map
from rim_bench.storage.run_folder import Run
from rim_bench.util.files import write_bytes_atomic
from rim_bench.util.progress import Reporter, Silent

TABLE, MAPS = ("table.md", "table.csv"), ("heat_map.svg", "heat_map.png")


def intervene(
    runs: Sequence[Run],
    options: InterventionOptions,
    reporter: Reporter | None = None,
    *,
    also: Sequence[Intervention] = (),
    delta: float = DELTA,
    delta_changed: float = DELTA_CHANGED,
    execution: ExecutionContext = ALONE,
) -> list[Family]:
    """What interventions on the runs show: a family for each method, whose seeds count together.

    Each run's numbers, table and heat maps lie in `interventions/<key>/` of its folder. What is stored is not measured
    again, and a run whose controls do not hold stops all before the next one is measured.

    Args:
        also: further interventions than those of the suite.
        delta: loss of accuracy that counts as nothing, a fraction; `delta_changed`: share of changed answers.

    Raises:
        UsageError: a run that cannot be asked, a control that does not hold, or margins that are none.
    """
    reporter, suites = reporter or Silent(), []
    families([], delta, delta_changed)  # refuses margins before anything is measured
    for run in runs:
        key = intervene_run(run, options, reporter, also=also, execution=execution)
        suites.append(read_suite(run, key))
        check_controls(suites[-1])
    out = families(suites, delta, delta_changed)
    for suite in suites:
        alone = [f for f in out if f.suites == (suite,)] or families([suite], delta, delta_changed)
        write(suite, alone)
    return out


def write(suite: StoredSuite, alone: Sequence[Family]) -> None:
    """The tables and pictures of one run, beside its numbers.

    Args:
        alone: the families of this run only.
    """
    folder, shown = suite.run.interventions.folder(suite.key), table(alone)
    with suite.run.lock():
        for name, text in zip(TABLE, (shown.to_markdown(), shown.to_csv()), strict=True):
            write_bytes_atomic(folder / name, text.encode())
        for name in MAPS if alone[0].cells else ():
            if not (folder / name).exists():  # they depend on what was measured alone
                heat_map(alone[0], folder / name)
