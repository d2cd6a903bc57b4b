"""The price list: by hand on a tiny shape, the ratios it is known for, what each method generates, real shapes, and
what is refused.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from rim_bench.baselines.coconut import Coconut
from rim_bench.baselines.cot import ChainOfThought
from rim_bench.baselines.direct import Direct
from rim_bench.baselines.pause import Pause
from rim_bench.cli import main
from rim_bench.compute import backbones, flops, training_flops
from rim_bench.compute.backbones import configuration, entries, resolve_backbone
from rim_bench.compute.cost import Lengths, Price, generation, price, price_list
from rim_bench.compute.flops import Shape, register_shape
from rim_bench.engine.pretrained import scratch_model
from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import Encoded, Method, Stage
from rim_bench.models.rim import Rim
from rim_bench.util.errors import UsageError

ALL = ("direct", "pause", "cot", "coconut", "rim")
HAND = Shape(layers=2, width=8, heads=2, kv_heads=1, head_dim=4, ffn=16, vocabulary=10, gated=True)
"""FLOPs: 2304 a column, 64 a key, 160 a head."""

SMALL = Lengths(question=3, chain=4, answer=2, steps=2)


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rim-bench", "cost", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main.main()
        code = stopped.value.code
        return (code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


def priced(
    *methods: str, model: str = "llama-3.2-1b", lengths: Lengths | None = None, **others: Any
) -> dict[str, Price]:
    return {p.method: p for p in price_list(methods or ALL, model, lengths or Lengths(), **others).prices}


# By hand


def test_direct_by_hand() -> None:
    """Three question tokens see 1, 2 and 3 keys; one cached step sees 4; the second answer token is never fed."""
    p = price(Direct(), HAND, SMALL)
    assert (p.prompt_positions, p.latent_positions, p.generated_tokens, p.passes_to_answer, p.passes, p.depth) == (
        3,
        0,
        2,
        1,
        2,
        4,
    )
    assert p.flops_prefill == 3 * 2304 + 6 * 64 + 160 == 7456
    assert p.flops_decode == 2304 + 4 * 64 + 160 == 2720
    assert p.flops == 7456 + 2720
    assert p.kv_bytes == 2 * 2 * (2 * 4) * 4  # keys and values, two layers, one head of 4, bfloat16, four columns fed
    assert p.flops_train == 3 * (5 * 2304 + 15 * 64 + 2 * 160)  # everything trains: three times the forward pass


def test_cot_and_coconut_by_hand() -> None:
    cot = price(ChainOfThought(), HAND, SMALL, bytes_per_number=4)
    assert (cot.prompt_positions, cot.latent_positions, cot.generated_tokens, cot.passes_to_answer, cot.passes) == (
        3,
        0,
        6,
        5,
        6,
    )
    assert cot.flops_decode == 5 * 2304 + (4 + 5 + 6 + 7 + 8) * 64 + 5 * 160
    assert cot.kv_bytes == 2 * 2 * 4 * 4 * 8
    coconut = price(Coconut(c=2, latent_stages=2), HAND, SMALL)
    assert (coconut.prompt_positions, coconut.latent_positions, coconut.passes_to_answer, coconut.passes) == (
        9,
        6,
        5,
        6,
    )
    assert coconut.flops_prefill == 9 * 2304 + 45 * 64 + 160  # the head once, however many passes
    assert coconut.flops_decode == 2304 + 10 * 64 + 160


def test_training_is_the_mean_over_the_curriculum() -> None:
    """rim's second stage alone, then both by their shares; grounding prices its annealing at several points."""
    refine = price(Rim(K=2, epochs_ground=0), HAND, SMALL).flops_train
    tree = Rim(K=2).lay_train(SMALL.example(), Rim(K=2).stages()[-1], 0.5, None)  # type: ignore[arg-type]
    assert refine == training_flops.training_cost(HAND, training_flops.FULL, tree)
    ground = price(Rim(K=2, epochs_refine=0, schedule="constant"), HAND, SMALL).flops_train
    annealed = price(Rim(K=2, epochs_refine=0), HAND, SMALL).flops_train
    assert annealed < ground
    both = price(Rim(K=2, epochs_ground=6, epochs_refine=2), HAND, SMALL).flops_train
    assert both == pytest.approx((6 * annealed + 2 * refine) / 8, abs=1)


