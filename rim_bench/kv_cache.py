"""A cache of keys and values with room to grow: a decoding step writes its columns in place, instead of copying all that came before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

Layer: Any = DynamicLayer  # untyped

ROOM = 64
"""Columns allocated ahead, at least; a quarter of what is held where that is more, so that copies stay rare however long a row grows."""


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
    """A buffer for what is held and for new states, with room; of the states' own type: under autocast keys and values may differ."""
    rows, heads, new, width = states.shape
    buffer = states.new_empty(rows, heads, _with_room(seen + new), width)
    if seen:
        buffer[:, :, :seen].copy_(held)
    return buffer


def _with_room(columns: int) -> int:
    return columns + max(ROOM, columns // 4)


def growing_cache(config: Any) -> DynamicCache:
    """An empty cache for a model's configuration.

    Its layers grow in place, where gradients are not wanted now; layers of another kind (sliding windows) stay what Hugging Face has.
    """
    cache = DynamicCache(config=config)
    if not torch.is_grad_enabled():
        cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
