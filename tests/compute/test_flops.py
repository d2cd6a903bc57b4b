"""The closed form against two counters, to the digit, on every method's layouts; the counters themselves against their
blind spots.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine import EXAMPLES, FAMILIES, METHODS, all_rows, loss_of, training_rows
from flop_variants import backbone_of, families, methods, variants
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from rim_bench.baselines.coconut import Coconut
from rim_bench.baselines.cot import ChainOfThought
from rim_bench.baselines.direct import Direct
from rim_bench.compute import flops
from rim_bench.compute.flops import Shape
from rim_bench.compute.training_flops import Products, executed_cost, forward
from rim_bench.engine import generate
from rim_bench.engine import packing as workspace_module
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.flop_counters import fvcore_counts, torch_flops
from rim_bench.engine.generate import DecodingWork, Sampling, decode, sample
from rim_bench.engine.micro_batches import micro_batches
from rim_bench.engine.packing import PackedModel
from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import Method
from rim_bench.models.rim import Rim
from rim_bench.util.errors import UsageError


def fvcore_count(backbone: Backbone, batch: list[Layout], *, attention: bool = True) -> dict[str, int]:
    """Operator -> fvcore's number for a batch's loss."""
    return fvcore_counts(backbone.model, lambda: loss_of(backbone, batch), attention=attention)


def attention_flops(shape: Shape, batch: list[Layout]) -> int:
    """The attention's part of a batch's forward pass."""
    pairs = len(batch) * sum(new * keys for new, keys in flops.executed_passes(batch))
    return 2 * 2 * shape.layers * shape.heads * shape.head_dim * pairs


# Equal to the digit

WHOLE = [(family, "sdpa") for family in FAMILIES]


@variants
def test_training_layouts_cost_what_torch_counts(variant: tuple[str, str]) -> None:
    """Masked trees, latent passes, the head at labels only: all methods and stages as one ragged batch, and on plain
    families alone. Each method's batch on each variant, with its backward pass, is counted in `test_training_flops`.
    """
    backbone, shape = backbone_of(variant)
    alone = [[row] for method in METHODS for row in training_rows(method)[::3]] if variant in WHOLE else []
    for batch in [all_rows(), *alone]:
        assert flops.executed_training(shape, batch) == torch_flops(lambda b=batch: loss_of(backbone, b))  # type: ignore[misc]


def asked(variant: tuple[str, str], whole: Sequence[tuple[str, str]]) -> list[Layout]:
    """Every method's prompt and probe on the variants that are asked whole; on others a plain one, one with latent
    passes and one with branches.
    """
    question = EXAMPLES[1].question
    rows = [row for m in METHODS for row in (m.lay_prompt(question), m.lay_probe(question)) if row is not None]
    kinds = {(row.passes > 1, len(row.resume) > 1): row for row in rows}
    assert len(kinds) == 3
    return rows if variant in whole else [*kinds.values()]


@variants
def test_prompts_and_decoding_cost_what_torch_counts(variant: tuple[str, str]) -> None:
    backbone, shape = backbone_of(variant)
    for layout in asked(variant, WHOLE):
        first = torch_flops(lambda row=layout: decode(PackedModel(backbone), [row], max_tokens=1))  # type: ignore[misc]
        assert first == flops.executed_prefill(shape, [layout])
        done: list[Any] = []
        whole = torch_flops(lambda row=layout, out=done: out.extend(decode(PackedModel(backbone), [row], max_tokens=4)))
        generated = max(c.generated for c in done[0].values())
        assert generated > 1
        assert whole - first == flops.executed_decode(shape, layout, generated)


def test_a_batch_of_prompts_is_padded_in_rows_columns_and_branches() -> None:
    backbone, shape = backbone_of(("tiny", "sdpa"))
    rows = [m.lay_probe(e.question) or m.lay_prompt(e.question) for m in METHODS for e in EXAMPLES[:2]]
    assert len({len(row.resume) for row in rows}) > 1 and len({row.passes for row in rows}) > 1
    parts = micro_batches(rows, len(rows), "cpu")
    assert 1 < len(parts) < len(rows)
    head = flops.executed_prefill(shape, rows) - flops.executed_forward(shape, rows)  # of all rows side by side
    counted = torch_flops(lambda: decode(PackedModel(backbone), rows, max_tokens=1))
    assert (
        counted
        == sum(flops.executed_forward(shape, part) for part in parts) + head
        < flops.executed_prefill(shape, rows)
    )
    assert flops.executed_forward(shape, rows) > sum(flops.executed_forward(shape, [row]) for row in rows)


@pytest.mark.parametrize("samples", [0, 3])
def test_what_a_batch_executes_is_what_torch_counts(samples: int) -> None:
    """Ragged prompts of every method, rows that leave the batch as they finish, padding and all; greedy and sampled."""
    backbone, shape = backbone_of(("tiny", "sdpa"))
    rows = [m.lay_prompt(e.question) for m in METHODS for e in EXAMPLES[:2]]
    work, workspace = DecodingWork(), PackedModel(backbone)

    def stop(tokens: tuple[int, ...]) -> bool:
        return len(tokens) > 1 + tokens[0] % 6  # some rows long before others

    def run() -> None:
        if samples:
            sample(workspace, rows, Sampling(samples, 1.0), max_tokens=8, stop=stop, work=work)
        else:
            decode(workspace, rows, max_tokens=8, stop=stop, work=work)

    counted = torch_flops(run)
    assert (
        counted == forward(shape, Products(work.columns, work.pairs, work.logits, work.columns))
        and work.number_bytes == 4
    )
    alone = sum(flops.executed_prefill(shape, [row]) for row in rows)
    assert counted > alone > sum(flops.prefill_flops(shape, row) for row in rows)


FVCORE = [
    *((family, "sdpa") for family in FAMILIES),
    ("tiny-gpt2", "eager"),
    ("grouped", "sdpa"),
    ("lora-llama", "sdpa"),
]


@pytest.mark.parametrize("variant", FVCORE, ids="-".join)
def test_training_layouts_cost_what_fvcore_counts(variant: tuple[str, str]) -> None:
    """Twice fvcore's multiply-accumulates, and beside them the one other operator it lists:
    GPT-2's layer norms, 5 FLOPs an entry.
    """
    backbone, shape = backbone_of(variant)
    batches = [all_rows()]  # every method's and stage's layouts in one ragged batch, and each method's by themselves
    batches += [training_rows(method) for method in METHODS] if variant == FVCORE[0] else []
    for batch in batches:
        counted = fvcore_count(backbone, batch)
        norms = counted.pop("layer_norm", 0)
        assert counted.keys() <= {"linear", "addmm", "matmul", "scaled_dot_product_attention"}
        assert 2 * sum(counted.values()) == flops.executed_training(shape, batch)
        columns = len(batch) * sum(new for new, _ in flops.executed_passes(batch))
        entries = (2 * shape.layers + 1) * columns * shape.width
        assert norms == (5 * entries if variant[0] == "tiny-gpt2" else 0)


def answer_of(backbone: Backbone, row: Layout) -> Tensor:
    """A prompt's passes and one cached step behind it."""
    workspace = PackedModel(backbone)
    parts = workspace.prefill([row])
    state, hidden = generate._open_branches(parts, [row.resume])
    fed = torch.zeros(1, len(row.resume), dtype=torch.long)
    return backbone.head(hidden).sum() + backbone.head(state.feed(workspace, parts, fed)).sum()


