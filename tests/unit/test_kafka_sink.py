"""The transactional sink where the brokers don't answer."""

from datetime import UTC, datetime
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError

from consumers.dead_letters import DeadLetter
from consumers.errors import Reason
from consumers.kafka_connection import KafkaConnection
from consumers.wire import PositionReport
from worker.kafka_sink import KafkaSinkConfig
from worker.transactional_sink import TransactionalKafkaSink


class SilentProducer:
    """Takes records, and acknowledges none."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def send(self, topic: str, **record: Any) -> "SilentProducer":
        """A future, which is this very object."""
        return self

    def get(self, timeout: float) -> None:
        """As long a wait as was asked for, without waiting."""
        self.waits.append(timeout)
        raise KafkaTimeoutError(timeout)


def test_an_acknowledgement_is_not_waited_for_after_the_transaction_s_end() -> None:
    """A broker that was killed and came back after `transaction_seconds` has aborted it: every worker then stood
    still for all of `publish_seconds`, and left that much too late at SIGTERM."""
    letter = DeadLetter(
        reason=Reason.NOT_JSON,
        detail="no JSON",
        position=PositionReport(topic="posts", partition=0, offset=0),
        failed_at=datetime.now(UTC),
    )
    sink = TransactionalKafkaSink(KafkaConnection(), KafkaSinkConfig(publish_seconds=30, transaction_seconds=3))
    producer = SilentProducer()
    sink._producer = producer
    with pytest.raises(KafkaTimeoutError):
        sink._send_in_transaction([letter], set(), set())
    assert len(producer.waits) == 1
    assert 2 < producer.waits[0] <= 3
