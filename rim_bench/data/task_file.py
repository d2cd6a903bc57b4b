"""A task's YAML: read as data with what it includes, and checked whole, so that no part fails once runs have trained.

It is a task of lm-eval's whose rows and scores are rim-bench's: keys that would change either are not among those that
it may have.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from rim_bench.data.rows import FIELDS
from rim_bench.util.errors import UsageError, unknown
from rim_bench.util.own_files import read_own

SPLITS: Final = ("train", "validation", "test")
ORIGINS: Final = ("scratch", "pretrained")  # kinds of backbones, for which a recipe may have numbers of their own
METRICS: Final = {  # of each form, those that `rim_bench.tasks.lm` gives
    "generate": ("accuracy", "flexible", "strict_match", "flexible_extract", "unparseable", "empty"),
    "choice": ("accuracy", "accuracy_norm", "margin"),
}
COLUMNS: Final = {  # of a document, with a value that a template may show
    **dict.fromkeys(("id", "question", "answer", "level", "steps", "solution", "kind"), "1"),
    **{"tolerance": 0.0, "form": "choice", "choices": ["1", "2"], "gold": 0},
}
_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, ten times as fast, where it was built


class Function(str):
    """What a `!function` tag names; nothing is imported."""


class _Loader(_Safe):  # type: ignore[misc]
    """YAML with lm-eval's `!function` tags as names."""


_Loader.add_constructor("!function", lambda loader, node: Function(node.value))


# Reading


