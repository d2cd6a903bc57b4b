"""The records of a run folder as frozen dataclasses: each field is a key of the file, with a line that says what it is.

A record that is read and written again has the same bytes: keys that this version does not know stay in `extra`, and
keys that the file lacks are not added. A value of another type than its field is refused by name.
"""

# ruff: noqa: RUF009 (what `said` makes of a mutable default is a factory)

from __future__ import annotations

import hashlib
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from rim_bench.storage.selection import BEST, SPLITS, Apart, CheckpointRule, Search
from rim_bench.util.errors import UsageError
from rim_bench.util.files import HUGE, canonical, parse_lines, parse_object
from rim_bench.util.text import leaves, short

NEEDED: Any = object()  # a file without this key is damaged


def said(doc: str, default: Any = None, *, key: str | None = None, omit: bool = False, hidden: bool = False) -> Any:
    """A field of a record.

    Args:
        doc: its line in the documentation.
        default: its value where the file lacks it; a type stands for a new object of that type, NEEDED for none.
        key: its name in the file, where that is no good name for an attribute.
        omit: a new record that has the default does not write it.
        hidden: no key of the file.
    """
    metadata = {"doc": doc, "omit": omit, "hidden": hidden} | ({} if key is None else {"key": key})
    if default is NEEDED:
        return field(metadata=metadata)
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata, compare=not hidden, repr=not hidden)


BEYOND = "is beyond all that is measured here"


class BadRecord(UsageError):
    """A value that is not what its field holds, or a key that is missing."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key} {problem}")
        self.key, self.problem = key, problem

    def below(self, key: str) -> BadRecord:
        """The same in a part of a record."""
        return BadRecord(f"{key}.{self.key}" if self.key else key, self.problem)


class _Kind(NamedTuple):
    """What a field may hold."""

    types: tuple[type, ...]  # of JSON's values; none: anything
    words: str = ""
    read: Callable[[Any], Any] | None = None  # makes the value of JSON's, and raises BadRecord; None: as it is

    @property
    def number(self) -> bool:
        """Whether it is one, or null."""
        return int in self.types and str not in self.types

    def exact(self, key: str, value: Any) -> bool:
        """Whether every value of this type is of the kind. Raises BadRecord where this one is not."""
        kind = type(value)
        if kind in self.types or not self.types:
            return True
        whole = isinstance(value, float) and value.is_integer() and int in self.types  # it may be written 3e12
        if kind is bool or not (whole or isinstance(value, self.types)):
            raise BadRecord(key, f"is {short(value)[:60]!r}, not {self.words}")
        return False

    def value(self, key: str, value: Any) -> Any:
        """The field's value. Raises BadRecord."""
        self.exact(key, value)
        if self.number and isinstance(value, int | float) and not -HUGE < value < HUGE:
            raise BadRecord(key, BEYOND)
        if self.read is None or value is None:
            return value
        try:
            return self.read(value)
        except BadRecord as error:
            raise error.below(key) from None


class _Key(NamedTuple):
    """A key of a file and the field that holds it."""

    key: str
    name: str
    kind: _Kind
    default: Any
    omit: bool


@dataclass(frozen=True, kw_only=True)
class JsonRecord:
    """A JSON object whose known keys are fields."""

    extra: dict[str, Any] = said("keys that this version does not know, kept as they are", dict, hidden=True)
    stored: frozenset[str] | None = said("known keys that stood in the file; None for a new record", hidden=True)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The record of a JSON object.

        Raises:
            BadRecord: a value that is not what its field holds, or a needed key that is missing.
        """
        plan = _read_plan(cls, tuple(value))  # type: ignore[arg-type]  # it takes a record class for unhashable
        record = cls.__new__(cls)  # not __init__, which takes five times as long: defaults stand in the class
        values = vars(record)
        values.update({name: new() for name, new in plan.factories}, stored=plan.present)
        values.update(value if plan.names is None else zip(plan.names, value.values(), strict=True))
        values.pop("", None)
        values["extra"] = {key: value[key] for key in plan.unknown}
        types = tuple(map(type, value.values()))
        if types not in plan.sound:
            exact = [kind.exact(key, value[key]) for key, kind in plan.kinds]
            if all(exact):
                plan.sound.add(types)
        for key in plan.numbers:
            if (number := value[key]) is not None and not -HUGE < number < HUGE:
                raise BadRecord(key, BEYOND)
        for key, name, kind in plan.readers:
            values[name] = kind.value(key, value[key])
        return record

    def only(self, names: Iterable[str]) -> Self:
        """A new record with these fields alone, among them all that are needed."""
        record = type(self).__new__(type(self))  # as in `from_json`
        vars(record).update({name: getattr(self, name) for name in names}, extra={}, stored=None)
        return record

    def to_json(self) -> dict[str, Any]:
        """The object as it stands in the file."""
        out = {}
        for k in _keys(type(self)).values():  # type: ignore[arg-type]  # the same
            value = getattr(self, k.name)
            stored = not k.omit if self.stored is None else k.key in self.stored
            if stored or value != k.default:
                out[k.key] = _plain(value)
        return out | self.extra

    def says(self, key: str) -> bool:
        """Whether the file has this key."""
        return key in self.extra or self.stored is None or key in self.stored

    def without(self, *keys: str) -> dict[str, Any]:
        """The object without these keys."""
        return {k: v for k, v in self.to_json().items() if k not in keys}


def _plain(value: Any) -> Any:
    if isinstance(value, JsonRecord):
        return value.to_json()
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


@cache
def _keys(cls: type[JsonRecord]) -> dict[str, _Key]:
    """The keys of a record's file, in the order of its fields."""
    hints, out = typing.get_type_hints(cls), {}
    for f in fields(cls):
        if not f.metadata["hidden"]:
            key = f.metadata.get("key", f.name)
            default = f.default if f.default_factory is MISSING else f.default_factory()
            out[key] = _Key(key, f.name, _kind(hints[f.name]), default, f.metadata["omit"])
    return out


