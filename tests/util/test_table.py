"""What a notebook and `print` show of a table."""

from __future__ import annotations

from rim_bench.util.table import Table


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
