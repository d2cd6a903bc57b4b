"""The largest memory of a stretch of work: of the GPU where one is used, else of the process."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def reset_peak() -> None:
    """Start a new stretch. Where the system cannot (no GPU, not Linux), the process's own maximum goes on."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):
        _CLEAR.write_text("5")  # sets the high-water mark of resident memory back to what is resident now


def peak_memory() -> int:
    """Bytes at the largest since `reset_peak`: allocated on the GPU where one is used, else resident in memory."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        (line,) = [row for row in _STATUS.read_text().splitlines() if row.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
