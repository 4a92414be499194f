"""The AsyncAPI 3.0 document of the topics: which messages stand on them, under which keys and headers.

The fields are generated from the models; what no model says (keys, headers, delivery) is written here, and tests hold
it against real messages. `consumers/messages.py` writes the document.
"""

from typing import Any

from pydantic.json_schema import models_json_schema

from consumers.deletes import TOMBSTONE_HEADERS, Tombstone
from consumers.errors import Reason
from consumers.events import EVENT_HEADERS, EntityEvent
from consumers.history import HISTORY_HEADER, MAX_FAILURES, Failure, Header
from consumers.letters import RETRIED_HEADER
from consumers.posts import Post
from consumers.wire import SCHEMA_VERSION

Json = dict[str, Any]

BINDING_VERSION = "0.5.0"

_POST_ID = {"type": "string", "minLength": 1, "maxLength": 256, "description": "The post's id, in UTF-8."}
_NO_VALUE = {"type": "null", "description": "No value at all (a null record), not JSON's `null`."}
_LETTER_KEY = {"type": "string", "format": "binary", "description": "The message's own key; none where it had none."}
_HISTORY = {
    "type": "string",
    "contentMediaType": "application/json",
    "description": f"The failures of the message, oldest first; at most the last {MAX_FAILURES}. A JSON array of "
    "#/components/schemas/Failure.",
}
_READ_COMMITTED = (
    "Read with `isolation.level=read_committed`: a worker's transactions hold the records and its offsets, and those "
    "of an aborted one stay on the topic for readers who don't."
)


def asyncapi_document() -> Json:
    """The document, as it is checked in."""
    return {
        "asyncapi": "3.0.0",
        "id": "urn:nametag",
        "info": {
            "title": "nametag",
            "version": f"{SCHEMA_VERSION}.0.0",
            "description": "Tags names in social-media posts, reading the picture as well as the words. The version "
            "is that of the messages; `README.md` beside this file says what may change within it.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "brokers": {
                "host": "localhost:9092",
                "protocol": "kafka",
                "description": "`kafka.bootstrap_servers` of the worker.",
            }
        },
        "channels": _channels(),
        "operations": _operations(),
        "components": {"messages": _messages(), "schemas": _schemas()},
    }


def _channels() -> Json:
    return {
        "posts": _channel(
            "posts",
            "Posts to tag, and what takes them back. Under the post's id as the key, all that is sent of one post is "
            "on one partition, and done in that order; the key is read only where there is no value.",
            "post",
            "tweet",
            "delete",
            "notice",
        ),
        "entities": _channel(
            "entities",
            "What was found in each post, under the post's id: an event, and a tombstone once the post was taken back. "
            "Each post has one record here or on the dead letters' topic, in the order of its partition, unless it was "
            "deleted before; one that is sent again has another, and the last counts. "
            f"{_READ_COMMITTED}",
            "entityEvent",
            "tombstone",
        ),
        "deadLetters": _channel(
            "dead-letters",
            "What can't be tagged, and marks of what was put back. A record with the header "
            f"`{RETRIED_HEADER}` is a mark, any other a letter. {_READ_COMMITTED} Compaction would remove letters, so "
            "the topic keeps by age.",
            "deadLetter",
            "retriedMark",
            topicConfiguration={"cleanup.policy": ["delete"]},
        ),
    }


def _channel(topic: str, description: str, *messages: str, **binding: object) -> Json:
    return {
        "address": topic,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {"kafka": {"topic": topic, **binding, "bindingVersion": BINDING_VERSION}},
    }


def _operations() -> Json:
    group = {"type": "string", "default": "nametag", "description": "`kafka.group_id` of the worker."}
    return {
        "receivePosts": {
            "action": "receive",
            "channel": {"$ref": "#/channels/posts"},
            "summary": "Read the posts; the workers of a group share the partitions.",
            "bindings": {"kafka": {"groupId": group, "bindingVersion": BINDING_VERSION}},
        },
        "sendEntities": {
            "action": "send",
            "channel": {"$ref": "#/channels/entities"},
            "summary": "Write an event for each post, and a tombstone for one that was taken back: exactly once, in "
            'the transaction of the offsets, or with `delivery = "at_least_once"` at least once.',
        },
        "sendDeadLetters": {
            "action": "send",
            "channel": {"$ref": "#/channels/deadLetters"},
            "summary": "Write what can't be tagged, in the same transaction; `nametag dlq retry` writes the marks, in "
            "that of what it puts back.",
        },
    }


