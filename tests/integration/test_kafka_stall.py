"""The stall watchdog against a real broker: it sees a client that reads nothing, and nothing else."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from consumers.errors import SourceUnavailable
from consumers.kafka import KafkaConnection, KafkaSource, KafkaSourceConfig
from consumers.source import Message, Offsets, Partition

STALL_SECONDS = 2.0


@pytest.fixture
def source(kafka_bootstrap: str, topics: Any) -> KafkaSource:
    config = KafkaSourceConfig(
        topic=topics.posts, group_id=f"group-{uuid4().hex[:8]}", session_timeout_ms=6000, stall_seconds=STALL_SECONDS
    )
    return KafkaSource(KafkaConnection(bootstrap_servers=(kafka_bootstrap,)), config)


def produce(bootstrap: str, topic: str, values: range, *, transactions: tuple[str, ...] = ()) -> None:
    """Send `values`; or each of them in each of `transactions`, which end as they are named."""
    if not transactions:
        producer = KafkaProducer(bootstrap_servers=bootstrap)
        for value in values:
            producer.send(topic, b"%d" % value, partition=0)
        producer.close()
        return
    producer = KafkaProducer(bootstrap_servers=bootstrap, transactional_id=uuid4().hex)
    producer.init_transactions()
    for end in transactions:
        producer.begin_transaction()
        for value in values:
            producer.send(topic, b"%d" % value, partition=0).get(timeout=10)
        getattr(producer, f"{end}_transaction")()
    producer.close()


async def nothing_to_commit(_partitions: frozenset[Partition]) -> Offsets:
    return {}


async def receive(source: KafkaSource, number: int) -> list[Message]:
    messages: list[Message] = []
    async with asyncio.timeout(30):
        while len(messages) < number:
            messages += await source.receive()
    return messages


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # seen from outside, as by a probe
            await asyncio.sleep(0.02)


def test_a_client_that_reads_nothing_is_started_anew(
    source: KafkaSource,
    kafka_bootstrap: str,
    topics: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Readiness goes first, then the client; reading goes on behind the last commit, nothing left out."""
    caplog.set_level(logging.INFO, "nametag.kafka")

    def read_nothing(*_arguments: Any, **_options: Any) -> tuple[dict[Any, Any], bool]:
        """The heartbeats go on, the group is kept, and no record comes: as kafka-python 3.0.9 did it."""
        return {}, True

    async def run() -> tuple[list[Message], float]:
        await source.start(nothing_to_commit)
        try:
            first = await receive(source, 10)
            await source.commit({Partition(topics.posts, 0): 10})
            assert source.unready is None
            monkeypatch.setattr(source._rebalance.consumer._fetcher, "fetch_records", read_nothing)
            start = time.monotonic()
            await asyncio.to_thread(produce, kafka_bootstrap, topics.posts, range(10, 20))
            await until(lambda: source.unready == "posts wait and none is read")
            second = await receive(source, 10)
            seconds = time.monotonic() - start
            await until(lambda: source.unready is None)
            return first + second, seconds
        finally:
            await source.close()

    produce(kafka_bootstrap, topics.posts, range(10))
    messages, seconds = asyncio.run(run())
    assert [int(message.value or b"") for message in messages] == list(range(20))
    assert messages[-1].epoch > messages[0].epoch
    assert seconds >= STALL_SECONDS * 0.9
    told = [record.message for record in caplog.records]
    assert told.index("kafka_stalled") < told.index("kafka_restarted")


def test_a_topic_that_is_deleted_ends_the_source(source: KafkaSource, kafka_bootstrap: str, topics: Any) -> None:
    """It isn't taken for a spare that has nothing to read, and ready: it says what is missing."""

    async def run() -> None:
        await source.start(nothing_to_commit)
        try:
            await receive(source, 5)
            await asyncio.to_thread(delete)
            async with asyncio.timeout(60):
                while await source.receive():
                    pass
        finally:
            await source.close()

    def delete() -> None:
        admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
        admin.delete_topics([topics.posts])
        admin.close()

    produce(kafka_bootstrap, topics.posts, range(5))
    with pytest.raises(SourceUnavailable, match=rf"the topic {topics.posts} does not exist"):
        asyncio.run(run())


@pytest.mark.parametrize("transactions", [("commit", "commit"), ("commit", "abort"), ("abort",)])
def test_what_can_not_be_read_is_no_stall(
    source: KafkaSource,
    kafka_bootstrap: str,
    topics: Any,
    transactions: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A topic that ends in markers or in aborted records is read to its end, however long nothing comes."""
    caplog.set_level(logging.INFO, "nametag.kafka")
    num_visible = 5 * transactions.count("commit")

    async def run() -> None:
        await source.start(nothing_to_commit)
        try:
            assert len(await receive(source, num_visible)) == num_visible
            await until(lambda: source.unready is None)
            for _ in range(20):
                await asyncio.sleep(STALL_SECONDS / 8)
                assert source.unready is None
        finally:
            await source.close()

    produce(kafka_bootstrap, topics.posts, range(5), transactions=transactions)
    asyncio.run(run())
    assert not {"kafka_stalled", "kafka_restarted"} & {record.message for record in caplog.records}
