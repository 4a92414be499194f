"""What the trial sends to the compose file's broker, and what it reads there. `address` is the broker's host:port."""

import json
import time
from typing import Any

from kafka import KafkaConsumer, KafkaProducer

from tests.containers.engine import TrialError


def send_delete(address: str, post_id: str) -> None:
    """Put Twitter's delete of the post on `posts`."""
    producer = KafkaProducer(bootstrap_servers=address)
    delete = {"delete": {"status": {"id_str": post_id}}}
    producer.send("posts", json.dumps(delete).encode(), post_id.encode()).get(timeout=30)
    producer.close()


def read_events(address: str, number: int, seconds: float) -> list[dict[str, Any]]:
    """The first events on `entities`, `number` at least. Raises `TrialError` where there are fewer in that time."""
    consumer = KafkaConsumer(
        "entities",
        bootstrap_servers=address,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        enable_auto_commit=False,
        group_id=None,
    )
    events: list[dict[str, Any]] = []
    deadline = time.monotonic() + seconds
    try:
        while len(events) < number:
            if time.monotonic() > deadline:
                raise TrialError(f"{len(events)} events in {seconds:.0f} s, not {number}")
            for records in consumer.poll(timeout_ms=1000).values():
                events += [json.loads(record.value) for record in records if record.value is not None]
    finally:
        consumer.close()
    return events
