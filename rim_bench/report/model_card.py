"""The model card of an exported run: what it is, how it is asked, how well it answers, and where it comes from."""

from __future__ import annotations

from rim_bench.data.task import load_task
from rim_bench.evidence.stats.intervals import wilson
from rim_bench.report.run_list import accuracy_in_distribution, own_accuracy, plain_evaluations
from rim_bench.storage.records import EvaluationRecord, RunSpec, TrainingRecord
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError
from rim_bench.util.text import escape_markdown, format_flops

GENERATE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")  # this folder
model = AutoModelForCausalLM.from_pretrained(".")
question = [{{"role": "user", "content": {question!r}}}]
inputs = tokenizer.apply_chat_template(question, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs)[0, inputs["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))
```"""
LATENT = """```bash
python generate.py {question!r}
```

Its {slots} latent slots are fed hidden states, which `generate` of transformers cannot do: read `generate.py`, 60 lines
of plain transformers, before you run it."""


def card(run: Run, prompt: str | None, slots: int, question: str) -> str:
    """README.md of the folder, with the front matter that a hub reads.

    Args:
        prompt: text behind the question and its newline; None where there are latent slots, `slots` of them.
        question: an example.
    """
    spec, training = run.spec, run.training() or TrainingRecord()
    behind = f", and `{prompt}` stands behind it" if prompt else ""
    lines = [
        "---",
        _metadata(run, spec),
        "---",
        "",
        f"# {escape_markdown(spec.method.title)} on {escape_markdown(str(spec.task.name))}",
        "",
        f"A research artefact of rim-bench: {escape_markdown(str(spec.backbone.name))}, trained on the questions of "
        f"the task `{spec.task.name}` by the method `{spec.method.name}`. It was made to compare methods of latent "
        "reasoning, not to be deployed.",
        "",
        "## How it is asked",
        "",
        (LATENT if slots else GENERATE).format(question=question, slots=slots),
        "",
        f"The question ends with a newline{behind}. The answer stands behind `####`; decoding is greedy, and what "
        "follows a blank line does not count. transformers reads special tokens in a question as tokens, rim-bench as "
        f"text.{_precision(spec)}",
        "",
        "## How well it answers",
        "",
        _accuracy(run),
        "",
        "## Where it comes from",
        "",
        *(f"- {name}: {value}" for name, value in _provenance(run, spec, training).items()),
        "",
    ]
    return "\n".join(lines)


def _metadata(run: Run, spec: RunSpec) -> str:
    """The front matter: what a hub shows of the model, its evaluations as a model-index."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=_dataset(e) or f"rim-bench/{e.task}",
            dataset_name=str(e.task_title or e.task),
            dataset_split=str(e.split),
            dataset_args={"sha256": e.data_sha256, "n": n},
            metric_type="accuracy",
            metric_name="accuracy",
            metric_value=round(100 * accuracy, 2),
        )
        for e, accuracy, n in _results(run)
    ]
    return ModelCardData(
        model_name=run.id,
        base_model=spec.backbone.to_json().get("hub"),
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["rim-bench", "latent-reasoning"],
        eval_results=results or None,
    ).to_yaml()


def hub_results(run: Run) -> dict[str, str]:
    """`.eval_results/TASK.yaml` of every evaluation on a set that a hub has, in its own format: path -> text."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    files = {}
    for e, accuracy, n in _results(run):
        if (dataset := _dataset(e)) is not None:
            notes = f"rim-bench, method {run.spec.method.title}, {n:,} questions, seed {run.spec.seed}"
            entry = EvalResultEntry(dataset, str(e.task), round(100 * accuracy, 2), notes=notes)
            text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
            files[f".eval_results/{e.task}.yaml"] = text
    return files


def _results(run: Run) -> list[tuple[EvaluationRecord, float, int]]:
    """Its evaluations at its own settings, each with accuracy and number of questions; of one task the first."""
    by_task: dict[str, tuple[EvaluationRecord, float, int]] = {}
    for key, e in plain_evaluations(run).items():
        by_task.setdefault(str(e.task), (e, *accuracy_in_distribution(run, key)))
    return list(by_task.values())


def _dataset(evaluation: EvaluationRecord) -> str | None:
    """The id of its questions' set on the Hugging Face hub; None for a generated one, or one's own."""
    try:
        hub = load_task(str(evaluation.task)).metadata.get("hub")
    except UsageError:
        return None
    return str(hub["path"]) if isinstance(hub, dict) else None


def _precision(spec: RunSpec) -> str:
    if spec.dtype != "bfloat16":
        return ""
    return (
        " The run computed in bfloat16 and these weights are float32: a few answers may differ by rounding from those "
        "that were evaluated."
    )


def _accuracy(run: Run) -> str:
    accuracy, n = own_accuracy(run)
    if accuracy is None or n is None:
        return "No evaluation is stored beside the run."
    interval = wilson(round(accuracy * n), n)
    return (
        f"{100 * accuracy:.1f} % of {n:,} test questions in distribution (Wilson 95 % interval "
        f"{100 * interval.low:.1f} to {100 * interval.high:.1f}). One training seed: another one may differ by more "
        "than this interval says."
    )


def _provenance(run: Run, spec: RunSpec, training: TrainingRecord) -> dict[str, str]:
    kind, amount = spec.total_budget
    budget = "not stated" if amount is None else f"{kind} {amount:,.0f}"
    settings = ", ".join(f"{key} = {value}" for key, value in spec.method.settings.items()) or "none"
    return {
        "run": f"`{run.id}`",
        "method settings": settings,
        "training seed": str(spec.seed),
        "training budget": f"{budget} ({format_flops(training.flops)} FLOPs of its own)",
        "started from": f"`{spec.parent}`" if spec.parent else "the backbone's own weights",
        "training rows": f"sha256 `{spec.task.train_sha256}`",
        "commit": ", ".join(run.commits()) or "not stated",
    }
