"""Grouped, weighted cross-entropy along the tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from rim_bench.engine.frozen_head import FrozenHeadLoss
from rim_bench.methods.layout import Layout

if TYPE_CHECKING:
    from rim_bench.engine.backbone import Backbone
    from rim_bench.engine.packing import PackedBatch


def group_counts(layouts: Sequence[Layout]) -> Counter[str]:
    """Labels per loss group over a whole optimizer step: the denominators, so that micro-batches add up exactly."""
    return Counter(label.group for layout in layouts for label in layout.labels)


def tree_loss(backbone: Backbone, columns: PackedBatch, counts: Mapping[str, int]) -> tuple[Tensor, dict[str, float]]:
    """Sum over groups of sum(weight * cross-entropy) / counts[group], and each group's share of it.

    Logits are computed at labelled columns only: a label is predicted from the column before it on its path.

    Raises:
        ValueError: a label that cannot be predicted (a marker), or no label at all.
    """
    source: list[int] = []
    target: list[int] = []
    scale: list[float] = []
    group: list[int] = []
    numbers: dict[str, int] = {}
    seen = columns.segment.shape[1]
    for r, layout in enumerate(columns.layouts):
        place = columns.place[r]
        for label in layout.labels:
            if not isinstance(label.target, int) or label.target >= backbone.vocabulary:
                raise ValueError(
                    f"label {label.target!r} of loss group {label.group!r} is not in the vocabulary: markers are "
                    "inputs only"
                )
            group.append(numbers.setdefault(label.group, len(numbers)))
            source.append(r * seen + place[label.source])
            target.append(label.target)
            scale.append(label.weight / counts[label.group])
    if not source:
        raise ValueError("a batch without a single label cannot be trained on")
    device = columns.segment.device
    hidden = columns.hidden.flatten(0, 1).index_select(0, torch.tensor(source, device=device))  # [labels, width]
    weighted = _weighted_losses(backbone, hidden, torch.tensor(target, device=device), scale)
    shares = weighted.new_zeros(len(numbers)).index_add(0, torch.tensor(group, device=device), weighted.detach())
    return weighted.sum(), dict(zip(numbers, shares.tolist(), strict=True))


def _weighted_losses(backbone: Backbone, hidden: Tensor, target: Tensor, scale: Sequence[float]) -> Tensor:
    """Cross-entropy of each label times its scale."""
    if (frozen := backbone.frozen_head) is not None:
        scales = torch.tensor(scale, device=target.device, dtype=torch.float32)
        with torch.autocast(target.device.type, enabled=False):
            out: Tensor = FrozenHeadLoss.apply(hidden, frozen, backbone.vocabulary, target, scales)
        return out
    loss = functional.cross_entropy(backbone.head(hidden), target, reduction="none")
    return loss * torch.tensor(scale, device=target.device, dtype=loss.dtype)
