"""Pretrained weights are what the engine runs with: the stored head, no constant taken for a weight, equal batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_models import base_folder, by_readme, change_weights, two_matrices
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from rim_bench.compute.backbones import resolve_backbone
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.markers import add_markers
from rim_bench.engine.pretrained import ROPE_BOUNDED, ROPE_CONSTANT, load_model
from rim_bench.methods.method import Marker
from rim_bench.util.errors import UsageError

FAMILIES = ("tiny", "tiny-gpt2", "tiny-qwen")


def marker_names(count: int) -> tuple[Marker, ...]:
    return tuple(Marker(f"<{i}>") for i in range(count))


def logits(backbone: Backbone, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return backbone.head(backbone.run(backbone.embed(ids), None, torch.arange(ids.shape[1]).expand_as(ids)))


# A head that differs from an embedding it is said to be tied to


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_has_the_stored_head(family: str, count: int, tuning: str, tmp_path: Path) -> None:
    base = two_matrices(family, tmp_path / "base")
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        reference = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()(ids).logits
    backbone = Backbone.create(resolve_backbone(str(base), {"tuning": tuning}), markers=marker_names(count))
    torch.testing.assert_close(logits(backbone, ids), reference, atol=1e-5, rtol=0)
    add_markers(backbone, (Marker("<more>"),), 0)
    torch.testing.assert_close(logits(backbone, ids), reference, atol=1e-5, rtol=0)

    names = backbone.encode("#### 7")
    row = torch.tensor([[*backbone.encode("How many?"), *backbone.markers.values(), *names]])
    out = backbone.head(backbone.run(backbone.embed(row), None, torch.arange(row.shape[1])[None]))
    optimizer = torch.optim.AdamW(backbone.parameter_groups(0.0), lr=1e-2)
    torch.autograd.backward(F.cross_entropy(out[0, -len(names) - 1 : -1], torch.tensor(names)))
    optimizer.step()
    backbone.save(tmp_path / "model")
    again = Backbone.load(tmp_path / "model")
    assert torch.equal(logits(again, row), logits(backbone, row)), "saved, and read again"

    # the README says to peft that they are not tied, as the base does
    plain = (by_readme if tuning == "lora" else AutoModelForCausalLM.from_pretrained)(tmp_path / "model")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "model")) == backbone.vocabulary + count + 1
    with torch.no_grad():
        stored = plain.eval()(input_ids=row).logits[..., : backbone.vocabulary]
    torch.testing.assert_close(stored, logits(backbone, row), atol=2e-5, rtol=0)


def test_equal_matrices_stay_tied(tmp_path: Path) -> None:
    """Torch's own files hold both."""
    base = base_folder("tiny-qwen", tmp_path / "base")
    state = load_file(base / "model.safetensors")
    change_weights(base, lm_head__weight=state["model.embed_tokens.weight"].clone())
    backbone = Backbone.create(resolve_backbone(str(base), {"tuning": "full"}), markers=marker_names(2))
    assert backbone.table("output").weight is backbone.table("input").weight


def test_a_stored_adapter_of_schema_1_keeps_the_head_it_was_trained_with(tmp_path: Path) -> None:
    """The embedding, where rows had been added."""
    base = two_matrices("tiny", tmp_path / "base")
    backbone = Backbone.create(resolve_backbone(str(base)), markers=marker_names(1))
    backbone.save(tmp_path / "model")
    record = json.loads((tmp_path / "model" / "backbone.json").read_text())
    (tmp_path / "model" / "backbone.json").write_text(json.dumps(record | {"schema": 1}))
    old = Backbone.load(tmp_path / "model")
    assert torch.equal(old.table("output").weight, old.table("input").weight)


# Rotary embeddings

ROPE: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {"factor": 4.0, "original_max_position_embeddings": 16, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "longrope": {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 16},
    "proportional": {"partial_rotary_factor": 0.5},
}


def with_rope(target: Path, family: str, kind: str) -> Path:
    rope = {"rope_theta": 10000.0, "rope_type": kind, **ROPE.get(kind, {})}
    return base_folder(family, target, {"rope_parameters": rope})


def test_every_rope_type_of_transformers_is_classified() -> None:
    assert {*ROPE_INIT_FUNCTIONS, "default"} == set(ROPE_CONSTANT) | set(ROPE_BOUNDED) == set(ROPE)
    assert not set(ROPE_CONSTANT) & set(ROPE_BOUNDED)


