"""Trained runs as lm-eval models, and evaluation of our tasks through lm-eval. The only module that imports lm_eval."""

from __future__ import annotations

import logging
import random
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partialmethod
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lm_eval.api.task

# built-in models must be registered before ours (lm-eval looks them up only in an empty registry)
import lm_eval.models
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import model_registry
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from rim_bench.data.answers import Kind
from rim_bench.data.task import Task, tasks_folder
from rim_bench.engine.devices import pick_device
from rim_bench.engine.execution import ALONE, ExecutionContext
from rim_bench.engine.trained_model import TrainedModel, load_trained
from rim_bench.evaluate.distributed import GenerateBatch, ScoreBatch, answer_all, score_all
from rim_bench.evaluate.multiple_choice import ChoicePredictor, branches
from rim_bench.evaluate.predict import Prediction, Predictor
from rim_bench.evaluate.self_consistency import sampling_of, votes_record, whole
from rim_bench.evaluate.vocabulary_check import UnseenText
from rim_bench.methods.layout import Layout, Segment
from rim_bench.methods.method import Method
from rim_bench.storage.run_folder import Store
from rim_bench.util.errors import MOST, UsageError, check_count, unknown
from rim_bench.util.files import check_place
from rim_bench.util.own_files import allow_files

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

logger = logging.getLogger(__name__)
NAME = "rim-bench"
PROMPT_DIFFERS = "prompt differs from training"
COMPLAINTS = tuple(
    f"lm_eval/{m}.py" for m in ("config/evaluate_config", "api/registry", "_cli/utils", "evaluator_utils")
)
"""Where lm-eval raises what is a user's mistake."""
OPTIONS = (
    *("path", "results", "effort", "max_gen_toks", "probe", "votes", "temperature", "sample_seed", "split_passes"),
    *("method_file", "trust"),
)
"""Arguments of the model that a user may give."""


def samples(settings: Mapping[str, Any]) -> bool:
    """Whether lm-eval's settings of generation ask for anything but one greedy answer."""
    return bool(settings.get("do_sample") or settings.get("temperature") or settings.get("num_beams") not in (None, 1))


def register(execution: ExecutionContext = ALONE) -> None:
    """Make `--model rim-bench` known to lm-eval, as a model that shares its work with others. Safe to call twice."""
    if NAME in model_registry:
        return
    if execution is ALONE:
        model_registry.register(NAME, target="rim_bench.evaluate.lm_eval_model:RimLM")
    else:
        own = {"__init__": partialmethod(RimLM.__init__, execution=execution)}
        model_registry.register(NAME, target=type("RimLM", (RimLM,), own))


