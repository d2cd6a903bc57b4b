"""The README's example of a user's own method, as it stands there:
it runs, has a row in the table, and is told by its contents.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import pytest
import torch

from rim_bench.cli import main
from rim_bench.methods.registry import method_of
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import plan_study
from rim_bench.storage.records import RunSpec
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError
from rim_bench.util.own_files import allow_files

README = Path(__file__).parents[2] / "README.md"
HEADING = "## Your own method"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first Python block under the README's heading, as a file in the working directory."""
    _, found, section = README.read_text("utf-8").partition(f"\n{HEADING}\n")
    assert found, f"README.md has no heading {HEADING!r}"
    block = re.search(r"^```python\n(.*?)^```", section.split("\n## ")[0], re.DOTALL | re.MULTILINE)
    assert block is not None, f"no Python block under {HEADING!r}"
    assert len(block[1].splitlines()) < 40
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(block[1], "utf-8")
    return path


def test_it_is_trained_evaluated_and_compared(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    arguments = (
        "run --methods direct,./mine.py --backbone width=32 --backbone layers=1 --limit 24 --start recipe "
        "--examples 160 --quick"
    )
    monkeypatch.setattr(sys, "argv", ["rim-bench", *arguments.split(), "--device", "cpu"])
    try:
        with pytest.raises(SystemExit) as stopped:
            main.main()
    finally:
        torch.set_num_threads(threads)
    assert stopped.value.code == 0
    runs = {run.spec.method.name: run for run in Store(Path("results")).runs()[0]}
    (own,) = runs.keys() - {"direct"}
    for text in (capsys.readouterr().out, Path("results/table.md").read_text(), Path("results/table.csv").read_text()):
        assert "direct" in text and own in text
    given = runs[own].spec.method
    assert given.file_sha256 == hashlib.sha256(mine.read_bytes()).hexdigest()
    evaluates_only_what_was_trained(runs[own], mine, monkeypatch)


def evaluates_only_what_was_trained(run: Run, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another process, which is given the file anew: what its content is decides, not where it lies."""
    monkeypatch.setattr("rim_bench.util.own_files._allowed", {})
    with pytest.raises(UsageError, match=r"mine\.py' \(sha256 [0-9a-f]{64}\): code is never run because a folder"):
        method_of(run.spec.method)
    moved = mine.rename(mine.with_name("moved.py"))
    allow_files([moved])
    assert method_of(run.spec.method).name == run.spec.method.name
    monkeypatch.setattr("rim_bench.util.own_files._allowed", {})
    moved.write_text(moved.read_text() + "\n# another file now\n")
    allow_files([moved])
    with pytest.raises(UsageError, match=r"what was given has another content"):
        method_of(run.spec.method)


def test_a_changed_file_is_another_run(mine: Path) -> None:
    options = Options(methods=("./mine.py",), task="chain", limit=24, start="recipe", device="cpu")

    def spec() -> RunSpec:
        (cell,) = plan_study(options)
        return cell.spec

    first, text = spec(), mine.read_text()
    assert spec() == first
    mine.write_text(text.replace("weight=1.0", "weight=0.5"))
    assert spec() != first
    mine.write_text(text)
    assert spec() == first


def test_the_example_with_latent_slots_trains_its_modules_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = (README.parent / "docs" / "methods.md").read_text("utf-8").split("### A method with latent slots")[1]
    block = re.search(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert block is not None
    monkeypatch.chdir(tmp_path)
    Path("thoughts.py").write_text(block[1], "utf-8")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    arguments = (
        "train --methods ./thoughts.py --backbone width=32 --backbone layers=1 --limit 24 --start recipe "
        "--examples 160 --quick --device cpu"
    )
    try:
        for words in (arguments, "show ./thoughts.py"):
            monkeypatch.setattr(sys, "argv", ["rim-bench", *words.split()])
            with pytest.raises(SystemExit) as stopped:
                main.main()
            assert stopped.value.code == 0
    finally:
        torch.set_num_threads(threads)
    assert "prompt; passes before the first generated token: 4" in capsys.readouterr().out
    (run,) = Store(Path("results")).runs()[0]
    assert {m["stage"] for m in run.metrics()} == {f"{k} slots" for k in range(4)}
    assert (run.model_path() / "bridges.safetensors").is_file()
