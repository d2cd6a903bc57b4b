"""The task YAMLs under lm-eval itself: offline, from another working directory, with a model that is a table of
answers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from user_task import user_task
from wrong_answers import wrong_answers

from rim_bench.data import answers
from rim_bench.data.datasets import evaluation_data, training_data
from rim_bench.data.reader import Split, TaskReader
from rim_bench.data.task import Task, load_task, task_names
from rim_bench.tasks import lm
from rim_bench.util.errors import UsageError

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.api.model import LM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

REAL_DATA = os.environ.get("RIM_BENCH_DATA", "")


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("DATA", "STEPS", "LIMIT", "TRAIN", "VALIDATION", "TEST", "ALLOW_CHANGED"):
        monkeypatch.delenv(f"RIM_BENCH_{name}", raising=False)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


class Answering(LM):
    """Answers a context by a function and keeps what it was asked."""

    def __init__(self, reply: Callable[[str], str]) -> None:
        super().__init__()
        self.reply = reply
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        self.asked += [request.args for request in requests]
        return [self.reply(request.args[0]) for request in requests]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError


def evaluate(task: Task, model: LM, **options: Any) -> dict[str, Any]:
    manager = TaskManager(
        include_path=str(task.path.parent), include_defaults=False, metadata=options.pop("metadata", None)
    )
    assert task.lm_eval_name in manager.all_tasks
    found: dict[str, Any] = lm_eval.simple_evaluate(
        model=model, tasks=[task.lm_eval_name], task_manager=manager, bootstrap_iters=0, log_samples=True, **options
    )
    return found


def metrics(found: dict[str, Any], task: Task) -> dict[str, float]:
    return {
        k.split(",")[0]: float(v)
        for k, v in found["results"][task.lm_eval_name].items()
        if k.endswith(",none") and "stderr" not in k
    }


def write_gsm8k(folder: Path) -> Path:
    for name, numbers in (("train", range(20)), ("test", range(50, 56))):
        rows = [
            {"question": f"What is {i}+1?", "answer": f"It is <<{i}+1={i + 1}>>{i + 1}.\n#### {i + 1}"} for i in numbers
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_gsm8k_asks_the_question_alone_and_scores_every_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIM_BENCH_DATA", str(write_gsm8k(tmp_path)))
    task = load_task("gsm8k")
    with pytest.raises(
        UsageError,
        match=r"6 questions .registered: 1,319., sha256 [0-9a-f]{12} instead of 52dadbf83dc8.*--allow-changed",
    ):
        evaluate(task, Answering(lambda context: ""))
    monkeypatch.setenv("RIM_BENCH_ALLOW_CHANGED", "1")
    test = evaluation_data(task, allow_changed=True)
    assert test.registered is False and "6 questions (registered: 1,319)" in test.notes[0]
    replies = dict(
        zip(
            (e.question for e in test.examples),
            ["#### 51", "#### 52.0", "The answer is 53.", "", "#### 9", "#### $56"],
            strict=True,
        )
    )
    model = Answering(lambda context: replies[context])
    found = evaluate(task, model)
    assert [context for context, _ in model.asked] == [e.question for e in test.examples]
    assert all(
        options["max_gen_toks"] == 128 and options["until"] == ["\n\n"] and not options["do_sample"]
        for _, options in model.asked
    )
    sixth = pytest.approx(1 / 6)
    assert metrics(found, task) == {
        "accuracy": pytest.approx(3 / 6),
        "flexible": pytest.approx(4 / 6),
        "strict_match": sixth,
        "flexible_extract": pytest.approx(3 / 6),
        "unparseable": sixth,
        "empty": sixth,
    }
    samples = found["samples"]["rimbench_gsm8k"]
    assert [s["doc"]["id"] for s in samples] == [e.id for e in test.examples]
    assert [s["target"] for s in samples] == [e.answer for e in test.examples]
    assert found["versions"]["rimbench_gsm8k"] == task.version


def test_few_shot_examples_show_steps_and_answer_from_training(tmp_path: Path) -> None:
    task = load_task("gsm8k")
    metadata = task.lm_eval_metadata(write_gsm8k(tmp_path), limit=4, allow_changed=True)
    model = Answering(lambda _: "#### 1")
    evaluate(task, model, num_fewshot=2, metadata=metadata)
    train = training_data(task, data=tmp_path, limit=4, allow_changed=True)[0]
    shown = {"\n".join([e.question, *e.steps, f"#### {e.answer}"]) for e in train.examples}
    assert len(model.asked) == 4  # the limit
    for context, _ in model.asked:
        first, second, question = context.split("\n\n")
        assert {first, second} <= shown and question.startswith("What is 5")


def test_chain_is_solved_by_its_own_targets_and_has_levels(tmp_path: Path) -> None:
    task = load_task("chain")
    solutions = {
        e.question: "\n".join([*e.steps, f"#### {e.answer}"]) for e in evaluation_data(task, limit=50).examples
    }
    found = evaluate(task, Answering(solutions.__getitem__), metadata=task.lm_eval_metadata(limit=50))
    got = metrics(found, task)
    assert got["accuracy"] == got["flexible"] == got["strict_match"] == 1 and got["unparseable"] == got["empty"] == 0
    assert {s["doc"]["level"] for s in found["samples"]["rimbench_chain"]} == {f"T={i}" for i in range(1, 6)}


@pytest.mark.parametrize("name", ["chain", "prosqa_ood", "multiplication"])
def test_only_few_training_examples_are_generated_for_an_evaluation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """17,886 graphs take half a minute, and few-shot prompts need two of them."""
    task, made = load_task(name), TaskReader.generate
    asked: list[tuple[str, int | None]] = []

    def generate(reader: TaskReader, split: Any, seed: int, limit: int | None) -> Split:
        asked.append((split, limit))
        return made(reader, split, seed, min(limit or 8, 8))

    monkeypatch.setattr(TaskReader, "generate", generate)
    splits = lm.load(config_source=str(task.path))
    assert set(asked) >= {("train", 200), ("test", None), ("validation", None)} and ("train", None) not in asked
    assert {k: len(v) for k, v in splits.items()} == {"train": 8, "validation": 8, "test": 8}


def test_an_evaluation_only_set_is_scored_by_its_stated_tolerance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = (1e10, 3.5e-07, 2.5, 2.5, 7.0)
    rows = [{"input": f"Case {i}?", "code": "", "target": target} for i, target in enumerate(targets)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("RIM_BENCH_DATA", str(tmp_path))
    monkeypatch.setenv("RIM_BENCH_ALLOW_CHANGED", "1")
    task = load_task("gsm_hard")
    replies = ("#### 10,000,000,000", "#### 0", "#### 2.5009", "#### 2.502", "#### 8")
    found = evaluate(task, Answering(lambda context: replies[int(context[5])]))
    right = {s["doc"]["question"][5]: s["accuracy"] for s in found["samples"]["rimbench_gsm_hard"]}
    assert right == {"0": 1, "1": 0, "2": 1, "3": 0, "4": 0}


def test_json_reads_files_named_by_the_environment_without_training_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(
        json.dumps(
            [{"question": "Who?", "answer": "Tom is a lempus."}, {"question": "How many {{x}}?", "answer": 1234}]
        )
    )
    monkeypatch.setenv("RIM_BENCH_TEST", str(path))
    task = load_task("json")
    model = Answering(lambda context: "#### tom is a lempus" if context == "Who?" else "#### 1,234")
    assert metrics(evaluate(task, model), task)["accuracy"] == 1
    assert [context for context, _ in model.asked] == ["Who?", "How many {{x}}?"]
    with pytest.raises(
        AssertionError, match="no documents available"
    ):  # lm-eval's own: there are no training rows to show
        evaluate(task, model, num_fewshot=1)


def test_lm_eval_reads_every_form_and_takes_no_wrong_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval's registered tasks and our own evaluation have one scorer: what one reads, the other does."""
    forms = {"9{,}500": "9500", "\\boxed{18}": "18", "1\u00a0234": "1234", "1 1/2": "3/2", "x = 5": "5", "5 cm²": "5"}
    for w in wrong_answers():
        scored = lm.score({"answer": w.reference, "tolerance": 0.0, "kind": "number"}, [w.output])
        ours = answers.score(w.output, w.reference)
        assert (scored["accuracy"], scored["flexible"]) == (0, ours.flexible), w
    wrong = [w for w in wrong_answers()[::10] if answers.kind_of(w.reference, "auto") == "number"]
    cases = [(f"#### {form}", reference) for form, reference in forms.items()]
    cases += [(w.output, w.reference) for w in wrong]
    rows = [{"question": f"Case {i}", "answer": reference} for i, (_, reference) in enumerate(cases)]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    monkeypatch.setenv("RIM_BENCH_TEST", str(tmp_path / "mine.json"))
    task = load_task("json")
    found = evaluate(task, Answering(lambda context: cases[int(context.split()[1])][0]))
    right = {int(s["doc"]["question"].split()[1]): s["accuracy"] for s in found["samples"]["rimbench_json"]}
    assert [right[i] for i in range(len(cases))] == [1] * len(forms) + [0] * len(wrong)


