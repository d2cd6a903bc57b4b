"""The floor of a set of questions: the best of a constant answer, a guess and shortcuts, and which rows are at it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from fabricated import evaluate, train

from rim_bench.evidence.floors import Floor, FloorKind, constant_floor, floors_label, with_shortcuts
from rim_bench.evidence.pairs import pairs
from rim_bench.evidence.rows import Group, Subset, collect
from rim_bench.evidence.stats.intervals import wilson
from rim_bench.report import comparison
from rim_bench.storage.records import EvaluationRecord, ShortcutRecord
from rim_bench.storage.run_folder import Run, Store

N, OOD = 300, 200


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def measured(*cells: tuple[str, str, bool, int, int]) -> list[dict[str, Any]]:
    return [dict(zip(("name", "level", "ood", "right", "n"), cell, strict=True)) for cell in cells]


LAST_TWO = measured(("last two", "T=1", False, 60, N), ("last two", "T=4", True, 48, OOD))
BAG = measured(("bag of words", "T=1", False, 75, N), ("bag of words", "T=4", True, 30, OOD))


def arm(store: Store, name: str, inside: int, outside: int, seed: int = 0, **summary: Any) -> Run:
    """A run that has so many of 300 questions right in distribution, and of 200 others."""
    run = train(store, name, seed=seed)
    evaluate(run, [k < inside for k in range(N)] + [k < outside for k in range(OOD)], ood=OOD, **summary)
    return run


def group_of(runs: Iterable[Run]) -> tuple[Group, Subset, Subset]:
    (group,) = collect(runs)[0]
    head, ood = (s for s in group.scopes if not s.level)
    return group, head, ood


def test_the_best_of_all_is_the_floor_of_each_set(store: Store) -> None:
    group, head, ood = group_of([arm(store, "rim", 200, 40, shortcuts=[*LAST_TWO, *BAG])])
    assert group.floor(head) == Floor(FloorKind.SHORTCUT, "bag of words", 75 / N, N, True)
    assert group.floor(ood) == Floor(FloorKind.SHORTCUT, "last two", 48 / OOD, OOD, True)
    assert group.floor(ood).interval == wilson(48, OOD)
    assert group.constant_floor(ood) == Floor(FloorKind.CONSTANT, "0", 0.1, OOD)


def test_a_row_inside_the_shortcut_floor_is_at_the_floor(store: Store) -> None:
    """20 % of a constant 10: clearly above the best constant answer, and less than the last two operations give."""
    runs = [arm(store, "rim", 200, 40), arm(store, "direct", 200, 20)]
    group, _, ood = group_of(runs)
    assert [group.at_floor(row, ood) for row in group.rows] == [True, False]  # direct, rim
    runs = [arm(store, n, 200, k, seed=1, shortcuts=LAST_TWO) for n, k in (("rim", 40), ("direct", 20), ("cot", 90))]
    group, head, ood = group_of(runs)
    assert {row.method: group.at_floor(row, ood) for row in group.rows} == {"rim": True, "direct": True, "cot": False}
    assert not any(group.at_floor(row, head) for row in group.rows)
    verdicts = {(p.first.method, p.second.method): p.verdict for p in pairs(group) if p.scope == ood}
    assert verdicts["direct", "rim"].at_floor and not verdicts["cot", "rim"].at_floor


def test_which_floor_it_is_stands_in_notes_csv_and_cells(store: Store) -> None:
    table = comparison.comparison([arm(store, "rim", 200, 40, shortcuts=LAST_TWO)])
    notes = table.sections[0].notes
    assert "Floor (in distribution): the shortcut 'last two' scores 20.0 % [15.9, 24.9], the best constant answer" in (
        "\n".join(notes)
    )
    low = "All accuracies are at the floor and cannot be ranked."
    assert any(note.startswith("Floor (OOD): the shortcut 'last two' scores 24.0 %") and low in note for note in notes)
    record = next(r for r in table.records if r["set"] == "OOD")
    assert (record["floor_of"], record["floor"], record["at_floor"]) == ("the shortcut 'last two'", 0.24, True)
    assert (record["floor_low"], record["floor_high"]) == wilson(48, OOD)
    whole, brief = table.sections[0].panels[:2]
    assert whole.rows[0][-1].endswith("at the floor") and "at the floor" not in whole.rows[0][3]
    assert "20.0°" in brief.rows[0] and brief.caption.endswith("° = at the floor")


def test_constants_where_shortcuts_get_less(store: Store) -> None:
    group, head, _ = group_of([arm(store, "rim", 200, 40, shortcuts=measured(("start", "T=1", False, 29, N)))])
    assert group.floor(head) == Floor(FloorKind.CONSTANT, "0", 0.1, N, measured=True)
    notes = comparison.comparison([Run(store.folder / group.rows[0].runs[0])]).sections[0].notes
    assert any(n.startswith("Floor (in distribution): the best constant answer ('0')") for n in notes)
    assert [n.startswith("Floor (OOD)") for n in notes if "shortcuts were not measured" in n] == [True]


def test_an_old_evaluation_keeps_its_floor_and_its_bytes(store: Store) -> None:
    run = arm(store, "rim", 200, 40)
    group, head, ood = group_of([run])
    assert not group.floor(head).measured and group.floor(ood).kind is FloorKind.CONSTANT
    notes = comparison.comparison([run]).sections[0].notes
    assert any(n.startswith("Floor (OOD)") and "; shortcuts were not measured." in n for n in notes)
    (stored,) = run.evaluations().values()
    assert "shortcuts" not in stored.to_json() and "shortcuts" not in EvaluationRecord().to_json()


def test_rows_of_other_training_data_share_the_highest(store: Store) -> None:
    """The shortcut is the better known the more rows it was fitted on; a row without any does not lower it."""
    runs = [
        arm(store, "rim", 200, 40, shortcuts=LAST_TWO),
        arm(store, "direct", 200, 40, shortcuts=measured(("last two", "T=1", False, 66, N))),
        arm(store, "cot", 200, 40),
    ]
    group, head, ood = group_of(runs)
    assert (group.floor(head).value, group.floor(ood).value) == (66 / N, 48 / OOD)


def test_a_shortcut_counts_only_on_all_questions_of_a_set() -> None:
    constant = constant_floor(["a"] * 6 + ["b"] * 4, [0.0] * 10)
    assert constant == Floor(FloorKind.CONSTANT, "a", 0.6, 10)
    scores = [ShortcutRecord(name="s", level=level, ood=False, right=5, n=5) for level in ("T=1", "T=2", "T=3")]
    assert with_shortcuts(constant, [scores[:1]], {(False, "T=1"), (False, "T=2")}) == constant
    assert with_shortcuts(constant, [scores], {(False, "T=1"), (False, "T=2")}).value == 1.0
    assert with_shortcuts(constant, [scores], {(True, "T=1"), (True, "T=2")}) == constant


def test_a_guess_among_choices() -> None:
    floor = constant_floor(["a", "b", "c"], [0.5] * 3)
    assert (floor.kind, floor.value, floor.text()) == (FloorKind.GUESS, 0.5, "a guess among the choices")


def test_one_answer_is_judged_by_the_constant(store: Store) -> None:
    """A row with one answer to all has not left chance; one at the shortcut's floor has."""
    group, _, ood = group_of([arm(store, "rim", 200, 40, shortcuts=LAST_TWO), arm(store, "direct", 200, 20)])
    left = {row.method: len(group.left_chance(row, ood)) for row in group.rows}
    assert left == {"rim": 1, "direct": 0} and all(group.at_floor(row, ood) for row in group.rows)


def test_a_legend_says_what_the_floors_are() -> None:
    constant, shortcut = Floor(FloorKind.CONSTANT, "0", 0.1, 10), Floor(FloorKind.SHORTCUT, "last two", 0.2, 10, True)
    assert floors_label([constant, constant]) == "best constant answer"
    assert floors_label([shortcut]) == "best shortcut"
    assert floors_label([shortcut, constant]) == "best of constant answer, shortcut"
