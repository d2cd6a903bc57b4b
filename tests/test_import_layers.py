"""Who may import whom. Read from the source, so that an import inside a function counts too; one process checks what starting costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "transformers", "lm_eval", "datasets", "pandas", "matplotlib", "peft", "accelerate"}
MODELS = {"torch", "transformers", "lm_eval", "peft", "accelerate", "safetensors", "tokenizers"}

GROUND = {
    "errors", "layout", "flops", "train_flops", "store", "steps", "stats", "cells", "matching", "pairing", "compare", "tables", "render",
    "naming", "plot", "curves", "equal_cost", "contests", "leaderboard", "leaderboard_sheet", "leaderboard_text", "plot_curves",
    "baseline", "gate", "gate_report", "retraining", "evidence_stats", "power", "versus", "versus_text", "omitted", "overview",
    "selection", "splits", "chosen", "plot_selection", "claims", "claim_grid", "cluster_stats", "cluster_grid", "flags", "references",
    "stamps",
}  # know no method, no model and no data  # fmt: skip
MIDDLE = {
    "method", "workspace", "losses", "backbone", "schedule", "train", "generate", "votes", "data", "lm_task", "timing", "memory",
    "evaluate", "trained", "cost", "controls", "suites", "leakage", "listing", "unseen", "lm_eval_tasks",
    "candidates", "tune", "run_parts", "processes", "crew", "sharded", "follower",
}  # fmt: skip
TOP = {
    "run", "warm", "stored", "sweep", "study", "show", "console", "cli", "cli_compute", "cli_evidence", "benchmarks", "__init__", "sets",
    "cli_data", "cli_grid", "cli_bench", "grid", "engines", "cell_work", "dry_run", "__main__",
}  # fmt: skip
TORCH_FREE = GROUND | {
    "method", "schedule", "cost", "controls", "catalog", "data", "sources", "run_options", "suites", "leakage", "listing",
    "places", "question_ids", "step_text", "task_file", "launch",
}  # fmt: skip
ENGINE = {"workspace", "losses", "train", "generate", "backbone"}


class Import(NamedTuple):
    """One imported name: `name` is the module, or the module and what is taken from it; `lazy` inside a function."""

    name: str
    lazy: bool
    line: int


def imports(source: str) -> list[Import]:
    """All imports but those for type checkers. `from a import b` counts as `a.b`, which is a module or a name in one."""
    return list(_visit(ast.parse(source), lazy=False))


def _visit(node: ast.AST, *, lazy: bool) -> Iterator[Import]:
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, lazy, node.lineno) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        yield from (Import(f"{module}.{alias.name}", lazy, node.lineno) for alias in node.names)
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        children = node.orelse
    inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in children:
        yield from _visit(child, lazy=inside)


def top(name: str) -> str:
    return name.split(".")[0]


@cache
def read(folder: str) -> dict[str, list[Import]]:
    """File stem -> imports, of the Python files of a folder."""
    found = {path.stem: imports(path.read_text("utf-8")) for path in sorted((ROOT / folder).glob("*.py"))}
    assert found, f"no Python files in {folder}"
    return found


def house(name: str) -> str | None:
    """The module of the package's own top level that an import reaches, "models" for `rim_bench.models.rim.Rim`; None for others."""
    parts = name.split(".")
    return parts[1] if parts[0] == "rim_bench" and len(parts) > 1 else None


def offences(folder: str, files: Iterable[str], banned: set[str], *, lazy: bool = True) -> list[str]:
    """Imports of the banned top-level packages in these files; `lazy=False` lets those inside functions pass."""
    return [
        f"{folder}/{stem}.py:{i.line} imports {i.name}"
        for stem in files
        for i in read(folder)[stem]
        if top(i.name) in banned and (lazy or not i.lazy)
    ]


def reached(start: str) -> set[str]:
    """Modules of `rim_bench/` that importing one of them loads with it."""
    seen, todo = set(), [start]
    while todo:
        stem = todo.pop()
        if stem in seen:
            continue
        seen.add(stem)
        todo += [m for i in read("rim_bench")[stem] if not i.lazy and (m := house(i.name)) in read("rim_bench")]
    return seen


def test_imports_are_read_wherever_they_stand() -> None:
    source = """
import a.b, c as d
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import hidden
else:
    import fallback
try:
    from e import f
except ImportError:
    pass
class K:
    def m(self):
        if self:
            from rim_bench.tasks import lm
from . import near
"""
    assert [(i.name, i.lazy) for i in imports(source)] == [
        ("a.b", False),
        ("c", False),
        ("typing.TYPE_CHECKING", False),
        ("fallback", False),
        ("e.f", False),
        ("rim_bench.tasks.lm", True),
        ("..near", False),
    ]
    assert house("rim_bench.tasks.lm") == "tasks" and house("torch.nn") is None


@pytest.mark.parametrize("stem", sorted(TORCH_FREE))
def test_the_second_column_knows_no_torch(stem: str) -> None:
    assert offences("rim_bench", reached(stem), MODELS) == []
    assert offences("rim_bench", reached(stem), HEAVY, lazy=False) == []


