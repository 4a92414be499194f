"""What exactly-once costs: the same posts through one worker under either delivery, turn about.

`python tests/benchmarks/delivery.py [POSTS [ROUNDS]]` needs NAMETAG_TEST_KAFKA, the address of a broker, and
prints posts a second of each round and the ratio. The rate is taken between the first and the last tenth
of the events, by the time they were tagged, so that neither the start nor the end counts.
"""

import json
import os
import subprocess
import sys
from statistics import median
from uuid import uuid4

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

PARTITIONS = 4


def main() -> None:
    """Run the rounds and print the table."""
    num_posts, num_rounds = (int(argument) for argument in ([*sys.argv[1:], "5000", "3"])[:2])
    bootstrap = os.environ["NAMETAG_TEST_KAFKA"]
    rates: dict[str, list[float]] = {"at_least_once": [], "exactly_once": []}
    for _ in range(num_rounds):
        for delivery, found in rates.items():
            found.append(_rate(bootstrap, delivery, num_posts))
            print(f"{delivery:14} {found[-1]:8.0f} posts/s", flush=True)
    ratio = median(rates["exactly_once"]) / median(rates["at_least_once"])
    print(f"exactly once / at least once: {ratio:.3f} (medians of {num_rounds} rounds of {num_posts} posts)")


def _rate(bootstrap: str, delivery: str, num_posts: int) -> float:
    run = uuid4().hex[:8]
    topics = {name: f"{name}-{run}" for name in ("posts", "entities", "dead_letters")}
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    wanted = {"num_partitions": PARTITIONS, "replication_factor": 1}
    admin.create_topics(dict.fromkeys(topics.values(), wanted), wait_for_metadata=True)
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=5)
    for number in range(num_posts):
        post = json.dumps({"id": str(number), "text": f"post {number} from Paris"}).encode()
        producer.send(topics["posts"], post, partition=number % PARTITIONS)
    producer.close()
    settings = {
        "NAMETAG_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
        "NAMETAG_KAFKA__GROUP_ID": f"group-{run}",
        "NAMETAG_KAFKA__DELIVERY": delivery,
        "NAMETAG_SERVER__PORT": "0",
    } | {f"NAMETAG_KAFKA__{name.upper()}_TOPIC": topic for name, topic in topics.items()}
    worker = subprocess.Popen(
        [sys.executable, "-m", "worker.cli", "worker"], env=os.environ | settings, stderr=subprocess.DEVNULL
    )
    try:
        stamps = sorted(_stamps(bootstrap, topics["entities"], num_posts))
    finally:
        worker.terminate()
        worker.wait(timeout=60)
        admin.delete_topics(list(topics.values()))
        admin.close()
    low, high = num_posts // 10, num_posts - num_posts // 10
    return (high - low) / ((stamps[high] - stamps[low]) / 1000)


def _stamps(bootstrap: str, topic: str, num_events: int) -> list[int]:
    """When each event was handed to the producer, in milliseconds."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", isolation_level="read_committed"
    )
    consumer.assign([TopicPartition(topic, number) for number in range(PARTITIONS)])
    stamps: list[int] = []
    while len(stamps) < num_events:
        stamps += [record.timestamp for batch in consumer.poll(timeout_ms=500).values() for record in batch]
    consumer.close()
    return stamps


if __name__ == "__main__":
    main()
