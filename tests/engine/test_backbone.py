"""Backbones: text round trips, equal forward passes, LoRA that trains only what it should, saving that is exact or
refused.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from rim_bench.compute.backbones import backbone_names, resolve_backbone
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.markers import add_markers
from rim_bench.engine.tokenizer import Codec, train_tokenizer
from rim_bench.methods.method import Example, Marker
from rim_bench.util.errors import UsageError

TEXTS = ["How many apples are there? 3 + 4\n<<3+4=7>>\n#### 7", "Ann has 12 pears, Bob 30.\n<<12+30=42>>\n#### 42"] * 8
MARKERS = (Marker("<b>"), Marker("<m>"), Marker("</b>", like="<<"))
SMALL = {"layers": 2, "width": 32, "heads": 4, "vocabulary": 300, "max_positions": 64}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def scratch(
    name: str = "tiny", markers: tuple[Marker, ...] = MARKERS, seed: int = 0, attention: str = "sdpa", **more: Any
) -> Backbone:
    spec = resolve_backbone(name, {**SMALL, **more})
    return Backbone.create(spec, texts=TEXTS, markers=markers, seed=seed, attention=attention)


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with "pretrained" models, as save_pretrained leaves them:
    GPT-2 with tied embeddings, Llama and Qwen3 without.
    """
    out = {}
    for name, tied in (("tiny-gpt2", True), ("tiny", False), ("tiny-qwen", True)):
        backbone = scratch(name, markers=(), tied=tied, embedding_std=0.02 if tied else 1.0)
        out[name] = tmp_path_factory.mktemp("bases") / name
        backbone.model.save_pretrained(out[name])
        backbone.tokenizer.save_pretrained(out[name])
    return out


def lora(folder: Path, markers: tuple[Marker, ...] = MARKERS) -> Backbone:
    return Backbone.create(resolve_backbone(str(folder), {"lora_rank": 4}), markers=markers, seed=3)


def hidden(backbone: Backbone, **more: Any) -> torch.Tensor:
    ids = torch.arange(4, 16).view(2, 6)
    ids[:, -2:] = backbone.vocabulary - 1
    for i, marker in enumerate(backbone.markers.values()):
        ids[:, i] = marker
    with torch.no_grad():
        return backbone.run(backbone.embed(ids), more.get("mask"), torch.arange(6).expand(2, 6))


def step(backbone: Backbone) -> None:
    """One optimizer step on markers and text."""
    ids = torch.tensor([[*backbone.encode("How many?"), *backbone.markers.values(), *backbone.encode("#### 7")]])
    logits = backbone.head(backbone.run(backbone.embed(ids), None, torch.arange(ids.shape[1])[None]))
    keep = ids[0, 1:] < backbone.vocabulary
    optimizer = torch.optim.AdamW(backbone.parameter_groups(0.01), lr=1e-2)
    torch.autograd.backward(F.cross_entropy(logits[0, :-1][keep], ids[0, 1:][keep]))
    optimizer.step()


# Text


def any_text(rng: random.Random) -> str:
    pools = [
        "abc XYZ",
        "0123456789",
        " \n\t\r\u00a0\u2028",
        "<<>>#=+-*/.,|",
        "äßéñ",
        "数学題",
        "🙂👩‍🔬",
        "\u0301\u200d\x00\x7f",
        "<|end|><b><m>",
    ]
    out = []
    for _ in range(rng.randint(0, 30)):
        if rng.random() < 0.1:
            code = rng.randrange(0x110000)
            out.append(chr(code) if not 0xD800 <= code < 0xE000 else "?")
        else:
            out.append(rng.choice(rng.choice(pools)))
    return "".join(out) + rng.choice(["", "<|end|>", "<m>", "  ", "\n\n"])


@pytest.mark.parametrize("pattern", [None, r"#### |[+*-]\d|\n|."])
def test_any_text_comes_back(pattern: str | None) -> None:
    codec = Codec(train_tokenizer(TEXTS, 300, pattern))
    rng = random.Random(0)
    for _ in range(500):
        text = any_text(rng)
        ids = codec.encode(text)
        assert codec.decode(ids) == text
        assert codec.end not in ids, "text cannot inject the end token"


def test_tokenizer_depends_on_the_texts_alone() -> None:
    texts = [any_text(random.Random(i)) for i in range(200)] + TEXTS
    files = [train_tokenizer(texts, 600).backend_tokenizer.to_str() for _ in range(2)]
    assert files[0] == files[1]


