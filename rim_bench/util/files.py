"""Files and folders that appear under their name only when they are complete. Imports neither torch nor transformers.

A file is written beside its place, brought to the disk and renamed. A folder gets a manifest with the size and sha256
of every file in it, so that what does not match is named, not trusted.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import resource
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rim_bench.util.errors import UsageError, file_refusal
from rim_bench.util.strict_json import parse_json
from rim_bench.util.text import format_bytes

MANIFEST = "manifest.json"
_REFUSALS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EFBIG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}
Record = dict[str, Any]


# Atomic writes
def canonical(value: Any) -> str:
    """`value` as JSON with one spelling: sorted keys, no spaces. What has a `to_json` is what that returns.

    Raises:
        ValueError, TypeError: what JSON cannot say (NaN, infinity; other objects).
    """
    same: dict[str, Any] = {"sort_keys": True, "ensure_ascii": False, "allow_nan": False}
    return json.dumps(value, separators=(",", ":"), default=_object, **same)


def _object(value: Any) -> Any:
    if not hasattr(value, "to_json"):
        raise TypeError(f"JSON cannot say a {type(value).__name__}")
    return value.to_json()


@contextmanager
def writing(path: Path, needed: int = 0) -> Iterator[None]:
    """Turns a full disk, missing rights and other refusals of the file system into a sentence that names `path`.

    Args:
        needed: bytes that are to be written; 0 where nobody knows.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        if (refusal := file_refusal(error)) not in _REFUSALS:
            raise
        size = f"it needs {format_bytes(needed)}" if needed else ""
        if refusal in (errno.ENOSPC, errno.EDQUOT):
            folder = next(p for p in path.absolute().parents if p.exists())
            free = shutil.disk_usage(folder).free
            if refusal == errno.EDQUOT:
                room = "there is a quota"
            else:  # more than enough: of a device, or where no further file may be
                room = "" if free > needed > 0 else f"{format_bytes(free)} are free"
            numbers = f" ({', '.join(filter(None, (size, room)))})" if size or room else ""
            text = f"no space left on the disk while writing {str(path)!r}{numbers}"
            raise UsageError(f"{text}: free some and start again, which goes on with a run") from error
        text = f"cannot write {str(path)!r}: {os.strerror(refusal)}"
        if refusal == errno.EFBIG:
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            most = "" if limit == resource.RLIM_INFINITY else f"a file may have {format_bytes(limit)} (ulimit -f)"
            text += "".join(f"; {part}" for part in (size, most) if part)
        raise UsageError(text) from error


def check_place(flag: str, path: Path | None) -> None:
    """Refuses, before long work, a file that could not be written after it; None is one that was not asked for.

    Tries a nameless file in its folder, or in the nearest one above that is there.
    """
    if path is None:
        return
    try:
        if path.is_dir():
            raise UsageError(f"{flag} {str(path)!r} cannot be written: it is a folder")
        if path.exists():
            if path.is_file():  # opening a pipe would wait for its reader
                os.close(os.open(path, os.O_WRONLY))
            return
        path.with_name(f".{path.name}.{os.getpid()}.tmp").exists()  # a name that is too long is refused here
        folder = next(p for p in path.absolute().parents if p.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{flag} {str(path)!r} cannot be written: {reason}") from None


def fsync(path: Path) -> None:
    """Forces a file, or the entries of a folder, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Replaces `path` by `data`; a reader, or a restart after a crash, sees the old bytes or the new ones.

    A link, a pipe or a device stays what it is and is written through: `/dev/stdout` is no name for a new file.

    Raises:
        UsageError: disk full or not writable; `path` is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    with writing(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and (path.is_symlink() or not path.is_file()):
            path.write_bytes(data)
            return
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        fsync(path.parent)


def write_json_atomic(path: Path, value: Any) -> None:
    """`write_bytes_atomic` of `value` as indented JSON with sorted keys."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    # a path's bytes that are no UTF-8 reach Python as lone surrogates, which JSON has a spelling for and UTF-8 has not
    write_bytes_atomic(path, (text + "\n").encode("utf-8", "backslashreplace"))


def read_json(path: Path) -> Record:
    """The object in a JSON file. Raises UsageError naming the file."""
    try:
        value = parse_json(path.read_text("utf-8-sig"), numbers=False)
    except FileNotFoundError:
        raise UsageError(f"{str(path)!r} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{str(path)!r} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{str(path)!r} is damaged: it holds a {type(value).__name__}, not an object")
    return value


def finite(value: Any) -> Any:
    """`value` with null for numbers that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value


# Folders with a manifest
def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).as_posix() != MANIFEST)


def damage_of(folder: Path, *, contents: bool = True) -> str | None:
    """What is wrong with a folder that has a manifest, or None. `contents=False` compares names and sizes only."""
    try:
        entries = read_json(folder / MANIFEST)["files"]
        expected = {str(name): (int(e["size"]), str(e["sha256"])) for name, e in entries.items()}
    except UsageError as error:
        return str(error)
    except (KeyError, TypeError, ValueError, AttributeError):
        return f"{MANIFEST} is not a manifest"
    present = {p.relative_to(folder).as_posix(): p for p in _files(folder)}
    for name in sorted(expected.keys() | present.keys()):
        if name not in present:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} is not in {MANIFEST}"
        size, digest = expected[name]
        if (actual := present[name].stat().st_size) != size:
            return f"{name} has {actual:,} bytes instead of {size:,}"
        if contents and _sha256(present[name]) != digest:
            return f"{name} does not match its sha256"
    return None


@contextmanager
def complete_folder(target: Path, needed: int = 0) -> Iterator[Path]:
    """Yields an empty `<target>.tmp` to fill; it becomes `target` with its manifest, or is removed on an error.

    Args:
        needed: as in `writing`.
    """
    temporary, old = target.with_name(target.name + ".tmp"), target.with_name(target.name + ".old.tmp")
    with writing(target, needed):
        for leftover in (temporary, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            files = _files(temporary)
            if not files:
                raise ValueError(f"nothing was written for {target}")
            for path in files:
                fsync(path)
            manifest = {
                p.relative_to(temporary).as_posix(): {"sha256": _sha256(p), "size": p.stat().st_size} for p in files
            }
            write_json_atomic(temporary / MANIFEST, {"schema": 1, "files": manifest})
            if target.exists():  # a folder cannot replace one that has files in it
                target.rename(old)
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync(target.parent)
        shutil.rmtree(old, ignore_errors=True)
