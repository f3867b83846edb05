"""Packages whose submodules are imported without running the package's `__init__`.

The `__init__` of segment_anything imports torchvision for its predictor. That costs each worker more than a
second, and nothing here uses it. A deferred package runs its `__init__` when one of its own attributes is
first used, so other users of the package see no difference.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType


class _DeferredPackage(ModuleType):
    """A package that is in `sys.modules`, but whose `__init__` has not run yet."""

    def __getattr__(self, name: str) -> object:
        spec = self.__spec__
        # An ordinary module from here on: what the package itself lacks must not come back here.
        object.__setattr__(self, "__class__", ModuleType)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module(self)
        return getattr(self, name)


def defer(package: str) -> None:
    """Run the package's `__init__` only when it is needed, unless it is imported already or not installed."""
    spec = None if package in sys.modules else find_spec(package)
    if spec is None:
        return
    module = module_from_spec(spec)
    module.__class__ = _DeferredPackage
    sys.modules[package] = module
