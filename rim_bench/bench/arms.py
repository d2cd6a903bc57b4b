"""Methods made ready to be timed, and their rivals beside them: one set of rows, one tokenizer, a model each."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch

from rim_bench.bench.record import Setting
from rim_bench.bench.rivals import HfLoop, PlainLoop, Stock, hf_generate, plain_forward, uncached
from rim_bench.bench.session import Counts, MeasuredJob, NoJournal
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.generate import decode
from rim_bench.engine.markers import add_markers, train_markers_only
from rim_bench.engine.pretrained import scratch_model
from rim_bench.engine.trained_model import build_bridges
from rim_bench.engine.trainer import Trainer
from rim_bench.methods.layout import Layout
from rim_bench.methods.method import Encoded
from rim_bench.methods.schedule import batches
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import PlannedRun, arms, plan_study
from rim_bench.runs.training import check_rows
from rim_bench.util.errors import UsageError, unknown

STILL = 1e-12  # learning rate: a step costs the same, and the weights stay where they are
GPT2_ROWS = 50257  # rows of GPT-2's own table: a model of its size has as many, whatever the tokenizer uses of them


class Arm:
    """One method ready to be timed. Its rivals run the same weights in Hugging Face's own model.

    The plain loop trains what direct and cot train, and what cot trains beside every other method. A job's `prepare(k)`
    takes the examples of round `k`, the same for every arm of one seed.
    """

    def __init__(self, backbone: Backbone, cell: PlannedRun, data: Sequence[Encoded], start: str) -> None:
        self.name, self.method, self.backbone, self.data = cell.method.name, cell.method, backbone, data
        bridges = build_bridges(cell.method, backbone, 0)
        plan = dataclasses.replace(cell.plan, lr=STILL)
        self.trainer = Trainer(backbone, cell.method, bridges, data, plan, NoJournal(), start)
        self.span = self.trainer.spans[-1]  # the last stage: what most of a curriculum's thoughts and blocks cost
        self.trainer.done = self.trainer.spent = self.span.first
        check_rows(backbone, data, cell.method, [self.span.stage], bridges)
        self.against = self.name if self.name in ("direct", "cot") else "cot"
        self._order = batches(len(data), plan.batch_size, plan.seed)  # as a run takes them
        self._drawn: list[list[int]] = []

    @cached_property
    def stock(self) -> Stock:
        return Stock(self.backbone)

    @cached_property
    def plain(self) -> PlainLoop:
        return PlainLoop(self.stock, self.data, self.trainer.plan, self.against)

    @cached_property
    def hf(self) -> HfLoop:
        return HfLoop(self.plain)

    @property
    def batch_size(self) -> int:
        return self.trainer.plan.batch_size

    def chosen(self, k: int, steps: int) -> list[list[int]]:
        """The examples of the `steps` optimizer steps of round `k`."""
        while len(self._drawn) < (k + 1) * steps:
            self._drawn.append(list(next(self._order)))
        return self._drawn[k * steps : (k + 1) * steps]

    def shuffled(self, k: int, steps: int) -> list[list[int]]:
        """The same examples in random batches: the plain loop's."""
        rows = [i for batch in self.chosen(k, steps) for i in batch]
        random.Random(f"plain {k}").shuffle(rows)
        return [rows[at : at + self.batch_size] for at in range(0, len(rows), self.batch_size)]

    def train(self, steps: int, name: str | None = None) -> MeasuredJob:
        """Optimizer steps of a run, in its last stage and with that stage's dropout.

        Counts examples, FLOPs (of the layouts alone, and executed), real and executed positions.
        """

        def prepare(k: int) -> Callable[[], Counts]:
            chosen = self.chosen(k, steps)
            self.backbone.model.train()
            self.backbone.set_dropout(self.span.stage.dropout)

            def work() -> Counts:
                before = self.trainer.counters["executed"]
                records = [self.trainer.step(batch) for batch in chosen]
                counts = {key: float(sum(r[key] for r in records)) for key in ("flops", "flops_executed", "tokens")}
                executed = self.trainer.counters["executed"] - before
                return {**counts, "executed": float(executed), "examples": float(steps * self.batch_size)}

            return work

        return MeasuredJob(name or f"{self.name}: train", prepare)

    def train_plain(self, steps: int) -> MeasuredJob:
        """The same examples, model and optimizer in the plain loop, in random batches; counts examples, positions."""

        def prepare(k: int) -> Callable[[], Counts]:
            chosen = self.shuffled(k, steps)
            self.backbone.set_dropout(0.0)
            self.stock.model.train()
            real, executed = (sum(n) for n in zip(*(self.plain.positions(batch) for batch in chosen), strict=True))

            def work() -> Counts:
                for batch in chosen:
                    self.plain.step(batch)
                return {"examples": float(steps * self.batch_size), "tokens": float(real), "executed": float(executed)}

            return work

        return MeasuredJob(f"{self.name}: plain", prepare)

    def train_hf(
        self, steps: int, name: str | None = None, timer: Callable[[], float] = time.perf_counter
    ) -> MeasuredJob:
        """The same examples, a copy of the model, in Hugging Face's `Trainer`; counts examples."""

        def prepare(k: int) -> Callable[[], Counts]:
            self.backbone.set_dropout(0.0)
            return self.hf.ready(self.chosen(k, steps), k, timer)

        return MeasuredJob(name or f"{self.name}: Trainer", prepare)

    def first_token(self, n: int) -> MeasuredJob:
        """`n` prompts up to the first generated token, one after the other; counts questions."""

        def prepare(k: int) -> Callable[[], Counts]:
            self.quiet()
            layouts = self.prompts(self.questions(k, n))

            def work() -> Counts:
                for layout in layouts:
                    decode(self.trainer.workspace, [layout], max_tokens=1)
                return {"questions": float(len(layouts))}

            return work

        return MeasuredJob(f"{self.name}: first token", prepare)

    def forwards(self, n: int) -> MeasuredJob:
        """A plain forward of as many columns as each of those prompts has; counts questions."""

        def prepare(k: int) -> Callable[[], Counts]:
            self.quiet()
            lengths = [layout.size for layout in self.prompts(self.questions(k, n))]

            def work() -> Counts:
                for length in lengths:
                    plain_forward(self.stock, length)
                return {"questions": float(len(lengths))}

            return work

        return MeasuredJob(f"{self.name}: plain forward", prepare)

    def questions(self, k: int, n: int) -> list[tuple[int, ...]]:
        """`n` questions of round `k`, in the order that a run sees them."""
        rows = [i for batch in self.chosen(k, -(-n // self.batch_size)) for i in batch][:n]
        return [self.data[i].question for i in rows]

    def prompts(self, questions: Sequence[tuple[int, ...]]) -> list[Layout]:
        return [self.method.lay_prompt(q) for q in questions]

    def quiet(self) -> None:
        """Sets the models to answering: no dropout."""
        self.backbone.set_dropout(0.0)
        self.backbone.model.eval()
        if "stock" in self.__dict__:
            self.stock.model.eval()

    def answer(self, n: int, tokens: int, name: str | None = None) -> MeasuredJob:
        """`n` questions answered side by side, `tokens` generated for each; counts examples and tokens."""

        def prepare(k: int) -> Callable[[], Counts]:
            self.quiet()
            layouts = self.prompts(self.questions(k, n))

            def work() -> Counts:
                with endless(self.backbone):
                    done = decode(self.trainer.workspace, layouts, max_tokens=tokens)
                generated = sum(completion.generated for row in done for completion in row.values())
                return equal_work(generated, len(layouts), tokens)

            return work

        return MeasuredJob(name or f"{self.name}: answer", prepare)

    def answer_hf(self, n: int, tokens: int) -> MeasuredJob:
        """The same questions, bare, by Hugging Face's `generate`."""

        def prepare(k: int) -> Callable[[], Counts]:
            self.quiet()
            questions = self.questions(k, n)
            longest = max(map(len, questions))

            def work() -> Counts:
                ids = hf_generate(self.stock, questions, tokens)
                return equal_work(len(questions) * (ids.shape[1] - longest), len(questions), tokens)

            return work

        return MeasuredJob(f"{self.name}: generate", prepare)

    def answer_uncached(self, n: int, tokens: int, of: int) -> MeasuredJob:
        """`n` of the `of` questions of a round, spread over their lengths, one at a time and without a cache."""

        def prepare(k: int) -> Callable[[], Counts]:
            self.quiet()
            by_length = sorted(self.prompts(self.questions(k, of)), key=lambda row: row.size)
            picked = [by_length[(2 * i + 1) * len(by_length) // (2 * n)] for i in range(n)]
            if not all(row.is_chain and all(s.bridge is None for s in row.segments) for row in picked):
                raise UsageError(
                    f"--against uncached follows plain chains only: the prompts of {self.name} are none; leave it out "
                    "of --methods"
                )

            def work() -> Counts:
                generated = sum(len(uncached(self.stock, row, tokens)) for row in picked)
                return equal_work(generated, n, tokens)

            return work

        return MeasuredJob(f"{self.name}: uncached", prepare)


def equal_work(generated: int, rows: int, tokens: int) -> Counts:
    """What an answering job counts. Raises AssertionError where not every row ran into the cap of `tokens`."""
    assert generated == rows * tokens, f"{generated} tokens were generated, not {rows * tokens}"
    return {"examples": float(rows), "tokens": float(generated)}


@contextmanager
def endless(backbone: Backbone) -> Iterator[None]:
    """With an end token that no model can choose: what is generated ends at its cap."""
    end = backbone.codec.end
    backbone.codec.end = -1
    try:
        yield
    finally:
        backbone.codec.end = end


class Bench:
    """The rows and the methods of a measurement.

    Args:
        size: layers, width and heads in place of the backbone's own; from-scratch backbones only.
        rows: of the embedding table, where it shall have more than the tokenizer uses (GPT-2's 50,257).
    """

    def __init__(self, options: Options, size: tuple[int, int, int] | None = None, rows: int | None = None) -> None:
        changes = {} if size is None else dict(zip(("layers", "width", "heads"), size, strict=True))
        self.options = dataclasses.replace(options, backbone={**options.backbone, **changes})
        self.plan, self.rows = plan_study(self.options), rows
        self.study = self.plan[0].study
        if size is not None and self.study.backbone["kind"] != "scratch":
            raise UsageError(
                f"--sizes changes models from scratch, and {self.study.backbone['name']!r} is pretrained: leave it out"
            )
        self.device = torch.device(self.study.device)
        self._arms: dict[str, Arm] = {}

    @cached_property
    def _plain(self) -> Backbone:
        """The backbone without any method's markers; its tokenizer is everybody's."""
        spec, study = self.study.backbone, self.study
        pattern, dtype = study.task.token_pattern, study.precision.dtype
        return Backbone.create(spec, texts=study.texts, pattern=pattern, device=self.device, dtype=dtype)

    @cached_property
    def data(self) -> list[Encoded]:
        return [self._plain.encode_example(e) for e in self.study.data[0].examples]

    @property
    def names(self) -> list[str]:
        """The methods that were asked for."""
        return [cell.method.name for cell in arms(self.plan)]

    def arm(self, name: str) -> Arm:
        """A method that was asked for, made ready once."""
        if name not in self._arms:
            study, spec = self.study, self.study.backbone
            cell = next((c for c in arms(self.plan) if c.method.name == name), None)
            if cell is None:
                raise unknown("method of this measurement", name, self.names)
            markers = cell.method.markers()
            if spec["kind"] == "scratch":
                codec = self._plain.codec
                model = scratch_model(spec, max(codec.size, self.rows or 0), codec.end, 0, "sdpa")
                backbone = Backbone(spec, model, codec, {}, self.device, study.precision.dtype)
                add_markers(backbone, markers, 0)
            else:
                dtype = study.precision.dtype
                backbone = Backbone.create(spec, markers=markers, seed=0, device=self.device, dtype=dtype)
            if cell.method.trains == "markers":
                train_markers_only(backbone)
            self._arms[name] = Arm(backbone, cell, self.data, study.start)
        return self._arms[name]

    def setting(self) -> Setting:
        """What is measured."""
        study, plan = self.study, arms(self.plan)[-1].plan
        lengths = [(len(e.question), len(e.chain), len(e.answer)) for e in self.data]
        means = [round(sum(n) / len(lengths), 2) for n in zip(*lengths, strict=True)]
        return Setting(
            task=study.task.name,
            embedded=study.task.metadata["source"] == "generator",
            train_sha256=study.data[0].sha256,
            train_rows=len(self.data),
            mean_tokens=dict(zip(("question", "chain", "answer"), means, strict=True)),
            backbone=study.backbone,
            parameters=next((arm.backbone for arm in self._arms.values()), self._plain).count(),
            batch_size=plan.batch_size,
            micro_batch=plan.micro_batch,
            methods={c.method.name: c.method.settings() for c in arms(self.plan)},
            start=study.start,
        )
