"""A folder of evaluations: `<key>/` holds items.jsonl.gz, then summary.json, whose existence means "evaluated"."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from rim_bench.storage.records import CandidateItem, EvaluationRecord, ItemRecord, JsonRecord, LmEvalItem, LmEvalRecord
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record, canonical, finite, read_json, write_bytes_atomic, write_json_atomic, writing

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]*")
Summary = TypeVar("Summary", EvaluationRecord, LmEvalRecord)
Item = TypeVar("Item", ItemRecord, CandidateItem, LmEvalItem)


@dataclass(frozen=True)
class Evaluations(Generic[Summary, Item]):
    """The evaluations in one folder, with the records that their files hold."""

    path: Path
    summary_type: type[Summary]
    item_type: type[Item]

    def folder(self, key: str) -> Path:
        """Where an evaluation lies. Raises ValueError for a key that is no folder name."""
        if not _KEY.fullmatch(key):
            raise ValueError(
                f"evaluation key {key!r} is not a plain folder name: letters, digits and . _ = - are allowed"
            )
        return self.path / key

    def write(
        self, key: str, items: Sequence[Item | Mapping[str, Any]], summary: Summary | Mapping[str, Any]
    ) -> Summary:
        """Stores items, then the summary with their sha256, which makes it count; returns the summary as it is stored.

        Equal items have equal bytes in the gzip file.

        Raises:
            ValueError: a key that is no folder name, duplicate item ids, or another `n` than the number of items.
            UsageError: disk full or not writable; the run is then not evaluated under this key.
        """
        folder, rows, about = self.folder(key), [_json(i) for i in items], _json(summary)
        if len({row["id"] for row in rows}) != len(rows):
            raise ValueError("two items have the same id")
        if about.get("n", len(rows)) != len(rows):
            raise ValueError(f"the summary speaks of n = {about['n']}, but there are {len(rows)} items")
        data = gzip.compress("".join(canonical(finite(row)) + "\n" for row in rows).encode(), mtime=0)
        with writing(folder):  # while the items change, the old summary would not fit them
            (folder / "summary.json").unlink(missing_ok=True)
        write_bytes_atomic(folder / "items.jsonl.gz", data)
        stored = {"count": len(rows), "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        about = {**finite(about), "n": len(rows), "items": stored}
        write_json_atomic(folder / "summary.json", about)
        return self.summary_type.from_json(about)

    def read(self, key: str) -> Summary | None:
        """The summary of a complete evaluation, or None. Raises UsageError where its files do not fit together."""
        return self._verified(key)[0] if (self.folder(key) / "summary.json").is_file() else None

    def all(self) -> dict[str, Summary]:
        """Key -> summary of every complete evaluation, by key. Raises UsageError where one is damaged."""
        names = sorted(p.parent.name for p in self.path.glob("*/summary.json") if _KEY.fullmatch(p.parent.name))
        return {key: self._verified(key)[0] for key in names}

    def items(self, key: str) -> list[Item]:
        """The items of an evaluation, in the order they were written.

        Raises:
            UsageError: it is missing or damaged.
            KeyError, ValueError: a line is no record of an item.
        """
        lines = gzip.decompress(self._verified(key)[1]).splitlines()
        return [self.item_type.from_json(json.loads(line)) for line in lines]

    def _verified(self, key: str) -> tuple[Summary, bytes]:
        folder = self.folder(key)
        summary = self.summary_type.from_json(read_json(folder / "summary.json"))
        problem = f"evaluation {str(folder)!r} is damaged: %s; delete that folder to evaluate again"
        try:
            data = (folder / "items.jsonl.gz").read_bytes()
        except OSError as error:
            raise UsageError(problem % f"items.jsonl.gz: {error.strerror}") from None
        if summary.stored_items is None or hashlib.sha256(data).hexdigest() != summary.stored_items.sha256:
            raise UsageError(problem % "items.jsonl.gz does not match the sha256 in summary.json")
        return summary, data


def _json(value: JsonRecord | Mapping[str, Any]) -> Record:
    return value.to_json() if isinstance(value, JsonRecord) else dict(value)
