"""Dead letters as the worker writes them, and `nametag dlq` run on them."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaProducer

from consumers.dead_letters import DeadLetter
from consumers.errors import Reason
from consumers.kafka_connection import KafkaConnection
from consumers.source import Message, Partition, Position
from tests.integration.topic_tools import records
from worker.kafka_sink import KafkaSink, KafkaSinkConfig
from worker.publish import Outcome

Run = Callable[..., "Done"]


class Done:
    """How a command ended, and what it told."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


def message(topics: Any, offset: int, value: bytes | None = b"{", key: bytes | None = b"k", **fields: Any) -> Message:
    return Message(position=Position(Partition(topics.posts, 2), offset), value=value, key=key, **fields)


def letter(topics: Any, offset: int, reason: Reason = Reason.NOT_JSON, **fields: Any) -> DeadLetter:
    return DeadLetter.of(message(topics, offset, **fields), reason, "the message is no JSON")


@contextmanager
def transaction(bootstrap: str) -> Iterator[Any]:
    """A producer within a transaction, which is committed at the end."""
    name = f"test-{random.getrandbits(64):x}"
    producer = KafkaProducer(bootstrap_servers=bootstrap, transactional_id=name, max_request_size=2**24)
    producer.init_transactions()
    producer.begin_transaction()
    try:
        yield producer
        producer.commit_transaction()
    finally:
        producer.close(timeout=5)


def write(bootstrap: str, topics: Any, letters: Sequence[DeadLetter], partition: int = 1) -> None:
    """What the worker's sink does, on one partition, where the letters stand from 0 on."""
    with transaction(bootstrap) as producer:
        for each in letters:
            headers = list(each.headers)
            producer.send(topics.dead_letters, each.value, each.key, headers, partition).get(timeout=10)


def counted(bootstrap: str, topic: str) -> Counter[bytes]:
    """How often each value stands on a topic."""
    return Counter(record.value for record in records(bootstrap, topic))


def publish(bootstrap: str, topics: Any, outcomes: Sequence[Outcome]) -> None:
    """Through the worker's own sink, and its answer to what the broker finds too large."""

    async def whole() -> None:
        config = KafkaSinkConfig(entities_topic=topics.entities, dead_letters_topic=topics.dead_letters)
        sink = KafkaSink(KafkaConnection(bootstrap_servers=(bootstrap,)), config)
        await sink.start()
        await sink.publish(outcomes, {}, None)
        await sink.close()

    asyncio.run(whole())
