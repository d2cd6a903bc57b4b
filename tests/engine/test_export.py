"""Exported models: plain transformers gives the run's answers token for token."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from crews import TEXTS as CREW_TEXTS
from crews import Uneven
from engine_models import TEXTS, base_folder
from safetensors.torch import load_file

from rim_bench.baselines.coconut import Coconut
from rim_bench.baselines.cot import ChainOfThought
from rim_bench.baselines.pause import Pause
from rim_bench.compute.backbones import resolve_backbone
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.export import PROBE, export_model
from rim_bench.engine.trained_model import TrainedModel, build_bridges
from rim_bench.evaluate.ask import ask
from rim_bench.evaluate.predict import Predictor
from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import Method
from rim_bench.models.rim import Rim
from rim_bench.storage.records import RunSpec
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")
Call = Callable[..., tuple[int, str, str]]
GATE = Path(__file__).resolve().parents[2] / "results" / "gate"
QUESTIONS = ["How many apples? 3 + 4", "Ann has 12 pears, Bob 30.", "b > 7", "pears\nand apples"]
FAMILIES = ("tiny", "tiny-gpt2", "tiny-qwen")


@dataclass(frozen=True)
class Filler(Method):
    """The newline that ends the question, three times more: tokens of the vocabulary, none of its own."""

    name: ClassVar[str] = "filler"

    def lay_prompt(self, question: tuple[int, ...], effort: int | None = None) -> Layout:
        filler = Segment("filler", "question", question[-1:] * 3)
        return Layout((Segment("question", None, question), filler), resume=("filler",))


@dataclass(frozen=True)
class Echo(Method):
    """The question once more: another prompt for every question."""

    name: ClassVar[str] = "echo"

    def lay_prompt(self, question: tuple[int, ...], effort: int | None = None) -> Layout:
        return Layout((Segment("question", None, question), Segment("echo", "question", question)), resume=("echo",))


def trained(method: Method, family: str, base: Path | None = None, dtype: str | None = None) -> TrainedModel:
    """A model with weights that are its own: of the adapter and the markers' rows too."""
    if base is None:
        shape = {"layers": 2, "width": 32, "heads": 4, "vocabulary": 300, "max_positions": 96, "embedding_std": 1.0}
        backbone = Backbone.create(
            resolve_backbone(family, shape), texts=[*TEXTS, *CREW_TEXTS], markers=method.markers(), seed=3
        )
    else:
        spec_of_base = resolve_backbone(str(base), {"lora_rank": 4})
        backbone = Backbone.create(spec_of_base, markers=method.markers(), seed=3, dtype=dtype)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, p in backbone.parameters_to_train():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    spec = RunSpec.from_json({"method": {"name": method.name}, "task": {"name": "none"}})
    return TrainedModel(backbone, method, build_bridges(method, backbone, 0).eval(), spec)


def answers(model: TrainedModel, effort: int | None = None) -> list[str]:
    return [reply.output for reply in ask(Predictor(model, effort), QUESTIONS, max_tokens=12)]


