"""The one forward path: a batch of layouts through a backbone, for training, scoring and decoding alike.

Columns are packed pass by pass: pass p holds, for every row, the columns with p latent slots on their path, padded on
the right. The attention mask is derived from the trees; padding and siblings are invisible. No method is known by name
here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rim_bench.compute.flops import Shape, bridge_macs
from rim_bench.engine.micro_batches import micro_batches
from rim_bench.methods.layout import Layout, Segment

if TYPE_CHECKING:
    from transformers import DynamicCache

    from rim_bench.engine.backbone import Backbone

NOWHERE = -1


@dataclass
class PackedBatch:
    """The columns of a batch that have been computed, in packing order; `seen` of them per row, padding included."""

    layouts: tuple[Layout, ...]
    sees: Tensor  # bool [rows, segments, segments]: query segment sees key segment (other than itself)
    segment: Tensor  # int [rows, seen]: segment of each column, the last index (an all-False segment) for padding
    index: Tensor  # int [rows, seen]: the column's number in its layout, orders columns inside a segment
    place: list[list[int]]  # row -> column number -> packed index
    passes: list[Tensor] = field(default_factory=list)  # hidden states of each pass, [rows, new, width]
    layers: list[tuple[Tensor, ...]] = field(default_factory=list)  # all layers of each pass, where asked for
    cache: DynamicCache | None = None
    executed: int = 0  # columns computed, padding included
    pairs: int = 0  # (column, key) pairs multiplied, padding included

    @property
    def hidden(self) -> Tensor:
        """Last hidden state of every computed column, [rows, seen, width]."""
        return self.passes[0] if len(self.passes) == 1 else torch.cat(self.passes, dim=1)

    def add(self, segment: Tensor, index: Tensor) -> None:
        """Takes up and counts new columns [rows, new], which are about to be computed."""
        self.segment = torch.cat([self.segment, segment], dim=1)
        self.index = torch.cat([self.index, index], dim=1)
        self.executed += segment.numel()
        self.pairs += segment.numel() * self.segment.shape[1]

    def at(self, row: int, column: int) -> int:
        """Packed index of a column; raises IndexError for one that was not computed."""
        return self.place[row][column]


def pad_rows(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    """Ragged rows as one int64 tensor [rows, longest], padded on the right with `value`."""
    longest = max(map(len, rows))
    return torch.tensor([[*r, *(value,) * (longest - len(r))] for r in rows], dtype=torch.long, device=device)


class PackedModel:
    """Runs layouts on a backbone, with the bridges that map a hidden state to the next latent slot's input."""

    def __init__(self, backbone: Backbone, bridges: nn.ModuleDict | None = None) -> None:
        self.backbone = backbone
        self.bridges = bridges if bridges is not None else nn.ModuleDict()

    def shape(self) -> Shape:
        """What the cost of a layout depends on: the backbone's shape, and the matrices of each bridge.

        Raises:
            UsageError: a bridge with a module whose cost is not known.
        """
        return replace(
            self.backbone.shape(),
            bridges=tuple((name, bridge_macs(name, bridge)) for name, bridge in self.bridges.items()),
        )

    def forward(self, layouts: Sequence[Layout], *, cached: bool = False, layers: bool = False) -> PackedBatch:
        """All passes of a batch of layouts.

        Args:
            layouts: one tree a row; rows may differ in everything.
            cached: keep the KV cache, so that columns can be added (it is kept anyway between passes).
            layers: also keep every layer's hidden states, for auxiliaries.
        Raises:
            ValueError: a row deeper than the model has positions for.
        """
        backbone, rows = self.backbone, tuple(layouts)
        deepest = max(max(row.position) for row in rows) + 1
        if deepest > backbone.max_positions:
            raise ValueError(f"a row needs {deepest} positions, the model has {backbone.max_positions}")
        blank = torch.zeros(len(rows), 0, dtype=torch.long, device=backbone.device)
        sees = _sees_table(rows).to(blank.device)
        columns = PackedBatch(rows, sees, blank, blank, [[NOWHERE] * row.size for row in rows])
        passes = max(row.passes for row in rows)
        if cached or passes > 1:
            columns.cache = backbone.new_cache()
        order: list[list[list[int]]] = [[[] for _ in range(passes)] for _ in rows]  # row -> pass -> its columns
        for by_pass, row in zip(order, rows, strict=True):
            for c, index in enumerate(row.pass_of):
                by_pass[index].append(c)
        owner = [tuple(i for i, s in enumerate(row.segments) for _ in range(s.size)) for row in rows]
        for index in range(passes):
            chosen = [by_pass[index] for by_pass in order]
            past, new = columns.segment.shape[1], max(map(len, chosen))
            for r, picked in enumerate(chosen):
                for k, c in enumerate(picked):
                    columns.place[r][c] = past + k
            tokens = [[row.tokens[c] for c in picked] for row, picked in zip(rows, chosen, strict=True)]
            # 0 where there is none: a slot, which its thought overwrites before the pass runs
            ids = [[backbone.resolve(t) if isinstance(t, str) else t or 0 for t in row] for row in tokens]
            segments = [[o[c] for c in picked] for o, picked in zip(owner, chosen, strict=True)]
            columns.add(pad_rows(segments, sees.shape[1] - 1, blank.device), pad_rows(chosen, 0, blank.device))
            embeds = backbone.embed(pad_rows(ids, 0, blank.device))
            if past:
                embeds = self._fill_slots(columns, chosen, owner, embeds)
            mask = None
            if past == 0 and all(row.is_chain for row in rows):
                # plain causal: padding on the right is never seen, its positions only need to run on
                position = torch.arange(new, device=blank.device).expand(len(rows), -1)
                position = position.clamp(max=backbone.max_positions - 1)
            else:
                mask = self._mask(columns, new)
                places = [[row.position[c] for c in picked] for row, picked in zip(rows, chosen, strict=True)]
                position = pad_rows(places, 0, blank.device)
            if layers:
                columns.layers.append(backbone.run_layers(embeds, mask, position, columns.cache))
                columns.passes.append(columns.layers[-1][-1])
            else:
                columns.passes.append(backbone.run(embeds, mask, position, columns.cache))
        return columns

    def prefill(self, layouts: Sequence[Layout]) -> list[PackedBatch]:
        """`forward` with its cache kept, for decoding, in parts of similar size that can be extended side by side.

        The layouts must come sorted by size, so that the rows of the parts, one after the other, stand in their order.
        """
        kernel, device = self.backbone.kernel, self.backbone.device.type
        parts = (
            micro_batches(layouts, len(layouts), device, self.backbone.width) if kernel == "sdpa" else [list(layouts)]
        )
        return [self.forward(part, cached=True) for part in parts]

    def extend(
        self, parts: Sequence[PackedBatch], tokens: Tensor, segment: Tensor, index: Tensor, position: Tensor
    ) -> Tensor:
        """Hidden states [rows, new, width] of further token columns after cached ones.

        Args:
            parts: computed with a cache; their rows one after the other are the rows of the tensors.
            tokens, segment, index, position: int [rows, new]; `segment` counts the segments that `make_room` added,
                and is `columns.sees.shape[1] - 1` for padding.
        """
        masks, caches, at = [], [], 0
        for columns in parts:
            assert columns.cache is not None, "extend needs a forward pass with cached=True"
            rows = slice(at, at + len(columns.segment))
            columns.add(segment[rows], index[rows])
            masks.append(self._mask(columns, tokens.shape[1]))
            caches.append(columns.cache)
            at = rows.stop
        embeds = self.backbone.embed(tokens)
        if len(parts) == 1:
            return self.backbone.run(embeds, masks[0], position, caches[0])
        return self.backbone.run_parts(embeds, masks, position, caches)

    def _fill_slots(
        self, columns: PackedBatch, chosen: list[list[int]], owner: list[tuple[int, ...]], embeds: Tensor
    ) -> Tensor:
        """The input embeddings with the hidden state before each latent slot, through its bridge, as the slot's."""
        where: dict[str | None, tuple[list[int], list[int], list[int]]] = {}
        for r, (row, picked) in enumerate(zip(columns.layouts, chosen, strict=True)):
            for k, c in enumerate(picked):
                if row.tokens[c] is None:
                    s = owner[r][c]
                    before = c - 1 if c > row.first[s] else row.before(s)
                    into = where.setdefault(row.segments[s].bridge, ([], [], []))
                    for target, value in zip(into, (r, k, columns.at(r, before)), strict=True):
                        target.append(value)
        hidden = columns.hidden
        for bridge, indices in where.items():
            rows, slots, sources = (torch.tensor(i, device=embeds.device) for i in indices)
            thought = hidden[rows, sources]  # [slots, width]
            if bridge is not None:
                thought = self.bridges[bridge](thought)
            embeds = embeds.index_put((rows, slots), thought.to(embeds.dtype))
        return embeds

    @staticmethod
    def _mask(columns: PackedBatch, new: int) -> Tensor:
        """Bool [rows, new, seen]: what each of the last `new` packed columns attends to."""
        return visible(columns.sees, columns.segment[:, -new:], columns.index[:, -new:], columns.segment, columns.index)


