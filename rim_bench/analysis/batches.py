"""Batches of questions that a process computes by itself: their own answers, and their answers under interventions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rim_bench.analysis.edits import Moments, Source, applies
from rim_bench.analysis.passes import Answered, Computed, Passes
from rim_bench.analysis.suite import Intervention
from rim_bench.analysis.trunks import Tokens, Trunk, trunk_of
from rim_bench.data import answers
from rim_bench.engine.trained_model import TrainedModel
from rim_bench.evaluate.predict import ANSWER
from rim_bench.storage.interventions import (
    ANSWER_SEES,
    CLEAN,
    DONOR,
    EARLY_EXIT,
    KEYS_AND_VALUES,
    ORDINARY,
    PROMPT,
    RESIDUAL,
    SAME_ANSWER,
    SEGMENTS_SEE,
)
from rim_bench.util.errors import UsageError


@dataclass(frozen=True)
class Reading:
    """How answers are read.

    Attributes:
        mark: tokens in front of every answer.
        limit: tokens of an answer at most; it also ends with its line.
        kind: what answers are.
    """

    mark: Tokens
    limit: int
    kind: answers.Kind

    @classmethod
    def of(cls, trained: TrainedModel, limit: int, kind: answers.Kind) -> Reading:
        """That of a model's tokenizer, which may join the space of the mark and the answer.

        Raises:
            UsageError: a tokenizer that joins all of the mark with the answer.
        """
        encode = trained.backbone.encode
        encoded = [encode(f"{ANSWER} {text}") for text in ("1", "7", "x")]
        for mark in (encode(f"{ANSWER} "), encode(ANSWER)):
            if all(e[: len(mark)] == mark and len(e) > len(mark) for e in encoded):
                return cls(mark, limit, kind)
        raise UsageError(f"the backbone's tokenizer joins {ANSWER!r} and the answer behind it: none can be read")

    def passes(self, trained: TrainedModel) -> Passes:
        """The passes of a model."""
        decode = trained.backbone.decode
        return Passes(trained.workspace, self.mark, self.limit, lambda tokens: "\n" in decode(tokens[-1:]))

    def score(self, trained: TrainedModel, tokens: Tokens, reference: str, tolerance: float) -> answers.Score:
        """Tokens behind the mark against a right answer."""
        return answers.score(trained.backbone.decode((*self.mark, *tokens)), reference, tolerance, self.kind)


@dataclass(frozen=True)
class CleanBatch:
    """Questions of one shape, as the model answers them by itself."""

    trunks: Sequence[Trunk]
    reading: Reading

    @property
    def work(self) -> int:
        """Columns: what shares are balanced by."""
        return len(self.trunks) * self.trunks[0].layout.size

    def results(self, trained: TrainedModel) -> list[tuple[list[Tokens], Moments, int]]:
        """One result: the tokens of each answer, what moments are made of, and executed FLOPs."""
        passes = self.reading.passes(trained)
        with torch.inference_mode():
            own = passes.compute(self.trunks, record=True)
            answered = passes.answer(own, own.states, [])
            moments = Moments.of(own, own.places(self.trunks[0].segments))
        return [([a.tokens or () for a in answered], moments, passes.work.flops(passes.workspace))]


@dataclass(frozen=True)
class Subject:
    """A question under intervention, and what its answers are compared with.

    Attributes:
        clean: tokens of the model's own answer.
        answer: the same, extracted.
        reference: tokens of the right answer, the end included.
        donors: kind -> the donor's trunk and its own answer's tokens; a kind is missing where no question fits.
    """

    number: int
    trunk: Trunk
    tolerance: float
    clean: Tokens
    answer: str | None
    reference: Tokens
    donors: Mapping[str, tuple[Trunk, Tokens]]


@dataclass(frozen=True)
class QuestionOutcome:
    """What an intervention does to the answer to one question."""

    number: int
    correct: bool
    changed: bool
    to_donor: bool | None
    logprob: float
    lead: float | None


@dataclass(frozen=True)
class InterventionBatch:
    """Questions of one shape under interventions.

    Attributes:
        moments: of all questions of this shape.
        effort: of the prompts, None: the method's default.
        seed: of noise.
    """

    subjects: Sequence[Subject]
    suite: Sequence[Intervention]
    moments: Moments
    reading: Reading
    effort: int | None
    seed: int

    @property
    def work(self) -> int:
        """Columns of all interventions."""
        return len(self.subjects) * self.subjects[0].trunk.layout.size * len(self.suite)

    def results(self, trained: TrainedModel) -> list[tuple[dict[str, list[QuestionOutcome]], int]]:
        """One result: name of each intervention -> what it does to the questions that take part; executed FLOPs."""
        work = _Work(self, trained)
        with torch.inference_mode():
            measured = {asked.name: work.measure(asked) for asked in self.suite}
        return [({name: rows for name, rows in measured.items() if rows}, work.passes.work.flops(trained.workspace))]


class _Work:
    """A batch in one process: what several interventions share is computed once."""

    def __init__(self, batch: InterventionBatch, trained: TrainedModel) -> None:
        self.batch, self.trained, self.passes = batch, trained, batch.reading.passes(trained)
        self.recorded = any(asked.site == RESIDUAL for asked in batch.suite)
        self._own: dict[tuple[int, ...], Source] = {}
        self._scores: dict[tuple[Tokens, str], answers.Score] = {}

    def measure(self, asked: Intervention) -> list[QuestionOutcome]:
        """The questions that take part."""
        names = applies(asked, self.batch.subjects[0].trunk, self.batch.moments.n)
        kind = asked.donor
        subjects = [s for s in self.batch.subjects if kind is None or kind in s.donors]
        if not subjects or (names is None and asked.site != PROMPT):
            return []
        if asked.site == PROMPT:
            changed = [self._prompt(asked, s) for s in subjects]
            fitting = [(s, t) for s, t in zip(subjects, changed, strict=True) if t is not None and self._fits(t)]
            return [m for group in _by_shape(fitting) for m in self._plain(asked, *group)]
        assert names is not None
        if asked.site == SEGMENTS_SEE:
            trunks = [_blinded(asked, s.trunk, names) for s in subjects]
            return [] if trunks[0] is None else self._plain(asked, subjects, [t for t in trunks if t is not None])
        source = self._source(subjects, kind)
        if asked.site == ANSWER_SEES:
            layers = range(len(source.own.states)) if asked.layer is None else (asked.layer,)
            hidden = {layer: source.own.places(names) for layer in layers}
            return self._answers(asked, subjects, source.own, source.own.states, hidden)
        if asked.site == KEYS_AND_VALUES:
            states = source.own.states if asked.operation == CLEAN else source.edited_states(asked, names)
            return self._answers(asked, subjects, source.own, states)
        computed = self.passes.compute([s.trunk for s in subjects], source.written(asked, names))
        return self._answers(asked, subjects, computed, computed.states)

    def _source(self, subjects: Sequence[Subject], kind: str | None) -> Source:
        """What edits take from: of these subjects, and their donors of this kind."""
        key = tuple(s.number for s in subjects)
        if key not in self._own:
            trunks = [s.trunk for s in subjects]
            own = self.passes.compute(trunks, record=self.recorded)
            again = self.passes.compute(trunks, record=self.recorded)
            self._own[key] = Source(trunks, own, again, {}, self.batch.moments, self.batch.seed)
        source = self._own[key]
        if kind is not None and kind not in source.donors:
            others = [s.donors[kind][0] for s in subjects]
            source.donors[kind] = self.passes.compute(others, record=self.recorded)
        return source

    def _prompt(self, asked: Intervention, subject: Subject) -> Trunk | None:
        """The trunk with another prompt; None where the method has none such."""
        trunk, method = subject.trunk, self.trained.method
        if asked.operation == ORDINARY:
            return trunk.with_tokens(_last_token(trunk))
        count = int(asked.segments)
        if method.effort_field is None:
            return trunk.cut(count) if asked.operation == EARLY_EXIT and count < len(trunk.segments) else None
        question = self.trained.backbone.encode_question(trunk.example.question)
        try:
            prompt = method.lay_prompt(question, count)
        except UsageError:
            return None
        return trunk_of(trunk.example, question, prompt)

    def _fits(self, trunk: Trunk) -> bool:
        """Whether the model has positions for the prompt, the mark and a token."""
        return trunk.layout.depth + len(self.passes.mark) + 1 <= self.trained.backbone.max_positions

    def _plain(
        self, asked: Intervention, subjects: Sequence[Subject], trunks: Sequence[Trunk]
    ) -> list[QuestionOutcome]:
        """Other trunks as they are."""
        computed = self.passes.compute(trunks)
        return self._answers(asked, subjects, computed, computed.states)

    def _answers(
        self,
        asked: Intervention,
        subjects: Sequence[Subject],
        computed: Computed,
        states: Any,
        hidden: dict[int, list[int]] | None = None,
    ) -> list[QuestionOutcome]:
        foils = [self._foil(asked, s) for s in subjects]
        candidates = [
            [s.clean, s.reference, s.reference if foil is None else foil]
            for s, foil in zip(subjects, foils, strict=True)
        ]
        answered = self.passes.answer(computed, states, candidates, hidden)
        return [self._measured(asked, *row) for row in zip(subjects, foils, candidates, answered, strict=True)]

    def _foil(self, asked: Intervention, subject: Subject) -> Tokens | None:
        """Tokens of the answer that the model's own is held against: its donor's where it has another answer."""
        kind = asked.donor if asked.donor not in (None, SAME_ANSWER) else DONOR
        donor = subject.donors.get(str(kind))
        return None if donor is None else donor[1]

    def _measured(
        self,
        asked: Intervention,
        subject: Subject,
        foil: Tokens | None,
        candidates: Sequence[Tokens],
        answered: Answered,
    ) -> QuestionOutcome:
        tokens = answered.tokens if answered.candidate is None else candidates[answered.candidate]
        score = self._score(subject, tokens or ())
        to_donor = None
        if asked.donor is not None:
            of = subject.donors[asked.donor][1]
            to_donor = score.answer is not None and score.answer == self._score(subject, of).answer
        own, _, other = answered.logprobs
        lead = None if foil is None else own - other
        return QuestionOutcome(subject.number, score.correct, score.answer != subject.answer, to_donor, own, lead)

    def _score(self, subject: Subject, tokens: Tokens) -> answers.Score:
        key = (tokens, subject.trunk.example.answer)
        if key not in self._scores:
            self._scores[key] = self.batch.reading.score(self.trained, tokens, key[1], subject.tolerance)
        return self._scores[key]


def _by_shape(pairs: Sequence[tuple[Subject, Trunk]]) -> list[tuple[list[Subject], list[Trunk]]]:
    """Subjects and trunks of one shape at a time."""
    groups: dict[Any, tuple[list[Subject], list[Trunk]]] = {}
    for subject, trunk in pairs:
        subjects, trunks = groups.setdefault(trunk.shape, ([], []))
        subjects.append(subject)
        trunks.append(trunk)
    return list(groups.values())


def _blinded(asked: Intervention, trunk: Trunk, names: Sequence[str]) -> Trunk | None:
    """The trunk whose segments do not see the named ones before them; None where nothing would change."""
    blind: dict[str, frozenset[str]] = {}
    for k, name in enumerate(trunk.segments):
        before = {*trunk.question, *trunk.segments[:k]}
        if hide := frozenset(names) & before:
            blind[name] = hide
    return trunk.blinded(blind) if blind else None


def _last_token(trunk: Trunk) -> int:
    """The id of the question's last token."""
    token = trunk.layout.segments[trunk.layout.index[trunk.question[-1]]].tokens[-1]
    assert isinstance(token, int)
    return token
