"""Posts from a file of JSON lines, or from standard input."""

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from consumers.errors import SourceUnavailable
from consumers.source import Message, Offsets, Partition, Position, RevokeListener

CHUNK_LINES = 64
MAX_CHUNK_BYTES = 1024 * 1024


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
        self._chunks: asyncio.Queue[Sequence[Message] | BaseException] = asyncio.Queue(2)
        self._stopped = threading.Event()
        self._stop_receiving = asyncio.Event()
        self._ended = False
        self.committed = 0

    async def start(self, on_revoke: RevokeListener) -> None:
        """Open the file. Raises `SourceUnavailable` where it can't be read. Nothing is ever revoked."""
        file = await asyncio.to_thread(self._open)
        # Not a pool's thread: one that waits for standard input would keep the process from ending.
        threading.Thread(
            target=self._read,
            args=(file, asyncio.get_running_loop()),
            name="jsonl-reader",
            daemon=True,
        ).start()

    @property
    def is_ready(self) -> bool:
        """True: a file that opens can be read."""
        return True

    @property
    def membership(self) -> None:
        """None: a file has no group."""

    async def rewind(self, forget: Callable[[], None]) -> None:
        """Raises `SourceUnavailable`: a pipe can't be read twice, and a file's sink never asks for it."""
        raise SourceUnavailable(f"{self._path} can't be read again from the middle; start again from its beginning")

    async def receive(self) -> Sequence[Message]:
        """The next lines; empty at the end of the file and after `stop_intake`."""
        if self._ended or self._stop_receiving.is_set():
            return ()
        arrival = asyncio.create_task(self._chunks.get())
        stop = asyncio.create_task(self._stop_receiving.wait())
        try:
            await asyncio.wait({arrival, stop}, return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                return ()
            chunk = arrival.result()
        finally:
            arrival.cancel()
            stop.cancel()
        if isinstance(chunk, BaseException):
            self._ended = True
            raise chunk
        self._ended = not chunk
        return chunk

    async def commit(self, offsets: Offsets) -> None:
        """Keep the offset for this process alone: a file is read from its beginning each time."""
        self.committed = max(self.committed, offsets.get(self._partition, 0))

    async def stop_intake(self) -> None:
        """Read no more."""
        self._stopped.set()
        self._stop_receiving.set()

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

    def _read(self, file: BinaryIO, loop: asyncio.AbstractEventLoop) -> None:
        error: BaseException | None = None
        try:
            for chunk in self._chunk_up(self._lines(file)):
                if not self._hand_over(chunk, loop):
                    return
        except OSError as cause:
            error = SourceUnavailable(f"reading {self._path} failed ({cause.strerror}); read it again")
            error.__cause__ = cause
        except BaseException as cause:
            # The thread's border: raised again from receive().
            error = cause
        finally:
            if file is not sys.stdin.buffer:
                file.close()
        self._hand_over(error or (), loop)

    def _hand_over(self, chunk: Sequence[Message] | BaseException, loop: asyncio.AbstractEventLoop) -> bool:
        """Wait for room, then put; false where nobody takes it any more."""
        putting = self._chunks.put(chunk)
        try:
            put = asyncio.run_coroutine_threadsafe(putting, loop)
        except RuntimeError:
            putting.close()
            return False
        while not self._stopped.is_set():
            try:
                put.result(timeout=0.1)
            except TimeoutError:
                if loop.is_closed():
                    return False
            else:
                return True
        put.cancel()
        return False

    def _chunk_up(self, messages: Iterator[Message]) -> Iterator[Sequence[Message]]:
        # From a pipe each post counts at once: a chunk would hold it back until others come.
        most = 1 if self._path == "-" else CHUNK_LINES
        chunk: list[Message] = []
        num_bytes = 0
        for message in messages:
            chunk.append(message)
            num_bytes += message.num_bytes
            if len(chunk) >= most or num_bytes >= MAX_CHUNK_BYTES:
                yield tuple(chunk)
                chunk, num_bytes = [], 0
        if chunk:
            yield tuple(chunk)

    def _lines(self, file: BinaryIO) -> Iterator[Message]:
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
