"""A user's own task: one YAML file and its rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The file, a JSON row on each line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


LOADER = "custom_dataset: !function rim_bench.tasks.lm.load"
METRICS = "metric_list: [{metric: accuracy, aggregation: mean, higher_is_better: true}]"
SOURCE = "    source: rows\n"


def task_text(name: str, version: int, block: str) -> str:
    """A task's YAML: what lm-eval reads, and the block that rim-bench reads beside its source of rows."""
    return f"""
task: {name}
{LOADER}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
process_results: !function rim_bench.tasks.lm.score
{METRICS}
metadata:
  version: {version}
  rim_bench:
{SOURCE}{block}"""


USER_TASK = task_text(
    "mine_sums",
    3,
    """    summary: sums of two parts
    files: {train: my_train.jsonl, test: [missing.jsonl, my_test.jsonl]}
    fields: {question: [Body, Question], steps: Equation, answer: Answer, level: Type, id: ID}
""",
)


def user_rows(folder: Path, train: int, test: int) -> None:
    """The files of that task's rows."""
    rows = [
        {
            "ID": f"r{i}",
            "Body": f"{i} birds.",
            "Question": "And 1?",
            "Equation": f"{i}+1",
            "Answer": i + 1.0,
            "Type": "Add",
        }
        for i in range(train + test)
    ]
    write(folder / "my_train.jsonl", rows[:train])
    write(folder / "my_test.jsonl", rows[train:])


def user_task(folder: Path) -> Path:
    """The YAML file of a task with ten training and two test rows."""
    user_rows(folder, 10, 2)
    path = folder / "sums.yaml"
    path.write_text(USER_TASK)
    return path
