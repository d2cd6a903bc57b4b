"""Writes the pages that follow from the code: the commands, the files of a run folder, and the Python reference.

python docs/generate.py            writes them
python docs/generate.py --check    exit code 1, with the name of every page that is not as it would be written
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import inspect
import sys
import tomllib
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
NOTE = "<!-- Written by docs/generate.py: change the code it is taken from, not this page. -->\n"


# Commands -------------------------------------------------------------------------------------------------------------


def command_page() -> str:
    """Every command of the command line, with its help, arguments, options and defaults."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        module = tomllib.load(file)["project"]["scripts"]["rim-bench"].partition(":")[0]
    from typer.main import get_command

    group = get_command(importlib.import_module(module).application())
    commands = list(_commands(group, "rim-bench"))
    out = [NOTE, "# The commands", "", str(group.help), ""]
    out += ["`rim-bench COMMAND --help` prints the same in a terminal.", ""]
    out += [f"- [`{name}`](#{name.replace(' ', '-')}): {_first_line(command.help)}" for name, command in commands]
    codes = importlib.import_module("rim_bench.cli.common").EXIT_CODES
    out += ["", "## Exit codes", "", "| code | |", "|---:|---|", *(f"| {k} | {_cell(v)} |" for k, v in codes.items())]
    out += ["", "Whatever ended a command, the same one again goes on where it stopped."]
    for name, command in commands:
        out += ["", *_command_section(name, command)]
    return "\n".join(out) + "\n"


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Full name and command of everything below `group` that is not hidden, in the order of the help text."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _command_section(name: str, command: Any) -> list[str]:
    shown = [p for p in command.params if not getattr(p, "hidden", False)]
    arguments = [p for p in shown if p.param_type_name == "argument"]
    options = [p for p in shown if p.param_type_name == "option"]
    usage = " ".join([name, *(_usage(p) for p in arguments), *(["[OPTIONS]"] if options else [])])
    out = [f"## {name}", "", *_paragraphs(command.help), "```text", usage, "```"]
    if arguments:
        out += ["", "| argument | |", "|---|---|"]
        out += [f"| `{_metavar(p)}` | {_help(p)} |" for p in arguments]
    if options:
        out += ["", "| option | default | |", "|---|---|---|"]
        out += [f"| {_flags(p)} | {_default(p)} | {_help(p)} |" for p in options]
    return out


def _metavar(param: Any) -> str:
    return str(param.metavar or param.name.strip("_").upper())


def _usage(param: Any) -> str:
    """An argument as a usage line has it."""
    text = _metavar(param) + ("..." if param.nargs == -1 else "")
    return text if param.required else f"[{text}]"


def _flags(param: Any) -> str:
    return ", ".join(f"`{flag}`" for flag in (*param.opts, *param.secondary_opts))


def _default(param: Any) -> str:
    if param.required:
        return "required"
    shown = isinstance(param.default, str | int | float | Path) and not getattr(param, "is_flag", False)
    return f"`{_cell(str(param.default))}`" if shown else ""


def _help(param: Any) -> str:
    text = " ".join(str(param.help or "").split())
    ends = ["May be given several times."] if getattr(param, "multiple", False) and "several times" not in text else []
    ends += [f"Environment variable: `{param.envvar}`."] if param.envvar else []
    return _cell(" ".join([text, *ends]).strip())


def _paragraphs(text: str | None) -> list[str]:
    """Each paragraph as one line, however the source wraps it, with an empty line after it."""
    found = inspect.cleandoc(str(text or "")).split("\n\n")
    return [line for paragraph in found for line in (" ".join(paragraph.split()), "")]


def _first_line(text: str | None) -> str:
    return _paragraphs(text)[0]


