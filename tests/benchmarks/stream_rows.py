"""Rows of the whole worker: Kafka, worker, Kafka, against the model with nothing around it.

A worker is started once a row, and stands idle while its baseline is measured in this process, with as many threads.
Each post shows a picture at a URL of its own: one of the photos in turn where they are known, a new one each where they
are cold.
"""

import asyncio
import hashlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from statistics import median

import numpy as np

from deploy.native.services import NativeRedis
from model.inference import Tagger
from model.pixels import read_pixels
from tests.benchmarks.bare import Playback
from tests.benchmarks.bench import Bench
from tests.benchmarks.capacity_worker import Sent, cycle
from tests.benchmarks.naive import naive_rate
from tests.benchmarks.rows import (
    Measured,
    Pairs,
    Reach,
    by_turns,
    compare_rates,
    compare_sizes,
    compare_times,
    row,
    seconds_of,
)
from tests.benchmarks.stream import Pass, Stream, stream
from worker.batch_runner import BatchLimits, Prepared
from worker.cache import CacheLimits, RedisCache
from worker.image_cache import ImageCache
from worker.images import FoundFeatures, FoundPixels
from worker.settings import Settings

Pictures = Mapping[int, FoundFeatures | FoundPixels]

NUM_KNOWN = 2000
NUM_WARM_UP = 256
KNOWN_AT_ONCE = 64
"""URLs that are written to the cache at once, each within its deadline."""
NUM_CAPTIONS = 2000
NUM_NEW = 128
NUM_NAIVE = 32
HOST_SECONDS = 0.05
PACED_SECONDS = 12.0
LOAD_SHARE = 0.7
BATCHES_OF_PATIENCE = 1.5


@dataclass(frozen=True, slots=True)
class KnownPass:
    """A pass with pictures whose features are cached; the bare tagger's rate on the same posts, and its cost of one."""

    worker: Pass
    bare_rate: float
    bare_cpu_seconds: float


def known_passes(bench: Bench) -> list[KnownPass]:
    """The passes of which several rows tell."""
    photos = bench.posts.photos
    features = _features_of(bench.tagger, photos)
    passes = []
    with stream(bench, photos) as each:
        _run_known(bench, each, features, NUM_WARM_UP)
        for _ in range(bench.rounds):
            done = _run_known(bench, each, features, bench.scale * NUM_KNOWN)
            playback = playback_of(bench.tagger, done.sent, features)
            cpu_begun = time.thread_time()
            seconds = seconds_of(playback.run)
            cpu = time.thread_time() - cpu_begun
            passes.append(KnownPass(done, len(done.sent) / seconds, cpu / len(done.sent)))
    return passes


def _run_known(bench: Bench, each: Stream, features: Mapping[int, FoundFeatures], num_posts: int) -> Pass:
    _know(bench, each, features, num_posts)
    return each.run(num_posts, cycle(len(features)))


def _know(bench: Bench, each: Stream, features: Mapping[int, FoundFeatures], num_posts: int) -> None:
    """Have the cache know what the next `num_posts` posts show, as other posts at the same URLs would have left it."""

    async def keep() -> None:
        store = RedisCache(each.redis, CacheLimits(timeout_seconds=10.0))
        cache = ImageCache(store, bench.tagger.tower_digest, bench.tagger.feature_shape)
        for found in features.values():
            cache.keep_features(found.digest, found.features)
        first = each.next_post()
        for number, picture in enumerate(islice(cycle(len(features)), num_posts), start=first):
            cache.keep_digest(each.load.url_of(number, picture), features[picture].digest)
            if number % KNOWN_AT_ONCE == 0:
                await cache.settle()
        await cache.settle()
        await store.close()

    asyncio.run(keep())


def _features_of(tagger: Tagger, photos: Sequence[bytes]) -> dict[int, FoundFeatures]:
    looked = map(partial(_look, tagger), photos)
    return {number: FoundFeatures(digest=digest, features=found) for number, (digest, found) in enumerate(looked)}


def bare_rate(tagger: Tagger, sent: Sequence[Sent], pictures: Pictures) -> float:
    """Posts/s of the tower and the tagger alone, on the batches that the worker makes of what was sent."""
    return len(sent) / seconds_of(playback_of(tagger, sent, pictures).run)


def playback_of(tagger: Tagger, sent: Sequence[Sent], pictures: Pictures) -> Playback:
    """Those batches; `pictures` by their numbers."""
    return Playback(
        tagger,
        [
            Prepared(
                tokens=tagger.tokenize(post.text),
                picture=None if post.picture is None else pictures[post.picture],
            )
            for post in sent
        ],
    )


