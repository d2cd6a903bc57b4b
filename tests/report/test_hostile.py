"""Names and texts from outside through every writer: what comes out is parsed again, and holds nothing that runs."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from fabricated import coin, evaluate, train
from fabricated_gate import answering
from fabricated_gate import evaluate as evaluate_for_gate
from markdown_it import MarkdownIt

from rim_bench.data.task import load_task
from rim_bench.methods.registry import load_method
from rim_bench.storage.records import spec_id
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError

Call = Callable[..., tuple[int, str, str]]
TEXT = "<script>x</script> <img src=y> | `z [a](javascript:b) *c* $\\frac$ \\input{d} "
TEXT += "\x1b]0;t\x07 \x9b2J \u202e\nerror: invented\r\n% e"
LABELS = (f'=HYPERLINK("http://f","g"){TEXT}', f"@SUM(1){TEXT}", f"+h{TEXT}")
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
N = 600


def arm(store: Store, label: str, p: float, seed: int = 0) -> Run:
    """An evaluated run whose names, settings, levels, questions and answers are hostile."""
    method = {"name": label, "settings": {TEXT: TEXT}, "label": label}
    task = {"name": TEXT, "version": 1, "train_sha256": "a" * 64, "validation_sha256": "b" * 64, "steps": "equations"}
    spec = {"method": method, "task": task, "backbone": {"name": TEXT, "layers": 4}, "start": TEXT}
    run = train(store, "cot", seed=seed, spec=spec)
    for step in (1, 2):
        run.append_metrics({"step": step, "stage": TEXT, "loss": 1.0 / step, "lr": 0.1})
    change = lambda k: {"level": f"{k % 2} {TEXT}", "answer": TEXT, "reference": TEXT, "output": TEXT}  # noqa: E731
    names = {"task": TEXT, "task_title": TEXT, "data_source": TEXT, "prompt_note": TEXT}
    evaluate(run, coin(p, N, seed), change=change, floor={"answer": TEXT, "accuracy": 0.1}, **names)
    run.record_not_evaluated({TEXT: TEXT}, [])
    return run


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    store = Store(tmp_path / "results")
    (store.folder / "damaged").mkdir(parents=True)
    return [arm(store, label, p) for label, p in zip(LABELS, (0.6, 0.7, 0.4), strict=True)]


def check_markdown(text: str) -> None:
    """No tag, link, emphasis or code of the hostile text is left; only verdicts of the gate are bold."""
    assert not UNSEEN.search(text)
    tokens = MarkdownIt().enable(["table", "strikethrough"]).parse(text)
    inline = [child for token in tokens for child in token.children or ()]
    kinds = {token.type for token in (*tokens, *inline)}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "em_open", "fence", "code_block"}
    assert not any("script" in child.content for child in inline if child.type == "code_inline")
    assert any("<script>x</script>" in child.content for child in inline if child.type == "text")


def check_csv(text: str) -> None:
    assert not UNSEEN.search(text)
    header, *rows = csv.reader(io.StringIO(text))
    assert rows and {len(row) for row in rows} == {len(header)}
    for cell in (cell for row in rows for cell in row if cell[:1] in tuple("=+-@\t\r")):
        float(cell)
    assert any("'=HYPERLINK" in cell or "<script>" in cell for row in rows for cell in row)


def check_latex(text: str) -> None:
    assert not UNSEEN.search(text) and "\\textless{}script\\textgreater{}" in text
    body = [line for line in text.splitlines() if not line.startswith("% ")]
    assert not any(re.search(r"\\(input|frac)|(?<!\\)\$(?!\\pm\$)(?<!\\pm\$)|^error: ", line) for line in body)


def check_json(text: str) -> None:
    assert not UNSEEN.search(text) and "<script>" in text
    json.loads(text)


CHECKS = {"markdown": check_markdown, "csv": check_csv, "latex": check_latex, "json": check_json}


def check_terminal(out: str, err: str = "") -> None:
    assert not UNSEEN.search(out) and not UNSEEN.search(err)
    assert "error: invented" not in (out + err).splitlines()


@pytest.mark.parametrize("command", ["table", "leaderboard"])
def test_tables_of_runs(call: Call, runs: list[Run], command: str) -> None:
    out = runs[0].path.parents[1]
    code, text, err = call(command, "--out", out, "--write")
    assert code == 0, err
    check_terminal(text, err)
    for name in ("markdown", "csv", "latex", *(["json"] if command == "leaderboard" else [])):
        code, text, err = call(command, "--out", out, "--format", name)
        assert code == 0, err
        CHECKS[name](text)
    suffixes = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".json": "json"}
    for path in out.glob(f"{command}.*"):
        CHECKS[suffixes[path.suffix]](path.read_text("utf-8"))


def gated(store: Store, label: str) -> Run:
    """A run with hostile names whose stored answers deserve their marks."""
    method, task = {"name": label, "settings": {TEXT: TEXT}, "label": label}, {"name": TEXT, "version": 1}
    run = train(store, "cot", spec={"method": method, "task": task, "start": TEXT})
    evaluate_for_gate(run, coin(0.6, N, 1), task=TEXT, task_title=TEXT, data_source=TEXT)
    return run


def test_gate_margin_and_comparison(
    call: Call, runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = lambda run, task, asked, *how: answering(run, task, asked)  # noqa: E731
    monkeypatch.setattr("rim_bench.evaluate.stored_runs.evaluate_now", now)
    out, files = runs[0].path.parents[1], {name: tmp_path / f"check.{name}" for name in ("json", "junit", "summary")}
    sound, other = (gated(Store(tmp_path / "gate"), label) for label in LABELS[:2])
    gate = sound.path.parents[1]
    code, text, err = call("baseline", sound.path, "--output", tmp_path / "b.toml", "--out", gate)
    assert code == 0, err
    check_terminal(text)
    asked = ("--against", tmp_path / "b.toml", "--margin", "2", "--min-n", "10", "--out", gate)
    code, text, err = call("check", sound.path, *asked, *(word for k, v in files.items() for word in (f"--{k}", v)))
    assert code in (0, 4), err
    check_terminal(text, err)
    json.loads(files["json"].read_text("utf-8"))
    check_markdown(files["summary"].read_text("utf-8"))
    (case,) = ElementTree.fromstring(files["junit"].read_bytes()).iter("testcase")
    assert case.find("script") is None and "<script>x</script>" in case.attrib["name"]
    code, text, err = call("check", other.path, *asked)
    assert code == 3
    check_terminal(text, err)
    for name in ("terminal", "markdown", "json"):
        code, text, err = call("compare", runs[0].path, runs[1].path, "--out", out, "--format", name)
        assert code == 0, err
        CHECKS.get(name, check_terminal)(text)
    seeds = [arm(Store(out), LABELS[0], 0.6, seed) for seed in range(1, 21)]
    code, text, err = call("margin", *(run.path for run in seeds), "--out", out, "--output", tmp_path / "margin.md")
    assert code == 0, err
    check_terminal(text)
    check_markdown((tmp_path / "margin.md").read_text("utf-8"))


@pytest.mark.parametrize("kind", ["accuracy", "training"])
def test_pictures(call: Call, runs: list[Run], tmp_path: Path, kind: str) -> None:
    code, text, err = call("plot", "--out", runs[0].path.parents[1], "--kind", kind, "--to", tmp_path / "p.svg")
    assert code == 0, err
    check_terminal(text, err)
    root = ElementTree.parse(tmp_path / "p.svg").getroot()
    assert not any(element.tag.endswith(("script", "img")) for element in root.iter())
    texts = ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("}text")]
    assert any("<script>x</script>" in text and "$\\frac$" in text for text in texts), texts
    assert not UNSEEN.search("".join(texts))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Rows whose questions, steps and answers are hostile; the test rows stand among the training rows."""
    line = " ".join(TEXT.split("\n"))
    rows = [{"question": f"{TEXT} {k}", "steps": [line], "answer": f"{line} {k}"} for k in range(30)]
    lines = list(map(json.dumps, rows))
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_show(call: Call, rows: Path) -> None:
    code, text, err = call("show", "cot", "--task", "json", "--file", f"train={rows / 'train.jsonl'}")
    assert code == 0, err
    check_terminal(text.replace("\nerror: invented", ""))  # a question has lines
    assert "<script>x</script>" in text and "\\x1b]0;t\\x07" in text


