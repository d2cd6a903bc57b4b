"""Stored accuracy baselines: the questions a run answered, and which it got right, as a small text file for review.

The file is TOML under a checksum: the questions once (task, versions, split, hashes), then each evaluation with 0 and 1
for every item, 100 a line, by level; items stand in the natural order of their ids, so that the ids are implied and
their hash is enough. Behind them stand what was asked, so that `check` can ask it again, and the recipe of the run:
everything that makes two runs comparable. It is written from a stored evaluation, whose outputs are scored again, and
never by hand: a file whose checksum or counts do not fit is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rim_bench.data.answers import EVALUATOR_VERSION, Kind, score, tolerance_at
from rim_bench.evidence.stats.clustered import source_numbers
from rim_bench.storage.records import EvaluationRecord, ItemRecord, RunSpec
from rim_bench.storage.run_folder import Run
from rim_bench.util.environment import moment
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record, canonical, read_json, read_whole, write_bytes_atomic
from rim_bench.util.text import escape_json, escape_line, leaves, natural_key

HEADER = "# Measured accuracies, item by item, for `rim-bench check`; written by `rim-bench baseline`, not by hand."
FORMAT = 2
LINE = 100  # items a line
_NO_DIFFERENCE = ("schema", "numerics", "method.label", "method.file")  # of a recipe: what only names what else says


class Questions(NamedTuple):
    """What two evaluations must share to be compared item by item; the names are those of the file."""

    task: str
    task_version: str
    evaluator_version: str
    split: str
    data_sha256: str
    n: int
    ids_sha256: str = ""  # of levels and ids in order; empty until the items are read, as are the next two
    prompts_sha256: str = ""  # of the hashes of the prompts, in the same order
    references_sha256: str = ""  # of the right answers


class SystemSetting(NamedTuple):
    """What was asked of which kind of system. Training seed, weights, batch and device are no part of it."""

    label: str
    start: str
    knob: str  # "K=2"; empty: the method's default
    max_tokens: str
    votes: str  # "5 at temperature 0.7, seed 0"; empty: one greedy answer
    other: str  # what else was set, "split_passes=True"; empty: nothing

    def __str__(self) -> str:
        words = [
            f"from {self.start}" if self.start else "",
            self.knob,
            f"at most {self.max_tokens} tokens" if self.max_tokens else "",
            f"votes {self.votes}" if self.votes else "",
            self.other,
        ]
        return self.label + (f" ({', '.join(filter(None, words))})" if any(words) else "")

    @property
    def default(self) -> bool:
        """Whether it is the method's own: no knob turned, one greedy answer."""
        return not (self.knob or self.votes or self.other)


@dataclass(frozen=True)
class Asked:
    """What was asked of a run beside the questions: an evaluation with the same of it can be compared."""

    limit: int | None = None
    effort: int | None = None
    max_tokens: int | None = None
    votes: int = 1
    temperature: float | None = None
    sample_seed: int | None = None
    split_passes: bool = False
    capped: bool = False  # max_tokens is a knob that was turned

    @staticmethod
    def of(summary: EvaluationRecord) -> Asked:
        """What an evaluation says of it."""
        how, turned = summary.generation, "" if summary.knob is None else summary.knob.name
        knobs, split = turned.split("+"), bool(how.extra.get("split_passes"))
        return Asked(
            summary.limit, summary.effort, how.max_tokens, how.votes or 1, how.temperature, how.sample_seed,
            split or "passes" in knobs, "max_tokens" in knobs,
        )  # fmt: skip


