"""What the generated families of the litmus suite share: balanced streams of questions, and splits that no question crosses.

A family gives a `draw`: one question, with its steps, uniform over those of a level that have the wanted answer. The streams here add
what every family must have: levels and answers take their turns in shuffled runs (so answers are balanced, and the best constant answer
is at chance), a question's hash alone decides the only split in which it may occur (so training, validation and test are disjoint
whatever the seeds), and the same seed gives the same examples (a shorter stream is the beginning of a longer one).

`fill` makes lines of equal length: what a level does not need is filled with marks that mean nothing, each drawn from four. They keep the
number of tokens constant over the levels, and make the small levels large enough to be split three ways. Standard library only.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from rim_bench.method import Example
from rim_bench.tasks.chain import shuffled_runs, split_of

SPLITS: Final = ("train", "validation", "test")
FILLERS: Final = ".,;:"
TOKEN_PATTERN: Final = r"#### |\n|[\s\S]"
"""What a tokenizer must keep whole, as alternatives for `re.findall`: the answer mark, else one character."""
_TRIES: Final = 5000

Draw = Callable[[str, str, random.Random], tuple[str, tuple[str, ...]]]
"""(level, answer, randomness) -> question and steps."""


def fill(count: int, rng: random.Random) -> str:
    """`count` marks that mean nothing."""
    return "".join(rng.choices(FILLERS, k=count))


def stream(
    family: str, n: int, levels: Sequence[str], seed: int, split: str, *, allowed: Sequence[str], answers: Sequence[str], draw: Draw
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
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: allowed are {', '.join(SPLITS)}")
    if n < 0 or not levels or any(level not in allowed for level in levels):
        raise ValueError(f"cannot generate {n} examples of levels {list(levels)}: allowed are {', '.join(allowed)}")
    rng = random.Random(f"{family}/{split}/{seed}")
    turns = shuffled_runs(len(levels), rng)
    wanted = {level: shuffled_runs(len(answers), rng) for level in levels}
    seen: set[str] = set()
    examples = []
    for index in range(n):
        level = levels[next(turns)]
        answer = answers[next(wanted[level])]
        for _ in range(_TRIES):
            question, steps = draw(level, answer, rng)
            if split_of(question) == split and question not in seen:
                break
        else:
            raise ValueError(f"level {level} has too few {split} questions with answer {answer} for {n} distinct ones")
        if split != "train":
            seen.add(question)
        examples.append(Example(f"{family}/{split}/{index}", question, steps, answer, level))
    return examples
