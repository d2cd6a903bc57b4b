"""What rows had: the training budget they were asked to meet, how closely they did, what is therefore matched between
them, and what they
were timed on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rim_bench.evidence.rows import Evaluation, Row, budget_of
from rim_bench.util.files import Record
from rim_bench.util.text import format_flops, format_number

EXAMPLES, FLOPS = "examples", "train-flops"
_UNITS = {EXAMPLES: "training examples", FLOPS: "training FLOPs"}


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
        kind, asked = budget_of(e.spec)
        told = e.training.get("budget")
        if isinstance(told, dict):
            return Budget(
                str(told.get("kind", kind)), told.get("asked", asked), told.get("used"), told.get("last_step")
            )
        if kind == FLOPS:
            used = training_flops(e)
        else:
            own = e.training.get("examples", (e.spec.get("budget") or {}).get("examples"))
            used = None if own is None else own + (e.training.get("inherited_examples") or 0)
        return Budget(kind, asked, used, None)

    @property
    def steps_off(self) -> float | None:
        """Distance from what was asked in optimizer steps; None where it cannot be told."""
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
    """Own and inherited training FLOPs of a run; None where they were not counted, nor where those of the run it
    started from were not.
    """
    own, inherited = e.training.get("flops"), e.training.get("inherited_flops")
    if own is None or (inherited is None and e.spec.get("parent")):
        return None
    return float(own) + float(inherited or 0)


def total_flops(row: Row) -> float | None:
    """Mean of `training_flops` over the seeds; None where one of them was not counted."""
    found = [training_flops(p) for p in row.parts]
    return None if None in found else row.part_mean(training_flops)


def total_examples(row: Row) -> float | None:
    """Training examples, own and inherited, mean over the seeds; None where the runs do not say."""

    def total(e: Evaluation) -> Any:
        own = e.training.get("examples", (e.spec.get("budget") or {}).get("examples"))
        return None if own is None else own + (e.training.get("inherited_examples") or 0)

    return row.part_mean(total)


def tuning_trials(row: Row) -> int | None:
    """Learning-rate trials that the recipe declares; None where a seed says nothing, or something else."""
    found = {p.training.get("tuning_trials") for p in row.parts}
    (one, *more) = found
    return None if more or one is None else int(one)


def examples_text(row: Row) -> str:
    """Training examples, own and inherited."""

    def pick(name: str) -> float | None:
        return row.part_mean(lambda e: e.training.get(name, (e.spec.get("budget") or {}).get(name)))

    own, inherited = pick("examples"), pick("inherited_examples")
    return format_number(own, 0) + (f" + {format_number(inherited, 0)} inherited" if inherited else "")


def flops_text(row: Row) -> str:
    """Training FLOPs, own and inherited."""
    if total_flops(row) is None:
        return "-"
    inherited = row.part_mean(lambda e: e.training.get("inherited_flops"))
    own = format_flops(row.part_mean(lambda e: e.training.get("flops")))
    return own + (f" + {format_flops(inherited)} inherited" if inherited else "")


def closeness(row: Row) -> str:
    """How closely the budget was met: "100.02 % of 3.1 T"; a range where the seeds differ in it."""
    found = budgets(row)
    asked = found[0].asked
    shares = sorted(100 * b.used / asked for b in found if b.used is not None) if asked else []
    if not shares or asked is None:
        return "-"
    low, high = f"{shares[0]:.2f}", f"{shares[-1]:.2f}"
    return (low if low == high else f"{low} to {high}") + f" % of {amount_text(found[0].kind, asked)}"


def budget_text(kind: str, asked: float | None) -> str:
    """A training budget in words."""
    return (
        "no training budget stated"
        if asked is None
        else f"{amount_text(kind, asked)} {_UNITS.get(kind, f'training {kind}')}"
    )


def amount_text(kind: str, asked: float | None) -> str:
    """An amount in the unit of its kind, without the unit's name."""
    return format_flops(asked) if kind == FLOPS else format_number(asked, 0)


def matched(rows: Sequence[Row]) -> str:
    """A sentence that names what was matched in training between rows, and what was not. Empty for a single row."""
    if len(rows) < 2:
        return ""
    classes: dict[tuple[str, float | None], list[Row]] = {}
    for row in rows:
        first = budgets(row)[0]
        classes.setdefault((first.kind, first.asked), []).append(row)
    if len(classes) == 1:
        (only,) = classes
        return (
            f"Matched: {_same(*only, rows)}."
            if only[1] is not None
            else "Matched: nothing: no training budget is stated."
        )
    several = {key: found for key, found in classes.items() if len(found) > 1 and key[1] is not None}
    told = ", ".join(f"{amount_text(*key)} {_UNITS.get(key[0], key[0])}" for key in classes)
    if not several:
        return f"Matched: nothing: the rows' training budgets differ ({told})."
    inside = "; ".join(f"{_same(*key, found)} ({len(found)} rows)" for key, found in several.items())
    return (
        f"Matched within rows of one training budget: {inside}. Nothing is matched between rows of different "
        f"budgets ({told})."
    )


