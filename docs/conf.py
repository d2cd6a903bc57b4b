"""How Sphinx builds these pages: `sphinx-build -W -b html docs build/docs`."""

from __future__ import annotations

import inspect
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the package as it stands here, installed or not

_project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

project = _project["name"]
author = _project["authors"][0]["name"]
copyright = author
release = version = _project["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["generate.py", "_build"]
myst_heading_anchors = 3
# Links to Markdown files outside docs/ work where the repository is read, not here. tests/docs/test_pages.py checks
# every link.
suppress_warnings = ["myst.xref_missing"]

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # what lm-eval says of its own classes is not ours
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"

html_theme = "furo"
html_title = f"{project} {release}"


def setup(app: Any) -> None:
    """Docstrings are plain text with names in backticks, and Sphinx reads reStructuredText: see `_plain`."""
    app.connect("autodoc-process-docstring", _escape, priority=400)  # before napoleon, whose own markup is to stay
    app.connect("autodoc-process-docstring", _restore, priority=600)


def _escape(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    lines[:] = map(_plain, lines)


def _restore(_app: Any, what: str, _name: str, member: Any, _options: Any, lines: list[str]) -> None:
    """The text of a property again: napoleon takes what stands before a colon for its type."""
    if what in ("property", "attribute") and (text := inspect.getdoc(member)):
        lines[:] = map(_plain, text.splitlines())


def _plain(line: str) -> str:
    """A line of a docstring with what stands in backticks literal, and stars and bars elsewhere as they are."""
    parts = re.split(r"`+([^`]+)`+", line)
    texts = [re.sub(r"([*|])", r"\\\1", part) for part in parts[::2]]
    literals = [f"``{part.strip()}``" for part in parts[1::2]]
    return "".join(text for pair in zip(texts, [*literals, ""], strict=True) for text in pair)
