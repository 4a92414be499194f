"""What happens when partitions come and go.

The client awaits the listener on a loop of its own, which isn't asyncio's and which sends the
heartbeats. So nothing here blocks: the listener hands over to asyncio and waits for one of the
client's futures, which asyncio completes within the deadline.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

from kafka import AsyncConsumerRebalanceListener, TopicPartition
from kafka.errors import KafkaError
from kafka.future import Future

from consumers.kafka_commits import Waiting, ignore, kafka_offsets, readable, release
from consumers.source import Offsets, Partition, RevokeListener

log = logging.getLogger("nametag.kafka")

GRACE_SECONDS = 2.0
"""How much later than asyncio's own deadline its answer is given up."""


class RebalanceListener(AsyncConsumerRebalanceListener):  # type: ignore[misc] # kafka-python has no types
    """Lets go of partitions in order: finish, commit, give up."""

    def __init__(self, *, discard: Callable[[frozenset[Partition]], None], revoke_seconds: float) -> None:
        self._discard = discard
        self._revoke_seconds = revoke_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self.consumer: Any = None
        self.epochs: dict[Partition, int] = {}
        self.is_revoking = False

    def begin(
        self,
        loop: asyncio.AbstractEventLoop,
        on_revoke: RevokeListener,
        take_wanted: Callable[[], tuple[dict[Partition, int], Waiting]],
    ) -> None:
        """Take in where the work is done, who finishes it, and the table of offsets to commit."""
        self._loop = loop
        self._on_revoke = on_revoke
        self._take_wanted = take_wanted

    def epoch(self, partition: Partition) -> int:
        """How often `partition` has come to us, 0 for never."""
        return self.epochs.get(partition, 0)

    def begin_epoch(self, partition: Partition) -> None:
        """From now on, what was read of `partition` before is stale."""
        self.epochs[partition] = self.epoch(partition) + 1

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Begin a new epoch for each."""
        for partition in _partitions(assigned):
            self.begin_epoch(partition)
        log.info("partitions_assigned", extra={"partitions": _readable(assigned)})

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """1. asyncio finishes or forgets the work; 2. what it finished is committed."""
        offsets = await self._give_up(_partitions(revoked))
        if offsets:
            await self._commit(offsets)
        log.info("partitions_revoked", extra={"partitions": _readable(revoked)})

    async def on_partitions_lost(self, lost: set[TopicPartition]) -> None:
        """As for revoked, but others own them already: nothing may be committed."""
        await self._give_up(_partitions(lost))
        log.warning("partitions_lost", extra={"partitions": _readable(lost)})

    async def _give_up(self, partitions: frozenset[Partition]) -> Offsets:
        answer = Future()
        # A loop that is stuck can't keep its own deadline.
        last_resort = threading.Timer(
            self._revoke_seconds + GRACE_SECONDS,
            self._complete,
            (answer, {}, "asyncio does not answer"),
        )
        last_resort.daemon = True
        last_resort.start()
        try:
            self._loop.call_soon_threadsafe(self._begin, partitions, answer)
        except RuntimeError:
            last_resort.cancel()
            return {}
        try:
            offsets: Offsets = await answer
        finally:
            last_resort.cancel()
        return offsets

    def _begin(self, partitions: frozenset[Partition], answer: Future) -> None:
        task = self._loop.create_task(self._finish(partitions, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, partitions: frozenset[Partition], answer: Future) -> None:
        self.is_revoking = True
        offsets: dict[Partition, int] = {}
        waiting: Waiting = []
        reason = None
        try:
            self._discard(partitions)
            # The poller stands still, and the work may wait for a commit that it has not sent.
            offsets, waiting = self._take_wanted()
            release(waiting)
            async with asyncio.timeout(self._revoke_seconds):
                finished = await self._on_revoke(partitions)
        except TimeoutError:
            reason = "the work was not finished in time"
        except Exception as error:
            # The listener's border: the partitions go all the same, and their posts are read again.
            log.exception("revoke_failed")
            reason = repr(error)
        else:
            late, waiting = self._take_wanted()
            release(waiting)
            for more in (late, finished):
                for partition, offset in more.items():
                    offsets[partition] = max(offset, offsets.get(partition, 0))
        finally:
            self.is_revoking = False
            self._complete(answer, offsets, reason)

    def _complete(self, answer: Future, offsets: Offsets, reason: str | None) -> None:
        if reason is not None and not answer.is_done:
            log.warning("revoke_incomplete", extra={"reason": reason})

        async def complete() -> None:
            if not answer.is_done:
                answer.success(offsets)

        # Completed on the client's loop: from elsewhere it would sleep on until its next event. The
        # client's public interface has no way to get there.
        try:
            self.consumer._net.call_soon_threadsafe(complete)
        except RuntimeError:
            log.info("kafka_client_closed")

    async def _commit(self, offsets: Offsets) -> None:
        try:
            await self.consumer.commit_async(kafka_offsets(offsets), callback=ignore)
        except KafkaError as error:
            # Normal in a rebalance; the next owner reads from the commit before.
            log.info("commit_overtaken", extra={"offsets": readable(offsets), "error": repr(error)})


def _partitions(partitions: set[TopicPartition]) -> frozenset[Partition]:
    return frozenset(Partition(each.topic, each.partition) for each in partitions)


def _readable(partitions: set[TopicPartition]) -> list[str]:
    return sorted(map(str, _partitions(partitions)))
