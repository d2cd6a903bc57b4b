"""Candidates of a run: weights at points of training, their validation scores, and which become the run's model.

Each candidate lies complete or not at all in the run's folder, beside the scores, so that a process that was killed
comes to the same choice. Evaluating one changes nothing: random states, modes and the account of training time and
memory are as they were.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path

import torch

from rim_bench.data import answers as marks
from rim_bench.data.reader import Split
from rim_bench.engine.backbone import RECORD
from rim_bench.engine.devices import peak_memory, reset_peak
from rim_bench.engine.execution import ALONE, ExecutionContext
from rim_bench.engine.precision import device_default
from rim_bench.engine.trained_model import TrainedModel, load_trained
from rim_bench.evaluate.evaluation import EvaluationRequest, accuracy_of, marked
from rim_bench.evidence.split_protocol import held_out
from rim_bench.storage.records import (
    CandidateItem,
    CandidateRecord,
    EvaluationRecord,
    ItemRecord,
    LookRecord,
    LooksRecord,
    OverlapRecord,
    SelectionRecord,
    TrainingRecord,
    ValidationRecord,
    read_record,
)
from rim_bench.storage.run_folder import CANDIDATES, Run
from rim_bench.storage.selection import BEST, LAST, SPLITS, TIES, CheckpointRule, best
from rim_bench.util.errors import UsageError
from rim_bench.util.files import MANIFEST, complete_folder, damage_of, is_there, read_json
from rim_bench.util.progress import phase

SCORES = f"{CANDIDATES}/scores.json"


class CheckpointSelector:
    """What watches the training of one run.

    Args:
        trained: the model being trained, live.
        request: the evaluation on the validation split that every look makes.
    """

    def __init__(self, run: Run, selection: CheckpointRule, trained: TrainedModel, request: EvaluationRequest) -> None:
        if request.split != "validation":
            raise ValueError("candidates are looked at on validation, never on the test split")
        self.run, self.selection, self.trained, self.request = run, selection, trained, request
        self.folder = run.path / CANDIDATES
        self.seen: list[LookRecord] = []  # by step
        self.peak = 0  # bytes, of training between the looks

    @property
    def points(self) -> int:
        """How many evenly spaced looks there are."""
        return self.selection.count

    @cached_property
    def questions(self) -> Split:
        """The validation split; read once, when the first look needs it."""
        return self.request.dataset()

    # while it trains

    def resume(self, step: int) -> None:
        """Training goes on behind `step`: later candidates are void, and leftovers of a kill are removed."""
        if not self.points:  # the same run was looked at before, and no longer is: what was seen then is not of its end
            _remove_candidates(self.run)
        self.seen = [r for r in self._stored() if r.step <= step]
        known = {self._weights(r.step) for r in self.seen}
        for path in sorted(self.folder.glob("step-*")):
            if path not in known:
                shutil.rmtree(path)
        if self.seen or is_there(self.run.path / SCORES):
            self._write()

    def evaluate(self, step: int, stage: str, *, candidate: bool, ends: bool) -> None:
        """Answers the validation questions with the weights of `step`; a candidate's weights are kept.

        Args:
            ends: the stage ends with this step.
        """
        device = self.trained.backbone.device
        self.peak = max(self.peak, peak_memory(device))
        began = time.perf_counter()
        with undisturbed(self.trained):
            with phase(f"answering the validation questions at step {step}") as looking:
                items = marked(self.trained, self.request, self.questions, looking.advance)
            if candidate and self.selection.rule != LAST:
                with complete_folder(self._weights(step), self.trained.stored_bytes) as folder:
                    self.trained.save(folder)
        self.seen.append(
            LookRecord(
                step=step,
                stage=stage,
                candidate=candidate,
                ends=ends,
                accuracy=accuracy_of(items),
                n=len(items),
                flops=sum(i.flops for i in items),
                seconds=round(time.perf_counter() - began, 3),
            )
        )
        self._write()
        reset_peak(device)

    def prune(self, step: int) -> None:
        """Removes candidates up to `step` that no longer lead; training never goes back before it."""
        early = [r for r in self._candidates if r.step <= step]
        if self.selection.rule != BEST or not early:
            return
        leader = early[best([r.accuracy for r in early])]
        for record in early:
            if record is not leader:
                shutil.rmtree(self._weights(record.step), ignore_errors=True)

    # when it has trained

    @property
    def chosen(self) -> LookRecord | None:
        """The evaluation that the rule chooses; None without any, and where the rule waits for the test questions."""
        candidates = self._candidates
        if not candidates or self.selection.rule == SPLITS:
            return None
        return candidates[-1] if self.selection.rule == LAST else candidates[best([r.accuracy for r in candidates])]

    def record(self) -> SelectionRecord | None:
        """For train.json: every look, what all of them cost, and the choice. None where there was none."""
        if not self.seen:
            return None
        chosen = self.chosen
        return SelectionRecord(
            rule=self.selection.rule,
            points=self.points,
            ties=TIES if self.selection.rule == BEST else None,
            chosen=None if chosen is None else chosen.chosen,
            stages=tuple(r.chosen for r in self.seen if r.ends),
            seen=tuple(self.seen),
            flops=sum(r.flops for r in self.seen),
            seconds=round(sum(r.seconds for r in self.seen), 3),
        )

    @property
    def validation(self) -> ValidationRecord | None:
        """Accuracy and number of questions of the run's model; None where nothing was looked at."""
        model = self.chosen or (self._candidates[-1] if self._candidates else None)
        return None if model is None else ValidationRecord(accuracy=model.accuracy, n=model.n)

    def write(self, folder: Path) -> None:
        """The run's model: the chosen candidate's files, or the weights as they are at the end."""
        if self.selection.rule != BEST or self.chosen is None:
            self.trained.save(folder)
            return
        source = self._weights(self.chosen.step)
        if (damage := damage_of(source)) is not None:
            raise UsageError(
                f"candidate {str(source)!r} is damaged: {damage}; move the run {self.run.id} away to train it again"
            )
        link_files(source, folder)

    def clean(self) -> None:
        """Removes candidates of the trained run, as `clean` does."""
        clean(self.run, self.selection)

    @property
    def _candidates(self) -> list[LookRecord]:
        return [r for r in self.seen if r.candidate]

    def _weights(self, step: int) -> Path:
        return weights_folder(self.run, step)

    def _stored(self) -> tuple[LookRecord, ...]:
        """Raises UsageError where the file is damaged."""
        seal, path = self.run.seal, self.run.path / SCORES
        looks = read_record(LooksRecord, seal.read(SCORES), path).seen if seal.has(SCORES) else ()
        if not all(0 <= look.accuracy <= 1 for look in looks):
            raise UsageError(f"{str(path)!r} is damaged: a record has values that cannot be; move the run away")
        return looks

    def _write(self) -> None:
        self.run.write(SCORES, LooksRecord(seen=tuple(self.seen)).to_json())


