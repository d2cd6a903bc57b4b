"""Cross-entropy behind a frozen head, in chunks of labels: no logits are kept, and never many are there at once."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

Function: Any = torch.autograd.Function
LABELS: Final = 64
"""Labels of a chunk: their logits in float32 are 12 MB for a vocabulary of 49,152, and the products still whole."""


class FrozenHeadLoss(Function):  # type: ignore[misc]
    """Each label's cross-entropy. The gradient of the hidden states is made with the loss, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, vocabulary: int, target: Tensor, scale: Tensor) -> Tensor:
        """Losses times their scales, [labels], in float32.

        Args:
            hidden: [labels, width].
            weight: frozen, bfloat16 [rows, width]; rows from `vocabulary` on are no targets, and get no probability.
            target: ids [labels].
            scale: float32 [labels].
        """
        losses, gradients = [], []
        low = hidden.to(weight.dtype)
        for at in range(0, len(low), LABELS):
            part = slice(at, at + LABELS)
            logits = (low[part] @ weight.t()).float()
            logits[:, vocabulary:] = -torch.inf
            logits = logits.log_softmax(-1)
            losses.append(functional.nll_loss(logits, target[part], reduction="none"))
            if ctx.needs_input_grad[0]:
                slope = logits.exp_().mul_(scale[part, None])
                slope[torch.arange(len(slope), device=slope.device), target[part]] -= scale[part]
                gradients.append(slope.to(weight.dtype) @ weight)
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        ctx.dtype = hidden.dtype
        return torch.cat(losses) * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (into,) = ctx.saved_tensors
        return (into.float() * grad[:, None]).to(ctx.dtype), None, None, None, None
