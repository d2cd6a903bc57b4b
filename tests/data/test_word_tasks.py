"""Word problem sets: files and hub rows give the same items, ids and hashes; subsets, registered hashes and malformed
rows.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from conftest import unregistered
from fabricated import evaluate, train

from rim_bench.data import rows as rows_module
from rim_bench.data.answers import parse_number, score
from rim_bench.data.datasets import evaluation_data, overlap, training_data
from rim_bench.data.question_ids import question_hash, read_selection, registered_hash
from rim_bench.data.reader import NoSplit
from rim_bench.data.task import Task, load_task, task_names
from rim_bench.evidence.two_systems import versus
from rim_bench.report import two_systems
from rim_bench.report.comparison import comparison
from rim_bench.report.leaderboard import leaderboard
from rim_bench.storage.run_folder import Store
from rim_bench.util.errors import UsageError

WORDS = (
    "gsm8k",
    "gsm8k_aug",
    "gsm8k_platinum",
    "gsm_plus",
    "gsm_symbolic",
    "gsm_symbolic_p1",
    "gsm_symbolic_p2",
    "gsm_hard",
    "gsm_hard_int",
    "svamp",
    "svamp_300",
    "multiarith",
    "multiarith_180",
    "asdiv",
)
REAL_DATA = os.environ.get("RIM_BENCH_DATA", "")
REAL = pytest.mark.skipif(not REAL_DATA, reason="RIM_BENCH_DATA is not set: the published files are not at hand")
Rows = Sequence[dict[str, Any]]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RIM_BENCH_DATA", "RIM_BENCH_LIMIT", "RIM_BENCH_STEPS", "RIM_BENCH_ALLOW_CHANGED"):
        monkeypatch.delenv(name, raising=False)


def write(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Rows]], list[tuple[str, Any, str]]]:
    """Puts rows where the hub's are, by split; returns the list of what is asked for."""

    def put(splits: dict[str, Rows]) -> list[tuple[str, Any, str]]:
        import datasets

        asked: list[tuple[str, Any, str]] = []

        def load_dataset(path: str, config: str | None, split: str) -> Any:
            asked.append((path, config, split))
            return datasets.Dataset.from_list([row for part in split.split("+") for row in splits[part]])

        monkeypatch.setattr(rows_module, "unreachable", lambda: None)
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return put


def test_every_task_says_what_it_is() -> None:
    assert set(WORDS) <= set(task_names())
    for name in WORDS:
        task = load_task(name)
        assert task.metadata["licence"] and task.metadata["note"] and task.metadata["size"]["test"] > 0, name
        assert task.recipe["max_tokens"] == 128 and "hub" in task.metadata, name
        assert ("train" in task.metadata["size"]) == (name in ("gsm8k", "gsm8k_aug"))


@pytest.mark.parametrize("name", [name for name in WORDS if name not in ("gsm8k", "gsm8k_aug")])
def test_sets_without_training_rows_are_for_evaluation_only(name: str, tmp_path: Path) -> None:
    with pytest.raises(NoSplit, match=f"^task {name} is for evaluation only.*`rim-bench eval RUN --task {name}`$"):
        training_data(load_task(name), data=tmp_path)


# SVAMP and MultiArith: two forms


SVAMP = [  # file form; the hub's Body has no full stop in the second, and white space around it
    {"input": "Dan had $ 3 left. He bought a bar. How much did it cost?", "target": 1.0},
    {"input": "Each pack costs 76 dollars. If 25 dollars are off. How much is a pack?", "target": 51.0},
    {"input": "She gave 301 away and has 154 left.. How many did she have?", "target": 455.0},
]
_OTHERS = {"Equation": "( 76.0 - 25.0 )", "Type": "Subtraction"}
SVAMP_HUB = [
    {
        "ID": "chal-2",
        "Body": "Each pack costs 76 dollars. If 25 dollars are off ",
        "Question": " How much is a pack?",
        "Answer": "51",
    },
    {
        "ID": "chal-3",
        "Body": "She gave 301 away and has 154 left..",
        "Question": "How many did she have?",
        "Answer": "455.0",
    },
    {"ID": "chal-1", "Body": "Dan had $ 3 left.  He bought a bar.", "Question": "How much did it cost?", "Answer": "1"},
]
SVAMP_HUB = [row | _OTHERS for row in SVAMP_HUB]


