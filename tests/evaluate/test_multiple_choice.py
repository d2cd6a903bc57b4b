"""The choice form: branches behind a method's own prompt, cot behind the steps it wrote, and lm-eval counts the
same.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import engine
import pytest
import torch
from conftest import unregistered
from light_lm_eval import light  # noqa: F401 - the fixture is used by being there
from small_runs import Heard

from rim_bench.baselines.coconut import Coconut
from rim_bench.baselines.cot import ChainOfThought
from rim_bench.baselines.direct import Direct
from rim_bench.data.answers import likelier_a_character, margin
from rim_bench.data.datasets import evaluation_data
from rim_bench.engine.trained_model import TrainedModel, load_trained
from rim_bench.evaluate import latency
from rim_bench.evaluate.evaluation import EvaluationRequest, evaluate
from rim_bench.evaluate.lm_eval_model import RimLM, through_lm_eval
from rim_bench.evaluate.multiple_choice import ChoicePredictor
from rim_bench.evaluate.predict import ANSWER, Predictor
from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import Method
from rim_bench.models.rim import Rim
from rim_bench.report.comparison import comparison
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import plan_study
from rim_bench.runs.training import run_plan
from rim_bench.storage.records import FloorRecord, RunSpec
from rim_bench.storage.run_folder import Run
from rim_bench.tasks import prosqa
from rim_bench.tasks.lm import choose
from rim_bench.util.errors import UsageError

METHODS = ("direct", "cot", "coconut", "rim")
TASK = unregistered("prosqa_choice")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data") / "prosqa"
    place.mkdir()
    for name, split in (("valid", "validation"), ("test", "test")):
        rows = [row for _, row in prosqa.generate_rows(6, ["hops=3-6"], 1, split)]
        (place / f"{name}.json").write_text(json.dumps(rows))
    return place.parent


@pytest.fixture(scope="module")
def runs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    options = Options(
        methods=METHODS,
        task="prosqa_choice",
        data=folder,
        out=tmp_path_factory.mktemp("choice") / "results",
        model="tiny",
        backbone={"width": 16, "layers": 1, "max_positions": 320},
        allow_changed_data=True,
        limit=24,
        examples=64,
        batch_size=8,
        max_tokens=12,
        device="cpu",
        settings={"coconut": {"latent_stages": 2}, "rim": {"K": 2}},
    )
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "TIMED", 2)
        return {run.spec.method.name: run for run in run_plan(plan_study(options), Heard())}


@pytest.fixture(scope="module")
def trained(runs: dict[str, Run]) -> dict[str, TrainedModel]:
    """The same with enlarged layers: so small and hardly trained, a layer hardly changes its input, and an error would
    not show.
    """
    found = {name: load_trained(run) for name, run in runs.items()}
    for one in found.values():
        with torch.no_grad():
            for name, p in one.backbone.model.named_parameters():
                if p.ndim > 1 and "embed" not in name and "lm_head" not in name:
                    p.mul_(6.0)
    return found


def alone(trained: TrainedModel, layout: Layout, text: str) -> float:
    """Log-likelihood of `#### text` less that of `#### `, behind a prompt, each from a chain of its own:
    no branches.
    """
    mark, whole = trained.backbone.encode(f"{ANSWER} "), trained.backbone.encode(f"{ANSWER} {text}")
    assert whole[: len(mark)] == mark
    row = layout.grow(Segment("all", layout.resume[0], whole, weight=1.0))
    columns = trained.workspace.forward([row])
    sources = [row.before(len(row.segments) - 1), *range(row.first[-1], row.last(len(row.segments) - 1))]
    logits = trained.backbone.head(columns.hidden[0, [columns.at(0, c) for c in sources]])
    found = logits.log_softmax(-1).gather(1, torch.tensor(whole)[:, None])[:, 0]
    return float(found[len(mark) :].sum())


def test_an_effort_that_no_position_is_left_for_is_refused_at_once(trained: dict[str, TrainedModel]) -> None:
    """It was laid out for an hour, for each segment's ancestors were gathered; then all answers were empty."""
    with pytest.raises(UsageError, match=r"no question fits: the layout of the shortest takes \d{3},\d{3} positions"):
        Predictor(trained["rim"], effort=100_000)


