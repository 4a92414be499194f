"""The server's open connections: how many there may be, and how long each may keep the worker waiting.

aiohttp bounds neither the number nor the time of a header; who opens connections and sends nothing would take every
file descriptor. A full server closes the connection that has waited longest for its client, so that a probe or a
scraper that comes now is answered.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aiohttp import web

from worker.refusals import Handler, refuse

log = logging.getLogger("nametag.connections")

TELL_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """`header_seconds` are for a whole request header, from the connection or the header's first byte on.

    `idle_seconds` are between two requests, `write_seconds` for the client to take an answer. Bodies and streams have
    limits where they are read and written.
    """

    max_open: int = 256
    header_seconds: float = 10.0
    # Longer than scrapers pause, whose request would else meet the close.
    idle_seconds: float = 75.0
    write_seconds: float = 20.0


class Connections:
    """All that are open; called by asyncio for each new one."""

    def __init__(self, server: web.Server, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._server = server
        self._open: set[Connection] = set()
        self._told_at = float("-inf")

    def __call__(self) -> "Connection":
        return Connection(self, self._server)

    def add(self, connection: "Connection", now: float) -> None:
        """Take in a new one. If that is one too many, drop one that waits for its client, which may be the new one."""
        self._open.add(connection)
        if len(self._open) <= self.limits.max_open:
            return
        min((each for each in self._open if each.waits_for_client), key=lambda each: each.since).drop()
        if now - self._told_at >= TELL_SECONDS:
            self._told_at = now
            advice = "find out who opens them, and keep strangers from server.port"
            log.warning("connections_full", extra={"max_open": self.limits.max_open, "advice": advice})

    def discard(self, connection: "Connection") -> None:
        """Forget one that is closed."""
        self._open.discard(connection)


class Connection(web.RequestHandler):
    """aiohttp's protocol, with a clock on what it waits for."""

    def __init__(self, connections: Connections, server: web.Server) -> None:
        self._limits = connections.limits
        # What a stranger packed small stays so.
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=self._limits.idle_seconds,
            access_log=None,  # type: ignore[arg-type]  # as AppRunner takes it
            auto_decompress=False,
        )
        self.since = 0.0
        """When it began to wait for a header, or the worker to answer one; in asyncio's time."""
        self._connections = connections
        self._request: web.Request | None = None
        self._has_begun = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waits_for_client(self) -> bool:
        """Whether it is the client's turn: to send its request to the end, or to take the answer."""
        request = self._request
        return request is None or not request.content.is_eof() or self._wire.get_write_buffer_size() > 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first header."""
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        # aiohttp forgets its own while a last answer is still to be taken.
        self._wire = transport
        self._await_header()
        self._connections.add(self, self.since)

    def data_received(self, data: bytes) -> None:
        """Take a piece of a header, or of a body that is being read."""
        if self._request is None and not self._has_begun:
            self._await_header()
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is closed, by whomever."""
        self._set_timer(None)
        self._connections.discard(self)
        super().connection_lost(exc)

    @contextmanager
    def answering(self, request: web.Request) -> Iterator[None]:
        """From a whole header to the answer, which is written after that."""
        self._request = request
        self.since = self._loop.time()
        self._set_timer(None)
        try:
            yield
        finally:
            self._request = None
            self._has_begun = False
            self.since = self._loop.time()
            self._set_timer(self._limits.write_seconds)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer where a request can't be read, or a handler failed.

        Raises ConnectionError, on which aiohttp closes, where the client is gone or another answer has begun.
        """
        if isinstance(exc, ConnectionError):
            raise exc
        if status < 500:
            sentence = "this can't be read as a request of HTTP/1.1, or a line of its header is too long"
        else:
            log.error("request_failed", extra={"status": status}, exc_info=exc)
            sentence = "the worker failed on this request; its log says why"
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        response = refuse(status, sentence, {"Server": "nametag", "X-Content-Type-Options": "nosniff"})
        response.force_close()
        return response

    def drop(self) -> None:
        """Close at once, whatever is still to be sent."""
        self._connections.discard(self)
        self._wire.abort()

    def _await_header(self) -> None:
        self._has_begun = True
        self.since = self._loop.time()
        self._set_timer(self._limits.header_seconds)

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        # Else all was taken, and it is idle: aiohttp closes it in time.
        if self._has_begun or self._wire.get_write_buffer_size() > 0:
            self.drop()


@web.middleware
async def note_answering(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell the connection while its request is being answered; the outermost of all."""
    connection = request.protocol
    assert isinstance(connection, Connection)
    with connection.answering(request):
        return await handler(request)
