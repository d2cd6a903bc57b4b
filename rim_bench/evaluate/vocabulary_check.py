"""Text that a tokenizer from scratch never saw: any text is encoded, but tokens never trained are random embeddings."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from rim_bench.data.datasets import training_data
from rim_bench.data.reader import Files, Split
from rim_bench.data.task import task_of
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.trained_model import TrainedModel
from rim_bench.methods.method import Example
from rim_bench.storage.records import RunSpec, TrainedOnRecord, UnseenTextRecord
from rim_bench.util.errors import UsageError
from rim_bench.util.progress import phase

log = logging.getLogger(__name__)
MOST = 0.5
"""Share of a set's questions that may hold a token never seen in training; above it the evaluation is refused."""


def shown(backbone: Backbone, examples: Iterable[Example]) -> frozenset[int]:
    """The token ids of training examples: questions, steps and answers."""
    ids: set[int] = set()
    for example in examples:
        encoded = backbone.encode_example(example)
        ids.update(encoded.question, encoded.answer, *encoded.steps)
    return frozenset(ids)


def training_rows(spec: RunSpec, data: Path | None, files: Files | None = None) -> tuple[Split, Split] | None:
    """The rows that a run was trained on and its validation rows; None where they are not there, or not the same."""
    wanted = spec.task
    try:
        task = task_of(wanted.name)
        where: dict[str, Any] = {"data": data, "files": files, "steps": wanted.steps, "limit": wanted.limit}
        train, held = training_data(task, allow_changed=True, **where)
    except UsageError:
        return None
    same = (train.sha256, held.sha256) == (wanted.train_sha256, wanted.validation_sha256)
    return (train, held) if same else None


def training_examples(spec: RunSpec, data: Path | None) -> tuple[Example, ...] | None:
    """The examples that a run was trained on, by its specification; None where they are not there, or not the same."""
    rows = training_rows(spec, data)
    return None if rows is None else rows[0].examples


_known: dict[tuple[str, str], frozenset[int]] = {}


def shown_in_training(backbone: Backbone, spec: RunSpec, data: Path | None) -> frozenset[int] | None:
    """`shown` of a run's training text, once a process for each text and tokenizer; None where the text is missing."""
    tokenizer = sha256(backbone.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    key = (str(spec.task.train_sha256), tokenizer)
    if key not in _known:
        if (examples := training_examples(spec, data)) is None:
            return None
        _known[key] = shown(backbone, examples)
    return _known[key]


class CannotBeAsked(UsageError):
    """A set whose text a run's tokenizer never saw."""


def check_text(
    backbone: Backbone,
    known: frozenset[int] | None,
    questions: Sequence[tuple[str, tuple[int, ...]]],
    trained_on: str,
    task: str,
) -> UnseenTextRecord:
    """How many questions hold an unseen token; None where the training text is missing.

    Args:
        known: the tokens of the training text.
        questions: (id, tokens), those that the run is given.

    Raises:
        CannotBeAsked: more than `MOST` of the questions do: the run would be asked in letters that it never learned.
    """
    if known is None:
        return UnseenTextRecord(n=len(questions))
    odd = [(name, tokens) for name, tokens in questions if not known.issuperset(tokens)]
    if len(odd) > MOST * len(questions):
        (name, asked), *_ = odd
        tokens = [i for i in asked if i not in known]
        raise CannotBeAsked(
            f"{task} cannot be asked of a run trained from scratch on {trained_on}: {len(odd):,} of {len(questions):,} "
            f"questions hold text that its tokenizer never saw in training (such as {backbone.decode(tokens[:8])!r} in "
            f"{name}), and at most {MOST:.0%} may: evaluate the run on tasks in the same words, or train on this one"
        )
    return UnseenTextRecord(questions=len(odd), n=len(questions))


class UnseenText:
    """What a run that lm-eval asks was never shown, by task; its questions are not known before they are asked."""

    def __init__(self, trained: TrainedModel) -> None:
        self.backbone, self.spec = trained.backbone, trained.spec
        self.counts: dict[str, int | None] = {}  # task -> texts with an unseen token; None: the training text is gone

    def check(self, task: str, texts: Sequence[tuple[str, tuple[int, ...]]]) -> None:
        """Counts the texts, (name, tokens) each, with a token that a tokenizer from scratch never saw in training.

        Raises:
            CannotBeAsked: more than `MOST` of them have one.
        """
        if self.spec.backbone.kind != "scratch":
            return
        known = shown_in_training(self.backbone, self.spec, None)
        record = check_text(self.backbone, known, texts, self.spec.task.name, task)
        self.counts[task] = record.questions
        if record.questions is None:
            log.warning("%s: the training text is not there, so that unseen text could not be looked for", task)
        elif record.questions:
            log.warning("%s: %d of %d texts hold text never seen in training", task, record.questions, len(texts))


@phase("looking for words that the tokenizer never saw")
def about(
    backbone: Backbone, spec: RunSpec, name: str, questions: Sequence[tuple[str, str]], data: Path | None
) -> dict[str, Any]:
    """What a summary says of an evaluation on a task that the run was not trained on; `questions` are (id, text).

    Raises:
        CannotBeAsked: a tokenizer from scratch that never saw the text of most questions.
    """
    own = spec.task
    trained_on = TrainedOnRecord(
        name=own.name, train_sha256=own.train_sha256, train_rows=own.train_rows, limit=own.limit
    )
    out: dict[str, Any] = {"trained_on": trained_on}
    if spec.backbone.kind == "scratch":
        known = shown_in_training(backbone, spec, data)
        encoded = [(number, backbone.encode_question(text)) for number, text in questions]
        out["unseen_text"] = check_text(backbone, known, encoded, own.name, name)
    return out
