"""The thread that owns the consumer of the entities topic: it polls, whatever its caller does meanwhile."""

import logging
import threading
import time
from concurrent.futures import Future
from typing import Any

from kafka import AsyncConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, RetriableError

from consumers.errors import BadEvent, NewerSchema, SourceUnavailable
from consumers.event_commits import EventCommits, kafka_partitions, partitions_of, settle
from consumers.event_places import Reading, begin_places, end_places
from consumers.event_records import read_record
from consumers.event_shelf import Item, Shelf
from consumers.kafka_assignor import TruthfulAssignor
from consumers.kafka_connection import (
    KafkaConnection,
    explain_missing,
    explain_unreachable,
    is_known_missing,
    wait_reachable,
)
from consumers.kafka_joins import keep_joining, poll, tell_of_losses_amid_joins
from consumers.kafka_records import accept_any_header_name
from consumers.source import Message, Partition, Position

log = logging.getLogger("nametag.events")

START_SECONDS = 10.0
POLL_MS = 20
"""How long a poll may wait; a commit waits for the end of the poll under way."""

MAX_POLL_RECORDS = 512
METADATA_MS = 30_000
"""How old what is known of the topic may be: partitions that are added are seen within it."""

CLOSE_MS = 5000


class EventThread:
    """Reads a topic onto `shelf`. `started` is completed once the places to begin at are known, or the group asked."""

    def __init__(self, connection: KafkaConnection, reading: Reading, shelf: Shelf) -> None:
        self._connection = connection
        self._reading = reading
        self._shelf = shelf
        self.commits = EventCommits(shelf)
        self.started: Future[None] = Future()
        self._known: frozenset[Partition] = frozenset()
        self._unplaced: set[Partition] = set()
        self._ends: dict[Partition, int] = {}
        self._is_full = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nametag-events", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def ask_to_leave(self) -> None:
        """Let the thread leave and end."""
        self._closing.set()

    @property
    def is_alive(self) -> bool:
        """Whether it still has something to do."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()

    # The thread, top to bottom.

    def _run(self) -> None:
        consumer: Any = None
        error: BaseException | None = None
        try:
            consumer = self._connect()
            self._begin(consumer)
            settle(self.started, None)
            while not self._closing.is_set():
                self._step(consumer)
            self.commits.send(consumer)
        except KafkaError as cause:
            error = SourceUnavailable(
                f"reading {self._reading.topic} from {self._connection} failed ({cause!r}); "
                "see whether the brokers are up, and this user's rights on the topic and the group"
            )
            error.__cause__ = cause
        except BaseException as cause:
            # The thread's border: whatever it was is raised again where events are taken.
            error = cause
        finally:
            self._shelf.end(error)
            self.commits.end(error or RuntimeError("the events are closed"))
            settle(self.started, error)
            self._leave(consumer)

    def _connect(self) -> Any:
        accept_any_header_name()
        wait_reachable(self._connection, START_SECONDS)
        assignor = TruthfulAssignor()
        try:
            consumer = KafkaConsumer(
                **self._connection.client_options(),
                bootstrap_timeout_ms=round(START_SECONDS * 1000),
                group_id=self._reading.group_id,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                allow_auto_create_topics=False,
                partition_assignment_strategy=[assignor],
                max_poll_records=MAX_POLL_RECORDS,
                metadata_max_age_ms=METADATA_MS,
            )
        except KafkaError as error:
            raise SourceUnavailable(explain_unreachable(self._connection, START_SECONDS)) from error
        assignor.held = consumer.assignment
        return consumer

    def _begin(self, consumer: Any) -> None:
        deadline = time.monotonic() + START_SECONDS
        topic = self._reading.topic
        # A topic that was made a moment ago may take one to be seen.
        while not (numbers := consumer.partitions_for_topic(topic)):
            if self._closing.is_set() or is_known_missing(self._connection, topic) or time.monotonic() > deadline:
                raise SourceUnavailable(explain_missing(self._connection, topic, "topic (kafka.entities_topic)"))
            time.sleep(0.2)
        self._known = frozenset(Partition(topic, number) for number in numbers)
        if self._reading.group_id is not None:
            tell_of_losses_amid_joins(consumer)
            consumer.subscribe([topic], listener=_Rebalance(consumer, self._shelf, self.commits, self._unplaced))
            return
        consumer.assign(kafka_partitions(self._known))
        self._unplaced |= self._known
        while self._unplaced and not self._closing.is_set():
            self._place(consumer)
            if self._unplaced and time.monotonic() > deadline:
                raise SourceUnavailable(explain_unreachable(self._connection, START_SECONDS))

    def _step(self, consumer: Any) -> None:
        self._hold_back(consumer)
        try:
            if self._reading.group_id is not None:
                keep_joining(consumer)
            else:
                self._look_for_partitions(consumer)
            self._take_in(consumer, poll(consumer, POLL_MS))
        except RetriableError as error:
            log.warning("kafka_poll_retried", extra={"error": repr(error)})
            time.sleep(POLL_MS / 1000)
        self._place(consumer)
        self.commits.send(consumer)
        if not self._reading.follow and self._is_through(consumer):
            self._shelf.end()

    def _hold_back(self, consumer: Any) -> None:
        """Pause all while the shelf is full, and what was read to its end, or isn't placed yet."""
        self._is_full = self._shelf.is_over(0.5 if self._is_full else 1.0)
        assigned, paused = consumer.assignment(), consumer.paused()
        ours = partitions_of(assigned)
        waiting = ours if self._is_full else ours & (self._unplaced | self._through(consumer, ours))
        still = set(kafka_partitions(waiting))
        consumer.pause(*(still - paused))
        consumer.resume(*(paused & assigned - still))

    def _take_in(self, consumer: Any, polled: dict[Any, list[Any]]) -> None:
        items = [
            self._item(record)
            for each, records in polled.items()
            if Partition(*each) not in self._unplaced
            for record in records
            if record.offset < self._ends.get(Partition(*each), record.offset + 1)
        ]
        read_to = {}
        for partition in partitions_of(consumer.assignment()) - self._unplaced:
            # What ends a transaction has an offset and is no record.
            if (place := consumer.position(TopicPartition(*partition), timeout_ms=0)) is not None:
                read_to[partition] = min(place, self._ends.get(partition, place))
        self._shelf.put(items, read_to)

    def _place(self, consumer: Any) -> None:
        """Seek what came to us to where it begins, which a rebalance's listener couldn't ask for."""
        if not (fresh := self._unplaced & partitions_of(consumer.assignment())):
            return
        try:
            places = begin_places(consumer, fresh, self._reading, self._known)
            ends = {} if self._reading.follow else end_places(consumer, fresh)
        except RetriableError as error:
            log.warning("kafka_place_retried", extra={"error": repr(error)})
            return
        for partition, offset in places.items():
            consumer.seek(TopicPartition(*partition), offset)
        self._ends.update(ends)
        self._shelf.begin(places)
        self._unplaced -= fresh
        log.info("partitions_begun", extra={"offsets": {str(each): offset for each, offset in places.items()}})

    def _look_for_partitions(self, consumer: Any) -> None:
        """Take in partitions that were added; a group's leader does so itself."""
        topic = self._reading.topic
        found = {Partition(topic, number) for number in consumer.partitions_for_topic(topic)}
        held = partitions_of(consumer.assignment())
        if self._reading.follow and found - held:
            self._unplaced |= found - held
            consumer.assign(kafka_partitions(found | held))

    def _through(self, consumer: Any, partitions: frozenset[Partition]) -> set[Partition]:
        placed = [each for each in partitions - self._unplaced if each in self._ends]
        return {each for each in placed if _position(consumer, each) >= self._ends[each]}

    def _is_through(self, consumer: Any) -> bool:
        if self._reading.group_id is not None and consumer._coordinator.generation_if_stable() is None:
            return False
        ours = partitions_of(consumer.assignment())
        return not self._unplaced & ours and len(self._through(consumer, ours)) == len(ours)

    def _item(self, record: Any) -> Item:
        message = Message(
            position=Position(Partition(record.topic, record.partition), record.offset),
            key=record.key,
            value=record.value,
            headers=tuple((name, value or b"") for name, value in record.headers),
            timestamp_ms=record.timestamp if record.timestamp >= 0 else None,
        )
        try:
            return Item(message=message, found=read_record(message))
        except (BadEvent, NewerSchema) as error:
            return Item(message=message, found=error)

    def _leave(self, consumer: Any) -> None:
        if consumer is None:
            return
        try:
            consumer.close(autocommit=False, timeout_ms=CLOSE_MS)
        except Exception:
            # Leaving is a courtesy: the session's timeout does it for us.
            log.warning("kafka_leave_failed", exc_info=True)


def _position(consumer: Any, partition: Partition) -> int:
    place = consumer.position(TopicPartition(*partition), timeout_ms=0)
    return -1 if place is None else int(place)


class _Rebalance(AsyncConsumerRebalanceListener):  # type: ignore[misc] # kafka-python has no types
    """Awaited on the client's own loop, while the thread stands still inside its poll."""

    def __init__(self, consumer: Any, shelf: Shelf, commits: EventCommits, unplaced: set[Partition]) -> None:
        self._consumer = consumer
        self._shelf = shelf
        self._commits = commits
        self._unplaced = unplaced

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._unplaced |= partitions_of(assigned)

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._commits.send_before_leaving(self._consumer, partitions_of(revoked))
        self._forget(partitions_of(revoked))

    async def on_partitions_lost(self, lost: set[TopicPartition]) -> None:
        self._forget(partitions_of(lost))

    def _forget(self, partitions: frozenset[Partition]) -> None:
        self._shelf.forget(partitions)
        self._unplaced -= partitions
        log.info("partitions_gone", extra={"partitions": sorted(map(str, partitions))})
