"""What the live page is given: by the hub, in the stream of events, and as pictures."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from PIL import Image

import worker.live_routes
from consumers.deletes import Tombstone
from consumers.events import CheckpointName, EntityEvent, ImageReport, Scissors
from consumers.image_status import ImageStatus
from consumers.source import Partition, Position
from consumers.wire import PositionReport
from model.tagging import Tagging
from worker.batch_runner import Tagged
from worker.images import FoundFeatures, FoundPixels
from worker.live import MAX_AWAITED, MAX_GONE, MAX_QUEUED, MAX_WATCHERS, PER_SECOND, RING, LiveHub, TooManyWatchers
from worker.live_pictures import MAX_PICTURES, MAX_POSTS, Gallery
from worker.live_post import FATES, MAX_CHARACTERS, gaze, heat_levels, post_json
from worker.live_rates import Rates
from worker.live_routes import LivePage, type_colours
from worker.metrics import Metrics
from worker.server import ServerConfig, serve

EVEN = (1 / 49,) * 49
DIGEST = "d" * 64


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def event(number: int, text: str | None = "Anna is here", **fields: Any) -> EntityEvent:
    words = text or "Anna"
    return EntityEvent(
        **{
            "id": f"post-{number}",
            "tagged_at": datetime.now(UTC),
            "text": text,
            "entities": (Scissors(words).cut(type="PER", start=0, end=4, confidence=0.9),),
            "image": ImageReport(status=ImageStatus.NONE),
            "checkpoint": CheckpointName(id="c", variant="attention_gate"),
            "position": PositionReport(topic="posts", partition=0, offset=number),
            **fields,
        }
    )


def pixels(value: int = 7) -> np.ndarray:
    return np.full((3, 224, 224), value, np.uint8)


def show(hub: LiveHub, number: int, picture: FoundFeatures | FoundPixels | None = None, **fields: Any) -> EntityEvent:
    """What the pipeline does with a post."""
    if picture is not None:
        fields["image"] = ImageReport(status=ImageStatus.USED, digest=picture.digest)
    told = event(number, **fields)
    tagged = Tagged(tagging=Tagging(attention=EVEN if picture else None))
    hub.tagged(told.id, Position(Partition("posts", 0), number), tagged, picture)
    hub.published(told)
    return told


def seconds(scenario: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 20))  # type: ignore[arg-type]  # coroutines


# ---- the hub ----


def test_a_watcher_is_given_the_last_posts_and_then_each_new_one() -> None:
    """A newcomer begins with the ring, which keeps the last ones."""

    async def scenario() -> None:
        clock = Clock()
        hub = LiveHub(clock)
        for number in range(RING + 3):
            clock.now += 1
            show(hub, number)
        watcher, last = hub.join()
        assert [shown.id for shown in last] == [f"post-{number}" for number in range(3, RING + 3)]
        show(hub, 99)
        news = await watcher.take(1)
        assert [shown.id for shown in news.posts] == ["post-99"]
        assert (await watcher.take(0.01)).posts == ()

    seconds(scenario())


def test_a_post_that_wasn_t_published_is_never_shown() -> None:
    """Only what went out is seen: one that was tagged and then suppressed isn't."""
    hub = LiveHub()
    hub.tagged("post-1", Position(Partition("posts", 0), 1), None, None)
    hub.published(event(2))
    assert hub.join()[1] == ()


def test_no_more_posts_a_second_are_shown_than_can_be_read_and_the_rest_is_counted() -> None:
    """A thousand posts in one second are a sample."""
    clock = Clock()
    hub = LiveHub(clock)
    watcher, _ = hub.join()
    for number in range(1000):
        clock.now += 0.001
        show(hub, number)
    assert 960 <= watcher.num_skipped(hub) <= 1000 - PER_SECOND
    clock.now += 1
    later, _ = hub.join()
    show(hub, 1000)
    assert later.num_skipped(hub) == 0


