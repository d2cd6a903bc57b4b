"""Several processes: the same losses, weights, counts and answers as one, whatever their number; what is broken off
goes on with any.

Two gloo processes on the CPU, forked from one that has torch (`crews.together`), and once as a user starts them, by
torchrun.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crews
import pytest
import torch
from conftest import unregistered
from crews import CASES, PLAN, fit, together
from lm_eval.api.instance import Instance
from small_runs import Heard, options
from stored import training_of
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from rim_bench.baselines.cot import ChainOfThought
from rim_bench.cli import launch
from rim_bench.engine.backbone import Backbone
from rim_bench.engine.distributed import environment as launch_environment
from rim_bench.engine.distributed import workers
from rim_bench.engine.distributed.trainer import (
    DUMMY,
    accelerator,
    align_micro_batches,
    is_dummy,
    pad_with_dummy_rows,
    shard_rows,
)
from rim_bench.engine.execution import ALONE, ExecutionContext
from rim_bench.engine.trained_model import TrainedModel, load_trained
from rim_bench.engine.trainer import Diverged
from rim_bench.evaluate import distributed
from rim_bench.evaluate.evaluation import EvaluationRequest, marked
from rim_bench.evaluate.lm_eval_model import RimLM
from rim_bench.evaluate.predict import Predictor
from rim_bench.methods.layout import Layout, Segment
from rim_bench.runs.options import StudyOptions
from rim_bench.runs.planned_run import plan_study
from rim_bench.runs.study_file import read_study
from rim_bench.runs.training import run_plan
from rim_bench.storage.records import ProcessesRecord, RunSpec
from rim_bench.storage.run_folder import Run, Store
from rim_bench.tasks import prosqa
from rim_bench.util.errors import UsageError

TIMES = {"latency_s", "batch_s"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Sums in another order are other sums; and nothing of a launcher in the environment."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with crews.as_if_alone():
        yield
    torch.set_num_threads(before)


def stored(root: Path, name: str) -> Run:
    return Store(root).open({"method": {"name": name}, "task": {"name": "none"}})


# what is dealt to whom


def row(size: int, slots: int = 0, bridge: str | None = None) -> Layout:
    segments = [Segment("q", None, tuple(range(size)))]
    if slots:
        segments.append(Segment("z", "q", slots=slots, bridge=bridge))
    return Layout((*segments, Segment("a", segments[-1].name, (1, 2), weight=1.0)))


def test_rows_are_dealt_back_and_forth() -> None:
    rows = [row(size) for size in range(1, 12)]
    shares = shard_rows(rows, 3)
    assert [[r.segments[0].size for r in share] for share in shares] == [[1, 6, 7], [2, 5, 8, 11], [3, 4, 9, 10]]
    assert sorted((r for share in shares for r in share), key=lambda r: r.size) == rows
    assert shard_rows(rows[::-1], 1) == [rows]


def test_sharded_shares_are_cut_at_the_same_places() -> None:
    shares = [[row(1), row(6), row(7)], [row(2), row(5), row(8), row(11)], [row(3)]]
    cut = align_micro_batches(shares, lambda rows: [rows[:3], rows[3:]])
    assert cut == [[shares[0]], [shares[1][:3], shares[1][3:]], [shares[2]]]


def test_filled_shares_run_the_same_passes_and_bridges() -> None:
    deep, through, flat = row(3, 4), row(2, 1, "through"), row(5)
    shares = pad_with_dummy_rows([[[flat, deep], [through]], [[flat]]])
    assert shares[0] == [[flat, deep], [through]]
    for a, b in zip(*shares, strict=True):
        assert max(r.passes for r in a) == max(r.passes for r in b)
        assert {s.bridge for r in a for s in r.segments if s.bridge} == {
            s.bridge for r in b for s in r.segments if s.bridge
        }
    real = [r for share in shares for micro in share for r in micro if not is_dummy(r)]
    assert real == [flat, deep, through, flat]
    added = [r for share in shares for micro in share for r in micro if is_dummy(r)]
    assert [r.passes for r in added] == [5, 2] and {label.group for r in added for label in r.labels} == {DUMMY}


def test_batches_go_to_who_has_least() -> None:
    batches = [distributed.GenerateBatch([row(size)], [(1,)], 0, ()) for size in (9, 2, 3, 4)]
    assert distributed.shared(batches, 2) == [[0, 1], [2, 3]]  # 11 + 4 columns, and 5 + 6
    assert distributed.shared(batches[:1], 3) == [[0], [], []]


# training


def train_all(root: Path, strategy: str, cases: tuple[str, ...], execution: ExecutionContext) -> None:
    for case in cases:
        fit(root, case, f"{case} {strategy}", strategy, execution=execution)


DDP = tuple(case for case in CASES if case != "dropout")  # which draws other masks on every process
SHARDED = tuple(case for case in DDP if case not in ("cot", "markers"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Every case by one process and by two, DDP and FSDP; its outcome by name."""
    root = tmp_path_factory.mktemp("processes")
    outcomes = {case: fit(root, case, case) for case in DDP}
    assert together(train_all, root, "ddp", DDP) == [0, 0]
    assert together(train_all, root, "fsdp", SHARDED) == [0, 0]
    return root, outcomes


