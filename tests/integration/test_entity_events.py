"""The reader for programs downstream, on a real broker."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from consumers.deletes import Tombstone
from consumers.entity_events import BlockingEntityEvents, EntityEvents, KafkaConnection
from consumers.errors import BadEvent, NewerSchema, SourceUnavailable
from consumers.source import Partition, Position
from tests.integration.dlq_tools import transaction
from tests.integration.event_tools import event, ids, ids_of, send, write_events

SECONDS = 60


def run(work: Callable[[], Awaitable[None]]) -> None:
    """`work` on a loop of its own, within a time."""

    async def bounded() -> None:
        async with asyncio.timeout(SECONDS):
            await work()

    asyncio.run(bounded())


@contextmanager
def aborted(bootstrap: str) -> Iterator[Any]:
    """A producer within a transaction that is taken back at the end."""
    with pytest.raises(ZeroDivisionError), transaction(bootstrap) as producer:
        yield producer
        producer.abort_transaction()
        raise ZeroDivisionError


def test_events_come_typed_and_what_was_taken_back_does_not(kafka_bootstrap: str, topics: Any) -> None:
    """In the order of the partition; a tombstone may lack its headers; and what was the end is the end."""
    gone_at = datetime(2026, 11, 25, 13, tzinfo=UTC)
    write_events(kafka_bootstrap, topics.entities, range(2))
    with aborted(kafka_bootstrap) as producer:
        send(producer, topics.entities, event(99))
    with transaction(kafka_bootstrap) as producer:
        send(producer, topics.entities, Tombstone(id="0", deleted_at=gone_at))
        producer.send(topics.entities, None, b"1", partition=1).get(timeout=10)
    with aborted(kafka_bootstrap) as producer:
        send(producer, topics.entities, event(98))
    partition = Partition(topics.entities, 1)
    expected = [
        # What ends a transaction takes an offset.
        (event(0), Position(partition, 0)),
        (event(1), Position(partition, 1)),
        (Tombstone(id="0", deleted_at=gone_at), Position(partition, 5)),
        (Tombstone(id="1"), Position(partition, 6)),
    ]
    ends = {Partition(topics.entities, n): 10 if n == 1 else 0 for n in range(4)}

    async def work() -> None:
        async with EntityEvents(kafka_bootstrap, topic=topics.entities, follow=False) as events:
            assert events.position is None
            assert [(each, events.position) async for each in events] == expected
            assert events.offsets == ends
            assert events.message is not None
            assert events.message.key == b"1"

    run(work)
    connection = KafkaConnection(bootstrap_servers=(kafka_bootstrap,))
    with BlockingEntityEvents(connection, topic=topics.entities, follow=False) as blocking:
        assert [(each, blocking.position) for each in blocking] == expected
        assert blocking.offsets == ends


def test_a_second_reader_goes_on_behind_the_commit(kafka_bootstrap: str, topics: Any) -> None:
    """What was handed out is committed and what was only read ahead isn't; without a commit all comes again."""
    write_events(kafka_bootstrap, topics.entities, range(20))
    options: dict[str, Any] = {"topic": topics.entities, "group_id": f"g-{uuid4().hex[:8]}"}

    async def work() -> None:
        async with EntityEvents(kafka_bootstrap, **options) as events:
            assert await ids(events, 5) == [str(n) for n in range(5)]
            await asyncio.sleep(1)
        async with EntityEvents(kafka_bootstrap, **options) as events:
            assert await ids(events, 7) == [str(n) for n in range(7)]
            committed = await events.commit()
            assert committed[Partition(topics.entities, 1)] == 7
            assert await ids(events, 3) == ["7", "8", "9"]

    run(work)
    with BlockingEntityEvents(kafka_bootstrap, **options) as blocking:
        assert ids_of(blocking, 2) == ["7", "8"]
        assert blocking.commit()[Partition(topics.entities, 1)] == 9
    with BlockingEntityEvents(kafka_bootstrap, **options, follow=False) as blocking:
        assert [each.id for each in blocking] == [str(n) for n in range(9, 20)]
        # Behind the last event stands its transaction's end.
        assert blocking.commit() == {Partition(topics.entities, n): 21 if n == 1 else 0 for n in range(4)}
    with BlockingEntityEvents(kafka_bootstrap, **options, follow=False) as blocking:
        assert list(blocking) == []


def test_offsets_that_the_caller_kept_are_gone_on_from_exactly(kafka_bootstrap: str, topics: Any) -> None:
    """At every place, of every partition, whatever order they come in."""
    for partition in range(3):
        write_events(kafka_bootstrap, topics.entities, range(10 * partition, 10 * partition + 4), partition)
    kept: dict[Partition, int] = {}
    seen: list[str] = []
    for _ in range(13):
        with BlockingEntityEvents(kafka_bootstrap, topic=topics.entities, start=kept, follow=False) as events:
            seen += ids_of(events, 1)
            kept = dict(events.offsets)
    assert sorted(map(int, seen)) == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
    past = {Partition(topics.entities, 1): 99}
    with (
        pytest.raises(SourceUnavailable, match=r"\[1\] ends at 5, before the offset 99"),
        BlockingEntityEvents(kafka_bootstrap, topic=topics.entities, start=past),
    ):
        pass


