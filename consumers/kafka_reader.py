"""A reader of what stands on topics already: no group, no commits, and an end."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from consumers.errors import SourceUnavailable
from consumers.kafka_connection import KafkaConnection, explain_missing, explain_unreachable, wait_reachable
from consumers.kafka_records import accept_any_header_name
from consumers.source import Message, Offsets, Partition, Position

START_SECONDS = 10.0
POLL_MS = 200
TOPIC_SECONDS = 2.0
"""For how long a topic is looked for: one that was made a moment ago may take another to be seen."""

STALL_SECONDS = 60.0
"""How long reading may stand still: longer than a worker's transaction, which may hold up its readers."""

FAR_APART = 1000
"""Messages that are further apart are sought one by one, instead of reading on from one to the other."""


class KafkaReader:
    """Reads what is committed. Every method raises `SourceUnavailable` where the brokers can't be had."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._consumer: Any = None

    def __enter__(self) -> Self:
        """Connect."""
        self._consumer = _connect(self._connection, "read_committed")
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        """Disconnect."""
        self._consumer.close(timeout_ms=1000)

    def partitions(self, topic: str, setting: str) -> frozenset[Partition]:
        """The topic's partitions; where it has none, the error names `setting`."""
        deadline = time.monotonic() + TOPIC_SECONDS
        while True:
            with self._told():
                if numbers := self._consumer.partitions_for_topic(topic):
                    return frozenset(Partition(topic, number) for number in numbers)
            if time.monotonic() > deadline:
                raise SourceUnavailable(explain_missing(self._connection, topic, setting))
            time.sleep(0.2)

    def begins(self, partitions: Iterable[Partition]) -> Offsets:
        """The offset of the first message of each partition that is still kept."""
        with self._told():
            return _offsets(self._consumer.beginning_offsets(_kafka_partitions(partitions)))

    def ends(self, partitions: Iterable[Partition]) -> Offsets:
        """One past the last offset of each partition that can be read, which is where a transaction is open."""
        with self._told():
            return _offsets(self._consumer.end_offsets(_kafka_partitions(partitions)))

    def final_ends(self, partitions: Iterable[Partition]) -> Offsets:
        """One past the last offset of each partition, in open transactions too."""
        with self._told():
            # A consumer of what is committed is never told.
            other = _connect(self._connection, "read_uncommitted")
            try:
                return _offsets(other.end_offsets(_kafka_partitions(partitions)))
            finally:
                other.close(timeout_ms=1000)

    def at_moment(self, partitions: Iterable[Partition], timestamp_ms: int) -> Offsets:
        """The offset of each partition's first message since a moment of Unix time, or else its end."""
        ends = self.ends(partitions)
        with self._told():
            found = self._consumer.offsets_for_times(dict.fromkeys(_kafka_partitions(ends), timestamp_ms))
        return {Partition(*each): ends[Partition(*each)] if at is None else at.offset for each, at in found.items()}

    def read(self, starts: Offsets, ends: Offsets) -> Iterator[Message]:
        """From `starts` to `ends`; may give some that stand behind them.

        Positions are compared, not offsets of messages: what ends a transaction has an offset and is no message.
        """
        with self._told():
            self._consumer.assign(_kafka_partitions(starts))
            self._consumer.resume(*_kafka_partitions(starts))
            for partition, offset in starts.items():
                self._consumer.seek(TopicPartition(*partition), offset)
        moved_at, moved_to = time.monotonic(), self.positions()
        while behind := [each for each, offset in moved_to.items() if offset < ends[each]]:
            with self._told():
                self._consumer.pause(*_kafka_partitions(starts.keys() - set(behind)))
                polled = self._consumer.poll(timeout_ms=POLL_MS)
            for records in polled.values():
                yield from map(_message, records)
            moved_before, moved_to = moved_to, self.positions()
            if moved_to != moved_before:
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at > STALL_SECONDS:
                raise SourceUnavailable(
                    f"nothing came from {behind[0]}@{moved_to[behind[0]]} within {STALL_SECONDS:g} s: the brokers at "
                    f"{self._connection} are away, or a transaction is open there; try again later"
                )

    def positions(self) -> dict[Partition, int]:
        """The next offset of each partition that `read` was asked for."""
        with self._told():
            return {Partition(*each): self._consumer.position(each) for each in self._consumer.assignment()}

    def messages(self, positions: Iterable[Position]) -> list[Message]:
        """The messages at `positions`, in their order, as far as they are there."""
        by_partition: dict[Partition, list[int]] = {}
        for position in sorted(positions, reverse=True):
            by_partition.setdefault(position.partition, []).append(position.offset)
        return [m for partition in sorted(by_partition) for m in self._messages_of(partition, by_partition[partition])]

    def _messages_of(self, partition: Partition, falling: list[int]) -> Iterator[Message]:
        begin, end = self.begins([partition])[partition], self.ends([partition])[partition]
        wanted = [offset for offset in falling if begin <= offset < end]
        while wanted:
            near = [offset for offset in wanted if offset < wanted[-1] + FAR_APART]
            here = set(near)
            messages = self.read({partition: near[-1]}, {partition: near[0] + 1})
            found = {message.position.offset: message for message in messages if message.position.offset in here}
            yield from (found[offset] for offset in reversed(near) if offset in found)
            wanted = wanted[: -len(near)]

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except KafkaError as error:
            raise SourceUnavailable(
                f"reading from {self._connection} failed ({error!r}); "
                "see whether the brokers are up, and this user's rights on the topic"
            ) from error


def _connect(connection: KafkaConnection, isolation: str) -> Any:
    accept_any_header_name()
    wait_reachable(connection, START_SECONDS)
    try:
        return KafkaConsumer(
            **connection.client_options(),
            bootstrap_timeout_ms=round(START_SECONDS * 1000),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=isolation,
            allow_auto_create_topics=False,
        )
    except KafkaError as error:
        raise SourceUnavailable(explain_unreachable(connection, START_SECONDS)) from error


def _kafka_partitions(partitions: Iterable[Partition]) -> list[Any]:
    return [TopicPartition(*partition) for partition in partitions]


def _offsets(found: Mapping[Any, int]) -> Offsets:
    return {Partition(*each): offset for each, offset in found.items()}


def _message(record: Any) -> Message:
    return Message(
        position=Position(Partition(record.topic, record.partition), record.offset),
        key=record.key,
        value=record.value,
        headers=tuple((name, value or b"") for name, value in record.headers),
        timestamp_ms=record.timestamp if record.timestamp >= 0 else None,
    )
