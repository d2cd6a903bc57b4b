r"""The one number that a text says, exactly, as a fraction; the last number in prose; a number as short text.

Read are the ways in which people and models set one number: signs, currencies, thousands, decimals, exponents,
fractions, mixed numbers, units; LaTeX (`\boxed{9{,}500}`, `\frac{1}{2}`), emphasis, quotes, brackets, `x = 5`, `The
answer is 5`, special tokens at the end. Not read is what is no single number: ranges, sums, dates, `3 or 4`, `5
million`, `5M`, `5 doubled`, `5 = six`, words, digits of other scripts. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

_WHOLE: Final = re.compile("-?[0-9]{1,15}")  # stands as it is: most answers, and the rest takes long
_MAX_DIGITS: Final = 400  # of a mantissa: beyond every data set, and no text can make the arithmetic slow
_MAX_EXPONENT: Final = 400
# Other dashes and slashes, and the spaces that stand between thousands.
_TYPOGRAPHY: Final = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d", "-")
    | dict.fromkeys("\u2044\u2215", "/")
    | dict.fromkeys("\u2006\u2007\u2008\u2009\u200a\u202f", "\xa0")
)
_INVISIBLE: Final = re.compile("([0-9]?)[\xad\u200b-\u200f\u2060\ufeff]+([0-9]?)")
_BOXES: Final = "(?:boxed|fbox|mbox|underline|emph|text(?:bf|it|rm)?|math(?:bf|it|rm|sf)|boldsymbol|bm)"
_LATEX: Final = [
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\{,\}|,\\!", ","),
        (r"(?<=[0-9])(?:\\[,;: ]|~)(?=[0-9]{3}(?![0-9]))", "\xa0"),
        (r"\\([$%])", r"\1"),
        (r"\^\{?\\circ\}?", "°"),
        (r"(?<=[0-9])\s?\\[dt]?frac(?=[\s{0-9])", r" \\frac"),  # a mixed number
        (r"\\[dt]?frac\s?\{\s?(-?[0-9]+)\s?\}\s?\{\s?([0-9]+)\s?\}", r"\1/\2 "),
        (r"\\[dt]?frac\s?([0-9])\s?([0-9])", r"\1/\2 "),
        (rf"(?<=[\w.,}}])(?=\\{_BOXES})", " "),
        (r"\\[][()]|\\(?:left|right|displaystyle)\b|\\[,;: ]", " "),
    )
]
_LATEX_BOX: Final = re.compile(rf"\\{_BOXES}\s?\{{([^{{}}]*)\}}")
_NESTED: Final = 4  # boxes in boxes, brackets in emphasis: as deep as anybody writes them
_SIGNS: Final = "$¢£¤¥֏؋৲৳฿₠-⃀﷼﹩＄￠￡￥￦"
_CURRENCY: Final = rf"(?:(?:US|CA|AU|NZ|HK|SG|[ACR])?\${{1,2}}|[{_SIGNS}]|Rs\.?|INR|USD|EUR|GBP|JPY|CNY|RMB)"
_GROUPED: Final = r"[1-9][0-9]{0,2}(?:(?:,[0-9]{3})+|(?:\xa0[0-9]{3})+)(?![0-9])"
_NUMBER: Final = re.compile(
    rf"""\s* (?P<sign>[-+])? \s* {_CURRENCY}? \s* (?P<inner>[-+])? \s*
    (?:(?P<whole>[0-9]+)[ \xa0](?=[0-9]+\s?/\s?[0-9]))?
    (?P<body>{_GROUPED}(?:\.[0-9]*)? | [0-9]+(?:\.[0-9]*)? | \.[0-9]+)
    (?:[eE](?P<exponent>[-+]?[0-9]+) | \s?/\s?(?P<divisor>{_GROUPED}|[0-9]+)(?![.,]?[0-9]))?
    (?P<rest>.*)""",
    re.VERBOSE | re.DOTALL,
)
# Anything but a digit may follow a number, if what begins it is a space, a letter, a sign of a unit, punctuation, or a
# unit that divides: `$5/hour`, not `5/x`.
_REST: Final = re.compile(rf"(?:[\s%‰°℃℉{_SIGNS}.,;:!?)'\"*\\-]|[^\W\d_]|/[^\W\d_]{{2}}).*", re.DOTALL)
_AREA: Final = re.compile(r"\b((?:[kcdm]?m|in|inch|inches|ft|feet|yd|yards?|mi|miles?|units?)\.?)[²³]")
_WORD: Final = (
    r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|"
    r"twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|half|quarter|third)\b"
)
# What follows a number and makes another one of it, offers a choice, or denies it. A unit does none of it: `5 m`, `5
# pairs`, `5 double rooms` are 5, and `5M`, `5 double` are not.
_ANOTHER: Final = re.compile(
    rf"""\W*(?:(?:hundred|thousand|(?:m|b|tr|quadr|quint|sext|sept|oct)illion)(?:ths?|s?)|(?:dozen|lakh|crore|ten)s?)\b
    | \W*(?:k|mn|bn|tn|[mb]ln|mio|mrd|mld|or)\b | \W*(?:b|mil|score|gross|(?-i:M|MM|T))\b(?![-&'’])
    | \W*(?:half|halves|(?:third|fourth|fifth|sixth|seventh|eighth|ninth|tenth)s?|squared|cubed|factorial)\b
    | \W*(?:(?:doubl|tripl|quadrupl|halv)ed|twice|thrice)\b | \W*(?:double|treble|triple|quadruple|plus)\W*$
    | (?:.*\s)?[+×÷±√≠≤≥∞π] | .*\b(?:plus|minus|less|times|mod)\s+[a-z]\W*$
    | \s*[-*/]\s*(?:[a-z]\W*$|{_WORD}) | \s*(?:[<>^]|\\?(?:times|cdot|div|pm|pi|sqrt|infty)\b)
    | \W*(?:by|over|than|through|to)\s+{_WORD} | .*(?:;|\b(?:and|minus|or|plus|point|times)\s)\s*(?:an?\s+)?{_WORD}
    | (?:\W*|.*\b(?:is|was|are)\s*)(?:not|n't|never|no|wrong|incorrect|false)\b""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_SMALL: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS: Final = "twenty thirty forty fifty sixty seventy eighty ninety"
_VALUES: Final = (
    {word: value for value, word in enumerate(_SMALL.split())}
    | {word: 10 * k for k, word in enumerate(_TENS.split(), 2)}
    | {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
)
_ONE_OF_THEM: Final = rf"(?:{'|'.join(_VALUES)})\b"
_SPELLED: Final = re.compile(
    rf"((?:[-=~→⇒≈]|\b(?:is|are|equals?|means)\b)\W{{0,3}})?\b({_ONE_OF_THEM}(?:(?:\s|-)(?:and\s)?{_ONE_OF_THEM})*)",
    re.IGNORECASE,
)
# Emphasis, quotes, brackets or math around a number; `-(1/3)`.
_WRAPPED: Final = re.compile(
    r"""([-+]?)(?:\*{1,3}([^*]+)\*{1,3}|_{1,3}([^_]+)_{1,3}|`{1,3}([^`]+)`{1,3}|"([^"]+)"|'([^']+)'|“([^”]+)”|‘([^’]+)’
    |«([^»]+)»|\(([^()]+)\)|\[([^][]+)\]|\${1,2}([^$]+)\${1,2})(?![\w(])(.*)""",
    re.VERBOSE | re.DOTALL,
)
_LEAD: Final = re.compile(
    r"(?:(?:so|thus|hence|therefore),?\s+)?(?:(?:the|my|our)\s+)?(?:(?:final|correct)\s+)?(?:answer|result|total)\s*"
    r"(?:is|equals|[:=])\s*:?\s*|[a-z]\s*=\s*",
    re.IGNORECASE,
)
# A special token that a decoder left at the end, in the spelling of the common chat templates.
_SPECIAL: Final = re.compile(
    r"(?:<[|｜][^<>|｜]{1,40}[|｜]>|</?s>|<(?:eos|pad|end_of_turn|end_of_text)>|\[(?:EOS|SEP|PAD|/INST)\])\Z"
)
_LONGEST: Final = 44  # characters of one
# A number-like run in prose. A sign belongs to it only where it cannot stand for a sum or a difference (`80-8`, `80 -
# 8`).
_RUN: Final = re.compile(
    rf"(?<![\w.,])(?:(?<![)\]}}%$])[-+])?(?:[{_SIGNS}]-?|Rs\.\s?)?(?:[0-9]+[ \xa0](?=[0-9]+[ \xa0]?/[ \xa0]?[0-9]))?"
    r"(?:[0-9](?:[0-9.,]|\xa0(?=[0-9]{3}(?![0-9])))*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?:[ \xa0]?/[ \xa0]?[0-9]+)?"
)


def parse_number(text: str) -> Fraction | None:
    """The exact value of the one number in `text`, or None.

    Taken: a sign (also a Unicode minus, also before or after a currency sign), a currency sign, thousands in groups of
    three (commas, `{,}`, no-break or thin spaces), decimals, an exponent up to 400, a fraction of two whole numbers, a
    mixed number (`1 1/2`), then a unit (`%`, `apples`, `cm²`, `/hour`; it does not scale: `50%` is 50); what is set
    around it (see the module) is taken off. Refused: no number or more than one (`1,2,3`, `3-5`, `2:30`, `3 or four`),
    a number denied (`5 is wrong`), `...`, `NaN`, `inf`, `--5`, `5 million`, non-ASCII digits, mantissas over 400
    digits.
    """
    if _WHOLE.fullmatch(text):
        return Fraction(int(text))
    text = _tidy(text).strip()
    while text.endswith((">", "]")) and (token := _SPECIAL.search(text, max(0, len(text) - _LONGEST))):
        text = text[: token.start()].rstrip()
    for _ in range(_NESTED):
        if wrapped := _WRAPPED.fullmatch(text):
            sign, *inner, rest = wrapped.groups()
            text = f"{sign}{next(filter(None, inner)).strip()} {rest}".rstrip()  # a space: `(5)000` is not 5000
        elif lead := _LEAD.match(text):
            text = text[lead.end() :]
        else:
            break
    match = _NUMBER.fullmatch(text)
    if match is None or (match["sign"] and match["inner"]):
        return None
    rest = match["rest"]
    if rest and (
        not _REST.fullmatch(rest) or any(c.isnumeric() for c in _AREA.sub(r"\1", rest)) or _ANOTHER.match(rest)
    ):
        return None
    whole, body = match["whole"], re.sub(",|\xa0", "", match["body"])
    divisor, exponent = match["divisor"], match["exponent"]
    if max(len(body), len(divisor or ""), len(whole or "")) > _MAX_DIGITS or len(exponent or "") > 5:
        return None
    value = Fraction(body.removesuffix("."))
    if exponent is not None:
        if abs(int(exponent)) > _MAX_EXPONENT:
            return None
        value *= Fraction(10) ** int(exponent)
    if divisor is not None:
        below = int(re.sub(",|\xa0", "", divisor))
        if below == 0:
            return None
        value /= below
    if whole is not None:
        if divisor is None or not body.isdigit() or value >= 1:
            return None
        value += int(whole)
    if any(said != value for said in _spelled(rest)):
        return None
    return -value if "-" in (match["sign"], match["inner"]) else value


def _spelled(text: str) -> Iterator[int]:
    """The numbers that a text says in words. A "one" that stands alone is a pronoun, but behind an equals sign."""
    for equals, words in _SPELLED.findall(text):
        if words.lower() == "one" and not equals:
            continue
        total = part = 0
        for word in re.findall(r"\w+", words.lower()):
            value = _VALUES.get(word, 0)  # "and" adds nothing
            if value < 100:
                part += value
            elif value == 100:
                part = 100 * (part or 1)
            else:
                total, part = total + value * (part or 1), 0
        yield total + part


def last_number(text: str) -> str | None:
    """The last number-like run in prose, for `parse_number`, which need not take it; None where there is none."""
    last = None
    for match in _RUN.finditer(_tidy(text)):
        last = match.group()
    return None if last is None else last.rstrip(".,")


def _tidy(text: str) -> str:
    """The text with its numbers' typography and LaTeX in plain signs."""
    if not text.isascii():
        text = _INVISIBLE.sub(lambda m: m[0] if m[1] and m[2] else m[1] + m[2], text.translate(_TYPOGRAPHY))
    if "\\" in text or "{,}" in text:
        for pattern, by in _LATEX:
            text = pattern.sub(by, text)
        for _ in range(_NESTED):
            text = _LATEX_BOX.sub(r"\1 ", text)  # a space: `\boxed{1}8` is not 18
    return text


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
