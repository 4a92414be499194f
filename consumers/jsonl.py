"""Posts from a file of JSON lines, or from standard input."""

import asyncio
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from consumers.errors import SourceUnavailable
from consumers.feed import CHUNK_MESSAGES, Feed
from consumers.source import Message, Offsets, Partition, Position, RevokeListener


class JsonlSource:
    """The lines of `path` (`-`: standard input) as the only partition of a topic of that name.

    A line beyond `max_line_bytes` comes as its first `max_line_bytes + 1` bytes, so that whoever
    checks its size refuses it; the rest is never held. Blank lines are skipped, but counted.
    """

    def __init__(self, path: str | Path, *, max_line_bytes: int = 1024 * 1024) -> None:
        if max_line_bytes < 1:
            raise ValueError(f"max_line_bytes is {max_line_bytes}; it must be at least 1")
        self._path = str(path)
        self._max_line_bytes = max_line_bytes
        self._partition = Partition("stdin" if self._path == "-" else Path(self._path).name, 0)
        # From a pipe each post counts at once: a chunk would hold it back until others come.
        self._feed = Feed("jsonl-reader", chunk_messages=1 if self._path == "-" else CHUNK_MESSAGES)
        self.committed = 0

    async def start(self, on_revoke: RevokeListener) -> None:
        """Open the file. Raises `SourceUnavailable` where it can't be read. Nothing is ever revoked."""
        self._feed.start(self._messages(await asyncio.to_thread(self._open)))

    @property
    def unready(self) -> None:
        """None: a file that opens can be read."""
        return None

    @property
    def backlog(self) -> Mapping[Partition, int]:
        """Empty: a file tells only at its end how long it was."""
        return {}

    @property
    def membership(self) -> None:
        """None: a file has no group."""

    async def rewind(self, forget: Callable[[], None]) -> None:
        """Raises `SourceUnavailable`: a pipe can't be read twice, and a file's sink never asks for it."""
        raise SourceUnavailable(f"{self._path} can't be read again from the middle; start again from its beginning")

    async def receive(self) -> Sequence[Message]:
        """The next lines; empty at the end of the file and after `stop_intake`."""
        return await self._feed.receive()

    async def commit(self, offsets: Offsets) -> None:
        """Keep the offset for this process alone: a file is read from its beginning each time."""
        self.committed = max(self.committed, offsets.get(self._partition, 0))

    async def stop_intake(self) -> None:
        """Read no more."""
        self._feed.stop()

    async def close(self) -> None:
        """Let go of the file."""
        await self.stop_intake()

    def _open(self) -> BinaryIO:
        if self._path == "-":
            return sys.stdin.buffer
        try:
            return Path(self._path).open("rb")
        except OSError as error:
            raise SourceUnavailable(
                f"{self._path} can't be read ({error.strerror}); name another file, or - for standard input"
            ) from error

    def _messages(self, file: BinaryIO) -> Generator[Message, None, None]:
        try:
            yield from self._lines(file)
        except OSError as error:
            raise SourceUnavailable(f"reading {self._path} failed ({error.strerror}); read it again") from error
        finally:
            if file is not sys.stdin.buffer:
                file.close()

    def _lines(self, file: BinaryIO) -> Generator[Message, None, None]:
        # One more than the limit shows that it was passed, two more leave room for CR and LF.
        limit = self._max_line_bytes
        number = 0
        while line := file.readline(limit + 2):
            whole = line
            while not whole.endswith(b"\n") and (whole := file.readline(limit + 2)):
                pass
            value = line.removesuffix(b"\n").removesuffix(b"\r")[: limit + 1]
            if value.strip():
                yield Message(position=Position(self._partition, number), value=value)
            number += 1
