"""`POST /tag`: one post in, its entity event out, in a batch with those of the stream.

The post goes by the same guard and limits, and leaves no trace on a topic, in the ledger or in the books of deletes.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import count

from aiohttp import web

from consumers.errors import BadMessage, Reason
from consumers.events import EntityEvent
from consumers.posts import Post, read_message
from consumers.source import Message, Partition, Position
from worker.errors import TaggerBroken, TaggingFailed
from worker.metrics import Metrics
from worker.refusals import refuse

log = logging.getLogger("nametag.tag_one")

PATH = "/tag"
PLACE = Partition(PATH, 0)
"""Where such posts stand, as their events say: no topic of Kafka can have this name."""

_STATUSES = {Reason.EMPTY: 400, Reason.NOT_JSON: 400, Reason.TOO_LARGE: 413}


class TagOutcome(StrEnum):
    """What became of a request, for the books."""

    TAGGED = "tagged"
    REFUSED = "refused"
    """The sender's to mend: what was sent is no post, or came too slowly."""
    BUSY = "busy"
    UNAVAILABLE = "unavailable"
    """The worker starts or stops, or had no answer in time."""
    FAILED = "failed"
    GONE = "gone"
    """The client left before it had all sent."""


_OUTCOMES = {200: TagOutcome.TAGGED, 429: TagOutcome.BUSY, 500: TagOutcome.FAILED, 503: TagOutcome.UNAVAILABLE}

_STOPPING = "the worker isn't tagging just now: it starts, or it stops"


@dataclass(frozen=True, slots=True, kw_only=True)
class TagOneConfig:
    """How much is taken in, and how long it may take."""

    max_post_bytes: int = 256 * 1024
    max_at_a_time: int = 16
    body_seconds: float = 10.0
    answer_seconds: float = 30.0


class TagOne:
    """Answers `POST /tag`. `tag` is the pipeline's, and `is_open` says whether it would answer."""

    def __init__(
        self,
        tag: Callable[[Post, Message], Awaitable[EntityEvent]],
        is_open: Callable[[], bool],
        metrics: Metrics,
        config: TagOneConfig | None = None,
    ) -> None:
        self._tag = tag
        self._is_open = is_open
        self._metrics = metrics
        for outcome in TagOutcome:
            metrics.tag_requests.labels(outcome)
        self._config = config or TagOneConfig()
        self._num_under_way = 0
        self._work: set[asyncio.Task[EntityEvent]] = set()
        self._numbers = count()

    def add_to(self, app: web.Application) -> None:
        """Add the route; what is under way when the server ends is told so."""
        app.router.add_post(PATH, self._answer)
        app.on_shutdown.append(self._end)

    async def _end(self, _app: web.Application) -> None:
        for work in self._work:
            work.cancel()

    async def _answer(self, request: web.Request) -> web.Response:
        start = time.perf_counter()
        outcome = TagOutcome.FAILED
        try:
            response = await self._answer_or_refuse(request)
            outcome = _OUTCOMES.get(response.status, TagOutcome.REFUSED)
            return response
        except (ConnectionError, asyncio.CancelledError):
            outcome = TagOutcome.GONE
            raise
        finally:
            self._metrics.tag_requests.labels(outcome).inc()
            if outcome is TagOutcome.TAGGED:
                self._metrics.tag_seconds.observe(time.perf_counter() - start)

    async def _answer_or_refuse(self, request: web.Request) -> web.Response:
        if not self._is_open():
            return refuse(503, _STOPPING, {"Retry-After": "5"})
        if self._num_under_way >= self._config.max_at_a_time:
            sentence = f"{self._config.max_at_a_time} posts are under way already; try again in a second"
            return refuse(429, sentence, {"Retry-After": "1"})
        self._num_under_way += 1
        try:
            body = await self._read(request)
            return body if isinstance(body, web.Response) else await self._tag_body(body)
        finally:
            self._num_under_way -= 1

    async def _read(self, request: web.Request) -> bytes | web.Response:
        """The body, or why it isn't read."""
        if request.content_type != "application/json":
            return refuse(415, "send the post as JSON, with Content-Type: application/json")
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            return refuse(415, "send the post as it is, without a Content-Encoding")
        max_bytes = self._config.max_post_bytes
        too_large = f"the post exceeds the limit of {max_bytes} bytes (max_post_bytes)"
        if (request.content_length or 0) > max_bytes:
            return refuse(413, too_large)
        data = bytearray()
        try:
            async with asyncio.timeout(self._config.body_seconds):
                async for chunk in request.content.iter_any():
                    data += chunk
                    if len(data) > max_bytes:
                        return refuse(413, too_large)
        except TimeoutError:
            return refuse(408, f"the post didn't come within {self._config.body_seconds:g} seconds")
        return bytes(data)

    async def _tag_body(self, body: bytes) -> web.Response:
        message = Message(position=Position(PLACE, next(self._numbers)), value=body)
        try:
            post = read_message(message, max_bytes=self._config.max_post_bytes)
            if not isinstance(post, Post):
                return refuse(422, "that is a delete or a notice, and no post")
            event = await self._event(post, message)
        except BadMessage as error:
            return refuse(_STATUSES.get(error.reason, 422), str(error))
        except (TaggingFailed, TaggerBroken):
            # Not in its own words, which may be the model's about the post.
            return refuse(500, "the tagger failed on this post, though not on others")
        except TimeoutError:
            return refuse(503, f"no answer within {self._config.answer_seconds:g} seconds", {"Retry-After": "5"})
        if event is None:
            return refuse(503, _STOPPING, {"Retry-After": "5"})
        return web.Response(body=event.to_json(), content_type="application/json")

    async def _event(self, post: Post, message: Message) -> EntityEvent | None:
        """The post's event; None where the worker stops before there is one."""
        work = asyncio.ensure_future(self._tag(post, message))
        self._work.add(work)
        try:
            done, _ = await asyncio.wait({work}, timeout=self._config.answer_seconds)
            if not done:
                raise TimeoutError
            return None if work.cancelled() else work.result()
        finally:
            self._work.discard(work)
            work.cancel()
