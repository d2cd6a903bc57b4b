"""The number type that a run computes in: which there are, what a processor has, and which is faster at a width."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import Final

import torch

FLOAT32, BFLOAT16 = "float32", "bfloat16"
WORTH: Final = 1.2
"""Times faster that products must be before bfloat16 is worth its rounding: what is no product gains nothing."""
PROBE_SECONDS: Final = 2.0
COLUMNS: Final = 512  # of a probe: those of a usual micro-batch
RANK: Final = 64


def device_default(device: str) -> str:
    """The type where none is asked for: bfloat16 on a GPU, float32 elsewhere. The same on every machine.

    Args:
        device: its type, such as "cpu".
    """
    return BFLOAT16 if device == "cuda" else FLOAT32


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself (avx512_bf16, amx, or ARM's bf16)."""
    known = torch.cpu.get_capabilities()
    return any(bool(known.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))


@cache
def bfloat16_gain(width: int, intermediate: int, threads: int, seconds: float = PROBE_SECONDS) -> float:
    """How many times faster the products of a layer are in bfloat16 than in float32, with the casts around them.

    The median over pairs, one after the other, for about two seconds. It is measured once in a process.

    Args:
        width: the model's hidden size.
        intermediate: of its feed-forward layer.
        threads: torch's, which the answer depends on.
    """
    one, other = layer_products(torch.float32, width, intermediate), layer_products(torch.bfloat16, width, intermediate)
    one(), other()  # what is made at the first call
    ratios: list[float] = []
    ended = time.perf_counter() + seconds
    while not ratios or time.perf_counter() < ended:
        times = []
        for work in (one, other):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        ratios.append(times[0] / times[1])
    return statistics.median(ratios)


def layer_products(dtype: torch.dtype, width: int, intermediate: int) -> Callable[[], torch.Tensor]:
    """One layer's frozen products with adapters beside them, forward and backward, on states in float32."""
    states = torch.randn(COLUMNS, width)
    sizes = [(width, width), (width, width), (width, intermediate), (width, intermediate), (intermediate, width)]
    layers = [
        [torch.randn(shape).to(dtype) for shape in ((n_out, n_in), (RANK, n_in), (n_out, RANK))]
        for n_in, n_out in sizes
    ]

    def work() -> torch.Tensor:
        inner = torch.zeros(COLUMNS, intermediate, dtype=dtype)
        out = states
        for weight, down, up in layers:
            x = (states if weight.shape[1] == width else inner).to(dtype)
            y = torch.addmm(x @ weight.t(), x @ down.t(), up.t())
            back = y @ weight
            back.addmm_(y @ up, down)
            out = out + (y if y.shape[1] == width else back).float()
        return out

    return work
