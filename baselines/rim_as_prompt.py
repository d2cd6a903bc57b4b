"""rim-as-prompt: RiM's embeddings on a frozen backbone. Is it only a learned prompt?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from rim_bench.models.rim import Rim


@dataclass(frozen=True)
class RimAsPrompt(Rim):
    """Only the three new rows train, by both stages; the weights stay those that the run starts from.

    It needs weights that are worth keeping: pretrained ones, or a shared start. On random ones it is refused.
    """

    name: ClassVar[str] = "rim-as-prompt"
    summary: ClassVar[str] = "control of rim: the backbone is frozen, only the blocks' three embeddings train"
    trains: ClassVar[Literal["all", "markers"]] = "markers"