@pytest.mark.parametrize(("case", "strategy"), [*((c, "ddp") for c in DDP), *((c, "fsdp") for c in SHARDED)])
def test_two_processes_train_what_one_does(trained: tuple[Path, dict[str, Any]], case: str, strategy: str) -> None:
    root, _ = trained
    one, two = stored(root, case).metrics(), stored(root, f"{case} {strategy}").metrics()
    assert len(one) == len(two) == PLAN.steps
    for a, b in zip(one, two, strict=True):
        assert b["losses"] == pytest.approx(a["losses"], rel=1e-5) and b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4)
        same = ("step", "stage", "lr", "examples", "tokens", "flops")
        assert [b[k] for k in same] == [a[k] for k in same]
    before, after = (torch.load(root / f"{name}.pt") for name in (case, f"{case} {strategy}"))
    assert before.keys() == after.keys()
    assert max(float((before[n] - after[n]).abs().max()) for n in before) < 1e-4


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_executed_work_is_the_sum_of_all_processes(trained: tuple[Path, dict[str, Any]], strategy: str) -> None:
    """Headline counts are of the rows; what is executed depends on who sits beside whom, and dummy rows are padding."""
    root, outcomes = trained
    for case in ("coconut", "bridge"):
        steps = stored(root, f"{case} {strategy}").metrics()
        executed = sum(step["flops_executed"] for step in steps)
        assert (
            outcomes[case].flops == sum(step["flops"] for step in steps) < executed < 2 * outcomes[case].flops_executed
        )
        assert executed > outcomes[case].flops_executed or strategy == "ddp"


def test_one_process_alone_would_learn_something_else(trained: tuple[Path, dict[str, Any]]) -> None:
    """The comparison above can fail: without its half of the rows a step is another one."""
    root, _ = trained
    half = CASES["cot"].trainer(root, "half", PLAN)
    whole = half._cut
    half._cut = lambda rows: whole(shard_rows(rows, 2)[0])  # type: ignore[method-assign]
    half.run()
    a, b = stored(root, "cot").metrics(), stored(root, "half").metrics()
    assert abs(a[0]["loss"] / b[0]["loss"] - 1) > 1e-2


