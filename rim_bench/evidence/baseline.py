"""Stored accuracy baselines: which questions a run answered, and which of them it got right, as a small text file for
review.

The file is TOML under a checksum: the questions once (task, versions, split, hashes), then each evaluation with 0 and 1
for every item, 100 a line, by level; items stand in the natural order of their ids, so that the ids are implied and
their hash is enough. It is written from a stored evaluation and never by hand: a file whose checksum or counts do not
fit is refused.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import tomllib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rim_bench.storage.records import EvaluationRecord, RunSpec, spec_id
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record, canonical, read_json, write_bytes_atomic

HEADER = "# Measured accuracies, item by item, for `rim-bench check`; written by `rim-bench baseline`, not by hand."
FORMAT = 1
LINE = 100  # items a line
_SETTINGS = ("max_tokens", "votes", "temperature", "sample_seed", "batch_size", "dtype", "device", "order")


class Questions(NamedTuple):
    """What two evaluations must share to be compared item by item; the names are those of the file."""

    task: str
    task_version: str
    evaluator_version: str
    split: str
    data_sha256: str
    n: int
    ids_sha256: str = ""  # of levels and ids in order; empty until the items are read


class Setting(NamedTuple):
    """What was asked of which kind of system. Training seed, weights, batch and device are no part of it."""

    label: str
    start: str
    knob: str  # "K=2"; empty: the method's default
    max_tokens: str
    votes: str  # "5 at temperature 0.7, seed 0"; empty: one greedy answer
    other: str  # what else was set, "split_passes=True"; empty: nothing

    def __str__(self) -> str:
        words = [f"from {self.start}"] * bool(self.start) + [self.knob] * bool(self.knob)
        words += [f"at most {self.max_tokens} tokens"] * bool(self.max_tokens) + [f"votes {self.votes}"] * bool(
            self.votes
        )
        words += [self.other] * bool(self.other)
        return self.label + (f" ({', '.join(words)})" if words else "")


@dataclass(frozen=True)
class BaselineEntry:
    """One evaluation: right (True) and wrong for every item, by level in natural order, and where it comes from."""

    questions: Questions
    setting: Setting
    origin: (
        Record  # seed, run, key, weights_sha256, recipe_sha256, dtype, device, batch_size ...: what is known of them
    )
    answers: Mapping[str, tuple[bool, ...]]
    sources: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # of the items in the same places, "" = its own; not in the file

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
        """The number of each item's source, in the order of `flat`; None where no two of them share one, or sources are
        not known.
        """
        given = [s for level, sources in self.sources.items() if not levels or level in levels for s in sources]
        names = [("source", s) if s else ("item", str(k)) for k, s in enumerate(given)]
        numbers = {name: k for k, name in enumerate(dict.fromkeys(names))}
        return tuple(numbers[name] for name in names) if len(numbers) < len(names) else None


# From a stored evaluation
def questions_of(summary: EvaluationRecord) -> Questions:
    """The questions of an evaluation, as far as its summary tells (not the hash of the ids)."""
    task, version, evaluator, split, data = (str(summary.get(k, "")) for k in Questions._fields[:5])
    n = summary.get("n")
    return Questions(task, version, evaluator, split, data, n if isinstance(n, int) else 0)


def setting_of(spec: RunSpec, summary: EvaluationRecord) -> Setting:
    """What was evaluated. Raises UsageError for a specification without a method."""
    method = spec.get("method")
    if not isinstance(method, Mapping) or "name" not in method:
        raise UsageError("its specification names no method")
    knob, effort, given = summary.get("knob"), summary.get("effort"), summary.get("settings")
    given = given if isinstance(given, Mapping) else {}
    turned = "" if effort is None or "knob" in summary else f"effort={effort}"
    if isinstance(knob, Mapping):
        turned = f"{knob.get('name')}={knob.get('value')}"
    votes = (
        f"{given['votes']} at temperature {given.get('temperature')}, seed {given.get('sample_seed')}"
        if given.get("votes")
        else ""
    )
    label, tokens = str(method.get("label") or method["name"]), given.get("max_tokens")
    others = ", ".join(f"{k}={v}" for k, v in sorted(given.items()) if k not in _SETTINGS and v)
    return Setting(label, str(spec.get("start") or ""), turned, "" if tokens is None else str(tokens), votes, others)


def measured(run: Run, key: str, summary: EvaluationRecord) -> BaselineEntry:
    """A stored evaluation with its items, read and verified.

    Raises:
        UsageError: no items, an id twice, an answer that is neither right nor wrong, or files that do not fit together.
    """
    where = f"evaluation {key!r} of run {run.id!r}"
    if run.id != spec_id(run.spec):
        raise UsageError(
            f"run folder {str(run.path)!r} does not carry the id of its spec.json: one of them was changed"
        )
    weights = run.path / "model" / "backbone.json"
    if (
        "weights_sha256" in summary
        and weights.is_file()
        and read_json(weights).get("sha256") != summary["weights_sha256"]
    ):
        raise UsageError(f"{where} was made of weights that were replaced since: evaluate the run again")
    try:
        items = run.read_items(key)
        found = [
            (_natural(str(i.get("level") or "")), _natural(str(i["id"])), i["correct"], str(i.get("cluster") or ""))
            for i in items
        ]
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{where} is damaged: its items cannot be read ({type(error).__name__}: {error})") from None
    if not found:
        raise UsageError(f"{where} has no items")
    if len(found) != summary.get("n"):
        raise UsageError(
            f"{where} is damaged: its summary speaks of {summary.get('n')} items, but there are {len(found)}"
        )
    names = [_plain(name) for _, name, _, _ in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"{where} has the item id {twice!r} more than once")
    found.sort(key=lambda f: f[:2])
    answers: dict[str, list[bool]] = {}
    sources: dict[str, list[str]] = {}
    for level, name, correct, source in found:
        if not isinstance(correct, bool):
            raise UsageError(f"{where}: item {_plain(name)!r} is neither right nor wrong but {correct!r}")
        answers.setdefault(_plain(level), []).append(correct)
        sources.setdefault(_plain(level), []).append(source)
    ids = hashlib.sha256(canonical([[_plain(level), _plain(name)] for level, name, _, _ in found]).encode()).hexdigest()
    return BaselineEntry(
        questions_of(summary)._replace(ids_sha256=ids),
        setting_of(run.spec, summary),
        _origin(run, key, summary),
        {k: tuple(v) for k, v in answers.items()},
        {k: tuple(v) for k, v in sources.items()},
    )


def _origin(run: Run, key: str, summary: EvaluationRecord) -> Record:
    """Where an evaluation comes from; the recipe is the specification but for the seed and the run it started from."""
    recipe = canonical({k: v for k, v in run.spec.items() if k not in ("seed", "parent")})
    known = {
        "seed": int(run.spec.get("seed") or 0),
        "run": run.id,
        "key": key,
        "weights_sha256": summary.get("weights_sha256"),
        "recipe_sha256": hashlib.sha256(recipe.encode()).hexdigest(),
        "items_sha256": (summary.get("items") or {}).get("sha256"),
        **{k: (summary.get("settings") or {}).get(k) for k in ("dtype", "device", "batch_size", "order")},
    }
    return {k: v for k, v in known.items() if v is not None}


def _natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """T=2 before T=10; equal for equal texts only, and the text can be told from it."""
    return tuple((0, int(p), p) if p.isascii() and p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", text) if p)


def _plain(key: tuple[tuple[int, int, str], ...]) -> str:
    return "".join(p for _, _, p in key)


def _default(setting: Setting) -> bool:
    return not (setting.knob or setting.votes or setting.other)


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
        if not (s.get("curve") or s.get("repeat"))
        and _default(setting_of(run.spec, s))
        and split in (None, s.get("split"))
        and task in (None, s.get("task"))
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


# The file
def write_baseline(path: Path, entries: Sequence[BaselineEntry]) -> None:
    """Writes one file with all entries.

    Raises:
        UsageError: no entry, entries on other questions than the first, the same setting and seed twice, or a full
            disk.
    """
    if not entries:
        raise UsageError("a baseline needs at least one run")
    seen: set[tuple[Setting, Any]] = set()
    for entry in entries:
        if (other := difference(entry.questions, entries[0].questions)) is not None:
            raise UsageError(
                f"one baseline file is about one set of questions, but {entry.origin['run']!r} has another {other}"
            )
        if (name := (entry.setting, entry.origin.get("seed"))) in seen:
            raise UsageError(f"{entry.setting}, seed {entry.origin.get('seed')}, is there twice: give each run once")
        seen.add(name)
    lines = ["", "[questions]", *_pairs(entries[0].questions._asdict())]
    lines.append(f"levels = [{', '.join(f'[{_text(k)}, {len(v)}]' for k, v in entries[0].answers.items())}]")
    for entry in entries:
        n, correct = entry.questions.n, entry.correct
        told = {
            **entry.setting._asdict(),
            **entry.origin,
            "correct": correct,
            "accuracy": f"{100 * correct / n:.2f} % of {n}",
        }
        lines += ["", "[[entry]]", *_pairs(told), "items = ["]
        for level, answers in entry.answers.items():
            lines.append(f"  # {level or 'all'}: {sum(answers)} of {len(answers)}".replace("\n", " "))
            bits = "".join("01"[a] for a in answers)
            lines += [f'  "{bits[at : at + LINE]}",' for at in range(0, len(bits), LINE)]
        lines.append("]")
    body = "\n".join(lines) + "\n"
    write_bytes_atomic(path, f'{HEADER}\nformat = {FORMAT}\nsha256 = "{_digest(body)}"\n{body}'.encode())


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{k} = {_text(v) if isinstance(v, str) else v}" for k, v in values.items()]


def _text(value: str) -> str:
    """A TOML string: JSON's, which leaves one character as it is that TOML does not allow."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def read_baseline(path: Path) -> tuple[BaselineEntry, ...]:
    """The entries of a baseline file, verified.

    Raises:
        UsageError: missing, empty, truncated, edited, of another format, or with counts that do not fit its items.
    """
    name = f"baseline {str(path)!r}"
    try:
        text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")  # a checkout may have changed the line ends
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not a text file that `rim-bench baseline` wrote") from None
    if not text.strip():
        raise UsageError(f"{name} is empty: `rim-bench baseline RUN -o FILE` writes one")
    head = re.match(re.escape(HEADER) + r'\nformat = (\d+)\nsha256 = "([0-9a-f]{64})"\n', text)
    if head is None:
        raise UsageError(f"{name} does not begin as files of `rim-bench baseline` do: it is not one, or it was edited")
    if int(head[1]) != FORMAT:
        raise UsageError(f"{name} has format {head[1]}, but this version reads format {FORMAT}: write it again")
    if _digest(text[head.end() :]) != head[2]:
        raise UsageError(
            f"{name} does not match its checksum: it was truncated or edited; write it again with `rim-bench baseline`"
        )
    try:
        value = tomllib.loads(text)
        told = dict(value["questions"])
        sizes = [(str(level), int(size)) for level, size in told.pop("levels")]
        questions = Questions(**told)
        entries = tuple(_entry(questions, sizes, entry) for entry in value["entry"])
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{name} does not hold what a baseline holds ({type(error).__name__}: {error})") from None
    if not entries:
        raise UsageError(f"{name} has no entry")
    return entries


