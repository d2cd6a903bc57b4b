"""The device that computes: which it is, what times on it depend on, and the largest memory of a stretch of work."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from rim_bench.engine.distributed import environment
from rim_bench.engine.execution import ALONE, ExecutionContext
from rim_bench.storage.records import FingerprintRecord
from rim_bench.util.environment import cpu_model
from rim_bench.util.errors import UsageError


def pick_device(name: str | None = None) -> torch.device:
    """The device to run on: the named one, else the first GPU, else the CPU.

    Raises:
        UsageError: an unknown or absent device.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = named_device(name)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise _refused(name, str(error)) from None
    if device.type == "cuda" and (several := environment.started()) > 1:
        if device.index is not None:
            raise UsageError(
                f"device {name!r} is one GPU, and {several} processes take one each: give --device cuda, or leave it "
                "out"
            )
        if (here := environment.on_this_machine()) > (gpus := torch.cuda.device_count()):
            raise UsageError(
                f"{here} processes were started on a machine with {gpus} GPU: start one for each GPU, or give "
                "--device cpu"
            )
    return device


def named_device(name: str) -> torch.device:
    """The device of that name, whether this machine has it or not.

    Raises:
        UsageError: neither the CPU nor a GPU.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _refused(name, str(error)) from None
    if device.type not in ("cpu", "cuda"):
        raise _refused(name, "not one that is supported")
    return device


def _refused(name: str, reason: str) -> UsageError:
    reason = reason.splitlines()[0]
    return UsageError(f"device {name!r} cannot be used ({reason}): allowed are cpu and, where there is one, cuda")


def runtime(device: torch.device, dtype: str, execution: ExecutionContext = ALONE) -> dict[str, Any]:
    """What times depend on beside the method: device, processor, threads, number type, and runs beside this one."""
    together = execution.runs_at_a_time
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_properties(device).name if cuda else "cpu",
        "host_cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "torch": torch.__version__,
        **({"cells_at_a_time": together or "unknown"} if together != 1 else {}),
    }


def fingerprint(device: torch.device, processes: int = 1) -> FingerprintRecord:
    """What decides the last bit of the weights beside the specification: runs that differ in it are replicates."""
    cuda = device.type == "cuda"
    return FingerprintRecord(
        torch=torch.__version__,
        device=torch.cuda.get_device_properties(device).name if cuda else "cpu",
        host_cpu=cpu_model(),
        capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        processes=processes,
    )


_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def reset_peak(device: torch.device) -> None:
    """Start a new stretch of work. Where the system cannot (no GPU, not Linux), the process's own maximum goes on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        _CLEAR.write_text("5")  # sets the high-water mark of resident memory back to what is resident now


def peak_memory(device: torch.device) -> int:
    """Largest number of bytes since `reset_peak`: allocated on the GPU where there is one, else resident in memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        (line,) = [row for row in _STATUS.read_text().splitlines() if row.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
