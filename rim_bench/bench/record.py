"""What a measurement says: lines of pairs, targets, and the record that is stored.

One line of documentation for every field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rim_bench.bench.session import Spread
from rim_bench.util.files import Record

SCHEMA = 1
FIELDS: dict[str, str] = {
    "schema": "version of this record's form",
    "measurement": "train, eval, ttft, memory, overhead, scaling or targets",
    "rounds": "timed rounds, behind one that warms up; all medians and ranges are over them",
    "seconds": "what the whole measurement took",
    "setting": (
        "what was measured: rows, model, batch, methods and their settings (of scaling: at the last value); "
        "null for overhead"
    ),
    "setting.task": "the task whose training rows were taken",
    "setting.embedded": "whether its rows are generated: then no number here says anything of published data",
    "setting.train_sha256": "hash of the training rows",
    "setting.train_rows": "how many there are",
    "setting.mean_tokens": "mean tokens of question, chain and answer",
    "setting.backbone": "the model, as a run records it",
    "setting.parameters": "of the model, a method's own markers included",
    "setting.batch_size": "examples an optimizer step",
    "setting.micro_batch": "rows in one forward pass in training, as the run's plan has it",
    "setting.methods": "the methods and all their fields",
    "setting.start": "the weights that a curriculum is taken to begin with",
    "machine": "what it ran on",
    "machine.python": "its version",
    "machine.platform": "system, architecture and C library",
    "machine.cpu": "the processor, and how many cores this process may use",
    "machine.memory_bytes": "of the machine",
    "machine.gpu": "name, memory and CUDA version; null without one",
    "machine.packages": "versions of the libraries",
    "machine.git": "commit of this code and whether it was changed; null for an installed copy",
    "machine.argv": "the command line",
    "machine.date": "when it began, UTC",
    "machine.device": "where tensors lay",
    "machine.dtype": "the type that products were computed in",
    "machine.threads": "of torch",
    "machine.load_before": "the system's load average over the minute before",
    "machine.load_after": "the same at the end: this process's own threads are in it",
    "machine.cpu_share": (
        "share of the timed seconds that the process was running; null for several threads, on a GPU, and for processes"
    ),
    "machine.others_cores": (
        "cores that other processes kept busy, mean over the measurement; null where the system does not say"
    ),
    "machine.busy": "whether others used the machine: others_cores over 0.2, or a cpu_share under 0.95",
    "peak_gflops": "matrix product of the same type in every round, GFLOP/s; null where no round was timed",
    "lines": "what was compared, a pair each",
    "lines.what": "ours: the method, and the stage that was trained",
    "lines.against": "what stands beside it",
    "lines.unit": "of ours and theirs",
    "lines.ours": "ours, a value a round",
    "lines.theirs": "the other, a value a round; null where nothing stands beside",
    "lines.ratio": (
        "ours over theirs, pair by pair (for ttft: divided by that of plain forwards); null where nothing stands beside"
    ),
    "lines.more": "what else was measured in the same rounds, by name: shares are of 1, rates per second",
    "targets": "the table of targets; none in other measurements",
    "targets.number": "its place in the table",
    "targets.what": "what is asked",
    "targets.against": "what it is compared with",
    "targets.unit": "of the value",
    "targets.value": "what was measured, a value a round",
    "targets.required": "what the median must reach",
    "targets.sense": "at least or at most",
    "targets.holds": "whether the median does",
    "targets.detail": "what else was seen in the same rounds, in words",
    "scaling": "cost against one knob; null in other measurements",
    "scaling.vary": "the knob",
    "scaling.values": "its values",
    "scaling.curves": "a curve for each method and each work, over the values",
    "scaling.curves.method": "the method",
    "scaling.curves.work": "training (one example of a step) or answer (one question, all tokens)",
    "scaling.curves.seconds": "measured, for one example: a spread over the rounds for each value",
    "scaling.curves.flops": "closed form, for one example, visible keys and no padding, for each value",
    "scaling.curves.gflops": "closed form over the median: GFLOP/s at each value",
    "spread": "every number with median, low, high and values (one a round)",
}
"""Path of a field -> what it says."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was measured, and what stands beside it. `ratio` is the pairs' own."""

    what: str
    against: str
    unit: str
    ours: Spread
    theirs: Spread | None = None
    ratio: Spread | None = None
    more: Mapping[str, Spread] = field(default_factory=dict)

    def data(self) -> Record:
        """As plain data."""
        return {
            "what": self.what,
            "against": self.against,
            "unit": self.unit,
            "ours": self.ours.data(),
            "theirs": None if self.theirs is None else self.theirs.data(),
            "ratio": None if self.ratio is None else self.ratio.data(),
            "more": {name: spread.data() for name, spread in self.more.items()},
        }


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the table of targets."""

    number: str
    what: str
    against: str
    value: Spread
    required: float
    sense: str  # "at least" or "at most"
    unit: str = "times"  # "times" or "share"
    detail: str = ""

    @property
    def holds(self) -> bool:
        """Of the median."""
        return self.value.median >= self.required if self.sense == "at least" else self.value.median <= self.required

    def data(self) -> Record:
        """As plain data."""
        return {
            "number": self.number,
            "what": self.what,
            "against": self.against,
            "unit": self.unit,
            "value": self.value.data(),
            "required": self.required,
            "sense": self.sense,
            "holds": self.holds,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class Measured:
    """What a measurement found, before it is told where it ran."""

    lines: tuple[Line, ...] = ()
    targets: tuple[Target, ...] = ()
    peak: Spread | None = None  # FLOP/s
    cpu_share: float | None = None
    setting: Record | None = None
    scaling: Record | None = None


def record(measurement: str, rounds: int, found: Measured, machine: Record, seconds: float) -> Record:
    """The whole of a measurement as plain data; `FIELDS` documents it."""
    return {
        "schema": SCHEMA,
        "measurement": measurement,
        "rounds": rounds,
        "seconds": round(seconds, 1),
        "setting": found.setting,
        "machine": machine,
        "peak_gflops": None if found.peak is None else found.peak.scaled(1e-9).data(),
        "lines": [line.data() for line in found.lines],
        "targets": [target.data() for target in found.targets],
        "scaling": found.scaling,
    }


def undocumented(told: Record) -> list[str]:
    """Paths of a record that `FIELDS` does not document."""
    return sorted(p for p in _paths(told, "") if p not in FIELDS)


_WHOLE = (
    "setting.mean_tokens",
    "setting.backbone",
    "setting.methods",
    "machine.cpu",
    "machine.gpu",
    "machine.packages",
    "machine.git",
)
"""Fields whose insides are other modules' records."""


def _paths(told: Any, above: str) -> Sequence[str]:
    if isinstance(told, list):
        return [p for one in told for p in _paths(one, above)]
    if (
        not isinstance(told, dict)
        or above in _WHOLE
        or above == "lines.more"
        or set(told) == {"median", "low", "high", "values"}
    ):
        return []
    out = []
    for key, value in told.items():
        path = f"{above}.{key}" if above else key
        out += [path, *_paths(value, path)]
    return out
