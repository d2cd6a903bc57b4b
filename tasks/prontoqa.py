"""ProntoQA (Saparov and He, arXiv 2210.01240), true or false of somebody: published JSON, and generated proofs.

    Yumpuses are not sweet. Each zumpus is a wumpus. Rex is a zumpus. ... True or false: Rex is not sweet.

The published program writes one JSON object, `example1`, `example2`, ..., each with a `test_example` of question,
query, chain_of_thought and answer. Here a question is `question query`; a step is a conclusion with the rule that is
applied to it next, and the last one is what is concluded in the end, as in Coconut's preparation of the data: 6 steps
for 5 hops. That preparation's own files (arrays of question, steps and answer) are read too.

Generated proofs have the same sentences and the same number of hops and are not made by the published program. Somebody
belongs to a concept; four rules lead to wider ones and a fifth from there to a property, stated or denied. Distractors:
every other concept has a property of its own, the chain of concepts goes on above the one that is needed and below the
first, and a second chain that nobody belongs to has a decoy: a concept with the opposite of the property that is asked
for. The decoy stands inside its chain, two or three concepts above its lowest and as far below its highest as the right
one is, so that both, and the concepts beside them, are named in as many sentences. (The published program gives the
second chain a single concept, which occurs in one sentence only and gives itself away. In version 1 here the decoy
could be an end of its chain, was named less then, and that alone answered 86 %.)

Of every four generated questions two are true, two are false, and in each case one states and one denies: neither
"not" in the question nor in a rule tells the label. The hash of a question decides its split (80 / 10 / 10 %). Standard
library only.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from rim_bench.methods.method import Example
from rim_bench.tasks.streams import check_request, shuffled_runs, split_of
from rim_bench.util.strict_json import parse_json

PEOPLE: Final = [
    "Alex", "Fae", "Max", "Polly", "Rex", "Sally", "Sam", "Stella", "Wren",
]  # fmt: skip
_STEMS: Final = [
    "wum",
    "yum",
    "zum",
    "dum",
    "rom",
    "num",
    "tum",
    "vum",
    "im",
    "jom",
    "tim",
    "yim",
    "shum",
    "ster",
    "lem",
    "gor",
    "brim",
    "gwom",
    "zhor",
    "kim",
]
CONCEPTS: Final = [stem + "pus" for stem in _STEMS]
PROPERTIES: Final = [
    "blue",
    "small",
    "metallic",
    "opaque",
    "nervous",
    "bright",
    "sweet",
    "floral",
    "hot",
    "kind",
    "red",
    "large",
    "wooden",
    "transparent",
    "happy",
    "dull",
    "sour",
    "fruity",
    "cold",
    "angry",
]
LEVELS: Final = tuple(f"hops={hops}" for hops in range(2, 8))
CHOICES: Final = ("True", "False")
TOKEN_PATTERN: Final = (
    r"#### |pus(?:es)?| (?:is|are)(?: not)?(?: an?)?|Every |Each |\. |[A-Za-z]+?(?=pus)|[A-Za-z]+| |\n|[\s\S]"
)

_FIELDS: Final = ("question", "query", "chain_of_thought", "answer")


def generate(n: int, levels: Sequence[str], seed: int, split: str) -> list[Example]:
    """`n` examples whose levels take turns; all questions are distinct, and the first k do not depend on n.

    Raises:
        ValueError: an unknown split or level, or a negative n.
    """
    check_request(n, levels, split, LEVELS)
    rng = random.Random(f"prontoqa/{split}/{seed}")
    turns, cases = shuffled_runs(len(levels), rng), {level: shuffled_runs(4, rng) for level in levels}
    seen: set[str] = set()
    out = []
    for index in range(n):
        level = levels[next(turns)]
        case = next(cases[level])
        while True:
            question, steps, answer = _draw(int(level.removeprefix("hops=")), case < 2, case % 2 == 0, rng)
            if question not in seen and split_of(question) == split:
                break
        seen.add(question)
        out.append(Example(f"prontoqa/{split}/{index}", question, steps, answer, level, choices=CHOICES))
    return out


def _draw(hops: int, true: bool, denies: bool, rng: random.Random) -> tuple[str, tuple[str, ...], str]:
    """Question, steps and answer of one proof; `denies`: the question has a "not"."""
    above, below, under = rng.randint(1, 2), rng.randint(0, 1), rng.randint(2, 3)
    over = rng.randint(1, 2)  # the decoy has as many above it as the right concept, and some under it
    names = rng.sample(CONCEPTS, below + hops + above + under + 1 + over)
    chain, aside = names[: below + hops + above], names[below + hops + above :]
    properties = rng.sample(PROPERTIES, len(names))
    person, last, decoy = rng.choice(PEOPLE), chain[below + hops - 1], aside[under]
    asked = properties.pop()
    negated = denies if true else not denies  # of the rule that the proof ends with
    held = {name: (properties.pop(), rng.random() < 0.5) for name in names if name not in (last, decoy)}
    held |= {last: (asked, negated), decoy: (asked, not negated)}
    wider = {low: high for part in (chain, aside) for low, high in itertools.pairwise(part)}
    is_a = {low: _rule(low, _a(high), high + "es", False, rng) for low, high in wider.items()}
    has = {name: _rule(name, what, what, no, rng) for name, (what, no) in held.items()}
    facts = [*is_a.values(), *has.values(), f"{person} is {_a(chain[below])}."]
    rng.shuffle(facts)
    steps = [
        f"{person} is {_a(name)}. {has[name] if name == last else is_a[name]}" for name in chain[below : below + hops]
    ]
    steps.append(f"{person} is {'not ' if negated else ''}{asked}.")
    question = " ".join([*facts, f"True or false: {person} is {'not ' if denies else ''}{asked}."])
    return question, tuple(steps), str(true)


def _a(concept: str) -> str:
    return f"{'an' if concept[0] in 'aeiou' else 'a'} {concept}"


def _rule(concept: str, one: str, many: str, negated: bool, rng: random.Random) -> str:
    """A rule about a concept, in one of the three published forms."""
    no = "not " if negated else ""
    form = rng.randrange(3)
    return (
        f"{concept.capitalize()}es are {no}{many}."
        if form == 2
        else f"{('Every', 'Each')[form]} {concept} is {no}{one}."
    )


def shortcuts(question: str) -> dict[str, str]:
    """Whether there is a "not" in what is asked, and what the rules about its property say, whoever they are about.

    Of those rules: the last one, the one whose concept stands in most sentences (the published program's decoy stands
    in one), and the one whose concept stands beside those that stand in most.
    """
    facts, _, asked = question.partition("True or false: ")
    denies, wanted = " not " in asked, asked.split()[-1:]
    sentences = [[word.lower().removesuffix("es") for word in fact.split()] for fact in facts.split(".")]
    rules = [words for words in sentences if words and words[-1:] == [word.rstrip(".") for word in wanted]]

    def concept(words: Sequence[str]) -> str:
        return words[words[0] in ("every", "each")]

    def named(words: Sequence[str]) -> int:
        return sum(concept(words) in other for other in sentences)

    def neighbours_named(words: Sequence[str]) -> int:
        beside = {word for other in sentences if concept(words) in other for word in other if word.endswith("pus")}
        return sum(word in other for word in beside for other in sentences)

    def says(words: Sequence[str]) -> str:
        return "as asked" if ("not" in words) == denies else "the opposite"

    return {
        "a not in what is asked": str(denies),
        "last rule about the property": says(rules[-1]) if rules else "",
        "rule about the property of the concept named most": says(max(rules, key=named)) if rules else "",
        "rule about the property of the concept whose neighbours are named most": (
            says(max(rules, key=neighbours_named)) if rules else ""
        ),
    }


def parse(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`example1`, fields) of each example of a published file, in its order; or of each item of an array of rows.

    Raises:
        ValueError: not in the form; with the example.
    """
    try:
        value = parse_json(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"line {error.lineno}: not JSON ({error.msg}): expected one object of examples, or an array of rows"
        ) from None
    except ValueError as error:
        raise ValueError(f"not read: {error}") from None
    if isinstance(value, list):
        for number, row in enumerate(value, 1):
            if not isinstance(row, dict):
                raise ValueError(
                    f"item {number}: found {type(row).__name__}, expected an object with question, steps and answer"
                )
            yield f"item {number}", row
        return
    if not isinstance(value, dict):
        raise ValueError(f"line 1: found {type(value).__name__}, expected one object of examples, or an array of rows")
    for name, entry in value.items():
        example = entry.get("test_example") if isinstance(entry, dict) else None
        if not isinstance(example, dict):
            raise ValueError(f"{name}: expected an object with a test_example")
        yield name, _fields(name, example)


def _fields(name: str, example: Mapping[str, Any]) -> dict[str, Any]:
    missing = [field for field in _FIELDS if field not in example]
    if missing:
        raise ValueError(f"{name}: test_example has no {', '.join(missing)}")
    chain = example["chain_of_thought"]
    if not isinstance(chain, list) or not all(isinstance(sentence, str) for sentence in chain):
        raise ValueError(f"{name}: chain_of_thought must be a list of sentences")
    if not isinstance(example["question"], str) or not isinstance(example["query"], str):
        raise ValueError(f"{name}: question and query must be text")
    steps = [" ".join(chain[at : at + 2]) for at in range(0, len(chain), 2)]
    return {"question": f"{example['question']} {example['query']}", "steps": steps, "answer": example["answer"]}


def complete(example: Example) -> Example:
    """A row's example with the two answers to choose from and its hops as the level.

    Raises:
        ValueError: an answer that is neither True nor False.
    """
    if example.answer not in CHOICES:
        raise ValueError(f"the answer {example.answer!r} is neither True nor False")
    return replace(example, choices=CHOICES, level=f"hops={len(example.steps) - 1}" if len(example.steps) > 1 else "")
