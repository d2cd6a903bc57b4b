"""What the import contracts of pyproject.toml cannot say: three rules of the house, and what starting costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rim_bench"
HEAVY = {"torch", "transformers", "lm_eval", "datasets", "pandas", "matplotlib", "peft", "accelerate", "numpy", "scipy"}
TORCH_FREE = ("util", "methods", "compute", "data", "storage", "evidence", "report")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported(path: Path) -> set[str]:
    """Modules that a file imports, wherever the import stands; `from a import b` counts as `a`."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


def test_a_layout_needs_the_standard_library_alone() -> None:
    names = imported(PACKAGE / "methods" / "layout.py")
    assert names and {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_the_engine_names_no_method() -> None:
    methods = {p.stem for folder in ("models", "baselines") for p in (ROOT / folder).glob("*.py")} - {"__init__"}
    assert {"rim", "coconut", "direct"} <= methods
    files = sorted((PACKAGE / "engine").rglob("*.py"))
    assert len(files) > 15
    for path in files:
        strings = {n.value for n in ast.walk(tree(path)) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        assert not strings & methods, f"{path.relative_to(ROOT)} has {strings & methods} in its code"
        assert not any(name.startswith(("rim_bench.models", "rim_bench.baselines")) for name in imported(path))


def test_no_module_stands_outside_a_room() -> None:
    assert {p.name for p in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}
    links = {p.name for p in PACKAGE.iterdir() if p.is_symlink()}
    assert links == {"baselines", "models", "tasks"}


@pytest.mark.parametrize("folder", ["rim_bench", "models", "baselines", "tasks", "tests"])
def test_code_folders_are_imported_inside_the_package_alone(folder: str) -> None:
    """`import baselines` would load a second copy, whose classes are others."""
    for path in (ROOT / folder).rglob("*.py"):
        for name in imported(path):
            assert name.split(".")[0] not in ("models", "baselines", "tasks", ""), f"{path.relative_to(ROOT)}: {name}"


def test_no_two_classes_have_one_name() -> None:
    """One word, one meaning."""
    names = [n.name for path in sorted(PACKAGE.rglob("*.py")) for n in tree(path).body if isinstance(n, ast.ClassDef)]
    twice = {name for name in names if names.count(name) > 1 and not name.startswith("_")}
    assert len(names) > 150 and not twice


def test_no_module_takes_a_private_name_of_another() -> None:
    for path in [
        *PACKAGE.rglob("*.py"),
        *(p for d in ("models", "baselines", "tasks") for p in (ROOT / d).glob("*.py")),
    ]:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rim_bench"):
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not private, f"{path.relative_to(ROOT)} imports {private} from {node.module}"


def test_starting_the_command_line_loads_nothing_heavy() -> None:
    """What `rim-bench --help` imports, and then what a table needs, in one process: each costs seconds."""
    rooms = [PACKAGE / room for room in TORCH_FREE]
    files = [p for room in rooms for p in sorted(room.rglob("*.py")) if p.name != "__init__.py"]
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in files]
    assert len(names) > 50
    code = f"""
import importlib, sys
import rim_bench.cli.main
print("cli", *[m for m in {sorted(HEAVY)} if m in sys.modules])
for name in {names}:
    importlib.import_module(name)
print("tables", *[m for m in {sorted(HEAVY)} if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "cli\ntables\n"
