"""Looking pictures up: what is asked of the cache, the network and the decoder, and what is kept."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

import worker.images
from consumers.image_status import ImageStatus
from consumers.posts import PostImage
from worker.cache import CacheUnsure
from worker.decode_line import DecoderUnavailable, Pixels
from worker.errors import ImageError
from worker.hosts import HostLeftAlone
from worker.image_cache import FAILURE_SECONDS, ImageCache, url_key
from worker.images import FoundFeatures, FoundPixels, ImageSource, ImageSourceConfig
from worker.memory_cache import MemoryCache
from worker.packed_features import pack, unpack

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
        self.left_alone = False
        self.decoder_is_full = False

    def source(self, tower_digest: str = "tower", shape: tuple[int, int] = SHAPE, **config: Any) -> ImageSource:
        cache = ImageCache(self.cache, tower_digest, shape)
        stands_for_both: Any = self
        return ImageSource(stands_for_both, stands_for_both, cache, None, ImageSourceConfig(**config))

    def check(self, url: str) -> None:
        if url.startswith("gopher:"):
            raise ImageError(ImageStatus.BLOCKED_ADDRESS, "as told")

    async def fetch(self, url: str) -> bytes:
        self.fetched.append(url)
        self.asked.release()
        if self.hold is not None:
            await self.hold.wait()
        if self.left_alone:
            raise HostLeftAlone("as told")
        answer = self.answers.get(url, b"a picture")
        if isinstance(answer, ImageStatus):
            raise ImageError(answer, "as told")
        return answer

    async def decode(self, data: bytes) -> Pixels:
        if self.decoder_is_full:
            raise DecoderUnavailable("as told")
        self.decoded.append(data)
        if data in self.damaged:
            raise ImageError(ImageStatus.BAD_IMAGE, "as told")
        return Pixels(np.zeros((3, 224, 224), np.uint8), hashlib.sha256(data).hexdigest())


def run(scenario: Callable[[World], Awaitable[None]]) -> World:
    world = World()
    asyncio.run(scenario(world))  # type: ignore[arg-type]  # every scenario is a coroutine
    return world


async def look_up(source: ImageSource, url: str = URL) -> FoundFeatures | FoundPixels:
    """What is found, once all is written that is kept of it."""
    try:
        return await source.look_up(PostImage(url))
    finally:
        await source._cache.settle()


async def status_of(source: ImageSource, url: str = URL) -> ImageStatus:
    with pytest.raises(ImageError) as caught:
        await look_up(source, url)
    return caught.value.status


def test_a_new_picture_comes_as_pixels_and_then_as_features() -> None:
    """Once the tower's features are remembered, neither network nor decoder is asked again."""

    async def scenario(world: World) -> None:
        source = world.source()
        found = await look_up(source, URL)
        assert isinstance(found, FoundPixels)
        assert found.pixels.shape == (3, 224, 224)
        source.remember(found.digest, FEATURES)
        again = await look_up(source, URL)
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
        found = await look_up(source, URL)
        source.remember(found.digest, FEATURES)
        assert isinstance(await look_up(source, URL + "?again"), FoundFeatures)

    assert len(run(scenario).fetched) == 2


def test_features_belong_to_the_tower_that_made_them() -> None:
    """Another tower finds the bytes in the cache, decodes them anew, and gets pixels."""

    async def scenario(world: World) -> None:
        first = world.source("one")
        found = await look_up(first, URL)
        first.remember(found.digest, FEATURES)
        assert isinstance(await look_up(world.source("two"), URL), FoundPixels)
        assert isinstance(await look_up(world.source("one"), URL), FoundFeatures)
        # Of another width they are no features of this tower, whatever the key says.
        assert isinstance(await look_up(world.source("one", (49, 4)), URL), FoundPixels)

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
        assert isinstance(await look_up(source, URL), FoundPixels)

    run(scenario)


def test_a_blocked_address_is_found_anew_each_time() -> None:
    """It costs nothing, and an operator who lets an origin in shouldn't wait for the cache."""

    async def scenario(world: World) -> None:
        world.answers[URL] = ImageStatus.BLOCKED_ADDRESS
        source = world.source()
        assert await status_of(source) is ImageStatus.BLOCKED_ADDRESS
        world.answers[URL] = b"let in"
        assert isinstance(await look_up(source, URL), FoundPixels)

    run(scenario)


