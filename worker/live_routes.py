"""`/live`: the page, its style and script, its events, and the pictures on it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
from aiohttp import web

from consumers import wire
from model.captions import OTHER_PAINT, PAINTS, Paint
from model.heatmap import colours
from worker.access import PAGE
from worker.live import LiveHub, Shown, TooManyWatchers, Watcher
from worker.live_rates import Figures, Rates
from worker.refusals import refuse

KEEPALIVE_SECONDS = 15.0
STEP_SECONDS = 1.0
"""How often figures are told, and how soon it is noticed that a watcher is gone."""
WRITE_SECONDS = 20.0
"""A watcher that takes nothing for so long is let go."""
RETRY_MS = 2000

_FOLDER = Path(__file__).with_name("live_page")
_TYPES = {"live.html": "text/html", "live.css": "text/css", "live.js": "text/javascript", "icon.svg": "image/svg+xml"}
_PALETTE = colours(np.linspace(0, 1, 256)).tolist()


class LivePage:
    """The part of the server that shows what the hub has."""

    def __init__(self, hub: LiveHub, rates: Rates) -> None:
        self._hub = hub
        self._rates = rates
        self._files = {name: (_FOLDER / name).read_bytes() for name in _TYPES}
        self._files["live.css"] += type_colours().encode()

    def add_to(self, app: web.Application) -> None:
        """Add the routes; a shutdown ends the streams."""
        app.router.add_get(PAGE, self._file("live.html"))
        for name in _TYPES.keys() - {"live.html"}:
            app.router.add_get(f"{PAGE}/{name}", self._file(name))
        app.router.add_get(f"{PAGE}/events", self._events, allow_head=False)
        app.router.add_get(f"{PAGE}/pictures/{{digest:[0-9a-f]{{64}}}}", self._picture)
        app.on_shutdown.append(self._end)

    async def _end(self, _app: web.Application) -> None:
        self._hub.close()

    def _file(self, name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(_request: web.Request) -> web.Response:
            return web.Response(body=self._files[name], content_type=_TYPES[name], charset="utf-8")

        return answer

    async def _picture(self, request: web.Request) -> web.Response:
        data = await self._hub.pictures.jpeg(request.match_info["digest"])
        if data is None:
            return refuse(404, "this picture isn't at hand, or not any more")
        return web.Response(body=data, content_type="image/jpeg")

    async def _events(self, request: web.Request) -> web.StreamResponse:
        try:
            watcher, last_posts = self._hub.join()
        except TooManyWatchers:
            return refuse(503, "too many pages are open already, or the worker stops", {"Retry-After": "5"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        try:
            await response.prepare(request)
            await self._stream(request, response, watcher, last_posts)
        except (ConnectionError, TimeoutError):
            # Gone, or asleep: what is in the socket's buffer isn't waited for.
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._hub.leave(watcher)
        return response

    async def _stream(
        self, request: web.Request, response: web.StreamResponse, watcher: Watcher, last_posts: Sequence[Shown]
    ) -> None:
        hello = {"ids": [shown.id for shown in last_posts], "types": list(PAINTS), "palette": _PALETTE}
        chunks = [b"retry: %d\n\n" % RETRY_MS, _event("hello", wire.dumps(hello)), *map(self._post, last_posts)]
        written_at, told = 0.0, Figures()
        while True:
            figures: Figures = {**self._rates.now(), "skipped": watcher.num_skipped(self._hub)}
            if figures != told:
                chunks.append(_event("rates", wire.dumps(figures)))
                told = figures
            if not chunks and time.monotonic() - written_at >= KEEPALIVE_SECONDS:
                chunks.append(b": still here\n\n")
            if chunks:
                async with asyncio.timeout(WRITE_SECONDS):
                    await response.write(b"".join(chunks))
                written_at = time.monotonic()
            if watcher.is_over or request.transport is None or request.transport.is_closing():
                return
            news = await watcher.take(STEP_SECONDS)
            chunks = [_event("gone", wire.dumps(news.gone))] if news.gone else []
            chunks += map(self._post, news.posts)

    def _post(self, shown: Shown) -> bytes:
        has_picture = b"true" if shown.digest in self._hub.pictures else b"false"
        return _event("post", b'{"has_picture":%s,"post":%s}' % (has_picture, shown.json))


def _event(name: str, data: bytes) -> bytes:
    """An event of the stream; JSON is one line, whatever is in it."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


def type_colours() -> str:
    """CSS: the project's colours of each type's names, by `data-type`."""

    def rules(ground: Callable[[Paint], str], ink: Callable[[Paint], str]) -> str:
        paints = [("[data-type]", OTHER_PAINT), *((f'[data-type="{name}"]', paint) for name, paint in PAINTS.items())]
        return "".join(
            f"{where} {{ --type-ground: {ground(paint)}; --type-ink: {ink(paint)}; }}\n" for where, paint in paints
        )

    light = rules(lambda paint: paint.ground, lambda paint: paint.ink)
    dark = rules(lambda paint: paint.dark_ground, lambda paint: paint.dark_ink)
    return f"{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"