def test_leakage(call: Call, rows: Path, tmp_path: Path) -> None:
    for name in ("terminal", "markdown", "latex", "json"):
        code, text, err = call("leakage", "-t", "json", "--data", rows, "--text", "--ngram", "2", "--format", name)
        assert code == 0, err
        CHECKS.get(name, lambda text: check_terminal(text.replace("error: invented", "")))(text)


def own_task(folder: Path, name: str) -> Path:
    block: dict[str, Any] = {"title": TEXT, "summary": TEXT, "source": "rows", "licence": TEXT, "note": TEXT}
    metadata = {"version": 1, "rim_bench": block}
    base = load_task("svamp").path.with_name("word_problems.base")
    (folder / f"{name}.yaml").write_text(json.dumps({"include": str(base), "task": TEXT, "metadata": metadata}))
    return folder / f"{name}.yaml"


def test_lists_and_errors(call: Call, tmp_path: Path) -> None:
    code, text, err = call("list", "tasks", own_task(tmp_path, "mine"))
    assert code == 0, err
    check_terminal(text.replace("\nerror: invented", ""))
    assert "<script>x</script>" in text
    for words in (
        ["table", TEXT],
        ["show", TEXT],
        ["list", TEXT],
        [TEXT],
        ["run", "--task", TEXT],
        ["run", f"--{TEXT}"],
    ):
        code, text, err = call(*words)
        assert code == 2 and text == "" and err.startswith("error: ") and err.count("\n") == 1
        assert not UNSEEN.search(err)


