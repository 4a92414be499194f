"""`nametag replay --to-topic` on a real broker."""

import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import KafkaAdminClient

from tests.integration.topic_tools import limit_messages, records
from worker.cli import main


def write(path: Path, num_posts: int) -> list[bytes]:
    """Tweets as an archive has them: keys in any order, spaces, CRLF."""
    lines = [
        json.dumps({"text": f"post {n} é", "id_str": str(n % 500), "lang": "en"}).encode() for n in range(num_posts)
    ]
    path.write_bytes(b"\r\n".join(lines) + b"\r\n")
    return lines


@pytest.fixture
def at_broker(kafka_bootstrap: str, topics: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings name the broker and fresh topics."""
    monkeypatch.setenv("NAMETAG_KAFKA__BOOTSTRAP_SERVERS", kafka_bootstrap)
    monkeypatch.setenv("NAMETAG_KAFKA__POSTS_TOPIC", topics.posts)


@pytest.mark.usefixtures("at_broker")
def test_posts_come_as_they_were(
    kafka_bootstrap: str, topics: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each once, byte by byte, under its id; those of one id in their order."""
    lines = write(tmp_path / "posts.json", 3000)
    assert main(["replay", str(tmp_path / "posts.json"), "--to-topic", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["posts"] == 3000
    found = records(kafka_bootstrap, topics.posts)
    assert sorted(record.value for record in found) == sorted(lines)
    assert all(json.loads(record.value)["id_str"].encode() == record.key for record in found)
    for key in (b"0", b"499"):
        assert [r.value for r in found if r.key == key] == [line for line in lines if b'"%s"' % key in line]


@pytest.mark.usefixtures("at_broker")
def test_a_rate_is_kept(tmp_path: Path) -> None:
    """A hundred posts at a hundred a second take a second."""
    write(tmp_path / "posts.json", 101)
    started = time.monotonic()
    assert main(["replay", str(tmp_path / "posts.json"), "--to-topic", "--rate", "100"]) == 0
    assert time.monotonic() - started > 1.0


@pytest.mark.usefixtures("at_broker")
def test_a_topic_that_takes_no_such_message_is_said(
    kafka_bootstrap: str, topics: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With how many are there, in one sentence."""
    limit_messages(kafka_bootstrap, topics.posts, 500)
    (tmp_path / "posts.json").write_bytes(json.dumps({"id": "1", "text": random.randbytes(1000).hex()}).encode())
    assert main(["replay", str(tmp_path / "posts.json"), "--to-topic"]) == 1
    assert "MessageSizeTooLarge" in capsys.readouterr().err


def test_a_missing_topic_is_said(
    kafka_bootstrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what to do."""
    monkeypatch.setenv("NAMETAG_KAFKA__BOOTSTRAP_SERVERS", kafka_bootstrap)
    monkeypatch.setenv("NAMETAG_KAFKA__POSTS_TOPIC", "no-such-topic")
    write(tmp_path / "posts.json", 1)
    assert main(["replay", str(tmp_path / "posts.json"), "--to-topic"]) == 1
    assert "the topic no-such-topic does not exist" in capsys.readouterr().err


def test_a_broker_that_goes_away_ends_it_in_a_sentence(
    own_broker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With how many posts are there, and how to go on."""
    monkeypatch.setattr("consumers.posts_topic.ACKNOWLEDGE_SECONDS", 5.0)
    monkeypatch.setenv("NAMETAG_KAFKA__BOOTSTRAP_SERVERS", own_broker.address)
    write(tmp_path / "posts.json", 20_000)
    threading.Timer(2.0, own_broker.end).start()
    started = time.monotonic()
    assert main(["replay", str(tmp_path / "posts.json"), "--to-topic", "--rate", "1000"]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("nametag: putting posts on posts failed at")
    assert "are there, the last from line" in told
    assert time.monotonic() - started < 40


@pytest.mark.usefixtures("at_broker")
def test_ctrl_c_stops_after_what_is_under_way(kafka_bootstrap: str, topics: Any, tmp_path: Path) -> None:
    """All that was counted is there."""
    write(tmp_path / "posts.json", 100_000)
    command = [sys.executable, "-m", "worker.cli", "replay", str(tmp_path / "posts.json"), "--to-topic"]
    with subprocess.Popen([*command, "--json", "--rate", "500"], stdout=-1, stderr=-1) as process:
        while not records(kafka_bootstrap, topics.posts):
            assert process.poll() is None
        process.send_signal(2)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"stopped before the end" in err
    assert json.loads(out)["posts"] == len(records(kafka_bootstrap, topics.posts))


@pytest.mark.usefixtures("at_broker")
def test_kills_lose_and_double_nothing(kafka_bootstrap: str, topics: Any, tmp_path: Path) -> None:
    """Killed at random moments and begun anew, each post is on the topic once, in the order of its id."""
    random.seed(6)
    lines = write(tmp_path / "posts.json", 12_000)
    command = [sys.executable, "-m", "worker.cli", "replay", str(tmp_path / "posts.json"), "--to-topic"]
    command += ["--rate", "2500", "--resume", str(tmp_path / "resume")]
    num_killed = 0
    while num_killed < 100:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            try:
                _, told = process.communicate(timeout=1.0 + random.random() * 2)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                num_killed += 1
    assert process.returncode == 0, told.decode()
    assert num_killed >= 2
    found = records(kafka_bootstrap, topics.posts)
    assert sorted(record.value for record in found) == sorted(lines)
    for key in (b"0", b"499"):
        assert [r.value for r in found if r.key == key] == [line for line in lines if b'"%s"' % key in line]
    assert main([*command[3:]]) == 0
    assert len(records(kafka_bootstrap, topics.posts)) == len(lines)


@pytest.mark.usefixtures("at_broker")
def test_a_place_that_the_brokers_forgot_is_said(
    kafka_bootstrap: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rather than that all posts come once more."""
    write(tmp_path / "posts.json", 10)
    command = ["replay", str(tmp_path / "posts.json"), "--to-topic", "--resume", str(tmp_path / "resume")]
    assert main(command) == 0
    group = f"nametag-replay-{json.loads((tmp_path / 'resume').read_bytes())['name']}"
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    admin.delete_groups([group])
    admin.close()
    assert main(command) == 1
    assert "no longer know how far the replay came" in capsys.readouterr().err
