"""ProsQA, ProntoQA and multiplication: what is generated is checked by computations of its own, what is published is
read or refused.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import pytest
from conftest import unregistered

from rim_bench.data.answers import score
from rim_bench.data.datasets import evaluation_data, training_data
from rim_bench.data.reader import ChangedData, Split
from rim_bench.data.task import load_task
from rim_bench.methods.method import Example
from rim_bench.tasks import multiplication, prontoqa, prosqa
from rim_bench.util.errors import UsageError

REAL_DATA = os.environ.get("RIM_BENCH_DATA", "")
REAL = pytest.mark.skipif(not REAL_DATA, reason="RIM_BENCH_DATA is not set: the published files are not at hand")
FOUR = (
    "5 6 3 2 * 7 4 3 4||5 5 5 6 1 + 0 0 6 4 9 0 ( 5 5 1 1 1 1 ) + 0 0 5 9 0 7 0 ( 5 5 6 0 2 8 0 ) + 0 0 0 0 6 4 9 0 "
    "#### 5 5 6 0 8 2 0 1"
)


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RIM_BENCH_DATA", raising=False)


# ProsQA: read the text alone, build the graph again, and search it


def distances(facts: Sequence[tuple[str, str]], start: str) -> dict[str, int]:
    """Hops to everything reached from `start`, breadth first."""
    found, edge = {start: 0}, [start]
    while edge:
        edge = [b for a, b in facts if a in edge and b not in found]
        found |= {b: max(found.values()) + 1 for b in edge}
    return found


def facts_of(text: str) -> list[tuple[str, str]]:
    out = []
    for sentence in re.findall(r"[A-Z][^.?]*\.", text):
        match = re.fullmatch(r"(?:Every )?(\w+) is a (\w+)\.", sentence)
        assert match is not None, sentence
        out.append((match[1], match[2]))
    return out


def check_prosqa(example: Example) -> int:
    """Everything that a ProsQA question must be; returns its hops."""
    facts = facts_of(example.question.rpartition(" Is ")[0])
    assert len(set(facts)) == len(facts)
    assert not {a for a, _ in facts if a[0].isupper()} & {b for _, b in facts}, "people have no parents"
    asked = re.search(r"Is (\w+) a (\w+) or (\w+)\?$", example.question)
    assert asked is not None
    person, *options = asked.groups()
    reached = distances(facts, person)
    right = [option for option in options if option in reached]
    assert len(right) == 1, "one option is reached, the other is not"
    assert example.answer == f"{person} is a {right[0]}."
    assert example.choices == tuple(f"{person} is a {option}." for option in options)
    steps = facts_of(" ".join(example.steps))
    assert set(steps) <= set(facts) and steps[0][0] == person and steps[-1][1] == right[0]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(steps))
    assert len(steps) == reached[right[0]], "the steps are a shortest path"
    assert not any(a in options for a, _ in facts), "both options are leaves"
    wrong = next(option for option in options if option not in reached)
    assert any(wrong in distances(facts, other) for other in {a for a, _ in facts if a[0].isupper()} - {person})
    return len(steps)


@pytest.mark.parametrize("level", prosqa.LEVELS)
def test_generated_graphs_are_what_they_say(level: str) -> None:
    examples = prosqa.generate(24, [level], 3, "train")
    hops = {check_prosqa(example) for example in examples}
    assert hops <= {"hops=7": {7}, "hops=8": {8}}.get(level, {3, 4, 5, 6})
    assert {example.level for example in examples} == {level}
    assert sum(e.choices[0] == e.answer for e in examples) == 12, "each option comes first equally often"
    edges = [facts_of(e.question.rpartition(" Is ")[0]) for e in examples]
    if level == "dense":
        assert mean(map(len, edges)) > 50
    if level == "dag":
        for e, facts in zip(examples, edges, strict=True):
            parents = Counter(b for _, b in facts)
            assert sum(n == 1 for n in parents.values()) < len(parents) / 3
            assert paths(facts, len(e.steps), e.steps[0].split()[0], e.answer[:-1].split()[-1]) > 1


def paths(facts: Sequence[tuple[str, str]], hops: int, start: str, goal: str) -> int:
    """Paths of exactly so many hops."""
    ways = Counter({start: 1})
    for _ in range(hops):
        after: Counter[str] = Counter()
        for a, b in facts:
            after[b] += ways[a]
        ways = after
    return ways[goal]


def test_a_checker_that_is_fooled_is_none() -> None:
    example = prosqa.generate(1, ["hops=3-6"], 0, "test")[0]
    other = next(c for c in example.choices if c != example.answer)
    swapped = Example(
        example.id, example.question, (*example.steps[:-1], example.steps[0]), example.answer, choices=example.choices
    )
    for broken in (Example(example.id, example.question, example.steps, other, choices=example.choices), swapped):
        with pytest.raises(AssertionError):
            check_prosqa(broken)


def test_splits_share_no_graph_and_sets_are_pinned() -> None:
    def shape(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return len(row["idx_to_symbol"]), tuple(map(tuple, row["edges"])), row["root"], row["target"], row["neg_target"]

    sets = {
        split: [shape(r) for _, r in prosqa.generate_rows(80, ["hops=3-6"], 7, split)]
        for split in ("train", "validation", "test")
    }
    for split, rows in sets.items():
        assert len(set(rows)) == 80, split
    assert not set(sets["train"]) & set(sets["test"]) and not set(sets["train"]) & set(sets["validation"])
    assert not set(sets["validation"]) & set(sets["test"])
    first = prosqa.generate(40, ["hops=3-6", "dense"], 0, "train")
    assert prosqa.generate(60, ["hops=3-6", "dense"], 0, "train")[:40] == first, (
        "the first examples do not depend on how many there are"
    )
    assert prosqa.generate(40, ["hops=3-6", "dense"], 1, "train") != first


def test_published_sets_of_the_generators() -> None:
    """What a seed means may not change unseen: raise the task's version with it."""
    found = {
        name: Split(tuple(module.generate(20, levels, 0, "test")), "", "test").sha256[:16]  # type: ignore[attr-defined]
        for name, module, levels in (
            ("prosqa", prosqa, ["hops=3-6", "hops=7", "dense", "dag"]),
            ("prontoqa", prontoqa, ["hops=5", "hops=7"]),
            ("multiplication", multiplication, ["4x4", "5x5"]),
        )
    }
    assert found == PINNED


