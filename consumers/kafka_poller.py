"""The thread that owns the consumer, and only polls.

What asyncio wants done with the consumer waits for it: offsets in the table of commits, a rewind in a
queue. While a rebalance asks for partitions, the thread stands still inside its poll, and the listener,
which runs on the client's own loop, takes over the table.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from kafka import KafkaConsumer
from kafka.errors import KafkaError, RetriableError

from consumers.errors import SourceUnavailable
from consumers.kafka_assignor import TruthfulAssignor
from consumers.kafka_buffer import Buffer
from consumers.kafka_commits import CommitTable, release
from consumers.kafka_connection import (
    KafkaConnection,
    KafkaSourceConfig,
    explain_missing,
    explain_unreachable,
    is_known_missing,
    wait_reachable,
    what_to_do,
)
from consumers.kafka_contact import Contact
from consumers.kafka_joins import keep_joining, poll, tell_of_losses_amid_joins
from consumers.kafka_lag import Lag
from consumers.kafka_progress import Progress
from consumers.kafka_rebalance import RebalanceListener
from consumers.kafka_records import accept_any_header_name
from consumers.source import Message, Partition, Position

log = logging.getLogger("nametag.kafka")

POLL_MS = 20
"""How long a poll may wait; a commit waits for the end of the poll under way."""

REWIND_MS = 5000
"""How long a look at the committed offsets may take, before the poller polls again."""

RECONNECT_SECONDS = 2.0
"""Between two tries to start a client anew."""


class AsyncioSide(Protocol):
    """What the thread needs of whoever receives. All but `post` run on asyncio's loop, through it."""

    def post(self, act: Callable[..., None], *arguments: Any) -> None:
        """Run `act` on asyncio's loop, from any thread."""

    def deliver(self, messages: list[Message]) -> None:
        """Hand over what was polled, and counted in the buffer."""

    def fail(self, error: BaseException, *waiting: asyncio.Future[None]) -> None:
        """End the source with `error`, for `waiting` too."""

    def begin_again(self, forget: Callable[[], None]) -> None:
        """Discard what is buffered, then call `forget`."""


