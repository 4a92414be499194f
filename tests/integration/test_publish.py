"""Publishing: to a real broker, with its limits and without it, and to files."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import KafkaAdminClient

from consumers.dead_letters import DeadLetter
from consumers.errors import Reason
from consumers.events import CheckpointName, EntityEvent, ImageReport
from consumers.kafka import KafkaConnection, KafkaSource, KafkaSourceConfig
from consumers.source import Message, Offsets, Partition, Position
from consumers.wire import PositionReport
from tests.integration.topic_tools import limit_messages, records
from worker.errors import PublishAborted, PublishUnsettled, SinkUnavailable
from worker.kafka_sink import KafkaSink, KafkaSinkConfig
from worker.publish import EventSink, JsonlSink, Outcome
from worker.transactional_sink import TransactionalKafkaSink


def event(offset: int, text: str = "a post") -> EntityEvent:
    return EntityEvent(
        id=str(offset),
        tagged_at=datetime.now(UTC),
        text=text,
        image=ImageReport(status="none"),
        checkpoint=CheckpointName(id="c", variant="text_only"),
        position=PositionReport(topic="posts", partition=2, offset=offset),
    )


def letter(offset: int, value: bytes | None, key: bytes | None = None) -> DeadLetter:
    message = Message(position=Position(Partition("posts", 2), offset), value=value, key=key)
    return DeadLetter.of(message, Reason.NOT_JSON, "the message is no JSON")


@pytest.fixture(params=[KafkaSink, TransactionalKafkaSink])
def sink_type(request: pytest.FixtureRequest) -> type[KafkaSink]:
    """Both kinds keep the same promises, but for what happens amid trouble."""
    return request.param  # type: ignore[no-any-return]


def published(sink_type: type[KafkaSink], bootstrap: str, topics: Any, batches: Sequence[Sequence[Outcome]]) -> None:
    """Publish `batches` one after the other through a real producer, as a real member of a group."""
    connection = KafkaConnection(bootstrap_servers=(bootstrap,))
    config = KafkaSinkConfig(entities_topic=topics.entities, dead_letters_topic=topics.dead_letters)

    async def scenario(sink: EventSink) -> None:
        async with member(connection, topics) as source:
            for outcomes in batches:
                await until_settled(sink, outcomes, {Partition(topics.posts, 2): 1}, source)

    run(lambda: sink_type(connection, config), scenario)


async def until_settled(sink: EventSink, outcomes: Sequence[Outcome], offsets: Offsets, source: KafkaSource) -> None:
    """As the pipeline does: try again where the group had a new generation."""
    while True:
        try:
            return await sink.publish(outcomes, offsets, source.membership)
        except PublishAborted:
            await asyncio.sleep(0.1)


@asynccontextmanager
async def member(connection: KafkaConnection, topics: Any) -> AsyncIterator[KafkaSource]:
    source = KafkaSource(connection, KafkaSourceConfig(topic=topics.posts, group_id=f"group-{topics.posts}"))

    async def nothing(_partitions: frozenset[Partition]) -> Offsets:
        return {}

    await source.start(nothing)
    try:
        while source.unready is not None:  # noqa: ASYNC110  # seen from outside, as a probe would
            await asyncio.sleep(0.01)
        yield source
    finally:
        await source.close()


def run(make: Callable[[], EventSink], scenario: Callable[[EventSink], Awaitable[None]]) -> None:
    async def whole() -> None:
        sink = make()
        try:
            await sink.start()
            await scenario(sink)
        finally:
            await sink.close()

    asyncio.run(whole())


def test_events_and_letters_have_their_topics_keys_and_headers(
    sink_type: type[KafkaSink], kafka_bootstrap: str, topics: Any
) -> None:
    """An event goes out under the post's id, a letter as the bytes that came in, its reason in the headers."""
    published(
        sink_type,
        kafka_bootstrap,
        topics,
        [[event(1), letter(2, b"\xff not json", key=b"k"), letter(3, None), letter(4, None, key=b"k")]],
    )
    (sent,) = records(kafka_bootstrap, topics.entities)
    assert sent.key == b"1"
    assert json.loads(sent.value)["position"] == {"topic": "posts", "partition": 2, "offset": 1}
    assert dict(sent.headers)["nametag-schema"] == b"entity_event"
    first, second, third = sorted(
        records(kafka_bootstrap, topics.dead_letters), key=lambda r: dict(r.headers)["nametag-offset"]
    )
    assert (first.key, first.value) == (b"k", b"\xff not json")
    assert dict(first.headers)["nametag-reason"] == b"not_json"
    assert not second.value and second.key is None
    assert (third.key, third.value) == (b"k", None)


