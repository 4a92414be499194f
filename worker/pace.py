"""At most so many posts a second, or as fast as they were made, or so many times as fast."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

CATCH_UP_SECONDS = 1.0
"""What was missed while something else took long may be made up for, but no more than this."""

LONG_SECONDS = 1.0
"""Before a wait of more than this nothing is held back."""

LONGEST_GAP = timedelta(hours=1)
"""A gap between posts, by their own clock, beyond which the clock jumps: a piece is missing, or a date is wrong."""

NAP_SECONDS = 0.2
"""So often it is seen whether one is to stop."""


class Pace:
    """Holds up posts that come too early: at `rate` posts a second, at `speed` times the posts' own clock, or both.

    The own clock is that of `created_at`; it starts with the first post that has one, and jumps over gaps of more than
    `LONGEST_GAP`.
    """

    def __init__(
        self,
        rate: float | None = None,
        speed: float | None = None,
        *,
        is_stopped: Callable[[], bool] = lambda: False,
        before_long_wait: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._seconds = 1 / rate if rate else 0.0
        self._speed = speed
        self._is_stopped = is_stopped
        self._before_long_wait = before_long_wait
        self._clock, self._sleep = clock, sleep
        self._next_at = clock()
        self._first: tuple[float, datetime] | None = None
        self._latest = datetime.min.replace(tzinfo=UTC)

    def wait(self, moment: datetime | None) -> None:
        """Wait for the turn of a post that was made at `moment`; less where one is to stop."""
        now = self._clock()
        due = now
        if self._seconds:
            due = self._next_at
            self._next_at = max(due, now - CATCH_UP_SECONDS) + self._seconds
        if self._speed and moment:
            if self._first is None or abs(moment - self._latest) > LONGEST_GAP:
                self._first = now, moment
            self._latest = moment
            started_at, first = self._first
            due = max(due, started_at + (moment - first).total_seconds() / self._speed)
        if due - now > LONG_SECONDS:
            self._before_long_wait()
        while (left := due - self._clock()) > 0 and not self._is_stopped():
            self._sleep(min(left, NAP_SECONDS))
