"""Damaged, odd and hostile model folders: each loads as what it says, or is refused by one sentence."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_models import base_folder, change_weights
from safetensors.torch import load_file, save_file

from rim_bench.compute.backbones import resolve_backbone
from rim_bench.engine.backbone import Backbone
from rim_bench.util.errors import UsageError

NESTED = "[" * 100_000 + "]" * 100_000
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 548105171\n"
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "list": b"[]",
    "null": b"null",
    "object": b"{}",
    "page": b"<!DOCTYPE html><html><body>404</body></html>",
    "pointer": POINTER.encode(),
    "zeros": bytes(64),
    "latin": '{"a": "é"}'.encode("latin-1"),
    "nested": ('{"a": ' + NESTED + "}").encode(),
    "number": b'{"a": NaN, "a": 1e999}',
}
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
SHARDED = ("model.safetensors.index.json", "model-00001-of-00002.safetensors")
WRONG: tuple[Any, ...] = (None, "x", "7", -1, 0, 2.5, True, [], {}, ["x"], {"x": 1}, 10**9, float("nan"))


def sharded(folder: Path) -> Path:
    """The folder with its weights in two files and an index."""
    state = sorted(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    places = {}
    for number, part in enumerate((state[: len(state) // 2], state[len(state) // 2 :]), 1):
        name = f"model-{number:05d}-of-00002.safetensors"
        save_file(dict(part), folder / name, metadata={"format": "pt"})
        places |= {key: name for key, _ in part}
    (folder / SHARDED[0]).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return folder


def load(folder: Path) -> str | None:
    """What the folder is refused for, or None; whatever is no UsageError goes on as the traceback that it is."""
    try:
        backbone = Backbone.create(resolve_backbone(str(folder), {"tuning": "full"}))
        with torch.no_grad():
            ids = torch.tensor([backbone.encode_question("How many? 7")])
            backbone.head(backbone.run(backbone.embed(ids), None, torch.arange(ids.shape[1])[None]))
    except UsageError as error:
        assert "\n" not in str(error) and str(folder) in str(error), error
        return str(error)
    return None


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how.startswith("cut"):
        path.write_bytes(whole[: int(len(whole) * float(how[3:]))])
    elif how == "flip":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
    elif how != "gone":
        path.write_bytes(CONTENTS[how])


HOW = ("gone", "folder", "cut0.02", "cut0.5", "cut0.999", "flip", *CONTENTS)


def positions(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the fields of a JSON value lie; of long lists and tables the first and the last."""
    if isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        for key in keys if len(keys) < 40 else [keys[0], keys[-1]]:
            yield (*path, key)
            yield from positions(value[key], (*path, key))