def test_svamp_is_the_same_from_file_and_hub(tmp_path: Path, hub: Callable[..., Any]) -> None:
    write(tmp_path / "svamp" / "test.jsonl", SVAMP)
    task = unregistered("svamp")
    file = evaluation_data(task, data=tmp_path)
    asked = hub({"train": SVAMP_HUB[:2], "test": SVAMP_HUB[2:]})
    found = evaluation_data(task)
    assert asked == [("ChilleD/SVAMP", None, "train+test")]
    assert (found.examples, found.sha256) == (file.examples, file.sha256)
    assert [e.id for e in file.examples] == sorted(e.id for e in file.examples)
    assert {e.id: e.answer for e in file.examples}[f"svamp/{question_hash(SVAMP[2]['input'])}"] == "455"
    write(tmp_path / "svamp" / "test.jsonl", SVAMP_HUB)  # the hub's file, saved
    assert evaluation_data(task, data=tmp_path).sha256 == file.sha256
    other = [{**row, "Answer": "2"} for row in SVAMP_HUB]
    assert evaluation_data(task, files={"test": write(tmp_path / "other.jsonl", other)}).sha256 != file.sha256


def test_a_limit_keeps_the_same_questions_whatever_the_order(tmp_path: Path) -> None:
    task = unregistered("svamp")
    kept = [
        evaluation_data(task, files={"test": write(tmp_path / f"{i}.jsonl", rows)}, limit=2).examples
        for i, rows in enumerate((SVAMP, SVAMP[::-1]))
    ]
    assert kept[0] == kept[1] and len(kept[0]) == 2


def test_copies_of_a_question_have_ids_of_their_own(tmp_path: Path, hub: Callable[..., Any]) -> None:
    rows = [
        {"question": " A b? ", "final_ans": "8"},
        {"question": "C?", "final_ans": "5"},
        {"question": "A  b?", "final_ans": "8"},
    ]
    hub({"train": rows[:1], "test": rows[1:]})
    found = evaluation_data(unregistered("multiarith"))
    first = f"multiarith/{question_hash('A b?')}"
    assert sorted(e.id for e in found.examples if e.question == "A b?") == [first, f"{first}/2"]
    write(
        tmp_path / "test.jsonl",
        [{"input": "C?", "target": 5}, {"input": "A b?", "target": 8}, {"input": "A b?", "target": 8}],
    )
    assert evaluation_data(unregistered("multiarith"), data=tmp_path).sha256 == found.sha256


def test_rows_that_fit_no_form_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "test.jsonl", [{"Question": "x?", "Answer": 1}])
    with pytest.raises(
        UsageError,
        match=rf"^{path}, line 1: found the fields 'Question', 'Answer', expected 'input', 'target'; or 'Body'",
    ):
        evaluation_data(unregistered("svamp"), data=tmp_path)
    write(tmp_path / "test.jsonl", [SVAMP[0], SVAMP_HUB[0]])
    with pytest.raises(UsageError, match="line 2: no field 'input'"):
        evaluation_data(unregistered("svamp"), data=tmp_path)
    write(tmp_path / "test.jsonl", [SVAMP[0], {"input": "x?", "target": "five"}])
    with pytest.raises(UsageError, match="line 2: the answer 'five' is not one number"):
        evaluation_data(unregistered("svamp"), data=tmp_path)


# Subsets


def test_a_subset_is_chosen_by_its_questions_and_counts_copies(tmp_path: Path) -> None:
    task = unregistered("multiarith_180")
    wanted = sorted([question_hash("A?"), question_hash("A?"), question_hash("B?")])
    (tmp_path / "multiarith_180.txt").write_text("# what this is\n" + "\n".join(wanted) + "\n")
    (tmp_path / "task.yaml").write_text(re.sub(" *registered:.*\n", "", task.path.read_text()))
    base = task.path.with_name("word_problems.base")
    (tmp_path / base.name).write_text(base.read_text())
    mine = load_task(str(tmp_path / "task.yaml"))
    rows = [{"input": q, "target": 1} for q in ("C?", "A?", "B?", "A?", "A?", "B?")]
    found = evaluation_data(mine, files={"test": write(tmp_path / "rows.jsonl", rows)})
    assert sorted(e.question for e in found.examples) == ["A?", "A?", "B?"]
    assert any(note.startswith("3 of 6 rows") for note in found.notes)
    with pytest.raises(
        UsageError, match=r"1 of the 3 questions that multiarith_180\.txt lists are not among the 2 rows"
    ):
        evaluation_data(mine, files={"test": write(tmp_path / "few.jsonl", rows[1:3])})
    (tmp_path / "multiarith_180.txt").write_text("not a hash\n")
    with pytest.raises(
        UsageError, match=r"multiarith_180\.txt, line 1: found 'not a hash', expected 12 hexadecimal digits"
    ):
        evaluation_data(mine, files={"test": tmp_path / "rows.jsonl"})