def test_a_host_that_is_left_alone_is_no_fault_of_the_url() -> None:
    """As soon as the host is asked again, so is the URL."""

    async def scenario(world: World) -> None:
        world.left_alone = True
        source = world.source()
        assert await status_of(source) is ImageStatus.HOST_DOWN
        world.left_alone = False
        assert isinstance(await look_up(source), FoundPixels)

    run(scenario)


def test_a_damaged_picture_is_not_decoded_again_and_again() -> None:
    """The reason is kept under the URL; another URL isn't blamed for it."""

    async def scenario(world: World) -> None:
        world.answers[URL] = b"damaged"
        world.damaged.add(b"damaged")
        source = world.source()
        assert [await status_of(source) for _ in range(3)] == [ImageStatus.BAD_IMAGE] * 3
        assert isinstance(await look_up(source, "http://example.org/fine.jpg"), FoundPixels)

    assert run(scenario).decoded == [b"damaged", b"a picture"]


def test_one_look_up_for_all_that_wait() -> None:
    """Twenty posts with one picture cost one fetch and one decoding, and one that gives up takes nothing along."""

    async def scenario(world: World) -> None:
        world.hold = asyncio.Event()
        source = world.source()
        waiting = [asyncio.create_task(look_up(source, URL)) for _ in range(20)]
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
        alone = asyncio.create_task(look_up(source, URL + "?alone"))
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
    "value",
    [
        b"",
        b"failed:",
        b"failed:a_new_reason",
        b"failed:used",
        b"failed:gone:of other limits",
        b"pixels:",
        b"pixels:\x1b[2J",
        b"\xff\xfe",
        b"x:y",
    ],
)
def test_an_entry_of_another_release_is_a_miss(value: bytes) -> None:
    """What this release can't read doesn't stop it: the picture is fetched as if it were new."""

    async def scenario(world: World) -> None:
        await world.cache.set(url_key("seen", URL), value, 60)
        assert isinstance(await look_up(world.source(), URL), FoundPixels)

    run(scenario)


def test_any_text_can_be_a_url() -> None:
    """Half of a surrogate pair in a URL is a key like any other."""

    async def scenario(world: World) -> None:
        assert isinstance(await look_up(world.source(), "http://example.org/\ud83d"), FoundPixels)

    run(scenario)


def test_a_post_waits_its_time_and_the_next_one_has_the_picture() -> None:
    """What holds the picture up costs a post no more than its wait; the fetch goes on for those that follow."""

    async def scenario(world: World) -> None:
        world.hold = asyncio.Event()
        source = world.source(wait_seconds=0.2)
        assert await status_of(source) is ImageStatus.LATE
        world.hold.set()
        await asyncio.gather(*source._flights.values())
        assert isinstance(await look_up(source), FoundPixels)

    assert len(run(scenario).fetched) == 1


def test_what_nobody_waits_for_ends() -> None:
    """A look-up that hangs is given up at twice the wait, and is no failure of its URL."""

    async def scenario(world: World) -> None:
        world.hold = asyncio.Event()
        source = world.source(wait_seconds=0.1)
        assert await status_of(source) is ImageStatus.LATE
        (flight,) = source._flights.values()
        await asyncio.wait({flight}, timeout=5)
        assert not source._flights
        world.hold = None
        assert isinstance(await look_up(source), FoundPixels)

    assert len(run(scenario).fetched) == 2


def test_too_many_pictures_under_way_are_late_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Posts that went on without their pictures don't fill the memory with look-ups."""
    monkeypatch.setattr(worker.images, "MAX_FLIGHTS", 2)

    async def scenario(world: World) -> None:
        world.hold = asyncio.Event()
        source = world.source(wait_seconds=30)
        waiting = [asyncio.create_task(look_up(source, URL + str(n))) for n in range(2)]
        await world.asked.acquire()
        await world.asked.acquire()
        assert await status_of(source) is ImageStatus.LATE
        world.hold.set()
        await asyncio.gather(*waiting)

    run(scenario)


