"""One measurement from what is asked to its record."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rim_bench.bench.arms import Bench
from rim_bench.bench.measurements import (
    BATCH,
    PUBLISHED_STEPS,
    REFERENCE,
    STEPS,
    TOKENS,
    answer_lines,
    answer_session,
    first_lines,
    first_session,
    train_lines,
    train_session,
)
from rim_bench.bench.memory import REFERENCE as MEMORY_REFERENCE
from rim_bench.bench.memory import memory_lines
from rim_bench.bench.overhead import overhead_lines
from rim_bench.bench.record import Line, Measured, record
from rim_bench.bench.scaling import parse_values, scaling
from rim_bench.bench.session import Session, Watch, check_rounds
from rim_bench.bench.targets import parse_only, targets
from rim_bench.engine.devices import pick_device
from rim_bench.engine.pretrained import quiet
from rim_bench.runs.options import Options
from rim_bench.util.errors import UsageError, unknown
from rim_bench.util.files import Record

EMBEDDED_TOKENS = 16  # generated on a generated task: its models have few positions


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of one measurement."""

    kind: str  # see `cli_bench.KINDS`
    options: Options
    rounds: int = 5
    against: tuple[str, ...] = ()
    size: tuple[int, int, int] | None = None  # layers, width, heads
    tokens: int | None = None
    vary: str | None = None
    values: str | None = None  # of what is varied
    only: str | None = None


def measure(request: Request, show: Callable[[str], None] = lambda _: None) -> Record:
    """The record of one measurement (`lines.FIELDS` documents it). Nothing is written.

    Raises:
        UsageError: fewer than one round or generated token, or anything in the request that does not fit.
    """
    check_rounds(request.rounds)
    if request.tokens is not None and request.tokens < 1:
        raise UsageError(f"--tokens {request.tokens} must be at least 1")
    device = pick_device(request.options.device)
    watch, began = Watch(device), time.perf_counter()
    with quiet():
        found = _measured(request, show)
    return record(request.kind, request.rounds, found, watch.finish(found.cpu_share), time.perf_counter() - began)


def _measured(request: Request, show: Callable[[str], None]) -> Measured:
    options, rounds = request.options, request.rounds
    if request.kind == "overhead":
        return Measured(tuple(overhead_lines(rounds)))
    if request.kind == "targets":
        return targets(options, rounds, parse_only(request.only), show)
    if request.kind == "scaling":
        vary = str(request.vary)
        return scaling(options, vary, parse_values(request.values, vary), rounds, show)
    if request.kind == "memory":
        bench = Bench(_with(options, MEMORY_REFERENCE), request.size)
        lines = memory_lines(bench.options, bench.asked(options), rounds, request.against)
        return Measured(tuple(lines), setting=bench.setting())
    if request.kind == "ttft":
        bench = Bench(_with(options, REFERENCE), request.size)
        names = bench.asked(options)
        session = first_session(bench, names, rounds)
        return _told(bench, first_lines(session, names), session)
    bench = Bench(options, request.size)
    embedded = bench.study.task.metadata["source"] == "generator"
    if request.kind == "train":
        session = train_session(bench, bench.names, rounds, STEPS if embedded else PUBLISHED_STEPS, request.against)
        return _told(bench, train_lines(bench, session, bench.names, request.against), session)
    usual = EMBEDDED_TOKENS if embedded else TOKENS
    tokens, batch = usual if request.tokens is None else request.tokens, options.batch_size or BATCH
    session = answer_session(bench, bench.names, rounds, request.against, batch=batch, tokens=tokens)
    return _told(bench, answer_lines(bench, session, bench.names, request.against), session)


def _with(options: Options, reference: str) -> Options:
    """With the method that the others stand beside."""
    return (
        options if reference in options.methods else dataclasses.replace(options, methods=(reference, *options.methods))
    )


def _told(bench: Bench, lines: Sequence[Line], session: Session) -> Measured:
    return Measured(tuple(lines), peak=session.peak, cpu_share=session.cpu_share, setting=bench.setting())


def parse_against(text: str | None, allowed: Sequence[str], usual: Sequence[str]) -> tuple[str, ...]:
    """`plain,hf` as names; "none" for nothing beside.

    Raises:
        UsageError: a name that this measurement does not know, or no name.
    """
    if text is None:
        return tuple(usual)
    given = tuple(t.strip() for t in text.split(",") if t.strip())
    if given == ("none",):
        return ()
    if not given:
        raise UsageError(f"--against {text!r} names nothing: give {', '.join((*allowed, 'none'))}")
    for name in given:
        if name not in allowed:
            raise unknown("comparison", name, (*allowed, "none"))
    return given


def parse_sizes(text: str | None) -> list[tuple[int, int, int] | None]:
    """`6x256x8,12x768x12` as layers, width and heads; one None where nothing is given.

    Raises:
        UsageError: another form.
    """
    if text is None:
        return [None]
    out: list[tuple[int, int, int] | None] = []
    for one in text.split(","):
        try:
            layers, width, heads = (int(n) for n in one.strip().lower().split("x"))
        except ValueError:
            raise UsageError(f"--sizes {one.strip()!r} is not LAYERSxWIDTHxHEADS, as in 6x256x8") from None
        out.append((layers, width, heads))
    return out


def use_threads(given: int | None) -> None:
    """Sets torch's threads where a number is given.

    Raises:
        UsageError: fewer than one.
    """
    if given is None:
        return
    if given < 1:
        raise UsageError(f"--threads {given} is too small: give a whole number of at least 1")
    torch.set_num_threads(given)
