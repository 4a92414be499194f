"""Which events an export writes: in a time range, not taken back, and of a post the last."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

from consumers.deletes import Tombstone
from consumers.event_records import EventOrTombstone
from consumers.events import EntityEvent
from consumers.source import Message
from model.errors import OutputError

ROWS_AT_ONCE = 1000

_KEYS = {"events": "(id)", "tombstones": "(id, number)"}
"""Of tombstones the last on each partition: one may stand behind an event that the other comes before."""


class By(StrEnum):
    """Which of an event's times counts."""

    PUBLISHED = "published"
    TAGGED_AT = "tagged_at"
    CREATED_AT = "created_at"


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """From `since` on, and before `until`; without both, everything."""

    since: datetime | None = None
    until: datetime | None = None
    by: By = By.PUBLISHED

    def holds(self, event: EntityEvent, message: Message) -> bool | None:
        """Whether `event` is within; None where it has no such time, and the range has an end."""
        if self.since is None and self.until is None:
            return True
        if self.by is By.PUBLISHED:
            # In milliseconds, as the brokers compare: a moment finer than that is rounded.
            if (moment := message.timestamp_ms) is None:
                return None
            since, until = _milliseconds(self.since), _milliseconds(self.until)
            return (since is None or since <= moment) and (until is None or moment < until)
        at = event.tagged_at if self.by is By.TAGGED_AT else event.created_at
        if at is None:
            return None
        return (self.since is None or self.since <= at) and (self.until is None or at < self.until)


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


class LastWords:
    """The last event of each post, and its last tombstones, in a temporary file: memory doesn't grow with the topic.

    Of two records on one partition the one with the higher offset is later; on two, as after partitions were added,
    the one with the later timestamp.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._waiting: dict[str, list[tuple[bytes, int, int, int]]] = {"events": [], "tombstones": []}
        for table, key in _KEYS.items():
            columns = f"id BLOB, number INT, place INT, at INT, PRIMARY KEY {key}"
            database.execute(f"CREATE TABLE {table} ({columns}) WITHOUT ROWID")

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator[Self]:
        """None yet; the file goes at the end."""
        # SQLite's own temporary database: in memory at first, and removed by itself, after a kill too.
        with closing(sqlite3.connect("", isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode = OFF")
            try:
                yield cls(database)
            except sqlite3.Error as error:
                raise OutputError(
                    f"the temporary file of the ids can't be written ({error}); make room, or name a folder "
                    "with room in SQLITE_TMPDIR"
                ) from error

    def note(self, record: EventOrTombstone, message: Message) -> None:
        """Take in a record."""
        partition, offset = message.position
        table = "tombstones" if isinstance(record, Tombstone) else "events"
        waiting = self._waiting[table]
        waiting.append((_key(record.id), partition.number, offset, message.timestamp_ms or 0))
        if len(waiting) >= ROWS_AT_ONCE:
            self._write(table)

    def is_taken_back(self, event: EntityEvent, message: Message) -> bool:
        """Whether a tombstone of its post stands behind `event`, on whichever partition."""
        return any(_is_later(found, message) for found in self._find("tombstones", event.id))

    def is_overtaken(self, event: EntityEvent, message: Message) -> bool:
        """Whether another of the events that were noted is the last of its post."""
        here = message.position.partition.number, message.position.offset
        return any(found[:2] != here for found in self._find("events", event.id))

    def _find(self, table: str, post_id: str) -> list[tuple[int, int, int]]:
        if self._waiting[table]:
            self._write(table)
        found = self._database.execute(f"SELECT number, place, at FROM {table} WHERE id = ?", (_key(post_id),))
        return found.fetchall()

    def _write(self, table: str) -> None:
        self._database.execute("BEGIN")
        self._database.executemany(
            f"INSERT INTO {table} VALUES (?, ?, ?, ?) ON CONFLICT {_KEYS[table]} DO UPDATE SET "
            "number = excluded.number, place = excluded.place, at = excluded.at WHERE "
            "CASE WHEN excluded.number = number THEN excluded.place > place ELSE excluded.at > at END",
            self._waiting[table],
        )
        self._database.execute("COMMIT")
        self._waiting[table].clear()


def _is_later(found: tuple[int, int, int], message: Message) -> bool:
    number, place, at = found
    if number == message.position.partition.number:
        return place > message.position.offset
    return at >= (message.timestamp_ms or 0)


def _key(post_id: str) -> bytes:
    return post_id.encode("utf-8", "surrogatepass")
