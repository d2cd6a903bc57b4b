"""The record of a run's training steps: one JSON object a line, appended while it trains, compressed when it is done.

Imports neither torch nor transformers.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record, finite, fsync, write_bytes_atomic, writing


@dataclass(frozen=True)
class StepLog:
    """`train.jsonl` of a run folder, or `train.jsonl.xz` once `compress` was called."""

    folder: Path

    @property
    def plain(self) -> Path:
        """Where lines are appended."""
        return self.folder / "train.jsonl"

    @property
    def packed(self) -> Path:
        """Where they lie when training is done."""
        return self.folder / "train.jsonl.xz"

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds one line; numbers that are not finite become null. A line is there whole or not at all.

        Raises:
            UsageError: disk full or not writable; the file is then as it was.
        """
        line = (json.dumps(finite(record), ensure_ascii=False, allow_nan=False) + "\n").encode()
        path = self.plain
        with writing(path, len(line)), path.open("ab+", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":  # torn by a kill: cut before the next line is glued to it
                    file.seek(0)
                    end = file.read().rfind(b"\n") + 1
                    file.truncate(end)
            try:
                left = memoryview(line)
                while left:  # what does not fit is written in part; the rest says why
                    left = left[os.write(file.fileno(), left) :]
            except BaseException:
                with suppress(OSError):
                    file.truncate(end)
                raise

    def _lines(self) -> list[tuple[bytes, Record]]:
        path = self.packed if self.packed.is_file() else self.plain
        if not path.is_file():
            return []
        try:
            data = lzma.decompress(path.read_bytes()) if path == self.packed else path.read_bytes()
        except (OSError, lzma.LZMAError) as error:
            raise UsageError(f"{str(path)!r} is damaged: {error}") from None
        out = []
        for number, line in enumerate(data.split(b"\n")[:-1], 1):  # what follows the last newline is torn
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UsageError(f"{str(path)!r} line {number} is damaged: {error}") from None
            if not isinstance(record, dict) or not isinstance(record.get("step"), int):
                raise UsageError(f"{str(path)!r} line {number} is damaged: it is no record with a step")
            out.append((line, record))
        return out

    def read(self) -> list[Record]:
        """All complete records. Raises UsageError naming the line that cannot be read."""
        return [record for _, record in self._lines()]

    def truncate(self, step: int) -> None:
        """Drops the records with `record["step"]` > `step`; what is left is not compressed and can be appended to."""
        if self.plain.is_file() or self.packed.is_file():
            kept = [line + b"\n" for line, record in self._lines() if record["step"] <= step]
            write_bytes_atomic(self.plain, b"".join(kept))
            self.packed.unlink(missing_ok=True)

    def compress(self) -> None:
        """Training is done: the same records in a seventh of the space."""
        if self.plain.is_file():
            write_bytes_atomic(
                self.packed, lzma.compress(b"".join(line + b"\n" for line, _ in self._lines()), preset=9)
            )
            self.plain.unlink()

    def sync(self) -> None:
        """Forces the lines to the disk."""
        with writing(self.plain), suppress(FileNotFoundError):
            fsync(self.plain)
