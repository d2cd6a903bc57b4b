"""Evaluating on several processes: each takes whole batches of questions, the leader puts what they found back in
order.

Batches are those of one process, so that every record but the times is the same, to the last digit: the same rows stand
beside each other. There is then no more to share than there are batches; a smaller `--eval-batch-size` makes more of
them.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from rim_bench.data.answers import Kind
from rim_bench.engine.distributed.workers import WorkerGroup
from rim_bench.engine.generate import Sampling, Score, score
from rim_bench.engine.trained_model import TrainedModel
from rim_bench.evaluate.multiple_choice import ChoicePredictor
from rim_bench.evaluate.predict import Prediction, Predictor
from rim_bench.methods.layout import Layout

OnBatch = Callable[[int], None]
Question = tuple[int, ...]
Found = TypeVar("Found")


@dataclass(frozen=True)
class GenerateBatch:
    """A batch of questions, as `Answerer.answer` takes it."""

    layouts: Sequence[Layout]
    questions: Sequence[Question]
    limit: int
    until: tuple[str, ...]
    kind: Kind = "auto"

    @property
    def work(self) -> int:
        """Columns of the prompts and of answers up to the cap: what shares are balanced by."""
        return len(self.layouts) * (max(row.size for row in self.layouts) + self.limit)


@dataclass(frozen=True)
class ScoreBatch:
    """A batch of prompts with continuations to score, as `generate.score` takes it."""

    layouts: Sequence[Layout]
    choices: Sequence[Sequence[tuple[int, ...]]]

    @property
    def work(self) -> int:
        """Columns of the trees."""
        return len(self.layouts) * max(
            row.size + sum(map(len, c)) for row, c in zip(self.layouts, self.choices, strict=True)
        )


def answer_all(
    answerer: Predictor, batches: Sequence[GenerateBatch], on_batch: OnBatch | None = None
) -> list[list[Prediction]]:
    """The answers to all batches, in their order; `on_batch` hears how many questions were answered, batch by batch.

    Raises:
        RuntimeError: another process failed; its traceback is in the message.
    """

    def own(batch: GenerateBatch) -> list[Prediction]:
        return answerer.answer(batch.layouts, batch.limit, batch.until, batch.questions, batch.kind)

    return _spread(answerer.trained, batches, own, lambda share: _Answers.of(answerer, share), on_batch)


def score_all(trained: TrainedModel, batches: Sequence[ScoreBatch]) -> list[list[list[Score]]]:
    """The scores of all batches, in their order.

    Raises:
        RuntimeError: another process failed; its traceback is in the message.
    """
    return _spread(
        trained,
        batches,
        lambda b: score(trained.workspace, b.layouts, b.choices),
        lambda share: _Scores(tuple(share)),
        None,
    )


def shared(batches: Sequence[GenerateBatch | ScoreBatch], size: int) -> list[list[int]]:
    """Which batches each process takes: the largest first, each to who has least."""
    shares: list[list[int]] = [[] for _ in range(size)]
    load = [0] * size
    for i in sorted(range(len(batches)), key=lambda i: -batches[i].work):
        to = load.index(min(load))
        shares[to].append(i)
        load[to] += batches[i].work
    return [sorted(share) for share in shares]


# What travels
class _Job(Protocol):
    """A follower's share."""

    def run(self, trained: TrainedModel) -> list[Any]: ...


@dataclass(frozen=True)
class _Answers:
    """Questions, and an answerer without its model."""

    effort: int | None
    probe: bool
    sampling: Sampling | None
    split: bool
    offered: Mapping[Question, Sequence[str]] | None
    batches: tuple[tuple[Sequence[Question], int, tuple[str, ...], Kind], ...]

    @classmethod
    def of(cls, answerer: Predictor, share: Sequence[GenerateBatch]) -> _Answers:
        offered = answerer.offered if isinstance(answerer, ChoicePredictor) else None
        batches = tuple((b.questions, b.limit, b.until, b.kind) for b in share)
        return cls(answerer.effort, answerer.probe, answerer.sampling, answerer.split, offered, batches)

    def run(self, trained: TrainedModel) -> list[list[Prediction]]:
        answerer = Predictor(trained, self.effort, probe=self.probe, sampling=self.sampling, split=self.split)
        if self.offered is not None:
            answerer = ChoicePredictor(answerer, self.offered)
        out = []
        for asked, limit, until, kind in self.batches:
            out.append(answerer.answer([answerer.prompt(q) for q in asked], limit, until, asked, kind))
        return out


@dataclass(frozen=True)
class _Scores:
    batches: tuple[ScoreBatch, ...]

    def run(self, trained: TrainedModel) -> list[list[list[Score]]]:
        return [score(trained.workspace, b.layouts, b.choices) for b in self.batches]


Batch = TypeVar("Batch", GenerateBatch, ScoreBatch)


def _spread(
    trained: TrainedModel,
    batches: Sequence[Batch],
    own: Callable[[Batch], list[Found]],
    job: Callable[[Sequence[Batch]], _Job],
    on_batch: OnBatch | None,
) -> list[list[Found]]:
    """What is found for every batch; `own` finds it here, `job` makes another process's share."""
    heard = on_batch or (lambda _: None)

    def mine(batch: Batch) -> list[Found]:
        found = own(batch)
        heard(len(found))
        return found

    team = trained.execution.group
    if team is None or len(batches) < 2:
        return [mine(batch) for batch in batches]
    shares = shared(batches, team.size)
    live = _send(team, trained)
    team.hand_out([("evaluate", live, job([batches[i] for i in share])) for share in shares])
    failed: Exception | None = None
    first: list[list[Found]] = []
    try:
        first = [mine(batches[i]) for i in shares[0]]
    except Exception as error:  # what the others found is waiting to be taken
        failed = error
    except (
        BaseException
    ):  # the user ends it: nobody waits for what the others find, and they hear of it when this process is gone
        team.give_up()
        raise
    found = team.collect(first)
    if failed is not None:
        raise failed
    out: dict[int, list[Found]] = {}
    for rank, (share, theirs) in enumerate(zip(shares, found, strict=True)):
        if isinstance(theirs, str):
            raise RuntimeError(f"process {rank} of {team.size} failed:\n{theirs}")
        out.update(zip(share, theirs, strict=True))
        if rank:
            heard(sum(map(len, theirs)))
    return [out[i] for i in range(len(batches))]


def _send(team: WorkerGroup, trained: TrainedModel) -> dict[str, Any] | None:
    """Make sure that everyone has the model.

    Returns its specification where it is the one being trained, which everyone has anyway.
    """
    if team.live is trained.backbone:
        return trained.spec
    if team.sent is not trained.backbone:
        team.sent = None
        with team.job():
            team.tell_all("load", trained.backbone.device.type)
            team.give((trained.backbone, trained.bridges, trained.spec))
        team.sent = trained.backbone
    return None


def do_share(team: WorkerGroup, trained: TrainedModel, job: _Job) -> None:
    """A follower's part, in evaluation mode and without a trace in its random state.

    What goes wrong is the leader's to tell.
    """
    modules = (trained.backbone.model, trained.bridges)
    found: list[Any] | str
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count())))
        for module in modules:
            stack.callback(module.train, module.training)
            module.eval()
        try:
            found = job.run(trained)
        except Exception:
            found = traceback.format_exc()
    team.collect(found)
