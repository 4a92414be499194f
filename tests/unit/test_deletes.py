"""Posts that are taken back: how that is read, what goes out for it, and what doesn't."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime

import jsonschema
import numpy as np
import pytest

import worker.deletions
from consumers.dead_letters import DeadLetter
from consumers.deletes import Delete, Notice, Tombstone
from consumers.errors import BadEvent, BadMessage, Reason
from consumers.event_records import read_record
from consumers.events import EntityEvent
from consumers.messages import SCHEMA_FOLDER
from consumers.posts import Post, read_message
from consumers.source import Message, Partition, Position
from consumers.wire import PositionReport
from tests.unit.test_pipeline import FIRST, SECOND, World, post, run
from worker.deletions import DeletedPosts
from worker.errors import PublishAborted, PublishUnsettled
from worker.images import FoundPixels
from worker.publish import Arrival

NOON = datetime(2021, 1, 1, 12, tzinfo=UTC)
NOON_MS = str(round(NOON.timestamp() * 1000))


def delete(offset: int, post_id: str, partition: Partition = FIRST) -> Message:
    """A delete of Twitter's stream, which is final."""
    body = {"delete": {"status": {"id_str": post_id, "user_id": 1}, "timestamp_ms": NOON_MS}}
    return Message(position=Position(partition, offset), value=json.dumps(body).encode(), key=post_id.encode())


def empty(offset: int, post_id: str, partition: Partition = FIRST) -> Message:
    """A delete as is the custom on Kafka, after which a post may come again."""
    return Message(position=Position(partition, offset), value=None, key=post_id.encode())


def ids(world: World) -> list[tuple[str, str]]:
    """What went out, each with its id."""
    return [(type(each).__name__, getattr(each, "id", "")) for each in world.sink.outcomes]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"delete": {"status": {"id": 1, "id_str": "1"}, "timestamp_ms": NOON_MS}}, Delete("1", NOON)),
        ({"delete": {"status": {"id": 2**60}}}, Delete(str(2**60))),
        ({"delete": {"status": {"id_str": "1"}, "timestamp_ms": "soon"}}, Delete("1")),
        ({"delete": {"status": {"id_str": "1"}, "timestamp_ms": 1e300}}, Delete("1")),
        ({"status_withheld": {"id": 1, "withheld_in_countries": ["DE", "XX"]}}, Delete("1")),
        ({"status_withheld": {"id": 1, "withheld_in_countries": ["XY"]}}, Delete("1")),
        ({"status_withheld": {"id": 1, "withheld_in_countries": ["DE", 3]}}, Notice("status_withheld")),
        ({"status_withheld": {"id": 1}}, Notice("status_withheld")),
        ({"user_withheld": {"id": 1, "withheld_in_countries": ["XX"]}}, Notice("user_withheld")),
        ({"scrub_geo": {"user_id": 1, "up_to_status_id": 2}}, Notice("scrub_geo")),
        ({"limit": {"track": 5}}, Notice("limit")),
        ({"user_delete": {"id": 5}}, Notice("user_delete")),
        ({"delete": {"status": {"id": 1}}, "timestamp_ms": "5"}, Delete("1")),
    ],
)
def test_notices_are_read(body: object, found: Delete | Notice) -> None:
    """A delete, also by a withholding everywhere; anything else is about no single post."""
    message = Message(position=Position(FIRST, 0), value=json.dumps(body).encode())
    assert read_message(message, max_bytes=1000) == found


@pytest.mark.parametrize(
    "about",
    [{}, {"status": {}}, {"status": 1}, {"status": {"id": True}}, {"status": {"id_str": "x" * 257}}, [], None,
     {"status": {"id_str": "\ud83d"}}],
)  # fmt: skip
def test_a_delete_of_nothing_is_a_dead_letter(about: object) -> None:
    """It can't be obeyed, which somebody has to see."""
    message = Message(position=Position(FIRST, 0), value=json.dumps({"delete": about}).encode())
    with pytest.raises(BadMessage, match="a delete that names no post") as caught:
        read_message(message, max_bytes=1000)
    assert caught.value.reason is Reason.NOT_A_POST


