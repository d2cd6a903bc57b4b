"""What an intervention puts in the place of a model's own activations: zeros, means, noise, another question's, others'
order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rim_bench.analysis.donors import stream
from rim_bench.analysis.passes import Computed
from rim_bench.analysis.suite import Intervention
from rim_bench.analysis.trunks import Trunk
from rim_bench.engine.activations import KeysAndValues
from rim_bench.storage.interventions import DONOR, KEYS_AND_VALUES, MEAN, NOISE, OWN, PERMUTATION, RESIDUAL, ZERO
from rim_bench.util.errors import unknown


@dataclass
class Moments:
    """Sums over questions of one shape of what stands at the segments' columns, in float64 and on the CPU.

    Attributes:
        n: number of questions.
        states: [2 (sums, sums of squares), 2 (keys, values), layers, heads, columns, head width].
        inputs: [2, layers, columns, width].
    """

    n: int
    states: Tensor
    inputs: Tensor

    @classmethod
    def of(cls, computed: Computed, places: Sequence[int]) -> Moments:
        """Those of a batch."""
        assert computed.inputs is not None
        both = torch.stack([torch.stack([part[:, :, places] for part in pair]) for pair in computed.states])
        both = both.double().cpu().transpose(0, 1)  # [2, layers, rows, heads, columns, head width]
        inputs = computed.inputs[:, :, places].double().cpu()
        return cls(
            both.shape[2],
            torch.stack([both.sum(2), (both * both).sum(2)]),
            torch.stack([inputs.sum(1), (inputs * inputs).sum(1)]),
        )

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.states + other.states, self.inputs + other.inputs)

    def mean_and_deviation(self, of: Tensor) -> tuple[Tensor, Tensor]:
        """Of `states` or `inputs`, in float32."""
        mean = of[0] / self.n
        variance = (of[1] / self.n - mean * mean).clamp(min=0) * self.n / max(1, self.n - 1)
        return mean.float(), variance.sqrt().float()


@dataclass(frozen=True)
class Source:
    """What edits take from: the rows of a batch, the same computed once more, their donors, and the moments.

    Attributes:
        seed: of noise.
    """

    trunks: Sequence[Trunk]
    own: Computed
    again: Computed | None
    donors: dict[str, Computed]
    moments: Moments | None
    seed: int

    def edited_states(self, asked: Intervention, names: Sequence[str]) -> list[KeysAndValues]:
        """Keys and values of all columns, with those of the named segments exchanged at the asked layers."""
        places, out = self.own.places(names), list(self.own.states)
        for layer in range(len(out)) if asked.layer is None else (asked.layer,):
            new = []
            for part, own in enumerate(self.own.states[layer]):
                value = self._value(asked, layer, part, names, places)
                changed = own.clone()
                changed[:, :, places] = value.to(own.dtype)
                new.append(changed)
            out[layer] = (new[0], new[1])
        return out

    def written(self, asked: Intervention, names: Sequence[str]) -> dict[int, tuple[list[int], Tensor]]:
        """Inputs of layers at the named segments' columns."""
        assert self.own.inputs is not None
        places = self.own.places(names)
        layers = range(len(self.own.inputs)) if asked.layer is None else (asked.layer,)
        return {layer: (places, self._value(asked, layer, None, names, places)) for layer in layers}

    def _at(self, computed: Computed, layer: int, part: int | None, places: Sequence[int]) -> Tensor:
        """[rows, (heads,) places, width] of keys (0), values (1) or inputs (None)."""
        if part is not None:
            return computed.states[layer][part][:, :, places]
        assert computed.inputs is not None
        return computed.inputs[layer][:, places]

    def _value(
        self, asked: Intervention, layer: int, part: int | None, names: Sequence[str], places: Sequence[int]
    ) -> Tensor:
        own, operation = self._at(self.own, layer, part, places), asked.operation
        if operation == OWN and self.again is not None:
            return self._at(self.again, layer, part, places)
        if operation.startswith(DONOR):
            return self._at(self.donors[operation], layer, part, places)
        if operation == ZERO:
            return torch.zeros_like(own)
        if operation == PERMUTATION:
            order = rotation(self.trunks[0], names)
            return own[:, :, order] if part is not None else own[:, order]
        if operation == MEAN or operation.startswith(NOISE):
            assert self.moments is not None
            all_places = self.own.places(self.trunks[0].segments)
            at = [all_places.index(place) for place in places]
            sums = self.moments.inputs if part is None else self.moments.states[:, part]
            mean, deviation = (m[layer][..., at, :].to(own) for m in self.moments.mean_and_deviation(sums))
            if operation == MEAN:
                return mean.expand_as(own)
            strength = float(operation.removeprefix(NOISE).removesuffix("sd"))
            drawn = [self._noise(t, asked, layer, part, own.shape[1:]) for t in self.trunks]
            return own + strength * deviation * torch.stack(drawn).to(own)
        raise unknown("operation", operation, (OWN, DONOR, ZERO, MEAN, f"{NOISE} 1 sd", PERMUTATION))

    def _noise(self, trunk: Trunk, asked: Intervention, layer: int, part: int | None, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers that follow from the question, whatever stands beside it."""
        seed = stream(self.seed, trunk.example.id, asked.site, asked.segments, layer, part)
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotation(trunk: Trunk, names: Sequence[str]) -> list[int]:
    """An order of the segments' columns in which every segment has another's: each takes those of the one before.

    Segments of different sizes, or a single one, are not exchanged whole: every column takes the one before.
    """
    sizes = [trunk.layout.segments[trunk.layout.index[name]].size for name in names]
    total = sum(sizes)
    step = sizes[0] if len(sizes) > 1 and len(set(sizes)) == 1 else 1
    return [(k - step) % total for k in range(total)]


def applies(asked: Intervention, trunk: Trunk, questions: int) -> tuple[str, ...] | None:
    """The segments that an intervention on activations exchanges; None where it means nothing here.

    Args:
        questions: how many have the trunk's shape.
    """
    names = asked.names(trunk)
    if names is None or asked.site not in (KEYS_AND_VALUES, RESIDUAL):
        return names
    columns = sum(trunk.layout.segments[trunk.layout.index[name]].size for name in names)
    if asked.operation == PERMUTATION and columns < 2:
        return None
    if (asked.operation == MEAN or asked.operation.startswith(NOISE)) and (
        questions < 2 or not set(names) <= set(trunk.segments)
    ):
        return None
    return names
