"""Votes: the drawn tokens against plain forward passes and the distribution itself, the count of votes, and what k
answers cost.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine import EXAMPLES, KERNELS, METHODS, model, reference
from lm_eval.api.instance import Instance
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rim_bench.baselines.cot import ChainOfThought
from rim_bench.compute import flops
from rim_bench.compute.flops import Shape
from rim_bench.data.task import load_task
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.generate import Completion, Sampling, decode, sample
from rim_bench.engine.packing import PackedModel
from rim_bench.engine.trained_model import TrainedModel
from rim_bench.evaluate import latency
from rim_bench.evaluate.evaluation import EvaluationRequest, evaluate
from rim_bench.evaluate.lm_eval_model import RimLM, register
from rim_bench.evaluate.predict import Predictor
from rim_bench.evaluate.self_consistency import TEMPERATURE, majority, sampling_of
from rim_bench.methods.layout import Layout
from rim_bench.methods.method import Method
from rim_bench.models.rim import Rim
from rim_bench.storage.records import KnobRecord, RunSpec
from rim_bench.util.errors import UsageError

THREE = Sampling(3, 0.8, seed=5)
families = pytest.mark.parametrize("family", ("tiny", "tiny-gpt2"))


def prompts() -> list[Layout]:
    return [method.lay_prompt(e.question) for method in METHODS for e in EXAMPLES]


def tokens_of(done: list[list[Completion]]) -> list[list[tuple[tuple[int, ...], bool, int, int]]]:
    return [[(s.tokens, s.ended, s.generated, s.passes) for s in row] for row in done]


def drawn_alone(backbone: Backbone, row: Layout, stream: random.Random, temperature: float, most: int) -> list[int]:
    """One sample by Hugging Face's own uncached forward, a plain loop over the vocabulary, and nothing of the
    engine.
    """
    out: list[int] = []
    while len(out) < most and (not out or out[-1] != backbone.end):
        whole = row.grow(row.continuation("out", row.resume[0], tuple(out))) if out else row
        logits = reference(backbone, whole, "out" if out else row.resume[0])[-1].double()
        weights = ((logits - logits.max()) / temperature).exp().tolist()
        left, token = stream.random() * sum(weights), 0
        while left >= weights[token]:
            left, token = left - weights[token], token + 1
        out.append(token)
    return out


# Drawing


@families
@pytest.mark.parametrize("kernel", KERNELS)
def test_samples_of_a_batch_are_those_of_single_prompts_drawn_one_by_one(family: str, kernel: str) -> None:
    backbone = model(family, kernel)
    rows = prompts()
    together = sample(PackedModel(backbone), rows, THREE, max_tokens=5)
    for row, samples in list(zip(rows, together, strict=True))[::2]:
        for stream, got in zip(THREE.streams(row), samples, strict=True):
            with torch.no_grad():
                alone = drawn_alone(backbone, row, stream, THREE.temperature, 5)
            assert got.tokens == tuple(t for t in alone if t != backbone.end) and got.generated == len(alone)
            assert got.passes == row.passes + len(alone) - 1 and got.ended == (alone[-1] == backbone.end)
    assert len({s.tokens for row in together for s in row}) > 1.5 * len(rows)  # the samples of a prompt differ
    others = sample(
        PackedModel(backbone), rows, Sampling(3, 0.8, seed=6), max_tokens=5
    )  # control: other draws, other samples
    assert sum(a != b for a, b in zip(tokens_of(together), tokens_of(others), strict=True)) > len(rows) // 2


@families
def test_a_sample_depends_on_no_row_and_no_sample_beside_it(family: str) -> None:
    work, rows = PackedModel(model(family)), prompts()
    together = tokens_of(sample(work, rows, THREE, max_tokens=6))
    assert together == [tokens_of(sample(work, [row], THREE, max_tokens=6))[0] for row in rows]
    fewer = tokens_of(sample(work, rows[::-1], Sampling(2, 0.8, seed=5), max_tokens=6))[::-1]
    assert [row[:2] for row in together] == fewer
    short = sample(work, rows, THREE, max_tokens=2)  # a smaller cap cuts, and changes nothing before
    assert [[s.tokens for s in row] for row in short] == [[t[:2] for t, *_ in row] for row in together]


@families
def test_samples_that_end_early_leave_the_others_alone(family: str) -> None:
    """Stop rules end samples and rows at different steps; what goes on is what it would have been."""
    work, rows = PackedModel(model(family)), prompts()
    whole = sample(work, rows, THREE, max_tokens=8)
    ends = sample(work, rows, THREE, max_tokens=8, stop=lambda tokens: tokens[-1] % 3 == 0)
    for one, other in zip((s for r in whole for s in r), (s for r in ends for s in r), strict=True):
        cut = next((k + 1 for k, t in enumerate(one.tokens) if t % 3 == 0), len(one.tokens))
        assert other.tokens == one.tokens[:cut]
    assert len({s.generated for row in ends for s in row}) > 3


@families
def test_a_low_temperature_is_greedy(family: str) -> None:
    work, rows = PackedModel(model(family)), prompts()
    greedy = [next(iter(done.values())) for done in decode(work, rows, max_tokens=6)]
    cold = sample(work, rows, Sampling(2, 1e-6), max_tokens=6)
    assert tokens_of(cold) == [[tokens_of([[g]])[0][0]] * 2 for g in greedy]


def test_tokens_come_as_often_as_the_model_says() -> None:
    backbone, row, n = model("tiny"), METHODS[1].lay_prompt(EXAMPLES[0].question), 4000
    (samples,) = sample(PackedModel(backbone), [row], Sampling(n, 0.5), max_tokens=1)
    counts = Counter(s.tokens[0] if s.tokens else backbone.end for s in samples)
    with torch.no_grad():
        expected = (reference(backbone, row, "question")[-1].double() / 0.5).softmax(-1)
    for token in expected.topk(8).indices.tolist():
        p = float(expected[token])
        assert abs(counts[token] / n - p) < 4 * (p * (1 - p) / n) ** 0.5
    assert len(counts) > 8 and max(float(expected[t]) for t in counts) < 0.9
    impossible = torch.full((backbone.vocabulary,), float("-inf"))
    impossible[[3, 9]] = 0.0
    head = backbone.head
    backbone.head = lambda hidden: impossible.expand(*hidden.shape[:-1], -1)  # type: ignore[method-assign]
    try:
        (samples,) = sample(PackedModel(backbone), [row], Sampling(200, 1.0), max_tokens=1)
    finally:
        backbone.head = head  # type: ignore[method-assign]
    assert {s.tokens for s in samples} == {(3,), (9,)}


def test_streams_follow_from_seed_index_and_prompt_alone() -> None:
    row = METHODS[4].lay_prompt((5, 6, 7))
    first = [s.random() for s in Sampling(3, 0.7, seed=1).streams(row)]
    key = repr((1, 2, row.tokens)).encode()
    assert first[2] == random.Random(int.from_bytes(hashlib.sha256(key).digest(), "big")).random()
    assert len(set(first)) == 3 and first[:2] == [s.random() for s in Sampling(2, 0.1, seed=1).streams(row)]
    assert not set(first) & {s.random() for s in Sampling(3, 0.7, seed=1).streams(METHODS[4].lay_prompt((5, 6, 8)))}
    with pytest.raises(ValueError, match="one resume segment"):
        tree = Rim(K=2).lay_probe((5, 6))
        assert tree is not None
        sample(PackedModel(model("tiny")), [tree], THREE, max_tokens=1)


# What it costs


def counted(run: Callable[[], object]) -> int:
    def attention(q: list[int], k: list[int], v: list[int], *_: Any, **__: Any) -> int:
        return 2 * q[0] * q[1] * q[2] * k[-2] * (q[-1] + v[-1])

    mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("family", ("tiny", "tiny-gpt2", "tiny-qwen"))
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.name}-{m.settings()}")
def test_k_samples_cost_what_torch_counts(family: str, method: Method) -> None:
    """One prefill with one column of logits, then k columns a step."""
    backbone = model(family)
    shape, row, done = (
        Shape.of(backbone.causal.config.to_dict()),
        method.lay_prompt(EXAMPLES[1].question),
        list[list[Completion]](),
    )
    work = PackedModel(backbone)
    first = counted(lambda: sample(work, [row], THREE, max_tokens=1))
    assert first == flops.executed_prefill(shape, [row])
    whole = counted(lambda: done.extend(sample(work, [row], THREE, max_tokens=4)))
    longest = max(s.generated for s in done[0])
    assert whole - first == flops.executed_decode(shape, row, longest, samples=3)
    assert whole - first == sum(
        3 * (flops.column_flops(shape, row.size + 3 * step) + flops.head_flops(shape)) for step in range(1, longest)
    )


def untrained(method: Method, family: str = "tiny") -> TrainedModel:
    backbone = model(family)
    return TrainedModel(
        backbone,
        method,
        nn.ModuleDict(),
        RunSpec.from_json({"method": {"name": method.name}, "backbone": {"name": family}, "seed": 0}),
    )


@pytest.mark.parametrize("method", [ChainOfThought(), Rim(K=3), METHODS[3]], ids=lambda m: m.name)
def test_the_record_of_k_samples(method: Method) -> None:
    answerer = Predictor(untrained(method), sampling=THREE, probe=True)
    questions = [e.question for e in EXAMPLES]
    rows = [answerer.prompt(q) for q in questions]
    greedy = Predictor(untrained(method)).answer(rows, 5, (), questions)
    for row, found, single, samples in zip(
        rows,
        answerer.answer(rows, 5, (), questions),
        greedy,
        sample(answerer.workspace, rows, THREE, max_tokens=5),
        strict=True,
    ):
        lengths, shape = [s.generated for s in samples], answerer.shape
        fed = sum(n - 1 for n in lengths)
        assert found.text in {answerer.backbone.decode(s.tokens) for s in samples} and found.blocks == []
        assert found.cost["votes"] == 3 and 1 <= found.cost["votes_for"] <= 3
        assert found.cost["generated_tokens"] == sum(lengths) and found.cost["passes"] == row.passes - 1 + max(lengths)
        assert found.cost["flops_prefill"] == flops.prefill_flops(shape, row) == single.cost["flops_prefill"]
        assert found.cost["flops_decode"] == sum(flops.decode_flops(shape, row, n) for n in lengths)
        assert found.cost["kv_bytes"] == 2 * shape.layers * shape.kv_heads * shape.head_dim * 4 * (row.size + fed)
        assert found.cost.keys() - single.cost.keys() == {"votes", "votes_for"}
        assert single.cost["kv_bytes"] == flops.kv_bytes(shape, row, single.cost["generated_tokens"], 4)
    nothing = answerer.unanswered(rows[0], questions[0]).cost
    assert (
        nothing.keys() == found.cost.keys()
        and nothing["kv_bytes"] == nothing["flops_prefill"] == nothing["votes_for"] == 0
    )


def test_the_last_sample_to_answer_decides_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    answerer = Predictor(untrained(ChainOfThought()), sampling=THREE)
    encode, question = answerer.backbone.encode, EXAMPLES[0].question
    texts = ["#### 7", "1+6=7 #### 7.0", "so long without one"]
    for given, expected in ((texts, texts[1]), (texts[2:] * 3, None)):
        samples = [Completion(encode(t), True, len(encode(t)), 1, 0.1, len(encode(t)), [0.1]) for t in given]
        monkeypatch.setattr(answerer, "complete", lambda *_, made=samples: [made])
        (found,) = answerer.answer([answerer.prompt(question)], 99, (), [question])
        assert found.text == given[0]
        if expected is None:
            assert found.cost["passes_to_answer"] is None and found.cost["votes_for"] == 3
        else:
            mark = next(k for k in range(99) if "#### 7" in answerer.backbone.decode(encode(expected)[: k + 1]))
            assert found.cost["passes_to_answer"] == 1 + mark and found.cost["votes_for"] == 2


# Counting votes


@pytest.mark.parametrize(
    ("texts", "kind", "winner"),
    [
        (["#### 1", "#### 2", "#### 2"], "number", (1, 2)),
        (["#### 1,000", "#### 2", "x\n#### $1000.00"], "number", (0, 2)),  # numbers compare as numbers
        (["#### 3", "#### 5", "#### 5", "#### 3"], "number", (0, 2)),  # a tie: whose first member comes first
        (["#### 9", "#### 5", "#### 3", "#### 5", "#### 3"], "number", (1, 2)),
        (["none", "none", "#### 4"], "number", (2, 1)),  # what has no answer does not vote
        (["#### yes", "#### yes", "#### 4"], "number", (2, 1)),  # nor does text among numbers
        (["#### Yes", "#### no", "####  yes."], "text", (0, 2)),
        (["#### Yes", "#### 4", "#### yes", "#### 4.0"], "auto", (0, 2)),
        (["a", "b c", "B  c"], "number", (1, 2)),  # unless none has one
        (["", "", "x"], "number", (0, 2)),
        (["#### 1 #### 2", "#### 1", "#### 2"], "number", (0, 2)),  # the last mark counts
        (["#### 7"], "number", (0, 1)),
    ],
)
def test_the_most_frequent_answer_wins(texts: list[str], kind: Any, winner: tuple[int, int]) -> None:
    assert majority(texts, kind) == winner


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"votes": 0}, "votes 0 must be a whole number of at least 1"),
        ({"votes": 2.5}, "votes 2.5"),
        ({"votes": "many"}, "votes 'many'"),
        ({"votes": 3, "temperature": 0}, "temperature 0 must be a number above 0"),
        ({"votes": 3, "temperature": -1.0}, "temperature -1.0"),
        ({"votes": 3, "temperature": float("inf")}, "temperature inf"),
        ({"votes": 3, "temperature": "hot"}, "temperature 'hot'"),
        ({"votes": 3, "sample_seed": -1}, "sample_seed -1"),
        ({"temperature": 0.7}, "temperature 0.7 needs votes of at least 2"),
        ({"votes": 1, "sample_seed": 0}, "sample_seed 0 needs votes"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(given: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        RimLM(trained=untrained(ChainOfThought()), **given)
    assert "\n" not in str(caught.value)


def test_one_vote_is_greedy_and_more_have_a_default() -> None:
    assert sampling_of() is None and sampling_of(1) is None
    assert sampling_of("5") == Sampling(5, TEMPERATURE, 0) and sampling_of(3, 1, 2) == Sampling(3, 1.0, 2)


# Through lm-eval and into the record


def test_keys_of_evaluations_without_votes_stay() -> None:
    chain = load_task("chain")
    plain = EvaluationRequest(chain, max_tokens=40)
    assert plain.key() == "chain-test-ce331b8b9d"  # of evaluator version 2
    assert EvaluationRequest(chain, max_tokens=40, temperature=0.3, sample_seed=9).key() == plain.key()
    drawn = {"votes": 3, "temperature": 0.7, "sample_seed": 0}
    others = [
        drawn,
        *(drawn | o for o in ({"votes": 5}, {"temperature": 0.5}, {"sample_seed": 1}, {"curve": True})),
        {"curve": True},
    ]
    assert len({plain.key(), *(EvaluationRequest(chain, max_tokens=40, **o).key() for o in others)}) == 1 + len(others)
    with pytest.raises(UsageError, match="votes 0"):
        EvaluationRequest(chain, votes=0)


def test_votes_through_lm_eval_are_votes_of_the_answerer() -> None:
    one = untrained(Rim(K=2), "tiny-gpt2")
    register()
    texts = ["1+1", "a=1|b=a", "7"]
    settings = {"until": [], "max_gen_toks": 4}
    ask = [
        Instance("generate_until", {"question": t}, (t, settings), 0, metadata=("t", i, 1)) for i, t in enumerate(texts)
    ]
    lm = RimLM.create_from_arg_obj(
        {"votes": "3", "temperature": "0.8", "sample_seed": "5"}, {"trained": one, "batch_size": 2}
    )
    out = lm.generate_until(ask)
    questions = [one.backbone.encode_question(t) for t in texts]
    answerer = Predictor(one, sampling=THREE)
    assert out == [answerer.answer([answerer.prompt(q)], 4, (), [q])[0].text for q in questions]
    info = lm.get_model_info()
    assert (info["rim_bench_votes"], info["rim_bench_temperature"], info["rim_bench_sample_seed"]) == (3, 0.8, 5)
    assert "rim_bench_votes" not in RimLM(trained=one).get_model_info()


def test_an_evaluation_with_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "ROUNDS", 3)
    one, task = untrained(Rim(K=2)), load_task("chain")
    request = EvaluationRequest(task, limit=6, max_tokens=4, votes=3, batch_size=2)
    answered, record = evaluate(one, request)
    answered_again, _ = evaluate(one, EvaluationRequest(task, limit=6, max_tokens=4, votes=3, batch_size=64))
    summary = record.to_json()
    items, again = ([i.to_json() for i in found] for found in (answered, answered_again))
    for item in (*items, *again):
        for name in ("latency_s", "batch_s", "batch_size", "flops_executed"):
            del item[name]
    assert items == again
    assert all(i["votes"] == 3 and "blocks" not in i for i in items)
    assert summary["settings"].items() >= {"votes": 3, "temperature": 0.7, "sample_seed": 0, "max_tokens": 4}.items()
    assert summary["knob"] == {"name": "votes", "value": 3} and summary["curve"] is False
    for name, batch in (("latency", 1), ("throughput", 2)):
        timed = summary[name]
        assert timed["batch"] == batch and timed["n"] == 6
        assert all(timed[kind][k] > 0 for kind in ("ttft_ms", "full_ms") for k in ("median", "p95", "mean"))
        assert timed["ttft_ms"]["mean"] <= timed["full_ms"]["mean"]
    assert summary["latency"]["rounds"] == summary["throughput"]["rounds"] == 3
    assert summary["throughput"]["examples_per_s"] > 0 and summary["peak_memory_bytes"] > 1e7
    _, plain = evaluate(one, EvaluationRequest(task, limit=6, max_tokens=4, effort=2))
    assert plain.knob is None and plain.generation.votes is None  # 2 is its own number of blocks
    _, both = evaluate(one, EvaluationRequest(task, limit=6, max_tokens=4, effort=1, votes=2))
    assert both.knob == KnobRecord(name="K+votes", value=[1, 2])
