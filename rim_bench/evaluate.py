"""Evaluation of a trained run: the questions through lm-eval, one record per item, latency one question at a time."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from rim_bench import stats
from rim_bench.answering import Answered, answer_token
from rim_bench.data import Dataset, Task, evaluation_data
from rim_bench.errors import UsageError
from rim_bench.files import canonical
from rim_bench.generate import decode
from rim_bench.lm_task import PROMPT_DIFFERS, RimLM, through_lm_eval
from rim_bench.method import Example
from rim_bench.sources import Steps
from rim_bench.store import Run
from rim_bench.tasks import answers
from rim_bench.trained import Trained

TIMED = 24  # questions timed one at a time
WARM_UP = 3
UNTIL = ("\n\n",)  # as in the tasks' YAMLs: what is trained has single newlines


@dataclass(frozen=True)
class Request:
    """What to evaluate and how; together with the weights it decides every number but the times."""

    task: Task
    data: Path | None = None
    files: dict[str, str] | None = None
    steps: Steps = "equations"
    limit: int | None = None
    split: str = "test"
    effort: int | None = None
    max_tokens: int = 128
    batch_size: int = 64
    quick: bool = False

    def key(self) -> str:
        """Name of the evaluation inside its run: equal requests on equal data and evaluator have equal keys."""
        fields = [self.task.name, self.task.version, self.split, self.limit, self.effort, self.max_tokens, self.steps, self.quick]
        fields += [answers.EVALUATOR_VERSION, self.dataset().sha256]
        digest = sha256(canonical(fields).encode()).hexdigest()[:10]
        return f"{self.task.name}-{self.split}-{digest}"

    def dataset(self) -> Dataset:
        """The questions."""
        if self.split not in ("test", "validation"):
            raise UsageError(f"split {self.split!r} cannot be evaluated: allowed are test and validation")
        split: Any = self.split
        return evaluation_data(self.task, data=self.data, steps=self.steps, limit=self.limit, split=split, files=self.files)


def evaluate_run(run: Run, trained: Trained, request: Request, on_items: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Evaluate and store, unless the same evaluation is stored already; returns its summary."""
    key = request.key()
    stored = run.evaluation(key)
    if stored is not None:
        return stored
    items, summary = evaluate(trained, request, on_items)
    run.write_evaluation(key, items, summary)
    found = run.evaluation(key)
    assert found is not None
    return found


