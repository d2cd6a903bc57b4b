"""base-cot: the backbone as it is, asked to reason in text before it answers. Nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rim_bench.baselines.base import Base
from rim_bench.methods.method import Example


@dataclass(frozen=True)
class BaseChainOfThought(Base):
    """base with an instruction to reason (Kojima et al., arXiv 2205.11916); shown examples have their steps (Wei et
    al., arXiv 2201.11903), and rows without steps are not shown.

    An answer may have 384 tokens where the task's recipe allows fewer: a model that writes prose needs more than one
    that was trained on equations. That number is ours.
    """

    instruction: str = 'Think step by step. Then give the final answer on a last line after "#### ".'

    name: ClassVar[str] = "base-cot"
    summary: ClassVar[str] = "the pretrained backbone as it is, asked to reason in text first; nothing is trained"
    writes_steps: ClassVar[bool] = True
    room: ClassVar[int] = 384

    def _answer(self, example: Example) -> str:
        return "\n".join([*example.steps, super()._answer(example)])
