"""Posts from a Kafka topic.

One thread, the poller, owns the consumer and only polls: what it reads crosses to asyncio in
`KafkaSource._deliver`, what asyncio wants committed waits in a table that the poller empties
between two polls. While a rebalance asks for partitions, the poller stands still inside its poll;
the listener, which runs on the client's own loop, then takes over the table.
"""

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaConsumer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaError, RetriableError

from consumers.errors import SourceUnavailable
from consumers.kafka_commits import CommitTable, readable, release
from consumers.kafka_connection import KafkaConnection, KafkaSourceConfig, explain_unreachable, wait_reachable
from consumers.kafka_contact import Contact
from consumers.kafka_rebalance import RebalanceListener
from consumers.source import Message, Offsets, Partition, Position, RevokeListener

__all__ = ["KafkaConnection", "KafkaSource", "KafkaSourceConfig"]

log = logging.getLogger("nametag.kafka")

POLL_MS = 20
"""How long a poll may wait; a commit waits for the end of the poll under way."""


REWIND_MS = 5000
"""How long a look at the committed offsets may take, before the poller polls again."""


@dataclass(slots=True)
class _Buffer:
    """What was polled and not yet received; the poller adds, asyncio takes."""

    messages: deque[Message] = field(default_factory=deque)
    num_messages: int = 0
    num_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, messages: Sequence[Message], sign: int) -> None:
        with self.lock:
            self.num_messages += sign * len(messages)
            self.num_bytes += sign * sum(message.num_bytes for message in messages)

    def is_over(self, config: KafkaSourceConfig, share: float) -> bool:
        return (
            self.num_messages >= config.max_buffered_messages * share
            or self.num_bytes >= config.max_buffered_bytes * share
        )


