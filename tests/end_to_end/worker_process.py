"""Worker processes as an operator runs them, and both ends of the topics they work between."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

NAMETAG = (sys.executable, "-m", "worker.cli")


class Worker:
    """A worker in a process of its own, with its log read as it comes."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [*NAMETAG, "worker"],
            env={**clean_environment(), "NAMETAG_SERVER__PORT": "0", **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(iter(self.process.stderr.readline, ""))

    @property
    def address(self) -> str:
        """The address of the worker's server, once it listens."""
        return until(lambda: re.search(r"address=(\S+)", "".join(self.log)), self.told)[1]

    def told(self) -> str:
        return "".join(self.log[-30:])

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.address + path, timeout=5) as response:
            return str(response.read().decode())

    def metric(self, name: str) -> float:
        """The sum over all labels of a metric."""
        lines = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", self.get("/metrics"), re.MULTILINE)
        return sum(map(float, lines))

    def wait_ready(self) -> None:
        def is_ready() -> bool:
            try:
                return self.get("/readyz") == "ready\n"
            except OSError:
                return False

        until(is_ready, self.told)

    def wait_partitions(self, count: int) -> None:
        """Wait until the group has settled on `count` partitions for this worker."""

        def has_count() -> bool:
            log = "".join(self.log)
            num_given, num_taken = (
                sum(line.count("'posts-") for line in re.findall(rf"partitions_{event} partitions=(.*)", log))
                for event in ("assigned", "revoked")
            )
            return num_given - num_taken == count

        until(has_count, self.told)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@contextmanager
def running(environment: dict[str, str], count: int = 1) -> Iterator[list[Worker]]:
    workers = [Worker(environment) for _ in range(count)]
    try:
        yield workers
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()


def send(bootstrap: str, topic: str, values: list[bytes]) -> list[tuple[int, int]]:
    """Send `values` round the four partitions; gives where each stands."""
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    futures = [producer.send(topic, value=value, partition=n % 4) for n, value in enumerate(values)]
    producer.flush()
    sent = [future.get(timeout=30) for future in futures]
    producer.close()
    return [(metadata.partition, metadata.offset) for metadata in sent]


def receive(bootstrap: str, topic: str, count: int, workers: list[Worker]) -> list[Any]:
    """All records of `topic`, once there are `count` and half a second has brought no more."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", isolation_level="read_committed"
    )
    consumer.assign([TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic)])
    records: list[Any] = []
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        new = [record for batch in consumer.poll(timeout_ms=500).values() for record in batch]
        records += new
        if not new and len(records) >= count:
            break
        failed = [worker for worker in workers if worker.process.poll() not in (None, 0)]
        assert not failed, failed[0].told()
    consumer.close()
    assert len(records) == count, f"{len(records)} of {count} on {topic}\n" + workers[0].told()
    return records


def until(ready: Any, told: Any, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := ready():
            return result
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:g} s\n{told()}")


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("NAMETAG_")}
