"""The specification of the engine. Each equivalence comes with a sabotage that must break it."""

from __future__ import annotations

import random

import pytest
import torch
from engine import (
    EXAMPLES,
    FAMILIES,
    KERNELS,
    METHODS,
    all_rows,
    engine_logits,
    model,
    reference,
    training_rows,
    workspace,
)
from torch import Tensor

from rim_bench.engine import packing as workspace_module
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.generate import decode, score
from rim_bench.engine.losses import group_counts, tree_loss
from rim_bench.engine.packing import PackedModel
from rim_bench.methods.layout import Layout, Segment
from rim_bench.models.rim import Rim

TOLERANCE = 1e-5
BROKEN = 1e-2  # a sabotage must move logits by at least this
families = pytest.mark.parametrize("family", FAMILIES)
kernels = pytest.mark.parametrize("kernel", KERNELS)


def tree_error(backbone: Backbone, rows: list[Layout]) -> float:
    """Largest difference of any logit on any path between the packed batch and the separate plain passes."""
    with torch.no_grad():
        columns = PackedModel(backbone).forward(rows)
        return max(
            float((engine_logits(backbone, columns, r, leaf) - reference(backbone, row, leaf)).abs().max())
            for r, row in enumerate(rows)
            for leaf in row.leaves()
        )


@families
@kernels
def test_a_ragged_batch_of_trees_equals_its_paths(family: str, kernel: str) -> None:
    rows = all_rows()
    assert max(row.passes for row in rows) == 5 and not all(row.is_chain for row in rows)
    assert tree_error(model(family, kernel), rows) < TOLERANCE


@families
@pytest.mark.parametrize("sabotage", ["mask", "positions", "thought"])
def test_a_sabotaged_engine_differs(family: str, sabotage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = all_rows()
    if sabotage == "mask":  # siblings see each other: a plain causal mask over the packed row

        def causal(sees: Tensor, q_seg: Tensor, q: Tensor, k_seg: Tensor, k: Tensor) -> Tensor:
            return (k[:, None, :] <= q[:, :, None]) & (k_seg[:, None, :] < sees.shape[1] - 1)

        monkeypatch.setattr(workspace_module, "visible", causal)
    elif sabotage == "positions":  # positions run on over the packed row instead of restarting behind the block
        for row in rows:
            object.__setattr__(row, "position", tuple(range(row.size)))
    else:  # a thought fed the state two columns back
        real = Layout.before
        monkeypatch.setattr(Layout, "before", lambda self, s: real(self, s) - bool(self.segments[s].slots))
    assert tree_error(model(family), rows) > BROKEN


@families
@kernels
def test_one_pass_equals_cached_passes(family: str, kernel: str) -> None:
    """With fixed embeddings a causal model computes the same function in one pass or column by column."""
    backbone = model(family, kernel)
    tokens = torch.tensor([[5, 9, 40, 7, 60, 11, 30, 8]])
    size = tokens.shape[1]
    position = torch.arange(size)[None]
    with torch.no_grad():
        whole = backbone.run(backbone.embed(tokens), None, position)
        cache, parts = backbone.new_cache(), []
        for cut in ((0, 3), (3, 4), (4, 8)):
            picked = slice(*cut)
            mask = torch.ones(size, size).tril().bool()[None, picked, : cut[1]]
            parts.append(backbone.run(backbone.embed(tokens[:, picked]), mask, position[:, picked], cache))
            assert cache.get_seq_length() == cut[1]
        assert float((torch.cat(parts, 1) - whole).abs().max()) < TOLERANCE
        cache, skipped = backbone.new_cache(), []
        for cut in ((0, 3), (3, 4), (4, 8)):  # control: later passes that do not see the first column
            picked = slice(*cut)
            mask = torch.ones(size, size).tril().bool()[None, picked, : cut[1]].clone()
            mask[:, :, 0] = cut[0] == 0
            skipped.append(backbone.run(backbone.embed(tokens[:, picked]), mask, position[:, picked], cache))
        assert float((torch.cat(skipped, 1) - whole).abs().max()) > BROKEN


@families
@kernels
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.name}-{m.settings()}")
def test_a_ragged_batch_equals_batches_of_one_with_gradients(family: str, kernel: str, method: object) -> None:
    backbone = model(family, kernel)
    rows = training_rows(method)  # type: ignore[arg-type]
    counts = group_counts(rows)
    together = gradients(backbone, [rows], counts)
    apart = gradients(backbone, [[row] for row in rows], counts)
    assert together[0] == pytest.approx(apart[0], abs=TOLERANCE)
    assert gap(together[1], apart[1]) < TOLERANCE
    wrong = gradients(backbone, [[row] for row in rows[1:]], counts)  # control: an example that is lost shows
    assert gap(together[1], wrong[1]) > BROKEN


