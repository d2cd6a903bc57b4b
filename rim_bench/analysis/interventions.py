"""A suite of interventions on a trained run: measured batch by batch, resumable at any moment, stored in its folder."""

from __future__ import annotations

import gzip
import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from rim_bench.analysis.batches import CleanBatch, InterventionBatch, QuestionOutcome, Reading, Subject
from rim_bench.analysis.donors import choose_donors
from rim_bench.analysis.edits import Moments
from rim_bench.analysis.options import InterventionOptions
from rim_bench.analysis.suite import NOTHING, Intervention, check_intervention, verdict_suite, whole_suite
from rim_bench.analysis.trunks import Tokens, Trunk, check_has_segments, trunk_of, written_trunk
from rim_bench.data import answers
from rim_bench.data.shortcuts import check_features
from rim_bench.engine.devices import runtime
from rim_bench.engine.execution import ALONE, ExecutionContext
from rim_bench.engine.trained_model import TrainedModel
from rim_bench.evaluate.distributed import GenerateBatch, answer_all, run_all
from rim_bench.evaluate.evaluation import EvaluationRequest
from rim_bench.evaluate.predict import ANSWER, Predictor
from rim_bench.evaluate.stored_runs import LoadedRun, check_used, note_quick, stored_request
from rim_bench.evaluate.vocabulary_check import CannotBeAsked
from rim_bench.methods.method import Example, check_effort
from rim_bench.methods.registry import method_of
from rim_bench.storage.interventions import (
    CLEAN,
    DONOR,
    OWN,
    AskedQuestionsRecord,
    InterventionItem,
    InterventionRecord,
)
from rim_bench.storage.records import RuntimeRecord, ScoringRecord
from rim_bench.storage.run_folder import Run
from rim_bench.util.environment import moment
from rim_bench.util.errors import UsageError
from rim_bench.util.files import canonical, parse_object, unpacked, write_bytes_atomic
from rim_bench.util.progress import Reporter, Silent, phase

logger = logging.getLogger(__name__)
SUITE_VERSION = 1  # raised with any change of what an intervention does or of how it is measured
PARTS = "parts"  # folder of what is done of a suite that is not
DIGITS = 5  # of stored log-probabilities, behind the point


@dataclass(frozen=True)
class Clean:
    """A question and the model's own answer to it.

    Attributes:
        tokens: behind the mark.
        natural: whether it is the answer that evaluation has, which gives no mark.
    """

    trunk: Trunk
    tokens: Tokens
    score: answers.Score
    natural: bool


def intervene_run(
    run: Run,
    options: InterventionOptions,
    reporter: Reporter | None = None,
    *,
    also: Sequence[Intervention] = (),
    execution: ExecutionContext = ALONE,
) -> str:
    """The key of a run's interventions, which are measured where they are not stored yet.

    A command that was killed goes on with the batch that it was at.

    Args:
        also: further interventions than those of the suite.

    Raises:
        UsageError: a method with nothing between question and answer, a run that is not trained, or questions that
            cannot be read or asked.
    """
    reporter = reporter or Silent()
    check_has_segments(method_of(run.spec.method))
    check_effort(method_of(run.spec.method), options.effort)
    if options.split != "validation" and (reason := run.spec.kept_apart):
        raise CannotBeAsked(f"run {run.id} is not asked questions of {options.split}: {reason.value}")
    check_used([run], options)
    request = replace(stored_request(run, options), effort=options.effort)
    note_quick(run, options, reporter)
    subject = LoadedRun(run, options.device, options.data, execution)
    key = suite_key(request, options, also)
    with run.lock():
        stored = run.interventions.read(key)
        if stored is None or stored.weights_sha256 != subject.trained.backbone.weights_sha256():
            if request.task.name != run.spec.task.name:
                subject.about(request.task.title, [(e.id, e.question) for e in request.dataset().examples])
            with phase(f"intervening on {run.id}"):
                _Measurement(run, subject.trained, request, options, key, reporter).store(also)
            reporter.finished(run.id)
    return key


def suite_key(request: EvaluationRequest, options: InterventionOptions, also: Sequence[Intervention] = ()) -> str:
    """The folder's name: equal requests have equal keys."""
    fields: list[Any] = [request.key(), SUITE_VERSION, options.verdict_only, options.donor_seed]
    fields += sorted(asked.name for asked in also)
    return f"{request.task.name}-{request.split}-{hashlib.sha256(canonical(fields).encode()).hexdigest()[:10]}"


