"""What a notebook and `print` show of a table, and what becomes of hostile text in each output format."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from rim_bench.util.table import SMALL, Look, Panel, Section, Table
from rim_bench.util.text import code_markdown, escape_csv, escape_json, escape_markdown


def test_a_notebook_shows_every_cell_and_runs_none() -> None:
    table = Table.of_rows(
        "A <b>title</b>", ("name", "n"), [("<script>x</script>", "1"), ("plain", "2")], notes=("a & b",)
    )
    page = table._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;x&lt;/script&gt;" in page
    assert "A &lt;b&gt;title&lt;/b&gt;" in page and "<li>a &amp; b</li>" in page
    assert page.count("<tr") == 3


def test_print_shows_markdown() -> None:
    table = Table.of_rows("Title", ("name", "n"), [("plain", "2")])
    assert str(table) == table.to_markdown() and "| plain | 2 |" in str(table)


HOSTILE = "<script>x</script>|`a [b](javascript:c) *d* _e_ &lt; \\frac$\\input{f}$ #%&~^ "
HOSTILE += "\x1b]0;t\x07\x9b2J\u202eg\n% h\r\nend"
PLAIN = Look()
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
SHOWN = HOSTILE.replace("\r\n", " ").replace("\n", " ")
SHOWN = UNSEEN.sub(lambda m: m[0].encode("unicode_escape").decode(), SHOWN)


def hostile(look: Look = PLAIN) -> Table:
    """A table that has the hostile text in every place there is."""
    panel = Panel(HOSTILE, (HOSTILE, "n"), ((HOSTILE, "-0.5"), (f"[{HOSTILE}", "<0.001")))
    sections = (Section(HOSTILE, (panel,), (HOSTILE, f"1. {HOSTILE}", f"> {HOSTILE}", f"# {HOSTILE}")),)
    records = ({HOSTILE: HOSTILE, "n": -0.5}, {HOSTILE: "=1+1", "n": None})
    return Table(
        HOSTILE,
        True,
        sections,
        records,
        (HOSTILE, "n"),
        (HOSTILE,),
        lead=HOSTILE,
        lead_style="bold",
        foot=(HOSTILE,),
        look=look,
    )


@pytest.mark.parametrize("look", [PLAIN, SMALL, Look(strict="cells"), Look(strict="all")])
def test_markdown_shows_every_text_and_runs_none(look: Look) -> None:
    tokens = MarkdownIt().enable(["table", "strikethrough"]).parse(hostile(look).to_markdown())
    inline = [child for token in tokens for child in token.children or ()]
    kinds = {token.type for token in (*tokens, *inline)}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "em_open", "strong_open", "code_inline"}
    assert not kinds & {"fence", "code_block", "ordered_list_open", "hr"}
    assert sum(token.type == "tr_open" for token in tokens) == 3
    assert sum(token.type == "blockquote_open" for token in tokens) == 1  # the stamp
    assert sum(token.type == "heading_open" for token in tokens) == 2  # title and section
    texts = ["".join(child.content for child in t.children or ()) for t in tokens if t.type == "inline"]
    assert sum(SHOWN in text for text in texts) == 13 and texts[0].startswith(SHOWN)
    assert {"-0.5", "<0.001", f"[{SHOWN}", f"1. {SHOWN}", f"> {SHOWN}", f"# {SHOWN}"} <= set(texts)


def test_latex_has_no_command_from_outside() -> None:
    text = hostile().to_latex()
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    assert not any(re.search(r"\\(input|frac)|(?<!\\)\$", line) for line in lines)
    assert sum(line.startswith("% ") and SHOWN in line for line in text.splitlines()) == 6
    assert (
        "\\midrule\n\\textless{}script" in text and "\n{}[\\textless{}script" in text and "\\textbackslash{}x1b" in text
    )


def test_csv_holds_no_formula() -> None:
    cells = list(csv.reader(io.StringIO(hostile().to_csv())))
    assert [len(row) for row in cells] == [2, 2, 2] and cells[1][1] == "-0.5" and cells[2] == ["'=1+1", ""]
    assert not UNSEEN.search(hostile().to_csv())


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\n=1", " =1", "-", "＝1"])
def test_a_formula_gets_an_apostrophe(text: str) -> None:
    assert escape_csv(text) == (text if text == "-" else f"'{text}")


@pytest.mark.parametrize(
    "value", ["-0.5", "+1.2", "-1,234.5", "-3%", "-1e-09", "-inf", "a=b", "<0.001", "", -0.5, None, True]
)
def test_numbers_stay_numbers(value: object) -> None:
    assert escape_csv(value) == value


def test_a_terminal_obeys_nothing() -> None:
    console = Console(file=io.StringIO(), width=400, force_terminal=False)
    console.print(hostile().to_rich(400))
    out = console.file.getvalue()  # type: ignore[attr-defined]
    assert not UNSEEN.search(out) and "\\x1b]0;t\\x07\\x9b2J\\u202eg" in out and "<script>x</script>" in out


def test_html_is_text() -> None:
    seen: list[str] = []
    texts: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: seen.append(tag)  # type: ignore[method-assign]
    parser.handle_data = texts.append  # type: ignore[method-assign]
    parser.feed(hostile()._repr_html_())
    assert "script" not in seen and set(seen) <= {
        "h3",
        "h4",
        "p",
        "b",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "ul",
        "li",
    }
    assert any("<script>x</script>|`a [b](javascript:c)" in text for text in texts)
    assert not UNSEEN.search("".join(texts))


def test_a_json_document_can_be_printed() -> None:
    text = escape_json(json.dumps({"a": HOSTILE}, ensure_ascii=False))
    assert json.loads(text) == {"a": HOSTILE} and not UNSEEN.search(text)


@pytest.mark.parametrize(
    "text",
    ["run `rim-bench sweep` again", "p <0.001, 3 > 2, R&D", "[1.0, 2.0]", "max_tokens 40", "a * b", "-", "+1.2", "~3"],
)
def test_plain_sentences_stay_as_they_are(text: str) -> None:
    assert escape_markdown(text) == text


def test_code_with_backticks_is_one_piece_of_code() -> None:
    (token,) = [t for t in MarkdownIt().parse(code_markdown("a `b` ``c <d>")) if t.type == "inline"]
    assert [(child.type, child.content) for child in token.children or ()] == [("code_inline", "a `b` ``c <d>")]
