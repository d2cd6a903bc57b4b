"""The table of targets: each row is the ratio that it says, pair by pair."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import pickle
import sys
from collections.abc import Sequence

import pytest
import torch

from rim_bench.bench import measurements, overhead, targets
from rim_bench.bench import memory as memory_module
from rim_bench.bench.record import Line, Spread, Target
from rim_bench.bench.session import MeasuredJob, Round, Session, Timed
from rim_bench.runs.options import Options
from rim_bench.util.errors import UsageError

TINY = {"width": 16, "layers": 1, "heads": 2, "vocabulary": 300}
DONE = {  # job -> seconds of two rounds, and what it told
    "coconut: train": ((2.0, 2.0), {"examples": 64.0, "tokens": 50.0, "executed": 100.0}),
    "cot: train": (
        (2.0, 4.0),
        {"examples": 64.0, "tokens": 90.0, "executed": 100.0, "flops": 4e10, "flops_executed": 1e11},
    ),
    "cot: plain": ((6.0, 8.0), {"examples": 64.0, "tokens": 60.0, "executed": 100.0}),
    "direct: plain": ((5.0, 2.0), {"examples": 64.0, "tokens": 60.0, "executed": 100.0}),
    "direct: train": ((1.0, 1.0), {"examples": 64.0, "tokens": 80.0, "executed": 100.0, "flops_executed": 1e11}),
    "rim: train": ((4.0, 4.0), {"examples": 64.0, "tokens": 70.0, "executed": 100.0, "flops_executed": 3e11}),
    "cot: answer": ((1.0, 2.0), {"examples": 32.0}),
    "cot: generate": ((2.0, 2.0), {"examples": 32.0}),
    "coconut: answer": ((2.0, 2.0), {"examples": 32.0}),
    "coconut: uncached": ((3.0, 4.0), {"examples": 2.0}),
    "direct: first token": ((1.0, 1.0), {"questions": 8.0}),
    "direct: plain forward": ((0.5, 0.5), {"questions": 8.0}),
    "rim: first token": ((1.5, 1.2), {"questions": 8.0}),
    "rim: plain forward": ((0.75, 0.5), {"questions": 8.0}),
}
PEAK = 1e11


def pretended(jobs: Sequence[MeasuredJob], rounds: int, device: torch.device) -> Session:
    """Rounds in which everything takes what `DONE` says."""
    found = [Round({j.name: Timed(DONE[j.name][0][k % 2], DONE[j.name][1]) for j in jobs}, PEAK) for k in range(rounds)]
    return Session(found, 0.9)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, Target]:
    monkeypatch.setattr(targets, "interleave", pretended)
    monkeypatch.setattr(measurements, "interleave", pretended)
    monkeypatch.setattr(targets, "LARGE", (2, 32, 2))
    monkeypatch.setattr(targets, "GPT2_ROWS", 400)
    asked: list[tuple[str, int]] = []

    def memory(options: Options, methods: Sequence[str], rounds: int) -> list[Line]:
        asked.append(("memory", rounds))
        ours = Spread((1.2e9, 1.5e9))
        return [
            Line("cot", "nothing", "bytes", Spread((1e9, 1e9))),
            Line("coconut", "cot", "bytes", ours, None, ours.scaled(1e-9)),
        ]

    def imports(rounds: int) -> list[Line]:
        asked.append(("overhead", rounds))
        ours, theirs = Spread((6.0, 6.6)), Spread((5.0, 6.0))
        return [Line("run", "imports", "s", ours, theirs, ours / theirs, {"cpu_ratio": Spread((1.0, 1.1))})]

    monkeypatch.setattr(targets, "memory_lines", memory)
    monkeypatch.setattr(targets, "overhead_lines", imports)
    options = Options(
        methods=targets.METHODS,
        task="chain",
        limit=40,
        model="tiny-gpt2",
        backbone=TINY,
        start="recipe",
        quick=True,
        device="cpu",
    )
    found = targets.targets(options, 5)
    assert asked == [("memory", targets.FEW), ("overhead", targets.FEW)] and found.cpu_share == 0.9
    return {t.number: t for t in found.targets}


def test_every_row_is_the_ratio_that_it_says(table: dict[str, Target]) -> None:
    first = {number: t.value.values[:2] for number, t in table.items()}
    assert list(table) == ["1a", "1b", "2", "3", "4a", "5", "4b", "6", "7", "8", "9", "10"]
    assert first["1a"] == (3.0, 2.0) and first["1b"] == (5.0, 2.0)
    assert first["2"] == (1.0, 2.0)
    assert first["3"] == pytest.approx((0.75, 0.75))  # three times the FLOPs in four times the time
    assert first["4a"] == pytest.approx((0.5, 0.25)) == first["4b"]
    assert (
        first["5"] == pytest.approx((0.1, 0.1))
        and "40 %" in table["5"].detail
        and "coconut 50.0 %" in table["5"].detail
    )
    assert first["6"] == (2.0, 1.0) and first["7"] == pytest.approx((24.0, 32.0))
    assert first["8"] == pytest.approx((1.0, 1.2))
    assert first["9"] == pytest.approx((1.2, 1.5)) and first["10"] == pytest.approx((1.2, 1.1))
    assert len(table["8"].value.values) == 10 and len(table["4b"].value.values) == targets.FEW


def test_the_bars_are_those_that_were_asked(table: dict[str, Target]) -> None:
    assert {n: (t.sense, t.required) for n, t in table.items()} == {
        "1a": ("at least", 1.5),
        "1b": ("at least", 1.5),
        "2": ("at least", 0.8),
        "3": ("at least", 0.85),
        "4a": ("at least", 0.45),
        "4b": ("at least", 0.7),
        "5": ("at most", 0.1),
        "6": ("at least", 1.5),
        "7": ("at least", 20.0),
        "8": ("at most", 1.05),
        "9": ("at most", 1.3),
        "10": ("at most", 1.2),
    }


def test_memory_is_measured_in_processes_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool, int]] = []

    def measured(options: Options, task: memory_module.MemoryTask) -> dict[str, float]:
        seen.append((task.method, task.plain, task.k))
        return {"bytes": {"cot": 100.0, "rim": 150.0}[task.method] * (3 if task.plain else 1) * task.k, "before": 1.0}

    monkeypatch.setattr(memory_module, "measure_in_process", measured)
    lines = {
        line.what: line
        for line in memory_module.memory_lines(Options(methods=("rim",), task="chain"), ("rim",), 2, ("plain",))
    }
    assert seen[:3] == [("cot", False, 1), ("cot", True, 1), ("rim", False, 1)] and seen[3:] == [
        (m, p, 2) for m, p, _ in seen[2::-1]
    ]
    assert lines["rim"].ratio is not None and lines["rim"].ratio.values == (1.5, 1.5)
    plain = lines["plain cot loop"].ratio
    assert plain is not None and plain.values == (3.0, 3.0) and lines["cot"].ratio is None


def test_a_process_that_fails_is_told_in_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"failed: .*name 'nonsense' is not defined"):
        overhead.run_process([sys.executable, "-c", "nonsense"])
    done = overhead.run_process([sys.executable, "-c", "print('said')"])
    assert done.output == "said\n" and done.wall > 0


def test_bare_imports_take_what_the_command_had_loaded() -> None:
    ours = {"torch", "pandas", "transformers", "transformers.cache_utils", "lm_eval", "lm_eval.api"}
    taken = overhead.rival(ours)
    assert taken == {"torch": (), "transformers": ("DynamicCache",), "pandas": ()}  # lm_eval's evaluator is not there
    assert overhead.script(taken) == "import torch; from transformers import DynamicCache; import pandas"
    models = overhead.rival({*ours, "transformers.models.auto.modeling_auto"})
    assert models["transformers"] == ("AutoModelForCausalLM", "DynamicCache")
    for library, names in overhead.LIBRARIES.items():
        for name, module in names.items():
            assert getattr(importlib.import_module(library), name).__module__ == module


def test_bare_imports_stand_beside_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        overhead, "_COMMAND", f"import yaml, rich.text, rich.table; print({overhead.DONE!r}, {overhead.DONE!r})"
    )
    monkeypatch.setattr(
        overhead, "LIBRARIES", {"yaml": {}, "rich": {"text": "rich.text", "live": "rich.live"}, "typer": {}}
    )
    (line,) = overhead.overhead_lines(1)
    assert line.against == "bare imports of yaml, rich (text only)"
    assert (
        line.theirs is not None
        and line.ratio is not None
        and line.ratio.values == (line.ours.values[0] / line.theirs.values[0],)
    )
    monkeypatch.setattr(overhead, "LIBRARIES", {"rich": {"live": "rich.text"}})  # comes with more than the command has
    with pytest.raises(UsageError, match=r"bare imports load \d+ modules that the run does not, rich\."):
        overhead.overhead_lines(1)


def test_the_process_that_measures_memory_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Options(
        methods=("cot",),
        task="chain",
        limit=40,
        backbone={**TINY, "vocabulary": 300},
        start="recipe",
        quick=True,
        device="cpu",
    )
    for plain in (False, True):
        request = (options, ("cot", 1, 3, plain), torch.get_num_threads())
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(pickle.dumps(request))))
        memory_module.main()
        found = json.loads(capsys.readouterr().out)
        assert found["bytes"] >= 0 and found["before"] > 50_000_000  # torch alone takes more
    request = (dataclasses.replace(options, task="chian"), *request[1:])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(pickle.dumps(request))))
    with pytest.raises(SystemExit, match="did you mean 'chain'"):
        memory_module.main()
