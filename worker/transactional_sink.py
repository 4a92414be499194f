"""Exactly once: events, dead letters and offsets in one Kafka transaction a flush."""

import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from kafka.errors import (
    AuthorizationError,
    CommitFailedError,
    InvalidTransactionTimeoutError,
    KafkaError,
    MessageSizeTooLargeError,
)

from consumers.kafka import KafkaConnection
from consumers.kafka_commits import kafka_offsets
from consumers.source import Offsets
from worker.errors import PublishAborted, SinkUnavailable
from worker.kafka_sink import Hopeless, KafkaSink, KafkaSinkConfig, without_bytes
from worker.publish import Outcome


class _NoCoordinator(SinkUnavailable):
    """Raised where brokers answer, and none of them for transactions."""


class TransactionalKafkaSink(KafkaSink):
    """Exactly once: a transaction holds events, dead letters and the consumer's offsets (KIP-447).

    One producer serves all partitions. The offsets carry the group's generation, which the broker
    compares: a worker whose partitions went to another can't commit them, nor its events with them.
    """

    commits_offsets = True

    def __init__(self, connection: KafkaConnection, config: KafkaSinkConfig) -> None:
        super().__init__(connection, config)
        self._transactional_id = config.transactional_id or f"nametag-{uuid4().hex}"

    async def publish(self, outcomes: Sequence[Outcome], offsets: Offsets, membership: object) -> None:
        """Make `outcomes` visible and commit `offsets`, both or neither.

        `membership` is the group's as it was before `outcomes` were chosen. Raises `PublishAborted`
        where neither happened, `PublishUnsettled` where only a new read of the offsets can tell.
        """
        await self._thread.call(lambda: self._guarded(lambda: self._transact(outcomes, offsets, membership)))

    def _transaction_options(self) -> dict[str, Any]:
        return {
            "transactional_id": self._transactional_id,
            "transaction_timeout_ms": round(self._config.transaction_seconds * 1000),
        }

    def _start(self) -> None:
        try:
            super()._start()
        except _NoCoordinator:
            # A broker that goes away amid the start may be back by now.
            super()._start()

    def _connect(self) -> None:
        super()._connect()
        assert self._producer is not None
        try:
            # Settles what a producer of the same id left open, and fences it.
            self._producer.init_transactions()
        except KafkaError as error:
            self._disconnect(1.0)
            if isinstance(error, AuthorizationError):
                raise
            # The client tells of it in words alone.
            if InvalidTransactionTimeoutError.__name__ in str(error):
                raise Hopeless(
                    f"kafka.transaction_seconds is {self._config.transaction_seconds:g}, and the brokers at "
                    f"{self._connection} allow less; lower it, or raise their transaction.max.timeout.ms"
                ) from error
            raise _NoCoordinator(
                f"no transaction coordinator answers at {self._connection} ({error!r}); see the broker's log"
            ) from error

    def _transact(self, outcomes: Sequence[Outcome], offsets: Offsets, membership: Any) -> None:
        if membership is None or membership.generation_id < 0 or not membership.member_id:
            # The broker doesn't compare a generation that isn't given: a zombie would pass.
            raise PublishAborted("this worker is no member of the group; it waits to be one again")
        alone: set[int] = set()
        too_large: set[int] = set()
        while refused := self._try(outcomes, offsets, membership, alone, too_large):
            if refused & too_large:
                raise self._takes_nothing()
            # One that is refused alone is to blame; one refused beside others has to be sent alone first.
            too_large |= refused & alone
            alone |= refused

    def _try(
        self, outcomes: Sequence[Outcome], offsets: Offsets, membership: object, alone: set[int], too_large: set[int]
    ) -> set[int]:
        """Commit one transaction; or abort it, and give the places of those that were too large."""
        assert self._producer is not None
        self._producer.begin_transaction()
        refused = self._send_in_transaction(outcomes, alone, too_large)
        if refused:
            # The client may count the refusal as fatal; a new producer aborts what this one began.
            self._reconnect()
            return refused
        try:
            self._producer.send_offsets_to_transaction(kafka_offsets(offsets), membership)
        except CommitFailedError as error:
            # A new producer aborts it. The old one would keep the refused offsets (kafka-python 3.0.12 never
            # clears them) and commit them with its next transaction: posts lost, or a group put back.
            self._reconnect()
            raise PublishAborted("the group has a new generation") from error
        self._producer.commit_transaction()
        return set()

    def _send_in_transaction(self, outcomes: Sequence[Outcome], alone: set[int], too_large: set[int]) -> set[int]:
        # The brokers abort a transaction after its time: what they haven't acknowledged by then, they never will.
        deadline = time.monotonic() + min(self._config.publish_seconds, self._config.transaction_seconds)
        refused: set[int] = set()
        waiting: list[tuple[int, Callable[[float], object]]] = []

        def wait_for_all() -> None:
            for place, wait in waiting:
                try:
                    wait(max(0.0, deadline - time.monotonic()))
                except MessageSizeTooLargeError:
                    refused.add(place)
            waiting.clear()

        for place, outcome in enumerate(outcomes):
            if place in alone:
                wait_for_all()
            waiting.append((place, self._send(without_bytes(outcome) if place in too_large else outcome)))
            if place in alone:
                wait_for_all()
            if refused:
                return refused
        wait_for_all()
        return refused
