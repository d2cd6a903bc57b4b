"""A task's YAML is checked whole when it is read: nothing of it fails at the evaluation, once runs have trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from lm_eval.config.task import FewshotConfig, TaskConfig
from user_task import LOADER, METRICS, SOURCE, USER_TASK, user_task

from rim_bench.data.datasets import evaluation_data, training_data
from rim_bench.data.task import load_task, task_names, tasks_folder
from rim_bench.data.task_file import lm_eval_problems, lm_eval_rules, parse_yaml, with_included
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import plan_study
from rim_bench.util.errors import UsageError

Call = Callable[..., tuple[int, str, str]]

CASES = {
    # what lm-eval reads
    "misspelt key": ("test_split:", "tset_split:", "unknown key 'tset_split'.*did you mean 'test_split'"),
    "key of a filter": ("test_split: test", "test_split: test\nprocess_docs: x", "unknown key 'process_docs'"),
    "task": ("task: mine_sums", "task: [a]", "task must be text, and not blank"),
    "no task": ("task: mine_sums", "", "needs the keys task"),
    "blank task": ("task: mine_sums", "task: ' '", "task must be text, and not blank"),
    "no data set": (LOADER, "", "custom_dataset is missing"),
    "null data set": ("!function rim_bench.tasks.lm.load", "", "custom_dataset is missing"),
    "text for a function": (
        "!function rim_bench.tasks.lm.load",
        "rim_bench.tasks.lm.load",
        "custom_dataset must be `!fun",
    ),
    "other function": (
        "!function rim_bench.tasks.lm.load",
        "!function os.system",
        "custom_dataset must be `!function rim",
    ),
    "other scorer": ("rim_bench.tasks.lm.score", "rim_bench.tasks.lm.choose", "process_results must be `!function rim"),
    "function elsewhere": (
        'doc_to_text: "{{question}}"',
        "doc_to_text: !function a.b",
        "doc_to_text must be text, as in",
    ),
    "no test split": ("test_split: test", "", "test_split is missing"),
    "split": ("test_split: test", "test_split: tests", "unknown test_split 'tests': allowed are test; did you mean"),
    "split list": ("test_split: test", "test_split: [test]", "unknown test_split"),
    "training split": ("test_split: test", "test_split: test\ntraining_split: test", "unknown training_split 'test'"),
    "output": ("generate_until", "generate", "unknown output_type 'generate'.*did you mean 'generate_until'"),
    "column": ("{{question}}", "{{questoin}}", "unknown column in doc_to_text 'questoin'.*did you mean 'question'"),
    "template": ("{{question}}", "{{question", "doc_to_text is no template that can be filled"),
    "template filter": ("{{question}}", "{{question|nope}}", "doc_to_text is no template that can be filled"),
    "template fails": ("{{question}}", "{{question / 0}}", "doc_to_text is no template that can be filled .TypeError"),
    "template's pattern": (
        "{{question}}",
        "{{question|regex_replace('(', 'x')}}",
        "doc_to_text is no template that can be filled",
    ),
    "template in itself": (
        "{{question}}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "doc_to_text is no template that can be filled .RecursionError",
    ),
    "template too long": (
        "{{question}}",
        "{{question * 10**18}}",
        "doc_to_text is no template that can be filled .(MemoryError|OverflowError)",
    ),
    "sandbox": ("{{question}}", "{{question.__class__.__mro__}}", "doc_to_text is no template .*Security"),
    "no question": ('"{{question}}"', "hello", "doc_to_text must show {{question}}"),
    "metric": (
        "metric: accuracy",
        "metric: acuracy",
        "unknown metric_list, entry 1,.metric 'acuracy'.*mean 'accuracy'",
    ),
    "metrics": (METRICS, "metric_list: accuracy", "metric_list must be a list, and not empty"),
    "empty metrics": (METRICS, "metric_list: []", "metric_list must be a list, and not empty"),
    "no accuracy": ("metric: accuracy", "metric: empty", "metric_list must have the metric accuracy"),
    "aggregation": ("aggregation: mean", "aggregation: median", "unknown metric_list, entry 1,.aggregation 'median'"),
    "truth": ("higher_is_better: true", "higher_is_better: maybe", "higher_is_better must be true or false"),
    "sampling": (METRICS, METRICS + "\ngeneration_kwargs: {do_sample: true}", "unknown generation_kwargs.do_sample"),
    "until": (METRICS, METRICS + "\ngeneration_kwargs: {until: 7}", "generation_kwargs.until must be text"),
    "cap": (METRICS, METRICS + "\ngeneration_kwargs: {max_gen_toks: 0}", "max_gen_toks must be a whole number"),
    "generation": (METRICS, METRICS + "\ngeneration_kwargs: {untill: x}", "did you mean 'until'"),
    "filter": (
        METRICS,
        METRICS + "\nfilter_list: [{name: x, filter: [{function: nope}]}]",
        "function 'nope': allowed are",
    ),
    "filter list": (METRICS, METRICS + "\nfilter_list: x", "filter_list must be a list"),
    "include": (METRICS, METRICS + "\ninclude: nowhere.base", "include names 'nowhere.base', and there is no file"),
    "include itself": (METRICS, METRICS + "\ninclude: sums.yaml", "includes itself"),
    "metadata": ("metadata:\n  version", "metadata: x\nx:\n  version", "needs the keys task"),
    # what rim-bench reads
    "version": ("version: 3", "version: true", "metadata.version must be a whole number"),
    "blank summary": ("summary: sums of two parts", "summary: ''", "summary must be text, and not blank"),
    "generator": (
        SOURCE,
        "    source: generator\n    generator: os\n    levels: {}\n    sizes: {}\n",
        "has no function generate",
    ),
    "no generator": (
        SOURCE,
        SOURCE + "    generator: none_such\n    levels: {}\n    sizes: {}\n",
        "cannot be imported: Module",
    ),
    "blank reader": (SOURCE, SOURCE + "    reader: ''\n", "reader must be text, and not blank"),
    "reader": (SOURCE, SOURCE + "    reader: os\n", "its reader 'os' has no function parse or complete"),
    "relative reader": (SOURCE, SOURCE + "    reader: .x\n", "its reader '.x' cannot be imported: TypeError"),
    "reader list": (SOURCE, SOURCE + "    reader: [os]\n", "reader must be text"),
    "files": ("train: my_train.jsonl", "train: 5", "files.train must be text"),
    "no files": ("train: my_train.jsonl", "train: []", "files.train must be a list, and not empty"),
    "files list": (
        "files: {train: my_train.jsonl, test: [missing.jsonl, my_test.jsonl]}",
        "files: [a]",
        "files is list",
    ),
    "key that is no text": (SOURCE, SOURCE + "    5: x\n", "unknown key '5'"),
    "test_of": (SOURCE, SOURCE + "    test_of: ./evil.yaml\n", "unknown test_of './evil.yaml'"),
    "tolerance": (SOURCE, SOURCE + "    tolerance: .nan\n", "tolerance must be a number of at least 0"),
    "validation": (SOURCE, SOURCE + "    validation: 0\n", "validation must be a whole number of at least 1"),
    "ood": (SOURCE, SOURCE + "    ood: deep\n", "ood must be a list"),
    "levels": (SOURCE, SOURCE + "    levels: {test: x}\n", "levels.test must be a list"),
    "choice": (SOURCE, SOURCE + "    form: choice\n", "form choice needs a generator or a reader"),
    "form": (SOURCE, SOURCE + "    form: [choice]\n", "unknown form"),
    "recipe": (
        SOURCE,
        SOURCE + "    recipe: {lr: {scratch: {default: fast}}}\n",
        "recipe.lr.scratch.default must be a number",
    ),
    "recipe key": (SOURCE, SOURCE + "    recipe: {exmaples: 5}\n", "did you mean 'examples'"),
    "recipe batch": (
        SOURCE,
        SOURCE + "    recipe: {batch_size: {scratch: 4}}\n",
        "recipe.batch_size.pretrained is missing",
    ),
    "recipe start": (SOURCE, SOURCE + "    recipe: {start: cold}\n", "unknown recipe.start 'cold'"),
    # what YAML reads
    "date": (SOURCE, SOURCE + "    note: 2024-13-45\n", "not YAML that can be read"),
    "tag": (SOURCE, SOURCE + "    note: !!python/object/apply:os.mkdir [PWNED]\n", "not YAML"),
    "loop": (SOURCE, SOURCE + "    note: &a [*a]\n", "something stands inside itself"),
    "deep": (SOURCE, SOURCE + "    note: " + "[" * 3000 + "]" * 3000 + "\n", "not YAML|note must be text"),
}


@pytest.mark.parametrize(("old", "new", "message"), CASES.values(), ids=CASES)
def test_a_fault_is_said_when_it_is_read(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = user_task(tmp_path)
    assert old in USER_TASK
    path.write_text(USER_TASK.replace(old, new, 1))
    with pytest.raises(UsageError, match=message) as caught:
        load_task(str(path))
    assert "\n" not in str(caught.value) and "sums" in str(caught.value)
    assert not (tmp_path / "PWNED").exists()


def test_an_incomplete_file_is_shown_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("task: mine\n")
    with pytest.raises(UsageError) as caught:
        load_task(str(path))
    assert str(caught.value).endswith(f"see {str(tasks_folder() / 'gsm8k.yaml')!r}")


def test_nothing_trains_with_a_task_that_cannot_be_evaluated(tmp_path: Path, call: Call) -> None:
    path = user_task(tmp_path)
    path.write_text(USER_TASK.replace(LOADER, "tset_split: test"))
    for command in ("run", "train"):
        code, _, err = call(
            command, "-m", "direct", "--task", path, "--model", "tiny", "--out", tmp_path / "out", "--device", "cpu"
        )
        assert code == 2 and "did you mean 'test_split'" in err and "custom_dataset is missing" in err
    assert not (tmp_path / "out").exists()


def test_shipped_tasks_pass_and_all_keys_are_lm_evals() -> None:
    for name in task_names():
        task = load_task(name)
        config, problems = with_included(
            parse_yaml(task.path.read_bytes(), task.path), task.path, tasks_folder() / "lm.py"
        )
        assert (problems, lm_eval_problems(config, task.form)) == ([], []), name
    known = {f.name for f in dataclasses.fields(TaskConfig)}
    assert set(lm_eval_rules("generate")) | set(lm_eval_rules("choice")) <= known
    assert {"doc_to_text", "doc_to_target", "sampler", "split", "gen_prefix"} <= {
        f.name for f in dataclasses.fields(FewshotConfig)
    }


def test_a_recipe_names_methods_that_exist(tmp_path: Path) -> None:
    path, recipe = user_task(tmp_path), "{backbone: tiny, examples: 64, methods: {rmi: {K: 4}}}"
    path.write_text(USER_TASK.replace(SOURCE, f"{SOURCE}    recipe: {recipe}\n"))
    options = Options(methods=("direct",), task=str(path), device="cpu", out=tmp_path / "out")
    with pytest.raises(UsageError, match=r"unknown method in the recipe of task sums 'rmi'.*did you mean 'rim'"):
        plan_study(options)
    path.write_text(USER_TASK)
    with pytest.raises(UsageError, match="the recipe of task sums has no examples: give --examples N"):
        plan_study(dataclasses.replace(options, model="tiny"))


def test_a_module_beside_the_yaml_does_not_stand_in_for_ours(tmp_path: Path) -> None:
    path = user_task(tmp_path)
    (tmp_path / "rim_bench" / "tasks").mkdir(parents=True)
    (tmp_path / "rim_bench" / "tasks" / "lm.py").write_text("raise SystemExit('PWNED')\n")
    with pytest.raises(UsageError, match=r"lm-eval would take '.*rim_bench/tasks/lm\.py' for rim_bench\.tasks\.lm"):
        load_task(str(path))


MODULES = {
    "raises at import": ("raise OSError('no')", "its generator 'GENERATOR' cannot be imported: OSError: no"),
    "exits": ("import sys; sys.exit(0)", "cannot be imported: SystemExit: 0"),
    "raises": ("def generate(*a): return 1 / 0", "generator of train examples: ZeroDivisionError: division by zero"),
    "nothing": ("def generate(*a): pass", "generator of train examples: TypeError"),
    "no examples": ("def generate(n, *a): return ['x'] * n", "'x' is no Example"),
    "too few": ("def generate(*a): return []", "0 examples were made, and 8 were asked for"),
    "signature": ("def generate(): return []", "generator of train examples: TypeError: generate.. takes 0 positional"),
    "types": (
        "from rim_bench.methods.method import Example\ndef generate(n, *a): return [Example('1', 5, (), '1')] * n",
        "has parts that are no text",
    ),
}


@pytest.mark.parametrize(("text", "message"), MODULES.values(), ids=MODULES)
def test_a_generator_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    name = f"own_generator_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = user_task(tmp_path)
    more = f"    source: generator\n    generator: {name}\n    levels: {{train: [a]}}\n    sizes: {{train: 8}}\n"
    path.write_text(USER_TASK.replace(SOURCE, more))
    with pytest.raises(UsageError, match=message.replace("GENERATOR", name)):
        training_data(load_task(str(path)))


def test_a_reader_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    path = user_task(tmp_path)
    for n, (text, message) in enumerate(
        (
            ("def parse(text): return [1]", r"my_test\.jsonl, TypeError: cannot unpack"),
            ("def parse(text): raise ValueError('line 3: no')", r"my_test\.jsonl, line 3: no"),
            ("def complete(example): pass", r"my_test\.jsonl, line 1: None is no Example"),
            ("def complete(example): example.x", r"my_test\.jsonl, line 1: AttributeError"),
        )
    ):
        (tmp_path / f"own_reader_{n}.py").write_text(text)
        path.write_text(USER_TASK.replace(SOURCE, f"{SOURCE}    reader: own_reader_{n}\n"))
        with pytest.raises(UsageError, match=message):
            evaluation_data(load_task(str(path)))
