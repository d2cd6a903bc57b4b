"""What decides the last bit of a result: the version of the engine's numerics, and a fingerprint of all beside it."""

from __future__ import annotations

from typing import Final

NUMERICS_VERSION: Final = 2
"""Of runs that compute in float32. Raised with every change after which the same specification trains to other numbers
or answers with other tokens, if only in rounding: `tests/engine/test_numerics.py` is red otherwise. It is part of every
specification.

1: not written into specifications; the engine of all runs without a version, and so not one engine.
2: stages share a budget in FLOPs by examples, as they share one in examples.
"""
BFLOAT16_VERSION: Final = 3
"""The same of runs that compute in bfloat16, which no float32 run ever has.

1, 2: autocast over weights in float32.
3: frozen weights are kept in bfloat16 and adapters added before an output is rounded; norms are rounded once.
"""


def numerics_version(dtype: str) -> int:
    """Of runs that compute in this type."""
    return BFLOAT16_VERSION if dtype == "bfloat16" else NUMERICS_VERSION