def test_a_slow_watcher_loses_the_oldest_posts_and_slows_nobody() -> None:
    """Its queue is bounded, and what it missed is counted; the other one has all."""

    async def scenario() -> None:
        clock = Clock()
        hub = LiveHub(clock)
        (slow, _), (fast, _) = hub.join(), hub.join()
        num_seen = 0
        for number in range(MAX_QUEUED + 10):
            clock.now += 1
            show(hub, number)
            num_seen += len((await fast.take(1)).posts)
        news = await slow.take(1)
        assert num_seen == MAX_QUEUED + 10
        assert [shown.id for shown in news.posts][:1] == ["post-10"]
        assert len(news.posts) == MAX_QUEUED
        assert (slow.num_skipped(hub), fast.num_skipped(hub)) == (10, 0)

    seconds(scenario())


def test_a_tombstone_takes_its_post_from_everywhere() -> None:
    """From the ring, from what waits for a watcher, from what is on its way, and with its picture."""

    async def scenario() -> None:
        hub = LiveHub()
        watcher, _ = hub.join()
        show(hub, 1, FoundPixels(digest=DIGEST, pixels=pixels()))
        show(hub, 2)
        hub.tagged("post-3", Position(Partition("posts", 0), 3), None, None)
        assert DIGEST in hub.pictures
        for number in (1, 3):
            hub.published(Tombstone(id=f"post-{number}"))
        hub.published(event(3))
        news = await watcher.take(1)
        assert news.gone == ("post-1", "post-3")
        assert [shown.id for shown in news.posts] == ["post-2"]
        assert [shown.id for shown in hub.join()[1]] == ["post-2"]
        assert DIGEST not in hub.pictures
        # A post that is put again behind an empty message is a new one.
        hub.published(Tombstone(id="post-2"))
        show(hub, 2)
        news = await watcher.take(1)
        assert (news.gone, [shown.id for shown in news.posts]) == (("post-2",), ["post-2"])

    seconds(scenario())


def test_a_watcher_that_misses_tombstones_is_sent_to_come_again() -> None:
    """None is ever dropped: beyond the bound the stream ends, and a new one tells what still stands."""
    hub = LiveHub()
    watcher, _ = hub.join()
    for number in range(MAX_GONE):
        watcher.forget(str(number))
    assert not watcher.is_over
    watcher.forget("one more")
    assert watcher.is_over


def test_no_pixels_are_kept_while_nobody_watches() -> None:
    """Neither of posts on their way, nor after the last watcher has gone; what waits to be published is bounded."""
    hub = LiveHub(Clock())
    picture = FoundPixels(digest=DIGEST, pixels=pixels())
    show(hub, 1, picture)
    assert DIGEST not in hub.pictures
    watcher, last = hub.join()
    assert (last[0].digest, last[0].digest in hub.pictures) == (DIGEST, False)
    show(hub, 2, picture)
    hub.tagged("post-3", Position(Partition("posts", 0), 3), None, picture)
    assert DIGEST in hub.pictures
    hub.leave(watcher)
    assert DIGEST not in hub.pictures
    hub.join()
    hub.published(event(3, image=ImageReport(status=ImageStatus.USED, digest=DIGEST)))
    assert DIGEST not in hub.pictures


def test_what_waits_to_be_published_is_bounded() -> None:
    """Also where nothing is ever published."""
    clock = Clock()
    hub = LiveHub(clock)
    for number in range(MAX_AWAITED + 5):
        clock.now += 1
        hub.tagged(f"post-{number}", Position(Partition("posts", 0), number), None, None)
    assert hub.num_skipped == 5
    hub.published(event(4))
    hub.published(event(5))
    assert [shown.id for shown in hub.join()[1]] == ["post-5"]


def test_watchers_are_counted() -> None:
    """No more than there is room for, and a place is given back; a closed hub lets all go and none in."""
    hub = LiveHub()
    watchers = [hub.join()[0] for _ in range(MAX_WATCHERS)]
    with pytest.raises(TooManyWatchers):
        hub.join()
    hub.leave(watchers[0])
    watchers[0], _ = hub.join()
    hub.close()
    assert all(watcher.is_over for watcher in watchers)
    hub.leave(watchers[0])
    with pytest.raises(TooManyWatchers):
        hub.join()


