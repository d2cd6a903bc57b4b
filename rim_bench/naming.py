"""Records as words: backbones, hashes, nested settings. Knows nothing of runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def backbone_label(backbone: Any) -> str:
    """A backbone record as words: its name, then what else it says."""
    if not isinstance(backbone, Mapping):
        return str(backbone)
    rest = [(k, str(v)) for k, v in sorted(leaves(backbone).items()) if k != "name" and v is not None]
    words = [f"{k}={short(v)}" for k, v in rest]
    return str(backbone.get("name", "backbone")) + (f" ({', '.join(words)})" if words else "")


def backbone_short(backbone: Any) -> str:
    """Name, family, size and tuning of a backbone record; what else it says is in `backbone_label`."""
    if not isinstance(backbone, Mapping):
        return str(backbone)
    kind, tuning = backbone.get("kind"), backbone.get("tuning")
    layers, width, vocabulary = (backbone.get(k) for k in ("layers", "width", "vocabulary"))
    words = [
        backbone.get("family"),
        backbone.get("hub"),
        layers and f"{layers} layers" + (f" x {width}" if width else ""),
        vocabulary and f"vocabulary {vocabulary}",
        "from scratch" if kind == "scratch" else kind and "pretrained",
    ]
    if kind != "scratch":
        words.append(f"LoRA rank {backbone.get('lora_rank')}" if tuning == "lora" else tuning and f"{tuning} tuning")
    told = ", ".join(str(w) for w in words if w)
    return str(backbone.get("name", "backbone")) + (f": {told}" if told else "")


def short(value: Any) -> str:
    """A value as text, hashes cut to 12 digits."""
    return str(value)[:12] if re.fullmatch("[0-9a-f]{40,}", str(value)) else str(value)


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {k: v for name, inner in value.items() for k, v in leaves(inner, f"{prefix}.{name}" if prefix else str(name)).items()}
