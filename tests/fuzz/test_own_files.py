"""Files that a user writes: task YAMLs, study files, methods."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import yaml
from damage import byte_op, damaged_bytes, damaged_json, json_op
from fuzzing import Campaign, holds
from hypothesis import strategies as st

from rim_bench.data.task import tasks_folder

TINY = "--limit 12 --device cpu --backbone layers=1 --backbone width=32 --examples 48 --batch-size 4"
TASK_COMMANDS = (
    f"run --methods direct,rim {TINY} --dry-run --task made/t.yaml",
    f"run --methods direct {TINY} --task made/t.yaml --out made/out",
    "show rim --task made/t.yaml",
    "eval {run} --out used --limit 2 --device cpu --task made/t.yaml",
    "eval {run} --out used --limit 2 --device cpu --eval-tasks made/t.yaml --strict-sets",
    "leakage --task own/sums.yaml --eval-tasks made/t.yaml",
)
TASK_KEYS = (
    "title", "licence", "note", "prediction", "size", "source", "files", "folder", "hub", "fields", "ids", "subset",
    "registered", "generated", "test_of", "generator", "levels", "sizes", "ood", "reader", "form", "tolerance",
    "relative_tolerance", "recipe", "kind", "tokenizer", "validation", "methods", "output_type", "test_split",
)  # fmt: skip
TASK_VALUES = (
    "os", "rim_bench.tasks.chain", "rim_bench.tasks.nope", "", "choice", "generator", "annotated", "svamp", "../x",
)  # fmt: skip


def lm_eval_yaml(text: str) -> Any:
    """A task's YAML as plain data; `!function` stays a text that is written as one again."""
    return yaml.safe_load(re.sub(r"!function (\S+)", r'"!function \1"', text))


def as_yaml(text: bytes) -> bytes:
    """JSON, which is YAML, with the functions as tags again."""
    return re.sub(rb'"!function ([^"]+)"', rb"!function \1", text)


def test_task_files(campaign: Campaign, sandbox: Path) -> None:
    run = sorted(path.name for path in Path("used/runs").iterdir())[0]
    own = lm_eval_yaml(Path("own/sums.yaml").read_text())
    own["metadata"]["rim_bench"]["files"] = {"train": "../own/my_train.jsonl", "test": "../own/my_test.jsonl"}
    chain = lm_eval_yaml((tasks_folder() / "chain.yaml").read_text())
    chain["metadata"]["rim_bench"]["sizes"] = {"train": 20, "validation": 4, "test": 4}
    chain["metadata"]["rim_bench"].pop("generated", None)
    bases = (own, chain)

    def check(case: tuple[Any, ...]) -> None:
        base, ops, added, command = case
        value = json.loads(json.dumps(bases[base]))
        for key, text in added:
            value["metadata"]["rim_bench"][key] = text
        if ops and ops[0] == "bytes":
            data = damaged_bytes(as_yaml(json.dumps(value, indent=1).encode()), ops[1:])
        else:
            data = as_yaml(damaged_json(value, ops[1:]))
        Path("made/t.yaml").write_bytes(data)
        holds(TASK_COMMANDS[command].format(run=run).split())

    added = st.lists(
        st.tuples(
            st.sampled_from(TASK_KEYS),
            st.one_of(
                st.sampled_from(TASK_VALUES),
                st.integers(-1, 3),
                st.sampled_from([[], {}, ["a"], {"a": 1}, None, 1e300]),
            ),
        ),
        max_size=1,
    )
    ops = st.one_of(
        st.lists(json_op, max_size=2).map(lambda some: ("json", *some)),
        st.lists(json_op, max_size=2).map(lambda some: ("json", *some)),
        st.lists(byte_op, min_size=1, max_size=2).map(lambda some: ("bytes", *some)),
    )
    cases = st.tuples(st.integers(0, 1), ops, added, st.integers(0, len(TASK_COMMANDS) - 1))
    campaign.run("task files", check, cases, 0.08)


