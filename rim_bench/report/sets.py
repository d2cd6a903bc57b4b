"""Several evaluation sets side by side: methods by sets, each set with its n, data and split.

Nothing is averaged over sets. And what lm-eval's own scorers said of its own tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rim_bench.evidence.rows import CHANGED, Group, Row, changed_questions, overlap_text
from rim_bench.report.notes import trained_elsewhere, transfers_note
from rim_bench.storage.records import LmEvalRecord
from rim_bench.storage.run_folder import Run
from rim_bench.util.files import Record, canonical
from rim_bench.util.table import QUICK, Panel, Section
from rim_bench.util.text import format_accuracy, format_number, format_percent


def overview(groups: Sequence[Group]) -> list[Section]:
    """A section for each backbone whose runs were evaluated on more than one set."""
    by_backbone: dict[str, list[Group]] = {}
    for group in groups:
        by_backbone.setdefault(group.facts.backbone, []).append(group)
    return [section for alike in by_backbone.values() for section in _side_by_side(alike)]


def _side_by_side(groups: Sequence[Group]) -> list[Section]:
    """Nothing where no method was evaluated on more than one task."""
    own = [g for g in groups if not all(trained_elsewhere(p) for r in g.rows for p in r.parts)]
    ordered = [*own, *(g for g in groups if g not in own)]
    by_method: dict[str, dict[int, Row]] = {}  # one method in one setting: its row in each group that has it
    for number, group in enumerate(ordered):
        for row in group.rows:
            setting = canonical([row.runs, row.first.summary.effort, row.first.summary.knob])
            by_method.setdefault(setting, {})[number] = row
    if all(len({ordered[k].facts.task for k in rows}) < 2 for rows in by_method.values()):
        return []
    methods = [rows for rows in by_method.values() if len(rows) > 1 or next(iter(rows.values())).first.default]
    labels = [sorted({row.label for row in rows.values()}, key=lambda t: (len(t), t)) for rows in methods]
    shortest = [names[0] for names in labels]
    names = [name if shortest.count(name) == 1 else longer[-1] for name, longer in zip(shortest, labels, strict=True)]
    heads, sets = [], []
    columns = [(k, g, scope) for k, g in enumerate(ordered) for scope in g.scopes if not scope.level]
    for _, group, scope in columns:
        facts, n = group.facts, f"{len(scope.ids):,}"
        title = facts.task if len(group.scopes) == 1 else f"{facts.task}, {scope.title}"
        cuts = sorted({p.cut for r in group.rows for p in r.parts if p.cut is not None})
        marks = [f"first {cut:,} rows" for cut in cuts] + ([CHANGED] if changed_questions(group.rows) else [])
        heads.append(f"{title} % ({', '.join((facts.split, f'n={n}', f'data {facts.data[:8]}', *marks))})")
        sets.append((", ".join((title, *marks)), n, facts.data[:8], facts.split))
    long, values = [], []
    for name, rows in zip(names, methods, strict=True):
        measured = [(rows[k].accuracy(s.ids), g.at_floor(rows[k], s)) if k in rows else None for k, g, s in columns]
        long.append((name, *("-" if m is None else format_accuracy(*m) for m in measured)))
        values.append(["-" if m is None else format_percent(m[0].value) + "°" * m[1] for m in measured])
    turned = [(title, *(line[k] for line in values), *rest) for k, (title, *rest) in enumerate(sets)]
    caption = (
        "Accuracy %, Wilson 95 % intervals; each set is a measurement of its own, and none is averaged with another"
    )
    brief = "Accuracy % by set (° at the floor; intervals: table.md)"
    panels = (
        Panel(caption, ("method", *heads), tuple(long), False),
        Panel(brief, ("set", *names, "n", "data", "split"), tuple(turned), True),
    )
    notes = ['"-": not evaluated there. Comparisons within a set, costs and notes are in the set\'s own section.']
    notes += transfers_note(p for g in ordered for r in g.rows for p in r.parts)
    title = f"All sets side by side, {ordered[0].rows[0].first.spec.backbone.short}"
    stamp = f" ({QUICK})" if any(g.quick for g in ordered) else ""
    return [Section(title + stamp, panels, tuple(notes))]


# lm-eval's tasks
LM_EVAL_COLUMNS = ("metric", "metric_value", "metric_stderr")
_SHARES = ("acc", "acc_norm", "exact_match", "accuracy")  # metrics that are means of right and wrong


def _lm_evaluations(runs: Iterable[Run]) -> Iterator[tuple[str, Run, LmEvalRecord]]:
    """Every evaluation by lm-eval's own scorers, by run, with its name in tables."""
    for run in sorted(runs, key=lambda r: r.id):
        for record in run.lm_eval_evaluations.all().values():
            words = [run.spec.method.title]
            words += [f"effort {record.effort}"] if record.effort is not None else []
            words += [f"votes {record.settings.votes}"] if record.settings and record.settings.votes else []
            trained = [f"trained on {run.spec.task.name}", f"seed {run.spec.seed}"]
            words += [*(["not trained"] if run.spec.untrained else trained), run.id[-12:]]
            yield ", ".join(words), run, record


