"""The controls: what each lays out and trains, the engine's equivalences for all of them, and the table that says which
one is needed.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from engine import EXAMPLES, counted, engine_logits, model, reference, training_rows
from torch import Tensor, nn

from rim_bench.baselines.coconut import Coconut
from rim_bench.baselines.coconut_no_curriculum import CoconutNoCurriculum
from rim_bench.baselines.direct import Direct
from rim_bench.baselines.no_thought_curriculum import NoThoughtCurriculum
from rim_bench.baselines.pause import Pause
from rim_bench.baselines.pause_curriculum import PauseCurriculum
from rim_bench.baselines.pause_distinct import PauseDistinct
from rim_bench.baselines.rim_as_prompt import RimAsPrompt
from rim_bench.baselines.rim_isolated_blocks import RimIsolatedBlocks
from rim_bench.baselines.rim_no_grounding import RimNoGrounding
from rim_bench.baselines.rim_no_refinement import RimNoRefinement
from rim_bench.baselines.rim_shuffled_steps import RimShuffledSteps
from rim_bench.compute import flops, training_flops
from rim_bench.compute.adapters import adapter_parameters, matched_backbone, matched_rank
from rim_bench.compute.cost import Lengths, price
from rim_bench.compute.flops import Shape
from rim_bench.data.task import load_task
from rim_bench.engine import lora
from rim_bench.engine import packing as workspace_module
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.flop_counters import torch_flops
from rim_bench.engine.generate import decode
from rim_bench.engine.losses import group_counts, tree_loss
from rim_bench.engine.markers import add_markers, train_markers_only
from rim_bench.engine.packing import PackedModel
from rim_bench.engine.trained_model import TrainedModel
from rim_bench.evaluate.predict import Predictor
from rim_bench.methods.controls import CONTROLS, check_trains, controls_for, matched_settings
from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import Encoded, Example, Method
from rim_bench.methods.registry import all_methods, load_method
from rim_bench.models.rim import Rim
from rim_bench.runs.options import Options
from rim_bench.storage.records import RunSpec, spec_id
from rim_bench.util.errors import UsageError
from rim_bench.util.flags import read_names, read_settings

TOLERANCE, BROKEN = 1e-5, 1e-2
TINY = {"kind": "scratch", "name": "tiny", "tuning": "full"}
GPT2 = {"kind": "hub", "name": "gpt2", "tuning": "lora", "lora_rank": 128, "lora_alpha": 32}
FOUR = Encoded("four", (1, 2, 3), ((11, 12), (21,), (31, 32, 33), (41,)), (90, 91))
ONE = Encoded("one", (1, 2, 3), ((11, 12),), (90, 91))
NEW: tuple[Method, ...] = (
    PauseCurriculum(c=2, latent_stages=2),
    NoThoughtCurriculum(latent_stages=2),
    CoconutNoCurriculum(c=1, latent_stages=2),
    PauseDistinct(N=5),
    RimNoGrounding(K=2),
    RimNoRefinement(),
    RimIsolatedBlocks(K=2),
    RimShuffledSteps(K=2),
    RimAsPrompt(K=2),
)
new_methods = pytest.mark.parametrize("method", NEW, ids=lambda m: m.name)
families = pytest.mark.parametrize("family", ["tiny", "tiny-gpt2"])


@cache
def backbone(family: str) -> Backbone:
    """The small model of the equivalence tests, with the controls' markers."""
    out = copy.deepcopy(model(family))
    add_markers(out, [marker for method in NEW for marker in method.markers()], 1)
    return out


def lay(method: Method, example: Encoded, stage: str) -> Layout:
    return method.lay_train(example, next(s for s in method.stages() if s.name == stage), 0.0, random.Random(0))


# What they lay out, by hand


