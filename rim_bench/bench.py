"""How fast training and decoding run, beside a plain PyTorch loop on the same model and rows. Ratios of interleaved rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rim_bench.backbone import Backbone
from rim_bench.errors import UsageError
from rim_bench.flops import Shape, training_flops
from rim_bench.generate import decode
from rim_bench.method import Encoded
from rim_bench.run import Cell, Study
from rim_bench.run_options import Options
from rim_bench.train import Trainer
from rim_bench.trained import build_bridges

if TYPE_CHECKING:
    from rich.table import Table

STEPS = 6  # optimizer steps a round
DECODED = 64  # questions a round


class _Nowhere:
    """A journal that keeps nothing: a measurement leaves no run behind."""

    def append_metrics(self, record: dict[str, Any]) -> None: ...
    def truncate_metrics(self, step: int) -> None: ...
    def latest_checkpoint(self) -> tuple[int, Path] | None:
        return None

    @contextmanager
    def checkpoint(self, step: int) -> Iterator[Path]:
        raise AssertionError("a benchmark writes no checkpoint")
        yield Path()


class PlainLoop:
    """What a user would write: right-padded rows, the model's own loss with the question masked, AdamW, clipping.

    `target` is "direct" (question and answer) or "cot" (question, steps, answer).
    """

    def __init__(self, backbone: Backbone, data: Sequence[Encoded], trainer: Trainer, target: str) -> None:
        self.model, self.backbone, self.target, self.data, self.plan = backbone.causal, backbone, target, data, trainer.plan
        plan = trainer.plan
        groups = backbone.parameter_groups(plan.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=plan.lr, betas=(plan.beta1, plan.beta2), fused=True)

    def loss(self, chosen: Sequence[int]) -> torch.Tensor:
        """Mean cross-entropy of the completions' tokens, by Hugging Face's own forward."""
        rows, labels = [], []
        for i in chosen:
            e = self.data[i]
            completion = (*(e.chain if self.target == "cot" else ()), *e.answer)
            rows.append([*e.question, *completion])
            labels.append([-100] * len(e.question) + list(completion))
        longest = max(map(len, rows))
        pad = self.backbone.end
        ids = torch.tensor([r + [pad] * (longest - len(r)) for r in rows], device=self.backbone.device)
        mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows], device=self.backbone.device)
        gold = torch.tensor([r + [-100] * (longest - len(r)) for r in labels], device=self.backbone.device)
        with self.backbone.autocast():
            loss: torch.Tensor = self.model(input_ids=ids, attention_mask=mask, labels=gold, use_cache=False).loss
        return loss

    def step(self, chosen: Sequence[int]) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(chosen)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        self.optimizer.step()
        return float(loss.detach())


class _Arm:
    """One method ready to be timed, with the plain loop it is compared to (cot's for methods with no plain counterpart)."""

    def __init__(self, study: Study, cell: Cell) -> None:
        backbone = Backbone.create(
            study.backbone_spec,
            texts=study.texts,
            pattern=study.task.token_pattern,
            markers=cell.method.markers(),
            seed=0,
            device=study.device,
        )
        self.name = cell.method.name
        self.against = self.name if self.name in ("direct", "cot") else "cot"
        self.backbone, self.method = backbone, cell.method
        self.data = [backbone.encode_example(e) for e in study.train_set.examples]
        bridges = build_bridges(cell.method, backbone, 0)
        self.trainer = Trainer(backbone, cell.method, bridges, self.data, cell.plan, _Nowhere(), study.start)
        self.plain = PlainLoop(backbone, self.data, self.trainer, self.against)
        self.span = self.trainer.spans[-1]  # the last stage: what most of a curriculum's thoughts and blocks cost
        self.at = 0

    def chosen(self) -> list[list[int]]:
        """The next round's batches, of the same rows for both loops."""
        size, n = self.trainer.plan.batch_size, len(self.data)
        out = [[(self.at + s * size + i) % n for i in range(size)] for s in range(STEPS)]
        self.at += STEPS * size
        return out

    def round(self) -> dict[str, float]:
        """One interleaved round: ours, plain, decoding. Examples/s each."""
        batches, size = self.chosen(), self.trainer.plan.batch_size
        self.backbone.model.train()
        ours = self._timed(lambda: [self.trainer._step(self.span, self.span.first, b) for b in batches])
        plain = self._timed(lambda: [self.plain.step(b) for b in batches])
        self.backbone.model.eval()
        questions = [self.data[(self.at + i) % len(self.data)].question for i in range(DECODED)]
        layouts = [self.method.lay_prompt(q) for q in questions]
        decoding = self._timed(lambda: decode(self.trainer.workspace, layouts, max_tokens=16))
        shape = Shape.of(self.backbone.causal.config.to_dict())
        rows = [row for b in batches for row in self.trainer.layouts(self.span, self.span.first, b)]
        flops = 3 * sum(training_flops(shape, row) for row in rows)  # forward and twice that backward: full training only
        return {
            "train": STEPS * size / ours,
            "plain": STEPS * size / plain,
            "ratio": plain / ours,
            "decode": DECODED / decoding,
            "gflops": flops / ours / 1e9,
        }

    def _timed(self, work: Callable[[], Any]) -> float:
        if self.backbone.device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if self.backbone.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began


def matrix_peak(device: torch.device, size: int = 1024, repeats: int = 5) -> float:
    """GFLOP/s of a float32 matrix product on this device, best of `repeats`."""
    a = torch.randn(size, size, device=device)
    best = 0.0
    for _ in range(repeats):
        began = time.perf_counter()
        (a @ a)[0, 0].item()
        best = max(best, 2 * size**3 / (time.perf_counter() - began) / 1e9)
    return best


def measure(options: Options, rounds: int) -> dict[str, Any]:
    """Warm up once, then `rounds` interleaved rounds over all methods; medians and ranges.

    The plain loop takes the same rows, the same model and the same optimizer. Methods other than direct and cot are set beside
    the plain chain-of-thought loop. Models are at their random start: speed does not depend on the weights, except that decoding
    is capped at 16 tokens a question and random models rarely stop earlier.

    Raises:
        UsageError: fewer than one round.
    """
    if rounds < 1:
        raise UsageError(f"rounds {rounds} must be at least 1")
    study = Study(options)
    arms = [_Arm(study, cell) for cell in study.cells if not cell.is_start]
    for arm in arms:
        arm.round()
    seen: dict[str, list[dict[str, float]]] = {arm.name: [] for arm in arms}
    for _ in range(rounds):
        for arm in arms:
            seen[arm.name].append(arm.round())
    methods = {
        arm.name: {"against": arm.against, **{key: _spread([r[key] for r in seen[arm.name]]) for key in seen[arm.name][0]}} for arm in arms
    }
    return {
        "schema": 1,
        "task": study.task.name,
        "backbone": study.backbone_spec,
        "batch_size": arms[0].trainer.plan.batch_size,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "device": str(study.device),
        "peak_gflops": round(matrix_peak(study.device), 1),
        "methods": methods,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def report(measured: dict[str, Any]) -> Table:
    """The measurements as a table for a terminal."""
    from rich.table import Table

    title = (
        f"{measured['task']}, {measured['backbone']['name']}, batch {measured['batch_size']}, {measured['device']}, "
        f"{measured['threads']} threads, matrix peak {measured['peak_gflops']:.0f} GFLOP/s; medians [range] of {measured['rounds']} rounds"
    )
    table = Table(title=title)
    for name in ("method (last stage)", "train ex/s", "plain loop ex/s", "ratio", "use of peak", "decode ex/s"):
        table.add_column(name, justify="left" if name.startswith("method") else "right")
    full = measured["backbone"]["tuning"] == "full"
    for name, m in measured["methods"].items():
        use = f"{100 * m['gflops']['median'] / measured['peak_gflops']:.0f} %" if full else "-"
        plain = _range(m["plain"], 0) + ("" if m["against"] == name else f" ({m['against']})")
        table.add_row(name, _range(m["train"], 0), plain, _range(m["ratio"], 2), use, _range(m["decode"], 0))
    return table


def _range(spread: dict[str, float], digits: int) -> str:
    return f"{spread['median']:,.{digits}f} [{spread['low']:,.{digits}f}, {spread['high']:,.{digits}f}]"
