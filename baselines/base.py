"""base: the backbone as it is, asked for the answer alone. Nothing is trained: what tuning adds is held against it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import MOST, Example, Method, Stage, Turn
from rim_bench.util.errors import UsageError

DRAW = "rim-bench shown examples 1"  # what the choice of the shown examples is drawn from


@dataclass(frozen=True)
class Base(Method):
    """The pretrained model, 0-shot or k-shot, in a conversation: its chat template where its tokenizer has one.

    Without a template the same turns stand as `Question: ...` and `Answer: ...`. The shown examples are training rows,
    the same ones before every question; they depend on their questions' text and on `draw`, not on the order of the
    rows. The wording and the number of shown examples (0) are ours: there is no standard prompt for this format.
    """

    shots: int = 0  # training examples that are shown before the question
    draw: int = 0  # which: another number shows others
    instruction: str = 'Give only the final answer, on one line after "#### ".'

    name: ClassVar[str] = "base"
    summary: ClassVar[str] = "the pretrained backbone as it is, asked for the answer; nothing is trained"
    trains: ClassVar[Literal["all", "markers", "nothing"]] = "nothing"
    until: ClassVar[tuple[str, ...]] = ("\nQuestion:",)  # where a model without a template goes on by itself

    def __post_init__(self) -> None:
        for name in ("shots", "draw"):
            if not 0 <= getattr(self, name) <= MOST:
                raise ValueError(f"{name} = {getattr(self, name)} must be a whole number from 0 to {MOST:,}")

    def stages(self) -> tuple[Stage, ...]:
        return ()

    @property
    def shows(self) -> int:
        return self.shots

    def shown(self, examples: Sequence[Example]) -> Sequence[Example]:
        usable = {e.question: e for e in examples if e.steps or not self.writes_steps}
        if len(usable) < self.shots:
            kind = "training rows with steps" if self.writes_steps else "training rows"
            raise UsageError(
                f"{self.name} is to show {self.shots:,} examples, and there are {len(usable):,} {kind}: give --set "
                f"{self.name}.shots=N with an N up to that"
            )
        keys = {q: hashlib.sha256(f"{DRAW}\n{self.draw}\n{q}".encode()).digest() for q in usable}
        return tuple(usable[q] for q in sorted(usable, key=keys.__getitem__)[: self.shots])

    def conversation(self, question: str, shown: Sequence[Example]) -> tuple[Turn, ...]:
        turns = [turn for e in shown for turn in (self._asking(e.question), Turn("assistant", self._answer(e)))]
        return (*turns, self._asking(question))

    def _asking(self, question: str) -> Turn:
        return Turn("user", f"{question}\n{self.instruction}" if self.instruction else question)

    def _answer(self, example: Example) -> str:
        return f"#### {example.answer}"

    def lay_prompt(self, question: tuple[int, ...], effort: int | None = None) -> Layout:
        return Layout((Segment("question", None, question),), resume=("question",))
