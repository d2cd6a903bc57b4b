"""Any lm-eval task by name, for evaluation with lm-eval's own prompts, filters and metrics.

What is measured this way is no row of the comparison: it has another scorer, and mostly another prompt than the methods
were trained on. It lies in a run's folder under `lm_eval/eval/<key>/` in the form of the other evaluations:
items.jsonl.gz, then summary.json.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from rim_bench.data.rows import offline, unreachable
from rim_bench.data.task import task_names
from rim_bench.engine.backbone import RECORD
from rim_bench.engine.devices import runtime
from rim_bench.evaluate.lm_eval_model import PROMPT_DIFFERS, RimLM, quiet_lm_eval, samples
from rim_bench.evaluate.predict import Prediction
from rim_bench.evaluate.vocabulary_check import CannotBeAsked
from rim_bench.storage.records import JsonRecord, LmEvalRecord
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError
from rim_bench.util.files import canonical, read_json

SERVED = ("generate_until", "loglikelihood", "multiple_choice")
FEWSHOT_SEED = 1234  # lm-eval's own default
BOOTSTRAP = 1000  # of metrics whose standard error has no formula; those that are means have one


@dataclass(frozen=True)
class LmEvalTask:
    """A loaded task of lm-eval's; `task` is lm-eval's object."""

    name: str
    task: Any

    @property
    def config(self) -> Any:
        """What its YAML says."""
        return self.task.config

    @cached_property
    def docs_sha256(self) -> str:
        """Over all documents of the split that is evaluated, in order."""
        digest = sha256()
        for doc in self.task.eval_docs:
            digest.update(_text(doc).encode() + b"\n")
        return digest.hexdigest()

    @property
    def refusal(self) -> str | None:
        """Why no run of this package can be evaluated on it; None where one can."""
        if self.task.OUTPUT_TYPE not in SERVED:
            return (
                f"it asks for {self.task.OUTPUT_TYPE}, the likelihood of running text, where there is no question that "
                f"a method could reason about: {', '.join(SERVED)} are served"
            )
        if getattr(self.task, "MULTIMODAL", False):
            return "it shows pictures or sound, and the models here read text"
        if getattr(self.task, "UNSAFE_CODE", False):
            return (
                "it runs code that a model wrote: use lm-eval's own command line (`rim-bench lm-eval`) and its flag "
                "for that"
            )
        if self.task.OUTPUT_TYPE == "generate_until" and samples(self.config.generation_kwargs or {}):
            return "it samples (do_sample, temperature or num_beams), and methods are compared on one greedy answer"
        if not (self.task.has_test_docs() or self.task.has_validation_docs()):
            return "it has neither test nor validation documents"
        return None

    def questions(self, limit: int | None) -> list[tuple[str, str]]:
        """(document number, text) of the questions, without few-shot examples or prompts that are no text."""
        asked = ((str(i), self.task.doc_to_text(doc)) for i, doc in enumerate(islice(self.task.eval_docs, limit)))
        return [(i, text) for i, text in asked if isinstance(text, str)]


@cache
def built_in() -> TaskManager:
    """lm-eval's own tasks, which it reads from 14,000 files: once in a process."""
    return TaskManager()


def load_lm_eval_tasks(
    names: Sequence[str], include_path: Path | None = None
) -> tuple[list[LmEvalTask], dict[str, str]]:
    """The tasks of these names, groups and tags taken apart; and name -> why one cannot be loaded or evaluated.

    `include_path` is searched first, and only what is not there among lm-eval's own 14,000 names (seconds).

    Raises:
        UsageError: no such folder, or a name that no task has.
    """
    if include_path is not None and not include_path.is_dir():
        raise UsageError(
            f"--include-path {str(include_path)!r} is not a folder: give the folder that holds the YAML files of your "
            "tasks"
        )
    tasks: dict[str, LmEvalTask] = {}
    missing: dict[str, str] = {}
    with quiet_lm_eval():
        manager = TaskManager(include_path=None if include_path is None else str(include_path), include_defaults=False)
        if any(n not in manager.all_tasks for n in names):
            manager = built_in() if include_path is None else TaskManager(include_path=str(include_path))
    for name in names:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, [*task_names(), *manager.all_tasks], n=3, cutoff=0.6)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            dropped = f" (lm-eval drops a YAML in {str(include_path)!r} whose `include:` is not found)"
            where = "" if include_path is None else dropped
            raise UsageError(
                f"unknown task {name!r}: it is neither in `rim-bench list tasks` nor among lm-eval's{where}{hint}"
            )
        trouble = unreachable()
        try:
            with quiet_lm_eval(), offline() if trouble else contextlib.nullcontext():
                loaded = [LmEvalTask(leaf, task) for leaf, task in manager.load([name])["tasks"].items()]
        except UsageError as error:
            missing[name] = str(error)
            continue
        except Exception as error:  # of whatever library the task's own code or data set uses
            missing[name] = f"lm-eval could not load it ({_reason(error)}{'; ' + trouble if trouble else ''})"
            continue
        for task in loaded:
            if (refusal := task.refusal) is not None:
                missing[task.name] = refusal
            else:
                tasks[task.name] = task
    return list(tasks.values()), missing


