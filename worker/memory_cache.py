"""A cache in the worker's own memory."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

ENTRY_BYTES = 300
"""What an entry takes beside its key and its value: many are hardly more than that."""

MEMBER_BYTES = 200
"""What one of a set takes, which is a digest in hexadecimal."""

MAX_MEMBERS = 10_000
"""Of a set; of more the oldest leave it."""

Value = bytes | dict[str, float]
"""Of a set's members, oldest first, until when each is one."""


class MemoryCache:
    """The most recently used values, up to `max_bytes`."""

    def __init__(self, *, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._values: OrderedDict[str, tuple[float, Value]] = OrderedDict()
        self._num_bytes = 0

    async def get(self, key: str, deadline: float | None = None) -> bytes | None:
        """The value, None on a miss or past its time."""
        value = self._fresh(key)
        return value if isinstance(value, bytes) else None

    async def set(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """Keep `value`; the least recently used ones make room."""
        self._keep(key, value, ttl_seconds)

    async def recall(self, key: str) -> bytes | None:
        """The same as `get`: memory is always sure."""
        return await self.get(key)

    async def recall_all(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """The same of each key."""
        return [await self.recall(key) for key in keys]

    async def keep(self, key: str, value: bytes, ttl_seconds: float) -> bytes | None:
        """The same as `set`; what was there before."""
        before = self._fresh(key)
        self._keep(key, value, ttl_seconds)
        return before if isinstance(before, bytes) else None

    async def keep_listed(self, key: str, value: bytes, listed: tuple[str, str], ttl_seconds: float) -> bytes | None:
        """`keep`, and `add` of `listed`."""
        await self.add(*listed, ttl_seconds)
        return await self.keep(key, value, ttl_seconds)

    async def delete(self, keys: Sequence[str]) -> None:
        """Drop what is kept under `keys`."""
        for key in keys:
            self._drop(key)

    async def add(self, key: str, member: str, ttl_seconds: float) -> None:
        """Put `member` into the set `key`."""
        members = self._members(key)
        # Taken out while it changes: its size is counted.
        self._drop(key)
        members.pop(member, None)
        members[member] = self._clock() + ttl_seconds
        if len(members) > MAX_MEMBERS:
            del members[next(iter(members))]
        self._keep(key, members, ttl_seconds)

    async def remove(self, key: str, member: str) -> int:
        """Take `member` out of the set `key`; how many are left in it."""
        members = self._members(key)
        self._drop(key)
        now = self._clock()
        members = {name: until for name, until in members.items() if name != member and until > now}
        if members:
            self._keep(key, members, max(members.values()) - now)
        return len(members)

    def _members(self, key: str) -> dict[str, float]:
        found = self._fresh(key)
        return found if isinstance(found, dict) else {}

    async def close(self) -> None:
        """Nothing to let go of."""

    def _fresh(self, key: str) -> Value | None:
        """What is kept under `key`, which is the most recently used now; None where its time is over."""
        entry = self._values.get(key)
        if entry is None:
            return None
        if entry[0] <= self._clock():
            self._drop(key)
            return None
        self._values.move_to_end(key)
        return entry[1]

    def _keep(self, key: str, value: Value, ttl_seconds: float) -> None:
        self._drop(key)
        if _size(key, value) > self._max_bytes:
            return
        self._values[key] = (self._clock() + ttl_seconds, value)
        self._num_bytes += _size(key, value)
        while self._num_bytes > self._max_bytes:
            self._drop(next(iter(self._values)))

    def _drop(self, key: str) -> None:
        if entry := self._values.pop(key, None):
            self._num_bytes -= _size(key, entry[1])


def _size(key: str, value: Value) -> int:
    num_bytes = len(value) if isinstance(value, bytes) else MEMBER_BYTES * len(value)
    return ENTRY_BYTES + len(key) + num_bytes
