"""Verdicts are data: whatever their sentences say, ranks, claims, headlines and exit codes are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fabricated import evaluate, train

from rim_bench.evidence import degenerate, gate
from rim_bench.evidence.claims import ClaimOutcome, ClaimVerdict, findings
from rim_bench.evidence.degenerate import OutputFlag
from rim_bench.evidence.gate import Check, exit_code
from rim_bench.evidence.pairs import Differs, Verdict, pairs
from rim_bench.evidence.ranking import contests, ranking
from rim_bench.evidence.rows import LeftOut, Reason, collect
from rim_bench.evidence.two_systems import versus
from rim_bench.report import comparison, sections
from rim_bench.report import gate as gate_report
from rim_bench.report.leaderboard import leaderboard
from rim_bench.storage.run_folder import Omission, Run, Store
from rim_bench.storage.selection import Apart, CheckpointRule

N = 400
WORDS = "words that say at the floor, higher, this pair alone, supported: tied; not evaluated yet"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def arms(store: Store, shares: Mapping[str, Sequence[float]], **spec: Any) -> list[Run]:
    """A run of each method and seed that solves the first questions, so many of all."""
    runs = []
    for name, all_seeds in shares.items():
        for seed, share in enumerate(all_seeds):
            run = train(store, name, seed=seed, spec=spec)
            evaluate(run, [k < share * N for k in range(N)])
            runs.append(run)
    return runs


@pytest.fixture
def change_words(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Changes every word that is made of a verdict, an outcome, a flag or a reason."""

    def change() -> None:
        for kind in (Verdict, ClaimVerdict, LeftOut, Omission):
            monkeypatch.setattr(kind, "text", lambda *_: WORDS)
        monkeypatch.setattr(OutputFlag, "text", property(lambda _: WORDS))
        for member in (*ClaimOutcome, *Differs, *Apart):
            monkeypatch.setattr(member, "_value_", WORDS)

    return change