@dataclass(frozen=True)
class BaselineEntry:
    """One evaluation: right (True) and wrong for every item, by level in natural order, and where it comes from."""

    questions: Questions
    setting: SystemSetting
    origin: Record  # what is known of seed, run, key, weights_sha256, recipe_sha256, dtype, device, batch_size ...
    answers: Mapping[str, tuple[bool, ...]]
    recipe: Record = field(default_factory=dict)  # what makes runs comparable, by dotted name
    asked: Asked = Asked()
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of the items, "" = its own; not in the file

    @staticmethod
    def of_table(questions: Questions, sizes: Sequence[tuple[str, int]], table: Record) -> BaselineEntry:
        """One `[[entry]]` of the file. Raises ValueError where the items do not fit the counts."""
        bits, right = "".join(table.pop("items")), table.pop("correct")
        recipe, asked = dict(table.pop("recipe")), Asked(**table.pop("asked"))
        table.pop("accuracy")
        fits = len(bits) == sum(n for _, n in sizes) == questions.n and bits.count("1") == right
        if not fits or set(bits) - {"0", "1"}:
            raise ValueError(
                f"{len(bits)} items with {bits.count('1')} right, where {questions.n} with {right} right are announced"
            )
        setting = SystemSetting(**{k: table.pop(k) for k in SystemSetting._fields})
        answers, start = {}, 0
        for level, n in sizes:
            answers[level], start = tuple(b == "1" for b in bits[start : start + n]), start + n
        if "method.name" not in recipe:
            raise ValueError("a recipe names no method")
        return BaselineEntry(questions, setting, table, answers, recipe, asked)

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.recipe["method.name"])

    @property
    def correct(self) -> int:
        """How many it got right."""
        return sum(map(sum, self.answers.values()))

    def flat(self, levels: Sequence[str] = ()) -> list[bool]:
        """All answers in order; only those of `levels` where some are named.

        Raises:
            UsageError: a level that there is not.
        """
        if missing := [v for v in levels if v not in self.answers]:
            raise UsageError(f"no item has level {missing[0]!r}: there are {', '.join(map(repr, self.answers))}")
        return [a for level, answers in self.answers.items() if not levels or level in levels for a in answers]

    def clusters(self, levels: Sequence[str] = ()) -> tuple[int, ...] | None:
        """The number of each item's source, in the order of `flat`; None where no two share one, or none is known."""
        return source_numbers(
            [s for level, sources in self.sources.items() if not levels or level in levels for s in sources]
        )


@dataclass(frozen=True)
class Baseline:
    """A baseline file: when it was written, what its writer noted, and its entries."""

    date: str
    note: str
    entries: tuple[BaselineEntry, ...]


def recipe_of(spec: RunSpec) -> Record:
    """What makes runs comparable, by dotted name: the specification without seed and parent, without what is null."""
    recipe = leaves(spec.recipe)
    ignored = {*_NO_DIFFERENCE, *(["backbone.path"] if spec.backbone.weights else [])}
    kept = {k: v for k, v in sorted(recipe.items()) if v is not None and k not in ignored}
    return {k: v if isinstance(v, str | int | float) else canonical(v) for k, v in kept.items()}


def questions_of(summary: EvaluationRecord) -> Questions:
    """The questions of an evaluation, as far as its summary tells (not the hash of the ids)."""
    named = (summary.task or "", summary.task_version, summary.evaluator_version, summary.split, summary.data_sha256)
    task, version, evaluator, split, data = map(str, named)
    return Questions(task, version, evaluator, split, data, summary.n if isinstance(summary.n, int) else 0)


def setting_of(spec: RunSpec, summary: EvaluationRecord) -> SystemSetting:
    """What was evaluated. Raises UsageError for a specification without a method."""
    if not spec.method.name:
        raise UsageError("its specification names no method")
    knob, effort, how = summary.knob, summary.effort, summary.generation
    turned = "" if effort is None or summary.says("knob") else f"effort={effort}"
    if knob is not None:
        turned = f"{knob.name}={knob.value}"
    votes = f"{how.votes} at temperature {how.temperature}, seed {how.sample_seed}" if how.votes else ""
    tokens = "" if how.max_tokens is None else str(how.max_tokens)
    others = ", ".join(f"{k}={v}" for k, v in sorted(how.extra.items()) if v)
    return SystemSetting(spec.method.title, spec.start or "", turned, tokens, votes, others)


def measured(run: Run, key: str, summary: EvaluationRecord) -> BaselineEntry:
    """A stored evaluation with its items, read and verified; right and wrong as they are stored.

    Raises:
        UsageError: no items, or files that are damaged or do not fit together.
    """
    return _entry(run, key, summary, _stored_items(run, key, summary))


def rescored(run: Run, key: str, summary: EvaluationRecord, items: Sequence[ItemRecord] | None = None) -> BaselineEntry:
    """An evaluation with its outputs scored again, by the present scorer.

    Args:
        items: where they are not stored.

    Raises:
        UsageError: as in `measured`; an evaluation of another version of the scorer, one without outputs, and one whose
            stored marks are not what its outputs deserve.
    """
    where = f"evaluation {key!r} of run {run.id!r}"
    if str(summary.evaluator_version) != EVALUATOR_VERSION or summary.scoring is None:
        raise UsageError(
            f"{where} is of evaluator version {str(summary.evaluator_version)!r}, and the present one is "
            f"{EVALUATOR_VERSION!r}: evaluate the run again (`rim-bench eval`)"
        )
    rows = _stored_items(run, key, summary) if items is None else items
    how = summary.scoring
    kind: Kind = how.kind  # type: ignore[assignment]  # it is one of them
    for item in rows:
        if item.output is None or item.reference is None:
            raise UsageError(
                f"{where} stores no output of {item.id!r}, so that nothing can be scored again: evaluate the run with "
                "`rim-bench eval`, which stores them, as points of a curve (`sweep`) do not"
            )
        tolerance = tolerance_at(item.reference, how.tolerance, how.relative_tolerance)
        mark = not item.overlong and score(item.output, item.reference, tolerance, kind).correct
        if mark != item.correct:
            words = {True: "right", False: "wrong"}
            raise UsageError(
                f"{where} calls the output of {item.id!r} {words[item.correct]}, which scored again is {words[mark]} "
                f"(right answer: {item.reference!r}): the items were changed, or the scorer "
                "without its version; evaluate the run again"
            )
    return _entry(run, key, summary, rows)