def test_a_delete_at_no_moment_is_one() -> None:
    """Microseconds, say, where milliseconds belong: the year 55840 is none of Python's."""
    message = Message(position=Position(FIRST, 0), value=None, key=b"5", timestamp_ms=1_700_000_000_000_000)
    assert read_message(message, max_bytes=1000) == Delete("5", is_final=False)


def test_a_post_may_have_a_field_of_a_notices_name() -> None:
    """What has an id or a text is a post."""
    body = {"id": "1", "text": "x", "limit": 5}
    found = read_message(Message(position=Position(FIRST, 0), value=json.dumps(body).encode()), max_bytes=1000)
    assert isinstance(found, Post)


def test_a_message_without_a_value_deletes_the_post_of_its_key() -> None:
    """At the message's own time; without a key that can be an id it is a dead letter."""
    message = Message(position=Position(FIRST, 0), value=None, key="né".encode(), timestamp_ms=int(NOON_MS))
    assert read_message(message, max_bytes=1000) == Delete("né", NOON, is_final=False)
    for key in (None, b"", b"\xff", b"x" * 257):
        with pytest.raises(BadMessage, match="no key that names a post") as caught:
            read_message(Message(position=Position(FIRST, 0), value=None, key=key), max_bytes=1000)
        assert caught.value.reason is Reason.EMPTY


def test_a_delete_becomes_a_tombstone_and_its_traces_are_forgotten() -> None:
    """An event that went out is followed by the tombstone; notices leave nothing, and the books balance."""

    async def scenario(world: World) -> None:
        world.send(post(0))
        await world.until(lambda: world.source.committed == {FIRST: 1})
        notice = Message(position=Position(FIRST, 2), value=b'{"limit": {"track": 5}}')
        world.send(delete(1, "0-0"), notice, empty(3, "9"))
        await world.finish()

    world = run(scenario)
    assert ids(world) == [("EntityEvent", "0-0"), ("Tombstone", "0-0"), ("Tombstone", "9")]
    tombstone = world.sink.outcomes[1]
    assert isinstance(tombstone, Tombstone) and tombstone.deleted_at == NOON
    assert world.images.forgotten == [("0-0", True), ("9", False)]
    assert world.source.committed == {FIRST: 4}
    counts = {name: world.count("nametag_posts_total", outcome=name) for name in ("event", "tombstone", "notice")}
    assert counts == {"event": 1, "tombstone": 2, "notice": 1}
    assert world.count("nametag_posts_received_total") == 4
    assert world.count("nametag_posts_in_flight") == world.count("nametag_purge_failures_total") == 0


@pytest.mark.parametrize("make", [delete, empty])
def test_a_post_in_flight_is_suppressed(make: Callable[[int, str], Message]) -> None:
    """One that waits for its picture, and one that is done and waits for the other, of either kind of outcome."""

    async def scenario(world: World) -> None:
        gate = world.images.gate("slow")
        fields = [{"image_url": "slow"}, {}, {"text": "it breaks here"}, {}]
        world.send(*(post(offset, **each) for offset, each in enumerate(fields)))
        bad = Message(position=Position(FIRST, 4), value=b"{", key=b"bad")
        world.send(bad, *(make(5 + n, post_id) for n, post_id in enumerate(["0-0", "0-1", "0-2", "bad"])))
        await world.until(lambda: len(world.images.forgotten) >= 4)
        gate.set()
        await world.finish()

    world = run(scenario)
    assert ids(world) == [("EntityEvent", "0-3"), *(("Tombstone", name) for name in ("0-0", "0-1", "0-2", "bad"))]
    assert world.count("nametag_posts_total", outcome="suppressed") == 4
    # Once for the delete, and for the picture that came meanwhile once more.
    assert [name for name, _ in world.images.forgotten].count("0-0") == 2
    assert world.source.committed == {FIRST: 9}


