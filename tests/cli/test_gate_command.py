"""`rim-bench check` on stored weights: it evaluates by itself, so that a broken engine, scorer or task turns it red."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import Tensor

from rim_bench.cli import main
from rim_bench.engine import packing
from rim_bench.storage.run_folder import Store

ROOT = Path(__file__).parents[2]
RUN = "cot-chain-1a7f42429633"  # answers every question
N = 500
Call = Callable[..., int]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run of the repository's own gate, evaluated, and a baseline of that."""
    folder = tmp_path_factory.mktemp("gate")
    out = folder / "results" / "gate"
    shutil.copytree(ROOT / "results" / "gate" / "runs" / RUN, out / "runs" / RUN)
    with pytest.MonkeyPatch.context() as patch:
        for words in (
            f"eval {RUN} --task chain_gate --limit {N} --device cpu",
            f"baseline {RUN} --task chain_gate -o {out / 'baseline.toml'}",
        ):
            patch.setattr(sys, "argv", ["rim-bench", *words.split(), "--out", str(out)])
            with pytest.raises(SystemExit) as stopped:
                main.main()
            assert not stopped.value.code
    return folder


@pytest.fixture
def check(evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Exit code of `rim-bench check`."""
    out = evaluated / "results" / "gate"

    def call(*more: str) -> int:
        words = ["check", RUN, "--against", str(out / "baseline.toml"), "--margin", "2", "--out", str(out), *more]
        monkeypatch.setattr(sys, "argv", ["rim-bench", *words, "--device", "cpu"])
        with pytest.raises(SystemExit) as stopped:
            main.main()
        return int(stopped.value.code or 0)

    return call


def broken_mask(sees: Tensor, q_segment: Tensor, q_index: Tensor, k_segment: Tensor, k_index: Tensor) -> Tensor:
    """Columns see their own segment only."""
    return (q_segment[:, :, None] == k_segment[:, None, :]) & (k_index[:, None, :] <= q_index[:, :, None])


def test_a_broken_mask_is_found_though_the_sound_evaluation_is_stored(
    check: Call, evaluated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,), _ = Store(evaluated / "results" / "gate").runs()
    before = {p: p.read_bytes() for p in (run.path / "eval").rglob("*") if p.is_file()}
    monkeypatch.setattr(packing, "visible", broken_mask)
    assert check() == 1 and "regressed" in capsys.readouterr().out
    assert check("--stored") == 3
    assert {p: p.read_bytes() for p in (run.path / "eval").rglob("*") if p.is_file()} == before  # nothing is stored


def test_the_workflow_of_the_documentation(evaluated: Path, tmp_path: Path) -> None:
    """The shell lines of `docs/gate.md`, as GitHub runs them: red or green by their exit code, with a job page."""
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "gate.md").read_text("utf-8"), re.DOTALL)
    (job,) = yaml.safe_load(text)["jobs"].values()
    shim, page = tmp_path / "bin" / "rim-bench", tmp_path / "page.md"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rim_bench "$@"\n')
    shim.chmod(0o755)
    page.write_text("# before\n")
    environment = os.environ | {str(k): str(v) for k, v in job["env"].items()}
    environment |= {"PATH": f"{shim.parent}:{os.environ['PATH']}", "GITHUB_STEP_SUMMARY": str(page)}
    environment |= {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    steps = [step["run"] for step in job["steps"] if "run" in step and "pip install" not in step["run"]]
    assert steps

    def work(folder: Path) -> list[subprocess.CompletedProcess[str]]:
        settings: dict[str, Any] = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
        return [subprocess.run(["bash", "-e", "-c", step], **settings) for step in steps]

    (*_, gate) = done = work(evaluated)
    assert [step.returncode for step in done] == [0] * len(steps), gate.stdout + gate.stderr
    assert page.read_text().startswith("# before\n") and "holds (exit code 0)" in page.read_text()
    assert (evaluated / "gate.xml").is_file() and re.search(r"holds\s+│ +[\d.]+ % │ +[\d.]+ % │ +500", gate.stdout)
    elsewhere = tmp_path / "damaged"
    shutil.copytree(evaluated / "results" / "gate", elsewhere / "results" / "gate")
    baseline = elsewhere / "results" / "gate" / "baseline.toml"
    baseline.write_text(baseline.read_text().replace("n = 500", "n = 501"))
    assert work(elsewhere)[-1].returncode == 2 and "bad input (exit code 2)" in page.read_text()
