"""Batched decoding as "more columns": every place to continue from, and every sample, is a branch of growing length."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rim_bench.engine.packing import PackedBatch, PackedModel, make_room
from rim_bench.methods.layout import Layout

if TYPE_CHECKING:
    from rim_bench.engine.backbone import Backbone

Stop = Callable[[tuple[int, ...]], bool]
"""Whether generation ends, given the tokens of one branch so far."""
Pick = Callable[[Tensor, Sequence[int]], Tensor]
"""The next tokens [rows, branches] from logits [rows, branches or 1, vocabulary] and the numbers of the rows left."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Several answers to each prompt, drawn at a temperature."""

    samples: int  # at least 1
    temperature: float  # above 0
    seed: int = 0

    def streams(self, layout: Layout) -> list[random.Random]:
        """One stream of uniform numbers per sample, one number a step.

        It follows from the seed, the sample's index and the prompt's own tokens: neither the batch nor the number of
        samples matters.
        """
        keys = (repr((self.seed, i, layout.tokens)).encode() for i in range(self.samples))
        return [random.Random(int.from_bytes(hashlib.sha256(key).digest(), "big")) for key in keys]


@dataclass(slots=True)
class Completion:
    """What one branch generated."""

    tokens: tuple[int, ...] = ()  # without the end token
    ended: bool = False  # by the end token or a stop rule; otherwise it ran into the cap
    passes: int = 0  # dependent forward passes until its last token was known, the prompt's included
    prompt_passes: int = 0
    seconds: float = 0.0  # from the start of the batch until this branch ended
    generated: int = 0  # tokens generated, the end token included
    times: list[float] = field(default_factory=list)  # seconds at which the tokens of a step were known, of the batch


@dataclass
class DecodingWork:
    """What decoding a batch multiplied, padding included, and what its cache is made of."""

    columns: int = 0
    pairs: int = 0  # of a column and a key
    logits: int = 0  # columns whose logits were computed
    number_bytes: float = 0.0  # of a key's or value's number in the cache


@dataclass
class _Branches:
    """The growing branches of a batch, [rows, branches] each; one that ended feeds padding until its row is dropped."""

    segment: Tensor
    position: Tensor  # of the next column
    index: Tensor
    done: Tensor  # bool
    padding: Tensor  # [rows, 1]: the segment of padding in each row's part
    out: list[list[list[int]]] = field(default_factory=list)

    def record(
        self,
        tokens: list[list[int]],
        completions: Sequence[list[Completion]],
        backbone: Backbone,
        stop: Stop | None,
        step: int,
    ) -> None:
        """Append the chosen tokens to the branches that are still growing, and close those that end here."""
        done, position = self.done.tolist(), self.position.tolist()
        for i, branches in enumerate(completions):
            for b, completion in enumerate(branches):
                if done[i][b]:
                    continue
                out, token = self.out[i][b], tokens[i][b]
                completion.generated = step + 1
                if token != backbone.end:
                    out.append(token)
                completion.tokens = tuple(out)
                completion.ended = token == backbone.end or (stop is not None and stop(completion.tokens))
                if completion.ended or position[i][b] >= backbone.max_positions:  # no position left: capped
                    completion.seconds, completion.passes = completion.times[-1], completion.prompt_passes + step
                    done[i][b] = True
        self.done = torch.tensor(done, device=self.done.device)

    def feed(self, workspace: PackedModel, parts: Sequence[PackedBatch], chosen: Tensor) -> Tensor:
        """Hidden states of the chosen tokens, which become one more column of each branch."""
        position = torch.where(self.done, 0, self.position).clamp(max=workspace.backbone.max_positions - 1)
        segment = torch.where(self.done, self.padding, self.segment)
        hidden = workspace.extend(parts, torch.where(self.done, 0, chosen), segment, self.index, position)
        self.position, self.index = self.position + 1, self.index + 1
        return hidden

    def shrink(self, parts: Sequence[PackedBatch], alive: list[int]) -> list[PackedBatch]:
        """Drop the rows that have finished; returns the parts that have rows left."""
        left, at = [], 0
        for part in parts:
            rows = len(part.segment)
            own = [i - at for i in alive if at <= i < at + rows]
            at += rows
            if not own:
                part.cache = None  # its memory goes back at once; its counts stay
                continue
            left.append(part)
            if len(own) == rows:
                continue
            keep = torch.tensor(own, device=self.done.device)
            assert part.cache is not None
            part.cache.batch_select_indices(keep)  # type: ignore[attr-defined]
            part.sees, part.segment, part.index = part.sees[keep], part.segment[keep], part.index[keep]
        keep = torch.tensor(alive, device=self.done.device)
        for name in ("segment", "position", "index", "done", "padding"):
            setattr(self, name, getattr(self, name)[keep])
        self.out = [self.out[i] for i in alive]
        return left


