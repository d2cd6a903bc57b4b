"""Texts of questions beside the runs that were asked them: `<results>/data/<sha256 of the data>.jsonl.gz`, once a set.

A run's own records name questions by id, so that a text lies in one place however many runs were asked it. A set whose
licence does not let it be passed on is stored with its ids alone.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rim_bench.storage.records import ItemRecord, QuestionRecord, read_records
from rim_bench.util.errors import UsageError
from rim_bench.util.files import canonical, is_there, read_regular, unpacked, write_bytes_atomic

_HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class QuestionStore:
    """The stored questions of a results folder."""

    results: Path

    def path(self, data_sha256: str) -> Path:
        """Where the questions of a data set lie. Raises ValueError for what is no sha256, which a file may say."""
        if not _HASH.fullmatch(data_sha256):
            raise ValueError(f"{data_sha256!r} is no sha256 of data")
        return self.results / "data" / f"{data_sha256}.jsonl.gz"

    def has(self, data_sha256: str) -> bool:
        """Whether they are stored."""
        return bool(_HASH.fullmatch(data_sha256)) and is_there(self.path(data_sha256))

    def write(self, data_sha256: str, questions: Iterable[QuestionRecord]) -> None:
        """Stores the questions of a data set; equal ones have equal bytes.

        Raises:
            UsageError: disk full or not writable.
        """
        lines = "".join(canonical(question.to_json()) + "\n" for question in questions)
        write_bytes_atomic(self.path(data_sha256), gzip.compress(lines.encode(), mtime=0))

    def read(self, data_sha256: str) -> dict[str, QuestionRecord]:
        """Id -> question; empty where they are not stored.

        Raises:
            UsageError: the file is damaged.
        """
        if not self.has(data_sha256):
            return {}
        path = self.path(data_sha256)
        records = read_records(QuestionRecord, unpacked(read_regular(path), path), path)
        if len({record.id for record in records}) != len(records):
            raise UsageError(f"{str(path)!r} is damaged: an id stands in it twice")
        return {record.id: record for record in records}


def asked(item: ItemRecord, question: QuestionRecord | None) -> bool:
    """Whether a stored text is the one that was asked: the item's `prompt_hash` is of it."""
    if question is None or question.question is None:
        return False
    digest = hashlib.sha256(question.question.encode(errors="surrogatepass")).hexdigest()
    return item.prompt_hash is None or digest.startswith(item.prompt_hash)
