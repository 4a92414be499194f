"""A thread of its own for a client that only one thread may use."""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_Job = tuple[Callable[[], Any], asyncio.Future[Any], asyncio.AbstractEventLoop]


class OwnThread:
    """Runs calls one after the other on one daemon thread.

    A pool's threads are waited for when the process ends; a client's call without a deadline
    would then hold up a shutdown for good.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def call(self, act: Callable[[], T]) -> T:
        """The result of `act`, or what it raises. Cancelling lets it run on, unwatched."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._jobs.put((act, done, loop))
        return await done

    def end(self) -> None:
        """Let the thread end after the calls that wait."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            act, done, loop = job
            try:
                result, error = act(), None
            except BaseException as caught:
                result, error = None, caught
            try:
                loop.call_soon_threadsafe(_settle, done, result, error)
            except RuntimeError:
                return  # the loop is closed: nobody is left to be told


def _settle(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
