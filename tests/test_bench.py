"""The benchmark compares equal work, and reports what it measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rim_bench.bench import PlainLoop, _Arm, measure, report
from rim_bench.errors import UsageError
from rim_bench.generate import decode
from rim_bench.losses import group_counts, tree_loss
from rim_bench.run import Study
from rim_bench.run_options import Options

TINY = {"width": 16, "layers": 1, "heads": 2}


def options(methods: tuple[str, ...], out: Path) -> Options:
    return Options(methods=methods, task="chain", out=out, limit=40, backbone=TINY, batch_size=8, quick=True, start="recipe")


@pytest.mark.parametrize("method", ["direct", "cot"])
def test_the_plain_loop_does_the_same_work(method: str, tmp_path: Path) -> None:
    study = Study(options((method,), tmp_path))
    arm = _Arm(study, study.cells[0])
    rows = arm.trainer.layouts(arm.span, 0, 0, range(8))
    with torch.no_grad():
        ours, _ = tree_loss(arm.backbone, arm.trainer.workspace.forward(rows), group_counts(rows))
        assert float(ours) == pytest.approx(float(arm.plain.loss(range(8))), abs=1e-5)
        other = PlainLoop(arm.backbone, arm.data, arm.trainer, "cot" if method == "direct" else "direct")
        assert float(ours) != pytest.approx(float(other.loss(range(8))), abs=1e-3)  # other work has another loss


def test_hugging_face_decodes_the_same_tokens(tmp_path: Path) -> None:
    study = Study(options(("direct",), tmp_path))
    arm = _Arm(study, study.cells[0])
    questions = [arm.data[i].question for i in range(8)]
    theirs = arm.plain.generate(questions, 5)[:, -5:].tolist()
    ours = decode(arm.trainer.workspace, [arm.method.lay_prompt(q) for q in questions], max_tokens=5)
    for row, done in zip(theirs, ours, strict=True):
        (completion,) = done.values()
        assert completion.tokens == tuple(row) and completion.generated == 5  # a random model runs into the cap: equal work


def test_a_stage_is_timed_with_its_dropout_and_leaves_the_weights_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(options(("rim",), tmp_path))
    arm = _Arm(study, study.cells[0])
    before = {name: p.detach().clone() for name, p in arm.backbone.parameters_to_train()}
    seen: dict[str, list[float]] = {"ours": [], "plain": []}

    def note(who: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            seen[who].append(arm.backbone.causal.model.layers[0].self_attn.attention_dropout)
            return work(*args)

        return noted

    monkeypatch.setattr(arm.trainer, "_step", note("ours", arm.trainer._step))
    monkeypatch.setattr(arm.plain, "step", note("plain", arm.plain.step))
    arm.round()
    assert set(seen["ours"]) == {0.1} and set(seen["plain"]) == {0.0} and len(seen["ours"]) == len(seen["plain"])
    for name, p in arm.backbone.parameters_to_train():
        assert torch.allclose(p, before[name], atol=1e-8), name


def test_measurements_have_their_shape(tmp_path: Path) -> None:
    measured = measure(options(("direct", "rim"), tmp_path / "out"), rounds=1)
    assert list(measured["methods"]) == ["direct", "rim"] and measured["methods"]["rim"]["against"] == "cot"
    for one in measured["methods"].values():
        spreads = [v for v in one.values() if isinstance(v, dict)]
        assert len(spreads) == 7 and all(0 < v["low"] <= v["median"] <= v["high"] for v in spreads)
    assert json.loads(json.dumps(measured)) == measured
    assert report(measured).row_count == 2
    assert not (tmp_path / "out").exists()  # nothing is left behind


def test_no_rounds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rounds 0"):
        measure(options(("direct",), tmp_path), rounds=0)
