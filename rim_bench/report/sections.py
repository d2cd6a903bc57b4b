"""What one section of the comparison shows, as a list of functions; and the section of the 16-split protocol.

Rows keep a fixed order, and nobody is bolded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rim_bench.evidence import degenerate, training_budgets
from rim_bench.evidence.claims import findings
from rim_bench.evidence.degenerate import OutputFlag
from rim_bench.evidence.pairs import Pair
from rim_bench.evidence.rows import Accuracy, Evaluation, Group, LeftOut, Reason, Row, Subset
from rim_bench.evidence.split_protocol import Scored
from rim_bench.evidence.stats import clustered
from rim_bench.evidence.stats.intervals import Clustered, Interval
from rim_bench.evidence.training_budgets import tuning_flops
from rim_bench.report import notes
from rim_bench.storage.records import ItemRecord
from rim_bench.storage.run_folder import Damaged
from rim_bench.storage.selection import SPLITS
from rim_bench.util.files import Record
from rim_bench.util.table import QUICK, Panel, Section
from rim_bench.util.text import (
    format_accuracy,
    format_amount,
    format_bytes,
    format_flops,
    format_interval,
    format_number,
    format_p,
    format_percent,
    format_points,
)

FAILURES = ("unparseable", "empty", "capped", "overlong")  # fields of an item
_MOST_LEVELS = 12  # more level columns than this are left to the CSV


DAMAGED = "damaged"


def damaged_runs(damaged: Iterable[Damaged], left_out: Iterable[LeftOut]) -> dict[str, str]:
    """Name -> reason of every run that cannot be trusted: those that were known to be, and those found on reading."""
    reasons = {item.run: item.detail for item in left_out if item.reason is Reason.DAMAGED}
    return dict(sorted(({d.path.name: d.reason for d in damaged} | reasons).items()))


def state_section(title: str, caption: str, state: str, reasons: Mapping[str, str]) -> list[Section]:
    """A row for each run that has no number here, and a note why; nothing without any."""
    panel = Panel(caption, ("run", "state"), tuple((name, state) for name in reasons), align="ll")
    return [Section(title, (panel,), tuple(f"{name}: {why}" for name, why in reasons.items()))] if reasons else []


def damaged_section(reasons: Mapping[str, str]) -> list[Section]:
    """A row for each run that cannot be trusted."""
    return state_section("Damaged runs", "No number of these runs is shown", DAMAGED, reasons)


def accuracy(group: Group, pairs: Sequence[Pair]) -> list[Panel]:
    """Accuracy on the headline set, the levels and OOD; the terminal has it without intervals."""
    head, *others = group.scopes
    if sum(s.level for s in others) > _MOST_LEVELS:
        others = [s for s in others if not s.level]
    others.sort(key=lambda s: not s.level)  # levels, then OOD as a whole
    long, short = [], []
    for row in group.rows:
        accuracies = [row.accuracy(s.ids) for s in others]
        low = [not s.level and group.at_floor(row, s) for s in others]
        main = format_accuracy(row.accuracy(head.ids), group.at_floor(row, head))
        if 0 < len(left := group.left_chance(row, head)) < len(row.parts):  # no mean over both kinds
            learned = replace(row, parts=left)
            text = format_accuracy(learned.accuracy(head.ids), group.at_floor(learned, head))
            main = f"{len(left)} of {len(row.parts)} seeds left chance: {text}"
        size = ("-" if row.untrained else str(len(row.parts)), f"{len(head.ids):,}")
        long.append((row.label, *size, main, *map(format_accuracy, accuracies, low)))
        values = (format_percent(a.value) + "°" * at_floor for a, at_floor in zip(accuracies, low, strict=True))
        short.append((row.label, main, *values, *size))
    names = ("method", "seeds", "n", f"accuracy % ({head.title})", *(f"{s.title} % (n={len(s.ids):,})" for s in others))
    starred = [s.name + ("*" if s.ood and s.level else "") for s in others]
    caption = "Accuracy, % with Wilson 95 % intervals"
    size_and_mark = f", n = {len(head.ids):,}" + (f" {head.title}" if others else "")
    size_and_mark += "; * = OOD" if any(s.ood and s.level for s in others) else ""
    size_and_mark += "; ° = at the floor" if any("°" in cell for line in short for cell in line[2:]) else ""
    return [
        Panel(caption, names, tuple(long), False),
        Panel(caption + size_and_mark, ("method", "accuracy %", *starred, "seeds", "n"), tuple(short), True),
    ]


def lm_eval_score(row: Row, kind: str, ids: Sequence[str] | None = None) -> float | None:
    """lm-eval's own strict or flexible accuracy: from the items' `lm_eval_<kind>`, else the summary's `lm_eval`."""
    from_items = row.item_mean(f"lm_eval_{kind}", ids)
    if from_items is None and ids is None:
        return row.part_mean(lambda e: e.summary.lm_eval and getattr(e.summary.lm_eval, kind))
    return from_items


