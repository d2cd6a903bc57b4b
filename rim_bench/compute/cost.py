"""What a method costs on a model, without training anything: a price list from layouts and a model's shape. No torch.

Nothing here knows a method by name. What a method computes before it answers is its prompt's layout; what it generates
is read off its last training stage: the labelled tokens behind the prompt on the path that trains the answer.

Not in the prices: the rows of a method's markers in the output table (a run's model has them where its tokenizer fills
the table: three rows of 128,256 for rim on Llama).
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rim_bench.compute import flops as flops_module
from rim_bench.compute import training_flops
from rim_bench.compute.adapters import matched_shape
from rim_bench.compute.backbones import configuration
from rim_bench.compute.flops import Shape
from rim_bench.compute.training_flops import Trains
from rim_bench.methods.layout import Layout
from rim_bench.methods.method import Encoded, Method, Stage
from rim_bench.methods.own_methods import Checked, bridges_of, is_own
from rim_bench.methods.registry import load_method
from rim_bench.util.errors import UsageError, check_count, unknown
from rim_bench.util.files import Record
from rim_bench.util.table import Panel, Section, Table
from rim_bench.util.text import format_bytes, format_flops

REFERENCE = "direct"  # what ratios are ratios to
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8": 1, "int8": 1}
"""Number type of a KV cache -> bytes a number."""
MOST_TOKENS = 1_000_000
MOMENTS = 16  # points of a stage at which its layouts are priced: they may change with its progress
END = 0.999  # progress at which a stage is as good as done


@dataclass(frozen=True, slots=True)
class Lengths:
    """An example as token counts: question with newline, all steps, answer from `#### ` to the end token.

    Raises:
        UsageError: counts that no example has.
    """

    question: int = 80
    chain: int = 60
    answer: int = 4
    steps: int = 6  # how many steps the chain has; a shorter chain has as many steps as tokens

    def __post_init__(self) -> None:
        for name, least in (("question", 1), ("chain", 0), ("answer", 1)):
            check_count(f"--{name}-tokens", getattr(self, name), least, MOST_TOKENS)
        check_count("--chain-steps", self.steps)

    def example(self) -> Encoded:
        """An example of these lengths; no token occurs twice, so that each is recognised wherever a method puts it."""
        steps = min(self.steps, self.chain)
        ends = [self.question + self.chain * k // steps for k in range(steps + 1)] if steps else [self.question]
        parts = tuple(tuple(range(a, b)) for a, b in itertools.pairwise(ends))
        return Encoded("price", tuple(range(self.question)), parts, tuple(range(ends[-1], ends[-1] + self.answer)))


@dataclass(frozen=True, slots=True)
class Price:
    """What one method costs on one example. FLOPs: visible keys, no padding, 2 a multiply-accumulate (see `flops`)."""

    method: str
    settings: Mapping[str, Any]
    prompt_positions: int  # columns before the first generated token, latent ones included
    latent_positions: int  # of them, those that are not the question's
    generated_tokens: int
    passes_to_answer: int  # dependent forward passes until the answer's first token is known
    passes: int  # until its last token is known
    flops_prefill: int
    flops_decode: int
    kv_bytes: int  # keys and values at the end
    depth: int  # positions that the model must have: those of the path that is fed
    flops_train: int  # forward and backward of a training example, mean over the curriculum
    modules: tuple[str, ...]  # of its own that its layouts name and it does not make, so that no FLOPs count them

    @property
    def flops(self) -> int:
        """Of the whole answer."""
        return self.flops_prefill + self.flops_decode

    def record(self, reference: Price) -> Record:
        """As plain data, with the ratios to `reference`."""
        ratios = {"ratio": self.flops / reference.flops, "train_ratio": self.flops_train / reference.flops_train}
        return dataclasses.asdict(self) | {"flops": self.flops, "modules": list(self.modules)} | ratios


# One method
def price(method: Method, shape: Shape, lengths: Lengths, *, bytes_per_number: int = 2, label: str = "") -> Price:
    """What `method` costs on an example of these lengths; `shape.rank` > 0 = LoRA, otherwise everything trains.

    Raises:
        UsageError: a method that refuses such an example, or whose layouts do not say what it generates.
    """
    example, trains, shape = lengths.example(), trains_of(method, shape), shape_of(method, shape)
    try:
        question = asked_tokens(method, example)
        prompt = method.lay_prompt(question)
        generated, before = generation(method, prompt, example)
        train = 0 if method.trains == "nothing" else curriculum_flops(method, shape, trains, example)
    except ValueError as error:  # a tree that is none, a field that does not fit
        raise UsageError(f"{method.name} has no layout for this example: {error}") from error
    return Price(
        method=label or method.name,
        settings=method.settings(),
        prompt_positions=prompt.size,
        latent_positions=prompt.size - len(question),
        generated_tokens=generated,
        passes_to_answer=prompt.passes + before,
        passes=prompt.passes + generated - 1,
        flops_prefill=flops_module.prefill_flops(shape, prompt),
        flops_decode=flops_module.decode_flops(shape, prompt, generated),
        kv_bytes=flops_module.kv_bytes(shape, prompt, generated, bytes_per_number),
        depth=prompt.along(prompt.resume[0]).size + generated - 1,
        flops_train=train,
        modules=tuple(sorted({s.bridge for s in prompt.segments if s.bridge} - dict(shape.bridges).keys())),
    )


def asked_tokens(method: Method, example: Encoded) -> tuple[int, ...]:
    """The question as a method's prompt takes it, behind the examples that it shows, each as long as this one.

    An instruction and a chat template are not in it: how many tokens they take is the tokenizer's to say.
    """
    one = len(example.question) + len(example.answer) + (len(example.chain) if method.writes_steps else 0)
    return tuple(range(method.shows * one + len(example.question)))


def shape_of(method: Method, shape: Shape) -> Shape:
    """The shape at which a method runs: with its own modules before latent slots, and a rank that it has to match.

    A method that trains nothing has no adapter.

    Torch is loaded for a method that has such modules, and for no other.
    """
    if method.trains == "nothing":
        shape = dataclasses.replace(shape, rank=0)
    if (bridges := bridges_of(method, shape.width)) is not None:
        macs = tuple((name, flops_module.bridge_macs(name, bridge)) for name, bridge in bridges.items())
        shape = dataclasses.replace(shape, bridges=macs)
    return matched_shape(shape, method)


def trains_of(method: Method, shape: Shape) -> Trains:
    """What of the model trains: LoRA where the shape has a rank, else everything; or the method's new rows alone."""
    if method.trains == "markers":
        return training_flops.ROWS
    if shape.rank:
        return Trains(matrices=False, head=False, inputs=bool(method.markers()))
    return training_flops.FULL


