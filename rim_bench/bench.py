"""How fast training and decoding run, beside a plain PyTorch loop on the same model and rows. Ratios of interleaved rounds."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rim_bench.backbone import Backbone
from rim_bench.errors import UsageError
from rim_bench.generate import decode
from rim_bench.method import Encoded
from rim_bench.run import Study
from rim_bench.run_options import Options
from rim_bench.run_parts import Cell, check_rows
from rim_bench.schedule import batches
from rim_bench.train import Trainer
from rim_bench.train_flops import training_cost
from rim_bench.trained import build_bridges

if TYPE_CHECKING:
    from rich.table import Table

STEPS = 6  # optimizer steps a round
DECODED_TOKENS = 16  # generated per question
REQUIRED = 0.91  # of the plain loop's examples/s, for direct and cot: an overhead of at most 10 %
STILL = 1e-12  # learning rate: a step costs the same, and the weights stay where a random model generates up to the cap


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

    def generate(self, questions: Sequence[tuple[int, ...]], tokens: int) -> torch.Tensor:
        """Hugging Face's own greedy decoding, prompts padded on the left; ids [questions, longest prompt + generated]."""
        longest = max(map(len, questions))
        pad, device = self.backbone.end, self.backbone.device
        ids = torch.tensor([[pad] * (longest - len(q)) + list(q) for q in questions], device=device)
        mask = torch.tensor([[0] * (longest - len(q)) + [1] * len(q) for q in questions], device=device)
        with torch.inference_mode(), self.backbone.autocast():
            out: torch.Tensor = self.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, eos_token_id=pad, pad_token_id=pad
            )
        return out


class _Arm:
    """One method ready to be timed, with the plain loop it is compared to (cot's for methods with no plain counterpart).

    Both train the same model, each with an optimizer of its own.
    """

    def __init__(self, study: Study, cell: Cell) -> None:
        backbone = Backbone.create(
            study.backbone_spec,
            texts=study.texts,
            pattern=study.task.token_pattern,
            markers=cell.method.markers(),
            seed=0,
            device=study.device,
        )
        if cell.method.trains == "markers":
            backbone.train_markers_only()
        self.name = cell.method.name
        self.against = self.name if self.name in ("direct", "cot") else "cot"
        self.backbone, self.method = backbone, cell.method
        self.data = [backbone.encode_example(e) for e in study.train_set.examples]
        bridges = build_bridges(cell.method, backbone, 0)
        plan = dataclasses.replace(cell.plan, lr=STILL)
        self.trainer = Trainer(backbone, cell.method, bridges, self.data, plan, _Nowhere(), study.start)
        check_rows(backbone, self.data, cell.method, [s.stage for s in self.trainer.spans])
        self.plain = PlainLoop(backbone, self.data, self.trainer, self.against)
        self.span = self.trainer.spans[-1]  # the last stage: what most of a curriculum's thoughts and blocks cost
        self.order = batches(len(self.data), plan.batch_size, plan.seed)  # as a run takes them
        self.decoded = min(len(self.data), study.options.eval_batch_size)
        self.rounds = 0

    def round(self) -> dict[str, float]:
        """One interleaved round: training and decoding, ours and plain, in turns about who goes first. Examples/s each."""
        chosen, size = [next(self.order) for _ in range(STEPS)], self.trainer.plan.batch_size
        questions = [self.data[i].question for i in range(self.decoded)]
        layouts = [self.method.lay_prompt(q) for q in questions]
        self.rounds += 1
        self.backbone.model.train()
        ours, plain = self._both(lambda: self._train(chosen), lambda: [self.plain.step(b) for b in chosen])
        self.backbone.model.eval()
        decoding, generating = self._both(
            lambda: decode(self.trainer.workspace, layouts, max_tokens=DECODED_TOKENS),
            lambda: self.plain.generate(questions, DECODED_TOKENS),
        )
        return {
            "train": STEPS * size / ours,
            "plain": STEPS * size / plain,
            "ratio": plain / ours,
            "decode": self.decoded / decoding,
            "generate": self.decoded / generating,
            "decode_ratio": generating / decoding,
            "gflops": self._flops(chosen) / ours / 1e9,
        }

    def _train(self, chosen: Sequence[Sequence[int]]) -> None:
        """The steps of a run's loop; the stage's own dropout holds for them alone."""
        self.backbone.set_dropout(self.span.stage.dropout)
        for batch in chosen:
            self.trainer._step(self.span, self.span.first, self.span.first, batch)
        self.backbone.set_dropout(0.0)

    def _flops(self, chosen: Sequence[Sequence[int]]) -> int:
        """Of the rows without padding, forward and backward."""
        rows = [row for b in chosen for row in self.trainer.layouts(self.span, self.span.first, self.span.first, b)]
        trains = self.backbone.trains()
        return sum(training_cost(self.trainer.shape, trains, row) for row in rows)

    def _both(self, ours: Callable[[], Any], plain: Callable[[], Any]) -> tuple[float, float]:
        """Seconds of each; who goes first changes from round to round."""
        if self.rounds % 2:
            return self._timed(ours), self._timed(plain)
        second = self._timed(plain)
        return self._timed(ours), second

    def _timed(self, work: Callable[[], Any]) -> float:
        if self.backbone.device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if self.backbone.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began


