"""The table of targets: what speed is asked of this project, and what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from rim_bench.bench.arms import GPT2_ROWS, Bench
from rim_bench.bench.measurements import BATCH, TOKENS, UNCACHED, first_session, milliseconds, over_plain, padding
from rim_bench.bench.measurements import PUBLISHED_STEPS as STEPS
from rim_bench.bench.memory import memory_lines
from rim_bench.bench.overhead import overhead_lines
from rim_bench.bench.record import Measured, Target
from rim_bench.bench.session import Session, Spread, check_rounds, interleave
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
    given = NUMBERS if text is None else tuple(t.strip() for t in text.split(",") if t.strip())
    if not given:
        raise UsageError(
            f"--only {text!r} names no row of the targets, which are 1 to {len(NUMBERS)}, as in --only 1,4,6"
        )
    if bad := [t for t in given if t not in NUMBERS]:
        raise UsageError(
            f"--only {text!r}: {bad[0]!r} is no row of the targets, which are 1 to {len(NUMBERS)}, as in --only 1,4,6"
        )
    return given


def targets(options: Options, rounds: int, only: Sequence[str] = NUMBERS, show: Show = lambda _: None) -> Measured:
    """All rows of the table, or those of `only`. `options` name the four methods; the model of row 4's second half is
    its own.

    Raises:
        UsageError: fewer than one round, or anything in the options that does not fit.
    """
    check_rounds(rounds)
    bench = Bench(options)
    rows: list[Target] = []
    sessions: list[Session] = []
    if {"1", "2", "3", "4", "5"} & set(only):
        show("training: coconut, cot, direct, rim and the plain loops")
        session = _train(bench, rounds)
        sessions.append(session)
        rows += [*_one(session), _two(session), _three(session), _four(bench, session), _five(session)]
    if "4" in only:
        show("training: cot at 124 M parameters")
        rows.append(_four_large(options, min(rounds, FEW)))
    if {"6", "7"} & set(only):
        show("answering: cot beside generate, coconut beside the uncached loop")
        sessions.append(session := _answer(bench, rounds))
        rows += [_six(session), _seven(session)]
    if "8" in only:
        show("time to the first token: rim and direct")
        sessions.append(session := first_session(bench, ("rim",), 2 * rounds))
        rows += _eight(session, bench.device.type == "cuda")
    if "9" in only:
        show("memory: coconut and cot, a process each")
        rows.append(_nine(options, min(rounds, FEW)))
    if "10" in only:
        show("overhead: processes")
        rows.append(_ten(min(rounds, FEW)))
    kept = tuple(r for r in rows if r.number.rstrip("ab") in only)
    peak = Spread(tuple(v for s in sessions for v in s.peak.values)) if sessions else None
    share = min((s.cpu_share for s in sessions if s.cpu_share is not None), default=None)
    return Measured(targets=kept, peak=peak, cpu_share=share, setting=bench.setting())


def _train(bench: Bench, rounds: int) -> Session:
    """What is compared stands side by side: coconut with cot, each with its plain loop, rim with direct."""
    coconut, cot, direct, rim = (bench.arm(name) for name in METHODS)
    jobs = [
        coconut.train(STEPS),
        cot.train(STEPS),
        cot.train_plain(STEPS),
        direct.train_plain(STEPS),
        direct.train(STEPS),
        rim.train(STEPS),
    ]
    return interleave(jobs, rounds, bench.device)


def _rates(session: Session, *jobs: str) -> str:
    """Medians in examples/s, for people."""
    return ", ".join(f"{job} {session.rate(job, 'examples').median:.3g}/s" for job in jobs)


def _one(session: Session) -> list[Target]:
    out = []
    for letter, name in zip("ab", ("cot", "direct"), strict=True):
        ours, theirs = f"{name}: train", f"{name}: plain"
        ratio = session.rate(ours, "examples") / session.rate(theirs, "examples")
        what = f"training {name}, examples/s"
        out.append(
            Target(
                f"1{letter}",
                what,
                "plain loop, random batches",
                ratio,
                1.5,
                "at least",
                detail=_rates(session, ours, theirs),
            )
        )
    return out


def _two(session: Session) -> Target:
    ours, cot = "coconut: train", "cot: train"
    ratio = session.rate(ours, "examples") / session.rate(cot, "examples")
    return Target(
        "2",
        "training coconut, last stage, examples/s",
        "training cot",
        ratio,
        0.8,
        "at least",
        detail=_rates(session, ours, cot),
    )


def _three(session: Session) -> Target:
    ours, direct = "rim: train", "direct: train"
    ratio = session.rate(ours, "flops_executed") / session.rate(direct, "flops_executed")
    what = "training rim, refinement, executed FLOPs/s"
    return Target("3", what, "training direct", ratio, 0.85, "at least", detail=_rates(session, ours, direct))


def _four(bench: Bench, session: Session) -> Target:
    job = "cot: train"
    detail = (
        f"{bench.arm('cot').backbone.count() / 1e6:.1f} M parameters; peak {session.peak.median / 1e9:.0f} GFLOP/s; "
    )
    detail += f"without padding {100 * session.use(job, 'flops').median:.0f} %"
    what, use = "training cot, executed FLOPs/s", session.use(job, "flops_executed")
    return Target("4a", what, "matrix peak of the same round", use, 0.45, "at least", "share", detail)


def _four_large(options: Options, rounds: int) -> Target:
    """GPT-2's own shape, its rows of the embedding table included; the text's tokens are those of the small
    tokenizer.
    """
    changed = dataclasses.replace(options, methods=("cot",), settings={}, batch_size=LARGE_BATCH)
    bench = Bench(changed, LARGE, GPT2_ROWS)
    session = interleave([bench.arm("cot").train(1)], rounds, bench.device)
    parameters = bench.arm("cot").backbone.count() / 1e6
    detail = (
        f"{parameters:.1f} M parameters, batch {LARGE_BATCH}; {_rates(session, 'cot: train')}; peak "
        f"{session.peak.median / 1e9:.0f} GFLOP/s"
    )
    use = session.use("cot: train", "flops_executed")
    return Target(
        "4b", "training cot, executed FLOPs/s", "matrix peak of the same round", use, 0.7, "at least", "share", detail
    )


def _five(session: Session) -> Target:
    detail = f"random batches of the plain loop {100 * padding(session, 'cot: plain').median:.0f} %; by method "
    detail += ", ".join(f"{name} {100 * padding(session, f'{name}: train').median:.1f} %" for name in METHODS)
    share = padding(session, "cot: train")
    return Target("5", "padding in training cot", "all executed positions", share, 0.10, "at most", "share", detail)


def _answer(bench: Bench, rounds: int) -> Session:
    cot, coconut = bench.arm("cot"), bench.arm("coconut")
    jobs = [
        cot.answer(BATCH, TOKENS),
        cot.answer_hf(BATCH, TOKENS),
        coconut.answer(BATCH, TOKENS),
        coconut.answer_uncached(UNCACHED, TOKENS, BATCH),
    ]
    return interleave(jobs, rounds, bench.device)


def _six(session: Session) -> Target:
    ours, theirs = "cot: answer", "cot: generate"
    ratio = session.rate(ours, "examples") / session.rate(theirs, "examples")
    what = f"evaluating cot, {TOKENS} tokens, batch {BATCH}, examples/s"
    return Target(
        "6", what, "HF generate, same model and batch", ratio, 1.5, "at least", detail=_rates(session, ours, theirs)
    )


def _seven(session: Session) -> Target:
    ours, theirs = "coconut: answer", "coconut: uncached"
    ratio = session.rate(ours, "examples") / session.rate(theirs, "examples")
    what = f"evaluating coconut, {TOKENS} tokens, batch {BATCH}, examples/s"
    return Target(
        "7",
        what,
        "one question at a time without a cache",
        ratio,
        20.0,
        "at least",
        detail=_rates(session, ours, theirs),
    )


def _eight(session: Session, cuda: bool) -> list[Target]:
    over = session.seconds("rim: first token") / session.seconds("direct: first token")
    each = ", ".join(f"{n} {milliseconds(session, f'{n}: first token').median:.1f} ms" for n in ("rim", "direct"))
    detail = f"{each}; rim over direct {over.median:.2f}"
    what = "time to the first token of rim, batch 1, over direct's"
    out = [
        Target(
            "8a" if cuda else "8",
            what,
            "ratio of plain forwards of these lengths",
            over_plain(session, "rim"),
            1.05,
            "at most",
            detail=detail,
        )
    ]
    if cuda:
        out.append(Target("8b", what, "direct itself, on a GPU", over, 1.05, "at most", detail=detail))
    return out


def _nine(options: Options, rounds: int) -> Target:
    lines = {line.what: line for line in memory_lines(options, ("coconut",), rounds)}
    line = lines["coconut"]
    assert line.ratio is not None
    detail = ", ".join(f"{name} {lines[name].ours.median / 1e9:.2f} GB" for name in ("coconut", "cot"))
    return Target(
        "9", "memory of training coconut, peak over before", "training cot", line.ratio, 1.3, "at most", detail=detail
    )


def _ten(rounds: int) -> Target:
    (line,) = overhead_lines(rounds)
    assert line.ratio is not None and line.theirs is not None
    detail = f"{line.ours.median:.1f} s; {line.against} {line.theirs.median:.1f} s"
    detail += f"; ratio of CPU seconds {line.more['cpu_ratio'].median:.2f}"
    return Target(
        "10",
        "`rim-bench run` on nothing to train",
        "bare imports of its libraries",
        line.ratio,
        1.2,
        "at most",
        detail=detail,
    )