_PLAIN: Mapping[Any, _Kind] = {
    Any: _Kind(()),
    str: _Kind((str,), "a text"),
    int: _Kind((int,), "a whole number"),
    float: _Kind((float, int), "a number"),
    bool: _Kind((bool,), "true or false"),
    types.NoneType: _Kind((types.NoneType,), "null"),
}


def _kind(hint: Any) -> _Kind:
    """What a field may hold by its annotation: JSON's plain values, records, tuples and dictionaries of these."""
    if hint in _PLAIN:
        return _PLAIN[hint]
    parts, origin = typing.get_args(hint), typing.get_origin(hint)
    if isinstance(hint, types.UnionType):
        kinds = [_kind(part) for part in parts]
        read = next((kind.read for kind in kinds if kind.read is not None), None)
        return _Kind(tuple(t for k in kinds for t in k.types), " or ".join(k.words for k in kinds), read)
    if origin is dict:
        inner = _kind(parts[1])
        if not inner.types:
            return _Kind((dict,), "an object")
        return _Kind((dict,), "an object", lambda value: {key: inner.value(key, v) for key, v in value.items()})
    if origin is tuple and parts[-1] is ...:
        element = _kind(parts[0])
        return _Kind(
            (list, tuple), "a list", lambda value: tuple(element.value(str(k), v) for k, v in enumerate(value))
        )
    if origin is tuple:
        return _Kind((list, tuple), "a list", lambda value: _fixed(tuple(map(_kind, parts)), value))
    return _Kind((dict,), "an object", hint.from_json)


def _fixed(kinds: Sequence[_Kind], value: Sequence[Any]) -> tuple[Any, ...]:
    if len(value) != len(kinds):
        raise BadRecord("", f"has {len(value)} values, not {len(kinds)}")
    return tuple(kind.value(str(k), v) for k, (kind, v) in enumerate(zip(kinds, value, strict=True)))


class _ReadPlan(NamedTuple):
    """How an object with certain keys is read."""

    names: tuple[str, ...] | None  # of the fields, in the order of the keys, empty for an unknown key; None: the keys
    unknown: tuple[str, ...]
    present: frozenset[str]  # known keys
    kinds: tuple[tuple[str, _Kind], ...]  # of the keys
    numbers: tuple[str, ...]  # keys
    readers: tuple[tuple[str, str, _Kind], ...]  # key, field, and how it is read
    factories: tuple[tuple[str, Callable[[], Any]], ...]  # fields whose default is a new object
    sound: set[tuple[type, ...]]  # types of the values that were seen and fit, whatever the values are


@cache
def _read_plan(cls: type[JsonRecord], keys: tuple[str, ...]) -> _ReadPlan:
    known = _keys(cls)  # type: ignore[arg-type]
    if missing := [k.key for k in known.values() if k.default is MISSING and k.key not in keys]:
        raise BadRecord(missing[0], "is missing")
    present = [known[k] for k in keys if k in known]
    names = tuple(known[k].name if k in known else "" for k in keys)
    return _ReadPlan(
        None if names == keys else names,
        tuple(k for k in keys if k not in known),
        frozenset(k.key for k in present),
        tuple((k.key, k.kind) for k in present),
        tuple(k.key for k in present if k.kind.number),
        tuple((k.key, k.name, k.kind) for k in present if k.kind.read is not None),
        tuple((f.name, f.default_factory) for f in fields(cls) if f.default_factory is not MISSING),
        set(),
    )


# Files
Record = TypeVar("Record", bound=JsonRecord)


def read_record(cls: type[Record], data: bytes, path: Path) -> Record:
    """The record in a file of these bytes. Raises UsageError naming the file and what of it is damaged."""
    try:
        return cls.from_json(parse_object(data, repr(str(path))))
    except BadRecord as error:
        raise UsageError(f"{str(path)!r} is damaged: {error}") from None


def read_records(cls: type[Record], data: bytes, path: Path) -> list[Record]:
    """The records in a file of one JSON object a line. Raises UsageError naming the line."""
    return [record for _, record in _numbered(cls, data, path)]


def read_lines(cls: type[JsonRecord], data: bytes, path: Path) -> list[dict[str, Any]]:
    """The same as plain objects."""
    return [value for value, _ in _numbered(cls, data, path)]


def _numbered(cls: type[Record], data: bytes, path: Path) -> Iterator[tuple[dict[str, Any], Record]]:
    for where, value in parse_lines(data, repr(str(path))):
        try:
            yield value, cls.from_json(value)
        except BadRecord as error:
            raise UsageError(f"{where} is damaged: {error}") from None


# spec.json
@dataclass(frozen=True, kw_only=True)
class MethodRecord(JsonRecord):
    """What is trained."""

    name: str = said("name of the method", "")
    label: str | None = said("the name with the settings that the request changed", omit=True)
    settings: dict[str, Any] = said("every hyper-parameter of the method", dict)
    file: str | None = said("path of the user's own file that defines it", omit=True)
    file_sha256: str | None = said("sha256 of that file", omit=True)

    @property
    def title(self) -> str:
        """The label, or where there is none the name."""
        return self.label or self.name


