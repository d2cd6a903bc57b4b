"""Which checkpoint and which learning rate counts: the rules by themselves, then small real runs, killed where it
hurts.
"""

from __future__ import annotations

import os
import random
import signal
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fabricated import evaluate as fabricate_evaluation
from fabricated import train as fabricate_run
from small_runs import Heard, model, options, steps, train
from stored import training_of

from rim_bench.engine.trained_model import load_trained
from rim_bench.evidence import split_protocol
from rim_bench.evidence.rows import Reason, read
from rim_bench.evidence.split_protocol import held_out, run_splits
from rim_bench.report import sections
from rim_bench.report.comparison import comparison
from rim_bench.report.leaderboard import leaderboard
from rim_bench.runs import checkpoints as candidates_module
from rim_bench.runs.checkpoints import CheckpointSelector
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import plan_study
from rim_bench.runs.training import run_plan
from rim_bench.runs.tuning import Choice, Trial
from rim_bench.storage.records import CandidateItem, ItemRecord, RuleRecord
from rim_bench.storage.run_folder import Run, Store
from rim_bench.storage.selection import POINTS, CheckpointRule, LearningRateGrid, best, parse_tune
from rim_bench.util.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")


def selection(run: Run) -> dict[str, Any]:
    """What train.json says of the choice, without the clock."""
    told = stored(run)["selection"]
    seen = [{k: v for k, v in r.items() if k != "seconds"} for r in told["seen"]]
    return {**{k: v for k, v in told.items() if k != "seconds"}, "seen": seen}


def stored(run: Run) -> dict[str, Any]:
    """What train.json says."""
    training = run.training()
    return {} if training is None else training.to_json()


def answer_records(share: float) -> list[ItemRecord]:
    """Twenty questions, of which that share is right."""
    return [ItemRecord(id=f"q{k}", correct=k < share * 20, flops_prefill=2, flops_decode=1) for k in range(20)]


@dataclass
class Rigged:
    """Validation with given accuracies, which also uses the random state as sampling would; remembers the weights it
    was shown.
    """

    shares: Sequence[float]
    hashes: list[str] = field(default_factory=list)

    def __call__(self, trained: Any, request: Any, dataset: Any, on_items: Any = None) -> list[ItemRecord]:
        torch.rand(3)
        assert not trained.backbone.model.training and request.split == "validation"
        share = self.shares[len(self.hashes)]
        self.hashes.append(trained.backbone.weights_sha256())
        return answer_records(share)


