"""What the generators share: balanced streams of questions, and splits that no question crosses.

A family gives a `draw`: one question, with its steps, uniform over those of a level that have the wanted answer.
    `stream` adds what every
family must have: levels and answers take their turns in shuffled runs (so answers are balanced, and the best constant
answer is at chance), a question's hash alone decides the only split in which it may occur (so training, validation and
test are disjoint whatever the seeds), and the same seed gives the same examples (a shorter stream is the beginning of a
longer one). Standard library only.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal

from rim_bench.methods.method import Example

Split = Literal["train", "validation", "test"]
SPLITS: Final = ("train", "validation", "test")
TRIES: Final = 5000
"""Draws for one question, after which a level counts as exhausted."""

Draw = Callable[[str, str, random.Random], tuple[str, tuple[str, ...]]]
"""(level, answer, randomness) -> question and steps."""


def split_of(question: str) -> Split:
    """The only split in which a question may occur: of ten buckets eight train, one validates, one tests."""
    bucket = int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big") % 10
    return "train" if bucket < 8 else "validation" if bucket == 8 else "test"


def shuffled_runs(size: int, rng: random.Random) -> Iterator[int]:
    """0 .. size-1 in random order, again and again."""
    while True:
        order = list(range(size))
        rng.shuffle(order)
        yield from order


def check_request(n: int, levels: Sequence[str], split: str, allowed: Sequence[str], words: str | None = None) -> None:
    """Refuse what cannot be generated; `words` are the allowed levels in words, where they are too many to list.

    Raises:
        ValueError: an unknown split or level, no level, or a negative n.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: allowed are {', '.join(SPLITS)}")
    if n < 0 or not levels or any(level not in allowed for level in levels):
        raise ValueError(
            f"cannot generate {n} examples of levels {list(levels)}: allowed are {words or ', '.join(allowed)}"
        )


def stream(
    family: str,
    n: int,
    levels: Sequence[str],
    seed: int,
    split: str,
    *,
    allowed: Sequence[str],
    answers: Sequence[str],
    draw: Draw,
) -> list[Example]:
    """`n` examples of a family, levels and answers in balanced, shuffled order; the first k of them do not depend on n.

    Validation and test questions are distinct. Training draws with replacement, so a training question may recur.

    Args:
        family: names the examples, and is part of what the randomness is drawn from.
        levels: some of `allowed`; each takes its turn.
        split: "train", "validation" or "test".
        answers: all answers; in every run of so many questions of a level each occurs once.

    Raises:
        ValueError: an unknown split or level, a negative n, or more distinct questions than a level has.
    """
    check_request(n, levels, split, allowed)
    rng = random.Random(f"{family}/{split}/{seed}")
    turns = shuffled_runs(len(levels), rng)
    wanted = {level: shuffled_runs(len(answers), rng) for level in levels}
    seen: set[str] = set()
    examples = []
    for index in range(n):
        level = levels[next(turns)]
        answer = answers[next(wanted[level])]
        for _ in range(TRIES):
            question, steps = draw(level, answer, rng)
            if split_of(question) == split and question not in seen:
                break
        else:
            raise ValueError(f"level {level} has too few {split} questions with answer {answer} for {n} distinct ones")
        if split != "train":
            seen.add(question)
        examples.append(Example(f"{family}/{split}/{index}", question, steps, answer, level))
    return examples
