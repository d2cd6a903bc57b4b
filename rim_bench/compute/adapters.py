"""Adapter ranks at which a method trains as many parameters as the one it is compared with. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rim_bench.compute.flops import Shape
from rim_bench.methods.controls import check_trains
from rim_bench.methods.method import Method
from rim_bench.methods.registry import load_method


def adapter_parameters(shape: Shape, rank: int) -> int:
    """Parameters of LoRA matrices of this rank on every linear layer but the head."""
    return rank * shape.layers * sum(a + b for a, b in shape.matrices)


def matched_rank(shape: Shape, rank: int, compared_rows: int, own_rows: int) -> int:
    """The smallest rank with at least as many trained parameters as the compared method has at `rank`.

    Args:
        compared_rows, own_rows: new embedding rows of the two methods; under LoRA they train beside the matrices.
    """
    asked = adapter_parameters(shape, rank) + (compared_rows - own_rows) * shape.width
    return -(-asked // adapter_parameters(shape, 1))


def matched_shape(shape: Shape, method: Method) -> Shape:
    """A method's shape where all others run at `shape`: a higher rank if it has one to match (`Method.adapter_of`)."""
    if method.adapter_of is None or not shape.rank:
        return shape
    compared = load_method(method.adapter_of)
    return replace(shape, rank=matched_rank(shape, shape.rank, len(compared.markers()), len(method.markers())))


def matched_backbone(spec: Mapping[str, Any], shape: Shape, method: Method) -> dict[str, Any]:
    """A backbone's record as a method needs it where all others run at `spec`; the same one without a rank to match.

    LoRA's alpha is scaled along, so that alpha / rank, the strength of the adapter, stays what it is for all arms.

    Args:
        shape: the model's; its rank is not looked at.
    Raises:
        UsageError: a rank to match, and a record without an adapter.
    """
    if method.adapter_of is None:
        return dict(spec)
    check_trains(method, spec, "recipe")
    rank = matched_shape(replace(shape, rank=int(spec["lora_rank"])), method).rank
    return {**spec, "lora_rank": rank, "lora_alpha": spec["lora_alpha"] * rank / spec["lora_rank"]}
