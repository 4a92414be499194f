"""Dead letters listed, shown and put back on a real broker, each once, whatever happens in between."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from kafka import KafkaProducer

from consumers import dead_letter_retry
from consumers.dead_letter_retry import Retry
from consumers.dead_letter_topic import Choice, DeadLetterTopic
from consumers.dead_letters import DeadLetter
from consumers.errors import Reason, RetryStopped
from consumers.events import CheckpointName, EntityEvent, ImageReport
from consumers.kafka_connection import KafkaConnection
from consumers.kafka_reader import KafkaReader
from consumers.parcels import Parcel
from consumers.source import Message, Partition, Position
from consumers.wire import PositionReport
from tests.integration.topic_tools import limit_messages, records
from worker.cli import main
from worker.kafka_sink import KafkaSink, KafkaSinkConfig
from worker.publish import Outcome

Run = Callable[..., "Done"]


class Done:
    """How a command ended, and what it told."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def environment(kafka_bootstrap: str, topics: Any) -> dict[str, str]:
    """The settings of this test, as variables."""
    return {
        "NAMETAG_KAFKA__BOOTSTRAP_SERVERS": kafka_bootstrap,
        "NAMETAG_KAFKA__POSTS_TOPIC": topics.posts,
        "NAMETAG_KAFKA__DEAD_LETTERS_TOPIC": topics.dead_letters,
    }


