"""How much of each partition is still to be read: end offset against position.

The end is that of a `read_committed` reader, so what an open transaction holds doesn't count; and a position moves
past the markers that end transactions. The brokers' own lag does neither: it stays at one behind a quiet topic.
"""

import logging
import time
from collections.abc import Mapping, Sequence

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from consumers.source import Message, Partition

log = logging.getLogger("nametag.kafka")

LOOK_SECONDS = 5.0
"""Between two questions for the end offsets; what was read meanwhile is known without."""

END_OFFSETS_MS = 500
"""How long the question may hold up the poller."""


class Lag:
    """The messages of each assigned partition that were not polled yet.

    `unread` is for any thread, the rest for the poller's. Without an answer it stays as last known.
    """

    def __init__(self) -> None:
        self._ends: dict[Partition, int] = {}
        self._positions: dict[Partition, int] = {}
        self._next_look = 0.0
        self.unread: Mapping[Partition, int] = {}

    def look(self, consumer: KafkaConsumer, polled: Sequence[Message]) -> None:
        """Take in what was polled, and now and then where the partitions end."""
        for message in polled:
            self._positions[message.position.partition] = message.position.offset + 1
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            self._ask(consumer)
        elif not polled:
            return
        self.unread = {each: max(0, end - self._positions.get(each, 0)) for each, end in self._ends.items()}

    def _ask(self, consumer: KafkaConsumer) -> None:
        assigned = {Partition(each.topic, each.partition): each for each in consumer.assignment()}
        try:
            ends = _ends(consumer, list(assigned.values()))
            positions = {each: consumer.position(kafka_s, timeout_ms=0) for each, kafka_s in assigned.items()}
        except KafkaError as error:
            log.debug("lag_unknown", extra={"error": repr(error)})
            # What went to others is theirs to tell of all the same.
            self._ends = {each: end for each, end in self._ends.items() if each in assigned}
            return
        self._positions = {each: position for each, position in positions.items() if position is not None}
        self._ends = {each: ends[kafka_s] for each, kafka_s in assigned.items() if each in self._positions}


def _ends(consumer: KafkaConsumer, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
    return dict(consumer.end_offsets(partitions, timeout_ms=END_OFFSETS_MS)) if partitions else {}
