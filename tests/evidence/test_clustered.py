"""Items that share a source: exact test, bootstrap, detectable difference, and what tables and comparisons make of
them.
"""

from __future__ import annotations

import csv
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from fabricated import coin, evaluate, train
from scipy.stats import binomtest
from stored import evaluation_of

from rim_bench.evidence.pairs import pairs
from rim_bench.evidence.rows import collect
from rim_bench.evidence.stats import clustered as cs
from rim_bench.evidence.stats import crossed, intervals, tests
from rim_bench.report import comparison
from rim_bench.storage.run_folder import Run, Store


def clustered_answers(rng: np.random.Generator, clusters: int, size: int, spread: float) -> np.ndarray:
    """Differences −1, 0, 1 of two systems that are equally good: within a source, all discordant items tend to one of
    them. `spread` in
    (0, 1) is how strongly."""
    lean = np.clip(0.5 + spread * (rng.random((clusters, 1)) - 0.5), 0, 1)
    discordant = rng.random((clusters, size)) < 0.3
    return (np.where(rng.random((clusters, size)) < lean, 1.0, -1.0) * discordant).ravel()


def test_sign_flip_by_hand() -> None:
    # Sums 3, -1, 2: |sum| = 4; of the 8 sign patterns 3+1+2, 3-1+2 and their opposites reach 4
    d, clusters = np.array([1.0, 1, 1, -1, 1, 1, 0]), [0, 0, 0, 1, 2, 2, 2]
    assert cs.sign_flip(d, clusters) == pytest.approx(4 / 8)
    assert (
        cs.sign_flip(np.zeros(4), [0, 0, 1, 1]) == 1.0 == cs.sign_flip(np.ones(5), [0] * 5)
    )  # one source says nothing
    with pytest.raises(ValueError, match="one seed each"):
        cs.sign_flip(np.array([0.5, 0.0]), [0, 1])


def test_sign_flip_is_the_share_of_all_sign_patterns() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        clusters = rng.integers(0, 9, size=60)
        clusters = np.unique(clusters, return_inverse=True)[1]
        d = rng.integers(-1, 2, size=60).astype(float)
        found = cs.cluster_sums(d, clusters)
        signs = np.array(list(itertools.product((-1, 1), repeat=len(found))))
        assert cs.sign_flip(d, clusters) == pytest.approx((np.abs(signs @ found) >= abs(found.sum()) - 1e-9).mean())


def test_sign_flip_of_single_items_is_mcnemars() -> None:
    for b, c in ((3, 8), (0, 5), (40, 70), (4, 4)):
        d = np.array([1.0] * b + [-1.0] * c + [0.0] * 100)
        assert (
            cs.sign_flip(d, range(len(d)))
            == pytest.approx(tests.mcnemar(b, c))
            == pytest.approx(binomtest(b, b + c).pvalue)
        )
        assert cs.normal_sign_flip(d, range(len(d))) == pytest.approx(tests.normal_test(d))


def test_size_where_items_share_a_source() -> None:
    """Two equally good systems: the exact test over sources rejects in at most 5 %, McNemar's far more often."""
    rng = np.random.default_rng(1)
    draws, clusters, size = 400, 40, 25
    labels = np.repeat(np.arange(clusters), size)
    by_source = plain = normal = 0
    for _ in range(draws):
        d = clustered_answers(rng, clusters, size, 0.9)
        by_source += cs.sign_flip(d, labels) < 0.05
        normal += cs.normal_sign_flip(d, labels) < 0.05
        plain += tests.mcnemar(int((d > 0).sum()), int((d < 0).sum())) < 0.05
    assert (
        by_source / draws < 0.05 + 3 * (0.05 * 0.95 / draws) ** 0.5
        and normal / draws < 0.05 + 3 * (0.05 * 0.95 / draws) ** 0.5
    )
    assert plain / draws > 0.12  # what it would have claimed


