"""How the command line gives an option: the metadata of a dataclass's field.

limit: Annotated[int | None, Flag("Only the first N rows of each split.")] = None
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from rim_bench.util.errors import UsageError, cannot_apply


class Flag:
    """What the command line shows of a field and how it reads it.

    Args:
        help: the text that `--help` prints.
        names: as in "--methods", "-m"; without any: the field's name.
        read: makes the field's value of the text, or with `many` of the list of texts; None: the text is typed.
        many: whether it may be given several times.
        default: what stands for a flag that is not given, where that is not the field's default.
    """

    def __init__(
        self,
        help: str,
        *names: str,
        read: Callable[[Any], Any] | None = None,
        many: bool = False,
        default: Any = None,
        envvar: str | None = None,
    ) -> None:
        self.help, self.names, self.read, self.many = help, names, read, many
        self.default, self.envvar = default, envvar


@dataclass(frozen=True)
class FlagField:
    """A field that has a flag."""

    name: str
    kind: Any  # its type
    flag: Flag
    default: Any  # MISSING where it has none
    subject: str = ""  # what the class that declares it is about: `SUBJECT`


@cache
def flag_fields(cls: type) -> dict[str, FlagField]:
    """The fields of a dataclass that have a flag, by name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    subjects: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        subjects |= dict.fromkeys(inspect.get_annotations(base), getattr(base, "SUBJECT", ""))
    out: dict[str, FlagField] = {}
    for field in dataclasses.fields(cls):
        kind, *notes = typing.get_args(hints[field.name]) if hasattr(hints[field.name], "__metadata__") else (None,)
        for flag in (note for note in notes if isinstance(note, Flag)):
            out[field.name] = FlagField(field.name, kind, flag, field.default, subjects[field.name])
    return out


def flag_of(options: Any, name: str) -> str | None:
    """An option as it was given: "--data DIR"; None where it has its default, or what the environment says."""
    cls: Any = type(options)
    field, value = flag_fields(cls)[name], getattr(options, name)
    origin = next(f for f in dataclasses.fields(options) if f.name == name)
    usual = origin.default if origin.default_factory is dataclasses.MISSING else origin.default_factory()
    from_environment = field.flag.envvar is not None and str(value) == os.environ.get(field.flag.envvar)
    if value == usual or from_environment:
        return None
    flag = max(field.flag.names, key=len, default="--" + name.replace("_", "-"))
    if isinstance(value, Mapping):
        value = next(f"{k}={v}" for k, v in value.items())
    return flag if value is True else f"{flag} {value}"


def refuse_unused(options: Any, names: str, why: str) -> None:
    """Refuses options that were given and would change nothing.

    Args:
        options: a dataclass of them.
        names: of its fields, with spaces between them.
        why: they would change nothing.

    Raises:
        UsageError: one was given.
    """
    for name in names.split():
        if (flag := flag_of(options, name)) is not None:
            raise cannot_apply(flag, why)


def read_pairs(texts: list[str], flag: str, form: str) -> dict[str, str]:
    """KEY=VALUE, several of them.

    Raises:
        UsageError: a side is missing (`form` is what was expected), or a key was given twice.
    """
    out: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key or not value:
            raise UsageError(f"{flag} {text!r} is not {form}")
        if key in out:
            raise UsageError(f"{flag} gives {key} twice, as {out[key]!r} and as {value!r}: give it once")
        out[key] = value
    return out


def read_value(text: str) -> Any:
    """A number or a truth value where the text is one, else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def read_names(text: str) -> tuple[str, ...]:
    """Names between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def read_settings(texts: list[str]) -> dict[str, dict[str, Any]]:
    """METHOD.FIELD=VALUE, several of them, by method."""
    out: dict[str, dict[str, Any]] = {}
    for name, value in read_pairs(texts, "--set", "METHOD.FIELD=VALUE, as in rim.K=4").items():
        method, dot, key = name.partition(".")
        if not (method and dot and key):
            raise UsageError(f"--set '{name}={value}' is not METHOD.FIELD=VALUE, as in rim.K=4")
        out.setdefault(method, {})[key] = value
    return out


def read_files(texts: list[str]) -> Mapping[str, str]:
    """SPLIT=PATH, several of them, by split."""
    return read_pairs(texts, "--file", "SPLIT=PATH, as in train=rows.jsonl")
