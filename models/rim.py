"""rim: Reasoning in Memory (Aichberger and Hochreiter, arXiv 2605.30343), the method this project is about."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar, Literal

from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import LEARNING_RATE, Encoded, Marker, Method, SearchRange, Stage
from rim_bench.util.errors import UsageError

OPEN, MEMORY, CLOSE = "<b>", "<m>", "</b>"


@dataclass(frozen=True)
class Rim(Method):
    """x, m_1, ..., m_K: fixed memory blocks that one pass processes; every block has a readout branch in training.

    Stage 1 (grounding): T blocks for a T-step example, readout t predicts the next step (`ground = skip`, the published
    rule; the last one predicts the answer), or its own step with one more block for the answer (`ground = all`).
    Its weights anneal to 0, earlier steps first. Stage 2 (refinement): K blocks for every example, every readout
    predicts the answer with weight 2k / (K(K+1)); optimizer and schedule start afresh, at a lower rate and with more
    dropout. Where the paper is silent the defaults are ours: `anneal_answer`, `refine_lr_scale`, `refine_dropout`.
    """

    name: ClassVar[str] = "rim"
    summary: ClassVar[str] = "fixed blocks of memory tokens, processed in one pass (arXiv 2605.30343)"
    effort_field: ClassVar[str | None] = "K"

    K: int = 8  # blocks in stage 2 and at inference
    M: int = 2  # memory tokens inside a block
    ground: Literal["skip", "all"] = "skip"
    schedule: Literal["relative", "uniform", "constant"] = "relative"
    anneal_answer: bool = (
        False  # whether the answer's weight anneals with the steps' (to the letter of the formula it does)
    )
    block_attention: Literal["causal", "mutual"] = (
        "causal"  # mutual: both directions inside a block (a published variant)
    )
    blocks: Literal["chain", "isolated"] = "chain"  # isolated: each block sees the question only (a control)
    readout_sees_question: bool = True
    max_steps: int = 13
    epochs_ground: float = 6
    epochs_refine: float = 2
    refine_lr_scale: float = 0.2
    refine_dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.K < 1 or self.M < 0 or self.max_steps < 1:
            raise ValueError(
                f"K = {self.K} and max_steps = {self.max_steps} must be at least 1, M = {self.M} at least 0"
            )
        if min(self.epochs_ground, self.epochs_refine) < 0 or self.epochs_ground + self.epochs_refine <= 0:
            raise ValueError("epochs_ground and epochs_refine must be 0 or more, and one of them more than 0")
        if not 0 <= self.refine_dropout < 1 or self.refine_lr_scale <= 0:
            raise ValueError("refine_dropout must lie in [0, 1), refine_lr_scale above 0")

    @property
    def block(self) -> tuple[str, ...]:
        """The tokens of one memory block, the same for every question."""
        return (OPEN, *(MEMORY,) * self.M, CLOSE)

    def markers(self) -> tuple[Marker, ...]:
        return (Marker(OPEN), Marker(MEMORY), Marker(CLOSE))

    def stages(self) -> tuple[Stage, ...]:
        ground = Stage("grounding", self.epochs_ground, knob=1)
        refine = Stage("refinement", self.epochs_refine, self.refine_lr_scale, True, 2, self.refine_dropout)
        return tuple(s for s in (ground, refine) if s.share > 0)

    def search_space(self) -> tuple[SearchRange, ...]:
        """The rate, and the second stage's rate, length and dropout, where there is a second stage."""
        refinement = (
            SearchRange("refine_lr_scale", 0.1, 2),
            SearchRange(
                "epochs_refine", 1, 18
            ),  # beside epochs_ground = 6: from a seventh to three quarters of the budget
            SearchRange("refine_dropout", 0, 0.2, "linear"),
        )
        return (LEARNING_RATE, *refinement) if self.epochs_refine else super().search_space()

    def lay_train(self, example: Encoded, stage: Stage, progress: float, rng: random.Random) -> Layout:
        if stage.knob == 1:
            return self._grounding(example, progress)
        layout = self._trunk(example.question, self.K)
        return layout.grow(
            *(
                self._readout(k, example.answer, 2 * k / (self.K * (self.K + 1)), f"block {k}")
                for k in range(1, self.K + 1)
            )
        )

    def _grounding(self, example: Encoded, progress: float) -> Layout:
        steps = len(example.steps)
        if steps > self.max_steps:
            raise UsageError(
                f"example {example.id!r} has {steps} steps, rim grounds at most max_steps = {self.max_steps}"
            )
        targets = [*(example.steps if self.ground == "all" else example.steps[1:]), example.answer]
        weights = [self._anneal(t, len(targets), progress) for t in range(1, len(targets) + 1)]
        layout = self._trunk(example.question, len(targets))
        pairs = enumerate(zip(targets, weights, strict=True), 1)
        readouts = (self._readout(t, target, weight, "readouts") for t, (target, weight) in pairs)
        return layout.grow(*(r for r in readouts if r.weight > 0))  # a branch without a loss need not be computed

    def _anneal(self, t: int, last: int, progress: float) -> float:
        """lambda_t at `progress` = s/S of the stage; the answer, t = last, keeps 1 unless `anneal_answer`."""
        if self.schedule == "constant" or (t == last and not self.anneal_answer):
            return 1.0
        return max(0.0, 1.0 - progress * (last / t if self.schedule == "relative" else 1.0))

    def _readout(self, t: int, target: tuple[int, ...], weight: float, group: str) -> Segment:
        blind: frozenset[str] = frozenset() if self.readout_sees_question else frozenset({"question"})
        return Segment(f"readout {t}", f"block {t}", target, weight=weight, group=group, blind=blind)

    def _trunk(self, question: tuple[int, ...], blocks: int) -> Layout:
        segments = [Segment("question", None, question)]
        for k in range(1, blocks + 1):
            after = "question" if k == 1 or self.blocks == "isolated" else f"block {k - 1}"
            segments.append(Segment(f"block {k}", after, self.block, mutual=self.block_attention == "mutual"))
        blind: frozenset[str] = frozenset() if self.readout_sees_question or not blocks else frozenset({"question"})
        return Layout(tuple(segments), resume=(segments[-1].name,), blind=blind)

    def lay_prompt(self, question: tuple[int, ...], effort: int | None = None) -> Layout:
        blocks = self.K if effort is None else effort
        if blocks < 0:
            raise UsageError(f"effort {blocks}: {self.name} takes 0 or more blocks")
        return self._trunk(question, blocks)

    def lay_probe(self, question: tuple[int, ...], effort: int | None = None) -> Layout | None:
        trunk = self.lay_prompt(question, effort)
        blocks = tuple(s.name for s in trunk.segments[1:])
        return Layout(trunk.segments, blocks, trunk.blind) if blocks else None