@row(
    "posts/s through Kafka, worker, Kafka, images cached as features",
    against="bare tagger on the same prepared batches",
    reach=Reach("≥", 0.90),
)
def stream_known(bench: Bench) -> Measured:
    """Redis has the features of all pictures."""
    passes = bench.keep(known_passes)
    cost = median(each.worker.change["cpu"] / each.worker.change["nametag_batch_posts_sum"] for each in passes)
    num_posts, num_looks = (
        sum(each.worker.change[name] for each in passes)
        for name in ("nametag_batch_posts_sum", "nametag_tower_images_total")
    )
    bare_cost = median(each.bare_cpu_seconds for each in passes)
    return compare_rates(
        [(each.worker.rate, each.bare_rate) for each in passes],
        "posts/s",
        note=f"processor time a post: worker {1000 * cost:.1f} ms, bare tagger {1000 * bare_cost:.1f} ms; "
        f"of {num_posts:.0f} posts {num_looks:.0f} were looked at although their features are cached",
    )


@row("the same with cold images", against="bare visual tower + tagger", reach=Reach("≥", 0.90))
def stream_cold(bench: Bench) -> Measured:
    """No picture was seen before, and each post has another: all are fetched, decoded and looked at.

    The tower and the tagger have decoded pixels before them.
    """
    pictures = bench.posts.new_pictures(bench.rounds * bench.scale * NUM_NEW)
    pairs = []
    with stream(bench, pictures) as each:
        for numbers in _rounds(bench):
            done = each.run(len(numbers), iter(numbers))
            pixels = {number: _found_pixels(pictures[number]) for number in numbers}
            pairs.append((done.rate, bare_rate(bench.tagger, done.sent, pixels)))
    return compare_rates(pairs, "posts/s")


@row(
    "the same, cold, image host 50 ms away",
    against="the naive loop: poll, fetch, decode, infer one, send, commit",
    reach=Reach("≥", 8.0),
)
def stream_far(bench: Bench) -> Measured:
    """The host answers each request after 50 ms. The loop does the first of the same posts."""
    pictures = bench.posts.new_pictures(bench.rounds * bench.scale * NUM_NEW)
    pairs = []
    with stream(bench, pictures, host_delay=HOST_SECONDS) as each:
        for numbers in _rounds(bench):
            done = each.run(len(numbers), iter(numbers))
            pairs.append((done.rate, naive_rate(bench.tagger, bench.kafka, done.sent[:NUM_NAIVE], each.load.origin)))
    return compare_rates(pairs, "posts/s")


def _rounds(bench: Bench) -> Iterator[range]:
    """The numbers of each round's new pictures."""
    for number in range(bench.rounds):
        yield range(number * bench.scale * NUM_NEW, (number + 1) * bench.scale * NUM_NEW)


def _found_pixels(data: bytes) -> FoundPixels:
    pixels = read_pixels(data)
    return FoundPixels(digest=hashlib.sha256(pixels.tobytes()).hexdigest(), pixels=pixels)


@row("warm feature cache, ms a picture", against="cold", reach=Reach("≥", 20.0))
def feature_cache(bench: Bench) -> Measured:
    """What a picture costs before the tagger, fetching left out.

    Warm: Redis is asked for the URL's pixel digest and for the features, one picture at a time, and they are unpacked.
    Cold: the picture is decoded and the tower looks at it alone, which is its cheapest way.
    """
    with NativeRedis() as redis:
        return compare_times(asyncio.run(_look_up_photos(bench, redis.address)), "ms")


async def _look_up_photos(bench: Bench, redis: str) -> Pairs:
    photos, tagger = bench.posts.photos, bench.tagger
    store = RedisCache(redis, CacheLimits())
    cache = ImageCache(store, tagger.tower_digest, tagger.feature_shape)
    pairs = []
    for _ in range(bench.quick_rounds):
        begun = time.perf_counter()
        looked = [_look(tagger, photo) for photo in photos]
        between = time.perf_counter()
        for number, (digest, features) in enumerate(looked):
            cache.keep_digest(str(number), digest)
            cache.keep_features(digest, features)
        await cache.settle()
        warm_from = time.perf_counter()
        for number in range(len(photos)):
            reads = cache.reads()
            seen = await reads.seen(str(number))
            if seen is None or seen.digest is None or await reads.features(seen.digest) is None:
                raise RuntimeError("a picture isn't in the cache, though it was written; run it again")
        warm_until = time.perf_counter()
        scale = 1000 / len(photos)
        pairs.append(((warm_until - warm_from) * scale, (between - begun) * scale))
    await store.close()
    return pairs


