"""Offsets on their way from asyncio to the broker."""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    RebalanceInProgressError,
    RetriableError,
    UnknownMemberIdError,
)

from consumers.errors import SourceUnavailable
from consumers.source import Offsets, Partition

log = logging.getLogger("nametag.kafka")

STALE = (CommitFailedError, RebalanceInProgressError, IllegalGenerationError, UnknownMemberIdError)
"""A commit that came amid a rebalance: tried again afterwards, where the partition is still ours."""

Waiting = list[asyncio.Future[None]]
Post = Callable[..., None]


class CommitTable:
    """The highest offset wanted for each partition, and who waits for it to be committed.

    asyncio writes; the poller empties it between two polls, or the rebalance listener while the
    poller stands still. `post` runs a function on asyncio's loop, `fail` ends the source there,
    `epoch_of` gives the number of a partition's assignment to us.
    """

    def __init__(self, post: Post, fail: Callable[..., None], epoch_of: Callable[[Partition], int]) -> None:
        self._post = post
        self._fail = fail
        self._epoch_of = epoch_of
        self._lock = threading.Lock()
        self._wanted: dict[Partition, int] = {}
        self._waiting: Waiting = []
        self._known: dict[Partition, tuple[int, int]] = {}
        self._num_unanswered = 0

    @property
    def is_settled(self) -> bool:
        """Whether all that was wanted is committed, or overtaken."""
        with self._lock:
            return not self._wanted and not self._num_unanswered

    def want(self, offsets: Offsets, *waiting: asyncio.Future[None]) -> None:
        """Enter `offsets`; `waiting` are completed when they are committed or overtaken."""
        with self._lock:
            for partition, offset in offsets.items():
                self._wanted[partition] = max(offset, self._wanted.get(partition, 0))
            self._waiting += [future for future in waiting if not future.done()]

    def take(self) -> tuple[dict[Partition, int], Waiting]:
        """All that is wanted; the table is empty afterwards."""
        with self._lock:
            taken = self._wanted, self._waiting
            self._wanted, self._waiting = {}, []
        return taken

    def send(self, consumer: KafkaConsumer) -> None:
        """Send what is wanted for partitions that are ours, without waiting for the answer.

        What the broker has confirmed in this epoch isn't sent again: nobody needs a broker for it.
        """
        offsets, waiting = self.take()
        if not offsets and not waiting:
            return
        assigned = consumer.assignment()
        epochs = {partition: self._epoch_of(partition) for partition in offsets}
        ours = {
            p: offset
            for p, offset in offsets.items()
            if TopicPartition(*p) in assigned and not self._is_confirmed(p, epochs[p], offset)
        }
        if not ours:
            self._post(release, waiting)
            return
        with self._lock:
            self._num_unanswered += 1
        sent = consumer.commit_async(kafka_offsets(ours), callback=ignore)
        sent.add_callback(lambda result: self._committed(result, ours, epochs, waiting))
        sent.add_errback(lambda error: self._not_committed(error, ours, epochs, waiting))
        # The last, so that nothing seems settled which was about to be wanted again.
        sent.add_both(lambda _answer: self._answered())

    def _answered(self) -> None:
        with self._lock:
            self._num_unanswered -= 1

    def _is_confirmed(self, partition: Partition, epoch: int, offset: int) -> bool:
        known_epoch, known_offset = self._known.get(partition, (-1, -1))
        return epoch == known_epoch and offset <= known_offset

    def _committed(self, result: Any, offsets: Offsets, epochs: Mapping[Partition, int], waiting: Waiting) -> None:
        if result is None:
            # Pairs are compared, so that the answer to an older commit takes nothing back.
            for partition, offset in offsets.items():
                self._known[partition] = max((epochs[partition], offset), self._known.get(partition, (-1, -1)))
            self._post(release, waiting)
        else:
            # The client answers for the look-up of an unknown coordinator, not for the commit.
            self.want(offsets, *waiting)

    def _not_committed(
        self, error: BaseException, offsets: Offsets, epochs: Mapping[Partition, int], waiting: Waiting
    ) -> None:
        if isinstance(error, STALE):
            # Nobody waits: a rebalance lasts as long as the slowest member, and the work goes on.
            log.debug("commit_postponed", extra={"offsets": readable(offsets), "error": repr(error)})
            self.want({p: offset for p, offset in offsets.items() if epochs[p] == self._epoch_of(p)})
            self._post(release, waiting)
        elif isinstance(error, RetriableError):
            self.want(offsets, *waiting)
        else:
            failure = SourceUnavailable(
                f"{readable(offsets)} could not be committed ({error!r}); "
                "see whether this user may commit for the group"
            )
            failure.__cause__ = error
            self._post(self._fail, failure, *waiting)


def kafka_offsets(offsets: Offsets) -> dict[Any, Any]:
    """`offsets` in the client's own types."""
    return {TopicPartition(*p): OffsetAndMetadata(offset, "", -1) for p, offset in offsets.items()}


def release(waiting: Waiting) -> None:
    """Complete all that still wait."""
    for future in waiting:
        if not future.done():
            future.set_result(None)


def ignore(_offsets: Any, _result: Any) -> None:
    """In place of the client's callback, which would log a second time what we log."""


def readable(offsets: Offsets) -> str:
    """topic[partition]@offset, for messages."""
    return ", ".join(f"{partition}@{offset}" for partition, offset in offsets.items())
