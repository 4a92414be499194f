"""The stall watchdog: whether reading goes on, as position against end offset tells it.

A client may answer heartbeats and polls for ever and read nothing; that the process is up says nothing.
"""

import logging
import time
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import KafkaError

log = logging.getLogger("nametag.kafka")

END_OFFSETS_MS = 2000
LONGEST_STALL_SECONDS = 900.0

Place = tuple[Any, int]
"""A partition in the client's type, and a position in it."""


class Progress:
    """Watches one group membership through all the clients it may need. For the poller's thread alone."""

    def __init__(self, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._behind: frozenset[Place] = frozenset()
        self.is_behind = False
        """Whether nothing was read for half of `stall_seconds` though there was something to read."""
        self._moved()

    @property
    def is_stalled(self) -> bool:
        """Whether nothing was read for all of `stall_seconds`: the client needs a restart."""
        return self.is_behind and time.monotonic() - self._since >= self._stall_seconds

    def look(self, consumer: KafkaConsumer, num_polled: int) -> None:
        """Take in the outcome of a poll; asks the brokers for end offsets only after a long silence."""
        if num_polled:
            if self.is_behind:
                log.info("kafka_reads_again", extra={"seconds": round(time.monotonic() - self._since, 1)})
            self.is_behind = False
            self._moved()
        elif time.monotonic() >= self._next_check:
            self._check(consumer)

    def restarted(self) -> None:
        """A new client begins with a clean slate, and with more patience: a restart costs a rebalance."""
        self._stall_seconds = min(2 * self._stall_seconds, LONGEST_STALL_SECONDS)
        self._moved()

    def _moved(self) -> None:
        self._since = time.monotonic()
        self._behind = frozenset()
        self._next_check = self._since + self._stall_seconds / 2

    def _check(self, consumer: KafkaConsumer) -> None:
        behind = _places_behind(consumer)
        if behind is None:
            # Nobody answers, which `Contact` sees to; nothing is known of progress.
            self._next_check = time.monotonic() + self._stall_seconds / 4
            return
        # Behind at the same place twice: what a rebalance or a backlog moves is no stall.
        stuck = behind & self._behind if self._behind else behind
        if not stuck:
            self.is_behind = False
            self._moved()
            return
        if self._behind and not self.is_behind:
            self.is_behind = True
            log.warning(
                "kafka_stalled",
                extra={
                    "positions": sorted(f"{each.topic}[{each.partition}]@{position}" for each, position in stuck),
                    "next": "the client is started anew if it goes on",
                },
            )
        self._behind = stuck
        self._next_check = time.monotonic() + self._stall_seconds / 8


def _places_behind(consumer: KafkaConsumer) -> frozenset[Place] | None:
    """Where there is more to read, among the partitions that may be read now; None where nobody answers."""
    reading = consumer.assignment() - consumer.paused()
    try:
        ends = consumer.end_offsets(list(reading), timeout_ms=END_OFFSETS_MS) if reading else {}
        places = {each: consumer.position(each, timeout_ms=0) for each in ends}
    except KafkaError:
        return None
    return frozenset((each, place) for each, place in places.items() if place is not None and place < ends[each])
