"""Which of the checkpoints that are named is tried, and when one that was refused is tried again."""

import math
import time

from model.errors import OutOfMemory, TowerMissing
from worker.checkpoint_place import Named
from worker.errors import TaggerDied
from worker.retry import RetryPolicy

LONGEST_SECONDS = 300.0


def passes(error: BaseException | None) -> bool:
    """Whether the same file may be fit later: memory is short, a disk doesn't answer, its tower has yet to come; and a
    process that died may have died of anything.

    A checkpoint's own content is refused once: when the file changes, it is another that is named.
    """
    while error is not None:
        if isinstance(error, OSError | MemoryError | OutOfMemory | TowerMissing | TaggerDied):
            return True
        error = error.__cause__
    return False


class CheckpointAttempts:
    """Remembers the last checkpoint that was named, and how trying it went."""

    def __init__(self, first_seconds: float) -> None:
        self._policy = RetryPolicy(
            attempts=None,
            total_seconds=None,
            first_seconds=first_seconds,
            longest_seconds=max(first_seconds, LONGEST_SECONDS),
        )
        self._known: Named | None = None
        self._num_failures = 0
        self._again_at = math.inf

    def is_new(self, named: Named) -> bool:
        """Whether another is named than the last that was tried."""
        return named != self._known

    def begins(self, named: Named) -> bool:
        """Whether `named` is to be tried now: it is new, or the time has come to try it again."""
        if self.is_new(named):
            self._num_failures = 0
        elif time.monotonic() < self._again_at:
            return False
        self._known, self._again_at = named, math.inf
        return True

    def failed(self, error: Exception) -> float | None:
        """In how many seconds it is tried again; None where it isn't."""
        if not passes(error):
            return None
        self._num_failures += 1
        pause = self._policy.pause(self._num_failures)
        self._again_at = time.monotonic() + pause
        return pause
