"""A causal language model with its tokenizer, its markers and what of it trains: scratch, pretrained, or LoRA.

The engine feeds embeddings and reads hidden states (`embed`, `run`, `head`); no method is known here.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rim_bench.compute.flops import Shape
from rim_bench.compute.training_flops import Trains
from rim_bench.engine import lora
from rim_bench.engine.attention import NAME as SDPA
from rim_bench.engine.attention import Part, growing_cache
from rim_bench.engine.markers import add_markers, marker_rows, write_rows
from rim_bench.engine.model_folder import CONFIG, config_sha256
from rim_bench.engine.precision import BFLOAT16, device_default
from rim_bench.engine.pretrained import (
    constant_positions,
    fuse_activations,
    generation_settings,
    load_model,
    locate,
    quiet,
    scratch_model,
)
from rim_bench.engine.tokenizer import Codec, load_codec, train_tokenizer
from rim_bench.methods.method import Encoded, Example, Marker, Turn
from rim_bench.util.errors import UsageError, unknown
from rim_bench.util.files import read_json
from rim_bench.util.progress import phase

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedTokenizerFast

RECORD = "backbone.json"
UNTRAINED = "none"
"""The tuning of a pretrained backbone that stays as it is: what is saved of it names its weights, and holds none."""


class _Dropout(NamedTuple):
    module: Any
    attribute: str
    base: float  # the backbone's own probability
    in_attention: bool

    @property
    def probability(self) -> float:
        return float(getattr(self.module, self.attribute))


class Backbone:
    """A model that the engine can train and decode with; it comes in evaluation mode.

    Attributes:
        model: the Hugging Face `...ForCausalLM`, or the `PeftModel` around it.
        markers: marker name -> id. Ids of markers follow the vocabulary without gaps.
        vocabulary: ids below it can be predicted; markers and unused rows of the embedding lie above.
        spec: what it was built from, see `compute.backbones.resolve_backbone`.
        computes: the type of its products, "float32" or "bfloat16".
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        model: Any,
        codec: Codec,
        markers: Mapping[str, int],
        device: torch.device | str,
        dtype: str | None = None,
    ) -> None:
        """`dtype` is the type of products; None: the device's usual one."""
        self.spec, self.codec, self.markers = dict(spec), codec, dict(markers)
        self.vocabulary = codec.size
        self.model: Any = model.to(device).eval()
        self.computes = device_default(torch.device(device).type) if dtype is None else dtype
        self.rows_apart: nn.Parameter | None = None  # the markers' rows while nothing else trains
        self.base_config: str | None = None  # sha256 of the configuration that pretrained weights came with
        fuse_activations(self.model)
        self._dropouts: list[_Dropout] = []
        for name, module in self.causal.named_modules():
            if isinstance(module, nn.Dropout):
                in_attention = name.endswith("attn_dropout")  # GPT-2's; in Llama and Qwen it is a number
                self._dropouts.append(_Dropout(module, "p", float(module.p), in_attention))
            elif isinstance(value := getattr(module, "attention_dropout", None), float | int):
                self._dropouts.append(_Dropout(module, "attention_dropout", float(value), True))

    @classmethod
    def create(
        cls,
        spec: Mapping[str, Any],
        *,
        texts: Iterable[str] | None = None,
        pattern: str | None = None,
        markers: Sequence[Marker] = (),
        seed: int = 0,
        device: torch.device | str = "cpu",
        attention: str = "sdpa",
        dtype: str | None = None,
    ) -> Backbone:
        """The backbone of a spec, before training.

        From scratch, the tokenizer is trained on `texts` (split by `pattern`) and the weights depend on `seed` alone.
        Pretrained weights are loaded in float32; those that stay frozen are then kept in the type of products, `dtype`
        (None: the device's usual one). `attention` is "sdpa" or "eager".

        Raises:
            UsageError: weights that are not to be had, changed since the spec was made, or of an unsupported
                architecture.
            ValueError: no texts for a tokenizer from scratch.
        """
        if spec["kind"] == "scratch":
            if texts is None:
                raise ValueError("a backbone from scratch needs texts to train its tokenizer on")
            with phase("training a tokenizer"):
                codec = Codec(train_tokenizer(texts, spec["vocabulary"], pattern))
            model = scratch_model(spec, codec.size, codec.end, seed, attention)
            backbone = cls(spec, model, codec, {}, device, dtype)
        else:
            folder = locate(spec)
            record = {**spec, "revision": folder.name} if spec["kind"] == "hub" else spec
            backbone = cls(record, load_model(folder, attention), load_codec(folder), {}, device, dtype)
            backbone.base_config = config_sha256(folder)
        backbone.check_tokens()
        add_markers(backbone, markers, seed)
        if spec["tuning"] == "lora":
            backbone.model = lora.wrap(backbone.model, backbone.spec, backbone.markers, seed).eval()
            backbone.store_frozen()
        if spec["tuning"] == UNTRAINED:
            backbone.model.requires_grad_(False)
            backbone.store_frozen()
        return backbone

    def store_frozen(self) -> None:
        """Keeps the weights beside an adapter in the type of products; float32 changes nothing."""
        if self.computes == BFLOAT16:
            from rim_bench.engine import frozen_weights  # peft, which takes seconds to import

            frozen_weights.store_frozen(self.model, self.table("input"), self.table("output"), self.vocabulary)

    def restore_frozen(self) -> None:
        """Keeps them in float32 again, with the values that they have."""
        if self.computes == BFLOAT16 and hasattr(self.model, "peft_config"):
            from rim_bench.engine import frozen_weights

            frozen_weights.restore_frozen(self.model)

    def check_tokens(self) -> None:
        """Raises UsageError where a token of the tokenizer has no row in the table; a padded table has more rows."""
        rows, name = len(self.table("input").weight), self.spec.get("path", self.spec["name"])
        if without := sorted((number, text) for text, number in self.codec.tokens().items() if number >= rows):
            (number, text), *_ = without
            raise UsageError(
                f"the model {name!r} has {rows:,} rows of embeddings, but its tokenizer {len(without):,} tokens "
                f"without one, such as {text!r} with id {number:,}: resize the table (resize_token_embeddings) and "
                "train the rows, or take the tokens out of the tokenizer"
            )

    # What the model is

    @property
    def causal(self) -> Any:
        """The Hugging Face model itself, without peft's shell."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer as Hugging Face has it; it knows no markers. Use `encode` and `decode`."""
        return self.codec.tokenizer

    @property
    def width(self) -> int:
        """Size of a hidden state."""
        return int(self.causal.config.hidden_size)

    @property
    def layers(self) -> int:
        """Number of transformer layers."""
        return int(self.causal.config.num_hidden_layers)

    @property
    def max_positions(self) -> int:
        """Positions a row may have: ids run from 0 to one less. The caller keeps to it."""
        return constant_positions(self.causal.config)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        device: torch.device = self.table("input").weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the embedding's weights; `computes` is what products are computed in."""
        dtype: torch.dtype = self.table("input").weight.dtype
        return dtype

    @property
    def end(self) -> int:
        """Id of the end token."""
        return self.codec.end

    def table(self, side: Literal["input", "output"]) -> Any:
        """The embedding or the head itself, without peft's wrapper."""
        causal = self.causal
        module = causal.get_input_embeddings() if side == "input" else causal.get_output_embeddings()
        return module.token_adapter.base_layer if hasattr(module, "token_adapter") else module

    # Text

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of `text`, nothing added."""
        return self.codec.encode(text)

    def encode_question(self, text: str) -> tuple[int, ...]:
        """Ids of `text` and a newline, after the start token where the tokenizer puts one by default."""
        return self.codec.encode_question(text)

    def encode_conversation(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        """Ids of a conversation up to where its next answer begins (`Codec.encode_conversation`)."""
        return self.codec.encode_conversation(turns)

    def encode_example(self, example: Example) -> Encoded:
        """The parts of an example, each encoded on its own."""
        return self.codec.encode_example(example)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, without markers, end token and other special tokens."""
        return self.codec.decode(ids)

    def resolve(self, token: int | str) -> int:
        """The id of a layout's token.

        Raises:
            UsageError: a marker that the backbone does not have, or an id outside vocabulary and markers.
        """
        if isinstance(token, str):
            if token not in self.markers:
                raise unknown("marker", token, self.markers)
            return self.markers[token]
        if not 0 <= token < self.vocabulary + len(self.markers):
            raise UsageError(
                f"token {token} is not in the vocabulary: ids run from 0 to {self.vocabulary + len(self.markers) - 1}"
            )
        return token

    # The forward pass

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., width] of ids [...], positions not added."""
        table = self.table("input")
        rows = marker_rows(self)
        out: Tensor = table(ids)
        out = out.to(torch.promote_types(out.dtype, torch.float32))  # frozen rows may be stored shorter
        if rows is None:
            return out
        # Under LoRA only the markers' rows train. peft would rebuild the whole table at every call.
        marker = ids >= self.vocabulary
        fresh = F.embedding((ids - self.vocabulary).clamp(min=0), rows)
        return torch.where(marker.unsqueeze(-1), fresh, out)

    def run(self, embeds: Tensor, mask: Tensor | None, positions: Tensor, cache: DynamicCache | None = None) -> Tensor:
        """Hidden states after the final norm, [rows, new, width]; no logits.

        Args:
            embeds: [rows, new, width].
            mask: bool [rows, new, seen], True = attends, `seen` = what the cache holds and then `new`; or None for
                plain causal attention of a batch without a past, padded on the right if at all.
            positions: [rows, new].
            cache: keys and values of earlier passes; extended in place.

        Raises:
            ValueError: a mask of the wrong shape or type, or none although the cache holds something.
        """
        hidden: Tensor = self._outputs(embeds, mask, positions, cache, layers=False).last_hidden_state
        return hidden

    def run_layers(
        self, embeds: Tensor, mask: Tensor | None, positions: Tensor, cache: DynamicCache | None = None
    ) -> tuple[Tensor, ...]:
        """As `run`, the states of all layers: embeddings first, after the final norm last (layers + 1)."""
        return tuple(self._outputs(embeds, mask, positions, cache, layers=True).hidden_states)

    def _outputs(
        self, embeds: Tensor, mask: Tensor | None, positions: Tensor, cache: DynamicCache | None, *, layers: bool
    ) -> Any:
        past = 0 if cache is None else int(cache.get_seq_length())
        rows, new = embeds.shape[:2]
        if mask is None:
            if past:
                raise ValueError(f"a pass behind {past} cached columns needs a mask")
            # Never None: without a mask HF reads positions that are not consecutive as several packed texts.
            attention = torch.ones(rows, new, dtype=torch.long, device=embeds.device)
        else:
            if mask.dtype != torch.bool or mask.shape != (rows, new, past + new):
                raise ValueError(f"mask is {mask.dtype} {tuple(mask.shape)}, not bool {(rows, new, past + new)}")
            attention = self._additive(mask, embeds)
        with self.autocast():
            return self.causal.base_model(
                inputs_embeds=embeds,
                attention_mask=attention,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
                output_hidden_states=layers,
            )

    def _additive(self, mask: Tensor, embeds: Tensor) -> Tensor:
        """Bool [rows, new, seen] as the numbers [rows, 1, new, seen] that attention adds, in the type of products."""
        dtype = torch.bfloat16 if self.computes == BFLOAT16 else embeds.dtype
        out = torch.zeros(mask.shape, dtype=dtype, device=embeds.device)
        return out.masked_fill_(~mask, torch.finfo(dtype).min).unsqueeze(1)

    def run_parts(
        self, embeds: Tensor, masks: Sequence[Tensor], positions: Tensor, caches: Sequence[DynamicCache]
    ) -> Tensor:
        """`run` for rows in parts, one after the other, each with a cache of its own, which may differ in length.

        Args:
            embeds: [rows, new, width], positions: [rows, new], of all parts.
            masks: bool [rows of the part, new, seen by the part], one a part.
            caches: of passes without gradients; extended in place.

        Raises:
            ValueError: a model that attends eagerly.
        """
        if self.kernel != "sdpa":
            raise ValueError(f"a model with {self.kernel} attention takes all its rows in one part")
        parts, at = [], 0
        for mask, cache in zip(masks, caches, strict=True):
            parts.append(Part(slice(at, at + len(mask)), cache, self._additive(mask, embeds)))
            at += len(mask)
        rows, new = embeds.shape[:2]
        unread = embeds.new_zeros(rows, 1, new, new)  # a finished mask: HF makes none of its own
        with self.autocast():
            out = self.causal.base_model(
                inputs_embeds=embeds, attention_mask=unread, position_ids=positions, use_cache=False, parts=parts
            )
        hidden: Tensor = out.last_hidden_state
        return hidden

    @property
    def kernel(self) -> str:
        """How attention is computed: "sdpa" or "eager"."""
        name = str(self.causal.config._attn_implementation)
        return "sdpa" if name == SDPA else name

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of hidden states [..., width], in float32 at least."""
        with self.autocast():
            logits: Tensor = self.table("output")(hidden)[..., : self.vocabulary]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @property
    def frozen_head(self) -> Tensor | None:
        """The head's matrix where it is frozen and kept in bfloat16; None elsewhere."""
        head = self.table("output")
        kept = head.weight.dtype == torch.bfloat16 and not head.weight.requires_grad
        return head.weight if kept and getattr(head, "bias", None) is None else None

    def new_cache(self) -> DynamicCache:
        """An empty cache for `run`, for passes with gradients or without, as they are enabled now."""
        return growing_cache(self.causal.config)

    def autocast(self) -> AbstractContextManager[Any]:
        """Products in the type that the backbone computes in; what must stay in float32 does."""
        low = self.computes == BFLOAT16
        return torch.autocast(self.device.type, torch.bfloat16) if low else nullcontext()

    # Training

    def parameters_to_train(self) -> list[tuple[str, nn.Parameter]]:
        """Name and parameter of everything that trains, each once, in a fixed order."""
        apart = [] if self.rows_apart is None else [("markers", self.rows_apart)]
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad] + apart

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Two optimizer groups: matrices with weight decay; norms, biases and embedding rows without."""
        tables = self._embeddings()
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for _, p in self.parameters_to_train():
            (decayed if p.ndim > 1 and id(p) not in tables else plain).append(p)
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
        return [g for g in groups if g["params"]]

    def _embeddings(self) -> set[int]:
        """Identities of the parameters whose rows are looked up: tables of tokens and positions, markers' rows."""
        tables = {id(p) for m in self.causal.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        return tables | {id(marker_rows(self))}

    def shape(self) -> Shape:
        """What the model's cost depends on, markers' rows and unmerged adapters included."""
        return Shape.of(
            self.causal.config.to_dict(), int(self.spec["lora_rank"]) if hasattr(self.model, "peft_config") else 0
        )

    def trains(self) -> Trains:
        """For the FLOP account: what of the model trains, and how attention's backward is computed at its dropout."""
        rows, tables = marker_rows(self), [self.table("input").weight, self.table("output").weight]
        known = self._embeddings() | {id(p) for p in tables}
        matrices = any(
            p.ndim > 1 and id(p) not in known and "lora_" not in name for name, p in self.parameters_to_train()
        )
        inputs = tables[0].requires_grad or (rows is not None and rows.requires_grad)
        dropout = self.model.training and any(d.in_attention and d.probability > 0 for d in self._dropouts)
        fused = self.kernel == "sdpa" and (
            self.device.type == "cuda" or not (dropout or self.computes == BFLOAT16)  # `training_attention`
        )
        adapters = self.rows_apart is None  # they are frozen with the rest
        return Trains(matrices, tables[1].requires_grad, inputs, fused, adapters=adapters)

    def count(self, *, training_only: bool = False) -> int:
        """Number of parameters, all or those that train."""
        if training_only:
            return sum(p.numel() for _, p in self.parameters_to_train())
        return sum(p.numel() for p in self.model.parameters())

    def set_dropout(self, added: float) -> None:
        """Sets every dropout probability to the backbone's own plus `added`; 0 restores the backbone's own.

        A Llama or Qwen model has dropout in its attention only.
        """
        if added < 0 or any(d.base + added >= 1 for d in self._dropouts):
            raise UsageError(
                f"added dropout {added} is not allowed: the sum with the backbone's own must lie in [0, 1)"
            )
        for d in self._dropouts:
            setattr(d.module, d.attribute, d.base + added)

    # Saving

    def weights_sha256(self) -> str:
        """Hash over what `save` writes: names, types, shapes and values, whatever the device."""
        write_rows(self)
        part = self.spec["tuning"] != "full"
        state: Mapping[str, Tensor] = {}
        if self.spec["tuning"] != UNTRAINED:  # the specification has the hash of untouched weights, or their commit
            state = lora.adapter(self.model) if part else self.model.state_dict()
        digest = hashlib.sha256(
            json.dumps([self.spec, self.markers] if part else self.markers, sort_keys=True).encode()
        )
        for name in sorted(state):
            value = state[name].detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.view(torch.uint8).numpy().data if value.ndim else value.numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Writes model (LoRA: adapter and markers' rows) and tokenizer into `folder`, and `backbone.json` last.

        Of an untrained backbone the weights stay where they are.
        """
        folder.mkdir(parents=True, exist_ok=True)
        record = {
            "schema": 2,  # 1: the tokenizer has no markers; a head that differs from a tied embedding was lost
            "spec": self.spec,
            "markers": self.markers,
            "vocabulary": self.vocabulary,
            "start": list(self.codec.start),
            "end": self.end,
            "sha256": self.weights_sha256(),
        }
        how: dict[str, Any] = {"save_embedding_layers": False}
        if self.spec["tuning"] != "full":
            record["base_config_sha256"] = self.base_config
        else:
            how = {"max_shard_size": "1000GB"}
            never = range(self.vocabulary, len(self.table("output").weight))
            self.model.generation_config = generation_settings(self.end, never)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as name, quiet():
            part = Path(name)
            if self.spec["tuning"] != UNTRAINED:
                self.model.save_pretrained(str(part), **how)
            self.codec.save(part, self.markers)
            if self.spec["tuning"] == "lora":  # instead of peft's empty model card
                own_head = self.table("output").weight is not self.table("input").weight
                (part / "README.md").write_text(lora.card(own_head), "utf-8")
            (part / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
            for path in sorted(part.iterdir(), key=lambda p: (p.name == RECORD, p.name)):
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                path.replace(folder / path.name)

    @classmethod
    def load(
        cls, folder: Path, device: torch.device | str = "cpu", attention: str = "sdpa", dtype: str | None = None
    ) -> Backbone:
        """The backbone that `save` wrote, bit by bit; `dtype` is the type of products, as in `create`.

        Raises:
            UsageError: missing, changed or surplus weights, or (LoRA) a base that is gone or changed.
        """
        if not (folder / RECORD).is_file():
            raise UsageError(f"{str(folder)!r} holds no saved backbone: {RECORD} is missing")
        record = read_json(folder / RECORD)
        kinds = {
            "schema": int,
            "spec": dict,
            "markers": dict,
            "vocabulary": int,
            "start": list,
            "end": int,
            "sha256": str,
        }
        if (bad := next((k for k, kind in kinds.items() if not isinstance(record.get(k), kind)), None)) is not None:
            raise UsageError(f"{str(folder / RECORD)!r} is damaged: its {bad} is missing or of another kind")
        spec, size, ids = record["spec"], record["vocabulary"], list(record["markers"].values())
        if spec.get("tuning") not in ("full", "lora", UNTRAINED) or set(ids) != set(range(size, size + len(ids))):
            raise UsageError(f"{str(folder / RECORD)!r} is damaged: its tuning or the ids of its markers cannot be")
        codec = load_codec(folder, size if record["markers"] else None)
        if (codec.size, list(codec.start), codec.end) != (size, record["start"], record["end"]):
            raise UsageError(f"the tokenizer in {str(folder)!r} is not the one that the weights were saved with")
        if spec["tuning"] != "full":
            base = locate(spec)
            backbone = cls(spec, load_model(base, attention, untie=record["schema"] > 1), codec, {}, device, dtype)
            backbone.base_config = config_sha256(base)
            if record.get("base_config_sha256") not in (None, backbone.base_config):
                raise UsageError(f"{CONFIG} in {str(base)!r} changed since the run was made: put the old file back")
            names = sorted(record["markers"], key=record["markers"].__getitem__)
            add_markers(backbone, [Marker(name) for name in names], 0)
            if spec["tuning"] == UNTRAINED:
                backbone.model.requires_grad_(False)
            else:
                backbone.model = lora.wrap(backbone.model, spec, backbone.markers, 0).eval()
                lora.load(backbone.model, folder)
            backbone.store_frozen()
        else:
            backbone = cls(spec, load_model(folder, attention), codec, record["markers"], device, dtype)
        if backbone.weights_sha256() != record["sha256"]:
            raise UsageError(
                f"the weights in {str(folder)!r} are not those that were saved: their hash differs from {RECORD}"
            )
        if not all(bool(torch.isfinite(p).all()) for p in backbone.model.parameters()):
            raise UsageError(f"the weights in {str(folder)!r} hold numbers that are not finite: train the run again")
        return backbone
