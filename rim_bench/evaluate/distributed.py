"""Evaluating on several processes: each takes whole batches of questions, the leader puts the results back in order.

Batches are those of one process, so that every record but the times is the same, to the last digit: the same rows stand
beside each other. There is then no more to share than there are batches; a smaller `--eval-batch-size` makes more of
them.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from rim_bench.data.answers import Kind
from rim_bench.engine.distributed.trainer import TRAINING
from rim_bench.engine.distributed.workers import WorkerGroup
from rim_bench.engine.generate import Sampling, Score, score
from rim_bench.engine.trained_model import TrainedModel
from rim_bench.evaluate.multiple_choice import ChoicePredictor
from rim_bench.evaluate.predict import Prediction, Predictor
from rim_bench.methods.layout import Layout
from rim_bench.methods.registry import method_of
from rim_bench.storage.records import RunSpec

MODEL = "model"  # what a group keeps the parts of the model as that is evaluated
OnBatch = Callable[[int], None]
Question = tuple[int, ...]
Result = TypeVar("Result")


@dataclass(frozen=True)
class GenerateBatch:
    """A batch of questions, as `Predictor.answer` takes it."""

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


Batch = TypeVar("Batch", GenerateBatch, ScoreBatch)


def answer_all(
    predictor: Predictor, batches: Sequence[GenerateBatch], on_batch: OnBatch | None = None
) -> list[list[Prediction]]:
    """The answers to all batches, in their order; `on_batch` hears how many questions were answered, batch by batch.

    Raises:
        RuntimeError: another process failed; its traceback is in the message.
    """

    def answer(batch: GenerateBatch) -> list[Prediction]:
        return predictor.answer(batch.layouts, batch.limit, batch.until, batch.questions, batch.kind)

    offered = predictor.offered if isinstance(predictor, ChoicePredictor) else None
    settings = (predictor.effort, predictor.probe, predictor.sampling, predictor.split, offered)
    return _share_out(predictor.trained, batches, answer, _answer_batches, settings, on_batch)


def score_all(trained: TrainedModel, batches: Sequence[ScoreBatch]) -> list[list[list[Score]]]:
    """The scores of all batches, in their order.

    Raises:
        RuntimeError: another process failed; its traceback is in the message.
    """

    def score_batch(batch: ScoreBatch) -> list[list[Score]]:
        return score(trained.workspace, batch.layouts, batch.choices)

    return _share_out(trained, batches, score_batch, _score_batches, (), None)


def shared(batches: Sequence[GenerateBatch | ScoreBatch], size: int) -> list[list[int]]:
    """Which batches each process takes: the largest first, each to the one that has least."""
    shares: list[list[int]] = [[] for _ in range(size)]
    load = [0] * size
    for i in sorted(range(len(batches)), key=lambda i: -batches[i].work):
        to = load.index(min(load))
        shares[to].append(i)
        load[to] += batches[i].work
    return [sorted(share) for share in shares]


def _share_out(
    trained: TrainedModel,
    batches: Sequence[Batch],
    work: Callable[[Batch], list[Result]],
    work_elsewhere: Callable[..., list[list[Result]]],
    settings: tuple[Any, ...],
    on_batch: OnBatch | None,
) -> list[list[Result]]:
    """The results of every batch, by `work` here and by `work_elsewhere(trained, batches, *settings)` in a worker."""

    def own(batch: Batch) -> list[Result]:
        results = work(batch)
        if on_batch is not None:
            on_batch(len(results))
        return results

    group = trained.execution.group
    if group is None or len(batches) < 2:
        return [own(batch) for batch in batches]
    shares = shared(batches, group.size)
    spec = _send_model(group, trained)
    group.send(_do_share, [(spec, work_elsewhere, [_packed(batches[i]) for i in s], settings) for s in shares[1:]])
    failed: Exception | None = None
    mine: list[list[Result]] = []
    try:
        mine = [own(batches[i]) for i in shares[0]]
    except Exception as error:  # what the workers have done is waiting to be taken
        failed = error
    except BaseException:  # the user ends it: nobody waits for the workers, which hear of it when this process is gone
        group.sound = False
        raise
    every = group.gather(mine)
    if failed is not None:
        raise failed
    out: dict[int, list[Result]] = {}
    for rank, (share, results) in enumerate(zip(shares, every, strict=True)):
        if isinstance(results, str):
            raise RuntimeError(f"process {rank} of {group.size} failed:\n{results}")
        out.update(zip(share, results, strict=True))
        if rank and on_batch is not None:
            on_batch(sum(map(len, results)))
    return [out[i] for i in range(len(batches))]


def _send_model(group: WorkerGroup, trained: TrainedModel) -> RunSpec | None:
    """Make sure that every process has the model.

    Returns its specification where it is the one being trained, which they have anyway.
    """
    training = group.kept.get(TRAINING)
    if training is not None and training.backbone is trained.backbone:
        return trained.spec
    if MODEL not in group.kept or group.kept[MODEL][0] is not trained.backbone:
        group.run(WorkerGroup.forget, MODEL)  # not two of them at once
        group.run(_keep_model, trained.backbone, trained.bridges, trained.spec)
    return None


def _packed(batch: Batch) -> Batch:
    """What a worker needs of a batch: prompts follow from their questions."""
    return replace(batch, layouts=()) if isinstance(batch, GenerateBatch) else batch


# What a worker runs
def _keep_model(group: WorkerGroup, *parts: Any) -> None:
    group.kept[MODEL] = parts


def _do_share(
    group: WorkerGroup,
    spec: RunSpec | None,
    work: Callable[..., list[Any]],
    batches: Sequence[GenerateBatch | ScoreBatch],
    settings: tuple[Any, ...],
) -> None:
    """Batches to the model being trained, whose `spec` is given, or to the one that was sent.

    In evaluation mode and without a trace in the random state. What goes wrong is the leader's to tell.
    """
    if spec is None:
        backbone, bridges, spec = group.kept[MODEL]
    else:
        backbone, bridges = group.kept[TRAINING].backbone, group.kept[TRAINING].bridges
    trained = TrainedModel(backbone, method_of(spec.method), bridges, spec)
    results: list[Any] | str
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count())))
        for module in (backbone.model, bridges):
            stack.callback(module.train, module.training)
            module.eval()
        try:
            results = work(trained, batches, *settings)
        except Exception:
            results = traceback.format_exc()
    group.gather(results)


def _answer_batches(
    trained: TrainedModel,
    batches: Sequence[GenerateBatch],
    effort: int | None,
    probe: bool,
    sampling: Sampling | None,
    split: bool,
    offered: Mapping[Question, Sequence[str]] | None,
) -> list[list[Prediction]]:
    predictor = Predictor(trained, effort, probe=probe, sampling=sampling, split=split)
    if offered is not None:
        predictor = ChoicePredictor(predictor, offered)
    return [
        predictor.answer([predictor.prompt(q) for q in b.questions], b.limit, b.until, b.questions, b.kind)
        for b in batches
    ]


def _score_batches(trained: TrainedModel, batches: Sequence[ScoreBatch]) -> list[list[list[Score]]]:
    return [score(trained.workspace, b.layouts, b.choices) for b in batches]