@dataclass(frozen=True, kw_only=True)
class BackboneRecord(JsonRecord):
    """The model that is trained; which keys there are depends on its kind."""

    kind: str | None = said("`scratch`, `hub`, `path` or `gguf`", omit=True)
    name: str = said("name of the backbone", "", omit=True)
    tuning: str | None = said("`full`, or `lora`: adapters only", omit=True)
    family: str | None = said("scratch: `llama` or `gpt2`", omit=True)
    layers: int | None = said("scratch: number of layers", omit=True)
    width: int | None = said("scratch: width of the hidden state", omit=True)
    heads: int | None = said("scratch: attention heads", omit=True)
    intermediate: int | None = said("scratch: width inside the feed-forward layer", omit=True)
    vocabulary: int | None = said("scratch: tokens of its tokenizer", omit=True)
    max_positions: int | None = said("scratch: longest sequence, in tokens", omit=True)
    tied: bool | None = said("scratch: input and output embeddings are the same weights", omit=True)
    embedding_std: float | None = said("scratch: standard deviation of new embeddings; null: the family's")
    dropout: float | None = said("scratch: dropout in training", omit=True)
    hub: str | None = said("hub: id of the model", omit=True)
    revision: str | None = said("hub: commit or branch; null: the newest")
    path: str | None = said("path: folder of the model", omit=True)
    weights: dict[str, str] | None = said("path: sha256 of every weight file", omit=True)
    gguf: str | None = said("gguf: sha256 of the file that the model was converted from", omit=True)
    lora_rank: int | None = said("rank of the adapters", omit=True)
    lora_alpha: float | None = said("scale of the adapters times their rank", omit=True)

    @property
    def label(self) -> str:
        """Its name, then all else that it says."""
        rest = [(k, v) for k, v in sorted(leaves(self.without("name")).items()) if v is not None]
        words = ", ".join(f"{k}={short(v)}" for k, v in rest)
        return (self.name or "backbone") + (f" ({words})" if words else "")

    @property
    def short(self) -> str:
        """Name, family, size and tuning."""
        scratch = self.kind == "scratch"
        words = [
            self.family,
            self.hub,
            self.layers and f"{self.layers} layers" + (f" x {self.width}" if self.width else ""),
            self.vocabulary and f"vocabulary {self.vocabulary}",
            "from scratch" if scratch else self.kind and "pretrained",
        ]
        if not scratch:
            words.append(
                f"LoRA rank {self.lora_rank}" if self.tuning == "lora" else self.tuning and f"{self.tuning} tuning"
            )
        said_words = ", ".join(str(w) for w in words if w)
        return (self.name or "backbone") + (f": {said_words}" if said_words else "")


@dataclass(frozen=True, kw_only=True)
class TaskRecord(JsonRecord):
    """What it is trained on."""

    name: str = said("name of the task", "")
    version: int | str | None = said("version of the task")
    train_sha256: str | None = said("sha256 of the training rows")
    validation_sha256: str | None = said("sha256 of the validation rows")
    train_rows: int | None = said("number of training rows")
    steps: Any = said("form of the written steps: `equations` or `sentences`")
    limit: int | None = said("rows that were allowed at most; null: all")
    registered: bool | None = said("false: the rows are not those that the task registers", omit=True)


@dataclass(frozen=True, kw_only=True)
class BudgetRecord(JsonRecord):
    """The training budget, in FLOPs or in examples."""

    train_flops: int | None = said("training FLOPs, inherited ones included", omit=True)
    examples: int | None = said("training examples of the run itself", omit=True)
    inherited_examples: int | None = said("training examples of the run that it starts from", omit=True)

    @property
    def amount(self) -> tuple[str, float | None]:
        """Kind of the budget and how much, the inherited part included; None where nothing is said of it."""
        if self.train_flops is not None:
            return "train-flops", float(self.train_flops)
        return "examples", None if self.examples is None else float(self.examples + (self.inherited_examples or 0))


@dataclass(frozen=True, kw_only=True)
class OptimizerRecord(JsonRecord):
    """How it is trained."""

    name: str = said("name of the optimizer", "adamw")
    batch_size: int | None = said("examples of a step")
    micro_batch: int | None = said("rows of a forward pass; gradients accumulate up to the batch")
    lr: float | None = said("learning rate")
    warmup: float | None = said("share of the steps since the last optimizer reset that warm up")
    weight_decay: float | None = said("weight decay")
    beta1: float | None = said("decay of the mean gradient")
    beta2: float | None = said("decay of the mean squared gradient")
    clip: float | None = said("largest norm of the gradient")


@dataclass(frozen=True, kw_only=True)
class RuleRecord(JsonRecord):
    """The rule that chooses a checkpoint."""

    rule: str = said("`best` on validation, or `16-split`: on a part of the test questions", "")
    points: int | None = said("number of candidates, evenly spaced over the budget")
    ties: str | None = said("which of equally good candidates counts")
    splits: int = said("16-split: number of random splits", 0, omit=True)
    share: float = said("16-split: share of the questions that choose", 0.0, omit=True)
    seed: int = said("16-split: seed of the splits", -1, omit=True)

    @classmethod
    def of(cls, rule: CheckpointRule) -> RuleRecord | None:
        """The record of a rule; None where it changes no weights, so that ids stay what they were."""
        stored = rule.record()
        return None if stored is None else cls.from_json(stored)


@dataclass(frozen=True, kw_only=True)
class GridRecord(JsonRecord):
    """What trials tried before this run was trained."""

    field: str = said("what was tuned: `lr`, or `space`, each method's own search space", "lr")
    rates: tuple[float, ...] = said("learning rates that were tried", (), omit=True)
    points: int | None = said("points of the space that were tried; missing: a grid of rates", omit=True)
    share: float = said("budget of a trial, as a share of the run's", 1.0)
    seed: int = said("smallest training seed of the trials", 0)
    seeds: tuple[int, ...] = said("training seeds of every trial; missing: that one", (), omit=True)

    @classmethod
    def of(cls, search: Search, seeds: Sequence[int]) -> GridRecord:
        """The record of a search whose trials have these training seeds."""
        return cls.from_json(search.record(seeds))


