"""Evaluation of a trained run through lm-eval: one record per item, times of single questions and of batches."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from rim_bench.data import answers
from rim_bench.data.datasets import GUESS, evaluation_data
from rim_bench.data.licences import passed_on, question_records
from rim_bench.data.options import Steps
from rim_bench.data.reader import Split
from rim_bench.data.task import Task
from rim_bench.engine.backbone import RECORD
from rim_bench.engine.devices import peak_memory, reset_peak, runtime
from rim_bench.engine.generate import Sampling
from rim_bench.engine.precision import BFLOAT16
from rim_bench.engine.trained_model import TrainedModel
from rim_bench.evaluate.distributed import GenerateBatch, answer_all
from rim_bench.evaluate.latency import latency, throughput
from rim_bench.evaluate.lm_eval_model import PROMPT_DIFFERS, RimLM, through_lm_eval
from rim_bench.evaluate.multiple_choice import ChoicePredictor
from rim_bench.evaluate.predict import Prediction
from rim_bench.evaluate.self_consistency import TEMPERATURE, sampling_of, votes_record
from rim_bench.evaluate.shortcuts import measured_shortcuts
from rim_bench.methods.method import Example, Method
from rim_bench.storage.questions import QuestionStore
from rim_bench.storage.records import (
    EvaluationRecord,
    FloorRecord,
    ItemRecord,
    KnobRecord,
    NoiseRecord,
    RuntimeRecord,
    ScoringRecord,
    SettingsRecord,
    ShortcutRecord,
)
from rim_bench.storage.run_folder import Run
from rim_bench.util.environment import moment
from rim_bench.util.errors import UsageError
from rim_bench.util.files import canonical, read_json
from rim_bench.util.progress import phase

# of a curve point's items: what its run's default evaluation says, and times inside a batch
_LEFT_OUT = {"prompt_hash", "reference", "output", "task", "strict", "lm_eval_strict", "lm_eval_flexible"}
_LEFT_OUT |= {"latency_s", "batch_s", "batch_size"}
CHOICE_RULE = "sum of token log-probabilities"
NOISE_QUESTIONS = 64  # answered again to see what depends on a batch, at most
REPEAT_ORDER = "rim-bench repeat 1"  # what the order of a repeat is drawn from


@dataclass(frozen=True)
class EvaluationRequest:
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
    votes: int = 1
    temperature: float = TEMPERATURE  # of votes above 1, as is the seed
    sample_seed: int = 0
    curve: bool = False  # a point of an inference curve, not a row of the comparison table
    capped: bool = False  # max_tokens is what was turned, not the setting of all
    split_passes: bool = False  # filler positions in passes of their own: a latency control
    repeat: bool = False  # again in another order, a row of no table: what changes though nothing changed
    device: str = "cpu"  # its type: it computes in other orders
    allow_changed: bool = False  # rows whose hash is not the registered one

    def __post_init__(self) -> None:
        _ = self.sampling  # refuses what does not fit

    @property
    def sampling(self) -> Sampling | None:
        """What is drawn; None: one greedy answer."""
        return sampling_of(self.votes, self.temperature, self.sample_seed) if self.votes != 1 else None

    def key(self) -> str:
        """Name of the evaluation inside its run: equal requests on equal data and evaluator have equal keys."""
        fields = [self.task.name, self.task.version, self.split, self.limit, self.effort, self.max_tokens, self.steps]
        fields += [self.quick, answers.EVALUATOR_VERSION, self.dataset().sha256]
        if (sampling := self.sampling) is not None:
            fields.append(votes_record(sampling))
        marks = {"curve": self.curve, "capped": self.capped, "split passes": self.split_passes}
        fields += [name for name, holds in marks.items() if holds]
        fields += [] if self.device == "cpu" else [self.device]
        if self.repeat:
            fields.append(f"repeat in batches of {self.batch_size}")
        digest = sha256(canonical(fields).encode()).hexdigest()[:10]
        return f"{self.task.name}-{self.split}-{digest}"

    def knob(self, method: Method) -> KnobRecord | None:
        """What of the method's default setting was turned; None for nothing. Several at once are named together."""
        name = method.effort_field
        turned: dict[str, Any] = {}
        if name is not None and self.effort is not None and self.effort != getattr(method, name, None):
            turned[name] = self.effort
        if self.votes > 1:
            turned["votes"] = self.votes
        if self.capped:
            turned["max_tokens"] = self.max_tokens
        if self.split_passes:
            turned["passes"] = "split"
        if len(turned) < 2:
            return next((KnobRecord(name=name, value=value) for name, value in turned.items()), None)
        return KnobRecord(name="+".join(turned), value=list(turned.values()))

    def dataset(self) -> Split:
        """The questions."""
        if self.split not in ("test", "validation"):
            raise UsageError(f"split {self.split!r} cannot be evaluated: allowed are test and validation")
        split: Any = self.split
        where: dict[str, Any] = {"data": self.data, "files": self.files, "allow_changed": self.allow_changed}
        with phase(f"reading the questions of {self.task.name}"):
            return evaluation_data(self.task, steps=self.steps, limit=self.limit, split=split, **where)