class KafkaSource:
    """A member of a consumer group, as a `PostSource`."""

    def __init__(self, connection: KafkaConnection, config: KafkaSourceConfig) -> None:
        self._connection = connection
        self._config = config
        self._buffer = _Buffer()
        self._arrived = asyncio.Event()
        self._error: BaseException | None = None
        self._ended = False
        self._intake_stopped = threading.Event()
        self._closing = threading.Event()
        self._commits = CommitTable(self._post, self._fail, self._epoch)
        self._thread: threading.Thread | None = None
        self._is_full = False
        self._contact = Contact(str(connection))
        self._rewinds: queue.SimpleQueue[tuple[Callable[[], None], asyncio.Future[None]]] = queue.SimpleQueue()

    async def start(self, on_revoke: RevokeListener) -> None:
        """Connect, and join the group. Raises `SourceUnavailable` with what was tried and what to do."""
        self._loop = asyncio.get_running_loop()
        started: asyncio.Future[None] = self._loop.create_future()
        self._rebalance = RebalanceListener(
            loop=self._loop,
            on_revoke=on_revoke,
            discard=self._discard,
            take_wanted=self._commits.take,
            revoke_seconds=self._config.revoke_seconds,
        )
        self._thread = threading.Thread(target=self._run, args=(started,), name="kafka-poller", daemon=True)
        self._thread.start()
        try:
            # The client has calls without a deadline; this one is the last resort.
            await asyncio.wait_for(started, 2 * self._config.start_seconds + 5)
        except TimeoutError:
            raise SourceUnavailable(explain_unreachable(self._connection, self._config.start_seconds)) from None

    async def receive(self) -> Sequence[Message]:
        """All messages that are buffered; waits for one. Empty after `stop_intake`."""
        while True:
            if self._error is not None:
                raise self._error
            if self._ended:
                return ()
            if self._buffer.messages:
                messages = tuple(self._buffer.messages)
                self._buffer.messages.clear()
                self._buffer.count(messages, -1)
                return messages
            self._arrived.clear()
            await self._arrived.wait()

    async def commit(self, offsets: Offsets) -> None:
        """Commit `offsets`; those that a rebalance has overtaken are dropped.

        During a rebalance this returns at once, and the offsets go out with the rebalance's own
        commit: the rebalance waits for work that may itself wait here. Raises
        `SourceUnavailable` where the broker can't be had until the deadline.
        """
        if self._rebalance.is_revoking:
            self._commits.want(offsets)
            return
        done: asyncio.Future[None] = self._loop.create_future()
        self._commits.want(offsets, done)
        try:
            await asyncio.wait_for(done, self._config.commit_seconds)
        except TimeoutError:
            raise SourceUnavailable(
                f"{readable(offsets)} could not be committed within {self._config.commit_seconds:g} s; "
                "see whether the broker is up; the posts are read again at the next start"
            ) from self._error

    async def stop_intake(self) -> None:
        """Read no more, but stay in the group, so that what is under way can be committed."""
        self._intake_stopped.set()
        self._ended = True
        self._arrived.set()

    async def close(self) -> None:
        """Leave the group (which calls the revoke listener) and wait for the thread."""
        self._ended = True
        self._arrived.set()
        self._closing.set()
        if self._thread is not None:
            deadline = self._config.close_seconds + self._config.revoke_seconds
            await asyncio.to_thread(self._thread.join, deadline)
            if self._thread.is_alive():
                log.warning("kafka_close_deadline", extra={"seconds": deadline})

    @property
    def is_ready(self) -> bool:
        """Whether the group has taken us in, with partitions or as a spare, and a broker answers."""
        return self._contact.is_ready

    @property
    def membership(self) -> object:
        """A snapshot of the group's generation and our member id (kafka-python's ConsumerGroupMetadata)."""
        return None if self._rebalance.consumer is None else self._rebalance.consumer.group_metadata()

    async def rewind(self, forget: Callable[[], None]) -> None:
        """Read again from the last commit; waits until the brokers know it. See `PostSource`."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._rewinds.put((forget, done))
        await done

    @property
    def num_buffered(self) -> int:
        """Messages that were polled and not yet received."""
        return self._buffer.num_messages

    # The poller's thread, top to bottom.

    def _run(self, started: asyncio.Future[None]) -> None:
        consumer: KafkaConsumer | None = None
        error: BaseException | None = None
        try:
            consumer = self._connect()
            self._post(release, [started])
            while not self._closing.is_set():
                self._poll(consumer)
                self._commits.send(consumer)
                self._rewind_if_asked(consumer)
        except KafkaError as cause:
            error = SourceUnavailable(
                f"reading {self._config.topic} from {self._connection} failed ({cause!r}); "
                "see the broker's log, then start again"
            )
            error.__cause__ = cause
        except BaseException as cause:
            # The thread's border: whatever it was is raised again from receive().
            error = cause
        finally:
            if error is not None:
                self._post(self._fail, error, started)
            self._leave(consumer)

    def _connect(self) -> KafkaConsumer:
        config = self._config
        deadline = time.monotonic() + config.start_seconds
        wait_reachable(self._connection, config.start_seconds)
        try:
            consumer = KafkaConsumer(
                **self._connection.client_options(),
                group_id=config.group_id,
                group_instance_id=config.group_instance_id,
                bootstrap_timeout_ms=round(config.start_seconds * 1000),
                # The default would leave us away for up to half a minute after the broker is back.
                reconnect_backoff_max_ms=2000,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                allow_auto_create_topics=False,
                partition_assignment_strategy=[CooperativeStickyAssignor],
                max_poll_records=config.max_poll_records,
                session_timeout_ms=config.session_timeout_ms,
                heartbeat_interval_ms=min(3000, config.session_timeout_ms // 3),
            )
        except KafkaError as error:
            raise SourceUnavailable(explain_unreachable(self._connection, config.start_seconds)) from error
        try:
            # A topic that was made a moment ago may take one to be seen.
            while not consumer.partitions_for_topic(config.topic):
                if time.monotonic() > deadline or self._closing.is_set():
                    raise SourceUnavailable(
                        f"the topic {config.topic} does not exist at {self._connection} (or may not be "
                        "seen by this user); create it, or set kafka.posts_topic"
                    )
                time.sleep(0.2)
            self._rebalance.consumer = consumer
            consumer.subscribe([config.topic], listener=self._rebalance)
        except BaseException:
            consumer.close(timeout_ms=1000)
            raise
        return consumer

    def _poll(self, consumer: KafkaConsumer) -> None:
        self._apply_backpressure(consumer)
        _keep_joining(consumer)
        try:
            polled = consumer.poll(timeout_ms=POLL_MS)
            self._contact.look(consumer)
        except RetriableError as error:
            log.warning("kafka_poll_retried", extra={"error": repr(error)})
            self._contact.look(consumer)
            time.sleep(POLL_MS / 1000)
            return
        messages = [self._message(record) for records in polled.values() for record in records]
        if messages and not self._intake_stopped.is_set():
            self._buffer.count(messages, +1)
            self._post(self._deliver, messages)

    def _rewind_if_asked(self, consumer: KafkaConsumer) -> None:
        try:
            forget, done = self._rewinds.get_nowait()
        except queue.Empty:
            return
        try:
            self._seek_to_commits(consumer)
        except RetriableError as error:
            # The brokers still settle a transaction, or are away: the partitions wait where they are.
            log.warning("kafka_rewind_retried", extra={"error": repr(error)})
            self._rewinds.put((forget, done))
            return

        def begin_again() -> None:
            self._discard(frozenset(self._rebalance.epochs))
            forget()
            release([done])

        self._post(begin_again)

    def _seek_to_commits(self, consumer: KafkaConsumer) -> None:
        assigned = consumer.assignment()
        places = {each: consumer.committed(each, timeout_ms=REWIND_MS) for each in assigned}
        for each, offset in places.items():
            if offset is None:
                consumer.seek_to_beginning(each)
            else:
                consumer.seek(each, offset)
            self._rebalance.begin_epoch(Partition(each.topic, each.partition))
        log.info("rewound", extra={"offsets": {f"{each.topic}[{each.partition}]": n for each, n in places.items()}})

    def _apply_backpressure(self, consumer: KafkaConsumer) -> None:
        self._is_full = self._intake_stopped.is_set() or self._buffer.is_over(
            self._config, 0.5 if self._is_full else 1.0
        )
        paused = consumer.paused()
        if self._is_full:
            # Also what was assigned since: a new partition comes unpaused.
            consumer.pause(*(consumer.assignment() - paused))
        elif paused:
            consumer.resume(*paused)

    def _message(self, record: Any) -> Message:
        partition = Partition(record.topic, record.partition)
        return Message(
            position=Position(partition, record.offset),
            key=record.key,
            value=record.value,
            headers=tuple((name, value or b"") for name, value in record.headers),
            timestamp_ms=record.timestamp if record.timestamp >= 0 else None,
            epoch=self._epoch(partition),
        )

    def _epoch(self, partition: Partition) -> int:
        return self._rebalance.epochs.get(partition, 0)

    def _leave(self, consumer: KafkaConsumer | None) -> None:
        if consumer is None:
            return
        try:
            self._commits.send(consumer)
            consumer.close(autocommit=False, timeout_ms=round(self._config.close_seconds * 1000))
        except Exception:
            # Leaving is a courtesy: the session's timeout does it for us.
            log.warning("kafka_leave_failed", exc_info=True)

    # Asyncio's side of the crossing.

    def _post(self, act: Any, *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(act, *arguments)
        except RuntimeError:
            # The loop is closed: nobody is left to be told.
            self._closing.set()

    def _deliver(self, messages: list[Message]) -> None:
        self._buffer.messages.extend(messages)
        self._arrived.set()

    def _discard(self, partitions: frozenset[Partition]) -> None:
        """Forget what is buffered for partitions that go."""
        gone = [m for m in self._buffer.messages if m.position.partition in partitions]
        kept = [m for m in self._buffer.messages if m.position.partition not in partitions]
        self._buffer.messages = deque(kept)
        self._buffer.count(gone, -1)

    def _fail(self, error: BaseException, *waiting: asyncio.Future[None]) -> None:
        self._error = self._error or error
        for future in waiting:
            if not future.done():
                future.set_exception(error)
        self._arrived.set()


def _keep_joining(consumer: KafkaConsumer) -> None:
    """See a join through that outlasts the poll which began it.

    kafka-python 3.0.12 looks at a join under way only while it still sees a reason to join. Where
    the reason was that the topic's partitions changed, the reason goes as the join begins; then the
    member reads on, but commits nothing and sends no heartbeat until the broker drops it.
    """
    coordinator = consumer._coordinator
    if coordinator.rebalance_in_progress():
        coordinator.request_rejoin()
