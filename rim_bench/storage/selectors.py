"""Runs by what they are: `rim`, `rim:seed=0`, `rim@flops=4.7e12`, `rim:seed=0,task=chain`. Reads specifications."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rim_bench.storage.records import RunSpec
from rim_bench.util.errors import UsageError, unknown

Value = str | int | float | None
CONDITIONS: Final[Mapping[str, Callable[[RunSpec], Value]]] = {
    "seed": lambda spec: spec.seed,
    "task": lambda spec: spec.task.name,
    "model": lambda spec: spec.backbone.name,
    "start": lambda spec: spec.start,
    "flops": lambda spec: spec.budget.train_flops,
    "examples": lambda spec: spec.budget.examples,
    "role": lambda spec: spec.role,
}
"""What a condition compares, by its name: training FLOPs and examples are those of the budget that was asked for."""


@dataclass(frozen=True)
class Selector:
    """A method's name, and conditions on what else tells its runs apart."""

    method: str
    conditions: tuple[tuple[str, str], ...] = ()

    def fits(self, spec: RunSpec) -> bool:
        """Whether a run is one of those meant. Without a condition on the role, only compared runs are."""
        if self.method not in (spec.method.name, spec.method.label):
            return False
        if not any(name == "role" for name, _ in self.conditions) and spec.role in ("start", "trial"):
            return False
        return all(_same(CONDITIONS[name](spec), wanted) for name, wanted in self.conditions)


def _same(value: Value, wanted: str) -> bool:
    if isinstance(value, int | float):
        try:
            return float(wanted) == value
        except ValueError:
            return False
    return value == wanted


def parse_selector(text: str) -> Selector:
    """`METHOD`, and behind `@` or `:` conditions NAME=VALUE, with commas between several.

    Raises:
        UsageError: a condition that is none, or that there is not.
    """
    places = [at for at in map(text.find, "@:") if at >= 0]
    method = text[: min(places)] if places else text
    rest = text[len(method) :].replace("@", ",").replace(":", ",")
    conditions = []
    for part in rest.split(",")[1:]:
        name, sign, value = part.partition("=")
        if name not in CONDITIONS:
            raise unknown(f"condition of {text!r}", name, CONDITIONS)
        if not sign or not value:
            raise UsageError(f"condition {part!r} of {text!r} has no value: give it one, as in {name}=0")
        conditions.append((name, value))
    return Selector(method, tuple(conditions))


def no_run_fits(text: str, selector: Selector, specs: Iterable[RunSpec]) -> UsageError:
    """Why a selector with conditions fits no run: what the runs of its method have there, or that it has none."""
    of_method = [spec for spec in specs if Selector(selector.method).fits(spec)]
    if not of_method:
        return UsageError(f"no run fits {text!r}: there is none of method {selector.method!r}")
    offered = []
    for name, _ in selector.conditions:
        values = {_text(CONDITIONS[name](spec)) for spec in of_method}
        offered.append(f"{name}={' or '.join(sorted(values))}")
    return UsageError(f"no run fits {text!r}: those of {selector.method} have {', '.join(offered)}")


def told_apart(specs: Mapping[str, RunSpec]) -> list[str]:
    """A line for each run, by id: the id, its method, and the conditions in which these runs differ."""
    differing = [name for name, of in CONDITIONS.items() if len({_text(of(spec)) for spec in specs.values()}) > 1]
    lines = []
    for run, spec in specs.items():
        values = [f"{name}={_text(CONDITIONS[name](spec))}" for name in differing]
        label = spec.method.label or spec.method.name
        lines.append(f"{run} ({label}{': ' if values else ''}{', '.join(values)})")
    return lines


def several_fit(text: str, specs: Mapping[str, RunSpec], most: int = 12) -> UsageError:
    """That a name means several runs where one is due, with what tells them apart."""
    lines: Sequence[str] = told_apart(specs)
    more = f"; and {len(lines) - most} more" if len(lines) > most else ""
    return UsageError(
        f"run {text!r} is not unique, it means {len(specs)}: {'; '.join(lines[:most])}{more}; give an id, or a "
        "condition as in METHOD:seed=0"
    )


def _text(value: Value) -> str:
    if isinstance(value, float) or (isinstance(value, int) and value >= 10**7):
        return f"{float(value):.6g}"
    return "none" if value is None else str(value)