@pytest.mark.parametrize(("name", "n", "distinct"), [("svamp_300", 300, 300), ("multiarith_180", 180, 178)])
def test_the_shipped_lists_are_complete(name: str, n: int, distinct: int) -> None:
    wanted = read_selection(load_task(name).path.parent / f"{name}.txt")
    assert (wanted.total(), len(wanted)) == (n, distinct)


def test_asdiv_takes_the_number_in_front_of_the_unit_and_counts_what_it_leaves_out(hub: Callable[..., Any]) -> None:
    answers = [
        "9 (apples)",
        "1,080 (m)",
        "3:2 (ratio)",
        "5; 6",
        "blue (color)",
        "1/2 (pie)",
        "12 (kg per 3 days)",
        "$5",
    ]
    rows = [
        {"body": f"Case {i}.", "question": "How many?", "solution_type": "x", "answer": a, "formula": ""}
        for i, a in enumerate(answers)
    ]
    asked = hub({"validation": rows})
    found = evaluation_data(unregistered("asdiv"))
    assert asked == [("EleutherAI/asdiv", None, "validation")]
    assert {e.question: e.answer for e in found.examples} == {
        f"Case {i}. How many?": a for i, a in ((0, "9"), (1, "1080"), (5, "0.5"), (6, "12"), (7, "5"))
    }
    rule = "3 of 8 rows are left out by rule: their answer is not one number"
    assert found.notes == (rule,)
    published = load_task("asdiv")  # its size is that before the rule
    known = replace(published, metadata=published.metadata | {"size": {"test": 8}})
    assert evaluation_data(known).notes == (rule,)
    assert "has 2,305, and no hash" in evaluation_data(published).notes[1]


def test_platinum_leaves_rejected_rows_out_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    task = unregistered("gsm8k_platinum")
    rows = [
        {"question": f"{i}+1?", "answer": f"<<{i}+1={i + 1}>>\n#### {i + 1}", "cleaning_status": s}
        for i, s in enumerate(("consensus", "rejected", "verified", "revised"))
    ]
    found = evaluation_data(task, files={"test": write(tmp_path / "a.jsonl", rows)})
    assert sorted(e.answer for e in found.examples) == ["1", "3", "4"]
    assert found.notes == ("1 of 4 rows are left out by rule: their cleaning_status is rejected",)
    with pytest.raises(
        UsageError,
        match="line 2: field 'cleaning_status' is 'odd', expected one of consensus, verified, revised, rejected",
    ):
        evaluation_data(
            task, files={"test": write(tmp_path / "b.jsonl", [rows[0], rows[1] | {"cleaning_status": "odd"}])}
        )


# Clusters and levels


def test_gsm_plus_has_levels_clusters_and_answers_that_are_none(hub: Callable[..., Any]) -> None:
    seed = "How many eggs has Ann?"
    kinds = [
        ("numerical substitution", "1,200"),
        ("critical thinking", None),
        ("critical thinking", "None"),
        ("problem understanding", "3.50"),
    ]
    common = {"solution": "s", "seed_question": seed, "seed_solution": "s", "seed_answer": "1"}
    rows = [
        {"question": f"Variant {i}?", "answer": a, "perturbation_type": k} | common for i, (k, a) in enumerate(kinds)
    ]
    asked = hub({"test": rows})
    task = unregistered("gsm_plus")
    found = {e.question[8]: e for e in evaluation_data(task).examples}
    assert asked == [("qintongli/GSM-Plus", None, "test")]
    assert [found[str(i)].answer for i in range(4)] == ["1200", "None", "None", "3.5"]
    assert {e.cluster for e in found.values()} == {question_hash(seed)} and found["1"].level == "critical thinking"
    assert score("#### none", "None", kind=task.kind).correct and not score("#### 5", "None", kind=task.kind).correct
    assert score("#### 1200.0", "1200", kind=task.kind).correct


