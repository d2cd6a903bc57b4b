"""Published numbers: what the package ships, what its loader refuses, and where they stand beside measured rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from fabricated import coin, evaluate, train

from rim_bench.report import comparison
from rim_bench.report.references import CAPTION, READINGS, UNITS, load, parse, shipped
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError

ENTRY = {
    "paper": "P",
    "source": "Table 1",
    "reading": "secondary",
    "backbone": "gpt2",
    "training": "T",
    "metric": "accuracy",
    "spread_kind": "SE",
    "values": {"gsm8k": {"rim": "33.6 ± 0.2", "cot": [39, 40.5]}},
}


def text(*entries: object, tasks: object = None, **others: object) -> str:
    given = {"tasks": {"gsm8k": ["gsm8k"]} if tasks is None else tasks, "entries": list(entries), **others}
    return yaml.safe_dump(given, allow_unicode=True, sort_keys=False)


def test_shipped_numbers_are_complete_and_hold_the_known_ones() -> None:
    known = shipped()
    assert all(
        r.reading in READINGS and r.metric in UNITS and r.source and r.paper and r.training and r.backbone
        for r in known.values
    )
    assert all(r.spread_kind for r in known.values if r.spread is not None)

    def values(task: str, method: str, backbone: str, paper: str, metric: str = "accuracy") -> set[float]:
        found = [
            r
            for r in known.of(task)
            if (r.method, r.backbone, r.metric) == (method, backbone, metric) and paper in r.paper
        ]
        return {r.value for r in found}

    assert values("gsm8k", "rim", "gpt2", "2605.30343") == {33.6} and values(
        "gsm8k", "coconut", "gpt2", "2412.06769"
    ) == {34.1}
    assert values("gsm8k", "rim", "llama-3.2-1b", "2605.30343") == {42, 43}
    assert values("gsm8k", "cot", "llama-3.2-1b", "2605.30343", "full_ms") == {1108.7}
    assert values("gsm8k", "rim", "a 30B model", "reproduction") == {46.7} and values(
        "gsm8k", "direct", "a 30B model", "repro"
    ) == {56.0}
    assert values("GSM_Hard", "rim", "gpt2", "RiM") == {7.8} and values("prosqa", "cot", "gpt2", "Martin") == {83.0}
    secondary = {r.paper for r in known.values if r.reading == "secondary"}
    assert any("2605.30343" in p for p in secondary)  # nobody here read RiM's own table


def test_conflicting_values_are_found() -> None:
    known = shipped()

    def one(method: str, paper: str, task: str = "gsm8k") -> list[float]:
        (mine,) = [
            r
            for r in known.of(task)
            if r.method == method and r.backbone == "gpt2" and r.metric == "accuracy" and paper in r.paper
        ]
        return [o.value for o in known.conflicts(mine)]

    assert 31.1 in one("coconut", "2412.06769") and one("rim", "2605.30343") == []
    assert one("coconut", "Martin", "prosqa") == [] and one("cot", "Martin", "prosqa") == [77.5]
    made = parse(text(ENTRY), "x")
    assert [len(made.conflicts(r)) for r in made.values] == [0, 1, 1] and made.values[0].text == "33.6 ± 0.2 %"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (text({**ENTRY, "sourc": "Table 1"}), "entry 1: unknown key 'sourc'.*did you mean 'source'"),
        (text(ENTRY, {k: v for k, v in ENTRY.items() if k != "source"}), "entry 2: source is missing"),
        (text({**ENTRY, "source": "  "}), "source is missing or no text"),
        (text({k: v for k, v in ENTRY.items() if k != "spread_kind"}), "spread_kind does not say of what"),
        (text({**ENTRY, "spread_kind": 3}), "spread_kind is missing or no text"),
        (text({**ENTRY, "reading": "primry"}), "unknown reading 'primry'.*did you mean 'primary'"),
        (text({**ENTRY, "metric": "accurcy"}), "unknown metric"),
        (text({**ENTRY, "values": {"gsm9k": {"rim": 1}}}), "unknown task 'gsm9k'"),
        (text({**ENTRY, "values": {}}), "values is missing"),
        (text({**ENTRY, "values": {"gsm8k": {"rim": "about 30"}}}), "gsm8k, rim is 'about 30'"),
        (text({**ENTRY, "values": {"gsm8k": {"rim": True}}}), "rim is True"),
        (text({**ENTRY, "values": {"gsm8k": {"rim": None}}}), "rim is None"),
        (text({**ENTRY, "values": {"gsm8k": {"rim": []}}}), r"rim is \[\]"),
        (text({**ENTRY, "values": {"gsm8k": {"rim": 336}}}), "at most 100 %"),
        (text({**ENTRY, "values": {"gsm8k": {"rim": float("nan")}}}), "rim is nan"),
        (text("no table"), "is no table"),
        (text(ENTRY, tasks={"gsm8k": []}), "tasks must be a table"),
        (text(ENTRY, more=1), "unknown key 'more'"),
        (text(), "holds no entries"),
        ("", "holds no entries"),
        ("a: [", "is no YAML"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(given: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        parse(given, "refs.yaml")
    assert "\n" not in str(refused.value) and "refs.yaml" in str(refused.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not a text file"):
        load(tmp_path / "bad.yaml")
    (tmp_path / "good.yaml").write_text(text(ENTRY), "utf-8")
    assert len(load(tmp_path / "good.yaml").values) == 3


# Beside measured rows


def runs(store: Store, task: str) -> list[Run]:
    out = []
    for name in ("direct", "rim"):
        run = train(store, name)
        evaluate(run, coin(0.5, 60, 1), task=task, task_title=task)
        out.append(run)
    return out


def test_they_stand_in_a_grid_of_their_own(tmp_path: Path) -> None:
    made = runs(Store(tmp_path), "gsm8k")
    without, table = comparison.comparison(made), comparison.comparison(made, published=shipped())
    (grid,) = [g for g in table.sections[0].panels if g.caption == CAPTION]
    assert table.to_csv() == without.to_csv() and "2605.30343" not in table.to_csv()
    others = [g for g in table.sections[0].panels if "Published" not in g.caption]
    assert others == list(without.sections[0].panels)  # no measured grid knows of them
    rows = [dict(zip(grid.columns, r, strict=True)) for r in grid.rows]
    assert {r["method"] for r in rows[:10]} == {"direct", "rim"}  # methods with a measured row first
    coconut = next(r for r in rows if r["method"] == "coconut" and "2412.06769" in r["paper"])
    assert (
        coconut["value"] == "34.1 ± 1.5 %" and "31.1" in coconut["conflicts with"] and coconut["reading"] == "secondary"
    )
    assert "Table 1" in coconut["source"] and "± not stated" in coconut["source"]
    assert any(n.startswith("Conflicting published values") for n in table.sections[0].notes)
    assert "Published" not in without.to_markdown()


def test_a_task_without_published_values_says_so(tmp_path: Path) -> None:
    table = comparison.comparison(runs(Store(tmp_path), "chain"), published=shipped())
    assert not any("Published" in g.caption for g in table.sections[0].panels)
    assert "Published values: none of task 'chain' is known." in table.sections[0].notes


def test_on_the_command_line(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    runs(Store(tmp_path), "GSM8K")
    code, out, _ = call("table", "--out", tmp_path, "--references", "--format", "markdown")
    assert code == 0 and CAPTION in out and "arXiv 2605.30343" in out
    assert CAPTION not in call("table", "--out", tmp_path, "--format", "markdown")[1]
    code, _, err = call("table", "--out", tmp_path, "--references", "--format", "csv")
    assert code == 2 and "--references has no place in --format csv" in err
    code, out, _ = call("list", "references")
    assert code == 0 and any("2605.30343" in line and "secondary" in line for line in out.splitlines())
    assert "did you mean 'references'" in call("list", "reference")[2]