def other_scores(group: Group, pairs: Sequence[Pair]) -> list[Panel]:
    """Accuracy by the flexible rule and by lm-eval's, of the outputs that can be read, and shares of failures."""
    head, lines = group.scopes[0], []
    for row in group.rows:
        flexible = format_accuracy(row.accuracy(head.ids, lambda item: item.flexible))
        rates = [lm_eval_score(row, kind) for kind in ("strict", "flexible")] + [row.item_mean(k) for k in FAILURES]
        accuracy, unparseable = row.accuracy(head.ids).value, row.item_mean("unparseable", head.ids) or 0.0
        parsed = None if unparseable >= 1 else accuracy / (1 - unparseable)
        lines.append((row.label, flexible, format_percent(parsed), *map(format_percent, rates)))
    lm_eval = ("lm-eval strict %", "lm-eval flexible %")
    names = (
        "method",
        f"flexible % ({head.title})",
        f"of those parsed % ({head.title})",
        *lm_eval,
        *(f"{k} %" for k in FAILURES),
    )
    caption = "Other scores and failures, % (of all questions where nothing else is said)"
    return [Panel(caption, names, tuple(lines), False)]


def degenerate_panels(flags: Sequence[OutputFlag]) -> list[Panel]:
    """The flags, if there are any; for the terminal by set of questions, without the bounds."""
    if not flags:
        return []
    warning, names = "look at these rows' outputs before comparing them", ("method", "flag", "questions")
    out = [Panel(f"Flags: {warning}", names, tuple((f.row.label, f.text, f.scope.name) for f in flags), False)]
    for scope in dict.fromkeys(f.scope.name for f in flags):
        lines = tuple((f.row.label, f.finding) for f in flags if f.scope.name == scope)
        out.append(Panel(f"Flags, {scope}: {warning}", names[:2], lines, True))
    return out


def flags(group: Group, pairs: Sequence[Pair]) -> list[Panel]:
    """Rows whose outputs are degenerate."""
    return degenerate_panels(degenerate.flags(group, pairs))


def clustered_accuracy(row: Row, scope: Subset, clusters: tuple[int, ...]) -> Clustered | None:
    """A row's accuracy with its error by source; None for a single source."""
    return clustered.system_interval(row.solved(scope.ids).mean(0).tolist(), clusters)


def clusters(group: Group, pairs: Sequence[Pair]) -> list[Panel]:
    """For the headline set and OOD, where questions share sources: Wilson's interval beside the clustered error."""
    out = []
    for scope in (s for s in group.scopes if not s.level):
        if (sources := group.clusters(scope)) is None:
            continue
        lines = []
        for row in group.rows:
            by_source, cells = clustered_accuracy(row, scope, sources), ("-", "-", "1", "-")
            if by_source is not None:
                error, interval = format_percent(by_source.se), format_interval(*by_source.interval)
                cells = (error, interval, f"{by_source.clusters:,}", format_number(by_source.design_effect))
            lines.append((row.label, format_accuracy(row.accuracy(scope.ids)), *cells))
        wilson = f"accuracy % ({scope.title}), Wilson 95 %"
        names = ("method", wilson, "clustered SE", "clustered 95 %", "sources", "design effect")
        caption = "Clustered errors of the mean over seeds, in points: questions share sources, "
        out.append(Panel(caption + "which Wilson's interval does not know", names, tuple(lines)))
    return out


