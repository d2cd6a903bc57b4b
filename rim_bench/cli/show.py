"""A method explained by its layouts on a real example."""

from __future__ import annotations

import random

from rim_bench.data.datasets import training_data
from rim_bench.data.task import load_task
from rim_bench.engine.tokenizer import Codec, train_tokenizer
from rim_bench.methods.registry import load_method
from rim_bench.runs.options import Options
from rim_bench.util.errors import UsageError

VOCABULARY = 4096


def explain(options: Options, row: int, effort: int | None) -> str:
    """The layouts of every stage and of the prompt, as text. Tokens are those of the task's from-scratch tokenizer.

    Raises:
        UsageError: no such row, or an effort for a method without a knob.
    """
    task = load_task(options.task)
    (name,) = options.methods
    base = load_method(name)
    recipe = task.recipe.get("methods", {}).get(base.name, {})
    method = load_method(name, {**recipe, **options.settings.get(base.name, {})})
    if effort is not None and method.effort_field is None:
        raise UsageError(f"{method.name} has no compute knob, so effort {effort} cannot be set")
    train, _ = training_data(
        task, data=options.data, steps=options.steps, files=options.files, allow_changed=True
    )  # nothing is measured
    if not 0 <= row < len(train.examples):
        raise UsageError(f"row {row} is not among the {len(train.examples)} training rows")
    example = method.transform(train.examples, 0)[row]
    texts = ["\n".join([e.question, *e.steps, f"#### {e.answer}"]) for e in train.examples]
    codec = Codec(train_tokenizer(texts, VOCABULARY, task.token_pattern))
    encoded = codec.encode_example(example)

    def piece(token: int) -> str:
        return "⟨end⟩" if token == codec.end else codec.decode((token,))

    fields = ", ".join(f"{k} = {v}" for k, v in method.settings().items()) or "no hyper-parameters"
    parts = [f"{method.name}: {method.summary}\n{fields}\n\nexample {example.id} ({len(example.steps)} steps)"]
    stages = method.stages()
    total = sum(s.share for s in stages)
    for stage in stages:
        layout = method.lay_train(encoded, stage, 0.0, random.Random(0))
        parts.append(
            f"training, stage {stage.name!r} ({100 * stage.share / total:.0f} % of the budget, learning rate x "
            f"{stage.lr_scale:g}{', optimizer reset' if stage.reset else ''}), at its start; passes: {layout.passes}\n"
            f"{layout.show(piece)}"
        )
    prompt = method.lay_prompt(encoded.question, effort)
    parts.append(f"prompt; passes before the first generated token: {prompt.passes}\n{prompt.show(piece)}")
    return "\n\n".join(parts)
