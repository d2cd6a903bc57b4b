"""The generated task: right answers, balance, fixed length, one token per piece, disjoint splits."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from rim_bench.data.reader import Split
from rim_bench.tasks import chain
from rim_bench.tasks.streams import split_of


def solve(question: str) -> tuple[list[str], str]:
    """An independent reading of a question: its steps and its answer."""
    *lines, asked = question.split("|")
    name, value = lines[0].split("=")
    values, steps = {name: int(value)}, []
    for line in lines[1:]:
        if line == "___":
            continue
        new, old, sign, n = line
        values[new] = {"+": values[old] + int(n), "-": values[old] - int(n), "*": values[old] * int(n)}[sign] % 10
        steps.append(f"{new}{sign}{n}={values[new]}")
    return steps, str(values[asked.removesuffix("?")])


@pytest.fixture(scope="module")
def test_set() -> list[chain.Example]:
    return chain.generate(1000, chain.LEVELS, 0, "test")


def test_steps_and_answers_are_right(test_set: list[chain.Example]) -> None:
    for example in test_set + chain.generate(600, chain.LEVELS[:3], 1, "train"):
        steps, answer = solve(example.question)
        assert list(example.steps) == steps and example.answer == answer
        assert len(steps) == int(example.level[2:])
        names = [line[0] for line in example.question.split("|")[:-1] if line != "___"]
        assert len(set(names)) == len(names) and example.question[-2] == names[-1]


def test_every_question_has_as_many_pieces_whatever_its_depth(test_set: list[chain.Example]) -> None:
    lengths = {len(re.findall(chain.TOKEN_PATTERN, example.question + "\n")) for example in test_set}
    assert lengths == {27}  # six lines of four, two to ask, the newline
    assert re.findall(chain.TOKEN_PATTERN, "b+3=0\n#### 0") == ["b", "+3", "=", "0", "\n", "#### ", "0"]


def test_pieces_give_the_text_back(test_set: list[chain.Example]) -> None:
    for example in test_set[:50]:
        text = "\n".join([example.question, *example.steps, f"#### {example.answer}"])
        assert "".join(re.findall(chain.TOKEN_PATTERN, text)) == text


def test_levels_and_answers_are_balanced(test_set: list[chain.Example]) -> None:
    assert Counter((e.level, e.answer) for e in test_set) == {
        (level, str(d)): 20 for level in chain.LEVELS for d in range(10)
    }
    train = chain.generate(900, chain.LEVELS[:3], 0, "train")
    assert set(Counter(e.level for e in train).values()) == {300}
    assert set(Counter(e.answer for e in train).values()) == {90}


def test_chains_of_an_answer_are_drawn_uniformly() -> None:
    """At depth 1 each of the 11 to 19 (start, operation) pairs with an answer is equally likely."""
    drawn = Counter(re.sub(r"[a-t]", "", e.question) for e in chain.generate(14_000, ["T=1"], 0, "train"))
    by_answer: dict[str, list[int]] = {}
    for text, count in drawn.items():
        value, operation = text[1], re.findall(r"[+*-]\d", text)[0]
        by_answer.setdefault(str(chain.apply(operation, int(value))), []).append(count)
    assert sum(map(len, by_answer.values())) == 140
    for counts in by_answer.values():
        mean = sum(counts) / len(counts)
        assert all(abs(count - mean) < 6 * mean**0.5 for count in counts)


def test_splits_are_disjoint_whatever_the_seeds(test_set: list[chain.Example]) -> None:
    train = {e.question for seed in (0, 1) for e in chain.generate(12_000, chain.LEVELS, seed, "train")}
    validation = {e.question for e in chain.generate(1000, chain.LEVELS, 7, "validation")}
    test = {e.question for e in test_set}
    assert len(validation) == len(test) == 1000  # and distinct
    assert not train & test and not train & validation and not validation & test
    assert all(split_of(q) == "test" for q in test) and all(split_of(q) == "train" for q in train)


def test_the_stream_is_deterministic_and_a_prefix_of_a_longer_one() -> None:
    assert chain.generate(50, chain.LEVELS, 3, "test") == chain.generate(200, chain.LEVELS, 3, "test")[:50]
    assert chain.generate(50, chain.LEVELS, 3, "test") != chain.generate(50, chain.LEVELS, 4, "test")
    # Pinned: a change here changes every stored result of the task, and must raise its version.
    assert Split(tuple(chain.generate(100, chain.LEVELS, 0, "test")), "", "test").sha256[:16] == "81bf8d764b46762c"


def test_the_smallest_level_is_large_enough_and_its_end_is_reported() -> None:
    assert len({e.question for e in chain.generate(3000, ["T=1"], 0, "test")}) == 3000
    with pytest.raises(ValueError, match="too few test questions"):
        chain.generate(60_000, ["T=1"], 0, "test")


@pytest.mark.parametrize(
    ("n", "levels", "split"), [(1, ["T=6"], "test"), (1, [], "test"), (-1, ["T=1"], "test"), (1, ["T=1"], "tset")]
)
def test_bad_requests_are_refused(n: int, levels: list[str], split: str) -> None:
    with pytest.raises(ValueError):
        chain.generate(n, levels, 0, split)
