"""The data flow on stand-ins for the four seams: what is published, in which order, and what is committed when.

The end-to-end tests hold the same on a real Kafka and a real Redis.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from consumers.dead_letters import DeadLetter
from consumers.deletes import Tombstone
from consumers.errors import BadMessage, Reason
from consumers.events import EntityEvent
from consumers.image_status import ImageStatus
from consumers.posts import Post, PostImage
from consumers.source import Message, Offsets, Partition, Position, RevokeListener
from model.tagging import TaggedSpan, Tagging, TaggingInput
from model.tokenizer import Token, tokenize
from worker.batch_runner import BatchLimits, BatchRunner
from worker.batches import Batcher
from worker.cache import CacheUnsure
from worker.checkpoints import Checkpoints, InUse
from worker.desk import DeskConfig
from worker.errors import ImageError, PublishAborted, PublishUnsettled, SinkUnavailable, TaggerBroken
from worker.images import FoundFeatures, FoundPixels
from worker.live import LiveHub
from worker.metrics import Metrics
from worker.pipeline import Parts, Pipeline, PipelineConfig
from worker.publish import Outcome
from worker.room import RoomLimits

FIRST, SECOND = Partition("posts", 0), Partition("posts", 1)
SECONDS = 10
"""Longer than any scenario takes; one that hangs fails."""


def post(offset: int, partition: Partition = FIRST, **fields: object) -> Message:
    body = {"id": f"{partition.number}-{offset}", "text": "Anna is here", **fields}
    return Message(position=Position(partition, offset), value=json.dumps(body).encode())


class Source:
    """Hands out what the test gives it, and notes what is committed."""

    unready: str | None = None
    backlog: Mapping[Partition, int] = {}

    def __init__(self, world: "World") -> None:
        self.world = world
        self.queue: asyncio.Queue[Sequence[Message]] = asyncio.Queue()
        self.stopped = False
        self.committed: dict[Partition, int] = {}
        self.commits: list[Offsets] = []

    async def start(self, on_revoke: RevokeListener) -> None:
        self.revoke = on_revoke

    membership = "generation 1"

    async def rewind(self, forget: Callable[[], None]) -> None:
        while not self.queue.empty():
            self.queue.get_nowait()
        forget()
        self.world.rewinds += 1
        self.world.changed.set()

    async def receive(self) -> Sequence[Message]:
        return () if self.stopped else await self.queue.get()

    async def commit(self, offsets: Offsets) -> None:
        self.commits.append(dict(offsets))
        self.committed.update(offsets)
        # The promise: nothing is committed ahead of its acknowledgement.
        for partition, offset in offsets.items():
            assert offset <= self.world.sink.acknowledged.get(partition, -1) + 1
        self.world.changed.set()

    async def stop_intake(self) -> None:
        self.stopped = True
        self.queue.put_nowait(())

    async def close(self) -> None:
        self.world.closed.append("source")


class Sink:
    """Keeps what is published; can be held up, and can fail."""

    commits_offsets = False

    def __init__(self, world: "World") -> None:
        self.world = world
        self.outcomes: list[Outcome] = []
        self.acknowledged: dict[Partition, int] = {}
        self.may_publish = asyncio.Event()
        self.may_publish.set()
        self.num_waiting = 0
        self.error: Exception | None = None

    async def start(self) -> None:
        """Nothing to connect to."""

    async def publish(self, outcomes: Sequence[Outcome], offsets: Offsets, membership: object) -> None:
        assert membership == "generation 1"
        self.num_waiting += 1
        try:
            await self.may_publish.wait()
        finally:
            self.num_waiting -= 1
        if self.error is not None:
            raise self.error
        self.outcomes += outcomes
        for partition, offset in offsets.items():
            self.acknowledged[partition] = offset - 1
        self.world.changed.set()

    async def close(self) -> None:
        self.world.closed.append("sink")


class Images:
    """Pictures by URL: each waits until the test lets it through, or fails as told."""

    num_under_way = 0

    def __init__(self) -> None:
        self.gates: dict[str, asyncio.Event] = {}
        self.found: dict[str, FoundFeatures | FoundPixels | ImageStatus | Exception] = {}
        self.remembered: dict[str, np.ndarray] = {}
        self.forgotten: list[tuple[str, bool]] = []
        self.deleted: set[str] = set()
        self.forgets_all = True
        self.is_sure = True

    def gate(self, url: str) -> asyncio.Event:
        return self.gates.setdefault(url, asyncio.Event())

    async def look_up(self, image: PostImage, post_id: str | None = None) -> FoundFeatures | FoundPixels:
        url = image.url
        if url in self.gates:
            await self.gates[url].wait()
        found = self.found.get(url, ImageStatus.GONE)
        if isinstance(found, ImageStatus):
            raise ImageError(found, "as told")
        if isinstance(found, Exception):
            raise found
        return found

    def remember(self, digest: str, features: np.ndarray) -> None:
        self.remembered[digest] = features

    async def forget(self, post_id: str, *, is_final: bool) -> bool:
        self.forgotten.append((post_id, is_final))
        return self.forgets_all

    async def is_deleted(self, post_id: str) -> bool:
        if not self.is_sure:
            raise CacheUnsure
        return post_id in self.deleted


class Tagger:
    """Finds every `Anna`, or another name; breaks on the word `breaks`, or on everything."""

    checkpoint_id = "c"
    variant = "attention_gate"
    uses_image = True
    broken = False
    name = "Anna"

    def tokenize(self, text: str) -> tuple[Token, ...]:
        return tuple(tokenize(text))

    def look(self, pixels: np.ndarray) -> np.ndarray:
        return np.full((len(pixels), 49, 8), 2.0, np.float16)

    def tag(self, inputs: Sequence[TaggingInput]) -> list[Tagging]:
        if self.broken or any(token.text == "breaks" for item in inputs for token in item.tokens):
            raise RuntimeError("a fault in the model")
        return [self._tagging(item) for item in inputs]

    def _tagging(self, item: TaggingInput) -> Tagging:
        spans = tuple(
            TaggedSpan(type="PER", start=token.start, end=token.end, confidence=0.9)
            for token in item.tokens
            if token.text == self.name
        )
        return Tagging(spans=spans, attention=None if item.features is None else (1 / 49,) * 49)


class World:
    """A pipeline at work on stand-ins, inside the loop of the test."""

    def __init__(self, live: LiveHub | None = None, **config: Any) -> None:
        self.changed = asyncio.Event()
        self.closed: list[str] = []
        self.rewinds = 0
        self.source, self.sink, self.images, self.tagger = Source(self), Sink(self), Images(), Tagger()
        self.metrics = Metrics()
        batcher = Batcher(self.metrics)
        self.checkpoints = Checkpoints(self.in_use(self.tagger), batcher, self.metrics)
        parts = Parts(
            source=self.source, checkpoints=self.checkpoints, batcher=batcher, sink=self.sink, metrics=self.metrics
        )
        desk = {each.name: config.pop(each.name) for each in fields(DeskConfig) if each.name in config}
        self.pipeline = Pipeline(parts, PipelineConfig(desk=DeskConfig(**desk), **config), live=live)
        self.stop = asyncio.Event()
        self.running = asyncio.create_task(self.pipeline.run(self.stop))

    def in_use(self, tagger: "Tagger") -> InUse:
        runner = BatchRunner(tagger, BatchLimits(), self.metrics)
        return InUse(tagger=tagger, runner=runner, images=self.images)  # type: ignore[arg-type]  # stands for it

    def send(self, *messages: Message) -> None:
        self.source.queue.put_nowait(messages)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to be published, committed or taken in that makes `condition` true."""
        while not condition():
            if self.running.done():
                self.running.result()
            self.changed.clear()
            await asyncio.wait({asyncio.ensure_future(self.changed.wait()), self.running}, timeout=0.01,
                               return_when=asyncio.FIRST_COMPLETED)  # fmt: skip

    async def finish(self) -> None:
        """Let the source end, and the pipeline with it."""
        self.source.queue.put_nowait(())
        await self.running

    def offsets(self, partition: Partition = FIRST) -> list[int]:
        """Offsets of what was published of a partition, in that order."""
        positions = [outcome.position for outcome in self.sink.outcomes if not isinstance(outcome, Tombstone)]
        return [place.offset for place in positions if (place.topic, place.partition) == tuple(partition)]

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def run(scenario: Callable[[World], Awaitable[None]], **config: Any) -> World:
    async def whole() -> World:
        async with asyncio.timeout(SECONDS):
            world = World(**config)
            try:
                await scenario(world)
            finally:
                if not world.running.done():
                    world.running.cancel()
                await asyncio.wait({world.running})
            return world

    return asyncio.run(whole())


