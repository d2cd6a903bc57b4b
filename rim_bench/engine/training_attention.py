"""Attention of a training pass in bfloat16 on a CPU, from whole matrix products.

PyTorch's fused kernel for CPUs takes two to three times as long there as these products take for rows of a few hundred
columns, and its backward computes the scores again. Scores and softmax are in float32, as queries and keys come; the
weighted sums of values take bfloat16.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

Function: Any = torch.autograd.Function
MOST_SCORES = 1 << 26
"""Scores of a pass in all heads, above which the fused kernel is taken, which keeps none of them."""


class ProductAttention(Function):  # type: ignore[misc]
    """`softmax(q k^T scale + mask) v`, with fewer heads of keys and values than of queries."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
        """Outputs [rows, columns, heads, head width] in bfloat16.

        Args:
            query: [rows, heads, columns, head width], key: [rows, key heads, seen, head width], in float32.
            value: as key, in any type.
            mask: additive, float32, [columns, seen] or [rows, 1, columns, seen].
        """
        rows, heads, new, width = query.shape
        kv, seen = key.shape[1], key.shape[2]
        q = (query.float() * scale).reshape(rows * kv, heads // kv * new, width)
        k = key.float().reshape(rows * kv, seen, width)
        v = value.to(torch.bfloat16).reshape(rows * kv, seen, width)
        scores = torch.bmm(q, k.transpose(1, 2)).view(rows, heads, new, seen).add_(mask)
        weights = scores.softmax(-1).to(torch.bfloat16).view(rows * kv, -1, seen)
        out = torch.bmm(weights, v).view(rows, heads, new, width)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale, ctx.types = scale, (query.dtype, key.dtype, value.dtype)
        return out.transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        q, k, v, weights = ctx.saved_tensors
        rows, new, heads, width = grad.shape
        kv = len(k) // rows
        grad = grad.transpose(1, 2).to(torch.bfloat16).reshape(len(k), -1, width)
        to_value = torch.bmm(weights.transpose(1, 2), grad)
        p = weights.float()
        to_scores = torch.bmm(grad, v.transpose(1, 2)).float().mul_(p)
        to_scores.addcmul_(p, to_scores.sum(-1, keepdim=True), value=-1.0)
        to_query = torch.bmm(to_scores, k).mul_(ctx.scale).view(rows, heads, new, width)
        to_key = torch.bmm(to_scores.transpose(1, 2), q)
        grads = (to_query, to_key.view(rows, kv, -1, width), to_value.view(rows, kv, -1, width))
        return *(g.to(kind) for g, kind in zip(grads, ctx.types, strict=True)), None, None


@lru_cache(maxsize=16)
def causal_mask(columns: int) -> Tensor:
    """Additive, float32 [columns, columns]."""
    return torch.full((columns, columns), torch.finfo(torch.float32).min).triu_(1)


def takes_products(query: Tensor, key: Tensor, dropout: float) -> bool:
    """Whether a pass is one for `product_attention`: a training pass in bfloat16 on a CPU, of moderate length."""
    return (
        query.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.is_grad_enabled()
        and query.requires_grad
        and not dropout
        and query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2] <= MOST_SCORES
    )


def product_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Outputs [rows, columns, heads, head width] in bfloat16; without a mask every column sees those up to itself."""
    with torch.autocast("cpu", enabled=False):
        mask = causal_mask(query.shape[2]) if mask is None else mask.float()
        out: Tensor = ProductAttention.apply(query, key, value, mask, scale)
    return out
