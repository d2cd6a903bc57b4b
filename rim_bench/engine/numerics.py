"""What decides the last bit of a result: the version of the engine's numerics, and a fingerprint of all beside it."""

from __future__ import annotations

from typing import Final

NUMERICS_VERSION: Final = 2
"""Raised with every change after which the same specification trains to other numbers or answers with other tokens,
if only in rounding: `tests/engine/test_numerics.py` is red otherwise. It is part of every specification.

1: not written into specifications; the engine of all runs without a version, and so not one engine.
2: stages share a budget in FLOPs by examples, as they share one in examples.
"""
