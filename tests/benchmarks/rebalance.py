"""How long a rebalance stops the partitions that a worker keeps.

`python tests/benchmarks/rebalance.py [ROUNDS]` needs NAMETAG_TEST_KAFKA, the address of a broker. Posts come
at a steady rate; a second worker joins, leaves again, joins and is killed. For the partitions that the first
one keeps all the while, it prints the longest silence at a reader of their committed events: around each
rebalance, and in as much time before, when nothing happens but the second one's start.
"""

import json
import os
import statistics
import sys
import threading
import time
from itertools import pairwise

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from tests.benchmarks.kafka_run import PARTITIONS, KafkaRun, kafka_run, tiny_post
from tests.end_to_end.worker_process import Worker, running

POSTS_A_SECOND = 100
SESSION_SECONDS = 6
MARGIN_SECONDS = 1.5
"""What is looked at before and after a rebalance is seen to have ended."""

Arrivals = list[tuple[float, int]]
"""When an event could be read, in seconds, and its post's partition."""


def main() -> None:
    """Run the rounds and print what was longest, and the median of the longest."""
    num_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found: dict[str, list[float]] = {}
    for _ in range(num_rounds):
        with kafka_run(os.environ["NAMETAG_TEST_KAFKA"]) as run:
            for name, seconds in _round(run).items():
                found.setdefault(name, []).append(seconds)
                print(f"{name:6} {seconds:.3f} s", flush=True)
    for name, each in found.items():
        print(f"{name:6} median {statistics.median(each):.3f} s, longest {max(each):.3f} s of {num_rounds} rounds")


def _round(run: KafkaRun) -> dict[str, float]:
    settings = run.settings | {"NAMETAG_KAFKA__SESSION_TIMEOUT_SECONDS": str(SESSION_SECONDS)}
    stop = threading.Event()
    arrivals: Arrivals = []
    threads = [
        threading.Thread(target=_send, args=(run, stop)),
        threading.Thread(target=_read, args=(run, stop, arrivals)),
    ]
    moments: dict[str, float] = {}
    with running(settings) as workers:
        (first,) = workers
        first.wait_ready()
        first.wait_partitions(PARTITIONS)
        for thread in threads:
            thread.start()
        for name, end in (("leave", Worker.stop), ("kill", _kill)):
            second = Worker(settings)
            workers.append(second)
            second.wait_ready()
            moments.setdefault("quiet", time.monotonic() - 4 * MARGIN_SECONDS)
            second.wait_partitions(PARTITIONS // 2)
            moments.setdefault("join", time.monotonic())
            time.sleep(3 * MARGIN_SECONDS)
            end(second)
            first.wait_partitions(PARTITIONS)
            moments[name] = time.monotonic()
            time.sleep(3 * MARGIN_SECONDS)
        stop.set()
        for thread in threads:
            thread.join()
        revoked = "".join(line for line in first.log if "partitions_revoked" in line)
        first.stop()
    kept = [number for number in range(PARTITIONS) if f"'{run.topics['posts']}[{number}]'" not in revoked]
    return {name: _longest(arrivals, kept, moment) for name, moment in moments.items()}


def _kill(worker: Worker) -> None:
    worker.process.kill()
    worker.process.wait()


def _send(run: KafkaRun, stop: threading.Event) -> None:
    producer = KafkaProducer(bootstrap_servers=run.bootstrap)
    number, start = 0, time.monotonic()
    while not stop.is_set():
        for _ in range(int((time.monotonic() - start) * POSTS_A_SECOND) - number):
            producer.send(run.topics["posts"], tiny_post(number), partition=number % PARTITIONS)
            number += 1
        time.sleep(0.01)
    producer.close()


def _read(run: KafkaRun, stop: threading.Event, arrivals: Arrivals) -> None:
    consumer = KafkaConsumer(bootstrap_servers=run.bootstrap, isolation_level="read_committed")
    consumer.assign([TopicPartition(run.topics["entities"], number) for number in range(PARTITIONS)])
    while not stop.is_set():
        polled = consumer.poll(timeout_ms=100)
        now = time.monotonic()
        arrivals += [
            (now, json.loads(record.value)["position"]["partition"]) for batch in polled.values() for record in batch
        ]
    consumer.close()


def _longest(arrivals: Arrivals, kept: list[int], moment: float) -> float:
    """The longest silence of one of the `kept` that touches the time around `moment`."""
    return max(
        later - earlier
        for number in kept
        for earlier, later in pairwise(at for at, partition in arrivals if partition == number)
        if earlier < moment + MARGIN_SECONDS and later > moment - MARGIN_SECONDS
    )


if __name__ == "__main__":
    main()
