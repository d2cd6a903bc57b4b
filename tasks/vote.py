"""Parallel steps joined by a majority: look-ups as in `rim_bench.tasks.lookups`; m = 1, 3, 5, 7, 9.

An XOR of m entries is hard to learn in itself: no part of it says anything about the whole. A majority follows from its
parts one by one, so what is left to learn is the look-ups. Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rim_bench.methods.method import Example
from rim_bench.tasks.litmus import TOKEN_PATTERN
from rim_bench.tasks.lookups import Family, shortcuts

__all__ = ["FAMILY", "TOKEN_PATTERN", "generate", "shortcuts"]

FAMILY: Final = Family("vote", 16, (1, 3, 5, 7, 9), "vote")


def generate(n: int, levels: Sequence[str], seed: int, split: str) -> list[Example]:
    """`n` examples of the look-ups joined by majority; see `lookups.Family.generate`."""
    return FAMILY.generate(n, levels, seed, split)
