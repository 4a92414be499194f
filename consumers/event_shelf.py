"""What was read of the entities topic and not handed out yet, and how far was handed out.

A thread fills it, the caller empties it: every method may be called from any thread.
"""

import enum
import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from consumers.deletes import Tombstone
from consumers.errors import BadEvent, NewerSchema
from consumers.events import EntityEvent
from consumers.source import Message, Offsets, Partition

log = logging.getLogger("nametag.events")

MAX_ITEMS = 4096
MAX_BYTES = 16 * 1024 * 1024
"""Of records, as they came. Both limits are soft by one poll."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A record, and what it is."""

    message: Message
    found: EntityEvent | Tombstone | BadEvent | NewerSchema


class Nothing(enum.Enum):
    """In place of an item."""

    YET = enum.auto()
    MORE = enum.auto()


@dataclass(frozen=True, slots=True)
class Place:
    """An offset of a partition, and which of its stays with us that was."""

    offset: int
    epoch: int


_Moved = tuple[Partition, int]
"""That reading came to an offset, behind which there may be no record: transactions end with a marker."""


class Shelf:
    """`on_change` is called, on any thread, when there is something new to take."""

    def __init__(self, *, skip_bad: bool, on_change: Callable[[], None]) -> None:
        self._skip_bad = skip_bad
        self._on_change = on_change
        self._changed = threading.Condition()
        self._entries: deque[Item | _Moved] = deque()
        self._num_items = 0
        self._num_bytes = 0
        self._handed_out: dict[Partition, int] = {}
        self._read_to: dict[Partition, int] = {}
        self._epochs: dict[Partition, int] = {}
        self._has_ended = False
        self._error: BaseException | None = None
        self.last: Message | None = None
        """The record that was handed out last."""
        self.num_skipped = 0

    # The thread's side.

    def begin(self, places: Offsets) -> None:
        """Partitions are ours, from these places on."""
        with self._changed:
            for partition, offset in places.items():
                self._epochs[partition] = self._epochs.get(partition, 0) + 1
                self._handed_out[partition] = self._read_to[partition] = offset

    def put(self, items: Iterable[Item], read_to: Offsets) -> None:
        """Add what was read, in order, and how far reading came; what isn't ours is left out."""
        with self._changed:
            for item in items:
                if item.message.position.partition in self._read_to:
                    self._entries.append(item)
                    self._count(item, 1)
            for partition, offset in read_to.items():
                if self._read_to.get(partition, offset) != offset:
                    self._read_to[partition] = offset
                    self._entries.append((partition, offset))
            self._changed.notify_all()
        self._on_change()

    def forget(self, partitions: Collection[Partition]) -> None:
        """Partitions are no longer ours: nothing of them is handed out or committed any more."""
        with self._changed:
            kept: deque[Item | _Moved] = deque()
            for entry in self._entries:
                partition = entry.message.position.partition if isinstance(entry, Item) else entry[0]
                if partition not in partitions:
                    kept.append(entry)
                elif isinstance(entry, Item):
                    self._count(entry, -1)
            self._entries = kept
            for partition in partitions:
                self._handed_out.pop(partition, None)
                self._read_to.pop(partition, None)

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more will come, since `error` where there is one; what is there is handed out first."""
        with self._changed:
            self._has_ended = True
            self._error = self._error or error
            self._changed.notify_all()
        self._on_change()

    def is_over(self, share: float) -> bool:
        """Whether it holds at least `share` of what it may."""
        return self._num_items >= MAX_ITEMS * share or self._num_bytes >= MAX_BYTES * share

    def still_ours(self, places: Mapping[Partition, Place]) -> Offsets:
        """The offsets of those `places` whose partition has been ours ever since."""
        with self._changed:
            return {
                partition: place.offset
                for partition, place in places.items()
                if partition in self._handed_out and self._epochs[partition] == place.epoch
            }

    # The caller's side.

    def take(self) -> Item | Nothing:
        """The next item. Raises the `BadEvent` or `NewerSchema` that stands there, and what ended the reading."""
        with self._changed:
            while True:
                self._catch_up()
                if not self._entries:
                    break
                head = self._entries[0]
                assert isinstance(head, Item)
                if isinstance(head.found, NewerSchema) or (isinstance(head.found, BadEvent) and not self._skip_bad):
                    raise head.found
                self._entries.popleft()
                self._count(head, -1)
                position = head.message.position
                self._handed_out[position.partition] = position.offset + 1
                if isinstance(head.found, BadEvent):
                    self.num_skipped += 1
                    where, why = str(position), head.found.detail
                    # In words as well: a program downstream may have set up no logging that shows fields.
                    log.warning("record_skipped: %s %s", where, why, extra={"position": where, "reason": why})
                    continue
                self.last = head.message
                return head
            if self._error is not None:
                raise self._error
            return Nothing.MORE if self._has_ended else Nothing.YET

    def wait(self) -> None:
        """Block until there is something to take."""
        with self._changed:
            while not self._entries and not self._has_ended:
                self._changed.wait()

    @property
    def places(self) -> dict[Partition, Place]:
        """How far was handed out."""
        with self._changed:
            self._catch_up()
            return {each: Place(offset, self._epochs[each]) for each, offset in self._handed_out.items()}

    def _catch_up(self) -> None:
        while self._entries and not isinstance(head := self._entries[0], Item):
            self._entries.popleft()
            self._handed_out[head[0]] = head[1]

    def _count(self, item: Item, sign: int) -> None:
        self._num_items += sign
        self._num_bytes += sign * item.message.num_bytes