def only_error(world: World) -> BaseException:
    """What stopped the pipeline."""
    error = world.running.exception()
    while isinstance(error, BaseExceptionGroup):
        # The posts of a batch may all have the same.
        assert len(set(map(str, error.exceptions))) == 1
        error = error.exceptions[0]
    assert error is not None
    return error


def test_posts_become_events_and_the_books_balance() -> None:
    """Events with their spans, everything committed, the source closed before the sink."""

    async def scenario(world: World) -> None:
        world.send(*(post(offset) for offset in range(10)))
        await world.finish()

    world = run(scenario)
    assert world.offsets() == list(range(10))
    assert world.source.committed == {FIRST: 10}
    assert world.closed == ["source", "sink"]
    assert all(
        isinstance(outcome, EntityEvent) and outcome.entities[0].text == "Anna" for outcome in world.sink.outcomes
    )
    assert world.count("nametag_posts_received_total") == world.count("nametag_posts_total", outcome="event") == 10
    assert world.count("nametag_posts_in_flight") == 0


def test_each_partition_keeps_its_order_whatever_finishes_first() -> None:
    """A post that waits for its picture holds back its own partition, and nothing of it is committed past it."""

    async def scenario(world: World) -> None:
        gate = world.images.gate("slow")
        world.send(post(0), post(1, image_url="slow"), post(2), post(3), post(0, SECOND), post(1, SECOND))
        await world.until(lambda: world.source.committed == {FIRST: 1, SECOND: 2})
        assert world.offsets() == [0]
        assert world.offsets(SECOND) == [0, 1]
        gate.set()
        await world.finish()

    world = run(scenario)
    assert world.offsets() == [0, 1, 2, 3]
    assert world.source.committed == {FIRST: 4, SECOND: 2}


