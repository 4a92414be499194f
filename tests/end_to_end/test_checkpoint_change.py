"""Checkpoints are changed under a running worker, on real parts: a watched file, and a key of Redis."""

import dataclasses
import json
import shutil
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis

from model.checkpoint import load, save
from tests.end_to_end.worker_process import Worker, receive, running, send, until
from worker.settings import STARTER_CHECKPOINT

NUM_POSTS = 2000


@pytest.fixture
def other_checkpoint(tmp_path: Path) -> tuple[Path, str]:
    """The starter under another temperature: other confidences, and so another checkpoint. Its file and its id."""
    checkpoint, _ = load(STARTER_CHECKPOINT)
    path = tmp_path / "other.safetensors"
    return path, save(dataclasses.replace(checkpoint, temperature=2.0), path)


def posts(count: int) -> list[bytes]:
    return [json.dumps({"id": str(n), "text": "so happy about Phoenix !"}).encode() for n in range(count)]


def id_in_use(worker: Worker) -> list[str]:
    lines = worker.get("/metrics").splitlines()
    return [line.split('id="')[1].split('"')[0] for line in lines if line.startswith("nametag_checkpoint_info{")]


def changes(worker: Worker, result: str) -> float:
    lines = worker.get("/metrics").splitlines()
    name = f'nametag_checkpoint_changes_total{{result="{result}"}}'
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_a_watched_file_changes_the_checkpoint_amid_posts(
    environment: dict[str, str], topics: Any, kafka_bootstrap: str, other_checkpoint: tuple[Path, str], tmp_path: Path
) -> None:
    """A file that is half there is refused; whole, it takes over: an event each, old ids before new ones."""
    path, new = other_checkpoint
    _, old = load(STARTER_CHECKPOINT)
    watched = tmp_path / "current.safetensors"
    environment |= {"NAMETAG_CHECKPOINTS__WATCH": str(watched), "NAMETAG_CHECKPOINTS__POLL_SECONDS": "0.2"}
    with running(environment) as (worker,):
        worker.wait_ready()
        assert id_in_use(worker) == [old]
        sending = threading.Thread(target=send, args=(kafka_bootstrap, topics.posts, posts(NUM_POSTS)))
        sending.start()
        watched.write_bytes(path.read_bytes()[:100_000])
        until(lambda: changes(worker, "refused") == 1, worker.told)
        shutil.copy(path, tmp_path / "next")
        (tmp_path / "next").replace(watched)
        until(lambda: id_in_use(worker) == [new], worker.told)
        sending.join()
        send(kafka_bootstrap, topics.posts, posts(40))
        records = receive(kafka_bootstrap, topics.entities, NUM_POSTS + 40, [worker])
        assert worker.metric("nametag_posts_total") == NUM_POSTS + 40
        assert worker.stop() == 0
        counts = f"by=a signal posts={NUM_POSTS + 40} events={NUM_POSTS + 40} dead_letters=0 tombstones=0 seconds="
        until(lambda: f"worker_stopped {counts}" in worker.log[-1], worker.told)
    by_partition: dict[int, list[tuple[int, str]]] = {}
    for record in records:
        event = json.loads(record.value)
        position = event["position"]
        by_partition.setdefault(position["partition"], []).append((position["offset"], event["checkpoint"]["id"]))
    for events in by_partition.values():
        ids = [checkpoint for _, checkpoint in sorted(events)]
        assert sorted(offset for offset, _ in events) == list(range(len(events)))
        assert ids == sorted(ids, key=[old, new].index)
        assert ids[-1] == new


def test_a_key_of_redis_names_the_checkpoint(
    environment: dict[str, str], redis_url: str, other_checkpoint: tuple[Path, str]
) -> None:
    """Set before the start, it is what the worker starts with; set anew, it is swapped; one of nothing is refused."""
    path, new = other_checkpoint
    _, old = load(STARTER_CHECKPOINT)
    key = f"nametag:checkpoint:{uuid4().hex}"
    environment |= {"NAMETAG_CHECKPOINTS__WATCH_KEY": key, "NAMETAG_CHECKPOINTS__POLL_SECONDS": "0.2"}
    redis = Redis.from_url(redis_url)
    redis.set(key, str(path))
    with running(environment) as (worker,):
        worker.wait_ready()
        assert id_in_use(worker) == [new]
        redis.set(key, str(path.with_name("nothing")))
        until(lambda: changes(worker, "refused") == 1, worker.told)
        redis.set(key, str(STARTER_CHECKPOINT))
        until(lambda: id_in_use(worker) == [old], worker.told)
        assert changes(worker, "refused") == 1
        assert worker.stop() == 0
    redis.delete(key)
