"""One batch on the device: a bad post is found by halving, and a batch that didn't fit makes the next ones smaller."""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import numpy as np

from model.errors import OutOfMemory
from model.tagging import Tagging, TaggingInput
from model.tokenizer import Token
from worker.errors import TaggerBroken, TaggingFailed
from worker.images import FoundFeatures, FoundPixels
from worker.metrics import Metrics
from worker.post_tagger import BeginLook, BeginTag, PostTagger
from worker.retry import RetryPolicy

log = logging.getLogger("nametag.device")

T = TypeVar("T")


NUM_AHEAD = 2
"""Batches that may wait at a device that looks ahead: one for the tower while another is tagged, and one at hand."""

NUM_LOOKED = 64
"""Pictures whose features are at hand for the batches that follow; 8 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How much goes on the device at once."""

    max_posts: int = 32
    max_padded_tokens: int = 4096
    max_images: int = 16

    def __post_init__(self) -> None:
        for name in ("max_posts", "max_padded_tokens", "max_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A post that is ready for the device."""

    tokens: tuple[Token, ...]
    picture: FoundFeatures | FoundPixels | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged:
    """A tagged post. `new_features` (49, D) were computed for its picture in this batch."""

    tagging: Tagging
    new_features: np.ndarray | None = None


class _OutOfMemory(Exception):
    """Raised inside a batch; `by_images` where the visual tower ran out, not the tagger."""

    def __init__(self, error: Exception, *, by_images: bool) -> None:
        super().__init__(str(error) or "out of memory")
        self.by_images = by_images


@dataclass(frozen=True, slots=True)
class _Begun:
    """Pictures that the device is looking at, by the digests of their pixels."""

    digests: tuple[str, ...]
    features: Callable[[], np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class _BegunBatch:
    """Posts that are being tagged."""

    posts: Sequence[Prepared]
    taggings: Callable[[], list[Tagging]]


class BatchRunner:
    """Tags batches, on the one thread that owns the device; keeps the limits that the device can bear.

    With `begin_look` the tower looks at the pictures of batches that are expected while the one before is tagged; with
    `begin_tag` such a batch, if nobody has to look at anything, is with the tagger already.
    """

    def __init__(
        self,
        tagger: PostTagger,
        limits: BatchLimits,
        metrics: Metrics,
        *,
        begin_look: BeginLook | None = None,
        begin_tag: BeginTag | None = None,
    ) -> None:
        self._begin_look = begin_look
        self._begin_tag = begin_tag
        self._begun_batches: deque[_BegunBatch] = deque(maxlen=NUM_AHEAD)
        """Of batches that were given up nobody asks for the taggings."""
        self._expected: deque[Sequence[Prepared]] = deque()
        self._begun: list[_Begun] = []
        self._tagger = tagger
        self._metrics = metrics
        self._looked: dict[str, np.ndarray] = {}
        """Features (49, D) of the pictures looked at last, by the digest of their pixels: posts that show the same at
        once may come to the device in several batches."""
        self._memory_retries = RetryPolicy(attempts=3, first_seconds=0.2)
        self.limits = limits
        """As configured, or what was left of it when memory ran out; lowered, never raised again."""
        self._tell_limits()

    @property
    def num_ahead(self) -> int:
        """Batches that may wait at the device while it has one."""
        return 1 if self._begin_look is None else NUM_AHEAD

    def expect(self, posts: Sequence[Prepared]) -> None:
        """`posts` will be run, after those expected before. May be called on any thread."""
        if self._begin_look is not None:
            self._expected.append(posts)
        if self._begin_tag is not None and not _new_pixels(posts):
            try:
                if (taggings := self._begin_tag(_inputs(posts, {}))) is not None:
                    self._begun_batches.append(_BegunBatch(posts, taggings))
            except Exception as error:
                # When the batch is run, it's tagged in one step, and then it's seen to.
                log.debug("batch_not_begun", extra={"reason": repr(error)[:200]})

    def run(self, posts: Sequence[Prepared]) -> list[Tagged | TaggingFailed]:
        """Tag `posts`. Raises `TaggerBroken` where the model fails on any post."""
        start = time.perf_counter()
        self._begin_expected()
        try:
            with self._metrics.stage("tag"):
                return self._run(posts)
        finally:
            self._metrics.device_busy.inc(time.perf_counter() - start)

    def _run(self, posts: Sequence[Prepared]) -> list[Tagged | TaggingFailed]:
        try:
            return list(self._tag_all(posts))
        except _OutOfMemory as error:
            if len(posts) == 1:
                return [self._try_alone(posts[0], error)]
            self._lower_limits(posts, error)
        except Exception as error:
            if len(posts) == 1:
                return [self._blame(error, tries=[f"{error!r}"])]
        middle = len(posts) // 2
        return self._run(posts[:middle]) + self._run(posts[middle:])

    def _try_alone(self, post: Prepared, error: Exception) -> Tagged | TaggingFailed:
        """Memory may be somebody else's for a moment, so one post gets a few attempts."""
        tries = [str(error)]
        while len(tries) < (self._memory_retries.attempts or 1):
            time.sleep(self._memory_retries.pause(len(tries)))
            try:
                (tagged,) = self._tag_all([post])
            except Exception as again:
                tries.append(str(again))
            else:
                return tagged
        return self._blame(error, tries)

    def _blame(self, error: Exception, tries: list[str]) -> TaggingFailed:
        # A post that fails alone is to blame only where the tagger still does a harmless one;
        # without this check a broken device would turn the whole topic into dead letters.
        try:
            self._tagger.tag([TaggingInput(tokens=self._tagger.tokenize("a post"), features=None)])
        except Exception as second:
            raise TaggerBroken(
                f"the tagger fails on every post ({error!r}); restart the worker, or check the "
                "checkpoint and the device"
            ) from second
        return TaggingFailed(f"the tagger failed on this post: {tries[-1]}"[:500], num_tries=len(tries))

    def _lower_limits(self, posts: Sequence[Prepared], error: _OutOfMemory) -> None:
        if error.by_images:
            half = len(_new_pixels(posts)) // 2
            self.limits = replace(self.limits, max_images=max(1, min(self.limits.max_images, half)))
        else:
            half = len(posts) * max(len(post.tokens) for post in posts) // 2
            self.limits = replace(self.limits, max_padded_tokens=max(1, min(self.limits.max_padded_tokens, half)))
        self._tell_limits()
        log.warning("batch_limited", extra={"reason": str(error), "num_posts": len(posts), **asdict(self.limits)})

    def _tell_limits(self) -> None:
        for name, value in asdict(self.limits).items():
            self._metrics.batch_limits.labels(name.removeprefix("max_")).set(value)

    def _tag_all(self, posts: Sequence[Prepared]) -> list[Tagged]:
        new = self._look_at_new(posts)
        self._begin_expected()
        taggings = self._begun_taggings(posts)
        if taggings is None:
            inputs = _inputs(posts, self._looked | new)
            taggings = _within_memory(lambda: self._tagger.tag(inputs), by_images=False)
        self._keep_looked(new)
        results = []
        for post, tagging in zip(posts, taggings, strict=True):
            # The first post with a new picture takes its features home, so that they are cached once.
            fresh = new.pop(post.picture.digest, None) if post.picture else None
            results.append(Tagged(tagging=tagging, new_features=fresh))
        return results

    def _look_at_new(self, posts: Sequence[Prepared]) -> dict[str, np.ndarray]:
        """Features (49, D) of the pictures whose pixels nobody has looked at lately, by digest."""
        pixels = self._unseen(posts)
        found = self._begun_features(pixels)
        if left := [digest for digest in pixels if digest not in found]:
            stacked = np.stack([pixels[digest] for digest in left])
            features = _within_memory(lambda: self._tagger.look(stacked), by_images=True)
            found |= zip(left, features, strict=True)
        self._metrics.tower_images.inc(len(pixels))
        return {digest: found[digest] for digest in pixels}

    def _unseen(self, posts: Sequence[Prepared]) -> dict[str, np.ndarray]:
        return {digest: each for digest, each in _new_pixels(posts).items() if digest not in self._looked}

    def _begin_expected(self) -> None:
        while self._begin_look is not None and self._expected:
            pixels = self._unseen(self._expected.popleft())
            for begun in self._begun:
                for digest in begun.digests:
                    pixels.pop(digest, None)
            if not pixels:
                continue
            try:
                features = self._begin_look(list(pixels.values()))
            except Exception as error:
                # When the batch is run it's looked at again, and then it's seen to.
                log.debug("look_not_begun", extra={"reason": repr(error)[:200]})
                continue
            # Of batches that were given up meanwhile nobody asks for the features.
            self._begun = [*self._begun[-NUM_AHEAD:], _Begun(tuple(pixels), features)]

    def _begun_features(self, pixels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Features (49, D) of those of `pixels` that the device has begun to look at, by digest."""
        wanted = [each for each in self._begun if not pixels.keys().isdisjoint(each.digests)]
        self._begun = [each for each in self._begun if each not in wanted]
        found: dict[str, np.ndarray] = {}
        for each in wanted:
            found |= zip(each.digests, _within_memory(each.features, by_images=True), strict=True)
        return found

    def _begun_taggings(self, posts: Sequence[Prepared]) -> list[Tagging] | None:
        for begun in tuple(self._begun_batches):
            if begun.posts is posts:
                self._begun_batches.remove(begun)
                try:
                    return begun.taggings()
                except Exception as error:
                    # The batch before may have broken it: this one is tagged again, and then it's seen to.
                    log.debug("batch_not_tagged_ahead", extra={"reason": repr(error)[:200]})
        return None

    def _keep_looked(self, new: Mapping[str, np.ndarray]) -> None:
        # Copies: one of them would hold the features of all that were looked at with it.
        self._looked |= {digest: features.copy() for digest, features in new.items()}
        while len(self._looked) > NUM_LOOKED:
            del self._looked[next(iter(self._looked))]


def _within_memory(act: Callable[[], T], *, by_images: bool) -> T:
    try:
        return act()
    except (MemoryError, OutOfMemory) as error:
        raise _OutOfMemory(error, by_images=by_images) from error


def _new_pixels(posts: Sequence[Prepared]) -> dict[str, np.ndarray]:
    return {post.picture.digest: post.picture.pixels for post in posts if isinstance(post.picture, FoundPixels)}


def _inputs(posts: Sequence[Prepared], new: Mapping[str, np.ndarray]) -> list[TaggingInput]:
    return [TaggingInput(tokens=post.tokens, features=_features(post.picture, new)) for post in posts]


def _features(picture: FoundFeatures | FoundPixels | None, new: Mapping[str, np.ndarray]) -> np.ndarray | None:
    if picture is None:
        return None
    if isinstance(picture, FoundFeatures):
        return picture.features
    return new[picture.digest]
