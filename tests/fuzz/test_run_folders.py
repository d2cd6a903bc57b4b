"""Run folders, damaged in any file: every command that reads them says so, and no number changes without a word."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

from damage import damage_file, damaged_json, file_op, files_of, json_op, place
from fuzzing import Broken, Campaign, holds
from hypothesis import strategies as st

from rim_bench.storage.records import spec_id

CSV = "table -f csv"
READERS = (
    *(CSV, CSV, CSV),
    "table -f markdown",
    "table",
    "leaderboard -f json",
    "leaderboard -f markdown --split test",
    "plot --kind training --to made/p.png",
    "compare {0} {1}",
    "baseline {0} {1} -o made/b.toml",
    "check {0} {1} --against own/baseline.toml --margin 50 --min-n 1",
    "margin {0} {1}",
    "run --methods direct,rim --set rim.K=2 --task own/sums.yaml --limit 12 --max-tokens 4 --device cpu "
    "--backbone layers=1 --backbone width=32 --start recipe --examples 48 --batch-size 4",
    "eval {0} {1} --task own/sums.yaml --limit 4 --device cpu",
    "eval {0} {1} --limit 12 --max-tokens 4 --device cpu --task-file own/sums.yaml",
    "sweep --limit 4 --device cpu --knob K=1 --task-file own/sums.yaml",
)
NAMED = ("run_ids", "set", "label")  # what a line of the table is about
MEASURED = (
    "n", "accuracy", "ci_low", "ci_high", "flexible", "train_flops", "train_examples", "flops_prefill", "passes",
    "generated_tokens", "budget_used", "latent_positions", "ttft_ms", "unparseable", "kv_bytes", "train_seconds",
)  # fmt: skip


def lines_of(text: str) -> dict[tuple[str, ...], dict[str, str]]:
    """The lines of a table in CSV, by what they are about."""
    return {tuple(row[name] for name in NAMED): row for row in csv.DictReader(io.StringIO(text))}


def damage(case: tuple[Any, ...], out: Path) -> str:
    """A copy of the trained runs with one file damaged; returns the id of the damaged run."""
    which, op, _ = case
    shutil.copytree("trained", out)
    files = files_of(out / "runs")
    path = files[which % len(files)]
    damage_file(path, op)
    return path.relative_to(out / "runs").parts[0]


def test_damaged_folders(campaign: Campaign, sandbox: Path) -> None:
    runs = sorted(path.name for path in Path("trained/runs").iterdir())
    out = Path("made/out")
    shutil.rmtree("made", ignore_errors=True)
    shutil.copytree("trained", out)
    shown = {}  # by command: what it prints of sound runs
    for reader in (r for r in READERS if r.startswith(("table", "leaderboard", "compare"))):
        shown[reader] = holds([*reader.format(*runs).split(), "--out", str(out)]).out
    whole = lines_of(shown[CSV])
    assert {key[0] for key in whole} == set(runs)

    def check(case: tuple[Any, ...]) -> None:
        reader = READERS[case[2]]
        run = damage(case, out)
        answer = holds([*reader.format(*runs).split(), "--out", str(out)])
        if answer.code or answer.out == shown.get(reader, answer.out):
            return
        if run not in answer.out + answer.err or "damaged" not in answer.out + answer.err:
            raise Broken("what is printed of a damaged run has changed without a word")
        for key, line in lines_of(answer.out).items() if reader == CSV else ():
            for name in MEASURED:
                if key in whole and line[name] != whole[key][name] and "damaged" not in ",".join(line.values()):
                    raise Broken(f"{name} has changed without a word: {whole[key][name]} became {line[name]}")

    cases = st.tuples(place, file_op, st.integers(0, len(READERS) - 1))
    campaign.run("run folders", check, cases, 0.12)


def test_consistent_nonsense(campaign: Campaign, sandbox: Path) -> None:
    """Specifications that do carry the id of their folder, and hold anything."""
    runs = sorted(path.name for path in Path("trained/runs").iterdir())

    def check(case: tuple[Any, ...]) -> None:
        reader, which, ops = READERS[case[0]], case[1] % len(runs), case[2]
        out = Path("made/out")
        shutil.copytree("trained", out)
        folder = out / "runs" / runs[which]
        text = damaged_json(json.loads((folder / "spec.json").read_text()), ops)
        try:
            new = spec_id(json.loads(text))
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            return
        if "/" in new or len(new) > 200 or "\x00" in new or not new.isprintable():
            return
        (folder / "spec.json").write_bytes(text)
        folder.rename(folder.with_name(new))
        names = [new if name == runs[which] else name for name in runs]
        holds([*reader.format(*names).split(), "--out", "made/out"])

    cases = st.tuples(st.integers(0, len(READERS) - 1), place, st.lists(json_op, min_size=1, max_size=2))
    campaign.run("specifications", check, cases, 0.1)
