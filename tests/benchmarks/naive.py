"""The loop that one writes first: poll a post, fetch, decode and look at its picture, tag it, send, commit."""

import json
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict

from kafka import KafkaConsumer, KafkaProducer

from model.inference import Tagger
from model.pixels import read_pixels
from model.tagging import TaggingInput
from tests.benchmarks.capacity_worker import Sent
from tests.benchmarks.kafka_run import KafkaRun, kafka_run

LOOP_SECONDS = 120.0


def naive_rate(tagger: Tagger, bootstrap: str, sent: Sequence[Sent], origin: str) -> float:
    """Posts/s of the loop over `sent`, which are put on a topic of its own; their pictures are at `origin`.

    The first one isn't counted: it waits for the group, and for all connections.
    """
    with kafka_run(bootstrap) as run, closing(KafkaProducer(bootstrap_servers=bootstrap)) as producer:
        for post in sent:
            body = {"id": post.id, "text": post.text, "image_url": f"{origin}/media/{post.picture}.jpg"}
            producer.send(run.topics["posts"], json.dumps(body).encode())
        producer.flush()
        with closing(_consumer(run)) as consumer:
            stamps = [time.perf_counter() for _ in _loop(tagger, consumer, producer, run.topics["entities"], len(sent))]
    return (len(stamps) - 1) / (stamps[-1] - stamps[0])


def _consumer(run: KafkaRun) -> KafkaConsumer:
    return KafkaConsumer(
        run.topics["posts"],
        bootstrap_servers=run.bootstrap,
        group_id="naive-" + run.topics["posts"],
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_poll_records=1,
    )


def _loop(
    tagger: Tagger, consumer: KafkaConsumer, producer: KafkaProducer, topic: str, num_posts: int
) -> Iterator[None]:
    """Does the posts one by one, and yields after each. Raises TimeoutError where no more come."""
    num_done, give_up_at = 0, time.monotonic() + LOOP_SECONDS
    while num_done < num_posts:
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"the naive loop did {num_done} of {num_posts} posts in {LOOP_SECONDS:g} s")
        for records in consumer.poll(timeout_ms=1000).values():
            for record in records:
                _do_one(tagger, producer, topic, json.loads(record.value))
                consumer.commit()
                num_done += 1
                yield


def _do_one(tagger: Tagger, producer: KafkaProducer, topic: str, post: dict[str, str]) -> None:
    with urllib.request.urlopen(post["image_url"], timeout=10) as answer:
        pixels = read_pixels(answer.read())
    (features,) = tagger.look(pixels[None])
    (tagging,) = tagger.tag([TaggingInput(tokens=tagger.tokenize(post["text"]), features=features)])
    event = {"id": post["id"], "text": post["text"], "entities": [asdict(span) for span in tagging.spans]}
    producer.send(topic, key=post["id"].encode(), value=json.dumps(event).encode())
    producer.flush()
