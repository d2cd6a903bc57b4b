"""rim-bench: what latent reasoning in language models is worth, measured.

The names below are the public API; each is loaded when it is first asked for, so that `import rim_bench` costs nothing.
What is not among them is private. `evaluate_run` is not called `evaluate`, which is the name of a package here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rim_bench.analysis.suite import Intervention
    from rim_bench.compute.cost import Lengths, price_list
    from rim_bench.compute.flops import Shape, layout_flops, register_shape
    from rim_bench.data.task import Task, load_task
    from rim_bench.evaluate.lm_eval_model import RimLM
    from rim_bench.methods.layout import Layout, Segment
    from rim_bench.methods.method import Example, Marker, Method, Stage
    from rim_bench.report.comparison import comparison
    from rim_bench.report.leaderboard import leaderboard
    from rim_bench.runs.api import Results, check_gate, compare, evaluate_run, intervene, plan_study, run, sweep, train
    from rim_bench.storage.run_folder import Run, Store
    from rim_bench.util.errors import UsageError
    from rim_bench.util.table import Table

__version__ = "0.1.0"

_NAMES = {
    "methods.layout": ("Segment", "Layout"),
    "methods.method": ("Method", "Stage", "Marker", "Example"),
    "data.task": ("load_task", "Task"),
    "runs.api": (
        "plan_study",
        "run",
        "train",
        "evaluate_run",
        "sweep",
        "Results",
        "compare",
        "check_gate",
        "intervene",
    ),
    "analysis.suite": ("Intervention",),
    "storage.run_folder": ("Store", "Run"),
    "report.comparison": ("comparison",),
    "report.leaderboard": ("leaderboard",),
    "util.table": ("Table",),
    "compute.cost": ("price_list", "Lengths"),
    "compute.flops": ("layout_flops", "Shape", "register_shape"),
    "evaluate.lm_eval_model": ("RimLM",),
    "util.errors": ("UsageError",),
}
_MODULES = {name: f"rim_bench.{module}" for module, names in _NAMES.items() for name in names}

__all__ = [
    "Example",
    "Intervention",
    "Layout",
    "Lengths",
    "Marker",
    "Method",
    "Results",
    "RimLM",
    "Run",
    "Segment",
    "Shape",
    "Stage",
    "Store",
    "Table",
    "Task",
    "UsageError",
    "check_gate",
    "compare",
    "comparison",
    "evaluate_run",
    "intervene",
    "layout_flops",
    "leaderboard",
    "load_task",
    "plan_study",
    "price_list",
    "register_shape",
    "run",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'rim_bench' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