def matrix_peak(device: torch.device, repeats: int = 10) -> float:
    """GFLOP/s of a matrix product in the type that training computes in (float32, bfloat16 on CUDA), best of `repeats`."""
    cuda = device.type == "cuda"
    size = 8192 if cuda else 1024
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if cuda else torch.float32)
    best = 0.0
    for _ in range(repeats):
        began = time.perf_counter()
        torch.mm(a, a)[0, 0].item()  # waits for the device
        best = max(best, 2 * size**3 / (time.perf_counter() - began) / 1e9)
    return best


def measure(options: Options, rounds: int) -> dict[str, Any]:
    """Warm up once, then `rounds` interleaved rounds over all methods; medians and ranges.

    The plain loop takes the same rows, the same model and the same optimizer. Methods other than direct and cot are set beside
    the plain chain-of-thought loop, and every method's decoding beside Hugging Face's `generate` behind the bare question. Models
    stay at their start and generate up to the cap, the same number of tokens for every method: what a method needs to generate for
    its answer is what the tables of `rim-bench run` show. Nothing is written.

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
        arm.name: {
            "stage": arm.span.stage.name,
            "against": arm.against,
            **{key: _spread([r[key] for r in seen[arm.name]]) for key in seen[arm.name][0]},
        }
        for arm in arms
    }
    return {
        "schema": 1,
        "task": study.task.name,
        "backbone": study.backbone_spec,
        "batch_size": arms[0].trainer.plan.batch_size,
        "micro_batch": arms[0].trainer.plan.micro_batch,
        "decoded": {"questions": arms[0].decoded, "tokens": DECODED_TOKENS},
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

    threads, decoded = measured["threads"], measured["decoded"]
    title = (
        f"{measured['task']}, {measured['backbone']['name']}, batch {measured['batch_size']} (micro-batch {measured['micro_batch']}), "
        f"{measured['device']}, {threads} thread{'s' if threads > 1 else ''}, matrix peak {measured['peak_gflops']:,.0f} GFLOP/s; "
        f"examples/s, medians (ranges) of {measured['rounds']} interleaved rounds"
    )
    caption = (
        f"x plain: our examples/s over those of a plain PyTorch loop on the same model, rows and optimizer; for direct and cot at least "
        f"{REQUIRED} is required, the others stand beside the plain cot loop. Curricula: their last stage. Use of peak: without padding. "
        f"Decoding: {decoded['tokens']} tokens for each of {decoded['questions']} questions; x HF: over Hugging Face's generate."
    )
    table = Table(title=title, caption=caption)
    for name in ("method", "training", "plain", "x plain", "of peak", "decoding", "x HF"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for name, m in measured["methods"].items():
        use = f"{100 * m['gflops']['median'] / measured['peak_gflops']:.0f} %"
        train, plain, decoding = (f"{m[key]['median']:,.0f}" for key in ("train", "plain", "decode"))
        table.add_row(name, train, plain, _range(m["ratio"], 2), use, decoding, f"{m['decode_ratio']['median']:.2f}")
    return table


def _range(spread: dict[str, float], digits: int) -> str:
    return f"{spread['median']:.{digits}f} ({spread['low']:.{digits}f}-{spread['high']:.{digits}f})"
