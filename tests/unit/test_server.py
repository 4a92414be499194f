"""The worker's own server."""

import asyncio
import socket

import aiohttp
import pytest

from worker.errors import SettingsError
from worker.metrics import Metrics
from worker.server import ServerConfig, serve


def test_health_readiness_and_metrics() -> None:
    """/healthz is always ok, /readyz follows the pipeline, /metrics is what Prometheus reads."""
    ready = False
    metrics = Metrics()
    metrics.posts.labels("event").inc(3)

    async def scenario() -> None:
        nonlocal ready
        async with (
            serve(ServerConfig(port=0), metrics, lambda: ready) as address,
            aiohttp.ClientSession(address) as client,
        ):
            assert (await client.get("/healthz")).status == 200
            assert (await client.get("/readyz")).status == 503
            ready = True
            assert (await client.get("/readyz")).status == 200
            told = await (await client.get("/metrics")).text()
        assert 'nametag_posts_total{outcome="event"} 3.0' in told

    asyncio.run(scenario())


def test_a_taken_port_is_said() -> None:
    """A port in use ends in a sentence that names it and the setting."""

    async def scenario() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(SettingsError, match=rf"{port}.*server\.port"):
                async with serve(ServerConfig(port=port), Metrics(), lambda: True):
                    pass

    asyncio.run(scenario())
