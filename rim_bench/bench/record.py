"""What a measurement says, and its record: every field is a key of the file, with its documentation. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

from rim_bench.util.files import Record

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Spread:
    """A number's values, one a round; a ratio's are the ratios of the pairs."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def __truediv__(self, other: Spread) -> Spread:
        """Pair by pair."""
        return Spread(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def scaled(self, factor: float) -> Spread:
        """All values times a factor."""
        return Spread(tuple(factor * v for v in self.values))

    def data(self) -> Record:
        """As plain data, seven digits."""
        short = [float(f"{v:.7g}") for v in self.values]
        return {"median": statistics.median(short), "low": min(short), "high": max(short), "values": short}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What was measured."""

    task: Annotated[str, "the task whose training rows were taken"]
    embedded: Annotated[bool, "whether its rows are generated: then no number here says anything of published data"]
    train_sha256: Annotated[str, "hash of the training rows"]
    train_rows: Annotated[int, "how many there are"]
    mean_tokens: Annotated[Mapping[str, float], "mean tokens of question, chain and answer"]
    backbone: Annotated[Record, "the model, as a run records it"]
    parameters: Annotated[int, "of the model, a method's own markers included"]
    batch_size: Annotated[int, "examples an optimizer step"]
    micro_batch: Annotated[int | None, "rows in one forward pass in training, as the run's plan has it"]
    methods: Annotated[Record, "the methods and all their fields"]
    start: Annotated[str, "the weights that a curriculum is taken to begin with"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a measurement ran on, and whether others used it at the same time."""

    python: Annotated[str, "its version"]
    platform: Annotated[str, "system, architecture and C library"]
    cpu: Annotated[Record, "the processor, and how many cores this process may use"]
    memory_bytes: Annotated[int | None, "of the machine"]
    gpu: Annotated[Record | None, "name, memory and CUDA version; null without one"]
    packages: Annotated[Mapping[str, str], "versions of the libraries"]
    git: Annotated[Record | None, "commit of this code and whether it was changed; null for an installed copy"]
    argv: Annotated[list[str], "the command line"]
    date: Annotated[str, "when it began, UTC"]
    device: Annotated[str, "where tensors lay"]
    dtype: Annotated[str, "the type that products were computed in"]
    threads: Annotated[int, "of torch"]
    load_before: Annotated[float | None, "the system's load average over the minute before"]
    load_after: Annotated[float | None, "the same at the end: this process's own threads are in it"]
    cpu_share: Annotated[
        float | None,
        "share of the timed seconds that the process was running; null for several threads, on a GPU, and for "
        "processes",
    ]
    others_cores: Annotated[
        float | None,
        "cores that other processes kept busy, mean over the measurement; null where the system does not say",
    ]
    busy: Annotated[bool, "whether others used the machine: others_cores over 0.2, or a cpu_share under 0.95"]


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was measured, and what stands beside it."""

    what: Annotated[str, "ours: the method, and the stage that was trained"]
    against: Annotated[str, "what stands beside it"]
    unit: Annotated[str, "of ours and theirs"]
    ours: Annotated[Spread, "ours, a value a round"]
    theirs: Annotated[Spread | None, "the other, a value a round; null where nothing stands beside"] = None
    ratio: Annotated[
        Spread | None,
        "ours over theirs, pair by pair (for ttft: divided by that of plain forwards); null where nothing stands "
        "beside",
    ] = None
    more: Annotated[
        Mapping[str, Spread], "what else was measured in the same rounds, by name: shares are of 1, rates per second"
    ] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the table of targets."""

    number: Annotated[str, "its place in the table"]
    what: Annotated[str, "what is asked"]
    against: Annotated[str, "what it is compared with"]
    unit: Annotated[str, "of the value"] = field(default="times", kw_only=True)  # "times" or "share"
    value: Annotated[Spread, "what was measured, a value a round"]
    required: Annotated[float, "what the median must reach"]
    sense: Annotated[str, "at least or at most"]
    holds: Annotated[bool, "whether the median does"] = field(init=False)
    detail: Annotated[str, "what else was seen in the same rounds, in words"] = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        median, required = self.value.median, self.required
        object.__setattr__(self, "holds", median >= required if self.sense == "at least" else median <= required)


@dataclass(frozen=True, slots=True)
class Curve:
    """Cost of one method's work over the values of a knob."""

    method: Annotated[str, "the method"]
    work: Annotated[str, "training (one example of a step) or answer (one question, all tokens)"]
    seconds: Annotated[list[Spread], "measured, for one example: a spread over the rounds for each value"]
    flops: Annotated[list[int], "closed form, for one example, visible keys and no padding, for each value"]
    gflops: Annotated[list[float], "closed form over the median: GFLOP/s at each value"]


@dataclass(frozen=True, slots=True)
class Scaling:
    """Cost against one knob."""

    vary: Annotated[str, "the knob"]
    values: Annotated[list[int], "its values"]
    curves: Annotated[list[Curve], "a curve for each method and each work, over the values"]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a measurement found, without where it ran."""

    lines: tuple[Line, ...] = ()
    targets: tuple[Target, ...] = ()
    peak: Spread | None = None  # FLOP/s
    cpu_share: float | None = None
    setting: Setting | None = None
    scaling: Scaling | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """The whole of a stored measurement."""

    schema: Annotated[int, "version of this record's form"]
    measurement: Annotated[str, "train, eval, ttft, memory, overhead, scaling, targets or pretrained"]
    rounds: Annotated[int, "timed rounds, behind one that warms up; all medians and ranges are over them"]
    seconds: Annotated[float, "what the whole measurement took"]
    setting: Annotated[
        Setting | None,
        "what was measured: rows, model, batch, methods and their settings (of scaling: at the last value); "
        "null for overhead",
    ]
    machine: Annotated[Machine, "what it ran on"]
    peak_gflops: Annotated[
        Spread | None, "matrix product of the same type in every round, GFLOP/s; null where no round was timed"
    ]
    lines: Annotated[tuple[Line, ...], "what was compared, a pair each"]
    targets: Annotated[tuple[Target, ...], "the table of targets; none in other measurements"]
    scaling: Annotated[Scaling | None, "cost against one knob; null in other measurements"]


def record(measurement: str, rounds: int, measured: Measured, machine: Machine, seconds: float) -> Record:
    """The whole of a measurement as plain data."""
    m = measured
    peak = None if m.peak is None else m.peak.scaled(1e-9)
    whole = (round(seconds, 1), m.setting, machine, peak, m.lines, m.targets, m.scaling)
    plain: Record = _plain(Measurement(SCHEMA, measurement, rounds, *whole))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Spread):
        return value.data()
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _parts(cls: type) -> Iterator[tuple[str, str, type | None]]:
    """Name, documentation and class of each field of a record; None for the class of what has no fields here."""
    for name, hint in get_type_hints(cls, include_extras=True).items():
        value, doc = get_args(hint)
        inner = [value, *get_args(value)]  # X, X | None, list[X], tuple[X, ...]
        yield name, doc, next((c for c in inner if is_dataclass(c) and isinstance(c, type) and c is not Spread), None)


def _documented(cls: type, above: str = "") -> Iterator[tuple[str, str]]:
    """Path of each field of a class and of its parts, and what it says."""
    for name, doc, part in _parts(cls):
        yield above + name, doc
        if part is not None:
            yield from _documented(part, f"{above}{name}.")


FIELDS = dict(_documented(Measurement)) | {"spread": "every number with median, low, high and values (one a round)"}
"""Path of a field -> what it says."""


def undocumented(stored: Record, cls: type = Measurement, above: str = "") -> list[str]:
    """Paths of a stored record that `FIELDS` does not document, sorted."""
    parts = {name: part for name, _, part in _parts(cls)}
    out = set()
    for key, value in stored.items():
        if key not in parts:
            out.add(above + key)
        elif (inner := parts[key]) is not None:
            for part in value if isinstance(value, list) else [value]:
                out.update(undocumented(part, inner, f"{above}{key}.") if isinstance(part, dict) else ())
    return sorted(out)