class _Measurement:
    """The interventions of one run."""

    def __init__(
        self,
        run: Run,
        trained: TrainedModel,
        request: EvaluationRequest,
        options: InterventionOptions,
        key: str,
        reporter: Reporter,
    ) -> None:
        self.run, self.trained, self.request, self.options, self.key = run, trained, request, options, key
        self.reporter, self.task = reporter, request.task
        self.reading = Reading.of(trained, request.max_tokens, request.task.kind)
        self.weights = trained.backbone.weights_sha256()
        self.flops = 0
        self.began = time.perf_counter()

    def store(self, also: Sequence[Intervention]) -> None:
        """Measure all of them, and write them into the run's folder."""
        dataset = self.request.dataset()
        clean, moments = self._clean(*self._trunks(dataset.examples))
        features = self.task.shortcuts
        check_features(self.task, dataset.examples)
        donors = choose_donors(
            [c.trunk for c in clean], [c.score.answer for c in clean], features, self.options.donor_seed
        )
        kinds = tuple(dict.fromkeys(n for c in clean for n in (features(c.trunk.example.question) if features else ())))
        suites = self._suites({c.trunk.segments for c in clean}, kinds, also)
        subjects = [self._subject(k, clean, donors.of) for k in range(len(clean))]
        measured = self._measured(subjects, suites, moments)
        items = [self._clean_item(clean, donors.of[DONOR], measured)]
        every = {asked.name: asked for suite in suites.values() for asked in suite}
        for name, asked in every.items():
            rows = sorted(measured.get(name, ()), key=lambda m: m.number)
            if rows and asked is not NOTHING:
                items.append(_item(asked, rows, len(clean)))
        longest = max((c.trunk.segments for c in clean), key=len)
        left_out = len(dataset.examples) - len(clean)
        self.run.interventions.write(self.key, items, self._summary(len(clean), left_out, len(items), longest))
        for path in (folder := self.run.interventions.folder(self.key) / PARTS).glob("*"):
            path.unlink()
        folder.rmdir()

    def _trunks(self, examples: Sequence[Example]) -> tuple[list[Trunk], list[str]]:
        """The trunks of the questions that have one and fit, and what evaluation has as the model's answers to them."""
        predictor = Predictor(self.trained, self.request.effort)
        encode = self.trained.backbone.encode_question
        questions = [encode(e.question) for e in examples]
        prompts = [predictor.prompt(q) for q in questions]
        order = sorted((k for k, p in enumerate(prompts) if predictor.fits(p)), key=lambda k: prompts[k].size)
        size = self.request.batch_size
        cuts = [order[at : at + size] for at in range(0, len(order), size)]
        batches = [
            GenerateBatch(
                [prompts[k] for k in cut],
                [questions[k] for k in cut],
                self.request.max_tokens,
                self.trained.method.until,
                self.task.kind,
            )
            for cut in cuts
        ]
        texts: dict[int, str] = {}
        for cut, predictions in zip(cuts, answer_all(predictor, batches), strict=True):
            self.flops += sum(p.cost["flops_executed"] for p in predictions)
            texts |= {k: p.text for k, p in zip(cut, predictions, strict=True)}
        trunks, kept = [], []
        for k in sorted(texts):
            if self.trained.method.writes_steps:
                trunk = self._written(examples[k], prompts[k], texts[k])
            else:
                trunk = trunk_of(examples[k], questions[k], prompts[k])
            if trunk is not None and trunk.segments and self._room(trunk):
                trunks.append(trunk)
                kept.append(texts[k])
        if not trunks:
            raise UsageError(
                f"run {self.run.id} has no question with something between it and the answer: it wrote no steps, or "
                "none fits into the model"
            )
        return trunks, kept

    def _written(self, example: Example, prompt: Any, text: str) -> Trunk | None:
        """The trunk of an answer whose steps were written; None where there is no step or no answer."""
        steps, mark, _ = text.rpartition(ANSWER)
        lines = [line for line in steps.split("\n") if line.strip()]
        if not mark or not lines:
            return None
        return written_trunk(example, prompt, [self.trained.backbone.encode(line + "\n") for line in lines])

    def _room(self, trunk: Trunk) -> bool:
        """Whether the model has positions for the right answer behind the mark."""
        reference = self._reference(trunk.example)
        needed = trunk.layout.depth + len(self.reading.mark) + len(reference) + 1
        return needed <= self.trained.backbone.max_positions

    def _reference(self, example: Example) -> Tokens:
        """The right answer's tokens behind the mark, the end included."""
        return self.trained.backbone.encode_example(example).answer[len(self.reading.mark) :]

    def _clean(
        self, trunks: Sequence[Trunk], texts: Sequence[str]
    ) -> tuple[list[Clean], dict[tuple[Any, ...], Moments]]:
        """The model's own answers, and what moments are made of, by shape."""
        cuts = list(_batches([t.shape for t in trunks], self.request.batch_size))
        batches = [CleanBatch([trunks[k] for k in cut], self.reading) for cut in cuts]
        moments: dict[tuple[Any, ...], Moments] = {}
        tokens: dict[int, Tokens] = {}
        for cut, [(written, own, flops)] in zip(cuts, run_all(self.trained, batches), strict=True):
            shape = trunks[cut[0]].shape
            moments[shape] = moments[shape] + own if shape in moments else own
            tokens |= dict(zip(cut, written, strict=True))
            self.flops += flops
        out = []
        for k, (trunk, text) in enumerate(zip(trunks, texts, strict=True)):
            reference = trunk.example.answer
            tolerance = self.task.tolerance_at(reference)
            score = self.reading.score(self.trained, tokens[k], reference, tolerance)
            natural = answers.score(text, reference, tolerance, self.task.kind)
            out.append(Clean(trunk, tokens[k], score, natural.answer == score.answer))
        return out, moments

    def _suites(
        self, segments: set[tuple[str, ...]], features: Sequence[str], also: Sequence[Intervention]
    ) -> dict[tuple[str, ...], list[Intervention]]:
        """Segments of a question -> its interventions."""
        layers, method = self.trained.backbone.layers, self.trained.method
        for asked in also:
            check_intervention(asked, layers)
        turned = self.request.effort
        if turned is None and method.effort_field is not None:
            usual = getattr(method, method.effort_field, None)
            turned = usual if isinstance(usual, int) else None
        out = {}
        for names in sorted(segments, key=lambda names: -len(names)):
            own = verdict_suite(features)
            if not self.options.verdict_only:
                own = whole_suite(names, layers, features, turned)
            out[names] = [*own, *(a for a in also if a not in own)]
        return out

    def _subject(self, number: int, clean: Sequence[Clean], donors: Mapping[str, Sequence[int | None]]) -> Subject:
        own = clean[number]
        chosen = {kind: of[number] for kind, of in donors.items()}
        return Subject(
            number,
            own.trunk,
            self.task.tolerance_at(own.trunk.example.answer),
            own.tokens,
            own.score.answer,
            self._reference(own.trunk.example),
            {kind: (clean[k].trunk, clean[k].tokens) for kind, k in chosen.items() if k is not None},
        )

    def _measured(
        self,
        subjects: Sequence[Subject],
        suites: Mapping[tuple[str, ...], Sequence[Intervention]],
        moments: Mapping[tuple[Any, ...], Moments],
    ) -> dict[str, list[QuestionOutcome]]:
        """Name of each intervention -> its questions. What is done is read, the rest computed and written at once."""
        cuts = list(_batches([s.trunk.shape for s in subjects], self.request.batch_size))
        folder = self.run.interventions.folder(self.key) / PARTS
        out: dict[str, list[QuestionOutcome]] = {}
        done, waiting = 0, []
        size = 1 if self.trained.execution.group is None else 2 * self.trained.execution.group.size

        def take(rows: dict[str, list[QuestionOutcome]], flops: int, questions: int) -> None:
            nonlocal done
            for name, measured in rows.items():
                out.setdefault(name, []).extend(measured)
            self.flops += flops
            done += questions
            self.reporter.evaluating(self.run.id, done, len(subjects))

        for cut in cuts:
            chosen = [subjects[k] for k in cut]
            shape, suite = chosen[0].trunk.shape, suites[chosen[0].trunk.segments]
            path = folder / f"{self._part(chosen, suite)}.json.gz"
            if (part := _read_part(path)) is not None:
                take(*part, len(cut))
                continue
            own = (chosen, suite, moments[shape], self.reading, self.request.effort, self.options.donor_seed)
            waiting.append((path, InterventionBatch(*own)))
            if len(waiting) == size or cut is cuts[-1]:
                self._compute(waiting, take)
                waiting = []
        if waiting:
            self._compute(waiting, take)
        return out

    def _compute(self, waiting: Sequence[tuple[Path, InterventionBatch]], take: Any) -> None:
        batches = [batch for _, batch in waiting]
        for (path, batch), [(rows, flops)] in zip(waiting, run_all(self.trained, batches), strict=True):
            plain = {name: [asdict(m) for m in measured] for name, measured in rows.items()}
            data = canonical({"measured": plain, "flops": flops}).encode()
            write_bytes_atomic(path, gzip.compress(data, mtime=0))
            take(rows, flops, len(batch.subjects))

    def _part(self, subjects: Sequence[Subject], suite: Sequence[Intervention]) -> str:
        """The name of a part: it says which questions and interventions, of which weights, are in it."""
        about = [self.weights, [s.trunk.example.id for s in subjects]]
        digest = hashlib.sha256(canonical([*about, [a.name for a in suite]]).encode())
        return digest.hexdigest()[:16]

    def _clean_item(
        self, clean: Sequence[Clean], donors: Sequence[int | None], measured: Mapping[str, Sequence[QuestionOutcome]]
    ) -> InterventionItem:
        """The model as it is."""
        examples = [c.trunk.example for c in clean]
        rows = sorted(measured[NOTHING.name], key=lambda m: m.number)
        return InterventionItem(
            id=CLEAN,
            operation=CLEAN,
            asked=AskedQuestionsRecord(
                ids=tuple(e.id for e in examples),
                levels=tuple(e.level for e in examples),
                sources=tuple(e.cluster for e in examples),
                references=tuple(e.answer for e in examples),
                answers=tuple(c.score.answer for c in clean),
                donors=tuple(donors),
                as_evaluated=_bits(c.natural for c in clean),
            ),
            correct=_bits(c.score.correct for c in clean),
            changed="0" * len(clean),
            logprob=tuple(m.logprob for m in rows),
            lead=tuple(None if m.lead is None else round(m.lead, DIGITS) for m in rows),
        )

    def _summary(self, questions: int, left_out: int, items: int, segments: tuple[str, ...]) -> InterventionRecord:
        task, device, trained = self.task, self.trained.backbone.device, self.trained
        dataset, group = self.request.dataset(), trained.execution.group
        return InterventionRecord(
            task=task.name,
            task_title=task.title,
            task_version=task.version,
            evaluator_version=answers.EVALUATOR_VERSION,
            scoring=ScoringRecord(kind=task.kind, tolerance=task.tolerance, relative_tolerance=task.relative_tolerance),
            date=moment(),
            split=self.request.split,
            questions=questions,
            ood_levels=task.ood_levels,
            left_out=left_out,
            data_sha256=dataset.sha256,
            data_source=dataset.source,
            limit=self.request.limit,
            quick=self.request.quick,
            effort=self.request.effort,
            suite="verdict" if self.options.verdict_only else "whole",
            donor_seed=self.options.donor_seed,
            layers=trained.backbone.layers,
            segments=segments,
            max_tokens=self.request.max_tokens,
            batch_size=self.request.batch_size,
            dtype=trained.backbone.computes,
            device=device.type,
            weights_sha256=self.weights,
            flops=self.flops,
            seconds=round(time.perf_counter() - self.began, 3),
            processes=None if group is None else group.size,
            runtime=RuntimeRecord.from_json(runtime(device, trained.backbone.computes, trained.execution)),
            n=items,
        )


