"""What training on a layout costs, forward and backward, by what trains; counted as in `flops`. No torch.

Backward is never a blanket multiple of forward. A matrix product out = x W has two gradients: that of x, which is
multiplied where anything before it trains, and that of W, where W trains. Attention has two products and so four
gradients, and a fused kernel multiplies queries and keys once more. So full training costs three times its forward
pass, and LoRA, a frozen body, a first layer with nothing to train before it, a fused kernel and gradient checkpointing
each cost something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rim_bench.compute.flops import Shape, bridge_flops, executed_passes
from rim_bench.methods.layout import Layout


@dataclass(frozen=True, slots=True)
class Trains:
    """What of a model trains. `adapters` says nothing where `Shape.rank` is 0: there are none."""

    matrices: bool  # the layers' own weights
    head: bool  # the output table
    inputs: bool  # rows of the input table: gradients then reach the input of the first layer
    fused: bool = False  # the attention kernel multiplies queries and keys again in backward (flash, memory-efficient)
    checkpointing: bool = (
        False  # every layer runs again in backward, up to its last product, whose result is not needed
    )
    adapters: bool = True  # the LoRA matrices of `Shape.rank`


FULL = Trains(matrices=True, head=True, inputs=True)
ROWS = Trains(matrices=False, head=False, inputs=True, adapters=False)  # new embedding rows and nothing else


@dataclass(frozen=True, slots=True)
class Products:
    """What a batch of layouts multiplies: columns, (column, key) pairs, and columns whose logits are computed."""

    columns: int
    pairs: int
    logits: int
    first_pass: int  # of the columns: those without a latent slot on their path, whose input is nothing but table rows


def seen(layout: Layout) -> Products:
    """The products that belong to the layout: visible keys, no padding."""
    sizes = [s.size for s in layout.segments]
    above = (sum(sizes[k] for k in sees) for sees in layout.sees)
    pairs = sum(
        s.size * up + (s.size**2 if s.mutual else s.size * (s.size + 1) // 2)
        for s, up in zip(layout.segments, above, strict=True)
    )
    first = layout.size if layout.passes == 1 else layout.pass_of.count(0)
    return Products(layout.size, pairs, len(layout.labels), first)


def executed(layouts: Sequence[Layout]) -> Products:
    """The products that a batch runs: every key of a packed row, padding included."""
    passes, rows = executed_passes(layouts), len(layouts)
    return Products(
        rows * sum(new for new, _ in passes),
        rows * sum(new * keys for new, keys in passes),
        sum(len(row.labels) for row in layouts),
        rows * passes[0][0],
    )


def forward(shape: Shape, products: Products) -> int:
    """FLOPs of the forward pass, without bridges."""
    attention = 2 * shape.heads * shape.head_dim * products.pairs
    return 2 * (
        shape.layers * (shape.linear * products.columns + attention) + shape.width * shape.vocabulary * products.logits
    )


def backward(shape: Shape, trains: Trains, products: Products) -> int:
    """FLOPs of the gradients, and of what a fused kernel and checkpointing compute once more; without bridges."""
    matrices = shape.matrices
    own, adapters = sum(a * b for a, b in matrices), shape.rank * sum(a + b for a, b in matrices)
    linear = shape.layers * ((1 + trains.matrices) * own + (1 + trains.adapters) * adapters) * products.columns
    if not trains.inputs:  # what reads the first layer's input has nothing to hand a gradient on to
        linear -= sum(a * b + shape.rank * a for a, b in matrices[: shape.readers]) * products.first_pass
    product = shape.layers * shape.heads * shape.head_dim * products.pairs  # one of attention's two
    head = (1 + trains.head) * shape.width * shape.vocabulary * products.logits
    again = 0
    if trains.checkpointing:
        a, b = matrices[-1]
        last = shape.rank * b if shape.rank else a * b
        again = shape.layers * ((shape.linear - last) * products.columns) + 2 * product
    return 2 * (linear + (5 if trains.fused else 4) * product + head + again)


def training_cost(shape: Shape, trains: Trains, layout: Layout) -> int:
    """Forward and backward FLOPs of one training layout: visible keys, no padding, nothing computed twice.

    The headline.
    """
    products = seen(layout)
    once = replace(trains, fused=False, checkpointing=False)
    return forward(shape, products) + backward(shape, once, products) + 3 * bridge_flops(shape, layout)


def executed_cost(shape: Shape, trains: Trains, layouts: Sequence[Layout]) -> int:
    """Forward and backward FLOPs that a batch executes, padding and recomputation included: what a counter sees."""
    products = executed(layouts)
    bridges = 3 * sum(bridge_flops(shape, row) for row in layouts)  # they train, and so does what lies before them
    return forward(shape, products) + backward(shape, trains, products) + bridges


def padding_cost(shape: Shape, trains: Trains, layouts: Sequence[Layout]) -> int:
    """The part of `executed_cost` that would go away if every row were a batch of its own."""
    return executed_cost(shape, trains, layouts) - sum(executed_cost(shape, trains, [row]) for row in layouts)
