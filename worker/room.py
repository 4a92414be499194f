"""Room for work under way: a bound on posts and bytes that stops the intake, not the memory."""

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomLimits:
    """How much may be under way between intake and acknowledgement."""

    max_posts: int = 1024
    max_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in ("max_posts", "max_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


class Room:
    """Counts posts and bytes under way, and lets the intake wait for either."""

    def __init__(self, limits: RoomLimits) -> None:
        self._limits = limits
        self._changed = asyncio.Condition()
        self._is_closed = False
        self.num_posts = 0
        self.num_bytes = 0

    async def enter(self, num_bytes: int) -> bool:
        """Wait until one more post of `num_bytes` fits; False where the room is closed first.

        One that is larger than all fits alone.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_closed or self._fits(num_bytes))
            if self._is_closed:
                return False
            self.num_posts += 1
            self.num_bytes += num_bytes
            self._changed.notify_all()
            return True

    async def close(self) -> None:
        """Let nobody in any more, not even those who wait."""
        async with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    async def leave(self, num_bytes: int) -> None:
        """Give back the room of one post."""
        async with self._changed:
            self.num_posts -= 1
            self.num_bytes -= num_bytes
            self._changed.notify_all()

    async def wait_empty(self) -> None:
        """Wait until nothing is under way."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.num_posts == 0)

    def is_half(self, num_posts: int, num_bytes: int) -> bool:
        """Whether so much takes half of the room, by posts or by bytes."""
        return 2 * num_posts >= self._limits.max_posts or 2 * num_bytes >= self._limits.max_bytes

    def _fits(self, num_bytes: int) -> bool:
        if self.num_posts == 0:
            return True
        limits = self._limits
        return self.num_posts < limits.max_posts and self.num_bytes + num_bytes <= limits.max_bytes
