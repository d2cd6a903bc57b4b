"""What rows had: the training budget they were asked to meet, how closely they did, and what they were timed on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rim_bench.evidence.rows import Evaluation, Row
from rim_bench.util.files import Record
from rim_bench.util.text import format_flops, format_number

EXAMPLES, FLOPS = "examples", "train-flops"
UNITS = {EXAMPLES: "training examples", FLOPS: "training FLOPs"}


@dataclass(frozen=True)
class Budget:
    """A run's training budget in its own unit, examples or training FLOPs; both numbers include what it inherited."""

    kind: str
    asked: float | None
    used: float | None  # None where the run does not say
    step: float | None  # size of its last optimizer step

    @staticmethod
    def of(e: Evaluation) -> Budget:
        """From train.json; from the specification where a run is older than that record."""
        kind, asked = e.spec.total_budget
        stored = e.training.budget
        if stored is not None:
            asked = asked if stored.asked is None else stored.asked
            return Budget(stored.kind or kind, asked, stored.used, stored.last_step)
        return Budget(kind, asked, training_flops(e) if kind == FLOPS else training_examples(e), None)

    @property
    def steps_off(self) -> float | None:
        """Distance from what was asked in optimizer steps; None where it is not known."""
        if self.asked is None or self.used is None:
            return None
        off = abs(self.used - self.asked)
        return 0.0 if off <= 1e-9 * self.asked else off / self.step if self.step else None

    @property
    def met(self) -> bool:
        """Whether it ended within one step of what was asked."""
        return self.steps_off is not None and self.steps_off <= 1


def budgets(row: Row) -> list[Budget]:
    """One for each training seed."""
    return [Budget.of(p) for p in row.parts]


def training_flops(e: Evaluation) -> float | None:
    """Own and inherited training FLOPs of a run; None where one of the two was not counted."""
    own, inherited = e.training.flops, e.training.inherited_flops
    if own is None or (inherited is None and e.spec.parent):
        return None
    return float(own) + float(inherited or 0)


def training_examples(e: Evaluation) -> int | None:
    """Own and inherited training examples of a run; None where it does not say."""
    own = e.examples
    return None if own is None else own + (e.training.inherited_examples or 0)


def total_flops(row: Row) -> float | None:
    """Mean of `training_flops` over the seeds; None where one of them was not counted."""
    return None if any(training_flops(p) is None for p in row.parts) else row.part_mean(training_flops)


def total_examples(row: Row) -> float | None:
    """Mean of `training_examples` over the seeds; None where the runs do not say."""
    return row.part_mean(training_examples)


def tuning_trials(row: Row) -> int | None:
    """Learning-rate trials that the recipe declares; None where a seed says nothing, or something else."""
    declared, *others = {p.training.tuning_trials for p in row.parts}
    return None if others or declared is None else int(declared)


def examples_text(row: Row) -> str:
    """Training examples, own and inherited."""
    own = row.part_mean(lambda e: e.examples)
    inherited = row.part_mean(lambda e: e.inherited_examples)
    return format_number(own, 0) + (f" + {format_number(inherited, 0)} inherited" if inherited else "")


def flops_text(row: Row) -> str:
    """Training FLOPs, own and inherited."""
    if total_flops(row) is None:
        return "-"
    inherited = row.part_mean(lambda e: e.training.inherited_flops)
    own = format_flops(row.part_mean(lambda e: e.training.flops))
    return own + (f" + {format_flops(inherited)} inherited" if inherited else "")


def closeness(row: Row) -> str:
    """How closely the budget was met: "100.02 % of 3.1 T"; a range where the seeds differ in it."""
    of_seeds = budgets(row)
    kind, asked = of_seeds[0].kind, of_seeds[0].asked
    shares = sorted(100 * b.used / asked for b in of_seeds if b.used is not None) if asked else []
    if not shares:
        return "-"
    low, high = f"{shares[0]:.2f}", f"{shares[-1]:.2f}"
    return (low if low == high else f"{low} to {high}") + f" % of {amount_text(kind, asked)}"


def budget_text(kind: str, asked: float | None) -> str:
    """A training budget in words."""
    if asked is None:
        return "no training budget stated"
    if asked == 0:
        return "no training"
    return f"{amount_text(kind, asked)} {UNITS.get(kind, f'training {kind}')}"


def amount_text(kind: str, asked: float | None) -> str:
    """An amount in the unit of its kind, without the unit's name."""
    return format_flops(asked) if kind == FLOPS else format_number(asked, 0)


def timed_apart(evaluations: Iterable[Evaluation]) -> str:
    """What evaluations differ in that decides how long they take: "threads 1, 4"; empty where their times compare.

    Those that were timed while other cells of a grid computed, or may have computed, on the same machine compare with
    none.
    """
    timed = [e.runtime for e in evaluations if e.summary.time("latency", "full_ms", "mean") is not None]
    text = _differing({"device": "device", "host_cpu": "host CPU", "threads": "threads", "dtype": "dtype"}, timed)
    cells = {runtime["cells_at_a_time"] for runtime in timed if "cells_at_a_time" in runtime}
    shared = max((int(n) for n in cells - {"unknown"}), default=1)
    beside = f"beside other cells of a grid, up to {shared} at a time" if shared > 1 else ""
    maybe = "on machines of a cluster that other cells of a grid may have shared" if "unknown" in cells else ""
    return "; ".join(filter(None, (text, beside, maybe)))


def evaluated_apart(evaluations: Iterable[Evaluation]) -> str:
    """Whether they differ in the kind of device or in the dtype they were evaluated with; empty where not."""
    return _differing({"device": "device", "dtype": "dtype"}, [e.settings for e in evaluations])


def _differing(names: Record, records: Sequence[Record]) -> str:
    """The keys of `names` in which the records differ, with their values: "threads 1, 4; dtype float32, bfloat16"."""
    values = {key: sorted({str(record.get(key, "not stated")) for record in records}) for key in names}
    return "; ".join(f"{names[key]} {', '.join(texts)}" for key, texts in values.items() if len(texts) > 1)


def tuning_flops(row: Row) -> int | None:
    """Training FLOPs of all trials behind a row, each once whatever the number of its seeds; None without any."""
    trials = {t.run: t.flops for p in row.parts if p.training.tuning for t in p.training.tuning.trials}
    return sum(trials.values()) if trials else None
