"""What a table says of questions that share a source: each row's clustered error beside Wilson's interval.

What was chosen on validation before the test questions were seen, checkpoints and learning rates, as parts of tables.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rim_bench.evidence.claims import ClaimOutcome, evaluated_controls, findings
from rim_bench.evidence.degenerate import Flag
from rim_bench.evidence.pairs import Pair
from rim_bench.evidence.rows import Evaluation, Group, Row, Subset
from rim_bench.evidence.split_protocol import Result, Scored
from rim_bench.evidence.stats import clustered
from rim_bench.evidence.stats.intervals import Clustered
from rim_bench.evidence.training_budgets import tuning_flops, tuning_of
from rim_bench.methods.controls import CONTROLS
from rim_bench.report.notes import cluster_note
from rim_bench.storage.selection import SPLITS
from rim_bench.util.files import Record
from rim_bench.util.table import QUICK, Panel, Section
from rim_bench.util.text import (
    backbone_label,
    backbone_short,
    format_accuracy,
    format_flops,
    format_interval,
    format_number,
    format_percent,
)


def degenerate_panels(found: Sequence[Flag]) -> list[Panel]:
    """A grid of them, if there are any; for the terminal one for each set of questions, without the bounds."""
    if not found:
        return []
    caption, names = "Flags: look at these rows' outputs before comparing them", ("method", "flag", "questions")
    out = [Panel(caption, names, tuple((f.row.label, f.text, f.scope.name) for f in found), False)]
    for scope in dict.fromkeys(f.scope.name for f in found):
        lines = tuple((f.row.label, f.finding) for f in found if f.scope.name == scope)
        out.append(Panel(f"Flags, {scope}: look at these rows' outputs before comparing them", names[:2], lines, True))
    return out


# The grid
def claim_panels(group: Group, found: Sequence[Pair]) -> list[Panel]:
    """The grid of controls; none where the table compares no method that has any."""
    told = findings(group, found)
    if not told:
        return []
    scopes = [s.name for s in group.scopes if not s.level]
    several = len(scopes) > 1
    long, short = [], []
    for f in told:
        says = [f.says.get(name) or f.says.get("") for name in scopes]
        long.append(
            (
                f.control,
                f.of,
                f.claim,
                *(cell for s in says for cell in (("-", "") if s is None else (s.points, s.text()))),
            )
        )
        short.append((f.control, f.of, *(("", "-") if says[0] is None else (says[0].outcome.value, says[0].points))))
    names = [n + (f" ({s})" if several else "") for s in scopes for n in ("method − control", "the claim is")]
    caption = "Controls: what each one says of the claim that it tests (points; from the paired comparisons)"
    brief = (
        "Controls"
        + (f", {scopes[0]}" if several else "")
        + ": method, verdict on the claim, points (claims and reasons: table.md)"
    )
    return [
        Panel(caption, ("control", "of", "claim it tests", *names), tuple(long), False),
        Panel(brief, ("control", "of", "claim", "points"), tuple(short), True),
    ]


def claim_notes(group: Group, found: Sequence[Pair]) -> list[str]:
    """What the words mean, and the controls that have no row."""
    if not findings(group, found):
        return []
    supported, not_shown = ClaimOutcome.SUPPORTED.value, ClaimOutcome.NOT_SHOWN.value
    out = [
        f'Controls: "{supported}" only where the method is called higher than its control, nothing else differs, and '
        "the control "
        f'would be behind even if all its empty, unparseable and capped outputs had been right; tied is "{not_shown}". '
        "With "
        "several seeds the seeds' p must also stay under 0.05 after Holm over the claims of this grid."
    ]
    rows = [r for r in group.rows if r.first.default]
    missing: dict[str, list[str]] = {}
    for method in dict.fromkeys(r.method for r in rows):
        for c in (c for c in CONTROLS if c.of == method):
            there = (
                any(True for _ in evaluated_controls(group, c))
                if c.evaluation
                else any(r.method == c.method for r in rows)
            )
            if not there:
                missing.setdefault(method, []).append(c.label)
    out += [
        f"Controls of {method} without a row, so that their claims are not tested: {', '.join(m)}."
        for method, m in missing.items()
    ]
    return out


SPLIT_COLUMNS = ("split_se", "held_out", "scored")


def split_sections(found: Sequence[Scored]) -> list[Section]:
    """A section for each set of comparable runs: no ranks, no pairs, nothing of the ordinary tables."""
    groups: dict[tuple[str, ...], list[Scored]] = {}
    for one in found:
        groups.setdefault(one.facts, []).append(one)
    return [_split_section(groups[facts]) for facts in sorted(groups)]


def _split_section(found: Sequence[Scored]) -> Section:
    first, tuned = found[0], any(one.tuned is not None for one in found)
    grids = []
    for name in first.sets():
        rows = []
        for one in found:
            items = one.sets()[name]
            result = one.result(items)
            steps = [c["step"] for c in one.summary["candidates"]]
            counts = Counter(steps[s.chosen] for s in result.splits)
            chosen = ", ".join(f"{step:,} ({n})" for step, n in sorted(counts.items()))
            size = (f"{len(result.splits[0].held):,}", f"{len(result.splits[0].scored):,}")
            main = f"{format_percent(result.accuracy)} ± {num_se(result)} split SE"
            told = (str(one.run.spec["seed"]), *size, chosen, *([one.tuned or "-"] if tuned else []))
            rows.append((one.label, main, format_percent(result.last), *told))
        columns = (
            "method",
            "accuracy % on the scored",
            "last candidate %",
            "seed",
            "chosen on",
            "scored on",
            "step chosen (splits)",
        )
        names = (*columns, "learning rate (trials, tuning FLOPs)") if tuned else columns
        grids.append(
            Panel(f"Mean over 16 random splits, {name}: selects on test items, never ranked", names, tuple(rows))
        )
    summary, spec = first.summary, first.run.spec
    told, where = spec["selection"], f"{summary['task_title']}, {summary['split']}, {backbone_short(spec['backbone'])}"
    stamp = f" ({QUICK})" if any(s.quick for s in found) else ""
    small = (
        ("Sets of questions that are too few for the protocol are left out.",)
        if any(one.too_few for one in found)
        else ()
    )
    notes = (
        f"{summary['task_title']}, version {summary['task_version']}; split {summary['split']}; n = {summary['n']:,} "
        "questions; data "
        f"sha256 {str(summary['data_sha256'])[:12]}; evaluator version {summary['evaluator_version']}; backbone "
        f"{backbone_label(spec['backbone'])}.",
        f"RiM's published protocol: in each of {told['splits']} seeded random splits {100 * told['share']:g} % of the "
        "test questions "
        f"choose the checkpoint with the best greedy accuracy (of equal ones {told['ties']}), and only the others "
        "score it. It selects on "
        "test items, so these numbers compare with no row of another section. Last candidate: no choice at all, on the "
        "same questions.",
        "split SE: standard deviation over splits divided by the root of their number. All splits share the same "
        "questions, so it says how "
        "much the split matters, and is no sampling error.",
        *small,
    )
    return Section(f"{where}: {SPLITS} protocol, selects on test items{stamp}", tuple(grids), notes)


def num_se(result: Result) -> str:
    """The split SE in points: two digits where it is small."""
    return format_number(result.split_se, 2, 100)


def split_records(found: Sequence[Scored]) -> list[Record]:
    """The same numbers for the CSV: a line for each run and set, which says in its name that it is never ranked."""
    out: list[Record] = []
    for one in found:
        summary, spec = one.summary, one.run.spec
        base: dict[str, Any] = {
            "stamp": QUICK if one.quick else "",
            "task": summary["task_title"],
            "task_version": summary["task_version"],
            "evaluator_version": summary["evaluator_version"],
            "data_sha256": summary["data_sha256"],
            "split": summary["split"],
            "backbone": backbone_label(spec["backbone"]),
            "method": spec["method"]["name"],
            "label": one.label,
            "start": spec.get("start"),
            "seeds": str(spec["seed"]),
            "run_ids": one.run.id,
            "parent_ids": str(spec.get("parent") or ""),
            "limit": summary.get("limit"),
            "checkpoint": SPLITS,
        }
        trained, tuning = one.training, one.training.get("tuning")
        base |= {"train_flops": trained.get("flops"), "inherited_flops": trained.get("inherited_flops")}
        base |= {"train_examples": trained.get("examples"), "tuning_trials": trained.get("tuning_trials")}
        base |= {} if tuning is None else {"tuning_flops": tuning["flops"], "tuning_rate": f"{tuning['chosen']:g}"}
        for name, items in one.sets().items():
            result = one.result(items)
            first = result.splits[0]
            told = {
                "set": f"{SPLITS}, selects on test items, never ranked ({name})",
                "ood": name == "OOD",
                "n": len(items),
            }
            sizes = {"split_se": result.split_se, "held_out": len(first.held), "scored": len(first.scored)}
            out.append(base | told | sizes | {"accuracy": result.accuracy})
    return out


CLUSTER_COLUMNS = ("clusters", "clustered_se", "clustered_low", "clustered_high", "design_effect")


def _cluster_system(row: Row, scope: Subset, clusters: tuple[int, ...]) -> Clustered | None:
    return clustered.system_interval(row.solved(scope.ids).mean(0).tolist(), clusters)


def cluster_record(group: Group, row: Row, scope: Subset) -> Record:
    """The clustered numbers of a row on a set of questions under `COLUMNS`; nothing where no source is shared."""
    clusters = group.clusters(scope)
    if clusters is None:
        return {}
    found = _cluster_system(row, scope, clusters)
    if found is None:
        return {"clusters": 1}
    effect = None if math.isnan(found.design_effect) else found.design_effect
    return dict(zip(CLUSTER_COLUMNS, (found.clusters, found.se, *found.interval, effect), strict=True))


def cluster_panels(group: Group) -> list[Panel]:
    """For the headline set and OOD: accuracy with Wilson's interval, the clustered standard error and interval, the
    design effect.
    """
    out = []
    for scope in (s for s in group.scopes if not s.level):
        clusters = group.clusters(scope)
        if clusters is None:
            continue
        lines = []
        for row in group.rows:
            found, plain = _cluster_system(row, scope, clusters), format_accuracy(row.accuracy(scope.ids))
            if found is None:
                lines.append((row.label, plain, "-", "-", "1", "-"))
                continue
            told = (
                format_percent(found.se),
                format_interval(found.interval.low, found.interval.high),
                f"{found.clusters:,}",
                format_number(found.design_effect),
            )
            lines.append((row.label, plain, *told))
        names = (
            "method",
            f"accuracy % ({scope.title}), Wilson 95 %",
            "clustered SE",
            "clustered 95 %",
            "sources",
            "design effect",
        )
        text = (
            "Clustered errors of the mean over seeds, in points: questions share sources, which Wilson's interval "
            "does not know"
        )
        out.append(Panel(text, names, tuple(lines)))
    return out


def cluster_notes(group: Group) -> list[str]:
    """One for each of these sets."""
    found = [(s, c) for s in group.scopes if not s.level and (c := group.clusters(s)) is not None]
    return [cluster_note(len(s.ids), len(set(c))) + (f" ({s.name})" if len(group.scopes) > 1 else "") for s, c in found]


TUNING_COLUMNS = ("checkpoint", "chosen_step", "tuning_flops", "tuning_rate")  # of a CSV, where any of its rows has one


def tuning_panels(rows: Sequence[Row]) -> Panel | None:
    """Every trial of every tuned row, with what all of them cost beside the runs' own training."""
    lines = []
    for row in rows:
        told = next((t for p in row.parts if (t := tuning_of(p))), None)
        if told is None:
            continue
        tried = ", ".join(
            f"{t['lr']:g}: {'diverged' if t['accuracy'] is None else format_percent(t['accuracy'])}"
            for t in told["trials"]
        )
        chosen = f"{told['chosen']:g}" + (" (edge of the grid)" if told["edge"] else "")
        lines.append(
            (
                row.label,
                str(len(told["trials"])),
                chosen,
                format_flops(tuning_flops(row)),
                f"{100 * told['share']:g} %",
                tried,
            )
        )
    if not lines:
        return None
    names = (
        "method",
        "trials",
        "learning rate chosen",
        "tuning FLOPs",
        "budget of a trial",
        "validation accuracy % by rate",
    )
    return Panel(
        "Tuning: trials chosen between on validation; their training FLOPs stand beside the runs' own",
        names,
        tuple(lines),
    )


