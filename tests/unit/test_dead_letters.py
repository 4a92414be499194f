"""What a dead letter tells, and what it keeps of the message."""

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.dead_letters import MAX_HEADERS, MAX_HEADERS_BYTES, DeadLetter
from consumers.errors import Reason
from consumers.history import MAX_HISTORY_BYTES
from consumers.messages import SCHEMA_FOLDER
from consumers.source import Message, Partition, Position
from worker.kafka_sink import without_bytes

POSITION = Position(Partition("posts", 3), 17)


def test_a_letter_keeps_its_schema() -> None:
    """A dead letter validates against the schema that the project ships."""
    letter = DeadLetter.of(Message(position=POSITION, value=b"\xff", key=b"k"), Reason.NOT_JSON, "no JSON")
    _validate(letter)
    assert (letter.key, letter.value) == (b"k", b"\xff")
    assert dict(letter.headers)["nametag-offset"] == b"17"


def test_a_failure_after_a_retry_tells_of_the_earlier_ones() -> None:
    """What a letter's headers tell comes back with the message, and the new failure is added at the end."""
    first = DeadLetter.of(message(), Reason.TAGGING_FAILED, "the model failed", num_tries=3)
    second = DeadLetter.of(message(first.headers, offset=40), Reason.NOT_A_POST, "no post")
    _validate(second)
    told = [(f.reason, f.detail, f.position.offset, f.num_tries) for f in second.history]
    assert told == [("tagging_failed", "the model failed", 17, 3), ("not_a_post", "no post", 40, None)]
    assert second.history[0].failed_at == first.failed_at
    assert dict(first.headers)["nametag-num-tries"] == b"3"
    assert "nametag-num-tries" not in dict(second.headers)
    assert json.loads(dict(second.headers)["nametag-history"]) == json.loads(second.to_json())["history"]


@given(st.text(st.characters(exclude_categories=()), max_size=400))
def test_any_sentence_makes_a_letter(detail: str) -> None:
    """An error's words may be of any characters, lone surrogates and long ones among them."""
    letter = DeadLetter.of(message(), Reason.TAGGING_FAILED, detail)
    assert DeadLetter.of(message(letter.headers), Reason.NOT_JSON, "").history[:-1] == letter.history
    _validate(letter)


def test_a_history_is_bounded() -> None:
    """Twenty failures at most, the last ones, in at most 16 KiB, whatever their sentences are."""
    headers: tuple[tuple[str, bytes], ...] = ()
    for offset in range(50):
        detail = "\N{GRINNING FACE}" * 5000 if offset >= 25 else "no"
        letter = DeadLetter.of(message(headers, offset), Reason.NOT_JSON, detail)
        assert letter.history[-1].position.offset == offset
        if offset == 24:
            assert [failure.position.offset for failure in letter.history] == [*range(5, 25)]
        headers = letter.headers
    assert 5 < len(letter.history) < 20
    assert len(dict(headers)["nametag-history"]) <= MAX_HISTORY_BYTES
    assert sum(len(name) + len(value) for name, value in headers) < MAX_HISTORY_BYTES + 5000
    _validate(letter)


FAILURE: dict[str, Any] = {
    "reason": "not_json",
    "detail": "no JSON",
    "position": {"topic": "posts", "partition": 0, "offset": 1},
    "failed_at": "2026-11-25T12:00:00+01:00",
}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xff",
        b"[" * 5000,
        b'["\\ud83d"' + b"[" * 5000,
        b"{}",
        b"[1]",
        b"null",
        json.dumps([FAILURE, {**FAILURE, "failed_at": "yesterday"}]).encode(),
        json.dumps([{**FAILURE, "failed_at": 1e300}]).encode(),
        json.dumps([{**FAILURE, "reason": "r" * 65}]).encode(),
        json.dumps([{**FAILURE, "position": {"topic": "posts", "partition": 0, "offset": -1}}]).encode(),
        json.dumps([{**FAILURE, "position": {"topic": "t" * MAX_HISTORY_BYTES, "partition": 0, "offset": 1}}]).encode(),
        json.dumps([FAILURE] * 500).encode(),
    ],
)
def test_a_foreign_history_is_no_history(header: bytes) -> None:
    """Whatever stands in the header, the letter is written, and tells of its own failure."""
    letter = DeadLetter.of(message((("nametag-history", header),)), Reason.NOT_JSON, "no JSON")
    assert [failure.position.offset for failure in letter.history] == [17]
    _validate(letter)


