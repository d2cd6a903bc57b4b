"""The flags of every command: a new one is a decision, made here."""

from __future__ import annotations

import inspect

import pytest

from rim_bench.cli import main
from rim_bench.evaluate.options import EvaluationSets, StoredRunOptions
from rim_bench.runs.options import ExecutionOptions, Options

OWN = "--method-file --task-file --trust"
DATA = "--data --file --steps --limit"
TRAINING = f"--methods -m --task -t --model {DATA} --out -o --start --seeds --seed --examples --budget --cot-examples"
TRAINING += " --batch-size --lr --set --backbone --tuning --dtype --device --quick --allow-changed-data --checkpoint"
TRAINING += " --checkpoint-points --tune --trials --tune-share --tune-seeds --track --strategy --processes"
SETS = "--suite --eval-tasks --include-path --strict-sets"
GRID = "--executor --workers --executor-set --dry-run --flops-per-second --format -f"
FLAGS = {
    "run": f"{TRAINING} --max-tokens --eval-batch-size --controls {SETS} {GRID}",
    "train": TRAINING,
    "eval": f"--task -t {DATA} --out -o --split --effort --max-tokens --votes --temperature --sample-seed"
    f" --split-passes --repeat --eval-batch-size --device --quick --allow-changed-data {SETS} {OWN}",
    "ask": f"--file --show-blocks --effort --max-tokens --votes --temperature --sample-seed --eval-batch-size --data"
    f" --out -o --device {OWN}",
    "export": f"--adapter --effort --max-tokens --out -o {OWN}",
    "table": "--out -o --split --format -f --write --references",
    "report": "--output -o --out --split --title --data --all-texts",
    "seal": "--out -o --again",
    "plot": "--out -o --kind -k --to --split",
    "show": "--task -t --data --file --steps --row --effort --set",
    "lm-eval": "",
    "cost": "--method --methods -m --model --question-tokens --chain-tokens --answer-tokens --chain-steps --set"
    " --kv-dtype --lora-rank --format -f --json --verify",
    "sweep": f"--out -o --task -t {DATA} --split --knob --max-tokens --temperature --sample-seed --eval-batch-size"
    f" --device {OWN}",
    "leaderboard": "--out -o --split --format -f --write --plots",
    "study": f"--data --device --strategy --processes {GRID} {OWN}",
    "baseline": "--output -o --out --split --task -t --key --margin --repeat --note",
    "check": "--against --margin --out -o --task -t --data --file --steps --min-n --level --across --stored --key "
    "--repeat --eval-batch-size --device --json --junit --summary --method-file --task-file --trust",
    "margin": "--out -o --rate --split --task -t --json --output",
    "power": "--n --discordance --difference --power --alpha --margin --json",
    "compare": "--baseline --margin --out -o --split --task -t --format -f",
    "decide": "--flops --latency-ms --memory --min-accuracy --out -o --split --format -f",
    "intervene": f"--task -t {DATA} --split --effort --max-tokens --eval-batch-size --device --out -o --verdict-only"
    f" --donor-seed --delta --delta-changed --format -f --quick --allow-changed-data {OWN}",
    "list": "--long -l --out -o --format -f",
    "models": "--from",
    "leakage": "--task -t --suite --eval-tasks --data --steps --limit --split --ngram --allow-changed-data --worst"
    " --text --format -f --to",
    "floors": "--trained-on --data --file --steps --limit --split --allow-changed-data --format -f",
    "bench": "--methods -m --task -t --model --sizes --against --data --limit --batch-size --tokens --set --backbone"
    " --device --threads --rounds --vary --values --only --json --record --out -o",
}


def test_every_command_has_these_flags() -> None:
    from typer.main import get_command

    commands = get_command(main.application()).commands  # type: ignore[attr-defined]
    assert list(commands) == list(FLAGS)
    for name, command in commands.items():
        flags = [flag for p in command.params if p.param_type_name == "option" for flag in p.opts]
        assert sorted(flags) == sorted(FLAGS[name].split()), name
        assert not any(p.secondary_opts for p in command.params)


def test_the_help_of_a_command_with_many_flags_has_a_panel_a_subject_and_ten_flags_first() -> None:
    from typer.main import get_command

    commands = get_command(main.application()).commands  # type: ignore[attr-defined]
    panels: dict[str | None, list[str]] = {}
    for p in commands["run"].params:
        panels.setdefault(getattr(p, "rich_help_panel", None), []).append(p.name)
    assert len(panels) > 6 and max(map(len, panels.values())) <= 15
    assert {"methods", "task", "model", "data", "out", "seeds", "examples", "budget", "settings", "quick"} <= {
        *panels[None]
    }
    assert panels["Model"] == ["backbone", "tuning", "dtype"] and "tune_seeds" in panels["Training"]
    assert {getattr(p, "rich_help_panel", None) for p in commands["sweep"].params} == {None}


def test_the_shell_is_told_what_may_come_next(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, at, offered in (("rim-bench le", "1", {"leaderboard", "leakage"}), ("rim-bench run --che", "2", None)):
        monkeypatch.setenv("_RIM_BENCH_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", at)
        monkeypatch.setattr("sys.argv", ["rim-bench"])
        with pytest.raises(SystemExit):
            main.main()
        out = set(capsys.readouterr().out.split())
        assert out == offered if offered else {"--checkpoint", "--checkpoint-points"} <= out


@pytest.mark.parametrize(
    ("command", "kinds"),
    [
        ("run", {Options, EvaluationSets, ExecutionOptions}),
        ("train", {Options}),
        ("eval", {StoredRunOptions, EvaluationSets}),
        ("ask", {StoredRunOptions}),
        ("export", {StoredRunOptions}),
        ("sweep", {StoredRunOptions}),
    ],
)
def test_commands_take_the_options_as_dataclasses(command: str, kinds: set[type]) -> None:
    hints = inspect.get_annotations(inspect.unwrap(main.COMMANDS[command]), eval_str=True)
    assert len(hints) - 1 <= 8 and kinds <= set(hints.values())


def test_the_version_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["rim-bench", "--version"])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == 0 and capsys.readouterr().out == "rim-bench 0.1.0\n"