PINNED = {"prosqa": "8245aa2b1555edd8", "prontoqa": "5484bcbdcfb2b874", "multiplication": "71295d5d40c64fe2"}


def statistics(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What makes a graph easy or hard, as numbers: means, spreads and shares."""
    out: dict[str, float] = {}
    sizes = {
        "nodes": [len(r["idx_to_symbol"]) for r in rows],
        "edges": [len(r["edges"]) for r in rows],
        "words": [len(r["question"].split()) for r in rows],
        "characters": [len(r["question"]) for r in rows],
        "people": [sum(name[0].isupper() for name in r["idx_to_symbol"]) for r in rows],
    }
    for name, values in sizes.items():
        out |= {f"{name}, mean": mean(values), f"{name}, s.d.": pstdev(values)}
    hops, wrong, parents, sides = Counter[int](), Counter[int](), Counter[int](), Counter[str]()
    first = ways = deepest = 0
    for r in rows:
        facts = [(str(a), str(b)) for a, b in r["edges"]]
        mine, theirs = distances(facts, str(r["root"])), distances(facts, str(1 - r["root"]))
        hops[len(r["steps"])] += 1
        wrong[theirs[str(r["neg_target"])]] += 1
        into = Counter(b for _, b in facts)
        for node in map(str, range(2, len(r["idx_to_symbol"]))):
            parents[into[node]] += 1
            sides[("asked", "both")[node in theirs] if node in mine else ("neither", "other")[node in theirs]] += 1
        first += r["answer"].endswith(re.search(r"a (\w+) or", r["question"])[1] + ".")  # type: ignore[index]
        ways += paths(facts, len(r["steps"]), str(r["root"]), str(r["target"])) > 1
        deepest += max(mine.values()) == len(r["steps"])
    n, nodes = len(rows), sum(parents.values())
    out |= {f"hops = {k}, %": 100 * hops[k] / n for k in (3, 4, 5, 6)}
    out |= {f"wrong option {k} hops from the other person, %": 100 * wrong[k] / n for k in (1, 2, 3, 4)}
    out |= {f"nodes with {k} parents, %": 100 * parents[k] / nodes for k in (0, 1, 2, 3, 4)}
    out |= {f"nodes reached by {k}, %": 100 * sides[k] / nodes for k in ("asked", "other", "both", "neither")}
    out |= {"answer is the first option, %": 100 * first / n, "several shortest paths, %": 100 * ways / n}
    fewer = [
        (sum(b == r["target"] for _, b in r["edges"]), sum(b == r["neg_target"] for _, b in r["edges"])) for r in rows
    ]
    out["answer has fewer parents than the wrong option, %"] = 100 * mean(
        (mine < other) + (mine == other) / 2 for mine, other in fewer
    )
    return out | {"answer as deep as anything reached, %": 100 * deepest / n}


@REAL
def test_generated_graphs_have_the_published_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(REAL_DATA) / "prosqa"
    published = [row for name in ("valid", "test") for row in json.loads((folder / f"{name}.json").read_text())]
    made = [row for _, row in prosqa.generate_rows(800, ["hops=3-6"], 0, "train")]
    theirs, ours = statistics(published), statistics(made)
    with capsys.disabled():
        print(
            "\nProsQA, 800 published rows | 800 generated\n"
            + "\n".join(f"{k:52s} {v:8.2f} {ours[k]:8.2f}" for k, v in theirs.items())
        )
    for name, value in theirs.items():
        slack = (
            7.0 if name.endswith("%") else max(0.15, 0.06 * value)
        )  # shares of 800: a difference of 5 points is 2 standard errors
        assert abs(ours[name] - value) <= slack, f"{name}: published {value:.2f}, generated {ours[name]:.2f}"
    assert {name for r in published for name in r["idx_to_symbol"]} == {*prosqa.PEOPLE, *prosqa.CLASSES}
    assert set(made[0]) == set(published[0]), "the same fields"


@REAL
def test_the_published_prosqa_rows_hold_what_they_promise() -> None:
    task = load_task("prosqa")
    train, validation = training_data(task, data=Path(REAL_DATA), limit=50)
    test = evaluation_data(task, data=Path(REAL_DATA))
    assert (len(validation.examples), len(test.examples)) == (50, 500)
    assert Counter(map(check_prosqa, test.examples)).keys() == {3, 4, 5, 6}
    assert [e.level for e in test.examples] == [f"hops={len(e.steps)}" for e in test.examples]
    assert len(train.examples) == 50 and "generated" in train.notes[0]
    choice = evaluation_data(load_task("prosqa_choice"), data=Path(REAL_DATA))
    assert [e.question for e in choice.examples] == [e.question for e in test.examples]
    assert validation.registered and test.registered and choice.registered
    shown = {
        " ".join(sorted(e.question.split())) for e in training_data(task, data=Path(REAL_DATA), limit=500)[0].examples
    }
    assert not shown & {" ".join(sorted(e.question.split())) for e in test.examples}


def unnamed(question: str) -> tuple[Any, ...]:
    """What is left of a question without names and the order of its sentences:
    equal for isomorphic ones (colours of nodes, refined).
    """
    person, *options = re.findall(r"Is (\w+) an? (\w+) or (?:an? )?(\w+)", question)[0]
    edges = re.findall(r"(?:Every )?(\w+) is an? (\w+)\.", question)
    colour = {v: (v == person) + 2 * (v in options) for edge in edges for v in edge}
    for _ in range(6):
        above, below = ({v: sorted(colour[e[k]] for e in edges if e[1 - k] == v) for v in colour} for k in (0, 1))
        colour = {v: hash(repr((colour[v], above[v], below[v]))) for v in colour}
    return len(colour), len(edges), tuple(sorted(colour.values()))


@REAL
def test_no_generated_graph_is_a_published_one_under_other_names() -> None:
    """Splits are disjoint by graph among generated rows only. All 17,886 of seed 0 were compared once:
    none is published.
    """
    published = [
        e
        for s in ("validation", "test")
        for e in evaluation_data(load_task("prosqa"), data=Path(REAL_DATA), split=s).examples
    ]
    known = {unnamed(e.question) for e in published}
    assert len(known) == 800
    words = {
        old: new
        for names in (prosqa.PEOPLE, prosqa.CLASSES)
        for old, new in zip(names, [*names[1:], names[0]], strict=True)
    }
    *facts, asked = published[3].question.split(". ")
    facts[-1:] = []  # one sentence fewer is another graph
    assert unnamed(". ".join([*facts, asked])) not in known
    renamed = re.sub(
        r"\w+", lambda m: words.get(m[0], m[0]), ". ".join([*published[3].question.split(". ")[:-1][::-1], asked])
    )
    assert renamed != published[3].question and unnamed(renamed) in known
    made = [*prosqa.generate(300, ["hops=3-6"], 0, "train"), *prosqa.generate(100, ["dense", "dag"], 0, "test")]
    assert not {unnamed(e.question) for e in made} & known


# files


def prosqa_files(folder: Path, *, train: bool = False) -> Path:
    (folder / "prosqa").mkdir()
    for name, split in (("valid", "validation"), ("test", "test"), *([("train", "train")] if train else [])):
        rows = [row for _, row in prosqa.generate_rows(6, ["hops=3-6"], 1, split)]
        (folder / "prosqa" / f"{name}.json").write_text(json.dumps(rows))
    return folder


def test_training_graphs_are_generated_where_no_file_has_any(tmp_path: Path) -> None:
    task = unregistered("prosqa")
    folder = prosqa_files(tmp_path)
    train, validation = training_data(task, data=folder, limit=30)
    assert (len(train.examples), len(validation.examples)) == (30, 6)
    assert "generated" in train.source and "generated" in train.notes[0] and validation.source.endswith("valid.json")
    assert train.examples == training_data(unregistered("prosqa_choice"), data=folder, limit=30)[0].examples
    assert evaluation_data(task, data=folder).source.endswith("test.json")
    (folder / "prosqa" / "train.json").write_text((folder / "prosqa" / "valid.json").read_text())
    own, _ = training_data(task, data=folder)
    assert own.source.endswith("train.json") and len(own.examples) == 6 and not own.notes


def test_validation_is_not_the_test_file_where_training_is_generated(tmp_path: Path) -> None:
    test = prosqa_files(tmp_path) / "prosqa" / "test.json"
    for name in ("prosqa", "prosqa_choice"):
        with pytest.raises(
            UsageError, match=r"the validation file .* is also the test file: a test split is never trained on"
        ):
            training_data(unregistered(name), files={"validation": test, "test": test}, limit=3)


def test_other_rows_under_the_names_of_the_published_files_are_refused(tmp_path: Path) -> None:
    folder = prosqa_files(tmp_path)
    for name in ("prosqa", "prosqa_choice"):
        with pytest.raises(ChangedData, match=r"6 questions \(registered: 500\)"):
            evaluation_data(load_task(name), data=folder)
        with pytest.raises(ChangedData, match=r"6 questions \(registered: 300\)"):
            training_data(load_task(name), data=folder, limit=3)
        assert evaluation_data(load_task(name), data=folder, allow_changed=True).registered is False


def test_without_published_files_prosqa_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"valid\.json"):
        training_data(load_task("prosqa"), data=tmp_path)
    with pytest.raises(UsageError, match=r"test\.json"):
        evaluation_data(load_task("prosqa"), data=tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"question": "Is Tom a lempus?"}, "does not end in two options"),
        ({"answer": "Tom is a dumpus."}, "is not one of the two options"),
    ],
)
def test_a_malformed_prosqa_row_is_named(tmp_path: Path, change: dict[str, str], says: str) -> None:
    folder = prosqa_files(tmp_path)
    path = folder / "prosqa" / "test.json"
    rows = json.loads(path.read_text())
    rows[2] |= change
    path.write_text(json.dumps(rows))
    with pytest.raises(UsageError, match=rf"test\.json, item 3: .*{says}"):
        evaluation_data(load_task("prosqa"), data=folder)


def test_prosqa_answers_compare_as_text_without_case_and_full_stop() -> None:
    assert score("#### Tom is a lempus.", "Tom is a lempus.", kind="text").correct
    assert score("#### tom is  a Lempus", "Tom is a lempus.", kind="text").correct
    assert not score("#### Tom is a lempus or scrompus.", "Tom is a lempus.", kind="text").correct


# ProntoQA: a prover that forward-chains over the sentences


def prove(question: str) -> bool:
    """Whether the statement asked about follows (True) or its denial does (False)."""
    context, _, statement = question.partition(" True or false: ")
    singular = re.compile(r"^(.+?pus)(?:es)?$")

    def literal(words: str) -> tuple[str, bool]:
        no, rest = words.startswith("not "), words.removeprefix("not ")
        rest = re.sub(r"^an? ", "", rest)
        match = singular.match(rest)
        return (match[1] if match else rest), not no

    rules: list[tuple[str, tuple[str, bool]]] = []
    known: set[tuple[str, bool]] = set()
    for sentence in re.findall(r"[^.]+\.", context):
        words = sentence.strip().rstrip(".")
        if match := re.fullmatch(r"(?:Every|Each) (\w+) is (.+)", words):
            rules.append((match[1], literal(match[2])))
        elif match := re.fullmatch(r"(\w+pus)es are (.+)", words):
            rules.append((match[1].lower(), literal(match[2])))
        else:
            match = re.fullmatch(r"(\w+) is (.+)", words)
            assert match is not None, sentence
            known.add(literal(match[2]))
    while new := {then for when, then in rules if (when, True) in known} - known:
        known |= new
    name, holds = literal(statement.partition(" is ")[2].rstrip("."))
    assert ((name, True) in known) != ((name, False) in known), "exactly one of the statement and its denial is proved"
    return (name, holds) in known


def test_every_generated_label_is_proved() -> None:
    examples = prontoqa.generate(200, ["hops=5", "hops=7"], 0, "test")
    assert [str(prove(e.question)) for e in examples] == [e.answer for e in examples]
    assert {(e.level, len(e.steps)) for e in examples} == {("hops=5", 6), ("hops=7", 8)}
    for e in examples:
        said = e.question.rpartition(" True or false: ")[2]
        assert e.steps[-1] == said or e.steps[-1].replace(" not", "") == said.replace(" not", "")
        assert (e.steps[-1] == said) == (e.answer == "True")
        rules = [step.split(". ", 1)[1] for step in e.steps[:-1]]
        assert all(rule in e.question for rule in rules) and len(set(rules)) == len(rules)
    split = {s: {e.question for e in prontoqa.generate(60, ["hops=5"], 0, s)} for s in ("train", "validation", "test")}
    assert (
        not split["train"] & split["test"]
        and not split["train"] & split["validation"]
        and not split["validation"] & split["test"]
    )


def test_neither_a_label_nor_a_not_gives_the_proof_away() -> None:
    examples = prontoqa.generate(400, ["hops=5"], 0, "train")
    cases = Counter((e.answer, " not " in e.question.rpartition(":")[2]) for e in examples)
    assert set(cases.values()) == {100}
    for e in examples:  # nor may the distractor's concept, by standing in fewer sentences than the right one
        facts, _, asked = e.question.partition(" True or false")
        sentences = [re.findall(r"\w+", fact.lower().replace("puses", "pus")) for fact in facts.split(".")]
        rules = [words for words in sentences if words[-1:] == re.findall(r"\w+", asked)[-1:]]
        concepts = [next(word for word in words if word.endswith("pus")) for words in rules]
        assert len(concepts) == len(set(concepts)) == 2
        assert [sum(concept in words for words in sentences) for concept in concepts] == [3, 3], e.question


def pronto_file(path: Path, examples: Sequence[Example]) -> None:
    """The published form."""
    out = {}
    for i, e in enumerate(examples, 1):
        question, _, query = e.question.partition(" True or false: ")
        chain = [s if s.endswith(".") else s + "." for step in e.steps for s in step.split(". ")]
        out[f"example{i}"] = {
            "test_example": {
                "question": question,
                "query": f"True or false: {query}",
                "chain_of_thought": chain,
                "answer": e.answer,
            }
        }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(out, indent=1))


def test_the_published_form_of_prontoqa_is_read(tmp_path: Path) -> None:
    examples = prontoqa.generate(6, ["hops=5"], 0, "test")
    pronto_file(tmp_path / "prontoqa" / "test.json", examples)
    read = evaluation_data(load_task("prontoqa"), data=tmp_path).examples
    assert [(e.question, e.steps, e.answer, e.level, e.choices) for e in read] == [
        (e.question, e.steps, e.answer, e.level, e.choices) for e in examples
    ]
    rows = [{"question": e.question, "steps": list(e.steps), "answer": e.answer} for e in examples]
    (tmp_path / "prontoqa" / "test.json").write_text(json.dumps(rows))
    assert evaluation_data(load_task("prontoqa"), data=tmp_path).examples == read, "Coconut's arrays are the same rows"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "line 1: not JSON"),
        ("3", "expected one object of examples"),
        ('{"example1": {}}', "example1: expected an object with a test_example"),
        (
            '{"example1": {"test_example": {"question": "q", "query": "x", "answer": "True"}}}',
            "test_example has no chain_of_thought",
        ),
        ('[{"question": "q", "answer": "Maybe"}]', "neither True nor False"),
        ("{}", "is empty"),
    ],
)
def test_a_malformed_prontoqa_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "prontoqa").mkdir()
    (tmp_path / "prontoqa" / "test.json").write_text(text)
    with pytest.raises(UsageError, match=re.escape(says)):
        evaluation_data(load_task("prontoqa"), data=tmp_path)


# multiplication: school arithmetic on digit lists, and Python's own product


def number(text: str) -> int:
    return int("".join(reversed(text.split())))


def check_product(example: Example) -> None:
    a, b = example.question.split(" * ")
    assert number(example.answer) == number(a) * number(b) and len(example.answer.split()) == len(a.split()) + len(
        b.split()
    )
    total = 0
    for place, (digit, step) in enumerate(zip(b.split(), example.steps, strict=True)):
        found = re.fullmatch(r"(\+ )?([0-9 ]+?)(?: \( ([0-9 ]+) \))?", step)
        assert found is not None and (found[1] is not None) == (place > 0)
        shown = found[2].split()
        assert shown[:place] == ["0"] * place and len(shown) == len(a.split()) + 1 + place
        carry = 0
        for own, other in zip(shown[place:], [*a.split(), "0"], strict=True):
            carry, wanted = divmod(int(other) * int(digit) + carry, 10)
            assert int(own) == wanted
        assert carry == 0
        total += number(found[2])
        assert (found[3] is not None) == (0 < place < len(b.split()) - 1)
        if found[3] is not None:
            assert number(found[3]) == total
    assert total == number(example.answer)


@pytest.mark.parametrize("level", ["1x1", "2x4", "4x2", "4x4", "5x5", "9x9"])
def test_every_step_of_a_product_is_right(level: str) -> None:
    examples = multiplication.generate(5 if level == "1x1" else 60, [level], 0, "train")
    for example in examples:
        check_product(example)
        assert example.level == level and all(not f.endswith(" 0") for f in example.question.split(" * "))


def test_a_published_line_is_read_checked_and_written_again(tmp_path: Path) -> None:
    (tmp_path / "multiplication").mkdir()
    (tmp_path / "multiplication" / "test_bigbench.txt").write_text(FOUR + "\n\n")
    (example,) = evaluation_data(load_task("multiplication_icot"), data=tmp_path).examples
    check_product(example)
    assert example.level == "4x4" and multiplication.line(example) == FOUR
    assert multiplication.steps_of(2365, 4, 4347, 4) == example.steps
    with pytest.raises(AssertionError):
        check_product(
            Example("x", example.question, (example.steps[0].replace("1", "2"), *example.steps[1:]), example.answer)
        )


@pytest.mark.parametrize("bad", ["1 2 * 3", "1 2 + 3||1 #### 2", "1 2 * 3||3 6", "1 2 * 3||3 6 0 #### 36x"])
def test_a_malformed_line_is_named(tmp_path: Path, bad: str) -> None:
    (tmp_path / "multiplication").mkdir()
    (tmp_path / "multiplication" / "test.txt").write_text(f"{FOUR}\n{bad}\n")
    with pytest.raises(UsageError, match=r"test\.txt, line 2: expected question\|\|steps"):
        evaluation_data(load_task("multiplication_icot"), data=tmp_path)


def test_products_do_not_cross_splits_and_none_is_common() -> None:
    sets = {
        s: {e.question for e in multiplication.generate(300, ["4x4"], 5, s)} for s in ("train", "validation", "test")
    }
    assert all(len(questions) == 300 for questions in sets.values())
    assert (
        not sets["train"] & sets["test"]
        and not sets["train"] & sets["validation"]
        and not sets["validation"] & sets["test"]
    )
    test = evaluation_data(load_task("multiplication"), limit=400)
    assert max(Counter(e.answer for e in test.examples).values()) <= 2


@pytest.mark.parametrize("module", [prosqa, prontoqa, multiplication])
def test_what_cannot_be_generated_is_refused(module: Any) -> None:
    level = module.LEVELS[0]
    for n, levels, split in ((3, ["no such"], "train"), (-1, [level], "train"), (3, [], "train"), (3, [level], "dev")):
        with pytest.raises(ValueError, match=r"unknown split|cannot generate"):
            module.generate(n, levels, 0, split)
    with pytest.raises(ValueError, match="too few"):
        multiplication.generate(200, ["1x1"], 0, "test")
