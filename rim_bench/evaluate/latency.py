"""How long answers take: one question at a time, and side by side in a batch. Warmed up and synchronised."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from rim_bench.engine.generate import Stop
from rim_bench.evaluate.predict import Predictor, answer_token
from rim_bench.methods.layout import Layout
from rim_bench.storage.records import LatencyRecord, ThroughputRecord, TimesRecord

TIMED = 24  # questions timed one at a time
WARM_UP = 3
ROUNDS = 3  # batches timed at the throughput batch, after one that is not; and times that a single question is timed
PATIENCE = 10.0  # seconds of timing after which no further round begins, nor another question of the first one
Question = tuple[int, ...]


def latency(
    answerer: Predictor, questions: Mapping[str, Question], limit: int, until: tuple[str, ...]
) -> LatencyRecord:
    """Time to the first answer token and to the full answer, one question at a time, in milliseconds.

    A question's time is the median over the rounds, so that a moment's other work on the machine is in no number.
    Median, 95th percentile and mean are over the questions. The first answer token is the first after `####`; where an
    answer has none, the full time stands for it. With votes both times are those of the slowest sample. Questions that
    the model has no positions for are left out; without any other, the times are null.
    """
    picked = _spread(_fitting(answerer, questions), TIMED)
    layouts = [layout for _, layout in picked]
    stop = answerer.stop(until)
    for layout in layouts[:WARM_UP]:
        _answer(answerer, [layout], limit, stop)
    rounds: list[list[tuple[float, float]]] = []
    began = time.perf_counter()
    while len(rounds) < ROUNDS and (not rounds or time.perf_counter() - began < PATIENCE):
        taken: list[tuple[float, float]] = []
        for layout in layouts:
            if not rounds and len(taken) >= WARM_UP and time.perf_counter() - began > PATIENCE:
                picked = picked[: len(taken)]  # long answers of a slow model: these few are timed
                break
            taken += _answer(answerer, [layout], limit, stop)[0]
        layouts = layouts[: len(picked)]
        rounds.append(taken)
    times = [
        (float(np.median([r[i][0] for r in rounds])), float(np.median([r[i][1] for r in rounds])))
        for i in range(len(layouts))
    ]
    questions_ms = tuple(
        (name, round(1000 * first, 3), round(1000 * full, 3))
        for (name, _), (first, full) in zip(picked, times, strict=True)
    )
    first_ms, full_ms = _milliseconds(times)
    return LatencyRecord(rounds=len(rounds), n=len(times), ttft_ms=first_ms, full_ms=full_ms, questions=questions_ms)


def throughput(
    answerer: Predictor, questions: Mapping[str, Question], limit: int, until: tuple[str, ...], batch: int
) -> ThroughputRecord:
    """The same times for questions answered `batch` together, and questions a second.

    Each question is timed until its own answer is whole. Questions of similar length share a batch, as in an
    evaluation; fewer questions than `batch` make a smaller one.
    """
    fitting = _fitting(answerer, questions)
    size = min(batch, len(fitting))
    layouts = sorted((layout for _, layout in _spread(fitting, ROUNDS * size)), key=lambda row: row.size)
    stop = answerer.stop(until)
    batches = [layouts[at : at + size] for at in range(0, len(layouts) - size + 1, size)] if size else []
    times: list[tuple[float, float]] = []
    seconds = 0.0
    began = time.perf_counter()
    for i, rows in enumerate([*batches[:1], *batches]):
        if i > 1 and time.perf_counter() - began > PATIENCE:
            batches = batches[: i - 1]
            break
        took, whole = _answer(answerer, rows, limit, stop)
        if i:
            times += took
            seconds += whole
    speed = round(len(times) / seconds, 3) if seconds else None
    first_ms, full_ms = _milliseconds(times)
    return ThroughputRecord(
        batch=size, rounds=len(batches), n=len(times), ttft_ms=first_ms, full_ms=full_ms, examples_per_s=speed
    )


def _fitting(answerer: Predictor, questions: Mapping[str, Question]) -> list[tuple[str, Layout]]:
    return [(name, layout) for name, q in questions.items() if answerer.fits(layout := answerer.prompt(q))]


def _spread(rows: Sequence[tuple[str, Layout]], n: int) -> list[tuple[str, Layout]]:
    """`n` rows, evenly spaced, or all where there are fewer."""
    return [rows[i * len(rows) // n] for i in range(n)] if len(rows) > n else list(rows)


def _answer(
    answerer: Predictor, rows: Sequence[Layout], limit: int, stop: Stop | None
) -> tuple[list[tuple[float, float]], float]:
    """Seconds to the first answer token and to the whole answer of each row, and seconds for all of them."""
    device = answerer.backbone.device
    _synchronise(device)
    began = time.perf_counter()
    done = answerer.complete(rows, limit, stop)
    _synchronise(device)
    took = time.perf_counter() - began
    times = []
    for samples in done:
        firsts = [(s, answer_token(answerer.backbone.decode, s.tokens)) for s in samples]
        full = max(s.seconds for s in samples)
        times.append((max((s.times[at] for s, at in firsts if at is not None), default=full), full))
    return times, took


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _milliseconds(times: Sequence[tuple[float, float]]) -> tuple[TimesRecord, TimesRecord]:
    """Of the first answer token and of the whole answer, over the questions."""
    if not times:
        return TimesRecord(), TimesRecord()
    ms = 1000 * np.array(times)
    median, p95, mean = np.median(ms, axis=0), np.quantile(ms, 0.95, axis=0), ms.mean(axis=0)
    first, full = (
        TimesRecord(median=round(float(median[k]), 3), p95=round(float(p95[k]), 3), mean=round(float(mean[k]), 3))
        for k in (0, 1)
    )
    return first, full