@pytest.mark.parametrize("family", ["tiny", "tiny-qwen"])
@pytest.mark.parametrize("kind", ROPE)
def test_a_ragged_batch_is_its_rows_alone(kind: str, family: str, tmp_path: Path) -> None:
    """Beside the longest row that the model takes, and after one."""
    backbone = Backbone.create(resolve_backbone(str(with_rope(tmp_path / "base", family, kind)), {"tuning": "full"}))
    longest = backbone.max_positions
    assert longest == (16 if kind == "longrope" else 64)
    ids = torch.randint(5, 200, (2, longest), generator=torch.Generator().manual_seed(0))
    alone = logits(backbone, ids[:1, :8])
    torch.testing.assert_close(logits(backbone, ids)[:1, :8], alone, atol=2e-6, rtol=0)
    torch.testing.assert_close(logits(backbone, ids[:1, :8]), alone, atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", ROPE_BOUNDED)
def test_the_bound_is_where_frequencies_begin_to_change(kind: str, tmp_path: Path) -> None:
    backbone = Backbone.create(resolve_backbone(str(with_rope(tmp_path / "base", "tiny", kind)), {"tuning": "full"}))
    ids = torch.randint(5, 200, (1, backbone.max_positions + 1), generator=torch.Generator().manual_seed(0))
    alone = logits(backbone, ids[:, :8])
    assert (logits(backbone, ids)[:, :8] - alone).abs().max() > 2e-5


def test_an_unknown_rope_type_is_refused(tmp_path: Path) -> None:
    folder = with_rope(tmp_path / "base", "tiny", "linaer")
    with pytest.raises(UsageError, match="did you mean 'linear'"):
        load_model(folder, "sdpa")


# Constants that older versions stored


@pytest.mark.parametrize(
    ("family", "name", "value"),
    [
        ("tiny-gpt2", "transformer__h__0__attn__masked_bias", torch.tensor(-10000.0)),
        ("tiny-gpt2", "transformer__h__1__attn__bias", torch.ones(1, 1, 64, 64, dtype=torch.uint8).tril()),
        ("tiny-gpt2", "h__0__attn__bias", torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()),
        ("tiny-gpt2", "h__0__attn__masked_bias", torch.tensor(-10000.0)),
        ("tiny", "model__layers__0__self_attn__rotary_emb__inv_freq", torch.ones(4)),
        ("tiny", "model__layers__1__self_attn__rotary_emb__cos_cached", torch.ones(1, 1, 64, 8)),
        ("tiny-qwen", "model__layers__1__self_attn__rotary_emb__sin_cached", torch.ones(1, 1, 64, 8)),
    ],
)
def test_stored_constants_are_no_weights(family: str, name: str, value: Tensor, tmp_path: Path) -> None:
    folder, ids = base_folder(family, tmp_path / "base"), torch.arange(5, 15)[None]
    spec = {"tuning": "full"}
    before = logits(Backbone.create(resolve_backbone(str(folder), spec)), ids)
    change_weights(folder, **{name: value})
    assert torch.equal(logits(Backbone.create(resolve_backbone(str(folder), spec)), ids), before)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("tiny-gpt2", "transformer__h__0__attn__c_attn__more"),
        ("tiny-gpt2", "transformer__h__0__mlp__masked_bias"),
        ("tiny-gpt2", "transformer__h__0__attn__rotary_emb__inv_freq"),
        ("tiny", "model__layers__0__self_attn__masked_bias"),
        ("tiny", "model__layers__0__self_attn__q_proj__bias"),
        ("tiny", "score__weight"),
    ],
)
def test_other_surplus_weights_are_refused(family: str, name: str, tmp_path: Path) -> None:
    folder = base_folder(family, tmp_path / "base")
    change_weights(folder, **{name: torch.ones(4)})
    with pytest.raises(UsageError, match=r"do not fit their config.json.*unexpected_keys"):
        load_model(folder, "sdpa")


# A row for every token


@pytest.mark.parametrize("count", [0, 2])
def test_a_token_without_a_row_is_refused_for_every_method(count: int, tmp_path: Path) -> None:
    folder = base_folder("tiny", tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    with pytest.raises(UsageError, match=r"294 rows of embeddings.*'\[PAD\]' with id 294"):
        Backbone.create(resolve_backbone(str(folder), {"tuning": "full"}), markers=marker_names(count))


@pytest.mark.parametrize("count", [0, 2, 9])
def test_a_padded_table_is_fine(count: int, tmp_path: Path) -> None:
    folder = base_folder("tiny", tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(300, mean_resizing=False)
    model.save_pretrained(folder)
    backbone = Backbone.create(resolve_backbone(str(folder), {"tuning": "full"}), markers=marker_names(count))
    assert backbone.vocabulary == 294 and len(backbone.table("input").weight) == max(300, 294 + count)
    backbone.save(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.convert_tokens_to_ids(list(backbone.markers)) == list(backbone.markers.values())
    never = AutoModelForCausalLM.from_pretrained(tmp_path / "model").generation_config.suppress_tokens
    assert never == list(range(294, max(300, 294 + count)))


@pytest.mark.parametrize("last_id", [299, 4 * 10**9])
def test_ids_without_a_token_are_refused(last_id: int, tmp_path: Path) -> None:
    """New tokens would take the free ids in a stored tokenizer, and others in the run."""
    folder = base_folder("tiny", tmp_path / "base")
    state = json.loads((folder / "tokenizer.json").read_text())
    last = max(state["model"]["vocab"], key=state["model"]["vocab"].get)
    del state["model"]["vocab"][last]
    state["model"]["vocab"][last] = last_id
    state["model"]["merges"] = []
    (folder / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(UsageError, match=f"294 ids from 0 to {last_id:,}, and every id from 0 on must have a token"):
        Backbone.create(resolve_backbone(str(folder), {"tuning": "full"}))
