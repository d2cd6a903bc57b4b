"""Attention: over rows whose caches differ in length, with caches that grow in place, and of training in bfloat16.

The linear layers take all rows side by side, attention each part with its own cache. It is registered with Hugging Face
as `sdpa` with one addition, so that a model passes it on without being changed. A decoding step writes its keys and
values into room that its cache has ahead, instead of copying all that came before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rim_bench.engine.training_attention import product_attention, takes_products

NAME = "rim_bench_sdpa"
"""What a model's `attn_implementation` is called with it."""


@dataclass(frozen=True)
class Part:
    """Consecutive rows of a batch that share a cache, and what their new columns see."""

    rows: slice
    cache: DynamicCache
    mask: Tensor  # additive, [rows, 1, new, seen]


@cache  # imported at the first layer: it takes a second, which a run without a model spares
def _sdpa() -> Any:
    """Hugging Face's own `sdpa`."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    parts: Sequence[Part] = (),
    scaling: float | None = None,
    dropout: float = 0.0,
    **settings: Any,
) -> tuple[Tensor, None]:
    """`sdpa`; with `parts`, each part's queries over its own cache, which takes the new keys and values up.

    Args:
        query, key, value: [rows, heads, new, head width], of the new columns only where there are parts.
        attention_mask: as `sdpa` has it; not read where there are parts.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    whole = attention_mask is not None or query.shape[2] == key.shape[2]
    if not parts and whole and takes_products(query, key, dropout):
        return product_attention(query, key, value, attention_mask, scale), None
    forward = _sdpa()
    settings |= {"scaling": scaling, "dropout": dropout}
    if not parts:
        out: tuple[Tensor, None] = forward(module, query, key, value, attention_mask, **settings)
        return out
    done = []
    for part in parts:
        keys, values = part.cache.update(key[part.rows], value[part.rows], module.layer_idx)
        done.append(forward(module, query[part.rows], keys, values, part.mask, **settings)[0])
    return torch.cat(done), None


def register() -> str:
    """The name, made known to Hugging Face."""
    from transformers import AttentionInterface  # takes a second: only where a model is about to come
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


Layer: Any = DynamicLayer  # untyped
ROOM = 64
"""Columns allocated ahead, at least; a quarter of what is held where that is more, so that copies stay rare."""


class RoomyLayer(Layer):  # type: ignore[misc]
    """One layer's keys and values [rows, heads, columns, head width]: the beginnings of two larger buffers.

    Only for passes without gradients: what a later pass writes lies beside what an earlier one returned.
    """

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append columns; returns all keys and all values, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        device = value_states.device.type
        if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):  # asking for other devices is an error
            # rotated keys come in float32; attention rounds them
            key_states = key_states.to(value_states.dtype)
        seen, new = self.get_seq_length(), key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < seen + new:
            self._buffers = _grown(self.keys, key_states, seen), _grown(self.values, value_states, seen)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, seen : seen + new].copy_(states)
        self._hold(self._buffers, seen + new)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows; the room stays."""
        if self._buffers is None:
            return
        seen = self.get_seq_length()
        kept = []
        for states in (self.keys, self.values):
            smaller = states.new_empty(len(indices), states.shape[1], _with_room(seen), states.shape[-1])
            smaller[:, :, :seen].copy_(states[indices])
            kept.append(smaller)
        self._hold((kept[0], kept[1]), seen)

    def _hold(self, buffers: tuple[Tensor, Tensor], seen: int) -> None:
        self._buffers = buffers
        self.keys, self.values = (buffer[:, :, :seen] for buffer in buffers)


def _grown(held: Tensor, states: Tensor, seen: int) -> Tensor:
    """A buffer for what is held and for new states, with room."""
    rows, heads, new, width = states.shape
    buffer = states.new_empty(rows, heads, _with_room(seen + new), width)
    if seen:
        buffer[:, :, :seen].copy_(held)
    return buffer


def _with_room(columns: int) -> int:
    return columns + max(ROOM, columns // 4)


def growing_cache(config: Any) -> DynamicCache:
    """An empty cache for a model's configuration, whose layers grow in place where gradients are not wanted now.

    Layers of another kind (sliding windows) stay what Hugging Face has.
    """
    cache = DynamicCache(config=config)
    if not torch.is_grad_enabled():
        cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
