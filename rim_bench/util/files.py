"""Files and folders that appear under their name only when they are complete. Imports neither torch nor transformers.

A file is written beside its place, brought to the disk and renamed. A folder gets a manifest with the size and sha256
of every file in it, so that what does not match is named, not trusted.
"""

from __future__ import annotations

import errno
import hashlib
import json
import lzma
import math
import os
import re
import resource
import shutil
import stat
import tempfile
import uuid
import zlib
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
LARGEST = 1 << 30  # bytes of a file that is read whole
PACKED = 300  # times its own bytes that a packed file may hold where that is more than 64 MiB: answers pack 80 to 1
DEEPEST = 40  # objects and lists inside each other; a record has six
HUGE = 1e300  # beyond it the sums of statistics are no numbers
_TEMPORARY = re.compile(
    r"\..+\.(\d{1,9})\.[0-9a-f]{8}\.tmp"
)  # what `write_bytes_atomic` calls it: the process's number
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
Record = dict[str, Any]


# Atomic writes
def canonical(value: Any) -> str:
    """`value` as JSON with one spelling: sorted keys, no spaces. What has a `to_json` is what that returns.

    Raises:
        ValueError, TypeError: what JSON cannot say (NaN, infinity; other objects).
    """
    return _CANONICAL.encode(value)


def _object(value: Any) -> Any:
    if not hasattr(value, "to_json"):
        raise TypeError(f"JSON cannot say a {type(value).__name__}")
    return value.to_json()


_CANONICAL = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_object
)


def canonical_finite(value: Any) -> str:
    """`canonical`, with null for numbers that JSON has no word for."""
    try:
        return canonical(value)
    except (TypeError, ValueError):
        return canonical(finite(value))


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


def append_bytes(path: Path, data: bytes) -> None:
    """Adds to a file, which is made where there is none. Raises UsageError: disk full or not writable."""
    with writing(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has the number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def is_leftover(name: str) -> bool:
    """Whether a file of this name is one that `write_bytes_atomic` of a process that is gone left half written."""
    writer = _TEMPORARY.fullmatch(name)
    return writer is not None and not is_alive(int(writer[1]))


def json_bytes(value: Any) -> bytes:
    """`value` as a file has it: indented JSON with sorted keys."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # a path's bytes that are no UTF-8 reach Python as lone surrogates, which JSON has a spelling for and UTF-8 has not
    return text.encode("utf-8", "backslashreplace")


def home_folder() -> Path:
    """Where this program keeps what it makes for itself: $RIM_BENCH_HOME, else a folder in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("RIM_BENCH_HOME") or f"{cache}/rim-bench").expanduser().absolute()


def write_json_atomic(path: Path, value: Any) -> None:
    """`write_bytes_atomic` of `json_bytes`."""
    write_bytes_atomic(path, json_bytes(value))


def is_there(path: Path) -> bool:
    """Whether something has this name, be it a file or not. Raises UsageError where nobody may look."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    return True


def read_whole(path: Path) -> bytes:
    """The bytes of a file, or of a pipe, that somebody named.

    Raises:
        OSError: as reading does; for a device or a socket, which may have no end, and a pipe of more than `LARGEST`.
    """
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(mode):
            return file.read()
        if not stat.S_ISFIFO(mode):
            raise OSError(errno.EINVAL, "it is a device, not a file", str(path))
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise OSError(errno.EFBIG, f"it does not end within {LARGEST:,} bytes", str(path))
    return data


def read_regular(path: Path) -> bytes:
    """The bytes of a file. Raises UsageError for one that is missing, no plain file, too large or not to be read."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise UsageError(f"{str(path)!r} is damaged: it is {'a folder' if path.is_dir() else 'no file of bytes'}")
        if info.st_size > LARGEST:
            raise UsageError(f"{str(path)!r} is damaged: it has {info.st_size:,} bytes, and at most {LARGEST:,} may be")
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{str(path)!r} is missing") from None
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error.strerror}") from None


def unpacked(data: bytes, path: Path) -> bytes:
    """What a .gz or .xz file holds. Raises UsageError where it is damaged, or holds far more than such files do."""
    most = min(LARGEST, max(LARGEST // 16, PACKED * len(data)))
    packed: Any = zlib.decompressobj(31) if path.suffix == ".gz" else lzma.LZMADecompressor(memlimit=LARGEST)
    try:
        out: bytes = packed.decompress(data, most)
    except (zlib.error, lzma.LZMAError) as error:
        raise UsageError(f"{str(path)!r} is damaged: {error}") from None
    if not packed.eof and len(out) == most:
        raise UsageError(f"{str(path)!r} is damaged: unpacked it has more than {most:,} bytes")
    if not packed.eof or packed.unused_data:
        raise UsageError(f"{str(path)!r} is damaged: it {'goes on behind' if packed.eof else 'stops before'} its end")
    return out


def parse_object(data: bytes, name: str, *, paths: bool = False) -> Record:
    """The object of a JSON text.

    Args:
        paths: it may hold paths, whose bytes need be no text.

    Raises:
        UsageError: `name` is no JSON (`strict_json.parse_json`) or no object, is nested deeper than `DEEPEST`, or has a
            character that no file can hold.
    """
    try:
        value = parse_json(data.decode())
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}, not an object")
        level: list[Any] = [value]
        for _ in range(DEEPEST):
            inner = (outer.values() if isinstance(outer, dict) else outer for outer in level)
            level = [part for parts in inner for part in parts if isinstance(part, dict | list)]
        if level:
            raise ValueError("it is nested too deeply")
        if not paths and _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()
    except ValueError as error:
        raise UsageError(f"{name} is damaged: {error}") from None
    return value


def parse_lines(data: bytes, name: str) -> Iterator[tuple[str, Record]]:
    """What to call a line, and its object, of a file of one JSON object a line. Raises UsageError as `parse_object`."""
    try:
        lines = data.decode().split("\n")
    except ValueError as error:
        raise UsageError(f"{name} is damaged: {error}") from None
    spelled = b"\\u" in data
    for number, line in enumerate(lines[: -1 if lines[-1] == "" else None], 1):
        where = f"{name} line {number}"
        try:
            value = parse_json(line)
        except ValueError:
            value = None  # `parse_object` says what is wrong
        if type(value) is not dict or spelled or line.count("[") + line.count("{") > DEEPEST:
            value = parse_object(line.encode(), where)
        yield where, value


def read_json(path: Path) -> Record:
    """The object in a JSON file. Raises UsageError naming the file."""
    data = read_regular(path)
    try:
        value = parse_json(data.decode("utf-8-sig"), numbers=False)
    except ValueError as error:
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