@pytest.mark.parametrize(
    ("name", "config"), [("gsm_symbolic", "main"), ("gsm_symbolic_p1", "p1"), ("gsm_symbolic_p2", "p2")]
)
def test_gsm_symbolic_is_clustered_by_its_template(
    name: str, config: str, tmp_path: Path, hub: Callable[..., Any]
) -> None:
    rows = [
        {
            "id": t,
            "instance": i,
            "question": f"{t} and {i}?",
            "answer": f"It is {t + i}.\n#### {t + i}",
            "original_id": 7 + t,
            "original_question": "q",
            "original_answer": "#### 1",
            "canary": "c",
        }
        for t in range(2)
        for i in range(3)
    ]
    asked = hub({"test": rows})
    task = unregistered(name)
    found = evaluation_data(task)
    assert asked == [("apple/GSM-Symbolic", config, "test")]
    assert sorted(e.cluster for e in found.examples) == ["7"] * 3 + ["8"] * 3
    assert evaluation_data(task, steps="prose").examples[0].steps != () and found.examples[0].steps == ()
    write(tmp_path / "gsm_symbolic" / task.metadata["files"]["test"][0], rows[::-1])
    assert evaluation_data(task, data=tmp_path).sha256 == found.sha256


# GSM-Hard


def test_gsm_hard_targets_are_written_out_and_compared_within_a_stated_tolerance(
    tmp_path: Path, hub: Callable[..., Any]
) -> None:
    targets = [1e10, 3.509e-07, -12.5, 1477826.6666666667, 9284017268534.4, 18.0, 1e16, -0.0]
    rows = [{"input": f"Case {i}?", "code": "", "target": t} for i, t in enumerate(targets)]
    task = unregistered("gsm_hard")
    found = evaluation_data(task, files={"test": write(tmp_path / "rows.jsonl", rows)})
    by_case = {int(e.question[5]): e.answer for e in found.examples}
    wanted = [
        "10000000000",
        "0.0000003509",
        "-12.5",
        "1477826.6666666667",
        "9284017268534.4",
        "18",
        "10000000000000000",
        "0",
    ]
    assert [by_case[i] for i in range(8)] == wanted
    hub({"train": rows[::-1]})
    assert evaluation_data(task).sha256 == found.sha256

    def right(output: str, reference: str) -> bool:
        return score(f"#### {output}", reference, task.tolerance_at(reference), task.kind).correct

    assert right("10,000,000,000.0", "10000000000") and not right("10000000001", "10000000000")
    assert right("1477826.667", "1477826.6666666667") and not right("1477826.67", "1477826.6666666667")
    assert (
        not right("0", "0.0000003509") and right("3.509e-7", "0.0000003509") and right("0.00000035091", "0.0000003509")
    )
    assert right("0", "0") and not right("0.0005", "0") and not right("19", "18")
    whole = unregistered("gsm_hard_int")
    kept = evaluation_data(whole, files={"test": tmp_path / "rows.jsonl"})
    assert sorted(e.answer for e in kept.examples) == sorted(wanted[i] for i in (0, 5, 6, 7))
    assert (
        kept.notes == ("4 of 8 rows are left out by rule: their answer is not a whole number",)
        and whole.tolerance_at("18") == 0
    )
    assert {e.id for e in kept.examples} < {e.id for e in found.examples}


# GSM8K-Aug


AUG = """John cuts  his grass.  How much?||<<4-2=2>> <<2/.5=4>> #### 5,000
Ann has 9. How many?|| #### 9

Bo has 2. How many?||<<1+1=2>> #### 2
Cy has 3. How many?||<<1+2=3>> #### 3
"""


