"""The model card of an exported run: what it is, how it is asked, how well it answers, and where it comes from."""

from __future__ import annotations

from rim_bench.evidence.stats.intervals import wilson
from rim_bench.report.run_list import own_accuracy
from rim_bench.storage.records import RunSpec, TrainingRecord
from rim_bench.storage.run_folder import Run
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
        "library_name: transformers",
        "pipeline_tag: text-generation",
        *_base_model(spec),
        "tags: [rim-bench, latent-reasoning]",
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
        "text.",
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


def _base_model(spec: RunSpec) -> list[str]:
    hub = spec.backbone.to_json().get("hub")
    return [f"base_model: {hub}"] if hub else []


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
