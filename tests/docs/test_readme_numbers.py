"""Every number of the README's result section stands in a stored table."""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e\d+)?(?![\w.]*\d)")


def section() -> str:
    """The README from the picture of the result to the next heading."""
    text = (ROOT / "README.md").read_text()
    return text[text.index("```text") : text.index("## Run it")]


@cache
def table(file: str, caption: str) -> dict[tuple[str, ...], dict[str, str]]:
    """The rows of one table of a stored Markdown file, by their first two cells and by their first alone."""
    lines = (RESULTS / file).read_text().splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith(caption))
    body = lines[first + 1 :]
    start = next(k for k, line in enumerate(body) if line.startswith("|"))
    rows = []
    for line in body[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("*") for cell in line.strip("|").split("|")])
    header, _, *cells = rows
    out: dict[tuple[str, ...], dict[str, str]] = {}
    for row in cells:
        named = dict(zip(header, row, strict=True))
        out.setdefault((row[0],), named)
        out[row[0], row[1]] = named
        out[tuple(row[:3])] = named
    return out


ACCURACY, PAIRS = "Accuracy, % with Wilson", "Paired comparisons"
INSIDE, BEYOND = "accuracy % (in distribution)", "OOD % (n=1,000)"


def accuracy(label: str, column: str, folder: str = "embedded") -> str:
    """Mean and spread as the table prints them, without the interval: `43.4 ± 16.5`."""
    rows = table(f"{folder}/table.md", ACCURACY)
    name = next(c for c in rows[label,] if c.startswith(column.split(" (n=")[0]))
    return rows[label,][name].split(" [")[0]


def seeds_needed(first: str, second: str, questions: str) -> str:
    rows = table("embedded/table.md", PAIRS)
    row = rows.get((first, second, questions)) or rows[second, first, questions]
    match = re.search(r"\((\d+) seeds would decide\)", row["verdict"])
    assert match is not None
    return match[1]


def budget(method: str) -> str:
    return f"{method} (from cot, equal FLOPs)"


def facts() -> list[str]:
    """Pieces of the section, as the stored tables give them."""
    rows = table("embedded/table.md", ACCURACY)
    n, seeds = rows[budget("rim"),]["n"], rows[budget("rim"),]["seeds"]
    by_seed = sorted(
        100 * float(row["accuracy"])
        for row in rows_of_csv()
        if row["label"] == budget("rim") and row["set"].startswith("in distribution, seed")
    )
    rim, direct = accuracy(budget("rim"), INSIDE), accuracy(budget("direct"), BEYOND)
    out = [
        f"over {seeds} seeds",
        f"chain, {n} questions, {asked():.1e}".replace("e+12", "e12"),
        f"from {by_seed[0]:.0f} to {by_seed[-1]:.0f} %",
        f"about {seeds_needed(budget('direct'), budget('rim'), 'in distribution')} seeds",
        f"votes of the direct model score {votes()} % where RiM has {rim.split(' ±')[0]}",
        f"RiM has {accuracy(budget('rim'), BEYOND).split(' ±')[0]} %, direct {direct.split(' ±')[0]}",
        f"about {seeds_needed(budget('direct'), budget('rim'), 'OOD')} seeds",
        f"RiM scores {accuracy('rim-shuffled-steps (from cot)', INSIDE, 'controls')} %, else "
        f"{accuracy('rim (from cot)', INSIDE, 'controls')}",
        f"floor     {floor_of('rim'):.1f}",
    ]
    for method in ("cot", "coconut", "pause", "direct", "rim"):
        mean, spread = accuracy(budget(method), INSIDE).split(" ± ")
        out.append(f"{method:<8} {mean:>5} ± {spread:>4}")
    return out


@cache
def rows_of_csv() -> list[dict[str, str]]:
    with (RESULTS / "embedded" / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def row_of_csv(method: str) -> dict[str, str]:
    label, questions = budget(method), "in distribution"
    return next(row for row in rows_of_csv() if row["label"] == label and row["set"] == questions)


def asked() -> float:
    return float(row_of_csv("rim")["budget_asked"])


def floor_of(method: str) -> float:
    return 100 * float(row_of_csv(method)["floor"])


def votes() -> str:
    """What votes of direct score at RiM's inference FLOPs, from the leaderboard's table of equal cost."""
    text = (RESULTS / "embedded" / "leaderboard.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| direct, by votes |"))
    return row.strip("| ").split("|")[-1].split("[")[0].strip()


def left_over(text: str, pieces: list[str]) -> list[str]:
    """The numbers of a text that no piece accounts for."""
    for piece in pieces:
        text = text.replace(piece, "")
    return NUMBER.findall(text)


def test_every_number_of_the_result_section_stands_in_a_stored_table() -> None:
    text, pieces = section(), facts()
    missing = [piece for piece in pieces if piece not in text]
    assert not missing, f"the stored tables say {missing}, the README does not"
    assert not left_over(re.sub(r"docs/\S+", "", text), pieces)


@pytest.mark.parametrize("change", [("43.4", "44.4"), ("about 19 seeds", "about 18 seeds"), ("11.8", "12.8")])
def test_another_number_is_seen(change: tuple[str, str]) -> None:
    text = section()
    assert change[0] in text
    text, pieces = text.replace(*change), facts()
    assert left_over(text, pieces) or any(piece not in text for piece in pieces)
