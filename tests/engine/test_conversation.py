"""Conversations as tokens: the tokenizer's chat template as Hugging Face fills it, and texts that stay text."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_models import CHAT, base_folder

from rim_bench.engine.tokenizer import PLAIN, Codec, load_codec
from rim_bench.methods.method import Turn
from rim_bench.util.errors import UsageError

TURNS = (
    Turn("user", "How many? 3 + 4\nThink."),
    Turn("assistant", "<<3+4=7>>\n#### 7"),
    Turn("user", " Ann has 12 pears, Bob 30.\n"),
)


@pytest.fixture
def codec(tmp_path: Path) -> Codec:
    return load_codec(base_folder("tiny", tmp_path / "model"))


def test_a_chat_template_gives_hugging_faces_own_tokens(codec: Codec) -> None:
    codec.tokenizer.chat_template = CHAT
    history = [turn._asdict() | {"content": turn.text} for turn in TURNS]
    text = codec.tokenizer.apply_chat_template(history, tokenize=False, add_generation_prompt=True)
    ids = codec.encode_conversation(TURNS)
    assert list(ids) == codec.tokenizer.encode(text, add_special_tokens=False)
    assert ids.count(codec.end) == 2 * len(TURNS) + 1


def test_a_turn_cannot_say_a_special_token(codec: Codec) -> None:
    codec.tokenizer.chat_template = CHAT
    plain, odd = (codec.encode_conversation([Turn("user", text)]) for text in ("7", f"7{codec.tokenizer.eos_token}"))
    assert plain.count(codec.end) == odd.count(codec.end) == 3
    assert codec.tokenizer.eos_token in codec.decode(odd)


def test_without_a_template_the_turns_stand_as_question_and_answer(codec: Codec) -> None:
    first = "Question: How many? 3 + 4\nThink.\nAnswer: <<3+4=7>>\n#### 7\n\n"
    text = first + "Question:  Ann has 12 pears, Bob 30.\n\nAnswer:"
    assert "".join(PLAIN[turn.role].format(turn.text) for turn in TURNS) == text
    assert codec.encode_conversation(TURNS) == codec.start + codec.encode(text)


@pytest.mark.parametrize(
    ("template", "word"),
    [
        ("{{ raise_exception('roles must alternate') }}", "fails on 3 turns .*roles must alternate"),
        ("{{ messages[-1]['content'] }}", "does not show every turn once"),
        ("{% for m in messages %}{{ m['content'] + m['content'] }}{% endfor %}", "does not show every turn once"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_sentence(codec: Codec, template: str, word: str) -> None:
    codec.tokenizer.chat_template = template
    with pytest.raises(UsageError, match=word):
        codec.encode_conversation(TURNS)
