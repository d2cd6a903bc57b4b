"""ProsQA (Hao et al., arXiv 2412.06769), which of two classes somebody is in: published rows, and graphs like them.

    Every shumpus is a rempus. Tom is a terpus. Every terpus is a brimpus. ... Is Tom a lempus or scrompus?

One of the two is reached from the person asked about, the other from somebody else only. Steps are the sentences of a
shortest path, the answer is a sentence: `Tom is a lempus.` The published training rows are generated too, but by a
program that is not public. `draw_graph` was fitted to the 800 published validation and test rows: nodes, edges, parents
of a node, what is reached from whom, hops and the depth of the wrong option agree (tests compare them).

A graph grows node by node out of two people, each of whom has a side. A new node belongs to one side, or may have
parents anywhere; it has a Poisson number of parents, deeper ones more likely. A node without parents is another person;
one without any edge is dropped. The answer is the deepest leaf that only one of the first two people reaches, and lies
3 to 6 hops away; the wrong option is a leaf that only the other one reaches.

Levels: `hops=3-6` is like the published rows. Out of distribution are `hops=7`, `hops=8` (exactly), `dense` (twice the
mean number of parents) and `dag` (nobody has a single parent where more are to be had, and several shortest paths lead
to the answer).

The hash of the graph decides its split (80 / 10 / 10 %), whatever its names and the order of its sentences: training,
validation and test graphs are disjoint for every seed. Which option comes first is balanced: once each in every two
questions. Standard library only.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from rim_bench.methods.method import Example
from rim_bench.tasks import streams
from rim_bench.tasks.streams import check_request, shuffled_runs

PEOPLE: Final = [
    "Alex",
    "Bob",
    "Carol",
    "Davis",
    "Eva",
    "Fae",
    "Gabriel",
    "Jack",
    "Max",
    "Oliver",
    "Polly",
    "Rex",
    "Sally",
    "Sam",
    "Stella",
    "Tom",
    "Wren",
]
_STEMS: Final = [
    "bom",
    "boom",
    "brim",
    "chor",
    "dum",
    "fel",
    "fom",
    "ger",
    "gor",
    "grim",
    "gwom",
    "hil",
    "im",
    "jel",
    "jom",
    "ker",
    "lem",
    "lor",
    "num",
    "quim",
    "rem",
    "rom",
    "ror",
    "scrom",
    "shum",
    "ster",
    "stor",
    "ter",
    "tim",
    "tum",
    "vum",
    "wor",
    "wum",
    "yer",
    "yim",
    "yum",
    "zhor",
    "zum",
]
CLASSES: Final = [stem + "pus" for stem in _STEMS]
LEVELS: Final = ("hops=3-6", "hops=7", "hops=8", "dense", "dag")
TOKEN_PATTERN: Final = r"#### |\. Every | is a | a | or |Every |Is |\. |[A-Za-z]+|\n|[\s\S]"
"""Pieces for a tokenizer from scratch: a name is the same token wherever it stands, what stands between names is one
token.
"""

_ASKED: Final = re.compile(r"Is (\w+) an? (\w+) or (?:an? )?(\w+)\?$")


@dataclass(frozen=True)
class _Shape:
    """How graphs of a level grow. The defaults are those fitted to the published rows."""

    nodes: int = 28  # before nodes without an edge are dropped
    parents: float = 1.5  # mean of the Poisson number of parents
    least: int = 0  # parents where there are so many to choose from
    depth: float = 1.5  # a parent at depth d weighs 1 + depth * d, to the power
    power: float = 1.0
    hops: tuple[int, ...] = (3, 4, 5, 6)
    several: bool = False  # more than one shortest path to the answer


_SIDES: Final = (0.35, 0.45)  # share of nodes whose parents are on the first person's side, on the second's
_SHAPES: Final = {
    "hops=3-6": _Shape(),
    "hops=7": _Shape(power=6.0, hops=(7,)),
    "hops=8": _Shape(power=6.0, hops=(8,)),
    "dense": _Shape(parents=3.0),
    "dag": _Shape(least=2, several=True),
}


@dataclass(frozen=True)
class Graph:
    """A problem without names: edges (parent, child) by index, people are the nodes without a parent."""

    size: int
    edges: tuple[tuple[int, int], ...]
    root: int
    target: int
    neg_target: int
    path: tuple[int, ...]  # a shortest one, root to target


def split_of(graph: Graph) -> str:
    """The only split in which a graph may occur; names and order of sentences have no part in it."""
    key = repr((graph.size, graph.edges, graph.root, graph.target, graph.neg_target))
    return streams.split_of(key)


def generate(n: int, levels: Sequence[str], seed: int, split: str) -> list[Example]:
    """`n` examples whose levels take turns; all graphs are distinct, and the first k examples do not depend on n.

    Raises:
        ValueError: an unknown split or level, or a negative n.
    """
    return [
        _example(f"prosqa/{split}/{i}", row, level)
        for i, (level, row) in enumerate(generate_rows(n, levels, seed, split))
    ]


def generate_rows(n: int, levels: Sequence[str], seed: int, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(level, row in the published form) of the same examples:
    question, answer, steps, idx_to_symbol, edges, root, target, neg_target.
    """
    check_request(n, levels, split, LEVELS)
    rng = random.Random(f"prosqa/{split}/{seed}")
    turns, sides = shuffled_runs(len(levels), rng), {level: shuffled_runs(2, rng) for level in levels}
    seen: set[Graph] = set()
    for _ in range(n):
        level = levels[next(turns)]
        while (graph := draw_graph(_SHAPES[level], rng)) is None or graph in seen or split_of(graph) != split:
            pass
        seen.add(graph)
        yield level, _row(graph, next(sides[level]) == 0, rng)