def toml(value: Any) -> str:
    """A value as TOML; what TOML cannot say stays as JSON says it, which is a fault like others."""
    if isinstance(value, dict):
        tables = {k: v for k, v in value.items() if isinstance(v, dict)}
        lines = [f"{json.dumps(k)} = {json.dumps(v)}" for k, v in value.items() if k not in tables]
        for name, table in tables.items():
            lines += [f"[{json.dumps(name)}]", *(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in table.items())]
        return "\n".join(lines) + "\n"
    return json.dumps(value)


def test_study_files(campaign: Campaign, sandbox: Path) -> None:
    base = tomllib.loads(Path("own/study.toml").read_text())

    def check(case: tuple[Any, ...]) -> None:
        ops, added, dry = case
        value = base | dict(added)
        if ops and ops[0] == "bytes":
            data = damaged_bytes(toml(value).encode(), ops[1:])
        else:
            text = damaged_json(value, ops[1:])
            try:
                data = toml(json.loads(text)).encode("utf-8", "surrogatepass")
            except (ValueError, RecursionError):
                data = text
        Path("made/study.toml").write_bytes(data)
        holds(["study", "made/study.toml", "--device", "cpu", *(["--dry-run", "-f", "json"] if dry else [])])

    known = {
        "model": ("tiny", "model/tiny", "nope"), "steps": ("prose", "x"), "tuning": ("lora", "full"),
        "lr": (0.0, -1, 1e-3, 1e300), "quick": (True,), "checkpoint": ("best", "16-split", "x"),
        "checkpoint_points": (0, 2, 10**9), "tune": ("lr=1e-4..1e-2", "x"), "trials": (0, 2, 10**9),
        "tune_share": (0.0, 0.5, 2.0, -1.0), "suite": (["litmus"], ["nope"], []),
        "eval_tasks": (["permute"], ["nope"]), "seeds": ([10**20], [-1], [0, 0], [2**63]), "limit": (0, -1),
        "cot_examples": (0, 4), "max_tokens": (0, 10**10), "eval_batch_size": (0, 10**12), "seed": (1,),
        "budgets": (["examples=1e400"], ["train-flops=1"], []),
    }  # fmt: skip
    added = st.lists(
        st.sampled_from(sorted(known)).flatmap(lambda key: st.tuples(st.just(key), st.sampled_from(known[key]))),
        max_size=2,
    )
    ops = st.one_of(
        st.lists(json_op, max_size=2).map(lambda some: ("json", *some)),
        st.lists(byte_op, min_size=1, max_size=2).map(lambda some: ("bytes", *some)),
    )
    campaign.run("study files", check, st.tuples(ops, added, st.booleans()), 0.08)


# Methods: a sound one with a fault in one place

