"""What evaluation sets share with a training set: equal questions, equal but for numbers, runs of equal words.

Time and memory are linear: what is looked for comes from the evaluation sets, and the training rows stream past it
once. Only questions are compared; answers and steps are not. Imports no torch.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rim_bench.data.datasets import training_data
from rim_bench.data.options import Steps
from rim_bench.data.reader import Split
from rim_bench.data.suites import asked, readable
from rim_bench.data.task import Task, load_task
from rim_bench.storage.records import OverlapRecord
from rim_bench.util.errors import UsageError
from rim_bench.util.progress import phase
from rim_bench.util.table import Panel, Section, Table
from rim_bench.util.text import escape_json, format_percent

SHORTEST, LONGEST = 8, 13
"""Bounds of the words in a run, from Brown et al. 2020 (arXiv 2005.14165, appendix C): the 5th percentile of a set's
question lengths in
words, ignoring punctuation, white space and case, but at least 8 and at most 13."""
HALF = 0.5
WORDS = re.compile(r"\d[\d,]*(?:\.\d+)?|[^\W\d_]+(?:['’][^\W\d_]+)*")
_DIGITS = re.compile(r"\d[\d,]*(?:\.\d+)?")
_OTHERS = re.compile(r"[\W\d_]+")  # than letters
_Gram = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """An evaluation question and the training question that it shares most with."""

    id: str
    train_id: str
    kind: str  # exact, masked or n-gram: the strongest that holds
    share: float  # of its n-grams that stand anywhere in the training set
    question: str
    train_question: str


@dataclass(frozen=True)
class Leak:
    """What one evaluation set shares with the training set; counts are of its questions."""

    task: str
    title: str
    split: str
    n: int
    data_sha256: str
    source: str
    ngram: int  # words in a run
    short: int  # questions with fewer words than that: they have no n-gram
    exact: int  # equal but for white space
    masked: int  # equal but for numbers, case, punctuation and white space; what is exact is masked too
    in_validation: int | None  # exact, of the training task's validation rows; None of these themselves
    masked_in_validation: int | None  # the same with numbers masked
    any: int  # that share at least one n-gram
    half: int  # of whose n-grams at least half stand in the training set
    hits: tuple[Hit, ...]  # the worst, the worst first

    @classmethod
    def of(
        cls,
        task: Task,
        dataset: Split,
        train: Split,
        items: Sequence[_Item],
        size: int,
        shown: _Shown,
        worst: int,
        held: Sequence[_Item] | None,
    ) -> Leak:
        """What the questions of a set share with the training rows that `shown` names, and with `held` out ones."""
        exact, masked = [i.exact in shown.exact for i in items], [i.masked in shown.masked for i in items]
        rows = [[row for g in i.grams if (row := shown.grams.get(g)) is not None] for i in items]
        shares = [len(r) / len(i.grams) if i.grams else 0.0 for r, i in zip(rows, items, strict=True)]
        hits = []
        order = sorted(range(len(items)), key=lambda k: (-exact[k], -masked[k], -shares[k], k))
        for k in [k for k in order if exact[k] or masked[k] or shares[k]][:worst]:
            kind = "exact" if exact[k] else "masked" if masked[k] else "n-gram"
            if exact[k]:
                row = shown.exact[items[k].exact]
            else:
                row = shown.masked[items[k].masked] if masked[k] else Counter(rows[k]).most_common(1)[0][0]
            trained, asked = train.examples[row], dataset.examples[k]
            hits.append(Hit(asked.id, trained.id, kind, shares[k], asked.question, trained.question))
        return cls(
            task.name,
            task.title,
            dataset.split,
            len(items),
            dataset.sha256,
            dataset.source,
            size,
            sum(not i.grams for i in items),
            sum(exact),
            sum(masked),
            None if held is None else sum(i.exact in {h.exact for h in held} for i in items),
            None if held is None else sum(i.masked in {h.masked for h in held} for i in items),
            sum(s > 0 for s in shares),
            sum(s >= HALF for s in shares),
            tuple(hits),
        )


@dataclass(frozen=True)
class _Shown:
    """What of the evaluation sets stands in the training set, and the first row it stands in."""

    exact: dict[str, int]
    masked: dict[str, int]
    grams: dict[_Gram, int]


@dataclass(frozen=True)
class _Item:
    """An evaluation question made ready."""

    exact: str
    masked: str
    grams: tuple[_Gram, ...]


def count_overlap(task: Task, train: Split, validation: Split, questions: Sequence[str]) -> OverlapRecord:
    """How many of the evaluated questions stand in a task's training and validation rows.

    The rows of a generator have one form, and differ in what would be masked: there only equal questions count.
    """
    masked = task.metadata["source"] != "generator"
    letters = {_OTHERS.sub("", q.lower()) for q in questions}
    counts = []
    for rows in (train.examples, validation.examples):
        shown = {_plain(e.question) for e in rows}
        like = (e for e in rows if masked and _OTHERS.sub("", e.question.lower()) in letters)  # as all that are equal
        forms = {_masked(words(e.question)) for e in like}
        exact = sum(_plain(q) in shown for q in questions)
        counts.append((exact, sum(_masked(words(q)) in forms for q in questions) if masked else None))
    return OverlapRecord(
        n=len(questions),
        train_exact=counts[0][0],
        train_masked=counts[0][1],
        validation_rows=len(validation.examples),
        validation_exact=counts[1][0],
        validation_masked=counts[1][1],
    )


def words(text: str, pattern: str | None = None) -> list[str]:
    """Lower-case words and numbers (thousands commas out); with `pattern`, the pieces it matches, without blanks."""
    if pattern is not None:
        return [piece for m in re.finditer(pattern, text) if (piece := m[0].strip())]
    return [w.replace(",", "") for w in WORDS.findall(text.lower())]


def grams(pieces: Sequence[str], n: int) -> Iterator[_Gram]:
    """Runs of n words."""
    return (tuple(pieces[i : i + n]) for i in range(len(pieces) - n + 1))


def usual_ngram(lengths: Sequence[int]) -> int:
    """Words in a run for questions of these lengths (see `SHORTEST`)."""
    return min(LONGEST, max(SHORTEST, sorted(lengths)[int(0.05 * (len(lengths) - 1))]))


def leakage(
    train: Split,
    sets: Sequence[tuple[Task, Split]],
    *,
    ngram: int | None = None,
    pattern: str | None = None,
    worst: int = 5,
    validation: Split | None = None,
) -> list[Leak]:
    """Compare the questions of every set with the training questions.

    Args:
        validation: the training task's validation rows; they may be one of the sets.
        ngram: words in a run; None: `usual_ngram` of each set.
        pattern: pieces of a generated task's text instead of words (`Task.token_pattern`): there, signs are not
            punctuation.
        worst: how many of the worst questions to name for each set.

    Raises:
        UsageError: fewer than one word in a run.
    """
    if ngram is not None and ngram < 1:
        raise UsageError(
            f"--ngram {ngram} is too small: give a whole number of at least 1, or leave it out (8 to 13 words)"
        )
    sizes, prepared = [], []
    for _, dataset in sets:
        split = [words(e.question, pattern) for e in dataset.examples]
        sizes.append(size := ngram or usual_ngram([len(w) for w in split]))
        pairs = zip(split, dataset.examples, strict=True)
        prepared.append([_Item(_plain(e.question), _masked(w), tuple(grams(w, size))) for w, e in pairs])
    rows = () if validation is None else validation.examples
    held = [_Item(_plain(e.question), _masked(words(e.question, pattern)), ()) for e in rows]
    every = [item for items in prepared for item in items]
    exact, masked, runs = {i.exact for i in every}, {i.masked for i in every}, {g for i in every for g in i.grams}
    shown = _Shown({}, {}, {})
    for row, example in enumerate(train.examples):
        pieces = words(example.question, pattern)
        looked: list[tuple[Any, Any, Any]] = [
            (shown.exact, exact, (_plain(example.question),)),
            (shown.masked, masked, (_masked(pieces),)),
        ]
        looked += [(shown.grams, runs, grams(pieces, size)) for size in sorted(set(sizes))]
        for into, wanted, keys in looked:
            for key in keys:
                if key in wanted:
                    into.setdefault(key, row)
    return [
        Leak.of(task, dataset, train, items, size, shown, worst, None if dataset is validation else held)
        for (task, dataset), items, size in zip(sets, prepared, sizes, strict=True)
    ]


def _plain(text: str) -> str:
    return " ".join(text.split())


def _masked(pieces: Sequence[str]) -> str:
    return " ".join(_DIGITS.sub("#", word) for word in pieces)


# The report
COLUMNS = (
    "train_task",
    "train_sha256",
    "train_rows",
    "task",
    "split",
    "n",
    "data_sha256",
    "source",
    "ngram",
    "short",
    "exact",
    "masked",
    "in_validation",
    "masked_in_validation",
    "any",
    "half",
    "validation_rows",
    "validation_in_train",
    "masked_validation_in_train",
)


@dataclass(frozen=True)
class Report:
    """What a training set shares with evaluation sets; `missing` are sets that could not be read, with the reason."""

    task: Task
    train: Split
    validation: Leak
    leaks: tuple[Leak, ...]
    missing: Mapping[str, str]
    known: tuple[str, ...] = ()  # what the YAMLs of these tasks say of rows in common with others

    def table(self, text: bool = False) -> Table:
        """The report as a table; with `text` the questions of the worst examples stand in it, else their ids alone."""

        def share(count: int | None, n: int) -> str:
            return "-" if count is None else f"{count:,} ({format_percent(count / n)} %)"

        rows = [
            (
                k.title,
                f"{k.n:,}",
                share(k.exact, k.n),
                share(k.masked, k.n),
                share(k.any, k.n),
                share(k.half, k.n),
                str(k.ngram),
                str(k.short),
                k.split,
                k.data_sha256[:8],
                share(k.in_validation, k.n),
                share(k.masked_in_validation, k.n),
            )
            for k in self.leaks
        ]
        names = (
            "set",
            "n",
            "exact",
            "numbers masked",
            "any n-gram",
            "half of its n-grams",
            "n-gram words",
            "too short",
            "split",
            "data",
            "in validation",
            "masked, in validation",
        )
        grids = [Panel("Questions that stand in the training set, and their share of the set", names, tuple(rows))]
        if worst := [(k, h) for k in self.leaks for h in k.hits]:
            columns: tuple[str, ...] = ("evaluation question", "training question", "match", "n-grams shared")
            lines = [
                (h.id, h.train_id, h.kind, f"{format_percent(h.share)} %", h.question, h.train_question)
                for _, h in worst
            ]
            columns = (*columns, "asked", "trained on") if text else columns
            grids.append(Panel("The worst of each set", columns, tuple(line[: len(columns)] for line in lines)))
        head = (
            f"trained on {self.task.title}: {len(self.train.examples):,} rows, data {self.train.sha256[:8]}, "
            f"{self.train.source}; validation: {self.validation.n:,} rows, of which {self.validation.exact:,} are "
            f"training rows too ({self.validation.masked:,} but for their numbers)"
        )
        records = tuple(
            {
                "train_task": self.task.name,
                "train_sha256": self.train.sha256,
                "train_rows": len(self.train.examples),
                **asdict(k),
                "validation_rows": self.validation.n,
                "validation_in_train": self.validation.exact,
                "masked_validation_in_train": self.validation.masked,
            }
            for k in self.leaks
        )
        left_out = tuple(f"{name} was not compared: {reason}" for name, reason in self.missing.items())
        section = Section(head, tuple(grids), NOTES + self.known)
        return Table(
            "Leakage of a training set into evaluation sets",
            False,
            (section,),
            records,
            COLUMNS,
            left_out,
            "the markdown form",
        )

    def to_json(self, text: bool = False) -> str:
        """Everything as one object; questions only with `text`."""
        sets = [asdict(k) for k in self.leaks]
        for leak in sets:
            leak["hits"] = [
                {k: v for k, v in h.items() if text or k not in ("question", "train_question")} for h in leak["hits"]
            ]
        train = {
            "task": self.task.name,
            "rows": len(self.train.examples),
            "sha256": self.train.sha256,
            "source": self.train.source,
            "validation": {k: getattr(self.validation, k) for k in ("n", "exact", "masked")},
        }
        whole = {
            "schema": 1,
            "train": train,
            "sets": sets,
            "not_compared": dict(self.missing),
            "notes": [*NOTES, *self.known],
        }
        return escape_json(json.dumps(whole, indent=2, ensure_ascii=False)) + "\n"


NOTES = (
    "Exact: equal but for white space. Numbers masked: equal but for numbers written in digits, case, punctuation and "
    "white space.",
    "n-grams: words without case and punctuation; as in Brown et al. 2020 (arXiv 2005.14165, appendix C) n is the 5th "
    "percentile of the "
    f"set's question lengths, at least {SHORTEST} and at most {LONGEST}, unless it was given. A question with fewer "
    "words has none.",
    "In validation: those that stand in the rows that choose checkpoints and rates, exact and with numbers masked.",
    "Of a generated task's text the pieces of its own tokenizer count as words. Training rows: those that train, "
    "without validation.",
)


@phase("counting what the sets share")
def leakage_report(
    name: str,
    suite: Sequence[str],
    names: Sequence[str],
    *,
    data: Path | None = None,
    steps: Steps = "equations",
    limit: int | None = None,
    split: str = "test",
    ngram: int | None = None,
    worst: int = 5,
    allow_changed: bool = False,
) -> Report:
    """`leakage` of a task's training set into the sets of suites and tasks; without any, into the task's own.

    Generated text is split by the training task's own pattern.

    Raises:
        UsageError: no such task or suite, or a training set that cannot be read.
    """
    task = load_task(name)
    tasks = [load_task(n) for n in asked(suite, names)] or [task]
    train, held = training_data(task, data=data, steps=steps, limit=limit, allow_changed=allow_changed)
    sets, missing = readable(tasks, data=data, steps=steps, limit=limit, split=split, allow_changed=allow_changed)
    every = [*sets, (task, held)]  # what chooses, beside what tests
    *leaks, shown = leakage(train, every, ngram=ngram, pattern=task.token_pattern, worst=worst, validation=held)
    known = {t.title: t.metadata["overlap"] for t in (task, *tasks) if "overlap" in t.metadata}
    texts = tuple(f"{title}: {text}" for title, text in known.items())
    return Report(task, train, shown, tuple(leaks), missing, texts)
