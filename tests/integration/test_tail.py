"""`nametag tail` on a real broker."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from consumers.deletes import Tombstone
from tests.integration.dlq_tools import Done, transaction
from tests.integration.event_tools import event, send, write_events
from worker.cli import main

TAIL = [sys.executable, "-m", "worker.cli", "tail"]


@pytest.fixture
def settings(kafka_bootstrap: str, topics: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The settings of this test, as variables."""
    told = {
        "NAMETAG_KAFKA__BOOTSTRAP_SERVERS": kafka_bootstrap,
        "NAMETAG_KAFKA__ENTITIES_TOPIC": topics.entities,
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    return {**os.environ, **told}


@pytest.fixture
def tail(settings: dict[str, str], capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs `nametag tail --no-follow` in this process."""

    def run(*arguments: str) -> Done:
        capfd.readouterr()
        status = main(["tail", "--no-follow", *arguments])
        told = capfd.readouterr()
        return Done(status, told.out, told.err)

    return run


def test_events_are_shown_from_where_one_asks(kafka_bootstrap: str, topics: Any, tail: Callable[..., Done]) -> None:
    """All, since a moment, or of some types; a foreign record is told and stops nothing."""
    with transaction(kafka_bootstrap) as producer:
        send(producer, topics.entities, event(1), timestamp_ms=round(time.time() * 1000) - 7_200_000)
        send(producer, topics.entities, event(2, entities=()))
        producer.send(topics.entities, b"no event", b"k", partition=1).get(timeout=10)
        send(producer, topics.entities, Tombstone(id="1"))
    done = tail()
    assert [line.split()[2] for line in done.out.splitlines()[:2]] == ["1", "2"]
    assert done.out.splitlines()[2].strip() == "1  ✗ taken back"
    assert "record_skipped" in done.err
    assert f"{topics.entities}[1]@2" in done.err
    assert [line.split()[0] for line in tail("--since", "1h").out.splitlines()] == ["2026-11-25", "1"]
    assert [line.split()[2] for line in tail("--type", "PER, LOC").out.splitlines()] == ["1"]
    assert tail("--type", "PER").out == ""


def test_json_is_the_whole_event(kafka_bootstrap: str, topics: Any, tail: Callable[..., Done]) -> None:
    """With fields that we don't know; a tombstone is one by `deleted`; a terminal is not driven."""
    body = json.loads(event(1, text="\x9bevil", entities=()).to_json()) | {"mood": "good"}
    with transaction(kafka_bootstrap) as producer:
        producer.send(topics.entities, json.dumps(body, indent=1).encode(), b"1", partition=1).get(timeout=10)
        send(producer, topics.entities, Tombstone(id="1"))
    out = tail("--json").out
    assert [json.loads(line) for line in out.splitlines()] == [body, {"schema_version": 1, "id": "1", "deleted": True}]
    assert out.isascii()


def test_it_follows_until_ctrl_c(kafka_bootstrap: str, topics: Any, settings: dict[str, str]) -> None:
    """What comes after the start is shown at once, and nothing before it; Ctrl-C ends it with 130 and no more words."""
    write_events(kafka_bootstrap, topics.entities, range(3))
    with subprocess.Popen(TAIL, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        os.set_blocking(process.stdout.fileno(), False)
        seen = b""
        for number in range(10, 200):
            write_events(kafka_bootstrap, topics.entities, range(number, number + 1))
            time.sleep(0.1)
            seen += process.stdout.read() or b""
            if seen:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=15) == 130
        assert process.stderr.read() == b""
    assert int(seen.split()[2]) >= 10


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_closed_pipe_ends_it_quietly(
    kafka_bootstrap: str, topics: Any, settings: dict[str, str], form: list[str]
) -> None:
    """As of `head`."""
    write_events(kafka_bootstrap, topics.entities, range(2000))
    with subprocess.Popen(
        [*TAIL, "--no-follow", *form], env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=30) == 1
        assert process.stderr.read() == b""


def test_no_topic_is_a_sentence(tail: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the setting to change."""
    monkeypatch.setenv("NAMETAG_KAFKA__ENTITIES_TOPIC", "no-such-events")
    done = tail()
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert "the topic no-such-events does not exist" in done.err
    assert "kafka.entities_topic" in done.err