FAULTS = {
    "statement": (
        "raise ValueError('no\\nsecond line')", "raise KeyError(3)", "raise Exception", "raise SystemExit(3)",
        "import sys; sys.exit('bye')", "assert False", "1 / 0", "import nowhere_at_all",
        "def f(): return f()\n{}f()", "raise StopIteration", "raise UnicodeDecodeError('utf-8', b'x', 0, 1, 'x')",
        "raise MemoryError", "raise OSError(28, 'No space', 'x')", "raise BaseException", "import os; os.chdir('/')",
        "print('printed')", "open('nowhere')", "[][3]", "None.x", "quit()", "raise GeneratorExit",
    ),
    "value": (
        "None", "3", "'text'", "()", "[]", "{}", "object", "print", "float('nan')", "-1", "10**30", "True", "b''",
        "('a', 'b')", "Layout(())", "Layout((Segment('question', None, (1, 2)),))",
        "Layout((Segment('q', 'nobody', (1,)),), resume=('q',))",
        "Layout((Segment('question', None, ()),), resume=('question',))", "Segment('a', None, (1,))",
        "(Stage('a'), Stage('a'))", "(Stage('a', share=-1.0),)", "(Stage('a', share=float('nan')),)",
        "(Stage('a', lr_scale=0.0),)", "(Marker('m'), Marker('m'))", "(Marker(''),)",
        "(Marker('m', like='zzz zzz'),)", "('x',)", "'../../../escape'", "'a b'", "'direct'", "'x' * 300",
        "(x for x in ())",
        "Layout((Segment('question', None, question[:0] if 'question' in dir() else ()),), resume=('x',))",
        "NotImplemented", "...", "Layout((Segment('question', None, (10**9,)),), resume=('question',))",
        "Layout((Segment('question', None, ('a',)),), resume=('question',))",
    ),
}  # fmt: skip
PLACES = {  # where a fault stands: a template with the sound method around it
    "import": "{statement}\n{sound}",
    "after": "{sound}\n{statement}",
    "body": "{head}\n    {statement}\n{body}",
    "name": "{head}\n    name = {value}\n{body}",
    "summary": "{head}\n    summary = {value}\n{body}",
    "effort_field": "{sound}\n    effort_field = {value}",
    "writes_steps": "{sound}\n    writes_steps = {value}",
    "trains": "{sound}\n    trains = {value}",
    "adapter_of": "{sound}\n    adapter_of = {value}",
    "field": "{sound}\n    F: int = {value}",
    "field type": "{sound}\n    F: 'nowhere' = {value}",
    "no default": "{sound}\n    F: int",
    **{
        f"{hook} {kind}": f"{{sound}}\n\n    def {hook}:\n        {{{kind}}}"
        for hook in (
            "transform(self, examples, seed)",
            "markers(self)",
            "stages(self)",
            "lay_prompt(self, question, effort=None)",
            "lay_train(self, example, stage, progress, rng)",
            "lay_probe(self, question, effort=None)",
            "lay_split(self, question, effort=None)",
            "bridges(self, width)",
            "auxiliary(self, width)",
            "settings(self)",
            "__post_init__(self)",
            "lay_prompt(self)",
            "lay_train(self, example)",
            "stages(self, more)",
            "markers()",
        )
        for kind in ("statement", "returned")
    },
    "other bases": "class A:\n    name = 'a'\n",
    "two": "{sound}\n\n@dataclass(frozen=True)\nclass B(Filler):\n    name = 'b'\n",
    "not frozen": "{loose}",
}
METHOD_COMMANDS = (
    "show made/m.py --task json --file train=own/train.jsonl",
    "cost --methods made/m.py --model tiny",
    f"run --methods made/m.py {TINY} --task own/sums.yaml --dry-run",
    f"run --methods direct,made/m.py {TINY} --task own/sums.yaml --out made/out",
    f"train --methods made/m.py {TINY} --task own/sums.yaml --out made/out --tuning full --checkpoint best",
)


def test_own_methods(campaign: Campaign, sandbox: Path) -> None:
    sound = "from rim_bench.methods.method import Marker, Stage\n" + Path("own/mine.py").read_text()
    head, _, body = sound.partition("class Filler(Method):\n")
    head += "class Filler(Method):"
    loose = sound.replace("@dataclass(frozen=True)", "@dataclass")

    def check(case: tuple[Any, ...]) -> None:
        where, statement, value, ops, command = case
        returned = f"return {value}"
        text = PLACES[where]
        parts = {
            "sound": sound,
            "head": head,
            "body": body,
            "loose": loose,
            "statement": statement,
            "value": value,
            "returned": returned,
        }
        for name, part in parts.items():
            text = text.replace("{" + name + "}", part)
        data = text.replace("{}", "        ").encode()
        Path("made/m.py").write_bytes(damaged_bytes(data, ops) if ops else data)
        here = Path.cwd()
        try:
            holds(METHOD_COMMANDS[command].split())
        finally:
            os.chdir(here)

    cases = st.tuples(
        st.sampled_from(sorted(PLACES)),
        st.sampled_from(FAULTS["statement"]),
        st.sampled_from(FAULTS["value"]),
        st.one_of(st.none(), st.none(), st.none(), st.lists(byte_op, min_size=1, max_size=1)),
        st.integers(0, len(METHOD_COMMANDS) - 1),
    )
    campaign.run("own methods", check, cases, 0.08)
