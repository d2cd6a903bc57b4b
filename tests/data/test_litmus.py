"""The litmus families: right answers, balance, equal lengths, disjoint splits, pinned streams, and no shortcut in
single tokens.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from functools import cache
from itertools import combinations
from math import comb
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.optimize import minimize

from rim_bench.data.datasets import evaluation_data, training_data
from rim_bench.data.task import load_task
from rim_bench.methods.method import Example
from rim_bench.tasks import lookups, match, permute, vote
from rim_bench.tasks.streams import split_of

FAMILIES = {
    "permute": (permute, permute.LEVELS, "01234"),
    "permute-lookup": (permute, tuple(f"lookup {level}" for level in permute.LEVELS), "01234"),
    "lookups": (lookups, lookups.FAMILY.levels, "01"),
    "lookups-first": (lookups, tuple(f"first {level}" for level in lookups.FAMILY.levels), "01"),
    "lookups-lookup": (lookups, tuple(f"lookup {level}" for level in lookups.FAMILY.levels), "01"),
    "vote": (vote, vote.FAMILY.levels, "01"),
    "vote-first": (vote, tuple(f"first {level}" for level in vote.FAMILY.levels), "01"),
    "vote-lookup": (vote, tuple(f"lookup {level}" for level in vote.FAMILY.levels), "01"),
    "match": (match, match.LEVELS, "01"),
    "match-pairs": (match, tuple(f"pairs {level}" for level in match.LEVELS), "01"),
    "match-lookup": (match, tuple(f"lookup {level}" for level in match.LEVELS), "01"),
}
TASKS = {
    "permute": "8dbbe8b408b50012",
    "permute_lookup": "6ddf35a82d2e8042",
    "lookups": "444efcf7a31d1a4f",
    "lookups_first": "b2d8e8e46a998783",
    "lookups_lookup": "c247a71dc942d527",
    "vote": "487bcb2b101ca5f5",
    "vote_first": "458211c14f63b188",
    "vote_lookup": "39660e56457e42cd",
    "match": "8e1cf9752c5b049a",
    "match_pairs": "5b5d9bea03780f9d",
    "match_lookup": "13af7a958654226d",
}
family = pytest.mark.parametrize("family", FAMILIES)


@cache
def drawn(family: str, n: int, split: str) -> list[Example]:
    module, levels, _ = FAMILIES[family]
    made: list[Example] = module.generate(n, levels, 0, split)
    return made


def solve(module: ModuleType, example: Example) -> tuple[list[str], str]:
    """An independent reading of a question: its steps and its answer."""
    question, control = example.question, example.level.startswith("lookup")
    steps = []
    if module is permute:
        point = question[0]
        for move in re.findall("[a-z]", question):
            point = str(permute.permutations()[move][int(point)])
            steps.append(move + point)
        return steps, question[0] if control else point
    if module is match:
        line, wanted = question.split("?")
        values = [int(digit, 17) for digit in re.findall("[0-9a-g]", line)]
        checks = list(combinations(values, 2 if example.level.startswith("pairs") else 3))
        sums = [(a, b, (a + b) % 17, *(n for c in rest for n in (c, (a + b + c) % 17))) for a, b, *rest in checks]
        steps = ["".join(map(written, one)) for one in sums]
        return steps, str(values[0] % 2) if control else str(int(any(step[-1] == wanted for step in steps)))
    items, key = re.findall("[a-z]", question), re.findall("[A-Z]", question)[0]
    found = [lookups.table(module.FAMILY.size)[item, key] for item in items]
    steps = [f"{item}{entry}" for item, entry in zip(items, found, strict=True)]
    joined = found.count(1) % 2 if module is lookups else int(found.count(1) > found.count(0))
    return steps, str((ord(items[0]) - ord("a")) % 2 if control else joined)


def written(value: int) -> str:
    """One digit of base 17."""
    return next(digit for digit in "0123456789abcdefg" if int(digit, 17) == value)


@family
def test_steps_and_answers_are_right_and_levels_say_how_many(family: str) -> None:
    module = FAMILIES[family][0]
    for example in drawn(family, 1200, "test") + drawn(family, 1200, "train"):
        assert (list(example.steps), example.answer) == solve(module, example)
        count = int(example.level[-1])
        checks = comb(count, 2 if example.level.startswith("pairs") else 3)
        assert len(example.steps) == (checks if module is match else count)


@family
def test_questions_have_as_many_pieces_and_answers_are_balanced(family: str) -> None:
    module, levels, answers = FAMILIES[family]
    assert len({len(re.findall(module.TOKEN_PATTERN, e.question)) for e in drawn(family, 1200, "test")}) == 1
    runs = len(levels) * len(answers)
    first = drawn(family, 1200, "test")[: 1200 // runs * runs]
    assert set(Counter((e.level, e.answer) for e in first).values()) == {len(first) // runs}


@family
def test_splits_are_disjoint_and_the_stream_is_a_prefix_of_a_longer_one(family: str) -> None:
    module, levels, _ = FAMILIES[family]
    questions = {split: {e.question for e in drawn(family, 1200, split)} for split in ("train", "validation", "test")}
    assert len(questions["test"]) == len(questions["validation"]) == 1200  # distinct
    assert not questions["train"] & questions["test"] and not questions["train"] & questions["validation"]
    assert not questions["validation"] & questions["test"]
    assert all(split_of(q) == split for split, some in questions.items() for q in some)
    assert (
        module.generate(40, levels, 0, "test")
        == drawn(family, 1200, "test")[:40]
        != module.generate(40, levels, 1, "test")
    )


@pytest.mark.parametrize("task", TASKS)
def test_test_sets_are_pinned(task: str) -> None:
    """A change here changes every stored result of the task, and must raise its version."""
    loaded = load_task(task)
    data = evaluation_data(loaded)
    assert data.sha256[:16] == TASKS[task] and data.registered is True
    levels = loaded.metadata["levels"]
    assert set(loaded.ood_levels) == set(levels["test"]) - set(levels["train"]) and loaded.ood_levels
    train, validation = training_data(loaded, limit=2000)
    assert {e.level for e in train.examples} == {e.level for e in validation.examples} == set(levels["train"])
    assert "prediction" in loaded.metadata


def test_the_target_of_a_match_is_drawn_apart_from_the_answer_and_digits_are_distinct() -> None:
    """Why no token alone says anything; that parities do not either is why the modulus is prime."""
    for family in ("match", "match-pairs"):
        some = drawn(family, 6000, "train")
        odd: dict[tuple[int, int], Counter[str]] = {}
        for example in some:
            line, wanted = example.question.split("?")
            digits = re.findall("[0-9a-g]", line)
            assert len(digits) == len(set(digits)) == int(example.level[-1])
            odd.setdefault((sum(int(d, 17) % 2 for d in digits), int(wanted, 17) % 2), Counter())[example.answer] += 1
        targets = Counter((e.question[-1], e.answer) for e in some)
        assert all(abs(n - 6000 / 34) < 5 * (6000 / 34) ** 0.5 for n in targets.values()) and len(targets) == 34
        assert (
            sum(max(c.values()) for c in odd.values()) / 6000 < 0.56
        )  # guessing by parities; with 16 it would be over 0.6


def test_the_tables_are_balanced() -> None:
    """Why no token alone says anything: every row, column and pair of points occurs equally often."""
    moves = permute.permutations()
    assert len(set(moves.values())) == 10 and all(sorted(row) == list(range(5)) for row in moves.values())
    assert set(Counter((i, row[i]) for row in moves.values() for i in range(5)).values()) == {2}
    for family in (lookups.FAMILY, vote.FAMILY):
        entries, items, keys = lookups.table(family.size), lookups.ITEMS[: family.size], lookups.KEYS[: family.size]
        assert {sum(entries[item, key] for key in keys) for item in items} == {family.size // 2}
        assert {sum(entries[item, key] for item in items) for key in keys} == {family.size // 2}
        assert len({tuple(entries[item, key] for key in keys) for item in items}) == family.size  # no two items alike


# Shortcuts


def bag(questions: list[str], alphabet: str) -> np.ndarray:
    """How often each token occurs. [questions, tokens]"""
    return np.array([[question.count(token) for token in alphabet] for question in questions], dtype=float)


def positions(questions: list[str], alphabet: str) -> np.ndarray:
    """Which token stands at each position. [questions, positions * tokens]"""
    return np.array([[token == at for at in question for token in alphabet] for question in questions], dtype=float)


def naive_bayes(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Multinomial, add-one smoothing, over features that count something."""
    classes = np.unique(labels)
    sums = np.stack([train[labels == c].sum(0) + 1 for c in classes])
    return classes[np.argmax(test @ np.log(sums / sums.sum(1, keepdims=True)).T, axis=1)]