def test_pieces() -> None:
    codec = Codec(train_tokenizer(TEXTS * 20, 1000))
    assert [codec.decode([i]) for i in codec.encode("<<12+30=42>>")] == [
        "<<",
        "1",
        "2",
        "+",
        "3",
        "0",
        "=",
        "4",
        "2",
        ">>",
    ]
    assert len(codec.encode(" apples")) == 1
    chain = Codec(train_tokenizer(["a +1 *2\n#### 7\n"] * 9, 300, r"#### |[+*-]\d|\n|."))
    assert [chain.decode([i]) for i in chain.encode("a *2\n#### 7")] == ["a", " ", "*2", "\n", "#### ", "7"]


def test_examples_are_encoded_part_by_part() -> None:
    backbone = scratch()
    encoded = backbone.encode_example(Example("x/1", "How many? 3", ("<<3+4=7>>", "<<7*1=7>>"), "7"))
    assert backbone.decode(encoded.question) == "How many? 3\n"
    assert backbone.decode(encoded.chain) == "<<3+4=7>>\n<<7*1=7>>\n"
    assert encoded.answer[-1] == backbone.end and backbone.decode(encoded.answer) == "#### 7"
    assert backbone.encode_question("How many? 3") == encoded.question


def test_start_token_stands_before_the_question_only() -> None:
    from tokenizers import processors

    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", bos)]
    )
    codec = Codec(tokenizer)
    assert codec.start == (bos,) and codec.encode_question("a")[0] == bos and bos not in codec.encode("a\n")
    assert codec.decode(codec.encode_question("a")) == "a\n"


def test_resolve() -> None:
    backbone = scratch()
    assert backbone.resolve("<m>") == backbone.markers["<m>"] >= backbone.vocabulary and backbone.resolve(5) == 5
    with pytest.raises(UsageError, match="did you mean '<m>'"):
        backbone.resolve("<mm>")
    with pytest.raises(UsageError, match="ids run from 0"):
        backbone.resolve(10_000)
    assert backbone.decode([*backbone.encode("a b"), backbone.resolve("<m>"), backbone.end]) == "a b"


# Forward


@pytest.mark.parametrize("name", ["tiny", "tiny-gpt2", "tiny-qwen"])
def test_forward_passes_agree(name: str) -> None:
    backbone = scratch(name)
    causal = torch.ones(2, 6, 6, dtype=torch.bool).tril()
    plain = hidden(backbone)
    assert plain.shape == (2, 6, backbone.width)
    torch.testing.assert_close(hidden(backbone, mask=causal), plain, atol=1e-5, rtol=0)

    eager = scratch(name, attention="eager")
    custom = causal.clone()
    custom[:, 3:, 1] = False
    torch.testing.assert_close(hidden(eager, mask=custom), hidden(backbone, mask=custom), atol=1e-5, rtol=0)
    torch.testing.assert_close(hidden(eager), plain, atol=1e-5, rtol=0)
    assert (hidden(backbone, mask=custom) - plain).abs().max() > 1e-3, "the mask has an effect"

    ids = torch.arange(4, 16).view(2, 6)
    positions = torch.arange(6).expand(2, 6)
    with torch.no_grad():
        states = backbone.run(backbone.embed(ids), None, positions)
        all_layers = backbone.run_layers(backbone.embed(ids), None, positions)
        whole = backbone.model(input_ids=ids, output_hidden_states=True)
        cache = backbone.new_cache()
        first = backbone.run(backbone.embed(ids[:, :4]), None, positions[:, :4], cache)
        rest = backbone.run(backbone.embed(ids[:, 4:]), causal[:, 4:], positions[:, 4:], cache)
    torch.testing.assert_close(torch.cat([first, rest], 1), states, atol=1e-5, rtol=0)
    torch.testing.assert_close(backbone.head(states), whole.logits[..., : backbone.vocabulary], atol=1e-5, rtol=0)
    assert len(all_layers) == backbone.layers + 1 and torch.equal(all_layers[-1], states)
    with pytest.raises(ValueError, match="needs a mask"):
        backbone.run(backbone.embed(ids), None, positions, cache)
    with pytest.raises(ValueError, match="not bool"):
        backbone.run(backbone.embed(ids), causal.float(), positions)


