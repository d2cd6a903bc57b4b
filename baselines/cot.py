"""cot: supervised fine-tuning with a chain of thought, x -> r_1..r_T y, decoded greedily."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import Encoded, Method, Stage


@dataclass(frozen=True)
class ChainOfThought(Method):
    """All steps, then the answer, as ordinary text. No hyper-parameters."""

    name: ClassVar[str] = "cot"
    summary: ClassVar[str] = "chain of thought as text, then the answer (SFT with chain of thought)"
    writes_steps: ClassVar[bool] = True

    def lay_train(self, example: Encoded, stage: Stage, progress: float, rng: random.Random) -> Layout:
        layout = self.lay_prompt(example.question)
        if not example.chain:  # a row without steps trains its answer alone
            return layout.grow(Segment("answer", "question", example.answer, weight=1.0))
        return layout.grow(
            Segment("steps", "question", example.chain, weight=1.0),
            Segment("answer", "steps", example.answer, weight=1.0),
        )

    def lay_prompt(self, question: tuple[int, ...], effort: int | None = None) -> Layout:
        return Layout((Segment("question", None, question),), resume=("question",))
