"""Floors: what an answer gets without reasoning. A row is at the floor where it is not shown above this."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from rim_bench.data.datasets import GUESS
from rim_bench.evidence.stats import intervals
from rim_bench.evidence.stats.intervals import Interval
from rim_bench.storage.records import ShortcutRecord


class FloorKind(Enum):
    """What such an answer looks at."""

    CONSTANT = "best constant answer"  # at nothing: the most frequent reference
    GUESS = GUESS  # at how many choices there are
    SHORTCUT = "best shortcut"  # at the question's surface, as training rows taught it


@dataclass(frozen=True)
class Floor:
    """The best such answer to a set of questions."""

    kind: FloorKind
    name: str  # the constant answer, or the shortcut
    value: float  # accuracy
    n: int  # questions
    measured: bool = False  # whether shortcuts were, too

    @property
    def interval(self) -> Interval:
        """Wilson's 95 %."""
        return intervals.wilson(min(self.n, self.value * self.n), self.n)

    def text(self) -> str:
        """What it is, in words."""
        words = {
            FloorKind.CONSTANT: f"the best constant answer ({self.name!r})",
            FloorKind.SHORTCUT: f"the shortcut {self.name!r}",
        }
        return words.get(self.kind, self.name)


def constant_floor(references: Sequence[str], chances: Sequence[float]) -> Floor:
    """The best constant answer to questions with these references, or a guess among their choices where that is more.

    Args:
        chances: of a guess at each question; 0 where there is nothing to choose from.
    """
    n = len(references)
    answer, count = min(Counter(references).items(), key=lambda a: (-a[1], a[0]))
    if sum(chances) > count:
        return Floor(FloorKind.GUESS, GUESS, sum(chances) / n, n)
    return Floor(FloorKind.CONSTANT, answer, count / n, n)


def with_shortcuts(floor: Floor, measured: Iterable[Sequence[ShortcutRecord]], levels: set[tuple[bool, str]]) -> Floor:
    """The floor or, where it is more, the best shortcut on all questions of these levels.

    Args:
        measured: shortcuts of each evaluation on these questions; those that are not of the same number do not count.
        levels: (whether it is out of distribution, its name).
    """
    right: dict[str, int] = {}
    for scores in measured:
        sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for score in scores:
            if (score.ood, score.level) in levels:
                sums[score.name][0] += score.right
                sums[score.name][1] += score.n
        for name, (count, n) in sums.items():
            if n == floor.n:
                right[name] = max(count, right.get(name, 0))
    if not right:
        return floor
    name = max(right, key=lambda name: right[name])
    if right[name] > floor.value * floor.n:
        return Floor(FloorKind.SHORTCUT, name, right[name] / floor.n, floor.n, True)
    return replace(floor, measured=True)


def floors_label(floors: Iterable[Floor]) -> str:
    """A few words on what several floors are, for a legend."""
    kinds = {floor.kind for floor in floors}
    (kind, *others) = [one for one in FloorKind if one in kinds]
    return "best of " + ", ".join(k.value.removeprefix("best ") for k in (kind, *others)) if others else kind.value
