"""LoRA on every linear layer of a frozen model, with the markers' embedding rows trained beside it. peft loads late."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rim_bench.util.errors import UsageError

ADAPTER = "default"  # peft's name for the only adapter
FILE = "adapter_model.safetensors"
GPT2_TARGETS = ["c_attn", "c_proj", "c_fc"]
LLAMA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def wrap(model: Any, spec: Mapping[str, Any], markers: Mapping[str, int], seed: int) -> Any:
    """The model in peft's shell with a fresh adapter of the spec's rank; it changes nothing until it is trained.

    The rows of `markers` must lie in the embedding table already: their trained copies start from there.
    """
    from peft import LoraConfig, get_peft_model

    gpt2 = model.config.model_type == "gpt2"
    ids = sorted(markers.values())
    config = LoraConfig(
        r=spec["lora_rank"],
        lora_alpha=spec["lora_alpha"],
        target_modules=GPT2_TARGETS if gpt2 else LLAMA_TARGETS,
        fan_in_fan_out=gpt2,
        task_type="CAUSAL_LM",
        bias="none",
        trainable_token_indices={"wte" if gpt2 else "embed_tokens": ids} if ids else None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config)
    if spec.get("kind") == "hub":  # what peft then fetches by itself, not where it lies on this machine
        config.base_model_name_or_path, config.revision = spec["hub"], spec["revision"]
    return wrapped


def card(own_head: bool) -> str:
    """The README of a stored adapter: how it loads in plain peft, which does not store what a base is loaded with.

    Args:
        own_head: the base's head is a matrix of its own. Where its config.json calls it tied to the embedding none the
            less, as in many merged models, Hugging Face replaces it by the embedding as soon as rows are added.
    """
    flag, why = "", ""
    if own_head:
        flag = ", tie_word_embeddings=False"
        why = (
            "\nThe head of its base is a matrix of its own. Leave `tie_word_embeddings=False` out, and a base whose\n"
            "`config.json` calls head and embedding tied answers with the embedding instead.\n"
        )
    return f"""# An adapter of rim-bench

```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("."{flag})  # this folder
tokenizer = AutoTokenizer.from_pretrained(".")
```
{why}"""


def adapter(model: Any) -> dict[str, Tensor]:
    """Everything that trains, by peft's names; the tensors share the parameters' memory."""
    from peft import get_peft_model_state_dict

    state: dict[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: value.detach() for name, value in sorted(state.items())}


def layers(model: Any) -> dict[str, Tensor]:
    """A copy of the adapter's matrices, without the markers' rows."""
    return {name: value.clone() for name, value in adapter(model).items() if "lora_" in name}


def assign(model: Any, state: Mapping[str, Tensor]) -> None:
    """Copies values into the adapter. The markers' rows may be left out: they keep what they have.

    Raises:
        ValueError: names that do not fit.
    """
    own = adapter(model)
    if not {name for name in own if "lora_" in name} <= set(state) <= set(own):
        raise ValueError(f"the adapter does not fit the model: {sorted(set(own) ^ set(state))[:4]}")
    for name, value in state.items():
        own[name].copy_(value)


def load(model: Any, folder: Path) -> None:
    """Copies a saved adapter into the model.

    Raises:
        UsageError: an adapter that cannot be read, or whose names or shapes are others.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(folder / FILE)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"the adapter in {str(folder)!r} cannot be read: {error}") from None
    own = adapter(model)
    if {name: value.shape for name, value in state.items()} != {name: value.shape for name, value in own.items()}:
        raise UsageError(
            f"the adapter in {str(folder)!r} has other weights than its backbone: {sorted(set(state) ^ set(own))[:4]}"
        )
    assign(model, state)
