"""The data flow of nametag, to be read from top to bottom.

    take in   a message from the source, when there is room for it
    prepare   the post's tokens; its picture's features from the cache, else its pixels
    tag       one batch on the device (worker/batches.py)
    finish    an entity event, a dead letter, or for a delete a tombstone
    publish   what is finished, each partition in order; then its offsets (worker/publisher.py)

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
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from consumers.dead_letters import DeadLetter
from consumers.deletes import Delete, Notice, Tombstone
from consumers.errors import BadMessage, Reason
from consumers.events import EntityEvent
from consumers.posts import Post, ids_of_bad, read_message
from consumers.source import Message, Offsets, Partition, PostSource
from worker.batches import Batcher
from worker.checkpoints import Checkpoints
from worker.deletions import Deletions
from worker.desk import Desk, DeskConfig
from worker.errors import TaggingFailed
from worker.live import LiveHub
from worker.metrics import Metrics
from worker.pipeline_state import PipelineState, state_of
from worker.publish import Arrival, EventSink, Finished, Outcome, Passed
from worker.publisher import Publisher
from worker.room import Room, RoomLimits
from worker.stopping import Stopped, unless_stopped
from worker.tracing import NO_SPANS, PostTrace, Tracing

log = logging.getLogger("nametag.pipeline")

INTAKE_STEP = 16
"""Posts that are taken in before asyncio goes on with others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """How posts are read and events written; `flush_seconds` is the publisher's.

    `shutdown_seconds` are for all of a shutdown: what is under way, the last commit, and the goodbyes.
    """

    max_post_bytes: int = 256 * 1024
    desk: DeskConfig = DeskConfig()
    shutdown_seconds: float = 20.0
    flush_seconds: float = 0.25
    room: RoomLimits = RoomLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the pipeline is wired to: its source and its sink, what tags in between, and its counters."""

    source: PostSource
    checkpoints: Checkpoints
    batcher: Batcher
    sink: EventSink
    metrics: Metrics
    tracing: Tracing = NO_SPANS


class Pipeline:
    """Posts in, events and dead letters out; nothing is committed before it is acknowledged."""

    def __init__(
        self,
        parts: Parts,
        config: PipelineConfig,
        on_outcome: Callable[[Outcome], None] | None = None,
        live: LiveHub | None = None,
    ) -> None:
        self._parts = parts
        self._config = config
        self._on_outcome = on_outcome
        self._live = live
        self._room = Room(config.room)
        # Of whichever checkpoint: what is kept for one tower is forgotten for all.
        self._images = parts.checkpoints.current.images
        self._deletions = Deletions(self._images, parts.metrics)
        self._desk = Desk(parts.checkpoints, parts.batcher, parts.metrics, config.desk)
        self._publisher = Publisher(
            parts.source,
            parts.sink,
            self._room,
            parts.metrics,
            flush_seconds=config.flush_seconds,
            is_deleted=self._deletions.covers,
            on_published=self._count,
        )
        self._arrived: deque[Message] = deque()
        self._num_opened = 0
        self._is_running = False
        self._shutdown_at: float | None = None

    @property
    def unready(self) -> str | None:
        """Why posts that come now aren't tagged; None where they are."""
        if self._shutdown_at is not None:
            return "stopping"
        return self._parts.source.unready if self._is_running else "starting"

    @property
    def is_running(self) -> bool:
        """Whether there is somebody to tag."""
        return self._is_running

    async def tag_alone(self, post: Post, message: Message) -> EntityEvent:
        """The event of a post that the source didn't bring: nothing is published, counted or noted for its delete.

        Raises `BadMessage`, `TaggingFailed` and `TaggerBroken`.
        """
        work = await self._desk.tag(post, noted_as=None)
        self._desk.remember(work)
        return self._desk.event(work, message)

    def state(self) -> PipelineState:
        """How it stands now; for asyncio's loop, on which all of it lives."""
        parts = self._parts
        waiting = {"images": self._images.num_under_way, "device": parts.batcher.num_waiting}
        return state_of(parts.source.backlog, self._arrived, self._publisher.ledger, waiting)

    async def run(self, stop: asyncio.Event) -> None:
        """Run until the source ends, or until `stop` is set and what is under way is finished.

        Raises an ExceptionGroup with what stopped it, where that was an error.
        """
        async with AsyncExitStack() as stack:
            # Left in the opposite order: the last events go out, then the group, then the producer.
            stack.push_async_callback(self._leave, self._parts.sink.close, by=1.0)
            stack.push_async_callback(self._leave, self._parts.source.close, by=0.9)
            try:
                await unless_stopped(stop, self._start())
            except Stopped:
                return
            self._is_running = True
            try:
                async with asyncio.TaskGroup() as tasks:
                    helpers = [
                        tasks.create_task(self._publisher.run(forget_arrived=self._forget_arrived)),
                        tasks.create_task(self._parts.batcher.run()),
                        tasks.create_task(self._parts.checkpoints.run()),
                        tasks.create_task(self._stop_intake_after(stop)),
                    ]
                    posts = await self._take_in(tasks)
                    await self._drain(stop)
                    for task in [*helpers, *posts]:
                        task.cancel()
            finally:
                self._is_running = False
                self._parts.batcher.close()

    async def _start(self) -> None:
        await self._parts.source.start(self._give_up)
        await self._parts.sink.start()

    async def _take_in(self, tasks: asyncio.TaskGroup) -> set[asyncio.Task[None]]:
        posts: set[asyncio.Task[None]] = set()
        while messages := await self._parts.source.receive():
            self._arrived.extend(messages)
            while self._arrived:
                message = self._arrived[0]
                if not await self._room.enter(message.num_bytes):
                    return posts
                if not self._arrived or self._arrived[0] is not message:
                    # Its partition was given up while it waited for room.
                    await self._room.leave(message.num_bytes)
                    continue
                self._arrived.popleft()
                self._parts.metrics.received.inc()
                self._publisher.open(message)
                self._num_opened += 1
                task = tasks.create_task(self._process(Arrival(message, self._num_opened)))
                posts.add(task)
                task.add_done_callback(posts.discard)
                if self._num_opened % INTAKE_STEP == 0:
                    # A thousand posts that begin at one blow would hold up all answers beyond their deadlines.
                    await asyncio.sleep(0)
        return posts

    async def _process(self, arrival: Arrival) -> None:
        """From message to outcome."""
        message = arrival.message
        trace = self._parts.tracing.begin(message)
        post_ids: tuple[str, ...] = ()
        try:
            found = read_message(message, max_bytes=self._config.max_post_bytes)
            post_ids = (found.id,) if isinstance(found, Post) else ()
            fate = await self._fate(found, arrival, trace)
        except BadMessage as error:
            fate = DeadLetter.of(message, error.reason, str(error))
            post_ids = post_ids or ids_of_bad(message, error)
        except TaggingFailed as error:
            fate = DeadLetter.of(message, Reason.TAGGING_FAILED, str(error), num_tries=error.num_tries)
        if isinstance(fate, DeadLetter):
            if await self._deletions.cover(post_ids, arrival):
                fate = Passed.SUPPRESSED
        elif not isinstance(fate, Passed):
            # A letter has all headers of its message anyway.
            fate.traced(trace.headers)
        self._publisher.complete(message, Finished(fate, arrival, post_ids, trace))

    async def _fate(self, found: Post | Delete | Notice, arrival: Arrival, trace: PostTrace) -> Outcome | Passed:
        if isinstance(found, Notice):
            return Passed.NOTICE
        if isinstance(found, Delete):
            return await self._deletions.obey(found, arrival)
        return await self._tag(found, arrival, trace)

    async def _tag(self, post: Post, arrival: Arrival, trace: PostTrace) -> Outcome | Passed:
        work = await self._desk.tag(post, noted_as=post.id, trace=trace)
        if await self._deletions.cover((post.id,), arrival):
            return Passed.SUPPRESSED
        self._desk.remember(work)
        if self._live is not None:
            self._live.tagged(post.id, arrival.message.position, work.tagged, work.prepared.picture)
        return self._desk.event(work, arrival.message)

    def _forget_arrived(self) -> None:
        self._arrived.clear()

    async def _give_up(self, partitions: frozenset[Partition]) -> Offsets:
        self._arrived = deque(m for m in self._arrived if m.position.partition not in partitions)
        return await self._publisher.give_up(partitions)

    async def _stop_intake_after(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._until(1.0)
        log.info("stopping", extra={"num_in_flight": self._room.num_posts})
        self._arrived.clear()
        await self._room.close()
        await self._parts.source.stop_intake()

    async def _drain(self, stop: asyncio.Event) -> None:
        """Wait for what is under way; once asked to stop, for three quarters of the time there is."""
        empty = asyncio.create_task(self._room.wait_empty())
        asked = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({empty, asked}, return_when=asyncio.FIRST_COMPLETED)
            async with asyncio.timeout_at(self._until(0.75)):
                await asyncio.wait({empty})
                # The room is empty before the publisher commits.
                await self._publisher.commit_last()
        except TimeoutError:
            log.warning("drain_deadline", extra={"num_left": self._room.num_posts})
        finally:
            empty.cancel()
            asked.cancel()

    async def _leave(self, close: Callable[[], Awaitable[None]], *, by: float) -> None:
        try:
            async with asyncio.timeout_at(self._until(by)):
                await close()
        except TimeoutError:
            # What isn't told goodbye finds out by itself, and nothing is lost by it: no offset moves.
            log.warning("close_deadline", extra={"seconds": self._config.shutdown_seconds})

    def _until(self, share: float) -> float:
        """When `share` of the time for a shutdown is over, which begins with the first call; in asyncio's time."""
        seconds = self._config.shutdown_seconds
        if self._shutdown_at is None:
            self._shutdown_at = asyncio.get_running_loop().time() + seconds
        return self._shutdown_at - (1 - share) * seconds

    def _count(self, outcome: Outcome | Passed) -> None:
        metrics = self._parts.metrics
        if isinstance(outcome, Passed):
            metrics.posts.labels(outcome).inc()
            return
        if isinstance(outcome, Tombstone):
            metrics.posts.labels("tombstone").inc()
        elif isinstance(outcome, EntityEvent):
            metrics.posts.labels("event").inc()
            metrics.images.labels(outcome.image.status).inc()
            for entity in outcome.entities:
                metrics.entities.labels(entity.type).inc()
        else:
            metrics.posts.labels("dead_letter").inc()
            metrics.dead_letters.labels(outcome.reason).inc()
        if self._live is not None:
            self._live.published(outcome)
        if self._on_outcome is not None:
            self._on_outcome(outcome)