def test_an_event_over_the_broker_s_limit_becomes_a_letter(
    sink_type: type[KafkaSink], kafka_bootstrap: str, topics: Any
) -> None:
    """Its neighbours go through, before and after, and the letter says where the post stands."""
    limit_messages(kafka_bootstrap, topics.entities, 4000)
    large = event(1, "".join(chr(0x4E00 + n % 5000) for n in range(4000)))
    published(sink_type, kafka_bootstrap, topics, [[event(0), large, *map(event, range(2, 40))], [event(40)]])
    ids = sorted(int(record.key) for record in records(kafka_bootstrap, topics.entities))
    assert ids == [0, *range(2, 41)]
    (found,) = records(kafka_bootstrap, topics.dead_letters)
    headers = dict(found.headers)
    assert headers["nametag-reason"] == b"too_large"
    assert (headers["nametag-topic"], headers["nametag-partition"], headers["nametag-offset"]) == (b"posts", b"2", b"1")


def test_a_topic_that_takes_no_letter_at_all_stops_the_worker(
    sink_type: type[KafkaSink], kafka_bootstrap: str, topics: Any
) -> None:
    """No retry mends a limit below a letter without its bytes: it is told, and nothing is tried for ever."""
    limit_messages(kafka_bootstrap, topics.dead_letters, 100)
    with pytest.raises(SinkUnavailable, match=r"refuses even a letter without its bytes.*max\.message\.bytes"):
        published(sink_type, kafka_bootstrap, topics, [[event(0), letter(1, b"y" * 1000), event(2)]])


def test_what_the_client_itself_refuses_becomes_a_letter_too(
    sink_type: type[KafkaSink], kafka_bootstrap: str, topics: Any
) -> None:
    """Over the producer's own limit: an event, and a letter, which goes without its bytes."""
    published(sink_type, kafka_bootstrap, topics, [[event(0, "x" * 1_200_000), letter(1, b"y" * 1_200_000), event(2)]])
    assert [record.key for record in records(kafka_bootstrap, topics.entities)] == [b"2"]
    found = {dict(r.headers)["nametag-offset"]: r for r in records(kafka_bootstrap, topics.dead_letters)}
    assert set(found) == {b"0", b"1"}
    assert dict(found[b"0"].headers)["nametag-reason"] == b"too_large"
    assert dict(found[b"1"].headers)["nametag-reason"] == b"not_json"
    assert b"bytes left out" in dict(found[b"1"].headers)["nametag-detail"]


def test_a_missing_topic_is_told_at_the_start(kafka_bootstrap: str, topics: Any) -> None:
    """A misspelt topic is never made silently: the start names it, and the setting to change."""
    connection = KafkaConnection(bootstrap_servers=(kafka_bootstrap,))
    config = KafkaSinkConfig(entities_topic=topics.entities, dead_letters_topic="no-such-letters", start_seconds=1)

    async def nothing(_sink: EventSink) -> None:
        pytest.fail("it started")

    with pytest.raises(SinkUnavailable, match=r"no-such-letters does not exist.*kafka\.dead_letters_topic"):
        run(lambda: KafkaSink(connection, config), nothing)