@pytest.mark.parametrize("variant", FVCORE, ids="-".join)
def test_prompts_and_cached_steps_cost_what_fvcore_counts(variant: tuple[str, str]) -> None:
    backbone, shape = backbone_of(variant)
    for row in asked(variant, FVCORE[:1]):
        counted = fvcore_counts(backbone.model, lambda row=row: answer_of(backbone, row))  # type: ignore[misc]
        counted.pop("layer_norm", 0)
        assert 2 * sum(counted.values()) == flops.executed_prefill(shape, [row]) + flops.executed_decode(shape, row, 2)


LLAMA_1B = {
    "model_type": "llama",
    "num_hidden_layers": 16,
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
}
QWEN_06B = LLAMA_1B | {
    "model_type": "qwen3",
    "num_hidden_layers": 28,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "head_dim": 128,
    "intermediate_size": 3072,
    "vocab_size": 151936,
}
QWEN_25 = LLAMA_1B | {
    "model_type": "qwen2",
    "num_hidden_layers": 24,
    "hidden_size": 896,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "head_dim": None,
    "intermediate_size": 4864,
    "vocab_size": 151936,
}
GPT2 = {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "n_inner": None, "vocab_size": 50257}


@pytest.mark.parametrize("given", [GPT2, LLAMA_1B, QWEN_06B, QWEN_25], ids=lambda c: str(c["model_type"]))
def test_real_shapes_on_meta_tensors(given: dict[str, Any]) -> None:
    """A causal pass of 48 tokens without weights in memory; the shape is read from Hugging Face's own configuration."""
    config = AutoConfig.for_model(**{k: v for k, v in given.items() if v is not None})
    shape = Shape.of(config.to_dict())
    with torch.device("meta"):
        hf = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        ids, mask = torch.zeros(1, 48, dtype=torch.long), torch.zeros(1, 1, 48, 48)
        position = torch.arange(48)[None]
    counted = torch_flops(lambda: hf(input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False))
    plain = Layout((Segment("text", None, tuple(range(48))),))
    assert counted == flops.executed_forward(shape, [plain]) + 48 * flops.head_flops(shape)


