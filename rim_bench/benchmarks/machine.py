"""What a measurement ran on, and whether others used it at the same time."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence

import psutil  # type: ignore[import-untyped]
import torch

from rim_bench.environment import environment
from rim_bench.files import Record
from rim_bench.run_parts import gpu_info

BUSY_CORES = 0.2
BUSY_SHARE = 0.95
_PLACES = ("--data", "--json", "--out", "-o")


class Watch:
    """Taken before anything is measured; `finish` says what happened on the machine in between."""

    def __init__(self, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self.record: Record = environment(gpu=gpu_info(device), argv=_told(sys.argv)) | {
            "device": str(device),
            "dtype": "bfloat16" if cuda else "float32",
            "threads": torch.get_num_threads(),
            "load_before": _load(),
        }
        self._began, self._own, self._all = time.perf_counter(), _own(), _all()

    def finish(self, cpu_share: float | None) -> Record:
        """The machine's record: its load, what others did on it, and a verdict. `cpu_share` as in `common.Session`."""
        wall, own, everybody = time.perf_counter() - self._began, _own() - self._own, _all()
        others = None
        if everybody is not None and self._all is not None:
            others = round(max(0.0, everybody - self._all - own) / wall, 3)
        share = None if cpu_share is None else round(cpu_share, 3)
        busy = (others is not None and others > BUSY_CORES) or (share is not None and share < BUSY_SHARE)
        return self.record | {"load_after": _load(), "cpu_share": share, "others_cores": others, "busy": busy}


def _own() -> float:
    """CPU seconds of this process and of those that it started and that ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _all() -> float | None:
    """CPU seconds of everything on the machine since it started; None where the system does not say."""
    try:
        times = psutil.cpu_times()
    except (OSError, RuntimeError):
        return None
    idle = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle)


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