@contextmanager
def undisturbed(trained: TrainedModel) -> Iterator[None]:
    """Evaluation mode within; after it modes and torch's random states, of the CPU and every GPU, are as before."""
    modules = (trained.backbone.model, trained.bridges)
    before = [m.training for m in modules]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        for module in modules:
            module.eval()
        try:
            yield
        finally:
            for module, training in zip(modules, before, strict=True):
                module.train(training)


def weights_folder(run: Run, step: int) -> Path:
    """Where a candidate's weights lie."""
    return run.path / CANDIDATES / f"step-{step:08d}"


def clean(run: Run, selection: CheckpointRule) -> None:
    """Removes candidates of a trained run, but for those that the test questions choose between."""
    if selection.rule != SPLITS:
        _remove_candidates(run)


def _remove_candidates(run: Run) -> None:
    if is_there(run.path / CANDIDATES):
        with run.seal.replacing({SCORES: None}):
            shutil.rmtree(run.path / CANDIDATES, ignore_errors=True)


def link_files(source: Path, folder: Path) -> None:
    """Puts the files of a complete folder, but for its manifest, into another: linked where possible, else copied."""
    for path in sorted(p for p in source.rglob("*") if p.is_file() and p.relative_to(source).as_posix() != MANIFEST):
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)


# The 16-split protocol: every candidate answers the test questions
def answered(run: Run, request: EvaluationRequest) -> EvaluationRecord | None:
    """The stored summary of the candidates' answers, of the weights as they are now; None where there is none."""
    stored = run.candidate_evaluations.read(request.key())
    same = stored and all(_hash(run, c.step) in (None, c.weights_sha256) for c in stored.candidates)
    return stored if same else None


