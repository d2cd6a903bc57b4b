"""Small invented runs with inference curves, stored through the store's own interface."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rim_bench.storage.run_folder import Run, Store

FIELD = {"rim": "K", "coconut": "thoughts", "pause": "N"}
DEFAULT = {"rim": 4, "coconut": 6, "pause": 8}


def coin(p: float, n: int, seed: int) -> list[bool]:
    rng = random.Random(seed)
    return [rng.random() < p for _ in range(n)]


def item(
    k: int, correct: bool, ood: bool, flops: float, passes: float, *, slim: bool = False, overlong: bool = False
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": f"toy/test/{k}",
        "level": "T=4" if ood else "T=1",
        "ood": ood,
        "answer": (answer := str((k + (not correct)) % 10)),
        "correct": correct,
        "flexible": correct,
        "unparseable": False,
        "empty": False,
        "capped": False,
        "overlong": overlong,
        "prompt_tokens": 23,
        "generated_tokens": 2,
        "latent_positions": 0,
        "passes": passes,
        "passes_to_answer": 1,
        "flops_prefill": flops * 0.75,
        "flops_decode": flops * 0.25,
        "kv_bytes": 4096,
        "latency_s": 0.01,
    }
    if overlong:
        record |= dict.fromkeys(
            ("generated_tokens", "passes", "passes_to_answer", "flops_prefill", "flops_decode", "kv_bytes"), 0
        )
    return (
        record
        if slim
        else record
        | {"task": "toy", "reference": str(k % 10), "output": f"#### {answer}", "strict": correct, "batch_size": 64}
    )


def times(ms: float) -> dict[str, float]:
    return {"median": ms, "p95": ms * 1.5, "mean": ms}


def evaluate(
    run: Run,
    correct: Sequence[bool],
    *,
    flops: float = 1e6,
    passes: float = 2,
    ms: float = 3.0,
    knob: str | None = None,
    value: Any = None,
    key: str | None = None,
    ood: int = 0,
    overlong: int = 0,
    change: Callable[[int], Mapping[str, Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
    **summary: Any,
) -> None:
    """Stores an evaluation; the last `ood` items are OOD, the first `overlong` too long for the model. With a knob it
    is a point of a
    curve, as `rim-bench sweep` leaves it. `change` overrides fields of item k."""
    n = len(correct)
    items = [
        item(k, good, k >= n - ood, flops, passes, slim=knob is not None, overlong=k < overlong)
        for k, good in enumerate(correct)
    ]
    items = [i | dict(change(k)) for k, i in enumerate(items)] if change is not None else items
    given: dict[str, Any] = {"max_tokens": 40, "batch_size": 64, "dtype": "float32", "device": "cpu"}
    if knob == "max_tokens":
        given["max_tokens"] = value
    if knob == "votes":
        given |= {"votes": value, "temperature": 0.7, "sample_seed": 0}
    told: dict[str, Any] = {
        "schema": 1,
        "task": "toy",
        "task_title": "Toy sums",
        "task_version": 1,
        "evaluator_version": "1",
        "split": "test",
        "n": n,
        "data_sha256": "c" * 64,
        "data_source": "generated",
        "effort": value if knob in FIELD.values() else None,
        "limit": None,
        "quick": False,
        "curve": knob is not None,
        "knob": None if knob is None else {"name": knob, "value": value},
        "settings": given | dict(settings or {}),
        "seconds": 2.0,
        "examples_per_s": 500.0,
        "latency": {"batch": 1, "n": 24, "ttft_ms": times(ms / 2), "full_ms": times(ms)},
        "throughput": {
            "batch": 64,
            "rounds": 3,
            "ttft_ms": times(ms * 4),
            "full_ms": times(ms * 8),
            "examples_per_s": 900.0,
        },
        "peak_memory_bytes": 74_800_000,
        "floor": {"answer": "0", "accuracy": 0.1},
        "prompt_note": None,
    }
    run.write_evaluation(key or ("toy-test" if knob is None else f"toy-test-{knob}-{value}"), items, told | summary)


def train(
    store: Store,
    name: str,
    *,
    seed: int = 0,
    flops: float | None = 3.1e12,
    used: float | None = None,
    examples: int = 38_400,
    inherited: int = 25_600,
    trials: int | None = 8,
    spec: Mapping[str, Any] | None = None,
    older: bool = False,
) -> Run:
    """A trained run: by FLOPs (`flops`, all of it, of which it used `used`), or by examples where `flops` is None."""
    budget = {"examples": examples, "inherited_examples": inherited} if flops is None else {"train_flops": flops}
    settings = {FIELD[name]: DEFAULT[name]} if name in FIELD else {}
    record: dict[str, Any] = {
        "schema": 1,
        "role": "arm",
        "method": {"name": name, "settings": settings, "label": name},
        "backbone": {"name": "tiny", "layers": 4},
        "start": "cot",
        "parent": f"cot-{seed}",
        "task": {
            "name": "toy",
            "version": 1,
            "train_sha256": "a" * 64,
            "validation_sha256": "b" * 64,
            "steps": "equations",
        },
        "budget": budget,
        "optimizer": {"lr": 0.001},
        "seed": seed,
        "dtype": "float32",
        "quick": False,
    }
    run = store.open(record | dict(spec or {}))
    training: dict[str, Any] = {
        "steps": 40,
        "examples": examples,
        "inherited_examples": inherited,
        "seconds": 90.0,
        "examples_per_s": 426.7,
    }
    if not older:
        total = float((used or flops) if flops is not None else 2e12)
        told = {"kind": "train-flops", "asked": flops, "used": total, "last_step": 1e9}
        if flops is None:
            told = {"kind": "examples", "asked": examples + inherited, "used": examples + inherited, "last_step": 32}
        training |= {
            "flops": total - 1e12,
            "inherited_flops": 1e12,
            "flops_executed": 1.5 * total,
            "flops_padding": 0.1 * total,
            "budget": told,
            "tuning_trials": trials,
        }
    run.finish(lambda folder: (folder / "weights").write_bytes(b"w") and None, training)
    return run


def study(
    store: Store,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    n: int = 300,
    ood: int = 100,
    budgets: Sequence[float | None] = (3.1e12, None),
) -> list[Run]:
    """Five methods, each swept, under every budget: a small likeness of a real study."""
    base = {  # FLOPs, passes, milliseconds, accuracy
        "direct": (1.5e7, 3, 3.0, 0.6), "pause": (2e7, 3, 4.2, 0.6), "cot": (2.1e7, 12.6, 11, 0.97),
        "coconut": (1.8e7, 6, 6.4, 0.5), "rim": (2.5e7, 3, 3.5, 0.55),
    }  # fmt: skip
    runs = []
    for budget in budgets:
        for name, (flops, passes, ms, p) in base.items():
            for seed in seeds:
                run = train(
                    store, name, seed=seed, flops=budget, used=None if budget is None else budget + 4e8 * (seed - 1)
                )

                def answers(share: float, salt: int) -> list[bool]:
                    return coin(share, n, salt) + coin(0.15, ood, salt + 1)

                evaluate(run, answers(p, seed), flops=flops, passes=passes, ms=ms, ood=ood)
                if name in FIELD:
                    for value in (1, 2, 2 * DEFAULT[name]):
                        share, cost = value / DEFAULT[name], (0.6 + 0.4 * value / DEFAULT[name])
                        gain = {
                            "knob": FIELD[name],
                            "value": value,
                            "passes": max(3, passes * cost) if name == "coconut" else passes,
                        }
                        evaluate(
                            run,
                            answers(p * min(1.05, 0.7 + 0.3 * share), seed),
                            flops=flops * cost,
                            ms=ms * cost,
                            ood=ood,
                            **gain,
                        )
                else:
                    for k in (3, 5):
                        evaluate(
                            run,
                            answers(p + 0.01, seed),
                            flops=flops * (0.5 + 0.5 * k),
                            passes=passes + 0.1,
                            ms=ms * 1.1,
                            knob="votes",
                            value=k,
                            ood=ood,
                        )
                if name == "cot":
                    for cap in (3, 6, 9):
                        share = cap / 12.6
                        evaluate(
                            run,
                            answers(p * share**2, seed),
                            flops=flops * (0.5 + share / 2),
                            passes=cap,
                            ms=0.9 * cap,
                            knob="max_tokens",
                            value=cap,
                            ood=ood,
                        )
                runs.append(run)
    return runs