def lm_eval_section(runs: Iterable[Run]) -> list[Section]:
    """What lm-eval's own scorers said of lm-eval's own tasks, neither ranked nor paired; nothing without any."""
    columns: dict[str, tuple[str, str]] = {}  # what makes a column one, as text -> its task and metric
    rows: dict[str, dict[str, str]] = {}
    notes: dict[str, None] = {}
    versions: set[str] = set()
    for name, _, record in _lm_evaluations(runs):
        versions.add(str(record.lm_eval_version))
        notes |= dict.fromkeys(f"{record.task}, {name}: {note}." for note in record.notes)
        if shared := overlap_text(record.overlap):
            notes[f"OVERLAP: {record.task}, {name}: {shared}."] = None
        how = [f"version {record.task_version}", f"{record.num_fewshot}-shot", str(record.split)]
        how += [f"n={record.documents:,}", f"documents {record.evaluated_sha256[:8]}"]
        if record.limit is not None and record.limit < record.documents_in_all:
            how.append(f"first {record.limit:,} documents")
        how += [QUICK] if record.quick else []
        for metric, value in record.metrics.items():
            head = f"{record.task}: {metric.removesuffix(',none')} ({', '.join(how)})"
            columns.setdefault(head, (record.task, metric))
            digits, scale = (1, 100) if metric.split(",")[0] in _SHARES and 0 <= (value or 0) <= 1 else (3, 1)
            shown = rows.setdefault(name, {})
            if value is not None:
                texts = [format_number(v, digits, scale) for v in (value, record.stderr.get(metric)) if v is not None]
                shown[head] = " ± ".join(texts)
    if not versions:
        return []
    heads = sorted(columns, key=lambda head: (columns[head], head))
    lines = tuple((name, *(cells.get(head, "-") for head in heads)) for name, cells in rows.items())
    caption = "lm-eval tasks, lm-eval's own scorers (value ± lm-eval's standard error; "
    panel = Panel(caption + "% where a mean of right and wrong)", ("run", *heads), lines)
    first = (
        f"Scored by lm-eval {', '.join(sorted(versions))}, not by this package: not comparable with the other "
        "sections, and neither ranked nor paired. What differs in version, number of shots, limit or documents stands "
        "in columns of its own."
    )
    return [Section("lm-eval tasks", (panel,), (first, *notes))]


def lm_eval_records(runs: Iterable[Run]) -> list[Record]:
    """A CSV line for each of lm-eval's metrics, in columns of their own: they are no accuracies of ours."""
    out: list[Record] = []
    for name, run, record in _lm_evaluations(runs):
        spec = run.spec
        base: Record = {
            "stamp": QUICK if record.quick or spec.quick else "", "task": f"lm-eval:{record.task}",
            "task_version": record.task_version, "evaluator_version": f"lm-eval {record.lm_eval_version}",
            "data_sha256": record.evaluated_sha256, "split": record.split, "train_sha256": spec.task.train_sha256,
            "backbone": spec.backbone.label, "method": spec.method.name, "label": name, "start": spec.start,
            "effort": record.effort, "seeds": "" if spec.untrained else str(spec.seed), "run_ids": run.id,
            "set": f"all, {record.num_fewshot}-shot", "n": record.documents, "limit": record.limit,
        }  # fmt: skip
        for metric, value in record.metrics.items():
            numbers = (metric, value, record.stderr.get(metric))
            out.append(base | dict(zip(LM_EVAL_COLUMNS, numbers, strict=True)))
    return out
