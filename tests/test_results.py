"""What the repository shows is what its stored runs say."""

from __future__ import annotations

from pathlib import Path

import pytest

from rim_bench.store import Store
from rim_bench.tables import comparison

STUDIES = sorted(p.parent for p in (Path(__file__).parent.parent / "results").glob("*/table.md"))


@pytest.mark.parametrize("study", STUDIES, ids=lambda p: p.name)
def test_a_study_s_table_is_rebuilt_from_its_runs(study: Path) -> None:
    runs, damaged = Store(study).runs()
    arms = [r for r in runs if r.spec["role"] != "start"]
    made = comparison(arms, split="test", damaged=damaged)
    assert not damaged and len(arms) >= 5
    assert made.to_markdown() == (study / "table.md").read_text("utf-8")
    assert made.to_csv() == (study / "table.csv").read_text("utf-8")


def test_there_is_a_study() -> None:
    assert STUDIES
