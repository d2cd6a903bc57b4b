"""A trained run as a folder that plain transformers loads: merged weights, the tokenizer with the method's tokens.

What a method puts behind the question is a fixed row of tokens and latent slots; it goes into `rim_bench.json` and,
where it is tokens alone, into the tokenizer's chat template, so that `generate` on it gives the run's answers. Latent
slots need passes that `generate` has not: a short program lies beside such a model, to be read and run by its user.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rim_bench.engine import latent_generate
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.markers import write_rows
from rim_bench.engine.pretrained import generation_settings, quiet
from rim_bench.engine.trained_model import TrainedModel
from rim_bench.methods.layout import Layout
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record

RECORD, PROGRAM, TEMPLATE = "rim_bench.json", "generate.py", "chat_template.jinja"
PROBE = "How many are 2 and 3?"


@dataclass(frozen=True)
class PromptPart:
    """What stands behind the question in one go: token ids, or a number of latent slots."""

    tokens: tuple[int, ...] = ()
    latent: int = 0

    def to_json(self) -> Record:
        return {"tokens": list(self.tokens)} if self.tokens else {"latent": self.latent}


@dataclass(frozen=True)
class Exported:
    """What was written: how a prompt goes on behind the question, and whether `generate` alone answers it."""

    prompt: tuple[PromptPart, ...]
    text: str | None  # of the prompt behind the question and its newline; None where there are latent slots
    start: str  # text of the tokens in front of the question

    @property
    def latent(self) -> int:
        """Latent slots of a prompt."""
        return sum(part.latent for part in self.prompt)


def export_model(trained: TrainedModel, folder: Path, *, max_tokens: int, effort: int | None = None) -> Exported:
    """Writes the model into an empty folder; the trained model's adapter is merged into its weights by that.

    Raises:
        UsageError: a method whose prompt is no fixed row of tokens and latent slots behind the question, or whose slots
            go through trained modules; a tokenizer that reads its prompt as other tokens.
    """
    backbone = trained.backbone
    parts = prompt_parts(trained, effort)
    write_rows(backbone)
    backbone.restore_frozen()  # an adapter is not rounded on its way into the weights
    causal = backbone.causal
    if hasattr(backbone.model, "peft_config"):
        backbone.restore_frozen()  # an adapter is not to be rounded on its way into the weights
        causal = backbone.model.merge_and_unload()
    never = range(backbone.vocabulary, len(causal.get_output_embeddings().weight))
    causal.generation_config = generation_settings(backbone.end, never)
    causal.generation_config.max_new_tokens = max_tokens
    with quiet():
        causal.save_pretrained(str(folder))
        backbone.codec.save(folder, backbone.markers)
    exported = Exported(parts, _text(backbone, parts), backbone.tokenizer.decode(list(backbone.codec.start)))
    _write_template(folder, exported)
    record = {
        "schema": 1,
        "run": trained.spec.id,
        "method": {"name": trained.spec.method.name, "settings": dict(trained.spec.method.settings)},
        "start": list(backbone.codec.start),
        "prompt": [part.to_json() for part in parts],
        "end": backbone.end,
        "never": list(never),
        "max_new_tokens": max_tokens,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if exported.latent:
        shutil.copyfile(latent_generate.__file__, folder / PROGRAM)
    _check_prompt(backbone, folder, exported)
    return exported


def prompt_parts(trained: TrainedModel, effort: int | None = None) -> tuple[PromptPart, ...]:
    """What the method puts behind a question. Raises UsageError where that is no row that any question can have."""
    method, backbone = trained.method, trained.backbone
    if len(trained.bridges):
        raise UsageError(
            f"{method.name} cannot be exported: its latent slots go through trained modules, which no model of "
            "transformers has"
        )
    rows = {_parts(backbone, method.lay_prompt(question, effort)) for question in _questions(backbone)}
    if len(rows) > 1 or None in rows:
        raise UsageError(
            f"{method.name} cannot be exported: what it puts behind a question is no row of tokens and latent slots "
            "that is the same for every question and that each token sees whole"
        )
    (parts,) = rows
    assert parts is not None
    return parts


def _questions(backbone: Backbone) -> Sequence[tuple[int, ...]]:
    return [backbone.encode_question(text) for text in (PROBE, "a", PROBE + " " + PROBE)]


def _parts(backbone: Backbone, layout: Layout) -> tuple[PromptPart, ...] | None:
    """The prompt behind the question as a row; None where it is a tree, or hides anything."""
    question, *others = layout.segments
    parts: list[PromptPart] = []
    last = question.name
    for segment in others:
        if segment.after != last or segment.blind or segment.mutual or segment.serial or segment.bridge is not None:
            return None
        tokens = tuple(map(backbone.resolve, segment.tokens))
        if tokens and parts and parts[-1].tokens:
            parts[-1] = PromptPart((*parts[-1].tokens, *tokens))
        else:
            parts.append(PromptPart(tokens, segment.slots))
        last = segment.name
    plain = question.after is None and not question.mutual and not layout.blind and layout.resume == (last,)
    return tuple(parts) if plain else None


def _text(backbone: Backbone, parts: Sequence[PromptPart]) -> str | None:
    """The prompt's tokens as text: markers as they are stored, other tokens as they decode."""
    if any(part.latent for part in parts):
        return None
    stored = backbone.codec.marker_texts(backbone.markers)
    return "".join(stored.get(token) or backbone.decode((token,)) for part in parts for token in part.tokens)


def _write_template(folder: Path, exported: Exported) -> None:
    """The prompt as the tokenizer's chat template: the last message is the question. Another one is taken away."""
    path = folder / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    config.pop("chat_template", None)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (folder / TEMPLATE).unlink(missing_ok=True)
    if exported.text is not None:
        quoted = json.dumps(exported.start), json.dumps("\n" + exported.text)
        template = f"{{{{ {quoted[0]} + messages[-1]['content'] + {quoted[1]} }}}}"
        (folder / TEMPLATE).write_text(template, "utf-8")


def _check_prompt(backbone: Backbone, folder: Path, exported: Exported) -> None:
    """Refuses a folder whose tokenizer makes other tokens of a prompt than the run was trained on."""
    if exported.text is None:
        return
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    asked = tokenizer.apply_chat_template([{"role": "user", "content": PROBE}], tokenize=True, return_dict=False)
    wanted = [*backbone.encode_question(PROBE), *(token for part in exported.prompt for token in part.tokens)]
    if list(asked) != wanted:
        raise UsageError(
            f"the tokenizer reads the prompt of {backbone.spec['name']!r} as other tokens than the run was trained on: "
            f"{asked[-8:]} at its end instead of {wanted[-8:]}"
        )
