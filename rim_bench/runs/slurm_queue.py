"""What Slurm's queue says of jobs.

submitit asks its accounting (sacct), which many clusters do not have: a job that was killed or cancelled there would be
waited for without end.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

LOOK = 10.0  # seconds between two looks, which a controller with many users bears
UNDER_WAY = {
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"),
    *("REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD", "REVOKED"),
}
ORDINARY = {"None", "Priority", "Resources", "BeginTime"}  # why a job is pending that will begin by itself


@dataclass(frozen=True)
class JobState:
    """What the queue says of a job.

    Attributes:
        state: Slurm's word; "" of a job that it has forgotten, as it does minutes after the end.
        reason: Slurm's word for why it is so.
    """

    state: str = ""
    reason: str = "None"

    @property
    def ended(self) -> bool:
        return self.state not in UNDER_WAY

    def words(self) -> str:
        """For a sentence about a job that has ended."""
        if not self.state:
            return "has left the queue without an answer"
        return f"ended without an answer ({self.state}{'' if self.reason == 'None' else f', {self.reason}'})"


class SlurmQueue:
    """Looks at the user's jobs now and then.

    Args:
        note: takes a line where the queue does not answer, or holds jobs back.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note
        self.jobs: dict[str, JobState] = {}
        self.looked = float("-inf")
        self.ended_before: set[str] = set()
        self.noted: set[str] = set()
        self.silent = False

    def ended(self, jobs: Collection[str]) -> set[str]:
        """Those that two looks in turn saw ended: an answer may come to this machine later than the end."""
        if time.monotonic() - self.looked < LOOK or not self._look():
            return set()
        ended = {job for job in jobs if self.state(job).ended}
        twice, self.ended_before = ended & self.ended_before, ended
        held = [job for job in jobs if self.state(job).state == "PENDING" and self.state(job).reason not in ORDINARY]
        for reason in sorted({self.state(job).reason for job in held} - self.noted):
            self.noted.add(reason)
            which = [job for job in held if self.state(job).reason == reason]
            self.note(f"Slurm holds back {len(which)} of the jobs ({reason}), job {which[0]} among them")
        return twice

    def state(self, job: str) -> JobState:
        """As of the last look."""
        return self.jobs.get(job, JobState())

    def _look(self) -> bool:
        command = ["squeue", "--me", "--noheader", "--states=all", "--format=%A|%T|%r"]
        try:
            out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        except (OSError, subprocess.SubprocessError) as error:
            said = str(getattr(error, "stderr", None) or error).strip().splitlines()
            if not self.silent:
                self.note(f"Slurm does not answer ({said[-1]}): what computes goes on, and is waited for")
            self.silent = True
            return False
        finally:
            self.looked = time.monotonic()
        if self.silent:
            self.note("Slurm answers again")
        self.silent = False
        lines = (line.split("|") for line in out.splitlines())
        ended = {job: state for job, state in self.jobs.items() if state.ended}  # Slurm forgets them
        self.jobs = ended | {job: JobState(state, reason) for job, state, reason in lines}
        return True
