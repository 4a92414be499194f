"""What is sent to the broker, and what needn't be."""

import asyncio
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import RebalanceInProgressError
from kafka.future import Future

from consumers.kafka import KafkaConnection, KafkaSource, KafkaSourceConfig
from consumers.kafka_commits import CommitTable
from consumers.source import Partition

PARTITION = Partition("posts", 0)


class Consumer:
    """Takes commits, and confirms them when told to."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.answers: list[Future] = []

    def assignment(self) -> set[TopicPartition]:
        return {TopicPartition("posts", 0)}

    def commit_async(self, offsets: dict[Any, Any], callback: Any) -> Future:
        self.sent += [each.offset for each in offsets.values()]
        self.answers.append(Future())
        return self.answers[-1]


def test_what_is_confirmed_is_not_sent_again() -> None:
    """Not in its epoch, nor anything lower; once more in the next, where it may have been read again."""
    epochs = {PARTITION: 1}
    table = CommitTable(lambda act, *arguments: act(*arguments), lambda *_: None, epochs.__getitem__)
    consumer: Any = Consumer()

    def send(offset: int) -> None:
        table.want({PARTITION: offset})
        table.send(consumer)

    send(5)
    send(5)
    assert consumer.sent == [5, 5]
    for answer in consumer.answers:
        answer.success(None)
    for offset in (5, 4, 6):
        send(offset)
    assert consumer.sent == [5, 5, 6]
    epochs[PARTITION] = 2
    send(5)
    assert consumer.sent == [5, 5, 6, 5]


def test_a_commit_that_a_rebalance_refused_is_not_settled() -> None:
    """It is wanted again from the moment it is refused, so that a member who leaves can see it through."""
    table = CommitTable(lambda act, *arguments: act(*arguments), lambda *_: None, lambda _partition: 1)
    consumer: Any = Consumer()
    assert table.is_settled
    table.want({PARTITION: 5})
    assert not table.is_settled
    table.send(consumer)
    assert not table.is_settled
    consumer.answers[-1].failure(RebalanceInProgressError())
    assert not table.is_settled
    table.send(consumer)
    consumer.answers[-1].success(None)
    assert table.is_settled
    assert consumer.sent == [5, 5]


def test_a_cancellation_that_comes_with_the_answer_is_not_swallowed() -> None:
    """A publisher that was cancelled as its commit was confirmed went on, and its worker outlived SIGTERM by far."""

    async def scenario() -> None:
        source = KafkaSource(KafkaConnection(), KafkaSourceConfig())
        source._loop = asyncio.get_running_loop()
        committing = asyncio.create_task(source.commit({PARTITION: 5}))
        await asyncio.sleep(0)
        _, waiting = source._commits.take()
        waiting[0].set_result(None)
        committing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await committing

    asyncio.run(scenario())
