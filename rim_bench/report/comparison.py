"""Comparison tables: a pure function of stored runs. The same runs give the same bytes.

What `compare` keeps apart is never in the same section. Rows keep a fixed order, and nobody is bolded.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rim_bench.data.datasets import GUESS
from rim_bench.evidence import degenerate, split_protocol, training_budgets
from rim_bench.evidence.pairs import Pair, pairs
from rim_bench.evidence.rows import Accuracy, Evaluation, Group, LeftOut, Reason, Row, collect, headings, stamp
from rim_bench.evidence.stats.intervals import mean, wilson
from rim_bench.report import references
from rim_bench.report import sections as sections_module
from rim_bench.report.notes import changed_notes, evaluation_notes, matched, rule_notes
from rim_bench.report.references import References
from rim_bench.report.sets import (
    LM_EVAL_COLUMNS,
    lm_eval_records,
    lm_eval_section,
    overview,
    trained_elsewhere,
    transfer_notes,
)
from rim_bench.storage.records import ItemRecord
from rim_bench.storage.run_folder import Damaged, Run, omitted_lines
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record
from rim_bench.util.table import QUICK, Panel, Section, Table
from rim_bench.util.text import (
    backbone_label,
    format_accuracy,
    format_amount,
    format_bytes,
    format_flops,
    format_p,
    format_percent,
    format_points,
    leaves,
)

_FAILURES = ("unparseable", "empty", "capped", "overlong")
_MOST_LEVELS = 12  # more level columns than this are left to the CSV


# Costs
def lm_eval_score(row: Row, kind: str, ids: Sequence[str] | None = None) -> float | None:
    """lm-eval's own strict or flexible accuracy: from the items' `lm_eval_<kind>`, else the summary's `lm_eval`."""
    from_items = row.item_mean(f"lm_eval_{kind}", ids)
    return (
        row.part_mean(lambda e: (e.summary.get("lm_eval") or {}).get(kind))
        if from_items is None and ids is None
        else from_items
    )


def timing(source: str, kind: str, statistic: str = "median") -> Callable[[Evaluation], Any]:
    """Picks a latency out of an evaluation: source "latency" (batch 1) or "throughput", kind "ttft_ms" or "full_ms"."""
    return lambda e: ((e.summary.get(source) or {}).get(kind) or {}).get(statistic)


def _throughput(kind: str) -> Callable[[Row], str]:
    return lambda r: format_amount(r.part_mean(timing("throughput", kind)))


_COSTS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("passes", lambda r: format_amount(r.cost_mean("passes"))),
    ("passes to answer", lambda r: format_amount(r.cost_mean("passes_to_answer"))),
    ("FLOPs per item", lambda r: format_flops(r.flops())),
    ("generated tokens", lambda r: format_amount(r.cost_mean("generated_tokens"))),
    ("TTFT ms", lambda r: format_amount(r.part_mean(timing("latency", "ttft_ms")))),
    ("full answer ms", lambda r: format_amount(r.part_mean(timing("latency", "full_ms")))),
    ("training FLOPs", training_budgets.flops_text),
    ("budget met", training_budgets.closeness),
    ("train min", lambda r: format_amount(r.part_mean(lambda e: e.training.get("seconds")), 1 / 60)),
    ("training examples", training_budgets.examples_text),
    ("latent positions", lambda r: format_amount(r.cost_mean("latent_positions"))),
    ("KV cache", lambda r: format_bytes(r.cost_mean("kv_bytes"))),
    ("peak memory", lambda r: format_bytes(r.part_mean(lambda e: e.summary.get("peak_memory_bytes")))),
    ("TTFT ms (throughput)", _throughput("ttft_ms")),
    ("full answer ms (throughput)", _throughput("full_ms")),
    ("eval ex/s", lambda r: format_amount(r.part_mean(lambda e: e.summary.get("examples_per_s")))),
    ("train ex/s", lambda r: format_amount(r.part_mean(lambda e: e.training.get("examples_per_s")))),
)


