"""A tagged post, as it goes out on the entities topic."""

from bisect import bisect_left
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, ConfigDict, Field, field_validator

from consumers import wire
from consumers.image_status import ImageStatus
from consumers.wire import MAX_OFFSET, SCHEMA_VERSION, PositionReport, TracedModel, WireModel, require_defaults

REGIONS_PER_SIDE = 7

_Side = Field(min_length=REGIONS_PER_SIDE, max_length=REGIONS_PER_SIDE)
AttentionRow = Annotated[tuple[float, ...], _Side]
AttentionGrid = Annotated[tuple[AttentionRow, ...], _Side]


class RawOffsets(WireModel):
    """Where a mention stands in the text as it was delivered."""

    start: int = Field(ge=0, le=MAX_OFFSET, description="First code point of the mention in `raw_text`.")
    end: int = Field(ge=0, le=MAX_OFFSET, description="One past its last code point.")
    start_utf16: int = Field(ge=0, le=MAX_OFFSET, description="`start` in UTF-16 units.")
    end_utf16: int = Field(ge=0, le=MAX_OFFSET, description="`end` in UTF-16 units.")


class Entity(WireModel):
    """A named entity, and where it stands in the text."""

    type: str = Field(description="PER, LOC, ORG or MISC, or another label of the checkpoint.")
    text: str = Field(description="The words of the mention: text[start:end] of the post.")
    confidence: float = Field(ge=0, le=1, description="Probability of exactly this span and type.")
    start: int = Field(
        ge=0, le=MAX_OFFSET, description="First code point of the mention in the text as its readers see it."
    )
    end: int = Field(ge=0, le=MAX_OFFSET, description="One past its last code point.")
    start_utf16: int = Field(ge=0, le=MAX_OFFSET, description="`start` in UTF-16 units, as JavaScript and Java count.")
    end_utf16: int = Field(ge=0, le=MAX_OFFSET, description="`end` in UTF-16 units.")
    raw: RawOffsets | None = Field(
        None, description="The same in the text as it was delivered, in posts where that is another one."
    )


class Scissors:
    """Cuts the entities out of one text, in time that grows with the text and not with its square."""

    def __init__(self, text: str) -> None:
        self._text = text
        # Places of the characters that are two UTF-16 units; the number before a place is what it is off by.
        self._wide = [] if text.isascii() else [place for place, character in enumerate(text) if character > "\uffff"]

    def cut(self, *, type: str, start: int, end: int, confidence: float, raw: RawOffsets | None = None) -> Entity:
        """The entity at text[start:end], with its UTF-16 offsets; `raw` are those in the text as delivered."""
        return Entity(
            type=type,
            text=self._text[start:end],
            confidence=confidence,
            start=start,
            end=end,
            start_utf16=self._utf16(start),
            end_utf16=self._utf16(end),
            raw=raw,
        )

    def raw(self, start: int, end: int) -> RawOffsets:
        """Of a text as delivered: text[start:end] in both units."""
        return RawOffsets(start=start, end=end, start_utf16=self._utf16(start), end_utf16=self._utf16(end))

    def _utf16(self, offset: int) -> int:
        return offset + bisect_left(self._wide, offset)


class ImageReport(WireModel):
    """What became of the post's picture."""

    status: ImageStatus = Field(description="`used`, `none`, or why the caption was tagged without the picture.")
    url: str | None = Field(None, description="The picture that was chosen.")
    digest: str | None = Field(None, description="SHA-256 of the pixels looked at, in hexadecimal.")
    attention: AttentionGrid | None = Field(
        None,
        description="Where the tagger looked: 7 rows of 7 weights, top left first; they add up to 1.",
    )


class CheckpointName(WireModel):
    """The checkpoint that tagged the post."""

    id: str
    variant: str


class EntityEvent(TracedModel):
    """A tagged post, as it goes out on the entities topic under the post's id as its key."""

    model_config = ConfigDict(json_schema_extra=require_defaults)

    schema_version: Literal[1] = SCHEMA_VERSION
    id: str
    source: str | None = None
    lang: str | None = None
    created_at: AwareDatetime | None = None
    tagged_at: AwareDatetime
    text: str | None = Field(
        None,
        description="The post's text as its readers see it: a tweet's without escapes, and without the mentions and "
        "the link around it that Twitter hides. Absent with include_text = false.",
    )
    raw_text: str | None = Field(None, description="The text as it was delivered, where that is another one.")
    entities: tuple[Entity, ...] = ()
    image: ImageReport
    checkpoint: CheckpointName
    position: PositionReport = Field(description="Where the post stood on its topic.")

    @field_validator("created_at", "tagged_at")
    @classmethod
    def _is_in_utc(cls, value: datetime | None) -> datetime | None:
        if value is not None:
            try:
                value.astimezone(UTC)
            except OverflowError as error:
                raise ValueError("it is in no year of UTC") from error
        return value

    @property
    def headers(self) -> tuple[tuple[str, bytes], ...]:
        """The Kafka headers: what it is, and the trace context that its post came with."""
        return (*EVENT_HEADERS, *self._trace)

    def to_json(self) -> bytes:
        """One line of JSON, as in `schemas/entity_event.schema.json`."""
        return wire.dumps(self.model_dump(exclude_none=True))

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The event that one line of JSON is. Raises `NewerSchema`, and `BadEvent` where it is none."""
        return wire.read(cls, data)


EVENT_HEADERS = (
    ("nametag-schema", b"entity_event"),
    ("nametag-schema-version", str(SCHEMA_VERSION).encode()),
)
