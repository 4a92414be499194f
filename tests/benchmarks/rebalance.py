"""How long a rebalance stops the partitions that a worker keeps.

`python tests/benchmarks/rebalance.py [ROUNDS]` needs NAMETAG_TEST_KAFKA, the address of a broker. Posts come
at a steady rate; a second worker joins, and leaves again. For the partitions that the first one keeps all
the while, it prints the longest time between two events' tagging within a second of the join's and the leave's
end, beside the longest in a quiet second before.
"""

import json
import os
import statistics
import sys
import threading
import time
from itertools import pairwise
from uuid import uuid4

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from tests.end_to_end.worker_process import Worker, running

PARTITIONS = 4
POSTS_A_SECOND = 200
SETTLE_SECONDS = 3.0


def main() -> None:
    """Run the rounds and print what each saw, and the medians."""
    num_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found = [_round(os.environ["NAMETAG_TEST_KAFKA"]) for _ in range(num_rounds)]
    for name, seconds in zip(("quiet", "join", "leave"), zip(*found, strict=True), strict=True):
        print(f"{name:6} median {statistics.median(seconds):.3f} s, longest {max(seconds):.3f} s of {num_rounds}")


def _round(bootstrap: str) -> tuple[float, float, float]:
    run = uuid4().hex[:8]
    topics = {name: f"{name}-{run}" for name in ("posts", "entities", "dead_letters")}
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    wanted = {"num_partitions": PARTITIONS, "replication_factor": 1}
    admin.create_topics(dict.fromkeys(topics.values(), wanted), wait_for_metadata=True)
    settings = {
        "NAMETAG_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
        "NAMETAG_KAFKA__GROUP_ID": f"group-{run}",
    } | {f"NAMETAG_KAFKA__{name.upper()}_TOPIC": topic for name, topic in topics.items()}
    stop = threading.Event()
    sending = threading.Thread(target=_send, args=(bootstrap, topics["posts"], stop))
    with running(settings) as (first,):
        first.wait_ready()
        first.wait_partitions(PARTITIONS)
        sending.start()
        time.sleep(SETTLE_SECONDS)
        quiet = time.time()
        second = Worker(settings)
        second.wait_partitions(PARTITIONS // 2)
        joined = time.time()
        time.sleep(SETTLE_SECONDS)
        second.stop()
        left = time.time()
        time.sleep(SETTLE_SECONDS)
        stop.set()
        sending.join()
        time.sleep(1)
        first.stop()
    stamps = _stamps(bootstrap, topics["entities"])
    admin.delete_topics(list(topics.values()))
    admin.close()
    # Kept by the first: those whose partition the second never had, by its own log.
    theirs = {n for n in range(PARTITIONS) if f"'{topics['posts']}[{n}]'" in "".join(second.log)}
    kept = [stamps[n] for n in range(PARTITIONS) if n not in theirs]
    return _longest(kept, quiet), _longest(kept, joined), _longest(kept, left)


def _send(bootstrap: str, topic: str, stop: threading.Event) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    number, start = 0, time.monotonic()
    while not stop.is_set():
        for _ in range(int((time.monotonic() - start) * POSTS_A_SECOND) - number):
            post = json.dumps({"id": str(number), "text": f"post {number} from Paris"}).encode()
            producer.send(topic, post, partition=number % PARTITIONS)
            number += 1
        time.sleep(0.005)
    producer.close()


def _stamps(bootstrap: str, topic: str) -> dict[int, list[float]]:
    """When each event was handed to the producer, in seconds, by the partition that its post came from."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    consumer.assign(partitions)
    ends = consumer.end_offsets(partitions)
    stamps: dict[int, list[float]] = {number: [] for number in range(PARTITIONS)}
    while any(consumer.position(each) < ends[each] for each in partitions):
        for batch in consumer.poll(timeout_ms=500).values():
            for record in batch:
                stamps[json.loads(record.value)["position"]["partition"]].append(record.timestamp / 1000)
    consumer.close()
    return {number: sorted(found) for number, found in stamps.items()}


def _longest(kept: list[list[float]], moment: float) -> float:
    """The longest time between two events of one partition that touches the second before or after `moment`."""
    return max(
        later - earlier
        for stamps in kept
        for earlier, later in pairwise(stamps)
        if earlier < moment + 1 and later > moment - 1
    )


if __name__ == "__main__":
    main()
