"""What all messages on the wire share: JSON, the models' base, and positions.

JSON by orjson, and by the standard library for the lone surrogates that orjson refuses.
"""

import json
from datetime import datetime
from typing import Any, Literal, Self, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from consumers.errors import BadEvent, NewerSchema
from consumers.source import Position
from consumers.traces import Header

SCHEMA_VERSION: Literal[1] = 1

SAFE_DEPTH = 250
"""So deeply nested, JSON can be written by whichever of the two."""

_Written = TypeVar("_Written", bound="WireModel")


MAX_OFFSET = 2**63 - 1
"""Kafka's offsets have 64 bits, and so have the columns that others keep numbers in."""


class WireModel(BaseModel):
    """A message on the wire: frozen; fields that we don't know are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class TracedModel(WireModel):
    """A message that we write, with the trace context of what it is about: headers on Kafka, and no field of it."""

    _trace: tuple[Header, ...] = PrivateAttr(())

    def traced(self, trace: tuple[Header, ...]) -> Self:
        """This message, which `trace` goes along with from now on."""
        self._trace = trace
        return self


class PositionReport(WireModel):
    """Where a message stood on its topic."""

    topic: str
    partition: int = Field(ge=0, le=MAX_OFFSET)
    offset: int = Field(ge=0, le=MAX_OFFSET)

    @classmethod
    def of(cls, position: Position) -> Self:
        """The same position, as it is written in messages."""
        partition = position.partition
        return cls(topic=partition.topic, partition=partition.number, offset=position.offset)


def require_defaults(schema: dict[str, Any]) -> None:
    """For `json_schema_extra` of a message that we write: what is never left out is required."""
    # They have defaults, but only None is left out of what is written.
    written = [name for name, field in schema["properties"].items() if field.get("default") is not None]
    schema["required"] = [*written, *schema["required"]]


def loads(data: bytes) -> Any:
    """Parse JSON. Raises a ValueError on anything that is not strict JSON in UTF-8."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        # Half an emoji ("\ud83d") is no Unicode, yet real posts hold it; the standard library reads it.
        if b"\\u" not in data:
            raise
        try:
            return json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def dumps(value: Any) -> bytes:
    """Write `value` as one line of JSON; lone surrogates are escaped, so that the bytes are UTF-8.

    Raises a ValueError where it is nested more deeply than can be written.
    """
    try:
        return orjson.dumps(value)
    except (TypeError, UnicodeEncodeError):
        try:
            return json.dumps(value, default=_write, separators=(",", ":")).encode("ascii")
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def _can_be_written(value: object) -> bool:
    try:
        dumps(value)
    except ValueError:
        return False
    return True


def read(model: type[_Written], data: bytes) -> _Written:
    """The message of ours that one line of JSON is; fields that we don't know are ignored.

    Raises `NewerSchema`, and `BadEvent` where it is no such message.
    """
    try:
        body = loads(data)
    except ValueError:
        raise BadEvent("it is no JSON") from None
    if not isinstance(body, dict):
        raise BadEvent("it is no JSON object")
    # What can be read can be nested more deeply than what can be written again, as those who pass it on do.
    if data.count(b"[") + data.count(b"{") > SAFE_DEPTH and not _can_be_written(body):
        raise BadEvent("it is nested too deeply")
    version = body.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise NewerSchema(f"schema version {version}", SCHEMA_VERSION)
    if version is None or isinstance(version, bool):
        # The model has a default, for what we write; what we read has to say it.
        raise BadEvent("it has no schema_version")
    try:
        return model.model_validate(body)
    except ValidationError as error:
        # Without the input: an error must not carry a post's text into logs.
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise BadEvent(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _write(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} can't be written as JSON")
