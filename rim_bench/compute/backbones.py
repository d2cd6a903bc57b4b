"""Which backbones there are, what a name on the command line stands for, and the configuration behind it.

Imports no torch.
"""

from __future__ import annotations

import hashlib
import math
import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from rim_bench.util.errors import UsageError, unknown
from rim_bench.util.files import read_json

FAMILIES = ("gpt2", "llama", "qwen2", "qwen3")
"""Values of a model's `model_type` that the engine runs."""
MOST = 10_000_000  # of a number of a backbone, and 100,000 times as many parameters
LORA = {"lora_rank": 128, "lora_alpha": 32}
BYTES = 257  # smallest byte-level vocabulary: every byte and the end token
SHAPE: dict[str, Any] = {"max_positions": 1024, "tied": False, "embedding_std": None, "dropout": 0.0}
NUMBERS = ("layers", "width", "heads", "intermediate", "vocabulary", "max_positions")

GPT2_SIZES = {
    "n_layer": "layers",
    "n_embd": "width",
    "n_head": "heads",
    "n_inner": "intermediate",
    "n_positions": "max_positions",
}
LLAMA_SIZES = {
    "num_hidden_layers": "layers",
    "hidden_size": "width",
    "num_attention_heads": "heads",
    "num_key_value_heads": "heads",
    "intermediate_size": "intermediate",
    "max_position_embeddings": "max_positions",
}
"""Sizes as a configuration of Hugging Face calls them -> as a from-scratch specification does."""


def entries() -> dict[str, dict[str, Any]]:
    """Name -> entry of `models/backbones.toml`."""
    return tomllib.loads((files("rim_bench") / "models" / "backbones.toml").read_text("utf-8"))


def gguf_entries() -> dict[str, dict[str, Any]]:
    """Name -> package, file in it and sha256 of the entries whose weights come as a GGUF file in a package."""
    return {name: entry["gguf"] for name, entry in entries().items() if "gguf" in entry}


def backbone_names() -> dict[str, str]:
    """Name -> one line about it."""
    return {name: str(entry["summary"]) for name, entry in entries().items()}