@pytest.fixture
def dlq(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `nametag dlq` in this process."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        status = main(["dlq", *arguments])
        told = capsys.readouterr()
        return Done(status, told.out, told.err)

    return run


def message(topics: Any, offset: int, value: bytes | None = b"{", key: bytes | None = b"k", **fields: Any) -> Message:
    return Message(position=Position(Partition(topics.posts, 2), offset), value=value, key=key, **fields)


def letter(topics: Any, offset: int, reason: Reason = Reason.NOT_JSON, **fields: Any) -> DeadLetter:
    return DeadLetter.of(message(topics, offset, **fields), reason, "the message is no JSON")


@contextmanager
def transaction(bootstrap: str) -> Iterator[Any]:
    """A producer within a transaction, which is committed at the end."""
    name = f"test-{random.getrandbits(64):x}"
    producer = KafkaProducer(bootstrap_servers=bootstrap, transactional_id=name, max_request_size=2**24)
    producer.init_transactions()
    producer.begin_transaction()
    try:
        yield producer
        producer.commit_transaction()
    finally:
        producer.close(timeout=5)


def write(bootstrap: str, topics: Any, letters: Sequence[DeadLetter], partition: int = 1) -> None:
    """What the worker's sink does, on one partition, where the letters stand from 0 on."""
    with transaction(bootstrap) as producer:
        for each in letters:
            headers = list(each.headers)
            producer.send(topics.dead_letters, each.value, each.key, headers, partition).get(timeout=10)


def counted(bootstrap: str, topic: str) -> Counter[bytes]:
    """How often each value stands on a topic."""
    return Counter(record.value for record in records(bootstrap, topic))


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


def test_a_message_that_fails_again_tells_its_history(kafka_bootstrap: str, topics: Any, dlq: Run) -> None:
    """Three failures and two retries: the last letter has all three, in order, and the first one's headers."""
    headers: tuple[tuple[str, bytes], ...] = (("traceparent", b"00-1"),)
    for offset in (5, 6, 7):
        failed = DeadLetter.of(message(topics, offset, headers=headers), Reason.TAGGING_FAILED, f"failure {offset}")
        write(kafka_bootstrap, topics, [failed])
        if offset < 7:
            dlq("retry", "--all")
            headers = tuple(records(kafka_bootstrap, topics.posts)[-1].headers)
    last = json.loads(dlq("ls", "--json").out.splitlines()[-1])
    assert (last["num_failures"], last["is_retried"]) == (3, False)
    shown = dlq("show", last["letter"]).out
    assert [shown.index(f"[2]@{offset}  failure {offset}") for offset in (5, 6, 7)] == sorted(
        shown.index(f"[2]@{offset}  failure {offset}") for offset in (5, 6, 7)
    )
    assert "traceparent: 00-1" in shown


def publish(bootstrap: str, topics: Any, outcomes: Sequence[Outcome]) -> None:
    """Through the worker's own sink, and its answer to what the broker finds too large."""

    async def whole() -> None:
        config = KafkaSinkConfig(entities_topic=topics.entities, dead_letters_topic=topics.dead_letters)
        sink = KafkaSink(KafkaConnection(bootstrap_servers=(bootstrap,)), config)
        await sink.start()
        await sink.publish(outcomes, {}, None)
        await sink.close()

    asyncio.run(whole())


def test_a_post_whose_event_was_too_large_goes_back_with_its_history(
    kafka_bootstrap: str, topics: Any, dlq: Run
) -> None:
    """Its letter is made from the event, which knows neither bytes nor history: both stand with the original."""
    earlier = letter(topics, 70, Reason.TAGGING_FAILED)
    with transaction(kafka_bootstrap) as producer:
        producer.send(topics.posts, b"a post", b"key", list(earlier.headers), 2).get(timeout=10)
    event = EntityEvent(
        id="1",
        tagged_at=datetime.now(UTC),
        text="".join(chr(0x4E00 + n % 5000) for n in range(4000)),
        image=ImageReport(status="none"),
        checkpoint=CheckpointName(id="c", variant="text_only"),
        position=PositionReport(topic=topics.posts, partition=2, offset=0),
    )
    limit_messages(kafka_bootstrap, topics.entities, 4000)
    publish(kafka_bootstrap, topics, [event])
    assert dlq("retry", "--all").status == 0
    first, second = records(kafka_bootstrap, topics.posts)
    assert (second.key, second.value) == (first.key, first.value)
    history = json.loads(dict(second.headers)["nametag-history"])
    assert [(each["reason"], each["position"]["offset"]) for each in history] == [
        ("tagging_failed", 70),
        ("too_large", 0),
    ]


def test_bytes_that_were_left_out_are_read_where_they_stood(kafka_bootstrap: str, topics: Any, dlq: Run) -> None:
    """A letter too large for its topic goes without its bytes; the original is put back while it is there."""
    large = random.Random(1).randbytes(10_000)
    limit_messages(kafka_bootstrap, topics.dead_letters, 4000)
    with transaction(kafka_bootstrap) as producer:
        producer.send(topics.posts, large, b"key", [("traceparent", b"00-1")], 2).get(timeout=10)
    there = letter(topics, 0, value=large, key=b"key")
    gone = letter(topics, 70, value=large, key=b"key")

    publish(kafka_bootstrap, topics, [there, gone])
    found = [json.loads(line) for line in dlq("ls", "--json").out.splitlines()]
    assert [each["bytes_left_out"] for each in found] == [True, True]
    shown = dlq("show", found[0]["letter"])
    assert f"left out, being too large for this topic; the original stood at {topics.posts}[2]@0" in shown.out
    assert dlq("show", found[0]["letter"], "--raw").status == 1
    done = dlq("retry", "--all")
    assert done.status == 1
    assert f"1 letter put back on {topics.posts}" in done.out
    assert f"{found[1]['letter']} can't be put back" in done.err
    assert f"{topics.posts}[2]@70, where the message stood, holds it no more" in done.err
    first, second = records(kafka_bootstrap, topics.posts)
    assert (second.key, second.value, second.headers[0]) == (first.key, first.value, first.headers[0])
    assert json.loads(dict(second.headers)["nametag-history"])[-1]["position"]["offset"] == 0
    assert dlq("retry", found[0]["letter"]).out.startswith("0 letters put back")


def test_headers_that_were_left_out_are_read_where_they_stood(kafka_bootstrap: str, topics: Any, dlq: Run) -> None:
    """More than a letter holds go back whole while the message stands; afterwards what is missing is told."""
    many = [(f"h{n}", b"%d" % n) for n in range(100)]
    with transaction(kafka_bootstrap) as producer:
        producer.send(topics.posts, b"there", b"k", many, 2).get(timeout=10)
        producer.send(topics.posts, b"of a topic made anew", b"k", many, 2).get(timeout=10)
    others = [letter(topics, n, value=value, headers=tuple(many)) for n, value in enumerate([b"there", b"replaced"])]
    write(kafka_bootstrap, topics, others)
    done = dlq("retry", "--all")
    assert done.status == 0
    assert f"{topics.dead_letters}[1]@1 went back without 36 of its headers" in done.err
    assert "[1]@0" not in done.err
    back = {record.value: record.headers for record in records(kafka_bootstrap, topics.posts)[2:]}
    assert back[b"there"][:-1] == many
    assert back[b"replaced"][:-1] == many[:64]


def test_a_tombstone_of_a_huge_key_goes_back(kafka_bootstrap: str, topics: Any, dlq: Run) -> None:
    """A message without a value whose key alone is too large: its letter says so, and the key is put back."""
    key = random.Random(1).randbytes(10_000)
    limit_messages(kafka_bootstrap, topics.dead_letters, 4000)
    with transaction(kafka_bootstrap) as producer:
        producer.send(topics.posts, None, key, [], 2).get(timeout=10)
    publish(kafka_bootstrap, topics, [letter(topics, 0, Reason.EMPTY, key=key, value=None)])
    (found,) = [json.loads(line) for line in dlq("ls", "--json").out.splitlines()]
    assert (found["reason"], found["bytes_left_out"]) == ("empty", True)
    assert dlq("retry", "--all").status == 0
    first, second = records(kafka_bootstrap, topics.posts)
    assert (second.key, second.value) == (first.key, first.value) == (key, None)


def test_a_letter_opens_no_other_topic(kafka_bootstrap: str, topics: Any, dlq: Run) -> None:
    """Whoever may write letters gets nothing copied from a topic that the operator didn't name."""
    limit_messages(kafka_bootstrap, topics.dead_letters, 4000)
    with transaction(kafka_bootstrap) as producer:
        producer.send(topics.entities, b"a secret", b"k", [], 2).get(timeout=10)
    forged = DeadLetter.of(
        Message(position=Position(Partition(topics.entities, 2), 0), value=random.Random(1).randbytes(9000)),
        Reason.NO_TEXT,
        "no text",
    )
    publish(kafka_bootstrap, topics, [forged])
    done = dlq("retry", "--all", "--to", topics.posts)
    assert done.status == 1
    assert f"stood on {topics.entities}, which is neither kafka.posts_topic nor named by --to" in done.err
    assert not records(kafka_bootstrap, topics.posts)


def test_a_message_too_large_for_its_topic_costs_the_others_nothing(
    kafka_bootstrap: str, topics: Any, dlq: Run
) -> None:
    """One that fits only without its history goes so; one that doesn't is told of; all the others go."""
    chance = random.Random(1)
    tight, huge = chance.randbytes(2800), chance.randbytes(5000)
    write(kafka_bootstrap, topics, [letter(topics, n, value=b"%d" % n) for n in range(5)])
    write(kafka_bootstrap, topics, [letter(topics, 6, value=huge), letter(topics, 7, value=tight)])
    write(kafka_bootstrap, topics, [letter(topics, 8, value=b"last")])
    limit_messages(kafka_bootstrap, topics.posts, 3000)
    done = dlq("retry", "--all")
    assert done.status == 1
    assert f"{topics.posts} takes no message of its size" in done.err
    assert f"7 letters put back on {topics.posts}" in done.out
    assert counted(kafka_bootstrap, topics.posts) == {**{b"%d" % n: 1 for n in range(5)}, tight: 1, b"last": 1}


def run_in_process(environment: dict[str, str], patch: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start `nametag dlq` as a process of its own, changed by the lines of `patch`."""
    code = f"""
import os, signal, sys
from kafka import KafkaProducer
from consumers import dead_letter_retry
{patch}
from worker.cli import main
sys.exit(main(["dlq", *{list(arguments)!r}]))
"""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


KILL_BEFORE = """
commit, commits = KafkaProducer.commit_transaction, []
def die(producer):
    commits.append(1)
    if len(commits) == {nth}:
        {first}
        os.kill(os.getpid(), signal.SIGKILL)
    commit(producer)
KafkaProducer.commit_transaction = die
dead_letter_retry.MAX_LETTERS = 2
"""


@pytest.mark.parametrize(
    ("nth", "first", "num_back"),
    [(1, "pass", 0), (2, "pass", 2), (2, "commit(producer)", 4)],
    ids=["before the first commit", "before the second commit", "after the second commit"],
)
def test_a_kill_doubles_and_loses_nothing(
    kafka_bootstrap: str, topics: Any, dlq: Run, environment: dict[str, str], nth: int, first: str, num_back: int
) -> None:
    """Killed between sending and committing, or just after: whole transactions went, and the next run does the rest."""
    write(kafka_bootstrap, topics, [letter(topics, n, value=b"%d" % n) for n in range(5)])
    killed = run_in_process(environment, KILL_BEFORE.format(nth=nth, first=first), "retry", "--all")
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert len(records(kafka_bootstrap, topics.posts)) == num_back
    # What the open transaction holds up, a list doesn't wait for.
    assert f"{num_back} of them retried already" in dlq("ls").out
    assert f"{5 - num_back} letters put back" in dlq("retry", "--all").out.replace("1 letter ", "1 letters ")
    assert counted(kafka_bootstrap, topics.posts) == {b"%d" % n: 1 for n in range(5)}
    assert "5 of them retried already" in dlq("ls").out


def test_two_at_once_double_nothing(kafka_bootstrap: str, topics: Any, environment: dict[str, str], dlq: Run) -> None:
    """Both are started together: each message goes back once, and who is overtaken says so in one sentence."""
    write(kafka_bootstrap, topics, [letter(topics, n, value=b"%d" % n) for n in range(12)])
    one_by_one = "dead_letter_retry.MAX_LETTERS = 1"
    both = [run_in_process(environment, one_by_one, "retry", "--all") for _ in range(2)]
    ends = [(process.communicate(timeout=120), process.returncode) for process in both]
    assert counted(kafka_bootstrap, topics.posts) == {b"%d" % n: 1 for n in range(12)}
    assert 0 in [status for _, status in ends]
    for (_, err), status in ends:
        assert status == 0 or (err.count("\n") == 1 and "another retry" in err), err
    assert "12 of them retried already" in dlq("ls").out


class Interrupted(Retry):
    """A retry at whose second letter something else happens first; everything else is the real thing."""

    happens: Callable[[], object]

    def _parcels(self, entries: Sequence[Any]) -> Iterator[Parcel]:
        if self.report.num_put_back == 1:
            self.happens()
        return super()._parcels(entries)


@contextmanager
def interrupted(bootstrap: str, topics: Any, happens: Callable[[], object]) -> Iterator[Callable[[], Any]]:
    """A call that puts back all letters one by one, with `happens` after the first."""
    connection = KafkaConnection(bootstrap_servers=(bootstrap,))
    with KafkaReader(connection) as reader:
        topic = DeadLetterTopic(reader, topics.dead_letters)
        survey = topic.survey(Choice())
        with Interrupted(connection, reader, topic, topics.posts, sources=()) as retry:
            retry.happens = happens  # type: ignore[method-assign]
            yield lambda: retry.put_back(survey, survey.in_order())


def test_the_second_retry_ends_the_first(
    kafka_bootstrap: str, topics: Any, dlq: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry that was overtaken in the middle stops with one clear sentence, and doubles nothing."""
    monkeypatch.setattr(dead_letter_retry, "MAX_LETTERS", 1)
    write(kafka_bootstrap, topics, [letter(topics, n, value=b"%d" % n) for n in range(4)])
    told: list[str] = []
    with (
        interrupted(kafka_bootstrap, topics, lambda: told.append(dlq("retry", "--all").out)) as put_back,
        pytest.raises(RetryStopped, match=rf"another retry of {topics.dead_letters} has taken over \(1 put back"),
    ):
        put_back()
    assert told == [f"3 letters put back on {topics.posts}\n"]
    assert counted(kafka_bootstrap, topics.posts) == {b"%d" % n: 1 for n in range(4)}


def test_a_mark_behind_an_open_transaction_counts(
    kafka_bootstrap: str, topics: Any, dlq: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's open transaction hides the marks behind it from readers: a retry waits until it sees them."""
    monkeypatch.setattr(dead_letter_retry, "MAX_LETTERS", 1)
    write(kafka_bootstrap, topics, [letter(topics, n, value=b"%d" % n) for n in range(3)])
    end = threading.Event()
    is_open = threading.Event()

    def hold_up() -> None:
        with transaction(kafka_bootstrap) as producer:
            producer.send(topics.dead_letters, b"x", partition=1).get(timeout=10)
            is_open.set()
            end.wait(30)

    holding = threading.Thread(target=hold_up)

    def begin() -> None:
        holding.start()
        assert is_open.wait(30)

    with interrupted(kafka_bootstrap, topics, begin) as put_back:
        put_back()
    # The list shows what can be read, at once; the retry knows that it isn't all.
    assert "1 of them retried already" in dlq("ls").out
    threading.Timer(2.0, end.set).start()
    start = time.monotonic()
    assert dlq("retry", "--all").out.startswith("0 letters put back")
    assert time.monotonic() - start > 1
    holding.join(30)
    assert counted(kafka_bootstrap, topics.posts) == {b"%d" % n: 1 for n in range(3)}


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
