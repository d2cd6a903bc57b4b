"""Parallel steps: m items are looked up in one table under one key, and what is found is added; no look-up needs another.

    fbk.,:?D         the key is D; the answer is table[f][D] + table[b][D] + table[k][D] (mod 2) (fillers mean nothing)

A step is an item and its entry (`f1`), in order; the answer is the entries' sum modulo 2 (their XOR). The table (12 items by 12 keys) is
fixed and not shown: a method has to learn it. Levels say how many items and where the key stands:

- `m=1` to `m=6`: the key is the last token of the question. A causal model knows it only there, so nothing can be looked up at the items'
  own positions: a direct answer has the last two positions (and `#### `) for all look-ups, a method with blocks has its blocks as well.
- `first m=1` and so on: the key is the first token, the rest is the same. Every item can be looked up where it stands, side by side.
- `lookup m=1` and so on: the control, questions and steps as in `m=1`, but the answer is the first item's parity (its place in the
  alphabet), which needs neither key nor table nor sum.

No shortcut: every item has as many entries of each value, and so has every key, so no token alone, whether at its position or counted,
says anything about the answer. Standard library only.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Final

from rim_bench.method import Example
from rim_bench.tasks.litmus import TOKEN_PATTERN, fill, stream

__all__ = ["LEVELS", "TOKEN_PATTERN", "generate", "table"]

VALUES: Final = 2
ITEMS: Final = "abcdefghijkl"
KEYS: Final = "ABCDEFGHIJKL"
MOST: Final = 6
CONTROL: Final = "lookup "
FIRST: Final = "first "
LEVELS: Final = tuple(f"m={m}" for m in range(1, MOST + 1))


@cache
def table() -> dict[tuple[str, str], int]:
    """(item, key) -> entry, drawn once for all among the tables in which every item and every key has each value equally often."""
    rng = random.Random("lookups 1")
    grid = [[(row + column) % VALUES for column in range(len(KEYS))] for row in range(len(ITEMS))]
    for _ in range(20_000):  # exchanges that keep the sums of rows and columns, as in a Markov chain over such tables
        (a, b), (c, d) = rng.sample(range(len(ITEMS)), 2), rng.sample(range(len(KEYS)), 2)
        if grid[a][c] == grid[b][d] and grid[a][d] == grid[b][c]:
            grid[a][c], grid[a][d], grid[b][c], grid[b][d] = grid[a][d], grid[a][c], grid[b][d], grid[b][c]
    return {(item, key): grid[i][k] for i, item in enumerate(ITEMS) for k, key in enumerate(KEYS)}


def generate(n: int, levels: Sequence[str], seed: int, split: str) -> list[Example]:
    """`n` examples of levels "m=1" to "m=6", "first m=1" ..., "lookup m=1" ...; arguments and errors as `litmus.stream`."""
    allowed = tuple(kind + level for kind in ("", FIRST, CONTROL) for level in LEVELS)
    return stream("lookups", n, levels, seed, split, allowed=allowed, answers="01", draw=_draw)


def _draw(level: str, answer: str, rng: random.Random) -> tuple[str, tuple[str, ...]]:
    """Uniform over the questions of a level with this answer: distinct items and a key, drawn until they have it."""
    entries, count = table(), int(level[-1])
    while True:
        items, key = rng.sample(ITEMS, count), rng.choice(KEYS)
        found = [entries[item, key] for item in items]
        if str(ITEMS.index(items[0]) % VALUES if level.startswith(CONTROL) else sum(found) % VALUES) == answer:
            break
    line = "".join(items) + fill(MOST - count, rng)
    question = f"{key}{line}?" if level.startswith(FIRST) else f"{line}?{key}"
    return question, tuple(f"{item}{entry}" for item, entry in zip(items, found, strict=True))
