"""Records under their manifest: what is changed, gone, nested, huge or of another type costs one run, by name."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fabricated import coin, evaluate, train

from rim_bench.report.comparison import comparison
from rim_bench.report.leaderboard import leaderboard
from rim_bench.report.plots.accuracy import accuracy_plot
from rim_bench.report.plots.training import training_plot
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError
from rim_bench.util.files import MANIFEST

SUMMARY, ITEMS = "eval/toy-test/summary.json", "eval/toy-test/items.jsonl.gz"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three sound runs with a log of their steps and an evaluation."""
    root = tmp_path_factory.mktemp("sound")
    for k, name in enumerate(("direct", "pause", "rim")):
        run = train(Store(root), name)
        run.truncate_metrics(0)
        for step in (1, 2):
            run.append_metrics({"step": step, "stage": "all", "loss": 1 / step, "flops": 10, "seconds": 0.1})
        run.finish(lambda folder: (folder / "weights").write_bytes(b"w") and None)
        evaluate(run, coin(0.5, 40, k))
    assert all(run.sealed for run in Store(root).runs()[0])
    return root


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return shutil.copytree(sound, tmp_path / "store")


def second(root: Path) -> Run:
    """The run that is."""
    return Store(root).locate("pause")


def unseal(root: Path) -> None:
    for run in Store(root).folders():
        run.seal.path.unlink()


def read(root: Path) -> dict[str, str]:
    """What is said of damaged runs, which is the same everywhere."""
    said = {d.path.name: d.reason for d in Store(root).runs()[1]}
    frame = Store(root).frame()
    assert dict(frame.loc[frame["damaged"].notna(), ["run", "damaged"]].itertuples(index=False, name=None)) == said
    assert len(frame) == 3
    return said