def evaluate_run(
    run: Run,
    trained: TrainedModel,
    request: EvaluationRequest,
    on_items: Callable[[int, int], None] | None = None,
    more: Mapping[str, Any] | None = None,
) -> EvaluationRecord:
    """The summary of an evaluation, which is made and stored where it is not stored yet.

    Args:
        on_items: called with the number of questions done, and of all.
        more: further fields of the summary (`rim_bench.evaluate.vocabulary_check.about`).
    """
    if (stored := evaluated(run, request)) is not None:
        return stored
    shortcuts: tuple[ShortcutRecord, ...] = ()
    if not request.curve and not request.repeat:  # which are no rows of a comparison
        task = request.task
        files = request.files if task.name == run.spec.task.name else None
        shortcuts = measured_shortcuts(run, task, request.dataset(), request.data, files)
    items, summary = evaluate(trained, request, on_items)
    _store_questions(run, request)
    rows = [item.without(*_LEFT_OUT) for item in items] if request.curve else items
    return run.write_evaluation(request.key(), rows, replace(summary, shortcuts=shortcuts, **(more or {})))


def _store_questions(run: Run, request: EvaluationRequest) -> None:
    """Stores the questions' texts beside the runs where they are not yet: ids alone where the licence wants it so."""
    dataset, stored = request.dataset(), QuestionStore(run.results)
    if not stored.has(dataset.sha256):
        texts = passed_on(request.task) and dataset.registered is not False
        stored.write(dataset.sha256, question_records(dataset.examples, texts=texts))


def evaluated(run: Run, request: EvaluationRequest) -> EvaluationRecord | None:
    """The stored summary of this evaluation of the run's weights as they are now, or None."""
    stored = run.evaluation(request.key())
    record = run.path / "model" / RECORD
    if stored is not None and record.is_file() and stored.weights_sha256 != read_json(record).get("sha256"):
        return None  # made of weights that were replaced
    return stored


@phase("evaluating")
def evaluate(
    trained: TrainedModel, request: EvaluationRequest, on_items: Callable[[int, int], None] | None = None
) -> tuple[list[ItemRecord], EvaluationRecord]:
    """Item records, with everything a paired comparison needs, and the summary of one evaluation.

    The test split goes through lm-eval; validation, which lm-eval does not know of, and the many points of a curve,
    which its own work would make several times slower, through the same adapter and scorer.
    """
    dataset = request.dataset()
    lm = _model(trained, request, dataset, on_items, probe=not request.curve)
    began = time.perf_counter()
    if by_lm_eval := request.split == "test" and not (request.curve or request.repeat):
        metadata = request.task.lm_eval_metadata(
            request.data, request.steps, request.limit, request.files, request.allow_changed
        )
        results = through_lm_eval(lm, request.task, max_tokens=request.max_tokens, metadata=metadata)
        answered = _from_samples(lm, request.task, dataset, results)
    else:
        answered = _directly(lm, dataset, request)
    seconds = time.perf_counter() - began
    items = [_item(request, e, a, lm.backbone.decode) for e, a in zip(dataset.examples, answered, strict=True)]
    if by_lm_eval:  # lm-eval's aggregate and our records must say the same, or neither can be trusted
        metrics = results["results"][request.task.lm_eval_name]
        pairs = [("accuracy", "correct"), ("strict_match", "lm_eval_strict"), ("flexible_extract", "lm_eval_flexible")]
        for name, field in [pairs[0], ("accuracy_norm", "correct_norm")] if request.task.form == "choice" else pairs:
            ours = accuracy_of(items, field)
            for theirs in [float(v) for k, v in metrics.items() if k.split(",")[0] == name]:  # a YAML may have fewer
                if abs(ours - theirs) > 1e-9:
                    raise RuntimeError(f"lm-eval's {name} is {theirs}, the item records say {ours}")
    summary = _summary(lm, request, dataset, items, seconds)
    if lm.backbone.computes == BFLOAT16 and not (request.curve or request.repeat or request.sampling):
        summary = replace(summary, noise=_noise(trained, request, dataset, items))
    return items, summary