def _same(kind: str, asked: float | None, rows: Sequence[Row]) -> str:
    """What rows of one budget share, how closely, and what differs for all that."""
    off = [b.steps_off for r in rows for b in budgets(r)]
    missed = [r.label for r in rows if not all(b.met for b in budgets(r))]
    texts = {examples_text(r) for r in rows}
    if kind == FLOPS:
        text = f"training FLOPs, {format_flops(asked)} each, inherited part included"
        known = [o for o in off if o is not None]
        text += f", met within {max(known):.2g} steps" if len(known) == len(off) and max(known) > 0 else ""
        other = _spread("training examples", [total_examples(r) for r in rows])
    else:
        text = (
            f"training examples, {next(iter(texts))} each"
            if len(texts) == 1
            else f"training examples, {format_number(asked, 0)} each"
        )
        text += "" if len(texts) == 1 else ", inherited part included"
        other = _spread("training FLOPs", [total_flops(r) for r in rows])
    text += f" (not met within one step: {', '.join(missed)})" if missed else ""
    return f"{text}; {other}"


def _spread(name: str, values: Sequence[float | None]) -> str:
    known = [v for v in values if v]
    if len(known) < len(values):
        return f"{name} were not counted" + (" in all of them" if known else "")
    factor = max(known) / min(known)
    return f"{name} differ by a factor of {factor:.3g}" if factor >= 1.005 else f"{name} are the same to within 0.5 %"


# Evaluation
def timed_apart(found: Iterable[Evaluation]) -> str:
    """What evaluations differ in that decides how long they take: "threads 1, 4"; empty where their times compare.

    Those that were timed while other cells of a grid computed, or may have computed, on the same machine compare with
    none.
    """
    timed = [
        e.runtime for e in found if ((e.summary.get("latency") or {}).get("full_ms") or {}).get("mean") is not None
    ]
    text = _differing(
        [("device", "device"), ("host_cpu", "host CPU"), ("threads", "threads"), ("dtype", "dtype")], timed
    )
    cells = {t["cells_at_a_time"] for t in timed if "cells_at_a_time" in t}
    shared = max((int(n) for n in cells - {"unknown"}), default=1)
    beside = f"beside other cells of a grid, up to {shared} at a time" if shared > 1 else ""
    maybe = "on machines of a cluster that other cells of a grid may have shared" if "unknown" in cells else ""
    return "; ".join(filter(None, (text, beside, maybe)))


def evaluated_apart(found: Iterable[Evaluation]) -> str:
    """Whether they differ in the kind of device or in the dtype they were evaluated with; empty where not."""
    return _differing([("device", "device"), ("dtype", "dtype")], [e.settings for e in found])


def _differing(names: Sequence[tuple[str, str]], found: Sequence[Record]) -> str:
    texts = []
    for key, name in names:
        values = sorted({str(f.get(key, "not stated")) for f in found})
        if len(values) > 1:
            texts.append(f"{name} {', '.join(values)}")
    return "; ".join(texts)


def evaluation_notes(found: Iterable[Evaluation]) -> list[str]:
    """What of the way they were evaluated keeps rows from being compared, and how many questions were too long for a
    model.
    """
    found = list(found)
    notes = []
    if apart := evaluated_apart(found):
        notes.append(f"Evaluated in different ways ({apart}): a difference may be due to that.")
    if apart := timed_apart(found):
        notes.append(f"Latencies are not comparable: they were taken on different machines or settings ({apart}).")
    if counts := {c for e in found if (c := sum(bool(i.get("overlong")) for i in e.items.values()))}:
        most = max(counts)
        notes.append(
            f"Too long for the model: up to {most:,} questions of an evaluation; they count as wrong, and in no mean "
            "cost."
        )
    return notes


def tuning_of(e: Evaluation) -> Record | None:
    """The trials of a run's learning rate as train.json has them; None where it was not tuned by trials of this
    program.
    """
    found = e.training.get("tuning")
    return found if isinstance(found, dict) else None


def tuning_flops(row: Row) -> int | None:
    """Training FLOPs of all trials behind a row, each once whatever the number of its seeds; None without any."""
    trials = {str(t["run"]): int(t["flops"]) for p in row.parts if (told := tuning_of(p)) for t in told["trials"]}
    return sum(trials.values()) if trials else None
