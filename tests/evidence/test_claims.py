"""What the controls in a table say of the claims they test: supported, not shown, contradicted, withheld, or no row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fabricated import evaluate, train
from stored import evaluation_of

from rim_bench.methods.controls import CONTROLS, OWN_STARTS
from rim_bench.methods.registry import all_methods
from rim_bench.report import comparison
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.table import Section

N = 400


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def right(share: float) -> list[bool]:
    """The first questions of all: what a better method solves includes what a worse one does."""
    return [k < share * N for k in range(N)]


def arm(store: Store, name: str, share: float, *, settings: dict[str, Any] | None = None, **spec: Any) -> list[Run]:
    """Four seeds that answer alike: a verdict counts seeds."""
    method = {"method": {"name": name, "settings": settings or {}, "label": name}}
    flops = spec.pop("flops", 3.1e12)
    runs = [train(store, name, seed=seed, spec=method | spec, flops=flops) for seed in range(4)]
    for run in runs:
        evaluate(run, right(share))
    return runs


def section_of(*runs: Run | Sequence[Run]) -> Section:
    """The one section of the table of these runs."""
    flat = [r for run in runs for r in ([run] if isinstance(run, Run) else run)]
    (section,) = comparison.comparison(flat).sections
    return section


def says(runs: Sequence[Run | Sequence[Run]]) -> dict[tuple[str, str], dict[str, str]]:
    section = section_of(*runs)
    found = [g for g in section.panels if g.caption.startswith("Controls") and g.short is False]
    lines = [dict(zip(g.columns, row, strict=True)) for g in found for row in g.rows]
    return {(x["control"].split(" (")[0], x["of"].split(" (")[0]): x for x in lines}


def test_supported_tied_and_contradicted(store: Store) -> None:
    runs = [
        arm(store, "rim", 0.7),
        arm(store, "direct", 0.5),
        arm(store, "pause", 0.7),
        arm(store, "rim-shuffled-steps", 0.8),
    ]
    told = says(runs)
    assert told["direct", "rim"]["the claim is"] == "supported" and told["direct", "rim"]["method − control"] == "+20.0"
    assert told["pause", "rim"]["the claim is"] == "not shown: p = 1.000 over seeds and questions, Holm over the claims"
    shuffled = told["rim-shuffled-steps", "rim"]
    assert shuffled["the claim is"] == "contradicted: the control is higher" and shuffled["method − control"] == "-10.0"
    assert shuffled["claim it tests"] == next(c.claim for c in CONTROLS if c.method == "rim-shuffled-steps")
    assert told["direct", "pause"]["the claim is"] == "supported" and ("rim-shuffled-steps", "direct") not in told
    (missing,) = [n for n in section_of(*runs).notes if n.startswith("Controls of rim without a row")]
    assert "rim-no-grounding" in missing and "rim-blocks-removed" in missing and "rim-shuffled-steps" not in missing


def test_one_seed_shows_nothing(store: Store) -> None:
    told = says([arm(store, "rim", 0.7)[:1], arm(store, "direct", 0.5)[:1]])["direct", "rim"]
    assert told["the claim is"] == "not shown: one seed" and told["method − control"] == "+20.0"


def test_what_else_differs_keeps_a_claim_from_being_supported(store: Store) -> None:
    rim = arm(store, "rim", 0.7, settings={"K": 8, "M": 2})
    told = says([rim, arm(store, "direct", 0.5, flops=9e12), arm(store, "pause-distinct", 0.5, settings={"N": 8})])
    assert told["direct", "rim"]["the claim is"] == "not shown: higher, but another training budget"
    assert told["pause-distinct", "rim"]["the claim is"] == "not shown: higher, but N 8 instead of 32"
    alike = says([rim, arm(store, "pause-distinct", 0.5, settings={"N": 32})])
    assert alike["pause-distinct", "rim"]["the claim is"] == "supported"


def test_the_control_of_the_same_budget_is_taken(store: Store) -> None:
    told = says([arm(store, "rim", 0.7), arm(store, "direct", 0.5, flops=9e12), arm(store, "direct", 0.8)])
    assert told["direct", "rim"]["the claim is"] == "contradicted: the control is higher"


def test_a_control_that_does_not_answer_supports_nothing(store: Store) -> None:
    """20 points higher, but a quarter of the control's outputs cannot be read: that is not what the claim is about."""
    broken = arm(store, "direct", 0.5)

    def unreadable_from(share: float) -> None:
        for run in broken:
            evaluate(run, right(0.5), change=lambda k: {"unparseable": k >= share * N, "answer": "1"})

    unreadable_from(0.75)
    told = says([arm(store, "rim", 0.7), broken])["direct", "rim"]["the claim is"]
    assert told == "not shown: higher, but 25.0 % of the control's outputs are empty, unparseable or capped"
    unreadable_from(0.9)
    assert says([arm(store, "rim", 0.7), broken])["direct", "rim"]["the claim is"] == "supported"