def _messages() -> Json:
    history = _headers({HISTORY_HEADER: {**_HISTORY, "description": "Set by `nametag dlq retry`; kept as it is."}})
    return {
        "post": {
            "title": "A post",
            "contentType": "application/json",
            "headers": history,
            "payload": {"$ref": "#/components/schemas/Post"},
            "bindings": _key({**_POST_ID, "description": "Not read; the post's id keeps its messages in order."}),
        },
        "tweet": {
            "title": "A tweet of Twitter's API v1.1",
            "description": "Told from a post by `id_str`, or by `user` and `entities`. Its fields are those of "
            "Twitter's data dictionary.",
            "contentType": "application/json",
            "headers": history,
            "payload": {"type": "object"},
            "bindings": _key({**_POST_ID, "description": "Not read; the tweet's id keeps its messages in order."}),
        },
        "delete": {
            "title": "That a post is taken back",
            "description": "As is the custom on Kafka. The post may be sent again.",
            "payload": _NO_VALUE,
            "bindings": _key(_POST_ID),
        },
        "notice": {
            "title": "A notice of Twitter's stream",
            "description": "An object with one key. `delete` takes a post back for good, and so does `status_withheld` "
            "where it is withheld everywhere; others, such as `limit`, are passed over.",
            "contentType": "application/json",
            "payload": {"type": "object"},
            "bindings": _key({**_POST_ID, "description": "Not read; the post's id keeps its messages in order."}),
            "examples": [{"payload": {"delete": {"status": {"id_str": "17"}, "timestamp_ms": "1764115200000"}}}],
        },
        "entityEvent": {
            "title": "A tagged post",
            "contentType": "application/json",
            "headers": _fixed_headers(EVENT_HEADERS, _TRACE),
            "payload": {"$ref": "#/components/schemas/EntityEvent"},
            "bindings": _key(_POST_ID),
        },
        "tombstone": {
            "title": "That a post is no more",
            "description": "What was learnt of the post has to go. In files of JSON lines, which have neither keys "
            "nor headers, it is #/components/schemas/Tombstone.",
            "headers": _fixed_headers(
                TOMBSTONE_HEADERS,
                {
                    "nametag-deleted-at": {
                        "type": "string",
                        "format": "date-time",
                        "description": "When the post was taken back, where that was told.",
                    },
                    **_position("the delete"),
                    **_TRACE,
                },
            ),
            "payload": _NO_VALUE,
            "bindings": _key(_POST_ID),
        },
        "deadLetter": {
            "title": "A message that can't be tagged",
            "description": "The message as it came, with its key and its headers; nametag's own headers stand behind "
            "them, and where a name is there twice, the last counts. `dead_letter.schema.json` is its form in files.",
            "contentType": "application/octet-stream",
            "headers": _letter_headers(),
            "payload": {
                "type": "string",
                "format": "binary",
                "description": "The bytes of the message, whatever they are; empty or null where it had none.",
            },
            "bindings": _key(_LETTER_KEY),
        },
        "retriedMark": {
            "title": "That a dead letter was put back",
            "description": "Written by `nametag dlq retry` behind the letter in its partition, with the letter's key.",
            "headers": _headers(
                {
                    RETRIED_HEADER: {
                        "type": "string",
                        "pattern": "^.+@[0-9]+$",
                        "description": "The letter's position, `topic[partition]@offset`.",
                    }
                },
                required=[RETRIED_HEADER],
            ),
            "payload": {"type": "null", "description": "No value; an empty one where there is no key either."},
            "bindings": _key(_LETTER_KEY),
        },
    }


def _letter_headers() -> Json:
    always: Json = {
        "nametag-schema": {"type": "string", "const": "dead_letter"},
        "nametag-schema-version": {"type": "string", "const": str(SCHEMA_VERSION)},
        "nametag-reason": {"type": "string", "enum": [reason.value for reason in Reason], "description": "Why."},
        "nametag-detail": {"type": "string", "description": "What was wrong, in a sentence."},
        **_position("the message"),
        "nametag-failed-at": {"type": "string", "format": "date-time", "description": "When it failed."},
        HISTORY_HEADER: _HISTORY,
    }
    sometimes: Json = {
        "nametag-num-tries": _number("How often the worker tried, where more than once."),
        "nametag-headers-left-out": _number("How many of the message's own headers are beyond 64, or 16 KiB."),
        "nametag-bytes-left-out": {
            "type": "string",
            "const": "true",
            "description": "Set where key, value and headers are too large for this topic, and are only where the "
            "message stood.",
        },
    }
    return _headers({**always, **sometimes}, required=list(always))


def _position(whose: str) -> Json:
    return {
        "nametag-topic": {"type": "string", "description": f"The topic that {whose} came on."},
        "nametag-partition": _number("Its partition there."),
        "nametag-offset": _number("Its offset there."),
    }


def _number(description: str) -> Json:
    return {"type": "string", "pattern": "^[0-9]+$", "description": description}


_TRACE: Json = {
    "traceparent": {
        "type": "string",
        "description": "The W3C trace context of the post, where it came with one.",
    },
    "tracestate": {"type": "string", "description": "What stands beside it."},
}


def _fixed_headers(fixed: tuple[Header, ...], others: Json | None = None) -> Json:
    constants = {name: {"type": "string", "const": value.decode("ascii")} for name, value in fixed}
    return _headers({**constants, **(others or {})}, required=list(constants))


def _headers(properties: Json, required: list[str] | None = None) -> Json:
    """Each value is text in UTF-8. Headers that aren't named here may be there too."""
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def _key(schema: Json) -> Json:
    return {"kafka": {"key": schema, "bindingVersion": BINDING_VERSION}}


def _schemas() -> Json:
    """The models, and all that they are made of."""
    _, schemas = models_json_schema(
        [
            (Post, "validation"),
            (EntityEvent, "serialization"),
            (Tombstone, "serialization"),
            (Failure, "serialization"),
        ],
        ref_template="#/components/schemas/{model}",
    )
    definitions: Json = schemas["$defs"]
    return definitions
