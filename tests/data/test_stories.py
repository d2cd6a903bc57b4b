"""Generated word problems: a reader of its own solves each from its text; grammar, balance, splits, and what is needed.

The reader below knows nothing of the generator's forms: it has sentence patterns of its own and books what people have.
A sentence that it cannot read is an error.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache

import pytest

from rim_bench.data.datasets import evaluation_data
from rim_bench.data.reader import Split
from rim_bench.data.task import load_task
from rim_bench.methods.method import Example
from rim_bench.tasks import stories
from rim_bench.tasks.story_forms import FORMS, OPENINGS, QUESTIONS, THINGS
from rim_bench.tasks.streams import split_of

BOYS = ["Tom", "Ben", "Max", "Jack", "Paul", "Mark", "Adam", "Luke", "Peter", "David", "Carl", "Oscar"]
GIRLS = ["Ann", "Mary", "Jane", "Alice", "Lily", "Maria", "Sarah", "Emily", "Ruth", "Kate", "Nina", "Lucy"]
WORD_NUMBERS = {"twice": 2, "half": 2, "a third": 3, "a quarter": 4, "a fifth": 5, "doubles": 2, "triples": 3}
PRONOUNS = ("he", "she", "his", "her", "him", "himself", "herself")
TRAINED = ("T=1", "T=2", "T=3", "T=4")


@cache
def drawn(n: int, split: str, levels: tuple[str, ...] = stories.LEVELS) -> list[Example]:
    return stories.generate(n, levels, 0, split)


# A reader of stories

PLACES = {
    "A": rf"(?P<A>{'|'.join(BOYS + GIRLS)})",
    "B": rf"(?P<B>{'|'.join(BOYS + GIRLS)})",
    "N": r"(?P<n>\d+)",
    "T": r"(?P<t>[a-z]+)",
    "U": r"(?P<u>[a-z]+)",
    "TIMES": r"(?P<k>twice|(?P<kn>\d+) times)",
    "PART": r"(?P<k>half|a third|a quarter|a fifth)",
    "own": r"(?:his|her)",
}


def pattern(text: str) -> re.Pattern[str]:
    places = rf"(?<![=<])\b({'|'.join(PLACES)})\b"  # but for names of groups
    return re.compile(re.sub(places, lambda m: PLACES[m[0]], text) + "[.?]")


GAINS = [
    "A (?:buys|finds) N more T", "A gets N T from B", "A wins N T in a game", "A's aunt brings (?:him|her) N more T",
    "A adds N T to own collection", "A gets N more T for own birthday", "A receives N T as a present",
    "A picks up N more T at the market",
]  # fmt: skip
LOSSES = [
    "A (?:loses|sells|parts with) N of own T", "A gives N T to B", "A gives B N of own T", "A throws away N T",
    "A lends B N T", "N of A's T gets? lost", "A donates N T to own school",
]  # fmt: skip
TAKINGS = ["B takes N of A's T", "B steals N T from A"]  # A loses what B gets
GIFTS = ["B gives A N T", "B hands A N T as a prize"]  # A gets what B loses
SCALINGS = {  # what is multiplied, or divided
    "A gets more T until (?:he|she) has TIMES as many as before": 1,
    "The number of A's T (?P<k>doubles|triples)": 1,
    "The number of A's T grows to N times what it was": 1,
    "A multiplies own T by N": 1,
    "A keeps only PART of own T": -1,
    "A splits own T into N equal piles and keeps one pile": -1,
    "A gives away (?P<k>half) of own T": -1,
    "A divides own T equally among N people, (?:himself|herself) included": -1,
}
EXCHANGES = {  # A's T become U
    "A trades each of own T for N U": 1,
    "A swaps all of own T and gets N U for each": 1,
    "A trades every N of own T for an? U": -1,
    "A swaps own T and gets an? U for each group of N": -1,
}
# What B has of U is so much more than, or so many times, what A has of T; without U the things are the same, without B
# the people.
SUMS = {
    "B has N more T than A": 1, "B has N fewer T than A": -1, "B has as many T as A and N more": 1,
    "A needs N more T to have as many as B": 1, "A has N more U than T": 1, "A has N fewer U than T": -1,
    "B has N more U than A has T": 1, "B has N fewer U than A has T": -1, "B's T outnumber A's by N": 1,
    "A is N T short of what B has": 1,
}  # fmt: skip
RATIOS = {
    "B has TIMES as many T as A": 1, "B has PART as many T as A": -1, "A has TIMES as many U as T": 1,
    "A has PART as many U as T": -1, "B has TIMES as many U as A has T": 1, "B has PART as many U as A has T": -1,
    "A has N U for each of own T": 1, "A has an? U for every N of own T": -1,
    "For every one of A's T, B has N (?P=t)": 1, "For every N of A's T, B has one": -1,
}  # fmt: skip
HOLDINGS = ["A (?:has|owns|is the owner of) N T", "N T belongs? to A"]
PLAIN = [
    "How many T does A have(?: now)?", "What is the number of T that A has", "Find out how many T are A's",
    "A counts own T. What number does (?:he|she) get to",
]  # fmt: skip
ENDS: dict[str, Callable[[Fraction, Fraction, Fraction], Fraction]] = {  # of what A and B have, and the number
    "How many T do A and B have (?:together|in total)": lambda a, b, n: a + b,
    "If B hands everything over to A, how many T does (?P=A) have then": lambda a, b, n: a + b,
    "How many more T does A have than B": lambda a, b, n: a - b,
    "How many fewer T does B have than A": lambda a, b, n: a - b,
    "By how many T is A ahead of B": lambda a, b, n: a - b,
}
SOLO: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "A wants to have N T. How many more does (?:he|she) need": lambda a, n: n - a,
    "If A sells all own T for N dollars each, how many dollars does (?:he|she) get": lambda a, n: a * n,
    "Each of A's T weighs N pounds. How many pounds do they weigh together": lambda a, n: a * n,
    "How many T are TIMES as many as A has": lambda a, n: a * n,
    "If A shares all own T equally among N friends, how many does each friend get": lambda a, n: a / n,
    "A puts all own T into boxes of N. How many boxes does (?:he|she) fill": lambda a, n: a / n,
    "If A spreads own T evenly over N shelves, how many lie on each shelf": lambda a, n: a / n,
}


@cache
def table(kind: str) -> list[tuple[re.Pattern[str], object]]:
    made: dict[str, object] = {
        "gain": dict.fromkeys(GAINS, 1) | dict.fromkeys(GIFTS, 1),
        "loss": dict.fromkeys(LOSSES, 1) | dict.fromkeys(TAKINGS, 1),
        "scaling": SCALINGS, "exchange": EXCHANGES, "sum": SUMS, "ratio": RATIOS, "holding": dict.fromkeys(HOLDINGS, 1),
        "age": {"A is N years old": 1}, "plain": dict.fromkeys(PLAIN, 1), "end": ENDS, "solo": SOLO,
    }  # fmt: skip
    return [(pattern(text), value) for text, value in made[kind].items()]  # type: ignore[attr-defined]


@cache
def read(sentence: str, *kinds: str) -> tuple[str, dict[str, str], object]:
    """Kind, places and what the pattern's table says of it; exactly one reading."""
    readings = [
        (kind, {key: text for key, text in m.groupdict().items() if text is not None}, value)
        for kind in kinds
        for regex, value in table(kind)
        if (m := regex.fullmatch(sentence))
    ]
    assert len(readings) == 1, f"{len(readings)} readings of {sentence!r}: {readings}"
    return readings[0]