def change(path: Path, key: str, value: Any) -> None:
    """Sets a key of a JSON file; a key may be a path with dots."""
    record = part = json.loads(path.read_bytes())
    *above, last = key.split(".")
    for name in above:
        part = part[name]
    part[last] = value
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("train.json", lambda p: change(p, "flops", 100 * json.loads(p.read_bytes())["flops"])),
        ("train.json", lambda p: change(p, "examples", 1)),
        ("train.json", lambda p: p.write_text("{}")),
        (SUMMARY, lambda p: change(p, "peak_memory_bytes", 1)),
        (SUMMARY, lambda p: p.unlink()),
        ("train.json", lambda p: p.unlink()),
        ("train.jsonl.xz", lambda p: p.write_bytes(lzma.compress(b'{"step": 1}\n'))),
        (ITEMS, lambda p: p.write_bytes(p.read_bytes()[:-9])),
        (MANIFEST, lambda p: p.write_text('{"files": {"spec.json": 1}}')),
        (MANIFEST, lambda p: p.write_text("{")),
    ],
)
def test_what_is_not_what_the_manifest_lists_is_refused_by_name(
    root: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    assert read(root) == {}
    spoil(second(root).path / name)
    said = read(root)
    assert list(said) == [second(root).id] and name in said[second(root).id]


def test_every_reader_shows_a_damaged_run_as_a_row(root: Path) -> None:
    change(second(root).path / "train.json", "flops", 7)
    (good, bad), name = Store(root).runs(), second(root).id
    table, board = comparison(good, damaged=bad), leaderboard(good, damaged=bad)
    texts = [t.to_csv() for t in (table, board)] + [t.to_latex() for t in (table, board.table)]
    texts += [t.to_markdown() for t in (table, board.table)] + [board.to_json()]
    for text in texts:
        lines = [line for line in text.splitlines() if name in line.replace("\\", "")]
        assert "damaged" in lines[0] and any("train.json" in line for line in lines)
    assert f"<td>{name}</td>" in table._repr_html_()
    assert name not in table.to_csv().split("damaged")[0]  # no number of it
    assert [s["title"] for s in json.loads(board.to_json())["sections"]][-1] == "Damaged runs"
    training_plot(good, root / "steps.svg")
    accuracy_plot(good, root / "accuracy.svg")


def test_a_record_that_no_manifest_lists_is_refused(root: Path) -> None:
    evaluation = second(root).path / "eval/toy-test"
    (evaluation.parent / "other").mkdir()
    for path in evaluation.iterdir():
        (evaluation.parent / "other" / path.name).write_bytes(path.read_bytes())
    assert "other/summary.json' is damaged: it is not listed in manifest.json" in read(root)[second(root).id]


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("name", "spoil", "problem"),
    [
        ("train.json", lambda p: change(p, "flops", "many"), "flops is 'many', not a whole number or null"),
        ("train.json", lambda p: change(p, "budget.used", [1]), "budget.used is '[1]', not a whole number or null"),
        ("train.json", lambda p: change(p, "steps", True), "steps is 'True', not a whole number or null"),
        ("train.json", lambda p: change(p, "seconds", 10**400), "seconds is beyond"),
        ("train.json", lambda p: p.write_text('{"seconds": 1e999}'), "1e999 is not a finite number"),
        ("train.json", lambda p: p.write_text('{"seconds": NaN}'), "NaN is not a JSON number"),
        ("train.json", lambda p: p.write_text(f'{{"x": {nested(300)}}}'), "nested too deeply"),
        ("train.json", lambda p: p.write_text(nested(10**6)), "nested too deeply"),
        ("train.json", lambda p: p.write_text(r'{"device": "\ud800"}'), "surrogates not allowed"),
        ("train.json", lambda p: p.write_bytes(b'{"device": "\xff"}'), "can't decode byte 0xff"),
        ("train.json", folder, "it is a folder"),
        ("train.json", loop, "symbolic links"),
        ("train.json", pipe, "it is no file of bytes"),
        (SUMMARY, lambda p: change(p, "n", "40"), "n is '40', not a whole number"),
        (SUMMARY, lambda p: change(p, "settings", [3]), "settings is '[3]', not an object or null"),
        (SUMMARY, lambda p: change(p, "latency.full_ms.p95", {}), "latency.full_ms.p95 is '{}', not a number or null"),
        (SUMMARY, lambda p: change(p, "items.sha256", "0"), "sha256 in summary.json"),
        (SUMMARY, lambda p: change(p, "n", 39), "speaks of 39 items and of 40"),
        (SUMMARY, folder, "it is a folder"),
        (ITEMS, loop, "symbolic links"),
        (
            "train.jsonl.xz",
            lambda p: p.write_bytes(lzma.compress(b"\n" * (5 << 24), preset=0)),
            "unpacked it has more than",
        ),
        (
            "train.jsonl.xz",
            lambda p: p.write_bytes(lzma.compress(b'{"step": "1"}\n')),
            "line 1 is damaged: step is '1'",
        ),
        ("train.jsonl.xz", lambda p: p.write_bytes(p.read_bytes()[:-9]), "stops before its end"),
        ("train.jsonl.xz", lambda p: p.write_bytes(p.read_bytes() * 2), "goes on behind its end"),
        ("not_evaluated.json", lambda p: p.write_text('{"sets": 1}'), "it has no sets"),
        ("eval", lambda p: (p.rename(p.with_name("away")), p.write_text("")), "Not a directory"),
    ],
)
def test_an_unsealed_run_is_read_type_by_type(
    root: Path, name: str, spoil: Callable[[Path], None], problem: str
) -> None:
    unseal(root)
    spoil(second(root).path / name)
    said = read(root)
    assert list(said) == [second(root).id] and problem in said[second(root).id]


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("correct", "yes", "line 3 is damaged: correct is 'yes', not true or false"),
        ("id", 3, "line 3 is damaged: id is '3', not a text"),
        ("passes", [1], "passes is"),
        ("blocks", [{"correct": 2}], "blocks.0.correct is '2', not true or false"),
        ("logprobs", [0.1, "x"], "logprobs.1 is 'x', not a number"),
        ("flops_decode", 10**400, "flops_decode is beyond"),
        ("id", "toy/test/0", "not 40 items with an id each"),
        ("output", json.loads(nested(60)), "nested too deeply"),
    ],
)
def test_an_item_is_read_type_by_type(root: Path, key: str, value: Any, problem: str) -> None:
    """Of an unsealed run whose summary has the hash of the changed items."""
    unseal(root)
    path = second(root).path / ITEMS
    items = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    items[2][key] = value
    path.write_bytes(gzip.compress("".join(json.dumps(i) + "\n" for i in items).encode(), mtime=0))
    change(second(root).path / SUMMARY, "items.sha256", hashlib.sha256(path.read_bytes()).hexdigest())
    good, bad = Store(root).runs()
    assert bad == []  # whose items no one has read yet
    csv = comparison(good).to_csv()
    line = next(line for line in csv.splitlines() if second(root).id in line)
    assert line.startswith("damaged,") and problem in line
    assert csv.count("unsealed") == 2  # the others
    frame = Store(root).frame()
    assert problem in frame.set_index("run").loc[second(root).id, "damaged"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_costs_one_run(root: Path) -> None:
    (second(root).path / "train.json").chmod(0)
    assert "Permission denied" in read(root)[second(root).id]


def test_an_unsealed_run_is_said_to_be_until_it_is_sealed(root: Path) -> None:
    runs, run = Store(root).folders(), second(root)
    before = run.seal.path.read_bytes()
    run.seal.path.unlink()
    table = comparison(runs)
    note = f"UNSEALED: no manifest vouches for the records of {run.id}"
    assert note in table.to_markdown() and note in leaderboard(runs).table.to_markdown()
    assert [line.partition(",")[0] for line in table.to_csv().splitlines()[1:]] == ["", "unsealed", ""]
    names = run.write_manifest()
    assert names == sorted(json.loads(before)["files"]) and run.seal.path.read_bytes() == before
    assert "UNSEALED" not in comparison(runs).to_markdown()
    change(run.path / "train.json", "flops", 5)
    assert read(root) and run.write_manifest() == ["train.json"] and read(root) == {}
    change(run.path / "train.json", "flops", "many")
    with pytest.raises(UsageError, match="flops is 'many'"):
        run.write_manifest()
    assert run.sealed and read(root)  # the manifest that was there is there


@pytest.mark.parametrize("fsyncs", [*range(1, 40, 2), 100])
def test_a_kill_at_any_moment_leaves_no_run_that_reads_as_damaged(tmp_path: Path, fsyncs: int) -> None:
    """A process of its own trains, evaluates twice under one key and notes a set, until it is killed at that write."""

    def work() -> None:
        real, left = os.fsync, fsyncs

        def count(fd: int) -> None:
            nonlocal left
            real(fd)
            if (left := left - 1) == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        os.fsync = count
        run = train(Store(tmp_path), "rim")
        run.append_metrics({"step": 1})
        run.finish(lambda folder: (folder / "weights").write_bytes(b"w") and None, {"steps": 1})
        run.truncate_metrics(0)
        for seed in (1, 2):
            evaluate(run, coin(0.5, 4, seed))
        run.record_not_evaluated({"svamp": "no hub"}, [])

    if (child := os.fork()) == 0:
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    good, bad = Store(tmp_path).runs()
    assert bad == []
    for run in good:
        with run.lock():
            assert not [*tmp_path.rglob("*.tmp"), *tmp_path.rglob(".new-*")]
        evaluate(run, coin(0.5, 4, 3))
        assert run.seal.manifest() is not None and not run.seal.manifest().writing
        run.verify()
    assert os.WIFSIGNALED(status) or fsyncs == 100


def test_a_living_process_keeps_its_files(tmp_path: Path) -> None:
    run = train(Store(tmp_path), "rim")
    alive, gone = os.getppid(), 2**22 + 1
    kept = [
        run.path / f".train.json.{alive}.0123abcd.tmp",
        run.path.parent / f".new-{run.id}-{os.uname()[1]}.{alive}-0123abcd",
    ]
    kept[0].write_text("")
    kept[1].mkdir()
    for path in (run.path / f".train.json.{gone}.0123abcd.tmp", run.path / f"eval/x/.summary.json.{gone}.0123abcd.tmp"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    for name in (f".new-{run.id}-0123abcd", f".new-{run.id}-{os.uname()[1]}.{gone}-0123abcd"):
        (run.path.parent / name).mkdir()
    with run.lock():
        left = [*tmp_path.rglob("*.tmp"), *tmp_path.rglob(".new-*")]
    assert sorted(left) == sorted(kept)
