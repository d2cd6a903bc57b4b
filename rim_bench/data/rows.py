"""Rows of a published file or the hub as examples; every refusal names the file, the line and what was expected.

The text format of Implicit CoT's data (Deng et al., github.com/da03/Internalize_CoT_Step_by_Step): one problem a line,

    question||<<4-2=2>> <<2/.5=4>> #### 4

Steps may be missing (`question|| #### 4`); everything else is refused with file, line and what was expected.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import socket
import threading
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from rim_bench.data.answers import Kind, normalise_text
from rim_bench.data.numbers import canonical, parse_number
from rim_bench.data.options import Steps
from rim_bench.methods.method import Example
from rim_bench.util.errors import UsageError, unknown
from rim_bench.util.files import read_whole
from rim_bench.util.progress import phase
from rim_bench.util.strict_json import parse_json, refused_item

PROBE_SECONDS: Final = 3.0
_ANNOTATION: Final = re.compile(r"<<[^<>\n]*>>")
_THOUSANDS: Final = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_UNIT: Final = re.compile(r"((?:(?! \()[^;])+) \([^()]*\)")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_LINES: Final = re.compile(r"\s*[\r\n]\s*")


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One record as published, and where it stands (`FILE, line 3` or `row 3 of openai/gsm8k (main), train`)."""

    place: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fields:
    """Which keys of a row hold what; `question.stem` is the key stem of the object under question.

    Several question keys are joined by a space (SVAMP's Body and Question).
    """

    question: tuple[str, ...] = ("question",)
    steps: str | None = "steps"  # an optional key: rows without it have no steps
    answer: str = "answer"
    level: str | None = None
    id: str | None = None
    cluster: str | None = None  # what items of one template or seed question share
    null_answer: str | None = None  # the text that stands for an answer that is null; None: null is refused
    sentences: bool = False  # question parts are sentences: one without a closing mark gets a full stop (SVAMP's file)
    unit: bool = False  # a unit in parentheses follows the answer: "9 (apples)" is 9
    choices: str | None = None  # texts to choose from, with or without labels; the answer is one of either
    offer: tuple[str, ...] = ()  # the choices of every row, where they are the same ("Yes", "No")
    gold: str | None = None  # number of the right choice from 0, or true and false for 1 and 0; instead of `answer`
    listed: bool = False  # the question is followed by its choices: "Answer choices: (A) ... (B) ..."

    @property
    def needed(self) -> tuple[str, ...]:
        """The keys that a row of this form has in any case."""
        right = self.answer if self.gold is None else self.gold
        others = (self.level, self.id, self.cluster, self.choices)
        return (*self.question, right, *(key for key in others if key))


FIELDS: Final = tuple(Fields.__dataclass_fields__)


def fields_of(form: Mapping[str, Any]) -> Fields:
    """A form as a YAML gives it."""
    question = form.get("question", "question")
    rest: dict[str, Any] = {
        key: tuple(value) if key == "offer" else value for key, value in form.items() if key != "question"
    }
    return Fields(question=tuple([question] if isinstance(question, str) else question), **rest)


def fitting(row: SourceRow, forms: Sequence[Fields]) -> Fields:
    """The first form whose keys a row has; where there is only one, that one (what it lacks is told when it is read).

    Raises:
        UsageError: several forms, and none fits.
    """
    for form in forms:
        if len(forms) == 1 or all(_value(row, key) is not _MISSING for key in form.needed):
            return form
    wanted = "; or ".join(", ".join(map(repr, form.needed)) for form in forms)
    raise UsageError(f"{row.place}: found the fields {', '.join(map(repr, row.data)) or 'none'}, expected {wanted}")


@dataclass(frozen=True, slots=True)
class Hub:
    """A data set on the hub: repository, configuration and the hub's own names of the splits."""

    path: str
    config: str | None
    splits: Mapping[str, str]


def read_file(path: Path) -> list[SourceRow]:
    """The rows of a JSONL file, or of a JSON file that holds one array of objects. Blank lines are skipped.

    Raises:
        UsageError: no such file, not UTF-8, not JSON (`parse_json`), or rows that are not objects; with the line.
    """
    raw = read_raw(path)
    if raw.lstrip()[:1] == b"[":
        items = _parse(raw, str(path), "an array of JSON objects", array=True)
        if not items:
            raise UsageError(f"data file {str(path)!r} is empty: expected an array of JSON objects")
        return [SourceRow(f"{path}, item {i}", _object(item, f"{path}, item {i}")) for i, item in enumerate(items, 1)]
    rows = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if line.strip():
            place = f"{path}, line {number}"
            try:
                rows.append(SourceRow(place, _object(_parse(line, place, "one JSON object a line"), place)))
            except UsageError:
                _refuse_spread(raw, path)
                raise
    if not rows:
        raise UsageError(f"data file {str(path)!r} is empty: expected one JSON object a line")
    return rows


