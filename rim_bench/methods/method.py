"""What a method is: a tree of segments plus a curriculum.

A subclass of `Method` is a method; its fields are its record.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import random
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from rim_bench.methods.layout import Layout
from rim_bench.util.errors import UsageError, check_count, unknown

if TYPE_CHECKING:
    import torch
    from torch import nn

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Example:
    """One problem as text: a question, the reasoning steps, the answer (without `#### `)."""

    id: str
    question: str
    steps: tuple[str, ...]
    answer: str
    level: str = ""  # difficulty or subset inside its set; "" where a set has none
    cluster: str = ""  # template or seed question that items share, whose errors are not independent; "" = its own
    choices: tuple[str, ...] = ()  # the answers to choose from, where a set offers some


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example as token ids, each part encoded on its own so that prompts are the same in training and evaluation.

    `question` ends with the newline, each step with its newline; `answer` is `#### `, the answer and the end token.
    """

    id: str
    question: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]
    answer: tuple[int, ...]

    @property
    def chain(self) -> tuple[int, ...]:
        """All steps in one run of tokens."""
        return tuple(t for step in self.steps for t in step)


@dataclass(frozen=True, slots=True)
class Marker:
    """A new token. Its embedding row starts at random (all rows differ), or as a copy of the row of `like`.

    Markers are inputs only: no method predicts them, and they cannot be generated.
    """

    name: str
    like: str | None = None  # text whose single token's row is copied; the mean row where a tokenizer has no such token


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a curriculum."""

    name: str
    share: float = 1.0  # of the training budget, relative to the other stages
    lr_scale: float = 1.0  # times the run's learning rate
    reset: bool = False  # fresh optimizer state and schedule at its start
    knob: int = 0  # free to the method: which stage this is, how many blocks or thoughts
    dropout: float = 0.0  # added to the backbone's own dropout
    given_by: str | None = None  # the stage is skipped where a run starts from such weights ("cot")
    # Of its progress in [0, 1): the optimizer is fresh at the step at which this number is another one. The schedule of
    # the learning rate goes on.
    reset_when: Callable[[float], int] | None = None


@dataclass(frozen=True, slots=True)
class SearchRange:
    """A number of a method's recipe that a search may choose, with its range, ends included.

    `name` is a field of the method, or `weight_decay`, or `lr`, whose range is in multiples of the rate that the task's
    recipe has for every method.
    """

    name: str
    low: float
    high: float
    scale: Literal["linear", "log"] = "log"

    def at(self, share: float) -> float:
        """The value `share` of the way from low to high on its scale, to three digits."""
        if self.scale == "log":
            value = self.low * (self.high / self.low) ** share
        else:
            value = self.low + (self.high - self.low) * share
        return float(f"{value:.3g}")


LEARNING_RATE = SearchRange("lr", 0.25, 4)
WEIGHT_DECAY = SearchRange("weight_decay", 0.001, 0.3)


class Turn(NamedTuple):
    """One turn of a conversation, as chat templates have them."""

    role: Literal["user", "assistant"]
    text: str


class Trace(Protocol):
    """What an auxiliary may read of a forward pass: hidden states by segment, index and layer."""

    def hidden(self, segment: str, index: int, layer: int = -1) -> torch.Tensor: ...  # [rows with the segment, width]


class Auxiliary(Protocol):
    """A training-only module that turns a trace into named scalar losses. It cannot change the forward pass."""

    def losses(self, trace: Trace) -> Mapping[str, torch.Tensor]: ...


@dataclass(frozen=True)
class Method:
    """Base of all methods. Frozen fields are the hyper-parameters; `name` and `summary` are for people."""

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    effort_field: ClassVar[str | None] = None  # the field that `effort` overrides: blocks, thoughts, pauses
    writes_steps: ClassVar[bool] = False  # whether it generates its steps as text before the answer
    # "markers": only the new rows, the rest stays as it starts; "nothing": the backbone answers as it is
    trains: ClassVar[Literal["all", "markers", "nothing"]] = "all"
    until: ClassVar[tuple[str, ...]] = ("\n\n",)  # texts that end an answer, beside the end token
    room: ClassVar[int] = 0  # tokens of an answer that it needs at least, where the task's recipe gives fewer
    adapter_of: ClassVar[str | None] = None  # the method whose number of trained parameters its LoRA rank is raised to

    def transform(self, examples: Sequence[Example], seed: int) -> Sequence[Example]:
        """The training examples as this method takes them; they are encoded and laid out afterwards. Default:
        as they are.
        """
        return examples

    def search_space(self) -> tuple[SearchRange, ...]:
        """Two to four settings of its recipe that `--tune space` searches; none that changes what an answer costs."""
        return (LEARNING_RATE, WEIGHT_DECAY)

    def markers(self) -> tuple[Marker, ...]:
        """New vocabulary."""
        return ()

    def stages(self) -> tuple[Stage, ...]:
        """The curriculum, in order."""
        return (Stage("train"),)

    @property
    def shows(self) -> int:
        """How many training examples every prompt of its shows before the question."""
        return 0

    def shown(self, examples: Sequence[Example]) -> Sequence[Example]:
        """Which of the training examples these are.

        Raises:
            UsageError: it is to show more than there are.
        """
        return ()

    def conversation(self, question: str, shown: Sequence[Example]) -> tuple[Turn, ...]:
        """What a question is asked with, the asking turn last; `shown` are those that `shown` chose.

        Default: nothing, so that the question stands alone, as in training.
        """
        return ()

    def lay_train(self, example: Encoded, stage: Stage, progress: float, rng: random.Random) -> Layout:
        """The training layout of one example; `progress` in [0, 1) is the share of the stage that is done.

        Never called where the method trains nothing.
        """
        raise NotImplementedError

    def lay_prompt(self, question: tuple[int, ...], effort: int | None = None) -> Layout:
        """The layout that generation continues from; `effort` overrides the method's compute knob."""
        raise NotImplementedError

    def lay_probe(self, question: tuple[int, ...], effort: int | None = None) -> Layout | None:
        """A prompt with further places to generate from (an answer after every block), or None.

        Never the scored answer.
        """
        return None

    def lay_split(self, question: tuple[int, ...], effort: int | None = None) -> Layout | None:
        """The prompt with its filler positions in passes of their own, or None: the same function at other latency.

        Never trained.
        """
        return None

    def bridges(self, width: int) -> nn.ModuleDict | None:
        """Trained modules from a hidden state [.., width] to the next latent slot's input, by `Segment.bridge`."""
        return None

    def auxiliary(self, width: int) -> Auxiliary | None:
        """A training-only loss on hidden states."""
        return None

    def settings(self) -> dict[str, Any]:
        """The fields as plain data."""
        return dataclasses.asdict(self)

    def with_settings(self, settings: Mapping[str, Any]) -> Method:
        """This method with some fields changed; text is converted to the field's type.

        Raises:
            UsageError: unknown fields, or values their types do not take, all of them together.
        """
        hints = typing.get_type_hints(type(self))
        fields = {f.name for f in dataclasses.fields(self)}
        problems, values = [], {}
        for key, value in settings.items():
            if key not in fields:
                problems.append(str(unknown(f"option of {self.name}", key, fields)))
                continue
            try:
                values[key] = _convert(value, hints[key])
            except ValueError as error:
                problems.append(f"{self.name}.{key} = {value!r} is not {error}")
        if problems:
            raise UsageError("; ".join(problems))
        try:
            return dataclasses.replace(self, **values)
        except ValueError as error:
            raise UsageError(f"{self.name}: {error}") from None


