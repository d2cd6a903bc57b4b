"""Nothing is lost to the stream it is printed on, and a stream that fails has an exit code of its own.

Through real processes, for it is their streams: one for many commands, each of which runs in a fork of it.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rim_bench.cli import streams

ROOT = Path(__file__).resolve().parents[2]
STORED = ROOT / "results" / "litmus_layers" / "layers_1"
PARENT = r"""
import contextlib, io, os, sys
from rim_bench.cli import main
from rim_bench.util import progress
import rich.console, typer.rich_utils, rim_bench.report.comparison
progress.PATIENCE = float("inf")
for line in sys.argv[1:]:
    if (child := os.fork()) == 0:
        words = line.split()
        while "=" in words[0]:
            name, value = words.pop(0).split("=")
            os.environ[name] = value
        if encoding := os.environ.get("PYTHONIOENCODING"):
            sys.stdout = sys.__stdout__ = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding)
        if "closed" in os.environ:
            os.close(0), os.close(1)
        sys.argv = ["rim-bench", *words]
        main.main()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):
        os.write(2, b"%d\n" % code)
"""


def codes(*lines: str, stdout: object = subprocess.PIPE, stderr: object = subprocess.PIPE) -> tuple[list[int], bytes]:
    """The exit codes of command lines, with variables of the environment before them, and what they print."""
    environment = dict(os.environ) | {"COLUMNS": "120", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PARENT, *lines],
        check=False,
        timeout=200,
        stdout=stdout,  # type: ignore[call-overload]
        stderr=stderr,
        env=environment,
        cwd=ROOT,
    )
    err = (done.stderr or b"").decode()
    assert "Traceback" not in err and "Exception ignored" not in err
    return [int(line) for line in err.splitlines() if line.lstrip("-").isdigit()], done.stdout or b""


def test_no_encoding_loses_a_result_and_no_size_stops_one() -> None:
    encoded = [f"PYTHONIOENCODING=cp1252 {line}" for line in (f"table --out {STORED}", "--help", "show rim")]
    encoded += [f"PYTHONIOENCODING={name} cost --model llama-3.2-1b" for name in ("latin-1", "cp437", "ascii")]
    sizes = [f"COLUMNS={n} TERMINAL_WIDTH={n} LINES={n} TERM=" for n in ("0", "\u00b2", "9" * 30)]
    exits, out = codes(*encoded, *(f"{size} {line}" for size in sizes for line in ("power --n 9", "--help")))
    assert exits == [0] * (6 + 6)
    assert b"accuracy %" in out and b"leaderboard" in out and b"o?\\n" in out and out.count(b"coconut") >= 5


def test_characters_are_spelled_and_none_is_lost() -> None:
    streams.prepare_streams()  # registers the handler; pytest's own streams stay
    assert "−1 ± 2 × 3 ⏎".encode("ascii", "rim-bench") == b"-1 +- 2 x 3 \\n"
    assert "\u65e5\u672c \udcff \U0001f600".encode("latin-1", "rim-bench") == b"\\u65e5\\u672c \\udcff \\U0001f600"
    assert "\udcff".encode("utf-8", "rim-bench") == b"\\udcff"


def test_every_sign_of_our_tables_has_a_spelling() -> None:
    """So that a note reads `sum d/sqrt n` where the encoding lacks the signs, and no numbers of characters."""
    for path in (*(ROOT / "rim_bench" / "report").rglob("*.py"), *(ROOT / "rim_bench" / "evidence").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        said = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))
        texts = [text for text in said if "\n" not in text and "\ufffd" not in text]  # no docstrings, no bad characters
        signs = {c for text in texts for c in text if not c.isascii() and c.isprintable()}
        assert signs <= set(streams.SPELLED), path


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device_and_a_reader_that_went_away_have_a_code_of_their_own() -> None:
    lines = ("list tasks", f"table --out {STORED}", "power --n 100 --discordance 0.2", "--help", "--version", "show")
    read, write = os.pipe()
    os.close(read)
    with Path("/dev/full").open("wb") as full, os.fdopen(write, "wb") as gone:
        assert codes(*lines, stdout=full)[0] == [74, 74, 74, 74, 74, 2]
        assert codes(*lines, stdout=gone)[0] == [74, 74, 74, 74, 74, 2]
        assert b"prosqa" in codes("table nope", "list tasks", stderr=full)[1]  # what is said of work never ends it


def test_closed_streams_are_nothing_and_no_fault() -> None:
    exits, out = codes("closed=1 list tasks", "closed=1 table nope")
    assert exits == [0, 2] and out == b""


def test_a_locale_of_ascii_and_a_notebook_in_the_environment(tmp_path: Path) -> None:
    """By itself, for Python and libraries read these when they start."""
    environment = dict(os.environ) | {
        "LC_ALL": "POSIX",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "many",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MPLCONFIGDIR": "/proc/nowhere",
        "HOME": "/proc/nowhere",
        "TMPDIR": "/nowhere",
    }
    picture = tmp_path / os.fsdecode(b"p\xff.svg")
    command = [sys.executable, "-m", "rim_bench", "plot", "--out", str(STORED), "--to", str(picture)]
    done = subprocess.run(command, check=False, timeout=200, capture_output=True, env=environment)
    assert done.returncode == 0 and b"p\\udcff.svg" in done.stdout and picture.stat().st_size > 1000
