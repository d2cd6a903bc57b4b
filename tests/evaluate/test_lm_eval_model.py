"""Trained runs under lm-eval: the same answers as our own decoder, complete records, honest counts.

One small training for all tests.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import lm_eval.evaluator
import numpy as np
import pytest
import torch
from light_lm_eval import light  # noqa: F401 - the fixture is used by being there
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager
from small_runs import Heard

from rim_bench.data.task import load_task
from rim_bench.engine.generate import decode
from rim_bench.engine.packing import PackedModel
from rim_bench.engine.trained_model import TrainedModel, load_trained
from rim_bench.evaluate import evaluation, latency
from rim_bench.evaluate.evaluation import EvaluationRequest, evaluate, evaluate_run
from rim_bench.evaluate.lm_eval_model import NAME, PROMPT_DIFFERS, RimLM, lm_eval_main, register
from rim_bench.evaluate.predict import answer_token, cut
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import plan_study
from rim_bench.runs.study import study_setting
from rim_bench.runs.training import evaluation_request, run_plan
from rim_bench.storage.records import BlockRecord, ItemRecord
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError

ROWS = 24
POSITIONS = 96
METHODS = ("direct", "coconut", "rim")
RECORD = {
    "id",
    "task",
    "level",
    "ood",
    "prompt_hash",
    "reference",
    "output",
    "answer",
    "correct",
    "strict",
    "flexible",
    "lm_eval_strict",
    "lm_eval_flexible",
    "unparseable",
    "empty",
    "capped",
    "overlong",
    "prompt_tokens",
    "generated_tokens",
    "latent_positions",
    "passes",
    "passes_to_answer",
    "flops_prefill",
    "flops_decode",
    "flops_executed",
    "kv_bytes",
    "latency_s",
    "batch_s",
    "batch_size",
}
TIMES = {"latency_s", "batch_s", "batch_size", "flops_executed"}


@pytest.fixture(scope="session")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return Options(
        methods=METHODS,
        task="chain",
        out=tmp_path_factory.mktemp("lm") / "results",
        backbone={"width": 32, "layers": 2, "max_positions": POSITIONS},
        limit=ROWS,
        start="recipe",
        examples=32 * 40,
        device="cpu",
        quick=True,
    )


@pytest.fixture(scope="session")
def runs(options: Options) -> dict[str, Run]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {run.spec.method.name: run for run in run_plan(plan_study(options), Heard())}
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def trained(runs: dict[str, Run]) -> dict[str, TrainedModel]:
    return {name: load_trained(run) for name, run in runs.items()}


@pytest.fixture(scope="session")
def items(runs: dict[str, Run]) -> dict[str, list[ItemRecord]]:
    return {name: run.read_items(next(iter(run.evaluations()))) for name, run in runs.items()}


def manager(folder: Path | None = None) -> TaskManager:
    task = load_task("chain")
    return TaskManager(include_path=str(folder or task.path.parent), metadata=task.lm_eval_metadata(limit=ROWS))


def simple(model: Any, **options: Any) -> dict[str, Any]:
    options = {
        "tasks": ["rimbench_chain"],
        "task_manager": manager(),
        "bootstrap_iters": 0,
        "log_samples": True,
    } | options
    found: dict[str, Any] = lm_eval.evaluator.simple_evaluate(model=model, **options)
    return found


def asks(texts: list[str], **settings: Any) -> list[Instance]:
    """Generation requests of a task called `t`."""
    settings = {"until": [], "max_gen_toks": 40} | settings
    return [
        Instance("generate_until", {"question": t}, (t, settings), 0, metadata=("t", i, 1)) for i, t in enumerate(texts)
    ]


def responses(found: dict[str, Any]) -> list[str]:
    return [s["resps"][0][0] for s in sorted(found["samples"]["rimbench_chain"], key=lambda s: s["doc_id"])]


def questions(n: int = ROWS) -> list[str]:
    return [e.question for e in EvaluationRequest(load_task("chain"), limit=n).dataset().examples]


# Answers


def test_instance_and_registered_name_give_the_stored_answers(
    runs: dict[str, Run], trained: dict[str, TrainedModel], items: dict[str, list[ItemRecord]]
) -> None:
    stored = [item.output for item in items["rim"]]
    assert len(set(stored)) > 1  # a model that says one thing would test nothing
    assert responses(simple(RimLM(trained=trained["rim"]))) == stored
    register()
    register()  # twice does no harm
    path = runs["rim"].path
    by_name = simple(NAME, model_args={"path": str(path)}, device="cpu", batch_size="auto")
    by_id = simple(
        NAME, model_args=f"path={path.name},results={path.parents[1]},max_gen_toks=12", batch_size=5, device="cpu"
    )
    assert responses(by_name) == responses(by_id) == stored
    config = by_name["config"]
    assert config["rim_bench_method"]["name"] == "rim" and config["rim_bench_prompt_note"] is None
    accuracy = sum(item.correct for item in items["rim"]) / ROWS
    assert by_name["results"]["rimbench_chain"]["accuracy,none"] == pytest.approx(accuracy)


@pytest.mark.parametrize("name", METHODS)
def test_answers_are_those_of_decoding_one_question_alone(
    trained: dict[str, TrainedModel], items: dict[str, list[ItemRecord]], name: str
) -> None:
    one = trained[name]
    for question, item in zip(questions(), items[name], strict=True):
        layout = one.method.lay_prompt(one.backbone.encode_question(question))
        (done,) = decode(one.workspace, [layout], max_tokens=40)
        completion = done[layout.resume[0]]
        assert item.output == cut(one.backbone.decode(completion.tokens), ["\n\n"])
        if completion.ended and "\n\n" not in one.backbone.decode(completion.tokens):
            assert item.generated_tokens == completion.generated and item.passes == completion.passes


@pytest.mark.parametrize("name", METHODS)
def test_answers_do_not_depend_on_the_batch(trained: dict[str, TrainedModel], name: str) -> None:
    texts = [*questions(9), "7+", "a=1|ba+2|b?" * 4]  # ragged
    found = []
    for size in (1, 3, 64):
        lm = RimLM(trained=trained[name], batch_size=size, probe=True)
        out = lm.generate_until(asks(texts))
        costs = [{k: v for k, v in lm.records["t", i].cost.items() if k not in TIMES} for i in range(len(texts))]
        found.append((out, costs, [lm.records["t", i].blocks for i in range(len(texts))]))
    assert found[0] == found[1] == found[2]


def test_prompts_are_the_same_in_training_and_evaluation(
    trained: dict[str, TrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, fed = trained["coconut"], []
    forward = PackedModel.forward
    monkeypatch.setattr(PackedModel, "forward", lambda self, rows, **k: (fed.extend(rows), forward(self, rows, **k))[1])
    request = EvaluationRequest(load_task("chain"), limit=ROWS, max_tokens=2)
    evaluate(one, request)
    examples = [one.backbone.encode_example(e) for e in request.dataset().examples]
    last = one.method.stages()[-1]
    trained_on = {
        one.method.lay_train(e, last, 0.0, random.Random(0)).tokens[: len(e.question)]: e.question for e in examples
    }
    assert {row.segments[0].tokens for row in fed} == set(trained_on) == set(trained_on.values())


def test_until_cuts_inside_tokens_and_the_cap_counts(trained: dict[str, TrainedModel]) -> None:
    lm = RimLM(trained=trained["direct"])
    ask = questions(1)
    (full,) = lm.generate_until(asks(ask))
    tokens = lm.records["t", 0].cost["generated_tokens"]
    assert tokens > 2 and full.startswith("####")
    for until in ("##", "# ", full[3:6], full[-1], "not there"):
        assert lm.generate_until(asks(ask, until=["never", until])) == [full.split(until)[0]]
        assert lm.generate_until(asks(ask, until=until)) == [full.split(until)[0]]  # a bare string is one
    lm.generate_until(asks(ask, until=["##"]))
    stopped = lm.records["t", 0].cost
    assert stopped["generated_tokens"] < tokens and not stopped["capped"]  # it did not go on behind the stop string
    (short,) = lm.generate_until(asks(ask, max_gen_toks=2))
    capped = lm.records["t", 0].cost
    assert capped["generated_tokens"] == 2 and capped["capped"] and full.startswith(short)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"do_sample": True}, "greedily"),
        ({"temperature": 0.7}, "greedily"),
        ({"num_beams": 4}, "greedily"),
        ({"max_gen_toks": 0}, "max_gen_toks"),
    ],
)
def test_what_is_not_greedy_is_refused(trained: dict[str, TrainedModel], settings: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        RimLM(trained=trained["direct"]).generate_until(asks(["1+1"], **settings))


@pytest.mark.parametrize(
    "given",
    [
        {"effort": 2},
        {"batch_size": 0},
        {"batch_size": "many"},
        {"max_gen_toks": -1},
        {"max_batch_size": 0},
        {"pretrained": "gpt2"},
    ],
)
def test_options_that_do_not_fit_are_refused(trained: dict[str, TrainedModel], given: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        RimLM(trained=trained["direct"], **given)


def test_a_run_is_needed_and_a_response_cache_is_refused(trained: dict[str, TrainedModel], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="path=RUN"):
        RimLM()
    with pytest.raises(UsageError, match="not keyed by the weights"):
        simple(RimLM(trained=trained["direct"]), use_cache=str(tmp_path / "cache"))


def test_effort_changes_the_prompt(trained: dict[str, TrainedModel]) -> None:
    for effort, positions in ((0, 0), (2, 2 * 4)):
        lm = RimLM(trained=trained["rim"], effort=effort, probe=True)
        lm.generate_until(asks(questions(2)))
        assert lm.records["t", 0].cost["latent_positions"] == positions and len(lm.records["t", 0].blocks) == effort
    with pytest.raises(UsageError, match="effort -1"):
        RimLM(trained=trained["rim"], effort=-1)


# Prompts that are not as trained


def test_a_few_shot_context_is_marked(trained: dict[str, TrainedModel]) -> None:
    lm = RimLM(trained=trained["direct"])
    config = simple(lm, num_fewshot=1, limit=4)["config"]
    assert config["rim_bench_prompt_note"] == PROMPT_DIFFERS and config["rim_bench_prompts_that_differ"] == 4
    again = simple(lm, limit=4)["config"]  # the next evaluation is not blamed for it
    assert again["rim_bench_prompt_note"] is None and again["rim_bench_prompts_that_differ"] == 0


def test_a_chat_template_is_used_where_there_is_one_and_marked(runs: dict[str, Run]) -> None:
    lm = RimLM(path=str(runs["direct"].path))
    with pytest.raises(UsageError, match="no chat template"):
        simple(lm, apply_chat_template=True, limit=2)
    marks = "{% for m in messages %}{{ '|' if m.role == 'system' else '?' }}{{ m.content }}{% endfor %}{{ eos_token }}"
    lm.tokenizer.chat_template = marks  # of characters that its tokenizer saw
    found = simple(lm, apply_chat_template=True, limit=2, system_instruction="t=4")
    assert found["config"]["rim_bench_prompt_note"] == PROMPT_DIFFERS
    context = found["samples"]["rimbench_chain"][0]["arguments"][0][0]
    assert context.startswith("|t=4?") and lm.backbone.end in lm.question(context)


def test_an_overlong_prompt_is_counted_and_never_cut(trained: dict[str, TrainedModel]) -> None:
    long = "t=4|" * POSITIONS
    short = questions(3)
    for name in METHODS:
        lm = RimLM(trained=trained[name], probe=True)
        out = lm.generate_until(asks([short[0], long, *short[1:]]))
        assert out[1] == "" and [out[0], *out[2:]] == RimLM(trained=trained[name]).generate_until(asks(short))
        assert lm.overlong == lm.get_model_info()["rim_bench_overlong_prompts"] == 1
        cost = lm.records["t", 1].cost
        assert cost["overlong"] and cost["prompt_tokens"] > POSITIONS and cost.keys() == lm.records["t", 0].cost.keys()
        assert cost["generated_tokens"] == cost["passes"] == cost["flops_prefill"] == cost["flops_decode"] == 0
        lm.generate_until(asks(short))
        assert lm.overlong == 0


def test_an_overlong_question_of_a_set_is_one_of_its_items(
    trained: dict[str, TrainedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "TIMED", 24)  # all of them
    rows = [{"question": "t=4|kt-3|k?", "answer": "1"}, {"question": "9=" * 2 * POSITIONS, "answer": "2"}]
    rows += [{"question": f"t={i}|kt-3|k?", "answer": str(i)} for i in range(8)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = load_task("json")
    for split in ("test", "validation"):
        files = {"test": str(path)} if split == "test" else {"train": str(path), "validation": str(path)}
        found, summary = evaluate(trained["rim"], EvaluationRequest(task, files=files, split=split, max_tokens=6))
        assert summary.n == len(rows) and summary.latency is not None and summary.latency.n == len(rows) - 1
        assert [i.overlong for i in found] == [False, True] + [False] * 8
        assert not found[1].correct and found[1].empty and found[1].to_json().keys() >= RECORD


# Records


@pytest.mark.parametrize("name", METHODS)
def test_every_record_is_complete(items: dict[str, list[ItemRecord]], name: str) -> None:
    for item in items[name]:
        assert item.to_json().keys() == RECORD | ({"blocks"} if name == "rim" else set())
        assert all(getattr(item, k) is not None for k in RECORD - {"answer", "passes_to_answer"})
        assert item.prompt_tokens > 0 and item.latency_s > 0 and item.batch_size <= 64


def test_the_last_block_gives_the_scored_answer(items: dict[str, list[ItemRecord]]) -> None:
    for item in items["rim"]:
        assert len(item.blocks) == 4
        assert item.blocks[-1] == BlockRecord(answer=item.answer, correct=item.correct)


@pytest.mark.parametrize(("name", "thoughts", "latent"), [("direct", 0, 0), ("coconut", 3, 5), ("rim", 0, 16)])
def test_passes_and_flops_against_hand_counts(
    trained: dict[str, TrainedModel], items: dict[str, list[ItemRecord]], name: str, thoughts: int, latent: int
) -> None:
    backbone = trained[name].backbone
    config = backbone.model.config
    layers, width = config.num_hidden_layers, config.hidden_size
    matrices = sum(p.numel() for n, p in backbone.model.named_parameters() if p.ndim == 2 and ".layers." in n)
    head = width * (backbone.vocabulary + len(backbone.markers))

    def column(keys: int) -> int:  # multiply-accumulates of one column: all matrices, scores and values
        return matrices + layers * 2 * width * keys

    for item in items[name]:
        length, made = item.prompt_tokens + latent, item.generated_tokens
        assert item.latent_positions == latent
        assert (
            item.passes == thoughts + made
        )  # the pass over the prompt knows the first token; each other token takes one
        assert item.flops_prefill == 2 * (sum(column(k) for k in range(1, length + 1)) + head)
        assert item.flops_decode == 2 * sum(column(length + k) + head for k in range(1, made))
        tokens = backbone.encode(item.output)
        first = answer_token(backbone.decode, tokens)
        if item.output == f"#### {item.reference}":
            assert first is not None and item.passes_to_answer == thoughts + first + 1
        if "####" not in item.output:
            assert item.passes_to_answer is None
    assert any(item.passes_to_answer is not None for item in items[name])


def test_where_the_answer_begins() -> None:
    pieces = ["a", "\n", "##", "## ", " ", "4", "2"]
    text = lambda tokens: "".join(pieces[t] for t in tokens)  # noqa: E731
    assert answer_token(text, (0, 1, 2, 3, 4, 5, 6)) == 5
    assert answer_token(text, (2, 3, 4)) is None  # nothing behind it
    assert answer_token(text, (0, 5)) is None
    assert answer_token(text, ()) is None


def test_evaluation_leaves_the_global_random_state_alone(trained: dict[str, TrainedModel]) -> None:
    def states() -> list[Any]:
        return [
            random.getstate(),
            torch.get_rng_state().tolist(),
            [part.tolist() if hasattr(part, "tolist") else part for part in np.random.get_state()],
        ]

    before = states()
    evaluate(trained["direct"], EvaluationRequest(load_task("chain"), limit=2, max_tokens=2))
    assert states() == before


def test_nothing_is_trained_or_evaluated_twice(
    options: Options, runs: dict[str, Run], trained: dict[str, TrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("evaluated again")

    monkeypatch.setattr(evaluation, "evaluate", refuse)
    monkeypatch.setattr("rim_bench.engine.trainer.Trainer", refuse)
    reporter = Heard()
    assert [r.path for r in run_plan(plan_study(options), reporter)] == [runs[m].path for m in METHODS]
    assert (
        sum("trained already" in n for n in reporter.notes)
        == sum("evaluated already" in n for n in reporter.notes)
        == 3
    )
    run = runs["direct"]
    ((key, stored),) = run.evaluations().items()
    request = evaluation_request(study_setting(options))
    assert request.key() == key and evaluate_run(run, trained["direct"], request) == stored


def test_lm_eval_says_nothing_while_our_own_display_runs(
    trained: dict[str, TrainedModel], capfd: pytest.CaptureFixture[str]
) -> None:
    evaluate(trained["direct"], EvaluationRequest(load_task("chain"), limit=2, max_tokens=2))
    assert capfd.readouterr() == ("", "")


# Likelihoods

CHOICES = ["0", "7", "12", "no idea"]
MULTIPLE_CHOICE = """
task: choices
custom_dataset: !function rows.load
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_target: 1
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1}
"""


def brute_force(one: TrainedModel, prompt: tuple[int | str, ...], continuation: tuple[int, ...]) -> tuple[float, bool]:
    """The model itself on one plain sequence."""
    ids = [one.backbone.resolve(t) for t in (*prompt, *continuation)]
    with torch.inference_mode():
        logits = one.backbone.model(input_ids=torch.tensor([ids])).logits[
            0, len(prompt) - 1 : -1, : one.backbone.vocabulary
        ]
    logprobs = logits.log_softmax(-1)
    target = torch.tensor(continuation)
    return float(logprobs.gather(1, target[:, None]).sum()), bool((logits.argmax(-1) == target).all())


@pytest.mark.parametrize("name", ["direct", "rim"])
def test_multiple_choice_equals_brute_force(trained: dict[str, TrainedModel], tmp_path: Path, name: str) -> None:
    asked = questions(5)
    (tmp_path / "choices.yaml").write_text(MULTIPLE_CHOICE)
    (tmp_path / "rows.py").write_text(
        f"import datasets\ndef load(**_):\n    rows = [dict(question=q, choices={CHOICES!r}) for q in {asked!r}]\n"
        "    return {'test': datasets.Dataset.from_list(rows)}\n"
    )
    one = trained[name]
    lm = RimLM(trained=one, batch_size=2)
    found = simple(lm, tasks=["choices"], task_manager=manager(tmp_path))
    mark, right = one.backbone.encode("#### "), 0
    for sample in found["samples"]["choices"]:
        base = one.method.lay_prompt(one.backbone.encode_question(sample["doc"]["question"]))
        prompt = tuple(t for s in base.segments for t in s.tokens)
        expected = [brute_force(one, (*prompt, *mark), one.backbone.encode(f"#### {c}")[len(mark) :]) for c in CHOICES]
        got = [tuple(r[0]) for r in sample["resps"]]
        assert [g for _, g in got] == [g for _, g in expected]
        np.testing.assert_allclose([v for v, _ in got], [v for v, _ in expected], rtol=1e-5, atol=1e-5)
        right += int(np.argmax([v for v, _ in expected]) == 1)
    assert found["results"]["choices"]["acc,none"] == pytest.approx(right / 5)
    assert lm.differs == lm.overlong == 0


def test_likelihood_of_what_was_trained_is_that_of_training(trained: dict[str, TrainedModel]) -> None:
    """`#### 7` is scored in the tokens that training saw, with `#### ` given."""
    one = trained["direct"]
    example = EvaluationRequest(load_task("chain"), limit=1).dataset().examples[0]
    encoded = one.backbone.encode_example(example)
    mark = one.backbone.encode("#### ")
    assert encoded.answer[: len(mark)] == mark
    layout = one.method.lay_prompt(encoded.question)
    expected = brute_force(one, (*layout.tokens, *mark), encoded.answer[len(mark) : -1])
    ((value, greedy),) = RimLM(trained=one).loglikelihood(
        [Instance("loglikelihood", {}, (example.question, f" {example.answer}"), 0, metadata=("t", 0, 1))]
    )
    assert (value, greedy) == (pytest.approx(expected[0], abs=1e-5), expected[1])


def test_overlong_choices_are_counted(trained: dict[str, TrainedModel]) -> None:
    texts = [("t=4|" * POSITIONS, " 1"), ("t=4|t?", " 4"), ("t=4|t?", "")]
    lm = RimLM(trained=trained["direct"])
    found = lm.loglikelihood(
        [Instance("loglikelihood", {"question": c}, (c, t), 0, metadata=("t", i, 1)) for i, (c, t) in enumerate(texts)]
    )
    assert found[0] == (float("-inf"), False) and lm.overlong == 1 and lm.differs == 0
    assert all(np.isfinite(v) for v, _ in found[1:])


def test_rolling_likelihood_equals_brute_force(trained: dict[str, TrainedModel]) -> None:
    one = trained["rim"]
    short, long = "t=4|kt-3|gk-3|g?\n#### 2", "t=4|kt-3|gk-3|g?" * 12
    lm = RimLM(trained=one, batch_size=2)
    found = lm.loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, (t,), 0, metadata=("t", i, 1)) for i, t in enumerate([short, long, ""])]
    )
    end, window = one.backbone.end, POSITIONS - 1
    tokens = one.backbone.encode(long)
    assert window < len(tokens) < 2 * window
    head, tail = tokens[:window], tokens[window:]
    before = tokens[len(tokens) - window - 1 : window]  # the last window is moved back until it is full
    parts = [
        brute_force(one, (end,), one.backbone.encode(short)),
        brute_force(one, (end,), head),
        brute_force(one, before, tail),
    ]
    assert found[0] == pytest.approx(parts[0][0], rel=1e-5)
    assert found[1] == pytest.approx(parts[1][0] + parts[2][0], rel=1e-5)
    assert found[2] == 0.0


# lm-eval's own command line


def test_command_line_writes_results_and_samples(
    runs: dict[str, Run],
    items: dict[str, list[ItemRecord]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    model = ["--model", NAME, "--model_args", f"path={runs['rim'].path}"]
    output = [
        "--limit",
        "3",
        "--output_path",
        "out",
        "--log_samples",
        "--device",
        "cpu",
        "--batch_size",
        "auto",
        "--seed",
        "1,2,3,4",
    ]
    # Without `run`, as older versions had it.
    lm_eval_main(
        [
            *model,
            "--tasks",
            "rimbench_chain",
            *output,
            "--gen_kwargs",
            "max_new_tokens=40",
            "--metadata",
            f"rim_bench_limit={ROWS}",
        ]
    )
    assert "rimbench_chain" in capsys.readouterr().out
    (results,) = Path("out").glob("*/results_*.json")
    config = json.loads(results.read_text())["config"]
    assert config["rim_bench_method"]["name"] == "rim" and config["rim_bench_prompt_note"] is None
    (samples,) = Path("out").glob("*/samples_rimbench_chain_*.jsonl")
    rows = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda row: row["doc_id"])
    assert [row["resps"][0][0] for row in rows] == [item.output for item in items["rim"][:3]]


def test_command_line_keeps_the_users_own_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "choices.yaml").write_text(MULTIPLE_CHOICE)
    (tmp_path / "rows.py").write_text("def load(**_): ...\n")
    lm_eval_main(["ls", "tasks", "--include", str(tmp_path)])  # abbreviated, as argparse allows
    listed = capsys.readouterr().out
    assert "choices" in listed and "rimbench_gsm8k" in listed


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--use_cache", "c"], "not keyed by the weights"),
        (["-c", "c"], "not keyed by the weights"),
        (["--tasks", "nonesuch"], "Tasks not found: nonesuch"),
        (["--config", "../cached.yaml"], "not keyed by the weights"),
        (["--config", "../none.yaml"], "Config file not found"),
        (["--log_samples"], "--output_path"),
        (["--tasks", "rimbench_gsm8k"], "--metadata rim_bench_data=DIR"),
        (["--model_args", "effort=2"], "path=RUN"),
        (["--model_args", "path=nonesuch"], "unknown run 'nonesuch'"),
        (["--model_args", "path=7,results=7"], "unknown run '7'"),
        (["--model_args", "batch_size=3"], "batch_size=3 in --model_args is what .* give it as --batch_size"),
        (["--model_args", "max_batch_size=3"], "give it as --max_batch_size"),
        (["--model_args", "device=cpu"], "give it as --device"),
        (["--model_args", "path=x,on_batch=used"], "unknown option of model rim-bench 'on_batch'"),
        (["--model_args", "path=x,trained=1"], "unknown option of model rim-bench 'trained'"),
        (["--model_args", "path={x"], "lm-eval: Invalid JSON: path={x"),
        (["--metadata", "{"], "lm-eval: Invalid JSON: {"),
        (["--model_args", "path=x,probe=maybe"], "probe=maybe must be True or False"),
        (["--gen_kwargs", "until=7"], "until 7 must be a text"),
        (["--gen_kwargs", "until=[7]"], r"until \[7\] must be a text"),
        (["--gen_kwargs", "max_gen_toks=many"], "max_gen_toks 'many' must be a whole number"),
        (["--gen_kwargs", "max_new_tokens=0"], "max_new_tokens 0 must be a whole number"),
        (["--gen_kwargs", "max_new_tokens=3,max_gen_toks=4"], "give max_gen_toks alone"),
        (["--gen_kwargs", "untl=x"], "unknown setting of --gen_kwargs 'untl'.*did you mean 'until'"),
        (["--limit", "nan"], "--limit nan"),
        (["--limit", "-1"], "--limit -1"),
        (["--seed", "99999999999999999999"], "--seed 99999999999999999999 is too large"),
        (["--output_path", "/proc/nowhere"], "--output_path '/proc/nowhere/results.json' cannot be written"),
    ],
)
def test_command_line_refuses_in_a_sentence(
    arguments: list[str], word: str, runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cached.yaml").write_text(f"model: {NAME}\nuse_cache: c\n")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    before = ["run", "--model", NAME, "--device", "cpu", "--limit", "1"]
    if "--tasks" not in arguments:
        before += ["--tasks", "rimbench_chain"]
    else:
        before += ["--model_args", f"path={runs['direct'].path}"]
    with pytest.raises(UsageError, match=word):
        lm_eval_main([*before, *arguments])
    assert not list((tmp_path / "empty").iterdir())


def test_the_program_itself(runs: dict[str, Run], tmp_path: Path) -> None:
    """The only subprocess: imports, registration and the built-in tasks as they are, and no GPU needed for lm-eval's
    default device.
    """
    command = [
        sys.executable,
        "-m",
        "rim_bench.cli.main",
        "lm-eval",
        "run",
        "--model",
        NAME,
        "--model_args",
        f"path={runs['direct'].path}",
    ]
    command += [
        "--tasks",
        "rimbench_chain",
        "--limit",
        "5",
        "--output_path",
        "out",
        "--log_samples",
        "--num_fewshot",
        "2",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "rimbench_chain" in done.stdout and PROMPT_DIFFERS in done.stderr
    assert len(list(tmp_path.glob("out/*/*"))) == 2
