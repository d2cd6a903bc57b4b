"""Evaluating on several processes: each takes whole batches of questions, the leader puts the results back in order.

Batches are those of one process, so that every record but the times is the same, to the last digit: the same rows stand
beside each other. There is no more to share than there are batches: a smaller `--eval-batch-size` makes more.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from rim_bench.data.answers import Kind
from rim_bench.engine.distributed.trainer import TRAINING
from rim_bench.engine.distributed.workers import WorkerGroup
from rim_bench.engine.generate import ChoiceScore, score
from rim_bench.engine.trained_model import TrainedModel
from rim_bench.evaluate.multiple_choice import ChoicePredictor
from rim_bench.evaluate.predict import Prediction, Predictor
from rim_bench.methods.layout import Layout
from rim_bench.methods.registry import method_of
from rim_bench.storage.records import RunSpec
from rim_bench.util.own_files import OwnFile, allow, allowed

MODEL = "model"  # a group keeps the parts of the model that is evaluated under this name
OnBatch = Callable[[int], None]
Question = tuple[int, ...]


@dataclass(frozen=True)
class GenerateBatch:
    """A batch of questions, as `Predictor.answer` takes it; a worker gets it without layouts and makes them itself."""

    layouts: Sequence[Layout]
    questions: Sequence[Question]
    limit: int
    until: tuple[str, ...]
    kind: Kind = "auto"

    @property
    def work(self) -> int:
        """Columns of the prompts and of answers up to the cap: what shares are balanced by."""
        return len(self.layouts) * (max(row.size for row in self.layouts) + self.limit)

    def results(self, predictor: Predictor) -> list[Prediction]:
        """The answers."""
        layouts = self.layouts or [predictor.prompt(q) for q in self.questions]
        return predictor.answer(layouts, self.limit, self.until, self.questions, self.kind)


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

    def results(self, trained: TrainedModel) -> list[list[ChoiceScore]]:
        """The scores of each prompt's continuations."""
        return score(trained.workspace, self.layouts, self.choices)


def answer_all(
    predictor: Predictor, batches: Sequence[GenerateBatch], on_batch: OnBatch | None = None
) -> list[list[Prediction]]:
    """The answers to all batches, in their order; `on_batch` hears how many questions were answered, batch by batch.

    Raises:
        RuntimeError: another process failed; its traceback is in the message.
    """
    offered = predictor.offered if isinstance(predictor, ChoicePredictor) else None
    names = ("effort", "probe", "sampling", "split")
    settings = {name: getattr(predictor, name) for name in names} | {"offered": offered}
    return _share_out(predictor.trained, batches, predictor, settings, on_batch)


def score_all(trained: TrainedModel, batches: Sequence[ScoreBatch]) -> list[list[list[ChoiceScore]]]:
    """The scores of all batches, in their order.

    Raises:
        RuntimeError: another process failed; its traceback is in the message.
    """
    return _share_out(trained, batches, trained, None, None)


class ModelBatch(Protocol):
    """Work that asks the trained model itself; it and what it returns can be pickled."""

    @property
    def work(self) -> int: ...  # what shares are balanced by
    def results(self, trained: TrainedModel) -> list[Any]: ...


def run_all(trained: TrainedModel, batches: Sequence[ModelBatch]) -> list[list[Any]]:
    """The results of all batches, in their order.

    Raises:
        RuntimeError: another process failed; its traceback is in the message.
    """
    return _share_out(trained, batches, trained, None, None)


def shared(batches: Sequence[Any], size: int) -> list[list[int]]:
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
    batches: Sequence[Any],
    subject: Any,
    settings: dict[str, Any] | None,
    on_batch: OnBatch | None,
) -> list[list[Any]]:
    """The results of every batch for `subject`; a worker makes its own subject of the model and `settings`."""

    def own(batch: Any) -> list[Any]:
        results: list[Any] = batch.results(subject)
        if on_batch is not None:
            on_batch(len(results))
        return results

    group = trained.execution.group
    if group is None or len(batches) < 2:
        return [own(batch) for batch in batches]
    shares = shared(batches, group.size)
    training = group.kept.get(TRAINING)
    spec = None if training is None or training.backbone is not trained.backbone else trained.spec
    if spec is None and (MODEL not in group.kept or group.kept[MODEL][0] is not trained.backbone):
        group.run(WorkerGroup.forget, MODEL)  # not two of them at once
        group.run(WorkerGroup.keep, MODEL, (trained.backbone, trained.bridges, trained.spec))
    sent = [replace(b, layouts=()) if isinstance(b, GenerateBatch) else b for b in batches]
    file = allowed(trained.spec.method.file_sha256)
    group.send(_do_share, [(spec, [sent[i] for i in share], settings, file) for share in shares[1:]])
    failed: Exception | None = None
    mine: list[list[Any]] = []
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
    out: dict[int, list[Any]] = {}
    for rank, (share, results) in enumerate(zip(shares, every, strict=True)):
        if isinstance(results, str):
            raise RuntimeError(f"process {rank} of {group.size} failed:\n{results}")
        out.update(zip(share, results, strict=True))
        if rank and on_batch is not None:
            on_batch(sum(map(len, results)))
    return [out[i] for i in range(len(batches))]


# What a worker runs


def _do_share(
    group: WorkerGroup,
    spec: RunSpec | None,
    batches: Sequence[Any],
    settings: dict[str, Any] | None,
    file: OwnFile | None,
) -> None:
    """Gathers the results of batches; a failure is gathered as its traceback, which the leader raises.

    The model is in evaluation mode, and the random state stays as it is.

    Args:
        spec: that of the model being trained, which then answers; None: the model that was sent does.
        settings: of the predictor that answers; None: the batches are scored.
        file: of one's own method, which the leader was given.
    """
    if file is not None:
        allow(file)
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
            subject: Any = trained
            if settings is not None:
                offered = settings.pop("offered")
                subject = Predictor(trained, **settings)
                subject = subject if offered is None else ChoicePredictor(subject, offered)
            results = [batch.results(subject) for batch in batches]
        except Exception:
            results = traceback.format_exc()
    group.gather(results)
