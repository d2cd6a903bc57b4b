"""The accuracy gate against sound weights and a broken engine: every sabotage must turn it red.

Not part of the suite: a few minutes.

    pytest tests/sabotages.py

Training can learn around such faults, so they are applied at evaluation. The equivalence tests have the same sabotages
as their negative controls (tests/engine/test_equivalence.py).
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rim_bench.cli import main
from rim_bench.engine import generate, packing
from rim_bench.storage.run_folder import Store

GATE = Path(__file__).parent.parent / "results" / "gate"
METHODS = ("rim", "cot", "coconut")


def broken_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns see their own segment only."""

    def visible(sees: Tensor, q_segment: Tensor, q_index: Tensor, k_segment: Tensor, k_index: Tensor) -> Tensor:
        return (q_segment[:, :, None] == k_segment[:, None, :]) & (k_index[:, None, :] <= q_index[:, :, None])

    monkeypatch.setattr(packing, "visible", visible)


def shifted_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated tokens stand one position too far."""
    real = packing.PackedModel.extend

    def extend(self: Any, columns: Any, tokens: Tensor, segment: Tensor, index: Tensor, position: Tensor) -> Tensor:
        return real(self, columns, tokens, segment, index, position + 1)

    monkeypatch.setattr(packing.PackedModel, "extend", extend)


def shifted_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first token is read at the column before the one that predicts it."""
    real = generate._open_branches

    def open_branches(parts: Any, places: Any) -> Any:
        kept = [part.place for part in parts]
        for part in parts:
            part.place = [[row[max(0, c - 1)] for c in range(len(row))] for row in part.place]
        try:
            return real(parts, places)
        finally:
            for part, place in zip(parts, kept, strict=True):
                part.place = place

    monkeypatch.setattr(generate, "_open_branches", open_branches)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["rim-bench", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    return int(stopped.value.code or 0)


def gate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[int, dict[str, str]]:
    """Exit code of the gate, which evaluates the stored weights, and the verdict for each method."""
    shutil.copytree(GATE, folder)
    runs = [r.id for r in Store(folder).runs()[0]]
    report = folder / "check.json"
    code = command(
        monkeypatch,
        "check",
        *runs,
        "--against",
        GATE / "baseline.toml",
        "--margin",
        "2",
        "--out",
        folder,
        "--json",
        report,
    )
    verdicts = json.loads(report.read_text())["checks"]
    return code, {v["name"].split("-chain")[0]: v["verdict"] for v in verdicts}


def test_sound_weights_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, verdicts = gate(monkeypatch, tmp_path / "gate")
    assert code == 0 and verdicts == dict.fromkeys(METHODS, "holds")


@pytest.mark.parametrize("sabotage", [broken_mask, shifted_position, shifted_label], ids=lambda f: f.__name__)
def test_a_broken_engine_turns_the_gate_red(
    sabotage: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    sabotage(monkeypatch)
    code, verdicts = gate(monkeypatch, tmp_path / "gate")
    print(sabotage.__name__, code, verdicts)
    assert code == 1 and "regressed" in verdicts.values()
