"""What rim-bench is compared to, as a user would write it on Hugging Face's own model, with nothing of the engine."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from rim_bench.bench.session import Counts, synchronise
from rim_bench.engine import lora
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.precision import BFLOAT16
from rim_bench.engine.pretrained import locate
from rim_bench.methods.layout import Layout
from rim_bench.methods.method import Encoded
from rim_bench.methods.schedule import TrainingPlan

Auto: Any = AutoModelForCausalLM  # these three are untyped
HfTrainer: Any = Trainer
Arguments: Any = TrainingArguments


class Stock:
    """Hugging Face's own model with a backbone's weights and kind of attention, and no change of the engine's.

    Under LoRA, and where only markers train, it is the backbone's model itself: no stock one trains those parameters.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        if hasattr(backbone.model, "peft_config") or not all(p.requires_grad for p in backbone.model.parameters()):
            self.model: Any = backbone.causal
            return
        config = copy.deepcopy(backbone.causal.config)  # the kernel's name is written into it
        with torch.random.fork_rng():
            model = Auto.from_config(config, attn_implementation=backbone.kernel, dtype=backbone.dtype)
        model.load_state_dict(backbone.causal.state_dict())
        self.model = model.to(backbone.device).eval()

    @property
    def engine_model(self) -> bool:
        """Whether it is the backbone's own model."""
        return self.model is self.backbone.causal

    def groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Two optimizer groups: matrices with weight decay; norms, biases and embedding rows without."""
        if self.engine_model:
            return self.backbone.parameter_groups(weight_decay)
        return decayed(self.model, weight_decay)


class PeftStock(Stock):
    """A pretrained model with peft's adapters of the same rank, as its own loader and `get_peft_model` make it.

    Its frozen weights are in the type that the backbone computes in. The adapter has the backbone's values.
    """

    def __init__(self, backbone: Backbone) -> None:
        from peft import LoraConfig, get_peft_model

        self.backbone = backbone
        kind = torch.bfloat16 if backbone.computes == BFLOAT16 else torch.float32
        model = Auto.from_pretrained(str(locate(backbone.spec)), dtype=kind, attn_implementation="sdpa")
        targets = lora.GPT2_TARGETS if model.config.model_type == "gpt2" else lora.LLAMA_TARGETS
        rank, alpha = backbone.spec["lora_rank"], backbone.spec["lora_alpha"]
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM")
        self.model = get_peft_model(model, config).to(backbone.device).eval()
        own = dict(backbone.model.named_parameters())
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                if p.requires_grad:
                    p.copy_(own[name])


def decayed(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """All parameters in two groups, as above."""
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    matrices = [p for p in model.parameters() if p.ndim > 1 and id(p) not in tables]
    others = [p for p in model.parameters() if p.ndim < 2 or id(p) in tables]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


class PlainLoop:
    """Causal-LM fine-tuning: right-padded rows, the model's own loss with the question masked, AdamW, clipping.

    `target` is "direct" (question and answer) or "cot" (question, steps, answer).
    """

    def __init__(self, stock: Stock, data: Sequence[Encoded], plan: TrainingPlan, target: str) -> None:
        self.stock, self.model, self.backbone = stock, stock.model, stock.backbone
        self.target, self.data, self.plan = target, data, plan
        groups = stock.groups(plan.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=plan.lr, betas=(plan.beta1, plan.beta2), fused=True)

    def rows(self, chosen: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        """Ids and labels of each example, unpadded."""
        out = []
        for i in chosen:
            e = self.data[i]
            completion = (*(e.chain if self.target == "cot" else ()), *e.answer)
            out.append(([*e.question, *completion], [-100] * len(e.question) + list(completion)))
        return out

    def batch(self, chosen: Sequence[int]) -> dict[str, torch.Tensor]:
        """What Hugging Face's forward takes: ids, attention mask and labels [rows, longest]."""
        rows = self.rows(chosen)
        longest = max(len(ids) for ids, _ in rows)

        def padded(lists: Iterable[list[int]], filler: int) -> torch.Tensor:
            return torch.tensor([row + [filler] * (longest - len(row)) for row in lists], device=self.backbone.device)

        return {
            "input_ids": padded((ids for ids, _ in rows), self.backbone.end),
            "attention_mask": padded(([1] * len(ids) for ids, _ in rows), 0),
            "labels": padded((gold for _, gold in rows), -100),
        }

    def loss(self, chosen: Sequence[int]) -> torch.Tensor:
        """Mean cross-entropy of the completions' tokens, by Hugging Face's own forward."""
        with self.backbone.autocast():
            loss: torch.Tensor = self.model(**self.batch(chosen), use_cache=False).loss
        return loss

    def step(self, chosen: Sequence[int]) -> float:
        """One optimizer step; returns the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(chosen)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        self.optimizer.step()
        return float(loss.detach())

    def positions(self, chosen: Sequence[int]) -> tuple[int, int]:
        """Real positions of a batch, and those that are computed."""
        sizes = [len(ids) for ids, _ in self.rows(chosen)]
        return sum(sizes), len(sizes) * max(sizes)


def hf_generate(stock: Stock, questions: Sequence[tuple[int, ...]], tokens: int) -> torch.Tensor:
    """Greedy decoding to the cap, prompts padded on the left; ids [questions, longest prompt + tokens].

    The end token does not end it: in its place stands an id that no logit belongs to.
    """
    backbone, model = stock.backbone, stock.model
    longest, pad, device = max(map(len, questions)), backbone.end, backbone.device
    ids = torch.tensor([[pad] * (longest - len(q)) + list(q) for q in questions], device=device)
    mask = torch.tensor([[0] * (longest - len(q)) + [1] * len(q) for q in questions], device=device)
    never = int(model.get_output_embeddings().weight.shape[0])
    with torch.inference_mode(), backbone.autocast():
        out: torch.Tensor = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=never,
            pad_token_id=pad,
        )
    return out


@torch.inference_mode()
def uncached(stock: Stock, prompt: Layout, tokens: int) -> list[int]:
    """Greedy decoding of one prompt without a cache, as in the public code of coconut.

    A full forward of the whole path for every thought and token. The end token does not end it.

    `prompt` is a chain whose latent slots have no bridge.
    """
    backbone, model = stock.backbone, stock.model
    table = model.get_input_embeddings().weight
    path: list[torch.Tensor] = []  # input embeddings so far, [width] each

    def last_hidden() -> torch.Tensor:
        inputs = torch.stack(path)[None]
        ones = torch.ones(inputs.shape[:2], dtype=torch.long, device=backbone.device)
        out: Any = model.base_model(inputs_embeds=inputs, attention_mask=ones, use_cache=False)
        hidden: torch.Tensor = out.last_hidden_state[0, -1]
        return hidden

    with backbone.autocast():
        for token in prompt.tokens:
            path.append(last_hidden().to(table.dtype) if token is None else table[backbone.resolve(token)])
        out: list[int] = []
        for _ in range(tokens):
            logits = model.get_output_embeddings()(last_hidden())
            out.append(int(logits[: backbone.vocabulary].argmax()))
            path.append(table[out[-1]])
    return out


@torch.inference_mode()
def plain_forward(stock: Stock, length: int) -> torch.Tensor:
    """Logits [1, 1, vocabulary] of the last of `length` tokens, keys and values kept."""
    backbone = stock.backbone
    ids = torch.arange(length, device=backbone.device)[None] % backbone.vocabulary
    with backbone.autocast():
        out: Any = stock.model(input_ids=ids, use_cache=True, logits_to_keep=1)
    logits: torch.Tensor = out.logits
    return logits


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds from the first step's beginning to the last one's end, without what `train` does around its steps."""

    def __init__(self, device: torch.device, timer: Callable[[], float]) -> None:
        self.device, self.timer, self.first, self.last = device, timer, 0.0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.first:
            synchronise(self.device)
            self.first = self.timer()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        synchronise(self.device)
        self.last = self.timer()


