"""A run folder that somebody else made: its numbers may be read, code that it names is never run unasked."""

from __future__ import annotations

import hashlib
import json
import py_compile
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_runs
from lm_eval.tasks import TaskManager
from user_task import task_text, write

import rim_bench
from rim_bench.data.task import task_of
from rim_bench.evaluate.lm_eval_model import RimLM
from rim_bench.runs.options import StudyOptions
from rim_bench.runs.study_file import read_study
from rim_bench.storage.records import RunSpec
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util import own_files
from rim_bench.util.errors import UsageError
from rim_bench.util.own_files import allow_files

Call = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("one_thread")

METHOD = """
from dataclasses import dataclass
from rim_bench.baselines.direct import Direct

@dataclass(frozen=True)
class Mine(Direct):
    name = "mine"
"""
TASK = task_text("own_sums", 1, "    summary: sums\n    files: {train: train.jsonl, test: test.jsonl}\n")


@pytest.fixture(scope="module")
def results_of_others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a run of a method of somebody's own on a task of somebody's own, and their files."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "mine.py").write_text(METHOD)
    (folder / "sums.yaml").write_text(TASK)
    for split, n in (("train", 20), ("test", 4)):
        write(folder / f"{split}.jsonl", [{"question": f"{i} + 1?", "answer": i + 1} for i in range(n)])
    asked = small_runs.options(folder / "results", str(folder / "mine.py"), examples=8, model="tiny", limit=None)
    small_runs.train(replace(asked, task=str(folder / "sums.yaml")))
    return folder