def draw_graph(shape: _Shape, rng: random.Random) -> Graph | None:
    """One graph, or None where it has no fitting pair of options."""
    sides, depths = [1, 2], [0, 0]  # a side is a set of the first two people, as bits: who reaches the node
    reach: list[list[float]] = [[0, math.inf], [math.inf, 0]]  # hops from each of the two
    pools: list[tuple[list[int], list[float]]] = [([0], [1.0]), ([1], [1.0]), ([0, 1], [1.0, 1.0])]
    parents_of: list[list[int]] = [[], []]
    for node in range(2, shape.nodes):
        drawn = rng.random()
        candidates, weights = pools[0 if drawn < _SIDES[0] else 1 if drawn < sum(_SIDES) else 2]
        count = min(len(candidates), max(shape.least, _poisson(shape.parents, rng)))
        parents = _distinct(candidates, weights, count, rng)
        side, depth = 0, 0
        for parent in parents:
            side |= sides[parent]
        if parents:
            depth = 1 + min(depths[parent] for parent in parents)
        for hops in reach:
            hops.append(1 + min((hops[parent] for parent in parents), default=math.inf))
        sides.append(side)
        depths.append(depth)
        parents_of.append(parents)
        weight = (1 + shape.depth * depth) ** shape.power
        for pool in (2, side - 1) if side in (1, 2) else (2,):
            pools[pool][0].append(node)
            pools[pool][1].append(weight)
    return _pose(shape, parents_of, sides, reach, rng)


def _distinct(items: Sequence[int], weights: Sequence[float], count: int, rng: random.Random) -> list[int]:
    """`count` different items, drawn by weight, one after the other."""
    if count < 2:
        return rng.choices(items, weights, k=count)
    left, out = list(weights), []
    for _ in range(count):
        (at,) = rng.choices(range(len(left)), left)
        out.append(items[at])
        left[at] = 0.0
    return out


def _poisson(mean: float, rng: random.Random) -> int:
    limit, product, count = math.exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        count += 1
    return count


