"""Which evaluation sets may be passed on: what their task's YAML says of the licence decides."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rim_bench.data.task import Task
from rim_bench.methods.method import Example
from rim_bench.storage.records import QuestionRecord

_FREE = re.compile(r"none needed\b|MIT\b|Apache\b|CC[ -]BY\b", re.IGNORECASE)
_BOUND = re.compile(r"\b(?:NC|ND|SA)\b|research use|none stated", re.IGNORECASE)


def free(licence: str) -> bool:
    """Whether texts under a licence may be stored beside results and shown in a report.

    Those that begin with `none needed` (generated), MIT, Apache or CC BY may; those with a condition on the use (NC),
    on changes (ND) or on the licence of what holds them (SA) may not, nor may any other.
    """
    return bool(_FREE.match(licence)) and not _BOUND.search(licence)


def passed_on(task: Task) -> bool:
    """The same of a task's questions."""
    return free(str(task.metadata.get("licence", "")))


def question_records(examples: Iterable[Example], *, texts: bool) -> list[QuestionRecord]:
    """The questions of a set as they are stored: with their texts, or their ids alone."""
    if not texts:
        return [QuestionRecord(id=e.id) for e in examples]
    return [QuestionRecord(id=e.id, question=e.question, reference=e.answer, choices=e.choices) for e in examples]
