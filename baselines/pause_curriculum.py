"""pause-curriculum: coconut's without the recycled state (Martin 2026, "The Curriculum Is the Mechanism")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rim_bench.baselines.coconut import LIKE, Coconut
from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import Marker

PAUSE = "<pause>"


@dataclass(frozen=True)
class PauseCurriculum(Coconut):
    """coconut, its stages and its markers, but every thought position is fed one learned embedding: a single pass.

    It separates the curriculum from what coconut feeds back. All three rows start as coconut's do. Its `thoughts` are
    positions.
    """

    name: ClassVar[str] = "pause-curriculum"
    summary: ClassVar[str] = (
        "control of coconut: its curriculum, one learned embedding for every thought, a single pass (Martin 2026)"
    )

    def markers(self) -> tuple[Marker, ...]:
        return (*super().markers(), Marker(PAUSE, like=LIKE))

    def thought_segment(self, thoughts: int) -> Segment:
        return Segment("thoughts", "bot", (PAUSE,) * thoughts)

    def lay_split(self, question: tuple[int, ...], effort: int | None = None) -> Layout | None:
        """pause-multipass: the prompt in as many passes as coconut's, n+1."""
        prompt = self.lay_prompt(question, effort)
        return prompt.split_passes("thoughts") if "thoughts" in prompt.index else prompt