def test_what_was_not_published_yet_is_suppressed_at_the_next_try() -> None:
    """A publication that was aborted is chosen anew."""

    async def scenario(world: World) -> None:
        world.sink.error = PublishAborted("a new generation")
        world.send(post(0), post(1))
        await world.until(lambda: world.count("nametag_publish_failures_total", error="PublishAborted") >= 1)
        world.send(delete(2, "0-0"))
        await world.until(lambda: bool(world.images.forgotten))
        world.sink.error = None
        await world.finish()

    assert ids(run(scenario)) == [("EntityEvent", "0-1"), ("Tombstone", "0-0")]


def test_a_post_that_comes_after_its_delete() -> None:
    """It is late where the delete was final, from whatever partition or worker that came, and new where it wasn't."""

    async def scenario(world: World) -> None:
        world.images.deleted.add("0-4")
        world.send(delete(0, "0-2"), empty(1, "0-3"), delete(0, "0-5", SECOND))
        await world.until(lambda: len(world.sink.outcomes) == 3)
        world.send(*(post(offset) for offset in range(2, 6)))
        await world.finish()

    world = run(scenario)
    assert [each.id for each in world.sink.outcomes if isinstance(each, EntityEvent)] == ["0-3"]
    assert world.count("nametag_posts_total", outcome="suppressed") == 3


def test_a_dead_letter_of_a_deleted_post_is_not_kept() -> None:
    """Neither of one that can't be tagged nor of one that can't be read, when they come late, by whatever is known."""

    async def scenario(world: World) -> None:
        world.send(delete(0, "0-1"), delete(1, "bad"))
        await world.until(lambda: len(world.sink.outcomes) == 2)
        # Another worker, or this one before it was started anew, has had their deletes.
        world.images.deleted |= {"0-2", "8"}
        unread = [
            (b"{", b"bad"),
            (b"{", b"8"),
            (b'{"id": 8, "text": 5}', None),
            (b'{"id_str": "bad", "lang": 5}', None),
        ]
        bad = [Message(position=Position(FIRST, 3 + n), value=v, key=key) for n, (v, key) in enumerate(unread)]
        world.send(post(1, text="it breaks here"), post(2, text="it breaks here"), *bad)
        world.send(Message(position=Position(FIRST, 7), value=b"{", key=b"other"))
        await world.finish()

    world = run(scenario)
    assert world.offsets() == [7]
    assert world.count("nametag_posts_total", outcome="suppressed") == 6
    assert isinstance(world.sink.outcomes[-1], DeadLetter)


def test_features_that_come_amid_a_delete_are_not_kept() -> None:
    """The cache was asked before the delete was read, and answered after it."""

    async def scenario(world: World) -> None:
        asked, may_answer = asyncio.Event(), asyncio.Event()

        async def is_deleted(_post_id: str) -> bool:
            asked.set()
            await may_answer.wait()
            return False

        world.images.is_deleted = is_deleted  # type: ignore[method-assign]
        world.images.found["new"] = FoundPixels(digest="d", pixels=np.zeros((3, 224, 224), np.uint8))
        world.send(post(0, image_url="new"))
        await asked.wait()
        world.send(delete(1, "0-0"))
        await world.until(lambda: bool(world.images.forgotten))
        may_answer.set()
        await world.finish()

    world = run(scenario)
    assert ids(world) == [("Tombstone", "0-0")]
    assert not world.images.remembered
    assert len(world.images.forgotten) == 2


def test_a_delete_is_not_forgotten_when_all_is_read_again() -> None:
    """Nobody knows whether the first try went out: the post comes again, and its delete still stands behind it."""

    async def scenario(world: World) -> None:
        world.sink.error = PublishUnsettled("no answer")
        world.send(post(0), empty(1, "0-0"))
        await world.until(lambda: world.rewinds == 1)
        world.sink.error = None
        world.send(post(0))
        await world.until(lambda: world.source.committed == {FIRST: 1})
        world.send(empty(1, "0-0"), post(2, id="0-0"))
        await world.finish()

    assert ids(run(scenario)) == [("Tombstone", "0-0"), ("EntityEvent", "0-0")]


def test_what_may_be_left_in_the_cache_is_told() -> None:
    """The tombstone goes out all the same."""

    async def scenario(world: World) -> None:
        world.images.forgets_all = False
        world.send(delete(0, "1"))
        await world.finish()

    world = run(scenario)
    assert ids(world) == [("Tombstone", "1")]
    assert world.count("nametag_purge_failures_total") == 1


