"""Worker processes that die, fail, or outlive who started them. Light ones:
what a cell does in them is tested beside this file.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from light_work import job, name_of, work
from queues import Queue

from rim_bench.runs.executors import Executor, Local, ended, open_engine
from rim_bench.runs.job import UNKNOWN, Job, JobResult
from rim_bench.runs.options import check_executor
from rim_bench.util.errors import UsageError


@pytest.fixture
def local() -> Iterator[Local]:
    engine = Local(2, work=work)
    yield engine
    engine.close()


def answers(engine: Executor, *jobs: Job) -> dict[str, JobResult]:
    """What became of jobs, by run."""
    for one in jobs:
        engine.start(one)
    out: dict[str, JobResult] = {}
    while len(out) < len(jobs):
        out |= {name_of(one): told for one, told in engine.wait()}
    return out


def test_a_process_that_dies_takes_no_other_with_it(local: Local, tmp_path: Path) -> None:
    found = answers(local, job("kill", "a"), job("sleep 0.5", "b", tmp_path))
    assert (
        found["a"].state == "failed"
        and "ended by SIGKILL" in found["a"].reason
        and "short of memory" in found["a"].reason
    )
    assert found["b"].state == "done" and local.room == 2
    first = found["b"].notes[0]
    again = answers(local, job("who", "a"), job("who", "b"))  # both slots work on, one in a fresh process
    assert {told.state for told in again.values()} == {"done"} and first in {told.notes[0] for told in again.values()}
    assert len({told.notes[0] for told in again.values()} | {str(os.getpid())}) == 3


def test_a_process_that_ends_while_it_has_nothing_to_do_is_replaced(local: Local) -> None:
    first = answers(local, job("who", "a"))["a"].notes[0]
    os.kill(int(first), signal.SIGKILL)
    until(lambda: True if gone(int(first)) else None)
    found = [answers(local, job("who", name))[name] for name in "abc"]
    assert [told.state for told in found] == ["done"] * 3 and first not in {told.notes[0] for told in found}


def test_other_ways_to_end_are_told_apart(local: Local) -> None:
    found = answers(local, job("leave", "a"), job("raise", "b"))
    assert found["a"].reason == "its process ended without an answer (exit code 3)"
    assert (found["b"].state, found["b"].reason) == ("failed", "ValueError: no answer")
    assert (
        ended(None) == "its process ended without an answer"
        and ended(-11).endswith("by SIGSEGV")
        and "signal 63" in ended(-63)
    )


def test_every_worker_sees_one_gpu(tmp_path: Path) -> None:
    engine = Local(3, ("4", "7"), work=work)
    try:
        found = answers(engine, *(job("sleep 0.01", name, tmp_path) for name in "abc"))
    finally:
        engine.close()
    assert [found[name].notes[1] for name in "abc"] == ["4", "7", "4"]


SCRIPT = """
import signal
import sys
from pathlib import Path
from light_work import job, work
from queues import Queue
from rim_bench.runs.executors import Local
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background of a shell
    engine = Local(1, work=work)
    engine.start(job("sleep 60", "a", Path(sys.argv[1])))
    try:
        engine.wait()
    except KeyboardInterrupt:
        engine.close()
        sys.exit(130)
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, -15), (signal.SIGINT, 130)])
def test_no_worker_outlives_who_started_it(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    tests = Path(__file__).parents[1]
    paths = [
        *(str(folder) for folder in (tests / "helpers", tests / "runs", tests)),
        str(Path(__file__).parents[2]),
        os.environ.get("PYTHONPATH", ""),
    ]
    parent = subprocess.Popen(
        [sys.executable, script, tmp_path], env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    )
    worker = int(until(lambda: (tmp_path / "a.pid").read_text() or None))
    parent.send_signal(sent)
    assert parent.wait(20) == code
    until(lambda: True if gone(worker) else None)


def until(look: object) -> str:
    """Waits for an answer, at most half a minute."""
    assert callable(look)
    for _ in range(600):
        with contextlib.suppress(OSError):
            if (found := look()) is not None:
                return str(found)
        time.sleep(0.05)
    raise AssertionError("nothing came")


def gone(pid: int) -> bool:
    """Whether no process of that number does anything; where nobody waits for it, it stays as a zombie."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_what_an_engine_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown executor 'submitt': .* did you mean 'submitit'"):
        check_executor("submitt", None, {})
    with pytest.raises(UsageError, match="--workers 0 is too small"):
        check_executor("local", 0, {})
    with pytest.raises(UsageError, match="num_cpus=2 is for submitit and ray"):
        check_executor("local", None, {"num_cpus": 2})
    for name in ("submitit", "ray"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UsageError, match=rf"not installed: pip install 'rim-bench\[{name}\]'"):
            open_engine(name, None, {}, folder=tmp_path, gpu=False, gpus=())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["submitit", "ray"])
def test_a_job_that_a_queue_does_not_take_is_a_job_that_died(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    queue = Queue({"bad": 1}, work)
    monkeypatch.setitem(sys.modules, name, queue)
    engine = open_engine(name, 2, {}, folder=tmp_path, gpu=False, gpus=())
    for one in (job("bad", "a"), job("who", "b")):
        engine.start(one)
    assert engine.room == 0  # a lost one has its place until it is told
    found = {name_of(one): told for _ in range(2) for one, told in engine.wait()}
    assert (found["a"].state, found["b"].state) == ("failed", "done") and engine.room == 2
    assert found["a"].reason.startswith(f"{name} could not start it: ") and found["a"].reason.endswith(
        "invalid partition specified: gpuu"
    )
    assert answers(engine, job("bad", "a"))["a"].state == "done" and queue.asked == ["bad", "who", "bad"]
    engine.close()


def test_pickles_that_lie_in_a_results_folder_are_none_of_a_queues(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """submitit loads `NUMBER_0_result.pkl` of its folder, and a queue's next numbers can be guessed."""
    queue = Queue(work=work)
    monkeypatch.setitem(sys.modules, "submitit", queue)
    (tmp_path / "1_0_result.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    for _ in range(2):
        engine = open_engine("submitit", 2, {}, folder=tmp_path, gpu=False, gpus=())
        assert not queue.folders[-1].exists()  # nothing is made before a job is sent
        assert answers(engine, job("who", "a"))["a"].state == "done"
    first, second = queue.folders
    assert first != second and {first.parent, second.parent} == {tmp_path}
    assert [path.stat().st_mode & 0o777 for path in (first, second)] == [0o700] * 2
    assert [*first.iterdir(), *second.iterdir()] == []


@pytest.mark.parametrize(
    ("name", "workers", "settings", "cells"),
    [
        ("submitit", None, {}, UNKNOWN),
        ("submitit", 8, {"slurm_partition": "gpu", "slurm_exclusive": "user"}, UNKNOWN),
        ("submitit", 8, {"slurm_exclusive": True}, 1),
        ("submitit", 1, {}, 1),
        ("submitit", 3, {"cluster": "local"}, 3),
        ("ray", None, {"address": "auto"}, UNKNOWN),
        ("ray", 1, {"address": "auto"}, 1),
        ("ray", 3, {}, 3),
    ],
)
def test_an_engine_knows_how_many_cells_share_a_machine_or_says_that_it_does_not(
    name: str,
    workers: int | None,
    settings: dict[str, Any],
    cells: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, name, Queue())
    assert open_engine(name, workers, settings, folder=tmp_path, gpu=False, gpus=()).together == cells
