"""Rows of every source in every form, damaged: read, or refused with file and line; what is read can be answered."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from damage import damaged, ops, place, words
from fuzzing import Broken, Campaign, holds, refused
from hypothesis import strategies as st

from rim_bench.data.answers import score
from rim_bench.data.reader import TaskReader, Where
from rim_bench.data.task import Task, load_task, task_names
from rim_bench.data.task_file import forms
from rim_bench.util.errors import UsageError

GRAPH = "Every jelgpus is a lorpus. Tom is a jelgpus. Every lorpus is a scrompus. Is Tom a lempus or scrompus?"
PROOF = {
    "question": "Every wumpus is small. Max is a wumpus.",
    "query": "True or false: Max is small.",
    "answer": "True",
}
PATH = {"question": GRAPH, "steps": ["Tom is a jelgpus.", "Every jelgpus is a lorpus."], "answer": "Tom is a scrompus."}
HOPS = {"question": "Max is a wumpus. True or false: Max is small.", "steps": ["a.", "b."], "answer": "True"}
PUBLISHED: dict[str, list[dict[str, Any]]] = {"prosqa": [PATH], "prontoqa": [HOPS]}
PUBLISHED["prosqa_choice"] = PUBLISHED["prosqa"]
STEP_TEXT = b"How many?||<<4-2=2>> <<2/.5=4>> #### 4\nAnd now?|| #### 1,080\n"
PRODUCTS = b"2 1 * 3||6 3 #### 6 3\n1 2 * 3 4||3 6 0 + 0 4 8 0 #### 3 0 9 0\n"
ANSWERS = (
    *(
        "5",
        "-3",
        "1,080",
        "$29.00",
        "18.",
        "1e3",
        "1/2",
        "3 or 4",
        "abc",
        "#### 5",
        "5 #### 6",
        "####",
        "1st",
        "-(1/3)",
    ),
    *("5 (apples)", "12 (red), 13 (blue)", "3:2", "50%", "\\boxed{5}", "1 234", "½", "٣", "−3", "None", "no", "True"),
    *("1\u00a0234", "18\u200b", '"18"', "1" * 450, "0" * 30 + "1", "1e400", "-0", "00", ".5", "5.", "+5", "1.0e-3"),
)


@cache
def task_of(name: str) -> Task:
    return load_task(name)


@cache
def sources() -> list[str]:
    """Tasks that read files."""
    return [name for name in task_names() if task_of(name).metadata["source"] != "generator"]


def rows_of(name: str, form: int, answer: str) -> list[dict[str, Any]]:
    """Two rows of a source as published, in one of its forms, the second with this answer."""
    if name in PUBLISHED:
        return PUBLISHED[name] * 2
    task = task_of(name)
    fields = (many := forms(task.metadata))[form % len(many)]
    keys = fields.get("question", "question")
    rows = []
    for number, text in enumerate(("72", answer)):
        text = f"She has <<40+{number}=41>>41.\n#### {text}" if task.metadata["source"] == "annotated" else text
        row: dict[str, Any] = {
            key: f"How many {key}s has Ann in week {number}?" for key in ([keys] if isinstance(keys, str) else keys)
        }
        row |= {fields.get("steps", "steps"): ["1+1=2"], fields.get("answer", "answer"): text}
        row |= {fields[key]: f"{key} {number}" for key in ("level", "id", "cluster") if key in fields}
        if "subset" in task.metadata and "field" in (subset := task.metadata["subset"]):
            row[subset["field"]] = subset["keep"][0]
        rows.append(row)
    return rows


def written(name: str, form: int, answer: str, kind: str) -> tuple[bytes, str]:
    """The content of a data file, and its suffix."""
    if kind == "published" and name in ("multiplication_icot", "gsm8k_aug"):
        return (PRODUCTS if name == "multiplication_icot" else STEP_TEXT), ".txt"
    rows = rows_of(name, form, answer)
    if kind == "published" and name == "prontoqa":
        entry = {"test_example": PROOF | {"chain_of_thought": ["Max is a wumpus.", "Wumpuses are small."]}}
        return json.dumps({"example1": entry, "example2": entry}).encode(), ".json"
    if kind == "array":
        return json.dumps(rows).encode(), ".json"
    if kind in ("csv", "parquet"):
        import pandas as pd

        frame = pd.DataFrame(rows)
        return (frame.to_csv(index=False).encode(), ".csv") if kind == "csv" else (frame.to_parquet(), ".parquet")
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(
        "utf-8", "surrogatepass"
    ), ".jsonl"


cases = st.tuples(
    st.sampled_from(sources()),
    st.integers(0, 1),
    st.one_of(st.sampled_from(ANSWERS), words),
    st.sampled_from(["lines", "lines", "lines", "array", "published", "csv", "parquet"]),
    st.one_of(st.none(), ops, ops),
    place,
)


def test_rows(campaign: Campaign, sandbox: Path) -> None:
    def check(case: tuple[Any, ...]) -> None:
        name, form, answer, kind, op, number = case
        data, suffix = written(name, form, answer, kind)
        path = Path("made") / f"rows{suffix}"
        path.write_bytes(data if op is None else damaged(data, "", op))
        split = "test" if task_of(name).metadata.get("files", {}).get("test") else "train"
        read = refused(lambda: TaskReader(task_of(name), Where(files={split: path}, allow_changed=True)).split(split))
        if isinstance(read, UsageError):
            if not 15 < len(str(read)) < 8_000:
                raise Broken(f"a sentence of {len(str(read))} characters: {str(read)[:200]}")
        else:
            for example in read.examples:
                scored = score(f"#### {example.answer}", example.answer, kind=task_of(name).kind)
                if not scored.correct:
                    raise Broken(f"a gold that nothing can match: {name}: {example.answer!r} of {answer!r}")
                if not scored.flexible:
                    raise Broken(f"strict right and flexible wrong: {name}: {example.answer!r}")
        if number % 4 == 0:  # and through the command line
            holds(["show", "rim", "--task", name if name != "json" else "json", "--file", f"train={path}"])

    campaign.run("data rows", check, cases, 0.12)
