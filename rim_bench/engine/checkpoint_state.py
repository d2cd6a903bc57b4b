"""What a checkpoint of training holds, read without running any of it and held against the run that is to go on."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rim_bench.methods.schedule import Schedule, TrainingPlan
from rim_bench.util.errors import UsageError

FILE = "trainer.pt"
KINDS: dict[str, type | tuple[type, ...]] = {
    "step": int,
    "parameters": dict,
    "optimizer": dict,
    "counters": dict,
    "stage": int,
    "spent": int,
    "seconds": (int, float),
    "loss": (int, float),
    "rng": Tensor,
    "cuda_rng": list,
}
MOMENTS = ("exp_avg", "exp_avg_sq")  # of a parameter, in AdamW's state; beside them is its number of steps


def read_state(
    folder: Path,
    step: int,
    parameters: Sequence[tuple[str, nn.Parameter]],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    plan: TrainingPlan,
) -> dict[str, Any]:
    """The state in a checkpoint's folder.

    Args:
        step: that the folder's name says.
        parameters: what the run trains.
        optimizer: a fresh one of them.

    Raises:
        UsageError: a file that cannot be read, or a state that this run cannot have had.
    """
    path = folder / FILE
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickles that torch did not write: they are refused
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds: what is no archive, what is no tensor, what would run code
        reason = f"it cannot be read ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
    else:
        problem = _problem(state, step, parameters, optimizer, schedule, plan)
        if problem is None:
            return dict(state)
        reason = problem
    raise UsageError(f"checkpoint {str(path)!r} is not one of this run: {reason}; move it away to start afresh")


def _problem(
    state: Any,
    step: int,
    parameters: Sequence[tuple[str, nn.Parameter]],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    plan: TrainingPlan,
) -> str | None:
    if not isinstance(state, dict):
        return f"it holds a {type(state).__name__}, not a state of training"
    if "spent" not in state:
        return "it was written before FLOPs were counted"
    for key, kind in KINDS.items():
        if key not in state:
            return f"it has no {key}"
        if not isinstance(state[key], kind) or isinstance(state[key], bool):
            return f"its {key} is a {type(state[key]).__name__}"
    spent, stage, counters = state["spent"], state["stage"], state["counters"]
    if not all(type(n) is int and n >= 0 for n in counters.values()):
        return "its counters are no whole numbers"
    if state["step"] != step:
        return f"it says step {state['step']:,}, and its folder {step:,}"
    if not 0 < spent < schedule.total:
        unit = "FLOPs" if plan.flops else "steps"
        return f"it has spent {spent:,} {unit} of a budget of {schedule.total:,}, and checkpoints are written within it"
    if spent != (counters.get("flops") if plan.flops else step):
        return f"it says that {step:,} steps spent {spent:,} of the budget"
    began = spent - (counters.get("last_step_flops", 0) if plan.flops else 1)
    last = schedule.spans.index(schedule.span(max(0, began)))
    if not 0 <= stage <= last or (stage < last and not plan.flops):
        return f"it says stage {stage + 1}, and its last step was in stage {last + 1}"
    if not (math.isfinite(state["loss"]) and 0 <= state["seconds"] < math.inf):
        return "its loss or seconds are no finite numbers"
    if state["rng"].dtype != torch.uint8 or state["rng"].shape != torch.get_rng_state().shape:
        return "its random state is none"
    return _other_weights(state["parameters"], parameters) or _other_optimizer(state["optimizer"], optimizer)


def _other_weights(stored: Mapping[str, Any], parameters: Sequence[tuple[str, nn.Parameter]]) -> str | None:
    if {name for name, _ in parameters} != set(stored):
        return "it holds other parameters than this run trains"
    for name, parameter in parameters:
        value = stored[name]
        if not isinstance(value, Tensor) or (value.shape, value.dtype) != (parameter.shape, parameter.dtype):
            what = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            return f"its {name} is {what}, not {tuple(parameter.shape)} {parameter.dtype}"
        if not bool(torch.isfinite(value).all()):
            return f"its {name} holds numbers that are not finite"
    return None


def _other_optimizer(stored: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> str | None:
    """Whether it is no state of an optimizer with these groups; a parameter that no step has reached has no state."""
    own, groups, state = optimizer.state_dict()["param_groups"], stored.get("param_groups"), stored.get("state")
    other = "its optimizer is not this run's"
    if not isinstance(groups, list) or not isinstance(state, dict):
        return other
    fixed = ("params", "weight_decay", "betas", "eps")  # the schedule sets the rate at every step
    settings = [[g.get(k) for k in fixed] if isinstance(g, dict) else None for g in groups]
    if settings != [[g[k] for k in fixed] for g in own]:
        return f"{other}: other groups or settings"
    shapes = {i: p.shape for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    for i, values in state.items():
        if i not in shapes or not isinstance(values, dict) or set(values) != {"step", *MOMENTS}:
            return f"{other}: it keeps something else of a parameter"
        for name, value in values.items():
            shape = shapes[i] if name in MOMENTS else torch.Size()
            if not isinstance(value, Tensor) or value.shape != shape or not bool(torch.isfinite(value).all()):
                return f"{other}: the {name} of a parameter has another shape, or is not finite"
    return None