def _accuracy_grids(group: Group) -> list[Panel]:
    head, *others = group.scopes
    if sum(s.level for s in others) > _MOST_LEVELS:
        others = [s for s in others if not s.level]
    others.sort(key=lambda s: not s.level)  # levels, then OOD as a whole
    long, short, second = [], [], []
    for row in group.rows:
        accuracies = [row.accuracy(s.ids) for s in others]
        main = format_accuracy(row.accuracy(head.ids), group.at_floor(row, head))
        size = (str(len(row.parts)), f"{len(head.ids):,}")
        long.append((row.label, *size, main, *(format_accuracy(a) for a in accuracies)))
        short.append((row.label, main, *(format_percent(a.value) for a in accuracies), *size))
        flexible = format_accuracy(row.accuracy(head.ids, lambda item: bool(item.get("flexible"))))
        rates = [format_percent(lm_eval_score(row, k)) for k in ("strict", "flexible")] + [
            format_percent(row.item_mean(k)) for k in _FAILURES
        ]
        second.append((row.label, flexible, *rates))
    names = ("method", "seeds", "n", f"accuracy % ({head.title})", *(f"{s.title} % (n={len(s.ids):,})" for s in others))
    small = ("method", "accuracy %", *(s.name + ("*" if s.ood and s.level else "") for s in others), "seeds", "n")
    scores = (
        "method",
        f"flexible % ({head.title})",
        "lm-eval strict %",
        "lm-eval flexible %",
        *(f"{k} %" for k in _FAILURES),
    )
    caption = "Accuracy, % with Wilson 95 % intervals"
    mark = "; * = OOD" if any(s.ood and s.level for s in others) else ""
    size_and_mark = f", n = {len(head.ids):,}" + (f" {head.title}" if others else "") + mark
    grids = [Panel(caption, names, tuple(long), False), Panel(caption + size_and_mark, small, tuple(short), True)]
    return [
        *grids,
        Panel(
            "Other scores and failures, % (of all questions where nothing else is said)", scores, tuple(second), False
        ),
    ]


def _block_grid(group: Group) -> Panel | None:
    """Accuracy after every block and of the best block an oracle would pick; never ranked."""
    head = group.scopes[0].ids
    rows = [r for r in group.rows if has_blocks(r, head)]
    if not rows:
        return None
    most = max(len(p.items[i].get("blocks") or ()) for r in rows for p in r.parts for i in head)
    lines = []
    for row in rows:
        after = [format_percent(a.value) if (a := block_accuracy(row, head, k)) else "-" for k in range(most)]
        any_block = format_accuracy(row.accuracy(head, any_block_correct))
        lines.append((row.label, format_percent(row.accuracy(head).value), any_block, *after))
    names = ("method", "scored answer %", "any block % (oracle)", *(f"block {k + 1}" for k in range(most)))
    return Panel(
        f"Upper bound: never ranked. Accuracy after every block, {group.scopes[0].title} (%)", names, tuple(lines)
    )


def any_block_correct(item: ItemRecord) -> bool:
    """Whether an oracle could pick a block with the right answer."""
    return any(b["correct"] for b in item.get("blocks") or ())


def has_blocks(row: Row, ids: Sequence[str]) -> bool:
    """Whether every seed answered after blocks.

    A question that it could not be asked (overlong) has none and counts as wrong.
    """
    return all(any(p.items[i].get("blocks") for i in ids) for p in row.parts)


def block_accuracy(row: Row, ids: Sequence[str], block: int) -> Accuracy | None:
    """Accuracy of the answer after block `block` (from 0); None where some question that has blocks has fewer."""
    counts = [len(p.items[i].get("blocks") or ()) for p in row.parts for i in ids]
    if any(0 < count <= block for count in counts) or not any(counts):
        return None
    return row.accuracy(ids, lambda item: bool(item.get("blocks") and item["blocks"][block]["correct"]))


