"""Stored runs for reports: small ones whose texts are hostile, and as many answers as a real study has."""

from __future__ import annotations

import base64
import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

from fabricated import coin, evaluate, train

from rim_bench.storage.questions import QuestionStore
from rim_bench.storage.records import QuestionRecord
from rim_bench.storage.run_folder import Run, Store

HOSTILE = "</script><script>document.title='owned'</script><!-- <img src=x onerror=alert(1)> \u202e --> ]]>"
TITLE = "Sums </title><script>document.title='owned'</script> <!--script-->"
N, OOD = 90, 30
DATA = "c" * 64


def small_runs(root: Path) -> list[Run]:
    """Three methods with two seeds: rim answers after three blocks, cot's outputs, a label, levels and questions are
    hostile, and rim has a curve.
    """
    store, runs = Store(root), []
    for number, (name, p) in enumerate({"direct": 0.55, "cot": 0.95, "rim": 0.4}.items()):
        for seed in (0, 1):
            label = name if name != "cot" else f"cot {HOSTILE}"
            method = {"name": name, "settings": {"K": 4} if name == "rim" else {}, "label": label}
            run = train(store, name, seed=seed, spec={"method": method})
            run.write_environment({"argv": ["rim-bench", "run", HOSTILE], "python": "3.11", "packages": {"torch": "2"}})
            for step in range(1, 31):
                run.append_metrics({"step": step, "stage": "ground" if step < 20 else HOSTILE, "loss": 2.0 / step})
            right = coin(p, N, 10 * number + seed) + coin(0.2, OOD, 7 * number + seed)
            evaluate(run, right, ood=OOD, ms=2.0 + number, change=lambda k, r=right, m=name: _texts(k, r, m))
            if name == "rim":
                for value in (1, 2, 8):
                    fewer = coin(p * value / 8, N, value + seed) + coin(0.1, OOD, value)
                    evaluate(run, fewer, ood=OOD, flops=1e6 * (0.5 + value / 8), knob="K", value=value)
            runs.append(run)
    texts = [
        QuestionRecord(id=f"toy/test/{k}", question=f"What is {k}? {HOSTILE if k == 3 else ''}") for k in range(N + OOD)
    ]
    QuestionStore(root).write(DATA, texts)
    return runs


def _texts(k: int, right: list[bool], name: str) -> dict[str, Any]:
    """What makes an item's answer a hostile text, or that of three blocks."""
    out: dict[str, Any] = {"level": ("T=1" if k % 2 else f"T=2 {HOSTILE}") if k < N else "T=4"}
    if name == "cot":
        out |= {"output": f"{HOSTILE} #### {k % 10}", "unparseable": k % 9 == 0}
    if name == "rim":
        answers = [str(k % 7), str(k % 10), str((k + (not right[k])) % 10)]
        out["blocks"] = [{"answer": a, "correct": a == str(k % 10)} for a in answers]
    return out


def large_runs(root: Path, n: int = 1319, methods: int = 10, seeds: int = 3) -> list[Run]:
    """As many answers as ten methods with three seeds give to GSM8K: two of them write 60 words."""
    store, runs, rng = Store(root), [], random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(3000)]
    for method in range(methods):
        for seed in range(seeds):
            name = ("direct", "cot", "rim", "coconut", "pause")[method] if method < 5 else f"other{method}"
            run = train(store, name if method < 5 else "direct", seed=seed, spec=None if method < 5 else _named(name))

            def change(k: int, long: bool = method in (1, 6), blocked: bool = method == 2) -> dict[str, Any]:
                told = " ".join(rng.choices(words, k=60)) if long else ""
                blocks = [{"answer": str(rng.randrange(200)), "correct": False} for _ in range(4)]
                rest = {"blocks": blocks} if blocked else {}
                return {"output": f"{told} #### {k % 97}", "answer": str(k % 97), "level": "", "ood": False} | rest

            evaluate(run, coin(0.3 + 0.05 * method, n, 100 * method + seed), change=change)
            runs.append(run)
    texts = [QuestionRecord(id=f"toy/test/{k}", question=" ".join(rng.choices(words, k=45))) for k in range(n)]
    QuestionStore(root).write(DATA, texts)
    return runs


def _named(name: str) -> dict[str, Any]:
    return {"method": {"name": name, "settings": {}, "label": name}}


def unpacked(page: bytes) -> dict[str, Any]:
    """The packed data of a page, by the id of their block."""
    blocks = re.findall(r'<script type="text/plain" id="([a-z0-9-]+)">([A-Za-z0-9+/=]*)</script>', page.decode())
    return {name: json.loads(gzip.decompress(base64.b64decode(data))) for name, data in blocks}
