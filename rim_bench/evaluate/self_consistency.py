"""k-vote self-consistency (Wang et al., arXiv 2203.11171): of several sampled answers the most frequent counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rim_bench.data import answers
from rim_bench.data.numbers import parse_number
from rim_bench.engine.generate import Sampling
from rim_bench.util.errors import MOST, UsageError, check_count

TEMPERATURE = 0.7
"""As in the paper's experiments with its largest models."""


MOST_VOTES = 10_000


def whole(name: str, value: Any, least: int, most: int = MOST) -> int:
    """`value` as a whole number from `least` to `most`.

    Raises:
        UsageError: anything else.
    """
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = least - 1
    if number < least or isinstance(value, bool) or (isinstance(value, float) and value != number):
        raise UsageError(f"{name} {value!r} must be a whole number of at least {least}")
    check_count(name, number, least, most)
    return number


def sampling_of(votes: Any = 1, temperature: Any = None, sample_seed: Any = None) -> Sampling | None:
    """What is drawn for `votes` samples a question; None for one, which is decoded greedily.

    Args:
        temperature: from 1e-4 to 1e4; None is TEMPERATURE.
        sample_seed: 0 or more; None is 0.

    Raises:
        UsageError: a value that does not fit, or a temperature or seed for a single, greedy answer.
    """
    samples = whole("votes", votes, 1, MOST_VOTES)
    if samples == 1:
        for name, value in (("temperature", temperature), ("sample_seed", sample_seed)):
            if value is not None:
                raise UsageError(f"{name} {value!r} needs votes of at least 2: a single answer is decoded greedily")
        return None
    try:
        heat = TEMPERATURE if temperature is None else float(temperature)
    except (TypeError, ValueError):
        heat = math.nan
    if not 1e-4 <= heat <= 1e4:
        raise UsageError(
            f"temperature {temperature!r} must be a number above 0, from 0.0001 to 10000 (greedy decoding is votes 1, "
            "without a temperature)"
        )
    return Sampling(samples, heat, whole("sample_seed", 0 if sample_seed is None else sample_seed, 0))


def votes_record(sampling: Sampling) -> dict[str, Any]:
    """How answers were drawn, as stored with a result."""
    return {"votes": sampling.samples, "temperature": sampling.temperature, "sample_seed": sampling.seed}


def majority(texts: Sequence[str], kind: answers.Kind = "auto") -> tuple[int, int]:
    """The index of the first sample in the largest group of equal answers, and the size of that group.

    Answers are what follows the last `####`: numbers are equal as numbers, other texts once normalised ("number": they
    are no answer). Ties go to the group whose first member has the lowest index. Samples without an answer do not vote,
    unless none has one: then equal texts are a group. The reference plays no part.

    Args:
        texts: one or more sampled outputs, in order.
        kind: what the task's answers are; "auto": numbers where they can be read as such.
    """
    ballots: list[object] = []
    for text in texts:
        answer = answers.extract(text).strict
        ballot: object = None if answer is None or kind == "text" else parse_number(answer)
        if answer is not None and ballot is None and kind != "number":
            ballot = answers.normalise_text(answer) or None
        ballots.append(ballot)
    if all(ballot is None for ballot in ballots):
        ballots = [answers.normalise_text(text) for text in texts]
    groups: dict[object, list[int]] = {}
    for i, ballot in enumerate(ballots):
        if ballot is not None:
            groups.setdefault(ballot, []).append(i)
    largest = max(groups.values(), key=len)  # the first of several: groups stand in the order of their first members
    return largest[0], len(largest)
