"""The main job on real parts: posts through Kafka, Redis and two workers come out as entity events."""

import json
import random
import re
import signal
import subprocess
import threading
import zipfile
from bz2 import decompress
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import jsonschema
import pytest
from PIL import Image
from redis import Redis

from consumers.messages import SCHEMA_FOLDER
from tests.end_to_end.worker_process import NAMETAG, clean_environment, receive, running, send, until


@pytest.fixture
def picture_host(shared_data: Path) -> Iterator[str]:
    """A loopback server of the 29 photographs; gives its origin."""
    with serving(shared_data / "mner" / "tweet_images_subset" / "images") as origin:
        yield origin


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A loopback server of a folder; gives its origin."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_500_real_posts_two_workers(
    environment: dict[str, str], topics: Any, kafka_bootstrap: str, picture_host: str, shared_data: Path
) -> None:
    """500 real posts and 29 photographed ones: an event each, none twice, in order, spans exact."""
    posts = _photographed(shared_data, picture_host) + _archived(shared_data, picture_host, 500)
    environment["NAMETAG_IMAGES__ALLOW_ORIGINS"] = json.dumps([picture_host])
    with running(environment, count=2) as workers:
        for worker in workers:
            worker.wait_ready()
            worker.wait_partitions(2)
        sent = send(kafka_bootstrap, topics.posts, posts)
        events = receive(kafka_bootstrap, topics.entities, len(posts), workers)
        until(lambda: sum(w.metric("nametag_posts_total") for w in workers) == len(posts), workers[0].told)
        assert all(worker.metric("nametag_posts_total") > 0 for worker in workers), "one worker did it all"
        assert sum(w.metric("nametag_posts_received_total") for w in workers) == len(posts)
        assert [worker.stop() for worker in workers] == [0, 0]
    assert not receive(kafka_bootstrap, topics.dead_letters, 0, workers)

    schema = json.loads((SCHEMA_FOLDER / "entity_event.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    bodies = [json.loads(record.value) for record in events]
    for record, body in zip(events, bodies, strict=True):
        validator.validate(body)
        assert record.key.decode() == body["id"]
        assert dict(record.headers)["nametag-schema"] == b"entity_event"
        units = body["text"].encode("utf-16-le", "surrogatepass")
        for entity in body["entities"]:
            assert body["text"][entity["start"] : entity["end"]] == entity["text"]
            cut = units[2 * entity["start_utf16"] : 2 * entity["end_utf16"]]
            assert cut.decode("utf-16-le", "surrogatepass") == entity["text"]
    positions = [(body["position"]["partition"], body["position"]["offset"]) for body in bodies]
    assert sorted(positions) == sorted(sent)
    assert len(set(positions)) == len(posts) >= 500
    # Post ids may repeat in an archive; a key decides the partition out, so order is per key there.
    by_source: dict[tuple[int, int], list[int]] = {}
    for record, (partition_in, offset) in zip(events, positions, strict=True):
        by_source.setdefault((record.partition, partition_in), []).append(offset)
    assert all(offsets == sorted(offsets) for offsets in by_source.values())
    used = [body for body in bodies if body["image"]["status"] == "used"]
    assert len(used) >= 29, {body["image"]["status"] for body in bodies}


def test_bad_messages_have_their_reasons(environment: dict[str, str], topics: Any, kafka_bootstrap: str) -> None:
    """Never a crash, never silence: each bad message is a dead letter, the good one an event."""
    bad = {
        b"no json": b"not_json",
        b'"text"': b"not_a_post",
        b'{"id": "1"}': b"no_text",
        b'{"id": "1", "text": "' + b"x" * 300_000 + b'"}': b"too_large",
    }
    good = [
        b'{"id": "blank", "text": "  \\n "}',
        b'{"id": "half", "text": "half an emoji \\ud83d in Paris"}',
        b'{"id": "lost", "text": "Paris", "image_url": "http://127.0.0.1:9/x.jpg"}',
    ]
    with running(environment) as (worker,):
        worker.wait_ready()
        send(kafka_bootstrap, topics.posts, [*bad, *good])
        letters = receive(kafka_bootstrap, topics.dead_letters, len(bad), [worker])
        events = receive(kafka_bootstrap, topics.entities, len(good), [worker])
        assert worker.stop() == 0
    assert {record.value: dict(record.headers)["nametag-reason"] for record in letters} == bad
    bodies = {body["id"]: body for body in (json.loads(record.value) for record in events)}
    assert bodies["blank"]["entities"] == []
    assert bodies["half"]["text"] == "half an emoji \ud83d in Paris"
    assert bodies["lost"]["image"]["status"] == "blocked_address"


def test_a_dead_letter_goes_back_until_it_is_tagged(
    environment: dict[str, str], topics: Any, kafka_bootstrap: str
) -> None:
    """It fails, is put back, fails again with its history, is put back to a mended worker, and is an event, once."""
    post = json.dumps({"id": "1", "text": "so happy about Paris ! " * 10}).encode()
    with running(environment | {"NAMETAG_MAX_POST_BYTES": "100"}) as (worker,):
        worker.wait_ready()
        send(kafka_bootstrap, topics.posts, [post])
        (first,) = receive(kafka_bootstrap, topics.dead_letters, 1, [worker])
        assert "1 letter put back" in _dlq(environment, "retry", "--all")
        # The two letters, and the mark of the first.
        letters = [each for each in receive(kafka_bootstrap, topics.dead_letters, 3, [worker]) if each.value]
        assert worker.stop() == 0
    # Without a key they stand on any partition.
    (second,) = (each for each in letters if (each.partition, each.offset) != (first.partition, first.offset))
    assert first.value == second.value == post
    history = json.loads(dict(second.headers)["nametag-history"])
    assert [(each["reason"], each["position"]["offset"]) for each in history] == [("too_large", 0), ("too_large", 1)]
    assert "1 letter put back" in _dlq(environment, "retry", "--all")
    assert _dlq(environment, "retry", "--all").startswith("0 letters put back")
    with running(environment) as (mended,):
        mended.wait_ready()
        (event,) = receive(kafka_bootstrap, topics.entities, 1, [mended])
        assert mended.stop() == 0
    assert json.loads(event.value)["id"] == "1"
    listed = [json.loads(line) for line in _dlq(environment, "ls", "--json").splitlines()]
    assert [(each["is_retried"], each["num_failures"]) for each in listed] == [(True, 1), (True, 2)]


def test_a_delete_leaves_nothing(
    environment: dict[str, str], topics: Any, kafka_bootstrap: str, tmp_path: Path
) -> None:
    """A tombstone under the post's key; picture and features gone from Redis with the last post that shows them."""
    # Pixels that no other test has shown to this Redis.
    Image.frombytes("RGB", (64, 64), random.randbytes(3 * 64 * 64)).save(tmp_path / "new.png")
    ids = [uuid4().hex for _ in range(2)]
    redis = Redis.from_url(environment["NAMETAG_REDIS__URL"])

    def kept() -> set[str]:
        return {kind for kind in ("seen", "bytes", "shown", "posts-of") if redis.exists(f"nametag:{kind}:{digest}")}

    with serving(tmp_path) as origin, running(environment | {"NAMETAG_IMAGES__ALLOW_ORIGINS": origin}) as (worker,):
        url = f"{origin}/new.png"
        digest = sha256(url.encode()).hexdigest()
        posts = [{"id": each, "text": "met Ann in Paris", "image_url": url} for each in ids]
        worker.wait_ready()
        send(kafka_bootstrap, topics.posts, [json.dumps(post).encode() for post in posts])
        receive(kafka_bootstrap, topics.entities, 2, [worker])
        until(lambda: len(kept()) == 4, worker.told)
        features = f"nametag:features:*:{(redis.get(f'nametag:shown:{digest}') or b'')[16:].decode()}"
        until(lambda: list(redis.scan_iter(features)), worker.told)
        for number, post_id in enumerate(ids):
            notice = {"delete": {"status": {"id_str": post_id}, "timestamp_ms": "1609502400000"}}
            send(kafka_bootstrap, topics.posts, [json.dumps(notice).encode()])
            records = receive(kafka_bootstrap, topics.entities, 3 + number, [worker])
            assert kept() == ({"seen", "bytes", "shown", "posts-of"} if number == 0 else set())
            assert bool(list(redis.scan_iter(features))) == (number == 0)
        # It comes once more, and from another partition.
        send(kafka_bootstrap, topics.posts, [b"", json.dumps(posts[0]).encode()])
        until(lambda: worker.metric("nametag_posts_total") == 6, worker.told)
        assert worker.stop() == 0
        assert "Paris" not in "".join(worker.log)
    tombstones = {record.key.decode(): dict(record.headers) for record in records if record.value is None}
    assert tombstones.keys() == set(ids)
    assert tombstones[ids[0]]["nametag-deleted-at"] == b"2021-01-01T12:00:00+00:00"
    (letter,) = receive(kafka_bootstrap, topics.dead_letters, 1, [worker])
    assert letter.value == b""
    receive(kafka_bootstrap, topics.entities, 4, [worker])


def _dlq(environment: dict[str, str], *arguments: str) -> str:
    command = [*NAMETAG, "dlq", *arguments]
    told = subprocess.run(command, env=clean_environment() | environment, capture_output=True, check=True, text=True)
    return told.stdout


def test_what_was_not_committed_is_read_again(environment: dict[str, str], topics: Any, kafka_bootstrap: str) -> None:
    """A worker stopped with SIGTERM under load and started again leaves no post out and none twice."""
    posts = [json.dumps({"id": str(n), "text": f"post {n} from Paris"}).encode() for n in range(2000)]
    with running(environment) as (first,):
        first.wait_ready()
        send(kafka_bootstrap, topics.posts, posts)
        until(lambda: first.metric("nametag_posts_total") > 100, first.told)
        assert first.stop() == 0
    with running(environment) as (second,):
        second.wait_ready()
        events = receive(kafka_bootstrap, topics.entities, len(posts), [second])
        assert second.stop() == 0
    ids = [json.loads(record.value)["id"] for record in events]
    assert sorted(ids, key=int) == [str(n) for n in range(2000)]


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_sleeps_loses_and_doubles_nothing(
    fault: signal.Signals, environment: dict[str, str], topics: Any, kafka_bootstrap: str
) -> None:
    """One of two workers is killed under load, or stopped past its session and woken: each post has one event."""
    environment |= {
        "NAMETAG_KAFKA__SESSION_TIMEOUT_SECONDS": "6",
        "NAMETAG_KAFKA__TRANSACTION_SECONDS": "6",
        "NAMETAG_MAX_IN_FLIGHT_POSTS": "64",
    }
    posts = [json.dumps({"id": str(n), "text": f"post {n} from Paris"}).encode() for n in range(2000)]
    with running(environment, count=2) as (first, second):
        for worker in (first, second):
            worker.wait_ready()
            worker.wait_partitions(2)
        send(kafka_bootstrap, topics.posts, posts)
        until(lambda: first.metric("nametag_posts_total") > 50, first.told)
        first.process.send_signal(fault)
        if fault is signal.SIGSTOP:
            second.wait_partitions(4)
            first.process.send_signal(signal.SIGCONT)
        events = receive(kafka_bootstrap, topics.entities, len(posts), [second])
        assert second.stop() == 0
        if fault is signal.SIGSTOP:
            assert first.stop() == 0
    ids = [json.loads(record.value)["id"] for record in events]
    assert sorted(ids, key=int) == [str(n) for n in range(2000)]


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"NAMETAG_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9"}, "127.0.0.1:9"),
        ({"NAMETAG_CHECKPOINT": "no/such.safetensors"}, "no/such.safetensors"),
        ({"NAMETAG_BATCH__MAX_POSTS": "0"}, "batch.max_posts"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(variables: dict[str, str], told: str) -> None:
    """No broker, no checkpoint, a wrong setting: one sentence with what to do, and a non-zero exit."""
    done = subprocess.run(
        [*NAMETAG, "worker"],
        env={**clean_environment(), "NAMETAG_SERVER__PORT": "0", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("nametag: ") and told in last
    assert "Traceback" not in done.stderr


def _photographed(shared_data: Path, origin: str) -> list[bytes]:
    """The 29 tweets whose photographs are at hand, their tokens joined by spaces."""
    folder = shared_data / "mner" / "tweet_images_subset"
    texts: dict[str, str] = {}
    for path in folder.glob("*.txt"):
        for block in path.read_text(encoding="utf-8").split("IMGID:")[1:]:
            image_id, *lines = block.strip().splitlines()
            texts[image_id] = " ".join(line.split("\t")[0] for line in lines if line.strip())
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    return [
        json.dumps(
            {
                "id": f"photo-{item['imgid']}",
                "text": texts[item["imgid"]],
                "image_url": f"{origin}/{Path(item['file']).name}",
            }
        ).encode()
        for item in index
    ]


def _archived(shared_data: Path, origin: str, count: int) -> list[bytes]:
    """Tweets of the real minute, untouched but for their photos' addresses, which lead to loopback."""
    names = sorted(path.name for path in (shared_data / "mner" / "tweet_images_subset" / "images").iterdir())
    tweets: list[bytes] = []
    with zipfile.ZipFile(shared_data / "archive" / "twitter-stream-2021-01-01.zip") as archive:
        for member in archive.namelist():
            if not member.endswith(".bz2"):
                continue
            for line in decompress(archive.read(member)).splitlines():
                if line.startswith(b'{"created_at"') and len(tweets) < count:
                    name = names[len(tweets) % len(names)]
                    url = f"{origin}/{name}".replace("/", r"\/").encode()
                    photo = rb'https?:(?:\\/|/){2}pbs\.twimg\.com(?:\\/|/)media(?:\\/|/)[^"]+'
                    tweets.append(re.sub(photo, url.replace(b"\\", rb"\\"), line))
    return tweets
