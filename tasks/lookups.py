"""Parallel steps: m items are looked up in one table under one key; no look-up needs another.

    fbk.,:?D         the key is D; the answer is table[f][D] xor table[b][D] xor table[k][D] (fillers mean nothing)

A step is an item and its entry (`f1`), in order. Entries are 0 or 1, and so are answers: the XOR of the entries here,
their majority in `rim_bench.tasks.vote`. The table (12 items by 12 keys; `vote`: 16 by 16) is fixed and not shown: a
method has to learn it. Levels say how many items and where the key stands:

- `m=1` to `m=6`: the key is the last token of the question. A causal model knows it only there, so nothing can be
  looked up at the items'
  own positions: a direct answer has the last two positions (and `#### `) for all look-ups, a method with blocks has its
      blocks as well.
- `first m=1` and so on: the key is the first token, the rest is the same. Every item can be looked up where it stands,
  side by side.
- `lookup m=1` and so on: the control, questions and steps as in `m=1`, but the answer is the first item's parity (its
  place in the alphabet), which needs neither key nor table nor joining.

No shortcut: every item has as many entries of each value, and so has every key, so no token alone, whether at its
position or counted, says anything about the answer. Standard library only.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from rim_bench.methods.method import Example
from rim_bench.tasks.litmus import TOKEN_PATTERN, fill
from rim_bench.tasks.streams import stream

__all__ = ["FAMILY", "TOKEN_PATTERN", "Family", "generate", "shortcuts", "table"]

ITEMS: Final = "abcdefghijklmnopqrst"
KEYS: Final = ITEMS.upper()
CONTROL: Final = "lookup "
FIRST: Final = "first "


@cache
def table(size: int) -> dict[tuple[str, str], int]:
    """(item, key) -> 0 or 1, drawn once: every item and every key has as many of each; `size` is even."""
    rng = random.Random("lookups 1" if size == 12 else f"lookups 1 {size}")
    grid = [[(row + column) % 2 for column in range(size)] for row in range(size)]
    for _ in range(20_000):  # exchanges that keep the sums of rows and columns: a Markov chain over such tables
        (a, b), (c, d) = rng.sample(range(size), 2), rng.sample(range(size), 2)
        if grid[a][c] == grid[b][d] and grid[a][d] == grid[b][c]:
            grid[a][c], grid[a][d], grid[b][c], grid[b][d] = grid[a][d], grid[a][c], grid[b][d], grid[b][c]
    return {(ITEMS[i], KEYS[k]): grid[i][k] for i in range(size) for k in range(size)}


@dataclass(frozen=True)
class Family:
    """Look-ups joined in one way."""

    name: str
    size: int  # of the table
    counts: tuple[int, ...]  # of items: the levels
    join: Literal["xor", "vote"]  # a vote needs odd counts

    @property
    def levels(self) -> tuple[str, ...]:
        """Those with the key last."""
        return tuple(f"m={m}" for m in self.counts)

    def generate(self, n: int, levels: Sequence[str], seed: int, split: str) -> list[Example]:
        """`n` examples of levels "m=1", ..., "first m=1", ..., "lookup m=1", ...; arguments and errors as
        `litmus.stream`.
        """
        allowed = tuple(kind + level for kind in ("", FIRST, CONTROL) for level in self.levels)
        return stream(self.name, n, levels, seed, split, allowed=allowed, answers="01", draw=self._draw)

    def joined(self, entries: Sequence[int]) -> int:
        """The answer to these entries."""
        return sum(entries) % 2 if self.join == "xor" else int(2 * sum(entries) > len(entries))

    def _draw(self, level: str, answer: str, rng: random.Random) -> tuple[str, tuple[str, ...]]:
        """Uniform over the questions of a level with this answer:
        distinct items and a key, drawn until they have it.
        """
        entries, count = table(self.size), int(level[-1])
        while True:
            items, key = rng.sample(ITEMS[: self.size], count), rng.choice(KEYS[: self.size])
            selected = [entries[item, key] for item in items]
            if str(ITEMS.index(items[0]) % 2 if level.startswith(CONTROL) else self.joined(selected)) == answer:
                break
        line = "".join(items) + fill(max(self.counts) - count, rng)
        question = f"{key}{line}?" if level.startswith(FIRST) else f"{line}?{key}"
        return question, tuple(f"{item}{entry}" for item, entry in zip(items, selected, strict=True))


def shortcuts(question: str) -> dict[str, str]:
    """The key, and single items without it."""
    items = [mark for mark in question if mark in ITEMS]
    key = next(mark for mark in question if mark in KEYS)
    return {"key": key, "first item": items[0], "last item": items[-1], "number of items": str(len(items))}


FAMILY: Final = Family("lookups", 12, (1, 2, 3, 4, 5, 6), "xor")


def generate(n: int, levels: Sequence[str], seed: int, split: str) -> list[Example]:
    """`n` examples of levels "m=1", "first m=1", "lookup m=1", ...; arguments and errors as `litmus.stream`."""
    return FAMILY.generate(n, levels, seed, split)
