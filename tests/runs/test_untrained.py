"""Methods that train nothing: the backbone as it is, asked through the evaluator of every method."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_models import CHAT, base_folder

from rim_bench.baselines.base import Base
from rim_bench.baselines.base_cot import BaseChainOfThought
from rim_bench.data.task import load_task
from rim_bench.engine.trained_model import SHOWN, load_trained
from rim_bench.evaluate.evaluation import EvaluationRequest, evaluate
from rim_bench.methods.method import Example
from rim_bench.report.comparison import comparison
from rim_bench.runs.dry_run import dry_run
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import plan_study
from rim_bench.runs.study import check_used
from rim_bench.runs.training import run_plan
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError

ROWS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A "pretrained" Llama with a chat template."""
    target = base_folder("tiny", tmp_path_factory.mktemp("base") / "model", {"max_position_embeddings": 700})
    (target / "chat_template.jinja").write_text(CHAT)
    return target


def options(folder: Path, out: Path, *methods: str, **changes: Any) -> Options:
    usual: dict[str, Any] = {
        "start": "recipe",
        "limit": ROWS,
        "examples": 8,
        "batch_size": 4,
        "max_tokens": 5,
        "device": "cpu",
    }
    given = {"methods": methods, "task": "chain", "model": str(folder), "backbone": {"lora_rank": 2}, "out": out}
    return Options(**{**given, **usual, **changes})


