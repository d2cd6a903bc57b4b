"""The list of outputs that are wrong, whatever they look like: `tests/data/wrong_answers.txt`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

LIST = Path(__file__).resolve().parent.parent / "data" / "wrong_answers.txt"


class Wrong(NamedTuple):
    """One line of the list."""

    kind: str
    last: bool  # the last number may be the right one: the flexible extraction may be right
    reference: str
    output: str


def wrong_answers() -> list[Wrong]:
    """The whole list."""
    kind, out = "", []
    for line in LIST.read_text("utf-8").split("\n"):
        kind = line.removeprefix("## ") if line.startswith("## ") else kind
        reference, tab, output = line.partition("\t")
        if tab:
            out.append(Wrong(kind.removesuffix(" *"), kind.endswith("*"), reference, output.replace("⏎", "\n")))
    return out
