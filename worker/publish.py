"""Where events and dead letters go: a pair of Kafka topics, or JSONL files."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError

from consumers.errors import Reason, SourceUnavailable
from consumers.kafka import KafkaConnection
from consumers.kafka_connection import explain_unreachable, wait_reachable
from consumers.messages import EVENT_HEADERS, DeadLetter, EntityEvent
from worker.errors import SinkUnavailable

Outcome = EntityEvent | DeadLetter


class EventSink(Protocol):
    """Takes outcomes, each partition's in order."""

    async def start(self) -> None:
        """Get ready. Raises `SinkUnavailable` with what was tried and what to do."""

    async def publish(self, outcomes: Sequence[Outcome]) -> None:
        """Publish `outcomes`; they are safe when this returns. Raises `SinkUnavailable`."""

    async def close(self) -> None:
        """Let go of files and connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSinkConfig:
    """Where the Kafka sink writes, and how long it waits for the brokers."""

    entities_topic: str = "entities"
    dead_letters_topic: str = "dead-letters"
    start_seconds: float = 10.0
    publish_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("start_seconds", "publish_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


class KafkaSink:
    """Publishes through an idempotent producer, on a thread of its own, and waits for acknowledgements."""

    def __init__(self, connection: KafkaConnection, config: KafkaSinkConfig) -> None:
        self._connection = connection
        self._config = config
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="producer")
        self._producer: KafkaProducer | None = None

    async def start(self) -> None:
        """Connect. Raises `SinkUnavailable` where no broker answers, or a topic is missing."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connect)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._check_topics)

    async def publish(self, outcomes: Sequence[Outcome]) -> None:
        """Send all, wait for every acknowledgement. Raises `SinkUnavailable` at the deadline."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._send_all, outcomes)

    async def close(self) -> None:
        """Close the producer, and wait for its thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect, 5.0)
        self._thread.shutdown(wait=False)

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
            )
        except SourceUnavailable as error:
            raise SinkUnavailable(str(error)) from error
        except KafkaError as error:
            raise SinkUnavailable(explain_unreachable(self._connection, config.start_seconds)) from error

    def _check_topics(self) -> None:
        assert self._producer is not None
        for setting in ("entities_topic", "dead_letters_topic"):
            topic = getattr(self._config, setting)
            try:
                self._producer.partitions_for(topic)
            except KafkaError as error:
                raise SinkUnavailable(
                    f"the topic {topic} does not exist at {self._connection} (or may not be seen by this user); "
                    f"create it, or set kafka.{setting}"
                ) from error

    def _send_all(self, outcomes: Sequence[Outcome]) -> None:
        if self._producer is None:
            raise SinkUnavailable("the producer isn't connected; start() comes first")
        try:
            refused = self._send_together(outcomes)
            if refused:
                # The client counts a refusal as fatal, and fails with it what waited behind the batch:
                # who is really too large shows only alone, and through a new producer.
                self._reconnect()
                for outcome in refused:
                    self._send_alone(outcome)
        except KafkaError as error:
            raise SinkUnavailable(
                f"{len(outcomes)} outcomes were not acknowledged within {self._config.publish_seconds:g} s "
                f"({error!r}); nothing was committed, so the posts are read again at the next start"
            ) from error

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
            self._send(_without_bytes(outcome))(self._config.publish_seconds)

    def _reconnect(self) -> None:
        self._disconnect(1.0)
        self._connect()

    def _disconnect(self, seconds: float) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            # What can't be sent was told by publish(), and wasn't committed.
            with contextlib.suppress(KafkaError):
                producer.close(timeout=seconds)

    def _send(self, outcome: Outcome) -> Callable[[float], object]:
        try:
            if isinstance(outcome, EntityEvent):
                return self._record(self._config.entities_topic, outcome.id.encode(), outcome.to_json(), EVENT_HEADERS)
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


class JsonlSink:
    """Writes events to one JSONL file and dead letters to another; `-` is standard output."""

    def __init__(self, events: str, dead_letters: str) -> None:
        self._paths = (events, dead_letters)
        self._files: list[BinaryIO] = []

    async def start(self) -> None:
        """Open the files. Raises `SinkUnavailable` where one can't be written."""
        for path in self._paths:
            self._files.append(await asyncio.to_thread(_open, path))

    async def publish(self, outcomes: Sequence[Outcome]) -> None:
        """Write one line for each outcome."""
        await asyncio.to_thread(self._write, outcomes)

    async def close(self) -> None:
        """Close the files."""
        for file in self._files:
            if file is not sys.stdout.buffer:
                # Each publish flushed, so what can't be written now was told then.
                with contextlib.suppress(OSError):
                    file.close()

    def _write(self, outcomes: Sequence[Outcome]) -> None:
        events, dead_letters = self._files
        try:
            for outcome in outcomes:
                file = events if isinstance(outcome, EntityEvent) else dead_letters
                file.write(outcome.to_json() + b"\n")
            events.flush()
            dead_letters.flush()
        except OSError as error:
            raise SinkUnavailable(f"an event can't be written ({error.strerror}); make room there") from error


def _open(path: str) -> BinaryIO:
    if path == "-":
        return sys.stdout.buffer
    try:
        return Path(path).open("wb")
    except OSError as error:
        raise SinkUnavailable(
            f"{path} can't be written ({error.strerror}); name another file with --output or --dead-letters"
        ) from error


def _without_bytes(outcome: Outcome) -> DeadLetter:
    """The letter for an outcome that the broker won't take: its limit would be the same tomorrow."""
    detail = "over the broker's message.max.bytes; the original stands at the position"
    if isinstance(outcome, EntityEvent):
        return DeadLetter(
            reason=Reason.TOO_LARGE,
            detail=f"the event is {detail}",
            position=outcome.position,
            failed_at=outcome.tagged_at,
        )
    bare = {"key_base64": None, "value_base64": None}
    return outcome.model_copy(update={"detail": f"{outcome.detail} (bytes left out: {detail})", **bare})


def _raiser(error: Exception) -> Callable[[float], object]:
    def raise_it(_seconds: float) -> object:
        raise error

    return raise_it
