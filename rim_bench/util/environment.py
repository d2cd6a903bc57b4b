"""What a process runs on, as plain data: versions, commit, hardware, arguments. Imports nothing heavy."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rim_bench.util.files import Record

_PACKAGES = (
    "rim-bench",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "peft",
    "lm_eval",
    "datasets",
    "numpy",
    "scipy",
    "filelock",
)


def environment(gpu: Mapping[str, Any] | None = None, argv: Iterable[str] | None = None) -> Record:
    """What this process runs on, as plain data.

    `gpu` is the caller's word for it (name, memory, driver); nothing heavy is imported.
    """
    arguments = list(sys.argv if argv is None else argv)
    packages: dict[str, str] = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        memory: int | None = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        memory = None
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()} {' '.join(platform.libc_ver())}".strip(),
        "cpu": {"model": cpu_model(), "cores": os.cpu_count(), "usable_cores": affinity},
        "memory_bytes": memory,
        "gpu": None if gpu is None else dict(gpu),
        "packages": packages,
        "git": _git(),
        "argv": [Path(arguments[0]).name, *arguments[1:]] if arguments else [],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def moment() -> str:
    """The present time in UTC, to the microsecond; later ones are greater as texts, too."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def cpu_model() -> str:
    """The processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _git() -> Record | None:
    """Commit of the working tree that this file is tracked in, and whether it has changes; None elsewhere."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None
