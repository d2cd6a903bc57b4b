"""The benchmark compares equal work, and reports what it measured. Nothing here depends on how fast anything is."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rim_bench.bench.arms import Arm, Bench, endless, equal_work
from rim_bench.bench.measure import Request, measure, parse_against, parse_sizes
from rim_bench.bench.measurements import train_session
from rim_bench.bench.record import Spread, undocumented
from rim_bench.bench.report import table
from rim_bench.bench.rivals import PlainLoop, hf_generate, uncached
from rim_bench.bench.session import Counts, MeasuredJob, interleave, matrix_peak
from rim_bench.engine.attention import NAME
from rim_bench.engine.generate import Sampling, decode, sample
from rim_bench.engine.losses import group_counts, tree_loss
from rim_bench.runs.options import Options
from rim_bench.util.errors import UsageError

TINY = {"width": 16, "layers": 1, "heads": 2}


def options(*methods: str) -> Options:
    return Options(
        methods=methods, task="chain", limit=40, backbone=TINY, batch_size=8, quick=True, start="recipe", device="cpu"
    )


@pytest.fixture(autouse=True)
def no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second for a number that one test here is about."""
    monkeypatch.setattr("rim_bench.bench.session.matrix_peak", lambda *of: 1e11)


def test_the_peak_is_a_rate_of_products() -> None:
    assert 1e8 < matrix_peak(torch.device("cpu"), repeats=1) < 1e14


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(options("direct", "cot", "coconut", "rim"))


def test_jobs_take_turns_about_who_goes_first_and_only_timed_rounds_count() -> None:
    seen: list[tuple[str, int]] = []

    def job(name: str) -> MeasuredJob:
        def prepare(k: int) -> Callable[[], Counts]:
            return lambda: seen.append((name, k)) or {"examples": 8.0}  # type: ignore[func-returns-value]

        return MeasuredJob(name, prepare)

    session = interleave([job("a"), job("b"), job("c")], 2, torch.device("cpu"))
    assert seen == [("c", 0), ("b", 0), ("a", 0), ("a", 1), ("b", 1), ("c", 1), ("c", 2), ("b", 2), ("a", 2)]
    assert len(session.rounds) == 2 and all(r.peak > 0 for r in session.rounds)
    assert session.counted("b", "examples").values == (8.0, 8.0)
    ratio = session.rate("a", "examples") / session.rate("b", "examples")
    expected = [r.done["b"].seconds / r.done["a"].seconds for r in session.rounds]
    assert list(ratio.values) == pytest.approx(expected)  # of the pairs, not of the medians


def test_a_spread_is_of_pairs() -> None:
    ours, theirs = Spread((2.0, 9.0, 4.0)), Spread((1.0, 3.0, 8.0))
    ratio = ours / theirs
    assert ratio.values == (2.0, 3.0, 0.5) and (ratio.median, ratio.low, ratio.high) == (2.0, 0.5, 3.0)
    assert ratio.scaled(2).data() == {"median": 4.0, "low": 1.0, "high": 6.0, "values": [4.0, 6.0, 1.0]}
    with pytest.raises(ValueError, match="shorter"):
        _ = ours / Spread((1.0,))


@pytest.mark.parametrize("method", ["direct", "cot"])
def test_the_plain_loop_does_the_same_work(method: str, bench: Bench) -> None:
    arm = bench.arm(method)
    arm.quiet()
    rows = arm.trainer.layouts(arm.span, 0, 0, range(8))
    with torch.no_grad():
        ours, _ = tree_loss(arm.backbone, arm.trainer.workspace.forward(rows), group_counts(rows))
        assert float(ours) == pytest.approx(float(arm.plain.loss(range(8))), abs=1e-5)
        other = PlainLoop(arm.stock, arm.data, arm.trainer.plan, "cot" if method == "direct" else "direct")
        assert float(ours) != pytest.approx(float(other.loss(range(8))), abs=1e-3)  # other work has another loss


def test_rivals_run_hugging_faces_own_model() -> None:
    """What the engine changes about a model (GPT-2's activation, its attention) is no part of what it is compared
    to.
    """
    arm = Bench(dataclasses.replace(options("cot"), model="tiny-gpt2")).arm("cot")
    arm.quiet()
    kinds = [
        {type(m).__name__ for m in model.modules()}
        for model in (arm.stock.model, type(arm.stock.model)(arm.stock.model.config))
    ]
    assert kinds[0] == kinds[1] and arm.stock.model is not arm.backbone.causal
    names = [
        {m.config._attn_implementation for m in model.modules() if hasattr(m, "config")}
        for model in (arm.stock.model, arm.hf.model)
    ]
    assert (
        names == [{"sdpa"}, {"sdpa"}] and arm.backbone.causal.config._attn_implementation == NAME
    )  # which attends by parts too
    with torch.no_grad():
        rows = arm.trainer.layouts(arm.span, 0, 0, range(8))
        ours, _ = tree_loss(arm.backbone, arm.trainer.workspace.forward(rows), group_counts(rows))
        assert float(ours) == pytest.approx(float(arm.plain.loss(range(8))), abs=1e-5)
    before = [p.detach().clone() for p in arm.backbone.model.parameters()]
    arm.plain.step(range(8))
    assert all(torch.equal(a, b) for a, b in zip(before, arm.backbone.model.parameters(), strict=True))
    sizes = [sum(p.numel() for p in g["params"]) for g in arm.stock.groups(0.1)]
    assert sizes == [sum(p.numel() for p in g["params"]) for g in arm.backbone.parameter_groups(0.1)]


