"""pause-adapter-matched: pause with as many trained parameters as RiM. Is it the larger number that helps?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rim_bench.baselines.pause import Pause


@dataclass(frozen=True)
class PauseAdapterMatched(Pause):
    """pause, its LoRA rank raised until it trains at least as many parameters as rim at the run's own rank.

    Pretrained backbones only.
    """

    name: ClassVar[str] = "pause-adapter-matched"
    summary: ClassVar[str] = "control of rim: pause, its LoRA rank raised to the number of parameters that rim trains"
    adapter_of: ClassVar[str | None] = "rim"
