"""The posts of a run, and their way to the topic while the run goes on."""

import json
import random
import threading
import time
from typing import Any

from kafka import KafkaProducer

from tests.faults.cluster import NUM_PARTITIONS
from tests.faults.oracle import Sent
from tests.faults.plan import Plan

MARKER = "xpoisonx"
"""A post with this word breaks the tagger."""

TICK_SECONDS = 0.02
PICTURED_SHARE = 0.2
BROKEN_SHARE = 0.01
WORDS = ("so happy about Phoenix", "met Ann in Paris", "Modern Baseball tonight", "rt", "no names here at all", "")
ACKNOWLEDGE_SECONDS = 90.0


def make_posts(plan: Plan, origin: str, num_pictures: int) -> list[Sent]:
    """The plan's posts, yet without a position."""
    chance = random.Random(f"posts/{plan.seed}/{plan.number}")
    poisoned = frozenset(chance.sample(range(plan.num_posts), plan.num_poisoned))
    return [_post(chance, plan, number, number in poisoned, origin, num_pictures) for number in range(plan.num_posts)]


def _post(chance: random.Random, plan: Plan, number: int, is_poisoned: bool, origin: str, num_pictures: int) -> Sent:
    name = str(number)
    if not is_poisoned and chance.random() < BROKEN_SHARE:
        return Sent(position=(-1, -1), id=name, reason="not_json", value=f"no JSON, number {number}".encode())
    text = f"post {number} " + " ".join(chance.choices(WORDS, k=chance.randint(1, 4)))
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
            Sent(position=(at.partition, at.offset), id=p.id, text=p.text, url=p.url, reason=p.reason, value=p.value)
            for p, at in zip(self._posts, metadata, strict=True)
        ]

    @property
    def is_done(self) -> bool:
        """Whether all is acknowledged."""
        return len(self._futures) == len(self._posts) and all(future.is_done for future in self._futures)

    def _send(self) -> None:
        chance = random.Random(f"partitions/{self._plan.seed}/{self._plan.number}")
        began = time.monotonic()
        for number, post in enumerate(self._posts):
            due = began + self._plan.send_seconds * number / len(self._posts)
            if (wait := due - time.monotonic()) > 0:
                time.sleep(max(wait, TICK_SECONDS))
            self._futures.append(
                self._producer.send(self._topic, post.value, partition=chance.randrange(NUM_PARTITIONS))
            )