def number(places: dict[str, str]) -> Fraction:
    text = places.get("n") or places.get("kn") or places["k"]
    return Fraction(WORD_NUMBERS.get(text) or int(text))


@dataclass
class Book:
    """What people have, as far as the sentences so far say."""

    have: dict[tuple[str, str], Fraction] = field(default_factory=dict)
    links: list[tuple[tuple[str, str], tuple[str, str], Fraction, Fraction]] = field(default_factory=list)

    def enter(self, sentence: str) -> None:
        kinds = ("gain", "loss", "scaling", "exchange", "sum", "ratio", "holding", "age")
        kind, places, value = read(sentence, *kinds)
        n, thing = number(places), singular(places.get("t", ""))
        mine = (places["A"], thing)
        if kind == "holding":
            self.have[mine] = n
        elif kind in ("sum", "ratio"):
            other = (places.get("B", places["A"]), singular(places.get("u", places["t"])))
            factor = n ** int(str(value)) if kind == "ratio" else Fraction(1)
            self.links.append((mine, other, factor, n * int(str(value)) if kind == "sum" else Fraction(0)))
        elif kind in ("gain", "loss") and mine in self.have:
            self.have[mine] += n if kind == "gain" else -n
        elif kind == "scaling" and mine in self.have:
            self.have[mine] *= n ** int(str(value))
        elif kind == "exchange" and mine in self.have:
            self.have[mine[0], singular(places["u"])] = self.have.pop(mine) * n ** int(str(value))
        for _ in range(len(self.links)):  # whatever follows from what is known by now, in both directions
            for link in list(self.links):
                one, other, factor, added = link
                if one in self.have and other not in self.have:
                    self.have[other] = self.have[one] * factor + added
                    self.links.remove(link)
                elif other in self.have and one not in self.have:
                    self.have[one] = (self.have[other] - added) / factor
                    self.links.remove(link)

    def answer(self, asked: str) -> Fraction | None:
        kind, places, rule = read(asked, "plain", "end", "solo")
        thing = singular(places["t"])
        mine, theirs = self.have.get((places["A"], thing)), self.have.get((places.get("B", ""), thing))
        if mine is None or kind == "plain":
            return mine
        if kind == "end":
            return None if theirs is None else rule(mine, theirs, Fraction(0))  # type: ignore[operator,no-any-return]
        return rule(mine, number(places))  # type: ignore[operator,no-any-return]