def selection_notes(rows: Sequence[Row]) -> list[str]:
    """A sentence for each rule that something was chosen by."""
    out = []
    told = [t for r in rows for p in r.parts if (t := tuning_of(p))]
    if told:
        seeds = ", ".join(sorted({str(t["seed"]) for t in told}))
        text = (
            f"Tuning: trials have seed {seeds}; of rates with the same validation accuracy {told[0]['ties']} is "
            "taken. Tuning FLOPs are "
        )
        text += "those of all trials and in no training budget"
        if any(t["adopted"] for t in told):
            text += f"; the run of seed {seeds} is the winning trial itself, whose FLOPs stand in both"
        untuned = [r.label for r in rows if tuning_flops(r) is None]
        out.append(text + (f". Not tuned by trials: {', '.join(untuned)}." if untuned else "."))
    for row in rows:
        if (rule := _rule(row)) is not None:
            spec = row.first.spec["selection"]
            steps = "; ".join(_step(p) for p in row.parts)
            flops = sum((p.training.get("selection") or {}).get("flops") or 0 for p in row.parts)
            out.append(
                f"Checkpoint of {row.label}: {rule} of {spec['points']} on validation, of equal ones {spec['ties']}: "
                f"{steps}. The looks "
                f"cost {format_flops(flops)} FLOPs of inference, in no training budget."
            )
    return out


