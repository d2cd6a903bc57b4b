"""Memory of training: the peak of a few optimizer steps over what was there before, each method in its own process."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

import torch

from rim_bench.bench.arms import Bench
from rim_bench.bench.record import Line, Spread
from rim_bench.bench.session import check_rounds
from rim_bench.engine.devices import peak_memory, reset_peak
from rim_bench.runs.options import Options
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record

STEPS = 3
REFERENCE = "cot"
LIMIT = 900  # seconds that one process may take


@dataclasses.dataclass(frozen=True, slots=True)
class MemoryTask:
    """What one process does: `steps` optimizer steps of round `k`; `plain` in the plain loop."""

    method: str
    k: int
    steps: int = STEPS
    plain: bool = False


def memory_lines(options: Options, methods: Sequence[str], rounds: int, against: Sequence[str] = ()) -> list[Line]:
    """Bytes of each method over cot's on the same examples; a process each, first and last in turn.

    Raises:
        UsageError: fewer than one round, or a process that failed, with its own words.
    """
    check_rounds(rounds)
    tasks = [MemoryTask(name, 0) for name in dict.fromkeys((REFERENCE, *methods))]
    if "plain" in against:
        tasks.insert(1, MemoryTask(REFERENCE, 0, plain=True))
    records: dict[tuple[str, bool], list[Record]] = {(t.method, t.plain): [] for t in tasks}
    for k in range(1, rounds + 1):
        for task in tasks if k % 2 else reversed(tasks):
            records[task.method, task.plain].append(measure_in_process(options, dataclasses.replace(task, k=k)))
    peaks = {key: Spread(tuple(float(r["bytes"]) for r in rounds)) for key, rounds in records.items()}
    base = peaks[REFERENCE, False]
    out = []
    for (name, plain), ours in peaks.items():
        more = {"resident_before": Spread(tuple(float(r["before"]) for r in records[name, plain]))}
        if name == REFERENCE and not plain:
            out.append(Line(name, "nothing", "bytes", ours, more=more))
        else:
            out.append(Line(f"plain {name} loop" if plain else name, REFERENCE, "bytes", ours, base, ours / base, more))
    return out


def measure_in_process(options: Options, task: MemoryTask) -> Record:
    """What `measure_here` returns in a new process."""
    command = [sys.executable, "-m", "rim_bench.bench.memory"]
    request = pickle.dumps((options, dataclasses.astuple(task), torch.get_num_threads()))
    try:
        done = subprocess.run(command, input=request, capture_output=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"the process that measures the memory of {task.method} took more than {LIMIT} s: give a smaller model"
        ) from None
    if done.returncode:
        reason = (done.stderr.decode().strip().splitlines() or ["it said nothing"])[-1]
        raise UsageError(f"the process that measures the memory of {task.method} failed: {reason}")
    answer: Record = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure_here(bench: Bench, task: MemoryTask) -> Record:
    """Bytes of the peak over what was there before the first step; model, rows and optimizer were there."""
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
    options, task, threads = pickle.load(sys.stdin.buffer)
    torch.set_num_threads(threads)
    try:
        print(json.dumps(measure_here(Bench(options), MemoryTask(*task))))
    except UsageError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