def parse_yaml(source: bytes, path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        UsageError: no UTF-8, no YAML (with the line), or something else.
    """
    try:
        loader = _Loader(source.decode("utf-8"))
        node = loader.get_single_node()
        _refuse_repeated(node)
        config = None if node is None else loader.construct_document(node)
    except UnicodeDecodeError as error:
        raise UsageError(f"task file {str(path)!r} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UsageError(
            f"task file {path}{line}: not YAML ({getattr(error, 'problem', None) or 'malformed'})"
        ) from None
    except (ValueError, TypeError, RecursionError) as error:  # a date that is none, a key that is a list, deep nesting
        raise UsageError(f"task file {path}: not YAML that can be read ({error})") from None
    if not isinstance(config, dict):
        raise UsageError(f"task file {str(path)!r} must hold one mapping")
    return config


def _refuse_repeated(node: Any) -> None:
    """Raises yaml.MarkedYAMLError where a mapping has a key twice: YAML forbids it, and the reader keeps the last.

    So it does where something stands inside itself.
    """
    waiting: list[tuple[Any, frozenset[int]]] = [(node, frozenset())]
    visited = set()
    while waiting:
        node, above = waiting.pop()
        if id(node) in above:
            raise yaml.MarkedYAMLError(problem="something stands inside itself", problem_mark=node.start_mark)
        if id(node) in visited or not isinstance(node, yaml.CollectionNode):
            continue
        visited.add(id(node))
        inside = above | {id(node)}
        if isinstance(node, yaml.SequenceNode):
            waiting += [(value, inside) for value in node.value]
            continue
        keys = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys and key.value != "<<":
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            keys.add(key.value if isinstance(key, yaml.ScalarNode) else None)
            waiting += [(key, inside), (value, inside)]


def with_included(config: dict[str, Any], path: Path, functions: Path) -> tuple[dict[str, Any], list[str]]:
    """The mapping with what its `include` names, as lm-eval merges it (the file's own keys win), and what is wrong.

    Args:
        functions: the module that `!function rim_bench.tasks.lm` is to mean.
    """
    merged: dict[str, Any] = {}
    problems: list[str] = []
    _merge(config, path, functions, merged, problems, ())
    return merged, problems


def _merge(
    config: dict[str, Any],
    path: Path,
    functions: Path,
    merged: dict[str, Any],
    problems: list[str],
    above: tuple[Path, ...],
) -> None:
    beside = path.parent / "rim_bench" / "tasks" / "lm.py"  # lm-eval looks there before it imports anything
    if beside.exists() and not beside.samefile(functions):
        problems.append(f"lm-eval would take {str(beside)!r} for rim_bench.tasks.lm: move it away")
    named = config.get("include", [])
    for name in named if isinstance(named, list) else [named]:
        other = path.parent / str(name)
        if not isinstance(name, str) or not other.is_file():
            problems.append(f"include names {str(name)!r}, and there is no file {str(other)!r}")
        elif other.resolve() in (*above, path.resolve()):
            problems.append(f"include: {str(other)!r} includes itself")
        else:
            inner = parse_yaml(read_own(other).source, other)
            _merge(inner, other, functions, merged, problems, (*above, path.resolve()))
    merged.update({k: v for k, v in config.items() if k not in ("include", "task_list")})


# Rules: each gives the problems of a value, whose place is `where`

Rule = Callable[[Any, str], list[str]]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, Function)


def _text(value: Any, where: str) -> list[str]:
    return [] if _is_text(value) and value.strip() else [f"{where} must be text, and not blank"]


def _any_text(value: Any, where: str) -> list[str]:
    return [] if _is_text(value) else [f"{where} must be text"]


def _truth(value: Any, where: str) -> list[str]:
    return [] if isinstance(value, bool) else [f"{where} must be true or false"]


def _label(value: Any, where: str) -> list[str]:
    good = (_is_text(value) and value.strip()) or type(value) in (int, float)
    return [] if good else [f"{where} must be text or a number"]


def _whole(least: int) -> Rule:
    said = f"must be a whole number of at least {least}"
    return lambda value, where: [] if type(value) is int and value >= least else [f"{where} {said}"]


def _number(least: float, most: float = math.inf, *, above: bool = False) -> Rule:
    def rule(value: Any, where: str) -> list[str]:
        good = type(value) in (int, float) and math.isfinite(value) and least <= value <= most
        good = good and not (above and value == least)
        said = f"above {least:g}" if above else f"of at least {least:g}" if most == math.inf else f"in 0 to {most:g}"
        return [] if good else [f"{where} must be a number {said}"]

    return rule


def _one_of(names: Iterable[Any]) -> Rule:
    allowed = tuple(names)

    def rule(value: Any, where: str) -> list[str]:
        if any(type(value) is type(name) and value == name for name in allowed):
            return []
        return [str(unknown(where, str(value), map(str, allowed)))]

    return rule


def _sha256(value: Any, where: str) -> list[str]:
    good = _is_text(value) and re.fullmatch("[0-9a-f]{64}", value)
    return [] if good else [f"{where} must be a sha256 of 64 digits"]


def _list(rule: Rule) -> Rule:
    def check(value: Any, where: str) -> list[str]:
        if not isinstance(value, list) or not value:
            return [f"{where} must be a list, and not empty"]
        return [problem for i, item in enumerate(value, 1) for problem in rule(item, f"{where}, entry {i},")]

    return check


def _either(one: Rule, other: Rule, wants: type) -> Rule:
    """`one` for values of a type, `other` for the rest."""
    return lambda value, where: (one if isinstance(value, wants) else other)(value, where)


def _mapping(rules: Mapping[str, Rule] | Rule, needed: Iterable[str] = ()) -> Rule:
    """A mapping with these keys and no others; a single rule is for the values of any keys that are text."""

    def check(value: Any, where: str) -> list[str]:
        if not isinstance(value, dict):
            return [f"{where} is {type(value).__name__}, which is the wrong type: a mapping is needed"]
        problems = [f"{where}.{key} is missing" for key in needed if key not in value]
        for key, inner in value.items():
            if isinstance(rules, Mapping) and key not in rules:
                problems.append(str(unknown(f"key of {where}", str(key), rules)))
            elif not isinstance(key, str):
                problems.append(f"{where} has the key {key!r}, which is no text")
            else:
                problems += (rules[key] if isinstance(rules, Mapping) else rules)(inner, f"{where}.{key}")
        return problems

    return check


def _by_split(rule: Rule) -> Rule:
    return _mapping(dict.fromkeys(SPLITS, rule))


def _anything(value: Any, where: str) -> list[str]:
    return []


# What rim-bench reads: metadata.rim_bench


def _generated(value: Any, where: str) -> list[str]:
    if not isinstance(value, dict) or set(value) != {"n", "sha256"} or type(value["n"]) is not int:
        return [f"{where} needs n (a number of examples) and sha256, and nothing else"]
    return _sha256(value["sha256"], f"{where}.sha256")


def _form(form: Any, where: str) -> list[str]:
    if not isinstance(form, dict):
        return ["each form of fields must be a mapping"]
    problems = []
    for key, value in form.items():
        if key not in FIELDS:
            problems.append(str(unknown("key of fields", str(key), FIELDS)))
        elif key in ("sentences", "unit", "listed"):
            problems += _truth(value, f"fields.{key}")
        elif key == "offer":
            texts = value if isinstance(value, list) else []
            if len(texts) < 2 or not all(_is_text(text) and text.strip() for text in texts):
                problems.append("fields.offer must be a list of at least two texts (Yes and No in quotes)")
        else:
            names = value if isinstance(value, list) and key == "question" else [value]
            if not names or not all(_is_text(name) and name for name in names):
                problems.append(
                    f"fields.{key} must name a field" + (", or a list of fields" if key == "question" else "")
                )
    return problems


def _subset(value: Any, where: str) -> list[str]:
    """A subset is given by a list of questions, by a rule on answers, or by the values of a field."""
    rules = {
        "questions": _text,
        "answer": _one_of(("number", "whole")),
        "field": _text,
        "keep": _list(_label),
        "drop": _list(_label),
    }
    if problems := _mapping(rules)(value, where):
        return [p.replace("unknown subset.answer", "unknown rule of subset.answer") for p in problems]
    ways = [key for key in ("questions", "answer", "field") if key in value]
    if len(ways) != 1:
        return ["subset needs one of questions, answer and field"]
    if ways == ["field"] and not {"keep", "drop"} <= set(value):
        return ["subset.field needs the lists keep and drop: together all values that the field may have"]
    return []


_RECIPE: Final[dict[str, Rule]] = {
    "backbone": _text,
    "backbone_settings": _mapping(_anything),
    "start": _one_of(("recipe", "cot")),
    "start_accuracy": _number(0, 1),
    "batch_size": _either(_mapping(dict.fromkeys(ORIGINS, _whole(1)), ORIGINS), _whole(1), dict),
    "micro_batch": _whole(1),
    "examples": _whole(1),
    "cot_examples": _whole(1),
    "max_tokens": _whole(1),
    "lr": _mapping(dict.fromkeys(ORIGINS, _mapping(_number(0, above=True)))),
    "methods": _mapping(_mapping(_anything)),
    "tuned": _list(_text),
    "tuning_trials": _whole(1),
}
_BLOCK: Final[dict[str, Rule]] = {
    "title": _text,
    "summary": _text,
    "licence": _text,
    "note": _text,
    "overlap": _text,  # known rows in common with another task's
    "prediction": _text,  # what theory says of a generated family, written before it was measured
    "size": _by_split(_whole(1)),  # questions, as published
    "source": _one_of(("annotated", "rows", "generator")),
    "folder": _text,
    "beside": _truth,  # the files lie beside the YAML, whatever folder --data names
    "files": _by_split(_either(_list(_text), _text, list)),
    "hub": _mapping({"path": _text, "config": _text, **dict.fromkeys(SPLITS, _text)}, ["path"]),
    "fields": _either(_list(_form), _form, list),  # one form of the rows, or several: the first that fits the first row
    # place (the row's number, the default) or question (its hash: the same whatever the order of the rows)
    "ids": _one_of(("place", "question")),
    "subset": _subset,
    "registered": _by_split(_sha256),  # of the rows as published, steps aside
    "test_of": _one_of(()),  # the task whose test split this one is evaluated on: see `block_problems`
    "generator": _text,
    "reader": _text,  # the module that reads the files (`parse`) or completes their examples (`complete`)
    "form": _one_of(("generate", "choice")),
    "sizes": _by_split(_whole(0)),
    # of the set that `sizes`, `levels` and seed 0 give; sets of another size are not held to it
    "generated": _by_split(_generated),
    "levels": _by_split(_list(_label)),
    "ood": _list(_label),
    "validation": _whole(1),
    "kind": _one_of(("number", "text", "auto")),
    "tolerance": _number(0),
    "relative_tolerance": _number(0),
    "tokenizer": _text,
    "recipe": _mapping(_RECIPE),
}


def block_problems(block: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """What is missing, unknown or of the wrong kind in a task's `rim_bench` block.

    Args:
        names: the shipped tasks.
    """
    rules = _BLOCK | {"test_of": _one_of(names)}
    problems = [str(unknown("key", str(key), rules)) for key in block if key not in rules]
    problems += [f"{key} is missing" for key in ("summary", "source") if key not in block]
    problems += [problem for key in block if key in rules for problem in rules[key](block[key], key)]
    if block.get("source") == "generator" or "generator" in block:
        problems += [f"{key} is missing" for key in ("generator", "levels", "sizes") if key not in block]
    told = any({"choices", "offer"} & set(form) for form in forms(block) if isinstance(form, dict))
    if block.get("form") == "choice" and not told and not {"generator", "reader"} & set(block):
        problems.append(
            "form choice needs a generator or a reader, or choices or offer among its fields, which say what there is "
            "to choose from"
        )
    return problems


def forms(block: Mapping[str, Any]) -> list[Any]:
    """The forms that a set's rows may have, in the order in which they are tried."""
    fields = block.get("fields", {})
    return fields if isinstance(fields, list) else [fields]


# What lm-eval reads: everything else


def _function(name: str) -> Rule:
    said = f"must be `!function rim_bench.tasks.lm.{name}`"
    good = f"rim_bench.tasks.lm.{name}"
    return lambda value, where: [] if isinstance(value, Function) and value == good else [f"{where} {said}"]


def _template(*needed: str) -> Rule:
    """Text with `{{column}}`, or a column's name; it is rendered once, in a sandbox."""

    def check(value: Any, where: str) -> list[str]:
        if not _is_text(value):
            return [f"{where} must be text, as in {{{{question}}}}"]
        from jinja2 import StrictUndefined, meta
        from jinja2.sandbox import SandboxedEnvironment

        environment = SandboxedEnvironment(undefined=StrictUndefined)
        environment.filters["regex_replace"] = lambda text, pattern, by="", count=0: re.sub(
            pattern, by, text, count=count
        )
        try:
            columns = {value} if value in COLUMNS else meta.find_undeclared_variables(environment.parse(value))
            if strange := sorted(columns - set(COLUMNS)):
                return [str(unknown(f"column in {where}", strange[0], COLUMNS))]
            environment.from_string(value).render(COLUMNS)
        except Exception as error:  # of any kind: a template calls what it likes, and itself
            said = " ".join(str(error).split())
            return [f"{where} is no template that can be filled ({type(error).__name__}{': ' if said else ''}{said})"]
        return [f"{where} must show {{{{{name}}}}}" for name in needed if name not in columns]

    return check


def _metrics(form: str) -> Rule:
    entry = {"metric": _one_of(METRICS[form]), "aggregation": _one_of(("mean",)), "higher_is_better": _truth}

    def check(value: Any, where: str) -> list[str]:
        problems = _list(_mapping(entry, ("metric", "aggregation")))(value, where)
        if not problems and "accuracy" not in [item["metric"] for item in value]:
            return [f"{where} must have the metric accuracy"]
        return problems

    return check


_FILTERS: Final = _list(
    _mapping(
        {"name": _text, "filter": _list(_mapping({"function": _one_of(("take_first",))}, ["function"]))},
        ("name", "filter"),
    )
)
_GENERATION: Final[dict[str, Rule]] = {
    "until": _either(_list(_any_text), _any_text, list),
    "max_gen_toks": _whole(1),
    "max_new_tokens": _whole(1),
    "do_sample": _one_of((False,)),
    "temperature": _one_of((0, 0.0)),
    "num_beams": _one_of((1,)),
}


def lm_eval_rules(form: str) -> dict[str, Rule]:
    """The keys that a task of this form may have for lm-eval."""
    choice = form == "choice"
    shown: dict[str, Rule] = {"doc_to_choice": _one_of(("choices",))} if choice else {}
    return {
        "task": _text,
        "task_alias": _text,
        "tag": _either(_list(_text), _text, list),
        "custom_dataset": _function("load"),
        "dataset_path": _text,
        "dataset_name": _text,
        "dataset_kwargs": _mapping(_anything),
        "training_split": _one_of(("train",)),
        "validation_split": _one_of(("validation",)),
        "test_split": _one_of(("test",)),
        "fewshot_split": _one_of(SPLITS),
        "output_type": _one_of(("multiple_choice" if choice else "generate_until",)),
        "doc_to_text": _template("question"),
        "doc_to_target": _one_of(("gold",)) if choice else _template(),
        **shown,
        "process_results": _function("choose" if choice else "score"),
        "description": _template(),
        "gen_prefix": _template(),
        "target_delimiter": _any_text,
        "fewshot_delimiter": _any_text,
        "fewshot_config": _mapping(
            {
                "sampler": _one_of(("default", "first_n")),
                "split": _one_of(SPLITS),
                **dict.fromkeys(("doc_to_text", "doc_to_target", "gen_prefix"), _template()),
                **dict.fromkeys(("fewshot_delimiter", "target_delimiter"), _any_text),
            }
        ),
        "num_fewshot": _whole(0),
        "repeats": _one_of((1,)),
        "generation_kwargs": _mapping(_GENERATION),
        "metric_list": _metrics(form),
        "filter_list": _FILTERS,
        "should_decontaminate": _truth,
        "doc_to_decontamination_query": _template(),
        "metadata": _mapping(_anything),
    }


def lm_eval_problems(config: Mapping[str, Any], form: str) -> list[str]:
    """What lm-eval could not read, or what would have it read other rows or score otherwise than rim-bench does."""
    rules = lm_eval_rules(form if form in METRICS else "generate")
    needed = ["task", "custom_dataset", "test_split", "doc_to_text", "doc_to_target", "process_results", "metric_list"]
    needed += ["output_type", "doc_to_choice"] if form == "choice" else []
    problems = [str(unknown("key", str(key), rules)) for key in config if key not in rules]
    problems += [f"{key} is missing" for key in needed if config.get(key) is None]
    for key, value in config.items():
        if key in rules and value is not None:
            problems += rules[key](value, key)
    return problems
