"""Leakage: planted duplicates are found and counted, nothing else is, and the time is linear."""

from __future__ import annotations

import dataclasses
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rim_bench.data.leakage import count_overlap, grams, leakage, leakage_report, usual_ngram, words
from rim_bench.data.reader import Split
from rim_bench.data.task import load_task
from rim_bench.methods.method import Example
from rim_bench.storage.records import OverlapRecord

ROWS = {
    "train": [(1, "red"), (2, "blue"), (3, "old")],
    "validation": [(4, "red"), (5, "new")],
    "test": [(1, "red"), (9, "blue"), (5, "new"), (7, "red")],
}
Call = Callable[..., tuple[int, str, str]]
WORDS = [
    f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "pe", "ra", "so", "ti") for b in ("bel", "dor", "fin", "gam", "hus")
]


def dataset(questions: list[str], name: str) -> Split:
    return Split(tuple(Example(f"{name}/{i}", q, (), "1") for i, q in enumerate(questions)), name, name)


def sentence(rng: random.Random, length: int = 20) -> list[str]:
    return [rng.choice(WORDS) for _ in range(length)]


def test_validation_rows_are_counted_on_both_sides() -> None:
    """Test rows that stand in the validation rows, and validation rows that stand in the training rows."""
    task = load_task("json")
    train, held, test = (dataset([f"Ann has {k} nuts, {w}?" for k, w in rows], name) for name, rows in ROWS.items())
    (leak,) = leakage(train, [(task, test)], validation=held)
    assert (leak.exact, leak.masked, leak.in_validation, leak.masked_in_validation) == (1, 3, 1, 3)
    counted = count_overlap(task, train, held, [e.question for e in test.examples])
    assert counted == OverlapRecord(
        n=4, train_exact=1, train_masked=3, validation_rows=2, validation_exact=1, validation_masked=3
    )
    assert counted.any and counted.trained and counted.chose
    generated = count_overlap(load_task("chain"), train, held, [e.question for e in test.examples])
    assert (generated.train_exact, generated.train_masked, generated.validation_masked) == (1, None, None)
    few = dataclasses.replace(counted, n=100, validation_rows=100)
    assert few.any and not few.trained and not few.chose  # 1 %
    assert dataclasses.replace(few, train_exact=2).trained and dataclasses.replace(few, validation_rows=99).chose


def test_words_are_without_case_and_punctuation() -> None:
    assert words("Tom's 1,200 apples cost $3.50, right?  RIGHT!") == [
        "tom's",
        "1200",
        "apples",
        "cost",
        "3.50",
        "right",
        "right",
    ]
    assert words("a=7|ba+3|___", r"[+*-][0-9]|[\s\S]") == ["a", "=", "7", "|", "b", "a", "+3", "|", "_", "_", "_"]
    assert list(grams("abcd", 3)) == [("a", "b", "c"), ("b", "c", "d")] and not list(grams("ab", 3))


def test_the_length_of_a_run_is_the_fifth_percentile_in_bounds() -> None:
    assert usual_ngram([5] * 100) == 8 and usual_ngram([40] * 100) == 13
    assert usual_ngram([10] * 6 + [40] * 94) == 10 and usual_ngram([10] * 3 + [12] * 97) == 12


def test_planted_questions_are_found() -> None:
    rng = random.Random(0)
    train = [" ".join(sentence(rng)) + "?" for _ in range(200)]
    train[3] = "Ann has 1,200 apples and Bob has 7 more than she has, so how many apples does Bob have now?"
    train[5] = "short question 5"
    fresh = [" ".join(sentence(rng)) for _ in range(6)]
    test = [
        train[7].replace(" ", "  "),  # exact but for white space
        train[8].upper(),  # equal as words: masked
        "Ann has 3 apples, and Bob has 70.5 more than she has; so how many apples does Bob have now?",  # masked
        " ".join(train[9].split()[:15] + ["zig"] * 5),  # shares 3 of its 8 runs of 13 words
        " ".join([*train[10].split()[:18], "zig", "zag"]),  # 6 of 8
        "Short question 6!",  # too short for a run, masked
        *fresh,
    ]
    task = load_task("json")
    (leak,) = leakage(dataset(train, "train"), [(task, dataset(test, "test"))], ngram=13, worst=20)
    assert (leak.n, leak.exact, leak.masked, leak.short) == (12, 1, 4, 1)
    assert (leak.any, leak.half) == (4, 3)  # rows 0, 1, 3, 4; without the third of 3 in 8
    found = {h.id: h for h in leak.hits}
    assert list(found) == [f"test/{k}" for k in (0, 1, 2, 5, 4, 3)]
    assert [found[f"test/{k}"].train_id for k in (0, 1, 2, 3, 4, 5)] == [f"train/{k}" for k in (7, 8, 3, 9, 10, 5)]
    assert [h.kind for h in leak.hits] == ["exact", "masked", "masked", "masked", "n-gram", "n-gram"]
    assert found["test/3"].share == 3 / 8 and found["test/4"].share == 6 / 8
    assert len(leakage(dataset(train, "train"), [(task, dataset(test, "test"))], worst=2)[0].hits) == 2