def test_lora_trains_less_and_runs_more() -> None:
    full, lora = priced("direct"), priced("direct", rank=128)
    assert lora["direct"].flops > full["direct"].flops
    assert 2 * full["direct"].flops_train / 3 < lora["direct"].flops_train < full["direct"].flops_train
    shape, example = replace(HAND, rank=2), SMALL.example()
    for method, rows in (
        (Direct(), False),
        (Pause(), True),
    ):  # markers' rows train: gradients reach the first layer's input
        trains = training_flops.Trains(matrices=False, head=False, inputs=rows)
        tree = method.lay_train(example, method.stages()[0], 0.5, None)  # type: ignore[arg-type]
        assert price(method, shape, SMALL).flops_train == training_flops.training_cost(shape, trains, tree)


# What a method generates is read off its last stage


@pytest.mark.parametrize(
    ("method", "generated", "before"),
    [
        (Direct(), 4, 0),
        (Pause(), 4, 0),
        (Pause(N=0), 4, 0),
        (ChainOfThought(), 64, 60),
        (Coconut(), 4, 0),
        (Coconut(c=1, latent_stages=2), 4, 0),
        (Rim(), 4, 0),
        (Rim(K=3, blocks="isolated"), 4, 0),
        (Rim(block_attention="mutual", readout_sees_question=False), 4, 0),
        (Rim(epochs_refine=0), 4, 0),  # its readouts predict steps of ten tokens until they have annealed
        (Rim(epochs_refine=0, schedule="constant"), 4, 0),
        (Rim(epochs_refine=0, K=2), 4, 0),  # fewer blocks than in training
    ],
    ids=lambda v: f"{v.name}-{v.settings()}" if isinstance(v, Method) else str(v),
)
def test_generated_tokens(method: Method, generated: int, before: int) -> None:
    example = Lengths().example()
    assert generation(method, method.lay_prompt(example.question), example) == (generated, before)


class Base(Method):
    """A user's own method that prompts with the bare question."""

    name = "own"

    def lay_prompt(self, question: tuple[int, ...], effort: int | None = None) -> Layout:
        return Layout((Segment("question", None, question),), ("question",))


class Fewer(Base):
    """Drops all steps but the last one towards the end of its last stage, and puts a loss on the question too."""

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("all", knob=9), Stage("one", knob=1), Stage("never", share=0, knob=9))

    def lay_train(self, example: Encoded, stage: Stage, progress: float, rng: Any) -> Layout:
        knob = stage.knob if progress > 0.5 else 9
        kept = tuple(t for step in example.steps[-knob:] for t in step)
        root = Segment("question", None, example.question, weight=0.1)
        return Layout((root, Segment("text", "question", kept + example.answer, weight=1.0)))


class Distilled(Base):
    """Teacher and student as branches of one tree; the student, with its thoughts, is what is prompted."""

    def lay_prompt(self, question: tuple[int, ...], effort: int | None = None) -> Layout:
        student = (Segment("bot", "question", ("<bot>",)), Segment("thoughts", "bot", slots=3, bridge="projection"))
        return Layout((Segment("question", None, question), *student), ("thoughts",))

    def lay_train(self, example: Encoded, stage: Stage, progress: float, rng: Any) -> Layout:
        teacher = Segment("teacher", "question", example.chain + example.answer, weight=1.0)
        return self.lay_prompt(example.question).grow(
            teacher, Segment("student", "thoughts", example.answer, weight=1.0)
        )


class Projected(Distilled):
    """The same, with the module that its slots are fed through."""

    def bridges(self, width: int) -> nn.ModuleDict:
        return nn.ModuleDict({"projection": nn.Sequential(nn.Linear(width, 5), nn.GELU(), nn.Linear(5, width))})


class AnswerFirst(Base):
    """The answer, then its reasons."""

    def lay_train(self, example: Encoded, stage: Stage, progress: float, rng: Any) -> Layout:
        return self.lay_prompt(example.question).grow(
            Segment("text", "question", example.answer + example.chain, weight=1.0)
        )


