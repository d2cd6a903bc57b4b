"""Runs that compute in bfloat16: equal to float32 up to the rounding of bfloat16, frozen weights stored so once."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from engine import EXAMPLES, METHODS, all_rows, counted, engine_logits, training_rows
from engine_models import base_folder
from torch import Tensor

from rim_bench.compute.backbones import resolve_backbone
from rim_bench.compute.training_flops import executed_cost
from rim_bench.engine import frozen_head, frozen_weights, training_attention
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.generate import decode
from rim_bench.engine.losses import group_counts, tree_loss
from rim_bench.engine.markers import add_markers, marker_rows
from rim_bench.engine.packing import PackedModel
from rim_bench.methods.layout import Layout
from rim_bench.methods.method import Marker

FAMILIES = ("tiny", "tiny-gpt2", "tiny-qwen")
families = pytest.mark.parametrize("family", FAMILIES)
MARKERS = tuple({m.name: m for method in METHODS for m in method.markers()}.values())
UNIT = 2.0**-9  # half the gap between two numbers of bfloat16, of the smaller one
LAYERS, PASSES = 2, 5
ROUNDINGS = 12 * LAYERS * PASSES + 2
"""Times that a state is rounded on its way through the layers (into and out of five products, weights, values) in as
many passes as a chain of thoughts takes, and at the head."""


@cache
def pair(family: str, root: Path) -> tuple[Backbone, Backbone]:
    """The same LoRA-tuned model, its adapter not nothing, that computes in float32 and in bfloat16."""
    folder = base_folder(family, root / family)
    spec = resolve_backbone(str(folder), {"lora_rank": 4, "lora_alpha": 6})
    out = [Backbone.create(spec, markers=MARKERS, seed=1, dtype=dtype) for dtype in ("float32", "bfloat16")]
    for backbone in out:
        random = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, p in backbone.parameters_to_train():
                if "lora_B" in name:
                    p.copy_(0.1 * torch.randn(p.shape, generator=random))
    return out[0], out[1]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


@pytest.fixture
def models(bases: Path, family: str) -> tuple[Backbone, Backbone]:
    return pair(family, bases)


def rows() -> list[Layout]:
    return [row for row in all_rows() if max(row.position) < 63]


def logits(backbone: Backbone, batches: list[list[Layout]]) -> Tensor:
    """Of all leaves' paths of all rows, one after the other."""
    out = []
    with torch.no_grad():
        for batch in batches:
            columns = PackedModel(backbone).forward(batch)
            out += [engine_logits(backbone, columns, r, leaf) for r, row in enumerate(batch) for leaf in row.leaves()]
    return torch.cat(out)


def error(a: Tensor, b: Tensor) -> float:
    """Root mean square of the difference over that of b: independent roundings add up in squares."""
    a, b = a.detach(), b.detach()
    return float((a - b).square().mean().sqrt() / b.square().mean().sqrt())


BOUND = UNIT * ROUNDINGS**0.5
"""Relative error of independent roundings, each of a unit at most."""


@families
def test_bfloat16_is_float32_up_to_rounding(models: tuple[Backbone, Backbone]) -> None:
    full, low = models
    exact, rounded = logits(full, [rows()]), logits(low, [rows()])
    assert 0 < error(rounded, exact) < BOUND
    assert rounded.dtype == torch.float32


@families
def test_a_ragged_batch_equals_its_rows_in_bfloat16(models: tuple[Backbone, Backbone]) -> None:
    """Both ways round the same sums at the same places: what differs are sums in another order."""
    _, low = models
    together, apart = logits(low, [rows()]), logits(low, [[row] for row in rows()])
    assert error(together, apart) < BOUND