def singular(thing: str) -> str:
    return thing.removesuffix("s")


def sentences_of(question: str) -> tuple[list[str], str]:
    """The sentences with names for the pronouns that begin them, and what is asked (which may be two sentences)."""
    parts = re.split(r"(?<=[.?]) ", question)
    asked = [parts.pop()]
    if not re.search(rf"\b({'|'.join(BOYS + GIRLS)})\b", asked[0]):
        asked.insert(0, parts.pop())
    out: list[str] = []
    subject = ""
    for part in parts:
        first, _, rest = part.partition(" ")
        if first in ("He", "She"):
            assert subject in (BOYS if first == "He" else GIRLS), question
            same = [name for name in named(out[-1]) if (name in BOYS) == (subject in BOYS)]
            assert set(same) == {subject}, f"who is {first} in {part!r}, after {out[-1]!r}?"
            first = subject
        subject = first if first in BOYS + GIRLS else ""
        out.append(f"{first} {rest}")
    return out, " ".join(asked)


def named(sentence: str) -> list[str]:
    return [word for word in re.findall("[A-Z][a-z]+", sentence) if word in BOYS + GIRLS]


def solve(sentences: list[str], asked: str) -> Fraction | None:
    book = Book()
    for sentence in sentences:
        book.enter(sentence)
    return book.answer(asked)


def needed(example: Example) -> list[int]:
    """The sentences without which the question has another answer, or none."""
    sentences, asked = sentences_of(example.question)
    return [
        k for k in range(len(sentences)) if solve(sentences[:k] + sentences[k + 1 :], asked) != Fraction(example.answer)
    ]


# What the reader says of the questions


