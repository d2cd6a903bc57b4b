"""rim-no-refinement: RiM's first stage alone. What does the second one add?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rim_bench.models.rim import Rim


@dataclass(frozen=True)
class RimNoRefinement(Rim):
    """Grounding only: T steps train T blocks, and the answer is read behind block T alone.

    T is not known at inference (reading behind block T would tell the model how long the solution is), so the prompt
    has a fixed number of blocks, K. A question of exactly K steps is read where it was trained (`ground = skip`);
    shorter ones behind a block that they never had, longer ones behind one that was trained on their next step. Its
    accuracy is therefore a lower bound of what
    stage 1 has learned: the per-block answers of an evaluation, read by level, hold the rest. K = 3 is the longest
    example of the embedded task's training set and the median length of GSM8K's. `ground = all` has its answers one
    block later: set K = 4 there.
    """

    name: ClassVar[str] = "rim-no-refinement"
    summary: ClassVar[str] = "control of rim: grounding only, read behind block K, where a K-step question was trained"

    K: int = 3
    epochs_refine: float = 0

    def __post_init__(self) -> None:
        if self.epochs_refine:
            raise ValueError("epochs_refine is 0: with refinement it would be rim")
        super().__post_init__()