def test_a_transaction_that_the_brokers_find_too_long_is_told_by_its_setting(kafka_bootstrap: str, topics: Any) -> None:
    """The brokers' limit is a quarter of an hour, where nobody changed it."""
    connection = KafkaConnection(bootstrap_servers=(kafka_bootstrap,))
    config = KafkaSinkConfig(
        entities_topic=topics.entities, dead_letters_topic=topics.dead_letters, transaction_seconds=3600
    )

    async def nothing(_sink: EventSink) -> None:
        pytest.fail("it started")

    with pytest.raises(SinkUnavailable, match=r"kafka\.transaction_seconds is 3600.*transaction\.max\.timeout\.ms"):
        run(lambda: TransactionalKafkaSink(connection, config), nothing)


def test_a_broker_that_restarts_while_the_topics_are_looked_for_is_waited_for(own_broker: Any) -> None:
    """It isn't taken for a missing topic, as it once was: the worker then ended, and said to create what was there."""

    async def run() -> None:
        connection = KafkaConnection(bootstrap_servers=(own_broker.address,))
        sink = TransactionalKafkaSink(connection, KafkaSinkConfig(start_seconds=8))
        await sink._thread.call(sink._connect)
        await asyncio.to_thread(own_broker.end)
        looking = asyncio.create_task(sink._thread.call(sink._check_topics))
        await asyncio.sleep(8.5)
        assert not looking.done()
        await asyncio.to_thread(own_broker.restart)
        await looking
        await sink.close()

    asyncio.run(run())


def test_no_broker_is_told_in_a_sentence_within_the_time() -> None:
    """Nobody listens: what was tried, for how long, and what to do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    assert_unavailable(address, "start it, or set kafka.bootstrap_servers")


def test_a_broker_that_says_nothing_is_told_in_a_sentence_within_the_time() -> None:
    """The port is open, and nobody speaks Kafka behind it."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        assert_unavailable(f"127.0.0.1:{deaf.getsockname()[1]}", "see kafka.security_protocol")


def assert_unavailable(address: str, advice: str) -> None:
    async def nothing(_sink: EventSink) -> None:
        pytest.fail("it started")

    start = time.perf_counter()
    with pytest.raises(SinkUnavailable, match=address) as caught:
        connection = KafkaConnection(bootstrap_servers=(address,))
        run(lambda: KafkaSink(connection, KafkaSinkConfig(start_seconds=1)), nothing)
    assert advice in str(caught.value)
    assert time.perf_counter() - start < 8


def test_a_topic_that_goes_away_stops_the_sink_in_time(
    sink_type: type[KafkaSink], kafka_bootstrap: str, topics: Any
) -> None:
    """What no retry can mend ends soon after the sink's deadline, and names the topic."""
    connection = KafkaConnection(bootstrap_servers=(kafka_bootstrap,))
    config = KafkaSinkConfig(
        entities_topic=topics.entities, dead_letters_topic=topics.dead_letters, publish_seconds=1, start_seconds=1
    )

    def delete() -> None:
        admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
        admin.delete_topics([topics.entities])
        admin.close()

    async def scenario(sink: EventSink) -> None:
        async with member(connection, topics) as source:
            await asyncio.to_thread(delete)
            start = time.perf_counter()
            with pytest.raises(SinkUnavailable, match=f"{topics.entities} does not exist"):
                await sink.publish([event(0)], {}, source.membership)
            assert time.perf_counter() - start < 10

    run(lambda: sink_type(connection, config), scenario)


def test_a_zombie_publishes_nothing(kafka_bootstrap: str, topics: Any) -> None:
    """A membership from before a rebalance commits neither its offsets nor its events; a fresh one does."""
    connection = KafkaConnection(bootstrap_servers=(kafka_bootstrap,))
    config = KafkaSinkConfig(entities_topic=topics.entities, dead_letters_topic=topics.dead_letters)
    offsets = {Partition(topics.posts, 2): 8}

    async def scenario(sink: EventSink) -> None:
        async with member(connection, topics) as zombie:
            old = zombie.membership
        async with member(connection, topics) as heir:
            with pytest.raises(PublishAborted):
                await sink.publish([event(6)], offsets, old)
            with pytest.raises(PublishAborted):
                await sink.publish([event(6)], offsets, None)
            await until_settled(sink, [event(7)], offsets, heir)

    run(lambda: TransactionalKafkaSink(connection, config), scenario)
    assert [record.key for record in records(kafka_bootstrap, topics.entities)] == [b"7"]
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    group = f"group-{topics.posts}"
    (committed,) = admin.list_group_offsets([group])[group].values()
    admin.close()
    assert committed.offset == 8


