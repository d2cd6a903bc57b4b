"""Damage as literals: what is done to bytes, to the values of a JSON text, to files, so that a case can be printed and
given again.
"""

from __future__ import annotations

import copy
import gzip
import json
import lzma
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

Op = tuple[Any, ...]

WORDS = (
    "",
    " ",
    "a",
    "../../../x",
    "/",
    ".",
    "..",
    "~",
    "-",
    "--",
    "-x",
    "@",
    "=1+1",
    "%s",
    "{}",
    "{0}",
    "$HOME",
    "*",
    "a,b",
    "a=b",
    "a.b=c",
    ",",
    "=",
    "none",
    "null",
    "None",
    "true",
    "<script>x</script>",
    "\\input{x}",
    "[bold]x[/bold]",
    "[/]",
    "\x1b[31m",
    "\x07\x08",
    "a\nb",
    "a\rb",
    "\u202e",
    "é",
    "日本",
    "\U0001f600",
    "a\u0301",
    "\ufeff",
    "x" * 300,
    "x" * 5000,
    "0",
    "1",
)  # fmt: skip
NUMBERS = (
    "0", "-1", "1", "2", "3", "5", "64", "1e3", "1.5", "0.5", "nan", "inf", "-inf", "-0.0", "1e308", "1e400", "1e-400",
    "2147483648", "9223372036854775807", "9223372036854775808", "-9223372036854775809", "99999999999999999999",
    "1" * 400, "9" * 5000, "0x10", "1_000", "١٢", "½", " 4", "4 ", "+4", "", "true",
)  # fmt: skip
RAW = (
    *("null", "true", "false", "0", "-1", "1", "3", "1.5", "-0.0", "1e308", "1e400", "-1e400", "NaN", "Infinity"),
    *("1" * 30, "9" * 5000, "9223372036854775808", "[]", "{}", "[[]]", '[1, "a", null]', '{"a": 1}', '{"": {}}', '""'),
    *('" "', '"a"', '"3"', '"nan"', '"\\u0000"', '"\\ud800"', '"\\u202e"', '"a\\nb"', '"=1+1"', '"<b>"', '"../../x"'),
    *('"' + "x" * 3000 + '"', "[" * 60 + "]" * 60, "[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000),
)  # fmt: skip
"""JSON values as text, some of which Python's own writer would not write."""
BLOCKS = (
    b"\x00", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"\r", b",", b"{", b"}", b'"', b"\\", b"[" * 3000, b"#",
)  # fmt: skip

words = st.one_of(st.sampled_from(WORDS), st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
arguments = st.one_of(words, st.sampled_from(["\udcff", "a\udc80"])).map(lambda text: text.replace("\x00", ""))
"""Texts that a command line can hold: no zeros, and what was not UTF-8 as Python reads it."""
place = st.integers(0, 1_000_000)  # where in something, modulo its size

byte_op: st.SearchStrategy[Op] = st.one_of(
    st.tuples(st.just("truncate"), place),
    st.tuples(st.just("flip"), place, st.integers(0, 7)),
    st.tuples(st.just("cut"), place, st.integers(1, 40)),
    st.tuples(st.just("insert"), place, st.integers(0, len(BLOCKS) - 1)),
    st.tuples(st.just("double"), place, st.integers(1, 200)),
    st.just(("empty",)),
)
json_op: st.SearchStrategy[Op] = st.one_of(
    st.tuples(st.just("put"), place, st.integers(0, len(RAW) - 1)),
    st.tuples(st.just("remove"), place),
    st.tuples(st.just("nest"), place, st.sampled_from(["list", "dict", "text", "deep"])),
    st.tuples(st.just("rename"), place, words),
    st.tuples(st.just("word"), place, words),
    st.tuples(st.just("scale"), place, st.sampled_from([-1, 0, 0.5, 100, 10**30])),
    st.tuples(st.just("twice"), place),
)
ops = st.one_of(
    st.lists(json_op, min_size=1, max_size=3).map(lambda some: ("json", *some)),
    st.lists(byte_op, min_size=1, max_size=2).map(lambda some: ("bytes", *some)),
)
file_op = st.one_of(ops, ops, ops, st.sampled_from([("unlink",), ("folder",), ("loop",), ("copy",)]))


def damaged_bytes(data: bytes, ops: Sequence[Op]) -> bytes:
    """The bytes after all operations."""
    for name, *rest in ops:
        at = rest[0] % (len(data) + 1) if rest else 0
        match name:
            case "truncate":
                data = data[:at]
            case "flip" if data:
                at %= len(data)
                data = data[:at] + bytes([data[at] ^ 1 << rest[1]]) + data[at + 1 :]
            case "cut":
                data = data[:at] + data[at + rest[1] :]
            case "insert":
                data = data[:at] + BLOCKS[rest[1]] + data[at:]
            case "double":
                data = data[:at] + data[at : at + rest[1]] + data[at:]
            case "empty":
                data = b""
    return data


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a JSON value, itself first."""
    yield way
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*way, key))


def damaged_json(value: Any, ops: Sequence[Op]) -> bytes:
    """The text of a JSON value after all operations."""
    value, raw = copy.deepcopy(value), {}
    for name, at, *rest in ops:
        ways = list(places(value))
        *way, last = ways[at % len(ways)] or (None,)
        holder = value
        for key in way:
            holder = holder[key]
        if last is None:  # the whole of it
            value = {"put": [], "nest": [value], "word": rest[0] if name == "word" else None}.get(name, value)
            continue
        before = holder[last]
        match name:
            case "put":
                mark = f"\u2402{len(raw)}\u2403"
                raw[json.dumps(mark)] = RAW[rest[0]]
                holder[last] = mark
            case "remove":
                del holder[last]
            case "nest":
                nested = {"list": [before], "dict": {"value": before}, "text": json.dumps(before), "deep": before}
                holder[last] = nested[rest[0]]
                for _ in range(50 if rest[0] == "deep" else 0):
                    holder[last] = [holder[last]]
            case "word":
                holder[last] = rest[0]
            case "rename" if isinstance(holder, dict):
                holder[rest[0]] = holder.pop(last)
            case "scale" if isinstance(before, int | float):
                holder[last] = type(before)(before * rest[0]) if rest[0] < 10**30 else before * 10**30
            case "twice" if isinstance(holder, dict):
                mark = f"\u2402{len(raw)}\u2403"
                raw[json.dumps(mark) + ": 0"] = f"{json.dumps(last)}: null"
                holder[mark] = 0
            case "twice" if isinstance(holder, list):
                holder.append(before)
    text = json.dumps(value)
    for mark, instead in raw.items():
        text = text.replace(mark, instead)
    return text.encode("utf-8", "surrogatepass")


def damaged(data: bytes, suffix: str, op: Op) -> bytes:
    """The content of a file after an operation of `ops`: inside its compression, of one record where it has lines."""
    how, *inner = op
    if how == "bytes":
        return damaged_bytes(data, inner)
    pack = {".gz": gzip, ".xz": lzma}.get(suffix)
    text = pack.decompress(data) if pack else data
    lines = text.splitlines(keepends=True)
    try:
        if len(lines) > 1 and all(line.startswith(b"{") and line.endswith(b"}\n") for line in lines):
            at = inner[0][1] % len(lines)
            lines[at] = damaged_json(json.loads(lines[at]), inner) + b"\n"
            text = b"".join(lines)
        else:
            text = damaged_json(json.loads(text), inner)
    except ValueError:  # not JSON: its bytes then
        text = damaged_bytes(text, [("cut", inner[0][1], 5)])
    return pack.compress(text) if pack else text


def damage_file(path: Path, op: Op) -> None:
    """Damages a file or what is a folder in its place."""
    match op:
        case ("unlink",):
            path.unlink()
        case ("folder",):
            path.unlink()
            path.mkdir()
        case ("loop",):
            path.unlink()
            path.symlink_to(path.name)
        case ("copy",):
            shutil.copy(path, path.with_name("copy-of-" + path.name))
        case _:
            path.write_bytes(damaged(path.read_bytes(), path.suffix, op))


def copied(source: Path, target: Path) -> None:
    """A folder once more, its files linked, which `damage_file` must replace before it writes: so they are copied."""
    shutil.copytree(source, target, copy_function=shutil.copy)


def files_of(folder: Path, left_out: Sequence[str] = ("lock", "environment.json")) -> list[Path]:
    """The files below a folder, in a fixed order."""
    found = (Path(base) / name for base, _, names in os.walk(folder) for name in names)
    return sorted(path for path in found if path.name not in left_out)


def dumped(value: Mapping[str, Any]) -> str:
    """A mapping as YAML that is also JSON."""
    return json.dumps(value, ensure_ascii=False)
