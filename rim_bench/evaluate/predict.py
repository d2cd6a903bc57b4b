"""Batches of prompts become answers with their costs: what an item record says about a generation.

Knows nothing of lm-eval.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rim_bench.compute.flops import bridge_flops, decode_flops, kv_bytes, prefill_flops
from rim_bench.compute.training_flops import Products, forward
from rim_bench.data.answers import Kind
from rim_bench.engine.generate import Completion, DecodingWork, Sampling, Stop, decode, sample
from rim_bench.engine.trained_model import TrainedModel
from rim_bench.evaluate.self_consistency import majority
from rim_bench.methods.layout import Layout
from rim_bench.methods.method import check_effort
from rim_bench.util.errors import UsageError

ANSWER = "####"


@dataclass
class Prediction:
    """One generation request, with its costs."""

    text: str
    cost: dict[str, Any] = field(default_factory=dict)
    blocks: list[str] = field(default_factory=list)  # texts after every probe place, where they were asked for
    logprobs: list[float] = field(default_factory=list)  # of the choices, where it was one


@dataclass(frozen=True)
class Batch:
    """What the batch of an item took; an item's share of its FLOPs is that of one row."""

    seconds: float = 0.0
    rows: int = 0
    flops: int = 0  # executed
    number_bytes: float = 0.0  # of a number in the cache


