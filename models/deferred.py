"""Packages of which only the needed parts are imported.

The `__init__` of segment_anything and that of open_clip import what nothing here uses: torchvision, timm,
code for training. That costs each process two to four seconds of CPU time. A deferred package runs `__init__`
when one of its own attributes is first used, and its submodules bind some names without importing the modules
that they come from. Other users of the package see no difference.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec, module_from_spec, resolve_name
from types import ModuleType, SimpleNamespace
from typing import Any, Union


class _DeferredPackage(ModuleType):
    """A package that is in `sys.modules`, but whose `__init__` has not run yet."""

    def __getattr__(self, name: str) -> object:
        spec = self.__spec__
        # An ordinary module from here on: what the package itself lacks must not come back here.
        object.__setattr__(self, "__class__", ModuleType)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module(self)
        return getattr(self, name)


def defer(package: str, unused: Collection[str] = ()) -> None:
    """Run the package's `__init__` only when it is needed, unless it is imported already or not installed.

    Args:
        package: its name.
        unused: modules that the package's submodules import names from, and that are to be imported when such
            a name is first used.
    """
    spec = None if package in sys.modules else find_spec(package)
    if spec is None:
        return
    module = module_from_spec(spec)
    module.__class__ = _DeferredPackage
    sys.modules[package] = module
    if unused:
        sys.meta_path.insert(0, _Finder(package, frozenset(unused)))


class _LateName:
    """A function or class of a module that is imported when it is called, looked into or inherited from."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def _load(self) -> Any:
        return getattr(import_module(self._module), self._name)

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._load()(*args, **kwargs)

    def __getattr__(self, name: str) -> object:
        # `typing` asks for special names where this is part of an annotation.
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._load(), name)

    def __instancecheck__(self, instance: object) -> bool:
        # Nothing is an instance of a class that nobody has imported.
        return self._module in sys.modules and isinstance(instance, self._load())

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
        return (self._load(),)

    def __or__(self, other: Any) -> object:
        return Union[self, other]  # noqa: UP007 - `|` is what this defines

    __ror__ = __or__


class _Finder(MetaPathFinder):
    """Finds the submodules of a deferred package."""

    def __init__(self, package: str, unused: frozenset[str]) -> None:
        self._prefix, self._unused = f"{package}.", unused

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(self._prefix):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path, self._unused)
        return spec


class _Loader(SourceFileLoader):
    """Runs a module with an `import` statement of its own, which other modules do not see."""

    def __init__(self, name: str, path: str, unused: frozenset[str]) -> None:
        super().__init__(name, path)
        self._unused = unused

    def exec_module(self, module: ModuleType) -> None:
        before = dict(vars(module))
        late = partial(_import_late, self._unused)
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": late}
        try:
            super().exec_module(module)
        except Exception:  # noqa: BLE001  another version may use such names in ways that only the real ones allow
            vars(module).clear()
            vars(module).update(before)
            super().exec_module(module)


def _import_late(
    unused: frozenset[str],
    name: str,
    globals: Mapping[str, object] | None = None,  # noqa: A002 - the names of `__import__`
    locals: Mapping[str, object] | None = None,  # noqa: A002
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    """`__import__`, but for names out of modules that are not needed yet."""
    module = resolve_name("." * level + name, str((globals or {}).get("__package__"))) if level else name
    if fromlist and "*" not in fromlist and module in unused and module not in sys.modules:
        return SimpleNamespace(**{attribute: _LateName(module, attribute) for attribute in fromlist})
    return builtins.__import__(name, globals, locals, fromlist or (), level)
