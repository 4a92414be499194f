"""Dead letters listed, shown, chosen and put back on a real broker."""

import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from consumers.dead_letters import DeadLetter
from consumers.errors import Reason
from consumers.source import Message, Partition, Position
from tests.integration.dlq_tools import Run, counted, letter, transaction, write
from tests.integration.topic_tools import records
from worker.cli import main


def test_letters_are_listed_with_what_is_known_of_them(kafka_bootstrap: str, topics: Any, dlq: Run) -> None:
    """A line each, oldest first, from all partitions, and the counts; a terminal is not driven by them."""
    write(kafka_bootstrap, topics, [letter(topics, 5), letter(topics, 6, Reason.NO_TEXT, key=b"\x1b[2J\xff")])
    write(kafka_bootstrap, topics, [letter(topics, 7, value=b'{"id": 99}', key=None)], partition=3)
    write(kafka_bootstrap, topics, [letter(topics, 8, key="\x9bevil".encode())], partition=0)
    with transaction(kafka_bootstrap) as producer:
        producer.send(topics.dead_letters, b"no letter", partition=2).get(timeout=10)
    done = dlq("ls")
    heading, *lines, summary = done.out.splitlines()
    assert heading.split() == [
        "LETTER",
        "WHEN",
        "(UTC)",
        "REASON",
        "POST",
        "AT",
        "KEY",
        "OR",
        "ID",
        "WHAT",
        "WAS",
        "WRONG",
    ]
    assert [line.split()[0] for line in lines] == ["1@0", "1@1", "3@0", "0@0"]
    assert [line.split()[3:6] for line in lines] == [
        ["not_json", f"{topics.posts}[2]@5", "k"],
        ["no_text", f"{topics.posts}[2]@6", "0x1b5b324aff"],
        ["not_json", f"{topics.posts}[2]@7", "99"],
        ["not_json", f"{topics.posts}[2]@8", "\N{REPLACEMENT CHARACTER}evil"],
    ]
    assert summary == (
        f"{topics.dead_letters}: 4 letters (3 not_json, 1 no_text), 0 of them retried already; "
        "messages that are no dead letters: 1"
    )
    assert done.status == 0


def test_letters_are_listed_as_json(kafka_bootstrap: str, topics: Any, dlq: Run) -> None:
    """An object a line and nothing else on standard output; filters and the limit choose."""
    first, second, third = letter(topics, 5), letter(topics, 6), letter(topics, 7, Reason.NO_TEXT, key="\x9b".encode())
    old = first.model_copy(update={"failed_at": first.failed_at.replace(year=2020)})
    write(kafka_bootstrap, topics, [old, second, third])
    done = dlq("ls", "--json")
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [each["letter"] for each in found] == [f"{topics.dead_letters}[1]@{n}" for n in range(3)]
    assert found[2] == {
        "letter": f"{topics.dead_letters}[1]@2",
        "failed_at": third.failed_at.isoformat(),
        "reason": "no_text",
        "detail": "the message is no JSON",
        "position": f"{topics.posts}[2]@7",
        "key_or_id": "\x9b",
        "num_bytes": len(b"{") + len("\x9b".encode()),
        "num_failures": 1,
        "bytes_left_out": False,
        "is_retried": False,
    }
    assert done.out.isascii()
    assert "3 letters (2 not_json, 1 no_text)" in done.err
    for chosen, offsets in (
        (["--reason", "not_json"], [0, 1]),
        (["--since", "2h"], [1, 2]),
        (["--since", "2019-12-31"], [0, 1, 2]),
        (["--limit", "1"], [2]),
        (["--reason", "not_json", "--since", "1d", "--limit", "5"], [1]),
        (["--since", "2999-01-01T00:00+02:00"], []),
    ):
        lines = dlq("ls", "--json", *chosen).out.splitlines()
        assert [json.loads(line)["letter"] for line in lines] == [f"{topics.dead_letters}[1]@{n}" for n in offsets]


