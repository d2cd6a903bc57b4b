"""Every command with every option, its values of every type: from the declared options, so that new ones are tried."""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from damage import NUMBERS, arguments
from fuzzing import Campaign, holds
from hypothesis import strategies as st
from typer.models import ArgumentInfo, OptionInfo

from rim_bench.cli import main
from rim_bench.cli.common import as_command

RUNS = sorted(p.name for p in (Path(__file__).parents[1] / "golden" / "small" / "runs").iterdir())
FILES = (
    "own/train.jsonl", "own/sums.yaml", "own/mine.py", "own/study.toml", "own/baseline.toml", "own", "nowhere",
    "model/tiny",
)  # fmt: skip
WRITTEN = ("made/x", "made/x.json", "made/deep/er/x.md", "made", "made/x.svg", "made/x.png", "/dev/full", "/dev/null")
VALUES: dict[str, tuple[str, ...]] = {
    "methods": ("direct", "rim", "rim,direct", "cot", "coconut,pause", "own/mine.py", "dirct", "rim,rim", ","),
    "method": ("direct", "rim", "cot", "own/mine.py", "nope.py", "dirct"),
    "task": ("chain", "json", "own/sums.yaml", "gsm8k", "prosqa", "svamp", "chain,permute", "chian", "nope.yaml"),
    "model": ("tiny", "tiny-gpt2", "tiny-qwen", "gpt2", "llama-3.1-70b", "model/tiny", "model/tiny-gpt2", "a/b"),
    "data": ("own", "nowhere", "own/train.jsonl"),
    "files": ("train=own/train.jsonl", "test=own/test.jsonl", "validation=own/validation.jsonl", "train=own", "a=b"),
    "out": ("used", "small", "nowhere", "own/train.jsonl", "made/out"),
    "steps": ("equations", "prose", "steps"),
    "start": ("recipe", "cot", "middle"),
    "seeds": ("0", "0,1", "0,0", "-1", "a", "99999999999999999999", "4294967296"),
    "budget": ("examples=64", "train-flops=1e9", "train-flops=nan", "examples=1e400", "parsecs=3", "examples"),
    "settings": (
        "rim.K=4",
        "rim.K=0",
        "rim.K=9999999999",
        "rim.KK=1",
        "K=4",
        "rim.M=1e400",
        "direct.x=1",
        "rim.=",
        ".",
    ),
    "set_": ("rim.K=4", "rim.K=0", "rim.K=9999999999", "rim.KK=1", "K=4", "filler.N=3", "pause.N=-1", "rim.schedule=x"),
    "backbone": ("width=64", "layers=0", "heads=3", "width=nan", "lora_rank=16", "dropout=2", "vocabulary=1", "x=1"),
    "tuning": ("full", "lora", "none"),
    "device": ("cpu", "cuda", "cuda:1", "cpu:0", "meta", "mps", "xpu"),
    "checkpoint": ("last", "best", "16-split", "first"),
    "tune": ("lr=1e-5..1e-3", "lr=1..1", "lr=1e-3..1e-5", "lr=nan..1", "lr=0..1", "lr", "wd=1..2", "lr=1e-400..1"),
    "strategy": ("ddp", "fsdp", "x"),
    "suites": ("gsm-ood", "litmus", "nope", "all"),
    "suite": ("gsm-ood", "litmus", "nope"),
    "names": ("chain", "own/sums.yaml", "nope", "permute", "lm-eval:nope"),
    "eval_tasks": ("chain_gate", "own/sums.yaml", "nope", "permute,vote"),
    "executor": ("local", "submitit", "ray", "slurm"),
    "executor_set": ("a=b", "slurm_partition=gpu", "num_cpus=4", "="),
    "format": ("terminal", "markdown", "csv", "latex", "json", "word"),
    "format_": ("terminal", "markdown", "csv", "latex", "json", "word"),
    "split": ("test", "validation", "train"),
    "kind": ("accuracy", "training", "selection", "tuning", "pie"),
    "runs": (*RUNS[:6], *RUNS[12:16], "rim", "", "rim-chain-", "nope", "trained/runs", "."),
    "first": (
        *RUNS[12:16],
        f"{RUNS[13]}@K=2",
        f"{RUNS[13]}@",
        "@",
        f"{RUNS[3]},{RUNS[4]}",
        f"{RUNS[3]},{RUNS[3]}",
        ",",
    ),
    "second": (*RUNS[2:8], f"{RUNS[4]}@votes=3", f"{RUNS[5]}@nope", "a@b@c", ""),
    "baseline": (*RUNS[2:8], ","),
    "knob": ("K=1,2", "K=0", "votes=3", "rim.votes=3", "votes=none", "K=", "=1", "K=a", "K=9999999999", "x.y=1"),
    "what": ("methods", "tasks", "suites", "models", "references", "train", "eval", "targets", "history", "scaling"),
    "name": ("chain", "gsm-ood", "gsm8k", "nope"),
    "file": FILES,
    "against": FILES,
    "include_path": FILES,
    "kv_dtype": ("bfloat16", "float32", "float8", "int3", "float128"),
    "level": ("T=1", "T=4", "nope"),
    "key": ("chain-test-b7533ee346", "nope", "../x", "a/b"),
    "sizes": ("1x16x2", "1x16x3", "0x0x0", "1x16", "axbxc", "1x16x2,1x32x2", "9999999999x1x1"),
    "vary": ("question-length", "K", "thoughts", "batch", "width", "nope"),
    "values": ("1,2", "1,1", "0", "a", "1e9"),
    "only": ("1", "1,4,6", "0", "99", "a"),
    **dict.fromkeys(("to", "json_", "json", "junit", "summary", "output"), WRITTEN),
}
BASE = {
    "run": "--limit 12 --backbone layers=1 --backbone width=32 --device cpu --examples 48 --batch-size 4",
    "train": "--limit 12 --backbone layers=1 --backbone width=32 --device cpu --examples 48 --batch-size 4",
    "bench": "--limit 12 --backbone layers=1 --backbone width=32 --device cpu --batch-size 4 --rounds 1",
    "eval": f"{RUNS[13]} --out used --limit 2 --device cpu",
    "sweep": "--out used --limit 2 --device cpu",
    "study": "own/study.toml --dry-run",
    "show": "--task json --file train=own/train.jsonl",
    "leakage": "--limit 10 --task chain --eval-tasks chain_gate",
    "table": "--out small",
    "report": "--out small -o made/r.html",
    "plot": "--out small --to made/p.svg",
    "leaderboard": "--out small",
    "compare": "--out small",
    "baseline": "--out small -o made/b.toml",
    "check": f"{RUNS[13]} --out small --against own/baseline.toml --margin 2",
    "margin": "--out small",
}
SMALL = ("0", "1", "2", "3", "0.5")
HEAVY = ("--verify", "--plots")  # seconds each