def _pair_grids(group: Group, found: Sequence[Pair]) -> list[Panel]:
    if not found:
        return []
    retrained = any(p.p_seeds is not None for p in found)
    long: list[tuple[str, ...]] = []
    short: dict[
        str, list[tuple[str, ...]]
    ] = {}  # by set of questions: a terminal that is too narrow must not leave out which it is
    for p in found:
        scope, bounds, least = (
            p.scope.name,
            f"[{format_points(p.interval.low)}, {format_points(p.interval.high)}]",
            format_percent(p.detectable),
        )
        seeds = ("-" if p.p_seeds is None else format_p(p.p_seeds),) if retrained else ()
        numbers = (
            format_points(p.difference),
            f"{p.b} / {p.c}",
            format_p(p.p),
            format_p(p.holm),
            bounds,
            least,
            *seeds,
        )
        long.append((p.first.label, p.second.label, scope, *numbers, p.verdict.text()))
        if p.first is group.rows[0]:
            verdict = p.verdict.text("lower" if p.higher is p.first else "higher")
            line = (p.second.label, verdict, format_points(-p.difference), format_p(p.holm), least)
            short.setdefault(scope, []).append(line)
    caption = "Paired comparisons: difference in points, first minus second; Holm over all of them"
    names = ("first", "second", "questions", "difference", "only first / only second", "p (questions)", "Holm p")
    names_end = ("bootstrap 95 %", "smallest detectable", *(("p (seeds)",) if retrained else ()), "verdict")
    small = ("method", "verdict", "points", "Holm p", "detectable")  # the verdict first: points never stand without it
    out = [Panel(caption, (*names, *names_end), tuple(long), False)]
    for scope, lines in short.items():
        where = f", {scope}" if len(short) > 1 else ""
        against = f"Paired with {group.rows[0].label}{where}: method minus it, in points (every pair: table.md)"
        out.append(Panel(against, small, tuple(lines), True))
    return out


def _notes(group: Group, found: Sequence[Pair]) -> tuple[str, ...]:
    facts = group.facts
    parts = [p for r in group.rows for p in r.parts]
    head = group.scopes[0]

    def told(values: Iterable[Any]) -> str:
        return ", ".join(dict.fromkeys(str(v) for v in values))

    data = f"{facts.task}, version {facts.task_version}; split {facts.split}; n = {len(parts[0].items):,} questions; "
    data += f"data sha256 {facts.data[:12]}; "
    data += f"source {told(p.summary.get('data_source') for p in parts)}; evaluator version {facts.evaluator_version}."
    model = (
        f"Backbone {backbone_label(parts[0].spec.get('backbone'))}; training dtype "
        f"{told(p.spec.get('dtype') for p in parts)}; "
    )
    model += f"starts: {told(p.spec.get('start') for p in parts)}; seeds: {told(sorted({p.seed for p in parts}))}."
    notes = [data, model]
    settings: dict[str, set[str]] = {}
    for p in parts:
        for key, value in leaves(p.summary.get("settings") or {}).items():
            settings.setdefault(key, set()).add(str(value))
    if settings:
        notes.append(
            "Evaluation: " + "; ".join(f"{k} {', '.join(sorted(v))}" for k, v in sorted(settings.items())) + "."
        )
    answer, share = group.floor(head)
    what = answer if answer == GUESS else f"the best constant answer ({answer!r})"
    notes.append(f"Floor: {what} scores {format_percent(share)} % ({head.title}).")
    notes += _choice_note(group)
    if all(group.at_floor(r, head) for r in group.rows):
        notes.append("All accuracies are at the floor and cannot be ranked.")
    if any(len(r.parts) > 1 for r in group.rows):
        notes.append(
            "± is the standard deviation over training seeds; the interval is the question error of their mean on n "
            "questions."
        )
    if len({p.spec.get("start") for p in parts}) > 1:
        notes.append("Rows differ in their starting weights: a difference between them may be the start's.")
    if budget := matched(group.rows):
        notes.append(budget)
    batches = sorted({int(b) for p in parts if (b := (p.summary.get("throughput") or {}).get("batch")) is not None})
    if batches:
        notes.append(
            f"Throughput latencies: medians of questions answered {' or '.join(f'{b:,}' for b in batches)} at a time."
        )
    notes += [*evaluation_notes(parts), *transfer_notes(parts)]
    notes += dict.fromkeys(f"Questions: {note}." for p in parts for note in p.summary.get("data_notes") or ())
    notes += changed_notes(group.rows)
    cuts = sorted({p.cut for p in parts if p.cut is not None})
    notes += [f"First {cut:,} rows only: not the full set." for cut in cuts]
    notes += [f"{r.label}: {r.first.summary['prompt_note']}." for r in group.rows if r.first.summary.get("prompt_note")]
    notes += [
        *(rule_notes(group.rows) if found else ()),
        *_pair_notes(found),
        *sections_module.cluster_notes(group),
        *sections_module.claim_notes(group, found),
    ]
    notes += sections_module.selection_notes(group.rows)
    if group.quick:
        notes.append(f"{QUICK}.")
    return tuple(notes)


