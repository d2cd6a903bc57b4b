"""`cost --verify`: closed form, torch's and fvcore's counter agree without weights in memory; what is wrong shows."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rim_bench.baselines.direct import Direct
from rim_bench.cli import main
from rim_bench.compute import flops
from rim_bench.compute.backbones import entries
from rim_bench.compute.cost import Lengths, price_list
from rim_bench.engine import flop_counters
from rim_bench.engine.flop_counters import Counts, count_methods
from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import Encoded
from rim_bench.util.errors import UsageError

SMALL = Lengths(question=5, chain=4, answer=3, steps=2)
FIELDS = {"coconut": {"c": 1, "latent_stages": 1}, "rim": {"K": 2}, "rim-as-prompt": {"K": 2}}


def counts(*methods: str, model: str, rank: int = 0) -> Counts:
    chosen = {name: fields for name, fields in FIELDS.items() if name in methods}
    return count_methods(methods, model, SMALL, chosen, rank=rank)


def with_layers(config: Mapping[str, Any], layers: int, folder: Path) -> str:
    """A model folder with this configuration at another depth: a layer is what differs between shapes."""
    depth = "n_layer" if config["model_type"] == "gpt2" else "num_hidden_layers"
    (folder / "config.json").write_text(json.dumps({**config, depth: layers}))
    return str(folder)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("model", ["tiny", "tiny-gpt2"])
def test_every_number_agrees(model: str, rank: int, tmp_path: Path) -> None:
    """Latent passes, trees, cached steps; everything trains, or LoRA; new rows alone, and a rank to match.

    LoRA has two layers: the first hands no gradient on.
    """
    methods = ["rim", "direct-adapter-matched"] if rank else ["direct", "coconut", "rim-as-prompt"]
    found = counts(
        *methods, model=with_layers(flop_counters.configuration(model), 2 if rank else 1, tmp_path), rank=rank
    )
    assert found.differing == () and len(found.counts) == 3 * len(methods)
    for asked, forward, both in zip(*[iter(found.counts)] * 3, strict=True):
        assert asked.torch == asked.fvcore == asked.closed_form > asked.price > 0
        assert forward.torch == forward.fvcore == forward.closed_form > forward.price > 0
        assert both.torch == both.closed_form > both.price > forward.price and both.fvcore is None
        assert (forward.fvcore_norms or 0) > 0 if model == "tiny-gpt2" else forward.fvcore_norms == 0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The model folder of a tiny family with one layer."""

    def folder(name: str) -> str:
        return with_layers(flop_counters.configuration(name), 1, tmp_path_factory.mktemp(name))

    return folder


def test_what_is_counted_is_what_is_priced(tiny: Callable[[str], str]) -> None:
    """direct's prompt and its three cached steps, and its one training layout."""
    model = tiny("tiny")
    (priced,) = price_list(["direct"], model, Lengths(answer=4)).prices
    asked, _, both = count_methods(["direct"], model, Lengths(answer=4)).counts
    assert asked.price == priced.flops and both.price == priced.flops_train and both.layouts == 1


