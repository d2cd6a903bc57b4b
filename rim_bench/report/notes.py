"""The sentences under a table. Each stands here once, whichever tables have it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rim_bench.evidence import training_budgets
from rim_bench.evidence.claims import ClaimOutcome, evaluated_controls, findings
from rim_bench.evidence.curves import SAME, TIMED, WIDE
from rim_bench.evidence.floors import FloorKind
from rim_bench.evidence.leaderboard import LeaderboardNumbers
from rim_bench.evidence.pairs import EQUIVALENCE, Pair
from rim_bench.evidence.rows import Evaluation, Group, Row, Subset, changed_questions, changed_training, overlap_text
from rim_bench.evidence.split_protocol import Scored
from rim_bench.evidence.stats.clustered import FEW
from rim_bench.evidence.stats.intervals import RESAMPLES, wilson
from rim_bench.evidence.training_budgets import tuning_flops
from rim_bench.methods.controls import CONTROLS
from rim_bench.util.table import QUICK
from rim_bench.util.text import format_flops, format_interval, format_number, format_percent, leaves

COST_NAMES = {"flops": "FLOPs per item", "passes": "sequential passes", "latency": "latency"}
ALL_AT_FLOOR = "All accuracies are at the floor and cannot be ranked."


def _distinct(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(v) for v in values))


# What is compared
def question_note(key: Sequence[str], n: int, *, source: str = "", backbone: str = "") -> str:
    """The questions of a section; `key`: task, its version, the evaluator's version, sha256 of the data, split."""
    task, version, evaluator, data, split = key
    source = f"source {source}; " if source else ""
    model = f"; backbone {backbone}" if backbone else ""
    return (
        f"{task}, version {version}; split {split}; n = {n:,} questions; data sha256 {data[:12]}; {source}"
        f"evaluator version {evaluator}{model}."
    )


def noise_note(evaluations: Iterable[Evaluation]) -> Iterator[str]:
    """How many answers changed in other batches, where that was measured."""
    measured = [e.summary.noise for e in evaluations if e.summary.noise is not None]
    if measured:
        n, answers, correct = (sum(getattr(m, name) or 0 for m in measured) for name in ("n", "answers", "correct"))
        yield (
            f"Noise of bfloat16: {answers} of {n:,} answers, and {correct} of their marks, were others in other "
            "batches."
        )


def settings_note(evaluations: Iterable[Evaluation], heading: str, order: Callable[[str], Any] = str) -> Iterator[str]:
    """How questions were answered: every setting with its values, in the order of the key `order`."""
    settings: dict[str, set[str]] = {}
    for e in evaluations:
        for key, value in leaves(e.summary.generation.to_json()).items():
            settings.setdefault(key, set()).add(str(value))
    if settings:
        texts = (f"{key} {', '.join(sorted(values, key=order))}" for key, values in sorted(settings.items()))
        yield f"{heading}: {'; '.join(texts)}."


def engine_note(evaluations: Iterable[Evaluation]) -> str:
    """Which engine trained the runs: the version of its numerics, and the commits."""
    evaluations = list(evaluations)
    versions = _distinct(sorted({e.spec.numerics for e in evaluations}))
    commits = _distinct(sorted({c for e in evaluations for c in e.commits}))
    return f"Trained by engine version {versions}, {f'commit {commits}' if commits else 'commit not recorded'}."


def start_note(rows: Iterable[Row]) -> Iterator[str]:
    """Whether rows differ in their starting weights."""
    if len({p.spec.start for r in rows if not r.untrained for p in r.parts}) > 1:
        yield "Rows differ in their starting weights: a difference between them may be the start's."


def trust_notes(rows: Sequence[Row]) -> Iterator[str]:
    """What a reader must know before taking the numbers at their word: changed data, records without a manifest."""
    if changed_questions(rows):
        yield "CHANGED DATA: the questions are not the set that the task registers (--allow-changed-data)."
    if trained := ", ".join(changed_training(rows)):
        yield f"CHANGED DATA: trained on rows that are not the registered ones (--allow-changed-data): {trained}."
    texts: dict[tuple[str, bool], list[str]] = {}
    for row in rows:
        for part in row.parts:
            if text := overlap_text(part.summary.overlap):
                texts.setdefault((text, part.held_out), []).append(row.label)
    for (text, held_out), labels in texts.items():
        yield f"OVERLAP{'' if held_out else ', so out of every ranking'}: {text} ({_distinct(labels)})."
    if unsealed := sorted({p.run for r in rows for p in r.parts if not p.sealed}):
        names = ", ".join(unsealed[:3]) + (f" and {len(unsealed) - 3} more" if len(unsealed) > 3 else "")
        yield f"UNSEALED: no manifest vouches for the records of {names}; `rim-bench seal` writes one."