def test_missing_controls_of_a_warm_start_are_named(store: Store) -> None:
    """rim from a CoT start beside a direct from scratch: the gain may be the start's, and the grid says so."""
    told = says([arm(store, "rim", 0.7), arm(store, "direct", 0.4, start="recipe")])
    assert told["direct", "rim"]["the claim is"] == "no row: the gain may be the start's"
    assert told["direct", "rim"]["method − control"] == "-"
    assert told["pause", "rim"]["control"] == "pause (from cot)" and told["pause", "rim"]["the claim is"].startswith(
        "no row"
    )
    scratch = says([arm(store, "rim", 0.7, start="recipe")])
    assert scratch["direct", "rim"]["the claim is"] == "no row: not tested"


def test_a_start_of_its_own_needs_direct_and_pause_from_it(store: Store) -> None:
    """coconut by its recipe trains a CoT first: direct from such weights is its control, too."""
    coconut = arm(store, "coconut", 0.7, start="recipe", settings={"epochs_cot": 6})
    section = section_of(coconut, arm(store, "direct", 0.4, start="recipe"), arm(store, "direct", 0.6))
    grid = next(g for g in section.panels if g.caption.startswith("Controls") and g.short is False)
    told = {(row[0], row[2].split()[0]): row[4] for row in grid.rows}
    assert told["direct", "thinking"] == "supported" and told["direct (from cot)", "its"] == "supported"
    assert (
        told["pause (from cot)", "its"] == "no row: the gain may be the start's"
        and told["pause", "what"] == "no row: not tested"
    )
    without = says([arm(store, "coconut", 0.7, start="recipe", settings={"epochs_cot": 0}), arm(store, "direct", 0.6)])
    assert not any(x["control"].endswith("(from cot)") for x in without.values())


def test_own_starts_are_the_stages_that_are_given_by_a_start() -> None:
    for method in (cls() for cls in all_methods().values()):
        given = {s.given_by for s in method.stages() if s.given_by is not None}
        assert given == {w for field, w in OWN_STARTS.items() if method.settings().get(field, 0) > 0}, method.name


# Evaluations that are controls


def blocks_removed(store: Store, rim: float, less: float, *others: Sequence[Run]) -> dict[str, str]:
    runs = arm(store, "rim", rim)
    for run in runs:
        evaluate(run, right(less), key="toy-test-0", effort=0)
    section = section_of(runs, *others)
    grid = next(g for g in section.panels if g.caption.startswith("Controls") and g.short is False)
    (line,) = [
        dict(zip(grid.columns, r, strict=True)) for r in grid.rows if "effort 0" in r[0] and r[1].startswith("rim")
    ]
    return line


def test_blocks_removed_is_no_headline_unless_rim_beats_direct(store: Store) -> None:
    """A large difference, and both arms may lie below direct: its size is withheld."""
    line = blocks_removed(store, 0.6, 0.2, arm(store, "direct", 0.8))
    assert line["method − control"] == "withheld"
    assert line["the claim is"] == (
        "supported; an ablation, refused as a headline: rim (from cot) is not shown to beat direct (from cot)"
    )  # fmt: skip
    beats = blocks_removed(store, 0.6, 0.2, arm(store, "direct", 0.4))
    assert (beats["method − control"], beats["the claim is"]) == ("+40.0", "supported")


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (lambda s: arm(s, "pause", 0.1), "there is no separately trained direct of its start and budget"),
        (
            lambda s: arm(s, "direct", 0.1, start="recipe"),
            "there is no separately trained direct of its start and budget",
        ),
        (lambda s: arm(s, "direct", 0.1, flops=9e12), "there is no separately trained direct of its start and budget"),
        (lambda s: arm(s, "direct", 0.6), "rim (from cot) is not shown to beat direct (from cot)"),
    ],
)
def test_a_direct_that_says_nothing_of_it_does_not_help(
    store: Store, other: Callable[[Store], list[Run]], reason: str
) -> None:
    line = blocks_removed(store, 0.6, 0.2, other(store))
    assert (
        line["method − control"] == "withheld"
        and line["the claim is"] == f"supported; an ablation, refused as a headline: {reason}"
    )


def test_blocks_that_do_nothing_or_harm(store: Store) -> None:
    assert blocks_removed(store, 0.6, 0.6, arm(store, "direct", 0.4))["the claim is"] == "not shown"
    assert blocks_removed(store, 0.6, 0.9, arm(store, "direct", 0.4))["the claim is"] == "contradicted"


@pytest.mark.parametrize(
    ("apart", "verdict"), [(0, "supported: the same answers to all 1,600"), (3, "contradicted: other answers to 3 of")]
)
def test_split_passes_are_held_against_their_own_run(store: Store, apart: int, verdict: str) -> None:
    runs = arm(store, "pause-curriculum", 0.5)
    knob = {"name": "passes", "value": "split"}
    for run in runs:
        differ = apart if run is runs[0] else 0
        evaluate(
            run, right(0.5), key="toy-test-split", change=lambda k, n=differ: {"output": "#### 7"} if k < n else {}
        )
        stored = evaluation_of(run, "toy-test-split").to_json()
        run.write_evaluation("toy-test-split", run.read_items("toy-test-split"), stored | {"knob": knob})
    told = says([runs, arm(store, "coconut", 0.5)])
    (line,) = [x for x in told.values() if "passes split" in x["control"]]
    assert line["of"] == "coconut" and line["the claim is"].startswith(verdict) and line["method − control"] == "-"