@dataclass(frozen=True, kw_only=True)
class RunSpec(JsonRecord):
    """What the run is: everything that decides its weights."""

    schema: int = said("version of this format", 1)
    role: str | None = said("`arm`: a compared run; `start`: others start from it; `trial`: tries a learning rate")
    method: MethodRecord = said("the method", MethodRecord)
    backbone: BackboneRecord = said("the model", BackboneRecord)
    task: TaskRecord = said("the training data", TaskRecord)
    start: str | None = said("`recipe`: from the backbone's weights; `cot`: from a run that learned chain of thought")
    parent: str | None = said("id of the run that it starts from")
    budget: BudgetRecord = said("how much it trains", BudgetRecord)
    optimizer: OptimizerRecord = said("how it trains", OptimizerRecord)
    seed: int = said("training seed", 0)
    dtype: str | None = said("number type of the forward pass in training")
    quick: bool = said("a check of the plumbing, not a result", False)
    selection: RuleRecord | None = said("rule that chooses its checkpoint; missing: the last one", omit=True)
    tuned: GridRecord | None = said("learning rates that trials chose from; missing: none", omit=True)
    numerics: int = said("version of the engine's numerics; missing: an engine before versions", 1, omit=True)

    @property
    def id(self) -> str:
        """`<method>-<task>-<12 hex digits of the sha256>`: equal specifications have equal ids.

        Raises:
            ValueError: no method or task name, or values that JSON cannot say.
        """
        return spec_id(self.to_json())

    @property
    def is_start(self) -> bool:
        """Whether other runs start from it."""
        return self.role == "start"

    @property
    def is_trial(self) -> bool:
        """Whether it tries a learning rate."""
        return self.role == "trial"

    @property
    def rule(self) -> str | None:
        """Name of the rule that chooses its checkpoint; None: the last one."""
        return None if self.selection is None else self.selection.rule

    @property
    def selects_on_test(self) -> bool:
        """Whether its checkpoint is chosen on test questions."""
        return self.rule == SPLITS

    @property
    def selects_on_validation(self) -> bool:
        """Whether validation questions chose its checkpoint or its learning rate."""
        return self.rule == BEST or self.tuned is not None

    @property
    def kept_apart(self) -> Apart | None:
        """Why it is no row of a comparison or ranking; None where it is one, or a start (left out without a word)."""
        if self.is_trial:
            return Apart.TRIAL
        return Apart.ON_TEST if self.selects_on_test else None

    @property
    def total_budget(self) -> tuple[str, float | None]:
        """Kind of the training budget and how much, the inherited part included; None where nothing is said of it."""
        return self.budget.amount

    @property
    def untrained(self) -> bool:
        """Whether nothing is trained: the backbone answers as it is, and there is no seed that could change it."""
        return self.budget.examples == 0

    @property
    def recipe(self) -> dict[str, Any]:
        """The specification without the training seed and the run that it starts from: what seeds of a row share."""
        return self.without("seed", "parent")


def spec_id(spec: RunSpec | Mapping[str, Any]) -> str:
    """The id of a specification (`RunSpec.id`), also of one that is no record yet."""
    value = spec.to_json() if isinstance(spec, RunSpec) else spec
    try:
        names = f"{value['method']['name']}-{value['task']['name']}"
    except (KeyError, TypeError) as error:
        raise ValueError(f"a spec needs method.name and task.name: {error!r}") from None
    digest = hashlib.sha256(canonical(value).encode()).hexdigest()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", names).lstrip(".")  # a folder that begins with a dot is no run
    return f"{plain}-{digest[:12]}"


# train.json
@dataclass(frozen=True, kw_only=True)
class UsedBudgetRecord(JsonRecord):
    """How closely the training budget was met."""

    kind: str | None = said("`train-flops` or `examples`")
    asked: int | None = said("what was asked for, inherited part included")
    used: int | None = said("what was used, inherited part included")
    last_step: float | None = said("what the last step took: the resolution of the budget")


@dataclass(frozen=True, kw_only=True)
class ValidationRecord(JsonRecord):
    """Accuracy on validation questions."""

    accuracy: float = said("share of right answers", 0.0)
    n: int = said("number of questions", 0)
    train_exact: int | None = said("questions that stand in the training rows too; missing: none", omit=True)


MOST_SHARED = 0.01
"""Share of the evaluated questions that may stand word for word in the rows that trained, or that chose. A published
set has a few such by accident, which move its accuracy by no more than that; with more it is no held-out set."""


@dataclass(frozen=True, kw_only=True)
class OverlapRecord(JsonRecord):
    """Evaluated questions that stand in what the run was trained on, or in the validation rows that choose."""

    n: int = said("number of questions", NEEDED)
    train_exact: int = said("those that stand in the training rows, white space aside", NEEDED)
    train_masked: int | None = said("the same but for numbers, case and punctuation; null: generated, of one form")
    validation_rows: int = said("number of validation rows", NEEDED)
    validation_exact: int = said("questions that stand in the validation rows, white space aside", NEEDED)
    validation_masked: int | None = said("the same but for numbers, case and punctuation; null: generated")

    @property
    def any(self) -> bool:
        """Whether there is something to say."""
        return any((self.train_exact, self.train_masked, self.validation_exact, self.validation_masked))

    @property
    def trained(self) -> bool:
        """Whether more than `MOST_SHARED` of the questions were trained on."""
        return self.train_exact > MOST_SHARED * self.n

    @property
    def chose(self) -> bool:
        """Whether more than `MOST_SHARED` of the questions, or of the validation rows, are the same."""
        return self.validation_exact > MOST_SHARED * min(self.n, self.validation_rows)


@dataclass(frozen=True, kw_only=True)
class ChosenRecord(JsonRecord):
    """The weights of one step on validation."""

    step: int | None = said("optimizer steps done")
    stage: str | None = said("stage of the curriculum")
    accuracy: float | None = said("share of right answers on validation")
    n: int | None = said("number of questions")


@dataclass(frozen=True, kw_only=True)
class LookRecord(JsonRecord):
    """One evaluation on validation in the course of training."""

    step: int = said("optimizer steps done", 0)
    stage: str = said("stage of the curriculum", "")
    candidate: bool = said("whether its weights are one of those that the rule chooses from", False)
    ends: bool = said("whether the stage ends with it", False)
    accuracy: float = said("share of right answers", 0.0)
    n: int = said("number of questions", 0)
    flops: float = said("inference FLOPs of the evaluation", 0)
    seconds: float = said("seconds it took", 0.0)

    @property
    def chosen(self) -> ChosenRecord:
        """Step, stage and accuracy."""
        return ChosenRecord(step=self.step, stage=self.stage, accuracy=self.accuracy, n=self.n)


