"""At most so many posts a second."""

import time
from collections.abc import Callable

CATCH_UP_SECONDS = 1.0
"""What was missed while something else took long may be made up for, but no more than this."""


class Pace:
    """Holds up whoever comes too often; no `rate` holds up nobody."""

    def __init__(
        self,
        rate: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._seconds = 1 / rate if rate else 0.0
        self._clock, self._sleep = clock, sleep
        self._next_at = clock()

    def wait(self) -> None:
        """Wait for the next post's turn."""
        if not self._seconds:
            return
        now = self._clock()
        if now < self._next_at:
            self._sleep(self._next_at - now)
        self._next_at = max(self._next_at, now - CATCH_UP_SECONDS) + self._seconds
