"""Where posts come from: the positions of messages, and the protocol that every source keeps."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

MESSAGE_BYTES = 500
"""About what a message of nothing takes in memory."""


class Partition(NamedTuple):
    """One partition of a topic. A file or a pipe is a topic of its own with a single partition 0."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.number}]"


class Position(NamedTuple):
    """Where a message stands: its partition and its offset there (for a file, the line from 0)."""

    partition: Partition
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}@{self.offset}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message as it came, before anything was read into it.

    ``epoch`` numbers the assignment of its partition to this worker: work whose partition was
    revoked, or came back in a later epoch, is stale. ``timestamp_ms`` is Unix time.
    """

    position: Position
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp_ms: int | None = None
    epoch: int = 0

    @property
    def num_bytes(self) -> int:
        """Bytes of key, value and headers, and what a message costs besides."""
        headers = sum(len(name) + len(value) for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers + MESSAGE_BYTES


Offsets = Mapping[Partition, int]
"""For each partition the *next* offset to read, as Kafka counts commits."""

RevokeListener = Callable[[frozenset[Partition]], Awaitable[Offsets]]
"""Awaited before partitions are given up; returns what may be committed for them, then forgets them."""


class PostSource(Protocol):
    """A stream of messages that remembers how far it was read."""

    @property
    def unready(self) -> str | None:
        """Why messages can't come, as far as it is ours to see to; None where they can."""

    async def start(self, on_revoke: RevokeListener) -> None:
        """Begin to read. Raises a `SourceUnavailable` where there is nothing to read from."""

    @property
    def backlog(self) -> Mapping[Partition, int]:
        """How many messages of each partition can be read and were not received; empty where nobody knows."""

    @property
    def membership(self) -> object:
        """The membership in a consumer group, for a transaction to commit with; None where there is none."""

    async def rewind(self, forget: Callable[[], None]) -> None:
        """Read again from the last commit, in new epochs.

        `forget` is called on asyncio's loop when nothing of the old epochs will be received any
        more, and nothing of the new ones has been.
        """

    async def receive(self) -> Sequence[Message]:
        """The next messages in the order of their partitions; waits for one. Empty: the source has ended."""

    async def commit(self, offsets: Offsets) -> None:
        """Remember `offsets`. Offsets of partitions that are no longer ours are dropped."""

    async def stop_intake(self) -> None:
        """Take no more from the source: `receive` hands out nothing new, and then an empty sequence."""

    async def close(self) -> None:
        """Leave the source, and tell it so. What was not committed will be read again."""
