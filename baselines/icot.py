"""icot: a chain of thought internalised step by step (Deng et al., arXiv 2405.14838)."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import ClassVar, Literal

from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import LEARNING_RATE, Encoded, Method, SearchRange, Stage

MOST_AHEAD = 99  # tokens that one row may be ahead of the schedule; the rest of the probability lies on it


@dataclass(frozen=True)
class InternalisedChain(Method):
    """x, what is left of the chain, y: training removes the chain's first tokens, more and more of them, then all.

    In the first stage s grows evenly from 0 to `beyond` tokens, `per_epoch` an epoch; in the second nothing of a chain
    is left. A row is o tokens ahead of the schedule, o drawn anew at every step with P(o = j) in proportion to
    exp(-`smoothing` j). The optimizer is fresh whenever s grows (`reset`). No latent positions, no new tokens: it ends
    as direct. Defaults are the authors' for GSM8K (their code, c2e3891): 8 tokens an epoch, all beyond 39, 80 epochs.

    Ours: the text of all methods here (the authors separate by end tokens), s as a function of its stage's progress, a
    reset for every growth (theirs end once all rows of a batch have lost their chains), greedy answers (their
    evaluation samples), and the warm-up that every method has, where they have none.
    """

    name: ClassVar[str] = "icot"
    summary: ClassVar[str] = "a chain of thought whose tokens are removed in training, one by one (arXiv 2405.14838)"

    per_epoch: float = 8  # tokens that are removed in an epoch
    beyond: int = 39  # of so many removed tokens on, all are
    epochs: float = 80  # relative length of the whole training
    smoothing: float = 4.0  # lambda of the tokens that a row is ahead; inf: none is
    side: Literal["left", "right"] = "left"  # where the chain loses its tokens
    reset: Literal["each_removal", "stage", "never"] = "each_removal"

    def __post_init__(self) -> None:
        if self.per_epoch <= 0 or self.beyond < 1 or self.smoothing <= 0:
            raise ValueError(
                f"per_epoch = {self.per_epoch} and smoothing = {self.smoothing} must be above 0, and "
                f"beyond = {self.beyond} at least 1"
            )
        if self.epochs <= self.removal:
            raise ValueError(
                f"epochs = {self.epochs} leaves nothing behind the removal, which takes beyond / per_epoch = "
                f"{self.removal:g} of them"
            )

    @property
    def removal(self) -> float:
        """Epochs in which tokens are removed."""
        return self.beyond / self.per_epoch

    def stages(self) -> tuple[Stage, ...]:
        each = self.scheduled if self.reset == "each_removal" else None
        return (
            Stage("removal", self.removal, knob=0, reset_when=each),
            Stage("removed", self.epochs - self.removal, knob=1, reset=self.reset != "never"),
        )

    def search_space(self) -> tuple[SearchRange, ...]:
        """The rate, and how fast the chain goes."""
        slowest = self.beyond / self.epochs  # the removal then takes all of the training
        return (LEARNING_RATE, SearchRange("per_epoch", 1.2 * slowest, 80 * slowest))

    def scheduled(self, progress: float) -> int:
        """Tokens that every row has lost at this progress of the first stage."""
        return int(progress * self.beyond)

    def lay_train(self, example: Encoded, stage: Stage, progress: float, rng: random.Random) -> Layout:
        ahead = min(MOST_AHEAD, int(-math.log1p(-rng.random()) / self.smoothing))
        removed = len(example.chain) if stage.knob else self.scheduled(progress) + ahead
        kept = example.chain[removed:] if self.side == "left" else example.chain[: max(0, len(example.chain) - removed)]
        layout = self.lay_prompt(example.question)
        if not kept:
            return layout.grow(Segment("answer", "question", example.answer, weight=1.0))
        return layout.grow(
            Segment("steps", "question", kept, weight=1.0), Segment("answer", "steps", example.answer, weight=1.0)
        )

    def lay_prompt(self, question: tuple[int, ...], effort: int | None = None) -> Layout:
        return Layout((Segment("question", None, question),), resume=("question",))