def logistic(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Multinomial logistic regression with a little ridge, by L-BFGS."""
    classes, target = np.unique(labels, return_inverse=True)
    onehot = np.eye(len(classes))[target]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(-1, len(classes))
        scores = train @ weights
        scores -= scores.max(1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        gradient = train.T @ (np.exp(logs) - onehot) / len(train) + 1e-3 * weights
        return float(-(logs * onehot).sum() / len(train) + 5e-4 * (weights**2).sum()), gradient.ravel()

    found = minimize(
        loss, np.zeros(train.shape[1] * len(classes)), jac=True, method="L-BFGS-B", options={"maxiter": 60}
    )
    return classes[np.argmax(test @ found.x.reshape(-1, len(classes)), axis=1)]


@cache
def numbers(family: str, features: object) -> tuple[np.ndarray, ...]:
    """Features and answers of 6,000 training questions, and of 3,000 test questions."""
    train, test = drawn(family, 6000, "train"), drawn(family, 3000, "test")
    alphabet = "".join(sorted({c for e in train for c in e.question}))
    seen, asked = (features([e.question for e in some], alphabet) for some in (train, test))  # type: ignore[operator]
    return seen, np.array([e.answer for e in train]), asked, np.array([e.answer for e in test])


def shortcut(family: str, features: object, classifier: object) -> tuple[float, float]:
    """(accuracy on 3,000 test questions of a classifier trained on 6,000 others, the accuracy that is still chance).

    Chance passes the second with probability 0.0005 (one-sided, normal approximation: 3.29 standard errors over it).
    """
    seen, labels, asked, truth = numbers(family, features)
    said = classifier(seen, labels, asked)  # type: ignore[operator]
    chance = 1 / len(FAMILIES[family][2])
    return float((said == truth).mean()), chance + 3.29 * (chance * (1 - chance) / len(truth)) ** 0.5


@pytest.mark.parametrize("classifier", [naive_bayes, logistic])
@pytest.mark.parametrize("features", [bag, positions])
@pytest.mark.parametrize(
    "family", ["permute", "lookups", "lookups-first", "vote", "vote-first", "match", "match-pairs"]
)
def test_single_tokens_are_no_shortcut(family: str, features: object, classifier: object) -> None:
    accuracy, still_chance = shortcut(family, features, classifier)
    assert accuracy < still_chance


@pytest.mark.parametrize("classifier", [naive_bayes, logistic])
@pytest.mark.parametrize("family", ["permute-lookup", "lookups-lookup", "vote-lookup", "match-lookup"])
def test_the_same_classifiers_solve_the_control(family: str, classifier: object) -> None:
    """What shows that the test above can fail."""
    assert shortcut(family, positions, classifier)[0] > 0.99


@pytest.mark.parametrize(
    ("n", "level", "split"), [(1, "T=9", "test"), (-1, "T=1", "test"), (1, "T=1", "tset"), (1, "m=2", "test")]
)
def test_bad_requests_are_refused(n: int, level: str, split: str) -> None:
    with pytest.raises(ValueError, match=re.escape(str(n) if n != 1 else level if split == "test" else split)):
        permute.generate(n, [level], 0, split)


RESULTS = Path(__file__).parents[2] / "results"


def stored_rows(study: str) -> dict[tuple[str, str], str]:
    """(method, set) -> what a study's table.csv says of it, as the outcome texts write it."""
    with (RESULTS / study / "table.csv").open(encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["set"] != "OOD" and r["seed_sd"] and "block" not in r["set"]]
    return {
        (r["method"], r["set"]): f"{100 * float(r['accuracy']):.1f} ± {100 * float(r['seed_sd']):.1f}" for r in rows
    }


def shown_tables(folder: Path) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table in an outcome text that begins with a column of methods; the rows of other tables
    follow.
    """
    lines = [line for line in (folder / "README.md").read_text("utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return next(row for row in cells if row[0] == "method"), cells


@pytest.mark.parametrize("study", ["litmus_serial", "litmus_parallel"])
def test_the_outcome_text_shows_the_stored_table(study: str) -> None:
    stored = stored_rows(study)
    head, lines = shown_tables(RESULTS / study)
    methods = {method for method, _ in stored}
    assert {
        (cells[0], at): cell
        for cells in lines
        if cells[0] in methods
        for at, cell in zip(head[1:], cells[1:], strict=True)
    } == stored


def test_the_outcome_text_of_the_layers_shows_the_stored_tables() -> None:
    head, lines = shown_tables(RESULTS / "litmus_layers")
    studies = {"1": "litmus_layers/layers_1", "2": "litmus_serial", "4": "litmus_layers/layers_4"}
    shown = {(cells[1], cells[0]): cells[2:] for cells in lines if len(cells) == len(head) and cells[1] in studies}
    for layers, study in studies.items():
        stored = stored_rows(study)
        mine = {method: cells for (at, method), cells in shown.items() if at == layers}
        assert mine
        for method, cells in mine.items():
            assert cells == [stored[method, name] for name in head[2:]]
