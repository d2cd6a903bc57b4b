"""Methods by name: shipped ones, those of installed packages, and a file of one's own."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import pkgutil
import sys
import types
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from rim_bench.methods.method import Method, logger
from rim_bench.methods.own_methods import Checked, class_place, in_own_code, is_own
from rim_bench.util.errors import OWN_MODULE, UsageError, check_name, unknown
from rim_bench.util.own_files import OwnFile, allow, allowed, read_own, refusal

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
        except (Exception, SystemExit) as error:  # another package's fault is not to stop the methods that are here
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
    """A method by name, or by the path of a Python file that defines exactly one: who calls this wants it to be run.

    Raises:
        UsageError: no such name or file, a file that fails to import or whose method is none, a name that no folder
            can have, or settings that do not fit.
    """
    if name.endswith(".py"):
        return _with_settings(_method_in(allow(_method_file(name))), settings)
    known: Mapping[str, type[Method]] = shipped_methods()
    if name not in known:  # only then are installed packages looked through, which takes a while
        known = all_methods()
    if name not in known:
        raise unknown("method", name, known)
    return _with_settings(known[name], settings)


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

    One of a file is found again by the hash of its content, among the files that this process was given: nothing is run
    because a specification says where it lies.

    Raises:
        UsageError: no file of that content was given.
    """
    if stored.file is None and stored.file_sha256 is None:
        if stored.name.endswith(".py"):
            raise unknown("method", stored.name, all_methods())
        return load_method(stored.name, stored.settings)
    file = allowed(stored.file_sha256)
    if file is None:
        who = f"a run was trained with method {stored.name!r} of somebody's own"
        raise refusal(who, str(stored.file), stored.file_sha256)
    return _with_settings(_method_in(file), stored.settings)


def _with_settings(cls: type[Method], settings: Mapping[str, Any] | None) -> Method:
    """The method with these settings; one that is not shipped is looked at."""
    if not is_own(cls):
        return cls().with_settings(settings or {})
    with in_own_code(class_place(cls), f"{cls.name} cannot be made without arguments, every field needs a default"):
        method = cls()
    with in_own_code(class_place(cls), f"{cls.name} does not take its settings"):
        method = method.with_settings(settings or {})
    Checked(method)
    return method


def _method_file(name: str) -> OwnFile:
    """Raises UsageError where there is none, before it is read."""
    if not Path(name).expanduser().is_file():
        raise UsageError(
            f"method file {str(Path(name))!r} does not exist: give a path to a Python file or a name from `rim-bench "
            "list methods`"
        )
    return read_own(name)


def _method_in(file: OwnFile) -> type[Method]:
    """The method that a file defines. What is run is what was read, never a compiled file beside it."""
    digest = hashlib.sha256(f"{file.path}\n{file.sha256}".encode()).hexdigest()
    module_name = f"{OWN_MODULE}{file.path.stem}_{digest[:12]}"  # a changed file is another module
    if module_name not in sys.modules:
        module = types.ModuleType(module_name)
        module.__file__ = str(file.path)
        sys.modules[module_name] = module  # dataclasses look their module up
        try:
            with in_own_code(f"method file {str(file.path)!r}", "failed to import"):
                exec(compile(file.source, str(file.path), "exec", dont_inherit=True), vars(module))
        except BaseException:
            del sys.modules[module_name]
            raise
    classes = _methods_of(sys.modules[module_name])
    if len(classes) != 1:
        names = ", ".join(c.name for c in classes) or "none"
        raise UsageError(f"method file {str(file.path)!r} must define exactly one named Method subclass, found {names}")
    check_name("method", classes[0].name)
    return classes[0]
