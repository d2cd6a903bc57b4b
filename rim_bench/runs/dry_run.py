"""What a grid would do and cost: its runs, how far each one is, and FLOPs from the accountant.

Training FLOPs are exact, as the order of examples and their layouts are known before training; those of an evaluation
are an estimate, as how much a model writes is not. Nothing is fetched from a hub, trained, or written.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from rim_bench.compute import cost
from rim_bench.compute.training_flops import training_cost
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.losses import group_counts, tree_loss
from rim_bench.engine.packing import PackedModel
from rim_bench.engine.pretrained import stored_here
from rim_bench.engine.trained_model import build_bridges
from rim_bench.methods.method import Encoded, Example
from rim_bench.methods.schedule import planned_flops
from rim_bench.runs.grid import labels_among
from rim_bench.runs.planned_run import Plan, PlannedRun, arms, at_choices, starts, trials
from rim_bench.runs.study import StudySetting
from rim_bench.runs.training import check_budget, evaluation_request, is_evaluated, price_of
from rim_bench.runs.tuning import same_training, stored_choices
from rim_bench.storage.records import TrainingRecord
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record, canonical
from rim_bench.util.progress import phase
from rim_bench.util.table import Panel, Section, Table
from rim_bench.util.text import format_flops, format_number

MEASURED_ROWS, MEASURED_PASSES = 4, 3  # of a training pass whose rate is measured
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

    def table(self, rate: float | None, *, measured: bool = False) -> Table:
        """As text; `measured`: the rate was measured here, and not given."""
        timed = ("hours left",) if rate is not None else ()
        left = "training FLOPs", "left", "evaluation ≈"
        columns = ("cell", "state", *left, *timed, "run", "starts from", "role", "budget")
        rows: list[tuple[str, ...]] = []
        for p in self.planned:
            spent = [format_flops(v) for v in (p.train_flops, p.train_left, p.evaluation_flops)]
            hours = [_hours(p.hours(rate))] if rate is not None else []
            rows.append((p.cell, p.state, *spent, *hours, p.run or LATER, p.parent or "-", p.role, p.budget))
        data = self.data(rate)
        totals = data["totals"]
        flops = (format_flops(totals[k]) for k in ("train_flops", "train_left", "evaluation_flops"))
        total_row = [f"in all: {totals['cells']}", "", *flops]
        total_row += [_hours(totals["hours_left"])] if rate is not None else []
        rows.append((*total_row, *[""] * (len(columns) - len(total_row))))
        grid = Panel("Starts and trials, then what begins from them", columns, tuple(rows))
        notes = [
            "Training FLOPs: forward and backward over visible keys, no padding, exact for budgets in examples; what "
            "is inherited stands at the cell it comes from, and is taken off a budget in FLOPs.",
            "Evaluation: an estimate, as if answers were as long as the training rows' (one answer a test question, "
            "and a look at validation for every checkpoint that is weighed); further sets, controls and curves are "
            "not in it.",
        ]
        if rate is not None:
            notes.append(
                f"Hours: what is left at {format_flops(rate)}FLOPs/s, one cell after the other "
                + (f"(measured here, on {MEASURED_ROWS} rows)." if measured else "(train.json has flops and seconds).")
            )
        sections = (Section("Cells", (grid,), tuple(notes)),)
        records, title = tuple(data["cells"]), "Dry run: nothing was trained or stored"
        return Table(title, self.quick, sections, records, tuple(records[0]), file="--format markdown")


@phase("measuring the rate of a training pass")
def measured_rate(plans: Sequence[Plan]) -> float | None:
    """Headline FLOPs a second of a training pass of the first arm on a few rows, here; None for a model from scratch.

    Those take seconds to try, and their rate depends on what stands around the products.
    """
    planned = arms(plans[0])[0]
    study, method = planned.study, planned.method
    if study.backbone["kind"] == "scratch":
        return None
    backbone = Backbone.create(
        study.backbone, markers=method.markers(), device=study.device, dtype=study.precision.dtype
    )
    workspace = PackedModel(backbone, build_bridges(method, backbone, 0))
    rows = [backbone.encode_example(e) for e in study.data[0].examples[:MEASURED_ROWS]]
    layouts = [method.lay_train(row, method.stages()[-1], 1.0, random.Random(0)) for row in rows]
    backbone.model.train()
    shape, trains = workspace.shape(), backbone.trains()
    seconds = []
    for _ in range(MEASURED_PASSES):  # the first one warms up
        began = time.perf_counter()
        with backbone.autocast():
            loss, _ = tree_loss(backbone, workspace.forward(layouts), group_counts(layouts))
        loss.backward()  # type: ignore[no-untyped-call]
        if backbone.device.type == "cuda":
            torch.cuda.synchronize(backbone.device)
        seconds.append(time.perf_counter() - began)
    return sum(training_cost(shape, trains, layout) for layout in layouts) / min(seconds[1:])


@phase("pricing the planned runs")
def dry_run(plans: Sequence[Plan]) -> DryRun:
    """The runs of the plans with their state and price.

    Raises:
        UsageError: a hub backbone that was not fetched yet: without its tokenizer there are no lengths, and so no
            price; or a damaged run folder, which the run would refuse too.
    """
    for plan in plans:
        spec = plan[0].study.backbone
        if spec["kind"] == "hub" and stored_here(str(spec["hub"]), spec.get("revision")) is None:
            raise UsageError(
                f"a dry run fetches nothing, and {spec['hub']} is not stored on this machine: without its tokenizer a "
                "grid has no price; fetch it with `hf download`, or see `rim-bench cost` for a price list from lengths"
            )
        check_budget(plan)
    label = labels_among(plans)
    shared: dict[str, _Rows] = {}  # budgets of one study have their rows in common
    rows: dict[str, DryRunRow] = {}
    for plan in plans:
        study, tried = plan[0].study, trials(plan)
        key = canonical(
            [study.task.name, study.data[0].sha256, study.options.limit, study.options.steps, study.backbone]
        )
        if key not in shared:
            shared[key] = _Rows(study)
        accountant = _Accountant(shared[key], tried)
        for planned in (*starts(plan), *tried, *arms(at_choices(plan, stored_choices(tried)))):
            if planned.id not in rows:
                rows[planned.id] = accountant.row(planned, label(planned))
    return DryRun(tuple(rows.values()), any(plan[0].study.options.quick for plan in plans))


def _hours(value: float | None) -> str:
    """Two decimals, and never 0.00 for what is more than nothing."""
    return "<0.01" if value is not None and 0 < value < 0.01 else format_number(value, 2)


class _Rows:
    """What prices are made of: a backbone, and the training rows as it encodes them."""

    def __init__(self, study: StudySetting) -> None:
        self.backbone = Backbone.create(study.backbone, texts=study.texts, pattern=study.task.token_pattern)
        self.plain = self.encoded(study.data[0].examples)

    def encoded(self, examples: Sequence[Example]) -> list[Encoded]:
        return [self.backbone.encode_example(e) for e in examples]

    def mean_lengths(self) -> cost.Lengths:
        """The training rows' means."""

        def mean(count: Callable[[Encoded], int]) -> int:
            return round(sum(map(count, self.plain)) / len(self.plain))

        question, answer = mean(lambda e: len(e.question)), mean(lambda e: len(e.answer))
        chain, steps = mean(lambda e: sum(map(len, e.steps))), mean(lambda e: len(e.steps))
        return cost.Lengths(max(1, question), chain, max(1, answer), max(1, steps))


