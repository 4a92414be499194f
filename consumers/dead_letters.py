"""A message that could not be tagged, as it goes out on the dead-letters topic."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import AwareDatetime, ConfigDict, Field

from consumers import wire
from consumers.errors import Reason
from consumers.history import HISTORY_HEADER, Failure, Header, bounded, cut, history_json, read_history
from consumers.source import Message
from consumers.wire import SCHEMA_VERSION, PositionReport, WireModel, require_defaults

OWN_PREFIX = "nametag-"
"""Begins the names of our own headers; a message's own headers of such names don't outlive a failure."""

MAX_DETAIL_CHARACTERS = 1000
MAX_HEADERS = 64
MAX_HEADERS_BYTES = 16 * 1024


class OriginalHeader(WireModel):
    """A header of the message as it came, such as `traceparent`."""

    name: str
    value_base64: str = Field(description="Its bytes.")


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
    num_tries: int | None = Field(None, ge=2, description="How often the worker tried, where more than once.")
    history: tuple[Failure, ...] = Field(
        (), description="The failures of this message, oldest first and this one last; at most the last 20."
    )
    original_headers: tuple[OriginalHeader, ...] = Field(
        (), description="The headers that the message came with, without those of nametag; at most 64, and 16 KiB."
    )
    num_headers_left_out: int | None = Field(
        None, ge=1, description="How many headers of the message are beyond these limits."
    )
    bytes_left_out: Literal[True] | None = Field(
        None, description="Set where key and bytes are too large for the dead-letters topic, and stand at the position."
    )

    @classmethod
    def of(cls, message: Message, reason: Reason, detail: str, *, num_tries: int = 1) -> Self:
        """The dead letter for `message`, failed now after `num_tries`, with the failures that it tells of."""
        failure = Failure(
            reason=reason,
            detail=detail,
            position=PositionReport.of(message.position),
            failed_at=datetime.now(UTC),
            num_tries=num_tries if num_tries > 1 else None,
        )
        foreign = foreign_headers(message.headers)
        kept = _that_fit(foreign)
        return cls(
            reason=reason,
            detail=cut(detail, MAX_DETAIL_CHARACTERS),
            position=failure.position,
            key_base64=_base64(message.key),
            value_base64=_base64(message.value),
            failed_at=failure.failed_at,
            num_tries=failure.num_tries,
            history=bounded((*read_history(message.headers), failure)),
            original_headers=tuple(
                OriginalHeader(name=name, value_base64=base64.b64encode(value).decode("ascii")) for name, value in kept
            ),
            num_headers_left_out=len(foreign) - len(kept) or None,
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
    def headers(self) -> tuple[Header, ...]:
        """The Kafka headers: those that the message came with, and then our own, each as text in UTF-8."""
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
        if self.num_tries is not None:
            fields["nametag-num-tries"] = str(self.num_tries)
        if self.num_headers_left_out is not None:
            fields["nametag-headers-left-out"] = str(self.num_headers_left_out)
        if self.bytes_left_out:
            fields["nametag-bytes-left-out"] = "true"
        own = [(name, text.encode("utf-8", "backslashreplace")) for name, text in fields.items()]
        if self.history:
            own.append((HISTORY_HEADER, history_json(self.history)))
        # A letter without its bytes has to be small: the headers stand with them, where the message came from.
        original = () if self.bytes_left_out else self.original_headers
        return (*((header.name, base64.b64decode(header.value_base64)) for header in original), *own)

    def to_json(self) -> bytes:
        """One line of JSON, as in `schemas/dead_letter.schema.json`."""
        return wire.dumps(self.model_dump(exclude_none=True))


def foreign_headers(headers: Sequence[Header]) -> tuple[Header, ...]:
    """Those of `headers` that are not nametag's own."""
    return tuple(header for header in headers if not header[0].startswith(OWN_PREFIX))


def _that_fit(headers: Sequence[Header]) -> tuple[Header, ...]:
    """The first of `headers`, up to the limits; one that is too large by itself doesn't cost those after it."""
    kept: list[Header] = []
    room = MAX_HEADERS_BYTES
    for name, value in headers:
        num_bytes = len(name.encode("utf-8", "replace")) + len(value)
        if num_bytes <= room and len(kept) < MAX_HEADERS:
            kept.append((name, value))
            room -= num_bytes
    return tuple(kept)


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode("ascii")
