"""What is read of a record on the dead-letters topic, whoever wrote it."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.dead_letters import DeadLetter
from consumers.errors import Reason
from consumers.letters import (
    MAX_LISTED_CHARACTERS,
    MAX_NAME_CHARACTERS,
    Entry,
    read_letter,
    read_mark,
    read_position,
)
from consumers.source import Message, Partition, Position

PLACE = Position(Partition("dead-letters", 1), 17)
ORIGIN = Position(Partition("posts", 3), 5)


def record(
    headers: tuple[tuple[str, bytes], ...], value: bytes | None = b"{", key: bytes | None = b"k", at: Position = PLACE
) -> Message:
    return Message(position=at, value=value, key=key, headers=headers, timestamp_ms=1_700_000_000_000)


def test_a_letter_comes_back_as_it_was_written() -> None:
    """What the worker writes as headers is what is read, the message's own headers among it."""
    message = Message(position=ORIGIN, value=b"\xff", key=b"k", headers=(("traceparent", b"00-1"),))
    written = DeadLetter.of(message, Reason.TAGGING_FAILED, "half \ud83d an emoji", num_tries=2)
    letter = read_letter(record(written.headers, written.value, written.key))
    assert letter is not None
    assert (letter.key, letter.value, letter.headers) == (b"k", b"\xff", message.headers)
    assert (letter.reason, letter.detail, letter.origin) == ("tagging_failed", "half \\ud83d an emoji", ORIGIN)
    assert (letter.failed_at, letter.num_tries, letter.history) == (written.failed_at, 2, written.history)
    assert not letter.is_without_bytes


@pytest.mark.parametrize(
    ("reason", "left_out", "value", "key", "read"),
    [
        ("empty", None, b"", None, None),
        ("empty", None, None, b"k", None),
        ("not_json", None, b"", None, b""),
        ("not_json", None, b"", b"k", b""),
        ("not_json", b"true", b"", None, None),
        ("not_json", b"false", b"x", None, b"x"),
    ],
)
def test_no_value_and_an_empty_one_are_told_apart(
    reason: str, left_out: bytes | None, value: bytes | None, key: bytes | None, read: bytes | None
) -> None:
    """The client sends no record of nothing, so an empty value may stand for none: the headers tell."""
    headers: tuple[tuple[str, bytes], ...] = (("nametag-reason", reason.encode()),)
    if left_out is not None:
        headers += (("nametag-bytes-left-out", left_out),)
    letter = read_letter(record(headers, value, key))
    assert letter is not None
    assert letter.value == read
    assert letter.is_without_bytes is (left_out == b"true")


NAMES = st.sampled_from(
    ["reason", "detail", "topic", "partition", "offset", "failed-at", "num-tries", "history", "bytes-left-out",
     "headers-left-out", "retried", "schema"]
).map("nametag-".__add__)  # fmt: skip
VALUES = st.binary(max_size=30) | st.sampled_from(
    [b"-1", b"99999999999999999999", b"\xd9\xa3", b"0001-01-01T00:00:00+23:59", b"dead-letters[1]@3", b"[1]", b"true"]
)


@given(
    st.lists(st.tuples(NAMES | st.text(max_size=5), VALUES), max_size=8).map(tuple),
    st.none() | st.binary(max_size=40) | st.sampled_from([b'{"id": true}', b'{"id": "\\ud83d"}', b"[" * 2000]),
    st.none() | st.binary(max_size=200),
)
def test_no_record_stops_the_reader(
    headers: tuple[tuple[str, bytes], ...], value: bytes | None, key: bytes | None
) -> None:
    """Headers, keys and values of any kind give a letter, a mark or neither, and a bounded line of a list."""
    message = record((*headers, ("nametag-reason", b"not_json")), value, key)
    read_mark(message)
    letter = read_letter(message)
    if letter is None:
        assert "nametag-retried" in dict(headers)
        return
    entry = Entry.of(letter)
    assert len(entry.name) <= MAX_NAME_CHARACTERS
    assert len(entry.detail) <= MAX_LISTED_CHARACTERS
    assert entry.failed_at.tzinfo is not None
    sorted([entry.failed_at, datetime.now(UTC)])


def test_without_a_reason_it_is_no_letter() -> None:
    """Other messages may stand on the topic."""
    assert read_letter(record((("nametag-detail", b"x"),))) is None


def test_a_letter_without_its_time_has_the_records() -> None:
    """A moment that can't be read is replaced by when the record was written."""
    for text in (b"", b"yesterday", b"0001-01-01T00:00:00+23:59"):
        letter = read_letter(record((("nametag-reason", b"not_json"), ("nametag-failed-at", text))))
        assert letter is not None
        assert letter.failed_at == datetime.fromtimestamp(1_700_000_000, UTC)


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        (b"dead-letters[1]@16", 16),
        (b"1@0", 0),
        (b"dead-letters[1]@17", None),
        (b"dead-letters[1]@18", None),
        (b"dead-letters[2]@16", None),
        (b"other[1]@16", None),
        (b"\xff", None),
        (b"", None),
        (b"dead-letters[1]@1000000000000000000000", None),
    ],
)
def test_a_mark_names_an_earlier_letter_of_its_partition(text: bytes, marked: int | None) -> None:
    """Nobody can mark what is elsewhere or still to come."""
    found = read_mark(record((("nametag-retried", text),)))
    assert (found and found.offset) == marked


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("dead-letters[0]@17", Position(Partition("dead-letters", 0), 17)),
        ("a.b_c-1[12]@0", Position(Partition("a.b_c-1", 12), 0)),
        ("3@4", Position(Partition("here", 3), 4)),
    ],
)
def test_a_position_is_read_in_both_forms(text: str, position: Position) -> None:
    """With the topic, and without."""
    assert read_position(text, "here") == position


@pytest.mark.parametrize(
    "text", ["", "17", "0@", "@1", "a[0]", "a[0]@-1", "a b[0]@1", "0@1 ", "٣@1", "0@1\n", "[0]@1", f"0@{'9' * 19}"]
)
def test_what_is_no_position_is_refused(text: str) -> None:
    """Nothing is guessed, and no number grows without bound."""
    with pytest.raises(ValueError, match=r"topic\[partition\]@offset"):
        read_position(text, "here")