def ranks(runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    return [
        (contest.title, place.row.full_label, place.text)
        for contest in contests(runs)[0]
        for scope in contest.scopes
        for place in ranking(contest, scope, pairs(contest.group))
    ]


def claims(runs: Sequence[Run]) -> list[tuple[str, str, dict[str, tuple[str, str]]]]:
    out = []
    for group in collect(runs)[0]:
        for f in findings(group, pairs(group)):
            out.append((f.control, f.of, {scope: (says.outcome.name, says.points) for scope, says in f.says.items()}))
    return out


def test_what_a_verdict_says_in_words(store: Store) -> None:
    arms(store, {"rim": (0.9,) * 3, "direct": (0.5,) * 3})
    (pair,) = pairs(collect(store.runs()[0])[0][0])
    higher = pair.verdict
    assert higher.higher is not None and higher.text() == "rim (from cot) higher" and higher.text("lower") == "lower"
    other = replace(higher, differs=(Differs.START, Differs.BUDGET))
    assert other.text("second higher") == "second higher (other start) (other budget)"
    assert Verdict().text("higher") == "undecided (no number of seeds would decide)"
    assert Verdict(seeds_needed=1_000).text() == "undecided (1,000 seeds would decide)" and Verdict().undecided
    assert Verdict(at_floor=True).text() == "undecided (both at the floor)"
    assert Verdict(equivalent=True).text() == "equivalent" and not Verdict(equivalent=True).undecided
    assert Verdict(one_seed=True).text() == "one seed (these weights: no difference shown)"
    assert Verdict(one_seed=True, here=higher.higher).text() == "one seed (these weights: rim (from cot) higher)"


def test_one_seed_gives_no_verdict_and_ranks_nobody(store: Store) -> None:
    runs = arms(store, {"rim": (0.9,), "direct": (0.5,)})
    (pair,) = pairs(collect(runs)[0][0])
    assert pair.higher is None and pair.verdict.here is not None and pair.verdict.here.row.method == "rim"
    assert {text for _, _, text in ranks(runs)} == {"1-2"}


def test_what_a_control_says_in_words() -> None:
    assert ClaimVerdict(ClaimOutcome.SUPPORTED, difference=0.2) == (ClaimOutcome.SUPPORTED, "", 0.2, "")
    assert (ClaimVerdict(ClaimOutcome.SUPPORTED).text(), ClaimVerdict(ClaimOutcome.SUPPORTED).points) == (
        "supported",
        "-",
    )
    assert (
        ClaimVerdict(ClaimOutcome.NOT_SHOWN, "tied", -0.01).text() == "not shown: tied"
        and ClaimVerdict(ClaimOutcome.NOT_SHOWN, "", -0.01).points == "-1.0"
    )
    withheld = ClaimVerdict(ClaimOutcome.SUPPORTED, difference=0.3, refused="no direct")
    assert (
        withheld.points == "withheld" and withheld.text() == "supported; an ablation, refused as a headline: no direct"
    )
    assert Omission.of("no file: looked for /a: looked for /b") == Omission("no file", "/a: looked for /b")
    assert all(
        Omission.of(text).text() == text for text in ("no hub", "no file: looked for /a, /b", "no file: looked for ")
    )


def test_changed_words_change_no_rank_and_no_claim(store: Store, change_words: Callable[[], None]) -> None:
    """Pairs that are decided and some that are not, a control that is higher, and an arm at the floor."""
    shares = {
        "rim": (0.6, 0.63, 0.67, 0.7),
        "direct": (0.48, 0.5, 0.52, 0.54),
        "pause": (0.6, 0.63, 0.66, 0.68),
        "rim-no-grounding": (0.2, 0.21, 0.21, 0.22),
    }
    runs = arms(store, shares | {"rim-shuffled-steps": (0.97, 0.98, 0.98, 0.99), "cot": (0.05, 0.04, 0.05, 0.05)})
    before = ranks(runs), claims(runs)
    outcomes = {outcome for _, _, says in before[1] for outcome, _ in says.values()}
    assert outcomes == {"SUPPORTED", "NOT_SHOWN", "CONTRADICTED"} and len({text for _, _, text in before[0]}) > 1
    assert {p.verdict.undecided for g in collect(runs)[0] for p in pairs(g)} == {True, False}
    change_words()
    assert (ranks(runs), claims(runs)) == before
    controls = [
        g
        for s in comparison.comparison(runs).sections
        for g in s.panels
        if g.caption.startswith("Controls") and g.short
    ]
    assert {row[2] for g in controls for row in g.rows} == {WORDS}  # the words did change


def test_changed_words_change_no_claim_at_the_floor(store: Store, change_words: Callable[[], None]) -> None:
    runs = arms(store, {"rim": (0.05, 0.05), "direct": (0.04, 0.04)})
    (group,) = collect(runs)[0]
    (pair,) = pairs(group)
    assert pair.verdict.at_floor and pair.higher is None
    change_words()
    (finding,) = [f for f in findings(group, pairs(group)) if f.control.startswith("direct")]
    assert [s.reason for s in finding.says.values()] == ["both at the floor"]


def test_changed_words_change_no_headline(store: Store, change_words: Callable[[], None]) -> None:
    """An ablation whose arm is not shown to beat direct is refused, and one that beats it is not."""

    def systems(at: Store, direct: Sequence[float]) -> tuple[str, str, str]:
        runs = arms(at, {"rim": (0.6, 0.65, 0.7), "direct": direct})
        rim = [r for r in runs if r.spec.method.name == "rim"]
        for run, share in zip(rim, (0.58, 0.63, 0.68), strict=True):
            evaluate(run, [k < share * N for k in range(N)], knob="K", value=1, key="removed")
        own = [r.id for r in rim]
        return ",".join(own), ",".join(f"{i}@removed" for i in own), ",".join(r.id for r in runs if r not in rim)

    near, far = Store(store.folder / "near"), Store(store.folder / "far")
    asked = [(near, *systems(near, (0.5, 0.53, 0.56))), (far, *systems(far, (0.1, 0.11, 0.12)))]
    before = [versus(*a).allowed for a in asked]
    assert before == [False, True]
    change_words()
    assert [versus(*a).allowed for a in asked] == before


def test_changed_words_leave_out_the_same(store: Store, change_words: Callable[[], None]) -> None:
    runs = arms(store, {"rim": (0.6,), "direct": (0.5,)})
    runs += arms(store, {"coconut": (0.5,)}, selection=CheckpointRule("16-split").record())
    runs += [*arms(store, {"pause": (0.5,)}, role="trial"), train(store, "cot")]
    expected = [Reason.ON_TEST, Reason.NOT_EVALUATED, Reason.TRIAL]
    assert sorted((o.reason for o in collect(runs)[1]), key=lambda r: r.name) == sorted(expected, key=lambda r: r.name)
    before = len(comparison.comparison(runs).left_out), [(o.run, o.reason) for o in contests(runs)[1]]
    assert before[0] == 3  # the run that selects on test items has a section of its own, which waits for its answers
    change_words()
    assert (len(comparison.comparison(runs).left_out), [(o.run, o.reason) for o in contests(runs)[1]]) == before


def test_changed_words_flag_the_same(store: Store) -> None:
    """The terminal's grid leaves out bounds as data, however they are worded."""
    run = train(store, "rim")
    evaluate(run, [k < 200 for k in range(N)], change=lambda k: {"capped": 200 <= k < 300})
    (group,) = collect([run])[0]
    (flag,) = degenerate.flags(group, pairs(group))
    assert flag.text == "25.0 % capped outputs (above 2 %)"
    long, short = sections.degenerate_panels([flag._replace(bound="more than may be")])
    assert long.rows[0][1] == "25.0 % capped outputs (more than may be)" and short.rows[0][1] == "25.0 % capped outputs"


def test_changed_words_change_no_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"regressed": ([True] * 600, [True] * 500 + [False] * 100), "holds": ([True] * 600, [True] * 600)}
    monkeypatch.setattr(gate.Decision, "why", lambda *_: WORDS)
    monkeypatch.setattr(gate_report, "title", lambda _: WORDS)
    for verdict, code in (("regressed", 1), ("holds", 0)):
        made = gate.decide(*answers[verdict], 0.02)
        checks = [Check("run", made.verdict, made.reason, decision=made)]
        data = gate_report.to_data(checks, gate.Gate(2.0))
        assert (made.verdict, made.reason, exit_code(checks)) == (verdict, WORDS, code)
        assert (data["verdict"], data["exit_code"]) == (verdict, code)


