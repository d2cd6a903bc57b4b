"""What interventions are built on: each pass has a second way to the same numbers, and a sabotage that breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engine import FAMILIES, model
from engine_models import base_folder
from trunks import MARK, passes, rows

from rim_bench.analysis.edits import Moments, Source, rotation
from rim_bench.analysis.passes import Answered, Computed
from rim_bench.analysis.suite import Intervention
from rim_bench.analysis.trunks import Trunk, trunk_of, written_trunk
from rim_bench.baselines.coconut import Coconut
from rim_bench.baselines.cot import ChainOfThought
from rim_bench.baselines.pause import Pause
from rim_bench.compute.backbones import resolve_backbone
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.generate import decode, score
from rim_bench.methods.layout import Layout
from rim_bench.methods.method import Example, Method
from rim_bench.models.rim import Rim
from rim_bench.storage.interventions import DONOR, EVERYTHING, KEYS_AND_VALUES, MEAN, OWN, PERMUTATION, RESIDUAL, ZERO

CASES: tuple[tuple[str, Method], ...] = (
    ("tiny", Rim(K=3)),
    ("tiny", Coconut(c=1, latent_stages=3)),
    ("tiny-gpt2", Rim(K=3)),
    ("tiny-gpt2", Coconut(c=1, latent_stages=3)),
    ("tiny-qwen", Rim(K=2, block_attention="mutual", readout_sees_question=False)),
    ("tiny-qwen", Pause(N=3)),
)
CANDIDATES = [((20, 21), (30,), (40, 41, 42))] * 3
families = pytest.mark.parametrize("family", FAMILIES)
cases = pytest.mark.parametrize(("family", "method"), CASES)
TOLERANCE, BROKEN = 2e-5, 2e-4


def logprobs(answered: list[Answered]) -> torch.Tensor:
    return torch.tensor([a.logprobs for a in answered])


def gap(one: list[Answered], other: list[Answered]) -> float:
    return float((logprobs(one) - logprobs(other)).abs().max())


def sources(backbone: Backbone, trunks: list[Trunk]) -> Source:
    """Each question's donor is the next one."""
    run = passes(backbone)
    own, again = (run.compute(trunks, record=True) for _ in range(2))
    donor = run.compute([*trunks[1:], trunks[0]], record=True)
    moments = Moments.of(own, own.places(trunks[0].segments))
    return Source(trunks, own, again, {DONOR: donor}, moments, 0)


def answers(backbone: Backbone, source: Source, asked: Intervention | None) -> list[Answered]:
    """What follows an intervention; None: nothing is changed."""
    run, trunks = passes(backbone), list(source.trunks)
    if asked is None:
        return run.answer(source.own, source.own.states, CANDIDATES)
    names = asked.names(trunks[0])
    assert names is not None
    with torch.inference_mode():
        if asked.site == KEYS_AND_VALUES:
            return run.answer(source.own, source.edited_states(asked, names), CANDIDATES)
        computed = run.compute(trunks, source.written(asked, names))
        return run.answer(computed, computed.states, CANDIDATES)


def marked(trunk: Trunk) -> Layout:
    row = trunk.layout.grow(trunk.layout.continuation("mark", trunk.layout.resume[0], MARK))
    return Layout(row.segments, ("mark",), row.blind)


@cases
def test_an_answer_is_that_of_the_engine(family: str, method: Method) -> None:
    """Scored and decoded behind the mark, in one tree with its prompt: as evaluation does."""
    backbone, trunks = model(family), rows(method)
    run = passes(backbone)
    own = run.compute(trunks)
    scored = run.answer(own, own.states, CANDIDATES)
    prompts = [method.lay_prompt(t.layout.segments[0].tokens) for t in trunks]  # type: ignore[arg-type]
    plain = [trunk_of(t.example, (), p) for t, p in zip(trunks, prompts, strict=True)]
    assert [t.layout.depth for t in trunks] == [t.layout.depth for t in plain]
    wanted = score(run.workspace, [marked(t) for t in trunks], CANDIDATES)
    expected = torch.tensor([[c.logprob for c in row] for row in wanted])
    assert float((logprobs(scored) - expected).abs().max()) < TOLERANCE
    greedy = decode(run.workspace, [marked(t) for t in trunks], max_tokens=3)
    written = [a.tokens for a in run.answer(own, own.states, [])]
    assert [tuple(t for t in tokens or () if t != backbone.end) for tokens in written] == [
        done["mark"].tokens for done in greedy
    ]
    known = [[tokens] for tokens in written if tokens is not None]
    assert [a.candidate for a in run.answer(own, own.states, known)] == [0, 0, 0]
    assert run.work.columns > 0 and run.work.flops(run.workspace) > 0