@torch.inference_mode()
def decode(
    workspace: PackedModel,
    layouts: Sequence[Layout],
    *,
    max_tokens: int,
    stop: Stop | None = None,
    work: DecodingWork | None = None,
) -> list[dict[str, Completion]]:
    """Greedy continuation of every `resume` segment of every layout.

    The prefix is computed once and shared by all branches of a row (rim: one trunk, an answer after every block).
    Rows leave the batch as they finish. The result of a row does not depend on the rows beside it, up to rounding.

    Args:
        layouts: one a row, each with at least one `resume` segment.
        max_tokens: cap for each branch, at least 1.
        work: is added to, where given.
    Returns:
        Per row, resume segment -> completion.
    Raises:
        ValueError: a cap below 1.
    """
    done = _grow(
        workspace, layouts, [row.resume for row in layouts], lambda logits, _: logits.argmax(-1), max_tokens, stop, work
    )
    return [dict(zip(row.resume, completions, strict=True)) for row, completions in zip(layouts, done, strict=True)]


@torch.inference_mode()
def sample(
    workspace: PackedModel,
    layouts: Sequence[Layout],
    sampling: Sampling,
    *,
    max_tokens: int,
    stop: Stop | None = None,
    work: DecodingWork | None = None,
) -> list[list[Completion]]:
    """`sampling.samples` drawn continuations of every layout, side by side after one shared prefill.

    The token of a step is the inverse of the cumulative distribution (softmax of logits / temperature, in order of
    token ids) at one uniform number of the sample's own stream. So a sample does not depend on the rows and samples
    beside it, up to rounding.

    Args:
        layouts: one a row, each with exactly one `resume` segment.
        max_tokens: cap for each sample, at least 1.
        work: is added to, where given.
    Returns:
        Per row, the samples in order.
    Raises:
        ValueError: a cap below 1, or a layout with another number of resume segments.
    """
    if any(len(row.resume) != 1 for row in layouts):
        raise ValueError("samples need a layout with one resume segment")
    streams = [sampling.streams(row) for row in layouts]

    def pick(logits: Tensor, rows: Sequence[int]) -> Tensor:
        uniform = torch.tensor(
            [[s.random() for s in streams[r]] for r in rows], dtype=torch.float64, device=logits.device
        )
        total = (logits.double() / sampling.temperature).softmax(-1).cumsum(-1)
        total = total.expand(-1, sampling.samples, -1).contiguous()  # a first step has one distribution for all samples
        at = torch.searchsorted(total, uniform[..., None] * total[..., -1:], right=True)  # never of probability 0
        return at.squeeze(-1).clamp(max=logits.shape[-1] - 1)

    return _grow(workspace, layouts, [row.resume * sampling.samples for row in layouts], pick, max_tokens, stop, work)


def _grow(
    workspace: PackedModel,
    layouts: Sequence[Layout],
    places: Sequence[Sequence[str]],
    pick: Pick,
    max_tokens: int,
    stop: Stop | None,
    work: DecodingWork | None,
) -> list[list[Completion]]:
    """One branch for every entry of a row's `places`, the segment that it continues; per row, their completions."""
    if max_tokens < 1:
        raise ValueError(f"a cap of {max_tokens} tokens: at least 1 is generated")
    backbone = workspace.backbone
    began = time.perf_counter()
    with backbone.autocast():
        rows = sorted(range(len(layouts)), key=lambda r: layouts[r].size)
        parts = workspace.prefill([layouts[r] for r in rows])
        every = list(parts)
        first: Any = parts[0].cache
        number_bytes = (first.layers[0].keys.element_size() + first.layers[0].values.element_size()) / 2
        times: list[float] = []
        results = [
            [Completion(prompt_passes=row.passes, times=times) for _ in names]
            for row, names in zip(layouts, places, strict=True)
        ]
        state, hidden = _open_branches(parts, [places[r] for r in rows])
        logits = 0
        for step in range(max_tokens):
            chosen = pick(backbone.head(hidden), rows)  # [rows, branches]
            logits += hidden.shape[0] * hidden.shape[1]
            tokens = chosen.tolist()  # waits for the device
            times.append(time.perf_counter() - began)
            state.record(tokens, [results[r] for r in rows], backbone, stop, step)
            alive = [i for i, done in enumerate(state.done.tolist()) if not all(done)]
            if not alive or step + 1 == max_tokens:
                break
            if len(alive) <= len(rows) * 3 // 4:
                rows = [rows[i] for i in alive]
                parts, chosen = state.shrink(parts, alive), chosen[alive]
            hidden = state.feed(workspace, parts, chosen)
    if work is not None:
        work.columns += sum(part.executed for part in every)
        work.pairs += sum(part.pairs for part in every)
        work.logits += logits
        work.number_bytes = number_bytes
    for completion in chain(*results):
        if not completion.passes:
            completion.passes, completion.seconds = completion.prompt_passes + max_tokens - 1, times[-1]
    return results