def _noise(
    trained: TrainedModel, request: EvaluationRequest, dataset: Split, items: Sequence[ItemRecord]
) -> NoiseRecord:
    """Some of the questions answered again, in another order and in batches of another size.

    bfloat16 rounds sums whose order depends on a batch's shape, so that near ties may fall the other way.
    """
    every = range(0, len(items), -(-len(items) // NOISE_QUESTIONS))
    again = replace(dataset, examples=tuple(dataset.examples[i] for i in every))
    size = max(1, min(request.batch_size, len(again.examples)) // 2)
    with phase(f"answering some questions of {request.task.name} in other batches"):
        others = marked(trained, replace(request, repeat=True, batch_size=size), again)
    pairs = [(items[i], other) for i, other in zip(every, others, strict=True)]
    return NoiseRecord(
        n=len(pairs),
        batch_size=size,
        answers=sum(a.answer != b.answer for a, b in pairs),
        correct=sum(a.correct != b.correct for a, b in pairs),
    )


def _model(
    trained: TrainedModel,
    request: EvaluationRequest,
    dataset: Split,
    on_items: Callable[[int, int], None] | None,
    probe: bool = False,
) -> RimLM:
    """The run behind lm-eval's interface; in the choice form it chooses where it would otherwise generate."""
    done = 0

    def count(new: int) -> None:
        nonlocal done
        done += new
        if on_items is not None:
            on_items(done, len(dataset.examples))

    settings: dict[str, Any] = {} if request.sampling is None else votes_record(request.sampling)
    settings |= {"effort": request.effort, "batch_size": request.batch_size, "max_gen_toks": request.max_tokens}
    settings |= {"split_passes": request.split_passes, "probe": probe, "on_batch": count}
    lm = RimLM(trained=trained, **settings)
    if request.task.form == "choice":
        lm.answerer = ChoicePredictor(lm.answerer, {lm.question(e.question): e.choices for e in dataset.examples})
    return lm


def validation_accuracy(
    trained: TrainedModel, request: EvaluationRequest, on_items: Callable[[int, int], None] | None = None
) -> tuple[float, int]:
    """Share of right answers among the questions, and their number: scores only, no item records, probes or timings."""
    items = marked(trained, request, request.dataset(), on_items)
    return accuracy_of(items), len(items)


def accuracy_of(items: Sequence[ItemRecord], mark: str = "correct") -> float:
    """Share of the items that have a mark: by default those answered right."""
    return sum(bool(getattr(item, mark)) for item in items) / len(items)


def marked(
    trained: TrainedModel,
    request: EvaluationRequest,
    dataset: Split,
    on_items: Callable[[int, int], None] | None = None,
) -> list[ItemRecord]:
    """Item records of the questions, in their order, as in every evaluation, but without probes, times or summary."""
    lm = _model(trained, request, dataset, on_items)
    answered = _directly(lm, dataset, request)
    return [_item(request, e, a, lm.backbone.decode) for e, a in zip(dataset.examples, answered, strict=True)]


def _from_samples(lm: RimLM, task: Task, dataset: Split, results: dict[str, Any]) -> list[Prediction]:
    """lm-eval's samples joined to our examples by the document's id; what it scored must be what we recorded."""
    samples = {s["doc"]["id"]: s for s in results["samples"][task.lm_eval_name]}
    if set(samples) != {e.id for e in dataset.examples}:
        raise RuntimeError(
            f"lm-eval evaluated {len(samples)} documents of {task.lm_eval_name}, not the {len(dataset.examples)} "
            "expected"
        )
    out = []
    for example in dataset.examples:
        sample = samples[example.id]
        answered = lm.records[task.lm_eval_name, int(sample["doc_id"])]
        if task.form == "choice":
            if answered.logprobs and [r[0][0] for r in sample["resps"]] != answered.logprobs:
                raise RuntimeError(f"lm-eval's likelihoods of {example.id} are not those that were recorded")
        elif sample["resps"][0][0] != answered.text:
            raise RuntimeError(f"lm-eval's response to {example.id} is not the one that was generated")
        out.append(answered)
    return out


def _directly(lm: RimLM, dataset: Split, request: EvaluationRequest) -> list[Prediction]:
    questions = [lm.question(e.question) for e in dataset.examples]
    layouts = [lm.answerer.prompt(q) for q in questions]
    fits = [lm.answerer.fits(layout) for layout in layouts]
    out = {i: lm.answerer.unanswered(layouts[i], q) for i, q in enumerate(questions) if not fits[i]}
    order = sorted((i for i in range(len(questions)) if fits[i]), key=lambda i: layouts[i].size)
    if request.repeat:  # other neighbours, and padding where rows of a batch differ in length
        random.Random(REPEAT_ORDER).shuffle(order)
    cuts = [order[at : at + lm.batch_size] for at in range(0, len(order), lm.batch_size)]
    rest = (request.max_tokens, lm.trained.method.until, request.task.kind)
    batches = [GenerateBatch([layouts[i] for i in cut], [questions[i] for i in cut], *rest) for cut in cuts]
    for cut, answered in zip(cuts, answer_all(lm.answerer, batches, lm.on_batch), strict=True):
        out.update(zip(cut, answered, strict=True))
    return [out[i] for i in range(len(questions))]


def _item(
    request: EvaluationRequest, example: Example, answered: Prediction, decode_tokens: Callable[..., str]
) -> ItemRecord:
    task = request.task
    tolerance = task.tolerance_at(example.answer)
    mark = answers.score(answered.text, example.answer, tolerance, task.kind)
    item: dict[str, Any] = {
        "id": example.id,
        "task": task.name,
        "level": example.level,
        "ood": example.level in task.ood_levels,
        "prompt_hash": sha256(example.question.encode()).hexdigest()[:8],
        "reference": example.answer,
        **({"cluster": example.cluster} if example.cluster else {}),
        **({"chance": 1 / len(example.choices)} if example.choices else {}),
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
    if task.form == "choice":
        item["logprobs"] = answered.logprobs  # of the choices, in the question's order; in nats
        right = example.choices.index(example.answer)
        item["margin"] = answers.margin(answered.logprobs, right)
        item["correct_norm"] = (
            bool(answered.logprobs) and answers.likelier_a_character(answered.logprobs, example.choices) == right
        )
    if answered.blocks:
        marks = [answers.score(text, example.answer, tolerance, task.kind) for text in answered.blocks]
        item["blocks"] = [{"answer": m.answer, "correct": m.correct} for m in marks]
    return ItemRecord.from_json(item)


def _summary(
    lm: RimLM, request: EvaluationRequest, dataset: Split, items: Sequence[ItemRecord], seconds: float
) -> EvaluationRecord:
    questions = {e.id: lm.question(e.question) for e in dataset.examples}
    timed = (lm.answerer, questions, request.max_tokens, lm.trained.method.until)
    device, n, execution, task = lm.backbone.device, len(items), lm.trained.execution, request.task
    common, count = Counter(e.answer for e in dataset.examples).most_common(1)[0]
    guess = sum(1 / len(e.choices) for e in dataset.examples if e.choices) / n
    floor = (GUESS, guess) if guess > count / n else (common, count / n)  # of an answer that looks at nothing
    drawn = {} if request.sampling is None else votes_record(request.sampling)
    with phase(f"timing single answers to {task.name}"):
        alone = latency(*timed)
    reset_peak(device)  # of answering a batch: what lm-eval holds and what only probes is not the method's
    with phase(f"timing batches of {task.name}"):
        together = throughput(*timed, request.batch_size)
    share = sum((i.batch_s or 0.0) / i.batch_size for i in items if i.batch_size)  # seconds of decoding alone
    return EvaluationRecord(
        task=task.name,
        task_title=task.title,
        task_version=task.version,
        evaluator_version=answers.EVALUATOR_VERSION,
        scoring=ScoringRecord(kind=task.kind, tolerance=task.tolerance, relative_tolerance=task.relative_tolerance),
        date=moment(),
        split=request.split,
        n=n,
        data_sha256=dataset.sha256,
        data_source=dataset.source,
        data_registered=dataset.registered,
        data_notes=tuple(dataset.notes),
        effort=request.effort,
        limit=request.limit,
        quick=request.quick,
        curve=request.curve,
        knob=request.knob(lm.trained.method),
        repeat=request.repeat,
        choice=CHOICE_RULE if task.form == "choice" else None,
        settings=SettingsRecord(
            max_tokens=request.max_tokens,
            batch_size=request.batch_size,
            dtype=lm.backbone.computes,
            device=device.type,
            order="shuffled" if request.repeat else None,
            **drawn,
        ),
        weights_sha256=lm.backbone.weights_sha256(),
        seconds=round(seconds, 3),
        examples_per_s=round(n / max(1e-9, share), 3),
        latency=alone,
        throughput=together,
        processes=None if execution.group is None else execution.group.size,
        peak_memory_bytes=peak_memory(device),
        runtime=RuntimeRecord.from_json(runtime(device, lm.backbone.computes, execution)),
        floor=FloorRecord(answer=floor[0], accuracy=floor[1]),
        prompt_note=PROMPT_DIFFERS if lm.differs else None,
    )
