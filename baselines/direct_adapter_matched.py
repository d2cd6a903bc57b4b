"""direct-adapter-matched: direct with as many trained parameters as RiM. Is it the larger number that helps?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rim_bench.baselines.direct import Direct


@dataclass(frozen=True)
class DirectAdapterMatched(Direct):
    """direct, its LoRA rank raised until it trains at least as many parameters as rim at the run's own rank.

    Pretrained backbones only.
    """

    name: ClassVar[str] = "direct-adapter-matched"
    summary: ClassVar[str] = "control of rim: direct, its LoRA rank raised to the number of parameters that rim trains"
    adapter_of: ClassVar[str | None] = "rim"