def _open_branches(parts: Sequence[PackedBatch], places: Sequence[Sequence[str]]) -> tuple[_Branches, Tensor]:
    """Room for the new branches, and the hidden states [rows, resume segments, width] to start from."""
    layouts = [row for part in parts for row in part.layouts]
    if not min(len(row.resume) for row in layouts):
        raise ValueError("a layout to decode from needs a resume segment")
    branches, starts = max(map(len, places)), max(len(row.resume) for row in layouts)
    segment: list[list[int]] = []
    position, index, done, padding, start = [], [], [], [], []
    remaining = iter(places)
    for part in parts:
        own = [next(remaining) for _ in part.layouts]
        make_room(
            part,
            part.layouts,
            [
                [row.continuation(f"generated {b} behind {name}", name, (0,)) for b, name in enumerate(names)]
                for row, names in zip(part.layouts, own, strict=True)
            ],
        )
        last, source = part.sees.shape[1] - 1, []
        for r, (row, names) in enumerate(zip(part.layouts, own, strict=True)):
            lasts, fill = [row.last(row.index[name]) for name in names], branches - len(names)
            source.append(
                [part.at(r, row.last(row.index[name])) for name in row.resume] + [0] * (starts - len(row.resume))
            )
            segment.append([*range(len(row.segments), len(row.segments) + len(names)), *[last] * fill])
            position.append([row.position[c] + 1 for c in lasts] + [0] * fill)
            index.append([row.size] * branches)
            done.append([False] * len(lasts) + [True] * fill)
            padding.append([last])
        at = torch.arange(len(own), device=part.segment.device)[:, None]
        start.append(part.hidden[at, torch.tensor(source, device=part.segment.device)])
        part.passes.clear()  # only keys and values are needed from here on
    s, p, i, d, fill_with = (torch.tensor(v, device=start[0].device) for v in (segment, position, index, done, padding))
    return _Branches(s, p, i, d, fill_with, [[[] for _ in range(branches)] for _ in layouts]), torch.cat(start)


@dataclass(frozen=True, slots=True)
class ChoiceScore:
    """Log-likelihood of one continuation, and whether greedy decoding would have produced it."""

    logprob: float
    greedy: bool


@torch.inference_mode()
def score(
    workspace: PackedModel, layouts: Sequence[Layout], choices: Sequence[Sequence[tuple[int, ...]]]
) -> list[list[ChoiceScore]]:
    """Log-likelihood of each choice after each layout's (first) resume segment, as sibling branches of one tree.

    Raises:
        ValueError: an empty choice.
    """
    backbone = workspace.backbone
    grown = []
    for layout, options in zip(layouts, choices, strict=True):
        after = layout.resume[0]
        grown.append(
            layout.grow(*(layout.continuation(f"choice {i}", after, tokens) for i, tokens in enumerate(options)))
        )
    with backbone.autocast():
        columns = workspace.forward(grown)
        hidden = columns.hidden
        out: list[list[ChoiceScore]] = []
        for r, (base, layout, options) in enumerate(zip(layouts, grown, choices, strict=True)):
            row = []
            for i, tokens in enumerate(options):
                s = len(base.segments) + i
                sources = [layout.before(s), *range(layout.first[s], layout.last(s))]
                logits = backbone.head(hidden[r, [columns.at(r, c) for c in sources]])  # [tokens, vocabulary]
                target = torch.tensor(tokens, device=logits.device)
                logprobs = logits.log_softmax(-1).gather(1, target[:, None])
                row.append(ChoiceScore(float(logprobs.sum()), bool((logits.argmax(-1) == target).all())))
            out.append(row)
    return out
