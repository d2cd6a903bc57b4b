"""What a grid would do and cost, before it does anything: its cells, how far each one is, and FLOPs from the
accountant.

Training FLOPs are those that a run will report: the order of examples and their layouts are known before anything is
trained. FLOPs of an evaluation are an estimate, as how much a model writes is not. Nothing is fetched from a hub of
models, trained, or written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rim_bench.compute import cost
from rim_bench.compute.flops import Shape
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.pretrained import stored_here
from rim_bench.methods.method import Encoded, Example
from rim_bench.methods.schedule import planned_flops
from rim_bench.runs.grid import Node, nodes
from rim_bench.runs.planned_run import PlannedRun, price_of
from rim_bench.runs.study import Study
from rim_bench.runs.tuning import same_training, stored_choices
from rim_bench.storage.records import TrainingRecord, spec_id
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record, canonical
from rim_bench.util.table import Panel, Section, Table
from rim_bench.util.text import format_flops, format_number

LATER = "after its trials"  # the id of an arm whose learning rate is not chosen yet


@dataclass(frozen=True)
class DryRunRow:
    """One cell. FLOPs of training without what is inherited: that stands at the cell it is inherited from."""

    cell: str
    role: str
    method: str
    seed: int
    task: str
    budget: str
    run: str | None
    parent: str | None
    state: str
    train_flops: int
    train_left: int  # of them, those that are not spent yet
    evaluation_flops: int | None  # an estimate; None where the method's layouts do not tell it
    evaluation_left: int | None

    def hours(self, rate: float | None) -> float | None:
        """What is left, at so many FLOPs a second."""
        return None if rate is None else (self.train_left + (self.evaluation_left or 0)) / rate / 3600


@dataclass(frozen=True)
class DryRun:
    """A grid before it is run."""

    planned: tuple[DryRunRow, ...]
    quick: bool

    def data(self, rate: float | None) -> Record:
        """All of it as plain data; `rate` in FLOPs a second."""
        records = [dataclasses.asdict(p) | {"hours_left": p.hours(rate)} for p in self.planned]
        totals = {
            k: sum(r[k] or 0 for r in records)
            for k in ("train_flops", "train_left", "evaluation_flops", "evaluation_left")
        }
        hours = None if rate is None else sum(p.hours(rate) or 0.0 for p in self.planned)
        return {
            "schema": 1,
            "cells": records,
            "totals": {**totals, "cells": len(records), "hours_left": hours},
            "flops_per_second": rate,
        }

    def table(self, rate: float | None) -> Table:
        """As text."""
        timed = ("hours left",) if rate is not None else ()
        columns = (
            "cell",
            "state",
            "training FLOPs",
            "left",
            "evaluation ≈",
            *timed,
            "run",
            "starts from",
            "role",
            "budget",
        )
        rows = [self._row(p, rate) for p in self.planned]
        data = self.data(rate)
        totals = data["totals"]
        most = [
            f"in all: {totals['cells']}",
            "",
            *(format_flops(totals[k]) for k in ("train_flops", "train_left", "evaluation_flops")),
        ]
        most += [_hours(totals["hours_left"])] if rate is not None else []
        rows.append((*most, *[""] * (len(columns) - len(most))))
        grid = Panel("Starts and trials, then what begins from them", columns, tuple(rows))
        section = Section("Cells", (grid,), self._notes(rate))
        records = tuple(data["cells"])
        return Table(
            "Dry run: nothing was trained or stored",
            self.quick,
            (section,),
            records,
            tuple(records[0]),
            file="--format markdown",
        )

    @staticmethod
    def _row(p: DryRunRow, rate: float | None) -> tuple[str, ...]:
        timed = [_hours(p.hours(rate))] if rate is not None else []
        flops = [format_flops(v) for v in (p.train_flops, p.train_left, p.evaluation_flops)]
        return (p.cell, p.state, *flops, *timed, p.run or LATER, p.parent or "-", p.role, p.budget)

    @staticmethod
    def _notes(rate: float | None) -> tuple[str, ...]:
        notes = [
            "Training FLOPs: forward and backward over visible keys, no padding, exact for budgets in examples; what "
            "is inherited stands "
            "at the cell it comes from, and is taken off a budget in FLOPs.",
            "Evaluation: an estimate, as if answers were as long as the training rows' (one answer a test question, "
            "and a look at "
            "validation for every checkpoint that is weighed); further sets, controls and curves are not in it.",
        ]
        if rate is not None:
            notes.append(
                f"Hours: what is left at {format_flops(rate)}FLOPs/s, one cell after the other (train.json has flops "
                "and seconds)."
            )
        return tuple(notes)


def dry_run(studies: Sequence[Study]) -> DryRun:
    """The cells of the studies with their state and price.

    Raises:
        UsageError: a hub backbone that was not fetched yet: without its tokenizer there are no lengths, and so no
            price; or a damaged run folder, which the run would refuse too.
    """
    for study in studies:
        _check_stored(study.backbone_spec)
        study.check_budget()
    shared: dict[str, _Rows] = {}  # budgets of one study have their rows in common
    accountants = {}
    for study in studies:
        key = canonical(
            [study.task.name, study.train_set.sha256, study.options.limit, study.options.steps, study.backbone_spec]
        )
        if key not in shared:
            shared[key] = _Rows(study)
        accountants[id(study)] = _Accountant(study, shared[key])
    for study in studies:
        if study.options.tune is not None:
            study.choose(stored_choices(study, study.trials, study.options.tune))
    every = [
        (s, c)
        for s in studies
        for c in (*(c for c in s.cells if c.is_start), *s.trials, *(c for c in s.cells if not c.is_start))
    ]
    found = {n.id: accountants[id(n.study)].planned(n) for n in nodes(studies, every)}
    return DryRun(tuple(found.values()), any(s.options.quick for s in studies))


def _check_stored(spec: Record) -> None:
    """Refuse a hub model that would have to be fetched."""
    if spec["kind"] == "hub" and stored_here(str(spec["hub"]), spec.get("revision")) is None:
        raise UsageError(
            f"a dry run fetches nothing, and {spec['hub']} is not stored on this machine: without its tokenizer a grid "
            "has no price; "
            "fetch it with `hf download`, or see `rim-bench cost` for a price list from lengths"
        )


def _hours(value: float | None) -> str:
    """Two decimals, and never 0.00 for what is more than nothing."""
    return "<0.01" if value is not None and 0 < value < 0.01 else format_number(value, 2)


class _Rows:
    """What prices are made of: a backbone, and the training rows as it encodes them."""

    def __init__(self, study: Study) -> None:
        self.backbone = Backbone.create(study.backbone_spec, texts=study.texts, pattern=study.task.token_pattern)
        self.plain = self.encoded(study.train_set.examples)

    def encoded(self, examples: Sequence[Example]) -> list[Encoded]:
        return [self.backbone.encode_example(e) for e in examples]


class _Accountant:
    """Prices the cells of one study."""

    def __init__(self, study: Study, rows: _Rows) -> None:
        self.study, self.rows, self.backbone, self.plain = study, rows, rows.backbone, rows.plain
        self.spent: dict[str, int] = {}  # by run id: what who starts from it inherits

    def planned(self, node: Node) -> DryRunRow:
        study, cell, run = node.study, node.cell, node.run
        known = not self._undecided(cell)
        if known and run.path.exists():
            run.check(cell.spec)  # as the run itself will
        whole = self._training(cell)
        self.spent[node.id] = whole
        trained = run.trained
        checkpoint = None if trained else run.latest_checkpoint()
        done = trained and (cell.role != "arm" or study.evaluated(cell, run))
        state = "new" if checkpoint is None else f"resumable at step {checkpoint[0]:,}"
        state = ("done" if cell.role != "arm" else "evaluated") if done else "trained" if trained else state
        spent = whole if trained else 0
        if checkpoint is not None:
            spent = sum(int(m["flops"]) for m in run.metrics()[: checkpoint[0]])
        if cell.role == "arm" and self._adopts(cell):
            state, spent = (f"{state}, the winning trial itself" if not trained else state), whole
        answers = self._evaluation(cell)
        options = study.options
        return DryRunRow(
            node.label, cell.role, cell.method.name, cell.plan.seed, study.task.name,
            f"train-flops={options.train_flops:.4g}" if cell.plan.flops else f"examples={cell.plan.examples}",
            node.id if known else None, node.parent, state if known or spent else "new",
            whole, max(0, whole - spent), answers, 0 if done else answers,
        )  # fmt: skip

    def _undecided(self, cell: PlannedRun) -> bool:
        """Whether an arm's learning rate, and with it its run, is not known yet."""
        return cell.role == "arm" and self.study.options.tune is not None and cell.method.name not in self.study.choices

    def _adopts(self, cell: PlannedRun) -> bool:
        """Whether an arm is one of the trials, whichever wins."""
        trials = [t for t in self.study.trials if t.method.name == cell.method.name]
        return any(same_training({**cell.spec, "optimizer": t.spec["optimizer"]}, t.spec) for t in trials)

    def _training(self, cell: PlannedRun) -> int:
        """FLOPs of training without what is inherited: those that were counted, where it is trained."""
        stored = Run(self.study.store.folder / spec_id(cell.spec)).training() or TrainingRecord()
        if "flops" in stored:
            return int(stored["flops"])
        if cell.plan.flops:
            inherited = 0 if cell.parent is None else self._inherited(cell.parent)
            return cell.plan.flops - inherited
        return planned_flops(
            cell.method, self._rows(cell), cell.plan, "recipe" if cell.is_start else self.study.start, self._price(cell)
        )

    def _inherited(self, parent: PlannedRun) -> int:
        run = spec_id(parent.spec)
        if run not in self.spent:
            self.spent[run] = self._training(parent)
        return self.spent[run]

    def _price(self, cell: PlannedRun) -> Callable[[Any], int]:
        return price_of(self.backbone, cell)

    def _rows(self, cell: PlannedRun) -> list[Encoded]:
        given = self.study.train_set.examples
        examples = cell.method.transform(given, cell.plan.seed)
        return self.plain if examples is given else self.rows.encoded(examples)

    def _evaluation(self, cell: PlannedRun) -> int | None:
        """About what answering costs: validation after training, and for an arm the test questions."""
        looks = max(1, cell.selection.count)
        validation = len(self.study.validation_set.examples)
        limit = self.study.request("validation").limit
        asked = looks * (validation if limit is None else min(limit, validation))
        if cell.role == "arm":
            asked += len(self.study.request().dataset().examples)
        try:
            return asked * cost.price(cell.method, self._shape(cell), self._lengths()).flops
        except UsageError:
            return None

    def _shape(self, cell: PlannedRun) -> Shape:
        shape = self.backbone.shape()
        return dataclasses.replace(
            shape, vocabulary=max(shape.vocabulary, self.backbone.vocabulary + len(cell.method.markers()))
        )

    def _lengths(self) -> cost.Lengths:
        """The training rows' means."""
        rows = self.plain

        def mean(count: Callable[[Encoded], int]) -> int:
            return round(sum(map(count, rows)) / len(rows))

        chain, steps = mean(lambda e: sum(map(len, e.steps))), mean(lambda e: len(e.steps))
        return cost.Lengths(
            max(1, mean(lambda e: len(e.question))), chain, max(1, mean(lambda e: len(e.answer))), max(1, steps)
        )
