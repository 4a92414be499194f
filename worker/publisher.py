"""From finished posts to the sink: each partition in order, then its offsets.

Nothing is committed before it is acknowledged. What a publication's error means is told by its class:
`PublishAborted` is tried again, `PublishUnsettled` is read again from the last commit.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from consumers.source import Message, Offsets, Partition, PostSource
from worker.errors import PublishAborted, PublishUnsettled, WorkerError
from worker.ledger import OffsetLedger
from worker.metrics import Metrics
from worker.publish import Arrival, EventSink, Finished, Outcome, Passed
from worker.retry import RetryPolicy
from worker.room import Room
from worker.tracing import now_ns

log = logging.getLogger("nametag.pipeline")

PATIENCE = RetryPolicy(attempts=None, total_seconds=None, first_seconds=0.1, longest_seconds=5.0)
"""Without end: a stream can't go on past what it couldn't publish, and brokers come back."""


class Publisher:
    """Holds the ledger: every post from its intake until it is published, or given up.

    Two publications begin at least `flush_seconds` apart, unless what was finished since the last takes half of `room`:
    a transaction costs the brokers the same for one event as for a hundred.
    """

    def __init__(
        self,
        source: PostSource,
        sink: EventSink,
        room: Room,
        metrics: Metrics,
        *,
        flush_seconds: float,
        is_deleted: Callable[[str, Arrival], bool],
        on_published: Callable[[Outcome | Passed], None],
    ) -> None:
        self._source = source
        self._sink = sink
        self._room = room
        self._metrics = metrics
        self._flush_seconds = flush_seconds
        self._is_deleted = is_deleted
        self._on_published = on_published
        self._ledger: OffsetLedger[Finished] = OffsetLedger()
        self._finished = asyncio.Event()
        self._publishing = asyncio.Lock()
        self._acknowledged: dict[Partition, int] = {}
        self._is_unsettled = False
        self._flushed_at = float("-inf")
        self._num_finished = self._finished_bytes = 0
        """Since the last publication began."""
        self._is_due = asyncio.Event()

    @property
    def ledger(self) -> OffsetLedger[Finished]:
        """What is under way, to be looked at."""
        return self._ledger

    def open(self, message: Message) -> None:
        """Enter `message`, which has its room already, and must follow all others of its partition."""
        self._metrics.in_flight.inc()
        self._ledger.open(message)

    def complete(self, message: Message, finished: Finished) -> None:
        """Note what becomes of `message`, unless its partition was given up meanwhile."""
        if self._ledger.complete(message, finished):
            self._finished.set()
            self._num_finished += 1
            self._finished_bytes += message.num_bytes
            if self._room.is_half(self._num_finished, self._finished_bytes):
                self._is_due.set()

    async def run(self, forget_arrived: Callable[[], None]) -> None:
        """Publish what is finished, until cancelled.

        `forget_arrived` is called when the source is read again from its last commit: what was received,
        and isn't open yet, will come once more. Raises what no retry can mend, such as `SinkUnavailable`.
        """
        num_failures = 0
        while True:
            await self._finished.wait()
            await self._wait_for_flush()
            self._finished.clear()
            try:
                async with self._publishing:
                    offsets = await self._publish()
            except PublishAborted as error:
                num_failures += 1
                await self._pause(num_failures, error)
            except PublishUnsettled as error:
                num_failures += 1
                await self._pause(num_failures, error)
                await self._read_again(forget_arrived)
            else:
                if offsets:
                    # After a rewind there is nothing to publish at first, which is no success.
                    num_failures = 0
                # Outside the lock: a rebalance that waits for the lock must not wait for its own commit.
                if offsets and not self._sink.commits_offsets:
                    await self._source.commit(offsets)

    async def give_up(self, partitions: frozenset[Partition]) -> Offsets:
        """Before `partitions` go to another worker: publish what is finished, forget the rest.

        Gives the offsets that may be committed for them.
        """
        try:
            async with self._publishing:
                await self._publish(partitions)
        except WorkerError as error:
            # The next owner reads from the last commit, whichever that is. What ends the worker is told elsewhere.
            log.warning("publish_given_up", extra={"reason": str(error)})
        finally:
            # Also at the rebalance's deadline: what is no longer ours must not be published later on.
            dropped = self._ledger.forget(partitions)
            acknowledged = {p: self._acknowledged.pop(p) for p in partitions if p in self._acknowledged}
            await self._drop(dropped)
        log.info("gave_up", extra={"partitions": sorted(map(str, partitions)), "num_dropped": len(dropped)})
        return acknowledged

    async def commit_last(self) -> None:
        """Commit what was published, at the end, once the publication under way is over."""
        async with self._publishing:
            offsets = dict(self._acknowledged)
        if offsets:
            await self._source.commit(offsets)

    async def _wait_for_flush(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._flushed_at + self._flush_seconds):
                await self._is_due.wait()
        self._flushed_at = asyncio.get_running_loop().time()
        self._num_finished = self._finished_bytes = 0
        self._is_due.clear()

    async def _publish(self, partitions: frozenset[Partition] | None = None) -> Offsets:
        """Publish what is finished, and settle it; the caller holds the lock."""
        if self._is_unsettled:
            raise PublishUnsettled("an earlier publication may still go out")
        # Before the choice: what a rebalance takes away after it, this membership can't commit.
        membership = self._source.membership
        release = self._ledger.finished(partitions)
        if not release.outcomes:
            return {}
        # Only now: a post may have been deleted while it waited for others.
        release.outcomes[:] = map(self._unless_deleted, release.outcomes)
        fates = [finished.fate for finished in release.outcomes]
        outcomes = [fate for fate in fates if not isinstance(fate, Passed)]
        begun_ns = now_ns()
        try:
            with self._metrics.stage("publish"):
                await self._sink.publish(outcomes, release.offsets, membership)
        except (PublishUnsettled, asyncio.CancelledError):
            # It may still go out, so the same must not be published again before the offsets are read.
            self._is_unsettled = True
            self._finished.set()
            raise
        if not self._sink.commits_offsets:
            self._acknowledged.update(release.offsets)
        for message, finished in self._ledger.settle(release):
            await self._leave(message)
            if message.timestamp_ms is not None:
                self._metrics.latency.observe(max(0.0, time.time() - message.timestamp_ms / 1000))
            finished.trace.published(begun_ns)
            self._on_published(finished.fate)
        offsets = {str(partition): offset for partition, offset in release.offsets.items()}
        log.info("published", extra={"num_posts": len(release.outcomes), "offsets": offsets})
        return release.offsets

    def _unless_deleted(self, finished: Finished) -> Finished:
        is_deleted = any(self._is_deleted(post_id, finished.arrival) for post_id in finished.post_ids)
        return finished._replace(fate=Passed.SUPPRESSED) if is_deleted else finished

    async def _pause(self, num_failures: int, error: WorkerError) -> None:
        seconds = PATIENCE.pause(num_failures)
        log.warning("publish_retried", extra={"reason": str(error), "num_failures": num_failures, "seconds": seconds})
        self._metrics.publish_failures.labels(type(error).__name__).inc()
        await asyncio.sleep(seconds)
        self._finished.set()

    async def _read_again(self, forget_arrived: Callable[[], None]) -> None:
        """Forget all that is under way, and let the source begin at the last commit."""
        dropped: list[Message] = []

        def forget() -> None:
            forget_arrived()
            dropped.extend(self._ledger.forget())
            self._acknowledged.clear()
            self._is_unsettled = False

        # Without the lock: a rebalance that waits for it would hold up the poller, which has to rewind.
        await self._source.rewind(forget)
        await self._drop(dropped)

    async def _drop(self, messages: list[Message]) -> None:
        self._metrics.dropped.inc(len(messages))
        for message in messages:
            await self._leave(message)

    async def _leave(self, message: Message) -> None:
        await self._room.leave(message.num_bytes)
        self._metrics.in_flight.dec()