def test_the_text_format_and_the_hub_give_the_same_training_rows(tmp_path: Path, hub: Callable[..., Any]) -> None:
    folder = tmp_path / "gsm8k_aug"
    folder.mkdir()
    (folder / "train.txt").write_text(AUG)
    (folder / "valid.txt").write_text("Di has 4. How many?||<<2+2=4>> #### 4\n")
    task = unregistered("gsm8k_aug")
    train, validation = training_data(task, data=tmp_path)
    assert (len(train.examples), len(validation.examples)) == (4, 1)
    first = next(e for e in train.examples if e.answer == "5000")
    assert (first.question, first.steps) == ("John cuts his grass. How much?", ("<<4-2=2>>", "<<2/.5=4>>"))
    assert "1 of 4 training rows have no steps" in train.notes[0]
    rows = [
        {"question": e.question, "steps": list(e.steps), "answer": "5,000" if e.answer == "5000" else e.answer}
        for e in train.examples[::-1]
    ]
    asked = hub(
        {"train": rows, "validation": [{"question": "Di has 4.  How many?", "steps": ["<<2+2=4>>"], "answer": "4"}]}
    )
    from_hub = training_data(task)
    assert [split for _, _, split in asked] == ["train", "validation"]
    assert [d.sha256 for d in from_hub] == [train.sha256, validation.sha256]


def test_its_test_set_is_that_of_gsm8k(tmp_path: Path) -> None:
    write(tmp_path / "gsm8k" / "test.jsonl", [{"question": f"{i}+1?", "answer": f"#### {i + 1}"} for i in range(3)])
    aug, plain = (
        evaluation_data(load_task(name), data=tmp_path, allow_changed=True) for name in ("gsm8k_aug", "gsm8k")
    )
    assert aug.examples == plain.examples and aug.examples[0].id == "gsm8k/test/0" and aug.sha256 == plain.sha256
    assert aug.registered is False
    given = evaluation_data(unregistered("gsm8k_aug"), files={"test": _text(tmp_path, AUG)})
    assert len(given.examples) == 4


def test_a_validation_file_is_read_without_training_rows(tmp_path: Path) -> None:
    """The published repository has valid.txt as text and train.txt as a Git LFS pointer."""
    folder = tmp_path / "gsm8k_aug"
    folder.mkdir()
    (folder / "valid.txt").write_text(AUG)
    task = unregistered("gsm8k_aug")
    alone = evaluation_data(task, data=tmp_path, split="validation", limit=3)
    (folder / "train.txt").write_text("Di has 4. How many?||<<2+2=4>> #### 4\n")
    assert (
        alone
        == evaluation_data(task, data=tmp_path, split="validation", limit=3)
        == training_data(task, data=tmp_path, limit=3)[1]
    )
    assert len(alone.examples) == 3
    with pytest.raises(UsageError, match="is also the test file"):
        evaluation_data(
            task, files={"validation": folder / "valid.txt", "test": folder / "valid.txt"}, split="validation"
        )


def _text(folder: Path, text: str | bytes) -> Path:
    path = folder / "rows.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("no bars #### 5", "found 0 times '||'"),
        ("q||<<1+1=2>>||<<2+2=4>> #### 5", "found 2 times '||'"),
        ("q||<<1+1=2>> 5", "found 0 times '####' behind '||'"),
        ("q||<<1+1=2>> #### 5 #### 6", "found 2 times '####' behind '||'"),
        (" ||<<1+1=2>> #### 5", "the question is blank"),
        ("q||<<1+1=2>> #### ", "the answer is blank"),
        ("q||<<1+1=2>> then <<2+2=4>> #### 5", "found 'then' between the steps"),
        ("q||<<1+1=2 #### 5", "found '<<1+1=2' between the steps"),
    ],
)
def test_a_malformed_line_of_text_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = _text(tmp_path, f"a||<<1+1=2>> #### 2\n{line}\nb|| #### 3\n")
    wanted = re.escape(f"{path}, line 2: {problem}, expected 'question||<<a+b=c>> <<...>> #### answer' on one line")
    with pytest.raises(UsageError, match=f"^{wanted}$"):
        evaluation_data(unregistered("gsm8k_aug"), files={"test": path})


def test_other_bad_text_files_are_named(tmp_path: Path) -> None:
    task = unregistered("gsm8k_aug")
    for raw, message in (
        (b"a|| #### 1\n\xff|| #### 2\n", r"rows\.txt, line 2: not UTF-8 text \(byte 0\): expected 'question"),
        (b"\n \n", r"is empty: expected 'question"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            "is a Git LFS pointer, not the data: fetch it with `git lfs pull`",
        ),
        (b"a|| #### 1\nb|| #### two\n", r"line 2: the answer 'two' is not one number"),
    ):
        with pytest.raises(UsageError, match=message):
            evaluation_data(task, files={"test": _text(tmp_path, raw)})


