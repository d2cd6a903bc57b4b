"""Small GGUF files as llama.cpp's converter writes them, and the models that they are written from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

END = "<|end|>"
TEXTS = ["How many apples are there?  3 + 4\n<<3+4=7>>\n#### 7", "Ann's 12 pears,   Bob has   305.\n#### 42"] * 8
SPLITS = {
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "qwen2": [
        pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
}
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128}


@cache
def tokenizer(split: str) -> Tokenizer:
    """A byte-level vocabulary that splits text as files with this `tokenizer.ggml.pre` say."""
    out = Tokenizer(models.BPE())
    out.pre_tokenizer = pre_tokenizers.Sequence(SPLITS[split])
    out.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    out.train_from_iterator(TEXTS, trainer)
    return out


def model_of(family: str, *, tied: bool = True, rope: Mapping[str, Any] | None = None) -> Any:
    """A model with random weights that bfloat16 holds."""
    rope = {"rope_theta": 50000.0, "rope_type": "default", **(rope or {})}
    vocabulary = tokenizer("smollm").get_vocab_size()
    config = AutoConfig.for_model(
        family, **SIZES, vocab_size=vocabulary, tie_word_embeddings=tied, rope_parameters=rope, eos_token_id=0
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_((p + torch.randn(p.shape) * 0.1).bfloat16())
    return model


def stored(value: Tensor, kind: str) -> Tensor:
    """The numbers that a matrix has once it was written in a type."""
    if value.ndim == 1:
        return value
    code = gguf.GGMLQuantizationType[kind]
    return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(value.numpy(), code), code).copy())


def write_gguf(
    path: Path, model: Any, split: str = "smollm", kind: str = "F32", changes: Mapping[str, Any] | None = None
) -> Path:
    """The model in a file, matrices in the type `kind`.

    Args:
        changes: keys of the metadata to add or replace (None: to leave out), and tensors, by their name in the file.
    """
    config, changes = model.config, dict(changes or {})
    family = config.model_type
    meta: dict[str, Any] = {
        "general.type": "model",
        f"{family}.context_length": config.max_position_embeddings,
        f"{family}.embedding_length": config.hidden_size,
        f"{family}.block_count": config.num_hidden_layers,
        f"{family}.feed_forward_length": config.intermediate_size,
        f"{family}.attention.head_count": config.num_attention_heads,
        f"{family}.attention.head_count_kv": config.num_key_value_heads,
        f"{family}.attention.key_length": config.head_dim,
        f"{family}.rope.freq_base": config.rope_parameters["rope_theta"],
        f"{family}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{family}.vocab_size": config.vocab_size,
        **({f"{family}.rope.dimension_count": config.head_dim} if family == "llama" else {}),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": split,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    }
    tensors = dict(model.named_parameters())
    names = gguf.get_tensor_name_map(
        next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == family), config.num_hidden_layers
    )
    out: dict[str, Tensor] = {}
    for name, value in tensors.items():
        value = value.detach()
        if family == "llama" and (side := name.split(".")[-2][0]) in "qk" and "_proj" in name:
            heads = config.num_attention_heads if side == "q" else config.num_key_value_heads
            value = value.reshape(heads, 2, -1, value.shape[-1]).swapaxes(1, 2).reshape(value.shape)
        base, suffix = name.rsplit(".", 1)
        out[f"{names.get_name(base)}.{suffix}"] = value
    for key in list(changes):
        if isinstance(changes[key], Tensor) or key in out:
            out[key] = changes.pop(key)
    writer = gguf.GGUFWriter(path, str(changes.pop("general.architecture", family)))
    for key, value in {**meta, **changes}.items():
        if value is None:
            continue
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
            add[type(value)](key, value)
    pieces = tokenizer(split if split in SPLITS else "smollm")
    vocabulary = sorted(pieces.get_vocab(), key=pieces.get_vocab().__getitem__)
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token == END else 1 for token in vocabulary])
    merges = gguf_merges(pieces)
    writer.add_token_merges(merges)
    for name, tensor in out.items():
        if tensor is None:
            continue
        if tensor.ndim == 1 or kind == "F32":
            writer.add_tensor(name, tensor.float().numpy())
        else:
            code = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, gguf.quants.quantize(tensor.numpy(), code), raw_dtype=code)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_merges(pieces: Tokenizer) -> list[str]:
    """Its merges, the two parts with a space between them."""
    import json

    merges = json.loads(pieces.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