def look_inside(root: Path, execution: ExecutionContext) -> None:
    """What FSDP holds: shards of everything that trains, a unit for each layer and one for the rest, and the leader's
    own model whole.
    """
    made = CASES["coconut"].trainer(root, "inside", PLAN, "fsdp", execution=execution)
    made._distribute(execution.group)  # type: ignore[arg-type]
    assert made.distributed is not None
    replica = made.distributed.replica
    parts = [p for _, p in replica.parameters]
    assert all(isinstance(p, DTensor) for p in parts) and not any(isinstance(p, DTensor) for _, p in made.parameters)
    own = sum(p.to_local().numel() for p in parts)
    assert 0.4 < own / made.backbone.count() < 0.6
    assert sum(isinstance(m, FSDPModule) for m in replica.module.modules()) == 3
    made.distributed.dismiss()


def test_fsdp_holds_half_of_the_training_state(tmp_path: Path) -> None:
    assert together(look_inside, tmp_path) == [0, 0]


# broken off


class Dying:
    """A journal whose process dies, behind the record of a step."""

    def __init__(self, run: Run, at: int) -> None:
        self.run, self.at = run, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self.run, name)

    def append_metrics(self, record: dict[str, Any]) -> None:
        self.run.append_metrics(record)
        if record["step"] == self.at:
            os._exit(9)


