"""Answering questions on several processes: each takes whole batches, the leader puts the answers back in order.

Batches are those of one process, so that every record but the times is the same, to the last digit: the same rows stand beside each other.
There is then no more to share than there are batches; a smaller `--eval-batch-size` makes more of them.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from rim_bench import processes
from rim_bench.answering import Answered, Answerer
from rim_bench.choosing import Chooser
from rim_bench.generate import Sampling
from rim_bench.layout import Layout
from rim_bench.processes import Team
from rim_bench.tasks.answers import Kind
from rim_bench.trained import Trained

OnBatch = Callable[[int], None]


@dataclass(frozen=True)
class Asked:
    """A batch of questions, as `Answerer.answer` takes it."""

    layouts: Sequence[Layout]
    questions: Sequence[tuple[int, ...]]
    limit: int
    until: tuple[str, ...]
    kind: Kind = "auto"

    @property
    def work(self) -> int:
        """Columns of the prompts and of answers up to the cap: what shares are balanced by."""
        return len(self.layouts) * (max(row.size for row in self.layouts) + self.limit)


@dataclass(frozen=True)
class How:
    """An answerer without its model."""

    effort: int | None
    probe: bool
    sampling: Sampling | None
    split: bool
    offered: Mapping[tuple[int, ...], Sequence[str]] | None

    @classmethod
    def of(cls, answerer: Answerer) -> How:
        offered = answerer.offered if isinstance(answerer, Chooser) else None
        return cls(answerer.effort, answerer.probe, answerer.sampling, answerer.split, offered)

    def answerer(self, trained: Trained) -> Answerer:
        """The same answerer on another process."""
        made = Answerer(trained, self.effort, probe=self.probe, sampling=self.sampling, split=self.split)
        return made if self.offered is None else Chooser(made, self.offered)


def answer_all(answerer: Answerer, batches: Sequence[Asked], on_batch: OnBatch | None = None) -> list[list[Answered]]:
    """The answers to all batches, in their order; `on_batch` hears how many questions were answered, batch by batch.

    Raises:
        RuntimeError: another process failed; its traceback is in the message.
    """
    team = processes.team()
    if team is None or len(batches) < 2:
        return [_one(answerer, batch, on_batch) for batch in batches]
    shares = shared(batches, team.size)
    live = team.live is answerer.backbone
    if not live and team.sent is not answerer.backbone:
        team.sent = None
        with team.job():
            team.tell_all("load", answerer.backbone.device.type)
            team.give((answerer.backbone, answerer.trained.bridges, answerer.trained.spec))
        team.sent = answerer.backbone
    how = How.of(answerer)
    jobs = [(how, [(batches[i].questions, batches[i].limit, batches[i].until, batches[i].kind) for i in share]) for share in shares]
    spec = answerer.trained.spec if live else None
    team.hand_out([("answer", spec, *job) for job in jobs])
    failed: Exception | None = None
    mine: list[list[Answered]] = []
    try:
        mine = [_one(answerer, batches[i], on_batch) for i in shares[0]]
    except Exception as error:  # the others' answers are waiting to be taken
        failed = error
    found = team.collect(mine)
    if failed is not None:
        raise failed
    out: dict[int, list[Answered]] = {}
    for rank, (share, answers) in enumerate(zip(shares, found, strict=True)):
        if isinstance(answers, str):
            raise RuntimeError(f"process {rank} of {team.size} failed:\n{answers}")
        out.update(zip(share, answers, strict=True))
        if rank and on_batch is not None:
            on_batch(sum(map(len, answers)))
    return [out[i] for i in range(len(batches))]


def shared(batches: Sequence[Asked], size: int) -> list[list[int]]:
    """Which batches each process takes: the largest first, each to who has least."""
    shares: list[list[int]] = [[] for _ in range(size)]
    load = [0] * size
    for i in sorted(range(len(batches)), key=lambda i: -batches[i].work):
        to = load.index(min(load))
        shares[to].append(i)
        load[to] += batches[i].work
    return [sorted(share) for share in shares]


def _one(answerer: Answerer, batch: Asked, on_batch: OnBatch | None) -> list[Answered]:
    done = answerer.answer(batch.layouts, batch.limit, batch.until, batch.questions, batch.kind)
    if on_batch is not None:
        on_batch(len(done))
    return done


def answer_job(team: Team, trained: Trained, how: How, batches: Sequence[tuple[Any, ...]]) -> None:
    """A follower's part. Whatever goes wrong is the leader's to tell."""
    modules = (trained.backbone.model, trained.bridges)
    before = [m.training for m in modules]
    found: list[list[Answered]] | str = []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count())))
        for module, training in zip(modules, before, strict=True):
            stack.callback(module.train, training)
            module.eval()
        try:
            answerer = how.answerer(trained)
            found = [
                answerer.answer([answerer.prompt(q) for q in questions], limit, until, questions, kind)
                for questions, limit, until, kind in batches
            ]
        except Exception:
            found = traceback.format_exc()
    team.collect(found)