def evaluate_candidates(
    run: Run,
    request: EvaluationRequest,
    device: torch.device,
    shared: OverlapRecord,
    on_items: Callable[[int, int], None] | None = None,
    execution: ExecutionContext = ALONE,
) -> EvaluationRecord:
    """Every candidate's answers to the questions, stored with one record for each question: which were right.

    Raises:
        UsageError: too few questions for the protocol, or a candidate's weights are gone or damaged.
    """
    if (stored := answered(run, request)) is not None:
        return stored
    dataset, began = request.dataset(), time.perf_counter()
    held_out(len(dataset.examples))  # refuses before anything is answered
    selection = (run.training() or TrainingRecord()).selection or SelectionRecord()
    looks = [r for r in selection.seen if r.candidate]
    for record in looks:
        if (damage := damage_of(weights_folder(run, record.step))) is not None:
            what = f"candidate of step {record.step} of run {run.id} cannot be evaluated: {damage}"
            raise UsageError(f"{what}; train the run again in another results folder")
    columns: list[list[ItemRecord]] = []
    total = len(looks) * len(dataset.examples)

    def show(before: int, done: int, _: int) -> None:
        if on_items is not None:
            on_items(before + done, total)

    for k, record in enumerate(looks):
        trained = load_trained(run, device=device, folder=weights_folder(run, record.step), execution=execution)
        columns.append(marked(trained, request, dataset, partial(show, k * len(dataset.examples))))
    items = [
        CandidateItem(
            id=first.id,
            level=first.level,
            ood=first.ood,
            cluster=first.cluster,
            reference=first.reference,
            correct="".join("1" if i.correct else "0" for i in (first, *others)),  # in the order of training
            answers=tuple(i.answer for i in (first, *others)),
        )
        for first, *others in zip(*columns, strict=True)
    ]
    candidates = tuple(
        CandidateRecord(
            step=record.step,
            stage=record.stage,
            weights_sha256=_hash(run, record.step),
            accuracy=accuracy_of(column),
            flops=sum(i.flops for i in column),
        )
        for record, column in zip(looks, columns, strict=True)
    )
    summary = {
        "schema": 1,
        "protocol": SPLITS,
        "task": request.task.name,
        "task_title": request.task.title,
        "task_version": request.task.version,
        "evaluator_version": marks.EVALUATOR_VERSION,
        "split": request.split,
        "n": len(dataset.examples),
        "data_sha256": dataset.sha256,
        "data_source": dataset.source,
        "limit": request.limit,
        "quick": request.quick,
        "settings": {
            "max_tokens": request.max_tokens,
            "device": device.type,
            "dtype": run.spec.dtype or device_default(device.type),
        },
        "overlap": shared.to_json(),
        "candidates": [c.to_json() for c in candidates],
        "flops": sum(c.flops for c in candidates),
        "seconds": round(time.perf_counter() - began, 3),
    }
    return run.candidate_evaluations.write(request.key(), items, summary)


def _hash(run: Run, step: int) -> str | None:
    """Hash of a candidate's weights; None where they are gone."""
    record = weights_folder(run, step) / RECORD
    return str(read_json(record).get("sha256")) if record.is_file() else None
