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

from rim_bench.storage.records import StepRecord, read_lines
from rim_bench.storage.seal import Seal
from rim_bench.util.files import Record, finite, fsync, is_there, read_regular, unpacked, write_bytes_atomic, writing


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
        seal = Seal(self.folder)
        if seal.has(self.packed.name):
            path, data = self.packed, unpacked(seal.read(self.packed.name), self.packed)
        elif is_there(self.plain):
            path, data = self.plain, read_regular(self.plain)
        else:
            return []
        whole = data[: data.rfind(b"\n") + 1]  # what follows the last newline is torn
        return list(zip(whole.splitlines(), read_lines(StepRecord, whole, path), strict=True))

    def read(self) -> list[Record]:
        """All complete records. Raises UsageError naming the line that cannot be read."""
        return [record for _, record in self._lines()]

    def truncate(self, step: int) -> None:
        """Drops the records with `record["step"]` > `step`; what is left is not compressed and can be appended to."""
        if is_there(self.plain) or is_there(self.packed):
            kept = [line + b"\n" for line, record in self._lines() if record["step"] <= step]
            with Seal(self.folder).replacing({self.packed.name: None}):
                write_bytes_atomic(self.plain, b"".join(kept))
                self.packed.unlink(missing_ok=True)

    def compress(self) -> None:
        """Training is done: the same records in a seventh of the space."""
        if is_there(self.plain):
            lines = b"".join(line + b"\n" for line, _ in self._lines())
            Seal(self.folder).write(self.packed.name, lzma.compress(lines, preset=9))
            self.plain.unlink()

    def sync(self) -> None:
        """Forces the lines to the disk."""
        with writing(self.plain), suppress(FileNotFoundError):
            fsync(self.plain)
