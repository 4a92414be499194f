"""Events, tombstones and dead letters to a pair of Kafka topics, at least once; exactly once: transactional_sink.py.

A sink owns its producer on one thread, and goes on by itself after broker trouble: it raises
`PublishAborted` (nothing went out) or `PublishUnsettled` (nobody knows; a new producer is ready, and
what the last one began is settled), and the publisher tries again or reads again.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kafka import KafkaProducer
from kafka.errors import (
    AuthorizationError,
    FencedInstanceIdError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
)

from consumers.dead_letters import DeadLetter
from consumers.deletes import Tombstone
from consumers.errors import Reason, SourceUnavailable
from consumers.events import EntityEvent
from consumers.kafka import KafkaConnection
from consumers.kafka_connection import explain_missing, explain_unreachable, is_known_missing, wait_reachable
from consumers.source import Offsets
from worker.errors import PublishAborted, PublishUnsettled, SinkUnavailable
from worker.own_thread import OwnThread
from worker.publish import Outcome

CLOSE_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSinkConfig:
    """Where the Kafka sink writes, and how long it waits for the brokers.

    `transaction_seconds` is how long a dead worker's transaction may hold up its readers.
    """

    entities_topic: str = "entities"
    dead_letters_topic: str = "dead-letters"
    start_seconds: float = 10.0
    publish_seconds: float = 30.0
    transaction_seconds: float = 15.0
    transactional_id: str | None = None

    def __post_init__(self) -> None:
        for name in ("start_seconds", "publish_seconds", "transaction_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


class Hopeless(SinkUnavailable):
    """Raised for what no retry mends."""


class KafkaSink:
    """At least once: an idempotent producer, every acknowledgement waited for."""

    commits_offsets = False

    def __init__(self, connection: KafkaConnection, config: KafkaSinkConfig) -> None:
        self._connection = connection
        self._config = config
        self._thread = OwnThread("producer")
        self._producer: KafkaProducer | None = None

    async def start(self) -> None:
        """Connect. Raises `SinkUnavailable` where no broker answers, or a topic is missing."""
        await self._thread.call(self._start)

    async def publish(self, outcomes: Sequence[Outcome], offsets: Offsets, membership: object) -> None:
        """Send all, wait for every acknowledgement. Raises `PublishUnsettled` at the deadline."""
        await self._thread.call(lambda: self._guarded(lambda: self._send_all(outcomes)))

    async def close(self) -> None:
        """Close the producer, and wait a little for its thread."""
        # A call under way may have no deadline of its own.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * CLOSE_SECONDS):
                await self._thread.call(lambda: self._disconnect(CLOSE_SECONDS))
        self._thread.end()

    # The producer's thread, top to bottom.

    def _start(self) -> None:
        self._connect()
        self._check_topics()

    def _connect(self) -> None:
        config = self._config
        try:
            wait_reachable(self._connection, config.start_seconds)
            self._producer = KafkaProducer(
                **self._connection.client_options(),
                bootstrap_timeout_ms=round(config.start_seconds * 1000),
                # For a topic's partitions, and for room in its buffer.
                max_block_ms=round(config.start_seconds * 1000),
                allow_auto_create_topics=False,
                enable_idempotence=True,
                acks="all",
                # Half a millisecond's wait would be a whole batch's; the publisher gathers by itself.
                linger_ms=0,
                **self._transaction_options(),
            )
        except SourceUnavailable as error:
            raise SinkUnavailable(str(error)) from error
        except KafkaError as error:
            raise SinkUnavailable(explain_unreachable(self._connection, config.start_seconds)) from error

    def _transaction_options(self) -> dict[str, Any]:
        return {}

    def _check_topics(self) -> None:
        """Raises `SinkUnavailable` where a topic is missing, or where the broker goes away meanwhile and stays away."""
        deadline = time.monotonic() + 2 * self._config.start_seconds
        for setting in ("entities_topic", "dead_letters_topic"):
            topic = getattr(self._config, setting)
            while not self._is_there(topic, setting):
                if time.monotonic() > deadline:
                    raise SinkUnavailable(explain_unreachable(self._connection, 2 * self._config.start_seconds))

    def _is_there(self, topic: str, setting: str) -> bool:
        assert self._producer is not None
        try:
            self._producer.partitions_for(topic)
        except KafkaError as error:
            if isinstance(error, KafkaTimeoutError) and not is_known_missing(self._connection, topic):
                return False
            raise Hopeless(explain_missing(self._connection, topic, f"kafka.{setting}")) from error
        return True

    def _guarded(self, act: Callable[[], None]) -> None:
        """Run `act` on a producer that works; after trouble, leave one behind that does, or none."""
        try:
            if self._producer is None:
                self._connect()
            act()
        except (AuthorizationError, FencedInstanceIdError) as error:
            raise Hopeless(
                f"events may not be published to {self._connection} ({error!r}); see this user's rights "
                "on the topics and the transactional id, and that no other worker has its group_instance_id"
            ) from error
        except KafkaError as error:
            self._replace_producer()
            raise PublishUnsettled(f"the producer failed ({error!r}); a new one takes over") from error
        except Hopeless:
            raise
        except SinkUnavailable as error:
            raise PublishAborted(str(error)) from error

    def _replace_producer(self) -> None:
        """A new producer settles what the old one began.

        Where none can be had, the brokers settle it by themselves after the transaction's time;
        meanwhile they give no offsets to read from. Raises `Hopeless` where a topic is gone.
        """
        self._disconnect(1.0)
        try:
            self._connect()
            self._check_topics()
        except Hopeless:
            raise
        except SinkUnavailable:
            return

    def _send_all(self, outcomes: Sequence[Outcome]) -> None:
        refused = self._send_together(outcomes)
        if refused:
            # The client counts a refusal as fatal, and fails with it what waited behind the batch:
            # who is really too large shows only alone, and through a new producer.
            self._reconnect()
            for outcome in refused:
                self._send_alone(outcome)

    def _send_together(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Those that were not taken, because they or others beside them are too large."""
        deadline = time.monotonic() + self._config.publish_seconds
        refused = []
        # Not by flush(), which gives up where the client splits a batch that the broker finds too large.
        for outcome, wait in [(outcome, self._send(outcome)) for outcome in outcomes]:
            try:
                wait(max(0.0, deadline - time.monotonic()))
            except MessageSizeTooLargeError:
                refused.append(outcome)
        return refused

    def _send_alone(self, outcome: Outcome) -> None:
        try:
            self._send(outcome)(self._config.publish_seconds)
        except MessageSizeTooLargeError:
            self._reconnect()
            try:
                self._send(without_bytes(outcome))(self._config.publish_seconds)
            except MessageSizeTooLargeError as error:
                raise self._takes_nothing() from error

    def _takes_nothing(self) -> Hopeless:
        return Hopeless(
            f"the topic {self._config.dead_letters_topic} refuses even a letter without its bytes as too large; "
            "raise its max.message.bytes"
        )

    def _reconnect(self) -> None:
        self._disconnect(1.0)
        self._connect()

    def _disconnect(self, seconds: float) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            producer.close(timeout=seconds)
        except KafkaError:
            # It gives up at what it can't send, and leaves its thread behind, which would send it later on.
            # What that was, publish() has told.
            producer._sender.force_close()
            producer._sender.join(seconds)
            producer._closed = True

    def _send(self, outcome: Outcome) -> Callable[[float], object]:
        """Hand `outcome` to the producer; gives back the wait (in seconds) for its acknowledgement."""
        try:
            if isinstance(outcome, EntityEvent):
                return self._record(
                    self._config.entities_topic, outcome.id.encode(), outcome.to_json(), outcome.headers
                )
            if isinstance(outcome, Tombstone):
                return self._record(self._config.entities_topic, outcome.id.encode(), None, outcome.headers)
            return self._record(self._config.dead_letters_topic, outcome.key, outcome.value, outcome.headers)
        except MessageSizeTooLargeError as error:
            return _raiser(error)

    def _record(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> Callable[[float], object]:
        assert self._producer is not None
        if key is None and value is None:
            value = b""  # the client refuses a record of nothing at all
        future = self._producer.send(topic, key=key, value=value, headers=list(headers))
        return lambda seconds: future.get(timeout=seconds)


def without_bytes(outcome: Outcome) -> Outcome:
    """The letter for an outcome that the broker won't take: its limit would be the same tomorrow.

    A tombstone, which could hardly be smaller, stays as it is.
    """
    detail = "over the broker's message.max.bytes; the original stands at the position"
    if isinstance(outcome, EntityEvent):
        return DeadLetter(
            reason=Reason.TOO_LARGE,
            detail=f"the event is {detail}",
            position=outcome.position,
            failed_at=outcome.tagged_at,
            bytes_left_out=True,
        )
    if isinstance(outcome, Tombstone):
        return outcome
    bare = {"key_base64": None, "value_base64": None, "bytes_left_out": True}
    return outcome.model_copy(update={"detail": f"{outcome.detail} (bytes left out: {detail})", **bare})


def _raiser(error: Exception) -> Callable[[float], object]:
    def raise_it(_seconds: float) -> object:
        raise error

    return raise_it
