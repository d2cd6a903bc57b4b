"""A study: one file that says which runs make a comparison, and all that is derived from them beside it.

    methods = ["direct", "pause", "cot", "coconut", "rim"]
    task = "chain"
    seeds = [0, 1, 2]
    budgets = ["examples=38400", "train-flops=4.7e12"]
    sweep = ["train-flops=4.7e12"]                      # inference curves: of these budgets' runs; true = of all

    suite = ["gsm-ood"]                                 # further evaluation sets, as are eval_tasks = ["svamp", ...]
    tune = "lr=1e-4..3e-3"                              # and trials = 5: learning rates, by method and budget

Other keys are the options of `rim-bench run`; `[set]` holds methods' fields (`"rim.K" = 4`), `[backbone]` the
backbone's numbers. Where data lie and what computes is not part of it: that is given on the command line.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rim_bench.engine.execution import ALONE, ExecutionContext
from rim_bench.evaluate.options import EvaluationSets
from rim_bench.runs.options import Options, StudyOptions
from rim_bench.runs.planned_run import Plan, plan_study
from rim_bench.storage.records import TrainingRecord
from rim_bench.util.errors import UsageError, unknown
from rim_bench.util.flags import flag_fields, read_names
from rim_bench.util.own_files import allowed, read_own, refusal
from rim_bench.util.progress import Reporter

if TYPE_CHECKING:
    from rim_bench.runs.grid import Runner
    from rim_bench.storage.run_folder import Run

PLAIN = (
    *("task", "model", "steps", "start", "tuning", "dtype", "limit", "cot_examples", "batch_size", "lr", "max_tokens"),
    *("eval_batch_size", "quick", "checkpoint", "checkpoint_points", "tune", "trials", "tune_share", "tune_seeds"),
)
LISTS: dict[str, type] = {"methods": str, "seeds": int, "budgets": str, "suite": str, "eval_tasks": str}
KEYS = (*LISTS, *PLAIN, "sweep", "set", "backbone")


@dataclass(frozen=True)
class StudyFile:
    """A study as it was read: one request per budget."""

    path: Path
    requests: tuple[Options, ...]
    swept: tuple[bool, ...]  # by request: whether its runs get inference curves
    suites: tuple[str, ...] = ()  # of further evaluation sets for every run
    eval_tasks: tuple[str, ...] = ()  # such sets by themselves

    @property
    def out(self) -> Path:
        """The folder of its runs, tables and pictures: that of the file."""
        return self.path.parent


def read_study(path: Path, where: StudyOptions | None = None) -> StudyFile:
    """The requests of a study file; where data lie and what computes is beside it.

    Raises:
        UsageError: no such file, no TOML, or keys and values that do not fit, all of them together.
    """
    from rim_bench.util.files import read_whole

    try:
        keys = tomllib.loads(read_whole(path).decode("utf-8"))
    except OSError as error:
        raise UsageError(f"study {str(path)!r} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UsageError(
            f"study {str(path)!r} is no study: its values lie deeper in each other than can be read"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"study {str(path)!r} is no TOML file: {error}") from None
    problems = [str(unknown("key of a study", key, KEYS)) for key in keys if key not in KEYS]
    wrong = [key for key in PLAIN if key in keys and not _is(keys[key], _kind(key))]
    problems += [f"{key} = {keys[key]!r} is not {CALLED[_kind(key)]}" for key in wrong]
    for key, kind in LISTS.items():
        value = keys.get(key, [])
        if not isinstance(value, list) or not all(_is(v, kind) for v in value) or (key in keys and not value):
            problems.append(f"{key} = {value!r} is not a list of {'texts' if kind is str else 'whole numbers'}")
    problems += [f"{key} is missing" for key in ("methods", "task") if key not in keys]
    asked, sweep = keys.get("budgets", []), keys.get("sweep", False)
    if isinstance(asked, list) and len(set(map(str, asked))) < len(asked):
        problems.append(f"budgets = {asked!r} has one of them twice")
    if not isinstance(sweep, bool) and not (
        isinstance(sweep, list) and isinstance(asked, list) and all(s in asked for s in sweep)
    ):
        problems.append(f"sweep = {sweep!r} is not true, false or a list of some of the budgets")
    problems += [f"[{key}] is no table" for key in ("set", "backbone") if not isinstance(keys.get(key, {}), dict)]
    if problems:
        raise UsageError(f"study {str(path)!r}: " + "; ".join(problems))
    where = where or StudyOptions()
    where.allow()
    for name in (*keys["methods"], keys["task"], *read_names(",".join(keys.get("eval_tasks", ())))):
        if name.endswith((".py", ".yaml", ".yml")) and allowed((file := read_own(name)).sha256) is None:
            raise refusal(f"study {str(path)!r} names code of somebody's own", name, file.sha256)
    same: dict[str, Any] = {key: keys[key] for key in PLAIN if key in keys}
    same |= {
        "methods": tuple(keys["methods"]),
        "seeds": tuple(keys.get("seeds", [0])),
        "settings": _settings(path, keys.get("set", {})),
    }
    same |= {"backbone": keys.get("backbone", {}), "out": path.parent, **vars(where)}
    swept = [sweep] * max(1, len(asked)) if isinstance(sweep, bool) else [name in sweep for name in asked]
    requests = tuple(Options(**same, budget=budget) for budget in asked or [None])
    return StudyFile(path, requests, tuple(swept), tuple(keys.get("suite", ())), tuple(keys.get("eval_tasks", ())))


def plans_of(study: StudyFile, *, elsewhere: bool = False) -> list[Plan]:
    """The runs that each budget stands for; `elsewhere`: another machine computes."""
    return [plan_study(request, elsewhere=elsewhere) for request in study.requests]


def wanted_sets(study: StudyFile) -> EvaluationSets:
    """The further evaluation sets of every run."""
    return EvaluationSets(study.suites, study.eval_tasks)


def run_study(
    study: StudyFile,
    plans: Sequence[Plan],
    reporter: Reporter,
    runner: Runner | None = None,
    execution: ExecutionContext = ALONE,
) -> list[Run]:
    """The runs of a study, by budget and seed: trained, evaluated on all its sets, and swept.

    Args:
        plans: what `plans_of` makes of it.
        runner: trains and evaluates in other processes; curves are made in this one, once no run is missing.
    """
    from rim_bench.evaluate.stored_runs import evaluate_sets, plan_sets
    from rim_bench.evaluate.sweep import sweep
    from rim_bench.runs.grid import run_plans
    from rim_bench.runs.training import check_budget

    for plan in plans:  # all of them before the first trains
        check_budget(plan)
    first = study.requests[0]
    sets = plan_sets(wanted_sets(study), first, reporter)
    by_budget = run_plans(plans, runner, reporter, execution)
    runs = [run for of_budget in by_budget for run in of_budget]
    if runner is None:
        evaluate_sets(runs, sets, first, reporter, turned=False, execution=execution)
    elif runner.failures:
        return runs
    swept = [run for of_budget, wanted in zip(by_budget, study.swept, strict=True) if wanted for run in of_budget]
    if swept:
        sweep(swept, first, reporter, execution=execution)
    return runs


def write_results(runs: Sequence[Run], out: Path) -> list[Path]:
    """All that is derived from the runs: table, leaderboard, pictures; returns the files.

    A pure function of what is stored.
    """
    from rim_bench.report.comparison import comparison
    from rim_bench.report.leaderboard import leaderboard
    from rim_bench.report.plots.accuracy import accuracy_plot
    from rim_bench.report.plots.curves import curve_plots
    from rim_bench.report.plots.selection import selection_plot, tuning_plot
    from rim_bench.util.files import write_bytes_atomic

    table = comparison(runs, split="test")
    texts = {"table.md": table.to_markdown(), "table.csv": table.to_csv()}
    for name, text in texts.items():
        write_bytes_atomic(out / name, text.encode())
    board = leaderboard(runs, split="test")
    written = [out / name for name in texts] + board.write(out)
    for suffix in ("svg", "png"):
        accuracy_plot(runs, out / f"accuracy.{suffix}", split="test")
        written.append(out / f"accuracy.{suffix}")
    records = [run.training() or TrainingRecord() for run in runs]
    for kind, draw in (("selection", selection_plot), ("tuning", tuning_plot)):
        if any(getattr(t, kind) is not None for t in records):
            draw(runs, out / f"{kind}.svg")
            written.append(out / f"{kind}.svg")
    return written + curve_plots(board.contests, out, ("svg",))[0]


def _settings(path: Path, entries: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`"rim.K" = 4`, or a table per method; not both of one field."""
    out: dict[str, dict[str, Any]] = {key: dict(value) for key, value in entries.items() if isinstance(value, dict)}
    for key, value in entries.items():
        if isinstance(value, dict):
            continue
        method, dot, field = key.partition(".")
        if not dot:
            raise UsageError(
                f'study {str(path)!r}: [set] {key} = {value!r} is not METHOD.FIELD = VALUE, as in "rim.K" = 4'
            )
        if field in out.setdefault(method, {}):
            raise UsageError(f"study {str(path)!r}: [set] has {key} twice, as {key!r} and in a table of {method}")
        out[method][field] = value
    return out


CALLED = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _kind(key: str) -> type:
    """The type of an option's values, None aside."""
    kind = flag_fields(Options)[key].kind
    return next((k for k in (bool, int, float) if k is kind or k in get_args(kind)), str)


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)
