"""Fixed overhead: `rim-bench run` with nothing left to do, beside bare imports of the libraries that it loads."""

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

from rim_bench.bench.record import Line, Spread
from rim_bench.bench.session import check_rounds
from rim_bench.util.errors import UsageError

METHODS = ("direct", "cot")
DONE = "evaluated already"  # what the command says of each
RUN = f"run --methods {','.join(METHODS)} --task chain --limit 40 --examples 64 --cot-examples 64".split()
SIZE = [word for field in ("layers=1", "width=32", "heads=2") for word in ("--backbone", field)]
SMALL = [*SIZE, "--start", "recipe", "--quick", "--device", "cpu"]
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
"""What a run is built on -> the names that a script takes from it, each with its module; none: all of the library.

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
    """Wall time of whole processes: the command, and bare imports of what it had loaded of `LIBRARIES` at its end.

    Each runs once a round, first and last in turn; a first round fills the disk's cache.

    Raises:
        UsageError: fewer than one round, a process that failed, or imports that load what the command does not.
    """
    check_rounds(rounds)
    with tempfile.TemporaryDirectory(prefix="rim-bench-overhead-") as folder:
        command = [sys.executable, "-c", _COMMAND, *RUN, *SMALL, "--out", str(Path(folder) / "results")]
        run_process(command)  # trains and evaluates
        output, names = loaded_modules(_COMMAND, command[3:], Path(folder))
        assert output.count(DONE) == len(METHODS), f"there was something left to do: {output}"
        taken = rival(names)
        imports = script(taken)
        check_fewer(loaded_modules(imports, (), Path(folder))[1], names)
        commands = {"ours": command, "theirs": [sys.executable, "-c", imports]}
        done: dict[str, list[Finished]] = {name: [] for name in commands}
        for k in range(rounds + 1):
            for name in commands if k % 2 else reversed(commands):
                done[name].append(run_process(commands[name]))
    wall, theirs = (Spread(tuple(p.wall for p in done[name][1:])) for name in commands)
    cpu, theirs_cpu = (Spread(tuple(p.cpu for p in done[name][1:])) for name in commands)
    more = {"cpu_seconds": cpu, "cpu_ratio": cpu / theirs_cpu}
    libraries = [f"{library} ({', '.join(some)} only)" if some else library for library, some in taken.items()]
    against = f"bare imports of {', '.join(libraries)}"
    return [Line("rim-bench run, nothing to train", against, "s", wall, theirs, wall / theirs, more)]


def rival(loaded: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Library -> names to take from it: those whose modules are among the `loaded` ones.

    A library of which only other parts are loaded is left out.
    """
    taken = {
        library: tuple(name for name, module in known.items() if module in loaded)
        for library, known in LIBRARIES.items()
    }
    return {library: some for library, some in taken.items() if library in loaded and (some or not LIBRARIES[library])}


def script(taken: Mapping[str, Sequence[str]]) -> str:
    """The imports as a user's script has them."""
    return "; ".join(
        f"from {library} import {', '.join(some)}" if some else f"import {library}" for library, some in taken.items()
    )


def check_fewer(theirs: Sequence[str], ours: Collection[str]) -> None:
    """Raises UsageError where bare imports load a module that the command does not and pay for it."""
    if more := [name for name in theirs if name not in ours]:
        raise UsageError(
            f"bare imports load {len(more)} modules that the run does not, {more[0]} first: the two cannot be compared"
        )


def loaded_modules(code: str, arguments: Sequence[str], folder: Path) -> tuple[str, list[str]]:
    """What a process prints, and the modules of installed packages that it has loaded when it ends."""
    target = folder / "loaded.json"
    done = run_process([sys.executable, "-c", f"TARGET = {str(target)!r}\n{_LOADED}\n{code}", *arguments])
    names: list[str] = json.loads(target.read_text("utf-8"))
    return done.output, names


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that ended well."""

    wall: float  # seconds
    cpu: float
    output: str


def run_process(command: Sequence[str]) -> Finished:
    """Runs a process that must succeed.

    Raises:
        UsageError: it fails, with its last line, or takes too long.
    """
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
    return Finished(wall, cpu, done.stdout + done.stderr)