@pytest.mark.parametrize("given", [GPT2, LLAMA_1B, QWEN_06B], ids=lambda c: str(c["model_type"]))
def test_every_method_s_layouts_on_real_shapes(given: dict[str, Any]) -> None:
    """All stages of all methods, with latent passes and trees, forward and backward through the engine, without weights
    in memory; of two layers, since all are alike.
    """
    tiny, _ = backbone_of(("tiny", "sdpa"))
    config = AutoConfig.for_model(**given | {"n_layer" if "n_layer" in given else "num_hidden_layers": 2})
    with torch.device("meta"):
        hf = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    backbone = Backbone(tiny.spec, hf, tiny.codec, tiny.markers, "meta")
    shape, trains = backbone.shape(), backbone.trains()
    rows = all_rows()

    def work() -> None:
        columns = PackedModel(backbone).forward(rows)
        labels = [(r, columns.at(r, label.source)) for r, row in enumerate(rows) for label in row.labels]
        where = torch.tensor(labels, device="meta").T
        backbone.head(columns.hidden[where[0], where[1]]).sum().backward()

    plain = replace(trains, fused=False)  # on meta tensors torch takes plain products
    assert torch_flops(work) == executed_cost(shape, plain, rows) > 2 * flops.executed_training(shape, rows)


# What the counters miss, and what would be noticed


@families
def test_without_their_attention_operator_both_counters_miss_it_and_the_closed_form_shows_it(family: str) -> None:
    backbone, shape = backbone_of((family, "sdpa"))
    for row in (training_rows(METHODS[1])[0], training_rows(METHODS[3])[-1], training_rows(METHODS[4])[-1]):
        whole, missed = flops.executed_training(shape, [row]), attention_flops(shape, [row])
        assert missed > whole / 100
        assert torch_flops(lambda r=row: loss_of(backbone, [r]), {}) == whole - missed  # type: ignore[misc]
        counted = fvcore_count(backbone, [row], attention=False)
        counted.pop("layer_norm", 0)
        assert 2 * sum(counted.values()) == whole - missed
        eager, _ = backbone_of((family, "eager"))  # plain products: nothing to map, nothing missed
        assert torch_flops(lambda r=row, b=eager: loss_of(b, [r]), {}) == whole  # type: ignore[misc]


@families
def test_a_wrong_closed_form_or_a_wasteful_engine_is_noticed(family: str) -> None:
    backbone, shape = backbone_of((family, "sdpa"))
    for row in training_rows(METHODS[3])[-4:] + training_rows(METHODS[4]):
        counted = torch_flops(lambda r=row: loss_of(backbone, [r]))  # type: ignore[misc]
        assert flops.training_flops(shape, row) < counted  # visible keys are not what is executed
        sliced = replace(shape, vocabulary=backbone.vocabulary)  # the markers' rows of the head are multiplied too
        markers = shape.vocabulary - backbone.vocabulary
        assert markers > 0
        assert counted - flops.executed_training(sliced, [row]) == len(row.labels) * 2 * shape.width * markers
        everywhere = torch_flops(lambda r=row: backbone.head(PackedModel(backbone).forward([r]).hidden))
        assert everywhere - counted == (row.size - len(row.labels)) * flops.head_flops(shape) > 0


