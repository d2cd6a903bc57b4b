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
from fabricated import coin, evaluate, train

from rim_bench.evidence.baseline import BaselineEntry, choose, measured, read_baseline, write_baseline
from rim_bench.evidence.gate import Check, Gate, NotComparable, check, check_all, decide, exit_code, operating
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
    told = decide(*answers(3000, 500, 480), 0.02)
    assert told.smallest_margin is not None and told.smallest_margin > 0.02
    needed = int(told.reason.split("needs about ")[1].split(" ")[0].replace(",", ""))
    again = decide(*answers(needed, round(needed * 0.98 / 6), round(needed * 0.98 / 6)), 0.02)
    assert again.smallest_margin == pytest.approx(0.02, rel=0.01)  # so many items do it
    few = decide(
        *answers(500, 100, 101), 0.02
    )  # holds, for an improvement never fails; but it says what is not excluded
    assert few.verdict == "holds" and "not excluded" in few.reason
    for pair in (([], []), ([True], [])):
        with pytest.raises(ValueError, match="not pairs"):
            decide(*pair, margin=0.02)


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


def stored(run: Run) -> BaselineEntry:
    return measured(run, *choose(run, "test"))


def forge(run: Run, items: list[dict[str, Any]] | bytes, **summary: Any) -> None:
    """Puts items into the evaluation that the store itself would refuse, with the hash that fits them."""
    data = (
        items
        if isinstance(items, bytes)
        else gzip.compress("".join(json.dumps(i) + "\n" for i in items).encode(), mtime=0)
    )
    folder = run.path / "eval" / KEY
    told = json.loads((folder / "summary.json").read_text())
    told["items"] |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    (folder / "items.jsonl.gz").write_bytes(data)
    (folder / "summary.json").write_text(json.dumps(told | summary))


def test_baseline_file_round_trip(store: Store, tmp_path: Path) -> None:
    runs = [trained(store), trained(store, "cot", coin(0.9, 600, 2)), trained(store, seed=1)]
    path = tmp_path / "base.toml"
    write_baseline(path, [stored(r) for r in runs])
    entries = read_baseline(path)
    assert list(entries) == [replace(stored(r), sources={}) for r in runs]
    assert entries[0].correct == sum(coin(0.6, 600, 1)) and list(entries[0].answers) == ["T=1", "T=4"]
    assert len(entries[0].flat(["T=4"])) == 200 and entries[0].flat() == coin(0.6, 600, 1)
    text = path.read_text()
    assert '"toy"' in text and f"correct = {entries[0].correct}" in text and max(map(len, text.splitlines())) < 120
    path.write_bytes(text.replace("\n", "\r\n").encode())  # as some checkouts do
    assert read_baseline(path) == entries
    with pytest.raises(UsageError, match="no item has level 'T=9'"):
        entries[0].flat(["T=9"])


