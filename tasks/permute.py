"""Serial depth: a point is moved by T permutations of five points, one after the other; where does it end?

    3adg.:,;?        starts at 3, moved by a, then d, then g (fillers mean nothing)

A step is the permutation and the point it leads to (`a1`), the answer the last point. Each step needs the one before:
the word problem of permutations of five points is complete for NC1, so a fixed number of layers cannot do it at every
length (Barrington 1989; Liu et al., arXiv 2210.10749, on what shallow transformers do instead). The permutations are
fixed and
not shown: a method has to learn them from the data, ten tables of five entries.

No shortcut: the ten permutations are two Latin squares, so a start, or any one permutation, leads to every point
equally often; no token alone, whether at its position or counted, says anything about the answer. Levels are `T=1` to
`T=8`. `lookup T=1` and so on are
the control: the same questions and steps, but the answer is the start, which stands in the question.
Standard library only.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Final

from rim_bench.methods.method import Example
from rim_bench.tasks.litmus import TOKEN_PATTERN, fill
from rim_bench.tasks.streams import stream

__all__ = ["LEVELS", "POINTS", "TOKEN_PATTERN", "generate", "permutations", "shortcuts"]

POINTS: Final = 5
MAX_DEPTH: Final = 8
MOVES: Final = "abcdefghij"
CONTROL: Final = "lookup "
LEVELS: Final = tuple(f"T={depth}" for depth in range(1, MAX_DEPTH + 1))


@cache
def permutations() -> dict[str, tuple[int, ...]]:
    """Letter -> where the points 0 to 4 move: two Latin squares of five different permutations each, drawn once."""
    rng = random.Random("permute 1")
    rows: list[tuple[int, ...]] = []
    while len(rows) < len(MOVES):
        square: list[tuple[int, ...]] = []
        while len(square) < POINTS:
            row = tuple(rng.sample(range(POINTS), POINTS))
            if row in rows or any(a == b for other in square for a, b in zip(row, other, strict=True)):
                square = [] if rng.random() < 0.02 else square  # some beginnings have no end
            else:
                square.append(row)
        rows += square
    return dict(zip(MOVES, rows, strict=True))


def generate(n: int, levels: Sequence[str], seed: int, split: str) -> list[Example]:
    """`n` examples of levels "T=1" to "T=8", or of the control's; arguments and errors as `litmus.stream`."""
    allowed = (*LEVELS, *(CONTROL + level for level in LEVELS))
    return stream("permute", n, levels, seed, split, allowed=allowed, answers="01234", draw=_draw)


def shortcuts(question: str) -> dict[str, str]:
    """The start, and single permutations at the ends."""
    moves = [mark for mark in question if mark in MOVES]
    ends = {"first permutation": moves[0], "last permutation": moves[-1], "last two permutations": "".join(moves[-2:])}
    return {"start": question[0], **ends}


def _draw(level: str, answer: str, rng: random.Random) -> tuple[str, tuple[str, ...]]:
    """Uniform over the questions of a level with this answer:
    moves at random, and the one start that they lead from to it.
    """
    tables, depth = permutations(), int(level[-1])
    moves = rng.choices(MOVES, k=depth)
    start = int(answer)
    if not level.startswith(CONTROL):
        for move in reversed(moves):
            start = tables[move].index(start)
    steps, point = [], start
    for move in moves:
        point = tables[move][point]
        steps.append(f"{move}{point}")
    return f"{start}{''.join(moves)}{fill(MAX_DEPTH - depth, rng)}?", tuple(steps)