# Evaluations
def evaluation_notes(evaluations: Iterable[Evaluation]) -> Iterator[str]:
    """What keeps evaluations from being compared, and how many questions were too long for a model."""
    evaluations = list(evaluations)
    if apart := training_budgets.evaluated_apart(evaluations):
        yield f"Evaluated in different ways ({apart}): a difference may be due to that."
    if apart := training_budgets.timed_apart(evaluations):
        yield f"Latencies are not comparable: they were taken on different machines or settings ({apart})."
    if most := max((sum(i.overlong for i in e.items.values()) for e in evaluations), default=0):
        yield (
            f"Too long for the model: up to {most:,} questions of an evaluation; "
            "they count as wrong, and in no mean cost."
        )


def trained_elsewhere(e: Evaluation) -> str | None:
    """The task that a run was trained on, where it was evaluated on another one."""
    trained, asked = e.spec.task.name, e.summary.task
    return str(trained) if trained and asked and trained != asked else None


def _by_training_task(evaluations: Iterable[Evaluation]) -> list[tuple[str, list[Evaluation]]]:
    """The evaluations on another task than training's, with that task and the number of its rows in words."""
    tasks: dict[str, list[Evaluation]] = {}
    for e in evaluations:
        if (name := trained_elsewhere(e)) is not None and not e.spec.untrained:
            tasks.setdefault(name, []).append(e)
    out = []
    for name, asked in sorted(tasks.items()):
        sizes = sorted({int(r) for e in asked if (r := e.spec.task.train_rows)})
        out.append((name + (f" ({' or '.join(f'{r:,}' for r in sizes)} rows)" if sizes else ""), asked))
    return out