def test_nothing_is_committed_before_it_is_acknowledged() -> None:
    """While the sink waits for its brokers no offset moves."""

    async def scenario(world: World) -> None:
        world.sink.may_publish.clear()
        world.send(*(post(offset) for offset in range(5)))
        await world.until(lambda: world.count("nametag_stage_seconds_count", stage="tag") >= 1)
        assert world.source.commits == []
        world.sink.may_publish.set()
        await world.finish()

    assert run(scenario).source.committed == {FIRST: 5}


def test_a_sink_that_fails_stops_the_worker_without_a_commit() -> None:
    """The posts are read again at the next start: events are never lost behind an offset."""

    async def scenario(world: World) -> None:
        world.sink.error = SinkUnavailable("no broker")
        world.send(post(0), post(1))
        await asyncio.wait({world.running})

    world = run(scenario)
    assert isinstance(only_error(world), SinkUnavailable)
    assert world.source.commits == []
    assert world.closed == ["source", "sink"]


def test_what_was_aborted_is_published_again() -> None:
    """The same outcomes go out at the next try, once; nothing is read a second time."""

    async def scenario(world: World) -> None:
        world.sink.error = PublishAborted("a new generation")
        world.send(post(0), post(1))
        await world.until(lambda: world.count("nametag_publish_failures_total", error="PublishAborted") >= 2)
        world.sink.error = None
        await world.until(lambda: world.source.committed == {FIRST: 2})
        await world.finish()

    world = run(scenario)
    assert world.offsets() == [0, 1]
    assert world.rewinds == 0


def test_what_nobody_knows_the_fate_of_is_read_again() -> None:
    """Nothing is published a second time by itself: the source begins at the last commit, in a new epoch."""

    async def scenario(world: World) -> None:
        gate = world.images.gate("slow")
        world.sink.error = PublishUnsettled("the commit was not answered")
        world.send(post(0), post(1, image_url="slow"))
        await world.until(lambda: world.count("nametag_posts_dropped_total") == 2)
        world.sink.error = None
        # The brokers had it after all: the last commit stands behind the first post.
        again = post(1)
        world.send(Message(position=again.position, value=again.value, epoch=1))
        gate.set()
        await world.until(lambda: world.source.committed == {FIRST: 2})
        await world.finish()

    world = run(scenario)
    assert world.offsets() == [1]
    assert world.count("nametag_posts_in_flight") == 0


