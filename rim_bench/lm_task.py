"""Trained runs as lm-eval models, and evaluation of our tasks through lm-eval. The only module that imports lm_eval."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lm_eval.models  # noqa: F401  built-in models must be registered before ours (lm-eval looks them up only in an empty registry)
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import model_registry
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from rim_bench.data import Task
from rim_bench.errors import UsageError
from rim_bench.flops import Shape, decode_flops, prefill_flops
from rim_bench.generate import Completion, decode, score
from rim_bench.layout import Layout, Segment
from rim_bench.store import Store
from rim_bench.trained import Trained, load_trained, pick_device

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

logger = logging.getLogger(__name__)

NAME = "rim-bench"
PROMPT_DIFFERS = "prompt differs from training"
ANSWER = "####"


def register() -> None:
    """Make `--model rim-bench` known to lm-eval. Safe to call twice."""
    if NAME not in model_registry:
        model_registry.register(NAME, target="rim_bench.lm_task:RimLM")


@dataclass
class Answered:
    """One generation request, with its costs."""

    text: str
    cost: dict[str, Any] = field(default_factory=dict)
    blocks: list[str] = field(default_factory=list)  # texts behind every probe place, where they were asked for


class RimLM(TemplateLM):  # type: ignore[misc]
    """A trained run behind lm-eval's interface.

    The whole context of a request is the question; the method's own positions follow it. Decoding is greedy.
    A context longer than the model's positions is counted (`overlong`) and answered with nothing, never cut.

    Args:
        path: a run folder, or its id (or the beginning of it) below the folder `results`.
        trained: a loaded run instead of a path.
        effort: overrides the method's compute knob (rim: blocks, coconut: thoughts, pause: pauses).
        max_gen_toks: cap where a task sets none.
        probe: also decode behind every probe place of the method (rim: after every block).
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        results: str = "results",
        trained: Trained | None = None,
        effort: int | None = None,
        batch_size: int | str | None = 32,
        max_batch_size: int | None = None,
        max_gen_toks: int = 256,
        device: str | None = None,
        probe: bool = False,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__()
        if trained is None:
            if path is None:
                raise UsageError("model rim-bench needs path=RUN in --model_args: a run folder or its id")
            trained = load_trained(Store(Path(results)).find(str(path)), device=pick_device(device))
        self.trained, self.effort, self.probe, self.on_batch = trained, effort, probe, on_batch
        self.backbone = trained.backbone
        self.method = trained.method
        self.workspace = trained.workspace
        if effort is not None and self.method.effort_field is None:
            raise UsageError(f"{self.method.name} has no compute knob, so effort {effort} cannot be set")
        given = str(batch_size or 32)
        self.batch_size = int(given) if given.isdigit() and int(given) else 32  # "auto": the default serves
        if max_batch_size:
            self.batch_size = min(self.batch_size, int(max_batch_size))
        self.max_gen_toks = int(max_gen_toks)
        self.records: dict[tuple[str, int], Answered] = {}
        self.overlong = 0
        self.differs = 0
        self._device = self.backbone.device
        self._stops: dict[tuple[str, ...], frozenset[int]] = {}
        self.tokenizer = self.backbone.tokenizer
        self.shape = Shape.of(self.backbone.model.config.to_dict() | {"vocab_size": self.backbone.vocabulary})

    # what lm-eval asks of a model

    @property
    def eot_token_id(self) -> int:
        return self.backbone.end

    @property
    def tokenizer_name(self) -> str:
        return f"{self.trained.spec['backbone']['name']} ({NAME})"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return list(self.backbone.encode(string))

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        if not chat_template:
            return None
        template = getattr(self.tokenizer, "chat_template", None)
        if not isinstance(template, str):
            raise UsageError("this run's tokenizer has no chat template: leave out --apply_chat_template")
        return template

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        self.chat_template(True)
        text = self.tokenizer.apply_chat_template(chat_history, tokenize=False, add_generation_prompt=add_generation_prompt)
        return str(text)

    def get_model_info(self) -> dict[str, Any]:
        """Merged by lm-eval into the `config` of its results."""
        spec = self.trained.spec
        note = PROMPT_DIFFERS if self.differs else None
        return {
            "rim_bench_method": spec["method"],
            "rim_bench_backbone": spec["backbone"],
            "rim_bench_seed": spec["seed"],
            "rim_bench_prompt_note": note,
            "rim_bench_prompts_that_differ": self.differs,
            "rim_bench_overlong_prompts": self.overlong,
        }

    # generation

    def question(self, context: str) -> tuple[int, ...]:
        """A context as the tokens the method was trained to see as its question, newline included."""
        return self.backbone.encode_question(context.removesuffix("\n"))

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers, in the order of the requests; batches hold requests of similar length."""
        asked: list[tuple[int, Instance, Layout, int, tuple[str, ...]]] = []
        outputs = [""] * len(requests)
        for i, request in enumerate(requests):
            context, settings = request.args
            limit, until = self._settings(settings)
            self._note_prompt(request, context)
            question = self.question(context)
            layout = self.method.lay_prompt(question, self.effort)
            if max(layout.position) + 2 > self.backbone.max_positions:
                self.overlong += 1
                self.records[request.task_name, int(request.doc_id)] = Answered("", {"overlong": True})
                continue
            asked.append((i, request, layout, limit, until))
        asked.sort(key=lambda a: (a[3], a[4], a[2].size, a[0]))
        for (limit, until), same in groupby(asked, key=lambda a: (a[3], a[4])):
            todo = list(same)
            for at in range(0, len(todo), self.batch_size):
                batch = todo[at : at + self.batch_size]
                answers = self.answer([b[2] for b in batch], limit, until, [self.question(b[1].args[0]) for b in batch])
                for (i, request, *_), answered in zip(batch, answers, strict=True):
                    outputs[i] = answered.text
                    self.records[request.task_name, int(request.doc_id)] = answered
                    self.cache_hook.add_partial("generate_until", request.args, answered.text)
                if self.on_batch is not None:
                    self.on_batch(len(batch))
        if self.overlong:
            limit = self.backbone.max_positions
            logger.warning("%d prompts are longer than the model's %d positions: answered with nothing", self.overlong, limit)
        if self.differs:
            logger.warning("%d prompts: %s", self.differs, PROMPT_DIFFERS)
        return outputs

    def _note_prompt(self, request: Instance, context: str) -> None:
        """Count contexts that are more, or other, than the bare question the method was trained on."""
        doc = request.doc if isinstance(request.doc, dict) else {}
        if str(doc.get("question")).strip() != context.strip():
            self.differs += 1

    def _settings(self, given: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
        """Cap and stop strings of a request; anything but greedy decoding is refused."""
        if given.get("do_sample") or float(given.get("temperature") or 0) > 0:
            raise UsageError("rim-bench decodes greedily: leave out do_sample and temperature, or set them to false and 0")
        until = given.get("until") or []
        until = [until] if isinstance(until, str) else until
        limit = int(given.get("max_gen_toks") or given.get("max_new_tokens") or self.max_gen_toks)
        if limit < 1:
            raise UsageError(f"max_gen_toks {limit} must be at least 1")
        return limit, tuple(u for u in until if u)

    def answer(self, layouts: Sequence[Layout], limit: int, until: tuple[str, ...], questions: Sequence[tuple[int, ...]]) -> list[Answered]:
        """One batch of prompts, decoded and priced."""
        stop = self._stop(until)
        began = time.perf_counter()
        done = decode(self.workspace, layouts, max_tokens=limit, stop=stop)
        seconds = time.perf_counter() - began
        out = []
        for layout, question, branches in zip(layouts, questions, done, strict=True):
            completion = branches[layout.resume[0]]
            text = cut(self.backbone.decode(completion.tokens), until)
            out.append(Answered(text, self._cost(layout, question, completion, seconds, len(layouts))))
        if self.probe:
            self._probe(questions, out, limit, until, stop)
        return out

    def _probe(self, questions: Sequence[tuple[int, ...]], out: list[Answered], limit: int, until: tuple[str, ...], stop: Any) -> None:
        """Answers behind every probe place: never the scored answer, and not part of its cost."""
        trees = [self.method.lay_probe(q, self.effort) for q in questions]
        known = [t for t in trees if t is not None]
        if len(known) < len(trees):
            return
        for answered, tree, branches in zip(out, known, decode(self.workspace, known, max_tokens=limit, stop=stop), strict=True):
            answered.blocks = [cut(self.backbone.decode(branches[name].tokens), until) for name in tree.resume]

    def _stop(self, until: tuple[str, ...]) -> Any:
        """A stop rule for `until`: full text is decoded only behind a token that can complete a stop string."""
        if not until:
            return None
        if until not in self._stops:
            last = {u[-1] for u in until}
            pieces = ((i, self.backbone.decode((i,))) for i in range(self.backbone.vocabulary))
            self._stops[until] = frozenset(i for i, piece in pieces if last & set(piece) or "\ufffd" in piece)
        able = self._stops[until]
        return lambda tokens: bool(tokens) and tokens[-1] in able and any(u in self.backbone.decode(tokens) for u in until)

    def _cost(self, layout: Layout, question: tuple[int, ...], done: Completion, seconds: float, rows: int) -> dict[str, Any]:
        first = answer_token(self.backbone.decode, done.tokens)
        return {
            "prompt_tokens": len(question),
            "latent_positions": layout.size - len(question),
            "generated_tokens": done.generated,
            "capped": not done.ended,
            "passes": done.passes,
            "passes_to_answer": None if first is None else done.prompt_waves + first,
            "flops_prefill": prefill_flops(self.shape, layout),
            "flops_decode": decode_flops(self.shape, layout, done.generated),
            "latency_s": round(done.seconds, 6),
            "batch_s": round(seconds, 6),
            "batch_size": rows,
            "overlong": False,
        }

    # likelihoods

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Choices of one question are sibling branches behind its prompt, in the trained answer format.

        The log-likelihood is that of the choice, given the question, the method's positions and `#### `. A method that
        reasons in generated text (cot) is asked for its answer without that text: a likelihood leaves it no room.
        """
        places: dict[str, list[int]] = {}
        for i, ((context, _), _, _) in enumerate(requests):
            places.setdefault(context, []).append(i)
        prefix = self.backbone.encode(f"{ANSWER} ")
        out: list[tuple[float, bool]] = [(float("-inf"), False)] * len(requests)
        pending: list[tuple[list[int], Layout, list[tuple[int, ...]]]] = []
        for context, where in places.items():
            base = self.method.lay_prompt(self.question(context), self.effort)
            layout = Layout(
                (*base.segments, base.continuation("answer prefix", base.resume[0], prefix)), ("answer prefix",), base.blind
            )
            choices = [self._choice(requests[i][0][1]) for i in where]
            if max(layout.position) + 1 + max(map(len, choices)) > self.backbone.max_positions:
                self.overlong += len(where)
                continue
            pending.append((where, layout, choices))
        pending.sort(key=lambda p: p[1].size)
        for at in range(0, len(pending), self.batch_size):
            batch = pending[at : at + self.batch_size]
            scored = score(self.workspace, [p[1] for p in batch], [p[2] for p in batch])
            for (where, _, _), scores in zip(batch, scored, strict=True):
                for i, one in zip(where, scores, strict=True):
                    out[i] = (one.logprob, one.greedy)
                    self.cache_hook.add_partial("loglikelihood", requests[i][0], out[i])
        return out

    def _choice(self, continuation: str) -> tuple[int, ...]:
        tokens = self.backbone.encode(continuation.lstrip(" "))
        return tokens or (self.backbone.end,)

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of plain text under the backbone, without the method's positions, in disjoint windows."""
        out = []
        for request in requests:
            (text,) = request.args
            total = 0.0
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text), prefix_token=self.eot_token_id, max_seq_len=self.backbone.max_positions - 1, context_len=1
            )
            for context, continuation in map(make_disjoint_window, windows):
                layout = Layout((Segment("text", None, tuple(context)),), ("text",))
                total += score(self.workspace, [layout], [[tuple(continuation)]])[0][0].logprob
            out.append(total)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return out