def test_baseline_of_3000_items_is_small(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "base.toml"
    write_baseline(path, [stored(trained(store, correct=coin(0.5, 3000, 0)))])
    assert path.stat().st_size < 6_000


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
        (lambda t: t.replace("format = 1", "format = 2"), "format 2"),
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
    (made,) = check_all([run.id], store, path, Gate(2.0))
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
        ([items[0], *items[:-1]], "more than once"),
        ([{**items[0], "correct": math.nan}, *items[1:]], "neither right nor wrong but nan"),
        ([{**items[0], "correct": None}, *items[1:]], "neither right nor wrong but None"),
        ([{**items[0], "correct": 1}, *items[1:]], "neither right nor wrong but 1"),
        ([{k: v for k, v in items[0].items() if k != "correct"}, *items[1:]], "cannot be read"),
        ([{k: v for k, v in items[0].items() if k != "id"}, *items[1:]], "cannot be read"),
        (items[:-1], "600 items, but there are 599"),
        (b"", "has no items|cannot be read"),
        (b"not gzip", "cannot be read"),
        (gzip.compress(b'{"id": "a", '), "cannot be read"),
        (gzip.compress(b"[]\n"), "cannot be read"),
        ([], "has no items"),
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
    (same,) = check_all([run.id], store, path, Gate(2.0))
    assert same.verdict == "holds" and same.same_weights is True and same.notes == ()
    worse = [g and k % 20 > 0 for k, g in enumerate(good)]
    evaluate(run, worse, ood=200)
    (made,) = check_all([run.id], store, path, Gate(2.0))
    assert made.verdict == "regressed" and made.decision is not None and made.decision.won == 0
    better = [g or k % 20 == 0 for k, g in enumerate(good)]
    evaluate(run, better, ood=200)
    assert check_all([run.id], store, path, Gate(2.0))[0].verdict == "holds"


def test_levels_and_minimum(store: Store, tmp_path: Path) -> None:
    run = trained(store)
    path = against(store, tmp_path, run)
    (made,) = check_all([run.id], store, path, Gate(2.0, 200, ("T=4",)))
    assert made.verdict == "holds" and made.decision is not None and made.decision.n == 200
    assert check_all([run.id], store, path, Gate(2.0, 500, ("T=4",)))[0].verdict == "underpowered"
    assert "no item has level" in check_all([run.id], store, path, Gate(2.0, 500, ("T=7",)))[0].reason
    for margin, least in ((0.0, 1), (-1.0, 1), (math.nan, 1), (math.inf, 1), (100.0, 1), (2.0, 0)):
        with pytest.raises(UsageError):
            Gate(margin, least)


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        ({"task": "other"}, "task: 'other', not 'toy'"),
        ({"task_version": 2}, "task version: '2', not '1'"),
        ({"evaluator_version": "2"}, "evaluator version: '2', not '1'"),
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
    (made,) = check_all([run.id], store, path, Gate(2.0))
    assert made.verdict == "not comparable" and "item ids" in made.reason
    forge(run, [{**items[0], "level": "T=4"}, *items[1:]])
    assert "item ids" in check_all([run.id], store, path, Gate(2.0))[0].reason
    evaluate(run, coin(0.6, 599, 1))
    assert "number of items: 599, not 600" in check_all([run.id], store, path, Gate(2.0))[0].reason


def test_other_systems_are_not_comparable(store: Store, tmp_path: Path) -> None:
    path = against(store, tmp_path, trained(store), trained(store, "direct"))
    (made,) = check_all([trained(store, "cot").id], store, path, Gate(2.0))
    assert made.verdict == "not comparable" and "holds rim, direct, not cot" in made.reason
    scratch = train(store, "rim", spec={"start": "recipe"})
    evaluate(scratch, coin(0.6, 600, 1), ood=200)
    assert "from recipe" in check_all([scratch.id], store, path, Gate(2.0))[0].reason


def test_runs_that_cannot_be_judged_are_bad_input(store: Store, tmp_path: Path) -> None:
    run = trained(store)
    path = against(store, tmp_path, run)
    never = train(store, "rim", seed=7)
    quick = trained(store, "rim", seed=8, quick=True)
    made = check_all(["nope", never.id, quick.id, run.id, run.id], store, path, Gate(2.0))
    assert [c.verdict for c in made] == ["bad input", "bad input", "bad input", "holds", "bad input"]
    for c, text in zip(made, ("unknown run", "not evaluated", "plumbing", "", "more than once"), strict=True):
        assert text in c.reason
    assert exit_code(made) == 2
    assert check_all([run.id], store, path, Gate(2.0, key="none"))[0].verdict == "bad input"
    spec = json.loads((run.path / "spec.json").read_text())
    (run.path / "spec.json").write_text(json.dumps(spec | {"seed": 3}))
    assert "does not carry the id" in check_all([run.id], store, path, Gate(2.0))[0].reason


def test_an_evaluation_of_replaced_weights_is_bad_input(store: Store, tmp_path: Path) -> None:
    run = trained(store)
    path = against(store, tmp_path, run)
    (run.path / "model" / "backbone.json").write_text(json.dumps({"sha256": "0" * 64}))
    (made,) = check_all([run.id], store, path, Gate(2.0))
    assert made.verdict == "bad input" and "replaced" in made.reason


def test_the_entry_of_the_same_run_or_seed_is_chosen(store: Store, tmp_path: Path) -> None:
    first, second = trained(store), trained(store, correct=coin(0.3, 600, 3), seed=1)
    path = against(store, tmp_path, first, second)
    made = check_all([first.id, second.id], store, path, Gate(2.0))
    assert [c.baseline["run"] for c in made] == [first.id, second.id] and {c.verdict for c in made} == {"holds"}
    third = trained(store, seed=2)
    with pytest.raises(NotComparable, match="seeds 0, 1, and the run has seed 2"):
        check(third, "third", read_baseline(path), Gate(2.0))
    only = against(store, tmp_path, first)
    (made_third,) = check_all([third.id], store, only, Gate(2.0))
    assert (
        made_third.same_weights is False
        and any("retrainings" in n for n in made_third.notes)
        and "seed 2, baseline 0" in made_third.notes
    )


def test_of_several_evaluations_the_one_on_the_same_device_is_taken(store: Store, tmp_path: Path) -> None:
    run = trained(store)
    path = against(store, tmp_path, run)
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
    (made,) = check_all([run.id], store, path, Gate(2.0), [str(twin.path)])
    (noise,) = made.noise
    assert (noise.changed, noise.n) == (1, 600) and "batch size 7" in noise.how
    assert "1 of 600 answers change" in "\n".join(report.sentences(made))
    # a repeat inside the run itself needs no naming, and is never what is checked or compared
    weights = run.evaluations()[KEY].weights_sha256
    again = {"settings": {"batch_size": 9, "order": "shuffled"}, "weights_sha256": weights}
    evaluate(run, [not g for g in flipped], ood=200, key="toy-test-repeat", repeat=True, **again)
    (made,) = check_all([run.id], store, path, Gate(2.0))
    assert made.verdict == "holds" and made.run["key"] == KEY and choose(run, "test")[0] == KEY
    assert [(n.changed, n.how) for n in made.noise] == [
        (599, "device cpu, dtype float32, batch size 9, order shuffled")
    ]
    assert [e.key for e in read([run])[0]] == [KEY]
    other = trained(elsewhere, "rim", seed=5)
    (refused,) = check_all([run.id], store, path, Gate(2.0), [str(other.path)])
    assert refused.verdict == "bad input" and "no repeat" in refused.reason


# Reports


def test_reports(store: Store, tmp_path: Path) -> None:
    good = coin(0.6, 3000, 1)
    runs = [trained(store, correct=good), trained(store, "cot", correct=good)]
    path = against(store, tmp_path, *runs)
    evaluate(runs[1], [g and k % 15 > 0 for k, g in enumerate(good)], ood=200)
    gate = Gate(2.0)
    checks = [
        *check_all([r.id for r in runs], store, path, gate),
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
    write_baseline(tmp_path / "b.toml", [measured(run, *choose(run, "test", None))])
    entries = read_baseline(tmp_path / "b.toml")

    def checked(correct: Sequence[bool], **how: Any) -> Check:
        evaluate(run, correct, **how)
        return check(run, run.id, entries, Gate(2.0))

    assert checked(worse).verdict == "regressed"
    made = checked(worse, **by_source)
    assert made.verdict == "underpowered" and made.decision is not None
    assert (
        made.decision.p == 0.5 and made.decision.upper > 0.1 and made.decision.sources == 10
    )  # 1 of 2 signs of the only sum
    assert any("share 10 sources" in note and "too small" in note for note in made.notes)
    lower = [g and not k < 80 for k, g in enumerate(good)]  # 40 items lost in one template: 1.33 points
    assert checked(lower).verdict == "holds" and checked(lower, **by_source).verdict == "underpowered"
    same = checked(good, **by_source)
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
    write_baseline(
        tmp_path / "b.toml", [measured(run, *choose(run, "validation")), measured(twin, *choose(twin, "validation"))]
    )
    first, second = check_all([run.id, twin.id], store, tmp_path / "b.toml", Gate(2.0))
    assert first.same_evaluation and "on toy, validation split: holds" in report.sentences(first)[0]
    assert "nothing was evaluated again" in "\n".join(report.sentences(first))
    assert report.system(first) != report.system(second) and report.system(second).endswith("seed 1")
    evaluate(
        run,
        coin(0.6, 600, 1),
        ood=200,
        ms=9.0,
        split="validation",
        weights_sha256=first.run["weights_sha256"],
        flops=2e6,
    )
    (again,) = check_all([run.id], store, tmp_path / "b.toml", Gate(2.0))
    assert not again.same_evaluation and "The baseline's weights, evaluated again." in report.sentences(again)