def test_publications_wait_for_each_other_until_half_of_the_room_is_finished() -> None:
    """However many posts are under way: a transaction for each batch would cost the brokers several times as much."""

    async def scenario(world: World) -> None:
        gates = [world.images.gate(f"slow{number}") for number in range(6)]
        world.send(post(0))
        await world.until(lambda: world.source.committed == {FIRST: 1})
        world.send(*(post(1 + number, image_url=f"slow{number}") for number in range(6)))
        for gate in gates[:3]:
            gate.set()
        await world.until(lambda: world.pipeline.state().queues["publication"] == 3)
        await asyncio.sleep(0.2)
        assert world.source.committed == {FIRST: 1}
        gates[3].set()
        await world.until(lambda: world.source.committed == {FIRST: 5})

    run(scenario, flush_seconds=3600, room=RoomLimits(max_posts=8))


def test_the_pause_grows_while_nobody_knows(caplog: pytest.LogCaptureFixture) -> None:
    """Publications that stay unsettled are tried at growing intervals, though each is read again in between."""

    async def scenario(world: World) -> None:
        world.sink.error = PublishUnsettled("the commit was not answered")
        for epoch in range(3):
            message = post(0)
            world.send(Message(position=message.position, value=message.value, epoch=epoch))
            await world.until(lambda: world.rewinds == epoch + 1)  # noqa: B023  # awaited at once

    with caplog.at_level("WARNING", "nametag.pipeline"):
        run(scenario, flush_seconds=0)
    failures = [record.num_failures for record in caplog.records if record.message == "publish_retried"]
    assert failures == [1, 2, 3]


