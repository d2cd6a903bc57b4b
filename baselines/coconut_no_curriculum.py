"""coconut-no-curriculum: coconut's last stage from the start (Hao et al., arXiv 2412.06769, "w/o curriculum")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rim_bench.baselines.coconut import Coconut


@dataclass(frozen=True)
class CoconutNoCurriculum(Coconut):
    """All thoughts and no steps, in the whole budget.

    It tells what the recycled hidden state gives without the curriculum.
    """

    name: ClassVar[str] = "coconut-no-curriculum"
    summary: ClassVar[str] = "control of coconut: its last stage only, from the start (arXiv 2412.06769)"

    epochs_cot: float = 0
    epochs_latent: float = 0

    def __post_init__(self) -> None:
        if self.epochs_cot or self.epochs_latent:
            raise ValueError("epochs_cot and epochs_latent are 0: with another stage it would be coconut")
        super().__post_init__()
