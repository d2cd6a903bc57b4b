"""Rows that run together: the cut of a step's rows is the cheapest one, and neither it nor the cache changes a
result.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
import torch
from engine import EXAMPLES, FAMILIES, METHODS, all_rows, model, training_rows
from torch import Tensor
from transformers import DynamicCache

from rim_bench.compute.flops import executed_passes
from rim_bench.engine import micro_batches as micro_batches_module
from rim_bench.engine.attention import ROOM, RoomyLayer, growing_cache
from rim_bench.engine.generate import decode
from rim_bench.engine.losses import group_counts, tree_loss
from rim_bench.engine.micro_batches import micro_batches
from rim_bench.engine.packing import PackedModel
from rim_bench.methods.layout import Layout, Segment


def row(size: int) -> Layout:
    return Layout((Segment("text", None, tuple(range(size))),))


def price(parts: list[list[Layout]], device: str) -> int:
    """Executed columns and what the passes cost, by the accountant's own passes."""
    return sum(
        sum(len(part) * new + micro_batches_module.PASS[device] for new, _ in executed_passes(part)) for part in parts
    )


def memory(part: list[Layout]) -> float:
    """Columns of all passes, and an eighth of what each pass but the first sees, padding included."""
    passes = executed_passes(part)
    return len(part) * (sum(new for new, _ in passes) + sum(seen for _, seen in passes[1:]) / micro_batches_module.HELD)


def every_cut(rows: list[Layout], most: int) -> list[list[list[Layout]]]:
    out = []
    for marks in itertools.product((False, True), repeat=len(rows) - 1):
        edges = [0, *(i + 1 for i, mark in enumerate(marks) if mark), len(rows)]
        parts = [rows[a:b] for a, b in itertools.pairwise(edges)]
        if all(
            len(part) == 1 or (len(part) <= most and memory(part) <= micro_batches_module.ENOUGH["cpu"])
            for part in parts
        ):
            out.append(parts)
    return out


@pytest.mark.parametrize("most", [2, 4, 9])
@pytest.mark.parametrize("seed", range(4))
def test_no_other_cut_of_the_sorted_rows_is_cheaper(seed: int, most: int) -> None:
    rng = random.Random(seed)
    rows = [row(rng.randrange(3, 150)) for _ in range(6)] + rng.sample(all_rows(), 2)
    parts = micro_batches(rows, most, "cpu")
    flat = [r for part in parts for r in part]
    assert flat == sorted(rows, key=lambda r: r.size) and max(map(len, parts)) <= most
    assert price(parts, "cpu") == min(price(other, "cpu") for other in every_cut(flat, most))


def test_rows_of_one_size_stay_together_and_very_different_ones_part() -> None:
    assert [len(part) for part in micro_batches([row(30)] * 16, 16, "cpu")] == [16]
    assert [len(part) for part in micro_batches([row(10)] * 8 + [row(100)] * 8, 16, "cpu")] == [8, 8]
    assert [len(part) for part in micro_batches([row(10)] * 8 + [row(100)] * 8, 16, "cuda")] == [
        16
    ]  # a launch costs more there
    assert (
        max(len(part) for part in micro_batches([row(200)] * 16, 16, "cpu")) == 5
    )  # a matrix product is fast enough with so many
    assert [len(part) for part in micro_batches([row(1025)] * 2, 16, "cpu")] == [1, 1]
    assert [len(part) for part in micro_batches([row(200)] * 16, 16, "cpu", width=64)] == [
        16
    ]  # narrow columns are cheap to keep
    assert [len(part) for part in micro_batches([row(30)] * 5, 2, "cpu")] in ([1, 2, 2], [2, 1, 2], [2, 2, 1])


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = [row(n) for n in (5, 90, 17, 40, 140, 8, 63, 21)]
    sizes = [[r.size for r in part] for part in micro_batches(rows, 16, "cpu")]
    random.Random(1).shuffle(rows)
    assert [[r.size for r in part] for part in micro_batches(rows, 16, "cpu")] == sizes and len(sizes) > 1


