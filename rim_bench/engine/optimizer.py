"""The optimizer of everything that trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from rim_bench.methods.schedule import TrainingPlan

if TYPE_CHECKING:
    from rim_bench.engine.backbone import Backbone


def trained_parameters(backbone: Backbone, bridges: nn.ModuleDict) -> list[tuple[str, nn.Parameter]]:
    """Name and parameter of everything that trains, in a fixed order."""
    return [*backbone.parameters_to_train(), *((f"bridges.{name}", p) for name, p in bridges.named_parameters())]


def optimizer_of(backbone: Backbone, bridges: nn.ModuleDict, plan: TrainingPlan) -> torch.optim.AdamW:
    """A fresh optimizer of everything that trains."""
    groups = backbone.parameter_groups(plan.weight_decay)
    if extra := list(bridges.parameters()):
        groups.append({"params": extra, "weight_decay": plan.weight_decay})
    return torch.optim.AdamW(groups, lr=plan.lr, betas=(plan.beta1, plan.beta2), fused=True)
