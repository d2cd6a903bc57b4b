"""What a run folder holds, where a test knows that it is there."""

from __future__ import annotations

from rim_bench.storage.records import EvaluationRecord, TrainingRecord
from rim_bench.storage.run_folder import Run


def training_of(run: Run) -> TrainingRecord:
    """The record of a trained run's training."""
    training = run.training()
    assert training is not None
    return training


def evaluation_of(run: Run, key: str) -> EvaluationRecord:
    """The summary of an evaluation that was stored."""
    summary = run.evaluation(key)
    assert summary is not None
    return summary
