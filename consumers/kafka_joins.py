"""Joining a group as KIP-429 means it, with kafka-python 3.0.12: each function makes up for something it lacks.

For the thread that polls.
"""

from typing import Any

from kafka import KafkaConsumer


def poll(consumer: KafkaConsumer, timeout_ms: int) -> dict[Any, list[Any]]:
    """The next records, also while a join is under way, which may last as long as another member's heartbeat.

    A cooperative member keeps its partitions meanwhile, and until the join is answered the broker takes commits
    under the old generation. The client's own poll reads nothing then.
    """
    polled: dict[Any, list[Any]] = consumer.poll(timeout_ms=timeout_ms)
    if polled or not consumer._coordinator.rebalance_in_progress() or not consumer.assignment():
        return polled
    records, _ = consumer._fetcher.fetch_records(consumer.config["max_poll_records"], timeout_ms=timeout_ms)
    return dict(records)


def tell_of_losses_amid_joins(consumer: KafkaConsumer) -> None:
    """Have a member that is dropped while it joins told that its partitions are lost.

    kafka-python 3.0.12 prepares a join once, and looks then whether the membership is lost. Where the
    broker answers the join itself with "unknown member" (we slept through it), it joins anew without
    another look: it may get its old partitions back, and neither loss nor assignment is told, so that
    work from before the sleep would be published under the new generation, a second time.
    """
    coordinator = consumer._coordinator
    reset = coordinator.reset_generation

    def reset_and_prepare_anew(*arguments: Any, **named: Any) -> None:
        reset(*arguments, **named)
        coordinator.rejoining = False

    coordinator.reset_generation = reset_and_prepare_anew


def keep_joining(consumer: KafkaConsumer) -> None:
    """See a join through that outlasts the poll which began it.

    kafka-python 3.0.12 looks at a join under way only while it still sees a reason to join. Where
    the reason was that the topic's partitions changed, the reason goes as the join begins; then the
    member reads on, but commits nothing and sends no heartbeat until the broker drops it.
    """
    coordinator = consumer._coordinator
    if coordinator.rebalance_in_progress():
        coordinator.request_rejoin()