def test_a_start_is_now_or_a_moment(kafka_bootstrap: str, topics: Any) -> None:
    """The latest begins when the reader is open; a moment is a record's timestamp."""
    noon = datetime(2026, 11, 25, 12, tzinfo=UTC)
    with transaction(kafka_bootstrap) as producer:
        for hour in range(4):
            moment = round((noon + timedelta(hours=hour)).timestamp() * 1000)
            send(producer, topics.entities, event(hour), timestamp_ms=moment)
    since = noon + timedelta(hours=2)
    with BlockingEntityEvents(kafka_bootstrap, topic=topics.entities, start=since, follow=False) as events:
        assert [each.id for each in events] == ["2", "3"]

    async def work() -> None:
        async with EntityEvents(kafka_bootstrap, topic=topics.entities, start="latest") as events:
            await asyncio.to_thread(write_events, kafka_bootstrap, topics.entities, range(4, 6), 2)
            assert await ids(events, 2) == ["4", "5"]

    run(work)


def test_a_newer_event_is_refused_again_and_again(kafka_bootstrap: str, topics: Any) -> None:
    """By its header or its body, with its position, and nothing is committed behind it; skipping doesn't skip it."""
    body = json.dumps(json.loads(event(1).to_json()) | {"schema_version": 2}).encode()
    group = f"g-{uuid4().hex[:8]}"
    with transaction(kafka_bootstrap) as producer:
        send(producer, topics.entities, event(0))
        producer.send(topics.entities, body, b"1", partition=1).get(timeout=10)
    for before in (["0"], []):
        with BlockingEntityEvents(kafka_bootstrap, topic=topics.entities, group_id=group, on_bad="skip") as events:
            assert ids_of(events, len(before)) == before
            for _ in range(2):
                with pytest.raises(NewerSchema, match=rf"{topics.entities}\[1\]@1 has schema version 2"):
                    next(events)
            assert events.commit()[Partition(topics.entities, 1)] == 1
    newer = [("nametag-schema", b"tombstone"), ("nametag-schema-version", b"7")]
    with transaction(kafka_bootstrap) as producer:
        send(producer, topics.entities, Tombstone(id="2"), 2, headers=newer)
    start = {Partition(topics.entities, 1): 3}
    with (
        BlockingEntityEvents(kafka_bootstrap, topic=topics.entities, start=start) as events,
        pytest.raises(NewerSchema, match="version 7"),
    ):
        next(events)


def test_what_is_new_but_no_new_version_is_read(kafka_bootstrap: str, topics: Any) -> None:
    """A field that we don't know is ignored, and a type of entities is any string."""
    body = json.loads(event(1).to_json())
    body["entities"][0] |= {"type": "PRODUCT", "sentiment": 1}
    body |= {"mood": "good"}
    with transaction(kafka_bootstrap) as producer:
        producer.send(topics.entities, json.dumps(body).encode(), b"1", partition=1).get(timeout=10)
    with BlockingEntityEvents(kafka_bootstrap, topic=topics.entities) as events:
        found: Any = next(events)
    assert found.id == "1"
    assert found.entities[0].type == "PRODUCT"


def test_foreign_records_are_told_or_skipped(kafka_bootstrap: str, topics: Any) -> None:
    """One stops a reader that wants to know, with its position; one that skips counts them."""
    foreign = [
        (b"\xff", b"k", []),
        (b"{}", b"k", []),
        (b'{"schema_version": 1}', b"k", []),
        (None, b"\xff", []),
        (event(9).to_json(), b"9", [("nametag-schema", b"receipt")]),
    ]
    with transaction(kafka_bootstrap) as producer:
        send(producer, topics.entities, event(0))
        for value, key, headers in foreign:
            producer.send(topics.entities, value, key, headers, 1).get(timeout=10)
        send(producer, topics.entities, event(1))
    for offset, told in enumerate(("no JSON", "no schema_version", "id: Field required", "no UTF-8", "receipt"), 1):
        start = {Partition(topics.entities, 1): offset}
        with (
            BlockingEntityEvents(kafka_bootstrap, topic=topics.entities, start=start) as events,
            pytest.raises(BadEvent, match=rf"\[1\]@{offset} is no event of nametag: .*{told}.*on_bad"),
        ):
            next(events)
    with BlockingEntityEvents(kafka_bootstrap, topic=topics.entities, on_bad="skip", follow=False) as events:
        assert [each.id for each in events] == ["0", "1"]
        assert events.num_skipped == 5


