"""Small models that every test can afford: random weights, three families, both attention kernels."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny, and parallel workers would fight for the cores

import pytest

from rim_bench.cli import main
from rim_bench.data.task import Task, load_task
from rim_bench.methods.method import Encoded
from rim_bench.util import progress


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests of the published files and of the browser were skipped, and how to run them."""
    everything = terminalreporter.stats.get("skipped", [])
    if browser := [r for r in everything if "no browser" in str(r.longrepr)]:
        needed = "pip install rim-bench[browser], and chromium on the PATH"
        terminalreporter.write_line(f"{len(browser)} tests of the report in a browser skipped: {needed}")
    skipped = [r for r in everything if "RIM_BENCH_DATA" in str(r.longrepr)]
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} tests of the published files skipped: set RIM_BENCH_DATA to their folder"
        )


@pytest.fixture(scope="session", autouse=True)
def timed_once() -> Iterator[None]:
    """Every evaluation times its questions; here one round of a few of them shows that it does."""
    from rim_bench.evaluate import latency  # as torch, not where only the workers of `pytest -n 2` are started

    with pytest.MonkeyPatch.context() as patch:
        for name, fewer in (("TIMED", 12), ("WARM_UP", 1), ("ROUNDS", 1)):
            patch.setattr(latency, name, fewer)
        yield


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a slow machine makes a command say of its phases is no part of what it prints."""
    monkeypatch.setattr(progress, "PATIENCE", math.inf)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in another order are other sums: what is compared bit by bit runs on one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def published() -> Path:
    """The folder with the published files."""
    given = os.environ.get("RIM_BENCH_DATA")
    if not given:
        pytest.skip("RIM_BENCH_DATA is not set: the published files are not here")
    return Path(given)


def unregistered(name: str) -> Task:
    """A shipped task without what it knows of the published rows (hashes, sizes): tests make up rows of their own."""
    task = load_task(name)
    return dataclasses.replace(
        task, metadata={k: v for k, v in task.metadata.items() if k not in ("registered", "size")}
    )


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line; returns its exit code, output and errors."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rim-bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main.main()
        code = stopped.value.code
        return (code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


def encoded(question: int, steps: tuple[int, ...], answer: int = 2, shift: int = 0) -> Encoded:
    """An example of the given lengths, with ids that differ everywhere."""
    ids = iter(range(10 + shift, 400))
    take = lambda n: tuple(next(ids) % 200 + 5 for _ in range(n))  # noqa: E731
    return Encoded("example", take(question), tuple(take(n) for n in steps), take(answer))
