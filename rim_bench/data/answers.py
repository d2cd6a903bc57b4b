"""The one scorer behind every table: what a generated text answers, and whether that is right.

Two extractions, both stated in every result:

* strict: what follows the last `####`, up to the end of its line. This one decides `Score.correct`.
* flexible: the last number anywhere in the text; where it stands in the marked line, that line is read as strict reads
  it, so that the two never disagree about one answer.

Numbers compare as numbers (`1,234`, `$29.00`, `18.`, `5.0` = `5`, `-3`, `1e3`; `rim_bench.data.numbers`), exactly, as
fractions. lm-eval's own strict and flexible matches of its `gsm8k` task (0.4.13: regular expressions on strings) are
reproduced as secondary columns; they mark `18.00` against `18` wrong and take `...` for a number. Standard library
only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

from rim_bench.data.numbers import canonical, last_number, parse_number

EVALUATOR_VERSION: Final = "2"
"""Stored with every result; two results compare only under the same version. Raise it with any change of a score.

2: more spellings of one number are read; `18 is wrong`, `3 or four`, `5M`, `5 doubled`, `5 = six` are not any more.
"""
Kind = Literal["number", "text", "auto"]
MARK: Final = "####"
_WHOLE: Final = re.compile("-?[0-9]{1,15}")  # most references, and a score takes long
_SPACES: Final = re.compile(r"\s+")
# lm-eval 0.4.13, tasks/gsm8k/gsm8k.yaml: filters "strict-match" and "flexible-extract", and its exact_match settings.
_LM_EVAL_STRICT: Final = re.compile(r"#### (\-?[0-9\.\,]+)")
_LM_EVAL_FLEXIBLE: Final = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_LM_EVAL_INVALID: Final = "[invalid]"


@dataclass(frozen=True, slots=True)
class Extracted:
    """The two candidate answers in a text, as they stand there; None where there is none."""

    strict: str | None  # after the last `####`, to the end of the line, stripped
    flexible: str | None  # the last number-like run, or `strict` where that is the last number


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
    _, mark, marked = text.rpartition(MARK)
    line, _, below = marked.lstrip(" \t").partition("\n")
    strict = (line.strip() or None) if mark else None
    if strict is not None and parse_number(strict) is not None:
        return Extracted(strict, last_number(below) or strict)
    return Extracted(strict, last_number(text))


def normalise_text(text: str) -> str:
    """A text answer for comparison: case folded, white space as single spaces, no closing full stop."""
    return _SPACES.sub(" ", text).strip().casefold().rstrip(".").rstrip()


def kind_of(reference: str, kind: Kind) -> Literal["number", "text"]:
    """`kind` itself, or for "auto" what the reference is."""
    if kind == "auto":
        return "text" if parse_number(reference) is None else "number"
    return kind


def tolerance_at(reference: str, tolerance: float, relative: float | None) -> float:
    """The largest difference from this reference: `tolerance`, or the share `relative` of it where that is smaller."""
    value = None if relative is None else parse_number(reference)
    return tolerance if relative is None or value is None else min(tolerance, relative * abs(float(value)))


def scorable(reference: str, kind: Kind) -> bool:
    """Whether the reference, written as training teaches it, scores right: else no output ever could."""
    return bool(_WHOLE.fullmatch(reference)) or score(f"{MARK} {reference}", reference, kind=kind).correct


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
