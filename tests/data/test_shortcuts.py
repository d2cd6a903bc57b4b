"""Shortcuts: features by hand, classifiers that are fitted on training rows alone, and what they get on chain."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from rim_bench.data.datasets import evaluation_data, training_data
from rim_bench.data.reader import Split
from rim_bench.data.shortcuts import BIGRAMS, POSITION, WORDS, check_features, shortcut_scores
from rim_bench.data.task import Task, load_task, task_names
from rim_bench.methods.method import Example
from rim_bench.storage.records import ShortcutRecord
from rim_bench.tasks import chain, lookups, match, multiplication, permute, prontoqa, prosqa
from rim_bench.util.errors import UsageError

Right = dict[str, tuple[int, int]]


def summed(scores: tuple[ShortcutRecord, ...], ood: bool | None = None) -> Right:
    """Shortcut -> right answers and questions, of all levels or of those that are (not) out of distribution."""
    chosen = [s for s in scores if ood in (None, s.ood)]
    names = dict.fromkeys(s.name for s in chosen)
    return {n: (sum(s.right for s in chosen if s.name == n), sum(s.n for s in chosen if s.name == n)) for n in names}


def split(rows: list[tuple[str, str]], choices: tuple[str, ...] = ()) -> Split:
    examples = (Example(str(k), question, (), answer, choices=choices) for k, (question, answer) in enumerate(rows))
    return Split(tuple(examples), "by hand", "train")


def own_task(monkeypatch: pytest.MonkeyPatch, shortcuts: Callable[[str], Any] | None) -> Task:
    """chain with another generator, whose code says `shortcuts`, and answers that are text."""
    parts: dict[str, Any] = {"generate": lambda *a: [], "TOKEN_PATTERN": r"[\s\S]"}
    module = types.ModuleType("planted")
    vars(module).update(parts if shortcuts is None else parts | {"shortcuts": shortcuts})
    monkeypatch.setitem(sys.modules, "planted", module)
    task = load_task("chain")
    return replace(task, metadata={**task.metadata, "generator": "planted", "kind": "text", "ood": []})


@pytest.mark.parametrize(
    "module, question, features",
    [
        (
            chain,
            "a=7|ba+3|cb*2|___|___|___|c?",
            {
                "start": "7",
                "last operation": "0246802468",
                "last two operations": "6802468024",
                "last three operations": "6802468024",
            },
        ),
        (
            permute,
            "3adg.:,;?",
            {"start": "3", "first permutation": "a", "last permutation": "g", "last two permutations": "dg"},
        ),
        (lookups, "fbk.,:?D", {"key": "D", "first item": "f", "last item": "k", "number of items": "3"}),
        (lookups, "Dfbk.,:?", {"key": "D", "first item": "f", "last item": "k", "number of items": "3"}),
        (match, "3c804.?f", {"wanted sum": "f", "first digit": "3", "last digit": "4", "number of digits": "5"}),
        (multiplication, "5 6 3 2 * 7 4 3 4", {"lowest digits": "5 7", "highest digits": "2 4"}),
        (
            prosqa,
            "Tom is a terpus. Every terpus is a lempus. Every rempus is a scrompus. Every terpus is a scrompus. "
            "Is Tom a lempus or scrompus?",
            {"option named more often": "second", "option named earlier": "first", "option named later": "second"},
        ),
        (
            prontoqa,
            "Zumpuses are kimpuses. Each impus is sweet. Every zumpus is not sweet. Rex is a zumpus. "
            "True or false: Rex is not sweet.",
            {
                "a not in what is asked": "True",
                "last rule about the property": "as asked",
                "rule about the property of the concept named most": "as asked",
                "rule about the property of the concept whose neighbours are named most": "as asked",
            },
        ),
    ],
)
def test_features_by_hand(module: Any, question: str, features: Mapping[str, str]) -> None:
    assert module.shortcuts(question) == features


def test_equal_operations_are_one_value() -> None:
    def last_two(operations: str) -> str:
        one, other = operations.split()
        return chain.shortcuts(f"a=7|ba{one}|cb{other}|___|___|___|c?")["last two operations"]

    assert last_two("+2 +1") == last_two("+1 +2") == last_two("-3 -4") != last_two("+2 +2")


@pytest.mark.parametrize("name", [n for n in task_names() if load_task(n).metadata["source"] == "generator"])
def test_every_generated_question_has_the_same_features(name: str) -> None:
    task = load_task(name)
    assert task.shortcuts is not None
    both = [training_data(task, limit=40)[0], evaluation_data(task, limit=40)]
    assert len({tuple(task.shortcuts(e.question)) for one in both for e in one.examples}) == 1


def test_a_planted_shortcut_is_fitted_on_training_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first letter gives the answer in training; on the questions it does in 3 of 4, and a value is new."""
    task = own_task(monkeypatch, lambda question: {"first letter": question[0]})
    train = split([(f"{letter} {k % 7}", letter.upper()) for k in range(60) for letter in "xyy"])
    asked = split([("x 1", "X"), ("y 1", "Y"), ("z 1", "Y"), ("x 2", "Y")])
    scores = summed(shortcut_scores(task, asked, task, train))
    assert scores["first letter"] == (3, 4)  # of the new value z the most frequent training answer, Y
    assert scores[WORDS] == (3, 4) and BIGRAMS in scores
    assert summed(shortcut_scores(task, asked, task, split([("x 1", "X")])))["first letter"] == (1, 4)


