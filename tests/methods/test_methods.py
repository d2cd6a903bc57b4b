"""Every shipped method against the page that says what it is, with expectations written by hand."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import encoded
from engine import model

from rim_bench.baselines.coconut import Coconut
from rim_bench.baselines.cot import ChainOfThought
from rim_bench.baselines.direct import Direct
from rim_bench.baselines.pause import Pause
from rim_bench.compute.backbones import resolve_backbone
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.generate import decode, score
from rim_bench.engine.packing import PackedModel
from rim_bench.methods.layout import Layout
from rim_bench.methods.method import Encoded, Marker, Method, Stage
from rim_bench.methods.registry import all_methods, load_method
from rim_bench.methods.schedule import spans
from rim_bench.models.rim import Rim
from rim_bench.util.errors import UsageError

RNG = random.Random(0)
FOUR = Encoded("four", (1, 2, 3), ((11, 12), (21,), (31, 32, 33), (41,)), (90, 91))
ONE = Encoded("one", (1, 2, 3), ((11, 12),), (90, 91))
NONE = Encoded("none", (1, 2, 3), (), (90, 91))


def lay(method: Method, example: Encoded, stage: int | str, progress: float = 0.0) -> Layout:
    """The training layout in the stage of this place or name."""
    stages = method.stages()
    chosen = stages[stage] if isinstance(stage, int) else next(s for s in stages if s.name == stage)
    return method.lay_train(example, chosen, progress, RNG)


def brief(layout: Layout) -> list[tuple[str, str | None, int, float]]:
    """Name, parent, size and weight of every segment."""
    return [(s.name, s.after, s.size, s.weight) for s in layout.segments]


def readouts(layout: Layout) -> dict[int, tuple[tuple[Any, ...], float]]:
    """Block number -> tokens and weight of the readout behind it."""
    out = {}
    for s in layout.segments:
        if s.name.startswith("readout"):
            assert s.after == f"block {s.name.split()[1]}"
            out[int(s.name.split()[1])] = (s.tokens, s.weight)
    return out


# direct, cot, pause


def test_direct_is_question_and_answer() -> None:
    layout = lay(Direct(), FOUR, 0)
    assert brief(layout) == [("question", None, 3, 0.0), ("answer", "question", 2, 1.0)]
    assert layout.segments[1].tokens == FOUR.answer and len(Direct().stages()) == 1


def test_cot_trains_every_step_and_the_answer() -> None:
    layout = lay(ChainOfThought(), FOUR, 0)
    assert layout.tokens == (1, 2, 3, 11, 12, 21, 31, 32, 33, 41, 90, 91)
    assert [x.target for x in layout.labels] == [11, 12, 21, 31, 32, 33, 41, 90, 91]
    assert {x.weight for x in layout.labels} == {1.0}


def test_a_row_without_steps_trains_its_answer_alone() -> None:
    assert lay(ChainOfThought(), NONE, 0) == lay(Direct(), NONE, 0)


@pytest.mark.parametrize("method", [Direct(), ChainOfThought()])
def test_a_plain_prompt_is_the_question(method: Method) -> None:
    prompt = method.lay_prompt(FOUR.question)
    assert (prompt.tokens, prompt.resume, prompt.passes) == (FOUR.question, ("question",), 1)


def test_pause_has_n_copies_of_one_marker_without_a_loss() -> None:
    assert Pause().N == 10 and [m.name for m in Pause().markers()] == ["<pause>"]
    layout = lay(Pause(N=4), FOUR, 0)
    assert layout.tokens == (1, 2, 3, "<pause>", "<pause>", "<pause>", "<pause>", 90, 91)
    assert [(x.source, x.target) for x in layout.labels] == [(6, 90), (7, 91)] and layout.passes == 1
    prompt = Pause(N=4).lay_prompt(FOUR.question)
    assert prompt.segments == layout.segments[:2] and prompt.resume == ("pauses",)
    assert Pause(N=4).lay_prompt(FOUR.question, 2).size == 5
    assert (
        Pause(N=4).lay_prompt(FOUR.question, 0)
        == Pause(N=0).lay_prompt(FOUR.question)
        == Direct().lay_prompt(FOUR.question)
    )


# coconut


def test_coconut_has_the_published_curriculum() -> None:
    stages = Coconut().stages()
    assert [(s.name, s.share) for s in stages] == [
        ("cot", 6),
        ("latent 1", 3),
        ("latent 2", 3),
        ("latent 3", 3),
        ("answer only", 13),
    ]
    assert [s.reset for s in stages] == [False, True, True, True, True]
    assert [s.given_by for s in stages] == ["cot", None, None, None, None]
    assert not any(s.reset for s in Coconut(reset_optimizer=False).stages())
    assert [s.name for s in Coconut(epochs_cot=0, latent_stages=2).stages()] == ["latent 1", "latent 2", "answer only"]


@pytest.mark.parametrize(
    ("stage", "thoughts", "kept"),
    [("cot", 0, (11, 12, 21, 31, 32, 33, 41)), ("latent 1", 2, (21, 31, 32, 33, 41)), ("latent 2", 4, (31, 32, 33, 41)),
     ("latent 3", 6, (41,)), ("answer only", 6, ())],
)  # fmt: skip
def test_coconut_replaces_the_first_steps(stage: str, thoughts: int, kept: tuple[int, ...]) -> None:
    layout = lay(Coconut(), FOUR, stage)
    frame = (1, 2, 3) if not thoughts else (1, 2, 3, "<bot>", *(None,) * thoughts, "<eot>")
    assert layout.tokens == (*frame, *kept, 90, 91)
    assert [x.target for x in layout.labels] == [
        *kept,
        90,
        91,
    ]  # all that is left is supervised, markers and thoughts are not
    assert layout.labels[0].source == len(frame) - 1
    assert layout.passes == thoughts + 1 and layout.is_chain


@pytest.mark.parametrize("example", [ONE, NONE])
@pytest.mark.parametrize(("stage", "thoughts"), [("latent 1", 2), ("latent 2", 4), ("latent 3", 6), ("answer only", 6)])
def test_coconut_pads_short_examples_to_the_maximum(example: Encoded, stage: str, thoughts: int) -> None:
    assert lay(Coconut(), example, stage).tokens == (1, 2, 3, "<bot>", *(None,) * thoughts, "<eot>", 90, 91)


def test_coconut_replaces_c_thoughts_a_step() -> None:
    method = Coconut(c=3, latent_stages=2)
    assert method.thoughts == 6
    assert [lay(method, FOUR, s).passes - 1 for s in range(4)] == [0, 3, 6, 6]
    assert lay(method, FOUR, "latent 2").tokens[-6:] == (31, 32, 33, 41, 90, 91)
    prompt = method.lay_prompt(FOUR.question)
    assert [(s.name, s.after, s.size) for s in prompt.segments] == [
        ("question", None, 3), ("bot", "question", 1), ("thoughts", "bot", 6), ("eot", "thoughts", 1),
    ]  # fmt: skip
    assert prompt.segments == lay(method, FOUR, "answer only").segments[:4] and prompt.resume == ("eot",)
    assert method.lay_prompt(FOUR.question, 1).passes == 2
    assert method.lay_prompt(FOUR.question, 0).tokens == (1, 2, 3, "<bot>", "<eot>")


def test_coconut_markers_start_as_a_copy_of_one_row() -> None:
    assert Coconut().markers() == (Marker("<bot>", like="<<"), Marker("<eot>", like="<<"))
    spec = resolve_backbone("tiny", {"layers": 1, "width": 16, "heads": 2, "vocabulary": 300})
    backbone = Backbone.create(spec, texts=["<<1+1=2>>"] * 3, markers=Coconut().markers() + Rim().markers())
    table = backbone.model.get_input_embeddings().weight
    (like,) = backbone.encode("<<")
    assert torch.equal(table[backbone.markers["<bot>"]], table[like]) and torch.equal(
        table[backbone.markers["<eot>"]], table[like]
    )
    blocks = [table[backbone.markers[m.name]] for m in Rim().markers()]
    assert len({tuple(row.tolist()) for row in [*blocks, table[like]]}) == 4  # rim's rows all differ


def test_a_cot_start_gives_stage_0_and_its_share_goes_to_the_others() -> None:
    recipe = spans(Coconut().stages(), 280, "recipe")
    assert [(s.stage.name, s.first, s.length) for s in recipe] == [
        ("cot", 0, 60), ("latent 1", 60, 30), ("latent 2", 90, 30), ("latent 3", 120, 30), ("answer only", 150, 130),
    ]  # fmt: skip
    cot = spans(Coconut().stages(), 220, "cot")
    assert [(s.stage.name, s.first, s.length) for s in cot] == [
        ("latent 1", 0, 30), ("latent 2", 30, 30), ("latent 3", 60, 30), ("answer only", 90, 130),
    ]  # fmt: skip
    assert spans(Rim().stages(), 80, "cot") == spans(Rim().stages(), 80, "recipe")


# rim


def test_rim_has_the_published_stages_and_blocks() -> None:
    ground, refine = Rim().stages()
    assert (ground.share, refine.share, refine.lr_scale) == (6, 2, 0.2)
    assert (ground.reset, refine.reset) == (False, True) and refine.dropout > ground.dropout == 0
    assert Rim().block == ("<b>", "<m>", "<m>", "</b>") and [m.name for m in Rim().markers()] == ["<b>", "<m>", "</b>"]
    assert Rim(M=0).block == ("<b>", "</b>")
    assert [s.name for s in Rim(epochs_ground=0).stages()] == ["refinement"]
    assert [s.name for s in Rim(epochs_refine=0).stages()] == ["grounding"]


def test_grounding_skip_reads_the_next_step() -> None:
    layout = lay(Rim(), FOUR, 0)
    assert brief(layout)[:5] == [("question", None, 3, 0.0)] + [
        (f"block {k}", "question" if k == 1 else f"block {k - 1}", 4, 0.0) for k in range(1, 5)
    ]
    assert readouts(layout) == {1: ((21,), 1.0), 2: ((31, 32, 33), 1.0), 3: ((41,), 1.0), 4: ((90, 91), 1.0)}
    assert {s.group for s in layout.segments if s.weight} == {"readouts"} and layout.passes == 1


def test_grounding_all_reads_every_step_with_a_block_more() -> None:
    layout = lay(Rim(ground="all"), FOUR, 0)
    assert readouts(layout) == {
        1: ((11, 12), 1.0),
        2: ((21,), 1.0),
        3: ((31, 32, 33), 1.0),
        4: ((41,), 1.0),
        5: ((90, 91), 1.0),
    }
    assert sum(s.name.startswith("block") for s in layout.segments) == 5


@pytest.mark.parametrize("ground", ["skip", "all"])
def test_grounding_without_steps_is_one_block_and_the_answer(ground: Any) -> None:
    layout = lay(Rim(ground=ground), NONE, 0, 0.9)
    assert brief(layout) == [
        ("question", None, 3, 0.0),
        ("block 1", "question", 4, 0.0),
        ("readout 1", "block 1", 2, 1.0),
    ]
    assert readouts(layout) == {1: ((90, 91), 1.0)}


def test_grounding_of_one_step() -> None:
    assert readouts(lay(Rim(), ONE, 0)) == {1: ((90, 91), 1.0)}
    assert readouts(lay(Rim(ground="all"), ONE, 0)) == {1: ((11, 12), 1.0), 2: ((90, 91), 1.0)}


def test_more_steps_than_rim_grounds_are_refused() -> None:
    thirteen, fourteen = encoded(3, (1,) * 13), encoded(3, (1,) * 14)
    assert len(readouts(lay(Rim(), thirteen, 0))) == 13
    with pytest.raises(UsageError, match=r"'example' has 14 steps, rim grounds at most max_steps = 13"):
        lay(Rim(), fourteen, 0)
    assert len(readouts(lay(Rim(max_steps=14), fourteen, 0))) == 14
    assert len(readouts(lay(Rim(), fourteen, 1))) == 8  # stage 2 does not look at the steps


@pytest.mark.parametrize(
    ("options", "progress", "weights"),
    [  # lambda_t of a four-step example, t = 1..4; None: no branch at all
        ({"schedule": "relative"}, 0.0, (1, 1, 1, 1)),
        ({"schedule": "relative"}, 0.125, (0.5, 0.75, 5 / 6, 1)),  # 1 - s/S * 4/t
        ({"schedule": "relative"}, 0.25, (None, 0.5, 2 / 3, 1)),
        ({"schedule": "relative"}, 0.5, (None, None, 1 / 3, 1)),
        ({"schedule": "relative"}, 0.75, (None, None, None, 1)),
        ({"schedule": "relative", "anneal_answer": True}, 0.0, (1, 1, 1, 1)),
        ({"schedule": "relative", "anneal_answer": True}, 0.5, (None, None, 1 / 3, 0.5)),
        ({"schedule": "relative", "anneal_answer": True}, 0.9, (None, None, None, 0.1)),
        ({"schedule": "uniform"}, 0.25, (0.75, 0.75, 0.75, 1)),
        ({"schedule": "uniform", "anneal_answer": True}, 0.25, (0.75,) * 4),
        ({"schedule": "constant"}, 0.99, (1, 1, 1, 1)),
        ({"schedule": "constant", "anneal_answer": True}, 0.99, (1, 1, 1, 1)),
    ],
)
def test_lambda_schedules(options: dict[str, Any], progress: float, weights: tuple[float | None, ...]) -> None:
    layout = lay(Rim(**options), FOUR, 0, progress)
    got = {t: weight for t, (_, weight) in readouts(layout).items()}
    assert got == pytest.approx({t: w for t, w in enumerate(weights, 1) if w is not None})
    assert sum(s.name.startswith("block") for s in layout.segments) == 4  # the blocks stay when a branch goes


def test_the_schedule_of_ground_all_counts_its_own_readouts() -> None:
    got = readouts(lay(Rim(ground="all"), FOUR, 0, 0.4))  # 1 - 0.4 * 5/t
    assert {t: w for t, (_, w) in got.items()} == pytest.approx({3: 1 / 3, 4: 0.5, 5: 1.0})


@pytest.mark.parametrize(("blocks", "alphas"), [(1, (1,)), (2, (1 / 3, 2 / 3)), (4, (0.1, 0.2, 0.3, 0.4))])
@pytest.mark.parametrize("example", [FOUR, NONE])
def test_refinement_reads_the_answer_behind_every_block(
    blocks: int, alphas: tuple[float, ...], example: Encoded
) -> None:
    layout = lay(Rim(K=blocks), example, "refinement", 0.7)
    assert {k: tokens for k, (tokens, _) in readouts(layout).items()} == dict.fromkeys(range(1, blocks + 1), (90, 91))
    assert [weight for _, weight in readouts(layout).values()] == pytest.approx(alphas)
    groups = [s.group for s in layout.segments if s.weight]
    assert len(set(groups)) == blocks  # averaged apart: the weights add up over blocks, not over tokens


def test_alphas_sum_to_one() -> None:
    assert sum(w for _, w in readouts(lay(Rim(), FOUR, 1)).values()) == pytest.approx(1.0)


def test_readouts_see_their_past_and_not_each_other() -> None:
    layout = lay(Rim(K=3), FOUR, 1)
    names = [s.name for s in layout.segments]
    assert names == ["question", "block 1", "block 2", "block 3", "readout 1", "readout 2", "readout 3"]
    sees = [{names[a] for a in above} for above in layout.sees]
    assert sees[4:] == [
        {"question", "block 1"},
        {"question", "block 1", "block 2"},
        {"question", "block 1", "block 2", "block 3"},
    ]
    assert sees[3] == {"question", "block 1", "block 2"}
    assert layout.starts == (0, 3, 7, 11, 7, 11, 15)  # readout t starts right behind block t


def test_the_prompt_is_the_trunk_of_training() -> None:
    method = Rim(K=3)
    prompt = method.lay_prompt(FOUR.question)
    assert prompt.segments == lay(method, FOUR, 1).segments[:4] and prompt.resume == ("block 3",)
    assert method.lay_prompt(FOUR.question, 5).resume == ("block 5",)
    probe = method.lay_probe(FOUR.question)
    assert probe is not None and probe.segments == prompt.segments and probe.resume == ("block 1", "block 2", "block 3")


@pytest.mark.parametrize("method", [Rim(), Rim(readout_sees_question=False), Rim(blocks="isolated")])
def test_no_blocks_is_the_question_alone(method: Rim) -> None:
    assert method.lay_prompt(FOUR.question, 0) == Direct().lay_prompt(FOUR.question)
    assert method.lay_probe(FOUR.question, 0) is None


def test_isolated_blocks_see_the_question_only() -> None:
    layout = lay(Rim(K=3, blocks="isolated"), FOUR, 1)
    assert [s.after for s in layout.segments[1:4]] == ["question"] * 3
    assert layout.sees[1:4] == (frozenset({0}),) * 3 and layout.starts[1:4] == (3, 3, 3)
    assert layout.sees[4:] == (frozenset({0, 1}), frozenset({0, 2}), frozenset({0, 3}))
    prompt = Rim(K=3, blocks="isolated").lay_prompt(FOUR.question)
    assert prompt.resume == ("block 3",) and prompt.sees[3] == frozenset({0})


@pytest.mark.parametrize("stage", [0, 1])
def test_blind_readouts_see_the_blocks_only(stage: int) -> None:
    layout = lay(Rim(K=4, readout_sees_question=False), FOUR, stage)
    names = [s.name for s in layout.segments]
    for s, above in zip(layout.segments, layout.sees, strict=True):
        seen = {names[a] for a in above}
        if s.name.startswith("readout"):
            assert seen == {f"block {k}" for k in range(1, int(s.name.split()[1]) + 1)}
        elif s.name != "question":
            assert "question" in seen


@pytest.mark.parametrize("sees", [True, False])
def test_blindness_holds_for_what_is_generated(sees: bool) -> None:
    """With blocks that do not see the question either, nothing of it can reach a blind answer."""
    method = Rim(K=2, readout_sees_question=sees)

    def prompt(question: tuple[int, ...]) -> Layout:
        given = method.lay_prompt(question)
        shut = (dataclasses.replace(s, blind=frozenset({"question"})) if s.after else s for s in given.segments)
        return Layout(tuple(shut), given.resume, given.blind)

    work = PackedModel(model("tiny"))
    rows = [prompt((20, 30, 40, 50)), prompt((60, 61, 62, 63)), prompt((7, 99, 12, 31))]
    answer = (70, 71, 72, 73)
    logprobs = [row[0].logprob for row in score(work, rows, [[answer]] * 3)]
    generated = [next(iter(row.values())).tokens for row in decode(work, rows, max_tokens=12)]
    if sees:
        assert min(abs(logprobs[0] - other) for other in logprobs[1:]) > 1e-2 and len(set(generated)) > 1
    else:
        assert max(abs(logprobs[0] - other) for other in logprobs[1:]) < 1e-4 and len(set(generated)) == 1


@pytest.mark.parametrize("stage", [0, 1])
def test_mutual_attention_is_inside_the_blocks_only(stage: int) -> None:
    plain, mutual = (lay(Rim(K=4, block_attention=kind), FOUR, stage) for kind in ("causal", "mutual"))
    assert not any(s.mutual for s in plain.segments)
    assert [s.name for s in mutual.segments if s.mutual] == [f"block {k}" for k in range(1, 5)]
    assert (mutual.sees, mutual.position, mutual.labels) == (plain.sees, plain.position, plain.labels)


# options


@pytest.mark.parametrize(
    ("method", "settings", "field", "value"),
    [
        ("rim", {"K": "4"}, "K", 4),
        ("rim", {"K": 4.0}, "K", 4),
        ("rim", {"readout_sees_question": "false"}, "readout_sees_question", False),
        ("rim", {"anneal_answer": "YES"}, "anneal_answer", True),
        ("rim", {"anneal_answer": "0"}, "anneal_answer", False),
        ("rim", {"epochs_ground": "1.5"}, "epochs_ground", 1.5),
        ("rim", {"refine_dropout": 0}, "refine_dropout", 0.0),
        ("rim", {"ground": "all"}, "ground", "all"),
        ("coconut", {"c": "1", "latent_stages": "5"}, "latent_stages", 5),
        ("pause", {"N": "0"}, "N", 0),
    ],
)
def test_settings_become_their_types(method: str, settings: dict[str, Any], field: str, value: Any) -> None:
    got = getattr(load_method(method, settings), field)
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("rim", {"K": "four"}, "rim.K = 'four' is not a whole number"),
        ("rim", {"K": "4.5"}, "rim.K = '4.5' is not a whole number"),
        ("rim", {"K": 4.5}, "rim.K = 4.5 is not a whole number"),
        ("rim", {"K": True}, "rim.K = True is not a whole number"),
        ("rim", {"K": None}, "rim.K = None is not a whole number"),
        ("rim", {"K": "0"}, "rim: K = 0 and max_steps = 13 must be at least 1"),
        ("rim", {"M": "-1"}, "M = -1 at least 0"),
        ("rim", {"epochs_ground": "long"}, "rim.epochs_ground = 'long' is not a number"),
        ("rim", {"epochs_ground": "nan"}, "rim.epochs_ground = 'nan' is not a number"),
        ("rim", {"epochs_refine": "inf"}, "rim.epochs_refine = 'inf' is not a number"),
        ("rim", {"epochs_ground": "0", "epochs_refine": "0"}, "one of them more than 0"),
        ("rim", {"epochs_ground": "-1"}, "must be 0 or more"),
        ("rim", {"refine_dropout": "1"}, r"must lie in \[0, 1\)"),
        ("rim", {"refine_lr_scale": "0"}, "refine_lr_scale above 0"),
        ("rim", {"ground": "some"}, "rim.ground = 'some' is not one of skip, all"),
        ("rim", {"schedule": "linear"}, "is not one of relative, uniform, constant"),
        ("rim", {"block_attention": "both"}, "is not one of causal, mutual"),
        ("rim", {"blocks": "free"}, "is not one of chain, isolated"),
        ("rim", {"anneal_answer": "maybe"}, "rim.anneal_answer = 'maybe' is not true or false"),
        ("rim", {"max_step": "3"}, "unknown option of rim 'max_step'.*did you mean 'max_steps'"),
        (
            "rim",
            {"k": "3", "M": "x"},
            "unknown option of rim 'k'.*; rim.M = 'x' is not a whole number",
        ),  # all of them together
        ("direct", {"K": "3"}, "unknown option of direct 'K': allowed are none"),
        ("coconut", {"c": "0"}, "coconut: c = 0 and latent_stages = 3 must both be at least 1"),
        ("coconut", {"epochs_last": "0"}, "epochs_last more than 0"),
        ("pause", {"N": "-1"}, "pause: N = -1 pauses: give 0 or more"),
        ("coconot", {}, "unknown method 'coconot'.*did you mean 'coconut'"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_sentence(
    method: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_method(method, settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", [Rim(), Coconut(), Pause()])
def test_a_negative_effort_is_refused(method: Method) -> None:
    with pytest.raises(UsageError, match=f"effort -1: {method.name} takes 0 or more"):
        method.lay_prompt(FOUR.question, -1)


def test_settings_are_the_record_that_makes_the_same_method() -> None:
    for name, cls in all_methods().items():
        method = cls()
        assert load_method(name, method.settings()) == method and method.summary and "\n" not in method.summary
        assert (method.effort_field is None) or hasattr(method, method.effort_field)
        assert all(isinstance(s, Stage) and s.share > 0 for s in method.stages())
    assert set(all_methods()) >= {"direct", "cot", "pause", "coconut", "rim"}


# own methods

OWN = """
from dataclasses import dataclass
from rim_bench.models.rim import Rim

