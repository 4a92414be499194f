"""Trying again: how often, how long, and how far apart. Only an error that is marked retriable is tried again."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from worker.errors import WorkerError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """At most `attempts` in all, none begun after `total_seconds`; None is without end.

    The pause doubles from `first_seconds` up to `longest_seconds`, and is shortened by up to a half at
    random, so that workers which failed together don't come back together.
    """

    attempts: int | None = 3
    total_seconds: float | None = 5.0
    first_seconds: float = 0.1
    longest_seconds: float = 5.0

    def __post_init__(self) -> None:
        for name in ("attempts", "total_seconds", "first_seconds", "longest_seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, not {value}")

    def pause(self, num_failures: int) -> float:
        """Seconds to wait after the `num_failures`-th failure in a row, counted from 1."""
        doubled = self.first_seconds * 2.0 ** min(num_failures - 1, 30)
        return min(self.longest_seconds, doubled) * random.uniform(0.5, 1)


async def retry(policy: RetryPolicy, act: Callable[[], Awaitable[T]]) -> T:
    """The result of `act`, tried again while `policy` lets it.

    Raises the last error, with those before it as notes; `TimeoutError` where the first attempt itself
    lasts beyond the policy's time.
    """
    loop = asyncio.get_running_loop()
    deadline = float("inf") if policy.total_seconds is None else loop.time() + policy.total_seconds
    failures: list[WorkerError] = []
    try:
        async with asyncio.timeout_at(deadline):
            while True:
                try:
                    return await act()
                except WorkerError as error:
                    failures.append(error)
                    pause = policy.pause(len(failures))
                    is_last = len(failures) == policy.attempts or loop.time() + pause > deadline
                    if not error.retriable or is_last:
                        raise _noted(failures) from error.__cause__
                await asyncio.sleep(pause)
    except TimeoutError:
        if failures:
            raise _noted(failures) from None
        raise


def _noted(failures: list[WorkerError]) -> WorkerError:
    *earlier, last = failures
    for number, error in enumerate(earlier, start=1):
        last.add_note(f"attempt {number}: {error}")
    return last
