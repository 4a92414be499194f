"""Messages that a thread of its own reads, handed to asyncio in chunks."""

import asyncio
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

from consumers.source import Message

CHUNK_MESSAGES = 64
MAX_CHUNK_BYTES = 1024 * 1024


class Feed:
    """The messages of one generator, whose reading may block; two chunks wait at most."""

    def __init__(self, name: str, *, chunk_messages: int = CHUNK_MESSAGES) -> None:
        self._name = name
        self._chunk_messages = chunk_messages
        self._chunks: asyncio.Queue[Sequence[Message] | BaseException] = asyncio.Queue(2)
        self._stopped = threading.Event()
        self._stop_receiving = asyncio.Event()
        self._ended = False

    def start(self, messages: Generator[Message, None, None]) -> None:
        """Begin to read; the generator is closed at the end."""
        # Not a pool's thread: one that waits for standard input would keep the process from ending.
        threading.Thread(
            target=self._read,
            args=(messages, asyncio.get_running_loop()),
            name=self._name,
            daemon=True,
        ).start()

    async def receive(self) -> Sequence[Message]:
        """The next messages; empty at the end and after `stop`. Raises what the generator raised."""
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

    def stop(self) -> None:
        """Read no more."""
        self._stopped.set()
        self._stop_receiving.set()

    def _read(self, messages: Generator[Message, None, None], loop: asyncio.AbstractEventLoop) -> None:
        error: BaseException | None = None
        try:
            with closing(messages):
                for chunk in self._chunk_up(messages):
                    if not self._hand_over(chunk, loop):
                        return
        except BaseException as cause:
            # The thread's border: raised again from receive().
            error = cause
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
        chunk: list[Message] = []
        num_bytes = 0
        for message in messages:
            chunk.append(message)
            num_bytes += message.num_bytes
            if len(chunk) >= self._chunk_messages or num_bytes >= MAX_CHUNK_BYTES:
                yield tuple(chunk)
                chunk, num_bytes = [], 0
        if chunk:
            yield tuple(chunk)
