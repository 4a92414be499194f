"""Messages change only in ways that their readers and writers were told to expect.

`released_schemas/` holds the documents as they were released last; `make release-schemas` takes the current ones.
"""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import pytest

from consumers.errors import NewerSchema
from consumers.events import EntityEvent
from consumers.image_status import ImageStatus
from consumers.messages import documents
from tests.unit.schema_changes import breaks

RELEASED = Path(__file__).with_name("released_schemas")
READ = ("post", "tweet", "delete", "notice")
"""The messages that others write and nametag reads."""

Json = dict[str, Any]
NOW = documents()


def released(name: str) -> Json:
    document: Json = json.loads((RELEASED / name).read_text(encoding="utf-8"))
    return document


def direction(message: str) -> Literal["written", "read"]:
    return "read" if message in READ else "written"


def schema_names() -> list[str]:
    return sorted(path.name for path in RELEASED.glob("*.schema.json"))


@pytest.mark.parametrize("name", schema_names())
def test_a_json_schema_breaks_nobody(name: str) -> None:
    """Whoever holds the released schema can go on with it."""
    old, new = released(name), NOW[name]
    assert not breaks(old, new, direction(name.split(".")[0]), (old, new))


def topic_breaks(old: Json, new: Json) -> list[str]:
    """What is broken of addresses, messages, their content types, values, headers and keys."""
    found: list[str] = []
    for name, channel in old["channels"].items():
        if new["channels"].get(name, {}).get("address") != channel["address"]:
            found.append(f"{name} has no longer the topic {channel['address']}")
        found += [f"{each} is no longer on {name}" for each in lost(channel, new["channels"].get(name, {}), "messages")]
    found += lost(old["components"], new["components"], "messages")
    for name, message in old["components"]["messages"].items():
        other = new["components"]["messages"].get(name, message)
        if other.get("contentType") != message.get("contentType"):
            found.append(f"{name} has another content type")
        for part in (["payload"], ["headers"], ["bindings", "kafka", "key"]):
            found += breaks(field(message, *part), field(other, *part), direction(name), (old, new))
    return found


def lost(old: Json, new: Json, what: str) -> list[str]:
    return sorted(old[what].keys() - new.get(what, {}).keys())


def test_the_topics_break_nobody() -> None:
    """Whoever holds the released AsyncAPI document can go on with it."""
    assert not topic_breaks(released("asyncapi.json"), NOW["asyncapi.json"])


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["channels"]["entities"].update(address="events"),
        lambda d: d["channels"]["deadLetters"]["messages"].pop("retriedMark"),
        lambda d: message(d, "tombstone")["headers"]["properties"].pop("nametag-deleted-at"),
        lambda d: message(d, "deadLetter")["headers"]["required"].remove("nametag-reason"),
        lambda d: message(d, "entityEvent").update(contentType="text/plain"),
        lambda d: message(d, "entityEvent")["bindings"]["kafka"]["key"].update(type="integer"),
        lambda d: message(d, "tombstone")["payload"].update(type="object"),
        lambda d: d["components"]["schemas"]["Entity"]["properties"].pop("start"),
    ],
    ids=["topic", "message", "header", "required header", "content type", "key", "value", "field"],
)
def test_a_broken_topic_is_found(change: Callable[[Json], object]) -> None:
    """Each change that would break a reader of the topics fails the check."""
    new = deepcopy(NOW["asyncapi.json"])
    change(new)
    assert topic_breaks(NOW["asyncapi.json"], new)


def message(document: Json, name: str) -> Json:
    return field(document, "components", "messages", name)


def test_every_document_has_been_released() -> None:
    """A new message is under the rules from its first day on: `make release-schemas`."""
    assert set(NOW) == {path.name for path in RELEASED.iterdir()}


def field(schema: Json, *path: str) -> Json:
    for key in path:
        schema = schema.get(key, {})
    return schema


def rename(schema: Json) -> None:
    schema["properties"]["label"] = schema["properties"].pop("id")
    schema["required"] = ["label" if name == "id" else name for name in schema["required"]]