def generated(folder: Path) -> list[str]:
    """What transformers' own `generate` says to the chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    out = []
    for question in QUESTIONS:
        asked = [{"role": "user", "content": question}]
        inputs = tokenizer.apply_chat_template(asked, return_tensors="pt", return_dict=True)
        new = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
        out.append(tokenizer.decode(new, skip_special_tokens=True).split("\n\n")[0])
    return out


def program(folder: Path, questions: Sequence[str] = QUESTIONS) -> list[str]:
    """What the program in the folder says."""
    spec = importlib.util.spec_from_file_location("exported_generate", folder / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, tokenizer, record = module.load()
    return [
        tokenizer.decode(module.generate(model, tokenizer, record, q), skip_special_tokens=True).split("\n\n")[0]
        for q in questions
    ]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("method", "lora"),
    [(Rim(K=2), True), (Rim(K=2), False), (Pause(N=3), False), (ChainOfThought(), False), (Filler(), False)],
    ids=lambda value: value.name if isinstance(value, Method) else "lora" if value else "full",
)
def test_generate_gives_the_answers_of_the_run(method: Method, lora: bool, family: str, tmp_path: Path) -> None:
    base = base_folder(family, tmp_path / "base") if lora else None
    wanted = answers(trained(method, family, base))
    exported = export_model(trained(method, family, base), tmp_path, max_tokens=12)
    assert exported.latent == 0 and not (tmp_path / "generate.py").exists()
    assert generated(tmp_path) == wanted and len(set(wanted)) > 1 and all(wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_program_beside_latent_slots_gives_them_too(family: str, tmp_path: Path) -> None:
    wanted = answers(trained(Coconut(c=2), family))
    assert export_model(trained(Coconut(c=2), family), tmp_path, max_tokens=12).latent == 6
    assert program(tmp_path) == wanted and len(set(wanted)) > 1
    assert not (tmp_path / "chat_template.jinja").exists()
    record = json.loads((tmp_path / "rim_bench.json").read_text())
    record["prompt"][1]["latent"] = 1  # other thoughts, other answers: the program does feed them
    (tmp_path / "rim_bench.json").write_text(json.dumps(record))
    assert program(tmp_path) != wanted


def test_text_that_looks_like_a_marker_is_text_to_the_program(tmp_path: Path) -> None:
    export_model(trained(Coconut(c=2), "tiny"), tmp_path, max_tokens=12)
    (reply,) = ask(Predictor(trained(Coconut(c=2), "tiny")), ["<bot> 7"], max_tokens=12)
    assert program(tmp_path, ["<bot> 7"]) == [reply.output]


def test_an_adapter_of_a_bfloat16_run_is_merged_without_being_rounded(tmp_path: Path) -> None:
    base = base_folder("tiny", tmp_path / "base")
    for dtype in ("float32", "bfloat16"):
        export_model(trained(Rim(K=2), "tiny", base, dtype), tmp_path / dtype, max_tokens=12)
    whole, rounded = (load_file(tmp_path / dtype / "model.safetensors") for dtype in ("float32", "bfloat16"))
    assert whole.keys() == rounded.keys() and all(value.dtype == torch.float32 for value in rounded.values())
    frozen = load_file(base / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    delta = whole[name] - frozen[name]
    assert (
        torch.allclose(rounded[name] - frozen[name].bfloat16().float(), delta, atol=1e-6) and delta.abs().max() > 0.01
    )


def test_an_effort_is_part_of_what_is_exported(tmp_path: Path) -> None:
    wanted = answers(trained(Rim(K=2), "tiny"), effort=5)
    export_model(trained(Rim(K=2), "tiny"), tmp_path, max_tokens=12, effort=5)
    assert generated(tmp_path) == wanted != answers(trained(Rim(K=2), "tiny"))


@pytest.mark.parametrize("method", [Echo(), Rim(K=2, readout_sees_question=False), Rim(block_attention="mutual")])
def test_a_prompt_that_is_no_fixed_row_is_refused(method: Method, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be exported: what it puts behind a question is no row"):
        export_model(trained(method, "tiny"), tmp_path, max_tokens=12)
    assert not list(tmp_path.iterdir())


def test_slots_through_trained_modules_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="go through trained modules"):
        export_model(trained(Uneven(), "tiny"), tmp_path, max_tokens=12)


@pytest.fixture(scope="module")
def run() -> Run:
    return next(r for r in Store(GATE).runs()[0] if r.spec.method.name == "rim")


def test_the_command_writes_a_folder_whole_or_not_at_all(call: Call, run: Run, tmp_path: Path) -> None:
    target = tmp_path / "model"
    code, out, _ = call("export", run.id, str(target), "-o", str(GATE))
    assert code == 0 and "generate answers its chat template" in out
    names = {p.name for p in target.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "rim_bench.json"} <= names
    card = (target / "README.md").read_text()
    assert run.id in card and "<b><m><m></b>" in card and PROBE in card and "library_name: transformers" in card
    for arguments, sentence in (
        ((run.id, str(target)), "is there already"),
        ((run.id, str(tmp_path / "a"), "--adapter"), "--adapter cannot apply"),
        (("nobody", str(tmp_path / "a")), "unknown run 'nobody'"),
        ((run.id, str(tmp_path / "a"), "--effort", "-1"), "effort -1"),
    ):
        code, out, err = call("export", *arguments, "-o", str(GATE))
        assert (code, out) == (2, "") and sentence in err
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    code, out, _ = call("ask", "rim", "a=1|b?", "-o", str(GATE))
    assert code == 0


def test_what_was_merged_is_a_backbone_again(tmp_path: Path) -> None:
    base = base_folder("tiny", tmp_path / "base")
    model = trained(Rim(K=2), "tiny", base)
    export_model(model, tmp_path / "merged", max_tokens=12)
    again = Backbone.create(resolve_backbone(str(tmp_path / "merged"), {"lora_rank": 4}))
    ids = torch.tensor([again.encode_question(QUESTIONS[0])])
    positions = torch.arange(ids.shape[1])[None]
    with torch.no_grad():
        ours = model.backbone.causal(input_ids=ids).logits[0, -1, : model.backbone.vocabulary]
        theirs = again.head(again.run(again.embed(ids), None, positions))[0, -1, : model.backbone.vocabulary]
    assert torch.allclose(ours, theirs, atol=1e-5) and "exported_generate" not in sys.modules