def test_answers_follow_from_the_text_and_every_step_is_needed() -> None:
    """Without any one needed sentence the answer is another or none; all that are not needed may go together."""
    for example in drawn(960, "test") + drawn(800, "train", TRAINED):
        sentences, asked = sentences_of(example.question)
        answer = Fraction(example.answer)
        assert solve(sentences, asked) == answer, example
        kept = needed(example)
        brings_its_own = read(asked, "plain", "end", "solo")[0] == "solo"
        assert len(kept) == len(example.steps) + 1 - brings_its_own, example
        assert len(sentences) - len(kept) in (1, 2), example
        assert solve([sentences[k] for k in kept], asked) == answer, example


def test_steps_are_the_sums_of_the_text() -> None:
    for example in drawn(960, "test") + drawn(800, "train", TRAINED):
        sentences, asked = sentences_of(example.question)
        said = Counter(number(read(s, *("gain", "loss", "scaling", "exchange", "sum", "ratio", "holding", "age"))[1])
                       for s in sentences)  # fmt: skip
        kind, places, _ = read(asked, "plain", "end", "solo")
        said[number(places) if kind == "solo" else Fraction(-1)] += 1
        result, used = None, Counter[Fraction]()
        for k, step in enumerate(example.steps):
            a, sign, b, c = re.fullmatch(r"<<(\d+)([-+*/])(\d+)=(\d+)>>", step).groups()  # type: ignore[union-attr]
            one, other, after = Fraction(a), Fraction(b), Fraction(c)
            assert {"+": one + other, "-": one - other, "*": one * other, "/": one / other}[sign] == after > 0, example
            if k == 0:
                used.update([one, other])
            else:
                assert result in (one, other), example  # each step takes up the one before
                used[other if one == result else one] += 1
            result = after
        assert result == Fraction(example.answer) and used <= said, example
        depth = example.level.removeprefix("T=")
        assert len(example.steps) == int(depth) if depth.isdigit() else 1 <= len(example.steps) <= 4


def test_numbers_stay_in_the_stated_ranges() -> None:
    for example in drawn(960, "test") + drawn(800, "train", TRAINED):
        numbers = [int(one) for step in example.steps for one in re.findall(r"\d+", step)]
        large = example.level == "numbers"
        assert max(numbers) <= (120 if large else 24) and int(example.answer) in (
            range(12, 52) if large else range(2, 12)
        )
        assert all(1 <= int(one) <= (120 if large else 24) for one in re.findall(r"\d+", example.question))


def test_every_text_is_grammatical() -> None:
    """One of a kind has no s, several have; a and an; verbs that go with one; pronouns of the right person."""
    for example in drawn(960, "test") + drawn(1600, "train", TRAINED):
        text = example.question
        for n, _, word in re.findall(r"(\d+) (more |fewer )?([a-z]+)", text):
            if singular(word) in THINGS:
                assert word == (singular(word) if n == "1" else singular(word) + "s"), text
        for article, word in re.findall(r"\b(an?) ([a-z]+)", text):
            if word in THINGS:
                assert article == ("an" if word[0] in "aeiou" else "a"), text
        for n, verb in re.findall(r"\b(\d+) of [A-Z][a-z]+'s [a-z]+ (gets?) lost", text) + re.findall(
            r"\b(\d+) [a-z]+ (belongs?) to", text
        ):
            assert verb.endswith("s") == (n == "1"), text
        sentences, asked = sentences_of(text)
        for sentence in [*sentences, *re.split(r"(?<=[.?]) ", asked)]:
            owner = (named(sentence) or named(asked))[-1 if sentence.startswith("For every") else 0]
            for word in re.findall(r"\b(he|she|his|her|him|himself|herself)\b", sentence):
                assert (word in ("he", "his", "him", "himself")) == (owner in BOYS), text
        assert not re.search(r"\s\s|[{}]|\bNone\b", text) and text[0].isupper() | text[0].isdigit(), text
        assert text.endswith("?") or text.startswith("Find out", text.rindex(". ") + 2)


