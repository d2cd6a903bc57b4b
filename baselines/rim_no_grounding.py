"""rim-no-grounding: RiM's second stage alone. Is it the supervision by steps that helps?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rim_bench.models.rim import Rim


@dataclass(frozen=True)
class RimNoGrounding(Rim):
    """Blocks whose readouts only ever predict the answer; no step is seen in training.

    The whole budget is stage 2. Its rate is the run's own: RiM lowers it to a fifth to keep what stage 1 has learned,
    and here there is no stage 1, so the control would only be starved (`refine_lr_scale`).
    """

    name: ClassVar[str] = "rim-no-grounding"
    summary: ClassVar[str] = "control of rim: refinement only, no step ever supervised"

    epochs_ground: float = 0
    refine_lr_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.epochs_ground:
            raise ValueError("epochs_ground is 0: with grounding it would be rim")
        super().__post_init__()