def transfer_notes(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    """What a reader must know of an evaluation on another task than training's."""
    for name, asked in _by_training_task(evaluations):
        title = asked[0].summary.task_title
        yield f"Trained on {name}, evaluated on {title}: another task's questions."
    for e in evaluations:
        if (unseen := e.summary.unseen_text) is None:
            continue
        if unseen.questions is None:
            yield f"{e.run}: its tokenizer's training text was not there, so that unseen text could not be looked for."
        elif unseen.questions:
            share = f"{unseen.questions:,} of {unseen.n:,} questions"
            yield f"{e.run}: {share} hold text its tokenizer never saw in training."


def transfers_note(evaluations: Iterable[Evaluation]) -> Iterator[str]:
    """For each task that was trained on, the other tasks whose questions were asked."""
    for name, asked in _by_training_task(evaluations):
        titles = _distinct(e.summary.task_title for e in asked)
        yield f"Trained on {name}; another task's questions: {titles}."


# Training budgets
def matched(rows: Sequence[Row]) -> str:
    """What was matched in training between rows, and what was not; empty for a single row, and where none trained."""
    bare = ", ".join(r.label for r in rows if r.untrained)
    trained = _matched([r for r in rows if not r.untrained])
    return " ".join(
        filter(None, (trained, f"Nothing was trained: {bare}; no row is matched with that." if bare else ""))
    )


def _matched(rows: Sequence[Row]) -> str:
    if len(rows) < 2:
        return ""
    by_budget: dict[tuple[str, float | None], list[Row]] = {}
    for row in rows:
        first = training_budgets.budgets(row)[0]
        by_budget.setdefault((first.kind, first.asked), []).append(row)
    if len(by_budget) == 1:
        ((kind, asked),) = by_budget
        same = "nothing: no training budget is stated" if asked is None else _shared_budget(kind, asked, rows)
        return f"Matched: {same}."
    amounts = ", ".join(
        f"{training_budgets.amount_text(*key)} {training_budgets.UNITS.get(key[0], key[0])}" for key in by_budget
    )
    several = {key: alike for key, alike in by_budget.items() if len(alike) > 1 and key[1] is not None}
    if not several:
        return f"Matched: nothing: the rows' training budgets differ ({amounts})."
    inside = "; ".join(f"{_shared_budget(*key, alike)} ({len(alike)} rows)" for key, alike in several.items())
    return (
        f"Matched within rows of one training budget: {inside}. Nothing is matched between rows of different "
        f"budgets ({amounts})."
    )


def _shared_budget(kind: str, asked: float | None, rows: Sequence[Row]) -> str:
    """What rows of one budget share, how closely, and what differs for all that."""
    off = [b.steps_off for r in rows for b in training_budgets.budgets(r)]
    missed = [r.label for r in rows if not all(b.met for b in training_budgets.budgets(r))]
    if kind == training_budgets.FLOPS:
        text = f"training FLOPs, {format_flops(asked)} each, inherited part included"
        known = [o for o in off if o is not None]
        text += f", met within {max(known):.2g} steps" if len(known) == len(off) and max(known) > 0 else ""
        other, values = "training examples", [training_budgets.total_examples(r) for r in rows]
    else:
        texts = {training_budgets.examples_text(r) for r in rows}
        each = next(iter(texts)) if len(texts) == 1 else format_number(asked, 0)
        text = f"training examples, {each} each" + ("" if len(texts) == 1 else ", inherited part included")
        other, values = "training FLOPs", [training_budgets.total_flops(r) for r in rows]
    text += f" (not met within one step: {', '.join(missed)})" if missed else ""
    counted = [v for v in values if v]
    if len(counted) < len(values):
        return f"{text}; {other} were not counted" + (" in all of them" if counted else "")
    factor = max(counted) / min(counted)
    same = f"differ by a factor of {factor:.3g}" if factor >= 1.005 else "are the same to within 0.5 %"
    return f"{text}; {other} {same}"


# Tests
def rule_notes(rows: Sequence[Row]) -> Iterator[str]:
    """What p and the verdicts mean for these rows."""
    bare = [r.label for r in rows if r.untrained]
    single = [r.label for r in rows if len(r.parts) == 1 and not r.untrained]
    several = len(single) + len(bare) < len(rows)
    yield (
        "p (questions): the error of the questions alone; exact McNemar test between two settings with one seed each, "
        "otherwise z = Σd/√Σd² over the questions' differences d of seed means."
    )
    if bare:
        yield (
            f"Nothing was trained, and so no seed to count: {', '.join(bare)}. Beside a trained row such a row is the "
            "same at each of its seeds; between two of them p (seeds) and the verdict are of the questions alone, of "
            "this prompt and these weights."
        )
    if several or len(bare) > 1:
        yield (
            "p (seeds): the error of seeds and questions together, crossed random effects on the differences paired by "
            "training seed, t on (seeds − 1) degrees of freedom. Holm p: of it, over the pairs that differ in the "
            "method alone, and over the others."
        )
        yield (
            "Verdicts count seeds. Higher: Holm p < 0.05. Equivalent: they differ by less than "
            f"{100 * EQUIVALENCE:g} points (TOST, Holm, 5 %). Everything else is undecided; so many seeds "
            "would decide, with 80 % power, were the difference and the spread seen the true ones."
        )
    if single:
        yield (
            f"One seed: {', '.join(single)}. One seed gives no verdict on a method; what is higher is said of these "
            "weights alone (Holm p of the questions < 0.05)."
        )


def detectable_note(pairs: Sequence[Pair]) -> str:
    """What the column "smallest detectable" means, and what can be said where it has no number."""
    text = (
        "Smallest detectable: the true difference found with 80 % power (two-sided 5 %) with these seeds and questions "
        "at the spread observed; with one seed on the questions alone"
    )
    alike = {p.scope.name: len(p.scope.ids) for p in pairs if p.detectable is None}
    if not alike:
        return f"{text}."
    # not put into that column: no difference within the bound is detectable, so the number would contradict itself
    bounds = "; ".join(f"{format_percent(wilson(0, n).high)} % of n = {n:,} ({name})" for name, n in alike.items())
    return (
        f'{text}; "-" where no question is discordant: there is nothing to compute it from, and a bootstrap over the '
        "questions shows no spread, whatever n is. The true discordance may still be up to "
        f"{bounds}, Wilson 95 %, and the difference no more than that."
    )


def cluster_note(n: int, clusters: int) -> str:
    """What is done with n questions that come from fewer sources."""
    text = (
        f"The {n:,} questions come from {clusters:,} sources (templates, seed questions) that they share, so they are "
        "not independent: tests, the bootstrap and smallest detectable differences go by source. p: exact sign-flip "
        "test over sources between two settings with one seed each (McNemar's where no source is shared), otherwise "
        "z = ΣD/√ΣD² over sums D by source; detectable: on n / design effect questions"
    )
    return text + (f". Fewer than {FEW} sources: take intervals and z as too narrow." if clusters < FEW else ".")


def cluster_notes(group: Group) -> Iterator[str]:
    """For the headline set and OOD, where questions share sources."""
    for scope in (s for s in group.scopes if not s.level):
        if (clusters := group.clusters(scope)) is not None:
            where = f" ({scope.name})" if len(group.scopes) > 1 else ""
            yield cluster_note(len(scope.ids), len(set(clusters))) + where


def claim_notes(group: Group, pairs: Sequence[Pair]) -> Iterator[str]:
    """What the words of the controls mean, and the controls that have no row."""
    if not findings(group, pairs):
        return
    supported, not_shown = ClaimOutcome.SUPPORTED.value, ClaimOutcome.NOT_SHOWN.value
    yield (
        f'Controls: "{supported}" only where the method is higher than its control over seeds and questions, Holm over '
        "the claims of this table, nothing else differs, and the control would be behind even if all its empty, "
        f'unparseable and capped outputs had been right; otherwise "{not_shown}", as with one seed.'
    )
    trained = {r.method for r in group.rows if r.first.default}
    for method in dict.fromkeys(r.method for r in group.rows if r.first.default):
        missing = [
            c.label
            for c in CONTROLS
            if c.of == method and not (any(evaluated_controls(group, c)) if c.evaluation else c.method in trained)
        ]
        if missing:
            yield f"Controls of {method} without a row, so that their claims are not tested: {', '.join(missing)}."


# What was chosen on validation
def selection_notes(rows: Sequence[Row]) -> Iterator[str]:
    """The rules that learning rates and checkpoints were chosen by."""
    if tuned := [t for r in rows for p in r.parts if (t := p.training.tuning)]:
        seeds = ", ".join(map(str, sorted({seed for t in tuned for seed in t.seeds or (t.seed,)})))
        what = "points" if any(t.field == "space" for t in tuned) else "rates"
        text = (
            f"Tuning: trials have seed {seeds}; of {what} with the same validation accuracy {tuned[0].ties} is "
            "taken. Tuning FLOPs are those of all trials and in no training budget"
        )
        if any(t.adopted for t in tuned):
            text += f"; the run of seed {seeds} is the winning trial itself, whose FLOPs stand in both"
        if errors := [t.standard_error for t in tuned if t.standard_error is not None]:
            points = f"{100 * max(errors):.1f}"
            text += (
                f"; the standard error of a difference of two {what} is up to {points} points, so that a winner with "
                "others within two of it is not shown to be better than they are"
            )
        untuned = [r.label for r in rows if tuning_flops(r) is None]
        yield text + (f". Not tuned by trials: {', '.join(untuned)}." if untuned else ".")
    for row in rows:
        if (rule := row.first.spec.selection) is None:
            continue
        steps, flops = [], 0.0
        for part in row.parts:
            chosen, selection = part.training.chosen, part.training.selection
            step, last = format_number(chosen.step, 0), format_number(part.training.steps, 0)
            steps.append(f"step {step} of {last} (seed {part.seed}, {format_percent(chosen.accuracy)} %)")
            flops += (selection and selection.flops) or 0
        yield (
            f"Checkpoint of {row.label}: {rule.rule} of {rule.points} on validation, of equal ones "
            f"{rule.ties}: {'; '.join(steps)}. "
            f"The looks cost {format_flops(flops)} FLOPs of inference, in no training budget."
        )


def split_notes(scored: Sequence[Scored]) -> Iterator[str]:
    """Of a section of the 16-split protocol."""
    first = scored[0]
    rule = first.rule
    yield question_note(first.facts[:5], first.summary.n, backbone=first.run.spec.backbone.label)
    yield (
        f"RiM's published protocol: in each of {rule.splits} seeded random splits {100 * rule.share:g} % of the "
        f"test questions choose the checkpoint with the best greedy accuracy (of equal ones {rule.ties}), and only "
        "the others score it. It selects on test items, so these numbers compare with no row of another section. Last "
        "candidate: no choice at all, on the same questions."
    )
    yield (
        "split SE: standard deviation over splits divided by the root of their number. All splits share the same "
        "questions, so it says how much the split matters, and is no sampling error."
    )
    for text in dict.fromkeys(overlap_text(s.summary.overlap) for s in scored):
        if text:
            yield f"OVERLAP: {text}."
    if any(s.too_few for s in scored):
        yield "Sets of questions that are too few for the protocol are left out."


def floor_notes(group: Group, scopes: Iterable[Subset]) -> Iterator[str]:
    """What the floor of each set of questions is, and whether any row is above it."""
    for scope in scopes:
        floor, constant = group.floor(scope), group.constant_floor(scope)
        beside = "" if floor.measured else "; shortcuts were not measured"
        if floor.kind is FloorKind.SHORTCUT:
            beside = f", {constant.text()} {format_percent(constant.value)} %"
        low = f" {ALL_AT_FLOOR}" if all(group.at_floor(r, scope) for r in group.rows) else ""
        value = f"{format_percent(floor.value)} % {format_interval(*floor.interval)}"
        yield f"Floor ({scope.name}): {floor.text()} scores {value}{beside}.{low}"


# A section of the comparison
def comparison_notes(group: Group, pairs: Sequence[Pair]) -> Iterator[str]:
    """Everything that is said of a comparable group."""
    parts, head = [p for r in group.rows for p in r.parts], group.scopes[0]
    sources = _distinct(p.summary.data_source for p in parts)
    yield question_note(group.facts[:5], len(parts[0].items), source=sources)
    yield (
        f"Backbone {parts[0].spec.backbone.label}; training dtype "
        f"{_distinct(p.spec.dtype for p in parts)}; starts: {_distinct(p.spec.start for p in parts)}; "
        f"seeds: {_distinct(sorted({p.seed for p in parts if not p.spec.untrained})) or 'none, nothing was trained'}."
    )
    yield engine_note(parts)
    yield from settings_note(parts, "Evaluation")
    yield from noise_note(parts)
    yield from floor_notes(group, [s for s in group.scopes if not s.level])
    if rules := sorted({str(c) for p in parts if (c := p.summary.choice) is not None}):
        by_length = (f"{r.label} {format_percent(r.item_mean('correct_norm', head.ids))} %" for r in group.rows)
        yield (
            f"Chosen by the {' or '.join(rules)}; by that over the choice's characters (lm-eval's acc_norm), "
            f"{head.title}: {', '.join(by_length)}."
        )
    if any(len(r.parts) > 1 for r in group.rows):
        yield (
            "± is the standard deviation over training seeds; the interval is the question error of their mean on n "
            "questions."
        )
    yield from start_note(group.rows)
    if budget := matched(group.rows):
        yield budget
    timed = [t for p in parts if (t := p.summary.throughput) is not None]
    batches = sorted({t.batch for t in timed if t.batch is not None})
    if batches:
        sizes = " or ".join(f"{b:,}" for b in batches)
        yield f"Throughput latencies: medians of questions answered {sizes} at a time."
    yield from evaluation_notes(parts)
    yield from transfer_notes(parts)
    yield from dict.fromkeys(f"Questions: {note}." for p in parts for note in p.summary.data_notes)
    yield from trust_notes(group.rows)
    for cut in sorted({p.cut for p in parts if p.cut is not None}):
        yield f"First {cut:,} rows only: not the full set."
    for row in group.rows:
        if note := row.first.summary.prompt_note:
            yield f"{row.label}: {note}."
    if pairs:
        yield from rule_notes(group.rows)
        yield detectable_note(pairs)
    yield from cluster_notes(group)
    yield from claim_notes(group, pairs)
    yield from selection_notes(group.rows)
    if group.quick:
        yield f"{QUICK}."


# A section of the leaderboard
def leaderboard_notes(numbers: LeaderboardNumbers) -> Iterator[str]:
    """Everything that is said of a ranking group."""
    contest, group = numbers.contest, numbers.contest.group
    first = group.rows[0].first
    yield question_note(group.facts[:5], len(first.items), backbone=first.spec.backbone.label)
    yield engine_note(contest.evaluations)
    if contest.shared:
        yield f"All rows: {contest.shared}."
    yield _division_note(numbers)
    if budget := matched(group.rows):
        yield budget
    if contest.others:
        yield "Rows with other training budgets stand in sections of their own: they are not ranked against these."
    yield from start_note(group.rows)
    if len(group.rows) == 1:
        yield "One row only: there is nothing to rank it against."
    yield from evaluation_notes(contest.evaluations)
    yield (
        "Rank: 1 + the rows that are higher, to the number of rows − those that are lower; Holm over the section's "
        "pairs. One seed ranks nobody."
    )
    yield from rule_notes(group.rows)
    yield from cluster_notes(group)
    yield (
        "±: standard deviation over training seeds. [..]: Wilson 95 % on the questions in rankings, points and "
        f"pictures; two-level bootstrap 95 % over seeds and questions ({RESAMPLES:,} resamples) at equal cost and for "
        "differences and for areas."
    )
    yield from _curve_notes(numbers)
    yield from _area_notes(numbers)
    yield from floor_notes(group, contest.scopes)
    yield from selection_notes(group.rows)
    yield from trust_notes(group.rows)
    if group.quick:
        yield f"{QUICK}."


def _division_note(numbers: LeaderboardNumbers) -> str:
    rows = numbers.contest.group.rows
    trials = {r.label: training_budgets.tuning_trials(r) for r in rows}
    data = sorted({str(r.first.spec.task.train_sha256)[:12] for r in rows})
    spent = [f"{r.label} {format_flops(f)}" for r in rows if (f := tuning_flops(r)) is not None]
    tuning = f" Training FLOPs of the trials, beside the runs' own: {', '.join(spent)}." if spent else ""
    if numbers.contest.closed:
        return (
            f"Closed division: all rows share training data (sha256 {data[0]}), backbone, training FLOPs, each met "
            "within one step, and the number of learning-rate trials that their recipes declare "
            f"({next(iter(trials.values()))}).{tuning}"
        )
    declared = "; ".join(f"{label} {'undeclared' if n is None else n}" for label, n in trials.items())
    differ = " (rows differ in their training data)" if len(data) > 1 else ""
    return (
        "Open division: rows of one training budget, whatever else is declared; training data sha256 "
        f"{', '.join(data)}{differ}; learning-rate trials: {declared}.{tuning}"
    )


def _curve_notes(numbers: LeaderboardNumbers) -> Iterator[str]:
    contest = numbers.contest
    if bare := [c.row.label for c in contest.curves if c.knob is None]:
        yield f"No curve: {', '.join(bare)}; run `rim-bench sweep`. The default setting is a curve of one point."
    yield (
        "At equal cost: between two neighbouring settings of a curve, accuracy is interpolated linearly in the cost, "
        "which is what answering each question with one of the two by chance costs and scores in expectation; beyond "
        f"the settings measured nothing is said. Costs within {100 * SAME['flops']:g} % of each other (measured "
        f"latencies: {100 * SAME['latency']:g} %) count as equal; of equally dear settings of a curve the default "
        "stands for all, else the largest. Settings of one trained model are not tested against each other."
    )
    yield from settings_note(contest.evaluations, "Evaluation, all settings", _numbers_first)
    timed = sorted({str(p.summary.latency and p.summary.latency.n) for p in contest.evaluations}, key=_numbers_first)
    text = f"Latency: mean time to the full answer at batch 1 over {' or '.join(timed)} questions timed"
    if len(contest.scopes) > 1:
        text += f", of the set that is compared (blank under {TIMED})"
        if any(point.pooled for c in contest.curves for point in c.points):
            text += "; older evaluations do not say which they timed, and stand with the mean over all of them"
    yield f"{text}; its own measurement error is in no interval."


def _numbers_first(text: str) -> tuple[float, str]:
    """Numbers in their order, then the other texts in theirs."""
    return (float(text), "") if re.fullmatch(r"\d+(\.\d+)?", text) else (float("inf"), text)


def _area_notes(numbers: LeaderboardNumbers) -> Iterator[str]:
    """Which curves and which areas are missing, and why."""
    contest = numbers.contest

    def where(sets: Sequence[str]) -> str:
        return "" if len(sets) == len(contest.scopes) else f" ({', '.join(sets)})"

    for kind in contest.kinds:
        narrow: dict[str, list[str]] = {}
        for scope in contest.scopes:
            for track in numbers.narrow(kind, scope):
                narrow.setdefault(track.curve.label, []).append(scope.name)
        if narrow:
            curves = "; ".join(label + where(sets) for label, sets in narrow.items())
            yield (
                f"Left out of the area over {COST_NAMES[kind]}, largest cost under {WIDE:g} times the smallest: "
                f"{curves}."
            )
    missing = {kind: [s.name for s in contest.scopes if numbers.span(kind, s) is None] for kind in contest.kinds}
    if costs := "; ".join(COST_NAMES[kind] + where(sets) for kind, sets in missing.items() if sets):
        yield f"No area under the curves over {costs}: too few curves, or no range that all of them share."
