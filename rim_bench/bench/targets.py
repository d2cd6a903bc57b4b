"""The table of targets: what speed is asked of this project, and what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from rim_bench.bench.arms import GPT2_ROWS, Bench
from rim_bench.bench.measurements import BATCH, TOKENS, UNCACHED, first_session, milliseconds, over_plain
from rim_bench.bench.measurements import PUBLISHED_STEPS as STEPS
from rim_bench.bench.memory import memory_lines
from rim_bench.bench.overhead import overhead_lines
from rim_bench.bench.record import Measured, Spread, Target
from rim_bench.bench.session import Session, check_rounds, interleave
from rim_bench.runs.options import Options
from rim_bench.util.errors import UsageError

METHODS = ("coconut", "cot", "direct", "rim")
LARGE, LARGE_BATCH = (12, 768, 12), 8
FEW = 3  # rounds of what takes a process, or many seconds, each time
NUMBERS = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "10")
Show = Callable[[str], None]


def parse_only(text: str | None) -> tuple[str, ...]:
    """Which rows of the table to measure: numbers separated by commas; all of them where nothing is given.

    Raises:
        UsageError: a number that is no row, or a text without numbers.
    """
    numbers = NUMBERS if text is None else tuple(t.strip() for t in text.split(",") if t.strip())
    rows = f"the targets, which are 1 to {len(NUMBERS)}, as in --only 1,4,6"
    if not numbers:
        raise UsageError(f"--only {text!r} names no row of {rows}")
    if bad := [t for t in numbers if t not in NUMBERS]:
        raise UsageError(f"--only {text!r}: {bad[0]!r} is no row of {rows}")
    return numbers


def targets(options: Options, rounds: int, only: Sequence[str] = NUMBERS, show: Show = lambda _: None) -> Measured:
    """All rows of the table, or those of `only`. `options` name the four methods; row 4b has a model of its own.

    Raises:
        UsageError: fewer than one round, or anything in the options that does not fit.
    """
    check_rounds(rounds)
    bench = Bench(options)
    rows: list[Target] = []
    sessions: list[Session] = []
    if {"1", "2", "3", "4", "5"} & set(only):
        show("training: coconut, cot, direct, rim and the plain loops")
        sessions.append(session := train(bench, rounds))
        rows += train_rows(bench, session)
    if "4" in only:
        show("training: cot at 124 M parameters")
        rows.append(large_row(options, min(rounds, FEW)))
    if {"6", "7"} & set(only):
        show("answering: cot beside generate, coconut beside the uncached loop")
        sessions.append(session := answer(bench, rounds))
        what = f"{TOKENS} tokens, batch {BATCH}, examples/s"
        beside = "HF generate, same model and batch"
        rows.append(rate_row("6", f"evaluating cot, {what}", beside, session, "cot: answer", "cot: generate", 1.5))
        jobs = ("coconut: answer", "coconut: uncached")
        beside = "one question at a time without a cache"
        rows.append(rate_row("7", f"evaluating coconut, {what}", beside, session, *jobs, 20.0))
    if "8" in only:
        show("time to the first token: rim and direct")
        sessions.append(session := first_session(bench, ("rim",), 2 * rounds))
        rows += first_token_rows(session, bench.device.type == "cuda")
    if "9" in only:
        show("memory: coconut and cot, a process each")
        lines = {line.what: line for line in memory_lines(options, ("coconut",), min(rounds, FEW))}
        detail = ", ".join(f"{name} {lines[name].ours.median / 1e9:.2f} GB" for name in ("coconut", "cot"))
        ratio, what = lines["coconut"].ratio, "memory of training coconut, peak over before"
        assert ratio is not None
        rows.append(Target("9", what, "training cot", ratio, 1.3, "at most", detail=detail))
    if "10" in only:
        show("overhead: processes")
        (line,) = overhead_lines(min(rounds, FEW))
        assert line.ratio is not None and line.theirs is not None
        detail = f"{line.ours.median:.1f} s; {line.against} {line.theirs.median:.1f} s"
        detail += f"; ratio of CPU seconds {line.more['cpu_ratio'].median:.2f}"
        what, beside = "`rim-bench run` on nothing to train", "bare imports of its libraries"
        rows.append(Target("10", what, beside, line.ratio, 1.2, "at most", detail=detail))
    kept = tuple(r for r in rows if r.number.rstrip("ab") in only)
    peak = Spread(tuple(v for s in sessions for v in s.peak.values)) if sessions else None
    share = min((s.cpu_share for s in sessions if s.cpu_share is not None), default=None)
    return Measured(targets=kept, peak=peak, cpu_share=share, setting=bench.setting())


def rate_row(
    number: str,
    what: str,
    against: str,
    session: Session,
    ours: str,
    theirs: str,
    required: float,
    key: str = "examples",
) -> Target:
    """A row on how much faster our job counts `key` than theirs."""
    ratio = session.rate(ours, key) / session.rate(theirs, key)
    return Target(number, what, against, ratio, required, "at least", detail=medians(session, ours, theirs))


def medians(session: Session, *jobs: str) -> str:
    """Median examples/s of each job, for people."""
    return ", ".join(f"{job} {session.rate(job).median:.3g}/s" for job in jobs)


def train(bench: Bench, rounds: int) -> Session:
    """What is compared stands side by side: coconut with cot, each with its plain loop, rim with direct."""
    coconut, cot, direct, rim = (bench.arm(name) for name in METHODS)
    jobs = [coconut.train(STEPS), cot.train(STEPS), cot.train_plain(STEPS)]
    jobs += [direct.train_plain(STEPS), direct.train(STEPS), rim.train(STEPS)]
    return interleave(jobs, rounds, bench.device)


def train_rows(bench: Bench, session: Session) -> list[Target]:
    """Rows 1 to 5, without 4b."""
    cot, plain = "cot: train", "plain loop, random batches"
    rows = [
        rate_row("1a", "training cot, examples/s", plain, session, cot, "cot: plain", 1.5),
        rate_row("1b", "training direct, examples/s", plain, session, "direct: train", "direct: plain", 1.5),
        rate_row("2", "training coconut, last stage, examples/s", "training cot", session, "coconut: train", cot, 0.8),
        rate_row(
            "3",
            "training rim, refinement, executed FLOPs/s",
            "training direct",
            session,
            "rim: train",
            "direct: train",
            0.85,
            "flops_executed",
        ),
    ]
    detail = (
        f"{bench.arm('cot').backbone.count() / 1e6:.1f} M parameters; peak {session.peak.median / 1e9:.0f} GFLOP/s; "
        f"without padding {100 * session.use(cot, 'flops').median:.0f} %"
    )
    rows.append(use_row("4a", session, 0.45, detail))
    detail = f"random batches of the plain loop {100 * session.padding('cot: plain').median:.0f} %; by method "
    detail += ", ".join(f"{name} {100 * session.padding(f'{name}: train').median:.1f} %" for name in METHODS)
    what, beside = "padding in training cot", "all executed positions"
    share = session.padding(cot)
    return [*rows, Target("5", what, beside, share, 0.10, "at most", unit="share", detail=detail)]


def use_row(number: str, session: Session, required: float, detail: str) -> Target:
    """A row on the use of the matrix peak in training cot."""
    what, beside = "training cot, executed FLOPs/s", "matrix peak of the same round"
    use = session.use("cot: train", "flops_executed")
    return Target(number, what, beside, use, required, "at least", unit="share", detail=detail)


def large_row(options: Options, rounds: int) -> Target:
    """Row 4b: GPT-2's own shape, its rows of the embedding table included; the tokenizer is the small one."""
    changed = dataclasses.replace(options, methods=("cot",), settings={}, batch_size=LARGE_BATCH)
    bench = Bench(changed, LARGE, GPT2_ROWS)
    session = interleave([bench.arm("cot").train(1)], rounds, bench.device)
    detail = (
        f"{bench.arm('cot').backbone.count() / 1e6:.1f} M parameters, batch {LARGE_BATCH}; "
        f"{medians(session, 'cot: train')}; peak {session.peak.median / 1e9:.0f} GFLOP/s"
    )
    return use_row("4b", session, 0.7, detail)


def answer(bench: Bench, rounds: int) -> Session:
    """Each job of rows 6 and 7 beside its rival."""
    cot, coconut = bench.arm("cot"), bench.arm("coconut")
    jobs = [cot.answer(BATCH, TOKENS), cot.answer_hf(BATCH, TOKENS), coconut.answer(BATCH, TOKENS)]
    return interleave([*jobs, coconut.answer_uncached(UNCACHED, TOKENS, BATCH)], rounds, bench.device)


def first_token_rows(session: Session, cuda: bool) -> list[Target]:
    """Row 8, on a GPU in two halves."""
    over = session.seconds("rim: first token") / session.seconds("direct: first token")
    each = ", ".join(f"{n} {milliseconds(session, f'{n}: first token').median:.1f} ms" for n in ("rim", "direct"))
    detail = f"{each}; rim over direct {over.median:.2f}"
    what, beside = "time to the first token of rim, batch 1, over direct's", "ratio of plain forwards of these lengths"
    plain = over_plain(session, "rim")
    rows = [Target("8a" if cuda else "8", what, beside, plain, 1.05, "at most", detail=detail)]
    if cuda:
        rows.append(Target("8b", what, "direct itself, on a GPU", over, 1.05, "at most", detail=detail))
    return rows
