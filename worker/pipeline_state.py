"""How a pipeline stands at the moment: what can't be counted as it happens, and is asked for when it is scraped."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from consumers.source import Message, Partition
from worker.ledger import OffsetLedger


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineState:
    """`lag`: messages of each assigned partition that can be processed and aren't finished, read or not.

    `queues`: messages that wait in each place. Ages are in seconds; 0 where nothing is under way.
    """

    lag: Mapping[Partition, int] = field(default_factory=dict)
    queues: Mapping[str, int] = field(default_factory=dict)
    oldest_post_age: float = 0.0
    """Since the brokers took it."""
    oldest_in_flight: float = 0.0
    """Since it was taken in here: what grows while a post is stuck."""

    @property
    def total_lag(self) -> int | None:
        """Over all partitions; None where there is none, or none that tells."""
        return sum(self.lag.values()) if self.lag else None


def state_of(
    backlog: Mapping[Partition, int],
    arrived: Sequence[Message],
    ledger: OffsetLedger[Any],
    waiting: Mapping[str, int],
) -> PipelineState:
    """From what the source still has, what `arrived` and has no room yet, and what is under way.

    `waiting` are the depths of the queues between intake and publication.
    """
    num_arrived = Counter(message.position.partition for message in arrived)
    num_open = ledger.num_open()
    oldest = list(ledger.oldest())
    taken_at = [message.timestamp_ms / 1000 for message, _ in oldest if message.timestamp_ms is not None]
    return PipelineState(
        lag={each: num + num_arrived[each] + num_open.get(each, 0) for each, num in backlog.items()},
        queues={"intake": len(arrived), **waiting, "publication": ledger.num_finished()},
        oldest_post_age=max(0.0, time.time() - min(taken_at)) if taken_at else 0.0,
        oldest_in_flight=time.monotonic() - min(opened_at for _, opened_at in oldest) if oldest else 0.0,
    )


class StateCollector(Collector):
    """Gauges of a `PipelineState`, whose partitions come and go."""

    def __init__(self, look: Callable[[], PipelineState]) -> None:
        self._look = look

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The names alone, so that nothing is looked at while they are registered."""
        yield from _gauges(PipelineState())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges, as things stand now."""
        yield from _gauges(self._look())


def _gauges(state: PipelineState) -> Iterator[GaugeMetricFamily]:
    lag = GaugeMetricFamily(
        "nametag_partition_processable_lag",
        "Messages of an assigned partition that can be processed and aren't finished; transaction markers don't count.",
        labels=["topic", "partition"],
    )
    for partition, num in sorted(state.lag.items()):
        lag.add_metric([partition.topic, str(partition.number)], num)
    yield lag
    queues = GaugeMetricFamily("nametag_queue_posts", "Messages that wait, by where.", labels=["queue"])
    for name, num in state.queues.items():
        queues.add_metric([name], num)
    yield queues
    yield GaugeMetricFamily(
        "nametag_oldest_post_age_seconds",
        "Age of the oldest post under way, since the brokers took it.",
        value=state.oldest_post_age,
    )
    yield GaugeMetricFamily(
        "nametag_oldest_post_in_flight_seconds",
        "How long the oldest post under way is here.",
        value=state.oldest_in_flight,
    )
