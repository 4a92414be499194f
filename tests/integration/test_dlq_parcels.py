"""What of a dead letter is put back: all of its message, with its history, and nothing else."""

import json
import random
from datetime import UTC, datetime
from typing import Any

from consumers.dead_letters import DeadLetter
from consumers.errors import Reason
from consumers.events import CheckpointName, EntityEvent, ImageReport
from consumers.source import Message, Partition, Position
from consumers.wire import PositionReport
from tests.integration.dlq_tools import Run, counted, letter, message, publish, transaction, write
from tests.integration.topic_tools import limit_messages, records


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