def _rule(row: Row) -> str | None:
    return (row.first.spec.get("selection") or {}).get("rule")


def _step(e: Evaluation) -> str:
    chosen = (e.training.get("selection") or {}).get("chosen") or {}
    step, steps = chosen.get("step"), e.training.get("steps")
    return (
        f"step {format_number(step, 0)} of {format_number(steps, 0)} (seed {e.seed}, "
        f"{format_percent(chosen.get('accuracy'))} %)"
    )


def selection_measures(row: Row) -> Record:
    """For the CSV; nothing where nothing was chosen."""
    out: Record = {}
    if (rule := _rule(row)) is not None:
        steps = [str(((p.training.get("selection") or {}).get("chosen") or {}).get("step")) for p in row.parts]
        out |= {"checkpoint": rule, "chosen_step": " ".join(steps)}
    if (flops := tuning_flops(row)) is not None:
        rates = dict.fromkeys(f"{t['chosen']:g}" for p in row.parts if (t := tuning_of(p)))
        out |= {"tuning_flops": flops, "tuning_rate": " ".join(rates)}
    return out


def selection_columns(records: Iterable[Record], names: Sequence[str]) -> tuple[str, ...]:
    """Of these columns the ones that some record fills: a table of runs that chose nothing looks as it always did."""
    used = {k for r in records for k in r}
    return tuple(n for n in names if n in used)
