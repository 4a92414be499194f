"""Pictures through a whole worker, with the real tower, a real Redis and a real host: fetched once, seen once."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from redis import Redis

from worker.metrics import Metrics
from worker.service import Files, run_worker
from worker.settings import ImagesTable, RedisTable, Settings

EXAMPLES = sorted((Path(__file__).parents[2] / "worker" / "examples" / "images").glob("demo_*.jpg"))
NUM_POSTS = 1000
NUM_PICTURES = 50


class Host:
    """Serves a different picture under each path, and counts."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()

    async def answer(self, request: web.Request) -> web.Response:
        self.requests[request.path] += 1
        number = int(request.match_info["number"])
        # Bytes behind a JPEG's end are no part of it, but make it another file.
        return web.Response(body=EXAMPLES[number % len(EXAMPLES)].read_bytes() + b"%d" % number)

    async def serve(self, work: Any) -> Any:
        app = web.Application()
        app.router.add_get("/{number}.jpg", self.answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            return await work(f"http://127.0.0.1:{runner.addresses[0][1]}")
        finally:
            await runner.cleanup()


@pytest.fixture
def own_database(redis_url: str) -> Iterator[str]:
    """An empty database of the Redis, emptied again afterwards."""
    url = redis_url.rsplit("/", 1)[0] + "/7"
    client = Redis.from_url(url)
    client.flushdb()
    yield url
    client.flushdb()
    client.close()


def write_posts(path: Path, origin: str, num_posts: int, num_pictures: int) -> None:
    texts = ("Anna sings in Paris", "Modern Baseball at the Union Transfer", "so happy about Phoenix")
    with path.open("w") as file:
        for number in range(num_posts):
            url = f"{origin}/{number % num_pictures}.jpg"
            file.write(json.dumps({"id": str(number), "text": texts[number % 3], "image_url": url}) + "\n")


async def tag(folder: Path, settings: Settings) -> tuple[Metrics, list[dict[str, Any]]]:
    """One pass over the posts; gives the metrics and the events in their order."""
    out = folder / f"events-{uuid4().hex}.jsonl"
    files = Files(posts=str(folder / "posts.jsonl"), events=str(out), dead_letters=str(folder / "dead.jsonl"))
    metrics = await run_worker(settings, files)
    events = [json.loads(line) for line in out.read_text().splitlines()]
    return metrics, sorted(events, key=lambda event: int(event["id"]))


def seen(events: list[dict[str, Any]]) -> list[Any]:
    """What an event says of the post and its picture, but for the confidences."""
    return [
        (event["id"], event["image"]["status"], event["image"]["digest"], _without_confidence(event["entities"]))
        for event in events
    ]


def confidences(events: list[dict[str, Any]]) -> list[float]:
    """All of them; the ninth digit depends on who shares the batch."""
    return [entity["confidence"] for event in events for entity in event["entities"]]


def _without_confidence(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: told for name, told in entity.items() if name != "confidence"} for entity in entities]


def test_a_picture_is_fetched_once_and_seen_once(tmp_path: Path, own_database: str) -> None:
    """1,000 posts of 50 pictures at once: 50 fetches. A second pass: no fetch, and no look by the tower."""
    host = Host()

    async def work(origin: str) -> None:
        write_posts(tmp_path / "posts.jsonl", origin, NUM_POSTS, NUM_PICTURES)
        # Longer than a busy machine takes to look at all of them: what is measured are fetches.
        images = ImagesTable(allow_origins=frozenset({origin}), wait_seconds=120, total_seconds=60)
        settings = Settings(images=images, redis=RedisTable(url=own_database, timeout_seconds=2))  # type: ignore[arg-type] # pydantic makes it a secret
        first, events = await tag(tmp_path, settings)
        assert Counter(event["image"]["status"] for event in events) == {"used": NUM_POSTS}
        assert len(host.requests) == NUM_PICTURES
        assert host.requests.total() <= 1.02 * NUM_PICTURES
        assert first.tower_images._value.get() >= len(EXAMPLES)
        second, again = await tag(tmp_path, settings)
        assert seen(again) == seen(events)
        assert confidences(again) == pytest.approx(confidences(events), abs=1e-6)
        assert second.tower_images._value.get() == 0
        assert host.requests.total() <= 1.02 * NUM_PICTURES

    asyncio.run(host.serve(work))


def test_a_post_gets_the_same_tags_wherever_its_picture_comes_from(tmp_path: Path, own_database: str) -> None:
    """From the network, from the cached bytes, from the cached features, from a directory: in every way."""
    host = Host()
    folder = tmp_path / "pictures"
    folder.mkdir()

    async def work(origin: str) -> None:
        write_posts(tmp_path / "posts.jsonl", origin, 30, 10)
        images = {"allow_origins": frozenset({origin}), "wait_seconds": 120}
        redis = RedisTable(url=own_database, timeout_seconds=2)  # type: ignore[arg-type] # pydantic makes it a secret
        settings = Settings(images=ImagesTable(**images), redis=redis)
        _, by_network = await tag(tmp_path, settings)
        client = Redis.from_url(own_database)
        for key in client.scan_iter("nametag:features:*"):
            client.delete(key)
        client.close()
        requests = host.requests.total()
        by_bytes, by_features = [(await tag(tmp_path, settings))[1] for _ in range(2)]
        assert host.requests.total() == requests
        for number in range(10):
            (folder / f"{number}.jpg").write_bytes(EXAMPLES[number % len(EXAMPLES)].read_bytes())
        local = Settings(images=ImagesTable(**images, directory=folder, fetch=False))
        _, by_directory = await tag(tmp_path, local)
        for events in (by_bytes, by_features, by_directory):
            assert seen(events) == seen(by_network)
            assert confidences(events) == pytest.approx(confidences(by_network), abs=1e-6)
        assert any(event["entities"] for event in by_network)
        assert host.requests.total() == requests

    asyncio.run(host.serve(work))
