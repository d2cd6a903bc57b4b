"""Which controls there are, which claim about a method each one tests, and when it means nothing. No torch.

A control is a method that runs like any other, or one more evaluation of a run. It tests one claim about the method it
belongs to: where the method does not beat its control, the claim is not supported, whatever the method beats elsewhere.
No method's code is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rim_bench.methods.method import Method
from rim_bench.util.errors import UsageError

Matched = Callable[[Mapping[str, Any]], dict[str, Any]]
"""From the settings of the compared method to those that its control shares with it."""
COCONUT_PAPER = "Hao et al., arXiv 2412.06769, Table 1 and section 4.3"
CURRICULUM_PAPER = 'Martin 2026, "The Curriculum Is the Mechanism"'
PAUSE_PAPER = "Goyal et al., arXiv 2310.02226"
RIM_PAPER = "Aichberger and Hochreiter, arXiv 2605.30343"
OURS = "rim-bench: not published"
SAME_START = "rim-bench: a shared CoT start alone gave direct what rim gained over direct from scratch"


USED: Mapping[str, str] = {
    "cot": "it writes its steps, and answers behind them",
    "coconut": "rim-bench: with another question's thoughts a coconut that learned its task loses most of its accuracy",
}
"""Methods whose answers are known to go through what stands before them: positive controls of interventions."""


@dataclass(frozen=True, slots=True)
class Control:
    """One control of one compared method."""

    method: str  # the method that is trained, or (evaluations) whose run is evaluated
    of: str  # the compared method whose claim it tests
    claim: str  # the claim that falls if the method does not beat this control
    source: str  # who asks for it, or published numbers of it
    name: str = ""  # "" = `method`; evaluations and other starts have a name of their own
    start: str | None = None  # the start it needs; None = that of the comparison
    effort: int | None = None  # an evaluation of a run of `method` with this effort
    split_passes: bool = False  # an evaluation of a run of `method` with its passes split
    needs: Literal["", "trained weights", "adapter"] = ""  # what the run must have, else the control means nothing
    matched: Matched | None = None  # settings that it takes from the compared method

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.name or self.method

    @property
    def evaluation(self) -> bool:
        """Whether it is one more evaluation of a run, and no run of its own."""
        return self.effort is not None or self.split_passes


def same(*fields: str) -> Matched:
    """Takes the fields as they are."""
    return lambda settings: {name: settings[name] for name in fields}


_RIM = (
    "M",
    "ground",
    "schedule",
    "anneal_answer",
    "block_attention",
    "blocks",
    "readout_sees_question",
    "max_steps",
    "refine_dropout",
)
_RIM_STAGES = ("epochs_ground", "epochs_refine", "refine_lr_scale")
_STAGES = ("latent_stages", "epochs_cot", "epochs_latent", "epochs_last", "reset_optimizer")
ANY = (
    Control(
        "direct",
        "*",
        "thinking in extra positions or steps beats answering at once after the same training",
        COCONUT_PAPER,
    ),
    Control("pause", "*", "what fills the extra positions matters, not their number", PAUSE_PAPER),
)
"""What every compared method is held against."""
CONTROLS: tuple[Control, ...] = (
    Control(
        "pause-curriculum",
        "coconut",
        "the hidden state that is fed back matters, not the curriculum alone",
        CURRICULUM_PAPER,
        matched=same("c", *_STAGES),
    ),
    Control(
        "no-thought-curriculum",
        "coconut",
        "positions to think in matter, not the gradual removal of steps alone",
        COCONUT_PAPER,
        matched=same(*_STAGES),
    ),
    Control(
        "coconut-no-curriculum",
        "coconut",
        "the curriculum is needed: the recycled state alone does not do it",
        COCONUT_PAPER,
        matched=same("c", "latent_stages", "epochs_last", "reset_optimizer"),
    ),
    Control(
        "pause-curriculum",
        "coconut",
        "more passes change latency only: with fixed embeddings they compute the same function",
        CURRICULUM_PAPER,
        name="pause-multipass",
        split_passes=True,
        matched=same("c", *_STAGES),
    ),
    Control("pause-curriculum", "rim", "a gain over pauses is not that of any curriculum over steps", CURRICULUM_PAPER),
    Control(
        "pause-distinct",
        "rim",
        "blocks do more than as many positions with free embeddings (prefix tuning)",
        OURS,
        matched=lambda settings: {"N": settings["K"] * (settings["M"] + 2)},  # as many positions as rim's blocks take
    ),
    Control(
        "rim-no-grounding",
        "rim",
        "supervision by steps (stage 1) helps, not blocks and readouts of the answer alone",
        RIM_PAPER,
        matched=same("K", *_RIM),
    ),
    Control(
        "rim-no-refinement", "rim", "refinement (stage 2) adds to what grounding gives", RIM_PAPER, matched=same(*_RIM)
    ),
    Control(
        "rim-shuffled-steps",
        "rim",
        "what the steps say matters, not that the readouts have something to predict",
        OURS,
        matched=same("K", *_RIM, *_RIM_STAGES),
    ),
    Control(
        "rim-isolated-blocks",
        "rim",
        "blocks build on the blocks before them",
        OURS,
        matched=same("K", *(f for f in _RIM if f != "blocks"), *_RIM_STAGES),
    ),
    Control(
        "rim-as-prompt",
        "rim",
        "the backbone learns to use the blocks: they are more than a learned prompt",
        OURS,
        needs="trained weights",
        matched=same("K", *_RIM, *_RIM_STAGES),
    ),
    Control(
        "direct-adapter-matched",
        "rim",
        "a gain over direct is not that of more trained parameters",
        OURS,
        needs="adapter",
    ),
    Control(
        "pause-adapter-matched",
        "rim",
        "a gain over pause is not that of more trained parameters",
        OURS,
        needs="adapter",
    ),
    Control(
        "rim",
        "rim",
        "the trained model uses its blocks (that they help is for direct and pause-curriculum to say)",
        RIM_PAPER,
        name="rim-blocks-removed",
        effort=0,
    ),
)
"""Beside those of `ANY`. A `Control` says which claim falls with it."""


def warm_controls(warm: str, arms: str) -> tuple[Control, Control]:
    """direct and pause from the weights (`warm`: "cot") that the arms' own first stage makes inside their budget."""
    claim = f"its gain is not that of the {warm} weights that its own first stage makes"
    direct, pause = (Control(n, arms, claim, SAME_START, f"{n} (from {warm})", warm) for n in ("direct", "pause"))
    return direct, pause


