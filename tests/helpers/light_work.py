"""What worker processes of the engine's tests do: nothing that needs torch. A job's label says what."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from rim_bench.data.task import load_task
from rim_bench.methods.schedule import TrainingPlan
from rim_bench.runs.job import Job, JobResult
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import PlannedRun
from rim_bench.runs.study import StudySetting
from rim_bench.storage.records import RunSpec

DIRECT = "from rim_bench.baselines.direct import Direct"
MORTAL = f'''"""Direct, in a process that is killed late in training, as often as the file beside it says."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

{DIRECT}

ARMED = Path(__file__).with_suffix(".armed")


@dataclass(frozen=True)
class Mortal(Direct):
    name = "mortal"
    summary = "dies"

    def lay_train(self, example, stage, progress, rng):
        trains = sys._getframe(1).f_globals["__name__"] == "rim_bench.methods.schedule"  # else: it is only tried
        left = int(ARMED.read_text()) if trains and ARMED.exists() else 0
        if left and progress > 0.6:
            ARMED.write_text(str(left - 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().lay_train(example, stage, progress, rng)
'''


def job(label: str, run: str = "run", folder: Path = Path()) -> Job:
    """A job whose run has that name."""
    study = StudySetting(Options(methods=("direct",), task="chain"), load_task("chain"), "recipe", {}, "cpu")
    spec = {"method": {"name": run}, "task": {"name": "chain"}}
    return Job(PlannedRun(study, RunSpec.from_json(spec), TrainingPlan(examples=32)), label, folder)


def name_of(job: Job) -> str:
    return job.planned.spec.method.name


def work(job: Job) -> JobResult:
    """`kill` ends the process, `raise` fails, `big` cannot be sent, `sleep N` takes N seconds, all others say who and
    where they are.
    """
    what, _, value = job.label.partition(" ")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "leave":
        os._exit(3)
    if what == "raise":
        raise ValueError("no answer")
    if what == "sleep":
        (Path(job.folder) / f"{name_of(job)}.pid").write_text(str(os.getpid()))
        time.sleep(float(value))
    return JobResult("done", (str(os.getpid()), os.environ.get("CUDA_VISIBLE_DEVICES", "all")))
