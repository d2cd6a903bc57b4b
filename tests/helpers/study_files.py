"""Study files that a test writes."""

from __future__ import annotations

from pathlib import Path


def study(folder: Path, text: str) -> Path:
    """The file, with this text."""
    path = folder / "study.toml"
    path.write_text(text, "utf-8")
    return path
