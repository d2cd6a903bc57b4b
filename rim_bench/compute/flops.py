"""Cost of a layout on a model shape, in closed form. No torch.

Convention: 1 multiply-accumulate = 2 FLOPs; matrix products only (projections, feed-forward, LoRA's matrices, attention
scores and values, head); the head only where logits are computed; embeddings, norms, activations and rotary phases are
not counted.

Attention has two prices. The headline counts the keys that a column sees (`prefill_flops`, `decode_flops`,
`training_flops`): it belongs to the layout, whatever runs it. The executed price (`executed_...`) counts what
`rim_bench.engine.packing` runs and what a FLOP counter therefore sees: a column is multiplied with every key of its
packed row, masked or not, padding included.
A method's own modules before its latent slots (bridges) are in both; auxiliary losses are in neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rim_bench.methods.layout import Layout
from rim_bench.util.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Shape:
    """What a transformer's cost depends on."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    # rows of the output table, all of them multiplied: markers' and unused rows too, whose logits are cut off after it
    vocabulary: int
    # Llama's and Qwen's feed-forward has three matrices, GPT-2's two (and one matrix for queries, keys and values)
    gated: bool
    rank: int = 0  # of unmerged LoRA matrices on every linear layer but the head; 0 = none, or merged
    # a method's modules before latent slots: name, multiply-accumulates for one slot
    bridges: tuple[tuple[str, int], ...] = ()

    @property
    def linear(self) -> int:
        """Multiply-accumulates of one layer's projections, feed-forward and LoRA matrices for one column."""
        return sum(a * b + self.rank * (a + b) for a, b in self.matrices)

    @property
    def readers(self) -> int:
        """How many of `matrices`, the first ones, read the layer's input: queries, keys, values; 1 in GPT-2."""
        return 3 if self.gated else 1

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Input and output size of each linear layer of one transformer layer, in the order they run."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        into = (
            [(self.width, queries), (self.width, keys), (self.width, keys)]
            if self.gated
            else [(self.width, queries + 2 * keys)]
        )
        return [
            *into,
            (queries, self.width),
            *[(self.width, self.ffn)] * (2 if self.gated else 1),
            (self.ffn, self.width),
        ]

    @classmethod
    def of(cls, config: Mapping[str, Any], rank: int = 0) -> Shape:
        """From a transformers configuration with its markers' rows; `rank` as in the field.

        Raises:
            UsageError: an architecture whose shape is not known, a key that it needs and has not, or a window on
                attention.
        """
        kind = str(config.get("model_type"))
        if kind not in _READERS:
            raise UsageError(
                f"the cost of architecture {kind!r} is not known: supported are {', '.join(_READERS)}; "
                "rim_bench.compute.flops.register_shape("
                f"{kind!r}, reader) adds it, in a method's .py file for instance: reader(config) gives its Shape"
            )
        try:
            return replace(_READERS[kind](config), rank=rank)
        except KeyError as error:
            raise UsageError(
                f"the configuration of this {kind} model lacks {error.args[0]!r}, which its cost depends on"
            ) from None


ShapeReader = Callable[[Mapping[str, Any]], Shape]
"""From a configuration to its shape. A key that is missing may leave it as the KeyError it is."""


def register_shape(model_type: str, reader: ShapeReader) -> None:
    """Makes an architecture known to `Shape.of`, by the `model_type` of its configuration.

    The formulas here hold for it if it is a decoder whose every layer has `Shape.matrices` and attention over all
    visible keys.

    Raises:
        UsageError: an architecture that is known already: its numbers must not depend on what was imported.
    """
    if _READERS.get(model_type, reader) is not reader:
        raise UsageError(f"the shape of architecture {model_type!r} is registered already")
    _READERS[model_type] = reader


