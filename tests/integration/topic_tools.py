"""What stands on a topic, and how large its messages may be."""

from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient


def records(bootstrap: str, topic: str) -> list[Any]:
    """All that stands on a topic."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    try:
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        found: list[Any] = []
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            found += [record for batch in consumer.poll(timeout_ms=200).values() for record in batch]
        return found
    finally:
        consumer.close()


def limit_messages(bootstrap: str, topic: str, num_bytes: int) -> None:
    """Set the broker's limit for one topic."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs={"max.message.bytes": str(num_bytes)})
        admin.alter_configs([resource])
    finally:
        admin.close()