class RimLM(TemplateLM):  # type: ignore[misc]
    """A trained run behind lm-eval's interface.

    The whole context of a request is the question; the method's own positions follow it. A method that trains nothing
    asks the bare questions of rim-bench's tasks in its own conversation, and every other context as it stands, as
    lm-eval's own models are asked. Decoding is greedy, unless there are votes. A context longer than the model's
    positions is counted (`overlong`) and answered with nothing, never cut.

    Args:
        path: a run folder, or its id (or the beginning of it) below the folder `results`.
        trained: a loaded run instead of a path.
        effort: overrides the method's compute knob (rim: blocks, coconut: thoughts, pause: pauses).
        batch_size: prompts decoded together; "auto" is 32.
        max_gen_toks: cap where a task sets none.
        device: "cuda:0" is what lm-eval passes where nobody chose: without a GPU it means the CPU.
        probe: also decode after every probe place of the method (rim: after every block).
        votes: above 1: samples a question at `temperature`, drawn from `sample_seed`; the most frequent answer counts.
        split_passes: every filler position in a pass of its own (pause-curriculum): equal answers, another latency.
        method_file: the .py file of the run's method, where that is one's own.
        trust: that file as FILE:SHA256, which is taken only if it has this content.
        trust_remote_code: taken from lm-eval's command line and not needed: a run's code is this package's.

    Raises:
        UsageError: no such run, an option that is not one, or a value that does not fit.
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        results: str = "results",
        trained: TrainedModel | None = None,
        effort: int | None = None,
        batch_size: int | str | None = 32,
        max_batch_size: int | None = None,
        max_gen_toks: int = 256,
        device: str | None = None,
        probe: bool = False,
        votes: int = 1,
        temperature: float | None = None,
        sample_seed: int | None = None,
        split_passes: bool = False,
        method_file: str | None = None,
        trust: str | None = None,
        on_batch: Callable[[int], None] | None = None,
        execution: ExecutionContext = ALONE,
        trust_remote_code: bool = False,
        **others: Any,
    ) -> None:
        super().__init__()
        self._unseen: UnseenText | None = None  # a loaded run is checked by whoever loaded it
        for name in others:
            raise unknown(f"option of model {NAME}", name, OPTIONS)
        for name, value in (("probe", probe), ("split_passes", split_passes)):
            if not isinstance(value, bool):
                raise UsageError(f"{name}={value} must be True or False")
        sampling = sampling_of(votes, temperature, sample_seed)
        if trained is None:
            if path is None:
                raise UsageError("model rim-bench needs path=RUN in --model_args: a run folder or its id")
            if device in ("cuda", "cuda:0") and not torch.cuda.is_available():
                logger.warning("no GPU is available: running on the CPU instead of %s", device)
                device = "cpu"
            allow_files([] if method_file is None else [method_file], [] if trust is None else [trust])
            run = Store(Path(str(results))).find(str(path))
            trained = load_trained(run, device=pick_device(device), execution=execution)
            self._unseen = UnseenText(trained)
        self.trained, self.backbone, self.workspace = trained, trained.backbone, trained.workspace
        self.on_batch = on_batch
        blocks = None if effort is None else whole("effort", effort, 0)
        self.answerer = Predictor(trained, blocks, probe=probe, sampling=sampling, split=split_passes)
        automatic = batch_size is None or str(batch_size).startswith("auto")
        self.batch_size = 32 if automatic else whole("batch_size", batch_size, 1)
        if max_batch_size is not None:
            self.batch_size = min(self.batch_size, whole("max_batch_size", max_batch_size, 1))
        self.max_gen_toks = whole("max_gen_toks", max_gen_toks, 1)
        self.records: dict[tuple[str, int], Prediction] = {}
        self.counts: dict[str, Counter[str]] = {}  # task -> of its last requests: prompts overlong, that differ
        self._device = self.backbone.device
        self._chat = False
        self._trained = trained.method.trains != "nothing"
        self.tokenizer = self.backbone.tokenizer

    # what lm-eval asks of a model

    @property
    def eot_token_id(self) -> int:
        return self.backbone.end

    @property
    def tokenizer_name(self) -> str:
        return f"{self.trained.spec.backbone.name} ({NAME})"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return list(self.backbone.encode(string))

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Called by lm-eval where a response cache was asked for."""
        raise UsageError(
            "lm-eval's response cache (use_cache) is not keyed by the weights, so another run would get this one's "
            "answers"
        )

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        if not chat_template:
            return None
        if not getattr(self.tokenizer, "chat_template", None):
            raise UsageError("this run's tokenizer has no chat template: leave out --apply_chat_template")
        return str(self.tokenizer.get_chat_template(chat_template if isinstance(chat_template, str) else None))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        self.chat_template(True)
        self._chat = True
        text = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return str(text)

    @property
    def overlong(self) -> int:
        """Prompts longer than the model's positions."""
        return sum(c["overlong"] for c in self.counts.values())

    @property
    def differs(self) -> int:
        """Prompts that are not the bare question the method was trained on."""
        return sum(c["differs"] for c in self.counts.values())

    def get_model_info(self) -> dict[str, Any]:
        """Merged by lm-eval into the `config` of its results."""
        spec = self.trained.spec
        note, sampling = PROMPT_DIFFERS if self.differs else None, self.answerer.sampling
        drawn = {} if sampling is None else {f"rim_bench_{k}": v for k, v in votes_record(sampling).items()}
        return {
            "rim_bench_method": spec.method.to_json(),
            "rim_bench_backbone": spec.backbone.to_json(),
            "rim_bench_seed": spec.seed,
            "rim_bench_prompt_note": note,
            "rim_bench_prompts_that_differ": self.differs,
            "rim_bench_overlong_prompts": self.overlong,
            "rim_bench_unseen_prompts": None if self._unseen is None else self._unseen.counts,
            **drawn,
        }

    # generation

    def question(self, context: str) -> tuple[int, ...]:
        """A context as the tokens that the method takes as its question: newline included, or its conversation."""
        text = context.removesuffix("\n")
        if self._chat:  # the template's own special tokens are meant as such
            return tuple(self.tokenizer.encode(text + "\n", add_special_tokens=False))
        return self.trained.question(text)

    def _as_it_stands(self, context: str) -> tuple[int, ...]:
        """A context as the tokens that lm-eval's own models are given."""
        if self._chat:
            return tuple(self.tokenizer.encode(context, add_special_tokens=False))
        return (self.backbone.codec.start + self.backbone.encode(context)) or (self.backbone.end,)

    def _asked(self, request: Instance) -> tuple[int, ...]:
        """A request's context as the tokens of a question."""
        context = request.args[0]
        return self.question(context) if self._trained or is_bare(request) else self._as_it_stands(context)

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers, in the order of the requests; batches hold requests of similar length."""
        asked: list[tuple[int, tuple[int, ...], Layout, int, tuple[str, ...], Kind]] = []
        answered: dict[int, Prediction] = {}
        self._start_counts(requests)
        for i, request in enumerate(requests):
            settings = request.args[1]
            if samples(settings):  # how to decode is not for a task or the command line to change
                raise UsageError(
                    "rim-bench decodes greedily, or with the votes and temperature of --model_args: leave out "
                    "do_sample, temperature and num_beams, or set them to false, 0 and 1"
                )
            caps = [c for name in CAPS if (c := settings.get(name)) is not None]
            limit = whole("max_gen_toks", caps[0] if caps else self.max_gen_toks, 1)
            until = stop_texts(settings.get("until"))
            if until == Method.until and is_bare(request):  # the tasks' own, of what is trained
                until = self.trained.method.until
            question = self._asked(request)
            layout = self.answerer.prompt(question)
            if self.answerer.fits(layout):
                said = request.doc.get("kind") if isinstance(request.doc, dict) else None  # our own tasks say it
                kind: Kind = "number" if said == "number" else "text" if said == "text" else "auto"
                asked.append((i, question, layout, limit, until, kind))
            else:
                self.counts[request.task_name]["overlong"] += 1
                answered[i] = self.answerer.unanswered(layout, question)
        asked.sort(key=lambda a: (*a[3:], a[2].size, a[0]))
        alike = [list(same) for _, same in groupby(asked, key=lambda a: a[3:])]
        cuts = [same[at : at + self.batch_size] for same in alike for at in range(0, len(same), self.batch_size)]
        batches = [GenerateBatch([b[2] for b in batch], [b[1] for b in batch], *batch[0][3:]) for batch in cuts]
        for batch, predictions in zip(cuts, answer_all(self.answerer, batches, self.on_batch), strict=True):
            answered.update((b[0], prediction) for b, prediction in zip(batch, predictions, strict=True))
        for i, request in enumerate(requests):
            self.records[request.task_name, int(request.doc_id)] = answered[i]
        self._warn()
        return [answered[i].text for i in range(len(requests))]

    def _start_counts(self, requests: Sequence[Instance]) -> None:
        """Counts contexts that are more, or other, than the bare question the method was trained on.

        What is counted belongs to the latest requests of a task.
        """
        self.counts.update((task, Counter()) for task in {r.task_name for r in requests})
        self._check_text([(request.task_name, request.args[0]) for request in requests], self.question)
        if self._trained:
            for request in requests:
                doc = request.doc if isinstance(request.doc, dict) else {}
                self.counts[request.task_name]["differs"] += doc.get("question") != request.args[0].removesuffix("\n")

    def _check_text(self, asked: Sequence[tuple[str, str]], encode: Callable[[str], tuple[int, ...]]) -> None:
        """Refuses texts, of tasks, with tokens that a tokenizer from scratch never saw in training."""
        if self._unseen is None:
            return
        by_task: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
        for task, text in dict.fromkeys(asked):
            by_task.setdefault(task, []).append((f"request {len(by_task.get(task, ()))}", encode(text)))
        for task, texts in by_task.items():
            self._unseen.check(task, texts)

    def _warn(self) -> None:
        if self.overlong:
            limit = self.backbone.max_positions
            logger.warning(
                "%d prompts are longer than the model's %d positions: answered with nothing", self.overlong, limit
            )
        if self.differs:
            logger.warning("%d prompts: %s", self.differs, PROMPT_DIFFERS)

    # likelihoods

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Choices of one question are sibling branches after its prompt, in the trained answer format.

        The log-likelihood is that of the choice, given the question, the method's positions and `#### `. A method that
        reasons in generated text (cot) is asked for its answer without that text: a likelihood leaves it no room.
        A method that trains nothing has no such format: a context that stands as it is has the choice right behind it.
        """
        self._start_counts(requests)
        ours = all(isinstance(r.doc, dict) and r.doc.get("form") == "choice" for r in requests)
        if requests and ours and (self._trained or all(map(is_bare, requests))):
            return self._chosen(requests)
        out = self._likelihoods([request.args for request in requests])
        for request, (logprob, _) in zip(requests, out, strict=True):
            self.counts[request.task_name]["overlong"] += logprob == float("-inf")
        self._warn()
        return out

    def _chosen(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """As above for our own choice form (`multiple_choice`): cot writes its steps first; one record a document."""
        documents = {(r.task_name, int(r.doc_id)): (self.question(r.args[0]), list(r.doc["choices"])) for r in requests}
        chooser = ChoicePredictor(self.answerer, dict(documents.values()))
        asked = [(key, question, chooser.prompt(question)) for key, (question, _) in documents.items()]
        for key, question, layout in asked:
            if not chooser.fits(layout):
                self.records[key] = chooser.unanswered(layout, question)
        fitting = sorted((a for a in asked if chooser.fits(a[2])), key=lambda a: a[2].size)
        cuts = [fitting[at : at + self.batch_size] for at in range(0, len(fitting), self.batch_size)]
        batches = [GenerateBatch([b[2] for b in batch], [b[1] for b in batch], self.max_gen_toks, ()) for batch in cuts]
        for batch, predictions in zip(cuts, answer_all(chooser, batches, self.on_batch), strict=True):
            self.records.update((b[0], prediction) for b, prediction in zip(batch, predictions, strict=True))
        for name, number in documents:
            self.counts[name]["overlong"] += bool(self.records[name, number].cost["overlong"])
        self._warn()
        out = []
        for request in requests:
            key = (request.task_name, int(request.doc_id))
            text, logprobs = str(request.args[1]).lstrip(" "), self.records[key].logprobs
            out.append((logprobs[documents[key][1].index(text)], False) if logprobs else (float("-inf"), False))
        return out

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        return self._likelihoods([texts for texts, _, _ in requests])

    def _likelihoods(self, asked: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy) of each (context, continuation); -inf where the model lacks positions."""
        places: dict[str, list[int]] = {}
        for i, (context, _) in enumerate(asked):
            places.setdefault(context, []).append(i)
        out: list[tuple[float, bool]] = [(float("-inf"), False)] * len(asked)
        pending: list[tuple[list[int], Layout, list[tuple[int, ...]]]] = []
        for context, where in places.items():
            if self._trained:
                prompt = self.answerer.prompt(self.question(context))
                layout, choices = branches(self.backbone, prompt, [asked[i][1] for i in where])
            else:  # spaces between the two belong to the continuation, as in lm-eval
                question = self._as_it_stands(context.rstrip())
                layout = self.answerer.prompt(question)
                choices = [self._as_it_stands(context + asked[i][1])[len(question) :] for i in where]
            if max(layout.position) + 1 + max(map(len, choices)) <= self.backbone.max_positions:
                pending.append((where, layout, choices))
        pending.sort(key=lambda p: p[1].size)
        cuts = [pending[at : at + self.batch_size] for at in range(0, len(pending), self.batch_size)]
        scored = score_all(self.trained, [ScoreBatch([p[1] for p in batch], [p[2] for p in batch]) for batch in cuts])
        for (where, _, _), scores in zip(chain(*cuts), chain(*scored), strict=True):
            for i, scored_choice in zip(where, scores, strict=True):
                out[i] = (scored_choice.logprob, scored_choice.greedy)
        return out

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of plain text under the backbone, without the method's positions, in disjoint windows."""
        self._check_text([(request.task_name, request.args[0]) for request in requests], self.backbone.encode)
        totals = [0.0] * len(requests)
        windows: list[tuple[int, Layout, tuple[int, ...]]] = []
        for i, request in enumerate(requests):
            (text,) = request.args
            pairs = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.eot_token_id,
                max_seq_len=self.backbone.max_positions - 1,
                context_len=1,
            )
            for context, continuation in map(make_disjoint_window, pairs):
                windows.append((i, Layout((Segment("text", None, tuple(context)),), ("text",)), tuple(continuation)))
        windows.sort(key=lambda w: len(w[2]))
        cuts = [windows[at : at + self.batch_size] for at in range(0, len(windows), self.batch_size)]
        scored = score_all(self.trained, [ScoreBatch([w[1] for w in batch], [[w[2]] for w in batch]) for batch in cuts])
        for (i, _, _), scores in zip(chain(*cuts), chain(*scored), strict=True):
            totals[i] += scores[0].logprob
        return totals


