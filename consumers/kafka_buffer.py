"""What was polled and not yet received."""

import threading
from collections import Counter, deque
from collections.abc import Sequence

from consumers.kafka_connection import KafkaSourceConfig
from consumers.source import Message, Partition


class Buffer:
    """Messages on their way from the poller to asyncio.

    Counted where they are polled, entered on asyncio's loop a moment later. The limits are soft by one poll.
    """

    def __init__(self, config: KafkaSourceConfig) -> None:
        self._config = config
        self._messages: deque[Message] = deque()
        self._num_bytes = 0
        self._lock = threading.Lock()
        self.num_messages = 0

    def count(self, messages: Sequence[Message], sign: int = 1) -> None:
        """Count `messages` in, or out with a `sign` of −1; from any thread."""
        with self._lock:
            self.num_messages += sign * len(messages)
            self._num_bytes += sign * sum(message.num_bytes for message in messages)

    def is_over(self, share: float) -> bool:
        """Whether it holds at least `share` of what it may; from any thread."""
        config = self._config
        return (
            self.num_messages >= config.max_buffered_messages * share
            or self._num_bytes >= config.max_buffered_bytes * share
        )

    def enter(self, messages: Sequence[Message]) -> None:
        """Add messages that were counted in."""
        self._messages.extend(messages)

    def take(self) -> tuple[Message, ...]:
        """All that is there."""
        messages = tuple(self._messages)
        self._messages.clear()
        self.count(messages, -1)
        return messages

    def num_by_partition(self) -> Counter[Partition]:
        """How many messages are there of each partition."""
        return Counter(message.position.partition for message in self._messages)

    def discard(self, partitions: frozenset[Partition]) -> None:
        """Forget what is there of partitions that go."""
        gone = [m for m in self._messages if m.position.partition in partitions]
        self._messages = deque(m for m in self._messages if m.position.partition not in partitions)
        self.count(gone, -1)
