"""A grid of cells on an engine: what waits for what, what is done twice, what is reported, and that its runs are those
of one process.
"""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from executor_here import Here
from light_work import MORTAL
from queues import Queue
from small_runs import SMALL, Heard, contents, flags, model, options
from stored import training_of

from rim_bench.cli.run import report_failures
from rim_bench.evaluate.options import EvaluationSets
from rim_bench.evidence.ranking import contests
from rim_bench.report.comparison import comparison
from rim_bench.runs.executors import open_engine
from rim_bench.runs.grid import Failure, Runner, visible_gpus
from rim_bench.runs.job import Job, execute
from rim_bench.runs.options import ExecutionOptions, Options
from rim_bench.runs.planned_run import plan_study
from rim_bench.runs.study import study_setting
from rim_bench.runs.training import run_plan
from rim_bench.storage.run_folder import Run, Store
from rim_bench.storage.selection import LearningRateGrid
from rim_bench.util.errors import UsageError

Call = Callable[..., tuple[int, str, str]]


pytestmark = pytest.mark.usefixtures("one_thread")


def grid(given: Options | list[Options], **more: Any) -> tuple[list[list[Run]], Here, Runner, Heard]:
    engine, heard = Here(more.pop("dies", None)), Heard()
    studies = [plan_study(one) for one in (given if isinstance(given, list) else [given])]
    with Runner(engine, heard, **more) as runner:
        runs = runner.run(studies)
    assert engine.closed
    return runs, engine, runner, heard


def notes(runs: list[Run]) -> list[str]:
    """What stands below their table."""
    return [note for section in comparison(runs, split="test").sections for note in section.notes]


def failed(runner: Runner) -> dict[str, tuple[str, int]]:
    return {f.label: (f.state, f.attempts) for f in runner.failures.values()}


def test_a_grid_makes_the_runs_of_one_process_and_starts_come_first(tmp_path: Path) -> None:
    given = options(
        tmp_path / "one", "rim", start="cot", seeds=(0, 1), examples=24, cot_examples=16, limit=20, quick=True
    )
    whole = run_plan(plan_study(given), Heard())
    (runs,), engine, runner, heard = grid(dataclasses.replace(given, out=tmp_path / "many"))
    assert [contents(r) for r in runs] == [contents(r) for r in whole] and not runner.failures and runner.code == 0
    assert engine.began[:2] == ["shared cot start", "shared cot start, seed 1"] and len(engine.began) == 4
    first = {text.split(":")[0] for text in heard.notes}
    assert {"queued", "running", "done"} <= first and sum(n.startswith("done: ") for n in heard.notes) == 4
    (summary,) = runs[0].evaluations().values()
    assert summary.runtime.cells_at_a_time == 2 and not next(iter(whole[0].evaluations().values())).runtime.says(
        "cells_at_a_time"
    )
    beside = [
        [n for n in notes(some) if "beside other cells of a grid, up to 2 at a time" in n] for some in (runs, whole)
    ]
    assert len(beside[0]) == 1 and beside[1] == []
    (again,), engine, runner, heard = grid(dataclasses.replace(given, out=tmp_path / "many"))
    assert [r.id for r in again] == [r.id for r in runs] and engine.began == []  # what is done gets no process
    assert "rim, seed 1: evaluated already" in heard.notes


def test_where_a_queue_places_cells_their_times_compare_with_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", Queue())
    for name, settings, told in (("shared", {}, {"unknown"}), ("alone", {"slurm_exclusive": True}, set())):
        engine = open_engine("submitit", 2, settings, folder=tmp_path / "submitit", gpu=False, gpus=())
        with Runner(engine, Heard()) as runner:
            (runs,) = runner.run([plan_study(options(tmp_path / name, "direct", "pause", examples=16, limit=20))])
        runtimes = [s.runtime for run in runs for s in run.evaluations().values()]
        assert {r.cells_at_a_time for r in runtimes if r.says("cells_at_a_time")} == told and len(runtimes) == 2
        assert any("that other cells of a grid may have shared" in n for n in notes(runs)) == bool(told)
        (contest,) = contests(runs, "test")[0]
        assert ("latency" in contest.kinds) == (not told) and "flops" in contest.kinds