def test_nothing_is_found_where_nothing_is() -> None:
    rng = random.Random(1)
    train, test = ([" ".join(sentence(rng)) for _ in range(50)] for _ in range(2))
    (leak,) = leakage(dataset(train, "train"), [(load_task("json"), dataset(test, "test"))])
    assert leak.exact == leak.masked == leak.any == leak.half == 0 and leak.hits == ()


def test_each_set_has_its_own_length_of_a_run() -> None:
    rng = random.Random(2)
    train = [" ".join(sentence(rng, 30)) for _ in range(20)]
    short, long = ([" ".join(t.split()[:n]) for t in train[:4]] for n in (9, 30))
    leaks = leakage(
        dataset(train, "train"), [(load_task("json"), dataset(short, "s")), (load_task("json"), dataset(long, "l"))]
    )
    assert (
        [k.ngram for k in leaks] == [9, 13] and [k.half for k in leaks] == [4, 4] and [k.exact for k in leaks] == [0, 4]
    )


def test_time_is_linear() -> None:
    rng = random.Random(3)
    train = dataset([" ".join(sentence(rng, 45)) for _ in range(16_000)], "train")
    test = dataset([" ".join(sentence(rng, 45)) for _ in range(1_000)], "test")
    taken = []
    for rows in (4_000, 16_000):
        part = Split(train.examples[:rows], "", "train")
        began = time.process_time()
        leakage(part, [(load_task("json"), test)])
        taken.append(time.process_time() - began)
    assert taken[1] < 8 * taken[0] + 0.5 and taken[1] < 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    asked = "Ann has {} apples and Bob has two more of them, how many does Bob have?"
    rows = [{"question": asked.format(k), "answer": str(k + 2)} for k in range(30)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, [rows[0], {"question": "Why 3?", "answer": "4"}])))
    return tmp_path


def test_the_report_has_ids_and_only_on_demand_texts(folder: Path) -> None:
    made = leakage_report("json", [], ["json", "gsm8k"], data=folder)
    assert list(made.missing) == ["gsm8k"] and len(made.leaks) == 1
    markdown = made.table().to_markdown()
    assert "| json | 2 | 1 (50.0 %) | 1 (50.0 %) | 1 (50.0 %) | 1 (50.0 %) | 8 | 1 | test |" in markdown
    assert "json/test/0" in markdown and "apples" not in markdown and "gsm8k was not compared: " in markdown
    assert "apples" in made.table(text=True).to_markdown()
    data = json.loads(made.to_json())
    assert (
        data["sets"][0]["exact"] == 1
        and "question" not in data["sets"][0]["hits"][0]
        and "apples" not in made.to_json()
    )
    assert json.loads(made.to_json(text=True))["sets"][0]["hits"][0]["question"].startswith("Ann has 0 apples")
    assert made.table().to_csv().splitlines()[0].startswith("train_task,train_sha256,train_rows,task,split,n,")


def test_generated_text_is_split_by_its_own_pieces() -> None:
    made = leakage_report("chain", [], [], limit=300)
    (leak,) = made.leaks
    assert leak.exact == 0 and leak.n == 300 and leak.ngram == 13


def test_the_command(call: Call, folder: Path, tmp_path: Path) -> None:
    code, out, err = call(
        "leakage", "--task", "json", "--eval-tasks", "json,gsm8k", "--data", folder, "--format", "json"
    )
    assert code == 0 and json.loads(out)["train"]["rows"] == 27 and err.startswith("gsm8k is not compared: ")
    target = tmp_path / "report.csv"
    assert (
        call("leakage", "-t", "json", "--data", folder, "--to", target)[0] == 0 and target.read_text().count("\n") == 2
    )
    for words_, message in (
        (["--to", "x.txt"], "unknown file type '.txt'"),
        (["--format", "yaml"], "unknown format 'yaml'"),
        (["--ngram", "0"], "--ngram 0 is too small"),
        (["--worst", "-1"], "--worst -1 is too small"),
        (["--suite", "gsm-odd"], "did you mean 'gsm-ood'"),
    ):
        code, out, err = call("leakage", "-t", "json", "--data", folder, *words_)
        assert code == 2 and out == "" and message in err


def test_published_gsm8k(published: Path) -> None:
    began = time.process_time()
    (leak,) = leakage_report("gsm8k", [], [], data=published).leaks
    assert (leak.n, leak.exact, leak.masked, leak.ngram) == (1319, 0, 0, 13) and leak.any < 10
    assert time.process_time() - began < 20