def break_off(root: Path, case: str, name: str, strategy: str, plan: Any, execution: ExecutionContext) -> None:
    fit(root, case, name, strategy, plan, journal=lambda run: Dying(run, 7), execution=execution)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_broken_run_goes_on_exactly(tmp_path: Path, strategy: str) -> None:
    """With as many processes even dropout is drawn as if nothing had happened, on each of them."""
    assert together(fit, tmp_path, "dropout", "whole", strategy, PLAN) == [0, 0]
    codes = together(break_off, tmp_path, "dropout", "broken", strategy, PLAN)
    assert codes[0] == 9 and codes[1] not in (0, None)
    assert len(stored(tmp_path, "broken").metrics()) == 7
    assert together(fit, tmp_path, "dropout", "broken", strategy, PLAN) == [0, 0]
    whole, broken = ([{**m, "seconds": 0} for m in stored(tmp_path, name).metrics()] for name in ("whole", "broken"))
    assert broken == whole and len(whole) == PLAN.steps
    before, after = (torch.load(tmp_path / f"{name}.pt") for name in ("whole", "broken"))
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_another_number_of_processes_goes_on(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    root, _ = trained
    whole = stored(root, "coconut").metrics()
    together(break_off, tmp_path, "coconut", "two then one", "fsdp", PLAN)
    assert fit(tmp_path, "coconut", "two then one").resumed_from == 4
    with pytest.raises(Stop):
        fit(tmp_path, "coconut", "one then three", journal=lambda run: Stopping(run, 7))
    assert together(fit, tmp_path, "coconut", "one then three", size=3) == [0, 0, 0]
    for name in ("two then one", "one then three"):
        assert [m["loss"] for m in stored(tmp_path, name).metrics()] == pytest.approx(
            [m["loss"] for m in whole], rel=1e-5
        )


class Stop(Exception):
    pass


class Stopping(Dying):
    def append_metrics(self, record: dict[str, Any]) -> None:
        self.run.append_metrics(record)
        if record["step"] == self.at:
            raise Stop


# what goes wrong


def explode(root: Path, execution: ExecutionContext) -> None:
    made = CASES["cot"].trainer(root, "exploding", dataclasses.replace(PLAN, lr=1e30), execution=execution)
    with pytest.raises(Diverged, match="not finite at step 2"):
        made.run()
    assert fit(root, "cot", "behind it", execution=execution).steps == PLAN.steps  # the others are there still


def fail_between(root: Path, execution: ExecutionContext) -> None:
    fit(root, "cot", "failing", journal=lambda run: Stopping(run, 2), execution=execution)


def break_worker(group: workers.WorkerGroup) -> None:
    if group.rank:
        raise ValueError("no such call")


def fail_elsewhere(root: Path, execution: ExecutionContext) -> None:
    assert execution.group is not None
    execution.group.run(break_worker)
    fit(root, "cot", "lost", execution=execution)


def fail_inside(root: Path, error: type[BaseException] = MemoryError, *, execution: ExecutionContext) -> None:
    """Out of memory, say, in the middle of the leader's own part of a step."""
    made = CASES["cot"].trainer(root, "inside", PLAN, execution=execution)

    def broken(*_: Any, **__: Any) -> Any:
        raise error

    distribute = made._distribute

    def distribute_broken(*arguments: Any) -> None:
        distribute(*arguments)
        assert made.distributed is not None
        made.distributed.replica.module.forward = broken

    made._distribute = distribute_broken  # type: ignore[method-assign]
    made.run()


def interrupt_step(root: Path, execution: ExecutionContext) -> None:
    """Ctrl-C there."""
    fail_inside(root, KeyboardInterrupt, execution=execution)


def interrupt_answers(root: Path, execution: ExecutionContext) -> None:
    """Ctrl-C in the leader's own share of the questions."""
    spec = RunSpec.from_json({"method": {"name": "cot", "settings": {}}})
    trained = TrainedModel(CASES["cot"].backbone(root), ChainOfThought(), nn.ModuleDict(), spec, execution)
    answerer = Predictor(trained)
    asked = ((7,) * 9, (8,) * 9)
    batch = distributed.GenerateBatch([answerer.prompt(q) for q in asked], asked, 2, ())

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    distributed.answer_all(answerer, [batch] * 4, stop)


def refuse(root: Path, execution: ExecutionContext) -> None:
    with pytest.raises(UsageError, match="--strategy fsdp has nothing to shard where only the markers' rows train"):
        fit(root, "markers", "refused", "fsdp", execution=execution)
    with pytest.raises(
        UsageError, match="a batch of 1 examples cannot be shared by 2 processes: give --batch-size 2 or more"
    ):
        plan_study(options(root / "small", "direct", batch_size=1))
    with pytest.raises(UsageError, match="--processes asks for 3 processes, but 2 were started"):
        options(root / "three", "direct", processes=3)
    assert not (root / "small").exists()


@pytest.mark.parametrize(
    ("job", "codes"),
    [
        (explode, [0, 0]),
        (refuse, [0, 0]),
        (fail_between, [1, 0]),
        (fail_inside, [1, 1]),
        (fail_elsewhere, [1, 1]),
        (interrupt_step, [1, 1]),
        (interrupt_answers, [1, 1]),
    ],
)
def test_an_error_hangs_nobody(
    tmp_path: Path, job: Callable[..., None], codes: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert together(job, tmp_path, patience=60.0) == codes
    capfd.readouterr()


# what a whole run stores


def study(out: Path, strategy: str | None, data: Path, execution: ExecutionContext = ALONE) -> None:
    given = {
        "strategy": strategy,
        "max_tokens": 3,
        "eval_batch_size": 7,
        "checkpoint": "best",
        "checkpoint_points": 2,
        "limit": 16,
    }
    small = {"layers": 1, "width": 32, "heads": 2, "vocabulary": 300, "dropout": 0.0}
    given["settings"] = {"rim": {"K": 2, "epochs_ground": 1, "epochs_refine": 1, "refine_dropout": 0.0}}
    runs = run_plan(plan_study(options(out, "rim", backbone=small, **given)), Heard(), execution=execution)
    (out / "chosen.json").write_text(json.dumps([choose(run, data, execution) for run in runs]))
    (out / "scored.json").write_text(json.dumps([likelihoods(run, execution) for run in runs]))
    if execution.group is not None:
        fail_at_another(runs[0], execution)


def choose(run: Run, data: Path, execution: ExecutionContext) -> list[dict[str, Any]]:
    """The choice form, whose answers are likelihoods."""
    request = EvaluationRequest(
        unregistered("prosqa_choice"), data, split="validation", max_tokens=3, batch_size=2, allow_changed=True
    )
    return [
        {k: v for k, v in item.to_json().items() if k not in TIMES}
        for item in marked(load_trained(run, execution=execution), request, request.dataset())
    ]


def likelihoods(run: Run, execution: ExecutionContext) -> list[float]:
    """What other people's tasks of lm-eval ask for: continuations, and whole texts."""
    lm = RimLM(trained=load_trained(run, execution=execution), batch_size=2)
    pairs = [(f"Tom has {n} apples.", f" {answer}") for n in range(3) for answer in ("yes", "no way")]
    asked = [Instance("loglikelihood", {}, pair, 0, metadata=("t", i, 1)) for i, pair in enumerate(pairs)]
    texts = [Instance("loglikelihood_rolling", {}, ("apple " * n,), 0, metadata=("t", n, 1)) for n in range(1, 6)]
    return [*(logprob for logprob, _ in lm.loglikelihood(asked)), *lm.loglikelihood_rolling(texts)]


def fail_at_another(run: Run, execution: ExecutionContext) -> None:
    """What goes wrong in another process is told here, and the next evaluation goes on."""
    answerer = Predictor(load_trained(run, execution=execution))
    good, bad = ((7,) * 9, (8,) * 9), ((10**6,),)
    batches = [distributed.GenerateBatch([answerer.prompt(q) for q in asked], asked, 2, ()) for asked in (good, bad)]
    with pytest.raises(RuntimeError, match=r"(?s)process 1 of 2 failed:.*index out of range"):
        distributed.answer_all(answerer, batches)
    assert len(distributed.answer_all(answerer, [batches[0]] * 3)) == 3


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("studies")
    (root / "prosqa").mkdir()
    for name, split in (("valid", "validation"), ("test", "test")):
        rows = [r for _, r in prosqa.generate_rows(6, ["hops=3-6"], 1, split)]
        (root / "prosqa" / f"{name}.json").write_text(json.dumps(rows))
    study(root / "one", None, root)
    for strategy in ("ddp", "fsdp"):
        assert together(study, root / strategy, strategy, root) == [0, 0]
    return {name: root / name for name in ("one", "ddp", "fsdp")}


def told(run: Run) -> dict[str, Any]:
    """train.json without the clock, the memory, and what is executed."""
    left = {
        "seconds",
        "examples_per_s",
        "peak_memory_bytes",
        "executed_tokens",
        "flops_executed",
        "flops_padding",
        "processes",
        "fingerprints",
    }
    found = {k: v for k, v in training_of(run).to_json().items() if k not in left}
    found["final_loss"] = pytest.approx(found["final_loss"], rel=1e-5)
    looked = [{k: v for k, v in r.items() if k != "seconds"} for r in found["selection"]["seen"]]
    return {**found, "selection": {**found["selection"], "seen": looked, "seconds": 0}}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_study_stores_what_one_process_does(studies: dict[str, Path], strategy: str) -> None:
    one, two = (Store(studies[name]).runs()[0] for name in ("one", strategy))
    assert [r.id for r in one] == [r.id for r in two] and len(one) == 1  # ids know nothing of processes
    assert Store(studies[strategy]).runs()[1] == []
    for a, b in zip(one, two, strict=True):
        assert told(b) == told(a)
        assert training_of(b).processes == ProcessesRecord(world_size=2, backend="gloo", strategy=strategy)
        assert not training_of(a).says("processes") and not (b.path / "checkpoints").exists()
        assert json.loads((b.path / "environment.json").read_text())["processes"]["world_size"] == 2
        assert a.evaluations().keys() == b.evaluations().keys() and len(a.evaluations()) == 1
        for key in a.evaluations():
            items = [
                [{k: v for k, v in i.to_json().items() if k not in TIMES} for i in run.read_items(key)]
                for run in (a, b)
            ]
            assert items[0] == items[1] and len(items[0]) == 16
            assert len({i["batch_size"] for i in items[0]}) == 2  # two batches of 7 and one of 2
            assert b.evaluations()[key].processes == 2 and not a.evaluations()[key].says("processes")
            assert b.evaluations()[key].latency.n == 16
    scored = [json.loads((studies[name] / "scored.json").read_text()) for name in ("one", strategy)]
    assert scored[1] == [pytest.approx(s, rel=1e-4) for s in scored[0]] and len(scored[0][0]) == 11
    chosen = [json.loads((studies[name] / "chosen.json").read_text()) for name in ("one", strategy)]
    assert [[i["id"] for i in items] for items in chosen[0]] == [[i["id"] for i in items] for items in chosen[1]]
    for mine, theirs in zip(*chosen, strict=True):
        assert [i["logprobs"] for i in mine] == [pytest.approx(i["logprobs"], rel=1e-4) for i in theirs] and len(
            mine
        ) == 6


# what travels


def test_a_model_travels_with_its_ties(tmp_path: Path) -> None:
    assert together(receive, tmp_path) == [0, 0]


def receive(root: Path, execution: ExecutionContext) -> None:
    assert execution.group is not None
    backbone = CASES["cot"].backbone(root)
    packed, tensors = packing(backbone)
    assert len({id(t) for t in tensors}) == len(tensors)  # the tied table once
    again: Backbone = workers._Unpacker(packed, [t.clone() for t in tensors]).load()
    assert again.weights_sha256() == backbone.weights_sha256()
    assert isinstance(CASES["lora"].backbone(root).model, nn.Module)


def packing(thing: Any) -> tuple[Any, list[Any]]:
    import io

    file = io.BytesIO()
    packer = workers._Packer(file)
    packer.dump(thing)
    return io.BytesIO(file.getvalue()), packer.tensors


# how it is started


@pytest.mark.parametrize(
    ("environment", "given", "words"),
    [
        (
            {},
            2,
            "--processes asks for 2 processes, but 1 was started: start them with `torchrun --nproc_per_node 2 -m -- "
            "rim_bench …`",
        ),
        ({"RIM_BENCH_PROCESSES": "2"}, None, "RIM_BENCH_PROCESSES asks for 2 processes, but 1 was started"),
        (
            {"RIM_BENCH_PROCESSES": "1", "WORLD_SIZE": "2", "RANK": "0"},
            None,
            "RIM_BENCH_PROCESSES asks for 1 processes, but 2 were",
        ),
        ({"RIM_BENCH_PROCESSES": "two"}, None, "RIM_BENCH_PROCESSES=two in the environment is not a number"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, 4, "--processes asks for 4 processes, but 2 were started"),
    ],
)
def test_another_number_of_processes_is_refused(
    environment: dict[str, str], given: int | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        launch_environment.check_asked(given)


def test_the_number_is_checked_where_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    launch_environment.check_asked(1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RIM_BENCH_PROCESSES", "2")
    launch_environment.check_asked()
    launch_environment.check_asked(2)
    launch_environment.check_strategy("fsdp")
    with (
        pytest.raises(UsageError, match="WORLD_SIZE=2 in the environment, but no RANK"),
        launch.execution_of_command(["run"]),
    ):
        pass


def test_commands_that_compute_nothing_are_the_leaders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        with launch.execution_of_command(["table", "--out", "results"]) as execution:
            assert (execution is not None) == (rank == 0)


@pytest.mark.parametrize("command", ["table", "run"])
def test_a_stray_rank_makes_no_worker(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without WORLD_SIZE nobody else was started: a process that did nothing would be silence with exit code 0."""
    monkeypatch.setenv("RANK", "1")
    with launch.execution_of_command([command]) as execution:
        assert execution is not None
    monkeypatch.setenv("RIM_BENCH_PROCESSES", "2")
    with (
        pytest.raises(UsageError, match="asks for 2 processes, but 1 was started"),
        launch.execution_of_command(["run"]),
    ):
        pass


def test_the_command_line_refuses_what_does_not_fit(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    for flags, words in (
        (("--processes", "2"), "--processes asks for 2 processes, but 1 was started"),
        (("--strategy", "fsdp"), "--strategy fsdp is for several processes, and one was started"),
        (("--strategy", "fdsp"), "unknown strategy 'fdsp': allowed are ddp, fsdp; did you mean 'fsdp'?"),
    ):
        code, out, err = call("run", "--methods", "direct", "--quick", "--out", tmp_path / "results", *flags)
        assert (code, out) == (2, "") and words in err and "Traceback" not in err
        (tmp_path / "study.toml").write_text('methods = ["direct"]\ntask = "chain"\nlimit = 20\nquick = true\n')
        code, out, err = call("study", tmp_path / "study.toml", *flags)
        assert (code, out) == (2, "") and words in err and "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["study.toml"]


def test_a_study_has_the_strategy_that_the_command_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "study.toml").write_text(
        'methods = ["direct"]\ntask = "chain"\nbudgets = ["examples=40", "examples=80"]\n'
    )
    made = read_study(tmp_path / "study.toml", StudyOptions(strategy="fsdp", processes=2))
    assert [(o.strategy, o.processes) for o in made.requests] == [("fsdp", 2)] * 2


def test_accelerate_must_see_all_of_them(tmp_path: Path) -> None:
    assert together(alone_with_accelerate, tmp_path) == [0, 0]


def check_threads() -> None:
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not any("gloo" in name for name in threads), threads


def leads(execution: ExecutionContext) -> None:
    assert execution.group is not None and execution.group.rank == 0


def test_no_thread_of_the_processes_outlives_the_command() -> None:
    """One that is at work while the interpreter ends aborts a program that has stored everything."""
    assert together(leads, after=check_threads) == [0, 0]


def alone_with_accelerate(_: Path, execution: ExecutionContext) -> None:
    assert execution.group is not None
    with pytest.raises(UsageError, match="3 processes were started, but accelerate works with 2"):
        accelerator(workers.WorkerGroup(0, 3, execution.group.control), torch.device("cpu"))


def test_torchrun_starts_it(tmp_path: Path) -> None:
    """As docs/distributed.md says, with the output of one process."""
    flags = (
        "--methods direct --limit 8 --examples 8 --batch-size 4 --max-tokens 3 --device cpu --processes 2 "
        "--eval-batch-size 8"
    )
    shape = "--backbone width=32 --backbone layers=1 --backbone heads=2 --backbone vocabulary=300"
    starter = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(crews.free_port()),
    ]
    command = [
        *starter,
        "-m",
        "--",
        "rim_bench",
        "run",
        "--start",
        "recipe",
        *flags.split(),
        *shape.split(),
        "--out",
        "results",
    ]
    root = Path(__file__).resolve().parents[2]
    place = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=place, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("runs: results/runs/") == 1 and (tmp_path / "results" / "table.md").is_file()
    (run,) = Store(tmp_path / "results").runs()[0]
    assert training_of(run).processes.world_size == 2 and len(run.metrics()) == 2
    assert "Traceback" not in done.stderr


def test_the_cases_are_what_they_say(tmp_path: Path) -> None:
    """Rows of a batch differ in passes, and two shares of a step in micro-batches:
    else the dummy rows would have nothing to do.
    """
    made = CASES["bridge"].trainer(tmp_path, "look", PLAN)
    layouts = made.layouts(made.spans[1], made.spans[1].first, 0, range(5))
    assert len({r.passes for r in layouts}) > 2
    assert [len(made._cut(share)) for share in shard_rows(layouts, 2)] == [2, 1]
    assert isinstance(CASES["cot"].method, ChainOfThought) and CASES["lora"].backbone(tmp_path).spec["tuning"] == "lora"
