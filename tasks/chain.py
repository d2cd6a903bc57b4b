r"""The embedded task: arithmetic chains modulo 10, generated, one token per item.

A question of depth T names T + 1 variables, in order, and asks for the last:

    a=7|ba+3|cb*2|___|___|___|c?        a = 7, b = a + 3, c = b * 2, what is c (mod 10)?

Every line is four pieces long (a blank one is `___`), so that questions of all depths have the same number of tokens:
text of variable length made chain-of-thought fail one step beyond training. A step is `b+3=0` (name, operation, `=`,
value), the answer one digit. Pieces are single tokens (`TOKEN_PATTERN`); an operation and its digit are one piece.

Answers are balanced: every run of ten questions of a level has every digit once as its answer, and given that answer
start and operations are drawn uniformly from all chains that lead to it. So the best constant answer scores 10 %.
(What balance cannot remove: the last operation bounds the answer, `*5` leaves 0 or 5, `*2` and `*4` an even digit.)

Training, validation and test questions are disjoint whatever the seeds: a question's hash decides its split
(80 / 10 / 10 %). Variable names are part of the question: at T = 1 there are only 140 chains under 380 namings.
Standard library only.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from functools import cache, reduce
from typing import Final

from rim_bench.methods.method import Example
from rim_bench.tasks.streams import stream

NAMES: Final = "abcdefghijklmnopqrst"
OPERATIONS: Final = tuple(f"{sign}{n}" for sign, low in (("+", 1), ("-", 1), ("*", 2)) for n in range(low, 6))
MAX_DEPTH: Final = 5
LEVELS: Final = tuple(f"T={depth}" for depth in range(1, MAX_DEPTH + 1))
BLANK: Final = "___"
TOKEN_PATTERN: Final = r"#### |[+*-][0-9]|\n|[\s\S]"
"""What a tokenizer must keep whole, as alternatives for `re.findall`:
the answer mark, an operation, else one character.
"""


def apply(operation: str, value: int) -> int:
    """One operation (`+3`, `-2`, `*5`) on a digit, modulo 10."""
    sign, n = operation[0], int(operation[1])
    return (value + n if sign == "+" else value - n if sign == "-" else value * n) % 10


def generate(n: int, levels: Sequence[str], seed: int, split: str) -> list[Example]:
    """`n` examples, levels and answers in balanced, shuffled order; the first k of them do not depend on n.

    Validation and test questions are distinct. Training draws with replacement (at T = 1 the whole space is 53,200
    questions, fewer than a long run reads), so a training question may recur.

    Args:
        levels: some of "T=1" to "T=5"; each takes its turn.
        split: "train", "validation" or "test".

    Raises:
        ValueError: an unknown split or level, a negative n, or more distinct questions than a level has.
    """
    digits = [str(digit) for digit in range(10)]
    return stream(
        "chain",
        n,
        levels,
        seed,
        split,
        allowed=LEVELS,
        answers=digits,
        draw=lambda level, answer, rng: _draw(int(level[2:]), int(answer), rng),
    )


@cache
def _ways(depth: int) -> tuple[int, ...]:
    """Value -> number of chains (start and `depth` operations) that end at it."""
    if depth == 0:
        return (1,) * 10
    before, after = _ways(depth - 1), [0] * 10
    for value in range(10):
        for operation in OPERATIONS:
            after[apply(operation, value)] += before[value]
    return tuple(after)


@cache
def _last_moves(depth: int, value: int) -> tuple[tuple[tuple[int, str], ...], tuple[int, ...]]:
    """(value before, operation) pairs that end a chain of this depth at `value`, and how many chains lead to each."""
    pairs = tuple((v, op) for v in range(10) for op in OPERATIONS if apply(op, v) == value)
    return pairs, tuple(itertools.accumulate(_ways(depth - 1)[v] for v, _ in pairs))


def shortcuts(question: str) -> dict[str, str]:
    """What a question shows without following the chain: its start, and its last operations whatever stands before.

    Operations are told apart by what they make of the ten digits: `+2` and `+1` are one value with `+3`.
    """
    start, *steps = question.split("|")[:-1]
    operations = tuple(step[2:] for step in steps if step != BLANK)
    names = {"last operation": 1, "last two operations": 2, "last three operations": 3}
    return {"start": start[2:]} | {name: _outcomes(operations[-k:]) for name, k in names.items()}


@cache
def _outcomes(operations: tuple[str, ...]) -> str:
    """What these operations make of the digits 0 to 9."""
    return "".join(str(reduce(lambda value, operation: apply(operation, value), operations, k)) for k in range(10))


def _draw(depth: int, answer: int, rng: random.Random) -> tuple[str, tuple[str, ...]]:
    """A question and its steps, uniform over the chains of this depth with this answer (walked backwards)."""
    value, moves = answer, []
    for k in range(depth, 0, -1):
        pairs, summed = _last_moves(k, value)
        before, operation = rng.choices(pairs, cum_weights=summed)[0]
        moves.append((operation, value))
        value = before
    moves.reverse()
    names = rng.sample(NAMES, depth + 1)
    lines = [f"{names[0]}={value}"]
    lines += [f"{new}{old}{op}" for old, new, (op, _) in zip(names, names[1:], moves, strict=False)]
    lines += [BLANK] * (MAX_DEPTH - depth)
    steps = tuple(f"{name}{op}={result}" for name, (op, result) in zip(names[1:], moves, strict=True))
    return "|".join([*lines, f"{names[-1]}?"]), steps
