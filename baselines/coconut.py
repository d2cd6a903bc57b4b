"""coconut: chain of continuous thought (Hao et al., arXiv 2412.06769)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import LEARNING_RATE, Encoded, Marker, Method, SearchRange, Stage
from rim_bench.util.errors import UsageError

BEGIN, END = "<bot>", "<eot>"
LIKE = "<<"  # the authors' code starts every marker as a copy of this token's row


@dataclass(frozen=True)
class Curriculum(Method):
    """The stages of coconut: each replaces one more of the first steps, the last one drops all that remain.

    What stands in place of the steps is up to the method (`lay_prefix`). All that is left of steps and answer is
    supervised.
    """

    latent_stages: int = 3  # stages that each replace one more step
    epochs_cot: float = 6  # relative lengths of stage 0, of each latent stage, and of the last stage
    epochs_latent: float = 3
    epochs_last: float = 13
    reset_optimizer: bool = True

    def __post_init__(self) -> None:
        if self.latent_stages < 1:
            raise ValueError(f"latent_stages = {self.latent_stages} must be at least 1")
        if min(self.epochs_cot, self.epochs_latent) < 0 or self.epochs_last <= 0:
            raise ValueError("epochs_cot and epochs_latent must be 0 or more, epochs_last more than 0")

    def stages(self) -> tuple[Stage, ...]:
        reset = self.reset_optimizer
        latent = [
            Stage(f"latent {k}", self.epochs_latent, reset=reset, knob=k) for k in range(1, self.latent_stages + 1)
        ]
        return tuple(
            s
            for s in (
                Stage("cot", self.epochs_cot, knob=0, given_by="cot"),
                *latent,
                Stage("answer only", self.epochs_last, reset=reset, knob=self.latent_stages + 1),
            )
            if s.share > 0
        )

    def search_space(self) -> tuple[SearchRange, ...]:
        """The rate, and how long the stages are beside one another, where there are several."""
        lengths = (SearchRange("epochs_latent", 1, 9), SearchRange("epochs_last", 4, 40))
        return (LEARNING_RATE, *lengths) if self.epochs_latent else super().search_space()

    def lay_prefix(self, question: tuple[int, ...], replaced: int) -> Layout:
        """The prompt whose positions stand for so many replaced steps, 1 or more."""
        raise NotImplementedError

    def lay_train(self, example: Encoded, stage: Stage, progress: float, rng: random.Random) -> Layout:
        last = stage.knob > self.latent_stages
        replaced = min(stage.knob, self.latent_stages)
        layout = self.lay_prefix(example.question, replaced) if stage.knob else plain(example.question)
        kept = () if last else tuple(t for step in example.steps[replaced:] for t in step)
        tail = layout.resume[0]
        if kept:
            layout, tail = layout.grow(Segment("steps", tail, kept, weight=1.0)), "steps"
        return layout.grow(Segment("answer", tail, example.answer, weight=1.0))


@dataclass(frozen=True)
class Coconut(Curriculum):
    """x `<bot>` z_1..z_n `<eot>`, the remaining steps, y; each z_i is fed the last hidden state before it (final norm).

    Curriculum: stage 0 is cot; stage k replaces the first k steps by k*c thoughts, whatever the example's own number of
    steps; the last stage keeps the thoughts and drops all remaining steps. Gradients flow through all n+1 passes.
    Defaults: the paper's GSM8K setting, c = 2 and three latent stages, 3 epochs each; 6 epochs of stage 0 (the paper's
    text), 13 of the last stage (the authors' configuration). The optimizer is reset at every stage.
    """

    name: ClassVar[str] = "coconut"
    summary: ClassVar[str] = "continuous thoughts: the last hidden state fed back as the next input (arXiv 2412.06769)"
    effort_field: ClassVar[str | None] = "thoughts"

    c: int = 2  # thoughts per replaced step

    def __post_init__(self) -> None:
        if self.c < 1 or self.latent_stages < 1:
            raise ValueError(f"c = {self.c} and latent_stages = {self.latent_stages} must both be at least 1")
        super().__post_init__()

    @property
    def thoughts(self) -> int:
        """Thoughts at the end of the curriculum, and at inference."""
        return self.c * self.latent_stages

    def markers(self) -> tuple[Marker, ...]:
        return (Marker(BEGIN, like=LIKE), Marker(END, like=LIKE))

    def thought_segment(self, thoughts: int) -> Segment:
        """What stands between the two markers."""
        return Segment("thoughts", "bot", slots=thoughts)

    def lay_prefix(self, question: tuple[int, ...], replaced: int) -> Layout:
        return self.lay_prompt(question, replaced * self.c)

    def lay_prompt(self, question: tuple[int, ...], effort: int | None = None) -> Layout:
        thoughts = self.thoughts if effort is None else effort
        if thoughts < 0:
            raise UsageError(f"effort {thoughts}: {self.name} takes 0 or more thoughts")
        segments = [Segment("question", None, question), Segment("bot", "question", (BEGIN,))]
        if thoughts:
            segments.append(self.thought_segment(thoughts))
        segments.append(Segment("eot", segments[-1].name, (END,)))
        return Layout(tuple(segments), resume=("eot",))


def plain(question: tuple[int, ...]) -> Layout:
    """Stage 0's prompt: no markers, as in the authors' separate CoT run."""
    return Layout((Segment("question", None, question),), resume=("question",))
