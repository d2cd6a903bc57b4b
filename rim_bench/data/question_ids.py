"""Ids and order that do not depend on where rows came from: by the hash of the question.

Sources of one set order its rows differently and differ in white space. Where a task's YAML says `ids: question`, runs
of white space in a question become one space, an item's id is the set's folder and the first 12 hexadecimal digits of
the sha256 of that text (`svamp/0a1b2c3d4e5f`; further rows with the same question get `/2`, `/3`), and items stand in
the order of their ids. So a hub's rows and a published file give the same items, ids and hash.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from rim_bench.data.answers import Kind
from rim_bench.data.numbers import canonical, parse_number
from rim_bench.methods.method import Example
from rim_bench.util.errors import UsageError
from rim_bench.util.files import read_whole

DIGITS: Final = 12
_PLAIN_WHOLE: Final = re.compile("-?[1-9][0-9]{0,14}|0")  # stands as it is: most answers, and parsing is slow
Placed = tuple[str, Example]
"""Where a row stands (for error messages), and the row as an example."""


def question_hash(question: str) -> str:
    """The first digits of a question's sha256, runs of white space in it counted as one space."""
    return hashlib.sha256(" ".join(question.split()).encode()).hexdigest()[:DIGITS]


def numbered(examples: Iterable[Example], prefix: str, kind: Kind) -> tuple[Example, ...]:
    """The examples in the order of ids made of their questions; white space, numbers and clusters in one form.

    Numbers are written without exponents or thousands commas (`5.0` is `5`, `1e10` is `10000000000`). A cluster named
    by a text with spaces (GSM-Plus names it by its seed question) becomes the hash of that text.
    """
    plain: list[Example] = []
    for example in examples:
        answer, cluster = example.answer, example.cluster.strip()
        if kind != "text" and not _PLAIN_WHOLE.fullmatch(answer) and (value := parse_number(answer)) is not None:
            written = canonical(value)
            answer = answer if parse_number(written) is None else written  # 1e400 written out is too long to read
        plain.append(
            dataclasses.replace(
                example,
                id=question_hash(example.question),
                question=" ".join(example.question.split()),
                answer=answer,
                cluster=question_hash(cluster) if " " in cluster else cluster,
            )
        )
    # copies of a question differ in what else they say, so that their order does not depend on the source either
    order = sorted((e.id, e.answer, e.level, e.cluster, e.steps, i) for i, e in enumerate(plain))
    out, last, copy = [], "", 1
    for digest, *_, i in order:
        copy = copy + 1 if digest == last else 1
        last = digest
        out.append(dataclasses.replace(plain[i], id=f"{prefix}/{digest}" + (f"/{copy}" if copy > 1 else "")))
    return tuple(out)


def registered_hash(examples: Iterable[Example]) -> str:
    """The sha256 of a whole split that its YAML registers: id, question, answer, level and cluster, in order.

    Steps are left out: equations and prose are two readings of the same rows.
    """
    digest = hashlib.sha256()
    for e in examples:
        digest.update("\x1f".join((e.id, e.question, e.answer, e.level, e.cluster)).encode() + b"\x1e")
    return digest.hexdigest()


def read_selection(path: Path) -> Counter[str]:
    """A subset's list of question hashes, one a line, twice where two rows ask the same; # begins a comment line.

    Raises:
        UsageError: a file that cannot be read, or a line that is no such hash.
    """
    try:
        lines = read_whole(path).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"list of questions {str(path)!r} cannot be read: {error}") from None
    wanted: Counter[str] = Counter()
    for number, line in enumerate(lines, 1):
        digest = line.strip()
        if digest and not line.startswith("#"):
            if len(digest) != DIGITS or set(digest) - set("0123456789abcdef"):
                raise UsageError(f"{path}, line {number}: found {digest!r}, expected {DIGITS} hexadecimal digits")
            wanted[digest] += 1
    return wanted


def listed(placed: Iterable[Placed], path: Path, source: str) -> list[Placed]:
    """The rows whose questions a list (`read_selection`) names.

    Raises:
        UsageError: questions of the list that are not among the rows of `source`.
    """
    wanted, rows = read_selection(path), list(placed)
    left, kept = wanted.copy(), []
    for place, example in rows:
        digest = question_hash(example.question)
        if left[digest] > 0:
            left[digest] -= 1
            kept.append((place, example))
    if missing := left.total():
        raise UsageError(
            f"{missing} of the {wanted.total()} questions that {path.name} lists are not among the {len(rows)} rows of "
            f"{source}: expected the set as published"
        )
    return kept
