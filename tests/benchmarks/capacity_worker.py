"""One real worker on Kafka and Redis: what a post costs it, and how it fares below and above its capacity."""

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from PIL import Image

from deploy.native.services import NativeRedis
from tests.benchmarks.kafka_run import PARTITIONS, KafkaRun, kafka_run
from tests.faults.image_host import ImageHost

PICTURE_SHARE = 0.31
"""Of the posts of the real minute in ../shared/data/archive: 891 of 2,830 show a picture."""
NUM_NEW = 150
"""Pictures that the worker has never seen; each costs a decoding and a look of the tower."""
MAX_NEW = 4 * 256
"""Colours of `Posts.new_pictures`."""
LOOK_SECONDS = 90.0
"""For how long a worker may be starting."""
_TICK = os.sysconf("SC_CLK_TCK")
_LATENCY = "nametag_post_latency_seconds"

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Posts:
    """Captions and photos of the corpora."""

    captions: Sequence[str]
    photos: Sequence[bytes]

    def new_pictures(self, count: int = NUM_NEW) -> list[bytes]:
        """Photos with a corner of another colour, so that none has the pixels of another; at most MAX_NEW."""
        if count > MAX_NEW:
            raise ValueError(f"{count} new pictures are asked for; there are {MAX_NEW}: raise it, and the colours")
        made = []
        for number in range(count):
            with Image.open(io.BytesIO(self.photos[number % len(self.photos)])) as photo:
                image = photo.convert("RGB")
            image.paste((number % 256, number // 256 * 60, 90), (0, 0, image.width // 4, image.height // 4))
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=88)
            made.append(buffer.getvalue())
        return made


class Sent(NamedTuple):
    """A post that was sent: its picture's number, and when it was handed to the producer, in monotonic time."""

    id: str
    text: str
    picture: int | None
    at: float


@dataclass(slots=True)
class Load:
    """Sends posts round the partitions; `picture_share` of them may have a picture, which `origin` serves.

    With `has_own_urls` no post shares a URL with another, whatever picture it shows: none shares another's look-up.
    """

    run: KafkaRun
    producer: KafkaProducer
    posts: Posts
    origin: str
    picture_share: float = PICTURE_SHARE
    has_own_urls: bool = False
    num_sent: int = 0
    num_bytes: int = 0

    def send(self, pictures: Iterator[int] | None) -> Sent:
        """One post; of those that may have a picture each has the next of `pictures`, while there are any."""
        number = self.num_sent
        post = {"id": str(10**18 + number), "text": self.posts.captions[number * 7919 % len(self.posts.captions)]}
        shows = int((number + 1) * self.picture_share) > int(number * self.picture_share)
        picture = next(pictures, None) if pictures is not None and shows else None
        if picture is not None:
            post["image_url"] = self.url_of(number, picture)
        value = json.dumps(post).encode()
        sent = Sent(post["id"], post["text"], picture, time.monotonic())
        self.producer.send(self.run.topics["posts"], value, partition=number % PARTITIONS)
        self.num_sent += 1
        self.num_bytes += len(value)
        return sent

    def url_of(self, number: int, picture: int) -> str:
        """Where the `number`th post's picture is."""
        folder = str(number) if self.has_own_urls else "media"
        return f"{self.origin}/{folder}/{picture}.jpg"

    def send_paced(self, pictures: Iterator[int], rate: float, seconds: float) -> list[Sent]:
        """`rate` posts a second, every 10 ms those that are due."""
        start = time.monotonic()
        sent: list[Sent] = []
        while (passed := time.monotonic() - start) < seconds:
            while len(sent) < rate * passed:
                sent.append(self.send(pictures))
            time.sleep(0.01)
        return sent


class Worker:
    """A worker process, looked at through its metrics and /proc; on one core alone where `core` says which."""

    def __init__(
        self,
        run: KafkaRun,
        redis: str,
        origin: str,
        *,
        more_settings: Mapping[str, str] | None = None,
        core: int | None = None,
    ) -> None:
        settings = run.settings | {"NAMETAG_REDIS__URL": redis, "NAMETAG_IMAGES__ALLOW_ORIGINS": origin}
        settings |= more_settings or {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "worker"],
            env=os.environ | settings,
            stderr=subprocess.PIPE,
            text=True,
        )
        if core is not None:  # before it has a thread or a process, which inherit it
            os.sched_setaffinity(self._process.pid, {core})
        self._address = ""
        threading.Thread(target=self._read_log, daemon=True).start()

    def end(self) -> None:
        """Let it finish, for a minute at most."""
        self._process.terminate()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    def look(self) -> Figures:
        """Its counters, with the time, and processor time and memory, all of its processes included."""
        text = ""
        give_up_at = time.monotonic() + LOOK_SECONDS
        while not text:
            if time.monotonic() > give_up_at:
                raise SystemExit(f"the worker tells no metrics for {LOOK_SECONDS:g} s; look at its log")
            if self._process.poll() is not None:
                raise SystemExit(f"the worker ended with {self._process.returncode}")
            with suppress(OSError, ValueError):
                text = urllib.request.urlopen(self._address + "/metrics", timeout=10).read().decode()
            time.sleep(0.25)  # to look costs the worker time, too
        found = {name: float(value) for name, value in re.findall(r"^(nametag\S+) (\S+)$", text, re.MULTILINE)}
        pids = [self._process.pid, *_children(self._process.pid)]
        done = sum(value for name, value in found.items() if name.startswith("nametag_posts_total"))
        return found | {
            "done": done,
            "time": time.monotonic(),
            "cpu": sum(map(_cpu_seconds, pids)),
            "cpu_loop": _cpu_seconds(self._process.pid),
            "rss": float(worker_rss(self._process.pid)),
            "rss_all": float(sum(map(_rss, pids))),
        }

    def wait_for(self, num_posts: float, seconds: float = 30.0) -> Figures:
        """How it stands once `num_posts` are done in all, or after `seconds` more."""
        give_up_at = time.monotonic() + seconds
        while (state := self.look())["done"] < num_posts and time.monotonic() < give_up_at:
            pass
        return state

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:  # read for ever, so that the worker never waits for us
            if found := re.search(r"address=(\S+)", line):
                self._address = found[1]


