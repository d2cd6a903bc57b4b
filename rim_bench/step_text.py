"""The text format of Implicit CoT's data (Deng et al., github.com/da03/Internalize_CoT_Step_by_Step): one problem a line,

    question||<<4-2=2>> <<2/.5=4>> #### 4

Steps may be missing (`question|| #### 4`); everything else is refused with file, line and what was expected.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from rim_bench.errors import UsageError
from rim_bench.sources import Row, read_raw

_STEPS: Final = re.compile(r"\s*(?:<<[^<>\n]*>>\s*)*")
_STEP: Final = re.compile(r"<<[^<>\n]*>>")
_EXPECTED: Final = "expected 'question||<<a+b=c>> <<...>> #### answer' on one line"


def read_step_text(path: Path) -> list[Row]:
    """The rows of such a file, with the fields question, steps (a list) and answer. Blank lines are skipped.

    Raises:
        UsageError: no such file, not UTF-8, no rows, or a line of another form.
    """
    raw = read_raw(path)
    rows = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if line.strip():
            rows.append(_row(line, f"{path}, line {number}"))
    if not rows:
        raise UsageError(f"data file {str(path)!r} is empty: {_EXPECTED}")
    return rows


def _row(line: bytes, place: str) -> Row:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{place}: not UTF-8 text (byte {error.start}): {_EXPECTED}") from None
    question, bars, rest = text.partition("||")
    chain, mark, answer = rest.partition("####")
    if not bars or "||" in rest:
        problem = f"found {text.count('||')} times '||'"
    elif not mark or "####" in answer:
        problem = f"found {rest.count('####')} times '####' behind '||'"
    elif not question.strip():
        problem = "the question is blank"
    elif not answer.strip():
        problem = "the answer is blank"
    elif not _STEPS.fullmatch(chain):
        problem = f"found {_STEP.sub('', chain).strip()[:40]!r} between the steps"
    else:
        return Row(place, {"question": question.strip(), "steps": _STEP.findall(chain), "answer": answer.strip()})
    raise UsageError(f"{place}: {problem}, {_EXPECTED}")