@pytest.mark.parametrize("name", ["tiny", "tiny-gpt2"])
def test_positions_that_start_again_do_not_split_the_row(name: str) -> None:
    """HF reads such positions as packed texts when it is given no mask; then the last column would not see the
    first.
    """
    backbone = scratch(name)
    ids = torch.arange(4, 10)[None]
    other = ids.clone()
    other[0, 0] += 1
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    with torch.no_grad():
        a, b = (backbone.run(backbone.embed(x), None, positions)[0, -1] for x in (ids, other))
    assert (a - b).abs().max() > 1e-4


def test_set_dropout() -> None:
    backbone = scratch("tiny-gpt2", dropout=0.1)
    llama = scratch("tiny")
    for b, own in ((backbone, 0.1), (llama, 0.0)):
        b.model.train()
        b.set_dropout(0.2)
        assert {round(d.probability, 6) for d in b._dropouts} == {round(own + 0.2, 6)}
        assert not torch.equal(hidden(b), hidden(b))
        b.set_dropout(0.0)
        assert {d.probability for d in b._dropouts} == {own}
    assert torch.equal(hidden(llama), hidden(llama))
    with pytest.raises(UsageError, match="added dropout"):
        backbone.set_dropout(0.95)


# Weights and markers


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    a = scratch(seed=5)
    assert torch.equal(state, torch.get_rng_state()), "the global random state is left alone"
    torch.manual_seed(2)
    b = scratch(seed=5)
    assert a.weights_sha256() == b.weights_sha256() != scratch(seed=6).weights_sha256()
    rows = a.model.get_input_embeddings().weight
    assert 0.9 < rows.std().item() < 1.1


@pytest.mark.parametrize("kind", ["scratch", "tiny-gpt2", "tiny"])
def test_marker_rows(kind: str, bases: dict[str, Path]) -> None:
    backbone = scratch() if kind == "scratch" else lora(bases[kind])
    with torch.no_grad():
        b, m, like = backbone.embed(torch.tensor([backbone.resolve(x) for x in ("<b>", "<m>", "</b>")]))
        (source,) = backbone.encode("<<")
        assert torch.equal(like, backbone.embed(torch.tensor([source]))[0])
        assert (b - m).abs().max() > 0.01
        every = backbone.embed(torch.arange(backbone.vocabulary))
    spread = every.std(0).mean()
    assert 0.3 * spread < (b - every.mean(0)).std() < 3 * spread, "drawn like the other rows"
    before = hidden(backbone)
    add_markers(backbone, MARKERS, seed=9)
    assert torch.equal(hidden(backbone), before), "existing markers stay"
    add_markers(backbone, (Marker("<far>", like="no single token"),), seed=9)
    row = backbone.embed(torch.tensor([backbone.resolve("<far>")]))[0]
    torch.testing.assert_close(row, every.mean(0), atol=1e-6, rtol=0)


