"""submitit and ray, as far as engines use them: they do the work at once, and refuse a job as often as they are
told.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rim_bench.runs.job import Job, JobResult

Work = Callable[[Job], JobResult]


class _Task:
    """A job that is done."""

    job_id = "1"

    def __init__(self, told: JobResult) -> None:
        self.told = told
        answer = SimpleNamespace(exists=lambda: True)
        self.paths = SimpleNamespace(stderr="log", folder=Path("no-such"), result_pickle=answer)

    def done(self) -> bool:
        return True

    def result(self) -> JobResult:
        return self.told

    def cancel(self, *, check: bool) -> None:
        pass


class Queue:
    """Stands for either module in `sys.modules`.

    Args:
        refuses: by label, how often a job is not taken.
        work: what is done instead of what is handed over; None: that.
    """

    def __init__(self, refuses: dict[str, int] | None = None, work: Work | None = None, cluster: str = "slurm") -> None:
        self.refuses, self.work, self.cluster = dict(refuses or {}), work, cluster
        self.asked: list[str] = []
        self.folders: list[Path] = []
        self.head = socket.create_server(("127.0.0.1", 0))

    def submit(self, work: Work, job: Job) -> _Task:
        self.asked.append(job.label)
        if self.refuses.get(job.label, 0) > 0:
            self.refuses[job.label] -= 1
            raise RuntimeError(
                "sbatch: error: invalid partition specified: gpuu\nsbatch: error: Batch job submission failed"
            )
        return _Task((self.work or work)(job))

    # submitit

    def AutoExecutor(self, folder: str, cluster: str | None) -> Queue:
        self.cluster = cluster or self.cluster
        self.folders.append(Path(folder))
        return self

    def update_parameters(self, **given: Any) -> None:
        pass

    # ray

    def remote(self, **given: Any) -> Callable[[Work], Any]:
        return lambda work: SimpleNamespace(remote=lambda job: self.submit(work, job))

    def is_initialized(self) -> bool:
        return False

    def init(self, **given: Any) -> None:
        pass

    def get_runtime_context(self) -> SimpleNamespace:
        return SimpleNamespace(gcs_address=f"127.0.0.1:{self.head.getsockname()[1]}")

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 2.0}}]

    def wait(self, tasks: Sequence[_Task], num_returns: int, timeout: float) -> tuple[list[_Task], list[_Task]]:
        return list(tasks[:num_returns]), list(tasks[num_returns:])

    def get(self, task: _Task) -> JobResult:
        return task.result()

    def cancel(self, task: _Task, *, force: bool) -> None:
        pass

    def shutdown(self) -> None:
        pass
