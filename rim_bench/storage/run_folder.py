"""Run folders: written once, verified when read, safe to kill at any moment.

    <root>/runs/<id>/
      spec.json                  what the run is; its hash is in the id
      environment.json           versions, commit, hardware, argv of every start
      train.jsonl(.xz)           one record per optimizer step, compressed when training is done
      train.json                 the summary of training
      manifest.json              size and sha256 of the records (`rim_bench.storage.seal`)
      checkpoints/step-00000100/ newest complete checkpoint, with manifest.json
      model/                     final weights with manifest.json; its existence means "trained"
      eval/<key>/                items.jsonl.gz, then summary.json; its existence means "evaluated"
      interventions/<key>/       the same of a suite of interventions, and its table and pictures

Every file and folder appears under its name only when it is complete. What does not match its hash is named, not
trusted. This module imports neither torch nor transformers.

What a run was to be evaluated on and was not, with the reason: `not_evaluated.json` in its folder, so that no table
forgets it.
"""

from __future__ import annotations

import errno
import glob
import json
import logging
import os
import platform
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rim_bench.storage.evaluations import ITEMS, SUMMARY, Evaluations
from rim_bench.storage.interventions import InterventionItem, InterventionRecord
from rim_bench.storage.records import (
    CandidateItem,
    EvaluationRecord,
    FingerprintRecord,
    ItemRecord,
    LmEvalItem,
    LmEvalRecord,
    RunSpec,
    TrainingRecord,
    read_record,
)
from rim_bench.storage.seal import Seal
from rim_bench.storage.selectors import no_run_fits, parse_selector, several_fit
from rim_bench.storage.step_log import StepLog
from rim_bench.util.errors import UsageError, unknown
from rim_bench.util.files import (
    Record,
    canonical,
    complete_folder,
    damage_of,
    finite,
    fsync,
    is_alive,
    is_leftover,
    is_there,
    json_bytes,
    parse_object,
    write_bytes_atomic,
    writing,
)
from rim_bench.util.progress import phase

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
_STEP = re.compile(r"step-(\d{8,})")
CANDIDATES = "candidates"  # folder in a run's own: weights of its candidates, and their answers
NOT_EVALUATED = "not_evaluated.json"
OWN_RECORDS = ("spec.json", "environment.json", "train.json", "train.jsonl.xz", NOT_EVALUATED, "candidates/scores.json")
NEW = ".new-"  # begins the name of a folder that is to become a run's
HOUR = 3600.0  # seconds: no folder of another machine needs as long to become a run's
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
        return read_record(RunSpec, self.seal.read("spec.json"), self.path / "spec.json")

    @property
    def results(self) -> Path:
        """The results folder that it lies in."""
        return self.path.parent.parent

    @property
    def seal(self) -> Seal:
        """The manifest of its records."""
        return Seal(self.path)

    @property
    def sealed(self) -> bool:
        """Whether it has one: nothing vouches for the records of a run that has not."""
        return self.seal.manifest() is not None

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
        self.seal.check()
        try:
            expected = self.spec.id
        except ValueError as error:
            raise UsageError(f"{str(self.path / 'spec.json')!r} is damaged: {error}") from None
        if self.id != expected:
            raise UsageError(f"run folder {str(self.path)!r} does not carry the id of its spec.json, {expected!r}")
        self.metrics()
        self.training()
        self.not_evaluated()
        for stored in self._stored:
            stored.all()
        if (self.path / "model").is_dir() and (damage := damage_of(self.path / "model", contents=False)) is not None:
            raise UsageError(f"model {str(self.path / 'model')!r} is damaged: {damage}")

    def write_manifest(self) -> list[str]:
        """Writes the manifest of the records as they are; returns the names of those that the one before did not list
        like this.

        Raises:
            UsageError: a record cannot be read, or another process works on the run.
        """
        with self.lock():
            try:
                before = self.seal.manifest()
            except UsageError:  # it is what is damaged
                before = None
            self.seal.path.unlink(missing_ok=True)
            try:
                self.verify()
                names = [*OWN_RECORDS]
                for stored in self._stored:
                    for key in stored.all():
                        stored.items(key)  # whether they can be read
                        names += [f"{stored.inside}/{key}/{file}" for file in (SUMMARY, ITEMS)]
                now = self.seal.create({name: self.seal.read(name) for name in names if self.seal.has(name)})
            except UsageError:
                if before is not None:
                    write_bytes_atomic(self.seal.path, before.data())
                raise
        old = {} if before is None else before.files
        return sorted(n for n in now.files.keys() | old.keys() if now.files.get(n) != old.get(n))

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
            if lock.lock_counter == 1:
                self._remove_leftovers()
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

    def _remove_leftovers(self) -> None:
        """Removes what killed processes left half written; this one holds the lock."""
        for folder, folders, files in os.walk(self.path):
            for name in [
                name for name in folders if name.endswith(".tmp")
            ]:  # `complete_folder` is called under the lock
                folders.remove(name)
                shutil.rmtree(Path(folder) / name, ignore_errors=True)
            for name in filter(is_leftover, files):
                with suppress(OSError):
                    (Path(folder) / name).unlink()
        for new in self.path.parent.glob(f"{NEW}{glob.escape(self.id)}-*"):  # else it would have become this folder
            writer = re.fullmatch(r"(.+)\.(\d{1,9})-[0-9a-f]{8}", new.name.removeprefix(f"{NEW}{self.id}-"))
            with suppress(OSError):  # a process of another machine is only known to need less than an hour
                here = writer is None or writer[1] == platform.node()
                young = time.time() - new.stat().st_mtime < HOUR
                if not (writer and is_alive(int(writer[2])) if here else young):
                    shutil.rmtree(new, ignore_errors=True)

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Stores the environment of this start; those of earlier starts stay under `earlier`."""
        before = self.read("environment.json")
        earlier = [] if before is None else [*before.pop("earlier", []), before]
        self.write("environment.json", {**environment, **({"earlier": earlier} if earlier else {})})

    def read(self, name: str) -> Record | None:
        """The object in one of the run's files; None where it is not there. Raises UsageError where it is damaged."""
        where = repr(str(self.path / name))
        return parse_object(self.seal.read(name), where, paths=True) if self.seal.has(name) else None

    def write(self, name: str, value: Any) -> None:
        """Writes one of the run's files, which the manifest then lists."""
        self.seal.write(name, json_bytes(value))

    @property
    def task_file(self) -> Record | None:
        """Path and sha256 of the YAML of one's own task that it was trained on; None where nothing is said of one."""
        file = (self.read("environment.json") or {}).get("task_file")
        return file if isinstance(file, dict) else None

    def _starts(self, key: str) -> tuple[Any, ...]:
        """What environment.json has under a key, of every start that has it, oldest first; equal ones once."""
        newest = self.read("environment.json") or {}
        earlier = newest.get("earlier", [])
        starts = [*earlier, newest] if isinstance(earlier, list) else [earlier]
        stored = [start.get(key) if isinstance(start, dict) else 0 for start in starts]
        if not all(value is None or isinstance(value, dict) for value in stored):
            raise UsageError(f"{str(self.path / 'environment.json')!r} is damaged: its {key} is no object")
        return tuple(map(json.loads, dict.fromkeys(canonical(value) for value in stored if value is not None)))

    def fingerprints(self) -> tuple[FingerprintRecord, ...]:
        """What decided the last bit, of every start that differed; empty where none was recorded."""
        return tuple(map(FingerprintRecord.from_json, self._starts("fingerprint")))

    def commits(self) -> tuple[str, ...]:
        """The commits of rim-bench that trained it, in short, a changed tree with a +; empty outside of one."""
        return tuple(f"{str(git.get('commit'))[:7]}{'+' if git.get('dirty') else ''}" for git in self._starts("git"))

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
            self.write("train.json", finite(value))
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
        name = "train.json"
        return read_record(TrainingRecord, self.seal.read(name), self.path / name) if self.seal.has(name) else None

    # Evaluation

    @property
    def own_evaluations(self) -> Evaluations[EvaluationRecord, ItemRecord]:
        """The run's evaluations on tasks of rim-bench."""
        return Evaluations(self.seal, "eval", EvaluationRecord, ItemRecord)

    @property
    def candidate_evaluations(self) -> Evaluations[EvaluationRecord, CandidateItem]:
        """What its candidates answered, of which the test questions choose one: rows of no comparison."""
        return Evaluations(self.seal, f"{CANDIDATES}/eval", EvaluationRecord, CandidateItem)

    @property
    def lm_eval_evaluations(self) -> Evaluations[LmEvalRecord, LmEvalItem]:
        """The run's evaluations on tasks of lm-eval's own: rows of no comparison."""
        return Evaluations(self.seal, "lm_eval/eval", LmEvalRecord, LmEvalItem)

    @property
    def interventions(self) -> Evaluations[InterventionRecord, InterventionItem]:
        """Suites of interventions on what stands between question and answer: an item an intervention."""
        return Evaluations(self.seal, "interventions", InterventionRecord, InterventionItem)

    @property
    def _stored(self) -> tuple[Evaluations[Any, Any], ...]:
        return self.own_evaluations, self.candidate_evaluations, self.lm_eval_evaluations, self.interventions

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
        sets = (self.read(NOT_EVALUATED) or {"sets": {}}).get("sets")
        if not isinstance(sets, dict):
            raise UsageError(f"{str(self.path / NOT_EVALUATED)!r} is damaged: it has no sets")
        return {str(name): Omission.of(str(reason)) for name, reason in sets.items()}

    def record_not_evaluated(self, missing: Mapping[str, str], evaluated: Iterable[str]) -> None:
        """Adds what is missing and takes out what has been evaluated since."""
        before = {name: omission.text() for name, omission in self.not_evaluated().items()}
        now = {k: v for k, v in {**before, **missing}.items() if k not in set(evaluated)}
        if now != before:
            with self.lock():
                self.write(NOT_EVALUATED, {"schema": 1, "sets": now})


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
        with writing(run.path):  # a name may be too long to ask for
            there = run.path.exists()
        if not there:
            new = self.folder / f"{NEW}{run.id}-{platform.node()}.{os.getpid()}-{uuid.uuid4().hex[:8]}"
            with writing(run.path):
                try:
                    new.mkdir(parents=True)
                    data = json_bytes(spec.to_json())
                    write_bytes_atomic(new / "spec.json", data)
                    Seal(new).create({"spec.json": data})
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
        """The run of `locate`. Raises UsageError where none or several fit, or its spec.json cannot be read."""
        run = self.locate(name)
        _ = run.spec  # raises where it cannot be read
        return run

    def locate(self, name: str) -> Run:
        """One run, as `locate_all` takes its name.

        Raises:
            UsageError: none or several fit.
        """
        runs = self.locate_all(name)
        if len(runs) > 1:
            raise several_fit(name, {run.id: run.spec for run in runs})
        return runs[0]

    def locate_all(self, name: str) -> list[Run]:
        """Runs by an id, the path of a folder, a selector (`rim:seed=0`, see `selectors`), or the beginning of one id.

        Only a selector has specifications read.

        Raises:
            UsageError: none fits, or the beginning of an id fits several.
        """
        folders = self.folder.iterdir() if self.folder.is_dir() else ()
        ids = sorted(p.name for p in folders if p.is_dir() and not p.name.startswith("."))
        if name in ids:
            return [Run(self.folder / name)]
        if Path(name).is_dir() and is_there(Path(name) / "spec.json"):
            return [Run(Path(name).resolve())]
        fitting = [i for i in ids if name and i.startswith(name)]
        if len(fitting) == 1:
            return [Run(self.folder / fitting[0])]
        conditions = "@" in name or ":" in name
        if not fitting and not conditions:
            raise unknown("run", name, ids)
        selector, specs = parse_selector(name), self._specs()
        if chosen := [run for run, spec in specs if selector.fits(spec)]:
            return chosen
        if conditions:
            raise no_run_fits(name, selector, (spec for _, spec in specs))
        raise several_fit(name, {run.id: spec for run, spec in specs if run.id in fitting})

    def _specs(self) -> list[tuple[Run, RunSpec]]:
        """Every run whose specification can be read, with it."""
        specs = []
        for run in self.folders():
            with suppress(UsageError):
                specs.append((run, run.spec))
        return specs

    def frame(self) -> pd.DataFrame:
        """One row an evaluation of every run: what was trained, on what, what it cost and how it answered.

        Shared starts and trials stand in it too (column `role`); a run without an evaluation has one row. So has a
        damaged one: its name, and in the column `damaged` why nothing else is said of it.
        """
        import pandas as pd

        rows: list[Record] = []
        good, bad = self.runs()
        for run in good:
            try:
                rows += [{**row, "damaged": None} for row in _evaluation_rows(run)]
            except UsageError as error:
                bad.append(Damaged(run.path, str(error)))
        return pd.DataFrame(rows + [{"run": d.path.name, "damaged": d.reason} for d in bad])

    def folders(self) -> list[Run]:
        """Every run folder by id, sound or not."""
        if not is_there(self.folder):
            return []
        try:
            paths = sorted(self.folder.iterdir())
        except OSError as error:
            raise UsageError(f"{str(self.folder)!r} cannot be read: {error.strerror}") from None
        return [Run(path) for path in paths if not path.name.startswith(".") and not path.is_file()]

    @phase("reading the stored runs")
    def runs(self) -> tuple[list[Run], list[Damaged]]:
        """All runs by id, and beside them the folders that cannot be trusted, with the reason."""
        return verified(self.folders())


