"""The choice form of a task: which of a question's own answers a trained run finds most likely.

Knows nothing of lm-eval. A choice's likelihood is the sum of its tokens' log-probabilities, nothing divided by its
length and no end of text after it. Where choices differ in length that favours the short ones, so that records also say
what the likelihood over characters would choose (`correct_norm`, as lm-eval's `acc_norm`). From-scratch tokenizers give
every name one token: there ProsQA's two options are equally long.

The choices are sibling branches after the method's prompt and `#### `, as they were trained, in one forward pass. A
method that writes its steps (`Method.writes_steps`: cot) writes them first, greedily, up to the mark; its choices stand
after what it wrote, also where that ran into the cap (`capped` in the record). No method is asked without what it was
trained to have in front of an answer. Several samples and votes have no likelihood and are refused; everything else
that answers questions can choose.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rim_bench.compute.flops import bridge_flops, prefill_flops
from rim_bench.compute.training_flops import executed, forward, seen
from rim_bench.data.answers import Kind
from rim_bench.engine.generate import ChoiceScore, Completion, DecodingWork, Stop, score
from rim_bench.evaluate.predict import ANSWER, Batch, Prediction, Predictor
from rim_bench.methods.layout import Layout
from rim_bench.util.errors import UsageError

if TYPE_CHECKING:
    from rim_bench.engine.backbone import Backbone

Question = tuple[int, ...]
Tokens = tuple[int, ...]


def branches(backbone: Backbone, base: Layout, texts: Sequence[str]) -> tuple[Layout, list[Tokens]]:
    """The prompt with `#### ` after it, and each choice's tokens as they were trained.

    A choice is encoded together with what precedes it. Some tokenizers join the space and the answer, so that only
    `####` is shared; where even that is joined, nothing is. An empty choice is the end of the text.
    """
    texts = [text.lstrip(" ") for text in texts]
    choices = [backbone.encode(f"{ANSWER} {text}") + (() if text else (backbone.end,)) for text in texts]
    for mark in (f"{ANSWER} ", ANSWER):
        prefix = backbone.encode(mark)
        if all(c[: len(prefix)] == prefix and len(c) > len(prefix) for c in choices):
            mark_part = base.continuation("answer prefix", base.resume[0], prefix)
            layout = Layout((*base.segments, mark_part), (mark_part.name,), base.blind)
            return layout, [c[len(prefix) :] for c in choices]
    return base, choices


class ChoicePredictor(Predictor):
    """A trained run that chooses between given answers, where an `Answerer` writes one.

    Args:
        answerer: the run, its effort, and whether its passes are split.
        offered: encoded question -> its choices, at least two.

    Raises:
        UsageError: an answerer that samples.
    """

    def __init__(self, answerer: Predictor, offered: Mapping[Question, Sequence[str]]) -> None:
        if answerer.sampling is not None:
            raise UsageError(
                "a choice by likelihood is not sampled: leave out votes, or evaluate the form of the task that "
                "generates"
            )
        texts = {text for choices in offered.values() for text in choices}
        self._room = max((len(answerer.backbone.encode(f"{ANSWER} {text}")) for text in texts), default=0)
        super().__init__(answerer.trained, answerer.effort, split=answerer.split)
        self.offered = offered
        self._asked: dict[tuple[object, ...], Question] = {}  # prompt -> question

    def prompt(self, question: Question) -> Layout:
        layout = super().prompt(question)
        if hasattr(self, "_asked"):  # the base class tries a prompt before there is anything to remember
            self._asked[layout.tokens] = question
        return layout

    def fits(self, layout: Layout) -> bool:
        """Whether the model has positions for the prompt and the longest choice after it."""
        return max(layout.position) + 1 + self._room <= self.backbone.max_positions

    def answer(
        self,
        layouts: Sequence[Layout],
        limit: int,
        until: tuple[str, ...],
        questions: Sequence[Question],
        kind: Kind = "auto",
    ) -> list[Prediction]:
        """One batch of prompts, chosen and priced, in a generated answer's fields.

        The text of each is `#### ` and its choice, nothing where two are equally likely. The choice needs one pass: the
        prompt's own, or one after the steps.
        """
        began = time.perf_counter()
        chains, bases, scores, work = self._choose(layouts, limit)
        seconds = time.perf_counter() - began
        trees = []  # the layouts of the pass that scores: logits are computed where its labels are
        for base, question in zip(bases, questions, strict=True):
            stem, choices = branches(self.backbone, base, self.offered[question])
            parts = (stem.continuation(f"choice {i}", stem.resume[0], c, 1.0) for i, c in enumerate(choices))
            trees.append(stem.grow(*parts))
        run = [tree for tree, row_scores in zip(trees, scores, strict=True) if row_scores]
        flops = forward(self.shape, executed(run)) + sum(bridge_flops(self.shape, tree) for tree in run) if run else 0
        flops += self.batch_flops(layouts, work) if work.columns else 0
        batch = Batch(seconds, len(layouts), flops, work.number_bytes)
        wrote = self.method.writes_steps
        out = []
        for i, (layout, question) in enumerate(zip(layouts, questions, strict=True)):
            if not scores[i]:
                out.append(self.unanswered(layout, question))
                continue
            logprobs = [s.logprob for s in scores[i]]
            best = max(logprobs)
            text = f"{ANSWER} {self.offered[question][logprobs.index(best)]}" if logprobs.count(best) == 1 else ""
            cost = self._cost(layout, question, [chains[i]], (0, 1), batch)
            whole, known = (
                forward(self.shape, seen(part)) + bridge_flops(self.shape, part) for part in (trees[i], bases[i])
            )
            cost["passes"] = cost["passes_to_answer"] = chains[i].passes + 1 if wrote else trees[i].passes
            cost["flops_prefill"] = prefill_flops(self.shape, layout) if wrote else whole
            cost["flops_decode"] = cost["flops_decode"] + whole - known if wrote else 0
            cost["latency_s"] = round(seconds, 6)
            out.append(Prediction(text, cost, logprobs=logprobs))
        return out

    def complete(
        self, layouts: Sequence[Layout], limit: int, stop: Stop | None, work: DecodingWork | None = None
    ) -> list[list[Completion]]:
        """Completions without tokens for prompts of this chooser, timed until the choice is known."""
        began = time.perf_counter()
        chains = self._choose(layouts, limit)[0]
        took = time.perf_counter() - began
        return [[replace(chain, tokens=(), seconds=took, times=[took])] for chain in chains]

    def _choose(
        self, layouts: Sequence[Layout], limit: int
    ) -> tuple[list[Completion], list[Layout], list[list[ChoiceScore]], DecodingWork]:
        """What each row wrote first, the layouts that choices follow, their scores (none: no room), and the work."""
        work = DecodingWork()
        chains = [Completion(ended=True, prompt_passes=row.passes) for row in layouts]
        bases = list(layouts)
        if self.method.writes_steps:
            chains = [samples[0] for samples in super().complete(layouts, limit, self.stop((ANSWER,)), work)]
            bases = [self._after_steps(row, chain) for row, chain in zip(layouts, chains, strict=True)]
        scores: list[list[ChoiceScore]] = [[] for _ in layouts]
        asked = [
            (i, *branches(self.backbone, bases[i], self.offered[self._asked[layouts[i].tokens]]))
            for i in range(len(layouts))
        ]
        room = [a for a in asked if max(a[1].position) + 1 + max(map(len, a[2])) <= self.backbone.max_positions]
        if room:
            scored = score(self.workspace, [base for _, base, _ in room], [choices for _, _, choices in room])
            for (i, _, _), row_scores in zip(room, scored, strict=True):
                scores[i] = row_scores
        return chains, bases, scores, work

    def _after_steps(self, layout: Layout, chain: Completion) -> Layout:
        """The prompt and what was written before the mark."""
        text = self.backbone.decode(chain.tokens).split(ANSWER, 1)[0]
        kept = len(chain.tokens)
        while kept and (len(part := self.backbone.decode(chain.tokens[:kept])) > len(text) or ANSWER[0] in part):
            kept -= 1
        if not kept:
            return layout
        steps = layout.continuation("written steps", layout.resume[0], chain.tokens[:kept])
        return Layout((*layout.segments, steps), (steps.name,), layout.blind)
