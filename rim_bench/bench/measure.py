"""One measurement from what is asked to its record."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rim_bench.bench import measurements as speed
from rim_bench.bench import memory
from rim_bench.bench.arms import Bench
from rim_bench.bench.overhead import overhead_lines
from rim_bench.bench.pretrained import pretrained
from rim_bench.bench.record import Measured, record
from rim_bench.bench.scaling import parse_values, scaling
from rim_bench.bench.session import Watch, check_rounds
from rim_bench.bench.targets import parse_only, targets
from rim_bench.engine.devices import pick_device
from rim_bench.engine.precision import BFLOAT16
from rim_bench.engine.pretrained import quiet
from rim_bench.runs.options import Options
from rim_bench.util.errors import UsageError, check_count, unknown
from rim_bench.util.files import Record

MOST_TOKENS = 1_000_000  # generated for a question
EMBEDDED_TOKENS = 16  # generated on a generated task: its models have few positions


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of one measurement."""

    kind: str  # see `rim_bench.cli.bench.KINDS`
    options: Options
    rounds: int = 5
    against: tuple[str, ...] = ()
    size: tuple[int, int, int] | None = None  # layers, width, heads
    tokens: int | None = None
    vary: str | None = None
    values: str | None = None  # of what is varied
    only: str | None = None

    def run(self, show: Callable[[str], None]) -> Measured:
        """What is measured; `show` gets a line about what is being done."""
        kind, options, rounds, against = self.kind, self.options, self.rounds, self.against
        if kind == "overhead":
            return Measured(tuple(overhead_lines(rounds)))
        if kind == "pretrained":
            return pretrained(options, rounds, speed.BATCH, self.tokens, show)
        if kind == "targets":
            return targets(options, rounds, parse_only(self.only), show)
        if kind == "scaling":
            vary = str(self.vary)
            return scaling(options, vary, parse_values(self.values, vary), rounds, show)
        reference = {"memory": memory.REFERENCE, "ttft": speed.REFERENCE}.get(kind)  # what the others stand beside
        methods = options.methods
        if reference is not None and reference not in methods:
            options = dataclasses.replace(options, methods=(reference, *methods))
        bench = Bench(options, self.size)
        names = [bench.study.method(name).name for name in methods]
        if kind == "memory":
            lines = memory.memory_lines(bench.options, names, rounds, against)
            return Measured(tuple(lines), setting=bench.setting())
        embedded = bench.study.task.metadata["source"] == "generator"
        if kind == "ttft":
            session = speed.first_session(bench, names, rounds)
            lines = speed.first_lines(session, names)
        elif kind == "train":
            steps = speed.STEPS if embedded else speed.PUBLISHED_STEPS
            session = speed.train_session(bench, bench.names, rounds, steps, against)
            lines = speed.train_lines(bench, session, bench.names, against)
        else:
            tokens, batch = self.tokens or (EMBEDDED_TOKENS if embedded else speed.TOKENS), options.batch_size
            session = speed.answer_session(
                bench, bench.names, rounds, against, batch=batch or speed.BATCH, tokens=tokens
            )
            lines = speed.answer_lines(session, bench.names, against)
        return Measured(tuple(lines), peak=session.peak, cpu_share=session.cpu_share, setting=bench.setting())


def measure(request: Request, show: Callable[[str], None] = lambda _: None) -> Record:
    """The record of one measurement (`record.FIELDS` documents it). Nothing is written.

    Raises:
        UsageError: fewer than one round or generated token, or anything in the request that does not fit.
    """
    check_rounds(request.rounds)
    check_count("--tokens", request.tokens, most=MOST_TOKENS)
    dtype = BFLOAT16 if request.kind == "pretrained" else None
    watch, began = Watch(pick_device(request.options.device), dtype), time.perf_counter()
    with quiet():
        measured = request.run(show)
    machine = watch.finish(measured.cpu_share)
    return record(request.kind, request.rounds, measured, machine, time.perf_counter() - began)


def parse_against(text: str | None, allowed: Sequence[str], usual: Sequence[str]) -> tuple[str, ...]:
    """`plain,hf` as names; "none" for nothing beside.

    Raises:
        UsageError: a name that this measurement does not know, or no name.
    """
    if text is None:
        return tuple(usual)
    names = tuple(t.strip() for t in text.split(",") if t.strip())
    if names == ("none",):
        return ()
    if not names:
        raise UsageError(f"--against {text!r} names nothing: give {', '.join((*allowed, 'none'))}")
    for name in names:
        if name not in allowed:
            raise unknown("comparison", name, (*allowed, "none"))
    return names


def parse_sizes(text: str | None) -> list[tuple[int, int, int] | None]:
    """`6x256x8,12x768x12` as layers, width and heads; one None where nothing is given.

    Raises:
        UsageError: another form.
    """
    if text is None:
        return [None]
    out: list[tuple[int, int, int] | None] = []
    for part in text.split(","):
        try:
            layers, width, heads = (int(n) for n in part.strip().lower().split("x"))
        except ValueError:
            raise UsageError(f"--sizes {part.strip()!r} is not LAYERSxWIDTHxHEADS, as in 6x256x8") from None
        out.append((layers, width, heads))
    return out


def use_threads(number: int | None) -> None:
    """Sets torch's threads where a number is given.

    Raises:
        UsageError: fewer than one.
    """
    check_count("--threads", number, most=1024)
    if number is not None:
        torch.set_num_threads(number)