# candidates/scores.json
@dataclass(frozen=True, kw_only=True)
class LooksRecord(JsonRecord):
    """What was seen so far while a run trains."""

    schema: int = said("version of this format", 1)
    seen: tuple[LookRecord, ...] = said("every evaluation on validation", ())


# train.json
@dataclass(frozen=True, kw_only=True)
class SelectionRecord(JsonRecord):
    """How the run's checkpoint was chosen."""

    rule: str | None = said("`last`, `best` or `16-split`")
    points: int | None = said("number of evenly spaced candidates")
    ties: str | None = said("which of equally good candidates counts")
    chosen: ChosenRecord | None = said("the checkpoint that became the model; null: the test questions choose")
    stages: tuple[ChosenRecord, ...] = said("accuracy at the end of each stage", ())
    seen: tuple[LookRecord, ...] = said("every evaluation on validation", ())
    flops: float | None = said("inference FLOPs of all of them, in no training budget")
    seconds: float | None = said("seconds of all of them")


@dataclass(frozen=True, kw_only=True)
class TrialRecord(JsonRecord):
    """One training run at one learning rate or point of a space."""

    run: str = said("id of the trial's run", "")
    lr: float = said("learning rate", 0.0)
    values: dict[str, float] = said("value of every setting; missing: the rate alone was tried", dict, omit=True)
    seed: int | None = said("training seed; missing: the one of all trials", omit=True)
    accuracy: float | None = said("share of right answers on validation; null: training diverged")
    n: int | None = said("number of validation questions; null: training diverged")
    flops: int = said("training FLOPs, without inherited ones", 0)
    seconds: float = said("seconds of training", 0.0)


@dataclass(frozen=True, kw_only=True)
class TuningRecord(JsonRecord):
    """How the learning rate, or all settings of the search space, were chosen."""

    field: str = said("what was tuned: `lr`, or `space`, each method's own search space", "lr")
    rates: tuple[float, ...] = said("learning rates that were tried", (), omit=True)
    points: int | None = said("points of the space that were tried; missing: a grid of rates", omit=True)
    share: float = said("budget of a trial, as a share of the run's", 1.0)
    seed: int = said("smallest training seed of the trials", 0)
    seeds: tuple[int, ...] = said("training seeds of every trial; missing: that one", (), omit=True)
    chosen: float = said("learning rate that won", 0.0)
    values: dict[str, float] = said("every setting that won; missing: the rate alone was tried", dict, omit=True)
    accuracy: float | None = said("the winner's mean over seeds, the highest of all and so too high", omit=True)
    standard_error: float | None = said("of a difference of two points' means, from all points' seeds", omit=True)
    rivals: int | None = said("other points within two standard errors of the winner", omit=True)
    ties: str | None = said("which of equally good values counts")
    edge: bool = said("whether it lies at an end of its range, so that a better one may lie beyond", False)
    edges: tuple[str, ...] = said("the settings that do; missing: of a grid of rates", (), omit=True)
    adopted: str | None = said("id of the trial whose weights are the run's; null: it was trained anew")
    flops: int = said("training FLOPs of all trials", 0)
    seconds: float | None = said("seconds of all trials")
    trials: tuple[TrialRecord, ...] = said("the trials", ())


@dataclass(frozen=True, kw_only=True)
class ProcessesRecord(JsonRecord):
    """The processes that trained together."""

    world_size: int = said("number of processes", 1)
    backend: str | None = said("`nccl` or `gloo`")
    strategy: str | None = said("how the work is shared: `ddp` or `fsdp`")


@dataclass(frozen=True, kw_only=True)
class FingerprintRecord(JsonRecord):
    """What decides the last bit of the weights beside the specification."""

    torch: str | None = said("version of torch")
    device: str | None = said("name of the GPU, or `cpu`")
    host_cpu: str | None = said("processor")
    capability: str | None = said("processor features that torch uses, as AVX512")
    threads: int | None = said("threads of torch")
    processes: int = said("processes that train together", 1, omit=True)

    @property
    def label(self) -> str:
        """All of it in a few words."""
        several = f", {self.processes} processes" if self.processes > 1 else ""
        device = f"{self.device} of {self.host_cpu}" if self.device == "cpu" else self.device
        return f"torch {self.torch}, {device}, {self.capability}, {self.threads} threads{several}"


@dataclass(frozen=True, kw_only=True)
class TrainingRecord(JsonRecord):
    """What training did and cost."""

    steps: int | None = said("optimizer steps")
    examples: int | None = said("training examples")
    inherited_examples: int | None = said("training examples of the run that it starts from")
    flops: int | None = said("training FLOPs")
    inherited_flops: int | None = said("training FLOPs of the run that it starts from")
    flops_executed: int | None = said("training FLOPs with padding")
    flops_padding: int | None = said("those of padding alone")
    budget: UsedBudgetRecord | None = said("how closely the budget was met")
    tuning_trials: int | None = said("learning rates that were tried for this method; null: not known")
    tuning: TuningRecord | None = said("how the learning rate was chosen; missing: not by trials", omit=True)
    tokens: int | None = said("tokens trained on")
    executed_tokens: int | None = said("tokens in forward passes, padding included")
    seconds: float | None = said("seconds of training")
    examples_per_s: float | None = said("training examples a second")
    final_loss: float | None = said("loss of the last step")
    validation: ValidationRecord | None = said("the model on validation questions")
    selection: SelectionRecord | None = said("how the checkpoint was chosen; missing: nothing was looked at", omit=True)
    parameters: int | None = said("parameters of the backbone")
    parameters_trained: int | None = said("those that trained")
    peak_memory_bytes: int | None = said("most memory in use")
    device: str | None = said("device that it trained on")
    processes: ProcessesRecord | None = said("processes that trained together; missing: one", omit=True)
    fingerprints: tuple[FingerprintRecord, ...] = said(
        "what decides the last bit, of every start that differed; missing: not recorded", (), omit=True
    )

    @property
    def chosen(self) -> ChosenRecord:
        """The checkpoint that became the model; empty where none was chosen."""
        return (self.selection and self.selection.chosen) or ChosenRecord()


