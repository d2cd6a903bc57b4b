"""Values of 100,000 characters: whatever repeats them cuts them in the middle and says how long they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from study_files import study
from unchanged import GOLDEN
from user_task import USER_TASK, user_task, write

from rim_bench.util.errors import LONGEST_SENTENCE, UsageError, shorten

Call = Callable[..., tuple[int, str, str]]
LONG = "x" * 100_000


def cut(call: Call, *words: str) -> None:
    """A command line must end with one sentence, in which the value is cut."""
    code, out, err = call(*words)
    last = err.splitlines()[-1]
    assert code == 2 and out == "" and "Traceback" not in err, err[-2_000:]
    assert last.startswith("error: ") and len(err) < LONGEST_SENTENCE + 500, f"{len(err)}: {err[:300]}"
    assert "[100,0" in last and " characters]" in last, last


@pytest.mark.parametrize(
    "line",
    [
        "run --methods X --quick",
        "run --methods rim --set X=1",
        "run --methods rim --set rim.K=X",
        "run --methods direct --task X",
        "run --methods direct --task /tmp/X",
        "run --methods direct --task json --file X=a",
        "run --methods direct --task json --file train=X --file test=X",
        "run --methods direct --task gsm8k --data X",
        "run --methods direct --suite X",
        "run --methods direct --model X",
        "run --methods direct --backbone X=1",
        "run --methods direct --backbone width=X",
        "run --methods direct --start X",
        "run --methods direct --seeds X",
        "run --methods direct --device X",
        "run --methods direct --checkpoint X",
        "run --methods direct --budget X",
        "run --methods direct --steps X",
        "run --methods direct --executor X",
        "run --methods direct --X",
        "X",
        "train --methods X",
        "eval X",
        "eval x --trust X",
        "eval x --task-file X",
        "eval x --method-file X",
        "table X",
        "table -f X",
        "table --out X X",
        "seal X",
        "plot --kind X",
        "plot X --to p.png",
        "plot --to X.png",
        "show X",
        "show rim --set X=1",
        "show rim --task X",
        "cost --methods X",
        "cost --model X",
        "sweep X",
        "sweep --knob X",
        "leaderboard -f X",
        "leaderboard --split X",
        "study X",
        "baseline X -o b.toml",
        "check X --against X --margin 2",
        "margin X",
        "compare X X",
        "list X",
        "list tasks X",
        "models fetch X",
        "leakage --task X",
        "leakage --eval-tasks X",
        "floors X",
        "bench --only X",
        "bench --vary X",
    ],
)
def test_a_long_value_of_a_command_line_is_cut(
    line: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cut(call, *(word.replace("X", LONG) for word in line.split()))
    assert list(tmp_path.iterdir()) == []


def own_task(folder: Path, old: str, new: str) -> Path:
    """A task of one's own with a change."""
    path = user_task(folder)
    assert old in USER_TASK
    path.write_text(USER_TASK.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("test_split:", f"? {LONG}\n: x\ntest_split:"),
        ("test_split: test", f"test_split: {LONG}"),
        ('doc_to_text: "{{question}}"', f"doc_to_text: '{{{{{LONG}}}}}'"),
        ("    source: rows", f"    source: {LONG}"),
        ("    source: rows", f"    source: rows\n    ? {LONG}\n    : 1"),
        ("train: my_train.jsonl", f"train: {LONG}"),
    ],
)
def test_a_long_key_or_value_of_a_task_file_is_cut(old: str, new: str, call: Call, tmp_path: Path) -> None:
    cut(call, "show", "direct", "--task", str(own_task(tmp_path, old, new)))


@pytest.mark.parametrize(
    "row",
    [
        {"question": "1?", LONG: "1"},
        {"question": "1?", "answer": f"#### {LONG}"},
        {"question": "1?", "answer": "1", "steps": [{LONG: 1}]},
        {"question": "1?", "answer": f"a\n{LONG}"},
    ],
)
def test_a_long_value_of_a_row_is_cut(row: dict[str, object], call: Call, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [row] * 4)
    code, out, err = call(
        *f"run --methods direct --task json --out {tmp_path}/out --file train={path} --file test={path}".split()
    )
    assert code == 2 and out == "" and len(err) < LONGEST_SENTENCE, err[:300]


@pytest.mark.parametrize(
    "text",
    [
        f"{LONG} = 1",
        f'methods = ["{LONG}"]',
        f'methods = ["direct"]\n[set]\n"{LONG}" = 1',
        f'methods = ["direct"]\ntask = "{LONG}"',
        f'methods = ["direct"]\nbudgets = ["{LONG}"]',
        f"methods = {LONG}",
    ],
)
def test_a_long_key_or_value_of_a_study_is_cut(text: str, call: Call, tmp_path: Path) -> None:
    code, out, err = call("study", study(tmp_path, text))
    assert code == 2 and out == "" and len(err) < LONGEST_SENTENCE, err[:300]


@pytest.mark.parametrize("key", ["seed", "backbone", "role", "schema", "method"])
def test_a_long_value_of_a_run_folder_is_cut(key: str, call: Call, tmp_path: Path) -> None:
    run = next((GOLDEN / "small" / "runs").glob("direct-chain-*"))
    shutil.copytree(run, tmp_path / "runs" / run.name)
    path = tmp_path / "runs" / run.name / "spec.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: LONG, LONG: 1}))
    code, out, err = call("baseline", run.name, "--out", str(tmp_path), "-o", str(tmp_path / "b.toml"))
    assert code == 2 and out == "" and len(err) < LONGEST_SENTENCE, err[:300]


def test_quoted_and_bare_values_and_lists_are_cut_and_short_ones_stay() -> None:
    assert shorten(f"a 'b' {LONG!r}; it's 'c'") == f"a 'b' '{'x' * 100}[100,000 characters]{'x' * 100}'; it's 'c'"
    words = "it's " * 100
    assert shorten(f"methods' {words!r} is") == f'methods\' "{words[:100]}[500 characters]{words[-100:]}" is'
    escapes = "\x1b" * 400
    assert "[400 characters]" in shorten(f"name {escapes!r} is no name")
    assert shorten(f"/{LONG}: no") == f"/{'x' * 99}[100,002 characters]{'x' * 99}: no"
    many = ", ".join(f"run-{i}" for i in range(5_000))
    assert shorten(many) == f"{many[:2000]}[{len(many):,} characters]{many[-2000:]}"
    for text in (f"'{'a' * 299}'", many[:4000], f"'{'a' * 100}' and '{'b' * 200}'", ""):
        assert shorten(text) == text
    assert len(str(UsageError(f"unknown method {LONG!r}"))) < 300
