"""Batches for the device: work-conserving, of like length, with a bad post found by halving.

The device never waits while a post is ready: a batch is whatever stands in the queue when the
device is free, up to the limits. Under load batches fill by themselves.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from model.inference import Tagging, TaggingInput
from model.tokenizer import Token
from worker.errors import TaggerBroken, TaggingFailed
from worker.images import FoundFeatures, FoundPixels
from worker.metrics import Metrics


class PostTagger(Protocol):
    """What the worker asks of a tagger; `model.inference.Tagger` is the one there is."""

    @property
    def checkpoint_id(self) -> str:
        """Names the checkpoint in events."""

    @property
    def variant(self) -> str:
        """One of the paper's four variants."""

    @property
    def uses_image(self) -> bool:
        """Whether a picture makes a difference to the variant."""

    def tokenize(self, text: str) -> tuple[Token, ...]:
        """Tokens of a caption, by the checkpoint's own scheme."""

    def look(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features (N, 49, D) of pixels (N, 3, 224, 224), both on the CPU."""

    def tag(self, inputs: Sequence[TaggingInput]) -> list[Tagging]:
        """Tag posts; as many taggings as inputs, in their order."""


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


@dataclass(frozen=True, slots=True)
class _Job:
    prepared: Prepared
    done: asyncio.Future[Tagged]


class Batcher:
    """Gathers posts into batches, and runs them on the one thread that owns the device."""

    def __init__(self, tagger: PostTagger, limits: BatchLimits, metrics: Metrics) -> None:
        self._tagger = tagger
        self._limits = limits
        self._metrics = metrics
        self._queue: list[_Job] = []
        self._ready = asyncio.Event()
        self._device = ThreadPoolExecutor(1, thread_name_prefix="device")

    async def tag(self, prepared: Prepared) -> Tagged:
        """Tag one post, in a batch with others. Raises `TaggingFailed` where this post breaks the model."""
        done: asyncio.Future[Tagged] = asyncio.get_running_loop().create_future()
        self._queue.append(_Job(prepared, done))
        self._ready.set()
        return await done

    async def run(self) -> None:
        """Run batches until cancelled. Raises `TaggerBroken` where the model fails on any post."""
        loop = asyncio.get_running_loop()
        while True:
            await self._ready.wait()
            batch = self._take()
            self._metrics.batch_posts.observe(len(batch))
            posts = [job.prepared for job in batch]
            with self._metrics.stage("tag"):
                results = await loop.run_in_executor(self._device, self.run_batch, posts)
            for job, result in zip(batch, results, strict=True):
                if job.done.done():  # cancelled meanwhile
                    continue
                if isinstance(result, Tagged):
                    job.done.set_result(result)
                else:
                    job.done.set_exception(result)

    def close(self) -> None:
        """Let the device's thread end after its batch."""
        self._device.shutdown(wait=False, cancel_futures=True)

    def run_batch(self, posts: Sequence[Prepared]) -> list[Tagged | TaggingFailed]:
        """Tag `posts` on this thread; a post that breaks the model is found by halving the batch."""
        try:
            return list(self._tag_all(posts))
        except Exception as error:
            if len(posts) == 1:
                self._check_tagger(error)
                return [TaggingFailed(f"the tagger failed on this post: {error!r}"[:500])]
        middle = len(posts) // 2
        return self.run_batch(posts[:middle]) + self.run_batch(posts[middle:])

    def _take(self) -> list[_Job]:
        """The oldest post and those closest to it in length, as many as the limits let in."""
        self._queue = [job for job in self._queue if not job.done.done()]
        oldest, window = self._queue[:1], self._queue[1 : 4 * self._limits.max_posts]
        if oldest:
            length = len(oldest[0].prepared.tokens)
            window.sort(key=lambda job: abs(len(job.prepared.tokens) - length))
        batch = _within(oldest + window, self._limits)
        taken = set(map(id, batch))
        self._queue = [job for job in self._queue if id(job) not in taken]
        if not self._queue:
            self._ready.clear()
        return batch

    def _tag_all(self, posts: Sequence[Prepared]) -> list[Tagged]:
        new = self._look_at_new(posts)
        inputs = [TaggingInput(tokens=post.tokens, features=_features(post.picture, new)) for post in posts]
        taggings = self._tagger.tag(inputs)
        results = []
        for post, tagging in zip(posts, taggings, strict=True):
            # The first post with a new picture takes its features home, so that they are cached once.
            fresh = new.pop(post.picture.digest, None) if post.picture else None
            features = None if fresh is None else fresh.numpy()
            results.append(Tagged(tagging=tagging, new_features=features))
        return results

    def _look_at_new(self, posts: Sequence[Prepared]) -> dict[str, torch.Tensor]:
        pixels = {post.picture.digest: post.picture.pixels for post in posts if isinstance(post.picture, FoundPixels)}
        if not pixels:
            return {}
        self._metrics.tower_images.inc(len(pixels))
        features = self._tagger.look(torch.from_numpy(np.stack(list(pixels.values()))))
        return dict(zip(pixels, features, strict=True))

    def _check_tagger(self, error: Exception) -> None:
        # A post that fails alone is to blame only where the tagger still does a harmless one;
        # without this check a broken device would turn the whole topic into dead letters.
        try:
            self._tagger.tag([TaggingInput(tokens=self._tagger.tokenize("a post"), features=None)])
        except Exception as second:
            raise TaggerBroken(
                f"the tagger fails on every post ({error!r}); restart the worker, or check the "
                "checkpoint and the device"
            ) from second


def _within(jobs: Sequence[_Job], limits: BatchLimits) -> list[_Job]:
    batch: list[_Job] = []
    images: set[str] = set()
    longest = 0
    for job in jobs:
        picture = job.prepared.picture
        new = {picture.digest} if isinstance(picture, FoundPixels) else set()
        longest = max(longest, len(job.prepared.tokens))
        full = (
            len(batch) >= limits.max_posts
            or longest * (len(batch) + 1) > limits.max_padded_tokens
            or len(images | new) > limits.max_images
        )
        if batch and full:
            break
        batch.append(job)
        images |= new
    return batch


def _features(picture: FoundFeatures | FoundPixels | None, new: dict[str, torch.Tensor]) -> torch.Tensor | None:
    if picture is None:
        return None
    if isinstance(picture, FoundFeatures):
        return torch.from_numpy(picture.features)
    return new[picture.digest]
