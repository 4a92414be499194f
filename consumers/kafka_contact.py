"""Whether a broker still answers, and the two log lines that say so.

kafka-python 3.0.12 tells it nowhere in its public interface: its poll returns nothing, as from a quiet
topic. Its heartbeats know: each answer is timed, and so is each coordinator that was found. In a join
there are none, and then a connection that stands has to do.
"""

import logging
import time
from typing import Any

from kafka import KafkaConsumer

log = logging.getLogger("nametag.kafka")

MISSED_HEARTBEATS = 3
"""So many intervals without an answer are no longer a slow broker."""


class Contact:
    """The group's view of us, seen from here. `look` is for the poller, the rest for any thread."""

    def __init__(self, brokers: str) -> None:
        self._brokers = brokers
        self._consumer: Any = None
        self._away_since: float | None = None

    def look(self, consumer: KafkaConsumer) -> None:
        """Take in how things stand, and log it where that has changed."""
        if consumer is not self._consumer:
            # Also one that takes over from another (consumers/kafka_poller.py).
            is_member = consumer._coordinator.generation_if_stable() is not None
            self._consumer = consumer if is_member else None
            return
        if self._away_since is None and not self._answers():
            self._away_since = time.monotonic()
            what_next = "posts wait; reading goes on by itself when a broker answers"
            log.warning("kafka_away", extra={"brokers": self._brokers, "next": what_next})
        elif self._away_since is not None and self._answers():
            seconds = time.monotonic() - self._away_since
            self._away_since = None
            log.info("kafka_back", extra={"brokers": self._brokers, "seconds_away": round(seconds, 1)})

    @property
    def missing(self) -> str | None:
        """None where the group has taken us in, with partitions or as a spare, and a broker answers."""
        if self._consumer is None:
            return "the consumer group hasn't taken this worker in yet"
        return None if self._answers() else "no broker answers"

    def _answers(self) -> bool:
        coordinator = self._consumer._coordinator
        if not coordinator._heartbeat_enabled:
            return any(connection.connected for connection in list(self._consumer._manager._conns.values()))
        heartbeat = coordinator.heartbeat
        silence = time.monotonic() - max(heartbeat.last_receive, heartbeat.last_reset)
        return bool(silence < MISSED_HEARTBEATS * heartbeat.config["heartbeat_interval_ms"] / 1000)
