"""Whose activations a question is given: another question of the same shape, drawn by the question's id alone."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from rim_bench.analysis.trunks import Trunk
from rim_bench.data.task import Features
from rim_bench.storage.interventions import DONOR, SAME, SAME_ANSWER

TRIES = 40  # draws before all that fit are listed


def stream(*key: Hashable) -> int:
    """A seed that follows from a key."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Donors:
    """Kind of donor -> for each question the number of its donor, None where none fits."""

    of: dict[str, tuple[int | None, ...]]


def choose_donors(
    trunks: Sequence[Trunk], answers: Sequence[str | None], features: Features | None, seed: int
) -> Donors:
    """A donor of every kind for every question.

    Each has the same shape (length of the question and of every segment) and another clean answer; but that of
    `donor of the same answer` has the same one to another question. A question without a readable answer is no donor.

    Args:
        answers: the model's own, extracted.
        features: of a question; a kind for each of them, with the same value.
    """
    kinds: dict[str, list[Hashable]] = {DONOR: [t.shape for t in trunks]}
    kinds[SAME_ANSWER] = [(t.shape, a) for t, a in zip(trunks, answers, strict=True)]
    if features is not None:
        values = [features(t.example.question) for t in trunks]
        for name in dict.fromkeys(name for v in values for name in v):
            kinds[f"{SAME}{name}"] = [(t.shape, v.get(name, "")) for t, v in zip(trunks, values, strict=True)]
    out = {}
    for kind, groups in kinds.items():
        members: dict[Hashable, list[int]] = defaultdict(list)
        for k, group in enumerate(groups):
            if answers[k] is not None:
                members[group].append(k)

        def draw(k: int, group: Hashable, kind: str = kind, members: dict[Hashable, list[int]] = members) -> int | None:
            def fits(other: int) -> bool:
                different = trunks[k].example.question != trunks[other].example.question
                return different and (answers[k] == answers[other]) == (kind == SAME_ANSWER)

            return _draw(members[group], fits, stream(seed, kind, trunks[k].example.id))

        out[kind] = tuple(draw(k, group) for k, group in enumerate(groups))
    return Donors(out)


def _draw(members: Sequence[int], fits: Callable[[int], bool], seed: int) -> int | None:
    """One of the members that fit, each as likely; None where none does."""
    if not members:
        return None
    rng = random.Random(seed)
    for _ in range(TRIES):
        if fits(chosen := rng.choice(members)):
            return chosen
    fitting = [m for m in members if fits(m)]
    return rng.choice(fitting) if fitting else None