def _entry(questions: Questions, sizes: Sequence[tuple[str, int]], told: Record) -> BaselineEntry:
    """Raises ValueError where the items do not fit the counts."""
    bits = "".join(told.pop("items"))
    correct = told.pop("correct")
    told.pop("accuracy")
    if (
        set(bits) - {"0", "1"}
        or len(bits) != questions.n
        or sum(n for _, n in sizes) != questions.n
        or bits.count("1") != correct
    ):
        raise ValueError(
            f"{len(bits)} items with {bits.count('1')} right, where {questions.n} with {correct} right are announced"
        )
    setting = Setting(**{k: told.pop(k) for k in Setting._fields})
    answers, at = {}, 0
    for level, n in sizes:
        answers[level], at = tuple(b == "1" for b in bits[at : at + n]), at + n
    return BaselineEntry(questions, setting, told, answers)


_WORDS = {
    "task": "task", "task_version": "task version", "evaluator_version": "evaluator version", "split": "split",
    "data_sha256": "data (sha256)", "n": "number of items", "ids_sha256": "item ids",
}  # fmt: skip


def difference(first: Questions, second: Questions) -> str | None:
    """In words, the first thing in which two sets of questions differ, with both values; None where they are the same.

    Ids count only where both are known.
    """
    order = ("task", "split", "evaluator_version", "task_version", "data_sha256", "n", "ids_sha256")
    for name in order:
        one, two = getattr(first, name), getattr(second, name)
        if one != two and not (name == "ids_sha256" and "" in (one, two)):
            short = [str(v)[:12] if name.endswith("sha256") else repr(v) for v in (one, two)]
            return f"{_WORDS[name]}: {short[0]}, not {short[1]}"
    return None
