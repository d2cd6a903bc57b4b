"""no-thought-curriculum: coconut's stages, nothing in place of steps (Hao et al., arXiv 2412.06769, "w/o thought")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rim_bench.baselines.coconut import Curriculum, plain
from rim_bench.methods.layout import Layout


@dataclass(frozen=True)
class NoThoughtCurriculum(Curriculum):
    """Stage k drops the first k steps, the last one all: it ends as direct, without thoughts or markers.

    It tells what the gradual removal of steps gives without any position to think in.
    """

    name: ClassVar[str] = "no-thought-curriculum"
    summary: ClassVar[str] = "control of coconut: its stages, no thought positions, no new tokens (arXiv 2412.06769)"

    def lay_prefix(self, question: tuple[int, ...], replaced: int) -> Layout:
        return plain(question)

    def lay_prompt(self, question: tuple[int, ...], effort: int | None = None) -> Layout:
        return plain(question)