MOST = 100_000
"""Of a method's whole numbers: more than any model here has positions for, and laid out in a second."""


def check_effort(method: Method, effort: int | None) -> None:
    """Raises UsageError for a number of the compute knob that no layout has, or for a method without one."""
    if effort is not None and method.effort_field is None:
        raise UsageError(f"{method.name} has no compute knob, so effort {effort} cannot be set")
    check_count("effort", effort, 0, MOST)


def _convert(value: Any, kind: Any) -> Any:
    """`value` as a value of the annotated type `kind`; a ValueError names what the type takes."""
    if typing.get_origin(kind) is Literal:
        if value not in (choices := typing.get_args(kind)):
            raise ValueError("one of " + ", ".join(map(str, choices)))
        return value
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        inner = [k for k in typing.get_args(kind) if k is not type(None)]
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        return _convert(value, inner[0])
    if kind is bool:
        table = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if str(value).lower() not in table:
            raise ValueError("true or false")
        return table[str(value).lower()]
    if kind in (int, float):
        try:
            number = kind(value)
            if (
                isinstance(value, bool)
                or not math.isfinite(number)
                or (kind is int and isinstance(value, float) and number != value)
                or (kind is int and abs(number) > MOST)
            ):
                raise ValueError
            return number
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"a whole number of at most {MOST:,}" if kind is int else "a number") from None
    return str(value) if kind is str else value
