"""The worker's own HTTP server: /metrics, /healthz and /readyz."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from worker.errors import SettingsError
from worker.metrics import Metrics

CLOSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where the server listens: on loopback unless told otherwise. Port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 9464


@asynccontextmanager
async def serve(config: ServerConfig, metrics: Metrics, is_ready: Callable[[], bool]) -> AsyncIterator[str]:
    """Serve while the context is open; gives the address. Raises `SettingsError` where the port is taken."""

    async def render_metrics(_request: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def health(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readiness(_request: web.Request) -> web.Response:
        return web.Response(text="ready\n") if is_ready() else web.Response(text="not ready\n", status=503)

    app = web.Application()
    app.router.add_get("/metrics", render_metrics)
    app.router.add_get("/healthz", health)
    app.router.add_get("/readyz", readiness)
    # A scraper that keeps its connection open doesn't hold up a shutdown.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.host, config.port)
        try:
            await site.start()
        except OSError as error:
            raise SettingsError(
                f"{config.host}:{config.port} can't be listened on ({error.strerror}); set server.port "
                "to a free one, or to 0"
            ) from error
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()
