"""Byte-level BPE from scratch; text to ids without special tokens read from text or a clean-up of spaces."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from rim_bench.engine.model_folder import check_vocabulary, reading
from rim_bench.methods.method import Encoded, Example, Turn
from rim_bench.util.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END = "<|end|>"
"""The end token of tokenizers from scratch; it doubles as padding."""
PLAIN = {"user": "Question: {}\nAnswer:", "assistant": " {}\n\n"}
"""A conversation's turns for a tokenizer without a chat template, as few-shot prompts of lm-eval's tasks mostly are."""
PIECES = r"<<|>>|\d| ?\p{L}+| ?[^\s\p{L}\d]+|\s+"
"""What a token never crosses: `<<` and `>>`, single digits, words with their space, runs of signs, white space."""


def train_tokenizer(texts: Iterable[str], vocabulary: int, pattern: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `texts`; it encodes any text and decodes it to the same text.

    `vocabulary` is the largest size, end token included: a small text gives less. With `pattern`, each match of this
    regular expression is one piece (and what lies between two matches is another). The result depends on the texts
    alone.
    """
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern or PIECES), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    from transformers import PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast  # untyped
    return cast(
        "PreTrainedTokenizerFast",
        fast(tokenizer_object=tokenizer, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False),
    )


class Codec:
    """Text to ids and back on a fast tokenizer.

    Text that looks like a special token (`<|end|>`, `<b>`) is encoded letter by letter: a question cannot inject one.
    """

    def __init__(self, tokenizer: Any, size: int | None = None) -> None:
        """A codec of a tokenizer's tokens; with `size`, of its first `size` ids: those behind are markers."""
        self.tokenizer: PreTrainedTokenizerFast = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None or tokenizer.eos_token_id is None:
            raise UsageError(
                "the backbone's tokenizer is not supported: a fast tokenizer (tokenizer.json) with an end token is "
                "needed"
            )
        ids = set(backend.get_vocab(with_added_tokens=True).values())
        if len(ids) != 1 + max(ids):  # new tokens would take the free ids in a stored tokenizer, and others in a run
            raise UsageError(
                f"the backbone's tokenizer is not supported: it has {len(ids):,} ids from {min(ids):,} to "
                f"{max(ids):,}, and every id from 0 on must have a token"
            )
        if size is not None:
            state = json.loads(backend.to_str())
            state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < size]
            tokenizer._tokenizer = backend = Tokenizer.from_str(json.dumps(state))
        plain, full = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
        before = next((at for at in range(len(full)) if full[at : at + len(plain)] == plain), 0)
        self.start: tuple[int, ...] = tuple(full[:before])  # what the tokenizer puts in front of a text by default
        self.end: int = int(tokenizer.eos_token_id)
        # A copy: HF's own calls switch padding, truncation and the reading of special tokens on the shared object.
        self._backend = Tokenizer.from_str(backend.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        self._backend.encode_special_tokens = True
        self.size: int = 1 + max(self.tokens().values())
        probe = "How many? 7\n"
        if self.decode(self.encode(probe)) != probe:
            raise UsageError("the backbone's tokenizer is not supported: it does not give back the text it encodes")

    def tokens(self) -> dict[str, int]:
        """Text -> id of every token."""
        return dict(self._backend.get_vocab(with_added_tokens=True))

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of `text`, nothing added."""
        return tuple(self._backend.encode(text, add_special_tokens=False).ids)

    def encode_question(self, text: str) -> tuple[int, ...]:
        """Ids of `text` and a newline, after the start token where the tokenizer puts one by default."""
        return self.start + self.encode(text + "\n")

    def encode_conversation(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        """Ids of a conversation up to where its next answer begins: in the tokenizer's chat template, or as `PLAIN`.

        The template is filled with places for the turns' texts, which come in afterwards: what they say is text, be it
        the name of a special token.

        Raises:
            UsageError: a template that fails on these turns, or does not show each once and in order.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            return self.start + self.encode("".join(PLAIN[turn.role].format(turn.text) for turn in turns))
        places = {f"\ue000{i}\ue001": turn.text for i, turn in enumerate(turns)}
        history = [{"role": turn.role, "content": place} for turn, place in zip(turns, places, strict=True)]
        try:
            rendered = str(self.tokenizer.apply_chat_template(history, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # of any kind: a template is its author's code
            raise UsageError(
                f"the chat template of the backbone's tokenizer fails on {len(turns)} turns of user and assistant "
                f"({type(error).__name__}: {' '.join(str(error).split())})"
            ) from None
        place = re.compile("\ue000[0-9]+\ue001")
        if place.findall(rendered) != list(places):
            raise UsageError("the chat template of the backbone's tokenizer does not show every turn once, in order")
        added = {t["content"]: t for t in json.loads(self._backend.to_str())["added_tokens"] if t["special"]}
        ids: list[int] = []
        pieces = re.split(f"({'|'.join(map(re.escape, sorted(added, key=len, reverse=True)))})", rendered)
        for i, piece in enumerate(pieces):
            if piece in added:
                ids.append(int(added[piece]["id"]))
                continue
            if i and added[pieces[i - 1]]["rstrip"]:
                piece = piece.lstrip()
            if i + 1 < len(pieces) and added[pieces[i + 1]]["lstrip"]:
                piece = piece.rstrip()
            ids += self.encode(place.sub(lambda match: places[match.group()], piece))
        return tuple(ids)

    def encode_example(self, example: Example) -> Encoded:
        """Each part encoded on its own, in the text format that all methods share."""
        return Encoded(
            id=example.id,
            question=self.encode_question(example.question),
            steps=tuple(self.encode(step + "\n") for step in example.steps),
            answer=(*self.encode("#### " + example.answer), self.end),
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; special tokens and ids beyond the vocabulary (markers) are dropped."""
        return str(self._backend.decode([int(i) for i in ids if i < self.size], skip_special_tokens=True))

    def marker_texts(self, markers: Mapping[str, int]) -> dict[int, str]:
        """Id -> the text under which a marker is stored: its name, in `<>` where the vocabulary has that already."""
        taken, texts = set(self.tokens()), {}
        for name, number in markers.items():
            text = name
            while text in taken:
                text = f"<{text}>"
            taken.add(text)
            texts[number] = text
        return texts

    def save(self, folder: Path, markers: Mapping[str, int]) -> None:
        """Writes the tokenizer's files, the markers among its special tokens at their ids."""
        self.tokenizer.save_pretrained(str(folder))
        path = folder / "tokenizer.json"
        state = json.loads(path.read_text("utf-8"))
        for number, text in self.marker_texts(markers).items():
            plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            state["added_tokens"].append({"id": number, "content": text, **plain, "special": True})
        path.write_text(json.dumps(state, indent=2, ensure_ascii=False), "utf-8")


def load_codec(folder: Path, size: int | None = None) -> Codec:
    """The tokenizer in a folder as a codec, of its first `size` ids if given. Nothing of the folder is executed.

    Raises:
        UsageError: one that cannot be loaded or is not supported.
    """
    from transformers import AutoTokenizer  # takes a quarter of a second, which a run that is done spares

    check_vocabulary(folder)
    auto: Any = AutoTokenizer  # untyped
    needed = "a fast tokenizer (tokenizer.json) is needed, as save_pretrained writes it"
    with reading(folder, "the tokenizer", needed, ("tokenizer.json", "vocab.json")):
        return Codec(auto.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False), size)
