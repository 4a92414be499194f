"""What no retry mends ends the worker with its reason, and loses nothing."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)
from kafka.errors import SecurityDisabledError

from tests.end_to_end.worker_process import NAMETAG, clean_environment, receive, running, send, until


class Rights:
    """Takes rights on topics away from everybody, and gives them back."""

    def __init__(self, bootstrap: str) -> None:
        self._admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        self._topics: list[str] = []

    def take(self, topic: str, operation: ACLOperation) -> None:
        pattern = ResourcePattern(ResourceType.TOPIC, topic)
        rights = (ACLOperation.ALL, ACLPermissionType.ALLOW), (operation, ACLPermissionType.DENY)
        self._topics.append(topic)
        try:
            self._admin.create_acls([ACL("User:*", "*", what, permission, pattern) for what, permission in rights])
        except SecurityDisabledError:
            pytest.skip("this broker has no authorizer, so no right can be taken away")

    def give_back(self) -> None:
        for topic in self._topics:
            everything = ResourcePatternFilter(ResourceType.TOPIC, topic, pattern_type=ACLResourcePatternType.LITERAL)
            self._admin.delete_acls([ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, everything)])
        self._topics.clear()

    def close(self) -> None:
        self.give_back()
        self._admin.close()


@pytest.fixture
def rights(kafka_bootstrap: str) -> Iterator[Rights]:
    """The rights of all users of the broker."""
    with closing(Rights(kafka_bootstrap)) as rights:
        yield rights


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_a_right_that_is_taken_away_ends_the_worker_with_its_reason(
    delivery: str, environment: dict[str, str], topics: Any, kafka_bootstrap: str, rights: Rights
) -> None:
    """It may write no more: it says so, exits 1, and commits nothing; with the right back all comes out, once."""
    environment["NAMETAG_KAFKA__DELIVERY"] = delivery
    posts = [json.dumps({"id": str(n), "text": f"post {n} from Paris"}).encode() for n in range(100)]
    with running(environment) as (worker,):
        worker.wait_ready()
        send(kafka_bootstrap, topics.posts, posts[:50])
        until(lambda: worker.metric("nametag_posts_total") == 50, worker.told)
        rights.take(topics.entities, ACLOperation.WRITE)
        send(kafka_bootstrap, topics.posts, posts[50:])
        assert worker.process.wait(timeout=60) == 1
        assert "nametag: events may not be published" in worker.told()
        assert "Traceback" not in worker.told()
    rights.give_back()
    with running(environment) as (again,):
        events = receive(kafka_bootstrap, topics.entities, 100, [again])
        assert again.stop() == 0
    assert sorted((json.loads(event.value)["id"] for event in events), key=int) == [str(n) for n in range(100)]


@pytest.mark.parametrize("end", ["posts", "entities"])
def test_a_worker_without_rights_says_which_at_the_start(
    end: str, environment: dict[str, str], topics: Any, rights: Rights
) -> None:
    """A topic that it may not even see is told by name, with the setting to look at."""
    topic = getattr(topics, end)
    rights.take(topic, ACLOperation.DESCRIBE)
    rights.take(topic, ACLOperation.READ if end == "posts" else ACLOperation.WRITE)
    done = subprocess.run(
        [*NAMETAG, "worker"],
        env={**clean_environment(), "NAMETAG_SERVER__PORT": "0", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert topic in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
