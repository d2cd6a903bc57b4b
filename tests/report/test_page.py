"""The report's one file: its bytes, what of it is markup, and that its numbers are those of the tables."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fabricated import coin, evaluate, train
from report_pages import DATA, HOSTILE, OOD, TITLE, N, small_runs, unpacked

from rim_bench.data.datasets import evaluation_data
from rim_bench.data.licences import free, passed_on
from rim_bench.data.task import load_task
from rim_bench.evidence.two_systems import versus
from rim_bench.report.comparison import compared, comparison
from rim_bench.report.page.browser import TextSource, question_columns
from rim_bench.report.page.document import report
from rim_bench.storage.questions import QuestionStore
from rim_bench.storage.records import QuestionRecord
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return small_runs(tmp_path_factory.mktemp("page") / "results")


@pytest.fixture(scope="module")
def page(runs: list[Run]) -> bytes:
    return report(runs, title=TITLE)


@pytest.fixture(scope="module")
def data(page: bytes) -> dict[str, Any]:
    return unpacked(page)


class Tags(HTMLParser):
    """What a browser takes for markup."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.comments: list[str] = []
        self.texts: dict[str, str] = {}
        self.inside = ""  # the id or name of the tag that began last and has not ended

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self.inside = dict(attributes).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def handle_data(self, data: str) -> None:
        self.texts[self.inside] = self.texts.get(self.inside, "") + data


def parsed(page: bytes) -> Tags:
    tags = Tags()
    tags.feed(page.decode())
    return tags


def test_the_same_runs_give_the_same_bytes(runs: list[Run], page: bytes, tmp_path: Path) -> None:
    assert report(runs[::-1], title=TITLE) == page
    copy = shutil.copytree(runs[0].results, tmp_path / "copy")
    assert report(Store(copy).runs()[0], title=TITLE) == page


def test_hostile_texts_are_data_and_never_markup(page: bytes, data: dict[str, Any]) -> None:
    tags = parsed(page)
    scripts = [attributes.get("id") for tag, attributes in tags.tags if tag == "script"]
    assert scripts == ["page-data", "questions-0", None]  # the last one is the page's own
    assert not tags.comments and b"<!--" not in page and b"onerror" not in page
    assert not any(tag in ("img", "link", "iframe", "object", "base") for tag, _ in tags.tags)
    assert not any(
        name.startswith("on") or name in ("src", "style") for _, attributes in tags.tags for name in attributes
    )
    questions = data["questions-0"]
    shown = HOSTILE.replace("\u202e", "\\u202e")  # what nobody sees is spelled out
    assert f"{shown} #### 1" in questions["pool"] and shown in questions["questions"][3]
    assert any(HOSTILE.split()[0] in row["label"] for row in data["page-data"]["groups"][0]["rows"])
    assert tags.texts["title"] == TITLE


def test_one_script_and_one_style_sheet_are_allowed(page: bytes) -> None:
    tags = parsed(page)
    (policy,) = [a["content"] or "" for _, a in tags.tags if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))

    def source(code: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"

    assert rules["default-src"] == "'none'" and rules["style-src"] == source(tags.texts["style"])
    assert rules["script-src"] == source(tags.texts["script"])
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page.decode())


def test_accuracies_are_those_of_the_csv(runs: list[Run], data: dict[str, Any]) -> None:
    group = data["page-data"]["groups"][0]
    records = list(csv.DictReader(io.StringIO(comparison(runs).to_csv())))
    assert data["page-data"]["csv"] == comparison(runs).to_csv()
    checked = 0
    for row in group["rows"]:
        mine = {r["set"]: r for r in records if r["run_ids"].split() == row["runs"]}
        for scope, shown in zip(group["sets"], row["accuracy"], strict=True):
            stored = (
                mine[scope["name"].replace("\u202e", "\\u202e")] if scope["name"] not in mine else mine[scope["name"]]
            )
            assert shown["text"] == f"{100 * float(stored['accuracy']):.1f}" and scope["n"] == int(stored["n"])
            assert shown["value"] == pytest.approx(float(stored["accuracy"]), abs=1e-12)
            assert [shown["low"], shown["high"]] == pytest.approx([float(stored["ci_low"]), float(stored["ci_high"])])
            assert shown["sd"] == pytest.approx(float(stored["seed_sd"]))
            checked += 1
        for seed, run, value in zip(row["seeds"], row["runs"], row["accuracy"][0]["seeds"], strict=True):
            (alone,) = [r for r in records if r["run_ids"] == run and r["set"] == f"in distribution, seed {seed}"]
            assert value == pytest.approx(float(alone["accuracy"]))
    assert checked == 3 * 5  # in distribution, OOD, three levels


