"""What shortcuts get: classifiers of a question's surface, fitted on training rows alone, scored on other questions.

A task's code may name shallow features of its questions (`shortcuts(question)`, such as chain's last operation); of
each the classifier knows the training rows' most frequent answer to every value. Beside them stand a bag of words and,
of generated tasks, one of bigrams (multinomial naive Bayes), and where items offer choices the position that is right
most often. Nothing here does a step of what the question asks for.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

from rim_bench.data.answers import MARK, score
from rim_bench.data.reader import Split
from rim_bench.data.task import Features, Task
from rim_bench.methods.method import Example
from rim_bench.storage.records import ShortcutRecord
from rim_bench.util.errors import UsageError
from rim_bench.util.progress import phase

POSITION: Final = "position of the options"
WORDS: Final = "bag of words"
BIGRAMS: Final = "bag of bigrams"
ANSWERS: Final = 50
"""Most different answers that a bag chooses from: the most frequent ones."""
ROWS: Final = 40_000
"""Most training rows that a bag is fitted on: the first ones."""
_WORD: Final = r"\w+|[^\w\s]"


@phase("fitting shortcuts")
def shortcut_scores(task: Task, asked: Split, trained_on: Task, train: Split) -> tuple[ShortcutRecord, ...]:
    """Right answers of every shortcut, by level, in the order of the questions.

    Args:
        asked: questions of `task`.
        train: rows of the task that was trained on. Its features count where the questions are of the same kind.

    Raises:
        UsageError: features of somebody's own task that cannot be computed, or are not text.
    """
    rows, questions = train.examples, asked.examples
    choosing = all(example.choices for example in (*rows, *questions))
    labels = [_label(example, choosing) for example in rows]
    known, wanted = [e.question for e in rows], [e.question for e in questions]
    features, pattern = trained_on.shortcuts, trained_on.token_pattern
    if (task.shortcuts, task.token_pattern) != (features, pattern):  # another kind of questions
        features = pattern = None
    guesses: dict[str, Sequence[str]] = {}
    if choosing:
        guesses[POSITION] = _by_value([""] * len(rows), labels, [""] * len(questions))
    if features is not None:
        seen, new = ([_values(features, text) for text in texts] for texts in (known, wanted))
        for name in dict.fromkeys(name for values in seen for name in values):
            of_rows, of_questions = ([values.get(name, "") for values in part] for part in (seen, new))
            guesses[name] = _by_value(of_rows, labels, of_questions)
    guesses |= _by_bags(known[:ROWS], labels[:ROWS], wanted, pattern)

    right: Counter[tuple[str, str]] = Counter()
    verdicts: dict[tuple[str, str], bool] = {}  # of equal answers
    for name, chosen in guesses.items():
        for guess, example in zip(chosen, questions, strict=True):
            if (key := (guess, _label(example, choosing))) not in verdicts:
                tolerance = task.tolerance_at(example.answer)
                output = f"{MARK} {guess}"
                verdicts[key] = key[0] == key[1] if choosing else score(output, key[1], tolerance, task.kind).correct
            right[name, example.level] += verdicts[key]
    return tuple(
        ShortcutRecord(name=name, level=level, ood=level in task.ood_levels, right=right[name, level], n=n)
        for name in guesses
        for level, n in Counter(example.level for example in questions).items()
    )


def check_features(task: Task, examples: Iterable[Example]) -> None:
    """Raises UsageError where the features of somebody's own task are no text, or cannot be computed."""
    if task.file_sha256 is not None and (features := task.shortcuts) is not None:
        for example in examples:
            _values(features, example.question)


def _label(example: Example, choosing: bool) -> str:
    """What a classifier predicts: the answer, or the position of the right choice."""
    return str(example.choices.index(example.answer)) if choosing else example.answer


def _values(features: Features, question: str) -> Mapping[str, str]:
    """A question's features, by name."""
    try:
        values = features(question)
        texts = [text for pair in values.items() for text in pair] if isinstance(values, Mapping) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{values!r} is no mapping of names to text")
    except (Exception, SystemExit) as error:  # what somebody's own code raises
        where = f"the function shortcuts of {features.__module__!r} on the question {question!r}"
        raise UsageError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())}") from None
    return values


def _most_frequent(labels: Iterable[str], most: int = 1) -> list[str]:
    """The most frequent labels; of equally frequent ones the smallest first."""
    return [label for label, _ in sorted(Counter(labels).items(), key=lambda pair: (-pair[1], pair[0]))[:most]]


def _by_value(seen: Sequence[str], labels: Sequence[str], asked: Sequence[str]) -> list[str]:
    """Of each value that is asked for its most frequent label, or that of all rows where training never had it."""
    groups: dict[str, list[str]] = defaultdict(list)
    for value, label in zip(seen, labels, strict=True):
        groups[value].append(label)
    best = {value: _most_frequent(of)[0] for value, of in groups.items()}
    usual = _most_frequent(labels)[0]
    return [best.get(value, usual) for value in asked]


def _by_bags(
    known: Sequence[str], labels: Sequence[str], asked: Sequence[str], pattern: str | None
) -> dict[str, list[str]]:
    """What naive Bayes on counts of words says, and of generated text (whose pieces `pattern` gives) of bigrams."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    pieces = re.compile(pattern or _WORD)

    def terms(text: str) -> list[tuple[str, ...]]:
        words = [match.group() for match in pieces.finditer(text if pattern else text.casefold())]
        return [*((word,) for word in words), *(pairwise(words) if pattern else ())]

    answers = set(_most_frequent(labels, ANSWERS))
    kept = [k for k, label in enumerate(labels) if label in answers]
    counter = CountVectorizer(analyzer=terms)
    seen = counter.fit_transform([known[k] for k in kept])
    new = counter.transform(asked)
    out = {}
    for name, size in {WORDS: 1, BIGRAMS: 2}.items():
        if columns := sorted(column for term, column in counter.vocabulary_.items() if len(term) == size):
            bayes = MultinomialNB().fit(seen[:, columns], [labels[k] for k in kept])
            out[name] = bayes.predict(new[:, columns]).tolist()
    return out