def _cell(text: str) -> str:
    """A text as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


# The files of a run ---------------------------------------------------------------------------------------------------

RECORDS = {
    "RunSpec": "`spec.json`",
    "TrainingRecord": "`train.json`",
    "StepRecord": "a line of `train.jsonl(.xz)`",
    "EvaluationRecord": "`eval/<key>/summary.json`",
    "ItemRecord": "a line of `eval/<key>/items.jsonl.gz`",
    "QuestionRecord": "a line of `data/<sha256>.jsonl.gz` beside `runs/`",
    "CandidateItem": "a line of `candidates/eval/<key>/items.jsonl.gz`",
    "LmEvalRecord": "`lm_eval/eval/<key>/summary.json`",
    "LmEvalItem": "a line of `lm_eval/eval/<key>/items.jsonl.gz`",
    "InterventionRecord": "`interventions/<key>/summary.json`",
    "InterventionItem": "a line of `interventions/<key>/items.jsonl.gz`",
}
"""Class in `rim_bench.storage.records` -> the file that it is."""

FOLDER = """# The files of a run

A run is one folder, written once, verified when it is read, and safe to kill at any moment. Every file and folder
appears under its name only when it is complete; what does not match its hash is named, not trusted.

```text
results/runs/<id>/
  spec.json                  what the run is; its hash is in the id
  environment.json           versions, commit, hardware, command line and own task file of every start
  train.jsonl(.xz)           one record per optimizer step, compressed when training is done
  train.json                 the summary of training
  manifest.json              size and sha256 of every record: of all files here but weights and the growing train.jsonl
  checkpoints/step-00000100/ newest complete checkpoint, with manifest.json
  candidates/                checkpoints to choose between, and their answers (`--checkpoint`)
  model/                     final weights with manifest.json; its existence means "trained"
  eval/<key>/                items.jsonl.gz, then summary.json; its existence means "evaluated"
  lm_eval/                   what lm-eval's own tasks gave
  interventions/<key>/       items.jsonl.gz, then summary.json; beside them the table and the heat maps
results/data/<sha256>.jsonl.gz   the questions of an evaluated set, once for all runs
```

Questions are stored by licence: generated sets and those under MIT, Apache or CC BY with their text and right answer,
others with ids alone.

The id is `<method>-<task>-<12 hex digits of the specification's sha256>`: equal specifications have equal ids, so that
the same command finds what it has done. Keys that a version does not know are kept, and files of older versions are
read alike.

## What is damaged

Whatever reads a record compares it with `manifest.json`, and each of its values with the type below. A record that is
changed, gone, not listed, of another type, nested deeply or unpacked far larger than such files are costs one run: it
stands as a row "damaged" with the file's name in every table and format, in `Store.frame()` (column `damaged`) and on
the error stream of `plot` and `sweep`, and every other run is shown as ever. Delete a damaged evaluation's folder and
evaluate again; move a damaged run away and train it again; put back what is gone. Where a record was removed on
purpose, `rim-bench seal --again RUN` takes the records as they are.

Before a record is written its hash stands under `writing` in the manifest, and after it under `files`: a process that
is killed at any moment leaves nothing that reads as damaged. What it left half written goes when the run is next opened
under its lock. A run of an earlier version has no manifest: it is read, and tables say that it is "unsealed" until
`rim-bench seal` has written one. Measurements of `rim-bench bench` have a `.sha256` file each, a baseline file its
checksum inside.