def test_lm_eval_refuses_the_rows_that_we_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, path = load_task("json"), tmp_path / "mine.jsonl"
    monkeypatch.setenv("RIM_BENCH_TEST", str(path))
    for row in ('{"question": "a", "answer": "#### 3"}', '{"question": "a", "answer": 1, "answer": 2}'):
        path.write_text(row + "\n")
        with pytest.raises(UsageError, match=r"mine\.jsonl, line 1: "):
            evaluate(task, Answering(lambda _: ""))


def test_every_shipped_task_is_scored_by_the_one_scorer() -> None:
    for name in task_names():
        text = load_task(name).path.read_text("utf-8")
        scorer = "choose" if load_task(name).form == "choice" else "score"
        included = f"include: {'choices' if scorer == 'choose' else 'word_problems'}.base" in text
        assert included or f"process_results: !function rim_bench.tasks.lm.{scorer}\n" in text, name
    for base, scorer in (("word_problems", "score"), ("choices", "choose")):
        text = (load_task("gsm8k").path.parent / f"{base}.base").read_text("utf-8")
        assert f"process_results: !function rim_bench.tasks.lm.{scorer}\n" in text


def test_a_users_task_file_runs_from_its_own_folder(tmp_path: Path) -> None:
    task = load_task(str(user_task(tmp_path)))
    model = Answering(lambda context: f"#### {int(context.split()[0]) + 1}")
    assert metrics(evaluate(task, model), task)["accuracy"] == 1
    assert [context for context, _ in model.asked] == ["10 birds. And 1?", "11 birds. And 1?"]


