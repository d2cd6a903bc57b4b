"""Several evaluation sets side by side: methods by sets, each set with its n, data and split.

Nothing is averaged over sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rim_bench.evidence.rows import CHANGED, Evaluation, Group, Row, changed_questions
from rim_bench.storage.records import LmEvalRecord
from rim_bench.storage.run_folder import Run
from rim_bench.util.files import Record, canonical
from rim_bench.util.table import QUICK, Panel, Section
from rim_bench.util.text import backbone_label, backbone_short, format_accuracy, format_number, format_percent


def overview(groups: Sequence[Group]) -> list[Section]:
    """A section for each backbone whose runs were evaluated on more than one set."""
    by_backbone: dict[str, list[Group]] = {}
    for group in groups:
        by_backbone.setdefault(group.facts.backbone, []).append(group)
    return [made for found in by_backbone.values() if (made := _section(found)) is not None]


def trained_elsewhere(e: Evaluation) -> str | None:
    """The task that a run was trained on, where it was evaluated on another one."""
    trained, asked = (e.spec.get("task") or {}).get("name"), e.summary.get("task")
    return str(trained) if trained and asked and trained != asked else None


def transfer_notes(parts: Sequence[Evaluation]) -> list[str]:
    """What a reader must know of an evaluation on another task than training's."""
    notes = []
    tasks: dict[str, list[Evaluation]] = {}
    for e in parts:
        if (name := trained_elsewhere(e)) is not None:
            tasks.setdefault(name, []).append(e)
    for name, found in sorted(tasks.items()):
        notes.append(
            f"Trained on {name}{_rows_of(found)}, evaluated on {found[0].summary.get('task_title')}: another task's "
            "questions."
        )
    for e in parts:
        unseen = e.summary.get("unseen_text")
        if isinstance(unseen, Mapping) and unseen.get("questions") is None:
            notes.append(
                f"{e.run}: its tokenizer's training text was not there, so that unseen text could not be looked for."
            )
        elif isinstance(unseen, Mapping) and unseen["questions"]:
            notes.append(
                f"{e.run}: {unseen['questions']:,} of {unseen['n']:,} questions hold text its tokenizer never saw in "
                "training."
            )
    return notes


def _rows_of(found: Iterable[Evaluation]) -> str:
    rows = sorted({int(r) for e in found if (r := e.spec["task"].get("train_rows"))})
    return f" ({' or '.join(f'{r:,}' for r in rows)} rows)" if rows else ""


def _transfers(parts: Sequence[Evaluation]) -> list[str]:
    """A line for each task that was trained on: the other tasks whose questions were asked."""
    found: dict[str, list[Evaluation]] = {}
    for e in parts:
        if (name := trained_elsewhere(e)) is not None:
            found.setdefault(name, []).append(e)
    lines = []
    for name, asked in sorted(found.items()):
        titles = ", ".join(dict.fromkeys(str(e.summary["task_title"]) for e in asked))
        lines.append(f"Trained on {name}{_rows_of(asked)}; another task's questions: {titles}.")
    return lines


def marks(group: Group) -> list[str]:
    """What sets a set apart from the one that its name promises."""
    parts = [p for r in group.rows for p in r.parts]
    cuts = sorted({p.cut for p in parts if p.cut is not None})
    return [f"first {cut:,} rows" for cut in cuts] + ([CHANGED] if changed_questions(group.rows) else [])


def _section(groups: Sequence[Group]) -> Section | None:
    """None where no method was evaluated on more than one task."""
    own = [g for g in groups if not all(trained_elsewhere(p) for r in g.rows for p in r.parts)]
    ordered = [*own, *(g for g in groups if g not in own)]
    found: dict[str, dict[int, Row]] = {}
    for column, group in enumerate(ordered):
        for row in group.rows:
            found.setdefault(_same(row), {})[column] = row
    if all(len({ordered[k].facts.task for k in at}) < 2 for at in found.values()):
        return None
    kept = [at for at in found.values() if len(at) > 1 or next(iter(at.values())).first.default]
    labels = _labels(kept)
    heads, sets = [], []
    columns = [(k, g, scope) for k, g in enumerate(ordered) for scope in g.scopes if not scope.level]
    for _, group, scope in columns:
        facts = group.facts
        title = facts.task if len(group.scopes) == 1 else f"{facts.task}, {scope.title}"
        told = (facts.split, f"n={len(scope.ids):,}", f"data {facts.data[:8]}", *marks(group))
        heads.append(f"{title} % ({', '.join(told)})")
        mark = "".join(f", {m}" for m in marks(group))
        sets.append((f"{title}{mark}", f"{len(scope.ids):,}", facts.data[:8], facts.split))
    lines, values = [], []
    for label, at in zip(labels, kept, strict=True):
        accuracies = [at[k].accuracy(scope.ids) if k in at else None for k, _, scope in columns]
        floors = [k in at and g.at_floor(at[k], scope) for k, g, scope in columns]
        lines.append(
            (label, *("-" if a is None else format_accuracy(a, f) for a, f in zip(accuracies, floors, strict=True)))
        )
        values.append(
            ["-" if a is None else format_percent(a.value) + "°" * f for a, f in zip(accuracies, floors, strict=True)]
        )
    caption = (
        "Accuracy %, Wilson 95 % intervals; each set is a measurement of its own, and none is averaged with another"
    )
    long = Panel(caption, ("method", *heads), tuple(lines), False)
    turned = tuple(
        (name, *(column[k] for column in values), n, data, split) for k, (name, n, data, split) in enumerate(sets)
    )
    short = Panel(
        "Accuracy % by set (° at the floor; intervals: table.md)", ("set", *labels, "n", "data", "split"), turned, True
    )
    notes = ['"-": not evaluated there. Comparisons within a set, costs and notes are in the set\'s own section.']
    notes += _transfers([p for g in ordered for r in g.rows for p in r.parts])
    quick = any(g.quick for g in ordered)
    title = f"All sets side by side, {backbone_short(ordered[0].rows[0].first.spec.get('backbone'))}"
    return Section(f"{title} ({QUICK})" if quick else title, (long, short), tuple(notes))