# ---- pictures ----


def test_a_picture_is_what_the_tagger_looked_at() -> None:
    """JPEG of 224 by 224, made once, with the channels in their places."""

    async def scenario() -> None:
        gallery = Gallery()
        red = np.zeros((3, 224, 224), np.uint8)
        red[0] = 255
        gallery.note("1", DIGEST, red)
        data = await gallery.jpeg(DIGEST)
        assert data is not None
        picture = Image.open(io.BytesIO(data))
        assert (picture.format, picture.size) == ("JPEG", (224, 224))
        red_part, green, blue = picture.getpixel((100, 100))  # type: ignore[misc]
        assert red_part > 240
        assert max(green, blue) < 20
        assert await gallery.jpeg(DIGEST) is data
        assert await gallery.jpeg("e" * 64) is None

    seconds(scenario())


def test_a_picture_goes_with_the_last_post_that_shows_it() -> None:
    """Also amid its conversion; and the oldest goes where there are too many."""

    async def scenario() -> None:
        gallery = Gallery()
        gallery.note("1", DIGEST, pixels())
        gallery.note("2", DIGEST, None)
        gallery.forget("1")
        assert DIGEST in gallery
        asked = asyncio.create_task(gallery.jpeg(DIGEST))
        await asyncio.sleep(0)
        gallery.forget("2")
        assert await asked is None
        assert DIGEST not in gallery
        for number in range(MAX_PICTURES + 1):
            gallery.note(str(number), f"{number:064x}", pixels())
        assert f"{0:064x}" not in gallery
        assert f"{1:064x}" in gallery

    seconds(scenario())


def test_a_tombstone_takes_the_pictures_of_all_events_of_its_post() -> None:
    """A post that came again with another picture has shown two; what another post shows stays."""
    gallery = Gallery()
    first, second, shared = (letter * 64 for letter in "abc")
    for digest in (first, second, shared):
        gallery.note("1", digest, pixels())
    gallery.note("2", shared, None)
    gallery.forget("1")
    assert [digest in gallery for digest in (first, second, shared)] == [False, False, True]


def test_no_picture_outlives_the_memory_of_its_post() -> None:
    """Many posts over few pictures: else the tombstone of one long ago would find nothing to drop."""
    gallery = Gallery()
    gallery.note("old", DIGEST, pixels())
    for number in range(MAX_POSTS):
        gallery.note(str(number), f"{number % 100:064x}", pixels())
    assert DIGEST not in gallery
    assert f"{0:064x}" in gallery


# ---- a post in words ----


def test_a_post_is_pieces_of_harmless_text() -> None:
    """Names apart, marks that turn text round replaced, a long text cut, and no text where events have none."""
    told = json.loads(post_json(event(1, "Anna \u202e<b>", id="\u202e" + "i" * 100), None))
    assert told["pieces"] == [{"text": "Anna", "type": "PER", "confidence": 0.9}, {"text": " \ufffd<b>"}]
    assert told["id"] == "\u202e" + "i" * 100
    assert told["name"].startswith("\ufffdiii")
    assert len(told["name"]) == 64
    assert (told["heat"], told["gaze"], told["fate"]) == (None, None, "no picture")
    long = json.loads(post_json(event(1, "Anna " + "x" * 10_000), None))
    assert len("".join(piece["text"] for piece in long["pieces"])) == MAX_CHARACTERS + 1
    assert long["pieces"][-1] == {"text": "…"}
    without = json.loads(post_json(event(1, None), None))
    assert [piece["text"] for piece in without["pieces"]] == ["Anna", " "]


def test_half_a_surrogate_pair_is_shown_as_one_character() -> None:
    """Real posts hold such; the page's JSON is UTF-8 all the same."""
    told = json.loads(post_json(event(1, "Anna \ud83d"), None).decode())
    assert told["pieces"][-1]["text"] == " ?"


