"""Hugging Face models: with random weights of a given shape, or with pretrained ones, every weight accounted for.

Files of pretrained weights are looked up on this machine, and fetched once where a hub can be reached.
"""

from __future__ import annotations

import os
import socket
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn
from transformers.utils import logging

from rim_bench.compute.backbones import FAMILIES, weight_hashes
from rim_bench.compute.flops import Shape
from rim_bench.engine.attention import register
from rim_bench.engine.model_cache import converted_model
from rim_bench.engine.model_folder import (
    AS_WRITTEN,
    CONFIG,
    check_folder,
    check_layers,
    check_shapes,
    is_constant,
    reading,
    stored_shapes,
    weight_files,
)
from rim_bench.util.errors import UsageError, unknown
from rim_bench.util.progress import phase

log = getLogger(__name__)
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
    """Computes GPT-2's activation (GELU, tanh) in one kernel, not eight passes over memory: equal to rounding."""
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


ROPE_CONSTANT = ("default", "linear", "yarn", "llama3", "proportional")
"""Rotary embeddings whose frequencies the configuration alone decides."""
ROPE_BOUNDED = ("dynamic", "longrope")
"""Those whose frequencies change with the longest row of a call, once it is longer than the original length."""


def constant_positions(config: Any) -> int:
    """Positions of a model that a row may have, so that what it computes does not depend on the rows beside it.

    All it has, but for a rotary embedding that takes other frequencies for longer calls: there, those before it does.

    Raises:
        UsageError: a rotary embedding of a type that is not known.
    """
    positions = int(config.max_position_embeddings)
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    if kind not in ROPE_CONSTANT + ROPE_BOUNDED:
        raise unknown("rope_type", str(kind), ROPE_CONSTANT + ROPE_BOUNDED)
    return min(positions, int(rope["original_max_position_embeddings"])) if kind == "longrope" else positions


@phase("loading the model")
def load_model(folder: Path, attention: str, *, untie: bool = True) -> Any:
    """The model in a folder, in float32, every weight accounted for. Nothing of the folder is executed.

    A head that differs from the embedding stays what it is, also where config.json calls the two tied, as it does in
    many merged models: Hugging Face would replace it by the embedding as soon as rows are added. `untie` = False leaves
    that to it, as versions did whose runs are stored with schema 1.

    Raises:
        UsageError: a folder that cannot be loaded; the sentence names the file.
    """
    family = check_folder(folder)["model_type"]
    stored = stored_shapes(folder, family)
    allowed = f"allowed are models of type {', '.join(FAMILIES)} {AS_WRITTEN}"
    configs, auto = _auto()
    with quiet():
        with reading(folder, CONFIG, allowed):
            config = configs.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            Shape.of(config.to_dict())  # sizes that are none, and attention that is not full
            limit = constant_positions(config)
            check_layers(folder, stored, config.num_hidden_layers)
            with torch.device("meta"):
                check_shapes(folder, stored, auto.from_config(config, attn_implementation=_kernel(attention)))
        with reading(folder, "the weights", allowed):
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
    info["unexpected_keys"] = {n for n in info["unexpected_keys"] if not is_constant(n, family)}
    bad = {kind: sorted(map(str, names))[:4] for kind, names in info.items() if names and kind != "error_msgs"}
    if bad or info.get("error_msgs"):
        raise UsageError(f"the weights in {str(folder)!r} do not fit their {CONFIG}: {bad or info['error_msgs']}")
    if odd := [name for name, value in model.named_parameters() if not bool(torch.isfinite(value).all())]:
        raise UsageError(f"the weights in {str(folder)!r} hold numbers that are not finite, such as in {odd[0]}")
    if limit < config.max_position_embeddings:
        log.warning("%s: rows may have %d positions; beyond them its frequencies depend on other rows", folder, limit)
    if untie and model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = False
    return model


def generation_settings(end: int, never: Sequence[int]) -> Any:
    """Hugging Face's settings for a run's answers: greedy, until the end token, without the ids in `never`."""
    from transformers import GenerationConfig

    return GenerationConfig(eos_token_id=end, pad_token_id=end, suppress_tokens=list(never) or None)


WAIT = 3.0  # seconds until a hub that does not answer counts as unreachable
WANTED = ["*.json", "*.safetensors", "*.txt", "*.model"]
UNWANTED = ["onnx/*", "original/*"]


@phase("looking up the files of the model")
def locate(spec: Mapping[str, Any]) -> Path:
    """The folder with the weights of a "hub", "path" or "gguf" backbone.

    Raises:
        UsageError: weight files that changed since the spec was made, a converted model that is not here, or a hub
            model that is not stored here and cannot be fetched.
    """
    if spec["kind"] == "gguf":
        return converted_model(spec)
    if spec["kind"] == "path":
        folder = Path(spec["path"])
        if weight_hashes(folder) != spec["weights"]:
            raise UsageError(
                f"the weights in {str(folder)!r} changed since the run was made: put the old files back, or start a "
                "new run"
            )
        return folder
    name, revision = str(spec["hub"]), spec.get("revision")
    if (stored := stored_here(name, revision)) is not None:
        return stored
    import huggingface_hub as hub
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    way_out = "download it elsewhere and give the folder's path instead of the name"
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UsageError(f"{name} is not stored on this machine and HF_HUB_OFFLINE is set: unset it, or {way_out}")
    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    if not _answers(endpoint):
        raise UsageError(f"{name} is not stored on this machine and the hub {endpoint} cannot be reached: {way_out}")
    try:
        folder = Path(
            hub.snapshot_download(
                name, revision=revision, allow_patterns=WANTED, ignore_patterns=UNWANTED, endpoint=endpoint
            )
        )
    except GatedRepoError:
        raise UsageError(
            f"{name} is gated: accept its licence on {endpoint}/{name} and log in with `hf auth login`, or {way_out}"
        ) from None
    except RepositoryNotFoundError:
        raise UsageError(
            f"{endpoint} has no model {name!r}: check the id's spelling, or give a folder's path"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise UsageError(
            f"{name} could not be fetched from {endpoint} ({type(error).__name__}): try again, or {way_out}"
        ) from error
    if not _complete(folder):
        raise UsageError(
            f"{name} has no config.json with *.safetensors and tokenizer.json: only such models are supported"
        )
    return folder


def stored_here(name: str, revision: str | None = None) -> Path | None:
    """The folder of a hub model that was fetched before, with all it takes to load it; None where there is none.

    Fetches nothing.
    """
    import huggingface_hub as hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(hub.snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, FileNotFoundError, ValueError):
        return None
    return folder if _complete(folder) else None


def _complete(folder: Path) -> bool:
    """Whether model and tokenizer can be loaded from the folder alone."""
    try:
        weight_files(folder)
    except UsageError:
        return False
    return (folder / CONFIG).is_file() and (folder / "tokenizer.json").is_file()


def _answers(endpoint: str) -> bool:
    """Whether the endpoint, or the proxy that leads to it, takes a connection.

    huggingface_hub itself retries for half a minute.
    """
    url = urlsplit(endpoint)
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and not urllib.request.proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme=url.scheme)
    try:
        with socket.create_connection(
            (url.hostname or "", url.port or (443 if url.scheme == "https" else 80)), timeout=WAIT
        ):
            return True
    except OSError:
        return False
