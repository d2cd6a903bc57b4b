"""Bad input at the command line: one sentence, exit code 2, no traceback, nothing half-written.

In one process; nothing is trained long.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from rim_bench.cli import common, main
from rim_bench.data import rows
from rim_bench.engine.trainer import Trainer
from rim_bench.storage.run_folder import Run
from rim_bench.util import progress
from rim_bench.util.console import RichReporter
from rim_bench.util.progress import TrainingStep

Call = Callable[..., tuple[int, str, str]]

TINY = ["--backbone", "width=32", "--backbone", "layers=1", "--limit", "24", "--device", "cpu", "--start", "recipe"]
DIRECT = ["--methods", "direct", *TINY, "--quick", "--examples", "320"]


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test in an empty folder, without the user's data folder and logging."""
    monkeypatch.chdir(tmp_path)
    for name in ("RIM_BENCH_DATA", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # no test may reach a hub
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    handlers = logging.getLogger().handlers[:]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    logging.getLogger().handlers[:] = handlers


@pytest.fixture
def refused(call: Call) -> Callable[..., str]:
    """Calls, and returns the one sentence that it must end with."""

    def run(*arguments: str | Path) -> str:
        code, out, err = call(*arguments)
        lines = err.splitlines()
        assert code == 2, err
        assert out == "" and len([line for line in lines if line.startswith("error: ")]) == 1 and "Traceback" not in err
        assert lines[-1].startswith("error: ")
        return lines[-1]

    return run


def left(folder: Path) -> list[str]:
    """Files and empty folders below a folder."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() or not any(p.iterdir()))


# What the parser and the options refuse


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("run --nope", "--nope"),
        ("run --limit abc", "--limit"),
        ("nope", "nope"),
        ("eval", "runs"),
        ("run --methods dirct", "unknown method 'dirct'|did you mean 'direct'"),
        ("run --methods ,", "no method was given"),
        ("run --methods rim,rim", "given twice"),
        ("run --methods ./mine.py", "mine.py|does not exist"),
        ("run --task chian", "unknown task 'chian'|did you mean 'chain'"),
        ("run --task ./mine.yaml", "mine.yaml|does not exist"),
        ("run --model tinny", "unknown backbone 'tinny'|did you mean 'tiny'"),
        ("run --model ./nowhere", "nowhere|does not exist"),
        ("run --backbone widht=64", "'widht'|did you mean 'width'"),
        ("run --backbone width=abc", "width = 'abc'|whole number"),
        ("run --backbone width", "--backbone 'width'|KEY=VALUE"),
        ("run --backbone dropout=abc", "dropout = abc"),
        ("run --backbone embedding_std=nan", "embedding_std = nan"),
        ("run --backbone tied=perhaps", "tied = perhaps|true or false"),
        ("run --tuning lora", "LoRA needs a pretrained backbone"),
        ("run --set rim.KK=4", "'KK'|did you mean 'K'"),
        ("run --set rim.K=four", "rim.K = 'four'|whole number"),
        ("run --set rim.K=0", "K = 0"),
        ("run --set rim.refine_lr_scale=nan", "refine_lr_scale"),
        ("run --set rim.K", "--set 'rim.K'|METHOD.FIELD=VALUE"),
        ("run --set rim.K=4 --set rim.K=8", "--set gives rim.K twice, as '4' and as '8'"),
        ("run --backbone width=32 --backbone width=64", "--backbone gives width twice"),
        ("run --task json --file test=a.jsonl --file test=b.jsonl", "--file gives test twice"),
        ("sweep --knob K=1 --knob K=2", "--knob gives K twice"),
        ("run --set K=4", "--set 'K=4'|METHOD.FIELD=VALUE"),
        ("run --methods direct --set rim.K=4", "method 'rim' is not among"),
        ("run --seeds a", "--seeds 'a'"),
        ("run --seeds -1", "seed -1"),
        ("run --seeds 0,0", "distinct"),
        ("run --start middle", "unknown start 'middle'"),
        ("run --steps words", "unknown kind of steps 'words'"),
        ("run --steps prose", "one kind of steps"),
        ("run --examples 0", "--examples 0"),
        ("run --examples -5", "--examples -5"),
        ("run --examples 31", "31 examples"),
        ("run --cot-examples 0", "--cot-examples 0"),
        ("run --methods coconut --examples 64", "2 optimizer steps|4 stages"),
        ("run --lr nan", "--lr nan"),
        ("run --lr -0.1", "--lr -0.1"),
        ("run --lr 0", "--lr 0"),
        ("run --lr inf", "--lr inf"),
        ("run --limit 0", "--limit 0"),
        ("run --batch-size 0", "--batch-size 0"),
        ("run --max-tokens 0", "--max-tokens 0"),
        ("run --eval-batch-size 0", "--eval-batch-size 0"),
        ("run --eval-batch-size -1", "--eval-batch-size -1"),
        ("run --device gpu", "device 'gpu'"),
        ("run --device meta", "device 'meta'"),
        ("run --file rows.jsonl", "--file 'rows.jsonl'|SPLIT=PATH"),
        ("run --task json --file rows=rows.jsonl", "unknown split 'rows'"),
        ("run --task json --file train=rows.jsonl", "rows.jsonl"),
        ("run --task json", "--data DIR"),
        ("run --task gsm8k --data nowhere", "'nowhere' does not exist|gsm8k/train.jsonl"),
        ("train --methods dirct", "unknown method 'dirct'"),
        ("eval nope", "unknown run 'nope'"),
        ("eval nope --split train", "unknown split 'train'"),
        ("table", "no run is stored in 'results/runs'|--out"),
        ("table nope", "unknown run 'nope'"),
        ("table --format word", "unknown format 'word'"),
        ("table --split train", "unknown split 'train'"),
        ("plot", "no run is stored"),
        ("plot --kind pie", "unknown kind of plot 'pie'"),
        ("list things", "unknown list 'things'"),
        ("show dirct", "unknown method 'dirct'"),
        ("show rim --effort -1", "effort -1"),
        ("show direct --effort 3", "no compute knob"),
        ("show rim --row 99999", "row 99999"),
        ("show rim --set rim.KK=3", "'KK'"),
        ("show rim,coconut", "takes one method|names 2|`rim-bench show rim`"),
        ("show ,", "takes one method|names none"),
        ("show rim --effort 99999999999", "effort 99999999999 is too large"),
        ("run --seeds 99999999999999999999", "seed 99999999999999999999 is too large|9,223,372,036,854,775,807"),
        ("run --examples 99999999999999999999", "--examples 99999999999999999999 is too large"),
        ("run --batch-size 1000000000000", "--batch-size 1000000000000 is too large"),
        ("run --limit 99999999999999999999", "--limit 99999999999999999999 is too large"),
        ("run --lr 1e400", "--lr inf"),
        ("run --budget examples=1e29", "too large"),
        ("run --set rim.K=1000000000000", "rim.K = '1000000000000'|at most 100,000"),
        ("run --set rim.K=1e400", "rim.K = '1e400'"),
        ("run --backbone width=1e400", "width = inf"),
        ("run --backbone layers=1000000 --backbone width=1000000", "parameters"),
        ("run --checkpoint best --checkpoint-points 1000000000", "--checkpoint-points 1000000000 is too large"),
        ("run --tune lr=1e-5..1e-3 --trials 1000000000", "--trials 1000000000 is too large"),
        ("run --model=", "an empty text stands behind '--model='"),
        ("run --out /proc/nowhere", "--out '/proc/nowhere/table.md' cannot be written"),
        ("eval nope --votes 99999999999", "votes 99999999999 is too large"),
        ("eval nope --votes 5 --temperature 1e-320", "temperature 1e-320"),
        ("eval nope --votes 5 --sample-seed 99999999999999999999", "sample_seed 99999999999999999999 is too large"),
        ("power --difference 1e-300", "--difference 1e-300"),
        ("power --n 9 --alpha 1e-320", "--alpha"),
        ("power --n 9 --json .", "--json '.' cannot be written: it is a folder"),
        ("cost --json /dev/null/x.json", "--json '/dev/null/x.json' cannot be written: Not a directory"),
        ("cost --chain-steps 99999999999999999999", "--chain-steps 99999999999999999999 is too large"),
        ("check nope --against b.toml --margin 2 --junit /proc/x", "--junit '/proc/x' cannot be written"),
        ("margin nope --output /proc/x", "--output '/proc/x' cannot be written"),
        ("baseline nope -o /proc/x", "--output '/proc/x' cannot be written"),
        ("leakage --task chain --to /proc/x.md", "--to '/proc/x.md' cannot be written"),
        ("plot --to /proc/x.svg", "--to '/proc/x.svg' cannot be written"),
        ("table --write --out /proc/x", "--out '/proc/x/table.md' cannot be written"),
    ],
)
def test_one_sentence_and_nothing_written(
    refused: Callable[..., str], command: str, words: str, tmp_path: Path
) -> None:
    said = refused(*command.split())
    for word in words.split("|"):
        assert word in said
    assert not left(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "device 'cuda' cannot be used" in refused("run", "--device", "cuda") and not left(tmp_path)


def test_without_arguments_there_is_help(call: Call) -> None:
    code, out, err = call()
    assert code == 0 and "list" in out and err == ""


# Data


def test_a_malformed_line_is_named(refused: Callable[..., str], tmp_path: Path) -> None:
    good = json.dumps({"question": "1+1?", "answer": "2"})
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{good}\n{good}\n{{'question': 1}}\n")
    (other := tmp_path / "other.jsonl").write_text(f"{good}\n")
    assert f"{path}, line 3: not JSON" in refused(
        "run", "--task", "json", "--file", f"train={path}", "--file", f"test={other}"
    )
    path.write_text(f'{good}\n{{"question": "?"}}\n')
    assert f"{path}, line 2: no field 'answer'" in refused("run", "--task", "json", "--file", f"train={path}")
    assert left(tmp_path) == ["other.jsonl", "rows.jsonl"]


def test_an_unreachable_hub_is_said_at_once(refused: Callable[..., str], tmp_path: Path) -> None:
    started = time.monotonic()
    said = refused("run", "--task", "gsm8k", "--model", "tiny")
    assert "openai/gsm8k" in said and "cannot be reached" in said and "--data DIR" in said
    data = tmp_path / "data"
    data.mkdir()
    row = json.dumps({"question": "1+1?", "answer": "<<1+1=2>>\n#### 2"})
    for split in ("train", "test"):
        (data / f"{split}.jsonl").write_text(f"{row}\n{row.replace('1+1?', '2?')}\n" * 2)
    said = refused(
        "run",
        "--methods",
        "direct",
        "--task",
        "gsm8k",
        "--data",
        data,
        "--model",
        "nobody/nothing-of-this-name",
        "--device",
        "cpu",
        "--allow-changed-data",
    )
    assert "nobody/nothing-of-this-name" in said and "cannot be reached" in said and "folder" in said
    assert time.monotonic() - started < 10
    assert not any("spec.json" in name for name in left(tmp_path))


def test_the_hub_is_probed_with_a_time_limit() -> None:
    assert rows.PROBE_SECONDS <= 4


# The results folder


def test_a_results_folder_that_cannot_be_one(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refused("run", *DIRECT, "--out", "file")
    assert "file/results" in refused("run", *DIRECT, "--out", "file/results")
    if Path("/proc/self").exists():  # where nothing can be made, even by root
        assert "/proc/" in refused("run", *DIRECT, "--out", "/proc/nowhere")
    assert left(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "mine"


def test_a_row_too_long_for_the_model_leaves_no_run_behind(refused: Callable[..., str], tmp_path: Path) -> None:
    said = refused("run", *DIRECT, "--backbone", "max_positions=20")
    assert "needs" in said and "max_positions" in said
    assert not any("spec.json" in name for name in left(tmp_path))


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one run, made by the command itself."""
    out = tmp_path_factory.mktemp("cli") / "results"
    before = sys.argv
    sys.argv = ["rim-bench", "run", *DIRECT, "--out", str(out)]
    try:
        with pytest.raises(SystemExit) as stopped:
            main.main()
    finally:
        sys.argv = before
    assert stopped.value.code == 0
    return out


@pytest.fixture
def own(results: Path, tmp_path: Path) -> Path:
    """A copy of it to harm."""
    return Path(shutil.copytree(results, tmp_path / "results"))


def only(own: Path) -> Path:
    (run,) = (own / "runs").iterdir()
    return run


def test_the_same_command_again_does_nothing_and_prints_the_table(call: Call, own: Path) -> None:
    run = only(own)
    before = {name: (run / name).stat().st_mtime_ns for name in left(run)}
    code, out, err = call("run", *DIRECT)
    assert (
        code == 0 and "direct" in out and "quick: not a result" in out and "results/runs" in out and "table.csv" in out
    )
    assert "trained already" in err and "evaluated already" in err
    assert {name: (run / name).stat().st_mtime_ns for name in left(run)} == before


def test_another_process_holds_the_run(refused: Callable[..., str], own: Path) -> None:
    run = only(own)
    with FileLock(run / "lock", is_singleton=False):
        for command in (["run", *DIRECT], ["eval", run.name, "--limit", "2"]):
            assert f"another process works on '{Path('results/runs') / run.name}'" in refused(*command)


def test_a_damaged_run_is_named(refused: Callable[..., str], call: Call, own: Path) -> None:
    run = only(own)
    (weights,) = (run / "model").glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    said = refused("eval", run.name, "--limit", "2")
    assert "damaged" in said and weights.name in said and "model" in said
    (run / "spec.json").write_text("{")
    assert "spec.json" in refused("eval", run.name)
    assert "spec.json" in refused("run", *DIRECT)
    code, out, err = call("table")
    assert code == 2 or run.name in out + err


def test_evaluations_that_do_not_fit_the_run(refused: Callable[..., str], own: Path) -> None:
    run = only(own)
    before = left(own)
    assert "direct has no compute knob" in refused("eval", run.name, "--effort", "2", "--limit", "2")
    assert "unknown task 'chian'" in refused("eval", run.name, "--task", "chian")
    assert "--limit 0" in refused("eval", run.name, "--limit", "0")
    shutil.rmtree(run / "model")
    assert "is not trained yet" in refused("eval", run.name, "--limit", "2")
    assert [n for n in before if n not in left(own)] == [
        f"runs/{run.name}/model/{p}" for p in sorted(n.rsplit("/", 1)[1] for n in before if "/model/" in n)
    ]


def test_another_evaluation_is_stored_beside_the_first(call: Call, own: Path) -> None:
    run = only(own)
    code, _, err = call("eval", run.name[:-4], "--split", "validation", "--limit", "3")
    assert code == 0 and "of 3 (chain, validation)" in err
    assert len(list((run / "eval").iterdir())) == 2


def test_tables_and_plots_of_stored_runs(call: Call, own: Path) -> None:
    for kind in ("terminal", "markdown", "csv", "latex"):
        code, out, _ = call("table", "--format", kind)
        assert code == 0 and "direct" in out
    assert call("table", "--write")[0] == 0 and (own / "table.md").is_file()
    code, out, _ = call("plot", "--kind", "training", "--to", "loss.svg")
    assert code == 0 and out.strip() == "loss.svg" and Path("loss.svg").read_text().startswith("<?xml")


# What can happen in training


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = Trainer.step

    def poisoned(self: Trainer, chosen: list[int]) -> dict[str, object]:
        if self.done == 6:
            for _, parameter in self.parameters:
                parameter.data.fill_(float("nan"))
        return step(self, chosen)

    monkeypatch.setattr(Trainer, "step", poisoned)
    said = refused("train", *DIRECT)
    assert "not finite at step 7" in said and "step 6" in said and "lower learning rate" in said
    run = only(tmp_path / "results")
    assert (run / "checkpoints" / "step-00000006").is_dir() and not (run / "model").exists()
    assert len((run / "train.jsonl").read_text().splitlines()) == 6
    monkeypatch.setattr(Trainer, "step", step)


def test_a_full_disk_stops_and_the_same_command_goes_on(
    refused: Callable[..., str], call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save = torch.save

    def full(state: dict[str, object], path: object) -> None:
        if state["step"] == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(state, path)

    monkeypatch.setattr(torch, "save", full)
    said = refused("train", *DIRECT)
    assert "no space left" in said or "disk is full" in said
    run = only(tmp_path / "results")
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-00000003"]
    monkeypatch.setattr(torch, "save", save)
    code, out, _ = call("train", *DIRECT)
    assert code == 0 and "validation" in out
    assert [record["step"] for record in Run(run).metrics()] == list(range(1, 11))


def test_a_limit_on_files_stops_and_the_same_command_goes_on(
    refused: Callable[..., str], call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The refusal is the system's own, inside torch's and safetensors' writing."""
    shown: list[tuple[str, int, int]] = []

    class Phase(progress.Phase):
        def advance(self, done: int, total: int) -> None:
            shown.append((self.what, done, total))

    monkeypatch.setattr(progress, "Phase", Phase)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        said = refused("train", *DIRECT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "checkpoints/step-00000001': File too large; it needs 308 kB; a file may have 300 kB (ulimit -f)" in said
    run = only(tmp_path / "results")
    assert not any((run / "checkpoints").iterdir()) and not (run / "model").exists()
    assert call("train", *DIRECT)[0] == 0 and (run / "model").is_dir()
    assert shown[-1] == ("answering the validation questions of direct", 24, 24)


def test_a_results_folder_whose_name_is_no_text(refused: Callable[..., str], tmp_path: Path) -> None:
    said = refused("run", *DIRECT, "--out", os.fsdecode(b"r\xff"))
    assert "r\\udcff" in said and "no text in this locale" in said and not left(tmp_path)


def test_an_interruption_is_said_in_a_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "step", interrupt)
    code, _, err = call("train", *DIRECT)
    assert code == 130 and "goes on where this one stopped" in err and "Traceback" not in err


# The display


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with RichReporter() as reporter:
        for i in range(1, 41):
            reporter.training("direct", TrainingStep(i, 40, "refinement", 0.25, 812.4, 40 - i))
        reporter.finished("direct")
        reporter.evaluating("direct", 64, 64)
        reporter.note("[x] note")
    first, last, evaluated, note = capsys.readouterr().err.splitlines()
    assert first.split() == [
        "train",
        "direct",
        "1/40",
        "refinement",
        "loss",
        "0.2500",
        "812",
        "examples/s",
        "39",
        "s",
        "left",
    ]
    assert last.startswith("train direct  40/40") and evaluated == "evaluate direct  64/64" and note == "[x] note"


def test_a_fault_of_ours_is_not_taken_for_a_verdict(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(main, "application", broken)
    code, _, err = call("check")
    assert code == common.FAULT == 70 and "Traceback" in err and "ZeroDivisionError: a bug" in err