OWN_STARTS = {"epochs_cot": "cot"}
"""Setting of a method above 0 -> the weights that its own first stage makes, unless the run starts from them."""


@dataclass(frozen=True, slots=True)
class UnrunControl:
    """A control that cannot be run in this comparison, and why: a table must say so."""

    control: Control
    reason: str


def _wanted(methods: Sequence[Method], start: str) -> list[Control]:
    methods = [m for m in methods if m.trains != "nothing"]  # they make no claim: nothing of them was tuned
    names = {m.name for m in methods}
    out = [c for c in CONTROLS if c.of in names]
    for control in ANY:
        held = [m.name for m in methods if m.name not in (control.method, "direct")]
        if held:
            out.append(replace(control, of=", ".join(held)))
    # an arm that begins with a stage of another method had a warm start inside its own budget: direct and pause get
    # one, too
    for warm in sorted(
        {s.given_by for m in methods for s in m.stages() if s.given_by is not None and s.given_by != start}
    ):
        arms = ", ".join(m.name for m in methods if any(s.given_by == warm for s in m.stages()))
        out += warm_controls(warm, arms)
    return out


def _refusal(control: Control, start: str, backbone: Mapping[str, Any]) -> str | None:
    begins = control.start or start
    if control.needs == "trained weights" and backbone["kind"] == "scratch" and begins == "recipe":
        return "nothing is to be kept frozen on random weights: it needs a pretrained backbone, or a shared start"
    if control.needs == "adapter" and backbone["tuning"] != "lora":
        return "everything trains in all arms: there is no adapter whose rank could be raised"
    if control.needs == "adapter" and begins != "recipe":
        return "the adapter of a shared start has the rank it has"
    return None


def controls_for(
    methods: Sequence[Method], start: str, backbone: Mapping[str, Any]
) -> tuple[tuple[Control, ...], tuple[UnrunControl, ...]]:
    """The controls that the compared methods need, each once per claim, and those that cannot be run here.

    Controls that are among the compared methods are listed too: the table says which claim each one tests. Names of
    methods that need a run, in order: `{c.method: None for c in controls if not c.evaluation and c.start is None}`.

    Args:
        start: the comparison's start, "recipe" or "cot".
        backbone: its record, see `backbones.resolve_backbone`.
    """
    possible: list[Control] = []
    left: list[UnrunControl] = []
    for control in _wanted(methods, start):
        reason = _refusal(control, start, backbone)
        if reason is None:
            possible.append(control)
        else:
            left.append(UnrunControl(control, reason))
    return tuple(possible), tuple(left)


def matched_settings(control: Control, method: Method) -> dict[str, Any]:
    """The settings at which `control` is one of `method` as it is compared: rim with K = 4 has controls with K = 4."""
    return {} if control.matched is None else control.matched(method.settings())


# The controls that change what trains
def check_trains(method: Method, backbone: Mapping[str, Any], start: str) -> None:
    """Raises UsageError for a method that would freeze or ask random weights, or raise another run's adapter's rank."""
    if method.trains == "nothing" and backbone["kind"] == "scratch":
        raise UsageError(
            f"{method.name} asks a pretrained model as it is, and backbone {backbone['name']!r} has random weights: "
            "give a pretrained one (--model smollm2-135m, a folder or a hub id)"
        )
    if method.trains == "markers" and backbone["kind"] == "scratch" and start == "recipe":
        raise UsageError(
            f"{method.name} trains its new embeddings only, and backbone {backbone['name']!r} has random weights: give "
            "a pretrained one, or a shared start (--start cot)"
        )
    if method.adapter_of is not None and backbone["tuning"] != "lora":
        raise UsageError(
            f"{method.name} raises the rank of an adapter, and backbone {backbone['name']!r} trains without one: use "
            "pretrained weights with --tuning lora"
        )
    if method.adapter_of is not None and start != "recipe":
        raise UsageError(
            f"{method.name} has an adapter of its own rank, and that of a shared start has another: use --start recipe"
        )
