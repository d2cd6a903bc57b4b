"""rim-isolated-blocks: RiM whose blocks do not see each other. Do blocks build on the ones before them?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from rim_bench.models.rim import Rim


@dataclass(frozen=True)
class RimIsolatedBlocks(Rim):
    """Every block sees the question only, and itself.

    All blocks have the same tokens at the same positions and so the same states: this is RiM with one block, trained
    with all of its losses and priced with all of its positions. The number of blocks at inference changes nothing.
    """

    name: ClassVar[str] = "rim-isolated-blocks"
    summary: ClassVar[str] = "control of rim: every block sees the question only"

    blocks: Literal["chain", "isolated"] = "isolated"

    def __post_init__(self) -> None:
        if self.blocks != "isolated":
            raise ValueError("blocks is isolated: with a chain of blocks it would be rim")
        super().__post_init__()
