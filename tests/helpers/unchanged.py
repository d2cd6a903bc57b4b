"""Whether a restructuring changed nothing that a user sees.

`python tests/helpers/unchanged.py` exits with 0, or with 1 and what differs. On copies of `results/` in a temporary
folder it asks three questions:
- Has every stored run the id that its specification gives?
- Do the commands rebuild the stored tables, leaderboards and history, byte for byte?
- Do the command lines of `COMMANDS` print what they printed when `--write` was last given: standard output, standard
  error, the files they write, exit code?

`--write` stores what they print now in `tests/golden/`, a file for each group: a change of a sentence is then a change
in a diff of that folder. `tests/golden/small/` has runs as small as they come, with what those in `results/` lack:
chosen checkpoints, tuned rates, votes.
Nothing is trained and no model is run. What differs between machines is left out of the comparison: folders, the last
digits of long fractions, and the frames of `--help`. Of the package it knows the command line and one name
(`recomputed_id`).
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import gzip
import hashlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "results"
GOLDEN = ROOT / "tests" / "golden"
WIDTH = 120  # columns
WIDE = 400  # of the pages of help
LONGEST = 12_000  # characters of one output that are stored; of a longer one its first lines and its sha256
SHOWN = 12  # lines of a longer output that are stored
SLOW = re.compile(r"\.\.\. .*\(.*\d+ s\)")  # what a command says of itself where the machine is slow
DIFFERENCES = 12  # lines of each difference that are printed
FAULT = 70  # the exit code of a traceback
CLEARED = (
    "RIM_BENCH_",
    "HF_",
    "WORLD_SIZE",
    "RANK",
    "LOCAL_",
    "FORCE_COLOR",
    "PY_COLORS",
    "GITHUB_ACTIONS",
    "TERMINAL_WIDTH",
    "CLICOLOR",
)
FIXED = {
    "COLUMNS": str(WIDTH),
    "LINES": "50",
    "TERM": "dumb",
    "NO_COLOR": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}


def recomputed_id(spec: Mapping[str, Any]) -> str:
    """The id that the package gives to a specification: the one name of the package that this script imports."""
    from rim_bench.storage.records import spec_id

    return spec_id(spec)


# Command lines, by group

HELP = (
    "",
    "run",
    "train",
    "eval",
    "table",
    "seal",
    "plot",
    "show",
    "cost",
    "sweep",
    "leaderboard",
    "study",
    "baseline",
    "check",
    "margin",
    "power",
    "compare",
    "list",
    "models",
    "leakage",
    "floors",
    "bench",
)

RIM, COCONUT, COT, DIRECT = "rim-chain-2f95", "coconut-chain-6269", "cot-chain-1a7f", "direct-chain-702c"
EMBEDDED = "--out results/embedded"
NEWER = "--out newer --stored"
OLD, WRITTEN, NEW = (f"2026-0{month}-01T00:00:00.000000+00:00" for month in (1, 2, 3))  # when baselines are written
LAYERS = "--out results/litmus_layers/layers_1"
SMALL = "--limit 40 --backbone width=32 --backbone layers=1 --device cpu --dry-run --cot-examples 64 --examples 640"
OWN = "--file train=own/train.jsonl --file test=own/test.jsonl --file validation=own/validation.jsonl"

COMMANDS = {
    "help": [f"{command} --help".strip() for command in HELP],
    "results": [
        f"table {LAYERS}",
        f"table {LAYERS} -f markdown",
        f"table {LAYERS} -f csv",
        f"table {LAYERS} -f latex",
        f"table {LAYERS} --split validation",
        f"table {LAYERS} --references",
        "table --out small",
        "table --out small -f markdown",
        "table --out small -f csv",
        "table --out small -f latex",
        "leaderboard --out small",
        "leaderboard --out small -f markdown",
        "leaderboard --out small -f json",
        "table rim-chain-7080 rim-chain-e329 direct-chain-431c direct-chain-e320 --out small -f markdown",
        "table --out harmed -f markdown",
        "table --out harmed -f csv",
        "table --out harmed -f latex",
        "leaderboard --out harmed -f csv",
        "seal --out small",
        "seal --out harmed",
        "table --out unfinished -f markdown",
        "table --out published --references -f markdown",
        "table --out published --references -f latex",
        f"table {RIM} {COT} {EMBEDDED} -f markdown",
        "table rim-permute- --out results/litmus_serial",
        f"leaderboard {LAYERS}",
        f"leaderboard {LAYERS} -f markdown",
        f"leaderboard {LAYERS} -f csv",
        f"leaderboard {LAYERS} -f latex",
        f"leaderboard {LAYERS} -f json",
        f"leaderboard {LAYERS} --split validation",
        "leaderboard --out harmed -f markdown",
        "leaderboard --out unfinished -f markdown",
        "leaderboard --out retrained -f markdown",
        "bench history --out results/bench",
    ],
    "compare": [
        f"compare {RIM} {COCONUT} {EMBEDDED}",
        f"compare {RIM} {COCONUT} {EMBEDDED} -f markdown --margin 3",
        f"compare {RIM} {COCONUT} {EMBEDDED} -f json --baseline {DIRECT}",
        f"compare {RIM} {COCONUT} {EMBEDDED} --baseline {DIRECT}",
        f"compare {RIM}@K=2 {RIM} {EMBEDDED}",
        f"compare {RIM},rim-chain-6fe2,rim-chain-9990 {COCONUT},coconut-chain-c69f,coconut-chain-9093"
        f" {EMBEDDED} -f markdown",
        f"compare {RIM},rim-chain-6fe2 {COCONUT},coconut-chain-c69f {EMBEDDED}"
        f" --baseline {DIRECT},direct-chain-6f1a -f json",
        f"compare {COT} {COT} {EMBEDDED}",
        f"compare {COT} cot-chain-e615 {EMBEDDED} --margin 5",
        f"compare {RIM} {COCONUT} {EMBEDDED} --split validation",
        "compare rim-chain-7080 direct-chain-431c --out small",
        "compare rim-chain-7080@votes=3 rim-chain-7080 --out small -f markdown",
        "compare rim-chain-7080@K=1 rim-chain-7080@K=2 --out small -f json",
        f"compare {RIM}@K=77 {RIM} {EMBEDDED}",
        f"compare {RIM} nobody {EMBEDDED}",
        f"compare {RIM} {COCONUT} {EMBEDDED} -f csv",
        f"compare {RIM} {COCONUT} {EMBEDDED} --margin -1",
    ],
    "gate": [
        f"baseline {RIM} {COT} --out older -o made/baseline.toml --margin 2",
        f"check {RIM} {COT} {NEWER} --against made/baseline.toml --margin 2",
        f"check {RIM} {NEWER} --against made/baseline.toml --margin 2 --level T=4",
        f"check {RIM} {NEWER} --against made/baseline.toml --margin 0.5 --min-n 5000",
        f"check {DIRECT} {NEWER} --against made/baseline.toml --margin 2",
        f"check {RIM} {COT} {NEWER} --against made/baseline.toml --margin 2"
        " --json made/check.json --junit made/check.xml --summary made/check.md",
        f"baseline {COT} --out older_retrained -o made/retrained.toml --note 'seed 0 of twenty'",
        "check {retrained} --out retrained --stored --against made/retrained.toml --margin 2",
        "check {retrained} --out retrained --stored --against made/retrained.toml --margin 2"
        " --json made/red.json --junit made/red.xml --summary made/red.md",
        f"baseline {RIM} {EMBEDDED} -o made/earlier.toml",
        f"check {RIM} {EMBEDDED} --stored --against made/baseline.toml --margin 2",
        f"check {RIM} --out older --stored --against made/baseline.toml --margin 2",
        f"check {RIM} {NEWER} --against results/gate/baseline.toml --margin 2",
        f"check {RIM} --out results/gate --stored --against results/gate/baseline.toml --margin 2",
        f"check {RIM} {NEWER} --against made/baseline.toml --margin 2 --across budget --across backbone.layer",
        f"check {RIM} {NEWER} --against made/baseline.toml --margin 2 --level T=9",
        f"check {RIM} {EMBEDDED} --against nowhere.toml --margin 2",
        f"check {RIM} {EMBEDDED} --against made/baseline.toml --margin 2 --key none",
        f"check {RIM} {EMBEDDED} --against made/baseline.toml --margin -2",
        "margin {retrained} --out retrained --json made/margin.json --output made/margin.md",
        "margin {retrained} --out retrained --rate 0.2",
        f"margin {RIM} {EMBEDDED}",
        f"margin {RIM} {EMBEDDED} --rate 0.7",
        "power --n 1319 --discordance 0.2",
        "power --n 1319 --discordance 0.2 --difference 3 --margin 2 --json made/power.json",
        "power --discordance 0.1 --difference 2",
        "power --n 500 --difference 4 --discordance 0.15 --power 0.9 --alpha 0.01",
        "power --n 1319",
        "power --n -1 --discordance 0.2",
        "power --n 100 --discordance 0.1 --difference 20",
    ],
    "cost": [
        "cost",
        "cost -f markdown --model llama-3.1-70b --question-tokens 200",
        "cost -f csv --model gpt2 --methods rim,coconut,cot --set rim.K=2",
        "cost -f latex --model qwen3-4b --lora-rank 16",
        "cost -f json --model tiny --chain-steps 3 --kv-dtype float8",
        "cost --methods {methods} --model qwen2.5-0.5b -f json",
        "cost --methods {methods} --model llama-3.2-3b -f csv --lora-rank 32 --chain-tokens 200",
        "cost --json made/cost.json --methods rim --model bench-gpt2",
        "cost --model gpt3",
        "cost --methods rim --set rim.KK=2",
        "cost --kv-dtype int3",
        "cost --question-tokens 0",
    ],
    "data": [
        "list methods",
        "list tasks",
        "list tasks --long",
        "list suites",
        "list suites --long",
        "list models",
        "list references",
        "list tasks chain",
        "list tasks svamp",
        "list suites litmus",
        "list tasks nope",
        "list methods rim",
        "list things",
        "show rim --row 3 --effort 6 --set rim.M=1",
        "show coconut --task permute --row 5",
        *(
            f"show {method} --task json {OWN}"
            for method in (
                "rim",
                "coconut",
                "cot",
                "direct",
                "pause",
                "rim-isolated-blocks",
                "pause-curriculum",
                "rim-as-prompt",
                "rim-shuffled-steps",
                "no-thought-curriculum",
                "rim-no-grounding",
                "pause-distinct --row 4 --effort 2",
            )
        ),
        "show cot --task gsm8k --data published_files --steps prose",
        "leakage --task chain --eval-tasks chain_gate --limit 200",
        "leakage --task chain --eval-tasks chain_gate,permute --limit 200 -f markdown --worst 2 --text",
        "leakage --task permute --eval-tasks permute_lookup,vote --limit 100 -f csv --ngram 5",
        "leakage --task permute --eval-tasks permute_lookup --limit 100 -f latex",
        "leakage --task permute --eval-tasks permute_lookup --limit 100 -f json",
        "leakage --task permute --eval-tasks permute_lookup --limit 100 --to made/leakage.md",
        "leakage --task chain --suite gsm-ood --limit 50 --data published_files",
        "leakage --ngram 0",
        "floors vote --limit 400",
        "floors vote --limit 400 -f csv",
        "floors vote --split elsewhere",
        "floors gsm_hard",
        "leakage --to x.pdf",
    ],
    "plans": [
        "study results/litmus_serial/study.toml --dry-run -f csv",
        f"run {SMALL} --out planned",
        f"run {SMALL} --out planned -f json --flops-per-second 2e12",
        f"run {SMALL} --out planned -f markdown --start recipe --seeds 0,1 --controls",
        f"run {SMALL} --out small -f csv --methods direct,rim --examples 960 --start recipe --checkpoint best"
        " --checkpoint-points 4 --tune lr=1e-3..1e-2 --trials 2 --seeds 0,1",
        f"run {SMALL} --out small -f csv --methods direct,rim --examples 960 --start recipe"
        " --checkpoint 16-split --set rim.K=2",
        f"run {SMALL} --out small --methods direct,cot,pause --quick --start recipe",
        f"run {SMALL} --out planned -f csv --quick --tune lr=1e-4..1e-2 --trials 2 --tune-share 0.5"
        " --methods rim,direct",
        f"run {SMALL} --out planned -f latex --checkpoint best --methods cot,coconut",
        f"run {SMALL} --out planned -f csv --checkpoint 16-split --methods rim,direct --set rim.K=2",
        f"run {SMALL.partition(' --examples')[0]} --out planned -f csv --task chain,permute --methods rim"
        " --budget train-flops=2e9 --lr 0.003 --batch-size 16",
        f"run {SMALL} --out planned -f csv --task json {OWN} --methods direct,cot --model tiny-qwen",
        f"run {SMALL} --out planned -f csv --task prosqa_choice --methods direct,cot"
        " --data published_files --model tiny-gpt2",
        f"run {SMALL} --out planned -f csv --suite litmus --max-tokens 20 --methods coconut",
    ],
    "refusals": [
        "run --nope",
        "run --limit abc",
        "nope",
        "eval",
        "run --methods dirct",
        "run --methods ,",
        "run --methods rim,rim",
        "run --methods ./mine.py",
        "run --task chian",
        "run --model tinny",
        "run --backbone widht=64",
        "run --backbone width=abc",
        "run --tuning lora",
        "run --set rim.KK=4",
        "run --set rim.K=0",
        "run --set K=4",
        "run --methods direct --set rim.K=4",
        "run --seeds a",
        "run --seeds 0,0",
        "run --start middle",
        "run --steps prose",
        "run --examples 0",
        "run --examples 31",
        "run --examples 64 --budget examples=64",
        "run --budget parsecs=3",
        "run --lr nan",
        "run --batch-size 0",
        "run --strategy ddp",
        "run --processes 2",
        "run --workers 2",
        "run --executor slurm",
        "run --format csv",
        "run --flops-per-second 2e12",
        "run --checkpoint first",
        "run --tune lr=1",
        "run --trials 3",
        "run --tune-share 0.5",
        "run --strict-sets",
        "run --suite nope",
        "run --task chain,chain",
        "run --file rows.jsonl",
        "run --task json",
        "run --task gsm8k --data nowhere",
        "run --task gsm8k --model tiny --data published_files --limit 4",
        "run --out own/train.jsonl --quick --methods direct",
        "train --methods dirct",
        "eval nope",
        "eval nope --split train",
        f"eval {RIM} {EMBEDDED}",
        f"eval {RIM} {EMBEDDED} --votes 0",
        f"eval {DIRECT} {EMBEDDED} --effort 3",
        "table",
        "table nope",
        "table --format word",
        "table --split train",
        f"table {LAYERS} --references -f csv",
        f"table rim {EMBEDDED}",
        "plot",
        "plot --kind pie",
        "leaderboard",
        "leaderboard --format word",
        "study nowhere.toml",
        "study own/wrong.toml",
        "show dirct",
        f"show rim --effort -1 --task json {OWN}",
        "show direct --effort 3",
        f"show rim --row 99999 --task json {OWN}",
        "sweep --knob K",
        f"sweep {RIM} {EMBEDDED}",
        f"sweep {RIM} {EMBEDDED} --knob L=3",
        "bench nothing",
        "bench train --vary K",
        "bench scaling",
        "bench history --methods rim",
        "bench history --out nowhere",
        "bench targets --methods rim",
    ],
}

BOARDS = ("leaderboard.md", "leaderboard.csv", "leaderboard.tex", "leaderboard.json")
TABLES = ("table.md", "table.csv")


# The folder in which they run


def build(folder: Path) -> dict[str, str]:
    """Fills a folder with what the command lines read; returns the words that stand for something in them."""
    shutil.copytree(RESULTS, folder / "results")
    (folder / "made").mkdir()
    run = next((folder / "results" / "embedded" / "runs").glob("cot-chain-1a7f*"))
    retrained = _retrained(run, folder / "retrained" / "runs")
    for runs, date in (("older", OLD), ("newer", NEW)):
        for name in (RIM, COT, DIRECT):
            found = next((folder / "results" / "embedded" / "runs").glob(f"{name}*"))
            shutil.copytree(found, folder / runs / "runs" / found.name)
        _rescored(folder / runs, date)
    shutil.copytree(folder / "retrained" / "runs" / run.name, folder / "older_retrained" / "runs" / run.name)
    _rescored(folder / "older_retrained", OLD)
    _rescored(folder / "retrained", NEW)
    _own_files(folder)
    _states(folder)
    methods = "direct,pause,cot,coconut,rim,pause-curriculum,rim-isolated-blocks,rim-no-grounding,pause-distinct"
    methods += ",rim-as-prompt"
    return {"retrained": " ".join(retrained), "methods": methods}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _copy_run(run: Path, runs: Path, spec: Callable[[dict[str, Any]], None] = lambda spec: None) -> Path:
    """A copy of a run in another results folder, under the id of its changed specification."""
    record = json.loads((run / "spec.json").read_bytes())
    spec(record)
    copy = runs / recomputed_id(record)
    shutil.copytree(run, copy)
    _write_json(copy / "spec.json", record)
    return copy


def _edit(
    evaluation: Path,
    item: Callable[[int, dict[str, Any]], None] = lambda k, item: None,
    summary: Mapping[str, Any] | None = None,
    every: int = 1,
) -> None:
    """Changes the items of an evaluation, of which it keeps one in `every`, and its summary with them."""
    items = [json.loads(line) for line in gzip.decompress((evaluation / "items.jsonl.gz").read_bytes()).splitlines()][
        ::every
    ]
    for k, record in enumerate(items):
        item(k, record)
    lines = (json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n" for record in items)
    data = gzip.compress("".join(lines).encode(), mtime=0)
    (evaluation / "items.jsonl.gz").write_bytes(data)
    stored = {"count": len(items), "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    before = json.loads((evaluation / "summary.json").read_bytes())
    _write_json(evaluation / "summary.json", before | {"items": stored, "n": len(items)} | dict(summary or {}))


def _seal(*runs: Path) -> None:
    """Takes what was changed here for what the runs stored."""
    call(["seal", "--again", *map(str, runs)])


def _fails(item: dict[str, Any]) -> None:
    for name in ("correct", "strict", "flexible"):
        if name in item:
            item[name] = False
    if "output" in item:
        item["output"] = ""


def _rescored(results: Path, date: str) -> None:
    """Makes the stored evaluations of runs ones of the present scorer: the gate takes no others."""
    from rim_bench.data.answers import EVALUATOR_VERSION

    present = {"evaluator_version": EVALUATOR_VERSION, "scoring": {"kind": "number"}, "date": date}
    for summary in results.glob("runs/*/eval/*/summary.json"):
        _write_json(summary, json.loads(summary.read_bytes()) | present)


def _retrained(run: Path, runs: Path) -> list[str]:
    """Twenty retrainings of one run with other seeds, each of which fails on some more questions; returns their ids."""
    ids = []
    for seed in range(20):
        copy = _copy_run(run, runs, lambda spec, seed=seed: spec.update(seed=seed))  # type: ignore[misc]
        for evaluation in (copy / "eval").iterdir():
            if json.loads((evaluation / "summary.json").read_bytes()).get("curve"):
                shutil.rmtree(evaluation)
                continue
            _edit(
                evaluation,
                lambda k, item, seed=seed: _fails(item) if (k * 7919 + seed * 104_729) % 997 < 3 * seed else None,
                every=5,
            )  # type: ignore[misc]
        _seal(copy)
        ids.append(copy.name)
    return ids


def _own_files(folder: Path) -> None:
    """Rows of one's own, a study file with a mistake, and a folder of published files in small."""
    own, published = folder / "own", folder / "published_files"
    own.mkdir()
    published.mkdir()
    for split, n in (("train", 60), ("validation", 10), ("test", 20)):
        first = {"train": 0, "validation": 100, "test": 200}[split]
        rows = [
            {
                "question": f"Ann has {k} pens and buys {k + 2} more. How many?",
                "steps": [f"{k}+{k + 2}={2 * k + 2}"],
                "answer": str(2 * k + 2),
            }
            for k in range(first, first + n)
        ]
        (own / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        rows = [
            {
                "question": f"Ben has {k} nuts and eats {k // 2}. How many are left?",
                "answer": f"Ben has {k}-{k // 2}=<<{k}-{k // 2}={k - k // 2}>>{k - k // 2} nuts left.\n"
                f"#### {k - k // 2}",
            }
            for k in range(first + 10, first + n + 10)
        ]
        if split != "validation":
            (published / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (own / "wrong.toml").write_text('methods = ["direct"]\ntask = "chain"\nseed = [0]\n')


def _states(folder: Path) -> None:
    """Results folders in other states than the stored ones: trained, damaged, unfinished, of another task."""
    small = folder / "small" / "runs"
    shutil.copytree(GOLDEN / "small" / "runs", small)
    for run in small.iterdir():
        (run / "model").mkdir()
        (run / "model" / "weights").write_bytes(b"w")
        entry = {"sha256": hashlib.sha256(b"w").hexdigest(), "size": 1}
        _write_json(run / "model" / "manifest.json", {"schema": 1, "files": {"weights": entry}})

    stored = folder / "results" / "litmus_serial" / "runs"
    chosen = [p for p in sorted(stored.iterdir()) if p.name.startswith(("direct", "rim-permute", "coconut"))]
    harmed, unfinished, published = (
        [_copy_run(run, folder / name / "runs") for run in chosen] for name in ("harmed", "unfinished", "published")
    )
    for run in harmed:
        evaluation = next((run / "eval").iterdir())
        match run.name.partition("-")[0], json.loads((run / "spec.json").read_bytes())["seed"]:
            case "direct", 0:
                (evaluation / "items.jsonl.gz").write_bytes(b"not gzip")
            case "direct", 1:
                (run / "train.json").write_text("{")
            case "direct", 2:
                run.rename(run.with_name("direct-permute-000000000000"))
            case "coconut", _:
                _edit(
                    evaluation,
                    lambda k, item: item.update(
                        answer="1", unparseable=k % 3 == 0, empty=k % 5 == 0, capped=k % 2 == 0
                    ),
                )
            case "rim", 2:
                _edit(evaluation, lambda k, item: _fails(item), {"data_sha256": "d" * 64})
    for k, run in enumerate(unfinished):
        if k % 3 == 0:
            shutil.rmtree(run / "eval")
        if k % 4 == 1:
            (run / "train.json").unlink()
    for run in published:
        _edit(next((run / "eval").iterdir()), summary={"task": "gsm8k", "task_title": "GSM8K"})
    _seal(*(run for run in harmed if not run.name.startswith("direct")), *unfinished, *published)


# Running and comparing


def call(arguments: list[str]) -> tuple[int, str, str]:
    """Runs one command line in this process, like `python -m rim_bench`; returns exit code, output, errors."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["rim-bench", *arguments]
    code: Any = 0
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            unittest.mock.patch("rim_bench.evidence.baseline.moment", lambda: WRITTEN),
        ):
            runpy.run_module("rim_bench", run_name="__main__")
    except SystemExit as stopped:
        code = stopped.code
    finally:
        sys.argv = argv
    said = "".join(line for line in err.getvalue().splitlines(keepends=True) if not SLOW.fullmatch(line.rstrip()))
    return code if isinstance(code, int) else 0, out.getvalue(), said


def normal(text: str, folder: Path) -> str:
    """A text without what differs from machine to machine."""
    for path, word in ((folder, "<folder>"), (ROOT, "<checkout>")):
        text = text.replace(str(path), word)
    text = re.sub(r"(\d\.\d{6,})", _shorter, text)
    return "\n".join(line.rstrip() for line in text.splitlines())


def _shorter(match: re.Match[str]) -> str:
    """A fraction with 12 significant digits: the last ones are another processor's business."""
    digits = match[1]
    return digits if len(digits.lstrip("0.")) <= 12 else f"{float(digits):.12g}"


def _plain(text: str) -> str:
    """A page of help without frames: one line an option or paragraph, where the terminal is wide enough."""
    lines = (re.sub(r"[─╭╮╰╯│\s]+", " ", line).strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def _stored(text: str) -> str:
    """A text as a golden file has it: whole, or its first lines and what stands for the rest."""
    if len(text) <= LONGEST:
        return text
    head = "\n".join(text.splitlines()[:SHOWN])
    return f"{head}\n[... {len(text.splitlines())} lines in all, sha256 {hashlib.sha256(text.encode()).hexdigest()}]"


def transcript(group: str, words: Mapping[str, str], folder: Path) -> Iterator[tuple[str, str]]:
    """Every command line of a group as written above, with what it prints."""
    os.environ["COLUMNS"] = str(WIDE if group == "help" else WIDTH)
    for command in COMMANDS[group]:
        before = {path: path.stat().st_mtime_ns for path in (folder / "made").iterdir()}
        code, out, err = call(shlex.split(command.format_map(words)))
        parts = [f"exit code {code}"]
        written = [p for p in sorted((folder / "made").iterdir()) if before.get(p) != p.stat().st_mtime_ns]
        texts = {"out": _plain(out) if group == "help" else out, "err": err} | {
            p.name: p.read_text("utf-8") for p in written
        }
        parts += [f"--- {name}\n{_stored(normal(text, folder))}" for name, text in texts.items() if text.strip()]
        if code == FAULT or "Traceback" in err:
            parts.insert(0, "a traceback")
        yield command, "\n".join(parts)


def written_file(entries: Mapping[str, str]) -> str:
    """A golden file."""
    return "".join(f"$ rim-bench {command}\n{text}\n\n" for command, text in entries.items())


def read_file(path: Path) -> dict[str, str]:
    """A golden file, read: command line -> what it printed."""
    text = path.read_text("utf-8") if path.is_file() else ""
    entries = (part.partition("\n") for part in re.split(r"^\$ rim-bench ", text, flags=re.M)[1:])
    return {command: body.rstrip("\n") for command, _, body in entries}


def difference(before: str, now: str) -> str:
    """The first lines in which two texts differ."""
    lines = [
        line
        for line in difflib.unified_diff(before.splitlines(), now.splitlines(), lineterm="", n=0)
        if line[:3] not in ("---", "+++")
    ]
    more = [f"  ... and {len(lines) - DIFFERENCES} lines more"] if len(lines) > DIFFERENCES else []
    return "\n".join([*(f"  {line[:300]}" for line in lines[:DIFFERENCES]), *more])


def check_ids() -> Iterator[str]:
    """Stored runs whose folder does not carry the id of their specification."""
    specs = sorted((*RESULTS.rglob("runs/*/spec.json"), *GOLDEN.rglob("runs/*/spec.json")))
    if not specs:
        yield "no stored run has a specification"
    for path in specs:
        made = recomputed_id(json.loads(path.read_bytes()))
        if made != path.parent.name:
            yield f"{path.parent.relative_to(ROOT)}: its specification gives {made}"


def check_stored(folder: Path) -> Iterator[str]:
    """Stored tables, leaderboards and histories that the commands do not rebuild byte for byte."""
    for file in sorted((folder / "results").rglob("study.toml")):
        study = file.parent.relative_to(folder)
        for name in (*TABLES, *BOARDS):
            (folder / study / name).unlink(missing_ok=True)
        call(["table", "--out", str(study), "--write"])
        call(["leaderboard", "--out", str(study), "--split", "test", "--write"])
        for name in (*TABLES, *BOARDS):
            stored, rebuilt = ROOT / study / name, folder / study / name
            now = rebuilt.read_text("utf-8") if rebuilt.is_file() else ""
            if stored.is_file() and now != (before := stored.read_text("utf-8")):
                yield f"{study / name} is not rebuilt from its runs\n{difference(before, now)}"
    _, history, _ = call(["bench", "history", "--out", "results/bench"])
    if history != (content := (RESULTS / "bench" / "README.md").read_text("utf-8")):
        yield f"results/bench/README.md is not rebuilt from its files\n{difference(content, history)}"


def check_commands(folder: Path, words: Mapping[str, str], write: bool) -> Iterator[str]:
    """Command lines that print something else than their golden file says; with `write`, writes the files."""
    for group in COMMANDS:
        path = GOLDEN / f"{group}.txt"
        started = time.monotonic()
        before, now = read_file(path), dict(transcript(group, words, folder))
        if (spent := time.monotonic() - started) > 5:
            print(f"{group}: {len(now)} command lines, {spent:.0f} s", file=sys.stderr)
        yield from (
            f"rim-bench {command}: {text[:3000]}" for command, text in now.items() if text.startswith("a traceback")
        )
        if write:
            path.write_text(written_file(now), "utf-8")
            continue
        for command, text in now.items():
            if command not in before:
                yield f"rim-bench {command}: not in {path.relative_to(ROOT)}; --write puts it there"
            elif before[command] != text:
                yield f"rim-bench {command}\n{difference(before[command], text)}"
        yield from (f"rim-bench {command}: only in {path.relative_to(ROOT)}" for command in before.keys() - now.keys())


def main() -> int:
    """Runs everything; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="store what the command lines print now as tests/golden/")
    arguments = parser.parse_args()
    for name in [n for n in os.environ if n.startswith(CLEARED)]:
        del os.environ[name]
    os.environ.update(FIXED)
    sys.path.insert(0, str(ROOT))
    started, home = time.monotonic(), Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        os.chdir(folder)
        try:
            differences = list(check_ids())
            words = build(folder)
            differences += check_commands(folder, words, arguments.write)
            differences += check_stored(folder)
        finally:
            os.chdir(home)
    for text in differences:
        print(text)
    commands = sum(map(len, COMMANDS.values()))
    print(f"{len(differences)} differences; {commands} command lines, {time.monotonic() - started:.0f} s")
    return 1 if differences else 0


if __name__ == "__main__":
    raise SystemExit(main())
