"""Study files: what they may say, and the command that makes everything of one, twice."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from light_lm_eval import light  # noqa: F401 - the fixture is used by being there
from stored import training_of
from study_files import study

from rim_bench.data.task import load_task
from rim_bench.runs.options import StudyOptions
from rim_bench.runs.study_file import read_study
from rim_bench.storage.run_folder import Store
from rim_bench.util.errors import UsageError

GOOD = """
methods = ["direct", "rim"]
task = "chain"
seeds = [0, 1]
budgets = ["examples=320", "train-flops=2e10"]
start = "recipe"
limit = 40
quick = true
sweep = true
set = {"rim.K" = 2}
backbone = {width = 32, layers = 1}
"""

RECIPE = """
methods = ["direct", "rim"]
task = "{task}"
budgets = ["examples=160", "train-flops=1e9"]
cot_examples = 64
sweep = ["train-flops=1e9"]
eval_tasks = ["chain_gate"]
limit = 40
max_tokens = 6
quick = true
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """A study of the embedded task with a backbone of one layer, as a task of one's own has it: a recipe that is
    followed declares its trials.
    """
    text = load_task("chain").path.read_text("utf-8").replace("rimbench_chain", "rimbench_small")
    small = text.replace("backbone_settings: {width: 64, ", "backbone_settings: {width: 32, layers: 1, ")
    (tmp_path / "small.yaml").write_text(small, "utf-8")
    return RECIPE.format(task=tmp_path / "small.yaml")


def test_a_study_is_read_as_one_request_a_budget(tmp_path: Path) -> None:
    made = read_study(study(tmp_path, GOOD), StudyOptions(data=Path("rows"), device="cpu"))
    first, second = made.requests
    assert (first.examples, first.train_flops, second.examples, second.train_flops) == (320, None, None, 2 * 10**10)
    for one in made.requests:
        assert (one.methods, one.task, one.seeds, one.limit, one.start) == (
            ("direct", "rim"),
            "chain",
            (0, 1),
            40,
            "recipe",
        )
        assert one.settings == {"rim": {"K": 2}} and one.backbone == {"width": 32, "layers": 1} and one.quick
        assert (one.out, one.data, one.device) == (tmp_path, Path("rows"), "cpu")
    assert made.swept == (True, True) and made.out == tmp_path
    text = GOOD.replace("sweep = true", 'sweep = ["train-flops=2e10"]')
    assert read_study(study(tmp_path, text)).swept == (False, True)
    plain = read_study(study(tmp_path, 'methods = ["direct"]\ntask = "chain"\n[set.rim]\nK = 3\n'))
    assert len(plain.requests) == 1 and plain.requests[0].seeds == (0,) and plain.swept == (False,)
    assert plain.requests[0].settings == {"rim": {"K": 3}} and plain.requests[0].examples is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ('budget = ["examples=3"]', "unknown key of a study 'budget'.*'budgets'"),
        ("methods = []", "is not a list of texts"),
        ('seeds = ["0"]', "seeds = .* is not a list of whole numbers"),
        ("seeds = [true]", "is not a list of whole numbers"),
        ("suite = 'gsm-ood'", "suite = 'gsm-ood' is not a list of texts"),
        ("eval_tasks = []", r"eval_tasks = \[\] is not a list of texts"),
        ('lr = "fast"', "lr = 'fast' is not a number"),
        ("limit = 2.5", "limit = 2.5 is not a whole number"),
        ("sweep = 1", "sweep = 1 is not true, false or a list of some of the budgets"),
        ('budgets = ["examples=320"]\nsweep = ["examples=321"]', "sweep = .* is not true, false or a list of some"),
        ('budgets = 3\nsweep = ["examples=320"]', "budgets = 3 is not a list of texts"),
        ('budgets = ["examples=320", "examples=320"]', "has one of them twice"),
        ("set = 3", r"\[set\] is no table"),
        ("set = {K = 3}", "is not METHOD.FIELD = VALUE"),
        ('budgets = ["flops=3"]', "unknown budget 'flops'"),
        ("limit = 0", "--limit 0 is too small"),
        ("not toml", "is no TOML file"),
        ("seeds = " + "[" * 3000, "values lie deeper in each other than can be read"),
    ],
)
def test_what_does_not_fit_is_said(change: str, says: str, tmp_path: Path) -> None:
    key = change.split(" ")[0]
    text = "\n".join(line for line in ['methods = ["direct"]', 'task = "chain"'] if not line.startswith(key))
    with pytest.raises(UsageError, match=says):
        read_study(study(tmp_path, f"{text}\n{change}\n"))