def test_every_shipped_task_is_known_to_lm_eval_and_declares_what_the_scorer_returns() -> None:
    folder = str(load_task("chain").path.parent)
    names = {load_task(name).lm_eval_name for name in task_names()}
    assert names <= set(TaskManager(include_path=folder, include_defaults=False).all_tasks)
    doc = {"answer": "5", "tolerance": 0.0, "kind": "number"}
    assert lm.score(doc, ["#### 5"]) == {
        "accuracy": 1.0,
        "flexible": 1.0,
        "strict_match": 1.0,
        "flexible_extract": 1.0,
        "unparseable": 0.0,
        "empty": 0.0,
    }


@pytest.mark.skipif(not REAL_DATA, reason="RIM_BENCH_DATA is not set: the published files are not at hand")
def test_the_published_test_set_is_answered_perfectly_by_its_own_solutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIM_BENCH_DATA", REAL_DATA)
    task = load_task("gsm8k")
    solutions = {e.question: "\n".join([*e.steps, f"#### {e.answer}"]) for e in evaluation_data(task).examples}
    found = evaluate(task, Answering(solutions.__getitem__))
    assert found["n-samples"]["rimbench_gsm8k"]["effective"] == 1319
    got = metrics(found, task)
    assert got["accuracy"] == got["flexible"] == got["strict_match"] == got["flexible_extract"] == 1
