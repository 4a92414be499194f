"""Looking pictures up: what is asked of the cache, the network and the decoder, and what is kept."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from consumers.image_status import ImageStatus
from worker.cache import MemoryCache
from worker.decode import Pixels
from worker.errors import ImageError
from worker.images import FAILURE_SECONDS, FoundFeatures, FoundPixels, ImageSource, _url_key

SHAPE = (49, 8)
URL = "http://example.org/x.jpg"
FEATURES = np.arange(49 * 8, dtype=np.float16).reshape(SHAPE)


class World:
    """A network and a decoder that count what is asked of them; the bytes of a picture are its digest."""

    def __init__(self) -> None:
        self.now = 0.0
        self.cache = MemoryCache(max_bytes=1_000_000, clock=lambda: self.now)
        self.fetched: list[str] = []
        self.decoded: list[bytes] = []
        self.answers: dict[str, bytes | ImageStatus] = {}
        self.damaged: set[bytes] = set()
        self.asked = asyncio.Semaphore(0)
        self.hold: asyncio.Event | None = None

    def source(self, tower_digest: str = "tower", shape: tuple[int, int] = SHAPE) -> ImageSource:
        return ImageSource(self, self, self.cache, tower_digest, shape)  # type: ignore[arg-type]  # stands for both

    async def fetch(self, url: str) -> bytes:
        self.fetched.append(url)
        self.asked.release()
        if self.hold is not None:
            await self.hold.wait()
        answer = self.answers.get(url, b"a picture")
        if isinstance(answer, ImageStatus):
            raise ImageError(answer, "as told")
        return answer

    async def decode(self, data: bytes) -> Pixels:
        self.decoded.append(data)
        if data in self.damaged:
            raise ImageError(ImageStatus.BAD_IMAGE, "as told")
        return Pixels(np.zeros((3, 224, 224), np.uint8), data.hex())


def run(scenario: Callable[[World], Awaitable[None]]) -> World:
    world = World()
    asyncio.run(scenario(world))  # type: ignore[arg-type]  # every scenario is a coroutine
    return world


async def status_of(source: ImageSource, url: str = URL) -> ImageStatus:
    with pytest.raises(ImageError) as caught:
        await source.look_up(url)
    return caught.value.status


def test_a_new_picture_comes_as_pixels_and_then_as_features() -> None:
    """Once the tower's features are remembered, neither network nor decoder is asked again."""

    async def scenario(world: World) -> None:
        source = world.source()
        found = await source.look_up(URL)
        assert isinstance(found, FoundPixels)
        assert found.pixels.shape == (3, 224, 224)
        await source.remember(found.digest, FEATURES)
        again = await source.look_up(URL)
        assert isinstance(again, FoundFeatures)
        assert again.digest == found.digest
        assert again.features.dtype == np.float16
        assert np.array_equal(again.features, FEATURES)

    world = run(scenario)
    assert (len(world.fetched), len(world.decoded)) == (1, 1)


def test_the_same_pixels_under_another_url_share_their_features() -> None:
    """A repost under a new URL costs a fetch, but not the tower."""

    async def scenario(world: World) -> None:
        source = world.source()
        found = await source.look_up(URL)
        await source.remember(found.digest, FEATURES)
        assert isinstance(await source.look_up(URL + "?again"), FoundFeatures)

    assert len(run(scenario).fetched) == 2


def test_features_belong_to_the_tower_that_made_them() -> None:
    """Another tower finds the bytes in the cache, decodes them anew, and gets pixels."""

    async def scenario(world: World) -> None:
        first = world.source("one")
        found = await first.look_up(URL)
        await first.remember(found.digest, FEATURES)
        assert isinstance(await world.source("two").look_up(URL), FoundPixels)
        assert isinstance(await world.source("one").look_up(URL), FoundFeatures)
        # Of another width they are no features of this tower, whatever the key says.
        assert isinstance(await world.source("one", (49, 4)).look_up(URL), FoundPixels)

    world = run(scenario)
    assert len(world.fetched) == 1


