"""What the page of a report shows, as it is handed to it: numbers with their texts, so that its script computes none.

Every accuracy, difference and p value is here twice: as a fraction, to be drawn, and as the text that a table has for
it. The script draws, filters and counts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rim_bench.util.table import Section


@dataclass(frozen=True)
class FloorLine:
    """The floor of a set of questions."""

    value: float
    text: str  # "24.1 % [21.6, 26.8]: the shortcut 'last three operations'"


@dataclass(frozen=True)
class QuestionSet:
    """The headline set, OOD or a level."""

    name: str
    title: str
    level: bool
    ood: bool
    n: int
    floor: FloorLine


@dataclass(frozen=True)
class Estimate:
    """An accuracy with its two spreads: the interval is that of the questions, `sd` and `seeds` that of retraining."""

    value: float
    low: float
    high: float
    sd: float | None  # None with one seed
    seeds: tuple[float, ...]
    at_floor: bool
    text: str
    sd_text: str
    interval_text: str
    seed_texts: tuple[str, ...]


@dataclass(frozen=True)
class RowFacts:
    """A row of the comparison."""

    label: str
    method: str
    color: int  # number among `plots.style.COLORS`
    marker: str  # as matplotlib calls it
    budget: int  # number among the group's budgets
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    stamp: str
    accuracy: tuple[Estimate, ...]  # by set of questions


@dataclass(frozen=True)
class VerdictLine:
    """A sentence on what the comparison says."""

    kind: str  # "higher", "equivalent", "undecided", "one seed", "floor", "trust" or "note"
    text: str


@dataclass(frozen=True)
class SetVerdicts:
    """The sentences on one set of questions."""

    set: int
    lines: tuple[VerdictLine, ...]


@dataclass(frozen=True)
class ForestLine:
    """A paired comparison of two rows; `there` and `back` are difference and interval of first − second, and of
    second − first.
    """

    set: int
    first: int
    second: int
    value: float
    low: float
    high: float
    kind: str  # as of a `VerdictLine`
    there: tuple[str, str]
    back: tuple[str, str]
    only_first: int
    only_second: int
    p: str
    p_seeds: str
    holm: str
    detectable: str
    verdict: str


@dataclass(frozen=True)
class CostPoint:
    """One setting of a row at one cost on one set of questions."""

    setting: str
    default: bool
    cost: float
    cost_text: str
    accuracy: Estimate
    front: bool  # no other setting at its training budget has at least its accuracy at no more cost


@dataclass(frozen=True)
class CostLine:
    """The settings of one row by cost."""

    row: int
    label: str
    points: tuple[CostPoint, ...]


@dataclass(frozen=True)
class CostPicture:
    """All rows over one cost, on one set of questions."""

    set: int
    kind: str
    title: str
    lines: tuple[CostLine, ...]
    missing: str  # why there are none; empty where there are


@dataclass(frozen=True)
class LossCurve:
    """The training loss of one run: means over equal stretches of its optimizer steps."""

    row: int
    seed: int
    run: str
    steps: tuple[float, ...]
    losses: tuple[float, ...]
    stages: tuple[tuple[int, str], ...]  # first step and name
    first_text: str
    last_text: str
    count: int  # of optimizer steps


@dataclass(frozen=True)
class RunFacts:
    """Where a run comes from."""

    run: str
    row: int
    seed: int
    sealed: bool
    data: str  # sha256 of what it was trained on
    commits: tuple[str, ...]
    engine: str  # version of the numerics
    date: str
    machine: str
    versions: str
    command: str  # that started it
    evaluation: str  # key
    spec: str  # as JSON


@dataclass(frozen=True)
class QuestionColumns:
    """The questions of a group and everything that was answered to them, by columns; `pool` has every text once."""

    ids: tuple[str, ...]
    levels: tuple[str, ...]
    sets: tuple[tuple[int, ...], ...]  # by set of questions: places among `ids`
    questions: tuple[str, ...]  # empty where none may be shown
    references: tuple[str, ...]
    choices: tuple[tuple[str, ...], ...]  # of multiple choice; else empty
    note: str  # why there are no texts, or which are missing
    pool: tuple[str, ...]
    answers: tuple[dict[str, Any], ...]
    """By row and seed: row, seed, correct ("0" or "1" a question), flags (sum of `browser.FLAGS`), answer and output
    (places in the pool, −1 for none), tokens, and, where it answered after blocks, blocks (answer and whether it is
    right, alternately)."""


@dataclass(frozen=True)
class GroupView:
    """A set of comparable runs."""

    heading: str
    short: str
    quick: bool
    sets: tuple[QuestionSet, ...]
    budgets: tuple[str, ...]
    rows: tuple[RowFacts, ...]
    verdicts: tuple[SetVerdicts, ...]
    trust: tuple[VerdictLine, ...]
    claims: tuple[tuple[str, ...], ...]  # outcome, control, of, claim, set, points, the whole text
    differences: tuple[ForestLine, ...]
    costs: tuple[CostPicture, ...]
    losses: tuple[LossCurve, ...]
    runs: tuple[RunFacts, ...]


@dataclass(frozen=True)
class PageData:
    """Everything but the questions, which are packed by group and unpacked when they are looked at."""

    title: str
    stamp: str
    made_by: str  # version of rim-bench
    command: str  # that makes the page again
    groups: tuple[GroupView, ...]
    tables: tuple[Section, ...]
    left_out: tuple[str, ...]
    csv: str  # table.csv


def plain_json(value: Any) -> str:
    """A record as JSON, dataclasses as objects; the same records have the same text."""
    return json.dumps(value, default=vars, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