def measure_worker(kafka: str, posts: Posts, *, seconds: float) -> Figures:
    """With captions alone and with known pictures, all at once; paced, for `seconds` each; and with new pictures."""
    new = posts.new_pictures()
    known = len(posts.photos)
    with NativeRedis() as redis, kafka_run(kafka) as run, closing(ImageHost([*posts.photos, *new])) as host:
        load = Load(run, KafkaProducer(bootstrap_servers=kafka, linger_ms=5), posts, host.origin)
        worker = Worker(run, redis.address, host.origin)
        try:
            _saturate(load, worker, None, 200)  # what only the first posts cost
            figures = _named("captions", _saturate(load, worker, None, 2500))
            _saturate(load, worker, cycle(known), 300)
            figures |= _named("known", warm := _saturate(load, worker, cycle(known), 2000))
            figures |= _named("below", _pace(load, worker, cycle(known), 0.6 * warm["posts_per_second"], seconds))
            worker.wait_for(load.num_sent)
            figures |= _named("above", _pace(load, worker, cycle(known), 1.3 * warm["posts_per_second"], seconds))
            worker.wait_for(load.num_sent)
            figures |= _named("new", _saturate(load, worker, iter(range(known, known + NUM_NEW)), 480))
            worker.wait_for(load.num_sent)
        finally:
            worker.end()
        load.producer.close()
        return figures | {"post_bytes": load.num_bytes / load.num_sent, "event_bytes": _event_bytes(run, kafka)}