@dataclass(frozen=True)
class Mine(Rim):
    name = "mine"
    summary = "blocks of one token"
    M: int = 1
"""

NO_DEFAULT = """
from dataclasses import dataclass
from rim_bench.methods.method import Method

@dataclass(frozen=True)
class Mine(Method):
    name = "mine"
    size: int
"""


def write(path: Path, text: str) -> str:
    path.write_text(text, "utf-8")
    return str(path)


def test_a_method_from_a_file(tmp_path: Path) -> None:
    method = load_method(write(tmp_path / "mine.py", OWN), {"K": "2"})
    assert method.name == "mine" and method.settings()["M"] == 1
    prompt = method.lay_prompt((1, 2))
    assert prompt.tokens == (1, 2, "<b>", "<m>", "</b>", "<b>", "<m>", "</b>")
    again = load_method(str(tmp_path / "mine.py"))
    assert type(again) is type(method)  # loaded once: two classes of one file would not be equal


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "must define exactly one named Method subclass, found none"),
        ("from rim_bench.models.rim import Rim\n", "found none"),  # what it imports is not its own
        ("from rim_bench.methods.method import Method\nclass Base(Method):\n    pass\n", "found none"),  # unnamed
        (OWN + "\nclass Other(Mine):\n    name = 'other'\n", "found mine, other"),
        (
            "import no_such_package_xyz\n",
            "failed to import: ModuleNotFoundError: No module named 'no_such_package_xyz'",
        ),
        ("def broken(:\n", "failed to import: SyntaxError"),
        ("raise ValueError('two\\nlines')\n", "failed to import: ValueError: two lines"),
        (NO_DEFAULT, "every field needs a default"),
    ],
)
def test_a_file_that_is_no_method_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "own.py", text)
    for _ in range(2):  # a failed import leaves nothing behind that the next attempt would take for a method
        with pytest.raises(UsageError, match=message) as caught:
            load_method(path)
        assert "\n" not in str(caught.value) and path in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist: give a path to a Python file or a name"):
        load_method(str(tmp_path / "none.py"))


def install(folder: Path, name: str, entry: str, module: str) -> None:
    """A distribution as pip would leave it: a module and the metadata that declares its entry point."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    write(info / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    write(info / "entry_points.txt", f"[rim_bench.methods]\n{entry}\n")
    write(folder / f"{name}.py", module)