def test_the_plain_loop_takes_the_same_examples_in_random_batches(bench: Bench) -> None:
    arm = bench.arm("cot")
    chosen, shuffled = arm.chosen(1, 3), arm.shuffled(1, 3)
    assert sorted(i for b in chosen for i in b) == sorted(i for b in shuffled for i in b)
    assert [len(b) for b in shuffled] == [8, 8, 8] and chosen != shuffled
    assert bench.arm("rim").chosen(1, 3) == chosen != arm.chosen(2, 3)
    sizes = [len(arm.data[i].question) + len(arm.data[i].chain) + len(arm.data[i].answer) for i in shuffled[0]]
    assert arm.plain.positions(shuffled[0]) == (sum(sizes), 8 * max(sizes))


def test_hugging_face_trains_on_the_same_loss(bench: Bench) -> None:
    arm = bench.arm("cot")
    told = arm.train_hf(1).prepare(2)()
    (batch,) = arm.chosen(2, 1)
    arm.quiet()
    assert told["examples"] == 8 and told["seconds"] > 0
    with torch.no_grad():
        assert arm.hf.losses == pytest.approx(float(arm.plain.loss(batch)), abs=1e-5)
        pair = [float(arm.plain.loss(b)) for b in arm.chosen(3, 2)]
    arm.train_hf(2).prepare(3)()
    assert min(pair) - 0.5 < arm.hf.losses < max(pair) + 0.5  # the same examples, in other batches
    assert arm.hf.model is not arm.backbone.causal  # which Trainer wraps


def lively(arm: Arm) -> Arm:
    """With larger weights: at its start a model generates one token over and over, which any path would."""
    arm.quiet()
    with torch.no_grad():
        for name, p in arm.backbone.model.named_parameters():
            if p.ndim > 1 and "embed" not in name and "lm_head" not in name:
                p.mul_(20.0)
    return arm


