"""pause-distinct: as many positions as RiM, each with its own embedding: prefix tuning behind the question."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import Encoded, Marker, Method, Stage
from rim_bench.util.errors import UsageError


@dataclass(frozen=True)
class PauseDistinct(Method):
    """x, `<pause 1>` .. `<pause N>`, y; no loss on the pauses, no stage but one.

    It has RiM's positions and more free embeddings, without blocks, readouts or steps. N = K (M + 2) of RiM: 32 for K =
    8 and M = 2.
    """

    name: ClassVar[str] = "pause-distinct"
    summary: ClassVar[str] = (
        "control of rim: as many pauses as it has positions, each with its own embedding (prefix tuning)"
    )
    effort_field: ClassVar[str | None] = "N"

    N: int = 32  # pauses in training; at inference the first ones may do

    def __post_init__(self) -> None:
        if self.N < 1:
            raise ValueError(f"N = {self.N} pauses: give 1 or more")

    def markers(self) -> tuple[Marker, ...]:
        return tuple(Marker(f"<pause {i}>") for i in range(1, self.N + 1))

    def lay_train(self, example: Encoded, stage: Stage, progress: float, rng: random.Random) -> Layout:
        layout = self.lay_prompt(example.question)
        return layout.grow(Segment("answer", layout.resume[0], example.answer, weight=1.0))

    def lay_prompt(self, question: tuple[int, ...], effort: int | None = None) -> Layout:
        pauses = self.N if effort is None else effort
        if not 0 <= pauses <= self.N:
            raise UsageError(f"effort {pauses}: {self.name} takes 0 to {self.N} pauses, the ones it was trained with")
        root = Segment("question", None, question)
        if not pauses:
            return Layout((root,), resume=("question",))
        names = tuple(marker.name for marker in self.markers()[:pauses])
        return Layout((root, Segment("pauses", "question", names)), resume=("pauses",))
