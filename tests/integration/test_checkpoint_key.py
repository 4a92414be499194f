"""A key of a real Redis names the checkpoint: what is told and counted of paths without a file."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis as redis_sync
from redis.asyncio import Redis

from worker.checkpoint_place import WatchedKey
from worker.metrics import Metrics

AT_RESTART = Path("/checkpoints/first.safetensors")


@pytest.fixture
def key(redis_url: str) -> Iterator[str]:
    """A key of this test's own."""
    key = f"nametag:checkpoint:{uuid4().hex}"
    yield key
    with redis_sync.Redis.from_url(redis_url) as client:
        client.delete(key)


def look_at(values: list[str | None], redis_url: str, key: str) -> tuple[list[bool], float]:
    """Set the key to one after the other, and look twice at each: whether it named a file, and how many are refused."""
    metrics = Metrics()

    async def whole() -> list[bool]:
        client = Redis.from_url(redis_url)
        place = WatchedKey(client, key, metrics, at_restart=AT_RESTART, timeout_seconds=5)
        found = []
        for value in values:
            await (client.delete(key) if value is None else client.set(key, value))
            found += [await place.look() is not None for _ in range(2)]
        await place.close()
        return found

    found = asyncio.run(whole())
    refused = metrics.registry.get_sample_value("nametag_checkpoint_changes_total", {"result": "refused"})
    return found, refused or 0.0


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.name == "nametag.checkpoints"]


@pytest.mark.parametrize(
    ("value", "file", "reason"),
    [
        ("/checkpoints/none.safetensors", "/checkpoints/none.safetensors", "No such file or directory"),
        ("runs/none.safetensors", "runs/none.safetensors", "No such file or directory"),
        ("/a\0b", "/a\ufffdb", "embedded null byte"),
        ("/a\nb", "/a b", "No such file or directory"),
        ("/" + "a" * 60_000_000, "/" + "a" * 4095, "File name too long"),
    ],
)
def test_a_path_of_no_file_is_refused_once(
    value: str, file: str, reason: str, redis_url: str, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Told as it stands in the key, on one line, and counted; the same again only after another."""
    assert look_at([value], redis_url, key) == ([False] * 2, 1)
    (line,) = told(caplog)
    assert (line["message"], line["key"], line["file"], line["reason"]) == ("checkpoint_missing", key, file, reason)
    assert line["next"].startswith("set the key to the absolute path of a checkpoint")
    assert look_at([value, "/another", value], redis_url, key) == ([False] * 6, 3)


def test_a_file_that_comes_late_is_used(redis_url: str, key: str, tmp_path: Path) -> None:
    """The key may be set before the file is there; with none set nothing is named, and nothing refused."""
    (tmp_path / "new").touch()
    values = [None, str(tmp_path / "none"), f" {tmp_path / 'new'}\n"]
    assert look_at(values, redis_url, key) == ([False] * 4 + [True] * 2, 1)


def test_a_name_that_goes_away_is_no_refusal(
    redis_url: str, key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once it was used, the checkpoint stays without its key: which one a restart begins with is told once."""
    (tmp_path / "new").touch()
    assert look_at([str(tmp_path / "new"), None], redis_url, key) == ([True] * 2 + [False] * 2, 0)
    (line,) = told(caplog)
    assert (line["message"], line["file"], line["reason"]) == (
        "checkpoint_name_gone", str(tmp_path / "new"), "the key isn't set",
    )  # fmt: skip
    assert "a restart begins with first.safetensors" in line["next"]