def _choice_note(group: Group) -> list[str]:
    """By what an item's choice was made, and what it would be for the choices' lengths; nothing of answers that were
    generated.
    """
    rules = sorted({str(rule) for r in group.rows for p in r.parts if (rule := p.summary.get("choice")) is not None})
    if not rules:
        return []
    title = group.scopes[0].title
    rates = ", ".join(
        f"{r.label} {format_percent(r.item_mean('correct_norm', group.scopes[0].ids))} %" for r in group.rows
    )
    return [
        f"Chosen by the {' or '.join(rules)}; by that over the choice's characters (lm-eval's acc_norm), {title}: "
        f"{rates}."
    ]


def _pair_notes(found: Sequence[Pair]) -> list[str]:
    """What the column "smallest detectable" means, and what can be said where it has no number."""
    if not found:
        return []
    text = (
        "Smallest detectable: the true difference found with 80 % power (two-sided 5 %) on n questions at the "
        "discordance observed"
    )
    alike = {p.scope.name: len(p.scope.ids) for p in found if p.detectable is None}
    if not alike:
        return [f"{text}."]
    # the bound is not put into that column: no difference within it is detectable, so the number would contradict
    # itself
    bounds = "; ".join(f"{format_percent(wilson(0, n).high)} % of n = {n:,} ({name})" for name, n in alike.items())
    return [
        f'{text}; "-" where no question is discordant: there is nothing to compute it from, and a bootstrap over the '
        "questions shows no "
        f"spread, whatever n is. The true discordance may still be up to {bounds}, Wilson 95 %, and the difference no "
        "more than that."
    ]


# The table
CSV_COLUMNS = (
    "stamp",
    "task",
    "task_version",
    "evaluator_version",
    "data_sha256",
    "train_sha256",
    "split",
    "backbone",
    "method",
    "label",
    "start",
    "effort",
    "seeds",
    "run_ids",
    "parent_ids",
    "set",
    "ood",
    "n",
    "accuracy",
    "ci_low",
    "ci_high",
    "seed_sd",
    "floor",
    "at_floor",
    "flexible",
    "lm_eval_strict",
    "lm_eval_flexible",
    "unparseable",
    "empty",
    "capped",
    "overlong",
    "generated_tokens",
    "latent_positions",
    "passes",
    "passes_to_answer",
    "flops_prefill",
    "flops_decode",
    "kv_bytes",
    "ttft_ms",
    "ttft_ms_p95",
    "full_ms",
    "full_ms_p95",
    "throughput_batch",
    "throughput_ttft_ms",
    "throughput_ttft_ms_p95",
    "throughput_full_ms",
    "throughput_full_ms_p95",
    "throughput_examples_per_s",
    "peak_memory_bytes",
    "eval_examples_per_s",
    "train_examples",
    "inherited_examples",
    "train_flops",
    "inherited_flops",
    "train_flops_executed",
    "train_flops_padding",
    "budget_kind",
    "budget_asked",
    "budget_used",
    "budget_last_step",
    "tuning_trials",
    "train_examples_per_s",
    "train_seconds",
    "limit",
    *sections_module.CLUSTER_COLUMNS,
    "flags",
)


