"""The bare model: the batches that a worker would make of some posts, played back with nothing around them."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from model.inference import Tagger
from model.tagging import Tagging, TaggingInput
from model.tokenizer import Token
from worker.batch_runner import BatchLimits, BatchRunner, Prepared
from worker.batches import Batcher
from worker.metrics import Metrics


class Playback:
    """What the worker's batcher asks of `tagger` for `posts` that all wait at once: its looks and its taggings.

    Batches are made by the worker's own code, so they are of like length and within its limits.
    """

    def __init__(self, tagger: Tagger, posts: Sequence[Prepared]) -> None:
        recorder = _Recorder(tagger)
        asyncio.run(_batch(recorder, posts))
        self.num_posts = len(posts)
        self._acts = recorder.acts
        self._acts[0]()  # what only the first batch costs

    def run(self) -> None:
        """All batches, one after another."""
        for act in self._acts:
            act()


class _Recorder:
    """Takes down what a tagger is asked, and answers at once."""

    def __init__(self, tagger: Tagger) -> None:
        self._tagger = tagger
        self.acts: list[Callable[[], object]] = []
        self.checkpoint_id, self.variant, self.uses_image = tagger.checkpoint_id, tagger.variant, tagger.uses_image

    def tokenize(self, text: str) -> tuple[Token, ...]:
        return self._tagger.tokenize(text)

    def look(self, pixels: np.ndarray) -> np.ndarray:
        self.acts.append(partial(self._tagger.look, pixels))
        return np.zeros((len(pixels), *self._tagger.feature_shape), np.float16)

    def tag(self, inputs: Sequence[TaggingInput]) -> list[Tagging]:
        self.acts.append(partial(self._tagger.tag, list(inputs)))
        return [Tagging()] * len(inputs)


async def _batch(recorder: _Recorder, posts: Sequence[Prepared]) -> None:
    metrics = Metrics()
    batcher, runner = Batcher(metrics), BatchRunner(recorder, BatchLimits(), metrics)
    waiting = [asyncio.ensure_future(batcher.tag(post, runner)) for post in posts]
    await asyncio.sleep(0)  # all of them stand in the queue before the first batch
    running = asyncio.create_task(batcher.run())
    try:
        await asyncio.gather(*waiting)
    finally:
        running.cancel()
        batcher.close()
