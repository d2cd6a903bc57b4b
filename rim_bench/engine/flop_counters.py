"""What layouts cost by torch's and by fvcore's counter, beside the closed forms; on tensors without storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rim_bench.compute import flops, training_flops
from rim_bench.compute.backbones import FAMILIES, configuration
from rim_bench.compute.cost import (
    Lengths,
    asked_tokens,
    chosen_methods,
    generation,
    shape_of,
    stages_of,
    training_layouts,
    trains_of,
)
from rim_bench.compute.flops import Shape
from rim_bench.engine import lora
from rim_bench.engine.attention import attend
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.markers import train_markers_only
from rim_bench.engine.packing import PackedModel, make_room
from rim_bench.engine.pretrained import quiet
from rim_bench.methods.layout import Layout
from rim_bench.methods.method import Method
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record
from rim_bench.util.progress import phase
from rim_bench.util.table import Panel, Section, Table

NORMS: Final = ("layer_norm",)
"""Operators that fvcore counts and the convention here does not: GPT-2's layer norms, 5 FLOPs an entry."""
MOST_STEPS: Final = 3  # cached steps of an answer that are counted
NO_STORAGE: Final = "rim_bench_meta"


def _attention(q: list[int], k: list[int], v: list[int], *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """FLOPs of scaled dot product attention; shapes [rows, heads, columns, head_dim]."""
    return 2 * q[0] * q[1] * q[2] * k[-2] * (q[-1] + v[-1])


OPERATORS: Final[Mapping[Any, Any]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    # scores once more, then the gradients of all four
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *args, **kwargs: (
        2 * q[0] * q[1] * q[2] * k[-2] * (3 * q[-1] + 2 * v[-1])
    ),
}
"""Attention's operators on CPU, which torch's counter does not know, and their FLOPs."""


def torch_flops(run: Callable[[], object], operators: Mapping[Any, Any] = OPERATORS) -> int:
    """FLOPs that torch's FlopCounterMode sees while `run` runs."""
    with FlopCounterMode(display=False, custom_mapping=dict(operators)) as counter:
        run()
    return int(counter.get_total_flops())


class _Traced(nn.Module):
    """A function of a model's parameters as fvcore wants it; the input only gives the trace something to start from."""

    def __init__(self, model: nn.Module, run: Callable[[], Tensor]) -> None:
        super().__init__()
        self.model, self.run = model, run

    def forward(self, zero: Tensor) -> Tensor:
        return zero + self.run()


def fvcore_counts(model: nn.Module, run: Callable[[], Tensor], *, attention: bool = True) -> dict[str, int]:
    """Operator -> what fvcore counts while `run` runs: multiply-accumulates, but FLOPs for layer norms.

    Args:
        model: whose parameters `run` uses.
        attention: give fvcore attention's formula; by itself it passes the operator over.
    """
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import get_shape

    def macs(inputs: list[Any], outputs: list[Any]) -> int:
        q, k, v = (get_shape(value) for value in inputs[:3])
        return _attention(q, k, v) // 2

    zero = torch.zeros((), device=next(model.parameters()).device)
    analysis = FlopCountAnalysis(_Traced(model, run), zero)
    if attention:
        analysis.set_op_handle("aten::scaled_dot_product_attention", macs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    return {name: int(n) for name, n in analysis.by_operator().items()}


@dataclass(frozen=True, slots=True)
class Count:
    """One part of a method's cost, three times; FLOPs, summed over the part's layouts."""

    method: str
    part: str
    layouts: int
    price: int  # visible keys, no padding: what `rim-bench cost` prices
    closed_form: int  # every key of a packed row, masked or not: what runs, and what a counter sees
    torch: int
    fvcore: int | None  # twice its multiply-accumulates, without norms; None: it traces no backward pass
    fvcore_norms: int | None  # what it counts for norms beside them

    @property
    def agrees(self) -> bool:
        """Whether the closed form is what the counters count, to the digit."""
        return self.torch == self.closed_form and self.fvcore in (None, self.closed_form)


@dataclass(frozen=True, slots=True)
class Counts:
    """Closed forms and counters of several methods on one model."""

    model: str
    shape: Shape
    counts: tuple[Count, ...]

    @property
    def differing(self) -> tuple[Count, ...]:
        """The parts where a counter and the closed form differ."""
        return tuple(count for count in self.counts if not count.agrees)

    def data(self) -> Record:
        """All of it as plain data."""
        records = [{"model": self.model} | asdict(count) | {"agrees": count.agrees} for count in self.counts]
        return {"schema": 1, "shape": asdict(self.shape), "counts": records}

    def table(self) -> Table:
        """The three numbers side by side."""
        rows = tuple(
            (c.method, c.part, f"{c.closed_form:,}", f"{c.torch:,}", "-" if c.fvcore is None else f"{c.fvcore:,}")
            for c in self.counts
        )
        norms = sum(c.fvcore_norms or 0 for c in self.counts)
        notes = (
            "Closed form: matrix products over every key of a packed row, masked ones too, because that is what runs. "
            "The price list has the visible keys alone.",
            "torch: FlopCounterMode, on the engine's own passes, without weights in memory.",
            "fvcore: twice its multiply-accumulates. It traces no backward pass, and it has attention's formula from "
            "here: by itself it passes that operator over. Left out are its layer norms, which the convention here "
            f"does not count: {f'{norms:,} FLOPs, 5 an entry' if norms else 'this model has none that it counts'}.",
            *(f"{c.method}, {c.part}: the numbers differ." for c in self.differing),
        )
        panel = Panel("FLOPs", ("method", "part", "closed form", "torch", "fvcore"), rows)
        records = tuple(self.data()["counts"])
        title = "every number agrees" if not self.differing else f"{len(self.differing)} of {len(rows)} parts differ"
        return Table(
            f"What counters count on {self.model}",
            False,
            (Section(title, (panel,), notes),),
            records,
            tuple(records[0]),
        )


class _NoText:
    """Stands where a tokenizer would: an example's ids are given, and no text is read."""

    def __init__(self, size: int, end: int = 0) -> None:
        self.size, self.end = size, end


@phase("counting FLOPs")
def count_methods(
    methods: Sequence[str],
    model: str,
    lengths: Lengths,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    rank: int = 0,
) -> Counts:
    """What methods cost on a model by the closed forms and by both counters; arguments as in `cost.price_list`.

    A method's prompt with up to three cached steps, and every training layout that its curriculum has.

    Raises:
        UsageError: as `price_list`, and for a model that the engine does not run.
    """
    if rank < 0:
        raise UsageError(f"--lora-rank {rank} is negative: give 0 (no LoRA) or more")
    chosen = chosen_methods(methods, settings or {})
    config = configuration(model)
    shape = Shape.of(config, rank)
    if config["model_type"] not in FAMILIES:
        raise UsageError(
            f"a model of type {config['model_type']!r} cannot be counted, only priced: the engine runs "
            f"{', '.join(FAMILIES)}"
        )
    counts = (count for method, label in chosen for count in _count_method(method, label, config, shape, lengths))
    return Counts(model, shape, tuple(counts))


def _count_method(
    method: Method, label: str, config: Mapping[str, Any], plain: Shape, lengths: Lengths
) -> tuple[Count, ...]:
    """The parts of a method: its prompt with cached steps, training forward, training forward and backward."""
    example, shape, trains = lengths.example(), shape_of(method, plain), trains_of(method, plain)
    try:
        prompt = method.lay_prompt(asked_tokens(method, example))
        steps = min(generation(method, prompt, example)[0] - 1, MOST_STEPS)
        stages = () if method.trains == "nothing" else stages_of(method)
        every = [row for stage in stages for row in training_layouts(method, stage, example)]
    except ValueError as error:
        raise UsageError(f"{method.name} has no layout for this example: {error}") from error
    # loss weights cost nothing: layouts that differ in them alone are counted once
    rows = list(
        dict.fromkeys(
            Layout(tuple(replace(s, weight=float(bool(s.weight))) for s in row.segments), row.resume, row.blind)
            for row in every
        )
    )
    ids = max(prompt.size, len(example.question)) + len(example.chain) + len(example.answer)
    packed = _without_storage(method, config, shape, ids, max(row.depth for row in (prompt, *rows)) + steps)
    apart = nn.ParameterList(p for _, p in packed.backbone.parameters_to_train())  # new rows may train beside the model
    model = nn.ModuleList([packed.backbone.model, packed.bridges, apart])

    @torch.no_grad()
    def answer() -> Tensor:
        """A sum over the logits of the prompt's (one) place to resume from and of the cached steps after it."""
        (name,) = prompt.resume
        last = prompt.last(prompt.index[name])
        (part,) = packed.prefill([prompt])
        total = packed.backbone.head(part.hidden[:, part.at(0, last)]).sum()
        make_room(part, [prompt], [[prompt.continuation("generated", name, (0,))]])
        for step in range(steps):
            place = (0, len(prompt.segments), prompt.size + step, prompt.position[last] + 1 + step)
            new = (torch.tensor([[n]], device=packed.backbone.device) for n in place)
            total = total + packed.backbone.head(packed.extend([part], *new)).sum()
        return total

    by_operator = fvcore_counts(model, answer)
    norms = sum(by_operator.get(name, 0) for name in NORMS)
    asked = Count(
        method=label,
        part=f"prompt, {steps} cached steps",
        layouts=1,
        price=flops.prefill_flops(shape, prompt) + flops.decode_flops(shape, prompt, steps + 1),
        closed_form=flops.executed_prefill(shape, [prompt]) + flops.executed_decode(shape, prompt, steps + 1),
        torch=torch_flops(answer),
        fvcore=2 * (sum(by_operator.values()) - norms),
        fvcore_norms=norms,
    )
    forward = Count(label, "training, forward", len(rows), 0, 0, 0, 0, 0)
    both = Count(label, "training, forward and backward", len(rows), 0, 0, 0, None, None)
    for row in rows:

        def run(row: Layout = row) -> Tensor:
            """A sum over the logits of the labelled columns, from which gradients run back."""
            columns = packed.forward([row])
            labelled = [columns.at(0, label.source) for label in row.labels]
            return packed.backbone.head(columns.hidden[0, labelled]).sum()

        by_operator = fvcore_counts(model, run)
        norms = sum(by_operator.get(name, 0) for name in NORMS)
        forward = replace(
            forward,
            price=forward.price + flops.training_flops(shape, row),
            closed_form=forward.closed_form + flops.executed_training(shape, [row]),
            torch=forward.torch + torch_flops(run),
            fvcore=(forward.fvcore or 0) + 2 * (sum(by_operator.values()) - norms),
            fvcore_norms=(forward.fvcore_norms or 0) + norms,
        )
        both = replace(
            both,
            price=both.price + training_flops.training_cost(shape, trains, row),
            closed_form=both.closed_form + training_flops.executed_cost(shape, trains, [row]),
            torch=both.torch + torch_flops(lambda run=run: run().backward()),  # type: ignore[misc]
        )
    return (asked, forward, both) if rows else (asked,)


def _without_storage(method: Method, config: Mapping[str, Any], shape: Shape, ids: int, depth: int) -> PackedModel:
    """The model of a configuration for a method's layouts, on meta tensors: shapes without numbers.

    Args:
        ids, depth: token ids and positions that it must have at least: how many there are changes no cost.
    """
    from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NO_STORAGE, attend)
    AttentionMaskInterface.register(NO_STORAGE, lambda *args, **kwargs: None)  # Hugging Face's own reads the mask
    positions = "n_positions" if config["model_type"] == "gpt2" else "max_position_embeddings"
    sizes = {**config, positions: max(int(config.get(positions) or 0), depth)}
    names = [marker.name for marker in method.markers()]
    vocabulary = max(shape.vocabulary, ids)
    markers = {name: vocabulary + i for i, name in enumerate(names)}
    with quiet(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**sizes), attn_implementation=NO_STORAGE, dtype=torch.float32
        )
        if shape.rank:
            model = lora.wrap(model, {"lora_rank": shape.rank, "lora_alpha": shape.rank}, markers, 0)
        bridges = method.bridges(shape.width)
    codec: Any = _NoText(vocabulary)
    backbone = Backbone({"lora_rank": shape.rank}, model, codec, markers, "meta")
    if method.trains == "markers":
        train_markers_only(backbone)
    return PackedModel(backbone, bridges)