def _reason(error: Exception) -> str:
    """The type of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


# Evaluation
@dataclass(frozen=True)
class LmEvalRequest:
    """One evaluation of a run on one lm-eval task."""

    target: LmEvalTask
    limit: int | None = None
    effort: int | None = None
    max_tokens: int | None = None  # where the task sets no cap
    batch_size: int = 64
    quick: bool = False
    split_passes: bool = False
    votes: tuple[tuple[str, Any], ...] = ()  # what `votes_record` says; none: one greedy answer
    device: str = "cpu"

    def key(self) -> str:
        """Equal for equal requests on equal documents, prompts and metrics, in equal versions of lm-eval."""
        name, task = self.target.name, self.target.task
        config = {k: v for k, v in task.dump_config().items() if k != "metadata"}
        about = re.sub(r"0x[0-9a-f]+", "", _text(config))  # addresses of functions
        fields = [name, str(task.VERSION), version("lm_eval"), self.target.docs_sha256]
        fields.append(sha256(about.encode()).hexdigest())
        settings = (self.limit, self.effort, self.max_tokens, self.quick, self.split_passes, self.votes)
        fields += [str(value) for value in settings]
        fields += [] if self.device == "cpu" else [self.device]
        name = re.sub(r"[^A-Za-z0-9._=-]+", "_", name).lstrip("._=-") or "task"
        return f"{name}-{sha256(canonical(fields).encode()).hexdigest()[:10]}"

    def stored(self, run: Run) -> LmEvalRecord | None:
        """The summary of this evaluation of the run's weights as they are now, or None."""
        summary, record = run.lm_eval_evaluations.read(self.key()), run.path / "model" / RECORD
        if summary is not None and record.is_file() and summary.weights_sha256 != read_json(record).get("sha256"):
            return None  # made of weights that were replaced
        return summary

    def evaluate(
        self, run: Run, trained: Any, on_items: Callable[[int, int], None] | None = None, **more: JsonRecord
    ) -> LmEvalRecord:
        """Evaluate through lm-eval and store; returns the summary, which has `more` as further keys.

        Raises:
            CannotBeAsked: the task's own code, or lm-eval, failed.
            UsageError: a request that the model refuses.
        """
        name, task = self.target.name, self.target.task
        n, done = len(list(islice(task.eval_docs, self.limit))), 0

        def count(new: int) -> None:
            nonlocal done
            done += new
            if on_items is not None:
                on_items(min(done, n), n)

        settings: dict[str, Any] = {"batch_size": self.batch_size, "split_passes": self.split_passes}
        settings |= {"effort": self.effort, **dict(self.votes)}
        settings |= {} if self.max_tokens is None else {"max_gen_toks": self.max_tokens}
        lm = RimLM(trained=trained, on_batch=count, **settings)
        task.set_fewshot_seed(FEWSHOT_SEED)  # else a second run would be shown other examples
        loaded: Any = {"tasks": {name: task}, "groups": {}, "group_map": {}}
        before = os.environ.get("DISABLE_MULTIPROC")
        os.environ["DISABLE_MULTIPROC"] = "1"  # a fork of a process that has threads may hang
        with quiet_lm_eval():
            try:
                results = evaluate(
                    lm=lm, task_dict=loaded, limit=self.limit, bootstrap_iters=BOOTSTRAP, log_samples=True
                )
            except UsageError:
                raise
            except Exception as error:
                frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
                if any(f.parent == Path(__file__).parent and f != Path(__file__) for f in frames):
                    raise  # what our model raises stays what it is
                reason = f"{_reason(error)}, {frames[-1].name}"
                raise CannotBeAsked(f"{name} failed in lm-eval or in its own code ({reason})") from error
            finally:
                os.environ.pop("DISABLE_MULTIPROC")
                if before is not None:
                    os.environ["DISABLE_MULTIPROC"] = before
        assert results is not None
        items = [_item(s, lm.records.get((name, int(s["doc_id"])))) for s in results["samples"][name]]
        about = {key: part.to_json() for key, part in more.items()}
        return run.lm_eval_evaluations.write(self.key(), items, self._summary(lm, dict(results)) | about)

    def _summary(self, lm: RimLM, results: dict[str, Any]) -> dict[str, Any]:
        name, task, device = self.target.name, self.target.task, lm.backbone.device
        metrics: dict[str, float] = {}
        errors: dict[str, float] = {}
        for key, value in results["results"][name].items():
            metric, comma, chosen = key.partition(",")
            if comma and isinstance(value, int | float):
                into = errors if metric.endswith("_stderr") else metrics
                into[f"{metric.removesuffix('_stderr')},{chosen}"] = float(value)
        counts = results["n-samples"][name]
        docs = {int(s["doc_id"]): str(s["doc_hash"]) for s in results["samples"][name]}
        notes = []
        if lm.differs:
            notes.append(f"{PROMPT_DIFFERS} in {lm.differs:,} requests")
        if lm.overlong:
            notes.append(f"{lm.overlong:,} requests are longer than the model's positions: answered with nothing")
        if task.OUTPUT_TYPE != "generate_until" and lm.trained.method.name == "cot":
            notes.append(
                "a likelihood leaves chain of thought no room: it is asked for its answer without its reasoning"
            )
        return {
            "schema": 1,
            "source": "lm-eval",
            "lm_eval_version": version("lm_eval"),
            "task": name,
            "task_version": str(results["versions"].get(name)),
            "output_type": task.OUTPUT_TYPE,
            "split": "test" if task.has_test_docs() else "validation",
            "num_fewshot": int(results["n-shot"].get(name) or 0),
            "documents": len(docs),
            "documents_in_all": int(counts["original"]),
            "docs_sha256": self.target.docs_sha256,
            "evaluated_sha256": sha256(canonical([docs[i] for i in sorted(docs)]).encode()).hexdigest(),
            "limit": self.limit,
            "effort": self.effort,
            "quick": self.quick,
            "metrics": metrics,
            "stderr": errors,
            "higher_is_better": {
                k: bool(v) for k, v in results["higher_is_better"].get(name, {}).items() if v is not None
            },
            "settings": {
                "batch_size": self.batch_size,
                "max_tokens": lm.max_gen_toks,
                "device": device.type,
                **dict(self.votes),
            },
            "runtime": runtime(device, lm.backbone.computes, lm.trained.execution),
            "weights_sha256": lm.backbone.weights_sha256(),
            "notes": notes,
        }


def _item(sample: dict[str, Any], answered: Prediction | None) -> dict[str, Any]:
    """The record of a document and filter: lm-eval's metrics and hashes, the answer, and its cost if generated."""
    name = f"{sample['doc_id']}/{sample['filter']}"
    item = {k: sample[k] for k in ("doc_id", "filter", "doc_hash", "prompt_hash", "target_hash")}
    item |= {"id": name, "target": str(sample["target"]), "outputs": _plain(sample["filtered_resps"])}
    item["metrics"] = {m: _plain(sample[m]) for m in sample["metrics"]}
    if answered is not None:
        item |= {k: answered.cost[k] for k in ("generated_tokens", "latent_positions", "passes", "capped", "overlong")}
        item["generated"] = answered.text
    return item


def _plain(value: Any) -> Any:
    """Numbers of numpy and tuples as what JSON has."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, str | bool | int | float) or value is None:
        return float(value) if type(value) is not float and isinstance(value, float) else value
    return value.item() if hasattr(value, "item") else str(value)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
