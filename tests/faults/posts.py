"""The posts of a run, and their way to the topic while the run goes on."""

import json
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from kafka import KafkaProducer

from tests.faults.cluster import NUM_PARTITIONS
from tests.faults.oracle import Sent
from tests.faults.plan import Plan

MARKER = "xpoisonx"
"""A post with this word breaks the tagger."""

TICK_SECONDS = 0.02
DELETED_SHARE = 0.08
DELETED_WITHIN = 40
"""A delete is of one of so many posts before it: many of them are still under way."""

PICTURED_SHARE = 0.2
BROKEN_SHARE = 0.01
WORDS = ("so happy about Phoenix", "met Ann in Paris", "Modern Baseball tonight", "rt", "no names here at all", "")
ACKNOWLEDGE_SECONDS = 90.0


def make_posts(plan: Plan, run: str, origin: str, num_pictures: int) -> list[Sent]:
    """The plan's posts, yet without a position. `run` is no other run's: a post that was deleted once stays so."""
    chance = random.Random(f"posts/{plan.seed}/{plan.number}")
    poisoned = frozenset(chance.sample(range(plan.num_posts), plan.num_poisoned))
    posts = [
        _post(chance, plan, f"{run}-{number}", number in poisoned, origin, num_pictures)
        for number in range(plan.num_posts)
    ]
    return list(_with_deletes(chance, posts))


def _with_deletes(chance: random.Random, posts: list[Sent]) -> Iterator[Sent]:
    for number, post in enumerate(posts):
        yield post
        if chance.random() < DELETED_SHARE:
            deleted = chance.choice(posts[max(0, number - DELETED_WITHIN) : number + 1])
            notice = json.dumps({"delete": {"status": {"id_str": deleted.id}}}).encode()
            yield Sent(position=(-1, -1), id=deleted.id, value=notice, deletes=True)


def _post(chance: random.Random, plan: Plan, name: str, is_poisoned: bool, origin: str, num_pictures: int) -> Sent:
    if not is_poisoned and chance.random() < BROKEN_SHARE:
        return Sent(position=(-1, -1), id=name, reason="not_json", value=f"no JSON, number {name}".encode())
    text = f"post {name} " + " ".join(chance.choices(WORDS, k=chance.randint(1, 4)))
    if is_poisoned:
        text += f" {MARKER}"
    fields = {"id": name, "text": text}
    if chance.random() < PICTURED_SHARE:
        # Another address in each run, so that each run fetches; the features stay cached.
        fields["image_url"] = f"{origin}/{plan.seed}-{plan.number}/{chance.randrange(num_pictures)}.jpg"
    return Sent(
        position=(-1, -1),
        id=name,
        text=text,
        url=fields.get("image_url"),
        reason="tagging_failed" if is_poisoned else None,
        value=json.dumps(fields).encode(),
    )


class Sender:
    """Sends posts from a thread, a few at a time, whatever the broker does meanwhile."""

    def __init__(self, plan: Plan, posts: list[Sent], bootstrap: str, topic: str) -> None:
        self._plan = plan
        self._posts = posts
        self._topic = topic
        self._futures: list[Any] = []
        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap, enable_idempotence=True, acks="all", reconnect_backoff_max_ms=500
        )
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def sent(self) -> list[Sent]:
        """All posts, each with the position that the broker acknowledged. Waits until they are."""
        self._thread.join(ACKNOWLEDGE_SECONDS)
        try:
            metadata = [future.get(timeout=ACKNOWLEDGE_SECONDS) for future in self._futures]
        finally:
            self._producer.close(timeout=1)
        return [
            replace(post, position=(at.partition, at.offset)) for post, at in zip(self._posts, metadata, strict=True)
        ]

    @property
    def is_done(self) -> bool:
        """Whether all is acknowledged."""
        return len(self._futures) == len(self._posts) and all(future.is_done for future in self._futures)

    def _send(self) -> None:
        chance = random.Random(f"partitions/{self._plan.seed}/{self._plan.number}")
        began = time.monotonic()
        partitions: dict[str, int] = {}
        for number, post in enumerate(self._posts):
            due = began + self._plan.send_seconds * number / len(self._posts)
            if (wait := due - time.monotonic()) > 0:
                time.sleep(max(wait, TICK_SECONDS))
            # A delete stands behind its post, as those under one key do.
            partition = partitions.setdefault(post.id, chance.randrange(NUM_PARTITIONS))
            self._futures.append(self._producer.send(self._topic, post.value, partition=partition))