def test_a_cell_that_dies_is_done_once_more_and_then_reported(tmp_path: Path) -> None:
    given = options(
        tmp_path, "direct", "pause", "cot", start="cot", seeds=(0, 1), examples=16, cot_examples=16, any_start=True
    )
    (runs,), engine, runner, heard = grid(
        given, evaluation=False, dies={"direct": 1, "pause": 2, "shared cot start, seed 1": 2}
    )
    assert [r.spec.method.name for r in runs] == ["direct", "cot"]
    below = {f"{name}, seed 1": ("not started", 0) for name in ("direct", "pause", "cot")}
    assert (
        failed(runner) == {"pause": ("failed", 2), "shared cot start, seed 1": ("failed", 2)} | below
        and runner.code == 70
    )
    assert engine.began.count("pause") == 2 and engine.began.count("direct") == 2 and engine.began.count("cot") == 1
    assert "died: direct: its process was ended by SIGKILL; once more from the beginning" in heard.notes
    (runs,), _, runner, _ = grid(given, evaluation=False)
    assert len(runs) == 6 and runner.code == 0


def test_a_cell_that_a_queue_does_not_take_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, heard = Queue({"direct": 1, "pause": 9}), Heard()
    monkeypatch.setitem(sys.modules, "submitit", queue)
    engine = open_engine("submitit", 2, {"slurm_partition": "gpuu"}, folder=tmp_path / "submitit", gpu=False, gpus=())
    with Runner(engine, heard, evaluation=False) as runner:
        (runs,) = runner.run([plan_study(options(tmp_path, "pause", "direct", "cot", examples=16))])
    assert [r.spec.method.name for r in runs] == ["direct", "cot"] and runner.code == 70
    assert failed(runner) == {"pause": ("failed", 2)} and {queue.asked.count(name) for name in ("pause", "direct")} == {
        2
    }
    reason = "submitit could not start it: sbatch: error: invalid partition specified: gpuu"
    assert (
        f"died: direct: {reason}; once more from the beginning" in heard.notes
        and f"failed: pause: {reason}" in heard.notes
    )


