"""Questions of anybody's own to a trained run: what `rim-bench ask` answers. Nothing is scored, nothing is stored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rim_bench.data import answers
from rim_bench.engine.trained_model import TrainedModel
from rim_bench.evaluate.predict import Prediction, Predictor
from rim_bench.evaluate.vocabulary_check import check_text, shown_in_training
from rim_bench.storage.records import UnseenTextRecord
from rim_bench.util.errors import UsageError
from rim_bench.util.files import parse_lines


@dataclass(frozen=True)
class Reply:
    """What a run said to one question, and what that took."""

    question: str
    answer: str | None  # behind the last `####`; None where none could be read
    output: str  # all of the generated text
    blocks: tuple[str, ...]  # the answer behind every block, where it was asked for and the method has blocks
    prompt_tokens: int
    latent_positions: int
    generated_tokens: int
    passes: int
    milliseconds: float  # of its batch, from the prompt to the whole answer
    batch_size: int
    capped: bool  # whether it was cut at the greatest number of tokens
    overlong: bool  # whether the model has no positions for it, so that it was not asked

    def to_json(self) -> dict[str, Any]:
        """Its line of `rim-bench ask --file`; `blocks` only where there are some."""
        record = dict(self.__dict__)
        if not self.blocks:
            del record["blocks"]
        return record


def read_questions(data: bytes, where: str) -> list[str]:
    """The questions of a file: one a line, or JSON objects with a `question`, one a line; blank lines are left out.

    Raises:
        UsageError: no UTF-8, a line of JSON without a question that is a text, or no question at all.
    """
    try:
        text = data.decode("utf-8-sig")
    except ValueError as error:
        raise UsageError(f"{where} is no text in UTF-8: {error}") from None
    lines = [line for line in text.splitlines() if line.strip()]
    questions = lines
    if lines and lines[0].lstrip().startswith("{"):
        questions = []
        for line_name, row in parse_lines("\n".join(lines).encode(), where):
            question = row.get("question")
            if not isinstance(question, str) or not question.strip():
                raise UsageError(f"{line_name} has no `question` that is a text: give it one, or give plain lines")
            questions.append(question)
    if not questions:
        raise UsageError(f"{where} holds no question: give one a line, or JSON lines with a `question`")
    return questions


def check_questions(questions: Sequence[str]) -> None:
    """Raises UsageError for a question without text."""
    if empty := [k for k, text in enumerate(questions, 1) if not text.strip()]:
        raise UsageError(f"question {empty[0]} is empty: give it some text")


def unseen_text(trained: TrainedModel, questions: Sequence[str], data: Path | None) -> UnseenTextRecord | None:
    """How many questions hold text that the run's tokenizer never saw in training; None for one that was pretrained.

    Raises:
        CannotBeAsked: most of them do.
    """
    spec = trained.spec
    if spec.backbone.kind != "scratch":
        return None
    known = shown_in_training(trained.backbone, spec, data)
    named = [(f"question {k}", trained.question(text)) for k, text in enumerate(questions, 1)]
    return check_text(trained.backbone, known, named, str(spec.task.name), "text like this")


def ask(
    answerer: Predictor, questions: Sequence[str], *, max_tokens: int, batch_size: int = 1, kind: answers.Kind = "auto"
) -> Iterator[Reply]:
    """The replies, in the order of the questions, as their batches are done."""
    encoded = [answerer.trained.question(text.removesuffix("\n")) for text in questions]
    layouts = [answerer.prompt(question) for question in encoded]
    for at in range(0, len(questions), batch_size):
        batch = range(at, min(at + batch_size, len(questions)))
        fitting = [k for k in batch if answerer.fits(layouts[k])]
        rows, own = [layouts[k] for k in fitting], [encoded[k] for k in fitting]
        answered = answerer.answer(rows, max_tokens, answerer.method.until, own, kind) if fitting else []
        by_place = dict(zip(fitting, answered, strict=True))
        for k in batch:
            yield _reply(questions[k], by_place.get(k) or answerer.unanswered(layouts[k], encoded[k]))


def _reply(question: str, answered: Prediction) -> Reply:
    cost = answered.cost
    return Reply(
        question,
        answers.extract(answered.text).strict,
        answered.text,
        tuple(answers.extract(text).strict or text.strip() for text in answered.blocks),
        int(cost["prompt_tokens"]),
        int(cost["latent_positions"]),
        int(cost["generated_tokens"]),
        int(cost["passes"]),
        round(1000 * float(cost["batch_s"]), 3),
        int(cost["batch_size"]),
        bool(cost["capped"]),
        bool(cost["overlong"]),
    )


def reply_line(reply: Reply) -> str:
    """A reply as one line of JSON."""
    return json.dumps(reply.to_json(), ensure_ascii=False)


def reply_text(reply: Reply) -> str:
    """A reply for people: the answer, what every block said, and what it took."""
    if reply.overlong:
        return "not asked: the model has no positions for a question of this length"
    lines = [f"answer: {reply.answer}" if reply.answer is not None else "no answer could be read from the output"]
    written = reply.output.strip()
    if written and written != f"{answers.MARK} {reply.answer}":
        lines.append("output: " + written.replace("\n", "\n        "))
    lines += [f"after block {k}: {text or '(nothing)'}" for k, text in enumerate(reply.blocks, 1)]
    if reply.capped:
        lines.append("it was cut at the greatest number of tokens (--max-tokens)")
    latent = f" and {reply.latent_positions} latent positions" if reply.latent_positions else ""
    lines.append(
        f"{reply.prompt_tokens} tokens of question{latent}, {reply.generated_tokens} generated, {reply.passes} passes, "
        f"{reply.milliseconds:.1f} ms"
    )
    return "\n".join(lines)