def is_bare(request: Instance) -> bool:
    """Whether a request's context is the question of a document of rim-bench's own tasks, and nothing else."""
    doc = request.doc if isinstance(request.doc, dict) else {}
    return "kind" in doc and doc.get("question") == request.args[0].removesuffix("\n")


PASSED = ("batch_size", "max_batch_size", "device")
"""Arguments of the model that lm-eval passes by itself, from options of its own."""
CAPS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of the cap of generated tokens, the one that tasks use first."""
GENERATION = (*CAPS, "until", "do_sample", "temperature", "num_beams")
"""What `--gen_kwargs` may say to rim-bench, sampling apart, which it refuses."""


def stop_texts(stops: Any) -> tuple[str, ...]:
    """Where an answer ends. Raises UsageError for what is no text and no list of texts."""
    texts = [stops] if isinstance(stops, str) else stops or []
    if not isinstance(texts, list | tuple) or not all(isinstance(t, str) for t in texts):
        raise UsageError(f"until {stops!r} must be a text or a list of texts: quote a number, as in until='\"7\"'")
    return tuple(text for text in texts if text)


def check_command(options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of generation that lm-eval's options for model rim-bench give, the cap under the tasks' name for it.

    Raises:
        UsageError: what lm-eval passes by itself, given a second time; settings that have no effect, or of a wrong
            kind; numbers or a place for results that would stop it after the work.
    """
    for name, value in (options.get("model_args") or {}).items():
        if name in PASSED:
            raise UsageError(f"{name}={value} in --model_args is what lm-eval passes by itself: give it as --{name}")
        if name not in (*OPTIONS, "trust_remote_code"):  # `trained` and others are for Python
            raise unknown(f"option of model {NAME}", name, OPTIONS)
    limit = options.get("limit")
    if limit is not None and not 0 < float(limit) <= MOST:
        raise UsageError(f"--limit {limit:g} is no number of questions: give at least 1, or a share between 0 and 1")
    for seed in options.get("seed") or ():
        check_count("--seed", seed, 0, 2**32 - 1)  # the smallest of the libraries'
    if (place := options.get("output_path")) is not None:
        check_place("--output_path", Path(place) if str(place).endswith(".json") else Path(place) / "results.json")
    settings = dict(options.get("gen_kwargs") or {})
    for name in settings:
        if name not in GENERATION:
            raise unknown("setting of --gen_kwargs", name, GENERATION)
    stop_texts(settings.get("until"))
    caps = {name: settings.pop(name) for name in CAPS if name in settings}
    if len(caps) > 1:
        raise UsageError(f"--gen_kwargs caps the answer by {' and '.join(caps)}: give {CAPS[0]} alone")
    for name, cap in caps.items():
        settings[CAPS[0]] = whole(name, cap, 1)
    return settings


