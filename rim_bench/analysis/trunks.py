"""What stands between a question and its answer, as a path whose parts can be exchanged one by one.

It follows from the layout alone: no method is known by name. A run of latent slots becomes a segment a slot; where
there is one segment of tokens only, a segment a token. A method that writes its steps has as segments the lines it
wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import Example, Method
from rim_bench.util.errors import UsageError

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Trunk:
    """A question and the segments that stand between it and the answer.

    Attributes:
        layout: the path that the answer continues, with the one resume segment that is its end.
        question: names of the segments up to the question's end.
        segments: names of those behind it, in order.
    """

    example: Example
    layout: Layout
    question: tuple[str, ...]
    segments: tuple[str, ...]

    @cached_property
    def shape(self) -> tuple[Any, ...]:
        """What rows of a batch have in common, so that their columns stand for the same and need no padding."""
        parts = tuple((s.name, s.size, bool(s.slots), s.mutual, tuple(sorted(s.blind))) for s in self.layout.segments)
        return self.question, self.segments, parts

    def cut(self, kept: int) -> Trunk:
        """The same with its first `kept` segments only, which the answer then follows."""
        names = (*self.question, *self.segments[:kept])
        chosen = tuple(s for s in self.layout.segments if s.name in names)
        layout = Layout(chosen, (chosen[-1].name,), self.layout.blind & frozenset(names))
        return replace(self, layout=layout, segments=self.segments[:kept])

    def with_tokens(self, token: int) -> Trunk:
        """The same positions with one ordinary token at all of them."""
        names = set(self.segments)
        segments = tuple(
            replace(s, tokens=(token,) * s.size, slots=0, bridge=None) if s.name in names else s
            for s in self.layout.segments
        )
        return replace(self, layout=Layout(segments, self.layout.resume, self.layout.blind))

    def blinded(self, blind: dict[str, frozenset[str]]) -> Trunk:
        """The same where segments do not see some of what stands before them, in addition to what they do not see."""
        segments = tuple(replace(s, blind=s.blind | blind.get(s.name, frozenset())) for s in self.layout.segments)
        return replace(self, layout=Layout(segments, self.layout.resume, self.layout.blind))


def trunk_of(example: Example, question: Tokens, prompt: Layout) -> Trunk:
    """The trunk of a prompt. A branch that the answer does not continue is left out: nothing of it reaches the answer.

    Args:
        question: the encoded question, which ends where the segment with these tokens does; else the root.
    """
    path = prompt.along(prompt.resume[0])
    end = next((k for k, s in enumerate(path.segments) if s.tokens == question), 0)
    behind = path.segments[end + 1 :]
    parts: dict[str, tuple[Segment, ...]] = {s.name: (s,) for s in path.segments}
    for s in behind:
        if s.slots > 1 or (len(behind) == 1 and s.size > 1 and not s.mutual):
            parts[s.name] = tuple(_column(s, k) for k in range(s.size))
    names = {name: tuple(p.name for p in of) for name, of in parts.items()}
    segments: list[Segment] = []
    for s in (p for of in parts.values() for p in of):
        blind = frozenset(n for b in s.blind for n in names[b])
        segments.append(replace(s, after=segments[-1].name if segments else None, blind=blind))
    layout = Layout(tuple(segments), (segments[-1].name,), frozenset(n for b in path.blind for n in names[b]))
    return Trunk(
        example,
        layout,
        tuple(s.name for s in path.segments[: end + 1]),
        tuple(n for s in behind for n in names[s.name]),
    )


def _column(segment: Segment, k: int) -> Segment:
    """One column of a segment as a segment of its own; `trunk_of` says what it continues."""
    tokens = segment.tokens[k : k + 1]
    return replace(segment, name=f"{segment.name} {k + 1}", tokens=tokens, slots=0 if tokens else 1)


def written_trunk(example: Example, prompt: Layout, lines: Sequence[Tokens]) -> Trunk:
    """The trunk of an answer whose steps were written as text, a segment a line."""
    (after,), layout = prompt.resume, prompt
    for k, line in enumerate(lines, 1):
        layout = layout.grow(layout.continuation(f"step {k}", after, line))
        after = layout.segments[-1].name
    layout = Layout(layout.segments, (after,), prompt.blind)
    question = tuple(s.name for s in prompt.segments)
    return Trunk(example, layout, question, tuple(s.name for s in layout.segments[len(question) :]))


def check_has_segments(method: Method) -> None:
    """Raises UsageError for a method with nothing between question and answer."""
    if method.writes_steps:
        return
    question = (0, 0, 0)
    prompt = method.lay_prompt(question)
    if not trunk_of(Example("", "", (), ""), question, prompt).segments:
        raise UsageError(
            f"{method.name} has no segments between question and answer, so that there is nothing to intervene on: "
            "give a run of a method with blocks, thoughts, pauses or written steps"
        )