def test_a_reader_that_is_fooled_is_none() -> None:
    """One number, one word or one name changed: another answer, or no reading."""
    story = "Mary has 4 more stamps than Adam. Adam has 7 stamps. Mary loses 3 of her stamps."
    asked = "How many stamps does Mary have?"

    def answer(text: str) -> Fraction | None:
        return solve(*sentences_of(f"{text} {asked}"))

    assert answer(story) == 8
    assert answer(story.replace("4", "5")) == 9 and answer(story.replace("more", "fewer")) == 0
    assert answer(story.replace("Mary loses", "Adam loses").replace("her", "his")) == 11
    assert answer(story.replace("Adam has 7 stamps. ", "")) is None
    with pytest.raises(AssertionError, match="readings"):
        answer(story.replace("loses", "frobs"))
    with pytest.raises(AssertionError, match="who is He"):
        answer("Tom gives 4 stamps to Adam. He has 7 stamps.")


# The family


def test_levels_and_answers_are_balanced() -> None:
    counts = Counter((e.level, e.answer) for e in drawn(960, "test"))
    small = {(level, str(a)): 12 for level in stories.LEVELS[:-1] for a in range(2, 12)}
    assert counts == small | {("numbers", str(a)): 3 for a in range(12, 52)}
    train = drawn(800, "train", TRAINED)
    assert Counter(e.answer for e in train) == {str(a): 80 for a in range(2, 12)}
    assert set(Counter(e.level for e in train).values()) == {200}


def shape(text: str) -> str:
    """A text without names, things and pronouns."""
    words = (
        "x" if word in BOYS + GIRLS or singular(word) in THINGS else "h" if word in PRONOUNS else word
        for word in re.findall("[A-Za-z]+|[0-9]+", text)
    )
    return " ".join(words)


def anonymous(example: Example) -> str:
    """The needed sentences without names, things and their order: what two tellings of a story share."""
    sentences, asked = sentences_of(example.question)
    ordered = [*sorted((sentences[k] for k in needed(example)), key=shape), asked]
    known: dict[str, str] = {}
    for text in ordered:
        for word in re.findall("[A-Za-z]+", text):
            if word in BOYS + GIRLS or singular(word) in THINGS:
                known.setdefault(word if word in BOYS + GIRLS else singular(word), f"x{len(known)}")
    bare = re.sub(rf"\b({'|'.join(PRONOUNS)})\b", "h", " | ".join(ordered))
    return re.sub("[A-Za-z]+", lambda m: known.get(m[0], known.get(singular(m[0]), m[0])), bare)


def test_splits_are_disjoint_in_what_is_told() -> None:
    """Also under other names and things, in another order and beside other sentences, whatever the seeds.

    At one step there are so few stories that training has a good part of them.
    """
    train = [e for seed in (0, 1) for e in stories.generate(600, ["T=1"], seed, "train")]
    sets = [train, drawn(150, "validation", ("T=1",)), drawn(150, "test", ("T=1",)), drawn(200, "test", TRAINED)]
    told = [set(map(anonymous, examples)) for examples in sets]
    assert len(told[0]) < 1100 and len(told[1]) == len(told[2]) == 150 and len(told[3]) == 200
    assert not told[0] & (told[1] | told[2] | told[3]) and not told[1] & (told[2] | told[3])
    one = "Ruth owns 9 pens. Mary has 4 more stamps than Adam. Adam has 7 stamps. How many stamps does Mary have?"
    same = "Ben has 7 eggs. Tom has 4 more eggs than Ben. Kate owns 5 eggs. How many eggs does Tom have?"
    asked = [Example("", text, (), "11") for text in (one, same)]
    assert anonymous(asked[0]) == anonymous(asked[1]) != anonymous(Example("", same.replace("4", "5"), (), "12"))


def test_plans_decide_the_split_and_names_have_no_part_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: dict[str, list[str]] = defaultdict(list)

    def noted(key: str) -> str:
        keys[split_of(key)].append(key)
        return split_of(key)

    monkeypatch.setattr(stories, "split_of", noted)
    stories.generate(60, TRAINED, 0, "test")
    assert len(keys["test"]) >= 60 and len(keys["train"]) > 4 * len(keys["test"])
    assert not any(name in key for some in keys.values() for key in some for name in (*BOYS, *GIRLS))


