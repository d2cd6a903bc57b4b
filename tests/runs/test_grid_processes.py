"""A grid in real processes: one is killed in the course of training, here and on the stand-ins of clusters, where they
are installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from light_work import MORTAL
from small_runs import contents, flags

from rim_bench.cli import main
from rim_bench.storage.run_folder import Run, Store

Call = Callable[..., tuple[int, str, str]]


pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Mortal:
    """A run's options, with a method whose process is killed as often as `armed` says; and that run unbroken."""

    options: list[str]
    armed: Path
    unbroken: Run


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Mortal:
    folder = tmp_path_factory.mktemp("mortal")
    (folder / "mortal.py").write_text(MORTAL, "utf-8")
    small = flags("--limit 20 --examples 160 --max-tokens 4 --start recipe --quick")
    options = ["run", "--methods", f"{folder / 'mortal.py'}", *small]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["rim-bench", *options, "--out", str(folder / "one")])
        torch.set_num_threads(1)
        with pytest.raises(SystemExit) as stopped:
            main.main()
        assert not stopped.value.code
    (one,), _ = Store(folder / "one").runs()
    return Mortal(options, folder / "mortal.armed", one)


def test_a_killed_process_is_replaced_and_goes_on_from_its_checkpoint(
    call: Call, mortal: Mortal, tmp_path: Path
) -> None:
    mortal.armed.write_text("1")
    code, out, err = call(*mortal.options, "--out", tmp_path, "--executor", "local", "--workers", "2")
    assert code == 0 and "died: mortal: its process was ended by SIGKILL" in err and "once more from step 4" in err
    assert "tables: " in out and mortal.armed.read_text() == "0"
    (many,), _ = Store(tmp_path).runs()
    assert contents(mortal.unbroken) == contents(many)


@pytest.mark.parametrize(("name", "settings"), [("submitit", ["cluster=local"]), ("ray", ["num_cpus=1"])])
def test_a_cluster_does_the_same(
    name: str, settings: list[str], call: Call, mortal: Mortal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # ray leaves a token there
    mortal.armed.write_text("1")
    more = [word for one in settings for word in ("--executor-set", one)]
    code, _, err = call(*mortal.options, "--out", tmp_path / "many", "--executor", name, "--workers", "1", *more)
    assert code == 0, err
    assert "died: mortal: " in err and "once more from step 4" in err
    (many,), _ = Store(tmp_path / "many").runs()
    assert contents(mortal.unbroken) == contents(many)
    code, out, err = call(*mortal.options, "--executor", name, "--executor-set", "no_such=1")
    assert (code, out) == (2, "") and err.splitlines()[-1].startswith(f"error: {name} does not take no_such=1: ")