def test_a_letter_is_shown_in_full(kafka_bootstrap: str, topics: Any, dlq: Run, environment: dict[str, str]) -> None:
    """Its reason, history, headers and bytes: as text, or as a hex dump; --raw writes them as they came."""
    text = '{"text": "café\x1b[31m"}'.encode()
    headers = (("traceparent", b"00-1"), ("odd\x1b", b"\xff"))
    letters = [letter(topics, 5, value=text, headers=headers), letter(topics, 6, value=b"\xff\x00abc")]
    write(kafka_bootstrap, topics, letters)
    shown = dlq("show", f"{topics.dead_letters}[1]@0").out
    for told in (
        f"post at    {topics.posts}[2]@5",
        "key        k",
        "retried    no",
        "traceparent: 00-1",
        "0xff",
        "café",
    ):
        assert told in shown
    assert "\x1b" not in shown
    assert "000000  ff 00 61 62 63" in dlq("show", "1@1").out
    raw = subprocess.run(
        [sys.executable, "-m", "worker.cli", "dlq", "show", "1@1", "--raw"],
        env={**os.environ, **environment},
        capture_output=True,
        check=True,
    )
    assert raw.stdout == b"\xff\x00abc"


def test_a_position_without_a_letter_is_told_in_a_sentence(kafka_bootstrap: str, topics: Any, dlq: Run) -> None:
    """Each kind of nothing has its words, and the exit status is 1."""
    write(kafka_bootstrap, topics, [letter(topics, 5)])
    with transaction(kafka_bootstrap) as producer:
        producer.send(topics.dead_letters, b"no letter", partition=1).get(timeout=10)
    dlq("retry", "1@0")
    for position, told in {
        "1@1": "transaction",
        "1@2": "no dead letter of nametag",
        "1@4": "it marks",
        "1@99": "ends before",
        "0@0": "ends before 0",
        "9@0": "no partition 9",
        "posts[0]@0": f"the topic of dead letters is {topics.dead_letters}",
    }.items():
        for command in ("show", "retry"):
            done = dlq(command, position)
            assert done.status == 1
            assert told in done.err
            assert done.err.count("\n") == 1


def test_messages_go_back_as_they_came_and_once(kafka_bootstrap: str, topics: Any, dlq: Run) -> None:
    """Key, bytes, headers and partition are the message's, its history is added; a second time changes nothing."""
    traced = (("traceparent", b"00-1"), ("tag", b"\xff"), ("tag", b""))
    letters = [
        letter(topics, 5, value=b"\xff", headers=traced),
        letter(topics, 6, value=b"no key", key=None),
        letter(topics, 7, Reason.EMPTY, value=None),
    ]
    write(kafka_bootstrap, topics, letters)
    done = dlq("retry", "--all")
    assert (done.status, done.out) == (0, f"3 letters put back on {topics.posts}\n")
    back = {record.value: record for record in records(kafka_bootstrap, topics.posts)}
    assert {value: record.key for value, record in back.items()} == {b"\xff": b"k", b"no key": None, None: b"k"}
    assert {record.partition for record in back.values()} == {2}
    headers = back[b"\xff"].headers
    assert tuple(headers[:-1]) == traced
    assert [(name, json.loads(value)[0]["position"]["offset"]) for name, value in headers[-1:]] == [
        ("nametag-history", 5)
    ]
    marks = [
        record
        for record in records(kafka_bootstrap, topics.dead_letters)
        if dict(record.headers).keys() == {"nametag-retried"}
    ]
    assert {dict(mark.headers)["nametag-retried"] for mark in marks} == {
        f"{topics.dead_letters}[1]@{n}".encode() for n in range(3)
    }
    assert {(mark.partition, mark.key, mark.value) for mark in marks} == {(1, b"k", None), (1, None, b"")}
    for again in (["--all"], ["1@0", "1@2"], ["--since", "1h"]):
        done = dlq("retry", *again)
        assert done.status == 0
        assert done.out.startswith("0 letters put back")
    assert len(records(kafka_bootstrap, topics.posts)) == 3
    assert "3 of them retried already" in dlq("ls").out
    assert "retried    yes, marked at" in dlq("show", "1@0").out
    dlq("retry", "1@0", "--again")
    assert counted(kafka_bootstrap, topics.posts) == {b"\xff": 2, b"no key": 1, None: 1}