def test_own_methods() -> None:
    fewer = price(Fewer(), HAND, SMALL)
    assert (fewer.generated_tokens, fewer.passes_to_answer) == (2 + 2, 3)
    student = price(Distilled(), HAND, SMALL)
    assert (student.generated_tokens, student.latent_positions, student.passes_to_answer, student.passes) == (
        2,
        4,
        4,
        5,
    )
    assert student.modules == ("projection",)
    projected = price(Projected(), HAND, SMALL)
    macs = 2 * HAND.width * 5
    assert projected.modules == () and projected.flops_prefill - student.flops_prefill == 3 * 2 * macs
    assert projected.flops_train - student.flops_train == 3 * 3 * 2 * macs  # three slots; forward and both gradients
    first = price(AnswerFirst(), HAND, SMALL)
    assert (first.generated_tokens, first.passes_to_answer, first.passes) == (6, 1, 6)


def test_methods_that_cannot_be_priced() -> None:
    class Untold(Base):
        def lay_train(self, example: Encoded, stage: Stage, progress: float, rng: Any) -> Layout:
            return self.lay_prompt(example.question).grow(Segment("steps", "question", example.chain, weight=1.0))

    class NoStage(Fewer):
        def stages(self) -> tuple[Stage, ...]:
            return ()

    class Twofold(AnswerFirst):
        def lay_prompt(self, question: tuple[int, ...], effort: int | None = None) -> Layout:
            return Layout((Segment("question", None, question), Segment("b", "question", ("<b>",))), ("question", "b"))

    class Broken(AnswerFirst):
        def lay_train(self, example: Encoded, stage: Stage, progress: float, rng: Any) -> Layout:
            return self.lay_prompt(example.question).grow(Segment("text", "nowhere", example.answer, weight=1.0))

    for method, words in (
        (Untold(), r"last stage of own \('train'\) does not train the answer"),
        (NoStage(), "own has no training stage"),
        (Twofold(), "own resumes from 2 segments"),
        (Broken(), "own has no layout for this example: segment 'text' continues 'nowhere'"),
        (Rim(max_steps=1), "has 2 steps, rim grounds at most max_steps = 1"),
    ):
        with pytest.raises(UsageError, match=words):
            price(method, HAND, SMALL)


def test_examples_have_the_lengths_asked_for() -> None:
    for lengths in (Lengths(), Lengths(7, 10, 3, 4), Lengths(1, 0, 1), Lengths(5, 2, 1, steps=6)):
        e = lengths.example()
        assert (len(e.question), len(e.chain), len(e.answer)) == (lengths.question, lengths.chain, lengths.answer)
        assert len(e.steps) == min(lengths.steps, lengths.chain) and all(e.steps)
        assert len({*e.question, *e.chain, *e.answer}) == lengths.question + lengths.chain + lengths.answer


# The list


def test_what_llama_1b_pays() -> None:
    p = priced()
    ratios = {name: round(p[name].flops / p["direct"].flops, 2) for name in ALL}
    assert ratios == {"direct": 1.00, "pause": 1.12, "cot": 1.91, "coconut": 1.10, "rim": 1.38}
    assert {name: p[name].passes_to_answer for name in ALL} == {
        "direct": 1,
        "pause": 1,
        "cot": 61,
        "coconut": 7,
        "rim": 1,
    }
    assert {name: p[name].passes for name in ALL} == {"direct": 4, "pause": 4, "cot": 64, "coconut": 10, "rim": 4}
    assert p["rim"].latent_positions == 32 and p["rim"].kv_bytes == 2 * 16 * 8 * 64 * (112 + 3) * 2


def test_ratios_are_to_direct_where_it_is_not_listed() -> None:
    made = price_list(("rim", "cot"), "llama-3.2-1b", Lengths(), {"rim": {"K": "4"}})
    assert [p.method for p in made.prices] == ["rim K=4", "cot"]
    assert [round(r["ratio"], 2) for r in made.records()] == [1.19, 1.91]
    assert made.data()["reference"] == "direct"


def test_large_shapes_and_long_questions() -> None:
    lengths = Lengths(question=2000, chain=1000, answer=20)
    small, large = (priced("direct", "rim", "cot", model=m, lengths=lengths) for m in ("llama-3.1-8b", "llama-3.1-70b"))
    assert all(7 < large[m].flops / small[m].flops < 10 for m in large)
    assert large["cot"].kv_bytes == 2 * 80 * 8 * 128 * (2000 + 1020 - 1) * 2
    notes = price_list(("direct",), "gpt2", lengths).table().sections[0].notes
    assert notes[-1] == "direct: more positions than the 1,024 that the model has."


