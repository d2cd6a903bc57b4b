"""JSON read so that nothing is lost without a word: no key twice, no number that a float turns into another."""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from typing import Any

_BETWEEN = re.compile(r"[\s,]*")
_EXACT = 2**53  # from here on a float skips whole numbers


def parse_json(text: str, *, numbers: bool = True) -> Any:
    """The value that a JSON text says.

    Python's own reader keeps the last of two equal keys, reads `1e400` as infinity, `1e-400` as 0 and
    `12345678901234567890.5` as a number 890 below it.

    Args:
        numbers: refuse such numbers too, not keys alone: model folders are written with Infinity in them.

    Raises:
        json.JSONDecodeError: no JSON.
        ValueError: such a key or number, NaN or Infinity, a whole number that Python does not read, too deep a nesting.
    """
    try:
        return (_DECODER if numbers else _KEYS_ONLY).decode(text)
    except RecursionError:
        raise ValueError("not JSON (it is nested too deeply)") from None
    except ValueError as error:
        if "integer string conversion" in str(error):  # Python's limit, 4,300 digits
            longest = max(map(len, re.findall("[0-9]+", text)))
            raise ValueError(f"a number of {longest:,} digits is too long: write it as text") from None
        raise


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands twice in one object")
    return out


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is not a finite number")
    if value == 0 and re.search("[1-9]", re.split("[eE]", text)[0]):
        raise ValueError(f"{text} is too small, and not 0: write it as text")
    if abs(value) > _EXACT and abs(Fraction(text) - Fraction(repr(value))) >= Fraction(1, 2):
        raise ValueError(f"{text} has more digits than a JSON number keeps: write it as text")
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"not JSON ({constant} is not a JSON number)")


_KEYS_ONLY = json.JSONDecoder(object_pairs_hook=_object)
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_refuse)


def refused_item(text: str) -> str:
    """Which item of an array it is that `parse_json` refuses: `item 3 (line 7)`."""
    at, number = text.index("[") + 1, 0
    while True:
        at, number = _BETWEEN.match(text, at).end(), number + 1  # type: ignore[union-attr]
        try:
            _, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            return f"item {number} (line {text.count(chr(10), 0, at) + 1})"