def _stored_items(run: Run, key: str, summary: EvaluationRecord) -> list[ItemRecord]:
    """The items of a stored evaluation. Raises UsageError as in `measured`."""
    where = f"evaluation {key!r} of run {run.id!r}"
    weights, used = run.path / "model" / "backbone.json", summary.weights_sha256
    if used is not None and weights.is_file() and read_json(weights).get("sha256") != used:
        raise UsageError(f"{where} was made of weights that were replaced since: evaluate the run again")
    return run.read_items(key)


def _entry(run: Run, key: str, summary: EvaluationRecord, records: Sequence[ItemRecord]) -> BaselineEntry:
    """An evaluation as an entry. Raises UsageError as in `measured`."""
    where = f"evaluation {key!r} of run {run.id!r}"
    if run.id != run.spec.id:
        raise UsageError(
            f"run folder {str(run.path)!r} does not carry the id of its spec.json: one of them was changed"
        )
    if not records:
        raise UsageError(f"{where} has no items")
    items = sorted(records, key=lambda item: (natural_key(item.level or ""), natural_key(item.id)))
    answers: dict[str, list[bool]] = {}
    sources: dict[str, list[str]] = {}
    for item in items:
        answers.setdefault(item.level or "", []).append(item.correct)
        sources.setdefault(item.level or "", []).append(item.cluster or "")
    recipe, how = canonical(run.spec.recipe), summary.generation
    origin = {
        "seed": run.spec.seed,
        "numerics": run.spec.numerics,
        "run": run.id,
        "key": key,
        "evaluated": summary.date,
        "weights_sha256": summary.weights_sha256,
        "recipe_sha256": _digest(recipe),
        "items_sha256": None if summary.stored_items is None else summary.stored_items.sha256,
        "dtype": how.dtype,
        "device": how.device,
        "batch_size": how.batch_size,
        "order": how.order,
    }
    return BaselineEntry(
        questions_of(summary)._replace(
            ids_sha256=_digest(canonical([[item.level or "", item.id] for item in items])),
            prompts_sha256=_digest(canonical([item.prompt_hash for item in items])),
            references_sha256=_digest(canonical([item.reference for item in items])),
        ),
        setting_of(run.spec, summary),
        {k: v for k, v in origin.items() if v is not None},
        {k: tuple(v) for k, v in answers.items()},
        recipe_of(run.spec),
        Asked.of(summary),
        {k: tuple(v) for k, v in sources.items()},
    )


def choose(
    run: Run, split: str | None, task: str | None = None, key: str | None = None
) -> tuple[str, EvaluationRecord]:
    """Key and summary of the one evaluation that is meant: a method's default setting unless `key` names another.

    Raises:
        UsageError: none or several fit.
    """
    stored = run.evaluations()
    if key is not None:
        if key not in stored:
            raise UsageError(f"run {run.id!r} has no evaluation {key!r}: it has {', '.join(stored) or 'none'}")
        return key, stored[key]
    fitting = {
        k: s
        for k, s in stored.items()
        if not (s.curve or s.repeat)
        and setting_of(run.spec, s).default
        and split in (None, s.split)
        and task in (None, s.task)
    }
    wanted = f"{split or 'any split'}" + (f" of task {task}" if task else "")
    if not fitting:
        known = ", ".join(stored) or "no evaluation"
        raise UsageError(f"run {run.id!r} is not evaluated on {wanted} at its default setting: it has {known}")
    if len(fitting) > 1:
        raise UsageError(
            f"run {run.id!r} has several evaluations on {wanted}: choose one with --key, {', '.join(fitting)}"
        )
    return next(iter(fitting.items()))


