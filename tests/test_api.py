"""The public API: every name is there, nothing is loaded before it is asked for, and requests are refused in words."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rim_bench

ROOT = Path(__file__).resolve().parents[1]


def test_every_public_name_is_what_type_checkers_are_told() -> None:
    tree = ast.parse((ROOT / "rim_bench" / "__init__.py").read_text("utf-8"))
    told = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(told) == sorted(rim_bench.__all__) and set(rim_bench.__all__) <= set(dir(rim_bench))
    for name, module in told.items():
        assert getattr(rim_bench, name) is getattr(sys.modules[str(module)], name), name
    with pytest.raises(AttributeError, match="no attribute 'rn'"):
        _ = rim_bench.rn


def test_importing_the_package_loads_nothing() -> None:
    heavy = ("torch", "pandas", "rich", "numpy")
    code = (
        f"import sys, rim_bench; rim_bench.Segment, rim_bench.Table; print(*[m for m in {heavy} if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_bad_requests_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(rim_bench.UsageError, match=r"unknown option 'method'.*methods"):
        rim_bench.run(method="rim", task="chain", out=tmp_path)
    with pytest.raises(rim_bench.UsageError, match=r"unknown method 'rimm'.*rim"):
        rim_bench.plan_study(methods="rimm", task="chain", out=tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_plan_is_made_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys, rim_bench\n"
        f"request = dict(methods=('direct', 'rim'), task='chain', seeds=(0, 1), device='cpu', out={str(tmp_path)!r})\n"
        "plan = rim_bench.plan_study(**request)\n"
        "print(*[p.label for p in plan], sep='; ')\n"
        "print('torch' in sys.modules)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert (
        out[0] == ("shared cot start; direct; rim; shared cot start, seed 1; direct, seed 1; rim, seed 1")
        and out[1] == "False"
    )
    assert not any(tmp_path.iterdir())


def test_a_run_from_python_is_the_command_lines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small = {"backbone": {"layers": 1, "width": 32, "heads": 2}, "limit": 24, "examples": 16, "batch_size": 4}
    options = small | {"start": "recipe", "max_tokens": 3, "device": "cpu", "out": str(tmp_path)}
    results = rim_bench.run(methods="direct", task="chain", quick=True, progress=False, **options)
    assert capfd.readouterr() == ("", "")
    (run,) = results.runs
    assert results.frame()["method"].tolist() and "direct" in str(results.table())
    assert run.items()["correct"].mean() == rim_bench.Store(tmp_path).frame()["accuracy"].item()
    (planned,) = rim_bench.plan_study(methods="direct", task="chain", quick=True, **options)
    assert planned.id == run.id and rim_bench.train(planned, progress=False) == run
    again = rim_bench.evaluate_run(run, split="validation", device="cpu", progress=False)
    assert {e.split for e in again.evaluations().values()} == {"test", "validation"}
    points = rim_bench.sweep([run], knobs={"votes": (3,)}, device="cpu", progress=False)
    assert [p.name for p in points] == [None, "votes"]