@families
def test_a_sabotaged_mask_is_beyond_rounding(
    models: tuple[Backbone, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rim_bench.engine import packing

    full, low = models
    exact = logits(full, [rows()])

    def causal(sees: Tensor, q_seg: Tensor, q: Tensor, k_seg: Tensor, k: Tensor) -> Tensor:
        return (k[:, None, :] <= q[:, :, None]) & (k_seg[:, None, :] < sees.shape[1] - 1)

    monkeypatch.setattr(packing, "visible", causal)
    assert error(logits(low, [rows()]), exact) > 2 * BOUND


def gradients(backbone: Backbone, batch: list[Layout]) -> dict[str, Tensor]:
    """Of everything that trains."""
    backbone.model.train()
    backbone.model.zero_grad(set_to_none=True)
    tree_loss(backbone, PackedModel(backbone).forward(batch), group_counts(batch))[0].backward()
    backbone.model.eval()
    out = {name: p.grad.clone() for name, p in backbone.parameters_to_train() if p.grad is not None}
    backbone.model.zero_grad(set_to_none=True)
    return out


@families
def test_gradients_are_those_of_float32_up_to_rounding(models: tuple[Backbone, Backbone]) -> None:
    full, low = models
    exact, rounded = gradients(full, rows()), gradients(low, rows())
    assert exact.keys() == rounded.keys() and len(exact) > 2
    assert all(g.dtype == torch.float32 for g in rounded.values())
    scale = max(float(g.square().mean().sqrt()) for g in exact.values())
    for name, g in exact.items():  # twice the way: forwards, and backwards
        off = float((rounded[name] - g).square().mean().sqrt())
        assert off < 2 * BOUND * max(float(g.square().mean().sqrt()), scale / 30), name


@families
def test_what_is_stored_how(models: tuple[Backbone, Backbone], family: str) -> None:
    full, low = models
    assert all(p.dtype == torch.float32 for p in full.model.parameters())
    assert not any(
        isinstance(m, frozen_weights.AdaptedLinear | frozen_weights.RoundedNorm) for m in full.model.modules()
    )
    for name, p in low.model.named_parameters():
        matrix = "base_layer.weight" in name and p.ndim == 2 and "token_adapter" not in name and "embed" not in name
        if p.requires_grad or p.ndim == 1:
            assert p.dtype == torch.float32, name
        elif matrix and "wte" not in name:
            assert p.dtype == torch.bfloat16, name
    assert low.table("output").weight.dtype == torch.bfloat16
    assert low.table("input").weight.dtype == torch.float32, (
        "its numbers are none of bfloat16's: looked up, not rounded"
    )
    assert not any(p.requires_grad for p in low.model.parameters() if p.dtype == torch.bfloat16)


def test_a_table_of_bfloat16_is_stored_so(tmp_path: Path) -> None:
    from engine_models import change_weights
    from safetensors.torch import load_file

    folder = base_folder("tiny-qwen", tmp_path / "base")
    table = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    change_weights(folder, model__embed_tokens__weight=table.to(torch.bfloat16).float())
    low = Backbone.create(resolve_backbone(str(folder), {"lora_rank": 4}), markers=[Marker("<a>")], dtype="bfloat16")
    assert low.table("input").weight.dtype == torch.bfloat16
    assert low.table("input").weight is low.table("output").weight
    assert low.embed(torch.arange(4)).dtype == torch.float32
    rows = marker_rows(low)
    assert rows is not None
    with torch.no_grad():
        rows.normal_()  # as if it had been trained: numbers that bfloat16 does not have
    trained = rows.detach().clone()
    add_markers(low, [Marker("<b>")], 0)
    assert torch.equal(low.embed(torch.tensor([low.markers["<a>"]])).detach(), trained)
    assert low.table("input").weight.dtype == torch.bfloat16


@families
def test_no_product_is_made_for_frozen_weights(models: tuple[Backbone, Backbone]) -> None:
    """The closed form of LoRA's training has none; what torch counts is equal."""
    _, low = models
    for method in (METHODS[1], METHODS[3], METHODS[4]):  # a chain, thoughts and a tree
        batch = [row for row in training_rows(method) if max(row.position) < 63]
        assert counted_in_training(low, batch) == executed_cost(PackedModel(low).shape(), trains(low), batch), method


def trains(backbone: Backbone) -> Any:
    backbone.model.train()
    out = backbone.trains()
    backbone.model.eval()
    return out


def counted_in_training(backbone: Backbone, batch: list[Layout]) -> int:
    backbone.model.train()
    out = counted(backbone, batch)
    backbone.model.eval()
    return out


def test_a_step_of_the_optimizer_reaches_the_casts(tmp_path: Path) -> None:
    low = copy.deepcopy(pair("tiny", tmp_path)[1])
    before = logits(low, [rows()[:2]])
    with torch.no_grad():
        for name, p in low.parameters_to_train():
            if "lora_" in name:
                p.add_(0.1)
    changed = logits(low, [rows()[:2]])
    assert error(changed, before) > 2 * BOUND
    again = copy.deepcopy(low)
    assert torch.equal(logits(again, [rows()[:2]]), changed)
    with torch.inference_mode():
        decode(PackedModel(low), [METHODS[0].lay_prompt(EXAMPLES[0].question)], max_tokens=2)
    assert gradients(low, rows()[:2]), "casts that decoding made serve training too"


@families
def test_saved_and_loaded_in_bfloat16(models: tuple[Backbone, Backbone], family: str, tmp_path: Path) -> None:
    full, low = models
    low.save(tmp_path / "low")
    again = Backbone.load(tmp_path / "low", dtype="bfloat16")
    assert torch.equal(logits(again, [rows()[:4]]), logits(low, [rows()[:4]]))
    assert low.weights_sha256() == full.weights_sha256(), "what is saved is float32 in both"
    grown = Backbone.load(tmp_path / "low", dtype="bfloat16")
    held = low.embed(torch.tensor(list(low.markers.values()))).detach()
    add_markers(grown, [Marker("<new>")], 0)
    assert torch.equal(grown.embed(torch.tensor(list(low.markers.values()))).detach(), held), "no row was rounded"
    assert torch.equal(logits(grown, [rows()[:4]]), logits(low, [rows()[:4]]))


@families
def test_decoding_chooses_what_teacher_forcing_finds_best(models: tuple[Backbone, Backbone]) -> None:
    """Up to a tie within rounding: the chosen token's logit is the largest or so near that rounding decides."""
    _, low = models
    space = PackedModel(low)
    prompts = [method.lay_prompt(e.question) for method in METHODS for e in EXAMPLES]
    for layout, done in zip(prompts, decode(space, prompts, max_tokens=4), strict=True):
        name = layout.resume[0]
        tokens = done[name].tokens
        grown = layout.grow(layout.continuation("answer", name, tokens))
        with torch.no_grad():
            columns = space.forward([grown])
            s = len(layout.segments)
            sources = [grown.before(s), *range(grown.first[s], grown.last(s))]
            found = low.head(columns.hidden[0, [columns.at(0, c) for c in sources]])
        spread = float(found.square().mean().sqrt())
        for row, token in zip(found, tokens, strict=True):
            assert float(row.max() - row[token]) <= 8 * BOUND * spread  # the largest of 300 roundings, twice


def test_attention_of_training_equals_the_fused_kernel() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, 9, 8).requires_grad_() for heads in (6, 3, 3))
    mask = torch.zeros(2, 1, 9, 9).masked_fill(torch.rand(2, 1, 9, 9) < 0.3, torch.finfo(torch.float32).min)
    mask[..., 0] = 0.0
    for given in (None, mask):
        same = torch.nn.functional.scaled_dot_product_attention(
            q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), given, is_causal=given is None, scale=0.4
        )
        grad = torch.randn(same.shape)
        expected = torch.autograd.grad(same, (q, k, v), grad)
        ours = training_attention.product_attention(q, k, v, given, 0.4)
        assert error(ours.float().transpose(1, 2), same) < 3 * UNIT
        for a, b in zip(
            torch.autograd.grad(ours, (q, k, v), grad.transpose(1, 2).to(ours.dtype)), expected, strict=True
        ):
            assert error(a, b) < 5 * UNIT


@pytest.mark.parametrize("labels", [1, 130])
def test_the_loss_behind_a_frozen_head_is_the_whole_one_bit_for_bit(labels: int) -> None:
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(labels, 16, generator=random).requires_grad_()
    weight = torch.randn(50, 16, generator=random).to(torch.bfloat16)
    target = torch.randint(0, 44, (labels,), generator=random)
    scale = torch.rand(labels, generator=random)
    with torch.autocast("cpu", torch.bfloat16):
        logits = torch.nn.functional.linear(hidden, weight)[:, :44].float()
        whole = torch.nn.functional.cross_entropy(logits, target, reduction="none") * scale
    ours = frozen_head.FrozenHeadLoss.apply(hidden, weight, 44, target, scale)
    assert torch.equal(ours, whole) and ours.dtype == torch.float32
    (one,), (other,) = (torch.autograd.grad(loss.sum(), hidden) for loss in (ours, whole))
    assert torch.equal(one, other)
