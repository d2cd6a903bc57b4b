"""Fixed overhead: `rim-bench run` where everything is trained and evaluated already, beside bare imports of the libraries it loads."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rim_bench.benchmarks.common import check_rounds
from rim_bench.benchmarks.lines import Line
from rim_bench.benchmarks.spread import Spread
from rim_bench.errors import UsageError

METHODS = ("direct", "cot")
DONE = "evaluated already"  # what the command says of each
RUN = ("run", "--methods", ",".join(METHODS), "--task", "chain", "--limit", "40", "--examples", "64", "--cot-examples", "64")
SMALL = ("--backbone", "layers=1", "--backbone", "width=32", "--backbone", "heads=2", "--start", "recipe", "--quick", "--device", "cpu")
LIMIT = 300  # seconds that one process may take
LIBRARIES = {
    "torch": "import torch",
    "transformers": "from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache",
    "lm_eval": "from lm_eval import simple_evaluate",
    "datasets": "import datasets",
    "pandas": "import pandas",
}
"""What a run is built on, and how a script imports it."""

_COMMAND = "import sys; from rim_bench.cli import main; sys.argv[0] = 'rim-bench'; main()"
_LOADED = """
import atexit, json, sys, sysconfig
def tell():
    roots = tuple({sysconfig.get_paths()[k] for k in ("purelib", "platlib")})
    names = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if file.startswith(roots) and not name.startswith(("rim_bench", "__")) and getattr(module, "__spec__", None) is not None:
            names.append(module.__spec__.name)
    with open(TARGET, "w") as file:
        json.dump(list(dict.fromkeys(names)), file)
atexit.register(tell)
"""


def overhead_lines(rounds: int) -> list[Line]:
    """Wall time of whole processes: the command, and bare imports of those of `LIBRARIES` that it had loaded when it ended.

    Raises:
        UsageError: fewer than one round, or a process that failed.
    """
    check_rounds(rounds)
    with tempfile.TemporaryDirectory(prefix="rim-bench-overhead-") as folder:
        place = Path(folder)
        command = [sys.executable, "-c", _COMMAND, *RUN, *SMALL, "--out", str(place / "results")]
        _process(command)  # trains and evaluates
        loaded = place / "loaded.json"
        said = _process([sys.executable, "-c", f"TARGET = {str(loaded)!r}\n{_LOADED}\n{_COMMAND}", *command[3:]]).said
        assert said.count(DONE) == len(METHODS), f"there was something left to do: {said}"
        names = json.loads(loaded.read_text("utf-8"))
        packages = {name.split(".")[0] for name in names}
        libraries = [name for name in LIBRARIES if name in packages]
        jobs = {
            "command": command,
            "libraries": [sys.executable, "-c", "; ".join(LIBRARIES[name] for name in libraries)],
        }
        found = _interleaved(jobs, rounds)
    return [_line(found, "libraries", f"bare imports of {', '.join(libraries)}")]


@dataclass(frozen=True, slots=True)
class _Process:
    """A process that ended well."""

    wall: float  # seconds
    cpu: float
    said: str


def _interleaved(jobs: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[_Process]]:
    """Each once a round, forwards and backwards in turn; a first round fills the disk's cache."""
    found: dict[str, list[_Process]] = {name: [] for name in jobs}
    for k in range(rounds + 1):
        for name in jobs if k % 2 else reversed(list(jobs)):
            done = _process(jobs[name])
            if k:
                found[name].append(done)
    return found


def _line(found: Mapping[str, Sequence[_Process]], other: str, against: str) -> Line:
    wall = {name: Spread(tuple(p.wall for p in found[name])) for name in ("command", other)}
    cpu = {name: Spread(tuple(p.cpu for p in found[name])) for name in ("command", other)}
    more = {"cpu_seconds": cpu["command"], "cpu_ratio": cpu["command"] / cpu[other]}
    return Line("rim-bench run, nothing to train", against, "s", wall["command"], wall[other], wall["command"] / wall[other], more)


def _process(command: Sequence[str]) -> _Process:
    """Runs a process that must succeed."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment, check=False)
    except subprocess.TimeoutExpired:
        raise UsageError(f"a process of the overhead measurement took more than {LIMIT} s: is the machine busy?") from None
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UsageError(f"a process of the overhead measurement failed: {reason}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return _Process(wall, cpu, done.stdout + done.stderr)
