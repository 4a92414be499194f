"""The data flow of nametag, to be read from top to bottom.

    take in   a message from the source, when there is room for it
    prepare   the post's tokens; its picture's features from the cache, else its pixels
    tag       one batch on the device (worker/batches.py)
    finish    an entity event, or a dead letter
    publish   what the ledger releases, each partition in order; then commit the offsets

What happens with an error:

| raised | by | then |
|---|---|---|
| BadMessage | reading the post | dead letter with its reason |
| ImageError | picture: fetch, check, decode | the caption is tagged alone, the event says why |
| TaggingFailed | this post, alone on the device | dead letter `tagging_failed` |
| PublishAborted | the sink: nothing became visible | publish the same again, a little later |
| PublishUnsettled | the sink: nobody knows | forget all, read again from the last commit |
| TaggerBroken, SinkUnavailable, SourceUnavailable, anything else | | stop, nothing more is committed |
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from consumers.errors import BadMessage, Reason
from consumers.image_status import ImageStatus
from consumers.messages import (
    REGIONS_PER_SIDE,
    CheckpointName,
    DeadLetter,
    EntityEvent,
    ImageChoice,
    ImageReport,
    PositionReport,
    Post,
    Scissors,
    read_post,
)
from consumers.source import Message, Offsets, Partition, PostSource
from model.tokenizer import Token
from worker.batches import Batcher, PostTagger, Prepared, Tagged
from worker.errors import ImageError, PublishAborted, PublishUnsettled, TaggingFailed, WorkerError
from worker.images import FoundFeatures, FoundPixels, ImageSource
from worker.ledger import OffsetLedger
from worker.metrics import Metrics
from worker.publish import EventSink, Outcome
from worker.room import Room, RoomLimits

log = logging.getLogger("nametag.pipeline")

LONGEST_PAUSE_SECONDS = 5.0
LONG_TEXT = 10_000
"""Code points from which on a text is split into tokens beside asyncio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """How posts are read and events written.

    Two publications begin at least `flush_seconds` apart, unless half of the room is taken: a
    transaction costs the brokers the same for one event as for a hundred.
    """

    max_post_bytes: int = 256 * 1024
    max_post_tokens: int = 5000
    image_choice: ImageChoice = "first"
    include_text: bool = True
    include_attention: bool = False
    drain_seconds: float = 20.0
    flush_seconds: float = 0.1
    room: RoomLimits = RoomLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the pipeline is wired to: the four seams, and its counters."""

    source: PostSource
    images: ImageSource
    tagger: PostTagger
    batcher: Batcher
    sink: EventSink
    metrics: Metrics


class Pipeline:
    """Posts in, events and dead letters out; nothing is committed before it is acknowledged."""

    def __init__(
        self,
        parts: Parts,
        config: PipelineConfig,
        on_outcome: Callable[[Outcome], None] | None = None,
    ) -> None:
        self._parts = parts
        self._config = config
        self._on_outcome = on_outcome
        self._room = Room(config.room)
        self._ledger: OffsetLedger[Outcome] = OffsetLedger()
        self._finished = asyncio.Event()
        self._publishing = asyncio.Lock()
        self._acknowledged: dict[Partition, int] = {}
        self._arrived: deque[Message] = deque()
        self._is_running = False
        self._is_unsettled = False
        self._flushed_at = float("-inf")

    @property
    def is_ready(self) -> bool:
        """Whether posts that come now are tagged."""
        return self._is_running and self._parts.source.is_ready

    async def run(self, stop: asyncio.Event) -> None:
        """Run until the source ends, or until `stop` is set and what is under way is finished.

        Raises an ExceptionGroup with what stopped it, where that was an error.
        """
        async with AsyncExitStack() as stack:
            # Left in the opposite order: the last events go out, then the group, then the producer.
            stack.push_async_callback(self._parts.sink.close)
            stack.push_async_callback(self._parts.source.close)
            await self._parts.source.start(self._give_up)
            await self._parts.sink.start()
            self._is_running = True
            try:
                async with asyncio.TaskGroup() as tasks:
                    helpers = [
                        tasks.create_task(self._publish_finished()),
                        tasks.create_task(self._parts.batcher.run()),
                        tasks.create_task(self._stop_intake_after(stop)),
                    ]
                    posts = await self._take_in(tasks)
                    await self._drain(stop)
                    for task in [*helpers, *posts]:
                        task.cancel()
            finally:
                self._is_running = False
                self._parts.batcher.close()

    async def _take_in(self, tasks: asyncio.TaskGroup) -> set[asyncio.Task[None]]:
        posts: set[asyncio.Task[None]] = set()
        while messages := await self._parts.source.receive():
            self._arrived.extend(messages)
            while self._arrived:
                message = self._arrived[0]
                await self._room.enter(message.num_bytes)
                if not self._arrived or self._arrived[0] is not message:
                    # Its partition was given up, or the intake stopped, while it waited for room.
                    await self._room.leave(message.num_bytes)
                    continue
                self._arrived.popleft()
                self._parts.metrics.received.inc()
                self._parts.metrics.in_flight.inc()
                self._ledger.open(message)
                task = tasks.create_task(self._process(message))
                posts.add(task)
                task.add_done_callback(posts.discard)
        return posts

    async def _process(self, message: Message) -> None:
        """From message to outcome."""
        try:
            post = read_post(message, max_bytes=self._config.max_post_bytes)
            with self._parts.metrics.stage("prepare"):
                prepared, report = await self._prepare(post)
            tagged = await self._parts.batcher.tag(prepared) if prepared.tokens else None
            if tagged and prepared.picture and tagged.new_features is not None:
                await self._parts.images.remember(prepared.picture.digest, tagged.new_features)
            outcome: Outcome = self._finish(message, post, tagged, report)
        except BadMessage as error:
            outcome = DeadLetter.of(message, error.reason, str(error))
        except TaggingFailed as error:
            outcome = DeadLetter.of(message, Reason.TAGGING_FAILED, str(error))
        if self._ledger.complete(message, outcome):
            self._finished.set()

    async def _prepare(self, post: Post) -> tuple[Prepared, ImageReport]:
        tokens = await self._tokenize(post.shown.text)
        url = post.choose_image(self._config.image_choice)
        if url is None or not self._parts.tagger.uses_image or not tokens:
            return Prepared(tokens=tokens), ImageReport(status=ImageStatus.NONE, url=url)
        picture: FoundFeatures | FoundPixels
        try:
            picture = await self._parts.images.look_up(url)
        except ImageError as error:
            return Prepared(tokens=tokens), ImageReport(status=error.status, url=url)
        report = ImageReport(status=ImageStatus.USED, url=url, digest=picture.digest)
        return Prepared(tokens=tokens, picture=picture), report

    async def _tokenize(self, text: str) -> tuple[Token, ...]:
        tokenize = self._parts.tagger.tokenize
        # A text of a megabyte takes seconds, which asyncio can't spare.
        tokens = tokenize(text) if len(text) <= LONG_TEXT else await asyncio.to_thread(tokenize, text)
        if len(tokens) > self._config.max_post_tokens:
            raise BadMessage(
                Reason.TOO_LARGE,
                f"the post has {len(tokens)} tokens; the limit is {self._config.max_post_tokens} (max_post_tokens)",
            )
        return tokens

    def _finish(self, message: Message, post: Post, tagged: Tagged | None, report: ImageReport) -> EntityEvent:
        spans = tagged.tagging.spans if tagged else ()
        scissors = Scissors(post.text)
        if tagged and self._config.include_attention and tagged.tagging.attention and report.digest:
            report = report.model_copy(update={"attention": _rows(tagged.tagging.attention)})
        return EntityEvent(
            id=post.id,
            source=post.source,
            lang=post.lang,
            created_at=post.created_at,
            tagged_at=datetime.now(UTC),
            text=post.text if self._config.include_text else None,
            entities=tuple(
                scissors.cut(
                    type=span.type,
                    start=post.shown.delivered(span.start),
                    end=post.shown.delivered(span.end),
                    confidence=span.confidence,
                )
                for span in spans
            ),
            image=report,
            checkpoint=CheckpointName(id=self._parts.tagger.checkpoint_id, variant=self._parts.tagger.variant),
            position=PositionReport.of(message.position),
        )

    async def _publish_finished(self) -> None:
        num_failures = 0
        while True:
            await self._finished.wait()
            await self._wait_for_flush()
            self._finished.clear()
            try:
                async with self._publishing:
                    offsets = await self._publish()
            except PublishAborted as error:
                num_failures += 1
                await self._pause(num_failures, error)
            except PublishUnsettled as error:
                num_failures += 1
                await self._pause(num_failures, error)
                await self._read_again()
            else:
                num_failures = 0
                # Outside the lock: a rebalance that waits for the lock must not wait for its own commit.
                if offsets and not self._parts.sink.commits_offsets:
                    await self._parts.source.commit(offsets)

    async def _wait_for_flush(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._flushed_at + self._config.flush_seconds):
                await self._room.wait_half_full()
        self._flushed_at = asyncio.get_running_loop().time()

    async def _publish(self, partitions: frozenset[Partition] | None = None) -> Offsets:
        """Publish what is finished, and settle it; the caller holds the lock."""
        if self._is_unsettled:
            raise PublishUnsettled("an earlier publication may still go out")
        # Before the choice: what a rebalance takes away after it, this membership can't commit.
        membership = self._parts.source.membership
        release = self._ledger.finished(partitions)
        if not release.outcomes:
            return {}
        try:
            with self._parts.metrics.stage("publish"):
                await self._parts.sink.publish(release.outcomes, release.offsets, membership)
        except (PublishUnsettled, asyncio.CancelledError):
            # It may still go out, so the same must not be published again before the offsets are read.
            self._is_unsettled = True
            self._finished.set()
            raise
        if not self._parts.sink.commits_offsets:
            self._acknowledged.update(release.offsets)
        for message, outcome in self._ledger.settle(release):
            await self._leave(message)
            self._count(outcome)
        log.info("published", extra={"num_posts": len(release.outcomes), "offsets": _readable(release.offsets)})
        return release.offsets

    async def _pause(self, num_failures: int, error: WorkerError) -> None:
        seconds = min(LONGEST_PAUSE_SECONDS, 0.05 * 2 ** min(num_failures, 10)) * random.uniform(0.5, 1)
        log.warning("publish_retried", extra={"reason": str(error), "num_failures": num_failures, "seconds": seconds})
        self._parts.metrics.publish_failures.labels(type(error).__name__).inc()
        await asyncio.sleep(seconds)
        self._finished.set()

    async def _read_again(self) -> None:
        """Forget all that is under way, and let the source begin at the last commit."""
        dropped: list[Message] = []

        def forget() -> None:
            self._arrived.clear()
            dropped.extend(self._ledger.forget())
            self._acknowledged.clear()
            self._is_unsettled = False

        # Without the lock: a rebalance that waits for it would hold up the poller, which has to rewind.
        await self._parts.source.rewind(forget)
        await self._drop(dropped)

    async def _give_up(self, partitions: frozenset[Partition]) -> Offsets:
        """Before `partitions` go to another worker: publish what is finished, forget the rest."""
        self._arrived = deque(m for m in self._arrived if m.position.partition not in partitions)
        try:
            async with self._publishing:
                await self._publish(partitions)
        except (PublishAborted, PublishUnsettled) as error:
            # The next owner reads from the last commit, whichever that is.
            log.warning("publish_given_up", extra={"reason": str(error)})
        finally:
            # Also at the rebalance's deadline: what is no longer ours must not be published later on.
            dropped = self._ledger.forget(partitions)
            await self._drop(dropped)
        log.info("gave_up", extra={"partitions": sorted(map(str, partitions)), "num_dropped": len(dropped)})
        return {
            partition: self._acknowledged.pop(partition) for partition in partitions if partition in self._acknowledged
        }

    async def _drop(self, messages: list[Message]) -> None:
        self._parts.metrics.dropped.inc(len(messages))
        for message in messages:
            await self._leave(message)

    async def _leave(self, message: Message) -> None:
        await self._room.leave(message.num_bytes)
        self._parts.metrics.in_flight.dec()

    async def _stop_intake_after(self, stop: asyncio.Event) -> None:
        await stop.wait()
        log.info("stopping", extra={"num_in_flight": self._room.num_posts})
        self._arrived.clear()
        await self._parts.source.stop_intake()

    async def _drain(self, stop: asyncio.Event) -> None:
        """Wait for what is under way, once asked to stop for no longer than the drain's deadline."""
        empty = asyncio.create_task(self._room.wait_empty())
        asked = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({empty, asked}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({empty}, timeout=self._config.drain_seconds)
            if not empty.done():
                log.warning("drain_deadline", extra={"num_left": self._room.num_posts})
            # The publisher commits after the room is empty; this waits for its last commit's start.
            async with self._publishing:
                offsets = dict(self._acknowledged)
            if offsets:
                await self._parts.source.commit(offsets)
        finally:
            empty.cancel()
            asked.cancel()

    def _count(self, outcome: Outcome) -> None:
        metrics = self._parts.metrics
        if isinstance(outcome, EntityEvent):
            metrics.posts.labels("event").inc()
            metrics.images.labels(outcome.image.status).inc()
            for entity in outcome.entities:
                metrics.entities.labels(entity.type).inc()
        else:
            metrics.posts.labels("dead_letter").inc()
            metrics.dead_letters.labels(outcome.reason).inc()
        if self._on_outcome is not None:
            self._on_outcome(outcome)


def _rows(attention: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    side = REGIONS_PER_SIDE
    return tuple(attention[row * side : (row + 1) * side] for row in range(side))


def _readable(offsets: Offsets) -> dict[str, int]:
    return {str(partition): offset for partition, offset in offsets.items()}
