"""The embedding rows of a backbone's markers: tokens that a method adds to the vocabulary, inputs only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from rim_bench.engine import lora
from rim_bench.methods.method import Marker
from rim_bench.util.errors import UsageError

if TYPE_CHECKING:
    from rim_bench.engine.backbone import Backbone


def marker_rows(backbone: Backbone) -> nn.Parameter | None:
    """The markers' own rows [markers, width], under LoRA or where only they train; None: they lie in the table."""
    return backbone.rows_apart if backbone.rows_apart is not None else _adapter_rows(backbone)


def _adapter_rows(backbone: Backbone) -> nn.Parameter | None:
    """The rows that peft trains beside the table."""
    adapter = getattr(backbone.causal.get_input_embeddings(), "token_adapter", None)
    return None if adapter is None else adapter.trainable_tokens_delta[lora.ADAPTER]


def add_markers(backbone: Backbone, markers: Iterable[Marker], seed: int) -> None:
    """Adds the markers that the backbone does not have yet; existing ones keep their ids and rows.

    A row starts as a draw from N(mean row, standard deviation of each dimension) over the vocabulary's rows, different
    for every name and seed and independent of torch's own random state; with `like`, as a copy of that token's row.
    Under LoRA the adapter is taken off, the rows are added, and the adapter is put back with its values: parameters are
    new objects afterwards, so make optimizers later.
    """
    fresh = [m for m in {m.name: m for m in markers}.values() if m.name not in backbone.markers]
    if not fresh:
        return
    if backbone.rows_apart is not None:
        raise ValueError("markers must be added before only they train")
    adapter, training = None, backbone.model.training
    backbone.restore_frozen()  # rows that train must not be rounded on the way
    if hasattr(backbone.model, "peft_config"):
        rows, adapter = marker_rows(backbone), lora.layers(backbone.model)
        backbone.model = backbone.model.unload()
        if rows is not None:
            backbone.table("input").weight.data[backbone.vocabulary : backbone.vocabulary + len(rows)] = rows.detach()
    size = backbone.vocabulary + len(backbone.markers) + len(fresh)
    table = backbone.table("input")
    if size > table.weight.shape[0]:
        with torch.random.fork_rng():  # HF draws rows of its own first
            backbone.model.resize_token_embeddings(size, mean_resizing=False)
        table, head = backbone.table("input"), backbone.table("output")
        if head.weight is not table.weight:
            head.weight.data[size - len(fresh) :] = 0.0  # never read: markers are not predicted
    old = table.weight.data[: backbone.vocabulary].float().cpu()
    mean, spread = old.mean(0), old.std(0)
    for marker in fresh:
        number = backbone.vocabulary + len(backbone.markers)
        backbone.markers[marker.name] = number
        if marker.like is not None:
            ids = backbone.encode(marker.like)
            row = old[ids[0]] if len(ids) == 1 else mean
        else:
            digest = hashlib.sha256(f"{seed}/{marker.name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            row = mean + spread * torch.randn(mean.shape, generator=generator)
        table.weight.data[number] = row.to(table.weight)
    if adapter is not None:
        backbone.model = lora.wrap(backbone.model, backbone.spec, backbone.markers, seed)
        lora.assign(backbone.model, adapter)
        backbone.model.train(training)
        backbone.store_frozen()


def train_markers_only(backbone: Backbone) -> None:
    """Freezes everything but the markers' rows, which train beside the model; what is saved has them in their places.

    Raises:
        UsageError: a backbone without markers.
    """
    if not backbone.markers:
        raise UsageError("nothing is left to train: only the markers' rows are to, and the backbone has no markers")
    rows, first = marker_rows(backbone), backbone.vocabulary
    start = backbone.table("input").weight[first : first + len(backbone.markers)] if rows is None else rows
    backbone.rows_apart = nn.Parameter(start.detach().clone())
    for p in backbone.model.parameters():
        p.requires_grad_(False)


def write_rows(backbone: Backbone) -> None:
    """Writes rows that train apart into the model."""
    if backbone.rows_apart is not None:
        rows = _adapter_rows(backbone)
        table, first = (backbone.table("input").weight, backbone.vocabulary) if rows is None else (rows, 0)
        table.data[first : first + len(backbone.markers)] = backbone.rows_apart.detach()