def lm_eval_main(arguments: Sequence[str], execution: ExecutionContext = ALONE) -> None:
    """lm-eval's own command line with `--model rim-bench` registered, and our tasks beside its own and the user's.

    Raises:
        UsageError: what our model refuses, and lm-eval's own complaints about its options.
    """
    register(execution)
    from lm_eval._cli import HarnessCLI
    from lm_eval.config.evaluate_config import EvaluatorConfig
    from lm_eval.utils import setup_logging

    setup_logging()
    sys.argv = ["rim-bench lm-eval", *arguments]  # what lm-eval's parser reads
    parser = HarnessCLI()
    try:
        namespace = parser.parse_args()
        config = EvaluatorConfig.load_yaml_config(namespace.config) if getattr(namespace, "config", None) else {}
        options = config | {k: v for k, v in vars(namespace).items() if v}
        if options.get("use_cache") and options.get("model") == NAME:  # refused before it makes a file
            raise UsageError(
                "--use_cache cannot be used with model rim-bench: lm-eval's response cache is not keyed by the weights"
            )
        if options.get("model") == NAME and (generation := check_command(options)):
            namespace.gen_kwargs = generation
        if hasattr(namespace, "include_path"):
            folders = options.get("include_path") or []
            namespace.include_path = [str(tasks_folder()), *([folders] if isinstance(folders, str) else folders)]
        parser.execute(namespace)
    except UsageError as error:
        said = str(error).replace("--data DIR", "--metadata rim_bench_data=DIR")
        for flag in ("--method-file ", "--trust "):
            said = said.replace(flag, f"--model_args {flag.strip(' -').replace('-', '_')}=")
        raise UsageError(said) from None
    except (ValueError, TypeError, KeyError, FileNotFoundError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1].filename
        if not place.endswith(COMPLAINTS):
            raise
        raise UsageError(f"lm-eval: {error.args[0] if error.args else error}") from None


