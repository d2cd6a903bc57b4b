"""Faults of one's own methods: each is one sentence with file and line, before anything trains."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from rim_bench.cli.results import explain
from rim_bench.compute.cost import Lengths, price_list
from rim_bench.data.options import DataOptions
from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import Encoded, Method, Stage
from rim_bench.methods.own_methods import auxiliary_of, bridges_of
from rim_bench.methods.registry import all_methods, load_method
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import plan_study
from rim_bench.util.errors import UsageError, sentence

Call = Callable[..., tuple[int, str, str]]

FILLER = """\
from dataclasses import dataclass
from rim_bench import Layout, Marker, Method, Segment, Stage

@dataclass(frozen=True)
class Filler(Method):
    name = "filler"
    summary = "ordinary tokens before the answer"
    effort_field = "N"
    N: int = 8

    def lay_prompt(self, question, effort=None):
        root = Segment("question", None, question)
        count = self.N if effort is None else effort
        return Layout((root, Segment("filler", "question", question[-1:] * count)), resume=("filler",))

    def lay_train(self, example, stage, progress, rng):
        prompt = self.lay_prompt(example.question)
        return prompt.grow(Segment("answer", "filler", example.answer, weight=1.0))
"""
TOKENS, GROW = "question[-1:] * count", "        return prompt.grow"


def more(text: str) -> str:
    return FILLER + text


def other(old: str, new: str) -> str:
    assert old in FILLER
    return FILLER.replace(old, new)


FILES = {  # what makes the class, or says what it is: before any row is looked at
    "syntax": (more("  def\n"), "line 19: failed to import: IndentationError"),
    "null bytes": ("\0", "failed to import: SyntaxError"),
    "exit": (more("import sys\nsys.exit(0)\n"), "line 20: failed to import: SystemExit: 0"),
    "own kind of error": (more("class E(BaseException): ...\nraise E('x\\ny')\n"), "line 20: failed to import: E: x y"),
    "no class": ("", "must define exactly one named Method subclass, found none"),
    "name": (other('name = "filler"', "name = 5"), "method 5 is not a name"),
    "summary": (
        other('"ordinary tokens before the answer"', "5"),
        "line 4: filler has summary = 5, which must be text",
    ),
    "knob": (other('effort_field = "N"', 'effort_field = "M"'), "line 4: filler has effort_field = 'M', and no field"),
    "no default": (other("N: int = 8", "N: int"), "line 4: filler cannot be made without arguments"),
    "post init": (more("    def __post_init__(self):\n        raise OSError('no')\n"), "line 20: .*: OSError: no"),
    "no dataclass": (other("@dataclass(frozen=True)\n", ""), "has the field 'N' and no @dataclass"),
    "no JSON": (other("N: int = 8", "N: int = 8\n    S: object = frozenset()"), "settings failed: TypeError"),
    "no lay_train": (other("lay_train", "lay_training"), "line 4: filler does not define lay_train"),
    "signature": (
        other("stage, progress, rng", "stage"),
        r"line 16: filler.lay_train takes \(example, stage\), and is",
    ),
    "no effort": (other("question, effort=None", "question").replace("effort is None", "True"), "lay_prompt takes"),
    "property": (other("    def lay_train", "    @property\n    def lay_train"), "filler.lay_train failed: TypeError"),
    "no markers": (more("    def markers(self): return (5,)\n"), "line 19: filler.markers returns 5 .int. in it"),
    "marker": (more("    def markers(self): return (Marker(5),)\n"), "a marker whose name is 5, which must be text"),
    "no stages": (more("    def stages(self): pass\n"), "line 19: filler.stages returns None"),
    "empty stages": (more("    def stages(self): return []\n"), "returns nothing: a tuple of at least one Stage"),
    "share": (more("    def stages(self): return (Stage('a', share=-1),)\n"), "stage 'a' with share = -1"),
    "stages raise": (more("    def stages(self): return 1 / 0\n"), "line 19: filler.stages failed: ZeroDivisionError"),
}
ROWS = {  # what shows on a row
    "None": (other(GROW, "        prompt.grow"), "line 16: filler.lay_train returns None: a Layout is needed"),
    "raises": (other(GROW, "        example.foo\n" + GROW), "line 18: filler.lay_train failed: AttributeError"),
    "exits": (other(GROW, "        exit(0)\n" + GROW), "filler.lay_train failed: SystemExit"),
    "late": (other(GROW, "        if progress > 0.9: 1 / 0\n" + GROW), "line 18: .*ZeroDivisionError"),
    "steps": (other(GROW, "        example.steps[70]\n" + GROW), "line 18: filler.lay_train failed: IndexError"),
    "no tree": (other('"answer", "filler"', '"answer", "x"'), "line 18: .*segment 'answer' continues 'x', which does"),
    "recursion": (other(GROW, "        self.lay_train(example, stage, progress, rng)\n" + GROW), "RecursionError"),
    "no marker": (
        other(TOKENS, '("<x>",) * count'),
        "segment 'filler' with token '<x>', which markers.. does not have",
    ),
    "no id": (other(TOKENS, "(1.5,) * count"), "token 1.5, which must be an id or the name of a marker"),
    "no tuple": (other(TOKENS, "[1, 2]"), "tokens that are no tuple"),
    "no loss": (other(", weight=1.0", ""), "line 16: filler.lay_train gives no token a loss"),
    "NaN": (other("weight=1.0", "weight=float('nan')"), "segment 'answer' with weight = nan"),
    "no place": (other(', resume=("filler",)', ""), "line 11: filler.lay_prompt returns a layout without `resume`"),
    "probe": (more("    def lay_probe(self, question, effort): return 3\n"), "line 19: filler.lay_probe returns 3"),
}
EXAMPLES = {
    "nothing": (
        more("    def transform(self, examples, seed): return []\n"),
        "line 19: filler.transform returns nothing",
    ),
    "texts": (
        more("    def transform(self, examples, seed): return ['a']\n"),
        "filler.transform returns 'a' .str. in it",
    ),
}


def write(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(text, "utf-8")
    return str(path)


def refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=FILES)
def test_a_file_whose_method_is_none(tmp_path: Path, text: str, message: str) -> None:
    refused(lambda: load_method(write(tmp_path, text)), message)


@pytest.mark.parametrize(("text", "message"), ROWS.values(), ids=ROWS)
def test_layouts_are_tried_on_rows(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    refused(lambda: price_list([path], "tiny", Lengths()), message)
    options = Options(methods=(path,), task="chain", limit=8, start="recipe", device="cpu", out=tmp_path / "out")
    refused(lambda: plan_study(options), message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "message"), EXAMPLES.values(), ids=EXAMPLES)
def test_examples_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    options = Options(methods=(path,), task="chain", limit=8, start="recipe", device="cpu", out=tmp_path / "out")
    refused(lambda: plan_study(options), message)
    refused(lambda: explain(path, "chain", DataOptions(), {}, 0, None), message)


def test_every_command_says_it_in_a_sentence(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text, message in (FILES["exit"], ROWS["None"]):
        write(tmp_path, text)
        for command in (
            "run -m direct,./mine.py --limit 8 --device cpu",
            "run -m direct,./mine.py --limit 8 --device cpu --dry-run",
            "train -m direct,./mine.py --limit 8 --device cpu",
            "show ./mine.py",
            "cost -m ./mine.py",
        ):
            code, out, err = call(*command.split())
            assert code == 2 and "mine.py" in err and message.split(":")[0] in err, (command, err)
            assert err.count("\n") == 1 and err.startswith("error: ") and not out and "Traceback" not in err
        assert not (tmp_path / "results").exists()


def test_bridges_that_are_none() -> None:
    class Bad(Method):
        name = "bad"

        def bridges(self, width: int) -> nn.ModuleDict:
            return nn.Linear(width, width)  # type: ignore[return-value]

    refused(lambda: bridges_of(Bad(), 8), r"line \d+: bad.bridges returns Linear.*: a torch.nn.ModuleDict or None")


def test_an_auxiliary_loss_that_fails_or_ends_the_program() -> None:
    for fault, words in ((lambda: 1 // 0, "division"), (lambda: sys.exit(3), "SystemExit|exit")):

        class Bad(Method):
            name = "bad"

            def auxiliary(self, width: int, fault: Any = fault) -> Any:
                return fault()

        refused(lambda bad=Bad: auxiliary_of(bad(), 8), rf"bad.auxiliary.*({words})")
    assert auxiliary_of(load_method("direct"), 8) is None


def test_a_fault_that_shows_later_names_the_line_too(tmp_path: Path) -> None:
    method = load_method(write(tmp_path, other("question[-1:] * count", "question[-1:] * (count or 1 // 0)")))
    assert method.lay_prompt((1, 2)).resume == ("filler",)
    with pytest.raises(ZeroDivisionError) as caught:
        method.lay_prompt((1, 2), 0)
    place = f"method file {str(tmp_path / 'mine.py')!r}, line 14"
    assert sentence(caught.value) == f"{place}: ZeroDivisionError: integer division or modulo by zero"


def test_an_installed_method_that_ends_the_program_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Point:
        value = "package:Method"

        def load(self) -> None:
            raise SystemExit(0)

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Point()])
    assert "rim" in all_methods() and "package:Method is not used: SystemExit: 0" in caplog.text


def test_one_that_is_sound_is_taken(tmp_path: Path) -> None:
    class Plain(Method):  # without a field it needs no decorator
        name = "plain"

        def lay_prompt(self, question: tuple[int, ...], effort: int | None = None) -> Layout:
            return Layout((Segment("question", None, question),), ("question",))

        def lay_train(self, example: Encoded, stage: Stage, progress: float, rng: object) -> Layout:
            return self.lay_prompt(example.question).grow(Segment("a", "question", example.answer, weight=1.0))

    assert bridges_of(Plain(), 8) is None
    assert load_method(write(tmp_path, FILLER), {"N": "2"}).settings() == {"N": 2}


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test lets this process run, no other test may run."""
    monkeypatch.setattr("rim_bench.util.own_files._allowed", {})
    yield
