"""lm-eval's tasks as tasks to train on: offline, from a YAML of lm-eval's own form over files on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rim_bench.data.datasets import evaluation_data, training_data
from rim_bench.data.task import load_task
from rim_bench.evaluate.lm_eval_rows import converted_task
from rim_bench.runs.options import Options
from rim_bench.runs.study import study_setting
from rim_bench.util.errors import UsageError

ROWS = [{"q": f"What is {k} plus 1?", "c": [str(k), str(k + 1)], "a": 1, "s": f"think\n#### {k + 1}"} for k in range(8)]
CHOICE = """output_type: multiple_choice
doc_to_text: "Question: {{q}}\\nAnswer:"
doc_to_choice: "{{c}}"
doc_to_target: a
metric_list: [{metric: acc}]
"""
GENERATE = """output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: "{{s}}"
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RIM_BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RIM_BENCH_DATA", str(tmp_path))  # of published files: not where these rows are
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def lm_eval_task(
    folder: Path, form: str = CHOICE, rows: list[dict[str, Any]] = ROWS, splits: str = "train test", more: str = ""
) -> str:
    """`lm-eval:FILE` of a task over files; its splits share the rows in their order."""
    names = splits.split()
    for i, split in enumerate(names):
        part = rows[i :: len(names)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    files = ", ".join(f"{split}: {folder / split}.jsonl" for split in names)
    text = f"task: toy_sums\ndataset_path: json\ndataset_kwargs: {{data_files: {{{files}}}}}\n{form}{more}"
    kinds = {"train": "training", "validation": "validation", "test": "test"}
    text += "".join(f"{kinds[split]}_split: {split}\n" for split in names)
    (folder / "toy.yaml").write_text(text + "metadata: {version: 3}\n")
    return f"lm-eval:{folder / 'toy.yaml'}"


def test_multiple_choice_is_trained_on_and_tested(tmp_path: Path) -> None:
    name = lm_eval_task(tmp_path, splits="train validation test")
    task = load_task(str(path := converted_task(name)))
    assert task.form == "choice" and task.name == "lm-eval.toy_sums" and task.title == "lm-eval:toy_sums"
    train, held = training_data(task)
    assert [e.question for e in train.examples][:1] == ["Question: What is 0 plus 1?\nAnswer:"]
    assert [(e.answer, e.choices) for e in held.examples][:1] == [("2", ("1", "2"))]
    assert [e.answer for e in evaluation_data(task).examples] == ["3", "6"]
    assert converted_task(name) == path  # the same documents are the same task
    rows = [{**row, "a": 0} for row in ROWS]
    assert converted_task(lm_eval_task(tmp_path, rows=rows, splits="train validation test")) != path


def test_a_generated_answer_stands_behind_its_mark(tmp_path: Path) -> None:
    task = load_task(str(converted_task(lm_eval_task(tmp_path, GENERATE))))
    train, held = training_data(task)
    first = next(e for e in (*train.examples, *held.examples) if e.question == "What is 0 plus 1?")
    assert task.form == "generate" and (first.steps, first.answer) == (("think",), "1")


def test_a_study_takes_its_name(tmp_path: Path) -> None:
    options = Options(methods=("direct",), task=lm_eval_task(tmp_path), model="tiny", device="cpu", data=tmp_path)
    study = study_setting(options)
    assert study.task.name == "lm-eval.toy_sums" and len(study.data[0].examples) == 3
    assert study.options.task.endswith(".yaml")


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"splits": "test"}, "has no training documents in lm-eval: train on another task"),
        ({"rows": [*ROWS[:2], {**ROWS[2], "a": 5}, *ROWS[3:]]}, "train document 1: its right choice is 5, .* 0 to 1"),
        ({"form": CHOICE.replace("multiple_choice", "loglikelihood")}, "asks for loglikelihood"),
    ],
)
def test_what_cannot_be_trained_on_is_one_sentence(tmp_path: Path, given: Any, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        converted_task(lm_eval_task(tmp_path, **given))
    assert not (tmp_path / "home").exists()


def test_a_data_set_that_cannot_be_had_is_one_sentence(tmp_path: Path) -> None:
    name = lm_eval_task(tmp_path)
    file = tmp_path / "toy.yaml"
    file.write_text(file.read_text().replace("dataset_path: json", "dataset_path: nobody/nothing"))
    with pytest.raises(UsageError, match=f"^--task {name}: lm-eval could not load it"):
        converted_task(name)