class Predictor:
    """A trained run that answers questions.

    Args:
        effort: overrides the method's compute knob (rim: blocks, coconut: thoughts, pause: pauses).
        probe: also decode behind every probe place of the method (rim: after every block); not with several samples.
        sampling: several samples a question, whose most frequent answer counts; None: one greedy answer.
        split: every filler position in a pass of its own: the same answers, at another latency.

    Raises:
        UsageError: an effort for a method without a knob, or one that it does not take; a method without filler
            positions to split.
    """

    def __init__(
        self,
        trained: TrainedModel,
        effort: int | None = None,
        *,
        probe: bool = False,
        sampling: Sampling | None = None,
        split: bool = False,
    ) -> None:
        self.trained, self.effort, self.sampling, self.split = trained, effort, sampling, split
        self.probe = probe and sampling is None
        self.backbone, self.method, self.workspace = trained.backbone, trained.method, trained.workspace
        check_effort(self.method, effort)
        shortest = self.prompt((0,))  # refuses an effort that the method does not take
        if not self.fits(shortest):
            raise UsageError(
                f"no question fits: the layout of the shortest takes {max(shortest.position) + 2:,} positions, and the "
                f"model has {self.backbone.max_positions:,}; give a smaller effort"
            )
        self._stops: dict[tuple[str, ...], frozenset[int]] = {}
        self.shape = self.workspace.shape()

    def prompt(self, question: tuple[int, ...]) -> Layout:
        """The layout that the answer to an encoded question continues."""
        if not self.split:
            return self.method.lay_prompt(question, self.effort)
        layout = self.method.lay_split(question, self.effort)
        if layout is None:
            raise UsageError(
                f"the passes of {self.method.name} cannot be split: it has no learned positions in place of thoughts"
            )
        return layout

    def fits(self, layout: Layout) -> bool:
        """Whether the model has positions for the prompt and a token behind it."""
        return max(layout.position) + 2 <= self.backbone.max_positions

    def unanswered(self, layout: Layout, question: tuple[int, ...]) -> Prediction:
        """The record of a prompt that the model has no positions for."""
        nothing = [Completion(ended=True)] * (1 if self.sampling is None else self.sampling.samples)
        cost = self._cost(layout, question, nothing, (0, 0), Batch())
        return Prediction("", cost | {"flops_prefill": 0, "kv_bytes": 0, "overlong": True})

    def complete(
        self, layouts: Sequence[Layout], limit: int, stop: Stop | None, work: DecodingWork | None = None
    ) -> list[list[Completion]]:
        """The samples of each prompt: one greedy one, or those that `sampling` draws."""
        if self.sampling is not None:
            return sample(self.workspace, layouts, self.sampling, max_tokens=limit, stop=stop, work=work)
        done = decode(self.workspace, layouts, max_tokens=limit, stop=stop, work=work)
        return [[branches[layout.resume[0]]] for layout, branches in zip(layouts, done, strict=True)]

    def answer(
        self,
        layouts: Sequence[Layout],
        limit: int,
        until: tuple[str, ...],
        questions: Sequence[tuple[int, ...]],
        kind: Kind = "auto",
    ) -> list[Prediction]:
        """One batch of prompts, decoded and priced; `kind` says which answers of several samples are equal."""
        stop = self.stop(until)
        work = DecodingWork()
        began = time.perf_counter()
        done = self.complete(layouts, limit, stop, work)
        seconds = time.perf_counter() - began
        batch = Batch(seconds, len(layouts), self.batch_flops(layouts, work), work.number_bytes)
        out = []
        for layout, question, samples in zip(layouts, questions, done, strict=True):
            texts = [cut(self.backbone.decode(s.tokens), until) for s in samples]
            elected = majority(texts, kind) if len(texts) > 1 else (0, 1)
            out.append(Prediction(texts[elected[0]], self._cost(layout, question, samples, elected, batch)))
        # answers after every probe place: never the scored answer, and not part of its cost
        trees = [self.method.lay_probe(q, self.effort) for q in questions] if self.probe else []
        probed = [tree for tree in trees if tree is not None]
        if probed and len(probed) == len(trees):
            for answered, tree, branches in zip(
                out, probed, decode(self.workspace, probed, max_tokens=limit, stop=stop), strict=True
            ):
                answered.blocks = [cut(self.backbone.decode(branches[name].tokens), until) for name in tree.resume]
        return out

    def batch_flops(self, layouts: Sequence[Layout], work: DecodingWork) -> int:
        """FLOPs that a batch executed, padding and rows that wait for others included."""
        products = Products(work.columns, work.pairs, work.logits, work.columns)
        return forward(self.shape, products) + sum(bridge_flops(self.shape, row) for row in layouts)

    def stop(self, until: tuple[str, ...]) -> Stop | None:
        """A stop rule for `until`: full text is decoded only after a token that can complete a stop string."""
        if not until:
            return None
        if until not in self._stops:
            last = {u[-1] for u in until}
            (start,) = self.backbone.encode("a")[:1]  # some tokenizers drop a space at the beginning of a text
            skip = len(self.backbone.decode((start,)))
            pieces = ((i, self.backbone.decode((start, i))[skip:]) for i in range(self.backbone.vocabulary))
            self._stops[until] = frozenset(i for i, piece in pieces if last & set(piece) or "\ufffd" in piece)
        able = self._stops[until]
        return lambda tokens: (
            bool(tokens) and tokens[-1] in able and any(u in self.backbone.decode(tokens) for u in until)
        )

    def _cost(
        self,
        layout: Layout,
        question: tuple[int, ...],
        samples: Sequence[Completion],
        elected: tuple[int, int],
        batch: Batch,
    ) -> dict[str, Any]:
        """What one answer cost, as fields of an item record.

        Samples run side by side after one prefill: their tokens and FLOPs add up, their passes do not.

        Args:
            elected: the sample whose text counts, and how many agree with it.
        """
        firsts = [(s, answer_token(self.backbone.decode, s.tokens)) for s in samples]
        generated = [s.generated for s in samples]
        grown = 1 + sum(max(0, n - 1) for n in generated)  # the last token of a sample is never fed
        votes = {} if self.sampling is None else {"votes": len(samples), "votes_for": elected[1]}
        return {
            "prompt_tokens": len(question),
            "latent_positions": layout.size - len(question),
            "generated_tokens": sum(generated),
            "capped": not samples[elected[0]].ended,
            "passes": max(s.passes for s in samples),
            "passes_to_answer": max((s.prompt_passes + at for s, at in firsts if at is not None), default=None),
            "flops_prefill": prefill_flops(self.shape, layout),
            "flops_decode": sum(decode_flops(self.shape, layout, n) for n in generated),
            "flops_executed": batch.flops // max(1, batch.rows),
            "kv_bytes": round(kv_bytes(self.shape, layout, grown, 1) * batch.number_bytes),
            "latency_s": round(max(s.seconds for s in samples), 6),
            "batch_s": round(batch.seconds, 6),
            "batch_size": batch.rows,
            "overlong": False,
            **votes,
        }


def cut(text: str, until: Sequence[str]) -> str:
    """Text up to the earliest stop string."""
    places = [at for u in until if (at := text.find(u)) >= 0]
    return text[: min(places)] if places else text


def answer_token(decode_tokens: Callable[[tuple[int, ...]], str], tokens: tuple[int, ...]) -> int | None:
    """Index of the first token of the answer: the one that puts something behind `####`; None without one."""
    if ANSWER not in decode_tokens(tokens):
        return None
    low, high = 0, len(tokens) - 1  # whether a prefix shows an answer is monotone in its length
    if not decode_tokens(tokens).split(ANSWER, 1)[1].strip():
        return None
    while low < high:
        middle = (low + high) // 2
        behind = decode_tokens(tokens[: middle + 1]).split(ANSWER, 1)
        if len(behind) > 1 and behind[1].strip():
            high = middle
        else:
            low = middle + 1
    return low
