"""Run folders under kill -9, damage, full disks and a second process.

Child processes import the store only, never torch.
"""

from __future__ import annotations

import errno
import gzip
import json
import logging
import lzma
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from rim_bench.storage import run_folder as module
from rim_bench.storage.records import TrainingRecord, spec_id
from rim_bench.storage.run_folder import Run, RunInUse, Store
from rim_bench.util.environment import environment
from rim_bench.util.errors import UsageError
from rim_bench.util.files import write_bytes_atomic, write_json_atomic

SPEC: dict[str, Any] = {
    "schema": 1,
    "method": {"name": "rim", "settings": {"K": 4}},
    "task": {"name": "chain"},
    "seed": 0,
}
ITEMS = [{"id": f"q{k}", "correct": k % 2 == 0, "output": "é" * 5} for k in range(50)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Store(tmp_path).open(SPEC)


def save(run: Run, step: int, data: bytes = b"weights") -> Path:
    with run.checkpoint(step) as folder:
        (folder / "sub").mkdir()
        (folder / "sub/model.bin").write_bytes(data)
        (folder / "state.json").write_text("{}")
    return run.path / f"checkpoints/step-{step:08d}"


def child(root: Path, code: str) -> subprocess.Popen[str]:
    """A process with `store` and `run` for the same folder, running `code`."""
    head = f"""
        import sys, time
        from pathlib import Path
        from rim_bench.storage.run_folder import Store
        store = Store(Path({str(root)!r}))
        run = store.open({SPEC!r})
    """
    source = textwrap.dedent(head) + textwrap.dedent(code)
    env = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])}
    return subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True, env=env)


