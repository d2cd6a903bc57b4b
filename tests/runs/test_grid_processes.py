"""A grid in real processes: one is killed in the course of training, here and on the stand-ins of clusters, where they
are installed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from light_work import MORTAL
from small_runs import contents, flags

from rim_bench.storage.run_folder import Store

Call = Callable[..., tuple[int, str, str]]


pytestmark = pytest.mark.usefixtures("one_thread")


def mortal(folder: Path, times: int) -> list[str]:
    """A run's options, with a method whose process is killed that often."""
    (folder / "mortal.py").write_text(MORTAL, "utf-8")
    (folder / "mortal.armed").write_text(str(times))
    small = flags("--limit 20 --examples 160 --max-tokens 4 --start recipe --quick")
    return ["run", "--methods", f"{folder / 'mortal.py'}", *small]


def test_a_killed_process_is_replaced_and_goes_on_from_its_checkpoint(call: Call, tmp_path: Path) -> None:
    given = mortal(tmp_path, 0)
    assert call(*given, "--out", tmp_path / "one")[0] == 0
    (tmp_path / "mortal.armed").write_text("1")
    code, out, err = call(*given, "--out", tmp_path / "many", "--executor", "local", "--workers", "2")
    assert code == 0 and "died: mortal: its process was ended by SIGKILL" in err and "once more from step 4" in err
    assert "tables: " in out and (tmp_path / "mortal.armed").read_text() == "0"
    (one,), (many,) = (Store(tmp_path / name).runs()[0] for name in ("one", "many"))
    assert contents(one) == contents(many)


@pytest.mark.parametrize(("name", "settings"), [("submitit", ["cluster=local"]), ("ray", ["num_cpus=1"])])
def test_a_cluster_does_the_same(
    name: str, settings: list[str], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # ray leaves a token there
    given = mortal(tmp_path, 0)
    assert call(*given, "--out", tmp_path / "one")[0] == 0
    (tmp_path / "mortal.armed").write_text("1")
    more = [word for one in settings for word in ("--executor-set", one)]
    code, _, err = call(*given, "--out", tmp_path / "many", "--executor", name, "--workers", "1", *more)
    assert code == 0, err
    assert "died: mortal: " in err and "once more from step 4" in err
    (one,), (many,) = (Store(tmp_path / where).runs()[0] for where in ("one", "many"))
    assert contents(one) == contents(many)
    code, out, err = call(*given, "--executor", name, "--executor-set", "no_such=1")
    assert (code, out) == (2, "") and err.splitlines()[-1].startswith(f"error: {name} does not take no_such=1: ")
