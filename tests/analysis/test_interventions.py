"""The command on runs that are built to use their blocks, or not to: verdicts, controls, resuming, what is stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fabricated import train
from trunks import OPTIONS, QUESTIONS, Ignored, asked_run

from rim_bench.analysis import interventions as measuring
from rim_bench.analysis.edits import Source
from rim_bench.analysis.options import InterventionOptions
from rim_bench.analysis.roles import intervene
from rim_bench.analysis.suite import Intervention
from rim_bench.evidence.interventions import Family, check_controls, families, read_suite
from rim_bench.methods.method import Method
from rim_bench.models.rim import Rim
from rim_bench.runs import api
from rim_bench.storage.interventions import DONOR, KEYS_AND_VALUES, OWN, RESIDUAL
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError

FLAGS = ["--task", "chain", "--limit", "48", "--max-tokens", "1", "--device", "cpu", "--eval-batch-size", "16"]
BLIND = Rim(K=2, M=0, readout_sees_question=False)


def options(out: Path, **changes: Any) -> InterventionOptions:
    return InterventionOptions(out=out, **{**OPTIONS, **changes})


def bits(family: Family, name: str, field: str = "changed") -> str:
    return str(getattr(family.suites[0].items[name], field))


@pytest.mark.parametrize(
    ("method", "word"), [(BLIND, "used"), (Ignored(K=2, M=0), "not used")], ids=["only blocks", "blocks ignored"]
)
def test_a_verdict_on_blocks_that_carry_all_or_nothing(
    method: Method, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    run = asked_run(Store(tmp_path), method, monkeypatch)
    margins = {"delta": 0.2, "delta_changed": 0.3}  # what so few questions can show
    [family] = intervene([run], options(tmp_path, verdict_only=True), **margins)
    verdict = family.verdict
    assert (verdict.word, verdict.seeds, verdict.these_weights_only) == (word, 1, True)
    assert family.accuracy == 1.0 and verdict.n > QUESTIONS / 2
    total, through, direct = (getattr(family.mediations[0], k).value for k in ("total", "through", "direct"))
    assert total > 0.9
    assert (through, direct) == ((total, 0.0) if word == "used" else (0.0, total))
    knocked = "knock-out: what the answer sees, all layers, question"
    assert ("1" in bits(family, knocked)) == (word == "not used")  # a blind answer loses nothing with the question


def test_a_whole_suite_is_stored_with_its_table_and_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None, call: Callable[..., tuple[int, str, str]]
) -> None:
    run = asked_run(Store(tmp_path), Rim(K=2, M=0), monkeypatch)
    code, out, err = call("intervene", run.id, *FLAGS, "--out", tmp_path, "-f", "json")
    assert code == 0, err
    [shown] = json.loads(out)["families"]
    assert shown["verdict"]["seeds"] == 1 and len(shown["cells"]) == 8  # 2 sites, 2 layers, 2 blocks
    [key] = run.interventions.all()
    folder = run.interventions.folder(key)
    assert {p.name for p in folder.iterdir()} == {
        "items.jsonl.gz", "summary.json", "table.md", "table.csv", "heat_map.svg", "heat_map.png"
    }  # fmt: skip
    text = (folder / "table.md").read_text("utf-8")
    assert "on these weights only" in text and "Controls hold" in text and "No positive control" in text
    suite = read_suite(run, key)
    assert suite.summary.flops and suite.summary.segments == ("block 1", "block 2") and not suite.summary.left_out
    assert len(suite.asked.as_evaluated) == QUESTIONS and suite.asked.ids[0] == "chain/test/0"
    by_site = [suite.items[f"{DONOR}: {site}, layer 0, block 1"] for site in (KEYS_AND_VALUES, RESIDUAL)]
    assert not any("1" in item.changed for item in by_site)  # what is fed to a block is the same for every question
    assert suite.items["early exit: prompt, 0"].logprob != suite.items["clean"].logprob
    for words in (
        "more segments: prompt, 4",
        "ordinary tokens: prompt, all",
        "knock-out: what segments see, all layers, all",
    ):
        assert len(suite.items[words].changed) == QUESTIONS
    run.verify()
    assert run.write_manifest() == []
    before = (folder / "items.jsonl.gz").read_bytes()
    monkeypatch.setattr(measuring, "run_all", None)  # nothing is measured again
    table = api.intervene([run], out=tmp_path, progress=False, **OPTIONS)
    assert (folder / "items.jsonl.gz").read_bytes() == before
    assert {"intervention", "loss", "p_holm"} <= set(table.frame().columns)


def test_a_killed_suite_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    run = asked_run(Store(tmp_path), Rim(K=2, M=0), monkeypatch)
    asked = options(tmp_path, verdict_only=True, eval_batch_size=16)
    real, calls = measuring.run_all, []

    def killed(trained: Any, batches: Any) -> Any:
        calls.append(batches)
        if len(calls) == 3:  # the model's own answers, and one batch of interventions
            raise KeyboardInterrupt
        return real(trained, batches)

    monkeypatch.setattr(measuring, "run_all", killed)
    with pytest.raises(KeyboardInterrupt):
        intervene([run], asked)
    assert not run.interventions.all()
    calls.clear()
    monkeypatch.setattr(measuring, "run_all", lambda trained, batches: calls.append(batches) or real(trained, batches))
    intervene([run], asked)
    assert len(calls) == 1 + 2  # of three batches two are left
    [key] = run.interventions.all()
    resumed = [i.to_json() for i in run.interventions.items(key)]
    other = asked_run(Store(tmp_path / "other"), Rim(K=2, M=0), monkeypatch)
    intervene([other], options(tmp_path / "other", verdict_only=True, eval_batch_size=16))
    assert [i.to_json() for i in other.interventions.items(key)] == resumed


@pytest.mark.parametrize(
    ("operation", "words"), [(OWN, "own activations put back"), (DONOR, "with everything from the donor")]
)
def test_a_broken_control_stops_the_command_without_a_verdict(
    operation: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_thread: None,
    call: Callable[..., tuple[int, str, str]],
) -> None:
    run = asked_run(Store(tmp_path), Rim(K=2, M=0), monkeypatch)
    real = Source._value  # type: ignore[attr-defined]

    def broken(self: Source, asked: Intervention, *where: Any) -> Any:
        value = real(self, asked, *where)
        if asked.operation == operation:
            return value * (1 + 1e-6) if operation == OWN else self.own.states[where[0]][where[1] or 0][:, :, where[3]]
        return value

    monkeypatch.setattr(Source, "_value", broken)
    code, out, err = call("intervene", run.id, *FLAGS, "--out", tmp_path, "--verdict-only")
    assert (code, out) == (2, "")
    assert words in err and "no verdict" in err and len([line for line in err.splitlines() if "error" in line]) == 1


def test_seeds_count_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    store, suites = Store(tmp_path), []
    for seed in (0, 1):
        run = asked_run(store, BLIND, monkeypatch, seed=seed)
        key = measuring.intervene_run(run, options(tmp_path, verdict_only=True, donor_seed=seed))
        suites.append(read_suite(run, key))
    [family] = families(suites)
    assert len(family.suites) == 2 and not family.verdict.these_weights_only and family.verdict.word == "used"
    with pytest.raises(UsageError, match="--delta 0 must lie"):
        families(suites, delta=0.0)


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("direct", (), "direct has no segments between question and answer"),
        ("rim", ("--delta", "0"), "--delta 0 must lie between 0 and 100"),
        ("rim", ("--donor-seed", "-1"), "--donor-seed -1 is too small"),
        ("rim", ("--effort", "-1"), "effort -1"),
    ],
)
def test_bad_input_is_one_sentence(
    name: str, flags: tuple[str, ...], words: str, tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    run: Run = train(Store(tmp_path), name)
    code, out, err = call("intervene", run.id, *FLAGS, "--out", tmp_path, *flags)
    assert (code, out) == (2, "") and words in err
    assert not (run.path / "interventions").exists()


def test_a_positive_control_must_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    run = asked_run(Store(tmp_path), Ignored(K=2, M=0), monkeypatch)
    key = measuring.intervene_run(run, options(tmp_path, verdict_only=True))
    suite = read_suite(run, key)
    check_controls(suite)
    monkeypatch.setitem(families.__globals__["USED"], "rim", "it is known to")
    with pytest.raises(UsageError, match=r"no positive control holds .*'not used'"):
        families([suite], 0.2, 0.3)
