"""Hostile names and texts in stored runs, through every writer."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from damage import words
from fabricated import coin, evaluate, train
from fuzzing import Broken, Campaign, holds, refused
from hypothesis import strategies as st

from rim_bench.storage.run_folder import Store
from rim_bench.util.errors import UsageError

COMMANDS = (
    "table -f csv", "table -f markdown", "table -f latex", "table", "leaderboard -f csv", "leaderboard -f json",
    "leaderboard -f markdown", "leaderboard -f latex", "leaderboard --write", "plot --to made/p.svg",
    "plot --kind training --to made/p.svg", "compare {0} {1}", "compare {0} {1} -f json",
    "compare {0} {1} -f markdown",
    "check {0} --against own/baseline.toml --margin 2 --junit made/j.xml --json made/c.json --summary made/s.md",
    "baseline {0} -o made/b.toml",
)  # fmt: skip


def stored(texts: tuple[str, ...], out: Path) -> list[str] | UsageError:
    """The ids of two evaluated runs whose names and texts are these; a sentence where one is refused."""
    label, task, level, answer, note, backbone = texts

    def make() -> list[str]:
        ids = []
        for seed, p in ((0, 0.6), (1, 0.3)):
            method = {
                "name": "direct" if seed else "m" + label,
                "settings": {label: answer},
                "label": f"{label} {seed}",
            }
            about = {
                "name": task,
                "version": 1,
                "train_sha256": "a" * 64,
                "validation_sha256": "b" * 64,
                "steps": "equations",
            }
            spec = {"method": method, "task": about, "backbone": {"name": backbone, "layers": 4}, "start": note}
            run = train(Store(out), "cot", seed=seed, spec=spec)
            run.append_metrics({"step": 1, "stage": note, "loss": 1.0, "lr": 0.1})
            change = lambda k: {"level": f"{k % 2}{level}", "answer": answer, "reference": answer, "output": answer}  # noqa: E731
            names = {"task": task, "task_title": task, "data_source": note, "prompt_note": note}
            evaluate(run, coin(p, 40, seed), change=change, floor={"answer": answer, "accuracy": 0.1}, **names)
            run.record_not_evaluated({task: note}, [])
            ids.append(run.id)
        return ids

    made: list[str] | UsageError = refused(make)
    return made


def test_hostile_names(campaign: Campaign, sandbox: Path) -> None:
    def check(case: tuple[Any, ...]) -> None:
        *texts, command = case
        runs = stored(tuple(texts), Path("made/out"))
        if isinstance(runs, UsageError):
            return
        line = COMMANDS[command].format(*(f"made/out/runs/{name}" for name in runs)).split()
        answer = holds([*line, "--out", "made/out"])
        if answer.code:
            return
        if "csv" in line:
            header, *rows = csv.reader(io.StringIO(answer.out))
            if not rows or {len(row) for row in rows} != {len(header)}:
                raise Broken(f"a CSV of rows of {sorted({len(row) for row in rows})} cells under {len(header)}")
            for cell in (cell for row in rows for cell in row if cell[:1] in tuple("=+-@\t\r")):
                try:
                    float(cell)
                except ValueError:
                    raise Broken(f"a cell that a spreadsheet would run: {cell!r}") from None
        elif "json" in line:
            json.loads(answer.out)
        elif "latex" in line:
            read = "\n".join(line for line in answer.out.splitlines() if not line.startswith("%"))  # not the comments
            if "\\input{x}" in read or "<script>" in read:
                raise Broken("LaTeX that runs")
        elif "markdown" in line and "<script>" in answer.out.replace("\\<script>", ""):
            raise Broken("a tag in Markdown")

    cases = st.tuples(*[words] * 6, st.integers(0, len(COMMANDS) - 1))
    campaign.run("hostile names", check, cases, 0.06)