@cases
def test_what_is_put_back_or_taken_whole_is_exact(family: str, method: Method, one_thread: None) -> None:
    backbone = model(family)
    source = sources(backbone, rows(method))
    clean = answers(backbone, source, None)
    for asked in (
        Intervention(OWN, KEYS_AND_VALUES, segments=EVERYTHING),
        Intervention(OWN, RESIDUAL),
        Intervention(OWN, RESIDUAL, 1),
    ):
        assert logprobs(answers(backbone, source, asked)).equal(logprobs(clean)), asked.name
    whole = answers(backbone, source, Intervention(DONOR, KEYS_AND_VALUES, segments=EVERYTHING))
    assert logprobs(whole).equal(logprobs([*clean[1:], clean[0]]))
    assert gap(whole, clean) > BROKEN


@cases
def test_the_donors_residual_stream_is_its_keys_and_values(
    family: str, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At all layers of all segments the two sites are one; not where a place is one off."""
    backbone = model(family)
    source = sources(backbone, rows(method))
    states, stream = (Intervention(DONOR, site) for site in (KEYS_AND_VALUES, RESIDUAL))
    assert gap(answers(backbone, source, states), answers(backbone, source, stream)) < TOLERANCE
    assert gap(answers(backbone, source, stream), answers(backbone, source, None)) > BROKEN
    expected = answers(backbone, source, states)
    real = Computed.places
    monkeypatch.setattr(Computed, "places", lambda self, names: [p - 1 for p in real(self, names)])
    assert gap(answers(backbone, source, stream), expected) > BROKEN


@cases
def test_a_knock_out_is_a_blind_layout(family: str, method: Method) -> None:
    backbone, trunks = model(family), rows(method)
    run = passes(backbone)
    own = run.compute(trunks)
    hidden = {layer: own.places(trunks[0].segments) for layer in range(backbone.layers)}
    blind = trunks[0].layout.blind | frozenset(trunks[0].segments)
    blinded = [Trunk(t.example, Layout(t.layout.segments, t.layout.resume, blind), (), ()) for t in trunks]
    wanted = score(run.workspace, [marked(t) for t in blinded], CANDIDATES)
    knocked = logprobs(run.answer(own, own.states, CANDIDATES, hidden))
    assert float((knocked - torch.tensor([[c.logprob for c in row] for row in wanted])).abs().max()) < TOLERANCE
    clean = logprobs(run.answer(own, own.states, CANDIDATES))  # the hooks are gone
    assert float((knocked - clean).abs().max()) > BROKEN
    one = logprobs(run.answer(own, own.states, CANDIDATES, {0: hidden[0]}))
    assert float((one - clean).abs().max()) > BROKEN and float((one - knocked).abs().max()) > BROKEN


@families
def test_the_order_of_keys_and_values_means_nothing_and_that_of_inputs_does(family: str) -> None:
    backbone = model(family)
    source = sources(backbone, rows(Rim(K=3)))
    clean = answers(backbone, source, None)
    assert gap(answers(backbone, source, Intervention(PERMUTATION, KEYS_AND_VALUES)), clean) < TOLERANCE
    moved = gap(answers(backbone, source, Intervention(PERMUTATION, RESIDUAL, 1)), clean)
    # GPT-2 adds positions to what is fed: behind that, in its last layer, order means nothing
    assert moved < TOLERANCE if family == "tiny-gpt2" else moved > BROKEN
    same = answers(backbone, source, Intervention(PERMUTATION, RESIDUAL, 0))  # blocks are all fed the same
    assert logprobs(same).equal(logprobs(clean))
    assert rotation(source.trunks[0], source.trunks[0].segments) == [8, 9, 10, 11, *range(8)]


@families
def test_zero_mean_and_noise(family: str) -> None:
    backbone, trunks = model(family), rows(Coconut(c=1, latent_stages=3))
    source = sources(backbone, trunks)
    clean = answers(backbone, source, None)
    places = source.own.places(trunks[0].segments)
    mean = source.edited_states(Intervention(MEAN, KEYS_AND_VALUES, 1), trunks[0].segments)
    keys = source.own.states[1][0][:, :, places]
    assert torch.allclose(mean[1][0][:, :, places], keys.mean(0, keepdim=True).expand_as(keys), atol=1e-5)
    assert mean[0][0].equal(source.own.states[0][0])  # the other layer is as it was
    zero = source.edited_states(Intervention(ZERO, KEYS_AND_VALUES), trunks[0].segments)
    assert not zero[1][1][:, :, places].any() and zero[1][1][:, :, 0].any()
    noisy = Intervention("noise 2 sd", KEYS_AND_VALUES)
    drawn = source.edited_states(noisy, trunks[0].segments)[1][0][:, :, places] - keys
    spread = keys.std(0, keepdim=True)
    assert 1 < float((drawn / spread)[:, spread[0] > 1e-4].std()) < 3
    again = Source(trunks[:2], source.own.rows([0, 1]), None, {}, source.moments, 0)
    fewer = again.edited_states(noisy, trunks[0].segments)[1][0][:, :, places]
    assert torch.allclose(fewer, (drawn + keys)[:2])  # whatever stands beside a question
    for operation in (MEAN, ZERO, "noise 1 sd"):
        for site in (KEYS_AND_VALUES, RESIDUAL):
            assert gap(answers(backbone, source, Intervention(operation, site)), clean) > BROKEN


def test_segments_that_do_not_see_each_other_and_ordinary_tokens() -> None:
    backbone, trunks = model("tiny"), rows(Rim(K=3))
    run = passes(backbone)
    blind = {"block 2": frozenset({"block 1"}), "block 3": frozenset({"block 1", "block 2"})}
    alone = run.compute([t.blinded(blind) for t in trunks])
    own = run.compute(trunks)
    first, last = own.places(["block 1"]), own.places(["block 3"])
    assert torch.allclose(alone.states[1][0][:, :, first], own.states[1][0][:, :, first], atol=1e-5)
    assert float((alone.states[1][0][:, :, last] - own.states[1][0][:, :, last]).abs().max()) > BROKEN
    plain = trunks[0].with_tokens(7)
    assert plain.layout.depth == trunks[0].layout.depth and set(plain.layout.segments[1].tokens) == {7}
    cut = trunks[0].cut(1)
    assert cut.layout.resume == ("block 1",) and cut.layout.depth == 6 + 4


def test_segments_follow_from_the_layout() -> None:
    assert rows(Coconut(c=2, latent_stages=2))[0].segments == ("bot", *(f"thoughts {k}" for k in (1, 2, 3, 4)), "eot")
    assert rows(Pause(N=2))[0].segments == ("pauses 1", "pauses 2")
    assert rows(Rim(K=3, blocks="isolated"))[0].segments == tuple(
        f"block 3 {k}" for k in (1, 2, 3, 4)
    )  # the other blocks reach no answer
    prompt = ChainOfThought().lay_prompt((5, 6))
    written = written_trunk(Example("q", "q", (), "1"), prompt, [(7, 8), (9,)])
    assert written.segments == ("step 1", "step 2") and written.layout.tokens == (5, 6, 7, 8, 9)
    assert rows(Rim(K=2))[0].shape == rows(Rim(K=2), 2)[1].shape != rows(Rim(K=2), size=5)[0].shape
    names = Intervention(DONOR, KEYS_AND_VALUES, segments="up to block 2").names
    assert names(rows(Rim(K=3))[0]) == ("block 1", "block 2") and names(rows(Rim(K=2))[0]) is None


def test_adapters_on_pretrained_weights(tmp_path: Path, one_thread: None) -> None:
    spec = resolve_backbone(str(base_folder("tiny-gpt2", tmp_path / "base")), {"lora_rank": 2})
    backbone = Backbone.create(spec, markers=Rim().markers())
    source = sources(backbone, rows(Rim(K=2)))
    clean = answers(backbone, source, None)
    assert logprobs(answers(backbone, source, Intervention(OWN, RESIDUAL))).equal(logprobs(clean))
    states, stream = (Intervention(DONOR, site) for site in (KEYS_AND_VALUES, RESIDUAL))
    assert gap(answers(backbone, source, states), answers(backbone, source, stream)) < TOLERANCE
    assert gap(answers(backbone, source, stream), clean) > 1e-4