BREAKING: dict[str, tuple[str, Callable[[Json], object]]] = {
    "an optional field goes": ("entity_event", lambda s: s["properties"].pop("lang")),
    "a field is renamed": ("entity_event", rename),
    "a field of a part goes": ("entity_event", lambda s: field(s, "$defs", "Entity", "properties").pop("start")),
    "what was always there is so no more": ("entity_event", lambda s: s["required"].remove("image")),
    "a type changes": ("entity_event", lambda s: field(s, "properties", "id").update(type="integer")),
    "what was no null may be one": (
        "entity_event",
        lambda s: s["properties"].update(checkpoint={"anyOf": [s["properties"]["checkpoint"], {"type": "null"}]}),
    ),
    "a bound is lifted": (
        "entity_event",
        lambda s: field(s, "$defs", "Entity", "properties", "confidence").pop("maximum"),
    ),
    "another version": ("entity_event", lambda s: field(s, "properties", "schema_version").update(const=2)),
    "a list becomes open": ("dead_letter", lambda s: field(s, "$defs", "Reason").pop("enum")),
    "a moment loses its form": ("tombstone", lambda s: field(s, "properties", "deleted_at")["anyOf"][0].pop("format")),
    "posts need more": ("post", lambda s: s["required"].append("lang")),
    "posts may say less": ("post", lambda s: field(s, "properties", "id")["anyOf"].pop()),
    "a post's text is bounded": ("post", lambda s: field(s, "properties", "text").update(maxLength=280)),
    "a post's field goes": ("post", lambda s: s["properties"].pop("source")),
}

HARMLESS: dict[str, tuple[str, Callable[[Json], object]]] = {
    "a new optional field": ("entity_event", lambda s: s["properties"].update(new={"type": "string"})),
    "a new field that is always there": (
        "entity_event",
        lambda s: (s["properties"].update(new={"type": "string"}), s["required"].append("new")),
    ),
    "a new status": ("entity_event", lambda s: field(s, "$defs", "ImageStatus")["enum"].append("new")),
    "a new reason": ("dead_letter", lambda s: field(s, "$defs", "Reason")["enum"].append("new")),
    "other words": ("entity_event", lambda s: field(s, "properties", "text").update(description="New.")),
    "what was optional is always there": ("entity_event", lambda s: s["required"].append("text")),
    "posts may say more": ("post", lambda s: s["properties"].update(new={"type": "string"})),
    "posts need less": ("post", lambda s: s["required"].remove("text")),
}


@pytest.mark.parametrize(("name", "change"), BREAKING.values(), ids=BREAKING)
def test_a_breaking_change_is_found(name: str, change: Callable[[Json], object]) -> None:
    """Each change that wants a new version fails the check."""
    assert changed(name, change)


@pytest.mark.parametrize(("name", "change"), HARMLESS.values(), ids=HARMLESS)
def test_a_harmless_change_passes(name: str, change: Callable[[Json], object]) -> None:
    """Each change that is allowed within a version passes the check."""
    assert not changed(name, change)


def test_a_keyword_that_the_check_does_not_know_is_a_mistake() -> None:
    """Nothing is passed over."""
    with pytest.raises(ValueError, match="doesn't know multipleOf"):
        changed("entity_event", lambda s: field(s, "properties", "id").update(multipleOf=2))


def changed(name: str, change: Callable[[Json], object]) -> list[str]:
    old = NOW[f"{name}.schema.json"]
    new = deepcopy(old)
    change(new)
    return breaks(old, new, direction(name), (old, new))


def test_our_own_reader_takes_what_later_workers_may_write() -> None:
    """Unknown fields are ignored, an unknown status or type is kept as it is; a newer version is refused."""
    body = {
        "schema_version": 1,
        "id": "1",
        "tagged_at": "2026-11-25T12:00:00+00:00",
        "new": {"a": 1},
        "entities": [
            {"type": "EVENT", "text": "", "confidence": 1, "new": 1}
            | dict.fromkeys(("start", "end", "start_utf16", "end_utf16"), 0)
        ],
        "image": {"status": "watermarked", "new": None},
        "checkpoint": {"id": "c", "variant": "text"},
        "position": {"topic": "posts", "partition": 0, "offset": 0},
    }
    event = EntityEvent.from_json(json.dumps(body).encode())
    assert event.image.status == "watermarked"
    assert event.image.status not in set(ImageStatus)
    assert event.entities[0].type == "EVENT"
    assert json.loads(event.to_json())["image"] == {"status": "watermarked"}
    with pytest.raises(NewerSchema):
        EntityEvent.from_json(json.dumps(body | {"schema_version": 2}).encode())
