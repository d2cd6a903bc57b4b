"""Cost of a layout on a model shape, in closed form. No torch.

Convention: 1 multiply-accumulate = 2 FLOPs; matrix products only (projections, feed-forward, attention scores and values, head);
attention over the keys a column sees (a masked kernel may execute more); the head only where logits are computed;
embeddings, norms, activations and rotary phases are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rim_bench.errors import UsageError
from rim_bench.layout import Layout


@dataclass(frozen=True, slots=True)
class Shape:
    """What a transformer's cost depends on."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int  # rows of the head that are multiplied
    gated: bool  # Llama's and Qwen's feed-forward has three matrices, GPT-2's two

    @property
    def linear(self) -> int:
        """Multiply-accumulates of one layer's projections and feed-forward for one column."""
        attention = self.width * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + self.width * self.ffn * (3 if self.gated else 2)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """From a transformers configuration as a dict.

        Raises:
            UsageError: an architecture whose shape is not known.
        """
        kind = str(config.get("model_type"))
        if kind == "gpt2":
            width, heads = config["n_embd"], config["n_head"]
            ffn = config.get("n_inner") or 4 * width
            return cls(config["n_layer"], width, heads, heads, width // heads, ffn, config["vocab_size"], gated=False)
        if kind in ("llama", "qwen2", "qwen3"):
            width, heads = config["hidden_size"], config["num_attention_heads"]
            return cls(
                config["num_hidden_layers"],
                width,
                heads,
                config.get("num_key_value_heads") or heads,
                config.get("head_dim") or width // heads,
                config["intermediate_size"],
                config["vocab_size"],
                gated=True,
            )
        raise UsageError(f"the cost of architecture {kind!r} is not known: supported are gpt2, llama, qwen2, qwen3")


def column_flops(shape: Shape, keys: int) -> int:
    """Forward FLOPs of one column that attends to `keys` keys, itself included; without the head."""
    return 2 * shape.layers * (shape.linear + 2 * shape.heads * shape.head_dim * keys)


def head_flops(shape: Shape) -> int:
    """FLOPs of the logits at one column."""
    return 2 * shape.width * shape.vocabulary


def keys_seen(layout: Layout) -> list[int]:
    """Column -> number of keys it attends to, itself included."""
    sizes = [s.size for s in layout.segments]
    above = [sum(sizes[k] for k in sees) for sees in layout.sees]
    return [above[i] + k + 1 for i, size in enumerate(sizes) for k in range(size)]


def prefill_flops(shape: Shape, layout: Layout) -> int:
    """Forward FLOPs of a prompt, all its passes, with the head at the columns that generation resumes from."""
    return sum(column_flops(shape, k) for k in keys_seen(layout)) + len(layout.resume) * head_flops(shape)


def decode_flops(shape: Shape, layout: Layout, generated: int) -> int:
    """Forward FLOPs of generating behind the layout's (one) resume segment, the prompt excluded.

    The last generated token is never fed: `generated` tokens take `generated - 1` cached steps.
    """
    (name,) = layout.resume
    segment = layout.continuation("generated", name, (0,))
    grown = layout.grow(segment)
    start = keys_seen(grown)[-1]
    steps = max(0, generated - 1)
    attended = steps * start + steps * (steps - 1) // 2
    linear = 2 * shape.layers * shape.linear + head_flops(shape)
    return steps * linear + 2 * shape.layers * 2 * shape.heads * shape.head_dim * attended


def training_flops(shape: Shape, layout: Layout) -> int:
    """Forward FLOPs of a training layout, with the head at every labelled column."""
    return sum(column_flops(shape, k) for k in keys_seen(layout)) + len(layout.labels) * head_flops(shape)