def resolve_backbone(name: str, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What `name` stands for, as plain data that a run records and `Backbone.create` builds from.

    `name` is an entry of `models/backbones.toml`, a folder with a saved Hugging Face model, a GGUF file, or a hub id
    `org/name`. `settings` override an entry's shape (`layers`, `width`, `heads`, `intermediate`, `vocabulary`,
    `max_positions`, `tied`, `embedding_std`, `dropout`) or, on pretrained weights, `tuning` ("lora", the default, or
    "full"), `lora_rank`, `lora_alpha` and `revision` (hub only).

    Returns:
        `kind` "scratch" | "hub" | "path" | "gguf", `name`, `tuning`, and all numbers of that kind; "path" carries the
        sha256 of every weight file and "gguf" that of the file, so that a changed base is another backbone.

    Raises:
        UsageError: a name that is none of these, or settings that do not fit, all of them together.
    """
    chosen = {k: v for k, v in (settings or {}).items() if v is not None}
    known = entries()
    if name in known and not {"hub", "gguf"} & set(known[name]):
        return _scratch(name, known[name], chosen)
    if name in known and "gguf" in known[name]:
        spec: dict[str, Any] = {"name": name, "kind": "gguf", "gguf": known[name]["gguf"]["sha256"]}
    elif name in known:
        spec = {"name": name, "kind": "hub", "hub": known[name]["hub"], "revision": None}
    elif (folder := Path(name).expanduser()).suffix == ".gguf" and not folder.is_dir():
        sha256 = gguf_sha256(folder)
        same = (entry for entry, gguf in gguf_entries().items() if gguf["sha256"] == sha256)
        spec = {"name": next(same, folder.stem), "kind": "gguf", "gguf": sha256}
    elif folder.is_dir() or name.startswith((".", "/", "~")):
        spec = {
            "name": folder.resolve().name,
            "kind": "path",
            "path": str(folder.resolve()),
            "weights": weight_hashes(folder),
        }
    elif re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        spec = {"name": name.split("/")[1], "kind": "hub", "hub": name, "revision": None}
    else:
        raise UsageError(
            f"{unknown('backbone', name, known)}; a model folder, a file FILE.gguf or a hub id org/name is allowed too"
        )
    return _pretrained(spec, chosen)


def configuration(name: str) -> dict[str, Any]:
    """The Hugging Face configuration of a backbone as far as its cost depends on it; no weights, no hub.

    `name` is an entry of `models/backbones.toml` (its hub id will do), a folder with a `config.json`, or such a file.

    Raises:
        UsageError: a name that is none of these, or a file that is no configuration.
    """
    known = entries()
    by_hub = {str(entry["hub"]).lower(): key for key, entry in known.items() if "hub" in entry}
    key = by_hub.get(name.lower(), name)
    if key in known and "config" in known[key]:
        return dict(known[key]["config"])
    if key in known and "hub" not in known[key]:
        spec = resolve_backbone(key)
        shape = {"model_type": spec["family"], "vocab_size": spec["vocabulary"], "tie_word_embeddings": spec["tied"]}
        if spec["family"] != "gpt2":
            shape["head_dim"] = spec["width"] // spec["heads"]
        sizes = GPT2_SIZES if spec["family"] == "gpt2" else LLAMA_SIZES
        return shape | {theirs: spec[ours] for theirs, ours in sizes.items()}
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        raise UsageError(
            f"{name!r} is a GGUF file: give the folder that it is converted to, which `rim-bench models fetch {name}` "
            "prints"
        )
    if path.is_dir() or path.suffix == ".json" or name.startswith((".", "/", "~")):
        if not path.exists():
            raise UsageError(
                f"model {name!r} does not exist: give a model's folder, a config.json, or an entry of `rim-bench list "
                "models`"
            )
        config = read_json(path / "config.json" if path.is_dir() else path)
        if not isinstance(config.get("model_type"), str):
            raise UsageError(f"{name!r} is not a model's configuration: it has no model_type, such as 'llama'")
        return config
    if key in known:
        raise UsageError(
            f"backbone {key!r} has no config table in models/backbones.toml: give the model's folder or its config.json"
        )
    allowed = [str(entry["hub"]) for entry in known.values() if "hub" in entry] if "/" in name else list(known)
    raise UsageError(f"{unknown('model', name, allowed)}; a model folder or a config.json is allowed too")


def gguf_sha256(path: Path) -> str:
    """The sha256 of a GGUF file. Raises UsageError for one that is not there or none."""
    try:
        with path.expanduser().open("rb") as file:
            if file.read(4) != b"GGUF":
                raise UsageError(f"{str(path)!r} is no GGUF file: it does not begin with GGUF")
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"the GGUF file {str(path)!r} cannot be read: {error.strerror}") from None


def weight_hashes(folder: Path) -> dict[str, str]:
    """Weight file -> sha256 of a folder that `save_pretrained` wrote."""
    if not folder.is_dir():
        raise UsageError(f"backbone folder {str(folder)!r} does not exist")
    paths = sorted(folder.glob("*.safetensors"))
    if not paths or not (folder / "config.json").is_file():
        raise UsageError(
            f"folder {str(folder)!r} holds no model: config.json and *.safetensors are needed, as save_pretrained "
            "writes them"
        )
    out = {}
    for path in paths:
        if path.exists() and not path.is_file():
            raise UsageError(f"{str(path)!r} cannot be read: it is no file")
        try:
            with path.open("rb") as file:
                out[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UsageError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    return out


def _pretrained(spec: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    allowed = ["tuning", *LORA, *(["revision"] if spec["kind"] == "hub" else [])]
    if bad := [key for key in settings if key not in allowed]:
        raise UsageError(
            f"{', '.join(sorted(bad))} cannot be set on the pretrained backbone {spec['name']!r}: allowed are "
            f"{', '.join(allowed)}"
        )
    tuning = settings.get("tuning", "lora")
    if tuning not in ("lora", "full"):
        raise unknown("tuning", str(tuning), ("lora", "full"))
    spec["tuning"] = tuning
    if "revision" in settings:
        spec["revision"] = str(settings["revision"])
    for key, default in LORA.items():
        if tuning == "lora":
            spec[key] = _positive(key, settings.get(key, default))
        elif key in settings:
            raise UsageError(
                f"{key} = {settings[key]} has no meaning with tuning = full: leave it out, or set tuning = lora"
            )
    return spec


def _scratch(name: str, entry: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    if settings.get("tuning", "full") != "full" or any(key in settings for key in LORA):
        raise UsageError(
            f"backbone {name!r} starts from random weights, so all of it trains: LoRA needs a pretrained backbone"
        )
    shape = {**SHAPE, **{k: v for k, v in entry.items() if k != "summary"}}
    allowed = sorted({*shape, "intermediate"})
    problems = [
        str(unknown(f"setting of backbone {name!r}", k, allowed)) for k in settings if k not in (*allowed, "tuning")
    ]
    if problems:
        raise UsageError("; ".join(problems))
    shape |= {k: v for k, v in settings.items() if k != "tuning"}
    shape.setdefault("intermediate", 4 * _positive("width", shape["width"]))
    if shape["family"] not in FAMILIES:
        raise unknown("family", str(shape["family"]), FAMILIES)
    for key in NUMBERS:
        shape[key] = _positive(key, shape[key])
    if shape["width"] % (2 * shape["heads"]):
        raise UsageError(f"width = {shape['width']} cannot be split into {shape['heads']} heads of an even size")
    if shape["vocabulary"] < BYTES:
        raise UsageError(
            f"vocabulary = {shape['vocabulary']} is too small: a byte-level vocabulary needs at least {BYTES}"
        )
    for key, wanted, fits in (
        ("dropout", "a number in [0, 1)", lambda v: _number(v) and 0 <= v < 1),
        ("embedding_std", "a number above 0", lambda v: v is None or (_number(v) and 0 < v < math.inf)),
        ("tied", "true or false", lambda v: isinstance(v, bool)),
    ):
        if not fits(shape[key]):
            raise UsageError(f"{key} = {shape[key]} is not {wanted}")
    square, rows = shape["width"] * (4 * shape["width"] + 3 * shape["intermediate"]), shape["vocabulary"]
    parameters = shape["layers"] * square + (rows + shape["max_positions"]) * shape["width"]
    if parameters > 100_000 * MOST:
        raise UsageError(f"backbone {name!r} would have about {parameters:.1e} parameters: give smaller numbers")
    return {"name": name, "kind": "scratch", **shape, "tuning": "full"}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _positive(key: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = 0
    if not 1 <= number <= MOST:
        raise UsageError(f"{key} = {value!r} is not a whole number of at least 1, and at most {MOST:,}")
    return number
