"""A message that could not be tagged, as it goes out on the dead-letters topic."""

import base64
from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import AwareDatetime, ConfigDict, Field

from consumers import wire
from consumers.errors import Reason
from consumers.source import Message
from consumers.wire import SCHEMA_VERSION, PositionReport, WireModel, require_defaults


class DeadLetter(WireModel):
    """A message that could not be tagged.

    On Kafka the original bytes are the value and the other fields are headers, so that the
    letter can be put back as it was; a JSONL file has this record.
    """

    model_config = ConfigDict(json_schema_extra=require_defaults)

    schema_version: Literal[1] = SCHEMA_VERSION
    reason: Reason
    detail: str = Field(description="What was wrong, in a sentence.")
    position: PositionReport
    key_base64: str | None = None
    value_base64: str | None = Field(None, description="The original bytes.")
    failed_at: AwareDatetime

    @classmethod
    def of(cls, message: Message, reason: Reason, detail: str) -> Self:
        """The dead letter for `message`, failed now."""
        return cls(
            reason=reason,
            detail=detail,
            position=PositionReport.of(message.position),
            key_base64=_base64(message.key),
            value_base64=_base64(message.value),
            failed_at=datetime.now(UTC),
        )

    @property
    def key(self) -> bytes | None:
        """The key of the message as it came."""
        return None if self.key_base64 is None else base64.b64decode(self.key_base64)

    @property
    def value(self) -> bytes | None:
        """The value of the message as it came."""
        return None if self.value_base64 is None else base64.b64decode(self.value_base64)

    @property
    def headers(self) -> tuple[tuple[str, bytes], ...]:
        """The Kafka headers: reason, detail and position, each as text in UTF-8."""
        position = self.position
        fields = {
            "nametag-schema": "dead_letter",
            "nametag-schema-version": str(self.schema_version),
            "nametag-reason": self.reason,
            "nametag-detail": self.detail,
            "nametag-topic": position.topic,
            "nametag-partition": str(position.partition),
            "nametag-offset": str(position.offset),
            "nametag-failed-at": self.failed_at.isoformat(),
        }
        return tuple((name, text.encode("utf-8", "backslashreplace")) for name, text in fields.items())

    def to_json(self) -> bytes:
        """One line of JSON, as in `schemas/dead_letter.schema.json`."""
        return wire.dumps(self.model_dump(exclude_none=True))


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode("ascii")