NAMES = ["../../../escape", ".hidden", "_x", "1st", "a/b", "a b", "a\n", "é", "<b>", ""]


@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_method_name_that_no_folder_can_have(call: Call, tmp_path: Path, name: str) -> None:
    file = tmp_path / "own.py"
    file.write_text(f"from rim_bench.baselines.direct import Direct\n\n\nclass Own(Direct):\n    name = {name!r}\n")
    with pytest.raises(UsageError, match="is not a name: give letters, digits"):
        load_method(str(file))
    code, _, err = call("run", "--methods", file, "--out", tmp_path / "results", "--quick")
    assert code == 2 and err.count("\n") == 1 and "letter at the beginning" in err
    assert not (tmp_path / "results").exists()


def test_a_name_that_is_too_long_for_a_folder(call: Call, tmp_path: Path) -> None:
    task = own_task(tmp_path, "x" * 101)
    code, _, err = call("run", "--methods", "direct", "--task", task, "--out", tmp_path / "results")
    assert code == 2 and f"task '{'x' * 101}' has a name of 101 characters: give at most 100" in err
    assert load_task(str(own_task(tmp_path, "x" * 100))).name == "x" * 100


@pytest.mark.parametrize("name", [".hidden", "_x", "1st", "a b", "<b>"])
def test_a_task_name_that_no_folder_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is not a name: give letters, digits"):
        load_task(str(own_task(tmp_path, name)))


def test_plain_names_stay(tmp_path: Path) -> None:
    assert load_task(str(own_task(tmp_path, "My_task-1.b"))).name == "My_task-1.b"


def test_no_run_folder_begins_with_a_dot() -> None:
    assert spec_id({"method": {"name": "../../../escape"}, "task": {"name": "toy"}}).startswith("_.._.._escape-toy-")
    assert spec_id({"method": {"name": "cot"}, "task": {"name": "toy"}}).startswith("cot-toy-")


def test_commands_print_through_one_function() -> None:
    """`echo` leaves nothing that a terminal obeys; nothing else prints a text but rich's consoles."""
    folder = Path(__file__).parents[2] / "rim_bench" / "cli"
    printing = re.compile(r"(?<![.\w])print\(|\b(?:typer|click)\.echo\(")
    calls = {p.name: len(printing.findall(p.read_text("utf-8"))) for p in folder.rglob("*.py")}
    assert {name: n for name, n in calls.items() if n} == {"common.py": 1}