@pytest.fixture(scope="module")
def out(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    target = tmp_path_factory.mktemp("runs")
    settings = {"base-cot": {"shots": 2}}
    run_plan(plan_study(options(folder, target, "base", "base-cot", "direct", seeds=(1, 2), settings=settings)))
    yield target


@pytest.fixture(scope="module")
def runs(out: Path) -> dict[str, Run]:
    return {path.name.split("-chain-")[0]: Run(path) for path in sorted((out / "runs").iterdir())}


def test_one_run_whatever_the_seeds_and_nothing_in_it_is_trained(runs: dict[str, Run], out: Path) -> None:
    assert len(list((out / "runs").iterdir())) == 4  # base, base-cot, direct twice
    for name in ("base", "base-cot"):
        training, spec = runs[name].training(), json.loads((runs[name].path / "spec.json").read_text())
        assert training is not None and training.validation is None
        assert (training.steps, training.examples, training.flops, training.parameters_trained) == (0, 0, 0, 0)
        assert spec["budget"] == {"examples": 0} and not {"seed", "optimizer"} & set(spec)
        assert spec["backbone"] == json.loads((runs["direct"].path / "spec.json").read_text())["backbone"]
        assert not list((runs[name].path / "model").glob("*.safetensors"))  # its weights stay where they are
    assert runs["base"].spec.untrained and not runs["direct"].spec.untrained


def test_another_request_finds_the_same_run(folder: Path, out: Path) -> None:
    plans = [
        plan_study(options(folder, out, "base", seeds=(7,), examples=None, batch_size=None)),
        plan_study(options(folder, out, "base", "direct", start="cot", cot_examples=8, lr=1e-3, checkpoint="best")),
        plan_study(options(folder, out, "base", "direct", tune="lr=1e-4..1e-3", trials=2)),
    ]
    ids = {planned.id for plan in plans for planned in plan if planned.method.name == "base"}
    assert len(ids) == 1 and all(p.run.trained for plan in plans for p in plan if p.method.name == "base")
    assert not [p for p in plans[2] if p.role == "trial" and p.method.name == "base"]
    assert [p for p in plans[2] if p.role == "trial" and p.method.name == "direct"]


def test_answers_are_hugging_faces_own(runs: dict[str, Run]) -> None:
    trained = load_trained(runs["base-cot"])
    model, (end,) = trained.backbone.causal, (trained.backbone.end,)
    assert not hasattr(trained.backbone.model, "peft_config") and len(trained.shown) == 2
    request = EvaluationRequest(load_task("chain"), limit=ROWS, max_tokens=5)
    items, _ = evaluate(trained, request)
    assert len({i.output for i in items}) > 1
    for item, example in zip(items, request.dataset().examples, strict=True):
        turns = trained.method.conversation(example.question, trained.shown)
        history = [{"role": turn.role, "content": turn.text} for turn in turns]
        text = trained.backbone.tokenizer.apply_chat_template(history, tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([trained.backbone.tokenizer.encode(text, add_special_tokens=False)])
        done = model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=end, pad_token_id=end)
        assert item.output == trained.backbone.decode(done[0, ids.shape[1] :].tolist())
        assert item.prompt_tokens == ids.shape[1] and item.latent_positions == 0


def test_what_is_stored_names_weights_and_examples(runs: dict[str, Run], folder: Path, tmp_path: Path) -> None:
    path = runs["base-cot"].path / "model"
    shown = json.loads(stored := (path / SHOWN).read_bytes())
    assert len(shown) == 2 and all(row["steps"] for row in shown)
    trained = load_trained(runs["base-cot"])
    assert trained.backbone.count(training_only=True) == 0
    assert trained.question("q") != load_trained(runs["base"]).question("q")
    (path / SHOWN).write_text("[{}]")
    with pytest.raises(UsageError, match="damaged"):
        load_trained(runs["base-cot"])
    (path / SHOWN).write_bytes(stored)


def test_the_table_says_that_nothing_was_trained(out: Path) -> None:
    table = comparison(Store(out).runs()[0])
    assert len(table.records) > 0 and "damaged" not in table.to_markdown()
    text = table.to_markdown()
    assert "Nothing was trained: base, base-cot shots=2; no row is matched with that." in text
    assert "seeds: 1, 2." in text and "Nothing was trained, and so no seed to count: base, base-cot shots=2." in text
    lines = {row["label"]: row for row in table.records if row["set"] in ("in distribution", "all")}
    assert lines["base"]["seeds"] == "" and lines["direct"]["seeds"] == "1 2"
    assert lines["base"]["train_flops"] == 0 and lines["base"]["tuning_trials"] == 0
    assert "(only one of them trained)" in text and "direct (" not in text


def test_shown_examples_follow_from_their_text_alone() -> None:
    rows = [Example(str(k), f"question {k}", ("step",) if k % 2 else (), str(k)) for k in range(20)]
    chosen = Base(shots=4).shown(rows)
    assert len(chosen) == 4 and Base(shots=4).shown(rows[::-1]) == chosen != Base(shots=4, draw=1).shown(rows)
    assert Base(shots=5).shown(rows)[:4] == chosen
    assert all(e.steps for e in BaseChainOfThought(shots=10).shown(rows)) and Base().shown(rows) == ()
    with pytest.raises(UsageError, match="is to show 11 examples, and there are 10 training rows with steps"):
        BaseChainOfThought(shots=11).shown(rows)
    turns = BaseChainOfThought(shots=1, instruction="Think.").conversation("Q?", chosen[:1])
    assert [t.role for t in turns] == ["user", "assistant", "user"] and turns[-1].text == "Q?\nThink."
    assert turns[1].text.split("\n")[-1] == f"#### {chosen[0].answer}"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model": "tiny", "backbone": {"layers": 1}}, "base asks a pretrained model as it is, and backbone 'tiny'"),
        ({"settings": {"base": {"shots": ROWS + 1}}}, f"is to show {ROWS + 1} examples, and there are {ROWS} training"),
        ({"settings": {"base": {"shots": -1}}}, "shots = -1 must be a whole number from 0"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(folder: Path, tmp_path: Path, changes: Any, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        plan_study(options(folder, tmp_path, "base", **changes))
    assert not list(tmp_path.iterdir())


def test_examples_that_leave_no_room_are_refused(tmp_path: Path) -> None:
    small = base_folder("tiny", tmp_path / "model", {"max_position_embeddings": 300})
    given = options(small, tmp_path / "out", "base", settings={"base": {"shots": 5}})
    with pytest.raises(UsageError, match=r"shows 5 examples: .* positions, and the model has 300; show fewer"):
        run_plan(plan_study(given))
    assert not (tmp_path / "out" / "runs").exists() or not list((tmp_path / "out" / "runs").iterdir())


@pytest.mark.parametrize(
    "changes", [{"examples": 8}, {"budget": "train-flops=1e12", "examples": None}, {"lr": 0.1}, {"checkpoint": "best"}]
)
def test_options_of_training_are_refused_where_nothing_trains(folder: Path, tmp_path: Path, changes: Any) -> None:
    usual = {"examples": None, "batch_size": None, "lr": None}
    with pytest.raises(UsageError, match="none of these methods trains anything"):
        check_used([plan_study(options(folder, tmp_path, "base", **{**usual, **changes}))[0].study])


def test_a_dry_run_prices_answers_and_no_training(folder: Path, tmp_path: Path) -> None:
    rows = {r.method: r for r in dry_run([plan_study(options(folder, tmp_path, "base", "direct"))]).planned}
    assert rows["base"].train_flops == rows["base"].train_left == 0 < rows["direct"].train_flops
    assert rows["base"].budget == "examples=0" and (rows["base"].evaluation_flops or 0) > 0
