"""Grids whose cells wait where a test wants to do something to them, and how their runs compare with one process's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small_runs import contents

from rim_bench.storage.run_folder import Store

METHOD = '''"""Direct, which waits late in training as long as a file lies beside it."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rim_bench.baselines.direct import Direct

GATE = Path(__file__).with_name("gate")


@dataclass(frozen=True)
class Waiting(Direct):
    name = "waiting"
    summary = "direct, which waits"

    def lay_train(self, example, stage, progress, rng):
        trains = sys._getframe(1).f_globals["__name__"] == "rim_bench.methods.schedule"  # else: it is only tried
        if trains and progress > 0.6 and GATE.exists():
            here = GATE.with_name(f"at.{os.getpid()}")
            here.write_text(os.environ.get("SLURM_JOB_ID", ""))
            while GATE.exists():
                time.sleep(0.1)
            here.unlink()
        return super().lay_train(example, stage, progress, rng)
'''
SMALL = [
    *("--start", "recipe", "--quick", "--device", "cpu", "--limit", "20", "--examples", "160", "--max-tokens", "4"),
    *("--backbone", "width=32", "--backbone", "layers=1"),
]


def until(look: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """What `look` returns once it is something; AssertionError after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := look():
            return value
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


@dataclass(frozen=True)
class Waiting:
    """A process that waits in its training."""

    pid: int
    job: str  # of Slurm

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


class Cells:
    """Where grids of one method and several seeds are run.

    Args:
        executor: the options that choose one.
        environment: of the commands.
    """

    def __init__(self, folder: Path, executor: list[str], environment: Mapping[str, str]) -> None:
        self.folder, self.executor = folder, executor
        root = str(Path(__file__).parents[2])
        paths = os.pathsep.join((root, os.environ.get("PYTHONPATH", "")))
        self.environment = {**environment, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.method, self.gate = folder / "waiting.py", folder / "gate"
        self.method.write_text(METHOD)
        self.started: list[subprocess.Popen[bytes]] = []
        self.alone = 0.0

    def reference(self, seeds: int) -> None:
        """Makes the runs that all others compare with, in `one`: how long that takes says what to wait for here."""
        began = time.monotonic()
        assert self.start("one", seeds, alone=True).end(1_800) == 0
        self.alone = time.monotonic() - began

    @property
    def patience(self) -> float:
        """Seconds for anything: a busy machine is waited for."""
        return max(120.0, 8 * self.alone)

    def start(self, name: str, seeds: int, *more: str, alone: bool = False) -> Submitter:
        """`rim-bench run` of so many seeds into the folder of that name."""
        command = [sys.executable, "-m", "rim_bench", "run", "--methods", str(self.method), *SMALL]
        command += ["--seeds", ",".join(map(str, range(seeds))), "--out", str(self.folder / name)]
        log = self.folder / f"{name}.{len(self.started)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*command, *([] if alone else self.executor), *more], env=self.environment, stdout=out, stderr=out
            )
        self.started.append(process)
        return Submitter(process, log, self.patience)

    def close_gate(self) -> None:
        """Cells wait from now on."""
        for one in self.folder.glob("at.*"):
            one.unlink()
        self.gate.touch()

    def open_gate(self) -> None:
        """They wait no longer."""
        self.gate.unlink(missing_ok=True)

    def waiting(self, count: int) -> list[Waiting]:
        """The cells that wait, once there are so many; the longest first."""

        def look() -> list[Waiting] | None:
            with suppress(OSError):  # one that ended this moment
                files = sorted(self.folder.glob("at.*"), key=lambda file: file.stat().st_mtime)
                alive = [file for file in files if Path(f"/proc/{file.suffix[1:]}").exists()]
                return [Waiting(int(file.suffix[1:]), file.read_text()) for file in alive]
            return None

        return until(
            lambda: (cells := look()) and len(cells) >= count and cells, f"{count} cells that wait", self.patience
        )

    def runs(self, name: str) -> dict[str, Any]:
        """By run id, all of the evaluated runs that the clock does not change."""
        runs, damaged = Store(self.folder / name).runs()
        assert not damaged
        return {run.id: contents(run) for run in runs if run.evaluations()}

    def jobs(self, name: str) -> list[str]:
        """The jobs that submitit sent."""
        return sorted(path.name.split("_")[0] for path in (self.folder / name / "submitit").glob("*/*_submitted.pkl"))

    def close(self) -> None:
        """Ends what is still under way."""
        self.open_gate()
        for process in self.started:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Submitter:
    """A command under way."""

    process: subprocess.Popen[bytes]
    log: Path
    patience: float  # seconds

    def said(self) -> str:
        return self.log.read_text()

    def says(self, text: str) -> None:
        """Waits until it has said that."""
        until(lambda: text in self.said(), f"{text!r} in {self.log}", self.patience)

    def end(self, seconds: float | None = None) -> int:
        """Its exit code."""
        return self.process.wait(seconds or 1.5 * self.patience)
