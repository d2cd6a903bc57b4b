"""Small "pretrained" models, as save_pretrained leaves them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import chdir
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rim_bench.compute.backbones import resolve_backbone
from rim_bench.engine.backbone import Backbone

TEXTS = ["How many apples are there? 3 + 4\n<<3+4=7>>\n#### 7", "Ann has 12 pears, Bob 30.\n<<12+30=42>>\n#### 42"] * 8
CHAT = (
    "{% for m in messages %}{{ eos_token + m['role'] + '\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ eos_token + 'assistant\n' }}{% endif %}"
)
"""A chat template whose turns begin and end with the end token."""
SMALL = {"layers": 2, "width": 32, "heads": 4, "vocabulary": 300, "max_positions": 64}


@cache
def _kept(family: str) -> tempfile.TemporaryDirectory[str]:
    tied = family != "tiny"
    settings = {**SMALL, "tied": tied, "embedding_std": 0.02 if tied else 1.0}
    backbone = Backbone.create(resolve_backbone(family, settings), texts=TEXTS)
    with torch.no_grad():  # at their usual start layers hardly change their input, and a fault in them hardly shows
        for name, p in backbone.model.named_parameters():
            if p.ndim > 1 and (".layers." in name or ".h." in name):
                p.mul_(5.0)
    kept = tempfile.TemporaryDirectory()
    backbone.model.save_pretrained(kept.name)
    backbone.tokenizer.save_pretrained(kept.name)
    return kept


def base_folder(family: str, target: Path, config: Mapping[str, Any] | None = None) -> Path:
    """`target` with a model and its tokenizer in it: GPT-2 and Qwen tied, Llama not; `config` changes keys."""
    shutil.copytree(_kept(family).name, target)
    if config is not None:
        path = target / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | dict(config)))
    return target


def change_weights(folder: Path, **tensors: Tensor) -> None:
    """Adds tensors to the file, or replaces them."""
    state = load_file(folder / "model.safetensors") | {name.replace("__", "."): t for name, t in tensors.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def two_matrices(family: str, target: Path) -> Path:
    """A folder whose config.json says that head and embedding are one, while the file holds two."""
    folder = base_folder(family, target, {"tie_word_embeddings": True})
    name = "transformer.wte.weight" if family == "tiny-gpt2" else "model.embed_tokens.weight"
    table = load_file(folder / "model.safetensors")[name]
    change_weights(folder, lm_head__weight=torch.randn(table.shape, generator=torch.Generator().manual_seed(1)))
    return folder


def by_readme(folder: Path) -> Any:
    """A stored adapter on its base, by the lines of the README beside it."""
    code = (folder / "README.md").read_text("utf-8").partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    with chdir(folder):
        exec(code, names)
    return names["model"]