def test_a_section_of_the_leaderboard_makes_short_labels(store: Store) -> None:
    """What all rows of a section share in brackets is said once; in records labels are whole."""
    runs = arms(store, {"rim": (0.6,), "direct": (0.5,)})
    ((contest,), _), board = contests(runs), leaderboard(runs)
    assert contest.shared == "from cot" and [r.label for r in contest.group.rows] == ["direct", "rim"]
    assert {c.label for c in contest.curves} == {"direct", "rim"} and "All rows: from cot." in board.table.sections[
        0
    ].notes
    assert {r["label"] for r in board.table.records if "label" in r} == {"direct (from cot)", "rim (from cot)"}
    ((mixed,), _) = contests([*runs, *arms(store, {"pause": (0.5,)}, start="recipe")])
    assert mixed.shared == "" and [r.label for r in mixed.group.rows] == [
        "direct (from cot)",
        "pause",
        "rim (from cot)",
    ]


def untrained(store: Store, name: str, share: float) -> None:
    """A row of which nothing was trained."""
    run = train(store, name, flops=None, examples=0, inherited=0, spec={"start": "recipe", "parent": None})
    evaluate(run, [k < share * N for k in range(N)])


def test_a_row_without_training_is_the_same_beside_every_seed(store: Store) -> None:
    untrained(store, "base", 0.5)
    untrained(store, "base-cot", 0.7)
    arms(store, {"rim": (0.9, 0.88, 0.92), "cot": (0.9,)})
    found = {(p.first.method, p.second.method): p for p in pairs(collect(store.runs()[0])[0][0])}

    def pair(*names: str) -> Any:
        return next(p for key, p in found.items() if set(key) == set(names))

    several = pair("base", "rim")
    assert several.higher is not None and several.higher.method == "rim" and several.p_seeds is not None
    assert several.verdict.differs == (Differs.TRAINED,) and "only one of them trained" in several.verdict.text()
    seeds = pair("base", "rim").verdict
    assert not seeds.one_seed and seeds.seeds_needed is None
    alone = pair("base", "cot").verdict
    assert alone.one_seed and alone.higher is None and alone.here is not None and alone.here.row.method == "cot"
    both = pair("base", "base-cot")
    assert both.higher is not None and both.higher.method == "base-cot" and not both.verdict.differs
    assert both.verdict.text() == "base-cot higher" and both.p_seeds < 1e-6
    text = comparison.comparison(store.runs()[0]).to_markdown()
    assert "Nothing was trained, and so no seed to count: base, base-cot." in text
    assert "One seed: cot (from cot). One seed gives" in text


def test_no_number_of_seeds_decides_between_rows_without_any(store: Store) -> None:
    untrained(store, "base", 0.5)
    untrained(store, "base-cot", 0.51)
    (pair,) = pairs(collect(store.runs()[0])[0][0])
    assert pair.verdict.undecided and pair.verdict.text() == "undecided (no number of seeds would decide)"


def test_rows_without_training_are_ranked_among_themselves_alone(store: Store) -> None:
    untrained(store, "base", 0.5)
    untrained(store, "base-cot", 0.7)
    arms(store, {"rim": (0.9,) * 3})
    found = ranks(store.runs()[0])
    alone = {(label, place) for title, label, place in found if title.endswith("open division, no training")}
    assert alone == {("base-cot", "1"), ("base", "2")}
    assert [label for title, label, _ in found if "no training" not in title] == ["rim (from cot)"]
    assert not claims([run for run in store.runs()[0] if run.spec.untrained])
