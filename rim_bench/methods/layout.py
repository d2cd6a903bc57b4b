"""A method's input as a tree of token segments; everything else is derived from it.

A column (one token or one latent slot) sees its ancestors in the tree and the earlier columns of its own segment.
The attention mask, positions, sequential passes, shared prefixes and costs all follow from that one rule.
This module imports the standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

Token = int | str
"""A vocabulary id, or the name of a marker (`"<b>"`), which the backbone turns into an id."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of consecutive columns in the tree.

    Exactly one of `tokens` (ids or marker names to feed) and `slots` (latent positions, each fed the last hidden state
    of the column before it on its path) is given.
    """

    name: str  # unique in its layout: losses, probes and dumps refer to it
    after: str | None  # the segment it continues; None = root
    tokens: tuple[Token, ...] = ()
    slots: int = 0
    weight: float = 0.0  # loss weight of each token; 0 = context only
    group: str = "lm"  # tokens whose losses are averaged together
    bridge: str | None = None  # slots: module from hidden state to next input; None = identity
    blind: frozenset[str] = frozenset()  # ancestors it must not see
    mutual: bool = False  # its columns see each other in both directions (fixed tokens without a loss only)
    # each of its tokens is computed in a pass of its own, as slots are: the same function, later (prompts only)
    serial: bool = False

    @property
    def size(self) -> int:
        """Number of columns."""
        return self.slots or len(self.tokens)

    @property
    def passes(self) -> int:
        """Forward passes that begin inside it."""
        return len(self.tokens) if self.serial else self.slots


@dataclass(frozen=True, slots=True)
class Label:
    """One supervised token: `target` is predicted from column `source`."""

    source: int  # index of the predicting column: the one before the target on its path
    column: int  # index of the target's own column
    target: Token
    weight: float
    group: str


@dataclass(frozen=True)
class Layout:
    """A tree of segments, parents before children.

    `resume` names the segments that generation continues from (each as a new branch behind the segment's last column);
    `blind` are ancestors that the generated tokens must not see.

    Raises:
        ValueError: for a tree that is not one (unknown parent, duplicate name, empty segment, latent slots at the
            root).
    """

    segments: tuple[Segment, ...]
    resume: tuple[str, ...] = ()
    blind: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        seen: dict[str, Segment] = {}
        for segment in self.segments:
            self._check(segment, seen)
            seen[segment.name] = segment
        for name in self.resume:
            if name not in seen:
                raise ValueError(f"resume names segment {name!r}, which is not in the layout: {', '.join(seen)}")
        if len(set(self.resume)) < len(self.resume):
            raise ValueError(f"resume names a segment twice: {', '.join(self.resume)}")
        if not self.blind <= seen.keys():
            raise ValueError(
                f"what is generated is blind to {sorted(self.blind - seen.keys())}, which are not in the layout"
            )
        if not self.segments:
            raise ValueError("a layout needs at least one segment")
        if any(s.serial for s in self.segments) and any(s.weight for s in self.segments):
            raise ValueError(
                "a layout with serial segments has a loss: their passes compute what one pass does, and are never "
                "trained"
            )

    def _check(self, segment: Segment, seen: Mapping[str, Segment]) -> None:
        name = segment.name
        if name in seen:
            raise ValueError(f"segment {name!r} appears twice")
        if segment.after is not None and segment.after not in seen:
            raise ValueError(f"segment {name!r} continues {segment.after!r}, which does not stand before it")
        if bool(segment.tokens) == bool(segment.slots) or segment.slots < 0:
            raise ValueError(
                f"segment {name!r} needs either tokens or slots (tokens={len(segment.tokens)}, slots={segment.slots})"
            )
        if segment.slots and segment.after is None:
            raise ValueError(f"segment {name!r} has latent slots but no column before them")
        if segment.weight and segment.slots:
            raise ValueError(f"segment {name!r} puts a loss weight on latent slots, which have no target token")
        if segment.mutual and (segment.slots or segment.weight):
            raise ValueError(
                f"segment {name!r} is mutual: its columns would see the tokens or thoughts that they are to produce"
            )
        if segment.serial and (segment.slots or segment.mutual or segment.after is None):
            raise ValueError(
                f"segment {name!r} is serial: it needs tokens that see only what stands before them, and a segment "
                "above it"
            )
        if segment.blind:
            above = set()
            step: str | None = segment.after
            while step is not None:
                above.add(step)
                step = seen[step].after
            if not segment.blind <= above:
                raise ValueError(
                    f"segment {name!r} is blind to {sorted(segment.blind - above)}, which are not its ancestors"
                )
        if segment.after is None and any(s.after is None for s in seen.values()):
            raise ValueError(f"segment {name!r} is a second root: a layout is one tree")

    @cached_property
    def index(self) -> dict[str, int]:
        """Segment name -> its place in `segments`."""
        return {s.name: i for i, s in enumerate(self.segments)}

    @cached_property
    def first(self) -> tuple[int, ...]:
        """Index of each segment's first column; columns are numbered segment by segment."""
        starts, total = [], 0
        for s in self.segments:
            starts.append(total)
            total += s.size
        return tuple(starts)

    @cached_property
    def size(self) -> int:
        """Number of columns."""
        return sum(s.size for s in self.segments)

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """Segment -> index of the segment it continues, -1 for the root."""
        return tuple(-1 if s.after is None else self.index[s.after] for s in self.segments)

    def last(self, segment: int) -> int:
        """Index of the segment's last column."""
        return self.first[segment] + self.segments[segment].size - 1

    @cached_property
    def sees(self) -> tuple[frozenset[int], ...]:
        """Segment -> the other segments it attends to: its ancestors, less those it is blind to."""
        above: list[frozenset[int]] = []
        for parent in self.parents:
            above.append(frozenset() if parent < 0 else above[parent] | {parent})
        return tuple(
            frozenset(a for a in up if self.segments[a].name not in s.blind)
            for s, up in zip(self.segments, above, strict=True)
        )

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Position id of each segment's first column: the depth on its path."""
        out: list[int] = []
        for parent in self.parents:
            out.append(0 if parent < 0 else out[parent] + self.segments[parent].size)
        return tuple(out)

    @cached_property
    def entry_pass(self) -> tuple[int, ...]:
        """Segment -> the pass that computes what is before it: latent slots (and serial tokens) on the path above."""
        out: list[int] = []
        for parent in self.parents:
            out.append(0 if parent < 0 else out[parent] + self.segments[parent].passes)
        return tuple(out)

    @cached_property
    def pass_of(self) -> tuple[int, ...]:
        """Column -> the forward pass that computes it: latent slots (and serial tokens) on its path up to itself."""
        out: list[int] = []
        for s, entry in zip(self.segments, self.entry_pass, strict=True):
            out += range(entry + 1, entry + 1 + s.passes) if s.passes else [entry] * s.size
        return tuple(out)

    @property
    def passes(self) -> int:
        """Sequential forward passes: 1 + the largest number of latent slots (and serial tokens) on any path."""
        return 1 + max(self.pass_of)

    @cached_property
    def position(self) -> tuple[int, ...]:
        """Column -> position id, its depth on the path."""
        out: list[int] = []
        for s, start in zip(self.segments, self.starts, strict=True):
            out += range(start, start + s.size)
        return tuple(out)

    @property
    def depth(self) -> int:
        """Positions that the deepest path takes."""
        return max(start + s.size for start, s in zip(self.starts, self.segments, strict=True))

    @cached_property
    def tokens(self) -> tuple[Token | None, ...]:
        """Column -> what is fed: an id, a marker name, or None for a latent slot."""
        out: list[Token | None] = []
        for s in self.segments:
            out += s.tokens or [None] * s.slots
        return tuple(out)

    @cached_property
    def is_chain(self) -> bool:
        """Whether the tree is one path in which every column sees all columns before it."""
        return all(p == i - 1 for i, p in enumerate(self.parents)) and not any(
            s.blind or s.mutual for s in self.segments
        )

    def before(self, segment: int) -> int:
        """Column before the segment's first one on its path, -1 at the root."""
        parent = self.parents[segment]
        return -1 if parent < 0 else self.last(parent)

    @cached_property
    def labels(self) -> tuple[Label, ...]:
        """Every supervised token, predicted from the column before it on its path; a root's first token has none."""
        out: list[Label] = []
        for i, s in enumerate(self.segments):
            if not s.weight:
                continue
            source, start = self.before(i), self.first[i]
            for k, token in enumerate(s.tokens):
                if source >= 0:
                    out.append(Label(source, start + k, token, s.weight, s.group))
                source = start + k
        return tuple(out)

    def path(self, segment: str) -> tuple[str, ...]:
        """Names of the segments from the root to `segment`."""
        names: list[str] = []
        step: str | None = segment
        while step is not None:
            names.append(step)
            step = self.segments[self.index[step]].after
        return tuple(reversed(names))

    def leaves(self) -> tuple[str, ...]:
        """Names of the segments that nothing continues."""
        inner = {s.after for s in self.segments}
        return tuple(s.name for s in self.segments if s.name not in inner)

    def along(self, segment: str) -> Layout:
        """The path from the root to `segment` as a layout of its own."""
        names = self.path(segment)
        resume = (segment,) if segment in self.resume else ()
        return Layout(tuple(self.segments[self.index[n]] for n in names), resume, self.blind & frozenset(names))

    def grow(self, *segments: Segment) -> Layout:
        """This layout with further segments behind it."""
        return Layout((*self.segments, *segments), self.resume, self.blind)

    def split_passes(self, *names: str) -> Layout:
        """The same columns with each token of the named segments in a pass of its own:
        equal results, as many passes as with slots.
        """
        if missing := set(names) - self.index.keys():
            raise ValueError(f"segments {sorted(missing)} are not in the layout: {', '.join(self.index)}")
        chosen = tuple(replace(s, serial=True) if s.name in names else s for s in self.segments)
        return Layout(chosen, self.resume, self.blind)

    def continuation(self, name: str, after: str, tokens: tuple[Token, ...], weight: float = 0.0) -> Segment:
        """A segment as generation would grow it behind `after`: it sees what the generated tokens may see."""
        return Segment(name, after, tokens, weight=weight, blind=self.blind & frozenset(self.path(after)))

    def show(self, decode: Callable[[int], str] = str) -> str:
        """The layout as text: per segment its tokens, positions, pass, loss weight and what it sees."""
        depth: list[int] = []
        for parent in self.parents:
            branches = 0 if parent < 0 else sum(p == parent for p in self.parents)
            depth.append(0 if parent < 0 else depth[parent] + (branches > 1))
        rows = [("segment", "positions", "pass", "loss", "sees", "tokens")]
        for i, s in enumerate(self.segments):
            start, begins = self.starts[i], self.pass_of[self.first[i]]
            fed = (
                f"[{s.slots} latent slots: each fed the last hidden state before it"
                + (f" through {s.bridge!r}]" if s.bridge else "]")
                if s.slots
                else "".join(t if isinstance(t, str) else decode(t) for t in s.tokens).replace("\n", "⏎")
            )
            ends = self.pass_of[self.last(i)]
            resumes = " →generate" if s.name in self.resume else ""
            rows.append(
                (
                    "  " * depth[i] + s.name,
                    f"{start}..{start + s.size - 1}",
                    str(begins) if begins == ends else f"{begins}..{ends}",
                    f"{s.weight:.3g} ({s.group})" if s.weight else "-",
                    " ".join(self.segments[k].name for k in sorted(self.sees[i])) or "-",
                    fed + resumes,
                )
            )
        widths = [max(len(r[c]) for r in rows) for c in range(5)]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, [*widths, 0], strict=True)).rstrip() for r in rows)
