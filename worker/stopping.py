"""What a stop may break off: the work before the first post, of which nothing is to be finished."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """Raised where the worker was asked to stop before something came to its end."""


async def unless_stopped(stop: asyncio.Event, act: Coroutine[Any, Any, T]) -> T:
    """What `act` gives or raises. Raises `Stopped` where `stop` is set first; `act` is then cancelled."""
    acting = asyncio.create_task(act)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({acting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not acting.done():
            raise Stopped
        return acting.result()
    finally:
        acting.cancel()
        stopping.cancel()