def visible(sees: Tensor, q_segment: Tensor, q_index: Tensor, k_segment: Tensor, k_index: Tensor) -> Tensor:
    """Bool [rows, queries, keys]: ancestors' columns, and the query's own segment up to the query itself."""
    row = torch.arange(sees.shape[0], device=sees.device)[:, None, None]
    other = sees[row, q_segment[:, :, None], k_segment[:, None, :]]
    same = q_segment[:, :, None] == k_segment[:, None, :]
    return other | (same & (k_index[:, None, :] <= q_index[:, :, None]))


def _sees_table(rows: Sequence[Layout]) -> Tensor:
    """Bool [rows, segments + 1, segments + 1]; the last segment is padding's: it sees nothing and nobody sees it."""
    size = max(len(r.segments) for r in rows) + 1
    pairs: list[int] = []  # flat indices, written at once: a write a segment costs more than a layer of a small model
    for r, row in enumerate(rows):
        for s, above in enumerate(row.sees):
            at = (r * size + s) * size
            pairs += [at + a for a in above]
            if row.segments[s].mutual:
                pairs.append(at + s)
    sees = torch.zeros(len(rows) * size * size, dtype=torch.bool)
    sees[torch.tensor(pairs, dtype=torch.long)] = True
    return sees.view(len(rows), size, size)


def make_room(columns: PackedBatch, layouts: Sequence[Layout], extra: Sequence[Sequence[Segment]]) -> None:
    """Add empty segments (decoding's new branches) to the visibility table of computed columns."""
    sees = _sees_table([layout.grow(*segments) for layout, segments in zip(layouts, extra, strict=True)])
    old_padding, padding = columns.sees.shape[1] - 1, sees.shape[1] - 1
    columns.segment = torch.where(columns.segment == old_padding, padding, columns.segment)
    columns.sees = sees.to(columns.segment.device)
