"""Reading entity events, for programs downstream: `async for event in events`, or a plain `for`.

Only what is committed is read. A thread of its own polls, so that the caller may take its time.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

from consumers.deletes import Tombstone
from consumers.errors import BadEvent, NewerSchema
from consumers.event_places import Reading, Start
from consumers.event_records import EventOrTombstone
from consumers.event_shelf import Item, Nothing, Shelf
from consumers.event_thread import EventThread
from consumers.events import EntityEvent
from consumers.kafka_connection import KafkaConnection
from consumers.source import Message, Offsets, Partition, Position

__all__ = [
    "BadEvent",
    "BlockingEntityEvents",
    "EntityEvent",
    "EntityEvents",
    "EventOrTombstone",
    "KafkaConnection",
    "NewerSchema",
    "Partition",
    "Position",
    "Tombstone",
]

TURN = 64
"""After so many events others on asyncio's loop have their turn, though more events are there."""

LEAVE_POLL_SECONDS = 0.02


class _Events:
    """What both readers share: how they are made, and where they are."""

    def __init__(
        self,
        brokers: str | KafkaConnection,
        *,
        topic: str = "entities",
        group_id: str | None = None,
        start: Start = "earliest",
        follow: bool = True,
        on_bad: Literal["raise", "skip"] = "raise",
    ) -> None:
        """Raises a ValueError on what makes no sense; see `Reading` for the meaning of `start` and `follow`.

        `brokers`: host:port, several separated by commas, or a `KafkaConnection` with TLS and login. `on_bad`: what
        to do with a record that is no event.
        """
        if isinstance(brokers, str):
            parts = [part.strip() for part in brokers.split(",")]
            brokers = KafkaConnection(bootstrap_servers=tuple(filter(None, parts)))
        if on_bad not in ("raise", "skip"):
            raise ValueError(f'on_bad is {on_bad!r}; it must be "raise" or "skip"')
        self._connection = brokers
        self._reading = Reading(topic=topic, group_id=group_id, start=start, follow=follow)
        self._shelf = Shelf(skip_bad=on_bad == "skip", on_change=self._wake)
        self._thread: EventThread | None = None

    @property
    def offsets(self) -> Offsets:
        """For each partition the next offset after what was handed out: what `start` takes later on.

        Keep them with what you made of the events, in one transaction, and each event has its effect once.
        """
        return {partition: place.offset for partition, place in self._shelf.places.items()}

    @property
    def message(self) -> Message | None:
        """The record that was handed out last, as it came: its bytes, key, headers and timestamp."""
        return self._shelf.last

    @property
    def position(self) -> Position | None:
        """Where on the topic the event stands that was handed out last."""
        return None if self._shelf.last is None else self._shelf.last.position

    @property
    def num_skipped(self) -> int:
        """How many records were no events, and were skipped."""
        return self._shelf.num_skipped

    def _wake(self) -> None:
        """There is something to take."""

    def _open(self) -> EventThread:
        if self._thread is not None:
            raise RuntimeError("events can be opened once; make another reader")
        self._thread = EventThread(self._connection, self._reading, self._shelf)
        self._thread.start()
        return self._thread

    def _opened(self) -> EventThread:
        if self._thread is None:
            raise RuntimeError("the events aren't open; read them within a `with`")
        return self._thread

    def _committing(self) -> EventThread:
        if self._reading.group_id is None:
            raise RuntimeError("there is no group to commit for; give group_id, or keep events.offsets yourself")
        return self._opened()


class EntityEvents(_Events):
    """The events of a topic, in the order of each partition: `async with`, then `async for`.

    Raises `SourceUnavailable`, `BadEvent` and `NewerSchema` where the next event should be; the reader then stands
    before that record. With a `group_id` partitions are shared with others, and events of those that go to another
    reader are no longer handed out; nothing is ever committed but by `commit`.
    """

    _arrived: asyncio.Event
    _num_taken = 0
    _post: Callable[[], object] | None = None

    async def __aenter__(self) -> Self:
        """Connect. Raises `SourceUnavailable` with what was tried and what to do."""
        loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._post = lambda: loop.call_soon_threadsafe(self._arrived.set)
        thread = self._open()
        try:
            await asyncio.wrap_future(thread.started)
        except BaseException:
            thread.ask_to_leave()
            raise
        return self

    async def __aexit__(self, _type: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        """Leave, in seconds at most; what was handed out and not committed is read again later."""
        thread = self._opened()
        thread.ask_to_leave()
        # Asked again and again: a wait on one of asyncio's own threads couldn't be given up.
        while thread.is_alive:  # noqa: ASYNC110
            await asyncio.sleep(LEAVE_POLL_SECONDS)

    def __aiter__(self) -> Self:
        """The events, once."""
        return self

    async def __anext__(self) -> EventOrTombstone:
        """The next event; cancelling it loses none."""
        self._opened()
        self._num_taken += 1
        if self._num_taken % TURN == 0:
            await asyncio.sleep(0)
        while True:
            self._arrived.clear()
            found = self._shelf.take()
            if isinstance(found, Item):
                assert not isinstance(found.found, Exception)
                return found.found
            if found is Nothing.MORE:
                raise StopAsyncIteration
            await self._arrived.wait()

    async def commit(self) -> Offsets:
        """Commit all that was handed out so far, the last event included, and nothing that was only read ahead.

        Gives back what was committed, without partitions that went to another reader meanwhile, which may read a few
        events again. Waits for the end of a rebalance. Raises `SourceUnavailable` after half a minute, and a
        RuntimeError where there is no group.
        """
        return await asyncio.wrap_future(self._committing().commits.ask())

    def _wake(self) -> None:
        if self._post is not None:
            try:
                self._post()
            except RuntimeError:
                # The loop was closed without a goodbye.
                self._opened().ask_to_leave()


class BlockingEntityEvents(_Events):
    """`EntityEvents` without asyncio: `with`, then `for`; all else is the same."""

    def __enter__(self) -> Self:
        """Connect. Raises `SourceUnavailable` with what was tried and what to do."""
        thread = self._open()
        try:
            thread.started.result()
        except BaseException:
            thread.ask_to_leave()
            raise
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        """Leave, in seconds at most; what was handed out and not committed is read again later."""
        self._opened().ask_to_leave()
        self._opened().join()

    def __iter__(self) -> Self:
        """The events, once."""
        return self

    def __next__(self) -> EventOrTombstone:
        """The next event; waits for one."""
        self._opened()
        while True:
            found = self._shelf.take()
            if isinstance(found, Item):
                assert not isinstance(found.found, Exception)
                return found.found
            if found is Nothing.MORE:
                raise StopIteration
            self._shelf.wait()

    def commit(self) -> Offsets:
        """As `EntityEvents.commit`."""
        return self._committing().commits.ask().result()
