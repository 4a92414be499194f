"""Posts put on their topic exactly once, over any number of starts of the same replay.

One transaction holds some posts and, as the committed offset of a group of the replay's name, how far that is: the
number of posts, and in the offset's metadata the place of the last. A new start ends what the one before left open,
and fences it; then the group tells where to go on. Readers have to read with `isolation.level=read_committed`, as
workers do.
"""

import json
import time
from collections.abc import Callable
from typing import Any, Self

from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import InvalidProducerEpochError, KafkaError, ProducerFencedError
from kafka.structs import OffsetAndMetadata

from consumers.archive_posts import ArchivePost, Place
from consumers.deadline import within
from consumers.errors import ReplayStopped, SourceUnavailable
from consumers.kafka_connection import KafkaConnection
from consumers.posts_topic import MAX_IN_FLIGHT_BYTES, START_SECONDS, PostsTopic

MAX_POSTS = 1000
MAX_SECONDS = 1.0
"""A transaction holds so many posts at most, and is made when the first of them has waited so long."""

TRANSACTION_SECONDS = 60.0
"""For how long a replay that was killed may hold up the readers of the topic."""


class PostsTopicOnce(PostsTopic):
    """Puts each post of the replay `name` on `topic` once; with `is_begun` it is known to have put some."""

    def __init__(self, connection: KafkaConnection, topic: str, *, name: str, is_begun: bool) -> None:
        super().__init__(connection, topic)
        self._name = f"nametag-replay-{name}"
        self._is_begun = is_begun
        self._held: list[ArchivePost] = []
        self._held_since = 0.0
        self._num_held_bytes = 0
        self._num_there = 0
        self._after: Place | None = None

    @property
    def after(self) -> Place | None:
        """The place of the last post that is on the topic."""
        return self._after

    def __enter__(self) -> Self:
        """Connect, and take over from an earlier start. Raises `SourceUnavailable`."""
        super().__enter__()
        try:
            within(TRANSACTION_SECONDS, self._producer.init_transactions)
            self._find_place()
        except (KafkaError, TimeoutError) as error:
            self._disconnect()
            raise SourceUnavailable(
                f"no transaction can be had at {self._connection} ({error!r}); see the brokers' logs, and this user's "
                f"rights on the transactional id and the group {self._name}"
            ) from error
        return self

    def put(self, post: ArchivePost) -> None:
        """Hand over a post, which waits for others to share a transaction with. Raises `ReplayStopped`."""
        if not self._held:
            self._held_since = time.monotonic()
        self._held.append(post)
        self._num_held_bytes += len(post.value)
        is_full = len(self._held) >= MAX_POSTS or self._num_held_bytes > MAX_IN_FLIGHT_BYTES
        if is_full or time.monotonic() - self._held_since > MAX_SECONDS:
            self.wait()

    def wait(self) -> None:
        """Put all on the topic that wait. Raises `ReplayStopped`."""
        if not self._held:
            return
        # In one go: where posts are few and far between, a transaction that waits for one would expire.
        self._call(self._producer.begin_transaction)
        for post in self._held:
            super().put(post)
        super().wait()
        place = self._held[-1].place
        kept = json.dumps(place, separators=(",", ":"))
        offsets = {TopicPartition(self._topic, 0): OffsetAndMetadata(self.num_acknowledged, kept, -1)}
        self._call(lambda: self._producer.send_offsets_to_transaction(offsets, self._name))
        self._call(self._producer.commit_transaction)
        self._held.clear()
        self._num_held_bytes = 0
        self._num_there, self._after = self.num_acknowledged, place

    def _transaction_options(self) -> dict[str, Any]:
        return {"transactional_id": self._name, "transaction_timeout_ms": round(TRANSACTION_SECONDS * 1000)}

    def _find_place(self) -> None:
        found = self._committed()
        if found is not None and found.offset >= 0:
            self._after = Place(*json.loads(found.metadata))
            self.num_acknowledged = self._num_there = found.offset
        elif self._is_begun:
            self._disconnect()
            raise SourceUnavailable(
                f"the brokers at {self._connection} no longer know how far the replay came (they forget it after "
                "offsets.retention.minutes, a week by default); begin anew with another file for --resume, "
                "and posts that are there come twice"
            )

    def _committed(self) -> Any:
        """What the group has committed; a new cluster takes a moment to have groups at all."""
        partition = TopicPartition(self._topic, 0)
        deadline = time.monotonic() + START_SECONDS
        admin = KafkaAdminClient(**self._connection.client_options())
        try:
            while True:
                try:
                    return admin.list_group_offsets({self._name: [partition]})[self._name].get(partition)
                except KafkaError as error:
                    if not error.retriable or time.monotonic() > deadline:
                        raise
                time.sleep(0.2)
        finally:
            admin.close()

    def _call(self, act: Callable[[], object]) -> None:
        try:
            within(TRANSACTION_SECONDS, act)
        except (KafkaError, TimeoutError) as error:
            raise self._stopped(error) from error

    def _stopped(self, error: Exception) -> ReplayStopped:
        if isinstance(error, ProducerFencedError | InvalidProducerEpochError):
            return ReplayStopped(f"another start of the same replay has taken over ({error!r}); it goes on by itself")
        return ReplayStopped(
            f"putting posts on {self._topic} failed at {self._connection} ({error!r}); {self._num_there} are there; "
            "see the brokers, then run the same command again: it goes on from there, and nothing comes twice"
        )
