"""Which number type the runs of a request compute in, decided once, before any of them is planned. No torch above."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rim_bench.storage.run_folder import Store
from rim_bench.util.errors import UsageError
from rim_bench.util.files import canonical


@dataclass(frozen=True)
class Precision:
    """The decision.

    Attributes:
        dtype: "float32" or "bfloat16", as specifications have it.
        asked: what the request said; None: nothing.
        gain: how many times faster than float32 bfloat16's products were here; None where nothing was measured.
        note: what there is to say of it.
    """

    dtype: str
    asked: str | None = None
    gain: float | None = None
    note: str | None = None

    def record(self) -> dict[str, Any]:
        """For a run's environment: what was asked, and measured."""
        return {"chosen": self.dtype, "asked": self.asked, "gain": self.gain and round(self.gain, 3)}


def choose_precision(
    asked: str | None, device: str, backbone: Mapping[str, Any], store: Store, *, elsewhere: bool = False
) -> Precision:
    """The type for runs of a backbone.

    Where nothing is asked it does not depend on the machine: bfloat16 on a GPU, float32 elsewhere, so that one request
    has the same specifications, and ids, everywhere. `auto` takes bfloat16 on a CPU where weights stay frozen, the
    processor multiplies it, and a probe of two seconds at the model's width says that it is faster; but what runs of
    this backbone in the results folder have already stays, so that a run goes on as it began.

    Args:
        device: as torch names it.
        elsewhere: another machine computes, so that nothing can be measured here.

    Raises:
        UsageError: `auto` for another machine, with nothing stored.
    """
    usual = "bfloat16" if device.startswith("cuda") else "float32"
    if asked is None:
        return Precision(usual)
    if asked != "auto":
        slow = asked == "bfloat16" and device == "cpu" and not elsewhere
        return _warned(asked, backbone) if slow else Precision(asked, asked)
    if device != "cpu":
        return Precision(usual, asked, note=f"dtype: {usual} (auto: on a GPU always)")
    if backbone["kind"] == "scratch" or backbone["tuning"] != "lora":
        why = "all weights train" if backbone["tuning"] != "lora" else "the model is from scratch"
        return Precision(usual, asked, note=f"dtype: {usual} (auto: {why})")
    if (stored := _stored(store, backbone)) is not None:
        return Precision(stored, asked, note=f"dtype: {stored} (auto: as the stored runs of this backbone have it)")
    if elsewhere:
        raise UsageError(
            "--dtype auto measures on the machine that computes, and another one does here: give float32 or bfloat16"
        )
    from rim_bench.engine.precision import WORTH, has_bfloat16

    if not has_bfloat16():
        return Precision(usual, asked, note=f"dtype: {usual} (auto: this processor does not multiply bfloat16)")
    gain = _gain(backbone)
    chosen = "bfloat16" if gain >= WORTH else usual
    return Precision(
        chosen,
        asked,
        gain,
        f"dtype: {chosen} (auto: products of this width are {gain:.2f} times as fast in bfloat16, {WORTH:g} decide)",
    )


def _warned(asked: str, backbone: Mapping[str, Any]) -> Precision:
    """bfloat16 on a CPU, with a warning where the processor has none."""
    from rim_bench.engine.precision import has_bfloat16

    if has_bfloat16():
        return Precision(asked, asked)
    gain = _gain(backbone)
    how = f"measured here, its products are {1 / gain:.1f} times as slow as float32's"
    if gain > 1:
        how = f"measured here, its products are still {gain:.1f} times as fast as float32's"
    return Precision(asked, asked, gain, f"warning: this processor does not multiply bfloat16 itself; {how}")


def _gain(backbone: Mapping[str, Any]) -> float:
    """What a probe at the backbone's width measures."""
    import torch

    from rim_bench.compute.backbones import configuration
    from rim_bench.compute.flops import Shape
    from rim_bench.engine.precision import bfloat16_gain
    from rim_bench.util.progress import phase

    if backbone["kind"] == "scratch":
        width, inner = int(backbone["width"]), int(backbone["intermediate"])
    else:
        from rim_bench.engine.pretrained import locate

        shape = Shape.of(configuration(str(locate(backbone))))
        width, inner = shape.width, shape.ffn
    with phase("measuring which number type is faster"):
        return bfloat16_gain(width, inner, torch.get_num_threads())


def _stored(store: Store, backbone: Mapping[str, Any]) -> str | None:
    """The type that most stored runs of this backbone have; None without any."""
    wanted = canonical(dict(backbone))
    kinds: Counter[str] = Counter()
    for run in store.folders():
        with suppress(UsageError):  # a damaged one is refused where it is used
            if run.spec.dtype is not None and canonical(run.spec.backbone) == wanted:
                kinds[run.spec.dtype] += 1
    return max(sorted(kinds), key=kinds.__getitem__) if kinds else None
