"""Trunks of tiny models with random weights, and a trained-looking run that is asked questions about them."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from fabricated import train
from torch import Tensor, nn

from rim_bench.analysis.batches import CleanBatch, Reading
from rim_bench.analysis.passes import Passes
from rim_bench.analysis.trunks import Tokens, Trunk, trunk_of
from rim_bench.compute.backbones import resolve_backbone
from rim_bench.data.datasets import evaluation_data
from rim_bench.data.reader import Split
from rim_bench.data.task import load_task
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.packing import PackedModel
from rim_bench.engine.trained_model import TrainedModel
from rim_bench.evaluate.evaluation import EvaluationRequest
from rim_bench.evaluate.stored_runs import LoadedRun
from rim_bench.methods.layout import Layout
from rim_bench.methods.method import Example, Method
from rim_bench.models.rim import Rim
from rim_bench.storage.run_folder import Run, Store

MARK: Tokens = (11, 12)
QUESTIONS = 48
HEAD = Backbone.head


def passes(backbone: Backbone, limit: int = 3) -> Passes:
    return Passes(PackedModel(backbone), MARK, limit, lambda tokens: False)


def rows(method: Method, count: int = 3, size: int = 6) -> list[Trunk]:
    """Trunks of random questions of one length."""
    rng = random.Random(1)
    questions = [tuple(rng.randrange(5, 200) for _ in range(size)) for _ in range(count)]
    return [trunk_of(Example(f"q{k}", f"q{k}", (), "1"), q, method.lay_prompt(q)) for k, q in enumerate(questions)]


@dataclasses.dataclass(frozen=True)
class Ignored(Rim):
    """Blocks that the answer cannot see."""

    def lay_prompt(self, question: tuple[int, ...], effort: int | None = None) -> Layout:
        trunk = self._trunk(question, self.K if effort is None else effort)
        return Layout(trunk.segments, trunk.resume, frozenset(s.name for s in trunk.segments[1:]))


@cache
def digits() -> Backbone:
    """Two layers with random enlarged weights, and the embedded task's tokenizer."""
    task = load_task("chain")
    texts = [f"{e.question}\n#### {e.answer}" for e in questions()]
    spec = resolve_backbone("tiny", {"layers": 2, "width": 32, "heads": 2, "vocabulary": 300, "max_positions": 128})
    backbone = Backbone.create(spec, texts=texts, pattern=task.token_pattern, markers=Rim().markers(), seed=1)
    with torch.no_grad():
        for name, p in backbone.model.named_parameters():
            if p.ndim > 1 and ".layers." in name:
                p.mul_(5.0)
    backbone.model.eval()
    return backbone


def questions() -> Sequence[Example]:
    task = load_task("chain")
    known = [e for e in evaluation_data(task, limit=100).examples if e.level not in task.ood_levels]
    return known[:QUESTIONS]


def asked_run(store: Store, method: Method, monkeypatch: pytest.MonkeyPatch, *, seed: int = 0) -> Run:
    """A run whose model says a digit behind the mark, and for which its own answers are the right ones.

    So its accuracy is 100 %, and whatever changes its answers costs accuracy: no training is needed.
    """
    run = train(store, "rim", seed=seed)
    backbone = digits()
    allowed = [backbone.encode(str(d))[0] for d in range(10)]

    def head(self: Backbone, hidden: Tensor) -> Tensor:
        logits = HEAD(self, hidden)
        kept = torch.full_like(logits, -1e4)
        kept[..., allowed] = 30 * logits[..., allowed]
        return kept

    monkeypatch.setattr(Backbone, "head", head)
    trained = TrainedModel(backbone, method, nn.ModuleDict(), run.spec)
    trunks = []
    for example in questions():
        question = backbone.encode_question(example.question)
        trunks.append(trunk_of(example, question, method.lay_prompt(question)))
    [(tokens, _, _)] = CleanBatch(trunks, Reading.of(trained, 1, "number")).results(trained)
    examples = [
        dataclasses.replace(t.example, answer=backbone.decode(own)) for t, own in zip(trunks, tokens, strict=True)
    ]
    split = Split(tuple(examples), "made up", "test")
    monkeypatch.setattr(LoadedRun, "trained", trained)
    monkeypatch.setattr(EvaluationRequest, "dataset", lambda self: split)
    return run


OPTIONS: dict[str, Any] = {"task": "chain", "limit": QUESTIONS, "max_tokens": 1, "device": "cpu", "eval_batch_size": 48}
