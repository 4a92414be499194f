"""Retries end by number or by time, and only for what may pass."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.image_status import ImageStatus
from worker.errors import ImageError, WorkerError
from worker.retry import RetryPolicy, retry

QUICK = RetryPolicy(attempts=4, total_seconds=5.0, first_seconds=0.001)


class Host:
    """Fails as often as told, then answers."""

    def __init__(self, num_failures: int, *, retriable: bool = True) -> None:
        self.num_calls = 0
        self._num_failures = num_failures
        self._retriable = retriable

    async def answer(self) -> str:
        self.num_calls += 1
        if self.num_calls <= self._num_failures:
            raise ImageError(ImageStatus.HOST_DOWN, f"failure {self.num_calls}", retriable=self._retriable)
        return "well"


def test_what_may_pass_is_tried_again() -> None:
    """Two failures, then the answer."""
    host = Host(2)
    assert asyncio.run(retry(QUICK, host.answer)) == "well"
    assert host.num_calls == 3


def test_what_can_not_pass_is_tried_once() -> None:
    """An error that isn't marked is the answer."""
    host = Host(1, retriable=False)
    with pytest.raises(ImageError):
        asyncio.run(retry(QUICK, host.answer))
    assert host.num_calls == 1
    assert not WorkerError.retriable


def test_the_last_error_tells_of_those_before_it() -> None:
    """After the last attempt, the history is in the error's notes."""
    host = Host(9)
    with pytest.raises(ImageError, match="failure 4") as caught:
        asyncio.run(retry(QUICK, host.answer))
    assert host.num_calls == 4
    assert caught.value.__notes__ == [f"attempt {n}: failure {n}" for n in (1, 2, 3)]


def test_no_attempt_begins_after_the_time_is_over() -> None:
    """Attempts without end are ended by the clock."""
    host = Host(10**6)
    policy = RetryPolicy(attempts=None, total_seconds=0.2, first_seconds=0.02, longest_seconds=0.02)
    start = time.perf_counter()
    with pytest.raises(ImageError):
        asyncio.run(retry(policy, host.answer))
    assert time.perf_counter() - start < 2
    assert 2 <= host.num_calls <= 30


def test_an_attempt_that_lasts_too_long_is_cut_off() -> None:
    """Hung at the first attempt: a TimeoutError; at a later one: the error that led there."""
    policy = RetryPolicy(attempts=3, total_seconds=0.1, first_seconds=0.001)

    async def hang() -> None:
        await asyncio.sleep(30)

    with pytest.raises(TimeoutError):
        asyncio.run(retry(policy, hang))
    host = Host(1)

    async def fail_then_hang() -> None:
        await host.answer()
        await hang()

    with pytest.raises(ImageError, match="failure 1"):
        asyncio.run(retry(policy, fail_then_hang))


@given(st.integers(1, 10_000))
def test_pauses_grow_up_to_a_bound_and_never_agree(num_failures: int) -> None:
    """Between half of the pause and all of it, and never beyond the longest."""
    policy = RetryPolicy(first_seconds=0.1, longest_seconds=5.0)
    pause = policy.pause(num_failures)
    whole = min(5.0, 0.1 * 2.0 ** min(num_failures - 1, 30))
    assert whole / 2 <= pause <= whole


@pytest.mark.parametrize("name", ["attempts", "total_seconds", "first_seconds", "longest_seconds"])
def test_a_policy_that_can_not_work_is_refused(name: str) -> None:
    """Zero of anything is a mistake."""
    with pytest.raises(ValueError, match=name):
        RetryPolicy(**{name: 0})