# train.jsonl(.xz)
@dataclass(frozen=True, kw_only=True)
class StepRecord(JsonRecord):
    """One optimizer step."""

    step: int = said("number of steps done with it", NEEDED)
    stage: str | None = said("stage of the curriculum")
    loss: float | None = said("loss; null: it was no finite number")
    losses: dict[str, float | None] = said("its parts", dict)
    lr: float | None = said("learning rate")
    examples: int | None = said("training examples up to here")
    tokens: int | None = said("tokens trained on in this step")
    grad_norm: float | None = said("norm of the gradient before it was clipped")
    flops: int | None = said("training FLOPs of this step")
    flops_executed: int | None = said("those with padding")
    seconds: float | None = said("seconds of this step")


# eval/<key>/summary.json
@dataclass(frozen=True, kw_only=True)
class KnobRecord(JsonRecord):
    """What of the method's default setting was turned."""

    name: str = said("name of the knob; several are joined with +", "")
    value: Any = said("its value; a list for several")


@dataclass(frozen=True, kw_only=True)
class SettingsRecord(JsonRecord):
    """How answers were generated."""

    max_tokens: int | None = said("most tokens of an answer", omit=True)
    batch_size: int | None = said("questions answered together", omit=True)
    dtype: str | None = said("number type", omit=True)
    device: str | None = said("kind of device", omit=True)
    order: str | None = said("`shuffled`: another order of the questions than usual", omit=True)
    votes: int | None = said(
        "sampled answers a question, whose most frequent one counts; missing: one, greedy", omit=True
    )
    temperature: float | None = said("temperature of the samples", omit=True)
    sample_seed: int | None = said("seed of the samples", omit=True)


@dataclass(frozen=True, kw_only=True)
class TimesRecord(JsonRecord):
    """A time over questions, in milliseconds; null where none was timed."""

    median: float | None = said("median")
    p95: float | None = said("95th percentile")
    mean: float | None = said("mean")


@dataclass(frozen=True, kw_only=True)
class LatencyRecord(JsonRecord):
    """Times of single questions."""

    batch: int | None = said("questions at a time: 1", 1)
    rounds: int | None = said("how often each question was timed")
    n: int | None = said("number of questions")
    ttft_ms: TimesRecord | None = said("time to the first token of the answer")
    full_ms: TimesRecord | None = said("time to the whole answer")
    questions: tuple[tuple[str, float, float], ...] | None = said(
        "of each question: its id, time to the first token and to the whole answer", key="items"
    )


@dataclass(frozen=True, kw_only=True)
class ThroughputRecord(JsonRecord):
    """Times of questions that are answered together."""

    batch: int | None = said("questions of a batch")
    rounds: int | None = said("number of batches")
    n: int | None = said("number of questions")
    ttft_ms: TimesRecord | None = said("time to the first token of the answer")
    full_ms: TimesRecord | None = said("time to the whole answer")
    examples_per_s: float | None = said("questions a second")


@dataclass(frozen=True, kw_only=True)
class NoiseRecord(JsonRecord):
    """Some of the questions answered once more in other batches: what changes though nothing changed."""

    n: int | None = said("questions that were answered again")
    batch_size: int | None = said("how many of them together, in a shuffled order")
    answers: int | None = said("of them, answers that are others")
    correct: int | None = said("of them, marks that are others")


@dataclass(frozen=True, kw_only=True)
class RuntimeRecord(JsonRecord):
    """What times depend on beside the method."""

    device: str | None = said("name of the GPU, or `cpu`")
    host_cpu: str | None = said("processor")
    cores: int | None = said("cores that the process may use")
    threads: int | None = said("threads of torch")
    dtype: str | None = said("number type")
    torch: str | None = said("version of torch")
    cells_at_a_time: int | str | None = said(
        "runs that shared the machine; missing: one; `unknown`: perhaps", omit=True
    )


@dataclass(frozen=True, kw_only=True)
class FloorRecord(JsonRecord):
    """What an answer gets that looks at nothing."""

    answer: str | None = said("the most frequent answer, or a guess among the choices")
    accuracy: float = said("its share of right answers", 0.0)


@dataclass(frozen=True, kw_only=True)
class ShortcutRecord(JsonRecord):
    """What a shortcut gets on a level's questions: a classifier of their surface, fitted on training rows alone."""

    name: str = said("what it looks at", "")
    level: str = said("level of the questions", "")
    ood: bool = said("whether training never shows the level", False)
    right: int = said("right answers", 0)
    n: int = said("number of questions", 0)


@dataclass(frozen=True, kw_only=True)
class LmEvalScores(JsonRecord):
    """lm-eval's own scores, in files of early versions."""

    strict: float | None = said("strict match", omit=True)
    flexible: float | None = said("flexible extract", omit=True)


@dataclass(frozen=True, kw_only=True)
class TrainedOnRecord(JsonRecord):
    """The run's own task, where it was evaluated on another."""

    name: str | None = said("name of the task")
    train_sha256: str | None = said("sha256 of its training rows")
    train_rows: int | None = said("number of its training rows")
    limit: int | None = said("rows that were allowed at most; null: all")


@dataclass(frozen=True, kw_only=True)
class UnseenTextRecord(JsonRecord):
    """Questions with text that a tokenizer from scratch never saw in training."""

    questions: int | None = said("how many; null: the training text is not there to tell")
    n: int | None = said("number of questions")