def test_padding_of_word_problems_falls_under_a_tenth() -> None:
    """Lengths spread as those of GSM8K's questions and chains are: mean 91, the longest 2.5 times as long."""
    rng = random.Random(0)
    real = executed = whole = 0
    for _ in range(20):
        rows = [row(min(230, max(35, round(rng.gauss(91, 32))))) for _ in range(32)]
        real += sum(r.size for r in rows)
        whole += len(rows) * max(r.size for r in rows)
        executed += sum(len(part) * max(r.size for r in part) for part in micro_batches(rows, 16, "cpu"))
    assert 1 - real / executed < 0.1 < 0.3 < 1 - real / whole


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_loss_and_gradients_are_those_of_the_whole_batch(method: object, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = model("tiny-gpt2")
    rows, counts = training_rows(method), group_counts(training_rows(method))  # type: ignore[arg-type]

    def gradients(parts: list[list[Layout]]) -> tuple[float, Counter[str], list[Tensor]]:
        backbone.model.zero_grad()
        total, groups = 0.0, Counter[str]()
        for part in parts:
            loss, shares = tree_loss(backbone, PackedModel(backbone).forward(part), counts)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            groups.update(shares)
        return total, groups, [p.grad.clone() for _, p in backbone.parameters_to_train() if p.grad is not None]

    monkeypatch.setitem(micro_batches_module.PASS, "cpu", 4)
    parts = micro_batches(rows, len(rows), "cpu")
    assert len(parts) > 1
    (loss, shares, cut), (whole, all_shares, uncut) = gradients(parts), gradients([rows])
    backbone.model.zero_grad()
    assert loss == pytest.approx(whole, rel=1e-5) and shares == pytest.approx(all_shares, rel=1e-5)
    for a, b in zip(cut, uncut, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_that_are_prefilled_apart_answer_as_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees with several branches and latent passes among them; and what memory held before must not matter."""
    workspace = PackedModel(model(family))
    rows = [m.lay_probe(e.question) or m.lay_prompt(e.question) for m in METHODS for e in EXAMPLES]
    alone = [decode(workspace, [r], max_tokens=6)[0] for r in rows]
    monkeypatch.setitem(micro_batches_module.PASS, "cpu", 2)
    assert len(micro_batches(rows, len(rows), "cpu")) > 4
    empty = Tensor.new_empty
    monkeypatch.setattr(Tensor, "new_empty", lambda t, *a, **k: empty(t, *a, **k).fill_(float("nan")))
    together = decode(workspace, rows, max_tokens=6)
    assert [{k: c.tokens for k, c in r.items()} for r in together] == [
        {k: c.tokens for k, c in r.items()} for r in alone
    ]


def test_a_roomy_cache_holds_what_a_growing_one_does() -> None:
    config = model("tiny-gpt2").causal.config
    with torch.inference_mode():
        roomy, plain = growing_cache(config), DynamicCache(config=config)
        draw = torch.Generator().manual_seed(0)
        rows = 5
        for step, new in enumerate([9, 1, 1, ROOM - 2, 1, 2 * ROOM, 1, 1]):  # beyond its room, more than once
            states = [torch.randn(rows, 4, new, 8, generator=draw) for _ in range(2)]
            for layer in range(len(plain.layers)):
                ours, theirs = (cache.update(*(s * (layer + 1) for s in states), layer) for cache in (roomy, plain))
                assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
            if step in (2, 5):
                keep = torch.tensor([0, 2, 3][: rows - 1])
                rows = len(keep)
                roomy.batch_select_indices(keep)  # type: ignore[attr-defined]
                plain.batch_select_indices(keep)  # type: ignore[attr-defined]
            assert roomy.get_seq_length() == plain.get_seq_length()


def test_a_step_writes_in_place_and_gradients_never_do() -> None:
    config = model("tiny").causal.config
    states = torch.randn(2, 4, 5, 8)
    with torch.no_grad():
        layer = growing_cache(config).layers[0]
        layer.update(states, states)
        at = layer.keys.data_ptr()
        layer.update(states[:, :, :1], states[:, :, :1])
        assert isinstance(layer, RoomyLayer) and layer.keys.data_ptr() == at and layer.keys.shape[-2] == 6
    assert not any(isinstance(layer, RoomyLayer) for layer in growing_cache(config).layers)


def test_keys_and_values_keep_their_own_types() -> None:
    """Under autocast a Qwen3 has keys in float32 (behind their norm) and values in bfloat16."""
    keys, values = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 5, 8, dtype=torch.bfloat16)
    with torch.no_grad():
        layer = growing_cache(model("tiny").causal.config).layers[0]
        for _ in range(20):  # beyond its room
            got = layer.update(keys, values)
    assert [t.dtype for t in got] == [torch.float32, torch.bfloat16] and torch.equal(got[1][:, :, -5:], values)


def test_eager_attention_takes_its_rows_in_one_part() -> None:
    workspace = PackedModel(model("tiny", "eager"))
    with torch.inference_mode():
        (part,) = workspace.prefill([row(4), row(90)])
    with pytest.raises(ValueError, match="eager attention takes all its rows in one part"):
        workspace.backbone.run_parts(torch.zeros(2, 1, 32), [], torch.zeros(2, 1), [])
    assert part.segment.shape == (2, 90)
