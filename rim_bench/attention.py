"""Attention over rows whose caches differ in length: the linear layers take all rows side by side, attention each part with its own cache.

Registered with Hugging Face as `sdpa` with one addition, so that a model passes it on without being changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import DynamicCache

NAME = "rim_bench_sdpa"
"""What a model's `attn_implementation` is called with it."""


@dataclass(frozen=True)
class Part:
    """Consecutive rows of a batch that share a cache, and what their new columns see."""

    rows: slice
    cache: DynamicCache
    mask: Tensor  # additive, [rows, 1, new, seen]


@cache
def _sdpa() -> Any:
    """Hugging Face's own `sdpa`; imported at the first layer, not with this module: it takes a second that a run without a model spares."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, parts: Sequence[Part] = (), **settings: Any
) -> tuple[Tensor, None]:
    """`sdpa`; with `parts`, each part's queries over its own cache, which takes the new keys and values up.

    Args:
        query, key, value: [rows, heads, new, head width], of the new columns only where there are parts.
        attention_mask: as `sdpa` has it; not read where there are parts.
    """
    forward = _sdpa()
    if not parts:
        out: tuple[Tensor, None] = forward(module, query, key, value, attention_mask, **settings)
        return out
    done = []
    for part in parts:
        keys, values = part.cache.update(key[part.rows], value[part.rows], module.layer_idx)
        done.append(forward(module, query[part.rows], keys, values, part.mask, **settings)[0])
    return torch.cat(done), None


def register() -> str:
    """Make the name known to Hugging Face; returns it. Imported here, where a model is about to come: it takes a second."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
