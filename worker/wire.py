"""What an answer may cost to read, whatever of it is picture.

aiohttp reads answers in the event loop, which all posts share, and has limits for a head and none for the rest: a
host can send interim answers (103 Early Hints) without end, chunks of a byte, or segments of a byte, and each read
of the socket keeps the loop for as long as a quarter of a megabyte of those takes. None of the timeouts sees it.
"""

import asyncio
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

_PIECE = 8 * 1024
_MAX_INTERIM = 8
_MAX_HEAD_BYTES = 256 * 1024  # far above a head by aiohttp's own limits, which tell more
_FREE_BYTES = 32 * 1024
_MOST_AROUND = 1 / 16  # of the body's bytes: chunks of a hundred bytes or more
_FREE_READS = 2048
_LEAST_READ = 256


class TooMuchWork(aiohttp.ClientPayloadError):
    """Raised when an answer is more work to read than its bytes are worth."""


class WatchedProtocol(ResponseHandler):
    """Feeds the parser in small pieces, counts what they cost, and breaks off where that is too much.

    The counts are of one answer: interim ones, bytes before the body, bytes around the body's (the sizes of
    chunks, their extensions, trailers, what follows the end), and reads of the socket.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._body: aiohttp.StreamReader | None = None
        self._code: int | None = None
        self._rest = b""
        self._forget()

    def set_response_params(self, **params: Any) -> None:
        """Begin a new answer."""
        self._forget()
        super().set_response_params(**params)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take an answer's head from the parser."""
        message, body = data
        if 100 <= message.code <= 199 and message.code != 101:
            self._num_interim += 1
        else:
            self._num_answers += 1
            self._body = body
            self._code = message.code
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless that is too much work. Nothing came where reading goes on after a pause."""
        if data:
            self._num_reads += 1
        else:
            super().data_received(data)
        data, self._rest = self._rest + data, b""
        for start in range(0, len(data), _PIECE):
            if self._reading_paused:  # till the body has been taken; it calls with nothing then
                self._rest = data[start:]
                return
            self._parse(data[start : start + _PIECE])
            if self.transport is None or self.transport.is_closing():
                return
            if self._is_too_much_work():
                self._break_off()
                return

    def connection_lost(self, error: BaseException | None) -> None:
        """Parse what is left: nobody calls any more. TLS may end while reading pauses."""
        rest, self._rest = self._rest, b""
        if rest:
            super().data_received(rest)
        super().connection_lost(error)

    @property
    def should_close(self) -> bool:
        """Whether no other answer may come this way. A host without the picture is seldom asked for more."""
        return self._code not in (None, 200) or bool(self._rest) or super().should_close

    def _parse(self, piece: bytes) -> None:
        if self._body is None:
            self._head_bytes += len(piece)
        else:
            self._body_bytes += len(piece)
        super().data_received(piece)

    def _is_too_much_work(self) -> bool:
        if self._num_interim > _MAX_INTERIM or self._num_answers > 1 or self._head_bytes > _MAX_HEAD_BYTES:
            return True
        told = 0 if self._body is None else self._body.total_bytes
        if self._body_bytes - told > _FREE_BYTES + told * _MOST_AROUND:
            return True
        return self._num_reads > _FREE_READS + (self._head_bytes + self._body_bytes) / _LEAST_READ

    def _break_off(self) -> None:
        error = TooMuchWork("more work to read than it is worth")
        if self._body is not None:
            self._body.set_exception(error)
        self.set_exception(error)
        if self.transport is not None:
            self.transport.abort()

    def _forget(self) -> None:
        self._num_interim = self._num_answers = self._num_reads = 0
        self._head_bytes = self._body_bytes = 0
        self._body = self._code = None
        self._rest = b""


class WatchedConnector(aiohttp.TCPConnector):
    """Makes connections whose answers are watched, and keeps `max_idle` of them at most for the next request.

    Whoever posts URLs chooses how many hosts there are, and the files that a process may have open are few.
    """

    def __init__(self, *, max_idle: int, **options: Any) -> None:
        super().__init__(**options)
        self._max_idle = max_idle
        # aiohttp has no other way to say which protocol reads; tests/unit/test_hostile_host.py sees that it holds.
        self._factory = partial(WatchedProtocol, loop=self._loop)  # type: ignore[assignment]

    def _release(self, key: Any, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        # aiohttp's limits are of all connections, and would have those that are in use wait.
        is_full = sum(map(len, self._conns.values())) >= self._max_idle
        super()._release(key, protocol, should_close=should_close or is_full)