@pytest.mark.parametrize(
    ("stage", "pauses", "kept"),
    [("cot", 0, (11, 12, 21, 31, 32, 33, 41)), ("latent 1", 2, (21, 31, 32, 33, 41)), ("latent 2", 4, (31, 32, 33, 41)),
     ("latent 3", 6, (41,)), ("answer only", 6, ())],
)  # fmt: skip
def test_pause_curriculum_is_coconut_with_a_learned_embedding(stage: str, pauses: int, kept: tuple[int, ...]) -> None:
    layout, other = lay(PauseCurriculum(), FOUR, stage), lay(Coconut(), FOUR, stage)
    frame = (1, 2, 3) if not pauses else (1, 2, 3, "<bot>", *("<pause>",) * pauses, "<eot>")
    assert layout.tokens == (*frame, *kept, 90, 91)
    assert layout.passes == 1 and other.passes == pauses + 1
    assert (layout.labels, layout.position, layout.sees) == (other.labels, other.position, other.sees)
    assert PauseCurriculum().stages() == Coconut().stages()
    assert {m.like for m in PauseCurriculum().markers()} == {"<<"} and len(PauseCurriculum().markers()) == 3


@pytest.mark.parametrize(
    ("stage", "kept"),
    [
        ("cot", (11, 12, 21, 31, 32, 33, 41)),
        ("latent 1", (21, 31, 32, 33, 41)),
        ("latent 3", (41,)),
        ("answer only", ()),
    ],
)
def test_no_thought_curriculum_removes_steps_and_adds_nothing(stage: str, kept: tuple[int, ...]) -> None:
    method = NoThoughtCurriculum()
    assert lay(method, FOUR, stage).tokens == (1, 2, 3, *kept, 90, 91)
    assert method.stages() == Coconut().stages() and method.markers() == () and method.effort_field is None
    assert (
        lay(method, FOUR, "answer only").labels
        == Direct().lay_train(FOUR, Direct().stages()[0], 0.0, random.Random(0)).labels
    )
    assert lay(method, ONE, "latent 2").tokens == (1, 2, 3, 90, 91)
    assert method.lay_prompt((1, 2)) == Direct().lay_prompt((1, 2))


def test_coconut_without_curriculum_is_its_last_stage() -> None:
    method = CoconutNoCurriculum()
    (stage,) = method.stages()
    assert stage.name == "answer only" and stage.knob == 4
    assert lay(method, FOUR, "answer only") == lay(Coconut(), FOUR, "answer only")
    assert method.lay_prompt(FOUR.question) == Coconut().lay_prompt(FOUR.question)


def test_rim_without_a_stage_is_the_other_stage() -> None:
    ground, refine = Rim(K=2).stages()
    assert RimNoRefinement().stages() == (ground,)
    (only,) = RimNoGrounding(K=2).stages()
    assert (only.name, only.knob, only.dropout, only.lr_scale) == (refine.name, refine.knob, refine.dropout, 1.0)
    assert lay(RimNoGrounding(K=2), FOUR, "refinement") == lay(Rim(K=2), FOUR, "refinement")
    assert lay(RimNoRefinement(), FOUR, "grounding") == lay(Rim(), FOUR, "grounding")


def test_a_stage_one_model_is_read_where_a_question_of_k_steps_was_trained() -> None:
    three = Encoded("three", (1, 2, 3), ((11,), (12,), (13,)), (90, 91))
    trained = lay(RimNoRefinement(), three, "grounding")
    answers = [s for s in trained.segments if s.tokens == three.answer]
    (place,) = RimNoRefinement().lay_prompt(three.question).resume
    assert [s.after for s in answers] == [place] == ["block 3"]
    assert RimNoRefinement(K=5).lay_prompt((1,)).resume == ("block 5",)


def test_isolated_blocks_are_one_block() -> None:
    """The same tokens at the same positions, seeing the same: equal states, whatever their number."""
    method, own = RimIsolatedBlocks(K=3), backbone("tiny")
    prompt = method.lay_prompt(EXAMPLES[0].question)
    with torch.no_grad():
        columns = PackedModel(own).forward([prompt])
        states = [columns.hidden[0, [columns.at(0, prompt.first[i] + k) for k in range(4)]] for i in (1, 2, 3)]
        chained = PackedModel(own).forward([Rim(K=3).lay_prompt(EXAMPLES[0].question)]).hidden[0]
    assert max(float((s - states[0]).abs().max()) for s in states) < TOLERANCE
    assert float((chained[-4:] - states[0]).abs().max()) > BROKEN