def test_held_out_sentences_are_in_their_level_alone() -> None:
    """Every sentence of `forms` is held out, and none of them is trained."""

    def shapes(examples: list[Example]) -> set[str]:
        texts = [text for e in examples for parts in [sentences_of(e.question)] for text in (*parts[0], parts[1])]
        words = r"\b(half|a third|a quarter|a fifth|twice|\d+ times|\d+)\b"
        return {shape(re.sub(words, "N", text)) for text in texts if "years old" not in text}

    trained = shapes(drawn(2500, "train", TRAINED))
    held = shapes(drawn(300, "test", ("forms",)))
    assert not trained & held and len(held) > 20
    others = shapes([e for e in drawn(960, "test") if e.level != "forms"])
    assert others <= trained


def test_there_are_enough_sentences_for_every_operation() -> None:
    trained = [form for form in (*FORMS, *QUESTIONS) if not form.held_out and form.operation]
    assert len(trained) >= 40 and len({form.text for form in (*FORMS, *QUESTIONS, *OPENINGS)}) == len(
        FORMS + QUESTIONS + OPENINGS
    )
    assert len({(form.operation, form.name) for form in FORMS}) == len(FORMS), "names decide the split"
    for operation in "+-*/":
        for held_out, least in ((False, 10), (True, 3)):
            forms = [form for form in (*FORMS, *QUESTIONS) if form.held_out == held_out and form.operation == operation]
            assert len(forms) >= least, (operation, held_out)


def test_the_stream_is_deterministic_and_a_prefix_of_a_longer_one() -> None:
    assert stories.generate(50, stories.LEVELS, 3, "test") == stories.generate(200, stories.LEVELS, 3, "test")[:50]
    assert stories.generate(50, stories.LEVELS, 3, "test") != stories.generate(50, stories.LEVELS, 4, "test")


def test_the_registered_test_set_is_pinned() -> None:
    """A change here changes every stored result of the task, and must raise its version."""
    data = evaluation_data(load_task("stories"))
    assert data.registered is True and data.sha256[:16] == PINNED
    assert Split(tuple(drawn(960, "test")), "", "test").sha256[:16] == PINNED


PINNED = "64b5a09fdff410ef"


def test_the_smallest_level_is_large_enough_and_its_end_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({e.question for e in stories.generate(400, ["T=1"], 0, "test")}) == 400
    monkeypatch.setattr(stories, "TRIES", 3)
    with pytest.raises(ValueError, match="level T=1 has too few test stories"):
        stories.generate(400, ["T=1"], 0, "test")


@pytest.mark.parametrize(
    ("n", "levels", "split"), [(1, ["T=7"], "test"), (1, [], "test"), (-1, ["T=1"], "test"), (1, ["T=1"], "tset")]
)
def test_bad_requests_are_refused(n: int, levels: list[str], split: str) -> None:
    with pytest.raises(ValueError):
        stories.generate(n, levels, 0, split)


def test_features_by_hand() -> None:
    found = stories.shortcuts(
        "Mary has 4 more stamps than Adam. Ruth owns 9 cups. Adam has 7 stamps. Mary loses 3 of her stamps. "
        "She is 12 years old. How many stamps does Mary have?"
    )
    assert found == {
        "first number": "4",
        "last number": "12",
        "first and last number": "4 12",
        "largest number": "12",
        "sum of all numbers": "35",
        "sum of the numbers about who is asked for": "19",
        "last operation": "loses 3 of her",
        "number of sentences": "6",
    }
    ends = stories.shortcuts(
        "Tom has 8 eggs. Ann has 3 eggs. Tom puts all his eggs into boxes of 2. How many boxes does he fill?"
    )
    assert ends["last operation"] == "How many boxes does he fill" and ends["last number"] == "2"