HOLDS = """
import sys, time
from pathlib import Path
from rim_bench.storage.run_folder import Run
with Run(Path(sys.argv[1])).lock():
    print("holds", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("hidden", [False, True])
def test_a_cell_that_another_process_works_on_waits_for_it(
    hidden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rim_bench.runs.grid.AGAIN", 0.05)
    plan = plan_study(options(tmp_path, "direct", "pause", examples=16))
    run = plan[0].study.store.open(plan[0].spec)
    with subprocess.Popen([sys.executable, "-c", HOLDS, run.path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        if hidden:  # as where the other began between the look and the job
            (run.path / "lock.pid").unlink()

        class Ending(Heard):
            def note(self, text: str) -> None:
                super().note(text)
                if text.startswith("put off"):
                    process.kill()
                    process.wait()

        heard, engine = Ending(), Here()
        with Runner(engine, heard, evaluation=False) as runner:
            (runs,) = runner.run([plan])
    assert [r.spec.method.name for r in runs] == ["direct", "pause"] and not runner.failures
    assert engine.began == (["direct", "pause", "direct"] if hidden else ["pause", "direct"])
    owner = "another process" + ("" if hidden else f" (pid {process.pid})")
    assert [n for n in heard.notes if n.startswith("put off")] == [
        f"put off: direct: {owner} works on {str(run.path)!r}: wait for it or end it"
    ]


def test_bad_input_in_a_cell_is_told_once_and_stops_no_other(tmp_path: Path) -> None:
    given = options(tmp_path, "direct", "cot", examples=16, backbone={**SMALL, "max_positions": 30})
    (runs,), engine, runner, _ = grid(given, evaluation=False)
    (failure,) = runner.failures.values()
    assert (
        [r.spec.method.name for r in runs] == ["direct"]
        and failed(runner) == {"cot": ("refused", 1)}
        and runner.code == 2
    )
    assert "positions with cot" in failure.reason and engine.began == ["direct", "cot"]
    assert len(list(Store(tmp_path).folder.iterdir())) == 1  # nothing half-written


def test_a_start_that_is_too_weak_ends_what_begins_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def weak(cell: Any, run: Run, reporter: Any) -> None:
        raise UsageError("too weak")

    monkeypatch.setattr("rim_bench.runs.grid.check_start", weak)
    (runs,), engine, runner, _ = grid(
        options(tmp_path, "direct", start="cot", examples=16, cot_examples=16), evaluation=False
    )
    assert runs == [] and engine.began == ["shared cot start"] and runner.code == 2
    assert failed(runner) == {"shared cot start": ("refused", 1), "direct": ("not started", 0)}


def test_trials_are_cells_too_and_the_choice_is_that_of_one_process(tmp_path: Path) -> None:
    given = options(tmp_path / "one", "direct", tune=LearningRateGrid((1e-3, 1e-2, 1e30)), seeds=(0, 1), examples=16)
    whole = run_plan(plan_study(given), Heard(), evaluation=False)
    (runs,), engine, _, heard = grid(dataclasses.replace(given, out=tmp_path / "many"), evaluation=False)
    assert [(r.id, model(r)) for r in runs] == [(r.id, model(r)) for r in whole] and len(engine.began) == 5
    assert [n for n in heard.notes if n.startswith("direct: learning rate") and "1e+30: diverged" in n]
    untimed = [[dataclasses.replace(t, seconds=0) for t in training_of(r).tuning.trials] for r in (*runs, *whole)]
    assert untimed[:2] == untimed[2:]
    lost = dataclasses.replace(
        given, methods=("direct", "pause"), out=tmp_path / "lost", tune=LearningRateGrid((1e-3, 1e-2))
    )
    (runs,), engine, runner, _ = grid(lost, evaluation=False, dies={"direct, trial lr 0.01": 2})
    assert [r.spec.method.name for r in runs] == ["pause", "pause"] and "direct" not in engine.began
    assert failed(runner) == {
        "direct, trial lr 0.01": ("failed", 2),
        "direct": ("not started", 0),
        "direct, seed 1": ("not started", 0),
    }
    (runs,), _, runner, _ = grid(
        dataclasses.replace(lost, methods=("direct",), tune=LearningRateGrid((1e29, 1e30))), evaluation=False
    )
    assert (
        runs == []
        and runner.code == 2
        and "all learning rates tried for direct diverged" in next(iter(runner.failures.values())).reason
    )


def test_budgets_and_tasks_share_a_grid_and_a_start(tmp_path: Path) -> None:
    one = options(tmp_path, "direct", start="cot", examples=16, cot_examples=16, quick=True)
    other = dataclasses.replace(one, examples=None, train_flops=2 * 10**8)
    runs, engine, _, heard = grid(
        [one, other, dataclasses.replace(one, task="permute")], sets=EvaluationSets(names=("chain_gate",))
    )
    assert engine.began == [
        "shared cot start, chain",
        "shared cot start, permute",
        "direct, chain, examples=16",
        "direct, chain, train-flops=2e+08",
        "direct, permute, examples=16",
    ]
    assert [len(r) for r in runs] == [1, 1, 1]
    assert [{s.task for s in r[0].evaluations().values()} for r in runs] == [{"chain", "chain_gate"}] * 2 + [
        {"permute"}
    ]
    assert any("chain-gate cannot be asked of a run trained from scratch on permute" in n for n in heard.notes)


def test_a_process_that_makes_other_runs_of_a_request_says_so(tmp_path: Path) -> None:
    (planned,) = plan_study(options(tmp_path, "direct"))
    spec = dataclasses.replace(planned.spec, task=dataclasses.replace(planned.spec.task, train_sha256="0" * 64))
    told = execute(Job(dataclasses.replace(planned, spec=spec), "direct", Path.cwd()))
    assert (
        told.state == "refused" and "needs the same version of rim-bench" in told.reason and not any(tmp_path.iterdir())
    )


def test_a_planned_run_is_the_same_in_another_process(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(MORTAL)
    for planned in plan_study(options(tmp_path, "rim", str(own), start="cot", cot_examples=16, seeds=(0, 1))):
        _ = planned.method, planned.study.texts  # a class of a file and rows: neither travels
        sent = pickle.dumps(planned)
        there = pickle.loads(sent)
        assert len(sent) < 20_000 and (there.id, there.spec, there.plan) == (planned.id, planned.spec, planned.plan)
        assert there.method.settings() == planned.method.settings() and there.study.data == planned.study.data


def test_gpus_are_handed_out_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-7f")
    assert visible_gpus(2) == ["5", "GPU-7f"]


# The command line


def test_failures_are_a_table_and_an_exit_code(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rim_bench.runs.grid.open_engine", lambda *a, **k: Here({"pause": 2}))
    monkeypatch.setenv("COLUMNS", "150")
    small = flags("--limit 20 --examples 64 --max-tokens 4 --start recipe --quick")
    given = ["run", "--methods", "direct,pause", *small, "--out", tmp_path]
    code, out, err = call(*given, "--executor", "local")
    assert code == 70 and "Cells without a result" in err and "direct" in out and "Traceback" not in err
    assert any(
        "pause" in line and "failed" in line and " 2 " in line and "SIGKILL" in line for line in err.splitlines()
    )
    runner = Runner(Here(), Heard())
    runner.failures["rim-1"] = Failure(
        "rim", "rim-1", "failed", "ValueError: x", 2, "Traceback (most recent call last): here"
    )
    assert report_failures(runner) == 70 and "Traceback (most recent call last): here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("--workers 2", "--workers is for an executor"),
        ("--executor-set a=1", "--executor-set is for an executor"),
        ("--executor locl", "unknown executor 'locl'"),
        ("--executor local --workers 0", "--workers 0 is too small"),
        ("--format csv", "--format is for a dry run"),
        ("--flops-per-second 1e9", "--flops-per-second is for a dry run"),
        ("--dry-run --format yaml", "unknown format 'yaml'"),
        ("--dry-run --flops-per-second 0", "--flops-per-second 0 is not a rate"),
        ("--task chain,chain", "names a task twice"),
        ("--task chain,permute --file train=rows.jsonl", "--file gives the rows of one task"),
        ("--task chain,permut", "unknown task 'permut'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    words: str, answer: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call("run", *words.split())
    assert (code, out) == (2, "") and err.startswith("error: ") and answer in err and len(err.splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_an_executor_under_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"--executor local starts processes of its own, and the launcher started 2"):
        ExecutionOptions(executor="local")
    monkeypatch.delenv("WORLD_SIZE")
    assert ExecutionOptions(executor="local").executor == "local"


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
@pytest.mark.parametrize("device", ["foo", "mps", "cuda:one"])
def test_another_machine_has_no_other_kinds_of_devices(
    device: str, dry_run: tuple[str, ...], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", Queue())
    monkeypatch.chdir(tmp_path)
    elsewhere = ("--executor", "submitit", "--executor-set", "cluster=local", "--device", device)
    code, out, err = call("run", "--methods", "direct", "--quick", *elsewhere, *dry_run)
    assert (code, out) == (2, "") and f"device {device!r} cannot be used" in err and len(err.splitlines()) == 1
    assert not any(tmp_path.iterdir())
    assert study_setting(options(tmp_path, "direct", device="cuda:3"), elsewhere=True).device == "cuda:3"
