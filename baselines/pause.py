"""pause: pause tokens before the answer (Goyal et al., arXiv 2310.02226, the fine-tuning half)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import Encoded, Marker, Method, Stage
from rim_bench.util.errors import UsageError

PAUSE = "<pause>"


@dataclass(frozen=True)
class Pause(Method):
    """x, N x `<pause>` (one learned embedding), y; no loss on the pauses."""

    name: ClassVar[str] = "pause"
    summary: ClassVar[str] = "learned pause tokens before the answer (arXiv 2310.02226)"
    effort_field: ClassVar[str | None] = "N"

    N: int = 10  # pause tokens; 10 is the published number

    def __post_init__(self) -> None:
        if self.N < 0:
            raise ValueError(f"N = {self.N} pauses: give 0 or more")

    def markers(self) -> tuple[Marker, ...]:
        return (Marker(PAUSE),)

    def lay_train(self, example: Encoded, stage: Stage, progress: float, rng: random.Random) -> Layout:
        layout = self.lay_prompt(example.question)
        return layout.grow(Segment("answer", layout.resume[0], example.answer, weight=1.0))

    def lay_prompt(self, question: tuple[int, ...], effort: int | None = None) -> Layout:
        pauses = self.N if effort is None else effort
        if pauses < 0:
            raise UsageError(f"effort {pauses}: {self.name} takes 0 or more pause tokens")
        root = Segment("question", None, question)
        if not pauses:
            return Layout((root,), resume=("question",))
        return Layout((root, Segment("pauses", "question", (PAUSE,) * pauses)), resume=("pauses",))
