"""What training and answering tell the reporter, and the outlook of the whole command."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count

import torch

from rim_bench.engine.devices import peak_memory
from rim_bench.runs.planned_run import PlannedRun
from rim_bench.util.progress import Outlook, Reporter, TrainingStep, current_outlook, duration
from rim_bench.util.text import format_bytes

TRAIN, VALIDATE, ANSWER = "train", "validate", "answer"
MEASURED = 2  # steps after the first, which warms up, that the first estimate is made from
WORTH_SAYING = 30.0  # seconds


def watching_training(planned: PlannedRun, reporter: Reporter, device: torch.device) -> Callable[[TrainingStep], None]:
    """What a trainer shows its steps to: they reach the reporter, and the outlook of the command.

    After the first steps of a command it says how long all of it takes, and the memory that these steps took.
    """
    numbers = count()

    def show(step: TrainingStep) -> None:
        here = current_outlook()
        if here is not None:
            left = (step.steps - step.step) * planned.plan.batch_size
            here.advance(TRAIN, left, 1 / max(1e-9, step.examples_per_s))
            if next(numbers) == MEASURED and not here.estimated:
                _say(here, reporter, device)
        reporter.training(planned.label, step)

    return show


def _say(here: Outlook, reporter: Reporter, device: torch.device) -> None:
    here.estimated = True
    left = here.left
    if left is not None and left > WORTH_SAYING:
        memory = format_bytes(peak_memory(device))
        reporter.note(f"about {duration(left)} for all of it, {memory} of memory (measured on the first steps)")


def watching_answers(kind: str, show: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """What an evaluation shows its questions to, done and all; they reach `show`, and the outlook of the command."""
    began = time.monotonic()

    def advance(done: int, total: int) -> None:
        here = current_outlook()
        if here is not None and done:
            here.advance(kind, total - done, (time.monotonic() - began) / done)
        show(done, total)

    return advance