# Real shapes

PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
}


def parameters(config: dict[str, Any]) -> int:
    """Of a decoder with this configuration, in closed form: matrices, tables, biases, norms."""
    s, kind = Shape.of(config), str(config["model_type"])
    tables = s.vocabulary * s.width * (1 if config["tie_word_embeddings"] else 2)
    if kind == "gpt2":  # positions; biases of every matrix; norms with biases
        biases = sum(b for _, b in s.matrices)
        return (
            tables + int(config["n_positions"]) * s.width + s.layers * (s.linear + biases + 4 * s.width) + 2 * s.width
        )
    biases = (s.heads + 2 * s.kv_heads) * s.head_dim if kind == "qwen2" else 0
    norms = 2 * s.width + (2 * s.head_dim if kind == "qwen3" else 0)
    return tables + s.layers * (s.linear + biases + norms) + s.width


def test_every_pretrained_entry_has_a_shape_with_the_published_number_of_parameters() -> None:
    pretrained = {name for name, entry in entries().items() if "hub" in entry}
    assert pretrained == PUBLISHED.keys()
    for name, published in PUBLISHED.items():
        assert parameters(configuration(name)) == published, name
        assert configuration(str(entries()[name]["hub"])) == configuration(name)


def test_shapes_of_entries_do_not_reach_specifications() -> None:
    assert resolve_backbone("gpt2") == {
        "name": "gpt2",
        "kind": "hub",
        "hub": "openai-community/gpt2",
        "revision": None,
        "tuning": "lora",
        "lora_rank": 128,
        "lora_alpha": 32,
    }
    for name in entries():
        assert not {"config", "model_type"} & resolve_backbone(name).keys()


@pytest.mark.parametrize("name", ["tiny", "tiny-gpt2", "tiny-qwen"])
def test_shapes_of_models_from_scratch_are_those_that_are_built(name: str) -> None:
    spec = resolve_backbone(name)
    built = scratch_model(spec, spec["vocabulary"], 0, 0, "sdpa")
    assert Shape.of(configuration(name)) == Shape.of(built.config.to_dict())


def test_mistral_costs_what_torch_counts() -> None:
    """Llama's layer where no window is on."""
    small = {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    config = AutoConfig.for_model("mistral", **small, intermediate_size=96, vocab_size=300, sliding_window=None)
    shape = Shape.of(config.to_dict())
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        ids, mask = torch.zeros(1, 24, dtype=torch.long), torch.zeros(1, 1, 24, 24)
        with FlopCounterMode(display=False) as counter:
            model(input_ids=ids, attention_mask=mask, position_ids=torch.arange(24)[None], use_cache=False)
    plain = Layout((Segment("text", None, tuple(range(24))),))
    assert counter.get_total_flops() == flops.executed_forward(shape, [plain]) + 24 * flops.head_flops(shape)
    with pytest.raises(UsageError, match=r"this mistral model.*sliding_window = 4096"):
        Shape.of(config.to_dict() | {"sliding_window": 4096})


# Architectures that are not known, and configurations that do not say enough


def test_an_architecture_can_be_registered(
    monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any], tmp_path: Path
) -> None:
    monkeypatch.setattr(flops, "_READERS", dict(flops._READERS))
    config = {"model_type": "wide", "layers": 2}
    with pytest.raises(
        UsageError, match=r"'wide' is not known: supported are gpt2, llama.*register_shape\('wide', reader\)"
    ):
        Shape.of(config)

    def reader(given: Any) -> Shape:
        return Shape(given["layers"], 8, 2, 1, 4, 16, 10, gated=True)

    register_shape("wide", reader)
    register_shape("wide", reader)
    assert Shape.of(config, rank=3) == Shape(2, 8, 2, 1, 4, 16, 10, gated=True, rank=3)
    with pytest.raises(UsageError, match="this wide model lacks 'layers'"):
        Shape.of({"model_type": "wide"})
    with pytest.raises(UsageError, match="'llama' is registered already"):
        register_shape("llama", reader)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine"}))
    (tmp_path / "mine.py").write_text(
        "from rim_bench.baselines.direct import Direct\n"
        "from rim_bench.compute.flops import Shape, register_shape\n\n\n"
        "class Mine(Direct):\n    name = 'mine'\n\n\n"
        "register_shape('mine', lambda config: Shape(1, 8, 2, 1, 4, 16, 10, gated=False))\n"
    )
    code, out, err = call("--method", "./mine.py", "--model", ".", "--format", "csv")
    assert code == 0 and err == ""
    (row,) = csv.DictReader(io.StringIO(out))
    assert row["method"] == "mine" and float(row["ratio"]) == 1


