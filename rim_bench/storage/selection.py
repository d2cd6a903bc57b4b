"""Which checkpoint of a run counts, and which learning rate: the rules, fixed before anything trains.

Pure: knows no model and no run. `last` is the end of training. `best` has the highest accuracy on the validation
questions among candidates taken at evenly spaced points of training. `16-split` is the published protocol of RiM: the
candidates are chosen between on a part of the *test* questions and scored on the rest, so its numbers stand apart from
all others (`splits`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rim_bench.util.errors import UsageError, check_count, unknown

LAST, BEST, SPLITS = "last", "best", "16-split"
RULES = (LAST, BEST, SPLITS)
POINTS = 8  # candidates of a run, the last one the end of training
TRIALS = 3
SPACE_TRIALS, SPACE_SEEDS = 8, 2  # points of a space, and training seeds of each
TUNED = ("lr", "space")  # what can be tuned
TIES = "the latest"  # of candidates with the same accuracy: the one that trained the longest
SPLIT = {"splits": 16, "share": 0.2, "seed": 0}  # 264 of 1,319 questions are a fifth


@dataclass(frozen=True)
class CheckpointRule:
    """The checkpoint rule of a run.

    `points` candidates are taken after k/points of the budget, k = 1..points: the end is a candidate, and the start,
    which has trained nothing, is not. With `last` they are only measured.

    Raises:
        UsageError: an unknown rule, or too few points.
    """

    rule: str = LAST
    points: int | None = None  # None: POINTS where something is chosen, else none

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise unknown("checkpoint rule", self.rule, RULES)
        least = 1 if self.rule == LAST else 2
        if self.points is not None and self.points < least:
            raise UsageError(
                f"--checkpoint-points {self.points} is too small: --checkpoint {self.rule} needs at least {least}"
            )
        check_count("--checkpoint-points", self.points, most=MOST_POINTS)

    @property
    def count(self) -> int:
        """How many points are looked at."""
        return self.points if self.points is not None else 0 if self.rule == LAST else POINTS

    def record(self) -> dict[str, Any] | None:
        """What a specification says of it; None where it changes no weights, so that ids stay what they were."""
        if self.rule == LAST:
            return None
        return {"rule": self.rule, "points": self.count, "ties": TIES, **(SPLIT if self.rule == SPLITS else {})}


MOST_POINTS = 1000  # looks at validation, or learning rates
LAST_RULE = CheckpointRule()


def best(accuracies: Sequence[float]) -> int:
    """Index of the candidate that counts: the highest accuracy, of equal ones the latest."""
    if not accuracies:
        raise ValueError("no candidate to choose from")
    return max(range(len(accuracies)), key=lambda i: (accuracies[i], i))


@dataclass(frozen=True)
class LearningRateGrid:
    """Learning rates to try for every method, each with `share` of the request's budget and so many training seeds."""

    rates: tuple[float, ...]
    share: float = 1.0
    seeds: int = 1

    @property
    def points(self) -> int:
        """How many are tried for each method."""
        return len(self.rates)

    def record(self, seeds: Sequence[int]) -> dict[str, Any]:
        """What the specification of a tuned run says of it; `seeds` are the training seeds of the trials."""
        several = {"seeds": list(seeds)} if len(seeds) > 1 else {}
        return {"field": "lr", "rates": list(self.rates), "share": self.share, "seed": seeds[0], **several}


@dataclass(frozen=True)
class SpaceSearch:
    """As many points of every method's own search space, each with `share` of the request's budget and so many training
    seeds.
    """

    points: int
    share: float = 1.0
    seeds: int = SPACE_SEEDS

    def record(self, seeds: Sequence[int]) -> dict[str, Any]:
        """What the specification of a tuned run says of it; `seeds` are the training seeds of the trials."""
        return {"field": "space", "points": self.points, "share": self.share, "seed": seeds[0], "seeds": list(seeds)}


Search = LearningRateGrid | SpaceSearch


def parse_tune(text: str | None, trials: int | None, share: float | None, seeds: int | None = None) -> Search | None:
    """`space`, or `lr=1e-5..1e-3` as a grid of `trials` rates of 4 digits, evenly spaced on a logarithmic scale, ends
    included.

    Raises:
        UsageError: another field or form, bounds that are no range of positive numbers, too few trials or seeds, rates
        that fall together, or a share outside (0, 1].
    """
    if text is None:
        if trials is not None or share is not None or seeds is not None:
            raise UsageError(
                "--trials, --tune-share and --tune-seeds say how to tune: give what to tune as well, as in --tune "
                "lr=1e-5..1e-3 or --tune space"
            )
        return None
    field, _, bounds = text.partition("=")
    if field not in TUNED:
        raise unknown("field to tune", field, TUNED)
    if share is not None and not 0 < share <= 1:
        raise UsageError(f"--tune-share {share:g} is not a share of the budget: give a number above 0 and up to 1")
    part = 1.0 if share is None else share
    if field == "space":
        if bounds or "=" in text:
            raise UsageError(f"--tune {text!r}: each method declares its own space, so give --tune space alone")
        search = SpaceSearch(SPACE_TRIALS if trials is None else trials, part, SPACE_SEEDS if seeds is None else seeds)
        _check_points(search.points, search.seeds)
        if search.seeds < SPACE_SEEDS:
            raise UsageError(
                f"--tune-seeds {search.seeds} is too small: a point of a space needs at least {SPACE_SEEDS} training "
                "seeds, without which nobody can tell how sure its choice is"
            )
        return search
    ends = re.fullmatch(r"(.+?)\.\.(.+)", bounds)
    try:
        low, high = (float(ends[1]), float(ends[2])) if ends else (math.nan, math.nan)
    except ValueError:
        low = high = math.nan
    if not (0 < low < high < math.inf):
        raise UsageError(f"--tune {text!r} is not lr=LOW..HIGH with 0 < LOW < HIGH, as in lr=1e-5..1e-3")
    n = TRIALS if trials is None else trials
    _check_points(n, 1 if seeds is None else seeds)
    rates = tuple(float(f"{low * (high / low) ** (k / (n - 1)):.4g}") for k in range(n))
    if len(set(rates)) < n:
        raise UsageError(
            f"--tune {text!r} holds no {n} different learning rates of 4 digits: give a wider range or fewer trials"
        )
    return LearningRateGrid(rates, part, 1 if seeds is None else seeds)


def _check_points(count: int, seeds: int) -> None:
    if count < 2:
        raise UsageError(f"--trials {count} is too small: give at least 2 to choose between")
    check_count("--trials", count, most=MOST_POINTS)
    check_count("--tune-seeds", seeds, most=MOST_POINTS)


class Apart(Enum):
    """Why a run is no row of a comparison or ranking; the value says it in words."""

    TRIAL = "a learning-rate trial, chosen between on validation: never a row"
    ON_TEST = "its checkpoint is chosen on test items (16-split protocol): never a row beside others"