def through_lm_eval(lm: RimLM, task: Task, *, max_tokens: int, metadata: dict[str, Any]) -> dict[str, Any]:
    """Evaluate a task with lm-eval itself: its task loading, prompts, filters and aggregation. Returns its results.

    What `simple_evaluate` adds to this is left out: a response cache (lm-eval's is not keyed by the weights), global
    seeding (it would change a training run's state), and a description of the machine (1.5 s; the run folder has one).
    """
    with quiet_lm_eval():
        manager = TaskManager(include_path=str(task.path.parent), include_defaults=False, metadata=metadata)
        if task.lm_eval_name not in manager.all_tasks:
            raise UsageError(f"lm-eval finds no task {task.lm_eval_name!r} in {task.path.parent}")
        loaded = manager.load([task.lm_eval_name])
        lm_eval_task = loaded["tasks"][task.lm_eval_name]
        if task.form == "generate":
            lm_eval_task.set_config(key="generation_kwargs", value={"max_gen_toks": max_tokens}, update=True)
        lm_eval_task.set_config(key="num_fewshot", value=0)
        results = evaluate(lm=lm, task_dict=loaded, bootstrap_iters=0, log_samples=True)
    assert results is not None
    return dict(results)


@contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Keeps lm-eval's progress bar, and its remarks below errors, out of our display; `random`'s state stays."""
    log, bar = logging.getLogger("lm_eval"), lm_eval.api.task.tqdm
    level, state = log.level, random.getstate()  # it draws names for tasks, which nobody sees
    log.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        random.setstate(state)
        log.setLevel(level)
        lm_eval.api.task.tqdm = bar
