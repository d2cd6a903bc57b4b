"""The README and the documentation: links lead somewhere, numbers are the stored ones, examples do what they say."""

from __future__ import annotations

import csv
import json
import re
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(prose(page)):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not name.startswith(("http:", "https:")) and not (
            target.exists() and (not anchor or anchor in anchors(target))
        ):
            broken.append(link)
    assert not broken


def test_the_readme_is_short_and_has_no_picture_that_breaks_on_a_package_index() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 150
    assert "![" not in text and "<img" not in text


def test_the_readme_shows_the_stored_accuracies() -> None:
    with (ROOT / "results" / "embedded" / "leaderboard.csv").open(encoding="utf-8") as file:
        rows = [
            r
            for r in csv.DictReader(file)
            if (r["record"], r["division"], r["set"]) == ("rank", "closed", "in distribution")
        ]
    stored = {r["method"]: (f"{100 * float(r['accuracy']):.1f}", f"{100 * float(r['seed_sd']):.1f}") for r in rows}
    bars = re.findall(r"^(\w+) +([\d.]+) ± +([\d.]+) +(█+)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert {name: (value, spread) for name, value, spread, _ in bars} == stored
    assert all(abs(len(bar) - 0.4 * float(value)) <= 0.5 for _, value, _, bar in bars)


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_the_picture_of_the_rooms_shows_every_folder_of_the_package(page: str) -> None:
    picture = block(page, "## How it is built" if page == "README.md" else "## The rooms", "text")
    rooms = {path.name for path in (ROOT / "rim_bench").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(re.findall(r"\b([a-z]+)/", picture)) - {"rim_bench", "stats", "plots", "page", "distributed"} == rooms


def test_the_readme_names_the_commands_that_ci_runs() -> None:
    text, ci = ((ROOT / name).read_text("utf-8") for name in ("README.md", ".ci/run"))
    for words in ("torch==2.13.0", "pytest -n 2"):
        assert words in text and words in ci
    assert 'pip install -e ".[dev]"' in text and '-e ".[dev]"' in ci


def shown_commands(page: Path) -> list[list[str]]:
    """The words of every `rim-bench` command on a page, inline or in a block of shell, without comments."""
    text = page.read_text("utf-8")
    shell = "\n".join(re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    lines = [part.strip() for line in shell.splitlines() for part in line.partition("#")[0].split("&&")]
    lines += re.findall(r"`(rim-bench [^`]+)`", prose(page))
    return [line.split()[1:] for line in lines if line.startswith("rim-bench ")]


def test_every_command_on_a_page_exists_with_its_flags() -> None:
    commands = get_command(import_module(entry_point()).application()).commands  # type: ignore[attr-defined]
    shown = [words for page in PAGES if page.name != "cli.md" for words in shown_commands(page)]
    calls = [words for words in shown if re.fullmatch("[a-z]+", words[0])]  # not lm-eval, which has its own flags
    assert {name for name, *_ in calls} <= commands.keys() and len(calls) > 50
    flags = {name: {flag for param in command.params for flag in param.opts} for name, command in commands.items()}
    assert [words for words in calls if {w for w in words if w.startswith("-")} - flags[words[0]]] == []


def block(page: str, heading: str, language: str) -> str:
    """The first block of code in a language under a heading of a page."""
    text = (ROOT / page).read_text("utf-8").partition(f"\n{heading}\n")[2].split("\n## ")[0]
    match = re.search(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert match is not None, f"{page} has no {language} block under {heading!r}"
    return match[1]


def test_the_method_of_the_page_lays_out_prompts_and_training_examples() -> None:
    names: dict[str, object] = {"__name__": "page_method"}
    sys.modules["page_method"] = type(sys)("page_method")  # dataclasses look their module up
    exec(block("docs/methods.md", "## Your own method", "python"), names)
    method = names["Filler"]()  # type: ignore[operator]
    assert [s.size for s in method.lay_prompt((5, 6, 7)).segments] == [3, 8]
    assert [s.size for s in method.lay_prompt((5, 6, 7), 0).segments] == [3]


def test_the_task_of_the_page_is_trained_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    text = block("docs/tasks.md", "## Your own task", "yaml")
    (tmp_path / "sums.yaml").write_text(text, "utf-8")
    for split, numbers in (("train", range(60)), ("test", range(60, 80))):
        rows = [{"prompt": f"{n} + {n}?", "work": [f"{n} + {n} = {2 * n}"], "result": str(2 * n)} for n in numbers]
        (tmp_path / f"sums_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RIM_BENCH_DATA", raising=False)  # the page's rows lie beside its YAML
    small = "--backbone width=32 --backbone layers=1 --quick --device cpu"
    monkeypatch.setattr(sys, "argv", ["rim-bench", *f"run --methods direct --task ./sums.yaml {small}".split()])
    main = import_module(entry_point()).main
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    assert "sums" in capsys.readouterr().out and (tmp_path / "results" / "table.md").is_file()


@pytest.mark.parametrize(
    "room", sorted(p.name for p in (ROOT / "rim_bench").iterdir() if (p / "__init__.py").is_file())
)
def test_every_module_of_a_room_is_named(room: str) -> None:
    if (ROOT / "rim_bench" / room).is_symlink():
        return
    inside = {p.stem for p in (ROOT / "rim_bench" / room).iterdir() if p.suffix == ".py" or p.is_dir()}
    modules = {name for name in inside if not name.startswith("__")}
    pages = (
        ("README.md", rf"^{room}/ {{2,}}((?:.|\n {{6,}})*)$"),
        ("docs/architecture.md", rf"^\| `{room}/` \| (.*) \|$"),
    )
    for page, pattern in pages:
        lines = re.findall(pattern, (ROOT / page).read_text("utf-8"), re.MULTILINE)
        assert lines, f"{page} has no line of {room}/"
        words = set(re.findall(r"[a-z_]+", re.sub(r"\([^)]*\)", " ", lines[-1])))
        assert modules <= words, f"{page} does not name {sorted(modules - words)} of {room}/"
        assert words <= modules, f"{page} names {sorted(words - modules)}, which {room}/ does not have"


def entry_point() -> str:
    """The module of the command."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    return str(scripts["rim-bench"].partition(":")[0])


def test_the_citation_file_is_readable() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert cited["authors"] == [{"name": "rim-bench contributors"}] and "2605.30343" in str(cited["references"])
