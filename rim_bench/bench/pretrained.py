"""What is asked of a pretrained backbone with LoRA: training, answering and memory beside peft, in both number types.

The rivals are plain Hugging Face and peft, of the same weights and rank: `Trainer` with random batches, and `generate`.
On one thread of a CPU, times are the process's own CPU seconds: what others compute on the machine is in none of them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping

import torch

from rim_bench.bench.arms import Arm, Bench
from rim_bench.bench.measurements import TOKENS
from rim_bench.bench.memory import MemoryTask, measure_in_process
from rim_bench.bench.record import Line, Measured, Spread, Target
from rim_bench.bench.rivals import PeftStock
from rim_bench.bench.session import Counts, MeasuredJob, Session, interleave
from rim_bench.engine.precision import BFLOAT16, FLOAT32
from rim_bench.runs.options import Options
from rim_bench.util.errors import UsageError
from rim_bench.util.text import format_bytes

MODEL, TASK = "smollm2-135m", "gsm8k"
METHOD = "cot"
ONE_BY_ONE = 4  # questions answered at batch 1 in a round
MEMORY_BATCH, MEMORY_STEPS = 32, 2
MOST_BYTES = 3e9
Show = Callable[[str], None]


def pretrained(options: Options, rounds: int, batch: int, tokens: int | None, show: Show = lambda _: None) -> Measured:
    """The rows of the table; the backbone of `options` is pretrained and tuned with LoRA.

    Args:
        batch: questions that are answered side by side.
        tokens: generated for each question.

    Raises:
        UsageError: a backbone from scratch, or one that is tuned whole.
    """
    benches = {dtype: Bench(dataclasses.replace(options, dtype=dtype)) for dtype in (FLOAT32, BFLOAT16)}
    low = benches[BFLOAT16]
    spec = low.study.backbone
    if spec["kind"] == "scratch" or spec["tuning"] != "lora":
        raise UsageError(
            f"`bench pretrained` needs a pretrained backbone tuned with LoRA, and {spec['name']!r} is none"
        )
    clock = own_seconds(low.device)
    show("training cot in float32 and bfloat16, beside peft with Trainer")
    arms = {dtype: bench.arm(METHOD) for dtype, bench in benches.items()}
    for arm in arms.values():
        arm.stock = PeftStock(arm.backbone)
    jobs = []
    for dtype, arm in arms.items():
        ours, theirs = arm.train(1, f"{dtype}: train"), arm.train_hf(1, f"{dtype}: Trainer", timer=clock)
        jobs += [timed_by(clock, ours), theirs]
    training = interleave(jobs, rounds, low.device, BFLOAT16, clock)
    peaks = interleave([timed_by(clock, arms[FLOAT32].train(1, "float32: train"))], 1, low.device, FLOAT32, clock).peak
    show(f"answering with cot, {batch} side by side and one by one, beside generate")
    cot = arms[BFLOAT16]
    length = tokens or TOKENS
    answering = [cot.answer(batch, length), cot.answer_hf(batch, length)]
    answering += [cot.first_token(ONE_BY_ONE), cot.answer(1, length, "cot: alone")]
    answers = interleave([timed_by(clock, job) for job in answering], rounds, low.device, BFLOAT16, clock)
    show("memory of training cot")
    memory = memory_of(options, rounds)
    rows = [*training_rows(training, arms, peaks), answer_row(answers, batch, length), memory_row(memory)]
    return Measured(lines_of(answers, length), tuple(rows), training.peak, training.cpu_share, setting=low.setting())


def own_seconds(device: torch.device) -> Callable[[], float]:
    """The clock of a measurement: the process's CPU seconds where it has one thread, else the wall's."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def timed_by(clock: Callable[[], float], job: MeasuredJob) -> MeasuredJob:
    """The job, its seconds by this clock."""

    def prepare(k: int) -> Callable[[], Counts]:
        work = job.prepare(k)

        def on_clock() -> Counts:
            began = clock()
            counts = work()
            return {**counts, "seconds": clock() - began}

        return on_clock

    return MeasuredJob(job.name, prepare)


def training_rows(session: Session, arms: Mapping[str, Arm], float32_peak: Spread) -> list[Target]:
    """Rates of training cot, and the use of the matrix peak."""

    def rate(name: str, beside: str) -> Spread:
        return session.rate(name) / session.rate(beside)

    each = ", ".join(
        f"{name} {1 / session.rate(name).median:.2f} s an example"
        for name in [f"{dtype}: {job}" for dtype in arms for job in ("train", "Trainer")]
    )
    ratio = session.peak.median / float32_peak.median
    ceiling = f"matrix peak {session.peak.median / 1e9:.0f} GFLOP/s in bfloat16, {float32_peak.median / 1e9:.0f} in "
    ceiling += f"float32: {ratio:.2f} times, more than which products cannot give"
    what, rival = "training cot, examples/s", "peft with Trainer, {}"
    rows = [
        Target(
            "1",
            f"{what}, bfloat16",
            "float32",
            rate("bfloat16: train", "float32: train"),
            2.5,
            "at least",
            detail=ceiling,
        ),
        Target(
            "2",
            f"{what}, bfloat16",
            rival.format(BFLOAT16),
            rate("bfloat16: train", "bfloat16: Trainer"),
            1.3,
            "at least",
            detail=each,
        ),
        Target(
            "3", f"{what}, float32", rival.format(FLOAT32), rate("float32: train", "float32: Trainer"), 1.3, "at least"
        ),
    ]
    use = session.use("bfloat16: train", "flops_executed")
    beside = "matrix peak of bfloat16 in the same round"
    return [*rows, Target("4", "training cot, executed FLOPs/s", beside, use, 0.6, "at least", unit="share")]


def answer_row(session: Session, batch: int, tokens: int) -> Target:
    """Answering side by side."""
    ratio = session.rate("cot: answer") / session.rate("cot: generate")
    detail = ", ".join(f"{job} {session.rate(job).median:.3g} questions/s" for job in ("cot: answer", "cot: generate"))
    what = f"answering with cot, batch {batch}, {tokens} tokens, questions/s"
    return Target("5", what, "peft with generate, bfloat16", ratio, 1.5, "at least", detail=detail)


def memory_of(options: Options, rounds: int) -> Spread:
    """Resident bytes at the peak of a few steps, all of the process, in bfloat16."""
    asked = dataclasses.replace(options, dtype=BFLOAT16, batch_size=MEMORY_BATCH)
    done = [measure_in_process(asked, MemoryTask(METHOD, k, MEMORY_STEPS)) for k in range(1, min(rounds, 2) + 1)]
    return Spread(tuple(float(r["bytes"] + r["before"]) for r in done))


def memory_row(peak: Spread) -> Target:
    """Memory of training."""
    share = peak.scaled(1 / MOST_BYTES)
    detail = f"{format_bytes(peak.median)} resident, the model and all libraries in it"
    what = f"memory of training cot, batch {MEMORY_BATCH}, bfloat16"
    return Target("6", what, format_bytes(MOST_BYTES), share, 1.0, "at most", detail=detail)


def lines_of(session: Session, tokens: int) -> tuple[Line, ...]:
    """Milliseconds of one question alone, up to its first token and to its last; nothing stands beside."""
    first = session.seconds("cot: first token") / session.counted("cot: first token", "questions")
    full = session.seconds("cot: alone") / session.counted("cot: alone", "examples")
    names = ("cot, batch 1, first token", f"cot, batch 1, {tokens} tokens")
    return tuple(
        Line(name, "nothing", "ms", value.scaled(1000)) for name, value in zip(names, (first, full), strict=True)
    )