def test_a_picture_that_a_post_shows_no_more_goes_with_its_last_use() -> None:
    """A post that comes again with another picture, and other pixels at a URL: what was there has no use any more."""

    async def scenario(world: World) -> None:
        old, new = "http://h/old", "http://h/new"
        source = world.source()
        kept = source._cache
        for post_id in ("edited", "other"):
            await source.look_up(PostImage(old), post_id)
        await kept.settle()
        await source.look_up(PostImage(new), "edited")
        await kept.settle()
        assert await world.cache.get(url_key("bytes", old)) is not None  # the other still shows it
        await source.forget("other", is_final=True)
        assert await world.cache.get(url_key("bytes", old)) is None
        await source.look_up(PostImage(old), "edited")
        await kept.settle()
        assert await world.cache.get(url_key("bytes", new)) is None
        first, second = "1" * 64, "2" * 64
        kept.keep_digest(old, first)
        kept.keep_features(first, FEATURES)
        kept.keep_digest("http://h/third", second)
        kept.keep_features(second, FEATURES)
        await kept.settle()
        kept.keep_digest(old, second)
        await kept.settle()
        assert await world.cache.get(kept.features_key(first)) is None
        assert await world.cache.get(kept.features_key(second)) is not None

    run(scenario)


def test_a_burst_asks_the_cache_a_few_at_a_time_and_all_in_time() -> None:
    """Of 500 known pictures none is fetched again, though all of them at once would overtax the cache."""

    class Crowded(MemoryCache):
        """A cache whose answers take the longer the more are waited for."""

        num_asked = most_asked = 0

        async def get(self, key: str, deadline: float | None = None) -> bytes | None:
            self.num_asked += 1
            self.most_asked = max(self.most_asked, self.num_asked)
            await asyncio.sleep(0.0005 * self.num_asked)
            self.num_asked -= 1
            return await super().get(key, deadline)

    async def scenario(world: World) -> None:
        cache = Crowded(max_bytes=100_000_000)
        world.cache = cache
        source = world.source()
        urls = [f"http://example.org/{number}.jpg" for number in range(500)]
        for url in urls:
            source._cache.keep_digest(url, hashlib.sha256(url.encode()).hexdigest())
            source.remember(hashlib.sha256(url.encode()).hexdigest(), FEATURES)
        await source._cache.settle()
        found = await asyncio.gather(*(source.look_up(PostImage(url)) for url in urls))
        assert all(isinstance(each, FoundFeatures) for each in found)
        assert cache.most_asked == worker.images.MAX_READING

    assert run(scenario).fetched == []


def test_a_slow_cache_costs_a_look_up_its_time_once() -> None:
    """Reads share their time and writes are not waited for: three reads and two writes cost one deadline."""

    class Slow(MemoryCache):
        async def get(self, key: str, deadline: float | None = None) -> bytes | None:
            assert deadline is not None
            await asyncio.sleep(min(0.15, max(0.0, deadline - asyncio.get_running_loop().time())))
            return None

        async def set(self, key: str, value: bytes, ttl_seconds: float) -> None:
            await asyncio.sleep(0.5)

    async def scenario(world: World) -> None:
        world.cache = Slow(max_bytes=1000)
        source = world.source()
        begun = time.perf_counter()
        assert isinstance(await source.look_up(PostImage(URL)), FoundPixels)
        assert time.perf_counter() - begun < 0.4

    run(scenario)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_features_are_packed_where_that_pays_and_come_back_exactly(share: float) -> None:
    """Mostly zeros: a fraction of the size. Noise: a byte more. Anything else than as many finite numbers: nothing."""
    chance = np.random.default_rng(1)
    shape = (7, 2857)  # no whole number of bytes
    features = np.where(chance.random(shape) >= share, chance.normal(size=shape), 0.0).astype(np.float16)
    features[0, :3] = 0.0, -0.0, 6e-8
    packed = pack(features)
    found = unpack(packed, shape)
    assert found is not None
    assert found.tobytes() == features.tobytes()
    assert len(packed) <= 1 + features.nbytes * {0.0: 1.0, 0.5: 0.6, 0.9: 0.2, 1.0: 0.1}[share]
    for damaged in (packed[:-1], packed[1:], packed + b"x", packed + b"xx", b"\1" + packed[1:], b"\2", b"\0", b""):
        assert unpack(damaged, shape) is None
    for bad in (np.inf, -np.inf, np.nan):
        features[3, 3] = bad
        assert unpack(pack(features), shape) is None


def test_one_look_up_whatever_posts_say_beside_the_url() -> None:
    """Another media id, or a fragment, makes no other picture of it."""

    async def scenario(world: World) -> None:
        source = world.source()
        images = [PostImage(f"{URL}#{n % 7}", str(n)) for n in range(50)]
        await asyncio.gather(*(source.look_up(image) for image in images))

    assert run(scenario).fetched == [URL]


