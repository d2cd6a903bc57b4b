"""The interventions of a suite: an operation, where it is made, and on which segments.

Each is a few words, and its name is these words. Which of them a question can take follows from its own segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rim_bench.analysis.trunks import Trunk
from rim_bench.storage.interventions import (
    ALL,
    ANSWER_SEES,
    CLEAN,
    DONOR,
    EARLY_EXIT,
    EVERYTHING,
    KEYS_AND_VALUES,
    KNOCK_OUT,
    MEAN,
    MORE,
    NOISE,
    ORDINARY,
    OWN,
    PERMUTATION,
    PROMPT,
    QUESTION,
    RESIDUAL,
    SAME,
    SAME_ANSWER,
    SEGMENTS_SEE,
    ZERO,
)
from rim_bench.util.errors import unknown

STRENGTHS = (0.5, 1.0, 2.0)  # of noise, in standard deviations
EXITS = 8  # early exits at most
SITES = (KEYS_AND_VALUES, RESIDUAL, ANSWER_SEES, SEGMENTS_SEE, PROMPT)
UP_TO, FROM = "up to ", "from "


@dataclass(frozen=True, slots=True)
class Intervention:
    """One change of what a model computes between question and answer.

    Attributes:
        operation: `knock-out`, `zero`, `mean`, `noise 1 sd`, `donor` ...
        site: keys and values that the answer sees, the residual stream (later layers and segments follow), what the
            answer or the segments see, or the prompt.
        layer: from 0; None: all. Of the residual stream layer 0 is what is fed.
        segments: `all`, a segment's name, `up to NAME`, `from NAME`, `question` or `question and all`; of early exits
            and more segments how many there are.
    """

    operation: str
    site: str
    layer: int | None = None
    segments: str = ALL

    @property
    def name(self) -> str:
        """All of it in a few words."""
        layer = "" if self.site == PROMPT else f", {'all layers' if self.layer is None else f'layer {self.layer}'}"
        return f"{self.operation}: {self.site}{layer}, {self.segments}"

    @property
    def donor(self) -> str | None:
        """Which donor it takes from; None where it takes from none."""
        return self.operation if self.operation.startswith(DONOR) else None

    def names(self, trunk: Trunk) -> tuple[str, ...] | None:
        """The segments of a trunk that it is about; None where the trunk has none such, or all of them are."""
        own, where = trunk.segments, self.segments
        for word, cut in ((UP_TO, lambda k: own[: k + 1]), (FROM, lambda k: own[k:])):
            if where.startswith(word) and where not in own:
                name = where.removeprefix(word)
                part: tuple[str, ...] = cut(own.index(name)) if name in own else ()
                return part if 0 < len(part) < len(own) else None
        known = {ALL: own, QUESTION: trunk.question, EVERYTHING: (*trunk.question, *own)}
        if where in known:
            return known[where]
        return (where,) if where in own else None


def check_intervention(asked: Intervention, layers: int) -> None:
    """Raises UsageError for a site or a layer that there is not."""
    if asked.site not in SITES:
        raise unknown("site", asked.site, SITES)
    if asked.layer is not None and not 0 <= asked.layer < layers:
        raise unknown("layer", str(asked.layer), map(str, range(layers)))


NOTHING = Intervention(CLEAN, KEYS_AND_VALUES)
"""The model as it is."""
CONTROLS = (
    Intervention(OWN, KEYS_AND_VALUES, segments=EVERYTHING),
    Intervention(OWN, RESIDUAL),
    Intervention(DONOR, KEYS_AND_VALUES, segments=EVERYTHING),
    Intervention(PERMUTATION, KEYS_AND_VALUES),
)
"""What must come out as it does: nothing changes, nothing changes, the donor's answer, nothing changes but rounding."""


def verdict_suite(features: Sequence[str]) -> list[Intervention]:
    """What the controls, the estimands and the verdict need: all layers, all segments.

    Args:
        features: names of the task's surface features, each of which a donor may share.
    """
    operations = [DONOR, MEAN, ZERO, *(f"{NOISE} {s:g} sd" for s in STRENGTHS), SAME_ANSWER]
    operations += [f"{SAME}{name}" for name in features]
    return [
        NOTHING,
        *CONTROLS,
        *(Intervention(operation, KEYS_AND_VALUES) for operation in operations),
        Intervention(DONOR, KEYS_AND_VALUES, segments=QUESTION),
        Intervention(KNOCK_OUT, ANSWER_SEES),
        Intervention(KNOCK_OUT, ANSWER_SEES, segments=QUESTION),
    ]


def whole_suite(
    segments: Sequence[str], layers: int, features: Sequence[str], effort: int | None
) -> list[Intervention]:
    """Beside these each segment, prefix and suffix, each layer, and what is done to the prompt.

    Args:
        segments: names of a question's own, in order.
        effort: of the method's compute knob, which early exits turn; None: it has none, and segments are cut off.
    """
    out = verdict_suite(features)
    parts = [*segments, *(UP_TO + s for s in segments[:-1]), *(FROM + s for s in segments[1:])]
    if len(segments) > 1:
        for operation, site in ((DONOR, KEYS_AND_VALUES), (MEAN, KEYS_AND_VALUES), (KNOCK_OUT, ANSWER_SEES)):
            out += [Intervention(operation, site, segments=part) for part in parts]
    for layer in range(layers):
        for site in (KEYS_AND_VALUES, RESIDUAL):
            out += [Intervention(operation, site, layer) for operation in (DONOR, MEAN, ZERO)]
            out += [Intervention(DONOR, site, layer, s) for s in segments if len(segments) > 1]
            out += [Intervention(f"{NOISE} {s:g} sd", site, layer) for s in STRENGTHS if site == RESIDUAL]
        out.append(Intervention(KNOCK_OUT, ANSWER_SEES, layer))
        out.append(Intervention(PERMUTATION, RESIDUAL, layer))
    out += [Intervention(KNOCK_OUT, SEGMENTS_SEE, segments=part) for part in (ALL, QUESTION, *segments[:-1])]
    whole = len(segments) if effort is None else effort
    exits = min(EXITS, whole)
    out += [Intervention(EARLY_EXIT, PROMPT, segments=str(round(k * whole / exits))) for k in range(exits)]
    if effort is not None:
        out += [Intervention(MORE, PROMPT, segments=str(k)) for k in (effort + 1, 2 * effort)]
    out.append(Intervention(ORDINARY, PROMPT))
    return list(dict.fromkeys(out))
