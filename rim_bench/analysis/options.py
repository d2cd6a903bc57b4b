"""What is asked of interventions beside how a run's questions are read. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rim_bench.evaluate.options import StoredRunOptions
from rim_bench.util.errors import check_count
from rim_bench.util.flags import Flag


@dataclass(frozen=True, kw_only=True)
class InterventionOptions(StoredRunOptions):
    """What trained runs are asked, and which interventions are made: `rim-bench intervene`.

    Raises:
        UsageError: as of stored runs, or a seed below 0.
    """

    verdict_only: Annotated[bool, Flag("Only what the verdict needs: no single layers, segments or heat maps.")] = False
    donor_seed: Annotated[int, Flag("What donors and noise are drawn from.")] = 0

    def __post_init__(self) -> None:
        check_count("--donor-seed", self.donor_seed, 0)
        super().__post_init__()
