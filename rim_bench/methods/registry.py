"""Methods by name: shipped ones, those of installed packages, and a file of one's own."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
import types
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from rim_bench.methods.method import Method, logger
from rim_bench.util.errors import UsageError, check_name, unknown

ENTRY_POINTS = "rim_bench.methods"


@cache
def shipped_methods() -> Mapping[str, type[Method]]:
    """Name -> class of the methods that lie in `models/` and `baselines/`."""
    methods: dict[str, type[Method]] = {}
    for package in ("rim_bench.models", "rim_bench.baselines"):
        for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
            module = importlib.import_module(f"{package}.{info.name}")
            for cls in _methods_of(module):
                methods[cls.name] = cls
    return methods


def all_methods() -> dict[str, type[Method]]:
    """Shipped methods and those of installed packages that declare the entry point group `rim_bench.methods`.

    An entry point names a class or a module. One that does not load is logged and passed over; none replaces a shipped
    method.
    """
    methods = dict(shipped_methods())
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            loaded = point.load()
        except Exception as error:  # another package's fault is not to stop the methods that are here
            logger.warning("entry point %s is not used: %s: %s", point.value, type(error).__name__, error)
            continue
        classes = _methods_of(loaded) if isinstance(loaded, types.ModuleType) else [loaded]
        for cls in classes:
            if not (isinstance(cls, type) and issubclass(cls, Method) and cls.name):
                logger.warning("entry point %s is not used: it is no Method subclass with a name", point.value)
                continue
            try:
                check_name("method", cls.name)
            except UsageError as error:
                logger.warning("entry point %s is not used: %s", point.value, error)
                continue
            methods.setdefault(cls.name, cls)
    return methods


def _methods_of(module: types.ModuleType) -> list[type[Method]]:
    """The Method subclasses that a module itself defines, those with a name."""
    classes = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Method)]
    return [c for c in classes if c.__module__ == module.__name__ and c.name]


def load_method(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """A method by name or by the path of a Python file that defines exactly one.

    Raises:
        UsageError: no such name or file, a file that fails to import, a name that no folder can have, or settings
            that do not fit.
    """
    if name.endswith(".py"):
        cls = _method_in_file(Path(name))
        check_name("method", cls.name)
    else:
        known = all_methods()
        if name not in known:
            raise unknown("method", name, known)
        cls = known[name]
    try:
        method = cls()
    except TypeError as error:
        raise UsageError(
            f"method {name!r} cannot be made without arguments, every field needs a default: {error}"
        ) from error
    return method.with_settings(settings or {})


class StoredMethod(Protocol):
    """A method as a run's specification has it."""

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def file(self) -> str | None: ...

    @property
    def file_sha256(self) -> str | None: ...


def method_of(stored: StoredMethod) -> Method:
    """The method that a run's specification names, with its settings.

    Raises:
        UsageError: the method's file is gone, or not the one that the run was trained with.
    """
    if stored.file is None:
        return load_method(stored.name, stored.settings)
    method = load_method(stored.file, stored.settings)  # says so where the file is gone
    if hashlib.sha256(Path(stored.file).read_bytes()).hexdigest() != stored.file_sha256:
        raise UsageError(
            f"method file {stored.file!r} has changed since the run was trained: restore it, or train again"
        )
    return method


def _method_in_file(path: Path) -> type[Method]:
    if not path.is_file():
        raise UsageError(
            f"method file {str(path)!r} does not exist: give a path to a Python file or a name from `rim-bench list "
            "methods`"
        )
    resolved = path.resolve()
    digest = hashlib.sha256(f"{resolved}\n".encode() + resolved.read_bytes()).hexdigest()
    module_name = f"rim_bench_user_{resolved.stem}_{digest[:12]}"  # a changed file is another module
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, resolved)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            reason = " ".join(str(error).split())
            raise UsageError(f"method file {str(path)!r} failed to import: {type(error).__name__}: {reason}") from error
    classes = _methods_of(sys.modules[module_name])
    if len(classes) != 1:
        names = ", ".join(c.name for c in classes) or "none"
        raise UsageError(f"method file {str(path)!r} must define exactly one named Method subclass, found {names}")
    return classes[0]
