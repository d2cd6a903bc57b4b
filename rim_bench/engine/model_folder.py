"""What a model folder must hold to be loaded, and one sentence for each that cannot be, with the file that is wrong.

No code that lies in a folder is ever executed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from rim_bench.compute.backbones import FAMILIES
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record, canonical, finite, read_json

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SMALL = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", INDEX)
VOCABULARIES = ("tokenizer.json", "vocab.json", "tokenizer.model")
FLOATS = ("F64", "F32", "F16", "BF16")
DROPOUTS = {"attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop"}
AS_WRITTEN = "as save_pretrained writes them"

BUFFERS = {
    # GPT-2's causal mask and the number it masked with, in files of transformers 2.9 to 4.29
    # (huggingface/transformers#3974, #24113, #29725; ai-forever/ru-gpts#35)
    r"attn(ention)?\.(masked_)?bias$": "gpt2",
    # rotary frequencies, stored until transformers 4.32 (huggingface/transformers#35255, jzhang38/TinyLlama#127)
    r"rotary_emb\.inv_freq$": "llama|qwen2|qwen3",
    # their cosines and sines, which ColossalAI stores (vllm-project/vllm#1977)
    r"rotary_emb\.(cos|sin)_cached$": "llama|qwen2|qwen3",
}
"""Constants that files of other versions hold beside the weights: name -> families. They are computed, never read."""


def is_constant(name: str, family: str) -> bool:
    """Whether a stored tensor is no weight of a model of that family, but a constant that it computes itself."""
    return any(re.search(pattern, name) and re.fullmatch(families, family) for pattern, families in BUFFERS.items())


@contextmanager
def reading(folder: Path, what: str, allowed: str, files: Sequence[str] = ()) -> Iterator[None]:
    """Turns whatever a library raises over the files of a folder into a sentence that says what is allowed.

    The sentence names the first of `files` that is no JSON.
    """
    try:
        yield
    except MemoryError:
        raise
    except UsageError as error:
        if str(folder) in str(error):
            raise
        raise UsageError(f"{what} in {str(folder)!r} cannot be loaded: {error}") from None
    except Exception as error:  # of any kind: they come from parsers of three libraries
        for name in files:
            if (folder / name).exists():
                read_json(folder / name)
        reason = " ".join(str(error).split())
        reason = f"{type(error).__name__}: {reason[:240]}{'...' if len(reason) > 240 else ''}"
        raise UsageError(f"{what} in {str(folder)!r} cannot be loaded ({reason}): {allowed}") from error


def check_folder(folder: Path) -> Record:
    """The configuration of a folder whose model the engine can run.

    Raises:
        UsageError: a file that is damaged, an architecture that is not supported, code of its own, quantized weights,
            or an adapter.
    """
    where, families = repr(str(folder)), ", ".join(FAMILIES)
    config = read_json(folder / CONFIG)
    others = {name: read_json(folder / name) for name in SMALL if (folder / name).exists()}
    for name, record in {CONFIG: config, **others}.items():
        if record.get("auto_map"):
            raise UsageError(
                f"{name} in {where} asks for code of its own (auto_map), which is never executed: allowed are models "
                f"that transformers has itself, of type {families}; take auto_map out where the model is one of them"
            )
    if (kind := config.get("model_type")) not in FAMILIES:
        raise UsageError(f"a model of type {kind!r} is not supported ({where}): allowed are {families}")
    if finite(config) != config:
        raise UsageError(f"{CONFIG} in {where} holds a number that is none (NaN or infinity)")
    for key in DROPOUTS & set(config):
        if isinstance(config[key], bool) or not isinstance(config[key], int | float) or not 0 <= config[key] < 1:
            raise UsageError(f"{key} = {config[key]!r} in {CONFIG} of {where} is not a number in [0, 1)")
    for key in ("quantization_config", "compression_config"):
        if config.get(key):
            method = config[key].get("quant_method") if isinstance(config[key], dict) else config[key]
            raise UsageError(
                f"the weights in {where} are quantized ({key} in {CONFIG}: {method!r}): only floating-point weights "
                "are supported; give the model that they were made from"
            )
    if (folder / "adapter_config.json").exists():
        raise UsageError(
            f"{where} holds an adapter (adapter_config.json), which would be loaded instead of the model: give the "
            "base, or both merged: `rim-bench export RUN FOLDER` does it for a run, peft's merge_and_unload for others"
        )
    return config


def config_sha256(folder: Path) -> str:
    """Hash of what the configuration says, however it is written."""
    return hashlib.sha256(canonical(read_json(folder / CONFIG)).encode()).hexdigest()


def check_vocabulary(folder: Path) -> None:
    """Raises UsageError for a folder without a tokenizer's vocabulary; transformers would make up an empty one."""
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise UsageError(
            f"{str(folder)!r} holds no tokenizer: tokenizer.json is needed, as save_pretrained of a tokenizer writes it"
        )


def weight_files(folder: Path) -> list[Path]:
    """The files of weights that transformers would load. Raises UsageError for one that is missing, or an index."""
    names = [WEIGHTS]
    if not (folder / WEIGHTS).exists() and (folder / INDEX).exists():
        places = read_json(folder / INDEX).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(n, str) and n == Path(n).name for n in places.values()):
            raise UsageError(
                f"{str(folder / INDEX)!r} is damaged: its weight_map does not say which file of the folder holds "
                "each weight"
            )
        names = sorted(set(places.values()))
    for name in names:
        if not (folder / name).is_file():
            needed = f"{WEIGHTS}, or {INDEX} and its files, are needed {AS_WRITTEN}"
            raise UsageError(f"{str(folder / name)!r} is missing: {needed}")
    return [folder / name for name in names]


def stored_shapes(folder: Path, family: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every stored tensor that transformers would load, from the files' headers alone.

    Raises:
        UsageError: a file that is missing or damaged, or weights that are no floating-point numbers.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    part = file.get_slice(name)
                    shapes[name] = tuple(part.get_shape())
                    if part.get_dtype() not in FLOATS and not is_constant(name, family):
                        raise UsageError(
                            f"{name} in {str(path)!r} is of type {part.get_dtype()}: only floating-point weights are "
                            f"supported ({', '.join(FLOATS)})"
                        )
        except (OSError, SafetensorError) as error:
            raise UsageError(f"{str(path)!r} is damaged: {' '.join(str(error).split())}") from None
    return shapes


def check_shapes(folder: Path, stored: Mapping[str, tuple[int, ...]], model: Any) -> None:
    """Raises UsageError for stored tensors of other shapes than the model's; `model` may lie on the meta device."""
    prefix = f"{model.base_model_prefix}."
    for name, value in model.state_dict().items():
        shape = stored.get(name, stored.get(name.removeprefix(prefix)))
        if shape is not None and shape != tuple(value.shape):
            raise UsageError(
                f"the weights in {str(folder)!r} do not fit their {CONFIG}: {name} has the shape {shape} in the file "
                f"and {tuple(value.shape)} by {CONFIG}"
            )


def check_layers(folder: Path, stored: Mapping[str, tuple[int, ...]], layers: Any) -> None:
    """Raises UsageError where a configuration has another number of layers than the files; nothing is built for it."""
    numbers = {int(m[1]) for name in stored if (m := re.search(r"(?:^|\.)(?:h|layers)\.(\d+)\.", name))}
    if len(numbers) != layers:
        raise UsageError(
            f"the weights in {str(folder)!r} do not fit their {CONFIG}: they have {len(numbers)} layers, by {CONFIG} "
            f"{layers!r}"
        )