def _whole(config: Mapping[str, Any], key: str) -> int:
    """A size of a configuration; a missing one is a KeyError, never a default."""
    value = config[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{key} = {value!r} in a model's configuration is not a whole number of at least 1")
    return value


def _split(width: int, heads: int) -> int:
    if width % heads:
        raise UsageError(
            f"a width of {width} cannot be split into {heads} heads, and the model's configuration names no head_dim"
        )
    return width // heads


def _gpt2(config: Mapping[str, Any]) -> Shape:
    width, heads = _whole(config, "n_embd"), _whole(config, "n_head")
    ffn = 4 * width if config.get("n_inner") is None else _whole(config, "n_inner")
    layers, vocabulary = _whole(config, "n_layer"), _whole(config, "vocab_size")
    return Shape(layers, width, heads, heads, _split(width, heads), ffn, vocabulary, gated=False)


def _gated(config: Mapping[str, Any]) -> Shape:
    """Llama's layer: grouped queries, three feed-forward matrices."""
    width, heads = _whole(config, "hidden_size"), _whole(config, "num_attention_heads")
    kv_heads = heads if config["num_key_value_heads"] is None else _whole(config, "num_key_value_heads")
    if heads % kv_heads:
        raise UsageError(f"num_attention_heads = {heads} cannot be shared among num_key_value_heads = {kv_heads}")
    head_dim = _split(width, heads) if config.get("head_dim") is None else _whole(config, "head_dim")
    ffn = _whole(config, "intermediate_size")
    layers, vocabulary = _whole(config, "num_hidden_layers"), _whole(config, "vocab_size")
    return Shape(layers, width, heads, kv_heads, head_dim, ffn, vocabulary, gated=True)


def _qwen2(config: Mapping[str, Any]) -> Shape:
    return _windowless(config, bool(config.get("use_sliding_window")))  # its files name a window that is switched off


def _windowless(config: Mapping[str, Any], used: bool) -> Shape:
    """Llama's layer, refused where layers do not see every key of their path, which all formulas here count."""
    kinds = config.get("layer_types") or []
    if not isinstance(kinds, list | tuple):
        raise UsageError(
            f"layer_types = {kinds!r} in a model's configuration is not a list with the kind of each layer"
        )
    others = sorted({str(t) for t in kinds} - {"full_attention"})
    if used or others:
        what = ", ".join(others) or f"sliding_window = {config.get('sliding_window')}"
        kind = config["model_type"]
        raise UsageError(
            f"the cost of this {kind} model is not known: its attention has {what}, and only full attention can be "
            "counted"
        )
    return _gated(config)


_READERS: dict[str, ShapeReader] = {
    "gpt2": _gpt2,
    "llama": lambda config: _gated(
        {"num_key_value_heads": None, **config}
    ),  # early ones do not name it: as many as heads
    "qwen2": _qwen2,
    # never the width split among the heads
    "qwen3": lambda config: _qwen2({**config, "head_dim": _whole(config, "head_dim")}),
    # null switches the window off; where it is missing transformers takes 4096
    "mistral": lambda config: _windowless(config, config["sliding_window"] is not None),
}


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


def bridge_flops(shape: Shape, layout: Layout) -> int:
    """Forward FLOPs of the modules that a layout's latent slots are fed through."""
    macs = dict(shape.bridges)
    return 2 * sum(s.slots * macs.get(s.bridge, 0) for s in layout.segments if s.bridge is not None)


def prefill_flops(shape: Shape, layout: Layout) -> int:
    """Forward FLOPs of a prompt, all its passes, with the head at the columns that generation resumes from."""
    columns = sum(column_flops(shape, k) for k in keys_seen(layout))
    return columns + bridge_flops(shape, layout) + len(layout.resume) * head_flops(shape)


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


def layout_flops(layout: Layout, shape: Shape, generated: int = 1) -> int:
    """Inference FLOPs of one prompt, and of so many tokens generated behind it (the first one costs nothing more)."""
    return prefill_flops(shape, layout) + (decode_flops(shape, layout, generated) if generated > 1 else 0)


def kv_bytes(shape: Shape, layout: Layout, generated: int, bytes_per_number: int) -> int:
    """Bytes of the keys and values of all layers at the end of an answer, whose last token is never fed."""
    columns = layout.size + max(0, generated - 1)
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * columns * bytes_per_number


def training_flops(shape: Shape, layout: Layout) -> int:
    """Forward FLOPs of a training layout, with the head at every labelled column."""
    columns = sum(column_flops(shape, k) for k in keys_seen(layout))
    return columns + bridge_flops(shape, layout) + len(layout.labels) * head_flops(shape)


def executed_passes(layouts: Sequence[Layout]) -> list[tuple[int, int]]:
    """For each pass over a batch: the columns it computes per row, and the keys that each of them is multiplied with.

    Every row is padded to the longest one of its pass. The keys are all columns packed so far, later ones of the same
    pass too.
    """
    columns = [Counter(row.pass_of) for row in layouts]
    out, seen = [], 0
    for index in range(max(row.passes for row in layouts)):
        new = max(row[index] for row in columns)
        seen += new
        out.append((new, seen))
    return out


def executed_forward(shape: Shape, layouts: Sequence[Layout]) -> int:
    """FLOPs that all passes over a batch execute, without any head."""
    columns = len(layouts) * sum(new * column_flops(shape, keys) for new, keys in executed_passes(layouts))
    return columns + sum(bridge_flops(shape, row) for row in layouts)


def executed_prefill(shape: Shape, layouts: Sequence[Layout]) -> int:
    """FLOPs of prompts side by side up to the first tokens; rows with fewer branches are padded to the most."""
    return executed_forward(shape, layouts) + len(layouts) * max(len(row.resume) for row in layouts) * head_flops(shape)


def executed_decode(shape: Shape, layout: Layout, generated: int, samples: int = 1) -> int:
    """FLOPs that the cached steps behind one prompt execute, the prompt excluded.

    All resume segments, and all samples behind each, grow side by side until the last one ends: `generated` counts the
    tokens of the longest branch.
    """
    branches = len(layout.resume) * samples
    steps = range(1, generated)
    body = sum(branches * column_flops(shape, layout.size + step * branches) for step in steps)
    return body + len(steps) * branches * head_flops(shape)


def executed_training(shape: Shape, layouts: Sequence[Layout]) -> int:
    """FLOPs that the forward pass of a training batch executes, with the head at every labelled column."""
    return executed_forward(shape, layouts) + sum(len(row.labels) for row in layouts) * head_flops(shape)


def bridge_macs(name: str, bridge: nn.Module) -> int:
    """Multiply-accumulates of a bridge for one slot: its linear layers, each run once."""
    from torch import nn

    for module in bridge.modules():
        own = list(module.parameters(recurse=False))
        if not isinstance(module, nn.Linear) and any(p.ndim > 1 for p in own):
            kind = type(module).__name__
            raise UsageError(
                f"the cost of bridge {name!r} is not known: it has a {kind}, and only Linear layers are counted"
            )
    return sum(m.in_features * m.out_features for m in bridge.modules() if isinstance(m, nn.Linear))
