"""Hugging Face models with random weights of a given shape, or from a folder, every weight accounted for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging

from rim_bench.attention import register
from rim_bench.catalog import FAMILIES
from rim_bench.errors import UsageError

hf_logging: Any = logging  # untyped


@contextmanager
def quiet() -> Iterator[None]:
    """Without Hugging Face's progress bars and load reports: what is wrong with weights becomes an error anyway."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def fuse_activations(model: Any) -> None:
    """Computes GPT-2's activation (the tanh form of GELU) in one kernel instead of eight passes over memory: equal to rounding."""
    for module in model.modules():
        if type(getattr(module, "act", None)).__name__ == "NewGELUActivation":  # by name: its module is slow to import
            module.act = nn.GELU(approximate="tanh")


def _auto() -> tuple[Any, Any]:
    """Hugging Face's configurations and models by name; imported where a model is about to come."""
    from transformers import AutoConfig, AutoModelForCausalLM

    return AutoConfig, AutoModelForCausalLM


def _kernel(attention: str) -> str:
    """Hugging Face's name of a kernel; for "sdpa" the one that also attends by parts."""
    return register() if attention == "sdpa" else attention


def scratch_model(spec: Mapping[str, Any], vocabulary: int, end: int, seed: int, attention: str) -> Any:
    """A model of the spec's shape with random weights that depend on `seed` alone."""
    family = str(spec["family"])
    common = {
        "vocab_size": vocabulary,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": None,  # HF would freeze the row of the end token, which doubles as padding
        "tie_word_embeddings": bool(spec["tied"]),
    }
    if family == "gpt2":
        p = float(spec["dropout"])
        shape = {
            "n_layer": spec["layers"],
            "n_embd": spec["width"],
            "n_head": spec["heads"],
            "n_inner": spec["intermediate"],
            "n_positions": spec["max_positions"],
            "resid_pdrop": p,
            "embd_pdrop": p,
            "attn_pdrop": p,
        }
    else:
        shape = {
            "num_hidden_layers": spec["layers"],
            "hidden_size": spec["width"],
            "num_attention_heads": spec["heads"],
            "num_key_value_heads": spec["heads"],
            "head_dim": spec["width"] // spec["heads"],
            "intermediate_size": spec["intermediate"],
            "max_position_embeddings": spec["max_positions"],
            "attention_dropout": float(spec["dropout"]),
        }
    configs, auto = _auto()
    config = configs.for_model(family, **common, **shape)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = auto.from_config(config, attn_implementation=_kernel(attention), dtype=torch.float32)
        if spec["embedding_std"] is not None:
            for module in model.modules():
                if isinstance(module, nn.Embedding):  # rows of tokens, and of GPT-2's positions: of one size
                    nn.init.normal_(module.weight, std=float(spec["embedding_std"]))
    return model


def load_model(folder: Path, attention: str) -> Any:
    """The model in a folder, in float32, every weight accounted for."""
    configs, auto = _auto()
    config = configs.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if config.model_type not in FAMILIES:
        raise UsageError(f"a model of type {config.model_type!r} is not supported: allowed are {', '.join(FAMILIES)}")
    try:
        with quiet():
            model, info = auto.from_pretrained(
                str(folder),
                config=config,
                dtype=torch.float32,
                attn_implementation=_kernel(attention),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise UsageError(f"the weights in {str(folder)!r} cannot be loaded: {str(error).splitlines()[0]}") from error
    bad = {kind: sorted(map(str, names))[:4] for kind, names in info.items() if names and kind != "error_msgs"}
    if bad or info.get("error_msgs"):
        raise UsageError(f"the weights in {str(folder)!r} do not fit their config.json: {bad or info['error_msgs']}")
    return model
