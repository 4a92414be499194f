"""Fresh topics for one run of a benchmark, the settings of a worker on them, and tiny posts."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

PARTITIONS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaRun:
    """The topics by their settings' names, and a worker's variables."""

    bootstrap: str
    topics: dict[str, str]
    settings: dict[str, str]

    def send(self, num_posts: int) -> None:
        """Send `num_posts` round the partitions, and wait until they are there."""
        producer = KafkaProducer(bootstrap_servers=self.bootstrap, linger_ms=20, batch_size=256 * 1024)
        for number in range(num_posts):
            producer.send(self.topics["posts"], tiny_post(number), partition=number % PARTITIONS)
        producer.close()


def tiny_post(number: int) -> bytes:
    """A post without a picture, told apart by its number."""
    return json.dumps({"id": str(number), "text": f"post {number} from Paris"}).encode()


@contextmanager
def kafka_run(bootstrap: str) -> Iterator[KafkaRun]:
    """Topics that no other run has seen, and that are gone afterwards."""
    run = uuid4().hex[:8]
    topics = {name: f"{name}-{run}" for name in ("posts", "entities", "dead_letters")}
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    wanted = {"num_partitions": PARTITIONS, "replication_factor": 1}
    admin.create_topics(dict.fromkeys(topics.values(), wanted), wait_for_metadata=True)
    settings = {
        "NAMETAG_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
        "NAMETAG_KAFKA__GROUP_ID": f"group-{run}",
        "NAMETAG_SERVER__PORT": "0",
    } | {f"NAMETAG_KAFKA__{name.upper()}_TOPIC": topic for name, topic in topics.items()}
    try:
        yield KafkaRun(bootstrap=bootstrap, topics=topics, settings=settings)
    finally:
        admin.delete_topics(list(topics.values()))
        admin.close()