def test_pause_distinct_has_rim_s_positions_with_an_embedding_each() -> None:
    method, rim = PauseDistinct(), Rim()
    prompt = method.lay_prompt((1, 2))
    assert prompt.size == rim.lay_prompt((1, 2)).size == 34 and len(set(prompt.tokens)) == 34
    assert prompt.tokens[2] == "<pause 1>" and prompt.is_chain
    assert method.lay_prompt((1, 2), 3).tokens == (1, 2, "<pause 1>", "<pause 2>", "<pause 3>")
    with pytest.raises(UsageError, match="takes 0 to 32 pauses"):
        method.lay_prompt((1, 2), 33)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("coconut-no-curriculum", {"epochs_latent": 1}, "with another stage it would be coconut"),
        ("rim-no-grounding", {"epochs_ground": 1}, "with grounding it would be rim"),
        ("rim-no-refinement", {"epochs_refine": 1}, "with refinement it would be rim"),
        ("rim-isolated-blocks", {"blocks": "chain"}, "with a chain of blocks it would be rim"),
        ("pause-distinct", {"N": 0}, "give 1 or more"),
        ("pause-curriculum", {"N": 3}, "unknown option of pause-curriculum 'N'"),
    ],
)
def test_a_control_cannot_be_set_back_to_its_method(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_method(name, settings)


def examples(*lengths: int) -> list[Example]:
    return [Example(str(i), f"q{i}", tuple(f"s{i}.{k}" for k in range(n)), f"a{i}") for i, n in enumerate(lengths)]


def test_shuffled_steps_belong_to_others_of_the_same_length() -> None:
    given = examples(*[1, 2, 3] * 20, 7, 0, 0)
    got = RimShuffledSteps().transform(given, 3)
    assert [(e.id, e.question, e.answer, len(e.steps)) for e in got] == [
        (e.id, e.question, e.answer, len(e.steps)) for e in given
    ]
    assert Counter(e.steps for e in got) == Counter(e.steps for e in given)
    assert [e.id for e, g in zip(got, given, strict=True) if e.steps == g.steps] == [
        "60",
        "61",
        "62",
    ]  # alone, and without steps
    assert got == RimShuffledSteps().transform(given, 3) != RimShuffledSteps().transform(given, 4)
    assert Rim().transform(given, 3) is given  # other methods leave their examples alone


# The engine's equivalences


@families
def test_the_controls_trees_equal_their_paths(family: str) -> None:
    own = backbone(family)
    rows = [row for method in NEW for row in training_rows(method)]
    with torch.no_grad():
        columns = PackedModel(own).forward(rows)
        for r, row in enumerate(rows):
            for leaf in row.leaves():
                assert float((engine_logits(own, columns, r, leaf) - reference(own, row, leaf)).abs().max()) < TOLERANCE


@families
def test_what_the_controls_generate_is_the_argmax(family: str) -> None:
    own = backbone(family)
    rows = [method.lay_prompt(e.question) for method in NEW for e in EXAMPLES[:2]]
    for row, done in zip(rows, decode(PackedModel(own), rows, max_tokens=4), strict=True):
        (name,) = row.resume
        tokens = done[name].tokens + ((own.end,) if done[name].ended else ())
        logits = reference(own, row.grow(row.continuation("out", name, tokens)), "out")[-len(tokens) - 1 : -1]
        picked = logits.gather(1, torch.tensor(tokens)[:, None])[:, 0].detach()
        assert float((logits.detach().max(-1).values - picked).max()) < TOLERANCE


@new_methods
def test_the_controls_cost_what_torch_counts(method: Method) -> None:
    own = backbone("tiny-gpt2")
    shape, rows = own.shape(), training_rows(method)
    assert training_flops.executed_cost(shape, own.trains(), rows) == counted(own, rows)
    prompts = [method.lay_prompt(e.question) for e in EXAMPLES[:2]]
    assert flops.executed_prefill(shape, prompts) == torch_flops(
        lambda: decode(PackedModel(own), prompts, max_tokens=1)
    )


# pause-multipass


def split_prompts() -> tuple[list[Layout], list[Layout]]:
    method = PauseCurriculum(c=2, latent_stages=2)
    whole = [method.lay_prompt(e.question, n) for e, n in zip(EXAMPLES, (4, 2, 3, 0), strict=True)]
    split = [method.lay_split(e.question, n) for e, n in zip(EXAMPLES, (4, 2, 3, 0), strict=True)]
    return whole, [s for s in split if s is not None]


def test_split_passes_are_coconut_s() -> None:
    whole, split = split_prompts()
    coconut = [
        Coconut(c=2, latent_stages=2).lay_prompt(e.question, n) for e, n in zip(EXAMPLES, (4, 2, 3, 0), strict=True)
    ]
    assert [row.pass_of for row in split] == [row.pass_of for row in coconut]
    assert [row.passes for row in split] == [5, 3, 4, 1] and {row.passes for row in whole} == {1}
    assert [(row.tokens, row.position, row.sees) for row in split] == [
        (row.tokens, row.position, row.sees) for row in whole
    ]


@families
@pytest.mark.parametrize("sabotaged", [False, True])
def test_passes_compute_the_same_function(family: str, sabotaged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass or n+1: equal logits at every column. Sabotage: later passes do not see the question's first column."""
    own = backbone(family)
    whole, split = split_prompts()
    with torch.no_grad():
        once = PackedModel(own).forward(whole)
        if sabotaged:
            real = workspace_module.visible

            def blinded(sees: Tensor, q_seg: Tensor, q: Tensor, k_seg: Tensor, k: Tensor) -> Tensor:
                seen = real(sees, q_seg, q, k_seg, k)
                return seen & ~((k_seg == 0) & (k == 0))[:, None, :] if q.shape[1] < k.shape[1] else seen

            monkeypatch.setattr(workspace_module, "visible", blinded)
        often = PackedModel(own).forward(split)
        assert len(often.passes) == 5 and len(once.passes) == 1
        gaps = [
            float((engine_logits(own, once, r, "eot") - engine_logits(own, often, r, "eot")).abs().max())
            for r in range(len(whole))
        ]
    assert gaps[3] < TOLERANCE  # a row without pauses has one pass
    assert (max(gaps[:3]) > BROKEN) if sabotaged else (max(gaps) < TOLERANCE)


@families
def test_split_passes_cost_what_torch_counts(family: str) -> None:
    own, (whole, split) = backbone(family), split_prompts()
    shape = own.shape()
    for rows in (split, [split[0]], [split[3], split[1]]):
        assert flops.executed_prefill(shape, rows) == torch_flops(
            lambda rows=rows: decode(PackedModel(own), rows, max_tokens=1)
        )  # type: ignore[misc]
    assert flops.executed_prefill(shape, [split[0]]) < flops.executed_prefill(
        shape, [whole[0]]
    )  # no pass multiplies later keys
    assert [flops.prefill_flops(shape, s) for s in split] == [flops.prefill_flops(shape, w) for w in whole]


def test_an_evaluation_with_split_passes_answers_the_same_later() -> None:
    method = PauseCurriculum(c=2, latent_stages=2)
    trained = TrainedModel(backbone("tiny"), method, nn.ModuleDict(), RunSpec())
    questions = [e.question for e in EXAMPLES]
    answered = {}
    for split in (False, True):
        answerer = Predictor(trained, split=split)
        answered[split] = answerer.answer([answerer.prompt(q) for q in questions], 5, (), questions)
    for plain, later in zip(answered[False], answered[True], strict=True):
        assert plain.text == later.text and later.cost["passes"] == plain.cost["passes"] + method.thoughts
        assert all(
            plain.cost[k] == later.cost[k]
            for k in ("flops_prefill", "flops_decode", "latent_positions", "generated_tokens")
        )
    with pytest.raises(UsageError, match="the passes of rim cannot be split"):
        Predictor(TrainedModel(backbone("tiny"), Rim(), nn.ModuleDict(), RunSpec()), split=True)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ((Segment("a", None, (1,), serial=True),), "'a' is serial"),
        ((Segment("a", None, (1,)), Segment("b", "a", slots=2, serial=True)), "'b' is serial"),
        ((Segment("a", None, (1,)), Segment("b", "a", (1, 2), serial=True, mutual=True)), "'b' is serial"),
        (
            (Segment("a", None, (1,)), Segment("b", "a", (1,), serial=True), Segment("c", "b", (1,), weight=1.0)),
            "never trained",
        ),
    ],
)
def test_serial_segments_are_for_prompts(segments: tuple[Segment, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layout(segments)
    with pytest.raises(ValueError, match=r"segments \['x'\] are not in the layout"):
        Layout((Segment("a", None, (1,)),)).split_passes("x")


# Only the new rows train


def prompt_backbone(kind: str) -> Backbone:
    own = copy.deepcopy(backbone("tiny-gpt2" if kind == "lora-gpt2" else kind.removeprefix("lora-")))
    if kind.startswith("lora"):
        own.spec |= {"lora_rank": 3, "lora_alpha": 6}
        own.model = lora.wrap(own.model, own.spec, own.markers, 0)
        with torch.no_grad():
            for name, p in own.model.named_parameters():
                if "lora_B" in name:
                    p.normal_(std=0.05)  # as a shared start leaves it
    return own


@pytest.mark.parametrize("kind", ["tiny", "tiny-gpt2", "lora-tiny", "lora-gpt2"])
def test_a_learned_prompt_moves_nothing_but_its_rows(kind: str) -> None:
    own, rows = prompt_backbone(kind), training_rows(RimAsPrompt(K=2))
    counts = group_counts(rows)
    with torch.no_grad():
        before_loss = float(tree_loss(own, PackedModel(own).forward(rows), counts)[0])
    before = {name: p.detach().clone() for name, p in own.model.state_dict().items()}
    train_markers_only(own)
    ((name, row),) = own.parameters_to_train()
    assert name == "markers" and own.count(training_only=True) == len(own.markers) * own.width == row.numel()
    with torch.no_grad():
        assert float(tree_loss(own, PackedModel(own).forward(rows), counts)[0]) == before_loss
    assert training_flops.executed_cost(own.shape(), own.trains(), rows) == counted(own, rows)
    optimizer = torch.optim.AdamW(own.parameter_groups(0.1), lr=0.01)
    tree_loss(own, PackedModel(own).forward(rows), counts)[0].backward()
    optimizer.step()
    used = [own.markers[m.name] - own.vocabulary for m in RimAsPrompt().markers()]
    with torch.no_grad():
        after_loss = float(tree_loss(own, PackedModel(own).forward(rows), counts)[0])
    assert after_loss < before_loss
    first = own.weights_sha256()  # puts the rows into their places
    changed = {name for name, p in own.model.state_dict().items() if not torch.equal(p, before[name])}
    assert changed and all("embed_tokens" in n or "wte" in n or "lm_head" in n for n in changed)
    for name in changed:
        old, new = before[name], own.model.state_dict()[name]
        start = 0 if "delta" in name else own.vocabulary
        assert torch.equal(old[:start], new[:start]) and not torch.equal(old[start:][used], new[start:][used])
    own.rows_apart = None  # as a loaded model, whose rows lie in it
    with torch.no_grad():
        assert float(tree_loss(own, PackedModel(own).forward(rows), counts)[0]) == pytest.approx(after_loss, abs=1e-6)
    assert own.weights_sha256() == first


def test_a_learned_prompt_is_saved_and_loaded(tmp_path: Path) -> None:
    own = prompt_backbone("tiny")
    train_markers_only(own)
    with torch.no_grad():
        own.parameters_to_train()[0][1].add_(0.5)
    own.save(tmp_path)
    again = Backbone.load(tmp_path)
    ids = torch.tensor([[3, *sorted(own.markers.values())]])
    assert torch.equal(again.embed(ids), own.embed(ids)) and again.weights_sha256() == own.weights_sha256()
    assert not torch.equal(again.embed(ids)[:, 1:], prompt_backbone("tiny").embed(ids)[:, 1:])


def test_what_cannot_be_a_learned_prompt_is_refused() -> None:
    with pytest.raises(UsageError, match="backbone 'tiny' has random weights: give a pretrained one"):
        check_trains(RimAsPrompt(), TINY, "recipe")
    for method, spec, start in ((RimAsPrompt(), TINY, "cot"), (RimAsPrompt(), GPT2, "recipe"), (Rim(), TINY, "recipe")):
        check_trains(method, spec, start)
    adapted = load_method("direct-adapter-matched")
    check_trains(adapted, GPT2, "recipe")
    with pytest.raises(UsageError, match="has an adapter of its own rank"):
        check_trains(adapted, GPT2, "cot")
    bare = copy.deepcopy(model("tiny"))
    bare.markers = {}
    with pytest.raises(UsageError, match="nothing is left to train"):
        train_markers_only(bare)


# Adapters of another rank


@families
@pytest.mark.parametrize("method", [Direct(), Pause()], ids=lambda m: m.name)
def test_the_matched_rank_is_the_smallest_that_trains_as_many_parameters(family: str, method: Method) -> None:
    def trained(rank: int, of: Method) -> int:
        own = copy.deepcopy(model(family))
        markers = {m.name: own.markers[m.name] for m in of.markers()}
        own.model = lora.wrap(own.model, {"lora_rank": rank, "lora_alpha": 8}, markers, 0)
        found = own.count(training_only=True)
        assert found == adapter_parameters(shape, rank) + len(markers) * own.width
        return found

    shape = Shape.of(model(family).causal.config.to_dict())
    rank = matched_rank(shape, 4, 3, len(method.markers()))
    assert trained(rank, method) >= trained(4, Rim()) > trained(rank - 1, method)
    assert matched_rank(shape, 4, 1, 1) == 4 and matched_rank(shape, 4, 1000, 0) > 5


def test_a_matched_backbone_keeps_the_adapter_s_strength() -> None:
    shape = Shape(12, 768, 12, 12, 64, 3072, 50257, gated=False)
    spec = {"kind": "hub", "name": "gpt2", "tuning": "lora", "lora_rank": 128, "lora_alpha": 32}
    assert matched_backbone(spec, shape, load_method("direct-adapter-matched")) == {
        **spec,
        "lora_rank": 129,
        "lora_alpha": 32.25,
    }
    assert matched_backbone(spec, shape, Direct()) == spec
    with pytest.raises(
        UsageError, match="pause-adapter-matched raises the rank of an adapter, and backbone 'gpt2' trains without one"
    ):
        matched_backbone({**spec, "tuning": "full"}, shape, load_method("pause-adapter-matched"))


def test_the_price_of_a_control_is_that_of_what_it_trains() -> None:
    shape = Shape(12, 768, 12, 12, 64, 3072, 50257, gated=False, rank=128)
    priced = {
        n: price(load_method(n), shape, Lengths()) for n in ("direct", "direct-adapter-matched", "rim", "rim-as-prompt")
    }
    assert 1 < priced["direct-adapter-matched"].flops_prefill / priced["direct"].flops_prefill < 1.01
    assert priced["rim-as-prompt"].flops_prefill == priced["rim"].flops_prefill
    assert priced["rim-as-prompt"].flops_train < priced["rim"].flops_train
    full = Shape(12, 768, 12, 12, 64, 3072, 50257, gated=False)
    assert price(load_method("rim-as-prompt"), full, Lengths()).flops_train < price(Rim(), full, Lengths()).flops_train


# The table of controls


def needed(names: str, start: str, spec: dict[str, Any]) -> tuple[set[str], set[str]]:
    found, left = controls_for([load_method(n) for n in names.split(",")], start, spec)
    assert all(c.claim and c.source for c in found) and all(item.reason for item in left)
    return {c.label for c in found}, {item.control.label for item in left}


def test_every_control_is_a_method_and_its_settings_fit() -> None:
    known = all_methods()
    for control in CONTROLS:
        assert {control.method, control.of} <= known.keys()
        compared = load_method(control.of)
        made = load_method(control.method, matched_settings(control, compared))
        for name, value in made.settings().items():  # whatever the control shares it has as the method has it
            if (
                control.matched is not None
                and name in matched_settings(control, compared)
                and name in compared.settings()
            ):
                assert value == compared.settings()[name]
    by_name = {c.label: c for c in CONTROLS}
    assert matched_settings(by_name["pause-distinct"], Rim(K=4)) == {"N": 16}
    assert load_method(
        "rim-no-grounding", matched_settings(by_name["rim-no-grounding"], Rim(K=6, M=3))
    ) == RimNoGrounding(K=6, M=3)
    assert load_method(
        "rim-no-refinement", matched_settings(by_name["rim-no-refinement"], Rim(K=6, M=3))
    ) == RimNoRefinement(M=3)
    assert (
        load_method("pause-curriculum", matched_settings(CONTROLS[0], Coconut(c=1))).settings()
        == Coconut(c=1).settings()
    )


def test_the_controls_that_a_comparison_needs() -> None:
    coconut = {"pause-curriculum", "no-thought-curriculum", "coconut-no-curriculum", "pause-multipass"}
    rim = {"rim-no-grounding", "rim-no-refinement", "rim-shuffled-steps", "rim-isolated-blocks", "rim-blocks-removed",
           "pause-curriculum", "pause-distinct"}  # fmt: skip
    adapters = {"direct-adapter-matched", "pause-adapter-matched"}
    assert needed("direct", "recipe", TINY) == (set(), set())
    assert needed("cot", "cot", TINY) == ({"direct", "pause"}, set())
    assert needed("coconut", "cot", TINY) == (coconut | {"direct", "pause"}, set())
    warm = {"direct (from cot)", "pause (from cot)"}  # coconut's own stage 0 is a warm start
    assert needed("coconut", "recipe", GPT2) == (coconut | warm | {"direct", "pause"}, set())
    assert needed("rim", "recipe", GPT2) == (rim | adapters | {"rim-as-prompt", "direct", "pause"}, set())
    assert needed("rim", "recipe", TINY) == (rim | {"direct", "pause"}, adapters | {"rim-as-prompt"})
    assert needed("rim", "cot", TINY) == (rim | {"rim-as-prompt", "direct", "pause"}, adapters)
    assert needed("rim", "cot", GPT2)[1] == adapters


# Names with hyphens, and the embedded task's recipe


def test_names_with_hyphens_pass_through() -> None:
    given = Options(
        methods=read_names("pause-curriculum,rim-no-grounding"),
        task="chain",
        settings=read_settings(["pause-curriculum.c=3"]),
    )
    assert given.methods == ("pause-curriculum", "rim-no-grounding") and given.settings == {
        "pause-curriculum": {"c": "3"}
    }
    assert load_method("pause-curriculum", given.settings["pause-curriculum"]) == PauseCurriculum(c=3)
    assert spec_id({"method": {"name": "pause-curriculum"}, "task": {"name": "chain"}}).startswith(
        "pause-curriculum-chain-"
    )


def test_the_embedded_task_has_the_controls_at_their_method_s_settings_and_rates() -> None:
    recipe = load_task("chain").recipe
    settings, rates = recipe["methods"], recipe["lr"]["scratch"]
    for control in CONTROLS:
        if (
            control.evaluation
            or control.needs == "adapter"
            or (control.of == "rim" and control.method == "pause-curriculum")
        ):
            continue
        compared = load_method(control.of, settings[control.of])
        own = load_method(control.method, settings[control.method])
        assert own == own.with_settings(matched_settings(control, compared))
        like = "pause" if control.method == "pause-distinct" else control.of
        assert rates[control.method] == rates[like] and control.method not in recipe["tuned"]
