"""A folder of evaluations: `<key>/` holds items.jsonl.gz, then summary.json, whose existence means "evaluated"."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from rim_bench.storage.interventions import InterventionItem, InterventionRecord
from rim_bench.storage.records import (
    CandidateItem,
    EvaluationRecord,
    ItemRecord,
    JsonRecord,
    LmEvalItem,
    LmEvalRecord,
    read_record,
    read_records,
)
from rim_bench.storage.seal import Seal
from rim_bench.util.errors import UsageError
from rim_bench.util.files import (
    Record,
    canonical_finite,
    finite,
    is_there,
    json_bytes,
    unpacked,
    write_bytes_atomic,
    writing,
)

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]*")
SUMMARY, ITEMS = "summary.json", "items.jsonl.gz"
Summary = TypeVar("Summary", EvaluationRecord, LmEvalRecord, InterventionRecord)
Item = TypeVar("Item", ItemRecord, CandidateItem, LmEvalItem, InterventionItem)


@dataclass(frozen=True)
class Evaluations(Generic[Summary, Item]):
    """The evaluations in one folder of a sealed one, with the records that their files hold."""

    seal: Seal
    inside: str  # path of the folder below the sealed one
    summary_type: type[Summary]
    item_type: type[Item]

    @property
    def path(self) -> Path:
        """The folder."""
        return self.seal.folder / self.inside

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
        data = gzip.compress("".join(canonical_finite(row) + "\n" for row in rows).encode(), mtime=0)
        stored = {"count": len(rows), "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        about = {**finite(about), "n": len(rows), "items": stored}
        files = {f"{self.inside}/{key}/{name}": d for name, d in ((ITEMS, data), (SUMMARY, json_bytes(about)))}
        with self.seal.replacing(files):
            with writing(folder):  # while the items change, the old summary would not fit them
                (folder / SUMMARY).unlink(missing_ok=True)
            for name, content in files.items():
                write_bytes_atomic(self.seal.folder / name, content)
        return self.summary_type.from_json(about)

    def read(self, key: str) -> Summary | None:
        """The summary of a complete evaluation, or None. Raises UsageError where its files do not fit together."""
        return self._verified(key)[0] if is_there(self.folder(key) / SUMMARY) else None

    def all(self) -> dict[str, Summary]:
        """Key -> summary of every complete evaluation, by key.

        Raises:
            UsageError: one is damaged, or the manifest lists one that is gone.
        """
        keys: set[str] = set()
        try:
            keys.update(path.name for path in self.path.iterdir() if _KEY.fullmatch(path.name))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise UsageError(f"{str(self.path)!r} cannot be read: {error.strerror}") from None
        if (listed := self.seal.manifest()) is not None:
            head, tail = f"{self.inside}/", f"/{SUMMARY}"
            names = (n for n in listed.files if n.startswith(head) and n.endswith(tail))
            keys.update(n.removeprefix(head).removesuffix(tail) for n in names)
        present = (key for key in sorted(keys) if self.seal.has(f"{self.inside}/{key}/{SUMMARY}"))
        return {key: self._verified(key)[0] for key in present}

    def items(self, key: str) -> list[Item]:
        """The items of an evaluation, in the order they were written.

        Raises:
            UsageError: it is missing or damaged, or a line is no record of an item.
        """
        (summary, data), path = self._verified(key), self.folder(key) / ITEMS
        items = read_records(self.item_type, unpacked(data, path), path)
        if summary.n != len(items) or len({item.id for item in items}) != len(items):
            raise UsageError(f"{str(path)!r} is damaged: it is not {summary.n} items with an id each")
        return items

    def _verified(self, key: str) -> tuple[Summary, bytes]:
        folder, inside = self.folder(key), f"{self.inside}/{key}"
        problem = f"evaluation {str(folder)!r} is damaged: %s; delete that folder to evaluate again"
        try:
            summary = read_record(self.summary_type, self.seal.read(f"{inside}/{SUMMARY}"), folder / SUMMARY)
            data = self.seal.read(f"{inside}/{ITEMS}")
        except UsageError as error:
            raise UsageError(problem % error) from None
        if summary.stored_items is None or hashlib.sha256(data).hexdigest() != summary.stored_items.sha256:
            raise UsageError(problem % f"{ITEMS} does not match the sha256 in {SUMMARY}")
        if summary.stored_items.count not in (None, summary.n):
            raise UsageError(problem % f"{SUMMARY} speaks of {summary.n} items and of {summary.stored_items.count}")
        return summary, data


def _json(value: JsonRecord | Mapping[str, Any]) -> Record:
    return value.to_json() if isinstance(value, JsonRecord) else dict(value)
