"""Hugging Face's own `Trainer` on the rows, the batch size and the optimizer of a plain loop, as a rival in training."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from rim_bench.benchmarks.common import Told, synchronise
from rim_bench.benchmarks.rivals import PlainLoop, decayed

HfTrainer: Any = Trainer  # untyped
Arguments: Any = TrainingArguments


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds from the first step's beginning to the last one's end: what `train` does around its steps is not counted."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.first, self.last = device, 0.0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.first:
            synchronise(self.device)
            self.first = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        synchronise(self.device)
        self.last = time.perf_counter()


class HfLoop:
    """`Trainer` on a copy of the plain loop's model, which it wraps, with an optimizer of the same kind."""

    def __init__(self, plain: PlainLoop) -> None:
        self.plain, self.device, self.losses = plain, plain.backbone.device, 0.0
        self.model = copy.deepcopy(plain.model)
        groups = decayed(self.model, plain.plan.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=plain.plan.lr, betas=(plain.plan.beta1, plain.plan.beta2), fused=True)

    def ready(self, chosen: Sequence[Sequence[int]], seed: int) -> Callable[[], Told]:
        """Steps on the examples of these batches, in random batches of the same size that `Trainer` makes itself; not timed yet."""
        rows, size = [i for batch in chosen for i in batch], max(map(len, chosen))
        clock = _Clock(self.device)
        constant = torch.optim.lr_scheduler.ConstantLR(self.optimizer, factor=1.0)
        arguments = Arguments(
            output_dir=tempfile.gettempdir(),  # nothing is saved
            per_device_train_batch_size=size,
            max_steps=len(chosen),
            max_grad_norm=self.plain.plan.clip,
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=self.device.type == "cpu",
            bf16=self.device.type == "cuda",
        )
        trainer = HfTrainer(
            model=self.model,
            args=arguments,
            train_dataset=[{"row": i} for i in rows],
            data_collator=lambda batch: {k: v.cpu() for k, v in self.plain.batch([one["row"] for one in batch]).items()},
            optimizers=(self.optimizer, constant),
            callbacks=[clock],
        )

        def work() -> Told:
            self.losses = float(trainer.train().training_loss)
            return {"examples": float(len(rows)), "seconds": clock.last - clock.first}

        return work
