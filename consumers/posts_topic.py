"""Posts put on the topic that workers read: an idempotent producer, and not more in flight than fits."""

from collections import deque
from types import TracebackType
from typing import Any, NamedTuple, Self

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError

from consumers.archive_posts import ArchivePost, Place
from consumers.errors import ReplayStopped, SourceUnavailable
from consumers.kafka_connection import (
    KafkaConnection,
    explain_missing,
    explain_unreachable,
    is_known_missing,
    wait_reachable,
)

START_SECONDS = 10.0
ACKNOWLEDGE_SECONDS = 60.0
"""For how long a broker may be away before a replay ends."""

MAX_IN_FLIGHT = 2000
MAX_IN_FLIGHT_BYTES = 16 * 1024 * 1024


class _Sent(NamedTuple):
    post: ArchivePost
    acknowledgement: Any


class PostsTopic:
    """Puts posts on `topic`, each under its id, so that those of one id keep their order.

    `num_acknowledged` are safe; `last` is the last of them, and all before it are safe too.
    """

    def __init__(self, connection: KafkaConnection, topic: str) -> None:
        self._connection = connection
        self._topic = topic
        self._producer: Any = None
        self._in_flight: deque[_Sent] = deque()
        self._num_bytes = 0
        self.num_acknowledged = 0
        self.last: ArchivePost | None = None

    @property
    def after(self) -> Place | None:
        """The place behind which posts are still to be put; None where that is all of them."""
        return None

    def __enter__(self) -> Self:
        """Connect. Raises `SourceUnavailable` where no broker answers, or there is no such topic."""
        wait_reachable(self._connection, START_SECONDS)
        try:
            self._producer = KafkaProducer(
                **self._connection.client_options(),
                bootstrap_timeout_ms=round(START_SECONDS * 1000),
                max_block_ms=round(START_SECONDS * 1000),
                allow_auto_create_topics=False,
                enable_idempotence=True,
                acks="all",
                request_timeout_ms=round(ACKNOWLEDGE_SECONDS / 2 * 1000),
                delivery_timeout_ms=round(ACKNOWLEDGE_SECONDS * 1000),
                compression_type="lz4",
                # Nobody waits for a single post.
                linger_ms=20,
                batch_size=256 * 1024,
                # The topic's own limit decides.
                max_request_size=2**30,
                **self._transaction_options(),
            )
        except KafkaError as error:
            raise SourceUnavailable(explain_unreachable(self._connection, START_SECONDS)) from error
        try:
            self._producer.partitions_for(self._topic)
        except KafkaError as error:
            self._disconnect()
            if isinstance(error, KafkaTimeoutError) and not is_known_missing(self._connection, self._topic):
                raise SourceUnavailable(explain_unreachable(self._connection, START_SECONDS)) from error
            raise SourceUnavailable(explain_missing(self._connection, self._topic, "kafka.posts_topic")) from error
        return self

    def _transaction_options(self) -> dict[str, Any]:
        return {}

    def __exit__(self, _type: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        """Disconnect; what wasn't waited for may or may not go out."""
        self._disconnect()

    def put(self, post: ArchivePost) -> None:
        """Hand over a post; waits while too many are in flight. Raises `ReplayStopped`."""
        try:
            sent = self._producer.send(self._topic, value=post.value, key=post.post.id.encode())
        except KafkaError as error:
            raise self._stopped(error) from error
        self._in_flight.append(_Sent(post, sent))
        self._num_bytes += len(post.value)
        while len(self._in_flight) > MAX_IN_FLIGHT or self._num_bytes > MAX_IN_FLIGHT_BYTES:
            self._settle()

    def wait(self) -> None:
        """Wait until all are acknowledged. Raises `ReplayStopped`."""
        while self._in_flight:
            self._settle()

    def _settle(self) -> None:
        """Wait for the oldest."""
        post, acknowledgement = self._in_flight[0]
        try:
            acknowledgement.get(timeout=ACKNOWLEDGE_SECONDS)
        except KafkaError as error:
            raise self._stopped(error) from error
        self._in_flight.popleft()
        self._num_bytes -= len(post.value)
        self.num_acknowledged += 1
        self.last = post

    def _stopped(self, error: Exception) -> ReplayStopped:
        where = f", the last from line {self.last.line + 1} of {self.last.member}" if self.last else ""
        return ReplayStopped(
            f"putting posts on {self._topic} failed at {self._connection} ({error!r}); {self.num_acknowledged} are "
            f"there{where}, and up to {len(self._in_flight)} more may be; see the brokers, then run it again, "
            "which puts them there once more"
        )

    def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            producer.close(timeout=1.0)
        except KafkaError:
            # It would hold up the end of the process, at what it can't send any more.
            producer._sender.force_close()
            producer._closed = True
