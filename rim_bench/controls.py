"""Which controls a comparison needs, the settings at which they are controls, and what makes them refuse. No torch.

What there is and what each one tests: `rim_bench.claims`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rim_bench.claims import ANY as ANY
from rim_bench.claims import CONTROLS as CONTROLS
from rim_bench.claims import Control as Control
from rim_bench.claims import warm_controls
from rim_bench.errors import UsageError
from rim_bench.flops import Shape
from rim_bench.method import Method, load_method


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A control that cannot be run in this comparison, and why: a table must say so."""

    control: Control
    reason: str


def _wanted(methods: Sequence[Method], start: str) -> list[Control]:
    names = {m.name for m in methods}
    out = [c for c in CONTROLS if c.of in names]
    for control in ANY:
        held = [m.name for m in methods if m.name not in (control.method, "direct")]
        out += [replace(control, of=", ".join(held))] if held else []
    # an arm that begins with a stage of another method had a warm start inside its own budget: direct and pause get one, too
    for warm in sorted({s.given_by for m in methods for s in m.stages() if s.given_by is not None and s.given_by != start}):
        arms = ", ".join(m.name for m in methods if any(s.given_by == warm for s in m.stages()))
        out += warm_controls(warm, arms)
    return out


def _refusal(control: Control, start: str, backbone: Mapping[str, Any]) -> str | None:
    begins = control.start or start
    if control.needs == "trained weights" and backbone["kind"] == "scratch" and begins == "recipe":
        return "nothing is to be kept frozen on random weights: it needs a pretrained backbone, or a shared start"
    if control.needs == "adapter" and backbone["tuning"] != "lora":
        return "everything trains in all arms: there is no adapter whose rank could be raised"
    if control.needs == "adapter" and begins != "recipe":
        return "the adapter of a shared start has the rank it has"
    return None


def controls_for(methods: Sequence[Method], start: str, backbone: Mapping[str, Any]) -> tuple[tuple[Control, ...], tuple[LeftOut, ...]]:
    """The controls that the compared methods need, each once per claim, and those that cannot be run here.

    Controls that are among the compared methods are listed too: the table says which claim each one tests. Names of methods that need a
    run, in order: `{c.method: None for c in controls if not c.evaluation and c.start is None}`.

    Args:
        start: the comparison's start, "recipe" or "cot".
        backbone: its record, see `catalog.resolve_backbone`.
    """
    possible: list[Control] = []
    left: list[LeftOut] = []
    for control in _wanted(methods, start):
        reason = _refusal(control, start, backbone)
        if reason is None:
            possible.append(control)
        else:
            left.append(LeftOut(control, reason))
    return tuple(possible), tuple(left)


def matched_settings(control: Control, method: Method) -> dict[str, Any]:
    """The settings at which `control` is one of `method` as it is compared: rim with K = 4 has controls with K = 4."""
    return {} if control.matched is None else control.matched(method.settings())


# The controls that change what trains


def check_trains(method: Method, backbone: Mapping[str, Any], start: str) -> None:
    """Raises UsageError for a method that would keep random weights frozen, or raise the rank of an adapter that is not its own."""
    if method.trains == "markers" and backbone["kind"] == "scratch" and start == "recipe":
        raise UsageError(
            f"{method.name} trains its new embeddings only, and backbone {backbone['name']!r} has random weights: give a pretrained one, "
            "or a shared start (--start cot)"
        )
    if method.adapter_of is not None and backbone["tuning"] != "lora":
        raise UsageError(
            f"{method.name} raises the rank of an adapter, and backbone {backbone['name']!r} trains without one: use pretrained weights "
            "with --tuning lora"
        )
    if method.adapter_of is not None and start != "recipe":
        raise UsageError(f"{method.name} has an adapter of its own rank, and that of a shared start has another: use --start recipe")


def adapter_parameters(shape: Shape, rank: int) -> int:
    """Parameters of LoRA matrices of this rank on every linear layer but the head."""
    return rank * shape.layers * sum(a + b for a, b in shape.matrices)


def matched_rank(shape: Shape, rank: int, compared_rows: int, own_rows: int) -> int:
    """The smallest rank at which a method trains at least as many parameters as the one it is compared with, which has `rank`.

    Args:
        compared_rows, own_rows: new embedding rows of the two methods; under LoRA they train beside the matrices.
    """
    asked = adapter_parameters(shape, rank) + (compared_rows - own_rows) * shape.width
    return -(-asked // adapter_parameters(shape, 1))


def matched_shape(shape: Shape, method: Method) -> Shape:
    """The shape at which a method runs where all others run at `shape`: a higher rank if it has one to match (`Method.adapter_of`)."""
    if method.adapter_of is None or not shape.rank:
        return shape
    compared = load_method(method.adapter_of)
    return replace(shape, rank=matched_rank(shape, shape.rank, len(compared.markers()), len(method.markers())))


def matched_backbone(spec: Mapping[str, Any], shape: Shape, method: Method) -> dict[str, Any]:
    """A backbone's record at which a method runs where all others run at `spec`; the same record if it has no rank to match.

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
