"""direct: supervised fine-tuning without a chain of thought, x -> y."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import Encoded, Method, Stage


@dataclass(frozen=True)
class Direct(Method):
    """The answer right behind the question. No hyper-parameters."""

    name: ClassVar[str] = "direct"
    summary: ClassVar[str] = "answer only, no reasoning (SFT without chain of thought)"

    def lay_train(self, example: Encoded, stage: Stage, progress: float, rng: random.Random) -> Layout:
        return self.lay_prompt(example.question).grow(Segment("answer", "question", example.answer, weight=1.0))

    def lay_prompt(self, question: tuple[int, ...], effort: int | None = None) -> Layout:
        return Layout((Segment("question", None, question),), resume=("question",))
