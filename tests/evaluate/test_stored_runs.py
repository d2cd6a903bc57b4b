"""One run on many sets: planned before training, resumable, nothing left out in silence; lm-eval's tasks by name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fabricated import train
from lm_eval.tasks import TaskManager

from rim_bench.data.datasets import evaluation_data, training_data
from rim_bench.data.shortcuts import shortcut_scores
from rim_bench.data.suites import Suite
from rim_bench.data.task import load_task
from rim_bench.evaluate.lm_eval_tasks import LmEvalRequest, load_lm_eval_tasks
from rim_bench.evaluate.options import EvaluationSets
from rim_bench.evaluate.shortcuts import measured_shortcuts
from rim_bench.evaluate.stored_runs import EvaluationPlan, LoadedRun, evaluate_sets, plan_sets
from rim_bench.evaluate.vocabulary_check import CannotBeAsked, check_text, shown, shown_in_training, training_examples
from rim_bench.evidence.rows import read
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import plan_study
from rim_bench.runs.training import run_plan
from rim_bench.storage.questions import QuestionStore, asked
from rim_bench.storage.records import UnseenTextRecord
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError

Call = Callable[..., tuple[int, str, str]]
TINY = {"width": 32, "layers": 1, "max_positions": 64}
ROWS = 24


class Heard:
    """A reporter that keeps the notes and can stop after so many evaluations."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.notes: list[str] = []
        self.evaluated: list[str] = []
        self.stop_after = stop_after

    def note(self, text: str) -> None:
        self.notes.append(text)

    def training(self, run: str, progress: Any) -> None: ...

    def evaluating(self, run: str, done: int, total: int) -> None: ...

    def finished(self, run: str) -> None:
        self.evaluated.append(run)
        if len(self.evaluated) == self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No hub, no data folder, and none of lm-eval's 14,000 names (seconds each time)."""
    begin = TaskManager.__init__
    monkeypatch.setattr(
        TaskManager, "__init__", lambda self, *a, **k: begin(self, *a, **{**k, "include_defaults": False})
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("RIM_BENCH_DATA", raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    out = tmp_path_factory.mktemp("sets") / "results"
    return Options(
        methods=("direct", "rim"),
        task="chain",
        out=out,
        backbone=TINY,
        limit=ROWS,
        start="recipe",
        examples=320,
        quick=True,
        device="cpu",
    )


@pytest.fixture(scope="module")
def runs(options: Options) -> list[Run]:
    return run_plan(plan_study(options), Heard())


def test_the_texts_of_questions_are_stored_once_beside_the_runs(runs: list[Run], options: Options) -> None:
    (summary, *others) = {s.data_sha256: s for run in runs for s in run.evaluations().values()}.values()
    assert not others and [p.name for p in (Path(options.out) / "data").iterdir()] == [
        f"{summary.data_sha256}.jsonl.gz"
    ]
    stored = QuestionStore(runs[0].results).read(summary.data_sha256)
    items = runs[0].read_items(next(iter(runs[0].evaluations())))
    assert [i.id for i in items] == list(stored) and all(asked(i, stored[i.id]) for i in items)
    assert [i.reference for i in items] == [record.reference for record in stored.values()]


def yaml_of(folder: Path, name: str, **changes: str) -> Path:
    """The embedded task under another name; `changes` replace the text of its YAML."""
    text = (Path(__file__).parents[2] / "tasks" / "chain.yaml").read_text()
    for old, new in ({"rimbench_chain": f"rimbench_{name}", "title: chain": f"title: {name}"} | changes).items():
        assert old in text
        text = text.replace(old, new)
    (folder / f"{name}.yaml").write_text(text)
    return folder / f"{name}.yaml"


# Our own sets


def test_shortcuts_are_fitted_once_for_all_runs_of_the_same_rows(runs: list[Run], options: Options) -> None:
    """They know the run's training rows, not the task's other ones, and none where these are gone."""
    task = load_task("chain")
    train, asked = training_data(task, limit=ROWS)[0], evaluation_data(task, limit=ROWS)
    wanted = shortcut_scores(task, asked, task, train)
    assert [e.shortcuts for r in runs for e in r.evaluations().values() if e.task == "chain"] == [wanted] * 2
    gate = load_task("chain_gate")
    other = evaluation_data(gate, limit=ROWS)
    assert measured_shortcuts(runs[0], gate, other, None, None) == shortcut_scores(gate, other, task, train)
    assert measured_shortcuts(runs[0], task, asked, None, None) is measured_shortcuts(runs[1], task, asked, None, None)
    changed = replace(runs[0].spec, task=replace(runs[0].spec.task, train_sha256="0" * 64))
    assert measured_shortcuts(SimpleNamespace(spec=changed), task, asked, None, None) == ()


def test_every_run_is_evaluated_on_every_set_but_its_own(runs: list[Run], options: Options, tmp_path: Path) -> None:
    deep = yaml_of(tmp_path, "deep", **{'test: ["T=1", "T=2", "T=3", "T=4", "T=5"]': 'test: ["T=5"]'})
    heard = Heard()
    sets = plan_sets(EvaluationSets((), ("chain,chain_gate", str(deep), "gsm8k")), options, heard)
    assert [t.name for t in sets.tasks] == ["chain", "chain_gate", "deep"] and list(sets.missing) == ["gsm8k"]
    assert (
        len(heard.notes) == 1 and heard.notes[0].startswith("gsm8k will not be evaluated: ") and "hub" in heard.notes[0]
    )
    lines = evaluate_sets(runs, sets, options, heard)
    assert [line.split(": ")[0] for line in lines] == [r.id for r in runs for _ in range(2)]
    for run in runs:
        found = {s.task: s for s in run.evaluations().values()}
        assert set(found) == {"chain", "chain_gate", "deep"} and len(run.evaluations()) == 3
        assert not found["chain"].says("trained_on")
        assert (
            found["deep"].trained_on.name == "chain"
            and found["deep"].trained_on.train_sha256 == run.spec.task.train_sha256
        )
        assert found["deep"].unseen_text == UnseenTextRecord(questions=0, n=ROWS) and found["deep"].limit == ROWS
        assert list(run.not_evaluated()) == ["gsm8k"]
    files = {p: p.stat().st_mtime_ns for r in runs for p in r.path.rglob("summary.json")}
    again = Heard()
    assert evaluate_sets(runs, sets, options, again) == lines and not again.evaluated
    assert {p: p.stat().st_mtime_ns for p in files} == files


def test_a_repeat_is_asked_of_the_sets_too_and_is_no_row(runs: list[Run], options: Options, tmp_path: Path) -> None:
    sets = plan_sets(EvaluationSets((), (str(yaml_of(tmp_path, "twice")),)), options, Heard())
    lines = evaluate_sets(runs[:1], sets, options, Heard())
    assert (
        evaluate_sets(runs[:1], sets, replace(options, repeat=True), Heard()) == lines
    )  # the same answers in another order
    stored = [s for s in runs[0].evaluations().values() if s.task == "twice"]
    assert [s.repeat for s in stored].count(True) == 1 and len(stored) == 2
    assert sum(e.summary.task == "twice" for e in read(runs[:1])[0]) == 1


def test_what_was_interrupted_goes_on(runs: list[Run], options: Options, tmp_path: Path) -> None:
    names = tuple(str(yaml_of(tmp_path, f"part{k}")) for k in range(3))
    sets = plan_sets(EvaluationSets((), names), options, Heard())
    stopped = Heard(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        evaluate_sets(runs[:1], sets, options, stopped)
    done = Heard()
    assert len(evaluate_sets(runs[:1], sets, options, done)) == 3
    assert [e.split(" on ")[1] for e in stopped.evaluated + done.evaluated] == ["part0", "part1", "part2"]


def test_a_suite_is_its_tasks(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rim_bench.data.suites.suites", lambda: {"gate": Suite("gate", "", ("chain_*",))})
    assert [t.name for t in plan_sets(EvaluationSets(("gate",), ()), options, Heard()).tasks] == ["chain_gate"]


def test_questions_of_ones_own_test_set_are_not_asked_twice(tmp_path: Path, options: Options) -> None:
    """gsm8k_aug is tested on gsm8k's test set; their validation sets are two."""
    for name, other in (("gsm8k", "gsm8k_aug"), ("gsm8k_aug", "gsm8k")):
        run = train(Store(tmp_path / name), "direct", spec={"task": {"name": name, "version": 1, "steps": "equations"}})
        twin = EvaluationPlan((load_task(other),), (), {other: "not there"}, False)
        assert evaluate_sets([run], twin, options, Heard()) == []
        with pytest.raises(UsageError):  # it is asked, and there is no model
            evaluate_sets([run], twin, replace(options, split="validation"), Heard())


def test_strict_refuses_before_anything_is_done(options: Options) -> None:
    with pytest.raises(UsageError, match="not every set can be evaluated: gsm8k: "):
        plan_sets(EvaluationSets((), ("chain_gate", "gsm8k"), strict=True), options, Heard())


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A set in other words, under a YAML of its own."""
    rows = [
        {"question": f"Zoé has {k} apples and buys two more. How many has she?", "answer": str(k + 2)} for k in range(8)
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = (Path(__file__).parents[2] / "tasks" / "json.yaml").read_text()
    (tmp_path / "words.yaml").write_text(
        source.replace("rimbench_json", "rimbench_words").replace("title: json", "title: words")
    )
    return tmp_path / "words.yaml"


def test_text_that_a_tokenizer_never_saw_is_refused_in_a_sentence(
    runs: list[Run], options: Options, words: Path, call: Call
) -> None:
    heard = Heard()
    sets = plan_sets(EvaluationSets((), (str(words),)), options, heard)
    assert evaluate_sets(runs[:1], sets, options, heard) == []
    assert (
        len(heard.notes) == 1
        and "words cannot be asked of a run trained from scratch on chain: 8 of 8 questions" in heard.notes[0]
    )
    assert "cannot be asked" in runs[0].not_evaluated()["words"].text()
    code, out, err = call("eval", runs[0].id, "--out", options.out, "--task", words, "--device", "cpu")
    assert (
        code == 2
        and out == ""
        and len(err.splitlines()) == 1
        and "cannot be asked of a run trained from scratch on chain" in err
    )
    with pytest.raises(CannotBeAsked):
        evaluate_sets(
            runs[:1], plan_sets(EvaluationSets((), (str(words),), strict=True), options, heard), options, heard
        )


def test_little_unseen_text_is_counted(runs: list[Run], options: Options) -> None:
    subject = LoadedRun(runs[0], "cpu", None)
    examples = training_examples(runs[0].spec, None) or ()
    encode = subject.trained.backbone.encode_question
    plain = [(str(k), encode(e.question)) for k, e in enumerate(examples)]
    known = shown_in_training(subject.trained.backbone, runs[0].spec, None)
    assert len(plain) == ROWS and known is not None and known == shown(subject.trained.backbone, examples)
    odd = [("odd", encode("Zoé?"))] * len(plain)
    assert check_text(subject.trained.backbone, known, [*plain, *odd], "chain", "x").to_json() == {
        "questions": ROWS,
        "n": 2 * ROWS,
    }
    with pytest.raises(CannotBeAsked, match=r"25 of 49 questions"):
        check_text(subject.trained.backbone, known, [*plain, *odd, odd[0]], "chain", "x")
    assert check_text(subject.trained.backbone, None, odd, "chain", "x").to_json() == {"questions": None, "n": ROWS}
    changed = replace(runs[0].spec, task=replace(runs[0].spec.task, train_sha256="0" * 64))
    assert training_examples(changed, None) is None


# lm-eval's tasks

ROWS_PY = """
import datasets
from rim_bench.data.datasets import evaluation_data, load_task
def load(**_):
    found = evaluation_data(load_task("chain"), limit=6).examples
    rows = [dict(question=e.question, answer="#### " + e.answer, choices=[str(d) for d in range(10)]) for e in found]
    return {"test": datasets.Dataset.from_list(rows), "train": datasets.Dataset.from_list(rows)}
def broken(doc, results):
    return {"acc": 1 / 0}
"""
OUTPUTS = {
    "own_choice": 'output_type: multiple_choice\ndoc_to_target: "{{answer[5:]}}"\ndoc_to_choice: "{{choices}}"\n'
    "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]",
    "own_text": "output_type: generate_until\n"
    'doc_to_target: "{{answer}}"\ngeneration_kwargs: {until: ["\\n\\n"], max_gen_toks: 8}\n'
    "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]",
    "own_likelihood": 'output_type: loglikelihood\ndoc_to_target: "{{answer}}"\n'
    "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]",
    "own_shots": 'output_type: generate_until\nfewshot_split: train\nnum_fewshot: 1\ndoc_to_target: "{{answer}}"\n'
    'generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 8}\n'
    "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]",
    "own_rolling": "output_type: loglikelihood_rolling\n"
    'doc_to_target: "{{question}}"\nmetric_list: [{metric: word_perplexity}]',
    "own_sampled": "output_type: generate_until\n"
    'doc_to_target: "{{answer}}"\ngeneration_kwargs: {do_sample: true, temperature: 0.5}\n'
    "metric_list: [{metric: exact_match}]",
    "own_broken": "output_type: generate_until\n"
    'doc_to_target: "{{answer}}"\nprocess_results: !function own_rows.broken\n'
    "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]",
    "own_lost": "include: nowhere/at_all.yaml",
}


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    (tmp_path / "own_rows.py").write_text(ROWS_PY)
    for name, text in OUTPUTS.items():
        head = (
            f"task: {name}\ncustom_dataset: !function own_rows.load\ntest_split: test\ndoc_to_text: "
            f'"{{{{question}}}}"\n'
        )
        (tmp_path / f"{name}.yaml").write_text(head + text + "\nmetadata: {version: 3}\n")
    return tmp_path


def plan(options: Options, folder: Path, *names: str, heard: Heard | None = None) -> Any:
    return plan_sets(EvaluationSets((), names, folder), options, heard or Heard())


def test_a_repeat_of_lm_evals_own_tasks_is_refused(runs: list[Run], options: Options, theirs: Path) -> None:
    with pytest.raises(UsageError, match="lm-eval orders the documents of 'own_choice' itself"):
        evaluate_sets(runs, plan(options, theirs, "own_choice"), replace(options, repeat=True), Heard())


def test_lm_evals_tasks_are_stored_with_their_metrics_and_hashes(
    runs: list[Run], options: Options, theirs: Path
) -> None:
    sets = plan(options, theirs, "own_choice,own_text", "own_likelihood")
    before = [set(r.evaluations()) for r in runs]
    lines = evaluate_sets(runs, sets, options, Heard())
    assert len(lines) == 6 and all("lm-eval's own scorers" in line for line in lines)
    assert [set(r.evaluations()) for r in runs] == before  # they are no rows of the comparison
    for run in runs:
        stored = run.lm_eval_evaluations.all()
        assert {s.task for s in stored.values()} == {"own_choice", "own_text", "own_likelihood"}
        for key, summary in stored.items():
            items = run.lm_eval_evaluations.items(key)
            assert summary.documents == len(items) == 6 and summary.task_version == "3" and summary.num_fewshot == 0
            assert (
                len({i.doc_hash for i in items}) == 6 and summary.weights_sha256 and summary.trained_on.name == "chain"
            )
            (metric,) = summary.metrics
            assert summary.metrics[metric] == pytest.approx(sum(i.metrics[metric.split(",")[0]] for i in items) / 6)
            assert metric in summary.stderr and summary.higher_is_better[metric.split(",")[0]] is True
            assert items[0].says("generated") == (summary.task == "own_text")
    hashes = [{i.doc_hash for i in r.lm_eval_evaluations.items(next(iter(r.lm_eval_evaluations.all())))} for r in runs]
    assert hashes[0] == hashes[1]
    again = Heard()
    assert evaluate_sets(runs, sets, options, again) == lines and not again.evaluated


def test_choices_are_those_of_our_own_scores(runs: list[Run], options: Options, theirs: Path) -> None:
    """lm-eval's accuracy is that of the likeliest choice, which the stored likelihoods say again."""
    (one,) = plan(options, theirs, "own_choice").lm_eval_tasks
    evaluate_sets(runs[:1], plan(options, theirs, "own_choice"), options, Heard())
    request = LmEvalRequest(one, ROWS, quick=True)
    summary, items = request.stored(runs[0]), runs[0].lm_eval_evaluations.items(request.key())
    assert summary is not None
    right = [max(range(10), key=lambda k, i=i: i.outputs[k][0]) == int(i.target) for i in items]  # type: ignore[misc]
    assert summary.metrics["acc,none"] == pytest.approx(sum(right) / 6)


def test_a_key_knows_documents_limit_effort_and_prompt(options: Options, theirs: Path) -> None:
    (one,) = plan(options, theirs, "own_text").lm_eval_tasks
    keys = {
        LmEvalRequest(one, **given).key()
        for given in ({}, {"limit": 3}, {"effort": 2}, {"max_tokens": 9}, {"device": "cuda"})
    }  # type: ignore[arg-type]
    assert (
        len(keys) == 5
        and LmEvalRequest(one).key() == LmEvalRequest(plan(options, theirs, "own_text").lm_eval_tasks[0]).key()
    )
    for old, new in (("limit=6", "limit=5"), ("#### ", "####")):
        (theirs / "own_rows.py").write_text(ROWS_PY.replace(old, new))
        keys.add(LmEvalRequest(plan(options, theirs, "own_text").lm_eval_tasks[0]).key())
    (theirs / "own_text.yaml").write_text(
        (theirs / "own_text.yaml").read_text().replace("{{question}}", "Q: {{question}}")
    )
    keys.add(LmEvalRequest(plan(options, theirs, "own_text").lm_eval_tasks[0]).key())
    assert len(keys) == 8


def test_weights_that_were_replaced_are_evaluated_again(runs: list[Run], options: Options, theirs: Path) -> None:
    sets = plan(options, theirs, "own_likelihood")
    evaluate_sets(runs[:1], sets, options, Heard())
    request = LmEvalRequest(sets.lm_eval_tasks[0], ROWS, quick=True)
    results, key = runs[0].lm_eval_evaluations, request.key()
    stored = request.stored(runs[0])
    assert stored is not None
    results.write(key, results.items(key), stored.without("items") | {"weights_sha256": "0"})
    assert request.stored(runs[0]) is None


def test_few_shot_examples_are_the_same_for_every_run_and_noted(
    runs: list[Run], options: Options, theirs: Path
) -> None:
    evaluate_sets(runs, plan(options, theirs, "own_shots"), options, Heard())
    prompts = []
    for run in runs:
        ((key, summary),) = [(k, s) for k, s in run.lm_eval_evaluations.all().items() if s.task == "own_shots"]
        prompts.append([i.prompt_hash for i in run.lm_eval_evaluations.items(key)])
        assert summary.num_fewshot == 1 and any("prompt differs from training" in n for n in summary.notes)
    assert prompts[0] == prompts[1]


def test_what_cannot_be_served_is_said_with_the_reason(runs: list[Run], options: Options, theirs: Path) -> None:
    heard = Heard()
    sets = plan(options, theirs, "own_rolling,own_sampled,own_broken", heard=heard)
    assert [t.name for t in sets.lm_eval_tasks] == ["own_broken"] and len(heard.notes) == 2
    assert (
        "loglikelihood_rolling" in sets.missing["lm-eval:own_rolling"]
        and "samples" in sets.missing["lm-eval:own_sampled"]
    )
    assert evaluate_sets(runs[:1], sets, options, heard) == []
    assert "ZeroDivisionError" in runs[0].not_evaluated()["lm-eval:own_broken"].text() and "division" in heard.notes[-1]
    with pytest.raises(UsageError, match=r"unknown task 'own_lost'.*include:.*is not found"):
        plan(options, theirs, "own_lost")
    with pytest.raises(UsageError, match=r"unknown task 'own_tex'.*did you mean 'own_text'"):
        plan(options, theirs, "own_tex")
    with pytest.raises(UsageError, match="is not a folder"):
        load_lm_eval_tasks(["x"], theirs / "nowhere")
    with pytest.raises(UsageError, match="leave out --split validation"):
        plan_sets(EvaluationSets((), ("own_text",), theirs), replace(options, split="validation"), heard)
    with pytest.raises(UsageError, match="--include-path is for lm-eval tasks"):
        plan_sets(EvaluationSets((), ("chain",), theirs), options, heard)


def test_the_state_of_the_process_is_left_alone(runs: list[Run], options: Options, theirs: Path) -> None:
    import random

    state, variable = random.getstate(), os.environ.get("DISABLE_MULTIPROC")
    evaluate_sets(runs[1:], plan(options, theirs, "own_shots", "own_choice"), replace(options, effort=1), Heard())
    assert random.getstate() == state and os.environ.get("DISABLE_MULTIPROC") == variable
    assert {s.effort for s in runs[1].lm_eval_evaluations.all().values()} >= {1}


# The command line


def test_the_commands(call: Call, runs: list[Run], options: Options, theirs: Path) -> None:
    shared = ("--out", options.out, "--device", "cpu", "--limit", "6")
    sets = ("--eval-tasks", "chain_gate,gsm8k", "--eval-tasks", "own_text", "--include-path", theirs)
    code, out, err = call("eval", runs[0].id, *shared, *sets)
    assert (
        code == 0
        and "chain-gate, test" in err
        and "own_text, lm-eval's own scorers" in err
        and "gsm8k will not be evaluated" in err
    )
    small = (
        "--backbone",
        "width=32",
        "--backbone",
        "layers=1",
        "--backbone",
        "max_positions=64",
        "--start",
        "recipe",
        "--examples",
        "320",
    )
    code, out, err = call("run", "--methods", "direct", *small, "--quick", "--limit", ROWS, *shared[:4], *sets)
    assert code == 0 and "trained already" in err, err
    assert "All sets side by side" in out and "lm-eval tasks" in out and "gsm8k: asked for and not evaluated" in out
    for words_, message in (
        (("--strict-sets",), "give one of those too"),
        (("--eval-tasks", "chain_gate,gsm8k", "--strict-sets"), "not every set can be evaluated: gsm8k"),
        (("--suite", "gsm-odd"), "did you mean 'gsm-ood'"),
        (("--eval-tasks", "own_tex", "--include-path", theirs), "did you mean 'own_text'"),
    ):
        code, out, err = call("eval", runs[0].id, *shared, *words_)
        assert code == 2 and out == "" and err.count("error: ") == 1 and message in err.replace("\n", " ")
