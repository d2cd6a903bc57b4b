"""The report as one HTML file: no server, no network, and no text from outside that could become markup.

The page's data are packed JSON, which its script alone reads and writes as text nodes. Its content security policy
allows this one script and this one style sheet by their hashes and nothing else.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import rim_bench
from rim_bench.evidence.curves import curves_of
from rim_bench.evidence.pairs import Pair
from rim_bench.evidence.rows import Evaluation, Group, read
from rim_bench.report.comparison import compared, table_of
from rim_bench.report.page import figures, words
from rim_bench.report.page.browser import TextSource, question_columns
from rim_bench.report.page.provenance import run_facts
from rim_bench.report.page.records import GroupView, PageData, plain_json
from rim_bench.storage.run_folder import Damaged, Run
from rim_bench.util.progress import phase
from rim_bench.util.table import QUICK
from rim_bench.util.text import escape_html, escape_line


def report(
    runs: Iterable[Run],
    *,
    title: str = "Comparison of reasoning methods",
    split: str | None = None,
    damaged: Iterable[Damaged] = (),
    data: Path | None = None,
    all_texts: bool = False,
    command: str = "",
) -> bytes:
    """The HTML file on stored runs, a pure function of what lies in their folders: the same runs give the same bytes.

    Args:
        split: keeps the evaluations on one split.
        damaged: runs that cannot be trusted, named and without a number.
        data: folder of published files, for questions whose texts are not stored beside the runs.
        all_texts: also texts of sets whose licence does not let them be passed on.
        command: that makes the page again, for its reader.

    Raises:
        UsageError: none of the runs has an evaluation that can be read.
    """
    what = compared(runs, split)
    table = table_of(what, title=title, damaged=damaged)
    by_id = {run.id: run for run in what.runs}
    points, _ = read(what.runs, split, curve=True)
    source = TextSource(by_id, data, all_texts)
    with phase("collecting what the report shows"):
        groups = tuple(
            _group(group, pairs, heading, points, by_id)
            for group, pairs, heading in zip(what.groups, what.pairs, what.headings, strict=True)
        )
        page = PageData(
            title,
            QUICK if table.quick else "",
            f"rim-bench {rim_bench.__version__}",
            command,
            groups,
            table.sections,
            table.left_out,
            table.to_csv(),
        )
        questions = [question_columns(group, source) for group in what.groups]
    return _html(title, page, questions)


def _group(
    group: Group, pairs: Sequence[Pair], heading: str, points: Sequence[Evaluation], runs: dict[str, Run]
) -> GroupView:
    budgets = list(dict.fromkeys(figures.budget_texts(group)))
    curves, _ = curves_of(group, points)
    return GroupView(
        heading,
        f"{group.facts.task}, {group.facts.split}",
        group.quick,
        tuple(figures.question_set(group, scope) for scope in group.scopes),
        tuple(budgets),
        tuple(figures.row_facts(group, budgets)),
        tuple(words.set_verdicts(group, pairs)),
        tuple(words.trust_lines(group, pairs)),
        tuple(words.claim_rows(group, pairs)),
        tuple(figures.differences(group, pairs)),
        tuple(figures.cost_pictures(group, curves)),
        tuple(figures.loss_curves(group, runs)),
        tuple(run_facts(group, runs)),
    )


def packed(value: Any) -> str:
    """A record as the page holds it: JSON, gzip, base64."""
    return base64.b64encode(gzip.compress(plain_json(value).encode(errors="replace"), mtime=0)).decode()


def _source_of(code: str) -> str:
    """How a content security policy names an inline script or style sheet."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


@phase("writing the report")
def _html(title: str, page: PageData, questions: Sequence[Any]) -> bytes:
    here = resources.files("rim_bench.report.page")
    html, style, script = ((here / f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    blocks = [f'<script type="text/plain" id="page-data">{packed(page)}</script>']
    blocks += [
        f'<script type="text/plain" id="questions-{number}">{packed(columns)}</script>'
        for number, columns in enumerate(questions)
    ]
    policy = f"default-src 'none'; script-src {_source_of(script)}; style-src {_source_of(style)}; base-uri 'none'; "
    parts = {
        "policy": policy + "form-action 'none'",
        "title": escape_html(escape_line(title)),
        "style": style,
        "data": "\n".join(blocks),
        "script": script,
    }
    for name, text in parts.items():
        before, mark, after = html.partition(f"<!--{name}-->")
        html = before + text + after if mark else html
    return html.encode()