def write_baseline(path: Path, entries: Sequence[BaselineEntry], note: str = "") -> None:
    """Writes one file with all entries.

    Args:
        note: what a reader of every verdict should know, as how these runs were picked.

    Raises:
        UsageError: no entry, entries on other questions than the first, the same setting and seed twice, or a full
            disk.
    """
    if not entries:
        raise UsageError("a baseline needs at least one run")
    seen: set[tuple[SystemSetting, Any]] = set()
    for entry in entries:
        if (other := difference(entry.questions, entries[0].questions)) is not None:
            raise UsageError(
                f"one baseline file is about one set of questions, but {entry.origin['run']!r} has another {other}"
            )
        if (name := (entry.setting, entry.origin.get("seed"))) in seen:
            raise UsageError(f"{entry.setting}, seed {entry.origin.get('seed')}, is there twice: give each run once")
        seen.add(name)
    lines = [*_pairs({"date": moment(), "note": note}), "", "[questions]", *_pairs(entries[0].questions._asdict())]
    lines.append(f"levels = [{', '.join(f'[{_text(k)}, {len(v)}]' for k, v in entries[0].answers.items())}]")
    for entry in entries:
        n, correct = entry.questions.n, entry.correct
        score = {"correct": correct, "accuracy": f"{100 * correct / n:.2f} % of {n}"}
        lines += ["", "[[entry]]", *_pairs({**entry.setting._asdict(), **entry.origin, **score}), "items = ["]
        for level, answers in entry.answers.items():
            lines.append(f"  # {escape_line(level or 'all')}: {sum(answers)} of {len(answers)}")
            bits = "".join("01"[a] for a in answers)
            lines += [f'  "{bits[start : start + LINE]}",' for start in range(0, len(bits), LINE)]
        lines += ["]", "", "[entry.recipe]", *_pairs(entry.recipe)]
        asked = {k: v for k, v in vars(entry.asked).items() if v is not None}
        lines += ["", "[entry.asked]", *_pairs(asked)]
    body = "\n".join(lines) + "\n"
    write_bytes_atomic(path, f'{HEADER}\nformat = {FORMAT}\nsha256 = "{_digest(body)}"\n{body}'.encode())


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{k if k.isidentifier() else _text(k)} = {_text(v)}" for k, v in values.items()]


def _text(value: Any) -> str:
    """A TOML value: JSON's, with the characters spelled out that TOML does not allow, or a terminal would obey."""
    return escape_json(json.dumps(value, ensure_ascii=False))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read_baseline(path: Path) -> Baseline:
    """A baseline file, verified.

    Raises:
        UsageError: missing, empty, truncated, edited, of another format, or with counts that do not fit its items.
    """
    name = f"baseline {str(path)!r}"
    try:
        text = read_whole(path).decode("utf-8").replace("\r\n", "\n")  # a checkout may have changed the line ends
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not a text file that `rim-bench baseline` wrote") from None
    if not text.strip():
        raise UsageError(f"{name} is empty: `rim-bench baseline RUN -o FILE` writes one")
    first_lines = re.match(re.escape(HEADER) + r'\nformat = (\d+)\nsha256 = "([0-9a-f]{64})"\n', text)
    if first_lines is None:
        raise UsageError(f"{name} does not begin as files of `rim-bench baseline` do: it is not one, or it was edited")
    if int(first_lines[1]) != FORMAT:
        raise UsageError(
            f"{name} has format {first_lines[1]}, but this version reads format {FORMAT}: evaluate its runs again with "
            "`rim-bench eval RUN`, and write it again with `rim-bench baseline RUN -o FILE`"
        )
    if _digest(text[first_lines.end() :]) != first_lines[2]:
        raise UsageError(
            f"{name} does not match its checksum: it was truncated or edited; write it again with `rim-bench baseline`"
        )
    try:
        value = tomllib.loads(text)
        head = dict(value["questions"])
        sizes = [(str(level), int(size)) for level, size in head.pop("levels")]
        questions = Questions(**head)
        entries = tuple(BaselineEntry.of_table(questions, sizes, entry) for entry in value["entry"])
        date, note = str(value["date"]), str(value["note"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(f"{name} does not hold what a baseline holds ({type(error).__name__}: {error})") from None
    if not entries:
        raise UsageError(f"{name} has no entry")
    return Baseline(date, note, entries)


_WORDS = {  # in the order in which they are compared
    "task": "task", "split": "split", "evaluator_version": "evaluator version", "task_version": "task version",
    "data_sha256": "data (sha256)", "n": "number of items", "ids_sha256": "item ids",
    "prompts_sha256": "prompts (sha256)", "references_sha256": "right answers (sha256)",
}  # fmt: skip


def difference(first: Questions, second: Questions) -> str | None:
    """In words, the first thing in which two sets of questions differ, with both values; None where they are the same.

    Hashes of the items count only where both are known.
    """
    for name, word in _WORDS.items():
        values = getattr(first, name), getattr(second, name)
        if values[0] != values[1] and not (name.endswith("s_sha256") and "" in values):
            short = [str(v)[:12] if name.endswith("sha256") else repr(v) for v in values]
            return f"{word}: {short[0]}, not {short[1]}"
    return None
