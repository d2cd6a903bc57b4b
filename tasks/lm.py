"""What the task YAMLs call through lm-eval's `!function`: load a task's rows, score one output.

Their data folder and options come from environment variables (read when a task is loaded), or, before those, from the
metadata given to lm-eval's TaskManager (`Task.lm_eval_metadata`, or `--metadata` on lm-eval's command line):

    RIM_BENCH_DATA   rim_bench_data    folder of the published files
    RIM_BENCH_STEPS  rim_bench_steps   equations (default) or prose
    RIM_BENCH_LIMIT  rim_bench_limit   keep the first N rows of each split
    RIM_BENCH_TRAIN, RIM_BENCH_VALIDATION, RIM_BENCH_TEST: files of a task that declares none (`rimbench_json`)
                     rim_bench_files   a mapping of split to file, for any task
    RIM_BENCH_ALLOW_CHANGED
                     rim_bench_allow_changed   1: take rows whose hash is not the registered one
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rim_bench.data import answers
from rim_bench.data.datasets import evaluation_data, training_data
from rim_bench.data.reader import NoSplit, Split
from rim_bench.data.task import Task, load_task
from rim_bench.util.errors import UsageError

FEW = 200
"""Generated training examples that are made for few-shot prompts, where a set's training is generated."""


def load(**metadata: Any) -> dict[str, Any]:
    """The splits of the task whose YAML lm-eval is reading, as `datasets.Dataset`s of documents.

    lm-eval passes the YAML's metadata, the YAML's path (`config_source`) and whatever else the caller gave it. A
    document has id, question, answer, level, steps (joined by newlines), solution (what training teaches: steps and
    answer), kind, tolerance. Where a task has no training rows, its train split is empty (0-shot evaluation works).
    """
    import datasets

    task = load_task(metadata["config_source"])
    data = metadata.get("rim_bench_data") or os.environ.get("RIM_BENCH_DATA")
    files = dict(metadata.get("rim_bench_files") or {})
    if "files" not in task.metadata and "hub" not in task.metadata and not files:
        named = {split: os.environ.get(f"RIM_BENCH_{split.upper()}") for split in ("train", "validation", "test")}
        files = {split: path for split, path in named.items() if path}
    options: dict[str, Any] = {
        "data": Path(data) if data else None,
        "steps": metadata.get("rim_bench_steps") or os.environ.get("RIM_BENCH_STEPS") or "equations",
        "limit": _whole(metadata.get("rim_bench_limit") or os.environ.get("RIM_BENCH_LIMIT")),
        "files": files or None,
        "allow_changed": allowed_by(
            metadata.get("rim_bench_allow_changed") or os.environ.get("RIM_BENCH_ALLOW_CHANGED")
        ),
    }
    test = evaluation_data(task, **options)
    try:
        if (
            "generator" in task.metadata
        ):  # enough to draw few-shot examples from: the first do not depend on how many there are
            few = min(options["limit"] or FEW, FEW)
            train, validation = (
                training_data(task, **{**options, "limit": few})[0],
                evaluation_data(task, split="validation", **options),
            )
        else:
            train, validation = training_data(task, **options)
        splits = {"train": train, "validation": validation, "test": test}
    except NoSplit:
        splits = {"test": test}
    features = datasets.Features({name: datasets.Value(kind) for name, kind in _COLUMNS.items()})
    if task.form == "choice":
        features |= {
            "form": datasets.Value("string"),
            "choices": [datasets.Value("string")],
            "gold": datasets.Value("int64"),
        }
    documents = {name: _documents(task, split) for name, split in splits.items()}
    return {
        name: datasets.Dataset.from_list(documents.get(name, []), features=features)
        if documents.get(name)
        else _empty(features)
        for name in ("train", "validation", "test")
    }


_COLUMNS = dict.fromkeys(("id", "question", "answer", "level", "steps", "solution", "kind"), "string") | {
    "tolerance": "float64"
}


def _empty(features: Any) -> Any:
    import datasets

    return datasets.Dataset.from_dict({name: [] for name in features}, features=features)


def allowed_by(value: Any) -> bool:
    """Whether a setting that may come from the environment or a command line says yes."""
    return str(value).strip().lower() in ("1", "true", "yes", "on")


def _whole(value: Any) -> int | None:
    if value is None:
        return None
    try:
        return int(value)
    except (TypeError, ValueError):
        raise UsageError(f"limit {value!r} is not a whole number") from None


def _documents(task: Task, split: Split) -> list[dict[str, Any]]:
    return [
        {
            "id": example.id,
            "question": example.question,
            "answer": example.answer,
            "level": example.level,
            "steps": "\n".join(example.steps),
            "solution": "\n".join([*example.steps, f"#### {example.answer}"]),
            "kind": task.kind,
            "tolerance": task.tolerance_at(example.answer),
            **(
                {"form": task.form, "choices": list(example.choices), "gold": example.choices.index(example.answer)}
                if task.form == "choice"
                else {}
            ),
        }
        for example in split.examples
    ]


def choose(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """One document's metrics in the choice form: is the right one likeliest, also for its length, by how many nats."""
    logprobs = [logprob for logprob, _ in results]
    nats = answers.margin(logprobs, int(doc["gold"]))
    if nats is None or not math.isfinite(nats):  # a question that the model has no positions for
        return {"accuracy": 0.0, "accuracy_norm": 0.0, "margin": 0.0}
    norm = answers.likelier_a_character(logprobs, doc["choices"]) == int(doc["gold"])
    return {"accuracy": float(nats > 0), "accuracy_norm": float(norm), "margin": nats}


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """One document's metrics, each 0 or 1: ours (accuracy, flexible), and lm-eval's own pair beside them."""
    output = results[0]
    ours = answers.score(output, doc["answer"], doc["tolerance"], doc["kind"])
    return {
        "accuracy": float(ours.correct),
        "flexible": float(ours.flexible),
        "strict_match": float(answers.lm_eval_strict(output, doc["answer"])),
        "flexible_extract": float(answers.lm_eval_flexible(output, doc["answer"])),
        "unparseable": float(ours.unparseable),
        "empty": float(ours.empty),
    }
