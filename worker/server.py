"""The worker's own HTTP server: /metrics, /healthz and /readyz for all, and behind `Access` what else is given."""

import asyncio
import ipaddress
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

from worker.access import Access
from worker.connections import ConnectionLimits, Connections, note_answering
from worker.errors import SettingsError
from worker.metrics import Metrics
from worker.refusals import in_one_shape

log = logging.getLogger("nametag.server")

CLOSE_SECONDS = 1.0
MAX_FORM_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where the server listens: on loopback unless told otherwise. Port 0 takes a free one.

    With a token, all but health and metrics is for its holders.
    """

    host: str = "127.0.0.1"
    port: int = 9464
    token: str | None = field(default=None, repr=False)
    limits: ConnectionLimits = ConnectionLimits()


class Answers(Protocol):
    """A part of the server."""

    def add_to(self, app: web.Application) -> None:
        """Add its routes, and what ends it when the server ends."""


@asynccontextmanager
async def serve(
    config: ServerConfig, metrics: Metrics, unready: Callable[[], str | None], parts: Sequence[Answers] = ()
) -> AsyncIterator[str]:
    """Serve while the context is open; gives the address. `unready` says why the worker isn't ready, None where it is.

    Raises `SettingsError` where the port is taken.
    """
    app = web.Application(client_max_size=MAX_FORM_BYTES, middlewares=[note_answering, in_one_shape])
    Access(config.token, config.host).add_to(app)
    _add_health(app, metrics, unready)
    for part in parts:
        part.add_to(app)
    # A scraper that keeps its connection open doesn't hold up a shutdown.
    runner = web.AppRunner(app, shutdown_timeout=CLOSE_SECONDS)
    await runner.setup()
    assert runner.server is not None
    try:
        connections = Connections(runner.server, config.limits)
        try:
            # aiohttp's own sites have no place for a protocol of ours.
            listening = await asyncio.get_running_loop().create_server(connections, config.host, config.port)
        except OSError as error:
            raise SettingsError(
                f"{config.host}:{config.port} can't be listened on ({error.strerror}); set server.port "
                "to a free one, or to 0"
            ) from error
        try:
            host, port = listening.sockets[0].getsockname()[:2]
            if parts and config.token is None and not ipaddress.ip_address(host).is_loopback:
                log.warning("server_open", extra={"host": host, "advice": "set server.token: posts can be read here"})
            yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        finally:
            listening.close()
    finally:
        await runner.cleanup()


def _add_health(app: web.Application, metrics: Metrics, unready: Callable[[], str | None]) -> None:
    async def render_metrics(_request: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def health(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readiness(_request: web.Request) -> web.Response:
        reason = unready()
        if reason is None:
            return web.Response(text="ready\n")
        return web.Response(text=f"not ready: {reason}\n", status=503)

    app.router.add_get("/metrics", render_metrics)
    app.router.add_get("/healthz", health)
    app.router.add_get("/readyz", readiness)
