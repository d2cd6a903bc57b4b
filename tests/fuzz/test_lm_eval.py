"""lm-eval's own command line with trained runs: arguments of the model and of lm-eval in every form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from damage import NUMBERS, arguments
from fuzzing import Campaign, holds
from hypothesis import strategies as st

OPTIONS = (
    "results", "effort", "max_gen_toks", "probe", "votes", "temperature", "sample_seed", "split_passes",
    "batch_size", "max_batch_size", "device", "trained", "on_batch", "execution", "trust_remote_code", "path",
    "efort", "dtype", "pretrained",
)  # fmt: skip
VALUES = (
    "used", "nowhere", "3", "0", "-1", "auto", "auto:4", "cpu", "cuda", "True", "False", "None", "a", "", "[1]", "{}",
    "1.5", "nan",
)  # fmt: skip
FLAGS: dict[str, tuple[str, ...]] = {
    "--tasks": ("mine_sums", "rimbench_chain", "nope", "", "gsm8k", "mine_sums", ","),
    "--gen_kwargs": (
        "until=7",
        "do_sample=true",
        "temperature=1",
        "max_gen_toks=2",
        "max_new_tokens=0",
        "num_beams=2",
        "until=",
        "=",
        "x",
    ),
    "--num_fewshot": ("0", "1", "-1", "99", "a"),
    "--batch_size": ("1", "auto", "0", "-1", "a", "auto:2"),
    "--limit": ("1", "2", "0", "-1", "0.5", "nan", "a"),
    "--device": ("cpu", "cuda:0", "cuda:7", "meta", "x"),
    "--seed": ("1", "a", "1,2,3,4", "None", "99999999999999999999"),
    "--output_path": ("made/o", "made/o.json", "own/train.jsonl"),
    "--metadata": ('{"a": 1}', "{", "[]", "a=b"),
    "--include_path": ("own", "nowhere"),
    "--use_cache": ("made/c",),
    "--system_instruction": ("Be brief.",),
    "--verbosity": ("DEBUG", "x"),
    "--apply_chat_template": (),
    "--log_samples": (),
    "--predict_only": (),
    "--write_out": (),
    "--check_integrity": (),
    "--nope": ("1",),
}


@st.composite
def command_lines(draw: st.DrawFn, runs: tuple[str, ...]) -> list[str]:
    value = st.one_of(st.sampled_from(VALUES), st.sampled_from(VALUES), st.sampled_from(NUMBERS), arguments)
    given = [f"path={draw(st.sampled_from([*runs, *runs, *runs, 'nope', '', 'small/runs/x']))}", "results=used"]
    given += [f"{name}={draw(value)}" for name in draw(st.lists(st.sampled_from(OPTIONS), max_size=2))]
    line = [
        "lm-eval",
        *draw(st.sampled_from([["run"], ["run"], ["run"], ["run"], ["ls", "tasks"], ["validate"], [], ["x"]])),
    ]
    line += ["--model", draw(st.sampled_from(["rim-bench"] * 8 + ["nope"])), "--model_args", ",".join(given)]
    line += ["--tasks", "mine_sums", "--include_path", "own", "--limit", "2"]
    for flag in draw(st.lists(st.sampled_from(sorted(FLAGS)), max_size=3)):
        line.append(flag)
        if FLAGS[flag]:
            line.append(draw(st.one_of(*[st.sampled_from(FLAGS[flag])] * 3, arguments)))
    return line


def test_lm_eval_arguments(campaign: Campaign, sandbox: Path) -> None:
    runs = tuple(sorted(path.name for path in Path("used/runs").iterdir()))

    def check(line: list[str]) -> Any:
        holds(line)

    campaign.run("lm-eval", check, command_lines(runs), 0.06)
