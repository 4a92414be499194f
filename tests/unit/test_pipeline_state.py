"""What a pipeline tells of itself at each scrape."""

import time

from prometheus_client import CollectorRegistry, generate_latest

from consumers.source import Message, Partition, Position
from worker.ledger import OffsetLedger
from worker.pipeline_state import PipelineState, StateCollector, state_of

FIRST, SECOND = Partition("posts", 0), Partition("posts", 1)


def message(partition: Partition, offset: int, age: float | None = None) -> Message:
    timestamp = None if age is None else round((time.time() - age) * 1000)
    return Message(position=Position(partition, offset), value=b"{}", timestamp_ms=timestamp)


def rendered(state: PipelineState) -> str:
    registry = CollectorRegistry()
    registry.register(StateCollector(lambda: state))
    return generate_latest(registry).decode()


def test_lag_counts_what_is_unread_what_waits_and_what_is_under_way() -> None:
    """A partition that is read to its end and finished has a lag of 0, and is told all the same."""
    ledger: OffsetLedger[str] = OffsetLedger()
    for offset in (4, 5, 7):
        ledger.open(message(FIRST, offset))
    ledger.complete(message(FIRST, 5), "event")
    state = state_of({FIRST: 10, SECOND: 0}, [message(FIRST, 8)], ledger, {"device": 2})
    assert state.lag == {FIRST: 14, SECOND: 0}
    assert state.queues == {"intake": 1, "device": 2, "publication": 1}
    told = rendered(state)
    assert 'nametag_partition_processable_lag{partition="0",topic="posts"} 14.0' in told
    assert 'nametag_partition_processable_lag{partition="1",topic="posts"} 0.0' in told
    assert 'nametag_queue_posts{queue="device"} 2.0' in told


def test_the_oldest_post_is_the_oldest_of_all_partitions() -> None:
    """Since the brokers took it, and since it is here; messages without a time say nothing."""
    ledger: OffsetLedger[str] = OffsetLedger()
    ledger.open(message(FIRST, 1))
    ledger.open(message(SECOND, 1, age=60))
    ledger.open(message(SECOND, 2, age=3600))
    time.sleep(0.01)
    state = state_of({}, [], ledger, {})
    assert 60 <= state.oldest_post_age < 61
    assert 0.01 <= state.oldest_in_flight < 1


def test_nothing_under_way_has_no_age() -> None:
    """Both ages are 0, and not the age of something that is done with."""
    ledger: OffsetLedger[str] = OffsetLedger()
    ledger.open(message(FIRST, 1, age=60))
    ledger.complete(message(FIRST, 1), "event")
    ledger.settle(ledger.finished())
    state = state_of({FIRST: 0}, [], ledger, {})
    assert (state.oldest_post_age, state.oldest_in_flight) == (0.0, 0.0)
    assert "nametag_oldest_post_age_seconds 0.0" in rendered(state)
