"""Parallel steps: do three of these digits sum to t modulo 17? (3-sum; one step a triple, none needs another.)

    3c804.?f         digits 3, c, 8, 0, 4 (a is ten, g is sixteen), and t = f: 3 + c + 0 does it, so the answer is 1
    (fillers mean nothing)

A step is a triple with its sum, the sum of the first two on the way (`3cf86`: 3 + c = f, + 8 = 6), triples in the order
of their places; the answer is 1 where one of the sums is t. One layer of attention can look at all pairs of places at
once, but not at all triples without much width (Match2 and Match3 of Sanford et al., arXiv 2306.02896); tokens that
mean nothing can carry the triples, where training shows steps like these (Pfau et al., arXiv 2404.15758).

No shortcut: t is drawn apart from the answer, and adding 1 to every digit (and as often to t) changes no answer, so no
digit alone, whether at its place or counted, says anything about it. Digits are distinct, so neither does how many are
alike, and 17 is prime, so neither do parities. Levels are `m=3` to `m=6`, the number of digits. `pairs m=3` and so on
ask for a pair (`3cf`: 3 + c = f). `lookup m=3` and so on
are the control: the questions and steps of a triple, but the answer is the first digit's parity. Standard library only.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from typing import Final

from rim_bench.methods.method import Example
from rim_bench.tasks.litmus import TOKEN_PATTERN, fill
from rim_bench.tasks.streams import stream

__all__ = ["DIGITS", "LEVELS", "TOKEN_PATTERN", "generate", "shortcuts"]

DIGITS: Final = "0123456789abcdefg"
MAX_DIGITS: Final = 6
PAIRS: Final = "pairs "
CONTROL: Final = "lookup "
LEVELS: Final = tuple(f"m={m}" for m in range(3, MAX_DIGITS + 1))


def generate(n: int, levels: Sequence[str], seed: int, split: str) -> list[Example]:
    """`n` examples of levels "m=3", "pairs m=3", "lookup m=3", ...; arguments and errors as `streams.stream`."""
    allowed = tuple(kind + level for kind in ("", PAIRS, CONTROL) for level in LEVELS)
    return stream("match", n, levels, seed, split, allowed=allowed, answers="01", draw=_draw)


def shortcuts(question: str) -> dict[str, str]:
    """The number that is looked for, and single digits."""
    line, _, wanted = question.partition("?")
    digits = [mark for mark in line if mark in DIGITS]
    ends = {"first digit": digits[0], "last digit": digits[-1]}
    return {"wanted sum": wanted, **ends, "number of digits": str(len(digits))}


def _draw(level: str, answer: str, rng: random.Random) -> tuple[str, tuple[str, ...]]:
    """t at random, then uniform over the questions of a level with it and this answer:
    distinct digits, drawn until they have it.
    """
    count, size = int(level[-1]), 2 if level.startswith(PAIRS) else 3
    wanted = rng.randrange(len(DIGITS))
    while True:
        digits = rng.sample(range(len(DIGITS)), count)
        checks = list(combinations(digits, size))
        matches = (
            digits[0] % 2 if level.startswith(CONTROL) else any(sum(check) % len(DIGITS) == wanted for check in checks)
        )
        if str(int(matches)) == answer:
            break
    line = "".join(DIGITS[digit] for digit in digits) + fill(MAX_DIGITS - count, rng)
    return f"{line}?{DIGITS[wanted]}", tuple(map(_step, checks))


def _step(check: tuple[int, ...]) -> str:
    """A check in digits: its first digit, then each further one with the sum so far."""
    text, total = DIGITS[check[0]], check[0]
    for digit in check[1:]:
        total = (total + digit) % len(DIGITS)
        text += DIGITS[digit] + DIGITS[total]
    return text
