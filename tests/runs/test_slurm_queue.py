"""What is made of the words of Slurm's queue, whose `squeue` is a script here; tests/engines/ has the real one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from light_work import job, work
from queues import Queue

from rim_bench.runs import slurm_queue
from rim_bench.runs.executors import Submitit, open_engine
from rim_bench.runs.slurm_queue import JobState, SlurmQueue


class Squeue:
    """Prints what a test writes; without that it fails as where no controller answers."""

    def __init__(self, folder: Path) -> None:
        self.says = folder / "says"
        script = folder / "squeue"
        script.write_text(f"#!/bin/sh\ncat {self.says} 2>/dev/null || {{ echo 'slurm: no controller' >&2; exit 1; }}\n")
        script.chmod(0o755)

    def set(self, *lines: str) -> None:
        self.says.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Squeue:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm_queue, "LOOK", 0.0)
    return Squeue(tmp_path)


def test_a_job_has_ended_when_two_looks_say_so(squeue: Squeue) -> None:
    queue = SlurmQueue(print)
    squeue.set("1|RUNNING|None", "2|FAILED|NonZeroExitCode", "3|SUSPENDED|None", "4|CONFIGURING|None")
    jobs = ["1", "2", "3", "4", "5"]
    assert queue.ended(jobs) == set() and queue.ended(jobs) == {"2", "5"}
    assert queue.state("2").words() == "ended without an answer (FAILED, NonZeroExitCode)"
    assert queue.state("5").words() == "has left the queue without an answer"
    squeue.set("1|PENDING|BeginTime")  # begun again; the others are forgotten, and 2 is known to have failed
    assert queue.ended(["1", "2", "3"]) == {"2"} and queue.ended(["1", "2", "3"]) == {"2", "3"}
    assert queue.state("2") == JobState("FAILED", "NonZeroExitCode")


def test_a_controller_that_does_not_answer_ends_no_job_and_is_noted_once(squeue: Squeue) -> None:
    notes: list[str] = []
    queue = SlurmQueue(notes.append)
    assert [queue.ended(["1"]) for _ in range(3)] == [set()] * 3
    squeue.set()
    assert queue.ended(["1"]) == set() and queue.ended(["1"]) == {"1"}
    assert notes == [
        "Slurm does not answer (slurm: no controller): what computes goes on, and is waited for",
        "Slurm answers again",
    ]


def test_what_is_held_back_is_noted_once_a_reason(squeue: Squeue) -> None:
    notes: list[str] = []
    queue = SlurmQueue(notes.append)
    squeue.set("1|PENDING|Priority", "2|PENDING|PartitionTimeLimit", "3|PENDING|PartitionTimeLimit", "9|PENDING|Held")
    for _ in range(3):
        assert queue.ended(["1", "2", "3"]) == set()
    assert notes == ["Slurm holds back 2 of the jobs (PartitionTimeLimit), job 2 among them"]


@pytest.mark.parametrize(
    ("said", "state", "reason"),
    [
        ("7|FAILED|NonZeroExitCode", "failed", "its job 7 ended without an answer (FAILED, NonZeroExitCode)"),
        ("7|NODE_FAIL|NodeDown", "failed", "its job 7 ended without an answer (NODE_FAIL, NodeDown)"),
        ("7|CANCELLED|None", "refused", "its job 7 was cancelled"),
        ("8|RUNNING|None", "failed", "its job 7 has left the queue without an answer"),
    ],
)
def test_a_job_that_ends_without_an_answer_says_how(
    said: str, state: str, reason: str, squeue: Squeue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = slurm_engine(monkeypatch, tmp_path)
    engine.busy = [(unanswered("7"), job("who"))]
    squeue.set(said)
    ((_, result),) = engine.wait()
    assert (result.state, result.reason) == (state, f"{reason}; its log: log")


def test_a_full_queue_is_tried_again_when_a_job_has_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    engine = slurm_engine(monkeypatch, tmp_path, Queue({"b": 1}, work))
    for label in ("a", "b"):
        assert engine.room
        engine.start(job(label, label))
    assert engine.room == 0
    (put_off,), (done,) = engine.wait(), engine.wait()
    assert (put_off[0].label, put_off[1].state, done[0].label, done[1].state) == ("b", "put off", "a", "done")
    assert put_off[1].reason.startswith("submitit could not start it: ") and engine.room
    engine.start(job("b", "b"))
    assert [result.state for _, result in engine.wait()] == ["done"]


def slurm_engine(monkeypatch: pytest.MonkeyPatch, folder: Path, queue: Queue | None = None) -> Submitit:
    monkeypatch.setitem(sys.modules, "submitit", queue or Queue())
    engine = open_engine("submitit", None, {}, folder=folder, gpu=False, gpus=())
    assert isinstance(engine, Submitit)
    return engine


def unanswered(number: str) -> Any:
    """A job of submitit without a result."""
    answer = SimpleNamespace(exists=lambda: False)
    paths = SimpleNamespace(stderr="log", folder=Path("no-such"), result_pickle=answer)
    return SimpleNamespace(job_id=number, paths=paths)