def test_refused_offsets_are_not_committed_with_the_next_transaction(kafka_bootstrap: str, topics: Any) -> None:
    """What a woken zombie couldn't commit stays uncommitted: its next transaction is of other partitions."""
    connection = KafkaConnection(bootstrap_servers=(kafka_bootstrap,))
    config = KafkaSinkConfig(entities_topic=topics.entities, dead_letters_topic=topics.dead_letters)

    async def scenario(sink: EventSink) -> None:
        async with member(connection, topics) as zombie:
            old = zombie.membership
        async with member(connection, topics) as woken:
            with pytest.raises(PublishAborted):
                await sink.publish([event(6)], {Partition(topics.posts, 1): 7}, old)
            await until_settled(sink, [event(7)], {Partition(topics.posts, 2): 8}, woken)

    run(lambda: TransactionalKafkaSink(connection, config), scenario)
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    group = f"group-{topics.posts}"
    committed = {each.partition: at.offset for each, at in admin.list_group_offsets([group])[group].items()}
    admin.close()
    assert committed == {2: 8}


def test_a_second_producer_of_the_same_name_settles_what_the_first_left_open(kafka_bootstrap: str, topics: Any) -> None:
    """A restarted worker aborts its predecessor's transaction at once, and fences it."""
    connection = KafkaConnection(bootstrap_servers=(kafka_bootstrap,))
    config = KafkaSinkConfig(
        entities_topic=topics.entities, dead_letters_topic=topics.dead_letters, transactional_id=topics.posts
    )

    async def scenario(first: EventSink) -> None:
        second = TransactionalKafkaSink(connection, config)
        await second.start()
        async with member(connection, topics) as source:
            with pytest.raises(PublishUnsettled):
                await first.publish([event(1)], {}, source.membership)
            # The first has a new producer by now, and so the second is the one that is fenced.
            await until_settled(first, [event(2)], {}, source)
        await second.close()

    run(lambda: TransactionalKafkaSink(connection, config), scenario)
    assert [record.key for record in records(kafka_bootstrap, topics.entities)] == [b"2"]


def test_files_have_a_line_for_each_outcome(tmp_path: Path) -> None:
    """Events in one file, letters in the other, in their order."""
    events, letters = tmp_path / "events.jsonl", tmp_path / "letters.jsonl"

    async def scenario(sink: EventSink) -> None:
        await sink.publish([event(0), letter(1, b"x"), event(2)], {}, None)

    run(lambda: JsonlSink(str(events), str(letters)), scenario)
    assert [json.loads(line)["id"] for line in events.read_bytes().splitlines()] == ["0", "2"]
    assert [json.loads(line)["value_base64"] for line in letters.read_bytes().splitlines()] == ["eA=="]


@pytest.mark.parametrize("place", [0, 1])
def test_an_unwritable_path_says_what_to_do(tmp_path: Path, place: int) -> None:
    """The refusal names the path and the options."""
    paths = [str(tmp_path / "fine.jsonl"), str(tmp_path / "fine too.jsonl")]
    paths[place] = str(tmp_path / "no such folder" / "events.jsonl")

    async def nothing(_sink: EventSink) -> None:
        pytest.fail("it started")

    with pytest.raises(SinkUnavailable, match=r"no such folder.*name another file"):
        run(lambda: JsonlSink(*paths), nothing)


def test_a_full_disk_stops_the_sink() -> None:
    """An event that can't be written is not taken for published."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")

    async def scenario(sink: EventSink) -> None:
        with pytest.raises(SinkUnavailable, match="make room"):
            await sink.publish([event(0)], {}, None)

    run(lambda: JsonlSink("/dev/full", "/dev/null"), scenario)
