"""Where the reading of the entities topic begins, partition by partition."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from kafka import TopicPartition

from consumers.errors import SourceUnavailable
from consumers.source import Offsets, Partition

Start = Literal["earliest", "latest"] | datetime | Mapping[Partition, int]
"""At the oldest record that is kept, at what comes from now on, at a moment, or at offsets that the caller kept."""

ANSWER_MS = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is read of a topic. Raises a ValueError on what makes no sense.

    A moment is compared with the records' timestamps; it has to say its time zone. A group's own offsets come
    before `start`, which is for partitions without any. With `follow=False` reading ends at what was the end when
    it began: in front of a transaction that is open then.
    """

    topic: str = "entities"
    group_id: str | None = None
    start: Start = field(default="earliest", repr=False)
    follow: bool = True

    def __post_init__(self) -> None:
        start = self.start
        if isinstance(start, datetime):
            if start.tzinfo is None:
                raise ValueError(f"start is {start}, without a time zone; give it one, such as UTC")
        elif isinstance(start, Mapping):
            if self.group_id is not None:
                raise ValueError("start has offsets of your own, and a group keeps others; leave out group_id")
            for partition in start:
                if not isinstance(partition, Partition) or partition.topic != self.topic:
                    raise ValueError(f"start has {partition!r}, which is no Partition of {self.topic}")
        elif start not in ("earliest", "latest"):
            raise ValueError(f'start is {start!r}; it must be "earliest", "latest", a datetime or offsets')


def begin_places(
    consumer: Any, partitions: Collection[Partition], reading: Reading, known: Collection[Partition]
) -> Offsets:
    """Where each of `partitions` begins. Those not `known` when the reading began are new, and read from their start.

    Raises `SourceUnavailable` where the topic ends before an offset that the caller kept; and the client's errors.
    """
    committed = _committed(consumer, partitions) if reading.group_id is not None else {}
    others = [each for each in partitions if each not in committed]
    new = [each for each in others if each not in known]
    old = [each for each in others if each in known]
    return {**committed, **_begins(consumer, new), **_starts(consumer, old, reading.start)}


def end_places(consumer: Any, partitions: Collection[Partition]) -> Offsets:
    """One past the last offset that can be read of each partition. Raises the client's errors."""
    return _offsets(consumer.end_offsets([TopicPartition(*each) for each in partitions], timeout_ms=ANSWER_MS))


def _starts(consumer: Any, partitions: Collection[Partition], start: Start) -> Offsets:
    if not partitions:
        return {}
    if start == "earliest":
        return _begins(consumer, partitions)
    ends = end_places(consumer, partitions)
    if isinstance(start, datetime):
        wanted = {TopicPartition(*each): round(start.timestamp() * 1000) for each in partitions}
        found = consumer.offsets_for_times(wanted, timeout_ms=ANSWER_MS)
        return {each: ends[each] if (at := found[TopicPartition(*each)]) is None else at.offset for each in partitions}
    if not isinstance(start, Mapping):
        return ends
    begins = _begins(consumer, partitions)
    for partition in partitions:
        if start.get(partition, 0) > ends[partition]:
            raise SourceUnavailable(
                f"{partition} ends at {ends[partition]}, before the offset {start[partition]} to start at; "
                "if the topic was made anew, start without offsets"
            )
    # What is kept no more can't be read; and a partition without an offset is one that nothing was read of.
    return {each: max(begins[each], start.get(each, 0)) for each in partitions}


def _begins(consumer: Any, partitions: Collection[Partition]) -> Offsets:
    if not partitions:
        return {}
    return _offsets(consumer.beginning_offsets([TopicPartition(*each) for each in partitions], timeout_ms=ANSWER_MS))


def _committed(consumer: Any, partitions: Collection[Partition]) -> Offsets:
    found = {each: consumer.committed(TopicPartition(*each), timeout_ms=ANSWER_MS) for each in partitions}
    return {each: offset for each, offset in found.items() if offset is not None}


def _offsets(found: Mapping[Any, int]) -> Offsets:
    return {Partition(*each): offset for each, offset in found.items()}
