"""The sentences of the task `stories`: people, things, and how English says +, -, * and / of what somebody has.

A form is one sentence (a question: one or two) with places to fill, and says what it does to the quantity that the
story follows. `{A}` has the quantity before, `{B}` has it afterwards, `{P}` stands by; `{things}` are counted before,
`{things2}` afterwards; `{n}` is the number that the sentence brings. Forms that are held out stand in the level `forms`
of the test set and nowhere else. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Operation = Literal["+", "-", "*", "/", "from"]
"""What a sentence makes of the quantity u and its number n: u + n, u - n, u * n, u / n, or n - u."""
Change = Literal["same", "person", "thing", "both"]
"""Who has the quantity afterwards: the same person and things, another person, other things, or both."""


@dataclass(frozen=True)
class Person:
    """A name and its pronouns."""

    name: str
    he: str
    his: str
    him: str


HE: Final = tuple(
    Person(name, "he", "his", "him")
    for name in ("Tom", "Ben", "Max", "Jack", "Paul", "Mark", "Adam", "Luke", "Peter", "David", "Carl", "Oscar")
)
SHE: Final = tuple(
    Person(name, "she", "her", "her")
    for name in ("Ann", "Mary", "Jane", "Alice", "Lily", "Maria", "Sarah", "Emily", "Ruth", "Kate", "Nina", "Lucy")
)
PEOPLE: Final = HE + SHE
THINGS: Final = (
    "apple", "orange", "egg", "onion", "lemon", "cookie", "book", "pen", "pencil", "card", "coin", "stamp", "shell",
    "marble", "ball", "cup", "plate", "sticker", "flower", "stone", "toy", "bead", "button", "photo", "key", "ring",
    "ticket", "candle", "spoon", "shirt", "hat", "bottle", "badge", "ribbon",
)  # fmt: skip
"""Singular; every plural has an s."""


@dataclass(frozen=True)
class Form:
    """A sentence that changes the quantity, or says another one by it."""

    name: str
    operation: Operation
    change: Change
    text: str
    held_out: bool = False
    event: bool = False  # something happens; otherwise it is true all along, and may be said before what it builds on
    numbers: tuple[int, ...] = ()  # the only numbers it can say, where it cannot say all


@dataclass(frozen=True)
class Opening:
    """A sentence that says how many somebody has, and nothing else."""

    name: str
    text: str
    held_out: bool = False


@dataclass(frozen=True)
class Question:
    """What ends a story: it asks for the quantity, or for one step more."""

    name: str
    operation: Operation | None  # None: the quantity itself
    text: str
    held_out: bool = False
    event: bool = False  # says that something has happened: only after events
    partner: bool = False  # its number is what {B} has, which a sentence of its own says


OPENINGS: Final = (
    Opening("has", "{A} has {n_things}."),
    Opening("owns", "{A} owns {n_things}."),
    Opening("belong", "{n_things} {belong} to {A}.", held_out=True),
    Opening("owner", "{A} is the owner of {n_things}.", held_out=True),
)


def _events(operation: Operation, *rows: tuple[str, str] | tuple[str, str, tuple[int, ...]]) -> tuple[Form, ...]:
    """Events of one operation; those whose names begin with a star are held out."""
    return tuple(
        Form(row[0].lstrip("*"), operation, "same", row[1], row[0][0] == "*", True, row[2] if len(row) > 2 else ())
        for row in rows
    )


def _relations(operation: Operation, *rows: tuple[str, Change, str]) -> tuple[Form, ...]:
    """What is true all along; those whose names begin with a star are held out."""
    return tuple(Form(name.lstrip("*"), operation, change, text, name[0] == "*") for name, change, text in rows)


FORMS: Final = (
    *_events(
        "+",
        ("buys", "{A} buys {more}."),
        ("finds", "{A} finds {more}."),
        ("gets from", "{A} gets {n_things} from {P}."),
        ("is given", "{P} gives {A} {n_things}."),
        ("wins", "{A} wins {n_things} in a game."),
        ("aunt", "{A}'s aunt brings {him} {more}."),
        ("adds", "{A} adds {n_things} to {his} collection."),
        ("birthday", "{A} gets {more} for {his} birthday."),
        ("*receives", "{A} receives {n_things} as a present."),
        ("*hands", "{P} hands {A} {n_things} as a prize."),
        ("*picks up", "{A} picks up {more} at the market."),
    ),
    *_events(
        "-",
        ("loses", "{A} loses {n} of {his} {things}."),
        ("gives to", "{A} gives {n_things} to {P}."),
        ("gives", "{A} gives {P} {n} of {his} {things}."),
        ("sells", "{A} sells {n} of {his} {things}."),
        ("takes", "{P} takes {n} of {A}'s {things}."),
        ("throws away", "{A} throws away {n_things}."),
        ("lends", "{A} lends {P} {n_things}."),
        ("get lost", "{n} of {A}'s {things} {get} lost."),
        ("*donates", "{A} donates {n_things} to {his} school."),
        ("*steals", "{P} steals {n_things} from {A}."),
        ("*parts with", "{A} parts with {n} of {his} {things}."),
    ),
    *_events(
        "*",
        ("until", "{A} gets more {things} until {he} has {times} as many as before."),
        ("doubles", "The number of {A}'s {things} doubles.", (2,)),
        ("triples", "The number of {A}'s {things} triples.", (3,)),
        ("grows", "The number of {A}'s {things} grows to {n} times what it was.", (4, 5)),
        ("*multiplies", "{A} multiplies {his} {things} by {n}."),
    ),
    *_events(
        "/",
        ("keeps", "{A} keeps only {part} of {his} {things}."),
        ("piles", "{A} splits {his} {things} into {n} equal piles and keeps one pile."),
        ("half away", "{A} gives away half of {his} {things}.", (2,)),
        ("*divides", "{A} divides {his} {things} equally among {n} people, {himself} included."),
    ),
    *_relations(
        "+",
        ("more", "person", "{B} has {more} than {A}."),
        ("fewer, turned", "person", "{A} has {fewer} than {B}."),
        ("and more", "person", "{B} has as many {things} as {A} and {n} more."),
        ("needs, turned", "person", "{A} needs {more} to have as many as {B}."),
        ("more, other", "thing", "{A} has {more2} than {things}."),
        ("more, both", "both", "{B} has {more2} than {A} has {things}."),
        ("*outnumber", "person", "{B}'s {things} outnumber {A}'s by {n}."),
        ("*short, turned", "person", "{A} is {n_things} short of what {B} has."),
    ),
    *_relations(
        "-",
        ("fewer", "person", "{B} has {fewer} than {A}."),
        ("more, turned", "person", "{A} has {more} than {B}."),
        ("needs", "person", "{B} needs {more} to have as many as {A}."),
        ("fewer, other", "thing", "{A} has {fewer2} than {things}."),
        ("fewer, both", "both", "{B} has {fewer2} than {A} has {things}."),
        ("*outnumber, turned", "person", "{A}'s {things} outnumber {B}'s by {n}."),
        ("*short", "person", "{B} is {n_things} short of what {A} has."),
    ),
    *_relations(
        "*",
        ("times", "person", "{B} has {times} as many {things} as {A}."),
        ("part, turned", "person", "{A} has {part} as many {things} as {B}."),
        ("times, other", "thing", "{A} has {times} as many {things2} as {things}."),
        ("times, both", "both", "{B} has {times} as many {things2} as {A} has {things}."),
        ("for each", "thing", "{A} has {n_things2} for each of {his} {things}."),
        ("*for every one", "person", "For every one of {A}'s {things}, {B} has {n_things}."),
    ),
    *_relations(
        "/",
        ("part", "person", "{B} has {part} as many {things} as {A}."),
        ("times, turned", "person", "{A} has {times} as many {things} as {B}."),
        ("part, other", "thing", "{A} has {part} as many {things2} as {things}."),
        ("part, both", "both", "{B} has {part} as many {things2} as {A} has {things}."),
        ("for every", "thing", "{A} has {a_thing2} for every {n} of {his} {things}."),
        ("*one for every", "person", "For every {n} of {A}'s {things}, {B} has one."),
    ),
    Form("trades each", "*", "thing", "{A} trades each of {his} {things} for {n_things2}.", event=True),
    Form("trades every", "/", "thing", "{A} trades every {n} of {his} {things} for {a_thing2}.", event=True),
    Form("swaps", "*", "thing", "{A} swaps all of {his} {things} and gets {n_things2} for each.", True, event=True),
    Form(
        "swaps groups", "/", "thing", "{A} swaps {his} {things} and gets {a_thing2} for each group of {n}.", True, True
    ),
)

QUESTIONS: Final = (
    Question("how many", None, "How many {things} does {A} have?"),
    Question("now", None, "How many {things} does {A} have now?", event=True),
    Question("number", None, "What is the number of {things} that {A} has?"),
    Question("counts", None, "{A} counts {his} {things}. What number does {he} get to?", held_out=True),
    Question("find", None, "Find out how many {things} are {A}'s.", held_out=True),
    Question("together", "+", "How many {things} do {A} and {B} have together?", partner=True),
    Question("in total", "+", "How many {things} do {B} and {A} have in total?", partner=True),
    Question("hands over", "+", "If {B} hands everything over to {A}, how many {things} does {A} have then?", True,
             partner=True),
    Question("how many more", "-", "How many more {things} does {A} have than {B}?", partner=True),
    Question("how many fewer", "-", "How many fewer {things} does {B} have than {A}?", partner=True),
    Question("how many more, turned", "from", "How many more {things} does {B} have than {A}?", partner=True),
    Question("how many fewer, turned", "from", "How many fewer {things} does {A} have than {B}?", partner=True),
    Question("wants", "from", "{A} wants to have {n_things}. How many more does {he} need?"),
    Question("ahead", "-", "By how many {things} is {A} ahead of {B}?", True, partner=True),
    Question("ahead, turned", "from", "By how many {things} is {B} ahead of {A}?", True, partner=True),
    Question("sells all", "*", "If {A} sells all {his} {things} for {n} dollars each, how many dollars does {he} get?"),
    Question("weighs", "*", "Each of {A}'s {things} weighs {n} pounds. How many pounds do they weigh together?"),
    Question("as many", "*", "How many {things} are {times} as many as {A} has?", held_out=True),
    Question("friends", "/",
             "If {A} shares all {his} {things} equally among {n} friends, how many does each friend get?"),
    Question("boxes", "/", "{A} puts all {his} {things} into boxes of {n}. How many boxes does {he} fill?"),
    Question("shelves", "/",
             "If {A} spreads {his} {things} evenly over {n} shelves, how many lie on each shelf?", True),
)  # fmt: skip

_PARTS: Final = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth"}


def fill(
    text: str,
    a: Person,
    thing: str,
    n: int,
    *,
    b: Person | None = None,
    by: Person | None = None,
    thing2: str = "",
    subject: str = "",
) -> str:
    """A form's text with its places filled.

    Args:
        a: who has the quantity before.
        thing: what is counted before, in the singular.
        n: the number that the sentence brings.
        b: who has it afterwards, or the partner of a question.
        by: who stands by.
        thing2: what is counted afterwards.
        subject: a pronoun for the `{A}` that begins the text; "": the name.
    """
    s = "" if n == 1 else "s"
    places = {
        "A": a.name,
        "B": b.name if b else "",
        "P": by.name if by else "",
        "he": a.he,
        "his": a.his,
        "him": a.him,
        "himself": f"{a.him}self",
        "n": n,
        "things": thing + "s",
        "n_things": f"{n} {thing}{s}",
        "more": f"{n} more {thing}{s}",
        "fewer": f"{n} fewer {thing}{s}",
        "things2": thing2 + "s",
        "n_things2": f"{n} {thing2}{s}",
        "more2": f"{n} more {thing2}{s}",
        "fewer2": f"{n} fewer {thing2}{s}",
        "a_thing2": f"{'an' if thing2[:1] in tuple('aeiou') else 'a'} {thing2}",
        "times": "twice" if n == 2 else f"{n} times",
        "part": _PARTS.get(n, ""),
        "belong": "belongs" if n == 1 else "belong",
        "get": "gets" if n == 1 else "get",
    }
    if subject:
        text = subject.capitalize() + text.removeprefix("{A}")
    return text.format_map(places)
