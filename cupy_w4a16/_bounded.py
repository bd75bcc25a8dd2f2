"""A cache that can't grow without end."""

from __future__ import annotations

from typing import Any


class Bounded(dict[Any, Any]):
    """A dict of at most `limit` entries; the oldest makes room. Looking up is a plain dict's `get`.

    Threads may use one without a lock: at worst an entry goes early, or two make the same one.

    >>> cache = Bounded(2)
    >>> for key in "abc":
    ...     cache.put(key, key.upper())
    >>> cache
    {'b': 'B', 'c': 'C'}
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def put(self, key: Any, value: Any) -> None:
        while len(self) >= self.limit:
            try:
                self.pop(next(iter(self)), None)
            except (StopIteration, RuntimeError):  # another thread has just changed it
                continue
        self[key] = value
