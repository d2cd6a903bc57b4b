"""Options of the fuzz suite, and the folder in which its command lines run."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
import typer
from fuzzing import Accepted, Campaign, call, inside
from lm_eval.tasks._index import TaskIndex
from unchanged import CLEARED, FIXED, GOLDEN
from user_task import USER_TASK, user_rows, write

from rim_bench.cli import main

MEMORY = 8 << 30  # bytes of data of this process: an input that asks for more is to be refused, not to kill a machine
TINY = "--limit 12 --max-tokens 4 --device cpu"
TRAINED = "--backbone layers=1 --backbone width=32 --start recipe --examples 48 --batch-size 4"
MINE = """
from dataclasses import dataclass

from rim_bench import Layout, Method, Segment


@dataclass(frozen=True)
class Filler(Method):
    name = "filler"
    summary = "ordinary tokens before the answer"
    effort_field = "N"
    N: int = 2

    def lay_prompt(self, question, effort=None):
        segments = [Segment("question", None, question)]
        if count := self.N if effort is None else effort:
            segments.append(Segment("filler", "question", question[-1:] * count))
        return Layout(tuple(segments), resume=(segments[-1].name,))

    def lay_train(self, example, stage, progress, rng):
        prompt = self.lay_prompt(example.question)
        return prompt.grow(Segment("answer", prompt.resume[0], example.answer, weight=1.0))
"""
STUDY = """
methods = ["direct", "rim"]
task = "chain"
seeds = [0, 1]
budgets = ["examples=48", "train-flops=4e9"]
sweep = ["examples=48"]
limit = 12
start = "recipe"
batch_size = 4
max_tokens = 4
[set]
"rim.K" = 2
[backbone]
layers = 1
width = 32
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz")
    group.addoption("--fuzz-minutes", type=float, default=1.0, help="how long all fuzz tests draw cases, together")
    group.addoption("--fuzz-seed", type=int, default=0, help="another seed draws other cases")
    group.addoption("--fuzz-shrink", action="store_true", help="stop at the first failure and make it small")
    group.addoption("--fuzz-case", help="run this one case, as a failure prints it; choose its test with -k")


@pytest.fixture
def campaign(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Campaign:
    """What a test draws its cases with."""
    option: Any = request.config.getoption
    seconds = 60 * option("--fuzz-minutes")
    return Campaign(seconds, option("--fuzz-seed"), option("--fuzz-shrink"), option("--fuzz-case"), record_property)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how many cases ran, and which exit codes they had."""
    properties: list[tuple[str, Any]] = [
        entry
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if report.when == "call"
        for entry in report.user_properties
    ]
    counts = [(name.removeprefix("cases: "), count) for name, count in properties if name.startswith("cases: ")]
    each = ", ".join(f"{name} {count:,}" for name, count in counts)
    terminalreporter.write_line(f"{sum(count for _, count in counts):,} fuzzed cases: {each}")
    codes: Counter[str] = Counter()
    for name, seen in properties:
        codes.update(seen if name == "exit codes" else {})
    terminalreporter.write_line("exit codes: " + ", ".join(f"{name}: {n:,}" for name, n in sorted(codes.items())))


def own_files(folder: Path) -> None:
    """Rows, a task, a method and a study of one's own."""
    for split, first, n in (("train", 0, 24), ("validation", 100, 8), ("test", 200, 8)):
        rows = [
            {
                "question": f"Ann has {k} pens and buys {k + 2}. How many?",
                "steps": [f"{k}+{k + 2}"],
                "answer": 2 * k + 2,
            }
            for k in range(first, first + n)
        ]
        write(folder / f"{split}.jsonl", rows)
    user_rows(folder, 20, 10)
    recipe = "    validation: 4\n    kind: number\n    tokenizer: bpe\n    recipe: {backbone: tiny, start: recipe, "
    recipe += "batch_size: 4, micro_batch: 4, examples: 48, max_tokens: 4, lr: {scratch: {default: 0.001}}}\n"
    (folder / "sums.yaml").write_text(USER_TASK + recipe)
    (folder / "mine.py").write_text(MINE)
    (folder / "study.toml").write_text(STUDY)


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder of all command lines, deep enough that `../..` stays inside what is removed.

    `trained` holds two tiny runs that nothing changes, `used` the same for commands that write into them, `small` runs
    of other states, `own` files of one's own, `model` pretrained models, `made` what one case writes.
    """
    folder = tmp_path_factory.mktemp("fuzz") / "a" / "b" / "c" / "here"
    folder.mkdir(parents=True)
    patch = pytest.MonkeyPatch()
    for name in [n for n in os.environ if n.startswith(CLEARED)]:
        patch.delenv(name)
    for name, value in (FIXED | {"HF_DATASETS_OFFLINE": "1"}).items():
        patch.setenv(name, value)
    limit = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, limit[1]))
    shutil.copytree(GOLDEN / "small", folder / "small")
    own_files(folder / "own")
    with inside(folder):
        done = call(
            f"run --methods direct,rim --set rim.K=2 --out trained {TINY} {TRAINED} --task own/sums.yaml".split()
        )
        assert done.code == 0, done.err
        runs = sorted(path.name for path in Path("trained/runs").iterdir())
        for more in ("--votes 3", "--split validation"):
            done = call(f"eval {' '.join(runs)} --out trained --task own/sums.yaml {TINY} {more}".split())
            assert done.code == 0, done.err
        shutil.copytree("trained", "used")
        done = call(f"baseline {' '.join(runs)} --out trained -o own/baseline.toml".split())
        assert done.code == 0, done.err
        _pretrained(Path("model"))

        def accepted(*_: Any, **__: Any) -> None:
            raise Accepted

        # What costs most of a short command's time and is the same each time; lm-eval looks through 12,000 files.
        patch.setattr("typer.main.get_command", cache(typer.main.get_command))
        patch.setattr("rim_bench.cli.main.application", cache(main.application))
        build, shipped = TaskIndex.build, Path(lm_eval.tasks.__file__).parent
        own_only = staticmethod(lambda paths, **how: build([p for p in paths if p != shipped], **how))
        patch.setattr(TaskIndex, "build", own_only)
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # it asks pip and others, for seconds
        for name in (
            "engine.trainer.Trainer.run",
            "bench.measure.Request.run",
            "runs.executors.open_engine",
            "runs.grid.open_engine",
        ):
            patch.setattr(f"rim_bench.{name}", accepted)
        yield folder
    patch.undo()
    resource.setrlimit(resource.RLIMIT_DATA, limit)


def _pretrained(folder: Path) -> None:
    """Tiny models as `save_pretrained` leaves them, by family."""
    from rim_bench.compute.backbones import resolve_backbone
    from rim_bench.engine.backbone import Backbone

    texts = [row["question"] for row in map(json.loads, Path("own/train.jsonl").read_text().splitlines())]
    for family in ("tiny", "tiny-gpt2", "tiny-qwen"):
        shape = {"layers": 1, "width": 16, "heads": 2, "vocabulary": 300, "max_positions": 256}
        backbone = Backbone.create(resolve_backbone(family, shape), texts=texts, seed=1)
        backbone.model.save_pretrained(folder / family)
        backbone.tokenizer.save_pretrained(folder / family)
