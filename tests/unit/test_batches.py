"""Batches: full under load, of like length, and a bad post doesn't take the others along."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import OutOfMemory
from model.tagging import Tagging, TaggingInput
from model.tokenizer import Token, tokenize
from worker.batch_runner import NUM_LOOKED, BatchLimits, BatchRunner, Prepared, Tagged
from worker.batches import Batcher
from worker.errors import TaggerBroken, TaggingFailed
from worker.images import FoundPixels
from worker.metrics import Metrics

BAD = "breaks"


class BrittleTagger:
    """A tagger that counts its work, and breaks on a caption with the word `breaks`."""

    checkpoint_id = "c"
    variant = "attention_gate"
    uses_image = True

    def __init__(self, *, broken: bool = False) -> None:
        self.batches: list[int] = []
        self.num_looked = 0
        self.broken = broken

    def tokenize(self, text: str) -> tuple[Token, ...]:
        return tuple(tokenize(text))

    def look(self, pixels: np.ndarray) -> np.ndarray:
        self.num_looked += len(pixels)
        return np.zeros((len(pixels), 49, 8), np.float16)

    def tag(self, inputs: Sequence[TaggingInput]) -> list[Tagging]:
        self.batches.append(len(inputs))
        if self.broken or any(token.text == BAD for post in inputs for token in post.tokens):
            raise RuntimeError("a fault in the model")
        return [Tagging(spans=(), attention=None) for _ in inputs]


class SmallDevice(BrittleTagger):
    """A device that bears so many padded tokens and pictures at once; its memory may be free later on."""

    def __init__(self, max_padded: int, max_images: int = 100, *, free_after: int = 10**9) -> None:
        super().__init__()
        self.max_padded = max_padded
        self.max_images = max_images
        self.num_failures = 0
        self._free_after = free_after

    def look(self, pixels: np.ndarray) -> np.ndarray:
        if len(pixels) > self.max_images:
            self._fail()
        return super().look(pixels)

    def tag(self, inputs: Sequence[TaggingInput]) -> list[Tagging]:
        if max(len(post.tokens) for post in inputs) * len(inputs) > self.max_padded:
            self._fail()
        return super().tag(inputs)

    def _fail(self) -> None:
        self.num_failures += 1
        if self.num_failures <= self._free_after:
            raise OutOfMemory("the device is out of memory")


def prepared(text: str, picture: FoundPixels | None = None) -> Prepared:
    return Prepared(tokens=tuple(tokenize(text)), picture=picture)


def pixels(digest: str) -> FoundPixels:
    return FoundPixels(digest=digest, pixels=np.zeros((3, 224, 224), np.uint8))


@given(st.sets(st.integers(0, 19), max_size=6))
def test_halving_finds_exactly_the_bad_posts(bad: set[int]) -> None:
    """Every bad post fails, every other is tagged, whichever they are."""
    runner = BatchRunner(BrittleTagger(), BatchLimits(), Metrics())
    posts = [prepared(BAD if number in bad else "fine") for number in range(20)]
    results = runner.run(posts)
    assert {n for n, result in enumerate(results) if isinstance(result, TaggingFailed)} == bad
    assert len(results) == 20


def test_a_broken_tagger_is_no_bad_post() -> None:
    """Where the model fails on a harmless post too, the worker stops instead of burying the topic."""
    runner = BatchRunner(BrittleTagger(broken=True), BatchLimits(), Metrics())
    with pytest.raises(TaggerBroken):
        runner.run([prepared("fine"), prepared("fine")])


def test_one_look_at_a_picture_that_many_posts_share() -> None:
    """The tower sees a picture once, in later batches too, and its features go home with one post only."""
    tagger = BrittleTagger()
    runner = BatchRunner(tagger, BatchLimits(), Metrics())
    results = runner.run([prepared("a", pixels("x")), prepared("b", pixels("x")), prepared("c")])
    assert tagger.num_looked == 1
    features = [result.new_features is not None for result in results if isinstance(result, Tagged)]
    assert features == [True, False, False]
    for number in range(NUM_LOOKED):
        (result,) = runner.run([prepared("a", pixels(f"{number // 2}"))])
        assert isinstance(result, Tagged)
        assert (result.new_features is not None) == (number % 2 == 0)
    runner.run([prepared("a", pixels("x"))])
    assert tagger.num_looked == 1 + NUM_LOOKED // 2
    for number in range(NUM_LOOKED):
        runner.run([prepared("a", pixels(f"later {number}"))])
    num_before = tagger.num_looked
    runner.run([prepared("a", pixels("x"))])
    assert tagger.num_looked == num_before + 1


def test_batches_fill_under_load_and_keep_the_limits() -> None:
    """Posts that wait together leave together: no batch over the limits, none of one post."""
    tagger = BrittleTagger()

    async def scenario() -> None:
        limits = BatchLimits(max_posts=8, max_padded_tokens=80)
        batcher, runner = Batcher(Metrics()), BatchRunner(tagger, limits, Metrics())
        waiting = [asyncio.create_task(batcher.tag(prepared("word " * (1 + n % 10)), runner)) for n in range(64)]
        await asyncio.sleep(0)
        running = asyncio.create_task(batcher.run())
        await asyncio.gather(*waiting)
        running.cancel()
        batcher.close()

    asyncio.run(scenario())
    assert sum(tagger.batches) == 64
    assert max(tagger.batches) <= 8
    assert len(tagger.batches) <= 12


def test_a_full_batch_waits_at_the_device_and_no_other() -> None:
    """While a batch is under way one that is full goes after it; a third stays, and so do a few posts, to fill."""

    class Held(BrittleTagger):
        """A tagger whose batches end when they are let."""

        def __init__(self) -> None:
            super().__init__()
            self.let = threading.Semaphore(0)

        def tag(self, inputs: Sequence[TaggingInput]) -> list[Tagging]:
            assert self.let.acquire(timeout=30)
            return super().tag(inputs)

    async def feed(*arrivals: int) -> tuple[list[int], list[int]]:
        tagger = Held()
        batcher = Batcher(metrics := Metrics())
        runner = BatchRunner(tagger, BatchLimits(max_posts=4), metrics)
        running, posts, waiting = asyncio.create_task(batcher.run()), [], []
        for num_posts in arrivals:
            posts += [asyncio.create_task(batcher.tag(prepared("a"), runner)) for _ in range(num_posts)]
            await asyncio.sleep(0.05)
            waiting.append(batcher.num_waiting)
        for _ in posts:
            tagger.let.release()
        await asyncio.gather(*posts)
        running.cancel()
        return waiting, tagger.batches

    assert asyncio.run(feed(1, 3, 1, 7)) == ([0, 3, 0, 7], [1, 4, 4, 3])


def test_one_long_post_goes_alone() -> None:
    """A post beyond the limit of tokens is tagged all the same, by itself."""
    tagger = BrittleTagger()

    async def scenario() -> None:
        batcher, runner = Batcher(Metrics()), BatchRunner(tagger, BatchLimits(max_padded_tokens=10), Metrics())
        running = asyncio.create_task(batcher.run())
        await asyncio.wait_for(batcher.tag(prepared("word " * 50), runner), 5)
        running.cancel()
        batcher.close()

    asyncio.run(scenario())
    assert tagger.batches == [1]


def test_a_batch_that_does_not_fit_makes_the_next_ones_smaller() -> None:
    """Out of memory: every post is tagged all the same, and what was learnt is kept for the batches to come."""
    device = SmallDevice(max_padded=50)
    runner = BatchRunner(device, BatchLimits(max_posts=64, max_padded_tokens=4096), Metrics())

    async def scenario() -> None:
        batcher = Batcher(Metrics())
        running = asyncio.create_task(batcher.run())
        for _ in range(5):
            await asyncio.gather(*(batcher.tag(prepared("five words are in here"), runner) for _ in range(64)))
        running.cancel()
        batcher.close()

    asyncio.run(scenario())
    assert sum(device.batches) == 5 * 64
    # 320 tokens, twice 160, four times 80: the halves of the first batch, and none after it.
    assert runner.limits.max_padded_tokens == 40
    assert device.num_failures == 7
    assert max(device.batches[-32:]) == 8


def test_pictures_that_do_not_fit_lower_the_limit_of_pictures_alone() -> None:
    """The visual tower's memory says nothing about captions."""
    device = SmallDevice(max_padded=10**6, max_images=3)
    runner = BatchRunner(device, BatchLimits(max_images=16), Metrics())
    results = runner.run([prepared("a", pixels(str(n))) for n in range(16)])
    assert all(isinstance(result, Tagged) and result.new_features is not None for result in results)
    assert runner.limits == BatchLimits(max_images=2)


