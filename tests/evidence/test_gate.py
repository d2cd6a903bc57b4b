"""The accuracy gate: its rule, its error rates, its files, what it refuses, and what it reports."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from fabricated import coin, train
from fabricated_gate import answering, evaluate

from rim_bench.evidence.baseline import BaselineEntry, choose, read_baseline, rescored, write_baseline
from rim_bench.evidence.gate import Check, Gate, NotComparable, adjust, check, check_all, decide, exit_code, operating
from rim_bench.evidence.power import Foresight
from rim_bench.evidence.rows import read
from rim_bench.evidence.stats import tests
from rim_bench.report import gate as report
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError

KEY = "toy-test"


def answers(n: int, lost: int, won: int) -> tuple[list[bool], list[bool]]:
    """Baseline and run: as many lost and won items, half of the others right in both."""
    same = [k % 2 == 0 for k in range(n - lost - won)]
    return [True] * lost + [False] * won + same, [False] * lost + [True] * won + same


# The rule


@pytest.mark.parametrize(
    ("n", "lost", "won", "verdict"),
    [
        (3000, 0, 0, "holds"),
        (3000, 100, 100, "holds"),
        (3000, 10, 200, "holds"),  # an improvement never fails
        (3000, 90, 89, "holds"),  # lower, but the bound is under the margin
        (3000, 60, 0, "regressed"),  # d is exactly the margin
        (3000, 59, 0, "underpowered"),  # a loss for certain, but it may be less or more than the margin
        (3000, 200, 100, "regressed"),
        (3000, 700, 640, "underpowered"),  # d is the margin, p = 0.053
        (3000, 120, 90, "holds"),
        (3000, 500, 480, "underpowered"),  # the bound is over the margin
        (499, 0, 0, "underpowered"),  # fewer than the minimum
        (499, 499, 0, "underpowered"),
        (500, 10, 10, "holds"),
    ],
)
def test_rule(n: int, lost: int, won: int, verdict: str) -> None:
    made = decide(*answers(n, lost, won), margin=0.02)
    assert made.verdict == verdict, made
    assert (made.n, made.lost, made.won) == (n, lost, won)
    assert made.difference == pytest.approx((lost - won) / n) and made.baseline - made.run == pytest.approx(
        made.difference
    )
    assert made.p == tests.mcnemar(lost, won, "greater")
    if n >= 500:  # the rule once more, as the specification words it
        d, upper, p = made.difference, made.upper, made.p
        said = "regressed" if d >= 0.02 - 1e-12 and p < 0.05 else "holds" if d <= 0 or upper < 0.02 else "underpowered"
        assert said == verdict


def test_reasons() -> None:
    assert decide(*answers(3000, 0, 0), 0.02).reason == "as accurate as the baseline on these items"
    assert decide(*answers(3000, 60, 0), 0.02).reason == "2 points lower than the baseline (p < 0.001): the margin is 2"
    assert "minimum is 500" in decide(*answers(100, 0, 0), 0.02).reason
    assert "p = 0.05" in decide(*answers(3000, 700, 640), 0.02).reason
    low = decide(*answers(3000, 500, 480), 0.02)
    assert low.smallest_margin is not None and low.smallest_margin > 0.02
    # so many items, with these shares lost and won, show it in about 80 %
    needed = items_named(low.reason)
    shares = operating(needed, 980 / 3000, 20 / 3000, 0.02)
    assert shares["holds"] == pytest.approx(0.8, abs=0.02)
    few = decide(
        *answers(500, 100, 101), 0.02
    )  # holds, for an improvement never fails; but it says what is not excluded
    assert few.verdict == "holds" and "not excluded" in few.reason
    for pair in (([], []), ([True], [])):
        with pytest.raises(ValueError, match="not pairs"):
            decide(*pair, margin=0.02)


def items_named(reason: str) -> int:
    return int(reason.split("about ")[1].split(" ")[0].replace(",", ""))


@pytest.mark.parametrize("n", [500, 1319, 3000])
@pytest.mark.parametrize("margin", [0.005, 0.02, 0.04])
def test_more_items_are_needed_than_there_are(n: int, margin: float) -> None:
    """3,000 items with 59 lost were told that about 308 are needed."""
    named = 0
    for changed in (n // 50, n // 20, n // 5, n // 2):
        for lost in range(changed // 2, changed + 1, max(1, changed // 16)):
            made = decide(*answers(n, lost, changed - lost), margin)
            if made.verdict == "underpowered":
                assert items_named(made.reason) > n, made
                named += 1
    assert named


def test_error_rates_are_those_of_the_rule_in_use() -> None:
    """`operating` adds up all outcomes; here the rule itself is run on drawn ones."""
    n, psi, margin = 800, 0.12, 0.02
    rng = np.random.default_rng(5)
    for d in (0.0, 0.02, 0.05):
        stated = operating(n, psi, d, margin)
        assert sum(stated.values()) == pytest.approx(1, abs=1e-6)
        drawn = rng.multinomial(n, [(psi + d) / 2, (psi - d) / 2, 1 - psi], size=250)
        made = [decide(*answers(n, int(b), int(c)), margin).verdict for b, c, _ in drawn]
        for verdict, share in stated.items():
            assert abs(made.count(verdict) / 250 - share) < 4 * math.sqrt(0.25 / 250)


@pytest.mark.parametrize("psi", [0.02, 0.05, 0.1, 0.2, 0.3, 0.5])
def test_false_alarms_are_at_most_5_percent(psi: float) -> None:
    """Nothing changed but items at random: red in at most 5 %, for every n, discordance and margin."""
    for n in (500, 1319, 3000):
        for margin in (0.005, 0.01, 0.02, 0.04):
            assert operating(n, psi, 0.0, margin)["regressed"] <= 0.05


@pytest.mark.parametrize(
    ("sizes", "psi", "runs"), [((1000, 1000, 1000), 0.2, 1), ((100,) * 12, 0.1, 1), ((300, 300), 0.3, 3)]
)
def test_false_alarms_of_a_whole_check_are_at_most_5_percent(sizes: Sequence[int], psi: float, runs: int) -> None:
    """Nothing changed but items at random; whole sets, levels and sources of all runs are one family, and no margin
    helps. `tests/simulations.py` has more of it.
    """
    rng, draws, red = np.random.default_rng(3), 1500, 0
    for _ in range(draws):
        drawn = [rng.multinomial(n, [psi / 2, psi / 2, 1 - psi])[:2] for _ in range(runs) for n in sizes]
        p = [tests.mcnemar(int(b), int(c), "greater") for b, c in drawn]
        sums = [sum(drawn[k * len(sizes) : (k + 1) * len(sizes)]) for k in range(runs)]
        whole = [tests.mcnemar(int(b), int(c), "greater") for b, c in sums]
        red += any(v < 0.05 for group in adjust(whole, p, p) for v in group)
    assert red / draws < 0.05 + 2 * math.sqrt(0.05 * 0.95 / draws)


def test_the_error_rate_is_shared_by_whole_sets_levels_and_sources() -> None:
    assert adjust([0.03]) == [[0.03]] and adjust([0.03], [], []) == [[0.03], [], []]
    assert adjust([0.01, 0.01], []) == [[0.02, 0.02], []]  # two runs
    assert adjust([0.9], [0.01, 0.9]) == [[1.0], [pytest.approx(0.04), 1.0]]  # half of the rate, on two levels
    assert adjust([0.9], [0.01, 0.9], [0.9])[1][0] == pytest.approx(0.08)  # levels and sources share that half
    assert adjust([0.001], [0.01, 0.9])[1][0] == pytest.approx(0.02)  # what the whole set no longer needs


def test_power_and_what_slips_through() -> None:
    for n, psi, margin in ((3000, 0.1, 0.02), (3000, 0.2, 0.02), (1319, 0.2, 0.04), (3000, 0.05, 0.02)):
        at = operating(n, psi, margin, margin)
        assert at["holds"] <= 0.0505 and at["regressed"] > 0.49  # a loss of exactly the margin passes in 5 %
        assert operating(n, psi, min(psi, 2 * margin), margin)["regressed"] > 0.97
    assert operating(1319, 0.085, 0.0, 0.02)["holds"] == pytest.approx(0.8, abs=0.02)  # SCIENCE's 8.5 %
    assert operating(3000, 0.1, -0.02, 0.02)["regressed"] < 1e-9  # an improvement


def test_the_worst_verdict_counts() -> None:
    def code(*verdicts: Any) -> int:
        return exit_code([Check("x", v, "why") for v in verdicts])

    assert [code(v) for v in ("holds", "regressed", "bad input", "not comparable", "underpowered")] == [0, 1, 2, 3, 4]
    assert code("holds", "underpowered") == 4 and code("underpowered", "regressed", "holds") == 1
    assert code("regressed", "not comparable") == 3 and code("not comparable", "bad input", "regressed") == 2
    assert code() == 2


# Files


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def trained(
    store: Store, name: str = "rim", correct: Sequence[bool] | None = None, seed: int = 0, **summary: Any
) -> Run:
    run = train(store, name, seed=seed)
    summary = {"weights_sha256": hashlib.sha256(f"{name}{seed}".encode()).hexdigest(), **summary}
    evaluate(run, coin(0.6, 600, 1) if correct is None else correct, **{"ood": 200, **summary})
    return run


def again(run: Run, **summary: Any) -> None:
    """The evaluation of `trained` once more, by now."""
    evaluate(run, coin(0.6, 600, 1), ood=200, **summary)


def stored(run: Run, split: str = "test") -> BaselineEntry:
    return rescored(run, *choose(run, split))


def checked(names: Sequence[str], store: Store, path: Path, gate: Gate, repeats: Sequence[str] = ()) -> list[Check]:
    """As if the runs were evaluated now, with the answers that their newest evaluations have."""
    return check_all(names, store, path, gate, repeats, answering)


def forge(run: Run, items: list[dict[str, Any]] | bytes, **summary: Any) -> None:
    """Puts items into the evaluation that the store itself would refuse, with the hash that fits them."""
    data = (
        items
        if isinstance(items, bytes)
        else gzip.compress("".join(json.dumps(i) + "\n" for i in items).encode(), mtime=0)
    )
    (run.path / "manifest.json").unlink(missing_ok=True)  # else nothing but that is said
    folder = run.path / "eval" / KEY
    told = json.loads((folder / "summary.json").read_text())
    told["items"] |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    (folder / "items.jsonl.gz").write_bytes(data)
    (folder / "summary.json").write_text(json.dumps(told | summary))


def test_baseline_file_round_trip(store: Store, tmp_path: Path) -> None:
    runs = [trained(store), trained(store, "cot", coin(0.9, 600, 2)), trained(store, seed=1)]
    path = tmp_path / "base.toml"
    write_baseline(path, [stored(r) for r in runs])
    written = read_baseline(path)
    entries = written.entries
    assert list(entries) == [replace(stored(r), sources={}) for r in runs] and written.note == ""
    assert entries[0].correct == sum(coin(0.6, 600, 1)) and list(entries[0].answers) == ["T=1", "T=4"]
    assert len(entries[0].flat(["T=4"])) == 200 and entries[0].flat() == coin(0.6, 600, 1)
    text = path.read_text()
    assert '"toy"' in text and f"correct = {entries[0].correct}" in text and max(map(len, text.splitlines())) < 120
    path.write_bytes(text.replace("\n", "\r\n").encode())  # as some checkouts do
    assert read_baseline(path) == written
    write_baseline(path, [stored(r) for r in runs], 'the best of "twenty"\u0085seeds')
    assert read_baseline(path).note == 'the best of "twenty"\u0085seeds'
    with pytest.raises(UsageError, match="no item has level 'T=9'"):
        entries[0].flat(["T=9"])


def test_baseline_of_3000_items_is_small(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "base.toml"
    write_baseline(path, [stored(trained(store, correct=coin(0.5, 3000, 0)))])
    assert path.stat().st_size < 7_000


def test_items_stand_in_one_order_however_they_were_stored(store: Store, tmp_path: Path) -> None:
    run = trained(store)
    before = stored(run)
    items = [item.to_json() for item in run.read_items(KEY)]
    random.Random(0).shuffle(items)
    forge(run, items)
    made = stored(run)
    assert (made.questions, made.answers) == (before.questions, before.answers)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: "", "is empty"),
        (lambda t: "\n \n", "is empty"),
        (lambda t: t[: len(t) // 2], "checksum"),
        (lambda t: t[:-2], "checksum"),
        (lambda t: t[:80], "does not begin"),
        (lambda t: t.replace('"1', '"0', 1), "checksum|does not begin"),
        (lambda t: t.replace("correct = ", "correct = 1"), "checksum"),
        (lambda t: t + "\n# a comment\n", "checksum"),
        (lambda t: t.replace("format = 2", "format = 1"), "format 1.* write it again with `rim-bench baseline"),
        (lambda t: t.replace("format = 2", "format = 3"), "format 3"),
        (lambda t: "{}", "does not begin"),
        (lambda t: t.replace("sha256", "md5"), "does not begin"),
    ],
)
def test_edited_baselines_are_refused(store: Store, tmp_path: Path, change: Any, text: str) -> None:
    path, run = tmp_path / "base.toml", trained(store)
    write_baseline(path, [stored(run)])
    path.write_text(change(path.read_text()))
    with pytest.raises(UsageError, match=text) as error:
        read_baseline(path)
    assert "\n" not in str(error.value)
    (made,) = checked([run.id], store, path, Gate(2.0))
    assert made.verdict == "bad input" and exit_code([made]) == 2


def test_a_forged_checksum_does_not_help(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "base.toml"
    write_baseline(path, [stored(trained(store))])
    lines = path.read_text().split("\n", 3)
    for change in (
        lambda b: b.replace("correct = ", "correct = 1", 1),
        lambda b: b.replace("[[entry]]", "[[other]]"),
        lambda b: b[: b.index("[[entry]]")],
        lambda b: b.replace("n = 600", "n = 601"),
        lambda b: b.replace('  "', '  "2', 1),
        lambda b: b.replace("label =", "title ="),
        lambda b: b.replace("[entry.recipe]", "[entry.recipes]"),
        lambda b: b.replace("max_tokens = 40\n", "most = 40\n"),
        lambda b: b.replace("date =", "day ="),
        lambda b: b + "nonsense",
    ):
        body = change(lines[3])
        assert body != lines[3]
        path.write_text("\n".join([*lines[:2], f'sha256 = "{hashlib.sha256(body.encode()).hexdigest()}"', body]))
        with pytest.raises(UsageError, match="does not hold what a baseline holds"):
            read_baseline(path)


def test_other_files_are_refused(store: Store, tmp_path: Path) -> None:
    trained(store)
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    for name in ("binary", "missing", "."):
        with pytest.raises(UsageError, match=r"not a text file|cannot be read"):
            read_baseline(tmp_path / name)


def test_a_baseline_is_about_one_set_of_questions(store: Store, tmp_path: Path) -> None:
    one, two = stored(trained(store)), stored(trained(store, "cot"))
    path = tmp_path / "base.toml"
    for other, text in (
        (replace(two, questions=two.questions._replace(split="validation")), "another split"),
        (replace(two, questions=two.questions._replace(ids_sha256="f" * 64)), "another item ids"),
        (one, "there twice"),
    ):
        with pytest.raises(UsageError, match=text):
            write_baseline(path, [one, other])
    with pytest.raises(UsageError, match="at least one"):
        write_baseline(path, [])
    assert not path.exists()


def test_evaluations_that_are_not_sound_are_refused(store: Store) -> None:
    run = trained(store)
    items = [item.to_json() for item in run.read_items(KEY)]
    bad = [
        ([items[0], *items[:-1]], "an id each"),
        ([{**items[0], "correct": math.nan}, *items[1:]], "damaged"),
        ([{**items[0], "correct": None}, *items[1:]], "damaged"),
        ([{**items[0], "correct": 1}, *items[1:]], "damaged"),
        ([{k: v for k, v in items[0].items() if k != "correct"}, *items[1:]], "damaged"),
        ([{k: v for k, v in items[0].items() if k != "id"}, *items[1:]], "damaged"),
        (items[:-1], "600 items"),
        (b"", "damaged"),
        (b"not gzip", "damaged"),
        (gzip.compress(b'{"id": "a", '), "damaged"),
        (gzip.compress(b"[]\n"), "damaged"),
        ([], "has no items|600 items"),
    ]
    for content, text in bad:
        forge(run, content)
        with pytest.raises(UsageError, match=text) as error:
            stored(run)
        assert "\n" not in str(error.value)
    (run.path / "eval" / KEY / "items.jsonl.gz").write_bytes(b"x")
    with pytest.raises(UsageError, match="damaged"):
        stored(run)


# Runs against a file


def against(store: Store, tmp_path: Path, *runs: Run) -> Path:
    path = tmp_path / "base.toml"
    write_baseline(path, [stored(r) for r in runs])
    return path


def test_same_run_holds_and_a_worse_one_does_not(store: Store, tmp_path: Path) -> None:
    good = coin(0.6, 3000, 1)
    run = trained(store, correct=good)
    path = against(store, tmp_path, run)
    (same,) = checked([run.id], store, path, Gate(2.0))
    assert same.verdict == "holds" and same.same_weights is True and same.notes == ()
    worse = [g and k % 20 > 0 for k, g in enumerate(good)]
    evaluate(run, worse, ood=200)
    (made,) = checked([run.id], store, path, Gate(2.0))
    assert made.verdict == "regressed" and made.decision is not None and made.decision.won == 0
    better = [g or k % 20 == 0 for k, g in enumerate(good)]
    evaluate(run, better, ood=200)
    assert checked([run.id], store, path, Gate(2.0))[0].verdict == "holds"


def test_levels_and_minimum(store: Store, tmp_path: Path) -> None:
    run = trained(store)
    path = against(store, tmp_path, run)
    (made,) = checked([run.id], store, path, Gate(2.0, 200, ("T=4",)))
    assert made.verdict == "holds" and made.decision is not None and made.decision.n == 200
    assert checked([run.id], store, path, Gate(2.0, 500, ("T=4",)))[0].verdict == "underpowered"
    assert "no item has level" in checked([run.id], store, path, Gate(2.0, 500, ("T=7",)))[0].reason
    for margin, least in ((0.0, 1), (-1.0, 1), (math.nan, 1), (math.inf, 1), (100.0, 1), (2.0, 0)):
        with pytest.raises(UsageError):
            Gate(margin, least)


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        ({"task": "other"}, "task: 'other', not 'toy'"),
        ({"task_version": 2}, "task version: '2', not '1'"),
        ({"evaluator_version": "1"}, "evaluator version: '1', not '2'"),
        ({"split": "validation"}, "split: 'validation', not 'test'"),
        ({"data_sha256": "d" * 64}, "data"),
        ({"settings": {"max_tokens": 10}}, "at most 10 tokens"),
        ({"settings": {"votes": 3, "temperature": 0.7, "sample_seed": 0}}, "votes 3"),
        ({"settings": {"split_passes": True}}, "split_passes=True"),
    ],
)
def test_other_questions_and_settings_are_not_comparable(
    store: Store, tmp_path: Path, summary: dict[str, Any], text: str
) -> None:
    path = against(store, tmp_path, trained(store))
    run = trained(store, **summary)  # the same run evaluated otherwise
    (made,) = check_all([run.id], store, path, Gate(2.0))
    assert made.verdict == "not comparable" and text in made.reason and exit_code([made]) == 3


def test_other_items_are_not_comparable(store: Store, tmp_path: Path) -> None:
    run = trained(store)
    path = against(store, tmp_path, run)
    items = [item.to_json() for item in run.read_items(KEY)]
    forge(run, [{**items[0], "id": "toy/test/9999"}, *items[1:]])
    (made,) = checked([run.id], store, path, Gate(2.0))
    assert made.verdict == "not comparable" and "item ids" in made.reason
    forge(run, [{**items[0], "level": "T=4"}, *items[1:]])
    assert "item ids" in checked([run.id], store, path, Gate(2.0))[0].reason
    evaluate(run, coin(0.6, 599, 1))
    assert "number of items: 599, not 600" in checked([run.id], store, path, Gate(2.0))[0].reason


def test_other_systems_are_not_comparable(store: Store, tmp_path: Path) -> None:
    path = against(store, tmp_path, trained(store), trained(store, "direct"))
    (made,) = checked([trained(store, "cot").id], store, path, Gate(2.0))
    assert made.verdict == "not comparable" and "holds rim, direct, not cot" in made.reason
    scratch = train(store, "rim", spec={"start": "recipe"})
    evaluate(scratch, coin(0.6, 600, 1), ood=200)
    assert "start is recipe, in the baseline cot" in checked([scratch.id], store, path, Gate(2.0))[0].reason


def test_runs_that_cannot_be_judged_are_bad_input(store: Store, tmp_path: Path) -> None:
    run = trained(store)
    path = against(store, tmp_path, run)
    never = train(store, "rim", seed=7)
    quick = trained(store, "rim", seed=8, quick=True)
    again(run)
    made = check_all(["nope", never.id, quick.id, run.id, run.id], store, path, Gate(2.0))
    assert [c.verdict for c in made] == ["bad input", "bad input", "bad input", "holds", "bad input"]
    for c, text in zip(made, ("unknown run", "not evaluated", "plumbing", "", "more than once"), strict=True):
        assert text in c.reason
    assert exit_code(made) == 2
    assert check_all([run.id], store, path, Gate(2.0, key="none"))[0].verdict == "bad input"
    (run.path / "manifest.json").unlink(missing_ok=True)
    spec = json.loads((run.path / "spec.json").read_text())
    (run.path / "spec.json").write_text(json.dumps(spec | {"seed": 3}))
    assert "does not carry the id" in checked([run.id], store, path, Gate(2.0))[0].reason


def test_an_evaluation_of_replaced_weights_is_bad_input(store: Store, tmp_path: Path) -> None:
    run = trained(store)
    path = against(store, tmp_path, run)
    again(run, weights_sha256="a" * 64)
    (run.path / "model" / "backbone.json").write_text(json.dumps({"sha256": "0" * 64}))
    (made,) = check_all([run.id], store, path, Gate(2.0))
    assert made.verdict == "bad input" and "replaced" in made.reason


def test_the_entry_of_the_same_run_or_seed_is_chosen(store: Store, tmp_path: Path) -> None:
    first, second = trained(store), trained(store, correct=coin(0.3, 600, 3), seed=1)
    path = against(store, tmp_path, first, second)
    made = checked([first.id, second.id], store, path, Gate(2.0))
    assert [c.baseline["run"] for c in made] == [first.id, second.id] and {c.verdict for c in made} == {"holds"}
    third = trained(store, seed=2)
    with pytest.raises(NotComparable, match="seeds 0, 1, and the run has seed 2"):
        check(third, "third", read_baseline(path), Gate(2.0), (), answering)
    only = against(store, tmp_path, first)
    (made_third,) = checked([third.id], store, only, Gate(2.0))
    assert (
        made_third.same_weights is False
        and any("retrainings" in n for n in made_third.notes)
        and "seed 2, baseline 0" in made_third.notes
    )


def test_of_several_evaluations_the_one_on_the_same_device_is_taken(store: Store, tmp_path: Path) -> None:
    run = trained(store)
    path = against(store, tmp_path, run)
    again(run)
    evaluate(run, coin(0.1, 600, 9), ood=200, key="toy-test-cuda", settings={"device": "cuda", "dtype": "bfloat16"})
    (made,) = check_all([run.id], store, path, Gate(2.0))
    assert made.verdict == "holds" and made.run["key"] == KEY
    (other,) = check_all([run.id], store, path, Gate(2.0, key="toy-test-cuda"))
    assert other.verdict == "regressed" and "device cuda, baseline cpu" in other.notes
    evaluate(run, coin(0.6, 600, 1), ood=200, key="toy-test-again")
    assert "choose one with --key" in check_all([run.id], store, path, Gate(2.0))[0].reason


def test_noise_floor(store: Store, tmp_path: Path) -> None:
    run = trained(store)
    path = against(store, tmp_path, run)
    elsewhere = Store(tmp_path / "repeat")
    flipped = [g if k else not g for k, g in enumerate(coin(0.6, 600, 1))]
    twin = trained(elsewhere, correct=flipped, settings={"batch_size": 7})
    (made,) = checked([run.id], store, path, Gate(2.0), [str(twin.path)])
    (noise,) = made.noise
    assert (noise.changed, noise.n) == (1, 600) and "batch size 7" in noise.how
    assert "1 of 600 answers change" in "\n".join(report.sentences(made))
    # a repeat inside the run itself needs no naming, and is never what is checked or compared
    weights = run.evaluations()[KEY].weights_sha256
    how = {"settings": {"batch_size": 9, "order": "shuffled"}, "weights_sha256": weights}
    evaluate(run, [not g for g in flipped], ood=200, key="toy-test-repeat", repeat=True, **how)
    again(run, weights_sha256=weights)
    (made,) = check_all([run.id], store, path, Gate(2.0))
    assert made.verdict == "holds" and made.run["key"] == KEY and choose(run, "test")[0] == KEY
    assert [(n.changed, n.how) for n in made.noise] == [
        (599, "device cpu, dtype float32, batch size 9, order shuffled")
    ]
    assert [e.key for e in read([run])[0]] == [KEY]
    other = trained(elsewhere, "rim", seed=5)
    (refused,) = checked([run.id], store, path, Gate(2.0), [str(other.path)])
    assert refused.verdict == "bad input" and "no repeat" in refused.reason


# Reports


def test_reports(store: Store, tmp_path: Path) -> None:
    good = coin(0.6, 3000, 1)
    runs = [trained(store, correct=good), trained(store, "cot", correct=good)]
    path = against(store, tmp_path, *runs)
    evaluate(runs[1], [g and k % 15 > 0 for k, g in enumerate(good)], ood=200)
    gate = Gate(2.0)
    checks = [
        *checked([r.id for r in runs], store, path, gate),
        Check("a|b <&>\x00\x1b`*", "bad input", 'no <run> & "no" ]]>\x07 end'),
    ]
    data = json.loads(json.dumps(report.to_data(checks, gate), allow_nan=False))
    assert (
        data["exit_code"] == 2
        and data["verdict"] == "bad input"
        and [c["exit_code"] for c in data["checks"]] == [0, 1, 2]
    )
    assert (
        data["checks"][0]["decision"]["n"] == 3000
        and data["checks"][1]["decision"]["lost"] > 0
        and data["checks"][2]["decision"] is None
    )

    root = ElementTree.fromstring(report.to_junit(checks, gate))
    (suite,) = root
    assert root.attrib["tests"] == "3" and suite.attrib["failures"] == "1" and suite.attrib["errors"] == "1"
    assert [[child.tag for child in case] for case in suite] == [["system-out"], ["failure"], ["error"]]
    assert suite[2][0].attrib["message"] == 'no <run> & "no" ]]>? end'

    page = report.table(checks, gate).to_markdown()
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len(table) == 5 and all(line.replace("\\|", "").count("|") == len(report.COLUMNS) + 1 for line in table)
    assert "**regressed**" in page and "<run>" not in page and "exit code 2" in page

    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.table(checks, gate).to_rich(160))
    text = console.export_text()
    assert "rim" in text and "regressed" in text and "3,000" in text and "Tango" in text


def test_items_that_share_a_source_are_not_taken_as_independent(store: Store, tmp_path: Path) -> None:
    """All losses in one template of ten: for independent items that is proof, and for ten sources it is one."""
    run = train(store, "rim")
    good = [k % 2 == 0 for k in range(3000)]
    worse = [g and k >= 300 for k, g in enumerate(good)]  # one template lost as a whole, and nothing else
    by_source = {"change": lambda k: {"cluster": f"template {k // 300}"}}
    evaluate(run, good, **by_source)
    write_baseline(tmp_path / "b.toml", [stored(run)])
    baseline = read_baseline(tmp_path / "b.toml")

    def check_of(correct: Sequence[bool], **how: Any) -> Check:
        evaluate(run, correct, **how)
        return check(run, run.id, baseline, Gate(2.0), (), answering)

    assert check_of(worse).verdict == "regressed"
    made = check_of(worse, **by_source)  # the whole set cannot tell, but all of that template is lost
    assert made.decision is not None and made.decision.verdict == "underpowered"
    assert made.decision.p > 0.5 and made.decision.upper > 0.1 and made.decision.sources == 10  # 1 of 2 signs of a sum
    assert made.verdict == "regressed" and made.reason.startswith("source template 0 is 50 points lower")
    assert any("share 10 sources" in note and "too small" in note for note in made.notes)
    lower = [g and not k < 80 for k, g in enumerate(good)]  # 40 items lost in one template: 1.33 points
    assert check_of(lower).verdict == "holds"
    few = [g and not k < 8 for k, g in enumerate(good)]  # four items of one template prove nothing of it
    assert check_of(few).verdict == "holds" == check_of(few, **by_source).verdict
    same = check_of(good, **by_source)
    assert same.verdict == "holds" and same.decision is not None and same.decision.upper < 0.002


def test_clusters_stand_in_the_order_of_the_answers(store: Store) -> None:
    run = train(store, "rim")
    evaluate(run, coin(0.5, 24, 1), ood=12, change=lambda k: {"cluster": "ab"[k % 2] if k < 12 else ""})
    one = stored(run)
    assert one.clusters(["T=1"]) == tuple(0 if str(k) in {"0", "2", "4", "6", "8", "10"} else 1 for k in range(12))
    assert one.clusters(["T=4"]) is None and one.clusters() is not None and len(set(one.clusters() or ())) == 2 + 12


def test_a_repeat_is_not_gated(store: Store, tmp_path: Path) -> None:
    run = trained(store)
    path = against(store, tmp_path, run)
    evaluate(run, coin(0.6, 600, 1), ood=200, key="toy-test-repeat", repeat=True)
    (made,) = check_all([run.id], store, path, Gate(2.0, key="toy-test-repeat"))
    assert made.verdict == "bad input" and "is a repeat" in made.reason


def test_the_report_says_which_questions_and_whether_anything_was_measured(store: Store, tmp_path: Path) -> None:
    """A baseline of the validation split, or of the very evaluation, holds:
    a reader must see that it is no more than that.
    """
    run, twin = trained(store, split="validation"), trained(store, split="validation", seed=1)
    write_baseline(tmp_path / "b.toml", [stored(run, "validation"), stored(twin, "validation")])
    first, second = checked([run.id, twin.id], store, tmp_path / "b.toml", Gate(2.0))
    assert "on toy, validation split: holds" in report.sentences(first)[0]
    assert report.system(first) != report.system(second) and report.system(second).endswith("seed 1")
    assert "The baseline's weights, evaluated again." in report.sentences(first)


# A regression of each kind turns the gate red


def test_the_stored_evaluation_of_the_baseline_is_none_of_the_present_code(store: Store, tmp_path: Path) -> None:
    """`eval`, break the mask, `eval` again: the second finds the first one stored, and nothing was evaluated."""
    run = trained(store)
    path = against(store, tmp_path, run)
    (made,) = check_all([run.id], store, path, Gate(2.0))
    assert made.code == 3 and "written from evaluation 'toy-test'" in made.reason and "--stored" in made.reason
    again(run, date="2020-01-01T00:00:00.000000+00:00", ms=4.0)
    (made,) = check_all([run.id], store, path, Gate(2.0))
    assert made.code == 3 and "was made at 2020" in made.reason and read_baseline(path).date in made.reason
    again(run, date=None, ms=4.0)
    assert "at a time that it does not say" in check_all([run.id], store, path, Gate(2.0))[0].reason
    again(run, ms=4.0)
    assert check_all([run.id], store, path, Gate(2.0))[0].code == 0


def test_a_baseline_of_another_evaluator_is_not_compared(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(store)
    path = against(store, tmp_path, run)
    monkeypatch.setattr("rim_bench.evidence.gate.EVALUATOR_VERSION", "99")
    (made,) = checked([run.id], store, path, Gate(2.0))
    assert made.code == 3 and "evaluator version '2', and the present one is '99'" in made.reason


def backbone_of(layers: int) -> dict[str, Any]:
    return {"backbone": {"name": "tiny", "layers": layers}}


@pytest.mark.parametrize(
    ("spec", "field", "text"),
    [
        (backbone_of(8), "backbone.layers", "backbone.layers is 8, in the baseline 4"),
        (
            {"method": {"name": "rim", "settings": {"K": 1}, "label": "rim"}},
            "method.settings.K",
            "method.settings.K is 1, in the baseline 4",
        ),
        ({"budget": {"examples": 100}}, "budget", "budget.examples is 100, in the baseline nothing"),
        ({"task": {"name": "tea", "version": 1}}, "task", "task.name is tea, in the baseline toy"),
        ({"start": "recipe"}, "start", "start is recipe, in the baseline cot"),
        ({"optimizer": {"lr": 0.5}}, "optimizer.lr", "optimizer.lr is 0.5, in the baseline 0.001"),
        ({"dtype": "bfloat16"}, "dtype", "dtype is bfloat16, in the baseline float32"),
    ],
)
def test_another_recipe_is_not_compared_unless_its_field_is_named(
    store: Store, tmp_path: Path, spec: dict[str, Any], field: str, text: str
) -> None:
    path = against(store, tmp_path, trained(store))
    other = train(store, "rim", spec=spec)
    again(other)
    (made,) = checked([other.id], store, path, Gate(2.0))
    assert made.code == 3 and text in made.reason
    (made,) = checked([other.id], store, path, Gate(2.0, across=(field,)))
    assert made.code == 0 and any(field in note and "--across" in note for note in made.notes)
    (made,) = checked([other.id], store, path, Gate(2.0, across=("seed",)))
    assert made.code == 2 and "--across 'seed'" in made.reason
    (made,) = checked([other.id], store, path, Gate(2.0, across=("backbone.layer",)))
    assert "did you mean 'backbone.layers'?" in made.reason
    assert "\n" not in made.reason and len(made.reason) < 300


def test_of_several_recipes_of_a_method_the_runs_own_is_compared(store: Store, tmp_path: Path) -> None:
    other = train(store, "rim", spec={"method": {"name": "rim", "settings": {"K": 1}, "label": "rim K=1"}})
    again(other)
    first = trained(store)
    path = against(store, tmp_path, first, other)
    for run in (first, other):
        assert checked([run.id], store, path, Gate(2.0))[0].baseline["run"] == run.id


def test_outputs_are_scored_again(store: Store, tmp_path: Path) -> None:
    """The marks of garbage are not taken on trust."""
    run = trained(store)
    path = against(store, tmp_path, run)
    again(run)
    items = [item.to_json() for item in run.read_items(KEY)]

    def changed(change: dict[str, Any], **marks: Any) -> Check:
        forge(run, [item | change | (marks if item["correct"] else {}) for item in items])
        return check_all([run.id], store, path, Gate(2.0))[0]

    made = changed({"output": "garbage"})
    assert (
        made.code == 2 and "calls the output of" in made.reason and "right, which scored again is wrong" in made.reason
    )
    assert changed({"output": "garbage"}, correct=False).code == 1
    assert "stores no output" in changed({"output": None}).reason
    assert changed({"output": "#### 1", "reference": "1", "correct": True}).reason.count("right answers (sha256)") == 1
    made = changed({"prompt_hash": "00000000"})
    assert made.code == 3 and "prompts (sha256)" in made.reason
    forge(run, items)
    with pytest.raises(UsageError, match="stores no output"):
        evaluate(run, coin(0.6, 600, 1), knob="K", value=1, key="point")  # of a curve
        rescored(run, *choose(run, "test", key="point"))


def collapsed(n: int, lost: range, won: range) -> tuple[list[bool], list[bool]]:
    good = [k % 2 == 0 for k in range(n)]
    return good, [(g and k not in lost) or k in won for k, g in enumerate(good)]


def test_a_collapse_that_another_level_makes_up_for_is_found(store: Store, tmp_path: Path) -> None:
    """T = 1 down 50 points, T = 3 up 50: no difference over all items."""
    level = {"change": lambda k: {"level": f"T={1 + k // 1000}"}}
    good, bad = collapsed(3000, range(1000), range(2000, 3000))
    run = train(store, "rim")
    evaluate(run, good, **level)
    path = against(store, tmp_path, run)
    assert checked([run.id], store, path, Gate(2.0))[0].code == 0
    evaluate(run, bad, **level)
    (made,) = checked([run.id], store, path, Gate(2.0))
    assert made.code == 1 and made.decision is not None and made.decision.verdict == "holds"
    assert made.reason.startswith("level T=1 is 50 points lower than in the baseline (p < 0.001): the margin is 2")
    assert [(p.name, p.regressed) for p in made.parts] == [("T=1", True), ("T=2", False), ("T=3", False)]
    text = "\n".join(report.sentences(made))
    assert "By level, worst first, in points: T=1 -50.00 of 1,000 (regressed), T=2 +0.00" in text
    assert report.to_data([made], Gate(2.0))["checks"][0]["parts"][0]["difference"] == 0.5
    source = {"change": lambda k: {"cluster": f"template {k // 1000}"}}  # the same of sources
    other = train(store, "cot")
    evaluate(other, good, **source)
    path = against(store, tmp_path, other)
    evaluate(other, bad, **source)
    (made,) = checked([other.id], store, path, Gate(2.0))
    assert made.code == 1 and made.reason.startswith("source template 0 is 50 points lower")


def test_several_runs_are_one_family(store: Store, tmp_path: Path) -> None:
    """What is just significant in a check of its own is not among five."""
    good = [k % 2 == 0 for k in range(1000)]
    runs = [train(store, name) for name in ("rim", "cot", "direct", "pause", "coconut")]
    for run in runs:
        evaluate(run, good)
    path = against(store, tmp_path, *runs)
    evaluate(runs[0], [(g and not 0 <= k < 40) or k in range(1, 18, 2) for k, g in enumerate(good)])
    (alone,) = checked([runs[0].id], store, path, Gate(1.0))
    assert alone.code == 1 and alone.decision is not None and 0.01 < alone.decision.p < 0.05
    among = checked([run.id for run in runs], store, path, Gate(1.0))
    assert among[0].decision is not None and among[0].decision.p == pytest.approx(5 * alone.decision.p)
    assert [c.code for c in among] == [4, 0, 0, 0, 0]


def test_what_a_baseline_foresees() -> None:
    """1,319 items of which a fifth change in a repeat, margin 2: 44 % of unchanged evaluations are underpowered."""
    made = Foresight.of(1319, 264, 2.0)
    assert made.holds is not None and made.smallest is not None and made.items is not None
    assert made.underpowered == pytest.approx(0.44, abs=0.005)
    assert operating(1319, 264 / 1319, 0.0, made.smallest / 100)["holds"] >= 0.8
    assert operating(1319, 264 / 1319, 0.0, made.smallest / 100 - 0.001)["holds"] < 0.8
    assert operating(made.items, 264 / 1319, 0.0, 0.02)["holds"] >= 0.8 and made.items > 1319
    text = report.foreseen(made)
    assert "20.02 % of 1,319" in text and "exit code 4" in text and f"{made.smallest:g} points" in text
    assert f"{made.items:,} items hold 2" in text
    assert Foresight.of(3000, 0, 2.0).holds == 1 and "underpowered" not in report.foreseen(Foresight.of(3000, 0, 2.0))
    assert "--repeat" in report.foreseen(None)
    assert Foresight.of(1319, 264, None).smallest == made.smallest