@pytest.mark.parametrize("variant", ["lora-llama", "lora-gpt2"])
def test_unmerged_adapters_are_part_of_the_cost(variant: str) -> None:
    backbone, shape = backbone_of((variant, "sdpa"))
    one = training_rows(METHODS[0])[0]
    assert torch_flops(lambda: loss_of(backbone, [one])) > flops.executed_training(replace(shape, rank=0), [one])


# The keys that columns see


def spy(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The masks [rows, new, seen] that the engine builds from here on, pass by pass."""
    masks: list[Tensor] = []
    real = workspace_module.visible

    def visible(*args: Tensor) -> Tensor:
        masks.append(real(*args))
        return masks[-1]

    monkeypatch.setattr(workspace_module, "visible", visible)
    return masks


def test_keys_seen_are_those_of_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method, stage and example in one ragged batch, so that a mask is built for the chains too."""
    backbone, _ = backbone_of(("tiny", "sdpa"))
    rows = all_rows() + [m.lay_prompt(e.question) for m in METHODS for e in EXAMPLES]
    masks = spy(monkeypatch)
    with torch.no_grad():
        columns = PackedModel(backbone).forward(rows)
    assert len(masks) == max(row.passes for row in rows) == 5
    counts = torch.cat([mask.sum(-1) for mask in masks], dim=1)  # [rows, seen]
    for r, row in enumerate(rows):
        assert [int(counts[r, columns.at(r, c)]) for c in range(row.size)] == flops.keys_seen(row)
        assert sum(flops.keys_seen(row)) <= sum(new * keys for new, keys in flops.executed_passes([row]))


@methods
def test_visible_cost_of_generating_is_that_of_the_mask(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cached steps always run under a mask; generated tokens see no other branch and nothing they are blind to."""
    backbone, shape = backbone_of(("tiny", "sdpa"))
    for example in EXAMPLES[:2]:
        row = method.lay_prompt(example.question)
        masks = spy(monkeypatch)
        ((completion,),) = (done.values() for done in decode(PackedModel(backbone), [row], max_tokens=4))
        steps = masks[len(masks) - completion.generated + 1 :]
        assert len(steps) > 0 and all(mask.shape[1] == 1 for mask in steps)
        columns = sum(flops.column_flops(shape, int(mask.sum())) for mask in steps)
        assert flops.decode_flops(shape, row, completion.generated) == columns + len(steps) * flops.head_flops(shape)
        assert flops.decode_flops(shape, row, 1) == flops.decode_flops(shape, row, 0) == 0


# By hand


def row(*segments: Segment, resume: tuple[str, ...] = (), blind: frozenset[str] = frozenset()) -> Layout:
    return Layout(segments, resume, blind)


HAND = Shape(layers=2, width=8, heads=2, kv_heads=1, head_dim=4, ffn=16, vocabulary=10, gated=True)
QUESTION = Segment("question", None, (1, 2, 3))
BLOCK = Segment("block", "question", (4, 5))


def test_by_hand() -> None:
    """A Llama shape: 8*8 + 8*4 + 8*4 + 8*8 in the attention, 3*8*16 in the feed-forward, two layers; head 8*10."""
    assert HAND.linear == 64 + 32 + 32 + 64 + 384 == 576
    assert flops.column_flops(HAND, 0) == 2 * 2 * 576 == 2304
    assert flops.column_flops(HAND, 7) == 2304 + 7 * 64  # a key: 8 for the score, 8 for the value, two layers, twice
    assert flops.head_flops(HAND) == 160

    tree = row(QUESTION, BLOCK, Segment("a", "block", (6, 7), weight=1.0), Segment("b", "question", (8,), weight=1.0))
    assert flops.keys_seen(tree) == [1, 2, 3, 4, 5, 6, 7, 4]
    assert flops.training_flops(HAND, tree) == 8 * 2304 + 32 * 64 + 3 * 160 == 20960
    assert flops.executed_passes([tree]) == [(8, 8)]
    assert flops.executed_training(HAND, [tree]) == 8 * 2304 + 64 * 64 + 3 * 160 == 23008

    latent = row(QUESTION, Segment("thoughts", "question", slots=2), Segment("answer", "thoughts", (6, 7), weight=1.0))
    assert flops.keys_seen(latent) == [1, 2, 3, 4, 5, 6, 7]
    assert flops.training_flops(HAND, latent) == 7 * 2304 + 28 * 64 + 2 * 160 == 18240
    assert flops.executed_passes([latent]) == [(3, 3), (1, 4), (3, 7)]
    assert flops.executed_training(HAND, [latent]) == 7 * 2304 + (9 + 4 + 21) * 64 + 2 * 160 == 18624

    assert flops.executed_passes([tree, latent]) == [(8, 8), (1, 9), (3, 12)]
    assert flops.executed_forward(HAND, [tree, latent]) == 2 * (12 * 2304 + (64 + 9 + 36) * 64) == 69248


def test_generation_by_hand() -> None:
    prompt = row(QUESTION, BLOCK, resume=("block",))
    assert flops.prefill_flops(HAND, prompt) == 5 * 2304 + 15 * 64 + 160 == 12640
    assert flops.executed_prefill(HAND, [prompt]) == 5 * 2304 + 25 * 64 + 160 == 13280
    assert (
        flops.decode_flops(HAND, prompt, 3) == 2 * 2304 + (6 + 7) * 64 + 2 * 160 == 5760
    )  # the third token is never fed
    assert flops.executed_decode(HAND, prompt, 3) == 5760
    blind = row(QUESTION, BLOCK, resume=("block",), blind=frozenset({"question"}))
    assert flops.decode_flops(HAND, blind, 3) == 2 * 2304 + (3 + 4) * 64 + 2 * 160 == 5376
    assert flops.executed_decode(HAND, blind, 3) == 5760
    both = row(QUESTION, BLOCK, resume=("question", "block"))
    assert flops.executed_decode(HAND, both, 3) == 4 * 2304 + 2 * (7 + 9) * 64 + 4 * 160 == 11904
    assert flops.executed_decode(HAND, both, 1) == flops.executed_decode(HAND, both, 0) == 0


def test_adapters_by_hand() -> None:
    """Rank 2 on every matrix: 2 * (inputs + outputs); GPT-2's queries, keys and values are one matrix."""
    assert replace(HAND, rank=2).linear == 576 + 2 * (16 + 12 + 12 + 16 + 24 + 24 + 24)
    gpt2 = Shape.of({"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 10}, rank=2)
    assert replace(gpt2, rank=0).linear == 12 * 8 * 8
    assert gpt2.linear == 12 * 8 * 8 + 2 * (32 + 16 + 40 + 40)


def test_what_llama_1b_pays_for_80_question_60_chain_and_4_answer_tokens() -> None:
    """Relative to direct: coconut with 6 thoughts 1.10, rim with 8 blocks 1.38, cot 1.91."""
    shape = Shape.of(LLAMA_1B)
    question = tuple(range(80))

    def price(method: Method, generated: int) -> float:
        prompt = method.lay_prompt(question)
        return flops.prefill_flops(shape, prompt) + flops.decode_flops(shape, prompt, generated)

    direct = price(Direct(), 4)
    ratios = [price(m, n) / direct for m, n in ((Coconut(), 4), (Rim(), 4), (ChainOfThought(), 64))]
    assert [round(r, 2) for r in ratios] == [1.10, 1.38, 1.91]


def test_shapes_come_from_the_configuration() -> None:
    assert Shape.of(LLAMA_1B) == Shape(16, 2048, 32, 8, 64, 8192, 128256, gated=True)
    assert Shape.of(GPT2) == Shape(12, 768, 12, 12, 64, 3072, 50257, gated=False)
    assert Shape.of(QWEN_25).head_dim == 64
    for family in FAMILIES:
        backbone, shape = backbone_of((family, "sdpa"))
        assert shape.vocabulary == backbone.causal.get_output_embeddings().weight.shape[0] > backbone.vocabulary
    with pytest.raises(UsageError, match="'mamba' is not known: supported are gpt2, llama, qwen2, qwen3"):
        Shape.of({"model_type": "mamba"})


def test_costs_need_no_torch() -> None:
    code = (
        "import sys, rim_bench.compute.flops; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', "
        "'numpy')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