def test_hugging_face_decodes_the_same_tokens() -> None:
    arm = lively(Bench(options("direct")).arm("direct"))
    questions = [arm.data[i].question[i % 4 :] for i in range(8)]

    def theirs(asked: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return [tuple(row) for row in hf_generate(arm.stock, asked, 6)[:, -6:].tolist()]

    with endless(arm.backbone):
        done = [next(iter(row.values())) for row in decode(arm.trainer.workspace, arm.prompts(questions), max_tokens=6)]
    ours = [completion.tokens for completion in done]
    assert theirs(questions) == ours and all(completion.generated == 6 for completion in done)
    assert (
        len({len(q) for q in questions}) > 2 and len({t for row in ours for t in row}) > 3
    )  # padding and paths that differ
    longest = max(map(len, questions))
    for wrong in (
        [*questions[1:], questions[0]],  # other questions
        [(arm.backbone.end,) * (longest - len(q)) + q for q in questions],  # padding that is read
        [q[1:] for q in questions],
    ):
        assert theirs(wrong) != ours  # the comparison can fail


@pytest.mark.parametrize("method", ["direct", "coconut", "pause"])
def test_the_uncached_loop_generates_what_the_engine_does(method: str) -> None:
    arm = lively(Bench(options(method)).arm(method))
    layouts = arm.prompts([arm.data[i].question for i in range(6)])
    with endless(arm.backbone):
        ours = [next(iter(row.values())).tokens for row in decode(arm.trainer.workspace, layouts, max_tokens=6)]
    theirs = [tuple(uncached(arm.stock, layout, 6)) for layout in layouts]
    assert theirs == ours and len({t for row in ours for t in row}) > 3
    if method == "coconut":  # other thoughts, other tokens: the comparison can fail
        fewer = [tuple(uncached(arm.stock, arm.method.lay_prompt(arm.data[i].question, 1), 6)) for i in range(6)]
        assert fewer != ours


@pytest.mark.parametrize("cap", [0, -5])
def test_nothing_is_no_cap(cap: int, bench: Bench) -> None:
    arm = bench.arm("direct")
    layouts = arm.prompts(arm.questions(1, 2))
    with pytest.raises(ValueError, match=f"a cap of {cap} tokens"):
        decode(arm.trainer.workspace, layouts, max_tokens=cap)
    with pytest.raises(ValueError, match=f"a cap of {cap} tokens"):
        sample(arm.trainer.workspace, layouts, Sampling(2, 1.0, 0), max_tokens=cap)


def test_trees_have_no_uncached_loop(bench: Bench) -> None:
    isolated = Bench(Options(**{**told_options(options("rim")), "settings": {"rim": {"blocks": "isolated"}}}))
    with pytest.raises(UsageError, match="uncached"):
        isolated.arm("rim").answer_uncached(1, 2, 4).prepare(1)
    bench.arm("rim").answer_uncached(1, 2, 4).prepare(1)  # a chain of blocks is one path


def told_options(given: Options) -> dict[str, Any]:
    return {
        name: getattr(given, name)
        for name in ("methods", "task", "limit", "backbone", "batch_size", "quick", "start", "device")
    }


def test_answers_run_to_the_cap_past_the_end_token(bench: Bench) -> None:
    arm = bench.arm("cot")
    end = arm.backbone.end
    heads = [model.get_output_embeddings().weight for model in (arm.backbone.causal, arm.stock.model)]
    kept = heads[0].detach().clone()
    with torch.no_grad():
        for head in heads:
            head.zero_()
            head[end] = kept[end]
    try:
        chosen = decode(arm.trainer.workspace, arm.prompts(arm.questions(1, 8)), max_tokens=4)
        assert any(c.ended for row in chosen for c in row.values())  # this model ends when it may
        assert arm.answer(8, 4).prepare(1)() == {"examples": 8.0, "tokens": 32.0}
        assert arm.answer_hf(8, 4).prepare(1)() == {"examples": 8.0, "tokens": 32.0}
    finally:
        with torch.no_grad():
            for head in heads:
                head.copy_(kept)
    assert arm.backbone.end == end
    with pytest.raises(AssertionError, match="31 tokens"):
        equal_work(31, 8, 4)


def test_a_stage_is_timed_with_its_dropout_and_leaves_the_weights_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(options("rim"))
    arm = bench.arm("rim")
    before = {name: p.detach().clone() for name, p in arm.backbone.parameters_to_train()}
    seen: dict[str, list[float]] = {"ours": [], "plain": []}

    models = {"ours": arm.backbone.causal, "plain": arm.stock.model}

    def note(who: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            seen[who].append(models[who].model.layers[0].self_attn.attention_dropout)
            return work(*args)

        return noted

    monkeypatch.setattr(arm.trainer, "step", note("ours", arm.trainer.step))
    monkeypatch.setattr(arm.plain, "step", note("plain", arm.plain.step))
    session = train_session(bench, ("rim",), 1, steps=2)
    assert set(seen["ours"]) == {0.1} and set(seen["plain"]) == {0.0} and len(seen["ours"]) == len(seen["plain"]) == 4
    for name, p in arm.backbone.parameters_to_train():
        assert torch.allclose(p, before[name], atol=1e-8), name
    done = session.rounds[0].done["rim: train"].counts
    assert (
        done["examples"] == 16
        and 0 < done["tokens"] <= done["executed"]
        and 0 < done["flops"] <= done["flops_executed"]
    )
    assert session.padding("rim: train").values == pytest.approx([1 - done["tokens"] / done["executed"]])


@pytest.mark.parametrize(
    ("kind", "against"), [("train", ("plain", "hf")), ("eval", ("hf", "uncached")), ("eval", ()), ("ttft", ())]
)
def test_records_have_their_shape(
    kind: str, against: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = measure(Request(kind, options("cot", "coconut"), rounds=1, against=against, tokens=2))
    assert [line["what"].split()[0] for line in found["lines"]] == [
        m for m in ("cot", "coconut") for _ in against or (1,)
    ]
    for line in found["lines"]:
        spreads = [line["ours"], *([line["theirs"], line["ratio"]] if line["theirs"] else []), *line["more"].values()]
        assert all(s["low"] <= s["median"] <= s["high"] and len(s["values"]) == 1 for s in spreads)
    assert json.loads(json.dumps(found)) == found and not undocumented(found)
    assert (
        len(table(found).sections[0].panels[0].rows) == len(found["lines"])
        and table(found).to_markdown()
        and table(found).to_rich()
    )
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_sizes_change_the_model() -> None:
    found = measure(Request("train", options("direct"), rounds=1, size=(2, 32, 4)))
    assert found["setting"]["backbone"]["layers"] == 2 and found["setting"]["backbone"]["width"] == 32
    wide = Bench(options("direct"), rows=900)
    assert wide.arm("direct").trainer.shape.vocabulary == 900  # of the table, whatever the tokenizer uses


def test_options_travel_to_another_process() -> None:
    given = options("cot", "coconut")
    again = pickle.loads(pickle.dumps(given))
    assert again == given and dataclasses.asdict(again) == dataclasses.asdict(given)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(UsageError, match="rounds 0"):
        measure(Request("train", options("direct"), rounds=0))
    with pytest.raises(UsageError, match="did you mean 'plain'"):
        parse_against("plane", ("plain",), ())
    with pytest.raises(UsageError, match="LAYERSxWIDTHxHEADS"):
        parse_sizes("6x256")
    assert parse_against("none", ("plain",), ("plain",)) == () and parse_against(None, ("plain",), ("plain",)) == (
        "plain",
    )
    assert parse_sizes("6x256x8,2x64x2") == [(6, 256, 8), (2, 64, 2)]
    with pytest.raises(UsageError, match="positions"):
        measure(Request("eval", options("direct"), rounds=1, tokens=5000))