@pytest.fixture
def theirs(results_of_others: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of that folder as it comes to a process that was given nothing; `PWNED` is what code of theirs writes."""
    folder = tmp_path / "theirs"
    shutil.copytree(results_of_others, folder)
    monkeypatch.setattr(own_files, "_allowed", {})
    monkeypatch.delenv("RIM_BENCH_DATA", raising=False)
    monkeypatch.setattr("logging.raiseExceptions", False)  # lm-eval's handler may hold a stream of another test
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("rim_bench_user_"):
            del sys.modules[name]


def the_run(folder: Path) -> Run:
    ((run,), _) = Store(folder / "results").runs()
    return run


def evil(path: Path) -> str:
    """A file that says it was run; returns its hash."""
    path.write_text(METHOD + f"\nopen({str(path.parent / 'PWNED')!r}, 'w').close()\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rewritten(run: Run, **parts: dict[str, Any]) -> Run:
    """The folder with changes in its spec.json, under the name and with the manifest that they give it."""
    value = run.spec.to_json()
    for part, changes in parts.items():
        value[part] |= changes
    (run.path / "spec.json").write_text(json.dumps(value))
    changed = Run(run.path.rename(run.path.with_name(RunSpec.from_json(value).id)))
    changed.write_manifest()
    return changed


def test_code_of_a_folder_is_not_run(theirs: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = TaskManager.__init__  # without lm-eval's 14,000 names, which take seconds
    monkeypatch.setattr(
        TaskManager, "__init__", lambda self, *a, **k: begin(self, *a, **k | {"include_defaults": False})
    )
    file = theirs / "evil.py"
    digest = evil(file)
    run = rewritten(the_run(theirs), method={"file": str(file), "file_sha256": digest})
    commands = (
        ("eval", run.path, "--task", "chain"),
        ("sweep", run.path, "--task", "chain", "--knob", "votes=3"),
        ("lm-eval", "run", "--model", "rim-bench", "--model_args", f"path={run.path}", "--tasks", "rimbench_chain"),
    )
    for command in commands:
        code, _, err = call(*command, "--device", "cpu")
        assert code == 2 and err.count("error: ") == 1 and "Traceback" not in err
        said = err.partition("error: ")[2]
        assert said.count("\n") == 1 and f"file {str(file)!r} (sha256 {digest})" in said
        flags = ("method_file=FILE", "trust=") if command[0] == "lm-eval" else ("--method-file FILE", "--trust ")
        assert flags[0] in said and f"{flags[1]}{file}:{digest}" in said
    with pytest.raises(UsageError, match="code is never run because a folder names it"):
        rim_bench.evaluate_run(run, task="chain", device="cpu")
    with pytest.raises(UsageError, match="code is never run because a folder names it"):
        rim_bench.sweep([run], task="chain", device="cpu", progress=False)
    with pytest.raises(UsageError, match="code is never run because a folder names it"):
        RimLM(str(run.path), device="cpu")
    assert not (theirs / "PWNED").exists()


@pytest.mark.parametrize("name", ["evil.py", "./theirs/evil.py", "rim_bench_user_x"])
def test_a_name_is_no_path(theirs: Path, call: Call, name: str) -> None:
    evil(theirs / "evil.py")
    shutil.copy(theirs / "evil.py", "evil.py")
    run = the_run(theirs)
    value = run.spec.to_json()
    value["method"] = {"name": name, "settings": {}}
    (run.path / "spec.json").write_text(json.dumps(value))
    run.seal.path.unlink()
    code, _, err = call("eval", run.path, "--task", "chain", "--device", "cpu")
    assert code == 2 and f"unknown method {name!r}" in err
    assert not list(Path().rglob("PWNED"))


@pytest.mark.parametrize("name", ["theirs/evil.yaml", "../evil", "sums"])
def test_a_task_of_a_folder_is_not_read_by_its_path(theirs: Path, call: Call, name: str) -> None:
    text = TASK.replace("source: rows", "source: rows\n    reader: evil_reader")
    for folder in (theirs, Path()):
        (folder / "evil.yaml").write_text(text)
        evil(folder / "evil_reader.py")
    run = rewritten(the_run(theirs), task={"name": name})
    (run.path / "environment.json").write_text("{}")
    run.seal.path.unlink()
    code, _, err = call("eval", run.path, "--method-file", theirs / "mine.py", "--device", "cpu")
    assert code == 2
    assert ("of somebody's own" in err and "--task-file FILE" in err) if name == "sums" else "is not a name" in err
    assert "evil_reader" not in sys.modules and not list(Path().rglob("PWNED"))


def test_a_task_named_like_a_shipped_one_is_not_taken_for_it() -> None:
    with pytest.raises(UsageError, match=r"file 'theirs/chain.yaml' \(sha256 0000.*code is never run"):
        task_of("chain", {"path": "theirs/chain.yaml", "sha256": "0" * 64})
    assert task_of("chain").file_sha256 is None


def test_files_that_are_given_again_are_found_by_their_content(theirs: Path, call: Call) -> None:
    run = the_run(theirs)
    digests = {n: hashlib.sha256((theirs / n).read_bytes()).hexdigest() for n in ("mine.py", "sums.yaml")}
    assert (run.task_file or {})["sha256"] == digests["sums.yaml"]
    code, _, err = call("eval", run.path, "--method-file", theirs / "mine.py", "--device", "cpu")
    assert code == 2 and digests["sums.yaml"] in err and "task 'sums' of somebody's own" in err
    own_files._allowed.clear()
    (theirs / "other.py").write_text(METHOD + "# other\n")
    code, _, err = call("eval", run.path, "--method-file", theirs / "other.py", "--task", theirs / "sums.yaml")
    assert code == 2 and digests["mine.py"] in err and f"another content: {theirs / 'other.py'}" in err
    trusted = [f"--trust={theirs / name}:{digest}" for name, digest in digests.items()]
    code, _, err = call("eval", run.path, *trusted, "--device", "cpu")
    assert code == 0, err
    (key,) = run.evaluations()
    assert len(run.read_items(key)) == 4
    own_files._allowed.clear()
    files = {"method_files": str(theirs / "mine.py"), "task_files": [theirs / "sums.yaml"]}
    assert rim_bench.evaluate_run(run, device="cpu", progress=False, **files).evaluations().keys() == {key}
    (theirs / "sums.yaml").write_text(TASK + "    kind: text\n")
    own_files._allowed.clear()
    with pytest.raises(UsageError, match=r"task 'sums' of somebody's own.*has another content"):
        rim_bench.evaluate_run(run, device="cpu", progress=False, **files)


def test_lm_eval_is_given_the_file_too(theirs: Path) -> None:
    run, file = the_run(theirs), theirs / "mine.py"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert RimLM(str(run.path), device="cpu", trust=f"{file}:{digest}").trained.method.name == "mine"
    own_files._allowed.clear()
    assert RimLM(str(run.path), device="cpu", method_file=str(file)).trained.method.name == "mine"


def test_what_is_trusted_is_a_content(theirs: Path) -> None:
    file = theirs / "mine.py"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    for text, message in (
        (str(file), "is not FILE:SHA256"),
        (f"{file}:{digest[:12]}", "is not FILE:SHA256"),
        (f":{digest}", "is not FILE:SHA256"),
        (f"{file}:{'0' * 64}", f"the file's sha256 is {digest}, so it is not the file that you trust"),
        (f"{theirs / 'none.py'}:{digest}", "cannot be read: No such file"),
        (f"{theirs / 'train.jsonl'}:{digest}", "is no code that a run may need"),
    ):
        with pytest.raises(UsageError, match=message):
            allow_files([], [text])
    assert not own_files._allowed
    allow_files([], [f"{file}:{digest.upper()}"])
    assert own_files._allowed.keys() == {digest}


def test_what_runs_is_what_was_hashed(theirs: Path, call: Call) -> None:
    """A compiled file beside the source that Python would take for it, and a link that leads elsewhere later."""
    evil(theirs / "evil.py")
    compiled = theirs / "__pycache__" / f"mine.{sys.implementation.cache_tag}.pyc"
    py_compile.compile(
        str(theirs / "evil.py"), str(compiled), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    link = theirs / "link.py"
    link.symlink_to(theirs / "mine.py")
    assert RimLM(str(the_run(theirs).path), device="cpu", method_file=str(link)).trained.method.name == "mine"
    link.unlink()
    link.symlink_to(theirs / "evil.py")
    assert RimLM(str(the_run(theirs).path), device="cpu").trained.method.name == "mine"
    assert not (theirs / "PWNED").exists()


@pytest.mark.parametrize(
    ("keys", "file"),
    [
        ('methods = ["FOLDER/evil.py"]\ntask = "chain"', "evil.py"),
        ('methods = ["direct"]\ntask = "FOLDER/sums.yaml"', "sums.yaml"),
        ('methods = ["direct"]\ntask = "chain"\neval_tasks = ["svamp, FOLDER/sums.yaml"]', "sums.yaml"),
    ],
)
def test_a_study_file_names_code_and_does_not_run_it(theirs: Path, call: Call, keys: str, file: str) -> None:
    evil(theirs / "evil.py")
    study = theirs / "study.toml"
    study.write_text(keys.replace("FOLDER", str(theirs)))
    digest = hashlib.sha256((theirs / file).read_bytes()).hexdigest()
    for more in ((), ("--dry-run",)):
        code, _, err = call("study", study, *more)
        assert code == 2 and f"--trust {theirs / file}:{digest}" in err and err.count("\n") == 1
    assert not (theirs / "PWNED").exists()
    flag = {"method_files": (str(theirs / file),)} if file == "evil.py" else {"task_files": (str(theirs / file),)}
    assert read_study(study, StudyOptions(**flag)).path == study
    own_files._allowed.clear()
    assert read_study(study, StudyOptions(trust=(f"{theirs / file}:{digest}",))).path == study


def test_a_link_in_a_run_folder_is_not_written_through(theirs: Path, call: Call) -> None:
    run = the_run(theirs)
    (theirs / "precious").mkdir()
    (run.path / "eval").symlink_to(theirs / "precious")
    files = ("--method-file", theirs / "mine.py", "--task", theirs / "sums.yaml", "--device", "cpu")
    code, _, err = call("eval", run.path, *files)
    assert code == 2 and "eval' is a link" in err
    assert not list((theirs / "precious").iterdir())