def _records(group: Group, flagged: Sequence[degenerate.Flag]) -> list[Record]:
    out: list[Record] = []
    facts = group.facts
    for row in group.rows:
        first = row.first
        base: Record = {
            "stamp": stamp([row]), "task": facts.task, "task_version": facts.task_version,
            "evaluator_version": facts.evaluator_version, "data_sha256": facts.data, "split": facts.split,
            "backbone": backbone_label(first.spec.get("backbone")), "method": row.method,
            "label": row.label, "start": first.spec.get("start"), "effort": first.summary.get("effort"),
            "seeds": " ".join(str(p.seed) for p in row.parts), "run_ids": " ".join(p.run for p in row.parts),
            "parent_ids": " ".join(str(p.spec["parent"]) for p in row.parts if p.spec.get("parent")),
            "train_sha256": first.spec["task"].get("train_sha256"),
            "eval_examples_per_s": row.part_mean(lambda e: e.summary.get("examples_per_s")),
            "limit": first.summary.get("limit"),
        }  # fmt: skip
        base |= _run_measures(row) | sections_module.selection_measures(row)
        for scope in group.scopes:
            record = base | _measures(row.accuracy(scope.ids)) | {"set": scope.name, "ood": scope.ood}
            record |= {"floor": group.floor(scope)[1], "at_floor": group.at_floor(row, scope)}
            record |= sections_module.cluster_record(group, row, scope) | {
                "flags": degenerate.degenerate_text(flagged, row, scope)
            }
            record["flexible"] = row.accuracy(scope.ids, lambda item: bool(item.get("flexible"))).value
            whole = len(scope.ids) == len(first.items)
            record |= {
                f"lm_eval_{k}": lm_eval_score(row, k, None if whole else scope.ids) for k in ("strict", "flexible")
            }
            record |= {k: row.item_mean(k, scope.ids) for k in _FAILURES} | {
                k: row.cost_mean(k, scope.ids) for k in _COST_FIELDS
            }
            out.append(record)
        ids = group.scopes[0].ids
        if has_blocks(row, ids):
            for k in itertools.count():
                if (a := block_accuracy(row, ids, k)) is None:
                    break
                out.append(
                    base | _measures(a) | {"set": f"block {k + 1} ({group.scopes[0].name})", "ood": group.scopes[0].ood}
                )
            oracle = _measures(row.accuracy(ids, any_block_correct))
            out.append(
                base
                | oracle
                | {"set": f"any block, oracle, never ranked ({group.scopes[0].name})", "ood": group.scopes[0].ood}
            )
    return out


def _run_measures(row: Row) -> Record:
    """Costs of the run and of the evaluation as a whole, means over the seeds."""
    spec_budget = row.first.spec.get("budget") or {}
    out: Record = {}
    for prefix, source in (("", "latency"), ("throughput_", "throughput")):
        for kind, (suffix, statistic) in itertools.product(("ttft_ms", "full_ms"), (("", "median"), ("_p95", "p95"))):
            out[f"{prefix}{kind}{suffix}"] = row.part_mean(timing(source, kind, statistic))
    for name, field in (("throughput_batch", "batch"), ("throughput_examples_per_s", "examples_per_s")):
        out[name] = row.part_mean(lambda e, field=field: (e.summary.get("throughput") or {}).get(field))  # type: ignore[misc]
    out["peak_memory_bytes"] = row.part_mean(lambda e: e.summary.get("peak_memory_bytes"))
    for name, field in _TRAINING_FIELDS.items():
        out[name] = row.part_mean(lambda e, field=field: e.training.get(field, spec_budget.get(field)))  # type: ignore[misc]
    found = training_budgets.budgets(row)
    used, last = ([v for b in found if (v := getattr(b, field)) is not None] for field in ("used", "step"))
    out |= {
        "budget_kind": found[0].kind,
        "budget_asked": found[0].asked,
        "tuning_trials": training_budgets.tuning_trials(row),
    }
    return out | {"budget_used": mean(used) if used else None, "budget_last_step": mean(last) if last else None}


