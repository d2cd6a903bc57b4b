"""Cost of a layout on a model shape, in closed form. No torch.

Convention: 1 multiply-accumulate = 2 FLOPs; matrix products only (projections, feed-forward, LoRA's matrices, attention scores
and values, head); the head only where logits are computed; embeddings, norms, activations and rotary phases are not counted.

Attention has two prices. The headline counts the keys that a column sees (`prefill_flops`, `decode_flops`, `training_flops`): it
belongs to the layout, whatever runs it. The executed price (`executed_...`) counts what `rim_bench.workspace` runs and what a
FLOP counter therefore sees: a column is multiplied with every key of its packed row, masked or not, padding included.
Not counted by either: a method's own modules (bridges from a hidden state to the next input, auxiliary losses).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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
    vocabulary: int  # rows of the output table, all of them multiplied: markers' and unused rows too, whose logits are cut off after it
    gated: bool  # Llama's and Qwen's feed-forward has three matrices, GPT-2's two (and one matrix for queries, keys and values)
    rank: int = 0  # of unmerged LoRA matrices on every linear layer but the head; 0 = none, or merged

    @property
    def linear(self) -> int:
        """Multiply-accumulates of one layer's projections, feed-forward and LoRA matrices for one column."""
        return sum(a * b + self.rank * (a + b) for a, b in self._matrices())

    def _matrices(self) -> list[tuple[int, int]]:
        """Input and output size of each linear layer of one transformer layer."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        into = [(self.width, queries), (self.width, keys), (self.width, keys)] if self.gated else [(self.width, queries + 2 * keys)]
        return [*into, (queries, self.width), *[(self.width, self.ffn)] * (2 if self.gated else 1), (self.ffn, self.width)]

    @classmethod
    def of(cls, config: Mapping[str, Any], rank: int = 0) -> Shape:
        """From a transformers configuration as a dict, that of the model with its markers' rows; `rank` as in the field.

        Raises:
            UsageError: an architecture whose shape is not known.
        """
        kind = str(config.get("model_type"))
        if kind == "gpt2":
            width, heads = config["n_embd"], config["n_head"]
            ffn = config.get("n_inner") or 4 * width
            return cls(config["n_layer"], width, heads, heads, width // heads, ffn, config["vocab_size"], gated=False, rank=rank)
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
                rank=rank,
            )
        raise UsageError(f"the cost of architecture {kind!r} is not known: supported are gpt2, llama, qwen2, qwen3")


def column_flops(shape: Shape, keys: int) -> int:
    """Forward FLOPs of one column that attends to `keys` keys, itself included; without the head."""
    return 2 * shape.layers * (shape.linear + 2 * shape.heads * shape.head_dim * keys)


def head_flops(shape: Shape) -> int:
    """FLOPs of the logits at one column, those of markers included."""
    return 2 * shape.width * shape.vocabulary


def keys_seen(layout: Layout) -> list[int]:
    """Column -> number of keys it attends to, itself included."""
    sizes = [s.size for s in layout.segments]
    above = [sum(sizes[k] for k in sees) for sees in layout.sees]
    return [above[i] + (s.size if s.mutual else k + 1) for i, s in enumerate(layout.segments) for k in range(s.size)]


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


def executed_passes(layouts: Sequence[Layout]) -> list[tuple[int, int]]:
    """For each pass over a batch: the columns it computes per row, and the keys that each of them is multiplied with.

    Every row is padded to the longest one of its pass. The keys are all columns packed so far, later ones of the same pass too.
    """
    waves = [Counter(row.wave) for row in layouts]
    out, seen = [], 0
    for wave in range(max(row.waves for row in layouts)):
        new = max(w[wave] for w in waves)
        seen += new
        out.append((new, seen))
    return out


def executed_forward(shape: Shape, layouts: Sequence[Layout]) -> int:
    """FLOPs that all passes over a batch execute, without any head."""
    return len(layouts) * sum(new * column_flops(shape, keys) for new, keys in executed_passes(layouts))


def executed_prefill(shape: Shape, layouts: Sequence[Layout]) -> int:
    """FLOPs that a batch of prompts executes up to the first generated tokens; rows with fewer branches are padded to the most."""
    return executed_forward(shape, layouts) + len(layouts) * max(len(row.resume) for row in layouts) * head_flops(shape)


def executed_decode(shape: Shape, layout: Layout, generated: int) -> int:
    """FLOPs that the cached steps behind one prompt execute, the prompt excluded.

    All resume segments grow side by side until the last one ends: `generated` counts the tokens of the longest branch.
    """
    branches = len(layout.resume)
    steps = range(1, generated)
    body = sum(branches * column_flops(shape, layout.size + step * branches) for step in steps)
    return body + len(steps) * branches * head_flops(shape)


def executed_training(shape: Shape, layouts: Sequence[Layout]) -> int:
    """FLOPs that the forward pass of a training batch executes, with the head at every labelled column."""
    return executed_forward(shape, layouts) + sum(len(row.labels) for row in layouts) * head_flops(shape)