def timing(source: str, kind: str, statistic: str = "median") -> Callable[[Evaluation], Any]:
    """Picks a latency out of an evaluation: source "latency" (batch 1) or "throughput", kind "ttft_ms" or "full_ms"."""
    return lambda e: e.summary.time(source, kind, statistic)


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
    ("train min", lambda r: format_amount(r.part_mean(lambda e: e.training.seconds), 1 / 60)),
    ("training examples", training_budgets.examples_text),
    ("latent positions", lambda r: format_amount(r.cost_mean("latent_positions"))),
    ("KV cache", lambda r: format_bytes(r.cost_mean("kv_bytes"))),
    ("peak memory", lambda r: format_bytes(r.part_mean(lambda e: e.summary.peak_memory_bytes))),
    ("TTFT ms (throughput)", _throughput("ttft_ms")),
    ("full answer ms (throughput)", _throughput("full_ms")),
    ("eval ex/s", lambda r: format_amount(r.part_mean(lambda e: e.summary.examples_per_s))),
    ("train ex/s", lambda r: format_amount(r.part_mean(lambda e: e.training.examples_per_s))),
)


def costs(group: Group, pairs: Sequence[Pair]) -> list[Panel]:
    """What an answer and the training cost."""
    names, texts = zip(*_COSTS, strict=True)
    lines = tuple((r.label, *(text(r) for text in texts)) for r in group.rows)
    return [Panel("Cost (means per question; latency at batch 1, median)", ("method", *names), lines)]


def any_block_correct(item: ItemRecord) -> bool:
    """Whether an oracle could pick a block with the right answer."""
    return any(b.correct for b in item.blocks)


def block_accuracies(row: Row, ids: Sequence[str]) -> list[Accuracy]:
    """Accuracy after each block that no question lacks; empty where a seed did not answer after blocks.

    A question that could not be asked (overlong) has no blocks and counts as wrong.
    """
    counts = [[len(p.items[i].blocks) for i in ids] for p in row.parts]
    if not all(map(any, counts)):
        return []

    def right_after(block: int) -> Callable[[ItemRecord], bool]:
        return lambda item: bool(item.blocks) and item.blocks[block].correct

    shortest = min(count for seed in counts for count in seed if count)
    return [row.accuracy(ids, right_after(block)) for block in range(shortest)]


def blocks(group: Group, pairs: Sequence[Pair]) -> list[Panel]:
    """Accuracy after every block and of the best block that an oracle would pick."""
    head = group.scopes[0]
    by_row = [(row, after) for row in group.rows if (after := block_accuracies(row, head.ids))]
    if not by_row:
        return []
    most = max(len(p.items[i].blocks) for row, _ in by_row for p in row.parts for i in head.ids)
    lines = []
    for row, after in by_row:
        cells = [format_percent(a.value) for a in after] + ["-"] * (most - len(after))
        oracle = format_accuracy(row.accuracy(head.ids, any_block_correct))
        lines.append((row.label, format_percent(row.accuracy(head.ids).value), oracle, *cells))
    names = ("method", "scored answer %", "any block % (oracle)", *(f"block {k + 1}" for k in range(most)))
    return [Panel(f"Upper bound: never ranked. Accuracy after every block, {head.title} (%)", names, tuple(lines))]


def tuning(group: Group, pairs: Sequence[Pair]) -> list[Panel]:
    """Every trial of every tuned row, with what all of them cost beside the runs' own training."""
    lines = []
    for row in group.rows:
        record = next((t for p in row.parts if (t := p.training.tuning)), None)
        if record is None:
            continue
        tried: dict[str, list[float | None]] = {}
        for trial in record.trials:
            tried.setdefault(format_settings(trial.values or {"lr": trial.lr}), []).append(trial.accuracy)
        listed = "; ".join(f"{point}: {', '.join(map(_trial_accuracy, of))}" for point, of in tried.items())
        chosen = format_settings(record.values or {"lr": record.chosen})
        if record.edge:
            chosen += f" (at an end of its range: {', '.join(record.edges)})" if record.edges else " (edge of the grid)"
        rivals = "-" if record.rivals is None else str(record.rivals)
        share = f"{100 * record.share:g} %"
        lines.append((row.label, str(len(tried)), chosen, rivals, format_flops(tuning_flops(row)), share, listed))
    if not lines:
        return []
    names = ("method", "trials", "chosen", "others within 2 se", "tuning FLOPs", "budget of a trial")
    caption = "Tuning: trials chosen between on validation; their training FLOPs stand beside the runs' own"
    return [Panel(caption, (*names, "validation accuracy % of each trial, by seed"), tuple(lines))]


