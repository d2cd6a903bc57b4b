"""Word problems in plain English, generated, for language models that were pretrained on text: 1 to 6 steps.

    Mary has 4 more stamps than Adam. Adam has 7 stamps. Ruth owns 9 stamps. Mary loses 3 of her stamps. How many stamps
    does Mary have?                                            <<7+4=11>> <<11-3=8>> #### 8

A story follows one quantity. A sentence says what somebody has; each of the next ones changes it, or says by it what
somebody else has, or how many other things (`rim_bench.tasks.story_forms` has the sentences); the question asks for the
last quantity, or is a step itself ("How many stamps do Mary and Ruth have together?"). One or two more sentences are
never needed: they name the people and the things of the others. What is true all along may stand before what it builds
on. Steps are written as GSM8K's calculator annotations.

Levels `T=1` to `T=6` say how many steps. Answers are 2 to 11, quantities 1 to 24, numbers to add or take away 1 to 9 (1
to 12 where the question compares), to multiply or divide by 2 to 5. Beyond training, at 1 to 4 steps: `forms` is told
in sentences that are held out, every one of them; `numbers` has answers of 12 to 51, quantities up to 120, and adds and
takes away 10 to 60.

Every run of ten questions of a level (of forty in `numbers`) has every answer once. Given the answer, operations are
drawn backwards from it, each equally likely where the numbers allow it, and then the numbers. What cannot be balanced
away: a product is a multiple of what it was multiplied by, and a quotient is small.

Training, validation and test are disjoint whatever the seeds, in questions and in what is told: the numbers and forms
of a story, in order, without names, things and the sentences that are not needed, decide its split (80 / 10 / 10 %), so
that no test question is a training question about other people. A single sum such as 7 + 4 does occur in all splits, as
do the sentences, but for those that are held out. Standard library only.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from rim_bench.methods.method import Example
from rim_bench.tasks.story_forms import (
    FORMS,
    HE,
    OPENINGS,
    PEOPLE,
    QUESTIONS,
    SHE,
    THINGS,
    Change,
    Form,
    Operation,
    Person,
    Question,
    fill,
)
from rim_bench.tasks.streams import TRIES, check_request, shuffled_runs, split_of

TRAINED_DEPTH: Final = 4
MAX_DEPTH: Final = 6
LEVELS: Final = (*(f"T={depth}" for depth in range(1, MAX_DEPTH + 1)), "forms", "numbers")
TOKEN_PATTERN: Final = r"#### |<<|>>|[A-Za-z]+|[0-9]+|\n|[\s\S]"
"""Pieces for a tokenizer from scratch, and what shortcuts count: a word, a whole number, else one character."""


@dataclass(frozen=True)
class Range:
    """The numbers of a story."""

    answers: range
    top: int  # the largest quantity
    added: range  # what sentences add and take away
    compared: range  # the same of questions, and what people have who are not needed


SMALL: Final = Range(range(2, 12), 24, range(1, 10), range(1, 13))
LARGE: Final = Range(range(12, 52), 120, range(10, 50), range(10, 61))
FACTORS: Final = range(2, 6)

_ENDS: Final = 0.25  # share of stories whose question is a step
_SWAPS: Final = 0.5  # share of the places where what builds on another sentence may stand before it that do so
_PRONOUNS: Final = 0.5  # share of the names that may be a pronoun that are one
_WEIGHTS: Final[dict[tuple[Change, bool], float]] = {  # of what a sentence changes, and whether it is an event
    ("same", True): 4,
    ("person", False): 3,
    ("thing", False): 1.5,
    ("both", False): 1,
    ("thing", True): 1,
}
_SIGNS: Final[tuple[Operation, ...]] = ("+", "-", "*", "/")


def generate(n: int, levels: Sequence[str], seed: int, split: str) -> list[Example]:
    """`n` examples, levels and answers in balanced, shuffled order; the first k of them do not depend on n.

    No two validation or test examples have the same numbers and forms. Training draws with replacement.

    Args:
        levels: some of `LEVELS`; each takes its turn.
        split: "train", "validation" or "test".

    Raises:
        ValueError: an unknown split or level, a negative n, or more distinct stories than a level has.
    """
    check_request(n, levels, split, LEVELS)
    rng = random.Random(f"stories/{split}/{seed}")
    turns = shuffled_runs(len(levels), rng)
    wanted = {level: shuffled_runs(len(range_of(level).answers), rng) for level in levels}
    seen: set[str] = set()
    examples = []
    for index in range(n):
        level = levels[next(turns)]
        answer = range_of(level).answers[next(wanted[level])]
        for _ in range(TRIES):
            plan = _plan(level, answer, rng)
            if split_of(key := plan.key) == split and key not in seen:
                break
        else:
            raise ValueError(f"level {level} has too few {split} stories with answer {answer} for {n} distinct ones")
        if split != "train":
            seen.add(key)
        question = _tell(plan, rng)
        examples.append(Example(f"stories/{split}/{index}", question, plan.steps, str(answer), level))
    return examples


def range_of(level: str) -> Range:
    """The numbers of a level's stories."""
    return LARGE if level == "numbers" else SMALL