# The rules


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rule": "first"}, "unknown checkpoint rule 'first': allowed are 16-split, best, last"),
        ({"rule": "bst"}, "did you mean 'best'"),
        ({"rule": "best", "points": 1}, "--checkpoint-points 1 is too small: --checkpoint best needs at least 2"),
        ({"points": 0}, "--checkpoint-points 0 is too small: --checkpoint last needs at least 1"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        CheckpointRule(**given)


def test_a_rule_enters_the_specification_only_where_it_changes_weights() -> None:
    assert CheckpointRule().record() is None and CheckpointRule(points=3).record() is None
    assert CheckpointRule("best").record() == {"rule": "best", "points": POINTS, "ties": "the latest"}
    told = CheckpointRule("16-split", 4).record()
    assert told == {"rule": "16-split", "points": 4, "ties": "the latest", "splits": 16, "share": 0.2, "seed": 0}
    assert (CheckpointRule().count, CheckpointRule("last", 3).count, CheckpointRule("best").count) == (0, 3, 8)


def test_of_equal_candidates_the_latest_counts() -> None:
    assert [best(a) for a in ([0.1, 0.3, 0.2], [0.3, 0.1, 0.3, 0.2], [0.0], [0.5, 0.5])] == [1, 2, 0, 1]
    with pytest.raises(ValueError, match="no candidate"):
        best([])


def test_rates_are_log_spaced_with_both_ends() -> None:
    grid = parse_tune("lr=1e-5..1e-3", 5, None)
    assert grid == LearningRateGrid((1e-05, 3.162e-05, 0.0001, 0.0003162, 0.001), 1.0)
    assert parse_tune("lr=0.001..0.002", None, 0.25) == LearningRateGrid((0.001, 0.001414, 0.002), 0.25)
    assert parse_tune(None, None, None) is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("wd=1..2", None, None), "unknown field to tune 'wd': allowed are lr"),
        (("lr=1e-3", None, None), "is not lr=LOW..HIGH with 0 < LOW < HIGH"),
        (("lr=1e-3..1e-5", None, None), "is not lr=LOW"),
        (("lr=0..1", None, None), "is not lr=LOW"),
        (("lr=nan..1", None, None), "is not lr=LOW"),
        (("lr=a..b", None, None), "is not lr=LOW"),
        (("lr=1e-5..1e-3", 1, None), "--trials 1 is too small"),
        (("lr=1e-5..1e-3", 3, 0.0), "--tune-share 0 is not a share"),
        (("lr=1e-5..1e-3", 3, 1.5), "--tune-share 1.5 is not a share"),
        (("lr=1e-3..1.0001e-3", 9, None), "holds no 9 different learning rates"),
        ((None, 3, None), "give what to tune as well"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(given: tuple[Any, Any, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_tune(*given)


def test_the_smallest_of_equally_good_rates_wins_and_an_edge_is_said() -> None:
    def choice(*accuracies: float | None) -> Choice:
        rates = (1e-4, 1e-3, 1e-2)
        trials = tuple(
            Trial(f"r{k}", lr, {"lr": lr}, 0, a, 20, 100, 1.0)
            for k, (lr, a) in enumerate(zip(rates, accuracies, strict=True))
        )
        return Choice("rim", trials, LearningRateGrid(rates), (0,), {"lr": (rates[0], rates[-1])})

    middle = choice(0.1, 0.5, 0.5)
    assert (middle.winner.values, middle.edges, "edge" in middle.note()) == ({"lr": 1e-3}, (), False)
    high, low = choice(0.1, 0.2, 0.5), choice(0.5, 0.5, None)
    assert (high.winner.values["lr"], high.edges) == (1e-2, ("lr",)) and "a better one may lie above it" in high.note()
    assert (
        (low.winner.values["lr"], low.edges) == (1e-4, ("lr",))
        and "below it" in low.note()
        and "0.01: diverged" in low.note()
    )
    assert middle.record("r1")["flops"] == 300 and middle.record("r1")["adopted"] == "r1"
    with pytest.raises(UsageError, match=r"all learning rates tried for rim diverged \(0.0001, 0.001, 0.01\)"):
        _ = choice(None, None, None).winner


# The 16-split protocol on fabricated answers


def fabricated(n: int, shares: Sequence[float], seed: int = 1) -> list[CandidateItem]:
    rng = random.Random(seed)
    return [CandidateItem(id=f"q{k}", correct="".join("01"[rng.random() < s] for s in shares)) for k in range(n)]


def test_no_question_is_selected_on_and_scored_in_one_split() -> None:
    items = fabricated(1319, (0.2, 0.4, 0.35))
    result = run_splits(items)
    ids = {i.id for i in items}
    assert len(result.splits) == 16 and held_out(1319) == 264
    for split in result.splits:
        assert (len(split.held), len(split.scored)) == (264, 1055)
        assert not set(split.held) & set(split.scored) and set(split.held) | set(split.scored) == ids
    assert len({s.held for s in result.splits}) == 16  # they differ
    assert run_splits(items[::-1]) == result  # the order of the records is none of its business
    other = run_splits(fabricated(1319, (0.2, 0.4, 0.35), seed=2))
    assert [s.held for s in other.splits] == [
        s.held for s in result.splits
    ]  # two systems on the same questions share the splits
    assert run_splits(items, seed=1).splits[0].held != result.splits[0].held


def test_the_protocol_is_what_a_plain_count_says() -> None:
    items = fabricated(300, (0.3, 0.6, 0.55, 0.6))
    marks = {i.id: i.correct for i in items}
    result = run_splits(items)
    scores = []
    for split in result.splits:
        on_held = [sum(marks[i][c] == "1" for i in split.held) for c in range(4)]
        chosen = max(c for c in range(4) if on_held[c] == max(on_held))
        assert chosen == split.chosen
        scores.append(sum(marks[i][chosen] == "1" for i in split.scored) / len(split.scored))
    center = sum(scores) / 16
    assert result.accuracy == pytest.approx(center)
    assert result.split_se == pytest.approx((sum((s - center) ** 2 for s in scores) / 15) ** 0.5 / 4)
    assert result.last == pytest.approx(
        sum(sum(marks[i][3] == "1" for i in s.scored) / len(s.scored) for s in result.splits) / 16
    )


def test_scoring_apart_from_selection_does_not_reward_luck() -> None:
    """Forty candidates that all guess: the best on all items looks like more than 50 %, what the protocol says does
    not.
    """
    gains = []
    for seed in range(12):
        items = fabricated(200, (0.5,) * 40, seed)
        naive = max(sum(i.correct[c] == "1" for i in items) / 200 for c in range(40))
        overall = sum(i.correct.count("1") for i in items) / 8000
        assert naive > overall + 0.04
        gains.append(run_splits(items).accuracy - overall)
    assert abs(sum(gains) / 12) < 0.015


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([{"id": "a", "correct": "01"}, {"id": "a", "correct": "11"}], "do not fit together"),
        ([{"id": "a", "correct": "01"}, {"id": "b", "correct": "1"}], "do not fit together"),
        ([{"id": "a", "correct": ""}], "do not fit together"),
        ([{"id": "a", "correct": "0?"}], "do not fit together"),
        ([], "do not fit together"),
        (
            [{"id": "a", "correct": "01"}, {"id": "b", "correct": "10"}],
            "2 test questions are too few for the 16-split protocol",
        ),
    ],
)
def test_answers_that_do_not_fit_are_refused(items: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        run_splits([CandidateItem.from_json(i) for i in items])


def test_trials_and_runs_that_select_on_test_items_are_no_rows(tmp_path: Path) -> None:
    store, rule = Store(tmp_path), {"selection": CheckpointRule("16-split").record()}
    runs = [
        fabricate_run(store, "rim"),
        fabricate_run(store, "direct", spec={"role": "trial"}),
        fabricate_run(store, "coconut", spec=rule),
    ]
    for run in runs:
        fabricate_evaluation(run, [True, False] * 40)
    found, left_out = read(runs)
    assert {e.run for e in found} == {runs[0].id}
    lines = [o.text() for o in left_out]
    assert any("a learning-rate trial" in line for line in lines) and any(
        "chosen on test items" in line for line in lines
    )
    assert {o.reason for o in left_out} >= {Reason.TRIAL, Reason.ON_TEST}
    assert runs[0].spec.kept_apart is None
    board = leaderboard(runs).table.to_markdown()
    assert "rim" in board and runs[1].id in board.split("Left out")[1] and runs[2].id in board.split("Left out")[1]
    text = comparison(runs).to_markdown()
    assert (
        "| rim (from cot) | 1 |" in text
        and "| direct (from cot) | 1 |" not in text
        and "| coconut (from cot) | 1 |" not in text
    )
    assert text.split("Left out")[1].count(runs[2].id) == 1 and "have not answered the test questions yet" in text


# Checkpoints of real runs


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The default run of the method with two stages, one of them with dropout of its own."""
    torch.set_num_threads(1)
    (run,), _ = train(options(tmp_path_factory.mktemp("plain"), "rim"))
    return run


def test_looking_changes_nothing(plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout in training, and a validation that draws random numbers:
    the same id, weights and steps, bit by bit.
    """
    monkeypatch.setattr(candidates_module, "marked", Rigged([0.1] * 9))
    (run,), _ = train(options(tmp_path, "rim", checkpoint_points=4))
    assert run.id == plain.id and model(run) == model(plain) and steps(run) == steps(plain)
    told = selection(run)
    assert [(r["step"], r["candidate"], r["ends"]) for r in told["seen"]] == [
        (3, True, False), (6, True, True), (9, True, False), (12, True, True)
    ]  # fmt: skip
    assert (told["chosen"]["step"], told["flops"], told["ties"]) == (12, 4 * 20 * 3, None)
    assert [s["stage"] for s in told["stages"]] == ["grounding", "refinement"]
    assert not training_of(plain).says("selection")
    assert not (run.path / "candidates").exists()


def test_a_real_look_says_what_the_final_validation_says(plain: Run, tmp_path: Path) -> None:
    (run,), _ = train(options(tmp_path, "rim", checkpoint_points=2))
    assert model(run) == model(plain) and steps(run) == steps(plain)
    assert stored(run)["validation"] == stored(plain)["validation"]
    assert selection(run)["flops"] > 0 and stored(run)["flops"] == stored(plain)["flops"]


def test_the_best_candidate_becomes_the_model(plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rigged = Rigged([0.5, 0.9, 0.9, 0.2])
    monkeypatch.setattr(candidates_module, "marked", rigged)
    (run,), heard = train(options(tmp_path, "rim", checkpoint="best", checkpoint_points=4))
    assert run.id != plain.id and run.spec.selection == RuleRecord(rule="best", points=4, ties="the latest")
    assert steps(run) == steps(plain)  # the training is the same, only what is kept of it is not
    assert load_trained(run).backbone.weights_sha256() == rigged.hashes[2] != rigged.hashes[3]
    assert selection(run)["chosen"] == {"step": 9, "stage": "refinement", "accuracy": 0.9, "n": 20}
    assert stored(run)["validation"] == {"n": 20, "accuracy": 0.9}
    assert not (run.path / "candidates").exists()
    assert any(
        "the checkpoint of step 9 of 12 (stage 'refinement'), 90.0 % on validation (n = 20), the best" in n
        for n in heard.notes
    )


def test_a_shared_start_keeps_its_last_checkpoint(tmp_path: Path) -> None:
    given = options(tmp_path, "direct", start="cot", cot_examples=8, checkpoint="best", examples=8)
    cells = {c.role: c for c in plan_study(given)}
    assert cells["start"].selection.rule == "last" and cells["start"].spec.selection is None
    assert cells["start"].spec == next(c for c in plan_study(replace(given, checkpoint="last")) if c.is_start).spec
    assert cells["arm"].selection.rule == "best"


def killed_at(given: Options, where: Callable[[pytest.MonkeyPatch, Heard], None]) -> None:
    """Runs the study in a process of its own, which kills itself (SIGKILL) where `where` arranges it."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # a fork beside other threads: none of them holds anything here
        child = os.fork()
    if child == 0:
        try:
            heard = Heard()
            where(pytest.MonkeyPatch(), heard)
            run_plan(plan_study(given), heard, evaluation=False)
        finally:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


SHARES = {3: 0.2, 6: 0.8, 9: 0.5, 12: 0.8, 5: 0.1}


def by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation whose accuracy depends on the step alone, whichever process asks."""
    state = {"step": 0}
    evaluate = CheckpointSelector.evaluate

    def noted(self: CheckpointSelector, step: int, stage: str, **others: bool) -> None:
        state["step"] = step
        evaluate(self, step, stage, **others)

    def answer(trained: Any, request: Any, dataset: Any, show: Any) -> list[ItemRecord]:
        return answer_records(SHARES[state["step"]])

    monkeypatch.setattr(CheckpointSelector, "evaluate", noted)
    monkeypatch.setattr(candidates_module, "marked", answer)


def behind(name: str, step: int, *, before: bool = False) -> Callable[[pytest.MonkeyPatch, Heard], None]:
    """Dies when the candidates' method `name` is called with (or in) that step: behind its work, or before it."""

    def arrange(monkeypatch: pytest.MonkeyPatch, heard: Heard) -> None:
        work = getattr(CheckpointSelector, name)

        def fatal(self: CheckpointSelector, *given: Any, **others: Any) -> None:
            due = (given[0] if given else self.seen[-1].step) == step
            if due and before:
                die()
            work(self, *given, **others)
            if due:
                die()

        monkeypatch.setattr(CheckpointSelector, name, fatal)

    return arrange


@pytest.mark.parametrize(
    "where",
    [
        behind("_write", 6, before=True),  # weights stored, score not
        behind("evaluate", 6),  # stored, no checkpoint knows of it yet
        behind("prune", 7),  # what no longer leads is removed
        behind("evaluate", 12),  # everything but the end
        behind("clean", 12, before=True),  # trained; candidates are still there
    ],
    ids=["half a candidate", "candidate", "prune", "end", "trained"],
)
def test_kill_9_changes_no_choice(where: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Run) -> None:
    by_step(monkeypatch)
    given = options(tmp_path, "rim", checkpoint="best", checkpoint_points=4)
    killed_at(given, where)
    (run,), _ = train(given)
    assert run.id == unbroken.id and model(run) == model(unbroken) and steps(run) == steps(unbroken)
    assert selection(run) == selection(unbroken) and selection(run)["chosen"]["step"] == 12
    assert not (run.path / "candidates").exists() and not (run.path / "checkpoints").exists()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        by_step(monkeypatch)
        (run,), _ = train(options(tmp_path_factory.mktemp("unbroken"), "rim", checkpoint="best", checkpoint_points=4))
    return run


def test_only_the_leader_is_kept_behind_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_step(monkeypatch)
    kept: dict[int, list[str]] = {}
    prune = CheckpointSelector.prune

    def noted(self: CheckpointSelector, step: int) -> None:
        prune(self, step)
        kept[step] = sorted(p.name[-2:] for p in self.folder.glob("step-*"))

    monkeypatch.setattr(CheckpointSelector, "prune", noted)
    train(options(tmp_path, "rim", checkpoint="best", checkpoint_points=4))
    assert (kept[3], kept[6], kept[9], kept[11]) == (["03"], ["06"], ["06"], ["06"])


def test_what_was_seen_is_forgotten_where_nobody_looks_any_more(plain: Run, tmp_path: Path) -> None:
    """Killed while it was looked at, and gone on with without: the same run, whose validation is that of its end."""
    killed_at(options(tmp_path, "rim", checkpoint_points=4), behind("prune", 7))
    (run,), heard = train(options(tmp_path, "rim"))
    assert heard.steps[0] == ("rim", 8) and model(run) == model(plain) and not (run.path / "candidates").exists()
    told = stored(run)
    assert told["validation"] == stored(plain)["validation"] and "selection" not in told


def test_looking_changes_nothing_under_lora(plain: Run, tmp_path: Path) -> None:
    """Adapters, and markers' rows that train apart, are written down in the middle of training."""
    given = options(tmp_path / "a", "rim", model=str(plain.model_path()), backbone={}, tuning="lora", examples=16)
    (one,), _ = train(given)
    (other,), _ = train(replace(given, out=tmp_path / "b", checkpoint="best", checkpoint_points=2))
    assert one.spec.backbone.tuning == "lora" and steps(one) == steps(other)
    told = selection(other)
    assert (told["chosen"]["step"] == 4) == (model(one) == model(other)) and [
        r["step"] for r in told["seen"] if r["candidate"]
    ] == [2, 4]


def test_a_set_that_is_too_small_is_left_out_and_said(tmp_path: Path) -> None:
    """Two OOD questions among forty: the table of everything else is not to fail for them."""
    run = fabricate_run(Store(tmp_path), "rim", spec={"selection": CheckpointRule("16-split").record()})
    rows = [
        {"id": f"q{k}", "level": "", "ood": k < 2, "reference": "1", "correct": "01", "answers": ["0", "1"]}
        for k in range(40)
    ]
    summary = {
        "task_title": "Toy",
        "task_version": 1,
        "evaluator_version": "1",
        "split": "test",
        "n": 40,
        "data_sha256": "c" * 64,
    }
    run.candidate_evaluations.write("toy", rows, summary | {"candidates": [{"step": 4}, {"step": 8}]})
    found, left_out = split_protocol.scored_runs([run], "test")
    (section,) = sections.split_sections(found)
    assert not left_out and [g.caption.split(", ")[1].split(":")[0] for g in section.panels] == ["in distribution"]
    assert any("too few for the protocol" in note for note in section.notes)
    assert [r["set"] for r in sections.split_records(found)] == [
        "16-split, selects on test items, never ranked (in distribution)"
    ]


def test_too_few_test_questions_are_refused_before_anything_trains(tmp_path: Path) -> None:
    given = options(tmp_path / "results", "direct", checkpoint="16-split", limit=2)
    with pytest.raises(UsageError, match="2 test questions are too few for the 16-split protocol"):
        run_plan(plan_study(given), Heard())
    assert not list((tmp_path / "results").glob("runs/*"))
