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


USER_TASK = """
task: mine_sums
custom_dataset: !function rim_bench.tasks.lm.load
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
process_results: !function rim_bench.tasks.lm.score
metric_list: [{metric: accuracy, aggregation: mean, higher_is_better: true}]
metadata:
  version: 3
  rim_bench:
    summary: sums of two parts
    source: rows
    files: {train: my_train.jsonl, test: [missing.jsonl, my_test.jsonl]}
    fields: {question: [Body, Question], steps: Equation, answer: Answer, level: Type, id: ID}
"""


def user_task(folder: Path) -> Path:
    """The YAML file of a task with ten training and two test rows."""
    rows = [
        {
            "ID": f"r{i}",
            "Body": f"{i} birds.",
            "Question": "And 1?",
            "Equation": f"{i}+1",
            "Answer": i + 1.0,
            "Type": "Add",
        }
        for i in range(12)
    ]
    write(folder / "my_train.jsonl", rows[:10])
    write(folder / "my_test.jsonl", rows[10:])
    path = folder / "sums.yaml"
    path.write_text(USER_TASK)
    return path