def test_two_sets_of_questions_have_a_verdict_each(store: Store) -> None:
    runs = []
    for name, inside, outside in (("direct", 0.5, 0.1), ("rim", 0.5, 0.8)):
        for seed in range(4):
            run = train(store, name, seed=seed)
            good = [k < inside * 300 for k in range(300)] + [k < outside * 100 for k in range(100)]
            evaluate(run, good, ood=100)
            runs.append(run)
    line = says(runs)["direct", "rim"]
    assert line["the claim is (in distribution)"].startswith("not shown: p = 1.00")
    assert line["the claim is (OOD)"] == "supported"


def test_tables_without_a_compared_method_have_no_grid(store: Store) -> None:
    assert (
        says([arm(store, "direct", 0.5)]) == {}
        and says([arm(store, "rim-no-grounding", 0.5), arm(store, "direct", 0.4)]) == {}
    )


def test_oracle_numbers_decide_nothing(store: Store) -> None:
    """The best block of each question would solve all of them: no pair, claim or ranking knows of it."""
    rim, direct = arm(store, "rim", 0.5), arm(store, "direct", 0.5)
    without = section_of(rim, direct)
    for run in rim:
        evaluate(
            run,
            right(0.5),
            change=lambda k: {"blocks": [{"answer": "1", "correct": True}, {"answer": "2", "correct": False}]},
        )
    section = section_of(rim, direct)
    (oracle,) = [g for g in section.panels if "never ranked" in g.caption]
    assert oracle.rows[0][2].startswith("100.0") and "oracle" in oracle.columns[2]
    assert [g for g in section.panels if g is not oracle] == list(without.panels)
    assert says([rim, direct])["direct", "rim"]["the claim is"].startswith("not shown: p = 1.00")


def retrained(store: Store, shares: dict[str, tuple[float, float, float]]) -> list[Run]:
    """Three seeds of each method; what one seed solves includes what a worse one does."""
    runs = []
    for name, three in shares.items():
        for seed, share in enumerate(three):
            run = train(store, name, seed=seed)
            evaluate(run, right(share))
            runs.append(run)
    return runs


SHARES = {"rim": (0.6, 0.65, 0.7), "direct": (0.48, 0.51, 0.54)}
OTHERS = {"pause": (0.6, 0.65, 0.68), "pause-curriculum": (0.6, 0.66, 0.7), "pause-distinct": (0.62, 0.66, 0.69)}


def test_over_seeds_a_claim_must_pass_the_family_of_claims(store: Store) -> None:
    """rim beats direct with p = 0.02 over seeds and questions: among the claims of the grid that is not shown."""
    assert says(retrained(store, SHARES))["direct", "rim"]["the claim is"] == "supported"  # the only claim with a row
    runs = retrained(store, SHARES | OTHERS)
    told = says(runs)["direct", "rim"]["the claim is"]
    assert told.startswith("not shown: p = 0.") and "over the claims, by itself p = 0.0" in told
    paired = next(g for g in section_of(runs).panels if g.caption.startswith("Paired comparisons"))
    verdicts = {(r[0].split()[0], r[1].split()[0]): r[-1] for r in paired.rows}
    assert verdicts["direct", "rim"].startswith("undecided (") and "seeds would decide" in verdicts["direct", "rim"]


def test_an_ablation_is_no_headline_where_beating_direct_is_not_shown_among_all_pairs(store: Store) -> None:
    runs, beside = retrained(store, SHARES), retrained(store, OTHERS)
    for run in runs[:3]:
        evaluate(run, right(0.2), key="toy-test-0", effort=0)

    def removed(runs: Sequence[Run]) -> str:
        grid = next(g for g in section_of(runs).panels if g.caption.startswith("Controls") and g.short is False)
        (line,) = [
            dict(zip(grid.columns, r, strict=True)) for r in grid.rows if "effort 0" in r[0] and r[1].startswith("rim")
        ]
        return line["method − control"]

    assert removed(runs) == "+45.0" and removed([*runs, *beside]) == "withheld"


def test_split_passes_of_a_run_that_answers_nothing_show_nothing(store: Store) -> None:
    runs = arm(store, "pause-curriculum", 0.0)
    for run in runs:
        for key in ("toy-test", "toy-test-split"):
            evaluate(run, right(0.0), key=key, change=lambda k: {"output": "", "answer": "", "empty": True})
        stored = evaluation_of(run, "toy-test-split").to_json()
        run.write_evaluation(
            "toy-test-split", run.read_items("toy-test-split"), stored | {"knob": {"name": "passes", "value": "split"}}
        )
    section = section_of(runs, arm(store, "coconut", 0.5))
    grid = next(g for g in section.panels if g.caption.startswith("Controls") and g.short is False)
    assert [row[4] for row in grid.rows if "split" in row[0]] == ["not shown: every output is empty"]
