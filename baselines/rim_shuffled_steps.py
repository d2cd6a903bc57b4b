"""rim-shuffled-steps: RiM grounded on the steps of other examples. Does it matter what the steps say?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from rim_bench.methods.method import Example
from rim_bench.models.rim import Rim


@dataclass(frozen=True)
class RimShuffledSteps(Rim):
    """Every training example has the steps of another one with as many steps; questions and answers stay.

    So lengths, blocks and losses are those of RiM, and only the content of the steps is wrong. Evaluation is untouched.
    """

    name: ClassVar[str] = "rim-shuffled-steps"
    summary: ClassVar[str] = "control of rim: grounded on the steps of other examples of the same length"

    def transform(self, examples: Sequence[Example], seed: int) -> Sequence[Example]:
        """Steps moved along one cycle per number of steps; only an example alone in its length keeps its own."""
        groups: dict[int, list[int]] = {}
        for i, example in enumerate(examples):
            groups.setdefault(len(example.steps), []).append(i)
        out = list(examples)
        for length, members in sorted(groups.items()):
            order = random.Random(f"shuffled steps {seed} {length}").sample(members, len(members))
            for to, source in zip(order, [*order[1:], order[0]], strict=True):
                out[to] = replace(examples[to], steps=examples[source].steps)
        return out
