"""Workers on Kafka, Redis and an image host of their own: posts are sent to them, and their events timed."""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from deploy.native.services import NativeRedis
from tests.benchmarks.bench import Bench
from tests.benchmarks.capacity_worker import Figures, Load, Sent, Worker
from tests.benchmarks.kafka_run import PARTITIONS, KafkaRun, kafka_run
from tests.faults.image_host import ImageHost

EVENT_SECONDS = 150.0
"""For how long events may be waited for, a worker's start included."""
MAX_WARM_UPS = 20


class Event(NamedTuple):
    """An entity event: when its batch was over, in Unix time, and when a reader had it, in monotonic time."""

    id: str
    tagged_at: float
    read_at: float
    image_status: str


class EventReader:
    """Reads the committed events of a run, from the first on."""

    def __init__(self, run: KafkaRun) -> None:
        self._consumer = KafkaConsumer(
            bootstrap_servers=run.bootstrap, auto_offset_reset="earliest", isolation_level="read_committed"
        )
        self._consumer.assign([TopicPartition(run.topics["entities"], number) for number in range(PARTITIONS)])

    def read(self) -> list[Event]:
        """What has come; waits for a tenth of a second where nothing has."""
        records = [record for batch in self._consumer.poll(timeout_ms=100).values() for record in batch]
        now = time.monotonic()
        return [_event(record.value, now) for record in records]

    def take(self, count: int) -> Iterator[list[Event]]:
        """Until `count` events are read, all of them each time some come. Raises TimeoutError."""
        events: list[Event] = []
        give_up_at = time.monotonic() + EVENT_SECONDS
        while len(events) < count:
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"{len(events)} of {count} events in {EVENT_SECONDS:g} s; look at the worker's log")
            if new := self.read():
                events += new
                yield events

    def close(self) -> None:
        """Read no more."""
        self._consumer.close()


def _event(value: bytes, now: float) -> Event:
    body = json.loads(value)
    return Event(body["id"], datetime.fromisoformat(body["tagged_at"]).timestamp(), now, body["image"]["status"])


@dataclass(frozen=True, slots=True)
class Pass:
    """Posts that went through all at once: the posts, posts/s, and how the first worker's metrics changed meanwhile."""

    sent: Sequence[Sent]
    rate: float
    change: Figures


@dataclass(slots=True)
class Stream:
    """One group of workers; `load` makes its posts."""

    load: Load
    reader: EventReader
    workers: Sequence[Worker]
    redis: str
    _is_warm: bool = field(default=False)

    def run(self, num_posts: int, pictures: Iterator[int] | None = None) -> Pass:
        """Send `num_posts` at once, and wait for their events.

        The rate leaves out how the room fills at the beginning and empties at the end.
        """
        self._warm_up()
        sent = [self.load.send(pictures) for _ in range(num_posts)]
        self.load.producer.flush()
        first: Figures = {}
        last: Figures = {}
        for events in self.reader.take(num_posts):
            if not first:
                first = self.workers[0].look()
            elif not last and len(events) >= num_posts * 0.75:
                last = self.workers[0].look()
        _check_pictures(events)
        change = {name: last[name] - first.get(name, 0.0) for name in last}
        return Pass(sent, steady_rate([event.tagged_at for event in events]), change)

    def _warm_up(self) -> None:
        """Pays what only the first posts cost, until each worker has partitions and did some of them."""
        if self._is_warm:
            return
        self._is_warm = True
        for _ in range(MAX_WARM_UPS):
            self.run(64)
            if all(worker.look()["done"] for worker in self.workers):
                return
        raise TimeoutError("a worker of the group has got no posts; look at its log")

    def next_post(self) -> int:
        """The number of the next post that is sent, once what only the first posts cost is paid."""
        self._warm_up()
        return self.load.num_sent

    def run_paced(self, rate: float, seconds: float, pictures: Iterator[int]) -> list[float]:
        """Seconds from when each post was handed to a producer to when a reader had its event, at `rate` posts/s."""
        sent: list[Sent] = []
        sending = threading.Thread(target=lambda: sent.extend(self.load.send_paced(pictures, rate, seconds)))
        events: list[Event] = []
        sending.start()
        while sending.is_alive():
            events += self.reader.read()
        sending.join()
        self.load.producer.flush()
        if len(events) < len(sent):
            *_, rest = self.reader.take(len(sent) - len(events))
            events += rest
        sent_at = {post.id: post.at for post in sent}
        return [event.read_at - sent_at[event.id] for event in events]


def steady_rate(stamps: Sequence[float]) -> float:
    """Events a second from the end of a batch in the first quarter to the end of one in the last.

    A batch's events come together, so between ends chosen by count alone a batch would be missing or left over.
    """
    stamps = sorted(stamps)
    count = len(stamps)
    low = _batch_ends(stamps, count // 20, count // 4)[-1]
    high = _batch_ends(stamps, count - count // 4, count - 1)[0]
    return (high - low) / (stamps[high] - stamps[low])


def _batch_ends(stamps: Sequence[float], start: int, end: int) -> list[int]:
    """The places from `start` to `end` behind which nothing comes for a while."""
    gaps = {place: stamps[place + 1] - stamps[place] for place in range(start, end)}
    return [place for place, gap in gaps.items() if gap >= max(gaps.values()) / 5]


def _check_pictures(events: Sequence[Event]) -> None:
    # A picture that came late, or not at all, makes the worker look faster than it is.
    bad = [event for event in events if event.image_status not in ("none", "used")]
    if len(bad) > len(events) // 100:
        raise RuntimeError(
            f"{len(bad)} of {len(events)} posts lack their picture ({bad[0].image_status}); run it again "
            "when the machine has less to do"
        )


@contextmanager
def stream(
    bench: Bench,
    pictures: list[bytes],
    *,
    host_delay: float = 0.0,
    settings: Mapping[str, str] | None = None,
    cores: Sequence[int | None] = (None,),
) -> Iterator[Stream]:
    """Workers, one for each of `cores`, whose posts may all show a picture; its host takes `host_delay` seconds."""
    with ExitStack() as stack:
        redis = stack.enter_context(NativeRedis())
        run = stack.enter_context(kafka_run(bench.kafka))
        host = stack.enter_context(closing(ImageHost(pictures, delay=host_delay)))
        producer = stack.enter_context(closing(KafkaProducer(bootstrap_servers=bench.kafka, linger_ms=5)))
        reader = stack.enter_context(closing(EventReader(run)))
        workers = []
        for core in cores:
            worker = Worker(run, redis.address, host.origin, more_settings=settings, core=core)
            stack.callback(worker.end)
            workers.append(worker)
        for worker in workers:
            worker.look()
        load = Load(run, producer, bench.posts, host.origin, picture_share=1.0, has_own_urls=True)
        yield Stream(load, reader, workers, redis.address)
