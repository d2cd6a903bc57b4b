"""Fixed overhead: `rim-bench run` where everything is trained and evaluated already, beside bare imports of the libraries it loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rim_bench.benchmarks.common import check_rounds
from rim_bench.benchmarks.lines import Line
from rim_bench.benchmarks.spread import Spread
from rim_bench.errors import UsageError

RUN = ("run", "--methods", "direct,cot", "--task", "chain", "--limit", "40", "--examples", "64", "--cot-examples", "64")
SMALL = ("--backbone", "layers=1", "--backbone", "width=32", "--backbone", "heads=2", "--start", "recipe", "--quick", "--device", "cpu")
LIMIT = 600  # seconds that one process may take
LIBRARIES = """
import torch, datasets, pandas
from transformers import AutoModelForCausalLM, AutoTokenizer
from lm_eval import simple_evaluate
"""
"""What a run that trains something is built on."""

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
_IMPORT = """
import importlib, json, sys
for name in json.load(open(sys.argv[1])):
    try:
        importlib.import_module(name)
    except Exception:
        pass
"""


def overhead_lines(rounds: int) -> list[Line]:
    """Wall time of whole processes: the command, and imports of the very modules that it had loaded when it ended.

    A second line sets it beside the imports that a run which trains something is built on, whatever the command itself loads.

    Raises:
        UsageError: fewer than one round, or a process that failed.
    """
    check_rounds(rounds)
    with tempfile.TemporaryDirectory(prefix="rim-bench-overhead-") as folder:
        place = Path(folder)
        command = [sys.executable, "-c", _COMMAND, *RUN, *SMALL, "--out", str(place / "results")]
        _seconds(command)  # trains and evaluates
        loaded = place / "loaded.json"
        _seconds([sys.executable, "-c", f"TARGET = {str(loaded)!r}\n{_LOADED}\n{_COMMAND}", *command[3:]])
        names = json.loads(loaded.read_text("utf-8"))
        jobs = {
            "command": command,
            "modules": [sys.executable, "-c", _IMPORT, str(loaded)],
            "libraries": [sys.executable, "-c", LIBRARIES],
        }
        found: dict[str, list[float]] = {name: [] for name in jobs}
        for k in range(rounds + 1):
            for name in jobs if k % 2 else reversed(list(jobs)):
                seconds = _seconds(jobs[name])
                if k:  # the first fills the disk's cache
                    found[name].append(seconds)
    ours = Spread(tuple(found["command"]))
    modules, libraries = Spread(tuple(found["modules"])), Spread(tuple(found["libraries"]))
    packages = sorted({name.split(".")[0] for name in names})
    what = "rim-bench run, nothing to train"
    told = f"imports of the {len(names):,} modules of the {len(packages)} packages that it loads"
    return [
        Line(what, told, "s", ours, modules, ours / modules),
        Line(what, "imports of torch, transformers, lm_eval, datasets and pandas", "s", ours, libraries, ours / libraries),
    ]


def _seconds(command: Sequence[str]) -> float:
    """Wall time of a process that must succeed."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment, check=False)
    took = time.perf_counter() - began
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UsageError(f"a process of the overhead measurement failed: {reason}")
    return took
