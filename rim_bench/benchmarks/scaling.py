"""Cost against one knob."""

from __future__ import annotations

from collections.abc import Callable

from rim_bench.benchmarks.lines import Measured
from rim_bench.run_options import Options


def scaling(options: Options, vary: str, rounds: int, show: Callable[[str], None] = lambda _: None) -> Measured:
    raise NotImplementedError
