"""What a measurement ran on, and whether others used it at the same time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

import torch

from rim_bench.environment import environment
from rim_bench.files import Record
from rim_bench.run_parts import gpu_info

BUSY_LOAD = 0.5
BUSY_SHARE = 0.95
_PLACES = ("--data", "--json", "--out", "-o")


def begin(device: torch.device) -> Record:
    """Taken before anything is measured; `finish` completes it."""
    cuda = device.type == "cuda"
    return environment(gpu=gpu_info(device), argv=_told(sys.argv)) | {
        "device": str(device),
        "dtype": "bfloat16" if cuda else "float32",
        "threads": torch.get_num_threads(),
        "load_before": _load(),
    }


def finish(machine: Record, cpu_share: float | None) -> Record:
    """The same with the load at the end and a verdict."""
    before, share = machine["load_before"], None if cpu_share is None else round(cpu_share, 3)
    busy = (before is not None and before > BUSY_LOAD) or (share is not None and share < BUSY_SHARE)
    return machine | {"load_after": _load(), "cpu_share": share, "busy": busy}


def _told(given: Sequence[str]) -> Iterator[str]:
    """The command line without the folders of whoever gave it: another reader has others."""
    before = ""
    for word in given:
        flag, equals, _ = word.partition("=")
        if before in _PLACES:
            yield "DIR"
        else:
            yield f"{flag}=DIR" if equals and flag in _PLACES else word
        before = word


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None
