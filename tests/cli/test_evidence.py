"""The commands about evidence, with the exit codes a CI system sees; and what a comparison of two systems may say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from fabricated import coin, evaluate, train
from fabricated_gate import answering
from fabricated_gate import evaluate as evaluate_for_gate

from rim_bench.cli import main
from rim_bench.evidence.two_systems import versus
from rim_bench.report import two_systems
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError

Command = Callable[..., tuple[int, str, str]]
N = 1000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def rim_bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], store: Store) -> Command:
    """`rim-bench` with arguments, as a shell would call it: exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: str, out: bool = True) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rim-bench", *arguments, *(("--out", str(store.root)) if out else ())])
        with pytest.raises(SystemExit) as stopped:
            main.main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


def arm(store: Store, name: str, p: float = 0.6, *, seed: int = 0, n: int = N, **summary: Any) -> Run:
    run = train(store, name, seed=seed)
    evaluate(run, coin(p, n, 10 * seed + 1), **summary)
    return run


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` evaluates by itself: here an engine that answers as the newest stored evaluation does."""
    monkeypatch.setattr(
        "rim_bench.evaluate.stored_runs.evaluate_now", lambda run, task, asked, *how: answering(run, task, asked)
    )


def gated(store: Store, name: str, p: float = 0.6, *, seed: int = 0, n: int = N, **summary: Any) -> Run:
    """`arm` by the present scorer, with a date."""
    run = train(store, name, seed=seed)
    evaluate_for_gate(run, coin(p, n, 10 * seed + 1), **summary)
    return run


def losing(correct: Sequence[bool], every: int) -> list[bool]:
    return [c and k % every > 0 for k, c in enumerate(correct)]


# Exit codes of the gate


@pytest.mark.usefixtures("engine")
def test_baseline_and_check_from_0_to_4(rim_bench: Command, store: Store, tmp_path: Path) -> None:
    file, base = str(tmp_path / "base.toml"), coin(0.6, N, 1)
    rim, cot, other = gated(store, "rim"), gated(store, "cot"), gated(store, "pause")
    code, out, _ = rim_bench("baseline", rim.id, cot.id, "-o", file)
    assert code == 0 and f"{100 * sum(base) / N:.2f} % of 1,000" in out and file in out
    assert rim_bench("check", rim.id, cot.id, "--against", file, "--margin", "2")[0] == 0

    evaluate_for_gate(rim, losing(base, 10))
    code, out, err = rim_bench("check", rim.id, cot.id, "--against", file, "--margin", "2")
    assert code == 1 and "regressed" in out and err == ""
    code, out, _ = rim_bench("check", cot.id, "--against", file, "--margin", "2", "--min-n", "1001")
    assert code == 4 and "1,000 items are too few" in out
    code, _, err = rim_bench("check", other.id, rim.id, "--against", file, "--margin", "2")
    assert code == 3 and err.startswith("error: ") and "not pause" in err and err.count("\n") == 1
    code, _, err = rim_bench("check", "nope", other.id, rim.id, "--against", file, "--margin", "2")
    assert code == 2 and "unknown run 'nope'" in err


@pytest.mark.usefixtures("engine")
def test_check_of_another_task_split_or_evaluator_exits_with_3(
    rim_bench: Command, store: Store, tmp_path: Path
) -> None:
    file = str(tmp_path / "base.toml")
    rim_bench("baseline", gated(store, "rim").id, "-o", file)
    for summary in ({"task": "other"}, {"split": "validation"}, {"evaluator_version": "9"}, {"data_sha256": "0" * 64}):
        run = gated(store, "rim", **summary)  # type: ignore[arg-type]
        assert rim_bench("check", run.id, "--against", file, "--margin", "2", "--stored")[0] == 3


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    "arguments",
    [
        ["--margin", "nan"], ["--margin", "0"], ["--margin", "-2"], ["--margin", "inf"], ["--margin", "two"], [],
        ["--margin", "2", "--min-n", "0"], ["--margin", "2", "--level", "T=9"], ["--margin", "2", "--key", "none"],
        ["--margin", "2", "--across", "nothing"],
        ["--margin", "2", "--stored", "--key", "none"],
        ["--margin", "2", "--repeat", "none"], ["--margin", "2", "--nonsense"],
    ],
)  # fmt: skip
def test_bad_arguments_exit_with_2(rim_bench: Command, store: Store, tmp_path: Path, arguments: list[str]) -> None:
    file, run = str(tmp_path / "base.toml"), gated(store, "rim")
    rim_bench("baseline", run.id, "-o", file)
    code, _, err = rim_bench("check", run.id, "--against", file, *arguments)
    assert code == 2 and "error: " in err and "Traceback" not in err


@pytest.mark.usefixtures("engine")
def test_damaged_baselines_exit_with_2_and_still_report(rim_bench: Command, store: Store, tmp_path: Path) -> None:
    file, run = tmp_path / "base.toml", gated(store, "rim")
    rim_bench("baseline", run.id, "-o", str(file))
    whole = file.read_text()
    reports = [tmp_path / "c.json", tmp_path / "c.xml", tmp_path / "c.md"]
    flags = [x for pair in zip(("--json", "--junit", "--summary"), map(str, reports), strict=True) for x in pair]
    for content in ("", whole[:-30], whole.replace("1", "0", 40)):
        file.write_text(content)
        code, _, err = rim_bench("check", run.id, "--against", str(file), "--margin", "2", *flags)
        assert code == 2 and str(file) in err and err.count("\n") == 1
        assert json.loads(reports[0].read_text())["exit_code"] == 2
        assert ElementTree.parse(reports[1]).getroot().attrib["errors"] == "1" and "bad input" in reports[2].read_text()
    file.unlink()
    assert rim_bench("check", run.id, "--against", str(file), "--margin", "2")[0] == 2


@pytest.mark.usefixtures("engine")
def test_baseline_refuses(rim_bench: Command, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "base.toml"
    run, quick, never = gated(store, "rim"), gated(store, "cot", quick=True), train(store, "pause")
    for names, text in (
        ([quick.id], "plumbing"),
        ([never.id], "not evaluated"),
        (["nope"], "unknown run"),
        ([run.id, run.id], "twice"),
        ([run.id, "--split", "tset"], "unknown split"),
        ([run.id, "--split", "validation"], "not evaluated on validation"),
        ([run.id, "--task", "other"], "of task other"),
        ([run.id, "--key", "other"], "no evaluation 'other'"),
    ):
        code, _, err = rim_bench("baseline", *names, "-o", str(file))
        assert code == 2 and text in err and not file.exists()
    evaluate_for_gate(run, coin(0.5, N, 3), key="second")
    assert "choose one with --key" in rim_bench("baseline", run.id, "-o", str(file))[2]
    assert rim_bench("baseline", run.id, "--key", "second", "-o", str(file))[0] == 0
    evaluate_for_gate(run, coin(0.5, N, 4), knob="K", value=1, key="point")  # of a curve, which has no outputs
    code, _, err = rim_bench("baseline", run.id, "--key", "point", "-o", str(file))
    assert code == 2 and "stores no output" in err
    votes = {"votes": 3, "temperature": 0.7, "sample_seed": 0}
    evaluate_for_gate(run, coin(0.5, N, 4), key="one", settings=votes)  # `eval --votes 3`, which is no default
    assert rim_bench("baseline", run.id, "--key", "one", "-o", str(file))[0] == 0
    code, out, _ = rim_bench("check", run.id, "--against", str(file), "--margin", "2")
    assert code == 0 and "votes 3 at temperature 0.7" in out
    code, out, err = rim_bench("check", run.id, "--against", str(file), "--margin", "2", "--stored")
    assert code == 3 and "written from evaluation 'one'" in err


def test_baseline_says_what_a_margin_will_do(rim_bench: Command, store: Store, tmp_path: Path) -> None:
    """Discordance is measured by a repeat, stored in the run itself or in another folder."""
    file, same = str(tmp_path / "base.toml"), {"weights_sha256": "a" * 64}
    run = gated(store, "rim", n=1319, **same)
    code, out, _ = rim_bench("baseline", run.id, "-o", file, "--margin", "2")
    assert code == 0 and "no repeat" in out and "eval RUN --repeat" in out
    fifth = [c != (k % 5 == 0) for k, c in enumerate(coin(0.6, 1319, 1))]
    twin = gated(Store(tmp_path / "again"), "rim", **same)
    evaluate_for_gate(twin, fifth, settings={"batch_size": 7}, **same)
    other = ("baseline", run.id, "-o", file, "--repeat", str(twin.path))
    for more in (), ("--margin", "2"):
        code, out, _ = rim_bench(*other, *more)
        assert code == 0 and "20.02 % of 1,319 answers change" in out and "3.1 points is the smallest margin" in out
        assert ("44 % are underpowered (exit code 4)" in out) == bool(more)
    evaluate_for_gate(run, fifth, key="toy-test-repeat", repeat=True, **same)
    code, out, _ = rim_bench("baseline", run.id, "-o", file, "--margin", "5", "--note", "seed 0 of three")
    assert code == 0 and "at a margin of 5 points 99 % of unchanged evaluations hold" in out
    assert 'note = "seed 0 of three"' in Path(file).read_text()
    assert rim_bench(*other, "--margin", "-1")[0] == 2


@pytest.mark.usefixtures("engine")
def test_a_log_of_80_columns_shows_verdict_accuracies_and_items_first(
    rim_bench: Command, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    file, page = str(tmp_path / "base.toml"), tmp_path / "page" / "summary.md"
    run = gated(store, "rim")
    rim_bench("baseline", run.id, "-o", file, "--note", "the median of 20 seeds")
    page.parent.mkdir()
    page.write_text("# Another step\n")
    for times in (1, 2):  # a step adds to the page of its job
        _, out, _ = rim_bench("check", run.id, "--against", file, "--margin", "2", "--summary", str(page))
        assert page.read_text().startswith("# Another step\n")
        assert page.read_text().count("rim-bench check: holds (exit code 0)") == times
    assert max(map(len, out.splitlines())) <= 80
    (row,) = [line for line in out.splitlines() if "holds" in line and "│" in line]
    share = f"{100 * sum(coin(0.6, N, 1)) / N:.2f} %"
    assert [cell.strip() for cell in row.split("│")[2:6]] == ["holds", share, share, "1,000"]
    assert "the median of 20 seeds" in " ".join(out.split())


# Power


def test_power(rim_bench: Command, tmp_path: Path) -> None:
    to = tmp_path / "p.json"
    code, out, _ = rim_bench("power", "--n", "1319", "--discordance", "0.2", "--json", str(to), out=False)
    assert (
        code == 0
        and "3.4" in out
        and json.loads(to.read_text())["lines"][0]["detectable"] == pytest.approx(0.0345, abs=1e-4)
    )
    code, out, _ = rim_bench("power", "--n", "1319", "--difference", "2", "--margin", "2", out=False)
    assert code == 0 and all(v in out for v in ("2.4", "3.4", "4.2", "items for 2"))
    for arguments in (
        [],
        ["--n", "-1"],
        ["--n", "100", "--discordance", "20"],
        ["--n", "100", "--discordance", "0.01", "--difference", "2"],
    ):
        code, _, err = rim_bench("power", *arguments, out=False)
        assert code == 2 and "error: " in err


# Two systems


def test_compare_two_runs(rim_bench: Command, store: Store) -> None:
    good = coin(0.7, N, 1)
    rim, cot = arm(store, "rim", 0.7), train(store, "cot")
    evaluate(cot, losing(good, 8))
    code, out, _ = rim_bench("compare", rim.id, cot.id, "--format", "json")
    made = json.loads(out)
    (reading,) = made["readings"]
    lost = sum(c and k % 8 == 0 for k, c in enumerate(good))
    assert code == 0 and reading["discordant"] == [lost, 0] and reading["difference"] == pytest.approx(lost / N)
    assert reading["p"] == pytest.approx(2 / 2**lost) and reading["holm"] == reading["p"] and reading["n"] == N
    assert reading["higher"] is None and reading["higher_weights"] == "rim (from cot)"  # one seed: no verdict on rim
    assert made["headline"].startswith("These weights of rim (from cot) are more accurate than those of cot (from cot)")
    assert (
        reading["margin"]["noninferior"] and not reading["margin"]["equivalent"] and reading["retraining_bound"] is None
    )
    low, high = reading["interval"]
    assert low < lost / N < high and reading["detectable"] > 0
    code, out, _ = rim_bench("compare", rim.id, cot.id)
    assert code == 0 and "exact McNemar" in out and f"{lost} / 0" in out and "One training seed each" in out
    code, out, _ = rim_bench("compare", rim.id, cot.id, "--format", "markdown")
    assert code == 0 and out.count("\n| ") >= 10 and "&lt; 0.001" in out
    assert rim_bench("compare", rim.id, cot.id, "--format", "html")[0] == 2


def test_compare_equal_systems_is_equivalent_only_with_enough_items(store: Store) -> None:
    big, small = [], []
    for name in ("rim", "cot"):
        run = train(store, name)
        flips = {k for k in range(0, 4000, 100) if (k // 100) % 2 == (name == "rim")}
        base = coin(0.5, 4000, 1)
        evaluate(run, [not b if k in flips else b for k, b in enumerate(base)])
        big.append(run.id)
        other = train(store, name, seed=5)
        evaluate(other, coin(0.5, 200, 1 if name == "rim" else 2))
        small.append(other.id)
    (reading,) = versus(store, *big).readings
    assert reading.verdict.here is None and reading.margin.equivalent and (reading.margin.p_equivalent or 1) < 0.05
    assert "equivalent within 1 point" in two_systems.headline(versus(store, *big))
    (reading,) = versus(store, *small).readings
    assert not reading.margin.equivalent and "not shown to be as good" in two_systems.headline(versus(store, *small))
    assert versus(store, *big, margin=0.2).readings[0].margin.equivalent is False


def test_compare_groups_of_seeds(store: Store) -> None:
    groups = {}
    for name, p in (("rim", 0.7), ("cot", 0.5)):
        runs = [train(store, name, seed=s) for s in (0, 1, 2)]
        for s, run in enumerate(runs):
            evaluate(run, coin(p + 0.01 * s, N, 10 * s + (name == "rim")), ood=200)
        groups[name] = ",".join(r.id for r in runs)
    made = versus(store, groups["rim"], groups["cot"])
    inside, ood = made.readings
    assert (inside.scope.name, len(inside.scope.ids), ood.scope.name) == ("in distribution", 800, "OOD")
    assert inside.retraining is not None and inside.higher is not None
    assert inside.margin.noninferior and (inside.margin.p_equivalent or 0) > 0.9
    assert inside.contrast.first.solved.shape == (3, 800) and inside.accuracies[0].sd > 0
    half = (inside.margin.interval.high - inside.margin.interval.low) / 2
    assert half < inside.retraining  # 90 % against 95 %
    text = two_systems.table(made).to_markdown()
    assert "sd over 3 seeds" in text and "retraining bound" in text and "z over questions" in text
    one = versus(store, groups["rim"], groups["cot"].split(",")[0])
    assert one.readings[0].verdict.one_seed and not one.readings[0].margin.noninferior
    assert "Seeds: 3 and 1" in " ".join(two_systems.notes(one))
    seeds = groups["rim"].split(",")
    assert "[" in versus(store, seeds[0], seeds[1]).first  # two seeds of one recipe are told apart


def test_replicates_are_compared_and_said_to_be(store: Store, tmp_path: Path) -> None:
    """One specification trained twice has one id: two results folders may hold other weights."""
    twin = Store(tmp_path / "again")
    for at, weights, threads in ((store, "a" * 64, 1), (twin, "b" * 64, 2)):
        run = train(at, "rim")
        evaluate(run, coin(0.6 if at is store else 0.5, N, 1), weights_sha256=weights)
        stored = run.training()
        assert stored is not None
        fingerprint = {"torch": "2.13.0", "device": "cpu", "host_cpu": "X", "capability": "AVX2", "threads": threads}
        run.finish(
            lambda folder: (folder / "weights").write_bytes(b"w") and None,
            stored.to_json() | {"fingerprints": [fingerprint]},
        )
    made = versus(store, run.id, str(run.path))
    assert not made.ablation and made.readings[0].verdict.one_seed
    (note,) = [n for n in two_systems.notes(made) if n.startswith("Replicates")]
    assert "AVX2, 1 threads; torch" in note and note.endswith("2 threads).")
    with pytest.raises(UsageError, match="nothing to compare"):
        versus(store, run.id, str(store.folder / run.id))


def test_compare_refuses_by_name(store: Store) -> None:
    rim = arm(store, "rim")
    for field, value, text in (
        ("task_title", "Other", "other task"),
        ("split", "validation", "not evaluated on test"),
        ("evaluator_version", "2", "other evaluator version, '1' and '2'"),
        ("task_version", 2, "other task version"),
        ("data_sha256", "d" * 64, "other data, 'cccccccccccc' and 'dddddddddddd'"),
    ):
        run = arm(store, "cot", **{field: value})
        with pytest.raises(UsageError, match=text):
            versus(store, rim.id, run.id)
    fewer = arm(store, "pause", n=N - 1)
    with pytest.raises(UsageError, match="other items"):
        versus(store, rim.id, fewer.id)
    cot = arm(store, "cot")
    twin = arm(store, "rim", seed=1)
    point = arm(store, "coconut")
    for first, second, text in (
        (rim.id, rim.id, "nothing to compare"),
        (f"{rim.id},{rim.id}", cot.id, "names a run twice"),
        (f"{rim.id},{cot.id}", point.id, "not training seeds of one system: both have seed 0"),
        (f"{rim.id},{twin.id}", rim.id, "share 1 runs but not all"),
        (",", cot.id, "names no run"),
        ("nope", cot.id, "unknown run"),
        (f"{rim.id}@K=9", cot.id, "no evaluations 'K=9'"),
        (train(store, "direct", seed=4).id, cot.id, "not evaluated"),
    ):
        with pytest.raises(UsageError, match=text):
            versus(store, first, second)
    for margin in (0.0, -1.0, float("nan"), 100.0):
        with pytest.raises(UsageError, match="--margin"):
            versus(store, rim.id, cot.id, margin=margin)


def test_an_ablation_is_no_headline_unless_the_whole_arm_beats_direct(rim_bench: Command, store: Store) -> None:
    """Blocks removed from a trained model: the difference is large, and both arms may still lie below direct."""
    seeds = range(4)
    rims = [arm(store, "rim", 0.7, seed=seed) for seed in seeds]
    for run in rims:
        evaluate(run, coin(0.3, N, 1), knob="K", value=0, key="removed")
    low = ",".join(arm(store, "direct", 0.5, seed=seed).id for seed in seeds)
    high = ",".join(arm(store, "direct", 0.8, seed=seed + 10).id for seed in seeds)
    rim, removed = ",".join(r.id for r in rims), ",".join(f"{r.id}@K=0" for r in rims)
    for second in ("@K=0", "@removed"):
        code, out, err = rim_bench("compare", rims[0].id, rims[0].id + second)
        assert code == 2 and "--baseline" in err and out == ""
    for order in ([rim, removed], [removed, rim]):  # the whole arm is found in either place
        beats, loses = versus(store, *order, low), versus(store, *order, high)
        assert (
            beats.ablation
            and beats.allowed
            and "An ablation" in two_systems.headline(beats)
            and "beats the separately trained direct" in two_systems.headline(beats)
        )
        assert loses.ablation and not loses.allowed and two_systems.headline(loses).startswith("Refused as a headline")
        assert len(loses.readings) == 1 and len(loses.against) == 2
    data = two_systems.to_data(versus(store, rim, removed, high))
    assert data["headline"] is None and data["refused"].startswith("Refused")
    one = versus(store, rims[0].id, f"{rims[0].id}@K=0", low.split(",")[0])
    assert not one.allowed  # from one seed nothing is shown
    near = []
    for seed in range(20, 24):
        near.append(train(store, "direct", seed=seed).id)
        evaluate(Run(store.folder / near[-1]), losing(coin(0.7, N, 1), 200))  # hardly lower: not beaten
    assert not versus(store, rim, removed, ",".join(near)).allowed


def test_other_seeds_do_not_make_an_ablation_a_comparison(store: Store) -> None:
    """ "With minus without" of one recipe is refused as a headline whichever seeds stand on the two sides."""
    one, two = arm(store, "rim", 0.7), arm(store, "rim", 0.68, seed=1)
    evaluate(two, coin(0.3, N, 1), knob="K", value=0, key="removed")
    with pytest.raises(UsageError, match="one model at two settings"):
        versus(store, one.id, f"{two.id}@removed")
    made = versus(store, one.id, f"{two.id}@removed", arm(store, "direct", 0.8).id)
    assert made.ablation and not made.allowed
    assert not versus(store, one.id, two.id).ablation  # two trainings at one setting


def test_an_ablation_needs_a_direct_that_is_beaten_among_all_pairs(store: Store) -> None:
    """rim beats direct with p = 0.03 over seeds and questions, but not after Holm over the three pairs: no headline."""

    def three(name: str, shares: Sequence[float], **point: Any) -> str:
        runs = []
        for seed, share in enumerate(shares):
            run = train(store, name, seed=seed)
            evaluate(run, [k < share * N for k in range(N)], **point)
            runs.append(run.id)
        return ",".join(runs)

    rim = three("rim", (0.6, 0.65, 0.7))
    weaker = ",".join(
        f"{run}@removed" for run in three("rim", (0.58, 0.63, 0.68), knob="K", value=1, key="removed").split(",")
    )
    made = versus(store, rim, weaker, three("direct", (0.5, 0.48, 0.6)))
    assert (made.against[0].contrast.p_seeds or 1) < 0.05 <= made.against[0].holm
    assert not made.allowed and made.against[0].verdict.undecided


def test_the_baseline_of_an_ablation_is_a_separately_trained_direct(store: Store) -> None:
    rim, cot, direct = arm(store, "rim", 0.7), arm(store, "cot", 0.2), arm(store, "direct", 0.3)
    evaluate(rim, coin(0.3, N, 1), knob="K", value=1)
    with pytest.raises(UsageError, match="'cot': it must be a separately trained direct"):
        versus(store, rim.id, f"{rim.id}@K=1", cot.id)
    with pytest.raises(UsageError, match="one of the compared runs"):
        versus(store, rim.id, direct.id, direct.id)
    other = arm(store, "direct", 0.3, seed=1, evaluator_version="2")
    with pytest.raises(UsageError, match="evaluator version"):
        versus(store, rim.id, f"{rim.id}@K=1", other.id)
    made = versus(store, rim.id, cot.id, direct.id)  # of two trained systems it is shown beside
    assert (
        made.allowed and not made.ablation and "Against direct (from cot): rim (from cot)" in two_systems.headline(made)
    )


def test_sources_give_a_clustered_error(store: Store) -> None:
    runs = []
    for name, p in (("rim", 0.7), ("cot", 0.5)):
        run = arm(store, name, p)
        evaluate(run, coin(p, N, 1), change=lambda k: {"cluster": f"template {k // 5}"})
        runs.append(run.id)
    made = versus(store, *runs)
    clustered = made.readings[0].clustered
    assert clustered is not None and clustered.clusters == N // 5
    text = two_systems.table(made).to_markdown()
    assert clustered.mean == pytest.approx(made.readings[0].contrast.value) and "200 sources" in text
    assert "exact sign-flip over sources" in text and "the wider of Tango score and t over sources" in text
    assert any("by source" in note for note in two_systems.notes(made))
    data = two_systems.to_data(made)["readings"][0]
    assert data["clusters"] == 200 and data["clustered_se"] == pytest.approx(clustered.se)


def test_evidence_needs_no_torch() -> None:
    evidence = [f"evidence.{name}" for name in ("baseline", "gate", "stats.tests", "power", "two_systems")]
    names = [*evidence, "report.gate", "report.two_systems", "cli.evidence"]
    code = f"""
import importlib, sys
for name in {names}:
    importlib.import_module("rim_bench." + name)
print(*[m for m in ("torch", "transformers", "lm_eval", "scipy", "numpy", "pandas") if m in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_the_baseline_of_an_ablation_is_trained_alike(store: Store) -> None:
    """A direct from scratch, of another budget or on another backbone says nothing of what a warm-started rim
    gained.
    """
    rim = arm(store, "rim", 0.7)
    evaluate(rim, coin(0.3, N, 1), knob="K", value=0)
    gpt2 = {"name": "gpt2", "layers": 12}
    for spec, flops, text in (
        ({"start": "recipe"}, 3.1e12, "other start"),
        ({}, 9e12, "other budget"),
        ({"backbone": gpt2}, 3.1e12, "other backbone"),
    ):
        direct = train(store, "direct", spec=spec, flops=flops)
        evaluate(direct, coin(0.1, N, 2))
        with pytest.raises(UsageError, match=text):
            versus(store, rim.id, f"{rim.id}@K=0", direct.id)
        cot = arm(store, "cot", 0.2)
        assert versus(store, rim.id, cot.id, direct.id).allowed  # beside two trained systems it may stand
    capped = train(store, "direct", seed=7)
    evaluate(capped, coin(0.1, N, 2), knob="max_tokens", value=1, key="capped")
    with pytest.raises(UsageError, match="not at its default setting"):
        versus(store, rim.id, f"{rim.id}@K=0", f"{capped.id}@capped")