@dataclass(frozen=True)
class Declared:
    """An argument or option of a command."""

    name: str
    flags: tuple[str, ...]  # none: an argument
    kind: str  # its type as text


@cache
def declared(command: str) -> list[Declared]:
    """What a command declares, from its signature."""
    function = as_command(main.COMMANDS[command])
    out = []
    for name, hint in typing.get_type_hints(function, include_extras=True).items():
        notes = getattr(hint, "__metadata__", ())
        for info in (note for note in notes if isinstance(note, OptionInfo | ArgumentInfo)):
            names = tuple(info.param_decls or (f"--{name.replace('_', '-')}",))
            flags = names if isinstance(info, OptionInfo) else ()
            if not set(flags) & set(HEAVY):
                out.append(Declared(name, flags, str(typing.get_args(hint)[0])))
    return out


@cache
def commands() -> list[str]:
    """The commands, each as often as it has options."""
    return [name for name in main.COMMANDS if name != "lm-eval" for _ in declared(name)]


def value(option: Declared) -> st.SearchStrategy[str]:
    """A value of an option: those that it knows, those of its type, those of others, and whatever a shell can give."""
    own = VALUES.get(option.name, ())
    number = re.search("int|float", option.kind)
    others = tuple(v for name in VALUES for v in VALUES[name] if VALUES[name] is not WRITTEN)
    usual = st.sampled_from(own or (SMALL if number else WRITTEN if "Path" in option.kind else others))
    typed = st.sampled_from(NUMBERS if number else own or WRITTEN)
    return st.one_of(usual, usual, usual, typed, st.sampled_from(NUMBERS), st.sampled_from(others), arguments)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    command = draw(st.sampled_from(commands()))
    bare = command not in ("run", "train", "bench") and draw(st.integers(0, 9)) == 0  # those do much without limits
    line = [command, *([] if bare else BASE.get(command, "").split())]
    for option in draw(st.lists(st.sampled_from(declared(command)), max_size=4)):
        if option.flags:
            line.append(draw(st.sampled_from(option.flags)))
        if "bool" not in option.kind:
            line.append(draw(value(option)))
    if command in ("run", "study") and draw(st.booleans()):
        line.append("--dry-run")
    if draw(st.integers(0, 19)) == 0:
        line.insert(draw(st.integers(0, len(line))), draw(arguments))
    return line


def test_command_lines(campaign: Campaign, sandbox: Path) -> None:
    campaign.run("command lines", holds, command_lines(), 0.2)