def generation(method: Method, prompt: Layout, example: Encoded) -> tuple[int, int]:
    """How many tokens are generated behind the prompt, and how many of them before the answer's first one.

    Read off the end of the last stage: of the paths that train the answer, the one that follows the prompt furthest
    (then the one with the most labels); its labelled tokens behind the part that it shares with the prompt.
    `example` has no token twice (`Lengths.example`).

    Raises:
        UsageError: not one place to resume from, or no path that trains the answer.
    """
    if method.trains == "nothing":  # as long as the task's own steps and answer
        chain = len(example.chain) if method.writes_steps else 0
        return chain + len(example.answer), chain
    if len(prompt.resume) != 1:
        raise UsageError(f"{method.name} resumes from {len(prompt.resume)} segments of its prompt: one can be priced")
    fed = prompt.along(prompt.resume[0]).tokens
    last = stages_of(method)[-1]
    tree = method.lay_train(example, last, END, random.Random(0))
    answer = frozenset(example.answer)
    best: tuple[int, int, int] | None = None
    for leaf in tree.leaves():
        path = tree.along(leaf)
        pairs = zip(fed, path.tokens, strict=False)  # the beginning that two paths share
        shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(fed), len(path.tokens)))
        behind = [label.target for label in path.labels if label.column >= shared]
        at = next((i for i, token in enumerate(behind) if token in answer), None)
        if at is not None:
            best = max(best or (-1, 0, 0), (shared, len(behind), at))
    if best is None:
        raise UsageError(
            f"the last stage of {method.name} ({last.name!r}) does not train the answer: what it generates is unknown"
        )
    return best[1], best[2]