def test_differences_and_counts_are_those_of_compare(runs: list[Run], data: dict[str, Any]) -> None:
    group, columns = data["page-data"]["groups"][0], data["questions-0"]
    by_method = {row["method"]: k for k, row in enumerate(group["rows"])}
    names = {method: ",".join(group["rows"][k]["runs"]) for method, k in by_method.items()}
    two = versus(Store(runs[0].results), names["direct"], names["rim"])
    for number, reading in enumerate(two.readings):
        (line,) = [
            d
            for d in group["differences"]
            if (d["set"], d["first"], d["second"]) == (number, by_method["direct"], by_method["rim"])
        ]
        assert (line["only_first"], line["only_second"]) == reading.contrast.counts
        assert line["value"] == pytest.approx(reading.contrast.value)
        # and what the page's script counts comes to the same
        solved = {
            method: [
                sum(a["correct"][k] == "1" for a in columns["answers"] if a["row"] == by_method[method])
                for k in columns["sets"][number]
            ]
            for method in ("direct", "rim")
        }
        pairs = list(zip(solved["direct"], solved["rim"], strict=True))
        assert (sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)) == reading.contrast.counts


def test_answers_stand_in_their_columns(runs: list[Run], data: dict[str, Any]) -> None:
    columns = data["questions-0"]
    assert len(columns["ids"]) == N + OOD and len(columns["answers"]) == 6
    rim = [a for a in columns["answers"] if "blocks" in a]
    assert len(rim) == 2
    items = {i.id: i for i in runs[4].read_items("toy-test")}
    for k, name in enumerate(columns["ids"]):
        item, pool = items[name], columns["pool"]
        assert [pool[a] for a in rim[0]["blocks"][k][::2]] == [b.answer for b in item.blocks]
        assert rim[0]["correct"][k] == str(int(item.correct)) and pool[rim[0]["answer"][k]] == item.answer
    cot = next(a for a in columns["answers"] if any(a["flags"]))
    assert [k for k, flag in enumerate(cot["flags"]) if flag == 1] == list(range(0, N + OOD, 9))


def test_costs_have_a_front_within_a_budget_and_losses_their_stages(data: dict[str, Any]) -> None:
    group = data["page-data"]["groups"][0]
    kinds = {(c["set"], c["kind"]): c for c in group["costs"]}
    assert set(kinds) == {(s, k) for s in (0, 1) for k in ("flops", "passes", "ttft", "latency")}
    points = [p for line in kinds[0, "flops"]["lines"] for p in line["points"]]
    assert len(points) == 2 + 4 and sum(p["default"] for p in points) == 3
    for p in points:
        beaten = any(
            q["cost"] <= p["cost"]
            and q["accuracy"]["value"] >= p["accuracy"]["value"]
            and (q["cost"], q["accuracy"]["value"]) != (p["cost"], p["accuracy"]["value"])
            for q in points
        )
        assert p["front"] is not beaten
    assert len(group["losses"]) == 6
    assert [start for start, _ in group["losses"][0]["stages"]] == [1, 20] and group["losses"][0]["count"] == 30


def test_verdicts_in_words_count_every_pair(data: dict[str, Any]) -> None:
    group = data["page-data"]["groups"][0]
    for verdicts in group["verdicts"]:
        texts = [line["text"] for line in verdicts["lines"]]
        kinds = [d["kind"] for d in group["differences"] if d["set"] == verdicts["set"]]
        assert len(kinds) == 3
        for kind, words in (("undecided", "undecided: the data"), ("floor", "are not judged")):
            counted = [int(t.split(" of ")[0]) for t in texts if words in t]
            assert sum(counted) == kinds.count(kind)
        assert sum(t.count("Holm p") for t in texts if " is higher than " in t) == kinds.count("higher")