# Registered hashes


def test_changed_data_are_refused_unless_allowed_and_then_say_so(tmp_path: Path) -> None:
    task = load_task("svamp")
    write(tmp_path / "test.jsonl", SVAMP)
    with pytest.raises(
        UsageError,
        match=r"not those registered for task svamp: 3 questions \(registered: 1,000\), sha256 .* --allow-changed",
    ):
        evaluation_data(task, data=tmp_path, limit=1)
    found = evaluation_data(task, data=tmp_path, limit=1, allow_changed=True)
    assert found.registered is False and len(found.examples) == 1 and "instead of 431b499a95df" in found.notes[0]
    assert evaluation_data(unregistered("svamp"), data=tmp_path).registered is None


def test_a_registered_hash_covers_what_is_scored_and_neither_limit_nor_steps(tmp_path: Path) -> None:
    rows = [{"question": f"{i}+1?", "answer": f"It is <<{i}+1={i + 1}>>.\n#### {i + 1}"} for i in range(12)]
    for split in ("train", "test"):
        write(tmp_path / "gsm8k" / f"{split}.jsonl", rows)
    plain = unregistered("gsm8k")
    digest = registered_hash(evaluation_data(plain, data=tmp_path).examples)
    task = Task(**{**vars(plain), "metadata": plain.metadata | {"registered": {"test": digest}}})
    for options in ({"limit": 3}, {"steps": "prose"}, {}):
        assert evaluation_data(task, data=tmp_path, **options).registered is True  # type: ignore[arg-type]
    assert training_data(task, data=tmp_path)[0].registered is None  # nothing is registered for that split
    for changed in (
        rows[:-1],
        [*rows[:-1], {**rows[-1], "question": "other?"}],
        [*rows[:-1], {**rows[-1], "answer": "#### 99"}],
        rows[::-1],
    ):
        write(tmp_path / "gsm8k" / "test.jsonl", changed)
        with pytest.raises(UsageError, match="not those registered"):
            evaluation_data(task, data=tmp_path)


def test_a_set_of_another_size_without_a_registered_hash_says_so(hub: Callable[..., Any]) -> None:
    hub({"test": [{"question": "1?", "answer": "1", "perturbation_type": "x", "seed_question": "s"}]})
    found = evaluation_data(load_task("gsm_plus"))
    assert found.registered is None
    assert found.notes == (
        "1 questions of hub qintongli/GSM-Plus; the set as published has 10,552, and no hash of it is registered",
    )