class HfLoop:
    """`Trainer` on a copy of the plain loop's model, which it wraps, with an optimizer of the same kind."""

    def __init__(self, plain: PlainLoop) -> None:
        self.plain, self.device, self.losses = plain, plain.backbone.device, 0.0
        self.model = plain.model if isinstance(plain.stock, PeftStock) else copy.deepcopy(plain.model)
        groups = decayed(self.model, plain.plan.weight_decay)
        betas = (plain.plan.beta1, plain.plan.beta2)
        self.optimizer = torch.optim.AdamW(groups, lr=plain.plan.lr, betas=betas, fused=True)

    def ready(
        self, chosen: Sequence[Sequence[int]], seed: int, timer: Callable[[], float] = time.perf_counter
    ) -> Callable[[], Counts]:
        """Steps on the examples of these batches, in random batches of that size that `Trainer` makes itself."""
        rows, size = [i for batch in chosen for i in batch], max(map(len, chosen))
        clock = _Clock(self.device, timer)
        constant = torch.optim.lr_scheduler.ConstantLR(self.optimizer, factor=1.0)
        arguments = Arguments(
            output_dir=tempfile.gettempdir(),  # nothing is saved
            per_device_train_batch_size=size,
            max_steps=len(chosen),
            max_grad_norm=self.plain.plan.clip,
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=self.device.type == "cpu",
            bf16=self.plain.backbone.computes == BFLOAT16,
        )
        trainer = HfTrainer(
            model=self.model,
            args=arguments,
            train_dataset=[{"row": i} for i in rows],
            data_collator=lambda rows: {k: v.cpu() for k, v in self.plain.batch([r["row"] for r in rows]).items()},
            optimizers=(self.optimizer, constant),
            callbacks=[clock],
        )

        def work() -> Counts:
            self.losses = float(trainer.train().training_loss)
            return {"examples": float(len(rows)), "seconds": clock.last - clock.first}

        return work
