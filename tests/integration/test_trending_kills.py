"""The example of a consumer counts exactly once, killed wherever it may be."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kafka import KafkaProducer

from consumers.deletes import Tombstone
from consumers.events import EVENT_HEADERS, CheckpointName, EntityEvent, ImageReport, Scissors
from consumers.examples.trending_entities import TABLES
from consumers.image_status import ImageStatus
from consumers.wire import PositionReport, loads
from tests.integration.topic_tools import records

EXAMPLE = (sys.executable, "-m", "consumers.examples.trending_entities")
# Imports once, and forks the example for each line, and prints its id: 22 starts would take half a minute.
STARTER = """
import os, sys
from consumers.examples.trending_entities import main
for _ in sys.stdin:
    if not (child := os.fork()):
        main()
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
"""
NUM_KILLS = 22
NUM_POSTS = 300
MIDNIGHT = datetime(2026, 11, 25, 22, tzinfo=UTC)
NAMES = ("Paris", "Zoë", "🇫🇷 Team", "AT&T", "Rio", "Ann\ud83d")

State = tuple[Counter[tuple[str, str, str]], dict[int, int]]
"""How many posts have each hour, type and name; and the next offset of each partition."""


def event(chance: random.Random, post: str) -> EntityEvent:
    """A post of any of three hours, with some of the names, some of them twice."""
    names = chance.choices(NAMES, k=chance.randrange(4))
    text = " ".join(names)
    scissors, entities, start = Scissors(text), [], 0
    for name in names:
        entities.append(scissors.cut(type="LOC", start=start, end=start + len(name), confidence=0.9))
        start += len(name) + 1
    return EntityEvent(
        id=post,
        created_at=MIDNIGHT + timedelta(minutes=chance.randrange(180)),
        tagged_at=datetime.now(UTC),
        text=text,
        entities=tuple(entities),
        image=ImageReport(status=ImageStatus.NONE),
        checkpoint=CheckpointName(id="c", variant="text"),
        position=PositionReport(topic="posts", partition=0, offset=0),
    )


@contextmanager
def flow(bootstrap: str, topic: str, seed: int) -> Iterator[None]:
    """Sends events and tombstones of few posts, in transactions of which some are aborted, until the end."""
    chance, is_over = random.Random(seed), threading.Event()
    producer = KafkaProducer(bootstrap_servers=bootstrap, transactional_id=topic)
    producer.init_transactions()

    def transaction(num_records: int) -> None:
        producer.begin_transaction()
        for _ in range(num_records):
            post = f"{chance.randrange(NUM_POSTS)}"
            if chance.random() < 0.15:
                stone = Tombstone(id=post, deleted_at=MIDNIGHT)
                producer.send(topic, key=post.encode(), value=None, headers=list(stone.headers))
            else:
                value = event(chance, post).to_json()
                producer.send(topic, key=post.encode(), value=value, headers=list(EVENT_HEADERS))
        producer.abort_transaction() if chance.random() < 0.2 else producer.commit_transaction()

    def send_on() -> None:
        while not is_over.wait(0.05):
            transaction(100)

    transaction(2000)
    thread = threading.Thread(target=send_on)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        producer.close()


def state(database: Path) -> State:
    """What the example has on disk."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("BEGIN")
        table = connection.execute("SELECT hour, type, name, posts FROM trending").fetchall()
        offsets = connection.execute("SELECT number, next FROM offsets").fetchall()
    return Counter({(hour, type, name): posts for hour, type, name, posts in table}), dict(offsets)


def recount(stood: list[Any], offsets: dict[int, int]) -> Counter[tuple[str, str, str]]:
    """What the table has to be once all before `offsets` has been read: each post's last record counts."""
    last = {record.key: record.value for record in stood if record.offset < offsets.get(record.partition, 0)}
    counts: Counter[tuple[str, str, str]] = Counter()
    for value in last.values():
        if value is not None:
            body = loads(value)
            hour = body["created_at"].replace("T", " ")[:13] + ":00"
            counts.update({(hour, e["type"], e["text"].replace("\ud83d", "?")) for e in body["entities"]})
    return counts


def kill_amid(starter: "subprocess.Popen[str]", database: Path, seconds: float) -> None:
    """Start the example, and kill it some time after it wrote its first."""
    assert starter.stdin is not None and starter.stdout is not None
    before, deadline = state(database)[1], time.monotonic() + 30
    starter.stdin.write("\n")
    starter.stdin.flush()
    child = int(starter.stdout.readline())
    while state(database)[1] == before:
        assert time.monotonic() < deadline, "the example reads nothing"
        time.sleep(0.005)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)


@contextmanager
def starting(arguments: list[str]) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", STARTER, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        yield starter


def test_kills_neither_lose_nor_double_a_count(kafka_bootstrap: str, topics: Any, tmp_path: Path) -> None:
    """After each of many kills, table and offsets are of one moment; at the end all is counted."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance, database = random.Random(seed), tmp_path / "trending.sqlite"
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(TABLES)
    arguments = [kafka_bootstrap, str(database), "--topic", topics.entities]
    snapshots = []
    with flow(kafka_bootstrap, topics.entities, seed), starting([*arguments, "--follow"]) as starter:
        for _ in range(NUM_KILLS):
            kill_amid(starter, database, chance.uniform(0, 0.2))
            snapshots.append(state(database))
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([*EXAMPLE, *arguments], env=environment, capture_output=True, timeout=60, check=True)
    stood = records(kafka_bootstrap, topics.entities)
    for counts, offsets in snapshots:
        assert counts == recount(stood, offsets)
    assert len({tuple(offsets.items()) for _, offsets in snapshots}) == NUM_KILLS
    counts, offsets = state(database)
    assert counts == recount(stood, {record.partition: 10**9 for record in stood})
    assert snapshots[0][0] != counts
    (hour, _, name), posts = max(counts.items(), key=lambda item: (item[0][0], item[1]))
    assert f"{hour}  LOC   {name!r}  {posts}" in done.stdout.decode()
