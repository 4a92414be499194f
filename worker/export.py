"""`nametag export`: the entity events of a time range, into a file. No torch in here.

1. The topic is read from the range's begin to its end, for the last event and the last tombstone of each post.
2. It is read again up to there, and what is neither taken back nor overtaken is written.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from consumers import wire
from consumers.entity_events import BlockingEntityEvents
from consumers.event_places import Start
from consumers.event_records import EventOrTombstone
from consumers.events import EntityEvent
from consumers.source import Message, Offsets
from model.errors import OutputError
from model.whole_file import check_writable, whole_file
from worker.downstream import events_of, kafka_of
from worker.export_choice import By, LastWords, Range
from worker.settings import KafkaTable


class _Target(Protocol):
    def write(self, event: EntityEvent, message: Message) -> None:
        """Add an event."""

    def close(self) -> None:
        """Complete the file."""

    def abandon(self) -> None:
        """Let go of the file, which isn't to be kept."""


@dataclass(slots=True, kw_only=True)
class Books:
    """What became of the events."""

    num_written: int = 0
    num_taken_back: int = 0
    num_overtaken: int = 0
    num_without_time: int = 0
    num_foreign: int = 0

    def __str__(self) -> str:
        told = [f"{self.num_written} event{'' if self.num_written == 1 else 's'} written"]
        told += [
            f"{num} {what}"
            for num, what in (
                (self.num_taken_back, "left out, whose posts were taken back"),
                (self.num_overtaken, "left out, which a later event of the post takes the place of"),
                (self.num_without_time, "left out, which have no such time"),
                (self.num_foreign, "records skipped, which are no events"),
            )
            if num
        ]
        return "; ".join(told)


def export(options: argparse.Namespace) -> None:
    """Write the file, and print what became of the events. Raises `OutputError`."""
    path: Path = options.out
    if path.exists() and not options.overwrite:
        raise OutputError(f"{path} is there already; name another, or say --overwrite")
    target_of = _target_of(path)
    check_writable(path)
    # Foreign records are counted, and not told one by one and twice.
    kafka = kafka_of(options, tells_skipped=False)
    books = Books()
    work = _Export(kafka, Range(since=options.since, until=options.until, by=By(options.by)), books)
    with LastWords.opened() as last, whole_file(path) as file:
        target = target_of(file)
        try:
            ends = work.survey(last)
            for event, message in work.chosen(last, ends, keep_all=options.all):
                target.write(event, message)
            target.close()
        except BaseException:
            target.abandon()
            raise
    print(f"{path}: {books}")


def _target_of(path: Path) -> Callable[[BinaryIO], _Target]:
    if path.suffix.lower() != ".parquet":
        return _JsonLines
    # Told now, and not after a long reading, where it isn't installed.
    from worker.export_tables import ParquetFile

    return ParquetFile


class _Export:
    def __init__(self, kafka: KafkaTable, wanted: Range, books: Books) -> None:
        self._kafka = kafka
        self._wanted = wanted
        self._books = books
        self._start: Start = "earliest"
        if wanted.by is By.PUBLISHED and wanted.since is not None:
            self._start = wanted.since

    def survey(self, last: LastWords) -> Offsets:
        """Note events in the range and all tombstones; gives back where the topic ended."""
        with events_of(self._kafka, start=self._start) as events:
            for record, message in _records(events):
                if not isinstance(record, EntityEvent) or self._wanted.holds(record, message):
                    last.note(record, message)
            self._books.num_foreign = events.num_skipped
            return events.offsets

    def chosen(self, last: LastWords, ends: Offsets, *, keep_all: bool) -> Iterator[tuple[EntityEvent, Message]]:
        """The events to write."""
        books = self._books
        with events_of(self._kafka, start=self._start) as events:
            for record, message in _records(events):
                partition, offset = message.position
                # What came since is nobody's survey.
                if not isinstance(record, EntityEvent) or offset >= ends.get(partition, 0):
                    continue
                is_within = self._wanted.holds(record, message)
                if is_within is None:
                    books.num_without_time += 1
                elif is_within and last.is_taken_back(record, message):
                    books.num_taken_back += 1
                elif is_within and not keep_all and last.is_overtaken(record, message):
                    books.num_overtaken += 1
                elif is_within:
                    books.num_written += 1
                    yield record, message


def _records(events: BlockingEntityEvents) -> Iterator[tuple[EventOrTombstone, Message]]:
    for record in events:
        assert events.message is not None
        yield record, events.message


class _JsonLines:
    """Each event as it stood on the topic, fields that we don't know included, and when it was put there."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, event: EntityEvent, message: Message) -> None:
        # Anew, for its bytes may hold line breaks.
        body = wire.loads(message.value or b"")
        if (at := message.timestamp_ms) is not None:
            body["published_at"] = datetime.fromtimestamp(at / 1000, UTC).isoformat()
        self._file.write(wire.dumps(body) + b"\n")

    def close(self) -> None:
        self._file.flush()

    def abandon(self) -> None:
        pass