LLAMA = dict(configuration("llama-3.2-1b"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({k: v for k, v in LLAMA.items() if k != "hidden_size"}, "this llama model lacks 'hidden_size'"),
        ({"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2}, "this gpt2 model lacks 'vocab_size'"),
        (
            LLAMA | {"num_hidden_layers": "16"},
            "num_hidden_layers = '16' in a model's configuration is not a whole number",
        ),
        (LLAMA | {"num_key_value_heads": 0}, "num_key_value_heads = 0"),
        (LLAMA | {"num_key_value_heads": 5}, "num_attention_heads = 32 cannot be shared among num_key_value_heads = 5"),
        (LLAMA | {"head_dim": None, "num_attention_heads": 24}, "2048 cannot be split into 24 heads"),
        (LLAMA | {"model_type": "qwen3", "head_dim": None}, "head_dim = None"),
        (
            {k: v for k, v in LLAMA.items() if k != "head_dim"} | {"model_type": "qwen3"},
            "this qwen3 model lacks 'head_dim'",
        ),
        (
            {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"} | {"model_type": "qwen2"},
            "lacks 'num_key_value_heads'",
        ),
        (
            LLAMA | {"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": True},
            "qwen2 model.*sliding_window = 4096",
        ),
        (
            LLAMA | {"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]},
            "has sliding_attention, and only full",
        ),
        (LLAMA | {"model_type": "qwen3", "layer_types": 2}, "layer_types = 2 in a model's configuration is not a list"),
        (LLAMA | {"model_type": "mistral"}, "this mistral model lacks 'sliding_window'"),
        (LLAMA | {"model_type": "LLaMA"}, "'LLaMA' is not known"),
    ],
)
def test_shapes_that_are_not_guessed(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Shape.of(config)


def test_what_a_configuration_may_leave_out() -> None:
    early = {k: v for k, v in LLAMA.items() if k not in ("num_key_value_heads", "head_dim")}
    assert (Shape.of(early).kv_heads, Shape.of(early).head_dim) == (32, 64)
    off = LLAMA | {"model_type": "qwen2", "sliding_window": 32768, "use_sliding_window": False}
    assert Shape.of(off) == Shape.of(LLAMA)


# The command


def test_the_command_fits_80_columns_and_tells_the_ratios(call: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = call()
    assert code == 0 and err == "" and all(len(line) <= 80 for line in out.splitlines()), out
    rows = [[c.strip() for c in line.strip("│").split("│")] for line in out.splitlines() if line.startswith("│")]
    answer, tokens = rows[:5], rows[5:]
    picked = {r[0]: (r[1], r[5], r[6]) for r in answer}
    assert picked == {
        "direct": ("1.00", "1", "4"),
        "pause": ("1.12", "1", "4"),
        "cot": ("1.91", "61", "64"),
        "coconut": ("1.10", "7", "10"),
        "rim": ("1.38", "1", "4"),
    }
    assert {r[0]: r[1:4] for r in tokens}["rim"] == ["112", "32", "4"]
    assert "llama-3.2-1b" in out and "table.md" not in out and "80 question, 60 chain and 4 answer tokens" in out


def test_formats_and_options(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    lengths = ("--question-tokens", "30", "--chain-tokens", "12", "--answer-tokens", "3")
    asked = ("--method", "rim,cot", "--model", "tiny", *lengths, "--set", "rim.K=2")
    code, out, _ = call(*asked, "--format", "json", "--json", "out/prices.json", "--kv-dtype", "float32")
    assert code == 0
    data = json.loads(out)
    assert data == json.loads((tmp_path / "out" / "prices.json").read_text())
    rim, cot = data["prices"]
    assert (rim["method"], rim["settings"]["K"], rim["prompt_positions"], cot["generated_tokens"]) == (
        "rim K=2",
        2,
        38,
        15,
    )
    assert rim["kv_bytes"] == 2 * 4 * 128 * 40 * 4 and rim["kv_dtype"] == "float32"
    assert rim["flops"] == rim["flops_prefill"] + rim["flops_decode"] and data["shape"]["vocabulary"] == 4096
    code, out, _ = call(*asked, "--format", "csv")
    first, second = csv.DictReader(io.StringIO(out))
    assert code == 0 and int(first["flops"]) == rim["flops"] and float(second["ratio"]) == pytest.approx(cot["ratio"])
    assert "| rim K=2 |" in call(*asked, "--format", "markdown")[1]
    assert "rim K=2 & " in call(*asked, "--format", "latex")[1]


def test_models_by_folder_and_file(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(LLAMA))
    listed = call("--format", "json")[1]
    for given in ("model", "./model", tmp_path / "model", "model/config.json", "meta-llama/Llama-3.2-1B"):
        data = json.loads(call("--model", given, "--format", "json")[1])
        assert data["shape"] == json.loads(listed)["shape"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--question-tokens 0", "--question-tokens 0 is too small: give a whole number of at least 1"),
        ("--question-tokens -3", "--question-tokens -3 is too small"),
        ("--chain-tokens -1", "--chain-tokens -1 is too small: give a whole number of at least 0"),
        ("--answer-tokens 0", "--answer-tokens 0 is too small"),
        ("--chain-tokens 2000000000", "--chain-tokens 2000000000 is too large"),
        ("--chain-steps 0", "--chain-steps 0 is too small"),
        ("--chain-steps 20", "20 steps, rim grounds at most max_steps = 13"),
        ("--question-tokens many", "--question-tokens"),
        ("--method coconutt", "unknown method 'coconutt'|did you mean 'coconut'"),
        ("--method direct,direct", "direct was given twice"),
        ("--method ,", "no method was given"),
        ("--method ./nothing.py", "does not exist"),
        ("--set rim.K=0", "K = 0"),
        ("--set rim.blocs=chain", "did you mean 'blocks'"),
        ("--set rimm.K=4", "--set rimm.… cannot apply: coconut, cot, direct, pause, rim are priced"),
        ("--set K=4", "is not METHOD.FIELD=VALUE"),
        ("--model llama-3.2-1bb", "unknown model 'llama-3.2-1bb'|did you mean 'llama-3.2-1b'"),
        ("--model Qwen/Qwen3-06B", "did you mean 'Qwen/Qwen3-0.6B'"),
        ("--model ./nowhere", "model './nowhere' does not exist"),
        ("--model empty", "config.json' is missing"),
        ("--model broken.json", "broken.json' is damaged"),
        ("--model list.json", "it holds a list"),
        ("--model plain.json", "'plain.json' is not a model's configuration: it has no model_type"),
        ("--model mamba.json", "'mamba' is not known|register_shape"),
        ("--kv-dtype bfloat17", "did you mean 'bfloat16'"),
        ("--lora-rank -1", "--lora-rank -1 is too small"),
        ("--format html", "unknown format 'html'"),
    ],
)
def test_bad_input_is_one_sentence(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path, arguments: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    for name, text in {"broken": "{", "list": "[1]", "plain": "{}", "mamba": '{"model_type": "mamba"}'}.items():
        (tmp_path / f"{name}.json").write_text(text)
    code, out, err = call(*arguments.split(), "--json", "never.json")
    assert code == 2 and out == "" and not (tmp_path / "never.json").exists()
    assert err.startswith("error: ") and len(err.splitlines()) == 1 and all(word in err for word in words.split("|")), (
        err
    )


def test_entries_without_a_shape_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "entries", lambda: {"bare": {"summary": "", "hub": "org/bare"}})
    with pytest.raises(UsageError, match="'bare' has no config table"):
        configuration("org/bare")


def test_prices_need_no_torch() -> None:
    code = f"""
import sys
from rim_bench.compute.cost import Lengths, price_list
price_list({ALL}, "llama-3.1-70b", Lengths()).table()
print([m for m in ("torch", "transformers", "pandas", "numpy", "scipy", "matplotlib") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