@pytest.mark.parametrize("entry", ["mine = rim_fake_{i}:Mine", "all = rim_fake_{i}"])
def test_methods_of_installed_packages_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    name = f"rim_fake_{len(entry)}"
    install(tmp_path, name, entry.replace("rim_fake_{i}", name), OWN)
    assert "mine" not in all_methods()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_method("mine", {"K": "3"}).lay_prompt((1,)).resume == ("block 3",)


def test_an_installed_method_whose_name_no_folder_can_have_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(tmp_path, "rim_fake_escape", "x = rim_fake_escape", OWN.replace('"mine"', '"../escape"'))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "../escape" not in all_methods() and "'../escape' is not a name" in caplog.text


def test_an_installed_package_cannot_replace_a_shipped_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "rim_fake_rim", "rim = rim_fake_rim:Mine", OWN.replace('"mine"', '"rim"'))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert type(load_method("rim")) is Rim


@pytest.mark.parametrize(
    ("entry", "reason"), [("x = rim_fake_bad:Gone", "Gone"), ("x = rim_fake_bad:NUMBER", "no Method")]
)
def test_a_broken_installed_package_is_named_and_hurts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, entry: str, reason: str
) -> None:
    install(tmp_path, "rim_fake_bad", entry, "NUMBER = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert type(load_method("rim")) is all_methods()["rim"] is Rim
    assert "rim_fake_bad" in caplog.text and reason in caplog.text
