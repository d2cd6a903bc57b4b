"""Greedy answers of an exported model that thinks in latent slots, with plain transformers and torch.

    python generate.py "How many apples ...?"

Read it before you run it. `rim_bench.json` beside it says what stands behind the question: text tokens as ids, and how
many latent slots. A slot is no token: its input is the last hidden state (after the final norm) of the column before
it, so that each needs a forward pass of its own.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

FOLDER = Path(__file__).resolve().parent


def load(folder: Path = FOLDER) -> tuple[Any, Any, dict[str, Any]]:
    """The model, its tokenizer and the record of what stands behind a question."""
    record = json.loads((folder / "rim_bench.json").read_text("utf-8"))
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder), record


@torch.no_grad()
def generate(model: Any, tokenizer: Any, record: dict[str, Any], question: str) -> list[int]:
    """The ids of the answer to one question, without the end token."""
    cache, hidden, logits = None, torch.empty(0), torch.empty(0)

    def feed(inputs: torch.Tensor) -> None:
        nonlocal cache, hidden, logits
        out = model(inputs_embeds=inputs, past_key_values=cache, use_cache=True, output_hidden_states=True)
        cache, hidden, logits = out.past_key_values, out.hidden_states[-1][:, -1:], out.logits[0, -1]

    def feed_tokens(ids: list[int]) -> None:
        feed(model.get_input_embeddings()(torch.tensor([ids], device=model.device)))

    ids = record["start"] + tokenizer.encode(question + "\n", add_special_tokens=False, split_special_tokens=True)
    for part in record["prompt"]:
        if "tokens" in part:
            ids = ids + part["tokens"]
            continue
        feed_tokens(ids)
        ids = []
        for _ in range(part["latent"]):
            feed(hidden)
    if ids:
        feed_tokens(ids)
    answer: list[int] = []
    while len(answer) < record["max_new_tokens"]:
        logits[record["never"]] = -float("inf")  # the method's own tokens are inputs only
        token = int(logits.argmax())
        if token == record["end"]:
            break
        answer.append(token)
        feed_tokens([token])
    return answer


if __name__ == "__main__":
    model, tokenizer, record = load()
    for question in sys.argv[1:]:
        print(tokenizer.decode(generate(model, tokenizer, record, question), skip_special_tokens=True))