# What happens: numbers and forms, without names


@dataclass(frozen=True)
class _Plan:
    """A story without names: where it begins, and what each step does to the quantity."""

    numbers: Range
    held_out: bool
    values: tuple[int, ...]  # the quantities, from the first to the answer
    brought: tuple[int, ...]  # the number that each step brings
    forms: tuple[Form, ...]  # of the steps that are sentences
    question: Question

    @property
    def key(self) -> str:
        """What decides its split."""
        names = [f"{form.operation} {form.name}" for form in self.forms]
        return repr((self.values[0], names, self.brought, self.question.name))

    @property
    def steps(self) -> tuple[str, ...]:
        operations = [form.operation for form in self.forms]
        if self.question.operation:
            operations.append(self.question.operation)
        return tuple(map(_written, operations, self.values, self.brought, self.values[1:]))


def _written(operation: Operation, before: int, n: int, after: int) -> str:
    return f"<<{n}-{before}={after}>>" if operation == "from" else f"<<{before}{operation}{n}={after}>>"


def _plan(level: str, answer: int, rng: random.Random) -> _Plan:
    """Numbers backwards from the answer, each step's operation first, and then a form for each."""
    depth = int(level[2:]) if level.startswith("T=") else rng.randint(1, TRAINED_DEPTH)
    numbers, held_out, asks = range_of(level), level == "forms", rng.random() < _ENDS
    values, brought, operations = [answer], [], []
    for k in range(depth):
        at_end = asks and k == 0
        order = [
            "from" if sign == "-" and at_end and rng.random() < 0.5 else sign
            for sign in rng.sample(_SIGNS, len(_SIGNS))
        ]
        operation = next(one for one in order if _ways(one, values[-1], numbers, at_end))  # a difference always is
        before, n = rng.choice(_ways(operation, values[-1], numbers, at_end))
        values.append(before)
        brought.append(n)
        operations.append(operation)
    operations.reverse()
    brought.reverse()
    sentences = list(zip(operations, brought, strict=True))[: depth - asks]
    forms = tuple(_form(operation, n, held_out, rng) for operation, n in sentences)
    happens = any(form.event for form in forms)
    fitting = [
        question
        for question in QUESTIONS
        if question.held_out == held_out
        and question.operation == (operations[-1] if asks else None)
        and (happens or not question.event)
    ]
    return _Plan(numbers, held_out, tuple(reversed(values)), tuple(brought), forms, rng.choice(fitting))


