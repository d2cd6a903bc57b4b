"""Tiny backbones whose FLOPs are counted: plain families, grouped-query attention, LoRA; both attention kernels."""

from __future__ import annotations

import copy
from functools import cache

import pytest
from engine import FAMILIES, KERNELS, METHODS, model
from transformers import AutoConfig, AutoModelForCausalLM

from rim_bench.compute.flops import Shape
from rim_bench.engine import lora
from rim_bench.engine.backbone import Backbone

RANK = 4
PLAIN = tuple((family, kernel) for family in FAMILIES for kernel in KERNELS)
VARIANTS = (*PLAIN, ("grouped", "sdpa"), ("grouped", "eager"), ("lora-llama", "sdpa"), ("lora-gpt2", "sdpa"))
variants = pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
methods = pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.name}-{m.settings()}")
families = pytest.mark.parametrize("family", FAMILIES)


@cache
def backbone_of(variant: tuple[str, str]) -> tuple[Backbone, Shape]:
    """A tiny backbone with every method's markers, and its shape:
    the plain families, grouped-query attention, unmerged LoRA.
    """
    family, kernel = variant
    if family in FAMILIES:
        backbone = model(family, kernel)
        return backbone, Shape.of(backbone.causal.config.to_dict())
    backbone = copy.deepcopy(model("tiny-gpt2" if family == "lora-gpt2" else "tiny", kernel))
    if family != "lora-gpt2":  # two heads share a key, and a head is wider than its share of the width
        config = AutoConfig.for_model(**backbone.causal.config.to_dict() | {"num_key_value_heads": 2, "head_dim": 12})
        hf = AutoModelForCausalLM.from_config(config, attn_implementation=kernel)
        backbone = Backbone(backbone.spec, hf, backbone.codec, backbone.markers, "cpu")
    if family.startswith("lora"):
        backbone.model = lora.wrap(backbone.model, {"lora_rank": RANK, "lora_alpha": 8}, backbone.markers, 0).eval()
    return backbone, Shape.of(backbone.causal.config.to_dict(), RANK if family.startswith("lora") else 0)
