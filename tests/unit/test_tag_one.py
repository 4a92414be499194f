"""`POST /tag`: what is answered to a post, and to what is none."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from consumers.errors import BadMessage, Reason
from consumers.events import CheckpointName, EntityEvent, ImageReport, Scissors
from consumers.image_status import ImageStatus
from consumers.posts import Post
from consumers.source import Message
from consumers.wire import PositionReport
from worker.errors import TaggingFailed
from worker.metrics import Metrics
from worker.server import ServerConfig, serve
from worker.tag_one import TagOne, TagOneConfig

POST = {"id": "17", "text": "Anna is here"}


class World:
    """`/tag` on a stand-in for the pipeline, and a client of it."""

    def __init__(self, client: aiohttp.ClientSession, metrics: Metrics, place: tuple[str, int]) -> None:
        self.client = client
        self.metrics = metrics
        self.place = place
        self.is_open = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = asyncio.Semaphore(0)
        self.error: Exception | None = None

    async def tag(self, post: Post, message: Message) -> EntityEvent:
        self.waiting.release()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return EntityEvent(
            id=post.id,
            tagged_at=datetime.now(UTC),
            text=post.text,
            entities=(Scissors(post.text).cut(type="PER", start=0, end=4, confidence=0.9),),
            image=ImageReport(status=ImageStatus.NONE),
            checkpoint=CheckpointName(id="c", variant="attention_gate"),
            position=PositionReport.of(message.position),
        )

    async def send(self, data: object = POST, **options: Any) -> tuple[int, Any]:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        async with self.client.post("/tag", data=body, headers=headers, **options) as response:
            assert response.content_type == "application/json"
            return response.status, await response.json()

    def counted(self) -> dict[str, float]:
        """Requests by outcome, of those that there were."""
        samples = [each for family in self.metrics.registry.collect() for each in family.samples]
        found = {each.labels["outcome"]: each.value for each in samples if each.name == "nametag_tag_requests_total"}
        assert found.keys() == {"tagged", "refused", "busy", "unavailable", "failed", "gone"}
        return {outcome: value for outcome, value in found.items() if value}


@asynccontextmanager
async def world(**config: Any) -> Any:
    async with asyncio.timeout(20):
        here: World
        metrics = Metrics()
        answers = TagOne(
            lambda post, message: here.tag(post, message), lambda: here.is_open, metrics, TagOneConfig(**config)
        )
        async with (
            serve(ServerConfig(port=0), metrics, lambda: None, [answers]) as address,
            aiohttp.ClientSession(address) as client,
        ):
            where = urlsplit(address)
            here = World(client, metrics, (where.hostname or "", where.port or 0))
            yield here


def run(scenario: Callable[[World], Awaitable[None]], **config: Any) -> None:
    async def whole() -> None:
        async with world(**config) as here:
            await scenario(here)

    asyncio.run(whole())


def test_a_post_is_answered_with_its_event() -> None:
    """The event is one that readers of the topic take, and says that it stands on no topic."""

    async def scenario(here: World) -> None:
        status, body = await here.send()
        assert status == 200
        event = EntityEvent.from_json(json.dumps(body).encode())
        assert (event.id, event.entities[0].text, event.position.topic) == ("17", "Anna", "/tag")
        _, second = await here.send()
        assert second["position"]["offset"] == 1

    run(scenario)


@pytest.mark.parametrize(
    ("data", "status", "told"),
    [
        (b"", 400, "no JSON"),
        (b"{", 400, "no JSON"),
        ([], 422, "no JSON object"),
        ({"id": "1"}, 422, "no text"),
        ({"text": "a"}, 422, "no id"),
        ({"id": "1", "text": 3}, 422, "must be a string"),
        ({"delete": {"status": {"id_str": "1"}}}, 422, "no post"),
        ({"limit": {"track": 3}}, 422, "no post"),
        ({"id": "1", "text": "a" * 300}, 413, "max_post_bytes"),
    ],
)
def test_what_is_no_post_is_refused_in_a_sentence(data: object, status: int, told: str) -> None:
    """A status of the client's, and one sentence that says what is wrong."""

    async def scenario(here: World) -> None:
        got, body = await here.send(data)
        assert got == status
        assert list(body) == ["error"]
        assert told in body["error"]
        assert here.waiting.locked()

    run(scenario, max_post_bytes=200)


def test_errors_of_the_pipeline_have_their_status() -> None:
    """Too many tokens are the sender's to mend; a post that breaks the model isn't, and isn't quoted."""

    async def scenario(here: World) -> None:
        here.error = BadMessage(Reason.TOO_LARGE, "the post has 9 tokens; the limit is 5 (max_post_tokens)")
        assert await here.send() == (413, {"error": str(here.error)})
        here.error = TaggingFailed("RuntimeError('SECRET words')")
        status, body = await here.send()
        assert status == 500
        assert "SECRET" not in body["error"]

    run(scenario)