def _trial_accuracy(accuracy: float | None) -> str:
    return "diverged" if accuracy is None else format_percent(accuracy)


def format_settings(values: Mapping[str, float]) -> str:
    """What is tuned with its values: `0.001` where that is the learning rate alone, else `lr=0.001 K=4`."""
    if set(values) == {"lr"}:
        return f"{values['lr']:g}"
    return " ".join(f"{name}={value:g}" for name, value in values.items())


def format_bounds(interval: Interval) -> str:
    """Bounds of a difference in points, with their signs."""
    return f"[{format_points(interval.low)}, {format_points(interval.high)}]"


def paired(group: Group, pairs: Sequence[Pair]) -> list[Panel]:
    """Every pair of rows; for the terminal those with the first row, by set of questions."""
    if not pairs:
        return []
    retrained = any(p.p_seeds is not None for p in pairs)
    long: list[tuple[str, ...]] = []
    short: dict[str, list[tuple[str, ...]]] = {}  # by set: a narrow terminal must not leave out which one it is
    for p in pairs:
        value, counts = format_points(p.difference), f"{p.b} / {p.c}"
        least, holm = format_percent(p.detectable), format_p(p.holm)
        seeds = ("-" if p.p_seeds is None else format_p(p.p_seeds),) if retrained else ()
        numbers = (value, counts, format_p(p.p), holm, format_bounds(p.interval), least, *seeds)
        long.append((p.first.label, p.second.label, p.scope.name, *numbers, p.verdict.text()))
        if p.first is group.rows[0]:
            verdict = p.verdict.text("lower" if p.higher is p.first else "higher")
            line = (p.second.label, verdict, format_points(-p.difference), holm, least)
            short.setdefault(p.scope.name, []).append(line)
    caption = "Paired comparisons: difference in points, first minus second; Holm over all of them"
    names = ("first", "second", "questions", "difference", "only first / only second", "p (questions)", "Holm p")
    ends = ("95 %", "smallest detectable", *(("p (seeds)",) if retrained else ()), "verdict")
    brief = ("method", "verdict", "points", "Holm p", "detectable")  # the verdict first: points never stand without it
    out = [Panel(caption, (*names, *ends), tuple(long), False)]
    for scope, lines in short.items():
        where = f", {scope}" if len(short) > 1 else ""
        against = f"Paired with {group.rows[0].label}{where}: method minus it, in points (every pair: table.md)"
        out.append(Panel(against, brief, tuple(lines), True))
    return out


def controls(group: Group, pairs: Sequence[Pair]) -> list[Panel]:
    """What each control says of the claim that it tests."""
    tested = findings(group, pairs)
    if not tested:
        return []
    scopes = [s.name for s in group.scopes if not s.level]
    several = len(scopes) > 1
    long, short = [], []
    for f in tested:
        verdicts = [f.says.get(name) or f.says.get("") for name in scopes]
        cells = [cell for v in verdicts for cell in (("-", "") if v is None else (v.points, v.text()))]
        long.append((f.control, f.of, f.claim, *cells))
        main = verdicts[0]
        short.append((f.control, f.of, *(("", "-") if main is None else (main.outcome.value, main.points))))
    names = [n + (f" ({s})" if several else "") for s in scopes for n in ("method − control", "the claim is")]
    caption = "Controls: what each one says of the claim that it tests (points; from the paired comparisons)"
    where = f", {scopes[0]}" if several else ""
    brief = f"Controls{where}: method, verdict on the claim, points (claims and reasons: table.md)"
    return [
        Panel(caption, ("control", "of", "claim it tests", *names), tuple(long), False),
        Panel(brief, ("control", "of", "claim", "points"), tuple(short), True),
    ]


