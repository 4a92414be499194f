"""The AsyncAPI document says of the topics what the code does with them."""

import json
from datetime import UTC, datetime
from typing import Any

import jsonschema
import pytest

from consumers.asyncapi import asyncapi_document
from consumers.dead_letters import OWN_PREFIX, DeadLetter
from consumers.deletes import Tombstone
from consumers.errors import Reason
from consumers.events import EVENT_HEADERS
from consumers.messages import json_schemas
from consumers.source import Message, Partition, Position
from consumers.wire import PositionReport
from worker.settings import KafkaTable

POSITION = Position(Partition("posts", 3), 17)
DOCUMENT = asyncapi_document()
MESSAGES = DOCUMENT["components"]["messages"]


def letters() -> list[DeadLetter]:
    """One with the least that a letter says, and one with the most."""
    plain = DeadLetter.of(Message(position=POSITION, value=b"{"), Reason.NOT_JSON, "the message is no JSON")
    traced = Message(position=POSITION, value=b"{}", key=b"1", headers=(("traceparent", b"00"),) * 70)
    full = DeadLetter.of(traced, Reason.NO_TEXT, "the post has no text", num_tries=3)
    return [plain, full, full.model_copy(update={"bytes_left_out": True})]


def headers_of(name: str) -> Any:
    return MESSAGES[name]["headers"]


@pytest.mark.parametrize("letter", letters())
def test_a_letters_headers_are_those_of_the_document(letter: DeadLetter) -> None:
    """What a real letter has in its headers validates, and none of nametag's own is left unsaid."""
    headers = {name: value.decode() for name, value in letter.headers}
    jsonschema.Draft202012Validator(headers_of("deadLetter")).validate(headers)
    assert {name for name in headers if name.startswith(OWN_PREFIX)} <= set(headers_of("deadLetter")["properties"])


def test_the_document_says_no_header_that_no_letter_has() -> None:
    """The headers of all letters together are all that are said."""
    seen = {name for letter in letters() for name, _ in letter.headers if name.startswith(OWN_PREFIX)}
    assert seen == set(headers_of("deadLetter")["properties"])


def test_events_and_tombstones_have_the_headers_of_the_document() -> None:
    """Both are told apart by `nametag-schema`, and a tombstone says when, and where its delete stood."""
    stone = Tombstone(id="1", deleted_at=datetime(2026, 1, 1, tzinfo=UTC), position=PositionReport.of(POSITION))
    trace = (("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), ("tracestate", b"a=1"))
    stone.traced(trace)
    for name, own in (("entityEvent", (*EVENT_HEADERS, *trace)), ("tombstone", stone.headers)):
        headers = {header: value.decode() for header, value in own}
        assert set(headers) == set(headers_of(name)["properties"])
        jsonschema.Draft202012Validator(headers_of(name)).validate(headers)
    assert set(headers_of("tombstone")["required"]) == {name for name, _ in Tombstone(id="1").headers}


def test_the_topics_and_the_group_are_those_of_the_settings() -> None:
    """The addresses are the worker's defaults."""
    kafka = KafkaTable()
    addresses = [channel["address"] for channel in DOCUMENT["channels"].values()]
    assert addresses == [kafka.posts_topic, kafka.entities_topic, kafka.dead_letters_topic]
    assert DOCUMENT["operations"]["receivePosts"]["bindings"]["kafka"]["groupId"]["default"] == kafka.group_id


@pytest.mark.parametrize(
    ("model", "name"),
    [("Post", "post"), ("EntityEvent", "entity_event"), ("Tombstone", "tombstone")],
)
def test_its_models_are_the_json_schemas(model: str, name: str) -> None:
    """The document and `*.schema.json` say the same of each message."""
    schema = json_schemas()[f"{name}.schema.json"]
    definitions = schema.pop("$defs", {})
    del schema["$schema"]
    moved = json.loads(json.dumps({model: schema, **definitions}).replace("#/$defs/", "#/components/schemas/"))
    assert {each: DOCUMENT["components"]["schemas"][each] for each in moved} == moved
