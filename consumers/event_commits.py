"""What was asked to be committed, and by whom; the thread that owns the consumer answers."""

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, RetriableError

from consumers.errors import SourceUnavailable
from consumers.event_shelf import Place, Shelf
from consumers.kafka_commits import STALE, ignore, kafka_offsets, readable
from consumers.source import Offsets, Partition

COMMIT_MS = 5000
GIVE_UP_SECONDS = 30.0
"""How long a commit is tried: longer than most rebalances, during which the brokers refuse it."""


@dataclass(frozen=True, slots=True)
class _Ask:
    places: Mapping[Partition, Place]
    done: Future[Offsets] = field(default_factory=Future)
    asked_at: float = field(default_factory=time.monotonic)


class EventCommits:
    """The commits under way; offsets of partitions that have gone to others meanwhile are left out."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._lock = threading.Lock()
        self._asks: list[_Ask] = []
        self._over: BaseException | None = None

    def ask(self) -> Future[Offsets]:
        """Commit all that was handed out so far; the answer is what was committed. From any thread."""
        ask = _Ask(self._shelf.places)
        with self._lock:
            if self._over is not None:
                raise self._over
            self._asks.append(ask)
        return ask.done

    def end(self, why: BaseException) -> None:
        """Nothing is committed any more; who waits is told `why`."""
        with self._lock:
            self._over = why
            asks, self._asks = self._asks, []
        for ask in asks:
            settle(ask.done, why)

    def send(self, consumer: KafkaConsumer) -> None:
        """Commit what was asked for, and answer; what the brokers don't take now waits for the next call."""
        with self._lock:
            asks = list(self._asks)
        for ask in asks:
            offsets = self._shelf.still_ours(ask.places)
            try:
                if offsets:
                    consumer.commit(kafka_offsets(offsets), timeout_ms=COMMIT_MS)
            except (*STALE, RetriableError) as error:
                if time.monotonic() - ask.asked_at < GIVE_UP_SECONDS:
                    return
                why = f"within {GIVE_UP_SECONDS:g} s ({error!r}); see whether the brokers are up, and a rebalance ends"
                self._answer(ask, SourceUnavailable(f"{readable(offsets)} could not be committed {why}"))
            except KafkaError as error:
                why = f"({error!r}); see whether this user may commit for the group"
                self._answer(ask, SourceUnavailable(f"{readable(offsets)} could not be committed {why}"))
            else:
                self._answer(ask, offsets)

    async def send_before_leaving(self, consumer: Any, partitions: frozenset[Partition]) -> None:
        """Commit what was asked for of `partitions`, which go to others; on the client's own loop."""
        with self._lock:
            asks = list(self._asks)
        last: dict[Any, int] = {}
        for ask in asks:
            last.update(self._shelf.still_ours(ask.places))
        offsets = {each: offset for each, offset in last.items() if each in partitions}
        if offsets:
            with suppress(KafkaError):
                # Refused, it is as if the commit had come too late: others read from the one before.
                await consumer.commit_async(kafka_offsets(offsets), callback=ignore)

    def _answer(self, ask: _Ask, answer: Offsets | BaseException) -> None:
        with self._lock:
            if ask in self._asks:
                self._asks.remove(ask)
        settle(ask.done, answer)


def settle(done: Future[Any], answer: object) -> None:
    """Complete `done`, with a result or an error, unless it is complete."""
    # Who waited may have been cancelled.
    with suppress(InvalidStateError):
        if isinstance(answer, BaseException):
            done.set_exception(answer)
        else:
            done.set_result(answer)


def partitions_of(kafka_partitions: Any) -> frozenset[Partition]:
    """Ours for the client's."""
    return frozenset(Partition(each.topic, each.partition) for each in kafka_partitions)


def kafka_partitions(partitions: Any) -> list[Any]:
    """The client's for ours."""
    return [TopicPartition(*each) for each in partitions]
