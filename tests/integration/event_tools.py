"""Events on the entities topic, as the worker writes them, and readers that take a number of them."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from consumers.deletes import Tombstone
from consumers.entity_events import BlockingEntityEvents, EntityEvents
from consumers.events import EVENT_HEADERS, CheckpointName, EntityEvent, ImageReport, Scissors
from consumers.image_status import ImageStatus
from consumers.wire import PositionReport
from tests.integration.dlq_tools import transaction

TAGGED_AT = datetime(2026, 11, 25, 12, tzinfo=UTC)


def event(number: int, **fields: Any) -> EntityEvent:
    """An event with an entity and an emoji."""
    text = f"\N{SMILING FACE WITH SUNGLASSES} Phoenix {number}"
    known: dict[str, Any] = {
        "id": str(number),
        "tagged_at": TAGGED_AT,
        "text": text,
        "entities": (Scissors(text).cut(type="LOC", start=2, end=9, confidence=0.5),),
        "image": ImageReport(status=ImageStatus.NONE),
        "checkpoint": CheckpointName(id="829c66523a6c", variant="attention_gate"),
        "position": PositionReport(topic="posts", partition=0, offset=number),
    }
    return EntityEvent(**(known | fields))


def send(producer: Any, topic: str, message: EntityEvent | Tombstone, partition: int = 1, **fields: Any) -> None:
    """Put a message on the topic, as the worker does, and wait for it."""
    if isinstance(message, Tombstone):
        value, headers = None, message.headers
    else:
        value, headers = message.to_json(), EVENT_HEADERS
    known = {"key": message.id.encode(), "headers": list(headers), "partition": partition}
    producer.send(topic, value, **(known | fields)).get(timeout=10)


def write_events(bootstrap: str, topic: str, numbers: range, partition: int = 1) -> None:
    """Some events in one transaction."""
    with transaction(bootstrap) as producer:
        for number in numbers:
            send(producer, topic, event(number), partition)


async def ids(events: EntityEvents, num: int) -> list[str]:
    """The ids of the next `num`."""
    return [(await anext(events)).id for _ in range(num)]


def ids_of(events: BlockingEntityEvents, num: int) -> list[str]:
    """The ids of the next `num`."""
    some: Iterator[Any] = itertools.islice(events, num)
    return [each.id for each in some]
