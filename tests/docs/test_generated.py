"""The generated pages of the documentation are those that the code gives today."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docs" / "generate.py"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py as a module: docs/ is no package."""
    spec = importlib.util.spec_from_file_location("docs_generate", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_page_is_stale() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_a_stale_page_is_named(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "right.md").write_text("as it is")
    (tmp_path / "wrong.md").write_text("as it was")
    made = {tmp_path / name: "as it is" for name in ("right.md", "wrong.md", "missing.md")}
    monkeypatch.setattr(generate, "pages", lambda: made)
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    assert generate.main(["--check"]) == 1
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["wrong.md", "missing.md"]
    assert not (tmp_path / "missing.md").exists()
    assert generate.main([]) == 0 and generate.main(["--check"]) == 0


def test_every_command_and_flag_is_on_the_page(generate: ModuleType) -> None:
    page = generate.command_page()
    for words in (
        "## rim-bench run",
        "| `--methods`, `-m` | `direct,pause,cot,coconut,rim` |",
        "| `--against` | required |",
    ):
        assert words in page
    assert "`RIM_BENCH_DATA`" in page and "May be given several times." in page


@dataclasses.dataclass(frozen=True)
class Inner:
    """A part of a record."""

    n: int = dataclasses.field(metadata={"doc": "how many | of what"})


@dataclasses.dataclass(frozen=True)
class Outer:
    """A record.

    More of it.
    """

    parts: tuple[Inner, ...] | None = dataclasses.field(metadata={"doc": "its parts"})


@dataclasses.dataclass(frozen=True)
class Silent:
    """A record with a field that says nothing."""

    n: int


def test_records_become_tables_of_their_fields(generate: ModuleType) -> None:
    page = generate.files_page([(Outer, "`outer.json`")])
    assert "## Outer: `outer.json`\n\nA record.\n\n| field | type | |\n|---|---|---|\n" in page
    assert "| `parts` | `tuple[Inner, ...] \\| None` | its parts |" in page
    assert "## Inner\n\nA part of a record.\n" in page and "| `n` | `int` | how many \\| of what |" in page


def test_a_field_without_its_line_is_refused(generate: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"Silent\.n has no line"):
        generate.files_page([(Silent, "`silent.json`")])