def cut(text: str, until: Sequence[str]) -> str:
    """Text up to the earliest stop string."""
    places = [at for u in until if (at := text.find(u)) >= 0]
    return text[: min(places)] if places else text


def answer_token(decode_tokens: Callable[[tuple[int, ...]], str], tokens: tuple[int, ...]) -> int | None:
    """Index of the first token of the answer: the one that puts something behind `####`; None without one."""
    if ANSWER not in decode_tokens(tokens):
        return None
    low, high = 0, len(tokens) - 1  # whether a prefix shows an answer is monotone in its length
    if not decode_tokens(tokens).split(ANSWER, 1)[1].strip():
        return None
    while low < high:
        middle = (low + high) // 2
        behind = decode_tokens(tokens[: middle + 1]).split(ANSWER, 1)
        if len(behind) > 1 and behind[1].strip():
            high = middle
        else:
            low = middle + 1
    return low


def lm_eval_main(arguments: Sequence[str]) -> None:
    """lm-eval's own command line with `--model rim-bench` registered, and our tasks beside its own unless told otherwise."""
    register()
    from lm_eval.__main__ import cli_evaluate

    ours = list(arguments)
    if ours[:1] in (["run"], ["ls"], ["validate"]) and not any(a.split("=")[0] == "--include_path" for a in ours):
        ours += ["--include_path", str(Path(__file__).parent / "tasks")]
    sys.argv = ["lm-eval", *ours]
    cli_evaluate()


def through_lm_eval(lm: RimLM, task: Task, *, max_tokens: int, metadata: dict[str, Any]) -> dict[str, Any]:
    """Evaluate a task with lm-eval itself: its task loading, prompts, filters and aggregation. Returns its results.

    No response cache (lm-eval's is not keyed by the weights) and no global seeding (it would change a training run's state).
    """
    manager = TaskManager(include_path=str(task.path.parent), include_defaults=False, metadata=metadata)
    if task.lm_eval_name not in manager.all_tasks:
        raise UsageError(f"lm-eval finds no task {task.lm_eval_name!r} in {task.path.parent}")
    results = simple_evaluate(
        model=lm,
        tasks=[task.lm_eval_name],
        task_manager=manager,
        gen_kwargs={"max_gen_toks": max_tokens},
        bootstrap_iters=0,
        log_samples=True,
        random_seed=None,  # type: ignore[arg-type]
        numpy_random_seed=None,  # type: ignore[arg-type]
        torch_random_seed=None,  # type: ignore[arg-type]
        fewshot_random_seed=None,  # type: ignore[arg-type]
    )
    assert results is not None
    return dict(results)