def test_equally_frequent_answers_go_by_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    task = own_task(monkeypatch, lambda question: {"same": ""})
    train, asked = split([("b", "B"), ("a", "A")]), split([("a", "A"), ("a", "A"), ("a", "B")])
    assert summed(shortcut_scores(task, asked, task, train))["same"] == (2, 3)


def test_levels_are_counted_by_themselves() -> None:
    task = load_task("chain")
    train, asked = training_data(task, limit=300)[0], evaluation_data(task, limit=50)
    scores = shortcut_scores(task, asked, task, train)
    levels = {(s.level, s.ood, s.n) for s in scores}
    assert levels == {(f"T={t}", t > 3, 10) for t in range(1, 6)}
    assert len(scores) == len(levels) * len({s.name for s in scores})


def test_options_are_answered_by_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """The right choice stands first in 3 of 4 training rows, whatever it says."""
    task, both = own_task(monkeypatch, None), ("p", "q")
    train = split([("a b", "p"), ("b c", "p"), ("c d", "p"), ("d e", "q")], both)
    asked = split([("a b", "p"), ("x y", "q"), ("x z", "p")], both)
    assert summed(shortcut_scores(task, asked, task, train))[POSITION] == (2, 3)


def test_real_rows_have_a_bag_of_words_and_other_numbers_count_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rim_bench.data.shortcuts.ANSWERS", 2)
    task = load_task("gsm8k")
    train = split([("how many Cats?", "3"), ("how many dogs?", "4")] * 20 + [("how many elks?", "9")])
    asked = split([("two cats", "3.0"), ("a dog or dogs", "4"), ("elks", "9")])  # 9 is none of the two answers
    assert summed(shortcut_scores(task, asked, task, train)) == {WORDS: (2, 3)}


def test_features_of_another_kind_of_questions_do_not_count() -> None:
    words, digits = load_task("gsm8k"), load_task("chain")
    train, asked = training_data(digits, limit=40)[0], split([("two cats", "3")])
    assert set(summed(shortcut_scores(words, asked, digits, train))) == {WORDS}


@pytest.mark.parametrize("said", [None, {"a": 1}, "text", [("a", "b")]])
def test_features_that_are_no_text_are_refused(monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    task, rows = own_task(monkeypatch, lambda question: said), split([("a b", "A")])
    with pytest.raises(UsageError, match=r"the function shortcuts of .* on the question 'a b'.* is no mapping"):
        shortcut_scores(task, rows, task, rows)


def test_features_that_fail_are_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(question: str) -> dict[str, str]:
        raise KeyError(question)

    task, rows = own_task(monkeypatch, fails), split([("a b", "A")])
    with pytest.raises(UsageError, match="KeyError: 'a b'"):
        shortcut_scores(task, rows, task, rows)
    with pytest.raises(UsageError, match="KeyError: 'a b'"):
        check_features(replace(task, file_sha256="of its YAML"), rows.examples)
    no_function: Any = 3
    with pytest.raises(UsageError, match="shortcuts of its generator 'planted' is no function"):
        check_features(replace(own_task(monkeypatch, no_function), file_sha256="of its YAML"), rows.examples)


def test_chain_out_of_distribution_on_its_registered_rows() -> None:
    """The last operation alone gives 17.5 %, the last two 22.5 (the best possible: 18.1 and 23.7), not 10."""
    task = load_task("chain")
    train, asked = training_data(task)[0], evaluation_data(task)
    assert train.registered and asked.registered
    right = summed(shortcut_scores(task, asked, task, train), ood=True)
    assert right["last operation"] == (175, 1000)
    assert right["last two operations"] == (225, 1000)
    assert right["last three operations"] == (241, 1000)
    assert 130 < right[WORDS][0] < 180 and 120 < right[BIGRAMS][0] < 170