def test_what_is_put_back_can_be_chosen(kafka_bootstrap: str, topics: Any, dlq: Run) -> None:
    """Positions, a reason, a limit; a dry run tells the same, and changes nothing."""
    letters = [letter(topics, n, Reason.NO_TEXT if n % 2 else Reason.NOT_JSON, value=b"%d" % n) for n in range(6)]
    write(kafka_bootstrap, topics, letters)
    done = dlq("retry", "--reason", "no_text", "--limit", "2", "--dry-run")
    assert [line.split()[0] for line in done.out.splitlines()[1:-1]] == ["1@1", "1@3"]
    assert "2 letters (2 no_text) would be put back" in done.out
    assert not records(kafka_bootstrap, topics.posts)
    dlq("retry", "--reason", "no_text", "--limit", "2")
    assert counted(kafka_bootstrap, topics.posts) == {b"1": 1, b"3": 1}
    dlq("retry", "--reason", "no_text", "--limit", "2")
    dlq("retry", "1@0", f"{topics.dead_letters}[1]@4", "1@0")
    assert counted(kafka_bootstrap, topics.posts) == {b"1": 1, b"3": 1, b"5": 1, b"0": 1, b"4": 1}


def test_letters_of_another_topic_need_a_name(kafka_bootstrap: str, topics: Any, dlq: Run) -> None:
    """A letter that came from elsewhere isn't put on the posts topic unasked."""
    stray = DeadLetter.of(
        Message(position=Position(Partition("old-posts", 1), 5), value=b"s"), Reason.NO_TEXT, "no text"
    )
    write(kafka_bootstrap, topics, [letter(topics, 6), stray])
    done = dlq("retry", "--all")
    assert done.status == 1
    told = f"{topics.dead_letters}[1]@1 can't be put back: it came from old-posts, and kafka.posts_topic is"
    assert f"{told} {topics.posts}" in done.err
    assert counted(kafka_bootstrap, topics.posts) == {b"{": 1}
    done = dlq("retry", "--all", "--dry-run")
    assert told in done.err
    assert "0 letters would be put back" in done.out
    assert dlq("retry", "--all", "--to", topics.entities).status == 0
    assert counted(kafka_bootstrap, topics.entities) == {b"s": 1}
    assert counted(kafka_bootstrap, topics.posts) == {b"{": 1}


def test_more_than_one_is_asked_for_on_a_terminal(
    kafka_bootstrap: str, topics: Any, dlq: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No is no. While the question stands another may put them back: then a yes finds nothing to do."""
    write(kafka_bootstrap, topics, [letter(topics, n, value=b"%d" % n) for n in range(3)])
    answers = ["", "no"]
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _question: answers.pop())
    for _ in range(2):
        done = dlq("retry", "--all")
        assert (done.status, done.out.splitlines()[-1]) == (1, "nothing was put back")
    assert not records(kafka_bootstrap, topics.posts)
    assert dlq("retry", "1@0").status == 0

    def overtaken(_question: str) -> str:
        assert main(["dlq", "retry", "--all", "--yes"]) == 0
        return "y"

    monkeypatch.setattr("builtins.input", overtaken)
    assert dlq("retry", "--all").out.splitlines()[-1].startswith(f"0 letters put back on {topics.posts}; 2 letters had")
    assert counted(kafka_bootstrap, topics.posts) == {b"%d" % n: 1 for n in range(3)}


def test_what_is_away_is_told_in_a_sentence(dlq: Run, topics: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No topic, no topic to put on, no broker: one line with the setting to change, and status 1."""
    monkeypatch.setenv("NAMETAG_KAFKA__DEAD_LETTERS_TOPIC", "no-such-letters")
    for command in (["ls"], ["show", "0@0"], ["retry", "--all"]):
        done = dlq(*command)
        assert (done.status, done.err.count("\n")) == (1, 1)
        assert "the topic no-such-letters does not exist" in done.err
        assert "kafka.dead_letters_topic" in done.err
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("NAMETAG_KAFKA__BOOTSTRAP_SERVERS", address)
    monkeypatch.setattr("consumers.kafka_reader.START_SECONDS", 1.0)
    done = dlq("ls")
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert address in done.err
    assert "kafka.bootstrap_servers" in done.err


def test_a_missing_target_disturbs_nobody(kafka_bootstrap: str, topics: Any, dlq: Run) -> None:
    """A misspelt --to is told before anything is begun."""
    write(kafka_bootstrap, topics, [letter(topics, 1)])
    done = dlq("retry", "1@0", "--to", "no-such-posts")
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert "the topic no-such-posts does not exist" in done.err
    assert "0 of them retried already" in dlq("ls").out