def test_tables_mark_changed_data_and_repeat_what_was_left_out(tmp_path: Path) -> None:
    task = {"name": "toy", "version": 1, "train_sha256": "a" * 64, "steps": "equations"}
    left_out = {"data_notes": ["3 of 8 rows are left out by rule"]}
    for name, registered, spec in (("published", True, {}), ("changed", False, {"task": task | {"registered": False}})):
        store, ids = Store(tmp_path / name), []
        for method in ("direct", "cot"):
            run = train(store, method, spec=spec if method == "cot" else {})
            evaluate(run, [True, False] * 20, data_registered=registered, **left_out)
            ids.append(run.id)
        table, board = comparison(store.runs()[0]), leaderboard(store.runs()[0])
        text = table.to_markdown()
        assert text.count("- Questions: 3 of 8 rows are left out by rule.\n") == 1
        assert ("CHANGED DATA: the questions are not the set that the task registers" in text) == (not registered)
        assert (
            "CHANGED DATA: trained on rows that are not the registered ones (--allow-changed-data): cot" in text
        ) == (not registered)
        for other in (board.table.to_markdown(), board.to_json(), two_systems.table(versus(store, *ids)).to_markdown()):
            assert ("CHANGED DATA" in other) == (not registered)
        for csv_text in (table.to_csv(), board.to_csv()):
            stamps = {row["stamp"] for row in csv.DictReader(io.StringIO(csv_text))}
            assert stamps == ({""} if registered else {"changed data"})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("subset: {questions: svamp_300.txt}", "subset: {answer: odd}", "unknown rule of subset.answer 'odd'"),
        ("subset: {questions: svamp_300.txt}", "subset: {answer: whole, questions: x}", "subset needs one of"),
        ("subset: {questions: svamp_300.txt}", "subset: {field: a, keep: [b]}", "needs the lists keep and drop"),
        ("subset: {questions: svamp_300.txt}", "subset: {question: x}", "did you mean 'questions'"),
        ("ids: question", "ids: questions", "did you mean 'question'"),
        ("sentences: true", "sentences: 1", "fields.sentences must be true or false"),
        ("- {question: input, answer: target}", "- input", "each form of fields must be a mapping"),
        ("registered: {test: 1857", "registered: {test: x857", "registered.test must be a sha256"),
    ],
)
def test_malformed_task_files_are_told(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = load_task("svamp_300").path.read_text()
    assert old in text
    (tmp_path / "bad.yaml").write_text(text.replace(old, new))
    with pytest.raises(UsageError, match=message):
        load_task(str(tmp_path / "bad.yaml"))


# The published files


@REAL
@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("gsm8k", 1319),
        ("gsm8k_aug", 1319),
        ("gsm_hard", 1319),
        ("gsm_hard_int", 1016),
        ("svamp", 1000),
        ("svamp_300", 300),
        ("multiarith", 600),
        ("multiarith_180", 180),
    ],
)
def test_published_files_are_the_registered_ones(name: str, n: int) -> None:
    task = load_task(name)
    found = evaluation_data(task, data=Path(REAL_DATA))
    assert found.registered is True and len(found.examples) == n == task.metadata["size"]["test"]
    assert len({e.id for e in found.examples}) == n
    for example in found.examples:
        assert (
            "e" not in example.answer
            and score(f"#### {example.answer}", example.answer, task.tolerance_at(example.answer)).correct
        )


@REAL
def test_hub_forms_of_the_published_files_are_the_registered_ones(hub: Callable[..., Any]) -> None:
    """The hub's fields and splits, made of the published rows by the shipped lists, in another order."""
    mixed = random.Random(3)
    for name, small in (("svamp", "svamp_300"), ("multiarith", "multiarith_180")):
        rows = [json.loads(line) for line in (Path(REAL_DATA) / name / "test.jsonl").read_text().splitlines()]
        wanted = read_selection(load_task(small).path.parent / f"{small}.txt")
        splits: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
        for i, row in enumerate(rows):
            digest = question_hash(row["input"])
            split = "test" if wanted[digest] > 0 else "train"
            wanted[digest] -= 1
            if name == "multiarith":
                splits[split].append({"question": f" {row['input']} ", "final_ans": str(int(row["target"]))})
                continue
            body, _, question = row["input"].rpartition(". ")
            body = (
                body if i % 2 and not body.endswith(".") else f"{body}."
            )  # some of the hub's Bodies end with a full stop, one with two
            splits[split].append(
                {"ID": f"chal-{i + 1}", "Body": body, "Question": question, "Answer": str(row["target"]), "Type": "x"}
            )
        for part in splits.values():
            mixed.shuffle(part)
        hub(splits)
        assert [evaluation_data(load_task(n)).registered for n in (name, small)] == [True, True]


@REAL
def test_facts_of_the_published_files() -> None:
    hard = evaluation_data(load_task("gsm_hard"), data=Path(REAL_DATA)).examples
    values = [v for e in hard if (v := parse_number(e.answer)) is not None]
    assert len(values) == 1319 and sum(v.denominator > 1 for v in values) == 303
    assert (sum(v < 0 for v in values), sum(abs(v) > 10**6 for v in values)) == (146, 779)
    assert sum(0 < abs(v) < Fraction(1, 1000) for v in values) == 31
    small = evaluation_data(load_task("multiarith_180"), data=Path(REAL_DATA)).examples
    assert len({e.question for e in small}) == 178
    plain, held = (training_data(load_task("gsm8k"), data=Path(REAL_DATA))[i].examples for i in (0, 1))
    assert overlap([*plain, *held], hard) == 0
    rows = evaluation_data(load_task("gsm8k_aug"), files={"test": Path(REAL_DATA) / "gsm8k_aug" / "valid.txt"})
    assert len(rows.examples) == 500 and sum(not e.steps for e in rows.examples) == 6
