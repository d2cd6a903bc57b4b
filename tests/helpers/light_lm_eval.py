"""lm-eval without what costs seconds and decides nothing."""

from __future__ import annotations

import lm_eval.evaluator
import pytest
from lm_eval.tasks import TaskManager

from rim_bench.evaluate import lm_eval_tasks


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what costs seconds in lm-eval and decides nothing here:
    14,683 built-in tasks and a description of the machine.
    """
    begin = TaskManager.__init__
    monkeypatch.setattr(
        TaskManager, "__init__", lambda self, *a, **k: begin(self, *a, **{**k, "include_defaults": False})
    )
    monkeypatch.setattr(lm_eval_tasks, "built_in", TaskManager)  # what is read here is not kept
    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda storage: None)
    monkeypatch.setattr(lm_eval.evaluator, "get_git_commit_hash", lambda: None)
    monkeypatch.delenv("RIM_BENCH_DATA", raising=False)
