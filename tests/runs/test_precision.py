"""Which number type runs compute in: the same everywhere by default, measured where asked, kept once stored."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import Heard, options

from rim_bench.engine import precision as measured
from rim_bench.engine.numerics import NUMERICS_VERSION, numerics_version
from rim_bench.evaluate import evaluation
from rim_bench.report.comparison import comparison
from rim_bench.runs import precision
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import plan_study
from rim_bench.runs.precision import Precision, choose_precision
from rim_bench.runs.training import run_plan
from rim_bench.storage.run_folder import Store
from rim_bench.util.errors import UsageError

SCRATCH: dict[str, Any] = {"kind": "scratch", "name": "tiny", "tuning": "full", "width": 32, "intermediate": 96}
FROZEN: dict[str, Any] = {"kind": "path", "name": "a", "tuning": "lora", "lora_rank": 4}


@pytest.fixture
def gain(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What probes measure, instead of probes: the last entry."""
    values = [2.0]
    monkeypatch.setattr(precision, "_gain", lambda backbone: values[-1])
    monkeypatch.setattr(measured, "has_bfloat16", lambda: True)
    return values


def never(backbone: object) -> float:
    raise AssertionError("nothing is to be measured here")


def test_nothing_asked_is_the_same_on_every_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_gain", never)
    for backbone in (SCRATCH, FROZEN):
        assert choose_precision(None, "cpu", backbone, Store(tmp_path)) == Precision("float32")
        assert choose_precision(None, "cuda:1", backbone, Store(tmp_path)).dtype == "bfloat16"
        assert choose_precision("float32", "cuda", backbone, Store(tmp_path)).dtype == "float32"


def test_auto_measures_frozen_weights_alone(tmp_path: Path, gain: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = choose_precision("auto", "cpu", FROZEN, Store(tmp_path))
    assert (chosen.dtype, chosen.gain) == ("bfloat16", 2.0) and "2.00 times" in str(chosen.note)
    assert chosen.record() == {"chosen": "bfloat16", "asked": "auto", "gain": 2.0}
    gain.append(1.1)
    assert choose_precision("auto", "cpu", FROZEN, Store(tmp_path)).dtype == "float32"
    monkeypatch.setattr(precision, "_gain", never)
    for other, why in ((SCRATCH, "all weights train"), ({**FROZEN, "tuning": "full"}, "all weights train")):
        kept = choose_precision("auto", "cpu", other, Store(tmp_path))
        assert kept.dtype == "float32" and why in str(kept.note)
    monkeypatch.setattr(measured, "has_bfloat16", lambda: False)
    assert choose_precision("auto", "cpu", FROZEN, Store(tmp_path)).dtype == "float32"
    with pytest.raises(UsageError, match="another one does"):
        choose_precision("auto", "cpu", FROZEN, Store(tmp_path), elsewhere=True)


def test_what_is_stored_stays(tmp_path: Path, gain: list[float]) -> None:
    planned = plan_study(Options(methods=("direct",), task="chain", limit=40, examples=32, out=tmp_path))[0]
    spec = dataclasses.replace(planned.spec, backbone=type(planned.spec.backbone).from_json(FROZEN), dtype="float32")
    Store(tmp_path).open(spec)
    chosen = choose_precision("auto", "cpu", FROZEN, Store(tmp_path))
    assert chosen.dtype == "float32" and chosen.gain is None and "stored" in str(chosen.note)
    assert choose_precision("auto", "cpu", {**FROZEN, "lora_rank": 8}, Store(tmp_path)).dtype == "bfloat16"


def test_a_processor_without_it_is_warned_of_and_obeyed(
    tmp_path: Path, gain: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_precision("bfloat16", "cpu", SCRATCH, Store(tmp_path)).note is None
    monkeypatch.setattr(measured, "has_bfloat16", lambda: False)
    gain.append(0.25)
    chosen = choose_precision("bfloat16", "cpu", SCRATCH, Store(tmp_path))
    assert chosen.dtype == "bfloat16" and "4.0 times as slow" in str(chosen.note)


def test_specifications_say_it_and_float32_ids_stay(tmp_path: Path) -> None:
    asked = {"methods": ("direct",), "task": "chain", "limit": 40, "examples": 32, "out": tmp_path}
    plain, same, low = (plan_study(Options(**asked, dtype=d))[0].spec for d in (None, "float32", "bfloat16"))  # type: ignore[arg-type]
    assert plain.to_json() == same.to_json() and plain.id == same.id
    assert (plain.dtype, plain.numerics) == ("float32", NUMERICS_VERSION)
    assert low.dtype == "bfloat16" and low.id != plain.id and low.numerics == numerics_version("bfloat16")
    assert low.numerics > NUMERICS_VERSION


def test_other_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bfloat16"):
        Options(methods=("direct",), task="chain", out=tmp_path, dtype="bf16")


def test_a_probe_measures() -> None:
    gain = measured.bfloat16_gain(64, 128, 1, 0.05)
    assert 0.01 < gain < 100
    assert measured.layer_products(torch.bfloat16, 64, 128)().shape == (measured.COLUMNS, 64)


def test_the_noise_of_bfloat16_is_measured_with_every_evaluation(tmp_path: Path) -> None:
    asked = {"examples": 16, "seeds": (0,)}
    heard = Heard()
    (low,) = run_plan(plan_study(options(tmp_path, "direct", dtype="bfloat16", **asked)), heard)
    (summary,) = low.evaluations().values()
    noise = summary.noise
    assert noise is not None and summary.generation.dtype == "bfloat16" and summary.runtime is not None
    assert summary.runtime.dtype == "bfloat16"
    assert 0 < (noise.n or 0) <= 64 and 0 <= (noise.correct or 0) <= (noise.answers or 0) <= (noise.n or 0)
    assert any("the noise floor of bfloat16" in note for note in heard.notes)
    (full,) = run_plan(plan_study(options(tmp_path, "direct", **asked)), Heard())
    assert next(iter(full.evaluations().values())).noise is None
    table = comparison([low, full], split="test").to_markdown()
    assert "Noise of bfloat16: " in table and "training dtype bfloat16" in table


def test_an_answer_that_changes_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = evaluation.marked

    def other(trained: Any, request: Any, dataset: Any, *more: Any) -> Any:
        assert request.repeat and request.batch_size < len(dataset.examples)
        first, *rest = real(trained, request, dataset, *more)
        return [dataclasses.replace(first, answer="another", correct=not first.correct), *rest]

    planned = plan_study(options(tmp_path, "direct", dtype="bfloat16", examples=16))
    run_plan(planned, Heard(), evaluation=False)
    monkeypatch.setattr(evaluation, "marked", other)
    (run,) = run_plan(planned, Heard())
    noise = next(iter(run.evaluations().values())).noise
    assert noise is not None and (noise.answers, noise.correct) == (1, 1)