def _saturate(load: Load, worker: Worker, pictures: Iterator[int] | None, num_posts: int) -> Figures:
    """Send them all at once; the figures are of those from the first tenth to the last, when the room is full."""
    begun = load.num_sent
    for _ in range(num_posts):
        load.send(pictures)
    load.producer.flush()
    first = worker.wait_for(begun + num_posts / 10)
    last = worker.wait_for(begun + num_posts * 0.9)
    worker.wait_for(load.num_sent)
    return _between(first, last)


def _pace(load: Load, worker: Worker, pictures: Iterator[int], rate: float, seconds: float) -> Figures:
    """The figures of the second half of `seconds` at `rate` posts a second, and the posts left at the end."""
    sending = threading.Thread(target=load.send_paced, args=(pictures, rate, seconds))
    sending.start()
    time.sleep(seconds / 2)  # in the first one the room fills, and what is taken isn't what is done
    first = worker.look()
    sending.join()
    last = worker.look()
    return _between(first, last) | {"rate": rate, "seconds": seconds, "left": load.num_sent - last["done"]}


def _between(first: Figures, last: Figures) -> Figures:
    change = {name: last[name] - first.get(name, 0.0) for name in last}
    # Those tagged: a partition's posts are published at one blow, a thousand at a time where a picture was late.
    num_posts = max(1.0, change["nametag_batch_posts_sum"])
    num_flushes = max(1.0, change['nametag_stage_seconds_count{stage="publish"}'])
    figures = {
        "posts_per_second": num_posts / change["time"],
        "cpu_post_seconds": change["cpu"] / num_posts,
        "loop_post_seconds": change["cpu_loop"] / num_posts,
        "cores": change["cpu"] / change["time"],
        "load": os.getloadavg()[0],
        "device_post_seconds": change["nametag_device_busy_seconds_total"] / num_posts,
        "batch_posts": change["nametag_batch_posts_sum"] / max(1.0, change["nametag_batch_posts_count"]),
        "tower_pictures": change["nametag_tower_images_total"],
        "publish_seconds": change['nametag_stage_seconds_sum{stage="publish"}'] / num_flushes,
        "flushes_per_second": num_flushes / change["time"],
        "latency_mean_seconds": change[f"{_LATENCY}_sum"] / max(1.0, change[f"{_LATENCY}_count"]),
        "worker_rss_bytes": last["rss"],
        "worker_and_decoders_rss_bytes": last["rss_all"],
    }
    shares = {
        f"latency_within_{at}": change[f'{_LATENCY}_bucket{{le="{at}"}}'] / max(1.0, change["done"])
        for at in ("0.5", "1.0")
    }
    told = {
        name.removeprefix("nametag_"): value
        for name, value in change.items()
        if value and name.startswith(("nametag_cache_events_total", "nametag_images_total"))
    }
    return figures | shares | told


def _named(load: str, figures: Figures) -> Figures:
    return {f"{load}_{name}": value for name, value in figures.items()}


def cycle(number: int) -> Iterator[int]:
    """The numbers below `number`, over and over."""
    while True:
        yield from range(number)


def _children(pid: int) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for each in lists for child in each.read_text().split()]


def _cpu_seconds(pid: int) -> float:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK
    return 0.0


def worker_rss(pid: int) -> int:
    """Resident bytes of a worker and of its tagger's process; decoding has others."""
    return _rss(pid) + sum(_rss(child) for child in _children(pid) if _is_tagger(child))


def _is_tagger(pid: int) -> bool:
    with suppress(OSError):
        return b"worker.tagger_child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _rss(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _event_bytes(run: KafkaRun, kafka: str) -> float:
    """Of the key and the value of an event, over the first hundreds."""
    consumer = KafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest", isolation_level="read_committed")
    consumer.assign([TopicPartition(run.topics["entities"], number) for number in range(PARTITIONS)])
    sizes: list[int] = []
    while len(sizes) < 500:
        records = [record for batch in consumer.poll(timeout_ms=2000).values() for record in batch]
        sizes += [len(record.key or b"") + len(record.value or b"") for record in records]
        if not records:
            break
    consumer.close()
    return sum(sizes) / max(1, len(sizes))
