"""Comparison tables: a pure function of stored runs. The same runs give the same bytes.

What may not be compared is never in the same section.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rim_bench.evidence import degenerate, split_protocol
from rim_bench.evidence.pairs import Pair
from rim_bench.evidence.pairs import pairs as pairs_of
from rim_bench.evidence.rows import Accuracy, Evaluation, Group, LeftOut, Reason, Row, Subset, collect, headings, stamp
from rim_bench.evidence.training_budgets import Budget, tuning_flops, tuning_trials
from rim_bench.report import references, sections
from rim_bench.report.notes import comparison_notes, trained_elsewhere
from rim_bench.report.references import References
from rim_bench.report.sets import LM_EVAL_COLUMNS, lm_eval_records, lm_eval_section, overview
from rim_bench.storage.run_folder import Damaged, Run, omitted_lines
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record
from rim_bench.util.progress import phase
from rim_bench.util.table import QUICK, Section, Table

_COST_FIELDS = (
    "generated_tokens", "latent_positions", "passes", "passes_to_answer", "flops_prefill", "flops_decode", "kv_bytes",
)  # fmt: skip
_CLUSTER_COLUMNS = ("clusters", "clustered_se", "clustered_low", "clustered_high", "design_effect")
CSV_COLUMNS = (
    "stamp", "task", "task_version", "evaluator_version", "data_sha256", "train_sha256", "split", "backbone",
    "method", "label", "start", "effort", "seeds", "run_ids", "parent_ids", "set", "ood", "n",
    "accuracy", "ci_low", "ci_high", "seed_sd", "floor", "floor_of", "floor_low", "floor_high", "at_floor",
    "flexible", "lm_eval_strict", "lm_eval_flexible",
    *sections.FAILURES, *_COST_FIELDS, "ttft_ms", "ttft_ms_p95", "full_ms", "full_ms_p95", "throughput_batch",
    "throughput_ttft_ms", "throughput_ttft_ms_p95", "throughput_full_ms", "throughput_full_ms_p95",
    "throughput_examples_per_s", "peak_memory_bytes", "eval_examples_per_s", "train_examples", "inherited_examples",
    "train_flops", "inherited_flops", "train_flops_executed", "train_flops_padding", "budget_kind", "budget_asked",
    "budget_used", "budget_last_step", "tuning_trials", "train_examples_per_s", "train_seconds", "limit",
    "engine", "commits", *_CLUSTER_COLUMNS, "flags",
)  # fmt: skip
_RUN_NUMBERS: dict[str, Callable[[Evaluation], Any]] = {  # of an evaluation and its run as a whole
    "throughput_batch": lambda e: getattr(e.summary.throughput, "batch", None),
    "throughput_examples_per_s": lambda e: getattr(e.summary.throughput, "examples_per_s", None),
    "peak_memory_bytes": lambda e: e.summary.peak_memory_bytes,
    "eval_examples_per_s": lambda e: e.summary.examples_per_s,
    "train_examples": lambda e: e.examples,
    "inherited_examples": lambda e: e.inherited_examples,
    "train_flops": lambda e: e.training.flops,
    "inherited_flops": lambda e: e.training.inherited_flops,
    "train_flops_executed": lambda e: e.training.flops_executed,
    "train_flops_padding": lambda e: e.training.flops_padding,
    "train_examples_per_s": lambda e: e.training.examples_per_s,
    "train_seconds": lambda e: e.training.seconds,
    "budget_used": lambda e: Budget.of(e).used,
    "budget_last_step": lambda e: Budget.of(e).step,
} | {
    f"{prefix}{kind}{suffix}": sections.timing(source, kind, statistic)
    for prefix, source in (("", "latency"), ("throughput_", "throughput"))
    for kind in ("ttft_ms", "full_ms")
    for suffix, statistic in (("", "median"), ("_p95", "p95"))
}
_OVERLAP_COLUMNS = (
    "overlap_train_exact", "overlap_train_masked", "overlap_validation_exact", "overlap_validation_masked",
)  # fmt: skip
OPTIONAL_COLUMNS = (  # only where some record has one: a table of runs that chose nothing looks as it always did
    "checkpoint", "chosen_step", "tuning_flops", "tuning_rate", *_OVERLAP_COLUMNS, *sections.SPLIT_COLUMNS,
    *LM_EVAL_COLUMNS,
)  # fmt: skip


def used_columns(records: Iterable[Record], names: Sequence[str]) -> tuple[str, ...]:
    """Of these columns those that some record has."""
    used = {key for record in records for key in record}
    return tuple(name for name in names if name in used)


def _records(group: Group, pairs: Sequence[Pair]) -> list[Record]:
    """The numbers of a group for the CSV: a line for each row and set, and for each block."""
    flags = degenerate.flags(group, pairs)
    out: list[Record] = []
    for row in group.rows:
        base, head = _row_record(group, row), group.scopes[0]
        for scope in group.scopes:
            ids = scope.ids
            record = base | _measures(row.accuracy(ids)) | {"set": scope.name, "ood": scope.ood}
            record |= _floor_record(group, row, scope)
            record |= _cluster_record(group, row, scope)
            record["flags"] = degenerate.degenerate_text(flags, row, scope)
            record["flexible"] = row.accuracy(ids, lambda item: item.flexible).value
            whole = len(ids) == len(row.first.items)
            for kind in ("strict", "flexible"):
                record[f"lm_eval_{kind}"] = sections.lm_eval_score(row, kind, None if whole else ids)
            record |= {k: row.item_mean(k, ids) for k in sections.FAILURES}
            out.append(record | {k: row.cost_mean(k, ids) for k in _COST_FIELDS})
            if len(row.parts) > 1 and not scope.level:
                for one in map(row.of_seed, row.parts):
                    record = _row_record(group, one) | _measures(one.accuracy(ids))
                    record |= {"set": f"{scope.name}, seed {one.first.seed}", "ood": scope.ood}
                    out.append(record | _floor_record(group, one, scope))
        if after := sections.block_accuracies(row, head.ids):
            names = [f"block {k + 1} ({head.name})" for k in range(len(after))]
            names.append(f"any block, oracle, never ranked ({head.name})")
            after.append(row.accuracy(head.ids, sections.any_block_correct))
            for name, accuracy in zip(names, after, strict=True):
                out.append(base | _measures(accuracy) | {"set": name, "ood": head.ood})
    return out


def _floor_record(group: Group, row: Row, scope: Subset) -> Record:
    """The floor of a set of questions, and whether the row is at it."""
    floor = group.floor(scope)
    named = {"floor_of": floor.text(), "floor_low": floor.interval.low, "floor_high": floor.interval.high}
    return {"floor": floor.value, **named, "at_floor": group.at_floor(row, scope)}


def _row_record(group: Group, row: Row) -> Record:
    """What holds for a row on all sets: what it is, and means over its seeds of what the runs cost."""
    first, facts = row.first, group.facts
    budget = Budget.of(first)
    out: Record = {
        "stamp": stamp([row]), "task": facts.task, "task_version": facts.task_version,
        "evaluator_version": facts.evaluator_version, "data_sha256": facts.data, "split": facts.split,
        "train_sha256": first.spec.task.train_sha256,
        "backbone": first.spec.backbone.label, "method": row.method, "label": row.label,
        "start": first.spec.start, "effort": first.summary.effort,
        "seeds": row.seeds_text, "run_ids": row.runs_text,
        "parent_ids": " ".join(str(p.spec.parent) for p in row.parts if p.spec.parent),
        "limit": first.summary.limit, "tuning_trials": tuning_trials(row),
        "engine": facts.engine, "commits": " ".join(sorted({c for p in row.parts for c in p.commits})),
        "budget_kind": budget.kind, "budget_asked": budget.asked,
    }  # fmt: skip
    out |= {name: row.part_mean(pick) for name, pick in _RUN_NUMBERS.items()}
    if (rule := first.spec.rule) is not None:
        steps = [str(p.training.chosen.step) for p in row.parts]
        out |= {"checkpoint": rule, "chosen_step": " ".join(steps)}
    if (shared := first.summary.overlap) is not None and shared.any:
        out |= {name: getattr(shared, name.removeprefix("overlap_")) for name in _OVERLAP_COLUMNS}
    if (flops := tuning_flops(row)) is not None:
        rates = dict.fromkeys(f"{t.chosen:g}" for p in row.parts if (t := p.training.tuning))
        out |= {"tuning_flops": flops, "tuning_rate": " ".join(rates)}
    return out


def _cluster_record(group: Group, row: Row, scope: Subset) -> Record:
    """The clustered numbers of a row on a set of questions; nothing where no two of them share a source."""
    if (clusters := group.clusters(scope)) is None:
        return {}
    if (by_source := sections.clustered_accuracy(row, scope, clusters)) is None:
        return {"clusters": 1}
    effect = None if math.isnan(by_source.design_effect) else by_source.design_effect
    return dict(zip(_CLUSTER_COLUMNS, (by_source.clusters, by_source.se, *by_source.interval, effect), strict=True))


def _measures(a: Accuracy) -> Record:
    return {"n": a.n, "accuracy": a.value, "ci_low": a.interval.low, "ci_high": a.interval.high, "seed_sd": a.sd}


@dataclass(frozen=True)
class Compared:
    """Stored runs in groups that may be compared, each with its pairs: what a table and a report are written from."""

    runs: tuple[Run, ...]
    groups: tuple[Group, ...]
    pairs: tuple[tuple[Pair, ...], ...]  # of each group
    left_out: tuple[LeftOut, ...]
    split: str | None

    @property
    def headings(self) -> list[str]:
        """A title for each group."""
        return headings(self.groups)


@phase("comparing the runs")
def compared(runs: Iterable[Run], split: str | None = None) -> Compared:
    """The groups of stored runs with their pairs; `split` keeps the evaluations on one split."""
    groups, left_out = collect(runs := tuple(runs), split)
    return Compared(runs, tuple(groups), tuple(tuple(pairs_of(g)) for g in groups), tuple(left_out), split)


def comparison(
    runs: Iterable[Run],
    *,
    title: str = "Comparison of reasoning methods",
    split: str | None = None,
    damaged: Iterable[Damaged] = (),
    published: References | None = None,
) -> Table:
    """The comparison table of stored runs, a pure function of what lies in their folders.

    `split` keeps the evaluations on one split; `damaged` (from `Store.runs`) and what turns out to be
    damaged are rows without a number; `published` numbers of the same task get a panel of their own, and are in no
    ranking and no CSV.

    Raises:
        UsageError: none of the runs has an evaluation that can be read.
    """
    return table_of(compared(runs, split), title=title, damaged=damaged, published=published)


@phase("writing the table")
def table_of(
    what: Compared,
    *,
    title: str = "Comparison of reasoning methods",
    damaged: Iterable[Damaged] = (),
    published: References | None = None,
) -> Table:
    """The table of `comparison` from groups that are there already; arguments and errors as there."""
    groups, split = what.groups, what.split
    by_splits, missing = split_protocol.scored_runs(what.runs, split)
    no_rows = [item for item in what.left_out if item.reason is not Reason.ON_TEST]  # those have a section of their own
    bad = sections.damaged_runs(damaged, [*no_rows, *missing])
    runs = [run for run in what.runs if run.id not in bad]
    left_out = [item.text() for item in no_rows if item.reason is not Reason.DAMAGED] + omitted_lines(runs)
    left_out += [item.text() for item in missing if item.reason is not Reason.DAMAGED]
    if not groups and not by_splits:
        reasons = [f"{name}: {why}" for name, why in bad.items()] + left_out
        why = "; ".join(reasons) or "no run is stored there; `rim-bench run` makes some"
        raise UsageError(f"there is nothing to compare: {why}")
    parts = overview(groups)
    whole = not parts  # else the terminal shows other tasks' sets in the overview alone
    records: list[Record] = []
    for group, pairs, heading in zip(groups, what.pairs, what.headings, strict=True):
        panels = [panel for section in sections.SECTIONS for panel in section(group, pairs)]
        notes = list(comparison_notes(group, pairs))
        if published is not None:
            published_panels, published_notes = references.section(group, published)
            panels += published_panels
            notes += published_notes
        records += _records(group, pairs)
        brief = not whole and all(trained_elsewhere(p) for r in group.rows for p in r.parts)
        parts.append(Section(f"{heading} ({QUICK})" if group.quick else heading, tuple(panels), tuple(notes), brief))
    parts += sections.split_sections(by_splits) + lm_eval_section(runs) + sections.damaged_section(bad)
    records += sections.split_records(by_splits) + lm_eval_records(runs)
    records += [{"stamp": sections.DAMAGED, "label": name, "run_ids": name, "flags": why} for name, why in bad.items()]
    columns = CSV_COLUMNS + used_columns(records, OPTIONAL_COLUMNS)
    quick = any(g.quick for g in groups) or any(s.quick for s in by_splits)
    return Table(title, quick, tuple(parts), tuple(records), columns, tuple(left_out))