def with_change(value: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return value


# Damage: every file, every way


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sound folders by family, and with their weights in shards."""
    root = tmp_path_factory.mktemp("sound")
    out = {family: base_folder(family, root / family) for family in ("tiny", "tiny-gpt2", "tiny-qwen")}
    return out | {"shards": sharded(base_folder("tiny", root / "shards"))}


HARMLESS = {
    ("generation_config.json", "gone"),
    ("generation_config.json", "object"),
    ("model.safetensors", "flip"),  # another weight
    (SHARDED[1], "flip"),
    *((name, "cut0.999") for name in (*FILES, SHARDED[0]) if name != "model.safetensors"),  # the last line feed
    ("generation_config.json", "number"),
    ("tokenizer_config.json", "gone"),
}
"""Damage that leaves a model that can be used; all other is refused."""


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", FILES + SHARDED)
def test_a_damaged_file_is_named(name: str, how: str, sound: dict[str, Path], tmp_path: Path) -> None:
    kind = "shards" if name in SHARDED else ("tiny", "tiny-gpt2", "tiny-qwen")[(len(name) + len(how)) % 3]
    folder = shutil.copytree(sound[kind], tmp_path / "base")
    damage(folder / name, how)
    refusal = load(folder)
    if (name, how) in HARMLESS:
        return
    assert refusal is not None
    if how in ("cut0.02", "cut0.5", "empty", "list", "null", "page", "pointer", "zeros", "latin", "nested"):
        assert str(folder / name) in refusal, refusal


@pytest.mark.parametrize("seed", range(8))
def test_wrong_types_are_refused_or_harmless(seed: int, sound: dict[str, Path], tmp_path: Path) -> None:
    """Twenty fields each: another type, another size, or gone."""
    rng = random.Random(seed)
    for turn in range(20):
        kind = rng.choice(list(sound))
        folder = shutil.copytree(sound[kind], tmp_path / str(turn))
        name = rng.choice([p.name for p in folder.glob("*.json")])
        value = json.loads((folder / name).read_text())
        where, wrong = rng.choice(list(positions(value))), rng.choice(WRONG)

        def change(inner: Any, key: Any, wrong: Any = wrong, gone: bool = rng.random() < 0.2) -> None:
            if gone:
                del inner[key]
            else:
                inner[key] = wrong

        (folder / name).write_text(json.dumps(with_change(value, where, change)))
        load(folder)  # a sentence, or a model


# What is no plain model


def config_with(folder: Path, name: str = "config.json", **keys: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return folder


CODE = "open({path!r}, 'w').write('executed')\nclass XC: pass\nclass XModel: pass\nclass XTokenizer: pass\n"
EVIL: dict[str, tuple[str, dict[str, Any]]] = {
    "configuration": ("config.json", {"auto_map": {"AutoConfig": "configuration_x.XC"}, "model_type": "xmodel"}),
    "model": ("config.json", {"auto_map": {"AutoModelForCausalLM": "configuration_x.XModel"}}),
    "tokenizer": ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["configuration_x.XTokenizer", None]}}),
    "generation": ("generation_config.json", {"auto_map": {"GenerationConfig": "configuration_x.XC"}}),
}


@pytest.mark.parametrize("what", EVIL)
def test_code_of_a_folder_is_refused_and_never_executed(what: str, tmp_path: Path) -> None:
    folder, trace = base_folder("tiny", tmp_path / "base"), tmp_path / "trace"
    (folder / "configuration_x.py").write_text(CODE.format(path=str(trace)))
    name, keys = EVIL[what]
    refusal = load(config_with(folder, name, **keys))
    assert refusal is not None and "auto_map" in refusal and "never executed" in refusal and name in refusal
    assert "trust_remote_code" not in refusal and not trace.exists()


@pytest.mark.parametrize(
    "quantized",
    [
        {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}},
        {"quantization_config": {"quant_method": "awq", "bits": 4}},
        {"quantization_config": {"load_in_4bit": True, "quant_method": "bitsandbytes"}},
        {"quantization_config": {"quant_method": "fp8"}},
        {"quantization_config": "gptq"},
        {"compression_config": {"quant_method": "compressed-tensors"}},
    ],
)
def test_quantized_weights_are_refused(quantized: dict[str, Any], tmp_path: Path) -> None:
    refusal = load(config_with(base_folder("tiny", tmp_path / "base"), **quantized))
    assert refusal is not None and "only floating-point weights are supported" in refusal


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.int64])
def test_weights_that_are_no_floating_point_numbers_are_refused(kind: torch.dtype, tmp_path: Path) -> None:
    folder = base_folder("tiny", tmp_path / "base")
    state = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    save_file(state | {name: state[name].to(kind)}, folder / "model.safetensors", metadata={"format": "pt"})
    refusal = load(folder)
    assert refusal is not None and name in refusal and "only floating-point" in refusal


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    folder = base_folder("tiny-gpt2", tmp_path / "base")
    change_weights(folder, transformer__ln_f__bias=torch.tensor([value] * 32))
    refusal = load(folder)
    assert refusal is not None and "not finite, such as in transformer.ln_f.bias" in refusal


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_numbers_are_taken(kind: torch.dtype, tmp_path: Path) -> None:
    folder = base_folder("tiny", tmp_path / "base")
    state = {name: value.to(kind) for name, value in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert load(folder) is None


@pytest.mark.parametrize("family", ["tiny", "tiny-gpt2", "tiny-qwen"])
def test_a_model_without_a_tokenizer_is_refused(family: str, tmp_path: Path) -> None:
    """transformers makes up an empty one for GPT-2 and Qwen."""
    folder = base_folder(family, tmp_path / "base")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    refusal = load(folder)
    assert refusal is not None and "holds no tokenizer: tokenizer.json is needed" in refusal


def test_an_adapter_beside_a_model_is_refused(tmp_path: Path) -> None:
    folder = base_folder("tiny", tmp_path / "base")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somewhere/else", "peft_type": "LORA"}')
    refusal = load(folder)
    assert refusal is not None and "holds an adapter" in refusal


@pytest.mark.parametrize(
    ("family", "keys", "message"),
    [
        ("tiny", {"hidden_size": 10**6}, "has the shape"),
        ("tiny", {"vocab_size": 10**9}, r"has the shape \(294, 32\) in the file and \(1000000000, 32\)"),
        ("tiny", {"num_hidden_layers": 10**7}, "they have 2 layers, by config.json 10000000"),
        ("tiny", {"num_hidden_layers": 1}, "they have 2 layers, by config.json 1"),
        ("tiny-gpt2", {"n_layer": 3}, "they have 2 layers, by config.json 3"),
        ("tiny-gpt2", {"n_positions": 10**9}, "has the shape"),
        ("tiny-gpt2", {"n_head": -1}, "n_head = -1"),
        ("tiny-gpt2", {"attn_pdrop": 1}, r"not a number in \[0, 1\)"),
        ("tiny-qwen", {"use_sliding_window": True, "sliding_window": 8}, "only full attention"),
    ],
)
def test_sizes_are_compared_before_anything_is_allocated(
    family: str, keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    refusal = load(config_with(base_folder(family, tmp_path / "base"), **keys))
    assert refusal is not None and re.search(message, refusal), refusal


@pytest.mark.parametrize(
    "places", [["model.safetensors"], {"lm_head.weight": 7}, {"lm_head.weight": "../other.safetensors"}]
)
def test_an_index_that_leads_elsewhere_is_refused(places: Any, sound: dict[str, Path], tmp_path: Path) -> None:
    folder = config_with(shutil.copytree(sound["shards"], tmp_path / "base"), SHARDED[0], weight_map=places)
    refusal = load(folder)
    assert refusal is not None and "weight_map" in refusal