def test_parameter_groups() -> None:
    backbone = scratch("tiny-gpt2")
    assert scratch("tiny").model.get_input_embeddings().padding_idx is None, "the end token's row trains"
    groups = backbone.parameter_groups(0.1)
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    plain = {id(p) for p in groups[1]["params"]}
    for name, p in backbone.parameters_to_train():
        assert (id(p) in plain) == (p.ndim == 1 or ".wte." in name or ".wpe." in name), name
    assert backbone.count() == backbone.count(training_only=True) == sum(p.numel() for g in groups for p in g["params"])


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny", "tiny-qwen"])
def test_lora_trains_adapters_and_new_rows_only(name: str, bases: dict[str, Path]) -> None:
    backbone = lora(bases[name])
    names = [n for n, _ in backbone.parameters_to_train()]
    assert (
        all("lora_" in n or "trainable_tokens" in n for n in names) and sum("trainable_tokens" in n for n in names) == 1
    )
    assert backbone.count(training_only=True) < backbone.count() / 2
    assert sum(p.numel() for g in backbone.parameter_groups(0.1) for p in g["params"]) == backbone.count(
        training_only=True
    )
    frozen = {n: p.detach().clone() for n, p in backbone.model.named_parameters() if not p.requires_grad}
    trained = {n: p.detach().clone() for n, p in backbone.parameters_to_train()}
    ids = torch.arange(backbone.vocabulary + len(MARKERS))
    before = backbone.embed(ids).detach()
    reference = backbone.model.get_input_embeddings()(ids)
    assert torch.equal(before, reference), "embed is peft's own embedding"
    step(backbone)
    after = backbone.embed(ids).detach()
    assert torch.equal(after[: backbone.vocabulary], before[: backbone.vocabulary])
    assert (after != before)[backbone.vocabulary :].all(1).all()
    now = dict(backbone.model.named_parameters())
    assert all(torch.equal(now[n], value) for n, value in frozen.items())
    assert all(not torch.equal(now[n], value) for n, value in trained.items() if "lora_A" not in n)  # A waits for B


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny", "tiny-qwen"])
def test_markers_can_be_added_to_a_trained_adapter(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    cot = lora(bases[name], markers=())
    step(cot)
    cot.save(tmp_path / "cot")
    before = hidden(cot)
    grown = Backbone.load(tmp_path / "cot")
    grown.set_dropout(0.3)
    add_markers(grown, MARKERS[:2], seed=1)
    text = torch.arange(4, 10)[None]
    positions = torch.arange(6)[None]
    with torch.no_grad():
        grown.set_dropout(0.0)
        grown.model.eval()
        a, b = (x.run(x.embed(text), None, positions) for x in (cot, grown))
    assert torch.equal(a, b) and torch.equal(hidden(cot), before)
    step(grown)
    rows = grown.embed(torch.tensor(list(grown.markers.values()))).detach()
    add_markers(grown, MARKERS[2:], seed=1)
    assert list(grown.markers) == ["<b>", "<m>", "</b>"]
    assert torch.equal(grown.embed(torch.tensor(list(grown.markers.values())[:2])), rows), "trained rows are kept"
    grown.save(tmp_path / "rim")
    again = Backbone.load(tmp_path / "rim")
    assert torch.equal(hidden(again), hidden(grown)) and again.weights_sha256() == grown.weights_sha256()


# Saving


@pytest.mark.parametrize("name", ["tiny", "tiny-gpt2", "tiny-qwen"])
def test_reload_is_exact(name: str, tmp_path: Path) -> None:
    backbone = scratch(name, tied=name == "tiny-gpt2")
    step(backbone)
    backbone.save(tmp_path)
    again = Backbone.load(tmp_path)
    assert torch.equal(hidden(again), hidden(backbone)) and again.weights_sha256() == backbone.weights_sha256()
    assert (again.markers, again.vocabulary, again.end, again.spec) == (
        backbone.markers,
        backbone.vocabulary,
        backbone.end,
        backbone.spec,
    )
    assert again.encode("How <|end|> 7\n") == backbone.encode("How <|end|> 7\n")
    add_markers(again, (Marker("<pause>"),), seed=2)
    assert again.resolve("<pause>") == backbone.vocabulary + 3 and not list(tmp_path.glob(".part*"))


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny"])
def test_lora_reload_is_exact_and_small(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    backbone = lora(bases[name])
    step(backbone)
    backbone.save(tmp_path)
    again = Backbone.load(tmp_path)
    assert torch.equal(hidden(again), hidden(backbone)) and again.weights_sha256() == backbone.weights_sha256()
    assert [n for n, _ in again.parameters_to_train()] == [n for n, _ in backbone.parameters_to_train()]
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert size < 4 * backbone.count(training_only=True) + 8192, "adapter and new rows, no embedding table"


def test_full_fine_tuning_of_a_pretrained_folder(bases: dict[str, Path], tmp_path: Path) -> None:
    backbone = Backbone.create(resolve_backbone(str(bases["tiny"]), {"tuning": "full"}), markers=MARKERS)
    assert backbone.count(training_only=True) == backbone.count()
    step(backbone)
    backbone.save(tmp_path)
    assert torch.equal(hidden(Backbone.load(tmp_path)), hidden(backbone))


def tamper(folder: Path, how: str) -> None:
    from safetensors.torch import load_file, save_file

    path = next(p for p in folder.glob("*.safetensors"))
    state = load_file(path)
    name = max(n for n in state if "weight" in n)
    if how == "value":
        state[name] = state[name] + 1e-3
    elif how == "missing":
        del state[name]
    elif how == "surplus":
        state["more.weight"] = torch.zeros(2)
    elif how == "shape":
        state[name] = state[name][..., :-1].contiguous()
    save_file(state, path, metadata={"format": "pt"})
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("how", ["value", "missing", "surplus", "shape", "cut"])
@pytest.mark.parametrize("kind", ["scratch", "lora"])
def test_changed_weights_are_refused(kind: str, how: str, bases: dict[str, Path], tmp_path: Path) -> None:
    backbone = scratch() if kind == "scratch" else lora(bases["tiny"])
    backbone.save(tmp_path)
    tamper(tmp_path, how)
    with pytest.raises(UsageError):
        Backbone.load(tmp_path)


def test_changed_base_or_tokenizer_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    base = shutil.copytree(bases["tiny"], tmp_path / "base")
    backbone = lora(base)
    backbone.save(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "backbone.json").read_text())
    (tmp_path / "run" / "backbone.json").write_text(json.dumps({**record, "end": 7}))
    with pytest.raises(UsageError, match="tokenizer"):
        Backbone.load(tmp_path / "run")
    (tmp_path / "run" / "backbone.json").write_text(json.dumps(record))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    with pytest.raises(UsageError, match=r"config\.json in .* changed since"):
        Backbone.load(tmp_path / "run")
    (base / "config.json").write_text(json.dumps(config))
    Backbone.load(tmp_path / "run")
    tamper(base, "value")
    with pytest.raises(UsageError, match="changed since"):
        Backbone.load(tmp_path / "run")
    with pytest.raises(UsageError, match="holds no saved backbone"):
        Backbone.load(tmp_path / "nothing")


# Names


def test_names_and_settings() -> None:
    assert {"tiny", "tiny-gpt2", "tiny-qwen", "gpt2-scratch", "gpt2", "llama-3.2-1b", "qwen3-0.6b"} <= set(
        backbone_names()
    )
    for name in backbone_names():
        assert json.loads(json.dumps(resolve_backbone(name, {}))) == resolve_backbone(name, None)
    assert resolve_backbone("gpt2", {"lora_rank": "16"})["lora_rank"] == 16
    assert resolve_backbone("org/name", {})["hub"] == "org/name"
    assert resolve_backbone("tiny", {"width": 64})["intermediate"] == 256


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("tinny", {}, "did you mean 'tiny'"),
        ("./no/such/folder", {}, "does not exist"),
        ("tiny", {"widht": 3, "layer": 2}, "did you mean 'width'.*did you mean 'layers'"),
        ("tiny", {"width": 30}, "heads"),
        ("tiny", {"layers": "many"}, "whole number"),
        ("tiny", {"vocabulary": 100}, "at least 257"),
        ("tiny", {"tuning": "lora"}, "pretrained"),
        ("gpt2", {"width": 64}, "cannot be set on the pretrained"),
        ("gpt2", {"tuning": "ful"}, "did you mean 'full'"),
        ("gpt2", {"tuning": "full", "lora_rank": 3}, "no meaning"),
    ],
)
def test_bad_names_and_settings(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_backbone(name, settings)


def test_unsupported_model_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    base = shutil.copytree(bases["tiny"], tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(
        json.dumps({**config, "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"]})
    )
    with pytest.raises(UsageError, match="gpt2, llama, qwen2, qwen3"):
        Backbone.create(resolve_backbone(str(base), {}))


@pytest.mark.parametrize("offline", ["0", "1"])
def test_unreachable_hub_answers_at_once(offline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline == "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.perf_counter()
    with pytest.raises(
        UsageError, match=("cannot be reached" if offline == "0" else "HF_HUB_OFFLINE") + ".*folder's path"
    ):
        Backbone.create(resolve_backbone("gpt2", {}))
    assert time.perf_counter() - start < 5


def test_stored_hub_model_loads_without_a_network(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    store, commit = tmp_path / "hub" / "models--org--name", "a" * 40
    shutil.copytree(bases["tiny"], store / "snapshots" / commit)
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text(commit)
    backbone = Backbone.create(resolve_backbone("org/name", {"lora_rank": 4}), markers=MARKERS)
    assert backbone.spec["revision"] == commit, "the commit is pinned"
    backbone.save(tmp_path / "run")
    (store / "refs" / "main").write_text("b" * 40)
    assert torch.equal(hidden(Backbone.load(tmp_path / "run")), hidden(backbone))


def test_catalog_needs_no_torch() -> None:
    code = (
        "import sys; from rim_bench.compute.backbones import *; backbone_names(); resolve_backbone('tiny');"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONPATH": "."}
    )
