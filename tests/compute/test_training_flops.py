"""Backward in closed form against torch's counter, to the digit:
what trains, which kernel, latent passes, checkpointing, padding.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from engine import EXAMPLES, FAMILIES, METHODS, counted, training_rows
from flop_variants import PLAIN, RANK, VARIANTS, backbone_of, methods, variants
from torch import nn

from rim_bench.baselines.coconut import Coconut
from rim_bench.baselines.direct import Direct
from rim_bench.compute import flops, training_flops
from rim_bench.compute.flops import Shape
from rim_bench.compute.training_flops import FULL, Trains
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.flop_counters import torch_flops
from rim_bench.engine.generate import decode
from rim_bench.engine.losses import group_counts, tree_loss
from rim_bench.engine.packing import PackedModel
from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import Method


def trains_of(variant: tuple[str, str]) -> Trains:
    own = not variant[0].startswith("lora")
    return Trains(own, own, inputs=True, fused=variant[1] == "sdpa")


@variants
@methods
def test_training_costs_what_torch_counts(variant: tuple[str, str], method: Method) -> None:
    backbone, shape = backbone_of(variant)
    rows = training_rows(method)
    for batch in (rows, [rows[0]], [rows[-1]]):
        assert training_flops.executed_cost(shape, trains_of(variant), batch) == counted(backbone, batch)


def test_what_trains_is_read_from_the_backbone() -> None:
    for variant in VARIANTS:
        assert backbone_of(variant)[0].trains() == trains_of(variant)
    backbone = copy.deepcopy(backbone_of(("tiny", "sdpa"))[0])
    backbone.model.train()
    backbone.set_dropout(0.1)  # the fused kernel on CPU has no dropout: torch takes plain products
    assert backbone.trains() == Trains(True, True, True, fused=False)
    batch = training_rows(METHODS[4])[-2:]
    shape = Shape.of(backbone.causal.config.to_dict())
    assert counted(backbone, batch) == training_flops.executed_cost(shape, backbone.trains(), batch)


@contextmanager
def only(backbone: Backbone, *words: str) -> Iterator[Backbone]:
    """A copy of which only the parameters with one of the words in their name train."""
    other = copy.deepcopy(backbone)
    for name, p in other.model.named_parameters():
        p.requires_grad_(any(word in name for word in words))
    yield other


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@methods
def test_a_frozen_body_whose_input_rows_train(kernel: str, method: Method) -> None:
    backbone, shape = backbone_of(("tiny", kernel))  # not tied: the head stays frozen
    rows = training_rows(method)
    with only(backbone, "embed_tokens") as frozen:
        assert frozen.trains() == Trains(False, False, inputs=True, fused=kernel == "sdpa")
        for batch in (rows, [rows[-1]]):
            cost = training_flops.executed_cost(shape, frozen.trains(), batch)
            assert cost == counted(frozen, batch) < training_flops.executed_cost(shape, FULL, batch)


@pytest.mark.parametrize("variant", ["lora-llama", "lora-gpt2"])
@methods
def test_adapters_without_new_rows_hand_no_gradient_to_the_first_layer_s_input(variant: str, method: Method) -> None:
    """direct and cot under LoRA: nothing before the first layer trains.

    A latent slot's input does need its gradient.
    """
    backbone, shape = backbone_of((variant, "sdpa"))
    rows = training_rows(method)
    with only(backbone, "lora_") as adapted:
        trains = Trains(False, False, inputs=False, fused=True)
        assert adapted.trains() == trains
        for batch in (rows, [rows[0]], [rows[-1]]):
            assert training_flops.executed_cost(shape, trains, batch) == counted(adapted, batch)


@pytest.mark.parametrize("variant", [*PLAIN, ("lora-llama", "sdpa"), ("lora-gpt2", "sdpa")], ids="-".join)
@pytest.mark.parametrize(
    "method", [m for m in METHODS if not isinstance(m, Coconut)], ids=lambda m: f"{m.name}-{m.settings()}"
)
def test_gradient_checkpointing(variant: tuple[str, str], method: Method) -> None:
    """One pass: with a cache between passes Hugging Face does not checkpoint."""
    backbone, shape = backbone_of(variant)
    other = copy.deepcopy(backbone)
    other.causal.gradient_checkpointing_enable({"use_reentrant": False})
    other.model.train()
    rows = training_rows(method)[-2:]
    assert training_flops.executed_cost(shape, replace(trains_of(variant), checkpointing=True), rows) == counted(
        other, rows
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_method_s_own_modules_before_its_slots(family: str) -> None:
    """A bridge of two linear layers: forward, both gradients, and in a prompt; no padding, and nothing where no slot
    is.
    """
    backbone, plain = backbone_of((family, "sdpa"))
    width = backbone.width
    bridges = nn.ModuleDict(
        {"project": nn.Sequential(nn.Linear(width, 7), nn.GELU(), nn.Linear(7, width), nn.LayerNorm(width))}
    )
    workspace = PackedModel(backbone, bridges)
    shape = workspace.shape()
    assert shape == replace(plain, bridges=(("project", 2 * 7 * width),))
    question, slots = Segment("question", None, (1, 2, 3)), Segment("thoughts", "question", slots=2, bridge="project")
    answer = Segment("answer", "thoughts", (6, 7), weight=1.0)
    bridged = Layout((question, slots, answer), resume=("thoughts",))
    rows = [bridged, Layout((question, Segment("answer", "question", (6, 7, 8), weight=1.0)))]

    def work() -> None:
        tree_loss(backbone, workspace.forward(rows), group_counts(rows))[0].backward()

    assert torch_flops(work) == training_flops.executed_cost(shape, trains_of((family, "sdpa")), rows)
    assert (
        training_flops.training_cost(shape, FULL, bridged) - training_flops.training_cost(plain, FULL, bridged)
        == 3 * 2 * 2 * 2 * 7 * width
    )
    prompt = Layout((question, slots), resume=("thoughts",))
    assert torch_flops(lambda: decode(workspace, [prompt], max_tokens=1)) == flops.executed_prefill(shape, [prompt])
    assert flops.prefill_flops(shape, prompt) - flops.prefill_flops(plain, prompt) == 2 * 2 * 2 * 7 * width
    backbone.model.zero_grad(set_to_none=True)


# Forward, by hand, and what the headline leaves out


@methods
def test_the_forward_part_is_that_of_inference_s_closed_form(method: Method) -> None:
    _, shape = backbone_of(("grouped", "sdpa"))
    rows = training_rows(method)
    for row in rows:
        assert training_flops.forward(shape, training_flops.seen(row)) == flops.training_flops(shape, row)
        assert training_flops.training_cost(shape, FULL, row) == 3 * flops.training_flops(
            shape, row
        )  # of full training it is true
        assert training_flops.training_cost(
            shape, replace(FULL, fused=True, checkpointing=True), row
        ) == 3 * flops.training_flops(shape, row)
    assert training_flops.forward(shape, training_flops.executed(rows)) == flops.executed_training(shape, rows)


def test_by_hand() -> None:
    """8*8 + 8*4 + 8*4 + 8*8 + 3*8*16 = 576 in each of two layers; a key 8 for the score and 8 for the value; a logit
    8*10.
    """
    shape = Shape(layers=2, width=8, heads=2, kv_heads=1, head_dim=4, ffn=16, vocabulary=10, gated=True)
    row = Layout((Segment("question", None, (1, 2, 3)), Segment("answer", "question", (4, 5), weight=1.0)))
    forward = 2 * (2 * (5 * 576 + 15 * 16) + 2 * 80)
    assert training_flops.training_cost(shape, FULL, row) == 3 * forward == 3 * 12800
    frozen = Trains(False, False, inputs=True)
    assert training_flops.training_cost(shape, frozen, row) == forward + 2 * (2 * (5 * 576 + 15 * 32) + 2 * 80)
    adapted, lora = replace(shape, rank=2), Trains(False, False, inputs=False)
    assert adapted.linear == 576 + 2 * (16 + 12 + 12 + 16 + 24 + 24 + 24) == 576 + 256
    lora_forward = forward + 2 * 2 * 5 * 256
    first = 5 * (
        64 + 32 + 32 + 2 * 3 * 8
    )  # queries', keys' and values' gradient of the first layer's input is nobody's
    lora_backward = 2 * (2 * (5 * (576 + 2 * 256) + 15 * 32) + 2 * 80 - first)
    assert training_flops.training_cost(adapted, lora, row) == lora_forward + lora_backward
    assert (
        training_flops.executed_cost(shape, replace(FULL, fused=True), [row])
        == 3 * (forward + 2 * 2 * 10 * 16) + 2 * 2 * 25 * 8
    )


def test_padding_is_what_other_rows_cost() -> None:
    _, shape = backbone_of(("tiny", "sdpa"))
    for method in METHODS:
        rows = training_rows(method)
        assert training_flops.padding_cost(shape, FULL, [rows[0], rows[0]]) == 0
        waste = training_flops.padding_cost(shape, FULL, rows)
        assert (
            waste
            == training_flops.executed_cost(shape, FULL, rows)
            - sum(training_flops.executed_cost(shape, FULL, [r]) for r in rows)
            > 0
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_three_times_forward_would_be_noticed(family: str) -> None:
    backbone, shape = backbone_of((family, "sdpa"))
    row = Direct().lay_train(EXAMPLES[0], Direct().stages()[0], 0.0, random.Random(0))
    assert counted(backbone, [row]) > 3 * flops.executed_training(shape, [row])  # the fused kernel's fifth product
    variant = "lora-gpt2" if family == "tiny-gpt2" else "lora-llama"
    backbone, shape = backbone_of((variant, "sdpa"))
    assert shape.rank == RANK and counted(backbone, [row]) < 2.5 * flops.executed_training(shape, [row])
