"""What a command says before it begins, and what of it is left."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from engine_models import base_folder
from small_runs import Heard, options

from rim_bench.evaluate.options import QUICK_LARGE_ROWS, QUICK_LARGE_TOKENS, QUICK_ROWS
from rim_bench.runs.forecast import announcement, cells_of
from rim_bench.runs.planned_run import QUICK_STEPS, plan_study
from rim_bench.runs.study import QUICK_BATCH
from rim_bench.runs.training import evaluation_request, run_plan
from rim_bench.util.progress import outlook


def test_cells_are_what_is_left_and_training_counts_them_down(tmp_path: Path) -> None:
    plan = plan_study(options(tmp_path, "direct", "pause", examples=16))
    before = cells_of([plan])
    assert [set(work) for work in before.values()] == [{"train", "validate", "answer"}] * 2
    assert all(all(work.values()) and work["train"] == 16 for work in before.values())
    said = str(announcement([plan]))
    assert said.startswith("2 cells on cpu in float32: direct, pause; 16 examples in steps of ")
    seen: list[str] = []

    def look(run: str, step: int) -> None:
        seen.append(whole.text())

    with outlook(lambda: before) as whole:
        run_plan(plan, Heard(at=look), evaluation=False)
    assert seen[0].startswith("cell 1 of 2, about ") and seen[-1].startswith("cell 2 of 2, about ")
    after = cells_of([plan], evaluation=False)
    assert not any(any(work.values()) for work in after.values()) and announcement([plan], evaluation=False) is None


def test_a_plumbing_check_of_a_pretrained_model_is_smaller(tmp_path: Path) -> None:
    asked = dataclasses.replace(options(tmp_path, "direct"), examples=None, batch_size=None, limit=None, quick=True)
    scratch = plan_study(dataclasses.replace(asked, max_tokens=None))[0]
    folder = base_folder("tiny", tmp_path / "base")
    large = plan_study(
        dataclasses.replace(asked, max_tokens=None, model=str(folder), backbone={"lora_rank": 4}, lr=1e-3)
    )[0]
    assert large.plan.steps == scratch.plan.steps == QUICK_STEPS
    assert large.plan.batch_size == QUICK_BATCH < scratch.plan.batch_size
    assert evaluation_request(large.study).limit == QUICK_LARGE_ROWS
    assert evaluation_request(scratch.study).limit == QUICK_ROWS
    assert evaluation_request(large.study).max_tokens <= QUICK_LARGE_TOKENS
    kept = dataclasses.replace(asked, max_tokens=77, model=str(folder), backbone={"lora_rank": 4}, batch_size=5)
    assert evaluation_request(plan_study(kept)[0].study).max_tokens == 77 and plan_study(kept)[0].plan.batch_size == 5
    assert "Quick: " in str(announcement([(large,)]))


def test_an_executor_says_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from executor_here import Here

    from rim_bench.runs.grid import Runner

    plan = plan_study(options(tmp_path, "direct", "pause", examples=16))
    heard = Heard()
    with Runner(Here(), heard, evaluation=False) as runner:
        runner.run([plan])
    done = [note for note in heard.notes if note.startswith("done:")]
    assert "(1 of 2, about " in done[0] and done[0].endswith("left in all)") and done[1].endswith("(2 of 2)")