@pytest.mark.parametrize("status", [status for status in ImageStatus if status in FAILURE_SECONDS])
def test_a_failure_is_believed_for_its_time(status: ImageStatus) -> None:
    """Within its time the same answer comes without a fetch, afterwards the host is asked again."""

    async def scenario(world: World) -> None:
        world.answers[URL] = status
        source = world.source()
        assert await status_of(source) is status
        world.now += FAILURE_SECONDS[status] * 0.9
        assert await status_of(source) is status
        assert len(world.fetched) == 1
        world.now += FAILURE_SECONDS[status] * 0.2
        world.answers[URL] = b"there after all"
        assert isinstance(await source.look_up(URL), FoundPixels)

    run(scenario)


def test_a_blocked_address_is_found_anew_each_time() -> None:
    """It costs nothing, and an operator who lets an origin in shouldn't wait for the cache."""

    async def scenario(world: World) -> None:
        world.answers[URL] = ImageStatus.BLOCKED_ADDRESS
        source = world.source()
        assert await status_of(source) is ImageStatus.BLOCKED_ADDRESS
        world.answers[URL] = b"let in"
        assert isinstance(await source.look_up(URL), FoundPixels)

    run(scenario)


def test_a_damaged_picture_is_not_decoded_again_and_again() -> None:
    """The reason is kept under the URL; another URL isn't blamed for it."""

    async def scenario(world: World) -> None:
        world.answers[URL] = b"damaged"
        world.damaged.add(b"damaged")
        source = world.source()
        assert [await status_of(source) for _ in range(3)] == [ImageStatus.BAD_IMAGE] * 3
        assert isinstance(await source.look_up("http://example.org/fine.jpg"), FoundPixels)

    assert run(scenario).decoded == [b"damaged", b"a picture"]


def test_one_look_up_for_all_that_wait() -> None:
    """Twenty posts with one picture cost one fetch and one decoding, and one that gives up takes nothing along."""

    async def scenario(world: World) -> None:
        world.hold = asyncio.Event()
        source = world.source()
        waiting = [asyncio.create_task(source.look_up(URL)) for _ in range(20)]
        await world.asked.acquire()
        waiting.pop(0).cancel()
        await asyncio.sleep(0)
        world.hold.set()
        found = await asyncio.gather(*waiting)
        assert len({picture.digest for picture in found}) == 1

    world = run(scenario)
    assert (len(world.fetched), len(world.decoded)) == (1, 1)


def test_one_failure_for_all_that_wait() -> None:
    """All who wait learn the reason; where nobody is left, nothing is complained of."""

    async def scenario(world: World) -> None:
        world.hold = asyncio.Event()
        world.answers[URL] = ImageStatus.GONE
        source = world.source()
        waiting = [asyncio.create_task(status_of(source)) for _ in range(5)]
        alone = asyncio.create_task(source.look_up(URL + "?alone"))
        await world.asked.acquire()
        await world.asked.acquire()
        alone.cancel()
        world.answers[URL + "?alone"] = ImageStatus.GONE
        world.hold.set()
        assert await asyncio.gather(*waiting) == [ImageStatus.GONE] * 5
        # The next look-up is a new one, and finds the reason in the cache.
        assert await status_of(source) is ImageStatus.GONE

    world = run(scenario)
    assert len(world.fetched) == 2


@pytest.mark.parametrize(
    "value", [b"", b"failed:", b"failed:a_new_reason", b"failed:used", b"pixels:", b"\xff\xfe", b"x:y"]
)
def test_an_entry_of_another_release_is_a_miss(value: bytes) -> None:
    """What this release can't read doesn't stop it: the picture is fetched as if it were new."""

    async def scenario(world: World) -> None:
        await world.cache.set(_url_key("seen", URL), value, 60)
        assert isinstance(await world.source().look_up(URL), FoundPixels)

    run(scenario)


def test_any_text_can_be_a_url() -> None:
    """Half of a surrogate pair in a URL is a key like any other."""

    async def scenario(world: World) -> None:
        assert isinstance(await world.source().look_up("http://example.org/\ud83d"), FoundPixels)

    run(scenario)