@cache
def _ways(operation: Operation, value: int, numbers: Range, at_end: bool) -> tuple[tuple[int, int], ...]:
    """(quantity before, number) pairs that this operation leads from to a value."""
    added, top = numbers.compared if at_end else numbers.added, numbers.top
    pairs = {
        "+": ((value - n, n) for n in added),
        "-": ((value + n, n) for n in added),
        "from": ((n, value + n) for n in added),
        "*": ((value // n, n) for n in FACTORS if value % n == 0),
        "/": ((value * n, n) for n in FACTORS),
    }[operation]
    return tuple((before, n) for before, n in pairs if 1 <= before <= top and n <= top)


@cache
def _forms(operation: Operation, held_out: bool, n: int) -> dict[tuple[Change, bool], list[Form]]:
    """The forms that can say this, by what they change and whether something happens."""
    kinds: dict[tuple[Change, bool], list[Form]] = defaultdict(list)
    for form in FORMS:
        if (form.operation, form.held_out) == (operation, held_out) and (not form.numbers or n in form.numbers):
            kinds[form.change, form.event].append(form)
    return kinds


def _form(operation: Operation, n: int, held_out: bool, rng: random.Random) -> Form:
    kinds = _forms(operation, held_out, n)
    (kind,) = rng.choices(list(kinds), [_WEIGHTS[kind] for kind in kinds])
    return rng.choice(kinds[kind])


# How it is told: names, things, sentences that are not needed, and the order


@dataclass(frozen=True)
class _Sentence:
    """A form with what fills its places."""

    text: str
    a: Person
    thing: str = ""
    n: int = 0
    b: Person | None = None
    by: Person | None = None
    thing2: str = ""
    event: bool = False

    @property
    def subject(self) -> Person | None:
        """Who it begins with."""
        return {"{A} ": self.a, "{B} ": self.b, "{P} ": self.by}.get(self.text[:4])

    def told(self, pronoun: bool = False) -> str:
        subject = self.a.he if pronoun else ""
        return fill(self.text, self.a, self.thing, self.n, b=self.b, by=self.by, thing2=self.thing2, subject=subject)


@dataclass
class _Quantity:
    """What somebody has of something, in the order of time."""

    owner: Person
    thing: str
    values: list[int]


def _tell(plan: _Plan, rng: random.Random) -> str:
    """A plan in words."""
    people, things = iter(rng.sample(PEOPLE, len(PEOPLE))), iter(rng.sample(THINGS, len(THINGS)))
    owners = [next(people)]
    for form in plan.forms:
        owners.append(next(people) if form.change in ("person", "both") else owners[-1])
    partner, others = next(people), list(people)
    now = _Quantity(owners[0], next(things), [plan.values[0]])
    quantities, core = [now], [_opening(plan, now.owner, now.thing, now.values[0], rng)]
    for form, owner, n, value in zip(plan.forms, owners[1:], plan.brought, plan.values[1:], strict=False):
        before = now
        if form.change == "same":
            now.values.append(value)
        else:
            now = _Quantity(owner, next(things) if form.change in ("thing", "both") else now.thing, [value])
            quantities.append(now)
        core.append(
            _Sentence(form.text, before.owner, before.thing, n, owner, rng.choice(others), now.thing, form.event)
        )
    sentences, n = _swapped(core, rng), plan.brought[-1]
    extra = list(_not_needed(plan, quantities, others, list(things), rng))
    if plan.question.partner:
        extra.append(_opening(plan, partner, now.thing, n, rng))
    for sentence in extra:
        sentences.insert(rng.randint(0, len(sentences)), sentence)
    asked = fill(plan.question.text, now.owner, now.thing, n, b=partner)
    return " ".join([*_with_pronouns(sentences, rng), asked])


def _opening(plan: _Plan, owner: Person, thing: str, n: int, rng: random.Random) -> _Sentence:
    texts = [opening.text for opening in OPENINGS if opening.held_out == plan.held_out]
    return _Sentence(rng.choice(texts), owner, thing, n)


def _swapped(core: Sequence[_Sentence], rng: random.Random) -> list[_Sentence]:
    """Some sentences before the one that they build on, where both are true all along.

    Nothing has happened to the quantity of the first of the two then: time could not tell what the other is about.
    """
    out, k = list(core), 0
    while k + 1 < len(out):
        if not out[k].event and not out[k + 1].event and rng.random() < _SWAPS:
            out[k], out[k + 1] = out[k + 1], out[k]
            k += 1
        k += 1
    return out


def _not_needed(
    plan: _Plan, quantities: Sequence[_Quantity], others: Sequence[Person], things: Sequence[str], rng: random.Random
) -> Iterator[_Sentence]:
    """One or two sentences of which the answer is independent, the first with words of the question."""
    asked, numbers = quantities[-1], plan.numbers
    strangers, new = iter(rng.sample(others, len(others))), iter(things)
    kinds = ["other person", "other things", "relation"]
    for k in range(rng.randint(1, 2)):
        kind, about = rng.choice(kinds), asked if k == 0 else rng.choice(quantities)
        kinds = ["other person", "other things", "relation", "event", "age"]
        stranger, n = next(strangers), rng.choice(numbers.compared)
        if kind == "other person":
            yield _opening(plan, stranger, about.thing, n, rng)
        elif kind == "other things":
            yield _opening(plan, about.owner, next(new), n, rng)
        elif kind == "age":
            yield _Sentence("{A} is {n} years old.", about.owner, n=rng.randint(6, 15))
        elif kind == "event":
            n = rng.choice(numbers.added)
            form = rng.choice(_forms(rng.choice(("+", "-")), plan.held_out, n)["same", True])
            yield _Sentence(form.text, stranger, about.thing, n, by=next(strangers), event=True)
        else:
            ways = [
                (operation, n)
                for operation in _SIGNS
                for n in (numbers.added if operation in "+-" else FACTORS)
                if (operation != "-" or n < min(about.values))
                and (operation != "/" or all(value % n == 0 for value in about.values))
            ]
            operation = rng.choice(sorted({operation for operation, _ in ways}))
            n = rng.choice([n for one, n in ways if one == operation])
            form = rng.choice(_forms(operation, plan.held_out, n)["person", False])
            yield _Sentence(form.text, about.owner, about.thing, n, stranger)


def _with_pronouns(sentences: Sequence[_Sentence], rng: random.Random) -> Iterator[str]:
    """The sentences as text; some that go on about the person of the one before begin with a pronoun.

    Only where that one names nobody else whom the pronoun could mean.
    """
    last: _Sentence | None = None
    for sentence in sentences:
        known = None if last is None else last.subject
        rivals = set() if last is None else {one for one in (last.a, last.b, last.by) if one and one is not known}
        named = {one for one in rivals if last is not None and one.name in last.told()}
        clear = known is not None and not any((one in HE) == (known in HE) for one in named)
        pronoun = sentence.text.startswith("{A} ") and sentence.a is known and clear and rng.random() < _PRONOUNS
        yield sentence.told(pronoun)
        last = sentence


# What is given away without following the story

_NAMES: Final = frozenset(person.name for person in PEOPLE)
_PIECES: Final = re.compile(r"[A-Za-z]+|[0-9]+")
_THINGS: Final = frozenset(THINGS) | {thing + "s" for thing in THINGS}


@cache
def _plain() -> frozenset[str]:
    """How sentences that only say or ask how many somebody has read, without names, things and numbers."""
    texts = [opening.text for opening in OPENINGS] + [asks.text for asks in QUESTIONS if asks.operation is None]
    told = [fill(text, person, "apple", n) for text in texts for person in (HE[0], SHE[0]) for n in (1, 2)]
    sentences = [sentence for text in told for sentence in re.split(r"(?<=[.?]) ", text)]
    return frozenset(re.sub(r"[0-9]+ ?", "", _bare(sentence)) for sentence in [*sentences, "He is 9 years old."])


def _bare(sentence: str) -> str:
    """A sentence without who and what it is about."""
    words = [word for word in _PIECES.findall(sentence) if word not in _NAMES and word not in _THINGS]
    return " ".join("he" if word in ("He", "She", "she") else word for word in words)


def shortcuts(question: str) -> dict[str, str]:
    """Numbers at the ends and their sums, whatever is done with them; the last sentence with an operation alone.

    Of sentences that follow one another under a pronoun the name counts for all.
    """
    sentences = re.split(r"(?<=[.?]) ", question)
    numbers = [int(number) for number in re.findall("[0-9]+", question)]
    ending = sentences[-2:] if _pronoun(sentences[-1]) else sentences[-1:]
    asked = set(_PIECES.findall(" ".join(ending)))
    about, last = [], set[str]()
    for sentence in sentences:
        words = set(_PIECES.findall(sentence))
        last = last if _pronoun(sentence) else words & _NAMES
        if last & asked:
            about += [int(number) for number in re.findall("[0-9]+", sentence)]
    bare = [text for sentence in sentences if re.sub(r"[0-9]+ ?", "", text := _bare(sentence)) not in _plain()]
    return {
        "first number": str(numbers[0]),
        "last number": str(numbers[-1]),
        "first and last number": f"{numbers[0]} {numbers[-1]}",
        "largest number": str(max(numbers)),
        "sum of all numbers": str(sum(numbers)),
        "sum of the numbers about who is asked for": str(sum(about)),
        "last operation": bare[-1],
        "number of sentences": str(len(sentences)),
    }


def _pronoun(sentence: str) -> bool:
    """Whether a sentence names nobody and goes on about somebody."""
    words = set(_PIECES.findall(sentence))
    return not words & _NAMES and bool(words & {"He", "She", "he", "she"})