@dataclass(frozen=True, kw_only=True)
class CandidateRecord(JsonRecord):
    """One candidate of a run on the test questions."""

    step: int = said("optimizer steps done", 0)
    stage: str = said("stage of the curriculum", "")
    weights_sha256: str | None = said("sha256 of its weights")
    accuracy: float = said("share of right answers", 0.0)
    flops: float = said("inference FLOPs", 0)


@dataclass(frozen=True, kw_only=True)
class StoredItemsRecord(JsonRecord):
    """The file of the item records."""

    count: int | None = said("number of records")
    sha256: str | None = said("sha256 of the file")
    size: int | None = said("its bytes")


@dataclass(frozen=True, kw_only=True)
class ScoringRecord(JsonRecord):
    """How outputs were compared with right answers; what `rim_bench.data.answers.score` takes."""

    kind: str = said("`number`, `text`, or `auto`: what the right answer is", "number")
    tolerance: float = said("largest difference of equal numbers", 0.0, omit=True)
    relative_tolerance: float | None = said("the same as a share of the right answer; the smaller counts", omit=True)


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord(JsonRecord):
    """The summary of one evaluation."""

    schema: int = said("version of this format", 1)
    protocol: str | None = said("`16-split`: of a run's candidates, in `candidates/eval/` of its folder", omit=True)
    task: str | None = said("name of the task")
    task_title: str = said("its title in tables", "")
    task_version: int | str = said("its version", "")
    evaluator_version: int | str = said("version of the scorer", "")
    scoring: ScoringRecord | None = said("how outputs were scored; missing: not recorded", omit=True)
    date: str | None = said("when it was made, in UTC; missing: not recorded", omit=True)
    split: str = said("`test` or `validation`", "")
    n: int = said("number of questions", 0)
    data_sha256: str = said("sha256 of the questions", "")
    data_source: str | None = said("where the questions come from")
    data_registered: bool | None = said("false: they are not those that the task registers; null: it registers none")
    data_notes: tuple[str, ...] = said("what there is to say of the questions", (), omit=True)
    effort: int | None = said("the method's compute knob; null: its default")
    limit: int | None = said("questions that were allowed at most; null: all")
    quick: bool = said("a check of the plumbing, not a result", False)
    curve: bool = said("a point of an inference curve, no row of a comparison", False)
    knob: KnobRecord | None = said("what of the default setting was turned; null: nothing")
    repeat: bool = said("the same evaluation once more in another order, no row of a comparison", False, omit=True)
    noise: NoiseRecord | None = said("bfloat16: what depends on the other rows of a batch", omit=True)
    choice: str | None = said("multiple choice: how an answer is chosen", omit=True)
    settings: SettingsRecord | None = said("how answers were generated")
    weights_sha256: str | None = said("sha256 of the weights")
    seconds: float | None = said("seconds of answering")
    examples_per_s: float | None = said("questions a second, decoding alone")
    latency: LatencyRecord | None = said("times of single questions")
    throughput: ThroughputRecord | None = said("times of questions that are answered together")
    processes: int | None = said("processes that answered; missing: one", omit=True)
    peak_memory_bytes: int | None = said("most memory in use while a batch is answered")
    runtime: RuntimeRecord | None = said("what times depend on beside the method")
    floor: FloorRecord | None = said("what an answer gets that looks at nothing")
    shortcuts: tuple[ShortcutRecord, ...] = said(
        "what shortcuts get, by level; missing: they were not measured", (), omit=True
    )
    prompt_note: str | None = said("in what lm-eval's prompt differs from the training prompt; null: in nothing")
    trained_on: TrainedOnRecord | None = said("the run's own task, where this is another", omit=True)
    unseen_text: UnseenTextRecord | None = said("another task: questions with text never seen in training", omit=True)
    overlap: OverlapRecord | None = said("questions that trained or chose; missing: not counted", omit=True)
    lm_eval: LmEvalScores | None = said("lm-eval's own scores, in files of early versions", omit=True)
    candidates: tuple[CandidateRecord, ...] = said("16-split: the candidates, in the order of training", (), omit=True)
    flops: int | None = said("16-split: inference FLOPs of all candidates", omit=True)
    stored_items: StoredItemsRecord | None = said("the file of the item records", key="items")

    @property
    def default(self) -> bool:
        """Whether it is of the method's default setting."""
        return self.effort is None and self.knob is None

    def time(self, source: str, kind: str, statistic: str) -> float | None:
        """Milliseconds of an answer; None where they were not taken.

        Args:
            source: "latency" (of single questions) or "throughput".
            kind: "ttft_ms" (to the first token of the answer) or "full_ms".
            statistic: "median", "p95" or "mean".
        """
        timed = getattr(self, source)
        times = None if timed is None else getattr(timed, kind)
        return None if times is None else getattr(times, statistic)

    @property
    def generation(self) -> SettingsRecord:
        """How answers were generated; empty where the file does not say."""
        return self.settings or SettingsRecord(stored=frozenset())


@dataclass(frozen=True, kw_only=True)
class LmEvalRecord(JsonRecord):
    """The summary of an evaluation on a task of lm-eval's own."""

    schema: int = said("version of this format", 1)
    source: str | None = said("`lm-eval`")
    lm_eval_version: str | None = said("version of lm-eval")
    task: str = said("name of the task", "")
    task_version: str | None = said("its version")
    output_type: str | None = said("`generate_until`, `loglikelihood` or `multiple_choice`")
    split: str = said("`test`, or `validation` where the task has no test documents", "")
    num_fewshot: int | None = said("examples shown before a question")
    documents: int | None = said("documents that were evaluated")
    documents_in_all: int = said("documents that there are", 0)
    docs_sha256: str | None = said("sha256 of all documents")
    evaluated_sha256: str = said("sha256 of those that were evaluated", "")
    limit: int | None = said("documents that were allowed at most; null: all")
    effort: int | None = said("the method's compute knob; null: its default")
    quick: bool = said("a check of the plumbing, not a result", False)
    metrics: dict[str, float | None] = said("`metric,filter`: its value", dict)
    stderr: dict[str, float | None] = said("`metric,filter`: its standard error", dict)
    higher_is_better: dict[str, bool] = said("metric: whether more is better", dict)
    settings: SettingsRecord | None = said("how answers were generated")
    runtime: RuntimeRecord | None = said("what times depend on beside the method")
    weights_sha256: str | None = said("sha256 of the weights")
    notes: tuple[str, ...] = said("what there is to say of the evaluation", ())
    trained_on: TrainedOnRecord | None = said("the run's own task", omit=True)
    unseen_text: UnseenTextRecord | None = said("documents with text never seen in training", omit=True)
    overlap: OverlapRecord | None = said("documents whose questions trained or chose; missing: not counted", omit=True)
    n: int | None = said("number of item records", omit=True)
    stored_items: StoredItemsRecord | None = said("the file of the item records", key="items", omit=True)


