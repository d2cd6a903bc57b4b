"""Run folders: written once, verified when read, safe to kill at any moment.

    <root>/runs/<id>/
      spec.json                  what the run is; its hash is in the id
      environment.json           versions, commit, hardware, argv of every start
      train.jsonl(.xz)           one record per optimizer step, compressed when training is done
      train.json                 the summary of training
      checkpoints/step-00000100/ newest complete checkpoint, with manifest.json
      model/                     final weights with manifest.json; its existence means "trained"
      eval/<key>/                items.jsonl.gz, then summary.json; its existence means "evaluated"

Every file and folder appears under its name only when it is complete. What does not match its hash is named, not
trusted. This module imports neither torch nor transformers.

What a run was to be evaluated on and was not, with the reason: `not_evaluated.json` in its folder, so that no table
forgets it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rim_bench.storage.evaluations import Evaluations
from rim_bench.storage.records import (
    CandidateItem,
    EvaluationRecord,
    FingerprintRecord,
    ItemRecord,
    LmEvalItem,
    LmEvalRecord,
    RunSpec,
    TrainingRecord,
)
from rim_bench.storage.step_log import StepLog
from rim_bench.util.errors import UsageError, unknown
from rim_bench.util.files import (
    Record,
    canonical,
    complete_folder,
    damage_of,
    finite,
    fsync,
    read_json,
    write_bytes_atomic,
    write_json_atomic,
    writing,
)
from rim_bench.util.progress import phase

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
_STEP = re.compile(r"step-(\d{8,})")
CANDIDATES = "candidates"  # folder in a run's own: weights of its candidates, and their answers
NOT_EVALUATED = "not_evaluated.json"
_LOOKED = ": looked for "


class RunInUse(UsageError):
    """Another process holds the run."""


@dataclass(frozen=True)
class Damaged:
    """A run folder that is not to be trusted, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Omission:
    """Why a run was not evaluated on a set."""

    reason: str
    places: str | None = None  # where the set's files were looked for; None where they were not

    @staticmethod
    def of(stored: str) -> Omission:
        """From what the file has."""
        reason, looked, places = stored.partition(_LOOKED)
        return Omission(reason, places if looked else None)

    def text(self) -> str:
        """What the file has."""
        return self.reason + ("" if self.places is None else f"{_LOOKED}{self.places}")