@pytest.mark.parametrize("model", [name for name, entry in entries().items() if "config" in entry])
def test_catalogued_shapes_agree_offline(model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every catalogued shape with one layer."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert counts("direct", model=with_layers(entries()[model]["config"], 1, tmp_path)).differing == ()


def test_a_catalogued_shape_agrees_whole_by_its_name() -> None:
    """All layers, without cached steps."""
    assert count_methods(["direct"], "gpt2", Lengths(question=5, chain=4, answer=1, steps=2)).differing == ()


def test_more_tokens_than_the_model_has_positions_and_ids(tiny: Callable[[str], str]) -> None:
    assert count_methods(["direct"], tiny("tiny"), Lengths(question=4100, chain=1)).differing == ()


def test_a_bridge_is_counted() -> None:
    class Bridged(Direct):
        def lay_prompt(self, question: tuple[int, ...], effort: int | None = None) -> Layout:
            thought = Segment("thought", "question", slots=2, bridge="project")
            return Layout((Segment("question", None, question), thought), resume=("thought",))

        def lay_train(self, example: Encoded, *args: object) -> Layout:
            return self.lay_prompt(example.question).grow(Segment("answer", "thought", example.answer, weight=1.0))

        def bridges(self, width: int) -> nn.ModuleDict:
            return nn.ModuleDict({"project": nn.Sequential(nn.Linear(width, 3), nn.LayerNorm(3), nn.Linear(3, width))})

    config = {**flop_counters.configuration("tiny"), "num_hidden_layers": 1}
    found = flop_counters._count_method(Bridged(), "bridged", config, flops.Shape.of(config), SMALL)
    assert all(count.agrees for count in found) and (found[0].fvcore_norms or 0) > 0


def test_refusals() -> None:
    with pytest.raises(UsageError, match="--lora-rank -1 is negative"):
        counts("direct", model="tiny", rank=-1)
    with pytest.raises(UsageError, match="no method was given"):
        counts(model="tiny")


def test_a_model_that_the_engine_does_not_run_is_priced_only(tmp_path: Path) -> None:
    config = entries()["llama-3.2-1b"]["config"] | {"model_type": "mistral", "sliding_window": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    price_list(["direct"], str(tmp_path), SMALL)
    with pytest.raises(UsageError, match="'mistral' cannot be counted, only priced: the engine runs gpt2, llama"):
        counts("direct", model=str(tmp_path))


# The command


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*arguments: str) -> tuple[int, str]:
        lengths = ["--question-tokens=5", "--chain-tokens=4", "--chain-steps=2", "--answer-tokens=3"]
        monkeypatch.setattr(sys, "argv", ["rim-bench", "cost", "--verify", "-m", "direct", *lengths, *arguments])
        with pytest.raises(SystemExit) as stopped:
            main.main()
        code = stopped.value.code
        return (code if isinstance(code, int) else 0, capsys.readouterr().out)

    return run


def test_the_command_prints_three_numbers(
    call: Callable[..., tuple[int, str]], tiny: Callable[[str], str], tmp_path: Path
) -> None:
    code, out = call("--model", tiny("tiny-gpt2"), "-f", "markdown", "--json", str(tmp_path / "counts.json"))
    assert code == 0 and "every number agrees" in out and "FLOPs, 5 an entry" in out
    data = json.loads((tmp_path / "counts.json").read_text())
    first = data["counts"][0]
    assert first["closed_form"] == first["torch"] == first["fvcore"] and first["agrees"] is True
    assert out.count(f" {first['torch']:,} |") == 3
    code, out = call("--model", tiny("tiny"), "-f", "csv")
    assert code == 0 and [row["agrees"] for row in csv.DictReader(io.StringIO(out))] == ["True"] * 3


def test_a_wrong_closed_form_is_exit_code_1(
    call: Callable[..., tuple[int, str]], tiny: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = flops.head_flops
    monkeypatch.setattr(flops, "head_flops", lambda shape: real(shape) + 2)
    code, out = call("--model", tiny("tiny"), "-f", "markdown")
    assert code == 1 and "2 of 3 parts differ" in out and "direct, training, forward: the numbers differ." in out


def test_an_operator_that_fvcore_counts_otherwise_is_exit_code_1(
    call: Callable[..., tuple[int, str]], tiny: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flop_counters, "NORMS", ())
    assert call("--model", tiny("tiny"), "-f", "csv")[0] == 0
    assert call("--model", tiny("tiny-gpt2"), "-f", "csv")[0] == 1


def test_nothing_has_storage() -> None:
    packed = flop_counters._without_storage(
        Direct(),
        flop_counters.configuration("llama-3.1-70b"),
        flops.Shape.of(entries()["llama-3.1-70b"]["config"]),
        9,
        9,
    )
    assert packed.backbone.device == torch.device("meta")