def read_problems(path: Path) -> list[SourceRow]:
    """The rows of an XML file in ASDiv's published form: a row a `Problem`, a field an element, in lower case with `_`.

    Raises:
        UsageError: no such file, not XML, no problems, or a field that a problem has twice.
    """
    try:
        root = ElementTree.fromstring(read_raw(path))
    except ElementTree.ParseError as error:
        raise UsageError(
            f"{path}, line {error.position[0]}: not XML ({error}): expected ASDiv's published form"
        ) from None
    except (LookupError, ValueError) as error:  # an encoding that there is not, or that the parser does not read
        raise UsageError(f"{path}: not XML that can be read ({error}): save it as UTF-8") from None
    rows = []
    for number, problem in enumerate(root.iter("Problem"), 1):
        place = f"{path}, problem {problem.get('ID', number)}"
        fields = [(field.tag.lower().replace("-", "_"), (field.text or "").strip()) for field in problem]
        if twice := [name for name, n in Counter(name for name, _ in fields).items() if n > 1]:
            raise UsageError(f"{place}: the element {twice[0]!r} stands twice")
        rows.append(SourceRow(place, dict(fields)))
    if not rows:
        raise UsageError(f"data file {str(path)!r} has no Problem: expected ASDiv's published form")
    return rows


def with_field(rows: Sequence[SourceRow], field: str, keep: Sequence[str], drop: Sequence[str]) -> list[SourceRow]:
    """The rows whose field has a value to keep.

    Raises:
        UsageError: a value that is in neither list.
    """
    for row in rows:
        if (value := row.data.get(field)) not in (*keep, *drop):
            raise UsageError(f"{row.place}: field {field!r} is {value!r}, expected one of {', '.join([*keep, *drop])}")
    return [row for row in rows if row.data.get(field) in keep]


def read_raw(path: Path) -> bytes:
    """A data file whole, without a byte order mark.

    Raises:
        UsageError: no such file, or a pointer to it where Git LFS has not fetched it.
    """
    try:
        raw = read_whole(path).removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise UsageError(f"data file {str(path)!r} cannot be read: {error.strerror or error}") from None
    if raw.startswith(b"version https://git-lfs"):
        raise UsageError(f"data file {str(path)!r} is a Git LFS pointer, not the data: fetch it with `git lfs pull`")
    return raw


def read_text(path: Path) -> str:
    """A text file whole.

    Raises:
        UsageError: no such file, or not UTF-8.
    """
    try:
        return read_raw(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start})") from None