def test_what_a_rebalance_could_not_wait_for_is_not_published_later() -> None:
    """A revoke that ends at its deadline amid a publication forgets the posts, and the source reads again."""

    async def scenario(world: World) -> None:
        world.sink.may_publish.clear()
        world.send(post(0), post(0, SECOND))
        await world.until(lambda: world.sink.num_waiting == 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(world.source.revoke(frozenset({FIRST})), 0.05)
        world.sink.may_publish.set()
        await world.until(lambda: SECOND in world.source.committed)
        world.send(post(1, SECOND))
        await world.finish()

    world = run(scenario)
    # The publication under way held both; the broker's fence, not the pipeline, decides over it.
    assert world.offsets() == [0]
    assert world.offsets(SECOND) == [0, 1]
    assert world.count("nametag_posts_in_flight") == 0


def test_a_bad_message_is_a_dead_letter_with_its_reason() -> None:
    """Whatever is wrong with a message, it leaves in its place, and the next one is tagged."""
    bad = {
        Reason.EMPTY: None,
        Reason.NOT_JSON: b"{",
        Reason.NOT_A_POST: b"[1]",
        Reason.NO_TEXT: b'{"id": "1"}',
        Reason.TOO_LARGE: b'{"id": "1", "text": "' + b"x" * 1000 + b'"}',
    }

    async def scenario(world: World) -> None:
        messages = [Message(position=Position(FIRST, n), value=value) for n, value in enumerate(bad.values())]
        world.send(*messages, post(len(bad)))
        await world.finish()

    world = run(scenario, max_post_bytes=500)
    *letters, event = world.sink.outcomes
    assert [letter.reason for letter in letters if isinstance(letter, DeadLetter)] == list(bad)
    assert [letter.value for letter in letters if isinstance(letter, DeadLetter)] == list(bad.values())
    assert isinstance(event, EntityEvent)
    assert world.source.committed == {FIRST: len(bad) + 1}
    assert world.count("nametag_dead_letters_total", reason="not_json") == 1


def test_a_post_of_too_many_tokens_is_a_dead_letter() -> None:
    """One message must not hold the device for a minute; its letter says what the limit is."""

    async def scenario(world: World) -> None:
        world.send(post(0, text="a " * 6000), post(1))
        await world.finish()

    world = run(scenario)
    first, second = world.sink.outcomes
    assert isinstance(first, DeadLetter) and first.reason is Reason.TOO_LARGE
    assert "6000 tokens" in first.detail
    assert isinstance(second, EntityEvent)


def test_a_post_that_breaks_the_model_is_a_dead_letter() -> None:
    """Its neighbours in the batch are tagged."""

    async def scenario(world: World) -> None:
        world.send(post(0), post(1, text="this breaks"), post(2))
        await world.finish()

    world = run(scenario)
    assert world.offsets() == [0, 1, 2]
    letter = world.sink.outcomes[1]
    assert isinstance(letter, DeadLetter)
    assert letter.reason is Reason.TAGGING_FAILED
    assert isinstance(world.sink.outcomes[2], EntityEvent)


def test_a_broken_model_stops_the_worker_without_a_commit() -> None:
    """No topic is turned into dead letters by a broken device."""

    async def scenario(world: World) -> None:
        world.tagger.broken = True
        world.send(post(0), post(1))
        await asyncio.wait({world.running})

    world = run(scenario)
    assert isinstance(only_error(world), TaggerBroken)
    assert (world.sink.outcomes, world.source.commits) == ([], [])


def test_a_fault_of_our_own_stops_the_worker_without_a_commit() -> None:
    """An error that nobody foresaw is not taken for the post's."""

    async def scenario(world: World) -> None:
        world.images.found["http://x/"] = ZeroDivisionError("a fault in the code")
        world.send(post(0, image_url="http://x/"))
        await asyncio.wait({world.running})

    world = run(scenario)
    assert isinstance(only_error(world), ZeroDivisionError)
    assert (world.sink.outcomes, world.source.commits) == ([], [])


def test_the_event_says_what_became_of_the_picture() -> None:
    """Used with its digest and attention, missing with its reason, none; new features are remembered."""

    async def scenario(world: World) -> None:
        world.images.found["cached"] = FoundFeatures(digest="d1", features=np.zeros((49, 8), np.float16))
        world.images.found["new"] = FoundPixels(digest="d2", pixels=np.zeros((3, 224, 224), np.uint8))
        world.images.found["slow"] = ImageStatus.TOO_SLOW
        world.send(*(post(n, image_url=url) for n, url in enumerate(("cached", "new", "slow"))))
        world.send(post(3), post(4, text=" \n ", image_url="cached"))
        await world.finish()

    world = run(scenario, include_attention=True)
    events = [outcome for outcome in world.sink.outcomes if isinstance(outcome, EntityEvent)]
    assert [event.image.status for event in events] == ["used", "used", "too_slow", "none", "none"]
    assert [event.image.digest for event in events] == ["d1", "d2", None, None, None]
    assert [event.image.attention is not None for event in events] == [True, True, False, False, False]
    assert [len(event.entities) for event in events] == [1, 1, 1, 1, 0]
    assert list(world.images.remembered) == ["d2"]
    assert world.count("nametag_images_total", status="too_slow") == 1


@pytest.mark.parametrize("include_text", [True, False])
def test_a_tweets_entities_stand_in_the_text_that_is_shown_and_in_the_raw_one(include_text: bool) -> None:
    """Without escapes and hidden mentions in the one, with them in the other; a plain post has no raw text."""
    raw = "@bob 😀 R&amp;D &lt;3 Anna &amp;amp; Anna https://t.co/1"
    shown = "😀 R&D <3 Anna &amp; Anna"
    tweet_fields = {"id_str": "7", "display_text_range": [5, raw.index(" https")]}

    async def scenario(world: World) -> None:
        world.send(post(0, text=raw, **tweet_fields), post(1, text=raw))
        await world.finish()

    world = run(scenario, include_text=include_text)
    tweet, plain = (outcome for outcome in world.sink.outcomes if isinstance(outcome, EntityEvent))
    assert (tweet.text, tweet.raw_text) == ((shown, raw) if include_text else (None, None))
    assert [shown[entity.start : entity.end] for entity in tweet.entities] == ["Anna", "Anna"]
    assert [raw[entity.raw.start : entity.raw.end] for entity in tweet.entities if entity.raw] == ["Anna", "Anna"]
    for entity in tweet.entities:
        assert entity.raw is not None
        assert entity.start_utf16 - entity.start == entity.raw.start_utf16 - entity.raw.start == 1
        assert entity.end_utf16 - entity.end == entity.raw.end_utf16 - entity.raw.end == 1
    assert (plain.text, plain.raw_text) == (raw if include_text else None, None)
    assert [(raw[entity.start : entity.end], entity.raw) for entity in plain.entities] == [("Anna", None)] * 2


def test_an_entity_may_hold_an_escape() -> None:
    """A mention with `&` in it is given as its readers see it."""

    async def scenario(world: World) -> None:
        world.tagger.name = "AT&T"
        world.send(post(0, text="&gt; at AT&amp;T &lt;3", id_str="7"), post(1, text="at AT&amp;T"))
        await world.finish()

    world = run(scenario)
    tweet, plain = (outcome for outcome in world.sink.outcomes if isinstance(outcome, EntityEvent))
    assert [(entity.text, entity.start, entity.end) for entity in tweet.entities] == [("AT&T", 5, 9)]
    assert [(entity.raw.start, entity.raw.end) for entity in tweet.entities if entity.raw] == [(8, 16)]
    assert plain.entities == ()


def test_who_watches_sees_what_was_published_with_its_attention() -> None:
    """Though events carry none; neither a suppressed post, nor one that became a dead letter, nor one of /tag."""
    hub = LiveHub()

    async def scenario(world: World) -> None:
        watcher, _ = hub.join()
        world.images.found["new"] = FoundPixels(digest="d2", pixels=np.zeros((3, 224, 224), np.uint8))
        world.images.deleted.add("0-2")
        world.send(post(0), post(1, image_url="new"), post(2), post(3, text="breaks"))
        await world.until(lambda: world.source.committed == {FIRST: 4})
        message = Message(position=Position(Partition("/tag", 0), 0), value=b"")
        await world.pipeline.tag_alone(Post(id="alone", text="Anna"), message)
        told = [json.loads(shown.json) for shown in (await watcher.take(1)).posts]
        assert [(post["id"], post["heat"] is not None) for post in told] == [("0-0", False), ("0-1", True)]
        assert "d2" in hub.pictures
        world.send(Message(position=Position(FIRST, 4), value=None, key=b"0-1"))
        await world.until(lambda: world.source.committed == {FIRST: 5})
        assert (await watcher.take(1)).gone == ("0-1",)
        assert "d2" not in hub.pictures
        await world.finish()

    world = run(scenario, live=hub)
    events = [outcome for outcome in world.sink.outcomes if isinstance(outcome, EntityEvent)]
    assert [event.image.attention for event in events] == [None, None]


def test_a_trace_context_goes_on_with_the_event() -> None:
    """And with the tombstone of its delete; a post without one has none."""
    trace = (("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),)

    async def scenario(world: World) -> None:
        first, second = post(0), post(1)
        delete = Message(position=Position(FIRST, 2), value=None, key=b"0-1", headers=trace)
        world.send(replace(first, headers=(("x", b"1"), *trace)), second)
        await world.until(lambda: world.source.committed == {FIRST: 2})
        world.send(delete)
        await world.until(lambda: world.source.committed == {FIRST: 3})
        await world.finish()

    outcomes = run(scenario).sink.outcomes
    traces = [tuple(each for each in outcome.headers if each[0] == "traceparent") for outcome in outcomes]
    assert traces == [trace, (), trace]


def test_a_post_that_comes_alone_leaves_no_trace() -> None:
    """It is tagged with its picture as any other; nothing is published, counted, or noted for a delete."""
    noted: list[str | None] = []

    async def scenario(world: World) -> None:
        look_up = world.images.look_up

        async def noting(image: PostImage, post_id: str | None = None) -> FoundFeatures | FoundPixels:
            noted.append(post_id)
            return await look_up(image, post_id)

        world.images.look_up = noting  # type: ignore[method-assign]
        world.images.found["new"] = FoundPixels(digest="d2", pixels=np.zeros((3, 224, 224), np.uint8))
        world.images.deleted.add("alone")
        await world.until(lambda: world.pipeline.is_running)
        message = Message(position=Position(Partition("/tag", 0), 3), value=b"")
        alone = Post(id="alone", text="Anna is here", image_url="new")
        event = await world.pipeline.tag_alone(alone, message)
        assert [entity.text for entity in event.entities] == ["Anna"]
        assert (event.image.status, event.position.topic, event.position.offset) == ("used", "/tag", 3)
        with pytest.raises(BadMessage, match="max_post_tokens"):
            await world.pipeline.tag_alone(Post(id="long", text="a " * 20), message)
        await world.finish()

    world = run(scenario, max_post_tokens=10)
    assert noted == [None]
    assert world.sink.outcomes == []
    assert world.images.forgotten == []
    # In the batch it may have been the one that took the features home for a post of the stream.
    assert list(world.images.remembered) == ["d2"]
    assert world.count("nametag_posts_received_total") == world.count("nametag_posts_total", outcome="event") == 0
    assert not world.pipeline.is_running


def test_it_says_why_it_isnt_ready() -> None:
    """Before it runs, where its source lacks something, and from when it is asked to stop."""

    async def scenario(world: World) -> None:
        assert world.pipeline.unready == "starting"
        await world.until(lambda: world.pipeline.unready is None)
        world.source.unready = "no broker answers"
        assert world.pipeline.unready == "no broker answers"
        world.stop.set()
        await world.until(lambda: world.pipeline.unready == "stopping")
        await world.running
        assert world.pipeline.unready == "stopping"

    run(scenario)


def test_a_partition_that_goes_takes_its_unfinished_work_along() -> None:
    """What is finished is published, and may be committed; the rest is forgotten, for whoever owns it next."""

    async def scenario(world: World) -> None:
        gate = world.images.gate("slow")
        world.send(post(0), post(1, image_url="slow"), post(2), post(0, SECOND))
        await world.until(lambda: world.source.committed == {FIRST: 1, SECOND: 1})
        assert await world.source.revoke(frozenset({FIRST})) == {FIRST: 1}
        assert world.count("nametag_posts_dropped_total") == 2
        gate.set()
        world.send(post(1, SECOND))
        await world.finish()

    world = run(scenario)
    assert world.offsets() == [0]
    assert world.offsets(SECOND) == [0, 1]
    assert world.source.committed == {FIRST: 1, SECOND: 2}
    assert world.count("nametag_posts_in_flight") == 0


def test_what_is_finished_goes_out_before_the_partition_goes() -> None:
    """A revoke publishes also what finished behind the batch under way, and only then tells what may be committed."""

    async def scenario(world: World) -> None:
        world.sink.may_publish.clear()
        gate = world.images.gate("slow")
        world.send(post(0), post(1, image_url="slow"))
        await world.until(lambda: world.count("nametag_stage_seconds_count", stage="tag") == 1)
        await world.until(lambda: world.sink.num_waiting == 1)
        revoking = asyncio.create_task(world.source.revoke(frozenset({FIRST})))
        await asyncio.sleep(0)
        gate.set()
        await world.until(lambda: world.count("nametag_stage_seconds_count", stage="tag") == 2)
        assert not revoking.done()
        world.sink.may_publish.set()
        assert await revoking == {FIRST: 2}
        await world.finish()

    assert run(scenario).offsets() == [0, 1]


def test_a_partition_that_comes_back_is_read_anew() -> None:
    """Work of the first epoch that finishes late isn't published beside that of the second."""

    async def scenario(world: World) -> None:
        gate = world.images.gate("slow")
        world.send(post(0, image_url="slow"))
        await world.until(lambda: world.count("nametag_posts_received_total") == 1)
        await world.source.revoke(frozenset({FIRST}))
        again = post(0, image_url="slow")
        world.send(Message(position=again.position, value=again.value, epoch=1))
        await world.until(lambda: world.count("nametag_posts_received_total") == 2)
        gate.set()
        await world.finish()

    world = run(scenario)
    assert world.offsets() == [0]
    assert world.source.committed == {FIRST: 1}


def test_a_stop_finishes_what_is_under_way() -> None:
    """After the signal nothing new is taken in, and what was taken in is published and committed."""

    async def scenario(world: World) -> None:
        gate = world.images.gate("slow")
        world.send(post(0, image_url="slow"), post(1))
        await world.until(lambda: world.count("nametag_posts_received_total") == 2)
        world.stop.set()
        await world.until(lambda: world.source.stopped)
        gate.set()
        await world.running

    world = run(scenario)
    assert world.offsets() == [0, 1]
    assert world.source.committed == {FIRST: 2}


def test_a_stop_ends_at_its_deadline() -> None:
    """A post that doesn't end is left to the next start; what stands before it is committed."""

    async def scenario(world: World) -> None:
        world.images.gate("never")
        world.send(post(0), post(1, image_url="never"), post(2))
        await world.until(lambda: world.source.committed == {FIRST: 1})
        world.stop.set()
        await world.running

    world = run(scenario, shutdown_seconds=0.1)
    assert world.offsets() == [0]
    assert world.source.committed == {FIRST: 1}


def test_a_stop_amid_the_start_ends_it() -> None:
    """A source that is still looking for its broker is left; nothing was read, so nothing is lost."""

    async def scenario(world: World) -> None:
        async def hang(_on_revoke: RevokeListener) -> None:
            await asyncio.sleep(SECONDS)

        world.source.start = hang  # type: ignore[method-assign]
        await asyncio.sleep(0)
        world.stop.set()
        await asyncio.wait_for(world.running, 1)

    assert run(scenario).closed == ["source", "sink"]


def test_a_shutdown_keeps_its_time_though_nothing_answers() -> None:
    """A publication that hangs, and a source and a sink that can't be left: all within the time for a shutdown."""
    seconds = 0.4

    async def hang() -> None:
        await asyncio.sleep(SECONDS)

    async def scenario(world: World) -> None:
        world.sink.may_publish.clear()
        world.source.close = hang  # type: ignore[method-assign]
        world.sink.close = hang  # type: ignore[method-assign]
        world.send(*map(post, range(20)))
        await world.until(lambda: world.sink.num_waiting == 1)
        world.stop.set()
        start = asyncio.get_running_loop().time()
        await world.running
        assert asyncio.get_running_loop().time() - start < 2 * seconds

    # Full, so that the intake waits for room which nobody gives.
    world = run(scenario, shutdown_seconds=seconds, room=RoomLimits(max_posts=3))
    assert world.offsets() == []
    assert world.source.committed == {}


def test_a_full_room_holds_the_intake_up_and_loses_nothing() -> None:
    """No more posts are under way than there is room for, and all come through in the end."""

    async def scenario(world: World) -> None:
        gate = world.images.gate("slow")
        world.send(*(post(offset, image_url="slow") for offset in range(20)))
        await world.until(lambda: world.count("nametag_posts_received_total") == 3)
        await asyncio.sleep(0)
        assert world.count("nametag_posts_in_flight") == 3
        gate.set()
        await world.finish()

    world = run(scenario, room=RoomLimits(max_posts=3))
    assert world.offsets() == list(range(20))
    assert world.source.committed == {FIRST: 20}


def test_a_stop_ends_a_full_room_s_wait() -> None:
    """What waits for room when the signal comes is left to the next start."""

    async def scenario(world: World) -> None:
        gate = world.images.gate("slow")
        world.send(*(post(offset, image_url="slow") for offset in range(20)))
        await world.until(lambda: world.count("nametag_posts_received_total") == 3)
        world.stop.set()
        await world.until(lambda: world.source.stopped)
        gate.set()
        await world.running

    world = run(scenario, room=RoomLimits(max_posts=3))
    assert world.offsets() == [0, 1, 2]
    assert world.source.committed == {FIRST: 3}


def test_what_waits_for_room_goes_with_its_partition() -> None:
    """Messages of a revoked partition that weren't taken in yet are never tagged."""

    async def scenario(world: World) -> None:
        gate = world.images.gate("slow")
        world.send(post(0, SECOND, image_url="slow"), *(post(offset) for offset in range(5)), post(1, SECOND))
        await world.until(lambda: world.count("nametag_posts_received_total") == 1)
        await world.source.revoke(frozenset({FIRST}))
        gate.set()
        await world.finish()

    world = run(scenario, room=RoomLimits(max_posts=1))
    assert world.offsets() == []
    assert world.offsets(SECOND) == [0, 1]
    assert world.count("nametag_posts_received_total") == 2