def test_each_status_has_its_words() -> None:
    """And one of a newer worker has some, too."""
    assert set(FATES) == set(ImageStatus)
    plain, named = ImageReport(status=ImageStatus.NONE), ImageReport(status=ImageStatus.NONE, url="https://x.example/a")
    alone = CheckpointName(id="c", variant="blstm_crf")
    for fields, told in (
        ({"image": plain}, "no picture"),
        ({"image": named, "text": "", "entities": ()}, "wasn't looked at: the post has no words"),
        ({"image": named, "checkpoint": alone}, "wasn't looked at: this checkpoint reads words alone"),
    ):
        assert told in json.loads(post_json(event(1, **fields), None))["fate"]
    newer = event(1, image=ImageReport(status=ImageStatus("eaten")))
    assert "newer" in json.loads(post_json(newer, None))["fate"]


def test_attention_is_heat_and_words() -> None:
    """By the scale of the project's other pictures: an even attention is dark, and said to be even."""
    assert heat_levels(EVEN) == [0] * 49
    assert gaze(EVEN) == "evenly all over it"
    for place, where in ((0, "top left"), (24, "centre"), (48, "bottom right"), (27, "right"), (45, "bottom")):
        peaked = tuple(0.52 if at == place else 0.01 for at in range(49))
        assert gaze(peaked) == f"most at the {where}, 52% of it on one of 49 regions"
        assert heat_levels(peaked).index(255) == place


# ---- rates ----


def test_rates_are_of_the_last_seconds() -> None:
    """None at the first look and after a long one, then posts a second; made once a second however many ask."""
    clock, metrics = Clock(), Metrics()
    rates = Rates(metrics, lambda: 17.0, clock)
    assert rates.now()["tagged"] is None
    metrics.posts.labels("event").inc(30)
    metrics.posts.labels("tombstone").inc(2)
    metrics.dead_letters.labels("not_json").inc()
    assert rates.now()["tagged"] is None
    clock.now += 2
    assert rates.now() == {"tagged": 15.0, "in_flight": 0.0, "lag": 17.0, "dead_letters": 0.0, "deleted": 2.0}
    clock.now += 3600
    assert rates.now()["tagged"] is None


# ---- the stream ----


@asynccontextmanager
async def page(hub: LiveHub) -> AsyncIterator[aiohttp.ClientSession]:
    rates = Rates(Metrics(), lambda: None)
    async with serve(ServerConfig(port=0), Metrics(), lambda: None, [LivePage(hub, rates)]) as address:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(address, connector=connector) as client:
            yield client


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    """Names and data of a stream's events; of a comment, and of `retry`, the line."""
    lines: list[str] = []
    async for line in response.content:
        text = line.decode().rstrip("\n")
        if text:
            lines.append(text)
        elif lines[0].startswith("event: "):
            name, data = lines
            yield name.removeprefix("event: "), json.loads(data.removeprefix("data: "))
            lines = []
        else:
            yield lines[0], None
            lines = []


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # the server tells nobody
        await asyncio.sleep(0.01)


def test_the_stream_begins_with_what_stands_and_goes_on_with_what_comes() -> None:
    """retry, hello with the ids, the posts, the figures; then a post with its picture, and a tombstone."""

    async def scenario() -> None:
        hub = LiveHub()
        show(hub, 1)
        async with page(hub) as client, client.get("/live/events") as response:
            assert response.headers["Content-Type"] == "text/event-stream"
            assert response.headers["Cache-Control"] == "no-store"
            stream = events(response)
            assert await anext(stream) == ("retry: 2000", None)
            name, hello = await anext(stream)
            assert (name, hello["ids"], hello["types"]) == ("hello", ["post-1"], ["PER", "LOC", "ORG", "MISC"])
            assert len(hello["palette"]) == 256
            name, first = await anext(stream)
            assert (name, first["post"]["id"], first["has_picture"]) == ("post", "post-1", False)
            name, figures = await anext(stream)
            assert (name, figures["lag"], figures["skipped"]) == ("rates", None, 0)
            show(hub, 2, FoundPixels(digest=DIGEST, pixels=pixels()))
            name, second = await anext(stream)
            assert (name, second["has_picture"], second["post"]["gaze"]) == ("post", True, "evenly all over it")
            async with client.get(f"/live/pictures/{DIGEST}") as picture:
                assert (picture.status, picture.content_type) == (200, "image/jpeg")
            hub.published(Tombstone(id="post-2"))
            while (await anext(stream)) != ("gone", ["post-2"]):
                pass
            assert (await client.get(f"/live/pictures/{DIGEST}")).status == 404
            for path in ("e" * 63, "E" * 64, "..%2flive.js"):
                assert (await client.get(f"/live/pictures/{path}")).status == 404

    seconds(scenario())