def _item(asked: Intervention, rows: Sequence[QuestionOutcome], questions: int) -> InterventionItem:
    donors = [m.to_donor for m in rows]
    exact = asked.operation == OWN  # what must be the same to the last bit is stored so
    return InterventionItem(
        id=asked.name,
        operation=asked.operation,
        site=asked.site,
        layer=asked.layer,
        segments=asked.segments,
        questions=None if len(rows) == questions else tuple(m.number for m in rows),
        correct=_bits(m.correct for m in rows),
        changed=_bits(m.changed for m in rows),
        to_donor=None if None in donors else _bits(bool(d) for d in donors),
        logprob=tuple(m.logprob if exact else round(m.logprob, DIGITS) for m in rows),
        lead=tuple(None if m.lead is None else round(m.lead, DIGITS) for m in rows),
    )


def _bits(values: Any) -> str:
    return "".join(str(int(v)) for v in values)


def _batches(shapes: Sequence[Any], size: int) -> Iterator[list[int]]:
    """Numbers of questions of one shape, at most so many at a time; shapes in the order in which they first come."""
    first = {shape: k for k, shape in reversed(list(enumerate(shapes)))}
    order = sorted(range(len(shapes)), key=lambda k: (first[shapes[k]], k))
    for _, group in groupby(order, key=lambda k: first[shapes[k]]):
        members = list(group)
        for at in range(0, len(members), size):
            yield members[at : at + size]


def _read_part(path: Path) -> tuple[dict[str, list[QuestionOutcome]], int] | None:
    """What a killed command left done; None where it is not there or not whole."""
    try:
        stored = parse_object(unpacked(path.read_bytes(), path), repr(str(path)))
        return {n: [QuestionOutcome(**m) for m in rows] for n, rows in stored["measured"].items()}, int(stored["flops"])
    except (OSError, UsageError, KeyError, TypeError):
        return None