def test_partitions_that_go_to_another_are_no_longer_handed_out(kafka_bootstrap: str, topics: Any) -> None:
    """Nor committed: both together hand out each event once, though the first had read all ahead."""
    for partition in range(4):
        write_events(kafka_bootstrap, topics.entities, range(100 * partition, 100 * partition + 50), partition)
    options: dict[str, Any] = {"topic": topics.entities, "group_id": f"g-{uuid4().hex[:8]}"}
    seen: list[tuple[str, Position | None]] = []

    async def work() -> None:
        async with EntityEvents(kafka_bootstrap, **options) as first:
            for _ in range(10):
                seen.append(((await anext(first)).id, first.position))  # noqa: PERF401 # the position is the last one's
            await first.commit()
            assert len(first.offsets) == 4
            async with EntityEvents(kafka_bootstrap, **options) as second:
                # Meanwhile the first goes on, and what it commits as partitions leave counts for their next reader.
                while len(second.offsets) < 2 or len(first.offsets) > 2:
                    if len(seen) < 60:
                        seen.append(((await anext(first)).id, first.position))
                        await first.commit()
                    await asyncio.sleep(0.02)
                assert not set(first.offsets) & set(second.offsets)

                async def rest(events: EntityEvents) -> None:
                    async for each in events:
                        seen.append((each.id, events.position))
                        committed = await events.commit()
                        assert set(committed) <= set(events.offsets)

                tasks = [asyncio.create_task(rest(events)) for events in (first, second)]
                while len(seen) < 200:  # noqa: ASYNC110 # nor of others' events
                    await asyncio.sleep(0.05)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    run(work)
    assert len(set(seen)) == len(seen) == 200


def test_what_is_buffered_is_bounded(kafka_bootstrap: str, topics: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader pauses before it holds all, goes on when there is room, and asyncio has its turns."""
    monkeypatch.setattr("consumers.event_shelf.MAX_ITEMS", 50)
    monkeypatch.setattr("consumers.event_thread.MAX_POLL_RECORDS", 20)
    write_events(kafka_bootstrap, topics.entities, range(400))

    async def work() -> None:
        async with EntityEvents(kafka_bootstrap, topic=topics.entities, follow=False) as events:
            await asyncio.sleep(1)
            assert 50 <= events._shelf._num_items < 70
            assert [each.id async for each in events] == [str(n) for n in range(400)]
            assert events._shelf._num_items == events._shelf._num_bytes == 0

    run(work)


def test_a_cancelled_wait_loses_nothing(kafka_bootstrap: str, topics: Any) -> None:
    """One may wait for the next event with a time."""

    async def work() -> None:
        async with EntityEvents(kafka_bootstrap, topic=topics.entities) as events:
            for number in range(5):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await anext(events)
                await asyncio.to_thread(write_events, kafka_bootstrap, topics.entities, range(number, number + 1))
                assert await ids(events, 1) == [str(number)]

    run(work)


def test_what_can_not_be_is_told(kafka_bootstrap: str, topics: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No group to commit for, no topic, no broker, no sense: a sentence each."""
    with BlockingEntityEvents(kafka_bootstrap, topic=topics.entities) as events:
        with pytest.raises(RuntimeError, match="give group_id, or keep"):
            events.commit()
        with pytest.raises(RuntimeError, match="opened once"):
            events.__enter__()
    with pytest.raises(RuntimeError, match="within a `with`"):
        next(BlockingEntityEvents(kafka_bootstrap))
    with pytest.raises(SourceUnavailable, match="the topic no-such does not exist"):
        BlockingEntityEvents(kafka_bootstrap, topic="no-such").__enter__()
    monkeypatch.setattr("consumers.event_thread.START_SECONDS", 0.5)

    async def away() -> None:
        with pytest.raises(SourceUnavailable, match=r"no Kafka broker could be had at 127\.0\.0\.1:1"):
            await EntityEvents("127.0.0.1:1").__aenter__()

    run(away)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"start": "first"}, "must be"),
        ({"start": datetime(2026, 11, 25)}, "time zone"),
        ({"start": {}, "group_id": "g"}, "leave out group_id"),
        ({"start": {Partition("posts", 0): 1}}, "no Partition of entities"),
        ({"on_bad": "drop"}, "on_bad"),
    ]
    for options, told in wrong:
        with pytest.raises(ValueError, match=told):
            EntityEvents(kafka_bootstrap, **options)
    with pytest.raises(ValueError, match="bootstrap_servers is empty"):
        EntityEvents(" ,")


@pytest.mark.parametrize("group_id", [None, "readers"])
def test_a_broker_that_restarts_is_waited_for(own_broker: Any, group_id: str | None) -> None:
    """Reading goes on by itself, once each, and so does a commit."""
    write_events(own_broker.address, "entities", range(2))

    async def work() -> None:
        async with EntityEvents(own_broker.address, group_id=group_id) as events:
            assert await ids(events, 2) == ["0", "1"]
            await asyncio.to_thread(own_broker.end)
            await asyncio.sleep(2)
            committing = asyncio.create_task(events.commit()) if group_id else None
            await asyncio.to_thread(own_broker.restart)
            await asyncio.to_thread(write_events, own_broker.address, "entities", range(2, 4))
            assert await ids(events, 2) == ["2", "3"]
            if committing is not None:
                assert (await committing)[Partition("entities", 1)] == 3

    run(work)