def test_a_quiet_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a comment, which no page sees, and which finds out whether somebody is there."""
    monkeypatch.setattr(worker.live_routes, "KEEPALIVE_SECONDS", 0.05)
    monkeypatch.setattr(worker.live_routes, "STEP_SECONDS", 0.05)

    async def scenario() -> None:
        async with page(LiveHub()) as client, client.get("/live/events") as response:
            async for name, _ in events(response):
                if name.startswith(":"):
                    break

    seconds(scenario())


def test_a_watcher_that_leaves_is_noticed() -> None:
    """Its place is free within a moment, though no post comes."""

    async def scenario() -> None:
        hub = LiveHub()
        async with page(hub) as client:
            responses = [await client.get("/live/events") for _ in range(MAX_WATCHERS)]
            refused = await client.get("/live/events")
            assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
            assert list(await refused.json()) == ["error"]
            responses.pop().close()
            await until(lambda: len(hub._watchers) == MAX_WATCHERS - 1)
            assert (await client.get("/live/events")).status == 200

    seconds(scenario())


def test_a_watcher_that_reads_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in its socket: it holds up neither the others nor the memory."""
    monkeypatch.setattr(worker.live_routes, "WRITE_SECONDS", 0.2)

    async def scenario() -> None:
        clock = Clock()
        hub = LiveHub(clock)
        async with page(hub) as client:
            response = await client.get("/live/events")
            number = 0
            while hub._watchers:
                for _ in range(MAX_QUEUED):
                    clock.now += 1
                    number += 1
                    show(hub, number, text="Anna " + "x" * 3000)
                await asyncio.sleep(0.01)
            response.close()
        assert number < 100_000

    seconds(scenario())


def test_a_shutdown_ends_the_streams() -> None:
    """At once, and they end as streams do."""

    async def scenario() -> None:
        hub = LiveHub()
        async with aiohttp.ClientSession() as client:
            async with serve(
                ServerConfig(port=0), Metrics(), lambda: None, [LivePage(hub, Rates(Metrics(), lambda: None))]
            ) as address:
                response = await client.get(f"{address}/live/events")
                start = asyncio.get_running_loop().time()
            assert asyncio.get_running_loop().time() - start < 1
            assert b"hello" in await response.read()

    seconds(scenario())


def test_the_page_is_files_of_the_package() -> None:
    """Each with its type; the page has no script and no style in it, and the style has the project's colours."""

    async def scenario() -> None:
        async with page(LiveHub()) as client:
            kinds = {
                "": "text/html",
                "/live.css": "text/css",
                "/live.js": "text/javascript",
                "/icon.svg": "image/svg+xml",
            }
            for name, kind in kinds.items():
                async with client.get(f"/live{name}") as response:
                    assert (response.status, response.content_type) == (200, kind)
            html = await (await client.get("/live")).text()
            assert "<style" not in html
            assert " style=" not in html
            assert "<script>" not in html
            assert "://" not in html
            css = await (await client.get("/live/live.css")).text()
            assert css.endswith(type_colours())
            script = await (await client.get("/live/live.js")).text()
            for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", 'setAttribute("on'):
                assert way not in script

    seconds(scenario())
    assert '[data-type="PER"] { --type-ground: #d3f3d9; --type-ink: #0b4a1e; }' in type_colours()
    folder = Path(worker.live_routes.__file__).parent / "live_page"
    assert {path.name for path in folder.iterdir()} == {"live.html", "live.css", "live.js", "icon.svg"}
