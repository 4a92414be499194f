"""The ledger: posts finish out of order, and leave in the order of their partition."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from consumers.source import Message, Partition

T = TypeVar("T")


@dataclass(slots=True)
class _Entry(Generic[T]):
    message: Message
    opened_at: float
    outcome: T | None = None


@dataclass(slots=True)
class _Page(Generic[T]):
    """One partition in one epoch of its assignment; entries by offset, in the order of arrival."""

    epoch: int
    entries: dict[int, _Entry[T]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Release(Generic[T]):
    """What may leave: outcomes, each partition in order, and the next offset to read of each."""

    outcomes: list[T]
    messages: list[Message]
    offsets: dict[Partition, int]


class OffsetLedger(Generic[T]):
    """Out-of-order completion in, the contiguous prefix of each partition out.

    Offsets may have gaps (transaction markers, compaction), so an entry is ordered by its arrival
    and nothing is assumed about the offset after it. Work of an epoch that is over is ignored.
    """

    def __init__(self) -> None:
        self._pages: dict[Partition, _Page[T]] = {}

    def __len__(self) -> int:
        """How many messages are open or wait for one before them."""
        return sum(len(page.entries) for page in self._pages.values())

    def num_open(self) -> dict[Partition, int]:
        """How many messages of each partition are here, finished or not."""
        return {partition: len(page.entries) for partition, page in self._pages.items()}

    def num_finished(self) -> int:
        """How many have an outcome, and wait for one before them or for their publication."""
        return sum(entry.outcome is not None for page in self._pages.values() for entry in page.entries.values())

    def oldest(self) -> Iterator[tuple[Message, float]]:
        """The first message of each partition, and when it was entered, in monotonic time."""
        for page in self._pages.values():
            for entry in page.entries.values():
                yield entry.message, entry.opened_at
                break

    def open(self, message: Message) -> None:
        """Enter `message`, which must follow all others of its partition and epoch."""
        partition, offset = message.position
        page = self._pages.get(partition)
        if page is None or page.epoch < message.epoch:
            page = self._pages[partition] = _Page(message.epoch)
        page.entries[offset] = _Entry(message, time.monotonic())

    def complete(self, message: Message, outcome: T) -> bool:
        """Note the outcome of `message`; False where its partition was given up meanwhile."""
        partition, offset = message.position
        page = self._pages.get(partition)
        if page is None or page.epoch != message.epoch or offset not in page.entries:
            return False
        page.entries[offset].outcome = outcome
        return True

    def finished(self, partitions: Iterable[Partition] | None = None) -> Release[T]:
        """The contiguous prefix of finished messages of `partitions` (default: of all); it stays here."""
        release: Release[T] = Release([], [], {})
        for partition in list(self._pages) if partitions is None else partitions:
            if page := self._pages.get(partition):
                _add_prefix(partition, page, release)
        return release

    def settle(self, release: Release[T]) -> list[tuple[Message, T]]:
        """Take out what was published; gives what was still here, not forgotten meanwhile."""
        published = zip(release.messages, release.outcomes, strict=True)
        return [(message, outcome) for message, outcome in published if self._take_out(message)]

    def forget(self, partitions: Iterable[Partition] | None = None) -> list[Message]:
        """Drop all that is open in `partitions` (default: in all), which will be read again."""
        dropped: list[Message] = []
        for partition in list(self._pages) if partitions is None else partitions:
            if page := self._pages.pop(partition, None):
                dropped += [entry.message for entry in page.entries.values()]
        return dropped

    def _take_out(self, message: Message) -> bool:
        page = self._pages.get(message.position.partition)
        if page is None or page.epoch != message.epoch:
            return False
        return page.entries.pop(message.position.offset, None) is not None


def _add_prefix(partition: Partition, page: _Page[T], release: Release[T]) -> None:
    for offset, entry in page.entries.items():
        if entry.outcome is None:
            break
        release.outcomes.append(entry.outcome)
        release.messages.append(entry.message)
        release.offsets[partition] = offset + 1