def test_all_problems_are_said_together(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"unknown key of a study 'tusk'.*; lr = 'x' is not a number; methods is missing; task is missing",
    ):
        read_study(study(tmp_path, 'tusk = "chain"\nlr = "x"\n'))
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_study(tmp_path / "none.toml")


def test_the_command_makes_everything_and_then_nothing(
    call: Callable[..., tuple[int, str, str]], recipe: str, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        path = study(tmp_path, recipe)
        code, out, err = call("study", path, "--task-file", tmp_path / "small.yaml")
        assert code == 0, err
        runs, damaged = Store(tmp_path).runs()
        assert not damaged and len(runs) == 5  # two methods, two budgets, one start for all
        runs = [run for run in runs if run.spec.role == "arm"]
        budgets = [training_of(run).budget for run in runs]
        assert sorted(b.kind for b in budgets) == ["examples"] * 2 + ["train-flops"] * 2
        assert all(0 <= b.used - b.asked < b.last_step for b in budgets if b.kind == "train-flops")
        names = {"table.md", "table.csv", "leaderboard.md", "leaderboard.csv", "leaderboard.tex", "leaderboard.json"}
        pictures = {f"{name}.svg" for name in ("accuracy", "curves-flops", "curves-passes", "curves-latency")} | {
            "accuracy.png"
        }
        assert names | pictures <= {p.name for p in tmp_path.iterdir()}
        assert "All sets side by side" in (tmp_path / "table.md").read_text()
        board = (tmp_path / "leaderboard.md").read_text()
        assert "quick: not a result" in board and "closed" in board.lower() and "open" in board.lower()
        made = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
        for run, budget in zip(runs, budgets, strict=True):
            assert {s.task for s in run.evaluations().values()} == {"small", "chain_gate"}
            assert (len(run.evaluations()) > 2) == (budget.kind == "train-flops")  # the sweep's points
        code, out, _ = call("study", path, "--task-file", tmp_path / "small.yaml")
        assert code == 0 and {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == made
        code, out, _ = call("leaderboard", "--out", tmp_path)
        assert code == 0 and "rim" in out
    finally:
        torch.set_num_threads(threads)


def test_a_study_that_cannot_be_is_refused_before_anything_is_made(
    call: Callable[..., tuple[int, str, str]], recipe: str, tmp_path: Path
) -> None:
    for budget, says in (
        ("3e8", "spent before direct begins: the weights it starts from cost"),
        ("4e8", "too small for"),
    ):
        path = study(tmp_path, recipe.replace("train-flops=1e9", f"train-flops={budget}"))
        code, _, err = call("study", path, "--task-file", tmp_path / "small.yaml")
        assert code == 2 and says in err and "Traceback" not in err and len(err.strip().splitlines()) == 1
    mistyped = {
        'suite = ["gsm-odd"]': "unknown suite 'gsm-odd'.*'gsm-ood'",
        'eval_tasks = ["svampp"]': "unknown task 'svampp'.*'svamp'",
    }
    for key, says in mistyped.items():
        path = study(tmp_path, recipe.replace('eval_tasks = ["chain_gate"]', key))
        code, _, err = call("study", path, "--task-file", tmp_path / "small.yaml")
        assert code == 2 and re.search(says, err), err
    assert not (tmp_path / "runs").exists()