def _pose(
    shape: _Shape,
    parents_of: Sequence[Sequence[int]],
    sides: Sequence[int],
    reach: Sequence[Sequence[float]],
    rng: random.Random,
) -> Graph | None:
    """The question that a grown graph allows, with nodes that have no edge left out."""
    inner = {parent for parents in parents_of for parent in parents}
    if not {0, 1} <= inner:
        return None
    leaves = [[i for i in range(2, len(sides)) if sides[i] == side and i not in inner] for side in (1, 2)]
    if not leaves[0] or not leaves[1]:
        return None
    deepest = max(reach[who][leaf] for who in (0, 1) for leaf in leaves[who])
    if deepest not in shape.hops:
        return None
    root, target = rng.choice([(who, leaf) for who in (0, 1) for leaf in leaves[who] if reach[who][leaf] == deepest])
    path, many = [target], False
    while path[-1] != root:
        nearer = [p for p in parents_of[path[-1]] if reach[root][p] == reach[root][path[-1]] - 1]
        many |= len(nearer) > 1
        path.append(rng.choice(nearer))
    if shape.several and not many:
        return None
    wrong = rng.choice(leaves[1 - root])
    kept = [i for i in range(len(sides)) if parents_of[i] or i in inner]
    index = {old: new for new, old in enumerate(kept)}
    edges = tuple((index[parent], index[child]) for child in kept for parent in parents_of[child])
    return Graph(len(kept), edges, index[root], index[target], index[wrong], tuple(index[i] for i in reversed(path)))


def _row(graph: Graph, target_first: bool, rng: random.Random) -> dict[str, Any]:
    """A graph with names, as a published row."""
    children = {child for _, child in graph.edges}
    people = iter(rng.sample(PEOPLE, graph.size - len(children)))
    classes = iter(rng.sample(CLASSES, len(children)))
    names = [next(classes if node in children else people) for node in range(graph.size)]

    def say(parent: int, child: int) -> str:
        return f"{'Every ' if parent in children else ''}{names[parent]} is a {names[child]}."

    facts = [say(*edge) for edge in graph.edges]
    rng.shuffle(facts)
    options = [names[graph.target], names[graph.neg_target]]
    first, second = options if target_first else reversed(options)
    return {
        "question": " ".join([*facts, f"Is {names[graph.root]} a {first} or {second}?"]),
        "answer": say(graph.root, graph.target),
        "steps": [say(*edge) for edge in zip(graph.path, graph.path[1:], strict=False)],
        "idx_to_symbol": names,
        "edges": [list(edge) for edge in graph.edges],
        "root": graph.root,
        "target": graph.target,
        "neg_target": graph.neg_target,
    }


def shortcuts(question: str) -> dict[str, str]:
    """Which option the facts name more often, earlier and later, whatever they say of it."""
    asked = _ASKED.search(question)
    if asked is None:
        return {}
    facts = re.findall(r"\w+", question[: asked.start()])
    one, other = ([k for k, word in enumerate(facts) if word == option] for option in asked.groups()[1:])

    def larger(a: int, b: int) -> str:
        return "first" if a > b else "second" if b > a else "neither"

    return {
        "option named more often": larger(len(one), len(other)),
        "option named earlier": larger(min(other, default=-1), min(one, default=-1)),
        "option named later": larger(max(one, default=-1), max(other, default=-1)),
    }


def _example(name: str, row: Mapping[str, Any], level: str) -> Example:
    return replace(complete(Example(name, row["question"], tuple(row["steps"]), row["answer"])), level=level)


def complete(example: Example) -> Example:
    """A published row's example with what its text says: the two sentences to choose from, its hops as the level.

    Raises:
        ValueError: a question without two options, or an answer that is none of them.
    """
    asked = _ASKED.search(example.question)
    if asked is None:
        raise ValueError("the question does not end in two options, as in 'Is Tom a lempus or scrompus?'")
    name, *options = asked.groups()
    choices = tuple(f"{name} is a {option}." for option in options)
    if example.answer not in choices or choices[0] == choices[1]:
        raise ValueError(
            f"the answer {example.answer!r} is not one of the two options, {choices[0]!r} and {choices[1]!r}"
        )
    return replace(example, choices=choices, level=f"hops={len(example.steps)}" if example.steps else "")
