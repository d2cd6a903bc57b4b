"""A task of lm-eval's as one to train on: its documents become rows in a folder of this machine, with a task's YAML.

Questions are lm-eval's own prompts (`doc_to_text`, without few-shot examples); the answer stands behind `#### ` as in
every task here, and rim-bench's scorer reads it. lm-eval's own metric on its own prompt is another evaluation
(`--eval-tasks lm-eval:NAME`). The folder is named by the hash of what is in it: the same documents make the same task.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import yaml

from rim_bench.data.answers import MARK
from rim_bench.data.task import tasks_folder
from rim_bench.data.task_file import parse_yaml
from rim_bench.evaluate.lm_eval_tasks import LmEvalTask, load_lm_eval_tasks
from rim_bench.evaluate.options import LM_EVAL
from rim_bench.util.errors import UsageError
from rim_bench.util.files import complete_folder, damage_of, home_folder
from rim_bench.util.own_files import read_own
from rim_bench.util.progress import phase

FORMS: Final = {"multiple_choice": "choice", "generate_until": "generate"}
"""Output type of lm-eval -> form of a task here."""


@phase("reading a task of lm-eval's")
def converted_task(name: str) -> Path:
    """The YAML of the task that stands for one of lm-eval's.

    Args:
        name: `lm-eval:NAME`, or `lm-eval:FILE.yaml` for a task of one's own in lm-eval's form.

    Raises:
        UsageError: no such task, a group of several, one that cannot be loaded (with the reason), that has no training
            documents, or whose documents are no single-line answers or choices.
    """
    asked = name.removeprefix(LM_EVAL)
    folder = None
    if asked.endswith((".yaml", ".yml")):
        folder = Path(asked).expanduser().parent
        asked = str(parse_yaml(read_own(asked).source, Path(asked)).get("task", ""))
    loaded, missing = load_lm_eval_tasks([asked], folder)
    if missing:
        raise UsageError(f"--task {name}: {'; '.join(missing.values())}")
    if len(loaded) != 1:
        raise UsageError(
            f"--task {name} names {len(loaded)} tasks of lm-eval's: give one of {_few(t.name for t in loaded)}"
        )
    return _write(loaded[0], name)


def _few(names: Iterable[str]) -> str:
    every = sorted(names)
    return ", ".join(f"{LM_EVAL}{name}" for name in every[:6]) + (" ..." if len(every) > 6 else "")


def _write(target: LmEvalTask, name: str) -> Path:
    task, form = target.task, FORMS.get(target.task.OUTPUT_TYPE)
    if form is None:
        raise UsageError(f"--task {name}: it asks for {task.OUTPUT_TYPE}; trained on are {' and '.join(FORMS)}")
    if not task.has_training_docs():
        raise UsageError(
            f"--task {name}: it has no training documents in lm-eval: train on another task and evaluate that run on "
            f"this one (--eval-tasks {name})"
        )
    documents = {"train": task.training_docs(), "test": target.task.eval_docs}
    if task.has_test_docs() and task.has_validation_docs():
        documents["validation"] = task.validation_docs()
    rows = {
        split: [_row(task, form, doc, f"{name}, {split} document {i}") for i, doc in enumerate(docs)]
        for split, docs in documents.items()
    }
    stem = "lm-eval." + re.sub(r"[^A-Za-z0-9_-]+", "_", target.name)
    files = {f"{split}.jsonl": "".join(json.dumps(row) + "\n" for row in part) for split, part in rows.items()}
    files[f"{stem}.yaml"] = _yaml(target, form, rows)
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    folder = home_folder() / "tasks" / f"{stem}-{digest[:12]}"
    if not folder.is_dir() or damage_of(folder) is not None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with complete_folder(folder, sum(map(len, files.values()))) as part:
            for file, text in files.items():
                (part / file).write_text(text, "utf-8")
    return folder / f"{stem}.yaml"


def _row(task: Any, form: str, doc: Any, place: str) -> dict[str, Any]:
    """A document as a row. Raises UsageError for one that is no question with an answer here."""
    question, target = task.doc_to_text(doc), task.doc_to_target(doc)
    if not isinstance(question, str) or not question.strip():
        raise UsageError(f"{place}: its prompt is no text, so that no method could be trained on it")
    row: dict[str, Any] = {"question": question.strip()}
    if form == "choice":
        choices = task.doc_to_choice(doc)
        gold = choices.index(target) if isinstance(target, str) and target in choices else target
        if not isinstance(gold, int) or not 0 <= gold < len(choices):
            raise UsageError(
                f"{place}: its right choice is {target!r}, expected the text or the number of one of the "
                f"{len(choices)} choices, 0 to {len(choices) - 1}"
            )
        return row | {"choices": [str(choice) for choice in choices], "gold": gold}
    if not isinstance(target, str) or not target.strip():
        raise UsageError(f"{place}: its right answer is {target!r}, expected one text")
    steps, mark, answer = target.strip().rpartition(MARK)
    lines = [line for line in steps.split("\n") if line.strip()]
    return row | {"steps": lines if mark else [], "answer": answer.strip()}


def _yaml(target: LmEvalTask, form: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The task's YAML: what all of its form have in common, and what is known of this one."""
    common = "choices.base" if form == "choice" else "word_problems.base"
    fields = {"question": "question"} | (
        {"choices": "choices", "gold": "gold"} if form == "choice" else {"steps": "steps", "answer": "answer"}
    )
    sizes = {split: len(part) for split, part in rows.items()}
    block = {
        "title": f"{LM_EVAL}{target.name}",
        "summary": f"lm-eval's {target.name} as rows, {sizes['train']:,} to train on and {sizes['test']:,} to test",
        "licence": "the data set's own",
        "note": (
            f"Made from lm-eval {version('lm_eval')}, task version {target.task.VERSION}: its prompts without few-shot "
            "examples. rim-bench's scorer reads the answers; lm-eval's own metric is another evaluation."
        ),
        "source": "rows",
        **({"form": "choice"} if form == "choice" else {}),
        "size": sizes,
        "beside": True,
        "files": {split: f"{split}.jsonl" for split in rows},
        "fields": fields,
        "kind": "text" if form == "choice" else "auto",
        "tokenizer": "bpe",
        "recipe": {
            "backbone": "gpt2",
            "start": "recipe",
            "batch_size": 32,
            "micro_batch": 16,
            "examples": max(32, 3 * len(rows["train"]) // 32 * 32),
            "max_tokens": 128,
            "lr": {"scratch": {"default": 0.001}, "pretrained": {"default": 0.0003}},
        },
    }
    head = (tasks_folder() / common).read_text("utf-8")
    whole = {
        "task": f"rimbench_lm_eval_{re.sub('[^A-Za-z0-9_]+', '_', target.name)}",
        "metadata": {"version": 1, "rim_bench": block},
    }
    return head + yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=120)