def kill_when_told(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "now"
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    process.stdout.close()


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# Identity


def test_id_is_a_hash_of_the_spec(tmp_path: Path) -> None:
    shuffled = dict(reversed(SPEC.items()))
    assert (
        spec_id(SPEC) == spec_id(shuffled)
        and spec_id(SPEC).startswith("rim-chain-")
        and len(spec_id(SPEC)) == len("rim-chain-") + 12
    )
    assert spec_id(SPEC | {"seed": 1}) != spec_id(SPEC)
    run = Store(tmp_path).open(SPEC)
    assert run.path == tmp_path / "runs" / spec_id(SPEC) and Store(tmp_path).open(shuffled).path == run.path
    assert (
        names(tmp_path / "runs") == [run.id]
        and names(run.path) == ["manifest.json", "spec.json"]
        and Run(run.path).spec.to_json() == SPEC
    )
    for bad in ({"method": {}}, SPEC | {"lr": float("nan")}):
        with pytest.raises(ValueError, match=r"method\.name|not JSON compliant"):
            spec_id(bad)


@pytest.mark.parametrize("content", ["{", "[]", json.dumps(SPEC | {"seed": 9}), None])
def test_open_refuses_a_folder_with_another_spec(run: Run, content: str | None) -> None:
    path = run.path / "spec.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UsageError, match=run.id):
        Store(run.path.parents[1]).open(SPEC)
    good, bad = Store(run.path.parents[1]).runs()
    assert good == [] and [d.path for d in bad] == [run.path] and bad[0].reason


def test_find(tmp_path: Path) -> None:
    store = Store(tmp_path)
    a, b = store.open(SPEC), store.open(SPEC | {"seed": 1})
    assert store.find(a.id).path == a.path and store.find(str(b.path)).path == b.path
    unique = next(k for k in range(len(a.id)) if a.id[:k] != b.id[:k])
    assert store.find(a.id[:unique]).path == a.path
    with pytest.raises(UsageError, match="not unique"):
        store.find("rim-chain")
    with pytest.raises(UsageError, match=f"unknown run .*did you mean '{a.id}'"):
        store.find("x" + a.id)
    with pytest.raises(UsageError, match="allowed are none"):
        Store(tmp_path / "nothing").find("a")


def test_runs_names_the_damaged(tmp_path: Path) -> None:
    store = Store(tmp_path)
    runs = [store.open(SPEC | {"seed": s}) for s in range(6)]
    for r in runs:
        r.append_metrics({"step": 1})
        r.finish(lambda folder: (folder / "w").write_bytes(b"abc") and None, {"steps": 1})
        r.write_evaluation("test", ITEMS, {"n": 50})
    (runs[1].path / "model/w").write_bytes(b"ab")
    (runs[2].path / "eval/test/items.jsonl.gz").write_bytes(b"")
    (runs[3].path / "train.jsonl.xz").write_bytes(lzma.compress(b"{\n{}\n"))
    (runs[4].path / "train.json").write_text("")
    renamed = runs[5].path.rename(tmp_path / "runs/rim-chain-mine")
    good, bad = store.runs()
    assert [r.path for r in good] == [runs[0].path]
    reasons = {d.path: d.reason for d in bad}
    assert reasons.keys() == {*(r.path for r in runs[1:5]), renamed}
    assert (
        "2 bytes instead of 3" in reasons[runs[1].path]
        and "sha256" in reasons[runs[2].path]
        and "train.jsonl.xz' is damaged" in reasons[runs[3].path]
    )
    assert "train.json" in reasons[runs[4].path] and "does not carry the id" in reasons[renamed]


# Metrics


def test_metrics_and_truncation(run: Run) -> None:
    assert run.metrics() == []
    run.truncate_metrics(0)
    for step in range(1, 6):
        run.append_metrics({"step": step, "loss": float("nan") if step == 2 else 1.5, "losses": {"lm": float("inf")}})
    assert [m["step"] for m in run.metrics()] == [1, 2, 3, 4, 5]
    assert run.metrics()[1] == {"step": 2, "loss": None, "losses": {"lm": None}}
    before = (run.path / "train.jsonl").read_bytes()
    run.truncate_metrics(3)
    assert before.startswith((run.path / "train.jsonl").read_bytes()) and [m["step"] for m in run.metrics()] == [
        1,
        2,
        3,
    ]


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', '{"step": 3}', "\x00\x00"])
def test_a_torn_last_line_does_not_count(run: Run, torn: str) -> None:
    run.append_metrics({"step": 1})
    run.append_metrics({"step": 2})
    with (run.path / "train.jsonl").open("a") as file:
        file.write(torn)
    assert [m["step"] for m in run.metrics()] == [1, 2]
    run.append_metrics({"step": 7})  # is not glued to it
    assert [m["step"] for m in run.metrics()] == [1, 2, 7]
    with (run.path / "train.jsonl").open("a") as file:
        file.write(torn)
    run.truncate_metrics(2)
    assert (run.path / "train.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_damaged_line_is_named(run: Run) -> None:
    (run.path / "train.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UsageError, match=r"train\.jsonl' line 2"):
        run.metrics()


def test_kill_in_the_middle_of_appends(run: Run) -> None:
    code = """
        for step in range(1, 10**9):
            run.append_metrics({"step": step, "pad": "x" * 3000})
            if step == 50: print("now", flush=True)
    """
    kill_when_told(child(run.path.parents[1], code))
    steps = [m["step"] for m in run.metrics()]
    assert len(steps) >= 50 and steps == list(range(1, len(steps) + 1))
    run.truncate_metrics(40)
    run.append_metrics({"step": 41})
    assert [m["step"] for m in run.metrics()] == list(range(1, 42))


# Checkpoints and models


def test_checkpoints_keep_the_newest(run: Run) -> None:
    assert run.latest_checkpoint() is None
    first = save(run, 100)
    (run.path / "checkpoints/step-00000150.tmp").mkdir()
    with run.checkpoint(200) as folder:
        (folder / "a").write_bytes(b"1")
        assert first.is_dir() and run.latest_checkpoint() == (
            100,
            first,
        )  # the old one stays until the new one is complete
    assert names(run.path / "checkpoints") == ["step-00000200"]
    manifest = json.loads((run.path / "checkpoints/step-00000200/manifest.json").read_text())
    assert manifest["files"] == {
        "a": {"sha256": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b", "size": 1}
    }
    save(run, 200, b"again")  # the same step once more replaces it
    assert run.latest_checkpoint() == (200, run.path / "checkpoints/step-00000200")
    run.remove_checkpoints()
    assert run.latest_checkpoint() is None


def test_a_failed_checkpoint_leaves_the_old_one(run: Run) -> None:
    old = save(run, 1)
    with pytest.raises(RuntimeError, match="boom"), run.checkpoint(2) as folder:
        (folder / "a").write_bytes(b"1")
        raise RuntimeError("boom")
    with pytest.raises(ValueError, match="nothing was written"), run.checkpoint(2):
        pass
    assert names(run.path / "checkpoints") == [old.name] and run.latest_checkpoint() == (1, old)


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "extra", "manifest", "no manifest", "wrong manifest"])
def test_damaged_checkpoints_are_passed_over(run: Run, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    old = save(run, 1)
    kept = run.path / "kept"
    old.rename(kept)
    new = save(run, 2)
    kept.rename(old)
    if damage == "flip":
        (new / "sub/model.bin").write_bytes(b"wEights")
    elif damage == "cut":
        (new / "sub/model.bin").write_bytes(b"weight")
    elif damage == "missing":
        (new / "state.json").unlink()
    elif damage == "extra":
        (new / "other").write_text("")
    elif damage == "manifest":
        (new / "manifest.json").write_text((new / "manifest.json").read_text()[:-20])
    elif damage == "no manifest":
        (new / "manifest.json").unlink()
    else:
        (new / "manifest.json").write_text('{"files": {"state.json": 3}}')
    with caplog.at_level(logging.WARNING):
        assert run.latest_checkpoint() == (1, old)
    assert str(new) in caplog.text


def test_model(run: Run) -> None:
    assert not run.trained and run.training() is None
    with pytest.raises(UsageError, match="not trained yet"):
        run.model_path()
    run.finish(lambda folder: (folder / "w").write_bytes(b"abc") and None, {"steps": 3, "final_loss": float("nan")})
    assert run.trained and run.model_path() == run.path / "model" and run.training() == TrainingRecord(steps=3)
    (run.path / "model/w").write_bytes(b"abd")  # same size
    with pytest.raises(UsageError, match="w does not match its sha256"):
        run.model_path()
    (run.path / "model/w").write_bytes(b"ab")
    assert not run.trained
    run.finish(lambda folder: (folder / "w").write_bytes(b"new") and None)
    assert (run.model_path() / "w").read_bytes() == b"new" and "model.old.tmp" not in names(run.path)


def test_kill_in_the_middle_of_a_checkpoint(run: Run) -> None:
    old = save(run, 1)
    code = """
        with run.checkpoint(2) as folder:
            with open(folder / "model.bin", "wb") as file:
                file.write(b"x" * 1000000)
                file.flush()
                print("now", flush=True)
                time.sleep(60)
    """
    kill_when_told(child(run.path.parents[1], code))
    assert names(run.path / "checkpoints") == [old.name, "step-00000002.tmp"] and run.latest_checkpoint() == (1, old)
    new = save(run, 2)
    assert names(run.path / "checkpoints") == [new.name] and run.latest_checkpoint() == (2, new)


def test_kill_in_the_middle_of_the_final_model(run: Run) -> None:
    save(run, 1)
    code = """
        def write(folder):
            (folder / "w").write_bytes(b"x")
            print("now", flush=True)
            time.sleep(60)
        run.finish(write, {"steps": 1})
    """
    kill_when_told(child(run.path.parents[1], code))
    assert not run.trained and run.latest_checkpoint() is not None


def test_kill_at_random_moments_of_many_checkpoints(run: Run) -> None:
    code = """
        for step in range(1, 10**6):
            with run.checkpoint(step) as folder:
                (folder / "a").write_bytes(str(step).encode() * 1000)
            if step == 2: print("now", flush=True)
    """
    for delay in (0.0, 0.011, 0.023):
        process = child(run.path.parents[1], code)
        assert process.stdout is not None and process.stdout.readline().strip() == "now"
        time.sleep(delay)
        process.kill()
        process.wait(10)
        process.stdout.close()
        found = run.latest_checkpoint()
        assert found is not None and (found[1] / "a").read_bytes() == str(found[0]).encode() * 1000


# Evaluations


def test_evaluations(run: Run) -> None:
    assert run.evaluation("test") is None and run.evaluations() == {}
    run.write_evaluation("test", ITEMS, {"n": 50, "seconds": 2.0})
    run.write_evaluation("a-4", ITEMS[:3], {})
    assert list(run.evaluations()) == ["a-4", "test"] and run.evaluation("a-4").n == 3  # type: ignore[union-attr]
    assert [item.to_json() for item in run.read_items("test")] == ITEMS
    first = (run.path / "eval/test/items.jsonl.gz").read_bytes()
    time.sleep(1.1)  # gzip headers count seconds
    run.write_evaluation("test", ITEMS, {"n": 50, "seconds": 2.0})
    assert (run.path / "eval/test/items.jsonl.gz").read_bytes() == first and json.loads(
        gzip.decompress(first).splitlines()[0]
    ) == ITEMS[0]


def test_wrong_evaluations_are_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="same id"):
        run.write_evaluation("test", [ITEMS[0], ITEMS[0]], {})
    with pytest.raises(ValueError, match="n = 7"):
        run.write_evaluation("test", ITEMS, {"n": 7})
    for key in ("../x", "", ".hidden", "a/b"):
        with pytest.raises(ValueError, match="evaluation key"):
            run.write_evaluation(key, ITEMS, {})
    assert not (run.path / "eval").exists()


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_damaged_evaluations_are_named(run: Run, damage: str) -> None:
    run.write_evaluation("test", ITEMS, {})
    path = run.path / "eval/test/items.jsonl.gz"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(gzip.compress(b"{}\n"))
    for read in (run.read_items, run.evaluation):
        with pytest.raises(UsageError, match=r"eval/test' is damaged.*delete that folder"):
            read("test")
    with pytest.raises(UsageError, match="is damaged"):
        run.evaluations()


def test_kill_in_the_middle_of_an_evaluation(run: Run) -> None:
    run.write_evaluation("test", ITEMS[:2], {"round": 1})
    code = """
        import rim_bench.storage.evaluations as module
        write = module.write_bytes_atomic
        def stop(path, data):
            if path.name == "summary.json":
                print("now", flush=True)
                time.sleep(60)
            write(path, data)
        module.write_bytes_atomic = stop  # the items are there, the summary is not
        run.write_evaluation("test", [{"id": "new"}], {"round": 2})
    """
    kill_when_told(child(run.path.parents[1], code))
    assert (
        names(run.path / "eval/test") == ["items.jsonl.gz"]
        and run.evaluation("test") is None
        and run.evaluations() == {}
    )
    assert [r.id for r in Store(run.path.parents[1]).runs()[0]] == [run.id]
    run.write_evaluation("test", ITEMS, {"round": 3})
    assert [item.to_json() for item in run.read_items("test")] == ITEMS


# Locks, disks, environment


def test_a_second_process_is_turned_away_at_once(run: Run) -> None:
    code = """
        with run.lock():
            print("now", flush=True)
            time.sleep(60)
    """
    process = child(run.path.parents[1], code)
    assert process.stdout is not None and process.stdout.readline().strip() == "now"
    started = time.monotonic()
    with pytest.raises(UsageError, match=rf"another process \(pid {process.pid}\) works on .*{run.id}"), run.lock():
        pass
    assert time.monotonic() - started < 2 and f"(pid {process.pid})" in (run.in_use() or "")
    (run.path / "lock.pid").write_text("12 node7\n")
    with pytest.raises(RunInUse, match=r"another process \(pid 12 on node7\) works on"), run.lock():
        pass
    process.kill()
    process.wait(10)
    process.stdout.close()
    assert run.in_use() is None and not (run.path / "lock.pid").exists()
    with run.lock(), Run(run.path).lock():  # free again, and the same process may enter twice
        assert (run.path / "lock.pid").read_text() == f"{os.getpid()} {socket.gethostname()}\n"
    assert not (run.path / "lock.pid").exists()


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on no file can be brought to the disk."""

    def no_space(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)


def test_full_disk_leaves_nothing_half_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    old = save(run, 1)
    write_json_atomic(run.path / "x.json", {"a": 1})
    before = names(run.path)
    fill_disk(monkeypatch)
    for path, write in (
        ("x.json", lambda: write_json_atomic(run.path / "x.json", {"a": 2})),
        ("model", lambda: run.finish(lambda folder: (folder / "w").write_bytes(b"w") and None)),
        ("step-00000002", lambda: save(run, 2)),
        ("manifest.json", lambda: run.write_evaluation("test", ITEMS, {})),
    ):
        with pytest.raises(UsageError, match=f"no space left on the disk while writing '.*{path}'"):
            write()
    monkeypatch.undo()
    assert json.loads((run.path / "x.json").read_text()) == {"a": 1} and run.latest_checkpoint() == (1, old)
    assert names(run.path) == before and run.evaluations() == {}
    assert names(run.path / "checkpoints") == [old.name]


def test_a_library_that_only_says_so_in_words(run: Run) -> None:
    with pytest.raises(UsageError, match="no space left"), run.checkpoint(1):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert names(run.path / "checkpoints") == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_on_append(run: Run) -> None:
    (run.path / "train.jsonl").symlink_to("/dev/full")
    with pytest.raises(UsageError, match=r"no space left .*train\.jsonl"):
        run.append_metrics({"step": 1})


def test_a_link_and_a_device_stay_what_they_are(tmp_path: Path) -> None:
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_bytes_atomic(link, b"new")
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_bytes_atomic(pipe, b"through")
    assert link.is_symlink() and target.read_bytes() == b"new" and pipe.is_fifo() and os.read(reader, 9) == b"through"
    os.close(reader)


def test_short_write_is_taken_back(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.append_metrics({"step": 1})
    real, left = os.write, iter((5,))

    def short(fd: int, data: bytes) -> int:
        for room in left:
            return real(fd, data[:room])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", short)
    with pytest.raises(UsageError, match=r"no space left .*it needs 12 B"):
        run.append_metrics({"step": 2})
    assert (run.path / "train.jsonl").read_text() == '{"step": 1}\n'


def test_unwritable_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    with pytest.raises(UsageError, match=f"cannot write '{tmp_path}/runs/rim-chain"):
        Store(tmp_path).open(SPEC)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=f"cannot write '{tmp_path}/folder': Is a directory"):
        write_bytes_atomic(tmp_path / "folder", b"")
    assert names(tmp_path) == ["folder", "runs"]


def test_a_name_that_is_too_long_for_a_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(UsageError, match=r"cannot write .*: File name too long"):
        Store(tmp_path).open({**SPEC, "task": {**SPEC["task"], "name": "x" * 300}})


def test_open_on_a_full_disk_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch)
    with pytest.raises(UsageError, match="no space left"):
        Store(tmp_path).open(SPEC)
    monkeypatch.undo()
    assert names(tmp_path / "runs") == []


def test_environment(run: Run) -> None:
    told = environment({"name": "none"}, ["rim-bench", "run"])
    assert told["argv"] == ["rim-bench", "run"] and told["gpu"] == {"name": "none"}
    assert told["packages"]["numpy"].count(".") == 2 and told["cpu"]["usable_cores"] >= 1 and told["memory_bytes"] > 1e8
    assert told["git"] is None or (len(told["git"]["commit"]) == 40 and isinstance(told["git"]["dirty"], bool))
    run.write_environment({"start": 1})
    run.write_environment({"start": 2})
    run.write_environment({"start": 3})
    stored = json.loads((run.path / "environment.json").read_text())
    assert stored == {"start": 3, "earlier": [{"start": 1}, {"start": 2}]}


def test_the_store_imports_nothing_heavy() -> None:
    code = (
        "import sys, rim_bench.storage.run_folder, rim_bench.evidence.stats.tests, rim_bench.report.comparison, "
        "rim_bench.report.plots.accuracy; print(*sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])}
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    ).stdout.split()
    heavy = {"torch", "transformers", "datasets", "pandas", "lm_eval", "matplotlib", "scipy", "rich", "numpy"}
    assert heavy.isdisjoint(loaded)


def test_the_record_of_steps_is_compressed_when_training_is_done(tmp_path: Path) -> None:
    run = Store(tmp_path).open(SPEC)
    for step in (1, 2, 3):
        run.append_metrics({"step": step, "loss": 0.5})
    run.finish(lambda folder: (folder / "weights").write_bytes(b"1") and None, {"steps": 3})
    packed = run.path / "train.jsonl.xz"
    assert (
        packed.is_file() and not (run.path / "train.jsonl").exists() and [m["step"] for m in run.metrics()] == [1, 2, 3]
    )
    once = packed.read_bytes()
    run.truncate_metrics(2)  # its weights were lost, so that it is trained again from a checkpoint
    assert not packed.exists() and [m["step"] for m in run.metrics()] == [1, 2]
    run.append_metrics({"step": 3, "loss": 0.5})
    run.finish(lambda folder: (folder / "weights").write_bytes(b"1") and None, {"steps": 3})
    assert packed.read_bytes() == once  # the same records, the same bytes
    packed.write_bytes(once[:-9])
    with pytest.raises(UsageError, match=r"train\.jsonl\.xz' is damaged"):
        run.metrics()