@dataclass(frozen=True)
class Run:
    """The folder of one run. `Store.open` and `Store.find` make it; reading never changes the folder."""

    path: Path

    @property
    def id(self) -> str:
        """The folder's name: `spec_id` of its spec."""
        return self.path.name

    @cached_property
    def spec(self) -> RunSpec:
        """The specification. Raises UsageError where it is missing or damaged."""
        return RunSpec.from_json(read_json(self.path / "spec.json"))

    def check(self, spec: RunSpec | Mapping[str, Any]) -> None:
        """Refuses a run that is no row of any table.

        Raises:
            UsageError: the folder's spec.json is another than this one, or it or train.json cannot be read.
        """
        try:
            same = canonical(self.spec.to_json()) == canonical(spec.to_json() if isinstance(spec, RunSpec) else spec)
            self.training()
        except UsageError as error:
            raise UsageError(
                f"run folder {str(self.path)!r} is damaged ({error}): move it away to start that run again"
            ) from None
        if not same:
            raise UsageError(
                f"run folder {str(self.path)!r} is damaged: its spec.json is not the one its name stands for; move it "
                "away"
            )

    def verify(self) -> None:
        """Raises UsageError for the first thing in the folder that cannot be trusted; an unfinished run is fine."""
        try:
            expected = self.spec.id
        except ValueError as error:
            raise UsageError(f"{str(self.path / 'spec.json')!r} is damaged: {error}") from None
        if self.id != expected:
            raise UsageError(f"run folder {str(self.path)!r} does not carry the id of its spec.json, {expected!r}")
        self.metrics()
        self.training()
        self.evaluations()
        if (self.path / "model").is_dir() and (damage := damage_of(self.path / "model", contents=False)) is not None:
            raise UsageError(f"model {str(self.path / 'model')!r} is damaged: {damage}")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the run for this process, which may enter it again; the kernel frees it when the process dies.

        Raises:
            RunInUse: at once, where another process holds it.
            UsageError: a link in the folder, through which a file elsewhere would be written or removed.
        """
        from filelock import FileLock, Timeout

        lock, holder = FileLock(self.path / "lock", timeout=0, is_singleton=True), self.path / "lock.pid"
        _refuse_links((self.path / "lock", holder))
        with writing(self.path / "lock"):
            try:
                lock.acquire()
            except Timeout:
                pid, _, machine = (holder.read_text().strip() if holder.is_file() else "").partition(" ")
                where = f" on {machine}" if machine not in ("", socket.gethostname()) else ""
                owner = f"another process (pid {pid}{where})" if pid else "another process"
                raise RunInUse(f"{owner} works on {str(self.path)!r}: wait for it or end it") from None
        try:
            _refuse_links(self.path.rglob("*"))  # no other process adds or removes files any more
            write_bytes_atomic(holder, f"{os.getpid()} {socket.gethostname()}\n".encode())
            yield
        finally:
            if lock.lock_counter == 1:
                holder.unlink(missing_ok=True)
            lock.release()

    def in_use(self) -> str | None:
        """Which other process holds the run, as a sentence; None where none does."""
        if (self.path / "lock.pid").exists():  # that of a process that was killed may have stayed
            try:
                with self.lock():
                    pass
            except RunInUse as error:
                return str(error)
            except UsageError:
                return None  # who works on it next is told
        return None

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Stores the environment of this start; those of earlier starts stay under `earlier`."""
        path = self.path / "environment.json"
        before = read_json(path) if path.is_file() else None
        earlier = [] if before is None else [*before.pop("earlier", []), before]
        write_json_atomic(path, {**environment, **({"earlier": earlier} if earlier else {})})

    @property
    def task_file(self) -> Record | None:
        """Path and sha256 of the YAML of one's own task that it was trained on; None where nothing is said of one."""
        path = self.path / "environment.json"
        file = read_json(path).get("task_file") if path.is_file() else None
        return file if isinstance(file, dict) else None

    def _starts(self, key: str) -> tuple[Any, ...]:
        """What environment.json has under a key, of every start that has it, oldest first; equal ones once."""
        path = self.path / "environment.json"
        newest = read_json(path) if path.is_file() else {}
        stored = [canonical(start[key]) for start in (*newest.get("earlier", ()), newest) if start.get(key) is not None]
        return tuple(map(json.loads, dict.fromkeys(stored)))

    def fingerprints(self) -> tuple[FingerprintRecord, ...]:
        """What decided the last bit, of every start that differed; empty where none was recorded."""
        return tuple(map(FingerprintRecord.from_json, self._starts("fingerprint")))

    def commits(self) -> tuple[str, ...]:
        """The commits of rim-bench that trained it, in short, a changed tree with a +; empty outside of one."""
        return tuple(f"{git['commit'][:7]}{'+' if git['dirty'] else ''}" for git in self._starts("git"))

    # Training

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Adds one line to train.jsonl; numbers that are not finite become null. A line is there whole or not at all.

        Raises:
            UsageError: disk full or not writable; the file is then as it was.
        """
        self._steps.append(record)

    @property
    def _steps(self) -> StepLog:
        return StepLog(self.path)

    def metrics(self) -> list[Record]:
        """All complete records of train.jsonl. Raises UsageError naming the line that cannot be read."""
        return self._steps.read()

    def truncate_metrics(self, step: int) -> None:
        """Drops the records with `record["step"]` > `step`; a record's step is the number of steps done with it.

        Called before training resumes from the checkpoint of `step`, or with 0 before it starts over.
        """
        self._steps.truncate(step)

    @contextmanager
    def checkpoint(self, step: int, needed: int = 0) -> Iterator[Path]:
        """Yields an empty folder for a checkpoint, which counts once the block ends; older ones are then removed.

        Args:
            needed: bytes that it takes.

        Raises:
            UsageError: disk full or not writable; the older checkpoint is then still there.
        """
        folder = self.path / "checkpoints"
        target = folder / f"step-{step:08d}"
        with complete_folder(target, needed) as temporary:
            yield temporary
            self._steps.sync()  # a checkpoint never knows more steps than the record of them
        for other in folder.iterdir():
            if other != target:
                shutil.rmtree(other) if other.is_dir() else other.unlink()

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        """Step and folder of the newest checkpoint whose files match its manifest; a damaged one is logged."""
        folder = self.path / "checkpoints"
        folders = folder.iterdir() if folder.is_dir() else ()
        checkpoints = [(int(m[1]), path) for path in folders if (m := _STEP.fullmatch(path.name))]
        for step, path in sorted(checkpoints, reverse=True):
            if (damage := damage_of(path)) is None:
                return step, path
            log.warning("checkpoint %s is damaged and not used: %s", path, damage)
        return None

    def damaged_checkpoint(self) -> Path | None:
        """The newest checkpoint where none is sound; None where one is, or there is none at all."""
        folder = self.path / "checkpoints"
        steps = sorted(p for p in (folder.iterdir() if folder.is_dir() else ()) if _STEP.fullmatch(p.name))
        return steps[-1] if steps and self.latest_checkpoint() is None else None

    def remove_checkpoints(self) -> None:
        """Frees the disk of checkpoints, which a trained run no longer needs."""
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    def finish(
        self, write: Callable[[Path], None], training: TrainingRecord | Mapping[str, Any] | None = None, needed: int = 0
    ) -> None:
        """Stores the training summary, then what `write` puts into a folder, as `model/`: the run is trained.

        Args:
            needed: bytes that the folder takes.

        Raises:
            UsageError: disk full or not writable; the run is then not trained, and its checkpoint still there.
        """
        if training is not None:
            value = training.to_json() if isinstance(training, TrainingRecord) else training
            write_json_atomic(self.path / "train.json", finite(value))
        self._steps.compress()
        with complete_folder(self.path / "model", needed) as temporary:
            write(temporary)

    @property
    def trained(self) -> bool:
        """Whether `model/` has the files and sizes of its manifest; `model_path` compares the contents too."""
        return (self.path / "model").is_dir() and damage_of(self.path / "model", contents=False) is None

    def model_path(self) -> Path:
        """The folder of the final weights, every file verified.

        Raises:
            UsageError: not trained yet, or damaged.
        """
        path = self.path / "model"
        if not path.is_dir():
            raise UsageError(
                f"run {str(self.path)!r} is not trained yet: it has no model/; the same command again goes on with it"
            )
        if (damage := damage_of(path)) is not None:
            raise UsageError(f"model {str(path)!r} is damaged: {damage}; delete that folder to have it written again")
        return path

    def training(self) -> TrainingRecord | None:
        """The training summary (train.json), or None."""
        path = self.path / "train.json"
        return TrainingRecord.from_json(read_json(path)) if path.is_file() else None

    # Evaluation

    @property
    def own_evaluations(self) -> Evaluations[EvaluationRecord, ItemRecord]:
        """The run's evaluations on tasks of rim-bench."""
        return Evaluations(self.path / "eval", EvaluationRecord, ItemRecord)

    @property
    def candidate_evaluations(self) -> Evaluations[EvaluationRecord, CandidateItem]:
        """What its candidates answered, of which the test questions choose one: rows of no comparison."""
        return Evaluations(self.path / CANDIDATES / "eval", EvaluationRecord, CandidateItem)

    @property
    def lm_eval_evaluations(self) -> Evaluations[LmEvalRecord, LmEvalItem]:
        """The run's evaluations on tasks of lm-eval's own: rows of no comparison."""
        return Evaluations(self.path / "lm_eval" / "eval", LmEvalRecord, LmEvalItem)

    def write_evaluation(
        self, key: str, items: Sequence[ItemRecord | Mapping[str, Any]], summary: EvaluationRecord | Mapping[str, Any]
    ) -> EvaluationRecord:
        """Stores an evaluation (`Evaluations.write`)."""
        return self.own_evaluations.write(key, items, summary)

    def evaluation(self, key: str) -> EvaluationRecord | None:
        """The summary of a complete evaluation, or None. Raises UsageError where its files do not fit together."""
        return self.own_evaluations.read(key)

    def evaluations(self) -> dict[str, EvaluationRecord]:
        """Key -> summary of every complete evaluation, by key. Raises UsageError where one is damaged."""
        return self.own_evaluations.all()

    def read_items(self, key: str) -> list[ItemRecord]:
        """The items of an evaluation, in the order they were written (`Evaluations.items`)."""
        return self.own_evaluations.items(key)

    def items(self, key: str | None = None) -> pd.DataFrame:
        """One row a question of an evaluation: the fields of an ItemRecord, and whatever else the file has.

        Args:
            key: its folder's name, as `evaluations` has it; None: the only one.

        Raises:
            UsageError: no such evaluation, several where no key says which, or a damaged one.
        """
        import pandas as pd

        stored = self.evaluations()
        if key is None and len(stored) != 1:
            allowed = ", ".join(stored) or "none is stored"
            raise UsageError(f"run {self.id!r} has {len(stored)} evaluations: give the key of one ({allowed})")
        if key is not None and key not in stored:
            raise unknown(f"evaluation of run {self.id!r}", key, stored)
        return pd.DataFrame([item.to_json() for item in self.read_items(key or next(iter(stored)))])

    # What it was to be evaluated on

    def not_evaluated(self) -> dict[str, Omission]:
        """Set -> why the run was not evaluated on it. Raises UsageError where the file is damaged."""
        path = self.path / NOT_EVALUATED
        if not path.is_file():
            return {}
        sets = read_json(path).get("sets")
        if not isinstance(sets, dict):
            raise UsageError(f"{str(path)!r} is damaged: it has no sets; delete it")
        return {str(name): Omission.of(str(reason)) for name, reason in sets.items()}

    def record_not_evaluated(self, missing: Mapping[str, str], evaluated: Iterable[str]) -> None:
        """Adds what is missing and takes out what has been evaluated since."""
        before = {name: omission.text() for name, omission in self.not_evaluated().items()}
        now = {k: v for k, v in {**before, **missing}.items() if k not in set(evaluated)}
        if now != before:
            write_json_atomic(self.path / NOT_EVALUATED, {"schema": 1, "sets": now})