def _look(tagger: Tagger, data: bytes) -> tuple[str, np.ndarray]:
    found = _found_pixels(data)
    return found.digest, tagger.look(found.pixels[None])[0]


@row("p99 latency at 70 % load", against="longest wait + 1.5 batches", reach=Reach("≤", 1.0))
def latency(bench: Bench) -> Measured:
    """From when a post is handed to a producer to when a reader of committed events has its event.

    The longest wait is `flush_seconds`, the least between two publications: no other setting lets a post wait that
    could go on, for the batcher takes what is there. A batch is one of 32 posts on the bare tagger. The load is 70 % of
    what the same worker did all at once just before.
    """
    photos = bench.posts.photos
    longest_wait = Settings.model_fields["flush_seconds"].default
    features = _features_of(bench.tagger, photos)
    pairs = []
    with stream(bench, photos) as each:
        _run_known(bench, each, features, NUM_WARM_UP)
        for _ in range(bench.rounds):
            done = _run_known(bench, each, features, bench.scale * NUM_KNOWN)
            batch_seconds = BatchLimits().max_posts / bare_rate(bench.tagger, done.sent, features)
            rate = LOAD_SHARE * done.rate
            _know(bench, each, features, math.ceil(rate * PACED_SECONDS) + 1)
            waits = each.run_paced(rate, PACED_SECONDS, cycle(len(photos)))
            p99 = float(np.quantile(waits, 0.99))
            pairs.append((p99, longest_wait + BATCHES_OF_PATIENCE * batch_seconds))
    return compare_sizes(pairs, "s")


@row("device idle while there is lag", reach=Reach("≤", 0.05))
def device_idle(bench: Bench) -> Measured:
    """Share of the time in which the device had no batch, by the worker's own `nametag_device_busy_seconds_total`.

    Of the passes with cached features, from their first events to three quarters, when posts always wait. A batch is
    counted at its end, so a share may be wrong by one batch, and then even below 0.
    """
    changes = [each.worker.change for each in bench.keep(known_passes)]
    idle = [1 - change["nametag_device_busy_seconds_total"] / change["time"] for change in changes]
    return Measured(figures=idle, unit="of the time")


@row("real tokens of all padded tokens", reach=Reach("≥", 0.90))
def real_tokens(bench: Bench) -> Measured:
    """By the worker's own `nametag_batch_tokens_total`, in the same passes."""
    shares = []
    for each in bench.keep(known_passes):
        real, padding = (
            each.worker.change[f'nametag_batch_tokens_total{{kind="{kind}"}}'] for kind in ("post", "padding")
        )
        shares.append(real / (real + padding))
    return Measured(figures=shares, unit="of the tokens")


@row("exactly-once, posts/s", against="at-least-once", reach=Reach("≥", 0.95))
def delivery(bench: Bench) -> Measured:
    """The same captions, without pictures, through a worker of either kind; the other one stands idle meanwhile."""
    with (
        stream(bench, [], settings={"NAMETAG_KAFKA__DELIVERY": "exactly_once"}) as exactly,
        stream(bench, [], settings={"NAMETAG_KAFKA__DELIVERY": "at_least_once"}) as at_least,
    ):
        num = bench.scale * NUM_CAPTIONS
        rates = by_turns(lambda: exactly.run(num).rate, lambda: at_least.run(num).rate, bench.rounds)
    return compare_rates(rates, "posts/s")


@row("two workers, a core each, posts/s", against="one worker on a core", reach=Reach("≥", 1.8))
def two_workers(bench: Bench) -> Measured:
    """Cold pictures, so that the tower takes nearly all of the time; broker, Redis and image host share the cores."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise RuntimeError("two workers need two cores; there is one")
    pictures = bench.posts.new_pictures(bench.rounds * bench.scale * NUM_NEW)
    one_thread = {"NAMETAG_THREADS": "1"}
    with (
        stream(bench, pictures, settings=one_thread, cores=cores) as two,
        stream(bench, pictures, settings=one_thread, cores=cores[:1]) as one,
    ):
        pairs = [(two.run(len(n), iter(n)).rate, one.run(len(n), iter(n)).rate) for n in _rounds(bench)]
    return compare_rates(pairs, "posts/s")
