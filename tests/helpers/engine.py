"""What the equivalence tests share: tiny models, the rows they run on, and a plain reference to compare with."""

from __future__ import annotations

import random
from functools import cache

import torch
from conftest import encoded
from torch import Tensor

from rim_bench.baselines.coconut import Coconut
from rim_bench.baselines.cot import ChainOfThought
from rim_bench.baselines.direct import Direct
from rim_bench.baselines.pause import Pause
from rim_bench.compute.backbones import resolve_backbone
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.flop_counters import torch_flops
from rim_bench.engine.losses import group_counts, tree_loss
from rim_bench.engine.packing import PackedBatch, PackedModel
from rim_bench.methods.layout import Layout
from rim_bench.methods.method import Method
from rim_bench.models.rim import Rim

FAMILIES = ("tiny", "tiny-gpt2", "tiny-qwen")
KERNELS = ("sdpa", "eager")
METHODS: tuple[Method, ...] = (
    Direct(),
    ChainOfThought(),
    Pause(N=3),
    Coconut(c=2, latent_stages=2),
    Rim(K=3),
    Rim(K=3, M=1, readout_sees_question=False),
    Rim(K=3, blocks="isolated"),
    Rim(K=3, block_attention="mutual"),
)
EXAMPLES = (
    encoded(7, (3, 4, 2)),
    encoded(4, (5,), shift=30),
    encoded(9, (2, 2, 3, 1), answer=3, shift=60),
    encoded(5, (), shift=90),
)


@cache
def model(family: str, kernel: str = "sdpa") -> Backbone:
    """A random model of two layers with every marker of the methods above, in float32 as it ships.

    The layers' weights are enlarged: at their usual start a layer hardly changes its input, and a wrong mask would
    hardly show.
    """
    markers = tuple({m.name: m for method in METHODS for m in method.markers()}.values())
    spec = resolve_backbone(family, {"layers": 2, "width": 32, "heads": 4, "vocabulary": 300, "max_positions": 128})
    backbone = Backbone.create(
        spec, texts=["some text 1 2 3 to count to"] * 3, markers=markers, seed=1, attention=kernel
    )
    with torch.no_grad():
        for name, p in backbone.model.named_parameters():
            if p.ndim > 1 and "embed" not in name and "wte" not in name and "wpe" not in name and "lm_head" not in name:
                p.mul_(5.0)
    backbone.model.eval()
    return backbone


def training_rows(method: Method, progress: float = 0.2) -> list[Layout]:
    """The layouts of every stage of a method on all examples."""
    return [method.lay_train(e, stage, progress, random.Random(0)) for stage in method.stages() for e in EXAMPLES]


def all_rows() -> list[Layout]:
    """One ragged batch with every method, stage and example in it."""
    return [row for method in METHODS for row in training_rows(method)]


def loss_of(backbone: Backbone, batch: list[Layout]) -> Tensor:
    """The training loss of a batch."""
    return tree_loss(backbone, PackedModel(backbone).forward(batch), group_counts(batch))[0]


def counted(backbone: Backbone, batch: list[Layout]) -> int:
    """FLOPs of a batch's loss and its gradients, by torch's counter."""

    def work() -> None:
        loss_of(backbone, batch).backward()

    backbone.model.zero_grad(set_to_none=True)
    out = torch_flops(work)
    backbone.model.zero_grad(set_to_none=True)
    return out


def reference(backbone: Backbone, row: Layout, segment: str) -> Tensor:
    """Logits [columns, vocabulary] of one root-to-leaf path, by Hugging Face's own forward and nothing of the engine.

    One uncached, unpadded, unmasked pass of the plain causal model for each latent slot, whose input is the last hidden
    state before it. A path with blind segments is run with the question's keys removed by an explicit mask.
    """
    path = row.along(segment)
    model_ = backbone.model
    table = model_.get_input_embeddings().weight
    inputs: list[Tensor] = []
    for token in path.tokens:
        if token is None:
            hidden = _plain(backbone, torch.stack(inputs), path)
            inputs.append(hidden[-1])
        else:
            inputs.append(table[backbone.markers[token] if isinstance(token, str) else token])
    hidden = _plain(backbone, torch.stack(inputs), path)
    return model_.get_output_embeddings()(hidden)[:, : backbone.vocabulary]


def _plain(backbone: Backbone, inputs: Tensor, path: Layout) -> Tensor:
    size = inputs.shape[0]
    allowed = torch.ones(size, size).tril().bool()
    for i, s in enumerate(path.segments):
        if s.mutual:
            allowed[path.first[i] : path.last(i) + 1, path.first[i] : path.last(i) + 1] = True
        for name in s.blind:
            k = path.index[name]
            allowed[path.first[i] : path.first[i] + s.size, path.first[k] : path.first[k] + path.segments[k].size] = (
                False
            )
    mask = torch.zeros(1, 1, size, size).masked_fill(~allowed[:size, :size], torch.finfo(torch.float32).min)
    out = backbone.model.base_model(
        inputs_embeds=inputs[None], attention_mask=mask, position_ids=torch.arange(size)[None], use_cache=False
    )
    return out.last_hidden_state[0]


def engine_logits(backbone: Backbone, columns: PackedBatch, row: int, segment: str) -> Tensor:
    """The engine's logits along the same path, [columns, vocabulary]."""
    layout = columns.layouts[row]
    picked = []
    for name in layout.path(segment):
        i = layout.index[name]
        picked += [columns.at(row, c) for c in range(layout.first[i], layout.first[i] + layout.segments[i].size)]
    return backbone.head(columns.hidden[row, picked])


def workspace(family: str, kernel: str = "sdpa") -> PackedModel:
    return PackedModel(model(family, kernel))


def methods_ids(method: Method) -> str:
    """A short id for parametrized tests."""
    changed = [f"{k}={v}" for k, v in method.settings().items() if getattr(type(method)(), k) != v]
    return "-".join([method.name, *changed])
