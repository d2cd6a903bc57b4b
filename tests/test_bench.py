"""The benchmark compares equal work, and reports what it measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rim_bench.bench import PlainLoop, _Arm, measure, report
from rim_bench.errors import UsageError
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
    rows = arm.trainer.layouts(arm.span, 0, range(8))
    with torch.no_grad():
        ours, _ = tree_loss(arm.backbone, arm.trainer.workspace.forward(rows), group_counts(rows))
        assert float(ours) == pytest.approx(float(arm.plain.loss(range(8))), abs=1e-5)
        other = PlainLoop(arm.backbone, arm.data, arm.trainer, "cot" if method == "direct" else "direct")
        assert float(ours) != pytest.approx(float(other.loss(range(8))), abs=1e-3)  # other work has another loss


def test_measurements_have_their_shape(tmp_path: Path) -> None:
    measured = measure(options(("direct", "rim"), tmp_path / "out"), rounds=1)
    assert list(measured["methods"]) == ["direct", "rim"] and measured["methods"]["rim"]["against"] == "cot"
    for one in measured["methods"].values():
        assert all(0 < one[key]["low"] <= one[key]["median"] <= one[key]["high"] for key in ("train", "plain", "ratio", "decode"))
    assert report(measured).row_count == 2
    assert not (tmp_path / "out").exists()  # nothing is left behind


def test_no_rounds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rounds 0"):
        measure(options(("direct",), tmp_path), rounds=0)
