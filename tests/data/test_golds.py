"""Golds: every row that is taken can be answered right, as training writes it; every other is refused by its place."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from conftest import unregistered
from hypothesis import given, settings
from hypothesis import strategies as st
from user_task import USER_TASK, user_task

from rim_bench.data.answers import MARK, score
from rim_bench.data.datasets import evaluation_data, training_data
from rim_bench.data.leakage import leakage_report
from rim_bench.data.listing import task_lines
from rim_bench.data.numbers import canonical
from rim_bench.data.task import Task, load_task, task_names
from rim_bench.methods.method import Example
from rim_bench.tasks import prontoqa
from rim_bench.util.errors import UsageError
from rim_bench.util.files import parse_lines, read_json
from rim_bench.util.strict_json import parse_json

REAL_DATA = os.environ.get("RIM_BENCH_DATA", "")
REAL = pytest.mark.skipif(not REAL_DATA, reason="RIM_BENCH_DATA is not set: the published files are not at hand")
GENERATED = [name for name in task_names() if load_task(name).metadata["source"] == "generator"]
PUBLISHED = {  # files of the folder that RIM_BENCH_DATA names, by task
    "gsm8k": "gsm8k/train.jsonl gsm8k/test.jsonl",
    "gsm8k_aug": "gsm8k_aug/valid.txt gsm8k_aug/train_first3000.txt",
    "gsm_hard": "gsm_hard/test.jsonl",
    "gsm_hard_int": "gsm_hard/test.jsonl",
    "svamp": "svamp/test.jsonl",
    "svamp_300": "svamp/test.jsonl",
    "multiarith": "multiarith/test.jsonl",
    "multiarith_180": "multiarith/test.jsonl",
    "asdiv": "asdiv/asdiv_pal.jsonl",
    "prosqa": "prosqa/valid.json prosqa/test.json",
    "json": "gsm8k_aug/valid.txt",
}
STORE = Path(__file__).resolve().parents[2] / "results"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RIM_BENCH_DATA", raising=False)


def refused_golds(task: Task, examples: Sequence[Example]) -> list[str]:
    """Answers that, written as training writes them, are not right by both extractions."""
    out = []
    for e in examples:
        trained = "\n".join([*e.steps, f"{MARK} {e.answer}"])
        result = score(trained, e.answer, task.tolerance_at(e.answer), task.kind)
        if not (result.correct and result.flexible) or result.unparseable:
            out.append(e.answer)
    return out


@pytest.mark.parametrize("name", GENERATED)
def test_generated_golds_score_right(name: str) -> None:
    task = load_task(name)
    train, validation = training_data(task, limit=24)
    for split in (train, validation, evaluation_data(task, limit=24)):
        assert refused_golds(task, split.examples) == []


@REAL
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_golds_score_right(name: str) -> None:
    task = unregistered(name)
    for file in PUBLISHED[name].split():
        for steps in ("equations", "prose") if task.metadata["source"] == "annotated" else ("equations",):
            split = evaluation_data(task, files={"test": Path(REAL_DATA) / file}, steps=steps)
            assert split.examples and refused_golds(task, split.examples) == []


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.one_of(
    st.integers(-(10**30), 10**30).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str),
    st.fractions().map(str),
    st.sampled_from(
        ["1,080", "$5", "5 apples", "(5)", "1 1/2", "-(1/3)", "3 or 4", "1e3", "#### 3", "72 #### 73", "…"]
    ),
)


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(answer=st.one_of(TEXTS, NUMBERS, st.floats()), kind=st.sampled_from(["number", "text", "auto"]))
def test_a_row_of_your_own_is_refused_by_its_line_or_can_be_answered_right(
    tmp_path_factory: pytest.TempPathFactory, answer: Any, kind: str
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    task = load_task(str(user_task(folder)))
    task.metadata["kind"], task.metadata["fields"] = kind, {}
    path = folder / "rows.jsonl"
    rows = [{"question": "a?", "answer": "1"}, {"question": "b?", "answer": answer}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    try:
        examples = evaluation_data(task, files={"test": path}).examples
    except UsageError as error:
        assert str(error).startswith(f"{path}, line 2: ")
    else:
        assert refused_golds(task, examples) == []


def ways(value: Fraction) -> st.SearchStrategy[str]:
    """Ways in which people and models set one number."""
    plain = canonical(value)
    forms = [plain, f"${plain}" if value >= 0 else f"-${-value}", f"+{plain}" if value >= 0 else plain]
    if value.denominator == 1:
        grouped = f"{value.numerator:,}"
        forms += [grouped, grouped.replace(",", "{,}"), grouped.replace(",", "\u00a0"), f"{plain}.00", f"{plain}."]
    else:
        forms += [f"{value.numerator}/{value.denominator}", f"{value.numerator} / {value.denominator}"]
        if value > 0:
            forms.append(rf"\frac{{{value.numerator}}}{{{value.denominator}}}")
            if value > 1:
                whole, rest = divmod(value.numerator, value.denominator)
                forms.append(f"{whole} {rest}/{value.denominator}")
    around = [
        "{}",
        "**{}**",
        "({})",
        "\\boxed{{{}}}",
        "\\({}\\)",
        '"{}"',
        "{} apples",
        "{}%",
        "x = {}",
        "{} cm²",
        "{}</s>",
    ]
    around += ["The answer is {}", "The answer is **{}**.", "{}\u200b", "`{}`", "{}/hour", "{}<|im_end|>"]
    return st.tuples(st.sampled_from(forms), st.sampled_from(around)).map(lambda pair: pair[1].format(pair[0]))


VALUES = st.one_of(st.integers(-9999, 9_999_999).map(Fraction), st.fractions(-50, 50, max_denominator=40))


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(
    data=st.data(), value=VALUES, other=VALUES, before=st.sampled_from(["", "1 + 1 = 2\n", "#### 7\n", "It is 3.\n"])
)
def test_every_way_to_write_a_number_is_that_number_and_no_other(
    data: st.DataObject, value: Fraction, other: Fraction, before: str
) -> None:
    output = f"{before}{MARK} {data.draw(ways(value))}"
    result = score(output, canonical(value))
    assert result.correct and result.flexible
    if other != value:
        result = score(output, canonical(other))
        assert not result.correct and not result.flexible


def test_the_scorer_gives_stored_outputs_the_score_that_is_stored() -> None:
    """A changed score needs another version of the evaluator: results of two versions are never compared."""
    stored = set()
    for path in sorted(STORE.rglob("items.jsonl.gz"))[::10]:  # all 211,800 outputs take eight seconds
        with gzip.open(path, "rt", encoding="utf-8") as file:
            items = [json.loads(line) for line in file if '"output"' in line]
        stored |= {
            tuple(
                i[k] for k in ("task", "output", "reference", "answer", "correct", "flexible", "unparseable", "empty")
            )
            for i in items
        }
    assert len(stored) > 300
    tasks = {name: load_task(name) for name in {case[0] for case in stored}}
    for name, output, reference, *was in stored:
        now = score(output, reference, tasks[name].tolerance_at(reference), tasks[name].kind)
        assert [now.answer, now.correct, now.flexible, now.unparseable, now.empty] == was, output


# What is refused


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("task", "row", "problem"),
    [
        (
            "json",
            '{"question": "x?", "answer": "#### 3"}',
            "the answer '#### 3' holds '####', the mark that stands before",
        ),
        ("json", '{"question": "x?", "answer": "72 #### 73"}', "holds '####'"),
        ("json", '{"question": "x?", "answer": "####"}', "holds '####'"),
        ("json", '{"question": "x?", "answer": " . "}', "the answer '.' is nothing but white space and full stops"),
        (
            "gsm8k",
            '{"question": "x?", "answer": "#### abc"}',
            "the answer 'abc' is not one number: expected one such as 72",
        ),
        ("gsm8k", '{"question": "x?", "answer": "#### 3 or 4"}', "the answer '3 or 4' is not one number"),
        ("gsm8k", '{"question": "x?", "answer": "#### 1234,567"}', "the answer '1234,567' is not one number"),
        ("gsm8k", '{"question": "x?", "answer": "#### 0,123"}', "the answer '0,123' is not one number"),
        ("svamp", '{"input": "x?", "target": "five"}', "the answer 'five' is not one number"),
        ("json", '{"question": "x?", "answer": 1e400}', "1e400 is not a finite number"),
        ("json", '{"question": "x?", "answer": -1e400}', "-1e400 is not a finite number"),
        ("json", '{"question": "x?", "answer": 1e-400}', "1e-400 is too small, and not 0"),
        ("json", '{"question": "x?", "answer": 12345678901234567890.5}', "has more digits than a JSON number keeps"),
        ("json", '{"question": "x?", "answer": ' + "9" * 5000 + "}", "a number of 5,000 digits is too long"),
        ("json", '{"question": "x?", "answer": 1, "answer": 2}', "the key 'answer' stands twice in one object"),
        ("json", '{"question": "x?", "answer": 1, "more": {"a": 1, "b": 2, "a": 1}}', "the key 'a' stands twice"),
        ("json", '{"question": "x?", "answer": ' + "[" * 100_000, "not JSON"),
    ],
)
def test_what_could_never_be_answered_right_is_refused_by_its_line(
    tmp_path: Path, task: str, row: str, problem: str
) -> None:
    good = {"svamp": '{"input": "a?", "target": 1}', "gsm8k": '{"question": "a?", "answer": "#### 1"}'}
    first = good.get(task, '{"question": "a?", "answer": 1}')
    path = write(tmp_path / "rows.jsonl", f"{first}\n{row}\n")
    for options in ({}, {"allow_changed": True}):
        with pytest.raises(UsageError, match=rf"^{re.escape(str(path))}, line 2: .*{re.escape(problem)}"):
            evaluation_data(unregistered(task), files={"test": path}, **options)
    if not row.endswith("["):  # in an array: the item, with its line
        array = write(tmp_path / "rows.json", f"[\n{first},\n{row}]")
        with pytest.raises(UsageError, match=rf"^{re.escape(str(array))}, item 2.*{re.escape(problem)}"):
            evaluation_data(unregistered(task), files={"test": array})


def test_a_hubs_infinity_is_refused() -> None:
    from rim_bench.data.rows import Fields, SourceRow, to_example

    for value in (float("inf"), float("nan")):
        with pytest.raises(UsageError, match=r"^row 3: field 'answer' is (inf|nan), expected a finite number"):
            to_example(
                SourceRow("row 3", {"question": "x?", "answer": value}), Fields(), "rows", "equations", "a", "auto"
            )


def test_an_answer_that_is_none_of_the_choices_is_refused_by_its_line(tmp_path: Path) -> None:
    task = load_task(str(user_task(tmp_path)))
    task.metadata["fields"], task.metadata["form"] = {}, "choice"
    path = write(tmp_path / "rows.jsonl", '{"question": "a?", "answer": "5"}\n')
    with pytest.raises(UsageError, match=r"rows\.jsonl, line 1: the answer '5' is none of the choices: the row has"):
        evaluation_data(task, files={"test": path})


def test_a_generators_golds_are_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from rim_bench.tasks import chain

    monkeypatch.setattr(chain, "generate", lambda n, *_: [Example(f"chain/{i}", "x?", (), "3 or 4") for i in range(n)])
    with pytest.raises(UsageError, match=r"^chain/0: the answer '3 or 4' is not one number"):
        training_data(load_task("chain"), limit=3, seed=77)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{\n  "data": [\n    {"question": "x?", "answer": 1}\n  ]\n}\n',
            r"one JSON object over several lines.*'data'",
        ),
        (
            '{\n  "question": "x?",\n  "answer": 1\n}\n',
            "is one JSON object over several lines: expected one object a line",
        ),
        ('{"data": [{"question": "x?", "answer": 1}]}\n', "line 1: no field 'question': found 'data'"),
        ('{\n  "question": "x?",\n', "line 1: not JSON"),
    ],
)
def test_json_that_is_no_rows_is_called_what_it_is(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluation_data(load_task("json"), files={"test": write(tmp_path / "rows.json", text)})


def test_a_folder_given_as_a_file_is_called_a_folder(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").mkdir()
    for where in ({"files": {"test": tmp_path / "test.jsonl"}}, {"data": tmp_path}):
        with pytest.raises(UsageError, match=r"test file '.*test\.jsonl' is a folder: give a file"):
            evaluation_data(load_task("json"), **where)


# Keys that stand twice, elsewhere


def test_twice_in_a_record_a_task_file_a_study_or_an_ontology_is_refused(tmp_path: Path) -> None:
    from rim_bench.runs.study_file import read_study

    spec = write(tmp_path / "spec.json", '{"seed": 0, "seed": 1}')
    assert read_json(write(tmp_path / "config.json", '{"limit": [0.0, Infinity]}'))["limit"][1] == float("inf")
    study = write(tmp_path / "study.toml", 'methods = ["rim"]\ntask = "chain"\n[set]\n"rim.K" = 4\n[set.rim]\nK = 8\n')
    tasks = [
        write(tmp_path / "sums.yaml", USER_TASK.replace("source: rows", "source: rows\n    source: annotated")),
        write(tmp_path / "more.yaml", USER_TASK.replace("answer: Answer", "answer: Answer, answer: Body")),
    ]
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: read_json(spec), "spec.json' is damaged: the key 'seed' stands twice in one object"),
        (lambda: list(parse_lines(b'{"id": 1}\n{"id": 2, "id": 3}\n', "items")), "items line 2 .*'id' stands twice"),
        (lambda: read_study(study), r"\[set\] has rim\.K twice, as 'rim\.K' and in a table of rim"),
        (lambda: load_task(str(tasks[0])), r"sums\.yaml, line \d+: .*the key 'source' stands twice"),
        (lambda: load_task(str(tasks[1])), r"more\.yaml, line \d+: .*the key 'answer' stands twice"),
    ]
    for call, message in cases:
        with pytest.raises(UsageError, match=message):
            call()
    with pytest.raises(ValueError, match="the key 'example1' stands twice"):
        list(prontoqa.parse('{"example1": {}, "example1": {}}'))
    assert parse_json('{"a": 1.50, "b": [1e3, 0.0, 0e5], "c": 9007199254740993}') == {
        "a": 1.5,
        "b": [1000.0, 0.0, 0.0],
        "c": 9007199254740993,
    }


# ASDiv: what is one number, and its published files


XML = """<?xml version="1.0" encoding="UTF-8" ?>
<Machine-Reading-Corpus-File><ProblemSet>
{}
</ProblemSet></Machine-Reading-Corpus-File>
"""
ANSWERS = {
    "5 (years old); 15 (years old); 20 (years old)": None,
    "60 (cm); 30 (cm)": None,
    "5 (hours) and six (minutes)": None,
    "5; fifteen": None,
    "19 (books)": "19",
    "12 (kg per 3 days)": "12",
    "-(1/3)": "-1/3",
    "-(1/3) (km)": "-1/3",
    "1st": "1",
    "6th (floor)": "6",
    "1,080 (m)": "1080",
    "1 1/2 (cups)": "1.5",
    "Mrs. Hilt": None,
}


def test_several_numbers_are_left_out_and_the_three_forms_give_the_same_items(tmp_path: Path) -> None:
    task = unregistered("asdiv")
    rows = [
        {"body": f"Case {i}.", "question": "How many? ", "solution_type": "x", "answer": a, "formula": ""}
        for i, a in enumerate(ANSWERS)
    ]
    problems = [
        f'<Problem ID="nluds-{i}" Grade="1"><Body>{r["body"]}</Body><Question>{r["question"]}</Question>'
        f"<Solution-Type>x</Solution-Type><Answer>{r['answer']}</Answer><Formula>1 &gt; 0</Formula></Problem>"
        for i, r in enumerate(rows)
    ]
    wanted = {f"Case {i}. How many?": a for i, a in enumerate(ANSWERS.values()) if a is not None}
    hub = write(tmp_path / "hub.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    xml = write(tmp_path / "ASDiv.xml", XML.format("\n".join(problems)))
    pal = write(
        tmp_path / "asdiv.jsonl", "".join(json.dumps({"input": q, "target": a}) + "\n" for q, a in wanted.items())
    )
    splits = [evaluation_data(task, files={"test": path}) for path in (hub, xml, pal)]
    assert {e.question: e.answer for e in splits[0].examples} == wanted
    assert splits[0].examples == splits[1].examples == splits[2].examples
    assert splits[0].notes[0] == "5 of 13 rows are left out by rule: their answer is not one number"
    assert evaluation_data(task, data=tmp_path).source == str(xml) and load_task("asdiv").version == 2


def test_a_unit_without_the_rule_refuses_several_numbers_by_their_line(tmp_path: Path) -> None:
    task = load_task(str(user_task(tmp_path)))
    task.metadata["fields"] = {"unit": True}
    path = write(tmp_path / "rows.jsonl", '{"question": "a?", "answer": "5 (m); 6 (m)"}\n')
    with pytest.raises(UsageError, match=r"line 1: the answer '5 \(m\); 6 \(m\)' is not one number"):
        evaluation_data(task, files={"test": path})


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("<Problem><Body>a</Body>", r"ASDiv\.xml, line 4: not XML"),
        ('<Problem ID="n1"><Body>a</Body><Body>b</Body></Problem>', "problem n1: the element 'body' stands twice"),
        (
            '<Problem ID="n1"><Body>a</Body></Problem>',
            "problem n1: found the fields 'body', expected 'body', 'question'",
        ),
        ("", r"has no Problem: expected ASDiv's published form"),
    ],
)
def test_other_xml_is_refused(tmp_path: Path, problem: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluation_data(unregistered("asdiv"), files={"test": write(tmp_path / "ASDiv.xml", XML.format(problem))})


@pytest.mark.parametrize("encoding", ["latin-99", "utf-32"])
def test_xml_in_an_encoding_that_cannot_be_read_is_refused(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "ASDiv.xml", f'<?xml version="1.0" encoding="{encoding}"?><r/>')
    with pytest.raises(UsageError, match=r"ASDiv\.xml: not XML that can be read \(.*encoding.*\): save it as UTF-8"):
        evaluation_data(unregistered("asdiv"), files={"test": path})


# GSM8K-Aug's validation rows


@REAL
def test_every_validation_row_of_gsm8k_aug_is_a_training_row_of_gsm8k() -> None:
    aug, data = load_task("gsm8k_aug"), Path(REAL_DATA)
    asked = {" ".join(e.question.split()) for e in evaluation_data(aug, data=data, split="validation").examples}
    train, held = (
        {" ".join(e.question.split()) for e in split.examples} for split in training_data(load_task("gsm8k"), data=data)
    )
    assert (len(asked), len(asked & train), len(asked & held)) == (500, 465, 35)


def test_that_overlap_is_named_where_tasks_are_listed_and_by_leakage(tmp_path: Path) -> None:
    (tmp_path / "gsm8k_aug").mkdir()
    (tmp_path / "gsm8k").mkdir()
    write(tmp_path / "gsm8k_aug" / "valid.txt", "Ann has 1 egg. How many?|| #### 1\n")
    rows = "".join(
        json.dumps({"question": f"Ann has {i} egg. How many?", "answer": f"#### {i}"}) + "\n" for i in range(9)
    )
    write(tmp_path / "gsm8k" / "train.jsonl", rows)
    assert "validation rows are GSM8K training rows" in "\n".join(task_lines())
    said = re.sub(r"\s+", " ", "\n".join(task_lines("gsm8k_aug", long=True)))
    known = "All 500 validation rows are training rows of GSM8K: 465 of them train in task gsm8k"
    assert known in said
    report = leakage_report("gsm8k", (), ["gsm8k_aug"], data=tmp_path, split="validation", allow_changed=True)
    assert known in report.table().to_markdown() and known in report.to_json()
