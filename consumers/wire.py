"""What all messages on the wire share: JSON, the models' base, and positions.

JSON by orjson, and by the standard library for the lone surrogates that orjson refuses.
"""

import json
from datetime import datetime
from typing import Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field

from consumers.source import Position

SCHEMA_VERSION: Literal[1] = 1


class WireModel(BaseModel):
    """A message on the wire: frozen; fields that we don't know are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class PositionReport(WireModel):
    """Where a message stood on its topic."""

    topic: str
    partition: int = Field(ge=0)
    offset: int = Field(ge=0)

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
    """Write `value` as one line of JSON; lone surrogates are escaped, so that the bytes are UTF-8."""
    try:
        return orjson.dumps(value)
    except (TypeError, UnicodeEncodeError):
        return json.dumps(value, default=_write, separators=(",", ":")).encode("ascii")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _write(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} can't be written as JSON")
