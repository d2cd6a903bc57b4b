"""The one scorer behind every table: what a generated text answers, and whether that is right.

Two extractions, both stated in every result:

* strict: what follows the last `####`, up to the end of its line. This one decides `Score.correct`.
* flexible: the last number anywhere in the text.

Numbers compare as numbers (`1,234`, `$29.00`, `18.`, `5.0` = `5`, `-3`, `1e3`), exactly, as fractions. lm-eval's own
strict and flexible matches of its `gsm8k` task (0.4.13: regular expressions on strings) are reproduced as secondary
columns; they mark `18.00` against `18` wrong and take `...` for a number. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

EVALUATOR_VERSION: Final = "1"
"""Stored with every result; two results compare only under the same version. Raise it with any change of a score."""
Kind = Literal["number", "text", "auto"]
MARK: Final = "####"
_MAX_DIGITS: Final = 400  # of a mantissa: beyond every data set, and no text can make the arithmetic slow
_MAX_EXPONENT: Final = 400
_DASHES: Final = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d", "-"))
_CURRENCY: Final = r"(?:\\?[$£€¥₹])"
_GROUPED: Final = r"[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])"
_NUMBER: Final = re.compile(
    rf"""\s* (?P<sign>[-+])? \s* {_CURRENCY}? \s* (?P<inner>[-+])? \s*
    (?P<body>{_GROUPED}(?:\.[0-9]*)? | [0-9]+(?:\.[0-9]*)? | \.[0-9]+)
    (?:[eE](?P<exponent>[-+]?[0-9]+) | \s?/\s?(?P<divisor>{_GROUPED}|[0-9]+)(?![.,]?[0-9]))?
    (?P<rest>.*)""",
    re.VERBOSE | re.DOTALL,
)
# Anything but a digit may follow a number, if what begins it is a space, a letter, a sign of a unit or punctuation.
_REST: Final = re.compile(r"(?:[\s%°$£€¥₹.,;:!?)'\"*\\-]|[^\W\d_]).*", re.DOTALL)
_SCALE: Final = re.compile(
    r"\W*(?:(?:hundred|thousand|million|billion|trillion|dozen)s?\b|(?:k|mn|bn)\b)", re.IGNORECASE
)
# A number-like run in prose. A sign belongs to it only where it cannot stand for a sum or a difference (`80-8`, `80 -
# 8`).
_RUN: Final = re.compile(
    r"(?<![\w.,])(?:(?<![)\]}%$])[-+])?(?:\\?[$£€¥₹]-?)?(?:[0-9][0-9.,]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?:/[0-9]+)?"
)
_SPACES: Final = re.compile(r"\s+")
# lm-eval 0.4.13, tasks/gsm8k/gsm8k.yaml: filters "strict-match" and "flexible-extract", and its exact_match settings.
_LM_EVAL_STRICT: Final = re.compile(r"#### (\-?[0-9\.\,]+)")
_LM_EVAL_FLEXIBLE: Final = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_LM_EVAL_INVALID: Final = "[invalid]"


@dataclass(frozen=True, slots=True)
class Extracted:
    """The two candidate answers in a text, as they stand there; None where there is none."""

    strict: str | None  # after the last `####`, to the end of the line, stripped
    flexible: str | None  # the last number-like run


@dataclass(frozen=True, slots=True)
class Score:
    """How one output fares against one reference. `unparseable` and `empty` exclude each other."""

    answer: str | None  # the strict answer in canonical form ("1234", "-0.5", "1/3"; text: normalised), if there is one
    correct: bool  # the strict answer equals the reference: the number that tables rank by
    strict: bool  # the same as `correct`, under the name of its column beside `flexible`
    flexible: bool  # the last number equals the reference (text: the last line that is not blank)
    unparseable: bool  # there is output, but no answer could be read from it
    empty: bool  # there is no output but white space


def extract(text: str) -> Extracted:
    """The strict and the flexible candidate in `text`; neither need be a number that `parse_number` takes."""
    strict = None
    if MARK in text:
        strict = text.rpartition(MARK)[2].lstrip(" \t").split("\n", 1)[0].strip() or None
    last = None
    for match in _RUN.finditer(text.translate(_DASHES)):
        last = match.group()
    return Extracted(strict, None if last is None else last.rstrip(".,"))


def parse_number(text: str) -> Fraction | None:
    """The exact value of the one number in `text`, or None.

    Taken: a sign (also a Unicode minus, also before or after a currency sign), a currency sign, thousands commas in
    groups of three, decimals, an exponent up to 400, a fraction of two whole numbers, then a unit (`%`, `apples`; it
    does not scale: `50%` is 50). Refused: no number or more than one (`1,2,3`, `3-5`, `2:30`), `...`, `NaN`, `inf`,
    `--5`, `5 million`, non-ASCII digits, mantissas over 400 digits.
    """
    text = text.strip().translate(_DASHES)
    if text.startswith("**") and text.endswith("**"):  # Markdown bold
        text = text.strip("*")
    match = _NUMBER.fullmatch(text)
    if match is None or (match["sign"] and match["inner"]):
        return None
    rest = match["rest"]
    if rest and (not _REST.fullmatch(rest) or any(c.isnumeric() for c in rest) or _SCALE.match(rest)):
        return None
    body, divisor, exponent = match["body"].replace(",", ""), match["divisor"], match["exponent"]
    if len(body) > _MAX_DIGITS or len(divisor or "") > _MAX_DIGITS or len(exponent or "") > 5:
        return None
    value = Fraction(body.rstrip(".") if body.endswith(".") else body)
    if exponent is not None:
        if abs(int(exponent)) > _MAX_EXPONENT:
            return None
        value *= Fraction(10) ** int(exponent)
    if divisor is not None:
        below = int(divisor.replace(",", ""))
        if below == 0:
            return None
        value /= below
    return -value if "-" in (match["sign"], match["inner"]) else value


def canonical(value: Fraction) -> str:
    """A number as short text: a whole number, a finite decimal, or a fraction in lowest terms."""
    if value.denominator == 1:
        return str(value.numerator)
    rest, twos, fives = value.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    places = max(twos, fives)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def normalise_text(text: str) -> str:
    """A text answer for comparison: case folded, white space as single spaces, no closing full stop."""
    return _SPACES.sub(" ", text).strip().casefold().rstrip(".").rstrip()


def kind_of(reference: str, kind: Kind) -> Literal["number", "text"]:
    """`kind` itself, or for "auto" what the reference is."""
    if kind == "auto":
        return "text" if parse_number(reference) is None else "number"
    return kind


def score(output: str, reference: str, tolerance: float = 0, kind: Kind = "number") -> Score:
    """Score one generated text against the reference answer (the bare answer, without `####`).

    Args:
        tolerance: largest absolute difference of two numbers that counts as equal; 0 compares exactly.
        kind: "number", "text" (normalised exact match), or "auto": number where the reference is one.

    A number that cannot be parsed is wrong whatever the reference is; a reference that cannot be parsed is never
    matched.
    """
    candidates = extract(output)
    empty = not output.strip()
    if kind_of(reference, kind) == "text":
        answer = normalise_text(candidates.strict) if candidates.strict else None
        wanted = normalise_text(reference)
        lines = [line for line in output.split("\n") if line.strip()]
        last = normalise_text(lines[-1].rpartition(MARK)[2]) if lines else ""
        correct = bool(answer) and answer == wanted
        return Score(answer or None, correct, correct, bool(last) and last == wanted, not answer and not empty, empty)
    value, wanted_value = _parse(candidates.strict), parse_number(reference)
    correct = _equal(value, wanted_value, tolerance)
    flexible = _equal(_parse(candidates.flexible), wanted_value, tolerance)
    return Score(
        None if value is None else canonical(value), correct, correct, flexible, value is None and not empty, empty
    )


def _parse(text: str | None) -> Fraction | None:
    return None if text is None else parse_number(text)


def _equal(a: Fraction | None, b: Fraction | None, tolerance: float) -> bool:
    return a is not None and b is not None and abs(a - b) <= Fraction(tolerance)


def margin(logprobs: Sequence[float], right: int) -> float | None:
    """By how much, in nats, the right choice is more likely than the likeliest other; negative: it loses.

    None without likelihoods.
    """
    others = [value for i, value in enumerate(logprobs) if i != right]
    return logprobs[right] - max(others) if others else None


def likelier_a_character(logprobs: Sequence[float], choices: Sequence[str]) -> int | None:
    """The choice that is likeliest for its length; None where two tie.

    Log-likelihood over characters, as lm-eval's `acc_norm` (0.4.13).

    A choice of more tokens has more factors below 1, so that the plain sum favours short ones.
    """
    shares = [value / max(1, len(text)) for value, text in zip(logprobs, choices, strict=True)]
    return shares.index(max(shares)) if shares and shares.count(max(shares)) == 1 else None


def lm_eval_strict(output: str, reference: str) -> bool:
    """lm-eval 0.4.13's `gsm8k` exact_match under its `strict-match` filter: the first `#### NUMBER`, as a string."""
    match = _LM_EVAL_STRICT.search(output)
    return _lm_eval_normalise(match.group(1) if match else _LM_EVAL_INVALID) == _lm_eval_normalise(reference)


def lm_eval_flexible(output: str, reference: str) -> bool:
    """lm-eval 0.4.13's `gsm8k` exact_match under its `flexible-extract` filter: the last match, as a string."""
    last = _LM_EVAL_INVALID
    for match in _LM_EVAL_FLEXIBLE.finditer(output):
        last = match.group()
    return _lm_eval_normalise(last) == _lm_eval_normalise(reference)


def _lm_eval_normalise(text: str) -> str:
    """What regexes_to_ignore (`,`, `\\$`, `(?s).*#### `, `\\.$`, in order) and ignore_case leave, in linear time."""
    return text.strip().replace(",", "").replace("$", "").rpartition("#### ")[2].removesuffix(".").lower()
