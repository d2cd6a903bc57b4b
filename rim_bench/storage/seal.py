"""The manifest of a folder of records: size and sha256 of each, so that what does not match is named, not trusted.

    {"schema": 1, "files": {"train.json": {"sha256": "...", "size": 812}, ...}, "writing": {...}}

`files` are the records as they are. Before one is written its new entry stands under `writing`, and after it in
`files`: until then the record may be the old one, the new one or not there, so that a process that is killed in between
leaves nothing that reads as damaged. A folder without a manifest, of an earlier version, is unsealed: its records are
read, and every table says that nothing vouches for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rim_bench.util.errors import UsageError
from rim_bench.util.files import MANIFEST, is_there, json_bytes, read_json, read_regular, write_bytes_atomic

Entry = Mapping[str, Any]  # sha256 and size of a file


def entry(data: bytes) -> Entry:
    """What the manifest says of a file with these bytes."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


@dataclass(frozen=True)
class Manifest:
    """What a manifest lists."""

    files: Mapping[str, Entry]
    writing: Mapping[str, Entry | None] = field(default_factory=dict)  # None: it is being removed

    def data(self) -> bytes:
        """The file."""
        writing = {"writing": self.writing} if self.writing else {}
        return json_bytes({"schema": 1, "files": self.files, **writing})


@lru_cache(maxsize=4096)
def _read(path: Path, *stamp: int) -> Manifest:
    """The manifest at `path`; `stamp` tells one version of the file from the next."""
    stored = read_json(path)
    files, writing = stored.get("files"), stored.get("writing", {})
    if not (isinstance(files, dict) and isinstance(writing, dict) and all(map(_is_entry, files.values()))) or not all(
        e is None or _is_entry(e) for e in writing.values()
    ):
        raise UsageError(f"{str(path)!r} is damaged: it is no manifest; `rim-bench seal --again` writes it again")
    return Manifest(files, writing)


def _is_entry(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("sha256"), str)


@dataclass(frozen=True)
class Seal:
    """The manifest of one folder. The names of its records are paths below the folder, with slashes."""

    folder: Path

    @property
    def path(self) -> Path:
        """Where the manifest lies."""
        return self.folder / MANIFEST

    def manifest(self) -> Manifest | None:
        """What is listed; None: the folder is unsealed. Raises UsageError where the manifest cannot be read."""
        if not is_there(self.path):
            return None
        try:
            info = self.path.stat()
        except OSError as error:
            raise UsageError(f"{str(self.path)!r} cannot be read: {error.strerror}") from None
        return _read(self.path, info.st_ino, info.st_mtime_ns, info.st_size)

    def has(self, name: str) -> bool:
        """Whether there is such a record. Raises UsageError where one is listed and gone."""
        if is_there(self.folder / name):
            return True
        listed = self.manifest()
        if listed is None or name not in listed.files or name in listed.writing:
            return False
        raise UsageError(
            f"{str(self.folder / name)!r} is missing: {MANIFEST} lists it; put it back, or where it was removed on "
            "purpose write the manifest again with `rim-bench seal --again`"
        )

    def read(self, name: str) -> bytes:
        """The bytes of a record. Raises UsageError where it is missing or not what the manifest says."""
        path, problem = self.folder / name, ""
        for _ in range(2):  # a process that writes it may have come between the two files
            data, listed = read_regular(path), self.manifest()
            if listed is None or entry(data) in (listed.files.get(name), listed.writing.get(name)):
                return data
            known = name in listed.files or name in listed.writing
            problem = f"does not match the sha256 in {MANIFEST}" if known else f"is not listed in {MANIFEST}"
        raise UsageError(f"{str(path)!r} is damaged: it {problem}")

    def check(self) -> None:
        """Raises UsageError for the first record that is listed and gone, or other than the manifest says."""
        listed = self.manifest()
        for name in () if listed is None else sorted(listed.files):
            if self.has(name):
                self.read(name)

    @contextmanager
    def replacing(self, files: Mapping[str, bytes | None]) -> Iterator[None]:
        """Within it these records may be written, with these bytes, or removed (None)."""
        before = self.manifest()
        if before is None:
            yield
            return
        new = {name: None if data is None else entry(data) for name, data in files.items()}
        now = self._settled(before)
        write_bytes_atomic(self.path, Manifest(now, new).data())
        yield
        now = {name: e for name, e in now.items() if name not in new} | {n: e for n, e in new.items() if e is not None}
        write_bytes_atomic(self.path, Manifest(now).data())

    def write(self, name: str, data: bytes) -> None:
        """Writes one record. Raises UsageError: disk full or not writable; it is then as it was."""
        with self.replacing({name: data}):
            write_bytes_atomic(self.folder / name, data)

    def _settled(self, listed: Manifest) -> dict[str, Entry]:
        """The records as a killed process left them."""
        files = dict(listed.files)
        for name, new in listed.writing.items():
            path = self.folder / name
            if not is_there(path):
                files.pop(name, None)
            elif new is not None and entry(read_regular(path)) == new:
                files[name] = new
        return files

    def create(self, files: Mapping[str, bytes]) -> Manifest:
        """Writes and returns the manifest of records that have these bytes."""
        manifest = Manifest({name: entry(data) for name, data in files.items()})
        write_bytes_atomic(self.path, manifest.data())
        return manifest