_TRAINING_FIELDS = {
    "train_examples": "examples", "inherited_examples": "inherited_examples", "train_examples_per_s": "examples_per_s",
    "train_seconds": "seconds", "train_flops": "flops", "inherited_flops": "inherited_flops",
    "train_flops_executed": "flops_executed", "train_flops_padding": "flops_padding",
}  # fmt: skip
_COST_FIELDS = (
    "generated_tokens",
    "latent_positions",
    "passes",
    "passes_to_answer",
    "flops_prefill",
    "flops_decode",
    "kv_bytes",
)


def _measures(a: Accuracy) -> Record:
    return {"n": a.n, "accuracy": a.value, "ci_low": a.interval.low, "ci_high": a.interval.high, "seed_sd": a.sd}


def comparison(
    runs: Iterable[Run],
    *,
    title: str = "Comparison of reasoning methods",
    split: str | None = None,
    damaged: Iterable[Damaged] = (),
    published: References | None = None,
) -> Table:
    """The comparison table of stored runs, a pure function of what lies in their folders.

    `split` keeps the evaluations on one split; `damaged` (from `Store.runs`) are named under the table; `published`
    numbers of the same task get a grid of their own, and are in no ranking and no CSV.

    Raises:
        UsageError: none of the runs has an evaluation that can be read.
    """
    runs = list(runs)
    groups, no_rows = collect(runs, split)
    by_splits, missing = split_protocol.scored_runs(runs, split)
    left_out = [one.text() for one in no_rows if one.reason is not Reason.ON_TEST]  # those have a section of their own
    left_out += omitted_lines(runs)
    left_out += [*map(LeftOut.text, missing), *(f"{d.path.name}: {d.reason}" for d in damaged)]
    if not groups and not by_splits:
        raise UsageError(
            "there is nothing to compare: "
            + ("; ".join(left_out) or "no run is stored there; `rim-bench run` makes some")
        )
    sections = overview(groups)
    whole = not sections  # else the terminal shows other tasks' sets in the overview alone
    records: list[Record] = []
    for group, heading in zip(groups, headings(groups), strict=True):
        found = pairs(group)
        flagged = degenerate.flags(group, found)
        names, texts = zip(*_COSTS, strict=True)
        lines = tuple((r.label, *(text(r) for text in texts)) for r in group.rows)
        costs = Panel("Cost (means per question; latency at batch 1, median)", ("method", *names), lines)
        blocks = _block_grid(group)
        tuned = sections_module.tuning_panels(group.rows)
        grids = [
            *_accuracy_grids(group),
            *sections_module.degenerate_panels(flagged),
            *sections_module.cluster_panels(group),
            costs,
            *(g for g in (blocks, tuned) if g),
        ]
        grids += [*_pair_grids(group, found), *sections_module.claim_panels(group, found)]
        records += _records(group, flagged)
        beside, told = ([], []) if published is None else references.section(group, published)
        brief = not whole and all(trained_elsewhere(p) for r in group.rows for p in r.parts)
        title_ = f"{heading} ({QUICK})" if group.quick else heading
        sections.append(Section(title_, (*grids, *beside), (*_notes(group, found), *told), brief))
    sections += sections_module.split_sections(by_splits) + lm_eval_section(runs)
    records += sections_module.split_records(by_splits) + lm_eval_records(runs)
    columns = (
        *CSV_COLUMNS,
        *sections_module.selection_columns(
            records, (*sections_module.TUNING_COLUMNS, *sections_module.SPLIT_COLUMNS, *LM_EVAL_COLUMNS)
        ),
    )
    quick = any(g.quick for g in groups) or any(s.quick for s in by_splits)
    return Table(title, quick, tuple(sections), tuple(records), columns, tuple(left_out))
