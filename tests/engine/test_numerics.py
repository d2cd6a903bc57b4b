"""The numbers that the engine gives, pinned to its version: a change that moves them must raise the version.

In float64 and on one thread, so that processors agree; the store of numbers is `numerics.json` beside this file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from rim_bench.compute.backbones import resolve_backbone
from rim_bench.data.datasets import evaluation_data, training_data
from rim_bench.data.task import load_task
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.numerics import NUMERICS_VERSION
from rim_bench.engine.trained_model import TrainedModel, build_bridges
from rim_bench.engine.trainer import Trainer
from rim_bench.evaluate.predict import Predictor
from rim_bench.methods.registry import load_method, shipped_methods
from rim_bench.methods.schedule import TrainingPlan

STORED = Path(__file__).with_name("numerics.json")
STEPS, QUESTIONS, TOKENS = 20, 64, 12


class Unstored:
    """A journal of a run that is not stored: it keeps the losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def append_metrics(self, record: dict[str, Any]) -> None:
        self.losses.append(record["loss"])

    def truncate_metrics(self, step: int) -> None: ...

    def latest_checkpoint(self) -> None: ...

    @contextmanager
    def checkpoint(self, step: int) -> Iterator[Path]:
        raise AssertionError("a plan without checkpoints writes none")
        yield Path()


@cache
def examples(part: str) -> tuple[Any, ...]:
    """Forty training rows of the embedded task, or its first questions."""
    task = load_task("chain")
    data = training_data(task, limit=40)[0] if part == "train" else evaluation_data(task, limit=QUESTIONS)
    return tuple(data.examples)


def measure(name: str, family: str) -> dict[str, Any]:
    """Losses of the first steps of a tiny run, and a digest of the tokens with which it answers."""
    task = load_task("chain")
    rows = examples("train")
    settings = {"rim": {"K": 2, "epochs_ground": 1, "epochs_refine": 1}}.get(name, {})
    method = load_method(name, settings)
    shape = {"layers": 1, "width": 32, "heads": 2, "vocabulary": 300, "dropout": 0.1}
    texts = ["\n".join([row.question, *row.steps, f"#### {row.answer}"]) for row in rows]
    backbones = [
        Backbone.create(
            resolve_backbone(family, shape), texts=texts, pattern=task.token_pattern, markers=method.markers(), seed=0
        )
        for _ in range(2)
    ]
    backbone, untrained = backbones
    for b in backbones:
        b.model.double()
    bridges = build_bridges(method, backbone, 0).double()
    plan = TrainingPlan(examples=STEPS * 8, batch_size=8, micro_batch=4, lr=3e-3, checkpoints=1)
    journal = Unstored()
    data = [backbone.encode_example(e) for e in method.transform(rows, 0)]
    Trainer(backbone, method, bridges, data, plan, journal).run()
    with torch.no_grad():  # after so short a training every question has one answer, which would show nothing
        for name_, parameter in untrained.model.named_parameters():
            if parameter.ndim > 1 and not any(table in name_ for table in ("embed", "wte", "wpe", "lm_head")):
                parameter.mul_(5.0)
    predictor = Predictor(TrainedModel(untrained, method, bridges.eval(), None))  # type: ignore[arg-type]  # no spec
    questions = [backbone.encode_question(e.question) for e in examples("test")]
    tokens: list[tuple[int, ...]] = []
    for at in range(0, QUESTIONS, 16):
        layouts = [predictor.prompt(q) for q in questions[at : at + 16]]
        tokens += [tuple(c.tokens) for (c,) in predictor.complete(layouts, TOKENS, None)]
    assert len(set(tokens)) > 1, "answers that do not depend on the question show nothing"
    digest = hashlib.sha256(repr(tokens).encode()).hexdigest()
    return {"losses": journal.losses, "tokens_sha256": digest}


SHIPPED = [load_method(name) for name in sorted(shipped_methods())]
CASES = [(m.name, "tiny") for m in SHIPPED if m.adapter_of is None and m.trains != "nothing"]
CASES += [("rim", "tiny-gpt2"), ("coconut", "tiny-gpt2")]


@pytest.mark.parametrize(("name", "family"), CASES, ids=lambda v: str(v))
def test_what_the_engine_computes_has_changed_only_with_its_version(name: str, family: str) -> None:
    stored = json.loads(STORED.read_text())
    advice = (
        "raise NUMERICS_VERSION in rim_bench/engine/numerics.py, say there what changed, and store the new numbers "
        "with `python tests/engine/test_numerics.py`"
    )
    assert stored["version"] == NUMERICS_VERSION, f"numerics.json is of version {stored['version']}: {advice}"
    before, torch_threads = stored["runs"][f"{name} {family}"], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        now = measure(name, family)
    finally:
        torch.set_num_threads(torch_threads)
    moved = [
        k for k, (a, b) in enumerate(zip(before["losses"], now["losses"], strict=True)) if abs(a - b) > 1e-6 * abs(a)
    ]
    assert not moved, f"the loss of {name} on {family} differs from step {moved[0]} on: {advice}"
    assert now["tokens_sha256"] == before["tokens_sha256"], f"the answers of {name} on {family} differ: {advice}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    runs = {f"{name} {family}": measure(name, family) for name, family in CASES}
    STORED.write_text(json.dumps({"version": NUMERICS_VERSION, "runs": runs}, indent=1) + "\n")
