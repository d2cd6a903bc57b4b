"""What a forward pass computes on its way, read and changed: the inputs of the layers, and the keys that a layer sees.

Hooks on the model's own modules, and only within a `with`: outside of it the model is what it was. Layer 0's input is
that of the whole model, before positions are added to it (GPT-2) or turned into rotations (Llama, Qwen).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import DynamicCache

    from rim_bench.engine.backbone import Backbone

Change = Callable[[int, Tensor], Tensor]
"""A layer and its input [rows, new, width] -> the input that it gets instead; the same one where it only looks."""
KeysAndValues = tuple[Tensor, Tensor]
"""Of one layer, [rows, heads, columns, head width] each."""


def transformer_layers(backbone: Backbone) -> list[Any]:
    """The modules of the layers, in order."""
    base = backbone.causal.base_model
    return list(base.h if hasattr(base, "h") else base.layers)[: backbone.layers]


@contextmanager
def layer_inputs(backbone: Backbone, change: Change) -> Iterator[None]:
    """Within it the input of every layer goes through `change`, in the order of the layers, pass by pass."""

    def of_model(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs | {"inputs_embeds": change(0, kwargs["inputs_embeds"])}

    def of_layer(layer: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return (change(layer, args[0]), *args[1:]), kwargs

        return hook

    with ExitStack() as stack:
        base = backbone.causal.base_model
        stack.callback(base.register_forward_pre_hook(of_model, with_kwargs=True).remove)
        for layer, module in enumerate(transformer_layers(backbone)):
            if layer:
                stack.callback(module.register_forward_pre_hook(of_layer(layer), with_kwargs=True).remove)
        yield


@contextmanager
def hidden_keys(backbone: Backbone, hidden: Mapping[int, Sequence[int]]) -> Iterator[None]:
    """Within it no query of these layers sees these keys, by their place in the row; positions stay as they are.

    The passes need an explicit mask, as all have that go on from a cache.
    """

    def of_layer(keys: Sequence[int]) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            mask = kwargs["attention_mask"].clone()  # additive, [rows, 1, new, seen]
            mask[..., list(keys)] = torch.finfo(mask.dtype).min
            return args, kwargs | {"attention_mask": mask}

        return hook

    with ExitStack() as stack:
        for layer, module in enumerate(transformer_layers(backbone)):
            if hidden.get(layer):
                attention = module.attn if hasattr(module, "attn") else module.self_attn
                hook = attention.register_forward_pre_hook(of_layer(hidden[layer]), with_kwargs=True)
                stack.callback(hook.remove)
        yield


def keys_and_values(cache: DynamicCache) -> list[KeysAndValues]:
    """A copy of what a cache holds, layer by layer; keys as they are multiplied, after their rotation."""
    layers: Any = cache.layers
    return [(layer.keys.clone(), layer.values.clone()) for layer in layers]


def cache_of(backbone: Backbone, layers: Sequence[KeysAndValues]) -> DynamicCache:
    """A cache that holds a copy of these keys and values, for passes to go on from."""
    cache = backbone.new_cache()
    for layer, (keys, values) in enumerate(layers):
        cache.update(keys, values, layer)
    return cache