def test_only_json_as_it_is_is_read() -> None:
    """A form's types could come from any page, and what is packed could be a bomb."""

    async def scenario(here: World) -> None:
        for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):
            assert (await here.send(headers=headers))[0] == 415
        assert (await here.send(headers={"Content-Encoding": "gzip"}))[0] == 415

    run(scenario)


def test_a_body_without_an_end_is_cut() -> None:
    """Chunks past the limit are not kept, whatever length was told; one that stalls or drips is given up."""

    async def endless() -> Any:
        while True:
            yield b" " * 100
            await asyncio.sleep(0)

    async def stalled() -> Any:
        yield b"{"
        await asyncio.sleep(15)

    async def dripping() -> Any:
        while True:
            yield b" "
            await asyncio.sleep(0.02)

    async def scenario(here: World) -> None:
        headers = {"Content-Type": "application/json"}
        async with here.client.post("/tag", data=endless(), headers=headers) as response:
            assert response.status == 413
        for late in (stalled(), dripping()):
            async with here.client.post("/tag", data=late, headers=headers) as response:
                assert response.status == 408

    run(scenario, max_post_bytes=1000, body_seconds=0.2)


def test_no_more_at_a_time_than_are_let_in() -> None:
    """Beyond them it is 429 with when to try again; and a place is given back when its post is done."""

    async def scenario(here: World) -> None:
        here.gate.clear()
        first = [asyncio.create_task(here.send()) for _ in range(2)]
        for _ in first:
            await here.waiting.acquire()
        async with here.client.post("/tag", json=POST) as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "1"
            assert "2 posts" in (await response.json())["error"]
        here.gate.set()
        assert [status for status, _ in await asyncio.gather(*first)] == [200, 200]
        assert (await here.send())[0] == 200

    run(scenario, max_at_a_time=2)


def test_a_worker_that_stops_says_so() -> None:
    """503 from when the stop comes."""

    async def scenario(here: World) -> None:
        here.is_open = False
        async with here.client.post("/tag", json=POST) as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "5"

    run(scenario)


def test_what_is_under_way_when_the_server_ends_is_told() -> None:
    """The client has its 503, and the server ends at once."""

    async def scenario() -> None:
        async with aiohttp.ClientSession() as client:
            stay = asyncio.Event()

            async def hang(_post: Post, _message: Message) -> EntityEvent:
                stay.set()
                await asyncio.sleep(15)
                raise AssertionError

            async with serve(
                ServerConfig(port=0), Metrics(), lambda: None, [TagOne(hang, lambda: True, Metrics())]
            ) as address:
                asked = asyncio.create_task(client.post(f"{address}/tag", json=POST))
                await stay.wait()
                start = asyncio.get_running_loop().time()
            assert asyncio.get_running_loop().time() - start < 2
            assert (await asked).status == 503

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_post_that_takes_too_long_is_given_up() -> None:
    """Nobody waits for longer than is told."""

    async def scenario(here: World) -> None:
        here.gate.clear()
        assert (await here.send())[0] == 503

    run(scenario, answer_seconds=0.1)


def test_each_request_is_counted_by_its_outcome() -> None:
    """One outcome each; only those that are answered with an event are timed, from the request on."""

    async def scenario(here: World) -> None:
        await here.send()
        await here.send(b"{")
        await here.send(headers={"Content-Encoding": "gzip"})
        here.gate.clear()
        waiting = asyncio.create_task(here.send())
        await here.waiting.acquire()
        await here.waiting.acquire()
        await here.send()
        await asyncio.sleep(0.05)
        here.gate.set()
        await waiting
        here.error = TaggingFailed("broken")
        await here.send()
        here.error = None
        here.is_open = False
        await here.send()
        assert here.counted() == {"tagged": 2, "refused": 2, "busy": 1, "failed": 1, "unavailable": 1}
        seconds = here.metrics.registry.get_sample_value
        assert seconds("nametag_tag_request_seconds_count") == 2
        assert (seconds("nametag_tag_request_seconds_sum") or 0) >= 0.05

    run(scenario, max_at_a_time=1)


def test_a_client_that_leaves_amid_its_post_is_counted_so(caplog: pytest.LogCaptureFixture) -> None:
    """It is no fault of the worker's, nor of what was sent; and whoever does it often fills no log."""

    async def scenario(here: World) -> None:
        _, writer = await asyncio.open_connection(*here.place)
        writer.write(b"POST /tag HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: 9\r\n\r\n{")
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.transport.abort()
        while not here.counted():  # noqa: ASYNC110  # seen from outside, as by a scraper
            await asyncio.sleep(0.01)
        assert here.counted() == {"gone": 1}

    run(scenario)
    assert caplog.text == ""
