"""The device's path: posts with pixels, all waiting, through the worker's own Batcher and BatchRunner."""

import asyncio
import time
from collections.abc import Sequence

import numpy as np

from model.inference import Tagger
from model.tokenizer import Token
from worker.batch_runner import BatchLimits, BatchRunner, Prepared
from worker.batches import Batcher
from worker.images import FoundPixels
from worker.metrics import Metrics


def path_rate(
    tagger: Tagger,
    texts: Sequence[tuple[Token, ...]],
    pixels: Sequence[np.ndarray | None],
    limits: BatchLimits,
    *,
    ahead: bool,
) -> float:
    """Posts/s from when all wait to when the last is tagged; no two pictures are the same.

    `ahead`: whether the tower may look at a batch's pictures while another is tagged, as the worker has it.
    """
    posts = [
        Prepared(tokens=tokens, picture=None if each is None else FoundPixels(digest=str(number), pixels=each))
        for number, (tokens, each) in enumerate(zip(texts, pixels, strict=True))
    ]
    return asyncio.run(_run(tagger, posts, limits, ahead))


async def _run(tagger: Tagger, posts: Sequence[Prepared], limits: BatchLimits, ahead: bool) -> float:
    metrics = Metrics()
    runner = BatchRunner(tagger, limits, metrics, begin_look=tagger.begin_look if ahead else None)
    batcher = Batcher(metrics)
    waiting = [asyncio.ensure_future(batcher.tag(post, runner)) for post in posts]
    await asyncio.sleep(0)  # all of them stand in the queue before the first batch
    begun = time.perf_counter()
    running = asyncio.create_task(batcher.run())
    try:
        await asyncio.gather(*waiting)
        return len(posts) / (time.perf_counter() - begun)
    finally:
        running.cancel()
        batcher.close()