def verified(runs: Iterable[Run]) -> tuple[list[Run], list[Damaged]]:
    """The runs that can be trusted, and the others with the reason."""
    good: list[Run] = []
    bad: list[Damaged] = []
    for run in runs:
        try:
            run.verify()
            good.append(run)
        except (UsageError, OSError) as error:
            bad.append(Damaged(run.path, str(error)))
    return good, bad


def _evaluation_rows(run: Run) -> list[Record]:
    """A run's rows of `Store.frame`."""
    spec, training = run.spec, run.training() or TrainingRecord()
    kind, amount = spec.total_budget
    trained = {
        "run": run.id,
        "role": spec.role,
        "method": spec.method.title,
        "backbone": spec.backbone.name,
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
    return [trained | evaluation for evaluation in evaluations or [{}]]


def omitted_lines(runs: Iterable[Run]) -> list[str]:
    """A line for each set and reason, with the number of runs; where files were looked for is in the runs' own file."""
    omitted: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for name, omission in run.not_evaluated().items():
            omitted.setdefault((name, omission.reason), []).append(run.id)
    return [
        f"{name}: asked for and not evaluated for {ids[0] if len(ids) == 1 else f'{len(ids)} runs'}: {reason}"
        for (name, reason), ids in sorted(omitted.items())
    ]