def test_layout_imports_the_standard_library_only() -> None:
    assert [i.name for i in read("rim_bench")["layout"] if top(i.name) not in sys.stdlib_module_names] == []


def test_only_the_lm_eval_task_imports_lm_eval() -> None:
    allowed = {"lm_task", "lm_eval_tasks"}
    for folder in ("rim_bench", "models", "baselines", "tasks"):
        assert offences(folder, read(folder).keys() - allowed, {"lm_eval"}) == []
    users = {stem for stem, found in read("rim_bench").items() if any(house(i.name) == "lm_task" for i in found)}
    assert users <= {"evaluate", "cli", "lm_eval_tasks"}
    assert not any(house(i.name) == "evaluate" for stem in ENGINE | TORCH_FREE for i in read("rim_bench")[stem])


@pytest.mark.parametrize("folder", ["models", "baselines"])
def test_a_method_needs_layout_method_errors_and_torch_nn(folder: str) -> None:
    allowed = {"layout", "method", "errors", "models", "baselines"}  # the last two: a control is the method it varies
    for stem, found in read(folder).items():
        for i in found:
            ours = house(i.name) in allowed
            modules = i.name == "torch.nn" or i.name.startswith("torch.nn.")
            assert ours or modules or top(i.name) in sys.stdlib_module_names, f"{folder}/{stem}.py:{i.line} imports {i.name}"


def test_tasks_never_import_torch() -> None:
    assert offences("tasks", read("tasks"), MODELS) == []
    assert offences("tasks", read("tasks"), HEAVY, lazy=False) == []
    for stem, found in read("tasks").items():
        for i in found:
            assert house(i.name) in {None, "data", "errors", "method", "tasks"}, f"tasks/{stem}.py:{i.line} imports {i.name}"
            if house(i.name) == "data":  # through it everything else would be reached: it is in the second column
                assert "data" in TORCH_FREE


@pytest.mark.parametrize("folder", ["rim_bench", "models", "baselines", "tasks", "tests"])
def test_code_folders_are_imported_inside_the_package_only(folder: str) -> None:
    """`import baselines` would load a second copy, whose classes are others."""
    assert offences(folder, read(folder), {"models", "baselines", "tasks", ""}) == []  # "": a relative import


def test_lower_rooms_do_not_import_higher_ones() -> None:
    ours = read("rim_bench")
    assert {*GROUND, *MIDDLE, *ENGINE, *TORCH_FREE} <= ours.keys()
    for stem in GROUND:
        assert not reached(stem) & (MIDDLE | TOP), f"{stem} reaches {reached(stem) & (MIDDLE | TOP)}"
    for stem, found in ours.items():
        used = {m for i in found if (m := house(i.name)) is not None}
        assert stem not in GROUND or not used & (MIDDLE | TOP), f"{stem} imports {used & (MIDDLE | TOP)}"
        assert stem in TOP or not used & TOP, f"{stem} imports {used & TOP}"


def test_benchmarks_are_the_command_lines_alone() -> None:
    """Nothing that is measured knows that it is; the stored history is read without torch."""
    users = {stem for stem, found in read("rim_bench").items() if any(house(i.name) == "benchmarks" for i in found)}
    assert users == {"cli_bench"}
    inside = read("rim_bench/benchmarks")
    torch_free, todo = {"history", "report", "lines", "spread", "pictures"}, ["history"]
    seen: set[str] = set()
    while todo:
        stem = todo.pop()
        seen.add(stem)
        todo += [m for i in inside[stem] if house(i.name) == "benchmarks" and (m := i.name.split(".")[2]) not in seen]
        assert not offences("rim_bench/benchmarks", [stem], HEAVY, lazy=False)
        others = {house(i.name) for i in inside[stem]} - {None, "benchmarks"}
        assert others <= TORCH_FREE | {"files"}
    assert seen == torch_free


def test_the_engine_knows_no_method() -> None:
    names = {stem for folder in ("models", "baselines") for stem in read(folder)} - {"__init__"}
    assert {"rim", "coconut", "direct"} <= names
    for stem in sorted(ENGINE):
        for i in read("rim_bench")[stem]:
            assert house(i.name) not in {"models", "baselines", "tasks", "lm_task", "evaluate", "data", "store"}, f"{stem} imports {i.name}"
        tree = ast.parse((ROOT / "rim_bench" / f"{stem}.py").read_text("utf-8"))
        said = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        assert not said & names, f"{stem}.py has {said & names} in its code"
    generate = {house(i.name) for i in read("rim_bench")["generate"]}
    assert "train" not in generate and "backbone" not in generate
    assert not any(top(i.name) == "transformers" for stem in ("method", "workspace", "losses", "train") for i in read("rim_bench")[stem])


def test_starting_the_command_line_loads_nothing_heavy() -> None:
    """What `rim-bench --help` imports, and then what a table needs; one process, because each costs seconds once torch is in it."""
    code = f"""
import importlib, sys
heavy = {sorted(HEAVY | {"numpy", "scipy"})}
import rim_bench.cli
print("cli", *[m for m in heavy if m in sys.modules])
for name in {sorted(TORCH_FREE)}:
    importlib.import_module(f"rim_bench.{{name}}")
print("second", *[m for m in heavy if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "cli\nsecond\n"
