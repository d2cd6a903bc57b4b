"""Memory of training: the peak of a few optimizer steps over what was there before, each method in a process of its
own.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from rim_bench.bench.arms import Bench
from rim_bench.bench.record import Line
from rim_bench.bench.session import Spread, check_rounds
from rim_bench.engine.devices import peak_memory, reset_peak
from rim_bench.runs.options import Options
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record

STEPS = 3
REFERENCE = "cot"
AGAINST = ("plain",)
LIMIT = 900  # seconds that one process may take


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """What one process does: `steps` optimizer steps of round `k`; `plain` in the plain loop."""

    method: str
    k: int
    steps: int = STEPS
    plain: bool = False


def memory_lines(options: Options, methods: Sequence[str], rounds: int, against: Sequence[str] = ()) -> list[Line]:
    """Bytes of each method over cot's, both on the same examples; a process each, in turns about who goes first.

    Raises:
        UsageError: fewer than one round, or a process that failed, with its own words.
    """
    check_rounds(rounds)
    tasks = [Task(name, 0) for name in dict.fromkeys((REFERENCE, *methods))]
    if "plain" in against:
        tasks.insert(1, Task(REFERENCE, 0, plain=True))
    found: dict[tuple[str, bool], list[Record]] = {(t.method, t.plain): [] for t in tasks}
    for k in range(1, rounds + 1):
        for task in tasks if k % 2 else reversed(tasks):
            found[task.method, task.plain].append(_measured(options, dataclasses.replace(task, k=k)))
    base = Spread(tuple(r["bytes"] for r in found[REFERENCE, False]))
    out = []
    for (name, plain), records in found.items():
        ours = Spread(tuple(float(r["bytes"]) for r in records))
        more = {"resident_before": Spread(tuple(float(r["before"]) for r in records))}
        if name == REFERENCE and not plain:
            out.append(Line(name, "nothing", "bytes", ours, more=more))
        else:
            out.append(Line(f"plain {name} loop" if plain else name, REFERENCE, "bytes", ours, base, ours / base, more))
    return out


def _measured(options: Options, task: Task) -> Record:
    """One process's answer."""
    request = {"options": told(options), "task": dataclasses.asdict(task), "threads": torch.get_num_threads()}
    command = [sys.executable, "-m", "rim_bench.bench.memory"]
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"the process that measures the memory of {task.method} took more than {LIMIT} s: give a smaller model"
        ) from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UsageError(f"the process that measures the memory of {task.method} failed: {reason}")
    answer: Record = json.loads(done.stdout.splitlines()[-1])
    return answer


_FIELDS = (
    "methods",
    "task",
    "model",
    "files",
    "steps",
    "limit",
    "start",
    "examples",
    "batch_size",
    "settings",
    "backbone",
    "tuning",
    "device",
    "allow_changed_data",
    "quick",
)


def told(options: Options) -> dict[str, Any]:
    """The options that a measurement depends on, as plain data."""
    return {name: getattr(options, name) for name in _FIELDS} | {
        "data": None if options.data is None else str(options.data.resolve())
    }


def heard(given: dict[str, Any]) -> Options:
    """What `told` told."""
    data = given["data"]
    return Options(**(given | {"methods": tuple(given["methods"]), "data": None if data is None else Path(data)}))


def measure(bench: Bench, task: Task) -> Record:
    """In this process: bytes of the peak over what was there before the first step, model, rows and optimizer included
    there.
    """
    arm = bench.arm(task.method)
    job = arm.train_plain(task.steps) if task.plain else arm.train(task.steps)
    work = job.prepare(task.k)
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed must not hide what is taken
    reset_peak(bench.device)
    before = peak_memory(bench.device)
    work()
    return {"bytes": peak_memory(bench.device) - before, "before": before}


def main() -> None:
    """A request on standard input, its answer on standard output."""
    request = json.load(sys.stdin)
    torch.set_num_threads(int(request["threads"]))
    try:
        print(json.dumps(measure(Bench(heard(request["options"])), Task(**request["task"]))))
    except UsageError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
