"""An executor that does the work in the process of the test."""

from __future__ import annotations

from rim_bench.runs.executors import died
from rim_bench.runs.job import Job, JobResult, execute


class Here:
    """An executor that does the work in this process, a job when it is waited for; processes that die are made up."""

    elsewhere = False
    together = 2

    def __init__(self, dies: dict[str, int] | None = None) -> None:
        self.dies = dict(dies or {})  # by label: how often
        self.began: list[str] = []
        self.queue: list[Job] = []
        self.closed = False

    @property
    def room(self) -> int:
        return 2 - len(self.queue)

    def start(self, job: Job) -> None:
        assert self.room
        self.began.append(job.label)
        self.queue.append(job)

    def wait(self) -> list[tuple[Job, JobResult]]:
        job = self.queue.pop(0)
        if self.dies.get(job.label, 0) > 0:
            self.dies[job.label] -= 1
            return [(job, died("its process was ended by SIGKILL"))]
        return [(job, execute(job))]

    def close(self) -> None:
        self.closed = True
