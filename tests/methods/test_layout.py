"""What a layout derives from its tree, against expectations written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from rim_bench.methods.layout import Label, Layout, Segment

# A trunk of four tokens, two thoughts behind it, a tail, and a readout that branches off the trunk.
#   trunk(0..3) ─┬─ thoughts(4, 5) ─ tail(6, 7)
#                └─ readout(8, 9, 10)
TREE = Layout(
    (
        Segment("trunk", None, (10, 11, "<b>", 13)),
        Segment("thoughts", "trunk", slots=2, bridge="up"),
        Segment("tail", "thoughts", (20, 21), weight=1.0),
        Segment("readout", "trunk", (30, 31, 32), weight=0.25, group="readouts"),
    ),
    resume=("tail",),
)


def chain(*sizes: int) -> Layout:
    """Segments s0, s1, ... of tokens, each behind the one before."""
    return Layout(tuple(Segment(f"s{i}", f"s{i - 1}" if i else None, (5,) * n) for i, n in enumerate(sizes)))


def test_columns_are_numbered_segment_by_segment() -> None:
    assert (TREE.first, TREE.size, TREE.parents) == ((0, 4, 6, 8), 11, (-1, 0, 1, 0))
    assert [TREE.last(i) for i in range(4)] == [3, 5, 7, 10]
    assert [TREE.before(i) for i in range(4)] == [-1, 3, 5, 3]
    assert TREE.tokens == (10, 11, "<b>", 13, None, None, 20, 21, 30, 31, 32)
    assert TREE.index == {"trunk": 0, "thoughts": 1, "tail": 2, "readout": 3}


def test_a_position_is_the_depth_on_the_path() -> None:
    assert TREE.starts == (0, 4, 6, 4)
    assert TREE.depth == 8 and chain(3, 2).depth == 5
    assert TREE.position == (
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        4,
        5,
        6,
    )  # the readout starts right behind the trunk, as the thoughts do


def test_a_pass_counts_the_latent_slots_on_the_path() -> None:
    assert TREE.entry_pass == (0, 0, 2, 0)
    assert TREE.pass_of == (0, 0, 0, 0, 1, 2, 2, 2, 0, 0, 0)
    assert TREE.passes == 3
    twice = TREE.grow(Segment("more", "tail", slots=1), Segment("end", "more", (9,)))
    assert twice.pass_of[11:] == (3, 3) and twice.passes == 4
    assert chain(3, 2).passes == 1


def test_a_segment_sees_its_ancestors_less_those_it_is_blind_to() -> None:
    assert TREE.sees == (frozenset(), frozenset({0}), frozenset({0, 1}), frozenset({0}))
    blind = TREE.grow(Segment("last", "tail", (1,), blind=frozenset({"trunk", "tail"})), Segment("child", "last", (2,)))
    assert blind.sees[4] == frozenset({1})
    assert blind.sees[5] == frozenset({0, 1, 2, 4})  # blindness is not inherited


def test_labels_come_from_the_column_before_on_the_path() -> None:
    assert TREE.labels == (
        Label(5, 6, 20, 1.0, "lm"),  # from the last thought
        Label(6, 7, 21, 1.0, "lm"),
        Label(
            3, 8, 30, 0.25, "readouts"
        ),  # from the trunk's end, not from the tail that lies before it in packing order
        Label(8, 9, 31, 0.25, "readouts"),
        Label(9, 10, 32, 0.25, "readouts"),
    )


def test_a_root_predicts_all_but_its_first_token() -> None:
    root = Layout((Segment("root", None, (7, 8, 9), weight=2.0),))
    assert root.labels == (Label(0, 1, 8, 2.0, "lm"), Label(1, 2, 9, 2.0, "lm"))


def test_context_has_no_labels() -> None:
    assert chain(3, 2).labels == ()


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ((Segment("a", None, (1,)),), True),
        ((Segment("a", None, (1,)), Segment("b", "a", slots=2), Segment("c", "b", (1,))), True),
        ((Segment("a", None, (1,)), Segment("b", "a", (1,)), Segment("c", "a", (1,))), False),  # a fork
        (
            (Segment("a", None, (1,)), Segment("b", "a", (1,)), Segment("c", "b", (1,), blind=frozenset({"a"}))),
            False,
        ),  # a gap
        ((Segment("a", None, (1,)), Segment("b", "a", (1, 2), mutual=True)), False),  # looks ahead
    ],
)
def test_is_chain(segments: tuple[Segment, ...], expected: bool) -> None:
    assert Layout(segments).is_chain is expected


def test_along_is_one_path() -> None:
    path = TREE.along("readout")
    assert [s.name for s in path.segments] == ["trunk", "readout"] and path.is_chain
    assert path.position == (0, 1, 2, 3, 4, 5, 6) and path.resume == ()
    assert TREE.along("tail").resume == ("tail",)
    assert TREE.along("trunk").size == 4
    assert TREE.path("tail") == ("trunk", "thoughts", "tail") and TREE.leaves() == ("tail", "readout")


def test_along_keeps_the_blindness_that_its_path_can_have() -> None:
    layout = Layout(TREE.segments, resume=("tail",), blind=frozenset({"trunk", "thoughts"}))
    assert layout.along("tail").blind == {"trunk", "thoughts"}
    assert layout.along("readout").blind == {"trunk"}


def test_grow_keeps_what_is_there() -> None:
    layout = Layout(TREE.segments, resume=("tail",), blind=frozenset({"trunk"}))
    grown = layout.grow(Segment("a", "tail", (1, 2)), Segment("b", "a", (3,)))
    assert grown.segments[:4] == TREE.segments and (grown.resume, grown.blind) == (("tail",), frozenset({"trunk"}))
    assert grown.position[11:] == (8, 9, 10) and grown.pass_of[11:] == (2, 2, 2)
    assert TREE.size == 11 and TREE.grow() == TREE


def test_a_continuation_sees_what_generated_tokens_may_see() -> None:
    layout = Layout(TREE.segments, resume=("tail", "readout"), blind=frozenset({"trunk", "thoughts"}))
    out = layout.continuation("out", "tail", (40, 41), weight=1.0)
    assert out == Segment("out", "tail", (40, 41), weight=1.0, blind=frozenset({"trunk", "thoughts"}))
    assert layout.continuation("out", "readout", (40,)).blind == {"trunk"}  # thoughts are not above it
    assert layout.grow(out).sees[4] == frozenset({2})


@pytest.mark.parametrize(
    ("segments", "options", "message"),
    [
        ((), {}, "at least one segment"),
        ((Segment("a", None, (1,)), Segment("a", "a", (1,))), {}, "'a' appears twice"),
        ((Segment("a", "b", (1,)), Segment("b", None, (1,))), {}, "'a' continues 'b', which does not stand before it"),
        ((Segment("a", None, (1,)), Segment("b", "c", (1,))), {}, "'b' continues 'c'"),
        ((Segment("a", None, (1,)), Segment("b", None, (1,))), {}, "second root"),
        ((Segment("a", None),), {}, "needs either tokens or slots"),
        ((Segment("a", None, (1,)), Segment("b", "a", (1,), slots=1)), {}, "needs either tokens or slots"),
        ((Segment("a", None, (1,)), Segment("b", "a", slots=-1)), {}, "needs either tokens or slots"),
        ((Segment("a", None, slots=1),), {}, "no column before them"),
        ((Segment("a", None, (1,)), Segment("b", "a", slots=1, weight=1.0)), {}, "loss weight on latent slots"),
        ((Segment("a", None, (1,)), Segment("b", "a", (1,), blind=frozenset({"b"}))), {}, r"blind to \['b'\]"),
        (
            (Segment("a", None, (1,)), Segment("b", "a", (1,)), Segment("c", "a", (1,), blind=frozenset({"b"}))),
            {},
            r"'c' is blind to \['b'\], which are not its ancestors",
        ),
        ((Segment("a", None, (1, 2), weight=1.0, mutual=True),), {}, "'a' is mutual"),
        ((Segment("a", None, (1,)), Segment("b", "a", slots=2, mutual=True)), {}, "'b' is mutual"),
        ((Segment("a", None, (1,)),), {"resume": ("b",)}, "resume names segment 'b'"),
        ((Segment("a", None, (1,)),), {"resume": ("a", "a")}, "resume names a segment twice"),
        (
            (Segment("a", None, (1,)),),
            {"blind": frozenset({"question"})},
            r"blind to \['question'\], which are not in the layout",
        ),
    ],
)
def test_what_is_no_tree_is_refused(segments: tuple[Segment, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layout(segments, **options)


def test_show_prints_the_tree() -> None:
    lines = TREE.show(lambda t: f"{t}\n").split("\n")
    assert [line.split("  ")[0] or "  " + line.split()[0] for line in lines] == [
        "segment",
        "trunk",
        "  thoughts",
        "  tail",
        "  readout",
    ]
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    assert cells[0] == ["segment", "positions", "pass", "loss", "sees", "tokens"]
    assert cells[1] == ["trunk", "0..3", "0", "-", "-", "10⏎11⏎<b>13⏎"]
    assert cells[2] == [
        "thoughts",
        "4..5",
        "1..2",
        "-",
        "trunk",
        "[2 latent slots: each fed the last hidden state before it through 'up']",
    ]
    assert cells[3] == ["tail", "6..7", "2", "1 (lm)", "trunk thoughts", "20⏎21⏎ →generate"]
    assert cells[4] == ["readout", "4..6", "0", "0.25 (readouts)", "trunk", "30⏎31⏎32⏎"]
    assert "10" in TREE.show().split("\n")[1]  # ids, where no decoder is given
