"""Where events, tombstones and dead letters go: the protocol that every sink keeps, and the sink of JSONL files."""

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from consumers.dead_letters import DeadLetter
from consumers.deletes import Tombstone
from consumers.events import EntityEvent
from consumers.source import Message, Offsets
from worker.errors import SinkUnavailable
from worker.tracing import NO_TRACE, PostTrace

Outcome = EntityEvent | Tombstone | DeadLetter
"""What goes out for a message."""


class Passed(StrEnum):
    """Why nothing goes out for a message."""

    SUPPRESSED = "suppressed"
    """A post that was deleted before it was published."""
    NOTICE = "notice"
    """A notice of a stream, which is about no single post."""


class Arrival(NamedTuple):
    """A message, the `number`th that came. One that is read again has another number, and the same position."""

    message: Message
    number: int

    def is_before(self, other: "Arrival") -> bool:
        """Whether it stands before `other`, or, in another partition, came before it."""
        position, others = self.message.position, other.message.position
        if position.partition == others.partition:
            return position.offset < others.offset
        return self.number < other.number


class Finished(NamedTuple):
    """What becomes of a message, how it came, the ids of the post that it may have been, and its trace."""

    fate: Outcome | Passed
    arrival: Arrival
    post_ids: tuple[str, ...] = ()
    trace: PostTrace = NO_TRACE


class EventSink(Protocol):
    """Takes outcomes, each partition's in order."""

    @property
    def commits_offsets(self) -> bool:
        """Whether `publish` commits the offsets itself, together with the outcomes."""

    async def start(self) -> None:
        """Get ready. Raises `SinkUnavailable` with what was tried and what to do."""

    async def publish(self, outcomes: Sequence[Outcome], offsets: Offsets, membership: object) -> None:
        """Publish `outcomes`; they are safe when this returns.

        `membership` is the source's, as it was before the outcomes were chosen. Raises
        `PublishAborted`, `PublishUnsettled` or `SinkUnavailable`.
        """

    async def close(self) -> None:
        """Let go of files and connections."""


class JsonlSink:
    """Writes events and tombstones to one JSONL file and dead letters to another; `-` is standard output."""

    commits_offsets = False

    def __init__(self, events: str, dead_letters: str) -> None:
        self._paths = (events, dead_letters)
        self._files: list[BinaryIO] = []

    async def start(self) -> None:
        """Open the files. Raises `SinkUnavailable` where one can't be written."""
        for path in self._paths:
            self._files.append(await asyncio.to_thread(_open, path))

    async def publish(self, outcomes: Sequence[Outcome], offsets: Offsets, membership: object) -> None:
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
                file = dead_letters if isinstance(outcome, DeadLetter) else events
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
        raise SinkUnavailable(f"{path} can't be written ({error.strerror}); name another file") from error
