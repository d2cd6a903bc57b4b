"""The rows that a pretrained backbone is asked: the rivals compute the same, and every row is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engine_models import base_folder

from rim_bench.bench import pretrained as asked
from rim_bench.bench.arms import Bench
from rim_bench.bench.record import Spread
from rim_bench.bench.rivals import PeftStock
from rim_bench.bench.session import matrix_peak
from rim_bench.runs.options import Options
from rim_bench.util.errors import UsageError


def options(folder: Path, out: Path, **more: object) -> Options:
    return Options(
        methods=("cot",),
        task="chain",
        model=str(folder),
        limit=12,
        batch_size=4,
        device="cpu",
        out=out,
        lr=1e-3,
        **{"backbone": {"lora_rank": 4}, **more},  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_folder("tiny", tmp_path_factory.mktemp("bases") / "tiny", {"max_position_embeddings": 256})


def test_peft_beside_us_has_our_weights(folder: Path, tmp_path: Path) -> None:
    backbone = Bench(options(folder, tmp_path)).arm("cot").backbone
    with torch.no_grad():
        for name, p in backbone.parameters_to_train():
            if "lora_B" in name:
                p.normal_(std=0.1)
        stock = PeftStock(backbone)
        ids = torch.arange(4, 16).view(2, 6)
        theirs = stock.model(input_ids=ids, use_cache=False).logits
        ours = backbone.head(backbone.run(backbone.embed(ids), None, torch.arange(6).expand(2, 6)))
    assert stock.model is not backbone.model
    assert float((theirs[..., : backbone.vocabulary] - ours).abs().max()) < 1e-4


def test_every_row_is_measured(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "memory_of", lambda options, rounds: Spread((3.5e9,)))  # a process for each value
    measured = asked.pretrained(options(folder, tmp_path), 1, 2, 3)
    assert [t.number for t in measured.targets] == ["1", "2", "3", "4", "5", "6"]
    assert all(t.value.median > 0 for t in measured.targets) and not measured.targets[5].holds
    assert [line.unit for line in measured.lines] == ["ms", "ms"] and all(line.ours.low > 0 for line in measured.lines)
    assert measured.lines[1].ours.median > measured.lines[0].ours.median / 2


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pretrained backbone tuned with LoRA"):
        asked.pretrained(Options(methods=("cot",), task="chain", limit=12, out=tmp_path), 1, 2, 3)


def test_the_clock_and_the_peak() -> None:
    device = torch.device("cpu")
    ticks = iter(range(1000))
    assert matrix_peak(device, "bfloat16", lambda: float(next(ticks)), 2) == 2 * 1024**3