# eval/<key>/items.jsonl.gz
@dataclass(frozen=True, kw_only=True)
class BlockRecord(JsonRecord):
    """The answer after one block of thought."""

    answer: str | None = said("extracted answer; null: none")
    correct: bool = said("whether it is right", False)


@dataclass(frozen=True, kw_only=True)
class ItemRecord(JsonRecord):
    """One question with its answer and what that cost. Points of a curve leave out what the default evaluation says."""

    id: str = said("id of the question", NEEDED)
    task: str | None = said("name of the task")
    level: str | None = said("level of difficulty, as the task names it")
    ood: bool = said("whether that level is out of distribution", False)
    prompt_hash: str | None = said("first 8 hex digits of the sha256 of the question")
    reference: str | None = said("right answer")
    cluster: str | None = said("source that several questions share (template, seed question)", omit=True)
    chance: float | None = said("multiple choice: accuracy of a guess", omit=True)
    output: str | None = said("what was generated")
    answer: str | None = said("extracted answer; null: none")
    correct: bool = said("whether it is right", NEEDED)
    strict: bool | None = said("whether it is right and the output ends in the form `#### answer`")
    flexible: bool = said("whether the last number of the output is right", False)
    lm_eval_strict: bool | None = said("lm-eval's strict match")
    lm_eval_flexible: bool | None = said("lm-eval's flexible extract")
    unparseable: bool = said("whether no answer could be extracted", False)
    empty: bool = said("whether nothing was generated", False)
    prompt_tokens: int = said("tokens of the question", 0)
    latent_positions: int | None = said("positions after the question that are no text")
    generated_tokens: int = said("tokens of the answer, of all samples", 0)
    capped: bool = said("whether it was cut at the most tokens of an answer", False)
    passes: float | None = said("sequential forward passes")
    passes_to_answer: float | None = said("passes up to the first token of the answer; null: there is none")
    flops_prefill: float | None = said("FLOPs of the prompt")
    flops_decode: float | None = said("FLOPs of decoding")
    flops_executed: int | None = said("FLOPs of both with padding: its share of the batch")
    kv_bytes: int | None = said("bytes of the key-value cache")
    latency_s: float | None = said("seconds to the answer, inside its batch")
    batch_s: float | None = said("seconds of its batch")
    batch_size: int | None = said("questions of its batch")
    overlong: bool = said("whether it is too long for the model: wrong, and in no mean cost", False)
    votes: int | None = said("number of samples", omit=True)
    votes_for: int | None = said("samples that gave the answer", omit=True)
    logprobs: tuple[float, ...] | None = said("multiple choice: log-probability of each choice, in nats", omit=True)
    margin: float | None = said("multiple choice: lead of the right choice over the best wrong one, in nats", omit=True)
    correct_norm: bool | None = said("multiple choice: whether it is right by log-probability a character", omit=True)
    blocks: tuple[BlockRecord, ...] = said("answers after each block of thought", (), omit=True)

    @property
    def flops(self) -> float:
        """FLOPs of the prompt and of decoding."""
        return (self.flops_prefill or 0) + (self.flops_decode or 0)


@dataclass(frozen=True, kw_only=True)
class QuestionRecord(JsonRecord):
    """One question of an evaluated set."""

    id: str = said("id of the question", NEEDED)
    question: str | None = said("its text; missing: the set's licence does not let it be passed on", omit=True)
    reference: str | None = said("right answer; missing likewise", omit=True)
    choices: tuple[str, ...] = said("multiple choice: what is chosen between", (), omit=True)


@dataclass(frozen=True, kw_only=True)
class CandidateItem(JsonRecord):
    """One test question with the answers of all candidates of a run, in the order of training."""

    id: str = said("id of the question", NEEDED)
    level: str | None = said("level of difficulty, as the task names it")
    ood: bool = said("whether that level is out of distribution", False)
    reference: str | None = said("right answer")
    cluster: str | None = said("source that several questions share", omit=True)
    correct: str = said("a 1 or 0 for each candidate", "")
    answers: tuple[str | None, ...] = said("extracted answers", ())


@dataclass(frozen=True, kw_only=True)
class LmEvalItem(JsonRecord):
    """One document and filter of a task of lm-eval's own."""

    id: str = said("number of the document and filter", NEEDED)
    doc_id: int | None = said("number of the document")
    filter: str | None = said("lm-eval's filter")
    doc_hash: str | None = said("sha256 of the document")
    prompt_hash: str | None = said("sha256 of the prompt")
    target_hash: str | None = said("sha256 of the right answer")
    target: str | None = said("right answer")
    outputs: Any = said("what the filter left of the responses")
    metrics: dict[str, Any] = said("metric: its value", dict)
    generated_tokens: int | None = said("tokens of the answer", omit=True)
    latent_positions: int | None = said("positions after the prompt that are no text", omit=True)
    passes: float | None = said("sequential forward passes", omit=True)
    capped: bool | None = said("whether it was cut at the most tokens of an answer", omit=True)
    overlong: bool | None = said("whether it is too long for the model", omit=True)
    generated: str | None = said("what was generated", omit=True)