def test_memory_that_is_free_again_tags_the_post() -> None:
    """A post alone is given a few attempts: the memory may have been another process's for a moment."""
    device = SmallDevice(max_padded=10, free_after=2)
    (result,) = BatchRunner(device, BatchLimits(), Metrics()).run([prepared("word " * 20)])
    assert isinstance(result, Tagged)
    assert device.num_failures == 3


def test_a_post_that_never_fits_is_a_dead_letter_after_some_tries() -> None:
    """It says how often it was tried; the limits stay, since the post is to blame."""
    device = SmallDevice(max_padded=10)
    runner = BatchRunner(device, BatchLimits(), Metrics())
    (result,) = runner.run([prepared("word " * 20)])
    assert isinstance(result, TaggingFailed)
    assert result.num_tries == 3
    assert "out of memory" in str(result)
    assert runner.limits == BatchLimits()


@pytest.mark.parametrize("fails", [False, True])
def test_a_batch_that_was_begun_is_not_tagged_twice(fails: bool) -> None:
    """Its taggings are waited for; where that fails it's tagged anew. Nothing is begun that has to be looked at."""
    tagger = BrittleTagger()
    begun: list[list[str]] = []

    def begin(inputs: Sequence[TaggingInput]) -> Callable[[], list[Tagging]] | None:
        begun.append([token.text for post in inputs for token in post.tokens])
        if len(begun) == 3:
            return None  # there is no room
        if len(begun) == 4:
            raise OSError("not this time")

        def wait() -> list[Tagging]:
            if fails:
                raise OutOfMemory("of the batch before")
            return [Tagging(gate=(0.5,))] * len(inputs)

        return wait

    runner = BatchRunner(tagger, BatchLimits(), Metrics(), begin_tag=begin)
    batches = [[prepared("a")], [prepared("b"), prepared("c")], [prepared("d")], [prepared("e")]]
    for batch in batches:
        runner.expect(batch)
    seen = [prepared("f", pixels("x"))]
    runner.expect(seen)
    assert begun == [["a"], ["b", "c"], ["d"], ["e"]]
    for batch in [batches[1], batches[0], *batches[2:], seen]:
        results = runner.run(batch)
        is_ahead = not fails and any(batch is each for each in batches[:2])
        gates = {result.tagging.gate for result in results if isinstance(result, Tagged)}
        assert (len(results), gates) == (len(batch), {(0.5,) if is_ahead else None})
    assert tagger.batches == ([2, 1, 1, 1, 1] if fails else [1, 1, 1])
    assert runner.limits == BatchLimits()


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=80),
    st.integers(1, 40),
    st.integers(1, 400),
)
def test_every_post_leaves_once_in_batches_within_the_limits(lengths: list[int], most: int, tokens: int) -> None:
    """Each post is tagged once; a batch is over the limits only where it is one post."""
    tagger = BrittleTagger()
    padded: list[tuple[int, int]] = []
    tag = tagger.tag

    def watch(inputs: Sequence[TaggingInput]) -> list[Tagging]:
        padded.append((len(inputs), max(len(post.tokens) for post in inputs)))
        return tag(inputs)

    tagger.tag = watch  # type: ignore[method-assign]

    async def scenario() -> None:
        limits = BatchLimits(max_posts=most, max_padded_tokens=tokens)
        batcher, runner = Batcher(Metrics()), BatchRunner(tagger, limits, Metrics())
        running = asyncio.create_task(batcher.run())
        await asyncio.gather(*(batcher.tag(prepared("word " * length), runner) for length in lengths))
        running.cancel()
        batcher.close()

    asyncio.run(scenario())
    assert sum(count for count, _ in padded) == len(lengths)
    assert all(count <= most and (count == 1 or count * longest <= tokens) for count, longest in padded)
