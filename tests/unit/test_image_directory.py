"""Pictures from a directory: what file a post's picture is, and that no name leads out of it."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from consumers.image_status import ImageStatus
from consumers.posts import PostImage
from worker.errors import ImageError
from worker.image_cache import ImageCache
from worker.image_directory import ImageDirectory, candidates
from worker.images import ImageSource, ImageSourceConfig


def find(folder: Path, url: str, media_id: str | None = None) -> str | None:
    """The name of the file that is found."""
    found = asyncio.run(ImageDirectory(folder, max_image_bytes=100).find(PostImage(url, media_id)))
    return None if found is None else found.path.name


@pytest.mark.parametrize(
    ("file", "url", "media_id"),
    [
        ("77.jpg", "https://pbs.twimg.com/media/AbC.jpg", "77"),
        ("77.png", "https://pbs.twimg.com/media/AbC.jpg", "77"),
        ("AbC.jpg", "https://pbs.twimg.com/media/AbC.jpg", "77"),
        ("AbC.jpg", "https://pbs.twimg.com/media/AbC.jpg:large", None),
        ("AbC.jpg", "https://pbs.twimg.com/media/AbC?format=jpg&name=large", None),
        ("AbC.webp", "https://pbs.twimg.com/media/AbC.jpg", None),
        ("a b.jpg", "http://h/x/a%20b.jpg", None),
        ("é.jpg", "http://h/%C3%A9.jpg", None),
        ("AbC", "http://h/AbC", None),
        ("v1.2", "http://h/v1.2", None),
    ],
)
def test_a_file_is_found_by_its_id_or_its_name(tmp_path: Path, file: str, url: str, media_id: str | None) -> None:
    """As archives name their media, with whatever ending, and with Twitter's sizes left out."""
    (tmp_path / file).write_bytes(b"x")
    assert find(tmp_path, url, media_id) == file


def test_an_id_goes_before_a_name(tmp_path: Path) -> None:
    """Ids are never used twice, names may be."""
    (tmp_path / "77.webp").write_bytes(b"x")
    (tmp_path / "AbC.jpg").write_bytes(b"x")
    assert find(tmp_path, "https://h/AbC.jpg", "77") == "77.webp"


@pytest.mark.parametrize(
    "name",
    [
        "../secret.jpg", "..%2fsecret.jpg", "%2e%2e/secret.jpg", "..%5csecret.jpg", "%00secret.jpg", "secret.jpg%00",
        "%2fetc%2fpasswd",
        ".hidden.jpg", "..", ".", "", "x" * 300, "\ud83d.jpg", "folder", "fifo", "a/../../secret.jpg",
    ],
)  # fmt: skip
def test_no_name_leads_out(tmp_path: Path, name: str) -> None:
    """Neither by the URL nor by the id: all that is looked for is a file right in the directory."""
    inside = tmp_path / "inside"
    (inside / "folder").mkdir(parents=True)
    os.mkfifo(inside / "fifo")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (inside / ".hidden.jpg").write_bytes(b"hidden")
    assert find(inside, "http://h/" + name) is None
    assert find(inside, "http://h/nothing", name.removesuffix(".jpg")) is None
    for each in candidates(PostImage("http://h/" + name, name)):
        assert "/" not in each
        assert "\0" not in each


def test_a_file_is_read_in_place_of_the_network(tmp_path: Path) -> None:
    """It goes before the URL; what isn't there is fetched, or not found where nothing may be fetched."""
    (tmp_path / "AbC.jpg").write_bytes(b"a file")
    (tmp_path / "large.jpg").write_bytes(b"x" * 101)
    seen: list[Any] = []

    class Network:
        def check(self, url: str) -> None:
            pass

        async def fetch(self, url: str) -> bytes:
            seen.append(url)
            return b"fetched"

        async def decode(self, data: bytes) -> Any:
            seen.append(data)
            raise ImageError(ImageStatus.BAD_IMAGE, "as told")

    class Nothing:
        async def get(self, key: str, deadline: float | None = None) -> None:
            return None

        async def set(self, key: str, value: bytes, ttl_seconds: float) -> None:
            seen.append(key.split(":")[1])

    async def status(name: str, *, fetches: bool) -> ImageStatus:
        stands_for_all: Any = (Network(), Nothing())
        network, nothing = stands_for_all
        directory = ImageDirectory(tmp_path, max_image_bytes=100)
        config = ImageSourceConfig(fetches=fetches)
        source = ImageSource(network, network, ImageCache(nothing, "tower", (49, 8)), directory, config)
        with pytest.raises(ImageError) as caught:
            await source.look_up(PostImage("http://h/" + name))
        await source.close()
        return caught.value.status

    assert asyncio.run(status("AbC.jpg", fetches=True)) is ImageStatus.BAD_IMAGE
    assert seen == [b"a file", "seen"]
    assert asyncio.run(status("large.jpg", fetches=True)) is ImageStatus.TOO_LARGE
    assert asyncio.run(status("other.jpg", fetches=False)) is ImageStatus.NOT_FOUND
    assert "http://h/other.jpg" not in seen
    assert asyncio.run(status("other.jpg", fetches=True)) is ImageStatus.BAD_IMAGE
    assert "http://h/other.jpg" in seen
