"""Rows that offer choices: every published form, the right one by text, label or number, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rim_bench.data.datasets import evaluation_data, training_data
from rim_bench.data.rows import Fields, SourceRow, fields_of, fitting, to_example
from rim_bench.data.task import load_task
from rim_bench.methods.method import Example
from rim_bench.util.errors import UsageError

TEXTS = ["ignore", "Yell at.", "avoid"]
REAL_DATA = os.environ.get("RIM_BENCH_DATA", "")


def read(row: dict[str, Any], **form: Any) -> Example:
    place = SourceRow("rows.jsonl, line 3", {"question": "What?", **row})
    return to_example(place, fields_of(form), "rows", "equations", "x", "text")


@pytest.mark.parametrize(
    "choices",
    [
        TEXTS,
        [{"label": label, "text": text} for label, text in zip("ABC", TEXTS, strict=True)],
        {"label": ["A", "B", "C"], "text": TEXTS},
    ],
)
def test_every_published_form_of_choices_is_read(choices: Any) -> None:
    for answer in ("Yell at.", "yell  at") if choices is TEXTS else ("B", "Yell at."):
        example = read({"choices": choices, "answer": answer}, choices="choices")
        assert example.choices == tuple(TEXTS) and example.answer == "Yell at." and example.question == "What?"
    for gold in (1, True):
        assert read({"choices": choices, "right": gold}, choices="choices", gold="right").answer == "Yell at."
    listed = read({"choices": choices, "answer": "avoid"}, choices="choices", listed=True)
    assert listed.question == "What? Answer choices: (A) ignore (B) Yell at. (C) avoid"


def test_labels_go_before_texts_and_nested_keys_are_reached() -> None:
    row = {"question": {"stem": "2 + 1?", "choices": [{"label": "1", "text": "3"}, {"label": "2", "text": "1"}]}}
    fields: dict[str, Any] = {"question": "question.stem", "choices": "question.choices", "answer": "key.of"}
    example = read({**row, "key": {"of": "1"}}, **fields)
    assert (example.question, example.answer, example.choices) == ("2 + 1?", "3", ("3", "1"))
    forms = [fields_of(fields), Fields(choices="choices")]
    assert fitting(SourceRow("x", {**row, "key": {"of": "1"}}), forms) is forms[0]
    assert fitting(SourceRow("x", {"question": "q", "choices": [], "answer": ""}), forms) is forms[1]


def test_choices_that_no_scorer_tells_apart_are_one() -> None:
    choices = {"label": ["A", "B", "C"], "text": ["Bank", "bank.", "mall"]}
    example = read({"choices": choices, "answer": "B"}, choices="choices", listed=True)
    assert example.choices == ("Bank", "mall") and example.answer == "Bank"
    assert example.question.endswith("(A) Bank (B) bank. (C) mall")  # as published


@pytest.mark.parametrize(
    ("row", "form", "word"),
    [
        ({"choices": TEXTS, "answer": "ignor"}, {}, "unknown answer 'ignor': .*did you mean 'ignore'"),
        (
            {"choices": TEXTS, "gold": 3},
            {"gold": "gold"},
            "'gold' is 3, expected the number of one of the 3 choices, 0 to",
        ),
        ({"choices": TEXTS, "gold": -1}, {"gold": "gold"}, "'gold' is -1, expected"),
        ({"choices": TEXTS, "gold": "1"}, {"gold": "gold"}, "'gold' is '1', expected"),
        ({"choices": TEXTS}, {"gold": "gold"}, "'gold' is missing, expected"),
        ({"choices": ["one"], "answer": "one"}, {}, "must hold 2 to 26 choices"),
        ({"choices": ["one", "two\nthree"], "answer": "one"}, {}, "must hold 2 to 26 choices, each one line"),
        ({"choices": "one, two", "answer": "one"}, {}, "must hold 2 to 26 choices"),
        ({"choices": {"label": ["A"], "text": ["x", "y"]}, "answer": "A"}, {}, "must hold 2 to 26 choices"),
        ({"answer": "one"}, {}, "must hold 2 to 26 choices"),
        ({"choices": ["same", "Same."], "answer": "same"}, {}, "all of its choices are the same"),
    ],
)
def test_what_is_no_choice_is_refused_with_its_place(row: Any, form: Any, word: str) -> None:
    with pytest.raises(UsageError, match=f"^rows.jsonl, line 3: .*{word}"):
        read(row, choices="choices", **form)


def test_own_rows_are_trained_on_and_tested(tmp_path: Path) -> None:
    rows = [{"question": f"Q{k}?", "choices": ["red", "blue"], "gold": k % 2} for k in range(6)]
    for split, part in (("train", rows[:4]), ("test", rows[4:])):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    task = load_task("json_choice")
    train, held = training_data(task, data=tmp_path)
    assert {e.answer for e in (*train.examples, *held.examples)} == {"red", "blue"}
    assert [e.answer for e in evaluation_data(task, data=tmp_path).examples] == ["red", "blue"]


def test_the_authors_strategyqa_is_read_from_own_files(tmp_path: Path) -> None:
    rows = [{"qid": f"q{k}", "question": f"Is {k}?", "answer": k == 1, "facts": ["One.", "Two."]} for k in range(2)]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    files = {"test": tmp_path / "test.json"}
    examples = evaluation_data(load_task("strategyqa"), files=files, allow_changed=True).examples
    assert [(e.id, e.answer, e.steps) for e in examples] == [
        ("q0", "No", ("One.", "Two.")),
        ("q1", "Yes", ("One.", "Two.")),
    ]


@pytest.mark.skipif(not REAL_DATA, reason="RIM_BENCH_DATA names no folder of published files")
@pytest.mark.parametrize(("name", "sizes"), [("commonsense_qa", (9241, 500, 1221)), ("strategyqa", (1855, 206, 229))])
def test_published_rows_are_the_registered_ones(name: str, sizes: tuple[int, ...]) -> None:
    task = load_task(name)
    train, held = training_data(task, data=Path(REAL_DATA))
    test = evaluation_data(task, data=Path(REAL_DATA))
    assert tuple(len(split.examples) for split in (train, held, test)) == sizes
    assert all(split.registered for split in (train, held, test))
    assert all(e.answer in e.choices for split in (train, held, test) for e in split.examples)