A manifest finds damage and mistakes. It is no signature: who may write the folder may write the manifest too.
"""


def files_page(records: Sequence[tuple[type, str]]) -> str:
    """The run folder, and a table of the fields of each record.

    Args:
        records: dataclass and the file that it is. Each field's line of documentation stands in
            `field(metadata={"doc": ...})`.

    Raises:
        ValueError: a field without a line of documentation.
    """
    out = [NOTE, FOLDER]
    for cls, place in records:
        out += [f"## {cls.__name__}: {place}\n", *_fields(cls)]
    nested = [c for c in _nested(cls for cls, _ in records) if c not in [cls for cls, _ in records]]
    for cls in nested:
        out += [f"## {cls.__name__}\n", *_fields(cls)]
    return "\n".join(out).rstrip() + "\n"


def _fields(cls: type) -> list[str]:
    """What the class is, and a table of its fields."""
    rows = []
    for field in dataclasses.fields(cls):
        if field.metadata.get("hidden"):
            continue
        if not (doc := str(field.metadata.get("doc", ""))):
            raise ValueError(f"{cls.__name__}.{field.name} has no line of documentation")
        kind = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
        rows.append(f"| `{field.metadata.get('key', field.name)}` | `{_cell(kind)}` | {_cell(doc)} |")
    return [f"{_first_line(cls.__doc__)}\n", "| field | type | |", "|---|---|---|", *rows, ""]


def _nested(classes: Iterable[type]) -> list[type]:
    """The dataclasses that stand in fields of these classes, at any depth, each once, in order."""
    out: dict[type, None] = {}

    def visit(kind: Any) -> None:
        for inner in typing.get_args(kind):
            visit(inner)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind not in out:
            out[kind] = None
            walk(kind)

    def walk(cls: type) -> None:
        for hint in typing.get_type_hints(cls).values():
            visit(hint)

    for cls in classes:
        walk(cls)
    return list(out)


def _records() -> list[tuple[type, str]]:
    names = ("rim_bench.storage", "rim_bench.storage.records", "rim_bench.storage.interventions")
    if any(importlib.util.find_spec(name) is None for name in names):
        return []
    modules = [importlib.import_module(name) for name in names[1:]]
    return [
        (next(vars(module)[name] for module in modules if name in vars(module)), place)
        for name, place in RECORDS.items()
    ]


# The Python reference -------------------------------------------------------------------------------------------------

REFERENCE = {
    "Writing a method": ("Segment", "Layout", "Method", "Stage", "Marker", "Example"),
    "Data": ("load_task", "Task"),
    "Runs": ("plan_study", "run", "train", "evaluate", "sweep"),
    "Interventions": ("intervene", "Intervention"),
    "Stored runs": ("Store", "Run"),
    "Results": ("comparison", "leaderboard", "compare", "check_gate", "Table"),
    "Cost": ("price_list", "layout_flops", "register_shape"),
    "lm-eval": ("RimLM",),
}
"""Heading -> public names. What `rim_bench` hands on beside them stands under a heading of its own."""


def reference_page() -> str:
    """What `import rim_bench` hands on, for Sphinx to fill in from the docstrings."""
    package = importlib.import_module("rim_bench")
    public = [name for name in getattr(package, "__all__", ()) if not name.startswith("_")]
    known = {name for names in REFERENCE.values() for name in names}
    sections = [*REFERENCE.items(), ("More", tuple(name for name in public if name not in known))]
    out = [NOTE, "# Python reference", ""]
    out += [
        "What `import rim_bench` hands on, loaded when it is first asked for; [From Python](../python.md) shows how"
    ]
    out += ["it is used. What is not here is private by convention and may change.", ""]
    for title, names in sections:
        if handed_on := [name for name in names if name in public]:
            out += [
                f"## {title}",
                "",
                "```{eval-rst}",
                *(line for n in handed_on for line in _directive(package, n)),
                "```",
                "",
            ]
    return "\n".join(out).rstrip() + "\n"


def _directive(package: Any, name: str) -> list[str]:
    member = getattr(package, name)
    if inspect.isclass(member):
        return [f".. autoclass:: rim_bench.{name}", "   :members:", ""]
    return [f".. {'autofunction' if callable(member) else 'autodata'}:: rim_bench.{name}", ""]


# Writing and checking -------------------------------------------------------------------------------------------------


def pages() -> dict[Path, str]:
    """Every generated page and its text."""
    return {
        DOCS / "cli.md": command_page(),
        DOCS / "files.md": files_page(_records()),
        DOCS / "reference" / "index.md": reference_page(),
    }


def stale() -> list[str]:
    """Names of the pages that differ from what would be written."""
    found = pages().items()
    return [
        str(path.relative_to(ROOT)) for path, text in found if not path.is_file() or path.read_text("utf-8") != text
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the pages, or with `--check` names those that are stale. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Writes the generated pages of the documentation.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a page is stale")
    if parser.parse_args(arguments).check:
        names = stale()
        for name in names:
            print(f"{name} is stale: run python docs/generate.py")
        return int(bool(names))
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
