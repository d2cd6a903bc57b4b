"""Files, hub rows and generators become the same kind of data; the test split stays out of training; bad input is one
sentence.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import unregistered
from user_task import USER_TASK, user_task, write

from rim_bench.data import datasets
from rim_bench.data import rows as rows_module
from rim_bench.data.datasets import evaluation_data, overlap, training_data
from rim_bench.data.task import Task, load_task, task_names
from rim_bench.methods.method import Example
from rim_bench.util.errors import UsageError

GSM8K = unregistered("gsm8k")
JSON = load_task("json")
REAL_DATA = os.environ.get("RIM_BENCH_DATA", "")  # read at import: tests run without the variable
REAL = pytest.mark.skipif(not REAL_DATA, reason="RIM_BENCH_DATA is not set: the published files are not at hand")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RIM_BENCH_DATA", "RIM_BENCH_LIMIT", "RIM_BENCH_STEPS"):
        monkeypatch.delenv(name, raising=False)


def gsm8k_row(i: int) -> dict[str, str]:
    answer = (
        f"She has 2+{i} = <<2+{i}={2 + i}>>{2 + i} eggs.\nShe sells them for "
        f"$<<{2 + i}*1000={2000 + 1000 * i}>>.\n#### {2000 + 1000 * i:,}"
    )
    return {"question": f"Ann has 2 eggs and finds {i}. What do they bring at $1000 an egg?", "answer": answer}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "gsm8k" / "train.jsonl", [gsm8k_row(i) for i in range(40)])
    write(tmp_path / "gsm8k" / "test.jsonl", [gsm8k_row(i) for i in range(100, 110)])
    return tmp_path


def test_gsm8k_rows_become_examples(folder: Path) -> None:
    test = evaluation_data(GSM8K, data=folder)
    assert test.examples[0] == Example(
        "gsm8k/test/0",
        "Ann has 2 eggs and finds 100. What do they bring at $1000 an egg?",
        ("<<2+100=102>>", "<<102*1000=102000>>"),
        "102000",
    )
    assert (test.split, len(test.examples), len(test.sha256)) == ("test", 10, 64)
    prose = evaluation_data(GSM8K, data=folder, steps="prose")
    assert prose.examples[0].steps == ("She has 2+100 = 102 eggs.", "She sells them for $.")
    assert prose.sha256 != test.sha256


def test_the_folder_may_be_the_sets_own_or_come_from_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = evaluation_data(GSM8K, data=folder).sha256
    assert evaluation_data(GSM8K, data=folder / "gsm8k").sha256 == wanted
    monkeypatch.setenv("RIM_BENCH_DATA", str(folder))
    assert evaluation_data(GSM8K, data=None).sha256 == wanted


def test_hub_rows_give_the_same_examples_ids_and_hashes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(path: str, config: str, split: str) -> Any:
        asked.append((path, config, split))
        return datasets.Dataset.from_list([gsm8k_row(i) for i in (range(40) if split == "train" else range(100, 110))])

    monkeypatch.setattr(rows_module, "unreachable", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub_train, hub_validation = training_data(GSM8K, data=None)
    assert asked == [("openai/gsm8k", "main", "train")]  # the test split is not asked for
    train, validation = training_data(GSM8K, data=folder)
    assert (hub_train.examples, hub_train.sha256) == (train.examples, train.sha256)
    assert (hub_validation.examples, hub_validation.sha256) == (validation.examples, validation.sha256)
    assert evaluation_data(GSM8K, data=None).sha256 == evaluation_data(GSM8K, data=folder).sha256
    assert hub_train.source == "hub openai/gsm8k (main)" and train.source.endswith("train.jsonl")


def test_validation_is_carved_once_and_for_all(folder: Path) -> None:
    train, validation = training_data(GSM8K, data=folder)
    assert (len(train.examples), len(validation.examples)) == (36, 4)
    assert overlap(train.examples, validation.examples) == 0
    assert training_data(GSM8K, data=folder, seed=5) == (train, validation)
    assert evaluation_data(GSM8K, data=folder, split="validation") == validation
    assert {e.id for e in train.examples + validation.examples} == {f"gsm8k/train/{i}" for i in range(40)}
    assert [e.id for e in validation.examples] != [f"gsm8k/train/{i}" for i in range(4)]
    small, small_validation = training_data(GSM8K, data=folder, limit=3)
    assert small.examples == train.examples[:3] and small_validation.examples == validation.examples[:3]
    assert len(evaluation_data(GSM8K, data=folder, limit=2).examples) == 2


def test_a_repeated_question_stays_on_one_side(folder: Path) -> None:
    write(folder / "gsm8k" / "train.jsonl", [gsm8k_row(i % 20) for i in range(40)])
    train, validation = training_data(GSM8K, data=folder)
    assert overlap(train.examples, validation.examples) == 0
    assert len(train.examples) + len(validation.examples) == 40 and len(validation.examples) >= 4
    assert any("repeat an earlier question" in note for note in train.notes)


def test_training_never_opens_the_test_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "gsm8k" / "test.jsonl").write_bytes(b"\xff not json")
    opened = []
    opens = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *how, **more: (opened.append(self.name), opens(self, *how, **more))[1]
    )
    training_data(GSM8K, data=folder)
    assert "train.jsonl" in opened and "test.jsonl" not in opened
    (folder / "gsm8k" / "test.jsonl").unlink()
    training_data(GSM8K, data=folder)
    path = folder / "gsm8k" / "train.jsonl"
    with pytest.raises(UsageError, match="also the test file"):
        training_data(JSON, files={"train": path, "test": path})


def test_rows_without_annotation_are_kept_and_counted(folder: Path) -> None:
    rows = [gsm8k_row(i) for i in range(30)] + [
        {"question": f"bare {i}", "answer": "Nothing to do.\n#### 5"} for i in range(10)
    ]
    write(folder / "gsm8k" / "train.jsonl", rows)
    train, _ = training_data(GSM8K, data=folder)
    bare = [e for e in train.examples if not e.steps]
    assert bare and all(e.answer == "5" for e in bare)
    assert train.notes == (
        f"{len(bare)} of 36 training rows have no equation annotations: they are kept and train their answer alone",
    )
    assert training_data(GSM8K, data=folder, steps="prose")[0].notes == ()


def test_overlap_counts_questions() -> None:
    train = [Example("a", "What  is\n1?", (), "1")]
    assert overlap(train, [Example("b", "What is 1?", (), "1"), Example("c", "What is 2?", (), "2")]) == 1


ROWS = [
    {"question": "one", "steps": ["a", " b\nc ", ""], "answer": "1,000"},
    {"question": "two", "steps": "a\n\nb\n", "answer": 2.0},
    {"question": "three", "answer": "Paris, 1,000 km away, is 3"},
]


def test_the_generic_source_reads_json_and_jsonl(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", ROWS)
    (tmp_path / "other.json").write_text("\ufeff" + json.dumps(ROWS), encoding="utf-8")
    found = evaluation_data(JSON, data=tmp_path)
    assert [(e.steps, e.answer) for e in found.examples] == [
        (("a", "b c"), "1000"),
        (("a", "b"), "2"),
        ((), "Paris, 1,000 km away, is 3"),
    ]
    assert evaluation_data(JSON, files={"test": tmp_path / "other.json"}).sha256 == found.sha256


def test_a_validation_file_is_used_where_there_is_one(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ROWS)
    assert [len(d.examples) for d in training_data(JSON, data=tmp_path)] == [2, 1]
    write(tmp_path / "validation.jsonl", [{"question": "v", "answer": "1"}])
    train, validation = training_data(JSON, data=tmp_path)
    assert (len(train.examples), validation.examples[0].question) == (3, "v")
    given = training_data(JSON, files={"train": tmp_path / "train.jsonl", "validation": tmp_path / "validation.jsonl"})
    assert [d.sha256 for d in given] == [train.sha256, validation.sha256]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"question": "x", "answer": ', r"test\.jsonl, line 2: not JSON .*expected one JSON object a line"),
        (b'["x", "y"]', r"line 2: found list, expected a JSON object"),
        (b'{"question": "\xff", "answer": "#### 1"}', r"line 2: not UTF-8"),
        (b'{"question": "x"}', r"line 2: no field 'answer': found 'question'"),
        (b'{"question": "x", "answer": "no mark"}', r"line 2: 'answer' has no '#### '"),
        (b'{"question": "x", "answer": "####  "}', r"line 2: the answer '' must be one line"),
        (b'{"question": "x", "answer": "#### 1\\n2"}', r"line 2: the answer '1\\n2' must be one line"),
        (b'{"question": " ", "answer": "#### 1"}', r"line 2: field 'question' is blank"),
        (b'{"question": null, "answer": "#### 1"}', r"line 2: field 'question' is NoneType"),
        (b'{"question": true, "answer": "#### 1"}', r"line 2: field 'question' is bool"),
        (b'{"question": "\\ud800", "answer": "#### 1"}', r"line 2: .* lone surrogate"),
        (b'{"question": "x", "answer": NaN}', r"line 2: not JSON \(NaN"),
        (b"[" * 100_000, r"line 2: not JSON"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(tmp_path: Path, line: bytes, message: str) -> None:
    good = json.dumps(gsm8k_row(1)).encode()
    (tmp_path / "test.jsonl").write_bytes(good + b"\n" + line + b"\n" + good + b"\n")
    with pytest.raises(UsageError, match=message):
        evaluation_data(GSM8K, data=tmp_path)


@pytest.mark.parametrize(
    "task", [GSM8K, load_task("prosqa"), load_task("multiplication_icot")], ids=lambda task: task.name
)
def test_a_pointer_of_git_lfs_is_told_from_data(tmp_path: Path, task: Task) -> None:
    (tmp_path / "rows.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n")
    with pytest.raises(
        UsageError, match=r"rows\.json' is a Git LFS pointer, not the data: fetch it with `git lfs pull`"
    ):
        evaluation_data(task, files={"test": tmp_path / "rows.json"})


@pytest.mark.parametrize(
    ("steps", "ok"), [(None, True), ([], True), ("", True), ([1], False), ({"a": 1}, False), (5, False)]
)
def test_steps_of_the_wrong_type_are_refused(tmp_path: Path, steps: Any, ok: bool) -> None:
    write(tmp_path / "test.jsonl", [{"question": "x", "steps": steps, "answer": 1}])
    if ok:
        assert evaluation_data(JSON, data=tmp_path).examples[0].steps == ()
    else:
        with pytest.raises(UsageError, match="line 1: field 'steps' must be a list of strings"):
            evaluation_data(JSON, data=tmp_path)


def test_missing_files_folders_and_nonsense_are_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "empty.json").write_text("[]")
    cases: list[tuple[Any, str]] = [
        (
            lambda: evaluation_data(GSM8K, data=tmp_path / "nowhere"),
            r"does not exist: give the folder that holds gsm8k/train\.jsonl",
        ),
        (lambda: evaluation_data(GSM8K, data=folder / "gsm8k" / "test.jsonl"), "is not a folder"),
        (
            lambda: evaluation_data(JSON, data=tmp_path),
            r"its test file is not there: looked for .*test\.jsonl, .*test\.json",
        ),
        (lambda: evaluation_data(JSON), "give the folder that holds test.jsonl with --data DIR"),
        (lambda: evaluation_data(JSON, files={"test": tmp_path / "no.jsonl"}), r"looked for .*no\.jsonl"),
        (
            lambda: evaluation_data(JSON, files={"test": tmp_path / "empty.jsonl"}),
            "is empty: expected one JSON object a line",
        ),
        (lambda: evaluation_data(JSON, files={"test": tmp_path / "empty.json"}), "is empty: expected an array"),
        (lambda: evaluation_data(JSON, files={"tset": tmp_path / "empty.json"}), "did you mean 'test'"),
        (lambda: training_data(GSM8K, data=folder, limit=0), "limit 0 leaves no rows"),
        (lambda: training_data(GSM8K, data=folder, steps="equation"), "did you mean 'equations'"),
        (lambda: training_data(JSON, data=folder, steps="prose"), "has one kind of steps"),
        (lambda: evaluation_data(GSM8K, data=folder, split="tests"), "did you mean 'test'"),  # type: ignore[arg-type]
        (lambda: load_task("gsm8"), "did you mean 'gsm8k'"),
        (lambda: load_task("nowhere/x.yaml"), "does not exist"),
    ]
    for call, message in cases:
        with pytest.raises(UsageError, match=message):
            call()
    write(folder / "gsm8k" / "train.jsonl", [gsm8k_row(1)])
    with pytest.raises(UsageError, match="1 training rows are too few"):
        training_data(GSM8K, data=folder)


def test_a_hub_out_of_reach_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    with socket.socket() as closed:  # a port that nobody listens on
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.chdir(tmp_path)
    start = time.perf_counter()
    with pytest.raises(
        UsageError, match=r"127\.0\.0\.1 cannot be reached: .* no copy .*: give the folder .* --data DIR"
    ):
        training_data(GSM8K, data=None)
    assert time.perf_counter() - start < 4
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match="offline mode is set"):
        training_data(GSM8K, data=None)


def test_a_cached_copy_is_used_where_the_hub_is_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The cache is laid out as the hub client does: NAME/CONFIG/VERSION/HASH."""
    import datasets

    rows = write(tmp_path / "rows.jsonl", [gsm8k_row(i) for i in range(20)])
    builder = datasets.load_dataset_builder("json", data_files={"train": str(rows)}, cache_dir=str(tmp_path / "made"))
    builder.download_and_prepare()
    made = Path(builder.cache_dir)
    cached = tmp_path / "cache" / "openai___gsm8k" / "main" / "0.0.0" / "abc"
    cached.parent.mkdir(parents=True)
    made.rename(cached)
    info = json.loads((cached / "dataset_info.json").read_text())
    info |= {"config_name": "main", "dataset_name": "gsm8k"}
    (cached / "dataset_info.json").write_text(json.dumps(info))
    for path in cached.glob("json-*.arrow"):
        path.rename(cached / path.name.replace("json-", "gsm8k-"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(rows_module, "unreachable", lambda: "no network")
    monkeypatch.chdir(tmp_path)
    before = datasets.config.HF_HUB_OFFLINE
    train, validation = training_data(GSM8K, data=None)
    assert len(train.examples) + len(validation.examples) == 20
    assert datasets.config.HF_HUB_OFFLINE is before


def test_a_users_task_is_one_yaml(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIM_BENCH_DATA", str(folder / "gsm8k"))  # holds other sets: a task's own folder still counts
    task = load_task(str(user_task(tmp_path)))
    assert (task.name, task.lm_eval_name, task.title, task.version, task.ood_levels) == (
        "sums",
        "mine_sums",
        "sums",
        3,
        (),
    )
    assert evaluation_data(task).examples[0] == Example("r10", "10 birds. And 1?", ("10+1",), "11", "Add")
    train, validation = training_data(task)
    assert (len(train.examples), len(validation.examples)) == (9, 1)
    write(tmp_path / "my_test.jsonl", [{"ID": "r", "Body": "x", "Question": "y", "Answer": 1, "Type": "t"}] * 2)
    with pytest.raises(UsageError, match="1 ids occur more than once, the first is 'r'"):
        evaluation_data(task)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("source: rows", "source: row", "did you mean 'rows'"),
        ("summary:", "sumary:", "did you mean 'summary'.*summary is missing"),
        ("version: 3", "version: three", "version must be a whole number"),
        ("files: {train", "files: {trian", "did you mean 'train'"),
        ("level: Type", "level: 3", "fields.level must name a field"),
        ("level: Type", "levle: Type", "did you mean 'level'"),
        ("  rim_bench:", "  rim:", "needs the keys"),
        ("source: rows", "source: generator", "generator is missing; levels is missing; sizes is missing"),
        ("source: rows", "source: [", r"line \d+: not YAML"),
        ("source: rows", "hub: {config: x}\n    source: rows", "hub.path is missing"),
    ],
)
def test_a_malformed_task_file_is_told(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = user_task(tmp_path)
    path.write_text(USER_TASK.replace(old, new))
    with pytest.raises(UsageError, match=message):
        load_task(str(path))


def test_shipped_tasks_are_complete() -> None:
    assert task_names() == sorted(task_names()) and {"chain", "gsm8k", "json"} <= set(task_names())
    for name in task_names():
        task = load_task(name)
        assert task.lm_eval_name == f"rimbench_{name}" and task.summary and task.version >= 1
        assert "num_fewshot" not in task.path.read_text()


def test_the_generated_task() -> None:
    task = load_task("chain")
    train, validation = training_data(task, limit=300)
    assert len(train.examples) == 300 and {e.level for e in train.examples} == {"T=1", "T=2", "T=3"}
    assert training_data(task, limit=300, seed=1)[0].sha256 != train.sha256
    assert training_data(task, limit=300, seed=1)[1] == validation
    assert {e.level for e in validation.examples} == {"T=1", "T=2", "T=3"} and len(validation.examples) == 300
    test = evaluation_data(task)
    assert len(test.examples) == 2500 and overlap(train.examples, test.examples) == 0
    assert set(task.ood_levels) == {"T=4", "T=5"} < {e.level for e in test.examples}
    assert task.token_pattern is not None and GSM8K.token_pattern is None


@REAL
def test_the_published_files() -> None:
    real_data = Path(REAL_DATA)
    gsm8k = load_task("gsm8k")
    train, validation = training_data(gsm8k, data=real_data)
    test = evaluation_data(gsm8k, data=real_data)
    assert (train.registered, validation.registered, test.registered) == (True, True, True)
    # stored results stand on these
    assert test.sha256 == "f71f933a4e6942bb4fc32fe0fe54ff8802117bdcb0e9b60e9100493367e1d9df"
    assert train.sha256 == "eb77d79f14c36c87edc022806ec902f40f886884cde24772b1ea0251f8a13c52"
    assert validation.sha256 == "35aad956dca8807419b5cb9c04b5df8383252cd92941a9095431064e77291ac9"
    assert (len(train.examples), len(validation.examples), len(test.examples)) == (6973, 500, 1319)
    bare = sum(not e.steps for d in (train, validation) for e in d.examples)
    assert bare == 95 and sum(not e.steps for e in test.examples) == 18
    assert overlap(train.examples, test.examples) == overlap(validation.examples, test.examples) == 0
    assert max(len(e.steps) for e in train.examples + validation.examples + test.examples) == 9
    from rim_bench.data.answers import parse_number

    assert all(parse_number(e.answer) is not None for d in (train, validation, test) for e in d.examples)


def test_importing_the_module_is_light() -> None:
    code = (
        "import sys, rim_bench.data.datasets; print([m for m in "
        "('torch','transformers','lm_eval','datasets','pandas','numpy') if m in sys.modules])"
    )
    root = Path(datasets.__file__).resolve().parents[2]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert found.stdout.strip() == "[]"