def evaluate(
    trained: Trained, request: Request, on_items: Callable[[int, int], None] | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Item records (SCIENCE rule: everything a paired comparison needs) and the summary of one evaluation.

    The test split goes through lm-eval; validation, which lm-eval is not told of, through the same adapter and scorer.
    """
    dataset = request.dataset()
    done = 0

    def count(new: int) -> None:
        nonlocal done
        done += new
        if on_items is not None:
            on_items(done, len(dataset.examples))

    lm = RimLM(
        trained=trained,
        effort=request.effort,
        batch_size=request.batch_size,
        max_gen_toks=request.max_tokens,
        probe=True,
        on_batch=count,
    )
    began = time.perf_counter()
    if request.split == "test":
        metadata = request.task.lm_eval_metadata(request.data, request.steps, request.limit, request.files)
        results = through_lm_eval(lm, request.task, max_tokens=request.max_tokens, metadata=metadata)
        answered = _by_example(lm, request.task, dataset, results)
    else:
        answered = _directly(lm, dataset, request.max_tokens)
    seconds = time.perf_counter() - began
    items = [_item(request, e, a, lm.backbone.decode) for e, a in zip(dataset.examples, answered, strict=True)]
    if request.split == "test":
        _agree(items, results, request.task)
    return items, _summary(trained, lm, request, dataset, items, seconds)


def validation_accuracy(trained: Trained, request: Request) -> tuple[float, int]:
    """Share of right answers among the questions, and their number: scores only, no item records, probes or timings."""
    dataset = request.dataset()
    lm = RimLM(trained=trained, effort=request.effort, batch_size=request.batch_size, max_gen_toks=request.max_tokens)
    answered = _directly(lm, dataset, request.max_tokens)
    items = [_item(request, e, a, lm.backbone.decode) for e, a in zip(dataset.examples, answered, strict=True)]
    return sum(bool(i["correct"]) for i in items) / len(items), len(items)


def _by_example(lm: RimLM, task: Task, dataset: Dataset, results: dict[str, Any]) -> list[Answered]:
    """lm-eval's samples joined to our examples by the document's id; what it scored must be what we recorded."""
    samples = {s["doc"]["id"]: s for s in results["samples"][task.lm_eval_name]}
    if set(samples) != {e.id for e in dataset.examples}:
        raise RuntimeError(f"lm-eval evaluated {len(samples)} documents of {task.lm_eval_name}, not the {len(dataset.examples)} expected")
    out = []
    for example in dataset.examples:
        sample = samples[example.id]
        answered = lm.records[task.lm_eval_name, int(sample["doc_id"])]
        if sample["resps"][0][0] != answered.text:
            raise RuntimeError(f"lm-eval's response to {example.id} is not the one that was generated")
        out.append(answered)
    return out


def _directly(lm: RimLM, dataset: Dataset, max_tokens: int) -> list[Answered]:
    questions = [lm.question(e.question) for e in dataset.examples]
    layouts = [lm.answerer.prompt(q) for q in questions]
    out = {i: lm.answerer.unanswered(layouts[i], q) for i, q in enumerate(questions) if not lm.answerer.fits(layouts[i])}
    order = sorted((i for i in range(len(questions)) if i not in out), key=lambda i: layouts[i].size)
    for at in range(0, len(order), lm.batch_size):
        chosen = order[at : at + lm.batch_size]
        answered = lm.answerer.answer([layouts[i] for i in chosen], max_tokens, UNTIL, [questions[i] for i in chosen])
        out.update(zip(chosen, answered, strict=True))
        if lm.on_batch is not None:
            lm.on_batch(len(chosen))
    return [out[i] for i in range(len(questions))]


def _item(request: Request, example: Example, answered: Answered, decode_tokens: Callable[..., str]) -> dict[str, Any]:
    task = request.task
    mark = answers.score(answered.text, example.answer, task.tolerance, task.kind)
    item = {
        "id": example.id,
        "task": task.name,
        "level": example.level,
        "ood": example.level in task.ood_levels,
        "prompt_hash": sha256(example.question.encode()).hexdigest(),
        "reference": example.answer,
        "output": answered.text,
        "answer": mark.answer,
        "correct": mark.correct,
        "strict": mark.strict,
        "flexible": mark.flexible,
        "lm_eval_strict": answers.lm_eval_strict(answered.text, example.answer),
        "lm_eval_flexible": answers.lm_eval_flexible(answered.text, example.answer),
        "unparseable": mark.unparseable,
        "empty": mark.empty,
        **answered.cost,
    }
    if answered.blocks:
        marks = [answers.score(text, example.answer, task.tolerance, task.kind) for text in answered.blocks]
        item["blocks"] = [{"answer": m.answer, "correct": m.correct} for m in marks]
    return item


def _agree(items: Sequence[dict[str, Any]], results: dict[str, Any], task: Task) -> None:
    """lm-eval's aggregate and our records must say the same, or neither can be trusted."""
    metrics = results["results"][task.lm_eval_name]
    for name, field in (("accuracy", "correct"), ("strict_match", "lm_eval_strict"), ("flexible_extract", "lm_eval_flexible")):
        (theirs,) = [float(v) for k, v in metrics.items() if k.split(",")[0] == name]
        ours = sum(bool(i[field]) for i in items) / len(items)
        if abs(ours - theirs) > 1e-9:
            raise RuntimeError(f"lm-eval's {name} is {theirs}, the item records say {ours}")


def _summary(
    trained: Trained, lm: RimLM, request: Request, dataset: Dataset, items: Sequence[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    common, count = Counter(e.answer for e in dataset.examples).most_common(1)[0]
    n = len(items)
    return {
        "schema": 1,
        "task": request.task.name,
        "task_title": request.task.title,
        "task_version": request.task.version,
        "evaluator_version": answers.EVALUATOR_VERSION,
        "split": request.split,
        "n": n,
        "data_sha256": dataset.sha256,
        "data_source": dataset.source,
        "effort": request.effort,
        "limit": request.limit,
        "quick": request.quick,
        "settings": {
            "max_tokens": request.max_tokens,
            "batch_size": request.batch_size,
            "dtype": "bfloat16" if lm.backbone.device.type == "cuda" else "float32",
            "device": lm.backbone.device.type,
        },
        "weights_sha256": lm.backbone.weights_sha256(),
        "seconds": round(seconds, 3),
        "examples_per_s": round(n / max(1e-9, sum(i["batch_s"] / i["batch_size"] for i in items if i["batch_size"])), 3),  # decoding alone
        "latency": latency(lm, dataset.examples, request.max_tokens),
        "peak_memory_bytes": peak_memory(),
        "floor": {"answer": common, "accuracy": count / n},
        "prompt_note": PROMPT_DIFFERS if lm.differs else None,
    }


def latency(lm: RimLM, examples: Sequence[Example], max_tokens: int) -> dict[str, Any]:
    """Time to the first answer token and to the full answer, one question at a time, after a warm-up, in milliseconds.

    The first answer token is the first behind `####`; where an answer has none, the full time stands for it.
    Questions that the model has no positions for are left out; without any other, the times are null.
    """
    picked = [examples[i * len(examples) // TIMED] for i in range(TIMED)] if len(examples) > TIMED else list(examples)
    layouts = [row for e in picked if lm.answerer.fits(row := lm.answerer.prompt(lm.question(e.question)))]
    warm_up = min(WARM_UP, len(layouts))
    stop = lm.answerer.stop(UNTIL)
    first, full = [], []
    for i, layout in enumerate([*layouts[:warm_up], *layouts]):
        began = time.perf_counter()
        (done,) = decode(lm.workspace, [layout], max_tokens=max_tokens, stop=stop)
        took = time.perf_counter() - began
        if i >= warm_up:
            completion = done[layout.resume[0]]
            at = answer_token(lm.backbone.decode, completion.tokens)
            first.append(took if at is None else completion.times[at])
            full.append(took)
    return {"batch": 1, "n": len(full), "ttft_ms": _milliseconds(first), "full_ms": _milliseconds(full)}


def _milliseconds(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {"median": None, "p95": None}
    return {"median": round(1000 * stats.median(values), 3), "p95": round(1000 * stats.quantile(values, 0.95), 3)}


def peak_memory() -> int:
    """Largest memory of this process so far in bytes: of the GPU where one is used, else resident memory."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
