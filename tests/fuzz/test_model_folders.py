"""Folders of pretrained models, damaged in any file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from damage import damage_file, file_op, files_of, place
from fuzzing import Campaign, holds
from hypothesis import strategies as st

ROWS = "--task json --file train=own/train.jsonl --file test=own/test.jsonl --file validation=own/validation.jsonl"
RUN = f"run {ROWS} --model made/m --examples 48 --batch-size 4 --device cpu --max-tokens 4"
COMMANDS = (
    f"{RUN} --methods direct,rim --out made/out",
    f"{RUN} --methods rim --tuning full --out made/out",
    f"{RUN} --methods direct,coconut --dry-run",
    "cost --model made/m --methods direct,rim",
    "cost --model made/m/config.json --methods direct",
)
KEYS = (
    "quantization_config", "auto_map", "rope_parameters", "tie_word_embeddings", "model_type", "architectures",
    "vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "intermediate_size", "hidden_act", "max_position_embeddings", "n_positions", "n_embd", "n_head", "n_layer",
    "torch_dtype", "dtype", "attention_bias", "sliding_window", "layer_types", "use_sliding_window", "rms_norm_eps",
    "initializer_range", "eos_token_id", "_name_or_path", "attn_implementation", "pretraining_tp",
    "scale_attn_weights", "reorder_and_upcast_attn", "transformers_version", "is_decoder", "add_cross_attention",
)  # fmt: skip
VALUES = (
    None, True, False, 0, 1, -1, 2, 3, 7, 10**12, 1.5, "", "x", "llama", "gpt2", "qwen2", "mistral", "float16",
    "relu", [], {}, ["x"], {"rope_type": "dynamic", "factor": 4.0}, {"rope_type": "yarn"}, {"rope_type": "nope"},
    {"rope_type": "linear", "factor": "a"}, {"quant_method": "gptq", "bits": 4}, {"quant_method": "bitsandbytes"},
    {"AutoConfig": "configuration_x.XC"}, ["full_attention"],
)  # fmt: skip


def test_model_folders(campaign: Campaign, sandbox: Path) -> None:
    families = sorted(path.name for path in Path("model").iterdir())

    def check(case: tuple[Any, ...]) -> None:
        family, which, op, changed, command = case
        folder = Path("made/m")
        shutil.copytree(Path("model") / families[family % len(families)], folder)
        if changed:
            config = json.loads((folder / "config.json").read_text()) | dict(changed)
            (folder / "config.json").write_text(json.dumps(config))
        if op is not None:
            files = files_of(folder)
            damage_file(files[which % len(files)], op)
        holds(COMMANDS[command].split())

    changed = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), max_size=2)
    cases = st.tuples(
        st.integers(0, 2), place, st.one_of(st.none(), file_op, file_op), changed, st.integers(0, len(COMMANDS) - 1)
    )
    campaign.run("model folders", check, cases, 0.1)
