"""Marks of deletes, beside pictures that crowd them out, and in a Redis of their own."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.integration.test_redis_kinds import redis_with
from worker.cache import CacheLimits, RedisCache
from worker.errors import SettingsError
from worker.image_cache import ImageCache, url_key
from worker.image_settings import make_marks
from worker.images import ImageSource
from worker.memory_cache import MemoryCache
from worker.metrics import Metrics
from worker.service import Files, run_worker
from worker.settings import RedisTable, Settings

LIMITS = CacheLimits(timeout_seconds=2.0, failures_to_open=1000, spare_bytes=0)
POSTS = [f"post-{number}" for number in range(20)]


async def marks_left(pictures: str, marks: str | None) -> int:
    """How many of the marks stay while a Redis of 3 MB is filled seven times over with pictures."""
    cache = RedisCache(pictures, LIMITS)
    apart = None if marks is None else RedisCache(marks, LIMITS)
    images = ImageCache(cache, "tower", (49, 8), marks=apart)
    for post_id in POSTS:
        await images.mark_deleted(post_id)
    for number in range(400):
        images.keep_bytes(f"http://host/{number}.jpg", bytes(50_000))
        await images.settle()
    # As the tower of another checkpoint, too.
    left = [await images.for_tower("other", (49, 8)).is_deleted(post_id) for post_id in POSTS]
    await cache.close()
    if apart is not None:
        await apart.close()
    return sum(left)


def test_pictures_do_not_crowd_out_marks_that_are_kept_apart() -> None:
    """In the pictures' own Redis most are evicted, though their time isn't over."""
    words = ("--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru")
    with redis_with(*words) as pictures, redis_with() as marks, Redis(port=pictures.port) as client:
        assert asyncio.run(marks_left(pictures.address, None)) < len(POSTS) / 2
        client.flushall()
        client.config_resetstat()
        assert asyncio.run(marks_left(pictures.address, marks.address)) == len(POSTS)
        assert client.info("stats")["evicted_keys"] > 100


@dataclass(frozen=True)
class Worker:
    """A worker that reads lines, once, and ends."""

    folder: Path
    redis: RedisTable

    def events(self, *lines: object) -> list[str]:
        """The ids of the posts that it tags."""
        posts, events = self.folder / "posts.jsonl", self.folder / "events.jsonl"
        posts.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        files = Files(posts=str(posts), events=str(events), dead_letters=str(self.folder / "dead.jsonl"))
        asyncio.run(run_worker(Settings(redis=self.redis, threads=1), files))
        told = map(json.loads, events.read_text().splitlines())
        return [event["id"] for event in told if "entities" in event]


@pytest.mark.parametrize("is_apart", [True, False])
def test_a_late_post_is_known_as_deleted_when_the_pictures_are_gone(is_apart: bool, tmp_path: Path) -> None:
    """By the next worker, where the marks have a Redis of their own; where they haven't, they went along."""
    with redis_with() as server:
        pictures, marks = (f"redis://127.0.0.1:{server.port}/{number}" for number in (0, 1))
        table = RedisTable(url=pictures, deletes_url=marks if is_apart else None, timeout_seconds=2)  # type: ignore[arg-type] # pydantic makes secrets of them
        worker = Worker(tmp_path, table)
        assert worker.events({"delete": {"status": {"id_str": "1"}}}) == []
        with Redis.from_url(pictures) as client:
            client.flushdb()
        with Redis.from_url(marks) as client:
            assert [key[:16] for key in client.scan_iter()] == [b"nametag:deleted:"] * is_apart
        late, other = ({"id": post_id, "text": "so happy about Phoenix !"} for post_id in ("1", "2"))
        assert worker.events(late, other) == (["2"] if is_apart else ["1", "2"])


def test_a_picture_goes_though_there_is_no_room_for_its_posts_mark() -> None:
    """The delete isn't done, and is told so; what is kept of the picture is gone all the same."""

    async def forget(pictures: str, marks: str) -> tuple[bool, bytes | None]:
        cache, apart = RedisCache(pictures, LIMITS), RedisCache(marks, LIMITS)
        images = ImageCache(cache, "tower", (49, 8), marks=apart)
        images.note_post("1", "http://host/1.jpg")
        images.keep_digest("http://host/1.jpg", "0" * 64)
        await images.settle()
        nobody: Any = None
        is_done = await ImageSource(nobody, nobody, images).forget("1", is_final=True)
        left = await cache.get(url_key("seen", "http://host/1.jpg"))
        await cache.close()
        await apart.close()
        return is_done, left

    with redis_with() as pictures, redis_with("--maxmemory", "1", "--maxmemory-policy", "noeviction") as marks:
        assert asyncio.run(forget(pictures.address, marks.address)) == (False, None)


def test_without_redis_for_pictures_marks_may_have_one() -> None:
    """Without either the marks are where the pictures are; a URL that is none is told by its setting, and not shown."""
    cache = MemoryCache(max_bytes=1000)
    assert make_marks(RedisTable(), cache, Metrics()) is cache
    table = RedisTable(deletes_url="redis://127.0.0.1/0")  # type: ignore[arg-type] # likewise
    assert isinstance(make_marks(table, cache, Metrics()), RedisCache)
    for url, told in (
        ("http://me:hush@host", "redis.deletes_url is no URL"),
        ("redis://h?hush=1", "redis.deletes_url has"),
    ):
        with pytest.raises(SettingsError, match=told) as caught:
            make_marks(RedisTable(deletes_url=url), cache, Metrics())  # type: ignore[arg-type] # likewise
        assert "me:hush" not in str(caught.value)
