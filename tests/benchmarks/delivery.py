"""What exactly-once costs: the same posts through one worker under either delivery, turn about.

`python tests/benchmarks/delivery.py [POSTS [ROUNDS]]` needs NAMETAG_TEST_KAFKA, the address of a broker, and
prints posts a second of each round and the ratio. The rate is taken between the first and the last tenth
of the events, by the time they were tagged, so that neither the start nor the end counts.
"""

import os
import subprocess
import sys
from statistics import median

from kafka import KafkaConsumer, TopicPartition

from tests.benchmarks.kafka_run import PARTITIONS, kafka_run


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
    with kafka_run(bootstrap) as run:
        run.send(num_posts)
        worker = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "worker"],
            env=os.environ | run.settings | {"NAMETAG_KAFKA__DELIVERY": delivery},
            stderr=subprocess.DEVNULL,
        )
        try:
            stamps = sorted(_stamps(bootstrap, run.topics["entities"], num_posts))
        finally:
            worker.terminate()
            worker.wait(timeout=60)
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
