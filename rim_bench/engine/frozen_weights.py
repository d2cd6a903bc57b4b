"""A LoRA-tuned model that computes in bfloat16: frozen weights stored so once, adapters and norms without idle casts.

Autocast alone would cast every frozen matrix in every forward pass (it keeps the casts of what trains only), and peft
casts inputs to float32 and back. What is computed is the same but for rounding: products take bfloat16 and add up in
float32; adapters, norms, the sum of the residual stream, softmax, loss and optimizer are in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from rim_bench.engine import lora

Layer: Any = Linear  # untyped
Function: Any = torch.autograd.Function


class AdaptedProduct(Function):  # type: ignore[misc]
    """`x W^T + b + s (x A^T) B^T` with a frozen W, and its gradients for x, A and B."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, low: Any) -> Tensor:
        """Outputs [..., out] in bfloat16.

        Args:
            x: [..., in].
            weight: frozen, bfloat16 [out, in].
            bias: frozen, [out].
            a, b: the adapter's parameters in float32, [rank, in] and [out, rank]; only their gradients are wanted here.
            low: in bfloat16 A, and B times the scaling; and the scaling.
        """
        low_a, low_b, scaling = low
        flat = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        inner = flat @ low_a.t()
        out = flat @ weight.t() if bias is None else torch.addmm(bias.to(torch.bfloat16), flat, weight.t())
        torch.addmm(out, inner, low_b.t(), out=out)
        ctx.save_for_backward(flat, inner, weight, low_a, low_b)
        ctx.scaling, ctx.shape, ctx.dtype = scaling, x.shape, x.dtype
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        """No product for the frozen weight, and none for inputs that need no gradient."""
        flat, inner, weight, low_a, low_b = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1]).to(torch.bfloat16)
        back = grad @ low_b  # [columns, rank]
        into = None
        if ctx.needs_input_grad[0]:
            into = grad @ weight
            into = torch.addmm(into, back, low_a, out=into).view(ctx.shape).to(ctx.dtype)
        grad_a = (back.t() @ flat).float() if ctx.needs_input_grad[3] else None
        grad_b = (grad.t() @ inner).float().mul_(ctx.scaling) if ctx.needs_input_grad[4] else None
        return into, None, None, grad_a, grad_b, None


class AdaptedLinear(Layer):  # type: ignore[misc]
    """peft's layer over a frozen matrix in bfloat16."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As peft's: the frozen layer's output and the adapter's."""
        base, a, b = self.base_layer, self.lora_A[lora.ADAPTER].weight, self.lora_B[lora.ADAPTER].weight
        weight = (base.weight.t() if self.fan_in_fan_out else base.weight).to(torch.bfloat16)
        out: Tensor = AdaptedProduct.apply(x, weight, base.bias, a, b, self._low(a, b))
        return out

    def _low(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, float]:
        """The adapter in bfloat16, cast once for each of its values; the scaling is in B."""
        version = (a, b, a._version, b._version)  # by identity too: a copy of the module has parameters of its own
        held = self.__dict__.get("_low_rank")
        if (
            held is None
            or any(x is not y for x, y in zip(held[0][:2], version[:2], strict=True))
            or (held[0][2:] != version[2:])
        ):
            scaling = float(self.scaling[lora.ADAPTER])
            with torch.inference_mode(False), torch.no_grad():
                values = a.to(torch.bfloat16), (b * scaling).to(torch.bfloat16), scaling
            held = self.__dict__["_low_rank"] = (version, values)
        out: tuple[Tensor, Tensor, float] = held[1]
        return out

    def __getstate__(self) -> dict[str, Any]:
        """Without the casts, which follow from the rest."""
        return {name: value for name, value in self.__dict__.items() if name != "_low_rank"}


class FrozenNorm(Function):  # type: ignore[misc]
    """A root-mean-square norm with frozen weights, computed in float32 and rounded once, for the products behind it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """`x / rms(x) * weight` in bfloat16; x and weight in float32."""
        scale = torch.rsqrt(torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon))
        ctx.save_for_backward(x, scale, weight)
        return (x * scale).mul_(weight).to(torch.bfloat16)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, scale, weight = ctx.saved_tensors
        scaled = grad * weight  # float32
        along = (scaled * x).sum(-1, keepdim=True)
        return scaled.mul_(scale).addcmul_(x, along * scale**3, value=-1.0 / x.shape[-1]), None, None


class RoundedNorm(nn.Module):
    """What a Hugging Face norm (`...RMSNorm`) becomes."""

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        out: Tensor = FrozenNorm.apply(hidden_states.float(), self.weight, self.variance_epsilon)
        return out


def store_frozen(model: Any, table: Any, head: Any, vocabulary: int) -> None:
    """Stores the frozen matrices of a model in bfloat16, be it LoRA-tuned or left as it is.

    A table whose numbers bfloat16 does not have stays in float32, for embeddings are looked up and not multiplied; the
    head gets a copy of its own then, where the two are tied.

    Args:
        table, head: the embedding and the head, without peft's wrappers.
        vocabulary: rows that are looked up in the table; those behind them are markers', which train beside it.
    """
    for module in model.modules():
        if isinstance(module, Linear):
            module.__class__ = AdaptedLinear
            _lower(module.base_layer.weight)
    for name, module in model.named_modules():
        if ".layers." in name and type(module) is nn.Linear:  # of a model without adapters, of which nothing trains
            _lower(module.weight)
        inside = ".layers." in name  # not the last norm, whose states may be fed back as thoughts
        if inside and type(module).__name__.endswith("RMSNorm") and not module.weight.requires_grad:
            module.__class__ = RoundedNorm
    rows = table.weight.detach()[:vocabulary]
    exact = torch.equal(rows.to(torch.bfloat16).to(rows.dtype), rows)
    if head.weight is not table.weight:
        _lower(head.weight)
    elif not exact:
        head.weight = nn.Parameter(table.weight.detach().to(torch.bfloat16), requires_grad=False)
    if exact:
        _lower(table.weight)


def restore_frozen(model: Any) -> None:
    """Frozen matrices in float32 again, with the values that they have: where rows are to be added, or shards to be of
    one type. Products still take them in bfloat16.
    """
    for p in model.parameters():
        if p.dtype == torch.bfloat16 and not p.requires_grad:
            p.data = p.data.float()


def _lower(weight: Tensor) -> None:
    if not weight.requires_grad:
        weight.data = weight.data.to(torch.bfloat16)
