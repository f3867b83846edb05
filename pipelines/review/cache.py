"""A cache with a limit in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class BoundedCache(Generic[V]):
    """Keeps what was used last; several threads may use it.

    Args:
        limit: bytes of all values together.
        size: bytes of a value.
    """

    def __init__(self, limit: int, size: Callable[[V], int]) -> None:
        self._limit, self._size, self._used = limit, size, 0
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of a key; `make()` where it is not kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        # Without the lock: two threads may make the same value, but none waits for another one's.
        value = make()
        with self._lock:
            self._keep(key, value)
        return value

    def _keep(self, key: Hashable, value: V) -> None:
        if key in self._values:
            return
        self._values[key] = value
        self._used += self._size(value)
        while self._used > self._limit and self._values:
            _, dropped = self._values.popitem(last=False)
            self._used -= self._size(dropped)