def test_what_the_cache_did_not_confirm_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the cache is back it is told again of the delete, as final as it was; a late post would be tagged else."""
    monkeypatch.setattr(worker.deletions, "OWED_SECONDS", 0.05)

    async def scenario(world: World) -> None:
        world.images.forgets_all = False
        world.send(delete(0, "1"), empty(1, "2"))
        await world.until(lambda: world.count("nametag_purge_failures_total") == 2)
        world.images.forgets_all = True
        num_before = len(world.images.forgotten)
        await world.until(lambda: len(world.images.forgotten) >= num_before + 2)
        await asyncio.sleep(0.2)
        assert sorted(world.images.forgotten[num_before:]) == [("1", True), ("2", False)]
        await world.finish()

    run(scenario)


def test_posts_go_on_where_marks_cannot_be_asked_and_that_is_told() -> None:
    """A cache in trouble costs no post, but a metric that somebody is called for."""

    async def scenario(world: World) -> None:
        world.images.is_sure = False
        world.send(post(0))
        await world.finish()

    world = run(scenario)
    assert ids(world) == [("EntityEvent", "0-0")]
    assert world.count("nametag_unsure_deletes_total") == 1


def test_the_last_deletes_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all of them for ever; a delete that isn't final takes nothing from one that is."""
    monkeypatch.setattr(worker.deletions, "MAX_POSTS", 2)
    deleted = DeletedPosts()

    def at(number: int, offset: int = 0, partition: Partition = SECOND) -> Arrival:
        return Arrival(Message(position=Position(partition, offset), value=None), number)

    deleted.note("a", at(1), is_final=True)
    deleted.note("b", at(2, 5, FIRST), is_final=False)
    assert [deleted.covers("a", at(9)), deleted.covers("b", at(1)), deleted.covers("b", at(3))] == [True, True, False]
    # Within a partition the offset counts: a message that is read again has a new number.
    assert [deleted.covers("b", at(9, 4, FIRST)), deleted.covers("b", at(9, 6, FIRST))] == [True, False]
    deleted.note("a", at(3), is_final=False)
    assert deleted.covers("a", at(9))
    deleted.note("c", at(4), is_final=True)
    assert [deleted.covers(post_id, at(1)) for post_id in "abc"] == [True, False, True]


def test_a_tombstone_is_written_as_its_schema_says() -> None:
    """In a JSONL file it is a line; on Kafka its fields are headers, from which it is read again."""
    tombstone = Tombstone(id="né", deleted_at=NOON, position=PositionReport(topic="posts", partition=1, offset=2))
    body = json.loads(tombstone.to_json())
    assert body == {
        "schema_version": 1,
        "id": "né",
        "deleted": True,
        "deleted_at": "2021-01-01T12:00:00+00:00",
        "position": {"topic": "posts", "partition": 1, "offset": 2},
    }
    jsonschema.validate(body, json.loads((SCHEMA_FOLDER / "tombstone.schema.json").read_text()))
    assert dict(tombstone.headers) == {
        "nametag-schema": b"tombstone",
        "nametag-schema-version": b"1",
        "nametag-deleted-at": b"2021-01-01T12:00:00+00:00",
        "nametag-topic": b"posts",
        "nametag-partition": b"1",
        "nametag-offset": b"2",
    }
    assert read_record(record("né".encode(), tombstone.headers)) == tombstone
    # Any program may delete an event; and what it writes into headers is no number of ours.
    assert read_record(record(b"1", ())) == Tombstone(id="1")
    odd = (("nametag-partition", b"x"), ("nametag-topic", b"\xff"), ("nametag-deleted-at", b"soon"))
    assert read_record(record(b"1", odd)) == Tombstone(id="1")
    with pytest.raises(BadEvent):
        read_record(record(b"\xff", ()))


def record(key: bytes, headers: tuple[tuple[str, bytes], ...]) -> Message:
    return Message(position=Position(Partition("entities", 0), 0), key=key, value=None, headers=headers)