def test_a_url_that_is_forbidden_now_is_not_had_from_the_cache() -> None:
    """Settings that are taken back hold at once, whatever was kept before."""

    async def scenario(world: World) -> None:
        source = world.source()
        url = "gopher://example.org/x.jpg"
        source._cache.keep_bytes(url, b"a picture")
        await source._cache.settle()
        assert await status_of(source, url) is ImageStatus.BLOCKED_ADDRESS

    assert not run(scenario).decoded


def test_an_answer_that_is_no_picture_is_not_kept() -> None:
    """A passing page of error costs its failure's time, and not the day that pictures are kept."""

    async def scenario(world: World) -> None:
        world.answers[URL] = b"an error page"
        world.damaged.add(b"an error page")
        source = world.source()
        assert await status_of(source) is ImageStatus.BAD_IMAGE
        world.answers[URL] = b"a picture"
        world.now += FAILURE_SECONDS[ImageStatus.BAD_IMAGE] + 1
        assert isinstance(await look_up(source), FoundPixels)

    assert len(run(scenario).fetched) == 2


def test_cached_bytes_that_are_no_picture_are_fetched_anew() -> None:
    """Whoever can write to Redis can't keep a picture from a post."""

    async def scenario(world: World) -> None:
        world.damaged.add(b"foreign")
        source = world.source()
        source._cache.keep_bytes(URL, b"foreign")
        await source._cache.settle()
        assert isinstance(await look_up(source), FoundPixels)

    assert run(scenario).fetched == [URL]


def test_a_decoder_that_is_full_has_nothing_fetched_anew() -> None:
    """What is kept is a picture: a second fetch would only add to what the decoder has too much of."""

    async def scenario(world: World) -> None:
        source = world.source()
        source._cache.keep_bytes(URL, b"a picture")
        await source._cache.settle()
        world.decoder_is_full = True
        assert await status_of(source) is ImageStatus.TOO_SLOW
        world.decoder_is_full = False
        assert isinstance(await look_up(source), FoundPixels)

    assert not run(scenario).fetched


def test_a_failure_under_other_limits_is_looked_at_again() -> None:
    """Who allows larger pictures doesn't wait for a day."""

    async def scenario(world: World) -> None:
        world.answers[URL] = ImageStatus.TOO_LARGE
        assert await status_of(world.source()) is ImageStatus.TOO_LARGE
        world.answers[URL] = b"a picture"
        larger = world.source()
        larger._cache._limits_digest = "larger"
        assert isinstance(await look_up(larger), FoundPixels)

    assert len(run(scenario).fetched) == 2


def test_features_that_no_tower_gives_are_a_miss() -> None:
    """A value that isn't finite would take all of a caption's names along."""

    async def scenario(world: World) -> None:
        source = world.source()
        found = await look_up(source)
        source.remember(found.digest, np.full(SHAPE, np.nan, np.float16))
        assert isinstance(await look_up(source), FoundPixels)

    run(scenario)


def test_what_nobody_thought_of_costs_the_picture_alone(caplog: pytest.LogCaptureFixture) -> None:
    """An error of another kind is told without the URL, and isn't held against it."""

    async def scenario(world: World) -> None:
        async def broken(url: str) -> bytes:
            raise IndexError(f"in {url}")

        source = world.source()
        world.fetch, fetch = broken, world.fetch  # type: ignore[method-assign]
        assert await status_of(source) is ImageStatus.BAD_IMAGE
        world.fetch = fetch  # type: ignore[method-assign]
        assert isinstance(await look_up(source), FoundPixels)

    run(scenario)
    (told,) = [record for record in caplog.records if record.name == "nametag.images"]
    assert vars(told)["error"] == "IndexError"
    assert "example.org" not in str(vars(told))


async def shown(source: ImageSource, post_id: str, url: str = URL) -> str:
    """The digest of the picture at `url`, which the post shows and the tower has seen."""
    found = await source.look_up(PostImage(url), post_id)
    source.remember(found.digest, FEATURES)
    await source._cache.settle()
    return found.digest