@given(st.recursive(st.none() | st.floats() | st.integers() | st.text(), lambda v: st.lists(v, max_size=4)), st.data())
def test_no_history_stops_a_letter(wrong: object, data: st.DataObject) -> None:
    """One field of any type costs the history, never the letter."""
    field = data.draw(st.sampled_from([*FAILURE, "num_tries"]))
    header = json.dumps([{**FAILURE, field: wrong}]).encode()
    letter = DeadLetter.of(message((("nametag-history", header),)), Reason.NOT_JSON, "no JSON")
    assert 1 <= len(letter.history) <= 2
    _validate(letter)
    assert len(dict(letter.headers)["nametag-history"]) <= MAX_HISTORY_BYTES


def test_a_longer_history_than_ours_is_cut() -> None:
    """Of a list of thirty failures the last nineteen are kept, and this one."""
    short = {**FAILURE, "detail": ""}
    many = [{**short, "position": {**FAILURE["position"], "offset": n}} for n in range(30)]
    header = json.dumps(many).encode()
    letter = DeadLetter.of(message((("nametag-history", header),)), Reason.NOT_JSON, "no JSON")
    assert [failure.position.offset for failure in letter.history] == [*range(11, 30), 17]


def test_a_message_keeps_its_headers() -> None:
    """What a message came with is the letter's too, in order and with repeats; only nametag's own are replaced."""
    traced = (("traceparent", b"00-1-2-01"), ("tag", b"\xff"), ("tag", b""), ("nametag-reason", b"a lie"))
    letter = DeadLetter.of(message(traced), Reason.NOT_JSON, "no JSON")
    assert letter.headers[:3] == traced[:3]
    assert [value for name, value in letter.headers if name == "nametag-reason"] == [b"not_json"]
    assert json.loads(letter.to_json())["original_headers"][1] == {"name": "tag", "value_base64": "/w=="}
    _validate(letter)


def test_a_message_keeps_no_more_headers_than_there_is_room_for() -> None:
    """A header too large costs itself, not the small ones behind it; the letter says how many are missing."""
    headers = (("large", b"x" * MAX_HEADERS_BYTES), *((f"h{n}", b"x") for n in range(MAX_HEADERS + 5)))
    letter = DeadLetter.of(message(headers), Reason.NOT_JSON, "no JSON")
    assert [header.name for header in letter.original_headers] == [f"h{n}" for n in range(MAX_HEADERS)]
    assert letter.num_headers_left_out == 6
    assert dict(letter.headers)["nametag-headers-left-out"] == b"6"
    _validate(letter)


def test_a_letter_without_its_bytes_says_so_and_is_small() -> None:
    """The broker refused it once: it goes without the message's headers too, but not without its history."""
    letter = DeadLetter.of(message((("large", b"x" * 10_000),)), Reason.NOT_JSON, "no JSON")
    assert "nametag-bytes-left-out" not in dict(letter.headers)
    bare = without_bytes(letter)
    assert dict(bare.headers)["nametag-bytes-left-out"] == b"true"
    assert "nametag-history" in dict(bare.headers)
    assert sum(len(name) + len(value) for name, value in bare.headers) < 1000
    empty = DeadLetter.of(Message(position=POSITION, value=None, key=b"k"), Reason.EMPTY, "no value")
    assert "nametag-bytes-left-out" not in dict(empty.headers)


def message(headers: tuple[tuple[str, bytes], ...] = (), offset: int = 17) -> Message:
    return Message(position=Position(Partition("posts", 3), offset), value=b"{", key=b"k", headers=headers)


def _validate(letter: DeadLetter) -> None:
    schema = json.loads((SCHEMA_FOLDER / "dead_letter.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(json.loads(letter.to_json()))
