"""Posts from a Kafka topic, as a `PostSource`.

The consumer lives on a thread of its own (consumers/kafka_poller.py); here is asyncio's side of the crossing.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from consumers.errors import SourceUnavailable
from consumers.kafka_buffer import Buffer
from consumers.kafka_commits import CommitTable, readable
from consumers.kafka_connection import KafkaConnection, KafkaSourceConfig, explain_unreachable
from consumers.kafka_poller import KafkaPoller
from consumers.kafka_rebalance import RebalanceListener
from consumers.source import Message, Offsets, Partition, RevokeListener

__all__ = ["KafkaConnection", "KafkaSource", "KafkaSourceConfig"]

log = logging.getLogger("nametag.kafka")


class KafkaSource:
    """A member of a consumer group."""

    def __init__(self, connection: KafkaConnection, config: KafkaSourceConfig) -> None:
        self._connection = connection
        self._config = config
        self._buffer = Buffer(config)
        self._arrived = asyncio.Event()
        self._error: BaseException | None = None
        self._ended = False
        self._rebalance = RebalanceListener(discard=self._buffer.discard, revoke_seconds=config.revoke_seconds)
        self._commits = CommitTable(self.post, self.fail, self._rebalance.epoch)
        self._poller = KafkaPoller(
            connection, config, self, buffer=self._buffer, commits=self._commits, rebalance=self._rebalance
        )

    async def start(self, on_revoke: RevokeListener) -> None:
        """Connect, and join the group. Raises `SourceUnavailable` with what was tried and what to do."""
        self._loop = asyncio.get_running_loop()
        self._rebalance.begin(self._loop, on_revoke, self._commits.take)
        started: asyncio.Future[None] = self._loop.create_future()
        self._poller.start(started)
        try:
            # The client has calls without a deadline; this one is the last resort.
            async with asyncio.timeout(2 * self._config.start_seconds + 5):
                await started
        except TimeoutError:
            raise SourceUnavailable(explain_unreachable(self._connection, self._config.start_seconds)) from None

    async def receive(self) -> Sequence[Message]:
        """All messages that are buffered; waits for one. Empty after `stop_intake`."""
        while True:
            if self._error is not None:
                raise self._error
            if self._ended:
                return ()
            if messages := self._buffer.take():
                return messages
            self._arrived.clear()
            await self._arrived.wait()

    async def commit(self, offsets: Offsets) -> None:
        """Commit `offsets`; those that a rebalance has overtaken are dropped.

        During a rebalance this returns at once, and the offsets go out with the rebalance's own
        commit: the rebalance waits for work that may itself wait here. It returns as well where no
        broker answers until the deadline: the offsets go out when one is back. Raises
        `SourceUnavailable` where this user may not commit.
        """
        if self._rebalance.is_revoking:
            self._commits.want(offsets)
            return
        done: asyncio.Future[None] = self._loop.create_future()
        self._commits.want(offsets, done)
        try:
            # Not by wait_for, which in Python 3.11 swallows a cancellation that comes with the answer.
            async with asyncio.timeout(self._config.commit_seconds):
                await done
        except TimeoutError:
            if self._error is not None:
                raise self._error from None
            next_step = "they go out when a broker answers; at a stop, their posts are read again"
            log.warning("commit_waits", extra={"offsets": readable(offsets), "next": next_step})

    async def stop_intake(self) -> None:
        """Read no more, but stay in the group, so that what is under way can be committed."""
        self._poller.stop_intake()
        self._ended = True
        self._arrived.set()

    async def close(self) -> None:
        """Leave the group (which calls the revoke listener) and wait for the thread."""
        self._ended = True
        self._arrived.set()
        self._poller.ask_to_leave()
        deadline = self._config.close_seconds + self._config.revoke_seconds
        try:
            async with asyncio.timeout(deadline):
                await self._poller.ended()
        except TimeoutError:
            log.warning("kafka_close_deadline", extra={"seconds": deadline})

    @property
    def unready(self) -> str | None:
        """None where the group has us, with partitions or as a spare, a broker answers, and reading goes on."""
        return self._poller.unready

    @property
    def backlog(self) -> Mapping[Partition, int]:
        """How many messages of each assigned partition can be read and were not yet received, as last known."""
        unread, buffered = self._poller.unread, self._buffer.num_by_partition()
        return {each: unread.get(each, 0) + buffered[each] for each in unread.keys() | buffered}

    @property
    def membership(self) -> object:
        """A snapshot of the group's generation and our member id (kafka-python's ConsumerGroupMetadata)."""
        return None if self._rebalance.consumer is None else self._rebalance.consumer.group_metadata()

    async def rewind(self, forget: Callable[[], None]) -> None:
        """Read again from the last commit; waits until the brokers know it. See `PostSource`."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._poller.ask_rewind(forget, done)
        await done

    @property
    def num_buffered(self) -> int:
        """Messages that were polled and not yet received."""
        return self._buffer.num_messages

    # For the poller.

    def post(self, act: Callable[..., None], *arguments: Any) -> None:
        """Run `act` on asyncio's loop, from any thread."""
        try:
            self._loop.call_soon_threadsafe(act, *arguments)
        except RuntimeError:
            # The loop is closed: nobody is left to be told.
            self._poller.ask_to_leave()

    def deliver(self, messages: list[Message]) -> None:
        """Take over what was polled."""
        self._buffer.enter(messages)
        self._arrived.set()

    def begin_again(self, forget: Callable[[], None]) -> None:
        """Forget what was polled before a rewind, here and wherever it went."""
        self._buffer.discard(frozenset(self._rebalance.epochs))
        forget()

    def fail(self, error: BaseException, *waiting: asyncio.Future[None]) -> None:
        """End the source."""
        self._error = self._error or error
        for future in waiting:
            if not future.done():
                future.set_exception(error)
        self._arrived.set()
