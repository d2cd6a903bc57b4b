"""Trunks of one shape through the model: computed and recorded, computed with other inputs of layers, and answered.

Rows of a batch have equal shapes, so that a column is at one place in all of them and nothing is padded. The answer is
read behind the mark (`#### `), which is given: its tokens are columns of the answer, never of a segment, so that all
that reaches the answer from a segment goes through the keys and values that it sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rim_bench.analysis.trunks import Tokens, Trunk
from rim_bench.compute.flops import bridge_flops
from rim_bench.compute.training_flops import Products, forward
from rim_bench.engine.activations import KeysAndValues, cache_of, hidden_keys, keys_and_values, layer_inputs
from rim_bench.engine.packing import PackedBatch, PackedModel, make_room
from rim_bench.methods.layout import Layout

Written = Mapping[int, tuple[Sequence[int], Tensor]]
"""Layer -> places in the row, and the inputs [rows, places, width] that the layer gets there."""
Stop = Callable[[Tokens], bool]


@dataclass
class Work:
    """What was multiplied so far."""

    columns: int = 0
    pairs: int = 0
    logits: int = 0
    bridges: int = 0  # FLOPs

    def flops(self, workspace: PackedModel) -> int:
        """Executed FLOPs."""
        products = Products(self.columns, self.pairs, self.logits, self.columns)
        return forward(workspace.shape(), products) + self.bridges


@dataclass(frozen=True)
class Computed:
    """Trunks that went through the model.

    Attributes:
        packed: their columns, without a cache.
        states: keys and values of every layer.
        inputs: of every layer, [layers, rows, columns, width]; None where they were not recorded.
    """

    packed: PackedBatch
    states: list[KeysAndValues]
    inputs: Tensor | None = None

    def places(self, names: Iterable[str]) -> list[int]:
        """Where the columns of these segments stand in the rows."""
        layout = self.packed.layouts[0]
        chosen = [layout.index[name] for name in names]
        columns = [c for s in chosen for c in range(layout.first[s], layout.first[s] + layout.segments[s].size)]
        return [self.packed.at(0, c) for c in columns]

    def rows(self, rows: Sequence[int]) -> Computed:
        """Some of the rows."""
        at, p = torch.tensor(rows, device=self.packed.segment.device), self.packed
        layouts = tuple(p.layouts[r] for r in rows)
        packed = replace(p, layouts=layouts, sees=p.sees[at], segment=p.segment[at], index=p.index[at])
        return Computed(packed, [(k[at], v[at]) for k, v in self.states])


@dataclass(frozen=True)
class Answered:
    """One row's answer tokens: what greedy decoding writes behind the mark, and log-probabilities of the candidates.

    Attributes:
        candidate: the number of the candidate that greedy decoding writes; None: none of them.
        tokens: what it wrote, the end included; None where it is a candidate.
        logprobs: of each candidate, in nats.
    """

    candidate: int | None
    tokens: Tokens | None
    logprobs: tuple[float, ...]


@dataclass
class Passes:
    """The passes of one model over trunks.

    Attributes:
        mark: tokens in front of an answer.
        limit: tokens of an answer at most.
        stop: whether an answer ends with its tokens so far.
    """

    workspace: PackedModel
    mark: Tokens
    limit: int
    stop: Stop
    work: Work = field(default_factory=Work)

    @property
    def backbone(self) -> Any:
        """The model."""
        return self.workspace.backbone

    def compute(self, trunks: Sequence[Trunk], written: Written | None = None, *, record: bool = False) -> Computed:
        """The trunks' columns.

        Args:
            trunks: of one shape.
            written: what some layers get instead of their own inputs; what follows is computed from it.
            record: keep the inputs of all layers.
        """
        layouts = [t.layout for t in trunks]
        order = _order(layouts[0])
        kept: list[list[Tensor]] = [[] for _ in range(self.backbone.layers)]
        at = 0  # places of earlier passes

        def change(layer: int, inputs: Tensor) -> Tensor:
            nonlocal at
            if layer == 0:
                at = sum(part.shape[1] for part in kept[0])
            if written and layer in written:
                places, values = written[layer]
                mine = [k for k, place in enumerate(places) if at <= place < at + inputs.shape[1]]
                if mine:
                    inputs = inputs.clone()
                    inputs[:, [places[k] - at for k in mine]] = values[:, mine].to(inputs.dtype)
            kept[layer].append(inputs if record or layer == 0 else inputs[:, :0])
            return inputs

        with torch.inference_mode(), self.backbone.autocast():
            watching = layer_inputs(self.backbone, change) if record or written else nullcontext()
            with watching:
                packed = self.workspace.forward(layouts, cached=True)
            states = keys_and_values(packed.cache)  # type: ignore[arg-type]
            inputs = torch.stack([torch.cat([i.float() for i in parts], 1) for parts in kept]) if record else None
        assert [packed.at(0, c) for c in order] == list(range(len(order)))
        packed.cache = None
        packed.passes.clear()
        self.work.columns += packed.executed
        self.work.pairs += packed.pairs
        self.work.bridges += sum(bridge_flops(self.workspace.shape(), row) for row in layouts)
        return Computed(packed, states, inputs)

    def answer(
        self,
        computed: Computed,
        states: Sequence[KeysAndValues],
        candidates: Sequence[Sequence[Tokens]],
        hidden: Mapping[int, Sequence[int]] | None = None,
    ) -> list[Answered]:
        """What follows the mark where the answer sees these keys and values.

        The candidates are sibling branches behind the mark, in one pass; only rows whose greedy answer is none of them
        are decoded.

        Args:
            states: of the columns of `computed`.
            candidates: of each row, as many in all rows; none: all are decoded.
            hidden: layer -> places that the answer does not see there.
        """
        with torch.inference_mode(), self.backbone.autocast(), hidden_keys(self.backbone, hidden or {}):
            out = [Answered(None, None, ()) for _ in computed.packed.layouts]
            if candidates and candidates[0]:
                out = self._scored(computed, states, candidates)
            left = [r for r, answered in enumerate(out) if answered.candidate is None]
            if left:
                part = computed if len(left) == len(out) else Computed(computed.packed, list(states)).rows(left)
                rest = states if len(left) == len(out) else part.states
                for r, tokens in zip(left, self._decoded(part, rest), strict=True):
                    out[r] = replace(out[r], tokens=tokens)
        return out

    def _open(self, computed: Computed, states: Sequence[KeysAndValues], extra: Sequence[Layout]) -> PackedBatch:
        """The rows with their cache, and room for the segments that `extra` has behind them."""
        columns = replace(computed.packed, cache=cache_of(self.backbone, states), passes=[], executed=0, pairs=0)
        base = len(computed.packed.layouts[0].segments)
        make_room(columns, computed.packed.layouts, [row.segments[base:] for row in extra])
        return columns

    def _extend(self, columns: PackedBatch, new: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        hidden = self.workspace.extend([columns], *new)
        self.work.columns, self.work.pairs = self.work.columns + columns.executed, self.work.pairs + columns.pairs
        columns.executed = columns.pairs = 0
        return hidden

    def _scored(
        self, computed: Computed, states: Sequence[KeysAndValues], candidates: Sequence[Sequence[Tokens]]
    ) -> list[Answered]:
        layouts, device = computed.packed.layouts, computed.packed.segment.device
        grown = []
        for layout, options in zip(layouts, candidates, strict=True):
            row = layout.grow(layout.continuation("mark", layout.resume[0], self.mark))
            grown.append(
                row.grow(*(row.continuation(f"candidate {k}", "mark", tokens) for k, tokens in enumerate(options)))
            )
        columns = self._open(computed, states, grown)
        base, blank = layouts[0].size, columns.sees.shape[1] - 1
        longest = max(row.size for row in grown) - base
        new = torch.zeros(4, len(grown), longest, dtype=torch.long)  # tokens, segments, indices, positions
        new[1] = blank
        sources, targets = [], []
        for r, row in enumerate(grown):
            cells = []
            for s in range(len(layouts[0].segments), len(row.segments)):
                for k, token in enumerate(row.segments[s].tokens):
                    cells.append((self.backbone.resolve(token), s, row.first[s] + k, row.starts[s] + k))
            new[:, r, : len(cells)] = torch.tensor(cells).T
            own = []
            for k, tokens in enumerate(candidates[r]):
                first = row.first[row.index[f"candidate {k}"]] - base
                own.append([len(self.mark) - 1, *range(first, first + len(tokens) - 1)])
            sources.append(own)
            targets.append(candidates[r])
        tokens, segment, index, position = new.to(device)
        hidden = self._extend(columns, (tokens, segment, index, position))
        out = []
        logits = self.backbone.head(hidden).log_softmax(-1)
        self.work.logits += logits.shape[0] * logits.shape[1]
        for r, (own, wanted) in enumerate(zip(sources, targets, strict=True)):
            chosen, logprobs = None, []
            for k, (at, target) in enumerate(zip(own, wanted, strict=True)):
                rows, ids = logits[r, at], torch.tensor(target, device=device)
                logprobs.append(float(rows.gather(1, ids[:, None]).sum()))
                if chosen is None and bool((rows.argmax(-1) == ids).all()):
                    chosen = k
            out.append(Answered(chosen, None, tuple(logprobs)))
        return out

    def _decoded(self, computed: Computed, states: Sequence[KeysAndValues]) -> list[Tokens]:
        """Greedy tokens behind the mark, the end included."""
        layouts = computed.packed.layouts
        grown = [row.grow(row.continuation("answer", row.resume[0], self.mark)) for row in layouts]
        columns = self._open(computed, states, grown)
        rows, s = len(grown), len(layouts[0].segments)
        device, start = columns.segment.device, grown[0].starts[s]
        room = self.backbone.max_positions - start - len(self.mark)
        fed = torch.tensor([self.mark] * rows, device=device)
        out: list[list[int]] = [[] for _ in range(rows)]
        open_rows = set(range(rows))
        done = 0
        for _ in range(max(1, min(self.limit, room + 1))):
            steps = torch.arange(done, done + fed.shape[1], device=device).expand(rows, -1)
            done += fed.shape[1]
            segment = torch.full_like(steps, s)
            hidden = self._extend(columns, (fed, segment, steps + layouts[0].size, steps + start))
            chosen = self.backbone.head(hidden[:, -1]).argmax(-1)
            self.work.logits += rows
            for r, token in enumerate(chosen.tolist()):
                if r in open_rows:
                    out[r].append(token)
                    if token == self.backbone.end or self.stop(tuple(out[r])):
                        open_rows.discard(r)
            if not open_rows:
                break
            fed = chosen[:, None]
        return [tuple(tokens) for tokens in out]


def _order(layout: Layout) -> list[int]:
    """Columns in the order of their passes: where they stand in a packed row."""
    return sorted(range(layout.size), key=lambda c: layout.pass_of[c])