def _same(row: Row) -> str:
    """Equal for one method in one setting on different sets."""
    return canonical([list(row.runs), row.first.summary.get("effort"), row.first.summary.get("knob")])


def _labels(kept: Sequence[Mapping[int, Row]]) -> list[str]:
    """The shortest label that a row has on any set; where two rows share one, the longest."""
    given = [sorted({row.label for row in at.values()}, key=lambda t: (len(t), t)) for at in kept]
    firsts = [labels[0] for labels in given]
    return [labels[0] if firsts.count(labels[0]) == 1 else labels[-1] for labels in given]


# lm-eval's tasks
def lm_eval_section(runs: Iterable[Run]) -> list[Section]:
    """A section of what lm-eval's own scorers said of lm-eval's own tasks; none without any.

    Nothing in it is ranked or paired.
    """
    if not (found := _stored(runs)):
        return []
    columns: dict[str, tuple[str, str]] = {}  # what makes a column one, as text -> its task and metric
    rows: dict[str, dict[str, str]] = {}
    for run, summary in found:
        for metric, value in summary["metrics"].items():
            head = _head(summary, metric)
            columns.setdefault(head, (str(summary["task"]), metric))
            rows.setdefault(_row(run, summary), {})[head] = _value(metric, value, summary)
    heads = sorted(columns, key=lambda h: (columns[h], h))
    grid = Panel(
        "lm-eval tasks, lm-eval's own scorers (value ± lm-eval's standard error; % where a mean of right and wrong)",
        ("run", *heads),
        tuple((name, *(at.get(h, "-") for h in heads)) for name, at in rows.items()),
    )
    notes = dict.fromkeys(f"{s['task']}, {_row(r, s)}: {note}." for r, s in found for note in s.get("notes", ()))
    versions = ", ".join(sorted({str(s["lm_eval_version"]) for _, s in found}))
    first = (
        f"Scored by lm-eval {versions}, not by this package: not comparable with the other sections, and neither "
        "ranked nor paired. "
        "What differs in version, number of shots, limit or documents stands in columns of its own."
    )
    return [Section("lm-eval tasks", (grid,), (first, *notes))]


LM_EVAL_COLUMNS = ("metric", "metric_value", "metric_stderr")


def lm_eval_records(runs: Iterable[Run]) -> list[Record]:
    """A CSV line for each of lm-eval's metrics: its value stands in columns of its own, for it is no accuracy of
    ours.
    """
    out: list[Record] = []
    for run, s in _stored(runs):
        method = run.spec["method"]
        base: Record = {
            "stamp": QUICK if s.get("quick") or run.spec.get("quick") else "",
            "task": f"lm-eval:{s['task']}",
            "task_version": s["task_version"],
            "evaluator_version": f"lm-eval {s['lm_eval_version']}",
            "data_sha256": s["evaluated_sha256"],
            "split": s["split"],
            "train_sha256": run.spec["task"].get("train_sha256"),
            "backbone": backbone_label(run.spec.get("backbone")),
            "method": method["name"],
            "label": _row(run, s),
            "start": run.spec.get("start"),
            "effort": s.get("effort"),
            "seeds": str(run.spec.get("seed", 0)),
            "run_ids": run.id,
            "set": f"all, {s['num_fewshot']}-shot",
            "n": s["documents"],
            "limit": s.get("limit"),
        }
        out += [
            base | dict(zip(LM_EVAL_COLUMNS, (m, value, s["stderr"].get(m)), strict=True))
            for m, value in s["metrics"].items()
        ]
    return out


def _stored(runs: Iterable[Run]) -> list[tuple[Run, LmEvalRecord]]:
    """Every evaluation by lm-eval's own scorers, by run."""
    ordered = sorted(runs, key=lambda r: r.id)
    return [(run, summary) for run in ordered for summary in run.lm_eval_evaluations.all().values()]


def _head(summary: LmEvalRecord, metric: str) -> str:
    limit = summary.get("limit")
    cut = [f"first {limit:,} documents"] if limit is not None and limit < summary["documents_in_all"] else []
    told = [
        f"version {summary['task_version']}",
        f"{summary['num_fewshot']}-shot",
        str(summary["split"]),
        f"n={summary['documents']:,}",
    ]
    told += [f"documents {summary['evaluated_sha256'][:8]}", *cut, *([QUICK] if summary.get("quick") else [])]
    return f"{summary['task']}: {metric.removesuffix(',none')} ({', '.join(told)})"


def _row(run: Run, summary: LmEvalRecord) -> str:
    method = run.spec["method"]
    words = [str(method.get("label") or method["name"])]
    words += [f"effort {summary['effort']}"] if summary.get("effort") is not None else []
    words += [f"votes {v}"] if (v := (summary.get("settings") or {}).get("votes")) else []
    words += [f"trained on {run.spec['task']['name']}", f"seed {run.spec.get('seed', 0)}", run.id[-12:]]
    return ", ".join(words)


def _value(metric: str, value: Any, summary: LmEvalRecord) -> str:
    error = summary["stderr"].get(metric)
    if value is None:
        return "-"
    share = metric.split(",")[0] in ("acc", "acc_norm", "exact_match", "accuracy") and 0 <= value <= 1
    scale = 100 if share else 1
    digits = 1 if share else 3
    text = format_number(value, digits, scale)
    return text if error is None else f"{text} ± {format_number(error, digits, scale)}"