@pytest.mark.parametrize("post_id", ["2", "né en 😀"])
def test_the_last_post_that_is_deleted_takes_its_picture_along(post_id: str) -> None:
    """Bytes, what is known of the URL, and the features; not before, and nothing of other pictures."""

    async def scenario(world: World) -> None:
        world.answers["http://h/other"] = b"another picture"
        source = world.source()
        digest = await shown(source, "1")
        assert await shown(source, post_id) == digest
        other = await shown(source, "3", "http://h/other")
        kept = {url_key("seen", URL), url_key("bytes", URL), f"nametag:features:tower:{digest}"}
        assert await source.forget("1", is_final=True)
        assert kept <= world.cache._values.keys()
        assert await source.forget(post_id, is_final=True)
        assert not kept & world.cache._values.keys()
        assert isinstance(await source.look_up(PostImage("http://h/other")), FoundFeatures)
        # Of the deleted posts nothing is left but that they are.
        names = {hashlib.sha256(name.encode()).hexdigest() for name in ("1", post_id)}
        assert {key for key in world.cache._values if key.rpartition(":")[2] in names} == {
            f"nametag:deleted:{name}" for name in names
        }
        assert f"nametag:features:tower:{other}" in world.cache._values
        assert isinstance(await source.look_up(PostImage(URL)), FoundPixels)

    assert run(scenario).fetched == [URL, "http://h/other", URL]


def test_features_stay_while_another_url_has_the_same_pixels() -> None:
    """They are those of pixels; the URL and its bytes go."""

    async def scenario(world: World) -> None:
        source = world.source()
        digest = await shown(source, "1")
        assert await shown(source, "2", URL + "?again") == digest
        assert await source.forget("1", is_final=True)
        assert url_key("bytes", URL) not in world.cache._values
        assert f"nametag:features:tower:{digest}" in world.cache._values
        assert await source.forget("2", is_final=True)
        assert f"nametag:features:tower:{digest}" not in world.cache._values

    run(scenario)


def test_a_picture_that_comes_after_its_posts_delete_is_not_kept() -> None:
    """It was on its way for that post alone; one that another post waits for is kept."""

    async def scenario(world: World) -> None:
        world.hold = asyncio.Event()
        source = world.source(wait_seconds=1)
        posts = (("1", URL), ("2", URL + "?2"), ("3", URL + "?2"))
        late = await asyncio.gather(
            *(source.look_up(PostImage(url), post_id) for post_id, url in posts), return_exceptions=True
        )
        assert [str(error) for error in late] == ["not there within 1 s"] * 3
        assert await source.forget("1", is_final=True)
        assert await source.forget("2", is_final=True)
        world.hold.set()
        await asyncio.wait(source._sweeps)
        await source._cache.settle()
        assert url_key("bytes", URL) not in world.cache._values
        assert url_key("seen", URL) not in world.cache._values
        assert url_key("bytes", URL + "?2") in world.cache._values

    run(scenario)


def test_only_a_final_delete_is_remembered() -> None:
    """What was deleted by an empty message may come again; another worker of the same cache knows it, too."""

    async def scenario(world: World) -> None:
        source = world.source()
        assert await source.forget("1", is_final=False)
        assert await source.forget("2", is_final=True)
        assert [await world.source("another").is_deleted(post_id) for post_id in "123"] == [False, True, False]

    run(scenario)


def test_a_cache_in_trouble_can_not_promise_that_all_is_gone() -> None:
    """Wherever it fails; and the same delete once more, when it is well again, finds what was left."""
    calls = ("recall", "keep", "delete", "remove")

    class Failing(MemoryCache):
        left: int | None = None

        def ask(self) -> None:
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise CacheUnsure

    def failing(name: str) -> Any:
        async def call(self: Failing, *arguments: Any) -> Any:
            self.ask()
            return await getattr(MemoryCache, name)(self, *arguments)

        return call

    for name in calls:
        setattr(Failing, name, failing(name))

    async def scenario(world: World) -> None:
        for num_calls in range(20):
            cache = world.cache = Failing(max_bytes=1_000_000)
            source = world.source()
            digest = await shown(source, "1")
            cache.left = num_calls
            if await source.forget("1", is_final=True):
                assert num_calls > 5
                return
            cache.left = None
            assert await source.forget("1", is_final=True)
            assert await source.is_deleted("1")
            left = {url_key("seen", URL), url_key("bytes", URL), f"nametag:features:tower:{digest}"}
            assert not left & cache._values.keys()
        raise AssertionError("it never succeeds")

    run(scenario)