def _refuse_links(paths: Iterable[Path]) -> None:
    if (link := next((path for path in paths if path.is_symlink()), None)) is not None:
        raise UsageError(
            f"{str(link)!r} is a link: a run is written into its own folder only, so put in its place what it leads to"
        )


@dataclass(frozen=True)
class Store:
    """All runs under one results folder: `<root>/runs/<id>/`."""

    root: Path | str

    @property
    def folder(self) -> Path:
        """Where the run folders lie."""
        return Path(self.root) / "runs"

    def open(self, spec: RunSpec | Mapping[str, Any]) -> Run:
        """The run of this specification; its folder is made, with spec.json in it, where there is none yet.

        Raises:
            UsageError: the folder is there with another spec.json, or an unreadable one or train.json, or cannot be
                written.
        """
        spec = spec if isinstance(spec, RunSpec) else RunSpec.from_json(spec)
        run = Run(self.folder / spec.id)
        if not run.path.exists():
            new = self.folder / f".new-{run.id}-{uuid.uuid4().hex[:8]}"
            with writing(run.path):
                try:
                    new.mkdir(parents=True)
                    write_json_atomic(new / "spec.json", spec.to_json())
                    new.rename(run.path)
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # else: another process was faster
                        raise
                finally:
                    shutil.rmtree(new, ignore_errors=True)
                fsync(self.folder)
        run.check(spec)
        return run

    def find(self, name: str) -> Run:
        """A run by its id, by the beginning of its id, or by the path of its folder.

        Raises:
            UsageError: none or several fit, or the folder has no readable spec.json.
        """
        folders = self.folder.iterdir() if self.folder.is_dir() else ()
        ids = sorted(p.name for p in folders if p.is_dir() and not p.name.startswith("."))
        if name in ids:
            run = Run(self.folder / name)
        elif Path(name).is_dir() and (Path(name) / "spec.json").is_file():
            run = Run(Path(name).resolve())
        else:
            fitting = [i for i in ids if name and i.startswith(name)]
            if len(fitting) > 1:
                raise UsageError(f"run {name!r} is not unique under {str(self.folder)!r}: {', '.join(fitting)}")
            if not fitting:
                raise unknown("run", name, ids)
            run = Run(self.folder / fitting[0])
        _ = run.spec  # raises where it cannot be read
        return run

    def frame(self) -> pd.DataFrame:
        """One row an evaluation of every sound run: what was trained, on what, what it cost and how it answered.

        Shared starts and trials stand in it too (column `role`); a run without an evaluation has one row. Damaged
        folders are named by `runs`.
        """
        import pandas as pd

        rows: list[Record] = []
        for run in self.runs()[0]:
            spec, training = run.spec, run.training() or TrainingRecord()
            kind, amount = spec.total_budget
            trained = {
                "run": run.id,
                "role": spec.role,
                "method": spec.method.title,
                "backbone": None if spec.backbone is None else spec.backbone.name,
                "trained_on": spec.task.name,
                "start": spec.start,
                "seed": spec.seed,
                "budget": kind,
                "budget_amount": amount,
                "quick": spec.quick,
                "training_flops": training.flops,
                "inherited_flops": training.inherited_flops,
                "training_seconds": training.seconds,
            }
            evaluations = [
                {"evaluation": key, "task": e.task, "split": e.split, "n": e.n, "effort": e.effort}
                | {"accuracy": sum(item.correct for item in items) / len(items)}
                for key, e in run.evaluations().items()
                if (items := run.read_items(key))
            ]
            rows += [trained | evaluation for evaluation in evaluations or [{}]]
        return pd.DataFrame(rows)

    @phase("reading the stored runs")
    def runs(self) -> tuple[list[Run], list[Damaged]]:
        """All runs by id, and beside them the folders that cannot be trusted, with the reason."""
        good: list[Run] = []
        bad: list[Damaged] = []
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
            if not path.is_dir() or path.name.startswith("."):
                continue
            run = Run(path)
            try:
                run.verify()
                good.append(run)
            except UsageError as error:
                bad.append(Damaged(path, str(error)))
        return good, bad


def omitted_lines(runs: Iterable[Run]) -> list[str]:
    """A line for each set and reason, with the number of runs; where files were looked for is in the runs' own file."""
    omitted: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        try:
            for name, omission in run.not_evaluated().items():
                omitted.setdefault((name, omission.reason), []).append(run.id)
        except UsageError as error:
            omitted.setdefault(("a list of omitted sets", str(error)), []).append(run.id)
    return [
        f"{name}: asked for and not evaluated for {ids[0] if len(ids) == 1 else f'{len(ids)} runs'}: {reason}"
        for (name, reason), ids in sorted(omitted.items())
    ]
