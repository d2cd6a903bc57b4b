"""A backbone as it is behind lm-eval's interface: what lm-eval's own model of the same weights answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from engine_models import CHAT, base_folder
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch import nn

from rim_bench.baselines.base import Base
from rim_bench.compute.backbones import resolve_backbone
from rim_bench.engine.backbone import UNTRAINED, Backbone
from rim_bench.engine.trained_model import TrainedModel
from rim_bench.evaluate.lm_eval_model import RimLM
from rim_bench.storage.records import RunSpec

ROWS = [{"q": f"How many are {k} + {k + 1}?", "c": [str(2 * k + 1), f"{k} apples", "pears "], "a": 0} for k in range(5)]
HEAD = """dataset_path: json
test_split: test
doc_to_text: "Question: {{q}}\\nAnswer:"
metadata: {version: 1}
"""
TASKS = {
    "toy_choice": (
        'output_type: multiple_choice\ndoc_to_choice: "{{c}}"\ndoc_to_target: a\nmetric_list: [{metric: acc}]\n'
    ),
    "toy_text": (
        'output_type: generate_until\ndoc_to_target: "{{c[0]}}"\nmetric_list: [{metric: exact_match}]\n'
        'generation_kwargs: {until: ["Question:", "a"], max_gen_toks: 6}\n'
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = base_folder("tiny", tmp_path_factory.mktemp("untrained") / "model", {"max_position_embeddings": 300})
    (target / "chat_template.jinja").write_text(CHAT)
    return target


def answers(model: Any, folder: Path, tmp_path: Path, **options: Any) -> dict[str, list[Any]]:
    """What a model says to the documents of both tasks."""
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, text in TASKS.items():
        files = f"dataset_kwargs: {{data_files: {{test: {tmp_path}/test.jsonl}}}}\n"
        (tmp_path / f"{name}.yaml").write_text(f"task: {name}\n{HEAD}{files}{text}")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    done = simple_evaluate(model, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0, **options)
    assert done is not None
    return {name: [s["resps"] for s in done["samples"][name]] for name in TASKS}


@pytest.mark.parametrize("chat", [False, True])
def test_lm_evals_prompts_are_asked_as_they_stand(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chat: bool
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    backbone = Backbone.create({**resolve_backbone(str(folder)), "tuning": UNTRAINED})
    trained = TrainedModel(backbone, Base(), nn.ModuleDict(), RunSpec(), shown=())
    lm = RimLM(trained=trained)
    ours = answers(lm, folder, tmp_path, apply_chat_template=chat)
    theirs = answers(
        HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=2),
        folder,
        tmp_path,
        apply_chat_template=chat,
    )
    assert ours["toy_text"] == theirs["toy_text"]
    for mine, other in zip(ours["toy_choice"], theirs["toy_choice"], strict=True):
        for (likelihood,), (expected,) in zip(mine, other, strict=True):
            assert likelihood[0] == pytest.approx(expected[0], abs=1e-3)
    assert len({round(scores[0][0][0], 2) for scores in ours["toy_choice"]}) > 1
    assert lm.differs == 0  # nothing was trained that a prompt could differ from