class KafkaPoller:
    """One member of a consumer group, on a thread of its own."""

    def __init__(
        self,
        connection: KafkaConnection,
        config: KafkaSourceConfig,
        side: AsyncioSide,
        *,
        buffer: Buffer,
        commits: CommitTable,
        rebalance: RebalanceListener,
    ) -> None:
        self._connection = connection
        self._config = config
        self._side = side
        self._buffer = buffer
        self._commits = commits
        self._rebalance = rebalance
        self._contact = Contact(str(connection))
        self._progress = Progress(config.stall_seconds)
        self._lag = Lag()
        self._rewinds: queue.SimpleQueue[tuple[Callable[[], None], asyncio.Future[None]]] = queue.SimpleQueue()
        self._intake_stopped = threading.Event()
        self._closing = threading.Event()
        self._is_full = False
        self._gathers_until = float("-inf")
        self._topic_checked_at = time.monotonic()
        self._thread: threading.Thread | None = None

    def start(self, started: asyncio.Future[None]) -> None:
        """Start the thread, which completes `started` when it is connected."""
        self._thread = threading.Thread(target=self._run, args=(started,), name="kafka-poller", daemon=True)
        self._thread.start()

    @property
    def unready(self) -> str | None:
        """None where the group has taken us in, a broker answers, and what there is to read is read."""
        return self._contact.missing or ("posts wait and none is read" if self._progress.is_behind else None)

    @property
    def unread(self) -> Mapping[Partition, int]:
        """How many messages of each assigned partition were not polled yet, as last known."""
        return self._lag.unread

    def ask_rewind(self, forget: Callable[[], None], done: asyncio.Future[None]) -> None:
        """Read again from the last commit, as soon as the brokers know it."""
        self._rewinds.put((forget, done))

    def stop_intake(self) -> None:
        """Deliver nothing more, but stay in the group."""
        self._intake_stopped.set()

    def ask_to_leave(self) -> None:
        """Let the thread leave the group and end."""
        self._closing.set()

    async def ended(self) -> None:
        """Wait for the thread's end."""
        # Asked again and again: a wait on one of asyncio's own threads couldn't be given up.
        while self._thread is not None and self._thread.is_alive():  # noqa: ASYNC110
            await asyncio.sleep(POLL_MS / 1000)

    # The thread, top to bottom.

    def _run(self, started: asyncio.Future[None]) -> None:
        consumer: KafkaConsumer | None = None
        error: BaseException | None = None
        try:
            consumer = self._connect()
            self._side.post(release, [started])
            while not self._closing.is_set():
                self._poll(consumer)
                self._commits.send(consumer)
                self._rewind_if_asked(consumer)
                self._check_topic(consumer)
                if self._progress.is_stalled:
                    consumer = self._restart(consumer)
            self._see_commits_through(consumer)
        except KafkaError as cause:
            error = SourceUnavailable(
                f"reading {self._config.topic} from {self._connection} failed ({cause!r}); " + what_to_do(cause)
            )
            error.__cause__ = cause
        except BaseException as cause:
            # The thread's border: whatever it was is raised again from receive().
            error = cause
        finally:
            if error is not None:
                self._side.post(self._side.fail, error, started)
            self._leave(consumer)

    def _connect(self) -> KafkaConsumer:
        """A client that is subscribed. Raises `SourceUnavailable` where none can be had in the time for a start."""
        deadline = time.monotonic() + self._config.start_seconds
        while True:
            wait_reachable(self._connection, self._config.start_seconds)
            try:
                return self._subscribe(deadline)
            except RetriableError as error:
                # The broker went away amid the start.
                if self._closing.is_set() or time.monotonic() > deadline + self._config.start_seconds:
                    raise SourceUnavailable(
                        explain_unreachable(self._connection, 2 * self._config.start_seconds)
                    ) from error
                log.warning("kafka_connect_retried", extra={"error": repr(error)})
                time.sleep(0.2)

    def _subscribe(self, deadline: float) -> KafkaConsumer:
        config = self._config
        accept_any_header_name()
        assignor = TruthfulAssignor()
        try:
            consumer = KafkaConsumer(
                **self._connection.client_options(),
                group_id=config.group_id,
                group_instance_id=config.group_instance_id,
                bootstrap_timeout_ms=round(config.start_seconds * 1000),
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                allow_auto_create_topics=False,
                partition_assignment_strategy=[assignor],
                max_poll_records=config.max_poll_records,
                session_timeout_ms=config.session_timeout_ms,
                heartbeat_interval_ms=min(3000, config.session_timeout_ms // 3),
            )
        except KafkaError as error:
            raise SourceUnavailable(explain_unreachable(self._connection, config.start_seconds)) from error
        try:
            # A topic that was made a moment ago may take one to be seen.
            while not consumer.partitions_for_topic(config.topic):
                is_over = time.monotonic() > deadline and is_known_missing(self._connection, config.topic)
                if is_over or self._closing.is_set():
                    raise self._missing()
                time.sleep(0.2)
            self._rebalance.consumer = consumer
            assignor.held = consumer.assignment
            tell_of_losses_amid_joins(consumer)
            consumer.subscribe([config.topic], listener=self._rebalance)
        except BaseException:
            consumer.close(timeout_ms=1000)
            raise
        return consumer

    def _poll(self, consumer: KafkaConsumer) -> None:
        self._apply_backpressure(consumer)
        keep_joining(consumer)
        self._closing.wait(max(0.0, self._gathers_until - time.monotonic()))
        try:
            polled = poll(consumer, POLL_MS)
        except RetriableError as error:
            log.warning("kafka_poll_retried", extra={"error": repr(error)})
            self._contact.look(consumer)
            time.sleep(POLL_MS / 1000)
            return
        messages = [self._message(record) for records in polled.values() for record in records]
        self._contact.look(consumer)
        self._progress.look(consumer, len(messages))
        self._lag.look(consumer, messages)
        # As many as these: more wait already.
        if 0 < len(messages) < self._config.max_poll_records // 4:
            self._gathers_until = time.monotonic() + self._config.gather_seconds
        if messages and not self._intake_stopped.is_set():
            self._buffer.count(messages)
            self._side.post(self._side.deliver, messages)

    def _check_topic(self, consumer: KafkaConsumer) -> None:
        """A member without partitions is a spare, or its topic was deleted. Raises `SourceUnavailable` then."""
        now = time.monotonic()
        if consumer.assignment():
            self._topic_checked_at = now
        elif now - self._topic_checked_at > self._config.stall_seconds / 2:
            self._topic_checked_at = now
            if is_known_missing(self._connection, self._config.topic):
                raise self._missing()

    def _missing(self) -> SourceUnavailable:
        return SourceUnavailable(explain_missing(self._connection, self._config.topic, "kafka.posts_topic"))

    def _see_commits_through(self, consumer: KafkaConsumer) -> None:
        """See a rebalance through, which refuses commits: what is left uncommitted would be published a second time."""
        deadline = time.monotonic() + self._config.close_seconds / 2
        self._commits.send(consumer)
        while time.monotonic() < deadline:
            if self._commits.is_settled and not consumer._coordinator.rebalance_in_progress():
                return
            self._poll(consumer)
            self._commits.send(consumer)

    def _restart(self, consumer: KafkaConsumer) -> KafkaConsumer:
        """A new client in place of one that reads nothing, as often as it takes."""
        log.warning("kafka_restarted", extra={"reason": "nothing was read, though there is something to read"})
        self._leave(consumer)
        while True:
            try:
                fresh = self._connect()
            except SourceUnavailable as error:
                if self._closing.wait(RECONNECT_SECONDS):
                    raise
                log.warning("kafka_restart_retried", extra={"reason": str(error)})
            else:
                self._progress.restarted()
                return fresh

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
            self._side.begin_again(forget)
            release([done])

        self._side.post(begin_again)

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
        self._is_full = self._intake_stopped.is_set() or self._buffer.is_over(0.5 if self._is_full else 1.0)
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
            epoch=self._rebalance.epoch(partition),
        )

    def _leave(self, consumer: KafkaConsumer | None) -> None:
        if consumer is None:
            return
        try:
            self._commits.send(consumer)
            consumer.close(autocommit=False, timeout_ms=round(self._config.close_seconds * 1000))
        except Exception:
            # Leaving is a courtesy: the session's timeout does it for us.
            log.warning("kafka_leave_failed", exc_info=True)