def test_one_seed_says_nothing_of_methods(tmp_path: Path) -> None:
    runs = []
    for name, p in (("direct", 0.2), ("cot", 0.9)):
        runs.append(train(Store(tmp_path), name))
        evaluate(runs[-1], coin(p, 200, 1))
    group = unpacked(report(runs))["page-data"]["groups"][0]
    lines = [line for verdicts in group["verdicts"] for line in verdicts["lines"]]
    assert {line["kind"] for line in lines} == {"one seed"} and "these weights alone" in lines[0]["text"]
    assert lines[1]["text"].startswith("cot") and group["rows"][0]["accuracy"][0]["sd"] is None


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("none needed: generated", True),
        ("MIT", True),
        ("Apache-2.0 (the program that makes the files)", True),
        ("CC BY 4.0", True),
        ("CC-BY-4.0", True),
        ("CC BY-NC-ND 4.0", False),
        ("CC BY-NC 4.0", False),
        ("CC BY-SA 4.0", False),
        ("research use", False),
        ("none stated; derived from GSM8K (MIT)", False),
        ("your data's own", False),
        ("", False),
    ],
)
def test_a_licence_decides_what_is_passed_on(licence: str, allowed: bool) -> None:
    assert free(licence) is allowed


def test_shipped_sets_are_passed_on_or_not() -> None:
    shown = {name: passed_on(load_task(name)) for name in ("chain", "gsm8k", "svamp", "prosqa")}
    kept = {name: passed_on(load_task(name)) for name in ("gsm_symbolic", "multiarith", "asdiv", "json", "gsm_plus")}
    assert all(shown.values()) and not any(kept.values())


def a_task_run(root: Path, task: str, data_sha256: str, change: Any = None, n: int = 20) -> Run:
    """A run that says it was evaluated on the first questions of a task."""
    spec = {"task": {"name": task, "version": 1, "train_sha256": "a" * 64, "steps": "equations"}}
    run = train(Store(root), "direct", spec=spec)
    evaluate(run, coin(0.5, n, 1), change=change, task=task, data_sha256=data_sha256, limit=n)
    return run


def texts_of(run: Run, **where: Any) -> tuple[tuple[str, ...], str]:
    columns = question_columns(compared([run]).groups[0], TextSource({run.id: run}, **where))
    return columns.questions, columns.note


def test_generated_questions_are_generated_again_where_they_are_the_same(tmp_path: Path) -> None:
    asked = evaluation_data(load_task("chain"), limit=20)
    ids = lambda k: {"id": asked.examples[k].id}  # noqa: E731
    texts, note = texts_of(a_task_run(tmp_path / "same", "chain", asked.sha256, ids))
    assert texts == tuple(e.question for e in asked.examples) and not note
    texts, note = texts_of(a_task_run(tmp_path / "other", "chain", "d" * 64, ids))
    assert not texts and "not those that were asked" in note


def test_bound_texts_are_shown_only_where_that_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RIM_BENCH_DATA", raising=False)
    run = a_task_run(tmp_path, "gsm_symbolic", DATA)
    texts, note = texts_of(run)
    assert not texts and "CC BY-NC-ND 4.0" in note and "--all-texts" in note
    QuestionStore(run.results).write(DATA, [QuestionRecord(id=f"toy/test/{k}") for k in range(20)])
    assert texts_of(run) == (texts, note)  # ids alone
    assert "--data DIR" in texts_of(run, every=True)[1]


def test_a_stored_text_that_was_not_asked_is_not_shown(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"what?").hexdigest()[:8]
    run = a_task_run(tmp_path, "mine", DATA, lambda k: {"prompt_hash": digest})
    texts = [QuestionRecord(id=f"toy/test/{k}", question="what?" if k else "another one") for k in range(20)]
    QuestionStore(run.results).write(DATA, texts)
    shown, note = texts_of(run)
    assert shown == ("", *["what?"] * 19) and note.startswith("1 questions")
    QuestionStore(run.results).path(DATA).write_bytes(b"no gzip")
    shown, note = texts_of(run)
    assert not shown and "damaged" in note
    with pytest.raises(UsageError, match="damaged"):
        QuestionStore(run.results).read(DATA)
    with pytest.raises(ValueError, match="no sha256"):
        QuestionStore(run.results).path("../../etc/passwd")


def test_the_command_writes_one_file(runs: list[Run], call: Call, tmp_path: Path) -> None:
    results, file = runs[0].results, tmp_path / "out" / "report.html"
    code, out, err = call("report", "--out", results, "-o", file)
    assert (
        (code, err) == (0, "") and out.startswith(str(file)) and [p.name for p in file.parent.iterdir()] == [file.name]
    )
    assert f"--out {results}" in unpacked(file.read_bytes())["page-data"]["command"]
    code, _, err = call("report", "--out", tmp_path / "none", "-o", file)
    assert code == 2 and "no run is stored" in err
    code, _, err = call("report", "--out", results, "-o", file, "--data", tmp_path / "none")
    assert code == 2 and "does not exist" in err
