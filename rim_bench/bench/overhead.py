"""Fixed overhead: `rim-bench run` where everything is trained and evaluated already, beside bare imports of what it
loads itself.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rim_bench.bench.record import Line
from rim_bench.bench.session import Spread, check_rounds
from rim_bench.util.errors import UsageError

METHODS = ("direct", "cot")
DONE = "evaluated already"  # what the command says of each
RUN = (
    "run",
    "--methods",
    ",".join(METHODS),
    "--task",
    "chain",
    "--limit",
    "40",
    "--examples",
    "64",
    "--cot-examples",
    "64",
)
SMALL = (
    "--backbone",
    "layers=1",
    "--backbone",
    "width=32",
    "--backbone",
    "heads=2",
    "--start",
    "recipe",
    "--quick",
    "--device",
    "cpu",
)
LIMIT = 300  # seconds that one process may take
LIBRARIES: Mapping[str, Mapping[str, str]] = {
    "torch": {},
    "transformers": {
        "AutoModelForCausalLM": "transformers.models.auto.modeling_auto",
        "AutoTokenizer": "transformers.models.auto.tokenization_auto",
        "DynamicCache": "transformers.cache_utils",
    },
    "lm_eval": {"simple_evaluate": "lm_eval.evaluator"},
    "datasets": {},
    "pandas": {},
    "typer": {},
}
"""What a run is built on -> the names that a script would take from it, each with the module that it comes from; none:
all of it.

`transformers` and `lm_eval` load a name's module when the name is taken, so that a script pays for what it takes.
"""
_COMMAND = "import sys; from rim_bench.cli.main import main; sys.argv[0] = 'rim-bench'; main()"
_LOADED = """
import atexit, json, sys, sysconfig
def tell():
    roots = tuple({sysconfig.get_paths()[k] for k in ("purelib", "platlib")})
    names = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        spec = getattr(module, "__spec__", None)
        if file.startswith(roots) and not name.startswith(("rim_bench", "__")) and spec is not None:
            names.append(spec.name)
    with open(TARGET, "w") as file:
        json.dump(list(dict.fromkeys(names)), file)
atexit.register(tell)
"""


def overhead_lines(rounds: int) -> list[Line]:
    """Wall time of whole processes: the command, and bare imports of what it had itself loaded of `LIBRARIES` when it
    ended.

    Raises:
        UsageError: fewer than one round, a process that failed, or imports that load what the command does not.
    """
    check_rounds(rounds)
    with tempfile.TemporaryDirectory(prefix="rim-bench-overhead-") as folder:
        place = Path(folder)
        command = [sys.executable, "-c", _COMMAND, *RUN, *SMALL, "--out", str(place / "results")]
        _process(command)  # trains and evaluates
        said, names = _loaded(_COMMAND, command[3:], place)
        assert said.count(DONE) == len(METHODS), f"there was something left to do: {said}"
        taken = rival(names)
        imports = script(taken)
        check_fewer(_loaded(imports, (), place)[1], names)
        found = _interleaved({"command": command, "libraries": [sys.executable, "-c", imports]}, rounds)
    listed = [f"{library} ({', '.join(some)} only)" if some else library for library, some in taken.items()]
    return [_line(found, "libraries", f"bare imports of {', '.join(listed)}")]


def rival(names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Library -> names to take from it, of those whose modules are among `names`; a library of which only other parts
    are there has none.

    Args:
        names: of modules that are loaded.
    """
    taken = {
        library: tuple(name for name, module in known.items() if module in names)
        for library, known in LIBRARIES.items()
    }
    return {library: some for library, some in taken.items() if library in names and (some or not LIBRARIES[library])}


def script(taken: Mapping[str, Sequence[str]]) -> str:
    """The imports as a user's script has them."""
    return "; ".join(
        f"from {library} import {', '.join(some)}" if some else f"import {library}" for library, some in taken.items()
    )


def check_fewer(theirs: Sequence[str], ours: Collection[str]) -> None:
    """Raises UsageError where bare imports load a module that the command does not:
    what is timed would be slowed down by it.
    """
    if more := [name for name in theirs if name not in ours]:
        raise UsageError(
            f"bare imports load {len(more)} modules that the run does not, {more[0]} first: the two cannot be compared"
        )


def _loaded(code: str, arguments: Sequence[str], place: Path) -> tuple[str, list[str]]:
    """What a process says, and the modules of installed packages that it has loaded when it ends."""
    target = place / "loaded.json"
    said = _process([sys.executable, "-c", f"TARGET = {str(target)!r}\n{_LOADED}\n{code}", *arguments]).said
    names: list[str] = json.loads(target.read_text("utf-8"))
    return said, names


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
    return Line(
        "rim-bench run, nothing to train",
        against,
        "s",
        wall["command"],
        wall[other],
        wall["command"] / wall[other],
        more,
    )


def _process(command: Sequence[str]) -> _Process:
    """Runs a process that must succeed."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment, check=False)
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"a process of the overhead measurement took more than {LIMIT} s: is the machine busy?"
        ) from None
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UsageError(f"a process of the overhead measurement failed: {reason}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return _Process(wall, cpu, done.stdout + done.stderr)