def gradients(
    backbone: Backbone, batches: list[list[Layout]], counts: dict[str, int]
) -> tuple[float, dict[str, Tensor]]:
    backbone.model.zero_grad(set_to_none=True)
    total = 0.0
    for batch in batches:
        loss, _ = tree_loss(backbone, PackedModel(backbone).forward(batch), counts)
        loss.backward()
        total += float(loss.detach())
    out = {name: p.grad.clone() for name, p in backbone.model.named_parameters() if p.grad is not None}
    backbone.model.zero_grad(set_to_none=True)
    return total, out


def gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest difference, as a share of the largest entry of its tensor where that is above 1."""
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).abs().max()) / max(1.0, float(a[n].abs().max())) for n in a)


@families
def test_the_loss_of_a_tree_is_that_of_its_paths(family: str) -> None:
    """Values and gradients of the packed loss against plain passes of every path, labels shifted by hand."""
    backbone = model(family)
    rows = training_rows(Rim(K=3)) + training_rows(METHODS[3])
    counts = group_counts(rows)
    packed = gradients(backbone, [rows], counts)
    backbone.model.zero_grad(set_to_none=True)
    total = torch.zeros(())
    for row in rows:
        for s in row.segments:
            if s.weight:
                logits = reference(backbone, row, s.name)[-len(s.tokens) - 1 : -1]
                loss = torch.nn.functional.cross_entropy(logits, torch.tensor(s.tokens), reduction="sum")
                total = total + s.weight * loss / counts[s.group]
    total.backward()
    plain = {n: p.grad.clone() for n, p in backbone.model.named_parameters() if p.grad is not None}
    assert packed[0] == pytest.approx(float(total.detach()), abs=TOLERANCE)
    assert gap(packed[1], plain) < TOLERANCE


@families
def test_gradients_reach_the_question_through_the_thoughts(family: str) -> None:
    """coconut's last stage: cutting the recycled state's gradient changes the gradient (control of the test above)."""
    backbone = model(family)
    rows = [r for r in training_rows(METHODS[3]) if r.passes > 1]
    counts = group_counts(rows)
    whole = gradients(backbone, [rows], counts)
    table = backbone.model.get_input_embeddings().weight
    cut = PackedModel(backbone)
    fill = cut._fill_slots

    def detached(columns, chosen, owner, embeds):  # type: ignore[no-untyped-def]
        held = columns.passes
        columns.passes = [w.detach() for w in held]
        try:
            return fill(columns, chosen, owner, embeds)
        finally:
            columns.passes = held

    cut._fill_slots = detached  # type: ignore[method-assign]
    backbone.model.zero_grad(set_to_none=True)
    loss, _ = tree_loss(backbone, cut.forward(rows), counts)
    loss.backward()
    assert table.grad is not None
    name = next(n for n, p in backbone.model.named_parameters() if p is table)
    assert float((table.grad - whole[1][name]).abs().max()) > 10 * TOLERANCE  # what the equivalence above would see
    backbone.model.zero_grad(set_to_none=True)


def prompts(effort: int | None = None) -> list[Layout]:
    return [method.lay_prompt(e.question, effort) for method in METHODS for e in EXAMPLES]


@families
@kernels
def test_decoding_is_the_argmax_of_teacher_forcing(family: str, kernel: str) -> None:
    backbone = model(family, kernel)
    rows = prompts()
    for row, done in zip(rows, decode(PackedModel(backbone), rows, max_tokens=8), strict=True):
        (name,) = row.resume
        tokens = done[name].tokens + ((backbone.end,) if done[name].ended else ())
        grown = row.grow(row.continuation("out", name, tokens))
        logits = reference(backbone, grown, "out")[-len(tokens) - 1 : -1]
        picked = logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        assert float((logits.max(-1).values - picked).detach().max()) < TOLERANCE  # equal but for ties within rounding
        shifted = logits.roll(1, 0).gather(1, torch.tensor(tokens)[:, None])[:, 0]
        assert len(set(tokens)) == 1 or float((logits.max(-1).values - shifted).detach().max()) > TOLERANCE


@families
def test_decoding_does_not_depend_on_the_batch(family: str) -> None:
    backbone = model(family)
    rows = prompts()
    together = decode(PackedModel(backbone), rows, max_tokens=8)
    alone = [decode(PackedModel(backbone), [row], max_tokens=8)[0] for row in rows]
    for a, b in zip(together, alone, strict=True):
        for name in a:
            assert (a[name].tokens, a[name].ended, a[name].passes) == (b[name].tokens, b[name].ended, b[name].passes)
    assert len({tuple(c.tokens for c in row.values()) for row in together}) > len(METHODS)  # rows do differ


@families
def test_answers_behind_every_block_equal_shorter_prompts(family: str) -> None:
    """A prompt with blocks is the training trunk: the readout behind block k answers as a prompt with k blocks
    would.
    """
    backbone = model(family)
    for method in (Rim(K=3), Rim(K=3, readout_sees_question=False)):
        for example in EXAMPLES:
            tree = method.lay_probe(example.question)
            assert tree is not None
            many = decode(PackedModel(backbone), [tree], max_tokens=6)[0]
            for k in range(1, 4):
                one = decode(PackedModel(backbone), [method.lay_prompt(example.question, k)], max_tokens=6)[0]
                assert many[f"block {k}"].tokens == one[f"block {k}"].tokens
            assert len({c.tokens for c in many.values()}) > 1 or not method.readout_sees_question


@families
@kernels
def test_choices_as_siblings_score_as_separate_passes(family: str, kernel: str) -> None:
    backbone = model(family, kernel)
    choices = [(20, 21, 22), (20, 30), (40,)]
    rows = prompts()
    for row, scores in zip(rows, score(PackedModel(backbone), rows, [choices] * len(rows)), strict=True):
        for tokens, got in zip(choices, scores, strict=True):
            grown = row.grow(row.continuation("out", row.resume[0], tokens))
            logprobs = reference(backbone, grown, "out")[-len(tokens) - 1 : -1].log_softmax(-1)
            assert got.logprob == pytest.approx(
                float(logprobs.gather(1, torch.tensor(tokens)[:, None]).detach().sum()), abs=1e-4
            )
    assert scores[0].logprob != pytest.approx(scores[1].logprob, abs=0.01)


@families
def test_branches_do_not_leak(family: str) -> None:
    """Changing one readout leaves its siblings bit for bit alone, and changing a block does not."""
    backbone = model(family)
    row = Rim(K=3).lay_train(EXAMPLES[0], Rim(K=3).stages()[1], 0.0, random.Random(0))

    def swap(name: str) -> Layout:
        return Layout(
            tuple(
                Segment(s.name, s.after, (99, *s.tokens[1:]), weight=s.weight) if s.name == name else s
                for s in row.segments
            )
        )

    with torch.no_grad():
        before, changed, block = (workspace(family).forward([r]) for r in (row, swap("readout 2"), swap("block 1")))
        for leaf in ("readout 1", "readout 3"):
            assert torch.equal(engine_logits(backbone, before, 0, leaf), engine_logits(backbone, changed, 0, leaf))
        assert not torch.equal(
            engine_logits(backbone, before, 0, "readout 3"), engine_logits(backbone, block, 0, "readout 3")
        )
