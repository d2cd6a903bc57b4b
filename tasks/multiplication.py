"""Multiplication of n by m digits, as published by iCoT (Deng et al., arXiv 2405.14838) and generated.

    5 6 3 2 * 7 4 3 4||5 5 5 6 1 + 0 0 6 4 9 0 ( 5 5 1 1 1 1 ) + 0 0 5 9 0 7 0 ( 5 5 6 0 2 8 0 ) + 0 0 0 0 6 4 9 0 ####
    5 5 6 0 8 2 0 1

Every number has its least significant digit first: this is 2365 * 4347 = 10280655. A digit of the second factor gives a
partial product, shifted by zeros in front, one digit longer than the first factor; behind it, in brackets, stands
the sum so far, except behind the first, where it is the product itself, and the last, where it is the answer. No number
is shortened: the answer of n by m digits has n + m.

A step is one partial product with its sum, the `+` before it included; steps joined by spaces are the published text.
The answer is text (`5 5 6 0 8 2 0 1`): a number in this order with its leading zeros cannot be compared as a number.

Generated questions are uniform over the factors of exactly n and m digits (no leading zero), all distinct within a
call. Their hash decides the split (80 / 10 / 10 %), so training, validation and test are disjoint for every seed.
Answers need no balancing: no product is common, and the tests bound the most frequent one. Standard library only.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from rim_bench.methods.method import Example
from rim_bench.tasks.streams import check_request, shuffled_runs, split_of

LEVELS: Final = tuple(f"{n}x{m}" for n in range(1, 10) for m in range(1, 10))
TOKEN_PATTERN: Final = r"#### |[0-9] ?|[+*()] ?|\n|[\s\S]"
"""A digit with the space behind it is one token."""

_DIGITS: Final = r"[0-9](?: [0-9])*"
_QUESTION: Final = re.compile(rf"({_DIGITS}) \* ({_DIGITS})")
_LINE: Final = "question||steps #### answer, as in '2 1 * 3||6 3 #### 6 3'"


def digits(value: int, length: int) -> str:
    """The number's digits, least significant first, with zeros behind it up to `length`."""
    return " ".join(reversed(str(value).rjust(length, "0")))


def steps_of(a: int, n: int, b: int, m: int) -> tuple[str, ...]:
    """The published steps of an n-digit times an m-digit number."""
    out, total = [], 0
    for place in range(m):
        part = a * (b // 10**place % 10)
        total += part * 10**place
        text = "0 " * place + digits(part, n + 1)
        if place:
            text = "+ " + text
        if 0 < place < m - 1:
            text += f" ( {digits(total, n + 1 + place)} )"
        out.append(text)
    return tuple(out)


def generate(n: int, levels: Sequence[str], seed: int, split: str) -> list[Example]:
    """`n` examples whose levels (`4x4`, up to `9x9`) take turns; the first k do not depend on n.

    Raises:
        ValueError: an unknown split or level, a negative n, or more distinct questions than a level has.
    """
    check_request(n, levels, split, LEVELS, f"{LEVELS[0]} to {LEVELS[-1]}, such as 4x4")
    rng = random.Random(f"multiplication/{split}/{seed}")
    turns = shuffled_runs(len(levels), rng)
    seen: set[str] = set()
    out = []
    for index in range(n):
        level = levels[next(turns)]
        first, second = int(level[0]), int(level[2])
        for _ in range(5000):
            a, b = (rng.randrange(10 ** (k - 1), 10**k) for k in (first, second))
            question = f"{digits(a, first)} * {digits(b, second)}"
            if question not in seen and split_of(question) == split:
                break
        else:
            raise ValueError(f"level {level} has too few {split} questions for {n} distinct ones")
        seen.add(question)
        answer = digits(a * b, first + second)
        out.append(Example(f"multiplication/{split}/{index}", question, steps_of(a, first, b, second), answer, level))
    return out


def shortcuts(question: str) -> dict[str, str]:
    """Single digits of the two factors."""
    first, second = question.split(" * ")
    return {"lowest digits": f"{first[0]} {second[0]}", "highest digits": f"{first[-1]} {second[-1]}"}


def line(example: Example) -> str:
    """An example as a line of the published format."""
    return f"{example.question}||{' '.join(example.steps)} #### {example.answer}"


def parse(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`line 3`, fields) of each line of a published file; blank lines are skipped.

    Raises:
        ValueError: a line that is not in the format, with its number.
    """
    for number, row in enumerate(text.split("\n"), 1):
        if not row.strip():
            continue
        question, bars, rest = row.strip().partition("||")
        chain, mark, answer = rest.rpartition("####")
        factors = _QUESTION.fullmatch(question.strip())
        if not bars or not mark or factors is None or not re.fullmatch(_DIGITS, answer.strip()):
            raise ValueError(f"line {number}: expected {_LINE}")
        steps = [part.strip() for part in re.split(r"(?=\+ )", chain.strip()) if part.strip()]
        level = "x".join(str(len(factor.split())) for factor in factors.groups())
        yield f"line {number}", {"question": question.strip(), "steps": steps, "answer": answer.strip(), "level": level}
