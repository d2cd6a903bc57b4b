"""A stored model folder in plain transformers and peft: the run's tokens at the run's ids, the run's logits."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_models import SMALL, base_folder, by_readme
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from rim_bench.baselines.coconut import Coconut
from rim_bench.baselines.direct import Direct
from rim_bench.baselines.pause import Pause
from rim_bench.compute.backbones import resolve_backbone
from rim_bench.engine import lora
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.markers import add_markers
from rim_bench.engine.tokenizer import Codec
from rim_bench.methods.method import Marker
from rim_bench.models.rim import Rim

METHODS = {"direct": Direct(), "pause": Pause(N=2), "coconut": Coconut(c=1, latent_stages=1), "rim": Rim(K=2)}


def disturbed(backbone: Backbone) -> Backbone:
    """The backbone with other values in everything that trains, as after training."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, p in backbone.parameters_to_train():
            p.add_(torch.randn(p.shape, generator=generator) * 0.05)
    return backbone


def logits_of(backbone: Backbone, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return backbone.head(backbone.run(backbone.embed(ids), None, torch.arange(ids.shape[1])[None]))


def plain(folder: Path, tuning: str) -> Any:
    """The model by the lines of docs/python.md, or of the adapter's README."""
    return by_readme(folder) if tuning == "lora" else AutoModelForCausalLM.from_pretrained(folder)


FOLDERS = [*itertools.product(["tiny-gpt2", "tiny"], METHODS, ["lora", "full"]), ("tiny-qwen", "rim", "lora")]


@pytest.mark.parametrize(("family", "method", "tuning"), FOLDERS)
def test_a_stored_folder_gives_the_runs_logits(family: str, method: str, tuning: str, tmp_path: Path) -> None:
    base = base_folder(family, tmp_path / "base")
    settings = {"tuning": tuning, **({"lora_rank": 4} if tuning == "lora" else {})}
    markers = METHODS[method].markers()
    backbone = disturbed(Backbone.create(resolve_backbone(str(base), settings), markers=markers, seed=1))
    backbone.save(tmp_path / "model")

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    names = [m.name for m in markers]
    assert tokenizer.convert_tokens_to_ids(names) == [backbone.markers[n] for n in names]
    text = "How many? 3 + 4\n" + "".join(names) + "#### 7"
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert ids[0].tolist() == [
        *backbone.encode("How many? 3 + 4\n"),
        *(backbone.markers[n] for n in names),
        *backbone.encode("#### 7"),
    ]
    model = plain(tmp_path / "model", tuning).eval()
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    torch.testing.assert_close(logits[..., : backbone.vocabulary], logits_of(backbone, ids), atol=2e-5, rtol=0)

    again = Backbone.load(tmp_path / "model")
    assert again.encode(text) == backbone.encode(text), "text that looks like a marker stays text"
    assert again.tokenizer.get_vocab() == backbone.tokenizer.get_vocab(), "and the run's tokenizer knows none"
    assert torch.equal(logits_of(again, ids), logits_of(backbone, ids))


def test_generation_never_answers_with_a_marker(tmp_path: Path) -> None:
    backbone = Backbone.create(resolve_backbone("tiny", SMALL), texts=["How many? 7"] * 9, markers=Rim(K=2).markers())
    with torch.no_grad():  # every word is less likely than a marker, whose logit is 0
        backbone.table("output").weight[: backbone.vocabulary] = 0.0
        backbone.model.model.norm.weight.fill_(1.0)
        backbone.table("output").weight[3] = -1e-3
    backbone.save(tmp_path)
    model, ids = AutoModelForCausalLM.from_pretrained(tmp_path), torch.tensor([[5, 6]])
    assert model.generation_config.suppress_tokens == list(backbone.markers.values())
    assert int(model.generate(ids, max_new_tokens=8).max()) < backbone.vocabulary


def test_a_marker_that_the_vocabulary_has_as_text(tmp_path: Path) -> None:
    base = base_folder("tiny", tmp_path / "base")
    markers = (Marker("3"), Marker("<m>"))
    backbone = Backbone.create(resolve_backbone(str(base), {"tuning": "full"}), markers=markers)
    backbone.save(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.convert_tokens_to_ids(["<3>", "<m>"]) == list(backbone.markers.values())
    assert tuple(tokenizer.encode("3")) == backbone.encode("3") == Backbone.load(tmp_path / "model").encode("3")


def test_a_shared_start_grows(tmp_path: Path) -> None:
    """Markers of a start and those that are added to it have their ids in the folder too."""
    base = base_folder("tiny-gpt2", tmp_path / "base")
    start = Backbone.create(resolve_backbone(str(base), {"tuning": "full"}), markers=(Marker("<a>"),))
    start.save(tmp_path / "start")
    grown = Backbone.load(tmp_path / "start")
    add_markers(grown, (Marker("<b>"), Marker("<c>")), 0)
    grown.save(tmp_path / "grown")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "grown")
    assert tokenizer.convert_tokens_to_ids(["<a>", "<b>", "<c>"]) == list(grown.markers.values())
    assert Backbone.load(tmp_path / "grown").markers == grown.markers


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_folders_of_schema_1_stay_readable(tuning: str, tmp_path: Path) -> None:
    """Their tokenizer has no markers, and no generation settings stand beside the weights."""
    base = base_folder("tiny", tmp_path / "base")
    backbone = disturbed(Backbone.create(resolve_backbone(str(base), {"tuning": tuning}), markers=Rim(K=2).markers()))
    backbone.save(tmp_path / "model")
    record = json.loads((tmp_path / "model" / "backbone.json").read_text())
    (tmp_path / "model" / "backbone.json").write_text(json.dumps(record | {"schema": 1}))
    backbone.tokenizer.save_pretrained(tmp_path / "model")
    ids = torch.tensor([[5, 6, *backbone.markers.values()]])
    assert torch.equal(logits_of(Backbone.load(tmp_path / "model"), ids), logits_of(backbone, ids))


def test_a_hub_base_is_named_not_its_place_here(tmp_path: Path) -> None:
    base = base_folder("tiny", tmp_path / "base")
    spec = resolve_backbone(str(base), {"lora_rank": 4})
    backbone = Backbone.create(spec, markers=(Marker("<a>"),))
    hub = {**spec, "kind": "hub", "hub": "org/name", "revision": "a" * 40}
    wrapped = lora.wrap(backbone.model.unload(), hub, backbone.markers, 0)
    wrapped.save_pretrained(tmp_path / "model", save_embedding_layers=False)
    stored = json.loads((tmp_path / "model" / "adapter_config.json").read_text())
    assert (stored["base_model_name_or_path"], stored["revision"]) == ("org/name", "a" * 40)


def test_codec_of_the_first_ids(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_folder("tiny", tmp_path / "base"))
    size = len(tokenizer)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<a>"]})
    assert Codec(tokenizer, size).size == size and "<a>" not in tokenizer.get_vocab()