class _Accountant:
    """Prices the runs of one plan."""

    def __init__(self, rows: _Rows, trials: Plan) -> None:
        self.rows, self.backbone, self.trials = rows, rows.backbone, trials
        self.spent: dict[str, int] = {}  # by run id: what runs that start from it inherit

    def row(self, planned: PlannedRun, label: str) -> DryRunRow:
        study, run, is_arm = planned.study, planned.run, planned.role == "arm"
        undecided = is_arm and study.options.search is not None and planned.choice is None  # its rate, and so its run
        if not undecided and run.path.exists():
            run.check(planned.spec)  # as the run itself will
        whole = self.spent[planned.id] = self._training(planned)
        trained = run.trained
        checkpoint = None if trained else run.latest_checkpoint()
        done = trained and (not is_arm or is_evaluated(planned))
        state = "new" if checkpoint is None else f"resumable at step {checkpoint[0]:,}"
        state = ("evaluated" if is_arm else "done") if done else "trained" if trained else state
        spent = whole if trained else 0
        if checkpoint is not None:
            spent = sum(int(m["flops"]) for m in run.metrics()[: checkpoint[0]])
        tried = [t.spec for t in self.trials if is_arm and t.method.name == planned.method.name]
        if any(same_training(replace(planned.spec, optimizer=t.optimizer, method=t.method), t) for t in tried):
            state, spent = (state if trained else f"{state}, the winning trial itself"), whole  # whichever wins
        answers, plan = self._evaluation(planned), planned.plan
        return DryRunRow(
            cell=label,
            role=planned.role,
            method=planned.method.name,
            seed=plan.seed,
            task=study.task.name,
            budget=f"train-flops={plan.flops:.4g}" if plan.flops else f"examples={plan.examples}",
            run=None if undecided else planned.id,
            parent=None if planned.parent is None else planned.parent.id,
            state="new" if undecided and not spent else state,
            train_flops=whole,
            train_left=max(0, whole - spent),
            evaluation_flops=answers,
            evaluation_left=0 if done else answers,
        )

    def _training(self, planned: PlannedRun) -> int:
        """FLOPs of training without what is inherited: those that were counted, where it is trained."""
        if planned.id in self.spent:
            return self.spent[planned.id]
        stored = planned.run.training() or TrainingRecord()
        if stored.flops is not None or not planned.trains:
            return stored.flops or 0
        method, plan = planned.method, planned.plan
        if plan.flops:
            return plan.flops - (0 if planned.parent is None else self._training(planned.parent))
        rows = planned.study.data[0].examples
        examples = method.transform(rows, plan.seed)
        encoded = self.rows.plain if examples is rows else self.rows.encoded(examples)
        return planned_flops(method, encoded, plan, str(planned.spec.start), price_of(self.backbone, method))

    def _evaluation(self, planned: PlannedRun) -> int | None:
        """About what answering costs: validation after training, and for an arm the test questions."""
        study, markers = planned.study, planned.method.markers()
        validation, limit = len(study.data[1].examples), evaluation_request(study, "validation").limit
        looks = max(1, planned.selection.count) if planned.trains else 0
        asked = looks * (validation if limit is None else min(limit, validation))
        if planned.role == "arm":
            asked += len(evaluation_request(study).dataset().examples)
        shape = self.backbone.shape()
        shape = dataclasses.replace(shape, vocabulary=max(shape.vocabulary, self.backbone.vocabulary + len(markers)))
        try:
            return asked * cost.price(planned.method, shape, self.rows.mean_lengths()).flops
        except UsageError:
            return None
