"""Publishing: to a real broker, with its limits and without it, and to files."""

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from consumers.errors import Reason
from consumers.kafka import KafkaConnection
from consumers.messages import CheckpointName, DeadLetter, EntityEvent, ImageReport, PositionReport
from consumers.source import Message, Partition, Position
from worker.errors import SinkUnavailable
from worker.publish import EventSink, JsonlSink, KafkaSink, KafkaSinkConfig, Outcome


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


def published(bootstrap: str, topics: Any, batches: Sequence[Sequence[Outcome]]) -> None:
    """Publish `batches` one after the other through a real producer."""
    connection = KafkaConnection(bootstrap_servers=(bootstrap,))
    config = KafkaSinkConfig(entities_topic=topics.entities, dead_letters_topic=topics.dead_letters)

    async def scenario(sink: EventSink) -> None:
        for outcomes in batches:
            await sink.publish(outcomes)

    run(lambda: KafkaSink(connection, config), scenario)


def run(make: Callable[[], EventSink], scenario: Callable[[EventSink], Awaitable[None]]) -> None:
    async def whole() -> None:
        sink = make()
        try:
            await sink.start()
            await scenario(sink)
        finally:
            await sink.close()

    asyncio.run(whole())


def records(bootstrap: str, topic: str) -> list[Any]:
    """All that stands on a topic."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
    try:
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        found: list[Any] = []
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            found += [record for batch in consumer.poll(timeout_ms=200).values() for record in batch]
        return found
    finally:
        consumer.close()


def limit_messages(bootstrap: str, topic: str, num_bytes: int) -> None:
    """Set the broker's limit for one topic."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs={"max.message.bytes": str(num_bytes)})
        admin.alter_configs([resource])
    finally:
        admin.close()


def test_events_and_letters_have_their_topics_keys_and_headers(kafka_bootstrap: str, topics: Any) -> None:
    """An event goes out under the post's id, a letter as the bytes that came in, its reason in the headers."""
    published(
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


def test_an_event_over_the_broker_s_limit_becomes_a_letter(kafka_bootstrap: str, topics: Any) -> None:
    """Its neighbours go through, before and after, and the letter says where the post stands."""
    limit_messages(kafka_bootstrap, topics.entities, 4000)
    large = event(1, "".join(chr(0x4E00 + n % 5000) for n in range(4000)))
    published(kafka_bootstrap, topics, [[event(0), large, *map(event, range(2, 40))], [event(40)]])
    ids = sorted(int(record.key) for record in records(kafka_bootstrap, topics.entities))
    assert ids == [0, *range(2, 41)]
    (found,) = records(kafka_bootstrap, topics.dead_letters)
    headers = dict(found.headers)
    assert headers["nametag-reason"] == b"too_large"
    assert (headers["nametag-topic"], headers["nametag-partition"], headers["nametag-offset"]) == (b"posts", b"2", b"1")


def test_what_the_client_itself_refuses_becomes_a_letter_too(kafka_bootstrap: str, topics: Any) -> None:
    """Over the producer's own limit: an event, and a letter, which goes without its bytes."""
    published(kafka_bootstrap, topics, [[event(0, "x" * 1_200_000), letter(1, b"y" * 1_200_000), event(2)]])
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


def test_a_topic_that_goes_away_stops_the_sink_in_time(kafka_bootstrap: str, topics: Any) -> None:
    """A send that is never acknowledged ends at the sink's deadline, as a `SinkUnavailable`."""
    connection = KafkaConnection(bootstrap_servers=(kafka_bootstrap,))
    config = KafkaSinkConfig(entities_topic=topics.entities, dead_letters_topic=topics.dead_letters, publish_seconds=1)

    def delete() -> None:
        admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
        admin.delete_topics([topics.entities])
        admin.close()

    async def scenario(sink: EventSink) -> None:
        await asyncio.to_thread(delete)
        start = time.perf_counter()
        with pytest.raises(SinkUnavailable, match="nothing was committed"):
            await sink.publish([event(0)])
        assert time.perf_counter() - start < 5

    run(lambda: KafkaSink(connection, config), scenario)


def test_files_have_a_line_for_each_outcome(tmp_path: Path) -> None:
    """Events in one file, letters in the other, in their order."""
    events, letters = tmp_path / "events.jsonl", tmp_path / "letters.jsonl"

    async def scenario(sink: EventSink) -> None:
        await sink.publish([event(0), letter(1, b"x"), event(2)])

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

    with pytest.raises(SinkUnavailable, match=r"no such folder.*--output or --dead-letters"):
        run(lambda: JsonlSink(*paths), nothing)


def test_a_full_disk_stops_the_sink() -> None:
    """An event that can't be written is not taken for published."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")

    async def scenario(sink: EventSink) -> None:
        with pytest.raises(SinkUnavailable, match="make room"):
            await sink.publish([event(0)])

    run(lambda: JsonlSink("/dev/full", "/dev/null"), scenario)