def test_bootstrap_over_sources_is_wider_and_agrees_with_the_clustered_error() -> None:
    rng = np.random.default_rng(2)
    d = clustered_answers(rng, 100, 20, 1.0)
    labels = tuple(np.repeat(np.arange(100), 20).tolist())
    one, two = (d > 0).astype(float)[None], (d < 0).astype(float)[None]

    def interval(clusters: tuple[int, ...] | None) -> intervals.Interval:
        sampler = intervals.Resampler(len(d), clusters=clusters)
        return sampler.interval(sampler.means(one, "a") - sampler.means(two, "b"))

    wide, narrow = interval(labels), interval(None)
    assert (wide.high - wide.low) > 1.3 * (narrow.high - narrow.low)
    assert wide == pytest.approx(intervals.clustered(d.tolist(), labels).interval, abs=0.006)
    assert interval(tuple(range(len(d)))) == narrow  # every item its own source: the same draws
    with pytest.raises(ValueError, match="clusters"):
        intervals.Resampler(5, clusters=(0, 1))


def test_bootstrap_over_sources_of_unequal_size_is_that_of_their_ratio() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(30), rng.integers(1, 30, 30))
    x = (rng.random(len(labels)) < rng.random(30)[labels]).astype(float)
    sampler = intervals.Resampler(len(x), resamples=3000, clusters=tuple(labels.tolist()))
    total, count = np.bincount(labels, weights=x), np.bincount(labels)
    drawn = rng.integers(30, size=(3000, 30))
    plain = total[drawn].sum(1) / count[drawn].sum(1)
    assert sampler.interval(sampler.means(x[None], "a")) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.02)


def test_detectable_uses_the_design_effect() -> None:
    d = clustered_answers(np.random.default_rng(4), 50, 20, 1.0)
    labels = np.repeat(np.arange(50), 20)
    effect = cs.design_effect(d, labels)
    assert effect is not None and effect > 2
    plain = tests.detectable_difference(1000, float((d * d).mean()))
    assert cs.detectable_clustered(d, labels) == pytest.approx(plain * effect**0.5, rel=0.01)
    assert cs.detectable_clustered(d, range(1000)) == pytest.approx(plain, rel=1e-3)  # at least 1, never less
    assert cs.detectable_clustered(np.zeros(4), [0, 0, 1, 1]) is None and cs.detectable_clustered(d, [0] * 1000) is None
    assert cs.design_effect(np.ones(4), [0, 0, 1, 1]) == 1.0


def test_error_over_seeds_goes_by_source() -> None:
    rng = np.random.default_rng(5)
    a = (rng.random((2, 400)) < np.repeat(rng.random(20), 20)).astype(float)
    b = np.ones((2, 400)) * 0.5
    labels = np.repeat(np.arange(20), 20).tolist()
    assert crossed.paired(a - b, labels).se > 2 * crossed.paired(a - b).se
    assert crossed.apart(a, b, labels).se > 2 * crossed.apart(a, b).se
    assert crossed.paired(a - b, labels).difference == pytest.approx((a - b).mean())
    assert crossed.paired(a - b, [0] * 400).bound() == float("inf") == crossed.apart(a, b, [0] * 400).bound()


def test_as_good_is_never_looser_than_for_independent_items() -> None:
    d = clustered_answers(np.random.default_rng(6), 60, 20, 1.0)
    b, c, n = int((d > 0).sum()), int((d < 0).sum()), len(d)
    plain = (tests.score_interval(b, c, n, 0.9), tests.noninferiority(b, c, n, 0.05), tests.equivalence(b, c, n, 0.05))
    interval, worse, differ = cs.as_good(d, np.repeat(np.arange(60), 20).tolist(), 0.05, *plain)
    assert interval.low < plain[0].low and interval.high > plain[0].high and worse >= plain[1] and differ > plain[2]
    t = intervals.clustered(d.tolist(), np.repeat(np.arange(60), 20).tolist(), 0.9).interval
    assert interval == t and (differ < 0.05) == (t.low > -0.05 and t.high < 0.05)
    assert cs.as_good(d, [0] * n, 0.05, *plain) == ((-1, 1), 1.0, 1.0)
    zero = cs.as_good(np.zeros(4), [0, 0, 1, 1], 0.05, intervals.Interval(-0.4, 0.4), 0.3, 0.6)
    assert zero == ((-0.4, 0.4), 0.3, 0.6)  # no discordant item proves nothing