@pytest.mark.parametrize("name", METHODS)
def test_a_choice_is_the_likelier_answer_behind_the_methods_own_prompt(
    name: str, trained: dict[str, TrainedModel], folder: Path
) -> None:
    one = trained[name]
    examples = evaluation_data(TASK, data=folder).examples
    questions = [one.backbone.encode_question(e.question) for e in examples]
    chooser = ChoicePredictor(Predictor(one), dict(zip(questions, (e.choices for e in examples), strict=True)))
    prompts = [chooser.prompt(q) for q in questions]
    with torch.inference_mode():
        done = chooser.answer(prompts, 12, (), questions)
        for example, prompt, answered in zip(examples, prompts, done, strict=True):
            base = prompt
            if one.method.writes_steps:
                (written,) = Predictor(one).complete([prompt], 12, chooser.stop((ANSWER,)))[0]
                tokens = written.tokens
                while tokens and ANSWER[0] in one.backbone.decode(tokens):
                    tokens = tokens[:-1]
                base = prompt.grow(Segment("steps", prompt.resume[0], tokens)) if tokens else prompt
                base = Layout(base.segments, (base.segments[-1].name,))
                assert (
                    answered.cost["generated_tokens"] == written.generated
                    and answered.cost["passes"] == written.passes + 1
                )
            else:
                assert answered.cost["generated_tokens"] == 0 and answered.cost["passes"] == prompt.passes
            wanted = [alone(one, base, text) for text in example.choices]
            assert answered.logprobs == pytest.approx(wanted, abs=1e-4)
            assert answered.text == f"{ANSWER} {example.choices[wanted.index(max(wanted))]}"


@pytest.mark.parametrize("family", ["tiny", "tiny-gpt2"])
@pytest.mark.parametrize(
    "method", [Direct(), ChainOfThought(), Coconut(c=2, latent_stages=2), Rim(K=3)], ids=lambda m: m.name
)
def test_likelihoods_are_those_of_a_plain_forward_pass(method: Method, family: str) -> None:
    """Hugging Face's own forward of prompt and answer, one after the other, with nothing of the engine; options of
    other lengths too.
    """
    backbone = engine.model(family)
    one = TrainedModel(backbone, method, torch.nn.ModuleDict(), RunSpec())
    offered = {
        backbone.encode(q): c
        for q, c in (("some text 1 2 3", ("some 1.", "to count 2 3 text.")), ("count", ("a.", "zzz yy.")))
    }
    chooser = ChoicePredictor(Predictor(one), offered)
    prompts = [chooser.prompt(q) for q in offered]
    with torch.inference_mode():
        for prompt, answered, texts in zip(
            prompts, chooser.answer(prompts, 6, (), list(offered)), offered.values(), strict=True
        ):
            base, after = prompt, prompt.resume[0]
            if method.writes_steps:
                (written,) = Predictor(one).complete([prompt], 6, chooser.stop((ANSWER,)))[0]
                assert written.tokens and ANSWER[0] not in backbone.decode(written.tokens)
                base, after = prompt.grow(Segment("steps", after, written.tokens)), "steps"
            whole = [backbone.encode(f"{ANSWER} {text}") for text in texts]
            mark = next(
                m
                for m in (backbone.encode(f"{ANSWER} "), backbone.encode(ANSWER))
                if all(w[: len(m)] == m for w in whole)
            )
            for tokens, found in zip(whole, answered.logprobs, strict=True):
                logits = engine.reference(backbone, base.grow(Segment("answer", after, tokens)), "answer")[
                    -len(tokens) - 1 : -1
                ]
                wanted = logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[len(mark) :, 0].sum()
                assert found == pytest.approx(float(wanted), abs=2e-4)


@pytest.mark.parametrize("name", METHODS)
def test_lm_eval_and_the_records_say_the_same(name: str, runs: dict[str, Run], folder: Path) -> None:
    run = runs[name]
    key = next(iter(run.evaluations()))
    items, summary = run.read_items(key), run.evaluation(key)
    assert summary is not None and summary.n == len(items) == 6
    assert summary.floor == FloorRecord(answer="a guess among the choices", accuracy=0.5)
    by_id = {e.id: e for e in evaluation_data(TASK, data=folder).examples}
    for item in items:
        right = by_id[item.id].choices.index(item.reference)
        assert item.margin == pytest.approx(item.logprobs[right] - item.logprobs[1 - right])
        assert item.correct == (item.margin > 0) and item.chance == 0.5
        mine, other = (item.logprobs[k] / len(by_id[item.id].choices[k]) for k in (right, 1 - right))
        assert item.correct_norm == (mine > other)
        assert item.output.removeprefix("#### ") in by_id[item.id].choices and not item.unparseable