def _parse(raw: bytes, place: str, expected: str, array: bool = False) -> Any:
    try:
        return parse_json(text := raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{place}: not UTF-8 text (byte {error.start}): expected {expected}") from None
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise UsageError(f"{place}: not JSON ({error.msg} at {where}): expected {expected}") from None
    except ValueError as error:
        raise UsageError(f"{place}, {refused_item(text)}: {error}" if array else f"{place}: {error}") from None


def _refuse_spread(raw: bytes, path: Path) -> None:
    """Raises UsageError where a file is one JSON object over several lines."""
    if b"\n" not in raw.strip():
        return
    with contextlib.suppress(ValueError, RecursionError):
        whole = json.loads(raw)
        lists = [key for key, value in whole.items() if isinstance(value, list)]
        way_out = f" (what stands under {lists[0]!r})" if lists else ""
        raise UsageError(
            f"data file {str(path)!r} is one JSON object over several lines: expected one object a line, or an array "
            f"of objects{way_out}"
        )


def _object(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{place}: found {type(value).__name__}, expected a JSON object")
    return value


@phase("fetching rows from the hub")
def read_hub(hub: Hub, split: str, way_out: str) -> list[SourceRow]:
    """The rows of one split from the hub, in the hub's order, or from the local cache where the hub is out of reach.

    The hub is probed with a time limit first: the client library alone would retry for half a minute.

    Raises:
        UsageError: it is neither reachable nor cached, or the data set cannot be loaded; ends with `way_out`.
    """
    name = f"{hub.path} ({hub.config})" if hub.config else hub.path
    trouble = unreachable()
    import datasets  # heavy, and needed for the hub only

    try:
        with offline() if trouble else contextlib.nullcontext():
            loaded = datasets.load_dataset(hub.path, hub.config, split=hub.splits.get(split, split))
            rows = loaded.to_list()
    except Exception as error:
        reason = (
            trouble
            or f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
        )
        cached = " and no copy of it is in the local cache" if trouble else ""
        raise UsageError(f"data set {name} could not be loaded from the hub ({reason}){cached}: {way_out}") from None
    return [SourceRow(f"row {i} of {name}, {split}", row) for i, row in enumerate(rows)]


def unreachable() -> str | None:
    """Why the hub (or its proxy) takes no TCP connection within `PROBE_SECONDS`; None if it does."""
    if any(
        os.environ.get(v, "").upper() in {"1", "ON", "YES", "TRUE"} for v in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    ):
        return "offline mode is set in the environment"
    url = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    host = url.hostname or "huggingface.co"
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(host):
        url = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    host, port = url.hostname or host, url.port or (80 if url.scheme == "http" else 443)
    answer: list[str] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
            answer.append("")
        except (OSError, UnicodeError) as error:
            answer.append(f"{host} cannot be reached: {error}")

    # In a thread, because looking a name up has no time limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return (answer[0] or None) if answer else f"{host} does not answer within {PROBE_SECONDS:g} s"


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """The client libraries' offline mode for a while.

    They read the environment variable at import only, hence the attributes.
    """
    import datasets.config
    import huggingface_hub.constants

    places: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def to_example(row: SourceRow, fields: Fields, source: str, steps: Steps, name: str, kind: Kind) -> Example:
    """A row as an example.

    Args:
        source: "annotated" (GSM8K's form: the answer key holds prose lines with `<<48/2=24>>` annotations and `####
            24`), or "rows" (question, steps and answer apart; steps are a list of strings or one text with a step a
            line).
        steps: for "annotated": its annotations, or its lines without them.
        name: the id, where `fields.id` is None.
        kind: what answers are; thousands commas are taken out of numbers (`1,080` becomes `1080`).

    Raises:
        UsageError: a missing or malformed field, with the row's place.
    """
    parts = [_text(row, key).strip() for key in fields.question]
    if fields.sentences:
        parts[:-1] = [part if part.endswith((".", "?", "!")) else f"{part}." for part in parts[:-1]]
    if source == "annotated":
        solution = _text(row, fields.answer)
        if "####" not in solution:
            raise UsageError(
                f"{row.place}: {fields.answer!r} has no '#### ' before its answer: expected steps, then a line '#### "
                "72'"
            )
        reasoning, _, answer = solution.rpartition("####")
        chain = _ANNOTATION.findall(reasoning) if steps == "equations" else _ANNOTATION.sub("", reasoning).split("\n")
    else:
        null = fields.null_answer is not None and _value(row, fields.answer) is None
        if fields.gold is not None:
            answer = ""  # the choice says it
        else:
            answer = str(fields.null_answer) if null else _text(row, fields.answer)
        value = row.data.get(fields.steps) if fields.steps else None
        chain = value.split("\n") if isinstance(value, str) else [] if value is None else value
        if not isinstance(chain, list) or not all(isinstance(step, str) for step in chain):
            raise UsageError(
                f"{row.place}: field {fields.steps!r} must be a list of strings, or one text with a step a line"
            )
    offered = _offered(row, fields)
    if fields.listed:
        options = (f"({label or chr(ord('A') + i)}) {text}" for i, (label, text) in enumerate(offered))
        parts.append(f"Answer choices: {' '.join(options)}")
    different: dict[str, str] = {}  # by what a scorer sees of them: equal ones are one choice
    for _, text in offered:
        different.setdefault(normalise_text(text), text)
    answer = answer.strip()
    if offered:
        answer = different[normalise_text(_right_choice(row, fields, answer, offered))]
        if len(different) < 2:
            raise UsageError(f"{row.place}: all of its choices are the same, {answer!r}")
    if fields.unit and (unit := _UNIT.fullmatch(answer)):  # several numbers keep their units: they are not one number
        answer = unit[1]
    if not answer or "\n" in answer:
        raise UsageError(f"{row.place}: the answer {answer!r} must be one line of text")
    return Example(
        id=_text(row, fields.id) if fields.id else name,
        question=" ".join(parts),
        steps=tuple(line for step in chain if (line := _LINES.sub(" ", step.strip()))),  # a step is one line
        answer=_THOUSANDS.sub("", answer) if kind != "text" and parse_number(answer) is not None else answer,
        level=_text(row, fields.level) if fields.level else "",
        cluster=_text(row, fields.cluster) if fields.cluster else "",
        choices=tuple(different.values()),
    )


_MOST_CHOICES: Final = 26  # as many as there are letters for


def _offered(row: SourceRow, fields: Fields) -> list[tuple[str, str]]:
    """Label, empty where there is none, and text of each of a row's choices; empty where a form has none.

    Published forms: a list of texts; a list of objects with label and text (CommonsenseQA's authors); one object with
    a list under each (the hub's CommonsenseQA and ARC).

    Raises:
        UsageError: another form, or fewer than two choices.
    """
    if fields.choices is None:
        return [("", text) for text in fields.offer]
    value = _value(row, fields.choices)
    if isinstance(value, dict):
        names, texts = value.get("label"), value.get("text")
        if isinstance(names, list) and isinstance(texts, list) and len(names) == len(texts):
            value = [{"label": name, "text": text} for name, text in zip(names, texts, strict=True)]
    items = value if isinstance(value, list) else []
    labelled = bool(items) and all(isinstance(item, dict) and {"label", "text"} <= item.keys() for item in items)
    texts = [item["text"] for item in items] if labelled else items
    if not 2 <= len(texts) <= _MOST_CHOICES or not all(map(_is_line, texts)):
        raise UsageError(
            f"{row.place}: field {fields.choices!r} must hold 2 to {_MOST_CHOICES} choices, each one line of text: a "
            "list of them, a list of objects with label and text, or an object with a list of each"
        )
    labels = [str(item["label"]).strip() if labelled else "" for item in items]
    return [(label, str(text).strip()) for label, text in zip(labels, texts, strict=True)]


def _is_line(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number or (isinstance(value, str) and bool(value.strip()) and not set("\r\n") & set(value.strip()))


def _right_choice(row: SourceRow, fields: Fields, answer: str, offered: Sequence[tuple[str, str]]) -> str:
    """The choice that a row calls right: by its number, its label, or its text."""
    choices = [text for _, text in offered]
    if fields.gold is not None:
        number = _value(row, fields.gold)
        if not isinstance(number, int) or not 0 <= number < len(choices):
            given = "missing" if number is _MISSING else repr(number)
            raise UsageError(
                f"{row.place}: field {fields.gold!r} is {given}, expected the number of one of the {len(choices)} "
                f"choices, 0 to {len(choices) - 1}"
            )
        return choices[number]
    if (labelled := next((text for label, text in offered if label and label == answer), None)) is not None:
        return labelled
    if any(normalise_text(text) == normalise_text(answer) for text in choices):
        return answer
    raise UsageError(
        f"{row.place}: {unknown('answer', answer, [*filter(None, (label for label, _ in offered)), *choices])}"
    )


_MISSING: Final = object()


def _value(row: SourceRow, key: str) -> Any:
    """What a row has under a key, or under the keys of objects inside it, with full stops between; else `_MISSING`."""
    if key in row.data:
        return row.data[key]
    value: Any = row.data
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _text(row: SourceRow, key: str) -> str:
    """A field as text that is not blank; numbers as people write them (18.0 is 18, 1e+16 is 10000000000000000)."""
    value = _value(row, key)
    if value is _MISSING:
        names = ", ".join(map(repr, row.data)) or "no fields"
        without = " (rim-bench ask takes questions without answers)" if key == "answer" else ""
        raise UsageError(f"{row.place}: no field {key!r}: found {names}{without}")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UsageError(f"{row.place}: field {key!r} is {value}, expected a finite number")
        value = canonical(Fraction(repr(value)))
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{row.place}: field {key!r} is {type(value).__name__}, expected text or a number")
    text = str(value)
    if not text.strip():
        raise UsageError(f"{row.place}: field {key!r} is blank, expected text")
    if not text.isascii() and _SURROGATE.search(text):  # JSON can spell half a character; no file can hold it
        raise UsageError(f"{row.place}: field {key!r} holds a lone surrogate, expected Unicode text")
    return text


_STEPS: Final = re.compile(r"\s*(?:<<[^<>\n]*>>\s*)*")
_EXPECTED: Final = "expected 'question||<<a+b=c>> <<...>> #### answer' on one line"


def read_step_text(path: Path) -> list[SourceRow]:
    """The rows of such a file, with the fields question, steps (a list) and answer. Blank lines are skipped.

    Raises:
        UsageError: no such file, not UTF-8, no rows, or a line of another form.
    """
    rows = []
    for number, line in enumerate(read_raw(path).split(b"\n"), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{place}: not UTF-8 text (byte {error.start}): {_EXPECTED}") from None
        question, bars, rest = text.partition("||")
        chain, mark, answer = rest.partition("####")
        problem: str | None = None
        if not bars or "||" in rest:
            problem = f"found {text.count('||')} times '||'"
        elif not mark or "####" in answer:
            problem = f"found {rest.count('####')} times '####' behind '||'"
        elif not question.strip():
            problem = "the question is blank"
        elif not answer.strip():
            problem = "the answer is blank"
        elif not _STEPS.fullmatch(chain):
            problem = f"found {_ANNOTATION.sub('', chain).strip()[:40]!r} between the steps"
        if problem is not None:
            raise UsageError(f"{place}: {problem}, {_EXPECTED}")
        steps = _ANNOTATION.findall(chain)
        rows.append(SourceRow(place, {"question": question.strip(), "steps": steps, "answer": answer.strip()}))
    if not rows:
        raise UsageError(f"data file {str(path)!r} is empty: {_EXPECTED}")
    return rows
