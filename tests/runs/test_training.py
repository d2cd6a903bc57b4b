"""Training on pretrained weights, from the request on: what a run starts from, stopped and gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_models import two_matrices
from small_runs import Heard, model, options, train
from transformers import AutoModelForCausalLM

from rim_bench.engine.trained_model import load_trained
from rim_bench.runs.planned_run import plan_study
from rim_bench.runs.training import run_plan

pytestmark = pytest.mark.usefixtures("one_thread")


class Stopped(Exception):
    pass


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_methods_start_from_the_same_stored_head(tuning: str, tmp_path: Path) -> None:
    """Where config.json calls it tied: with new tokens, without, and gone on with after a stop, to the same bits."""
    base = two_matrices("tiny", tmp_path / "base")
    settings = {"tuning": tuning, **({"lora_rank": 2} if tuning == "lora" else {})}

    def asked(out: str, *methods: str, **more: Any) -> Any:
        return options(tmp_path / out, *methods, model=str(base), backbone=settings, lr=1e-9, **more)

    runs, _ = train(asked("whole", "direct", "pause"))
    with torch.no_grad():
        ids = torch.arange(5, 25)[None]
        reference = AutoModelForCausalLM.from_pretrained(base).eval()(ids).logits
        for run in runs:  # at a rate at which nothing moves
            backbone = load_trained(run).backbone
            logits = backbone.head(backbone.run(backbone.embed(ids), None, torch.arange(20)[None]))
            torch.testing.assert_close(logits, reference, atol=1e-4, rtol=0)

    def stop(label: str, step: int) -> None:
        if step == 8:
            raise Stopped

    with pytest.raises(Stopped):
        run_plan(plan_study(asked("stopped", "pause")), Heard(at=stop), evaluation=False)
    (resumed,), heard = train(asked("stopped", "pause"))
    assert heard.steps[0][1] > 1 and model(resumed) == model(runs[1])