def test_system_interval_at_the_edges() -> None:
    found = cs.system_interval([1.0] * 40, [k // 4 for k in range(40)])
    assert (
        found is not None
        and found.interval == intervals.wilson(10, 10)
        and cs.system_interval([1.0, 0.0], [0, 0]) is None
    )
    low = cs.system_interval([1.0] * 38 + [0.0] * 2, [k // 4 for k in range(40)])
    assert low is not None and low.interval.high <= 1.0


# In tables


def arms(store: Store, *, size: int = 20) -> list[Run]:
    """rim beats direct on the items of 14 of 20 templates, all of them at once, and loses on 6."""
    runs = []
    for method, better in (("direct", False), ("rim", True)):
        run = train(store, method)
        wins = {k for k in range(20) if (k < 14) == better}
        right = [k // size in wins for k in range(20 * size)]
        evaluate(run, right, change=(lambda k: {"cluster": f"template {k // size}"}) if size > 1 else None)
        runs.append(run)
    return runs


def test_a_table_of_clustered_items_goes_by_source(tmp_path: Path) -> None:
    group = collect(arms(Store(tmp_path / "a")))[0][0]
    (pair,) = pairs(group)
    assert (pair.b, pair.c) == (120, 280) and tests.mcnemar(120, 280) < 1e-10
    assert pair.p == pytest.approx(tests.mcnemar(6, 14)) and pair.higher is None and pair.verdict.here is None
    assert pair.interval.high - pair.interval.low > 0.5 and pair.detectable is not None and pair.detectable > 0.5
    table = comparison.comparison(arms(Store(tmp_path / "b")))
    grid = next(g for g in table.sections[0].panels if g.caption.startswith("Clustered"))
    direct = dict(zip(grid.columns, grid.rows[0], strict=True))
    assert direct["sources"] == "20" and direct["accuracy % (all), Wilson 95 %"] == "30.0 [25.7, 34.7]"
    assert (
        direct["clustered SE"] == "10.5"
        and direct["clustered 95 %"] == "[8.0, 52.0]"
        and direct["design effect"] == "21.0"
    )
    assert any(note.startswith("The 400 questions come from 20 sources") for note in table.sections[0].notes)
    record = next(csv.DictReader(io.StringIO(table.to_csv())))
    assert record["clusters"] == "20" and float(record["clustered_se"]) == pytest.approx(0.10513, abs=1e-4)


def test_items_without_a_shared_source_are_as_they_were(tmp_path: Path) -> None:
    table = comparison.comparison(arms(Store(tmp_path), size=1))
    assert not any(g.caption.startswith("Clustered") for g in table.sections[0].panels)
    assert not any("sources" in note for note in table.sections[0].notes)
    assert next(csv.DictReader(io.StringIO(table.to_csv())))["clusters"] == ""


def test_floor_goes_by_source(tmp_path: Path) -> None:
    """30 % right, all in 6 of 20 templates: Wilson's interval is clear of a floor of 20 %, the clustered one is not."""
    runs = arms(Store(tmp_path))
    summary = evaluation_of(runs[0], "toy-test").to_json()
    runs[0].write_evaluation(
        "toy-test", runs[0].read_items("toy-test"), summary | {"floor": {"answer": "0", "accuracy": 0.2}}
    )
    group = collect(runs[:1])[0][0]
    assert (
        group.at_floor(group.rows[0], group.scopes[0])
        and group.rows[0].accuracy(group.scopes[0].ids).interval.low > 0.2
    )


def test_a_single_source_shows_nothing(tmp_path: Path) -> None:
    store, runs = Store(tmp_path), []
    for method, p in (("direct", 0.2), ("rim", 0.9)):
        run = train(store, method)
        evaluate(run, coin(p, 100, 1), change=lambda k: {"cluster": "one"})
        runs.append(run)
    (pair,) = pairs(collect(runs)[0][0])
    assert pair.p == 1.0 and pair.interval == (-1, 1) and pair.detectable is None and pair.higher is None
    assert comparison.comparison(runs).to_markdown()