def curriculum_flops(method: Method, shape: Shape, trains: Trains, example: Encoded) -> int:
    """Forward and backward FLOPs of one training example, mean over all stages by their shares."""
    stages, total = stages_of(method), 0.0
    for stage in stages:
        costs = [training_flops.training_cost(shape, trains, row) for row in training_layouts(method, stage, example)]
        total += stage.share * (sum(costs) / MOMENTS)
    return round(total / sum(s.share for s in stages))


def training_layouts(method: Method, stage: Stage, example: Encoded) -> list[Layout]:
    """A stage's layouts of one example at `MOMENTS` points of its progress."""
    rng = random.Random(0)
    return [method.lay_train(example, stage, (k + 0.5) / MOMENTS, rng) for k in range(MOMENTS)]


def stages_of(method: Method) -> list[Stage]:
    """The stages that a run goes through. Raises UsageError where there is none."""
    stages = [s for s in method.stages() if s.share > 0]
    if not stages:
        raise UsageError(
            f"{method.name} has no training stage with a share of the budget: what it generates is read off the last "
            "one"
        )
    return stages


# A list of them
@dataclass(frozen=True, slots=True)
class PriceList:
    """Prices of several methods on one model and one example; `reference` is what ratios are ratios to."""

    model: str
    shape: Shape
    positions: int | None  # that the model has, where its configuration says so
    lengths: Lengths
    kv_dtype: str  # number type of the KV cache
    prices: tuple[Price, ...]
    reference: Price

    def records(self) -> list[Record]:
        """One per method, with the model and the lengths."""
        lengths = {f"{k}_tokens": v for k, v in dataclasses.asdict(self.lengths).items() if k != "steps"}
        base: Record = {"model": self.model} | lengths | {"chain_steps": self.lengths.steps, "kv_dtype": self.kv_dtype}
        return [base | p.record(self.reference) for p in self.prices]

    def data(self) -> Record:
        """All of it as plain data."""
        return {
            "schema": 1,
            "shape": dataclasses.asdict(self.shape),
            "reference": self.reference.method,
            "prices": self.records(),
        }

    def table(self) -> Table:
        """As text."""
        lengths = self.lengths
        title = f"{lengths.question:,} question, {lengths.chain:,} chain and {lengths.answer:,} answer tokens"
        columns = tuple(k for k in self.records()[0] if k not in ("settings", "modules"))
        records = tuple({k: r[k] for k in columns} for r in self.records())
        first = self.reference
        answer = [
            (
                p.method,
                f"{p.flops / first.flops:.2f}",
                *map(format_flops, (p.flops, p.flops_prefill, p.flops_decode)),
                f"{p.passes_to_answer:,}",
                f"{p.passes:,}",
                format_bytes(p.kv_bytes),
            )
            for p in self.prices
        ]
        tokens = [
            (
                p.method,
                *(f"{n:,}" for n in (p.prompt_positions, p.latent_positions, p.generated_tokens)),
                format_flops(p.flops_train),
                f"{p.flops_train / first.flops_train:.2f}",
            )
            for p in self.prices
        ]
        times = f"× {first.method}"
        names = ("method", times, "FLOPs", "prefill", "decode", "passes to answer", "passes in all", "KV cache")
        others = (
            "method",
            "prompt positions",
            "latent positions",
            "tokens generated",
            "FLOPs of a training example",
            times,
        )
        panels = (
            Panel("Answering one question", names, tuple(answer)),
            Panel("What is computed for it, and training", others, tuple(tokens)),
        )
        section = Section(title, panels, self.notes)
        return Table(f"What methods cost on {self.model}", False, (section,), records, columns)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the numbers count."""
        s = self.shape
        lora = f", unmerged LoRA of rank {s.rank}" if s.rank else ""
        notes = [
            f"Shape: {s.layers} layers of {s.width}, {s.heads} heads of {s.head_dim} ({s.kv_heads} for keys and "
            f"values), feed-forward {s.ffn}, vocabulary {s.vocabulary:,}{lora}. KV cache: {self.kv_dtype}, at the end "
            "of the answer.",
            "FLOPs: matrix products over visible keys, 1 multiply-accumulate = 2; the head where logits are needed. "
            "Passes: dependent forward passes until the answer's first and last token (stored evaluations count to the "
            "first one behind ####).",
            f"Training: forward and backward, {'LoRA' if s.rank else 'all weights'}, mean over a method's whole "
            f"curriculum, on a chain of {min(self.lengths.steps, self.lengths.chain)} steps.",
        ]
        if bare := [p.method for p in self.prices if not p.flops_train]:
            notes.append(
                f"{', '.join(bare)}: nothing is trained. Priced without the tokens of an instruction and of a chat "
                "template, with an answer as long as the task's own, and without LoRA."
            )
        notes += [
            f"{p.method}: its own modules ({', '.join(p.modules)}) are not counted." for p in self.prices if p.modules
        ]
        if self.positions is not None:
            deep = [p.method for p in self.prices if p.depth > self.positions]
            notes += (
                [f"{', '.join(deep)}: more positions than the {self.positions:,} that the model has."] if deep else []
            )
        return tuple(notes)


def price_list(
    methods: Sequence[str],
    model: str,
    lengths: Lengths,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    kv_dtype: str = "bfloat16",
    rank: int = 0,
) -> PriceList:
    """Prices of methods (names or .py files) on a model (see `catalog.configuration`).

    `settings`: method -> field -> value. `rank`: of LoRA matrices, left unmerged and alone in training; 0 = none.

    Raises:
        UsageError: unknown names, settings that do not fit, an architecture without a registered shape, lengths that a
            method refuses.
    """
    if kv_dtype not in BYTES:
        raise unknown("number type of a KV cache", kv_dtype, BYTES)
    check_count("--lora-rank", rank, 0, MOST_TOKENS)
    chosen = chosen_methods(methods, settings or {})  # first: a method's file may register the model's shape
    config = configuration(model)
    shape = Shape.of(config, rank)
    size = BYTES[kv_dtype]
    for own in (m for m, _ in chosen if is_own(type(m))):
        Checked(own).check_layouts([lengths.example()])
    prices = tuple(price(m, shape, lengths, bytes_per_number=size, label=label) for m, label in chosen)
    listed = next((p for p, (m, _) in zip(prices, chosen, strict=True) if m.name == REFERENCE), None)
    reference = listed or price(load_method(REFERENCE), shape, lengths, bytes_per_number=size)
    positions = config.get("n_positions") or config.get("max_position_embeddings")
    return PriceList(
        model, shape, positions if isinstance(positions, int) else None, lengths, kv_dtype, prices, reference
    )


def chosen_methods(names: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> list[tuple[Method, str]]:
    """The methods with their settings, and how each is called: its name and what was set."""
    if not names:
        raise UsageError("no method was given: name at least one, see `rim-bench list methods`")
    out: list[tuple[Method, str]] = []
    for name in names:
        base = load_method(name)
        changed = settings.get(base.name, {})
        method = load_method(name, changed)
        out.append((method, " ".join([method.name, *(f"{k}={getattr(method, k)}" for k in sorted(changed))])))
    chosen = [method.name for method, _ in out]
    if twice := sorted({n for n in chosen if chosen.count(n) > 1}):
        raise UsageError(f"method {', '.join(twice)} was given twice")
    for name in settings:
        if name not in chosen:
            raise UsageError(f"--set {name}.…: method {name!r} is not among the methods given ({', '.join(chosen)})")
    return out