SECTIONS: tuple[Callable[[Group, Sequence[Pair]], list[Panel]], ...] = (
    accuracy, other_scores, flags, clusters, costs, blocks, tuning, paired, controls,
)  # fmt: skip


# The 16-split protocol: no ranks, no pairs, nothing of the ordinary tables
SPLIT_COLUMNS = ("split_se", "held_out", "scored")


def split_sections(scored: Sequence[Scored]) -> list[Section]:
    """A section for each set of comparable runs."""
    groups: dict[tuple[str, ...], list[Scored]] = {}
    for run in scored:
        groups.setdefault(run.facts, []).append(run)
    out = []
    for facts in sorted(groups):
        comparable = groups[facts]
        summary, backbone = comparable[0].summary, comparable[0].run.spec.backbone
        stamp = f" ({QUICK})" if any(s.quick for s in comparable) else ""
        title = f"{summary.task_title}, {summary.split}, {backbone.short}: {SPLITS} protocol"
        panels = tuple(_split_panels(comparable))
        out.append(Section(f"{title}, selects on test items{stamp}", panels, tuple(notes.split_notes(comparable))))
    return out


def _split_panels(scored: Sequence[Scored]) -> Iterator[Panel]:
    tuned = any(s.tuned is not None for s in scored)
    names = ("method", "accuracy % on the scored", "last candidate %", "seed", "chosen on", "scored on")
    ends = ("step chosen (splits)", *(("learning rate (trials, tuning FLOPs)",) if tuned else ()))
    for name in scored[0].sets():
        lines = []
        for s in scored:
            result = s.result(s.sets()[name])
            steps = [c.step for c in s.summary.candidates]
            counts = Counter(steps[split.chosen] for split in result.splits)
            chosen = ", ".join(f"{step:,} ({n})" for step, n in sorted(counts.items()))
            size = (f"{len(result.splits[0].held):,}", f"{len(result.splits[0].scored):,}")
            error = format_number(result.split_se, 2, 100)  # two digits, for it is small
            main = f"{format_percent(result.accuracy)} ± {error} split SE"
            cells = (str(s.run.spec.seed), *size, chosen, *([s.tuned or "-"] if tuned else []))
            lines.append((s.label, main, format_percent(result.last), *cells))
        caption = f"Mean over 16 random splits, {name}: selects on test items, never ranked"
        yield Panel(caption, (*names, *ends), tuple(lines))


def split_records(scored: Sequence[Scored]) -> list[Record]:
    """The same numbers for the CSV: a line for each run and set, which says in its name that it is never ranked."""
    out: list[Record] = []
    for s in scored:
        summary, spec, trained = s.summary, s.run.spec, s.training
        base: Record = {
            "stamp": QUICK if s.quick else "", "task": summary.task_title, "task_version": summary.task_version,
            "evaluator_version": summary.evaluator_version, "data_sha256": summary.data_sha256,
            "split": summary.split, "backbone": spec.backbone.label, "method": spec.method.name,
            "label": s.label, "start": spec.start, "seeds": str(spec.seed), "run_ids": s.run.id,
            "parent_ids": str(spec.parent or ""), "limit": summary.limit, "checkpoint": SPLITS,
            "train_flops": trained.flops, "inherited_flops": trained.inherited_flops,
            "train_examples": trained.examples, "tuning_trials": trained.tuning_trials,
        }  # fmt: skip
        if (record := trained.tuning) is not None:
            base |= {"tuning_flops": record.flops, "tuning_rate": f"{record.chosen:g}"}
        for name, items in s.sets().items():
            result = s.result(items)
            first, label = result.splits[0], f"{SPLITS}, selects on test items, never ranked ({name})"
            sizes = {"n": len(items), "held_out": len(first.held), "scored": len(first.scored)}
            numbers = {"accuracy": result.accuracy, "split_se": result.split_se}
            out.append(base | {"set": label, "ood": name == "OOD"} | sizes | numbers)
    return out