def test_the_validation_split_is_chosen_without_lm_eval(
    trained: dict[str, TrainedModel], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "TIMED", 2)
    request = EvaluationRequest(TASK, folder, allow_changed=True, split="validation", max_tokens=12)
    items, summary = evaluate(trained["rim"], request)
    assert summary.n == 6 and all(len(i.logprobs or ()) == 2 for i in items)
    assert (summary.time("latency", "full_ms", "median") or 0) > 0


def test_cot_is_asked_behind_its_steps_and_nobody_else_writes_any(
    trained: dict[str, TrainedModel], folder: Path
) -> None:
    """Another chain must give other likelihoods: the steps are really in front of the choices."""
    one = trained["cot"]
    example = evaluation_data(TASK, data=folder).examples[0]
    prompt = one.method.lay_prompt(one.backbone.encode_question(example.question))
    true = prompt.grow(Segment("s", prompt.resume[0], one.backbone.encode("\n".join(example.steps) + "\n")))
    with torch.inference_mode():
        bare, led = alone(one, prompt, example.answer), alone(one, Layout(true.segments, ("s",)), example.answer)
    assert abs(bare - led) > 1e-3
    assert {name for name in METHODS if trained[name].method.writes_steps} == {"cot"}


def test_what_cannot_choose_is_refused(trained: dict[str, TrainedModel], folder: Path) -> None:
    with pytest.raises(UsageError, match="a choice by likelihood is not sampled"):
        evaluate(trained["direct"], EvaluationRequest(TASK, folder, allow_changed=True, votes=3, max_tokens=12))


def test_a_question_without_room_is_answered_with_nothing(trained: dict[str, TrainedModel], folder: Path) -> None:
    one = trained["direct"]
    example = evaluation_data(TASK, data=folder).examples[0]
    question = one.backbone.encode_question(example.question + " Tom is a lempus." * 80)
    chooser = ChoicePredictor(Predictor(one), {question: example.choices})
    assert not chooser.fits(chooser.prompt(question))
    (answered,) = chooser.answer([chooser.prompt(question)], 12, (), [question])
    assert answered.text == "" and answered.cost["overlong"] and answered.logprobs == []


def test_the_table_says_how_was_chosen_and_what_length_does(runs: dict[str, Run]) -> None:
    (note,) = [n for n in comparison(runs.values()).sections[0].notes if n.startswith("Chosen by")]
    assert note.startswith(
        "Chosen by the sum of token log-probabilities; by that over the choice's characters (lm-eval's acc_norm), all: "
    )
    assert all(f"{name} " in note for name in METHODS)


def test_names_are_single_tokens_from_scratch(trained: dict[str, TrainedModel]) -> None:
    """So the two options of a ProsQA question are equally long, and a sum favours neither."""
    encode = trained["direct"].backbone.encode
    assert {len(encode(f"#### {person} is a {name}.")) for person in prosqa.PEOPLE for name in prosqa.CLASSES} == {5}


def test_length_decides_where_a_sum_would_not() -> None:
    assert (
        likelier_a_character([-4.0, -5.0], ["ab", "abcde"]) == 1
        and likelier_a_character([-2.0, -4.0], ["a", "ab"]) is None
    )
    assert likelier_a_character([], []) is None and likelier_a_character([-1.0, -1.0], ["", "ab"]) == 1
    assert choose({"gold": 1, "choices": ["ab", "abcde"]}, [(-4.0, False), (-5.0, False)]) == {
        "accuracy": 0.0, "accuracy_norm": 1.0, "margin": -1.0,
    }  # fmt: skip


def test_margins() -> None:
    assert margin([-1.0, -3.0], 0) == 2.0 and margin([-1.0, -3.0, -0.5], 0) == -0.5
    assert margin([-1.0], 0) is None
    assert math.isclose(margin([-2.0, -2.0], 1) or 0.0, 0.0)


def test_lm_evals_command_line_sees_the_choice_form(trained: dict[str, TrainedModel], folder: Path) -> None:
    """Without an evaluation of ours around it: the documents bring their choices."""
    lm = RimLM(trained=trained["cot"], max_gen_toks=12)
    found = through_lm_eval(lm, TASK, max_tokens=12, metadata=TASK.lm_eval_metadata(folder, allow_changed=True))
    (accuracy,) = [v for k, v in found["results"][TASK.lm_eval_name].items() if k == "accuracy,none"]
    records = [lm.records[TASK.lm_eval_name, i] for i in range(6)]
    gold = [e.answer for e in evaluation_data(TASK, data=folder).examples]
    assert accuracy == pytest.approx(sum(r.text == f"{ANSWER} {g}" for r, g in zip(records, gold, strict=True)) / 6)
